use std::time::Duration;

use super::super::testing::{TestResult, code, fresh, try_open};
use super::super::{Row, Settings};
use super::*;
use crate::error::StatementLimit;

fn exec(storage: &Storage, sql: &str) -> Result<Cursor> {
    storage.sql().exec(sql, ())
}

#[test]
fn rows_in_every_shape() -> TestResult {
    let (_folder, storage) = fresh();
    exec(
        &storage,
        "CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT)",
    )?;
    let sql = storage.sql();
    sql.exec("INSERT INTO people (name) VALUES (?)", ["Alice"])?;
    assert_eq!(
        sql.exec("SELECT * FROM people", ())?
            .one_as::<(i64, String)>()?,
        (1, "Alice".into())
    );
    sql.exec("INSERT INTO people VALUES (?, ?)", (i64::MAX, None::<&str>))?;

    let mut cursor = sql.exec("SELECT id, name AS id FROM people ORDER BY 1", ())?;
    assert_eq!(cursor.columns(), ["id", "id"]);
    let first = cursor.next_row()?.ok_or("a row")?;
    assert_eq!(
        first.get("id"),
        Some(&"Alice".into()),
        "the last of equal names"
    );
    assert_eq!(
        cursor.raw().collect::<Result<Vec<_>>>()?,
        [vec![i64::MAX.into(), SqlValue::Null]]
    );
    assert_eq!(cursor.next_row()?, None);
    assert_eq!(cursor.columns(), ["id", "id"]);

    assert_eq!(
        code(exec(&storage, "SELECT 1 WHERE 0")?.one()),
        "invalid-argument"
    );
    assert_eq!(
        code(exec(&storage, "SELECT 1 UNION SELECT 2")?.one()),
        "invalid-argument"
    );
    assert_eq!(exec(&storage, "SELECT 1 WHERE 0")?.columns(), ["1"]);
    let values = (SqlValue::Null, 1.5, "é", vec![0u8, 255], i64::MIN, true);
    let row: Row = sql.exec("SELECT ?, ?, ?, ?, ?, ?", values)?.one()?;
    let expected = [
        SqlValue::Null,
        1.5.into(),
        "é".into(),
        vec![0u8, 255].into(),
        i64::MIN.into(),
        1.into(),
    ];
    assert_eq!(row.values(), expected);
    assert!(sql.database_size()? > 0);
    Ok(())
}

#[test]
fn several_statements_bind_only_the_last() -> TestResult {
    let (_folder, storage) = fresh();
    let sql = storage.sql();
    let found: i64 = sql
        .exec(
            "CREATE TABLE t (x); -- one\nINSERT INTO t VALUES (';'); \
             CREATE TRIGGER u AFTER INSERT ON t BEGIN DELETE FROM t WHERE x = 1; SELECT 1; END; \
             INSERT INTO t VALUES (1), (2); SELECT count(*) FROM t WHERE x <> ?; /* end */ ;",
            [7],
        )?
        .one_as()?;
    assert_eq!(found, 2);
    for (query, count) in [
        ("SELECT 1", 1),
        ("SELECT ?", 0),
        ("SELECT ?", 2),
        ("SELECT ?2", 1),
        ("SELECT ?; SELECT 1", 0),
        ("SELECT ?; SELECT ?", 1),
        ("SELECT ?; SELECT ?", 2),
    ] {
        let bindings = vec![0; count];
        assert_eq!(
            code(sql.exec(query, bindings)),
            "invalid-argument",
            "{query} {count}"
        );
    }
    Ok(())
}

