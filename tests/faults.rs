//! A journal that cannot be written fails the calls that needed it, and nothing else: what was
//! acknowledged stays, what failed is not half there, and when the disk works again so does the vat.

use std::path::Path;

use futures::future::join_all;
use vatwerk::{Code, counter_capnp::counter};
use vatwerk_server::{
    Config,
    env::sim::{Fault, Operation, Survival},
};

use crate::support::{
    Do, Ear, Hook, TestVat, Wire,
    cell::cell,
    code,
    disk::{count, journal, journal_sync, listed, night, read, vat_on_disk, write},
    run, run_paused, send, settle, tell,
};

#[test]
fn when_the_journal_cannot_be_written_writes_fail_and_reads_go_on_until_it_can() {
    run_paused(async {
        let faults: [fn() -> Fault; 7] = [
            || Fault::no_space().when(journal),
            || Fault::io_error().when(journal),
            || Fault::io_error().when(journal_sync),
            || {
                Fault::io_error()
                    .when(journal_sync)
                    .leaving(Survival::Everything)
            },
            || Fault::io_error().when(journal_sync).leaving(3),
            || Fault::io_error().when(journal).leaving(4),
            || Fault::io_error().when(|_, operation| operation.is_change()),
        ];
        let (mut vat, mut wire) = vat_on_disk().await;
        for (round, fault) in faults.iter().enumerate() {
            let (p, q) = (wire.probe("p"), wire.probe("q"));
            write(&p, "old").await.unwrap();
            assert_eq!(read(&q).await.unwrap(), ["old"; 2]);
            vat.disk().fail(fault());
            // It was given to the disk, which cannot be told that it does not count.
            let told = code(write(&p, "new").await);
            assert_eq!(told, Code::OutcomeUnknown, "{round}");
            assert_eq!(read(&q).await.unwrap(), ["old"; 2], "{round}");
            assert_eq!(code(write(&p, "new").await), Code::StorageFailed, "{round}");
            let newborn = format!("newborn {round}");
            let born = write(&wire.probe(&newborn), "no").await;
            assert_eq!(code(born), Code::StorageFailed, "{round}");
            // One that has to wake for it can be read too.
            night().await;
            assert_eq!(read(&q).await.unwrap(), ["old"; 2], "{round}");

            vat.disk().heal();
            // The same stub.
            assert_eq!(read(&p).await.unwrap(), ["old"; 2], "{round}");
            write(&p, "newer").await.unwrap();
            assert_eq!(read(&p).await.unwrap(), ["newer"; 2], "{round}");
            write(&wire.probe(&newborn), "born").await.unwrap();

            vat.lose_power(Survival::Nothing).await;
            vat.start_again().await;
            wire = vat.wire().await;
            for (name, text) in [("p", "newer"), ("q", "old"), (&newborn, "born")] {
                assert_eq!(read(&wire.probe(name)).await.unwrap(), [text; 2], "{round}");
            }
        }
    });
}

#[test]
fn what_was_said_after_a_write_that_never_happened_never_leaves() {
    run_paused(async {
        let (vat, wire) = vat_on_disk().await;
        let (p, q, ear) = (wire.probe("p"), wire.probe("q"), Ear::default());
        tell(&wire.probe("s"), &[]).await.unwrap();
        vat.hold.hold();
        let opening = send(&p, &[Do::Put("a", "new"), Do::Open]);
        let piped = send(&opening.pipeline.get_cap(), &[Do::Get("a")]);
        let calls = [
            opening,
            piped,
            send(&p, &[Do::Get("a"), Do::Say("a read that would reveal it")]),
            send(&p, &[Do::Put("b", "new"), Do::Tell(ear.client(), "told")]),
            send(
                &p,
                &[
                    Do::Shout(ear.client(), "shouted"),
                    Do::Push(ear.client(), "pushed"),
                ],
            ),
            send(
                &p,
                &[Do::Burst("r", 3, false), Do::Fail("an error of its own")],
            ),
            send(&p, &[Do::Object("r", vec![Do::Put("a", "told of")])]),
            send(&q, &[Do::Put("a", "new"), Do::Say("done")]),
        ];
        let calls = calls.map(|call| call.promise);
        settle().await;
        vat.disk().fail(Fault::io_error().when(journal));
        vat.hold.release();
        let outcomes = join_all(calls).await;
        let codes: Vec<_> = outcomes.into_iter().map(code).collect();
        // Those that still ran do not know what became of them.
        let (failed, reset) = (Code::OutcomeUnknown, Code::ObjectReset);
        let expected = [failed, failed, failed, reset, reset, failed, reset, failed];
        assert_eq!(codes, expected);
        settle().await;
        assert_eq!(ear.heard(), Vec::<String>::new());
        assert!(vat.controls.arrived().is_empty());
        assert_eq!(vat.controls.runs(Hook::Activate, "r"), 0);
        assert_eq!(vat.controls.runs(Hook::Drop, "p"), 1, "it is reset");
        // Neither does what is said when it is known that nothing can be written.
        let s = [
            Do::Put("a", "new"),
            Do::Shout(ear.client(), "s"),
            Do::Burst("r", 3, false),
        ];
        assert_eq!(code(tell(&wire.probe("s"), &s).await), Code::StorageFailed);
        settle().await;
        assert_eq!(ear.heard(), Vec::<String>::new());
        assert!(vat.controls.arrived().is_empty());
        vat.disk().heal();
        for name in ["p", "q"] {
            assert_eq!(read(&wire.probe(name)).await.unwrap(), ["old"; 2]);
        }
    });
}

