//! Queues have an end, and past it callers are told at once.

use std::{cell::Cell, path::Path, sync::LazyLock};

use capnp::{
    Error, ErrorKind,
    capability::{Promise, Response},
};
use futures::future::join_all;
use vatwerk::{Code, Delivery};
use vatwerk_server::env::sim::Fault;

use crate::{
    probe_capnp::probe,
    support::{Do, Hook, TestVat, Wire, cap_of, cell::cell, code, run_paused, send, settle, tell},
};

/// More than can be listed before that is durable.
const NEWBORNS: u32 = 1500;

/// What a turn writes that writes much. No run of zeros, which the journal would leave out.
static LARGE: LazyLock<String> = LazyLock::new(|| "much".repeat(25_000));

#[test]
fn past_the_queue_of_an_object_calls_are_refused_at_once_and_later_ones_go_through() {
    run_paused(async {
        let vat = TestVat::with(|config| config.limits.calls_per_object = 10).await;
        let wire = vat.wire().await;
        let probe = wire.probe("p");
        let waiting: Vec<_> = (0..10)
            .map(|_| send(&probe, &[Do::Latch("busy"), Do::Say("done")]).promise)
            .collect();
        vat.controls.reached("busy").await;
        let refused = tell(&probe, &[Do::Put("k", "v")]).await.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::Overloaded);
        assert!(refused.extra.contains("10"), "{refused}");
        assert_eq!(code::<()>(Err(refused)), Code::Overloaded);
        // Other objects are not concerned.
        tell(&wire.probe("q"), &[]).await.unwrap();

        vat.controls.release("busy");
        assert!(join_all(waiting).await.iter().all(Result::is_ok));
        assert_eq!(tell(&probe, &[Do::Get("k")]).await.unwrap(), ["-"]);
    });
}

#[test]
fn calls_on_capabilities_of_an_object_count_too() {
    run_paused(async {
        let vat = TestVat::with(|config| config.limits.calls_per_object = 2).await;
        let wire = vat.wire().await;
        let probe = wire.probe("p");
        let handle = crate::support::cap_of(&probe, &[Do::Open]).await.unwrap();
        let calls = [&probe, &handle].map(|cap| send(cap, &[Do::Latch("busy")]).promise);
        settle().await;
        assert_eq!(code(tell(&handle, &[]).await), Code::Overloaded);
        assert_eq!(code(tell(&probe, &[]).await), Code::Overloaded);
        vat.controls.release("busy");
        assert!(join_all(calls).await.iter().all(Result::is_ok));
        tell(&handle, &[]).await.unwrap();
    });
}

#[test]
fn past_the_queue_of_the_vat_calls_are_refused_and_it_recovers() {
    run_paused(async {
        let vat = TestVat::with(|config| config.limits.calls_per_vat = 3).await;
        let wire = vat.wire().await;
        let calls: Vec<_> = ["a", "b", "c"]
            .map(|name| send(&wire.probe(name), &[Do::Latch("busy")]).promise)
            .into();
        settle().await;
        assert_eq!(code(tell(&wire.probe("d"), &[]).await), Code::Overloaded);
        vat.controls.release("busy");
        assert!(join_all(calls).await.iter().all(Result::is_ok));
        tell(&wire.probe("d"), &[]).await.unwrap();
    });
}

#[test]
fn past_the_calls_of_a_connection_it_is_refused_and_another_is_not() {
    run_paused(async {
        let vat = TestVat::with(|config| {
            config.limits.calls_per_connection = 8;
            config.metrics = Some("tcp:127.0.0.1:0".parse().unwrap());
        })
        .await;
        let (busy, other) = (vat.wire().await, vat.wire().await);
        let probe = busy.probe("p");
        tell(&probe, &[]).await.unwrap();
        let waiting: Vec<_> = (0..8)
            .map(|_| send(&probe, &[Do::Latch("busy")]).promise)
            .collect();
        settle().await;
        assert_eq!(code(tell(&probe, &[]).await), Code::Overloaded);
        tell(&other.probe("p"), &[]).await.unwrap();
        vat.controls.release("busy");
        assert!(join_all(waiting).await.iter().all(Result::is_ok));
        tell(&probe, &[]).await.unwrap();
        let refused = "vatwerk_connection_calls_refused_total 1";
        let numbers = vat.metrics().await;
        assert!(numbers.contains(refused), "{numbers}");
        // Connections that have ended count too.
        drop((probe, busy));
        settle().await;
        let numbers = vat.metrics().await;
        assert!(numbers.contains("vatwerk_connections 1"), "{numbers}");
        assert!(numbers.contains(refused), "{numbers}");
    });
}

