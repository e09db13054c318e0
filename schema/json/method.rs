use std::fmt::Write;

use serde_json::Value;

use super::{
    Schemas,
    error::shorten,
    node::{Default, FieldKind, InterfaceNode, Kind, Node, Type},
};

/// The id of `StreamResult` in `/capnp/stream.capnp`: the results of a method that `-> stream`
/// declares.
const STREAM_RESULT: u64 = 0x995f_9a33_77c0_b16e;

/// An interface of a [`Schemas`].
#[derive(Clone, Copy, Debug)]
pub struct Interface<'s> {
    schemas: &'s Schemas,
    node: &'s Node,
    interface: &'s InterfaceNode,
}

/// A method: what a call needs to know.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Method {
    /// The interface that declares it, which may be one that the class extends: a call goes to this
    /// interface.
    pub interface_id: u64,
    /// Its number in that interface: a call goes to this number.
    pub ordinal: u16,
    /// Its name.
    pub name: String,
    /// The id of the struct of its parameters.
    pub params: u64,
    /// The id of the struct of its results.
    pub results: u64,
    /// Its doc comment.
    pub doc: String,
    /// Whether it may be called over HTTP: the annotation `open` of `http.capnp`, on the method or else on the
    /// interface that declares it.
    pub is_open: bool,
}

impl Method {
    /// Whether it is one of a stream of calls, which are answered when the callee takes more.
    pub fn is_streaming(&self) -> bool {
        self.results == STREAM_RESULT
    }
}

impl<'s> Interface<'s> {
    pub(super) fn new(schemas: &'s Schemas, node: &'s Node) -> Option<Self> {
        match &node.kind {
            Kind::Interface(interface) => Some(Self {
                schemas,
                node,
                interface,
            }),
            _ => None,
        }
    }

    /// Its id.
    pub fn id(&self) -> u64 {
        self.node.id
    }

    /// Its name, without file and scope.
    pub fn name(&self) -> &'s str {
        &self.node.name
    }

    /// Its name with file and scope, such as `vatwerk/counter.capnp:Counter`.
    pub fn display_name(&self) -> &'s str {
        &self.node.display_name
    }

    /// Its doc comment.
    pub fn doc(&self) -> &'s str {
        &self.node.doc
    }

    /// The ids of the interfaces that it extends itself.
    pub fn superclasses(&self) -> &'s [u64] {
        &self.interface.superclasses
    }

    /// Its methods, in the order of their declaration, then those of the interfaces that it
    /// extends, nearest first. An interface that is extended in several ways counts once.
    pub fn methods(&self) -> Vec<Method> {
        let lineage = self.schemas.lineage(self.id());
        lineage.iter().flat_map(Interface::own_methods).collect()
    }

    fn own_methods(&self) -> Vec<Method> {
        let methods = &self.interface.methods;
        let mut ordinals: Vec<usize> = (0..methods.len()).collect();
        ordinals.sort_by_key(|i| methods[*i].code_order);
        ordinals.into_iter().map(|i| self.at(i)).collect()
    }

    pub(super) fn own_method(&self, name: &str) -> Option<Method> {
        let methods = &self.interface.methods;
        Some(self.at(methods.iter().position(|it| it.name == name)?))
    }

    fn at(&self, ordinal: usize) -> Method {
        let method = &self.interface.methods[ordinal];
        Method {
            interface_id: self.id(),
            ordinal: u16::try_from(ordinal).expect("loading has checked the number of methods"),
            name: method.name.clone(),
            params: method.params,
            results: method.results,
            doc: method.doc.clone(),
            is_open: method.is_open,
        }
    }
}

impl Schemas {
    /// The method as a line of a schema, for people:
    /// `increment(amount :Int64 = 1) -> (count :Int64)`.
    pub fn signature(&self, method: &Method) -> String {
        let mut text = method.name.clone();
        self.sign(method.params, &mut text);
        text.push_str(" -> ");
        if method.is_streaming() {
            text.push_str("stream");
        } else {
            self.sign(method.results, &mut text);
        }
        text
    }

    /// A list of parameters or results, or the name of the struct that was declared in its stead.
    fn sign(&self, id: u64, text: &mut String) {
        let node = self.node(id);
        let (Some(node), Some(structure)) = (node, self.structure(id)) else {
            let _ = write!(text, "({})", self.name(id));
            return;
        };
        if node.scope != 0 {
            let _ = write!(text, "({})", node.name);
            return;
        }
        text.push('(');
        for (i, field) in structure.fields.iter().enumerate() {
            if i > 0 {
                text.push_str(", ");
            }
            let _ = write!(text, "{} :", field.name);
            match &field.kind {
                FieldKind::Group(_) => text.push_str("group"),
                FieldKind::Slot {
                    ty,
                    default,
                    explicit,
                    ..
                } => {
                    self.type_name(ty, text);
                    if *explicit {
                        let _ = write!(text, " = {}", self.default_text(ty, default));
                    }
                }
            }
        }
        text.push(')');
    }

    fn type_name(&self, ty: &Type, text: &mut String) {
        match ty {
            Type::List(element) => {
                text.push_str("List(");
                self.type_name(element, text);
                text.push(')');
            }
            Type::Enum(id) | Type::Struct(id) | Type::Interface(id) => {
                text.push_str(&self.name(*id));
            }
            Type::Hex => text.push_str("Data"),
            other => {
                let _ = write!(text, "{other:?}");
            }
        }
    }

    fn default_text(&self, ty: &Type, default: &Default) -> String {
        match (ty, self.preview_default(ty, default)) {
            (Type::Enum(_), Ok(Value::String(name))) => shorten(&name),
            (_, Ok(value)) => shorten(&value.to_string()),
            (_, Err(_)) => "...".to_owned(),
        }
    }
}
