use std::{fmt, str::FromStr};

/// The form of `Int64` and `UInt64` in results. Parameters take both forms always.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Int64 {
    /// JSON numbers, exactly. A reader whose numbers are all floats, as JavaScript's are, rounds those beyond 2^53.
    #[default]
    Number,
    /// JSON strings of decimal digits, as `capnp convert` prints them.
    String,
}

impl Int64 {
    /// The names of all forms.
    pub const NAMES: [&str; 2] = ["number", "string"];
}

/// The name of a form that there is not.
#[derive(Clone, Debug)]
pub struct UnknownInt64(String);

impl fmt::Display for UnknownInt64 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = super::error::shorten(&self.0);
        let known = Int64::NAMES.join(" or ");
        write!(f, "{name:?} is no form of 64-bit integers; say {known}")
    }
}

impl std::error::Error for UnknownInt64 {}

impl FromStr for Int64 {
    type Err = UnknownInt64;

    fn from_str(name: &str) -> Result<Self, UnknownInt64> {
        match name {
            "number" => Ok(Self::Number),
            "string" => Ok(Self::String),
            other => Err(UnknownInt64(other.to_owned())),
        }
    }
}
