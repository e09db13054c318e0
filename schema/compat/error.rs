use std::fmt;

/// Why an interface may not take the place of an earlier one. Names are those of the old schema.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Incompatible {
    /// A request is not a Cap'n Proto message, or damaged.
    Unreadable {
        /// Which of the two.
        version: Version,
        /// What is wrong with it.
        error: capnp::Error,
    },
    /// A request does not declare the interface, or something else that it refers to.
    Missing {
        /// Which of the two.
        version: Version,
        /// `interface`, `struct` or `enum`.
        kind: &'static str,
        /// Its id.
        id: u64,
    },
    /// An interface no longer extends another, or with other type arguments.
    Superclass {
        /// The interface.
        interface: String,
        /// The one it extended.
        superclass: String,
    },
    /// There is no method of that number any more.
    MethodRemoved {
        /// The interface that declared it.
        interface: String,
        /// Its name.
        method: String,
        /// Its number.
        ordinal: usize,
    },
    /// A method changed places with another.
    MethodRenumbered {
        /// The interface that declares it.
        interface: String,
        /// Its name.
        method: String,
        /// The number it had.
        was: usize,
        /// The number it has.
        is: usize,
    },
    /// A method streams now and did not, or the other way round.
    Streaming {
        /// The interface that declares it.
        interface: String,
        /// Its name.
        method: String,
        /// Whether it streamed.
        was: bool,
    },
    /// The struct of a method's parameters or results has other type arguments.
    TypeArguments {
        /// The interface that declares it.
        interface: String,
        /// Its name.
        method: String,
    },
    /// Something that a method takes or returns has changed.
    Member {
        /// The interface that declares the method.
        interface: String,
        /// The method's name: of those that take or return it, the first.
        method: String,
        /// What has changed.
        member: Box<Member>,
        /// How.
        change: Change,
    },
}

/// One of the two schemas that are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// What callers may have been compiled against.
    Old,
    /// What is to be served.
    New,
}

/// Something of which messages consist.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Member {
    /// A parameter of the method, by its name.
    Parameter(String),
    /// A result of the method, by its name.
    Result(String),
    /// A field of a struct or group.
    Field {
        /// The name of the struct or group.
        of: String,
        /// Its own.
        name: String,
    },
    /// A value of an enum.
    Enumerant {
        /// The name of the enum.
        of: String,
        /// Its own.
        name: String,
    },
}

/// How a [`Member`] has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// It is gone.
    Removed,
    /// It changed places with another.
    Renumbered,
    /// It is of another type.
    Type {
        /// The type it had.
        was: String,
        /// The type it has.
        is: String,
    },
    /// It is something else when nobody sets it.
    Default,
    /// It is elsewhere in the message.
    Offset,
    /// It entered or left a union, or has another number there.
    Union {
        /// The number it had, if it was in a union.
        was: Option<u16>,
        /// The number it has, if it is in one.
        is: Option<u16>,
    },
    /// What tells which member of its union is set is elsewhere in the message.
    UnionTag,
}

impl fmt::Display for Incompatible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { version, error } => {
                write!(f, "the {version} schema is not readable: {error}")
            }
            Self::Missing { version, kind, id } => {
                write!(f, "the {version} schema has no {kind} @{id:#018x}")
            }
            Self::Superclass {
                interface,
                superclass,
            } => write!(f, "{interface} extended {superclass} and does not any more"),
            Self::MethodRemoved {
                interface,
                method,
                ordinal,
            } => write!(f, "{interface}.{method} (@{ordinal}) was removed"),
            Self::MethodRenumbered {
                interface,
                method,
                was,
                is,
            } => write!(f, "{interface}.{method} was @{was} and is @{is}"),
            Self::Streaming {
                interface,
                method,
                was,
            } => {
                if *was {
                    write!(f, "{interface}.{method} was streaming and is not")
                } else {
                    write!(f, "{interface}.{method} was not streaming and is")
                }
            }
            Self::TypeArguments { interface, method } => write!(
                f,
                "{interface}.{method}: its parameters or results have other type arguments"
            ),
            Self::Member {
                interface,
                method,
                member,
                change,
            } => write!(f, "{interface}.{method}: {member} {change}"),
        }
    }
}

impl std::error::Error for Incompatible {}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Old => "old",
            Self::New => "new",
        })
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Parameter(name) => write!(f, "parameter `{name}`"),
            Self::Result(name) => write!(f, "result `{name}`"),
            Self::Field { of, name } => write!(f, "field `{name}` of {of}"),
            Self::Enumerant { of, name } => write!(f, "enumerant `{name}` of {of}"),
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Removed => write!(f, "was removed"),
            Self::Renumbered => write!(f, "has the number of another"),
            Self::Type { was, is } => write!(f, "was {was} and is {is}"),
            Self::Default => write!(f, "has another default"),
            Self::Offset => write!(f, "is elsewhere in the message"),
            Self::Union { was: None, .. } => write!(f, "was in no union and is in one"),
            Self::Union { is: None, .. } => write!(f, "was in a union and is in none"),
            Self::Union { .. } => write!(f, "has another number in its union"),
            Self::UnionTag => write!(f, "is in a union whose tag is elsewhere in the message"),
        }
    }
}
