//! Saved references: which object some bytes lead to.

use rusqlite::{Connection, OptionalExtension, params};
use sha2::{Digest, Sha256};
use vatwerk::ObjectId;

use super::{Catalog, object_id, unsigned};
use crate::{Result, env};

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

pub(super) fn prepare(db: &Connection) -> rusqlite::Result<()> {
    db.execute_batch(
        "CREATE TABLE IF NOT EXISTS saved (
            hash BLOB PRIMARY KEY,
            class INTEGER NOT NULL,
            id BLOB NOT NULL,
            name TEXT,
            label TEXT NOT NULL,
            created_ms INTEGER NOT NULL
        ) WITHOUT ROWID",
    )
}

impl Catalog {
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
                    self.0.clock.now_ms()
                ])
        })?;
        Ok(reference)
    }

    /// What a saved reference leads to. It may not have come into being, or no longer be there.
    pub fn saved(&self, reference: &[u8]) -> Result<Option<Saved>> {
        self.read(|db| {
            db.prepare_cached("SELECT class, id, name FROM saved WHERE hash = ?1")?
                .query_row([hash(reference)], |row| {
                    Ok(Saved {
                        class: unsigned(row, 0)?,
                        id: object_id(row, 1)?,
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

fn hash(reference: &[u8]) -> [u8; 32] {
    Sha256::digest(reference).into()
}

#[cfg(test)]
mod tests {
    use super::{super::testing::*, *};

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
