//! The write-ahead log that SQLite writes for a database. It is kept in memory, for the journal is
//! what makes commits durable, and without the zeros that most of its pages are; a large one goes to
//! a file without a name.
//!
//! Its format is SQLite's: a header of 32 bytes, then frames, each a header of 24 bytes (the number
//! of the page, the size of the database after the commit or 0, and what does not matter here) and
//! the page. A frame with a size ends a transaction.
//! See <https://www.sqlite.org/fileformat2.html#the_write_ahead_log>.

use std::{io, ops::Range, sync::Arc};

#[cfg(any(test, feature = "testing"))]
use super::queue::Queue;
use super::{
    page::{OwnedPacked, PAGE_BYTES, Packed, Page},
    scratch::IN_MEMORY,
};
use crate::env::DiskFile;

const LOG_HEADER_BYTES: usize = 32;
const FRAME_HEADER_BYTES: usize = 24;
const FRAME_BYTES: usize = FRAME_HEADER_BYTES + PAGE_BYTES;

/// The log of one database.
#[derive(Default)]
pub(super) struct Log {
    store: Store,
    /// How many frames have been given to the journal.
    captured: u64,
    /// How many frames there were when SQLite last ended a transaction.
    committed: u64,
    /// How many pages the database had then.
    database_pages: u32,
}

impl Log {
    /// How long it is, in bytes.
    pub fn bytes(&self) -> u64 {
        match &self.store {
            Store::Memory(memory) => memory.bytes(),
            Store::File(overflow) => overflow.bytes,
        }
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
        match &self.store {
            Store::Memory(memory) => Ok(memory.read(buffer, offset)),
            Store::File(Overflow { file, bytes }) => {
                let there = usize::try_from(bytes.saturating_sub(offset)).unwrap_or(usize::MAX);
                let wanted = buffer.len().min(there);
                file.read_at(&mut buffer[..wanted], offset)
            }
        }
    }

    /// What SQLite writes. `overflow` makes a file for a log that has become large.
    pub fn write(
        &mut self,
        bytes: &[u8],
        offset: u64,
        overflow: impl FnOnce() -> io::Result<Arc<dyn DiskFile>>,
    ) -> io::Result<()> {
        let place = Place::of(offset);
        match &mut self.store {
            Store::Memory(memory) => {
                memory.write(bytes, place)?;
                if memory.packed > IN_MEMORY {
                    let file = overflow()?;
                    memory.write_to(&*file)?;
                    let bytes = memory.bytes();
                    self.store = Store::File(Overflow { file, bytes });
                }
            }
            Store::File(overflow) => {
                overflow.file.write_at(bytes, offset)?;
                overflow.bytes = overflow.bytes.max(offset + bytes.len() as u64);
            }
        }
        match place {
            // SQLite starts from the beginning.
            Place::Header => (self.captured, self.committed) = (0, 0),
            Place::FrameHeader(frame) if u32_at(bytes, 4) > 0 => {
                self.committed = frame as u64 + 1;
                self.database_pages = u32_at(bytes, 4);
            }
            _ => {}
        }
        Ok(())
    }

    /// What SQLite has committed and the journal has not been given, as frames.
    pub fn uncaptured(&self) -> Range<u64> {
        // What was rolled back lies behind, and is written over by the next transaction.
        self.captured..self.committed
    }

    /// For tests: what the journal is given if it is to be wrong.
    #[cfg(any(test, feature = "testing"))]
    pub fn sabotage(&self, queue: &Queue, frames: Range<u64>) -> Range<u64> {
        if sabotaged!(queue, KeepRolledBack) {
            let bytes = self.bytes() as usize;
            return frames.start..(bytes.saturating_sub(LOG_HEADER_BYTES) / FRAME_BYTES) as u64;
        }
        let omitted = sabotaged!(queue, OmitSpilledPage) && frames.end - frames.start > 8;
        frames.start + u64::from(omitted)..frames.end
    }

    /// The journal has been given everything.
    pub fn captured(&mut self) {
        self.captured = self.committed;
    }

