//! What a vat knows without waking anything: which objects have come into being and what they are
//! called, when their alarms are due, which references were saved, and which classes it has served.
//! `DATA/catalog.sqlite`.

mod alarms;
mod classes;
mod ledger;
mod notes;
mod objects;
mod rebuild;
mod salvage;
mod saved;
#[cfg(test)]
mod testing;

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
};

use rusqlite::{Connection, Row};
use vatwerk::ObjectId;

pub use alarms::AlarmEntry;
pub use classes::{Change, LedgerEntry, LedgerError, Served, reconcile};
pub use notes::{Activity, Note};
pub use objects::{After, Changes, Listed};
pub use rebuild::Rebuilt;
pub use saved::{SAVED_BYTES, Saved};

pub(crate) use objects::{for_each, len, lists};
pub(crate) use salvage::{Found, salvage, strike_out};
pub(crate) use {alarms::alarm, rebuild::has_every_alarm};

use crate::{
    Error, Result,
    env::Clock,
    folder::DatabaseId,
    journal::{Failures, Lsn},
    storage::{self, Attached, Backing, Vfs},
};

/// Cheap to clone; a vat has one. Its writes go to the journal like those of objects, in the same
/// order: what is durable after one of them tells that it is durable too.
#[derive(Clone)]
pub struct Catalog(Rc<Inner>);

struct Inner {
    vfs: Rc<Vfs>,
    /// None: closed, or lost and not opened again yet.
    db: RefCell<Option<Attached>>,
    is_closed: Cell<bool>,
    /// Why it cannot be read or written, as the log was told last.
    trouble: RefCell<Option<String>>,
    /// By the interface of the class.
    changes: RefCell<HashMap<u64, Changes>>,
    clock: Clock,
}

/// The most memory that cached pages of it take: ids come in no order, so writes are all over it.
const CACHE_KIB: u32 = 32 << 10;

/// How many statements are kept for reuse: all there are.
const STATEMENTS: usize = 64;

impl Catalog {
    /// Opens the catalog, making an empty one if there is none, and bringing one that an earlier
    /// version has left up to date. `storage-damaged` if there is none, and there are objects.
    pub fn open(vfs: &Rc<Vfs>, clock: Clock) -> Result<Catalog> {
        refuse_if_gone(vfs)?;
        Ok(Catalog(Rc::new(Inner {
            clock,
            db: RefCell::new(Some(attach(vfs)?)),
            vfs: vfs.clone(),
            is_closed: Cell::default(),
            trouble: RefCell::default(),
            changes: RefCell::default(),
        })))
    }

    /// Closes it. Afterwards everything fails.
    pub fn close(&self) -> Result<()> {
        self.0.is_closed.set(true);
        let Some(db) = self.0.db.take() else {
            return Ok(());
        };
        db.close().map_err(failed)
    }

    /// The newest change. What depends on it must not be seen before that is durable.
    pub fn newest(&self) -> Lsn {
        let db = self.0.db.borrow();
        db.as_ref().map_or(Lsn::default(), |db| db.backing.newest())
    }

