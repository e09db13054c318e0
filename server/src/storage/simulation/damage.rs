//! A journal that is not as it was written: what was acknowledged is never given up in silence.

use std::path::{Path, PathBuf};

use vatwerk::ObjectId;

use super::vat::{self, DATA, Vat};
use crate::{
    env::{
        Disk, Open,
        sim::{SimDisk, Survival},
    },
    folder::{DatabaseId, Layout},
    journal::{Damage, JournalError, testing::Sabotage},
    storage::{Settings, Storage},
};

pub const SEGMENT_BYTES: u64 = 64 << 10;
pub const BLOCK: u64 = 4096;

fn open(vat: &Vat) -> Storage {
    let id = DatabaseId {
        class: 1,
        object: ObjectId([7; ObjectId::LEN]),
    };
    Storage::open(&vat.vfs, id, &Settings::default()).expect("it opens")
}

fn after_commits(commits: usize, bytes: usize) -> SimDisk {
    after_commits_of(None, commits, bytes)
}

/// What is left of a vat that made so many commits, of one pair each, and lost power.
pub fn after_commits_of(sabotage: Option<Sabotage>, commits: usize, bytes: usize) -> SimDisk {
    let vat = Vat::start_wrong(&vat::new_disk(), &vat::settings(SEGMENT_BYTES), sabotage);
    let vat = vat.expect("the journal opens");
    let storage = open(&vat);
    for n in 0..commits {
        storage
            .kv()
            .put_bytes(&format!("{n:03}"), &vec![1; bytes])
            .expect("it is put");
    }
    vat.disk.after_crash(Survival::Nothing)
}

fn start(disk: &SimDisk) -> Result<Vat, JournalError> {
    Vat::start(disk, &vat::settings(SEGMENT_BYTES))
}

pub fn path(name: &str) -> PathBuf {
    Layout::new(Path::new(DATA)).journal().join(name)
}

/// Changes one byte.
pub fn damage(disk: &SimDisk, name: &str, offset: u64) {
    let file = disk.open(&path(name), Open::Existing).expect("it is there");
    let mut byte = [0];
    file.read_at(&mut byte, offset).expect("it is read");
    file.write_at(&[byte[0] ^ 4], offset)
        .expect("it is written");
    file.sync().expect("it is synced");
}

/// Why the vat does not start, and that it leaves everything as it is.
#[track_caller]
fn refused(disk: &SimDisk) -> JournalError {
    let content = |disk: &SimDisk| {
        let files = disk.files().into_iter();
        files
            .map(|path| (disk.read(&path), path))
            .collect::<Vec<_>>()
    };
    let (before, operations) = (content(disk), disk.operations());
    let Err(error) = start(disk) else {
        panic!("it starts")
    };
    assert!(content(disk) == before && disk.operations() == operations);
    error
}

#[track_caller]
fn damaged(disk: &SimDisk) -> Damage {
    match refused(disk) {
        JournalError::Damaged { damage, .. } => damage,
        other => panic!("{other}"),
    }
}

#[test]
fn a_damaged_record_that_a_later_one_calls_durable_is_refused() {
    for in_record in [0, 5, 9, 17, 100] {
        let disk = after_commits(5, 10);
        damage(&disk, "0000.segment", 3 * BLOCK + in_record);
        assert!(matches!(damaged(&disk), Damage::Record(_)), "{in_record}");
    }
}

#[test]
fn a_damaged_record_of_the_last_batch_is_cut_off() {
    let disk = after_commits(5, 10);
    damage(&disk, "0000.segment", 5 * BLOCK + 20);
    let vat = start(&disk).unwrap();
    assert_eq!(open(&vat).keys(), ["000", "001", "002", "003"]);
}

#[test]
fn a_damaged_record_at_the_end_of_a_full_segment_is_refused() {
    let disk = after_commits(16, 10);
    assert!(disk.read(path("0001.segment")).is_some());
    damage(&disk, "0000.segment", SEGMENT_BYTES - BLOCK + 20);
    assert!(matches!(damaged(&disk), Damage::Record(_)));
}

#[test]
fn a_segment_that_is_missing_between_others_is_refused() {
    for (name, sequence) in [("0001.segment", 2), ("0000.segment", 1)] {
        let disk = after_commits(40, 10);
        disk.remove(&path(name)).unwrap();
        let gone = refused(&disk);
        assert!(matches!(gone, JournalError::Gone { .. }), "{gone}");
        // Told by those that are left, too.
        disk.remove(&Layout::new(Path::new(DATA)).segments())
            .unwrap();
        assert_eq!(damaged(&disk), Damage::Missing { sequence });
    }
}

#[test]
fn a_segment_that_is_missing_at_the_end_is_refused_and_so_is_a_journal_of_none() {
    let disk = after_commits(40, 10);
    let segments = disk.files();
    let mut segments: Vec<_> = segments
        .into_iter()
        .filter(|path| path.extension().is_some_and(|it| it == "segment"))
        .collect();
    assert!(segments.len() > 1);
    while let Some(last) = segments.pop() {
        disk.remove(&last).unwrap();
        let gone = refused(&disk);
        assert!(matches!(gone, JournalError::Gone { .. }), "{gone}");
    }
}

#[test]
fn a_damaged_header_is_refused() {
    for offset in [0, 8, 13, 17, 21, 30, 40, 57, 70, 80, 90, 100] {
        let disk = after_commits(3, 10);
        damage(&disk, "0000.segment", offset);
        let error = refused(&disk);
        // A version that is another one is a later one.
        let newer = offset == 8 && matches!(error, JournalError::Newer { found: 7, .. });
        let damage = matches!(
            error,
            JournalError::Damaged {
                damage: Damage::Header,
                ..
            }
        );
        assert!(newer || damage, "{offset}: {error}");
    }
}

#[test]
fn damaged_or_missing_pages_of_a_large_commit_are_refused() {
    // The first commit is small, the second is not.
    let disk = after_commits(2, 40_000);
    damage(&disk, "0.pages", 20_000);
    assert!(matches!(damaged(&disk), Damage::Beside(_)));
    let disk = after_commits(2, 40_000);
    disk.remove(&path("0.pages")).unwrap();
    assert!(matches!(damaged(&disk), Damage::Beside(_)));
}
