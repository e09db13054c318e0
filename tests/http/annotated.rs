//! Calls of a class whose schema says how it looks in JSON.

use std::rc::Rc;

use vatwerk_server::{Class, Context};

use super::{client::Client, listen};
use crate::{
    door_capnp::printer,
    support::{TestVat, run},
};

/// A class that answers what it is given.
struct Printer;

impl Class for Printer {
    const NAME: &'static str = "Printer";
    const SCHEMA: &'static [u8] = include_bytes!("../support/door.cgr");
    type Client = printer::Client;

    async fn activate(_: Context) -> capnp::Result<Printer> {
        Ok(Printer)
    }
}

impl printer::Server for Printer {
    async fn print(
        self: Rc<Self>,
        params: printer::PrintParams,
        mut results: printer::PrintResults,
    ) -> capnp::Result<()> {
        results.set(params.get()?)
    }
}

#[test]
fn a_schema_says_how_calls_look_in_json() {
    run(async {
        let mut vat = TestVat::unstarted(|config| config.http.listen = listen());
        let started = vat.start_serving(|server| server.class::<Printer>());
        started.await.expect("the vat starts");
        for mut client in Client::each(&vat).await {
            for (path, given, status, told) in [
                (
                    "/Printer/n/call/print",
                    r#"{"order_id":1,"seal":"00FF","box.label":"b","kind":"number","value":2}"#,
                    200,
                    r#"{"order_id":1,"seal":"00ff","box.label":"b","box.weight":1,"kind":"number","value":2}"#,
                ),
                (
                    "/Printer/n/call/print?int64=string",
                    r#"{"value":"18446744073709551615","kind":"number","order_id":"1","seal":[0,255]}"#,
                    200,
                    r#"{"order_id":"1","seal":"00ff","box.label":"","box.weight":"1","kind":"number","value":"18446744073709551615"}"#,
                ),
                (
                    "/Printer/n/call/print",
                    r#"{"value":["a",["b"]],"kind":"words"}"#,
                    400,
                    "value[1]: expected Text, got a list",
                ),
                (
                    "/Printer/n/call/print",
                    r#"{"value":["a"]}"#,
                    400,
                    "value: it is of a union",
                ),
                (
                    "/Printer/n/call/print",
                    r#"{"orderId":1}"#,
                    400,
                    "orderId: no such field; there are order_id, seal, box.label",
                ),
            ] {
                let answer = client.post(path, given).await;
                assert_eq!(answer.status, status, "{given}: {}", answer.text);
                match status {
                    200 => assert_eq!(answer.text, told),
                    _ => assert!(answer.text.contains(told), "{given}: {}", answer.text),
                }
            }
        }
    });
}
