//! The limits of time and memory of SQL: what a call and an object may take.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use rusqlite::Connection;

use super::Settings;
use super::meter::{self, Allowance, Refusal, clock};
use crate::{Error, Result, error::StatementLimit};

/// Virtual machine instructions between two looks at the clock and the memory.
const INSTRUCTIONS: i32 = 100;

/// Stops user SQL that runs past the deadline, or takes too much memory. SQL of our own is never
/// stopped.
pub(super) struct Watch {
    shared: Rc<Shared>,
    /// The bytes that running statements hold together.
    held: Rc<Cell<i64>>,
    /// The most that this may be.
    memory: i64,
    /// Why the newest statement was stopped.
    refusal: Cell<Option<Refusal>>,
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

#[derive(Default)]
struct Shared {
    /// Nanoseconds of [`clock`]; no deadline while `depth` is zero.
    deadline: Cell<u64>,
    depth: Cell<u32>,
}

impl Shared {
    fn is_late(&self) -> bool {
        self.depth.get() > 0 && clock() >= self.deadline.get()
    }
}

/// The memory that a statement holds, given back when it is dropped.
pub(super) struct Held {
    bytes: i64,
    all: Rc<Cell<i64>>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.all.set(self.all.get() - self.bytes);
    }
}

/// What may be lost with a statement that is stopped.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing: it is only being compiled.
    Prepare,
    /// What the turn has written, if an allocation fails.
    Run,
}

/// While it lives, SQL on one database has together no more time than the limit for one call.
/// Nested in another it changes nothing. Not to be held while something else may run.
#[must_use]
pub struct Deadline(Rc<Shared>);

impl Drop for Deadline {
    fn drop(&mut self) {
        self.0.depth.set(self.0.depth.get() - 1);
    }
}

/// Has SQLite look at the limits of the SQL that runs on a connection.
pub(super) fn install(connection: &mut Connection) -> rusqlite::Result<()> {
    connection.progress_handler(INSTRUCTIONS, Some(meter::is_over))
}

impl Watch {
    pub(super) fn new(settings: &Settings) -> Watch {
        let limit = Limit {
            time: settings.statement_time_limit,
            set_by: StatementLimit::Vat,
        };
        Watch {
            shared: Rc::default(),
            held: Rc::default(),
            memory: i64::try_from(settings.sql_memory_bytes).unwrap_or(i64::MAX / 2),
            refusal: Cell::default(),
            limit: Cell::new(limit),
            at_hand: Cell::new(limit),
        }
    }

    /// For a statement that holds nothing yet.
    pub(super) fn hold(&self) -> Held {
        Held {
            bytes: 0,
            all: self.held.clone(),
        }
    }

    /// Runs user SQL within its limits.
    pub(super) fn run<T>(&self, phase: Phase, held: &mut Held, run: impl FnOnce() -> T) -> T {
        let _deadline = self.start();
        let deadline = self.shared.deadline.get();
        let limit = u64::try_from(self.at_hand.get().time.as_nanos()).unwrap_or(u64::MAX);
        let allowance = Allowance {
            memory: self.memory - (self.held.get() - held.bytes),
            deadline,
            patience: match phase {
                Phase::Prepare => deadline,
                Phase::Run => deadline.saturating_add(limit),
            },
        };
        let (result, bytes, refusal) = meter::measured(held.bytes, allowance, run);
        self.held.set(self.held.get() - held.bytes + bytes);
        held.bytes = bytes;
        self.refusal.set(refusal);
        result
    }

    /// Why the statement that has just failed was stopped, if the vat stopped it. Answers once.
    pub(super) fn take_refusal(&self) -> Option<Error> {
        Some(match self.refusal.take()? {
            Refusal::Time => self.error(),
            Refusal::Memory => Error::SqlLimit {
                what: "the memory of an object's SQL (bytes)",
                limit: u64::try_from(self.memory).unwrap_or(0),
                key: "`limits.sql_memory_bytes`",
            },
            Refusal::Arguments {
                what,
                limit,
                actual,
            } => Error::LimitExceeded {
                what,
                limit,
                actual,
            },
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
        let depth = self.shared.depth.get();
        self.shared.depth.set(depth + 1);
        if depth == 0 {
            self.at_hand.set(limit);
            let limit = u64::try_from(limit.time.as_nanos()).unwrap_or(u64::MAX);
            self.shared.deadline.set(clock().saturating_add(limit));
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
