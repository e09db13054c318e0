use base64::{Engine, engine::general_purpose::STANDARD};
use capnp::{
    any_pointer,
    private::layout::{ElementSize, PointerBuilder, StructSize},
};
use serde_json::{Map, Value};

use super::{
    JsonError, MAX_DEPTH, MAX_PARAMS_BYTES, Method, Problem, Schemas,
    node::{Default, Field, FieldKind, Struct, Type},
    raw::{self, Slots, SlotsList, Width, WritePointer},
    scalar::mismatch,
};

type Result<T> = std::result::Result<T, JsonError>;

/// The most elements that a list of Cap'n Proto has.
const MAX_ELEMENTS: usize = (1 << 29) - 1;

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
        let none = Value::Object(Map::new());
        let params = if params.is_null() { &none } else { params };
        self.write_struct(method.params, params, target)
    }

    /// Writes a struct, by its id, into a message that is empty.
    pub fn write_struct(
        &self,
        struct_id: u64,
        value: &Value,
        target: any_pointer::Builder<'_>,
    ) -> Result<()> {
        // Writing over a capability makes `capnp` panic.
        if !target.is_null() {
            return Err(Problem::AlreadyWritten.into());
        }
        let WritePointer(pointer) = target.get_as()?;
        let mut writer = Writer {
            schemas: self,
            words_left: MAX_PARAMS_BYTES as u64 / 8,
            depth: 0,
        };
        writer.pointer(pointer, &Type::Struct(struct_id), value)
    }
}

struct Writer<'s> {
    schemas: &'s Schemas,
    words_left: u64,
    depth: usize,
}

impl<'s> Writer<'s> {
    fn spend(&mut self, words: u64) -> Result<()> {
        self.words_left = self
            .words_left
            .checked_sub(words)
            .ok_or(Problem::LimitExceeded("MAX_PARAMS_BYTES"))?;
        Ok(())
    }

    fn nested<T>(&mut self, write: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.depth == MAX_DEPTH {
            return Err(Problem::LimitExceeded("MAX_DEPTH").into());
        }
        self.depth += 1;
        let written = write(self);
        self.depth -= 1;
        written
    }

    fn structure(&self, id: u64) -> Result<&'s Struct> {
        self.schemas
            .structure(id)
            .ok_or_else(|| Problem::Schema(format!("no struct {}", self.schemas.name(id))).into())
    }

    /// A value that is behind a pointer, which is null. `null` leaves it so.
    fn pointer(&mut self, pointer: PointerBuilder<'_>, ty: &Type, value: &Value) -> Result<()> {
        if value.is_null() {
            return Ok(());
        }
        let mut pointer = pointer;
        match (ty, value) {
            (Type::Text, Value::String(text)) => {
                self.spend((text.len() as u64 + 1).div_ceil(8))?;
                pointer.set_text(text.as_str().into());
                Ok(())
            }
            (Type::Data, Value::String(text)) => {
                let data = STANDARD
                    .decode(text)
                    .map_err(|_| mismatch("Data, in standard base64", value))?;
                self.spend((data.len() as u64).div_ceil(8))?;
                pointer.set_data(&data);
                Ok(())
            }
            (Type::Data, _) => Err(mismatch("Data, as a string of standard base64", value).into()),
            (Type::List(element), Value::Array(items)) => {
                self.nested(|writer| writer.list(pointer, element, items))
            }
            (Type::List(_), _) => Err(mismatch("a list", value).into()),
            (Type::Struct(id), Value::Object(members)) => {
                let structure = self.structure(*id)?;
                let size = size(structure);
                self.spend(words(size))?;
                let slots = Slots::init(pointer, size);
                self.nested(|writer| writer.members(slots, structure, members))
            }
            (Type::Struct(_), _) => Err(mismatch("an object", value).into()),
            (Type::Interface(_) | Type::Capability, _) => {
                Err(Problem::Unsupported("a capability").into())
            }
            (Type::AnyPointer, _) => Err(Problem::Unsupported("an AnyPointer").into()),
            (ty, _) => Err(mismatch(format!("{ty:?}"), value).into()),
        }
    }

    fn list(&mut self, pointer: PointerBuilder<'_>, ty: &Type, items: &[Value]) -> Result<()> {
        let count = match u32::try_from(items.len()) {
            Ok(count) if items.len() <= MAX_ELEMENTS => count,
            _ => return Err(Problem::LimitExceeded("MAX_PARAMS_BYTES").into()),
        };
        let items = items.iter().enumerate();
        if let Some(width) = ty.width() {
            self.spend(width.words(items.len()))?;
            let list = pointer.init_list(width.element_size(), count);
            for (i, item) in items {
                let bits = self.schemas.encode(ty, item);
                let bits = bits.map_err(|e| JsonError::from(e).in_element(i))?;
                raw::set_element(&list, width, i as u32, bits);
            }
        } else if let Type::Struct(id) = ty {
            let structure = self.structure(*id)?;
            let size = size(structure);
            self.spend(words(size).saturating_mul(count.into()).saturating_add(1))?;
            let mut list = SlotsList::init(pointer, count, size)?;
            for (i, item) in items {
                let written = match item {
                    Value::Null => Ok(()),
                    Value::Object(members) => {
                        let slots = list.get(i as u32);
                        self.nested(|writer| writer.members(slots, structure, members))
                    }
                    other => Err(mismatch("an object", other).into()),
                };
                written.map_err(|e| e.in_element(i))?;
            }
        } else {
            self.spend(count.into())?;
            let mut list = pointer.init_list(ElementSize::Pointer, count);
            for (i, item) in items {
                let element = list.reborrow().get_pointer_element(i as u32);
                self.pointer(element, ty, item)
                    .map_err(|e| e.in_element(i))?;
            }
        }
        Ok(())
    }

    fn members(
        &mut self,
        mut slots: Slots<'_>,
        structure: &Struct,
        members: &Map<String, Value>,
    ) -> Result<()> {
        let mut chosen: Option<&Field> = None;
        for (name, value) in members {
            let field = structure.by_name.get(name).map(|i| &structure.fields[*i]);
            let Some(field) = field else {
                let known = structure.fields.iter().map(|it| it.name.clone());
                let known = known.collect();
                return Err(JsonError::from(Problem::UnknownField { known }).in_field(name));
            };
            if let Some(discriminant) = field.discriminant {
                if let Some(other) = chosen {
                    let names = (other.name.clone(), field.name.clone());
                    return Err(Problem::UnionConflict(names.0, names.1).into());
                }
                chosen = Some(field);
                let offset = structure.discriminant_offset;
                slots.set(Width::W16, offset, discriminant.into())?;
            }
            self.member(slots.reborrow(), field, value)
                .map_err(|e| e.in_field(name))?;
        }
        Ok(())
    }

    fn member(&mut self, mut slots: Slots<'_>, field: &Field, value: &Value) -> Result<()> {
        match &field.kind {
            _ if value.is_null() => Ok(()),
            FieldKind::Group(id) => {
                let group = self.structure(*id)?;
                match value {
                    Value::Object(members) => {
                        self.nested(|writer| writer.members(slots, group, members))
                    }
                    other => Err(mismatch("an object", other).into()),
                }
            }
            FieldKind::Slot {
                offset,
                ty,
                default,
                ..
            } => match ty.width() {
                None => self.pointer(slots.pointer(*offset)?, ty, value),
                Some(width) => {
                    let bits = self.schemas.encode(ty, value)?;
                    let default = match default {
                        Default::Bits(bits) => *bits,
                        _ => 0,
                    };
                    Ok(slots.set(width, *offset, bits ^ default)?)
                }
            },
        }
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
