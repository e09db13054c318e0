//! The membrane: every capability that crosses the edge of an object is wrapped.
//!
//! - One of the object's own, on its way out, becomes [`Inside`]: a call on it is an event of the
//!   object, in its mailbox, in a turn, behind its gate.
//! - Somebody else's, on its way in, becomes [`Outside`]: a call on it is something the object says,
//!   so it waits at the output gate.
//! - One that comes home is unwrapped.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::{Rc, Weak},
};

use capnp::{
    Error, MessageSize, any_pointer,
    capability::{Promise, RemotePromise, Request, Response},
    private::capability::{
        ClientHook, ParamsHook, PipelineHook, PipelineOp, RequestHook, ResponseHook, ResultsHook,
    },
};
use futures::channel::oneshot;

use super::{
    awake::KeepAwake,
    event::{EventTarget, What},
    instance::Instance,
    life::{Life, Why},
    outgoing::{Held, Outgoing, Sent},
    sections::SectionId,
    slot::{Slot, shielded},
};
use crate::{
    Error as VatError,
    call::{
        Call, Capability, Chain, Hook, Message, Pin, Reply, SharedResponse, Target, deferred,
        has_caps, settled,
    },
    fault,
};

/// The capabilities that have crossed one instance's edge and are still held. Wrapping the same one
/// twice for the same connection gives the same wrapper.
#[derive(Default)]
pub(super) struct Membrane {
    inside: RefCell<Crossed<Inside>>,
    outside: RefCell<Crossed<Outside>>,
}

/// A capability by its pointer, and whose wrapper for it that is: the pins of a connection, by their
/// pointer. Zero for a wrapper that anybody may hold.
type Key = (usize, usize);

struct Crossed<T> {
    by_raw: HashMap<Key, Weak<T>>,
    by_wrapper: HashMap<usize, Weak<T>>,
}

impl<T> Default for Crossed<T> {
    fn default() -> Self {
        Crossed {
            by_raw: HashMap::new(),
            by_wrapper: HashMap::new(),
        }
    }
}

impl<T> Crossed<T> {
    fn insert(&mut self, raw: Key, wrapper: &Rc<T>) {
        self.by_raw.insert(raw, Rc::downgrade(wrapper));
        self.by_wrapper
            .insert(Rc::as_ptr(wrapper) as usize, Rc::downgrade(wrapper));
    }

    /// Forgets a wrapper that is being dropped.
    fn remove(&mut self, raw: Key, wrapper: usize) {
        self.by_wrapper.remove(&wrapper);
        // A new wrapper may have taken the place already.
        if self
            .by_raw
            .get(&raw)
            .is_some_and(|found| found.as_ptr() as usize == wrapper)
        {
            self.by_raw.remove(&raw);
        }
    }

    fn wrapper_of(&self, raw: Key) -> Option<Rc<T>> {
        self.by_raw.get(&raw)?.upgrade()
    }

    fn wrapped_by(&self, wrapper: usize) -> Option<Rc<T>> {
        self.by_wrapper.get(&wrapper)?.upgrade()
    }
}

impl Membrane {
    /// Lets go of everything behind the capabilities that others still hold.
    pub fn close(&self, slot: &Slot) {
        let inside = std::mem::take(&mut *self.inside.borrow_mut());
        for inside in inside
            .by_wrapper
            .into_values()
            .filter_map(|inside| inside.upgrade())
        {
            shielded(slot, || drop(inside.raw.take()));
            inside.keeps_awake.take();
            inside.pin.take();
        }
    }
}

impl Instance {
    /// What the object's capability becomes outside. It counts on the pins of the connection that the
    /// event whose turn this is came by.
    pub(super) fn outward(self: &Rc<Self>, cap: Box<dyn ClientHook>) -> Box<dyn ClientHook> {
        let cap = settled(cap);
        let raw = cap.get_ptr();
        if let Some(outside) = self.membrane.outside.borrow().wrapped_by(raw) {
            return outside.raw.add_ref();
        }
        let pins = self.current().and_then(|flow| flow.pins.clone());
        let key = (
            raw,
            pins.as_ref().map_or(0, |pins| Rc::as_ptr(pins) as usize),
        );
        if let Some(inside) = self.membrane.inside.borrow().wrapper_of(key) {
            inside.chain.set(self.current_chain());
            return Box::new(Hook(inside));
        }
        let pin = pins.map(|pins| pins.pin(self.slot.id));
        if let Some(lent) = self.membrane.inside.borrow().wrapped_by(raw) {
            if let Some(pin) = pin {
                lent.pin.borrow_mut().get_or_insert(pin);
            }
            return cap;
        }
        self.hand_out(cap, key, Some(KeepAwake::new(self)), pin)
    }

    /// A capability of the object's own as others hold it, which does not keep the instance awake. It may
    /// pass [`Instance::outward`] as it is.
    pub(super) fn lend(self: &Rc<Self>, cap: Box<dyn ClientHook>) -> Box<dyn ClientHook> {
        let cap = settled(cap);
        let key = (cap.get_ptr(), 0);
        self.hand_out(cap, key, None, None)
    }

