//! What a check finds, and who is told.

use std::{
    io,
    path::{Path, PathBuf},
};

/// One thing that a check has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What kind of thing.
    pub kind: Kind,
    /// Which file or folder it is about.
    pub path: PathBuf,
    /// What is to be said of it.
    pub text: String,
}

/// What kind of thing was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// What a file says cannot be understood, or contradicts itself.
    Damaged,
    /// What should be there is not.
    Missing,
    /// It belongs somewhere else.
    Misplaced,
    /// It is there, and the catalog does not know of it.
    Unlisted,
    /// Its file could not be written, and what the journal said of it is held beside the journal.
    Quarantined,
    /// An alarm is set, and the catalog does not know of it in time.
    Forgotten,
    /// Nothing is wrong.
    Note,
}

impl Kind {
    /// The word for it, which never changes.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Damaged => "damaged",
            Kind::Missing => "missing",
            Kind::Misplaced => "misplaced",
            Kind::Unlisted => "unlisted",
            Kind::Quarantined => "quarantined",
            Kind::Forgotten => "forgotten",
            Kind::Note => "note",
        }
    }

    /// Whether something is wrong.
    pub fn is_problem(self) -> bool {
        self != Kind::Note
    }
}

impl Finding {
    pub(super) fn new(kind: Kind, path: &Path, text: impl Into<String>) -> Finding {
        Finding {
            kind,
            path: path.to_owned(),
            text: text.into(),
        }
    }
}

/// How far a check is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// So much of the journal has been dealt with, in percent.
    Journal(u64),
    /// So many objects have been looked at.
    Objects(u64),
}

/// Who is told what a check does, while it does it.
pub trait Watcher {
    /// Something was found. An error ends the check.
    fn found(&mut self, finding: Finding) -> io::Result<()>;

    /// It has got on. Comes often.
    fn progress(&mut self, progress: Progress);
}

/// What a check has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// How many objects' databases.
    pub objects: u64,
    /// How many commits it has brought from the journal to the files.
    pub recovered: u64,
    /// How many things are wrong.
    pub problems: u64,
    /// How many are worth a note.
    pub notes: u64,
}