    fn read<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        self.watched(self.try_read(work))
    }

    /// Logs why the catalog cannot be read or written, once for each change of the reason.
    fn watched<T>(&self, outcome: Result<T>) -> Result<T> {
        match &outcome {
            Ok(_) if self.0.trouble.take().is_some() => {
                tracing::info!("the catalog is read and written again");
            }
            Err(error) if error.is_storage_fault() => {
                let reason = error.to_string();
                let told = self.0.trouble.replace(Some(reason.clone()));
                if told.as_ref() != Some(&reason) {
                    let code = error.code().as_str();
                    tracing::warn!(code, reason, "the catalog cannot be read or written");
                }
            }
            _ => {}
        }
        outcome
    }

    fn try_read<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        self.reopen_if_lost()?;
        let db = self.0.db.borrow();
        let db = db.as_ref().ok_or(Error::ShuttingDown)?;
        work(db).map_err(failed)
    }

    /// How often the journal has failed, for what is to be written because of objects' commits: to be
    /// asked before these are looked at.
    pub fn failures(&self) -> Failures {
        self.0.vfs.journal().failures()
    }

    /// One commit, of all that `work` writes or nothing. If nothing is written there is no commit.
    fn write<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        self.write_since(self.failures(), work)
    }

    /// A write, like [`Catalog::write`], that is refused if the journal has failed since `failures`.
    fn write_since<T>(
        &self,
        failures: Failures,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T> {
        self.watched(self.try_write_since(failures, work))
    }

    fn try_write_since<T>(
        &self,
        failures: Failures,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T> {
        self.reopen_if_lost()?;
        let db = self.0.db.borrow();
        let db = db.as_ref().ok_or(Error::ShuttingDown)?;
        db.backing.check_commit()?;
        let done = whole(db, work).map_err(failed)?;
        db.backing.commit(failures)?;
        Ok(done)
    }

    /// If a commit has not happened, the catalog goes back to what it was before. That may have to
    /// wait until the journal can be written again: until then this fails.
    fn reopen_if_lost(&self) -> Result<()> {
        if self.0.is_closed.get() {
            return Err(Error::ShuttingDown);
        }
        let good = |db: &Attached| db.backing.is_durable().is_ok() && !db.backing.has_lost();
        if self.0.db.borrow().as_ref().is_some_and(good) {
            return Ok(());
        }
        if let Some(db) = self.0.db.take() {
            db.close().map_err(failed)?;
        }
        self.0.db.replace(Some(attach(&self.0.vfs)?));
        Ok(())
    }
}

/// Refuses to begin an empty catalog where there are objects: it would list none of them, and run none of
/// their alarms.
fn refuse_if_gone(vfs: &Rc<Vfs>) -> Result<()> {
    if Backing::open(vfs, DatabaseId::CATALOG)?.exists() {
        return Ok(());
    }
    let has_objects = vfs.journal().databases().has_objects();
    let told = match has_objects {
        Ok(false) => return Ok(()),
        Ok(true) => "the file `catalog.sqlite` of the data folder is gone or empty, and there are objects: \
                     put it back, or make it anew from the objects with `vatwerk check --rebuild-catalog`"
            .into(),
        Err(error) => format!("the folder of objects cannot be read: {error}"),
    };
    Err(Error::StorageDamaged(told))
}

/// Takes the catalog's database, and sees that all tables are there.
fn attach(vfs: &Rc<Vfs>) -> Result<Attached> {
    let failures = vfs.journal().failures();
    let backing = Backing::open(vfs, DatabaseId::CATALOG)?;
    let connection = backing.connect().map_err(failed)?;
    storage::leave_to_journal(&connection).map_err(failed)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    connection
        .execute_batch(&format!("PRAGMA cache_size = -{CACHE_KIB}"))
        .map_err(failed)?;
    let db = Attached::new(connection, backing);
    // In this order: the later fill themselves from the earlier, if they were not there.
    whole(&db, |db| {
        objects::prepare(db)?;
        saved::prepare(db)?;
        ledger::prepare(db)?;
        alarms::prepare(db)
    })
    .map_err(failed)?;
    db.backing.commit(failures)?;
    Ok(db)
}

fn whole<T>(
    db: &Connection,
    work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    let transaction = db.unchecked_transaction()?;
    let done = work(&transaction)?;
    transaction.commit()?;
    Ok(done)
}

fn failed(error: rusqlite::Error) -> Error {
    storage::failed("the catalog: ", &error)
}

fn object_id(row: &Row<'_>, column: usize) -> rusqlite::Result<ObjectId> {
    Ok(ObjectId(row.get(column)?))
}

/// Classes are kept as signed numbers: SQLite has no others.
fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    Ok(row.get::<_, i64>(column)?.cast_unsigned())
}

