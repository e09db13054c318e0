//! The annotations of `/capnp/compat/json.capnp`.

use std::fs;

use capnp::{any_pointer, message, serialize};
use serde_json::{Map, Value, json};

use super::{Random, hostile::limited, trip};
use crate::{
    SCHEMA_FILES,
    json::{Int64, Method, SchemaError, Schemas},
};

const ANNOTATED: &[u8] = include_bytes!("../testdata/annotated.cgr");

fn shop(method: &str) -> (Schemas, Method) {
    let schemas = Schemas::load(ANNOTATED).unwrap();
    let shop = schemas.interface_named("Shop").unwrap().id();
    let method = schemas.method(shop, method).unwrap();
    (schemas, method)
}

fn order() -> Value {
    json!({
        "order_id": 7,
        "sizes": ["small", "extra-large"],
        "plain": "AAH/",
        "coded": "AAH/",
        "digest": "00a1ff",
        "address.street": "Main Street",
        "address.city": "Springfield",
        "address.at.x": 1,
        "address.at.y": 2,
        "name": "Ann",
        "born": 1980,
        "seller_name": "Bob",
        "seller_born": 1990,
        "payment": { "kind": "credit-card", "credit-card": "1234" },
        "delivery": "by-courier",
        "weight": "heavy",
        "who": { "name": "Cid", "born": 2000 },
        "note.type": "lines",
        "note.value": [["a", "b"], [], ["c"]],
        "shape": { "label": "it", "type": "circle", "radius": 1.5 },
    })
}

/// The object with these members instead.
fn with(mut object: Value, members: Value) -> Value {
    let Value::Object(members) = members else {
        panic!("no object")
    };
    for (name, value) in members {
        match value.as_str() {
            Some("-") => object.as_object_mut().unwrap().shift_remove(&name),
            _ => object.as_object_mut().unwrap().insert(name, value),
        };
    }
    object
}

#[test]
fn members_are_named_flattened_and_told_as_annotated() {
    let (schemas, method) = shop("order");
    assert_eq!(
        trip(&schemas, &method, &order()).unwrap().to_string(),
        order().to_string()
    );
    assert_eq!(
        trip(&schemas, &method, &json!({})).unwrap(),
        json!({
            "order_id": 0,
            "sizes": [],
            "plain": "",
            "coded": "",
            "digest": "0aff",
            "address.street": "",
            "address.city": "",
            "address.at.x": 0,
            "address.at.y": 4,
            "name": "",
            "born": 1970,
            "seller_name": "",
            "seller_born": 1970,
            "payment": { "kind": "cash" },
            "delivery": "post",
            "weight": 0.0,
            "stamps": [],
            "note.type": "none",
            "shape": { "label": "", "type": "dot" },
        })
    );
    let other = json!({
        "payment": { "kind": "amount", "amount": 5 },
        "delivery": "pickUp",
        "weight": "-",
        "who": "-",
        "note.type": "point",
        "note.value": { "x": 1, "next": { "x": 2, "next": null } },
        "shape": { "label": "", "type": "nested", "in.type": "words", "in.value": ["a", "b"] },
    });
    let other = with(order(), other);
    assert_eq!(trip(&schemas, &method, &other).unwrap(), other);
}

/// A JSON text with the members of all its objects in another order.
fn shuffle(value: &Value, random: &mut Random) -> Value {
    match value {
        Value::Object(members) => {
            let mut left: Vec<_> = members.iter().collect();
            let mut shuffled = Map::new();
            while !left.is_empty() {
                let (name, value) = left.swap_remove(random.below(left.len()));
                shuffled.insert(name.clone(), shuffle(value, random));
            }
            shuffled.into()
        }
        Value::Array(all) => all.iter().map(|it| shuffle(it, random)).collect(),
        other => other.clone(),
    }
}

