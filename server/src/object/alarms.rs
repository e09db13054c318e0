//! Alarms, as an object's code sets them.

use std::time::Duration;

use crate::{Result, alarm::Alarm, env::Clock, storage};

/// The alarms of one object: its own, and any number with names. They are part of its storage: to set
/// one is part of the turn, and is undone with it. [`Class::alarm`](super::Class::alarm) runs when one
/// is due, also if the object sleeps, or the vat was not there at the time.
///
/// While an alarm runs it counts as not set, and it is gone once it has run, unless its handler, or
/// anybody else meanwhile, has set it again.
pub struct Alarms {
    rows: storage::Alarms,
    clock: Clock,
}

/// The name of the object's own alarm.
const OWN: &str = "";

impl Alarms {
    pub(super) fn new(rows: storage::Alarms, clock: Clock) -> Alarms {
        Alarms { rows, clock }
    }

    /// Sets the object's own alarm, in milliseconds since 1970, instead of the one that is set. A time
    /// that has passed means now; one that is not after 1970 is `invalid-argument`.
    pub fn set(&self, at_ms: i64) -> Result<()> {
        self.set_named(OWN, &Alarm::at(at_ms))
    }

    /// Sets the alarm to a time from now on.
    pub fn set_in(&self, delay: Duration) -> Result<()> {
        let delay = i64::try_from(delay.as_millis()).unwrap_or(i64::MAX);
        self.set(self.clock.now_ms().saturating_add(delay))
    }

    /// When the object's own alarm is due, in milliseconds since 1970, if it is set.
    pub fn get(&self) -> Result<Option<i64>> {
        Ok(self.get_named(OWN)?.map(|alarm| alarm.at_ms))
    }

    /// Deletes the object's own alarm; says whether it was set. One that runs is not stopped.
    pub fn delete(&self) -> Result<bool> {
        self.delete_named(OWN)
    }

    /// Sets an alarm with a name of at most [`MAX_NAME_BYTES`](crate::alarm::MAX_NAME_BYTES). An
    /// object may have [`MAX_NAMED`](crate::alarm::MAX_NAMED) of them. Beyond that it is
    /// `limit-exceeded`.
    pub fn set_named(&self, name: &str, alarm: &Alarm) -> Result<()> {
        self.rows.set(name, alarm, self.clock.now_ms())
    }

    /// The alarm of that name, if it is set. That of a repeat has its next time.
    pub fn get_named(&self, name: &str) -> Result<Option<Alarm>> {
        self.rows.get(name)
    }

    /// Deletes the alarm of that name; says whether it was set. One that runs is not stopped.
    pub fn delete_named(&self, name: &str) -> Result<bool> {
        self.rows.delete(name)
    }

    /// At most `limit` alarms, in the order of their names, after that name if one is given. The
    /// object's own has an empty name.
    pub fn list(&self, after: Option<&str>, limit: u32) -> Result<Vec<(String, Alarm)>> {
        self.rows.list(after, limit)
    }
}
