//! SQL from the object's code or a caller.

use std::rc::Rc;

use rusqlite::{Connection, Statement, StatementStatus};
use vatwerk::limit_capnp as limit;

use super::authorizer::{ONE_DATABASE, RESERVED, RESERVED_HINT, cached, ours};
use super::cursor::{Cursor, Prepared, Running};
use super::text::{skip_blank, split, starts_with_word};
use super::value::Bindings;
use super::watch::Phase;
use super::{Attached, Inner, SqlFunctions, SqlValue, Storage, functions, toggles, toggles::LOST};
use crate::{Error, Result};

/// A statement that is longer is compiled anew each time, in bytes: kept, it would take more memory
/// than it saves time.
const MAX_CACHED_BYTES: usize = 4096;

/// SQL on the database of an object, in SQLite's dialect.
///
/// `unhex` and `json_patch` refuse large arguments, and a statement whose program has more than some 250
/// instructions handles smaller values the longer it is: `limit-exceeded`. Refused are names that start with `_vw_`, transaction statements, attached and temporary
/// databases, and functions, pragmas and virtual tables that are not on a list.
pub struct Sql {
    storage: Storage,
    scope: Option<u64>,
}

impl Sql {
    pub(super) fn new(storage: Storage, scope: Option<u64>) -> Sql {
        Sql { storage, scope }
    }

    /// Runs every statement of `query` but the last to its end, and the last up to its first row;
    /// one that writes runs to its end, and its rows are kept in memory.
    ///
    /// `bindings` belong to the last statement, by position, and must be as many as it has
    /// parameters. They are one: if one of them fails, none has happened. Rows that are read later are
    /// not part of it.
    ///
    /// A pragma that turns something on or off (`foreign_keys`, `case_sensitive_like` and the like) is for
    /// the statements after it in the same `query`, and is set back at its end; `defer_foreign_keys` is for
    /// the rest of the transaction. After `foreign_keys = OFF` every key of the database must have its parent
    /// when `query` ends, or it fails.
    ///
    /// `invalid-argument` for no statement at all or a wrong number of bindings; `limit-exceeded`
    /// for text over [`Settings::text_bytes`](super::Settings::text_bytes), more than [`limit::MAX_SQL_BINDINGS`] bindings, a
    /// binding over [`limit::MAX_SQL_VALUE_BYTES`], or statements that run too long together or take too
    /// much memory;
    /// `sql-refused` and `sql-failed` where the authorizer or SQLite refuses.
    pub fn exec(&self, query: &str, bindings: impl Bindings) -> Result<Cursor> {
        let bindings = bindings.into_values();
        check(query, &bindings, self.storage.0.settings.text_bytes)?;
        let storage = &self.storage;
        storage.operate(self.scope, |connection| {
            let inner = &storage.0;
            inner.prepare_functions(connection)?;
            let _deadline = inner.watch.start();
            let script = skip_blank(query);
            if script.is_empty() {
                return Err(Error::InvalidArgument(
                    "SQL code did not contain a statement".into(),
                ));
            }
            let (first, tail) = split(script);
            let last = |statement: &str| inner.run_last(connection, statement, &bindings, self);
            let result = if skip_blank(tail).is_empty() {
                last(first)
            } else {
                inner.run_script(connection, script, last)
            };
            let restored = inner.restore_toggles(connection);
            result.and_then(|cursor| restored.map(|()| cursor))
        })
    }

    /// The size of the database in bytes, free pages not counted.
    pub fn database_size(&self) -> Result<u64> {
        self.storage.operate(self.scope, |_| Ok(()))?;
        self.storage.database_size()
    }
}

fn check(query: &str, bindings: &[SqlValue], most_text: u32) -> Result<()> {
    let most = |limit: u32| u64::from(limit);
    let query_bytes = query.len() as u64;
    Error::check_limit("SQL text (bytes)", most(most_text), query_bytes)?;
    if query.contains('\0') {
        return Err(Error::InvalidArgument("SQL text contains a NUL".into()));
    }
    let count = bindings.len() as u64;
    Error::check_limit("bindings", most(limit::MAX_SQL_BINDINGS), count)?;
    bindings.iter().try_for_each(|value| {
        let (limit, bytes) = (most(limit::MAX_SQL_VALUE_BYTES), value.len() as u64);
        Error::check_limit("a text or blob in SQL (bytes)", limit, bytes)
    })
}

