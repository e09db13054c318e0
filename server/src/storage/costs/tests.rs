use std::collections::BTreeSet;

use rusqlite::Connection;

use super::super::testing::{TestResult, code, fresh};
use super::super::{Storage, meter};
use super::*;
use crate::{Error, Result};

/// What SQLite has and user SQL may not call: what tells of the vat or writes its log, what belongs to
/// modules that are refused, and what nobody has said the cost of.
const REFUSED: [&str; 14] = [
    "fts3_tokenizer",
    "fts5",
    "fts5_get_locale",
    "fts5_insttoken",
    "fts5_locale",
    "fts5_source_id",
    "matchinfo",
    "offsets",
    "optimize",
    "rtreedepth",
    "rtreenode",
    "sqlite_compileoption_get",
    "sqlite_compileoption_used",
    "sqlite_log",
];

fn called(cost: Cost) -> impl Iterator<Item = (&'static str, &'static str)> {
    let functions = FUNCTIONS
        .iter()
        .filter(move |(_, of, call)| *of == cost && !call.is_empty());
    functions.map(|(name, _, call)| (*name, *call))
}

/// With one row in `big` and in the table `t` of FTS5, of so many bytes, that is JSON.
fn with_value(bytes: usize) -> Result<(tempfile::TempDir, Storage)> {
    let (folder, storage) = fresh();
    storage.exec(
        "CREATE TABLE big (v); CREATE VIRTUAL TABLE t USING fts5 (x); \
         CREATE VIRTUAL TABLE r USING rtree (id, a, b)",
    )?;
    let value = format!("[{}1]", "1,".repeat(bytes / 2));
    storage
        .sql()
        .exec("INSERT INTO big VALUES (?1)", (value.as_str(),))?;
    let text = "a. b ".repeat(bytes / 5);
    storage
        .sql()
        .exec("INSERT INTO t VALUES (?1)", (text.as_str(),))?;
    Ok((folder, storage))
}

fn select(call: &str) -> String {
    let from = if call.contains("(t") {
        "t WHERE t MATCH 'a OR b'"
    } else {
        "big"
    };
    format!("SELECT typeof({call}) FROM {from}")
}

