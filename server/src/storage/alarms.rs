//! The alarms that are set on an object, in a table that user SQL cannot see.

use std::cell::{Cell, RefCell};

use rusqlite::{Connection, OptionalExtension, Row};

use super::Storage;
use super::authorizer::{cached, ours};
use crate::alarm::{
    After, Alarm, Attempt, DueRow, Failures, MAX_NAME_BYTES, MAX_NAMED, MAX_PAYLOAD_BYTES, Missed,
    Outcome, Repeat,
};
use crate::{Error, Result};

/// The alarms of an object, each under a name; the empty name is that of the object's own alarm. To
/// set and to delete are part of the turn, or of the transaction, like any other write.
///
/// While an alarm runs it is not set: what its handler sets under the name is a new one, which stays
/// when the run has ended, however it ends. What it deletes stays deleted.
pub struct Alarms {
    storage: Storage,
}

/// What is not in the database.
#[derive(Default)]
pub(super) struct State {
    runs: RefCell<Vec<Run>>,
    /// Whether the earliest alarm may be another than when it was last asked for.
    changed: Cell<bool>,
    /// Likewise, before the transaction that is open.
    changed_before: Cell<bool>,
    /// The earliest alarm as of the newest commit, if nobody has asked for it yet.
    committed: Cell<Option<Option<i64>>>,
}

/// An alarm whose handler runs. Its row stays as it was, so that it runs again after a crash; a row
/// with another time is one that was set meanwhile.
struct Run {
    name: String,
    scheduled_ms: i64,
    started_ms: i64,
}

impl State {
    /// A transaction begins.
    pub(super) fn begin(&self) {
        self.changed_before.set(self.changed.get());
    }

    /// The transaction is undone.
    pub(super) fn undo(&self) {
        self.changed.set(self.changed_before.get());
    }

    /// Whether the earliest alarm may be another than when this was last asked.
    pub(super) fn take_change(&self) -> bool {
        self.changed.take()
    }

    /// A commit has made this the earliest alarm, or has not changed it.
    pub(super) fn committed(&self, due_ms: Option<Option<i64>>) {
        if due_ms.is_some() {
            self.committed.set(due_ms);
        }
    }

    /// What [`State::committed`] was told.
    pub(super) fn take_committed(&self) -> Option<Option<i64>> {
        self.committed.take()
    }

    /// Something was written.
    pub(super) fn change(&self) {
        self.changed.set(true);
    }

    /// The time for which the alarm of this name runs, if it does.
    fn running(&self, name: &str) -> Option<i64> {
        let runs = self.runs.borrow();
        runs.iter()
            .find(|run| run.name == name)
            .map(|run| run.scheduled_ms)
    }

    fn is_running(&self, stored: &Stored) -> bool {
        self.running(&stored.name) == Some(stored.scheduled_ms)
    }

    fn take_run(&self, name: &str) -> Option<Run> {
        let mut runs = self.runs.borrow_mut();
        let at = runs.iter().position(|run| run.name == name)?;
        Some(runs.swap_remove(at))
    }
}

impl Storage {
    /// The object's alarms.
    pub(crate) fn alarms(&self) -> Alarms {
        Alarms {
            storage: self.clone(),
        }
    }
}

