//! The disk itself: a folder on it, and what one `fdatasync` costs there.

use std::{fs::File, os::unix::fs::FileExt, path::Path};

use tempfile::TempDir;

use crate::measure::{Floor, Round};

const PAGE: [u8; 4096] = [0x5a; 4096];

/// How much of the overwritten file there is.
const OVERWRITTEN_BYTES: u64 = 16 << 20;

/// A temporary folder in `parent`.
///
/// # Panics
///
/// If it is in memory, where nothing is measured.
pub fn folder(parent: &Path) -> TempDir {
    const TMPFS: i64 = 0x0102_1994;
    const RAMFS: i64 = 0x8584_58f6;
    let folder = tempfile::tempdir_in(parent).expect("a temporary folder");
    let system = rustix::fs::statfs(folder.path()).expect("a file system");
    // The type of the field is the platform's.
    #[allow(clippy::unnecessary_cast)]
    let kind = system.f_type as i64;
    assert!(
        ![TMPFS, RAMFS].contains(&kind),
        "{} is in memory: name a folder on a disk with --folder",
        parent.display()
    );
    folder
}

/// A file whose bytes have all been written, durably: writing them again changes no metadata that
/// `fdatasync` would have to write too.
pub fn preallocated(path: &Path, bytes: u64) -> File {
    let file = File::create(path).expect("a new file");
    for offset in (0..bytes).step_by(PAGE.len()) {
        file.write_all_at(&PAGE, offset).expect("space on the disk");
    }
    file.sync_all().expect("a sync");
    file
}

pub fn append(folder: &Path) -> Floor {
    let file = File::create(folder.join("appended")).expect("a new file");
    let mut offset = 0;
    Floor::new("fdatasync, 4 KiB appended", &[1], move |_, time| {
        Round::of_one_caller(time, || {
            write_durably(&file, offset);
            offset += PAGE.len() as u64;
        })
    })
}

pub fn overwrite(folder: &Path) -> Floor {
    let file = preallocated(&folder.join("overwritten"), OVERWRITTEN_BYTES);
    let mut offset = 0;
    Floor::new("fdatasync, 4 KiB overwritten", &[1], move |_, time| {
        Round::of_one_caller(time, || {
            write_durably(&file, offset);
            offset = (offset + PAGE.len() as u64) % OVERWRITTEN_BYTES;
        })
    })
}

fn write_durably(file: &File, offset: u64) {
    file.write_all_at(&PAGE, offset).expect("space on the disk");
    // `fdatasync`, on Linux.
    file.sync_data().expect("a sync");
}
