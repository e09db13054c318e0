//! The files that the journal goes round in, and which of them count.

use std::{
    cmp::Ordering,
    collections::VecDeque,
    io,
    path::PathBuf,
    sync::{Arc, Condvar, Mutex, MutexGuard},
    time::Duration,
};

use super::{
    lsn::Lsn,
    queue::Queue,
    recover::Recovered,
    roster::Roster,
    segment::{Header, Origin, SegmentFile, State},
};
use crate::env::{self, Disk, DiskFile, Open};

/// What segments are called, behind their number.
pub(super) const SEGMENT_SUFFIX: &str = ".segment";

/// All segments of a journal.
pub(super) struct Segments {
    disk: Arc<dyn Disk>,
    queue: Arc<Queue>,
    folder: PathBuf,
    /// How large each is.
    pub bytes: u64,
    /// The most there may be.
    most: usize,
    /// What is said of each that is begun or freed.
    origin: Origin,
    state: Mutex<Inner>,
    roster: Mutex<Roster>,
    changed: Condvar,
}

struct Inner {
    /// Those that count, oldest first; the last is being written.
    live: VecDeque<Live>,
    free: VecDeque<Arc<SegmentFile>>,
    /// The number that the next new file gets.
    next_number: u64,
    /// The newest sequence that was ever used.
    sequence: u64,
    /// Why nothing is retired at the moment.
    trouble: Option<String>,
    stopping: bool,
}

/// A segment that counts.
#[derive(Clone)]
pub(super) struct Live {
    pub file: Arc<SegmentFile>,
    pub salt: u32,
    pub sequence: u64,
    pub first: Lsn,
    /// From this position on its records do not count; none: all count that are durable.
    pub end: Option<Lsn>,
}

