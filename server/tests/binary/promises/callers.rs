//! Callers that are gone hold nothing.

use std::{
    io::Write,
    net::{Shutdown, TcpStream},
};

use futures::future::join_all;
use tempfile::tempdir;
use tokio::task::spawn_local;
use vatwerk::Code;
use vatwerk_client::{Client, LocalClient, ObjectState};

use super::{block_on, connect, error, metric, show, until, until_busy, vat};
use crate::promises_capnp::{patient, thorough};

const SLEEPY: &str = "idle_ms = 50\n";

async fn until_asleep(client: &LocalClient, name: &str) {
    until("the object sleeps", async || {
        show::<patient::Client>(client, name).await.state == ObjectState::Asleep
    })
    .await;
}

#[test]
fn an_object_sleeps_when_the_command_that_waited_for_it_is_killed() {
    let folder = tempdir().unwrap();
    let vat = vat(folder.path(), SLEEPY);
    block_on(async {
        let client = connect(&vat).await;
        let mut command = vat.begin(&["call", "Patient", "x", "reach"]);
        until_busy::<patient::Client>(&client, "x", 1, 0).await;
        command.kill().unwrap();
        command.wait().unwrap();
        until_asleep(&client, "x").await;
    });
    let gone = "vatwerk_calls_cut_total{class=\"Patient\",reason=\"caller_gone\"}";
    assert_eq!(metric(&vat, gone), 1.0);
    assert_eq!(metric(&vat, "vatwerk_calls_in_flight"), 0.0);
}

#[test]
fn a_command_gives_up_after_its_timeout_and_its_object_sleeps() {
    let folder = tempdir().unwrap();
    let vat = vat(folder.path(), SLEEPY);
    let late = vat.run(&["call", "Patient", "x", "reach", "--timeout", "1"]);
    let told = late.failed(5);
    assert!(told.contains("not done within 1 s (`--timeout`)"), "{told}");
    block_on(async {
        until_asleep(&connect(&vat).await, "x").await;
    });
    assert_eq!(metric(&vat, "vatwerk_calls_in_flight"), 0.0);
}

#[test]
fn an_object_sleeps_when_the_http_client_that_waited_for_it_hangs_up() {
    let folder = tempdir().unwrap();
    let vat = vat(folder.path(), SLEEPY);
    block_on(async {
        let client = connect(&vat).await;
        let mut stream = TcpStream::connect(vat.told("http")).unwrap();
        let head = "POST /Patient/x/call/reach HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2";
        write!(stream, "{head}\r\n\r\n{{}}").unwrap();
        until_busy::<patient::Client>(&client, "x", 1, 0).await;
        stream.shutdown(Shutdown::Both).unwrap();
        until_asleep(&client, "x").await;
    });
    assert_eq!(metric(&vat, "vatwerk_calls_in_flight"), 0.0);
}

/// Clients that have as many calls wait for the object `x` as it takes.
async fn crowd(vat: &crate::vat::Vat) -> Vec<LocalClient> {
    let mut crowd = Vec::new();
    for _ in 0..2 {
        let client = connect(vat).await;
        let object: patient::Client = client.namespace().get("x");
        for _ in 0..2048 {
            let call = object.reach_request().send().promise;
            spawn_local(async move { _ = call.await });
        }
        crowd.push(client);
    }
    crowd
}

#[test]
fn four_thousand_callers_that_left_keep_no_place_from_others() {
    let folder = tempdir().unwrap();
    let vat = vat(folder.path(), "");
    // Those who wait, in a thread whose end is theirs: their connections are closed by the kernel.
    let (full, is_full) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let crowded = scope.spawn(|| {
            block_on(async {
                let crowd = crowd(&vat).await;
                until_busy::<patient::Client>(&crowd[0], "x", 4096, 0).await;
                let other = connect(&vat).await;
                let refused = other.namespace::<patient::Client>().get("x");
                let refused = error(refused.count_request().send().promise.await);
                full.send(refused.code()).unwrap();
            });
        });
        assert_eq!(is_full.recv().unwrap(), Some(Code::Overloaded));
        crowded.join().unwrap();
    });
    block_on(async {
        let client = connect(&vat).await;
        until_busy::<patient::Client>(&client, "x", 0, 0).await;
        let object: patient::Client = client.namespace().get("x");
        let calls = (0..4).map(|_| object.count_request().send().promise);
        for (number, answer) in (1..).zip(join_all(calls).await) {
            assert_eq!(answer.unwrap().get().unwrap().get_number(), number);
        }
    });
}

#[test]
fn a_class_that_finishes_its_calls_learns_that_its_caller_left_and_goes_on() {
    let folder = tempdir().unwrap();
    let vat = vat(folder.path(), "");
    let record = || vat.call("Thorough", "x", "record", "{}");
    block_on(async {
        let client = connect(&vat).await;
        let mut command = vat.begin(&["call", "Thorough", "x", "reach"]);
        until_busy::<thorough::Client>(&client, "x", 1, 0).await;
        assert_eq!(record(), r#"{"left":0,"reached":0}"#);
        command.kill().unwrap();
        command.wait().unwrap();
        let left = async || record() == r#"{"left":1,"reached":0}"#;
        until("the class learns of it", left).await;
        until_busy::<thorough::Client>(&client, "x", 1, 0).await;
        vat.call("Thorough", "x", "count", "{}");
        let reached = async || record() == r#"{"left":1,"reached":1}"#;
        until("the call goes on", reached).await;
        until_busy::<thorough::Client>(&client, "x", 0, 0).await;
    });
}

#[test]
fn a_client_sends_no_more_calls_than_a_vat_takes_from_it() {
    let folder = tempdir().unwrap();
    let vat = vat(folder.path(), "calls_per_connection = 8\n");
    let flood = async |calls_in_flight: usize| {
        let client = Client::builder().calls_in_flight(calls_in_flight);
        let client = client.connect_local(&vat.address(0)).await.unwrap();
        let object: patient::Client = client.namespace().get("x");
        let calls = (0..100).map(|_| object.count_request().send().promise);
        join_all(calls.collect::<Vec<_>>()).await
    };
    block_on(async {
        let refused = flood(100).await.into_iter().filter_map(|call| call.err());
        let codes: Vec<_> = refused
            .map(|error| self::error::<()>(Err(error)).code())
            .collect();
        assert!(!codes.is_empty());
        assert!(
            codes.iter().all(|code| *code == Some(Code::Overloaded)),
            "{codes:?}"
        );
        let numbers = flood(8).await.into_iter();
        let numbers: Vec<_> = numbers
            .map(|call| call.unwrap().get().unwrap().get_number())
            .collect();
        assert!(numbers.is_sorted(), "{numbers:?}");
    });
}