/// What stands by while a statement runs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Guard {
    None,
    /// If it fails after the fact, it is undone.
    Undo,
    /// What it did to the schema is looked at.
    Look,
}

impl Running<'_> {
    fn guard(&self) -> Guard {
        if self.guarded {
            Guard::Look
        } else {
            Guard::None
        }
    }
}

/// The program of a statement that may handle values of any size that is allowed, in bytes: some 250
/// instructions. SQLite is not to be stopped within a row, where each of them may be run once on the
/// same value.
const FREE_PROGRAM_BYTES: i64 = 24 << 10;

/// The largest value that a statement may handle, in bytes, if its program is a large one: the two sizes
/// multiplied have a limit.
fn most_bytes(statement: &Statement<'_>) -> Option<i32> {
    let program = i64::from(statement.get_status(StatementStatus::MemUsed));
    let most = i64::from(limit::MAX_SQL_VALUE_BYTES);
    (program > FREE_PROGRAM_BYTES)
        .then(|| i32::try_from(most * FREE_PROGRAM_BYTES / program).unwrap_or(i32::MAX))
}

/// The complaint of a row of `PRAGMA foreign_key_check`.
fn orphan(row: &[SqlValue]) -> String {
    let text = |at| match row.get(at) {
        Some(SqlValue::Text(text)) => text.clone(),
        Some(SqlValue::Integer(number)) => number.to_string(),
        _ => "?".to_owned(),
    };
    format!(
        "FOREIGN KEY constraint failed: table `{}`, row {}, has no parent in `{}` after an exec with \
         `PRAGMA foreign_keys = OFF` (`PRAGMA foreign_key_check` lists such rows): all of it was undone",
        text(0),
        text(1),
        text(2),
    )
}

/// About how much memory a row takes.
fn size(row: &[SqlValue]) -> u64 {
    let values = std::mem::size_of_val(row) + row.iter().map(SqlValue::len).sum::<usize>();
    (values + std::mem::size_of::<Vec<SqlValue>>()) as u64
}

impl Inner {
    /// Runs several statements as one: all of them happen, or none.
    fn run_script<T>(
        &self,
        connection: &Rc<Attached>,
        script: &str,
        last: impl FnOnce(&str) -> Result<T>,
    ) -> Result<T> {
        self.begin(connection)?;
        let dirty = self.dirty.get();
        self.run(connection, ours!("SAVEPOINT _vw_exec"))?;
        let result = self.run_statements(connection, script, last);
        // It is not where SQLite has undone the transaction.
        if self.open.get() {
            if result.is_err() {
                self.run(connection, ours!("ROLLBACK TO _vw_exec"))?;
                self.dirty.set(dirty);
            }
            self.run(connection, ours!("RELEASE _vw_exec"))?;
        }
        result
    }

    fn run_statements<T>(
        &self,
        connection: &Rc<Attached>,
        script: &str,
        last: impl FnOnce(&str) -> Result<T>,
    ) -> Result<T> {
        let mut rest = script;
        loop {
            self.watch.check()?;
            let (statement, tail) = split(rest);
            rest = skip_blank(tail);
            if rest.is_empty() {
                let value = last(statement)?;
                self.check_keys(connection)?;
                return Ok(value);
            }
            let _statistics = self.gate.statistics(statement);
            let prepared = self.prepare(connection, statement, &[])?;
            self.run_to_end(connection, prepared)?;
        }
    }

    /// Runs the last statement of an exec up to its first row, or, if it writes, to its end.
    fn run_last(
        &self,
        connection: &Rc<Attached>,
        statement: &str,
        bindings: &[SqlValue],
        sql: &Sql,
    ) -> Result<Cursor> {
        let _statistics = self.gate.statistics(statement);
        let prepared = self.prepare(connection, statement, bindings)?;
        if prepared.borrow_dependent().sets_for_nobody {
            return Err(Error::SqlRefused(format!("not authorized: {LOST}")));
        }
        self.start(connection, (statement, prepared), sql)
    }

    /// Refuses what an exec has done without foreign keys if any has no parent now.
    fn check_keys(&self, connection: &Rc<Attached>) -> Result<()> {
        if !self.toggled.is_unchecked() {
            return Ok(());
        }
        let mut check = self.prepare(connection, "PRAGMA foreign_key_check", &[])?;
        match self.step(connection, &mut check)? {
            None => Ok(()),
            Some(row) => Err(Error::SqlFailed(orphan(&row))),
        }
    }

