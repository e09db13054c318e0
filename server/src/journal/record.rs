//! One record of the journal: what a commit did to one database.
//!
//! ```text
//!  0  magic            u32   "VWR1"
//!  4  checksum         u32   CRC-32C of all that follows, seeded with the segment's salt
//!  8  length           u32   of the record in bytes, a multiple of 8
//! 12  kind             u8    1 pages, 2 pages beside, 3 delete; from version 3 of segments on: 4 replace,
//!                        5 replace beside
//! 13  -                [3]
//! 16  lsn              u64
//! 24  written          u64   the newest LSN that was synced here when this was written
//! 32  interface id     u64   of the object's class; 0 for the catalog
//! 40  object id        [32]
//! 72  database pages   u32   how many the database has after the commit
//! 76  page count       u32   how many follow
//! 80  time             u64   when it was written, in ms since 1970, never before the record before it; 0 if not
//!                        known: in segments of version 1, and in held commits
//! 88  pages
//! ```
//! A page is its number (u32), where its longest run of zeros starts and how long that is (u16 each),
//! and the rest of its bytes: pages of small databases are mostly zeros. The pages of a large commit
//! are in a file of their own, whose number (u64), length (u64) and CRC-32C (u32) follow instead.
//!
//! *Replace* means that the database is these pages and nothing else: a page that is not among them is all
//! zeros, whatever it was before.
//!
//! Numbers are little-endian. `written` tells a torn tail from a damaged record: what some later
//! record calls written must be whole.

use vatwerk::ObjectId;

use super::{
    lsn::Lsn,
    page::{PAGE_BYTES, Packed},
};
use crate::folder::DatabaseId;

const MAGIC: u32 = u32::from_le_bytes(*b"VWR1");
const HEADER_BYTES: usize = 88;
const PAGE_HEADER_BYTES: usize = 8;

/// The most that a record with that many pages takes.
pub(super) fn most_bytes(pages: u64) -> u64 {
    HEADER_BYTES as u64 + pages * (PAGE_HEADER_BYTES + PAGE_BYTES) as u64
}

/// The pages of a large commit, in a file of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Beside {
    /// Which file.
    pub number: u64,
    /// How long it is, in bytes.
    pub bytes: u64,
    /// The CRC-32C of the whole.
    pub checksum: u32,
}

/// A database after a commit, beside the pages that the commit has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size {
    /// How many pages the database has.
    pub pages: u32,
    /// Whether nothing of what was there before is in the database any more.
    pub replaces: bool,
}

/// Appends one record to a buffer.
pub(super) struct Writer<'a> {
    buffer: &'a mut Vec<u8>,
    start: usize,
    pages: u32,
}

#[derive(Clone, Copy)]
enum Kind {
    Pages = 1,
    Beside = 2,
    Delete = 3,
    Replace = 4,
    ReplaceBeside = 5,
}

impl<'a> Writer<'a> {
    /// A commit whose pages follow.
    pub fn pages(
        buffer: &'a mut Vec<u8>,
        lsn: Lsn,
        database: DatabaseId,
        after: Size,
    ) -> Writer<'a> {
        let kind = if after.replaces {
            Kind::Replace
        } else {
            Kind::Pages
        };
        Writer::begin(buffer, kind, lsn, database, after.pages)
    }

    /// A commit whose pages are in a file of their own.
    pub fn beside(
        buffer: &'a mut Vec<u8>,
        lsn: Lsn,
        database: DatabaseId,
        after: Size,
        beside: Beside,
    ) {
        let kind = if after.replaces {
            Kind::ReplaceBeside
        } else {
            Kind::Beside
        };
        let record = Writer::begin(buffer, kind, lsn, database, after.pages);
        record
            .buffer
            .extend_from_slice(&beside.number.to_le_bytes());
        record.buffer.extend_from_slice(&beside.bytes.to_le_bytes());
        record
            .buffer
            .extend_from_slice(&beside.checksum.to_le_bytes());
        record.finish();
    }

    /// The end of a database.
    pub fn delete(buffer: &'a mut Vec<u8>, lsn: Lsn, database: DatabaseId) {
        Writer::begin(buffer, Kind::Delete, lsn, database, 0).finish();
    }

    fn begin(
        buffer: &'a mut Vec<u8>,
        kind: Kind,
        lsn: Lsn,
        database: DatabaseId,
        database_pages: u32,
    ) -> Writer<'a> {
        let start = buffer.len();
        let mut header = [0; HEADER_BYTES];
        let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &MAGIC.to_le_bytes());
        put(12, &[kind as u8]);
        put(16, &lsn.0.to_le_bytes());
        put(32, &database.class.to_le_bytes());
        put(40, database.object.as_bytes());
        put(72, &database_pages.to_le_bytes());
        buffer.extend_from_slice(&header);
        Writer {
            buffer,
            start,
            pages: 0,
        }
    }

    /// Adds a page.
    pub fn page(&mut self, number: u32, page: Packed<'_>) {
        let hole = page.before.len() as u16;
        let zeros = page.zeros() as u16;
        self.buffer.extend_from_slice(&number.to_le_bytes());
        self.buffer.extend_from_slice(&hole.to_le_bytes());
        self.buffer.extend_from_slice(&zeros.to_le_bytes());
        self.buffer.extend_from_slice(page.before);
        self.buffer.extend_from_slice(page.after);
        self.pages += 1;
    }

    /// Ends the record.
    pub fn finish(self) {
        let end = self.buffer.len().next_multiple_of(8);
        self.buffer.resize(end, 0);
        let length = (end - self.start) as u32;
        self.buffer[self.start + 8..][..4].copy_from_slice(&length.to_le_bytes());
        self.buffer[self.start + 76..][..4].copy_from_slice(&self.pages.to_le_bytes());
    }
}

