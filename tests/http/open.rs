//! Which methods may be called over HTTP.

use std::rc::Rc;

use vatwerk_server::{Class, Context, classes::ChatRoom};

use super::{client::Client, listen, page::Page};
use crate::{
    door_capnp::{door, hall, porch},
    support::{TestVat, run},
};

/// A class of which some methods are open.
struct Door;

impl Class for Door {
    const NAME: &'static str = "Door";
    const SCHEMA: &'static [u8] = include_bytes!("../support/door.cgr");
    type Client = door::Client;

    async fn activate(_: Context) -> capnp::Result<Door> {
        Ok(Door)
    }
}

/// Each method says which one it is.
macro_rules! methods {
    ($interface:ident: $($method:ident $params:ident $results:ident),*) => {
        impl $interface::Server for Door {
            $(async fn $method(
                self: Rc<Self>,
                _: $interface::$params,
                mut results: $interface::$results,
            ) -> capnp::Result<()> {
                results.get().set_seen(stringify!($interface $method));
                Ok(())
            })*
        }
    };
}

methods!(hall: look LookParams LookResults);
methods!(porch: ring RingParams RingResults, bolt BoltParams BoltResults, hide HideParams HideResults);
methods!(door: knock KnockParams KnockResults, pick PickParams PickResults, hide HideParams HideResults);

async fn vat() -> TestVat {
    let mut vat = TestVat::unstarted(|config| config.http.listen = listen());
    let classes =
        |server: vatwerk_server::Server| server.class::<Page>().class::<ChatRoom>().class::<Door>();
    vat.start_serving(classes).await.expect("the vat starts");
    vat
}

#[test]
fn only_methods_that_the_schema_opens_are_called_over_http() {
    run(async {
        let vat = vat().await;
        for mut client in Client::each(&vat).await {
            for (path, answer) in [
                ("/Door/n/call/knock", r#"{"seen":"door knock"}"#),
                ("/Door/n/call/ring", r#"{"seen":"porch ring"}"#),
                ("/Page/n/call/increment", r#"{"count":1}"#),
                ("/ChatRoom/n/call/present", r#"{"names":[]}"#),
            ] {
                let name = match client {
                    Client::One(_) => "/one/",
                    Client::Two(_) => "/two/",
                };
                let called = client.post(&path.replace("/n/", name), "{}").await;
                assert_eq!(
                    (called.status, called.text.as_str()),
                    (200, answer),
                    "{path}"
                );
            }
            for closed in [
                // Methods of the class's own, inherited ones, one that is closed in an open interface, and one
                // that hides an open one.
                "/Door/n/call/pick",
                "/Door/n/call/look",
                "/Door/n/call/bolt",
                "/Door/n/call/hide",
                // What every object has.
                "/Door/n/call/persist",
                "/Door/n/call/identify",
                "/Page/n/call/persist",
                "/Page/n/call/fetch",
                "/ChatRoom/n/call/identify",
                "/Cell/n/call/put",
                "/Cell/n/call/persist",
            ] {
                let (front, method) = closed.rsplit_once('/').unwrap();
                // What is sent with it is not looked at.
                for body in ["{}", "{", r#"{"nobody":1}"#] {
                    let refused = client.post(closed, body).await;
                    let missing = client.post(&format!("{front}/nobody"), body).await;
                    let (status, code, told) = refused.error();
                    assert_eq!((status, code.as_str()), (404, "unimplemented"), "{closed}");
                    assert_eq!(
                        refused.text.replace(&format!("`{method}`"), "`nobody`"),
                        missing.text,
                        "{closed}"
                    );
                    assert!(told.contains("over HTTP"), "{told}");
                }
                for path in [closed, "/Door/n/call/knock", "/Page/n/call/nobody"] {
                    let read = client.get(path).await;
                    assert_eq!(read.error().0, 405, "{path}");
                    assert_eq!(read.headers["allow"], "POST", "{path}");
                }
            }
            let cell = client.post("/Cell/n/call/get", "{}").await.error().2;
            assert!(cell.contains("$Http.open(true)"), "{cell}");
            let door = client.post("/Door/n/call/pick", "{}").await.error().2;
            assert!(door.ends_with("it has: knock, ring"), "{door}");
        }
        // Nobody who was refused has made anything.
        let client = vat.client().await;
        let classes = client.session().classes_request().send().promise.await;
        let classes = classes.unwrap();
        let cell = classes.get().unwrap().get_classes().unwrap().get(0);
        assert_eq!(cell.get_class_name().unwrap(), "Cell");
        assert_eq!(cell.get_object_count(), 0);
    });
}