impl Alarms {
    /// Sets the alarm of this name, instead of the one that is set, if any, and of its retries. To
    /// set what is set already, and has not failed, writes nothing. `now_ms` is the time, in
    /// milliseconds since 1970; an earlier time than that becomes it.
    ///
    /// `invalid-argument` for a time of zero or less without a repeat, or a repeat whose times are
    /// over; `limit-exceeded` for a name of more than [`MAX_NAME_BYTES`], a payload of more than
    /// [`MAX_PAYLOAD_BYTES`], or more than [`MAX_NAMED`] names.
    pub fn set(&self, name: &str, alarm: &Alarm, now_ms: i64) -> Result<()> {
        check_name(name)?;
        let length = alarm.payload.len() as u64;
        Error::check_limit("the payload of an alarm (bytes)", MAX_PAYLOAD_BYTES, length)?;
        let first = first_time(alarm, now_ms)?;
        let state = &self.storage.0.alarms;
        let old = self.stored(name)?;
        if let Some(old) = old.as_ref().filter(|old| !state.is_running(old)) {
            // Of an alarm that is only said to repeat, the time that it waits for is as good: it is
            // the same, or has passed and is still to be run for.
            let same_time = match alarm.at_ms {
                0 => old.scheduled_ms <= first,
                _ => old.scheduled_ms == first,
            };
            if same_time && old.is_like(alarm) && !old.failures.any() {
                return Ok(());
            }
        }
        if old.is_none() && !name.is_empty() {
            Error::check_limit(
                "the named alarms of an object",
                MAX_NAMED,
                (self.named()? + 1).into(),
            )?;
        }
        // A row with the time of the run would be taken for that of the run.
        let scheduled_ms = match state.running(name) {
            Some(running) if running == first => first + 1,
            _ => first,
        };
        self.write(|connection| {
            create(connection)?;
            let mut insert = cached(
                connection,
                ours!(
                    "INSERT OR REPLACE INTO _vw_alarms (name, scheduled_ms, due_ms, retries, \
                     backoff, counted, missed, cron, zone, payload) \
                     VALUES (?1, ?2, ?2, 0, 0, 0, ?3, ?4, ?5, ?6)"
                ),
            )?;
            insert.execute((
                name,
                scheduled_ms,
                missed_code(alarm.missed),
                alarm.repeat.as_ref().map(Repeat::cron),
                alarm.repeat.as_ref().map(Repeat::zone),
                &alarm.payload,
            ))
        })?;
        Ok(())
    }

    /// The alarm of this name, if one is set.
    pub fn get(&self, name: &str) -> Result<Option<Alarm>> {
        check_name(name)?;
        self.stored(name)?
            .filter(|stored| !self.storage.0.alarms.is_running(stored))
            .map(|stored| Ok(stored.row()?.alarm))
            .transpose()
    }

    /// Deletes the alarm of this name, and says whether one was set. A run that goes on is not
    /// stopped; if it fails, it is not tried again.
    pub fn delete(&self, name: &str) -> Result<bool> {
        check_name(name)?;
        let Some(stored) = self.stored(name)? else {
            return Ok(false);
        };
        self.remove(name)?;
        Ok(!self.storage.0.alarms.is_running(&stored))
    }

    /// The alarms that are set, by their names in the order of bytes, after this one if it is given,
    /// and at most `limit` of them; zero is `invalid-argument`.
    pub fn list(&self, after_name: Option<&str>, limit: u32) -> Result<Vec<(String, Alarm)>> {
        if limit == 0 {
            return Err(Error::InvalidArgument(
                "the limit of a list must be positive".into(),
            ));
        }
        check_name(after_name.unwrap_or(""))?;
        let state = &self.storage.0.alarms;
        let stored = self.read(Vec::new(), |connection| {
            let mut select = cached(
                connection,
                ours!("SELECT * FROM _vw_alarms WHERE name > ?1 OR ?1 IS NULL ORDER BY name"),
            )?;
            let mut rows = select.query([after_name])?;
            let mut found = Vec::new();
            while found.len() < limit as usize
                && let Some(row) = rows.next()?
            {
                let stored = Stored::read(row)?;
                if !state.is_running(&stored) {
                    found.push(stored);
                }
            }
            Ok(found)
        })?;
        let alarms = stored.into_iter().map(|stored| {
            let row = stored.row()?;
            Ok((row.name, row.alarm))
        });
        alarms.collect()
    }

    fn named(&self) -> Result<u32> {
        self.read(0, |connection| {
            let sql = ours!("SELECT count(*) FROM _vw_alarms WHERE name <> ''");
            cached(connection, sql)?.query_row([], |row| row.get(0))
        })
    }

    fn stored(&self, name: &str) -> Result<Option<Stored>> {
        self.read(None, |connection| {
            let sql = ours!("SELECT * FROM _vw_alarms WHERE name = ?1");
            cached(connection, sql)?
                .query_row([name], Stored::read)
                .optional()
        })
    }

    fn remove(&self, name: &str) -> Result<()> {
        self.write(|connection| {
            let sql = ours!("DELETE FROM _vw_alarms WHERE name = ?1");
            cached(connection, sql)?.execute([name])
        })
    }

