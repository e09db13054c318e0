//! Results: from a message to JSON, a tree of its values or text.

use std::{borrow::Cow, cell::RefCell, io};

use base64::{display::Base64Display, engine::general_purpose::STANDARD};
use capnp::{
    any_pointer, any_pointer_list,
    message::ReaderOptions,
    private::layout::{PointerReader, PointerType, StructReader},
    serialize, struct_list,
    traits::FromPointerReader,
};
use serde::ser::{self, Serialize, SerializeMap, SerializeSeq, Serializer};
use serde_json::{Map, Value, json};

use super::{
    Int64, JsonError, MAX_DEPTH, MAX_JSON_BYTES, Method, Problem, Schemas,
    bytes::Hex,
    node::{Default, Field, FieldKind, Struct, Type},
    raw::{self, AnyStruct, AnyStructReader, ReadPointer, Width},
};

type Result<T> = std::result::Result<T, JsonError>;

/// What a value costs beside its text: about its size in memory.
const VALUE_BYTES: usize = 72;

/// How much JSON a default may come to in a signature, which shows only its start.
const PREVIEW_BYTES: usize = 16 << 10;

impl Schemas {
    /// The results of a call as JSON: always an object.
    pub fn read_results(
        &self,
        method: &Method,
        results: any_pointer::Reader<'_>,
        int64: Int64,
    ) -> Result<Value> {
        if method.is_streaming() && self.structure(method.results).is_none() {
            return Ok(Value::Object(Map::new()));
        }
        self.tree(method.results, results, int64)
    }

    /// The results of a call as JSON text of at most `max_bytes`, without a tree of its values.
    pub fn results_text(
        &self,
        method: &Method,
        results: any_pointer::Reader<'_>,
        int64: Int64,
        max_bytes: usize,
    ) -> Result<String> {
        if method.is_streaming() && self.structure(method.results).is_none() {
            return Ok("{}".to_owned());
        }
        let ReadPointer(pointer) = results.get_as()?;
        let mut text = Limited {
            text: Vec::new(),
            left: max_bytes,
        };
        let written = self.show(MAX_JSON_BYTES, int64, |reader| {
            let item = Item::Struct(method.results, pointer.get_struct(None)?);
            Ok(serde_json::to_writer(&mut text, &reader.item(item)))
        });
        match written {
            Err(_) if text.left == 0 => Err(Problem::LongText(max_bytes).into()),
            Err(error) => Err(error),
            Ok(()) => Ok(String::from_utf8(text.text).expect("JSON is UTF-8")),
        }
    }

    /// A struct, by its id, as JSON: always an object.
    pub fn read_struct(&self, struct_id: u64, source: any_pointer::Reader<'_>) -> Result<Value> {
        self.tree(struct_id, source, Int64::Number)
    }

    fn tree(&self, struct_id: u64, source: any_pointer::Reader<'_>, int64: Int64) -> Result<Value> {
        let ReadPointer(pointer) = source.get_as()?;
        self.show(MAX_JSON_BYTES, int64, |reader| {
            let item = Item::Struct(struct_id, pointer.get_struct(None)?);
            Ok(serde_json::to_value(reader.item(item)))
        })
    }

    pub(super) fn read_default(&self, ty: &Type, default: &Default) -> Result<Value> {
        self.default_within(MAX_JSON_BYTES, ty, default)
    }

    /// The default for a signature: an error if it is long.
    pub(super) fn preview_default(&self, ty: &Type, default: &Default) -> Result<Value> {
        self.default_within(PREVIEW_BYTES, ty, default)
    }

    fn default_within(&self, bytes: usize, ty: &Type, default: &Default) -> Result<Value> {
        self.show(bytes, Int64::Number, |reader| {
            Ok(serde_json::to_value(
                reader.item(Item::Default(ty, default)),
            ))
        })
    }

