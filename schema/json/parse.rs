//! JSON as people and programs write it.

use std::fmt;

use serde_json::Value;

/// Why a text is not taken as JSON.
#[derive(Debug)]
#[non_exhaustive]
pub enum ParseError {
    /// It is no JSON.
    Syntax(serde_json::Error),
    /// This integer fits neither 64 bits with a sign nor without.
    Rounded(String),
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax(error) => write!(f, "not JSON: {error}"),
            Self::Rounded(integer) => write!(
                f,
                "{integer} does not fit an integer of 64 bits; {integer}.0 is a float"
            ),
        }
    }
}

impl std::error::Error for ParseError {}

/// Reads JSON, but refuses integers that [`Value`] would round to the nearest float.
pub fn parse(text: &str) -> Result<Value, ParseError> {
    let value = serde_json::from_str(text).map_err(ParseError::Syntax)?;
    match rounded_integer(text) {
        Some(integer) => Err(ParseError::Rounded(integer.to_owned())),
        None => Ok(value),
    }
}

/// The first integer in valid JSON that neither `i64` nor `u64` holds.
fn rounded_integer(json: &str) -> Option<&str> {
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
        ] {
            let error = parse(bad).unwrap_err().to_string();
            assert!(error.contains(said), "{bad}: {error}");
        }
    }
}
