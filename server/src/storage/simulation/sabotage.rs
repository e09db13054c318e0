//! Every way of being wrong that the journal is taught makes runs fail: so they would notice.

use std::path::Path;

use vatwerk::ObjectId;

use super::{
    failure::Check,
    run::{Met, Options, run},
    vat::{self, Vat},
};
use crate::{
    env::sim::{Operation, SimDisk, Survival},
    folder::DatabaseId,
    journal::testing::Sabotage,
    storage::{Settings, Storage},
};

/// Runs until this check has caught the journal.
#[track_caller]
fn is_caught_by(check: Check, sabotage: Sabotage) {
    /// Far more than it takes.
    const SEEDS: u64 = 400;
    let options = Options {
        sabotage: Some(sabotage),
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
    let settings = vat::settings(64 << 10);
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
