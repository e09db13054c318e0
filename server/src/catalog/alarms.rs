//! The index of alarms: which object to wake when.
//!
//! The alarms themselves are in objects' databases. What callers keep is that the index never has an
//! object later than the earliest alarm in its own database. It may have it earlier, or have one that
//! has no alarm: whoever wakes the object finds out, and corrects it with a [`Note`](super::Note).

use rusqlite::{Connection, OptionalExtension, params};

use super::{Catalog, database_id, unsigned};
use crate::{Result, folder::DatabaseId};

/// One alarm in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlarmEntry {
    /// Whose it is.
    pub object: DatabaseId,
    /// The object's name, if it has one.
    pub name: Option<String>,
    /// When the object is to be woken, in milliseconds since 1970.
    pub due_ms: i64,
}

/// `alarm_classes` tells how many alarms there are of a class, and whether all of them are in the
/// index. A class of which it tells nothing has none.
const ALARMS: &str = "
    DROP TABLE IF EXISTS alarms;
    DROP TABLE IF EXISTS alarm_classes;
    CREATE TABLE alarms (
        class INTEGER NOT NULL,
        id BLOB NOT NULL,
        due_ms INTEGER NOT NULL,
        PRIMARY KEY (class, id)
    ) WITHOUT ROWID;
    CREATE INDEX alarms_by_due ON alarms (due_ms, class, id);
    CREATE TABLE alarm_classes (
        class INTEGER PRIMARY KEY,
        alarms INTEGER NOT NULL,
        is_complete INTEGER NOT NULL
    );
    CREATE TRIGGER alarm_added AFTER INSERT ON alarms BEGIN
        INSERT INTO alarm_classes VALUES (NEW.class, 1, TRUE)
            ON CONFLICT (class) DO UPDATE SET alarms = alarms + 1;
    END;
    CREATE TRIGGER alarm_removed AFTER DELETE ON alarms BEGIN
        UPDATE alarm_classes SET alarms = alarms - 1 WHERE class = OLD.class;
    END;
    INSERT INTO alarm_classes SELECT class, 0, FALSE FROM counts
        WHERE objects > 0
            AND class NOT IN (SELECT id FROM classes WHERE retired_ms IS NOT NULL);";

/// Whether the last process that ran alarms ended in order; without a row, none has run any yet. It is
/// no part of the index, which may be made anew.
const LIFE: &str = "CREATE TABLE IF NOT EXISTS alarm_life (is_over INTEGER NOT NULL)";

const DUE: &str = "SELECT class, id, due_ms FROM alarms WHERE due_ms <= ?1
    ORDER BY due_ms, class, id LIMIT ?2";

const LIST: &str = "SELECT a.class, a.id, a.due_ms, o.name
    FROM alarms a LEFT JOIN objects o ON o.class = a.class AND o.id = a.id
    WHERE (a.due_ms, a.class, a.id) > (?1, ?2, ?3)
    ORDER BY a.due_ms, a.class, a.id LIMIT ?4";

/// If the index is not there, it is made, and incomplete as far as there are objects.
pub(super) fn prepare(db: &Connection) -> rusqlite::Result<()> {
    let is_there = db.table_exists(None, c"alarms")? && db.table_exists(None, c"alarm_classes")?;
    if !is_there {
        db.execute_batch(ALARMS)?;
    }
    db.execute_batch(LIFE)
}

impl Catalog {
    /// Sees that the object is woken at `due_ms`, in milliseconds since 1970, at the latest. Writes
    /// nothing if it is already. To be called before the alarm is committed in the object's database.
    pub fn expect_alarm(&self, object: DatabaseId, due_ms: i64) -> Result<()> {
        if self.alarm_of(object)?.is_some_and(|known| known <= due_ms) {
            return Ok(());
        }
        let DatabaseId { class, object } = object;
        self.write(|db| {
            db.prepare_cached(
                "INSERT INTO alarms VALUES (?1, ?2, ?3)
                 ON CONFLICT (class, id) DO UPDATE SET due_ms = excluded.due_ms",
            )?
            .execute(params![class.cast_signed(), object.as_bytes(), due_ms])
            .map(drop)
        })
    }

