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
    pages_held: Arc<AtomicBool>,
    fails_next: Arc<AtomicBool>,
}

impl Default for Hold {
    fn default() -> Self {
        Hold {
            held: watch::Sender::new(false),
            pages_held: Arc::default(),
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

    /// From now on the pages of large commits are not written, until [`Hold::release_pages`], or until somebody
    /// has to wait for them. For [`Driver::Caller`](super::Driver::Caller).
    pub fn hold_pages(&self) {
        self.pages_held.store(true, Ordering::Relaxed);
    }

    /// The pages of large commits are written.
    pub fn release_pages(&self) {
        self.pages_held.store(false, Ordering::Relaxed);
        // Whoever does the work is told.
        self.held.send_modify(|_| {});
    }

    pub(super) fn holds_pages(&self) -> bool {
        self.pages_held.load(Ordering::Relaxed)
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
    /// Records say that nothing before them was written.
    CallNothingWritten,
    /// A segment that is used again has the salt that it had before.
    KeepSalt,
    /// A segment is begun that the roster does not name.
    SkipRoster,
    /// The pages of a large commit are not synced before the record that names them.
    SkipPagesSync,
    /// The pages of a large commit that is void are removed before the journal says so.
    RemoveVoidPages,
    /// The pages of a large commit are removed before its segment is free.
    RemovePagesEarly,
    /// A segment that is free does not tell which positions were used.
    ForgetPosition,
    /// The retirer takes what did not happen for durable.
    RetireVoid,
    /// The retirer looks again at what is durable, for each of the segments that there were at first.
    LookAgain,
    /// A recovery takes what did not happen for durable.
    BelieveVoid,
    /// A recovery does not notice that a segment is missing between others.
    MissNoSegment,
    /// A recovery frees segments before the files are durable.
    FreeBeforeRecovered,
    /// A recovery frees the newest segment first.
    FreeNewestFirst,
    /// Commits are taken in while the journal cannot be written.
    TakeInWhileDown,
    /// Nobody can tell that the journal has failed.
    CountNoFailures,
    /// Commits that did not happen are taken for durable.
    ForgetVoid,
    /// Commits are said not to have happened that a recovery may find.
    DenyDoubt,
    /// An overlay forgets one commit more than its file has.
    ForgetTooMuch,
    /// An overlay forgets what its file has and was not synced.
    ForgetApplied,
    /// An overlay forgets what is older than a commit that is not decided.
    ForgetOlder,
    /// A file is not cut when its database is.
    IgnoreCut,
    /// A file is cut before the journal has made the commit durable that made its database shorter.
    CutBeforeJournal,
    /// What was there before a database was replaced is found where nothing was written since.
    KeepReplaced,
    /// The end of a database is not carried out by who brings files up to date.
    IgnoreEnd,
    /// A file at which a sync failed is not written again.
    TrustSuspect,
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

    /// Brings everything durable to the files, as the retirer does when there are many databases. Not for
    /// [`Driver::Threads`](super::Driver::Threads).
    pub fn write_back(&self) -> Result<(), super::JournalError> {
        match &self.0.work {
            super::Work::Stepped(stepped) => stepped.write_back(),
            _ => self.retirer().write_back(),
        }
    }

    /// Takes a step of the writer: one batch. Whether there was anything to do. For
    /// [`Driver::Stepped`](super::Driver::Stepped), as are the next two.
    pub fn step_writer(&self) -> bool {
        match &self.0.work {
            super::Work::Stepped(stepped) => stepped.step_writer(),
            _ => false,
        }
    }

    /// Takes a step of the retirer: it works until no more than half of the segments count.
    pub fn step_retirer(&self) {
        if let super::Work::Stepped(stepped) = &self.0.work {
            stepped.step_retirer();
        }
    }

    /// Lets the writer take steps within those of the retirer: at its next 64 pauses, where there is a bit.
    pub fn step_writer_at_pauses(&self, bits: u64) {
        if let super::Work::Stepped(stepped) = &self.0.work {
            stepped.step_writer_at_pauses(bits);
        }
    }

    /// Whether the newest commit is not durable.
    pub fn is_behind(&self) -> bool {
        self.0.queue.newest() > self.0.queue.committed()
    }

    /// How many segments count.
    pub fn live_segments(&self) -> usize {
        self.0.segments.live().len()
    }
}
