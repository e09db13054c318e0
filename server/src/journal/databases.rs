//! The databases of a vat that are in use, or whose files are not durable yet.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, MutexGuard},
};

use super::{
    beside::BesideFiles, database::Database, lsn::Lsn, open_files::OpenFiles, queue::Queue,
};
use crate::{
    Result,
    env::{Disk, DiskFile},
    folder::{DatabaseId, Layout},
};

/// The databases that are open, or whose files are not durable yet.
pub(crate) struct Databases {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) layout: Layout,
    pub(super) queue: Arc<Queue>,
    /// The pages of large commits.
    pub(super) beside: BesideFiles,
    table: Mutex<HashMap<DatabaseId, Arc<Database>>>,
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
    ) -> Databases {
        Databases {
            beside: BesideFiles::new(disk.clone(), layout.journal()),
            disk,
            layout,
            queue,
            table: Mutex::default(),
            largest_record,
            open_files: OpenFiles::new(most_open_files),
        }
    }

    fn table(&self) -> MutexGuard<'_, HashMap<DatabaseId, Arc<Database>>> {
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
        database.close();
        if database.is_spent(&self.queue) {
            table.remove(&database.id());
        }
    }

    /// A file without a name.
    pub fn scratch(&self) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.scratch(&self.layout.journal())
    }

    /// How many there are to keep an eye on.
    pub(super) fn len(&self) -> usize {
        self.table().len()
    }

    /// Makes every file durable as it is now.
    pub(super) fn sync(&self) -> io::Result<()> {
        let dirty: Vec<_> = self
            .table()
            .values()
            .filter_map(|database| Some((database.clone(), database.begin_sync()?)))
            .collect();
        if dirty.is_empty() {
            return Ok(());
        }
        let synced = self.sync_files(&dirty);
        for (database, applied) in &dirty {
            database.end_sync(*applied, synced.is_ok());
        }
        synced?;
        self.table()
            .retain(|_, database| !database.is_spent(&self.queue));
        Ok(())
    }

    fn sync_files(&self, databases: &[(Arc<Database>, Lsn)]) -> io::Result<()> {
        /// From this many files on, the whole file system is synced instead. In tests of this crate
        /// few are many.
        const MANY: usize = if cfg!(test) { 4 } else { 8 };
        if databases.len() >= MANY {
            return self.disk.sync_all(self.layout.root());
        }
        databases
            .iter()
            .try_for_each(|(database, _)| database.sync(self))
    }
}
