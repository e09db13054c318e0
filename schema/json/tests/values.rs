//! There and back, and what is refused.

use capnp::message;
use serde_json::{Value, json};

use super::{everything, target, trip};
use crate::json::{Int64, JsonError, MAX_DEPTH, Problem};

/// What comes back of one parameter.
fn field(method: &str, name: &str, value: Value) -> Result<Value, JsonError> {
    let schemas = everything();
    let mut back = trip(&schemas, &target(&schemas, method), &json!({ name: value }))?;
    Ok(back[name].take())
}

#[test]
fn scalars_keep_their_extremes() {
    for (name, values) in [
        ("void", vec![json!(null)]),
        ("bool", vec![json!(true), json!(false)]),
        ("int8", vec![json!(i8::MIN), json!(i8::MAX), json!(0)]),
        ("int16", vec![json!(i16::MIN), json!(i16::MAX)]),
        ("int32", vec![json!(i32::MIN), json!(i32::MAX)]),
        ("int64", vec![json!(i64::MIN), json!(i64::MAX), json!(-1)]),
        ("uint8", vec![json!(u8::MAX)]),
        ("uint16", vec![json!(u16::MAX)]),
        ("uint32", vec![json!(u32::MAX)]),
        ("uint64", vec![json!(u64::MAX), json!(0)]),
        (
            "float32",
            vec![json!(0.1), json!(-2.5), json!(3.4028235e38), json!("NaN")],
        ),
        (
            "float64",
            vec![
                json!(0.1),
                json!(f64::MAX),
                json!(f64::MIN_POSITIVE),
                json!("Infinity"),
                json!("-Infinity"),
                json!("NaN"),
            ],
        ),
        ("color", vec![json!("red"), json!("blue"), json!(77)]),
        (
            "text",
            vec![json!(""), json!("caf\u{e9} \"quoted\" \u{1f600}\u{0}")],
        ),
        ("data", vec![json!(""), json!("AAH/"), json!("AA==")]),
    ] {
        for value in values {
            assert_eq!(
                field("scalars", name, value.clone()).unwrap(),
                value,
                "{name}"
            );
        }
    }
}

#[test]
fn scalars_are_taken_in_other_forms_too() {
    for (name, given, kept) in [
        ("int64", json!("-9223372036854775808"), json!(i64::MIN)),
        ("uint64", json!("18446744073709551615"), json!(u64::MAX)),
        ("int8", json!(5.0), json!(5)),
        ("float64", json!(3), json!(3.0)),
        ("color", json!(2), json!("blue")),
        ("text", json!(null), json!("")),
        ("int32", json!(null), json!(0)),
    ] {
        assert_eq!(field("scalars", name, given).unwrap(), kept, "{name}");
    }
}

#[test]
fn integers_of_64_bits_may_be_read_as_strings() {
    let schemas = everything();
    for (method, given, strings) in [
        (
            "scalars",
            json!({ "int64": i64::MIN, "uint64": u64::MAX, "int32": -1 }),
            json!({ "int64": i64::MIN.to_string(), "uint64": u64::MAX.to_string(), "int32": -1 }),
        ),
        (
            "defaults",
            json!({}),
            json!({ "int64": i64::MIN.to_string(), "uint64": u64::MAX.to_string(), "int8": -5 }),
        ),
    ] {
        let method = target(&schemas, method);
        let numbers = trip(&schemas, &method, &given).unwrap();
        let mut sent = message::Builder::new_default();
        schemas
            .write_params(&method, &given, sent.init_root())
            .unwrap();
        let root = || sent.get_root_as_reader().unwrap();
        let read = schemas
            .read_results(&method, root(), Int64::String)
            .unwrap();
        let text = schemas.results_text(&method, root(), Int64::String, usize::MAX);
        assert_eq!(text.unwrap(), read.to_string());
        for (name, value) in strings.as_object().unwrap() {
            assert_eq!(&read[name], value, "{name}");
        }
        // They are taken as they are printed.
        assert_eq!(trip(&schemas, &method, &read).unwrap(), numbers);
    }
}

