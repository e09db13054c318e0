//! Which databases' files are open: a bounded number, however many databases are in use.

use std::{collections::VecDeque, sync::Mutex};

use super::databases::Databases;
use crate::folder::DatabaseId;

/// The files that are open, in the order in which they were opened.
///
/// What an object works with is mostly in SQLite's cache or in the overlay, so that its file is seldom
/// read: the one that was opened first is as good to close as any.
pub(super) struct OpenFiles {
    most: usize,
    opened: Mutex<VecDeque<DatabaseId>>,
}

impl OpenFiles {
    /// At most about so many are open.
    pub fn new(most: usize) -> OpenFiles {
        OpenFiles {
            most,
            opened: Mutex::default(),
        }
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
