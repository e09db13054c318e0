//! The objects that have come into being: their names, and how many there are.

use rusqlite::{Connection, OptionalExtension, Row, params, types::Value};
use vatwerk::ObjectId;

use super::{Catalog, database_id, object_id, unsigned};
use crate::{Result, folder::DatabaseId, journal::Failures};

/// One object in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Which object.
    pub id: ObjectId,
    /// Its name, if it has one.
    pub name: Option<String>,
    /// When it came into being, in milliseconds since 1970.
    pub created_ms: i64,
    /// When it last wrote anything, in milliseconds since 1970, if that was noted.
    pub written_ms: Option<i64>,
    /// How large its database was then, in bytes, if that was noted.
    pub bytes: Option<u64>,
}

/// The rows that were added to the objects of a class, and taken away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// How many objects have come into being.
    pub created: u64,
    /// How many have ended.
    pub deleted: u64,
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

const OBJECTS: &str = "
    CREATE TABLE IF NOT EXISTS objects (
        class INTEGER NOT NULL,
        id BLOB NOT NULL,
        name TEXT,
        created_ms INTEGER NOT NULL,
        written_ms INTEGER,
        bytes INTEGER,
        PRIMARY KEY (class, id)
    ) WITHOUT ROWID;
    CREATE UNIQUE INDEX IF NOT EXISTS objects_by_name ON objects (class, name)
        WHERE name IS NOT NULL;
    CREATE INDEX IF NOT EXISTS objects_without_name ON objects (class, id) WHERE name IS NULL;";

/// To count a million rows at a start takes more than a second, if they have to be read from the disk.
const COUNTS: &str = "
    CREATE TABLE counts (class INTEGER PRIMARY KEY, objects INTEGER NOT NULL, bytes INTEGER NOT NULL);
    INSERT INTO counts SELECT class, count(*), ifnull(sum(bytes), 0) FROM objects GROUP BY class;
    CREATE TRIGGER object_added AFTER INSERT ON objects BEGIN
        INSERT INTO counts VALUES (NEW.class, 1, ifnull(NEW.bytes, 0))
            ON CONFLICT (class) DO UPDATE SET objects = objects + 1, bytes = bytes + excluded.bytes;
    END;
    CREATE TRIGGER object_sized AFTER UPDATE OF bytes ON objects WHEN NEW.bytes IS NOT OLD.bytes BEGIN
        UPDATE counts SET bytes = bytes + ifnull(NEW.bytes, 0) - ifnull(OLD.bytes, 0)
            WHERE class = OLD.class;
    END;
    CREATE TRIGGER object_removed AFTER DELETE ON objects BEGIN
        UPDATE counts SET objects = objects - 1, bytes = bytes - ifnull(OLD.bytes, 0)
            WHERE class = OLD.class;
    END;";

/// Before [`COUNTS`], in a catalog whose counts have no sizes.
const UNCOUNT: &str = "
    DROP TRIGGER object_added;
    DROP TRIGGER object_removed;
    DROP TABLE counts;";

const LIST_NAMED: &str = "SELECT id, name, created_ms, written_ms, bytes FROM objects
    WHERE class = ?1 AND name IS NOT NULL AND name >= ?2 AND name < ?3
    AND name IS NOT ?4
    ORDER BY name LIMIT ?5";

const LIST_UNNAMED: &str = "SELECT id, name, created_ms, written_ms, bytes FROM objects
    WHERE class = ?1 AND name IS NULL AND id > ?2 ORDER BY id LIMIT ?3";

const COUNT_NAMED: &str = "SELECT count(*) FROM objects
    WHERE class = ?1 AND name IS NOT NULL AND name >= ?2 AND name < ?3";

pub(super) fn prepare(db: &Connection) -> rusqlite::Result<()> {
    db.execute_batch(OBJECTS)?;
    // Those of earlier versions lack them.
    if !db.column_exists(None, c"objects", c"written_ms")? {
        db.execute_batch(
            "ALTER TABLE objects ADD COLUMN written_ms INTEGER;
             ALTER TABLE objects ADD COLUMN bytes INTEGER;",
        )?;
    }
    let is_counted = db.table_exists(None, c"counts")?;
    if is_counted && !db.column_exists(None, c"counts", c"bytes")? {
        db.execute_batch(UNCOUNT)?;
        db.execute_batch(COUNTS)?;
    } else if !is_counted {
        db.execute_batch(COUNTS)?;
    }
    Ok(())
}