#[test]
fn missing_fields_have_their_defaults() {
    let schemas = everything();
    let defaults = json!({
        "bool": true,
        "int8": -5,
        "int64": i64::MIN,
        "uint64": u64::MAX,
        "float32": 0.1,
        "float64": "-Infinity",
        "color": "blue",
        "text": "hello",
        "data": "AQL/",
        "numbers": [1, -2, 3],
        "point": { "x": 7, "y": 10, "label": "seven" },
        "points": [
            { "x": 1, "y": 10, "label": "" },
            { "x": 0, "y": 2, "label": "" },
        ],
    });
    let method = target(&schemas, "defaults");
    for nothing in [
        json!({}),
        json!(null),
        json!({ "int8": null, "point": null }),
    ] {
        assert_eq!(trip(&schemas, &method, &nothing).unwrap(), defaults);
    }
    let zeros = json!({
        "bool": false,
        "int8": 0,
        "int64": 0,
        "uint64": 0,
        "float32": 0.0,
        "float64": 0.0,
        "color": "red",
        "text": "",
        "data": "",
        "numbers": [],
        "point": { "x": 0, "y": 0, "label": "" },
        "points": [],
    });
    assert_eq!(trip(&schemas, &method, &zeros).unwrap(), zeros);
    assert_eq!(trip(&schemas, &method, &defaults).unwrap(), defaults);
}

#[test]
fn unions_have_the_member_that_is_set() {
    let schemas = everything();
    let method = target(&schemas, "shape");
    for (given, kept) in [
        (
            json!({}),
            json!({ "later": false, "empty": null, "fill": { "none": null } }),
        ),
        (
            json!({ "later": true, "empty": null, "fill": {} }),
            json!({ "later": true, "empty": null, "fill": { "none": null } }),
        ),
        (
            json!({ "circle": 1.5, "fill": { "color": "green" } }),
            json!({ "later": false, "circle": 1.5, "fill": { "color": "green" } }),
        ),
        (
            json!({ "rectangle": { "width": 4 }, "fill": { "pattern": "dots" } }),
            json!({
                "later": false,
                "rectangle": { "width": 4, "height": 3 },
                "fill": { "pattern": "dots" },
            }),
        ),
        (
            json!({ "corner": { "x": 1 } }),
            json!({
                "later": false,
                "corner": { "x": 1, "y": 10, "label": "" },
                "fill": { "none": null },
            }),
        ),
        (
            json!({ "circle": null, "fill": { "pattern": null } }),
            json!({ "later": false, "circle": 0.0, "fill": { "pattern": "" } }),
        ),
    ] {
        assert_eq!(trip(&schemas, &method, &given).unwrap(), kept);
    }
}

#[test]
fn lists_hold_everything() {
    for (name, value) in [
        ("voids", json!([null, null, null])),
        (
            "bools",
            json!([true, false, true, true, false, false, true, true, true]),
        ),
        ("int8s", json!([-128, 127, 0])),
        ("int64s", json!([i64::MIN, i64::MAX])),
        ("floats", json!([0.1, "NaN", -1.0])),
        ("colors", json!(["green", "red", 9])),
        ("texts", json!(["a", "", "ccc"])),
        ("datas", json!(["AA==", ""])),
        (
            "points",
            json!([{ "x": 1, "y": 2, "label": "p" }, { "x": 0, "y": 10, "label": "" }]),
        ),
        (
            "shapes",
            json!([
                { "later": true, "circle": 2.0, "fill": { "pattern": "p" } },
                { "later": false, "empty": null, "fill": { "none": null } },
            ]),
        ),
        ("matrix", json!([[1, 2], [], [-3]])),
        ("words", json!([[["a", "b"], []], [], [["c"]]])),
        ("grid", json!([[{ "x": 1, "y": 2, "label": "" }], []])),
        ("empties", json!([{}, {}, {}])),
    ] {
        assert_eq!(
            field("lists", name, value.clone()).unwrap(),
            value,
            "{name}"
        );
        assert_eq!(
            field("lists", name, json!([])).unwrap(),
            json!([]),
            "{name}"
        );
        assert_eq!(
            field("lists", name, json!(null)).unwrap(),
            json!([]),
            "{name}"
        );
    }
}

