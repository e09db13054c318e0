use std::os::raw::c_int;

use rusqlite::ffi;

use super::super::Storage;
use super::super::testing::{TestResult, code, fresh};
use super::{CODES, DISK_FULL, Whose, name, whose};

/// The error of a statement that fails so in a turn that has written, and what becomes of the turn.
fn fate(result: c_int) -> crate::Result<(&'static str, &'static str)> {
    let (_folder, storage) = fresh();
    storage.enter_turn();
    storage.exec("CREATE TABLE t (a)")?;
    let connection = storage.0.live()?;
    let error = rusqlite::Error::SqliteFailure(ffi::Error::new(result), None);
    let told = code::<()>(Err(storage.0.judge(&connection, &error)));
    drop(connection);
    Ok((told, code(storage.commit_turn())))
}

#[test]
fn every_code_has_somebody_to_blame_and_only_then_is_an_object_reset() -> TestResult {
    const { assert!(ffi::SQLITE_VERSION_NUMBER < 3_055_000, "look for new codes") }
    for primary in 1..=0xff {
        for extended in 0..=60 {
            let code = primary | extended << 8;
            let class = match whose(code) {
                Whose::Statement => ("sql-failed", "ok"),
                Whose::Refused => ("sql-refused", "ok"),
                Whose::Transaction => ("closed", "ok"),
                Whose::Room => ("limit-exceeded", "ok"),
                Whose::Process | Whose::Disk => ("storage-failed", "storage-failed"),
                Whose::Object => ("storage-damaged", "storage-damaged"),
            };
            let is_known = CODES.iter().any(|(known, ..)| *known == code);
            if is_known || extended == 60 && primary < 29 {
                assert_eq!(fate(code)?, class, "{}", name(code));
            }
            // One that is not known is as its primary one.
            if !is_known {
                assert_eq!(whose(code), whose(primary), "{code}");
            }
        }
    }
    assert_eq!(whose(DISK_FULL), Whose::Disk);
    assert_eq!(whose(77), Whose::Process);
    // Those that SQLite has a text for are in the list, but for what is no error.
    for primary in 1..=0xff {
        let text = ffi::code_to_str(primary);
        let in_list = CODES.iter().any(|(known, ..)| *known == primary);
        let no_error = [
            ffi::SQLITE_NOTICE,
            ffi::SQLITE_WARNING,
            ffi::SQLITE_ROW,
            ffi::SQLITE_DONE,
        ];
        let is_error = text != "unknown error" && !no_error.contains(&primary);
        assert!(in_list || !is_error, "{primary}: {text}");
    }
    let mut codes: Vec<_> = CODES.iter().map(|(code, ..)| code).collect();
    codes.sort();
    codes.dedup();
    assert_eq!(codes.len(), CODES.len(), "each is there once");
    Ok(())
}

/// What SQL can do by itself, and mend.
#[test]
fn a_virtual_table_out_of_step_is_the_statements_fault() -> TestResult {
    let (_folder, storage) = fresh();
    storage.exec(
        "CREATE TABLE source (id INTEGER PRIMARY KEY, body); \
         CREATE VIRTUAL TABLE docs USING fts5 (body, content = 'source', content_rowid = 'id'); \
         INSERT INTO source VALUES (1, 'one two'); \
         INSERT INTO docs (rowid, body) VALUES (1, 'one two'), (2, 'three')",
    )?;
    storage.enter_turn();
    storage.kv().put("k", &1)?;
    for out_of_step in [
        "INSERT INTO docs (docs, rank) VALUES ('integrity-check', 1)",
        "SELECT body FROM docs WHERE docs MATCH 'three'",
        "SELECT highlight(docs, 0, '[', ']') FROM docs WHERE docs MATCH 'three'",
    ] {
        let error = storage.exec(out_of_step).expect_err(out_of_step);
        assert_eq!(
            code::<()>(Err(error.clone())),
            "sql-failed",
            "{out_of_step}"
        );
        let said = error.to_string();
        assert!(
            said.contains("'rebuild'") && said.contains("SQLITE_CORRUPT_VTAB"),
            "{said}"
        );
    }
    storage.exec(
        "INSERT INTO docs (docs) VALUES ('rebuild'); \
         INSERT INTO docs (docs, rank) VALUES ('integrity-check', 1)",
    )?;
    assert!(storage.commit_turn()?.is_some());
    assert_eq!(storage.keys(), ["k"]);
    Ok(())
}

/// SQLite says the same of it as of a full disk.
#[test]
fn a_table_without_row_numbers_left_is_the_statements_fault() -> TestResult {
    let (_folder, storage) = fresh();
    storage.exec(
        "CREATE TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT, a); \
         INSERT INTO t VALUES (9223372036854775807, 1)",
    )?;
    let more = |storage: &Storage| storage.exec("INSERT INTO t (a) VALUES (2)");
    assert_eq!(code(more(&storage)), "limit-exceeded");
    assert_eq!(storage.broken(), None);
    assert_eq!(storage.integers("SELECT a FROM t")?, [1]);
    Ok(())
}
