//! What can go wrong, by what the caller can do about it. Only [`crate::fault`] turns these
//! into exceptions on the wire.

use vatwerk::Code;

/// An operation's outcome.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why something did not happen. Each variant has one stable [`Code`]; what the codes mean to a
/// caller is written in `schema/vatwerk/limit.capnp`.
///
/// Methods of classes return `capnp::Result`: `?` converts, and the code arrives at the caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An argument is malformed.
    #[error("{0}")]
    InvalidArgument(String),
    /// There is no such class, object or saved reference.
    #[error("{0}")]
    NotFound(String),
    /// Something is over a limit.
    #[error("{what} is limited to {limit}, and this is {actual}")]
    LimitExceeded {
        /// The thing that is limited, with its unit: `a key (bytes)`.
        what: &'static str,
        /// The limit.
        limit: u64,
        /// What was asked for.
        actual: u64,
    },
    /// SQL needs more of something than it may take.
    #[error("{what} is limited to {limit} ({key}), and this needs more")]
    SqlLimit {
        /// The thing that is limited, with its unit.
        what: &'static str,
        /// The limit.
        limit: u64,
        /// The source of the limit: the key of a setting, or a constant.
        key: &'static str,
    },
    /// The SQL of one call ran for longer than it may.
    #[error("the SQL of {} may run for {limit_ms} ms ({}), and this was stopped after that", .set_by.what(), .set_by.key())]
    StatementTimeout {
        /// The limit, in milliseconds.
        limit_ms: u64,
        /// Where the limit comes from.
        set_by: StatementLimit,
    },
    /// A call took longer than it may, and was dropped where it waited.
    #[error(
        "the call took longer than {} s (limits.call_ms, or CALL_LIMIT of the class), and was dropped \
         where it waited",
        limit.as_secs_f32()
    )]
    CallTimeout {
        /// The limit.
        limit: std::time::Duration,
    },
    /// The call would wait for itself.
    #[error("{0}")]
    Deadlock(String),
    /// The credential is not good here.
    #[error("{0}")]
    Unauthenticated(&'static str),
    /// The capability was narrowed and does not reach that far.
    #[error("{0}")]
    PermissionDenied(String),
    /// The SQL is not allowed.
    #[error("{0}")]
    SqlRefused(String),
    /// SQLite refused the SQL.
    #[error("{0}")]
    SqlFailed(String),
    /// A transaction or cursor has ended.
    #[error("{0}")]
    Closed(&'static str),
    /// `create` or `activate` returned this error.
    #[error("{0}")]
    ActivationFailed(String),
    /// A class raised an error with a code of the list.
    #[error("{text}")]
    Raised {
        /// The code.
        code: Code,
        /// The rest of its text.
        text: String,
    },
    /// The class has no such method.
    #[error("{0}")]
    Unimplemented(String),
    /// The instance is gone; the text says why.
    #[error("{0}")]
    ObjectReset(String),
    /// The instance is gone, and the text, which is for the log, says what failed inside. Callers get
    /// `object-reset` without it.
    #[error("{0}")]
    InstanceFailed(String),
    /// The vat is draining.
    #[error("the vat is shutting down")]
    ShuttingDown,
    /// A queue is full.
    #[error("{what} is full at {limit}")]
    Overloaded {
        /// Which queue, with its unit.
        what: &'static str,
        /// How much it holds.
        limit: u64,
    },
    /// The disk failed or is full, and what was to be written is undone for good.
    #[error("{0}")]
    StorageFailed(String),
    /// A database is damaged, or none, or gone, or of a later version: an operator has to put it right.
    #[error("{0}")]
    StorageDamaged(String),
    /// The disk failed or is slow, and nobody knows whether what was written will be found on it.
    #[error("{0}")]
    OutcomeUnknown(String),
}

/// Where the time limit of SQL comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatementLimit {
    /// The setting `limits.statement_ms`.
    Vat,
    /// The constant `STATEMENT_MS` of the class.
    Class,
    /// The setting `limits.migration_ms`.
    Migration,
}

impl StatementLimit {
    fn what(self) -> &'static str {
        match self {
            StatementLimit::Vat | StatementLimit::Class => "one call",
            StatementLimit::Migration => "an object's migrations",
        }
    }

    fn key(self) -> &'static str {
        match self {
            StatementLimit::Vat => "`limits.statement_ms`",
            StatementLimit::Class => "`STATEMENT_MS` of its class",
            StatementLimit::Migration => "`limits.migration_ms`",
        }
    }
}

impl Error {
    /// The word that callers branch on.
    pub fn code(&self) -> Code {
        match self {
            Error::InvalidArgument(_) => Code::InvalidArgument,
            Error::NotFound(_) => Code::NotFound,
            Error::LimitExceeded { .. }
            | Error::SqlLimit { .. }
            | Error::StatementTimeout { .. }
            | Error::CallTimeout { .. } => Code::LimitExceeded,
            Error::Deadlock(_) => Code::Deadlock,
            Error::Unauthenticated(_) => Code::Unauthenticated,
            Error::PermissionDenied(_) => Code::PermissionDenied,
            Error::SqlRefused(_) => Code::SqlRefused,
            Error::SqlFailed(_) => Code::SqlFailed,
            Error::Closed(_) => Code::Closed,
            Error::ActivationFailed(_) => Code::ActivationFailed,
            Error::Raised { code, .. } => *code,
            Error::Unimplemented(_) => Code::Unimplemented,
            Error::ObjectReset(_) | Error::InstanceFailed(_) => Code::ObjectReset,
            Error::ShuttingDown => Code::ShuttingDown,
            Error::Overloaded { .. } => Code::Overloaded,
            Error::StorageFailed(_) => Code::StorageFailed,
            Error::StorageDamaged(_) => Code::StorageDamaged,
            Error::OutcomeUnknown(_) => Code::OutcomeUnknown,
        }
    }

    /// Whether the disk, or what is on it, is to blame.
    pub(crate) fn is_storage_fault(&self) -> bool {
        matches!(
            self,
            Error::StorageFailed(_) | Error::StorageDamaged(_) | Error::OutcomeUnknown(_)
        )
    }

    /// Refuses `actual` if it is over `limit`.
    pub(crate) fn check_limit(what: &'static str, limit: u64, actual: u64) -> Result<()> {
        if actual > limit {
            return Err(Error::LimitExceeded {
                what,
                limit,
                actual,
            });
        }
        Ok(())
    }
}