#[test]
fn members_come_in_the_order_of_their_declaration() {
    let schemas = everything();
    let shape = trip(
        &schemas,
        &target(&schemas, "shape"),
        &json!({ "circle": 1 }),
    )
    .unwrap();
    let names: Vec<_> = shape.as_object().unwrap().keys().collect();
    assert_eq!(names, ["later", "circle", "fill"]);
}

#[test]
fn a_struct_ends_where_it_was_never_set() {
    let schemas = everything();
    let chain = json!({ "value": 1, "next": { "value": 2, "next": null } });
    let method = target(&schemas, "chain");
    assert_eq!(trip(&schemas, &method, &chain).unwrap(), chain);
    assert_eq!(
        trip(&schemas, &target(&schemas, "caps"), &json!({})).unwrap(),
        json!({
            "target": null,
            "any": null,
            "cap": null,
            "boxed": { "content": null },
            "inner": { "point": null },
        })
    );
}

#[test]
fn errors_say_where_and_what() {
    let deep = (0..70).fold(json!({}), |inner, _| json!({ "next": inner }));
    for (method, params, message) in [
        ("mixed", json!(5), "expected an object, got 5"),
        ("mixed", json!([]), "expected an object, got a list"),
        (
            "mixed",
            json!({ "n": "x" }),
            r#"n: expected Float64, got "x""#,
        ),
        (
            "mixed",
            json!({ "shape": { "corner": { "x": "1" } } }),
            r#"shape.corner.x: expected Int32, got "1""#,
        ),
        (
            "mixed",
            json!({ "points": [{}, { "x": 1.5 }] }),
            "points[1].x: expected Int32, got 1.5",
        ),
        (
            "mixed",
            json!({ "points": [{}, 3] }),
            "points[1]: expected an object, got 3",
        ),
        (
            "mixed",
            json!({ "points": { "x": 1 } }),
            "points: expected a list, got an object",
        ),
        (
            "mixed",
            json!({ "shape": { "rectangle": { "depth": 1 } } }),
            "shape.rectangle.depth: no such field; there are width, height",
        ),
        (
            "mixed",
            json!({ "shapes": [] }),
            "shapes: no such field; there are shape, points, n",
        ),
        (
            "mixed",
            json!({ "shape": { "circle": 1, "empty": null } }),
            "shape: circle and empty are members of one union: set one of them",
        ),
        (
            "mixed",
            json!({ "shape": { "empty": 1 } }),
            "shape.empty: expected null, got 1",
        ),
        (
            "scalars",
            json!({ "int8": 128 }),
            "int8: expected Int8 (-128 to 127), got 128",
        ),
        (
            "scalars",
            json!({ "uint64": -1 }),
            "uint64: expected UInt64 (0 to 18446744073709551615), got -1",
        ),
        (
            "scalars",
            json!({ "int64": u64::MAX }),
            "int64: expected Int64 (-9223372036854775808 to 9223372036854775807), \
             got 18446744073709551615",
        ),
        (
            "scalars",
            json!({ "uint64": "18446744073709551616" }),
            "uint64: expected UInt64 (0 to 18446744073709551615), got \"18446744073709551616\"",
        ),
        (
            "scalars",
            json!({ "float32": 1e39 }),
            "float32: expected Float32, got 1e+39",
        ),
        (
            "scalars",
            json!({ "color": "pink" }),
            r#"color: expected one of red, green, blue, got "pink""#,
        ),
        (
            "scalars",
            json!({ "color": 65536 }),
            "color: expected one of red, green, blue, got 65536",
        ),
        (
            "scalars",
            json!({ "text": 5 }),
            "text: expected Text, got 5",
        ),
        (
            "scalars",
            json!({ "data": "A" }),
            r#"data: expected Data, as a string of base64 or a list of bytes, got "A""#,
        ),
        (
            "scalars",
            json!({ "data": {} }),
            "data: expected Data, as a string of base64 or a list of bytes, got an object",
        ),
        (
            "scalars",
            json!({ "bool": 1 }),
            "bool: expected Bool, got 1",
        ),
        (
            "lists",
            json!({ "words": [[], [["a", 5]]] }),
            "words[1][0][1]: expected Text, got 5",
        ),
        (
            "lists",
            json!({ "bools": [true, null] }),
            "bools[1]: expected Bool, got null",
        ),
        (
            "caps",
            json!({ "target": {} }),
            "target: a capability cannot be given as JSON",
        ),
        (
            "caps",
            json!({ "cap": 1 }),
            "cap: a capability cannot be given as JSON",
        ),
        (
            "caps",
            json!({ "any": "x" }),
            "any: an AnyPointer cannot be given as JSON",
        ),
        (
            "caps",
            json!({ "boxed": { "content": "x" } }),
            "boxed.content: an AnyPointer cannot be given as JSON",
        ),
        (
            "ping",
            json!({ "x": 1 }),
            "x: no such field; there are none",
        ),
    ] {
        let schemas = everything();
        let error = trip(&schemas, &target(&schemas, method), &params).unwrap_err();
        assert_eq!(error.to_string(), message);
    }
    let schemas = everything();
    let error = trip(&schemas, &target(&schemas, "chain"), &deep).unwrap_err();
    assert!(matches!(
        error.problem(),
        Problem::LimitExceeded("MAX_DEPTH")
    ));
}

