//! What clients hold on to keeps few objects awake, and never stops the vat.

use std::{cell::RefCell, rc::Rc};

use capnp::capability::{FromClientHook, Promise};
use futures::future::join_all;
use tempfile::tempdir;
use vatwerk::{
    Code, Delivery,
    cell_capnp::cell,
    storage_capnp::{operations, sql},
};
use vatwerk_client::LocalClient;

use super::{block_on, connect, error, metric, vat};
use crate::promises_capnp::{clerk, desk, herald, listener};

/// What can be done with the storage of the cell of that name.
fn storage(client: &LocalClient, name: &str) -> operations::Client {
    let cell: cell::Client = client.namespace().get(name);
    cell.cast_to()
}

/// Checks that a client that holds nothing is served, by an object that is not awake.
async fn others_are_served(client: &LocalClient) {
    let object: herald::Client = client.namespace().get("other");
    object.count_request().send().promise.await.unwrap();
}

#[test]
fn a_client_that_holds_the_sql_of_many_objects_keeps_none_awake() {
    let folder = tempdir().unwrap();
    let vat = vat(folder.path(), "resident_objects = 50\n");
    block_on(async {
        let client = connect(&vat).await;
        let mut held: Vec<sql::Client> = Vec::new();
        // As many as wake at once, again and again.
        for round in 0..40 {
            let asked = (0..50).map(|number| {
                let object = storage(&client, &format!("c{round}-{number}"));
                object.sql_request().send().promise
            });
            for answer in join_all(asked.collect::<Vec<_>>()).await {
                held.push(answer.unwrap().get().unwrap().get_sql().unwrap());
            }
        }
        assert_eq!(held.len(), 2000);
        assert!(metric(&vat, "vatwerk_objects_awake") <= 100.0);
        others_are_served(&connect(&vat).await).await;
        for sql in held.iter().step_by(100) {
            let mut request = sql.exec_request();
            request.get().set_query("SELECT 7");
            request.send().promise.await.unwrap();
        }
    });
}

/// A listener that keeps the desks that it is given.
#[derive(Clone, Default)]
struct Hoarder(Rc<RefCell<Vec<desk::Client>>>);

impl listener::Server for Hoarder {
    fn hear(
        self: Rc<Self>,
        params: listener::HearParams,
        _: listener::HearResults,
    ) -> impl Future<Output = capnp::Result<()>> + 'static {
        let desk = params.get().and_then(|params| params.get_desk());
        Promise::from(desk.map(|desk| self.0.borrow_mut().push(desk)))
    }
}

async fn attend(client: &LocalClient, name: &str, hoarder: &Hoarder) -> capnp::Result<()> {
    let clerk: clerk::Client = client.namespace().get(name);
    let mut request = clerk.attend_request();
    let listener = capnp_rpc::new_client(hoarder.clone());
    request.get().set_listener(listener);
    request.send().promise.await.map(drop)
}

#[test]
fn under_pressure_objects_that_are_only_held_on_to_are_reset() {
    let folder = tempdir().unwrap();
    let vat = vat(folder.path(), "resident_objects = 10\n");
    block_on(async {
        let client = connect(&vat).await;
        let hoarder = Hoarder::default();
        for number in 0..60 {
            attend(&client, &format!("d{number}"), &hoarder)
                .await
                .unwrap();
        }
        others_are_served(&connect(&vat).await).await;
        let desks = hoarder.0.take();
        assert_eq!(desks.len(), 60);
        let mut outcomes = Vec::new();
        for desk in &desks {
            outcomes.push(desk.serve_request().send().promise.await.map(drop));
        }
        let newest = outcomes.split_off(55);
        assert!(newest.iter().all(Result::is_ok), "the most recently used");
        let oldest = error(outcomes.remove(0));
        assert_eq!(oldest.code(), Some(Code::ObjectReset), "{oldest}");
        assert_eq!(oldest.delivery(), Delivery::NotDelivered, "{oldest}");
        let reset = "vatwerk_resets_total{class=\"Clerk\",reason=\"pressure\"}";
        assert!(metric(&vat, reset) >= 40.0);
    });
}

#[test]
fn past_the_objects_that_a_connection_may_keep_awake_only_its_own_calls_fail() {
    let folder = tempdir().unwrap();
    let vat = vat(folder.path(), "pins_per_connection = 20\n");
    block_on(async {
        let client = connect(&vat).await;
        let mut held = Vec::new();
        let begin = async |name: String| {
            let object = storage(&client, &name);
            object.transaction_request().send().promise.await
        };
        for number in 0..20 {
            held.push(begin(format!("c{number}")).await.unwrap());
        }
        let refused = error(begin("one too many".into()).await);
        assert_eq!(refused.code(), Some(Code::LimitExceeded), "{refused}");
        assert!(refused.to_string().contains("limits.pins_per_connection"));
        others_are_served(&client).await;
        let other = connect(&vat).await;
        let object = storage(&other, "another's");
        object.transaction_request().send().promise.await.unwrap();
        held.pop();
        // What is let go of makes room as soon as the vat has heard of it.
        super::until("there is room", async || {
            begin("again".into()).await.is_ok()
        })
        .await;
    });
}
