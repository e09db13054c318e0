//! The place of one object in a vat, while anything is wanted of it: where events queue. It outlives
//! instances, and so does its queue.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
    task::{Poll, Waker},
    time::Duration,
};

use tokio::time::Instant;
use tracing::Span;
use vatwerk::ObjectId;

use super::{
    class::ClassEntry,
    deletion::Deleted,
    event::{Event, Ticket, What},
    host::Host,
    life::{Life, Why},
    sections::SectionId,
    serial::Serial,
};
use crate::{
    Error, Result,
    call::Chain,
    folder::DatabaseId,
    metrics::{ClassMetrics, Eviction, Overload},
    panics::{self, Panic},
};

/// One object that is awake, waking, ending or being deleted.
pub(super) struct Slot {
    pub id: ObjectId,
    pub class: Rc<ClassEntry>,
    name: RefCell<Option<Rc<str>>>,
    queue: RefCell<VecDeque<Event>>,
    stirred: Cell<bool>,
    waker: Cell<Option<Waker>>,
    /// Calls and other events, and background work.
    in_flight: Cell<u64>,
    life: RefCell<Rc<Life>>,
    /// Whose turn it is, of a class that takes one call at a time.
    pub serial: Serial,
    /// The chain of `create` and `activate`, while they run.
    waking: Cell<Option<Chain>>,
    /// The wish that the object sleeps as soon as it is idle.
    evict: Cell<Option<Eviction>>,
    deletions: RefCell<Vec<Deleted>>,
    ended: tokio::sync::Notify,
    last_used: Cell<Instant>,
    /// Where the slot stands among those that may have to make room.
    pub rank: Cell<Instant>,
    pub metrics: Rc<ClassMetrics>,
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
    /// How many capabilities of its own keep it awake, because others hold them.
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
    /// There is no instance.
    #[default]
    Asleep,
    /// The instance is opening its database, or in `create` or `activate`.
    Waking,
    /// The instance takes calls.
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

/// The next thing for a slot's task to do, when there is no instance.
pub(super) enum Next {
    /// Events wait for an instance.
    Wake(Rc<Life>),
    /// These callers wait for the end of the object.
    Delete(Vec<Deleted>),
    /// Nothing is wanted of the object.
    Leave,
}

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
            life: RefCell::new(Life::waking()),
            serial: Serial::default(),
            waking: Cell::default(),
            evict: Cell::default(),
            deletions: RefCell::default(),
            ended: tokio::sync::Notify::new(),
            last_used: Cell::new(Instant::now()),
            rank: Cell::new(Instant::now()),
            metrics,
            vat,
        }
    }

    /// Queues an event, or refuses it. The event is counted before anything else, so queues are bounded.
    pub fn push(
        self: &Rc<Self>,
        host: &Host,
        section: Option<SectionId>,
        chain: Option<Chain>,
        what: What,
    ) {
        self.push_for(host, section, chain, None, what);
    }

    /// Queues an event of a chain that is not that of its caller: what a running event has handed out is
    /// called, and belongs to that event.
    pub fn push_for(
        self: &Rc<Self>,
        host: &Host,
        section: Option<SectionId>,
        chain: Option<Chain>,
        caller: Option<Chain>,
        what: What,
    ) {
        match self.admit(host, &[chain, caller], &what) {
            Ok(()) => {
                let chain = chain.unwrap_or_else(|| host.chains.begin());
                let caller = caller.filter(|caller| *caller != chain);
                self.enqueue(section, chain, caller, what);
            }
            Err(error) => {
                if let Error::Overloaded { .. } = error {
                    host.metrics.overloaded(Overload::Calls);
                }
                self.count_refused(&what, &error, Duration::ZERO);
                what.refuse(error);
            }
        }
    }

    fn enqueue(
        self: &Rc<Self>,
        section: Option<SectionId>,
        chain: Chain,
        caller: Option<Chain>,
        what: What,
    ) {
        let now = Instant::now();
        self.last_used.set(now);
        self.queue.borrow_mut().push_back(Event {
            section,
            chain,
            caller,
            what,
            ticket: Ticket::new(self),
            span: Span::current(),
            since: now,
        });
        self.stir();
    }

    fn admit(&self, host: &Host, chains: &[Option<Chain>], what: &What) -> Result<()> {
        if host.is_abandoned() {
            return Err(Error::ShuttingDown);
        }
        if what.is_always_admitted() {
            return Ok(());
        }
        host.waking.check(self, chains)?;
        self.check_room(&host.limits)
    }

    /// Refuses further work while too much is in flight.
    pub fn check_room(&self, limits: &super::Limits) -> Result<()> {
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

    /// Counts one more event.
    pub fn count_in(&self) {
        self.in_flight.set(self.in_flight.get() + 1);
        self.vat.calls.set(self.vat.calls.get() + 1);
    }

    /// Counts one event less.
    pub fn count_out(&self) {
        self.in_flight.set(self.in_flight.get() - 1);
        self.vat.calls.set(self.vat.calls.get() - 1);
        if self.vat.calls.get() == 0 {
            self.vat.none.notify_waiters();
        }
        if self.is_quiet() {
            self.last_used.set(Instant::now());
            self.stir();
        }
    }

    /// The next event that `admits` lets in, in order.
    pub fn next(&self, admits: impl Fn(&Event) -> bool) -> Option<Event> {
        let mut queue = self.queue.borrow_mut();
        let next = queue.iter().position(admits)?;
        queue.remove(next)
    }

    /// Looks at the events that wait, in order.
    pub fn each_event(&self, look: impl FnMut(&Event)) {
        self.queue.borrow().iter().for_each(look);
    }

    /// Waits for a reason to look again: an event, a wish, a capability let go.
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

    /// Makes the slot's task look again.
    pub fn stir(&self) {
        self.stirred.set(true);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Decides what the slot's task does next, when there is no instance: a deletion that was asked for
    /// comes before the events that wait for the object that is made after it.
    pub fn next_life(&self, host: &Host) -> Next {
        let deletions = self.deletions.take();
        if !deletions.is_empty() {
            self.life.replace(Life::deleting());
            return Next::Delete(deletions);
        }
        if host.is_abandoned() {
            self.refuse_queued(&Error::ShuttingDown);
        }
        if self.queue.borrow().is_empty() {
            return Next::Leave;
        }
        if self.is_ending() {
            // A life that ended before there was an instance leaves nothing to wait for.
            self.rest();
            self.life.replace(Life::waking());
        }
        Next::Wake(self.life.borrow().clone())
    }

    /// Ends the instance that there is, if any. The first reason stands.
    pub fn end(&self, why: Why) {
        self.life.borrow().end(why);
        self.stir();
    }

    /// Whether the instance is ending, or the object is being deleted.
    pub fn is_ending(&self) -> bool {
        self.life.borrow().is_over()
    }

    /// Announces that the instance is gone, and its database closed.
    pub fn rest(&self) {
        self.ended.notify_waiters();
    }

    /// Waits until the instance that there is now is gone.
    pub async fn rested(&self) {
        self.ended.notified().await;
    }

    /// Refuses all events in the queue.
    pub fn refuse_queued(&self, error: &Error) {
        self.refuse(error, |_| true);
    }

    /// Refuses the events that only an instance that is gone could deal with.
    pub fn refuse_bound(&self) {
        let gone = "the instance that handed out this capability is gone";
        self.refuse(&Error::ObjectReset(gone.into()), |what| what.is_bound());
    }

    /// Refuses what was said on sockets that were closed with the instance.
    pub fn refuse_socket_events(&self, error: &Error) {
        self.refuse(error, |what| matches!(what, What::Socket(_)));
    }

    fn refuse(&self, error: &Error, which: impl Fn(&What) -> bool) {
        let refused = |event: &Event| which(&event.what);
        while let Some(event) = self.next(refused) {
            self.count_refused(&event.what, error, event.since.elapsed());
            // What the parameters hold may panic when it is dropped.
            shielded(self, || event.what.refuse(error.clone()));
        }
    }

    /// Counts a call that ends before it has begun, so long after it was delivered.
    fn count_refused(&self, what: &What, error: &Error, took: Duration) {
        if let What::Call(..) | What::Fetch(_) = what {
            self.metrics.call(Err(error.code()), took);
        }
    }

    /// Answers every look at alarms that waits: there are none any more.
    pub fn silence(&self) {
        while let Some(event) = self.next(|event| matches!(event.what, What::Alarms(_))) {
            if let What::Alarms(ringing) = event.what {
                ringing.done();
            }
        }
    }

    /// The chain of `create` or `activate`, while it runs.
    pub fn waking(&self) -> Option<Chain> {
        self.waking.get()
    }

    /// Sets the chain of `create` or `activate`, for [`Waking`](super::waking::Waking).
    pub fn set_waking(&self, chain: Option<Chain>) {
        self.waking.set(chain);
    }

    /// Whether an event of that chain is queued, or one for which that chain waits.
    pub fn is_waited_for_by(&self, chain: Chain) -> bool {
        let queue = self.queue.borrow();
        let mut queue = queue.iter();
        queue.any(|event| event.chain == chain || event.caller == Some(chain))
    }

    /// The object's database.
    pub fn database(&self) -> DatabaseId {
        DatabaseId {
            class: self.class.interface_id,
            object: self.id,
        }
    }

    /// What the object looks like from outside.
    pub fn status(&self) -> Status {
        Status {
            state: self.life.borrow().state(),
            in_flight: self.in_flight.get(),
            queued: self.queued() as u64,
            handed_out: self.pins() as u64,
            ..Status::default()
        }
    }

    /// Whether an instance takes events.
    pub fn is_awake(&self) -> bool {
        self.life.borrow().state() == State::Awake
    }

    /// Whether nothing is queued or running.
    pub fn is_quiet(&self) -> bool {
        self.in_flight.get() == 0
    }

    /// How many capabilities of the instance keep it awake, because others hold them.
    pub fn pins(&self) -> usize {
        self.life.borrow().pins.get()
    }

    /// Whether nothing would be lost to anybody if the instance were gone.
    pub fn is_idle(&self) -> bool {
        self.is_quiet() && self.pins() == 0
    }

    /// How many events wait for an instance.
    pub fn queued(&self) -> usize {
        self.queue.borrow().len()
    }

    /// Whether no event waits for an instance.
    pub fn has_nothing_queued(&self) -> bool {
        self.queue.borrow().is_empty()
    }

    /// Whether a chain has the object, and events wait: it takes one call at a time.
    pub fn is_waited_for(&self) -> bool {
        self.serial.holder().is_some() && !self.has_nothing_queued()
    }

    /// The object's class and name, for people; its id if it has no name.
    pub fn label(&self) -> String {
        match self.name() {
            Some(name) => format!("{} `{name}`", self.class.name),
            None => format!("{} {}", self.class.name, self.id),
        }
    }

    /// Asks for sleep as soon as the object is idle.
    pub fn evict(&self, why: Eviction) {
        self.evict.set(Some(why));
        self.stir();
    }

    /// Why the object is to sleep as soon as it is idle, if it is.
    pub fn evicted(&self) -> Option<Eviction> {
        self.evict.get()
    }

    /// Forgets the wish that the object sleeps: it has slept.
    pub fn has_slept(&self) {
        self.evict.take();
    }

    /// Asks for the end of the object itself, once the instance has ended.
    pub fn delete(&self, tell: Deleted) {
        self.deletions.borrow_mut().push(tell);
        self.end(Why::Deleted);
    }

    pub fn last_used(&self) -> Instant {
        self.last_used.get()
    }

    pub fn name(&self) -> Option<Rc<str>> {
        self.name.borrow().clone()
    }

    /// Takes a name, if none was known before; returns whether it did.
    pub fn learn_name(&self, name: &Rc<str>) -> bool {
        let mut known = self.name.borrow_mut();
        let new = known.is_none();
        known.get_or_insert_with(|| name.clone());
        new
    }
}

/// Runs something that may run the destructors of a class's values: their panics end here.
pub(super) fn shielded<T>(slot: &Slot, what: impl FnOnce() -> T) -> Option<T> {
    let outcome = panics::caught(what);
    if let Err(Panic { message, place }) = &outcome {
        let (class, id) = (slot.class.name, slot.id);
        tracing::error!(class, %id, message, place, "a destructor of an object panicked");
    }
    outcome.ok()
}
