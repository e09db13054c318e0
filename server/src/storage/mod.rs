//! The storage of one object: key-value pairs, alarms, SQL and transactions on one SQLite database.
//!
//! Everything here is synchronous and belongs to one thread. The owner of the object brackets each
//! poll of the object's code with `enter_turn` and `commit_turn`, so that the writes between two
//! awaits are one commit.

mod alarms;
mod authorizer;
mod backing;
mod birth;
mod codes;
mod costs;
mod cursor;
mod fault;
mod fulltext;
mod functions;
mod kv;
mod math;
mod meta;
mod meter;
mod open;
mod own;
mod pattern;
mod row;
mod sql;
pub(crate) mod text;
mod toggles;
mod transaction;
mod value;
mod vfs;
mod watch;

use std::cell::{Cell, RefCell};
use std::panic::resume_unwind;
use std::rc::Rc;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode};

pub(crate) use self::alarms::Alarms;
pub(crate) use self::backing::{Attached, Backing, Room};
pub use self::cursor::Cursor;
pub(crate) use self::fault::failed;
pub use self::kv::{Entry, Kv, Lower, Range};
pub(crate) use self::meta::Remembered;
pub use self::meta::{Meta, Schema};
pub(crate) use self::open::leave_to_journal;
pub use self::open::{Settings, configure_process, memory_used};
pub(crate) use self::own::Register;
pub use self::own::{Extension, SqlFunctions};
pub use self::row::Row;
pub use self::sql::Sql;
pub(crate) use self::transaction::HeldTransaction;
pub use self::value::{Bindings, SqlValue};
pub use self::vfs::Vfs;
pub use self::watch::Deadline;

use self::authorizer::{Gate, ours};
use self::birth::Birth;
use self::cursor::Cursors;
use self::toggles::Toggled;
use self::transaction::Level;
use self::watch::Watch;
use crate::{
    Error, Result,
    folder::DatabaseId,
    journal::{Failures, Lsn},
};

/// The database of one object. Clones are handles to the same one.
///
/// After the instance has ended, or once the storage is [broken](Storage::broken), every operation
/// through any handle, transaction or cursor fails.
#[derive(Clone)]
pub struct Storage(Rc<Inner>);

type OnCommit = Rc<dyn Fn(Lsn)>;

type BeforeAlarms = Rc<dyn Fn(Option<i64>) -> Result<()>>;

type BeforeBirth = Rc<dyn Fn() -> Result<()>>;

struct Inner {
    connection: RefCell<Option<Rc<Attached>>>,
    gate: Gate,
    watch: Watch,
    settings: Settings,
    cursors: Cursors,
    toggled: Toggled,
    broken: RefCell<Option<Error>>,
    /// The error of the statement that broke it, if the call that ran it did wrong.
    cause: RefCell<Option<Error>>,
    on_commit: RefCell<Option<OnCommit>>,
    before_alarms: RefCell<Option<BeforeAlarms>>,
    before_birth: RefCell<Option<BeforeBirth>>,
    birth: Cell<Birth>,
    /// Whether the object's code is being polled.
    in_turn: Cell<bool>,
    /// Whether a transaction is open, implicit or held.
    open: Cell<bool>,
    /// Whether the open transaction has writes that a caller was told succeeded.
    dirty: Cell<bool>,
    /// Whether one of these is to be durable before anything is said of it.
    confirmed: Cell<bool>,
    /// Whether the open transaction is the first of a database that replaces what there was.
    replaced: Cell<bool>,
    /// Whether pairs are being written that nothing waits for.
    unconfirmed: Cell<bool>,
    /// Explicit transactions, outermost first.
    levels: RefCell<Vec<Level>>,
    next_level: Cell<u64>,
    /// Whether our functions are in place of SQLite's.
    functions_ready: Cell<bool>,
    /// What adds the functions of the object's class.
    register: Cell<Option<Register>>,
    /// How often the journal had failed before anything was looked at that the next commit is built on:
    /// when the turn began, or what is written outside of one.
    failures: Cell<Failures>,
    /// Whether `_vw_kv` is known to be there.
    kv_ready: Cell<bool>,
    alarms: alarms::State,
}

