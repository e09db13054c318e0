//! JSON as it is printed.

use serde_json::{Number, Value};

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
