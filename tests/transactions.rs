//! Transactions as capabilities.

use std::time::Duration;

use tokio::{task::spawn_local, time::sleep};
use vatwerk::Code;

use crate::support::{
    TestVat,
    cell::{Span, V, cell, next},
    code, run, run_paused, settle,
};

#[test]
fn others_wait_while_a_transaction_is_open_and_never_see_half_of_it() {
    run_paused(async {
        let vat = TestVat::start().await;
        let (one, other) = (vat.wire().await, vat.wire().await);
        let (mine, theirs) = (cell(&one, "c"), cell(&other, "c"));
        mine.put("a", b"0").await.unwrap();
        let tx = mine.begun().await.unwrap();
        tx.ops.put("a", b"1").await.unwrap();
        let read = spawn_local({
            let theirs = theirs.clone();
            async move { theirs.get_multiple(&["a", "b"]).await }
        });
        let write = spawn_local({
            let theirs = theirs.clone();
            async move { theirs.put("a", b"theirs").await }
        });
        settle().await;
        tx.ops.put("b", b"1").await.unwrap();
        // It sees its own writes.
        assert_eq!(tx.ops.get("a").await.unwrap().unwrap(), b"1");
        settle().await;
        assert!(!read.is_finished() && !write.is_finished());
        tx.commit().await.unwrap();
        let seen = read.await.unwrap().unwrap();
        assert!(seen.iter().all(|(_, value)| value == b"1"), "{seen:?}");
        assert_eq!(seen.len(), 2);
        write.await.unwrap().unwrap();
        // Nobody else's write was swallowed.
        assert_eq!(theirs.get("a").await.unwrap().unwrap(), b"theirs");
        // Another object never had to wait.
        cell(&other, "d").put("k", b"v").await.unwrap();
    });
}

#[test]
fn dropped_it_is_rolled_back_and_others_proceed() {
    run(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        let cell = cell(&wire, "c");
        cell.put("k", b"before").await.unwrap();
        let tx = cell.begun().await.unwrap();
        tx.ops.put("k", b"during").await.unwrap();
        tx.ops.exec("CREATE TABLE t (x)", &[]).await.unwrap();
        drop(tx);
        assert_eq!(cell.get("k").await.unwrap().unwrap(), b"before");
        let gone = cell.exec("SELECT * FROM t", &[]).await;
        assert_eq!(code(gone), Code::SqlFailed);
    });
}

#[test]
fn a_client_that_hangs_up_rolls_back_and_lets_others_proceed() {
    run_paused(async {
        let vat = TestVat::start().await;
        let (one, other) = (vat.wire().await, vat.wire().await);
        let (mine, theirs) = (cell(&one, "c"), cell(&other, "c"));
        let tx = mine.begun().await.unwrap();
        tx.ops.put("k", b"half").await.unwrap();
        let waiting = spawn_local(async move { theirs.get("k").await });
        settle().await;
        assert!(!waiting.is_finished());
        one.hang_up().await;
        assert_eq!(waiting.await.unwrap().unwrap(), None);
    });
}

#[test]
fn commit_and_rollback_end_it_and_then_everything_on_it_is_closed() {
    run(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        let cell = cell(&wire, "c");
        for commit in [true, false] {
            let tx = cell.begun().await.unwrap();
            let sql = tx.ops.sql();
            tx.ops.put("k", b"v").await.unwrap();
            match commit {
                true => tx.commit().await.unwrap(),
                false => tx.rollback().await.unwrap(),
            }
            assert_eq!(code(tx.ops.get("k").await), Code::Closed);
            assert_eq!(code(tx.ops.put("k", b"late").await), Code::Closed);
            assert_eq!(code(tx.ops.page(Span::default()).await), Code::Closed);
            assert_eq!(code(tx.ops.begun().await.map(drop)), Code::Closed);
            assert_eq!(code(tx.commit().await), Code::Closed);
            let mut late = sql.exec_request();
            late.get().set_query("SELECT 1");
            assert_eq!(code(late.send().promise.await.map(drop)), Code::Closed);
            // Rolling back is idempotent, and undoes nothing that was committed.
            tx.rollback().await.unwrap();
            assert_eq!(cell.get("k").await.unwrap().is_some(), commit);
            cell.delete("k").await.unwrap();
        }
    });
}

#[test]
fn a_whole_transaction_is_one_round_trip() {
    run(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        let cell = cell(&wire, "c");
        let tx = cell.begin();
        let (put, commit) = (tx.ops.put("k", b"v"), tx.commit());
        let (put, commit) = futures::future::join(put, commit).await;
        put.unwrap();
        commit.unwrap();
        assert_eq!(cell.get("k").await.unwrap().unwrap(), b"v");
    });
}

