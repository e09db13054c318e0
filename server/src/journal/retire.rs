//! Retires the oldest segment: what it says is in the databases' files, durably, and then it can be
//! used again. It does to the files what a recovery would, without asking anybody: an object that is
//! busy, or has a transaction or a cursor open, holds nothing up.

use std::{collections::BTreeSet, io, sync::Arc};

use super::{
    database::Database,
    databases::Databases,
    lsn::Lsn,
    queue::Queue,
    replay::{Change, Changes},
    segment::{Damage, JournalError, Records},
    segments::{Live, Segments},
};
use crate::folder::DatabaseId;

/// The most databases that nobody has open and whose files lack something, before everything is brought to
/// the files: each takes some memory.
const MOST_CLOSED: usize = 100_000;

/// Retires segments. There is one.
pub(super) struct Retirer {
    queue: Arc<Queue>,
    segments: Arc<Segments>,
    databases: Arc<Databases>,
    /// For tests: does what another thread might do now.
    #[cfg(any(test, feature = "testing"))]
    pub meanwhile: Option<Box<dyn Fn() + Send>>,
}

impl Retirer {
    pub fn new(queue: Arc<Queue>, segments: Arc<Segments>, databases: Arc<Databases>) -> Retirer {
        Retirer {
            queue,
            segments,
            databases,
            #[cfg(any(test, feature = "testing"))]
            meanwhile: None,
        }
    }

    /// Between two parts of the work: in tests, the writer may take a step here.
    fn pause(&self) {
        #[cfg(any(test, feature = "testing"))]
        self.meanwhile.iter().for_each(|meanwhile| meanwhile());
    }

    /// Retires segments for as long as more than half of them count. Whether it could.
    pub fn work(&self) -> bool {
        let done = self.try_work();
        let trouble = done.as_ref().err().map(JournalError::to_string);
        if self.segments.set_trouble(trouble.clone()) {
            match trouble {
                Some(error) => {
                    tracing::error!(%error, "objects' files cannot be brought up to date");
                }
                None => tracing::info!("objects' files are brought up to date again"),
            }
        }
        done.is_ok()
    }

    fn try_work(&self) -> Result<(), JournalError> {
        while self.segments.is_half_full() {
            let Some(oldest) = self.segments.oldest_full() else {
                break;
            };
            self.retire(&oldest)?;
        }
        self.mend()?;
        if self.databases.closed() > MOST_CLOSED {
            self.write_back()?;
        }
        Ok(())
    }

    /// Makes everything durable in the files that is durable in the journal, whose segments stay.
    pub fn write_back(&self) -> Result<(), JournalError> {
        self.mend()?;
        // Before the segments are looked at: what comes later may be in another.
        let committed = self.queue.committed();
        for segment in self.segments.live() {
            self.pause();
            let committed = if sabotaged!(self.queue, LookAgain) {
                self.queue.committed()
            } else {
                committed
            };
            let mut bytes = Vec::new();
            segment.file.read(&mut bytes)?;
            self.bring(&segment, &bytes, committed)?;
        }
        self.pause();
        self.sync()
    }

    /// Retires every segment. Nobody may write the journal meanwhile.
    pub fn retire_all(&self) -> Result<(), JournalError> {
        for segment in self.segments.live() {
            self.retire(&segment)?;
        }
        self.mend()?;
        self.sync()
    }

    fn retire(&self, segment: &Live) -> Result<(), JournalError> {
        self.mend()?;
        let committed = self.queue.committed();
        let mut bytes = Vec::new();
        segment.file.read(&mut bytes)?;
        self.pause();
        let beside = self.bring(segment, &bytes, committed)?;
        self.pause();
        if sabotaged!(self.queue, RemovePagesEarly) {
            beside
                .iter()
                .for_each(|number| self.databases.beside.remove(*number));
        }
        if !sabotaged!(self.queue, FreeBeforeSync) {
            self.sync()?;
        }
        self.pause();
        self.hold(segment, &bytes, committed)?;
        self.segments.free(segment)?;
        for number in beside {
            self.databases.beside.remove(number);
        }
        Ok(())
    }

    /// Brings what a segment says to the files that lack it. Returns which files beside it it names.
    fn bring(
        &self,
        segment: &Live,
        bytes: &[u8],
        committed: Lsn,
    ) -> Result<Vec<u64>, JournalError> {
        let mut changes = Changes::default();
        self.collect(segment, bytes, committed, &mut changes, |id| {
            // Of what is not in the table, everything is in the file.
            let database = self.databases.find(id)?;
            database.quarantined().is_none().then(|| database.applied())
        })?;
        for (id, change) in changes.iter() {
            if let Some(database) = self.databases.find(id) {
                self.apply(&database, change)?;
            }
            if self.databases.open_files.are_many_unsynced() {
                self.sync()?;
            }
        }
        Ok(changes.beside)
    }

    /// Syncs the files. One at which the disk fails is written once more, and if that does not help it is put
    /// in quarantine.
    fn sync(&self) -> Result<(), JournalError> {
        if self.databases.sync()?.is_empty() {
            return Ok(());
        }
        self.mend()?;
        for (database, error) in self.databases.sync()? {
            self.quarantine(&database, error)?;
        }
        Ok(())
    }

