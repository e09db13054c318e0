//! Parameters: from JSON straight into a message.

use std::fmt;

use capnp::{
    any_pointer,
    private::layout::{ElementSize, ListBuilder, PointerBuilder, StructSize},
};
use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::{
    JsonError, MAX_DEPTH, MAX_PARAMS_BYTES, Method, Problem, Schemas, bytes,
    node::{Struct, Type},
    parse,
    raw::{self, Slots, SlotsList, Width, WritePointer},
    scalar::{Given, mismatch},
};

pub(super) type Result<T> = std::result::Result<T, JsonError>;

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
pub(super) trait Source {
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

pub(super) fn not_json(error: &serde_json::Error) -> JsonError {
    Problem::NotJson(error.to_string()).into()
}

/// The kinds of values, as far as [`Measure`] tells them apart.
pub(super) enum Kind {
    Object,
    Other,
}

/// Notes the lengths of lists.
pub(super) struct Measure<'a>(pub &'a mut Vec<u32>);

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

pub(super) struct Writer<'s> {
    pub schemas: &'s Schemas,
    words_left: u64,
    pub depth: usize,
    pub lengths: std::vec::IntoIter<u32>,
    /// Why a value was refused, and where as far as that is known by now. `serde` passes on only a text.
    refused: Option<JsonError>,
}

impl<'s> Writer<'s> {
    pub(super) fn put_in<'w, 'a>(&'w mut self, place: Place<'a, 's>) -> IntoPlace<'w, 's, 'a> {
        IntoPlace {
            writer: self,
            place,
        }
    }

    pub(super) fn spend(&mut self, words: u64) -> Result<()> {
        self.words_left = self
            .words_left
            .checked_sub(words)
            .ok_or(Problem::LimitExceeded("MAX_PARAMS_BYTES"))?;
        Ok(())
    }

    pub(super) fn deeper(&mut self) -> Result<()> {
        if self.depth == MAX_DEPTH {
            return Err(Problem::LimitExceeded("MAX_DEPTH").into());
        }
        self.depth += 1;
        Ok(())
    }

    pub(super) fn structure(&self, id: u64) -> Result<&'s Struct> {
        self.schemas
            .structure(id)
            .ok_or_else(|| Problem::Schema(format!("no struct {}", self.schemas.name(id))).into())
    }

    /// Passes on what was done, or says to `serde` that it was refused.
    pub(super) fn check<T, E: de::Error>(&mut self, done: Result<T>) -> std::result::Result<T, E> {
        done.map_err(|refused| {
            self.refused = Some(refused);
            E::custom("refused")
        })
    }

    /// Adds to where a value was refused.
    pub(super) fn inside<T, E>(
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
            Type::Data | Type::Hex => {
                let data = bytes::decode(ty, text).ok_or_else(|| unfit(ty, Given::Text(text)))?;
                self.spend((data.len() as u64).div_ceil(8))?;
                pointer.set_data(&data);
            }
            _ => return Err(unfit(ty, Given::Text(text)).into()),
        }
        Ok(())
    }

    /// Data that is given as a list of numbers.
    fn bytes<'de, A: SeqAccess<'de>>(
        &mut self,
        pointer: PointerBuilder<'_>,
        mut seq: A,
    ) -> std::result::Result<(), A::Error> {
        let count = self.lengths.next().unwrap_or(0);
        let spent = if count > MAX_ELEMENTS {
            Err(Problem::LimitExceeded("MAX_PARAMS_BYTES").into())
        } else {
            self.spend(u64::from(count).div_ceil(8))
        };
        self.check(spent)?;
        for (i, byte) in pointer.init_data(count).iter_mut().enumerate() {
            let mut bits = None;
            let place = Place::Scalar {
                ty: &Type::UInt8,
                bits: &mut bits,
                skips_null: false,
            };
            let next = seq.next_element_seed(self.put_in(place));
            self.inside(next, |error| error.in_element(i))?;
            *byte = bits.unwrap_or_default() as u8;
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
}

/// A list that is being written.
enum List<'a, 's> {
    Scalars(ListBuilder<'a>, Width),
    Structs(SlotsList<'a>, &'s Struct),
    Pointers(ListBuilder<'a>),
}

/// Where a value goes. Nothing is there yet, and `null` leaves it so.
pub(super) enum Place<'a, 's> {
    Pointer(PointerBuilder<'a>, &'a Type),
    /// An element of a list, or a group.
    Struct(Slots<'a>, &'s Struct),
    Scalar {
        ty: &'a Type,
        bits: &'a mut Option<u64>,
        /// Whether `null` stands for the default, of whatever type it is.
        skips_null: bool,
    },
    /// The name of the member of a union that is set: its field, by index. `null` says nothing.
    Tag(&'s Struct, &'a mut Option<usize>),
}

pub(super) struct IntoPlace<'w, 's, 'a> {
    writer: &'w mut Writer<'s>,
    place: Place<'a, 's>,
}

impl IntoPlace<'_, '_, '_> {
    fn scalar<E: de::Error>(self, given: Given<'_>) -> std::result::Result<(), E> {
        let IntoPlace { writer, place } = self;
        let done = match (place, given) {
            (Place::Pointer(..) | Place::Struct(..) | Place::Tag(..), Given::Null) => Ok(()),
            (Place::Tag(structure, told), given) => match structure.variant(given) {
                Ok(field) => {
                    *told = Some(field);
                    Ok(())
                }
                Err(problem) => Err(problem.into()),
            },
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
            Place::Pointer(pointer, Type::Data | Type::Hex) => self.writer.bytes(pointer, seq),
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
        Type::Data => mismatch("Data, as a string of base64 or a list of bytes", given),
        Type::Hex => mismatch(
            "Data, as a string of hexadecimal digits or a list of bytes",
            given,
        ),
        Type::List(_) => mismatch("a list", given),
        Type::Struct(_) => mismatch("an object", given),
        Type::Interface(_) | Type::Capability => Problem::Unsupported("a capability"),
        Type::AnyPointer => Problem::Unsupported("an AnyPointer"),
        ty => mismatch(format!("{ty:?}"), given),
    }
}

pub(super) fn size(structure: &Struct) -> StructSize {
    StructSize {
        data: structure.data_words,
        pointers: structure.pointers,
    }
}

pub(super) fn words(size: StructSize) -> u64 {
    u64::from(size.data) + u64::from(size.pointers)
}
