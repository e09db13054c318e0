//! A vat whose disk fails when it is told to, with two objects.

use std::path::Path;

use tokio::time::{Duration, sleep};
use vatwerk_server::env::sim::Operation;

use super::{
    Do, TestVat, Wire,
    cell::{Ops, Sink},
    settle, tell,
};
use crate::probe_capnp::probe;

pub fn is_in(path: &Path, folder: &str) -> bool {
    path.components().any(|part| part.as_os_str() == folder)
}

pub fn journal(path: &Path, _: Operation) -> bool {
    is_in(path, "journal")
}

pub fn journal_sync(path: &Path, operation: Operation) -> bool {
    is_in(path, "journal") && operation.is_sync()
}

pub fn object_files(path: &Path, operation: Operation) -> bool {
    is_in(path, "objects") && operation.is_change() || operation == Operation::SyncAll
}

pub fn catalog(path: &Path, _: Operation) -> bool {
    path.ends_with("catalog.sqlite")
}

/// A vat on a disk of its own, with objects `p` and `q` awake in which "a" and "b" are "old".
pub async fn vat_on_disk() -> (TestVat, Wire) {
    let vat = TestVat::on_disk(|config| config.limits.idle_ms = 1000).await;
    let wire = vat.wire().await;
    for name in ["p", "q"] {
        write(&wire.probe(name), "old").await.unwrap();
    }
    (vat, wire)
}

pub async fn write(probe: &probe::Client, text: &'static str) -> capnp::Result<Vec<String>> {
    tell(probe, &[Do::Put("a", text), Do::Put("b", text)]).await
}

pub async fn read(probe: &probe::Client) -> capnp::Result<Vec<String>> {
    tell(probe, &[Do::Get("a"), Do::Get("b")]).await
}

/// Lets everybody fall asleep.
pub async fn night() {
    sleep(Duration::from_millis(1500)).await;
    settle().await;
}

/// How many pairs there are.
pub async fn count(ops: &Ops) -> u64 {
    let sink = Sink::with_room(1000);
    ops.list(Default::default(), &sink).await.unwrap()
}

/// How many objects there are whose name starts with `prefix`.
pub async fn listed(wire: &Wire, prefix: &str) -> usize {
    let mut request = wire.namespace::<probe::Client>().list_request();
    request.get().set_prefix(prefix);
    request.get().set_limit(1000);
    let answer = request.send().promise.await.unwrap();
    answer.get().unwrap().get_objects().unwrap().len() as usize
}
