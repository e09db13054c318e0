//! Files, as far as durability depends on them: real ones, or simulated ones in tests.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File, OpenOptions},
    io,
    os::{
        fd::AsFd,
        unix::fs::{FileExt, MetadataExt},
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use rustix::{
    fs::{FallocateFlags, FlockOperation, fallocate, fcntl_lock, syncfs},
    io::retry_on_intr,
};

/// A file system that holds a data folder.
pub trait Disk: Send + Sync + 'static {
    /// Opens a file for reading and writing.
    fn open(&self, path: &Path, open: Open) -> io::Result<Arc<dyn DiskFile>>;

    /// A file without a name, that is gone when it is dropped; in the same file system as `folder`.
    fn scratch(&self, folder: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// Removes a file. It may come back after a loss of power, until its folder is synced. With
    /// [`io::ErrorKind::Interrupted`] it may be gone or not; nothing else fails with that.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes a folder; one that is there already is fine.
    fn create_folder(&self, path: &Path) -> io::Result<()>;

    /// The names of everything in a folder, in no particular order.
    fn list(&self, folder: &Path) -> io::Result<Vec<String>>;

    /// When this returns, what was made in or removed from the folder stays so.
    fn sync_folder(&self, folder: &Path) -> io::Result<()>;

    /// When this returns, everything that was written, made or removed in the file systems that hold
    /// these folders stays so; a folder that is not there has none. For many files it is cheaper than to
    /// sync each.
    fn sync_all(&self, folders: &BTreeSet<PathBuf>) -> io::Result<()>;
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
    /// For each file system, by the number of its device, the folder that [`Disk::sync_all`] was first
    /// called for. It stays open, for that is how the kernel knows which errors we have not been told of.
    synced: Mutex<BTreeMap<u64, File>>,
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
        match retry_interrupted(|| fs::create_dir(path)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        }
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        retry_interrupted(|| {
            fs::read_dir(folder)?
                .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
                .collect()
        })
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        File::open(folder)?.sync_all()
    }

    fn sync_all(&self, folders: &BTreeSet<PathBuf>) -> io::Result<()> {
        // Nothing panics while it has the lock.
        let mut synced = self
            .synced
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut devices = BTreeSet::new();
        for folder in folders {
            let device = match retry_interrupted(|| fs::metadata(folder)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                found => found?.dev(),
            };
            if devices.insert(device) && !synced.contains_key(&device) {
                synced.insert(device, File::open(folder)?);
            }
        }
        for folder in devices.iter().filter_map(|device| synced.get(device)) {
            retry_on_intr(|| syncfs(folder))?;
        }
        Ok(())
    }
}

/// Tries again what a signal has interrupted, as the standard library does with most operations.
fn retry_interrupted<T>(mut operation: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match operation() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
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
        Ok(retry_interrupted(|| self.metadata())?.len())
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        File::set_len(self, bytes)
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        let allocate = || fallocate(self.as_fd(), FallocateFlags::empty(), 0, bytes);
        match retry_on_intr(allocate) {
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
        let lock = || fcntl_lock(self.as_fd(), FlockOperation::NonBlockingLockExclusive);
        Ok(retry_on_intr(lock)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_systems_of_all_folders_are_synced_each_once() {
        let folder = tempfile::tempdir().unwrap();
        let memory = Path::new("/dev/shm");
        let folders = [folder.path(), &folder.path().join("missing"), memory];
        let folders: BTreeSet<_> = folders.into_iter().map(Path::to_owned).collect();
        let devices: BTreeSet<_> = folders
            .iter()
            .filter_map(|folder| Some(fs::metadata(folder).ok()?.dev()))
            .collect();
        let disk = RealDisk::default();
        for _ in 0..2 {
            disk.sync_all(&folders).unwrap();
            let synced = disk.synced.lock().unwrap();
            assert!(synced.keys().eq(&devices));
        }
    }
}
