//! Capabilities whose errors always start with a code.

use std::rc::Rc;

use capnp::{
    Error, MessageSize, any_pointer,
    capability::{FromServer, Promise, Request},
    private::capability::{ClientHook, ParamsHook, ResultsHook},
};

use vatwerk::Delivery;

use super::hook::{Capability, Hook};
use crate::fault;

/// Serves `server` as a capability, for callers on a connection: `capnp-rpc`'s own, but for the text
/// of its errors.
pub fn serve<C: FromServer<S>, S: 'static>(server: S) -> C {
    let client: C = capnp_rpc::new_client(server);
    C::new(Box::new(Hook(Rc::new(Coded(client.into_client_hook())))))
}

/// The error of a call on one of the vat's own capabilities: one that says that nothing has begun is right.
fn coded(error: Error) -> Error {
    match Delivery::split(&error.extra).1 {
        Some(Delivery::NotDelivered) => error,
        _ => fault::leaving(error),
    }
}

struct Coded(Box<dyn ClientHook>);

impl Capability for Coded {
    fn request(
        self: &Rc<Self>,
        interface_id: u64,
        method_id: u16,
        size_hint: Option<MessageSize>,
    ) -> Request<any_pointer::Owned, any_pointer::Owned> {
        self.0.new_call(interface_id, method_id, size_hint)
    }

    fn answer(
        self: &Rc<Self>,
        interface_id: u64,
        method_id: u16,
        params: Box<dyn ParamsHook>,
        results: Box<dyn ResultsHook>,
    ) -> Promise<(), Error> {
        let done = self.0.call(interface_id, method_id, params, results);
        Promise::from_future(async move { done.await.map_err(coded) })
    }
}
