//! Nothing that could reveal a write leaves an object before the write is on disk.
//!
//! The clock is paused: [`settle`] returns when nobody has anything left to do, so what has not
//! arrived by then has been held back.

use std::{cell::Cell, rc::Rc};

use capnp::capability::RemotePromise;
use tokio::task::spawn_local;

use crate::{
    probe_capnp::{probe, sink},
    support::{Do, Ear, Hook, Mood, TestVat, Wire, cap_of, run_paused, said, send, settle, tell},
};

/// A call, and whether its outcome has arrived.
struct Watched {
    arrived: Rc<Cell<bool>>,
    outcome: tokio::task::JoinHandle<capnp::Result<Vec<String>>>,
}

fn watch(call: RemotePromise<probe::run_results::Owned>) -> Watched {
    let arrived = Rc::new(Cell::new(false));
    let outcome = spawn_local({
        let arrived = arrived.clone();
        async move {
            let outcome = call.promise.await;
            arrived.set(true);
            said(outcome?.get()?)
        }
    });
    Watched { arrived, outcome }
}

impl Watched {
    #[track_caller]
    fn is_held(&self) {
        assert!(!self.arrived.get(), "it came through the gate");
        assert!(!self.outcome.is_finished());
    }

    async fn outcome(self) -> capnp::Result<Vec<String>> {
        self.outcome.await.unwrap()
    }
}

/// A vat whose disk takes as long as the test says, with objects `p` and `q` awake.
async fn slow_disk() -> (TestVat, Wire) {
    let vat = TestVat::start().await;
    let wire = vat.wire().await;
    tell(&wire.probe("p"), &[]).await.unwrap();
    tell(&wire.probe("q"), &[]).await.unwrap();
    vat.hold.hold();
    (vat, wire)
}

#[test]
fn a_result_waits_for_its_write() {
    run_paused(async {
        let (vat, wire) = slow_disk().await;
        let call = watch(send(
            &wire.probe("p"),
            &[Do::Put("k", "v"), Do::Say("done")],
        ));
        settle().await;
        call.is_held();
        vat.hold.release();
        assert_eq!(call.outcome().await.unwrap(), ["done"]);
    });
}

#[test]
fn an_error_waits_for_its_write() {
    run_paused(async {
        let (vat, wire) = slow_disk().await;
        let call = watch(send(
            &wire.probe("p"),
            &[Do::Put("k", "v"), Do::Fail("told")],
        ));
        settle().await;
        call.is_held();
        vat.hold.release();
        assert!(call.outcome().await.unwrap_err().extra.contains("told"));
    });
}

#[test]
fn a_read_waits_for_the_write_before_it_and_outcomes_keep_their_order() {
    run_paused(async {
        let (vat, wire) = slow_disk().await;
        let probe = wire.probe("p");
        let order = Rc::new(std::cell::RefCell::new(Vec::new()));
        let calls = [
            send(&probe, &[Do::Put("k", "v")]),
            send(&probe, &[Do::Get("k")]),
            send(&probe, &[Do::Fail("x")]),
            send(&probe, &[Do::Get("k")]),
        ];
        let tasks = calls.into_iter().enumerate().map(|(i, call)| {
            let order = order.clone();
            spawn_local(async move {
                let _ = call.promise.await;
                order.borrow_mut().push(i);
            })
        });
        let tasks: Vec<_> = tasks.collect();
        settle().await;
        assert!(order.borrow().is_empty());
        vat.hold.release();
        futures::future::join_all(tasks).await;
        assert_eq!(*order.borrow(), [0, 1, 2, 3]);
    });
}

#[test]
fn a_call_without_a_write_is_not_held_back() {
    run_paused(async {
        let (_vat, wire) = slow_disk().await;
        let held = watch(send(&wire.probe("p"), &[Do::Put("k", "v")]));
        settle().await;
        // Another object has written nothing.
        let said = tell(&wire.probe("q"), &[Do::Get("k"), Do::Say("read")]).await;
        assert_eq!(said.unwrap(), ["-", "read"]);
        held.is_held();
    });
}

