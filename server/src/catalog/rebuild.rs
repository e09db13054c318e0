//! Making the index of alarms complete again, from objects' own records.

use rusqlite::{Connection, params};
use vatwerk::ObjectId;

use super::{Catalog, alarms, object_id, unsigned};
use crate::{Result, folder::DatabaseId, journal::Commits};

/// How far the rebuilding of the index is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rebuilt {
    /// How many objects have been read.
    pub objects: u64,
    /// How many there are to be read.
    pub of: u64,
}

/// How many objects are read for one commit of the rebuilding.
const BATCH: usize = if cfg!(test) { 4 } else { 10_000 };

impl Catalog {
    /// Whether alarms may be missing from the index, because it was lost, or an earlier version had
    /// none, or a class was put back: then [`Catalog::rebuild_alarms`] is to be called.
    pub fn needs_alarms(&self) -> Result<bool> {
        self.read(|db| {
            db.prepare_cached("SELECT 1 FROM alarm_classes WHERE NOT is_complete")?
                .exists([])
        })
    }

    /// Makes the index complete from objects' own records: `read` tells the earliest alarm in an
    /// object's database. An error of it ends the rebuilding. No object may be awake.
    ///
    /// It is done class by class in commits of some thousand objects, each of them durable before the
    /// next, so that no commit is large. If it is interrupted, [`Catalog::needs_alarms`] still says
    /// so, and classes that were not finished are begun again.
    pub async fn rebuild_alarms(
        &self,
        commits: &Commits,
        mut read: impl FnMut(DatabaseId) -> Result<Option<i64>>,
        mut progress: impl FnMut(Rebuilt),
    ) -> Result<()> {
        let classes = self.incomplete()?;
        let mut rebuilt = Rebuilt {
            objects: 0,
            of: classes.iter().map(|(_, objects)| objects).sum(),
        };
        for (class, _) in classes {
            let mut last = None;
            loop {
                let page = self.page(class, last)?;
                let is_last = page.len() < BATCH;
                let mut found = Vec::with_capacity(page.len());
                for object in &page {
                    found.push((*object, read(*object)?));
                }
                self.write(|db| {
                    for (object, due_ms) in found {
                        alarms::set(db, object, due_ms)?;
                    }
                    if is_last {
                        set_complete(db, class, true)?;
                    }
                    Ok(())
                })?;
                commits.durable(self.newest()).await?;
                rebuilt.objects += page.len() as u64;
                progress(rebuilt);
                if is_last {
                    break;
                }
                last = page.last().map(|last| last.object);
            }
        }
        Ok(())
    }

    /// The classes whose alarms may be missing, with how many objects they have.
    fn incomplete(&self) -> Result<Vec<(u64, u64)>> {
        self.read(|db| {
            db.prepare(
                "SELECT a.class, coalesce(c.objects, 0)
                 FROM alarm_classes a LEFT JOIN counts c ON c.class = a.class
                 WHERE NOT a.is_complete",
            )?
            .query_map([], |row| Ok((unsigned(row, 0)?, unsigned(row, 1)?)))?
            .collect()
        })
    }

    /// The objects of a class that come after the one with that id.
    fn page(&self, class: u64, after: Option<ObjectId>) -> Result<Vec<DatabaseId>> {
        let after = after.as_ref().map_or([].as_slice(), |id| id.as_bytes());
        self.read(|db| {
            db.prepare_cached(
                "SELECT id FROM objects WHERE class = ?1 AND id > ?2 ORDER BY id LIMIT ?3",
            )?
            .query_map(params![class.cast_signed(), after, BATCH as i64], |row| {
                let object = object_id(row, 0)?;
                Ok(DatabaseId { class, object })
            })?
            .collect()
        })
    }
}

/// Whether a catalog that nobody has open should have all alarms of a class in its index: not if it
/// is from a version without, is to be rebuilt at the next start, or if the class is retired.
pub(crate) fn has_every_alarm(db: &Connection, class: u64) -> rusqlite::Result<bool> {
    if !db.table_exists(None, c"alarms")? || !db.table_exists(None, c"alarm_classes")? {
        return Ok(false);
    }
    let is_exempt = db
        .prepare_cached(
            "SELECT 1 FROM alarm_classes WHERE class = ?1 AND NOT is_complete
             UNION ALL SELECT 1 FROM classes WHERE id = ?1 AND retired_ms IS NOT NULL",
        )?
        .exists([class.cast_signed()])?;
    Ok(!is_exempt)
}

/// Notes whether all alarms of a class are in the index.
pub(super) fn set_complete(db: &Connection, class: u64, is_complete: bool) -> rusqlite::Result<()> {
    db.execute(
        "INSERT INTO alarm_classes VALUES (?1, 0, ?2)
         ON CONFLICT (class) DO UPDATE SET is_complete = excluded.is_complete",
        params![class.cast_signed(), is_complete],
    )
    .map(drop)
}

