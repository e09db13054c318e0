//! The stable codes of `limit.capnp`.

use capnp::ErrorKind;

use crate::limit_capnp as limit;

/// What an error's text starts with, and what callers branch on. The words, and what each means to a
/// caller, are in `schema/vatwerk/limit.capnp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Code {
    InvalidArgument,
    NotFound,
    LimitExceeded,
    Unauthenticated,
    PermissionDenied,
    SqlRefused,
    SqlFailed,
    Closed,
    ActivationFailed,
    ApplicationFailed,
    Unimplemented,
    ObjectReset,
    ShuttingDown,
    Disconnected,
    Overloaded,
    StorageFailed,
    StorageDamaged,
    OutcomeUnknown,
    Deadlock,
    Internal,
}

/// What each hop of Cap'n Proto RPC may put before an error's text.
const HOP_PREFIX: &str = "remote exception: ";

impl Code {
    /// Every code, in the order of the schema.
    pub const ALL: [Code; 20] = [
        Code::InvalidArgument,
        Code::NotFound,
        Code::LimitExceeded,
        Code::Unauthenticated,
        Code::PermissionDenied,
        Code::SqlRefused,
        Code::SqlFailed,
        Code::Closed,
        Code::ActivationFailed,
        Code::ApplicationFailed,
        Code::Unimplemented,
        Code::ObjectReset,
        Code::ShuttingDown,
        Code::Disconnected,
        Code::Overloaded,
        Code::StorageFailed,
        Code::StorageDamaged,
        Code::OutcomeUnknown,
        Code::Deadlock,
        Code::Internal,
    ];

    /// The word on the wire, such as `not-found`.
    pub fn as_str(self) -> &'static str {
        match self {
            Code::InvalidArgument => limit::INVALID_ARGUMENT,
            Code::NotFound => limit::NOT_FOUND,
            Code::LimitExceeded => limit::LIMIT_EXCEEDED,
            Code::Unauthenticated => limit::UNAUTHENTICATED,
            Code::PermissionDenied => limit::PERMISSION_DENIED,
            Code::SqlRefused => limit::SQL_REFUSED,
            Code::SqlFailed => limit::SQL_FAILED,
            Code::Closed => limit::CLOSED,
            Code::ActivationFailed => limit::ACTIVATION_FAILED,
            Code::ApplicationFailed => limit::APPLICATION_FAILED,
            Code::Unimplemented => limit::UNIMPLEMENTED,
            Code::ObjectReset => limit::OBJECT_RESET,
            Code::ShuttingDown => limit::SHUTTING_DOWN,
            Code::Disconnected => limit::DISCONNECTED,
            Code::Overloaded => limit::OVERLOADED,
            Code::StorageFailed => limit::STORAGE_FAILED,
            Code::StorageDamaged => limit::STORAGE_DAMAGED,
            Code::OutcomeUnknown => limit::OUTCOME_UNKNOWN,
            Code::Deadlock => limit::DEADLOCK,
            Code::Internal => limit::INTERNAL,
        }
    }

    /// The kind of exception that carries this code: what a caller who knows no codes should do.
    pub fn kind(self) -> ErrorKind {
        match self {
            Code::Unimplemented => ErrorKind::Unimplemented,
            Code::ObjectReset | Code::ShuttingDown | Code::Disconnected | Code::OutcomeUnknown => {
                ErrorKind::Disconnected
            }
            Code::Overloaded | Code::StorageFailed => ErrorKind::Overloaded,
            _ => ErrorKind::Failed,
        }
    }

    /// Splits an exception's text into its code and the rest, past any number of
    /// `remote exception: ` prefixes. The code is `None` if the text starts with none of this list:
    /// a class's own code, or no code at all.
    ///
    /// ```
    /// use vatwerk::Code;
    /// let (code, rest) = Code::split("remote exception: not-found: no class `Chat` here");
    /// assert_eq!(code, Some(Code::NotFound));
    /// assert_eq!(rest, "no class `Chat` here");
    /// ```
    pub fn split(text: &str) -> (Option<Code>, &str) {
        let mut text = text;
        while let Some(rest) = text.strip_prefix(HOP_PREFIX) {
            text = rest;
        }
        let known = text.split_once(": ").and_then(|(word, rest)| {
            let code = Code::ALL.into_iter().find(|code| code.as_str() == word)?;
            Some((code, rest))
        });
        match known {
            Some((code, rest)) => (Some(code), rest),
            None => (None, text),
        }
    }
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_comes_back_from_its_text() {
        for code in Code::ALL {
            let text = format!("remote exception: remote exception: {code}: why");
            assert_eq!(Code::split(&text), (Some(code), "why"));
        }
        assert_eq!(
            Code::split("out-of-tea: none left"),
            (None, "out-of-tea: none left")
        );
    }
}
