//! Ways of being wrong that few runs would meet, each with the steps in which it shows.

use std::{
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
};

use super::{
    damage::{self, BLOCK, SEGMENT_BYTES},
    found,
    sabotage::{go_round, id, of_file, open, put, vat},
    vat::{self, DATA, Vat},
};
use crate::{
    Error,
    env::{
        Disk,
        sim::{Fault, Operation, SimDisk, Survival},
    },
    folder::Layout,
    journal::{Driver, JournalError, testing::Sabotage},
    storage::{Attached, Backing, Storage, leave_to_journal},
};

/// More pairs than SQLite keeps in memory.
const MANY: u32 = 140;

/// The check holds for a journal that is right, and for none of these.
#[track_caller]
fn is_caught(sabotages: &[Sabotage], is_right: impl Fn(Option<Sabotage>) -> bool) {
    assert!(is_right(None), "nothing is wrong");
    for sabotage in sabotages {
        assert!(!is_right(Some(*sabotage)), "nobody notices {sabotage:?}");
    }
}

fn start(disk: &SimDisk, sabotage: Option<Sabotage>) -> Result<Vat, JournalError> {
    Vat::start_wrong(disk, &vat::settings(SEGMENT_BYTES), sabotage)
}

/// Starts once more after a loss of power.
fn after(vat: Vat, survival: Survival, sabotage: Option<Sabotage>) -> Result<Vat, JournalError> {
    start(&vat.disk.after_crash(survival), sabotage)
}

/// Whether every one of so many pairs has been put with this byte.
fn has(storage: &Storage, pairs: u32, byte: u8) -> bool {
    let read = |n: u32| storage.kv().get_bytes(&n.to_string());
    (0..pairs).all(|n| read(n) == Ok(Some(vec![byte; 3000])))
}

/// Whether an object opens and has that.
fn finds(vat: &Vat, pairs: u32, byte: u8) -> bool {
    open(vat, 1).is_ok_and(|storage| has(&storage, pairs, byte))
}

fn is_segment(path: &Path) -> bool {
    path.extension().is_some_and(|it| it == "segment")
}

fn sync_of_segment(path: &Path, operation: Operation) -> bool {
    is_segment(path) && operation.is_sync()
}

/// A commit of an object is void, and all of its record is on the disk: the journal has said that it does not
/// count.
fn void_commit(sabotage: Option<Sabotage>) -> (Vat, Storage) {
    let vat = vat(sabotage);
    let storage = open(&vat, 1).unwrap();
    put(&storage, 1, 1).unwrap();
    let fault = Fault::io_error().when(sync_of_segment).times(2);
    vat.disk.fail(fault.leaving(Survival::Everything));
    put(&storage, 1, 2).unwrap();
    assert!(!vat.journal().is_down());
    (vat, storage)
}

#[test]
fn a_journal_that_is_damaged_is_refused_by_what_it_says_of_itself() {
    is_caught(&[Sabotage::CallNothingWritten], |sabotage| {
        let disk = damage::after_commits_of(sabotage, 5, 10);
        damage::damage(&disk, "0000.segment", 3 * BLOCK + 9);
        start(&disk, sabotage).is_err()
    });
    is_caught(&[Sabotage::MissNoSegment], |sabotage| {
        let disk = damage::after_commits_of(sabotage, 40, 10);
        disk.remove(&damage::path("0001.segment")).unwrap();
        disk.remove(&Layout::new(Path::new(DATA)).segments())
            .unwrap();
        start(&disk, sabotage).is_err()
    });
    is_caught(&[Sabotage::SkipRoster], |sabotage| {
        let disk = damage::after_commits_of(sabotage, 3, 10);
        disk.remove(&damage::path("0000.segment")).unwrap();
        start(&disk, sabotage).is_err()
    });
}

