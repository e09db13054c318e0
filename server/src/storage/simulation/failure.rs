//! What a run finds wrong.

use std::fmt;

use crate::folder::DatabaseId;

/// Which expectation was not met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Check {
    /// A database is as it was before its newest durable commit.
    Lost,
    /// A database is as it never was after any commit.
    NoCommit,
    /// Each database is as after one of its commits, but a later commit of one is there and an earlier
    /// one of another is not.
    Order,
    /// SQLite finds a database damaged.
    Integrity,
    /// The journal does not open again.
    Recovery,
    /// While the vat lives, a database does not hold what was written.
    Reading,
    /// Something failed on a disk that works.
    Refused,
    /// Positions of commits do not grow.
    Position,
    /// A clean stop leaves more than plain files.
    Stop,
}

/// A check that failed, and how.
pub struct Failure {
    pub check: Check,
    text: String,
}

impl Failure {
    pub fn new(check: Check, text: impl Into<String>) -> Failure {
        let text = text.into();
        Failure { check, text }
    }

    /// Says which database it is about.
    pub fn about(mut self, id: DatabaseId) -> Failure {
        self.text = format!("{id}: {}", self.text);
        self
    }

    /// Says how the run that fails can be had again.
    pub fn panic(&self, seed: u64) -> ! {
        panic!(
            "seed {seed}: {self}\nagain: \
             VATWERK_SEED={seed} cargo test -p vatwerk-server --lib simulation -- --nocapture"
        )
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.check, self.text)
    }
}
