//! The file system: folders, files, and the room that they take.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::io::Errno;

use super::{
    super::Open,
    content::Content,
    fault::{Failure, Operation},
    folder::{Entry, FileId, Folder},
    inode::{Change, Inode, SECTOR},
    schedule::Schedule,
    survival::{Fates, Survival},
};

#[derive(Default)]
pub struct Volume {
    pub schedule: Schedule,
    folders: BTreeMap<PathBuf, Folder>,
    files: BTreeMap<FileId, Inode>,
    newest: u64,
    capacity: Option<u64>,
    /// An error that the next sync of everything tells of.
    untold: Option<Errno>,
    /// What the crash cut short.
    interrupted: Option<(FileId, Change)>,
}

/// An open file.
pub struct Handle {
    id: FileId,
    path: PathBuf,
    _open: Arc<()>,
}

impl Volume {
    pub fn new(folder: &Path) -> Volume {
        let mut volume = Volume::default();
        for folder in folder.ancestors() {
            volume.folders.insert(folder.to_owned(), Folder::default());
        }
        for path in folder.ancestors() {
            if let Ok((parent, name)) = volume.place(path) {
                parent.create(name, Entry::Folder);
            }
        }
        let mut fates = Fates::new(Survival::Everything);
        volume
            .folders
            .values_mut()
            .for_each(|folder| folder.settle(&mut fates));
        volume
    }

    pub fn set_capacity(&mut self, bytes: Option<u64>) {
        self.capacity = bytes;
    }

    pub fn used_bytes(&self) -> u64 {
        let alive = self.files.values().filter(|inode| inode.is_alive());
        alive.map(|inode| inode.visible().len()).sum()
    }

    pub fn content(&self, path: &Path) -> Option<&Content> {
        match self.folders.get(path.parent()?)?.get(path.file_name()?)? {
            Entry::File(id) => Some(self.files[&id].visible()),
            Entry::Folder => None,
        }
    }