#[test]
fn the_pages_of_a_large_commit_are_there_for_as_long_as_a_record_names_them() {
    is_caught(&[Sabotage::SkipPagesSync], |sabotage| {
        let vat = vat(sabotage);
        put(&open(&vat, 1).unwrap(), 40, 1).unwrap();
        after(vat, Survival::Nothing, sabotage).is_ok_and(|vat| finds(&vat, 40, 1))
    });
    is_caught(&[Sabotage::RemoveVoidPages], |sabotage| {
        let vat = found::fail_large(sabotage);
        after(vat, Survival::Everything, sabotage).is_ok()
    });
    is_caught(&[Sabotage::RemovePagesEarly], |sabotage| {
        let vat = vat(sabotage);
        put(&open(&vat, 1).unwrap(), 40, 1).unwrap();
        // When they are removed, the segment whose record names them is free.
        vat.disk.crash_when(|path, operation| {
            path.extension().is_some_and(|it| it == "pages") && operation == Operation::Remove
        });
        let busy = open(&vat, 99).unwrap();
        let mut commits = 0..1000;
        while !vat.disk.has_crashed() && commits.next().is_some() {
            let _ = put(&busy, 1, vat.disk.operations() as u8);
        }
        drop(busy);
        let counts = |name: &str| {
            let bytes = vat.disk.read(damage::path(name)).unwrap();
            bytes[16] == 1
        };
        assert!(vat.disk.has_crashed());
        !counts("0000.segment")
    });
}

#[test]
fn what_is_void_counts_neither_in_this_life_nor_in_the_next() {
    is_caught(&[Sabotage::BelieveVoid], |sabotage| {
        let (vat, storage) = void_commit(sabotage);
        drop(storage);
        after(vat, Survival::Everything, sabotage).is_ok_and(|vat| finds(&vat, 1, 1))
    });
    is_caught(&[Sabotage::RetireVoid], |sabotage| {
        let (vat, storage) = void_commit(sabotage);
        drop(storage);
        let busy = open(&vat, 99).unwrap();
        let goes_on = (0..200).all(|n| put(&busy, 1, n).is_ok());
        goes_on && finds(&vat, 1, 1)
    });
    is_caught(&[Sabotage::ForgetVoid], |sabotage| {
        let (vat, storage) = void_commit(sabotage);
        put(&open(&vat, 2).unwrap(), 1, 1).unwrap();
        vat.journal().is_durable(storage.newest()).is_err()
    });
}

#[test]
fn what_the_next_life_may_find_is_not_said_to_be_undone() {
    is_caught(&[Sabotage::DenyDoubt], |sabotage| {
        let vat = vat(sabotage);
        let storage = open(&vat, 1).unwrap();
        put(&storage, 1, 1).unwrap();
        vat.disk
            .fail(Fault::io_error().when(|path, _| is_segment(path)));
        put(&storage, 1, 2).unwrap();
        let fate = vat.journal().is_durable(storage.newest());
        matches!(fate, Err(Error::OutcomeUnknown(_)))
    });
}

#[test]
fn nothing_is_taken_in_while_the_journal_cannot_be_written() {
    is_caught(&[Sabotage::TakeInWhileDown], |sabotage| {
        let vat = vat(sabotage);
        let (storage, other) = (open(&vat, 1).unwrap(), open(&vat, 2).unwrap());
        put(&other, 1, 2).unwrap();
        vat.disk
            .fail(Fault::io_error().when(|path, _| is_segment(path)));
        put(&storage, 1, 1).unwrap();
        assert!(vat.journal().is_down());
        put(&other, 1, 1).is_err()
    });
}

