use std::collections::BTreeMap;

use capnp::schema_capnp::{brand, node, type_};

use super::{
    MAX_DEPTH, Paths,
    nodes::{Nodes, Result, identifier, short_name},
};
use crate::json::SchemaError;

/// The names of the types that the compiler has built in.
const BUILT_IN: &[&str] = &[
    "Void",
    "Bool",
    "Int8",
    "Int16",
    "Int32",
    "Int64",
    "UInt8",
    "UInt16",
    "UInt32",
    "UInt64",
    "Float32",
    "Float64",
    "Text",
    "Data",
    "List",
    "AnyPointer",
    "AnyStruct",
    "AnyList",
    "Capability",
];

/// A place that names are looked up from: the nodes around it, from the file inwards, and the type
/// parameters of the method.
#[derive(Clone, Default)]
pub(super) struct Scope<'a> {
    pub nodes: Vec<node::Reader<'a>>,
    pub of_method: Vec<&'a str>,
}

/// The names that one file uses for what it refers to.
pub(super) struct Names<'a> {
    nodes: &'a Nodes<'a>,
    paths: &'a Paths,
    file: u64,
    /// The name in this file of each imported file, by the id of that.
    pub imports: BTreeMap<u64, String>,
}

impl<'a> Names<'a> {
    pub fn new(nodes: &'a Nodes<'a>, paths: &'a Paths, file: u64) -> Self {
        Self {
            nodes,
            paths,
            file,
            imports: BTreeMap::new(),
        }
    }

    /// The name of an imported file in this file; a file that has none yet is given one.
    pub fn import(&mut self, file: u64) -> Result<String> {
        if let Some(name) = self.imports.get(&file) {
            return Ok(name.clone());
        }
        let path = self.path_of(file)?;
        let stem = camel(path);
        let more = (2..).map(|n| format!("{stem}File{n}"));
        let mut tries = [stem.clone(), format!("{stem}File")]
            .into_iter()
            .chain(more);
        // Nothing in the file may hide it.
        let free = |it: &String| {
            !BUILT_IN.contains(&it.as_str())
                && !self.nodes.names.contains(it.as_str())
                && !self.imports.values().any(|other| other == it)
        };
        let name = tries.find(free).unwrap_or(stem);
        self.imports.insert(file, name.clone());
        Ok(name)
    }

