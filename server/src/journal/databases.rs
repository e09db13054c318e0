//! The databases of a vat that are in use, or whose files are not durable yet.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{
    beside::BesideFiles, database::Database, held::Held, lsn::Lsn, open_files::OpenFiles,
    queue::Queue, stream::Streams,
};
use crate::{
    Result,
    env::{Disk, DiskFile, Open},
    folder::{DatabaseId, Layout},
};

/// The databases that are open, or whose files are not durable yet.
pub(crate) struct Databases {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) layout: Layout,
    pub(super) queue: Arc<Queue>,
    /// The pages of large commits.
    pub(super) beside: BesideFiles,
    /// Large commits whose pages are to be written, and large files to be closed.
    pub(super) streams: Arc<Streams>,
    /// Commits of databases that cannot be written.
    pub(super) held: Held,
    /// Whether any database may be suspect, or in quarantine.
    troubled: AtomicBool,
    /// Whether a sync of the whole file system failed: it does not tell at which file.
    one_by_one: AtomicBool,
    table: Mutex<BTreeMap<DatabaseId, Arc<Database>>>,
    /// The most bytes of a record in the journal; the pages of a larger commit are put beside it.
    pub(super) largest_record: u64,
    pub(super) open_files: OpenFiles,
}

impl Databases {
    pub(super) fn new(
        disk: Arc<dyn Disk>,
        layout: Layout,
        queue: Arc<Queue>,
        largest_record: u64,
        most_open_files: usize,
        most_held_bytes: u64,
    ) -> Databases {
        Databases {
            held: Held::new(disk.clone(), layout.journal(), most_held_bytes),
            troubled: AtomicBool::default(),
            one_by_one: AtomicBool::default(),
            beside: BesideFiles::new(disk.clone(), layout.journal()),
            streams: Arc::default(),
            disk,
            layout,
            queue,
            table: Mutex::default(),
            largest_record,
            open_files: OpenFiles::new(most_open_files),
        }
    }

    fn table(&self) -> MutexGuard<'_, BTreeMap<DatabaseId, Arc<Database>>> {
        // Nothing panics while it has the lock.
        self.table
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The database of that id, which nobody else has open.
    pub fn open(&self, id: DatabaseId) -> Result<Arc<Database>> {
        let mut table = self.table();
        let database = table
            .entry(id)
            .or_insert_with(|| Arc::new(Database::new(id, &self.layout, self.queue.newest())));
        let database = database.clone();
        database.open(self)?;
        drop(table);
        self.open_files.add(id, self);
        Ok(database)
    }

    /// The database of that id, if it is open.
    pub fn find(&self, id: DatabaseId) -> Option<Arc<Database>> {
        self.table().get(&id).cloned()
    }

    /// The database of that id, of which nothing is in the file yet as far as anybody knows.
    pub(super) fn recover(&self, id: DatabaseId) -> Arc<Database> {
        let new = || Arc::new(Database::new(id, &self.layout, Lsn::default()));
        self.table().entry(id).or_insert_with(new).clone()
    }

    /// Nobody has it open any more.
    pub fn close(&self, database: &Database) {
        let mut table = self.table();
        database.close(&self.queue);
        if database.is_spent(&self.queue) {
            table.remove(&database.id());
        }
    }

    /// Where the file of a database is, or would be.
    pub fn path(&self, id: DatabaseId) -> PathBuf {
        self.layout.database(id)
    }

    /// How long the file of a database is, in bytes; 0 if there is none.
    pub fn file_bytes(&self, id: DatabaseId) -> io::Result<u64> {
        // Under the lock, so that nobody opens it meanwhile who locks it.
        let table = self.table();
        let bytes = match table.get(&id) {
            Some(database) => database.file_bytes(self),
            None => (self.disk.open(&self.path(id), Open::Existing)).and_then(|file| file.bytes()),
        };
        match bytes {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            bytes => bytes,
        }
    }

    /// Whether any object has a file.
    pub fn has_objects(&self) -> io::Result<bool> {
        self.has_files(&self.layout.objects(), 3)
    }