#[test]
fn a_recovery_frees_what_it_has_made_durable_and_the_oldest_first() {
    is_caught(&[Sabotage::FreeBeforeRecovered], |sabotage| {
        let vat = vat(sabotage);
        put(&open(&vat, 1).unwrap(), 1, 1).unwrap();
        let vat = after(vat, Survival::Nothing, sabotage).unwrap();
        after(vat, Survival::Nothing, sabotage).is_ok_and(|vat| finds(&vat, 1, 1))
    });
    is_caught(&[Sabotage::FreeNewestFirst], |sabotage| {
        let vat = vat(sabotage);
        let storage = open(&vat, 1).unwrap();
        put(&storage, 1, 1).unwrap();
        let busy = open(&vat, 99).unwrap();
        let mut commits = 0..200;
        while vat.journal().live_segments() == 1
            && let Some(n) = commits.next()
        {
            put(&busy, 1, n).unwrap();
        }
        put(&storage, 1, 2).unwrap();
        drop((storage, busy));
        let disk = vat.disk.after_crash(Survival::Nothing);
        drop(vat);
        let freed = AtomicU32::default();
        disk.crash_when(move |path, operation| {
            let is_header = is_segment(path) && operation == Operation::Write;
            is_header && freed.fetch_add(1, Ordering::Relaxed) == 1
        });
        let _ = start(&disk, sabotage);
        assert!(disk.has_crashed());
        let disk = disk.after_crash(Survival::Everything);
        start(&disk, sabotage).is_ok_and(|vat| finds(&vat, 1, 2))
    });
}

#[test]
fn positions_are_used_once_however_often_the_vat_stops() {
    is_caught(&[Sabotage::ForgetPosition], |sabotage| {
        let life = |disk: &SimDisk, byte| {
            let vat = start(disk, sabotage).unwrap();
            let storage = open(&vat, 1).unwrap();
            put(&storage, 1, byte).unwrap();
            let newest = storage.newest();
            storage.close().unwrap();
            vat.journal().stop().unwrap();
            newest
        };
        let disk = vat::new_disk();
        let lives = [life(&disk, 1), life(&disk, 2), life(&disk, 3)];
        lives.is_sorted_by(|one, next| one < next)
    });
}

#[test]
fn pages_stay_in_memory_until_the_file_has_them_and_nothing_older_is_needed() {
    is_caught(&[Sabotage::ForgetTooMuch], |sabotage| {
        let vat = vat(sabotage);
        let storage = open(&vat, 1).unwrap();
        put(&storage, MANY, 1).unwrap();
        vat.hold();
        put(&storage, MANY, 2).unwrap();
        vat.journal().write_back().unwrap();
        has(&storage, MANY, 2)
    });
    is_caught(&[Sabotage::ForgetOlder], |sabotage| {
        let vat = vat(sabotage);
        let storage = open(&vat, 1).unwrap();
        put(&storage, 1, 1).unwrap();
        vat.hold();
        put(&storage, 1, 2).unwrap();
        put(&storage, 1, 3).unwrap();
        vat.disk
            .fail(Fault::io_error().when(sync_of_segment).times(2));
        vat.release();
        drop(storage);
        finds(&vat, 1, 1)
    });
}

#[test]
fn a_file_is_as_long_as_its_database_and_gone_when_that_has_ended() {
    let length = |vat: &Vat| {
        let file = vat.disk.read(Layout::new(Path::new(DATA)).database(id(1)));
        file.map(|bytes| bytes.len())
    };
    is_caught(&[Sabotage::IgnoreCut], |sabotage| {
        let vat = vat(sabotage);
        let backing = Backing::open(&vat.vfs, id(1)).unwrap();
        let connection = backing.connect().unwrap();
        leave_to_journal(&connection).unwrap();
        let database = Attached::new(connection, backing);
        let run = |sql: &str| {
            database.execute_batch(sql).unwrap();
            let failures = database.backing.failures();
            database.backing.commit(failures).unwrap();
            vat.journal().write_back().unwrap();
            length(&vat)
        };
        let before = run("CREATE TABLE t (v BLOB); INSERT INTO t VALUES (zeroblob(100000))");
        run("DELETE FROM t; VACUUM") < before
    });
    is_caught(&[Sabotage::IgnoreEnd], |sabotage| {
        let vat = vat(sabotage);
        let storage = open(&vat, 1).unwrap();
        put(&storage, 1, 1).unwrap();
        storage.close().unwrap();
        drop(storage);
        vat.journal().write_back().unwrap();
        assert!(length(&vat).is_some());
        let backing = Backing::open(&vat.vfs, id(1)).unwrap();
        backing.delete(backing.failures()).unwrap();
        drop(backing);
        after(vat, Survival::Nothing, sabotage).is_ok_and(|vat| length(&vat).is_none())
    });
}