/// Fills in what is known when the records of a batch are written, so that they can be read back.
pub(super) fn seal(mut batch: &mut [u8], written: Lsn, time_ms: u64, salt: u32) {
    while !batch.is_empty() {
        let length = u32_at(batch, 8) as usize;
        let (record, rest) = batch.split_at_mut(length);
        record[24..32].copy_from_slice(&written.0.to_le_bytes());
        record[80..88].copy_from_slice(&time_ms.to_le_bytes());
        let checksum = crc32c::crc32c_append(salt, &record[8..]);
        record[4..8].copy_from_slice(&checksum.to_le_bytes());
        batch = rest;
    }
}

/// A record that is whole.
#[derive(Clone, Copy)]
pub(super) struct Record<'a>(&'a [u8]);

/// What a record says.
pub(super) enum Content<'a> {
    /// These pages are as given.
    Pages(Pages<'a>),
    /// The pages in that file are as given there.
    Beside(Beside),
    /// The database is gone.
    Delete,
}

impl<'a> Record<'a> {
    /// The record that `bytes` start with, if there is a whole one.
    pub fn read(bytes: &'a [u8], salt: u32) -> Option<Record<'a>> {
        let record = Record::read_torn(bytes)?;
        let checksum = crc32c::crc32c_append(salt, &record.0[8..]);
        (checksum == u32_at(record.0, 4)).then_some(record)
    }

    /// What looks like a record from its beginning.
    pub fn read_torn(bytes: &'a [u8]) -> Option<Record<'a>> {
        if bytes.len() < HEADER_BYTES || u32_at(bytes, 0) != MAGIC {
            return None;
        }
        let length = u32_at(bytes, 8) as usize;
        if length < HEADER_BYTES || !length.is_multiple_of(8) || length > bytes.len() {
            return None;
        }
        Some(Record(&bytes[..length]))
    }

    /// How long it is, in bytes.
    pub fn length(&self) -> usize {
        self.0.len()
    }

    /// Its position.
    pub fn lsn(&self) -> Lsn {
        Lsn(u64_at(self.0, 16))
    }

    /// The newest position that was synced when it was written.
    pub fn written(&self) -> Lsn {
        Lsn(u64_at(self.0, 24))
    }

    /// When it was written, in ms since 1970; 0 if that is not known.
    pub fn time_ms(&self) -> u64 {
        u64_at(self.0, 80)
    }

    /// Which database it is about.
    pub fn database(&self) -> DatabaseId {
        DatabaseId {
            class: u64_at(self.0, 32),
            object: ObjectId(array_at(self.0, 40)),
        }
    }

    /// How many pages the database has after the commit.
    pub fn database_pages(&self) -> u32 {
        u32_at(self.0, 72)
    }

    /// Whether the database has nothing any more that came before the record.
    pub fn replaces(&self) -> bool {
        [Kind::Replace as u8, Kind::ReplaceBeside as u8].contains(&self.0[12])
    }

    /// What it says; `None` for what this version does not know.
    pub fn content(&self) -> Option<Content<'a>> {
        let body = &self.0[HEADER_BYTES..];
        match self.0[12] {
            1 | 4 => Some(Content::Pages(Pages {
                left: u32_at(self.0, 76),
                bytes: body,
            })),
            2 | 5 if body.len() >= 20 => Some(Content::Beside(Beside {
                number: u64_at(body, 0),
                bytes: u64_at(body, 8),
                checksum: u32_at(body, 16),
            })),
            3 => Some(Content::Delete),
            _ => None,
        }
    }
}

/// The pages of a record.
#[derive(Clone)]
pub(super) struct Pages<'a> {
    left: u32,
    bytes: &'a [u8],
}

