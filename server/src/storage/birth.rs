//! How an object comes into being: with its first write, not with a look at it.
//!
//! ```text
//!   Creating ──create ends──► Waking ──activate ends──► Unwritten ──the first write──► Born
//!      │                         └──says something──────►  ▲
//!      └──says something──► Speaking ──create ends─────────┘ at once
//! ```
//! Until then SQLite's transaction stays open over all turns, with what `create`, `activate` and migrations
//! have written. The commit of the first write has all of it; whatever ends the instance before undoes it, and
//! leaves nothing.

use super::{Attached, Inner, Storage, toggles};
use crate::{Error, Result, journal::Lsn};

/// How far an object has come into being.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Birth {
    /// The object exists: what a turn writes is committed.
    #[default]
    Born,
    /// `create` runs, and nobody has noticed: what it writes is held.
    Creating,
    /// `create` runs, and others may know of it: its turns are committed, and the object exists when it ends.
    Speaking,
    /// `activate` runs for the first time: what it writes is held too.
    Waking,
    /// The next write is committed with what is held.
    Unwritten,
    /// The writes that were held are undone: the instance ends, and nothing more is committed.
    Undone,
}

impl Storage {
    /// Calls `hook` before the commit with which the object comes into being. If it fails the commit does.
    pub(crate) fn before_birth(&self, hook: impl Fn() -> Result<()> + 'static) {
        if self.0.connection.borrow().is_some() {
            self.0.before_birth.replace(Some(std::rc::Rc::new(hook)));
        }
    }

    /// Holds what is written from now on: `create` begins.
    pub(crate) fn begin_creation(&self) {
        self.0.birth.set(Birth::Creating);
    }

    /// Ends `create`, in its last turn. The object exists with the next write; with this turn, if something
    /// was said.
    pub(crate) fn end_creation(&self) {
        match self.0.birth.get() {
            Birth::Creating => self.0.hold(Birth::Waking),
            Birth::Speaking => {
                self.0.birth.set(Birth::Unwritten);
                self.0.wrote(true);
            }
            _ => {}
        }
    }

    /// Ends the first `activate`: what is written from now on makes the object.
    pub(crate) fn end_waking(&self) {
        if self.0.birth.get() == Birth::Waking {
            self.0.hold(Birth::Unwritten);
        }
    }

    /// Others may learn of the object by what it is about to say, or do at the time of an alarm: what
    /// `create` or the first `activate` has written is not held any longer.
    pub(crate) fn speaks(&self) {
        self.0.speaks();
    }

    /// Has an object exist that does not, with the commit of this turn. In `create`, with its end.
    pub(crate) fn come_into_being(&self) -> Result<()> {
        self.0.speaks();
        if self.0.birth.get() != Birth::Unwritten {
            return Ok(());
        }
        self.operate(None, |_| {
            self.0.wrote(true);
            Ok(())
        })
    }

    /// Whether the object does not exist: nothing of it is worth keeping. Of one whose database cannot be
    /// read, nothing is known.
    pub(crate) fn is_unborn(&self) -> bool {
        self.0.birth.get() != Birth::Born
    }

    /// Whether `create` runs.
    pub(crate) fn is_in_creation(&self) -> bool {
        matches!(self.0.birth.get(), Birth::Creating | Birth::Speaking)
    }

    /// Whether everything that was written is held: nothing is committed.
    pub(crate) fn is_held_back(&self) -> bool {
        self.0.is_held_back()
    }
}

impl Inner {
    /// Has what was written so far, for which nobody waits, count only together with a later write.
    fn hold(&self, birth: Birth) {
        self.birth.set(birth);
        self.dirty.set(false);
        self.confirmed.set(false);
    }

    pub(super) fn speaks(&self) {
        match self.birth.get() {
            Birth::Creating => self.birth.set(Birth::Speaking),
            Birth::Waking => self.birth.set(Birth::Unwritten),
            _ => {}
        }
    }

    /// Whether what is open is not to be committed yet.
    pub(super) fn is_held_back(&self) -> bool {
        match self.birth.get() {
            Birth::Born | Birth::Speaking => false,
            Birth::Unwritten => !self.dirty.get(),
            Birth::Creating | Birth::Waking | Birth::Undone => true,
        }
    }

    /// Whether an object that does not exist yet would be lost with the transaction that is open.
    pub(super) fn holds_object(&self) -> bool {
        match self.birth.get() {
            Birth::Creating => self.open.get() && self.dirty.get(),
            Birth::Waking | Birth::Unwritten => self.open.get(),
            Birth::Born | Birth::Speaking | Birth::Undone => false,
        }
    }

    /// Notes that the open transaction is about to be undone.
    pub(super) fn undo_birth(&self) {
        if self.holds_object() {
            self.birth.set(Birth::Undone);
        }
    }

    /// Ends a turn of which nothing is committed. It leaves its transaction as the end of one would: with
    /// keys that are not deferred, and an error, which breaks the storage, where one is violated.
    pub(super) fn stay_unborn(&self, connection: &Attached) -> Result<()> {
        if toggles::is_unresolved(connection) {
            let text = "the object was reset because constraints were violated: FOREIGN KEY constraint failed";
            return Err(self.latch(connection, Error::InstanceFailed(text.into())));
        }
        self.end_deferral(connection)
    }

