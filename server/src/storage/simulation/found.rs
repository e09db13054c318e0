//! What runs have found, each told in as few steps as it takes.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use vatwerk::ObjectId;

use super::vat::{self, DATA, Vat};
use crate::{
    Error, Result,
    env::sim::{Fault, Operation, SimDisk, Survival},
    folder::{DatabaseId, Layout},
    journal::testing::Sabotage,
    storage::{Backing, Settings, Storage},
};

const ID: DatabaseId = DatabaseId {
    class: 1,
    object: ObjectId([7; ObjectId::LEN]),
};

fn start(disk: &SimDisk) -> Vat {
    Vat::start(disk, &vat::settings(64 << 10)).expect("the journal opens")
}

fn open(vat: &Vat) -> Result<Storage> {
    Storage::open(&vat.vfs, ID, &Settings::default())
}

/// Puts pairs of that many bytes in one commit.
fn put(storage: &Storage, prefix: &str, pairs: u32, bytes: usize) -> Result<()> {
    storage.enter_turn();
    let put = |n| {
        storage
            .kv()
            .put_bytes(&format!("{prefix}{n}"), &vec![1; bytes])
    };
    (0..pairs).try_for_each(put)?;
    storage.commit_turn().map(drop)
}

/// What is found after the power went.
fn after_crash(vat: Vat) -> Vec<String> {
    let disk = vat.disk.after_crash(Survival::Everything);
    drop(vat);
    let vat = start(&disk);
    let storage = open(&vat).expect("it opens");
    let keys = storage.keys();
    storage.close().expect("it closes");
    keys
}

#[test]
fn a_database_whose_end_nobody_waited_for_ends_before_it_is_used_again() {
    let vat = start(&vat::new_disk());
    let storage = open(&vat).unwrap();
    put(&storage, "before", 40, 1000).unwrap();
    storage.close().unwrap();
    vat.hold();
    let backing = Backing::open(&vat.vfs, ID).unwrap();
    backing.delete(backing.failures()).unwrap();
    drop(backing);
    assert!(matches!(open(&vat), Err(Error::StorageFailed(_))));
    vat.release();
    let storage = open(&vat).unwrap();
    assert_eq!(storage.keys(), [""; 0]);
    put(&storage, "after", 1, 10).unwrap();
    drop(storage);
    assert_eq!(after_crash(vat), ["after0"]);
}

#[test]
fn what_the_journal_could_not_take_never_gets_into_the_file() {
    let vat = start(&vat::new_disk());
    let storage = open(&vat).unwrap();
    put(&storage, "kept", 1, 10).unwrap();
    let pages = |path: &Path, _| path.to_string_lossy().ends_with(".pages");
    vat.disk.fail(Fault::no_space().when(pages));
    let large = put(&storage, "lost", 40, 4000);
    assert!(matches!(large, Err(Error::StorageFailed(_))));
    vat.disk.heal();
    storage.close().unwrap();
    let storage = open(&vat).unwrap();
    assert_eq!(storage.keys(), ["kept0"]);
    drop(storage);
    assert_eq!(after_crash(vat), ["kept0"]);
}

#[test]
fn nothing_is_built_on_a_commit_that_did_not_happen() {
    let vat = start(&vat::new_disk());
    let storage = open(&vat).unwrap();
    put(&storage, "kept", 1, 10).unwrap();
    // The batch fails where it is tried and where it is tried again; then the disk works.
    let syncs = |_: &Path, operation| operation == Operation::Sync;
    vat.disk.fail(Fault::io_error().when(syncs).times(2));
    put(&storage, "void", 1, 10).unwrap();
    assert!(vat.journal().is_durable(storage.newest()).is_err());
    assert!(!vat.journal().is_down());
    let built_on_it = put(&storage, "after", 1, 10);
    assert!(matches!(built_on_it, Err(Error::StorageFailed(_))));
    drop(storage);
    let storage = open(&vat).unwrap();
    put(&storage, "later", 1, 10).unwrap();
    drop(storage);
    assert_eq!(after_crash(vat), ["kept0", "later0"]);
}

/// A vat in which a large commit of 40 pairs has failed, after one of another pair. The next life may find it.
pub fn fail_large(sabotage: Option<Sabotage>) -> Vat {
    let segment = |path: &Path| path.to_string_lossy().ends_with(".segment");
    let vat = Vat::start_wrong(&vat::new_disk(), &vat::settings(64 << 10), sabotage);
    let vat = vat.expect("the journal opens");
    let storage = open(&vat).unwrap();
    put(&storage, "kept", 1, 10).unwrap();
    // Its record is on the disk, but nobody knows, and there is no other segment to be had.
    let sync = move |path: &Path, operation| segment(path) && operation == Operation::Sync;
    let fault = Fault::io_error().when(sync).times(1);
    vat.disk.fail(fault.leaving(Survival::Everything));
    let create = move |path: &Path, operation| segment(path) && operation == Operation::Create;
    vat.disk.fail(Fault::no_space().when(create));
    put(&storage, "large", 40, 4000).unwrap();
    assert!(vat.journal().is_durable(storage.newest()).is_err());
    drop(storage);
    vat
}

