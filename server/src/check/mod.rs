//! Whether the data folder of a stopped vat is whole.
//!
//! First everything that the journal says is brought to the databases' files, as at a start: until
//! then they need not be whole. After that nothing is written. The structure of each database is
//! looked at, and whether the catalog and the files tell of the same objects.
//!
//! An object that the catalog lists and that has no file is a problem. It may be that the vat crashed
//! while the object was made, between two commits: then nothing is lost, and its next call makes it.
//! But a file that somebody has removed looks the same.

mod database;
mod finding;
mod rebuild;

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rusqlite::Connection;
use vatwerk::ObjectId;

pub use finding::{Finding, Kind, Progress, Summary, Watcher};

use crate::{
    catalog,
    env::RealDisk,
    folder::{DatabaseId, Folder, FolderError, Layout},
    id::IdScheme,
    journal::{Driver, Journal, JournalError, Settings},
    storage::Remembered,
};

/// Why a check has not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The data folder cannot be used.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The journal cannot be read.
    #[error(transparent)]
    Journal(JournalError),
    /// A file or folder cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The catalog cannot be made anew.
    #[error("making {} anew: {source}", path.display())]
    Rebuild {
        /// The catalog.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// The watcher cannot be told what was found.
    #[error(transparent)]
    Watcher(#[from] io::Error),
}

/// The options of a check, beside looking.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// List every object that has a database in the catalog: it is made anew if it is gone or damaged.
    pub rebuild_catalog: bool,
    /// Take every object whose file is gone out of the catalog: it is lost, and its next call makes it anew.
    pub accept_losses: bool,
}

/// Looks over the data folder at `path`, and tells `watcher` what it finds. If the journal is damaged,
/// nothing is changed, and nothing else is looked at.
pub fn check(
    path: &Path,
    options: Options,
    watcher: &mut dyn Watcher,
) -> Result<Summary, CheckError> {
    let folder = Folder::open_existing(path)?;
    let mut check = Check {
        layout: folder.layout().clone(),
        watcher,
        summary: Summary::default(),
        options,
        lost: Vec::new(),
    };
    if check.recover()? {
        if options.rebuild_catalog {
            check.rebuild_catalog()?;
        }
        let catalog = check.catalog()?;
        check.strangers()?;
        check.files(catalog.as_ref())?;
        check.listed(catalog.as_ref())?;
        drop(catalog);
        if !check.lost.is_empty() {
            let lost = std::mem::take(&mut check.lost);
            check.strike_out(&lost)?;
        }
    }
    Ok(check.summary)
}

/// A check under way.
struct Check<'a> {
    layout: Layout,
    watcher: &'a mut dyn Watcher,
    summary: Summary,
    options: Options,
    /// The objects whose loss is accepted.
    lost: Vec<DatabaseId>,
}