impl Catalog {
    /// Notes that an object has come into being. If it is there already, only a name that was not
    /// known before is taken.
    pub fn record(&self, class: u64, id: ObjectId, name: Option<&str>) -> Result<()> {
        let created = self.write(|db| {
            let inserted = db
                .prepare_cached(
                    "INSERT INTO objects (class, id, name, created_ms) VALUES (?1, ?2, ?3, ?4)
                     ON CONFLICT DO NOTHING",
                )?
                .execute(params![
                    class.cast_signed(),
                    id.as_bytes(),
                    name,
                    self.0.clock.now_ms()
                ])?;
            match name {
                Some(name) if inserted == 0 => learn_name(db, class, id, name)?,
                _ => {}
            }
            Ok(inserted as u64)
        })?;
        self.count_change(class, |changes| changes.created += created);
        Ok(())
    }

    /// Takes the name of an object that has come into being and had none.
    pub fn learn_name(&self, class: u64, id: ObjectId, name: &str) -> Result<()> {
        self.write(|db| learn_name(db, class, id, name))
    }

    /// The object is no more: it is not listed, and has no alarm. References that were saved stay,
    /// for it may come into being again. False if it was not listed. Refused if the journal has failed
    /// since `failures`: the end of the object's database may not have happened.
    pub fn remove(&self, object: DatabaseId, failures: Failures) -> Result<bool> {
        let DatabaseId { class, object } = object;
        let key = params![class.cast_signed(), object.as_bytes()];
        let deleted = self.write_since(failures, |db| {
            db.prepare_cached("DELETE FROM alarms WHERE class = ?1 AND id = ?2")?
                .execute(key)?;
            let mut delete =
                db.prepare_cached("DELETE FROM objects WHERE class = ?1 AND id = ?2")?;
            Ok(delete.execute(key)? as u64)
        })?;
        self.count_change(class, |changes| changes.deleted += deleted);
        Ok(deleted > 0)
    }

    /// How many objects of the class have come into being and have ended since the catalog was opened. A
    /// change that its journal loses afterwards counts.
    pub fn changes(&self, class: u64) -> Changes {
        let changes = self.0.changes.borrow();
        changes.get(&class).copied().unwrap_or_default()
    }

    fn count_change(&self, class: u64, change: impl FnOnce(&mut Changes)) {
        change(self.0.changes.borrow_mut().entry(class).or_default());
    }

    /// Whether it was noted that something of the object has been written: then its database is there.
    pub fn is_written(&self, object: DatabaseId) -> Result<bool> {
        let DatabaseId { class, object } = object;
        self.read(|db| {
            db.prepare_cached(
                "SELECT 1 FROM objects WHERE class = ?1 AND id = ?2 AND written_ms IS NOT NULL",
            )?
            .exists(params![class.cast_signed(), object.as_bytes()])
        })
    }

    /// Takes back that something of the object has been written: from now on its database may be missing.
    /// To be called before the database is ended.
    pub fn forget_written(&self, object: DatabaseId) -> Result<()> {
        let DatabaseId { class, object } = object;
        self.write(|db| {
            db.prepare_cached(
                "UPDATE objects SET written_ms = NULL, bytes = NULL
                 WHERE class = ?1 AND id = ?2 AND written_ms IS NOT NULL",
            )?
            .execute(params![class.cast_signed(), object.as_bytes()])
            .map(drop)
        })
    }

    /// The object's entry, if it has come into being.
    pub fn find(&self, class: u64, id: ObjectId) -> Result<Option<Listed>> {
        self.read(|db| {
            db.prepare_cached(
                "SELECT id, name, created_ms, written_ms, bytes FROM objects
                 WHERE class = ?1 AND id = ?2",
            )?
            .query_row(params![class.cast_signed(), id.as_bytes()], listed)
            .optional()
        })
    }

    /// How many objects of the class have come into being.
    pub fn count(&self, class: u64) -> Result<u64> {
        self.size(class).map(|(objects, _)| objects)
    }

    /// How many objects of the class there are, and how many bytes their databases have in all, as far as
    /// that was noted.
    pub fn size(&self, class: u64) -> Result<(u64, u64)> {
        self.read(|db| {
            let mut query =
                db.prepare_cached("SELECT objects, bytes FROM counts WHERE class = ?1")?;
            let size = query.query_row([class.cast_signed()], |row| {
                Ok((unsigned(row, 0)?, unsigned(row, 1)?))
            });
            Ok(size.optional()?.unwrap_or_default())
        })
    }

