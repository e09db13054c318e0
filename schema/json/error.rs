use std::fmt;

/// Why a `CodeGeneratorRequest` cannot be used.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum SchemaError {
    /// It is not a Cap'n Proto message, or damaged.
    Message(capnp::Error),
    /// It is larger than this module takes; the name of the limit.
    TooLarge(&'static str),
    /// It contradicts itself.
    Inconsistent(String),
}

impl fmt::Display for SchemaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Message(error) => write!(f, "the schema is not readable: {error}"),
            Self::TooLarge(limit) => write!(f, "the schema is larger than {limit} allows"),
            Self::Inconsistent(what) => write!(f, "the schema contradicts itself: {what}"),
        }
    }
}

impl std::error::Error for SchemaError {}

impl From<capnp::Error> for SchemaError {
    fn from(error: capnp::Error) -> Self {
        Self::Message(error)
    }
}

impl From<std::str::Utf8Error> for SchemaError {
    fn from(error: std::str::Utf8Error) -> Self {
        Self::Message(error.into())
    }
}

impl From<capnp::NotInSchema> for SchemaError {
    fn from(error: capnp::NotInSchema) -> Self {
        Self::Message(error.into())
    }
}

/// Why a value cannot go from JSON to Cap'n Proto, or back, and where in it.
#[derive(Clone, Debug)]
pub struct JsonError {
    path: String,
    problem: Problem,
}

/// The kinds of [`JsonError`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Problem {
    /// The value is of another type, or out of its type's range.
    Mismatch {
        /// What would have been accepted.
        expected: String,
        /// What was there.
        got: String,
    },
    /// There is no member of that name.
    UnknownField {
        /// The names that there are, in the order of their declaration.
        known: Vec<String>,
    },
    /// The member is there twice.
    Twice,
    /// The text is not JSON; why, and where in it.
    NotJson(String),
    /// This integer fits neither 64 bits with a sign nor without.
    Rounded(String),
    /// The parameters are not an object.
    NoObject,
    /// The text would be longer than this, in bytes.
    LongText(usize),
    /// Two members of one union are set; the names of both.
    UnionConflict(String, String),
    /// The member belongs to a union's member that is set, and none is: the union's tag is missing.
    NoTag,
    /// The member does not belong to the member of the union that is set, whose name this is.
    OfOther(String),
    /// A value of this type cannot be written as JSON.
    Unsupported(&'static str),
    /// Text that is not UTF-8.
    NotUtf8,
    /// A limit of this module would be exceeded; which.
    LimitExceeded(&'static str),
    /// The parameters have been written before.
    AlreadyWritten,
    /// The schema contradicts itself or lacks something.
    Schema(String),
    /// The message is damaged.
    Message(capnp::Error),
}

impl JsonError {
    /// Where: names of members and indices of elements, such as `msg.lines[3]`. Empty for the whole.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// What is wrong there.
    pub fn problem(&self) -> &Problem {
        &self.problem
    }

    pub(super) fn in_field(mut self, name: &str) -> Self {
        let dot = match self.path.chars().next() {
            None | Some('[') => "",
            Some(_) => ".",
        };
        self.path = format!("{}{dot}{}", shorten(name), self.path);
        self
    }

    pub(super) fn in_element(mut self, index: usize) -> Self {
        let dot = match self.path.chars().next() {
            None | Some('[') => "",
            Some(_) => ".",
        };
        self.path = format!("[{index}]{dot}{}", self.path);
        self
    }
}

impl From<Problem> for JsonError {
    fn from(problem: Problem) -> Self {
        Self {
            path: String::new(),
            problem,
        }
    }
}

impl From<capnp::Error> for JsonError {
    fn from(error: capnp::Error) -> Self {
        Problem::Message(error).into()
    }
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        write!(f, "{}", self.problem)
    }
}

impl std::error::Error for JsonError {}

/// How many names an error lists.
const MAX_LISTED: usize = 40;

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mismatch { expected, got } => write!(f, "expected {expected}, got {got}"),
            Self::UnknownField { known } if known.is_empty() => {
                write!(f, "no such field; there are none")
            }
            Self::UnknownField { known } => {
                write!(f, "no such field; there are {}", list(known))
            }
            Self::Twice => write!(f, "it is there twice"),
            Self::NotJson(why) => write!(f, "not JSON: {why}"),
            Self::Rounded(integer) => write!(
                f,
                "{integer} does not fit an integer of 64 bits; {integer}.0 is a float"
            ),
            Self::LongText(limit) => write!(f, "more than {limit} bytes of JSON"),
            Self::NoObject => write!(f, "the parameters of a call are a JSON object"),
            Self::UnionConflict(one, other) => {
                write!(
                    f,
                    "{one} and {other} are members of one union: set one of them"
                )
            }
            Self::NoTag => write!(
                f,
                "it is of a union, and nothing says which member of that is set"
            ),
            Self::OfOther(set) => write!(
                f,
                "it is of another member of the union than {}, which is set",
                shorten(set)
            ),
            Self::Unsupported(what) => write!(f, "{what} cannot be given as JSON"),
            Self::NotUtf8 => write!(f, "the text is not UTF-8"),
            Self::LimitExceeded(limit) => write!(f, "larger than {limit} allows"),
            Self::AlreadyWritten => write!(f, "the parameters have been written already"),
            Self::Schema(what) => write!(f, "the schema is of no use here: {what}"),
            Self::Message(error) => write!(f, "the message is damaged: {error}"),
        }
    }
}

/// Names for people, and not too many of them.
pub(super) fn list(names: &[String]) -> String {
    let mut text = names
        .iter()
        .take(MAX_LISTED)
        .map(|name| shorten(name))
        .collect::<Vec<_>>()
        .join(", ");
    if names.len() > MAX_LISTED {
        text.push_str(", ...");
    }
    text
}

/// How much of a text an error repeats, in characters.
const MAX_QUOTED: usize = 60;

/// The start of a text, whole if it is short.
pub(super) fn shorten(text: &str) -> String {
    match text.char_indices().nth(MAX_QUOTED) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}...", &text[..end]),
    }
}
