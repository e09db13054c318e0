use std::fmt::Write as _;

use capnp::{
    any_pointer, any_pointer_list,
    private::layout::{PointerReader, StructReader},
    schema_capnp::{brand, enumerant, field, node, type_, value},
    struct_list,
    traits::FromPointerReader,
};

use super::{
    MAX_DEPTH,
    nodes::{Nodes, Result, identifier},
};
use crate::json::{
    SchemaError,
    raw::{self, AnyStruct, AnyStructReader, ReadPointer, Width},
};

/// The type arguments that a value's type has, and those of the type around it.
#[derive(Clone, Copy)]
pub(super) struct Arguments<'a, 'b> {
    brand: brand::Reader<'a>,
    around: Option<&'b Arguments<'a, 'b>>,
}

/// Writes a value as it stands in a schema; `None` for one that no text stands for, which is null.
pub(super) fn print<'a>(
    nodes: &Nodes<'a>,
    ty: type_::Reader<'a>,
    it: value::Reader<'a>,
) -> Result<Option<String>> {
    let pointer = |it: any_pointer::Reader<'a>| {
        let ReadPointer(pointer) = it.get_as()?;
        Printer { nodes }.pointer(ty, pointer, None, 0)
    };
    Ok(Some(match it.which()? {
        value::Void(()) => "void".to_owned(),
        value::Bool(it) => it.to_string(),
        value::Int8(it) => it.to_string(),
        value::Int16(it) => it.to_string(),
        value::Int32(it) => it.to_string(),
        value::Int64(it) => it.to_string(),
        value::Uint8(it) => it.to_string(),
        value::Uint16(it) => it.to_string(),
        value::Uint32(it) => it.to_string(),
        value::Uint64(it) => it.to_string(),
        value::Float32(it) => float32(it),
        value::Float64(it) => float64(it),
        value::Text(it) => quoted(it?.as_bytes()),
        value::Data(it) => hexadecimal(it?),
        value::Enum(it) => match ty.which()? {
            type_::Enum(ty) => enumerant(nodes, ty.get_type_id(), it)?,
            _ => return Err(mismatch()),
        },
        value::List(it) | value::Struct(it) | value::AnyPointer(it) => return pointer(it),
        value::Interface(()) => return Ok(None),
    }))
}

struct Printer<'n, 'a> {
    nodes: &'n Nodes<'a>,
}