#[test]
fn members_may_come_in_any_order() {
    let (schemas, method) = shop("order");
    let nested = json!({
        "type": "nested", "in.type": "words", "in.value": ["a", "b"], "label": "l"
    });
    let post = json!({
        "delivery": "post", "weight": 2.5, "stamps": ["x", "y", "z"], "who": "-", "shape": nested,
    });
    let mut random = Random(1);
    for order in [order(), with(order(), post)] {
        for _ in 0..300 {
            let shuffled = shuffle(&order, &mut random);
            let read = trip(&schemas, &method, &shuffled).unwrap();
            assert_eq!(read, order, "{shuffled}");
        }
    }
}

#[test]
fn a_member_of_a_union_without_its_tag_tells_itself_where_it_can() {
    let (schemas, method) = shop("order");
    let given =
        json!({ "payment": { "amount": 5 }, "shape": { "raw": "0aff" }, "note.type": null });
    let read = trip(&schemas, &method, &given).unwrap();
    assert_eq!(read["payment"], json!({ "kind": "amount", "amount": 5 }));
    assert_eq!(
        read["shape"],
        json!({ "label": "", "type": "raw", "raw": "0aff" })
    );
    assert_eq!(read["note.type"], "none");
    // One that has no value may have a `null`.
    let given = json!({ "payment": { "cash": null, "kind": "cash" } });
    let read = trip(&schemas, &method, &given).unwrap();
    assert_eq!(read["payment"], json!({ "kind": "cash" }));
}

#[test]
fn what_contradicts_itself_is_refused() {
    let (schemas, method) = shop("order");
    for (given, said) in [
        (
            json!({ "orderId": 1 }),
            "orderId: no such field; there are order_id, sizes",
        ),
        (
            json!({ "sizes": ["extraLarge"] }),
            "sizes[0]: expected one of small, extra-large",
        ),
        (
            json!({ "payment": { "kind": "card" } }),
            "payment.kind: expected one of cash, credit-card",
        ),
        (
            json!({ "payment": { "kind": 1 } }),
            "payment.kind: expected one of cash, credit-card",
        ),
        (
            json!({ "payment": { "kind": "cash", "amount": 1 } }),
            "cash and amount are members of one union",
        ),
        (
            json!({ "payment": { "amount": 1, "kind": "cash" } }),
            "amount and cash are members of one union",
        ),
        (
            json!({ "stamps": [] }),
            "stamps: it is of a union, and nothing says",
        ),
        (
            json!({ "note.value": "text" }),
            "note.value: it is of a union, and nothing says",
        ),
        (
            json!({ "stamps": [], "delivery": "by-courier" }),
            "stamps: it is of another member of the union than by-courier",
        ),
        (
            json!({ "weight": "much", "delivery": "post" }),
            "weight: expected Float64, got \"much\"",
        ),
        (
            json!({ "note.value": [["a"], [1]], "note.type": "lines" }),
            "note.value[1][0]: expected Text, got 1",
        ),
        (json!({ "address.at.z": 1 }), "address.at.z: no such field"),
        (
            json!({ "address.at.x": "1" }),
            "address.at.x: expected Int32",
        ),
        (json!({ "seller_born": 0.5 }), "seller_born: expected Int32"),
        (
            json!({ "digest": "0" }),
            "digest: expected Data, as a string of hexadecimal digits",
        ),
        (
            json!({ "shape": { "in.value": 1, "in.type": "number", "type": "circle" } }),
            "shape.in.",
        ),
    ] {
        let error = trip(&schemas, &method, &given).unwrap_err().to_string();
        assert!(error.contains(said), "{given}: {error}");
    }
    // A member that waits for its tag is no less strict.
    for (text, said) in [
        (
            r#"{"note.value":{"x":1,"x":2},"note.type":"point"}"#,
            "note.value.x: it is there twice",
        ),
        (
            r#"{"note.value":"a","note.value":"b","note.type":"text"}"#,
            "note.value: it is there twice",
        ),
        (
            r#"{"note.type":"text","note.type":"text"}"#,
            "note.type: it is there twice",
        ),
    ] {
        let mut message = message::Builder::new_default();
        let written = schemas.write_text(method.params, text, message.init_root());
        let error = written.unwrap_err().to_string();
        assert!(error.contains(said), "{text}: {error}");
    }
}

