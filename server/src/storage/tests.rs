use std::cell::Cell;

use std::path::Path;

use super::testing::{TestResult, code, fresh, open, path, try_open};
use super::*;

/// As large as a page, so that each takes room of its own.
const PAGE: [u8; 5000] = [1; 5000];

fn beside(folder: &tempfile::TempDir, suffix: &str) -> bool {
    let mut path = path(folder).into_os_string();
    path.push(suffix);
    Path::new(&path).exists()
}

#[test]
fn a_turn_is_one_commit() -> TestResult {
    let (folder, storage) = fresh();
    storage.enter_turn();
    assert!(storage.commit_turn()?.is_none(), "nothing was written");
    storage.enter_turn();
    assert_eq!(storage.keys().len(), 0);
    assert!(storage.commit_turn()?.is_none(), "reading is not writing");

    storage.enter_turn();
    storage.kv().put("a", &1)?;
    storage.exec("CREATE TABLE t (x); INSERT INTO t VALUES (1)")?;
    storage.meta().set_name("n")?;
    assert_eq!(storage.keys(), ["a"], "seen before it is committed");
    storage.rollback_turn();
    assert_eq!(storage.keys().len(), 0);
    assert_eq!(code(storage.exec("SELECT * FROM t")), "sql-failed");
    assert_eq!(storage.meta().name()?, None);

    storage.enter_turn();
    storage.kv().put("b", &1)?;
    assert!(storage.commit_turn()?.is_some());
    storage.enter_turn();
    storage.kv().put("c", &1)?;
    storage.close()?;
    assert_eq!(
        open(&folder).keys(),
        ["b"],
        "closing undoes what is not committed"
    );
    Ok(())
}

#[test]
fn a_write_outside_a_turn_is_reported() -> TestResult {
    let (_folder, storage) = fresh();
    let commits = Rc::new(Cell::new(0));
    let seen = commits.clone();
    storage.on_commit(move |_| seen.set(seen.get() + 1));
    storage.kv().put("a", &1)?;
    assert_eq!(commits.get(), 1);
    storage.kv().put_many(&[("b", 1), ("c", 1)])?;
    assert_eq!(commits.get(), 2);
    storage.exec("CREATE TABLE t (x); INSERT INTO t VALUES (1); INSERT INTO t VALUES (2)")?;
    assert_eq!(commits.get(), 3);
    storage.kv().get::<i32>("a")?;
    storage.exec("SELECT * FROM t")?;
    storage.kv().delete_many(&[])?;
    assert_eq!(commits.get(), 3);
    storage.delete_all()?;
    assert_eq!(commits.get(), 4);
    storage.kv().delete("a")?;
    assert_eq!(commits.get(), 4, "there was no table to delete from");
    storage.enter_turn();
    storage.kv().put("a", &1)?;
    assert!(storage.commit_turn()?.is_some());
    assert_eq!(commits.get(), 4, "commit_turn reports by itself");
    Ok(())
}

#[test]
fn the_hook_may_close_the_storage() -> TestResult {
    let (_folder, storage) = fresh();
    let closing = storage.clone();
    storage.on_commit(move |_| closing.close().expect("it closes"));
    storage.kv().put("a", &1)?;
    assert_eq!(code(storage.kv().put("b", &1)), "object-reset");
    Ok(())
}

