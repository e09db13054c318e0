//! Schemas as text: the `.capnp` files that a compiled schema stands for.
//!
//! [`files`] writes one file for every file of a [`CodeGeneratorRequest`] that is not one of
//! [`SCHEMA_FILES`]. A file of text compiles to nodes with the ids, the members, the layout and the
//! annotations of the request, and has its doc comments. Not in a request, and so not in the text, are
//! comments of other kinds, `using` declarations and the names of constants behind defaults.
//!
//! The request may come from a vat that nobody trusts: see [`MAX_TEXT_BYTES`]. No name in it becomes
//! anything but a name, and no path leaves the folder [`FOLDER`].
//!
//! [`CodeGeneratorRequest`]: capnp::schema_capnp::code_generator_request

mod file;
mod names;
mod nodes;
mod value;

use std::collections::BTreeMap;

use capnp::{
    message::ReaderOptions,
    schema_capnp::{annotation, node, value as schema_value},
    serialize,
};

use crate::{SCHEMA_FILES, json::SchemaError};
use nodes::{Nodes, text};

/// The folder that the files of [`files`] are in, beside those of [`SCHEMA_FILES`]: the first part of
/// their paths, and what their Go and Java packages are called unless they say otherwise.
pub const FOLDER: &str = "classes";

/// How deep declarations, groups, types and values may be nested in a schema that becomes text.
const MAX_DEPTH: usize = 64;

/// The most text that [`files`] writes for one request: 64 MiB.
pub const MAX_TEXT_BYTES: usize = 64 << 20;

/// One schema file as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// The path to import it by, without the leading `/`: `classes/chat.capnp`.
    pub path: String,
    /// The text of the file.
    pub text: String,
}

/// The files of a request as text, in the order of their paths, without those of [`SCHEMA_FILES`].
///
/// A file that does not say which Go package, Java package or Java class its code belongs to is given
/// one, because the generators of these languages refuse a file without.
///
/// # Errors
///
/// If the request is damaged, contradicts itself, or exceeds a limit of this module or of
/// [`json`](crate::json).
pub fn files(request: &[u8]) -> Result<Vec<File>, SchemaError> {
    let mut files = every_file(request)?;
    files.retain(|file| SCHEMA_FILES.iter().all(|(path, _)| *path != file.path));
    Ok(files)
}

/// The files of a request as text, in the order of their paths, those of [`SCHEMA_FILES`] too: as the
/// request has them, which may be in part.
///
/// # Errors
///
/// As of [`files`].
pub fn every_file(request: &[u8]) -> Result<Vec<File>, SchemaError> {
    let mut options = ReaderOptions::new();
    // Names and scopes are read once for everything that refers to them.
    options.traversal_limit_in_words(Some((request.len() / 8).saturating_mul(64) + (1 << 20)));
    let message = serialize::read_message(request, options)?;
    let nodes = Nodes::new(message.get_root()?)?;
    let mut paths = Paths::shipped();
    for (&id, node) in &nodes.by_id {
        if matches!(node.which()?, node::File(())) && !paths.0.contains_key(&id) {
            paths.add(id, text(node.get_display_name()?)?);
        }
    }
    let mut budget = MAX_TEXT_BYTES;
    let mut files = Vec::new();
    for (&id, path) in &paths.0 {
        if !nodes.by_id.contains_key(&id) {
            continue;
        }
        let text = file::print(&nodes, &paths, id)?;
        budget = budget
            .checked_sub(text.len())
            .ok_or(SchemaError::TooLarge("MAX_TEXT_BYTES"))?;
        files.push(File {
            path: path.clone(),
            text,
        });
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

/// The path of each file, by its id.
struct Paths(BTreeMap<u64, String>);

impl Paths {
    fn shipped() -> Self {
        let id = |text: &str| {
            let digits = text.strip_prefix("@0x").and_then(|it| it.split(';').next());
            digits.and_then(|it| u64::from_str_radix(it, 16).ok())
        };
        let entry = |(path, text): &(&str, &str)| Some((id(text)?, (*path).to_owned()));
        Self(SCHEMA_FILES.iter().filter_map(entry).collect())
    }

    /// Finds a path for a file of that name: a relative one of harmless characters, which no other file
    /// has.
    fn add(&mut self, id: u64, name: &str) {
        let clean = |part: &str| -> String {
            let harmless = |c: char| {
                if c.is_ascii_alphanumeric() || "._-+".contains(c) {
                    c
                } else {
                    '_'
                }
            };
            part.chars().take(100).map(harmless).collect()
        };
        let name = name.strip_suffix(".capnp").unwrap_or(name);
        let parts = name.split('/').filter(|it| !it.is_empty() && *it != ".");
        let parts = parts.map(|it| if it == ".." { "up".into() } else { clean(it) });
        let name = parts.take(MAX_DEPTH).collect::<Vec<String>>().join("/");
        let mut path = format!("{FOLDER}/{name}.capnp");
        // Apart from case too, for file systems that do not tell them apart.
        if name.is_empty() || self.0.values().any(|it| it.eq_ignore_ascii_case(&path)) {
            path = format!("{FOLDER}/{name}-{id:016x}.capnp");
        }
        self.0.insert(id, path);
    }
}

/// The text that an annotation has as its value.
fn annotation_text(it: annotation::Reader<'_>) -> Result<Option<&str>, SchemaError> {
    match it.get_value()?.which()? {
        schema_value::Text(value) => Ok(Some(text(value?)?)),
        _ => Ok(None),
    }
}