    pub fn files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        for (path, folder) in &self.folders {
            for (name, entry) in folder.visible() {
                if let Entry::File(_) = entry {
                    files.push(path.join(name));
                }
            }
        }
        files.sort();
        files
    }

    pub fn after_crash(&mut self, survival: Survival) -> Volume {
        self.schedule.crash();
        let mut fates = Fates::new(survival);
        let mut after = Volume {
            newest: self.newest,
            capacity: self.capacity,
            ..Volume::default()
        };
        // A parent sorts before what is in it.
        for (path, folder) in &self.folders {
            let there = match (path.parent(), path.file_name()) {
                (Some(parent), Some(name)) => after
                    .folders
                    .get(parent)
                    .is_some_and(|parent| parent.get(name).is_some()),
                _ => true,
            };
            if there {
                let folder = folder.after_crash(&mut fates);
                after.folders.insert(path.clone(), folder);
            }
        }
        let interrupted = match survival {
            Survival::Seeded(_) => self.interrupted.as_ref(),
            Survival::Nothing | Survival::Everything => None,
        };
        for id in named(&after.folders) {
            let cut = interrupted.filter(|(file, _)| *file == id);
            let inode = self.files[&id].after_crash(cut.map(|(_, change)| change), &mut fates);
            after.files.insert(id, inode);
        }
        after
    }

    pub fn expect_folder(&self, path: &Path) -> io::Result<&Folder> {
        self.schedule.expect_power()?;
        self.folders.get(path).ok_or_else(not_found)
    }

    /// The folder that a path is in, and the name it has there.
    fn place<'a>(&mut self, path: &'a Path) -> io::Result<(&mut Folder, &'a OsStr)> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let folder = self.folders.get_mut(parent).ok_or_else(not_found)?;
        Ok((folder, name))
    }

    fn entry(&mut self, path: &Path) -> io::Result<Option<Entry>> {
        self.schedule.expect_power()?;
        let (folder, name) = self.place(path)?;
        Ok(folder.get(name))
    }

    pub fn open(&mut self, path: &Path, open: Open) -> io::Result<Handle> {
        let id = match (self.entry(path)?, open) {
            (Some(Entry::File(id)), _) => {
                self.schedule.begin(path, Operation::Open)?;
                id
            }
            (Some(Entry::Folder), _) => return Err(io::ErrorKind::IsADirectory.into()),
            (None, Open::Existing) => return Err(not_found()),
            (None, Open::OrCreate) => self.create(path)?,
        };
        Ok(Handle {
            id,
            path: path.to_owned(),
            _open: self.files[&id].open(),
        })
    }

    fn create(&mut self, path: &Path) -> io::Result<FileId> {
        self.begin_create(path)?;
        self.newest += 1;
        let id = FileId(self.newest);
        let (folder, name) = self.place(path)?;
        folder.create(name, Entry::File(id));
        self.files.insert(id, Inode::new(Content::default()));
        Ok(id)
    }

    pub fn create_folder(&mut self, path: &Path) -> io::Result<()> {
        match self.entry(path)? {
            Some(Entry::Folder) => return Ok(()),
            Some(Entry::File(_)) => return Err(io::ErrorKind::AlreadyExists.into()),
            None => self.begin_create(path)?,
        }
        let (folder, name) = self.place(path)?;
        folder.create(name, Entry::Folder);
        self.folders.insert(path.to_owned(), Folder::default());
        Ok(())
    }

    fn begin_create(&mut self, path: &Path) -> io::Result<()> {
        self.schedule.begin(path, Operation::Create)?;
        match self.free() {
            0 => Err(Errno::NOSPC.into()),
            _ => Ok(()),
        }
    }

    pub fn remove(&mut self, path: &Path) -> io::Result<()> {
        let id = match self.entry(path)? {
            Some(Entry::File(id)) => id,
            Some(Entry::Folder) => return Err(io::ErrorKind::IsADirectory.into()),
            None => return Err(not_found()),
        };
        let (is_done, result) = match self.schedule.begin(path, Operation::Remove) {
            Ok(()) => (true, Ok(())),
            Err(failure @ Failure::Fault(_, survival, _)) => {
                (Fates::new(survival).prefix(1) == 1, Err(failure.into()))
            }
            Err(crash) => return Err(crash.into()),
        };
        if !is_done {
            return result;
        }
        let (folder, name) = self.place(path)?;
        folder.remove(name);
        self.inode(id).unlink();
        result
    }

    pub fn list(&mut self, folder: &Path) -> io::Result<Vec<String>> {
        self.expect_folder(folder)?;
        self.schedule.begin(folder, Operation::List)?;
        let names = self.folders[folder].visible();
        Ok(names
            .map(|(name, _)| name.to_string_lossy().into_owned())
            .collect())
    }

    pub fn sync_folder(&mut self, folder: &Path) -> io::Result<()> {
        self.expect_folder(folder)?;
        let (mut fates, _, synced) = self.begin_sync(folder, Operation::SyncFolder)?;
        if let Some(folder) = self.folders.get_mut(folder) {
            folder.settle(&mut fates);
        }
        self.forget_removed();
        synced
    }

    pub fn sync_all(&mut self, folder: &Path) -> io::Result<()> {
        self.expect_folder(folder)?;
        let (mut fates, evicts, synced) = self.begin_sync(folder, Operation::SyncAll)?;
        for folder in self.folders.values_mut() {
            folder.settle(&mut fates);
        }
        for inode in self.files.values_mut() {
            inode.settle(&mut fates, evicts);
        }
        self.forget_removed();
        match self.untold.take() {
            Some(errno) => Err(errno.into()),
            None => synced,
        }
    }

    /// A handle is about to be dropped.
    pub fn close(&mut self, file: &Handle) {
        let Some(inode) = self.files.get_mut(&file.id) else {
            return;
        };
        if !inode.is_unsynced_and_closing() {
            return;
        }
        let failure = self
            .schedule
            .begin_scratch(&file.path, Operation::WriteBack);
        if let Err(Failure::Fault(errno, survival, _)) = failure {
            inode.settle(&mut Fates::new(survival), true);
            self.untold = Some(errno);
        }
    }

    pub fn sync(&mut self, file: &Handle) -> io::Result<()> {
        let (mut fates, evicts, synced) = self.begin_sync(&file.path, Operation::Sync)?;
        self.inode(file.id).settle(&mut fates, evicts);
        synced
    }

    /// The fates of what is to be synced, whether what is lost of it is evicted, and the result to return afterwards: a sync that fails
    /// settles what is pending too, only otherwise. At a crash nothing is settled yet.
    fn begin_sync(
        &mut self,
        path: &Path,
        operation: Operation,
    ) -> io::Result<(Fates, bool, io::Result<()>)> {
        match self.schedule.begin(path, operation) {
            Ok(()) => Ok((Fates::new(Survival::Everything), false, Ok(()))),
            Err(failure @ Failure::Fault(_, survival, evicts)) => {
                Ok((Fates::new(survival), evicts, Err(failure.into())))
            }
            Err(crash) => Err(crash.into()),
        }
    }

    /// Files that no crash brings back need not be kept.
    fn forget_removed(&mut self) {
        if self.files.values().any(|inode| !inode.is_alive()) {
            let named = named(&self.folders);
            self.files
                .retain(|id, inode| inode.is_alive() || named.contains(id));
        }
    }

    pub fn read_at(&mut self, file: &Handle, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.schedule.begin(&file.path, Operation::Read)?;
        Ok(self.files[&file.id].visible().read(buffer, offset))
    }

    pub fn lock(&mut self, file: &Handle) -> io::Result<()> {
        Ok(self.schedule.begin(&file.path, Operation::Lock)?)
    }

    pub fn len(&self, file: &Handle) -> io::Result<u64> {
        self.schedule.expect_power()?;
        Ok(self.files[&file.id].visible().len())
    }

    pub fn write_at(&mut self, file: &Handle, bytes: &[u8], offset: u64) -> io::Result<()> {
        let fitting = bytes.len().min(self.fitting(file.id, offset));
        let (written, result) = match self.schedule.begin(&file.path, Operation::Write) {
            Ok(()) if fitting < bytes.len() => (fitting, Err(Errno::NOSPC.into())),
            Ok(()) => (fitting, Ok(())),
            Err(failure @ Failure::Fault(_, survival, _)) => {
                let there = self.files[&file.id].visible().len();
                let written = Fates::new(survival).prefix(fitting);
                (whole_sectors(offset, written, there), Err(failure.into()))
            }
            Err(crash) if fitting > 0 => {
                let change = self.files[&file.id].writing(&bytes[..fitting], offset);
                return self.interrupt(file.id, change, crash);
            }
            Err(crash) => return Err(crash.into()),
        };
        if written > 0 {
            let inode = self.inode(file.id);
            inode.change(inode.writing(&bytes[..written], offset));
        }
        result
    }

    pub fn set_len(&mut self, file: &Handle, bytes: u64) -> io::Result<()> {
        let change = Change::SetLen(bytes);
        self.change_len(file, Operation::SetLen, bytes, change)
    }

    pub fn allocate(&mut self, file: &Handle, bytes: u64) -> io::Result<()> {
        let change = Change::Allocate(bytes);
        self.change_len(file, Operation::Allocate, bytes, change)
    }

    fn change_len(
        &mut self,
        file: &Handle,
        operation: Operation,
        bytes: u64,
        change: Change,
    ) -> io::Result<()> {
        if let Err(failure) = self.schedule.begin(&file.path, operation) {
            return self.interrupt(file.id, change, failure);
        }
        let growth = bytes.saturating_sub(self.files[&file.id].visible().len());
        if growth > self.free() {
            return Err(Errno::NOSPC.into());
        }
        self.inode(file.id).change(change);
        Ok(())
    }

    /// Fails, and remembers the change if it was the crash that it met.
    fn interrupt(&mut self, id: FileId, change: Change, failure: Failure) -> io::Result<()> {
        if let Failure::CrashPoint = failure {
            self.interrupted = Some((id, change));
        }
        Err(failure.into())
    }

    /// How many bytes can be written to a file at `offset`.
    fn fitting(&self, id: FileId, offset: u64) -> usize {
        let end = self.files[&id].visible().len().saturating_add(self.free());
        usize::try_from(end.saturating_sub(offset)).unwrap_or(usize::MAX)
    }

    fn free(&self) -> u64 {
        match self.capacity {
            Some(capacity) => capacity.saturating_sub(self.used_bytes()),
            None => u64::MAX,
        }
    }

    fn inode(&mut self, id: FileId) -> &mut Inode {
        self.files
            .get_mut(&id)
            .expect("a file that is named or open is there")
    }
}

/// How much is done of a write that fails: of a sector that was there, all or nothing, and of what
/// is new, any part.
fn whole_sectors(offset: u64, written: usize, there: u64) -> usize {
    match offset + written as u64 {
        end if end < there => written.saturating_sub((end % SECTOR as u64) as usize),
        _ => written,
    }
}

/// Every file that has a name, or may have one after a crash.
fn named(folders: &BTreeMap<PathBuf, Folder>) -> BTreeSet<FileId> {
    folders.values().flat_map(Folder::files).collect()
}

fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}