    /// How many objects of the class have a name that starts with `prefix`; if that is empty, how
    /// many there are, with names or without. Otherwise it takes as long as there are many.
    pub fn count_prefix(&self, class: u64, prefix: &str) -> Result<u64> {
        if prefix.is_empty() {
            return self.count(class);
        }
        self.read(|db| {
            db.prepare_cached(COUNT_NAMED)?.query_row(
                params![class.cast_signed(), prefix, past_prefix(prefix)],
                |row| unsigned(row, 0),
            )
        })
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
                let mut query = db.prepare_cached(LIST_NAMED)?;
                for row in query.query_map(params![class, from, end, after, limit], listed)? {
                    page.push(row?);
                }
            }
            let left = limit - page.len() as u32;
            if prefix.is_empty() && left > 0 {
                let after = match after {
                    After::Id(id) => id.as_bytes(),
                    _ => &[],
                };
                let mut query = db.prepare_cached(LIST_UNNAMED)?;
                for row in query.query_map(params![class, after, left], listed)? {
                    page.push(row?);
                }
            }
            Ok(page)
        })
    }
}

fn learn_name(db: &Connection, class: u64, id: ObjectId, name: &str) -> rusqlite::Result<()> {
    db.prepare_cached("UPDATE objects SET name = ?3 WHERE class = ?1 AND id = ?2 AND name IS NULL")?
        .execute(params![class.cast_signed(), id.as_bytes(), name])
        .map(drop)
}

/// Whether a catalog that nobody has open lists an object.
pub(crate) fn lists(db: &Connection, object: DatabaseId) -> rusqlite::Result<bool> {
    let DatabaseId { class, object } = object;
    db.prepare_cached("SELECT 1 FROM objects WHERE class = ?1 AND id = ?2")?
        .exists(params![class.cast_signed(), object.as_bytes()])
}

/// How many objects a catalog that nobody has open lists.
pub(crate) fn len(db: &Connection) -> rusqlite::Result<u64> {
    db.query_row("SELECT count(*) FROM objects", [], |row| unsigned(row, 0))
}

/// Every object that a catalog lists that nobody has open, with its name, and whether it was
/// noted that something of it has been written. `each` may end it.
pub(crate) fn for_each<E: From<rusqlite::Error>>(
    db: &Connection,
    mut each: impl FnMut(DatabaseId, Option<String>, bool) -> Result<(), E>,
) -> Result<(), E> {
    // The catalogs of earlier versions lack it.
    let written = if db.column_exists(None, c"objects", c"written_ms")? {
        "written_ms IS NOT NULL"
    } else {
        "FALSE"
    };
    let mut query = db.prepare(&format!(
        "SELECT class, id, name, {written} FROM objects ORDER BY class, id"
    ))?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        each(database_id(row)?, row.get(2)?, row.get(3)?)?;
    }
    Ok(())
}

/// What comes after all texts that start with `prefix`.
fn past_prefix(prefix: &str) -> Value {
    let mut text: Vec<char> = prefix.chars().collect();
    while let Some(last) = text.pop() {
        // `char` has a gap where UTF-16 has its surrogates; UTF-8 order skips it alike.
        if let Some(next) = (last..=char::MAX).nth(1) {
            text.push(next);
            return Value::Text(text.into_iter().collect());
        }
    }
    // For SQLite any blob comes after every text.
    Value::Blob(Vec::new())
}

fn listed(row: &Row<'_>) -> rusqlite::Result<Listed> {
    let bytes: Option<i64> = row.get(4)?;
    Ok(Listed {
        id: object_id(row, 0)?,
        name: row.get(1)?,
        created_ms: row.get(2)?,
        written_ms: row.get(3)?,
        bytes: bytes.map(i64::cast_unsigned),
    })
}

