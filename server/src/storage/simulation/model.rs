//! What the databases should hold: every state that a crash may leave.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::failure::{Check, Failure};
use crate::{
    Error,
    journal::{Journal, Lsn},
};

/// What a database holds, with the checksum of each value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    pub pairs: BTreeMap<String, u32>,
    pub tables: BTreeMap<String, BTreeMap<i64, u32>>,
    pub indexes: BTreeSet<String>,
}

/// What is known of a commit that is not durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Pending,
    /// It does not happen in this life of the vat. Only once the journal can be written again does it say so on
    /// the disk.
    Void,
}

#[derive(Debug)]
struct Commit {
    lsn: Lsn,
    state: State,
    fate: Fate,
}

/// The commits of one database.
#[derive(Default)]
pub struct History {
    /// The newest that is durable, and the state after it.
    durable: (Lsn, State),
    later: Vec<Commit>,
    /// Some of the states before.
    past: VecDeque<State>,
}

impl History {
    pub fn commit(&mut self, lsn: Lsn, state: State) -> Result<(), Failure> {
        let before = self.position();
        if lsn <= before {
            return Err(Failure::new(
                Check::Position,
                format!("{lsn} came after {before}"),
            ));
        }
        let fate = Fate::Pending;
        self.later.push(Commit { lsn, state, fate });
        Ok(())
    }

    /// The state that whoever opens the database finds.
    pub fn newest(&self) -> &State {
        let happened = |commit: &&Commit| commit.fate != Fate::Void;
        let newest = self.later.iter().rfind(happened);
        newest.map_or(&self.durable.1, |commit| &commit.state)
    }

    /// The newest commit.
    pub fn position(&self) -> Lsn {
        self.later
            .last()
            .map_or(self.durable.0, |commit| commit.lsn)
    }

    /// Asks the journal what became of the commits. Whether one of them is void.
    pub fn observe(&mut self, journal: &Journal) -> bool {
        let mut certain = Vec::new();
        for commit in &mut self.later {
            match journal.is_durable(commit.lsn) {
                Ok(false) => {}
                Ok(true) => {
                    let durable = (commit.lsn, commit.state.clone());
                    let before = std::mem::replace(&mut self.durable, durable);
                    self.past.push_back(before.1);
                }
                // It is on no disk, or the journal says there that it does not count.
                Err(Error::StorageFailed(_)) => certain.push(commit.lsn),
                Err(_) => commit.fate = Fate::Void,
            }
        }
        self.past.drain(..self.past.len().saturating_sub(64));
        let durable = self.durable.0;
        self.later.retain(|commit| commit.lsn > durable);
        let has_void = self.later.iter().any(|commit| commit.fate == Fate::Void);
        self.later.retain(|commit| !certain.contains(&commit.lsn));
        has_void || !certain.is_empty()
    }

    /// The state after the newest commit that is not later than `newest`; of those that are void,
    /// only the ones from `void_from` on count, or none.
    fn at(&self, newest: Lsn, void_from: Option<Lsn>) -> &State {
        let counts = |commit: &&Commit| {
            let happened = commit.fate != Fate::Void;
            commit.lsn <= newest && (happened || void_from.is_some_and(|from| commit.lsn >= from))
        };
        let last = self.later.iter().rfind(counts);
        last.map_or(&self.durable.1, |commit| &commit.state)
    }

    /// What is wrong with a state that was found after a crash, looking at this database only.
    fn judge(&self, found: &State) -> Option<Check> {
        let mut states = self.later.iter().map(|commit| &commit.state);
        if *found == self.durable.1 || states.any(|state| state == found) {
            return None;
        }
        Some(if self.past.contains(found) {
            Check::Lost
        } else {
            Check::NoCommit
        })
    }

    /// A new life starts from what was found.
    pub fn restart(&mut self, found: State) {
        // The positions of commits that are lost are used again.
        self.later.clear();
        let before = std::mem::replace(&mut self.durable.1, found);
        self.past.push_back(before);
    }
}

/// Compares what was found after a crash with what there may be: each database as after one of its
/// commits, the newest durable one or a later one; and all of them together as at one position of the
/// journal.
pub fn judge(histories: &[&History], found: &[State]) -> Result<(), Failure> {
    for (number, (history, found)) in histories.iter().zip(found).enumerate() {
        if let Some(check) = history.judge(found) {
            let text = format!(
                "database {number} has {found:?}; durable was {:?}, later came {:?}",
                history.durable, history.later
            );
            return Err(Failure::new(check, text));
        }
    }
    let later = || histories.iter().flat_map(|history| &history.later);
    let ends: BTreeSet<_> = later()
        .map(|commit| commit.lsn)
        .chain([Lsn::default()])
        .collect();
    let void = later().filter(|commit| commit.fate == Fate::Void);
    let void: BTreeSet<_> = void.map(|commit| Some(commit.lsn)).chain([None]).collect();
    let fits = |newest: Lsn| {
        let all = |from: &Option<Lsn>| {
            let mut pairs = histories.iter().zip(found);
            pairs.all(|(history, found)| history.at(newest, *from) == found)
        };
        void.iter().any(all)
    };
    if ends.into_iter().any(fits) {
        Ok(())
    } else {
        Err(Failure::new(
            Check::Order,
            "no position of the journal explains all databases",
        ))
    }
}
