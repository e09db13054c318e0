use std::collections::{BTreeMap, BTreeSet};

use capnp::schema_capnp::{code_generator_request, node};

use super::MAX_DEPTH;
use crate::json::{MAX_NODES, SchemaError};

pub(super) type Result<T> = std::result::Result<T, SchemaError>;

/// The nodes of a request, and what its source says of them.
pub(super) struct Nodes<'a> {
    pub by_id: BTreeMap<u64, node::Reader<'a>>,
    pub infos: BTreeMap<u64, node::source_info::Reader<'a>>,
    /// Every name that a declaration or a type parameter has.
    pub names: BTreeSet<&'a str>,
}

impl<'a> Nodes<'a> {
    pub fn new(request: code_generator_request::Reader<'a>) -> Result<Self> {
        let (nodes, infos) = (request.get_nodes()?, request.get_source_info()?);
        if nodes.len().max(infos.len()) as usize > MAX_NODES {
            return Err(SchemaError::TooLarge("MAX_NODES"));
        }
        let mut names = BTreeSet::new();
        for node in nodes {
            for nested in node.get_nested_nodes()? {
                names.insert(text(nested.get_name()?)?);
            }
            for parameter in node.get_parameters()? {
                names.insert(text(parameter.get_name()?)?);
            }
            if let node::Interface(it) = node.which()? {
                for method in it.get_methods()? {
                    for parameter in method.get_implicit_parameters()? {
                        names.insert(text(parameter.get_name()?)?);
                    }
                }
            }
        }
        Ok(Self {
            by_id: nodes.iter().map(|it| (it.get_id(), it)).collect(),
            infos: infos.iter().map(|it| (it.get_id(), it)).collect(),
            names,
        })
    }

    pub fn get(&self, id: u64) -> Result<node::Reader<'a>> {
        let missing = || SchemaError::Inconsistent(format!("there is no node @0x{id:016x}"));
        self.by_id.get(&id).copied().ok_or_else(missing)
    }

    /// A node and everything around it, from the file inwards.
    pub fn path(&self, id: u64) -> Result<Vec<node::Reader<'a>>> {
        let mut path = vec![self.get(id)?];
        while let Some(last) = path.last()
            && last.get_scope_id() != 0
        {
            if path.len() > MAX_DEPTH {
                return Err(SchemaError::TooLarge("MAX_DEPTH"));
            }
            path.push(self.get(last.get_scope_id())?);
        }
        path.reverse();
        Ok(path)
    }

    /// The doc comment of a node.
    pub fn doc(&self, id: u64) -> Result<&'a str> {
        match self.infos.get(&id) {
            Some(info) => text(info.get_doc_comment()?),
            None => Ok(""),
        }
    }

    /// The doc comment of a member of a node.
    pub fn member_doc(&self, id: u64, member: u32) -> Result<&'a str> {
        match self.infos.get(&id) {
            Some(info) => match info.get_members()?.try_get(member) {
                Some(member) => text(member.get_doc_comment()?),
                None => Ok(""),
            },
            None => Ok(""),
        }
    }

    /// The type parameters of a node.
    pub fn parameters(&self, node: node::Reader<'a>) -> Result<Vec<&'a str>> {
        let names = node.get_parameters()?;
        names.iter().map(|it| identifier(it.get_name()?)).collect()
    }
}

/// The name of a node inside of its scope.
pub(super) fn short_name<'a>(node: node::Reader<'a>) -> Result<&'a str> {
    let name = text(node.get_display_name()?)?;
    let short = name.get(node.get_display_name_prefix_length() as usize..);
    checked(short.unwrap_or_default())
}

pub(super) fn text(it: capnp::text::Reader<'_>) -> Result<&str> {
    Ok(it.to_str()?)
}

/// A name, if it is one: nothing else may come between the words of a file.
pub(super) fn identifier(it: capnp::text::Reader<'_>) -> Result<&str> {
    checked(text(it)?)
}

fn checked(name: &str) -> Result<&str> {
    let inner = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.chars().all(inner) {
        return Ok(name);
    }
    Err(SchemaError::Inconsistent(format!("{name:?} is no name")))
}
