//! Chains of calls: a call, the calls that its callee makes while it works on it, and so on. They let an
//! object that takes one call at a time take one that it has caused itself.

use std::cell::Cell;

/// Names one chain, within a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Chain(u64);

thread_local! {
    /// The chain of the call that is being sent. `capnp`'s hooks have no room for it, and a call is
    /// delivered before `send` returns.
    static SENDING: Cell<Option<Chain>> = const { Cell::new(None) };
}

impl Chain {
    /// The chain of the call that is being sent, if it is part of one.
    pub(super) fn of_sending() -> Option<Chain> {
        SENDING.get()
    }

    /// Sends something as part of this chain.
    pub fn send<T>(chain: Option<Chain>, send: impl FnOnce() -> T) -> T {
        /// Puts the outer chain back, also if `send` panics.
        struct Outer(Option<Chain>);
        impl Drop for Outer {
            fn drop(&mut self) {
                SENDING.set(self.0);
            }
        }
        let _outer = Outer(SENDING.replace(chain));
        send()
    }
}

/// Makes chains that are not in use yet.
#[derive(Default)]
pub struct Chains(Cell<u64>);

impl Chains {
    /// A chain of its own.
    pub fn begin(&self) -> Chain {
        self.0.set(self.0.get() + 1);
        Chain(self.0.get())
    }
}
