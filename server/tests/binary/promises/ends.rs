//! What the end of an instance, or of the vat, means for calls: those that have begun, and those that have
//! not.

use capnp::capability::{Promise, Response};
use futures::future::join_all;
use serde_json::Value;
use tempfile::tempdir;
use tokio::task::{JoinHandle, spawn_local};
use vatwerk::{Code, Delivery};
use vatwerk_client::LocalClient;

use super::{Deaf, block_on, connect, error, until, until_busy, vat};
use crate::{
    promises_capnp::{clerk, patient},
    vat::{Vat, ask},
};

/// A clerk that has served five, waits for somebody who never answers, and has three others waiting behind
/// that: the call that runs, and those that have not begun.
struct Line {
    runs: JoinHandle<capnp::Result<()>>,
    wait: Vec<JoinHandle<capnp::Result<u64>>>,
}

impl Line {
    async fn form(client: &LocalClient) -> Line {
        let clerk: clerk::Client = client.namespace().get("x");
        let serve = || number(clerk.serve_request().send().promise);
        for _ in 0..5 {
            serve().await.unwrap();
        }
        let mut attend = clerk.attend_request();
        attend.get().set_listener(capnp_rpc::new_client(Deaf));
        let attend = attend.send().promise;
        let runs = spawn_local(async move { attend.await.map(drop) });
        let wait = (0..3).map(|_| spawn_local(serve())).collect();
        until_busy::<clerk::Client>(client, "x", 1, 3).await;
        Line { runs, wait }
    }

    /// What those that had not begun return.
    async fn served(self) -> Vec<u64> {
        let served = join_all(self.wait).await.into_iter();
        served.map(|served| served.unwrap().unwrap()).collect()
    }
}

type Serving = Promise<Response<clerk::serve_results::Owned>, capnp::Error>;

async fn number(served: Serving) -> capnp::Result<u64> {
    Ok(served.await?.get()?.get_number())
}

/// Has an operator end the clerk, and returns what its calls then come to.
fn ended_by(verb: &str) -> (vatwerk_client::Error, Vec<u64>) {
    let folder = tempdir().unwrap();
    let vat = vat(folder.path(), "");
    block_on(async {
        let client = connect(&vat).await;
        let mut line = Line::form(&client).await;
        assert_eq!(vat.printed(&["objects", verb, "Clerk", "x"]), "1\n");
        let error = error((&mut line.runs).await.unwrap());
        (error, line.served().await)
    })
}

#[test]
fn calls_that_wait_when_their_object_is_reset_run_on_the_next_instance() {
    let (error, served) = ended_by("reset");
    assert_eq!(error.code(), Some(Code::ObjectReset), "{error}");
    assert_eq!(error.delivery(), Delivery::Unknown, "{error}");
    assert_eq!(served, [6, 7, 8]);
}

#[test]
fn calls_that_wait_when_their_object_is_deleted_run_on_the_next_one() {
    let (error, served) = ended_by("delete");
    assert_eq!(error.code(), Some(Code::ObjectReset), "{error}");
    assert_eq!(error.delivery(), Delivery::Unknown, "{error}");
    assert_eq!(served, [1, 2, 3]);
}

#[test]
fn of_calls_that_a_kill_cut_off_nobody_knows_and_later_ones_are_not_delivered() {
    let folder = tempdir().unwrap();
    let vat = vat(folder.path(), "");
    block_on(async {
        let builder = vatwerk_client::Client::builder();
        let builder = builder.connect_timeout(std::time::Duration::from_millis(100));
        let client = builder.connect_local(&vat.address(0)).await.unwrap();
        let line = Line::form(&client).await;
        vat.kill();
        let mut failed = vec![error(line.runs.await.unwrap())];
        let waited = join_all(line.wait).await.into_iter();
        failed.extend(waited.map(|outcome| error(outcome.unwrap())));
        for error in failed {
            assert_eq!(error.code(), Some(Code::Disconnected), "{error}");
            assert_eq!(error.delivery(), Delivery::Unknown, "{error}");
        }
        let clerk: clerk::Client = client.namespace().get("x");
        let late = error(number(clerk.serve_request().send().promise).await);
        assert_eq!(late.delivery(), Delivery::NotDelivered, "{late}");
    });
    let vat = super::vat(folder.path(), "");
    assert_eq!(vat.call("Clerk", "x", "serve", "{}"), r#"{"number":6}"#);
}

#[test]
fn a_call_that_comes_when_the_vat_is_to_stop_is_not_delivered() {
    let folder = tempdir().unwrap();
    let mut vat = vat(folder.path(), "");
    block_on(async {
        let client = connect(&vat).await;
        let line = Line::form(&client).await;
        vat.signal(libc::SIGTERM);
        vat.until_logged("stopping");
        let late: patient::Client = client.namespace().get("late");
        until("it is refused", async || {
            let Err(late) = late.count_request().send().promise.await else {
                return false;
            };
            let late = vatwerk_client::Error::from(late);
            assert_eq!(late.code(), Some(Code::ShuttingDown), "{late}");
            assert_eq!(late.delivery(), Delivery::NotDelivered, "{late}");
            true
        })
        .await;
        // Those that were there before are not.
        assert!(!line.runs.is_finished());
    });
    vat.signal(libc::SIGTERM);
    assert_eq!(vat.wait(), Some(0), "{}", vat.errors());
}

/// The code of the error that a call over HTTP was answered with, and whether it ran.
fn told(answer: &str) -> (String, String) {
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    let body: Value = serde_json::from_str(body).unwrap_or_else(|_| panic!("{answer}"));
    let error = &body["error"];
    let text = |field: &str| error[field].as_str().unwrap_or_default().to_owned();
    (text("code"), text("delivery"))
}

fn post(vat: &Vat, class: &str, method: &str) -> String {
    let call = format!("POST /{class}/x/call/{method}");
    ask(vat.told("http"), &call, "{}")
}

#[test]
fn errors_over_http_say_whether_a_call_ran() {
    let folder = tempdir().unwrap();
    let vat = vat(folder.path(), "calls_per_object = 1\n");
    let say = |code: &str, delivery: &str| (code.to_owned(), delivery.to_owned());
    // There is nobody to tell.
    let failed = told(&post(&vat, "Herald", "tell"));
    assert_eq!(failed.1, "delivered", "{failed:?}");
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| post(&vat, "Patient", "reach"));
        block_on(async {
            let client = connect(&vat).await;
            until_busy::<patient::Client>(&client, "x", 1, 0).await;
        });
        let refused = told(&post(&vat, "Patient", "count"));
        assert_eq!(refused, say("overloaded", "not-delivered"));
        vat.printed(&["objects", "reset", "Patient", "x"]);
        let reset = told(&waits.join().unwrap());
        assert_eq!(reset, say("object-reset", "delivery-unknown"));
    });
}
