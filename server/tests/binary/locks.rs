//! A vat and another process do not use one database at the same time. This process is the other.

use std::{fs, path::Path};

use rusqlite::{Connection, ErrorCode, TransactionBehavior};
use tempfile::{TempDir, tempdir};

use crate::vat::{Vat, files};

/// A folder with the database of one object, which has a file.
fn folder() -> TempDir {
    let folder = tempdir().unwrap();
    let mut vat = Vat::start(folder.path());
    vat.call("Counter", "x", "increment", "{}");
    vat.signal(libc::SIGTERM);
    assert_eq!(vat.wait(), Some(0), "{}", vat.errors());
    folder
}

/// The only object's database, for whoever is not the vat.
fn database(folder: &Path) -> Connection {
    let files = files(&folder.join("data/objects"));
    let database = files
        .iter()
        .find(|file| file.extension().unwrap() == "sqlite");
    let connection = Connection::open(database.unwrap()).unwrap();
    connection.busy_timeout(std::time::Duration::ZERO).unwrap();
    connection
}

fn read(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
}

#[track_caller]
fn is_kept_out(connection: &Connection) {
    let error = read(connection).unwrap_err();
    assert_eq!(
        error.sqlite_error_code(),
        Some(ErrorCode::DatabaseBusy),
        "{error}"
    );
}

#[test]
fn others_are_kept_out_of_an_object_that_is_awake() {
    let folder = folder();
    let vat = Vat::start(folder.path());
    let other = database(folder.path());
    // Asleep, it is anybody's.
    assert!(read(&other).unwrap() > 0);
    drop(other);
    vat.call("Counter", "x", "get", "{}");
    is_kept_out(&database(folder.path()));
}

/// A vat whose journal goes round soon, and whose objects stay awake.
fn small(folder: &Path) -> Vat {
    let settings = "[limits]\njournal_bytes = 8388608\nidle_ms = 600000\n";
    fs::write(folder.join("small.toml"), settings).unwrap();
    let listen = ["--config", "small.toml", "--listen", "tcp:127.0.0.1:0"];
    Vat::spawn(folder, listen).ready(1)
}

/// Has an object write more than the journal has room for.
fn go_round(vat: &Vat, object: &str) {
    let noise = "CREATE TABLE IF NOT EXISTS t (x); INSERT INTO t VALUES (randomblob(200000))";
    for _ in 0..40 {
        vat.printed(&["sql", "Cell", object, noise]);
    }
}

#[test]
fn others_are_kept_out_of_an_object_that_gets_its_file_while_it_is_awake() {
    let folder = tempdir().unwrap();
    let vat = small(folder.path());
    go_round(&vat, "x");
    is_kept_out(&database(folder.path()));
}

#[test]
fn others_are_kept_out_while_the_journal_goes_round() {
    let folder = folder();
    let vat = small(folder.path());
    vat.call("Counter", "x", "increment", "{}");
    let other = database(folder.path());
    is_kept_out(&other);
    // What counts of the journal is half of it at most, so the counter's file is brought up to date.
    go_round(&vat, "noise");
    is_kept_out(&other);
    assert_eq!(vat.call("Counter", "x", "get", "{}"), r#"{"count":2}"#);
}

#[test]
fn an_object_that_another_process_uses_does_not_wake_and_later_does() {
    let folder = folder();
    let vat = Vat::start(folder.path());
    let mut other = database(folder.path());
    let using = other
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .unwrap();
    let error = vat.run(&["call", "Counter", "x", "get"]).failed(4);
    assert!(error.starts_with("error: storage-failed: "), "{error}");
    vat.until_logged("another process");
    vat.call("Counter", "y", "increment", "{}");
    using.rollback().unwrap();
    other.close().unwrap();
    assert_eq!(vat.call("Counter", "x", "get", "{}"), r#"{"count":1}"#);
}
