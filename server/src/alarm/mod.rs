//! The rules of alarms: when one is due, what becomes of a time that nobody was there for, and what
//! follows a run that failed. They know no clock and no storage.

mod repeat;
mod retry;
mod rules;

pub use self::repeat::{MAX_CRON_BYTES, Repeat};
pub use self::retry::{Failures, MAX_RETRIES, delay_ms};
pub use self::rules::{After, Attempt, DueRow, Outcome, WhenDue};

/// The longest name of an alarm, in bytes.
pub const MAX_NAME_BYTES: u64 = 1024;

/// The largest payload of an alarm, in bytes.
pub const MAX_PAYLOAD_BYTES: u64 = 64 * 1024;

/// The most alarms with a name that an object may have at a time.
pub const MAX_NAMED: u64 = 1000;

/// A time that is late by more than this, in milliseconds, counts as [missed](Missed).
pub const MISSED_AFTER_MS: i64 = 60_000;

/// A time at which an object is to be woken, once or again and again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Alarm {
    /// When, in milliseconds since 1970; it never runs before. A time that has passed means now. Zero
    /// is no time: one that is to be set with a repeat then begins with the repeat's next one.
    pub at_ms: i64,
    /// What the handler is told, at most [`MAX_PAYLOAD_BYTES`].
    pub payload: Vec<u8>,
    /// What becomes of times that pass while nothing can run it.
    pub missed: Missed,
    /// When it is to run again after that. Without one it is gone once it has run.
    pub repeat: Option<Repeat>,
}

impl Alarm {
    /// Once, at this time, in milliseconds since 1970.
    pub fn at(at_ms: i64) -> Alarm {
        Alarm {
            at_ms,
            ..Alarm::default()
        }
    }

    /// Again and again, from the next time of `repeat` on. To set it when it is set already changes
    /// nothing, so an object may do that whenever it wakes.
    pub fn repeating(repeat: Repeat) -> Alarm {
        Alarm {
            repeat: Some(repeat),
            ..Alarm::default()
        }
    }

    /// With this for the handler.
    pub fn payload(mut self, payload: impl Into<Vec<u8>>) -> Alarm {
        self.payload = payload.into();
        self
    }

    /// With this rule for times that are missed.
    pub fn missed(mut self, missed: Missed) -> Alarm {
        self.missed = missed;
        self
    }
}

/// What becomes of times that pass while nothing can run the alarm: the vat is down, or an earlier
/// run still goes on. A time counts as missed when it is late by more than [`MISSED_AFTER_MS`] or
/// when a later time of the same alarm is due as well. One that was tried, and is to be tried again,
/// was not missed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Missed {
    /// One run stands for all times up to its start.
    #[default]
    FireOnce,
    /// One run for each, in order.
    FireEach,
    /// No run: the next is at the first time to come. An alarm without a repeat is gone then.
    Skip,
}

/// What a handler is told of the alarm that it runs for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AlarmInfo {
    /// The name it was set under; empty for the object's own alarm.
    pub name: String,
    /// The time it was set to, in milliseconds since 1970. Of several missed ones, the first.
    pub scheduled_ms: i64,
    /// The runs for this time that failed through the object's own doing, at most [`MAX_RETRIES`].
    pub retry_count: u32,
    /// Whether there was a run for this time before, whyever it failed. It may have done part of its
    /// work.
    pub is_retry: bool,
    /// What it was set with.
    pub payload: Vec<u8>,
}
