use std::collections::{BTreeSet, HashMap, HashSet};

use serde_json::Value;

use super::{
    Interface, JsonError, Method, SchemaError, layout, load,
    node::{Kind, Node, Struct},
};

/// Everything that a `CodeGeneratorRequest` declares, ready for calls by reflection.
#[derive(Debug)]
pub struct Schemas {
    nodes: Vec<Node>,
    by_id: HashMap<u64, usize>,
}

/// A constant of a schema.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Constant {
    /// Its name, without file and scope.
    pub name: String,
    /// Its name with file and scope, such as `vatwerk/limit.capnp:notFound`.
    pub display_name: String,
    /// Its doc comment.
    pub doc: String,
    /// Its value.
    pub value: Value,
}

impl Schemas {
    /// Reads a request: the bytes that `capnp compile -o-` prints and `Vat.describe` returns. They
    /// need not be trusted.
    pub fn load(cgr: &[u8]) -> Result<Self, SchemaError> {
        let mut nodes = load::nodes(cgr)?;
        let mut seen = HashSet::new();
        nodes.retain(|node| seen.insert(node.id));
        let by_id = nodes.iter().enumerate().map(|(i, node)| (node.id, i));
        let by_id = by_id.collect();
        layout::lay_out(&mut nodes, &by_id)?;
        Ok(Self { by_id, nodes })
    }

    /// The interface of that id.
    pub fn interface(&self, id: u64) -> Option<Interface<'_>> {
        Interface::new(self, self.node(id)?)
    }

    /// All interfaces, in the order of the request.
    pub fn interfaces(&self) -> impl Iterator<Item = Interface<'_>> {
        self.nodes
            .iter()
            .filter_map(|node| Interface::new(self, node))
    }

    /// The first interface of that name: `Counter`, or, to be sure which of several,
    /// `vatwerk/counter.capnp:Counter` or `@0xb8f725b103f79538`.
    pub fn interface_named(&self, name: &str) -> Option<Interface<'_>> {
        if let Some(hex) = name.strip_prefix("@0x") {
            return self.interface(u64::from_str_radix(hex, 16).ok()?);
        }
        self.interfaces()
            .find(|it| it.name() == name || it.display_name() == name)
    }

    /// Whether there is an interface of that id.
    pub fn has_interface(&self, id: u64) -> bool {
        self.interface(id).is_some()
    }

    /// The ids of all interfaces that an object of this interface answers: its own and all that it
    /// extends, as far as the request has them. Empty if there is no such interface.
    pub fn answers(&self, interface_id: u64) -> BTreeSet<u64> {
        self.lineage(interface_id)
            .iter()
            .map(Interface::id)
            .collect()
    }

    /// An interface and all that it extends, each once, nearest first.
    pub(super) fn lineage(&self, interface_id: u64) -> Vec<Interface<'_>> {
        let mut lineage: Vec<_> = self.interface(interface_id).into_iter().collect();
        let mut seen = HashSet::from([interface_id]);
        let mut next = 0;
        while let Some(interface) = lineage.get(next) {
            let parents: Vec<_> = interface
                .superclasses()
                .iter()
                .filter(|id| seen.insert(**id))
                .filter_map(|id| self.interface(*id))
                .collect();
            lineage.extend(parents);
            next += 1;
        }
        lineage
    }

    /// A method of an interface or of one that it extends; of several of one name, the nearest.
    pub fn method(&self, interface_id: u64, name: &str) -> Option<Method> {
        self.lineage(interface_id)
            .iter()
            .find_map(|interface| interface.own_method(name))
    }

    /// All constants, in the order of the request.
    pub fn constants(&self) -> impl Iterator<Item = Result<Constant, JsonError>> {
        self.nodes.iter().filter_map(|node| match &node.kind {
            Kind::Const(ty, value) => Some(self.read_default(ty, value).map(|value| Constant {
                name: node.name.clone(),
                display_name: node.display_name.clone(),
                doc: node.doc.clone(),
                value,
            })),
            _ => None,
        })
    }

    pub(super) fn node(&self, id: u64) -> Option<&Node> {
        self.nodes.get(*self.by_id.get(&id)?)
    }

    pub(super) fn structure(&self, id: u64) -> Option<&Struct> {
        match &self.node(id)?.kind {
            Kind::Struct(it) => Some(it),
            _ => None,
        }
    }

    /// A declaration's name for people, or its id if the request does not have it.
    pub(super) fn name(&self, id: u64) -> String {
        self.node(id)
            .map_or_else(|| format!("@{id:#018x}"), |node| node.name.clone())
    }
}