#[test]
fn a_write_that_failed_before_the_power_did_is_there_whole_or_not_at_all() {
    run_paused(async {
        let seeds = (0..20).map(Survival::Seeded);
        for survival in [Survival::Nothing, Survival::Everything]
            .into_iter()
            .chain(seeds)
        {
            let (mut vat, wire) = vat_on_disk().await;
            let fault = Fault::io_error().when(journal_sync).leaving(survival);
            vat.disk().fail(fault);
            let failed = write(&wire.probe("p"), "new").await;
            assert_eq!(code(failed), Code::OutcomeUnknown);
            vat.lose_power(survival).await;
            vat.start_again().await;
            let wire = vat.wire().await;
            let found = read(&wire.probe("p")).await.unwrap();
            assert!(
                found == ["old"; 2] || found == ["new"; 2],
                "{survival:?}: {found:?}"
            );
            assert_eq!(read(&wire.probe("q")).await.unwrap(), ["old"; 2]);
        }
    });
}

/// The disk fails only for so long that the journal can say at once that the write does not count.
#[test]
fn a_write_that_is_said_to_be_undone_never_comes_back() {
    run_paused(async {
        let seeds = (0..20).map(Survival::Seeded);
        for survival in [Survival::Nothing, Survival::Everything]
            .into_iter()
            .chain(seeds)
        {
            for strikes in [1, 2] {
                let (mut vat, wire) = vat_on_disk().await;
                let fault = Fault::io_error().when(journal_sync).leaving(survival);
                vat.disk().fail(fault.times(strikes));
                let told = write(&wire.probe("p"), "new").await;
                let expected = match told {
                    // The second segment took it.
                    Ok(_) => "new",
                    Err(error) => {
                        assert!(error.extra.contains("delivery-unknown"), "{error}");
                        assert_eq!(code::<()>(Err(error)), Code::StorageFailed);
                        "old"
                    }
                };
                assert_eq!(expected == "new", strikes == 1);
                vat.lose_power(survival).await;
                vat.start_again().await;
                let wire = vat.wire().await;
                let found = read(&wire.probe("p")).await.unwrap();
                assert_eq!(found, [expected; 2], "{survival:?}, {strikes}");
            }
        }
    });
}

#[test]
fn a_vat_whose_journal_fails_stops_and_keeps_what_was_acknowledged() {
    run(async {
        let settings: fn(&mut Config) = |_| {};
        for threads in [false, true] {
            let mut vat = match threads {
                false => TestVat::on_disk(settings).await,
                true => TestVat::on_disk_with_threads(settings).await,
            };
            let wire = vat.wire().await;
            let (p, q) = (wire.probe("p"), wire.probe("q"));
            for object in [&p, &q] {
                write(object, "old").await.unwrap();
            }
            vat.disk().fail(Fault::io_error().when(journal));
            assert_eq!(code(write(&p, "new").await), Code::OutcomeUnknown);
            vat.stop().await;
            vat.disk().heal();
            vat.start_again().await;
            let wire = vat.wire().await;
            for name in ["p", "q"] {
                assert_eq!(read(&wire.probe(name)).await.unwrap(), ["old"; 2]);
            }
            vat.stop().await;
        }
    });
}

/// An object's entry in the catalog is the first write that fails.
#[test]
fn an_object_that_could_not_be_listed_is_made_when_the_disk_works_again() {
    run_paused(async {
        let (mut vat, wire) = vat_on_disk().await;
        let increment = async |wire: &Wire, name: &str| {
            let counter: counter::Client = wire.object(name);
            let answer = counter.increment_request().send().promise.await?;
            capnp::Result::Ok(answer.get()?.get_count())
        };
        vat.disk().fail(Fault::io_error().when(journal));
        for name in ["one", "one", "two"] {
            assert_eq!(code(increment(&wire, name).await), Code::StorageFailed);
        }
        vat.disk().heal();
        assert_eq!(listed(&wire, "").await, 2);
        for name in ["one", "two", "three"] {
            assert_eq!(increment(&wire, name).await.unwrap(), 1);
        }
        vat.lose_power(Survival::Nothing).await;
        vat.start_again().await;
        let wire = vat.wire().await;
        for name in ["one", "two", "three"] {
            assert_eq!(increment(&wire, name).await.unwrap(), 2);
        }
    });
}

