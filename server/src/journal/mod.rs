//! The journal: one log for the commits of all objects, so that one sync makes many of them durable.
//!
//! A commit is queued with the pages that it changed, and gets an [`Lsn`]. The writer takes whatever
//! has queued, writes it as one batch to the current segment, syncs once, and tells. When half of the
//! segments count, the retirer brings the oldest to the databases' files and syncs those; then the
//! segment is used again. So the journal is bounded, and with it the time that a recovery takes.
//!
//! Nothing is written to a database's file before the journal has made it durable.

/// Whether a test wants the journal to be wrong in a way: a [`testing::Sabotage`]. Outside of tests it
/// never is.
#[cfg(any(test, feature = "testing"))]
macro_rules! sabotaged {
    ($journal:expr, $how:ident) => {
        $journal.is_sabotaged($crate::journal::testing::Sabotage::$how)
    };
}
#[cfg(not(any(test, feature = "testing")))]
macro_rules! sabotaged {
    ($journal:expr, $how:ident) => {
        false
    };
}

mod beside;
mod commits;
mod database;
mod databases;
mod empty;
mod held;
mod lsn;
mod open_files;
mod overlay;
mod page;
mod promise;
mod queue;
mod record;
mod recover;
mod replay;
mod retire;
mod roster;
mod scratch;
mod segment;
mod segments;
#[cfg(any(test, feature = "testing"))]
mod stepped;
mod stream;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;
mod threads;
mod writer;

use std::sync::{Arc, Mutex};

pub use commits::Commits;
pub(crate) use database::Database;
pub(crate) use databases::Databases;
pub use lsn::Lsn;
pub(crate) use page::PAGE_BYTES;
pub use queue::Failures;
pub use recover::Progress;
pub(crate) use scratch::Scratch;
pub use segment::{Damage, JournalError};

use crate::{
    Error, Result,
    env::{self, Disk},
    folder::{DatabaseId, Layout},
    metrics::Durations,
};
use queue::{Fate, Queue};
use retire::Retirer;
use segments::Segments;
use threads::Threads;
use writer::Writer;

/// How the journal is set up.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// The most disk space it takes, in bytes; at least 8 MiB, and at most 8 GiB, whatever this says. The pages of large commits may take
    /// about as much again.
    pub bytes: u64,
    /// The most files of databases that are open at a time, or one more for each thread.
    pub open_files: usize,
    /// Who does its work.
    pub driver: Driver,
    /// The clock that tells when records are written, in ms since 1970. It may go back: times of records never
    /// do.
    pub now_ms: fn() -> u64,
}

/// Who does the work of a journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// Three threads: one writes the log, one the pages of large commits, and one retires segments.
    Threads,
    /// Whoever commits, before the commit returns. It waits for the disk: for tests, in which nothing
    /// is to happen by itself.
    Caller,
    /// A test, which lets the writer and the retirer take steps in any order. The pages of a large commit are
    /// written before the commit returns.
    #[cfg(any(test, feature = "testing"))]
    Stepped,
}

impl Settings {
    /// The most that is held of databases that cannot be written, in bytes: as much as the journal takes with
    /// the pages of large commits.
    fn most_held_bytes(&self) -> u64 {
        self.bytes.saturating_mul(2)
    }
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            bytes: 256 << 20,
            open_files: 1000,
            driver: Driver::Threads,
            now_ms: || env::now_ms().try_into().unwrap_or_default(),
        }
    }
}

/// The journal of a vat. Clones are handles to the same one, from any thread.
#[derive(Clone)]
pub struct Journal(Arc<Inner>);

struct Inner {
    queue: Arc<Queue>,
    segments: Arc<Segments>,
    databases: Arc<Databases>,
    work: Work,
}

enum Work {
    Threads(Threads),
    Caller(Mutex<Writer>),
    #[cfg(any(test, feature = "testing"))]
    Stepped(stepped::Stepped),
}

/// What a start found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recovery {
    /// How many commits had not been brought to their databases' files, as far as anybody knew.
    pub commits: u64,
    /// How many bytes of the journal told of them.
    pub bytes: u64,
    /// When the newest commit there ever was in the data folder was written, in ms since 1970; 0 if that is not
    /// known.
    pub time_ms: u64,
}

impl Journal {
    /// How many segments there are when it is full.
    const SEGMENTS: u64 = 8;

    /// The least that a segment takes. In tests of this crate it may be full after a few commits.
    const LEAST_SEGMENT_BYTES: u64 = if cfg!(test) { 16 << 10 } else { 1 << 20 };

    /// The most that a segment takes: one is read as a whole, and the length of a record, which is at most a
    /// quarter of it, has 32 bits.
    const MOST_SEGMENT_BYTES: u64 = 1 << 30;

