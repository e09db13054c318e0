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
            self.write_back()?;
        }
        Ok(())
    }

    /// Makes everything durable in the files that is durable in the journal, whose segments stay.
    pub fn write_back(&self) -> Result<(), JournalError> {
        for segment in self.segments.live() {
            self.apply(&segment)?;
        }
        Ok(self.databases.sync()?)
    }

    /// Retires every segment. Nobody may write the journal meanwhile.
    pub fn retire_all(&self) -> Result<(), JournalError> {
        for segment in self.segments.live() {
            self.retire(&segment)?;
        }
        Ok(self.databases.sync()?)
    }

    fn retire(&self, segment: &Live) -> Result<(), JournalError> {
        let beside = self.apply(segment)?;
        if !sabotaged!(self.queue, FreeBeforeSync) {
            self.databases.sync()?;
        }
        self.segments.free(segment, self.queue.newest().next())?;
        for number in beside {
            self.databases.beside.remove(number);
        }
        Ok(())
    }

    /// Brings what a segment says to the files that lack it. Returns which files beside it it names.
    fn apply(&self, segment: &Live) -> Result<Vec<u64>, JournalError> {
        let committed = self.queue.committed();
        let mut bytes = Vec::new();
        segment.file.read(&mut bytes)?;
        let mut changes = Changes::default();
        self.collect(segment, &bytes, committed, &mut changes)?;
        for (id, change) in changes.iter() {
            if let Some(database) = self.databases.find(id) {
                database.apply(&self.databases, change)?;
            }
        }
        Ok(changes.beside)
    }

    /// Collects what a segment says that is not in the files. `committed`: what was durable
    /// before `bytes` were read.
    fn collect<'a>(
        &self,
        segment: &Live,
        bytes: &'a [u8],
        committed: Lsn,
        changes: &mut Changes<'a>,
    ) -> Result<(), JournalError> {
        let end = segment.end.unwrap_or(committed.next());
        let mut records = Records::new(bytes, segment.salt, segment.first);
        while records.next_lsn() < end {
            let (lsn, offset) = (records.next_lsn(), records.offset());
            let damaged = |damage| segment.file.damaged(offset, damage);
            let record = records.next().ok_or_else(|| damaged(Damage::Record(lsn)))?;
            // Of what is not in the table, everything is in the file.
            let database = self.databases.find(record.database());
            if database.is_some_and(|database| lsn > database.applied()) {
                changes
                    .add(&self.databases, record)
                    .map_err(|failure| failure.at(damaged))?;
            } else {
                changes.skip(record);
            }
        }
        Ok(())
    }
}
