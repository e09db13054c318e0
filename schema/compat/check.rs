//! The comparison. Types are compared in pairs, each pair once, one after the other: neither types
//! that contain themselves nor deep ones are a problem.

use std::collections::{HashMap, HashSet, VecDeque};

use super::{
    error::{Change, Incompatible, Member},
    schema::{Field, FieldKind, Interface, Method, Reference, Schema, Type},
};

/// The id of `StreamResult` in `/capnp/stream.capnp`: the results of a method that `-> stream`
/// declares.
const STREAM_RESULT: u64 = 0x995f_9a33_77c0_b16e;

type Result<T> = std::result::Result<T, Incompatible>;

pub(super) struct Check<'s> {
    old: &'s Schema,
    new: &'s Schema,
    /// The pairs that have been found, by their ids.
    seen: HashSet<(u64, u64)>,
    todo: VecDeque<Pair<'s>>,
}

/// Something in the old schema and what is in its place in the new one.
enum Pair<'s> {
    Interface(u64),
    Struct {
        old: u64,
        new: u64,
        call: Call<'s>,
        role: Role,
    },
    Enum(u64, Call<'s>),
}

/// A method, by the old names: how something was come upon.
#[derive(Clone, Copy)]
struct Call<'s> {
    interface: &'s str,
    method: &'s str,
}

/// What a struct is to the method.
#[derive(Clone, Copy)]
enum Role {
    Parameters,
    Results,
    /// Something inside of them.
    Part,
}

impl Call<'_> {
    fn refuse(self, member: Member, change: Change) -> Incompatible {
        Incompatible::Member {
            interface: self.interface.to_owned(),
            method: self.method.to_owned(),
            member: Box::new(member),
            change,
        }
    }
}

impl<'s> Check<'s> {
    pub fn new(old: &'s Schema, new: &'s Schema) -> Self {
        Self {
            old,
            new,
            seen: HashSet::new(),
            todo: VecDeque::new(),
        }
    }

    pub fn run(mut self, interface_id: u64) -> Result<()> {
        self.later(Pair::Interface(interface_id));
        while let Some(pair) = self.todo.pop_front() {
            match pair {
                Pair::Interface(id) => self.interface(id)?,
                Pair::Struct {
                    old,
                    new,
                    call,
                    role,
                } => self.structure(old, new, call, role)?,
                Pair::Enum(id, call) => self.enumeration(id, call)?,
            }
        }
        Ok(())
    }

    fn later(&mut self, pair: Pair<'s>) {
        let ids = match pair {
            Pair::Interface(id) | Pair::Enum(id, _) => (id, id),
            Pair::Struct { old, new, .. } => (old, new),
        };
        if self.seen.insert(ids) {
            self.todo.push_back(pair);
        }
    }

    fn struct_later(&mut self, old: u64, new: u64, call: Call<'s>, role: Role) {
        self.later(Pair::Struct {
            old,
            new,
            call,
            role,
        });
    }

    fn interface(&mut self, id: u64) -> Result<()> {
        let (name, old) = self.old.interface(id)?;
        let (_, new) = self.new.interface(id)?;
        let superclasses = self.new_superclasses(new)?;
        for superclass in &old.superclasses {
            if !superclasses.contains(&superclass) {
                return Err(Incompatible::Superclass {
                    interface: name.to_owned(),
                    superclass: self.old.reference_name(superclass, false),
                });
            }
            self.later(Pair::Interface(superclass.id));
        }
        match misnumbered(&old.methods, &new.methods, |it| &it.name) {
            Some(Misnumbered::Removed(ordinal)) => {
                return Err(Incompatible::MethodRemoved {
                    interface: name.to_owned(),
                    method: old.methods[ordinal].name.clone(),
                    ordinal,
                });
            }
            Some(Misnumbered::Moved { was, is }) => {
                return Err(Incompatible::MethodRenumbered {
                    interface: name.to_owned(),
                    method: old.methods[was].name.clone(),
                    was,
                    is,
                });
            }
            None => {}
        }
        for (old, new) in old.methods.iter().zip(&new.methods) {
            let call = Call {
                interface: name,
                method: &old.name,
            };
            self.method(old, new, call)?;
        }
        Ok(())
    }