impl<'a> Printer<'_, 'a> {
    /// The text of the value behind a pointer. `None` if the pointer is null.
    fn pointer(
        &self,
        ty: type_::Reader<'a>,
        pointer: PointerReader<'a>,
        arguments: Option<&Arguments<'a, '_>>,
        depth: usize,
    ) -> Result<Option<String>> {
        if depth > MAX_DEPTH {
            return Err(SchemaError::TooLarge("MAX_DEPTH"));
        }
        if pointer.is_null() {
            return Ok(None);
        }
        Ok(Some(match ty.which()? {
            type_::Text(()) => quoted(pointer.get_text(None)?.as_bytes()),
            type_::Data(()) => hexadecimal(pointer.get_data(None)?),
            type_::List(it) => self.list(it.get_element_type()?, pointer, arguments, depth)?,
            type_::Struct(it) => {
                let arguments = Arguments {
                    brand: it.get_brand()?,
                    around: arguments,
                };
                let reader = pointer.get_struct(None)?;
                self.structure(it.get_type_id(), reader, Some(&arguments), depth)?
            }
            type_::AnyPointer(it) => {
                let Some((ty, around)) = argument(it, arguments)? else {
                    return Ok(None);
                };
                return self.pointer(ty, pointer, around, depth + 1);
            }
            _ => return Ok(None),
        }))
    }

    fn list(
        &self,
        ty: type_::Reader<'a>,
        pointer: PointerReader<'a>,
        arguments: Option<&Arguments<'a, '_>>,
        depth: usize,
    ) -> Result<String> {
        let mut elements = Vec::new();
        if let Some(width) = width(ty)? {
            let list = pointer.get_list(width.element_size(), None)?;
            for i in 0..list.len() {
                elements.push(self.scalar(ty, raw::element(&list, width, i))?);
            }
        } else if let type_::Struct(it) = ty.which()? {
            let list: struct_list::Reader<'a, AnyStruct> =
                FromPointerReader::get_from_pointer(&pointer, None)?;
            let arguments = Arguments {
                brand: it.get_brand()?,
                around: arguments,
            };
            for i in 0..list.len() {
                let AnyStructReader(element) = list.get(i);
                let id = it.get_type_id();
                elements.push(self.structure(id, element, Some(&arguments), depth + 1)?);
            }
        } else {
            let list: any_pointer_list::Reader<'a> =
                FromPointerReader::get_from_pointer(&pointer, None)?;
            for element in list {
                let ReadPointer(element) = element?.get_as()?;
                let text = self.pointer(ty, element, arguments, depth + 1)?;
                // A pointer that is null reads as one that points to nothing.
                elements.push(text.unwrap_or(match ty.which()? {
                    type_::Text(()) | type_::Data(()) => "\"\"".to_owned(),
                    _ => "[]".to_owned(),
                }));
            }
        }
        Ok(format!("[{}]", elements.join(", ")))
    }

    fn structure(
        &self,
        id: u64,
        reader: StructReader<'a>,
        arguments: Option<&Arguments<'a, '_>>,
        depth: usize,
    ) -> Result<String> {
        if depth > MAX_DEPTH {
            return Err(SchemaError::TooLarge("MAX_DEPTH"));
        }
        let node::Struct(it) = self.nodes.get(id)?.which()? else {
            return Err(mismatch());
        };
        let tag = raw::field(&reader, Width::W16, it.get_discriminant_offset()) as u16;
        let mut members = Vec::new();
        for field in it.get_fields()? {
            let of_union = field.get_discriminant_value() != field::NO_DISCRIMINANT;
            if of_union && field.get_discriminant_value() != tag {
                continue;
            }
            let text = match field.which()? {
                field::Slot(slot) => self.slot(slot, &reader, arguments, depth)?,
                field::Group(it) => {
                    let text = self.structure(it.get_type_id(), reader, arguments, depth + 1)?;
                    Some(text).filter(|it| it != "()")
                }
            };
            let chosen = of_union && tag != 0;
            let text = match (text, field.which()?) {
                (Some(text), _) => text,
                (None, field::Slot(slot)) if chosen => self.nothing(slot)?,
                (None, field::Group(_)) if chosen => "()".to_owned(),
                (None, _) => continue,
            };
            members.push(format!("{} = {text}", identifier(field.get_name()?)?));
        }
        Ok(format!("({})", members.join(", ")))
    }

    /// The value of a field, unless the field was never set.
    fn slot(
        &self,
        slot: field::slot::Reader<'a>,
        reader: &StructReader<'a>,
        arguments: Option<&Arguments<'a, '_>>,
        depth: usize,
    ) -> Result<Option<String>> {
        let (ty, offset) = (slot.get_type()?, slot.get_offset());
        let Some(width) = width(ty)? else {
            let pointer = reader.get_pointer_field(offset as usize);
            return self.pointer(ty, pointer, arguments, depth + 1);
        };
        let bits = raw::field(reader, width, offset);
        if bits == 0 {
            return Ok(None);
        }
        Ok(Some(self.scalar(
            ty,
            bits ^ default_bits(slot.get_default_value()?)?,
        )?))
    }

    /// The value of a member of a union that was chosen and not set.
    fn nothing(&self, slot: field::slot::Reader<'a>) -> Result<String> {
        let ty = slot.get_type()?;
        Ok(match ty.which()? {
            type_::Text(()) | type_::Data(()) => "\"\"".to_owned(),
            type_::List(_) => "[]".to_owned(),
            type_::Struct(_) => "()".to_owned(),
            _ => self.scalar(ty, default_bits(slot.get_default_value()?)?)?,
        })
    }

    fn scalar(&self, ty: type_::Reader<'a>, bits: u64) -> Result<String> {
        Ok(match ty.which()? {
            type_::Void(()) => "void".to_owned(),
            type_::Bool(()) => (bits & 1 != 0).to_string(),
            type_::Int8(()) => (bits as i8).to_string(),
            type_::Int16(()) => (bits as i16).to_string(),
            type_::Int32(()) => (bits as i32).to_string(),
            type_::Int64(()) => (bits as i64).to_string(),
            type_::Uint8(()) => (bits as u8).to_string(),
            type_::Uint16(()) => (bits as u16).to_string(),
            type_::Uint32(()) => (bits as u32).to_string(),
            type_::Uint64(()) => bits.to_string(),
            type_::Float32(()) => float32(f32::from_bits(bits as u32)),
            type_::Float64(()) => float64(f64::from_bits(bits)),
            type_::Enum(it) => enumerant(self.nodes, it.get_type_id(), bits as u16)?,
            _ => return Err(mismatch()),
        })
    }
}