    fn show<T>(
        &self,
        bytes: usize,
        int64: Int64,
        show: impl FnOnce(&Reader<'_>) -> Result<serde_json::Result<T>>,
    ) -> Result<T> {
        let reader = Reader {
            schemas: self,
            int64,
            state: RefCell::new(State {
                bytes_left: bytes,
                ..State::default()
            }),
        };
        show(&reader)?.map_err(|error| {
            let refused = reader.state.take().refused;
            refused.unwrap_or_else(|| Problem::NotJson(error.to_string()).into())
        })
    }
}

/// A name with a prefix before it.
fn under<'n>(prefix: &str, name: &'n str) -> Cow<'n, str> {
    match prefix {
        "" => name.into(),
        prefix => format!("{prefix}{name}").into(),
    }
}

/// A text that gets only so long: then nothing is left.
struct Limited {
    text: Vec<u8>,
    left: usize,
}

impl io::Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.left.checked_sub(bytes.len()) {
            Some(left) => self.left = left,
            None => {
                self.left = 0;
                return Err(io::ErrorKind::FileTooLarge.into());
            }
        }
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Reader<'s> {
    schemas: &'s Schemas,
    int64: Int64,
    state: RefCell<State>,
}

#[derive(std::default::Default)]
struct State {
    bytes_left: usize,
    depth: usize,
    /// The ids of the structs that are being read.
    inside: Vec<u64>,
    /// Whether one of them was never set.
    inside_null: bool,
    /// Whether they are of a default that the schema gives. Defaults in it are not followed: a type
    /// may be its own default.
    inside_default: bool,
    /// Why a value has no form in JSON, and where as far as that is known by now. `serde` passes on only a
    /// text.
    refused: Option<JsonError>,
}