#[test]
fn statements_of_one_exec_happen_together_or_not_at_all() -> TestResult {
    let (_folder, storage) = fresh();
    storage.exec("CREATE TABLE t (x UNIQUE); INSERT INTO t VALUES (1)")?;
    for (third, expected) in [
        ("INSERT INTO t VALUES (4), (abs('x', 1))", "sql-failed"),
        ("INSERT INTO t VALUES (1)", "sql-failed"),
        ("INSERT OR FAIL INTO t VALUES (5), (1)", "sql-failed"),
        ("SELEC", "sql-failed"),
        ("COMMIT", "sql-refused"),
        ("INSERT INTO t VALUES (?)", "invalid-argument"),
        ("SELECT abs(-9223372036854775808)", "sql-failed"),
        (
            "INSERT INTO t VALUES (6); SELECT 1; DROP TABLE nothing",
            "sql-failed",
        ),
    ] {
        let script = format!("CREATE TABLE u (a); INSERT INTO t VALUES (3); {third}");
        // Alone, in a turn that has written, in one that has not, and in transactions.
        assert_eq!(code(exec(&storage, &script)), expected, "{script}");
        storage.enter_turn();
        assert_eq!(code(exec(&storage, &script)), expected, "{script}");
        assert_eq!(storage.commit_turn()?, None, "{script}");
        storage.enter_turn();
        exec(&storage, "INSERT INTO t VALUES (2)")?;
        let inner = storage.transaction(|storage| exec(storage, &script));
        assert_eq!(code(inner), expected, "{script}");
        let kept = storage.transaction(|storage| {
            assert_eq!(code(exec(storage, &script)), expected, "{script}");
            exec(storage, "INSERT INTO t VALUES (7)").map(drop)
        });
        kept?;
        assert!(storage.commit_turn()?.is_some());
        assert_eq!(storage.integers("SELECT x FROM t")?, [1, 2, 7], "{script}");
        assert_eq!(code(exec(&storage, "SELECT * FROM u")), "sql-failed");
        exec(&storage, "DELETE FROM t WHERE x <> 1")?;
    }
    let mut cursor = exec(
        &storage,
        "INSERT INTO t VALUES (8); SELECT x FROM t ORDER BY x",
    )?;
    assert_eq!(
        code(exec(&storage, "INSERT INTO t VALUES (9); SELEC")),
        "sql-failed"
    );
    assert_eq!(cursor.all::<i64>()?, [1, 8]);
    Ok(())
}

#[test]
fn text_without_a_statement() {
    let (_folder, storage) = fresh();
    for query in [
        "",
        " ",
        ";;",
        "-- x",
        "/* x",
        "\u{a0}",
        "\u{feff} \x0b",
        "/**/;--",
    ] {
        assert_eq!(code(exec(&storage, query)), "invalid-argument", "{query:?}");
    }
    assert_eq!(code(exec(&storage, "SELECT 1\0")), "invalid-argument");
    assert_eq!(code(exec(&storage, "EXPLAIN")), "sql-failed");
}

#[test]
fn limits() -> TestResult {
    let (_folder, storage) = fresh();
    let sql = storage.sql();
    let ors = "1 OR ".repeat(200);
    let pattern = "x".repeat(4097);
    for refused in [
        &format!("SELECT {ors} 1"),
        "SELECT 1 UNION SELECT 2 UNION SELECT 3 UNION SELECT 4 UNION SELECT 5 UNION SELECT 6",
        &format!("SELECT 'a' LIKE '{pattern}'"),
        &format!("SELECT {}1", "1,".repeat(100)),
        "SELECT ?101",
        "SELECT length(randomblob(4194305))",
    ] {
        let error = exec(&storage, refused).and_then(|cursor| cursor.one());
        assert_eq!(code(error), "sql-failed", "{refused:.60}");
    }
    let spaces = " ".repeat(100_000 - 8);
    assert_eq!(code(sql.exec(&format!("{spaces}SELECT 1"), ())), "ok");
    assert_eq!(
        code(sql.exec(&format!("{spaces} SELECT 1"), ())),
        "limit-exceeded"
    );
    let marks = vec!["?"; 100].join(",");
    assert_eq!(
        code(sql.exec(&format!("SELECT {marks}"), vec![0; 100])),
        "ok"
    );
    assert_eq!(code(sql.exec("SELECT 1", vec![0; 101])), "limit-exceeded");
    let blob = vec![0u8; 4_194_304];
    let length: i64 = sql.exec("SELECT length(?)", [blob.clone()])?.one_as()?;
    assert_eq!(length, 4_194_304);
    let blob = [blob, vec![0]].concat();
    assert_eq!(code(sql.exec("SELECT length(?)", [blob])), "limit-exceeded");
    assert_eq!(storage.broken(), None);
    Ok(())
}