impl Storage {
    /// Opens a database, which is made when something is written to it. `storage-failed` when it
    /// cannot be read or another process has it open, `storage-damaged` when it is no whole database. Nobody else may have it open.
    pub fn open(vfs: &Rc<Vfs>, id: DatabaseId, settings: &Settings) -> Result<Storage> {
        let backing = Rc::new(Backing::open(vfs, id)?);
        let gate = Gate::default();
        let opened = open::open(backing, settings, &gate)
            .map_err(|error| fault::failed("the database of the object does not open: ", &error))?;
        Ok(Storage(Rc::new(Inner {
            connection: RefCell::new(Some(Rc::new(opened))),
            gate,
            watch: Watch::new(settings),
            settings: settings.clone(),
            cursors: Cursors::default(),
            toggled: Toggled::default(),
            broken: RefCell::default(),
            cause: RefCell::default(),
            on_commit: RefCell::default(),
            before_alarms: RefCell::default(),
            before_birth: RefCell::default(),
            birth: Cell::default(),
            in_turn: Cell::default(),
            open: Cell::default(),
            dirty: Cell::default(),
            confirmed: Cell::default(),
            replaced: Cell::default(),
            unconfirmed: Cell::default(),
            levels: RefCell::default(),
            next_level: Cell::default(),
            functions_ready: Cell::default(),
            register: Cell::default(),
            failures: Cell::default(),
            kv_ready: Cell::default(),
            alarms: alarms::State::default(),
        })))
    }

    /// The key-value pairs.
    pub fn kv(&self) -> Kv {
        Kv::new(self.clone(), None)
    }

    /// SQL on the same database.
    pub fn sql(&self) -> Sql {
        Sql::new(self.clone(), None)
    }

    /// Gives the SQL of each call this time, as the object's class says.
    pub fn limit_statements(&self, limit: Duration) {
        self.0.watch.set_limit(limit);
    }

    /// Gives SQL the functions that the object's class adds, from its first statement on.
    pub(crate) fn register_functions(&self, register: Register) {
        self.0.register.set(Some(register));
    }

    /// Gives the object's migrations this time, all SQL until what is returned is dropped.
    pub fn migrate_until(&self, limit: Duration) -> Deadline {
        self.0.watch.start_migration(limit)
    }

    /// What the vat itself remembers about the object.
    pub fn meta(&self) -> Meta {
        Meta::new(self.clone())
    }

    /// Undoes what is not committed, and closes the database. Cursors, transactions and other handles
    /// answer `object-reset` from now on. Closing twice is harmless. `storage-failed` when SQLite cannot
    /// close it: nothing is lost.
    pub(crate) fn close(&self) -> Result<()> {
        let Some(connection) = self.0.connection.borrow_mut().take() else {
            return Ok(());
        };
        self.0
            .cursors
            .end_all(&Error::ObjectReset(fault::GONE.into()));
        self.0.on_commit.take();
        self.0.before_alarms.take();
        self.0.before_birth.take();
        // Nobody needs a connection to what there was before.
        self.0.replaced.set(false);
        self.0.undo(&connection);
        connection.flush_prepared_statement_cache();
        // The cursors were the only other owners.
        if let Some(connection) = Rc::into_inner(connection) {
            connection
                .close()
                .map_err(|error| fault::failed("", &error))?;
        }
        Ok(())
    }

    /// Whether so much of the object is not durable that its next turn should wait until that is.
    pub(crate) fn is_ahead(&self) -> bool {
        /// The most pages of commits that are undecided, so that one object does not fill the queue.
        const MOST_UNDECIDED: u64 = 1024;
        let live = self.0.live();
        live.is_ok_and(|connection| connection.backing.undecided_pages() > MOST_UNDECIDED)
    }

    /// Whether anything was ever written to it, as far as it can be seen without reading it.
    pub(crate) fn exists(&self) -> bool {
        self.0
            .live()
            .is_ok_and(|connection| connection.backing.exists())
    }

    /// The newest commit, of an earlier instance too unless it is long durable.
    pub(crate) fn newest(&self) -> Lsn {
        self.0
            .live()
            .map_or(Lsn::default(), |connection| connection.backing.newest())
    }

    /// How often the journal had failed when the turn at hand began.
    pub(crate) fn failures(&self) -> Failures {
        self.0.failures.get()
    }

    /// Begins a turn: from now until [`Storage::commit_turn`] or [`Storage::rollback_turn`] writes
    /// are one commit.
    pub(crate) fn enter_turn(&self) {
        self.0.in_turn.set(true);
        self.0.note_failures();
    }