/// Has each of `probes` write much, and notes when it has.
fn write_much(
    probes: &[probe::Client],
) -> Vec<Promise<Response<probe::run_results::Owned>, Error>> {
    let write = |(key, probe): (usize, &probe::Client)| {
        let key = key.to_string().leak();
        send(probe, &[Do::Put(key, LARGE.as_str()), Do::Latch("written")]).promise
    };
    probes.iter().enumerate().map(write).collect()
}

#[test]
fn when_the_disk_does_not_keep_up_turns_are_held_back_and_not_heaped_up() {
    run_paused(async {
        // A quarter of an eighth of it may wait.
        let vat = TestVat::with(|config| config.limits.journal_bytes = 8 << 20).await;
        let wire = vat.wire().await;
        let probes: Vec<_> = (0..40).map(|n| wire.probe(&n.to_string())).collect();
        for probe in &probes {
            tell(probe, &[]).await.unwrap();
        }
        vat.controls.release("written");
        vat.hold.hold();
        let calls = write_much(&probes);
        settle().await;
        // 100 KB each.
        let written = vat.controls.arrivals("written");
        assert!((1..=4).contains(&written), "{written}");
        vat.hold.release();
        assert!(join_all(calls).await.iter().all(Result::is_ok));
        assert_eq!(vat.controls.arrivals("written"), 40);
    });
}

#[test]
fn an_object_waits_when_much_of_it_is_not_on_disk_and_others_do_not() {
    run_paused(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        let (busy, other) = (wire.probe("busy"), wire.probe("other"));
        for probe in [&busy, &other] {
            tell(probe, &[]).await.unwrap();
        }
        vat.controls.release("written");
        vat.hold.hold();
        let calls = write_much(&vec![busy; 60]);
        settle().await;
        // Of it 1,024 pages may be undecided, some 4 MB.
        let written = vat.controls.arrivals("written");
        assert!((2..=42).contains(&written), "{written}");
        let others = write_much(&[other]);
        settle().await;
        assert_eq!(vat.controls.arrivals("written"), written + 1);
        vat.hold.release();
        assert!(join_all(calls).await.iter().all(Result::is_ok));
        assert!(join_all(others).await.iter().all(Result::is_ok));
        assert_eq!(vat.controls.arrivals("written"), 61);
    });
}

#[test]
fn callers_of_others_neither_wait_for_a_large_commit_nor_fail_with_it() {
    run_paused(async {
        let vat = TestVat::on_disk(|config| config.limits.journal_bytes = 8 << 20).await;
        let wire = vat.wire().await;
        let (large, other) = (cell(&wire, "large"), cell(&wire, "other"));
        for fails in [false, true] {
            large.put("before", &[1]).await.unwrap();
            vat.hold.hold_pages();
            // More than a 32nd of the journal.
            let value = vec![0xAB; 400_000];
            let is_told = Cell::new(false);
            let put = async {
                let put = large.put("large", &value).await;
                is_told.set(true);
                put
            };
            let next = large.get("before");
            let meanwhile = async {
                settle().await;
                other.put("small", &[1]).await.unwrap();
                assert!(!is_told.get(), "it is not on disk");
                if fails {
                    let is_pages =
                        |path: &Path, _| path.extension().is_some_and(|it| it == "pages");
                    vat.disk().fail(Fault::io_error().when(is_pages));
                }
                vat.hold.release_pages();
                other.put("small", &[2]).await.unwrap();
                settle().await;
                vat.disk().heal();
            };
            let (put, next, ()) = tokio::join!(put, next, meanwhile);
            if fails {
                assert_eq!(code(put), Code::StorageFailed);
            } else {
                put.unwrap();
                assert_eq!(next.unwrap(), Some(vec![1]));
                large.delete("large").await.unwrap();
            }
            assert_eq!(large.get("large").await.unwrap(), None);
            assert_eq!(large.get("before").await.unwrap(), Some(vec![1]));
            assert_eq!(other.get("small").await.unwrap(), Some(vec![2]));
        }
    });
}