    /// Notes that this process runs alarms from now on, and says whether the last one that did ended in
    /// order. Before that is durable no handler may run.
    pub fn begin_alarms(&self) -> Result<bool> {
        self.write(|db| {
            let was_over = db
                .prepare_cached("SELECT is_over FROM alarm_life")?
                .query_row([], |row| row.get(0))
                .optional()?;
            set_life(db, false)?;
            Ok(was_over.unwrap_or(true))
        })
    }

    /// Notes that this process runs no more alarms, and that none of them was cut short.
    pub fn end_alarms(&self) -> Result<()> {
        self.write(|db| set_life(db, true))
    }

    /// At most `limit` objects that are to be woken at `now_ms` or before, with when that was, the
    /// earliest first.
    pub fn alarms_due(&self, now_ms: i64, limit: u32) -> Result<Vec<(DatabaseId, i64)>> {
        self.read(|db| {
            db.prepare_cached(DUE)?
                .query_map([now_ms, limit.into()], |row| {
                    Ok((database_id(row)?, row.get(2)?))
                })?
                .collect()
        })
    }

    /// When the first object is to be woken, in milliseconds since 1970.
    pub fn next_alarm(&self) -> Result<Option<i64>> {
        self.read(|db| {
            db.prepare_cached("SELECT min(due_ms) FROM alarms")?
                .query_row([], |row| row.get(0))
        })
    }

    /// When an object is to be woken, in milliseconds since 1970.
    pub fn alarm_of(&self, object: DatabaseId) -> Result<Option<i64>> {
        self.read(|db| alarm(db, object))
    }

    /// How many objects are to be woken.
    pub fn alarm_count(&self) -> Result<u64> {
        self.read(|db| {
            db.prepare_cached("SELECT coalesce(sum(alarms), 0) FROM alarm_classes")?
                .query_row([], |row| unsigned(row, 0))
        })
    }

    /// At most `limit` alarms, the earliest first, from the beginning or after one. Those that are
    /// due at the same time have an order too.
    pub fn alarms(&self, after: Option<(i64, DatabaseId)>, limit: u32) -> Result<Vec<AlarmEntry>> {
        let (due_ms, class, id) = match &after {
            Some((due_ms, object)) => {
                let id: &[u8] = object.object.as_bytes();
                (*due_ms, object.class.cast_signed(), id)
            }
            None => (i64::MIN, i64::MIN, [].as_slice()),
        };
        self.read(|db| {
            db.prepare_cached(LIST)?
                .query_map(params![due_ms, class, id, limit], |row| {
                    Ok(AlarmEntry {
                        object: database_id(row)?,
                        due_ms: row.get(2)?,
                        name: row.get(3)?,
                    })
                })?
                .collect()
        })
    }
}

fn set_life(db: &Connection, is_over: bool) -> rusqlite::Result<()> {
    db.execute("DELETE FROM alarm_life WHERE is_over <> ?1", [is_over])?;
    let insert = "INSERT INTO alarm_life SELECT ?1 WHERE NOT EXISTS (SELECT 1 FROM alarm_life)";
    db.execute(insert, [is_over]).map(drop)
}

/// When a catalog that nobody has open would have an object woken, in milliseconds since 1970.
pub(crate) fn alarm(db: &Connection, object: DatabaseId) -> rusqlite::Result<Option<i64>> {
    let DatabaseId { class, object } = object;
    db.prepare_cached("SELECT due_ms FROM alarms WHERE class = ?1 AND id = ?2")?
        .query_row(params![class.cast_signed(), object.as_bytes()], |row| {
            row.get(0)
        })
        .optional()
}

/// Makes the index say of an object that it has this alarm, or none. Of an object that is not listed
/// an entry is changed, but not made.
pub(super) fn set(
    db: &Connection,
    object: DatabaseId,
    due_ms: Option<i64>,
) -> rusqlite::Result<()> {
    let DatabaseId { class, object } = object;
    let (class, id) = (class.cast_signed(), object.as_bytes());
    match due_ms {
        Some(due_ms) => db
            .prepare_cached(
                "INSERT INTO alarms SELECT ?1, ?2, ?3
                 WHERE EXISTS (SELECT 1 FROM objects WHERE class = ?1 AND id = ?2)
                    OR EXISTS (SELECT 1 FROM alarms WHERE class = ?1 AND id = ?2)
                 ON CONFLICT (class, id) DO UPDATE SET due_ms = excluded.due_ms
                    WHERE alarms.due_ms <> excluded.due_ms",
            )?
            .execute(params![class, id, due_ms]),
        None => db
            .prepare_cached("DELETE FROM alarms WHERE class = ?1 AND id = ?2")?
            .execute(params![class, id]),
    }
    .map(drop)
}

