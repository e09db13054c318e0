//! What a vat promises, as other processes see it: the classes of the example `promises`, by the sockets of
//! a vat in a process of its own.

mod callers;
mod ends;
#[cfg(target_os = "linux")]
mod gate;
#[cfg(target_os = "linux")]
mod hold;
mod order;
mod panics;
mod peers;
mod pins;
mod serial;

use std::{cell::Cell, fs, path::Path, rc::Rc, time::Duration, time::Instant};

use capnp::{capability::FromClientHook, traits::HasTypeId};
use tokio::{task::LocalSet, time::timeout};
use vatwerk_client::{Error, LocalClient, ObjectKey, ObjectStatus};

use crate::{
    promises_capnp::listener,
    vat::{PATIENCE, Vat, example, get},
};

/// A vat of the example, which listens at TCP, for HTTP and for operators, in this order. Objects stay awake
/// unless the settings say otherwise.
fn vat(folder: &Path, limits: &str) -> Vat {
    faulty_vat(folder, limits, None)
}

/// A vat of the example with a fault of its own.
fn faulty_vat(folder: &Path, limits: &str, fault: Option<&str>) -> Vat {
    let idle = if limits.contains("idle_ms") {
        ""
    } else {
        "idle_ms = 3_600_000\n"
    };
    let settings = format!("drain_ms = 3_600_000\n[limits]\n{idle}{limits}");
    fs::write(folder.join("vat.toml"), settings).unwrap();
    let any = "127.0.0.1:0";
    let listen = [
        "--listen",
        "tcp:127.0.0.1:0",
        "--http",
        any,
        "--metrics",
        any,
    ];
    let args = ["--config", "vat.toml"].iter().chain(&listen);
    Vat::spawn_faulty(&example("promises"), folder, args, fault).ready(3)
}

/// Does something in a thread in which clients can be used.
fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, async {
        let done = timeout(2 * PATIENCE, work).await;
        done.expect("the test waits for what does not come")
    })
}

async fn connect(vat: &Vat) -> LocalClient {
    LocalClient::connect(&vat.address(0)).await.unwrap()
}

/// What the vat says of the object of that name.
async fn show<C: FromClientHook + HasTypeId>(client: &LocalClient, name: &str) -> ObjectStatus {
    let mut request = client.namespace::<C>().capability().show_request();
    ObjectKey::from(name).write(request.get().init_key());
    let shown = request.send().promise.await.unwrap();
    ObjectStatus::read(shown.get().unwrap().get_status().unwrap()).unwrap()
}

/// Waits until so many events of an object run, and so many wait behind them.
async fn until_busy<C: FromClientHook + HasTypeId>(
    client: &LocalClient,
    name: &str,
    running: u64,
    queued: u64,
) {
    until("the object is busy", async || {
        let shown = show::<C>(client, name).await;
        (shown.in_flight, shown.queued) == (running + queued, queued)
    })
    .await;
}

/// Waits until something is so.
async fn until(what: &str, is_so: impl AsyncFn() -> bool) {
    let began = Instant::now();
    while !is_so().await {
        assert!(began.elapsed() < PATIENCE, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// What operators are told: the value of a metric with these labels, zero if there is none.
fn metric(vat: &Vat, name: &str) -> f64 {
    let text = get(vat.told("metrics"), "/metrics");
    assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
    let mut lines = text.lines();
    let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.map_or(0.0, |value| value.parse().unwrap())
}

/// The error of a call, as users of the client have it.
fn error<T>(outcome: capnp::Result<T>) -> Error {
    match outcome {
        Ok(_) => panic!("the call should have failed"),
        Err(error) => Error::from(error),
    }
}

/// What a client's capability has noticed: the last number that it heard, and that it was let go of.
#[derive(Clone, Default)]
struct Noticed {
    heard: Rc<Cell<Option<u64>>>,
    let_go: Rc<Cell<bool>>,
}

/// A listener that notes what it hears, and answers at once.
struct Ear(Noticed);

impl Ear {
    fn client() -> (listener::Client, Noticed) {
        let noticed = Noticed::default();
        (capnp_rpc::new_client(Ear(noticed.clone())), noticed)
    }
}

impl listener::Server for Ear {
    async fn hear(
        self: Rc<Self>,
        params: listener::HearParams,
        _: listener::HearResults,
    ) -> capnp::Result<()> {
        self.0.heard.set(Some(params.get()?.get_number()));
        Ok(())
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.0.let_go.set(true);
    }
}

/// A listener that never answers.
struct Deaf;

impl listener::Server for Deaf {
    async fn hear(
        self: Rc<Self>,
        _: listener::HearParams,
        _: listener::HearResults,
    ) -> capnp::Result<()> {
        std::future::pending().await
    }
}
