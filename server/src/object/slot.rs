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
use tracing::Span;
use vatwerk::ObjectId;

use super::{
    class::ClassEntry, deletion::Deleted, fetching::Fetch, host::Host, ringing::Ringing,
    sections::SectionId, sockets::SocketEvent,
};
use crate::{
    Error, Result,
    call::{Call, Chain},
    folder::DatabaseId,
    health::Runs,
    metrics::{ClassMetrics, Eviction},
};

/// One object that is awake, or waking.
pub(super) struct Slot {
    pub id: ObjectId,
    pub class: Rc<ClassEntry>,
    name: RefCell<Option<Rc<str>>>,
    queue: RefCell<VecDeque<Event>>,
    stirred: Cell<bool>,
    waker: Cell<Option<Waker>>,
    /// Calls and other events, and background work.
    in_flight: Cell<u64>,
    ended: RefCell<Option<Error>>,
    evict: Cell<Option<Eviction>>,
    gone: tokio::sync::Notify,
    abandoned: RefCell<Option<Error>>,
    deleted: RefCell<Vec<Deleted>>,
    /// How many of the object's own capabilities others hold.
    pub handed_out: Cell<usize>,
    last_used: Cell<Instant>,
    pub metrics: Rc<ClassMetrics>,
    /// Whether `activate` has succeeded.
    pub is_awake: Cell<bool>,
    vat: Rc<Load>,
}

/// What an object looks like from outside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Whether there is an instance.
    pub state: State,
    /// Calls, other events and background work, queued or running.
    pub in_flight: u64,
    /// How many of these are queued.
    pub queued: u64,
    /// How many capabilities of its own others hold.
    pub handed_out: u64,
    /// When it last woke, in milliseconds since 1970, if the vat remembers.
    pub activated_ms: Option<i64>,
    /// How many instances have ended by a failure, as far as the vat remembers.
    pub resets: u64,
    /// How many WebSockets are open.
    pub web_sockets: u32,
}

/// Whether an object has an instance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// It has none.
    #[default]
    Asleep,
    /// It is opening its database, or in `create` or `activate`.
    Waking,
    /// It takes calls.
    Awake,
}

/// How many calls are in flight in a whole vat.
#[derive(Default)]
pub(super) struct Load {
    calls: Cell<u64>,
    none: tokio::sync::Notify,
}

impl Load {
    /// How many calls are in flight.
    pub fn calls(&self) -> u64 {
        self.calls.get()
    }

    /// Waits until no call is in flight.
    pub async fn idle(&self) {
        while self.calls.get() > 0 {
            self.none.notified().await;
        }
    }
}

/// Something that has reached its object.
pub(super) struct Event {
    pub section: Option<SectionId>,
    pub chain: Chain,
    pub what: What,
    pub ticket: Ticket,
    /// What it came from, for logs: a session.
    pub span: Span,
    pub since: Instant,
}

/// What there is to do.
pub(super) enum What {
    /// To answer a call.
    Call(EventTarget, Call),
    /// To answer an HTTP request.
    Fetch(Fetch),
    /// To run the alarms that are due.
    Alarms(Ringing),
    /// To hear something on a WebSocket.
    Socket(SocketEvent),
}

impl What {
    /// What of the object its turns run.
    pub fn runs(&self) -> Runs {
        match self {
            What::Call(_, call) => Runs::Method {
                interface_id: call.interface_id,
                ordinal: call.method_id,
            },
            What::Fetch(_) => Runs::Fetch,
            What::Alarms(_) => Runs::Alarms,
            What::Socket(_) => Runs::Socket,
        }
    }

    /// It cannot be done.
    fn refuse(self, error: Error) {
        match self {
            What::Call(_, call) => call.reply.finish(Err(error.into())),
            What::Fetch(fetch) => fetch.call.reply.finish(Err(error.into())),
            What::Alarms(ringing) => ringing.end(error),
            What::Socket(event) => event.refuse(error),
        }
    }

