//! One database: its file, the pages that are not in it yet, and which commits are where.
//!
//! A commit is first in the overlay, then in the journal, then in the file. SQLite reads what is in the
//! overlay from there, so that what the file holds of the same pages does not matter to it; the file is
//! brought up to date behind SQLite's back, from the journal.

use std::{
    collections::VecDeque,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, Weak},
};

use super::{
    databases::Databases,
    empty,
    lsn::Lsn,
    open_files::Unsynced,
    overlay::{Found, Overlay},
    page::{PAGE_BYTES, Page},
    queue::{BesideFile, Failures, Fate, Queue},
    record::{self, Beside},
    replay::Change,
    stream::{self, Large},
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
    /// Held by whoever brings the file up to date, or removes it.
    applying: Mutex<()>,
}

struct State {
    file: DatabaseFile,
    /// How long the file is, while it is open.
    file_bytes: u64,
    /// The same, or what somebody has open who only syncs or writes it. It is never opened a second
    /// time: a process loses its locks on a file when it closes it, however often it has it open.
    handle: Option<Weak<dyn DiskFile>>,
    /// The file, if it was written since it was last synced.
    unsynced: Option<Unsynced>,
    overlay: Overlay,
    /// Commits whose fate was not decided when somebody looked last.
    undecided: VecDeque<Undecided>,
    /// The newest commit that is decided, and how many pages the database had after it; as many as are
    /// in the file, if that is not known.
    decided: (Lsn, Option<u32>),
    /// The end of the database, if the journal was given it and it is not carried out yet.
    end: Option<Lsn>,
    /// Every commit up to this one is in the file.
    applied: Lsn,
    /// Every commit up to this one is in the file durably: the overlay has none of these.
    synced: Lsn,
    /// Whether the file, or its name, has changed since it was last synced.
    dirty: bool,
    /// Whether nobody knows what the file holds of what came since the last sync: one failed.
    is_suspect: bool,
    /// Whether commits of before this start are held and not in the file: nobody can read them yet.
    is_behind: bool,
    /// Why the file cannot be written, if so: commits are refused, and those that there are are held in
    /// place of it (`journal::held`).
    quarantine: Option<String>,
    is_open: bool,
}

/// A commit whose fate is not decided.
struct Undecided {
    lsn: Lsn,
    /// How many pages the database has after it.
    database_pages: u32,
    /// How many pages it changes.
    changed: u64,
}

/// The file of a database, as far as it is known.
enum DatabaseFile {
    /// Nobody has looked, or it was closed.
    Closed,
    /// There is none: the database has no content, or all of it is in the overlay.
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

    /// Keeps the file open until it is synced.
    fn keep_open(&mut self, databases: &Databases, file: &Arc<dyn DiskFile>) {
        let keep = || databases.open_files.keep(file.clone());
        self.unsynced.get_or_insert_with(keep);
    }

    fn newest(&self) -> Lsn {
        self.undecided
            .back()
            .map_or(self.decided.0, |commit| commit.lsn)
    }

    /// How many pages the database has for SQLite; `None`: as many as are in the file.
    fn database_pages(&self) -> Option<u32> {
        let committed = || self.undecided.back().map(|commit| commit.database_pages);
        self.overlay
            .database_pages()
            .or_else(committed)
            .or(self.decided.1)
    }

    /// Learns what became of commits. False if one of them never happened.
    fn settle(&mut self, queue: &Queue) -> bool {
        while let Some(commit) = self.undecided.front() {
            match queue.fate(commit.lsn) {
                Fate::Pending => break,
                Fate::Durable => self.decided = (commit.lsn, Some(commit.database_pages)),
                Fate::Void | Fate::Doubtful => return false,
            }
            self.undecided.pop_front();
        }
        true
    }

    /// Forgets commits that never happened, with nobody there who has seen them. False if there are any, and
    /// the journal may still find them after a crash.
    fn forget_void(&mut self, queue: &Queue) -> bool {
        if self.settle(queue) {
            return true;
        }
        if queue.is_down() {
            return false;
        }
        if !sabotaged!(queue, KeepVoid) {
            self.roll_back();
        }
        true
    }