/// Pairs that take many pages are deleted, in one commit that is not durable when the power goes, or is.
#[test]
fn a_database_that_is_replaced_is_there_whole_as_it_was_or_as_it_is() {
    let replaced = |sabotage| {
        let vat = vat(sabotage);
        let storage = open(&vat, 1).unwrap();
        put(&storage, 60, 1).unwrap();
        // Only the file has them, and the journal has them no more.
        go_round(&vat);
        vat.hold();
        storage.enter_turn();
        storage.delete_all().unwrap();
        storage.kv().put_bytes("0", &[2; 3000]).unwrap();
        storage.commit_turn().unwrap();
        assert!(has(&storage, 1, 2) && storage.keys().len() == 1);
        (vat, storage)
    };
    for survival in [Survival::Nothing, Survival::Everything] {
        is_caught(&[Sabotage::CutBeforeJournal], |sabotage| {
            let (vat, storage) = replaced(sabotage);
            drop(storage);
            let before = after(vat, Survival::Everything, sabotage);
            before.is_ok_and(|vat| finds(&vat, 60, 1))
        });
        let (vat, storage) = replaced(None);
        vat.release();
        drop(storage);
        let vat = after(vat, survival, None).unwrap();
        assert!(finds(&vat, 1, 2) && open(&vat, 1).unwrap().keys().len() == 1);
    }
}

/// Of the pages that were there before, one is neither written nor cut off. No database of SQLite's shows
/// what is in it, so this writes as SQLite does.
#[test]
fn a_page_that_is_not_written_again_is_empty_when_its_database_is_replaced() {
    const PAGE: usize = 4096;
    is_caught(&[Sabotage::KeepReplaced], |sabotage| {
        let vat = vat(sabotage);
        let backing = Backing::open(&vat.vfs, id(1)).unwrap();
        let databases = vat.journal().databases();
        let database = databases.find(id(1)).unwrap();
        let write = |number: u64, byte: u8| {
            let offset = (number - 1) * PAGE as u64;
            database.write(databases, &[byte; PAGE], offset).unwrap();
        };
        let commit = || {
            database.sqlite_committed();
            backing.commit(backing.failures()).unwrap();
        };
        let bytes = |vat: &Vat| {
            let databases = vat.journal().databases();
            let database = databases.open(id(1)).unwrap();
            let mut pages = vec![0xAA; 5 * PAGE];
            let read = database.read(databases, &mut pages, 0).unwrap();
            databases.close(&database);
            pages.truncate(read);
            pages.into_iter().step_by(PAGE).collect::<Vec<_>>()
        };
        let found = || {
            let mut pages = vec![0xAA; 5 * PAGE];
            let read = database.read(databases, &mut pages, 0).unwrap();
            pages.truncate(read);
            pages.into_iter().step_by(PAGE).collect::<Vec<_>>()
        };
        (1..=4).for_each(|number| write(number, 1));
        commit();
        vat.journal().write_back().unwrap();
        database.replace();
        write(1, 2);
        write(3, 2);
        commit();
        let mut is_right = found() == [2, 0, 2];
        vat.journal().write_back().unwrap();
        is_right &= found() == [2, 0, 2];
        // A shorter one, which grows.
        database.replace();
        write(1, 3);
        commit();
        write(4, 4);
        commit();
        let expected = [3, 0, 0, 4];
        is_right &= found() == expected;
        drop((backing, database));
        let vat = after(vat, Survival::Nothing, sabotage).unwrap();
        is_right && bytes(&vat) == expected
    });
}

