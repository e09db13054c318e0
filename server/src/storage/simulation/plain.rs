//! What a clean stop leaves: plain files for any SQLite.

use std::{collections::BTreeSet, fmt::Display, fs, io, path::Path};

use rusqlite::{Connection, OpenFlags, Row};

use super::{
    failure::{Check, Failure},
    model::State,
    object::Object,
    vat::DATA,
};
use crate::{env::sim::SimDisk, folder::Layout, journal::PAGE_BYTES};

/// Opens every database with SQLite as it comes.
pub fn check(disk: &SimDisk, objects: &[Object]) -> Result<(), Failure> {
    let stop = |text: String| Failure::new(Check::Stop, text);
    for path in disk.files() {
        let name = path.to_string_lossy().into_owned();
        let bytes = disk.read(&path).unwrap_or_default();
        if name.ends_with(".segment") && bytes.get(16) == Some(&1) {
            return Err(stop(format!("{name} counts")));
        }
        if name.ends_with(".pages") || name.ends_with("-wal") || name.ends_with("-journal") {
            return Err(stop(format!("{name} is there")));
        }
    }
    let folder = tempfile::tempdir().map_err(|error| stop(error.to_string()))?;
    disk.export(folder.path())
        .map_err(|error| stop(error.to_string()))?;
    let layout = Layout::new(&folder.path().join(DATA.trim_start_matches('/')));
    for object in objects {
        let path = layout.database(object.id);
        let found = if path.exists() {
            let stop = |error: &dyn Display| stop(format!("{}: {error}", object.id));
            if !is_cut(&path).map_err(|error| stop(&error))? {
                return Err(stop(&"the file has pages behind its last"));
            }
            read(&path).map_err(|error| stop(&error))?
        } else {
            State::default()
        };
        if found != *object.history.newest() {
            let newest = object.history.newest();
            return Err(stop(format!(
                "{}: found {found:?}, wrote {newest:?}",
                object.id
            )));
        }
    }
    Ok(())
}

/// Whether a file is as long as it says that its database is, which is in its header.
fn is_cut(path: &Path) -> io::Result<bool> {
    let bytes = fs::read(path)?;
    let pages = bytes.get(28..32).and_then(|pages| pages.try_into().ok());
    let length = u64::from(pages.map_or(0, u32::from_be_bytes)) * PAGE_BYTES as u64;
    Ok(bytes.len() as u64 == length)
}

fn read(path: &Path) -> rusqlite::Result<State> {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    let answer: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
    if answer != "ok" {
        return Err(rusqlite::Error::InvalidParameterName(answer));
    }
    let mut state = State::default();
    let mut schema = connection.prepare(
        "SELECT type, name FROM sqlite_schema WHERE substr(name, 1, 7) <> 'sqlite_' ORDER BY name",
    )?;
    let names = schema.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let names: BTreeSet<(String, String)> = names.collect::<rusqlite::Result<_>>()?;
    for (kind, name) in names {
        if kind == "index" {
            state.indexes.insert(name);
        } else if name == "_vw_kv" {
            let mut pairs = connection.prepare("SELECT key, value FROM _vw_kv")?;
            let pairs = pairs.query_map([], |row| Ok((row.get(0)?, checksum(row)?)))?;
            state.pairs = pairs.collect::<rusqlite::Result<_>>()?;
        } else if !name.starts_with("_vw_") {
            let mut rows = connection.prepare(&format!("SELECT id, v FROM {name}"))?;
            let rows = rows.query_map([], |row| Ok((row.get(0)?, checksum(row)?)))?;
            state
                .tables
                .insert(name, rows.collect::<rusqlite::Result<_>>()?);
        }
    }
    Ok(state)
}

fn checksum(row: &Row<'_>) -> rusqlite::Result<u32> {
    Ok(crc32c::crc32c(row.get_ref(1)?.as_bytes()?))
}