#[test]
fn closing_ends_every_handle() -> TestResult {
    let (folder, storage) = fresh();
    storage.exec("CREATE TABLE t (x); INSERT INTO t VALUES (1), (2), (3)")?;
    let (kv, sql, meta) = (storage.kv(), storage.sql(), storage.meta());
    let mut reading = sql.exec("SELECT x FROM t", ())?;
    assert!(reading.next_row()?.is_some());
    let mut buffered = sql.exec("UPDATE t SET x = x RETURNING x", ())?;
    let held = storage.begin_held()?;
    held.kv().put("a", &1)?;
    storage.close()?;
    storage.close()?;
    assert!(!beside(&folder, "-journal") && !beside(&folder, "-wal"));

    assert_eq!(code(kv.get_bytes("a")), "object-reset");
    assert_eq!(code(kv.put_bytes("a", b"")), "object-reset");
    assert_eq!(code(kv.put_many_bytes(&[])), "object-reset");
    assert_eq!(
        code(kv.list_bytes(&Range::prefix("b").end("a"))),
        "object-reset"
    );
    assert_eq!(code(sql.exec("SELECT 1", ())), "object-reset");
    assert_eq!(code(sql.database_size()), "object-reset");
    assert_eq!(code(meta.created()), "object-reset");
    assert_eq!(code(reading.next_row()), "object-reset");
    assert_eq!(code(buffered.next_row()), "object-reset");
    assert_eq!(reading.columns(), ["x"]);
    assert_eq!(code(held.commit()), "object-reset");
    assert_eq!(code(held.rollback()), "object-reset");
    assert_eq!(code(held.kv().get_bytes("a")), "object-reset");
    assert_eq!(code(storage.begin_held().map(drop)), "object-reset");
    assert_eq!(code(storage.delete_all()), "object-reset");
    assert_eq!(code(storage.commit_turn()), "object-reset");
    assert_eq!(
        code(storage.transaction(|_| Ok::<_, Error>(()))),
        "object-reset"
    );
    storage.enter_turn();
    storage.rollback_turn();
    drop((storage, kv, sql, meta, held));
    assert_eq!(code(reading.next_row()), "object-reset");
    assert!(reading.next().is_some_and(|row| row.is_err()));
    assert!(reading.next().is_none());

    let storage = open(&folder);
    assert_eq!(storage.keys().len(), 0);
    assert_eq!(storage.integers("SELECT x FROM t")?, [1, 2, 3]);
    Ok(())
}

#[test]
fn closing_inside_a_transaction_is_survived() -> TestResult {
    let (_folder, storage) = fresh();
    let result = storage.transaction(|storage| {
        storage.kv().put("a", &1)?;
        storage.close()
    });
    assert_eq!(code(result), "object-reset");
    Ok(())
}

#[test]
fn a_cursor_outlives_every_handle() -> TestResult {
    let (_folder, storage) = fresh();
    storage.exec("CREATE TABLE t (x); INSERT INTO t VALUES (1), (2)")?;
    let mut cursor = storage.sql().exec("SELECT x FROM t", ())?;
    drop(storage);
    assert_eq!(cursor.all::<i64>()?, [1, 2]);
    Ok(())
}

#[test]
fn what_is_not_a_database_does_not_open() -> TestResult {
    let folder = tempfile::tempdir()?;
    let path = path(&folder);
    std::fs::create_dir_all(path.parent().expect("a folder"))?;
    std::fs::write(path, [b'x'; 4096])?;
    let storage = try_open(&folder, &Settings::default());
    assert_eq!(code(storage.map(drop)), "storage-damaged");
    Ok(())
}

#[test]
fn delete_all_leaves_nothing_and_goes_with_its_turn() -> TestResult {
    let (_folder, storage) = fresh();
    storage.kv().put("a", &1)?;
    storage.exec(
        "CREATE TABLE p (id INTEGER PRIMARY KEY AUTOINCREMENT); \
         CREATE TABLE c (id INTEGER PRIMARY KEY, q REFERENCES c, \
                         p NOT NULL REFERENCES p DEFERRABLE INITIALLY DEFERRED); \
         INSERT INTO p DEFAULT VALUES; INSERT INTO c VALUES (1, 1, 1); \
         CREATE VIEW \"a view\"\" of it\" AS SELECT * FROM p; \
         CREATE TRIGGER g AFTER DELETE ON p BEGIN SELECT raise(ABORT, 'no'); END; \
         CREATE INDEX i ON c (p); \
         CREATE VIRTUAL TABLE f USING fts5 (x); INSERT INTO f VALUES ('word'); \
         CREATE VIRTUAL TABLE r USING rtree (id, a, b); \
         CREATE VIRTUAL TABLE v USING fts5vocab (f, row); \
         CREATE TABLE sqliteish (x); ANALYZE",
    )?;
    let size = storage.database_size()?;
    storage.enter_turn();
    storage.delete_all()?;
    assert_eq!(storage.keys().len(), 0);
    storage.rollback_turn();
    assert_eq!(storage.keys(), ["a"]);
    assert_eq!(storage.integers("SELECT id FROM p")?, [1]);

    let mut reading = storage.sql().exec("SELECT 1 UNION SELECT 2", ())?;
    assert!(reading.next_row()?.is_some());
    storage.enter_turn();
    // A violation that is still pending, and goes with the rest.
    storage.exec("INSERT INTO c VALUES (2, 1, 99)")?;
    storage.delete_all()?;
    storage.delete_all()?;
    storage.kv().put("b", &1)?;
    assert!(storage.commit_turn()?.is_some());
    assert_eq!(code(reading.next_row()), "closed");
    assert_eq!(storage.keys(), ["b"]);
    let left: Vec<String> = {
        let mut names = storage.sql().exec("SELECT name FROM sqlite_schema", ())?;
        names.all()?
    };
    assert_eq!(left, ["_vw_kv"]);
    assert!(storage.database_size()? < size);
    // The same names can be used again, and foreign keys still hold.
    storage.exec("CREATE TABLE p (id PRIMARY KEY); CREATE TABLE c (p REFERENCES p)")?;
    assert_eq!(code(storage.exec("INSERT INTO c VALUES (1)")), "sql-failed");

    let refused = storage.transaction(|storage| storage.delete_all());
    assert_eq!(code(refused), "invalid-argument");
    assert_eq!(storage.keys(), ["b"]);
    Ok(())
}

