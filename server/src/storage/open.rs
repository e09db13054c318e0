//! How an object's database is opened: pragmas, limits and memory.

use std::rc::Rc;
use std::sync::Once;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;
use rusqlite::{Connection, ffi};
use vatwerk::limit_capnp as limit;

use super::authorizer::Gate;
use super::backing::{Attached, Backing};
use super::{meter, watch};
use crate::journal::PAGE_BYTES;

/// Above this SQLite's caches stop growing, all databases of the process together. What objects that
/// are awake need besides caches, 10,000 times some 60 KiB, fits below.
const SOFT_HEAP_BYTES: i64 = 1 << 30;

/// The most memory SQLite takes, all databases of the process together. Beyond it the statement that
/// asks for more fails, and the object it belongs to is reset: `storage-failed`.
const HARD_HEAP_BYTES: i64 = 2 << 30;

/// The most instructions that the program of a statement has.
pub(super) const MAX_INSTRUCTIONS: u32 = 25_000;

/// How an object's database is opened.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long SQL may run in one call: all statements of [`Sql::exec`](super::Sql::exec), the
    /// last up to its first row; or from one row of a cursor to the next, unless [`Cursor::deadline`]
    /// spans several. 500 ms unless told otherwise.
    ///
    /// [`Cursor::deadline`]: super::Cursor::deadline
    pub statement_time_limit: Duration,
    /// The most memory that cached pages of an open database take, in bytes, unless one transaction
    /// needs more; 256 KiB unless told otherwise. Pages are read as they are needed, so a small
    /// database takes less.
    pub cache_bytes: u32,
    /// The most memory that the SQL of an object takes, in bytes: the statement that runs and the open
    /// cursors together, with what they sort and gather; 64 MiB unless told otherwise. A statement
    /// that needs more is `limit-exceeded`.
    pub sql_memory_bytes: u64,
    /// The most prepared statements kept for reuse; 24 unless told otherwise.
    pub cached_statements: usize,
    /// The largest the database may become, in bytes; [`limit::MAX_DATABASE_BYTES`] unless told
    /// otherwise. A write that needs more is `limit-exceeded`.
    pub max_database_bytes: u64,
    /// The longest SQL text of one exec, in bytes; [`limit::MAX_SQL_BYTES`] unless told otherwise. Longer
    /// text is `limit-exceeded`.
    pub text_bytes: u32,
    /// The most columns of a table or a result; 100 unless told otherwise, and 2,000 at most.
    pub columns: u32,
    /// How deep expressions are; 100 unless told otherwise, and 1,000 at most.
    pub expression_depth: u32,
    /// The most terms of a compound SELECT, such as UNION; 5 unless told otherwise, and 500 at most.
    pub compound_selects: u32,
    /// The longest pattern of LIKE and GLOB, in bytes; 4,096 unless told otherwise, and 50,000 at most.
    pub pattern_bytes: u32,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            statement_time_limit: Duration::from_millis(500),
            cache_bytes: 256 * 1024,
            sql_memory_bytes: 64 << 20,
            cached_statements: 24,
            max_database_bytes: limit::MAX_DATABASE_BYTES,
            text_bytes: limit::MAX_SQL_BYTES,
            columns: 100,
            expression_depth: 100,
            compound_selects: 5,
            pattern_bytes: 4096,
        }
    }
}

/// Opens a connection that `gate` stands before, and whose SQL has limits.
pub(super) fn open(
    backing: Rc<Backing>,
    settings: &Settings,
    gate: &Gate,
) -> rusqlite::Result<Attached> {
    let mut connection = backing.connect()?;
    connection.set_prepared_statement_cache_capacity(settings.cached_statements);
    set_limits(&connection, settings)?;
    set_pragmas(&connection, settings)?;
    gate.install(&mut connection)?;
    watch::install(&mut connection)?;
    Ok(Attached::new(connection, backing))
}

