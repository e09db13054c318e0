//! What a vat knows without waking anything: which objects have come into being and what they are
//! called, and which references were saved. `DATA/catalog.sqlite`.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
};

use rusqlite::{Connection, OptionalExtension, Row, params};
use sha2::{Digest, Sha256};
use vatwerk::ObjectId;

use crate::{
    Error, Result, env,
    folder::DatabaseId,
    journal::Lsn,
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
    counts: RefCell<HashMap<u64, u64>>,
}

/// One object in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Which object.
    pub id: ObjectId,
    /// Its name, if it has one.
    pub name: Option<String>,
    /// When it came into being, in milliseconds since 1970.
    pub created_ms: i64,
}

/// Where a page of a listing starts: named objects come first, by name, then the others, by id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum After {
    /// The first page.
    Beginning,
    /// After the object of this name.
    Name(String),
    /// After the unnamed object of this id.
    Id(ObjectId),
}

/// A saved reference: what it leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    /// The interface id of the object's class.
    pub class: u64,
    /// Which object.
    pub id: ObjectId,
    /// The name the stub had when it was saved.
    pub name: Option<String>,
}

/// How long the bytes of a saved reference are.
pub const SAVED_BYTES: usize = 32;

/// The catalog's log is written back when it has so many pages and is durable.
const LONG_PAGES: u64 = 256;

/// It may be this many times as long before it is durable.
const PATIENCE: u64 = 8;

/// Classes are kept as signed numbers: SQLite has no others.
const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS objects (
        class INTEGER NOT NULL,
        id BLOB NOT NULL,
        name TEXT,
        created_ms INTEGER NOT NULL,
        PRIMARY KEY (class, id)
    ) WITHOUT ROWID;
    CREATE UNIQUE INDEX IF NOT EXISTS objects_by_name ON objects (class, name)
        WHERE name IS NOT NULL;
    CREATE INDEX IF NOT EXISTS objects_without_name ON objects (class, id) WHERE name IS NULL;
    CREATE TABLE IF NOT EXISTS saved (
        hash BLOB PRIMARY KEY,
        class INTEGER NOT NULL,
        id BLOB NOT NULL,
        name TEXT,
        label TEXT NOT NULL,
        created_ms INTEGER NOT NULL
    ) WITHOUT ROWID;";

impl Catalog {
    /// Opens the catalog, making an empty one if there is none.
    pub fn open(vfs: &Rc<Vfs>) -> Result<Catalog> {
        let db = connect(vfs)?;
        db.execute_batch(SCHEMA).map_err(failed)?;
        db.backing.commit()?;
        let counts = || {
            db.prepare("SELECT class, COUNT(*) FROM objects GROUP BY class")?
                .query_map([], |row| {
                    let (class, count): (i64, i64) = (row.get(0)?, row.get(1)?);
                    Ok((class.cast_unsigned(), count.cast_unsigned()))
                })?
                .collect::<rusqlite::Result<_>>()
        };
        let counts = RefCell::new(counts().map_err(failed)?);
        Ok(Catalog(Rc::new(Inner {
            vfs: vfs.clone(),
            db: RefCell::new(Some(db)),
            is_closed: Cell::default(),
            counts,
        })))
    }

    /// Writes back what is durable, and closes it. Afterwards everything fails.
    pub fn close(&self) -> Result<()> {
        self.0.is_closed.set(true);
        let Some(db) = self.0.db.take() else {
            return Ok(());
        };
        let written = db.checkpoint();
        db.close().and(written).map(drop).map_err(failed)
    }

    /// The newest change. What depends on it must not be seen before that is durable.
    pub fn newest(&self) -> Lsn {
        let db = self.0.db.borrow();
        db.as_ref().map_or(Lsn::default(), |db| db.backing.newest())
    }

