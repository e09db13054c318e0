//! Bare SQLite: one database, an increment per transaction.

use std::path::Path;

use rusqlite::Connection;

use crate::measure::{Floor, Round};

pub fn increments(folder: &Path) -> Floor {
    let db = Connection::open(folder.join("bare.sqlite")).expect("a database");
    db.execute_batch(
        "PRAGMA journal_mode = WAL;
         PRAGMA synchronous = FULL;
         CREATE TABLE counter (count INTEGER NOT NULL);
         INSERT INTO counter VALUES (0);",
    )
    .expect("a table");
    Floor::new("bare SQLite, WAL, FULL", &[1], move |_, time| {
        let mut increment = db
            .prepare_cached("UPDATE counter SET count = count + 1")
            .expect("a statement");
        Round::of_one_caller(time, || {
            increment.execute([]).expect("a commit");
        })
    })
}