    pub fn path_of(&self, file: u64) -> Result<&'a str> {
        let missing = || SchemaError::Inconsistent(format!("there is no file @0x{file:016x}"));
        self.paths
            .0
            .get(&file)
            .map(String::as_str)
            .ok_or_else(missing)
    }

    /// A declaration, with its type arguments, as it is called in `scope`.
    pub fn reference(
        &mut self,
        id: u64,
        brand: brand::Reader<'a>,
        scope: &Scope<'a>,
        depth: usize,
    ) -> Result<String> {
        let path = self.nodes.path(id)?;
        let scopes = brand.get_scopes()?;
        let around = |id: u64| scope.nodes.iter().any(|it| it.get_id() == id);
        // Inside of a generic type, what is declared there has its arguments: it is called by the name
        // that it has there.
        let mut start = 1;
        for (i, node) in path.iter().enumerate().skip(1) {
            let inherits = scopes.iter().any(|it| {
                it.get_scope_id() == node.get_id()
                    && matches!(it.which(), Ok(brand::scope::Inherit(())))
            });
            if inherits && i + 1 < path.len() && around(node.get_id()) {
                start = i + 1;
            }
        }
        let mut name = String::new();
        let (Some(&root), Some(&first)) = (path.first(), path.get(start)) else {
            return Err(SchemaError::Inconsistent(format!(
                "@0x{id:016x} cannot be referred to"
            )));
        };
        if start == 1 && root.get_id() != self.file {
            name = self.import(root.get_id())? + ".";
        } else if start == 1 && self.hidden(first, scope)? {
            name.push('.');
        }
        for (i, node) in path.iter().enumerate().skip(start) {
            if i > start {
                name.push('.');
            }
            name += short_name(*node)?;
            for it in scopes {
                if it.get_scope_id() != node.get_id() {
                    continue;
                }
                if let brand::scope::Bind(bindings) = it.which()? {
                    name += &self.arguments(bindings?, scope, depth)?;
                }
            }
        }
        Ok(name)
    }

    fn arguments(
        &mut self,
        bindings: capnp::struct_list::Reader<'a, brand::binding::Owned>,
        scope: &Scope<'a>,
        depth: usize,
    ) -> Result<String> {
        let mut arguments = Vec::new();
        let mut bound = false;
        for binding in bindings {
            arguments.push(match binding.which()? {
                brand::binding::Unbound(()) => "AnyPointer".to_owned(),
                brand::binding::Type(ty) => {
                    bound = true;
                    self.ty(ty?, scope, depth + 1)?
                }
            });
        }
        if !bound {
            return Ok(String::new());
        }
        Ok(format!("({})", arguments.join(", ")))
    }

    /// Whether something in between has the name of a declaration of the file.
    fn hidden(&self, declared: node::Reader<'a>, scope: &Scope<'a>) -> Result<bool> {
        let name = short_name(declared)?;
        if scope.of_method.contains(&name) {
            return Ok(true);
        }
        for node in scope.nodes.iter().skip(1) {
            for nested in node.get_nested_nodes()? {
                if identifier(nested.get_name()?)? == name && nested.get_id() != declared.get_id() {
                    return Ok(true);
                }
            }
            if self.nodes.parameters(*node)?.contains(&name) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// A type as it is written in `scope`.
    pub fn ty(&mut self, ty: type_::Reader<'a>, scope: &Scope<'a>, depth: usize) -> Result<String> {
        if depth > MAX_DEPTH {
            return Err(SchemaError::TooLarge("MAX_DEPTH"));
        }
        let name = match ty.which()? {
            type_::Void(()) => "Void",
            type_::Bool(()) => "Bool",
            type_::Int8(()) => "Int8",
            type_::Int16(()) => "Int16",
            type_::Int32(()) => "Int32",
            type_::Int64(()) => "Int64",
            type_::Uint8(()) => "UInt8",
            type_::Uint16(()) => "UInt16",
            type_::Uint32(()) => "UInt32",
            type_::Uint64(()) => "UInt64",
            type_::Float32(()) => "Float32",
            type_::Float64(()) => "Float64",
            type_::Text(()) => "Text",
            type_::Data(()) => "Data",
            type_::List(it) => {
                let element = self.ty(it.get_element_type()?, scope, depth + 1)?;
                return Ok(format!("List({element})"));
            }
            type_::Enum(it) => {
                return self.reference(it.get_type_id(), it.get_brand()?, scope, depth);
            }
            type_::Struct(it) => {
                return self.reference(it.get_type_id(), it.get_brand()?, scope, depth);
            }
            type_::Interface(it) => {
                return self.reference(it.get_type_id(), it.get_brand()?, scope, depth);
            }
            type_::AnyPointer(it) => match it.which()? {
                type_::any_pointer::Unconstrained(it) => match it.which()? {
                    type_::any_pointer::unconstrained::AnyKind(()) => "AnyPointer",
                    type_::any_pointer::unconstrained::Struct(()) => "AnyStruct",
                    type_::any_pointer::unconstrained::List(()) => "AnyList",
                    type_::any_pointer::unconstrained::Capability(()) => "Capability",
                },
                type_::any_pointer::Parameter(it) => {
                    let node = self.nodes.get(it.get_scope_id())?;
                    let parameters = self.nodes.parameters(node)?;
                    return parameter(&parameters, it.get_parameter_index());
                }
                type_::any_pointer::ImplicitMethodParameter(it) => {
                    return parameter(&scope.of_method, it.get_parameter_index());
                }
            },
        };
        Ok(name.to_owned())
    }
}

fn parameter(names: &[&str], index: u16) -> Result<String> {
    let missing = || SchemaError::Inconsistent(format!("there is no type parameter {index}"));
    let name = names.get(usize::from(index)).ok_or_else(missing)?;
    Ok((*name).to_owned())
}

/// The name of a file as a type would have it: `Cxx` of `capnp/c++.capnp`.
pub(super) fn camel(path: &str) -> String {
    let stem = path.rsplit('/').next().unwrap_or(path);
    let stem = stem.strip_suffix(".capnp").unwrap_or(stem);
    let mut name = String::new();
    let mut start = true;
    for c in stem.replace('+', "x").chars() {
        if !c.is_ascii_alphanumeric() {
            start = true;
        } else if start {
            name.push(c.to_ascii_uppercase());
            start = false;
        } else {
            name.push(c);
        }
    }
    if !name.starts_with(|c: char| c.is_ascii_alphabetic()) {
        name.insert_str(0, "File");
    }
    name
}
