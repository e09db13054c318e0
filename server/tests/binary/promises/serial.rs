//! Objects that take one call at a time, and calls that would wait for ever.

use std::{cell::Cell, rc::Rc};

use capnp::capability::FromClientHook;
use tempfile::tempdir;
use tokio::{sync::Notify, task::spawn_local};
use vatwerk::{Code, Delivery, counter_capnp::counter};
use vatwerk_client::LocalClient;

use super::{block_on, connect, error, metric, show, until_busy, vat};
use crate::promises_capnp::{clerk, listener, patient, thorough};

/// A listener that uses the desk that it is given before it answers.
struct UsesDesk(Rc<Cell<u64>>);

impl listener::Server for UsesDesk {
    async fn hear(
        self: Rc<Self>,
        params: listener::HearParams,
        _: listener::HearResults,
    ) -> capnp::Result<()> {
        let desk = params.get()?.get_desk()?;
        let served = desk.serve_request().send().promise.await?;
        self.0.set(served.get()?.get_number());
        Ok(())
    }
}

#[test]
fn a_client_may_call_back_a_serial_object_that_waits_for_it() {
    let folder = tempdir().unwrap();
    let vat = vat(folder.path(), "");
    block_on(async {
        let client = connect(&vat).await;
        let clerk: clerk::Client = client.namespace().get("x");
        let served = Rc::new(Cell::new(0));
        let mut attend = clerk.attend_request();
        let listener = capnp_rpc::new_client(UsesDesk(served.clone()));
        attend.get().set_listener(listener);
        attend.send().promise.await.unwrap();
        assert_eq!(served.get(), 1);
    });
}

/// A listener that answers when it is told to.
struct Waits {
    heard: Rc<Notify>,
    answer: Rc<Notify>,
}

impl listener::Server for Waits {
    async fn hear(
        self: Rc<Self>,
        _: listener::HearParams,
        _: listener::HearResults,
    ) -> capnp::Result<()> {
        self.heard.notify_one();
        self.answer.notified().await;
        Ok(())
    }
}

/// Has a clerk begin to consult another, and go on when the result is notified.
async fn consult(
    client: &LocalClient,
    (name, colleague): (&str, &str),
) -> (tokio::task::JoinHandle<capnp::Result<u64>>, Rc<Notify>) {
    let clerk: clerk::Client = client.namespace().get(name);
    let (heard, answer) = (Rc::new(Notify::new()), Rc::new(Notify::new()));
    let mut request = clerk.consult_request();
    request.get().set_colleague(colleague);
    request.get().set_listener(capnp_rpc::new_client(Waits {
        heard: heard.clone(),
        answer: answer.clone(),
    }));
    let call = request.send().promise;
    let call = spawn_local(async move { Ok(call.await?.get()?.get_number()) });
    heard.notified().await;
    (call, answer)
}

#[test]
fn serial_objects_that_wait_for_each_other_end_in_an_error_that_names_both() {
    let folder = tempdir().unwrap();
    let vat = vat(folder.path(), "call_ms = 0\n");
    block_on(async {
        let client = connect(&vat).await;
        let first = consult(&client, ("ada", "bob")).await;
        let second = consult(&client, ("bob", "ada")).await;
        first.1.notify_one();
        second.1.notify_one();
        let outcomes = [first.0.await.unwrap(), second.0.await.unwrap()];
        let failed: Vec<_> = outcomes.into_iter().filter(Result::is_err).collect();
        assert!(!failed.is_empty());
        for outcome in failed {
            let error = error(outcome);
            assert_eq!(error.code(), Some(Code::Deadlock), "{error}");
            let text = error.to_string();
            assert!(text.contains("`ada`") && text.contains("`bob`"), "{text}");
        }
        // And they serve.
        for name in ["ada", "bob"] {
            vat.call("Clerk", name, "serve", "{}");
        }
    });
}

#[test]
fn objects_that_wait_for_each_other_to_come_into_being_are_refused() {
    let folder = tempdir().unwrap();
    // Nothing but the refusal ends it.
    let vat = vat(folder.path(), "call_ms = 0\nactivation_ms = 3_600_000\n");
    block_on(async {
        let client = connect(&vat).await;
        let left: counter::Client = client.namespace_named("Twin").get("left").cast_to();
        let error = error(left.get_request().send().promise.await);
        assert_eq!(error.code(), Some(Code::Deadlock), "{error}");
        let text = error.to_string();
        assert!(
            text.contains("`left`") && text.contains("`right`"),
            "{text}"
        );
    });
}

#[test]
fn a_call_over_its_limit_ends_with_a_code_a_metric_and_a_line_of_the_log() {
    let folder = tempdir().unwrap();
    let vat = vat(folder.path(), "call_ms = 300\n");
    block_on(async {
        let client = connect(&vat).await;
        // A class with a limit of its own, here none, is not asked to hurry.
        let thorough: thorough::Client = client.namespace().get("y");
        let waits = spawn_local(thorough.reach_request().send().promise);
        until_busy::<thorough::Client>(&client, "y", 1, 0).await;

        let patient: patient::Client = client.namespace().get("x");
        let error = error(patient.reach_request().send().promise.await);
        assert_eq!(error.code(), Some(Code::LimitExceeded), "{error}");
        assert!(error.to_string().contains("limits.call_ms"), "{error}");
        assert_eq!(error.delivery(), Delivery::Delivered);
        let late = "vatwerk_calls_cut_total{class=\"Patient\",reason=\"late\"}";
        assert_eq!(metric(&vat, late), 1.0);
        let log = vat.errors();
        let mut lines = log.lines();
        let line = lines.find(|line| line.contains("limits.call_ms"));
        let line = line.unwrap_or_else(|| panic!("{log}"));
        assert!(line.contains("WARN") && line.contains("Patient"), "{line}");

        assert_eq!(show::<thorough::Client>(&client, "y").await.in_flight, 1);
        vat.call("Thorough", "y", "count", "{}");
        let reached = waits.await.unwrap().unwrap();
        assert_eq!(reached.get().unwrap().get_number(), 1);
    });
}
