//! The pages of commits that are too large for the journal, in files beside it.
//!
//! A file has, for each page, its number (u32, little-endian) and the page. It is durable before the
//! record that names it is written, and removed when that record's segment is retired.

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{database::Database, lsn::Lsn, page::PAGE_BYTES, queue::Queue, record::Beside};
use crate::env::{Disk, DiskFile, Open};

/// The ending of the files' names, behind their number.
const SUFFIX: &str = ".pages";

/// All such files of a journal.
pub(super) struct BesideFiles {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    next: AtomicU64,
}

impl BesideFiles {
    pub fn new(disk: Arc<dyn Disk>, folder: PathBuf) -> BesideFiles {
        BesideFiles {
            disk,
            folder,
            next: AtomicU64::default(),
        }
    }

    /// Writes the pages of the commit that was promised a position to a file of their own, durably.
    pub fn write(&self, queue: &Queue, database: &Database, promise: Lsn) -> io::Result<Beside> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let file = self.open(number, Open::OrCreate)?;
        let written = write(queue, &*file, number, database, promise).and_then(|beside| {
            if !sabotaged!(queue, SkipPagesSync) {
                self.sync_names()?;
            }
            Ok(beside)
        });
        written.inspect_err(|_| self.remove(number))
    }

    fn path(&self, number: u64) -> PathBuf {
        self.folder.join(format!("{number}{SUFFIX}"))
    }

    /// The file of that number.
    pub fn open(&self, number: u64, open: Open) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.open(&self.path(number), open)
    }

    /// Makes the files' names durable.
    fn sync_names(&self) -> io::Result<()> {
        self.disk.sync_folder(&self.folder)
    }

    /// Removes a file that nobody needs any more. If that fails, it is removed at the next start.
    pub fn remove(&self, number: u64) {
        if let Err(error) = self.disk.remove(&self.path(number)) {
            tracing::warn!(number, %error, "removing the pages of a large commit");
        }
    }

    /// Removes all of them.
    pub fn remove_all(&self) -> io::Result<()> {
        for name in self.disk.list(&self.folder)? {
            if name.ends_with(SUFFIX) {
                self.disk.remove(&self.folder.join(name))?;
            }
        }
        Ok(())
    }
}

/// Writes the pages of a commit and syncs them, so many at a time that the database is never locked for long.
fn write(
    _queue: &Queue,
    file: &dyn DiskFile,
    number: u64,
    database: &Database,
    promise: Lsn,
) -> io::Result<Beside> {
    const CHUNK_PAGES: usize = 256;
    /// So often it is synced, in bytes: the log, whose syncs others wait for, has the same disk.
    const SYNC_BYTES: u64 = 8 << 20;
    file.set_len(0)?;
    let mut beside = Beside {
        number,
        bytes: 0,
        checksum: 0,
    };
    let mut chunk = Vec::with_capacity(CHUNK_PAGES * (4 + PAGE_BYTES));
    let (mut next, mut synced) = (Some(1), 0);
    while let Some(from) = next {
        chunk.clear();
        next = database.pages_of(promise, from, CHUNK_PAGES, |number, page| {
            chunk.extend_from_slice(&number.to_le_bytes());
            chunk.extend_from_slice(page);
        })?;
        file.write_at(&chunk, beside.bytes)?;
        beside.checksum = crc32c::crc32c_append(beside.checksum, &chunk);
        beside.bytes += chunk.len() as u64;
        if beside.bytes - synced >= SYNC_BYTES || next.is_none() {
            if !sabotaged!(_queue, SkipPagesSync) {
                file.sync()?;
            }
            synced = beside.bytes;
        }
    }
    Ok(beside)
}
