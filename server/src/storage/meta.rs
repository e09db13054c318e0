//! What the vat remembers about an object, in a table that user SQL cannot see.

use std::rc::Rc;

use rusqlite::{Connection, OptionalExtension};

use super::authorizer::{cached, ours};
use super::{Attached, Backing, Inner, SqlValue, Storage, Vfs, alarms, fault, leave_to_journal};
use crate::{Result, folder::DatabaseId};

const CREATED: &str = "created_ms";
const NAME: &str = "name";
const MIGRATIONS: &str = "migrations";
const STATE_VERSION: &str = "state_version";

/// Which version of its class an object's storage is of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Schema {
    /// How many of the class's SQL migrations it has had.
    pub migrations: u32,
    /// The version of what the class has stored.
    pub state_version: u32,
}

/// What the vat remembers about an object. It survives [`Storage::delete_all`]. Writes are part of
/// the turn like any other.
pub struct Meta {
    storage: Storage,
}

impl Meta {
    pub(super) fn new(storage: Storage) -> Meta {
        Meta { storage }
    }

    /// Whether the object's `create` has succeeded.
    pub fn created(&self) -> Result<bool> {
        Ok(self.get(CREATED)?.is_some())
    }

    /// Records that the object was created at `now_ms`, milliseconds since 1970, and its name if it
    /// has one.
    pub fn mark_created(&self, name: Option<&str>, now_ms: i64) -> Result<()> {
        self.storage.transaction(|_| {
            self.set(CREATED, Some(&now_ms.into()))?;
            name.map_or(Ok(()), |name| self.set_name(name))
        })
    }

    /// The name that the object's id was derived from, if it is known.
    pub fn name(&self) -> Result<Option<String>> {
        Ok(match self.get(NAME)? {
            Some(SqlValue::Text(name)) => Some(name),
            _ => None,
        })
    }

    /// Records the name that the object's id was derived from.
    pub fn set_name(&self, name: &str) -> Result<()> {
        self.set(NAME, Some(&name.into()))
    }

    /// Which version of its class the storage is of.
    pub fn schema(&self) -> Result<Schema> {
        let number = |key| {
            Ok::<_, crate::Error>(match self.get(key)? {
                Some(SqlValue::Integer(number)) => u32::try_from(number).unwrap_or(u32::MAX),
                _ => 0,
            })
        };
        Ok(Schema {
            migrations: number(MIGRATIONS)?,
            state_version: number(STATE_VERSION)?,
        })
    }

    /// Records that it is of that version.
    pub fn set_schema(&self, schema: Schema) -> Result<()> {
        self.set(MIGRATIONS, Some(&i64::from(schema.migrations).into()))?;
        self.set(STATE_VERSION, Some(&i64::from(schema.state_version).into()))
    }

    /// The value kept under `key`.
    pub(crate) fn get(&self, key: &str) -> Result<Option<SqlValue>> {
        self.storage.operate(None, |connection| {
            let inner = &self.storage.0;
            let _trusted = inner.gate.trust();
            let read = || {
                if !exists(connection)? {
                    return Ok(None);
                }
                cached(
                    connection,
                    ours!("SELECT value FROM _vw_meta WHERE key = ?1"),
                )?
                .query_row([key], |row| row.get_ref(0).map(SqlValue::from))
                .optional()
            };
            read().map_err(|error| inner.judge(connection, &error))
        })
    }

    /// Sets the value kept under `key`, or forgets it.
    pub(crate) fn set(&self, key: &str, value: Option<&SqlValue>) -> Result<()> {
        self.storage.write(None, |connection| {
            write(&self.storage.0, connection, key, value)
        })
    }
}

/// What the vat remembers about an object, as its database says that nobody has open.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Remembered {
    /// When the object came into being, in milliseconds since 1970, if it has: its `create` has succeeded.
    pub created_ms: Option<i64>,
    /// The name that the object's id was derived from, if it is known.
    pub name: Option<String>,
    /// When its earliest alarm is due, in milliseconds since 1970.
    pub next_alarm: Option<i64>,
}