#[test]
fn limits_of_statements_are_settings() -> TestResult {
    let ors = "1 OR ".repeat(200);
    let pattern = "x".repeat(4097);
    let comment = "-".repeat(100_001);
    let statements = [
        format!("SELECT {ors} 1"),
        format!("SELECT 1{}", " UNION SELECT 1".repeat(9)),
        format!("SELECT 'a' LIKE '{pattern}'"),
        format!("SELECT {}1", "1,".repeat(100)),
        format!("SELECT 1 {comment}"),
    ];
    let wide = Settings {
        text_bytes: 200_000,
        columns: 200,
        expression_depth: 300,
        compound_selects: 10,
        pattern_bytes: 5000,
        ..Settings::default()
    };
    for (settings, allowed) in [(Settings::default(), false), (wide, true)] {
        let folder = tempfile::tempdir()?;
        let storage = try_open(&folder, &settings)?;
        for statement in &statements {
            let found = code(exec(&storage, statement));
            assert_eq!(found == "ok", allowed, "{statement:.40}: {found}");
        }
    }
    Ok(())
}

#[test]
fn a_cursor_reads_as_it_is_asked() -> TestResult {
    let (_folder, storage) = fresh();
    let counting =
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n";
    let mut endless = exec(&storage, counting)?;
    for expected in 1..1000 {
        assert_eq!(
            endless.next_row()?.ok_or("a row")?.decode::<i64>()?,
            expected
        );
    }
    assert_eq!(endless.rows_read(), 999);
    // Two runs of the same text do not disturb each other, and neither does the cache.
    let mut other = exec(&storage, counting)?;
    assert_eq!(other.next_row()?.ok_or("a row")?.decode::<i64>()?, 1);
    assert_eq!(endless.next_row()?.ok_or("a row")?.decode::<i64>()?, 1000);
    drop(endless);
    let mut again = exec(&storage, counting)?;
    assert_eq!(again.next_row()?.ok_or("a row")?.decode::<i64>()?, 1);
    assert_eq!(again.rows_read(), 1);
    assert_eq!(other.next_row()?.ok_or("a row")?.decode::<i64>()?, 2);
    Ok(())
}

#[test]
fn a_cursor_lives_through_commits_and_writes() -> TestResult {
    let (_folder, storage) = fresh();
    exec(
        &storage,
        "CREATE TABLE t (x); INSERT INTO t VALUES (1), (2), (3)",
    )?;
    storage.enter_turn();
    let mut cursor = exec(&storage, "SELECT x FROM t ORDER BY rowid")?;
    storage.kv().put("k", &1)?;
    assert!(storage.commit_turn()?.is_some());
    assert_eq!(
        cursor.next_row()?.map(Row::into_values),
        Some(vec![1.into()])
    );
    // A statement that writes and returns rows is done before anyone reads them.
    let mut returned = exec(&storage, "INSERT INTO t VALUES (4), (5) RETURNING x")?;
    assert_eq!(returned.rows_written(), 2);
    storage.kv().put("l", &1)?;
    assert_eq!(returned.all::<i64>()?, [4, 5]);
    storage.enter_turn();
    storage.kv().put("m", &1)?;
    storage.rollback_turn();
    assert!(cursor.next_row().is_ok());
    assert_eq!(storage.broken(), None);
    Ok(())
}

#[test]
fn cached_statements_see_the_schema_change() -> TestResult {
    let (_folder, storage) = fresh();
    exec(&storage, "CREATE TABLE t (a); INSERT INTO t VALUES (1)")?;
    let mut cursor = exec(&storage, "SELECT * FROM t")?;
    assert_eq!(cursor.to_vec()?.len(), 1);
    exec(&storage, "ALTER TABLE t ADD COLUMN b DEFAULT 2")?;
    let cursor = exec(&storage, "SELECT * FROM t")?;
    assert_eq!(cursor.columns(), ["a", "b"]);
    assert_eq!(cursor.one_as::<(i64, i64)>()?, (1, 2));
    Ok(())
}

#[test]
fn runs_of_one_text_that_overlap_are_independent() -> TestResult {
    let (_folder, storage) = fresh();
    exec(
        &storage,
        "CREATE TABLE t (x); INSERT INTO t VALUES (1), (2), (3), (4)",
    )?;
    let sql = storage.sql();
    let query = "SELECT x FROM t WHERE x > ? ORDER BY x";
    let mut one = sql.exec(query, [0])?;
    let value = |row: Option<Row>| row.map(Row::into_values);
    assert_eq!(value(one.next_row()?), Some(vec![1.into()]));
    let mut other = sql.exec(query, [2])?;
    assert_eq!(value(other.next_row()?), Some(vec![3.into()]));
    assert_eq!(one.all::<i64>()?, [2, 3, 4]);
    assert_eq!(other.all::<i64>()?, [4]);
    assert!(one.rows_read() >= 4 && other.rows_read() >= 2);
    // One whose other run was dropped half way begins at the beginning.
    drop((one, other));
    assert_eq!(sql.exec(query, [1])?.all::<i64>()?, [2, 3, 4]);
    Ok(())
}

