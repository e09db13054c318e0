//! The members of structs' JSON objects, as the annotations of `/capnp/compat/json.capnp` want them.

use std::{
    collections::{BTreeMap, HashMap},
    mem,
};

use super::{
    MAX_DEPTH, MAX_MEMBERS, SchemaError,
    node::{Default, Field, FieldKind, Kind, Member, Node, Struct, Type},
};

type Result<T> = std::result::Result<T, SchemaError>;

/// How much of a name counts as one member more, in bytes: prefixes make names long.
const NAME_BYTES: usize = 64;

/// Finds the members of every struct. A schema whose annotations contradict each other is refused.
pub(super) fn lay_out(nodes: &mut [Node], by_id: &HashMap<u64, usize>) -> Result<()> {
    hand_over_tags(nodes, by_id);
    let progress = vec![Progress::Ahead; nodes.len()];
    let mut layout = Layout {
        nodes,
        by_id,
        progress,
        members: 0,
    };
    (0..layout.nodes.len()).try_for_each(|at| layout.lay_out(at, 0))
}

/// Moves the `discriminator` of a named union from its field, where it is annotated, to the union itself.
fn hand_over_tags(nodes: &mut [Node], by_id: &HashMap<u64, usize>) {
    let mut tags = Vec::new();
    for node in nodes.iter_mut() {
        let Kind::Struct(structure) = &mut node.kind else {
            continue;
        };
        for field in &mut structure.fields {
            if let (Some(mut tag), FieldKind::Group(id)) = (field.tag.take(), &field.kind) {
                tag.name.get_or_insert_with(|| field.name.clone());
                tags.push((*id, tag));
            }
        }
    }
    for (id, tag) in tags {
        let group = by_id.get(&id).map(|at| &mut nodes[*at].kind);
        if let Some(Kind::Struct(group)) = group {
            group.tag = Some(tag);
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Progress {
    Ahead,
    Begun,
    Done,
}

struct Layout<'n> {
    nodes: &'n mut [Node],
    by_id: &'n HashMap<u64, usize>,
    progress: Vec<Progress>,
    /// How many members structs have because others are flattened into them.
    members: usize,
}

impl Layout<'_> {
    /// Lays out a struct, after those that are flattened into it.
    fn lay_out(&mut self, at: usize, depth: usize) -> Result<()> {
        match self.progress[at] {
            Progress::Ahead => self.progress[at] = Progress::Begun,
            Progress::Begun => return Err(self.wrong(at, "it is flattened into itself")),
            Progress::Done => return Ok(()),
        }
        if depth > MAX_DEPTH {
            return Err(SchemaError::TooLarge("MAX_DEPTH"));
        }
        if let Kind::Struct(structure) = &mut self.nodes[at].kind {
            let mut structure = mem::take(structure);
            for field in structure.fields.iter().filter(|it| it.prefix.is_some()) {
                let flat = self.flattened(at, &structure, field)?;
                self.lay_out(flat, depth + 1)?;
            }
            self.name_members(at, &mut structure)?;
            self.nodes[at].kind = Kind::Struct(structure);
        }
        self.progress[at] = Progress::Done;
        Ok(())
    }

    /// The struct that a field of another one has flattened into it.
    fn flattened(&self, at: usize, structure: &Struct, field: &Field) -> Result<usize> {
        let id = match &field.kind {
            FieldKind::Group(id) => id,
            FieldKind::Slot {
                ty: Type::Struct(id),
                default: Default::Zero,
                ..
            } => id,
            FieldKind::Slot { .. } => {
                let why = "only structs without a default, groups and unions can be flattened";
                return Err(self.wrong(at, format!("{}: {why}", field.name)));
            }
        };
        if field.discriminant.is_some() && structure.tag.is_none() {
            let why = "a union whose members are flattened needs a `discriminator`";
            return Err(self.wrong(at, format!("{}: {why}", field.name)));
        }
        let found = self.by_id.get(id).copied();
        let found = found.filter(|at| matches!(self.nodes[*at].kind, Kind::Struct(_)));
        found.ok_or_else(|| self.wrong(at, format!("{}: there is no such struct", field.name)))
    }

    fn name_members(&mut self, at: usize, structure: &mut Struct) -> Result<()> {
        let mut names = Names::default();
        if let Some(tag) = &structure.tag {
            if structure.discriminants == 0 {
                return Err(self.wrong(at, "it has a `discriminator` and no union"));
            }
            let Some(name) = &tag.name else {
                let why = "the `discriminator` of a union without a name needs one";
                return Err(self.wrong(at, why));
            };
            self.add(at, &mut names, name.clone(), Member::Tag)?;
            if let Some(value) = &tag.value {
                self.add(at, &mut names, value.clone(), Member::Chosen)?;
            }
        }
        for (i, field) in structure.fields.iter().enumerate() {
            let variant = field.discriminant.and(structure.tag.as_ref());
            if let Some(prefix) = &field.prefix {
                let flat = self.flattened(at, structure, field)?;
                let Kind::Struct(flat) = &self.nodes[flat].kind else {
                    continue;
                };
                let mut added = Vec::with_capacity(flat.members.len());
                for (inner, (name, _)) in flat.members.iter().enumerate() {
                    self.members += 1 + (prefix.len() + name.len()) / NAME_BYTES;
                    if self.members > MAX_MEMBERS {
                        return Err(SchemaError::TooLarge("MAX_MEMBERS"));
                    }
                    added.push((format!("{prefix}{name}"), inner));
                }
                for (name, inner) in added {
                    let member = match variant {
                        Some(_) => Member::FlatChosen(BTreeMap::from([(i, inner)])),
                        None => Member::Flat {
                            field: i,
                            member: inner,
                        },
                    };
                    self.add(at, &mut names, name, member)?;
                }
            } else if variant.is_none_or(|tag| tag.value.is_none()) {
                self.add(at, &mut names, field.name.clone(), Member::Field(i))?;
            }
        }
        structure.members = names.members;
        structure.by_name = names.by_name;
        Ok(())
    }

    fn add(&self, at: usize, names: &mut Names, name: String, member: Member) -> Result<()> {
        let Some(known) = names.by_name.get(&name) else {
            names.by_name.insert(name.clone(), names.members.len());
            names.members.push((name, member));
            return Ok(());
        };
        match (&mut names.members[*known].1, member) {
            // Of members of one union, only one is there.
            (Member::FlatChosen(all), Member::FlatChosen(one)) => {
                all.extend(one);
                Ok(())
            }
            _ => Err(self.wrong(at, format!("two of its members are `{name}` in JSON"))),
        }
    }

    fn wrong(&self, at: usize, why: impl Into<String>) -> SchemaError {
        let name = &self.nodes[at].display_name;
        SchemaError::Inconsistent(format!("the JSON of {name}: {}", why.into()))
    }
}

#[derive(std::default::Default)]
struct Names {
    members: Vec<(String, Member)>,
    by_name: HashMap<String, usize>,
}