#[test]
fn open_for_too_long_it_is_rolled_back_and_others_proceed() {
    run_paused(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        let cell = cell(&wire, "c");
        let tx = cell.begun().await.unwrap();
        tx.ops.put("k", b"v").await.unwrap();
        let waiting = spawn_local({
            let cell = cell.clone();
            async move { cell.get("k").await }
        });
        sleep(Duration::from_secs(29)).await;
        assert!(!waiting.is_finished());
        sleep(Duration::from_secs(2)).await;
        assert_eq!(waiting.await.unwrap().unwrap(), None);
        assert_eq!(code(tx.ops.get("k").await), Code::Closed);
        assert_eq!(code(tx.commit().await), Code::Closed);
    });
}

#[test]
fn nested_ones_are_undone_alone_or_with_their_parent() {
    run(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        let cell = cell(&wire, "c");
        let tx = cell.begun().await.unwrap();
        tx.ops.put("outer", b"1").await.unwrap();

        let undone = tx.ops.begun().await.unwrap();
        undone.ops.put("undone", b"1").await.unwrap();
        // While it has a child, the parent answers nothing but rollback.
        assert_eq!(code(tx.ops.get("outer").await), Code::InvalidArgument);
        assert_eq!(code(tx.commit().await), Code::InvalidArgument);
        assert_eq!(code(tx.ops.begun().await.map(drop)), Code::InvalidArgument);
        undone.rollback().await.unwrap();

        let kept = tx.ops.begun().await.unwrap();
        kept.ops.put("kept", b"1").await.unwrap();
        let deeper = kept.ops.begun().await.unwrap();
        deeper.ops.put("deeper", b"1").await.unwrap();
        deeper.commit().await.unwrap();
        kept.commit().await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(
            cell.keys(Span::default()).await,
            ["deeper", "kept", "outer"]
        );

        let tx = cell.begun().await.unwrap();
        let child = tx.ops.begun().await.unwrap();
        child.ops.put("gone with its parent", b"1").await.unwrap();
        child.commit().await.unwrap();
        tx.rollback().await.unwrap();
        let tx = cell.begun().await.unwrap();
        let child = tx.ops.begun().await.unwrap();
        child.ops.put("gone too", b"1").await.unwrap();
        tx.rollback().await.unwrap();
        assert_eq!(code(child.commit().await), Code::Closed);
        assert_eq!(cell.keys(Span::default()).await.len(), 3);
    });
}

#[test]
fn a_rollback_of_the_very_first_write_does_not_break_later_ones() {
    run(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        let cell = cell(&wire, "c");
        let tx = cell.begun().await.unwrap();
        tx.ops.put("k", b"v").await.unwrap();
        tx.rollback().await.unwrap();
        assert_eq!(cell.get("k").await.unwrap(), None);
        cell.put("k", b"later").await.unwrap();
        assert_eq!(cell.get("k").await.unwrap().unwrap(), b"later");
    });
}

#[test]
fn an_error_inside_leaves_the_transaction_to_its_owner() {
    run(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        let cell = cell(&wire, "c");
        let tx = cell.begun().await.unwrap();
        let create = "CREATE TABLE t (x UNIQUE)";
        tx.ops.exec(create, &[]).await.unwrap();
        let insert = "INSERT INTO t VALUES (?)";
        tx.ops.exec(insert, &[V::Int(1)]).await.unwrap();
        let twice = tx.ops.exec(insert, &[V::Int(1)]).await;
        assert_eq!(code(twice), Code::SqlFailed);
        for refused in ["BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT s"] {
            let refused = tx.ops.exec(refused, &[]).await;
            assert_eq!(code(refused), Code::SqlRefused);
        }
        tx.commit().await.unwrap();
        let rows = cell.exec("SELECT x FROM t", &[]).await.unwrap();
        assert_eq!(rows, [[V::Int(1)]]);
    });
}

#[test]
fn a_commit_answers_when_it_is_on_disk_and_a_crash_before_commit_leaves_nothing() {
    run_paused(async {
        let mut vat = TestVat::start().await;
        let wire = vat.wire().await;
        let mine = cell(&wire, "c");
        let tx = mine.begun().await.unwrap();
        tx.ops.put("k", b"v").await.unwrap();
        vat.hold.hold();
        let commit = spawn_local(async move { tx.commit().await });
        settle().await;
        assert!(!commit.is_finished());
        vat.hold.release();
        commit.await.unwrap().unwrap();

        let open = mine.begun().await.unwrap();
        open.ops.put("k", b"half").await.unwrap();
        vat.crash().await;
        vat.start_again().await;
        let wire = vat.wire().await;
        let found = cell(&wire, "c").get("k").await.unwrap();
        assert_eq!(found.unwrap(), b"v");
    });
}

#[test]
fn a_cursor_of_a_transaction_ends_with_it() {
    run(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        let cell = cell(&wire, "c");
        let tx = cell.begun().await.unwrap();
        let numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 9) \
                       SELECT i FROM n";
        let cursor = tx.ops.cursor(numbers, &[]).await.unwrap();
        assert_eq!(next(&cursor, 2).await.unwrap().0.len(), 2);
        tx.rollback().await.unwrap();
        assert_eq!(code(next(&cursor, 2).await), Code::Closed);
    });
}
