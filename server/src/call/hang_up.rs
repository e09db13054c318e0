//! Calls that end when their caller hangs up.
//!
//! `capnp-rpc` would drop such a call when the caller's `Finish` arrives, and then never return it, so
//! that neither side could forget it. So a connection holds the `Finish` back, and tells by this.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    task::{Context, Poll, Waker},
};

use capnp::{private::capability::ParamsHook, traits::HasTypeId};
use vatwerk::{kj::http_capnp::http_service, object_capnp::stub};

/// The ordinal of `Stub.fetch`.
pub const FETCH: u16 = 2;

/// The ordinal of `HttpService.request`.
pub const REQUEST: u16 = 1;

thread_local! {
    /// Of the call whose parameters were last looked at. `capnp`'s hooks have no room for it.
    static LOOKED_AT: RefCell<Option<HangUp>> = const { RefCell::new(None) };
}

/// Whether the caller of one call has hung up. Cheap to clone.
#[derive(Clone, Default)]
pub struct HangUp(Rc<State>);

#[derive(Default)]
struct State {
    has_hung_up: Cell<bool>,
    waker: Cell<Option<Waker>>,
}

impl HangUp {
    /// Whether that makes a difference to this method.
    pub fn matters(interface_id: u64, method_id: u16) -> bool {
        match interface_id {
            stub::Client::TYPE_ID => method_id == FETCH,
            http_service::Client::TYPE_ID => method_id == REQUEST,
            _ => false,
        }
    }

    /// The caller has hung up.
    pub fn tell(&self) {
        self.0.has_hung_up.set(true);
        if let Some(waker) = self.0.waker.take() {
            waker.wake();
        }
    }

    /// Ready when the caller has hung up.
    pub fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        if self.0.has_hung_up.get() {
            return Poll::Ready(());
        }
        self.0.waker.set(Some(cx.waker().clone()));
        Poll::Pending
    }

    /// Somebody looks at the parameters of the call.
    pub fn params_looked_at(&self) {
        LOOKED_AT.replace(Some(self.clone()));
    }

    /// Of the call with these parameters, if a connection tells.
    pub fn of(params: &dyn ParamsHook) -> Option<HangUp> {
        LOOKED_AT.take();
        let _ = params.get();
        LOOKED_AT.take()
    }
}
