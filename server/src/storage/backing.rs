//! One database as its owner has it: taken from the journal's, and a connection of SQLite's to it.

use std::{io, mem, ops::Deref, rc::Rc, sync::Arc};

use rusqlite::{Connection, OpenFlags};

use super::{Vfs, vfs::follow_rollbacks};
use crate::{
    Result,
    folder::DatabaseId,
    journal::{Database, Failures, Lsn, PAGE_BYTES},
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
        let connection =
            Connection::open_with_flags_and_vfs(name, flags, self.vfs.name.as_c_str())?;
        follow_rollbacks(&connection, &self.database);
        Ok(connection)
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

    /// How much room it takes after the newest commit, as its header says.
    /// See <https://www.sqlite.org/fileformat2.html#the_database_header>.
    pub fn room(&self) -> io::Result<Room> {
        let mut header = [0; 100];
        let databases = self.vfs.journal.databases();
        self.database.read(databases, &mut header, 0)?;
        let number = |at: usize| u32::from_be_bytes(std::array::from_fn(|i| header[at + i]));
        Ok(Room {
            pages: number(28),
            free: number(36),
            gives_back: number(64) != 0,
        })
    }

    /// How many pages are in commits whose fate is not decided.
    pub fn undecided_pages(&self) -> u64 {
        self.vfs.journal.undecided_pages(&self.database)
    }

    /// Whether SQLite has committed what the journal could not take.
    pub fn has_lost(&self) -> bool {
        self.database.has_uncaptured()
    }

    /// Whether there is anything in it, as far as it can be seen without reading it.
    pub fn exists(&self) -> bool {
        self.database.exists()
    }

    /// Begins an empty database in place of this one, for the next connection. What that commits first makes
    /// it so; a rollback brings back what there was, for the connection after it.
    pub fn replace(&self) {
        self.database.replace();
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
}

impl Drop for Backing {
    fn drop(&mut self) {
        self.vfs.journal.databases().close(&self.database);
    }
}

/// The room that a database takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Room {
    /// How many pages it has.
    pub pages: u32,
    /// How many of these have no content.
    pub free: u32,
    /// Whether free pages can be given back: not in databases that were made by a vat of before.
    pub gives_back: bool,
}

impl Room {
    /// The size of the content, in bytes.
    pub fn bytes(self) -> u64 {
        u64::from(self.pages.saturating_sub(self.free)) * PAGE_BYTES as u64
    }
}

/// The connection to a database. There is no other.
pub(crate) struct Attached {
    // Dropped before what it needs.
    connection: Connection,
    pub backing: Rc<Backing>,
}

impl Attached {
    /// `connection` must come from `backing`.
    pub fn new(connection: Connection, backing: impl Into<Rc<Backing>>) -> Attached {
        Attached {
            connection,
            backing: backing.into(),
        }
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