#[test]
fn the_pages_of_a_large_commit_stay_until_the_journal_says_that_it_did_not_happen() {
    assert_eq!(after_crash(fail_large(None)).len(), 41, "all of it");
    let vat = fail_large(None);
    vat.disk.heal();
    assert_eq!(open(&vat).unwrap().keys(), ["kept0"]);
    let files = vat.disk.files();
    let is_left = |file: &std::path::PathBuf| file.to_string_lossy().ends_with(".pages");
    assert!(!files.iter().any(is_left), "{files:?}");
    assert_eq!(after_crash(vat), ["kept0"]);
}

#[test]
fn what_a_failed_sync_may_have_lost_is_written_again() {
    for which in [Operation::Sync, Operation::SyncAll] {
        let vat = start(&vat::new_disk());
        // With few, each file is synced by itself.
        let others = if which == Operation::SyncAll { 8 } else { 0 };
        let id = |class| DatabaseId { class, ..ID };
        let open = |class| Storage::open(&vat.vfs, id(class), &Settings::default()).unwrap();
        let others: Vec<_> = (2..2 + others).map(open).collect();
        let storage = open(1);
        put(&storage, "a", 1, 10).unwrap();
        others
            .iter()
            .for_each(|other| put(other, "a", 1, 10).unwrap());
        // The files are there, and only what is in them may get lost.
        vat.journal().write_back().unwrap();
        put(&storage, "b", 1, 10).unwrap();
        others
            .iter()
            .for_each(|other| put(other, "b", 1, 10).unwrap());
        let of_files = move |path: &Path, operation| {
            let is_segment = path.extension().is_some_and(|name| name == "segment");
            operation == which && !is_segment
        };
        vat.disk
            .fail(Fault::io_error().when(of_files).times(1).evicting());
        // It is written and synced again, each file by itself if need be.
        let _ = vat.journal().write_back();
        put(&storage, "c", 1, 10).unwrap();
        assert_eq!(storage.keys(), ["a0", "b0", "c0"]);
        // Until all of it is in the file, and gone from the journal.
        vat.journal().stop().unwrap();
        assert_eq!(storage.keys(), ["a0", "b0", "c0"]);
        drop((storage, others));
        let disk = vat.disk.after_crash(Survival::Nothing);
        drop(vat);
        assert_eq!(super::found::open(&start(&disk)).unwrap().keys().len(), 3);
    }
}

#[test]
fn the_pages_of_large_commits_are_bounded_with_the_journal() {
    let vat = start(&vat::new_disk());
    let storage = open(&vat).unwrap();
    let mut most = 0;
    for _ in 0..100 {
        put(&storage, "large", 40, 1000).unwrap();
        let files = vat.disk.files();
        let beside = files
            .iter()
            .filter(|path| path.extension().is_some_and(|name| name == "pages"));
        most = most.max(beside.count());
    }
    // Some 50 KiB each, and eight segments of 64 KiB.
    assert!((1..=20).contains(&most), "{most}");
}

#[test]
fn a_file_that_may_have_lost_what_was_synced_gets_nothing_before_it_is_written_again() {
    let vat = start(&vat::new_disk());
    let storage = open(&vat).unwrap();
    let struck = Arc::new(AtomicU64::default());
    let strikes = struck.clone();
    let file = move |path: &Path, operation| {
        let strikes_now =
            operation == Operation::Sync && path.extension().is_some_and(|name| name == "sqlite");
        strikes_now && strikes.fetch_add(1, Ordering::Relaxed) % 2 == 0
    };
    vat.disk.fail(Fault::io_error().when(file).evicting());
    let mut keys = 0;
    // Segments go round, and one sync in two fails.
    while struck.load(Ordering::Relaxed) < 6 {
        put(&storage, &format!("{keys:03}-"), 1, 3000).unwrap();
        keys += 1;
        assert!(keys < 1000, "the sync fails");
    }
    drop(storage);
    let disk = vat.disk.after_crash(Survival::Nothing);
    drop(vat);
    assert_eq!(open(&start(&disk)).unwrap().keys().len(), keys);
}

/// Has another database write more than the journal has room for.
fn go_round(vat: &Vat) {
    let busy = DatabaseId { class: 2, ..ID };
    let busy = Storage::open(&vat.vfs, busy, &Settings::default()).unwrap();
    for n in 0..200 {
        put(&busy, &format!("{n:03}-"), 1, 3000).unwrap();
    }
}

#[test]
fn a_file_of_which_the_journal_tells_nothing_more_is_not_suspect_for_ever() {
    let vat = start(&vat::new_disk());
    let storage = open(&vat).unwrap();
    put(&storage, "before", 1, 10).unwrap();
    storage.close().unwrap();
    drop(storage);
    let backing = Backing::open(&vat.vfs, ID).unwrap();
    let end = backing.delete(backing.failures()).unwrap();
    // Until nothing is left in the journal of what it said of the database.
    go_round(&vat);
    backing.forget(end).unwrap();
    drop(backing);
    let root =
        |path: &Path, operation| operation == Operation::SyncFolder && path == Path::new(DATA);
    vat.disk.fail(Fault::io_error().when(root).times(1));
    go_round(&vat);
    let storage = open(&vat).unwrap();
    put(&storage, "later", 1, 10).unwrap();
    assert_eq!(storage.keys(), ["later0"]);
}