    fn hand_out(
        self: &Rc<Self>,
        cap: Box<dyn ClientHook>,
        key: Key,
        keeps_awake: Option<KeepAwake>,
        pin: Option<Pin>,
    ) -> Box<dyn ClientHook> {
        let inside = Rc::new(Inside {
            instance: Rc::downgrade(self),
            life: self.life.clone(),
            key,
            raw: RefCell::new(Some(cap)),
            section: self.current_section(),
            chain: Cell::new(self.current_chain()),
            is_lent: keeps_awake.is_none(),
            keeps_awake: RefCell::new(keeps_awake),
            pin: RefCell::new(pin),
        });
        self.membrane.inside.borrow_mut().insert(key, &inside);
        Box::new(Hook(inside))
    }

    /// What somebody else's capability becomes inside.
    pub(super) fn inward(self: &Rc<Self>, cap: Box<dyn ClientHook>) -> Box<dyn ClientHook> {
        let cap = settled(cap);
        let raw = cap.get_ptr();
        if let Some(inside) = self.membrane.inside.borrow().wrapped_by(raw)
            && let Some(own) = &*inside.raw.borrow()
        {
            return own.add_ref();
        }
        if let Some(outside) = self.membrane.outside.borrow().wrapper_of((raw, 0)) {
            return Box::new(Hook(outside));
        }
        let outside = Rc::new(Outside {
            key: (raw, 0),
            raw: Held::new(self.clone(), cap),
        });
        self.membrane
            .outside
            .borrow_mut()
            .insert(outside.key, &outside);
        Box::new(Hook(outside))
    }

    /// Parameters as the object sees them.
    pub(super) fn inward_params(
        self: &Rc<Self>,
        params: Box<dyn ParamsHook>,
    ) -> capnp::Result<Box<dyn ParamsHook>> {
        if !has_caps(params.get()?)? {
            return Ok(params);
        }
        Ok(Box::new(self.copied_inward(params.get()?)?))
    }

    fn copied_inward(self: &Rc<Self>, reader: any_pointer::Reader<'_>) -> capnp::Result<Message> {
        let mut message = Message::copy_of(reader)?;
        message.map_caps(|cap| self.inward(cap));
        Ok(message)
    }

    fn inward_response(
        self: &Rc<Self>,
        response: Response<any_pointer::Owned>,
    ) -> capnp::Result<Response<any_pointer::Owned>> {
        let response = Held::new(self.clone(), response);
        if !has_caps(response.get()?)? {
            return Ok(Response::new(Box::new(HeldResponse(response))));
        }
        let message = self.copied_inward(response.get()?)?;
        Ok(Response::new(Box::new(SharedResponse(Rc::new(message)))))
    }
}

/// A response without capabilities, as the object holds it.
struct HeldResponse(Held<Response<any_pointer::Owned>>);

impl ResponseHook for HeldResponse {
    fn get(&self) -> capnp::Result<any_pointer::Reader<'_>> {
        self.0.get()
    }
}

/// A capability of the object's own, as others hold it.
pub(super) struct Inside {
    instance: Weak<Instance>,
    life: Rc<Life>,
    raw: RefCell<Option<Box<dyn ClientHook>>>,
    key: Key,
    section: Option<SectionId>,
    /// The chain of the event that last handed the capability out.
    chain: Cell<Option<Chain>>,
    /// Whether its server says by itself how long the instance stays awake.
    is_lent: bool,
    /// Until the instance is gone.
    keeps_awake: RefCell<Option<KeepAwake>>,
    /// Until the instance is gone, if a connection got it.
    pin: RefCell<Option<Pin>>,
}

impl Inside {
    /// The error of a call when the instance is gone. What was lent had ended if the instance could sleep.
    fn gone(&self) -> VatError {
        match self.life.ending() {
            Some(Why::Asleep(_)) if self.is_lent => {
                VatError::Closed("it had ended, and its object has slept since")
            }
            _ => {
                let gone = "the instance that handed out this capability is gone";
                VatError::ObjectReset(gone.into())
            }
        }
    }

    /// The chain of a call on the capability. While the event that handed it out holds a serial object,
    /// the call belongs to that event: it may be what the event waits for.
    fn chain_of(&self, instance: &Instance, call: &Call) -> Option<Chain> {
        let own = self.chain.get();
        match own {
            Some(chain) if instance.slot.serial.is_held_by(chain) => own,
            _ => call.chain,
        }
    }
}

impl Target for Inside {
    fn deliver(&self, call: Call) {
        let raw = self.raw.borrow().as_ref().map(|raw| raw.add_ref());
        match (self.instance.upgrade(), raw) {
            (Some(instance), Some(raw)) if !instance.life.is_over() => {
                let section = self.section.clone();
                let (chain, caller) = (self.chain_of(&instance, &call), call.chain);
                let what = What::Call(EventTarget::Capability(raw), call);
                let slot = &instance.slot;
                slot.push_for(&instance.host, section, chain, caller, what);
            }
            _ => call.reply.finish(Err(fault::not_delivered(self.gone()))),
        }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        let Some(instance) = self.instance.upgrade() else {
            return;
        };
        // Whoever lets go last, a connection maybe, has no part in what the class does then.
        shielded(&instance.slot, || drop(self.raw.take()));
        let membrane = &instance.membrane;
        membrane
            .inside
            .borrow_mut()
            .remove(self.key, self as *const Inside as usize);
    }
}

