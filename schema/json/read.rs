use base64::{Engine, engine::general_purpose::STANDARD};
use capnp::{
    any_pointer, any_pointer_list,
    message::ReaderOptions,
    private::layout::{PointerReader, PointerType, StructReader},
    serialize, struct_list,
    traits::FromPointerReader,
};
use serde_json::{Map, Value, json};

use super::{
    JsonError, MAX_DEPTH, MAX_JSON_BYTES, Method, Problem, Schemas,
    node::{Default, FieldKind, Struct, Type},
    raw::{self, AnyStruct, AnyStructReader, ReadPointer, Width},
};

type Result<T> = std::result::Result<T, JsonError>;

/// What a value costs beside its text: about its size in memory.
const VALUE_BYTES: usize = 72;

/// How much JSON a default may come to in a signature, which shows only its start.
const PREVIEW_BYTES: usize = 16 << 10;

impl Schemas {
    /// The results of a call as JSON: always an object.
    pub fn read_results(&self, method: &Method, results: any_pointer::Reader<'_>) -> Result<Value> {
        if method.is_streaming() && self.structure(method.results).is_none() {
            return Ok(Value::Object(Map::new()));
        }
        self.read_struct(method.results, results)
    }

    /// A struct, by its id, as JSON: always an object.
    pub fn read_struct(&self, struct_id: u64, source: any_pointer::Reader<'_>) -> Result<Value> {
        let ReadPointer(pointer) = source.get_as()?;
        Reader::new(self, MAX_JSON_BYTES).structure(struct_id, pointer.get_struct(None)?)
    }

    pub(super) fn read_default(&self, ty: &Type, default: &Default) -> Result<Value> {
        Reader::new(self, MAX_JSON_BYTES).default(ty, default)
    }

    /// The same for a signature: an error if it is long.
    pub(super) fn preview_default(&self, ty: &Type, default: &Default) -> Result<Value> {
        Reader::new(self, PREVIEW_BYTES).default(ty, default)
    }
}

struct Reader<'s> {
    schemas: &'s Schemas,
    bytes_left: usize,
    depth: usize,
    /// The ids of the structs that are being read.
    inside: Vec<u64>,
    /// Whether one of them was never set.
    inside_null: bool,
    /// Whether they are of a default that the schema gives. Defaults in it are not followed: a type
    /// may be its own default.
    inside_default: bool,
}

impl<'s> Reader<'s> {
    fn new(schemas: &'s Schemas, bytes_left: usize) -> Self {
        Self {
            schemas,
            bytes_left,
            depth: 0,
            inside: Vec::new(),
            inside_null: false,
            inside_default: false,
        }
    }

    fn spend(&mut self, bytes: usize) -> Result<()> {
        self.bytes_left = self
            .bytes_left
            .checked_sub(bytes)
            .ok_or(Problem::LimitExceeded("MAX_JSON_BYTES"))?;
        Ok(())
    }