    fn read<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        self.reopen_if_lost()?;
        let db = self.0.db.borrow();
        let db = db.as_ref().ok_or(Error::ShuttingDown)?;
        work(db).map_err(failed)
    }

    /// Whether its log is so long that objects should come into being only when what is in it is
    /// durable, and can be written back.
    pub fn is_full(&self) -> bool {
        let db = self.0.db.borrow();
        db.as_ref()
            .is_some_and(|db| db.backing.log_pages() > PATIENCE * LONG_PAGES)
    }

    /// One statement that writes, and the writing back of the log if it has become long.
    fn write<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        self.reopen_if_lost()?;
        let db = self.0.db.borrow();
        let db = db.as_ref().ok_or(Error::ShuttingDown)?;
        db.backing.check_commit()?;
        if db.backing.log_pages() > LONG_PAGES
            && let Err(error) = db.checkpoint()
        {
            tracing::warn!(%error, "writing back the log of the catalog");
        }
        let done = work(db).map_err(failed)?;
        db.backing.commit()?;
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
        let again = Catalog::open(&self.0.vfs)?;
        self.0.db.replace(again.0.db.take());
        self.0.counts.replace(again.0.counts.take());
        Ok(())
    }

    /// Notes that an object has come into being. If it is there already, only a name that was not
    /// known before is taken.
    pub fn record(&self, class: u64, id: ObjectId, name: Option<&str>) -> Result<()> {
        let inserted = self.write(|db| {
            let (class, id) = (class.cast_signed(), id.as_bytes());
            let inserted = db
                .prepare_cached(
                    "INSERT INTO objects VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING",
                )?
                .execute(params![class, id, name, env::now_ms()])?;
            if inserted == 0 && name.is_some() {
                db.prepare_cached(
                    "UPDATE objects SET name = ?3 WHERE class = ?1 AND id = ?2 AND name IS NULL",
                )?
                .execute(params![class, id, name])?;
            }
            Ok(inserted)
        })?;
        if inserted > 0 {
            *self.0.counts.borrow_mut().entry(class).or_default() += 1;
        }
        Ok(())
    }

    /// Takes the name of an object that has come into being and had none.
    pub fn learn_name(&self, class: u64, id: ObjectId, name: &str) -> Result<()> {
        self.write(|db| {
            db.prepare_cached(
                "UPDATE objects SET name = ?3 WHERE class = ?1 AND id = ?2 AND name IS NULL",
            )?
            .execute(params![class.cast_signed(), id.as_bytes(), name])
        })?;
        Ok(())
    }

    /// The object's entry, if it has come into being.
    pub fn find(&self, class: u64, id: ObjectId) -> Result<Option<Listed>> {
        self.read(|db| {
            db.prepare_cached(
                "SELECT id, name, created_ms FROM objects WHERE class = ?1 AND id = ?2",
            )?
            .query_row(params![class.cast_signed(), id.as_bytes()], listed)
            .optional()
        })
    }

    /// How many objects of the class have come into being.
    pub fn count(&self, class: u64) -> u64 {
        self.0.counts.borrow().get(&class).copied().unwrap_or(0)
    }

    /// At most `limit` objects whose name starts with `prefix`; objects without a name come last,
    /// and only if `prefix` is empty.
    pub fn list(&self, class: u64, prefix: &str, after: &After, limit: u32) -> Result<Vec<Listed>> {
        self.read(|db| {
            let class = class.cast_signed();
            let mut page = Vec::new();
            if !matches!(after, After::Id(_)) {
                let after = match after {
                    After::Name(name) => Some(name.as_str()),
                    _ => None,
                };
                let from = after.map_or(prefix, |after| after.max(prefix));
                let end = past_prefix(prefix);
                let mut query = db.prepare_cached(
                    "SELECT id, name, created_ms FROM objects
                     WHERE class = ?1 AND name IS NOT NULL AND name >= ?2
                        AND (?3 IS NULL OR name > ?3) AND (?4 IS NULL OR name < ?4)
                     ORDER BY name LIMIT ?5",
                )?;
                for row in query.query_map(params![class, from, after, end, limit], listed)? {
                    page.push(row?);
                }
            }
            let left = limit - page.len() as u32;
            if prefix.is_empty() && left > 0 {
                let after = match after {
                    After::Id(id) => id.as_bytes(),
                    _ => &[],
                };
                let mut query = db.prepare_cached(
                    "SELECT id, name, created_ms FROM objects
                     WHERE class = ?1 AND name IS NULL AND id > ?2 ORDER BY id LIMIT ?3",
                )?;
                for row in query.query_map(params![class, after, left], listed)? {
                    page.push(row?);
                }
            }
            Ok(page)
        })
    }

    /// Saves a reference. Only the hash of the returned bytes is kept.
    pub fn save(&self, saved: &Saved, label: &str) -> Result<[u8; SAVED_BYTES]> {
        let reference = env::random::<SAVED_BYTES>();
        let Saved { class, id, name } = saved;
        let (class, id) = (class.cast_signed(), id.as_bytes());
        self.write(|db| {
            db.prepare_cached("INSERT INTO saved VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?
                .execute(params![
                    hash(&reference),
                    class,
                    id,
                    name,
                    label,
                    env::now_ms()
                ])
        })?;
        Ok(reference)
    }

    /// What a saved reference leads to.
    pub fn saved(&self, reference: &[u8]) -> Result<Option<Saved>> {
        self.read(|db| {
            db.prepare_cached("SELECT class, id, name FROM saved WHERE hash = ?1")?
                .query_row([hash(reference)], |row| {
                    let class: i64 = row.get(0)?;
                    Ok(Saved {
                        class: class.cast_unsigned(),
                        id: id(row, 1)?,
                        name: row.get(2)?,
                    })
                })
                .optional()
        })
    }

    /// Makes a saved reference worthless; false if it was already.
    pub fn forget(&self, reference: &[u8]) -> Result<bool> {
        self.write(|db| {
            let mut delete = db.prepare_cached("DELETE FROM saved WHERE hash = ?1")?;
            Ok(delete.execute([hash(reference)])? > 0)
        })
    }
}

