//! Parameters: from JSON straight into a message.

use std::{collections::BTreeSet, fmt};

use base64::{Engine, engine::general_purpose::STANDARD};
use capnp::{
    any_pointer,
    private::layout::{ElementSize, ListBuilder, PointerBuilder, StructSize},
};
use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::{
    JsonError, MAX_DEPTH, MAX_PARAMS_BYTES, Method, Problem, Schemas,
    node::{Default, Field, FieldKind, Struct, Type},
    parse,
    raw::{self, Slots, SlotsList, Width, WritePointer},
    scalar::{Given, mismatch},
};

type Result<T> = std::result::Result<T, JsonError>;

/// The most elements that a list of Cap'n Proto has.
const MAX_ELEMENTS: u32 = (1 << 29) - 1;

impl Schemas {
    /// Writes the parameters of a call into a message that is empty. `null` stands for an empty
    /// object: all defaults.
    ///
    /// After an error the message holds a part of the parameters: do not send it.
    pub fn write_params(
        &self,
        method: &Method,
        params: &Value,
        target: any_pointer::Builder<'_>,
    ) -> Result<()> {
        self.write_struct(method.params, params, target)
    }

    /// Writes a struct, by its id, into a message that is empty.
    pub fn write_struct(
        &self,
        struct_id: u64,
        value: &Value,
        target: any_pointer::Builder<'_>,
    ) -> Result<()> {
        self.write_source(struct_id, value, target)
    }

    /// Writes a struct that is given as text, without a tree of its values: a JSON object, or no text at
    /// all for an empty one.
    pub(super) fn write_text(
        &self,
        struct_id: u64,
        text: &str,
        target: any_pointer::Builder<'_>,
    ) -> Result<()> {
        let text = if text.is_empty() { "{}" } else { text };
        self.write_source(struct_id, text, target)
    }

    fn write_source(
        &self,
        struct_id: u64,
        source: &(impl Source + ?Sized),
        target: any_pointer::Builder<'_>,
    ) -> Result<()> {
        // Writing over a capability makes `capnp` panic.
        if !target.is_null() {
            return Err(Problem::AlreadyWritten.into());
        }
        let lengths = source.lengths()?;
        let WritePointer(mut pointer) = target.get_as()?;
        let mut writer = Writer {
            schemas: self,
            words_left: MAX_PARAMS_BYTES as u64 / 8,
            depth: 0,
            lengths: lengths.into_iter(),
            refused: None,
        };
        let ty = Type::Struct(struct_id);
        let whole = writer.put_in(Place::Pointer(pointer.reborrow(), &ty));
        source
            .read(whole)
            .map_err(|error| writer.refused.unwrap_or_else(|| not_json(&error)))
    }
}

/// JSON that is read twice: a list of Cap'n Proto has its length before its elements.
trait Source {
    fn read<'de, S: DeserializeSeed<'de>>(&'de self, seed: S) -> serde_json::Result<S::Value>;

    /// The lengths of all lists, in the order in which they begin.
    fn lengths(&self) -> Result<Vec<u32>> {
        let mut lengths = Vec::new();
        self.read(Measure(&mut lengths))
            .map_err(|error| not_json(&error))?;
        Ok(lengths)
    }
}

impl Source for Value {
    fn read<'de, S: DeserializeSeed<'de>>(&'de self, seed: S) -> serde_json::Result<S::Value> {
        seed.deserialize(self)
    }
}

impl Source for str {
    fn read<'de, S: DeserializeSeed<'de>>(&'de self, seed: S) -> serde_json::Result<S::Value> {
        let mut text = serde_json::Deserializer::from_str(self);
        let value = seed.deserialize(&mut text)?;
        text.end()?;
        Ok(value)
    }

    fn lengths(&self) -> Result<Vec<u32>> {
        let mut lengths = Vec::new();
        let kind = self.read(Measure(&mut lengths));
        match kind.map_err(|error| not_json(&error))? {
            Kind::Object => {}
            Kind::Other => return Err(Problem::NoObject.into()),
        }
        match parse::rounded_integer(self) {
            Some(integer) => Err(Problem::Rounded(integer.to_owned()).into()),
            None => Ok(lengths),
        }
    }
}

fn not_json(error: &serde_json::Error) -> JsonError {
    Problem::NotJson(error.to_string()).into()
}

/// The kinds of values, as far as [`Measure`] tells them apart.
enum Kind {
    Object,
    Other,
}

/// Notes the lengths of lists.
struct Measure<'a>(&'a mut Vec<u32>);