#[test]
fn a_call_to_the_clients_callback_waits() {
    run_paused(async {
        let (vat, wire) = slow_disk().await;
        let ear = Ear::default();
        let script = [
            Do::Tell(ear.client(), "before"),
            Do::Put("k", "v"),
            Do::Shout(ear.client(), "one"),
            Do::Tell(ear.client(), "two"),
        ];
        let call = watch(send(&wire.probe("p"), &script));
        settle().await;
        assert_eq!(ear.heard(), ["before"]);
        call.is_held();
        vat.hold.release();
        call.outcome().await.unwrap();
        assert_eq!(ear.heard(), ["before", "one", "two"]);
    });
}

#[test]
fn a_streamed_call_to_the_clients_callback_waits() {
    run_paused(async {
        let (vat, wire) = slow_disk().await;
        let ear = Ear::default();
        let script = [
            Do::Put("k", "v"),
            Do::Push(ear.client(), "1"),
            Do::Push(ear.client(), "2"),
        ];
        let call = watch(send(&wire.probe("p"), &script));
        settle().await;
        assert!(ear.heard().is_empty());
        vat.hold.release();
        call.outcome().await.unwrap();
        assert_eq!(ear.heard(), ["1", "2"]);
    });
}

#[test]
fn a_capability_that_the_object_kept_is_outside_too() {
    run_paused(async {
        let (vat, wire) = slow_disk().await;
        let (probe, ear) = (wire.probe("p"), Ear::default());
        tell(&probe, &[Do::Hold(ear.client())]).await.unwrap();
        let call = watch(send(&probe, &[Do::Put("k", "v"), Do::TellHeld("written")]));
        settle().await;
        assert!(ear.heard().is_empty());
        vat.hold.release();
        call.outcome().await.unwrap();
        assert_eq!(ear.heard(), ["written"]);
    });
}

#[test]
fn a_call_to_another_object_waits() {
    run_paused(async {
        let (vat, wire) = slow_disk().await;
        let script = [
            Do::Put("k", "v"),
            Do::Object("q", vec![Do::Latch("other"), Do::Say("heard")]),
        ];
        vat.controls.release("other");
        let mut call = watch(send(&wire.probe("p"), &script));
        let reached = vat.controls.reached("other");
        tokio::select! {
            () = reached => panic!("the other object has heard of it"),
            () = settle() => {}
        }
        call.is_held();
        vat.hold.release();
        vat.controls.reached("other").await;
        assert_eq!((&mut call.outcome).await.unwrap().unwrap(), ["heard"]);
    });
}

#[test]
fn a_pipelined_call_on_a_capability_in_the_result_waits() {
    run_paused(async {
        let (vat, wire) = slow_disk().await;
        let opening = send(&wire.probe("p"), &[Do::Put("k", "v"), Do::Open]);
        let handle = opening.pipeline.get_cap();
        let piped = watch(send(&handle, &[Do::Get("k")]));
        let opening = watch(opening);
        settle().await;
        opening.is_held();
        piped.is_held();
        vat.hold.release();
        opening.outcome().await.unwrap();
        assert_eq!(piped.outcome().await.unwrap(), ["v"]);
    });
}

#[test]
fn a_pipeline_that_was_set_early_waits_for_the_writes_before_it() {
    run_paused(async {
        let (vat, wire) = slow_disk().await;
        let script = [
            Do::Put("k", "v"),
            Do::Open,
            Do::Say("early"),
            Do::Early,
            Do::Latch("slow"),
        ];
        let call = send(&wire.probe("p"), &script);
        let piped = watch(send(&call.pipeline.get_cap(), &[Do::Get("k")]));
        let call = watch(call);
        vat.controls.reached("slow").await;
        settle().await;
        piped.is_held();
        vat.hold.release();
        // Early: the call itself is not over yet.
        assert_eq!(piped.outcome().await.unwrap(), ["v"]);
        call.is_held();
        vat.controls.release("slow");
        assert_eq!(call.outcome().await.unwrap(), ["early"]);
    });
}