#[test]
fn counts_rows() -> TestResult {
    let (_folder, storage) = fresh();
    let counts = |sql: &str| -> Result<(u64, u64)> {
        let mut cursor = exec(&storage, sql)?;
        cursor.to_vec()?;
        Ok((cursor.rows_read(), cursor.rows_written()))
    };
    exec(
        &storage,
        "CREATE TABLE t (id INTEGER PRIMARY KEY, x); CREATE TABLE log (x); \
         CREATE TRIGGER u AFTER UPDATE ON t BEGIN INSERT INTO log VALUES (new.x); END",
    )?;
    assert_eq!(counts("INSERT INTO t (x) VALUES (1), (2), (3), (4)")?.1, 4);
    assert_eq!(counts("SELECT * FROM t")?, (4, 0));
    assert_eq!(counts("SELECT * FROM t WHERE x = 2")?, (4, 0));
    assert_eq!(counts("SELECT * FROM t WHERE id = 2")?, (1, 0));
    assert_eq!(counts("SELECT * FROM t WHERE id = 9")?, (0, 0));
    assert_eq!(counts("UPDATE t SET x = 0 WHERE id < 3")?.1, 4);
    assert_eq!(counts("DELETE FROM t")?.1, 4);
    assert_eq!(counts("CREATE TABLE v (x)")?.1, 0);
    // An index is not counted by itself.
    exec(&storage, "CREATE INDEX i ON v (x)")?;
    assert_eq!(counts("INSERT INTO v VALUES (1), (2)")?.1, 2);
    assert_eq!(counts("SELECT x FROM v WHERE x = 2")?, (1, 0));
    Ok(())
}

#[test]
fn errors_say_what_sqlite_said_and_undo_one_statement() -> TestResult {
    let (_folder, storage) = fresh();
    storage.enter_turn();
    exec(
        &storage,
        "CREATE TABLE t (a UNIQUE CHECK (a > 0)); INSERT INTO t VALUES (1)",
    )?;
    for (sql, expected) in [
        ("INSERT INTO t VALUES (2), (1)", "SQLITE_CONSTRAINT_UNIQUE"),
        ("INSERT INTO t VALUES (-1)", "SQLITE_CONSTRAINT_CHECK"),
        ("SELECT * FROM missing", "SQLITE_ERROR"),
        ("SELEC", "SQLITE_ERROR"),
    ] {
        let error = exec(&storage, sql).map(drop).expect_err(sql);
        assert!(matches!(error, Error::SqlFailed(_)), "{error:?}");
        assert!(error.to_string().contains(expected), "{error}");
    }
    assert!(storage.commit_turn()?.is_some());
    assert_eq!(storage.integers("SELECT a FROM t")?, [1]);
    Ok(())
}

#[test]
fn a_statement_that_undoes_the_turn_breaks_it() -> TestResult {
    let (_folder, storage) = fresh();
    exec(
        &storage,
        "CREATE TABLE t (a UNIQUE); INSERT INTO t VALUES (1)",
    )?;
    // It undid nothing but itself.
    storage.enter_turn();
    assert_eq!(
        code(exec(&storage, "INSERT OR ROLLBACK INTO t VALUES (1)")),
        "sql-failed"
    );
    exec(&storage, "INSERT INTO t VALUES (2)")?;
    assert!(storage.commit_turn()?.is_some());
    storage.enter_turn();
    exec(&storage, "INSERT INTO t VALUES (3)")?;
    assert_eq!(
        code(exec(&storage, "INSERT OR ROLLBACK INTO t VALUES (1)")),
        "sql-failed"
    );
    assert_eq!(code(exec(&storage, "SELECT 1")), "object-reset");
    assert_eq!(code(storage.commit_turn()), "object-reset");
    Ok(())
}

