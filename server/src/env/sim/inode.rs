//! A file: what of it is on the disk, and what is only on its way there.

use std::sync::Arc;

use super::{
    content::Content,
    survival::{Fate, Fates},
};

/// What a disk writes whole or not at all.
pub const SECTOR: usize = 512;

/// A change of a file's content.
pub enum Change {
    /// Whole sectors, as they are after a write: whichever of the writes to a sector is the last to
    /// reach the disk, it brings along what earlier ones put into that sector.
    Sectors {
        offset: u64,
        image: Vec<u8>,
        /// The length that the file has at least if all of this is in it.
        len: u64,
    },
    SetLen(u64),
    Allocate(u64),
}

impl Change {
    fn apply(&self, content: &mut Content) {
        match self {
            Change::Sectors { offset, image, len } => {
                content.put(image, *offset);
                content.extend_to(*len);
            }
            Change::SetLen(len) => content.set_len(*len),
            Change::Allocate(len) => content.extend_to(*len),
        }
    }

    fn tear(&self, content: &mut Content, fates: &mut Fates) {
        let Change::Sectors { offset, image, len } = self else {
            return self.apply(content);
        };
        let kept = fates.tear(image.len() / SECTOR);
        for (sector, bytes) in image.chunks(SECTOR).enumerate() {
            if kept[sector] {
                let start = offset + (sector * SECTOR) as u64;
                content.put(bytes, start);
                content.extend_to((start + SECTOR as u64).min(*len));
            }
        }
        if fates.keeps_length() {
            content.extend_to(*len);
        }
    }
}

/// A file, whatever its name.
pub struct Inode {
    /// Whether it has one, as far as one can see.
    linked: bool,
    durable: Content,
    visible: Content,
    pending: Vec<Change>,
    open: Arc<()>,
}

impl Inode {
    /// A file with a name, and all of this on the disk.
    pub fn new(content: Content) -> Inode {
        Inode {
            linked: true,
            visible: content.clone(),
            durable: content,
            pending: Vec::new(),
            open: Arc::default(),
        }
    }

    pub fn visible(&self) -> &Content {
        &self.visible
    }

    /// A token that an open handle keeps.
    pub fn open(&self) -> Arc<()> {
        self.open.clone()
    }

    pub fn unlink(&mut self) {
        self.linked = false;
    }

    /// Whether it takes room: it has a name or an open handle.
    pub fn is_alive(&self) -> bool {
        self.linked || Arc::strong_count(&self.open) > 1
    }

    /// Whether it has something pending, and a name, and one open handle, which is about to be dropped.
    pub fn is_unsynced_and_closing(&self) -> bool {
        self.linked && !self.pending.is_empty() && Arc::strong_count(&self.open) == 2
    }

    /// What a write of these bytes changes.
    pub fn writing(&self, bytes: &[u8], offset: u64) -> Change {
        let within = (offset % SECTOR as u64) as usize;
        let start = offset - within as u64;
        let mut image = vec![0; (within + bytes.len()).next_multiple_of(SECTOR)];
        self.visible.read(&mut image, start);
        image[within..][..bytes.len()].copy_from_slice(bytes);
        let old = self.visible.len().min(start + image.len() as u64);
        Change::Sectors {
            offset: start,
            image,
            len: old.max(offset + bytes.len() as u64),
        }
    }

    /// Makes a change visible and leaves it pending.
    pub fn change(&mut self, change: Change) {
        change.apply(&mut self.visible);
        self.pending.push(change);
    }

    /// Ends the time of what is pending: it is on the disk now, or it never will be. `evicts`: what is not
    /// is no longer visible either.
    pub fn settle(&mut self, fates: &mut Fates, evicts: bool) {
        settle(&mut self.durable, &self.pending, None, fates);
        self.pending.clear();
        if evicts {
            let len = self.visible.len();
            self.visible = self.durable.clone();
            self.visible.set_len(len);
        }
    }

    /// The file as it is found after a crash, that may have cut a change short.
    pub fn after_crash(&self, interrupted: Option<&Change>, fates: &mut Fates) -> Inode {
        let mut durable = self.durable.clone();
        settle(&mut durable, &self.pending, interrupted, fates);
        Inode::new(durable)
    }
}

fn settle(
    durable: &mut Content,
    pending: &[Change],
    interrupted: Option<&Change>,
    fates: &mut Fates,
) {
    let dealt = fates.deal(pending.len() + usize::from(interrupted.is_some()));
    for (change, fate) in pending.iter().chain(interrupted).zip(dealt) {
        match fate {
            Fate::Kept => change.apply(durable),
            Fate::Torn => change.tear(durable, fates),
            Fate::Lost => {}
        }
    }
}
