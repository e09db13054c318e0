//! Files that SQLite needs for a moment, without a name.

use std::{io, sync::Arc};

use super::page::PAGE_BYTES;
use crate::env::DiskFile;

/// Bytes in memory, and when there are many, in a file.
#[derive(Default)]
pub(crate) struct Scratch {
    bytes: Vec<u8>,
    file: Option<Arc<dyn DiskFile>>,
}

/// What is longer goes to a file, in bytes. In tests of this crate little is much.
pub(super) const IN_MEMORY: usize = if cfg!(test) { 32 << 10 } else { 1 << 20 };

impl Scratch {
    /// How long it is, in bytes.
    pub fn bytes(&self) -> io::Result<u64> {
        match &self.file {
            Some(file) => file.bytes(),
            None => Ok(self.bytes.len() as u64),
        }
    }

    /// Fills `buffer`; returns how many bytes there were before the end.
    pub fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        if let Some(file) = &self.file {
            return file.read_at(buffer, offset);
        }
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let there = self.bytes.get(from..).unwrap_or_default();
        let read = buffer.len().min(there.len());
        buffer[..read].copy_from_slice(&there[..read]);
        Ok(read)
    }

    /// Writes `bytes` at `offset`. `overflow` makes the file, if one is needed.
    pub fn write(
        &mut self,
        bytes: &[u8],
        offset: u64,
        overflow: impl FnOnce() -> io::Result<Arc<dyn DiskFile>>,
    ) -> io::Result<()> {
        let end = offset + bytes.len() as u64;
        if self.file.is_none() && end > IN_MEMORY as u64 {
            let file = overflow()?;
            file.write_at(&self.bytes, 0)?;
            self.bytes = Vec::new();
            self.file = Some(file);
        }
        if let Some(file) = &self.file {
            return file.write_at(bytes, offset);
        }
        let (from, end) = (offset as usize, end as usize);
        if self.bytes.len() < end {
            if self.bytes.capacity() == 0 {
                // What SQLite needs to undo a change of one page.
                self.bytes.reserve(2 * PAGE_BYTES);
            }
            self.bytes.resize(end, 0);
        }
        self.bytes[from..end].copy_from_slice(bytes);
        Ok(())
    }

    /// Cuts it. When nothing is left, it takes no memory and has no file.
    pub fn truncate(&mut self, bytes: u64) -> io::Result<()> {
        match &self.file {
            _ if bytes == 0 => *self = Scratch::default(),
            Some(file) => return file.set_len(bytes),
            None => {
                self.bytes
                    .truncate(usize::try_from(bytes).unwrap_or(usize::MAX));
            }
        }
        Ok(())
    }
}