    /// Whether it is let in however much is queued: there is a bounded number of these.
    fn is_always_admitted(&self) -> bool {
        matches!(self, What::Socket(event) if event.is_last())
    }
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
    pub fn new(
        id: ObjectId,
        class: Rc<ClassEntry>,
        name: Option<Rc<str>>,
        vat: Rc<Load>,
        metrics: Rc<ClassMetrics>,
    ) -> Slot {
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
            gone: tokio::sync::Notify::new(),
            abandoned: RefCell::default(),
            deleted: RefCell::default(),
            handed_out: Cell::default(),
            last_used: Cell::new(Instant::now()),
            metrics,
            is_awake: Cell::default(),
            vat,
        }
    }

    /// Takes an event in. It is counted before anything else, so queues are bounded.
    pub fn push(
        self: &Rc<Self>,
        host: &Host,
        section: Option<SectionId>,
        chain: Option<Chain>,
        what: What,
    ) {
        match self.admit(&host.limits, &what) {
            Ok(()) => self.enqueue(section, chain.unwrap_or_else(|| host.chains.begin()), what),
            Err(error) => {
                if let Error::Overloaded { .. } = error {
                    host.metrics.overloaded();
                }
                what.refuse(error);
            }
        }
    }

    fn enqueue(self: &Rc<Self>, section: Option<SectionId>, chain: Chain, what: What) {
        let now = Instant::now();
        self.last_used.set(now);
        self.queue.borrow_mut().push_back(Event {
            section,
            chain,
            what,
            ticket: Ticket::new(self),
            span: Span::current(),
            since: now,
        });
        self.wake();
    }

    fn admit(&self, limits: &super::Limits, what: &What) -> Result<()> {
        if let Some(error) = &*self.ended.borrow() {
            return Err(error.clone());
        }
        if what.is_always_admitted() {
            return Ok(());
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
    pub fn next(&self, admits: impl Fn(&Event) -> bool) -> Option<Event> {
        let mut queue = self.queue.borrow_mut();
        let next = queue.iter().position(admits)?;
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
            shielded(self, || event.what.refuse(error.clone()));
        }
    }

    /// There are no alarms to look at any more.
    pub fn silence(&self) {
        while let Some(event) = self.next(|event| matches!(event.what, What::Alarms(_))) {
            if let What::Alarms(ringing) = event.what {
                ringing.done();
            }
        }
    }

    /// The object's database.
    pub fn database(&self) -> DatabaseId {
        DatabaseId {
            class: self.class.interface_id,
            object: self.id,
        }
    }

    /// What it looks like from outside.
    pub fn status(&self) -> Status {
        Status {
            state: match self.is_awake.get() {
                true => State::Awake,
                false => State::Waking,
            },
            in_flight: self.in_flight.get(),
            queued: self.queue.borrow().len() as u64,
            handed_out: self.handed_out.get() as u64,
            ..Status::default()
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
    pub fn evict(&self, why: Eviction) {
        self.evict.set(Some(why));
        self.wake();
    }

    /// Why it is to go, if so.
    pub fn evicted(&self) -> Option<Eviction> {
        self.evict.get()
    }

    /// Asks for the end of the instance, whatever it is doing.
    pub fn abandon(&self, reason: Error) {
        self.abandoned.borrow_mut().get_or_insert(reason);
        self.wake();
    }

    /// Why the instance is to end, if so.
    pub fn abandoned(&self) -> Option<Error> {
        self.abandoned.borrow().clone()
    }

    /// Asks for the end of the object itself, once the instance has ended.
    pub fn delete(&self, tell: Deleted) {
        self.deleted.borrow_mut().push(tell);
        self.abandon(Error::ObjectReset("the object was deleted".into()));
    }

    /// Who has asked for the end of the object.
    pub fn take_deleted(&self) -> Vec<Deleted> {
        self.deleted.take()
    }

    /// Waits until the instance is gone.
    pub async fn gone(&self) {
        self.gone.notified().await;
    }

    /// The instance is gone.
    pub fn go(&self) {
        self.gone.notify_waiters();
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
    pub fn new(slot: &Rc<Slot>) -> Ticket {
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

impl Ticket {
    /// The numbers of the object's class.
    pub fn metrics(&self) -> &ClassMetrics {
        &self.0.metrics
    }

    /// Why the instance ended, if it has.
    pub fn ended(&self) -> Option<Error> {
        self.0.ended.borrow().clone()
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