    /// Puts our functions in place of SQLite's, which an object without SQL does not need.
    fn prepare_functions(&self, connection: &Connection) -> Result<()> {
        if !self.functions_ready.get() {
            let _trusted = self.gate.trust();
            functions::install(connection).map_err(|error| self.judge(connection, &error))?;
            if let Some(register) = self.register.get() {
                register(&mut SqlFunctions::of(connection, &self.gate))?;
            }
            self.functions_ready.set(true);
        }
        Ok(())
    }

    fn prepare(
        &self,
        connection: &Rc<Attached>,
        sql: &str,
        bindings: &[SqlValue],
    ) -> Result<Prepared> {
        if starts_with_word(sql, "vacuum") {
            // SQLite asks the authorizer about its parts, and only once it is running.
            return Err(Error::SqlRefused(format!("not authorized: {ONE_DATABASE}")));
        }
        let is_pragma = starts_with_word(sql, "pragma") || starts_with_word(sql, "explain");
        let unresolved = is_pragma && toggles::is_unresolved(connection);
        self.gate.begin(self.cursors.open() > 0, unresolved);
        let mut held = self.watch.hold();
        let mut prepared = Prepared::try_new(connection.clone(), |connection| {
            if sql.len() <= MAX_CACHED_BYTES {
                let compile = || connection.prepare_cached(sql);
                let statement = self.watch.run(Phase::Prepare, &mut held, compile)?;
                Ok(Running::cached(statement, held))
            } else {
                let compile = || connection.prepare(sql);
                let statement = self.watch.run(Phase::Prepare, &mut held, compile)?;
                Ok(Running::plain(statement, held))
            }
        })
        .map_err(|error| self.judge_compile(connection, &error))?;
        let seen = self.gate.seen();
        prepared.with_dependent_mut(|_, running| {
            // A foreign key onto a table of ours has its name in the text.
            running.guarded = seen.alters
                || starts_with_word(sql, "create") && sql.to_ascii_lowercase().contains(RESERVED);
            running.schema = seen.schema;
            running.writes = seen.writes || !running.statement().readonly();
            running.keep = !seen.once;
            if seen.compiled {
                running.most_bytes = most_bytes(running.statement());
                // One from the cache is not measured again.
                running.keep &= running.most_bytes.is_none();
            }
            let expected = running.statement().parameter_count();
            if expected != bindings.len() {
                return Err(Error::InvalidArgument(format!(
                    "the statement takes {expected} bindings, and {} are for it",
                    bindings.len()
                )));
            }
            running
                .bind(bindings)
                .map_err(|error| self.judge(connection, &error))
        })?;
        if let Some((toggle, on)) = seen.toggle {
            self.toggle(connection, toggle, on)?;
            prepared.with_dependent_mut(|_, running| running.sets_for_nobody = toggle.is_lost(on));
        }
        Ok(prepared)
    }

    /// Runs a prepared statement up to its first row, or, if it writes, to its end.
    fn start(
        &self,
        connection: &Connection,
        (statement, mut prepared): (&str, Prepared),
        sql: &Sql,
    ) -> Result<Cursor> {
        let writes = prepared.borrow_dependent().writes;
        if writes {
            self.begin(connection)?;
        }
        let before = connection.total_changes();
        let mut rows = Vec::new();
        let mut more = true;
        let mut bytes = 0;
        let whole = writes || self.toggled.reads_whole();
        let (guard, returns) = {
            let running = prepared.borrow_dependent();
            (running.guard(), running.statement().column_count() > 0)
        };
        let guard = if writes && returns {
            guard.max(Guard::Undo)
        } else {
            guard
        };
        self.guarded(connection, guard, || {
            while more && (whole || rows.is_empty()) {
                match self.step(connection, &mut prepared)? {
                    Some(row) => {
                        bytes += size(&row);
                        rows.push(row);
                    }
                    None => more = false,
                }
                let most = limit::MAX_RETURNED_BYTES.into();
                let fits = if whole {
                    Error::check_limit(
                        "the rows of a statement that writes, or has `LIKE` as set (bytes)",
                        most,
                        bytes,
                    )
                } else {
                    Ok(())
                };
                // Savepoints cannot end while it runs.
                fits.inspect_err(|_| prepared.with_dependent_mut(|_, running| running.reset()))?;
            }
            if more {
                let most = limit::MAX_OPEN_CURSORS.into();
                Error::check_limit(
                    "the open cursors of an object",
                    most,
                    self.cursors.open() + 1,
                )?;
            }
            Ok(())
        })?;
        if writes {
            self.wrote(true);
        }
        self.forget_compiled(connection, &prepared);
        let written = connection.total_changes() - before;
        let source = (statement, prepared);
        Ok(Cursor::new(
            &sql.storage,
            sql.scope,
            source,
            rows,
            more,
            written,
        ))
    }

