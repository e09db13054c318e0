//! From a `CodeGeneratorRequest` to what messages depend on, and names for people.

use std::collections::HashMap;

use capnp::{
    Error, any_pointer, message,
    message::ReaderOptions,
    schema_capnp::{brand, code_generator_request, field, node, type_, value},
    serialize,
};

use super::error::{Incompatible, Version};

/// The declarations of a request. Ids in them may lead nowhere.
pub(super) struct Schema {
    version: Version,
    nodes: HashMap<u64, Node>,
}

struct Node {
    name: String,
    kind: Kind,
}

enum Kind {
    Struct(Struct),
    /// The names of the enumerants, by number.
    Enum(Vec<String>),
    Interface(Interface),
    /// Nothing that is seen in a message.
    Other,
}

pub(super) struct Struct {
    /// Where it says which member of the union is set; of no meaning if there is no union.
    pub tag: u32,
    /// By number; a group stands where its first field would.
    pub fields: Vec<Field>,
}

pub(super) struct Field {
    pub name: String,
    /// Its number in the union, if it is in one.
    pub discriminant: Option<u16>,
    pub kind: FieldKind,
}

pub(super) enum FieldKind {
    Slot {
        offset: u32,
        ty: Type,
        /// In a form that is the same for equal values; empty for zero, empty and null.
        default: Vec<u8>,
    },
    Group(u64),
}

pub(super) struct Interface {
    /// By number.
    pub methods: Vec<Method>,
    pub superclasses: Vec<Reference>,
}

pub(super) struct Method {
    pub name: String,
    pub params: Reference,
    pub results: Reference,
}

#[derive(Debug, PartialEq)]
pub(super) enum Type {
    Void,
    Bool,
    Int8,
    Int16,
    Int32,
    Int64,
    UInt8,
    UInt16,
    UInt32,
    UInt64,
    Float32,
    Float64,
    Text,
    Data,
    AnyPointer,
    AnyStruct,
    AnyList,
    Capability,
    List(Box<Type>),
    Enum(Reference),
    Struct(Reference),
    Interface(Reference),
    /// A type parameter: of which declaration, and which of them.
    Parameter(u64, u16),
    /// A type parameter of the method.
    MethodParameter(u16),
}

/// A declaration that is referred to.
#[derive(Debug, PartialEq)]
pub(super) struct Reference {
    pub id: u64,
    pub arguments: Vec<Scope>,
}

/// Type arguments for one of the declarations that a type is declared in.
#[derive(Debug, PartialEq)]
pub(super) struct Scope {
    id: u64,
    /// Those of the place where the type is referred to, if none are said.
    pub bindings: Option<Vec<Option<Type>>>,
}

impl Schema {
    pub fn load(version: Version, cgr: &[u8]) -> Result<Self, Incompatible> {
        match nodes(cgr) {
            Ok(nodes) => Ok(Self { version, nodes }),
            Err(error) => Err(Incompatible::Unreadable { version, error }),
        }
    }

    /// An interface and its name.
    pub fn interface(&self, id: u64) -> Result<(&str, &Interface), Incompatible> {
        match self.nodes.get(&id) {
            Some(Node {
                name,
                kind: Kind::Interface(it),
            }) => Ok((name, it)),
            _ => Err(self.missing("interface", id)),
        }
    }

    /// A struct and its name.
    pub fn structure(&self, id: u64) -> Result<(&str, &Struct), Incompatible> {
        match self.nodes.get(&id) {
            Some(Node {
                name,
                kind: Kind::Struct(it),
            }) => Ok((name, it)),
            _ => Err(self.missing("struct", id)),
        }
    }

    /// The name of an enum and those of its enumerants, by number.
    pub fn enumeration(&self, id: u64) -> Result<(&str, &[String]), Incompatible> {
        match self.nodes.get(&id) {
            Some(Node {
                name,
                kind: Kind::Enum(it),
            }) => Ok((name, it)),
            _ => Err(self.missing("enum", id)),
        }
    }

    fn missing(&self, kind: &'static str, id: u64) -> Incompatible {
        Incompatible::Missing {
            version: self.version,
            kind,
            id,
        }
    }