/// Whether a catalog that nobody has open lists an object.
pub(crate) fn lists(db: &Connection, object: DatabaseId) -> rusqlite::Result<bool> {
    let DatabaseId { class, object } = object;
    db.prepare_cached("SELECT 1 FROM objects WHERE class = ?1 AND id = ?2")?
        .exists(params![class.cast_signed(), object.as_bytes()])
}

/// How many objects a catalog that nobody has open lists.
pub(crate) fn len(db: &Connection) -> rusqlite::Result<u64> {
    let count: i64 = db.query_row("SELECT count(*) FROM objects", [], |row| row.get(0))?;
    Ok(count.cast_unsigned())
}

/// Every object that a catalog lists that nobody has open, with its name. `each` may end it.
pub(crate) fn for_each<E: From<rusqlite::Error>>(
    db: &Connection,
    mut each: impl FnMut(DatabaseId, Option<String>) -> Result<(), E>,
) -> Result<(), E> {
    let mut query = db.prepare("SELECT class, id, name FROM objects ORDER BY class, id")?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        let class: i64 = row.get(0)?;
        let object = DatabaseId {
            class: class.cast_unsigned(),
            object: id(row, 1)?,
        };
        each(object, row.get(2)?)?;
    }
    Ok(())
}

fn connect(vfs: &Rc<Vfs>) -> Result<Attached> {
    let backing = Backing::open(vfs, DatabaseId::CATALOG)?;
    let connection = backing.connect().map_err(failed)?;
    storage::prepare_log(&connection).map_err(failed)?;
    Ok(Attached::new(connection, backing))
}

fn hash(reference: &[u8]) -> [u8; 32] {
    Sha256::digest(reference).into()
}

fn failed(error: rusqlite::Error) -> Error {
    Error::StorageFailed(format!("the catalog: {error}"))
}