    /// Ends a turn and commits its writes; the position of the commit if there were any. While a held
    /// transaction is open, and before an object that does not exist has written, nothing is committed. An error
    /// means that the turn's writes are undone and the storage is [broken](Storage::broken).
    pub(crate) fn commit_turn(&self) -> Result<Option<Lsn>> {
        self.0.in_turn.set(false);
        let connection = self.0.live()?;
        if !self.0.levels.borrow().is_empty() {
            return Ok(None);
        }
        self.0.commit(&connection)
    }

    /// Whether the turn has written what is not committed yet. What a held transaction has written
    /// does not count: its holder may see it.
    pub(crate) fn is_dirty(&self) -> bool {
        let inner = &self.0;
        let unconfirmed = inner.dirty.get() && !inner.confirmed.get();
        inner.open.get() && !inner.is_held() && !unconfirmed && !inner.is_held_back()
    }

    /// The earliest alarm as of the newest commit, if that may have changed since this was last asked;
    /// `Some(None)`: none is set.
    pub(crate) fn take_alarm_change(&self) -> Option<Option<i64>> {
        self.0.alarms.take_committed()
    }

    /// Whether anything is to wait for the newest commit.
    pub(crate) fn was_confirmed(&self) -> bool {
        self.0.confirmed.get()
    }

    /// Writes pairs that nothing waits for: results and calls may leave before they are on disk, and
    /// a loss of power may undo what callers were told of. If the turn writes anything else, that and
    /// these are one commit, which everything waits for.
    pub fn allow_unconfirmed<T>(&self, write: impl FnOnce(&Storage) -> T) -> T {
        let outer = self.0.unconfirmed.replace(true);
        let written = write(self);
        self.0.unconfirmed.set(outer);
        written
    }

    /// Ends a turn and undoes its writes, and with them any transaction that is open.
    pub(crate) fn rollback_turn(&self) {
        self.0.in_turn.set(false);
        if let Ok(connection) = self.0.live() {
            self.0.undo(&connection);
        }
    }

    /// Calls `hook` after every commit that [`Storage::commit_turn`] does not report: of a write
    /// outside any turn, of a held transaction, and of what a turn had written before it began one.
    pub(crate) fn on_commit(&self, hook: impl Fn(Lsn) + 'static) {
        if self.0.connection.borrow().is_some() {
            self.0.on_commit.replace(Some(Rc::new(hook)));
        }
    }

    /// Calls `hook` with the earliest alarm, or none, before every commit that changes it. If it fails
    /// the commit does.
    pub(crate) fn before_alarms(&self, hook: impl Fn(Option<i64>) -> Result<()> + 'static) {
        if self.0.connection.borrow().is_some() {
            self.0.before_alarms.replace(Some(Rc::new(hook)));
        }
    }

    /// Why the storage can no longer be used, if so. It latches at the first error that lost
    /// writes: a full or failing disk, exhausted memory, a corrupt file, a violated deferred
    /// constraint at a commit, or a statement that undid more than itself. What was committed
    /// before is kept; open the database anew.
    pub fn broken(&self) -> Option<Error> {
        self.0.broken.borrow().clone()
    }

    /// Why the turn that broke the storage failed, if it was its own doing: a statement that ran too
    /// long, for one. For the caller of that turn; all others are told [`Storage::broken`]. Answers
    /// once.
    pub(crate) fn take_cause(&self) -> Option<Error> {
        self.0.cause.take()
    }

    /// Removes every key, alarm, table, view, index and trigger in one step; what the vat itself
    /// remembers stays. Open cursors answer `closed`. `invalid-argument` inside a transaction. Costs the
    /// same however much there was. The file gives its room back when the commit leaves the journal.
    pub fn delete_all(&self) -> Result<()> {
        let inner = &self.0;
        let remembered = self.operate(None, |connection| {
            if !inner.levels.borrow().is_empty() {
                return Err(Error::InvalidArgument(
                    "delete_all is not available inside a transaction".into(),
                ));
            }
            let closed = Error::Closed("the storage was deleted");
            inner.cursors.end_all(&closed);
            meta::rows(inner, connection)
        })?;
        inner.replace()?;
        self.operate(None, |connection| {
            meta::restore(inner, connection, &remembered)
                .map_err(|error| inner.latch(connection, error))?;
            inner.alarms.change();
            inner.wrote(true);
            Ok(())
        })
    }