    /// The size of each segment, in bytes.
    pub(crate) fn segment_bytes(settings: &Settings) -> u64 {
        let bytes = settings.bytes / Journal::SEGMENTS;
        bytes.clamp(Journal::LEAST_SEGMENT_BYTES, Journal::MOST_SEGMENT_BYTES)
    }

    /// Recovers what the last journal in the folder has left, and starts an empty one. `progress` is
    /// told how far it is.
    pub fn open(
        disk: Arc<dyn Disk>,
        layout: &Layout,
        settings: &Settings,
        progress: impl FnMut(Progress),
    ) -> Result<(Journal, Recovery), JournalError> {
        Journal::start(disk, layout, settings, progress, |queue| queue)
    }

    /// Likewise, and a test can hold back that commits become durable.
    #[cfg(any(test, feature = "testing"))]
    pub fn open_held(
        disk: Arc<dyn Disk>,
        layout: &Layout,
        settings: &Settings,
        control: impl Into<testing::Control>,
    ) -> Result<(Journal, Recovery), JournalError> {
        let control = control.into();
        let prepare = |queue: Queue| queue.controlled_by(control.clone());
        Journal::start(disk, layout, settings, |_| {}, prepare)
    }

    fn start(
        disk: Arc<dyn Disk>,
        layout: &Layout,
        settings: &Settings,
        progress: impl FnMut(Progress),
        prepare: impl Fn(Queue) -> Queue,
    ) -> Result<(Journal, Recovery), JournalError> {
        // Nothing is queued there.
        let nobody = Arc::new(prepare(Queue::new(Lsn::default(), 0, settings.now_ms, 0)));
        let recovered = recover::recover(&disk, layout, nobody, settings, progress)?;
        let segment_bytes = Journal::segment_bytes(settings);
        // A batch is at most this and one record, and so fits into a segment.
        let quarter = segment_bytes / 4;
        let queue = Queue::new(
            recovered.newest,
            recovered.time_ms,
            settings.now_ms,
            usize::try_from(quarter).unwrap_or(usize::MAX),
        );
        let queue = Arc::new(prepare(queue));
        let recovery = Recovery {
            commits: recovered.commits,
            bytes: recovered.bytes,
            time_ms: recovered.time_ms,
        };
        let databases = Arc::new(Databases::new(
            disk.clone(),
            layout.clone(),
            queue.clone(),
            quarter,
            settings.open_files,
            settings.most_held_bytes(),
        ));
        databases.held.load()?;
        for (id, error) in &recovered.quarantined {
            let database = databases.recover(*id);
            database.fall_behind();
            databases.suspect(&database);
            databases.quarantine(&database, error);
        }
        let segments = Arc::new(Segments::new(
            disk,
            queue.clone(),
            layout.journal(),
            segment_bytes,
            Journal::SEGMENTS as usize,
            recovered,
        ));
        let retirer = Retirer::new(queue.clone(), segments.clone(), databases.clone());
        let writer =
            |retirer| Writer::new(queue.clone(), segments.clone(), databases.clone(), retirer);
        let work = match settings.driver {
            Driver::Threads => Work::Threads(Threads::start(
                queue.clone(),
                segments.clone(),
                databases.clone(),
                writer(None),
                retirer,
            )?),
            Driver::Caller => Work::Caller(Mutex::new(writer(Some(retirer)))),
            #[cfg(any(test, feature = "testing"))]
            Driver::Stepped => Work::Stepped(stepped::Stepped::new(
                segments.clone(),
                writer(None),
                retirer,
            )),
        };
        let journal = Journal(Arc::new(Inner {
            queue,
            segments,
            databases,
            work,
        }));
        Ok((journal, recovery))
    }

    /// The databases.
    pub(crate) fn databases(&self) -> &Databases {
        &self.0.databases
    }

    /// Queues what SQLite has committed to a database since this was last asked; `None` if that is
    /// nothing. Of a large commit the pages are written first, by another thread; a commit behind it in the
    /// same database waits here until that is done. `storage-failed` while the journal cannot be written: then
    /// the commit has not happened, and the database must be opened anew. Likewise if the journal has failed since
    /// `failures`: what the commit was built on may not have happened.
    pub(crate) fn commit(&self, database: &Database, failures: Failures) -> Result<Option<Lsn>> {
        if self.0.databases.is_troubled() {
            self.work();
        }
        self.wait_for_large(database);
        let lsn = database.commit(&self.0.databases, failures)?;
        self.work();
        lsn.map(|lsn| self.0.queue.position(lsn)).transpose()
    }

    /// Waits until a large commit of a database is in the log, or has failed.
    fn wait_for_large(&self, database: &Database) {
        let newest = database.newest();
        if newest.is_promise() {
            if !matches!(self.0.work, Work::Threads(_)) {
                self.stream();
            }
            self.0.queue.wait_for_promise(newest);
        }
    }