    /// A type's name for people. With ids, where names alone do not tell two apart.
    pub fn type_name(&self, ty: &Type, ids: bool) -> String {
        match ty {
            Type::List(element) => format!("List({})", self.type_name(element, ids)),
            Type::Enum(it) | Type::Struct(it) | Type::Interface(it) => self.reference_name(it, ids),
            Type::Parameter(..) | Type::MethodParameter(_) => "a type parameter".to_owned(),
            plain => format!("{plain:?}"),
        }
    }

    /// Likewise of something that is referred to.
    pub fn reference_name(&self, it: &Reference, ids: bool) -> String {
        let mut text = match self.nodes.get(&it.id) {
            Some(node) if ids => format!("{} @{:#018x}", node.name, it.id),
            Some(node) => node.name.clone(),
            None => format!("@{:#018x}", it.id),
        };
        let bindings = it.arguments.iter().filter_map(|it| it.bindings.as_ref());
        let bindings: Vec<String> = bindings
            .flatten()
            .map(|it| match it {
                Some(ty) => self.type_name(ty, ids),
                None => "AnyPointer".to_owned(),
            })
            .collect();
        if !bindings.is_empty() {
            text.push_str(&format!("({})", bindings.join(", ")));
        }
        text
    }
}

fn nodes(cgr: &[u8]) -> capnp::Result<HashMap<u64, Node>> {
    // Objects in the request may overlap: how often they may be read again is bounded, or a small
    // request could stand for a huge schema.
    let mut options = ReaderOptions::new();
    options.traversal_limit_in_words(Some((cgr.len() / 8).saturating_mul(4) + (1 << 16)));
    let message = serialize::read_message(cgr, options)?;
    let request: code_generator_request::Reader = message.get_root()?;
    let mut nodes = HashMap::new();
    for it in request.get_nodes()? {
        nodes.entry(it.get_id()).or_insert(node(it)?);
    }
    Ok(nodes)
}

fn node(it: node::Reader<'_>) -> capnp::Result<Node> {
    let name = it.get_display_name()?.to_str()?;
    let short = name.get(it.get_display_name_prefix_length() as usize..);
    Ok(Node {
        name: short.unwrap_or(name).to_owned(),
        kind: match it.which()? {
            node::Struct(it) => Kind::Struct(Struct {
                tag: it.get_discriminant_offset(),
                fields: it
                    .get_fields()?
                    .iter()
                    .map(field)
                    .collect::<capnp::Result<_>>()?,
            }),
            node::Enum(it) => {
                let names = it.get_enumerants()?.iter();
                let names = names.map(|it| Ok(it.get_name()?.to_str()?.to_owned()));
                Kind::Enum(names.collect::<capnp::Result<_>>()?)
            }
            node::Interface(it) => Kind::Interface(interface(it)?),
            node::File(()) | node::Const(_) | node::Annotation(_) => Kind::Other,
        },
    })
}

fn field(it: field::Reader<'_>) -> capnp::Result<Field> {
    let discriminant = it.get_discriminant_value();
    Ok(Field {
        name: it.get_name()?.to_str()?.to_owned(),
        discriminant: (discriminant != field::NO_DISCRIMINANT).then_some(discriminant),
        kind: match it.which()? {
            field::Slot(slot) => FieldKind::Slot {
                offset: slot.get_offset(),
                ty: ty(slot.get_type()?)?,
                default: default(slot.get_default_value()?)?,
            },
            field::Group(group) => FieldKind::Group(group.get_type_id()),
        },
    })
}

fn interface(it: node::interface::Reader<'_>) -> capnp::Result<Interface> {
    let methods = it.get_methods()?.iter().map(|it| {
        Ok(Method {
            name: it.get_name()?.to_str()?.to_owned(),
            params: reference(it.get_param_struct_type(), it.get_param_brand()?)?,
            results: reference(it.get_result_struct_type(), it.get_result_brand()?)?,
        })
    });
    let superclasses = it.get_superclasses()?;
    let superclasses = superclasses
        .iter()
        .map(|it| reference(it.get_id(), it.get_brand()?));
    Ok(Interface {
        methods: methods.collect::<capnp::Result<_>>()?,
        superclasses: superclasses.collect::<capnp::Result<_>>()?,
    })
}

