//! Positions of commits.

use std::fmt;

/// The position of a commit among all commits of a vat, over all restarts. Zero is before the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub(super) u64);

impl Lsn {
    /// After every other position.
    pub(super) const MAX: Lsn = Lsn(u64::MAX);

    /// The position after this one.
    pub(super) fn next(self) -> Lsn {
        Lsn(self.0 + 1)
    }

    /// The position before this one; of the first there is none, and it is itself.
    pub(super) fn previous(self) -> Lsn {
        Lsn(self.0.saturating_sub(1))
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
