//! How a callee learns that the caller of a call is gone, and which connection the call came by.
//!
//! `capnp-rpc` would drop a call when the caller's `Finish` arrives, and then never return it, so that
//! neither side could forget it. So a connection holds the `Finish` back, and tells by a [`HangUp`]. A
//! caller in this process tells by dropping its [`Caller`].

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    task::{Context, Poll, Waker},
};

use capnp::private::capability::ParamsHook;

use super::Pins;

thread_local! {
    /// The signal of the call whose parameters were last looked at. `capnp`'s hooks have no room for it.
    static LOOKED_AT: RefCell<Option<HangUp>> = const { RefCell::new(None) };
}

/// Whether the caller of one call has hung up. Cheap to clone.
#[derive(Clone, Default)]
pub struct HangUp(Rc<State>);

#[derive(Default)]
struct State {
    has_hung_up: Cell<bool>,
    waker: Cell<Option<Waker>>,
    /// The pins of the connection that the call came by.
    pins: Option<Rc<Pins>>,
}

impl HangUp {
    /// The signal of a call that came by the connection with these pins.
    pub fn of_connection(pins: &Rc<Pins>) -> HangUp {
        HangUp(Rc::new(State {
            pins: Some(pins.clone()),
            ..State::default()
        }))
    }

    /// The pins of the connection that the call came by; `None` for a caller in this process.
    pub fn pins(&self) -> Option<&Rc<Pins>> {
        self.0.pins.as_ref()
    }

    /// Records that the caller has hung up, and wakes the callee.
    pub fn tell(&self) {
        self.0.has_hung_up.set(true);
        if let Some(waker) = self.0.waker.take() {
            waker.wake();
        }
    }

    /// Ready when the caller has hung up. One task at a time may wait.
    pub fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        if self.0.has_hung_up.get() {
            return Poll::Ready(());
        }
        self.0.waker.set(Some(cx.waker().clone()));
        Poll::Pending
    }

    /// The caller's end, whose last clone tells when it is dropped.
    pub fn when_dropped(&self) -> Rc<Caller> {
        Rc::new(Caller(self.clone()))
    }

    /// Notes that a connection shows the parameters of the call.
    pub fn params_looked_at(&self) {
        LOOKED_AT.replace(Some(self.clone()));
    }

    /// The signal of the call with these parameters, if a connection tells.
    pub fn of(params: &dyn ParamsHook) -> Option<HangUp> {
        LOOKED_AT.take();
        let _ = params.get();
        LOOKED_AT.take()
    }
}

/// A caller in this process, as long as it waits for its call.
pub struct Caller(HangUp);

impl Drop for Caller {
    fn drop(&mut self) {
        self.0.tell();
    }
}