#[test]
fn a_database_that_has_ended_does_not_come_back_when_a_recovery_writes_once_more() {
    let vat = start(&vat::new_disk());
    let storage = open(&vat).unwrap();
    put(&storage, "before", 10, 1000).unwrap();
    storage.close().unwrap();
    drop(storage);
    // The end is in another segment than the pages.
    let busy = DatabaseId { class: 2, ..ID };
    let busy = Storage::open(&vat.vfs, busy, &Settings::default()).unwrap();
    put(&busy, "busy", 15, 3000).unwrap();
    put(&busy, "busier", 15, 3000).unwrap();
    assert!(vat.journal().live_segments() > 1);
    let backing = Backing::open(&vat.vfs, ID).unwrap();
    backing.delete(backing.failures()).unwrap();
    drop((backing, busy));
    let disk = vat.disk.after_crash(Survival::Everything);
    drop(vat);
    let root =
        |path: &Path, operation| operation == Operation::SyncFolder && path == Path::new(DATA);
    disk.fail(Fault::io_error().when(root).times(1));
    let vat = start(&disk);
    assert_eq!(disk.read(Layout::new(Path::new(DATA)).database(ID)), None);
    assert_eq!(open(&vat).unwrap().keys(), [""; 0]);
}

#[test]
fn a_file_that_is_gone_is_not_an_empty_database() {
    let vat = start(&vat::new_disk());
    let storage = open(&vat).unwrap();
    put(&storage, "kept", 1, 10).unwrap();
    vat.journal().write_back().unwrap();
    // Of this the first page is no part.
    put(&storage, "more", 1, 10).unwrap();
    storage.close().unwrap();
    drop(storage);
    let path = Layout::new(Path::new(DATA)).database(ID);
    crate::env::Disk::remove(&vat.disk, &path).unwrap();
    let opened = open(&vat).and_then(|storage| put(&storage, "new", 1, 10));
    assert!(matches!(opened, Err(Error::StorageFailed(_))), "{opened:?}");
}

#[test]
fn the_error_of_a_file_is_told_though_it_is_closed_before_it_is_synced() {
    // Objects that sleep; objects that are awake, of which few files are open at a time; and more of them than
    // may be open without being synced.
    for (objects, is_asleep) in [(1, true), (3, true), (3, false), (20, true), (20, false)] {
        let vat = start(&vat::new_disk());
        let open = |vat: &Vat, class| {
            let id = DatabaseId { class, ..ID };
            Storage::open(&vat.vfs, id, &Settings::default()).unwrap()
        };
        let mut awake: Vec<_> = (1..=objects).map(|class| open(&vat, class)).collect();
        for round in ["a", "b"] {
            for storage in &awake {
                put(storage, round, 1, 10).unwrap();
            }
            if is_asleep {
                awake.iter().for_each(|storage| storage.close().unwrap());
            }
            let closed = |_: &Path, operation| operation == Operation::WriteBack;
            vat.disk.fail(Fault::io_error().when(closed));
            // The file is there, and is written a second time.
            vat.journal().write_back().unwrap();
            if is_asleep {
                awake = (1..=objects).map(|class| open(&vat, class)).collect();
            }
        }
        vat.journal().stop().unwrap();
        drop(awake);
        let disk = vat.disk.after_crash(Survival::Nothing);
        drop(vat);
        let vat = start(&disk);
        for class in 1..=objects {
            assert_eq!(open(&vat, class).keys(), ["a0", "b0"], "{objects}");
        }
    }
}

#[test]
fn a_recovery_closes_no_file_before_it_is_synced() {
    // Few files are synced each, and of many some while others are still to be written.
    for (objects, fails) in [(2, Operation::WriteBack), (40, Operation::SyncAll)] {
        let vat = start(&vat::new_disk());
        let open = |vat: &Vat, class| {
            let id = DatabaseId { class, ..ID };
            Storage::open(&vat.vfs, id, &Settings::default()).unwrap()
        };
        for round in ["a", "b"] {
            // Only what is in the files may get lost, not their names.
            vat.journal().write_back().unwrap();
            for class in 1..=objects {
                put(&open(&vat, class), round, 1, 10).unwrap();
            }
        }
        let disk = vat.disk.after_crash(Survival::Nothing);
        let fault = Fault::io_error().when(move |_, operation| operation == fails);
        disk.fail(fault.times(1).evicting());
        drop(start(&disk));
        let vat = start(&disk.after_crash(Survival::Nothing));
        for class in 1..=objects {
            assert_eq!(open(&vat, class).keys(), ["a0", "b0"], "{fails:?}");
        }
    }
}
