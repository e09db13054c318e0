//! A disk in memory that loses power, fails and fills up as a test wants it to.
//!
//! What is written is *visible* at once and *pending* until it is synced. A file's content is synced
//! by its own [`DiskFile::sync`], its name by the [`Disk::sync_folder`] of the folder that it is in,
//! and that folder's name by its parent's. [`SimDisk::after_crash`] is the disk as it is found after a
//! loss of power: what was synced is there, and of what was pending, whatever the [`Survival`] says.
//!
//! A run is a function of what is done and of the seeds. A test of recovery runs once to learn how
//! many [`operations`](SimDisk::operations) there are, then again for each `n` of them with
//! [`crash_at(n)`](SimDisk::crash_at), and looks at what every kind of survival leaves behind.

mod content;
mod fault;
mod folder;
mod inode;
mod schedule;
mod survival;
#[cfg(test)]
mod tests;
mod volume;

pub use fault::{Fault, Operation, is_crash};
pub use survival::Survival;

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use self::{
    content::Content,
    volume::{Handle, Volume},
};
use super::{Disk, DiskFile, Open};

/// A disk in memory. Clones are the same disk.
#[derive(Clone)]
pub struct SimDisk(Arc<Mutex<Volume>>);

impl SimDisk {
    /// A disk with nothing on it but this folder and those above it, which no crash takes away.
    pub fn new(folder: impl AsRef<Path>) -> SimDisk {
        SimDisk::from_volume(Volume::new(folder.as_ref()))
    }

    fn from_volume(volume: Volume) -> SimDisk {
        SimDisk(Arc::new(Mutex::new(volume)))
    }

    /// Takes the power away, if it is not gone yet, and returns the disk as it is found afterwards.
    ///
    /// This disk and its handles fail from now on. It may be asked again, for other ways in which the
    /// same crash could have ended. The new disk has the same capacity, no faults, and counts its
    /// operations from zero.
    pub fn after_crash(&self, survival: impl Into<Survival>) -> SimDisk {
        SimDisk::from_volume(lock(&self.0).after_crash(survival.into()))
    }

    /// How many operations there have been that change the disk: writes, changes of length,
    /// allocations, creations, removals and syncs. Those that failed count.
    pub fn operations(&self) -> u64 {
        lock(&self.0).schedule.operations()
    }

    /// The power goes when the `n`-th operation comes; the first is 1. That operation and all later
    /// ones, reads too, fail with an error for which [`is_crash`] holds.
    ///
    /// The `n`-th is not performed, but a seeded survival may find a part of it on the disk.
    pub fn crash_at(&self, n: u64) {
        lock(&self.0).schedule.crash_at(n);
    }

    /// Takes the power away at the next operation that changes the disk and for which this holds.
    pub fn crash_when(&self, when: impl Fn(&Path, Operation) -> bool + Send + 'static) {
        lock(&self.0).schedule.crash_when(Box::new(when));
    }

    /// Whether the power is gone.
    pub fn has_crashed(&self) -> bool {
        lock(&self.0).schedule.has_crashed()
    }

    /// The kind of the operation at which [`crash_at`](SimDisk::crash_at) took the power away.
    pub fn crashed_in(&self) -> Option<Operation> {
        lock(&self.0).schedule.crashed_in()
    }

    /// Has operations fail, until [`heal`](SimDisk::heal) if the fault sets no number.
    pub fn fail(&self, fault: Fault) {
        lock(&self.0).schedule.fail(fault);
    }

    /// Takes back all faults. What they did remains.
    pub fn heal(&self) {
        lock(&self.0).schedule.heal();
    }

