//! Every way of being wrong that the journal is taught makes runs fail: so they would notice.

use std::path::Path;

use vatwerk::ObjectId;

use super::{
    failure::Check,
    run::{Met, Options, run},
    vat::{self, DATA, Vat},
};
use crate::{
    env::sim::{Fault, Operation, SimDisk, Survival},
    folder::{DatabaseId, Layout},
    journal::testing::Sabotage,
    storage::{Settings, Storage},
};

/// Runs until this check has caught the journal.
#[track_caller]
fn is_caught_by(check: Check, sabotage: Sabotage) {
    is_caught(check, sabotage, false);
}

#[track_caller]
fn is_caught(check: Check, sabotage: Sabotage, faults: bool) {
    /// Far more than it takes.
    const SEEDS: u64 = 400;
    let options = Options {
        sabotage: Some(sabotage),
        faults,
        ..Options::default()
    };
    let caught = |seed| {
        let failure = run(seed, options, &mut Met::default()).err()?;
        println!("{sabotage:?}: seed {seed}: {:?}", failure.check);
        (failure.check == check).then_some(seed)
    };
    let caught = (0..SEEDS).find_map(caught);
    assert!(caught.is_some(), "no run notices {sabotage:?} by {check:?}");
}

#[test]
fn commits_that_are_called_durable_before_the_sync_get_lost() {
    is_caught_by(Check::Lost, Sabotage::PublishBeforeSync);
}

/// Few crashes come in the middle of a write of the journal, so these are sought out.
#[test]
fn a_torn_record_that_is_believed_is_noticed() {
    const PAIR: usize = 20_000;
    // So large that the pair fits into a record, of many sectors.
    let settings = vat::settings(256 << 10);
    let id = DatabaseId {
        class: 1,
        object: ObjectId([7; ObjectId::LEN]),
    };
    let put = |vat: &Vat, byte| {
        let storage = Storage::open(&vat.vfs, id, &Settings::default())?;
        storage.enter_turn();
        storage.kv().put_bytes("k", &[byte; PAIR])?;
        storage.commit_turn().map(drop)
    };
    // Whether a start finds what was there before the crash, or after it, whole.
    let is_whole = |disk: &SimDisk, sabotage| {
        let Ok(vat) = Vat::start_wrong(disk, &settings, sabotage) else {
            return false;
        };
        let storage = Storage::open(&vat.vfs, id, &Settings::default());
        let found = storage.and_then(|storage| storage.kv().get_bytes("k"));
        [1, 2]
            .map(|byte| Ok(Some(vec![byte; PAIR])))
            .contains(&found)
    };
    let mut caught = 0;
    for seed in 0..40 {
        let crash = || {
            let disk = vat::new_disk();
            let vat = Vat::start(&disk, &settings).expect("it starts");
            put(&vat, 1).expect("it is written");
            let write = |path: &Path, operation| {
                operation == Operation::Write && path.extension().is_some_and(|it| it == "segment")
            };
            disk.crash_when(write);
            let _ = put(&vat, 2);
            assert!(disk.has_crashed());
            disk.after_crash(Survival::Seeded(seed))
        };
        assert!(is_whole(&crash(), None), "seed {seed}");
        caught += u32::from(!is_whole(&crash(), Some(Sabotage::AcceptTornTail)));
    }
    assert!(caught > 0, "no start notices");
}

#[test]
fn a_file_that_is_ahead_of_the_journal_has_what_never_happened() {
    is_caught_by(Check::Order, Sabotage::FileBeforeJournal);
}

#[test]
fn a_segment_that_is_used_again_too_early_takes_commits_with_it() {
    is_caught_by(Check::Lost, Sabotage::FreeBeforeSync);
}

#[test]
fn pages_that_were_rolled_back_come_back_if_they_are_journaled() {
    is_caught_by(Check::NoCommit, Sabotage::KeepRolledBack);
}

#[test]
fn a_page_that_is_missing_of_a_large_commit_damages_a_database() {
    is_caught_by(Check::NoCommit, Sabotage::OmitSpilledPage);
}

#[test]
fn an_object_that_a_recovery_skips_is_as_it_was() {
    is_caught_by(Check::Lost, Sabotage::SkipObject);
}

pub fn id(n: u8) -> DatabaseId {
    DatabaseId {
        class: 1,
        object: ObjectId([n; ObjectId::LEN]),
    }
}

pub fn open(vat: &Vat, n: u8) -> crate::Result<Storage> {
    Storage::open(&vat.vfs, id(n), &Settings::default())
}

pub fn put(storage: &Storage, pairs: u32, byte: u8) -> crate::Result<()> {
    storage.enter_turn();
    (0..pairs).try_for_each(|n| storage.kv().put_bytes(&n.to_string(), &[byte; 3000]))?;
    storage.commit_turn().map(drop)
}

