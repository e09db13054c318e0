//! `capnp` hooks for capabilities that live in this process.

use std::rc::Rc;

use capnp::{
    Error, MessageSize, any_pointer,
    capability::{Promise, RemotePromise, Request},
    private::capability::{ClientHook, ParamsHook, PipelineHook, RequestHook, ResultsHook},
};

use super::{Call, HangUp, Message, Reply, settled};

/// Something that takes calls.
pub trait Target: 'static {
    /// Takes one call. Everything that decides the order of calls happens before this returns.
    fn deliver(&self, call: Call);

    /// For a target that is only a promise: what it has resolved to. Others are settled: nothing may
    /// go round them.
    fn resolved(&self) -> Option<Box<dyn ClientHook>> {
        None
    }

    /// For a target that is only a promise: tells when it resolves, and to what.
    fn more_resolved(self: Rc<Self>) -> Option<Promise<Box<dyn ClientHook>, Error>> {
        None
    }
}

/// A capability for a [`Target`].
pub struct Hook<T>(pub Rc<T>);

impl<T: Target> ClientHook for Hook<T> {
    fn add_ref(&self) -> Box<dyn ClientHook> {
        Box::new(Hook(self.0.clone()))
    }

    fn new_call(
        &self,
        interface_id: u64,
        method_id: u16,
        size_hint: Option<MessageSize>,
    ) -> Request<any_pointer::Owned, any_pointer::Owned> {
        if let Some(target) = self.0.resolved() {
            return target.new_call(interface_id, method_id, size_hint);
        }
        let message = Message::new(size_hint.map(|size| size.word_count));
        let target = self.0.clone();
        Request::new(Box::new(LocalRequest {
            target,
            interface_id,
            method_id,
            message,
        }))
    }

    fn call(
        &self,
        interface_id: u64,
        method_id: u16,
        params: Box<dyn ParamsHook>,
        results: Box<dyn ResultsHook>,
    ) -> Promise<(), Error> {
        let (mut reply, done) = Reply::to_results(results);
        reply.listen_for(HangUp::of(params.as_ref()));
        self.0
            .deliver(Call::sending(interface_id, method_id, params, reply));
        done
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
        self.0.clone().more_resolved()
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