impl Check<'_> {
    fn found(
        &mut self,
        kind: Kind,
        path: &Path,
        text: impl Into<String>,
    ) -> Result<(), CheckError> {
        if kind.is_problem() {
            self.summary.problems += 1
        } else {
            self.summary.notes += 1
        }
        Ok(self.watcher.found(Finding::new(kind, path, text))?)
    }

    /// Brings the journal's commits to the files; false if it is damaged.
    fn recover(&mut self) -> Result<bool, CheckError> {
        let settings = Settings {
            driver: Driver::Caller,
            ..Settings::default()
        };
        let opened = Journal::open(
            Arc::new(RealDisk::default()),
            &self.layout,
            &settings,
            |progress| {
                let percent = 100 * progress.done / progress.total.max(1);
                self.watcher.progress(Progress::Journal(percent));
            },
        );
        match opened {
            Ok((journal, recovery)) => {
                self.summary.recovered = recovery.commits;
                for (id, reason) in journal.quarantined() {
                    let text = format!(
                        "it cannot be written: {reason}; what was committed since is held in the journal's \
                         folder, and brought to it by the next start or check that can write it"
                    );
                    self.found(Kind::Quarantined, &self.layout.database(id), text)?;
                }
                Ok(true)
            }
            Err(JournalError::Damaged {
                path,
                offset,
                damage,
            }) => {
                let text = format!(
                    "byte {offset}: {damage}; nothing was changed, and nothing else was looked at"
                );
                self.found(Kind::Damaged, &path, text)?;
                Ok(false)
            }
            Err(JournalError::Gone { path, roster }) => {
                let text = format!(
                    "commits may be in it and nowhere else; nothing was changed, and nothing else was looked \
                     at. To go on without them, remove {}",
                    roster.display()
                );
                self.found(Kind::Missing, &path, text)?;
                Ok(false)
            }
            Err(error) => Err(CheckError::Journal(error)),
        }
    }

    /// The catalog, if it is there and whole.
    fn catalog(&mut self) -> Result<Option<Connection>, CheckError> {
        let path = self.layout.database(DatabaseId::CATALOG);
        if !exists(&path)? {
            return Ok(None);
        }
        let opened = database::open(&path).map_err(|error| error.to_string());
        let whole = opened.and_then(|catalog| {
            let fault = database::fault(&catalog);
            let fault =
                fault.or_else(|| catalog::len(&catalog).err().map(|error| error.to_string()));
            fault.map_or(Ok(catalog), Err)
        });
        match whole {
            Ok(catalog) => Ok(Some(catalog)),
            Err(fault) => {
                self.found(Kind::Damaged, &path, fault)?;
                Ok(None)
            }
        }
    }

    /// Notes what is no vat's, outside the folder of objects.
    fn strangers(&mut self) -> Result<(), CheckError> {
        const OURS: [&str; 7] = [
            "format",
            "format.new",
            "LOCK",
            "SEGMENTS",
            "catalog.sqlite",
            "journal",
            "objects",
        ];
        let (root, journal) = (self.layout.root().to_owned(), self.layout.journal());
        for path in entries(&root)? {
            let is_ours = OURS.iter().any(|ours| path.ends_with(ours)) || is_socket(&path);
            if !is_ours {
                self.stranger(&path)?;
            }
        }
        for path in entries(&journal)? {
            let extension = path.extension().and_then(|extension| extension.to_str());
            if !matches!(extension, Some("segment" | "held")) {
                self.stranger(&path)?;
            }
        }
        Ok(())
    }

    fn stranger(&mut self, path: &Path) -> Result<(), CheckError> {
        self.found(Kind::Note, path, "no vat has made this")
    }

    /// Looks at everything that is in the folder of objects.
    fn files(&mut self, catalog: Option<&Connection>) -> Result<(), CheckError> {
        for class_folder in entries(&self.layout.objects())? {
            let Some(class) = class_of(&class_folder) else {
                self.stranger(&class_folder)?;
                continue;
            };
            let ids = IdScheme::new(class);
            for folder in entries(&class_folder)? {
                if !folder.is_dir() {
                    self.stranger(&folder)?;
                    continue;
                }
                for file in entries(&folder)? {
                    match object_of(&file) {
                        Some(object) => {
                            self.file(&file, DatabaseId { class, object }, &ids, catalog)?;
                        }
                        None => self.stranger(&file)?,
                    }
                }
            }
        }
        Ok(())
    }

    /// Looks at the file of one object.
    fn file(
        &mut self,
        path: &Path,
        id: DatabaseId,
        ids: &IdScheme,
        catalog: Option<&Connection>,
    ) -> Result<(), CheckError> {
        self.summary.objects += 1;
        self.watcher
            .progress(Progress::Objects(self.summary.objects));
        if ids.parse(id.object.as_bytes()).is_err() {
            return self.found(Kind::Misplaced, path, "its id is not one of this class");
        }
        let place = self.layout.database(id);
        if path != place {
            let text = format!("its place is {}", place.display());
            return self.found(Kind::Misplaced, path, text);
        }
        // What is wrong with the catalog is told when all of it is read.
        let listed = catalog.and_then(|catalog| catalog::lists(catalog, id).ok());
        let remembered = match look_at(path) {
            Ok(remembered) => remembered,
            Err(fault) => return self.found(Kind::Damaged, path, fault),
        };
        if let Some(name) = &remembered.name
            && ids.of_name(name) != Ok(id.object)
        {
            let text = format!("it is the database of the object named {name:?}");
            return self.found(Kind::Misplaced, path, text);
        }
        if let (Some(catalog), Some(due_ms)) = (catalog, remembered.next_alarm)
            && listed == Some(true)
            && !is_expected(catalog, id, due_ms).unwrap_or(true)
        {
            let text = "an alarm of it is not in the catalog; it is run when the object is called";
            self.found(Kind::Forgotten, path, text)?;
        }
        match (listed, remembered.created_ms.is_some()) {
            (Some(false), true) => self.found(
                Kind::Unlisted,
                path,
                "the catalog does not list this object; `vatwerk check --rebuild-catalog` enters it",
            ),
            (Some(_), false) => self.found(
                Kind::Note,
                path,
                "this object has not come into being; its next call makes it",
            ),
            (Some(true), true) | (None, _) => Ok(()),
        }
    }

    /// Looks for the file of every object that is listed.
    fn listed(&mut self, catalog: Option<&Connection>) -> Result<(), CheckError> {
        let path = self.layout.database(DatabaseId::CATALOG);
        let Some(catalog) = catalog else {
            // Of a vat that crashed in its first moment there is nothing at all.
            if self.summary.objects > 0 && !exists(&path)? {
                let text = "there are objects, and no catalog; `vatwerk check --rebuild-catalog` makes it anew";
                self.found(Kind::Missing, &path, text)?;
            }
            return Ok(());
        };
        let done = catalog::for_each(catalog, |id, name, is_written| {
            self.entry(id, name.as_deref(), is_written)
        });
        match done {
            Err(Stop::Catalog(error)) => self.found(Kind::Damaged, &path, error.to_string()),
            Err(Stop::Check(error)) => Err(error),
            Ok(()) => Ok(()),
        }
    }

    fn entry(&mut self, id: DatabaseId, name: Option<&str>, is_written: bool) -> Result<(), Stop> {
        let ids = IdScheme::new(id.class);
        let is_named = name.is_none_or(|name| ids.of_name(name) == Ok(id.object));
        let catalog = self.layout.database(DatabaseId::CATALOG);
        if ids.parse(id.object.as_bytes()).is_err() || !is_named {
            let text = format!("the entry of {id} contradicts itself");
            self.found(Kind::Damaged, &catalog, text)?;
        }
        let path = self.layout.database(id);
        if !exists(&path)? {
            let name = name.map_or(String::new(), |name| format!(" {name:?}"));
            if self.options.accept_losses {
                self.lost.push(id);
                let text = format!("the object{name} is lost, and is no longer listed");
                self.found(Kind::Note, &path, text)?;
                return Ok(());
            }
            let why = if is_written {
                "it was removed. Put it back; if it is lost, delete the object with `vatwerk objects \
                     delete`, or all such objects with `vatwerk check --accept-losses`. Until then its calls \
                     are refused"
            } else {
                "it was removed, or the vat crashed while it made the object, whose next call then \
                     makes it"
            };
            let text = format!("the object{name} is listed and has no file: {why}");
            self.found(Kind::Missing, &path, text)?;
        }
        Ok(())
    }
}

