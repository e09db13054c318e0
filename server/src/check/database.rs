//! One database, looked at by SQLite as anybody has it, and not by way of the vat's file system.

use std::{fmt::Write, os::unix::ffi::OsStrExt, path::Path};

use rusqlite::{Connection, OpenFlags, config::DbConfig};

/// Opens the database in a file that nobody writes to: nothing is written, and nothing is made
/// beside it, as is done for others in WAL mode even to read.
pub(super) fn open(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_URI
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(immutable(path), flags)?;
    // Its schema is a user's.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    Ok(connection)
}

/// The first thing that is wrong with the structure of a database.
pub(super) fn fault(connection: &Connection) -> Option<String> {
    let answer: rusqlite::Result<String> =
        connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0));
    match answer {
        Ok(answer) if answer == "ok" => None,
        // It may be of several lines.
        Ok(answer) => Some(answer.lines().collect::<Vec<_>>().join("; ")),
        Err(error) => Some(error.to_string()),
    }
}

/// The URI of a file that does not change. See <https://www.sqlite.org/uri.html>.
fn immutable(path: &Path) -> String {
    let mut uri = String::from(if path.is_absolute() {
        "file://"
    } else {
        "file:"
    });
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'/' | b'.' | b'-' | b'_' => uri.push(char::from(*byte)),
            _ if byte.is_ascii_alphanumeric() => uri.push(char::from(*byte)),
            _ => _ = write!(uri, "%{byte:02x}"),
        }
    }
    uri + "?immutable=1"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_read_wherever_it_is_and_nothing_is_left_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a b?c#d%41ü");
        crate::storage::configure_process();
        let made = Connection::open(&path).unwrap();
        made.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t AS SELECT 5 AS a")
            .unwrap();
        made.close().unwrap();
        let connection = open(&path).unwrap();
        assert_eq!(fault(&connection), None);
        let value: i64 = connection
            .query_row("SELECT a FROM t", [], |row| row.get(0))
            .unwrap();
        assert_eq!(value, 5);
        connection.execute_batch("DELETE FROM t").unwrap_err();
        let files = std::fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(files, 1);
    }
}