    fn nested<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.depth == MAX_DEPTH {
            return Err(Problem::LimitExceeded("MAX_DEPTH").into());
        }
        self.depth += 1;
        let value = read(self);
        self.depth -= 1;
        value
    }

    /// A field that is not on the wire.
    fn default(&mut self, ty: &Type, default: &Default) -> Result<Value> {
        match default {
            Default::Zero => match ty.width() {
                Some(_) => Ok(self.schemas.decode(ty, 0)),
                None => with_null(|pointer| self.pointer(pointer, ty, &Default::Zero)),
            },
            Default::Bits(bits) => Ok(self.schemas.decode(ty, *bits)),
            Default::Text(text) => {
                self.spend(text.len())?;
                Ok(text.as_str().into())
            }
            Default::Data(data) => self.data(data),
            Default::Message(_) if self.inside_default => Ok(Value::Null),
            Default::Message(words) => {
                let mut options = ReaderOptions::new();
                options.traversal_limit_in_words(Some(words.len().saturating_mul(4)));
                let mut bytes = capnp::Word::words_to_bytes(words);
                let message = serialize::read_message_from_flat_slice(&mut bytes, options)?;
                let ReadPointer(root) = message.get_root()?;
                self.inside_default = true;
                let value = self.nested(|reader| reader.pointer(root, ty, &Default::Zero));
                self.inside_default = false;
                value
            }
        }
    }

    fn data(&mut self, data: &[u8]) -> Result<Value> {
        self.spend(data.len().saturating_add(data.len() / 3))?;
        Ok(STANDARD.encode(data).into())
    }

    fn pointer(
        &mut self,
        pointer: PointerReader<'_>,
        ty: &Type,
        default: &Default,
    ) -> Result<Value> {
        let null = pointer.is_null();
        if null && !matches!(default, Default::Zero) {
            return self.default(ty, default);
        }
        match ty {
            Type::Text => {
                let text = pointer.get_text(None)?;
                let text = text.to_str().map_err(|_| Problem::NotUtf8)?;
                self.spend(text.len())?;
                Ok(text.into())
            }
            Type::Data => self.data(pointer.get_data(None)?),
            Type::List(element) => self.nested(|reader| reader.list(pointer, element)),
            Type::Struct(id) if null => {
                if self.inside_null || self.inside.contains(id) {
                    return Ok(Value::Null);
                }
                self.inside_null = true;
                let value = self.structure(*id, pointer.get_struct(None)?);
                self.inside_null = false;
                value
            }
            Type::Struct(id) => {
                // What is set inside of a default is set.
                let outside = std::mem::take(&mut self.inside_null);
                let value = self.structure(*id, pointer.get_struct(None)?);
                self.inside_null = outside;
                value
            }
            Type::Interface(_) | Type::Capability | Type::AnyPointer if null => Ok(Value::Null),
            Type::Interface(id) => {
                let name = self.schemas.name(*id);
                self.capability(&name)
            }
            Type::Capability => self.capability("Capability"),
            Type::AnyPointer => match pointer.get_pointer_type()? {
                PointerType::Null => Ok(Value::Null),
                PointerType::Capability => self.capability("Capability"),
                PointerType::Struct | PointerType::List => {
                    self.spend(VALUE_BYTES)?;
                    Ok(json!({ "$anyPointer": true }))
                }
            },
            scalar => Err(Problem::Schema(format!("{scalar:?} is not behind a pointer")).into()),
        }
    }

    fn capability(&mut self, name: &str) -> Result<Value> {
        self.spend(VALUE_BYTES + name.len())?;
        Ok(json!({ "$capability": name }))
    }

    fn list(&mut self, pointer: PointerReader<'_>, ty: &Type) -> Result<Value> {
        let mut values = Vec::new();
        if let Some(width) = ty.width() {
            let list = pointer.get_list(width.element_size(), None)?;
            self.spend(VALUE_BYTES.saturating_mul(list.len() as usize))?;
            let elements = 0..list.len();
            values.extend(elements.map(|i| {
                let bits = raw::element(&list, width, i);
                self.schemas.decode(ty, bits)
            }));
        } else if let Type::Struct(id) = ty {
            let list: struct_list::Reader<'_, AnyStruct> =
                FromPointerReader::get_from_pointer(&pointer, None)?;
            self.spend(VALUE_BYTES.saturating_mul(list.len() as usize))?;
            for (i, AnyStructReader(element)) in list.iter().enumerate() {
                let outside = std::mem::take(&mut self.inside_null);
                let value = self.structure(*id, element);
                self.inside_null = outside;
                values.push(value.map_err(|e| e.in_element(i))?);
            }
        } else {
            let list: any_pointer_list::Reader<'_> =
                FromPointerReader::get_from_pointer(&pointer, None)?;
            self.spend(VALUE_BYTES.saturating_mul(list.len() as usize))?;
            for i in 0..list.len() {
                let ReadPointer(element) = list.get(i).get_as()?;
                let value = self.pointer(element, ty, &Default::Zero);
                values.push(value.map_err(|e| e.in_element(i as usize))?);
            }
        }
        Ok(Value::Array(values))
    }

    fn structure(&mut self, id: u64, reader: StructReader<'_>) -> Result<Value> {
        let structure = self.schemas.structure(id);
        let structure = structure
            .ok_or_else(|| Problem::Schema(format!("no struct {}", self.schemas.name(id))))?;
        self.inside.push(id);
        let value = self.nested(|it| it.members(structure, reader));
        self.inside.pop();
        value
    }

    fn members(&mut self, structure: &Struct, reader: StructReader<'_>) -> Result<Value> {
        // Members that are not set cost time, though not memory.
        self.spend(structure.fields.len())?;
        let mut members = Map::new();
        let set = raw::field(&reader, Width::W16, structure.discriminant_offset) as u16;
        let mut known = structure.discriminants == 0;
        for field in &structure.fields {
            match field.discriminant {
                Some(discriminant) if discriminant != set => continue,
                Some(_) => known = true,
                None => {}
            }
            self.spend(VALUE_BYTES + field.name.len())?;
            let value = match &field.kind {
                FieldKind::Group(id) => self.structure(*id, reader),
                FieldKind::Slot {
                    offset,
                    ty,
                    default,
                    ..
                } => match (ty.width(), default) {
                    (None, default) => {
                        let pointer = reader.get_pointer_field(*offset as usize);
                        self.pointer(pointer, ty, default)
                    }
                    (Some(width), default) => {
                        let default = match default {
                            Default::Bits(bits) => *bits,
                            _ => 0,
                        };
                        let bits = raw::field(&reader, width, *offset) ^ default;
                        Ok(self.schemas.decode(ty, bits))
                    }
                },
            };
            let value = value.map_err(|e| e.in_field(&field.name))?;
            members.insert(field.name.clone(), value);
        }
        if !known {
            members.insert("$unknownMember".to_owned(), set.into());
        }
        Ok(Value::Object(members))
    }
}

/// A null pointer, which only a message can give.
fn with_null<T>(read: impl FnOnce(PointerReader<'_>) -> Result<T>) -> Result<T> {
    let message = capnp::message::Builder::new_default();
    let ReadPointer(pointer) = message.get_root_as_reader()?;
    read(pointer)
}
