//! What there is to call.

use serde_json::json;

use super::{EVERYTHING, TARGET, everything, ours};
use crate::json::{Schemas, merge};

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
    assert_eq!(texts, crate::Code::ALL.len() + crate::Delivery::ALL.len());
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
