use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use super::super::testing::{TestResult, code, fresh, open};
use super::super::{Cursor, Range};
use super::*;

fn no() -> Error {
    Error::NotFound("no".into())
}

fn counted(storage: &Storage) -> Rc<Cell<u32>> {
    let commits = Rc::new(Cell::new(0));
    let seen = commits.clone();
    storage.on_commit(move |_| seen.set(seen.get() + 1));
    commits
}

#[test]
fn closures_nest_and_undo_only_themselves() -> TestResult {
    let (_folder, storage) = fresh();
    let commits = counted(&storage);
    let answer = storage.transaction(|storage| {
        storage.kv().put("a", &1)?;
        let inner: Result<()> = storage.transaction(|storage| {
            storage.kv().put("b", &1)?;
            assert_eq!(storage.keys(), ["a", "b"]);
            Err(no())
        });
        assert_eq!(inner, Err(no()));
        storage.transaction(|storage| storage.kv().put("c", &1))?;
        Ok::<_, Error>(17)
    })?;
    assert_eq!(answer, 17);
    assert_eq!(storage.keys(), ["a", "c"]);
    assert_eq!(commits.get(), 1);

    let failed: Result<()> = storage.transaction(|storage| {
        storage.kv().delete("a")?;
        storage.transaction(|storage| storage.kv().put("d", &1))?;
        Err(no())
    });
    assert_eq!(failed, Err(no()));
    assert_eq!(storage.keys(), ["a", "c"]);
    assert_eq!(commits.get(), 1);
    Ok(())
}

#[test]
fn a_list_inside_shows_what_was_written_and_removed_inside() -> TestResult {
    let (_folder, storage) = fresh();
    for key in ["a", "b", "d"] {
        storage.kv().put(key, &1)?;
    }
    let range = |reverse, limit| Range {
        prefix: String::new(),
        reverse,
        limit,
        ..Range::default()
    };
    let failed: Result<()> = storage.transaction(|storage| {
        let kv = storage.kv();
        kv.put("c", &2)?;
        kv.put("a", &2)?;
        assert!(kv.delete("b")?);
        assert_eq!(kv.delete_many(&["b", "d", "e"])?, 1);
        let all = kv.list::<i64>(&range(false, None))?;
        assert_eq!(all, [("a".to_owned(), 2), ("c".to_owned(), 2)]);
        let last = kv.list::<i64>(&range(true, Some(1)))?;
        assert_eq!(last, [("c".to_owned(), 2)]);
        Err(no())
    });
    assert_eq!(failed, Err(no()));
    let all = storage.kv().list::<i64>(&range(false, None))?;
    let all: Vec<_> = all.iter().map(|(key, n)| (&**key, *n)).collect();
    assert_eq!(all, [("a", 1), ("b", 1), ("d", 1)]);
    Ok(())
}

#[test]
fn a_panic_undoes_the_closure_alone() -> TestResult {
    let (_folder, storage) = fresh();
    storage.enter_turn();
    storage.kv().put("a", &1)?;
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        storage.transaction(|storage| -> Result<()> {
            storage.kv().put("b", &1)?;
            panic!("on purpose");
        })
    }));
    assert!(panicked.is_err());
    storage.kv().put("c", &1)?;
    assert!(storage.commit_turn()?.is_some());
    assert_eq!(storage.keys(), ["a", "c"]);
    Ok(())
}

#[test]
fn a_held_transaction_spans_turns() -> TestResult {
    let (folder, storage) = fresh();
    let commits = counted(&storage);
    storage.enter_turn();
    storage.kv().put("before", &1)?;
    let held = storage.begin_held()?;
    assert_eq!(commits.get(), 1, "what came before is committed");
    held.kv().put("a", &1)?;
    assert!(storage.commit_turn()?.is_none());
    storage.enter_turn();
    // Through any handle it is inside.
    storage.kv().put("b", &1)?;
    held.sql().exec("CREATE TABLE t (x)", ())?;
    assert_eq!(code(storage.begin_held().map(drop)), "invalid-argument");
    assert_eq!(code(storage.delete_all()), "invalid-argument");
    assert!(storage.commit_turn()?.is_none());
    assert_eq!(commits.get(), 1);
    held.commit()?;
    assert_eq!(commits.get(), 2);
    assert!(!held.is_open());
    assert_eq!(code(held.commit()), "closed");
    held.rollback()?;
    assert_eq!(code(held.kv().get_bytes("a")), "closed");
    assert_eq!(code(held.kv().put_bytes("a", b"")), "closed");
    assert_eq!(code(held.kv().put_many_bytes(&[("a", b"")])), "closed");
    assert_eq!(code(held.kv().delete_many(&["a"])), "closed");
    assert_eq!(code(held.sql().exec("SELECT 1", ())), "closed");
    assert_eq!(code(held.begin_nested().map(drop)), "closed");
    storage.close()?;
    assert_eq!(open(&folder).keys(), ["a", "b", "before"]);
    Ok(())
}

#[test]
fn a_held_transaction_rolls_back_when_told_or_dropped() -> TestResult {
    let (_folder, storage) = fresh();
    let commits = counted(&storage);
    let held = storage.begin_held()?;
    held.kv().put("a", &1)?;
    held.rollback()?;
    held.rollback()?;
    assert_eq!(code(held.commit()), "closed");
    assert_eq!(storage.keys().len(), 0);
    let held = storage.begin_held()?;
    held.kv().put("a", &1)?;
    drop(held);
    assert_eq!(storage.keys().len(), 0);
    assert_eq!(commits.get(), 0);
    storage.kv().put("b", &1)?;
    assert_eq!(commits.get(), 1);
    let held = storage.begin_held()?;
    assert_eq!(held.kv().list_bytes(&Range::all())?.len(), 1);
    held.commit()?;
    assert_eq!(commits.get(), 1, "it wrote nothing");
    Ok(())
}

