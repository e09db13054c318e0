//! The data folder: whose it is, what format it has, and where everything is in it.
//!
//! ```text
//! DATA/format              "vatwerk 4"
//! DATA/LOCK                locked while a vat uses the folder
//! DATA/SEGMENTS            which segments of the journal may hold commits
//! DATA/catalog.sqlite      names, saved references
//! DATA/journal/<number>.segment, <number>.pages
//! DATA/objects/<interface id>/<first two digits of id>/<id>.sqlite
//! ```

use std::{
    fmt,
    fs::{self, File, TryLockError},
    io::{self, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    str::FromStr,
};

use vatwerk::ObjectId;

/// The format that this version reads and writes. In the one before it, 3, the first page of a database
/// says that there is a write-ahead log. Such a database is used as it is; what knows only that cannot
/// use the others. Format 2 has no alarms: the catalog brings itself up to date, and what knew only that
/// would not run them.
const FORMAT: u32 = 4;

/// The format before there was a journal: each database has a write-ahead log of its own beside it.
const WITHOUT_JOURNAL: u32 = 1;

/// Names one database of a vat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DatabaseId {
    /// The interface id of the object's class; 0 for the catalog.
    pub class: u64,
    /// Which object.
    pub object: ObjectId,
}

impl DatabaseId {
    /// The catalog's.
    pub const CATALOG: DatabaseId = DatabaseId {
        class: 0,
        object: ObjectId([0; ObjectId::LEN]),
    };
}

/// `<interface id>-<object id>`, in hexadecimal digits.
impl fmt::Display for DatabaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{}", self.class, self.object)
    }
}

impl FromStr for DatabaseId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (class, object) = text.split_once('-').ok_or(())?;
        Ok(DatabaseId {
            class: u64::from_str_radix(class, 16).map_err(drop)?,
            object: object.parse().map_err(drop)?,
        })
    }
}

/// Where everything is in a data folder.
#[derive(Clone, Debug)]
pub struct Layout(PathBuf);

impl Layout {
    /// The layout of the folder at `path`.
    pub fn new(path: &Path) -> Layout {
        Layout(path.to_owned())
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.0
    }

    /// Where the journal is.
    pub fn journal(&self) -> PathBuf {
        self.0.join("journal")
    }

    /// Where it says which segments of the journal may hold commits.
    pub fn segments(&self) -> PathBuf {
        self.0.join("SEGMENTS")
    }

    /// Where objects' databases are.
    pub fn objects(&self) -> PathBuf {
        self.0.join("objects")
    }

    /// Where a database is, or would be.
    pub fn database(&self, id: DatabaseId) -> PathBuf {
        if id == DatabaseId::CATALOG {
            return self.0.join("catalog.sqlite");
        }
        let object = id.object.to_string();
        let mut path = self.objects();
        path.push(format!("{:016x}", id.class));
        path.push(&object[..2]);
        path.push(format!("{object}.sqlite"));
        path
    }

    /// The folders that lead to a database from the data folder, the outermost first.
    pub fn folders_of(&self, id: DatabaseId) -> Vec<PathBuf> {
        let database = self.database(id);
        let mut folders: Vec<PathBuf> = database
            .ancestors()
            .skip(1)
            .take_while(|folder| *folder != self.0)
            .map(Path::to_owned)
            .collect();
        folders.reverse();
        folders
    }
}

/// A data folder that is ours until this is dropped.
pub struct Folder {
    layout: Layout,
    _lock: File,
    was_there: bool,
}