/// The first text after all that start with `prefix`; none if there is no such text.
fn past_prefix(prefix: &str) -> Option<String> {
    let mut text: Vec<char> = prefix.chars().collect();
    while let Some(last) = text.pop() {
        // `char` has a gap where UTF-16 has its surrogates; UTF-8 order skips it alike.
        if let Some(next) = (last..=char::MAX).nth(1) {
            text.push(next);
            return Some(text.into_iter().collect());
        }
    }
    None
}

fn listed(row: &Row<'_>) -> rusqlite::Result<Listed> {
    Ok(Listed {
        id: id(row, 0)?,
        name: row.get(1)?,
        created_ms: row.get(2)?,
    })
}

fn id(row: &Row<'_>, column: usize) -> rusqlite::Result<ObjectId> {
    Ok(ObjectId(row.get(column)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn catalog(folder: &tempfile::TempDir) -> Catalog {
        Catalog::open(&crate::storage::testing::vfs(folder.path())).unwrap()
    }

    fn id(n: u8) -> ObjectId {
        ObjectId([n; 32])
    }

    fn names(page: &[Listed]) -> Vec<Option<&str>> {
        page.iter().map(|listed| listed.name.as_deref()).collect()
    }

    #[test]
    fn pages_go_through_every_object_once() {
        let folder = tempfile::tempdir().unwrap();
        let catalog = catalog(&folder);
        let wanted = [
            "a",
            "a\u{d7ff}",
            "a\u{e000}",
            "b",
            "b_1",
            "bx1",
            "\u{10ffff}",
        ];
        for (n, name) in wanted.iter().enumerate() {
            catalog.record(7, id(n as u8), Some(name)).unwrap();
        }
        catalog.record(7, id(100), None).unwrap();
        catalog.record(7, id(101), None).unwrap();
        catalog.record(8, id(0), Some("other class")).unwrap();
        let mut after = After::Beginning;
        let mut all = Vec::new();
        loop {
            let page = catalog.list(7, "", &after, 2).unwrap();
            let Some(last) = page.last() else { break };
            after = match &last.name {
                Some(name) => After::Name(name.clone()),
                None => After::Id(last.id),
            };
            all.extend(page);
        }
        assert_eq!(
            names(&all),
            wanted
                .map(Some)
                .into_iter()
                .chain([None, None])
                .collect::<Vec<_>>()
        );
        let listed = |prefix| catalog.list(7, prefix, &After::Beginning, 10).unwrap();
        assert_eq!(names(&listed("b_")), [Some("b_1")]);
        assert_eq!(names(&listed("\u{10ffff}")), [Some("\u{10ffff}")]);
        assert_eq!(names(&listed("a\u{d7ff}")), [Some("a\u{d7ff}")]);
        assert_eq!(
            (catalog.count(7), catalog.count(8), catalog.count(9)),
            (9, 1, 0)
        );
    }

    #[test]
    fn a_name_is_learnt_once_and_survives() {
        let folder = tempfile::tempdir().unwrap();
        let first = catalog(&folder);
        first.record(7, id(1), None).unwrap();
        first.record(7, id(1), Some("late")).unwrap();
        first.record(7, id(1), None).unwrap();
        first.close().unwrap();
        let again = Catalog::open(&first.0.vfs).unwrap();
        assert_eq!(
            again.find(7, id(1)).unwrap().unwrap().name.as_deref(),
            Some("late")
        );
        assert_eq!(again.find(7, id(2)).unwrap(), None);
        assert_eq!(again.count(7), 1);
    }

    #[test]
    fn a_saved_reference_is_good_until_it_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let catalog = catalog(&folder);
        let saved = Saved {
            class: u64::MAX,
            id: id(3),
            name: Some("x".into()),
        };
        let reference = catalog.save(&saved, "for later").unwrap();
        assert_eq!(catalog.saved(&reference).unwrap(), Some(saved));
        assert_eq!(catalog.saved(b"guess").unwrap(), None);
        assert!(catalog.forget(&reference).unwrap());
        assert!(!catalog.forget(&reference).unwrap());
        assert_eq!(catalog.saved(&reference).unwrap(), None);
    }
}