#[cfg(test)]
mod tests {
    use super::{super::testing::*, *};

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
        for (prefix, expected) in [
            ("b_", &["b_1"][..]),
            ("b", &["b", "b_1", "bx1"]),
            ("\u{10ffff}", &["\u{10ffff}"]),
            ("a\u{d7ff}", &["a\u{d7ff}"]),
            ("c", &[]),
        ] {
            let page = catalog.list(7, prefix, &After::Beginning, 10).unwrap();
            let found: Vec<_> = names(&page).into_iter().flatten().collect();
            assert_eq!(found, expected);
            let count = catalog.count_prefix(7, prefix).unwrap();
            assert_eq!(count, expected.len() as u64, "{prefix}");
        }
        assert_eq!(catalog.count_prefix(7, "").unwrap(), 9);
        assert_eq!([7, 8, 9].map(|c| catalog.count(c).unwrap()), [9, 1, 0]);
    }

    #[test]
    fn what_is_listed_or_counted_is_looked_for_where_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let catalog = catalog(&folder);
        for query in [LIST_NAMED, LIST_UNNAMED, COUNT_NAMED] {
            assert_no_scan(&catalog, query);
        }
    }

    #[test]
    fn the_size_of_a_class_is_that_of_its_objects_also_of_an_older_catalog() {
        let folder = tempfile::tempdir().unwrap();
        let first = catalog(&folder);
        let sized = |catalog: &Catalog, n, bytes| {
            let activity = Some(super::super::Activity {
                written_ms: 1,
                bytes,
            });
            let note = super::super::Note {
                object: object(n),
                alarm: None,
                activity,
            };
            catalog.note(&[note], catalog.failures()).unwrap();
        };
        for n in 0..4 {
            first.record(7, id(n), None).unwrap();
            sized(&first, n, 4096);
        }
        first.record(7, id(4), None).unwrap();
        sized(&first, 0, 8192);
        sized(&first, 1, 4096);
        first.forget_written(object(2)).unwrap();
        assert!(first.remove(object(3), first.failures()).unwrap());
        assert_eq!(first.size(7).unwrap(), (4, 12_288));
        assert_eq!(first.size(8).unwrap(), (0, 0));
        // As an earlier version left it.
        let old = "
            CREATE TABLE counts (class INTEGER PRIMARY KEY, objects INTEGER NOT NULL);
            INSERT INTO counts SELECT class, count(*) FROM objects GROUP BY class;
            CREATE TRIGGER object_added AFTER INSERT ON objects BEGIN SELECT 1; END;
            CREATE TRIGGER object_removed AFTER DELETE ON objects BEGIN SELECT 1; END;";
        first
            .write(|db| {
                db.execute_batch("DROP TRIGGER object_sized")?;
                db.execute_batch(UNCOUNT)?;
                db.execute_batch(old)
            })
            .unwrap();
        let again = reopen(first);
        assert_eq!(again.size(7).unwrap(), (4, 12_288));
        again.record(7, id(9), None).unwrap();
        sized(&again, 9, 1);
        assert_eq!(again.size(7).unwrap(), (5, 12_289));
    }

    #[test]
    fn a_name_is_learnt_once_and_survives() {
        let folder = tempfile::tempdir().unwrap();
        let first = catalog(&folder);
        first.record(7, id(1), None).unwrap();
        first.record(7, id(1), Some("late")).unwrap();
        first.record(7, id(1), None).unwrap();
        let changes = |created, deleted| Changes { created, deleted };
        assert_eq!(first.changes(7), changes(1, 0));
        let again = reopen(first);
        assert_eq!(
            again.find(7, id(1)).unwrap().unwrap().name.as_deref(),
            Some("late")
        );
        assert_eq!(again.find(7, id(2)).unwrap(), None);
        assert_eq!(again.count(7).unwrap(), 1);
        for (n, removed) in [(2, false), (1, true), (1, false)] {
            let is_gone = again.remove(object(n), again.failures()).unwrap();
            assert_eq!(is_gone, removed);
        }
        assert_eq!(again.changes(7), changes(0, 1));
    }

    #[test]
    fn an_object_that_is_removed_leaves_only_its_saved_references() {
        let folder = tempfile::tempdir().unwrap();
        let first = catalog(&folder);
        for n in [1, 2] {
            first.record(7, id(n), Some(&format!("{n}"))).unwrap();
            first.expect_alarm(object(n), 5).unwrap();
        }
        let saved = super::super::Saved {
            class: 7,
            id: id(1),
            name: None,
        };
        let reference = first.save(&saved, "").unwrap();
        assert!(first.remove(object(1), first.failures()).unwrap());
        assert!(!first.remove(object(1), first.failures()).unwrap());
        let again = reopen(first);
        assert_eq!(again.find(7, id(1)).unwrap(), None);
        assert_eq!(again.alarm_of(object(1)).unwrap(), None);
        assert_eq!(again.alarm_of(object(2)).unwrap(), Some(5));
        assert_eq!((again.count(7), again.alarm_count()), (Ok(1), Ok(1)));
        assert_eq!(again.saved(&reference).unwrap(), Some(saved));
        again.record(7, id(1), Some("1")).unwrap();
        assert_eq!(again.count(7).unwrap(), 2);
    }
}
