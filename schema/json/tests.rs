use capnp::{any_pointer, message, serialize};
use serde_json::{Value, json};

use super::{JsonError, Method, Problem, Schemas, merge};

mod hostile;

const EVERYTHING: &[u8] = include_bytes!("testdata/everything.cgr");
const TARGET: u64 = 0xe1b2_c3d4_e5f6_0713;

fn everything() -> Schemas {
    Schemas::load(EVERYTHING).unwrap()
}

fn ours() -> Schemas {
    Schemas::load(crate::CODE_GENERATOR_REQUEST).unwrap()
}

fn target(schemas: &Schemas, method: &str) -> Method {
    schemas.method(TARGET, method).unwrap()
}

/// Writes parameters, sends them through bytes, and reads them as results.
fn trip(schemas: &Schemas, method: &Method, params: &Value) -> Result<Value, JsonError> {
    let mut sent = message::Builder::new_default();
    schemas.write_params(method, params, sent.init_root())?;
    let bytes = serialize::write_message_to_words(&sent);
    let received = serialize::read_message(&bytes[..], message::ReaderOptions::new()).unwrap();
    schemas.read_results(method, received.get_root::<any_pointer::Reader>().unwrap())
}

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
            json!({ "data": "AA" }),
            r#"data: expected Data, in standard base64, got "AA""#,
        ),
        (
            "scalars",
            json!({ "data": [1, 2] }),
            "data: expected Data, as a string of standard base64, got a list",
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

#[test]
fn parameters_are_written_once() {
    let schemas = everything();
    let method = target(&schemas, "chain");
    let mut message = message::Builder::new_default();
    schemas
        .write_params(&method, &json!({}), message.init_root())
        .unwrap();
    let again = schemas.write_params(&method, &json!({}), message.get_root().unwrap());
    assert!(matches!(
        again.unwrap_err().problem(),
        Problem::AlreadyWritten
    ));
}

#[test]
fn signatures() {
    let (everything, ours) = (everything(), ours());
    for (schemas, interface, method, signature) in [
        (
            &ours,
            "Counter",
            "increment",
            "increment(amount :Int64 = 1) -> (count :Int64)",
        ),
        (&ours, "Counter", "reset", "reset() -> ()"),
        (
            &ours,
            "Namespace",
            "list",
            "list(prefix :Text, after :Text, limit :UInt32 = 100) \
             -> (objects :List(ObjectInfo), next :Text)",
        ),
        (
            &ours,
            "Session",
            "restore",
            "restore(sturdyRef :Data) -> (cap :Capability)",
        ),
        (
            &ours,
            "EntrySink",
            "write",
            "write(entries :List(Entry)) -> stream",
        ),
        (&ours, "Cell", "get", "get(key :Text) -> (value :Value)"),
        (
            &everything,
            "Target",
            "feed",
            "feed(lines :List(List(Text)), color :Color = green, \
             greeting :Text = \"hi \\\"you\\\"\") -> stream",
        ),
        (
            &everything,
            "Target",
            "second",
            "second(point :Point = {\"x\":1,\"y\":10,\"label\":\"one\"}, \
             numbers :List(Int16) = [1,2]) -> ()",
        ),
        (&everything, "Target", "right", "right(Point) -> (y :Int32)"),
    ] {
        let id = schemas.interface_named(interface).unwrap().id();
        let method = schemas.method(id, method).unwrap();
        assert_eq!(schemas.signature(&method), signature);
    }
}

#[test]
fn methods_are_inherited_once() {
    let schemas = everything();
    let interface = schemas.interface(TARGET).unwrap();
    assert_eq!(interface.doc(), "Where the paths meet.");
    let methods = interface.methods();
    let names: Vec<_> = methods.iter().map(|it| it.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "scalars", "defaults", "shape", "lists", "chain", "caps", "feed", "mixed", "second",
            "left", "right", "ping"
        ]
    );
    let ping = methods.last().unwrap();
    assert_eq!(
        (ping.interface_id, ping.ordinal),
        (0xe1b2_c3d4_e5f6_0710, 0)
    );
    assert_eq!(ping.doc, "Answers.");
    assert_eq!(methods[7].ordinal, 8);
    assert!(methods[6].is_streaming());
    assert_eq!(
        Vec::from_iter(schemas.answers(TARGET)),
        [
            0xe1b2_c3d4_e5f6_0710,
            0xe1b2_c3d4_e5f6_0711,
            0xe1b2_c3d4_e5f6_0712,
            TARGET
        ]
    );
    assert!(schemas.answers(1).is_empty());
    assert!(schemas.method(TARGET, "nothing").is_none());
}