    /// Gives the journal what SQLite has committed. An error means that it has not happened, and breaks the
    /// storage.
    pub(super) fn give_to_journal(&self, connection: &Attached) -> Result<Option<Lsn>> {
        let is_birth = self.birth.get() == Birth::Unwritten;
        if is_birth {
            let hook = self.before_birth.borrow().clone();
            hook.map_or(Ok(()), |hook| hook())
                .map_err(|error| self.latch(connection, error))?;
        }
        let lsn = connection
            .backing
            .commit(self.failures.get())
            .map_err(|error| self.latch(connection, error))?;
        if is_birth {
            self.birth.set(Birth::Born);
        }
        Ok(lsn)
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, rc::Rc};

    use super::super::testing::{TestResult, code, open};
    use super::*;

    /// A `create` that writes more than SQLite's cache holds: its pages are in the overlay before the end.
    const MUCH: &str = "CREATE TABLE t (v); \
        WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 2000) \
        INSERT INTO t SELECT zeroblob(1000) FROM n";

    fn created(folder: &tempfile::TempDir) -> Result<Storage> {
        let storage = open(folder);
        storage.begin_creation();
        storage.enter_turn();
        storage.exec(MUCH)?;
        assert_eq!(storage.commit_turn()?, None);
        storage.enter_turn();
        storage.kv().put("made", &1)?;
        storage.end_creation();
        assert_eq!(storage.commit_turn()?, None);
        storage.enter_turn();
        storage.kv().put("woken", &1)?;
        assert_eq!(storage.commit_turn()?, None);
        storage.end_waking();
        Ok(storage)
    }

    #[test]
    fn what_is_held_is_committed_with_the_first_write_or_not_at_all() -> TestResult {
        let folder = tempfile::tempdir()?;
        for writes in [false, true] {
            let storage = created(&folder)?;
            let listed = Rc::new(Cell::new(0));
            let count = listed.clone();
            storage.before_birth(move || {
                count.set(count.get() + 1);
                Ok(())
            });
            for _ in 0..3 {
                storage.enter_turn();
                assert_eq!(storage.integers("SELECT count(*) FROM t")?, [2000]);
                assert!(!storage.is_dirty());
                assert_eq!(storage.commit_turn()?, None);
            }
            if writes {
                storage.enter_turn();
                storage.kv().put("k", &1)?;
                assert!(storage.is_dirty());
                assert!(storage.commit_turn()?.is_some());
                storage.kv().put("l", &1)?;
            }
            assert_eq!(
                (storage.is_unborn(), listed.get()),
                (!writes, writes.into())
            );
            storage.close()?;
            drop(storage);
            let again = open(&folder);
            assert_eq!(again.exists(), writes);
            let expected: &[&str] = if writes {
                &["k", "l", "made", "woken"]
            } else {
                &[]
            };
            assert_eq!(again.keys(), expected);
        }
        Ok(())
    }

    #[test]
    fn nothing_is_committed_after_a_turn_that_was_undone() -> TestResult {
        let folder = tempfile::tempdir()?;
        let storage = created(&folder)?;
        storage.enter_turn();
        storage.kv().put("k", &1)?;
        storage.rollback_turn();
        // A destructor of the class, or a task that it has spawned.
        storage.kv().put("late", &1)?;
        storage.come_into_being()?;
        storage.enter_turn();
        storage.kv().put("later", &1)?;
        assert_eq!(storage.commit_turn()?, None);
        assert!(storage.is_unborn());
        storage.close()?;
        drop(storage);
        assert!(!open(&folder).exists());
        Ok(())
    }

    #[test]
    fn an_unconfirmed_write_makes_an_object_and_holds_nothing_up() -> TestResult {
        let folder = tempfile::tempdir()?;
        let storage = created(&folder)?;
        storage.enter_turn();
        storage.allow_unconfirmed(|storage| storage.kv().put("k", &1))?;
        assert!(!storage.is_dirty());
        assert!(storage.commit_turn()?.is_some());
        assert!(!storage.was_confirmed() && !storage.is_unborn());
        Ok(())
    }

    #[test]
    fn an_object_that_cannot_be_listed_does_not_come_into_being() -> TestResult {
        let folder = tempfile::tempdir()?;
        let storage = created(&folder)?;
        storage.before_birth(|| Err(Error::StorageFailed("told to".into())));
        storage.enter_turn();
        storage.kv().put("k", &1)?;
        assert_eq!(code(storage.commit_turn()), "storage-failed");
        assert!(storage.is_unborn() && storage.broken().is_some());
        storage.close()?;
        drop(storage);
        assert!(!open(&folder).exists());
        Ok(())
    }

    #[test]
    fn an_object_that_is_emptied_before_its_first_commit_has_only_what_came_after() -> TestResult {
        let folder = tempfile::tempdir()?;
        let storage = created(&folder)?;
        storage.enter_turn();
        storage.delete_all()?;
        storage.kv().put("k", &1)?;
        assert!(storage.commit_turn()?.is_some());
        storage.close()?;
        drop(storage);
        let again = open(&folder);
        assert_eq!(again.keys(), ["k"]);
        assert_eq!(code(again.exec("SELECT * FROM t")), "sql-failed");
        Ok(())
    }
}
