//! The one place where an [`Error`] becomes an exception on the wire.

use vatwerk::{Code, Delivery};

use crate::Error;

impl From<Error> for capnp::Error {
    fn from(error: Error) -> Self {
        exception(error.code(), &error)
    }
}

fn exception(code: Code, text: &impl std::fmt::Display) -> capnp::Error {
    capnp::Error {
        kind: code.kind(),
        extra: format!("{code}: {text}"),
    }
}

/// The exception of a party that is gone. `how` says which, and how.
pub fn disconnected(how: &str) -> capnp::Error {
    exception(Code::Disconnected, &how)
}

/// The exception of a call that has not begun.
pub fn not_delivered(error: Error) -> capnp::Error {
    mark(error.into(), Delivery::NotDelivered)
}

/// The exception of a call whose outcome is not known: its instance ended while it was under way.
pub fn outcome_unknown(error: Error) -> capnp::Error {
    mark(error.into(), Delivery::Unknown)
}

/// Marks an exception with whether its call ran, instead of any earlier mark.
pub fn mark(mut error: capnp::Error, delivery: Delivery) -> capnp::Error {
    use capnp::ErrorKind::{Disconnected, Overloaded};

    let (text, _) = Delivery::split(&error.extra);
    let length = text.len();
    error.extra.truncate(length);
    // Others have run, unless they say that they have not.
    if delivery != Delivery::Delivered || matches!(error.kind, Disconnected | Overloaded) {
        error.extra.push_str(&format!(" [{delivery}]"));
    }
    error
}

/// The exception that leaves an object when the method of a call failed with `error`: the text starts
/// with a code, whatever made the error, and says that the call has run. A code that is there already,
/// a class's own included, stays.
pub fn leaving(error: capnp::Error) -> capnp::Error {
    mark(coded(error), Delivery::Delivered)
}

/// Puts a code in front of an error that has none.
pub fn coded(error: capnp::Error) -> capnp::Error {
    use capnp::ErrorKind::{Disconnected, Failed, Overloaded, Unimplemented};

    let (code, text) = Code::split(&error.extra);
    if let Some(code) = code {
        return exception(code, &text);
    }
    let code = match error.kind {
        Failed | Overloaded | Disconnected | Unimplemented if starts_with_code(text) => {
            return capnp::Error {
                kind: error.kind,
                extra: text.to_owned(),
            };
        }
        Failed => Code::ApplicationFailed,
        Overloaded => Code::Overloaded,
        Disconnected => Code::Disconnected,
        Unimplemented => Code::Unimplemented,
        // All other kinds are of `capnp` itself: a message that could not be read.
        _ => return exception(Code::InvalidArgument, &error),
    };
    exception(code, &text)
}

/// Whether `text` has the form of a code: `[a-z][a-z0-9-]*: `.
fn starts_with_code(text: &str) -> bool {
    let Some((word, _)) = text.split_once(": ") else {
        return false;
    };
    word.starts_with(|c: char| c.is_ascii_lowercase())
        && word
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

#[cfg(test)]
mod tests {
    use capnp::ErrorKind;

    use super::*;

    #[test]
    fn whatever_leaves_an_object_starts_with_a_code() {
        let cases = [
            (
                capnp::Error::failed("no tea".into()),
                "application-failed: no tea",
            ),
            (
                capnp::Error::failed("out-of-tea: none".into()),
                "out-of-tea: none",
            ),
            (
                capnp::Error::failed("No: none".into()),
                "application-failed: No: none",
            ),
            (
                capnp::Error::failed("remote exception: remote exception: not-found: x".into()),
                "not-found: x",
            ),
            (
                capnp::Error::overloaded("later".into()),
                "overloaded: later [delivered]",
            ),
            (not_delivered(Error::NotFound("x".into())), "not-found: x"),
            (
                outcome_unknown(Error::ObjectReset("x".into())),
                "object-reset: x [delivered]",
            ),
            (
                Error::Closed("the cursor has ended").into(),
                "closed: the cursor has ended",
            ),
        ];
        for (error, text) in cases {
            assert_eq!(leaving(error).extra, text);
        }
        let unreadable = capnp::Error::from_kind(ErrorKind::MessageContainsOutOfBoundsPointer);
        assert!(leaving(unreadable).extra.starts_with("invalid-argument: "));
    }

    #[test]
    fn the_kind_follows_the_code() {
        let wire = |error: Error| capnp::Error::from(error).kind;
        assert_eq!(wire(Error::ShuttingDown), ErrorKind::Disconnected);
        assert_eq!(
            wire(Error::Overloaded {
                what: "x",
                limit: 1
            }),
            ErrorKind::Overloaded
        );
        assert_eq!(
            wire(Error::Unimplemented("x".into())),
            ErrorKind::Unimplemented
        );
        assert_eq!(wire(Error::NotFound("x".into())), ErrorKind::Failed);
    }
}
