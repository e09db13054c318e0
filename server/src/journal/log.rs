//! The write-ahead log that SQLite writes for a database. It is kept in memory, for the journal is
//! what makes commits durable; a long one goes to a file without a name.
//!
//! Its format is SQLite's: a header of 32 bytes, then frames, each a header of 24 bytes (the number
//! of the page, the size of the database after the commit or 0, and what does not matter here) and
//! the page. A frame with a size ends a transaction.
//! See <https://www.sqlite.org/fileformat2.html#the_write_ahead_log>.

use std::{io, ops::Range, sync::Arc};

use super::record::{PAGE_BYTES, Page};
use crate::env::DiskFile;

const LOG_HEADER_BYTES: u64 = 32;
const FRAME_HEADER_BYTES: usize = 24;
const FRAME_BYTES: u64 = (FRAME_HEADER_BYTES + PAGE_BYTES) as u64;

/// The log of one database.
#[derive(Default)]
pub(super) struct Log {
    bytes: Bytes,
    /// How many frames have been given to the journal.
    captured: u64,
    /// How many frames there were when SQLite last ended a transaction.
    committed: u64,
    /// How many pages the database had then.
    database_pages: u32,
}

impl Log {
    /// How long it is, in bytes.
    pub fn len(&self) -> u64 {
        self.bytes.len
    }

    /// How many frames it has that count.
    pub fn frames(&self) -> u64 {
        self.captured
    }

    /// How many pages the database has after the newest commit.
    pub fn database_pages(&self) -> u32 {
        self.database_pages
    }

    /// Fills `buffer`; returns how many bytes there were before the end.
    pub fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.bytes.read(buffer, offset)
    }

    /// What SQLite writes. `overflow` makes a file for a log that has become long.
    pub fn write(
        &mut self,
        bytes: &[u8],
        offset: u64,
        overflow: impl FnOnce() -> io::Result<Arc<dyn DiskFile>>,
    ) -> io::Result<()> {
        self.bytes.write(bytes, offset, overflow)?;
        if offset == 0 {
            // A new header: SQLite starts from the beginning.
            (self.captured, self.committed) = (0, 0);
        } else if bytes.len() == FRAME_HEADER_BYTES {
            let frame = (offset - LOG_HEADER_BYTES) / FRAME_BYTES;
            let pages = u32_at(bytes, 4);
            if pages > 0 {
                self.committed = frame + 1;
                self.database_pages = pages;
            }
        }
        Ok(())
    }

    /// What SQLite has committed and the journal has not been given, as frames.
    pub fn uncaptured(&self) -> Range<u64> {
        // What was rolled back lies behind, and is written over by the next transaction.
        self.captured..self.committed
    }

    /// The journal has been given everything.
    pub fn captured(&mut self) {
        self.captured = self.committed;
    }

    /// The page of a frame, with its number.
    pub fn frame(&self, frame: u64, page: &mut Page) -> io::Result<u32> {
        let at = LOG_HEADER_BYTES + frame * FRAME_BYTES;
        let mut number = [0; 4];
        let read = self.read(&mut number, at)? + self.read(page, at + FRAME_HEADER_BYTES as u64)?;
        if read < number.len() + PAGE_BYTES {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(u32::from_be_bytes(number))
    }

    /// Forgets everything after that many frames.
    pub fn truncate(&mut self, frames: u64) {
        let frames = frames.min(self.captured);
        self.captured = frames;
        self.committed = frames;
        self.bytes.truncate(match frames {
            0 => 0,
            _ => LOG_HEADER_BYTES + frames * FRAME_BYTES,
        });
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(std::array::from_fn(|i| bytes[at + i]))
}

/// Bytes without a name: in memory, and when there are many, in a file.
#[derive(Default)]
pub(crate) struct Bytes {
    len: u64,
    chunks: Vec<Box<[u8; Bytes::CHUNK]>>,
    file: Option<Arc<dyn DiskFile>>,
}

impl Bytes {
    /// Four frames of a log, with its header.
    const CHUNK: usize = 4 * FRAME_BYTES as usize + LOG_HEADER_BYTES as usize;

    /// What is longer goes to a file, in bytes.
    const IN_MEMORY: u64 = 1 << 20;

    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        if let Some(file) = &self.file {
            return file.read_at(buffer, offset);
        }
        let there = usize::try_from(self.len.saturating_sub(offset)).unwrap_or(usize::MAX);
        let wanted = buffer.len().min(there);
        let mut done = 0;
        while done < wanted {
            let (chunk, at) = place(offset + done as u64);
            let some = (wanted - done).min(Bytes::CHUNK - at);
            buffer[done..done + some].copy_from_slice(&self.chunks[chunk][at..at + some]);
            done += some;
        }
        Ok(wanted)
    }

    pub fn write(
        &mut self,
        bytes: &[u8],
        offset: u64,
        overflow: impl FnOnce() -> io::Result<Arc<dyn DiskFile>>,
    ) -> io::Result<()> {
        let end = offset + bytes.len() as u64;
        if self.file.is_none() && end > Bytes::IN_MEMORY {
            let file = overflow()?;
            for (i, chunk) in self.chunks.iter().enumerate() {
                file.write_at(&chunk[..], (i * Bytes::CHUNK) as u64)?;
            }
            self.chunks = Vec::new();
            self.file = Some(file);
        }
        if let Some(file) = &self.file {
            file.write_at(bytes, offset)?;
            self.len = self.len.max(end);
            return Ok(());
        }
        let chunks = usize::try_from(end)
            .map_err(io::Error::other)?
            .div_ceil(Bytes::CHUNK);
        while self.chunks.len() < chunks {
            self.chunks.push(Box::new([0; Bytes::CHUNK]));
        }
        let mut done = 0;
        while done < bytes.len() {
            let (chunk, at) = place(offset + done as u64);
            let some = (bytes.len() - done).min(Bytes::CHUNK - at);
            self.chunks[chunk][at..at + some].copy_from_slice(&bytes[done..done + some]);
            done += some;
        }
        self.len = self.len.max(end);
        Ok(())
    }

    pub fn truncate(&mut self, len: u64) {
        if len >= self.len {
            return;
        }
        if len == 0 {
            *self = Bytes::default();
            return;
        }
        self.len = len;
        if let Some(file) = &self.file {
            // What is beyond the end would be read again; nobody reads there before it is written.
            let _ = file.set_len(len);
        } else {
            self.chunks
                .truncate(len.div_ceil(Bytes::CHUNK as u64) as usize);
        }
    }
}

/// Which chunk a byte is in, and where in it.
fn place(offset: u64) -> (usize, usize) {
    let chunk = Bytes::CHUNK as u64;
    ((offset / chunk) as usize, (offset % chunk) as usize)
}