/// From the first two columns.
fn database_id(row: &Row<'_>) -> rusqlite::Result<DatabaseId> {
    Ok(DatabaseId {
        class: unsigned(row, 0)?,
        object: object_id(row, 1)?,
    })
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::{testing::*, *};
    use crate::{env::sim::Fault, folder::Layout};

    /// What catalogs were before there were alarms.
    const OLD: &str = "
        PRAGMA journal_mode = WAL;
        CREATE TABLE objects (
            class INTEGER NOT NULL,
            id BLOB NOT NULL,
            name TEXT,
            created_ms INTEGER NOT NULL,
            PRIMARY KEY (class, id)
        ) WITHOUT ROWID;
        CREATE UNIQUE INDEX objects_by_name ON objects (class, name) WHERE name IS NOT NULL;
        CREATE INDEX objects_without_name ON objects (class, id) WHERE name IS NULL;
        CREATE TABLE saved (
            hash BLOB PRIMARY KEY,
            class INTEGER NOT NULL,
            id BLOB NOT NULL,
            name TEXT,
            label TEXT NOT NULL,
            created_ms INTEGER NOT NULL
        ) WITHOUT ROWID;
        INSERT INTO objects VALUES
            (7, zeroblob(32), 'a', 17), (7, CAST(printf('%032d', 0) AS BLOB), NULL, 18),
            (-1, zeroblob(32), 'a', 19);";

    #[test]
    fn an_older_catalog_is_brought_up_to_date() {
        let folder = tempfile::tempdir().unwrap();
        let path = Layout::new(folder.path()).database(DatabaseId::CATALOG);
        crate::storage::configure_process();
        let old = Connection::open(path).unwrap();
        old.execute_batch(OLD).unwrap();
        old.close().unwrap();

        let catalog = catalog(&folder);
        assert_eq!(catalog.count(7).unwrap(), 2);
        let a = catalog.find(7, ObjectId([0; 32])).unwrap().unwrap();
        assert_eq!(
            a,
            Listed {
                id: ObjectId([0; 32]),
                name: Some("a".into()),
                created_ms: 17,
                written_ms: None,
                bytes: None,
            }
        );
        assert!(catalog.needs_alarms().unwrap());
        let ledger = catalog.ledger().unwrap();
        let known: Vec<_> = ledger.iter().map(|c| (c.interface_id, c.objects)).collect();
        assert_eq!(known, [(u64::MAX, 1), (7, 2)]);
        assert!(ledger.iter().all(|c| c.name.is_empty() && !c.retired));
        catalog.record(7, id(9), Some("new")).unwrap();
        assert_eq!(catalog.count(7).unwrap(), 3);

        let again = reopen(catalog);
        assert!(again.needs_alarms().unwrap());
        assert_eq!(again.count(7).unwrap(), 3);
    }

    #[test]
    fn opening_writes_nothing_when_everything_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let first = catalog(&folder);
        first.record(7, id(1), None).unwrap();
        let newest = first.newest();
        assert_eq!(reopen(first).newest(), newest);
    }

    #[test]
    fn a_write_that_did_not_happen_is_taken_back_whole() {
        let (disk, catalog) = on_sim_disk();
        let (kept, lost) = (object(1), object(2));
        catalog.record(7, kept.object, Some("kept")).unwrap();
        catalog.expect_alarm(kept, 50).unwrap();
        catalog.enter_class(7, "Room", b"old").unwrap();
        let writes: [fn(&Catalog) -> Result<()>; 6] = [
            |catalog| catalog.record(7, object(2).object, Some("lost")),
            |catalog| catalog.expect_alarm(object(1), 40),
            |catalog| catalog.remove(object(1), catalog.failures()).map(drop),
            |catalog| {
                let activity = Activity {
                    written_ms: 1,
                    bytes: 2,
                };
                let note = Note {
                    object: object(1),
                    alarm: Some(None),
                    activity: Some(activity),
                };
                catalog.note(&[note], catalog.failures())
            },
            |catalog| catalog.enter_class(7, "Hall", b"new"),
            |catalog| catalog.retire_class(7),
        ];
        for write in writes {
            disk.fail(Fault::io_error().when(|path, _| path.starts_with("/data/journal")));
            // The journal takes it, and cannot keep it.
            write(&catalog).unwrap();
            let until_then = catalog.alarm_of(kept);
            assert!(matches!(until_then, Err(Error::StorageFailed(_))));
            disk.heal();
            let found = catalog.find(7, kept.object).unwrap().unwrap();
            assert_eq!(
                (found.name.as_deref(), found.written_ms),
                (Some("kept"), None)
            );
            assert_eq!(catalog.find(7, lost.object).unwrap(), None);
            assert_eq!(catalog.count(7).unwrap(), 1);
            assert_eq!(catalog.alarm_of(kept).unwrap(), Some(50));
            assert_eq!(catalog.alarm_count().unwrap(), 1);
            let ledger = catalog.ledger().unwrap();
            assert_eq!((&*ledger[0].name, ledger[0].retired), ("Room", false));
        }
        catalog.expect_alarm(kept, 40).unwrap();
        assert_eq!(catalog.alarm_of(kept).unwrap(), Some(40));
    }
}