    fn run_to_end(&self, connection: &Connection, mut prepared: Prepared) -> Result<()> {
        let (writes, guard) = {
            let running = prepared.borrow_dependent();
            (running.writes, running.guard())
        };
        if writes {
            self.begin(connection)?;
        }
        self.guarded(connection, guard, || {
            while self.step(connection, &mut prepared)?.is_some() {}
            Ok(())
        })?;
        if writes {
            self.wrote(true);
        }
        self.forget_compiled(connection, &prepared);
        Ok(())
    }

    /// After a change of the schema: SQLite compiles statements that it has compiled before anew when
    /// they run next, which nobody would measure.
    fn forget_compiled(&self, connection: &Connection, prepared: &Prepared) {
        if prepared.borrow_dependent().schema {
            connection.flush_prepared_statement_cache();
        }
    }

    fn step(
        &self,
        connection: &Connection,
        prepared: &mut Prepared,
    ) -> Result<Option<Vec<SqlValue>>> {
        let step = |running: &mut Running<'_>| running.step(connection, &self.watch);
        let row = prepared.with_dependent_mut(|_, running| step(running));
        row.map_err(|error| {
            let most_bytes = prepared.borrow_dependent().most_bytes;
            self.judge_step(connection, &error, most_bytes)
        })
    }

    /// Runs a statement and undoes it if it fails; with [`Guard::Look`], also if it did what the authorizer is not
    /// shown: gave something a reserved name, or made a foreign key onto a table of ours, whose
    /// enforcement would be part of our own statements.
    fn guarded(
        &self,
        connection: &Connection,
        guard: Guard,
        statement: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        if guard == Guard::None {
            return statement();
        }
        let look = || match guard {
            Guard::Look => self.reserved_names(connection),
            _ => Ok(Vec::new()),
        };
        let before = look()?;
        self.run(connection, ours!("SAVEPOINT _vw_guard"))?;
        let result = statement().and_then(|()| {
            if guard < Guard::Look || look()? == before && !self.reaches_ours(connection)? {
                return Ok(());
            }
            Err(Error::SqlRefused(format!(
                "not authorized: {RESERVED_HINT}"
            )))
        });
        if self.open.get() {
            if result.is_err() {
                self.run(connection, ours!("ROLLBACK TO _vw_guard"))?;
            }
            self.run(connection, ours!("RELEASE _vw_guard"))?;
        }
        result
    }

    fn reserved_names(&self, connection: &Connection) -> Result<Vec<String>> {
        let _trusted = self.gate.trust();
        let read = || {
            cached(
                connection,
                ours!(
                    "SELECT name FROM sqlite_schema WHERE lower(substr(name, 1, ?1)) = ?2 \
                     ORDER BY name"
                ),
            )?
            .query_map((RESERVED.len() as i64, RESERVED), |row| row.get(0))?
            .collect::<rusqlite::Result<Vec<String>>>()
        };
        read().map_err(|error| self.judge(connection, &error))
    }

    /// Whether a foreign key of any table is onto one of ours.
    fn reaches_ours(&self, connection: &Connection) -> Result<bool> {
        let _trusted = self.gate.trust();
        let read = || {
            cached(
                connection,
                ours!(
                    "SELECT 1 FROM sqlite_schema AS t, pragma_foreign_key_list(t.name) AS f \
                     WHERE t.type = 'table' AND instr(lower(t.sql), ?2) \
                     AND lower(substr(f.\"table\", 1, ?1)) = ?2"
                ),
            )?
            .exists((RESERVED.len() as i64, RESERVED))
        };
        read().map_err(|error| self.judge(connection, &error))
    }
}

#[cfg(test)]
mod tests;