impl<'de> DeserializeSeed<'de> for Measure<'_> {
    type Value = Kind;

    fn deserialize<D: Deserializer<'de>>(self, source: D) -> std::result::Result<Kind, D::Error> {
        source.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Measure<'_> {
    type Value = Kind;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> std::result::Result<Kind, E> {
        Ok(Kind::Other)
    }

    fn visit_bool<E>(self, _: bool) -> std::result::Result<Kind, E> {
        Ok(Kind::Other)
    }

    fn visit_i64<E>(self, _: i64) -> std::result::Result<Kind, E> {
        Ok(Kind::Other)
    }

    fn visit_u64<E>(self, _: u64) -> std::result::Result<Kind, E> {
        Ok(Kind::Other)
    }

    fn visit_f64<E>(self, _: f64) -> std::result::Result<Kind, E> {
        Ok(Kind::Other)
    }

    fn visit_str<E>(self, _: &str) -> std::result::Result<Kind, E> {
        Ok(Kind::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<Kind, A::Error> {
        let at = self.0.len();
        self.0.push(0);
        let mut length = 0u32;
        while seq.next_element_seed(Measure(self.0))?.is_some() {
            length = length.saturating_add(1);
        }
        self.0[at] = length;
        Ok(Kind::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Kind, A::Error> {
        while map.next_key::<IgnoredAny>()?.is_some() {
            map.next_value_seed(Measure(self.0))?;
        }
        Ok(Kind::Object)
    }
}

struct Writer<'s> {
    schemas: &'s Schemas,
    words_left: u64,
    depth: usize,
    lengths: std::vec::IntoIter<u32>,
    /// Why a value was refused, and where as far as that is known by now. `serde` passes on only a text.
    refused: Option<JsonError>,
}

impl<'s> Writer<'s> {
    fn put_in<'w, 'a>(&'w mut self, place: Place<'a>) -> IntoPlace<'w, 's, 'a> {
        IntoPlace {
            writer: self,
            place,
        }
    }

    fn spend(&mut self, words: u64) -> Result<()> {
        self.words_left = self
            .words_left
            .checked_sub(words)
            .ok_or(Problem::LimitExceeded("MAX_PARAMS_BYTES"))?;
        Ok(())
    }

    fn deeper(&mut self) -> Result<()> {
        if self.depth == MAX_DEPTH {
            return Err(Problem::LimitExceeded("MAX_DEPTH").into());
        }
        self.depth += 1;
        Ok(())
    }

    fn structure(&self, id: u64) -> Result<&'s Struct> {
        self.schemas
            .structure(id)
            .ok_or_else(|| Problem::Schema(format!("no struct {}", self.schemas.name(id))).into())
    }

    /// Passes on what was done, or says to `serde` that it was refused.
    fn check<T, E: de::Error>(&mut self, done: Result<T>) -> std::result::Result<T, E> {
        done.map_err(|refused| {
            self.refused = Some(refused);
            E::custom("refused")
        })
    }

    /// Adds to where a value was refused.
    fn inside<T, E>(
        &mut self,
        done: std::result::Result<T, E>,
        place: impl FnOnce(JsonError) -> JsonError,
    ) -> std::result::Result<T, E> {
        if done.is_err() {
            self.refused = self.refused.take().map(place);
        }
        done
    }

    /// A text behind a pointer, which is null.
    fn text(&mut self, mut pointer: PointerBuilder<'_>, ty: &Type, text: &str) -> Result<()> {
        match ty {
            Type::Text => {
                self.spend((text.len() as u64 + 1).div_ceil(8))?;
                pointer.set_text(text.into());
            }
            Type::Data => {
                let data = STANDARD
                    .decode(text)
                    .map_err(|_| mismatch("Data, in standard base64", Given::Text(text)))?;
                self.spend((data.len() as u64).div_ceil(8))?;
                pointer.set_data(&data);
            }
            _ => return Err(unfit(ty, Given::Text(text)).into()),
        }
        Ok(())
    }

    fn list<'de, A: SeqAccess<'de>>(
        &mut self,
        pointer: PointerBuilder<'_>,
        ty: &Type,
        mut seq: A,
    ) -> std::result::Result<(), A::Error> {
        let count = self.lengths.next().unwrap_or(0);
        let begun = self.begin_list(pointer, ty, count);
        let mut list = self.check(begun)?;
        for i in 0..count {
            let mut bits = None;
            let place = match &mut list {
                List::Scalars(..) => Place::Scalar {
                    ty,
                    bits: &mut bits,
                    skips_null: false,
                },
                List::Structs(list, structure) => Place::Struct(list.get(i), structure),
                List::Pointers(list) => Place::Pointer(list.reborrow().get_pointer_element(i), ty),
            };
            let next = seq.next_element_seed(self.put_in(place));
            if self
                .inside(next, |error| error.in_element(i as usize))?
                .is_none()
            {
                break;
            }
            if let (List::Scalars(list, width), Some(bits)) = (&list, bits) {
                raw::set_element(list, *width, i, bits);
            }
        }
        self.depth -= 1;
        Ok(())
    }

    fn begin_list<'a>(
        &mut self,
        pointer: PointerBuilder<'a>,
        ty: &Type,
        count: u32,
    ) -> Result<List<'a, 's>> {
        self.deeper()?;
        if count > MAX_ELEMENTS {
            return Err(Problem::LimitExceeded("MAX_PARAMS_BYTES").into());
        }
        Ok(if let Some(width) = ty.width() {
            self.spend(width.words(count as usize))?;
            List::Scalars(pointer.init_list(width.element_size(), count), width)
        } else if let Type::Struct(id) = ty {
            let structure = self.structure(*id)?;
            let size = size(structure);
            self.spend(words(size).saturating_mul(count.into()).saturating_add(1))?;
            List::Structs(SlotsList::init(pointer, count, size)?, structure)
        } else {
            self.spend(count.into())?;
            List::Pointers(pointer.init_list(ElementSize::Pointer, count))
        })
    }

    fn members<'de, A: MapAccess<'de>>(
        &mut self,
        mut slots: Slots<'_>,
        structure: &Struct,
        mut map: A,
    ) -> std::result::Result<(), A::Error> {
        let deeper = self.deeper();
        self.check(deeper)?;
        let mut given = BTreeSet::new();
        let mut chosen: Option<&Field> = None;
        while let Some(name) = map.next_key_seed(Name(structure))? {
            let found = self.member(&mut slots, structure, name, &mut given, &mut chosen);
            let field = self.check(found)?;
            let done = self.value(slots.reborrow(), field, &mut map);
            self.inside(done, |error| error.in_field(&field.name))?;
        }
        self.depth -= 1;
        Ok(())
    }

    /// The field of that name, which has no value yet.
    fn member<'a>(
        &self,
        slots: &mut Slots<'_>,
        structure: &'a Struct,
        name: std::result::Result<usize, String>,
        given: &mut BTreeSet<usize>,
        chosen: &mut Option<&'a Field>,
    ) -> Result<&'a Field> {
        let at = name.map_err(|name| {
            let known = structure.fields.iter().map(|it| it.name.clone());
            let known = known.collect();
            JsonError::from(Problem::UnknownField { known }).in_field(&name)
        })?;
        let field = &structure.fields[at];
        if !given.insert(at) {
            return Err(JsonError::from(Problem::Twice).in_field(&field.name));
        }
        if let Some(discriminant) = field.discriminant {
            if let Some(other) = chosen {
                let names = (other.name.clone(), field.name.clone());
                return Err(Problem::UnionConflict(names.0, names.1).into());
            }
            *chosen = Some(field);
            slots.set(
                Width::W16,
                structure.discriminant_offset,
                discriminant.into(),
            )?;
        }
        Ok(field)
    }

    fn value<'de, A: MapAccess<'de>>(
        &mut self,
        mut slots: Slots<'_>,
        field: &Field,
        map: &mut A,
    ) -> std::result::Result<(), A::Error> {
        match &field.kind {
            FieldKind::Group(id) => {
                let group = self.structure(*id);
                let group = self.check(group)?;
                map.next_value_seed(self.put_in(Place::Struct(slots.reborrow(), group)))
            }
            FieldKind::Slot {
                offset,
                ty,
                default,
                ..
            } => match ty.width() {
                None => {
                    let pointer = slots.pointer(*offset).map_err(JsonError::from);
                    let pointer = self.check(pointer)?;
                    map.next_value_seed(self.put_in(Place::Pointer(pointer, ty)))
                }
                Some(width) => {
                    let mut bits = None;
                    map.next_value_seed(self.put_in(Place::Scalar {
                        ty,
                        bits: &mut bits,
                        skips_null: true,
                    }))?;
                    let Some(bits) = bits else { return Ok(()) };
                    let default = match default {
                        Default::Bits(bits) => *bits,
                        _ => 0,
                    };
                    let set = slots.set(width, *offset, bits ^ default);
                    self.check(set.map_err(JsonError::from))
                }
            },
        }
    }
}

