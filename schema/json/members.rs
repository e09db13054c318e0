//! Parameters: the members of JSON objects, and which member of a union they are about.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, mem,
};

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{
    JsonError, Problem, Schemas, error,
    node::{Default, Field, FieldKind, Member, Struct, Type},
    raw::{Slots, Width},
    scalar::{Given, mismatch},
    write::{Measure, Place, Result, Source, Writer, not_json, size, words},
};

impl<'s> Writer<'s> {
    pub(super) fn members<'de, A: MapAccess<'de>>(
        &mut self,
        mut slots: Slots<'_>,
        structure: &'s Struct,
        mut map: A,
    ) -> std::result::Result<(), A::Error> {
        let deeper = self.deeper();
        self.check(deeper)?;
        let mut given = BTreeSet::new();
        let mut chosen = Chosen::default();
        let mut waiting = Vec::new();
        while let Some(name) = map.next_key_seed(Name(structure))? {
            let known = known(structure, name, &mut given);
            let member = self.check(known)?;
            if chosen.is_awaited(self.schemas, structure, member) {
                let value: Box<RawValue> = map.next_value()?;
                let mut lengths = Vec::new();
                let measured = value.get().read(Measure(&mut lengths));
                self.check(measured.map_err(|error| not_json(&error)))?;
                self.lengths.by_ref().take(lengths.len()).for_each(drop);
                waiting.push((member, value, lengths));
                continue;
            }
            let at = At {
                structure,
                member,
                chosen: &mut chosen,
                name: &structure.members[member].0,
            };
            self.member(slots.reborrow(), at, OfMap(&mut map))?;
        }
        self.late_members(slots, structure, chosen, waiting)?;
        self.depth -= 1;
        Ok(())
    }

    /// Writes the members that came before the one that tells which member of the union they are about.
    fn late_members<E: de::Error>(
        &mut self,
        mut slots: Slots<'_>,
        structure: &'s Struct,
        mut chosen: Chosen,
        mut waiting: Vec<(usize, Box<RawValue>, Vec<u32>)>,
    ) -> std::result::Result<(), E> {
        // One of them may tell what others wait for: no more often than unions are nested.
        while !waiting.is_empty() {
            let before = waiting.len();
            for (member, value, lengths) in mem::take(&mut waiting) {
                if chosen.is_awaited(self.schemas, structure, member) {
                    waiting.push((member, value, lengths));
                    continue;
                }
                let at = At {
                    structure,
                    member,
                    chosen: &mut chosen,
                    name: &structure.members[member].0,
                };
                let others = mem::replace(&mut self.lengths, lengths.into_iter());
                let done = self.member(slots.reborrow(), at, OfText(value.get()));
                self.lengths = others;
                done.map_err(E::custom)?;
            }
            if let (true, Some((member, ..))) = (waiting.len() == before, waiting.first()) {
                let error = JsonError::from(Problem::NoTag);
                return self.check(Err(error.in_field(&structure.members[*member].0)));
            }
        }
        Ok(())
    }

    /// Writes the value of a member of a JSON object: to a field, or to one of a struct that is flattened.
    fn member<'de, N: Next<'de>>(
        &mut self,
        mut slots: Slots<'_>,
        at: At<'_, 's>,
        next: N,
    ) -> std::result::Result<(), N::Error> {
        let At {
            structure,
            member,
            chosen,
            name,
        } = at;
        let (field, inner) = match &structure.members[member].1 {
            Member::Tag => {
                let mut told = None;
                let place = Place::Tag(structure, &mut told);
                let done = next.next(self.put_in(place));
                self.inside(done, |error| error.in_field(name))?;
                let done = told.map(|field| chosen.choose(&mut slots, structure, field));
                return self.check(done.unwrap_or(Ok(())));
            }
            Member::Field(field) => {
                let done = chosen.choose(&mut slots, structure, *field);
                self.check(done)?;
                (*field, None)
            }
            Member::Chosen => (chosen.field.unwrap_or_default(), None),
            Member::Flat { field, member } => (*field, Some(*member)),
            Member::FlatChosen(all) => {
                let field = chosen.field.unwrap_or_default();
                let Some(member) = all.get(&field) else {
                    let told = structure.fields[field].name.clone();
                    let error = JsonError::from(Problem::OfOther(told)).in_field(name);
                    return self.check(Err(error));
                };
                (field, Some(*member))
            }
        };
        let Some(member) = inner else {
            let done = self.value(slots, &structure.fields[field], next);
            return self.inside(done, |error| error.in_field(name));
        };
        let entered = self.enter(&mut slots, &structure.fields[field]);
        let (slots, structure) = self.check(entered)?;
        let chosen = chosen.inner.entry(field).or_default();
        let at = At {
            structure,
            member,
            chosen,
            name,
        };
        self.member(slots, at, next)
    }