#[test]
fn every_function_has_its_cost() -> TestResult {
    super::super::configure_process();
    let connection = Connection::open_in_memory()?;
    super::super::math::install(&connection)?;
    let listed: BTreeSet<String> = connection
        .prepare("SELECT DISTINCT lower(name) FROM pragma_function_list")?
        .query_map([], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    let allowed: BTreeSet<&str> = FUNCTIONS.iter().map(|(name, ..)| *name).collect();
    assert_eq!(allowed.len(), FUNCTIONS.len(), "no function is there twice");
    let unknown: Vec<_> = listed
        .iter()
        .filter(|name| !allowed.contains(name.as_str()) && !REFUSED.contains(&name.as_str()))
        .collect();
    assert!(
        unknown.is_empty(),
        "nobody has said what these cost: {unknown:?}"
    );
    assert!(
        REFUSED
            .iter()
            .all(|name| listed.contains(*name) && of(name).is_none())
    );
    // And what has a call can be called.
    for (name, _, call) in FUNCTIONS {
        assert_eq!(
            !call.is_empty(),
            listed.contains(name) && name != "match",
            "{name}"
        );
    }
    Ok(())
}

#[test]
fn every_function_works_on_what_is_not_large() -> TestResult {
    let (_folder, storage) = with_value(2000)?;
    for (name, _, call) in FUNCTIONS.iter().filter(|(.., call)| !call.is_empty()) {
        let result = storage.exec(&select(call));
        let fails = ["load_extension"].contains(name);
        assert_eq!(result.is_err(), fails, "{call}: {result:?}");
    }
    Ok(())
}

/// What is run many times in one row, without SQLite asking whether to stop, is not large.
#[test]
fn values_are_smaller_the_longer_the_program() -> TestResult {
    let (_folder, storage) = with_value(3_900_000)?;
    storage.exec("CREATE TABLE row (n); INSERT INTO row VALUES (1)")?;
    for (name, call) in called(Cost::Linear).filter(|(name, _)| *name != "bm25") {
        let many = [call; 120].join(", ");
        let columns = format!("json_array({many}), ").repeat(8) + "1";
        let error = storage.exec(&format!("SELECT {columns} FROM big"));
        let error = error.expect_err(name);
        let Error::SqlLimit { limit, .. } = error else {
            panic!("{name}: {error}");
        };
        assert!((10_000..2_000_000).contains(&limit), "{name}: {limit}");
    }
    // The same where it hides in a view, an expression of the schema, or a trigger.
    let many = ["length(v)"; 120].join(" + length(v), ");
    storage.exec(&format!(
        "CREATE VIEW w AS SELECT max({many}) AS a FROM big"
    ))?;
    for sql in [
        "SELECT x.a, y.a, z.a, u.a FROM w x, w y, w z, w u".to_owned(),
        format!(
            "CREATE TABLE c (v CHECK (max({many}) + max({many}) > 0)); INSERT INTO c SELECT v FROM big"
        ),
        format!(
            "CREATE TABLE d (v); CREATE TRIGGER g AFTER INSERT ON d BEGIN \
             SELECT max({many}), max({many}) FROM big; END; INSERT INTO d VALUES (1)"
        ),
        format!(
            "CREATE TABLE e (v, g AS (max({many}) + max({many}))); INSERT INTO e SELECT v FROM big"
        ),
    ] {
        assert_eq!(code(storage.exec(&sql)), "limit-exceeded", "{sql:.60}");
    }
    // A statement that was compiled before the view became long, too.
    storage.exec("CREATE VIEW later AS SELECT length(v) FROM big")?;
    storage.exec("SELECT * FROM later")?;
    storage.exec("DROP VIEW later")?;
    storage.exec(&format!(
        "CREATE VIEW later AS SELECT max({many}), max({many}) FROM big"
    ))?;
    assert_eq!(code(storage.exec("SELECT * FROM later")), "limit-exceeded");
    // One that is not long handles what is large.
    storage.exec("SELECT length(v), upper(v) FROM big")?;
    assert_eq!(storage.broken(), None);
    Ok(())
}

/// They count what they do, no more than it should be, and end when the deadline passes meanwhile.
#[test]
fn functions_of_ours_look_at_the_deadline() -> TestResult {
    let (_folder, storage) = with_value(1_000_000)?;
    for (name, call) in called(Cost::Ours) {
        let sql = select(call);
        let before = meter::spent();
        storage.exec(&sql)?;
        let work = meter::spent() - before;
        // With the square of the size it would be a thousand times as much.
        assert!((60_000..1_000_000_000).contains(&work), "{name}: {work}");
        if work < 4 << 20 {
            // Several calls, so that there is a second look in any case.
            let calls = [call; 8].join(", ");
            let from = sql.split_once(" FROM ").expect("a table").1;
            expire(&storage, &format!("SELECT {calls} FROM {from}"));
        } else {
            expire(&storage, &sql);
        }
    }
    Ok(())
}

fn expire(storage: &Storage, sql: &str) {
    meter::expire_after(Some(1));
    let result = storage.exec(sql);
    meter::expire_after(None);
    assert_eq!(code(result), "timeout", "{sql}");
    assert_eq!(storage.broken(), None, "{sql}");
}

#[test]
fn products_of_sizes_are_limited() -> TestResult {
    let (_folder, storage) = with_value(3_900_000)?;
    for (name, _) in called(Cost::Product) {
        let large = storage.exec(&format!("SELECT {name}(v, v) FROM big"));
        let Err(Error::LimitExceeded {
            what,
            limit,
            actual,
        }) = large
        else {
            panic!("{name}: {large:?}");
        };
        assert!(what.contains(name) && actual > limit, "{name}: {what}");
    }
    assert_eq!(storage.broken(), None);
    Ok(())
}

#[test]
fn gathering_ends_at_the_deadline() -> TestResult {
    let (_folder, storage) = fresh();
    for (_, call) in called(Cost::Rows).filter(|(name, _)| *name != "rtreecheck") {
        let endless = "WITH RECURSIVE n(v) AS (SELECT 1 UNION ALL SELECT v + 1 FROM n)";
        expire(&storage, &format!("{endless} SELECT {call} FROM n"));
    }
    Ok(())
}

/// What SQLite does in one instruction, or before the first, ends when it asks for memory.
#[test]
fn what_takes_memory_ends_at_the_deadline() -> TestResult {
    let (_folder, storage) = with_value(1_000_000)?;
    // Each view has two of the one before.
    storage.exec("CREATE TABLE z (a); CREATE VIEW v0 AS SELECT a FROM z")?;
    for at in 1..30 {
        let before = at - 1;
        storage.exec(&format!(
            "CREATE VIEW v{at} AS SELECT x.a FROM v{before} x, v{before} y"
        ))?;
    }
    expire(&storage, "SELECT count(*) FROM v29");
    let calls = ["json(v || '')"; 20].join(", ");
    expire(&storage, &format!("SELECT {calls} FROM big"));
    Ok(())
}