impl<'a> Iterator for Pages<'a> {
    /// The number of a page in the database, from 1, and the page.
    type Item = (u32, Packed<'a>);

    /// Ends early where the bytes make no sense: then the record was not written by this version.
    fn next(&mut self) -> Option<(u32, Packed<'a>)> {
        if self.left == 0 || self.bytes.len() < PAGE_HEADER_BYTES {
            return None;
        }
        let number = u32_at(self.bytes, 0);
        let hole = usize::from(u16::from_le_bytes(array_at(self.bytes, 4)));
        let zeros = usize::from(u16::from_le_bytes(array_at(self.bytes, 6)));
        let rest = &self.bytes[PAGE_HEADER_BYTES..];
        let kept = PAGE_BYTES.checked_sub(zeros)?;
        if number == 0 || hole > kept || kept > rest.len() {
            return None;
        }
        self.left -= 1;
        self.bytes = &rest[kept..];
        let packed = Packed {
            before: &rest[..hole],
            after: &rest[hole..kept],
        };
        Some((number, packed))
    }
}

impl Pages<'_> {
    /// Whether every page has been read.
    pub fn is_done(&self) -> bool {
        self.left == 0
    }
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    std::array::from_fn(|i| bytes[at + i])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SALT: u32 = 77;

    fn database() -> DatabaseId {
        DatabaseId {
            class: u64::MAX,
            object: ObjectId([3; 32]),
        }
    }

    fn pages() -> impl Strategy<Value = Vec<(u32, Vec<u8>)>> {
        // Zeros in runs, as in a database.
        let byte = prop_oneof![3 => Just(0u8), 1 => any::<u8>()];
        let run = (byte, 1..900usize).prop_map(|(byte, count)| vec![byte; count]);
        let page = proptest::collection::vec(run, 5..20).prop_map(|runs| {
            let mut page = runs.concat();
            page.resize(PAGE_BYTES, 0);
            page
        });
        proptest::collection::vec((1..u32::MAX, page), 0..4)
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(pages in pages(), replaces: bool) {
            let mut buffer = Vec::new();
            let after = Size { pages: 5, replaces };
            let mut record = Writer::pages(&mut buffer, Lsn(9), database(), after);
            for (number, page) in &pages {
                record.page(*number, Packed::new(page[..].try_into().unwrap()));
            }
            record.finish();
            prop_assert!(buffer.len() as u64 <= most_bytes(pages.len() as u64) + 7);
            seal(&mut buffer, Lsn(8), 1_700_000_000_000, SALT);
            let record = Record::read(&buffer, SALT).unwrap();
            prop_assert_eq!(record.length(), buffer.len());
            prop_assert_eq!((record.lsn(), record.written()), (Lsn(9), Lsn(8)));
            prop_assert_eq!(record.time_ms(), 1_700_000_000_000);
            prop_assert_eq!(record.database(), database());
            prop_assert_eq!((record.database_pages(), record.replaces()), (5, replaces));
            let Some(Content::Pages(mut read)) = record.content() else { panic!() };
            for (number, page) in &pages {
                let (read, packed) = read.next().unwrap();
                let mut unpacked = [0xAA; PAGE_BYTES];
                packed.unpack(&mut unpacked);
                prop_assert_eq!((read, &unpacked[..]), (*number, &page[..]));
            }
            prop_assert!(read.next().is_none() && read.is_done());
        }

        #[test]
        fn a_changed_bit_is_noticed(bit in 0..8 * 88usize) {
            let mut buffer = Vec::new();
            Writer::delete(&mut buffer, Lsn(1), database());
            seal(&mut buffer, Lsn(0), 1, SALT);
            prop_assert!(Record::read(&buffer, SALT + 1).is_none());
            buffer[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Record::read(&buffer, SALT).is_none());
        }

        #[test]
        fn any_bytes_are_read_without_harm(mut bytes in proptest::collection::vec(any::<u8>(), 88..300)) {
            bytes[..4].copy_from_slice(&MAGIC.to_le_bytes());
            let length = bytes.len() / 8 * 8;
            bytes[8..12].copy_from_slice(&(length as u32).to_le_bytes());
            let checksum = crc32c::crc32c_append(SALT, &bytes[8..length]);
            bytes[4..8].copy_from_slice(&checksum.to_le_bytes());
            let record = Record::read(&bytes, SALT).unwrap();
            if let Some(Content::Pages(pages)) = record.content() {
                pages.for_each(|(_, page)| page.unpack(&mut [0; PAGE_BYTES]));
            }
        }
    }
}