    /// Hands `take` each of these frames: the number of its page, and the page.
    pub fn for_each(
        &self,
        frames: Range<u64>,
        mut take: impl FnMut(u32, Packed<'_>) -> io::Result<()>,
    ) -> io::Result<()> {
        match &self.store {
            Store::Memory(memory) => {
                let frames = &memory.frames[frames.start as usize..frames.end as usize];
                frames
                    .iter()
                    .try_for_each(|frame| take(u32_at(&frame.header, 0), frame.page.as_packed()))
            }
            Store::File(Overflow { file, .. }) => {
                let mut frame = vec![0; FRAME_BYTES];
                for number in frames {
                    let at = LOG_HEADER_BYTES as u64 + number * FRAME_BYTES as u64;
                    if file.read_at(&mut frame, at)? < FRAME_BYTES {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    let page = &frame[FRAME_HEADER_BYTES..];
                    let page: &Page = page.try_into().map_err(io::Error::other)?;
                    take(u32_at(&frame, 0), Packed::new(page))?;
                }
                Ok(())
            }
        }
    }

    /// Forgets everything after that many frames.
    pub fn truncate(&mut self, frames: u64) {
        let frames = frames.min(self.captured);
        self.captured = frames;
        self.committed = frames;
        if frames == 0 {
            self.store = Store::default();
            return;
        }
        match &mut self.store {
            Store::Memory(memory) => memory.truncate(frames as usize),
            Store::File(overflow) => {
                overflow.bytes = LOG_HEADER_BYTES as u64 + frames * FRAME_BYTES as u64;
            }
        }
    }
}

enum Store {
    Memory(Memory),
    File(Overflow),
}

/// A log in a file.
struct Overflow {
    file: Arc<dyn DiskFile>,
    /// How long it is. The file may be longer.
    bytes: u64,
}

impl Default for Store {
    fn default() -> Store {
        Store::Memory(Memory::default())
    }
}

/// What stands at an offset of a log.
#[derive(Clone, Copy)]
enum Place {
    Header,
    FrameHeader(usize),
    Page(usize),
    /// Inside one of these.
    Within,
}

impl Place {
    fn of(offset: u64) -> Place {
        let Some(behind) = offset.checked_sub(LOG_HEADER_BYTES as u64) else {
            return if offset == 0 {
                Place::Header
            } else {
                Place::Within
            };
        };
        let frame = (behind / FRAME_BYTES as u64) as usize;
        match (behind % FRAME_BYTES as u64) as usize {
            0 => Place::FrameHeader(frame),
            FRAME_HEADER_BYTES => Place::Page(frame),
            _ => Place::Within,
        }
    }
}

#[derive(Default)]
struct Memory {
    header: Option<[u8; LOG_HEADER_BYTES]>,
    frames: Vec<Frame>,
    /// How many bytes of pages there are.
    packed: usize,
}

#[derive(Default)]
struct Frame {
    header: [u8; FRAME_HEADER_BYTES],
    page: OwnedPacked,
}

impl Memory {
    fn bytes(&self) -> u64 {
        match self.header {
            Some(_) => (LOG_HEADER_BYTES + self.frames.len() * FRAME_BYTES) as u64,
            None => 0,
        }
    }

    /// SQLite writes whole headers and whole pages, and no frame before those in front of it.
    fn write(&mut self, bytes: &[u8], place: Place) -> io::Result<()> {
        let misplaced = || io::Error::other("SQLite writes its log in an unknown way");
        match place {
            Place::Header => {
                self.header = Some(bytes.try_into().map_err(io::Error::other)?);
                self.truncate(0);
            }
            Place::FrameHeader(frame) => {
                let header = bytes.try_into().map_err(io::Error::other)?;
                if frame == self.frames.len() {
                    self.frames.push(Frame::default());
                }
                self.frames.get_mut(frame).ok_or_else(misplaced)?.header = header;
            }
            Place::Page(frame) => {
                let page = bytes.try_into().map_err(io::Error::other)?;
                let frame = self.frames.get_mut(frame).ok_or_else(misplaced)?;
                self.packed -= frame.page.len();
                frame.page = Packed::new(page).into();
                self.packed += frame.page.len();
            }
            Place::Within => return Err(misplaced()),
        }
        Ok(())
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> usize {
        if let Place::Page(frame) = Place::of(offset)
            && let (Some(frame), Ok(page)) = (self.frames.get(frame), (&mut *buffer).try_into())
        {
            frame.page.as_packed().unpack(page);
            return PAGE_BYTES;
        }
        // All else is seldom read.
        let mut done = 0;
        while done < buffer.len() {
            let at = offset as usize + done;
            let mut page = [0; PAGE_BYTES];
            let (part, within): (&[u8], _) = match at.checked_sub(LOG_HEADER_BYTES) {
                None => (self.header.as_ref().map_or(&[], |header| header), at),
                Some(behind) => match (self.frames.get(behind / FRAME_BYTES), behind % FRAME_BYTES)
                {
                    (None, _) => (&[], 0),
                    (Some(frame), at) if at < FRAME_HEADER_BYTES => (&frame.header, at),
                    (Some(frame), at) => {
                        frame.page.as_packed().unpack(&mut page);
                        (&page, at - FRAME_HEADER_BYTES)
                    }
                },
            };
            let Some(part) = part.get(within..).filter(|part| !part.is_empty()) else {
                break;
            };
            let some = part.len().min(buffer.len() - done);
            buffer[done..done + some].copy_from_slice(&part[..some]);
            done += some;
        }
        done
    }

    fn truncate(&mut self, frames: usize) {
        self.frames.truncate(frames);
        self.packed = self.frames.iter().map(|frame| frame.page.len()).sum();
    }

    fn write_to(&self, file: &dyn DiskFile) -> io::Result<()> {
        let Some(header) = &self.header else {
            return Ok(());
        };
        file.write_at(header, 0)?;
        let mut bytes = vec![0; FRAME_BYTES];
        for (i, frame) in self.frames.iter().enumerate() {
            let (header, page) = bytes.split_at_mut(FRAME_HEADER_BYTES);
            header.copy_from_slice(&frame.header);
            let page = page.try_into().map_err(io::Error::other)?;
            frame.page.as_packed().unpack(page);
            file.write_at(&bytes, (LOG_HEADER_BYTES + i * FRAME_BYTES) as u64)?;
        }
        Ok(())
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(std::array::from_fn(|i| bytes[at + i]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::env::{Disk, sim::SimDisk};

    /// A frame as SQLite writes it: which, the number of its page, whether it ends a transaction, and
    /// a byte of which its page has some.
    fn frames() -> impl Strategy<Value = Vec<(usize, u32, bool, u8)>> {
        let frame = (0..40usize, 1..9u32, any::<bool>(), any::<u8>());
        proptest::collection::vec(frame, 0..60)
    }

    proptest! {
        #[test]
        fn what_is_in_memory_reads_like_a_file(frames in frames(), reads in proptest::collection::vec((0..200_000u64, 0..9000usize), 20)) {
            let folder = std::path::Path::new("/log");
            let disk = SimDisk::new(folder);
            let model = disk.scratch(folder).unwrap();
            let mut log = Log::default();
            let write = |log: &mut Log, bytes: &[u8], offset: u64| {
                log.write(bytes, offset, || unreachable!("it is small")).unwrap();
                model.write_at(bytes, offset).unwrap();
            };
            write(&mut log, &[7; LOG_HEADER_BYTES], 0);
            let mut length = 0;
            for (frame, number, ends, byte) in frames {
                let frame = frame.min(length);
                length = length.max(frame + 1);
                let at = (LOG_HEADER_BYTES + frame * FRAME_BYTES) as u64;
                let mut header = [9; FRAME_HEADER_BYTES];
                header[..4].copy_from_slice(&number.to_be_bytes());
                header[4..8].copy_from_slice(&u32::from(ends).to_be_bytes());
                write(&mut log, &header, at);
                let mut page = [0; PAGE_BYTES];
                page[usize::from(byte) * 8..][..64].fill(byte);
                write(&mut log, &page, at + FRAME_HEADER_BYTES as u64);
            }
            prop_assert_eq!(log.bytes(), model.bytes().unwrap());
            let places = (0..length).flat_map(|frame| {
                let at = (LOG_HEADER_BYTES + frame * FRAME_BYTES) as u64;
                [(at, FRAME_HEADER_BYTES), (at + FRAME_HEADER_BYTES as u64, PAGE_BYTES), (at, FRAME_BYTES)]
            });
            for (offset, length) in places.chain(reads) {
                let (mut seen, mut wanted) = (vec![1; length], vec![1; length]);
                let read = log.read(&mut seen, offset).unwrap();
                prop_assert_eq!(read, model.read_at(&mut wanted, offset).unwrap());
                prop_assert!(seen[..read] == wanted[..read]);
            }
        }
    }

    #[test]
    fn a_large_log_goes_on_in_a_file() {
        let folder = std::path::Path::new("/log");
        let disk = SimDisk::new(folder);
        let mut log = Log::default();
        let mut write = |bytes: &[u8], offset| {
            log.write(bytes, offset, || disk.scratch(folder)).unwrap();
        };
        write(&[7; LOG_HEADER_BYTES], 0);
        let frames = 2 * IN_MEMORY / PAGE_BYTES;
        for frame in 0..frames {
            let at = (LOG_HEADER_BYTES + frame * FRAME_BYTES) as u64;
            let mut header = [0; FRAME_HEADER_BYTES];
            header[..4].copy_from_slice(&(frame as u32 + 1).to_be_bytes());
            header[4..8].copy_from_slice(&u32::from(frame + 1 == frames).to_be_bytes());
            write(&header, at);
            write(
                &[frame as u8 | 1; PAGE_BYTES],
                at + FRAME_HEADER_BYTES as u64,
            );
        }
        assert!(matches!(log.store, Store::File(_)));
        assert_eq!(log.uncaptured(), 0..frames as u64);
        let mut next = 0;
        log.for_each(0..frames as u64, |number, page| {
            let mut unpacked = [0; PAGE_BYTES];
            page.unpack(&mut unpacked);
            assert_eq!((number, unpacked[0]), (next + 1, next as u8 | 1));
            next += 1;
            Ok(())
        })
        .unwrap();
        assert_eq!(next as usize, frames);
        // What was behind is never read again, though it is still in the file.
        log.captured();
        log.truncate(3);
        let end = (LOG_HEADER_BYTES + 3 * FRAME_BYTES) as u64;
        assert_eq!(log.bytes(), end);
        let mut bytes = [0; FRAME_BYTES];
        assert_eq!(log.read(&mut bytes, end).unwrap(), 0);
        assert_eq!(log.read(&mut bytes, end - 10).unwrap(), 10);
    }
}