/// Takes all alarms of a class out of the index.
pub(super) fn remove_all(db: &Connection, class: u64) -> rusqlite::Result<()> {
    let class = class.cast_signed();
    db.execute("DELETE FROM alarms WHERE class = ?1", [class])?;
    db.execute("DELETE FROM alarm_classes WHERE class = ?1", [class])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{super::testing::*, *};

    #[test]
    fn an_object_is_expected_at_its_earliest_alarm() {
        let folder = tempfile::tempdir().unwrap();
        let first = catalog(&folder);
        assert_eq!(first.next_alarm().unwrap(), None);
        first.expect_alarm(object(1), 50).unwrap();
        let newest = first.newest();
        for later in [50, 51, i64::MAX] {
            first.expect_alarm(object(1), later).unwrap();
        }
        assert_eq!(first.newest(), newest, "there is nothing to write");
        assert_eq!(first.alarm_of(object(1)).unwrap(), Some(50));
        first.expect_alarm(object(1), 40).unwrap();
        first.expect_alarm(object(2), -3).unwrap();
        let again = reopen(first);
        assert_eq!(again.alarm_of(object(1)).unwrap(), Some(40));
        assert_eq!(again.next_alarm().unwrap(), Some(-3));
        assert_eq!(again.alarm_count().unwrap(), 2);
        assert!(!again.needs_alarms().unwrap());
    }

    #[test]
    fn a_process_learns_whether_the_last_one_that_ran_alarms_ended_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let first = catalog(&folder);
        assert!(first.begin_alarms().unwrap(), "there was none");
        let second = reopen(first);
        assert!(!second.begin_alarms().unwrap());
        let newest = second.newest();
        assert!(!second.begin_alarms().unwrap());
        assert_eq!(second.newest(), newest, "there is nothing to write");
        second.end_alarms().unwrap();
        // One that runs no alarms says nothing.
        let fourth = reopen(reopen(second));
        assert!(fourth.begin_alarms().unwrap());
    }

    #[test]
    fn what_is_due_is_looked_for_where_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let catalog = catalog(&folder);
        for query in [DUE, LIST] {
            assert_no_scan(&catalog, query);
        }
    }

    #[test]
    fn alarms_have_an_order_even_at_the_same_time() {
        let folder = tempfile::tempdir().unwrap();
        let catalog = catalog(&folder);
        catalog.record(7, id(2), Some("named")).unwrap();
        let of = |class, n| DatabaseId {
            class,
            object: id(n),
        };
        let wanted = [
            (5, of(u64::MAX, 9)),
            (5, of(7, 1)),
            (5, of(7, 2)),
            (5, of(8, 0)),
            (6, of(7, 0)),
            (6, of(8, 1)),
        ];
        for (due_ms, object) in wanted.iter().rev() {
            catalog.expect_alarm(*object, *due_ms).unwrap();
        }
        for limit in 1..=wanted.len() + 1 {
            let (mut all, mut after) = (Vec::new(), None);
            loop {
                let page = catalog.alarms(after, limit as u32).unwrap();
                let Some(last) = page.last() else { break };
                after = Some((last.due_ms, last.object));
                all.extend(page);
            }
            let found: Vec<_> = all
                .iter()
                .map(|alarm| (alarm.due_ms, alarm.object))
                .collect();
            assert_eq!(found, wanted);
            let names: Vec<_> = all
                .iter()
                .filter_map(|alarm| alarm.name.as_deref())
                .collect();
            assert_eq!(names, ["named"]);
        }
        let due = |now_ms, limit| {
            let due = catalog.alarms_due(now_ms, limit).unwrap();
            due.into_iter()
                .map(|(object, due_ms)| (due_ms, object))
                .collect::<Vec<_>>()
        };
        assert_eq!(due(4, 9), []);
        assert_eq!(due(5, 9), wanted[..4]);
        assert_eq!(due(6, 5), wanted[..5]);
    }
}
