//! The annotations of `/capnp/compat/json.capnp` that say how a field, enumerant or union looks in JSON.

use capnp::{
    any_pointer,
    schema_capnp::{annotation, value},
    struct_list,
};

use super::{SchemaError, node::Tag, raw::ReadPointer};

type Result<T> = std::result::Result<T, SchemaError>;
type Annotations<'a> = struct_list::Reader<'a, annotation::Owned>;

const NAME: u64 = 0xfa5b_1fd6_1c2e_7c3d;
const FLATTEN: u64 = 0x82d3_e852_af03_36bf;
const DISCRIMINATOR: u64 = 0xcfa7_94e8_d19a_0162;
const BASE64: u64 = 0xd7d8_7945_0a25_3e4b;
const HEX: u64 = 0xf061_e22f_0ae5_c7b5;

/// The annotations of one declaration.
#[derive(Default)]
pub(super) struct Json {
    /// The name in JSON instead of the declared one.
    pub name: Option<String>,
    /// The prefix that the members of a flattened struct get.
    pub flatten: Option<String>,
    pub discriminator: Option<Tag>,
    /// Whether `base64` is there: the form that Data has anyway.
    pub is_base64: bool,
    pub is_hex: bool,
}

impl Json {
    pub(super) fn read(annotations: Annotations<'_>) -> Result<Self> {
        let mut json = Self::default();
        for annotation in annotations {
            match annotation.get_id() {
                NAME => match annotation.get_value()?.which()? {
                    value::Text(name) => json.name = Some(name?.to_str()?.to_owned()),
                    _ => return Err(wrong("name")),
                },
                FLATTEN => match annotation.get_value()?.which()? {
                    value::Struct(it) => {
                        let [prefix, _] = texts(it)?;
                        json.flatten = Some(prefix.unwrap_or_default());
                    }
                    _ => return Err(wrong("flatten")),
                },
                DISCRIMINATOR => match annotation.get_value()?.which()? {
                    value::Struct(it) => {
                        let [name, value] = texts(it)?;
                        json.discriminator = Some(Tag { name, value });
                    }
                    _ => return Err(wrong("discriminator")),
                },
                BASE64 => json.is_base64 = true,
                HEX => json.is_hex = true,
                _ => {}
            }
        }
        Ok(json)
    }
}

/// The first two pointers of a struct, which are texts or null: the options of an annotation.
fn texts(options: any_pointer::Reader<'_>) -> Result<[Option<String>; 2]> {
    let ReadPointer(pointer) = options.get_as()?;
    let options = pointer.get_struct(None)?;
    let text = |at| -> Result<Option<String>> {
        let pointer = options.get_pointer_field(at);
        if pointer.is_null() {
            return Ok(None);
        }
        Ok(Some(pointer.get_text(None)?.to_str()?.to_owned()))
    };
    Ok([text(0)?, text(1)?])
}

fn wrong(name: &str) -> SchemaError {
    SchemaError::Inconsistent(format!(
        "the annotation `{name}` of `json.capnp` is of another type there"
    ))
}
