//! Making a catalog anew from the objects' own databases.

use rusqlite::{Connection, params};

use super::{alarms, ledger, objects, saved};
use crate::folder::DatabaseId;

/// An object that has a database.
pub(crate) struct Found {
    pub id: DatabaseId,
    /// Its name, if it has one.
    pub name: Option<String>,
    /// When it came into being, in milliseconds since 1970.
    pub created_ms: i64,
    /// When its file was last written, in milliseconds since 1970.
    pub written_ms: i64,
    /// How large its file is, in bytes.
    pub bytes: u64,
}

/// Lists in a catalog, which may be an empty database, every object that `each` passes on; returns how many
/// of them it did not list before. One transaction. Of an empty one saved references and what is known of
/// classes are lost. The index of alarms is made anew at the next start of a vat.
pub(crate) fn salvage<E: From<rusqlite::Error>>(
    db: &mut Connection,
    each: impl FnOnce(&mut dyn FnMut(Found) -> rusqlite::Result<()>) -> Result<(), E>,
) -> Result<u64, E> {
    let transaction = db.transaction()?;
    objects::prepare(&transaction)?;
    let mut added = 0;
    each(&mut |found| {
        added += list(&transaction, &found)? as u64;
        Ok(())
    })?;
    // These fill themselves from the objects, if they were not there.
    saved::prepare(&transaction)?;
    ledger::prepare(&transaction)?;
    alarms::prepare(&transaction)?;
    transaction.execute_batch(
        "INSERT INTO alarm_classes SELECT class, 0, FALSE FROM counts
            WHERE objects > 0
                AND class NOT IN (SELECT id FROM classes WHERE retired_ms IS NOT NULL)
            ON CONFLICT (class) DO UPDATE SET is_complete = FALSE",
    )?;
    transaction.commit()?;
    Ok(added)
}

/// Takes objects out of a catalog that nobody has open: they are lost. References that were saved stay, for
/// they may come into being again. One transaction.
pub(crate) fn strike_out(db: &mut Connection, lost: &[DatabaseId]) -> rusqlite::Result<()> {
    let transaction = db.transaction()?;
    objects::prepare(&transaction)?;
    alarms::prepare(&transaction)?;
    for DatabaseId { class, object } in lost {
        let key = params![class.cast_signed(), object.as_bytes()];
        transaction
            .prepare_cached("DELETE FROM alarms WHERE class = ?1 AND id = ?2")?
            .execute(key)?;
        transaction
            .prepare_cached("DELETE FROM objects WHERE class = ?1 AND id = ?2")?
            .execute(key)?;
    }
    transaction.commit()
}

/// Enters one object, or that it was written, if that was not known: its file is missed then.
fn list(db: &Connection, found: &Found) -> rusqlite::Result<usize> {
    let DatabaseId { class, object } = found.id;
    let values = params![
        class.cast_signed(),
        object.as_bytes(),
        found.name,
        found.created_ms,
        found.written_ms,
        found.bytes.cast_signed(),
    ];
    let added = db
        .prepare_cached(
            "INSERT INTO objects VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT DO NOTHING",
        )?
        .execute(values)?;
    if added == 0 {
        db.prepare_cached(
            "UPDATE objects SET name = coalesce(name, ?3), written_ms = ?5, bytes = ?6
             WHERE class = ?1 AND id = ?2 AND written_ms IS NULL AND ?4 IS NOT NULL",
        )?
        .execute(values)?;
    }
    Ok(added)
}
