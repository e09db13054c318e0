//! SQLite's errors as ours, and which of them mean that the database can no longer be trusted to
//! hold what the object believes it holds.

use rusqlite::{ErrorCode, ffi};

use super::codes::{self, Whose, name};
use crate::Error;

/// The answer of every operation after the storage was closed.
pub(super) const GONE: &str = "the instance this storage belonged to is gone";

/// Whose fault the error is. One that is rusqlite's own, of a value or a column, is the statement's.
pub(super) fn whose(error: &rusqlite::Error) -> Whose {
    use rusqlite::Error as E;
    match error {
        E::SqliteFailure(code, _) | E::SqlInputError { error: code, .. } => {
            codes::whose(code.extended_code)
        }
        _ => Whose::Statement,
    }
}

/// Whether the object must be rebuilt from disk after this error.
pub(super) fn is_critical(error: &rusqlite::Error) -> bool {
    matches!(whose(error), Whose::Process | Whose::Disk | Whose::Object)
}

/// Whether something is being read that the statement would have changed.
pub(super) fn is_locked(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DatabaseLocked)
}

/// SQLite's message with its code, extended where we know its name: `UNIQUE constraint failed:
/// t.a (SQLITE_CONSTRAINT_UNIQUE)`.
pub(super) fn text(error: &rusqlite::Error) -> String {
    use rusqlite::Error as E;
    match error {
        E::SqliteFailure(code, _) if code.extended_code == ffi::SQLITE_CORRUPT_VTAB => format!(
            "the contents of a virtual table are out of step: rebuild it, a full-text index by \
             `INSERT INTO name (name) VALUES ('rebuild')` ({})",
            name(code.extended_code)
        ),
        E::SqliteFailure(code, message) => {
            let message = message
                .clone()
                .unwrap_or_else(|| ffi::code_to_str(code.extended_code).to_owned());
            format!("{message} ({})", name(code.extended_code))
        }
        E::SqlInputError {
            error, msg, offset, ..
        } => format!("{msg}, at byte {offset} ({})", name(error.extended_code)),
        other => other.to_string(),
    }
}

/// The error that the caller of a failed statement sees; `most_bytes` is the largest size of the database.
pub(super) fn convert(error: &rusqlite::Error, most_bytes: u64) -> Error {
    match whose(error) {
        Whose::Process | Whose::Disk | Whose::Object => failed("", error),
        Whose::Refused => Error::SqlRefused(text(error)),
        Whose::Transaction => {
            Error::Closed("the transaction that the cursor was reading in was rolled back")
        }
        Whose::Room => Error::SqlLimit {
            what: "the database of an object (bytes), if its tables have row numbers left,",
            limit: most_bytes,
            key: "`maxDatabaseBytes` of `limit.capnp`",
        },
        Whose::Statement => Error::SqlFailed(text(error)),
    }
}

/// The error of a database that cannot be read or written; `what` comes before SQLite's message.
pub(crate) fn failed(what: &str, error: &rusqlite::Error) -> Error {
    let told = format!("{what}{}", text(error));
    match whose(error) {
        Whose::Object => Error::StorageDamaged(told),
        _ => Error::StorageFailed(told),
    }
}
