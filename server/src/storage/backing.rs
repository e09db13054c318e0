//! One database as its owner has it: taken from the journal's, and a connection of SQLite's to it.

use std::{mem, ops::Deref, rc::Rc, sync::Arc};

use rusqlite::{Connection, OpenFlags};

use super::Vfs;
use crate::{
    Result,
    folder::DatabaseId,
    journal::{Database, Failures, Lsn, sabotaged},
};

/// A database that nobody else has open, until this is dropped.
pub(crate) struct Backing {
    vfs: Rc<Vfs>,
    database: Arc<Database>,
}

impl Backing {
    /// Takes the database of that id; it is made when something is committed to it.
    pub fn open(vfs: &Rc<Vfs>, id: DatabaseId) -> Result<Backing> {
        // What it waits for may be over, and where no thread looks, nobody else does.
        vfs.journal.work();
        Ok(Backing {
            database: vfs.journal.databases().open(id)?,
            vfs: vfs.clone(),
        })
    }

    /// A connection to it, to be attached.
    pub fn connect(&self) -> rusqlite::Result<Connection> {
        // One thread, so no mutex; no URI, so that a name is only ever a name.
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX
            | OpenFlags::SQLITE_OPEN_EXRESCODE;
        let name = self.database.id().to_string();
        Connection::open_with_flags_and_vfs(name, flags, self.vfs.name.as_c_str())
    }

    /// Why nothing can be committed at the moment, if so.
    pub fn check_commit(&self) -> Result<()> {
        self.vfs.journal.down().map_or(Ok(()), Err)
    }

    /// Gives the journal what SQLite has committed since this was last called; `None` if that is
    /// nothing. Refused if the journal has failed since `failures`. After an error the database must be closed: what was committed has not happened.
    pub fn commit(&self, failures: Failures) -> Result<Option<Lsn>> {
        self.vfs.journal.commit(&self.database, failures)
    }

    /// How often the journal has failed: for [`Backing::commit`].
    pub fn failures(&self) -> Failures {
        self.vfs.journal.failures()
    }

    /// The newest commit, of an earlier opening too unless it is long durable.
    pub fn newest(&self) -> Lsn {
        self.database.newest()
    }

    /// Whether every commit is durable. `storage-failed` if one of them never happened.
    pub fn is_durable(&self) -> Result<bool> {
        self.vfs.journal.is_durable(self.newest())
    }

    /// Whether SQLite has committed what the journal could not take.
    pub fn has_lost(&self) -> bool {
        self.database.has_uncaptured()
    }

    /// Whether there is anything in it, as far as it can be seen without reading it.
    pub fn exists(&self) -> bool {
        self.database.exists()
    }

    /// Ends the database, unless the journal has failed since `failures`. When that is durable, [`Backing::forget`] makes it so. There must be no
    /// connection.
    pub fn delete(&self, failures: Failures) -> Result<Lsn> {
        self.vfs.journal.delete(&self.database, failures)
    }

    /// Removes what [`Backing::delete`] ended.
    pub fn forget(&self, lsn: Lsn) -> Result<()> {
        self.vfs.journal.forget(&self.database, lsn)
    }

    /// How many pages long the log is.
    pub fn log_pages(&self) -> u64 {
        self.database.log_frames()
    }
}

impl Drop for Backing {
    fn drop(&mut self) {
        self.vfs.journal.databases().close(&self.database);
    }
}

/// The connection to a database. There is no other.
pub(crate) struct Attached {
    // Dropped before what it needs.
    connection: Connection,
    pub backing: Backing,
}

impl Attached {
    /// `connection` must come from `backing`.
    pub fn new(connection: Connection, backing: Backing) -> Attached {
        Attached {
            connection,
            backing,
        }
    }

    /// Moves everything from the log to the file, if it is durable. Whether it did; SQLite refuses
    /// while somebody reads.
    pub fn checkpoint(&self) -> rusqlite::Result<bool> {
        let Backing { database, .. } = &self.backing;
        // What the journal could lose, or does not have, must not be in the file.
        let is_durable = self.backing.is_durable() == Ok(true) && !self.backing.has_lost();
        if !is_durable && !sabotaged!(self.backing.vfs.journal, FileBeforeJournal) {
            return Ok(false);
        }
        if self.backing.log_pages() == 0 {
            return Ok(true);
        }
        let _applying = database.applying();
        if database.is_suspect() {
            // It is to be written again from the journal first.
            return Ok(false);
        }
        let mut checkpoint = self
            .connection
            .prepare_cached("PRAGMA wal_checkpoint(TRUNCATE)")?;
        let busy: bool = checkpoint.query_row([], |row| row.get(0))?;
        if !busy {
            database.checkpointed();
        }
        Ok(!busy)
    }

    /// Closes the connection and gives the database back.
    pub fn close(self) -> rusqlite::Result<()> {
        let Attached {
            connection,
            backing,
        } = self;
        connection.close().map_err(|(connection, error)| {
            // To drop it now would panic, and it may still use its file system.
            mem::forget((connection, backing.vfs.clone()));
            error
        })
    }
}

impl Deref for Attached {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}