    /// The struct, group or union that a field has flattened.
    fn enter<'a>(
        &mut self,
        slots: &'a mut Slots<'_>,
        field: &Field,
    ) -> Result<(Slots<'a>, &'s Struct)> {
        match &field.kind {
            FieldKind::Group(id) => Ok((slots.reborrow(), self.structure(*id)?)),
            FieldKind::Slot {
                offset,
                ty: Type::Struct(id),
                ..
            } => {
                let structure = self.structure(*id)?;
                let size = size(structure);
                let pointer = slots.pointer(*offset)?;
                if pointer.is_null() {
                    self.spend(words(size))?;
                }
                Ok((Slots::open(pointer, size)?, structure))
            }
            FieldKind::Slot { .. } => Err(Problem::Schema("no struct is flattened".into()).into()),
        }
    }

    fn value<'de, N: Next<'de>>(
        &mut self,
        mut slots: Slots<'_>,
        field: &Field,
        next: N,
    ) -> std::result::Result<(), N::Error> {
        match &field.kind {
            FieldKind::Group(id) => {
                let group = self.structure(*id);
                let group = self.check(group)?;
                next.next(self.put_in(Place::Struct(slots.reborrow(), group)))
            }
            FieldKind::Slot {
                offset,
                ty,
                default,
                ..
            } => match ty.width() {
                None => {
                    let pointer = slots.pointer(*offset).map_err(JsonError::from);
                    let pointer = self.check(pointer)?;
                    next.next(self.put_in(Place::Pointer(pointer, ty)))
                }
                Some(width) => {
                    let mut bits = None;
                    next.next(self.put_in(Place::Scalar {
                        ty,
                        bits: &mut bits,
                        skips_null: true,
                    }))?;
                    let Some(bits) = bits else { return Ok(()) };
                    let default = match default {
                        Default::Bits(bits) => *bits,
                        _ => 0,
                    };
                    let set = slots.set(width, *offset, bits ^ default);
                    self.check(set.map_err(JsonError::from))
                }
            },
        }
    }
}

/// The member of that name, which has no value yet.
fn known(
    structure: &Struct,
    name: std::result::Result<usize, String>,
    given: &mut BTreeSet<usize>,
) -> Result<usize> {
    let at = name.map_err(|name| {
        let known = structure.members.iter().map(|(name, _)| name.clone());
        let known = known.collect();
        JsonError::from(Problem::UnknownField { known }).in_field(&name)
    })?;
    if !given.insert(at) {
        return Err(JsonError::from(Problem::Twice).in_field(&structure.members[at].0));
    }
    Ok(at)
}

/// A member that is being written.
struct At<'a, 's> {
    structure: &'s Struct,
    /// By index in the struct.
    member: usize,
    chosen: &'a mut Chosen,
    /// In the object, with all prefixes.
    name: &'a str,
}

/// The members of unions that are set: of a struct's own, and of those that are flattened into it.
#[derive(std::default::Default)]
struct Chosen {
    field: Option<usize>,
    inner: BTreeMap<usize, Chosen>,
}

