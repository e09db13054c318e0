//! From a `CodeGeneratorRequest` to [`Node`]s of our own, which need no message to be read again.

use std::collections::{HashMap, HashSet};

use capnp::{
    Word, any_pointer, message,
    message::ReaderOptions,
    schema_capnp::{annotation, code_generator_request, field, node, type_, value},
    serialize, struct_list,
};

use super::{
    MAX_MEMBERS, MAX_NODES, SchemaError,
    annotations::Json,
    node::{Default, Field, FieldKind, InterfaceNode, Kind, MethodNode, Node, Struct, Type},
};
use crate::http_capnp;

type Result<T> = std::result::Result<T, SchemaError>;

/// A request as a message. Objects in it may overlap: how often they may be read again is bounded,
/// or a small request could stand for a huge schema.
pub(super) fn message(cgr: &[u8]) -> Result<message::Reader<serialize::OwnedSegments>> {
    let mut options = ReaderOptions::new();
    options.traversal_limit_in_words(Some((cgr.len() / 8).saturating_mul(4) + (1 << 16)));
    Ok(serialize::read_message(cgr, options)?)
}

/// All nodes of a request, in its order.
pub(super) fn nodes(cgr: &[u8]) -> Result<Vec<Node>> {
    let message = message(cgr)?;
    let request: code_generator_request::Reader = message.get_root()?;
    let mut loader = Loader { members: 0 };
    let mut docs = loader.docs(request)?;
    let nodes = request.get_nodes()?;
    if nodes.len() as usize > MAX_NODES {
        return Err(SchemaError::TooLarge("MAX_NODES"));
    }
    nodes
        .iter()
        .map(|node| loader.node(node, docs.remove(&node.get_id()).unwrap_or_default()))
        .collect()
}

/// The doc comments of a node and of its members, these in the order of the node.
#[derive(std::default::Default)]
struct Docs {
    node: String,
    members: Vec<String>,
}

struct Loader {
    members: usize,
}

impl Loader {
    fn count(&mut self, members: u32) -> Result<()> {
        self.members = self.members.saturating_add(members as usize);
        if self.members > MAX_MEMBERS {
            return Err(SchemaError::TooLarge("MAX_MEMBERS"));
        }
        Ok(())
    }

    fn docs(&mut self, request: code_generator_request::Reader<'_>) -> Result<HashMap<u64, Docs>> {
        let infos = request.get_source_info()?;
        if infos.len() as usize > MAX_NODES {
            return Err(SchemaError::TooLarge("MAX_NODES"));
        }
        let mut documented = 0;
        let mut docs = HashMap::new();
        for info in infos {
            let members = info.get_members()?;
            documented += members.len() as usize;
            if documented > MAX_MEMBERS {
                return Err(SchemaError::TooLarge("MAX_MEMBERS"));
            }
            let members = members
                .iter()
                .map(|member| Ok(doc(member.get_doc_comment()?.to_str()?)))
                .collect::<Result<_>>()?;
            let node = doc(info.get_doc_comment()?.to_str()?);
            docs.entry(info.get_id()).or_insert(Docs { node, members });
        }
        Ok(docs)
    }

    fn node(&mut self, node: node::Reader<'_>, mut docs: Docs) -> Result<Node> {
        let display_name = node.get_display_name()?.to_str()?.to_owned();
        let name = display_name
            .get(node.get_display_name_prefix_length() as usize..)
            .unwrap_or(&display_name)
            .to_owned();
        let kind = match node.which() {
            Ok(node::Struct(it)) => Kind::Struct(self.structure(it, node.get_annotations()?)?),
            Ok(node::Enum(it)) => {
                let enumerants = it.get_enumerants()?;
                self.count(enumerants.len())?;
                let names = enumerants
                    .iter()
                    .map(
                        |enumerant| match Json::read(enumerant.get_annotations()?)?.name {
                            Some(name) => Ok(name),
                            None => Ok(enumerant.get_name()?.to_str()?.to_owned()),
                        },
                    )
                    .collect::<Result<Vec<_>>>()?;
                let mut seen = HashSet::new();
                if let Some(twice) = names.iter().find(|name| !seen.insert(*name)) {
                    return Err(SchemaError::Inconsistent(format!(
                        "the JSON of {display_name}: two of its members are `{twice}` in JSON"
                    )));
                }
                Kind::Enum(names)
            }
            Ok(node::Interface(it)) => {
                let is_open = open(node.get_annotations()?)?.unwrap_or(false);
                Kind::Interface(self.interface(it, is_open, &mut docs.members)?)
            }
            Ok(node::Const(it)) => {
                let ty = ty(it.get_type()?)?;
                let value = default(&ty, it.get_value()?)?;
                Kind::Const(ty, value)
            }
            Ok(node::File(()) | node::Annotation(_)) | Err(_) => Kind::Other,
        };
        Ok(Node {
            id: node.get_id(),
            display_name,
            name,
            scope: node.get_scope_id(),
            doc: docs.node,
            kind,
        })
    }