#[test]
fn a_full_disk_breaks_the_storage_for_good() -> TestResult {
    for swallow in ["turn", "closure", "held"] {
        let (folder, storage) = fresh();
        storage.kv().put("kept", &1)?;
        let fill = || {
            let written = (0..20).map(|n| storage.kv().put_bytes(&format!("{n}"), &PAGE));
            let connection = written
                .collect::<Result<()>>()
                .and_then(|()| storage.0.live());
            let full = rusqlite::ffi::Error::new(codes::DISK_FULL);
            let full = rusqlite::Error::SqliteFailure(full, None);
            connection
                .map(|connection| storage.0.judge(&connection, &full))
                .ok()
        };
        storage.enter_turn();
        let first = match swallow {
            "turn" => fill(),
            "closure" => {
                let mut first = None;
                let result = storage.transaction(|_| {
                    first = fill();
                    Ok::<_, Error>(())
                });
                assert_eq!(code(result), "storage-failed");
                first
            }
            _ => {
                let held = storage.begin_held()?;
                let first = fill();
                assert_eq!(code(held.commit()), "storage-failed");
                first
            }
        };
        assert!(matches!(first, Some(Error::StorageFailed(_))), "{first:?}");
        assert_eq!(storage.broken(), first);
        assert_eq!(code(storage.kv().get_bytes("kept")), "storage-failed");
        assert_eq!(code(storage.exec("SELECT 1")), "storage-failed");
        assert_eq!(code(storage.commit_turn()), "storage-failed");
        storage.rollback_turn();
        assert_eq!(code(storage.kv().put("x", &1)), "storage-failed");
        storage.close()?;
        assert_eq!(open(&folder).keys(), ["kept"]);
    }
    Ok(())
}

#[test]
fn a_constraint_violated_at_the_commit_resets_the_object() -> TestResult {
    let (folder, storage) = fresh();
    storage.exec(
        "CREATE TABLE p (id INTEGER PRIMARY KEY); \
         CREATE TABLE c (p REFERENCES p DEFERRABLE INITIALLY DEFERRED)",
    )?;
    storage.enter_turn();
    storage.kv().put("lost", &1)?;
    storage.exec("INSERT INTO c VALUES (1)")?;
    let error = storage.commit_turn().expect_err("violated");
    assert!(
        error.to_string().contains("constraints were violated"),
        "{error}"
    );
    assert!(matches!(error, Error::InstanceFailed(_)));
    assert_eq!(code(storage.kv().get_bytes("lost")), "object-reset");
    storage.close()?;

    let storage = open(&folder);
    assert_eq!(storage.keys().len(), 0);
    assert_eq!(
        code(storage.exec("INSERT INTO c VALUES (1)")),
        "object-reset",
        "a turn of its own"
    );
    Ok(())
}

