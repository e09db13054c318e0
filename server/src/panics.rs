//! Panics that are caught: what they say, where they began, and the one record of each in the log.

use std::{
    any::Any,
    backtrace::{Backtrace, BacktraceStatus},
    cell::{Cell, RefCell},
    panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind},
};

thread_local! {
    /// How many [`caught`] are running on this thread, one inside the other.
    static CATCHING: Cell<u32> = const { Cell::new(0) };
    /// Where the last panic inside a [`caught`] began.
    static PLACE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// A panic that was caught.
#[derive(Debug)]
pub struct Panic {
    /// The message of the panic.
    pub message: String,
    /// Where the panic began, and how it came there if the process records backtraces. `None` in a program
    /// that does not use [`hook`].
    pub place: Option<String>,
}

/// Runs code that may panic. With [`hook`] set, a panic in it is not logged: the caller does that, once, and
/// knows more about it.
pub fn caught<T>(work: impl FnOnce() -> T) -> Result<T, Panic> {
    CATCHING.set(CATCHING.get() + 1);
    let outcome = catch_unwind(AssertUnwindSafe(work));
    CATCHING.set(CATCHING.get() - 1);
    outcome.map_err(|panic| Panic {
        message: message(&*panic).to_owned(),
        place: PLACE.take(),
    })
}

/// The message of a panic.
pub fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic without a message")
}

/// The panic hook of a program whose log is `tracing`'s, for [`std::panic::set_hook`]: one record for each
/// panic, and nothing on stderr otherwise.
pub fn hook(info: &PanicHookInfo<'_>) {
    let place = place(info);
    if CATCHING.get() > 0 {
        return PLACE.set(Some(place));
    }
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or_default();
    let message = message(info.payload());
    tracing::error!(thread, place, "a panic: {message}");
}

fn place(info: &PanicHookInfo<'_>) -> String {
    let place = info.location().map(ToString::to_string);
    let mut place = place.unwrap_or_default();
    // Only if RUST_BACKTRACE asks for it.
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        place.push_str(&format!("\n{backtrace}"));
    }
    place
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_panic_says_is_kept() {
        let caught = |work: fn()| caught(work).unwrap_err().message;
        assert_eq!(caught(|| panic!("plain")), "plain");
        assert_eq!(
            caught(|| panic!("{} {}", "put", "together")),
            "put together"
        );
        let odd = caught(|| std::panic::panic_any(7));
        assert_eq!(odd, "a panic without a message");
        assert_eq!(super::caught(|| 7).unwrap(), 7);
        assert_eq!(CATCHING.get(), 0);
    }
}
