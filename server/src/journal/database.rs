//! One database: its file, the log that SQLite writes for it, and which commits are where.
//!
//! A commit is first in the log, then in the journal, then in the file. SQLite reads what is in the
//! log from there, so that what the file holds of the same pages does not matter to it; the file is
//! brought up to date by SQLite's checkpoint, or behind SQLite's back from the journal.

use std::{
    collections::VecDeque,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, Weak},
};

use super::{
    databases::Databases,
    empty,
    log::Log,
    lsn::Lsn,
    page::PAGE_BYTES,
    queue::{Failures, Fate, Queue},
    record,
    replay::Change,
};
use crate::{
    Error, Result,
    env::{DiskFile, Open},
    folder::{DatabaseId, Layout},
};

/// One database.
pub(crate) struct Database {
    id: DatabaseId,
    path: PathBuf,
    state: Mutex<State>,
    /// Held by whoever brings the file up to date.
    applying: Mutex<()>,
}

struct State {
    file: DatabaseFile,
    /// How long the file is, while it is open: SQLite asks whenever it begins to read.
    file_bytes: u64,
    /// The same, or what somebody has open who only syncs or writes it. It is never opened a second
    /// time: a process loses its locks on a file when it closes it, however often it has it open.
    handle: Option<Weak<dyn DiskFile>>,
    log: Log,
    /// Commits whose fate was not decided when somebody looked last, with how many frames the log
    /// had after each.
    undecided: VecDeque<(Lsn, u64)>,
    /// The newest commit that is decided, and how many frames the log had after it.
    decided: (Lsn, u64),
    /// The end of the database, if the journal was given it and it is not carried out yet.
    end: Option<Lsn>,
    /// Every commit up to this one is in the file.
    applied: Lsn,
    /// Every commit up to this one is in the file durably.
    synced: Lsn,
    /// Whether the file, or its name, has changed since it was last synced.
    dirty: bool,
    /// Whether nobody knows what the file holds: a sync failed. It is not read before it is mended.
    is_suspect: bool,
    /// Why the file cannot be written, if so: commits are refused, and those that there are are held in
    /// place of it (`journal::held`).
    quarantine: Option<String>,
    is_open: bool,
}

/// The file of a database, as far as it is known.
enum DatabaseFile {
    /// Nobody has looked, or it was closed.
    Closed,
    /// There is none: the database has no content, or all of it is in the log.
    Absent,
    Open(Arc<dyn DiskFile>),
}

impl State {
    /// Refuses what could not be brought to the file.
    fn check_writable(&self, path: &Path) -> Result<()> {
        match &self.quarantine {
            None => Ok(()),
            Some(reason) => Err(Error::StorageFailed(format!(
                "{} cannot be written: {reason}; it is tried again until it can",
                path.display()
            ))),
        }
    }

