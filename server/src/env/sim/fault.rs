//! Operations that fail.

use std::{error, fmt, io, path::Path};

use rustix::io::Errno;

use super::survival::Survival;

/// A kind of operation, as a [`Fault`] sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Opening a file that is there.
    Open,
    Lock,
    Read,
    List,
    Write,
    SetLen,
    Allocate,
    /// Making a file or a folder.
    Create,
    Remove,
    Sync,
    SyncFolder,
    /// Its path is that of the folder that was named.
    SyncAll,
    /// The writing of a file that is closed and was not synced, by the operating system. If it fails, only the next
    /// [`Operation::SyncAll`] tells, and the file is read as it is on the disk.
    WriteBack,
}

impl Operation {
    /// Whether it changes the disk, and so is counted.
    pub fn is_change(self) -> bool {
        use Operation::{List, Lock, Open, Read, WriteBack};
        !matches!(self, Open | Lock | Read | List | WriteBack)
    }

    /// Whether it makes pending changes durable.
    pub fn is_sync(self) -> bool {
        matches!(
            self,
            Operation::Sync | Operation::SyncFolder | Operation::SyncAll
        )
    }
}

pub(super) type Predicate = Box<dyn Fn(&Path, Operation) -> bool + Send>;

/// A rule by which operations fail: all of them, for ever, unless it is narrowed.
///
/// An operation that fails does nothing, with three exceptions. A write may have written its beginning, and a
/// removal may be done. And a sync that fails forgets what was pending, as Linux does: it stays visible until the crash,
/// but only what the rule's survival keeps is on the disk, and a later sync succeeds without it. With
/// [`Fault::evicting`] it is not even visible.
pub struct Fault {
    errno: Errno,
    /// Which operations the operating system may answer with the error.
    can_meet: fn(Operation) -> bool,
    predicate: Predicate,
    left: Option<u64>,
    survival: Survival,
    evicts: bool,
}

impl Fault {
    /// `ENOSPC`: the disk is full.
    pub fn no_space() -> Fault {
        Fault::new(Errno::NOSPC)
    }

    /// `EIO`: the device failed.
    pub fn io_error() -> Fault {
        Fault::new(Errno::IO)
    }

    /// `EMFILE`: the process has no file descriptors left.
    pub fn no_descriptors() -> Fault {
        Fault {
            can_meet: |operation| {
                use Operation::{Create, List, Open, SyncAll, SyncFolder};
                matches!(operation, Create | List | Open | SyncAll | SyncFolder)
            },
            ..Fault::new(Errno::MFILE)
        }
    }

    /// `EINTR`: a signal came, as it may on a file system that is elsewhere. Only removals meet it: all else is
    /// tried again.
    pub fn interrupted() -> Fault {
        Fault {
            can_meet: |operation| operation == Operation::Remove,
            ..Fault::new(Errno::INTR)
        }
    }

    /// `EAGAIN`: another process has locked the file.
    pub fn locked() -> Fault {
        Fault {
            can_meet: |operation| operation == Operation::Lock,
            ..Fault::new(Errno::AGAIN)
        }
    }

    fn new(errno: Errno) -> Fault {
        Fault {
            errno,
            can_meet: |_| true,
            predicate: Box::new(|_, _| true),
            left: None,
            survival: Survival::Nothing,
            evicts: false,
        }
    }

    /// After a sync that fails files are read as they are on the disk: the operating system had no memory
    /// left for what it could not write, and reads the old pages.
    pub fn evicting(mut self) -> Fault {
        self.evicts = true;
        self
    }

    /// Only operations for which this holds. It must not use the disk.
    pub fn when(mut self, predicate: impl Fn(&Path, Operation) -> bool + Send + 'static) -> Fault {
        self.predicate = Box::new(predicate);
        self
    }

    /// Only the next `n` of them.
    pub fn times(mut self, n: u64) -> Fault {
        self.left = Some(n);
        self
    }

    /// What of a sync, write or removal that fails is done all the same; without this, nothing.
    pub fn leaving(mut self, survival: impl Into<Survival>) -> Fault {
        self.survival = survival.into();
        self
    }

    /// Whether the operation, the `n`-th of the disk, fails by this rule.
    pub(super) fn strikes(&mut self, path: &Path, operation: Operation, n: u64) -> Option<Failure> {
        let is_meant = (self.can_meet)(operation) && (self.predicate)(path, operation);
        if self.left == Some(0) || !is_meant {
            return None;
        }
        self.left = self.left.map(|left| left - 1);
        let survival = match self.survival {
            Survival::Seeded(seed) => Survival::Seeded(seed ^ n.rotate_left(32)),
            certain => certain,
        };
        Some(Failure::Fault(self.errno, survival, self.evicts))
    }
}

/// Why an operation is not performed.
#[derive(Clone, Copy)]
pub(super) enum Failure {
    /// The power went just now.
    CrashPoint,
    /// It has been gone for a while.
    Crashed,
    /// And whether what a sync could not write is evicted.
    Fault(Errno, Survival, bool),
}

impl From<Failure> for io::Error {
    fn from(failure: Failure) -> io::Error {
        match failure {
            Failure::CrashPoint | Failure::Crashed => io::Error::other(Crash),
            Failure::Fault(errno, ..) => errno.into(),
        }
    }
}

#[derive(Debug)]
struct Crash;

impl fmt::Display for Crash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the simulated disk has lost power")
    }
}

impl error::Error for Crash {}

/// Whether an operation failed because the simulated disk has lost power.
pub fn is_crash(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Crash>())
}