    /// Reads, or answers `absent` where nothing was ever set.
    fn read<T>(
        &self,
        absent: T,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T> {
        self.storage.operate(None, |connection| {
            let inner = &self.storage.0;
            let _trusted = inner.gate.trust();
            exists(connection)
                .and_then(|exists| if exists { read(connection) } else { Ok(absent) })
                .map_err(|error| inner.judge(connection, &error))
        })
    }

    fn write(&self, write: impl FnOnce(&Connection) -> rusqlite::Result<usize>) -> Result<()> {
        self.storage.write(None, |connection| {
            let inner = &self.storage.0;
            let _trusted = inner.gate.trust();
            write(connection).map_err(|error| inner.judge(connection, &error))?;
            inner.alarms.change();
            // It runs whatever becomes of the instance.
            inner.speaks();
            Ok(())
        })
    }
}

impl Alarms {
    /// When the next attempt of any alarm is due, in milliseconds since 1970. Those that run count,
    /// at the time they run for: after a crash they are due.
    pub(crate) fn next_due(&self) -> Result<Option<i64>> {
        self.read(None, earliest)
    }

    /// The alarms that are due, the one that waits longest first, and at most `limit` of them. What
    /// runs, or was set while another of its name runs, is not yet.
    pub(crate) fn due(&self, now_ms: i64, limit: usize) -> Result<Vec<DueRow>> {
        let state = &self.storage.0.alarms;
        // Only names are sorted, for payloads may be large.
        let names = self.read(Vec::new(), |connection| {
            let sql = ours!("SELECT name FROM _vw_alarms WHERE due_ms <= ?1 ORDER BY due_ms, name");
            let mut select = cached(connection, sql)?;
            let names = select.query_map([now_ms], |row| row.get(0))?;
            names
                .filter(|name: &rusqlite::Result<String>| {
                    !matches!(name, Ok(name) if state.running(name).is_some())
                })
                .take(limit)
                .collect()
        })?;
        let rows = names
            .iter()
            .filter_map(|name| self.stored(name).transpose());
        rows.map(|stored| stored?.row()).collect()
    }

    /// When the next attempt is due of an alarm that does not run, in milliseconds since 1970.
    pub(crate) fn next_waiting(&self) -> Result<Option<i64>> {
        let state = &self.storage.0.alarms;
        self.read(None, |connection| {
            let sql = ours!("SELECT name, due_ms FROM _vw_alarms");
            let mut select = cached(connection, sql)?;
            let mut rows = select.query([])?;
            let mut first: Option<i64> = None;
            while let Some(row) = rows.next()? {
                let due_ms: i64 = row.get(1)?;
                if first.is_none_or(|first| due_ms < first)
                    && state.running(row.get_ref(0)?.as_str()?).is_none()
                {
                    first = Some(due_ms);
                }
            }
            Ok(first)
        })
    }

    fn stored_for(&self, name: &str, scheduled_ms: i64) -> Result<Option<Stored>> {
        let stored = self.stored(name)?;
        Ok(stored.filter(|stored| stored.scheduled_ms == scheduled_ms))
    }

    /// Does with an alarm what is to be done, unless another time than `scheduled_ms` was set or it
    /// was deleted; says whether it did.
    pub(crate) fn apply(&self, name: &str, scheduled_ms: i64, after: After) -> Result<bool> {
        let Some(stored) = self.stored_for(name, scheduled_ms)? else {
            return Ok(false);
        };
        let (scheduled_ms, due_ms, failures) = match after {
            After::Gone => return self.remove(name).map(|()| true),
            After::Next { scheduled_ms } => (scheduled_ms, scheduled_ms, Failures::default()),
            After::Retry { due_ms, failures } => (scheduled_ms, due_ms, failures),
        };
        self.write(|connection| {
            let mut update = cached(
                connection,
                ours!(
                    "UPDATE _vw_alarms SET scheduled_ms = ?2, due_ms = ?3, retries = ?4, \
                     backoff = ?5, counted = ?6 WHERE name = ?1"
                ),
            )?;
            let Failures {
                retries,
                backoff,
                counted,
            } = failures;
            update.execute((name, scheduled_ms, due_ms, retries, backoff, counted))
        })?;
        if stored.attempt != Attempt::None {
            self.note_attempt(name, Attempt::None)?;
        }
        Ok(true)
    }

    /// Notes that the handler of an alarm is about to run: once the commit is durable, a process that
    /// finds the note knows that the run was cut short. Notes nothing of an alarm that was deleted, or
    /// set to another time.
    pub(crate) fn note_begun(&self, name: &str, scheduled_ms: i64) -> Result<()> {
        match self.stored_for(name, scheduled_ms)? {
            Some(_) => self.note_attempt(name, Attempt::Begun),
            None => Ok(()),
        }
    }