#[test]
fn calls_behind_many_pages_that_a_turn_wrote_and_undid_wait_for_the_disk_and_not_in_a_loop() {
    run_paused(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        let large = cell(&wire, "large");
        let table = "CREATE TABLE t (id INTEGER PRIMARY KEY, v)";
        large.exec(table, &[]).await.unwrap();
        // More than SQLite keeps in memory, and than may be undecided.
        for _ in 0..8 {
            let row = "INSERT INTO t (v) VALUES (randomblob(1000000))";
            large.exec(row, &[]).await.unwrap();
        }
        vat.hold.hold();
        // In the last row it fails, when SQLite has written those before.
        let update = "UPDATE t SET v = CASE id WHEN 8 THEN json('no') ELSE randomblob(1000000) END";
        assert_eq!(code(large.exec(update, &[]).await), Code::SqlFailed);
        let next = large.get("key");
        let meanwhile = async {
            settle().await;
            vat.hold.release();
        };
        assert_eq!(tokio::join!(next, meanwhile).0.unwrap(), None);
    });
}

#[test]
fn objects_wait_to_come_into_being_when_many_have_that_are_not_on_disk() {
    run_paused(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        vat.hold.hold();
        let names: Vec<_> = (0..NEWBORNS)
            .map(|number| format!("newborn-{number}"))
            .collect();
        let calls: Vec<_> = names
            .iter()
            .map(|name| send(&wire.probe(name), &[Do::Put("k", "v")]).promise)
            .collect();
        let calls = tokio::task::spawn_local(join_all(calls));
        settle().await;
        let made = |name: &&String| vat.controls.runs(Hook::Create, name) > 0;
        let count = names.iter().filter(made).count();
        // A batch takes a quarter of an eighth of the journal.
        assert!((100..NEWBORNS as usize - 100).contains(&count), "{count}");
        vat.hold.release();
        assert!(calls.await.unwrap().iter().all(Result::is_ok));
        assert_eq!(names.iter().filter(made).count(), names.len());
    });
}

#[test]
fn past_the_objects_that_a_connection_keeps_awake_its_calls_fail_and_others_do_not() {
    run_paused(async {
        let vat = TestVat::with(|config| config.limits.pins_per_connection = 2).await;
        let (greedy, other) = (vat.wire().await, vat.wire().await);
        let open = async |wire: &Wire, name| cap_of(&wire.probe(name), &[Do::Open]).await;
        let first = open(&greedy, "a").await.unwrap();
        // However many of its capabilities are held, an object counts once.
        let again = open(&greedy, "a").await.unwrap();
        let tx = cell(&greedy, "b").begun().await.unwrap();
        let refused = open(&greedy, "c").await.err().expect("it is one too many");
        assert!(
            refused.extra.contains("limits.pins_per_connection"),
            "{refused}"
        );
        assert_eq!(
            Delivery::split(&refused.extra).1,
            None,
            "it has run: {refused}"
        );
        assert_eq!(code::<()>(Err(refused)), Code::LimitExceeded);
        let refused = cell(&greedy, "c").begun().await.err();
        assert_eq!(code::<()>(Err(refused.unwrap())), Code::LimitExceeded);
        let refused = cell(&greedy, "d").cursor("SELECT 1", &[]).await.err();
        assert_eq!(code::<()>(Err(refused.unwrap())), Code::LimitExceeded);
        // Pipelined on, it is no capability either.
        let early = send(
            &greedy.probe("c"),
            &[Do::Open, Do::Early, Do::Latch("open")],
        );
        let pipelined = send(&early.pipeline.get_cap(), &[]).promise;
        vat.controls.release("open");
        assert_eq!(code(pipelined.await.map(drop)), Code::LimitExceeded);
        drop(early);
        // Calls that hand out nothing, or only stubs, go on, and so do other connections.
        tell(&greedy.probe("c"), &[]).await.unwrap();
        cap_of(&greedy.probe("c"), &[Do::Own]).await.unwrap();
        cell(&greedy, "c").put("k", b"v").await.unwrap();
        let held = open(&other, "a").await.unwrap();
        // What is let go of makes room.
        drop(first);
        settle().await;
        assert!(open(&greedy, "c").await.is_err(), "`a` is still pinned");
        drop(again);
        settle().await;
        let third = open(&greedy, "c").await.unwrap();
        tx.commit().await.unwrap();
        tell(&third, &[]).await.unwrap();
        tell(&held, &[]).await.unwrap();
    });
}
