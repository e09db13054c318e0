//! The rows of one statement, read as they are asked for.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::{Rc, Weak};

use rusqlite::limits::Limit;
use rusqlite::{CachedStatement, Connection, Statement, StatementStatus};
use self_cell::self_cell;
use serde::de::DeserializeOwned;

use super::watch::{Deadline, Held, Phase, Watch};
use super::{Attached, Row, SqlValue, Storage};
use crate::{Error, Result};

self_cell!(
    /// A statement with the connection it needs.
    pub(super) struct Prepared {
        owner: Rc<Attached>,

        #[covariant]
        dependent: Running,
    }
);

/// A statement that may be part of the way through its rows.
pub(super) struct Running<'c> {
    statement: Source<'c>,
    /// Whether it needs a transaction.
    pub(super) writes: bool,
    /// Whether it may change the schema in a way that must be looked at afterwards.
    pub(super) guarded: bool,
    /// Whether it changes the schema.
    pub(super) schema: bool,
    /// Whether it only sets what ends with the exec.
    pub(super) sets_for_nobody: bool,
    /// Whether it may go back to the cache.
    pub(super) keep: bool,
    /// The largest value it may handle, in bytes, if that is less than others may.
    pub(super) most_bytes: Option<i32>,
    /// The memory it holds: with it, what it sorts and gathers.
    held: Held,
}

enum Source<'c> {
    Cached(CachedStatement<'c>),
    Plain(Statement<'c>),
    Taken,
}

impl<'c> Source<'c> {
    fn get(&self) -> &Statement<'c> {
        match self {
            Source::Cached(statement) => statement,
            Source::Plain(statement) => statement,
            Source::Taken => unreachable!("it is taken only when dropped"),
        }
    }

    fn get_mut(&mut self) -> &mut Statement<'c> {
        match self {
            Source::Cached(statement) => statement,
            Source::Plain(statement) => statement,
            Source::Taken => unreachable!("it is taken only when dropped"),
        }
    }
}

impl<'c> Running<'c> {
    pub(super) fn cached(statement: CachedStatement<'c>, held: Held) -> Running<'c> {
        Running::new(Source::Cached(statement), held)
    }

    pub(super) fn plain(statement: Statement<'c>, held: Held) -> Running<'c> {
        Running::new(Source::Plain(statement), held)
    }

    fn new(statement: Source<'c>, held: Held) -> Running<'c> {
        let running = Running {
            statement,
            writes: false,
            guarded: false,
            schema: false,
            sets_for_nobody: false,
            keep: true,
            most_bytes: None,
            held,
        };
        // A statement from the cache has counted before.
        running
            .statement()
            .reset_status(StatementStatus::FullscanStep);
        running
    }

    pub(super) fn statement(&self) -> &Statement<'c> {
        self.statement.get()
    }

    fn statement_mut(&mut self) -> &mut Statement<'c> {
        self.statement.get_mut()
    }

    pub(super) fn bind(&mut self, values: &[SqlValue]) -> rusqlite::Result<()> {
        let statement = self.statement_mut();
        (1..)
            .zip(values)
            .try_for_each(|(at, value): (usize, _)| statement.raw_bind_parameter(at, value))
    }

    /// The next row. Not to be called again after an error or the end.
    pub(super) fn step(
        &mut self,
        connection: &Connection,
        watch: &Watch,
    ) -> rusqlite::Result<Option<Vec<SqlValue>>> {
        let usual = match self.most_bytes {
            Some(most) => {
                let usual = connection.limit(Limit::SQLITE_LIMIT_LENGTH)?;
                connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, most)?;
                Some(usual)
            }
            None => None,
        };
        let statement = self.statement.get_mut();
        let columns = statement.column_count();
        let mut rows = statement.raw_query();
        let step = watch.run(Phase::Run, &mut self.held, || rows.next());
        if let Some(usual) = usual {
            connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, usual)?;
        }
        let row = match step {
            Ok(Some(row)) => {
                // The schema may have changed under a statement that was compiled before.
                let columns = row.as_ref().column_count().max(columns);
                let mut values = Vec::with_capacity(columns);
                while let Ok(value) = row.get_ref(values.len()) {
                    values.push(SqlValue::from(value));
                }
                Ok(Some(values))
            }
            Ok(None) => Ok(None),
            Err(error) => Err(error),
        };
        // Dropping it would start the statement over.
        std::mem::forget(rows);
        row
    }

    /// Ends it before its last row. What it has written stays.
    pub(super) fn reset(&mut self) {
        drop(self.statement_mut().raw_query());
    }

    fn columns(&self) -> Rc<[String]> {
        self.statement().column_names().map(str::to_owned).collect()
    }

    /// Rows that full scans went over, so far.
    fn scanned(&self) -> u64 {
        let steps = self.statement().get_status(StatementStatus::FullscanStep);
        // SQLite counts the steps from one row to the next.
        u64::try_from(steps).map_or(0, |steps| if steps == 0 { 0 } else { steps + 1 })
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        // Starts it over, for the cache does not.
        self.reset();
        if let Source::Cached(statement) = std::mem::replace(&mut self.statement, Source::Taken)
            && !self.keep
        {
            statement.discard();
        }
    }
}