#[test]
fn one_child_at_a_time() -> TestResult {
    let (_folder, storage) = fresh();
    let parent = storage.begin_held()?;
    parent.kv().put("a", &1)?;
    let child = parent.begin_nested()?;
    child.kv().put("b", &1)?;
    assert_eq!(code(parent.kv().get_bytes("a")), "invalid-argument");
    assert_eq!(code(parent.begin_nested().map(drop)), "invalid-argument");
    assert_eq!(code(parent.commit()), "invalid-argument");
    child.rollback()?;
    assert_eq!(code(child.kv().get_bytes("a")), "closed");
    assert_eq!(parent.kv().list_bytes(&Range::all())?.len(), 1);

    let child = parent.begin_nested()?;
    child.kv().put("c", &1)?;
    child.commit()?;
    let child = parent.begin_nested()?;
    let grandchild = child.begin_nested()?;
    grandchild.kv().put("d", &1)?;
    child.rollback()?;
    assert!(!grandchild.is_open());
    assert_eq!(code(grandchild.commit()), "closed");
    parent.commit()?;
    drop(grandchild);
    assert_eq!(storage.keys(), ["a", "c"]);

    let parent = storage.begin_held()?;
    let child = parent.begin_nested()?;
    child.kv().put("e", &1)?;
    parent.rollback()?;
    assert_eq!(code(child.commit()), "closed");
    assert_eq!(storage.keys(), ["a", "c"]);
    Ok(())
}

#[test]
fn closures_inside_held_transactions() -> TestResult {
    let (_folder, storage) = fresh();
    let held = storage.begin_held()?;
    storage.transaction(|storage| {
        held.kv().put("a", &1)?;
        assert_eq!(code(held.commit()), "invalid-argument");
        assert_eq!(code(held.begin_nested().map(drop)), "invalid-argument");
        assert_eq!(code(storage.begin_held().map(drop)), "invalid-argument");
        held.kv().put_many(&[("b", 1), ("c", 1)])
    })?;
    // Rolled back under the closure, which hears of it.
    let lost = storage.transaction(|_| held.rollback());
    assert_eq!(code(lost), "closed");
    storage.kv().put("d", &1)?;
    assert_eq!(storage.keys(), ["d"]);
    Ok(())
}

#[test]
fn nesting_is_bounded() -> TestResult {
    let (_folder, storage) = fresh();
    let mut held = vec![storage.begin_held()?];
    let error = loop {
        match held[held.len() - 1].begin_nested() {
            Ok(next) => held.push(next),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::LimitExceeded { limit: 64, .. }));
    assert_eq!(held.len(), 64);
    Ok(())
}

#[test]
fn a_violated_constraint_ends_a_held_transaction_and_nothing_else() -> TestResult {
    let (_folder, storage) = fresh();
    storage.exec(
        "CREATE TABLE p (id INTEGER PRIMARY KEY); \
         CREATE TABLE c (p REFERENCES p DEFERRABLE INITIALLY DEFERRED)",
    )?;
    let held = storage.begin_held()?;
    held.sql().exec("INSERT INTO c VALUES (1)", ())?;
    let error = held.commit().expect_err("it violates");
    assert!(error.to_string().contains("FOREIGN KEY"), "{error}");
    assert!(matches!(error, Error::SqlFailed(_)), "{error:?}");
    assert!(!held.is_open());
    assert_eq!(storage.broken(), None);
    assert_eq!(storage.integers("SELECT count(*) FROM c")?, [0]);
    Ok(())
}

#[test]
fn cursors_end_with_their_transaction() -> TestResult {
    let (_folder, storage) = fresh();
    storage.exec("CREATE TABLE t (x); INSERT INTO t VALUES (1), (2), (3)")?;
    let two = |cursor: Result<Cursor>| -> Result<Cursor> {
        let mut cursor = cursor?;
        assert!(cursor.next_row()?.is_some());
        Ok(cursor)
    };
    let mut outside = two(storage.sql().exec("SELECT x FROM t", ()))?;
    let held = storage.begin_held()?;
    let mut inside = two(held.sql().exec("SELECT x FROM t", ()))?;
    let mut written = held.sql().exec("UPDATE t SET x = x RETURNING x", ())?;
    let child = held.begin_nested()?;
    assert_eq!(code(inside.next_row()), "invalid-argument");
    let mut nested = two(child.sql().exec("SELECT x FROM t", ()))?;
    child.rollback()?;
    assert_eq!(code(nested.next_row()), "closed");
    assert_eq!(code(inside.next_row()), "ok");
    held.commit()?;
    assert_eq!(code(inside.next_row()), "closed");
    assert_eq!(code(inside.next_row()), "closed");
    assert_eq!(code(written.next_row()), "closed");
    assert_eq!(outside.to_vec()?.len(), 2);
    Ok(())
}

#[test]
fn a_panicking_turn_takes_the_held_transaction_with_it() -> TestResult {
    let (_folder, storage) = fresh();
    let held = storage.begin_held()?;
    held.kv().put("a", &1)?;
    storage.enter_turn();
    storage.rollback_turn();
    assert_eq!(code(held.commit()), "closed");
    assert_eq!(storage.keys().len(), 0);
    Ok(())
}
