//! JSON as arguments say it and as it is printed.

use serde_json::{Number, Value};

/// Reads JSON, but refuses integers that [`Value`] would round to the nearest float.
pub fn parse(text: &str) -> Result<Value, String> {
    let value = serde_json::from_str(text).map_err(|error| format!("not JSON: {error}"))?;
    match rounded_integer(text) {
        Some(integer) => Err(format!(
            "{integer} does not fit an integer of 64 bits; {integer}.0 is a float"
        )),
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

/// A float. JSON has no form for the ones that are not finite.
pub fn float(value: f64) -> Value {
    match Number::from_f64(value) {
        Some(number) => Value::Number(number),
        None => not_finite(value).into(),
    }
}

/// What a float is called that is not finite.
pub fn not_finite(value: f64) -> &'static str {
    match value {
        f64::INFINITY => "Infinity",
        f64::NEG_INFINITY => "-Infinity",
        _ => "NaN",
    }
}

/// JSON to print. All control characters in strings are escaped, those too that JSON lets pass,
/// since a terminal obeys them.
pub fn text(value: &Value) -> String {
    let text = value.to_string();
    if !text.contains(char::is_control) {
        return text;
    }
    let mut safe = String::with_capacity(text.len());
    for char in text.chars() {
        if char.is_control() {
            safe.push_str(&format!("\\u{:04x}", u32::from(char)));
        } else {
            safe.push(char);
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use serde_json::json;

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
            let error = parse(bad).unwrap_err();
            assert!(error.contains(said), "{bad}: {error}");
        }
    }

    #[test]
    fn printed_json_means_the_same_and_steers_no_terminal() {
        let value = json!({"\u{9b}2J": ["\u{1b}[2J\u{7f}\n\t", "\u{e9}"]});
        let printed = text(&value);
        assert!(!printed.contains(char::is_control), "{printed}");
        assert!(printed.contains("\\u009b2J") && printed.contains('\u{e9}'));
        assert_eq!(serde_json::from_str::<Value>(&printed).unwrap(), value);
    }

    #[test]
    fn floats_that_are_not_finite_have_names() {
        let values = [f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 0.5].map(float);
        assert_eq!(
            values,
            [
                json!("Infinity"),
                json!("-Infinity"),
                json!("NaN"),
                json!(0.5)
            ]
        );
    }
}