/// The rows of one statement, read as they are asked for.
///
/// As an iterator it ends after an error. A cursor may outlive the [`Sql`](super::Sql) it came from,
/// and the storage: after that it answers `object-reset`. Rows written to a table that a cursor is
/// reading may or may not be seen by it.
pub struct Cursor {
    storage: Storage,
    scope: Option<u64>,
    columns: Rc<[String]>,
    state: Rc<RefCell<State>>,
    failed: bool,
    rows_returned: u64,
    rows_scanned: u64,
    rows_written: u64,
}

struct State {
    /// Rows that were read ahead.
    ready: VecDeque<Vec<SqlValue>>,
    source: Rows,
    scope: Option<u64>,
    /// The start of the statement, if it is not at its end.
    text: String,
}

enum Rows {
    /// There may be more.
    Open(Prepared),
    /// There are no more.
    Done,
    /// Something else ended it.
    Ended(Error),
}

impl Cursor {
    pub(super) fn new(
        storage: &Storage,
        scope: Option<u64>,
        (statement, prepared): (&str, Prepared),
        ready: Vec<Vec<SqlValue>>,
        more: bool,
        rows_written: u64,
    ) -> Cursor {
        let columns = prepared.borrow_dependent().columns();
        let rows_scanned = prepared.borrow_dependent().scanned();
        let rows_returned = ready.len() as u64;
        let state = Rc::new(RefCell::new(State {
            ready: ready.into(),
            source: if more {
                Rows::Open(prepared)
            } else {
                Rows::Done
            },
            scope,
            text: start_of(statement, more),
        }));
        storage.0.cursors.add(&state);
        Cursor {
            storage: storage.clone(),
            scope,
            columns,
            state,
            failed: false,
            rows_returned,
            rows_scanned,
            rows_written,
        }
    }

    /// The names of the columns, as SQLite gives them; several may be equal. Valid after the end
    /// too.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// The next row, or none at the end. `closed` when the transaction it was opened in has ended or
    /// everything was deleted; `limit-exceeded` when the next row takes too long to find, which is
    /// the end.
    pub fn next_row(&mut self) -> Result<Option<Row>> {
        let values = self.next_values()?;
        Ok(values.map(|values| Row::new(self.columns.clone(), values)))
    }

    /// Ends it: from now on it answers `error`, unless it is at its end.
    pub(crate) fn end(&mut self, error: Error) {
        end_state(&mut self.state.borrow_mut(), error);
    }

    /// Whether there are, or may be, rows to be read.
    pub(crate) fn is_open(&self) -> bool {
        let state = self.state.borrow();
        !state.ready.is_empty() || matches!(state.source, Rows::Open(_))
    }

    /// While the result lives, all the rows that are read have together no more time than one.
    pub fn deadline(&self) -> Deadline {
        self.storage.0.watch.start()
    }

    fn next_values(&mut self) -> Result<Option<Vec<SqlValue>>> {
        let inner = &self.storage.0;
        let connection = inner.live()?;
        let mut state = self.state.borrow_mut();
        if let Rows::Ended(error) = &state.source {
            return Err(error.clone());
        }
        if let Some(values) = state.ready.pop_front() {
            inner.check_scope(self.scope)?;
            return Ok(Some(values));
        }
        let Rows::Open(prepared) = &mut state.source else {
            return Ok(None);
        };
        inner.check_scope(self.scope)?;
        if let Err(error) = inner.watch.check() {
            state.source = Rows::Ended(error.clone());
            return Err(error);
        }
        let step =
            prepared.with_dependent_mut(|_, running| running.step(&connection, &inner.watch));
        self.rows_scanned = prepared.borrow_dependent().scanned();
        match step {
            Ok(Some(values)) => {
                self.rows_returned += 1;
                Ok(Some(values))
            }
            Ok(None) => {
                state.source = Rows::Done;
                Ok(None)
            }
            Err(error) => {
                // Whatever this does to the transaction is done before the statement goes.
                let most_bytes = prepared.borrow_dependent().most_bytes;
                let error = inner.judge_step(&connection, &error, most_bytes);
                state.source = Rows::Ended(error.clone());
                Err(error)
            }
        }
    }

    /// The only row. `invalid-argument` when there is none or more than one.
    pub fn one(mut self) -> Result<Row> {
        let row = self.next_row()?.ok_or_else(|| {
            Error::InvalidArgument("expected exactly one row, and there is none".into())
        })?;
        match self.next_row()? {
            None => Ok(row),
            Some(_) => Err(Error::InvalidArgument(
                "expected exactly one row, and there are more".into(),
            )),
        }
    }

