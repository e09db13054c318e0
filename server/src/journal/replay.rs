//! What records say of databases, put together.

use std::{collections::BTreeMap, io, sync::Arc};

use super::{
    databases::Databases,
    lsn::Lsn,
    page::{PAGE_BYTES, Packed, Page},
    record::{Beside, Content, Record},
    segment::{Damage, JournalError},
};
use crate::{
    env::{DiskFile, Open},
    folder::DatabaseId,
};

/// What is to be done to the file of one database.
#[derive(Default)]
pub(super) struct Change<'a> {
    /// The newest commit in it.
    pub last: Lsn,
    /// The database ended here; the pages are of what came afterwards.
    pub deleted: Option<Lsn>,
    /// The newest commit that left nothing of what was there before, if there is one; the pages are of that
    /// one and of those after it.
    pub replaced: Option<Lsn>,
    /// How many pages the database has afterwards.
    pub database_pages: u32,
    /// The newest image of each page.
    pub pages: BTreeMap<u32, Source<'a>>,
}

/// Where the image of a page is.
pub(super) enum Source<'a> {
    /// In a record.
    Packed(Packed<'a>),
    /// In the file of a large commit, at this byte.
    Beside(Arc<dyn DiskFile>, u64),
}

impl Source<'_> {
    pub fn read(&self, page: &mut Page) -> io::Result<()> {
        match self {
            Source::Packed(packed) => packed.unpack(page),
            Source::Beside(file, offset) => {
                if file.read_at(page, *offset)? < PAGE_BYTES {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
        }
        Ok(())
    }
}

/// Changes to databases, from any number of records.
#[derive(Default)]
pub(super) struct Changes<'a> {
    by_database: BTreeMap<DatabaseId, Change<'a>>,
    /// The files with the pages of large commits.
    pub beside: Vec<u64>,
    /// When the newest record was written, in ms since 1970; 0 if that is not known.
    pub time_ms: u64,
}

/// Why a record cannot be replayed.
pub(super) enum Failure {
    Damage(Damage),
    Io(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Io(error)
    }
}

impl Failure {
    /// As an error of the journal; `damaged` says where.
    pub fn at(self, damaged: impl FnOnce(Damage) -> JournalError) -> JournalError {
        match self {
            Failure::Damage(damage) => damaged(damage),
            Failure::Io(error) => error.into(),
        }
    }
}

impl<'a> Changes<'a> {
    /// Adds a record, which is later than all before.
    pub fn add(&mut self, databases: &Databases, record: Record<'a>) -> Result<(), Failure> {
        let nonsense = || Failure::Damage(Damage::Nonsense(record.lsn()));
        let change = self.by_database.entry(record.database()).or_default();
        self.time_ms = self.time_ms.max(record.time_ms());
        change.last = record.lsn();
        change.database_pages = record.database_pages();
        if record.replaces() && !sabotaged!(databases.queue, KeepReplaced) {
            change.replaced = Some(record.lsn());
            change.pages.clear();
        }
        match record.content().ok_or_else(nonsense)? {
            Content::Pages(mut pages) => {
                for (number, page) in pages.by_ref() {
                    change.pages.insert(number, Source::Packed(page));
                }
                if !pages.is_done() {
                    return Err(nonsense());
                }
            }
            Content::Beside(beside) => {
                self.beside.push(beside.number);
                add_beside(change, databases, beside, record.lsn())?;
            }
            Content::Delete => {
                *change = Change {
                    last: record.lsn(),
                    deleted: Some(record.lsn()),
                    ..Change::default()
                };
            }
        }
        Ok(())
    }

    /// Passes over a record.
    pub fn skip(&mut self, record: Record<'_>) {
        if let Some(Content::Beside(beside)) = record.content() {
            self.beside.push(beside.number);
        }
    }

    /// Adds what is held of a database, which is earlier than what the journal says of it.
    pub fn add_held(
        &mut self,
        databases: &Databases,
        id: DatabaseId,
        bytes: &'a [u8],
    ) -> Result<(), JournalError> {
        for record in databases.held.records(id, bytes)? {
            self.add(databases, record)
                .map_err(|failure| failure.at(|_| databases.held.damaged(id, 0, Damage::Held)))?;
        }
        Ok(())
    }

    /// The change to a database, if there is one.
    pub fn of(&self, id: DatabaseId) -> Option<&Change<'a>> {
        self.by_database.get(&id)
    }

    /// The changes, a database each.
    pub fn iter(&self) -> impl Iterator<Item = (DatabaseId, &Change<'a>)> {
        self.by_database.iter().map(|(id, change)| (*id, change))
    }
}

/// Adds the pages of a large commit, if the file that has them is whole.
fn add_beside(
    change: &mut Change<'_>,
    databases: &Databases,
    beside: Beside,
    lsn: Lsn,
) -> Result<(), Failure> {
    const ENTRY: usize = 4 + PAGE_BYTES;
    let damaged = || Failure::Damage(Damage::Beside(lsn));
    let file = match databases.beside.open(beside.number, Open::Existing) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(damaged()),
        opened => opened?,
    };
    let mut chunk = vec![0; 256 * ENTRY];
    let (mut at, mut checksum) = (0, 0);
    while at < beside.bytes {
        let wanted = (beside.bytes - at).min(chunk.len() as u64) as usize;
        let chunk = &mut chunk[..wanted];
        if file.read_at(chunk, at)? < wanted {
            return Err(damaged());
        }
        checksum = crc32c::crc32c_append(checksum, chunk);
        for (i, entry) in chunk.chunks_exact(ENTRY).enumerate() {
            let number = u32::from_le_bytes(std::array::from_fn(|i| entry[i]));
            let offset = at + (i * ENTRY) as u64 + 4;
            change
                .pages
                .insert(number, Source::Beside(file.clone(), offset));
        }
        at += wanted as u64;
    }
    if checksum != beside.checksum || change.pages.contains_key(&0) {
        return Err(damaged());
    }
    Ok(())
}
