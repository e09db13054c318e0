//! Every result code of SQLite's, and whose fault it is: <https://www.sqlite.org/rescode.html>.

use std::os::raw::c_int;

use rusqlite::ffi;

/// Whose fault an error of SQLite's is, and so what becomes of the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    /// The statement's: it has failed, and the object goes on.
    Statement,
    /// The statement's: it may not do this.
    Refused,
    /// The transaction's, which was rolled back while the statement was reading.
    Transaction,
    /// The statement's: there is no room in what may be no larger, a database or the numbers of rows.
    Room,
    /// The process's, which has no memory left or cannot trust itself. The object is made anew.
    Process,
    /// The disk's: the object is made anew from it.
    Disk,
    /// The object's: its database is damaged.
    Object,
}

/// What the vat's file system for SQLite says of a disk that is full. SQLite's own code for that,
/// `SQLITE_FULL`, is also for a database that may not grow and a table without row numbers left.
pub(super) const DISK_FULL: c_int = ffi::SQLITE_IOERR | (200 << 8);

const DISK_FULL_NAME: &str = "the disk is full";

/// An extended code, or a primary one, with its name.
type Known = (c_int, &'static str, Whose);

macro_rules! known {
    ($($whose:ident: $($name:ident)+;)+) => {
        &[$($((ffi::$name, stringify!($name), Whose::$whose),)+)+]
    };
}

/// All codes that are errors, of SQLite 3.54. Of a later extended code its primary one is looked up.
///
/// `SQLITE_CORRUPT_VTAB` is the statement's: full-text indexes and r-trees say it of their own contents, which
/// user SQL can put out of step, and mend by `rebuild`.
#[rustfmt::skip]
const CODES: &[Known] = known! {
    Statement:
        SQLITE_ERROR SQLITE_ERROR_MISSING_COLLSEQ SQLITE_ERROR_RETRY SQLITE_ERROR_SNAPSHOT
        SQLITE_ERROR_RESERVESIZE SQLITE_ERROR_KEY SQLITE_ERROR_UNABLE
        SQLITE_ABORT SQLITE_BUSY SQLITE_BUSY_RECOVERY SQLITE_BUSY_SNAPSHOT SQLITE_BUSY_TIMEOUT
        SQLITE_LOCKED SQLITE_LOCKED_SHAREDCACHE SQLITE_LOCKED_VTAB
        SQLITE_INTERRUPT SQLITE_CORRUPT_VTAB SQLITE_NOTFOUND SQLITE_EMPTY SQLITE_SCHEMA SQLITE_TOOBIG
        SQLITE_CONSTRAINT SQLITE_CONSTRAINT_CHECK SQLITE_CONSTRAINT_COMMITHOOK
        SQLITE_CONSTRAINT_FOREIGNKEY SQLITE_CONSTRAINT_FUNCTION SQLITE_CONSTRAINT_NOTNULL
        SQLITE_CONSTRAINT_PRIMARYKEY SQLITE_CONSTRAINT_TRIGGER SQLITE_CONSTRAINT_UNIQUE
        SQLITE_CONSTRAINT_VTAB SQLITE_CONSTRAINT_ROWID SQLITE_CONSTRAINT_PINNED
        SQLITE_CONSTRAINT_DATATYPE
        SQLITE_MISMATCH SQLITE_MISUSE SQLITE_FORMAT SQLITE_RANGE;
    Refused: SQLITE_AUTH SQLITE_AUTH_USER;
    Transaction: SQLITE_ABORT_ROLLBACK;
    Room: SQLITE_FULL;
    Process: SQLITE_NOMEM SQLITE_IOERR_NOMEM SQLITE_INTERNAL;
    Disk:
        SQLITE_PERM SQLITE_NOLFS SQLITE_PROTOCOL
        SQLITE_READONLY SQLITE_READONLY_RECOVERY SQLITE_READONLY_CANTLOCK SQLITE_READONLY_ROLLBACK
        SQLITE_READONLY_DBMOVED SQLITE_READONLY_CANTINIT SQLITE_READONLY_DIRECTORY
        SQLITE_CANTOPEN SQLITE_CANTOPEN_NOTEMPDIR SQLITE_CANTOPEN_ISDIR SQLITE_CANTOPEN_FULLPATH
        SQLITE_CANTOPEN_CONVPATH SQLITE_CANTOPEN_DIRTYWAL SQLITE_CANTOPEN_SYMLINK
        SQLITE_IOERR SQLITE_IOERR_READ SQLITE_IOERR_SHORT_READ SQLITE_IOERR_WRITE SQLITE_IOERR_FSYNC
        SQLITE_IOERR_DIR_FSYNC SQLITE_IOERR_TRUNCATE SQLITE_IOERR_FSTAT SQLITE_IOERR_UNLOCK
        SQLITE_IOERR_RDLOCK SQLITE_IOERR_DELETE SQLITE_IOERR_BLOCKED SQLITE_IOERR_ACCESS
        SQLITE_IOERR_CHECKRESERVEDLOCK SQLITE_IOERR_LOCK SQLITE_IOERR_CLOSE SQLITE_IOERR_DIR_CLOSE
        SQLITE_IOERR_SHMOPEN SQLITE_IOERR_SHMSIZE SQLITE_IOERR_SHMLOCK SQLITE_IOERR_SHMMAP
        SQLITE_IOERR_SEEK SQLITE_IOERR_DELETE_NOENT SQLITE_IOERR_MMAP SQLITE_IOERR_GETTEMPPATH
        SQLITE_IOERR_CONVPATH SQLITE_IOERR_VNODE SQLITE_IOERR_AUTH SQLITE_IOERR_BEGIN_ATOMIC
        SQLITE_IOERR_COMMIT_ATOMIC SQLITE_IOERR_ROLLBACK_ATOMIC SQLITE_IOERR_CORRUPTFS
        SQLITE_IOERR_IN_PAGE SQLITE_IOERR_BADKEY SQLITE_IOERR_CODEC;
    Object:
        SQLITE_CORRUPT SQLITE_CORRUPT_SEQUENCE SQLITE_CORRUPT_INDEX SQLITE_NOTADB SQLITE_IOERR_DATA;
};

fn known(code: c_int) -> Option<&'static Known> {
    CODES.iter().find(|(known, ..)| *known == code)
}

/// Whose fault an error with that extended code is. What no SQLite that is known says is the process's.
pub(super) fn whose(code: c_int) -> Whose {
    let found = known(code).or_else(|| known(code & 0xff));
    found.map_or(Whose::Process, |(.., whose)| *whose)
}

/// The name of an extended code; of one that is not known, that of its primary one with the number.
pub(super) fn name(code: c_int) -> String {
    if code == DISK_FULL {
        return DISK_FULL_NAME.to_owned();
    }
    match (known(code), known(code & 0xff)) {
        (Some((_, name, _)), _) => (*name).to_owned(),
        (None, Some((_, name, _))) => format!("{name}, extended code {code}"),
        (None, None) => format!("SQLite error {code}"),
    }
}

#[cfg(test)]
mod tests;