#[cfg(test)]
mod tests {
    use super::{super::testing::*, *};
    use crate::Error;

    /// The alarm that an object of these tests has in its own database.
    fn own_alarm(object: DatabaseId) -> Option<i64> {
        let n = i64::from(object.object.0[0]);
        (n % 2 == 0).then_some(1000 + n)
    }

    fn assert_complete(catalog: &Catalog, objects: impl IntoIterator<Item = u8>) {
        assert!(!catalog.needs_alarms().unwrap());
        let mut count = 0;
        for n in objects {
            let alarm = catalog.alarm_of(object(n)).unwrap();
            assert_eq!(alarm, own_alarm(object(n)), "{n}");
            count += u64::from(alarm.is_some());
        }
        assert_eq!(catalog.alarm_count().unwrap(), count);
    }

    #[test]
    fn an_index_that_was_lost_is_rebuilt_and_begun_again_if_that_is_interrupted() {
        for table in ["alarms", "alarm_classes"] {
            let folder = tempfile::tempdir().unwrap();
            let catalog = catalog(&folder);
            for n in 0..10 {
                catalog.record(7, id(n), None).unwrap();
                catalog.expect_alarm(object(n), 5).unwrap();
            }
            catalog.record(8, id(0), None).unwrap();
            let lose = |db: &Connection| db.execute_batch(&format!("DROP TABLE {table}"));
            catalog.write(lose).unwrap();
            let catalog = reopen(catalog);
            assert!(catalog.needs_alarms().unwrap());
            assert_eq!(catalog.alarm_count().unwrap(), 0);
            assert!(!catalog.read(|db| has_every_alarm(db, 7)).unwrap());

            let mut left = 6;
            let interrupted = rebuild(&catalog, |_| {
                left -= 1;
                match left {
                    0 => Err(Error::ShuttingDown),
                    // It is another when it is read again.
                    _ => Ok(Some(1)),
                }
            });
            assert_eq!(interrupted, Err(Error::ShuttingDown));
            assert_eq!(catalog.alarm_count().unwrap(), 4, "the first batch");

            let catalog = reopen(catalog);
            assert!(catalog.needs_alarms().unwrap());
            let read =
                |object: DatabaseId| Ok((object.class == 7).then(|| own_alarm(object)).flatten());
            let told = rebuild(&catalog, read).unwrap();
            assert_eq!(told, [(4, 11), (8, 11), (10, 11), (11, 11)]);
            let catalog = reopen(catalog);
            assert_complete(&catalog, 0..10);
            assert!(catalog.read(|db| has_every_alarm(db, 7)).unwrap());
            assert_eq!(rebuild(&catalog, read), Ok(vec![]));
        }
    }

    #[test]
    fn the_alarms_of_a_class_go_when_it_is_retired_and_come_back_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let catalog = catalog(&folder);
        let other = DatabaseId {
            class: 8,
            object: id(0),
        };
        for (class, name) in [(7, "Room"), (8, "Cart")] {
            catalog.enter_class(class, name, b"").unwrap();
        }
        for n in 0..4 {
            catalog.record(7, id(n), None).unwrap();
            catalog.expect_alarm(object(n), 5).unwrap();
        }
        catalog.record(8, id(0), None).unwrap();
        catalog.expect_alarm(other, 5).unwrap();
        let before = position(&catalog);
        catalog.retire_class(7).unwrap();
        assert_eq!(position(&catalog), before + 1, "in one commit");
        assert_eq!(catalog.alarm_count().unwrap(), 1);
        assert!(!catalog.needs_alarms().unwrap());
        assert!(!catalog.read(|db| has_every_alarm(db, 7)).unwrap());
        assert!(catalog.read(|db| has_every_alarm(db, 8)).unwrap());

        // The rebuilding leaves it alone.
        catalog
            .write(|db| db.execute_batch("DROP TABLE alarms"))
            .unwrap();
        let catalog = reopen(catalog);
        rebuild(&catalog, |_| Ok(Some(5))).unwrap();
        assert_eq!(catalog.alarm_count().unwrap(), 1);

        catalog.enter_class(7, "Room", b"").unwrap();
        let catalog = reopen(catalog);
        assert!(catalog.needs_alarms().unwrap());
        let read = |object| {
            assert_ne!(object, other, "only what was put back is read");
            Ok(own_alarm(object))
        };
        assert_eq!(rebuild(&catalog, read).unwrap(), [(4, 4), (4, 4)]);
        assert_eq!(catalog.alarm_of(other).unwrap(), Some(5));
        catalog.remove(other, catalog.failures()).unwrap();
        assert_complete(&catalog, 0..4);
    }
}