#[test]
fn a_call_on_a_capability_that_was_handed_out_waits_for_writes_made_since() {
    run_paused(async {
        let (vat, wire) = slow_disk().await;
        let probe = wire.probe("p");
        let handle = cap_of(&probe, &[Do::Open]).await.unwrap();
        let write = watch(send(&probe, &[Do::Put("k", "v")]));
        let read = watch(send(&handle, &[Do::Get("k")]));
        settle().await;
        write.is_held();
        read.is_held();
        vat.hold.release();
        write.outcome().await.unwrap();
        assert_eq!(read.outcome().await.unwrap(), ["v"]);
    });
}

#[test]
fn a_capability_handed_to_a_callback_reveals_nothing_early() {
    run_paused(async {
        let (vat, wire) = slow_disk().await;
        let ear = Ear::default();
        let script = [Do::Hand(ear.client()), Do::Put("k", "v"), Do::Pause];
        let call = watch(send(&wire.probe("p"), &script));
        settle().await;
        let handle = ear
            .kept()
            .pop()
            .expect("it was handed over before the write");
        let read = watch(send(&handle, &[Do::Get("k")]));
        settle().await;
        read.is_held();
        call.is_held();
        vat.hold.release();
        assert_eq!(read.outcome().await.unwrap(), ["v"]);
        call.outcome().await.unwrap();
    });
}

#[test]
fn a_write_through_a_handed_out_capability_is_held_too() {
    run_paused(async {
        let (vat, wire) = slow_disk().await;
        let handle = cap_of(&wire.probe("p"), &[Do::Open]).await.unwrap();
        let write = watch(send(&handle, &[Do::Put("k", "v"), Do::Say("w")]));
        let read = watch(send(&wire.probe("p"), &[Do::Get("k")]));
        settle().await;
        write.is_held();
        read.is_held();
        vat.hold.release();
        assert_eq!(write.outcome().await.unwrap(), ["w"]);
        assert_eq!(read.outcome().await.unwrap(), ["v"]);
    });
}

#[test]
fn two_objects_do_not_wait_for_each_others_gate_needlessly_but_chains_do() {
    run_paused(async {
        let (vat, wire) = slow_disk().await;
        // `q` writes because `p` asked; `p` has written nothing, yet its answer reveals `q`'s write.
        let call = watch(send(
            &wire.probe("p"),
            &[Do::Object("q", vec![Do::Put("k", "v"), Do::Say("q wrote")])],
        ));
        settle().await;
        call.is_held();
        let free = tell(&wire.probe("p"), &[Do::Say("free")]).await.unwrap();
        assert_eq!(free, ["free"]);
        vat.hold.release();
        assert_eq!(call.outcome().await.unwrap(), ["q wrote"]);
    });
}

#[test]
fn what_a_panicking_turn_said_never_leaves() {
    run_paused(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        let ear = Ear::default();
        tell(&wire.probe("q"), &[]).await.unwrap();
        let script = [
            Do::Put("k", "v"),
            Do::Shout(ear.client(), "never"),
            Do::Burst("q", 3, false),
            Do::Panic,
        ];
        tell(&wire.probe("p"), &script).await.unwrap_err();
        settle().await;
        assert!(ear.heard().is_empty());
        assert!(vat.controls.arrived().is_empty());
    });
}

