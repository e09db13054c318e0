//! `capnp` hooks for capabilities that live in this process.

use std::rc::Rc;

use capnp::{
    Error, MessageSize, any_pointer,
    capability::{Promise, RemotePromise, Request},
    private::capability::{ClientHook, ParamsHook, PipelineHook, RequestHook, ResultsHook},
};

use super::{Call, HangUp, Message, Reply, settled};

/// A capability as the vat implements it: [`Hook`] makes it one of `capnp`. What takes calls whole
/// implements [`Target`] instead.
pub trait Capability: 'static {
    /// A new call, whose parameters the caller fills in before it sends it.
    fn request(
        self: &Rc<Self>,
        interface_id: u64,
        method_id: u16,
        size_hint: Option<MessageSize>,
    ) -> Request<any_pointer::Owned, any_pointer::Owned>;

    /// Answers a call that is already made, by a connection mostly.
    fn answer(
        self: &Rc<Self>,
        interface_id: u64,
        method_id: u16,
        params: Box<dyn ParamsHook>,
        results: Box<dyn ResultsHook>,
    ) -> Promise<(), Error>;

    /// The capability that a promised one has resolved to. `None` for all others: nothing may go round
    /// them.
    fn resolved(&self) -> Option<Box<dyn ClientHook>> {
        None
    }

    /// Tells when a promised capability resolves, and to what.
    fn more_resolved(self: &Rc<Self>) -> Option<Promise<Box<dyn ClientHook>, Error>> {
        None
    }
}

/// Something that takes calls.
pub trait Target: 'static {
    /// Takes one call. Everything that decides the order of calls happens before this returns.
    fn deliver(&self, call: Call);

    /// See [`Capability::resolved`].
    fn resolved(&self) -> Option<Box<dyn ClientHook>> {
        None
    }

    /// See [`Capability::more_resolved`].
    fn more_resolved(self: Rc<Self>) -> Option<Promise<Box<dyn ClientHook>, Error>> {
        None
    }
}

impl<T: Target> Capability for T {
    fn request(
        self: &Rc<Self>,
        interface_id: u64,
        method_id: u16,
        size_hint: Option<MessageSize>,
    ) -> Request<any_pointer::Owned, any_pointer::Owned> {
        if let Some(target) = Target::resolved(&**self) {
            return target.new_call(interface_id, method_id, size_hint);
        }
        let message = Message::new(size_hint.map(|size| size.word_count));
        let target = self.clone();
        Request::new(Box::new(LocalRequest {
            target,
            interface_id,
            method_id,
            message,
        }))
    }

    fn answer(
        self: &Rc<Self>,
        interface_id: u64,
        method_id: u16,
        params: Box<dyn ParamsHook>,
        results: Box<dyn ResultsHook>,
    ) -> Promise<(), Error> {
        let (mut reply, done) = Reply::to_results(results);
        reply.listen_for(HangUp::of(params.as_ref()));
        self.deliver(Call::sending(interface_id, method_id, params, reply));
        done
    }

    fn resolved(&self) -> Option<Box<dyn ClientHook>> {
        Target::resolved(self)
    }

    fn more_resolved(self: &Rc<Self>) -> Option<Promise<Box<dyn ClientHook>, Error>> {
        Target::more_resolved(self.clone())
    }
}

/// The vat's one implementation of `capnp`'s hook for capabilities.
pub struct Hook<T>(pub Rc<T>);

impl<T: Capability> ClientHook for Hook<T> {
    fn add_ref(&self) -> Box<dyn ClientHook> {
        Box::new(Hook(self.0.clone()))
    }

    fn new_call(
        &self,
        interface_id: u64,
        method_id: u16,
        size_hint: Option<MessageSize>,
    ) -> Request<any_pointer::Owned, any_pointer::Owned> {
        self.0.request(interface_id, method_id, size_hint)
    }

    fn call(
        &self,
        interface_id: u64,
        method_id: u16,
        params: Box<dyn ParamsHook>,
        results: Box<dyn ResultsHook>,
    ) -> Promise<(), Error> {
        self.0.answer(interface_id, method_id, params, results)
    }

    fn get_brand(&self) -> usize {
        0
    }

    fn get_ptr(&self) -> usize {
        Rc::as_ptr(&self.0) as *const () as usize
    }

    fn get_resolved(&self) -> Option<Box<dyn ClientHook>> {
        self.0.resolved()
    }

    fn when_more_resolved(&self) -> Option<Promise<Box<dyn ClientHook>, Error>> {
        self.0.more_resolved()
    }

    fn when_resolved(&self) -> Promise<(), Error> {
        let next = self.when_more_resolved();
        Promise::from_future(async move {
            let mut next = next;
            while let Some(promise) = next {
                next = settled(promise.await?).when_more_resolved();
            }
            Ok(())
        })
    }
}

struct LocalRequest<T> {
    target: Rc<T>,
    interface_id: u64,
    method_id: u16,
    message: Message,
}

impl<T: Target> RequestHook for LocalRequest<T> {
    fn get(&mut self) -> any_pointer::Builder<'_> {
        self.message.root()
    }

    fn get_brand(&self) -> usize {
        0
    }

    fn send(self: Box<Self>) -> RemotePromise<any_pointer::Owned> {
        let LocalRequest {
            target,
            interface_id,
            method_id,
            message,
        } = *self;
        let (reply, sent) = Reply::local();
        let params = Box::new(message);
        target.deliver(Call::sending(interface_id, method_id, params, reply));
        sent
    }

    fn send_streaming(self: Box<Self>) -> Promise<(), Error> {
        let sent = self.send();
        Promise::from_future(async move { sent.promise.await.map(|_| ()) })
    }

    fn tail_send(self: Box<Self>) -> Option<(u32, Promise<(), Error>, Box<dyn PipelineHook>)> {
        None
    }
}