/// Why a walk through the catalog ends early.
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

/// Whether a vat would look at an object's alarm in time, or is about to learn of it, or is not to.
fn is_expected(catalog: &Connection, object: DatabaseId, due_ms: i64) -> rusqlite::Result<bool> {
    if !catalog::has_every_alarm(catalog, object.class)? {
        return Ok(true);
    }
    let known_ms = catalog::alarm(catalog, object)?;
    Ok(known_ms.is_some_and(|known_ms| known_ms <= due_ms))
}

/// What a database tells of its object, or what is wrong with it.
fn look_at(path: &Path) -> Result<Remembered, String> {
    let bytes = fs::metadata(path).map_err(|error| error.to_string())?.len();
    if bytes == 0 {
        // For SQLite that is a database, and for a vat it is none that it leaves.
        return Err("the file is empty".into());
    }
    let text = |error: rusqlite::Error| error.to_string();
    let connection = database::open(path).map_err(text)?;
    match database::fault(&connection) {
        Some(fault) => Err(fault),
        None => Remembered::read(&connection).map_err(text),
    }
}

/// The class whose objects' databases are in a folder.
fn class_of(folder: &Path) -> Option<u64> {
    let name = folder.file_name()?.to_str()?;
    let class = u64::from_str_radix(name, 16).ok()?;
    (folder.is_dir() && format!("{class:016x}") == name).then_some(class)
}

/// The object whose database a file is.
fn object_of(file: &Path) -> Option<ObjectId> {
    file.file_name()?
        .to_str()?
        .strip_suffix(".sqlite")?
        .parse()
        .ok()
}

/// What is in a folder, in order.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, CheckError> {
    let list = || -> io::Result<Vec<PathBuf>> {
        let mut paths = Vec::new();
        for entry in fs::read_dir(folder)? {
            paths.push(entry?.path());
        }
        paths.sort();
        Ok(paths)
    };
    list().map_err(|source| unreadable(folder, source))
}

fn exists(path: &Path) -> Result<bool, CheckError> {
    path.try_exists().map_err(|source| unreadable(path, source))
}

fn unreadable(path: &Path, source: io::Error) -> CheckError {
    CheckError::Io {
        path: path.to_owned(),
        source,
    }
}

/// A vat that was killed leaves its socket.
fn is_socket(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket())
}