#[test]
fn interfaces_are_found_by_any_name() {
    let schemas = ours();
    for name in [
        "Counter",
        "vatwerk/counter.capnp:Counter",
        "@0xb8f725b103f79538",
    ] {
        assert_eq!(
            schemas.interface_named(name).map(|it| it.id()),
            Some(0xb8f7_25b1_03f7_9538),
            "{name}"
        );
    }
    for name in ["counter", "", "Value", "@0x1", "@0xzz"] {
        assert!(schemas.interface_named(name).is_none(), "{name}");
    }
    assert!(schemas.has_interface(0xb8f7_25b1_03f7_9538));
    assert!(!schemas.has_interface(0xe3ab_6ecd_8d80_bb59), "a struct");
}

#[test]
fn our_storage_is_inherited() {
    let schemas = ours();
    let cell = schemas.interface_named("Cell").unwrap();
    let methods = cell.methods();
    let names: Vec<_> = methods.iter().map(|it| it.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "deleteAll",
            "sync",
            "get",
            "put",
            "delete",
            "getMultiple",
            "putMultiple",
            "deleteMultiple",
            "list",
            "page",
            "sql",
            "transaction"
        ]
    );
    let operations = schemas.interface_named("Operations").unwrap().id();
    assert!(methods[2..].iter().all(|it| it.interface_id == operations));
    assert!(methods.iter().all(|it| !it.doc.is_empty()));
}

#[test]
fn constants_have_values() {
    let schemas = everything();
    let constants: Vec<_> = schemas.constants().map(Result::unwrap).collect();
    let limit = constants.iter().find(|it| it.name == "limit").unwrap();
    assert_eq!(limit.value, json!(u64::MAX));
    assert_eq!(limit.doc, "As far as it goes.");
    let origin = constants.iter().find(|it| it.name == "origin").unwrap();
    assert_eq!(origin.value, json!({ "x": 0, "y": 0, "label": "origin" }));
    let texts = ours()
        .constants()
        .map(Result::unwrap)
        .filter(|it| it.value.is_string())
        .count();
    assert_eq!(texts, crate::Code::ALL.len());
}

#[test]
fn generated_code_reads_what_is_written() {
    use crate::storage_capnp::{range, sql};

    let schemas = ours();
    let sql = schemas.interface_named("Sql").unwrap();
    let exec = schemas.method(sql.id(), "exec").unwrap();
    let mut message = message::Builder::new_default();
    let params = json!({
        "query": "SELECT ?",
        "bindings": [{ "integer": i64::MIN }, { "null": null }, { "blob": "AAH/" }, { "real": 0.5 }],
    });
    schemas
        .write_params(&exec, &params, message.init_root())
        .unwrap();
    let read: sql::exec_params::Reader = message.get_root_as_reader().unwrap();
    assert_eq!(read.get_query().unwrap(), "SELECT ?");
    let bindings = read.get_bindings().unwrap();
    use crate::storage_capnp::sql_value::{Blob, Integer, Null, Real};
    assert!(matches!(bindings.get(0).which(), Ok(Integer(i64::MIN))));
    assert!(matches!(bindings.get(1).which(), Ok(Null(()))));
    assert!(matches!(bindings.get(2).which(), Ok(Blob(Ok([0, 1, 255])))));
    assert!(matches!(bindings.get(3).which(), Ok(Real(0.5))));

    let page = schemas
        .method(schemas.interface_named("Cell").unwrap().id(), "page")
        .unwrap();
    let mut message = message::Builder::new_default();
    let params = json!({ "range": {
        "prefix": "p", "to": { "end": "q" }, "reverse": true, "limit": { "entries": 7 },
    } });
    schemas
        .write_params(&page, &params, message.init_root())
        .unwrap();
    let read: crate::storage_capnp::operations::page_params::Reader =
        message.get_root_as_reader().unwrap();
    let read = read.get_range().unwrap();
    assert_eq!(read.get_prefix().unwrap(), "p");
    assert!(read.get_reverse());
    assert!(matches!(
        read.get_from().which(),
        Ok(range::from::Beginning(()))
    ));
    assert!(matches!(read.get_to().which(), Ok(range::to::End(Ok(end))) if end == "q"));
    assert!(matches!(
        read.get_limit().which(),
        Ok(range::limit::Entries(7))
    ));

    let counter = schemas.interface_named("Counter").unwrap();
    let increment = schemas.method(counter.id(), "increment").unwrap();
    for (params, amount) in [
        (json!(null), 1),
        (json!({ "amount": 0 }), 0),
        (json!({ "amount": -5 }), -5),
    ] {
        let mut message = message::Builder::new_default();
        schemas
            .write_params(&increment, &params, message.init_root())
            .unwrap();
        let read: crate::counter_capnp::counter::increment_params::Reader =
            message.get_root_as_reader().unwrap();
        assert_eq!(read.get_amount(), amount);
    }
}

