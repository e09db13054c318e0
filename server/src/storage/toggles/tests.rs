use super::super::Storage;
use super::super::testing::{TestResult, code, fresh};
use super::NAMES;
use crate::Result;

/// A parent, and a child that goes with it.
const FAMILY: &str = "CREATE TABLE parent (id INTEGER PRIMARY KEY, a); \
    CREATE TABLE child (p REFERENCES parent (id) ON DELETE CASCADE); \
    INSERT INTO parent VALUES (1, 'x'), (2, 'y'); INSERT INTO child VALUES (1), (1), (2)";

/// The rebuild of a table that SQLite recommends.
const REBUILD: &str = "PRAGMA foreign_keys = OFF; \
    CREATE TABLE new_parent (id INTEGER PRIMARY KEY, a NOT NULL, b DEFAULT 7); \
    INSERT INTO new_parent (id, a) SELECT id, a FROM parent; DROP TABLE parent; \
    ALTER TABLE new_parent RENAME TO parent; PRAGMA foreign_keys = ON";

fn toggles(storage: &Storage) -> Result<Vec<i64>> {
    let values = NAMES
        .iter()
        .filter(|(name, _)| *name != "case_sensitive_like");
    values
        .map(|(name, _)| Ok(storage.integers(&format!("PRAGMA {name}"))?[0]))
        .chain([storage.integers("SELECT 'A' LIKE 'a'").map(|like| like[0])])
        .collect()
}

#[test]
fn a_setting_ends_with_its_exec() -> TestResult {
    let (_folder, storage) = fresh();
    let usual = [0, 1, 0, 0, 0, 0, 1];
    for in_turn in [false, true] {
        for writes in [
            "",
            "CREATE TABLE IF NOT EXISTS t (a); INSERT INTO t VALUES (1); ",
        ] {
            for (name, _) in NAMES {
                for value in ["ON", "off", "1", "'no'"] {
                    for (rest, expected) in [("SELECT 1", "ok"), ("SELECT x'", "sql-failed")] {
                        if in_turn {
                            storage.enter_turn();
                            storage.exec(&format!("{writes}SELECT 1"))?;
                        }
                        let set = format!("{writes}PRAGMA {name} = {value}; {rest}");
                        assert_eq!(code(storage.exec(&set)), expected, "{set}");
                        if in_turn {
                            storage.commit_turn()?;
                        }
                        assert_eq!(toggles(&storage)?, usual, "{set}");
                    }
                }
            }
        }
    }
    Ok(())
}

#[test]
fn a_setting_that_nothing_follows_is_refused() -> TestResult {
    let (_folder, storage) = fresh();
    for (name, _) in NAMES {
        let other = if name == "foreign_keys" { "OFF" } else { "ON" };
        let usual = if name == "foreign_keys" { "ON" } else { "OFF" };
        let expected = if name == "defer_foreign_keys" {
            "ok"
        } else {
            "sql-refused"
        };
        let set = format!("PRAGMA {name} = {other}");
        assert_eq!(code(storage.exec(&set)), expected, "{set}");
        assert_eq!(code(storage.exec(&format!("SELECT 1; {set}"))), expected);
        assert_eq!(
            code(storage.exec(&format!("PRAGMA {name} = {usual}"))),
            "ok"
        );
    }
    let refused = storage.exec("PRAGMA foreign_keys = OFF").unwrap_err();
    assert!(refused.to_string().contains("into one exec"), "{refused}");
    assert_eq!(toggles(&storage)?, [0, 1, 0, 0, 0, 0, 1]);
    Ok(())
}

/// SQLite makes the pragma nothing in a transaction, and dropping a parent then takes its children.
#[test]
fn a_parent_is_rebuilt_wherever_the_turn_is() -> TestResult {
    for before in ["", "INSERT INTO parent VALUES (3, 'z')"] {
        for in_turn in [true, false] {
            let (_folder, storage) = fresh();
            storage.exec(FAMILY)?;
            if in_turn {
                storage.enter_turn();
            }
            if !before.is_empty() {
                storage.exec(before)?;
            }
            storage.exec(REBUILD)?;
            assert_eq!(storage.integers("SELECT p FROM child")?, [1, 1, 2]);
            storage.exec("DELETE FROM parent WHERE id = 1")?;
            assert_eq!(storage.integers("SELECT p FROM child")?, [2]);
            assert_eq!(
                code(storage.exec("INSERT INTO child VALUES (9)")),
                "sql-failed"
            );
            if in_turn {
                assert!(storage.commit_turn()?.is_some());
            }
            assert_eq!(storage.integers("SELECT b FROM parent WHERE id = 2")?, [7]);
        }
    }
    Ok(())
}