    /// The size of the database in bytes, free pages not counted. Counts what is not committed yet.
    pub fn database_size(&self) -> Result<u64> {
        self.operate(None, |connection| {
            let _trusted = self.0.gate.trust();
            let size = || {
                let pragma = |name| connection.pragma_query_value(None, name, |row| row.get(0));
                let pages: i64 = pragma("page_count")?;
                let free: i64 = pragma("freelist_count")?;
                let bytes: i64 = pragma("page_size")?;
                Ok((pages - free) * bytes)
            };
            let size = size().map_err(|error| self.0.judge(connection, &error))?;
            Ok(u64::try_from(size).unwrap_or(0))
        })
    }

    /// The room that the database takes after its newest commit, without asking SQLite.
    pub(crate) fn room(&self) -> Result<Room> {
        let room = self.0.live()?.backing.room();
        room.map_err(|error| Error::StorageFailed(format!("reading a database: {error}")))
    }

    /// Takes free pages from the end of the database, as a write of the turn: so many at most, and none
    /// after `limit`. SQLite moves what is in use there into pages that are free.
    pub(crate) fn give_back(&self, most_pages: u32, limit: Duration) -> Result<()> {
        let begun = meter::clock();
        let limit = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
        self.write(None, |connection| {
            let _trusted = self.0.gate.trust();
            let vacuum = || {
                let pragma = format!("PRAGMA incremental_vacuum({most_pages})");
                let mut statement = connection.prepare(&pragma)?;
                let mut steps = statement.raw_query();
                // A page each.
                while steps.next()?.is_some() && meter::clock() - begun < limit {}
                Ok(())
            };
            vacuum().map_err(|error| self.0.judge(connection, &error))
        })
    }

    /// Runs an operation that may write; outside any turn it is a turn of its own.
    fn operate<T>(
        &self,
        scope: Option<u64>,
        operation: impl FnOnce(&Rc<Attached>) -> Result<T>,
    ) -> Result<T> {
        let (result, wrote) = {
            let connection = self.0.live()?;
            self.0.check_scope(scope)?;
            let result = operation(&connection);
            (result, self.0.settle(&connection))
        };
        // Before the hook, for it may close the storage.
        let result = match (&wrote, result) {
            (Err(error), Ok(_)) => Err(error.clone()),
            (_, result) => result,
        };
        if let Ok(Some(lsn)) = wrote {
            self.notify(lsn);
        }
        result
    }

    /// Runs an operation that writes for certain.
    fn write<T>(
        &self,
        scope: Option<u64>,
        operation: impl FnOnce(&Connection) -> Result<T>,
    ) -> Result<T> {
        self.operate(scope, |connection| {
            self.0.begin(connection)?;
            let value = operation(connection)?;
            self.0.wrote(!self.0.unconfirmed.get());
            Ok(value)
        })
    }

    fn notify(&self, lsn: Lsn) {
        let hook = self.0.on_commit.borrow().clone();
        if let Some(hook) = hook {
            hook(lsn);
        }
    }
}

impl Inner {
    /// The connection, if operations may still use it.
    fn live(&self) -> Result<Rc<Attached>> {
        match (&*self.connection.borrow(), &*self.broken.borrow()) {
            (None, _) => Err(Error::ObjectReset(fault::GONE.into())),
            (_, Some(broken)) => Err(broken.clone()),
            (Some(connection), None) => Ok(connection.clone()),
        }
    }

    /// What is looked at from now on, the next commit may be built on.
    fn note_failures(&self) {
        if let Ok(connection) = self.live() {
            self.failures.set(connection.backing.failures());
        }
    }

    /// Opens the implicit transaction if none is open.
    fn begin(&self, connection: &Connection) -> Result<()> {
        if !self.open.get() {
            if !self.in_turn.get() {
                self.note_failures();
            }
            self.run(connection, ours!("BEGIN"))?;
            self.open.set(true);
            self.dirty.set(false);
            self.confirmed.set(false);
            self.alarms.begin();
        }
        Ok(())
    }

    /// What is open has a write.
    fn wrote(&self, confirmed: bool) {
        self.dirty.set(true);
        self.confirmed.set(self.confirmed.get() || confirmed);
    }

    /// Commits the implicit transaction if no turn is going on.
    fn settle(&self, connection: &Attached) -> Result<Option<Lsn>> {
        if self.in_turn.get() || !self.levels.borrow().is_empty() || !self.open.get() {
            return Ok(None);
        }
        self.commit(connection)
    }