#[test]
fn what_generated_code_writes_is_read() {
    let schemas = ours();
    let cell = schemas.interface_named("Cell").unwrap();
    let get = schemas.method(cell.id(), "getMultiple").unwrap();
    let mut message = message::Builder::new_default();
    let results: crate::storage_capnp::operations::get_multiple_results::Builder =
        message.init_root();
    let mut entry = results.init_entries(1).get(0);
    entry.set_key("k");
    entry.set_value(&[1, 2, 255]);
    assert_eq!(
        schemas
            .read_results(&get, message.get_root_as_reader().unwrap())
            .unwrap(),
        json!({ "entries": [{ "key": "k", "value": "AQL/" }] })
    );

    let get = schemas.method(cell.id(), "get").unwrap();
    let mut message = message::Builder::new_default();
    let results: crate::storage_capnp::operations::get_results::Builder = message.init_root();
    let _ = results;
    assert_eq!(
        schemas
            .read_results(&get, message.get_root_as_reader().unwrap())
            .unwrap(),
        json!({ "value": { "none": null } })
    );
}

/// A message whose root is a struct with one pointer: to the first capability of the message.
const ONE_CAPABILITY: [u8; 24] = [
    0, 0, 0, 0, 2, 0, 0, 0, // one segment of two words
    0, 0, 0, 0, 0, 0, 1, 0, // the struct
    3, 0, 0, 0, 0, 0, 0, 0, // the capability
];

#[test]
fn capabilities_are_shown_and_not_followed() {
    let message = serialize::read_message(&ONE_CAPABILITY[..], Default::default()).unwrap();
    let root: any_pointer::Reader = message.get_root().unwrap();
    let (ours, everything) = (ours(), everything());
    for (schemas, interface, method, results) in [
        (
            &ours,
            "Namespace",
            "getByName",
            json!({ "object": { "$capability": "Stub" } }),
        ),
        (
            &ours,
            "Session",
            "restore",
            json!({ "cap": { "$capability": "Capability" } }),
        ),
        (
            &everything,
            "Target",
            "caps",
            json!({
                "target": { "$capability": "Target" },
                "any": null,
                "cap": null,
                "boxed": { "content": null },
                "inner": { "point": null },
            }),
        ),
    ] {
        let id = schemas.interface_named(interface).unwrap().id();
        let method = schemas.method(id, method).unwrap();
        assert_eq!(schemas.read_results(&method, root).unwrap(), results);
    }
    let boxed = 0xe1b2_c3d4_e5f6_070a;
    assert_eq!(
        everything.read_struct(boxed, root).unwrap(),
        json!({ "content": { "$capability": "Capability" } })
    );
}

#[test]
fn pointers_of_no_type_are_only_mentioned() {
    let schemas = everything();
    let mut message = message::Builder::new_default();
    let point = json!({ "label": "x" });
    let inner = 0xe1b2_c3d4_e5f6_070d;
    schemas
        .write_struct(inner, &json!({ "point": point }), message.init_root())
        .unwrap();
    let boxed = 0xe1b2_c3d4_e5f6_070a;
    assert_eq!(
        schemas
            .read_struct(boxed, message.get_root_as_reader().unwrap())
            .unwrap(),
        json!({ "content": { "$anyPointer": true } })
    );
}

#[test]
fn text_that_is_not_utf8_is_an_error() {
    let schemas = ours();
    let cell = schemas.interface_named("Cell").unwrap();
    let page = schemas.method(cell.id(), "getMultiple").unwrap();
    let mut message = message::Builder::new_default();
    let results: crate::storage_capnp::operations::get_multiple_results::Builder =
        message.init_root();
    let entry = results.init_entries(1).get(0);
    entry.init_key(3).as_bytes_mut()[..2].copy_from_slice(&[0xff, b'a']);
    let error = schemas
        .read_results(&page, message.get_root_as_reader().unwrap())
        .unwrap_err();
    assert_eq!(error.to_string(), "entries[0].key: the text is not UTF-8");
}

#[test]
fn merging_keeps_the_first_of_each() {
    let merged = merge(&[crate::CODE_GENERATOR_REQUEST, EVERYTHING, EVERYTHING]).unwrap();
    let schemas = Schemas::load(&merged).unwrap();
    let (ours, everything) = (ours(), everything());
    let count = |schemas: &Schemas| schemas.interfaces().count();
    assert_eq!(count(&schemas), count(&ours) + count(&everything));
    for one in [&ours, &everything] {
        for interface in one.interfaces() {
            let merged = schemas.interface(interface.id()).unwrap();
            assert_eq!(merged.doc(), interface.doc());
            for (a, b) in merged.methods().iter().zip(interface.methods()) {
                assert_eq!((&a.doc, schemas.signature(a)), (&b.doc, one.signature(&b)));
            }
        }
    }
    let again = merge(&[&merged, &merged]).unwrap();
    assert_eq!(again, merge(&[&merged]).unwrap());
    assert!(
        Schemas::load(&merge(&[]).unwrap())
            .unwrap()
            .interfaces()
            .next()
            .is_none()
    );
    assert!(merge(&[b"nothing"]).is_err());
}