/// A list that is being written.
enum List<'a, 's> {
    Scalars(ListBuilder<'a>, Width),
    Structs(SlotsList<'a>, &'s Struct),
    Pointers(ListBuilder<'a>),
}

/// The name of a member: the index of its field, or the name if there is none.
struct Name<'a>(&'a Struct);

impl<'de> DeserializeSeed<'de> for Name<'_> {
    type Value = std::result::Result<usize, String>;

    fn deserialize<D: Deserializer<'de>>(
        self,
        source: D,
    ) -> std::result::Result<Self::Value, D::Error> {
        source.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = std::result::Result<usize, String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> std::result::Result<Self::Value, E> {
        let known = self.0.by_name.get(name).copied();
        Ok(known.ok_or_else(|| name.to_owned()))
    }
}

/// Where a value goes. Nothing is there yet, and `null` leaves it so.
enum Place<'a> {
    Pointer(PointerBuilder<'a>, &'a Type),
    /// An element of a list, or a group.
    Struct(Slots<'a>, &'a Struct),
    Scalar {
        ty: &'a Type,
        bits: &'a mut Option<u64>,
        /// Whether `null` stands for the default, of whatever type it is.
        skips_null: bool,
    },
}

struct IntoPlace<'w, 's, 'a> {
    writer: &'w mut Writer<'s>,
    place: Place<'a>,
}