    fn note_attempt(&self, name: &str, attempt: Attempt) -> Result<()> {
        self.write(|connection| {
            // Databases of earlier versions have no such column.
            if !connection.column_exists(None, "_vw_alarms", "attempt")? {
                connection.execute_batch(
                    "ALTER TABLE _vw_alarms ADD COLUMN attempt INTEGER NOT NULL DEFAULT 0",
                )?;
            }
            let sql = ours!("UPDATE _vw_alarms SET attempt = ?2 WHERE name = ?1");
            cached(connection, sql)?.execute((name, attempt_code(attempt)))
        })
    }

    /// A run that was noted has been cut short by the end of its process: does what follows, and says
    /// what that was, unless the alarm was set or deleted meanwhile. The next run is noted too.
    pub(crate) fn cut_short(
        &self,
        name: &str,
        scheduled_ms: i64,
        outcome: Outcome,
        now_ms: i64,
        random: u64,
    ) -> Result<Option<After>> {
        let after = self.lost_run(name, scheduled_ms, outcome, now_ms, random)?;
        if let Some(After::Retry { .. }) = after {
            self.note_attempt(name, Attempt::CutShort)?;
        }
        Ok(after)
    }

    /// The handler of this alarm is about to run, at `now_ms`. `false` if it is not to: another time
    /// than `scheduled_ms` was set, it was deleted, or one of this name runs.
    pub(crate) fn begin_run(&self, name: &str, scheduled_ms: i64, now_ms: i64) -> Result<bool> {
        let state = &self.storage.0.alarms;
        if state.running(name).is_some() || self.stored_for(name, scheduled_ms)?.is_none() {
            return Ok(false);
        }
        state.runs.borrow_mut().push(Run {
            name: name.to_owned(),
            scheduled_ms,
            started_ms: now_ms,
        });
        Ok(true)
    }

    /// A run that began, in this instance or in an earlier one, has not ended well: does what follows, and says what
    /// that was, unless the alarm was set or deleted meanwhile.
    pub(crate) fn lost_run(
        &self,
        name: &str,
        scheduled_ms: i64,
        outcome: Outcome,
        now_ms: i64,
        random: u64,
    ) -> Result<Option<After>> {
        // If the instance is the one that ran it, it has given up.
        self.storage.0.alarms.take_run(name);
        if self.begin_run(name, scheduled_ms, now_ms)? {
            self.end_run(name, outcome, now_ms, random)
        } else {
            Ok(None)
        }
    }

    /// The run of this name has ended at `now_ms`: does what follows, and says what that was, unless
    /// the alarm was set or deleted meanwhile. `random` is for [`DueRow::after_run`].
    pub(crate) fn end_run(
        &self,
        name: &str,
        outcome: Outcome,
        now_ms: i64,
        random: u64,
    ) -> Result<Option<After>> {
        let Some(run) = self.storage.0.alarms.take_run(name) else {
            return Ok(None);
        };
        let Some(stored) = self.stored_for(name, run.scheduled_ms)? else {
            return Ok(None);
        };
        let row = stored.row()?;
        let after = row.after_run(outcome, run.started_ms, now_ms, random);
        self.apply(name, run.scheduled_ms, after)?;
        Ok(Some(after))
    }
}

/// A row of the table.
struct Stored {
    name: String,
    scheduled_ms: i64,
    due_ms: i64,
    failures: Failures,
    missed: u8,
    cron: Option<String>,
    zone: Option<String>,
    payload: Vec<u8>,
    attempt: Attempt,
}

impl Stored {
    fn read(row: &Row<'_>) -> rusqlite::Result<Stored> {
        Ok(Stored {
            name: row.get("name")?,
            scheduled_ms: row.get("scheduled_ms")?,
            due_ms: row.get("due_ms")?,
            failures: Failures {
                retries: row.get("retries")?,
                backoff: row.get("backoff")?,
                counted: row.get("counted")?,
            },
            missed: row.get("missed")?,
            cron: row.get("cron")?,
            zone: row.get("zone")?,
            payload: row.get("payload")?,
            attempt: match row.get("attempt") {
                Ok(code) => read_attempt(code),
                // Nothing has ever been noted.
                Err(rusqlite::Error::InvalidColumnName(_)) => Attempt::None,
                Err(error) => return Err(error),
            },
        })
    }