    /// Commits what is open; where, if it wrote. An error leaves nothing of it and breaks the
    /// storage.
    fn commit(&self, connection: &Attached) -> Result<Option<Lsn>> {
        if !self.open.get() {
            return Ok(None);
        }
        if self.is_held_back() {
            return self.stay_unborn(connection).map(|()| None);
        }
        let wrote = self.dirty.get();
        self.check_journal(connection)?;
        let alarms = self.tell_of_alarms(connection)?;
        self.end_transaction(connection).map_err(|error| {
            self.latch(connection, commit_error("the object was reset", &error))
        })?;
        let lsn = self.give_to_journal(connection)?;
        self.alarms.committed(alarms);
        // What was undone before leaves pages that are as they were.
        Ok(lsn.filter(|_| wrote))
    }

    /// If the commit that is about to be made may change the earliest alarm: tells of it before.
    fn tell_of_alarms(&self, connection: &Connection) -> Result<Option<Option<i64>>> {
        if !self.alarms.take_change() {
            return Ok(None);
        }
        let due_ms = {
            let _trusted = self.gate.trust();
            alarms::next_due(connection).map_err(|error| self.judge(connection, &error))?
        };
        let hook = self.before_alarms.borrow().clone();
        hook.map_or(Ok(()), |hook| hook(due_ms))
            .map_err(|error| self.latch(connection, error))?;
        Ok(Some(due_ms))
    }

    /// Refuses to commit what could not become durable, and breaks the storage.
    fn check_journal(&self, connection: &Attached) -> Result<()> {
        if !self.dirty.get() {
            return Ok(());
        }
        connection
            .backing
            .check_commit()
            .map_err(|error| self.latch(connection, error))
    }

    /// Has SQLite commit what is open. After an error it is still open.
    fn end_transaction(&self, connection: &Connection) -> rusqlite::Result<()> {
        let _trusted = self.gate.trust();
        authorizer::cached(connection, ours!("COMMIT"))?.execute([])?;
        self.open.set(false);
        self.dirty.set(false);
        self.replaced.set(false);
        Ok(())
    }

    /// Rolls back whatever is open, explicit transactions included, and with it an object that does not
    /// exist yet.
    fn undo(&self, connection: &Connection) {
        self.undo_birth();
        self.roll_back(connection);
    }

    fn roll_back(&self, connection: &Connection) {
        self.levels.borrow_mut().clear();
        if self.open.replace(false) {
            self.alarms.undo();
        }
        self.dirty.set(false);
        self.kv_ready.set(false);
        if !connection.is_autocommit() {
            let _trusted = self.gate.trust();
            // It fails only where SQLite has rolled back already.
            let _ = connection.execute_batch("ROLLBACK");
        }
        if self.replaced.take() && self.broken.borrow().is_none() {
            self.connect_anew();
        }
    }

    /// Begins an empty database in place of what there is, what is not committed included, with a
    /// connection of its own, and opens the transaction that makes it so.
    fn replace(&self) -> Result<()> {
        let old = self.live()?;
        self.roll_back(&old);
        old.backing.replace();
        self.connect_anew();
        let connection = self.live()?;
        self.replaced.set(true);
        // A write, whatever comes: SQLite commits nothing else.
        self.begin(&connection)
            .and_then(|()| self.run_once(&connection, "PRAGMA user_version = 0"))
            .map_err(|error| self.latch(&connection, error))
    }

    /// Has a new connection in place of the old one, which does not know what the database is now. If that
    /// fails the storage is broken.
    fn connect_anew(&self) {
        let Some(old) = self.connection.borrow_mut().take() else {
            return;
        };
        self.functions_ready.set(false);
        self.kv_ready.set(false);
        let anew = open::open(old.backing.clone(), &self.settings, &self.gate);
        let anew = anew.map(Rc::new).unwrap_or_else(|error| {
            let error = fault::failed("the database of the object does not open anew: ", &error);
            self.broken.borrow_mut().get_or_insert(error);
            old
        });
        self.connection.replace(Some(anew));
    }

    /// Makes every later operation fail with `error`, and returns it.
    fn latch(&self, connection: &Connection, error: Error) -> Error {
        let error = self.broken.borrow_mut().get_or_insert(error).clone();
        self.undo(connection);
        error
    }

