//! For tests: a disk that takes its time, and a journal that is wrong on purpose.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::sync::watch;

/// Holds back the durability of every commit made meanwhile, or fails one. Cheap to clone, from any
/// thread.
#[derive(Clone)]
pub struct Hold {
    held: watch::Sender<bool>,
    fails_next: Arc<AtomicBool>,
}

impl Default for Hold {
    fn default() -> Self {
        Hold {
            held: watch::Sender::new(false),
            fails_next: Arc::default(),
        }
    }
}

impl Hold {
    /// From now on no commit becomes durable.
    pub fn hold(&self) {
        self.held.send_replace(true);
    }

    /// Every commit made so far becomes durable, and later ones at once.
    pub fn release(&self) {
        self.held.send_replace(false);
    }

    /// The next commit of an object, and whatever is written together with it, does not become
    /// durable: the disk fails, and works again.
    pub fn fail_next(&self) {
        self.fails_next.store(true, Ordering::Relaxed);
    }

    pub(super) fn take_failure(&self) -> bool {
        self.fails_next.swap(false, Ordering::Relaxed)
    }

    pub(super) fn is_held(&self) -> bool {
        *self.held.borrow()
    }

    pub(super) fn released(&self) -> watch::Receiver<bool> {
        self.held.subscribe()
    }
}

/// What a test wants of a journal.
#[derive(Clone, Default)]
pub struct Control {
    /// Holds back commits.
    pub hold: Hold,
    /// What is wrong with it.
    pub sabotage: Option<Sabotage>,
}

impl From<Hold> for Control {
    fn from(hold: Hold) -> Control {
        Control {
            hold,
            sabotage: None,
        }
    }
}

/// A way in which a journal could be wrong. With each of them the tests have to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// Commits are called durable when they are written and not synced.
    PublishBeforeSync,
    /// A recovery believes the record that was being written when the power went.
    AcceptTornTail,
    /// A commit is brought to its database's file before the journal has made it durable.
    FileBeforeJournal,
    /// An object that is opened anew finds commits that did not happen.
    KeepVoid,
    /// A segment is used again before the files are durable that its commits were brought to.
    FreeBeforeSync,
    /// A commit has the pages of a transaction that was rolled back before it.
    KeepRolledBack,
    /// Of a transaction that does not fit into SQLite's cache a page is missing.
    OmitSpilledPage,
    /// An overlay forgets what a file has that could not be synced.
    ForgetUnsynced,
    /// A segment is used again that says something of a database that cannot be written, and that is held
    /// nowhere.
    DropHeld,
    /// What is held of a database is not brought to its file when that can be written again.
    ForgetHeld,
    /// A commit is taken in although the journal has failed since its turn began.
    OutliveVoid,
    /// A recovery brings nothing to the files of one object in two.
    SkipObject,
}

impl super::Journal {
    /// Whether it is to be wrong in this way.
    pub fn is_sabotaged(&self, sabotage: Sabotage) -> bool {
        self.0.queue.is_sabotaged(sabotage)
    }

    /// Whether nothing can be committed at the moment. Unlike what a commit asks, it does not try
    /// whether that is over.
    pub fn is_down(&self) -> bool {
        self.0.queue.is_down()
    }

    /// Brings everything durable to the files, as the retirer does when there are many databases. For
    /// [`Driver::Caller`](super::Driver::Caller).
    pub fn write_back(&self) -> Result<(), super::JournalError> {
        self.retirer().write_back()
    }

    /// How many segments count.
    pub fn live_segments(&self) -> usize {
        self.0.segments.live().len()
    }
}