impl Chosen {
    /// Sets the member of the union that a field is, if it is one.
    fn choose(&mut self, slots: &mut Slots<'_>, structure: &Struct, at: usize) -> Result<()> {
        let field = &structure.fields[at];
        let Some(discriminant) = field.discriminant else {
            return Ok(());
        };
        if let Some(other) = self.field.filter(|other| *other != at) {
            let names = (structure.fields[other].name.clone(), field.name.clone());
            return Err(Problem::UnionConflict(names.0, names.1).into());
        }
        self.field = Some(at);
        slots.set(
            Width::W16,
            structure.discriminant_offset,
            discriminant.into(),
        )?;
        Ok(())
    }

    /// Whether a member is of a union of which it is not known yet which member is set.
    fn is_awaited(&self, schemas: &Schemas, structure: &Struct, member: usize) -> bool {
        let (field, member) = match &structure.members[member].1 {
            Member::Field(_) | Member::Tag => return false,
            Member::Chosen => return self.field.is_none(),
            Member::Flat { field, member } => (*field, *member),
            Member::FlatChosen(all) => match self.field.map(|field| (field, all.get(&field))) {
                None => return true,
                Some((_, None)) => return false,
                Some((field, Some(member))) => (field, *member),
            },
        };
        let (FieldKind::Group(id)
        | FieldKind::Slot {
            ty: Type::Struct(id),
            ..
        }) = &structure.fields[field].kind
        else {
            return false;
        };
        let Some(structure) = schemas.structure(*id) else {
            return false;
        };
        let nothing = Chosen::default();
        let inner = self.inner.get(&field).unwrap_or(&nothing);
        inner.is_awaited(schemas, structure, member)
    }
}

/// A value of JSON that comes next.
trait Next<'de> {
    type Error: de::Error;

    fn next<S: DeserializeSeed<'de>>(self, seed: S) -> std::result::Result<S::Value, Self::Error>;
}

/// The value of the member of an object whose name has been read.
struct OfMap<'a, A>(&'a mut A);

impl<'de, A: MapAccess<'de>> Next<'de> for OfMap<'_, A> {
    type Error = A::Error;

    fn next<S: DeserializeSeed<'de>>(self, seed: S) -> std::result::Result<S::Value, A::Error> {
        self.0.next_value_seed(seed)
    }
}

/// A text that has been found to be JSON.
struct OfText<'de>(&'de str);

impl<'de> Next<'de> for OfText<'de> {
    type Error = serde_json::Error;

    fn next<S: DeserializeSeed<'de>>(self, seed: S) -> serde_json::Result<S::Value> {
        self.0.read(seed)
    }
}

impl Struct {
    /// The member of the union that a tag names: its field, by index.
    pub(super) fn variant(&self, given: Given<'_>) -> std::result::Result<usize, Problem> {
        let is_variant = |field: &Field| field.discriminant.is_some();
        let named = |name| move |field: &Field| is_variant(field) && field.name == name;
        let found = match given {
            Given::Text(name) => self.fields.iter().position(named(name)),
            _ => None,
        };
        found.ok_or_else(|| {
            let known = self.fields.iter().filter(|field| is_variant(field));
            let known: Vec<_> = known.map(|field| field.name.clone()).collect();
            mismatch(format!("one of {}", error::list(&known)), given)
        })
    }
}

/// The name of a member: the index of its field, or the name if there is none.
pub(super) struct Name<'a>(&'a Struct);

impl<'de> DeserializeSeed<'de> for Name<'_> {
    type Value = std::result::Result<usize, String>;

    fn deserialize<D: Deserializer<'de>>(
        self,
        source: D,
    ) -> std::result::Result<Self::Value, D::Error> {
        source.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = std::result::Result<usize, String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> std::result::Result<Self::Value, E> {
        let known = self.0.by_name.get(name).copied();
        Ok(known.ok_or_else(|| name.to_owned()))
    }
}