/// Somebody else's capability, as the object holds it.
pub(super) struct Outside {
    raw: Held<Box<dyn ClientHook>>,
    key: Key,
}

impl Drop for Outside {
    fn drop(&mut self) {
        let membrane = &self.raw.instance().membrane;
        let mut outside = membrane.outside.borrow_mut();
        outside.remove(self.key, self as *const Outside as usize);
    }
}

impl Capability for Outside {
    fn request(
        self: &Rc<Self>,
        interface_id: u64,
        method_id: u16,
        size_hint: Option<MessageSize>,
    ) -> Request<any_pointer::Owned, any_pointer::Owned> {
        let params = Message::new(size_hint.map(|size| size.word_count));
        let outside = self.clone();
        Request::new(Box::new(OutsideRequest {
            outside,
            interface_id,
            method_id,
            params,
        }))
    }

    fn answer(
        self: &Rc<Self>,
        interface_id: u64,
        method_id: u16,
        params: Box<dyn ParamsHook>,
        results: Box<dyn ResultsHook>,
    ) -> Promise<(), Error> {
        let (reply, done) = Reply::to_results(results);
        Call::sending(interface_id, method_id, params, reply).forward_to(&Hook(self.clone()));
        done
    }
}

struct OutsideRequest {
    outside: Rc<Outside>,
    interface_id: u64,
    method_id: u16,
    params: Message,
}

impl OutsideRequest {
    /// Puts the call before the gate.
    fn pass(self, sent: Sent) -> Rc<Instance> {
        let OutsideRequest {
            outside,
            interface_id,
            method_id,
            mut params,
        } = self;
        let instance = outside.raw.instance().clone();
        params.map_caps(|cap| instance.outward(cap));
        let target = outside.raw.add_ref();
        let outgoing = Outgoing {
            target,
            interface_id,
            method_id,
            params,
            chain: instance.current_chain(),
            sent,
        };
        instance.say(Box::new(outgoing));
        instance
    }
}

impl RequestHook for OutsideRequest {
    fn get(&mut self) -> any_pointer::Builder<'_> {
        self.params.root()
    }

    fn get_brand(&self) -> usize {
        0
    }

    fn send(self: Box<Self>) -> RemotePromise<any_pointer::Owned> {
        let (tell, told) = oneshot::channel();
        let (pipeline, resolver) = deferred(None);
        let caller = self.outside.raw.instance().clone();
        let instance = self.pass(Sent::Call {
            promise: tell,
            pipeline: resolver,
            caller,
        });
        let promise = Promise::from_future(async move {
            let sent = told.await.map_err(|_| never_left())?;
            let response = finished(Held::new(instance.clone(), sent)).await?;
            instance.inward_response(response)
        });
        RemotePromise {
            promise,
            pipeline: any_pointer::Pipeline::new(pipeline),
        }
    }

    fn send_streaming(self: Box<Self>) -> Promise<(), Error> {
        let (tell, told) = oneshot::channel();
        let instance = self.pass(Sent::Stream(tell));
        Promise::from_future(async move {
            let sent = told.await.map_err(|_| never_left())?;
            finished(Held::new(instance, sent)).await
        })
    }

    fn tail_send(self: Box<Self>) -> Option<(u32, Promise<(), Error>, Box<dyn PipelineHook>)> {
        None
    }
}

/// Waits for a call that the object has made. If the object's code drops this before, the other party
/// hears of it by way of the gate.
async fn finished<T: 'static>(mut sent: Held<Promise<T, Error>>) -> Result<T, Error> {
    let outcome = (&mut *sent).await;
    // Nothing is left of it to be let go of.
    drop(sent.into_inner());
    outcome
}

fn never_left() -> Error {
    VatError::ObjectReset("the call never left the object".into()).into()
}

/// The results of a call that the object makes, while the call is not over: capabilities in them come
/// in through the membrane like any others.
pub(super) struct InwardPipeline {
    instance: Rc<Instance>,
    pipeline: Held<Box<dyn PipelineHook>>,
}

impl InwardPipeline {
    pub fn new(instance: Rc<Instance>, pipeline: Box<dyn PipelineHook>) -> InwardPipeline {
        let pipeline = Held::new(instance.clone(), pipeline);
        InwardPipeline { instance, pipeline }
    }
}

impl PipelineHook for InwardPipeline {
    fn add_ref(&self) -> Box<dyn PipelineHook> {
        let instance = self.instance.clone();
        Box::new(InwardPipeline::new(instance, self.pipeline.add_ref()))
    }

    fn get_pipelined_cap(&self, ops: &[PipelineOp]) -> Box<dyn ClientHook> {
        self.instance.inward(self.pipeline.get_pipelined_cap(ops))
    }
}
