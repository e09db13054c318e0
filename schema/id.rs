//! The 32 bytes that name an object.

use std::{fmt, str::FromStr};

/// Names one object of one class, for ever. Only a vat can tell which class it belongs to; equality
/// is equality of the bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId(pub [u8; ObjectId::LEN]);

/// Why bytes or text are not an [`ObjectId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidId {
    /// Not 32 bytes; the length it has.
    Length(usize),
    /// Not 64 hexadecimal digits.
    Text,
}

impl ObjectId {
    /// How many bytes an id has.
    pub const LEN: usize = 32;

    /// The bytes, as they are sent.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl TryFrom<&[u8]> for ObjectId {
    type Error = InvalidId;

    fn try_from(bytes: &[u8]) -> Result<Self, InvalidId> {
        bytes
            .try_into()
            .map(ObjectId)
            .map_err(|_| InvalidId::Length(bytes.len()))
    }
}

impl FromStr for ObjectId {
    type Err = InvalidId;

    /// Reads the text form: 64 hexadecimal digits of either case.
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let digits = text.as_bytes();
        if digits.len() != 2 * ObjectId::LEN {
            return Err(InvalidId::Text);
        }
        let digit = |byte: u8| (byte as char).to_digit(16).ok_or(InvalidId::Text);
        let mut id = [0; ObjectId::LEN];
        for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = (digit(pair[0])? * 16 + digit(pair[1])?) as u8;
        }
        Ok(ObjectId(id))
    }
}

/// The text form: 64 lower-case hexadecimal digits.
impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for InvalidId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InvalidId::Length(len) => write!(f, "an object id is 32 bytes, not {len}"),
            InvalidId::Text => f.write_str("an object id is written as 64 hexadecimal digits"),
        }
    }
}

impl std::error::Error for InvalidId {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips_and_is_checked() {
        let id = ObjectId(std::array::from_fn(|i| (i * 8 + 3) as u8));
        let text = id.to_string();
        assert_eq!(text.parse(), Ok(id));
        assert_eq!(text.to_uppercase().parse(), Ok(id));
        for bad in ["", &text[1..], &format!("{text}0"), &text.replace('0', "g")] {
            assert_eq!(bad.parse::<ObjectId>(), Err(InvalidId::Text), "{bad}");
        }
        assert_eq!(ObjectId::try_from(&[0; 31][..]), Err(InvalidId::Length(31)));
    }
}