#[test]
fn data_is_taken_in_each_usual_form() {
    let (schemas, method) = shop("order");
    for (name, forms, kept) in [
        (
            "plain",
            vec![json!("AP/+"), json!("AP_-"), json!([0, 255, 254])],
            "AP/+",
        ),
        (
            "plain",
            vec![json!("AA=="), json!("AA"), json!([0])],
            "AA==",
        ),
        (
            "coded",
            vec![json!("_w=="), json!("_w"), json!("/w"), json!([255])],
            "/w==",
        ),
        ("coded", vec![json!(""), json!([])], ""),
        ("digest", vec![json!("00aF"), json!([0, 175.0])], "00af"),
        ("digest", vec![json!(""), json!([])], ""),
    ] {
        for form in forms {
            let read = trip(&schemas, &method, &json!({ name: form.clone() })).unwrap();
            assert_eq!(read[name], kept, "{form}");
        }
    }
    for (name, form, said) in [
        (
            "plain",
            json!("+_+_"),
            "plain: expected Data, as a string of base64",
        ),
        ("plain", json!("A"), "plain: expected Data"),
        ("plain", json!([0, 256]), "plain[1]: expected UInt8"),
        ("plain", json!([-1]), "plain[0]: expected UInt8"),
        ("plain", json!([null]), "plain[0]: expected UInt8"),
        ("plain", json!(["1"]), "plain[0]: expected UInt8"),
        ("plain", json!({}), "plain: expected Data"),
        ("plain", json!(5), "plain: expected Data"),
        (
            "digest",
            json!("AAH/"),
            "digest: expected Data, as a string of hexadecimal digits",
        ),
        ("digest", json!([1, "2"]), "digest[1]: expected UInt8"),
    ] {
        let error = trip(&schemas, &method, &json!({ name: form.clone() })).unwrap_err();
        assert!(error.to_string().contains(said), "{form}: {error}");
    }
}

#[test]
fn a_member_that_the_schema_does_not_know_is_a_number_in_the_tag() {
    let (schemas, method) = shop("shape");
    let mut message = message::Builder::new_default();
    let given = json!({ "label": "l" });
    schemas
        .write_params(&method, &given, message.init_root())
        .unwrap();
    // The union of `Shape` is all of its data.
    let mut words = serialize::write_message_to_words(&message);
    words[16..18].copy_from_slice(&9u16.to_le_bytes());
    let read = serialize::read_message(&words[..], Default::default()).unwrap();
    let root = read.get_root::<any_pointer::Reader>().unwrap();
    let read = schemas.read_results(&method, root, Int64::Number).unwrap();
    assert_eq!(read, json!({ "label": "l", "type": 9 }));
}

