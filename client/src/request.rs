//! Calls on stubs: sent when there is room for them, and limited in time.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use capnp::{
    Error, any_pointer,
    capability::{Client, FromClientHook, Promise, RemotePromise},
    private::capability::{ClientHook, PipelineHook, PipelineOp, RequestHook},
};
use futures::{
    FutureExt,
    channel::oneshot,
    future::{LocalBoxFuture, Shared},
};
use vatwerk::{Code, Delivery};

use crate::link::Link;

/// A call on a stub that is being put together.
pub(crate) struct StubRequest {
    pub request: Box<dyn RequestHook>,
    pub link: Rc<Link>,
}

/// How far a call is that waits for room.
#[derive(Clone, Copy, PartialEq)]
enum Stage {
    Held,
    Sent,
    /// The call timeout came first: the call is never sent.
    GivenUp,
}

/// Has `send` send a call, now or when there is room, and limits how long the answer may take. A call
/// that waits for room is not sent if nobody waits for its answer any more, unless it `is_wanted`, and
/// never after the call timeout.
pub(crate) fn pass<T: 'static>(
    link: &Rc<Link>,
    is_wanted: impl Fn() -> bool + 'static,
    send: impl FnOnce() -> Promise<T, Error> + 'static,
) -> Promise<T, Error> {
    let gate = link.gate();
    if gate.is_open() {
        return link.limited(send(), || false);
    }
    let (tell, answer) = oneshot::channel();
    let stage = Rc::new(Cell::new(Stage::Held));
    let held = stage.clone();
    gate.hold(move || {
        if held.get() == Stage::Held && (is_wanted() || !tell.is_canceled()) {
            held.set(Stage::Sent);
            let _ = tell.send(send());
        }
    });
    let answer = async move { answer.await.map_err(|_| never_sent())?.await };
    link.limited(Promise::from_future(answer), move || {
        let is_held = stage.get() == Stage::Held;
        if is_held {
            stage.set(Stage::GivenUp);
        }
        is_held
    })
}

fn never_sent() -> Error {
    Error::disconnected(format!(
        "{}: the call was given up before it was sent [{}]",
        Code::Disconnected,
        Delivery::NotDelivered
    ))
}

impl RequestHook for StubRequest {
    fn get(&mut self) -> any_pointer::Builder<'_> {
        self.request.get()
    }

    fn get_brand(&self) -> usize {
        self.request.get_brand()
    }

    fn send(self: Box<Self>) -> RemotePromise<any_pointer::Owned> {
        let StubRequest { request, link } = *self;
        if link.gate().is_open() {
            let RemotePromise { promise, pipeline } = request.send();
            let promise = link.limited(promise, || false);
            return RemotePromise { promise, pipeline };
        }
        let (tell, pipeline) = oneshot::channel();
        let tell = Rc::new(RefCell::new(Some(tell)));
        let has_pipeline = {
            let tell = tell.clone();
            move || {
                tell.borrow()
                    .as_ref()
                    .is_some_and(|tell| !tell.is_canceled())
            }
        };
        let promise = pass(&link, has_pipeline, move || {
            let RemotePromise { promise, pipeline } = request.send();
            if let Some(tell) = tell.take() {
                let _ = tell.send(Rc::new(pipeline));
            }
            promise
        });
        let pipeline = pipeline.map(|sent| sent.map_err(|_| never_sent()));
        RemotePromise {
            promise,
            pipeline: any_pointer::Pipeline::new(Box::new(HeldPipeline(Rc::new(Held {
                sent: pipeline.boxed_local().shared(),
                caps: RefCell::default(),
            })))),
        }
    }

    fn send_streaming(self: Box<Self>) -> Promise<(), Error> {
        let request = self.request;
        pass(&self.link, || false, move || request.send_streaming())
    }

    fn tail_send(self: Box<Self>) -> Option<(u32, Promise<(), Error>, Box<dyn PipelineHook>)> {
        self.request.tail_send()
    }
}

/// The pipeline of a call that is not sent yet.
struct HeldPipeline(Rc<Held>);

struct Held {
    sent: Shared<LocalBoxFuture<'static, Result<Rc<any_pointer::Pipeline>, Error>>>,
    /// What was asked for before, so that all calls on it have one order.
    caps: RefCell<Vec<Pipelined>>,
}

/// A capability in the results of a call, by the fields that lead to it.
type Pipelined = (Vec<u16>, Box<dyn ClientHook>);

impl PipelineHook for HeldPipeline {
    fn add_ref(&self) -> Box<dyn PipelineHook> {
        Box::new(HeldPipeline(self.0.clone()))
    }

    fn get_pipelined_cap(&self, ops: &[PipelineOp]) -> Box<dyn ClientHook> {
        let fields = ops.iter().filter_map(|op| match op {
            PipelineOp::Noop => None,
            PipelineOp::GetPointerField(field) => Some(*field),
        });
        let path: Vec<u16> = fields.collect();
        let mut caps = self.0.caps.borrow_mut();
        if let Some((_, cap)) = caps.iter().find(|(asked, _)| *asked == path) {
            return cap.add_ref();
        }
        let (sent, steps) = (self.0.sent.clone(), path.clone());
        let cap = capnp_rpc::new_future_client::<Client>(async move {
            let mut place = sent.await?.noop();
            for field in steps {
                place = place.get_pointer_field(field);
            }
            Ok(Client::new(place.as_cap()))
        })
        .into_client_hook();
        // Its holders may call it and not wait, so somebody else has to see to it that it resolves.
        if let Some(resolved) = cap.when_more_resolved() {
            tokio::task::spawn_local(async move { drop(resolved.await) });
        }
        caps.push((path, cap.add_ref()));
        cap
    }
}