/// The error of a call whose parameters are this text.
fn refused(method: &str, text: &str) -> String {
    let schemas = everything();
    let method = target(&schemas, method);
    let mut message = capnp::message::Builder::new_default();
    let written = schemas.write_text(method.params, text, message.init_root());
    written.expect_err(text).to_string()
}

#[test]
fn a_text_that_says_one_thing_twice_or_nothing_is_refused() {
    for (method, text, said) in [
        (
            "scalars",
            r#"{"int8":1,"int8":1}"#,
            "int8: it is there twice",
        ),
        (
            "scalars",
            r#"{"int8":1,"\u0069nt8":null}"#,
            "int8: it is there twice",
        ),
        (
            "lists",
            r#"{"points":[{},{"x":1,"y":2,"x":1}]}"#,
            "points[1].x: it is there twice",
        ),
        (
            "shape",
            r#"{"fill":{"color":"red","color":"red"}}"#,
            "fill.color: it is there twice",
        ),
        (
            "shape",
            r#"{"fill":{},"fill":{}}"#,
            "fill: it is there twice",
        ),
        (
            "scalars",
            r#"{"uint64":18446744073709551616}"#,
            "18446744073709551616 does not fit an integer of 64 bits; 18446744073709551616.0 is a \
             float",
        ),
        (
            "scalars",
            "[]",
            "the parameters of a call are a JSON object",
        ),
        (
            "scalars",
            "null",
            "the parameters of a call are a JSON object",
        ),
        ("scalars", "1", "the parameters of a call are a JSON object"),
        (
            "scalars",
            "{",
            "not JSON: EOF while parsing an object at line 1 column 1",
        ),
        (
            "scalars",
            " ",
            "not JSON: EOF while parsing a value at line 1 column 1",
        ),
        (
            "scalars",
            "{} {}",
            "not JSON: trailing characters at line 1 column 4",
        ),
        (
            "scalars",
            r#"{"int8":1,}"#,
            "not JSON: trailing comma at line 1 column 11",
        ),
        // What is no JSON is that, wherever it is, and nothing else is said of it.
        (
            "scalars",
            r#"{"nothing":1,"int8":[1,2}"#,
            "not JSON: expected `,` or `]` at line 1 column 25",
        ),
    ] {
        assert_eq!(refused(method, text), said);
    }
    let deep = format!("{{\"words\":{}", "[".repeat(4 * MAX_DEPTH));
    assert!(refused("lists", &deep).contains("recursion limit"));
}

#[test]
fn no_text_is_an_empty_object() {
    let schemas = everything();
    let method = target(&schemas, "defaults");
    for text in ["", " {} ", r#"{"int8":null}"#] {
        let mut message = capnp::message::Builder::new_default();
        let root = message.init_root();
        schemas.write_text(method.params, text, root).unwrap();
        assert_eq!(message.size_in_words(), {
            let mut empty = capnp::message::Builder::new_default();
            let root = empty.init_root();
            schemas.write_params(&method, &json!({}), root).unwrap();
            empty.size_in_words()
        });
    }
}