    /// Whether there is a database in a folder, or in the folders in it, so many levels deep.
    fn has_files(&self, folder: &Path, levels: u32) -> io::Result<bool> {
        use io::ErrorKind::{NotADirectory, NotFound};
        let names = match self.disk.list(folder) {
            Err(error) if matches!(error.kind(), NotFound | NotADirectory) => return Ok(false),
            names => names?,
        };
        for name in names {
            if name.ends_with(".sqlite")
                || levels > 1 && self.has_files(&folder.join(name), levels - 1)?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// A file without a name.
    pub fn scratch(&self) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.disk.scratch(&self.layout.journal())?;
        Ok(self.streams.scratch(file))
    }

    /// The databases whose files are to be written again.
    pub(super) fn suspects(&self) -> Vec<DatabaseId> {
        if !self.troubled.load(Ordering::Acquire) {
            return Vec::new();
        }
        let table = self.table();
        let suspects = table.values().filter(|database| database.is_suspect());
        let suspects: Vec<_> = suspects.map(|database| database.id()).collect();
        self.troubled.store(!suspects.is_empty(), Ordering::Release);
        suspects
    }

    /// The databases whose files cannot be written, and why.
    pub(super) fn quarantined(&self) -> Vec<(DatabaseId, String)> {
        if !self.troubled.load(Ordering::Acquire) {
            return Vec::new();
        }
        let table = self.table();
        let quarantined = table
            .values()
            .filter_map(|database| Some((database.id(), database.quarantined()?)));
        quarantined.collect()
    }

    /// Puts a database in quarantine: its file cannot be written.
    pub(super) fn quarantine(&self, database: &Database, error: &io::Error) {
        if database.quarantined().is_none() {
            let path = self.path(database.id());
            tracing::error!(path = %path.display(), %error, "the file of a database cannot be written");
        }
        database.quarantine(error.to_string());
        self.troubled.store(true, Ordering::Release);
    }

    /// Notes that a database is to be mended.
    pub(super) fn suspect(&self, database: &Database) {
        database.suspect();
        self.troubled.store(true, Ordering::Release);
    }

    /// Notes that every database is to be mended whose file is not synced.
    fn suspect_all(&self) {
        let table = self.table();
        table
            .values()
            .for_each(|database| database.suspect_if_dirty());
        self.troubled.store(true, Ordering::Release);
    }

    /// Whether a database may be suspect, or in quarantine.
    pub(super) fn is_troubled(&self) -> bool {
        self.troubled.load(Ordering::Acquire)
    }

    /// The number of databases that nobody has open and that are here because their files lack something.
    pub(super) fn closed(&self) -> usize {
        let table = self.table();
        table
            .values()
            .filter(|database| !database.is_open())
            .count()
    }

    /// Makes every file durable as it is now, but those that are in quarantine. Returns at which files the
    /// disk failed; they are suspect. An error if it failed at nobody knows which: all are suspect.
    pub(super) fn sync(&self) -> io::Result<Vec<(Arc<Database>, io::Error)>> {
        /// From this many files on, the whole file system is synced instead. In tests of this crate
        /// few are many.
        const MANY: usize = if cfg!(test) { 4 } else { 8 };
        let dirty: Vec<_> = self
            .table()
            .values()
            .filter_map(|database| Some((database.clone(), database.begin_sync()?)))
            .collect();
        let mut failed = Vec::new();
        if dirty.len() >= MANY && !self.one_by_one.load(Ordering::Relaxed) {
            // The folder of objects may be in another file system.
            let folders = dirty.iter().flat_map(|(database, _)| {
                let path = self.path(database.id());
                path.parent().map(Path::to_owned)
            });
            let folders = folders.chain([self.layout.root().to_owned()]).collect();
            let synced = self.disk.sync_all(&folders);
            for (database, applied) in &dirty {
                database.end_sync(self, *applied, synced.is_ok());
            }
            if let Err(error) = synced {
                // Those that were written meanwhile too.
                self.suspect_all();
                self.one_by_one.store(true, Ordering::Relaxed);
                return Err(error);
            }
        } else {
            for (database, applied) in dirty {
                let synced = database.sync(self);
                database.end_sync(self, applied, synced.is_ok());
                if let Err(error) = synced {
                    self.troubled.store(true, Ordering::Release);
                    failed.push((database, error));
                }
            }
            if failed.is_empty() {
                self.one_by_one.store(false, Ordering::Relaxed);
            }
        }
        self.table()
            .retain(|_, database| !database.is_spent(&self.queue));
        Ok(failed)
    }
}
