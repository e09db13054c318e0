//! The one place where an [`Error`] becomes an exception on the wire, and where it is decided what of it
//! leaves an object ([`outward`]).

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
    mark(outside(error), Delivery::NotDelivered)
}

/// The exception of a call whose outcome is not known: its instance ended while it was under way.
pub fn outcome_unknown(error: Error) -> capnp::Error {
    mark(outside(error), Delivery::Unknown)
}

/// The words for the failure of an instance.
const RESET: &str = "the object was reset; the vat's log says why";

/// The words for a failure of a class's code that it has none of its own for.
const FAILED: &str = "the object failed; the vat's log says why";

fn outside(error: Error) -> capnp::Error {
    match error {
        Error::InstanceFailed(_) => exception(Code::ObjectReset, &RESET),
        error => outward(error.into()).0,
    }
}

/// The code and the words that callers of an object get instead of an error with `code`, whose own text tells
/// of the object's inside: its tables, its files, its constructor. A deadlock names the objects that wait for each
/// other: their callers can see to it that they do not.
fn instead(code: Code) -> Option<(Code, &'static str)> {
    let text = match code {
        // Whoever calls wrote no SQL, and cannot mend it.
        Code::SqlRefused | Code::SqlFailed => return Some((Code::ApplicationFailed, FAILED)),
        Code::ActivationFailed => "the object does not wake; the vat's log says why",
        Code::StorageFailed => {
            "the object's storage failed, and what this wrote, if anything, was undone; the vat's log says why"
        }
        Code::StorageDamaged => {
            "the object's database is damaged or gone, or of a later version of the vat"
        }
        Code::OutcomeUnknown => {
            "whether what the object wrote is on the disk, nobody knows: read it before you try again"
        }
        _ => return None,
    };
    Some((code, text))
}

/// Whether `text`, an error with its code, is what callers get instead of what failed: whoever replaced that has
/// seen to it that the log has it.
pub fn is_told(text: &str) -> bool {
    let (code, said) = Code::split(text);
    said == RESET
        || said == FAILED
        || code
            .and_then(instead)
            .is_some_and(|(_, instead)| said == instead)
}

/// An error of an object's code as callers get it, and what of it stays inside, for the log: the error as it
/// was, with its code. The error keeps its text unless that tells of the object's inside.
pub fn outward(error: capnp::Error) -> (capnp::Error, Option<String>) {
    let (text, delivery) = Delivery::split(&error.extra);
    let Some((code, said)) = Code::split(text).0.and_then(instead) else {
        return (error, None);
    };
    if is_told(text) {
        return (error, None);
    }
    let inside = text.trim_start_matches("remote exception: ").to_owned();
    let mut error = exception(code, &said);
    if let Some(delivery) = delivery {
        error = mark(error, delivery);
    }
    (error, Some(inside))
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
/// Whether the text of an error begins with a code, the vat's or a class's own, after what hops have put before it.
pub fn has_code(text: &str) -> bool {
    let (code, text) = Code::split(text);
    code.is_some() || starts_with_code(text)
}

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
    fn what_tells_of_the_inside_of_an_object_is_told_in_other_words_and_kept_for_the_log() {
        for code in Code::ALL {
            let error = capnp::Error::failed(format!("remote exception: {code}: secret"));
            let (told, inside) = outward(error);
            assert_eq!(told.extra.contains("secret"), inside.is_none(), "{code}");
            match instead(code) {
                Some((instead, text)) => {
                    assert_eq!(told.extra, format!("{instead}: {text}"));
                    assert_eq!(told.kind, instead.kind());
                    assert_eq!(inside.unwrap(), format!("{code}: secret"));
                    assert!(is_told(&told.extra));
                    // It is not told again by the next object that passes it on.
                    assert_eq!(outward(told).1, None);
                }
                None => assert!(!is_told(&told.extra)),
            }
        }
        let reset = Error::InstanceFailed("secret".into());
        let told = outcome_unknown(reset).extra;
        assert!(
            told.starts_with("object-reset: ") && !told.contains("secret"),
            "{told}"
        );
        let lost = Error::StorageDamaged("secret".into());
        assert!(!not_delivered(lost).extra.contains("secret"));
        // In an object's own code it says what it is.
        let own = capnp::Error::from(Error::SqlFailed("no such table: t".into()));
        assert_eq!(own.extra, "sql-failed: no such table: t");
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
