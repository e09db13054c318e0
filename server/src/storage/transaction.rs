//! Transactions that the caller ends: closures in Rust, and held ones that last over turns.

use rusqlite::Connection;
use vatwerk::limit_capnp as limit;

use super::authorizer::ours;
use super::{Attached, Inner, Kv, Sql, Storage, commit_error, fault};
use crate::{Error, Result, journal::Lsn};

const ENDED: Error = Error::Closed("the transaction has ended");

impl Kind {
    fn is_root(self) -> bool {
        matches!(self, Kind::Root | Kind::RootUnborn)
    }
}

/// One explicit transaction that is open.
pub(super) struct Level {
    id: u64,
    kind: Kind,
    /// [`Inner::dirty`] when it began.
    dirty: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// A held transaction that is not nested: SQLite's own transaction.
    Root,
    /// A held transaction that is not nested, of an object that does not exist: a savepoint in what is held
    /// of it.
    RootUnborn,
    /// A held transaction inside another: a savepoint.
    Nested,
    /// A closure: a savepoint.
    Closure,
}

/// A transaction that spans turns: until it is committed or rolled back, every write to the
/// storage, through whichever handle, is part of it. Dropping it rolls back.
///
/// After it has ended every use answers `closed`. While a nested transaction is open it answers
/// `invalid-argument` to everything but [`HeldTransaction::rollback`].
pub(crate) struct HeldTransaction {
    storage: Storage,
    id: u64,
}

impl Storage {
    /// Runs `body` as a transaction: all of its writes, through any handle, happen or none. If
    /// `body` returns an error or panics, only what was written since its start is undone.
    /// Transactions nest. After an error that broke the storage it fails even if `body` does not.
    pub fn transaction<T, E: From<Error>>(
        &self,
        body: impl FnOnce(&Storage) -> Result<T, E>,
    ) -> Result<T, E> {
        let id = self.operate(None, |connection| {
            self.0.begin(connection)?;
            self.0.savepoint(connection, Kind::Closure)
        })?;
        let open = Open { storage: self, id };
        let value = body(self)?;
        std::mem::forget(open);
        self.end_closure(id, true)?;
        Ok(value)
    }

    fn end_closure(&self, id: u64, keep: bool) -> Result<()> {
        let result = match self.0.live() {
            Ok(connection) if keep => self.0.release(&connection, id),
            Ok(connection) => self.0.rollback_to(&connection, id),
            Err(error) => Err(error),
        };
        result?;
        self.operate(None, |_| Ok(()))
    }

    /// Begins a held transaction; what this turn wrote before is committed first.
    /// `invalid-argument` while a transaction is open.
    pub(crate) fn begin_held(&self) -> Result<HeldTransaction> {
        let wrote = {
            let connection = self.0.live()?;
            if !self.0.levels.borrow().is_empty() {
                return Err(Error::InvalidArgument(
                    "a transaction is open: begin a nested one in it".into(),
                ));
            }
            self.0.commit(&connection)?
        };
        if let Some(lsn) = wrote {
            self.notify(lsn);
        }
        let connection = self.0.live()?;
        self.0.begin(&connection)?;
        let id = if self.0.is_held_back() {
            self.0.savepoint(&connection, Kind::RootUnborn)?
        } else {
            self.0.push(Kind::Root)
        };
        let storage = self.clone();
        Ok(HeldTransaction { storage, id })
    }
}

/// A closure's transaction whose body has not returned.
struct Open<'a> {
    storage: &'a Storage,
    id: u64,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        // The error or panic of the body is what the caller hears of.
        let _ = self.storage.end_closure(self.id, false);
    }
}

impl HeldTransaction {
    /// The key-value pairs, inside this transaction.
    pub fn kv(&self) -> Kv {
        Kv::new(self.storage.clone(), Some(self.id))
    }

    /// SQL, inside this transaction. Cursors opened here end with it.
    pub fn sql(&self) -> Sql {
        Sql::new(self.storage.clone(), Some(self.id))
    }

    /// Begins a transaction inside this one. `limit-exceeded` beyond
    /// [`limit::MAX_TRANSACTION_DEPTH`] levels.
    pub fn begin_nested(&self) -> Result<HeldTransaction> {
        let inner = &self.storage.0;
        let connection = inner.live()?;
        inner.check_scope(Some(self.id))?;
        inner.check_no_closure()?;
        Ok(HeldTransaction {
            storage: self.storage.clone(),
            id: inner.savepoint(&connection, Kind::Nested)?,
        })
    }

    /// Makes the writes permanent; of a nested transaction, part of its parent. On an error they
    /// are undone and the transaction has ended: `sql-failed` for a violated deferred constraint.
    pub fn commit(&self) -> Result<()> {
        let inner = &self.storage.0;
        let wrote = {
            let connection = inner.live()?;
            inner.check_scope(Some(self.id))?;
            inner.check_no_closure()?;
            inner.end_cursors_from(self.id);
            let is_root = inner.kind(self.id).is_some_and(Kind::is_root);
            if is_root && !inner.is_held_back() {
                inner.commit_root(&connection, self.id)?
            } else {
                inner.release(&connection, self.id)?;
                None
            }
        };
        if let Some(lsn) = wrote {
            self.storage.notify(lsn);
        }
        Ok(())
    }