    /// What the new interface extends, directly or not.
    fn new_superclasses(&self, interface: &'s Interface) -> Result<Vec<&'s Reference>> {
        let mut all: Vec<_> = interface.superclasses.iter().collect();
        let mut seen: HashSet<_> = all.iter().map(|it| it.id).collect();
        let mut next = 0;
        while let Some(superclass) = all.get(next) {
            let (_, it) = self.new.interface(superclass.id)?;
            all.extend(it.superclasses.iter().filter(|it| seen.insert(it.id)));
            next += 1;
        }
        Ok(all)
    }

    fn method(&mut self, old: &Method, new: &Method, call: Call<'s>) -> Result<()> {
        let was = old.results.id == STREAM_RESULT;
        if was != (new.results.id == STREAM_RESULT) {
            return Err(Incompatible::Streaming {
                interface: call.interface.to_owned(),
                method: call.method.to_owned(),
                was,
            });
        }
        for (old, new, role) in [
            (&old.params, &new.params, Role::Parameters),
            (&old.results, &new.results, Role::Results),
        ] {
            if old.arguments != new.arguments {
                return Err(Incompatible::TypeArguments {
                    interface: call.interface.to_owned(),
                    method: call.method.to_owned(),
                });
            }
            self.struct_later(old.id, new.id, call, role);
            self.arguments(old, call);
        }
        Ok(())
    }

    fn structure(&mut self, old: u64, new: u64, call: Call<'s>, role: Role) -> Result<()> {
        let (name, old) = self.old.structure(old)?;
        let (_, new) = self.new.structure(new)?;
        let refuse = |field: &Field, change| {
            let (of, name) = (name.to_owned(), field.name.clone());
            let member = match role {
                Role::Parameters => Member::Parameter(name),
                Role::Results => Member::Result(name),
                Role::Part => Member::Field { of, name },
            };
            Err(call.refuse(member, change))
        };
        match misnumbered(&old.fields, &new.fields, |it| &it.name) {
            Some(Misnumbered::Removed(i)) => return refuse(&old.fields[i], Change::Removed),
            Some(Misnumbered::Moved { was, .. }) => {
                return refuse(&old.fields[was], Change::Renumbered);
            }
            None => {}
        }
        for (field, now) in old.fields.iter().zip(&new.fields) {
            let (was, is) = (field.discriminant, now.discriminant);
            if was != is {
                return refuse(field, Change::Union { was, is });
            }
            if was.is_some() && old.tag != new.tag {
                return refuse(field, Change::UnionTag);
            }
            if let Some(change) = self.field(field, now, call)? {
                return refuse(field, change);
            }
        }
        Ok(())
    }

    /// How the field has changed, apart from its place in a union.
    fn field(&mut self, old: &'s Field, new: &'s Field, call: Call<'s>) -> Result<Option<Change>> {
        match (&old.kind, &new.kind) {
            (FieldKind::Group(old), FieldKind::Group(new)) => {
                self.struct_later(*old, *new, call, Role::Part);
                Ok(None)
            }
            (FieldKind::Group(_), FieldKind::Slot { ty, .. }) => Ok(Some(Change::Type {
                was: "a group".to_owned(),
                is: self.new.type_name(ty, false),
            })),
            (FieldKind::Slot { ty, .. }, FieldKind::Group(group)) => {
                let (_, group) = self.new.structure(*group)?;
                match group.fields.first() {
                    Some(first) if matches!(first.kind, FieldKind::Slot { .. }) => {
                        match first.discriminant {
                            None => self.field(old, first, call),
                            is => Ok(Some(Change::Union { was: None, is })),
                        }
                    }
                    _ => Ok(Some(Change::Type {
                        was: self.old.type_name(ty, false),
                        is: "a group".to_owned(),
                    })),
                }
            }
            (
                FieldKind::Slot {
                    offset,
                    ty,
                    default,
                },
                FieldKind::Slot {
                    offset: new_offset,
                    ty: new_ty,
                    default: new_default,
                },
            ) => Ok(if !self.same_type(ty, new_ty, call)? {
                let names = |ids| (self.old.type_name(ty, ids), self.new.type_name(new_ty, ids));
                let (was, is) = match names(false) {
                    (was, is) if was == is => names(true),
                    names => names,
                };
                Some(Change::Type { was, is })
            } else if default != new_default {
                Some(Change::Default)
            } else if offset != new_offset {
                Some(Change::Offset)
            } else {
                None
            }),
        }
    }

    /// Whether one type may take the other's place, provided that what both refer to may, which is
    /// looked at later.
    fn same_type(&mut self, old: &Type, new: &Type, call: Call<'s>) -> Result<bool> {
        if old == new {
            self.mentioned(old, call);
            return Ok(true);
        }
        match (old, new) {
            (Type::List(old), Type::List(new)) => {
                if let Type::Struct(wrapper) = &**new
                    && may_be_wrapped(old)
                {
                    return self.is_wrapped(old, wrapper, call);
                }
                self.same_type(old, new, call)
            }
            _ => Ok(false),
        }
    }

    /// Whether a list of `old` is read and written alike as a list of `wrapper`.
    fn is_wrapped(&mut self, old: &Type, wrapper: &Reference, call: Call<'s>) -> Result<bool> {
        let (_, wrapper) = self.new.structure(wrapper.id)?;
        let Some(Field {
            discriminant: None,
            kind:
                FieldKind::Slot {
                    offset: 0,
                    ty,
                    default,
                },
            ..
        }) = wrapper.fields.first()
        else {
            return Ok(false);
        };
        Ok(default.is_empty() && self.same_type(old, ty, call)?)
    }

    /// Sees to it that what a type refers to, in both schemas, is compared.
    fn mentioned(&mut self, ty: &Type, call: Call<'s>) {
        match ty {
            Type::List(element) => self.mentioned(element, call),
            Type::Enum(it) => self.later(Pair::Enum(it.id, call)),
            Type::Struct(it) => {
                self.struct_later(it.id, it.id, call, Role::Part);
                self.arguments(it, call);
            }
            Type::Interface(it) => {
                self.later(Pair::Interface(it.id));
                self.arguments(it, call);
            }
            _ => {}
        }
    }

    fn arguments(&mut self, reference: &Reference, call: Call<'s>) {
        for scope in &reference.arguments {
            for ty in scope.bindings.iter().flatten().flatten() {
                self.mentioned(ty, call);
            }
        }
    }

    fn enumeration(&mut self, id: u64, call: Call<'s>) -> Result<()> {
        let (name, old) = self.old.enumeration(id)?;
        let (_, new) = self.new.enumeration(id)?;
        let (i, change) = match misnumbered(old, new, |it| it) {
            Some(Misnumbered::Removed(i)) => (i, Change::Removed),
            Some(Misnumbered::Moved { was, .. }) => (was, Change::Renumbered),
            None => return Ok(()),
        };
        let (of, name) = (name.to_owned(), old[i].clone());
        Err(call.refuse(Member::Enumerant { of, name }, change))
    }
}

/// What is wrong with the numbers of members.
enum Misnumbered {
    /// The old one of that number is gone.
    Removed(usize),
    /// Two that there were changed places: the numbers of one.
    Moved { was: usize, is: usize },
}

/// Whether members have kept their numbers, as far as names tell. Only a number counts in a message,
/// and a name may change; but when it goes to another number that there was, or when there are fewer
/// than there were, somebody thought that numbers can be used again.
fn misnumbered<T>(old: &[T], new: &[T], name: impl Fn(&T) -> &str) -> Option<Misnumbered> {
    let numbers = new.iter().take(old.len()).map(&name).zip(0..);
    let numbers: HashMap<&str, usize> = numbers.collect();
    let moved = old.iter().enumerate().find_map(|(was, it)| {
        let is = *numbers.get(name(it))?;
        (was != is).then_some((was, is))
    });
    match moved {
        Some((was, is)) if new.iter().any(|it| name(it) == name(&old[is])) => {
            Some(Misnumbered::Moved { was, is })
        }
        Some((_, is)) => Some(Misnumbered::Removed(is)),
        None if new.len() < old.len() => Some(Misnumbered::Removed(new.len())),
        None => None,
    }
}

/// Whether a list of these may become a list of structs that begin with one.
fn may_be_wrapped(element: &Type) -> bool {
    !matches!(
        element,
        Type::Bool
            | Type::Struct(_)
            | Type::Interface(_)
            | Type::AnyPointer
            | Type::AnyStruct
            | Type::AnyList
            | Type::Capability
            | Type::Parameter(..)
            | Type::MethodParameter(_)
    )
}
