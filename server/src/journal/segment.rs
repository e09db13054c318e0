//! One file of the journal: its header, and the records in it.
//!
//! ```text
//!   0  magic      "VWJOURNL"
//!   8  version    u32
//!  12  checksum   u32   CRC-32C of the 112 bytes that follow
//!  16  state      u32   1 live, 2 free
//!  20  salt       u32   drawn anew each time the file is used
//!  24  sequence   u64   its place among all segments there ever were
//!  32  first      u64   live: the LSN of its first record; free: the next LSN to be used
//!  40  void from  u64   records of earlier segments from this LSN on do not count
//!  48  previous   u64   the sequence of the segment before it; 0 if there was none
//!  56  oldest     u64   the sequence of the oldest segment that counted when it began
//!  64  vat        [16]  which vat has written it; zeros in version 1
//!  80  timeline   u64   which history of the vat it belongs to; 0 in version 1
//!  88  epoch      u64   which of the lives of the vat has written it; 0 in version 1
//!  96  time       u64   no record before this header was written later, in ms since 1970; 0 in version 1
//! 104  -          [24]
//! 4096 records, a batch from each multiple of 4096 on
//! ```
//! The header is a single sector: it is there whole, or as it was before. It is on disk before the
//! first record is written.

use std::{borrow::Cow, fmt, io, path::PathBuf, sync::Arc};

use super::{lsn::Lsn, record::Record};
use crate::env::{self, DiskFile};

/// The version of segments and records. Older ones are read too: version 2 has no records that replace a
/// database, and in version 1 the fields from byte 64 on, and the times of records, are zero.
const VERSION: u32 = 3;

const MAGIC: &[u8; 8] = b"VWJOURNL";
const HEADER_BYTES: usize = 128;

/// Batches start at multiples of this: what is acknowledged is never written over.
pub(super) const BLOCK: usize = 4096;

/// How a file of the journal is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub state: State,
    /// Seeds the checksums of its records, so that none from an earlier use is taken for one of it.
    pub salt: u32,
    /// Its place among all segments there ever were.
    pub sequence: u64,
    /// Whose commits it has.
    pub origin: Origin,
    /// When the newest record before it was written, in ms since 1970, as far as it was known.
    pub time_ms: u64,
}

/// The vat that writes a segment, and in which of its lives: so that segments of two copies of a data folder
/// are told apart wherever they meet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Origin {
    /// Drawn when the first segment of a data folder is begun.
    pub vat: [u8; 16],
    /// The history of the vat, from 1: a folder that goes back to an earlier state begins a new one.
    pub timeline: u64,
    /// How often the vat has started with a journal, from 1.
    pub epoch: u64,
}

impl Origin {
    /// The origin of what the next life of the vat writes.
    pub fn next(self) -> Origin {
        let is_known = self.vat != [0; 16];
        Origin {
            vat: if is_known { self.vat } else { env::random() },
            timeline: self.timeline.max(1),
            epoch: self.epoch + 1,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Its records count.
    Live {
        /// The position of its first record.
        first: Lsn,
        /// Records of earlier segments from this position on do not count.
        void_from: Lsn,
        /// The sequence of the segment before it; 0 if there was none.
        previous: u64,
        /// The sequence of the oldest segment that counted when it began.
        oldest: u64,
    },
    /// Nothing in it counts any more.
    Free {
        /// The next position to be used, as far as it was known.
        next: Lsn,
    },
}

/// Why the journal cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// A file was written by a later version.
    #[error("{} has version {found}; this version knows {VERSION}", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// What was acknowledged can no longer be read.
    #[error("the journal is damaged: {}, at byte {offset}: {damage}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is wrong.
        damage: Damage,
    },
    /// A segment is not there that may hold commits.
    #[error(
        "the segment {} is gone, and commits that were acknowledged may be in it and nowhere else: put the \
         file back and start again; to go on without these commits, remove {}",
        path.display(), roster.display()
    )]
    Gone {
        /// The file.
        path: PathBuf,
        /// The file that tells of it.
        roster: PathBuf,
    },
    /// The operating system refused.
    #[error("the journal: {0}")]
    Io(#[from] io::Error),
}

/// What is wrong with a journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// A header that is neither whole nor empty.
    Header,
    /// A segment between others is missing.
    Missing {
        /// Its place among all segments.
        sequence: u64,
    },
    /// The record that should be there is not.
    Record(Lsn),
    /// The file with the pages of a record is not there, or not whole.
    Beside(Lsn),
    /// Held commits are not whole.
    Held,
    /// A record whose checksum is right and that makes no sense.
    Nonsense(Lsn),
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Damage::Header => write!(f, "the header is not whole"),
            Damage::Missing { sequence } => write!(f, "segment {sequence} is missing"),
            Damage::Record(lsn) => {
                write!(f, "the record of LSN {lsn} was durable and is not whole")
            }
            Damage::Beside(lsn) => write!(f, "the pages of LSN {lsn} are not whole"),
            Damage::Held => write!(f, "the commits that are held here are not whole"),
            Damage::Nonsense(lsn) => write!(f, "the record of LSN {lsn} cannot be understood"),
        }
    }
}

/// A file of the journal.
pub(super) struct SegmentFile {
    pub path: PathBuf,
    pub file: Arc<dyn DiskFile>,
}

