//! Segments and records: how long they may be, and what they tell of vats, lives and times.

use std::{
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use vatwerk::ObjectId;

use super::{
    segment::{BLOCK, Header, Origin, Records, SegmentFile, State},
    testing::Control,
    *,
};
use crate::env::{
    Open,
    sim::{SimDisk, Survival},
};

const DATA: &str = "/data";

const ID: DatabaseId = DatabaseId {
    class: 1,
    object: ObjectId([7; ObjectId::LEN]),
};

fn new_disk() -> SimDisk {
    let layout = Layout::new(Path::new(DATA));
    let disk = SimDisk::new(layout.journal());
    disk.create_folder(&layout.objects()).unwrap();
    disk.sync_folder(layout.root()).unwrap();
    disk
}

fn start(disk: &SimDisk, now_ms: fn() -> u64) -> (Journal, Recovery) {
    let settings = Settings {
        driver: Driver::Caller,
        now_ms,
        ..Settings::default()
    };
    let layout = Layout::new(Path::new(DATA));
    let opened = Journal::open_held(
        Arc::new(disk.clone()),
        &layout,
        &settings,
        Control::default(),
    );
    opened.expect("the journal opens")
}

/// Commits the end of a database, which is what has no pages.
fn commit(journal: &Journal) {
    let database = journal.0.databases.recover(ID);
    let lsn = journal.delete(&database, journal.failures()).unwrap();
    assert!(journal.is_durable(lsn).unwrap());
}

/// The segment that is written, or was last.
fn newest(disk: &SimDisk) -> (SegmentFile, Header) {
    let paths = disk.files();
    let is_segment =
        |path: &&std::path::PathBuf| path.extension().is_some_and(|it| it == "segment");
    let segments = paths.iter().filter(is_segment).map(|path| {
        let file = disk.open(path, Open::Existing).unwrap();
        let path = path.clone();
        let segment = SegmentFile { path, file };
        let header = segment.read_header().unwrap();
        (segment, header.expect("it was used"))
    });
    segments
        .max_by_key(|(_, header)| header.sequence)
        .expect("there is a segment")
}

#[test]
fn times_of_records_never_go_back_whatever_the_clock_says() {
    static CLOCK: AtomicU64 = AtomicU64::new(0);
    fn now_ms() -> u64 {
        CLOCK.load(Ordering::Relaxed)
    }
    let at = |ms, journal: &Journal| {
        CLOCK.store(ms, Ordering::Relaxed);
        commit(journal);
    };
    let disk = new_disk();
    let (journal, recovery) = start(&disk, now_ms);
    assert_eq!(recovery.time_ms, 0, "there was nothing");
    for ms in [4000, 5000, 3000, 6000, 1] {
        at(ms, &journal);
    }
    let (segment, header) = newest(&disk);
    let State::Live { first, .. } = header.state else {
        panic!("it is written");
    };
    let mut bytes = Vec::new();
    segment.read(&mut bytes).unwrap();
    let times: Vec<_> = Records::new(&bytes, header.salt, first)
        .map(|record| record.time_ms())
        .collect();
    assert_eq!(times, [4000, 5000, 5000, 6000, 6000]);

    let disk = disk.after_crash(Survival::Everything);
    let (journal, recovery) = start(&disk, now_ms);
    assert_eq!((recovery.commits, recovery.time_ms), (5, 6000));
    at(2, &journal);
    assert_eq!(newest(&disk).1.time_ms, 6000);
    journal.stop().unwrap();
    let (_, recovery) = start(&disk, now_ms);
    assert_eq!((recovery.commits, recovery.time_ms), (0, 6000));
}

#[test]
fn segments_tell_which_vat_has_written_them_and_in_which_of_its_lives() {
    let origin = |disk: &SimDisk| {
        let (journal, _) = start(disk, || 1);
        commit(&journal);
        newest(disk).1.origin
    };
    let disk = new_disk();
    let first = origin(&disk);
    assert_eq!((first.timeline, first.epoch), (1, 1));
    assert_ne!(first.vat, [0; 16]);
    assert_eq!(origin(&disk), Origin { epoch: 2, ..first });
    let disk = disk.after_crash(Survival::Everything);
    assert_eq!(origin(&disk), Origin { epoch: 3, ..first });
    assert_ne!(origin(&new_disk()).vat, first.vat);
}

#[test]
fn segments_of_version_1_are_read() {
    let disk = new_disk();
    let (journal, _) = start(&disk, || 1);
    commit(&journal);
    let (segment, header) = newest(&disk);
    let mut bytes = [0; BLOCK];
    segment.file.read_at(&mut bytes, 0).unwrap();
    bytes[8..12].copy_from_slice(&1u32.to_le_bytes());
    bytes[64..128].fill(0);
    let checksum = crc32c::crc32c(&bytes[16..128]);
    bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
    segment.file.write_at(&bytes, 0).unwrap();
    let old = Header {
        origin: Origin::default(),
        time_ms: 0,
        ..header
    };
    assert_eq!(segment.read_header().unwrap(), Some(old));
    drop(journal);
    let (journal, recovery) = start(&disk, || 1);
    assert_eq!(recovery.commits, 1);
    commit(&journal);
    let origin = newest(&disk).1.origin;
    assert_eq!((origin.timeline, origin.epoch), (1, 1));
    assert_ne!(origin.vat, [0; 16]);
}

#[test]
fn the_largest_record_of_any_journal_has_a_length_of_32_bits() {
    for bytes in [0, 8 << 20, 256 << 20, 1 << 40, u64::MAX] {
        let settings = Settings {
            bytes,
            ..Settings::default()
        };
        let segment = Journal::segment_bytes(&settings);
        assert!(segment >= Journal::LEAST_SEGMENT_BYTES);
        assert!(segment / 4 + (1 << 20) < u64::from(u32::MAX), "{bytes}");
    }
}

#[test]
fn turns_are_held_back_while_many_large_commits_wait() {
    let (journal, _) = start(&new_disk(), || 1);
    let queue = &journal.0.queue;
    let promise = || queue.promise(Lsn(0), queue.failures()).unwrap();
    let promises: Vec<_> = (0..4).map(|_| promise()).collect();
    assert!(!queue.has_room());
    queue.break_promise(promises[1]);
    assert!(queue.has_room());
    let fates: Vec<_> = promises.iter().map(|it| queue.fate(*it)).collect();
    let pending = Fate::Pending;
    assert_eq!(fates, [pending, Fate::Void, pending, pending]);
    assert!(promise() > promises[3]);
    assert!(!queue.has_room());
}

#[test]
fn large_files_that_are_gone_are_closed_by_whoever_does_that() {
    let (journal, _) = start(&new_disk(), || 1);
    let (databases, folder) = (&journal.0.databases, Layout::new(Path::new(DATA)).journal());
    let streams = &databases.streams;
    let file = |bytes| {
        let file = databases.disk.scratch(&folder).unwrap();
        file.set_len(bytes).unwrap();
        file
    };
    let close = |file: Arc<dyn crate::env::DiskFile>| {
        let is_open = Arc::downgrade(&file);
        streams.free(file);
        is_open
    };
    assert!(
        close(file(1000)).upgrade().is_none(),
        "it is closed at once"
    );
    let large: Vec<_> = (0..300).map(|_| close(file(1 << 20))).collect();
    let open = || large.iter().filter(|file| file.upgrade().is_some()).count();
    assert_eq!(open(), 256, "they are bounded");
    assert!(streams.step(databases));
    assert_eq!(open(), 255);
    journal.work();
    assert_eq!(open(), 0);
    for (bytes, is_large) in [(1000, false), (1 << 20, true)] {
        let scratch = databases.scratch().unwrap();
        scratch.set_len(bytes).unwrap();
        drop(scratch);
        assert_eq!(streams.step(databases), is_large);
    }
}

/// Writes one page and commits it: a record that takes a block.
fn commit_block(journal: &Journal, class: u64, byte: u8) -> Lsn {
    let databases = &journal.0.databases;
    let database = databases.open(DatabaseId { class, ..ID }).unwrap();
    let mut page = [0; PAGE_BYTES];
    // With the headers of the record and of the page.
    page[..BLOCK - 96].fill(byte);
    database.write(databases, &page, 0).unwrap();
    database.sqlite_committed();
    let committed = journal.commit(&database, journal.failures());
    databases.close(&database);
    committed.unwrap().expect("it has a position")
}

#[test]
fn a_record_of_an_earlier_use_of_a_segment_is_not_taken_for_a_new_one() {
    for (sabotage, found) in [(None, 1), (Some(testing::Sabotage::KeepSalt), 2)] {
        let start = |disk: &SimDisk| {
            let control = Control {
                sabotage,
                ..Control::default()
            };
            let settings = Settings {
                driver: Driver::Caller,
                ..Settings::default()
            };
            let disk = Arc::new(disk.clone());
            let layout = Layout::new(Path::new(DATA));
            let opened = Journal::open_held(disk, &layout, &settings, control.clone());
            (opened.expect("the journal opens"), control.hold)
        };
        let disk = new_disk();
        let ((journal, _), hold) = start(&disk);
        // A batch of two, of which the first record is torn and the second whole.
        hold.hold();
        let torn = commit_block(&journal, 1, 1);
        let whole = commit_block(&journal, 2, 1);
        hold.release();
        journal.work();
        assert!(journal.is_durable(whole).unwrap());
        let (segment, _) = newest(&disk);
        segment.file.write_at(&[9], BLOCK as u64 + 500).unwrap();
        drop(journal);
        // The positions are used again, in the same segment.
        let ((journal, recovery), _) = start(&disk);
        assert_eq!(recovery.commits, 0);
        assert_eq!(commit_block(&journal, 1, 2), torn);
        drop(journal);
        let ((_, recovery), _) = start(&disk);
        assert_eq!(recovery.commits, found, "{sabotage:?}");
    }
}
