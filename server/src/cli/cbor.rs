//! Values of keys between CBOR, in which they are stored, and what people type and read.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ciborium::value::Value as Cbor;
use serde_json::{Map, Value as Json, json};

use super::json;

/// The stored form of anything that CBOR can be made of.
pub fn encode(value: &(impl serde::Serialize + ?Sized)) -> Vec<u8> {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes).expect("memory takes every write");
    bytes
}

/// The stored form of bytes.
pub fn encode_bytes(bytes: Vec<u8>) -> Vec<u8> {
    encode(&Cbor::Bytes(bytes))
}

/// What is stored, if it is one CBOR value and nothing else.
fn decode(mut stored: &[u8]) -> Option<Cbor> {
    let value = ciborium::from_reader(&mut stored).ok()?;
    stored.is_empty().then_some(value)
}

/// For a terminal: text as it is, anything else as JSON.
pub fn to_text(stored: &[u8]) -> String {
    match decode(stored) {
        Some(Cbor::Text(text)) => text,
        _ => json::text(&to_json(stored)),
    }
}

/// For a file: what a byte string or a text holds, and the stored bytes of anything else.
pub fn to_bytes(stored: &[u8]) -> Vec<u8> {
    match decode(stored) {
        Some(Cbor::Bytes(bytes)) => bytes,
        Some(Cbor::Text(text)) => text.into_bytes(),
        _ => stored.to_vec(),
    }
}

/// As JSON. A byte string is base64. What JSON has no form for gets a member that starts with `$`, as
/// do stored bytes that are not read, be it that they are not CBOR or a kind of it that nobody puts.
pub fn to_json(stored: &[u8]) -> Json {
    match decode(stored) {
        Some(value) => json_of(value),
        None => json!({ "$bytes": STANDARD.encode(stored) }),
    }
}

fn json_of(value: Cbor) -> Json {
    match value {
        Cbor::Null => Json::Null,
        Cbor::Bool(value) => value.into(),
        Cbor::Text(text) => text.into(),
        Cbor::Bytes(bytes) => STANDARD.encode(bytes).into(),
        Cbor::Float(value) => json::float(value),
        Cbor::Integer(value) => {
            let value = i128::from(value);
            match (i64::try_from(value), u64::try_from(value)) {
                (Ok(value), _) => value.into(),
                (_, Ok(value)) => value.into(),
                _ => value.to_string().into(),
            }
        }
        Cbor::Array(values) => values.into_iter().map(json_of).collect(),
        Cbor::Map(entries) => json_of_map(entries),
        Cbor::Tag(tag, value) => json!({ "$tag": tag, "value": json_of(*value) }),
        other => json!({ "$cbor": format!("{other:?}") }),
    }
}

/// An object if all keys are text and different, else the list of pairs.
fn json_of_map(entries: Vec<(Cbor, Cbor)>) -> Json {
    let mut object = Map::new();
    for (key, value) in &entries {
        let Cbor::Text(key) = key else { break };
        object.insert(key.clone(), json_of(value.clone()));
    }
    if object.len() == entries.len() {
        return Json::Object(object);
    }
    let pairs = entries.into_iter();
    let pairs: Json = pairs
        .map(|(key, value)| json!([json_of(key), json_of(value)]))
        .collect();
    json!({ "$map": pairs })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_comes_back() {
        for (value, text) in [
            (json!("plain\ntext"), "plain\ntext"),
            (json!(i64::MIN), "-9223372036854775808"),
            (json!(u64::MAX), "18446744073709551615"),
            (json!(0.5), "0.5"),
            (
                json!({"b": [1, null], "a": true}),
                r#"{"b":[1,null],"a":true}"#,
            ),
        ] {
            let stored = encode(&value);
            assert_eq!(to_json(&stored), value);
            assert_eq!(to_text(&stored), text);
        }
        let stored = encode_bytes(vec![0, 255]);
        assert_eq!(to_text(&stored), r#""AP8=""#);
        assert_eq!(to_bytes(&stored), [0, 255]);
    }

    #[test]
    fn nothing_is_lost_that_json_has_no_form_for() {
        let pairs = vec![
            (Cbor::from(1), Cbor::from("one")),
            (Cbor::from("a"), Cbor::Float(f64::NAN)),
        ];
        assert_eq!(
            to_json(&encode(&Cbor::Map(pairs))),
            json!({"$map": [[1, "one"], ["a", "NaN"]]})
        );
        let twice = vec![
            (Cbor::from("a"), Cbor::from(1)),
            (Cbor::from("a"), Cbor::from(2)),
        ];
        assert_eq!(
            to_json(&encode(&Cbor::Map(twice))),
            json!({"$map": [["a", 1], ["a", 2]]})
        );
        // The last one is CBOR: a simple value, which has no meaning.
        for garbage in [&[0xff][..], &[1, 1], &[], &[0xe0]] {
            assert_eq!(to_bytes(garbage), garbage);
            assert!(to_json(garbage)["$bytes"].is_string());
        }
    }
}