    /// The only row, as a `T`; see [`Row::decode`].
    pub fn one_as<T: DeserializeOwned>(self) -> Result<T> {
        self.one()?.decode()
    }

    /// All rows that are left, in memory.
    pub fn to_vec(&mut self) -> Result<Vec<Row>> {
        self.collect()
    }

    /// All rows that are left, each as a `T`; see [`Row::decode`].
    pub fn all<T: DeserializeOwned>(&mut self) -> Result<Vec<T>> {
        self.map(|row| row?.decode()).collect()
    }

    /// The rows that are left as plain values, those of columns with equal names too.
    pub fn raw(&mut self) -> impl Iterator<Item = Result<Vec<SqlValue>>> {
        self.map(|row| row.map(Row::into_values))
    }

    /// How many rows were read so far: those returned, or those that full scans of tables and
    /// indexes went over if these were more. An approximation: rows that an index lookup finds only
    /// to be filtered out or joined are not counted. The first row is read when the statement starts.
    pub fn rows_read(&self) -> u64 {
        self.rows_returned.max(self.rows_scanned)
    }

    /// How many rows were inserted, updated or deleted, those of triggers and foreign keys included;
    /// entries of indexes are not counted.
    pub fn rows_written(&self) -> u64 {
        self.rows_written
    }
}

impl Iterator for Cursor {
    type Item = Result<Row>;

    fn next(&mut self) -> Option<Result<Row>> {
        if self.failed {
            return None;
        }
        let row = self.next_row().transpose();
        self.failed = matches!(row, Some(Err(_)));
        row
    }
}

/// The cursors that are part of the way through their rows, so that they can be ended.
#[derive(Default)]
pub(super) struct Cursors(RefCell<Vec<Weak<RefCell<State>>>>);

impl Cursors {
    fn add(&self, state: &Rc<RefCell<State>>) {
        if matches!(state.borrow().source, Rows::Done) && state.borrow().ready.is_empty() {
            return;
        }
        let mut cursors = self.0.borrow_mut();
        // Before it grows, so that dropped cursors cost no more than live ones.
        if cursors.len() == cursors.capacity() {
            cursors.retain(|cursor| cursor.strong_count() > 0);
        }
        cursors.push(Rc::downgrade(state));
    }

    /// Ends every cursor that is not done.
    pub(super) fn end_all(&self, error: &Error) {
        self.end(error, |_| true);
        *self.0.borrow_mut() = Vec::new();
    }

    /// Ends the cursors that were opened in one of these transactions.
    pub(super) fn end_scopes(&self, scopes: &[u64], error: &Error) {
        self.end(error, |scope| scope.is_some_and(|id| scopes.contains(&id)));
    }

    fn end(&self, error: &Error, matches: impl Fn(Option<u64>) -> bool) {
        for cursor in self.0.borrow().iter().filter_map(Weak::upgrade) {
            let mut state = cursor.borrow_mut();
            if matches(state.scope) {
                end_state(&mut state, error.clone());
            }
        }
    }

    /// The statements of cursors that have not ended, in words, if there are any.
    pub(super) fn holders(&self) -> Option<String> {
        const NAMED: usize = 3;
        let cursors = self.0.borrow();
        let mut texts = Vec::new();
        for cursor in cursors.iter().filter_map(Weak::upgrade) {
            if let Ok(state) = cursor.try_borrow()
                && matches!(state.source, Rows::Open(_))
            {
                texts.push(format!("`{}`", state.text));
            }
        }
        let more = texts.len().saturating_sub(NAMED);
        texts.truncate(NAMED);
        if more > 0 {
            texts.push(format!("{more} more"));
        }
        (!texts.is_empty()).then(|| texts.join(", "))
    }

    /// How many cursors hold a statement that has not ended.
    pub(super) fn open(&self) -> u64 {
        let cursors = self.0.borrow();
        let live = cursors.iter().filter_map(Weak::upgrade);
        live.filter(|cursor| matches!(cursor.borrow().source, Rows::Open(_)))
            .count() as u64
    }
}

/// What names a statement, if it is to be named.
fn start_of(statement: &str, named: bool) -> String {
    const CHARACTERS: usize = 100;
    if !named {
        return String::new();
    }
    let end = statement.char_indices().nth(CHARACTERS);
    end.map_or_else(
        || statement.to_owned(),
        |(end, _)| format!("{}...", &statement[..end]),
    )
}

fn end_state(state: &mut State, error: Error) {
    let done = matches!(state.source, Rows::Done) && state.ready.is_empty();
    if !done {
        state.ready.clear();
        state.source = Rows::Ended(error);
    }
}