/// Ends, with type arguments in type arguments too: the message's nesting limit bounds how deep.
fn ty(it: type_::Reader<'_>) -> capnp::Result<Type> {
    use type_::any_pointer::{ImplicitMethodParameter, Parameter, Unconstrained, unconstrained};

    Ok(match it.which()? {
        type_::Void(()) => Type::Void,
        type_::Bool(()) => Type::Bool,
        type_::Int8(()) => Type::Int8,
        type_::Int16(()) => Type::Int16,
        type_::Int32(()) => Type::Int32,
        type_::Int64(()) => Type::Int64,
        type_::Uint8(()) => Type::UInt8,
        type_::Uint16(()) => Type::UInt16,
        type_::Uint32(()) => Type::UInt32,
        type_::Uint64(()) => Type::UInt64,
        type_::Float32(()) => Type::Float32,
        type_::Float64(()) => Type::Float64,
        type_::Text(()) => Type::Text,
        type_::Data(()) => Type::Data,
        type_::List(it) => Type::List(Box::new(ty(it.get_element_type()?)?)),
        type_::Enum(it) => Type::Enum(reference(it.get_type_id(), it.get_brand()?)?),
        type_::Struct(it) => Type::Struct(reference(it.get_type_id(), it.get_brand()?)?),
        type_::Interface(it) => Type::Interface(reference(it.get_type_id(), it.get_brand()?)?),
        type_::AnyPointer(it) => match it.which()? {
            Unconstrained(it) => match it.which()? {
                unconstrained::AnyKind(()) => Type::AnyPointer,
                unconstrained::Struct(()) => Type::AnyStruct,
                unconstrained::List(()) => Type::AnyList,
                unconstrained::Capability(()) => Type::Capability,
            },
            Parameter(it) => Type::Parameter(it.get_scope_id(), it.get_parameter_index()),
            ImplicitMethodParameter(it) => Type::MethodParameter(it.get_parameter_index()),
        },
    })
}

fn reference(id: u64, brand: brand::Reader<'_>) -> capnp::Result<Reference> {
    let scopes = brand.get_scopes()?.iter().map(|scope| {
        let bindings = match scope.which()? {
            brand::scope::Inherit(()) => None,
            brand::scope::Bind(bindings) => {
                let bindings = bindings?.iter().map(|it| match it.which()? {
                    brand::binding::Unbound(()) => Ok(None),
                    brand::binding::Type(it) => ty(it?).map(Some),
                });
                Some(bindings.collect::<capnp::Result<_>>()?)
            }
        };
        Ok(Scope {
            id: scope.get_scope_id(),
            bindings,
        })
    });
    Ok(Reference {
        id,
        arguments: scopes.collect::<capnp::Result<_>>()?,
    })
}

fn default(it: value::Reader<'_>) -> capnp::Result<Vec<u8>> {
    let scalar = match it.which()? {
        value::Void(()) | value::Interface(()) => 0,
        value::Bool(v) => v.into(),
        value::Int8(v) => v as u64,
        value::Int16(v) => v as u64,
        value::Int32(v) => v as u64,
        value::Int64(v) => v as u64,
        value::Uint8(v) => v.into(),
        value::Uint16(v) | value::Enum(v) => v.into(),
        value::Uint32(v) => v.into(),
        value::Uint64(v) => v,
        value::Float32(v) => v.to_bits().into(),
        value::Float64(v) => v.to_bits(),
        value::Text(v) => return Ok(v?.as_bytes().to_owned()),
        value::Data(v) => return Ok(v?.to_owned()),
        value::List(v) | value::Struct(v) | value::AnyPointer(v) => return canonical(v),
    };
    Ok(match scalar {
        0 => Vec::new(),
        bits => bits.to_le_bytes().to_vec(),
    })
}

/// The value in its canonical form: a struct that has got more fields since is the same in it.
fn canonical(it: any_pointer::Reader<'_>) -> capnp::Result<Vec<u8>> {
    if it.is_null() {
        return Ok(Vec::new());
    }
    // It must go into one segment.
    let size = u32::try_from(it.target_size()?.word_count + 1)
        .map_err(|_| Error::failed("a default value is too large".to_owned()))?;
    let mut copy = message::Builder::new(message::HeapAllocator::new().first_segment_words(size));
    copy.set_root_canonical::<any_pointer::Owned>(it)?;
    Ok(copy.get_segments_for_output()[0].to_vec())
}