#[test]
fn a_statement_may_not_run_for_ever() -> TestResult {
    let folder = tempfile::tempdir()?;
    let settings = Settings {
        statement_time_limit: Duration::from_millis(5),
        ..Settings::default()
    };
    let storage = try_open(&folder, &settings)?;
    let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) ";
    let stopped = Error::StatementTimeout {
        limit_ms: 5,
        set_by: StatementLimit::Vat,
    };
    exec(&storage, "CREATE TABLE t (a)")?;
    storage.enter_turn();
    exec(&storage, "INSERT INTO t VALUES (1)")?;
    let counting = format!("{endless} SELECT count(*) FROM n");
    for _ in 0..3 {
        let error = exec(&storage, &counting).map(drop).expect_err("endless");
        assert_eq!(error, stopped);
    }
    // In a later row, and with the rest of the turn unharmed.
    let mut cursor = exec(
        &storage,
        &format!("{endless} SELECT i FROM n WHERE i <> 2 OR i > 9e9"),
    )?;
    assert_eq!(
        cursor.next_row()?.map(Row::into_values),
        Some(vec![1.into()])
    );
    assert!(storage.commit_turn()?.is_some());
    assert_eq!(storage.integers("SELECT a FROM t")?, [1]);

    // A write that is stopped takes with it what SQLite rolls back: here only itself.
    let inserting = format!("{endless} INSERT INTO t SELECT i FROM n");
    storage.enter_turn();
    assert_eq!(code(exec(&storage, &inserting)), "timeout");
    exec(&storage, "INSERT INTO t VALUES (2)")?;
    assert!(storage.commit_turn()?.is_some());
    assert_eq!(storage.integers("SELECT a FROM t")?, [1, 2]);
    // Here also the write before it, which was told that it succeeded.
    storage.enter_turn();
    exec(&storage, "INSERT INTO t VALUES (3)")?;
    assert_eq!(code(exec(&storage, &inserting)), "timeout");
    assert_eq!(code(storage.commit_turn()), "object-reset");
    let cause = storage.take_cause();
    assert_eq!(cause, Some(stopped));
    Ok(())
}

#[test]
fn the_time_limit_is_for_a_whole_call() -> TestResult {
    let folder = tempfile::tempdir()?;
    let settings = Settings {
        statement_time_limit: Duration::from_millis(200),
        ..Settings::default()
    };
    let storage = try_open(&folder, &settings)?;
    let slow = |most: u32| {
        format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT {most}) \
             SELECT count(*) FROM n;"
        )
    };
    // Many statements, each of which is fast enough; and so short that SQLite never looks.
    for many in [
        slow(20_000).repeat(300),
        "SELECT hex(zeroblob(999999));".repeat(3000),
    ] {
        let started = std::time::Instant::now();
        assert_eq!(code(exec(&storage, &many)), "timeout");
        assert!(started.elapsed() < Duration::from_secs(2));
    }
    // Many rows, each of which is fast enough.
    let rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n";
    let mut cursor = exec(&storage, rows)?;
    let endless = {
        let _deadline = cursor.deadline();
        cursor.to_vec()
    };
    assert_eq!(code(endless), "timeout");
    // What one call used up is not missing from the next.
    exec(&storage, &slow(1000))?;
    assert_eq!(storage.broken(), None);
    Ok(())
}

#[test]
fn what_a_write_returns_is_bounded() -> TestResult {
    let (_folder, storage) = fresh();
    storage.enter_turn();
    exec(&storage, "CREATE TABLE t (a); INSERT INTO t VALUES (1)")?;
    let many = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 30) \
                INSERT INTO t SELECT zeroblob(1000000) FROM n";
    let returning = format!("{many} RETURNING a");
    assert_eq!(code(exec(&storage, &returning)), "limit-exceeded");
    assert_eq!(storage.integers("SELECT count(*) FROM t")?, [1]);
    exec(&storage, many)?;
    let mut some = exec(&storage, "UPDATE t SET a = 2 WHERE a = 1 RETURNING a")?;
    assert_eq!(some.all::<i64>()?, [2]);
    assert!(storage.commit_turn()?.is_some());
    assert_eq!(storage.integers("SELECT count(*) FROM t")?, [31]);
    Ok(())
}

#[test]
fn open_cursors_are_bounded() -> TestResult {
    let (_folder, storage) = fresh();
    let rows = "SELECT 1 UNION ALL SELECT 2";
    let mut cursors = Vec::new();
    for _ in 0..64 {
        cursors.push(exec(&storage, rows)?);
    }
    assert_eq!(code(exec(&storage, rows)), "limit-exceeded");
    exec(&storage, "CREATE TABLE t (a); SELECT a FROM t")?;
    cursors[7].to_vec()?;
    cursors.push(exec(&storage, rows)?);
    assert_eq!(code(exec(&storage, rows)), "limit-exceeded");
    cursors.pop();
    exec(&storage, rows)?;
    Ok(())
}