    /// Undoes every write, those of nested transactions too. Idempotent; after a commit too, where
    /// there is nothing left to undo.
    pub fn rollback(&self) -> Result<()> {
        let inner = &self.storage.0;
        let connection = inner.live()?;
        match inner.kind(self.id) {
            None => Ok(()),
            Some(Kind::Root) => {
                inner.end_cursors_from(self.id);
                inner.undo(&connection);
                Ok(())
            }
            Some(_) => {
                inner.end_cursors_from(self.id);
                inner.rollback_to(&connection, self.id)
            }
        }
    }

    /// Whether it has neither been committed nor rolled back.
    pub fn is_open(&self) -> bool {
        self.storage.0.live().is_ok() && self.storage.0.kind(self.id).is_some()
    }
}

impl Drop for HeldTransaction {
    fn drop(&mut self) {
        // On an error the storage is closed or broken, and nothing is left to undo.
        let _ = self.rollback();
    }
}

impl Inner {
    /// Whether a held transaction is open.
    pub(super) fn is_held(&self) -> bool {
        self.levels
            .borrow()
            .first()
            .is_some_and(|level| level.kind.is_root())
    }

    fn kind(&self, id: u64) -> Option<Kind> {
        let levels = self.levels.borrow();
        levels
            .iter()
            .find(|level| level.id == id)
            .map(|level| level.kind)
    }

    /// Ends the cursors of the transactions from `id` inwards.
    fn end_cursors_from(&self, id: u64) {
        let levels = self.levels.borrow();
        let inner = levels.iter().skip_while(|level| level.id != id);
        let scopes: Vec<u64> = inner.map(|level| level.id).collect();
        self.cursors.end_scopes(&scopes, &ENDED);
    }

    /// Refuses unless `scope` is the innermost held transaction, or none in particular.
    pub(super) fn check_scope(&self, scope: Option<u64>) -> Result<()> {
        let Some(scope) = scope else { return Ok(()) };
        if self.kind(scope).is_none() {
            return Err(ENDED);
        }
        let levels = self.levels.borrow();
        let innermost = levels.iter().rfind(|level| level.kind != Kind::Closure);
        if innermost.is_some_and(|level| level.id == scope) {
            return Ok(());
        }
        Err(Error::InvalidArgument(
            "a nested transaction is open: end it first".into(),
        ))
    }

    /// Refuses to change held transactions under a closure.
    fn check_no_closure(&self) -> Result<()> {
        let levels = self.levels.borrow();
        if levels
            .last()
            .is_some_and(|level| level.kind == Kind::Closure)
        {
            return Err(Error::InvalidArgument(
                "not inside the closure of a transaction".into(),
            ));
        }
        Ok(())
    }

    fn push(&self, kind: Kind) -> u64 {
        let id = self.next_level.get();
        self.next_level.set(id + 1);
        self.levels.borrow_mut().push(Level {
            id,
            kind,
            dirty: self.dirty.get(),
        });
        id
    }

    fn savepoint(&self, connection: &Connection, kind: Kind) -> Result<u64> {
        let depth = self.levels.borrow().len() as u64;
        Error::check_limit(
            "the nesting of transactions (levels)",
            limit::MAX_TRANSACTION_DEPTH.into(),
            depth + 1,
        )?;
        // The depth names it, so that the same few statements stay prepared.
        self.run(connection, &format!(ours!("SAVEPOINT _vw_{}"), depth))?;
        Ok(self.push(kind))
    }

    /// Makes a savepoint part of what is around it.
    fn release(&self, connection: &Connection, id: u64) -> Result<()> {
        let depth = self.depth(id)?;
        self.run(connection, &format!(ours!("RELEASE _vw_{}"), depth))?;
        self.levels.borrow_mut().truncate(depth);
        Ok(())
    }

    fn rollback_to(&self, connection: &Connection, id: u64) -> Result<()> {
        let depth = self.depth(id)?;
        if let Some(level) = self.levels.borrow_mut().drain(depth..).next() {
            self.dirty.set(level.dirty);
        }
        self.kv_ready.set(false);
        self.run(connection, &format!(ours!("ROLLBACK TO _vw_{}"), depth))?;
        self.run(connection, &format!(ours!("RELEASE _vw_{}"), depth))
    }

    fn depth(&self, id: u64) -> Result<usize> {
        let levels = self.levels.borrow();
        levels.iter().position(|level| level.id == id).ok_or(ENDED)
    }

    fn commit_root(&self, connection: &Attached, id: u64) -> Result<Option<Lsn>> {
        self.note_failures();
        self.check_journal(connection)?;
        let alarms = self.tell_of_alarms(connection)?;
        self.end_transaction(connection).map_err(|error| {
            if fault::is_critical(&error) {
                return self.latch(connection, commit_error("", &error));
            }
            match self.kind(id) {
                Some(Kind::RootUnborn) => {
                    if let Err(error) = self.rollback_to(connection, id) {
                        return self.latch(connection, error);
                    }
                }
                _ => self.undo(connection),
            }
            Error::SqlFailed(format!(
                "the transaction was rolled back because constraints were violated: {}",
                fault::text(&error)
            ))
        })?;
        self.levels.borrow_mut().clear();
        let lsn = self.give_to_journal(connection)?;
        self.alarms.committed(alarms);
        Ok(lsn)
    }
}

#[cfg(test)]
mod tests;
