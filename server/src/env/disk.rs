//! Files, as far as durability depends on them: real ones, or simulated ones in tests.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::{fd::AsFd, unix::fs::FileExt},
    path::Path,
    sync::{Arc, OnceLock},
};

use rustix::fs::{FallocateFlags, FlockOperation, fallocate, fcntl_lock, syncfs};

/// A file system that holds a data folder.
pub trait Disk: Send + Sync + 'static {
    /// Opens a file for reading and writing.
    fn open(&self, path: &Path, open: Open) -> io::Result<Arc<dyn DiskFile>>;

    /// A file without a name, that is gone when it is dropped; in the same file system as `folder`.
    fn scratch(&self, folder: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// Removes a file. It may come back after a loss of power, until its folder is synced.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes a folder; one that is there already is fine.
    fn create_folder(&self, path: &Path) -> io::Result<()>;

    /// The names of everything in a folder, in no particular order.
    fn list(&self, folder: &Path) -> io::Result<Vec<String>>;

    /// When this returns, what was made in or removed from the folder stays so.
    fn sync_folder(&self, folder: &Path) -> io::Result<()>;

    /// When this returns, everything that was written, made or removed in the file system that holds
    /// `folder` stays so. For many files it is cheaper than to sync each.
    fn sync_all(&self, folder: &Path) -> io::Result<()>;
}

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Open {
    /// It must be there.
    Existing,
    /// It is made if it is not there.
    OrCreate,
}

/// An open file. From any thread.
pub trait DiskFile: Send + Sync {
    /// Fills `buffer` from the bytes at `offset`; returns how many there were before the end.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all of `bytes` at `offset`.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// How long it is, in bytes.
    fn bytes(&self) -> io::Result<u64>;

    /// Cuts it, or makes it longer by zeros.
    fn set_len(&self, bytes: u64) -> io::Result<()>;

    /// Makes it this long, with room on the disk for every byte.
    fn allocate(&self, bytes: u64) -> io::Result<()>;

    /// When this returns, what was written stays so. After an error nobody knows what does.
    fn sync(&self) -> io::Result<()>;

    /// Keeps other processes' SQLite from using it as a database, as long as it is open.
    /// [`io::ErrorKind::WouldBlock`] if one does.
    fn lock(&self) -> io::Result<()>;
}

/// The file system of the operating system.
#[derive(Debug, Default)]
pub struct RealDisk {
    /// The folder that [`Disk::sync_all`] was first called for. It stays open, for that is how the
    /// kernel knows which errors we have not been told of.
    synced: OnceLock<File>,
}

impl Disk for RealDisk {
    fn open(&self, path: &Path, open: Open) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(open == Open::OrCreate)
            .truncate(false)
            .open(path)?;
        Ok(Arc::new(file))
    }

    fn scratch(&self, folder: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(tempfile::tempfile_in(folder)?))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn create_folder(&self, path: &Path) -> io::Result<()> {
        match fs::create_dir(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        }
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        fs::read_dir(folder)?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect()
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        File::open(folder)?.sync_all()
    }

    fn sync_all(&self, folder: &Path) -> io::Result<()> {
        let folder = match self.synced.get() {
            Some(folder) => folder,
            None => {
                let folder = File::open(folder)?;
                self.synced.get_or_init(|| folder)
            }
        };
        Ok(syncfs(folder)?)
    }
}

impl DiskFile for File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match FileExt::read_at(self, &mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn bytes(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        File::set_len(self, bytes)
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        match fallocate(self.as_fd(), FallocateFlags::empty(), 0, bytes) {
            Err(rustix::io::Errno::OPNOTSUPP) if bytes > self.bytes()? => {
                File::set_len(self, bytes)
            }
            Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
            done => Ok(done?),
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn lock(&self) -> io::Result<()> {
        Ok(fcntl_lock(
            self.as_fd(),
            FlockOperation::NonBlockingLockExclusive,
        )?)
    }
}