/// Why a data folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// There is none, and none is to be made.
    #[error("{} is not the data folder of a vat: it has no file `format`", .0.display())]
    Missing(PathBuf),
    /// Another vat has it.
    #[error("the data folder {} is in use by another vat", .0.display())]
    InUse(PathBuf),
    /// It was written by a later version.
    #[error("the data folder {} has format {found}; this version knows {FORMAT}", path.display())]
    Newer {
        /// The folder.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// It has a file `format` that says something else.
    #[error("{} is not the data folder of a vat: its file `format` is not ours", .0.display())]
    Foreign(PathBuf),
    /// The data folder has no file `format`, and has other files that a vat makes.
    #[error(
        "the data folder {} has no file `format`, and has been used: put the file back. Of a folder that \
         this version has used it says `vatwerk {FORMAT}`", .0.display()
    )]
    Unmarked(PathBuf),
    /// The operating system refused.
    #[error("the data folder {}: {source}", path.display())]
    Io {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Folder {
    /// Takes the folder at `path`, making it if there is none.
    pub fn open(path: &Path) -> Result<Folder, FolderError> {
        let io = |source| FolderError::Io {
            path: path.to_owned(),
            source,
        };
        let layout = Layout::new(path);
        create_durably(path, OWNERS_ONLY).map_err(io)?;
        let lock = File::create(path.join("LOCK")).map_err(io)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(FolderError::InUse(path.to_owned())),
            Err(TryLockError::Error(source)) => return Err(io(source)),
        }
        let format = path.join("format");
        let found = match fs::read_to_string(&format) {
            Ok(text) => Some(known_format(path, &text)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(io(error)),
        };
        if found.is_none() {
            if is_used(&layout).map_err(io)? {
                return Err(FolderError::Unmarked(path.to_owned()));
            }
            // Whoever expects objects to be there is told that there are none.
            tracing::info!(path = %path.display(), "a new data folder: there are no objects in it");
        }
        create_durably(&layout.objects(), OWNERS_ONLY).map_err(io)?;
        create_durably(&layout.journal(), OWNERS_ONLY).map_err(io)?;
        if found == Some(WITHOUT_JOURNAL) {
            write_logs_back(path).map_err(io)?;
        }
        if found != Some(FORMAT) {
            write_durably(&format, &format!("vatwerk {FORMAT}\n")).map_err(io)?;
        }
        Ok(Folder {
            layout,
            _lock: lock,
            was_there: found == Some(FORMAT),
        })
    }

    /// Takes the folder at `path` as a vat has left it.
    pub fn open_existing(path: &Path) -> Result<Folder, FolderError> {
        match fs::metadata(path.join("format")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(FolderError::Missing(path.to_owned()))
            }
            // Whatever else is wrong with it is told when it is read.
            _ => Folder::open(path),
        }
    }

    /// Whether a vat that writes the same format has used it before.
    pub fn was_there(&self) -> bool {
        self.was_there
    }

    /// Where everything is in it.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }
}