    /// Writes the pages of large commits, where no thread does.
    fn stream(&self) {
        while self.0.databases.streams.step(&self.0.databases) {}
    }

    /// Whether every commit that is queued from now on comes after the one at `lsn`.
    pub(crate) fn has_order(&self, lsn: Lsn) -> bool {
        self.0.queue.has_order(lsn)
    }

    /// Queues the end of a database, unless the journal has failed since `failures`. When that is durable,
    /// [`Journal::forget`] makes it so.
    pub(crate) fn delete(&self, database: &Database, failures: Failures) -> Result<Lsn> {
        self.wait_for_large(database);
        let lsn = database.delete(&self.0.queue, failures);
        self.work();
        lsn
    }

    /// Takes a database out of the world whose end is durable.
    pub(crate) fn forget(&self, database: &Database, lsn: Lsn) -> Result<()> {
        let forgotten = database.forget(&self.0.databases, lsn);
        self.work();
        forgotten.map_err(|error| {
            Error::StorageFailed(format!("removing the database of an object: {error}"))
        })
    }

    /// How often the journal has failed: for [`Journal::commit`].
    pub(crate) fn failures(&self) -> Failures {
        self.0.queue.failures()
    }

    /// Does what is queued, where no thread does.
    pub(crate) fn work(&self) {
        if !matches!(self.0.work, Work::Threads(_)) && !self.0.queue.holds_pages() {
            self.stream();
        }
        if let Work::Caller(writer) = &self.0.work {
            // Nothing panics while it has the lock.
            let mut writer = writer
                .lock()
                .unwrap_or_else(|poisoned| poisoned.into_inner());
            while writer.step() {}
            if self.0.databases.is_troubled() {
                writer.mend();
            }
        }
    }

    /// Why nothing can be committed at the moment, if so.
    pub(crate) fn down(&self) -> Option<Error> {
        let down = self.0.queue.down()?;
        // It may be over.
        self.work();
        self.0.queue.down().and(Some(down))
    }

    /// How many pages of a database are in commits whose fate is not decided.
    pub(crate) fn undecided_pages(&self, database: &Database) -> u64 {
        database.undecided_pages(&self.0.queue)
    }

    /// Why no commit is taken in, if so; the position of the newest durable commit; and whether a newer one waits for the
    /// disk. For any thread: does no work.
    pub fn progress(&self) -> (Option<String>, u64, bool) {
        let queue = &self.0.queue;
        let durable = queue.committed().0;
        let down = queue.down().map(|error| error.to_string());
        (down, durable, queue.fate(queue.newest()) == Fate::Pending)
    }

    /// Whether every commit of a database so far is durable. `storage-failed` if one of them never
    /// happened; `outcome-unknown` if it has not, and the next life of the vat may find it all the same.
    pub(crate) fn is_durable(&self, lsn: Lsn) -> Result<bool> {
        match self.0.queue.fate(lsn) {
            Fate::Pending => Ok(false),
            Fate::Durable => Ok(true),
            Fate::Void => Err(Error::StorageFailed(
                "the disk failed, and the write did not happen".into(),
            )),
            Fate::Doubtful => Err(Error::OutcomeUnknown(
                "the disk failed, and it cannot be told that the write is not to count".into(),
            )),
        }
    }

    /// How many commits there have been in the life of the data folder that are durable, or that the
    /// disk failed at.
    pub fn commits(&self) -> u64 {
        self.0.queue.committed().0
    }

    /// The databases that cannot be written, and why: commits of theirs are refused.
    pub fn quarantined(&self) -> Vec<(DatabaseId, String)> {
        self.0.databases.quarantined()
    }

    /// How long the log took to write and sync each batch.
    pub fn syncs(&self) -> &Durations {
        &self.0.queue.syncs
    }

    /// How many bytes of commits wait to be written.
    pub fn waiting_bytes(&self) -> u64 {
        self.0.queue.waiting_bytes()
    }

    /// How large the segments that count are, in bytes.
    pub fn bytes(&self) -> u64 {
        self.0.segments.live().len() as u64 * self.0.segments.bytes
    }

    /// Makes every database's file durable, and the journal empty. Nobody may commit any more. Takes
    /// as long as the disk does.
    pub fn stop(&self) -> Result<(), JournalError> {
        match &self.0.work {
            Work::Threads(threads) => threads.stop(),
            Work::Caller(_) => self.work(),
            #[cfg(any(test, feature = "testing"))]
            Work::Stepped(stepped) => while stepped.step_writer() {},
        }
        self.retirer().retire_all()?;
        Ok(self.0.segments.forget_all()?)
    }

    /// A retirer. No other may work meanwhile.
    fn retirer(&self) -> Retirer {
        let Inner {
            queue,
            segments,
            databases,
            ..
        } = &*self.0;
        Retirer::new(queue.clone(), segments.clone(), databases.clone())
    }
}
