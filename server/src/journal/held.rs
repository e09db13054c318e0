//! Held commits: what the journal has of a database whose file cannot be written, in a file of its own, so
//! that segments are retired all the same. They are brought to the database's file when it can be written
//! again, at the latest by the next start.
//!
//! ```text
//!    0  magic     "VWHELD01"
//!    8  length    u64   of the records that count, in bytes
//!   16  checksum  u32   CRC-32C of the 16 bytes before
//! 4096  records, as in a segment, one behind the other
//! ```
//! The header is a single sector, and on disk after the records that it counts. A header that counts none,
//! or is all zeros, is that of a file that may be removed.

use std::{
    collections::BTreeMap,
    io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard},
};

use super::{
    lsn::Lsn,
    page::{PAGE_BYTES, Packed},
    record::{self, Record, Size},
    replay::Change,
    segment::{BLOCK, Damage, JournalError},
};
use crate::{
    env::{Disk, DiskFile, Open},
    folder::DatabaseId,
};

/// The ending of the files' names, behind the name of the database.
pub(super) const HELD_SUFFIX: &str = ".held";

const MAGIC: &[u8; 8] = b"VWHELD01";
const HEADER_BYTES: usize = 20;

/// Seeds the checksums of the records: there is one file for a database, and it is emptied before it is used
/// again.
const SALT: u32 = 0;

/// How many pages a record has at most.
const RECORD_PAGES: u32 = 256;

/// The held commits of a journal.
pub(super) struct Held {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    /// The most bytes that all files take together.
    most_bytes: u64,
    files: Mutex<BTreeMap<DatabaseId, Known>>,
}

/// The knowledge of one file.
#[derive(Clone, Copy, Default)]
struct Known {
    /// How long its records are, in bytes.
    bytes: u64,
    /// The newest commit in it.
    last: Lsn,
}

impl Held {
    pub fn new(disk: Arc<dyn Disk>, folder: PathBuf, most_bytes: u64) -> Held {
        Held {
            disk,
            folder,
            most_bytes,
            files: Mutex::default(),
        }
    }

    fn files(&self) -> MutexGuard<'_, BTreeMap<DatabaseId, Known>> {
        // Nothing panics while it has the lock.
        self.files
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn path(&self, id: DatabaseId) -> PathBuf {
        self.folder.join(format!("{id}{HELD_SUFFIX}"))
    }

    /// Learns what the last vat has left, and verifies it.
    pub fn load(&self) -> Result<(), JournalError> {
        for name in self.disk.list(&self.folder)? {
            let Some(id) = name
                .strip_suffix(HELD_SUFFIX)
                .and_then(|id| id.parse().ok())
            else {
                continue;
            };
            let bytes = self.read(id)?;
            let last = self.records(id, &bytes)?.last().map(Record::lsn);
            if let Some(last) = last {
                let bytes = bytes.len() as u64;
                self.files().insert(id, Known { bytes, last });
            } else {
                // It was emptied, and its removal got lost.
                self.disk.remove(&self.path(id))?;
            }
        }
        Ok(())
    }

    /// The databases of which commits are held.
    pub fn databases(&self) -> Vec<DatabaseId> {
        self.files().keys().copied().collect()
    }

    /// The newest commit of a database that is held.
    pub fn last(&self, id: DatabaseId) -> Lsn {
        let files = self.files();
        files.get(&id).map_or(Lsn::default(), |known| known.last)
    }

