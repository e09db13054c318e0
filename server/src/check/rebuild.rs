//! Making the catalog anew from the objects, when it is gone or damaged.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use rusqlite::Connection;

use super::{
    Check, CheckError, Kind, Progress, class_of, database, entries, look_at, object_of, unreadable,
};
use crate::{
    catalog::{self, Found},
    folder::{DatabaseId, Layout},
    id::IdScheme,
};

impl Check<'_> {
    /// Lists every object in the catalog that has a database and came into being: in the catalog that is
    /// there if it is whole, and else in a new one, beside which the old one is kept.
    pub(super) fn rebuild_catalog(&mut self) -> Result<(), CheckError> {
        let path = self.layout.database(DatabaseId::CATALOG);
        let is_whole = is_whole(&path);
        let target = if is_whole {
            path.clone()
        } else {
            path.with_extension("sqlite.new")
        };
        let added = self.salvage(&target).map_err(|stop| match stop {
            Stop::Check(error) => error,
            Stop::Catalog(source) => CheckError::Rebuild {
                path: path.clone(),
                source,
            },
        })?;
        let mut text = format!("{added} objects were entered that were not listed");
        if !is_whole {
            let kept = path.with_extension("sqlite.damaged");
            replace(&path, &target, &kept).map_err(|source| unreadable(&path, source))?;
            text.push_str("; saved references, and which classes are retired, are lost");
        }
        self.found(Kind::Note, &path, text)
    }

    /// Takes objects that are lost out of the catalog.
    pub(super) fn strike_out(&mut self, lost: &[DatabaseId]) -> Result<(), CheckError> {
        let path = self.layout.database(DatabaseId::CATALOG);
        let strike = || {
            let mut connection = open_whole(&path)?;
            catalog::strike_out(&mut connection, lost)?;
            connection.close().map_err(|(_, error)| error)
        };
        strike().map_err(|source| CheckError::Rebuild {
            path: path.clone(),
            source,
        })
    }

    fn salvage(&mut self, target: &Path) -> Result<u64, Stop> {
        let mut connection = open_whole(target)?;
        let mut read = 0;
        let added = catalog::salvage(&mut connection, |list| {
            each_database(&self.layout, &mut |path, id, ids| {
                read += 1;
                self.watcher.progress(Progress::Objects(read));
                if let Some(found) = found(path, id, ids)? {
                    list(found)?;
                }
                Ok::<_, Stop>(())
            })
        })?;
        connection.close().map_err(|(_, error)| error)?;
        Ok(added)
    }
}

/// Opens a catalog to be changed: one file, that is whole whatever happens.
fn open_whole(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.query_row("PRAGMA journal_mode = DELETE", [], |_| Ok(()))?;
    connection.execute_batch("PRAGMA synchronous = FULL")?;
    Ok(connection)
}

/// Why the catalog is not made.
enum Stop {
    Catalog(rusqlite::Error),
    Check(CheckError),
}

impl From<rusqlite::Error> for Stop {
    fn from(error: rusqlite::Error) -> Stop {
        Stop::Catalog(error)
    }
}

impl From<CheckError> for Stop {
    fn from(error: CheckError) -> Stop {
        Stop::Check(error)
    }
}

fn is_whole(path: &Path) -> bool {
    let is_empty = fs::metadata(path).map_or(true, |file| file.len() == 0);
    !is_empty
        && database::open(path).is_ok_and(|catalog| {
            database::fault(&catalog).is_none() && catalog::len(&catalog).is_ok()
        })
}

/// Puts a new catalog in the place of the old one, which is kept.
fn replace(path: &Path, new: &Path, kept: &Path) -> io::Result<()> {
    match fs::rename(path, kept) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::rename(new, path)?;
    File::open(path.parent().unwrap_or(path))?.sync_all()
}

/// Passes on every file that is in the place of an object's database.
fn each_database(
    layout: &Layout,
    each: &mut dyn FnMut(&PathBuf, DatabaseId, &IdScheme) -> Result<(), Stop>,
) -> Result<(), Stop> {
    for class_folder in entries(&layout.objects())? {
        let Some(class) = class_of(&class_folder) else {
            continue;
        };
        let ids = IdScheme::new(class);
        for folder in entries(&class_folder)?.iter().filter(|it| it.is_dir()) {
            for file in entries(folder)? {
                let Some(object) = object_of(&file) else {
                    continue;
                };
                let id = DatabaseId { class, object };
                if layout.database(id) == file {
                    each(&file, id, &ids)?;
                }
            }
        }
    }
    Ok(())
}

/// The row that lists an object: none if its database is damaged or another's, of which the check
/// tells, or if it has not come into being.
fn found(path: &Path, id: DatabaseId, ids: &IdScheme) -> Result<Option<Found>, CheckError> {
    let Ok(remembered) = look_at(path) else {
        return Ok(None);
    };
    let is_own = |name: &String| ids.of_name(name) == Ok(id.object);
    let is_at_home = ids.parse(id.object.as_bytes()).is_ok() && remembered.name.iter().all(is_own);
    let Some(created_ms) = remembered.created_ms.filter(|_| is_at_home) else {
        return Ok(None);
    };
    let file = fs::metadata(path).map_err(|source| unreadable(path, source))?;
    let written = file.modified().map_err(|source| unreadable(path, source))?;
    let since = written.duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(Some(Found {
        id,
        name: remembered.name,
        created_ms,
        written_ms: i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
        bytes: file.len(),
    }))
}
