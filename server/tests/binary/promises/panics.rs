//! Panics of a class, wherever they begin, end at most an instance; panics of the vat's own end nothing, and
//! are counted.

use std::path::Path;

use futures::{FutureExt, SinkExt, StreamExt};
use tempfile::tempdir;
use tokio::net::TcpStream;
use tokio_tungstenite::{WebSocketStream, client_async};
use vatwerk_client::{LocalClient, ObjectState};

use super::{block_on, connect, faulty_vat, metric, show, until, until_busy, vat};
use crate::{
    promises_capnp::brittle::{self, Place},
    vat::{Vat, get},
};

async fn count(client: &LocalClient, name: &str) -> capnp::Result<u64> {
    let object: brittle::Client = client.namespace().get(name);
    let counted = object.count_request().send().promise.await?;
    Ok(counted.get()?.get_number())
}

/// Has the object of that name panic at a place. Its caller waits, unless the call would wait for ever.
async fn break_at(client: &LocalClient, name: &str, place: Place) -> capnp::Result<()> {
    let object: brittle::Client = client.namespace().get(name);
    let mut request = object.break_request();
    request.get().set_place(place);
    let call = request.send().promise.map(|broken| broken.map(drop));
    if place != Place::Dropped {
        return call.await;
    }
    tokio::select! {
        ended = call => ended,
        () = until_busy::<brittle::Client>(client, name, 1, 0) => Ok(()),
    }
}

/// How many objects' panics of that place are in the log.
fn told(vat: &Vat, place: Place) -> usize {
    let said = format!("brittle: {place:?}");
    let errors = vat.errors();
    let lines = errors.lines().filter(|line| line.contains(&said));
    lines
        .filter(|line| line.contains("class=\"Brittle\""))
        .count()
}

/// Checks that the vat takes connections of every kind, runs objects and alarms, and calls itself ready.
async fn serves(vat: &Vat, name: &str) {
    let client = connect(vat).await;
    count(&client, name).await.unwrap();
    break_at(&client, name, Place::Alarm).await.unwrap();
    until("an alarm ran", async || {
        metric(
            vat,
            "vatwerk_alarm_runs_total{class=\"Brittle\",outcome=\"ok\"}",
        ) >= 1.0
    })
    .await;
    let page = get(vat.told("http"), "/Herald/x/");
    assert!(page.starts_with("HTTP/1.1 200 "), "{page}");
    until("the vat is ready", async || {
        get(vat.told("metrics"), "/readyz").starts_with("HTTP/1.1 200 ")
    })
    .await;
}

#[test]
fn a_panic_of_a_class_ends_at_most_an_instance_and_is_told_once() {
    let folder = tempdir().unwrap();
    let vat = vat(folder.path(), "");
    block_on(async {
        let client = connect(&vat).await;
        // The place, whether the call fails, and what the number has grown by.
        let cases = [
            (Place::Call, true, 0),
            (Place::Section, true, 0),
            (Place::Statement, true, 0),
            (Place::Dropped, false, 1),
            (Place::Destructor, true, 0),
            (Place::Constructor, true, 0),
            (Place::Later, false, 1),
        ];
        for (place, fails, counted) in cases {
            let before = count(&client, "x").await.unwrap();
            let broken = break_at(&client, "x", place).await;
            assert_eq!(broken.is_err(), fails, "{place:?}: {broken:?}");
            if place == Place::Constructor {
                count(&client, "x").await.unwrap_err();
            }
            until(&format!("the panic {place:?} is told"), async || {
                told(&vat, place) > 0
            })
            .await;
            let after = count(&client, "x").await.unwrap();
            assert_eq!(after, before + counted + 1, "{place:?}");
            assert_eq!(told(&vat, place), 1, "{}", vat.errors());
        }
        break_at(&client, "x", Place::Creation).await.unwrap();
        count(&client, "new").await.unwrap_err();
        assert_eq!(count(&client, "new").await.unwrap(), 2);
        assert_eq!(told(&vat, Place::Creation), 1, "{}", vat.errors());
        serves(&vat, "y").await;
        assert_eq!(told(&vat, Place::Alarm), 1, "{}", vat.errors());
        assert_eq!(metric(&vat, "vatwerk_faults_total"), 0.0);
    });
}

/// A vat with a fault of its own, in which `provoke` does what it takes.
async fn goes_on(folder: &Path, fault: &str, provoke: impl AsyncFn(&Vat), counted: &str) {
    let vat = faulty_vat(folder, "", Some(fault));
    provoke(&vat).await;
    serves(&vat, "x").await;
    assert_eq!(metric(&vat, counted), 1.0, "{fault}: {}", vat.errors());
    assert!(
        vat.errors().contains("a fault of the vat itself"),
        "{fault}"
    );
}

#[test]
fn an_object_in_which_the_vat_fails_lives_on() {
    let folder = tempdir().unwrap();
    let provoke = async |vat: &Vat| {
        let client = connect(vat).await;
        break_at(&client, "x", Place::Creation).await.unwrap();
        count(&client, "new").await.unwrap_err();
        // Calls that come while the vat fails are refused.
        until("the object lives", async || {
            count(&client, "new").await.is_ok()
        })
        .await;
    };
    let counted = "vatwerk_faults_total";
    block_on(goes_on(folder.path(), "discard", provoke, counted));
}

#[test]
fn alarms_run_when_the_vat_has_failed_in_running_them() {
    for (fault, service) in [("scheduler", "alarms"), ("look", "alarms_of_object")] {
        let folder = tempdir().unwrap();
        let counted = format!("vatwerk_service_restarts_total{{service=\"{service}\"}}");
        block_on(goes_on(folder.path(), fault, async |_| (), &counted));
    }
}

#[test]
fn a_service_of_the_vat_that_failed_is_restarted() {
    for service in [
        "listener",
        "http_listener",
        "operators",
        "alarms",
        "readings",
        "pulse",
    ] {
        let folder = tempdir().unwrap();
        let counted = format!("vatwerk_service_restarts_total{{service=\"{service}\"}}");
        block_on(goes_on(folder.path(), service, async |_| (), &counted));
    }
}

/// The next text on a WebSocket.
async fn text(socket: &mut WebSocketStream<TcpStream>) -> String {
    let message = socket.next().await.unwrap().unwrap();
    message.into_text().unwrap().as_str().to_owned()
}

#[test]
fn an_object_that_fails_to_wake_has_said_nothing_and_its_heartbeats_go_on() {
    let folder = tempdir().unwrap();
    let vat = vat(folder.path(), "idle_ms = 50\n");
    block_on(async {
        let http = vat.told("http");
        let stream = TcpStream::connect(http).await.unwrap();
        let url = format!("ws://{http}/Brittle/x/");
        let (mut socket, _) = client_async(url, stream).await.unwrap();
        let client = connect(&vat).await;
        break_at(&client, "x", Place::Waking).await.unwrap();
        until("the object sleeps", async || {
            show::<brittle::Client>(&client, "x").await.state == ObjectState::Asleep
        })
        .await;
        count(&client, "x").await.unwrap_err();
        for _ in 0..2 {
            socket.send("ping".into()).await.unwrap();
            assert_eq!(text(&mut socket).await, "pong");
            count(&client, "x").await.unwrap();
        }
    });
}