    /// Opens the file, if it is not open already, and keeps other processes away from it.
    fn open_file(
        &mut self,
        databases: &Databases,
        path: &Path,
    ) -> io::Result<Option<Arc<dyn DiskFile>>> {
        if let DatabaseFile::Closed = self.file {
            self.file = match self.handle(databases, path, Open::Existing) {
                Ok(file) => {
                    file.lock()?;
                    self.file_bytes = file.bytes()?;
                    DatabaseFile::Open(file)
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => DatabaseFile::Absent,
                Err(error) => return Err(error),
            };
        }
        match &self.file {
            DatabaseFile::Open(file) => Ok(Some(file.clone())),
            _ => Ok(None),
        }
    }

    /// The file, opened unless somebody has it open.
    fn handle(
        &mut self,
        databases: &Databases,
        path: &Path,
        open: Open,
    ) -> io::Result<Arc<dyn DiskFile>> {
        if let Some(file) = self.handle.as_ref().and_then(Weak::upgrade) {
            return Ok(file);
        }
        let file = databases.disk.open(path, open)?;
        self.handle = Some(Arc::downgrade(&file));
        Ok(file)
    }

    fn newest(&self) -> Lsn {
        self.undecided
            .back()
            .map_or(self.decided.0, |(lsn, _)| *lsn)
    }

    /// Learns what became of commits. False if one of them never happened.
    fn settle(&mut self, queue: &Queue) -> bool {
        while let Some((lsn, frames)) = self.undecided.front() {
            match queue.fate(*lsn) {
                Fate::Pending => break,
                Fate::Durable => self.decided = (*lsn, *frames),
                Fate::Void | Fate::Doubtful => return false,
            }
            self.undecided.pop_front();
        }
        true
    }

    /// Forgets what the log has after the newest commit that is decided.
    fn roll_back(&mut self) {
        self.undecided.clear();
        // It came last, if it came.
        self.end = None;
        self.log.truncate(self.decided.1);
    }
}

impl Database {
    /// A database that nobody has open, of which everything up to `applied` is in its file, durably.
    pub(super) fn new(id: DatabaseId, layout: &Layout, applied: Lsn) -> Database {
        Database {
            id,
            path: layout.database(id),
            state: Mutex::new(State {
                file: DatabaseFile::Closed,
                file_bytes: 0,
                handle: None,
                log: Log::default(),
                undecided: VecDeque::new(),
                decided: (Lsn::default(), 0),
                end: None,
                applied,
                synced: applied,
                dirty: false,
                is_suspect: false,
                quarantine: None,
                is_open: false,
            }),
            applying: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it has the lock.
        self.state
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// While this is held, nobody else brings the file up to date.
    pub fn applying(&self) -> MutexGuard<'_, ()> {
        self.applying
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Which database it is.
    pub fn id(&self) -> DatabaseId {
        self.id
    }

    /// Takes it into use.
    pub(super) fn open(&self, databases: &Databases) -> Result<()> {
        self.check_mended()?;
        // Seldom, for whoever waits for this holds up every other opening.
        let end = self.state().end;
        // Not while the state is locked, which is what whoever applies needs next.
        let _applying = end.map(|_| self.applying());
        let mut state = self.state();
        if !state.settle(&databases.queue) {
            // Until the journal says so, they may come back after a crash.
            if let Some(error) = databases.queue.down() {
                return Err(error);
            }
            state.roll_back();
        }
        // Whoever ended it may not have waited. What comes now must not build on what was there.
        if let Some(end) = state.end {
            if state.newest() > state.decided.0 {
                let text = "the end of the database before is not durable yet";
                return Err(Error::StorageFailed(text.into()));
            }
            self.carry_out_end(databases, &mut state, end)
                .map_err(|error| {
                    Error::StorageFailed(format!("the database before cannot be removed: {error}"))
                })?;
        }
        let frames = state.log.frames();
        state.log.truncate(frames);
        let opened = state.open_file(databases, &self.path);
        opened.map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => {
                Error::StorageFailed("another process has the database open".into())
            }
            _ => Error::StorageFailed(format!("the database does not open: {error}")),
        })?;
        state.is_open = true;
        Ok(())
    }

    /// Nobody uses it any more.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.is_open = false;
        state.file = DatabaseFile::Closed;
    }

    /// Whether there is nothing to remember about it.
    pub(super) fn is_spent(&self, queue: &Queue) -> bool {
        let mut state = self.state();
        state.settle(queue);
        let all_synced = !state.dirty && state.undecided.is_empty();
        let is_sound = !state.is_suspect && state.quarantine.is_none();
        !state.is_open && is_sound && all_synced && state.decided.0 <= state.synced
    }