impl SegmentFile {
    /// The name of the segment's file.
    pub fn name(&self) -> Cow<'_, str> {
        let name = self.path.file_name().unwrap_or_default();
        name.to_string_lossy()
    }

    /// Writes the header and makes it durable.
    pub fn write_header(&self, header: Header) -> io::Result<()> {
        self.file.write_at(&header.encode(), 0)?;
        self.file.sync()
    }

    /// Reads the header; `None` if the file was never used.
    pub fn read_header(&self) -> Result<Option<Header>, JournalError> {
        let mut bytes = [0; HEADER_BYTES];
        self.file.read_at(&mut bytes, 0)?;
        if bytes == [0; HEADER_BYTES] {
            return Ok(None);
        }
        let u32_at = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        if &bytes[..8] == MAGIC && u32_at(8) > VERSION {
            return Err(JournalError::Newer {
                path: self.path.clone(),
                found: u32_at(8),
            });
        }
        Header::decode(&bytes)
            .map(Some)
            .ok_or_else(|| self.damaged(0, Damage::Header))
    }

    /// Reads the whole file into `bytes`.
    pub fn read(&self, bytes: &mut Vec<u8>) -> io::Result<()> {
        let length = usize::try_from(self.file.bytes()?).map_err(io::Error::other)?;
        bytes.resize(length, 0);
        let read = self.file.read_at(bytes, 0)?;
        bytes.truncate(read);
        Ok(())
    }

    pub fn damaged(&self, offset: usize, damage: Damage) -> JournalError {
        JournalError::Damaged {
            path: self.path.clone(),
            offset: offset as u64,
            damage,
        }
    }
}

impl Header {
    fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        let (state, numbers) = match self.state {
            State::Live {
                first,
                void_from,
                previous,
                oldest,
            } => (1u32, [first.0, void_from.0, previous, oldest]),
            State::Free { next } => (2, [next.0, 0, 0, 0]),
        };
        put(0, MAGIC);
        put(8, &VERSION.to_le_bytes());
        put(16, &state.to_le_bytes());
        put(20, &self.salt.to_le_bytes());
        put(24, &self.sequence.to_le_bytes());
        for (i, number) in numbers.iter().enumerate() {
            put(32 + 8 * i, &number.to_le_bytes());
        }
        put(64, &self.origin.vat);
        put(80, &self.origin.timeline.to_le_bytes());
        put(88, &self.origin.epoch.to_le_bytes());
        put(96, &self.time_ms.to_le_bytes());
        let checksum = crc32c::crc32c(&bytes[16..]);
        bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; HEADER_BYTES]) -> Option<Header> {
        let u32_at = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        let u64_at = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        if &bytes[..8] != MAGIC
            || !(1..=VERSION).contains(&u32_at(8))
            || u32_at(12) != crc32c::crc32c(&bytes[16..])
        {
            return None;
        }
        let state = match u32_at(16) {
            1 => State::Live {
                first: Lsn(u64_at(32)),
                void_from: Lsn(u64_at(40)),
                previous: u64_at(48),
                oldest: u64_at(56),
            },
            2 => State::Free {
                next: Lsn(u64_at(32)),
            },
            _ => return None,
        };
        Some(Header {
            state,
            salt: u32_at(20),
            sequence: u64_at(24),
            origin: Origin {
                vat: std::array::from_fn(|i| bytes[64 + i]),
                timeline: u64_at(80),
                epoch: u64_at(88),
            },
            time_ms: u64_at(96),
        })
    }
}

/// Reads the records of a segment, in order.
pub(super) struct Records<'a> {
    bytes: &'a [u8],
    salt: u32,
    position: usize,
    next: Lsn,
    #[cfg(any(test, feature = "testing"))]
    believes: bool,
}

impl<'a> Records<'a> {
    /// The records in the `bytes` of a segment, from the position `first` on.
    pub fn new(bytes: &'a [u8], salt: u32, first: Lsn) -> Records<'a> {
        Records {
            bytes,
            salt,
            position: BLOCK,
            next: first,
            #[cfg(any(test, feature = "testing"))]
            believes: false,
        }
    }

    /// For tests: whether it takes a record for whole that looks like one from its beginning.
    #[cfg(any(test, feature = "testing"))]
    pub fn believing(self, believes: bool) -> Records<'a> {
        Records { believes, ..self }
    }

    /// The position that the next record has, or would have.
    pub fn next_lsn(&self) -> Lsn {
        self.next
    }

    /// Where it is in the file, or would be.
    pub fn offset(&self) -> usize {
        self.position
    }

    /// Whether a record that is whole says that the next one was durable: then it is damaged, and
    /// not the torn end of what was never acknowledged.
    pub fn is_damaged(&self) -> bool {
        // Others of the same batch may be whole, but what they call written came before it. Only
        // batches start where this looks.
        let rest = (self.position.next_multiple_of(BLOCK)..self.bytes.len()).step_by(BLOCK);
        rest.filter_map(|at| Record::read(&self.bytes[at..], self.salt))
            .any(|record| record.lsn() > self.next && record.written() >= self.next)
    }

    fn read_at(&self, at: usize) -> Option<Record<'a>> {
        let bytes = self.bytes.get(at..)?;
        let record = Record::read(bytes, self.salt);
        #[cfg(any(test, feature = "testing"))]
        let record = record.or_else(|| Record::read_torn(bytes).filter(|_| self.believes));
        let record = record?;
        (record.lsn() == self.next).then_some(record)
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;

    fn next(&mut self) -> Option<Record<'a>> {
        let aligned = self.position.next_multiple_of(BLOCK);
        let (at, record) = [self.position, aligned]
            .into_iter()
            .find_map(|at| Some((at, self.read_at(at)?)))?;
        self.position = at + record.length();
        self.next = self.next.next();
        Some(record)
    }
}
