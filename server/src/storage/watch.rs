//! The time limit of SQL, kept by SQLite's progress handler.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::authorizer::Gate;
use crate::{Error, Result, error::StatementLimit};

/// Virtual machine instructions between two looks at the clock.
const INSTRUCTIONS: i32 = 1000;

/// Stops user SQL that runs past the deadline. SQL of our own is never stopped.
pub(super) struct Watch {
    shared: Arc<Shared>,
    /// What a call has that is not inside another.
    limit: Cell<Limit>,
    /// What the call at hand has.
    at_hand: Cell<Limit>,
}

#[derive(Clone, Copy)]
struct Limit {
    time: Duration,
    set_by: StatementLimit,
}

// SQLite's hooks must be `Send`, though everything here happens on one thread.
struct Shared {
    start: Instant,
    /// Nanoseconds after `start`; no deadline while `depth` is zero.
    deadline: AtomicU64,
    depth: AtomicU32,
}

impl Shared {
    fn nanoseconds(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn is_late(&self) -> bool {
        self.depth.load(Ordering::Relaxed) > 0
            && self.nanoseconds() >= self.deadline.load(Ordering::Relaxed)
    }
}

/// While it lives, SQL on one database has together no more time than the limit for one call.
/// Nested in another it changes nothing. Not to be held while something else may run.
#[must_use]
pub struct Deadline(Arc<Shared>);

impl Drop for Deadline {
    fn drop(&mut self) {
        self.0.depth.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Watch {
    pub(super) fn install(
        connection: &mut Connection,
        gate: &Gate,
        limit: Duration,
    ) -> rusqlite::Result<Watch> {
        let shared = Arc::new(Shared {
            start: Instant::now(),
            deadline: AtomicU64::default(),
            depth: AtomicU32::default(),
        });
        let (seen, gate) = (shared.clone(), gate.clone());
        connection.progress_handler(
            INSTRUCTIONS,
            Some(move || seen.is_late() && !gate.is_trusted()),
        )?;
        let limit = Limit {
            time: limit,
            set_by: StatementLimit::Vat,
        };
        Ok(Watch {
            shared,
            limit: Cell::new(limit),
            at_hand: Cell::new(limit),
        })
    }

    /// From now on a call has this time, because its class says so.
    pub(super) fn set_limit(&self, time: Duration) {
        let set_by = StatementLimit::Class;
        self.limit.set(Limit { time, set_by });
    }

    /// Starts the time limit of a call, unless one runs already.
    pub(super) fn start(&self) -> Deadline {
        self.start_with(self.limit.get())
    }

    /// Starts the time limit of migrations, unless one runs already.
    pub(super) fn start_migration(&self, time: Duration) -> Deadline {
        let set_by = StatementLimit::Migration;
        self.start_with(Limit { time, set_by })
    }

    fn start_with(&self, limit: Limit) -> Deadline {
        if self.shared.depth.fetch_add(1, Ordering::Relaxed) == 0 {
            self.at_hand.set(limit);
            let limit = u64::try_from(limit.time.as_nanos()).unwrap_or(u64::MAX);
            let deadline = self.shared.nanoseconds().saturating_add(limit);
            self.shared.deadline.store(deadline, Ordering::Relaxed);
        }
        Deadline(self.shared.clone())
    }

    /// Fails after the deadline.
    pub(super) fn check(&self) -> Result<()> {
        if self.shared.is_late() {
            return Err(self.error());
        }
        Ok(())
    }

    /// The error of SQL that was stopped.
    pub(super) fn error(&self) -> Error {
        let Limit { time, set_by } = self.at_hand.get();
        Error::StatementTimeout {
            limit_ms: u64::try_from(time.as_millis()).unwrap_or(u64::MAX),
            set_by,
        }
    }
}