    /// The bytes of the records that count of a database.
    pub fn read(&self, id: DatabaseId) -> Result<Vec<u8>, JournalError> {
        let file = match self.disk.open(&self.path(id), Open::Existing) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            opened => opened?,
        };
        let mut header = [0; HEADER_BYTES];
        file.read_at(&mut header, 0)?;
        if header == [0; HEADER_BYTES] {
            return Ok(Vec::new());
        }
        let length = u64::from_le_bytes(std::array::from_fn(|i| header[8 + i]));
        if header != encode(length) {
            return Err(self.damaged(id, 0, Damage::Header));
        }
        let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        let read = file.read_at(&mut bytes, BLOCK as u64)?;
        bytes.truncate(read);
        Ok(bytes)
    }

    /// The records in what [`Held::read`] has returned, oldest first.
    pub fn records<'a>(
        &self,
        id: DatabaseId,
        bytes: &'a [u8],
    ) -> Result<Vec<Record<'a>>, JournalError> {
        let (mut records, mut at) = (Vec::new(), 0);
        while at < bytes.len() {
            let record = Record::read(&bytes[at..], SALT)
                .filter(|record| record.database() == id)
                .ok_or_else(|| self.damaged(id, BLOCK + at, Damage::Held))?;
            records.push(record);
            at += record.length();
        }
        Ok(records)
    }

    pub fn damaged(&self, id: DatabaseId, offset: usize, damage: Damage) -> JournalError {
        JournalError::Damaged {
            path: self.path(id),
            offset: offset as u64,
            damage,
        }
    }

    /// Adds what is to be done to the file of a database, durably. It is later than all that is held of it.
    pub fn add(&self, id: DatabaseId, change: &Change<'_>) -> io::Result<()> {
        let known = self.files().get(&id).copied().unwrap_or_default();
        let file = self.disk.open(&self.path(id), Open::OrCreate)?;
        // What of an earlier try may be behind it does not count, and this says so again.
        self.write_header(&*file, known.bytes)?;
        let mut appended = Appended {
            held: self,
            file: &*file,
            others: self.files().values().map(|known| known.bytes).sum::<u64>() - known.bytes,
            at: known.bytes,
            buffer: Vec::new(),
        };
        appended.change(id, change)?;
        let bytes = appended.at;
        file.sync()?;
        self.write_header(&*file, bytes)?;
        self.disk.sync_folder(&self.folder)?;
        let last = change.last;
        self.files().insert(id, Known { bytes, last });
        Ok(())
    }

    /// Forgets what is held of a database: it is in its file, durably.
    pub fn remove(&self, id: DatabaseId) -> io::Result<()> {
        let path = self.path(id);
        let file = self.disk.open(&path, Open::OrCreate)?;
        // Else the file could come back after a loss of power, when newer commits are in the database's.
        self.write_header(&*file, 0)?;
        self.files().remove(&id);
        if let Err(error) = self.disk.remove(&path) {
            tracing::warn!(path = %path.display(), %error, "removing held commits");
        }
        Ok(())
    }

    fn write_header(&self, file: &dyn DiskFile, length: u64) -> io::Result<()> {
        file.write_at(&encode(length), 0)?;
        file.sync()
    }
}

fn encode(length: u64) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(MAGIC);
    header[8..16].copy_from_slice(&length.to_le_bytes());
    let checksum = crc32c::crc32c(&header[..16]);
    header[16..].copy_from_slice(&checksum.to_le_bytes());
    header
}

/// Records on their way to a file.
struct Appended<'a> {
    held: &'a Held,
    file: &'a dyn DiskFile,
    /// How many bytes are held of other databases.
    others: u64,
    /// How long the records are that are written.
    at: u64,
    buffer: Vec<u8>,
}

impl Appended<'_> {
    fn change(&mut self, id: DatabaseId, change: &Change<'_>) -> io::Result<()> {
        if let Some(end) = change.deleted {
            record::Writer::delete(&mut self.buffer, end, id);
            self.flush()?;
        }
        if change.pages.is_empty() && change.deleted == Some(change.last) {
            return Ok(());
        }
        let mut pages = change.pages.iter().peekable();
        let mut after = Size {
            pages: change.database_pages,
            replaces: change.replaced.is_some(),
        };
        loop {
            let mut page = [0; PAGE_BYTES];
            let buffer = &mut self.buffer;
            let mut record = record::Writer::pages(buffer, change.last, id, after);
            after.replaces = false;
            for (number, source) in pages.by_ref().take(RECORD_PAGES as usize) {
                source.read(&mut page)?;
                record.page(*number, Packed::new(&page));
            }
            record.finish();
            self.flush()?;
            if pages.peek().is_none() {
                return Ok(());
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        let end = self.at + self.buffer.len() as u64;
        if self.others + end > self.held.most_bytes {
            return Err(io::Error::other(format!(
                "the commits of databases that cannot be written are more than {} bytes, twice the size of \
                 the journal (`limits.journal_bytes`)",
                self.held.most_bytes
            )));
        }
        record::seal(&mut self.buffer, Lsn::default(), 0, SALT);
        self.file.write_at(&self.buffer, BLOCK as u64 + self.at)?;
        self.at = end;
        self.buffer.clear();
        Ok(())
    }
}
