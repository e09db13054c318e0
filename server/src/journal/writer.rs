//! Writes what is queued to the journal: one write and one sync for all of it.

use std::{io, sync::Arc, time::Instant};

use super::{
    databases::Databases,
    lsn::Lsn,
    queue::{Batch, Queue},
    record,
    retire::Retirer,
    segment::BLOCK,
    segments::{Live, Segments},
};

/// Writes the journal. There is one.
pub(super) struct Writer {
    queue: Arc<Queue>,
    segments: Arc<Segments>,
    databases: Arc<Databases>,
    /// Retires segments where no thread does.
    retirer: Option<Retirer>,
    current: Option<Current>,
    spent: Batch,
    /// The pages of large commits that did not happen, but that a recovery may find as long as the
    /// journal does not say so.
    void_beside: Vec<u64>,
}

/// The segment that is being written.
struct Current {
    segment: Live,
    /// Where the next batch goes.
    position: u64,
    /// How many bytes there are beside it. A segment that has as many as it is long is full too: so
    /// they are bounded with the journal.
    beside: u64,
}

impl Writer {
    pub fn new(
        queue: Arc<Queue>,
        segments: Arc<Segments>,
        databases: Arc<Databases>,
        retirer: Option<Retirer>,
    ) -> Writer {
        Writer {
            queue,
            segments,
            databases,
            retirer,
            current: None,
            spent: Batch::default(),
            void_beside: Vec::new(),
        }
    }

    /// Makes everything durable that is queued, or says that it never happened. Whether there was
    /// anything.
    pub fn step(&mut self) -> bool {
        if self.queue.is_down() {
            self.revive();
            return false;
        }
        let Some(mut batch) = self.queue.take(std::mem::take(&mut self.spent)) else {
            return false;
        };
        let Some((first, last)) = batch.span else {
            return false;
        };
        let mut tried = false;
        match self.write(&mut batch, first, &mut tried) {
            Ok(()) => {
                self.queue.set_written(last);
                // Nobody else has to have it.
                self.queue.publish(last);
            }
            Err(error) => {
                tracing::error!(%error, "the journal cannot be written");
                let tried_before = if tried { last.next() } else { first };
                let waiting = self.queue.fail(&error, tried_before);
                self.void_beside
                    .extend(batch.beside.iter().map(|beside| beside.number));
                if !tried || sabotaged!(self.queue, RemoveVoidPages) {
                    self.remove_void();
                }
                for beside in &waiting.beside {
                    self.databases.beside.remove(beside.number);
                }
                // If the journal can say at once that they do not count, there is no doubt.
                self.revive();
                self.queue.tell_of_failure();
            }
        }
        batch.clear();
        self.spent = batch;
        true
    }

    /// Mends the files that need it, where no thread does.
    pub fn mend(&self) {
        if let Some(retirer) = &self.retirer
            && let Err(error) = retirer.mend()
        {
            tracing::error!(%error, "objects' files cannot be mended");
        }
    }

    /// Tries whether the journal can be written again.
    fn revive(&mut self) {
        if self.rotate(self.queue.newest().next()).is_ok() {
            tracing::info!("the journal can be written again");
            self.queue.revive();
            self.remove_void();
        }
    }

    fn remove_void(&mut self) {
        for number in self.void_beside.drain(..) {
            self.databases.beside.remove(number);
        }
    }

    /// `tried`: any of it may be on the disk.
    fn write(&mut self, batch: &mut Batch, first: Lsn, tried: &mut bool) -> io::Result<()> {
        #[cfg(any(test, feature = "testing"))]
        if batch.fails {
            return Err(io::Error::other("a test let the disk fail"));
        }
        let records = batch.records.len();
        let padded = records.next_multiple_of(BLOCK);
        batch.records.resize(padded, 0);
        // Once more in another segment, if the first is full or can no longer be written.
        let (mut written, room) = (self.queue.written(), self.segments.bytes);
        if sabotaged!(self.queue, CallNothingWritten) {
            written = Lsn::default();
        }
        let time_ms = self.queue.look_at_clock();
        let early = sabotaged!(self.queue, PublishBeforeSync);
        let mut attempts = 2;
        loop {
            let fits = |current: &Current| {
                current.position + padded as u64 <= room && current.beside < room
            };
            let current = match self.current.take_if(|current| fits(current)) {
                Some(current) => self.current.insert(current),
                None => self.rotate(first)?,
            };
            let segment = &current.segment;
            record::seal(
                &mut batch.records[..records],
                written,
                time_ms,
                segment.salt,
            );
            let file = &segment.file.file;
            *tried = true;
            let began = Instant::now();
            let written = file
                .write_at(&batch.records, current.position)
                .and_then(|()| if early { Ok(()) } else { file.sync() });
            match written {
                Ok(()) => {
                    current.position += padded as u64;
                    current.beside += batch.beside.iter().map(|beside| beside.bytes).sum::<u64>();
                    self.queue.syncs.add(began.elapsed());
                    return Ok(());
                }
                Err(error) => {
                    // What it holds behind the last batch is not known: nothing is added to it.
                    self.current = None;
                    attempts -= 1;
                    if attempts == 0 {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// Goes on in another segment, whose first record will be at `first`.
    fn rotate(&mut self, first: Lsn) -> io::Result<&mut Current> {
        if let Some(retirer) = &self.retirer {
            retirer.work();
        }
        let segment = self.segments.begin(first)?;
        Ok(self.current.insert(Current {
            segment,
            position: BLOCK as u64,
            beside: 0,
        }))
    }
}