#[test]
fn what_loses_a_parent_is_undone_whole() -> TestResult {
    let (_folder, storage) = fresh();
    storage.exec(FAMILY)?;
    storage.enter_turn();
    storage.exec("INSERT INTO child VALUES (2)")?;
    for lost in [
        "PRAGMA foreign_keys = OFF; DELETE FROM parent WHERE id = 1",
        "PRAGMA foreign_keys = OFF; DELETE FROM parent WHERE id = 1; PRAGMA foreign_keys = ON",
        "PRAGMA foreign_keys = 'no'; DROP TABLE parent; SELECT 1",
        "CREATE TABLE u (a); PRAGMA foreign_keys = OFF; INSERT INTO child VALUES (7); \
         PRAGMA foreign_keys = ON; INSERT INTO u VALUES (1)",
    ] {
        let error = storage.exec(lost).unwrap_err().to_string();
        assert!(error.contains("table `child`, row "), "{error}");
        assert_eq!(storage.integers("SELECT id FROM parent")?, [1, 2]);
        assert_eq!(code(storage.exec("SELECT * FROM u")), "sql-failed");
    }
    assert!(storage.commit_turn()?.is_some());
    assert_eq!(storage.integers("SELECT p FROM child")?, [1, 1, 2, 2]);
    Ok(())
}

/// SQLite forgets the violations that it has counted when either is set.
#[test]
fn no_pragma_forgets_a_violated_key() -> TestResult {
    let (_folder, storage) = fresh();
    storage.exec(FAMILY)?;
    for forget in [
        "PRAGMA defer_foreign_keys = OFF",
        "EXPLAIN PRAGMA defer_foreign_keys = 0",
        "PRAGMA foreign_keys = OFF; INSERT INTO parent VALUES (9, 'z')",
    ] {
        storage.enter_turn();
        storage.exec("PRAGMA defer_foreign_keys = ON")?;
        storage.exec("INSERT INTO child VALUES (9)")?;
        let refused = storage.exec(forget).unwrap_err();
        assert_eq!(code::<()>(Err(refused.clone())), "sql-refused", "{forget}");
        assert!(refused.to_string().contains("violated"), "{refused}");
        storage.exec("INSERT INTO parent VALUES (9, 'z')")?;
        storage.exec("PRAGMA defer_foreign_keys = OFF")?;
        assert!(storage.commit_turn()?.is_some());
        storage.exec("DELETE FROM parent WHERE id = 9")?;
    }
    storage.enter_turn();
    storage.exec("PRAGMA defer_foreign_keys = ON; INSERT INTO child VALUES (9)")?;
    assert_eq!(code(storage.commit_turn()), "object-reset");
    Ok(())
}

#[test]
fn deferring_ends_with_a_turn_that_writes_nothing() -> TestResult {
    let (_folder, storage) = fresh();
    storage.exec(FAMILY)?;
    storage.enter_turn();
    storage.exec("PRAGMA defer_foreign_keys = ON")?;
    storage.commit_turn()?;
    storage.enter_turn();
    assert_eq!(
        code(storage.exec("INSERT INTO child VALUES (9)")),
        "sql-failed"
    );
    Ok(())
}

/// A cursor that is open keeps `LIKE` as it was compiled.
#[test]
fn the_rows_of_a_sensitive_like_are_read_before_it_ends() -> TestResult {
    let (_folder, storage) = fresh();
    storage.exec("CREATE TABLE t (a); INSERT INTO t VALUES ('a'), ('A'), ('b'), ('a')")?;
    let query = "PRAGMA case_sensitive_like = ON; SELECT count(*) OVER () FROM t WHERE a LIKE 'a'";
    let mut cursor = storage.sql().exec(query, ())?;
    assert_eq!(cursor.next_row()?.ok_or("a row")?.decode::<i64>()?, 2);
    assert_eq!(
        storage.integers("SELECT count(*) FROM t WHERE a LIKE 'a'")?,
        [3]
    );
    assert_eq!(cursor.all::<i64>()?, [2]);
    Ok(())
}