impl Segments {
    pub fn new(
        disk: Arc<dyn Disk>,
        queue: Arc<Queue>,
        folder: PathBuf,
        bytes: u64,
        most: usize,
        recovered: Recovered,
    ) -> Segments {
        let Recovered {
            free,
            next_number,
            sequence,
            roster,
            origin,
            ..
        } = recovered;
        let state = Mutex::new(Inner {
            live: VecDeque::new(),
            free: free.into_iter().map(Arc::new).collect(),
            next_number,
            sequence,
            trouble: None,
            stopping: false,
        });
        Segments {
            disk,
            queue,
            folder,
            bytes,
            most,
            origin,
            state,
            roster: Mutex::new(roster),
            changed: Condvar::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, Inner> {
        // Nothing panics while it has the lock.
        self.state
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Begins the segment whose first record is at `first`. What of earlier ones is not written by now does
    /// not count any more. Waits for one to be retired if there is no other; fails when that fails.
    pub fn begin(&self, first: Lsn) -> io::Result<Live> {
        let file = self.acquire()?;
        if !sabotaged!(self.queue, SkipRoster)
            && let Err(error) = self.roster().enter(&file.name())
        {
            self.state().free.push_back(file);
            return Err(error);
        }
        let (sequence, previous, oldest) = {
            let mut state = self.state();
            state.sequence += 1;
            let previous = state.live.back().map_or(0, |live| live.sequence);
            let oldest = state
                .live
                .front()
                .map_or(state.sequence, |live| live.sequence);
            (state.sequence, previous, oldest)
        };
        let salt = if sabotaged!(self.queue, KeepSalt) {
            1
        } else {
            u32::from_le_bytes(env::random())
        };
        let void_from = self.queue.written().next();
        let header = Header {
            state: State::Live {
                first,
                void_from,
                previous,
                oldest,
            },
            salt,
            sequence,
            origin: self.origin,
            time_ms: self.queue.time_ms(),
        };
        if let Err(error) = file.write_header(header) {
            // Whether it says so or not, nothing is in it; the next one does not name it.
            self.state().free.push_back(file);
            return Err(error);
        }
        let live = Live {
            file,
            salt,
            sequence,
            first,
            end: None,
        };
        let mut state = self.state();
        if let Some(last) = state.live.back_mut()
            && !sabotaged!(self.queue, RetireVoid)
        {
            last.end = Some(void_from);
        }
        state.live.push_back(live.clone());
        self.changed.notify_all();
        Ok(live)
    }

    fn roster(&self) -> MutexGuard<'_, Roster> {
        // Nothing panics while it has the lock.
        self.roster
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Notes that nothing in any segment counts any more: all are free.
    pub fn forget_all(&self) -> io::Result<()> {
        self.roster().clear()
    }

    fn acquire(&self) -> io::Result<Arc<SegmentFile>> {
        let mut state = self.state();
        loop {
            // The one that was freed first: of those whose header failed the next try, the last.
            if let Some(file) = state.free.pop_front() {
                drop(state);
                return match self.resize(&file.file) {
                    Ok(()) => Ok(file),
                    Err(error) => {
                        self.state().free.push_back(file);
                        Err(error)
                    }
                };
            }
            if state.live.len() < self.most {
                let number = state.next_number;
                state.next_number += 1;
                drop(state);
                return self.create(number).map(Arc::new);
            }
            if let Some(trouble) = &state.trouble {
                return Err(io::Error::other(trouble.clone()));
            }
            if state.stopping {
                return Err(io::Error::other("the vat stops"));
            }
            let waited = self.changed.wait(state);
            state = waited.unwrap_or_else(|poisoned| poisoned.into_inner());
        }
    }

    /// A segment of a journal that was set up with another size, or that a crash kept from being made,
    /// gets the right one.
    fn resize(&self, file: &Arc<dyn DiskFile>) -> io::Result<()> {
        match file.bytes()?.cmp(&self.bytes) {
            Ordering::Equal => Ok(()),
            Ordering::Less => file.allocate(self.bytes).and_then(|()| file.sync()),
            Ordering::Greater => file.set_len(self.bytes),
        }
    }

    /// Room is reserved at once, and used again and again: to write over what is there costs the
    /// disk half as much as to append.
    fn create(&self, number: u64) -> io::Result<SegmentFile> {
        let path = self.folder.join(format!("{number:04}{SEGMENT_SUFFIX}"));
        let file = self.disk.open(&path, Open::OrCreate)?;
        let made = file
            .allocate(self.bytes)
            .and_then(|()| file.sync())
            .and_then(|()| self.disk.sync_folder(&self.folder));
        if let Err(error) = made {
            // It would only take room.
            let _ = self.disk.remove(&path);
            return Err(error);
        }
        Ok(SegmentFile { path, file })
    }

    /// The oldest segment that counts, unless it is the only one.
    pub fn oldest_full(&self) -> Option<Live> {
        let state = self.state();
        (state.live.len() > 1).then(|| state.live[0].clone())
    }

    /// Every segment that counts, oldest first.
    pub fn live(&self) -> Vec<Live> {
        self.state().live.iter().cloned().collect()
    }

    /// For tests: how many more can be begun at once.
    #[cfg(any(test, feature = "testing"))]
    pub fn room(&self) -> usize {
        self.most - self.state().live.len()
    }

    /// Whether so many count that the oldest should be retired.
    pub fn is_half_full(&self) -> bool {
        self.state().live.len() > self.most / 2
    }

    /// Marks a segment, the oldest, as free on the disk, and lets it be used again.
    pub fn free(&self, segment: &Live) -> io::Result<()> {
        segment.file.write_header(Header {
            state: State::Free {
                next: if sabotaged!(self.queue, ForgetPosition) {
                    Lsn(1)
                } else {
                    self.queue.newest().next()
                },
            },
            salt: segment.salt,
            sequence: segment.sequence,
            origin: self.origin,
            time_ms: self.queue.time_ms(),
        })?;
        let mut state = self.state();
        state.live.retain(|live| live.sequence != segment.sequence);
        state.free.push_back(segment.file.clone());
        self.changed.notify_all();
        Ok(())
    }

    /// Says why nothing can be retired, or that it can. Whether that is new.
    pub fn set_trouble(&self, trouble: Option<String>) -> bool {
        let mut state = self.state();
        let is_new = state.trouble != trouble;
        state.trouble = trouble;
        drop(state);
        self.changed.notify_all();
        is_new
    }

    /// Waits until the oldest segment should be retired, or for so long.
    pub fn wait_half_full(&self, at_most: Duration) {
        let state = self.state();
        let waited = self.changed.wait_timeout_while(state, at_most, |state| {
            !state.stopping && state.live.len() <= self.most / 2
        });
        drop(waited);
    }

    /// Lets nobody wait here any more.
    pub fn stop(&self) {
        self.state().stopping = true;
        self.changed.notify_all();
    }
}