    fn structure(
        &mut self,
        it: node::struct_::Reader<'_>,
        annotations: struct_list::Reader<'_, annotation::Owned>,
    ) -> Result<Struct> {
        let fields = it.get_fields()?;
        self.count(fields.len())?;
        let mut ordered = Vec::with_capacity(fields.len() as usize);
        for field in fields {
            let discriminant = field.get_discriminant_value();
            let json = Json::read(field.get_annotations()?)?;
            let declared = field.get_name()?.to_str()?;
            let wrong = |why| SchemaError::Inconsistent(format!("{declared}: {why}"));
            let mut read = Field {
                name: json.name.unwrap_or_else(|| declared.to_owned()),
                prefix: json.flatten,
                tag: json.discriminator,
                discriminant: (discriminant != field::NO_DISCRIMINANT).then_some(discriminant),
                kind: match field.which()? {
                    field::Slot(slot) => {
                        let ty = ty(slot.get_type()?)?;
                        FieldKind::Slot {
                            offset: slot.get_offset(),
                            default: default(&ty, slot.get_default_value()?)?,
                            ty,
                            explicit: slot.get_had_explicit_default(),
                        }
                    }
                    field::Group(group) => FieldKind::Group(group.get_type_id()),
                },
            };
            match &mut read.kind {
                FieldKind::Slot { .. } if read.tag.is_some() => {
                    return Err(wrong("only unions have a `discriminator`"));
                }
                FieldKind::Slot {
                    ty: ty @ Type::Data,
                    ..
                } if json.is_hex => *ty = Type::Hex,
                FieldKind::Slot { ty: Type::Data, .. } => {}
                _ if json.is_hex || json.is_base64 => {
                    return Err(wrong("only Data is hexadecimal or base64"));
                }
                _ => {}
            }
            ordered.push((field.get_code_order(), read));
        }
        ordered.sort_by_key(|(order, _)| *order);
        Ok(Struct {
            data_words: it.get_data_word_count(),
            pointers: it.get_pointer_count(),
            discriminants: it.get_discriminant_count(),
            discriminant_offset: it.get_discriminant_offset(),
            fields: ordered.into_iter().map(|(_, field)| field).collect(),
            tag: Json::read(annotations)?.discriminator,
            ..Struct::default()
        })
    }

    fn interface(
        &mut self,
        it: node::interface::Reader<'_>,
        is_open: bool,
        docs: &mut [String],
    ) -> Result<InterfaceNode> {
        let methods = it.get_methods()?;
        let superclasses = it.get_superclasses()?;
        self.count(methods.len())?;
        self.count(superclasses.len())?;
        if methods.len() > u32::from(u16::MAX) {
            return Err(SchemaError::Inconsistent(
                "an interface has more methods than there are ordinals".to_owned(),
            ));
        }
        let methods = methods.iter().enumerate().map(|(i, method)| {
            Ok(MethodNode {
                name: method.get_name()?.to_str()?.to_owned(),
                code_order: method.get_code_order(),
                params: method.get_param_struct_type(),
                results: method.get_result_struct_type(),
                doc: docs.get_mut(i).map(std::mem::take).unwrap_or_default(),
                is_open: open(method.get_annotations()?)?.unwrap_or(is_open),
            })
        });
        Ok(InterfaceNode {
            methods: methods.collect::<Result<_>>()?,
            superclasses: superclasses.iter().map(|it| it.get_id()).collect(),
        })
    }
}

