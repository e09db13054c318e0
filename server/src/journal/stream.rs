//! Large commits on their way to the log: their pages are written to files of their own, one after the
//! other, by a thread that nobody waits for but the objects that made them. The same thread closes large
//! files that have no name any more: whoever does that waits while their room is freed.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard},
};

use super::{
    databases::Databases,
    lsn::Lsn,
    queue::{BesideFile, Failures},
    record::Size,
};
use crate::{env::DiskFile, folder::DatabaseId};

/// A large commit whose pages are to be written.
pub(super) struct Large {
    /// The database that was changed.
    pub database: DatabaseId,
    /// The position that the commit was promised.
    pub promise: Lsn,
    /// The commit before it in the same database.
    pub after: Lsn,
    /// How often the journal had failed when the turn began.
    pub failures: Failures,
    /// The database after it.
    pub size: Size,
}

/// The large commits whose pages are not written yet.
#[derive(Default)]
pub(super) struct Streams {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Large>,
    /// Large files without a name, to be closed.
    nameless: Vec<Arc<dyn DiskFile>>,
    stopping: bool,
}

impl Streams {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it has the lock.
        self.state
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Takes a commit in. How many wait is bounded by [`Queue::has_room`](super::queue::Queue::has_room).
    pub fn add(&self, large: Large) {
        self.state().waiting.push_back(large);
        self.changed.notify_one();
    }

    /// Takes a file that has no name any more, and that nobody else has open. The room of a small one is freed
    /// at once, and that of a large one by [`Streams::step`].
    pub fn free(&self, file: Arc<dyn DiskFile>) {
        const LARGE_BYTES: u64 = 1 << 20;
        /// The most files that wait. Whoever has more waits for their room.
        const MOST: usize = 256;
        if file.bytes().is_ok_and(|bytes| bytes >= LARGE_BYTES) {
            let mut state = self.state();
            if state.nameless.len() < MOST {
                state.nameless.push(file);
                drop(state);
                self.changed.notify_one();
            }
        }
    }

    /// Makes a file without a name one that [`Streams::free`] takes when it is dropped.
    pub fn scratch(self: &Arc<Self>, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        let streams = self.clone();
        Arc::new(Nameless { file, streams })
    }

    /// Writes the pages of the commit that has waited longest, or frees the room of a file. Whether there was
    /// anything.
    pub fn step(&self, databases: &Databases) -> bool {
        let mut state = self.state();
        if let Some(large) = state.waiting.pop_front() {
            drop(state);
            carry_out(databases, &large);
            return true;
        }
        let file = state.nameless.pop();
        drop(state);
        file.is_some()
    }

    /// Waits until there is something to do, or until it is time to stop: then `false`.
    pub fn wait(&self) -> bool {
        let waited = self.changed.wait_while(self.state(), |state| {
            state.waiting.is_empty() && state.nameless.is_empty() && !state.stopping
        });
        let state = waited.unwrap_or_else(|poisoned| poisoned.into_inner());
        !state.stopping
    }

    /// Ends [`Streams::wait`].
    pub fn stop(&self) {
        self.state().stopping = true;
        self.changed.notify_all();
    }
}

/// Writes the pages of a large commit, and has the log take it in when they are durable. If that fails, the
/// commit has not happened, and no other is concerned.
pub(super) fn carry_out(databases: &Databases, large: &Large) {
    // It is in the table as long as it has a commit that is undecided.
    let Some(database) = databases.find(large.database) else {
        return databases.queue.break_promise(large.promise);
    };
    let files = &databases.beside;
    let done = files
        .write(&databases.queue, &database, large.promise)
        .and_then(|beside| {
            let file = BesideFile {
                number: beside.number,
                bytes: beside.bytes,
            };
            let kept = database.keep_promise(&databases.queue, large, beside, file);
            kept.map_err(|error| {
                files.remove(beside.number);
                io::Error::other(error.to_string())
            })
        });
    if let Err(error) = done {
        let id = large.database;
        tracing::error!(database = %id, %error, "a large commit cannot be written");
        database.break_promise(&databases.queue, large.promise);
    }
}

/// A file without a name, whose room is freed by whoever does that.
struct Nameless {
    file: Arc<dyn DiskFile>,
    streams: Arc<Streams>,
}

impl Drop for Nameless {
    fn drop(&mut self) {
        self.streams.free(self.file.clone());
    }
}

impl DiskFile for Nameless {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_at(bytes, offset)
    }

    fn bytes(&self) -> io::Result<u64> {
        self.file.bytes()
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.file.set_len(bytes)
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        self.file.allocate(bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }

    fn lock(&self) -> io::Result<()> {
        self.file.lock()
    }
}
