//! Promises: positions of large commits that are not in the log yet.
//!
//! The pages of a large commit are written to a file of their own by another thread, and its record is
//! taken in when that file is durable. Until then the commit has a promise for a position. A promise is
//! later than every real position, and is never written anywhere.

use std::collections::BTreeMap;

use super::lsn::Lsn;

impl Lsn {
    /// The first promise. No data folder lives long enough to have so many commits.
    pub(super) const FIRST_PROMISE: Lsn = Lsn(1 << 63);

    /// Whether it stands for a position that was not known at the time.
    pub(super) fn is_promise(self) -> bool {
        self >= Lsn::FIRST_PROMISE
    }
}

/// What became of a promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Promise {
    /// The pages of the commit are being written.
    Pending,
    /// The commit is in the log, at this position.
    At(Lsn),
    /// The commit never happened.
    Broken,
}

/// The promises of a queue that somebody may ask for. Those of durable commits are forgotten, so that what
/// stays are the pending ones, and one for each large commit that the disk has failed at.
#[derive(Default)]
pub(super) struct Promises {
    given: u64,
    pending: usize,
    known: BTreeMap<Lsn, Promise>,
}

impl Promises {
    /// Gives a promise. `is_durable`: whether a position can be forgotten.
    pub fn give(&mut self, is_durable: impl Fn(Lsn) -> bool) -> Lsn {
        self.known
            .retain(|_, promise| !matches!(promise, Promise::At(lsn) if is_durable(*lsn)));
        let promise = Lsn(Lsn::FIRST_PROMISE.0 + self.given);
        self.given += 1;
        self.pending += 1;
        self.known.insert(promise, Promise::Pending);
        promise
    }

    /// What became of a promise; `None`: its commit is durable.
    pub fn get(&self, promise: Lsn) -> Option<Promise> {
        self.known.get(&promise).copied()
    }

    /// Notes what became of a promise that was pending.
    pub fn settle(&mut self, promise: Lsn, became: Promise) {
        if self.known.insert(promise, became) == Some(Promise::Pending) {
            self.pending -= 1;
        }
    }

    /// The number of promises that are pending.
    pub fn pending(&self) -> usize {
        self.pending
    }
}
