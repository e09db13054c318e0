//! Commits on their way to the journal, and what became of them: what the threads of a vat share.

use std::{
    io, mem,
    ops::Range,
    sync::{
        Condvar, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::watch;

use super::{
    lsn::Lsn,
    promise::{Promise, Promises},
};
use crate::{Error, Result, metrics::Durations};

/// The most large commits whose pages wait to be written before turns are held back.
const MOST_PROMISES: usize = 4;

/// Takes records in and tells when they are durable. One for a vat.
pub(super) struct Queue {
    state: Mutex<State>,
    /// Something is there to be written, or it is time to stop.
    work: Condvar,
    /// A promise is pending no more.
    settled: Condvar,
    /// The newest position that is synced here.
    written: AtomicU64,
    /// The newest position that is durable: the one that gates, fates and files rely on.
    committed: AtomicU64,
    /// When the newest record was written, in ms since 1970.
    time_ms: AtomicU64,
    now_ms: fn() -> u64,
    /// Whether any position is void.
    voided: AtomicBool,
    /// How often [`Queue::fail`] was called. Changes while the state is locked.
    failures: AtomicU64,
    progress: watch::Sender<Lsn>,
    /// How long the log took to write and sync each batch.
    pub syncs: Durations,
    /// The most bytes that may wait before turns are held back.
    most_bytes: usize,
    #[cfg(any(test, feature = "testing"))]
    control: super::testing::Control,
}

#[derive(Default)]
struct State {
    batch: Batch,
    /// The position of the newest record taken in.
    newest: Lsn,
    /// Why no record is taken in.
    down: Option<String>,
    /// Positions that will never be durable, oldest first.
    void: Vec<Range<Lsn>>,
    /// The commits of `void` that a recovery may find all the same, until the journal says otherwise.
    doubtful: Range<Lsn>,
    /// Positions of large commits that are not taken in yet.
    promises: Promises,
    stopping: bool,
}

impl State {
    fn is_void(&self, lsn: Lsn) -> bool {
        if lsn.is_promise() {
            return match self.promises.get(lsn) {
                Some(Promise::At(lsn)) => self.is_void(lsn),
                became => became == Some(Promise::Broken),
            };
        }
        self.void.iter().any(|void| void.contains(&lsn))
    }

    /// Refuses a commit that cannot be taken in.
    fn check(&self, queue: &Queue, after: Lsn, failures: Failures) -> Result<()> {
        if let Some(reason) = queue.refuses(self) {
            return Err(failed(reason));
        }
        if self.is_void(after) {
            return Err(failed("an earlier write did not happen"));
        }
        if failures != queue.failures() && !sabotaged!(queue, OutliveVoid) {
            return Err(failed("it failed while this was being written"));
        }
        Ok(())
    }
}

/// How often the journal had failed at some moment. A commit that is built on what others have
/// committed names the moment before it looked at that: it is refused if the journal has failed since,
/// so that it never outlives what it was built on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Failures(u64);

/// Records that are written and become durable together.
#[derive(Default)]
pub(super) struct Batch {
    /// The records, one behind the other, not sealed.
    pub records: Vec<u8>,
    /// The positions of the first and the last record.
    pub span: Option<(Lsn, Lsn)>,
    /// Files with pages of records. They are durable.
    pub beside: Vec<BesideFile>,
    /// Whether a test wants it to fail.
    #[cfg(any(test, feature = "testing"))]
    pub fails: bool,
}

/// A file with the pages of a large commit.
pub(super) struct BesideFile {
    /// Its number.
    pub number: u64,
    /// How long it is, in bytes.
    pub bytes: u64,
}

impl Batch {
    /// The bytes of its records, and of their pages beside the log.
    fn bytes(&self) -> u64 {
        let beside = self.beside.iter().map(|beside| beside.bytes);
        self.records.len() as u64 + beside.sum::<u64>()
    }

    /// Empties it, and keeps its memory.
    pub fn clear(&mut self) {
        self.records.clear();
        self.span = None;
        self.beside.clear();
        #[cfg(any(test, feature = "testing"))]
        {
            self.fails = false;
        }
    }
}

/// What became of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is not decided yet.
    Pending,
    /// It is on disk, and so is every one before it that is not void.
    Durable,
    /// It never happened.
    Void,
    /// The commit never happens in this life of the vat; the next may find it.
    Doubtful,
}

impl Queue {
    /// An empty queue, `newest` being the last position that was ever used, and `time_ms` when that was written.
    /// `now_ms`: the clock.
    pub fn new(newest: Lsn, time_ms: u64, now_ms: fn() -> u64, most_bytes: usize) -> Queue {
        Queue {
            state: Mutex::new(State {
                newest,
                ..State::default()
            }),
            work: Condvar::new(),
            settled: Condvar::new(),
            written: AtomicU64::new(newest.0),
            committed: AtomicU64::new(newest.0),
            time_ms: AtomicU64::new(time_ms),
            now_ms,
            voided: AtomicBool::new(false),
            failures: AtomicU64::default(),
            progress: watch::Sender::new(newest),
            syncs: Durations::default(),
            most_bytes,
            #[cfg(any(test, feature = "testing"))]
            control: Default::default(),
        }
    }

    /// Lets a test hold back what is taken in, and more.
    #[cfg(any(test, feature = "testing"))]
    pub fn controlled_by(self, control: super::testing::Control) -> Queue {
        Queue { control, ..self }
    }

    /// Whether a test wants something to be wrong.
    #[cfg(any(test, feature = "testing"))]
    pub fn is_sabotaged(&self, sabotage: super::testing::Sabotage) -> bool {
        self.control.sabotage == Some(sabotage)
    }

    /// Fails what was taken in last, if a test wants that.
    #[cfg(any(test, feature = "testing"))]
    pub fn fail_if_wanted(&self) {
        if self.control.hold.take_failure() {
            self.state().batch.fails = true;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it has the lock.
        self.state
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Takes in the record that `write` appends for the position it is given. `storage-failed` while
    /// the journal cannot be written, if the commit at `after`, the one before it in the same database,
    /// has not happened, or if the journal has failed since `failures`.
    pub fn push(
        &self,
        after: Lsn,
        failures: Failures,
        write: impl FnOnce(&mut Vec<u8>, Lsn) -> io::Result<()>,
    ) -> Result<Lsn> {
        let mut state = self.state();
        state.check(self, after, failures)?;
        let lsn = append(&mut state, write)?;
        drop(state);
        self.work.notify_one();
        Ok(lsn)
    }

    /// Promises a position to a large commit, which would be taken in now.
    pub fn promise(&self, after: Lsn, failures: Failures) -> Result<Lsn> {
        let mut state = self.state();
        state.check(self, after, failures)?;
        let State { promises, void, .. } = &mut *state;
        let committed = self.committed();
        Ok(promises.give(|lsn| committed >= lsn && !void.iter().any(|void| void.contains(&lsn))))
    }

    /// Takes in the record of a commit that was promised a position, and whose pages are durable in
    /// `file`.
    pub fn keep_promise(
        &self,
        promise: Lsn,
        after: Lsn,
        failures: Failures,
        file: BesideFile,
        write: impl FnOnce(&mut Vec<u8>, Lsn) -> io::Result<()>,
    ) -> Result<Lsn> {
        let mut state = self.state();
        state.check(self, after, failures)?;
        let lsn = append(&mut state, write)?;
        state.batch.beside.push(file);
        state.promises.settle(promise, Promise::At(lsn));
        drop(state);
        self.settled.notify_all();
        self.work.notify_one();
        Ok(lsn)
    }

    /// The commit that was promised a position never happens.
    pub fn break_promise(&self, promise: Lsn) {
        self.state().promises.settle(promise, Promise::Broken);
        self.settled.notify_all();
        self.tell();
    }

    /// Waits until it is known what becomes of a promise: for as long as the disk takes for the pages of the
    /// commit, and of those before it.
    pub fn wait_for_promise(&self, promise: Lsn) {
        let waited = self.settled.wait_while(self.state(), |state| {
            state.promises.get(promise) == Some(Promise::Pending)
        });
        drop(waited);
    }

    /// Whether every record that is taken in from now on comes after the commit at `lsn`.
    pub fn has_order(&self, lsn: Lsn) -> bool {
        !lsn.is_promise() || self.state().promises.get(lsn) != Some(Promise::Pending)
    }

    /// The position of a commit: as promised while that is all there is. `storage-failed` if the promise is
    /// broken.
    pub fn position(&self, lsn: Lsn) -> Result<Lsn> {
        if !lsn.is_promise() {
            return Ok(lsn);
        }
        match self.state().promises.get(lsn) {
            Some(Promise::Broken) => Err(failed("the pages of a large commit cannot be written")),
            Some(Promise::At(lsn)) => Ok(lsn),
            Some(Promise::Pending) | None => Ok(lsn),
        }
    }

    /// How often the journal has failed.
    pub fn failures(&self) -> Failures {
        Failures(self.failures.load(Ordering::Acquire))
    }

    /// Why records are not taken in at the moment, if so.
    pub fn down(&self) -> Option<Error> {
        self.refuses(&self.state()).map(failed)
    }

    fn refuses<'a>(&self, state: &'a State) -> Option<&'a str> {
        if sabotaged!(self, TakeInWhileDown) {
            None
        } else {
            state.down.as_deref()
        }
    }

    /// Whether no more than is good waits to be written.
    pub fn has_room(&self) -> bool {
        let state = self.state();
        let bytes = state.batch.bytes();
        bytes < self.most_bytes as u64 && state.promises.pending() < MOST_PROMISES
    }

    /// The bytes that wait to be written.
    pub fn waiting_bytes(&self) -> u64 {
        self.state().batch.bytes()
    }

    /// The position of the newest record.
    pub fn newest(&self) -> Lsn {
        self.state().newest
    }

    /// The newest position that is synced here: what a torn end cannot reach, and what records say of
    /// those before them.
    pub fn written(&self) -> Lsn {
        Lsn(self.written.load(Ordering::Acquire))
    }

    /// When the newest record was written, in ms since 1970.
    pub fn time_ms(&self) -> u64 {
        self.time_ms.load(Ordering::Acquire)
    }

    /// The time for records that are written now: never before that of any other, whatever the clock says.
    pub fn look_at_clock(&self) -> u64 {
        let now_ms = (self.now_ms)();
        self.time_ms.fetch_max(now_ms, Ordering::AcqRel).max(now_ms)
    }

    /// The newest position that is durable: what may leave an object, and be brought to files. Never
    /// after [`Queue::written`].
    pub fn committed(&self) -> Lsn {
        Lsn(self.committed.load(Ordering::Acquire))
    }

    /// What became of the commit at `lsn`.
    pub fn fate(&self, lsn: Lsn) -> Fate {
        if self.committed() >= lsn && !self.voided.load(Ordering::Acquire) {
            return Fate::Durable;
        }
        let state = self.state();
        let lsn = match state.promises.get(lsn) {
            Some(Promise::Pending) => return Fate::Pending,
            Some(Promise::Broken) => return Fate::Void,
            Some(Promise::At(lsn)) => lsn,
            None if lsn.is_promise() => return Fate::Durable,
            None => lsn,
        };
        if state.doubtful.contains(&lsn) {
            return Fate::Doubtful;
        }
        if state.is_void(lsn) {
            return Fate::Void;
        }
        if self.committed() >= lsn {
            Fate::Durable
        } else {
            Fate::Pending
        }
    }

    /// Changes to the newest position whose fate is decided.
    pub fn progress(&self) -> watch::Receiver<Lsn> {
        self.progress.subscribe()
    }

    /// Takes everything that waits; gives back `spent` for further records. `None`: nothing waits,
    /// or it is held back.
    pub fn take(&self, spent: Batch) -> Option<Batch> {
        #[cfg(any(test, feature = "testing"))]
        if self.control.hold.is_held() {
            return None;
        }
        let mut state = self.state();
        state.batch.span?;
        Some(mem::replace(&mut state.batch, spent))
    }

    /// Waits until something may be there to take, or, while the journal cannot be written, for
    /// `retry`; or until it is time to stop: then `false`.
    pub fn wait(&self, retry: Duration) -> bool {
        /// Nothing is to be seen then, but whether a test still holds everything back.
        const LONG: Duration = Duration::from_secs(1);
        let state = self.state();
        if !state.stopping && (state.batch.span.is_none() || self.is_held()) {
            let at_most = if state.down.is_some() { retry } else { LONG };
            let waited = self.work.wait_timeout(state, at_most);
            let (state, _) = waited.unwrap_or_else(|poisoned| poisoned.into_inner());
            return !state.stopping;
        }
        !state.stopping
    }

    /// Ends [`Queue::wait`].
    pub fn stop(&self) {
        self.state().stopping = true;
        self.work.notify_all();
    }

    /// Whether [`Queue::stop`] was called.
    pub fn is_stopping(&self) -> bool {
        self.state().stopping
    }

    /// Changes when what is held back may go on.
    #[cfg(any(test, feature = "testing"))]
    pub fn released(&self) -> watch::Receiver<bool> {
        self.control.hold.released()
    }

    /// Everything up to `lsn` is synced here.
    pub fn set_written(&self, lsn: Lsn) {
        self.written.store(lsn.0, Ordering::Release);
    }

    /// Everything up to `lsn` is durable.
    pub fn publish(&self, lsn: Lsn) {
        self.committed.store(lsn.0, Ordering::Release);
        self.progress.send_replace(lsn);
    }

    /// Nothing after the newest position that is written can be: those commits never happened. Of
    /// those before `tried` any part may be on the disk. Until [`Queue::revive`] no further ones are
    /// taken in. Returns what was still waiting. Nobody is told before [`Queue::tell_of_failure`].
    pub fn fail(&self, reason: &io::Error, tried: Lsn) -> Batch {
        let mut state = self.state();
        let void = self.written().next()..state.newest.next();
        self.voided.store(true, Ordering::Release);
        if !sabotaged!(self, DenyDoubt) {
            state.doubtful = void.start..tried.max(void.start);
        }
        let waiting = mem::take(&mut state.batch);
        state.down = Some(reason.to_string());
        if !sabotaged!(self, CountNoFailures) {
            self.failures.fetch_add(1, Ordering::AcqRel);
        }
        match state.void.last_mut() {
            Some(last) if last.end == void.start => last.end = void.end,
            _ if void.is_empty() || sabotaged!(self, ForgetVoid) => {}
            _ => state.void.push(void),
        }
        waiting
    }

    /// Wakes whoever waits for what [`Queue::fail`] has decided.
    pub fn tell_of_failure(&self) {
        self.progress.send_replace(self.newest());
    }

    /// Wakes whoever waits for what may have changed besides.
    fn tell(&self) {
        self.progress.send_modify(|_| {});
    }

    /// Whether [`Queue::fail`] was last.
    pub fn is_down(&self) -> bool {
        self.state().down.is_some()
    }

    /// Records are taken in again. What is void stays so: the journal says it now.
    pub fn revive(&self) {
        let mut state = self.state();
        (state.down, state.doubtful) = (None, Range::default());
    }

    /// Whether a test holds back the pages of large commits.
    pub fn holds_pages(&self) -> bool {
        #[cfg(any(test, feature = "testing"))]
        return self.control.hold.holds_pages();
        #[cfg(not(any(test, feature = "testing")))]
        false
    }

    fn is_held(&self) -> bool {
        #[cfg(any(test, feature = "testing"))]
        return self.control.hold.is_held();
        #[cfg(not(any(test, feature = "testing")))]
        false
    }
}

/// Appends the record that `write` writes for the next position.
fn append(
    state: &mut State,
    write: impl FnOnce(&mut Vec<u8>, Lsn) -> io::Result<()>,
) -> Result<Lsn> {
    let lsn = state.newest.next();
    let batch = &mut state.batch;
    let before = batch.records.len();
    if let Err(error) = write(&mut batch.records, lsn) {
        batch.records.truncate(before);
        return Err(failed(error));
    }
    batch.span = Some((batch.span.map_or(lsn, |(first, _)| first), lsn));
    state.newest = lsn;
    Ok(lsn)
}

fn failed(reason: impl std::fmt::Display) -> Error {
    Error::StorageFailed(format!("the journal cannot be written: {reason}"))
}
