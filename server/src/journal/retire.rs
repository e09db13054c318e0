//! Retires the oldest segment: what it says is in the databases' files, durably, and then it can be
//! used again. It does to the files what a recovery would, without asking anybody: an object that is
//! busy, or has a transaction or a cursor open, holds nothing up.

use std::sync::Arc;

use super::{
    databases::Databases,
    lsn::Lsn,
    queue::Queue,
    replay::Changes,
    segment::{Damage, JournalError, Records},
    segments::{Live, Segments},
};
use crate::folder::DatabaseId;

/// How many databases may have files that are not durable before they are made so.
const MOST_DATABASES: usize = 100_000;

/// Retires segments. There is one.
pub(super) struct Retirer {
    queue: Arc<Queue>,
    segments: Arc<Segments>,
    databases: Arc<Databases>,
}

impl Retirer {
    pub fn new(queue: Arc<Queue>, segments: Arc<Segments>, databases: Arc<Databases>) -> Retirer {
        Retirer {
            queue,
            segments,
            databases,
        }
    }

    /// Retires segments for as long as more than half of them count. Whether it could.
    pub fn work(&self) -> bool {
        let done = self.try_work();
        let trouble = done.as_ref().err().map(JournalError::to_string);
        if let Some(error) = &trouble {
            tracing::error!(%error, "objects' files cannot be brought up to date");
        }
        self.segments.set_trouble(trouble);
        done.is_ok()
    }

    fn try_work(&self) -> Result<(), JournalError> {
        while self.segments.is_half_full() {
            let Some(oldest) = self.segments.oldest_full() else {
                break;
            };
            self.retire(&oldest)?;
        }
        if self.databases.len() > MOST_DATABASES {
            self.mend_suspects()?;
            self.databases.sync()?;
        }
        Ok(())
    }

    /// Retires every segment. Nobody may write the journal meanwhile.
    pub fn retire_all(&self) -> Result<(), JournalError> {
        for segment in self.segments.live() {
            self.retire(&segment)?;
        }
        self.mend_suspects()?;
        Ok(self.databases.sync()?)
    }

    fn retire(&self, segment: &Live) -> Result<(), JournalError> {
        self.mend_suspects()?;
        let durable = self.queue.durable();
        let mut bytes = Vec::new();
        segment.file.read(&mut bytes)?;
        let mut changes = Changes::default();
        self.collect(segment, &bytes, durable, &mut changes, |id| {
            // Of what is not in the table, everything is in the file.
            Some(self.databases.find(id)?.applied())
        })?;
        self.apply(&changes)?;
        if !sabotaged!(self.queue, FreeBeforeSync) {
            self.databases.sync()?;
        }
        self.segments.free(segment, self.queue.newest().next())?;
        for number in changes.beside {
            self.databases.beside.remove(number);
        }
        Ok(())
    }

    /// Writes everything again that a failed sync may have lost.
    fn mend_suspects(&self) -> Result<(), JournalError> {
        let suspects = self.databases.suspects();
        if suspects.is_empty() {
            return Ok(());
        }
        // While they are suspect SQLite begins no checkpoint of them; one that goes on ends first. So
        // their files hold nothing that is not durable by now.
        for database in suspects.iter().filter_map(|id| self.databases.find(*id)) {
            drop(database.applying());
        }
        let durable = self.queue.durable();
        let segments = self.segments.live();
        let mut bytes = vec![Vec::new(); segments.len()];
        for (segment, bytes) in segments.iter().zip(&mut bytes) {
            segment.file.read(bytes)?;
        }
        // All at once, so that no page goes back to what it was before.
        let mut changes = Changes::default();
        for (segment, bytes) in segments.iter().zip(&bytes) {
            self.collect(segment, bytes, durable, &mut changes, |id| {
                suspects.contains(&id).then_some(Lsn::default())
            })?;
        }
        self.apply(&changes)?;
        for id in suspects.iter().filter(|id| !changes.has(**id)) {
            if let Some(database) = self.databases.find(*id) {
                // What was written there had been durable before.
                database.trust();
            }
        }
        Ok(())
    }

    /// Adds what a segment says of databases, after the commit that `after` answers; nothing of those
    /// for which it answers none. `durable`: what was durable before `bytes` were read.
    fn collect<'a>(
        &self,
        segment: &Live,
        bytes: &'a [u8],
        durable: Lsn,
        changes: &mut Changes<'a>,
        after: impl Fn(DatabaseId) -> Option<Lsn>,
    ) -> Result<(), JournalError> {
        let end = segment.end.unwrap_or(durable.next());
        let mut records = Records::new(bytes, segment.salt, segment.first);
        while records.next_lsn() < end {
            let (lsn, offset) = (records.next_lsn(), records.offset());
            let damaged = |damage| segment.file.damaged(offset, damage);
            let record = records.next().ok_or_else(|| damaged(Damage::Record(lsn)))?;
            if after(record.database()).is_some_and(|after| lsn > after) {
                changes
                    .add(&self.databases, record)
                    .map_err(|failure| failure.at(damaged))?;
            } else {
                changes.skip(record);
            }
        }
        Ok(())
    }

    fn apply(&self, changes: &Changes<'_>) -> Result<(), JournalError> {
        for (id, change) in changes.iter() {
            if let Some(database) = self.databases.find(id) {
                database.apply(&self.databases, change)?;
            }
        }
        Ok(())
    }
}
