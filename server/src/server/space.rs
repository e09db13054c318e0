//! Whether there is room on the disk for a vat to start.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::{folder::Layout, health::free_bytes};

/// The room beside the journal that a start needs, in bytes: the catalog, and folders.
const BESIDE: u64 = 1 << 20;

/// The disk is full.
#[derive(Debug, thiserror::Error)]
#[error(
    "the disk is full: {} needs {needed} bytes, and {free} are free. Make room, or lower \
     `limits.journal_bytes`: a start needs room for an eighth of the journal", path.display()
)]
pub struct NoSpace {
    /// The folder.
    pub path: PathBuf,
    /// The room that it needs, in bytes.
    pub needed: u64,
    /// The room that is left, in bytes.
    pub free: u64,
}

/// Refuses a start for which there is no room: unless the journal has a segment, it makes one of
/// `segment_bytes`.
pub(super) fn check(data: &Path, segment_bytes: u64) -> Result<(), NoSpace> {
    let journal = Layout::new(data).journal();
    let needed = if has_segment(&journal, segment_bytes) {
        0
    } else {
        segment_bytes + BESIDE
    };
    // What cannot be looked at is told by whoever uses it.
    let there = journal.ancestors().find(|path| path.exists());
    let free = free_bytes(there.unwrap_or(Path::new(".")));
    match free {
        Ok(free) if free < needed => Err(NoSpace {
            path: journal,
            needed,
            free,
        }),
        _ => Ok(()),
    }
}

fn has_segment(journal: &Path, bytes: u64) -> bool {
    let whole = |entry: io::Result<fs::DirEntry>| {
        let entry = entry.ok()?;
        let is_segment = entry.path().extension()? == "segment";
        Some(is_segment && entry.metadata().ok()?.len() >= bytes)
    };
    let mut entries = fs::read_dir(journal).into_iter().flatten();
    entries.any(|entry| whole(entry) == Some(true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_that_has_a_segment_needs_no_room_and_another_says_how_much() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("a/data");
        check(&data, 1).unwrap();
        let most = u64::MAX / 2;
        let refused = check(&data, most).unwrap_err();
        assert_eq!(refused.needed, most + BESIDE);
        let told = refused.to_string();
        let journal = data.join("journal").display().to_string();
        assert!(told.contains(&journal), "{told}");
        assert!(told.contains("bytes, and "), "{told}");
        fs::create_dir_all(data.join("journal")).unwrap();
        let segment = data.join("journal/0000.segment");
        fs::File::create(&segment).unwrap().set_len(5).unwrap();
        check(&data, 5).unwrap();
        check(&data, most).unwrap_err();
    }
}