#[test]
fn a_file_that_could_not_be_written_gets_everything_in_its_order() {
    is_caught(&[Sabotage::TrustSuspect], |sabotage| {
        let vat = vat(sabotage);
        let storage = open(&vat, 1).unwrap();
        put(&storage, 1, 1).unwrap();
        vat.journal().write_back().unwrap();
        put(&storage, 1, 2).unwrap();
        let sync = Fault::io_error().when(of_file(1, Operation::is_sync));
        vat.disk.fail(sync.times(1).evicting());
        let _ = vat.journal().write_back();
        go_round(&vat);
        drop(storage);
        after(vat, Survival::Nothing, sabotage).is_ok_and(|vat| finds(&vat, 1, 2))
    });
    // What is held comes before what the journal still has of it.
    is_caught(&[], |sabotage| {
        let vat = vat(sabotage);
        let storage = open(&vat, 1).unwrap();
        let busy = open(&vat, 99).unwrap();
        // The file can never be written, but nobody tries before a segment is retired.
        vat.disk
            .fail(Fault::io_error().when(of_file(1, Operation::is_change)));
        let mut newest = 0;
        while put(&storage, 1, newest + 1).is_ok() {
            newest += 1;
            put(&busy, 1, newest).unwrap();
        }
        vat.disk.heal();
        vat.work();
        drop(storage);
        assert_eq!(vat.journal().quarantined(), []);
        finds(&vat, 1, newest)
    });
}

/// The retirer had looked at the segments, then the writer went on in another one.
#[test]
fn what_becomes_durable_while_everything_is_written_back_is_not_missed_in_a_segment_of_before() {
    is_caught(&[Sabotage::LookAgain], |sabotage| {
        let mut settings = vat::settings(SEGMENT_BYTES);
        settings.driver = Driver::Stepped;
        let vat = Vat::start_wrong(&vat::new_disk(), &settings, sabotage).unwrap();
        let storage = open(&vat, 1).unwrap();
        let mut rounds = 0..100;
        // At one of these the segment is full that was the last.
        rounds.all(|n| {
            put(&storage, 1, n).unwrap();
            vat.journal().step_writer_at_pauses(1);
            vat.journal().write_back().is_ok()
        })
    });
}

#[test]
fn a_file_that_another_process_has_locked_is_refused_until_it_is_not() {
    let vat = vat(None);
    let storage = open(&vat, 1).unwrap();
    put(&storage, 1, 1).unwrap();
    storage.close().unwrap();
    drop(storage);
    vat.journal().write_back().unwrap();
    vat.disk.fail(Fault::locked());
    let refused = open(&vat, 1).map(drop);
    assert!(
        matches!(&refused, Err(Error::StorageFailed(text)) if text.contains("another process")),
        "{refused:?}"
    );
    vat.disk.heal();
    assert!(finds(&vat, 1, 1));
}

#[test]
fn a_removal_that_is_interrupted_is_done_in_the_end_whether_it_was_or_not() {
    for survival in [Survival::Nothing, Survival::Everything] {
        let vat = vat(None);
        let storage = open(&vat, 1).unwrap();
        put(&storage, 1, 1).unwrap();
        storage.close().unwrap();
        drop(storage);
        vat.journal().write_back().unwrap();
        let backing = Backing::open(&vat.vfs, id(1)).unwrap();
        let end = backing.delete(backing.failures()).unwrap();
        vat.disk
            .fail(Fault::interrupted().times(1).leaving(survival));
        assert!(backing.forget(end).is_err());
        drop(backing);
        go_round(&vat);
        let storage = open(&vat, 1).unwrap();
        assert_eq!(storage.keys(), [""; 0]);
        put(&storage, 1, 2).unwrap();
        drop(storage);
        let vat = after(vat, Survival::Nothing, None).unwrap();
        assert!(finds(&vat, 1, 2));
    }
}