fn set_pragmas(connection: &Connection, settings: &Settings) -> rusqlite::Result<()> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, true)?;
    leave_to_journal(connection)?;
    let (cache, pages) = (
        settings.cache_bytes / 1024,
        (settings.max_database_bytes / PAGE_BYTES as u64).max(1),
    );
    connection.execute_batch(&format!(
        "PRAGMA temp_store = MEMORY; PRAGMA cache_size = -{cache}; PRAGMA max_page_count = {pages}"
    ))
}

/// Leaves durability to the journal. SQLite has the database for itself, and keeps what it needs to undo
/// a transaction in a file without a name, which is in memory while it is small.
pub(crate) fn leave_to_journal(connection: &Connection) -> rusqlite::Result<()> {
    // In exclusive mode first: else SQLite looks at the file for each.
    connection.execute_batch(
        "PRAGMA locking_mode = EXCLUSIVE; PRAGMA synchronous = OFF; PRAGMA journal_mode = TRUNCATE",
    )
}

fn set_limits(connection: &Connection, settings: &Settings) -> rusqlite::Result<()> {
    let limits = [
        (Limit::SQLITE_LIMIT_LENGTH, limit::MAX_SQL_VALUE_BYTES),
        (Limit::SQLITE_LIMIT_SQL_LENGTH, settings.text_bytes),
        (Limit::SQLITE_LIMIT_COLUMN, settings.columns),
        (Limit::SQLITE_LIMIT_EXPR_DEPTH, settings.expression_depth),
        (
            Limit::SQLITE_LIMIT_COMPOUND_SELECT,
            settings.compound_selects,
        ),
        (Limit::SQLITE_LIMIT_VDBE_OP, MAX_INSTRUCTIONS),
        (Limit::SQLITE_LIMIT_FUNCTION_ARG, 127),
        (Limit::SQLITE_LIMIT_ATTACHED, 0),
        (
            Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH,
            settings.pattern_bytes,
        ),
        (Limit::SQLITE_LIMIT_VARIABLE_NUMBER, limit::MAX_SQL_BINDINGS),
        (Limit::SQLITE_LIMIT_TRIGGER_DEPTH, 10),
        (Limit::SQLITE_LIMIT_WORKER_THREADS, 0),
    ];
    for (what, most) in limits {
        connection.set_limit(what, i32::try_from(most).unwrap_or(i32::MAX))?;
    }
    Ok(())
}

/// How much memory SQLite uses for all databases of the process together, in bytes.
pub fn memory_used() -> u64 {
    // SAFETY: it reads a number, under a lock of SQLite's own.
    let bytes = unsafe { ffi::sqlite3_memory_used() };
    bytes.unsigned_abs()
}

/// Whether SQLite is so near to the limit of its memory that it may be out of it.
pub(super) fn is_memory_scarce() -> bool {
    // SAFETY: a negative limit changes nothing.
    let most = unsafe { ffi::sqlite3_hard_heap_limit64(-1) };
    memory_used() > most.unsigned_abs() / 8 * 7
}

/// SQLite otherwise sets memory aside for each connection: 48 KiB for small allocations and room
/// for 20 pages, which is most of what an idle object would take. Only good before the process uses
/// SQLite for anything. Also limits the memory of all databases together, and has the memory of the
/// SQL of each object counted.
pub fn configure_process() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let none = std::ptr::null_mut::<std::ffi::c_void>();
        // SAFETY: both options take the arguments given here, and before SQLite is initialized
        // nothing else uses its configuration. Afterwards they answer SQLITE_MISUSE and change
        // nothing, which costs memory but no correctness.
        unsafe {
            ffi::sqlite3_config(ffi::SQLITE_CONFIG_LOOKASIDE, 0, 0);
            ffi::sqlite3_config(ffi::SQLITE_CONFIG_PAGECACHE, none, 0, 0);
        }
        if meter::install().is_err() {
            tracing::error!(
                "SQLite was in use before the vat: the memory of an object's SQL is not limited"
            );
        }
        // SAFETY: these initialize SQLite and set a number.
        unsafe {
            ffi::sqlite3_hard_heap_limit64(HARD_HEAP_BYTES);
            ffi::sqlite3_soft_heap_limit64(SOFT_HEAP_BYTES);
        }
    });
}