    /// The error of a statement that does not compile: nothing has been done yet.
    fn judge_compile(&self, connection: &Connection, error: &rusqlite::Error) -> Error {
        let is_out_of_memory = error.sqlite_error_code() == Some(ErrorCode::OutOfMemory);
        if let Some(refused) = self.watch.take_refusal() {
            return refused;
        }
        if is_out_of_memory && !open::is_memory_scarce() {
            // What SQLite says of a program that is too long.
            return Error::SqlLimit {
                what: "the program of a statement (instructions)",
                limit: open::MAX_INSTRUCTIONS.into(),
                key: "a constant",
            };
        }
        self.judge(connection, error)
    }

    /// The error of a statement that failed while it ran, and could handle values up to `most_bytes`.
    fn judge_step(
        &self,
        connection: &Connection,
        error: &rusqlite::Error,
        most_bytes: Option<i32>,
    ) -> Error {
        let answer = self.judge(connection, error);
        match (error.sqlite_error_code(), most_bytes) {
            (Some(ErrorCode::TooBig), Some(most)) => Error::SqlLimit {
                what: "a value in a statement as long as this (bytes)",
                limit: u64::try_from(most).unwrap_or(0),
                key: "4 MiB, and less for more than some 250 instructions",
            },
            _ => answer,
        }
    }

    /// The error of a failed statement, once its effect on the open transaction is known.
    ///
    /// # Panics
    ///
    /// If a function of the class did, in the statement: the panic goes on.
    fn judge(&self, connection: &Connection, error: &rusqlite::Error) -> Error {
        if let Some(panic) = self.gate.panicked().take() {
            resume_unwind(panic);
        }
        let refused = self.watch.take_refusal();
        let is_refused = refused.is_some()
            && matches!(
                error.sqlite_error_code(),
                Some(ErrorCode::OutOfMemory | ErrorCode::SystemIoFailure)
            );
        let answer = match (
            refused,
            fault::convert(error, self.settings.max_database_bytes),
            self.gate.take_hint(),
        ) {
            (Some(refused), ..) => refused,
            // A function that is refused is a plain error to SQLite.
            (None, Error::SqlRefused(text) | Error::SqlFailed(text), Some(hint)) => {
                Error::SqlRefused(format!("{text}: {hint}"))
            }
            (None, Error::SqlFailed(text), None) if fault::is_locked(error) => {
                Error::SqlFailed(self.name_holders(text))
            }
            (None, other, _) => other,
        };
        if fault::is_critical(error) && !is_refused {
            return self.latch(connection, answer);
        }
        if self.open.get() && connection.is_autocommit() {
            // SQLite rolled back everything, not only the statement.
            if self.dirty.get() || !self.levels.borrow().is_empty() || self.holds_object() {
                let reset = format!("a failed statement undid the writes before it: {answer}");
                if self.broken.borrow().is_none() {
                    self.cause.replace(Some(answer.clone()));
                }
                self.latch(connection, Error::ObjectReset(reset));
            } else {
                self.undo(connection);
            }
        }
        answer
    }

    /// The text of an error because something is being read, with what reads it.
    fn name_holders(&self, text: String) -> String {
        match self.cursors.holders() {
            Some(holders) => format!(
                "{text}: an open cursor holds it, of {holders}: read it to its end, or drop it, first"
            ),
            None => text,
        }
    }

    /// Runs one statement, marked as [`ours`], that returns no rows.
    fn run(&self, connection: &Connection, sql: &str) -> Result<()> {
        let _trusted = self.gate.trust();
        authorizer::cached(connection, sql)
            .and_then(|mut statement| statement.execute([]))
            .map(drop)
            .map_err(|error| self.judge(connection, &error))
    }

    /// Runs statements of ours that are not worth keeping prepared.
    fn run_once(&self, connection: &Connection, sql: &str) -> Result<()> {
        let _trusted = self.gate.trust();
        connection
            .execute_batch(sql)
            .map_err(|error| self.judge(connection, &error))
    }
}

/// The error of a commit that did not happen.
fn commit_error(what: &str, error: &rusqlite::Error) -> Error {
    match error.sqlite_error_code() {
        Some(ErrorCode::ConstraintViolation) => Error::InstanceFailed(format!(
            "{what} and rolled back to its last good state because constraints were violated: {}",
            fault::text(error)
        )),
        _ => fault::failed("", error),
    }
}

#[cfg(test)]
mod simulation;

#[cfg(test)]
pub(crate) mod testing;

#[cfg(test)]
mod tests;
