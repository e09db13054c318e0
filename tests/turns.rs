//! What an object writes between two awaits is one commit, or nothing.

use futures::future::join_all;
use vatwerk::Code;

use crate::support::{Do, TestVat, code, run, run_paused, send, settle, tell};

#[test]
fn a_panic_after_two_writes_leaves_neither() {
    run(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        let probe = wire.probe("p");
        let script = [Do::Put("a", "1"), Do::Put("b", "1"), Do::Panic];
        assert_eq!(code(tell(&probe, &script).await), Code::ObjectReset);
        let found = tell(&probe, &[Do::Get("a"), Do::Get("b")]).await.unwrap();
        assert_eq!(found, ["-", "-"]);
    });
}

#[test]
fn a_panic_undoes_pairs_and_sql_alike_but_not_earlier_turns() {
    run(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        let probe = wire.probe("p");
        let script = [
            Do::Put("turn", "first"),
            Do::Sql("CREATE TABLE t (x)"),
            Do::Pause,
            Do::Put("turn", "second"),
            Do::Sql("INSERT INTO t VALUES (1)"),
            Do::Panic,
        ];
        assert_eq!(code(tell(&probe, &script).await), Code::ObjectReset);
        let script = [
            Do::Get("turn"),
            Do::Sql("INSERT INTO t SELECT 1 / (count(*) = 0) FROM t"),
        ];
        assert_eq!(tell(&probe, &script).await.unwrap(), ["first"]);
    });
}

#[test]
fn a_crash_between_two_turns_keeps_the_first_whole() {
    run(async {
        let mut vat = TestVat::start().await;
        let wire = vat.wire().await;
        let script = [
            Do::Put("a", "1"),
            Do::Put("b", "1"),
            Do::Latch("between"),
            Do::Put("a", "2"),
            Do::Put("b", "2"),
        ];
        let call = send(&wire.probe("p"), &script);
        vat.controls.reached("between").await;
        vat.crash().await;
        let lost = call.promise.await.map(drop);
        assert_eq!(lost.unwrap_err().kind, capnp::ErrorKind::Disconnected);
        vat.start_again().await;
        let wire = vat.wire().await;
        let found = tell(&wire.probe("p"), &[Do::Get("a"), Do::Get("b")]).await;
        assert_eq!(found.unwrap(), ["1", "1"]);
    });
}

#[test]
fn an_acknowledged_write_survives_any_number_of_crashes() {
    run(async {
        let mut vat = TestVat::start().await;
        for round in 1..=10 {
            let wire = vat.wire().await;
            let script = [Do::Add("a"), Do::Add("b")];
            let sums = tell(&wire.probe("p"), &script).await.unwrap();
            assert_eq!(sums, [round.to_string(), round.to_string()]);
            vat.crash().await;
            vat.start_again().await;
        }
    });
}

#[test]
fn a_turn_sees_what_it_has_written() {
    run(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        let script = [
            Do::Put("k", "1"),
            Do::Get("k"),
            Do::Put("k", "2"),
            Do::Get("k"),
        ];
        let said = tell(&wire.probe("p"), &script).await.unwrap();
        assert_eq!(said, ["1", "2"]);
    });
}

#[test]
fn increments_at_once_with_an_await_inside_are_counted_once_each() {
    run(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        let probe = wire.probe("p");
        let calls = (0..5).map(|_| send(&probe, &[Do::Add("n")]).promise);
        let sums: Vec<_> = join_all(calls)
            .await
            .into_iter()
            .map(|answer| crate::support::said(answer.unwrap().get().unwrap()).unwrap())
            .collect();
        assert_eq!(sums.concat(), ["1", "2", "3", "4", "5"]);
    });
}

#[test]
fn another_call_runs_while_one_waits_for_something_else() {
    run(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        let probe = wire.probe("p");
        let waiting = send(
            &probe,
            &[Do::Put("k", "mine"), Do::Latch("l"), Do::Get("k")],
        );
        vat.controls.reached("l").await;
        tell(&probe, &[Do::Put("k", "yours")]).await.unwrap();
        vat.controls.release("l");
        let answer = waiting.promise.await.unwrap();
        let said = crate::support::said(answer.get().unwrap()).unwrap();
        assert_eq!(said, ["yours"]);
    });
}

#[test]
fn a_caller_that_is_gone_ends_its_call_where_it_waits_and_finished_turns_stay() {
    run_paused(async {
        let vat = TestVat::start().await;
        let watching = vat.wire().await;
        for (name, latch, hang_up) in [("drops", "one", false), ("hangs up", "two", true)] {
            let wire = vat.wire().await;
            let script = [
                Do::Put("half", "yes"),
                Do::Latch(latch),
                Do::Put("whole", "yes"),
                Do::Pause,
                Do::Put("end", "yes"),
            ];
            let call = send(&wire.probe(name), &script);
            vat.controls.reached(latch).await;
            drop(call);
            if hang_up {
                wire.hang_up().await;
            }
            settle().await;
            vat.controls.release(latch);
            settle().await;
            let found = [Do::Get("half"), Do::Get("whole"), Do::Get("end")];
            let found = tell(&watching.probe(name), &found).await.unwrap();
            assert_eq!(found, ["yes", "-", "-"], "{name}");
        }
    });
}
