//! What an object does to other parties: calls, and letting go of what it holds of them.

use std::rc::Rc;

use capnp::{
    Error,
    capability::{Promise, RemotePromise, Response},
    private::capability::ClientHook,
};
use futures::channel::oneshot;

use super::{
    gate::{Output, Way},
    instance::Instance,
    membrane::InwardPipeline,
};
use crate::call::{Chain, Message, PipelineResolver, settled};

/// A call to another party, held back.
pub(super) struct Outgoing {
    pub target: Box<dyn ClientHook>,
    pub interface_id: u64,
    pub method_id: u16,
    pub params: Message,
    /// The chain of the event that makes it.
    pub chain: Option<Chain>,
    pub sent: Sent,
}

/// The object's code that waits for the outcome of an [`Outgoing`] call.
pub(super) enum Sent {
    Call {
        promise: oneshot::Sender<Promise<Response<capnp::any_pointer::Owned>, Error>>,
        pipeline: PipelineResolver,
        caller: Rc<Instance>,
    },
    Stream(oneshot::Sender<Promise<(), Error>>),
}

impl Output for Box<Outgoing> {
    const WAY: Way = Way::Call;

    fn release(self) {
        let Outgoing {
            target,
            interface_id,
            method_id,
            params,
            chain,
            sent,
        } = *self;
        let target = settled(target);
        let request = params.reader().and_then(|params| {
            let size = params.target_size()?;
            let mut request = target.new_call(interface_id, method_id, Some(size));
            request.hook.get().set_as(params)?;
            Ok(request)
        });
        match (request, sent) {
            (
                Ok(request),
                Sent::Call {
                    promise: tell,
                    pipeline: resolver,
                    caller,
                },
            ) => {
                let RemotePromise { promise, pipeline } =
                    Chain::send(chain, || request.hook.send());
                let pipeline = pipeline.hook;
                resolver.follow(Box::new(InwardPipeline::new(caller, pipeline)));
                let _ = tell.send(promise);
            }
            (Ok(request), Sent::Stream(tell)) => {
                let _ = tell.send(Chain::send(chain, || request.hook.send_streaming()));
            }
            (Err(error), Sent::Call { promise, .. }) => {
                let _ = promise.send(Promise::err(error));
            }
            (Err(error), Sent::Stream(promise)) => {
                let _ = promise.send(Promise::err(error));
            }
        }
    }

    fn fail(self, _: &crate::Error) {}
}

/// Something of another party's that an object holds. When the object's code drops it, the other party
/// may notice (`Release`, `Finish`), so it passes the gate.
pub(super) struct Held<T: 'static> {
    instance: Rc<Instance>,
    value: Option<T>,
}

impl<T: 'static> Held<T> {
    pub fn new(instance: Rc<Instance>, value: T) -> Held<T> {
        Held {
            instance,
            value: Some(value),
        }
    }

    /// The instance that holds it.
    pub fn instance(&self) -> &Rc<Instance> {
        &self.instance
    }

    /// Takes it out, not to be let go of.
    pub fn into_inner(mut self) -> T {
        self.value.take().expect("it is there until it is dropped")
    }
}

impl<T: 'static> std::ops::Deref for Held<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.value
            .as_ref()
            .expect("it is there until it is dropped")
    }
}

impl<T: 'static> std::ops::DerefMut for Held<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.value
            .as_mut()
            .expect("it is there until it is dropped")
    }
}

impl<T: 'static> Drop for Held<T> {
    fn drop(&mut self) {
        if let Some(value) = self.value.take() {
            self.instance.let_go(LetGo(value));
        }
    }
}

/// Something that an object has let go of.
struct LetGo<T>(T);

impl<T: 'static> Output for LetGo<T> {
    const WAY: Way = Way::LetGo;

    fn release(self) {
        drop(self.0);
    }

    /// The end of the instance lets go of it.
    fn fail(self, _: &crate::Error) {}
}