impl Remembered {
    /// Reads it from a database of the vat's that nobody has open.
    pub fn of(vfs: &Rc<Vfs>, object: DatabaseId) -> Result<Remembered> {
        let backing = Backing::open(vfs, object)?;
        if !backing.exists() {
            return Ok(Remembered::default());
        }
        let read = || {
            let connection = backing.connect()?;
            leave_to_journal(&connection)?;
            let remembered = Remembered::read(&connection)?;
            Ok((connection, remembered))
        };
        let failed = |error: rusqlite::Error| {
            let id = object.object;
            fault::failed(&format!("the database of object {id}: "), &error)
        };
        let (connection, remembered) = read().map_err(failed)?;
        Attached::new(connection, backing).close().map_err(failed)?;
        Ok(remembered)
    }

    /// Reads it by a connection that need not be the vat's.
    pub fn read(connection: &Connection) -> rusqlite::Result<Remembered> {
        let next_alarm = alarms::next_due(connection)?;
        if !exists(connection)? {
            return Ok(Remembered {
                next_alarm,
                ..Remembered::default()
            });
        }
        let mut query = connection.prepare("SELECT value FROM _vw_meta WHERE key = ?1")?;
        Ok(Remembered {
            created_ms: query.query_row([CREATED], |row| row.get(0)).optional()?,
            name: query.query_row([NAME], |row| row.get(0)).optional()?,
            next_alarm,
        })
    }
}

fn exists(connection: &Connection) -> rusqlite::Result<bool> {
    connection.table_exists(None, c"_vw_meta")
}

fn write(
    inner: &Inner,
    connection: &Connection,
    key: &str,
    value: Option<&SqlValue>,
) -> Result<()> {
    let _trusted = inner.gate.trust();
    let write = || {
        if !exists(connection)? {
            connection.execute_batch(
                "CREATE TABLE _vw_meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID",
            )?;
        }
        match value {
            Some(value) => cached(
                connection,
                ours!("INSERT OR REPLACE INTO _vw_meta (key, value) VALUES (?1, ?2)"),
            )?
            .execute((key, value)),
            None => {
                cached(connection, ours!("DELETE FROM _vw_meta WHERE key = ?1"))?.execute([key])
            }
        }
    };
    write()
        .map(drop)
        .map_err(|error| inner.judge(connection, &error))
}

/// Everything that is remembered.
pub(super) fn rows(inner: &Inner, connection: &Connection) -> Result<Vec<(String, SqlValue)>> {
    let _trusted = inner.gate.trust();
    let read = || {
        if !exists(connection)? {
            return Ok(Vec::new());
        }
        connection
            .prepare("SELECT key, value FROM _vw_meta")?
            .query_map([], |row| Ok((row.get(0)?, SqlValue::from(row.get_ref(1)?))))?
            .collect()
    };
    read().map_err(|error| inner.judge(connection, &error))
}

/// Writes `rows` as they were.
pub(super) fn restore(
    inner: &Inner,
    connection: &Connection,
    rows: &[(String, SqlValue)],
) -> Result<()> {
    rows.iter()
        .try_for_each(|(key, value)| write(inner, connection, key, Some(value)))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{TestResult, open};

    #[test]
    fn remembers_across_reopening_and_delete_all() -> TestResult {
        let folder = tempfile::tempdir()?;
        let storage = open(&folder);
        assert!(!storage.meta().created()?);
        assert_eq!(storage.meta().name()?, None);
        storage.enter_turn();
        storage.meta().mark_created(Some("room"), 17)?;
        storage.kv().put("k", &1)?;
        storage.delete_all()?;
        assert!(storage.commit_turn()?.is_some());
        storage.close()?;

        let storage = open(&folder);
        assert!(storage.meta().created()?);
        assert_eq!(storage.meta().get(super::CREATED)?, Some(17.into()));
        assert_eq!(storage.meta().name()?.as_deref(), Some("room"));
        storage.meta().set_name("other")?;
        assert_eq!(storage.meta().name()?.as_deref(), Some("other"));
        storage.meta().set("alarm", Some(&5.into()))?;
        storage.meta().set("alarm", None)?;
        assert_eq!(storage.meta().get("alarm")?, None);
        Ok(())
    }

    #[test]
    fn a_rolled_back_turn_creates_nothing() -> TestResult {
        let folder = tempfile::tempdir()?;
        let storage = open(&folder);
        storage.enter_turn();
        storage.meta().mark_created(None, 1)?;
        assert!(storage.meta().created()?);
        storage.rollback_turn();
        assert!(!storage.meta().created()?);
        Ok(())
    }
}