#[test]
fn what_waits_at_the_gate_of_an_object_that_panics_is_a_reset_and_not_a_success() {
    run_paused(async {
        let (vat, wire) = slow_disk().await;
        let probe = wire.probe("p");
        let write = watch(send(&probe, &[Do::Put("k", "v"), Do::Say("written")]));
        settle().await;
        tell(&probe, &[Do::Panic]).await.unwrap_err();
        let reset = write.outcome().await;
        assert_eq!(crate::support::code(reset), vatwerk::Code::ObjectReset);
        vat.hold.release();
    });
}

#[test]
fn a_new_instance_reveals_nothing_that_an_earlier_one_wrote_and_is_not_on_disk() {
    run_paused(async {
        let (vat, wire) = slow_disk().await;
        let probe = wire.probe("p");
        let write = watch(send(&probe, &[Do::Put("k", "v")]));
        settle().await;
        tell(&probe, &[Do::Panic]).await.unwrap_err();
        write.outcome().await.unwrap_err();
        let read = watch(send(&probe, &[Do::Get("k")]));
        settle().await;
        assert_eq!(vat.controls.runs(Hook::Activate, "p"), 2);
        read.is_held();
        vat.hold.release();
        assert_eq!(read.outcome().await.unwrap(), ["v"]);
    });
}

#[test]
fn a_turn_that_has_written_nothing_after_all_holds_nothing_back() {
    run_paused(async {
        let vat = TestVat::with(|config| config.limits.idle_ms = 1000).await;
        let wire = vat.wire().await;
        let probe = wire.probe("p");
        let table = [
            Do::Sql("CREATE TABLE t (x UNIQUE)"),
            Do::Sql("INSERT INTO t VALUES (1)"),
        ];
        tell(&probe, &table).await.unwrap();
        let nothing = [
            (Do::Sql("CREATE TABLE IF NOT EXISTS t (x)"), None),
            (Do::Glance("k"), Some("-")),
            (Do::Regret("k"), Some("a reason")),
            (Do::TrySql("INSERT INTO t VALUES (1)"), Some("failed")),
        ];
        for (awake, (step, says)) in nothing.into_iter().enumerate() {
            let script = [step, Do::Object("q", vec![Do::Say("heard")])];
            let mut answer = tell(&probe, &script).await.unwrap();
            assert_eq!(answer.pop().as_deref(), Some("heard"));
            assert_eq!(answer.pop().as_deref(), says);
            assert_eq!(tell(&probe, &[Do::Get("k")]).await.unwrap(), ["-"]);
            // Nothing keeps it from falling asleep either.
            tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
            assert_eq!(vat.controls.runs(Hook::Drop, "p") as usize, awake + 1);
        }
    });
}

#[test]
fn a_result_held_back_when_the_vat_crashes_is_a_disconnect_and_not_a_success() {
    run_paused(async {
        let (mut vat, wire) = slow_disk().await;
        let ear = Ear::default();
        let sink: sink::Client = ear.client();
        let script = [
            Do::Put("k", "v"),
            Do::Shout(sink, "revealed"),
            Do::Say("done"),
        ];
        let call = watch(send(&wire.probe("p"), &script));
        settle().await;
        call.is_held();
        vat.crash().await;
        let lost = call.outcome().await.unwrap_err();
        assert_eq!(lost.kind, capnp::ErrorKind::Disconnected, "{lost}");
        assert!(ear.heard().is_empty());
    });
}

#[test]
fn what_create_and_activate_say_waits_for_what_they_wrote() {
    run_paused(async {
        let (vat, wire) = slow_disk().await;
        for hook in [Hook::Create, Hook::Activate] {
            let mood = Mood::WriteAndCall("q");
            vat.controls.set_mood(hook, "new", Some(mood));
        }
        let call = watch(send(&wire.probe("new"), &[Do::Get("woken")]));
        settle().await;
        assert!(vat.controls.arrived().is_empty());
        call.is_held();
        vat.hold.release();
        assert_eq!(call.outcome().await.unwrap(), ["yes"]);
        assert_eq!(vat.controls.arrived().len(), 2);
    });
}