    /// Brings the file of a database up to date, or puts it in quarantine.
    fn apply(&self, database: &Database, change: &Change<'_>) -> Result<(), JournalError> {
        match database.apply(&self.databases, change) {
            Ok(()) => Ok(()),
            Err(error) => self.quarantine(database, error),
        }
    }

    /// Puts a database in quarantine, unless the error is no fault of its file's.
    fn quarantine(&self, database: &Database, error: io::Error) -> Result<(), JournalError> {
        if !is_of_file(&error) {
            return Err(error.into());
        }
        self.databases.quarantine(database, &error);
        Ok(())
    }

    /// Carries what a segment says of databases that are in quarantine to where that is held.
    fn hold(&self, segment: &Live, bytes: &[u8], committed: Lsn) -> Result<(), JournalError> {
        let quarantined: BTreeSet<_> = self
            .databases
            .quarantined()
            .into_iter()
            .map(|(id, _)| id)
            .collect();
        if quarantined.is_empty() || sabotaged!(self.queue, DropHeld) {
            return Ok(());
        }
        let mut changes = Changes::default();
        let held = &self.databases.held;
        self.collect(segment, bytes, committed, &mut changes, |id| {
            quarantined.contains(&id).then(|| held.last(id))
        })?;
        for (id, change) in changes.iter() {
            held.add(id, change)?;
        }
        Ok(())
    }

    /// Writes everything again that a failed sync may have lost, and what is in quarantine if it can be
    /// written by now.
    pub fn mend(&self) -> Result<(), JournalError> {
        let suspects = self.databases.suspects();
        let suspects: Vec<_> = suspects
            .into_iter()
            .filter_map(|id| self.databases.find(id))
            .filter(|database| {
                database.quarantined().is_none() || database.probe(&self.databases).is_ok()
            })
            .collect();
        if suspects.is_empty() {
            return Ok(());
        }
        let committed = self.queue.committed();
        let mut segments = self.segments.live();
        if sabotaged!(self.queue, TrustSuspect) {
            segments.clear();
        }
        let mut bytes = vec![Vec::new(); segments.len()];
        for (segment, bytes) in segments.iter().zip(&mut bytes) {
            segment.file.read(bytes)?;
        }
        let held = &self.databases.held;
        let mut held_bytes = Vec::new();
        for database in &suspects {
            held_bytes.push(held.read(database.id())?);
        }
        // All at once, so that no page goes back to what it was before.
        let mut changes = Changes::default();
        for (database, bytes) in suspects.iter().zip(&held_bytes) {
            if !sabotaged!(self.queue, ForgetHeld) {
                changes.add_held(&self.databases, database.id(), bytes)?;
            }
        }
        let ids: BTreeSet<_> = suspects.iter().map(|database| database.id()).collect();
        for (segment, bytes) in segments.iter().zip(&bytes) {
            self.collect(segment, bytes, committed, &mut changes, |id| {
                ids.contains(&id).then_some(Lsn::default())
            })?;
        }
        for database in suspects {
            self.mend_one(&database, changes.of(database.id()))?;
        }
        Ok(())
    }

    fn mend_one(
        &self,
        database: &Arc<Database>,
        change: Option<&Change<'_>>,
    ) -> Result<(), JournalError> {
        let was_quarantined = database.quarantined().is_some();
        let written = change.map_or(Ok(()), |change| database.apply(&self.databases, change));
        if !was_quarantined {
            return match written {
                Ok(()) => {
                    // If there is no change, what was written there had been durable before.
                    database.trust();
                    Ok(())
                }
                Err(error) => self.quarantine(database, error),
            };
        }
        let synced = written.and_then(|()| database.sync(&self.databases));
        if let Err(error) = synced {
            self.databases.suspect(database);
            return self.quarantine(database, error);
        }
        self.databases.held.remove(database.id())?;
        database.release();
        let path = self.databases.path(database.id());
        tracing::info!(path = %path.display(), "the file of a database can be written again");
        Ok(())
    }

    /// Adds what a segment says of databases, after the commit that `after` answers; nothing of those
    /// for which it answers none. `committed`: what was durable before `bytes` were read.
    fn collect<'a>(
        &self,
        segment: &Live,
        bytes: &'a [u8],
        committed: Lsn,
        changes: &mut Changes<'a>,
        after: impl Fn(DatabaseId) -> Option<Lsn>,
    ) -> Result<(), JournalError> {
        let end = segment.end.unwrap_or(committed.next());
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
}

/// Whether an error is one file's own: on a full disk, or without file descriptors, no file is better.
pub(super) fn is_of_file(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let is_everybodys = error.kind() == io::ErrorKind::StorageFull
        || [Errno::MFILE, Errno::NFILE, Errno::NOMEM]
            .iter()
            .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()));
    !is_everybodys && !is_power_lost(error)
}

/// Whether the simulated disk of a test has lost power: what comes then, nobody sees.
fn is_power_lost(error: &io::Error) -> bool {
    #[cfg(any(test, feature = "testing"))]
    return crate::env::sim::is_crash(error);
    #[cfg(not(any(test, feature = "testing")))]
    {
        let _ = error;
        false
    }
}
