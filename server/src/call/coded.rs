//! Capabilities whose errors always start with a code.

use capnp::{
    Error, MessageSize, any_pointer,
    capability::{FromServer, Promise, Request},
    private::capability::{ClientHook, ParamsHook, ResultsHook},
};

use crate::fault;

/// Serves `server` as a capability, for callers on a connection: `capnp-rpc`'s own, but for the text
/// of its errors.
pub fn serve<C: FromServer<S>, S: 'static>(server: S) -> C {
    let client: C = capnp_rpc::new_client(server);
    C::new(Box::new(Coded(client.into_client_hook())))
}

struct Coded(Box<dyn ClientHook>);

impl ClientHook for Coded {
    fn add_ref(&self) -> Box<dyn ClientHook> {
        Box::new(Coded(self.0.add_ref()))
    }

    fn new_call(
        &self,
        interface_id: u64,
        method_id: u16,
        size_hint: Option<MessageSize>,
    ) -> Request<any_pointer::Owned, any_pointer::Owned> {
        self.0.new_call(interface_id, method_id, size_hint)
    }

    fn call(
        &self,
        interface_id: u64,
        method_id: u16,
        params: Box<dyn ParamsHook>,
        results: Box<dyn ResultsHook>,
    ) -> Promise<(), Error> {
        let done = self.0.call(interface_id, method_id, params, results);
        Promise::from_future(async move { done.await.map_err(fault::leaving) })
    }

    fn get_brand(&self) -> usize {
        0
    }

    fn get_ptr(&self) -> usize {
        self.0.get_ptr()
    }

    fn get_resolved(&self) -> Option<Box<dyn ClientHook>> {
        None
    }

    fn when_more_resolved(&self) -> Option<Promise<Box<dyn ClientHook>, Error>> {
        None
    }

    fn when_resolved(&self) -> Promise<(), Error> {
        Promise::ok(())
    }
}
