//! The data folder: whose it is, and what format it has.
//!
//! ```text
//! DATA/format              "vatwerk 1"
//! DATA/LOCK                locked while a vat uses the folder
//! DATA/catalog.sqlite      names, saved references
//! DATA/objects/<interface id>/<first two digits of id>/<id>.sqlite
//! ```

use std::{
    fs::{self, File, TryLockError},
    io::{self, Write},
    path::{Path, PathBuf},
};

/// The format that this version reads and writes.
const FORMAT: u32 = 1;

/// A data folder that is ours until this is dropped.
pub struct Folder {
    path: PathBuf,
    _lock: File,
}

/// Why a data folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
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
        create_durably(path).map_err(io)?;
        create_durably(&path.join("objects")).map_err(io)?;
        let lock = File::create(path.join("LOCK")).map_err(io)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(FolderError::InUse(path.to_owned())),
            Err(TryLockError::Error(source)) => return Err(io(source)),
        }
        let format = path.join("format");
        match fs::read_to_string(&format) {
            Ok(text) => check_format(path, &text)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                write_durably(&format, &format!("vatwerk {FORMAT}\n")).map_err(io)?;
            }
            Err(error) => return Err(io(error)),
        }
        Ok(Folder {
            path: path.to_owned(),
            _lock: lock,
        })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the catalog is.
    pub fn catalog(&self) -> PathBuf {
        self.path.join("catalog.sqlite")
    }

    /// Where objects' databases are.
    pub fn objects(&self) -> PathBuf {
        self.path.join("objects")
    }
}

fn check_format(path: &Path, text: &str) -> Result<(), FolderError> {
    let number = text
        .trim_end()
        .strip_prefix("vatwerk ")
        .and_then(|number| number.parse().ok());
    match number {
        Some(FORMAT) => Ok(()),
        Some(found) if found > FORMAT => Err(FolderError::Newer {
            path: path.to_owned(),
            found,
        }),
        _ => Err(FolderError::Foreign(path.to_owned())),
    }
}

/// Makes a folder, and those it is in, that is still there after a loss of power.
fn create_durably(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    create_durably(parent)?;
    fs::create_dir(path)?;
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
    fn a_folder_of_another_format_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let format = folder.path().join("format");
        fs::write(&format, "vatwerk 2\n").unwrap();
        let newer = Folder::open(folder.path());
        assert!(matches!(newer, Err(FolderError::Newer { found: 2, .. })));
        fs::write(&format, "something else\n").unwrap();
        assert!(matches!(
            Folder::open(folder.path()),
            Err(FolderError::Foreign(_))
        ));
        assert_eq!(fs::read_to_string(&format).unwrap(), "something else\n");
    }
}