/// Commits of another database, until the segments have gone round several times.
pub fn go_round(vat: &Vat) {
    let busy = open(vat, 99).expect("it opens");
    for n in 0..200 {
        put(&busy, 1, n).expect("it is written");
    }
}

pub fn vat(sabotage: Option<Sabotage>) -> Vat {
    Vat::start_wrong(&vat::new_disk(), &vat::settings(64 << 10), sabotage).expect("it starts")
}

/// Operations on the file of one database.
pub fn of_file(n: u8, is_meant: fn(Operation) -> bool) -> impl Fn(&Path, Operation) -> bool + Send {
    let path = Layout::new(Path::new(DATA)).database(id(n));
    move |at, operation| at == path && is_meant(operation)
}

#[test]
fn a_commit_does_not_outlive_what_others_committed_since_its_turn_began() {
    let wrong = [Sabotage::OutliveVoid, Sabotage::CountNoFailures];
    let wrong = wrong.map(|sabotage| (Some(sabotage), true));
    for (sabotage, outlives) in [(None, false)].into_iter().chain(wrong) {
        let vat = vat(sabotage);
        let (first, second) = (open(&vat, 1).unwrap(), open(&vat, 2).unwrap());
        put(&first, 1, 1).unwrap();
        second.enter_turn();
        second.kv().put_bytes("k", &[1]).unwrap();
        let sync = |path: &Path, operation: Operation| {
            operation.is_sync() && path.extension().is_some_and(|it| it == "segment")
        };
        vat.disk.fail(Fault::io_error().when(sync).times(2));
        put(&first, 1, 2).unwrap();
        assert!(vat.journal().is_durable(first.newest()).is_err());
        assert_eq!(second.commit_turn().is_ok(), outlives);
    }
}

#[test]
fn what_a_failed_sync_may_have_lost_is_not_read_from_the_file() {
    /// More than SQLite keeps in memory.
    const PAIRS: u32 = 140;
    let wrong = [Sabotage::ForgetUnsynced, Sabotage::ForgetApplied];
    let wrong = wrong.map(|sabotage| (Some(sabotage), true));
    for (sabotage, reads_old) in [(None, false)].into_iter().chain(wrong) {
        let vat = vat(sabotage);
        let storage = open(&vat, 1).unwrap();
        put(&storage, PAIRS, 1).unwrap();
        vat.journal().write_back().unwrap();
        put(&storage, PAIRS, 2).unwrap();
        let fault = Fault::io_error().when(of_file(1, Operation::is_sync));
        vat.disk.fail(fault.evicting());
        let _ = vat.journal().write_back();
        let read = |n: u32| storage.kv().get_bytes(&n.to_string());
        let found: Vec<_> = (0..PAIRS).map(|n| read(n).unwrap().unwrap()).collect();
        assert_eq!(found.contains(&vec![1; 3000]), reads_old);
        assert_eq!(found == vec![vec![2; 3000]; PAIRS as usize], !reads_old);
        drop(storage);
        vat.disk.heal();
        let storage = open(&vat, 1).unwrap();
        let new = Some(vec![2; 3000]);
        assert!((0..PAIRS).all(|n| storage.kv().get_bytes(&n.to_string()).unwrap() == new));
    }
}

#[test]
fn pages_of_a_commit_that_did_not_happen_are_found_if_they_are_kept() {
    is_caught(Check::Reading, Sabotage::KeepVoid, true);
}

#[test]
fn what_is_held_of_a_file_that_cannot_be_written_is_there_after_a_crash() {
    let sabotages = [None, Some(Sabotage::DropHeld), Some(Sabotage::ForgetHeld)];
    for sabotage in sabotages {
        let vat = vat(sabotage);
        let storage = open(&vat, 1).unwrap();
        put(&storage, 20, 1).unwrap();
        vat.journal().write_back().unwrap();
        go_round(&vat);
        vat.disk
            .fail(Fault::io_error().when(of_file(1, Operation::is_change)));
        put(&storage, 40, 2).unwrap();
        go_round(&vat);
        assert!(put(&storage, 1, 3).is_err(), "it is in quarantine");
        drop(storage);
        let disk = vat.disk.after_crash(Survival::Nothing);
        drop(vat);
        let vat = Vat::start_wrong(&disk, &vat::settings(64 << 10), sabotage);
        let found = vat.is_ok_and(|vat| {
            open(&vat, 1).is_ok_and(|storage| {
                let read = |n: u32| storage.kv().get_bytes(&n.to_string());
                (0..40).all(|n| read(n) == Ok(Some(vec![2; 3000])))
            })
        });
        assert_eq!(found, sabotage.is_none(), "{sabotage:?}");
    }
}