#[test]
fn on_a_full_disk_what_is_there_is_served_and_with_room_everything_is() {
    run_paused(async {
        let mut vat = TestVat::on_disk(|config| config.limits.journal_bytes = 8 << 20).await;
        let wire = vat.wire().await;
        let full = cell(&wire, "full");
        full.put("0", &vec![0; 100_000]).await.unwrap();
        vat.disk().set_capacity(Some(vat.disk().used_bytes()));
        let mut kept = 1;
        // There is room in the journal, for a while.
        let failed = loop {
            match full.put(&kept.to_string(), &vec![0; 100_000]).await {
                Ok(()) => kept += 1,
                Err(error) => break error,
            }
            assert!(kept < 100, "the disk is full");
        };
        assert!(kept > 1);
        assert_eq!(code::<()>(Err(failed)), Code::StorageFailed);
        let other = wire.probe("other");
        assert_eq!(code(write(&other, "new").await), Code::StorageFailed);

        vat.disk().set_capacity(None);
        write(&other, "new").await.unwrap();
        assert_eq!(count(&full).await, kept);
        full.put("last", &vec![0; 100_000]).await.unwrap();
        vat.lose_power(Survival::Nothing).await;
        vat.start_again().await;
        let wire = vat.wire().await;
        assert_eq!(count(&cell(&wire, "full")).await, kept + 1);
        assert_eq!(read(&wire.probe("other")).await.unwrap(), ["new"; 2]);
    });
}

#[test]
fn a_large_commit_whose_pages_cannot_be_written_has_not_happened() {
    run_paused(async {
        fn pages(path: &Path) -> bool {
            path.extension()
                .is_some_and(|extension| extension == "pages")
        }
        let faults: [fn() -> Fault; 4] = [
            || Fault::no_space().when(|path, _| pages(path)),
            || Fault::io_error().when(|path, op| pages(path) && op == Operation::Write),
            || Fault::io_error().when(|path, op| pages(path) && op.is_sync()),
            || Fault::io_error().when(journal_sync),
        ];
        let mut vat = TestVat::on_disk(|config| config.limits.journal_bytes = 8 << 20).await;
        let mut wire = vat.wire().await;
        for (round, fault) in faults.iter().enumerate() {
            let large = cell(&wire, "large");
            large.put("k", &vec![1; 1_000_000]).await.unwrap();
            vat.disk().fail(fault());
            let failed = large.put("k", &vec![2; 1_000_000]).await;
            // Its record was not written.
            assert_eq!(code(failed), Code::StorageFailed, "{round}");
            vat.disk().heal();
            assert!(
                large.get("k").await.unwrap() == Some(vec![1; 1_000_000]),
                "{round}"
            );
            large.put("k", &vec![3; 1_000_000]).await.unwrap();
            vat.lose_power(Survival::Nothing).await;
            vat.start_again().await;
            wire = vat.wire().await;
            let found = cell(&wire, "large").get("k").await.unwrap();
            assert!(found == Some(vec![3; 1_000_000]), "{round}");
        }
    });
}

/// As in production: the journal finds out by itself that the disk works again.
#[test]
fn a_journal_with_threads_fails_and_recovers_likewise() {
    run(async {
        let mut vat = TestVat::on_disk_with_threads(|_| {}).await;
        let wire = vat.wire().await;
        let (p, q) = (wire.probe("p"), wire.probe("q"));
        for object in [&p, &q] {
            write(object, "old").await.unwrap();
        }
        vat.disk().fail(Fault::io_error().when(journal));
        assert_eq!(code(write(&p, "new").await), Code::OutcomeUnknown);
        assert_eq!(read(&q).await.unwrap(), ["old"; 2]);
        assert_eq!(code(write(&p, "new").await), Code::StorageFailed);
        vat.disk().heal();
        while let Err(error) = write(&p, "newer").await {
            assert_eq!(code::<()>(Err(error)), Code::StorageFailed);
        }
        assert_eq!(read(&p).await.unwrap(), ["newer"; 2]);
        vat.lose_power(Survival::Nothing).await;
        vat.start_again().await;
        let wire = vat.wire().await;
        assert_eq!(read(&wire.probe("p")).await.unwrap(), ["newer"; 2]);
        vat.stop().await;
    });
}