/// The type that a type parameter stands for, and the arguments of the place that says so.
#[allow(clippy::type_complexity)]
fn argument<'a, 'b>(
    place: type_::any_pointer::Reader<'a>,
    arguments: Option<&'b Arguments<'a, 'b>>,
) -> Result<Option<(type_::Reader<'a>, Option<&'b Arguments<'a, 'b>>)>> {
    let (type_::any_pointer::Parameter(parameter), Some(arguments)) = (place.which()?, arguments)
    else {
        return Ok(None);
    };
    for scope in arguments.brand.get_scopes()? {
        if scope.get_scope_id() != parameter.get_scope_id() {
            continue;
        }
        let brand::scope::Bind(bindings) = scope.which()? else {
            // The type around it has the argument.
            return argument(place, arguments.around);
        };
        let index = u32::from(parameter.get_parameter_index());
        return match bindings?.try_get(index).map(|it| it.which()).transpose()? {
            Some(brand::binding::Type(ty)) => Ok(Some((ty?, arguments.around))),
            _ => Ok(None),
        };
    }
    Ok(None)
}

fn width(ty: type_::Reader<'_>) -> Result<Option<Width>> {
    Ok(Some(match ty.which()? {
        type_::Void(()) => Width::W0,
        type_::Bool(()) => Width::W1,
        type_::Int8(()) | type_::Uint8(()) => Width::W8,
        type_::Int16(()) | type_::Uint16(()) | type_::Enum(_) => Width::W16,
        type_::Int32(()) | type_::Uint32(()) | type_::Float32(()) => Width::W32,
        type_::Int64(()) | type_::Uint64(()) | type_::Float64(()) => Width::W64,
        _ => return Ok(None),
    }))
}

/// The default of a scalar, as what its bits are combined with.
fn default_bits(it: value::Reader<'_>) -> Result<u64> {
    Ok(match it.which()? {
        value::Bool(it) => u64::from(it),
        value::Int8(it) => it as u64,
        value::Int16(it) => it as u64,
        value::Int32(it) => it as u64,
        value::Int64(it) => it as u64,
        value::Uint8(it) => u64::from(it),
        value::Uint16(it) | value::Enum(it) => u64::from(it),
        value::Uint32(it) => u64::from(it),
        value::Uint64(it) => it,
        value::Float32(it) => u64::from(it.to_bits()),
        value::Float64(it) => it.to_bits(),
        _ => 0,
    })
}

fn enumerant(nodes: &Nodes<'_>, id: u64, value: u16) -> Result<String> {
    let node::Enum(it) = nodes.get(id)?.which()? else {
        return Err(mismatch());
    };
    let named: Option<enumerant::Reader<'_>> = it.get_enumerants()?.try_get(u32::from(value));
    let named = named.ok_or_else(mismatch)?;
    Ok(identifier(named.get_name()?)?.to_owned())
}

fn mismatch() -> SchemaError {
    SchemaError::Inconsistent("a value is not of its type".to_owned())
}

fn float32(it: f32) -> String {
    let text = float(format!("{it:?}"));
    // The compiler reads 64 bits, and rounds again.
    if !it.is_finite() || text.parse::<f64>().is_ok_and(|wide| wide as f32 == it) {
        return text;
    }
    float64(f64::from(it))
}

fn float64(it: f64) -> String {
    float(format!("{it:?}"))
}

fn float(text: String) -> String {
    if text == "NaN" { "nan".into() } else { text }
}

/// Text between quotes.
fn quoted(bytes: &[u8]) -> String {
    let mut text = String::from("\"");
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' => text += "\\\"",
                '\\' => text += "\\\\",
                '\n' => text += "\\n",
                '\r' => text += "\\r",
                '\t' => text += "\\t",
                c if c.is_ascii_control() => escape(&mut text, c as u8),
                c => text.push(c),
            }
        }
        for byte in chunk.invalid() {
            escape(&mut text, *byte);
        }
    }
    text.push('"');
    text
}

fn escape(text: &mut String, byte: u8) {
    write!(text, "\\x{byte:02x}").expect("a string takes everything");
}

fn hexadecimal(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "\"\"".to_owned();
    }
    let bytes: Vec<String> = bytes.iter().map(|it| format!("{it:02x}")).collect();
    format!("0x\"{}\"", bytes.join(" "))
}