    /// An error unless the newest commit is the one that was promised this position.
    fn expect_promise(&self, promise: Lsn) -> io::Result<()> {
        if self.newest() == promise {
            Ok(())
        } else {
            Err(io::Error::other("a commit before it did not happen"))
        }
    }

    /// Forgets what came after the newest commit that is decided.
    fn roll_back(&mut self) {
        self.undecided.clear();
        // It came last, if it came.
        self.end = None;
        self.overlay.forget_after(self.decided.0);
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
                unsynced: None,
                overlay: Overlay::default(),
                undecided: VecDeque::new(),
                decided: (Lsn::default(), None),
                end: None,
                applied,
                synced: applied,
                dirty: false,
                is_suspect: false,
                is_behind: false,
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

    fn applying(&self) -> MutexGuard<'_, ()> {
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
        self.check_readable()?;
        // Seldom, for whoever waits for this holds up every other opening.
        let end = self.state().end;
        // Not while the state is locked, which is what whoever applies needs next.
        let _applying = end.map(|_| self.applying());
        let mut state = self.state();
        if !state.forget_void(&databases.queue) {
            // Until the journal says so, they may come back after a crash.
            if let Some(error) = databases.queue.down() {
                return Err(error);
            }
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
    pub(super) fn close(&self, queue: &Queue) {
        let mut state = self.state();
        state.is_open = false;
        state.file = DatabaseFile::Closed;
        state.overlay.forget_unnumbered();
        state.forget_void(queue);
    }

    /// Whether an object, or the catalog, uses it.
    pub(super) fn is_open(&self) -> bool {
        self.state().is_open
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
        if !state.overlay.has_committed() {
            return Ok(None);
        }
        state.check_writable(&self.path)?;
        #[cfg(any(test, feature = "testing"))]
        if sabotaged!(queue, OmitSpilledPage) {
            state.overlay.omit_one_of_many();
        }
        // Those before are decided by now, or will be before long.
        state.settle(queue);
        let (after, overlay) = (state.newest(), &state.overlay);
        let (changed, size) = overlay.committed();
        let large = record::most_bytes(changed) > databases.largest_record;
        let lsn = if large {
            queue.promise(after, failures)?
        } else {
            queue.push(after, failures, |records, lsn| {
                let mut record = record::Writer::pages(records, lsn, self.id, size);
                overlay.for_each_committed(|number, page| {
                    record.page(number, page);
                    Ok(())
                })?;
                record.finish();
                Ok(())
            })?
        };
        #[cfg(any(test, feature = "testing"))]
        if self.id != DatabaseId::CATALOG && !large {
            queue.fail_if_wanted();
        }
        let mut decided = state.decided.0;
        if sabotaged!(queue, ForgetOlder) {
            decided = lsn;
        }
        state.overlay.number(lsn, decided);
        state.undecided.push_back(Undecided {
            lsn,
            database_pages: size.pages,
            changed,
        });
        drop(state);
        #[cfg(any(test, feature = "testing"))]
        if sabotaged!(queue, FileBeforeJournal) {
            let written = self.write_file_wrongly(databases);
            written.map_err(|error| Error::StorageFailed(error.to_string()))?;
        }
        #[cfg(any(test, feature = "testing"))]
        if sabotaged!(queue, CutBeforeJournal) {
            let file = self.file_to_write(databases);
            let cut = file.and_then(|file| file.set_len(offset_of(size.pages + 1)));
            cut.map_err(|error| Error::StorageFailed(error.to_string()))?;
        }
        if large {
            let large = Large {
                database: self.id,
                promise: lsn,
                after,
                failures,
                size,
            };
            match self.id {
                // What objects commit from now on may be built on it.
                DatabaseId::CATALOG => stream::carry_out(databases, &large),
                _ => databases.streams.add(large),
            }
        }
        Ok(Some(lsn))
    }

    /// Hands `take` the pages of the commit that was promised a position, as
    /// [`Overlay::pages_of`] does.
    pub(super) fn pages_of(
        &self,
        promise: Lsn,
        from: u32,
        most: usize,
        take: impl FnMut(u32, &Page),
    ) -> io::Result<Option<u32>> {
        let state = self.state();
        state.expect_promise(promise)?;
        state.overlay.pages_of(promise, from, most, take)
    }

    /// Has the journal take in a large commit whose pages are durable in `file`.
    pub(super) fn keep_promise(
        &self,
        queue: &Queue,
        large: &Large,
        beside: Beside,
        file: BesideFile,
    ) -> Result<()> {
        let mut state = self.state();
        state.check_writable(&self.path)?;
        let here = state.expect_promise(large.promise);
        here.map_err(|error| Error::StorageFailed(error.to_string()))?;
        let Large {
            promise,
            after,
            failures,
            size,
            ..
        } = *large;
        let lsn = queue.keep_promise(promise, after, failures, file, |records, lsn| {
            record::Writer::beside(records, lsn, self.id, size, beside);
            Ok(())
        })?;
        #[cfg(any(test, feature = "testing"))]
        if self.id != DatabaseId::CATALOG {
            queue.fail_if_wanted();
        }
        state.overlay.keep_promise(promise, lsn);
        if let Some(commit) = state.undecided.back_mut() {
            commit.lsn = lsn;
        }
        Ok(())
    }

    /// The large commit that was promised a position never happens.
    pub(super) fn break_promise(&self, queue: &Queue, promise: Lsn) {
        let mut state = self.state();
        queue.break_promise(promise);
        if !state.is_open {
            state.forget_void(queue);
        }
    }

    /// Gives the journal the end of the database.
    pub(super) fn delete(&self, queue: &Queue, failures: Failures) -> Result<Lsn> {
        let mut state = self.state();
        state.check_writable(&self.path)?;
        let lsn = queue.push(state.newest(), failures, |records, lsn| {
            record::Writer::delete(records, lsn, self.id);
            Ok(())
        })?;
        state.undecided.push_back(Undecided {
            lsn,
            database_pages: 0,
            changed: 0,
        });
        state.end = Some(lsn);
        #[cfg(any(test, feature = "testing"))]
        queue.fail_if_wanted();
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

    /// How long the file is, in bytes.
    pub(super) fn file_bytes(&self, databases: &Databases) -> io::Result<u64> {
        let mut state = self.state();
        let file = state.handle(databases, &self.path, Open::Existing)?;
        file.bytes()
        // It is let go of under the lock, so that nobody opens it anew before it is closed.
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

    /// What became of a sync that [`Database::begin_sync`] answered `applied` to. If it failed, nobody
    /// knows what the file holds of what came since the last one that did not: the overlay keeps that.
    pub(super) fn end_sync(&self, _databases: &Databases, applied: Lsn, is_synced: bool) {
        let mut state = self.state();
        // If that failed it is written again, and has to be opened for that.
        state.unsynced = None;
        let is_durable = is_synced && !state.is_suspect;
        if is_durable || sabotaged!(_databases.queue, ForgetUnsynced) {
            state.synced = state.synced.max(applied);
            let mut synced = state.synced;
            if sabotaged!(_databases.queue, ForgetTooMuch) {
                synced = synced.next();
            }
            state.overlay.forget_up_to(synced);
        }
        if !is_durable {
            (state.dirty, state.is_suspect) = (true, true);
        }
    }

    /// The file cannot be written: from now on commits are refused.
    pub(super) fn quarantine(&self, reason: String) {
        let mut state = self.state();
        (state.quarantine, state.unsynced) = (Some(reason), None);
    }

    /// Why the file cannot be written, if that was so when it was last tried.
    pub(super) fn quarantined(&self) -> Option<String> {
        self.state().quarantine.clone()
    }

    /// The file can be written again, and holds everything durably.
    pub(super) fn release(&self) {
        let mut state = self.state();
        (state.is_suspect, state.is_behind, state.dirty) = (false, false, false);
        (state.quarantine, state.unsynced) = (None, None);
        state.synced = state.synced.max(state.applied);
        let synced = state.synced;
        state.overlay.forget_up_to(synced);
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
        if probed.is_err() {
            // It is written again before it is synced.
            self.state().unsynced = None;
        }
        probed
    }

    /// Notes that what is held of the database is not in the file, which cannot be written.
    pub(super) fn fall_behind(&self) {
        self.state().is_behind = true;
    }

    fn check_readable(&self) -> Result<()> {
        let state = self.state();
        if state.is_behind {
            return state.check_writable(&self.path);
        }
        Ok(())
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

    /// How many pages the commits changed whose fate is not decided.
    pub(super) fn undecided_pages(&self, queue: &Queue) -> u64 {
        let mut state = self.state();
        if !state.settle(queue) {
            // Waiting does not help.
            return 0;
        }
        if state.newest().is_promise() {
            // What comes next would have to wait for it, and everybody with it.
            return u64::MAX;
        }
        state.undecided.iter().map(|commit| commit.changed).sum()
    }

    /// Whether SQLite has committed what the journal was not given.
    pub fn has_uncaptured(&self) -> bool {
        self.state().overlay.has_committed()
    }

    /// Whether there is anything in the file, or in the overlay.
    pub fn exists(&self) -> bool {
        let state = self.state();
        match (state.database_pages(), &state.file) {
            (Some(pages), _) => pages > 0,
            (None, DatabaseFile::Open(_)) => state.file_bytes > 0,
            // It was there when somebody looked.
            (None, DatabaseFile::Closed) => true,
            (None, DatabaseFile::Absent) => false,
        }
    }

    /// Every commit up to this one is in the file.
    pub fn applied(&self) -> Lsn {
        self.state().applied
    }

    /// Whether the file is to be written again: nobody knows what it holds, or it could not be written.
    pub fn is_suspect(&self) -> bool {
        let state = self.state();
        state.is_suspect || state.quarantine.is_some()
    }

    /// SQLite has committed its transaction.
    pub fn sqlite_committed(&self) {
        self.state().overlay.commit();
    }

    /// Begins an empty database in place of this one. A new connection of SQLite's sees it, and what that
    /// commits first makes it so; until then a rollback brings back what there was.
    pub fn replace(&self) {
        self.state().overlay.replace();
    }

    /// SQLite has rolled its transaction back. What it has written to that end says nothing new.
    pub fn sqlite_rolled_back(&self) {
        self.state().overlay.roll_back();
    }

    /// Reads what SQLite has written; returns how many bytes there were before the end.
    pub fn read(&self, databases: &Databases, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            let at = offset + done as u64;
            let within = (at % PAGE_BYTES as u64) as usize;
            let wanted = (buffer.len() - done).min(PAGE_BYTES - within);
            let part = &mut buffer[done..done + wanted];
            if !self.read_part(databases, page_at(at)?, part, within)? {
                break;
            }
            done += wanted;
        }
        Ok(done)
    }

    /// Reads a part of a page; false if it is behind the end.
    fn read_part(
        &self,
        databases: &Databases,
        number: u32,
        part: &mut [u8],
        within: usize,
    ) -> io::Result<bool> {
        if number > self.pages(databases)? {
            return Ok(false);
        }
        let found = if let Ok(page) = <&mut Page>::try_from(&mut *part) {
            self.state().overlay.read(number, page)?
        } else {
            let mut page = [0; PAGE_BYTES];
            let found = self.state().overlay.read(number, &mut page)?;
            if found == Found::Here {
                part.copy_from_slice(&page[within..within + part.len()]);
            }
            found
        };
        let is_in_file = match found {
            Found::Here => return Ok(true),
            Found::InFile => true,
            Found::Nowhere => sabotaged!(databases.queue, KeepReplaced),
        };
        // It is durably in the file, and nobody writes it there.
        let read = match self.file(databases)? {
            Some(file) if is_in_file => file.read_at(part, offset_of(number) + within as u64)?,
            _ => 0,
        };
        part[read..].fill(0);
        if read == 0 && number == 1 {
            let state = self.state();
            let has_content = !state.undecided.is_empty() || state.decided.1.is_some();
            if is_in_file && has_content && state.end.is_none() {
                let gone = format!("{} is gone, or empty", self.path.display());
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, gone));
            }
            // The database is empty.
            part.copy_from_slice(&empty::PAGE[within..within + part.len()]);
        }
        Ok(true)
    }

    /// How many pages the database has for SQLite, an empty one too.
    pub fn pages(&self, databases: &Databases) -> io::Result<u32> {
        let known = self.state().database_pages();
        let pages = match known {
            Some(pages) => pages,
            None => match self.file(databases)? {
                Some(_) => u32::try_from(self.state().file_bytes.div_ceil(PAGE_BYTES as u64))
                    .unwrap_or(u32::MAX),
                None => 0,
            },
        };
        Ok(pages.max(1))
    }

    /// Takes what SQLite writes: whole pages.
    pub fn write(&self, databases: &Databases, bytes: &[u8], offset: u64) -> io::Result<()> {
        let page: &Page = bytes
            .try_into()
            .ok()
            .filter(|_| offset.is_multiple_of(PAGE_BYTES as u64))
            .ok_or_else(|| io::Error::other("SQLite writes pages of another size"))?;
        let (number, before) = (page_at(offset)?, self.pages(databases)?);
        let mut state = self.state();
        #[cfg(any(test, feature = "testing"))]
        if sabotaged!(databases.queue, KeepRolledBack) {
            state.overlay.note_stale(number)?;
        }
        state
            .overlay
            .write(number, page, before, || databases.scratch())
    }

    /// Cuts the database.
    pub fn truncate(&self, bytes: u64) -> io::Result<()> {
        let pages = bytes.div_ceil(PAGE_BYTES as u64);
        let pages = u32::try_from(pages).map_err(io::Error::other)?;
        self.state().overlay.truncate(pages);
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
            let file = file.clone();
            state.keep_open(databases, &file);
            return Ok(file);
        }
        for folder in databases.layout.folders_of(self.id) {
            databases.disk.create_folder(&folder)?;
        }
        let file = state.handle(databases, &self.path, Open::OrCreate)?;
        state.keep_open(databases, &file);
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
        state.unsynced = None;
        self.remove_file(databases)?;
        if let Ok(file) = file {
            databases.streams.free(file);
        }
        state.undecided.clear();
        state.decided = (end, None);
        state.end = None;
        state.overlay.forget_up_to(end);
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
            let is_ended = change.deleted.is_some_and(|end| end > state.applied);
            if is_ended && !sabotaged!(databases.queue, IgnoreEnd) {
                (state.file, state.handle) = (DatabaseFile::Closed, None);
                state.unsynced = None;
                state.dirty = true;
                self.remove_file(databases)?;
            }
        }
        // While the file is not known to have the commit that replaced the database, nobody reads it.
        let synced = self.state().synced;
        let is_emptied = change.replaced.is_some_and(|replaced| replaced > synced);
        if !change.pages.is_empty() || is_emptied {
            let file = self.file_to_write(databases)?;
            let length = u64::from(change.database_pages) * PAGE_BYTES as u64;
            let emptied = if is_emptied { file.set_len(0) } else { Ok(()) };
            let written = emptied
                .and_then(|()| write_pages(&*file, change))
                .and_then(|()| {
                    if sabotaged!(databases.queue, IgnoreCut) {
                        Ok(())
                    } else {
                        file.set_len(length)
                    }
                });
            let bytes = file.bytes();
            self.give_back(file);
            written?;
            self.state().file_bytes = bytes?;
        }
        let mut state = self.state();
        state.applied = state.applied.max(change.last);
        if sabotaged!(databases.queue, ForgetApplied) {
            state.overlay.forget_up_to(change.last);
        }
        Ok(())
    }

    /// For tests: brings to the file what is not durable.
    #[cfg(any(test, feature = "testing"))]
    fn write_file_wrongly(&self, databases: &Databases) -> io::Result<()> {
        let pages = self.pages(databases)?;
        let file = self.file_to_write(databases)?;
        let mut page = [0; PAGE_BYTES];
        for number in 1..=pages {
            if self.state().overlay.read(number, &mut page)? == Found::Here {
                file.write_at(&page, offset_of(number))?;
            }
        }
        file.set_len(offset_of(pages + 1))
    }
}

/// The number of the page that has the byte at `offset`, from 1.
fn page_at(offset: u64) -> io::Result<u32> {
    u32::try_from(offset / PAGE_BYTES as u64 + 1).map_err(io::Error::other)
}

/// Where a page is in the file.
fn offset_of(number: u32) -> u64 {
    u64::from(number - 1) * PAGE_BYTES as u64
}

fn write_pages(file: &dyn DiskFile, change: &Change<'_>) -> io::Result<()> {
    let mut page = [0; PAGE_BYTES];
    for (number, source) in &change.pages {
        source.read(&mut page)?;
        file.write_at(&page, offset_of(*number))?;
    }
    Ok(())
}
