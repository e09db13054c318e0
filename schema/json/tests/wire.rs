//! Messages that others write and read.

use capnp::{any_pointer, message, serialize};
use serde_json::json;

use super::{everything, ours, target};
use crate::json::{Int64, Problem};

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
            .read_results(&get, message.get_root_as_reader().unwrap(), Int64::Number)
            .unwrap(),
        json!({ "entries": [{ "key": "k", "value": "AQL/" }] })
    );

    let get = schemas.method(cell.id(), "get").unwrap();
    let mut message = message::Builder::new_default();
    let results: crate::storage_capnp::operations::get_results::Builder = message.init_root();
    let _ = results;
    assert_eq!(
        schemas
            .read_results(&get, message.get_root_as_reader().unwrap(), Int64::Number)
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
        assert_eq!(
            schemas.read_results(&method, root, Int64::Number).unwrap(),
            results
        );
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
        .read_results(&page, message.get_root_as_reader().unwrap(), Int64::Number)
        .unwrap_err();
    assert_eq!(error.to_string(), "entries[0].key: the text is not UTF-8");
}
