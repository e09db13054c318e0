//! The ledger: every class that was ever served, and as what.

use rusqlite::{Connection, params};

use super::{Catalog, Change, LedgerEntry, alarms, rebuild, unsigned};
use crate::Result;

/// The classes of a catalog without a ledger are entered, whatever they were called.
const CLASSES: &str = "
    CREATE TABLE classes (
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL,
        schema BLOB NOT NULL,
        first_served_ms INTEGER NOT NULL,
        retired_ms INTEGER
    );
    INSERT INTO classes SELECT class, '', x'', min(created_ms), NULL FROM objects GROUP BY class;";

pub(super) fn prepare(db: &Connection) -> rusqlite::Result<()> {
    if db.table_exists(None, c"classes")? {
        Ok(())
    } else {
        db.execute_batch(CLASSES)
    }
}

impl Catalog {
    /// Every class that was ever served, by name.
    pub fn ledger(&self) -> Result<Vec<LedgerEntry>> {
        self.read(|db| {
            db.prepare(
                "SELECT id, coalesce(objects, 0), name, schema, retired_ms IS NOT NULL
                 FROM classes LEFT JOIN counts ON class = id ORDER BY name, id",
            )?
            .query_map([], |row| {
                Ok(LedgerEntry {
                    interface_id: unsigned(row, 0)?,
                    objects: unsigned(row, 1)?,
                    name: row.get(2)?,
                    schema: row.get(3)?,
                    retired: row.get(4)?,
                })
            })?
            .collect()
        })
    }

    /// Does to the ledger what [`reconcile`](super::reconcile) found. Afterwards alarms may be
    /// missing: see [`Catalog::needs_alarms`].
    pub fn apply(&self, change: &Change) -> Result<()> {
        match change {
            Change::Added(class)
            | Change::Changed(class)
            | Change::Renamed { class, .. }
            | Change::PutBack(class) => {
                self.enter_class(class.interface_id, class.name, class.schema)
            }
            Change::Retired { interface_id, .. } => self.retire_class(*interface_id),
        }
    }

    /// Enters a class, or what is different about it now. One that was retired no longer is: its
    /// alarms are missing then.
    pub fn enter_class(&self, interface_id: u64, name: &str, schema: &[u8]) -> Result<()> {
        let id = interface_id.cast_signed();
        self.write(|db| {
            let was_retired = "SELECT 1 FROM classes WHERE id = ?1 AND retired_ms IS NOT NULL";
            if db.prepare(was_retired)?.exists([id])? {
                rebuild::set_complete(db, interface_id, false)?;
            }
            db.execute(
                "INSERT INTO classes VALUES (?1, ?2, ?3, ?4, NULL)
                 ON CONFLICT (id) DO UPDATE
                    SET name = excluded.name, schema = excluded.schema, retired_ms = NULL
                    WHERE name <> excluded.name OR schema <> excluded.schema
                        OR retired_ms IS NOT NULL",
                params![id, name, schema, self.0.clock.now_ms()],
            )
            .map(drop)
        })
    }

    /// Notes that a class is not served any more, and is not missed: nobody wakes its objects.
    pub fn retire_class(&self, interface_id: u64) -> Result<()> {
        self.write(|db| {
            db.execute(
                "UPDATE classes SET retired_ms = ?2 WHERE id = ?1 AND retired_ms IS NULL",
                params![interface_id.cast_signed(), self.0.clock.now_ms()],
            )?;
            alarms::remove_all(db, interface_id)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Served, testing::*},
        *,
    };

    #[test]
    fn the_ledger_says_what_was_served_last() {
        let folder = tempfile::tempdir().unwrap();
        let first = catalog(&folder);
        let room = |name, schema| Served {
            name,
            interface_id: u64::MAX,
            schema,
        };
        first.apply(&Change::Added(room("Room", b"1"))).unwrap();
        first.enter_class(7, "Cart", b"").unwrap();
        first.record(7, id(1), None).unwrap();
        first.retire_class(7).unwrap();
        let newest = first.newest();
        first.enter_class(u64::MAX, "Room", b"1").unwrap();
        first.retire_class(7).unwrap();
        assert_eq!(first.newest(), newest, "there is nothing to write");
        let renamed = Change::Renamed {
            from: "Room".into(),
            class: room("Hall", b"2"),
        };
        first.apply(&renamed).unwrap();
        let cart = LedgerEntry {
            interface_id: 7,
            name: "Cart".into(),
            schema: vec![],
            retired: true,
            objects: 1,
        };
        let hall = LedgerEntry {
            interface_id: u64::MAX,
            name: "Hall".into(),
            schema: b"2".to_vec(),
            retired: false,
            objects: 0,
        };
        assert_eq!(reopen(first).ledger().unwrap(), [cart, hall]);
    }
}