#[test]
fn a_database_has_a_largest_size() -> TestResult {
    let folder = tempfile::tempdir()?;
    let settings = Settings {
        max_database_bytes: 100 * 4096,
        ..Settings::default()
    };
    let storage = try_open(&folder, &settings)?;
    exec(
        &storage,
        "CREATE TABLE t (a); INSERT INTO t VALUES (zeroblob(200000))",
    )?;
    let more = "INSERT INTO t VALUES (zeroblob(300000))";
    assert_eq!(code(exec(&storage, more)), "limit-exceeded");
    assert_eq!(storage.broken(), None);
    storage.enter_turn();
    exec(&storage, "CREATE TABLE u (a)")?;
    assert_eq!(code(exec(&storage, more)), "limit-exceeded");
    // SQLite may have undone all of the turn, and not only the statement.
    let whole = storage.commit_turn();
    assert!(matches!(code(whole), "ok" | "object-reset"));
    storage.close()?;
    let storage = try_open(&folder, &settings)?;
    assert_eq!(storage.integers("SELECT count(*) FROM t")?, [1]);
    Ok(())
}

#[test]
fn what_statements_gather_is_bounded() -> TestResult {
    let folder = tempfile::tempdir()?;
    let settings = Settings {
        statement_time_limit: Duration::from_secs(60),
        sql_memory_bytes: 10 << 20,
        ..Settings::default()
    };
    let storage = try_open(&folder, &settings)?;
    exec(&storage, "CREATE TABLE t (a); INSERT INTO t VALUES (1)")?;
    let over = Error::SqlLimit {
        what: "the memory of an object's SQL (bytes)",
        limit: 10 << 20,
        key: "`limits.sql_memory_bytes`",
    };
    let rows = |most: u32| {
        format!("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT {most})")
    };
    let many = rows(100);
    let gathering = [
        "SELECT randomblob(1000000) AS b FROM n ORDER BY b",
        "SELECT DISTINCT randomblob(1000000) FROM n",
        "SELECT randomblob(1000000) AS b, count(*) FROM n GROUP BY b",
        "SELECT randomblob(1000000) FROM n UNION SELECT randomblob(1000000) FROM n",
        "SELECT randomblob(1000000) FROM n EXCEPT SELECT randomblob(1000000) FROM n",
        "SELECT last_value(b) OVER (ORDER BY i ROWS BETWEEN UNBOUNDED PRECEDING AND \
         UNBOUNDED FOLLOWING) FROM (SELECT i, randomblob(1000000) AS b FROM n)",
        "SELECT count(DISTINCT randomblob(1000000)) FROM n",
        "SELECT 1 WHERE x'00' IN (SELECT randomblob(1000000) FROM n)",
        ", m(b) AS MATERIALIZED (SELECT randomblob(1000000) FROM n) SELECT * FROM m x, m y \
         WHERE x.b > y.b",
        ", q(b) AS (SELECT x'' UNION ALL SELECT randomblob(1000000) FROM q, n) SELECT * FROM q",
    ];
    storage.enter_turn();
    exec(&storage, "INSERT INTO t VALUES (2)")?;
    for sql in gathering {
        let all = || exec(&storage, &format!("{many} {sql}"))?.to_vec();
        assert_eq!(all().expect_err(sql), over, "{sql}");
    }
    // What the turn had written is still there.
    assert!(storage.commit_turn()?.is_some());
    assert_eq!(storage.integers("SELECT a FROM t")?, [1, 2]);
    assert_eq!(storage.broken(), None);

    // Cursors count together, until they are dropped or at their end.
    let sorting = format!(
        "{} SELECT randomblob(100000) AS b FROM n ORDER BY b",
        rows(40)
    );
    for _ in 0..3 {
        let mut first = exec(&storage, &sorting)?;
        let _second = exec(&storage, &sorting)?;
        assert_eq!(exec(&storage, &sorting).map(drop), Err(over.clone()));
        first.to_vec()?;
        exec(&storage, &sorting)?;
    }
    // Nothing is left over from what was not stopped.
    for _ in 0..50 {
        exec(&storage, &sorting)?.to_vec()?;
    }
    // A write that is stopped undoes itself.
    let writing = format!("{many} INSERT INTO t SELECT randomblob(1000000) AS b FROM n ORDER BY b");
    assert_eq!(exec(&storage, &writing).map(drop), Err(over));
    assert_eq!(storage.integers("SELECT a FROM t")?, [1, 2]);
    Ok(())
}

