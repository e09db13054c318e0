//! JSON as people and programs write it.

use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// Why a text is not taken as JSON.
#[derive(Debug)]
#[non_exhaustive]
pub enum ParseError {
    /// The text is no JSON, or an object in it has a key twice.
    Syntax(serde_json::Error),
    /// This integer fits neither 64 bits with a sign nor without.
    Rounded(String),
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax(error) if error.is_data() => error.fmt(f),
            Self::Syntax(error) => write!(f, "not JSON: {error}"),
            Self::Rounded(integer) => write!(
                f,
                "{integer} does not fit an integer of 64 bits; {integer}.0 is a float"
            ),
        }
    }
}

impl std::error::Error for ParseError {}

/// Reads JSON, but refuses integers that [`Value`] would round to the nearest float, and objects of which
/// it would keep the last of several values of one key.
pub fn parse(text: &str) -> Result<Value, ParseError> {
    let mut source = serde_json::Deserializer::from_str(text);
    let value = Strict.deserialize(&mut source);
    let value = value.and_then(|value| source.end().map(|()| value));
    let value = value.map_err(ParseError::Syntax)?;
    match rounded_integer(text) {
        Some(integer) => Err(ParseError::Rounded(integer.to_owned())),
        None => Ok(value),
    }
}

/// Makes a [`Value`] in which nothing is lost.
struct Strict;

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, source: D) -> Result<Value, D::Error> {
        source.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = seq.next_element_seed(Strict)? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut members = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            if members.contains_key(&key) {
                let key = super::error::shorten(&key);
                return Err(de::Error::custom(format!("`{key}` is there twice")));
            }
            members.insert(key, map.next_value_seed(Strict)?);
        }
        Ok(Value::Object(members))
    }
}

/// The first integer in valid JSON that neither `i64` nor `u64` holds.
pub(super) fn rounded_integer(json: &str) -> Option<&str> {
    let mut rest = json;
    while let Some(at) = rest.find(|c: char| c == '"' || c == '-' || c.is_ascii_digit()) {
        rest = &rest[at..];
        if let Some(string) = rest.strip_prefix('"') {
            rest = after_string(string);
            continue;
        }
        let part_of_number = |c: char| matches!(c, '0'..='9' | '-' | '+' | '.' | 'e' | 'E');
        let end = rest.find(|c| !part_of_number(c)).unwrap_or(rest.len());
        let (number, after) = rest.split_at(end);
        let float = number.contains(['.', 'e', 'E']);
        if !float && number.parse::<i64>().is_err() && number.parse::<u64>().is_err() {
            return Some(number);
        }
        rest = after;
    }
    None
}

/// What follows the string that has just begun.
fn after_string(text: &str) -> &str {
    let mut escaped = false;
    let end = text.find(|c| {
        let ends = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    });
    &text[end.map_or(text.len(), |quote| quote + 1)..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_read_as_they_are_or_not_at_all() {
        for text in [
            "-9223372036854775808",
            "18446744073709551615",
            "[0,-1,0.5]",
            r#"{"99999999999999999999":"\"99999999999999999999\\"}"#,
        ] {
            assert_eq!(parse(text).unwrap().to_string(), text);
        }
        for float in ["99999999999999999999.0", "1e30", " [ 1E+2 ] "] {
            parse(float).unwrap();
        }
        for (bad, said) in [
            ("18446744073709551616", "18446744073709551616 does not fit"),
            (
                r#"{"a\\":["\"",{"b":-9223372036854775809}]}"#,
                "-9223372036854775809 does not fit",
            ),
            ("[1,99999999999999999999]", "99999999999999999999 does not"),
            ("1e400", "out of range"),
            ("{", "not JSON"),
            ("[] 1", "not JSON"),
            (
                r#"[{"a":1,"b":{"c":1,"\u0063":2}}]"#,
                "`c` is there twice at line 1",
            ),
        ] {
            let error = parse(bad).unwrap_err().to_string();
            assert!(error.contains(said), "{bad}: {error}");
        }
    }
}