impl IntoPlace<'_, '_, '_> {
    fn scalar<E: de::Error>(self, given: Given<'_>) -> std::result::Result<(), E> {
        let IntoPlace { writer, place } = self;
        let done = match (place, given) {
            (Place::Pointer(..) | Place::Struct(..), Given::Null) => Ok(()),
            (
                Place::Scalar {
                    skips_null: true, ..
                },
                Given::Null,
            ) => Ok(()),
            (Place::Scalar { ty, bits, .. }, given) => {
                let encoded = writer.schemas.encode(ty, given);
                encoded
                    .map(|encoded| *bits = Some(encoded))
                    .map_err(JsonError::from)
            }
            (Place::Pointer(pointer, ty), Given::Text(text)) => writer.text(pointer, ty, text),
            (Place::Pointer(_, ty), given) => Err(unfit(ty, given).into()),
            (Place::Struct(..), given) => Err(mismatch("an object", given).into()),
        };
        writer.check(done)
    }
}

impl<'de> DeserializeSeed<'de> for IntoPlace<'_, '_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, source: D) -> std::result::Result<(), D::Error> {
        source.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for IntoPlace<'_, '_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: de::Error>(self) -> std::result::Result<(), E> {
        self.scalar(Given::Null)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> std::result::Result<(), E> {
        self.scalar(Given::Bool(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> std::result::Result<(), E> {
        self.scalar(Given::Integer(value.into()))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> std::result::Result<(), E> {
        self.scalar(Given::Integer(value.into()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> std::result::Result<(), E> {
        self.scalar(Given::Float(value))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> std::result::Result<(), E> {
        self.scalar(Given::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> std::result::Result<(), A::Error> {
        match self.place {
            Place::Pointer(pointer, Type::List(element)) => self.writer.list(pointer, element, seq),
            place => IntoPlace { place, ..self }.scalar(Given::List),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> std::result::Result<(), A::Error> {
        let writer = self.writer;
        match self.place {
            Place::Pointer(pointer, Type::Struct(id)) => {
                let structure = writer.structure(*id);
                let structure = writer.check(structure)?;
                let size = size(structure);
                let spent = writer.spend(words(size));
                writer.check(spent)?;
                writer.members(Slots::init(pointer, size), structure, map)
            }
            Place::Struct(slots, structure) => writer.members(slots, structure, map),
            place => writer.put_in(place).scalar(Given::Object),
        }
    }
}

/// The problem of a value that does not fit the type of a pointer.
fn unfit(ty: &Type, given: Given<'_>) -> Problem {
    match ty {
        Type::Data => mismatch("Data, as a string of standard base64", given),
        Type::List(_) => mismatch("a list", given),
        Type::Struct(_) => mismatch("an object", given),
        Type::Interface(_) | Type::Capability => Problem::Unsupported("a capability"),
        Type::AnyPointer => Problem::Unsupported("an AnyPointer"),
        ty => mismatch(format!("{ty:?}"), given),
    }
}

fn size(structure: &Struct) -> StructSize {
    StructSize {
        data: structure.data_words,
        pointers: structure.pointers,
    }
}

fn words(size: StructSize) -> u64 {
    u64::from(size.data) + u64::from(size.pointers)
}