#[test]
fn a_program_that_is_too_long_harms_nothing() -> TestResult {
    let (_folder, storage) = fresh();
    storage.enter_turn();
    exec(
        &storage,
        "CREATE TABLE z (a); INSERT INTO z VALUES (1); CREATE VIEW v0 AS SELECT a FROM z",
    )?;
    for at in 1..14 {
        let before = at - 1;
        let twice =
            format!("SELECT a + 1 AS a FROM v{before} UNION ALL SELECT a + 2 FROM v{before}");
        exec(&storage, &format!("CREATE VIEW v{at} AS {twice}"))?;
    }
    let error = exec(&storage, "SELECT * FROM v13")
        .map(drop)
        .expect_err("too long");
    assert!(
        matches!(error, Error::SqlLimit { limit: 25_000, .. }),
        "{error}"
    );
    assert!(storage.commit_turn()?.is_some());
    assert_eq!(storage.integers("SELECT a FROM z")?, [1]);
    Ok(())
}

/// In a process of its own, for the limit is one of the process.
#[test]
fn memory_is_bounded() -> TestResult {
    const CHILD: &str = "VATWERK_TEST_HEAP";
    if std::env::var_os(CHILD).is_none() {
        let child = std::process::Command::new(std::env::current_exe()?)
            .args(["--exact", "storage::sql::tests::memory_is_bounded"])
            .env(CHILD, "1")
            .output()?;
        assert!(child.status.success(), "{child:?}");
        return Ok(());
    }
    let ((_folder, storage), (_other_folder, other)) = (fresh(), fresh());
    // SAFETY: it sets a number.
    let before = unsafe { rusqlite::ffi::sqlite3_hard_heap_limit64(32 << 20) };
    assert!(before > 0, "there is a limit");
    exec(&storage, "CREATE TABLE t (a); INSERT INTO t VALUES (1)")?;
    let sorting = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 100) \
                   SELECT randomblob(1000000) AS b FROM n ORDER BY b";
    assert_eq!(code(exec(&storage, sorting)), "storage-failed");
    assert_eq!(code(exec(&storage, "SELECT 1")), "storage-failed");
    other.kv().put("k", &1)?;
    exec(&other, "CREATE TABLE t (a); INSERT INTO t VALUES (1)")?;
    storage.close()?;
    assert_eq!(other.broken(), None);
    Ok(())
}

#[test]
fn the_size_does_not_count_free_pages() -> TestResult {
    let (_folder, storage) = fresh();
    let sql = storage.sql();
    exec(&storage, "CREATE TABLE t (a)")?;
    let empty = sql.database_size()?;
    assert_eq!(empty % 4096, 0);
    sql.exec("INSERT INTO t VALUES (?)", [vec![0u8; 100_000]])?;
    assert!(sql.database_size()? > empty + 95_000);
    assert_eq!(storage.room()?.bytes(), sql.database_size()?);
    exec(&storage, "DELETE FROM t")?;
    assert_eq!(sql.database_size()?, empty);
    assert_eq!(storage.room()?.bytes(), empty);
    Ok(())
}

#[test]
fn what_is_locked_names_the_cursor_that_holds_it() -> TestResult {
    let (_folder, storage) = fresh();
    exec(
        &storage,
        "CREATE TABLE t (a); INSERT INTO t VALUES (1), (2), (3); CREATE INDEX i ON t (a)",
    )?;
    let mut cursor = exec(&storage, "SELECT a FROM t -- slowly")?;
    let _other = exec(
        &storage,
        &format!("SELECT {} FROM t", vec!["'ä'"; 60].join(",")),
    )?;
    for locked in ["DROP TABLE t", "DROP INDEX i", "SELECT 1; DROP TABLE t"] {
        let error = exec(&storage, locked)
            .map(drop)
            .expect_err(locked)
            .to_string();
        assert!(error.contains("SQLITE_LOCKED"), "{error}");
        assert!(error.contains("`SELECT a FROM t -- slowly`"), "{error}");
        assert!(error.contains("ä','...`"), "{error}");
    }
    assert_eq!(cursor.all::<i64>()?, [1, 2, 3]);
    drop(_other);
    exec(&storage, "DROP TABLE t")?;
    Ok(())
}