/// A value of a message that is shown as JSON.
#[derive(Clone, Copy)]
enum Item<'a> {
    Pointer(PointerReader<'a>, &'a Type, &'a Default),
    /// A struct that is set, or a group.
    Struct(u64, StructReader<'a>),
    /// An element of a list of structs.
    Element(u64, StructReader<'a>),
    /// A field that is not on the wire.
    Default(&'a Type, &'a Default),
    Bits(&'a Type, u64),
}

struct Shown<'r, 's, 'a> {
    reader: &'r Reader<'s>,
    item: Item<'a>,
}

impl Serialize for Shown<'_, '_, '_> {
    fn serialize<S: Serializer>(&self, out: S) -> std::result::Result<S::Ok, S::Error> {
        let reader = self.reader;
        match self.item {
            Item::Pointer(pointer, ty, default) => reader.pointer(out, pointer, ty, default),
            Item::Struct(id, of) => reader.structure(out, id, of),
            // What is set inside of a struct that is not, is set.
            Item::Element(id, of) => reader.with_null_as(false, || reader.structure(out, id, of)),
            Item::Default(ty, default) => reader.default(out, ty, default),
            Item::Bits(ty, bits) => reader.scalar(out, ty, bits),
        }
    }
}

impl<'s> Reader<'s> {
    fn item<'r, 'a>(&'r self, item: Item<'a>) -> Shown<'r, 's, 'a> {
        Shown { reader: self, item }
    }

    /// Passes on what was done, or says to `serde` that it was refused.
    fn check<T, E: ser::Error>(&self, done: Result<T>) -> std::result::Result<T, E> {
        done.map_err(|refused| {
            self.state.borrow_mut().refused = Some(refused);
            E::custom("refused")
        })
    }

    /// Adds to where a value was refused.
    fn inside<T, E>(
        &self,
        done: std::result::Result<T, E>,
        place: impl FnOnce(JsonError) -> JsonError,
    ) -> std::result::Result<T, E> {
        if done.is_err() {
            let mut state = self.state.borrow_mut();
            state.refused = state.refused.take().map(place);
        }
        done
    }

    fn spend<E: ser::Error>(&self, bytes: usize) -> std::result::Result<(), E> {
        let left = self.state.borrow().bytes_left.checked_sub(bytes);
        let left = left.ok_or_else(|| Problem::LimitExceeded("MAX_JSON_BYTES").into());
        self.state.borrow_mut().bytes_left = self.check(left)?;
        Ok(())
    }

    fn nested<T, E: ser::Error>(
        &self,
        read: impl FnOnce() -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E> {
        if self.state.borrow().depth == MAX_DEPTH {
            return self.check(Err(Problem::LimitExceeded("MAX_DEPTH").into()));
        }
        self.state.borrow_mut().depth += 1;
        let value = read();
        self.state.borrow_mut().depth -= 1;
        value
    }

    /// Reads with `inside_null` as this.
    fn with_null_as<T>(&self, inside_null: bool, read: impl FnOnce() -> T) -> T {
        let outside = self.state.borrow().inside_null;
        self.state.borrow_mut().inside_null = inside_null;
        let value = read();
        self.state.borrow_mut().inside_null = outside;
        value
    }

    fn scalar<S: Serializer>(
        &self,
        out: S,
        ty: &Type,
        bits: u64,
    ) -> std::result::Result<S::Ok, S::Error> {
        match (ty, self.int64) {
            (Type::Int64, Int64::String) => out.collect_str(&(bits as i64)),
            (Type::UInt64, Int64::String) => out.collect_str(&bits),
            _ => self.schemas.decode(ty, bits).serialize(out),
        }
    }

    /// A field that is not on the wire.
    fn default<S: Serializer>(
        &self,
        out: S,
        ty: &Type,
        default: &Default,
    ) -> std::result::Result<S::Ok, S::Error> {
        match default {
            Default::Zero => match ty.width() {
                Some(_) => self.scalar(out, ty, 0),
                None => {
                    let message = capnp::message::Builder::new_default();
                    let root = message.get_root_as_reader().map_err(JsonError::from);
                    let ReadPointer(null) = self.check(root)?;
                    self.pointer(out, null, ty, &Default::Zero)
                }
            },
            Default::Bits(bits) => self.scalar(out, ty, *bits),
            Default::Text(text) => {
                self.spend(text.len())?;
                out.serialize_str(text)
            }
            Default::Data(data) => self.data(out, ty, data),
            Default::Message(_) if self.state.borrow().inside_default => out.serialize_unit(),
            Default::Message(words) => {
                let mut options = ReaderOptions::new();
                options.traversal_limit_in_words(Some(words.len().saturating_mul(4)));
                let mut bytes = capnp::Word::words_to_bytes(words);
                let message = serialize::read_message_from_flat_slice(&mut bytes, options);
                let message = self.check(message.map_err(JsonError::from))?;
                let root = message.get_root().map_err(JsonError::from);
                let ReadPointer(root) = self.check(root)?;
                self.state.borrow_mut().inside_default = true;
                let value = self.nested(|| self.pointer(out, root, ty, &Default::Zero));
                self.state.borrow_mut().inside_default = false;
                value
            }
        }
    }

    fn data<S: Serializer>(
        &self,
        out: S,
        ty: &Type,
        data: &[u8],
    ) -> std::result::Result<S::Ok, S::Error> {
        if matches!(ty, Type::Hex) {
            self.spend(data.len().saturating_mul(2))?;
            return out.collect_str(&Hex(data));
        }
        self.spend(data.len().saturating_add(data.len() / 3))?;
        out.collect_str(&Base64Display::new(data, &STANDARD))
    }

    fn pointer<S: Serializer>(
        &self,
        out: S,
        pointer: PointerReader<'_>,
        ty: &Type,
        default: &Default,
    ) -> std::result::Result<S::Ok, S::Error> {
        let null = pointer.is_null();
        if null && !matches!(default, Default::Zero) {
            return self.default(out, ty, default);
        }
        match ty {
            Type::Text => {
                let text = pointer.get_text(None).map_err(JsonError::from);
                let text = text.and_then(|it| it.to_str().map_err(|_| Problem::NotUtf8.into()));
                let text = self.check(text)?;
                self.spend(text.len())?;
                out.serialize_str(text)
            }
            Type::Data | Type::Hex => {
                let data = pointer.get_data(None).map_err(JsonError::from);
                let data = self.check(data)?;
                self.data(out, ty, data)
            }
            Type::List(element) => self.nested(|| self.list(out, pointer, element)),
            Type::Struct(id) => {
                let inside_null = {
                    let state = self.state.borrow();
                    if null && (state.inside_null || state.inside.contains(id)) {
                        return out.serialize_unit();
                    }
                    // What is set inside of a default is set.
                    null
                };
                let of = pointer.get_struct(None).map_err(JsonError::from);
                let of = self.check(of)?;
                self.with_null_as(inside_null, || self.structure(out, *id, of))
            }
            Type::Interface(_) | Type::Capability | Type::AnyPointer if null => {
                out.serialize_unit()
            }
            Type::Interface(id) => self.capability(out, &self.schemas.name(*id)),
            Type::Capability => self.capability(out, "Capability"),
            Type::AnyPointer => {
                let kind = pointer.get_pointer_type().map_err(JsonError::from);
                match self.check(kind)? {
                    PointerType::Null => out.serialize_unit(),
                    PointerType::Capability => self.capability(out, "Capability"),
                    PointerType::Struct | PointerType::List => {
                        self.spend(VALUE_BYTES)?;
                        json!({ "$anyPointer": true }).serialize(out)
                    }
                }
            }
            scalar => {
                let problem = Problem::Schema(format!("{scalar:?} is not behind a pointer"));
                self.check(Err(problem.into()))
            }
        }
    }

    fn capability<S: Serializer>(
        &self,
        out: S,
        name: &str,
    ) -> std::result::Result<S::Ok, S::Error> {
        self.spend(VALUE_BYTES + name.len())?;
        json!({ "$capability": name }).serialize(out)
    }

    fn list<S: Serializer>(
        &self,
        out: S,
        pointer: PointerReader<'_>,
        ty: &Type,
    ) -> std::result::Result<S::Ok, S::Error> {
        if let Some(width) = ty.width() {
            let list = pointer.get_list(width.element_size(), None);
            let list = self.check(list.map_err(JsonError::from))?;
            self.elements(out, list.len(), |i| {
                Ok(Item::Bits(ty, raw::element(&list, width, i)))
            })
        } else if let Type::Struct(id) = ty {
            let list = FromPointerReader::get_from_pointer(&pointer, None);
            let list: struct_list::Reader<'_, AnyStruct> =
                self.check(list.map_err(JsonError::from))?;
            self.elements(out, list.len(), |i| {
                let AnyStructReader(element) = list.get(i);
                Ok(Item::Element(*id, element))
            })
        } else {
            let list = FromPointerReader::get_from_pointer(&pointer, None);
            let list: any_pointer_list::Reader<'_> = self.check(list.map_err(JsonError::from))?;
            self.elements(out, list.len(), |i| {
                let ReadPointer(element) = list.get(i).get_as()?;
                Ok(Item::Pointer(element, ty, &Default::Zero))
            })
        }
    }

    fn elements<'a, S: Serializer>(
        &self,
        out: S,
        count: u32,
        element: impl Fn(u32) -> Result<Item<'a>>,
    ) -> std::result::Result<S::Ok, S::Error> {
        self.spend(VALUE_BYTES.saturating_mul(count as usize))?;
        let mut list = out.serialize_seq(Some(count as usize))?;
        for i in 0..count {
            let item = self.check(element(i))?;
            let shown = list.serialize_element(&self.item(item));
            self.inside(shown, |error| error.in_element(i as usize))?;
        }
        list.end()
    }

    fn structure<S: Serializer>(
        &self,
        out: S,
        id: u64,
        reader: StructReader<'_>,
    ) -> std::result::Result<S::Ok, S::Error> {
        let structure = self.schemas.structure(id);
        let structure = structure
            .ok_or_else(|| Problem::Schema(format!("no struct {}", self.schemas.name(id))).into());
        let structure = self.check(structure)?;
        self.state.borrow_mut().inside.push(id);
        let value = self.nested(|| self.members(out, structure, reader));
        self.state.borrow_mut().inside.pop();
        value
    }

    fn members<S: Serializer>(
        &self,
        out: S,
        structure: &Struct,
        reader: StructReader<'_>,
    ) -> std::result::Result<S::Ok, S::Error> {
        let mut members = out.serialize_map(None)?;
        if let Some(unknown) = self.fill(&mut members, structure, reader, "")? {
            members.serialize_entry("$unknownMember", &unknown)?;
        }
        members.end()
    }

    /// Adds the members of a struct to an object: its own, or one into which it is flattened under that prefix.
    /// Answers the number of a union's member that the schema does not know.
    fn fill<M: SerializeMap>(
        &self,
        members: &mut M,
        structure: &Struct,
        reader: StructReader<'_>,
        prefix: &str,
    ) -> std::result::Result<Option<u16>, M::Error> {
        // Members that are not set cost time, though not memory.
        self.spend(structure.fields.len())?;
        let set = raw::field(&reader, Width::W16, structure.discriminant_offset) as u16;
        let mut known = structure.discriminants == 0;
        let mut unknown = None;
        for field in &structure.fields {
            match field.discriminant {
                Some(discriminant) if discriminant != set => continue,
                Some(_) => known = true,
                None => {}
            }
            let tag = structure.tag.as_ref();
            let tag = tag.filter(|_| field.discriminant.is_some());
            if let Some(tag) = tag.and_then(|tag| tag.name.as_ref()) {
                self.spend(VALUE_BYTES + tag.len() + field.name.len())?;
                members.serialize_entry(&*under(prefix, tag), &field.name)?;
            }
            if let Some(own) = &field.prefix {
                let prefix = under(prefix, own);
                let more = self.flattened(members, field, reader, &prefix);
                let more = self.inside(more, |error| error.in_field(&field.name))?;
                unknown = unknown.or(more);
                continue;
            }
            let is_void = matches!(&field.kind, FieldKind::Slot { ty: Type::Void, .. });
            if is_void && tag.is_some() {
                continue;
            }
            let name = tag.and_then(|tag| tag.value.as_ref());
            let name = under(prefix, name.unwrap_or(&field.name));
            self.spend(VALUE_BYTES + name.len())?;
            let item = match &field.kind {
                FieldKind::Group(id) => Item::Struct(*id, reader),
                FieldKind::Slot {
                    offset,
                    ty,
                    default,
                    ..
                } => match (ty.width(), default) {
                    (None, default) => {
                        let pointer = reader.get_pointer_field(*offset as usize);
                        Item::Pointer(pointer, ty, default)
                    }
                    (Some(width), default) => {
                        let default = match default {
                            Default::Bits(bits) => *bits,
                            _ => 0,
                        };
                        Item::Bits(ty, raw::field(&reader, width, *offset) ^ default)
                    }
                },
            };
            let shown = members.serialize_entry(&*name, &self.item(item));
            self.inside(shown, |error| error.in_field(&name))?;
        }
        match structure.tag.as_ref().and_then(|tag| tag.name.as_ref()) {
            _ if known => {}
            None => unknown = Some(set),
            Some(tag) => members.serialize_entry(&*under(prefix, tag), &set)?,
        }
        Ok(unknown)
    }

    /// Adds the members of a struct, group or union that is flattened. One that ends where a struct of its own
    /// would be `null` has none.
    fn flattened<M: SerializeMap>(
        &self,
        members: &mut M,
        field: &Field,
        reader: StructReader<'_>,
        prefix: &str,
    ) -> std::result::Result<Option<u16>, M::Error> {
        let (id, reader, is_null) = match &field.kind {
            FieldKind::Group(id) => (id, reader, None),
            FieldKind::Slot {
                offset,
                ty: Type::Struct(id),
                ..
            } => {
                let pointer = reader.get_pointer_field(*offset as usize);
                let of = pointer.get_struct(None).map_err(JsonError::from);
                (id, self.check(of)?, Some(pointer.is_null()))
            }
            FieldKind::Slot { .. } => return Ok(None),
        };
        let structure = self.schemas.structure(*id);
        let structure = structure.ok_or_else(|| Problem::Schema("no such struct".into()).into());
        let structure = self.check(structure)?;
        let outside = self.state.borrow().inside_null;
        let is_recursive = self.state.borrow().inside.contains(id);
        if is_null == Some(true) && (outside || is_recursive) {
            return Ok(None);
        }
        self.state.borrow_mut().inside.push(*id);
        let unknown = self.with_null_as(is_null.unwrap_or(outside), || {
            self.nested(|| self.fill(members, structure, reader, prefix))
        });
        self.state.borrow_mut().inside.pop();
        unknown
    }
}
