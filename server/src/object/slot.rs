//! The place of one object in a vat, while an instance of it is wanted: where calls queue.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
    task::{Poll, Waker},
};

use capnp::private::capability::ClientHook;
use tokio::time::Instant;
use vatwerk::ObjectId;

use super::{class::ClassEntry, gate::SectionId};
use crate::{Error, Result, call::Call};

/// One object that is awake, or waking.
pub(super) struct Slot {
    pub id: ObjectId,
    pub class: Rc<ClassEntry>,
    name: RefCell<Option<Rc<str>>>,
    queue: RefCell<VecDeque<Event>>,
    stirred: Cell<bool>,
    waker: Cell<Option<Waker>>,
    in_flight: Cell<u64>,
    ended: RefCell<Option<Error>>,
    evict: Cell<bool>,
    abandoned: Cell<bool>,
    /// How many of the object's own capabilities others hold.
    pub handed_out: Cell<usize>,
    last_used: Cell<Instant>,
    vat: Rc<Load>,
}

/// How many calls are in flight in a whole vat.
#[derive(Default)]
pub(super) struct Load {
    calls: Cell<u64>,
    none: tokio::sync::Notify,
}

impl Load {
    /// Waits until no call is in flight.
    pub async fn idle(&self) {
        while self.calls.get() > 0 {
            self.none.notified().await;
        }
    }
}

/// A call that has reached its object.
pub(super) struct Event {
    pub target: EventTarget,
    pub section: Option<SectionId>,
    pub call: Call,
    pub ticket: Ticket,
}

/// What of an object is called.
pub(super) enum EventTarget {
    /// The object itself.
    Object,
    /// A capability that it handed out.
    Capability(Box<dyn ClientHook>),
}

/// Counts a call as in flight, until its outcome has left.
pub(super) struct Ticket(Rc<Slot>);

impl Slot {
    pub fn new(id: ObjectId, class: Rc<ClassEntry>, name: Option<Rc<str>>, vat: Rc<Load>) -> Slot {
        Slot {
            id,
            class,
            name: RefCell::new(name),
            queue: RefCell::default(),
            stirred: Cell::default(),
            waker: Cell::default(),
            in_flight: Cell::default(),
            ended: RefCell::default(),
            evict: Cell::default(),
            abandoned: Cell::default(),
            handed_out: Cell::default(),
            last_used: Cell::new(Instant::now()),
            vat,
        }
    }

    /// Takes a call in. It is counted before anything else, so queues are bounded.
    pub fn push(
        self: &Rc<Self>,
        target: EventTarget,
        section: Option<SectionId>,
        call: Call,
        limits: &super::Limits,
    ) {
        if let Err(error) = self.admit(limits) {
            return call.reply.finish(Err(error.into()));
        }
        self.last_used.set(Instant::now());
        let ticket = Ticket::new(self);
        self.queue.borrow_mut().push_back(Event {
            target,
            section,
            call,
            ticket,
        });
        self.wake();
    }

    fn admit(&self, limits: &super::Limits) -> Result<()> {
        if let Some(error) = &*self.ended.borrow() {
            return Err(error.clone());
        }
        if self.in_flight.get() >= limits.calls_per_object {
            return Err(Error::Overloaded {
                what: "the queue of the object (calls)",
                limit: limits.calls_per_object,
            });
        }
        if self.vat.calls.get() >= limits.calls_per_vat {
            return Err(Error::Overloaded {
                what: "the queue of the vat (calls)",
                limit: limits.calls_per_vat,
            });
        }
        Ok(())
    }

    /// The next event that `admits` lets in, in order.
    pub fn next(&self, admits: impl Fn(Option<SectionId>) -> bool) -> Option<Event> {
        let mut queue = self.queue.borrow_mut();
        let next = queue.iter().position(|event| admits(event.section))?;
        queue.remove(next)
    }

    /// Waits for a reason to look again: a call, an eviction, a capability let go.
    pub async fn stirred(&self) {
        std::future::poll_fn(|cx| {
            if self.stirred.take() {
                return Poll::Ready(());
            }
            self.waker.set(Some(cx.waker().clone()));
            Poll::Pending
        })
        .await;
    }

    /// Makes the instance look again.
    pub fn wake(&self) {
        self.stirred.set(true);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// No instance serves this slot any more: calls in the queue, and later ones, get `error`.
    pub fn end(&self, error: Error) {
        self.ended.replace(Some(error.clone()));
        for event in self.queue.take() {
            // What the parameters hold may panic when it is dropped.
            shielded(self, || event.call.reply.finish(Err(error.clone().into())));
        }
    }

    /// Whether nothing is queued or running.
    pub fn is_quiet(&self) -> bool {
        self.in_flight.get() == 0
    }

    /// Whether nothing would be lost to anybody if the instance were gone.
    pub fn is_idle(&self) -> bool {
        self.is_quiet() && self.handed_out.get() == 0
    }

    /// Asks for eviction as soon as the object is quiet.
    pub fn evict(&self) {
        self.evict.set(true);
        self.wake();
    }

    pub fn is_evicted(&self) -> bool {
        self.evict.get()
    }

    /// Asks for the end of the instance, whatever it is doing.
    pub fn abandon(&self) {
        self.abandoned.set(true);
        self.wake();
    }

    pub fn is_abandoned(&self) -> bool {
        self.abandoned.get()
    }

    pub fn last_used(&self) -> Instant {
        self.last_used.get()
    }

    pub fn name(&self) -> Option<Rc<str>> {
        self.name.borrow().clone()
    }

    /// Takes a name, if none was known before; says whether.
    pub fn learn_name(&self, name: &Rc<str>) -> bool {
        let mut known = self.name.borrow_mut();
        let new = known.is_none();
        known.get_or_insert_with(|| name.clone());
        new
    }
}

/// Runs something that may run the destructors of a class's values: their panics end here.
pub(super) fn shielded<T>(slot: &Slot, what: impl FnOnce() -> T) -> Option<T> {
    let outcome = catch_unwind(AssertUnwindSafe(what));
    if outcome.is_err() {
        let (class, id) = (slot.class.name, slot.id);
        tracing::error!(class, %id, "a panic in a destructor of the class's");
    }
    outcome.ok()
}

impl Ticket {
    fn new(slot: &Rc<Slot>) -> Ticket {
        slot.in_flight.set(slot.in_flight.get() + 1);
        slot.vat.calls.set(slot.vat.calls.get() + 1);
        Ticket(slot.clone())
    }

    /// What the call's caller is told if its instance ended: nobody knows how far the call got.
    pub fn reason(&self) -> Error {
        match &*self.0.ended.borrow() {
            Some(Error::ObjectReset(why)) => Error::ObjectReset(why.clone()),
            Some(error) => Error::ObjectReset(format!("the instance ended: {error}")),
            None => Error::ObjectReset("the instance ended while the call was in flight".into()),
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.0.in_flight.set(self.0.in_flight.get() - 1);
        self.0.vat.calls.set(self.0.vat.calls.get() - 1);
        if self.0.vat.calls.get() == 0 {
            self.0.vat.none.notify_waiters();
        }
        if self.0.is_quiet() {
            self.0.last_used.set(Instant::now());
            self.0.wake();
        }
    }
}