/// Whether a vat has begun to use the folder: it makes a catalog and segments when the folder has its mark.
fn is_used(layout: &Layout) -> io::Result<bool> {
    let files = [layout.database(DatabaseId::CATALOG), layout.segments()];
    for file in files {
        if file.try_exists()? {
            return Ok(true);
        }
    }
    for folder in [layout.objects(), layout.journal()] {
        let is_empty = match fs::read_dir(folder) {
            Ok(mut entries) => entries.next().is_none(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => true,
            Err(error) => return Err(error),
        };
        if !is_empty {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The number in a file `format`, if this version can do with it.
fn known_format(path: &Path, text: &str) -> Result<u32, FolderError> {
    let number = text
        .trim_end()
        .strip_prefix("vatwerk ")
        .and_then(|number| number.parse().ok());
    match number {
        Some(found @ WITHOUT_JOURNAL..=FORMAT) => Ok(found),
        Some(found) if found > FORMAT => Err(FolderError::Newer {
            path: path.to_owned(),
            found,
        }),
        _ => Err(FolderError::Foreign(path.to_owned())),
    }
}

/// Brings every database of a folder from before the journal up to date with the log beside it, as
/// SQLite would: a vat that crashed has left them.
fn write_logs_back(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            write_logs_back(&path)?;
        }
        let name = path.to_string_lossy();
        let Some(database) = name.strip_suffix("-wal") else {
            continue;
        };
        let write_back = || {
            let connection = rusqlite::Connection::open(database)?;
            connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
            connection.close().map_err(|(_, error)| error)
        };
        write_back().map_err(io::Error::other)?;
    }
    Ok(())
}

/// The mode of a data folder that the vat makes: what objects store is nobody else's business. One that is
/// there keeps its mode.
const OWNERS_ONLY: u32 = 0o700;

/// Makes a folder with this mode, and those it is in with the usual one, that is still there after a loss of
/// power.
fn create_durably(path: &Path, mode: u32) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    create_durably(parent, 0o777)?;
    fs::DirBuilder::new().mode(mode).create(path)?;
    File::open(parent)?.sync_all()
}

/// Writes a file that is there whole, or not at all, whatever happens.
fn write_durably(path: &Path, text: &str) -> io::Result<()> {
    let beside = path.with_extension("new");
    let mut file = File::create(&beside)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    File::open(path.parent().unwrap_or(path))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_belongs_to_one_vat_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data");
        let first = Folder::open(&path).unwrap();
        assert!(matches!(Folder::open(&path), Err(FolderError::InUse(_))));
        drop(first);
        assert!(Folder::open(&path).is_ok());
    }

    #[test]
    fn a_folder_that_a_vat_makes_is_its_owners_only_and_one_that_is_there_stays_as_it_is() {
        use std::os::unix::fs::PermissionsExt;
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let folder = tempfile::tempdir().unwrap();
        let made = folder.path().join("in/data");
        drop(Folder::open(&made).unwrap());
        assert_eq!(mode(&made), 0o700);
        assert_eq!(mode(&Layout::new(&made).objects()), 0o700);
        let found = folder.path().join("found");
        fs::create_dir(&found).unwrap();
        fs::set_permissions(&found, fs::Permissions::from_mode(0o750)).unwrap();
        drop(Folder::open(&found).unwrap());
        assert_eq!(mode(&found), 0o750);
    }

    #[test]
    fn a_folder_of_another_format_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let format = folder.path().join("format");
        fs::write(&format, "vatwerk 5\n").unwrap();
        let newer = Folder::open(folder.path());
        assert!(matches!(newer, Err(FolderError::Newer { found: 5, .. })));
        fs::write(&format, "something else\n").unwrap();
        assert!(matches!(
            Folder::open(folder.path()),
            Err(FolderError::Foreign(_))
        ));
        assert_eq!(fs::read_to_string(&format).unwrap(), "something else\n");
        let objects = Layout::new(folder.path()).objects();
        assert!(!objects.exists(), "it is not ours to write to");
    }

    #[test]
    fn a_folder_that_has_lost_its_mark_is_not_taken_for_a_new_one() {
        let folder = tempfile::tempdir().unwrap();
        // As a crash leaves it before there is a mark.
        for name in ["objects", "journal"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        drop(Folder::open(folder.path()).unwrap());
        let format = folder.path().join("format");
        for used in ["catalog.sqlite", "SEGMENTS", "objects/0", "journal/0"] {
            fs::write(folder.path().join(used), "").unwrap();
            fs::remove_file(&format).unwrap();
            let refused = Folder::open(folder.path());
            assert!(matches!(refused, Err(FolderError::Unmarked(_))), "{used}");
            assert!(!format.exists());
            fs::write(&format, format!("vatwerk {FORMAT}\n")).unwrap();
            drop(Folder::open(folder.path()).unwrap());
            fs::remove_file(folder.path().join(used)).unwrap();
        }
    }

    #[test]
    fn a_folder_that_must_be_there_is_not_made() {
        let folder = tempfile::tempdir().unwrap();
        for path in [folder.path(), &folder.path().join("data")] {
            let missing = Folder::open_existing(path);
            assert!(matches!(missing, Err(FolderError::Missing(_))));
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        drop(Folder::open(folder.path()).unwrap());
        assert!(Folder::open_existing(folder.path()).is_ok());
    }

    #[test]
    fn a_folder_from_before_the_journal_is_brought_up_to_date() {
        let folder = tempfile::tempdir().unwrap();
        let objects = folder.path().join("objects/0000000000000001/ab");
        fs::create_dir_all(&objects).unwrap();
        let (live, database) = (objects.join("live"), objects.join("ab.sqlite"));
        crate::storage::configure_process();
        let connection = rusqlite::Connection::open(&live).unwrap();
        connection
            .execute_batch(
                "PRAGMA journal_mode = WAL; CREATE TABLE t (a); INSERT INTO t VALUES (5)",
            )
            .unwrap();
        // As a crash leaves it: with its log.
        fs::copy(&live, &database).unwrap();
        fs::copy(objects.join("live-wal"), objects.join("ab.sqlite-wal")).unwrap();
        drop(connection);
        fs::remove_file(&live).unwrap();
        fs::write(folder.path().join("format"), "vatwerk 1\n").unwrap();
        drop(Folder::open(folder.path()).unwrap());
        assert!(!objects.join("ab.sqlite-wal").exists());
        let connection = rusqlite::Connection::open(&database).unwrap();
        let value: i64 = connection
            .query_row("SELECT a FROM t", [], |row| row.get(0))
            .unwrap();
        assert_eq!(value, 5);
        let format = fs::read_to_string(folder.path().join("format")).unwrap();
        assert_eq!(format, "vatwerk 4\n");
    }

    #[test]
    fn the_name_of_a_database_is_read_back() {
        let id = DatabaseId {
            class: u64::MAX - 1,
            object: ObjectId([0xA5; 32]),
        };
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(
            DatabaseId::CATALOG.to_string().parse(),
            Ok(DatabaseId::CATALOG)
        );
        assert_eq!("x-y".parse::<DatabaseId>(), Err(()));
    }
}
