//! SQLite's errors as ours, and which of them mean that the database can no longer be trusted to
//! hold what the object believes it holds.

use rusqlite::{ErrorCode, ffi};

use crate::Error;

/// The answer of every operation after the storage was closed.
pub(super) const GONE: &str = "the instance this storage belonged to is gone";

/// Whether the object must be rebuilt from disk after this error.
pub(super) fn is_critical(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(
            ErrorCode::DiskFull
                | ErrorCode::SystemIoFailure
                | ErrorCode::OutOfMemory
                | ErrorCode::DatabaseCorrupt
                | ErrorCode::NotADatabase
                | ErrorCode::CannotOpen
                | ErrorCode::ReadOnly
                | ErrorCode::FileLockingProtocolFailed
        )
    )
}

/// SQLite's message with its code, extended where we know its name: `UNIQUE constraint failed:
/// t.a (SQLITE_CONSTRAINT_UNIQUE)`.
pub(super) fn text(error: &rusqlite::Error) -> String {
    use rusqlite::Error as E;
    match error {
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

/// The error that the caller of a failed statement sees.
pub(super) fn convert(error: &rusqlite::Error) -> Error {
    if is_critical(error) {
        return failed("", error);
    }
    match error.sqlite_error_code() {
        Some(ErrorCode::AuthorizationForStatementDenied) => Error::SqlRefused(text(error)),
        Some(ErrorCode::OperationAborted) => {
            Error::Closed("the transaction that the cursor was reading in was rolled back")
        }
        _ => Error::SqlFailed(text(error)),
    }
}

/// The error of a database that cannot be read or written; `what` comes before SQLite's message.
pub(crate) fn failed(what: &str, error: &rusqlite::Error) -> Error {
    let told = format!("{what}{}", text(error));
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Error::StorageDamaged(told),
        _ => Error::StorageFailed(told),
    }
}

fn name(code: i32) -> String {
    let known = match code {
        ffi::SQLITE_CONSTRAINT_CHECK => "SQLITE_CONSTRAINT_CHECK",
        ffi::SQLITE_CONSTRAINT_FOREIGNKEY => "SQLITE_CONSTRAINT_FOREIGNKEY",
        ffi::SQLITE_CONSTRAINT_NOTNULL => "SQLITE_CONSTRAINT_NOTNULL",
        ffi::SQLITE_CONSTRAINT_PRIMARYKEY => "SQLITE_CONSTRAINT_PRIMARYKEY",
        ffi::SQLITE_CONSTRAINT_ROWID => "SQLITE_CONSTRAINT_ROWID",
        ffi::SQLITE_CONSTRAINT_TRIGGER => "SQLITE_CONSTRAINT_TRIGGER",
        ffi::SQLITE_CONSTRAINT_UNIQUE => "SQLITE_CONSTRAINT_UNIQUE",
        ffi::SQLITE_CONSTRAINT_VTAB => "SQLITE_CONSTRAINT_VTAB",
        ffi::SQLITE_CONSTRAINT_DATATYPE => "SQLITE_CONSTRAINT_DATATYPE",
        _ => match code & 0xff {
            ffi::SQLITE_ERROR => "SQLITE_ERROR",
            ffi::SQLITE_PERM => "SQLITE_PERM",
            ffi::SQLITE_ABORT => "SQLITE_ABORT",
            ffi::SQLITE_BUSY => "SQLITE_BUSY",
            ffi::SQLITE_LOCKED => "SQLITE_LOCKED",
            ffi::SQLITE_NOMEM => "SQLITE_NOMEM",
            ffi::SQLITE_READONLY => "SQLITE_READONLY",
            ffi::SQLITE_INTERRUPT => "SQLITE_INTERRUPT",
            ffi::SQLITE_IOERR => "SQLITE_IOERR",
            ffi::SQLITE_CORRUPT => "SQLITE_CORRUPT",
            ffi::SQLITE_FULL => "SQLITE_FULL",
            ffi::SQLITE_CANTOPEN => "SQLITE_CANTOPEN",
            ffi::SQLITE_SCHEMA => "SQLITE_SCHEMA",
            ffi::SQLITE_TOOBIG => "SQLITE_TOOBIG",
            ffi::SQLITE_CONSTRAINT => "SQLITE_CONSTRAINT",
            ffi::SQLITE_MISMATCH => "SQLITE_MISMATCH",
            ffi::SQLITE_AUTH => "SQLITE_AUTH",
            ffi::SQLITE_RANGE => "SQLITE_RANGE",
            ffi::SQLITE_NOTADB => "SQLITE_NOTADB",
            _ => return format!("SQLite error {code}"),
        },
    };
    if code > 0xff && !known.contains("CONSTRAINT_") {
        return format!("{known}, extended code {code}");
    }
    known.to_owned()
}