    /// Gives the journal what SQLite has committed since it was last asked; `None` if that is nothing.
    /// `storage-failed` if it cannot be made durable: then the database must be closed, and the commit
    /// has not happened.
    pub(super) fn commit(&self, databases: &Databases, failures: Failures) -> Result<Option<Lsn>> {
        let queue = &databases.queue;
        let mut state = self.state();
        let frames = state.log.uncaptured();
        if frames.is_empty() {
            return Ok(None);
        }
        state.check_writable(&self.path)?;
        #[cfg(any(test, feature = "testing"))]
        let frames = state.log.sabotage(queue, frames);
        // Those before are decided by now, or will be before long.
        state.settle(queue);
        let (after, pages, log) = (state.newest(), state.log.database_pages(), &state.log);
        let lsn = if record::most_bytes(frames.end - frames.start) > databases.largest_record {
            let beside = &databases.beside;
            let (pages_beside, file) = beside.write(log, frames).map_err(unwritten)?;
            let pushed = queue.push(after, failures, Some(file), |records, lsn| {
                record::Writer::beside(records, lsn, self.id, pages, pages_beside);
                Ok(())
            });
            pushed.inspect_err(|_| beside.remove(pages_beside.number))?
        } else {
            queue.push(after, failures, None, |records, lsn| {
                let mut record = record::Writer::pages(records, lsn, self.id, pages);
                log.for_each(frames, |number, page| {
                    record.page(number, page);
                    Ok(())
                })?;
                record.finish();
                Ok(())
            })?
        };
        #[cfg(any(test, feature = "testing"))]
        if self.id != DatabaseId::CATALOG {
            queue.fail_if_wanted();
        }
        state.log.captured();
        let frames = state.log.frames();
        state.undecided.push_back((lsn, frames));
        Ok(Some(lsn))
    }

    /// Gives the journal the end of the database.
    pub(super) fn delete(&self, queue: &Queue, failures: Failures) -> Result<Lsn> {
        let mut state = self.state();
        state.check_writable(&self.path)?;
        let lsn = queue.push(state.newest(), failures, None, |records, lsn| {
            record::Writer::delete(records, lsn, self.id);
            Ok(())
        })?;
        let frames = state.log.frames();
        state.undecided.push_back((lsn, frames));
        state.end = Some(lsn);
        Ok(lsn)
    }

    /// Takes the database, whose end at `lsn` is durable, out of the world.
    pub(super) fn forget(&self, databases: &Databases, lsn: Lsn) -> io::Result<()> {
        let _applying = self.applying();
        self.carry_out_end(databases, &mut self.state(), lsn)
    }

    /// If the file is to be synced: the commit up to which it holds everything.
    pub(super) fn begin_sync(&self) -> Option<Lsn> {
        let mut state = self.state();
        if state.quarantine.is_some() {
            return None;
        }
        std::mem::take(&mut state.dirty).then_some(state.applied)
    }

