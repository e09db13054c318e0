//! What is acknowledged survives `kill -9`.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    thread,
};

use tempfile::tempdir;
use tokio::task::LocalSet;
use vatwerk::counter_capnp::counter;
use vatwerk_client::LocalClient;

use crate::vat::Vat;

#[test]
fn a_call_survives_the_kill_of_its_server() {
    let folder = tempdir().unwrap();
    let vat = Vat::start(folder.path());
    let answer = vat.call("Counter", "user-123", "increment", r#"{"amount":5}"#);
    assert_eq!(answer, r#"{"count":5}"#);
    vat.kill();
    let vat = Vat::start(folder.path());
    let answer = vat.call("Counter", "user-123", "get", "{}");
    assert_eq!(answer, r#"{"count":5}"#);
}

/// What one client knows of its increments.
#[derive(Default)]
struct Ledger {
    attempted: AtomicU64,
    acknowledged: AtomicU64,
}

const ROUNDS: u64 = 10;
const CLIENTS: usize = 4;
const COUNTERS: [&str; 3] = ["a", "b", "c"];

/// Increments until the connection breaks; `kill` is told of each that is acknowledged.
fn increment_until_killed(address: &str, ledgers: &[Ledger], acknowledged: impl Fn()) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, async {
        let client = LocalClient::connect(address).await.unwrap();
        let counters = client.namespace::<counter::Client>();
        for (name, ledger) in COUNTERS.iter().zip(ledgers).cycle() {
            let request = counters.get(name).increment_request();
            ledger.attempted.fetch_add(1, Relaxed);
            if request.send().promise.await.is_err() {
                return;
            }
            ledger.acknowledged.fetch_add(1, Relaxed);
            acknowledged();
        }
    });
}

#[test]
fn no_acknowledged_increment_is_lost_and_none_counts_twice() {
    let folder = tempdir().unwrap();
    let ledgers = COUNTERS.map(|_| Ledger::default());
    for round in 0..ROUNDS {
        let vat = Vat::start(folder.path());
        let address = vat.address(0);
        let (sender, acknowledged) = std::sync::mpsc::channel();
        thread::scope(|scope| {
            for _ in 0..CLIENTS {
                let (address, ledgers, sender) = (&address, &ledgers, sender.clone());
                scope.spawn(move || {
                    increment_until_killed(address, ledgers, || {
                        // Nobody counts any more when the vat has been killed.
                        let _ = sender.send(());
                    });
                });
            }
            // At another moment each time, with calls of every client under way.
            let enough = 20 + 7 * round as usize;
            assert_eq!(acknowledged.iter().take(enough).count(), enough);
            vat.kill();
        });
        let vat = Vat::start(folder.path());
        for (name, ledger) in COUNTERS.iter().zip(&ledgers) {
            let answer = vat.call("Counter", name, "get", "{}");
            let count = answer
                .strip_prefix(r#"{"count":"#)
                .and_then(|rest| rest.strip_suffix('}'));
            let count: u64 = count.unwrap().parse().unwrap();
            let acknowledged = ledger.acknowledged.load(Relaxed);
            let attempted = ledger.attempted.load(Relaxed);
            assert!(
                (acknowledged..=attempted).contains(&count),
                "round {round}, {name}: {count} is not in {acknowledged}..={attempted}"
            );
            // What was not acknowledged is settled now, one way or the other.
            ledger.acknowledged.store(count, Relaxed);
            ledger.attempted.store(count, Relaxed);
        }
    }
}
