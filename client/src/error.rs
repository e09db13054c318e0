//! What can go wrong, as callers see it.

use std::io;

use capnp::ErrorKind;
use vatwerk::{Code, Delivery, InvalidId};

use crate::{Address, InvalidAddress};

/// An operation's outcome.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why something did not happen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The text is no address.
    #[error(transparent)]
    Address(#[from] InvalidAddress),
    /// The text or bytes are no object id.
    #[error("{0}")]
    ObjectId(InvalidId),
    /// The vat cannot be reached, or what answers there is no vat.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// Where it was looked for.
        address: Address,
        /// What the attempt ran into; [`io::ErrorKind::TimedOut`] after the connect timeout.
        source: io::Error,
    },
    /// A call failed.
    #[error("{}{message}", prefix(*code))]
    Call {
        /// The stable code that the error came with. `None` for the codes of a class's own, which
        /// stay at the start of `message`.
        code: Option<Code>,
        /// What to do next: see [`Error::is_retryable`].
        kind: ErrorKind,
        /// Words for people, without the code and without what RPC hops put before it.
        message: String,
        /// Whether the call ran.
        delivery: Delivery,
    },
    /// The client's thread is gone: its runtime was shut down around it.
    #[error("the client is gone")]
    Gone,
}

fn prefix(code: Option<Code>) -> String {
    code.map(|code| format!("{code}: ")).unwrap_or_default()
}

impl Error {
    /// The stable code that the error came with.
    pub fn code(&self) -> Option<Code> {
        match self {
            Error::Address(_) | Error::ObjectId(_) => Some(Code::InvalidArgument),
            Error::Connect { .. } => Some(Code::Disconnected),
            Error::Call { code, .. } => *code,
            Error::Gone => None,
        }
    }

    /// Whether the call ran. What failed before any call was made has not.
    pub fn delivery(&self) -> Delivery {
        match self {
            Error::Call { delivery, .. } => *delivery,
            Error::Address(_) | Error::ObjectId(_) | Error::Connect { .. } => {
                Delivery::NotDelivered
            }
            Error::Gone => Delivery::Unknown,
        }
    }

    /// Whether the same call may succeed later: the vat was overloaded, or it or the connection to
    /// it went away.
    ///
    /// The call may have run nevertheless: unless [`Error::delivery`] is
    /// [`Delivery::NotDelivered`], repeat it only if running it twice does no harm.
    pub fn is_retryable(&self) -> bool {
        match self {
            Error::Connect { .. } => true,
            Error::Call { kind, .. } => {
                matches!(kind, ErrorKind::Disconnected | ErrorKind::Overloaded)
            }
            Error::Address(_) | Error::ObjectId(_) | Error::Gone => false,
        }
    }
}

impl From<capnp::Error> for Error {
    fn from(error: capnp::Error) -> Self {
        // A decoding error has no `extra`: its kind says it all.
        let text = match error.extra.as_str() {
            "" => error.kind.to_string(),
            extra => extra.to_owned(),
        };
        let (text, delivery) = Delivery::split(&text);
        let (code, message) = Code::split(text);
        let code = code.or_else(|| match error.kind {
            _ if has_own_code(message) => None,
            ErrorKind::Disconnected => Some(Code::Disconnected),
            ErrorKind::Overloaded => Some(Code::Overloaded),
            ErrorKind::Unimplemented => Some(Code::Unimplemented),
            _ => None,
        });
        Error::Call {
            code,
            kind: error.kind,
            message: message.to_owned(),
            delivery: delivery.unwrap_or(unmarked(error.kind)),
        }
    }
}

/// Whether a call ran that failed with an exception of this kind, without a mark at its end.
fn unmarked(kind: ErrorKind) -> Delivery {
    match kind {
        ErrorKind::Disconnected | ErrorKind::Overloaded => Delivery::Unknown,
        _ => Delivery::Delivered,
    }
}

/// Whether the text starts with a code in the form that classes may use: `[a-z][a-z0-9-]*: `.
fn has_own_code(text: &str) -> bool {
    text.split_once(": ").is_some_and(|(word, _)| {
        word.starts_with(|c: char| c.is_ascii_lowercase())
            && word
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
    })
}

impl From<capnp::NotInSchema> for Error {
    fn from(error: capnp::NotInSchema) -> Self {
        capnp::Error::from(error).into()
    }
}

impl From<std::str::Utf8Error> for Error {
    fn from(error: std::str::Utf8Error) -> Self {
        capnp::Error::from(error).into()
    }
}

impl From<InvalidId> for Error {
    fn from(error: InvalidId) -> Self {
        Error::ObjectId(error)
    }
}

/// So that `?` works in functions that return `capnp::Result`. The code stays readable, and so does
/// whether the call ran.
impl From<Error> for capnp::Error {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::Call { kind, .. } => *kind,
            Error::Connect { .. } | Error::Gone => ErrorKind::Disconnected,
            Error::Address(_) | Error::ObjectId(_) => ErrorKind::Failed,
        };
        let mut extra = match &error {
            Error::Call { .. } => error.to_string(),
            other => format!("{}{other}", prefix(other.code())),
        };
        let delivery = error.delivery();
        if delivery != Delivery::Delivered || unmarked(kind) != Delivery::Delivered {
            extra.push_str(&format!(" [{delivery}]"));
        }
        capnp::Error { kind, extra }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_and_the_kind_come_out_of_an_exception() {
        let error = Error::from(capnp::Error::failed(
            "remote exception: remote exception: not-found: no such class".to_owned(),
        ));
        assert_eq!(error.code(), Some(Code::NotFound));
        assert_eq!(error.to_string(), "not-found: no such class");
        assert!(!error.is_retryable());

        let error = Error::from(capnp::Error::disconnected("Peer disconnected.".to_owned()));
        assert_eq!(error.to_string(), "disconnected: Peer disconnected.");
        assert!(error.is_retryable());

        let error = Error::from(capnp::Error::overloaded(
            "remote exception: out-of-tea: none left".to_owned(),
        ));
        assert_eq!(error.code(), None);
        assert_eq!(error.to_string(), "out-of-tea: none left");
    }

    #[test]
    fn an_error_survives_the_way_through_capnp() {
        let mut errors = vec![
            Error::Connect {
                address: "unix:/none".parse().unwrap(),
                source: io::ErrorKind::ConnectionRefused.into(),
            },
            Error::Address("nowhere".parse::<Address>().unwrap_err()),
            Error::ObjectId("short".parse::<vatwerk::ObjectId>().unwrap_err()),
            Error::Gone,
        ];
        let kinds = [
            ErrorKind::Failed,
            ErrorKind::Unimplemented,
            ErrorKind::Disconnected,
            ErrorKind::Overloaded,
        ];
        for kind in kinds {
            errors.extend(Delivery::ALL.map(|delivery| Error::Call {
                code: Some(Code::StorageFailed),
                kind,
                message: "no room [really]".to_owned(),
                delivery,
            }));
        }
        for error in errors {
            let (delivery, retryable) = (error.delivery(), error.is_retryable());
            let (text, code) = (error.to_string(), error.code());
            let code = code.or(Some(Code::Disconnected));
            let back = Error::from(capnp::Error::from(error));
            assert_eq!(back.code(), code, "{text}");
            assert!(back.to_string().ends_with(&text), "{back}");
            assert_eq!(back.delivery(), delivery, "{text}");
            assert!(back.is_retryable() || !retryable, "{text}");
        }
    }
}
