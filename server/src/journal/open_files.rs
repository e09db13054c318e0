//! Which databases' files are open: a bounded number, however many databases are in use.
//!
//! A file that was written stays open until it is synced: Linux tells of a failed write to whoever has the
//! file open, and when nobody has, it may forget.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::databases::Databases;
use crate::{env::DiskFile, folder::DatabaseId};

/// The files that are open, in the order in which they were opened.
///
/// What an object works with is mostly in SQLite's cache or in the overlay, so that its file is seldom
/// read: the one that was opened first is as good to close as any.
pub(super) struct OpenFiles {
    most: usize,
    /// How many are open because they are not synced.
    unsynced: Arc<AtomicUsize>,
    opened: Mutex<VecDeque<DatabaseId>>,
}

impl OpenFiles {
    /// At most about so many are open.
    pub fn new(most: usize) -> OpenFiles {
        OpenFiles {
            most: most - most / 2,
            unsynced: Arc::default(),
            opened: Mutex::default(),
        }
    }

    /// A file that was written, to be dropped when it is synced.
    pub fn keep(&self, file: Arc<dyn DiskFile>) -> Unsynced {
        self.unsynced.fetch_add(1, Ordering::Relaxed);
        Unsynced {
            _file: file,
            count: self.unsynced.clone(),
        }
    }

    /// Whether files should be synced before others are written, so that they can be closed.
    pub fn are_many_unsynced(&self) -> bool {
        /// So many are synced together in any case, and more at no time.
        const BOUNDS: (usize, usize) = (16, 10_000);
        let most = self.most.clamp(BOUNDS.0, BOUNDS.1);
        self.unsynced.load(Ordering::Relaxed) >= most
    }

    /// The file of a database was opened. The caller has no database locked.
    pub fn add(&self, id: DatabaseId, databases: &Databases) {
        // Nothing panics while it has the lock.
        let mut opened = self
            .opened
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        opened.push_back(id);
        let too_many = opened.len().saturating_sub(self.most);
        let oldest: Vec<_> = opened.drain(..too_many).collect();
        drop(opened);
        for id in oldest {
            if let Some(database) = databases.find(id) {
                database.close_file();
            }
        }
    }
}

/// A file that was written and is not synced. It is counted, and open.
pub(super) struct Unsynced {
    _file: Arc<dyn DiskFile>,
    count: Arc<AtomicUsize>,
}

impl Drop for Unsynced {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}