/// Loads a schema of one struct, with more of its file behind it.
fn load(declarations: &str) -> Result<Schemas, SchemaError> {
    let folder = tempfile::tempdir().unwrap();
    for (path, text) in SCHEMA_FILES {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let file = folder.path().join("own.capnp");
    let import = "using Json = import \"/capnp/compat/json.capnp\";";
    fs::write(
        &file,
        format!("@0xc4a5b8f1d2e3a6ff; {import} {declarations}"),
    )
    .unwrap();
    let mut compiler = capnpc_embedded::CompileCommand::new();
    compiler
        .src_prefix(folder.path())
        .import_path(folder.path())
        .no_standard_import()
        .file(file);
    Schemas::load(
        &compiler
            .compile()
            .unwrap_or_else(|e| panic!("{declarations}: {e}")),
    )
}

#[test]
fn annotations_that_contradict_each_other_are_refused_with_the_schema() {
    for (declarations, said) in [
        (
            "struct A { a @0 :Text; b @1 :Text $Json.name(\"a\"); }",
            "own.capnp:A: two of its members are `a`",
        ),
        (
            "enum A { a @0; b @1 $Json.name(\"a\"); }",
            "own.capnp:A: two of its members are `a`",
        ),
        ("struct A { a @0 :Text $Json.hex; }", "a: only Data"),
        (
            "struct A { a @0 :List(Data) $Json.base64; }",
            "a: only Data",
        ),
        (
            "struct A { a @0 :Text $Json.flatten(); }",
            "a: only structs",
        ),
        (
            "struct A { a @0 :List(A) $Json.flatten(); }",
            "a: only structs",
        ),
        (
            "struct A { a @0 :B = (b = 1) $Json.flatten(); } struct B { b @0 :Int8; }",
            "a: only structs",
        ),
        (
            "struct A { a @0 :A $Json.flatten(prefix = \"a\"); }",
            "flattened into itself",
        ),
        (
            "struct A { a @0 :B $Json.flatten(); } struct B { b @0 :A $Json.flatten(); }",
            "flattened into itself",
        ),
        (
            "struct A { a @0 :B $Json.flatten(); c @1 :B $Json.flatten(); } struct B { b @0 :Int8; }",
            "own.capnp:A: two of its members are `b`",
        ),
        (
            "struct A { union { a @0 :B $Json.flatten(); c @1 :Void; } } struct B { b @0 :Int8; }",
            "a: a union whose members are flattened needs a `discriminator`",
        ),
        (
            "struct A $Json.discriminator() { union { a @0 :Void; b @1 :Void; } }",
            "needs one",
        ),
        (
            "struct A $Json.discriminator(name = \"t\") { a @0 :Void; }",
            "no union",
        ),
        (
            "struct A $Json.discriminator(name = \"a\") { union { a @0 :Void; b @1 :Void; } }",
            "two of its members are `a`",
        ),
    ] {
        let error = load(declarations).unwrap_err().to_string();
        assert!(error.contains(said), "{declarations}: {error}");
    }
}

#[test]
fn a_schema_cannot_ask_for_names_without_end() {
    // Each flattens the next one twice.
    let twice = |i: usize| {
        let next = i + 1;
        format!(
            "struct S{i} {{ a @0 :S{next} $Json.flatten(prefix = \"a\"); b @1 :S{next} $Json.flatten(prefix = \"b\"); }}"
        )
    };
    let last = "struct S40 { a @0 :Int8; }";
    let all: Vec<_> = (0..40).map(twice).collect();
    let error = load(&format!("{} {last}", all.join(" "))).unwrap_err();
    assert!(
        matches!(error, SchemaError::TooLarge("MAX_MEMBERS")),
        "{error}"
    );
    // Each flattens the next one: too deep.
    let once = |i: usize| format!("struct S{i} {{ a @0 :S{} $Json.flatten(); }}", i + 1);
    let all: Vec<_> = (0..100).map(once).collect();
    let error = load(&format!("{} struct S100 {{ a @0 :Int8; }}", all.join(" "))).unwrap_err();
    assert!(
        matches!(error, SchemaError::TooLarge("MAX_DEPTH")),
        "{error}"
    );
}

#[test]
fn damaged_annotations_do_no_harm() {
    let (schemas, method) = shop("order");
    let mut message = message::Builder::new_default();
    let written = schemas.write_params(&method, &order(), message.init_root());
    written.unwrap();
    let words = serialize::write_message_to_words(&message);
    let (mut loaded, mut refused) = (0, 0);
    for seed in 0..500 {
        let mut random = Random(seed);
        let mut cgr = ANNOTATED.to_vec();
        random.mutate(&mut cgr[8..]);
        let Ok(schemas) = Schemas::load(&cgr) else {
            refused += 1;
            continue;
        };
        loaded += 1;
        let methods = schemas.interfaces().flat_map(|it| it.methods());
        for method in methods.collect::<Vec<_>>() {
            let given = shuffle(&order(), &mut random);
            let mut written = message::Builder::new_default();
            let _ = schemas.write_params(&method, &given, written.init_root());
            let message = serialize::read_message(&words[..], limited()).unwrap();
            let root = message.get_root::<any_pointer::Reader>().unwrap();
            if let Ok(read) = schemas.read_results(&method, root, Int64::String) {
                let mut written = message::Builder::new_default();
                let _ = schemas.write_params(&method, &read, written.init_root());
            }
        }
    }
    assert!(loaded > 50 && refused > 50, "{loaded} and {refused}");
}
