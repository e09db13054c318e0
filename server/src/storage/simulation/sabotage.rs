//! Every way of being wrong that the journal is taught makes runs fail: so they would notice.

use super::{
    failure::Check,
    run::{Met, Options, run},
};
use crate::journal::testing::Sabotage;

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

#[test]
fn a_torn_record_that_is_believed_makes_no_sense() {
    is_caught_by(Check::Recovery, Sabotage::AcceptTornTail);
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

#[test]
fn pages_of_a_commit_that_did_not_happen_are_found_if_they_are_kept() {
    is_caught(Check::Reading, Sabotage::KeepVoid, true);
}