    /// Syncs the file and its name.
    pub(super) fn sync(&self, databases: &Databases) -> io::Result<()> {
        let file = self.state().handle(databases, &self.path, Open::Existing);
        match file {
            Ok(file) => {
                let synced = file.sync();
                self.give_back(file);
                synced?;
            }
            // It was deleted.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let Databases { disk, layout, .. } = databases;
        disk.sync_folder(layout.root())?;
        for folder in layout.folders_of(self.id) {
            match disk.sync_folder(&folder) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// What became of a sync that [`Database::begin_sync`] answered `applied` to.
    pub(super) fn end_sync(&self, applied: Lsn, is_synced: bool) {
        let mut state = self.state();
        if is_synced {
            state.synced = state.synced.max(applied);
        } else {
            (state.dirty, state.is_suspect) = (true, true);
        }
    }

    /// The file cannot be written: from now on commits are refused.
    pub(super) fn quarantine(&self, reason: String) {
        self.state().quarantine = Some(reason);
    }

    /// Why the file cannot be written, if that was so when it was last tried.
    pub(super) fn quarantined(&self) -> Option<String> {
        self.state().quarantine.clone()
    }

    /// The file can be written again, and holds everything durably.
    pub(super) fn release(&self) {
        let mut state = self.state();
        (state.quarantine, state.is_suspect, state.dirty) = (None, false, false);
        state.synced = state.synced.max(state.applied);
    }

    /// The content of the file is not known.
    pub(super) fn suspect(&self) {
        let mut state = self.state();
        (state.dirty, state.is_suspect) = (true, true);
    }

    /// Writes what the file has at its beginning once more: whether it can be written.
    pub(super) fn probe(&self, databases: &Databases) -> io::Result<()> {
        let file = self.file_to_write(databases)?;
        let mut start = [0; 100];
        let read = file.read_at(&mut start, 0);
        let probed = read.and_then(|read| file.write_at(&start[..read], 0));
        self.give_back(file);
        probed
    }

    fn check_mended(&self) -> Result<()> {
        match self.state().is_suspect {
            true => Err(Error::StorageFailed(format!(
                "{} is being written again after the disk failed: try again",
                self.path.display()
            ))),
            false => Ok(()),
        }
    }

    /// The file holds what it should after all.
    pub(super) fn trust(&self) {
        self.state().is_suspect = false;
    }

    /// A sync of the whole file system failed.
    pub(super) fn suspect_if_dirty(&self) {
        let mut state = self.state();
        state.is_suspect |= state.dirty;
    }

    /// The newest commit of which anybody knows; zero if everything is durable anyway.
    pub fn newest(&self) -> Lsn {
        self.state().newest()
    }

    /// Whether SQLite has committed what the journal was not given.
    pub fn has_uncaptured(&self) -> bool {
        !self.state().log.uncaptured().is_empty()
    }

    /// Whether there is anything in the file, or in the log.
    pub fn exists(&self) -> bool {
        let state = self.state();
        let has_file = match state.file {
            DatabaseFile::Open(_) => state.file_bytes > 0,
            // It was there when somebody looked.
            DatabaseFile::Closed => true,
            DatabaseFile::Absent => false,
        };
        has_file || state.log.frames() > 0
    }

    /// How many frames the log has.
    pub fn log_frames(&self) -> u64 {
        self.state().log.frames()
    }

    /// SQLite has moved everything from the log to the file, and the log is empty.
    pub fn checkpointed(&self) {
        let mut state = self.state();
        state.applied = state.applied.max(state.newest());
        let newest = state.newest();
        state.undecided.clear();
        state.decided = (newest, 0);
        // A sync that began before the last write says nothing about it.
        state.dirty = true;
    }

    /// Every commit up to this one is in the file.
    pub fn applied(&self) -> Lsn {
        self.state().applied
    }

    /// Whether the file is to be written again, and by nobody else: nobody knows what it holds, or it could
    /// not be written.
    pub fn is_suspect(&self) -> bool {
        let state = self.state();
        state.is_suspect || state.quarantine.is_some()
    }

    /// Fills `buffer` from the file; returns how many bytes there were before the end.
    pub fn read_file(
        &self,
        databases: &Databases,
        buffer: &mut [u8],
        offset: u64,
    ) -> io::Result<usize> {
        if self.state().is_suspect && !sabotaged!(databases.queue, ReadSuspect) {
            return Err(io::Error::other("the file is to be mended first"));
        }
        let read = match self.file(databases)? {
            Some(file) => file.read_at(buffer, offset)?,
            None => 0,
        };
        let at = usize::try_from(offset).unwrap_or(usize::MAX);
        if read > 0 || at >= PAGE_BYTES {
            return Ok(read);
        }
        // The database is empty.
        let there = buffer.len().min(PAGE_BYTES - at);
        buffer[..there].copy_from_slice(&empty::PAGE[at..at + there]);
        Ok(there)
    }

    /// How long the file is; that of an empty database is one page.
    pub fn file_bytes(&self, databases: &Databases) -> io::Result<u64> {
        let bytes = match self.file(databases)? {
            Some(_) => self.state().file_bytes,
            None => 0,
        };
        Ok(bytes.max(PAGE_BYTES as u64))
    }

    /// Writes to the file, which is made if need be.
    pub fn write_file(&self, databases: &Databases, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file_to_write(databases)?.write_at(bytes, offset)?;
        let mut state = self.state();
        state.file_bytes = state.file_bytes.max(offset + bytes.len() as u64);
        Ok(())
    }

    /// Cuts the file.
    pub fn truncate_file(&self, databases: &Databases, bytes: u64) -> io::Result<()> {
        self.file_to_write(databases)?.set_len(bytes)?;
        self.state().file_bytes = bytes;
        Ok(())
    }

    /// The file, if there is one.
    fn file(&self, databases: &Databases) -> io::Result<Option<Arc<dyn DiskFile>>> {
        let mut state = self.state();
        let was_closed = matches!(state.file, DatabaseFile::Closed);
        let file = state.open_file(databases, &self.path)?;
        drop(state);
        if was_closed {
            databases.open_files.add(self.id, databases);
        }
        Ok(file)
    }

    /// The file, which is made if there is none.
    fn file_to_write(&self, databases: &Databases) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state();
        state.dirty = true;
        if let DatabaseFile::Open(file) = &state.file {
            return Ok(file.clone());
        }
        for folder in databases.layout.folders_of(self.id) {
            databases.disk.create_folder(&folder)?;
        }
        let file = state.handle(databases, &self.path, Open::OrCreate)?;
        if state.is_open {
            file.lock()?;
            state.file_bytes = file.bytes()?;
            state.file = DatabaseFile::Open(file.clone());
            drop(state);
            databases.open_files.add(self.id, databases);
        }
        Ok(file)
    }

    /// Closes the file, until somebody needs it.
    pub(super) fn close_file(&self) {
        let mut state = self.state();
        if let DatabaseFile::Open(_) = state.file {
            state.file = DatabaseFile::Closed;
        }
    }

    /// Removes the database, whose end is durable.
    fn carry_out_end(&self, databases: &Databases, state: &mut State, end: Lsn) -> io::Result<()> {
        let file = state.handle(databases, &self.path, Open::Existing);
        (state.file, state.handle) = (DatabaseFile::Absent, None);
        self.remove_file(databases)?;
        if let Ok(file) = file {
            databases.removed(file);
        }
        state.undecided.clear();
        state.decided = (end, 0);
        state.end = None;
        state.log.truncate(0);
        state.dirty = true;
        state.applied = end;
        Ok(())
    }

    /// Lets go of the file. Under the lock, so that nobody opens it anew before it is closed.
    fn give_back(&self, file: Arc<dyn DiskFile>) {
        let _state = self.state();
        drop(file);
    }

    fn remove_file(&self, databases: &Databases) -> io::Result<()> {
        match databases.disk.remove(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Brings the file up to date behind SQLite's back. Nothing happens if it is already.
    pub(super) fn apply(&self, databases: &Databases, change: &Change<'_>) -> io::Result<()> {
        let _applying = self.applying();
        {
            let mut state = self.state();
            let is_sound = !state.is_suspect && state.quarantine.is_none();
            if state.applied >= change.last && is_sound {
                return Ok(());
            }
            // One that was carried out is not to be carried out on what came after it.
            if change.deleted.is_some_and(|end| end > state.applied) {
                (state.file, state.handle) = (DatabaseFile::Closed, None);
                state.dirty = true;
                self.remove_file(databases)?;
            }
        }
        if !change.pages.is_empty() {
            let file = self.file_to_write(databases)?;
            let written = write_pages(&*file, change);
            let bytes = file.bytes();
            self.give_back(file);
            written?;
            self.state().file_bytes = bytes?;
        }
        let mut state = self.state();
        state.applied = state.applied.max(change.last);
        state.is_suspect = false;
        Ok(())
    }

    pub fn read_log(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.state().log.read(buffer, offset)
    }

    pub fn write_log(&self, databases: &Databases, bytes: &[u8], offset: u64) -> io::Result<()> {
        let scratch = || databases.scratch();
        self.state().log.write(bytes, offset, scratch)
    }

    pub fn log_bytes(&self) -> u64 {
        self.state().log.bytes()
    }

    /// SQLite empties the log.
    pub fn truncate_log(&self) {
        self.state().log.truncate(0);
    }
}

fn write_pages(file: &dyn DiskFile, change: &Change<'_>) -> io::Result<()> {
    let mut page = [0; PAGE_BYTES];
    for (number, source) in &change.pages {
        source.read(&mut page)?;
        file.write_at(&page, u64::from(*number - 1) * PAGE_BYTES as u64)?;
    }
    file.set_len(u64::from(change.database_pages) * PAGE_BYTES as u64)
}

fn unwritten(error: io::Error) -> Error {
    Error::StorageFailed(format!("a large commit cannot be written: {error}"))
}