/// The value of the annotation `$Http.open`, if it is there.
fn open(annotations: struct_list::Reader<'_, annotation::Owned>) -> Result<Option<bool>> {
    let mut found = annotations
        .iter()
        .filter(|it| it.get_id() == http_capnp::open::ID);
    let Some(open) = found.next() else {
        return Ok(None);
    };
    match open.get_value()?.which()? {
        value::Bool(open) => Ok(Some(open)),
        _ => Err(SchemaError::Inconsistent(
            "the annotation `open` of `http.capnp` is no Bool".to_owned(),
        )),
    }
}

/// A doc comment without the line end that the compiler leaves.
fn doc(text: &str) -> String {
    text.trim_end().to_owned()
}

/// Ends: the message's nesting limit bounds how deep lists of lists go.
fn ty(it: type_::Reader<'_>) -> Result<Type> {
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
        type_::Enum(it) => Type::Enum(it.get_type_id()),
        type_::Struct(it) => Type::Struct(it.get_type_id()),
        type_::Interface(it) => Type::Interface(it.get_type_id()),
        type_::AnyPointer(it) => match it.which()? {
            type_::any_pointer::Unconstrained(it)
                if matches!(
                    it.which(),
                    Ok(type_::any_pointer::unconstrained::Capability(()))
                ) =>
            {
                Type::Capability
            }
            _ => Type::AnyPointer,
        },
    })
}

fn default(ty: &Type, it: value::Reader<'_>) -> Result<Default> {
    Ok(match (ty, it.which()?) {
        (Type::Void, value::Void(())) => Default::Zero,
        (Type::Bool, value::Bool(v)) => Default::Bits(v.into()),
        (Type::Int8, value::Int8(v)) => Default::Bits(v as u64),
        (Type::Int16, value::Int16(v)) => Default::Bits(v as u64),
        (Type::Int32, value::Int32(v)) => Default::Bits(v as u64),
        (Type::Int64, value::Int64(v)) => Default::Bits(v as u64),
        (Type::UInt8, value::Uint8(v)) => Default::Bits(v.into()),
        (Type::UInt16, value::Uint16(v)) => Default::Bits(v.into()),
        (Type::UInt32, value::Uint32(v)) => Default::Bits(v.into()),
        (Type::UInt64, value::Uint64(v)) => Default::Bits(v),
        (Type::Float32, value::Float32(v)) => Default::Bits(v.to_bits().into()),
        (Type::Float64, value::Float64(v)) => Default::Bits(v.to_bits()),
        (Type::Enum(_), value::Enum(v)) => Default::Bits(v.into()),
        (Type::Text, value::Text(v)) => match v?.to_str()? {
            "" => Default::Zero,
            text => Default::Text(text.to_owned()),
        },
        (Type::Data, value::Data(v)) => match v? {
            [] => Default::Zero,
            data => Default::Data(data.to_owned()),
        },
        (Type::List(_), value::List(v)) | (Type::Struct(_), value::Struct(v)) => pointer(v)?,
        (Type::Interface(_) | Type::Capability | Type::AnyPointer, _) => Default::Zero,
        (ty, _) => {
            return Err(SchemaError::Inconsistent(format!(
                "a default is not of its field's type, {ty:?}"
            )));
        }
    })
}

fn pointer(it: any_pointer::Reader<'_>) -> Result<Default> {
    if it.is_null() {
        return Ok(Default::Zero);
    }
    let size = it.target_size()?.word_count.saturating_add(1);
    let first = u32::try_from(size).unwrap_or(u32::MAX).min(1 << 16);
    let mut copy = message::Builder::new(message::HeapAllocator::new().first_segment_words(first));
    copy.set_root::<any_pointer::Owned>(it)?;
    let bytes = serialize::write_message_to_words(&copy);
    let mut words = Word::allocate_zeroed_vec(bytes.len() / 8);
    Word::words_to_bytes_mut(&mut words).copy_from_slice(&bytes);
    Ok(Default::Message(words))
}