    /// Whether it is set to the same but for the time.
    fn is_like(&self, alarm: &Alarm) -> bool {
        let repeat = alarm.repeat.as_ref();
        self.payload == alarm.payload
            && self.missed == missed_code(alarm.missed)
            && self.cron.as_deref() == repeat.map(Repeat::cron)
            && self.zone.as_deref() == repeat.map(Repeat::zone)
    }

    /// `storage-damaged` when a vat wrote it that knew more.
    fn row(self) -> Result<DueRow> {
        let unknown = |what: &dyn std::fmt::Display| {
            Error::StorageDamaged(format!("the alarm `{}` cannot be read: {what}", self.name))
        };
        let missed = [Missed::FireOnce, Missed::FireEach, Missed::Skip]
            .into_iter()
            .find(|missed| missed_code(*missed) == self.missed)
            .ok_or_else(|| unknown(&"its rule for missed times"))?;
        let repeat = self.cron.as_deref().zip(self.zone.as_deref());
        let repeat = repeat
            .map(|(cron, zone)| Repeat::new(cron, zone))
            .transpose()
            .map_err(|error| unknown(&error))?;
        Ok(DueRow {
            name: self.name,
            alarm: Alarm {
                at_ms: self.scheduled_ms,
                payload: self.payload,
                missed,
                repeat,
            },
            due_ms: self.due_ms,
            failures: self.failures,
            attempt: self.attempt,
        })
    }
}

/// As it is in the table.
fn missed_code(missed: Missed) -> u8 {
    match missed {
        Missed::FireOnce => 0,
        Missed::FireEach => 1,
        Missed::Skip => 2,
    }
}

/// The number that stands for a note in the table.
fn attempt_code(attempt: Attempt) -> u8 {
    match attempt {
        Attempt::None => 0,
        Attempt::Begun => 1,
        Attempt::CutShort => 2,
    }
}

/// The note that a number in the table stands for. One of a later version is a run that was cut short:
/// the next is noted, and nothing is counted.
fn read_attempt(code: i64) -> Attempt {
    match code {
        0 => Attempt::None,
        1 => Attempt::Begun,
        _ => Attempt::CutShort,
    }
}

/// The time to set an alarm to.
fn first_time(alarm: &Alarm, now_ms: i64) -> Result<i64> {
    match (alarm.at_ms, &alarm.repeat) {
        (0, Some(repeat)) => repeat.next_after(now_ms).ok_or_else(|| {
            Error::InvalidArgument("the times of the alarm's repeat are over".into())
        }),
        (..=0, _) => Err(Error::InvalidArgument(format!(
            "the time of an alarm must be after 1970, and this is {}",
            alarm.at_ms
        ))),
        (at_ms, _) => Ok(at_ms.max(now_ms)),
    }
}

fn check_name(name: &str) -> Result<()> {
    let length = name.len() as u64;
    Error::check_limit("the name of an alarm (bytes)", MAX_NAME_BYTES, length)
}

fn exists(connection: &Connection) -> rusqlite::Result<bool> {
    connection.table_exists(None, c"_vw_alarms")
}

fn create(connection: &Connection) -> rusqlite::Result<()> {
    if exists(connection)? {
        return Ok(());
    }
    // The payload is behind the times, so that looking for them passes over it.
    connection.execute_batch(
        "CREATE TABLE _vw_alarms (name TEXT PRIMARY KEY, scheduled_ms INTEGER NOT NULL, \
         due_ms INTEGER NOT NULL, retries INTEGER NOT NULL, backoff INTEGER NOT NULL, \
         counted INTEGER NOT NULL, missed INTEGER NOT NULL, cron TEXT, zone TEXT, \
         payload BLOB NOT NULL, attempt INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID",
    )
}

/// When the next attempt of any alarm is due, by a connection that need not be the vat's.
pub(super) fn next_due(connection: &Connection) -> rusqlite::Result<Option<i64>> {
    if !exists(connection)? {
        return Ok(None);
    }
    earliest(connection)
}

fn earliest(connection: &Connection) -> rusqlite::Result<Option<i64>> {
    let sql = ours!("SELECT min(due_ms) FROM _vw_alarms");
    cached(connection, sql)?.query_row([], |row| row.get(0))
}

#[cfg(test)]
mod tests;