    /// How many bytes the lengths of all files may come to; `None` is without limit. When it is
    /// reached nothing grows and nothing is created, but what is there can be overwritten. Of a write
    /// that does not fit, the beginning is written.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        lock(&self.0).set_capacity(bytes);
    }

    /// How many bytes the lengths of all files come to, removed ones that are still open included.
    pub fn used_bytes(&self) -> u64 {
        lock(&self.0).used_bytes()
    }

    /// The visible content of a file, if it is there. Works on a crashed disk too, as do
    /// [`files`](SimDisk::files) and [`export`](SimDisk::export), and is no operation.
    pub fn read(&self, path: impl AsRef<Path>) -> Option<Vec<u8>> {
        let volume = lock(&self.0);
        let content = volume.content(path.as_ref())?;
        let mut bytes = vec![0; usize::try_from(content.len()).expect("fits in memory")];
        content.read(&mut bytes, 0);
        Some(bytes)
    }

    /// The paths of all files, sorted.
    pub fn files(&self) -> Vec<PathBuf> {
        lock(&self.0).files()
    }

    /// Copies all files, with the folders they are in, into a folder of the real file system. There,
    /// the root of this disk is `to`.
    pub fn export(&self, to: &Path) -> io::Result<()> {
        let volume = lock(&self.0);
        for path in volume.files() {
            let target = to.join(path.strip_prefix("/").unwrap_or(&path));
            if let Some(folder) = target.parent() {
                fs::create_dir_all(folder)?;
            }
            if let Some(content) = volume.content(&path) {
                content.copy_to(&fs::File::create(&target)?)?;
            }
        }
        Ok(())
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &Path, open: Open) -> io::Result<Arc<dyn DiskFile>> {
        let handle = lock(&self.0).open(path, open)?;
        Ok(Arc::new(SimFile {
            volume: self.0.clone(),
            handle,
        }))
    }

    fn scratch(&self, folder: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut volume = lock(&self.0);
        volume.expect_folder(folder)?;
        let path = folder.join(SCRATCH);
        volume.schedule.begin_scratch(&path, Operation::Create)?;
        Ok(Arc::new(Scratch {
            volume: self.0.clone(),
            path,
            content: Mutex::default(),
        }))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        lock(&self.0).remove(path)
    }

    fn create_folder(&self, path: &Path) -> io::Result<()> {
        lock(&self.0).create_folder(path)
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        lock(&self.0).list(folder)
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        lock(&self.0).sync_folder(folder)
    }

    /// There is one file system.
    fn sync_all(&self, folders: &BTreeSet<PathBuf>) -> io::Result<()> {
        match folders.first() {
            Some(folder) => lock(&self.0).sync_all(folder),
            None => Ok(()),
        }
    }
}

struct SimFile {
    volume: Arc<Mutex<Volume>>,
    handle: Handle,
}

impl Drop for SimFile {
    fn drop(&mut self) {
        lock(&self.volume).close(&self.handle);
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        lock(&self.volume).read_at(&self.handle, buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        lock(&self.volume).write_at(&self.handle, bytes, offset)
    }

    fn bytes(&self) -> io::Result<u64> {
        lock(&self.volume).len(&self.handle)
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        lock(&self.volume).set_len(&self.handle, bytes)
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        lock(&self.volume).allocate(&self.handle, bytes)
    }

    fn sync(&self) -> io::Result<()> {
        lock(&self.volume).sync(&self.handle)
    }

    fn lock(&self) -> io::Result<()> {
        lock(&self.volume).lock(&self.handle)
    }
}

/// The name that faults see of a file without one.
const SCRATCH: &str = "scratch";

/// A file without a name: no crash finds it, so only faults strike it.
struct Scratch {
    volume: Arc<Mutex<Volume>>,
    path: PathBuf,
    content: Mutex<Content>,
}

impl Scratch {
    fn begin(&self, operation: Operation) -> io::Result<()> {
        let mut volume = lock(&self.volume);
        Ok(volume.schedule.begin_scratch(&self.path, operation)?)
    }
}

impl DiskFile for Scratch {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.begin(Operation::Read)?;
        Ok(lock(&self.content).read(buffer, offset))
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.begin(Operation::Write)?;
        if !bytes.is_empty() {
            let mut content = lock(&self.content);
            content.put(bytes, offset);
            content.extend_to(offset + bytes.len() as u64);
        }
        Ok(())
    }

    fn bytes(&self) -> io::Result<u64> {
        Ok(lock(&self.content).len())
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.begin(Operation::SetLen)?;
        lock(&self.content).set_len(bytes);
        Ok(())
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        self.begin(Operation::Allocate)?;
        lock(&self.content).extend_to(bytes);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn lock(&self) -> io::Result<()> {
        Ok(())
    }
}

/// A panic in a fault's predicate leaves nothing half done, so a poisoned lock is no reason to stop.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
