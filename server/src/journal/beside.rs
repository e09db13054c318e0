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

use super::{overlay::Overlay, page::PAGE_BYTES, queue::BesideFile, record::Beside};
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

    /// Writes the pages of a large commit, those that SQLite has committed, to a file of their own.
    pub fn write(&self, overlay: &Overlay) -> io::Result<(Beside, BesideFile)> {
        const CHUNK_BYTES: usize = 1 << 20;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let file = self.open(number, Open::OrCreate)?;
        let written = || -> io::Result<Beside> {
            file.set_len(0)?;
            let mut beside = Beside {
                number,
                bytes: 0,
                checksum: 0,
            };
            let mut chunk = Vec::with_capacity(CHUNK_BYTES + 2 * PAGE_BYTES);
            let mut page = [0; PAGE_BYTES];
            let mut write = |chunk: &mut Vec<u8>| {
                file.write_at(chunk, beside.bytes)?;
                beside.checksum = crc32c::crc32c_append(beside.checksum, chunk);
                beside.bytes += chunk.len() as u64;
                chunk.clear();
                Ok(())
            };
            overlay.for_each_committed(|number, packed| {
                packed.unpack(&mut page);
                chunk.extend_from_slice(&number.to_le_bytes());
                chunk.extend_from_slice(&page);
                if chunk.len() < CHUNK_BYTES {
                    return Ok(());
                }
                write(&mut chunk)
            })?;
            write(&mut chunk)?;
            Ok(beside)
        };
        match written() {
            Ok(beside) => {
                let bytes = beside.bytes;
                Ok((
                    beside,
                    BesideFile {
                        number,
                        bytes,
                        file,
                    },
                ))
            }
            Err(error) => {
                self.remove(number);
                Err(error)
            }
        }
    }

    fn path(&self, number: u64) -> PathBuf {
        self.folder.join(format!("{number}{SUFFIX}"))
    }

    /// The file of that number.
    pub fn open(&self, number: u64, open: Open) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.open(&self.path(number), open)
    }

    /// Makes the files' names durable.
    pub fn sync_names(&self) -> io::Result<()> {
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