#[test]
fn an_idle_object_takes_little_memory() -> TestResult {
    use rusqlite::ffi;
    let (_folder, storage) = fresh();
    storage.kv().put("a", &1)?;
    storage.exec("CREATE TABLE t (x, y); INSERT INTO t VALUES (1, 2)")?;
    storage.kv().get::<i32>("a")?;
    storage.exec("SELECT * FROM t WHERE x = 1")?;
    let connection = storage.0.live()?;
    let used = |what| {
        let (mut now, mut high) = (0, 0);
        // SAFETY: the connection is open, and the two integers outlive the call.
        unsafe { ffi::sqlite3_db_status(connection.handle(), what, &mut now, &mut high, 0) };
        now
    };
    let measure = || {
        [
            ffi::SQLITE_DBSTATUS_CACHE_USED,
            ffi::SQLITE_DBSTATUS_SCHEMA_USED,
            ffi::SQLITE_DBSTATUS_STMT_USED,
        ]
        .map(used)
    };
    let busy = measure();
    println!("pages, schema, statements: {busy:?}");
    assert!(busy.iter().sum::<i32>() < 56 * 1024, "{busy:?}");
    Ok(())
}

#[test]
fn delete_all_forgets_the_last_row_numbers() -> TestResult {
    let (_folder, storage) = fresh();
    let table = "CREATE TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT); \
                 INSERT INTO t VALUES (NULL), (NULL)";
    storage.exec(table)?;
    storage.delete_all()?;
    storage.exec(table)?;
    assert_eq!(storage.integers("SELECT max(id) FROM t")?, [2]);
    Ok(())
}

#[test]
fn delete_all_writes_a_few_pages_however_much_there_was() -> TestResult {
    let (_folder, storage) = fresh();
    let written = |pairs: u32| {
        storage.enter_turn();
        (0..pairs).try_for_each(|n| storage.kv().put_bytes(&n.to_string(), &PAGE))?;
        storage.commit_turn()?;
        storage.enter_turn();
        storage.delete_all()?;
        storage.kv().put("after", &1)?;
        storage.commit_turn()?;
        storage.room()
    };
    let (few, many) = (written(3)?, written(3000)?);
    assert_eq!(few, many);
    assert!(many.pages < 6 && many.free == 0, "{many:?}");
    assert_eq!(storage.keys(), ["after"]);
    Ok(())
}

#[test]
fn what_undoes_delete_all_brings_everything_back_and_the_storage_is_used_further() -> TestResult {
    let (folder, storage) = fresh();
    storage.exec("CREATE TABLE t (a); INSERT INTO t VALUES (1)")?;
    storage.kv().put("kept", &1)?;
    for _ in 0..2 {
        storage.enter_turn();
        storage.delete_all()?;
        storage.kv().put("lost", &1)?;
        storage.rollback_turn();
        assert_eq!(storage.keys(), ["kept"]);
        assert_eq!(storage.integers("SELECT instr('ab', 'b') FROM t")?, [2]);
    }
    storage.kv().put("more", &1)?;
    assert_eq!(storage.keys(), ["kept", "more"]);
    storage.enter_turn();
    storage.delete_all()?;
    storage.close()?;
    assert_eq!(open(&folder).keys(), ["kept", "more"]);
    Ok(())
}

#[test]
fn free_pages_are_given_back_in_steps() -> TestResult {
    let (_folder, storage) = fresh();
    storage.enter_turn();
    (0..400).try_for_each(|n| storage.kv().put_bytes(&format!("{n:03}"), &PAGE))?;
    storage.commit_turn()?;
    for n in (0..400).filter(|n| n % 8 != 0) {
        storage.kv().delete(&format!("{n:03}"))?;
    }
    let content = storage.room()?.bytes();
    let mut steps = 0;
    while let before = storage.room()?
        && before.free > 0
    {
        storage.enter_turn();
        storage.give_back(50, Duration::MAX)?;
        assert!(storage.commit_turn()?.is_some());
        let given = before.pages - storage.room()?.pages;
        // The pages that say what the others are for go along.
        assert!((1..=51).contains(&given), "{given}");
        steps += 1;
    }
    assert!(steps >= 7, "{steps}");
    assert!(storage.room()?.bytes() <= content);
    let kept = (0..400).step_by(8).map(|n| format!("{n:03}"));
    assert_eq!(storage.keys(), kept.collect::<Vec<_>>());
    assert_eq!(storage.integers("SELECT 1")?, [1]);
    // When the time is over after one page, that is kept.
    storage.kv().delete("000")?;
    let before = storage.room()?;
    storage.enter_turn();
    storage.give_back(50, Duration::ZERO)?;
    storage.commit_turn()?;
    assert!(storage.room()?.pages < before.pages);
    Ok(())
}
