//! One activation of an object: what its code, its gate and its membrane share.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures::future::LocalBoxFuture;
use tokio::time::Instant;

use super::{
    deletion,
    event::Ticket,
    flow::Flow,
    gate::{Output, OutputGate},
    host::Host,
    life::{Life, Why},
    membrane::Membrane,
    sections::{Section, SectionId, Sections},
    slot::{Slot, shielded},
};
use crate::{
    Error, Result,
    call::Chain,
    catalog::Activity,
    fault,
    health::Runs,
    journal::Lsn,
    metrics::Reset,
    panics::{self, Panic},
    storage::{Room, Storage},
};

/// How often the catalog is told that an object has been written.
const NOTE_EVERY: Duration = Duration::from_secs(10);

/// The most pages that are given back in one commit, and the longest that this takes: all objects wait
/// meanwhile.
const GIVE_BACK_PAGES: u32 = 256;
const GIVE_BACK_LIMIT: Duration = Duration::from_millis(2);

/// Whether a database has so many free pages that it gives some back: a half of it, and 4 MiB, while the
/// object may use them again; an eighth of it, and 256 KiB, when it falls asleep. It stops at the latter.
fn is_roomy(room: Room, leaves: bool) -> bool {
    let (least, of) = if leaves { (64, 8) } else { (1024, 2) };
    room.gives_back && room.free >= least && room.free >= room.pages / of
}

/// An object awake in memory. Code may hold on to it after its end; then everything it asks fails.
pub(crate) struct Instance {
    pub(super) host: Rc<Host>,
    pub(super) slot: Rc<Slot>,
    pub(super) life: Rc<Life>,
    pub(super) storage: Storage,
    pub(super) gate: OutputGate,
    pub(super) membrane: Membrane,
    pub(super) sections: Sections,
    /// What [`Instance::wait_until`] was given and nobody runs yet.
    background: RefCell<Vec<Background>>,
    /// What the catalog is to be told when the turn is over, whatever is committed: the earliest alarm.
    next_alarm: Cell<Option<Option<i64>>>,
    /// Whether it is noted that the object has been written, when that was, and when to note it again.
    is_noted: Cell<bool>,
    written_ms: Cell<i64>,
    note_again: Cell<Instant>,
    /// Whether the database has so many free pages that some are given back when nothing else is to be done.
    is_roomy: Cell<bool>,
    /// Whether the object is deleted when the turn at hand is over.
    deletes_itself: Cell<bool>,
    /// The event whose turn this is.
    current: RefCell<Option<Rc<Flow>>>,
    /// Events whose next turn waits until the journal has got on, in order.
    held_back: RefCell<Vec<Waker>>,
}

/// Work that no caller waits for.
pub(super) struct Background {
    pub work: LocalBoxFuture<'static, capnp::Result<()>>,
    pub section: Option<SectionId>,
    pub ticket: Ticket,
}

impl Instance {
    pub fn new(host: Rc<Host>, slot: Rc<Slot>, life: Rc<Life>, storage: Storage) -> Rc<Instance> {
        let gate = OutputGate::new(&host, slot.metrics.clone(), storage.newest());
        let instance = Rc::new(Instance {
            host,
            slot,
            life,
            storage,
            gate,
            membrane: Membrane::default(),
            sections: Sections::default(),
            background: RefCell::default(),
            next_alarm: Cell::default(),
            is_noted: Cell::new(true),
            written_ms: Cell::default(),
            note_again: Cell::new(Instant::now()),
            is_roomy: Cell::default(),
            deletes_itself: Cell::default(),
            current: RefCell::default(),
            held_back: RefCell::default(),
        });
        // A write outside any turn, by a task that the class spawned, is a commit of its own.
        let weak = Rc::downgrade(&instance);
        instance.storage.on_commit(move |lsn| {
            if let Some(instance) = weak.upgrade() {
                instance.committed(lsn);
            }
        });
        let weak = Rc::downgrade(&instance);
        instance
            .storage
            .before_alarms(move |due_ms| match weak.upgrade() {
                Some(instance) => instance.expect_alarm(due_ms),
                None => Ok(()),
            });
        let weak = Rc::downgrade(&instance);
        instance.storage.before_birth(move || match weak.upgrade() {
            Some(instance) => instance.list(),
            None => Ok(()),
        });
        instance
    }

    /// The object comes into being with the commit that is about to be made: it is listed before, so that
    /// whatever exists is listed.
    fn list(&self) -> Result<()> {
        self.note_again.set(Instant::now());
        if sabotaged!(self.host, ListAfterBirth) {
            return Ok(());
        }
        self.record()
    }

    fn record(&self) -> Result<()> {
        let (slot, catalog) = (&self.slot, &self.host.catalog);
        catalog.record(slot.class.interface_id, slot.id, slot.name().as_deref())
    }

    /// The earliest alarm is to be this, as of the commit that is about to be made. The catalog never
    /// has a later time: it is told of an earlier one before, and of a later one some time after.
    fn expect_alarm(&self, due_ms: Option<i64>) -> Result<()> {
        match due_ms {
            Some(due_ms) => self.host.expect_alarm(self.slot.database(), due_ms),
            None => Ok(()),
        }
    }

    /// Notes when to look at the object's alarms next, for the catalog, which is told when the turn is over.
    pub fn note_alarm(&self, due_ms: Option<i64>) {
        self.next_alarm.set(Some(due_ms));
    }

    /// Takes note of a commit at `lsn`.
    fn committed(&self, lsn: Lsn) {
        tracing::trace!(?lsn, "committed");
        if sabotaged!(self.host, ListAfterBirth) {
            let _ = self.record();
        }
        if self.storage.was_confirmed() {
            self.gate.committed(lsn)
        } else {
            self.gate.committed_unconfirmed(lsn)
        }
        self.pass_note_on();
        self.is_noted.set(false);
        self.written_ms.set(self.host.clock.now_ms());
        let now = Instant::now();
        if now >= self.note_again.get() {
            self.note_again.set(now + NOTE_EVERY);
            self.note_activity();
        }
    }

    /// Notes for the catalog when the object was last written, and how large it is: an object of which that
    /// is noted is missed when its file is gone, so nothing is noted of one that has not come into being.
    pub fn note_activity(&self) {
        if self.storage.is_unborn() {
            return;
        }
        if let Ok(room) = self.storage.room() {
            self.is_roomy.set(is_roomy(room, false));
            let bytes = room.bytes();
            self.is_noted.set(true);
            let written_ms = self.written_ms.get();
            let activity = Activity { written_ms, bytes };
            self.host
                .note_activity(self.slot.database(), self.gate.newest(), activity);
        }
    }

    /// Gives back some of the database's free pages, in a commit of its own, if they are many. `leaves`: the
    /// object is about to fall asleep, and they need not be as many as while it may use them again. Whether
    /// there was anything to give back.
    ///
    /// Nothing of the object runs, and whoever comes meanwhile waits for [`GIVE_BACK_LIMIT`] at most.
    pub fn give_back(&self, leaves: bool) -> Result<bool> {
        let is_asked = (leaves || self.is_roomy.get()) && !self.host.is_stopping();
        let is_able = !self.storage.is_unborn() && self.storage.broken().is_none();
        if !is_asked || !is_able || self.is_behind() {
            return Ok(false);
        }
        let before = self.storage.room()?;
        if !is_roomy(before, true) {
            self.is_roomy.set(false);
            return Ok(false);
        }
        let (slot, thread) = (&self.slot, &self.host.thread);
        let class = slot.class.interface_id;
        let _turn = thread.turn(class, slot.id, Runs::GivingBack, &slot.metrics);
        self.storage.enter_turn();
        let given = self.storage.give_back(GIVE_BACK_PAGES, GIVE_BACK_LIMIT);
        self.end_turn().and(given)?;
        Ok(self.storage.room()?.pages < before.pages)
    }

    /// What became of the alarms in the turn that is over.
    fn pass_note_on(&self) {
        let committed = self.storage.take_alarm_change();
        if let Some(due_ms) = self.next_alarm.take().or(committed) {
            self.host
                .note_alarm(self.slot.database(), self.gate.newest(), due_ms);
        }
    }

    /// Polls the object's code once: a turn. What it writes is committed when the poll returns; what it
    /// says leaves when that is durable. A panic undoes the turn and ends the instance.
    ///
    /// The poll waits while a section is open that the event of `flow` is not in, and while the journal
    /// is behind. The first turn of an event waits for neither: the event is taken from the queue only
    /// when it may begin, so that events begin in the order of the queue.
    pub fn poll_turn<R>(
        &self,
        flow: &Rc<Flow>,
        cx: &mut Context<'_>,
        poll: impl FnOnce(&mut Context<'_>) -> Poll<R>,
    ) -> Poll<Result<R>> {
        if let Some(error) = self.broken().or_else(|| self.gate.lost()) {
            self.break_off(error.clone(), Reset::Storage);
            return Poll::Ready(Err(error));
        }
        if flow.has_begun.replace(true) {
            if !self.sections.admits(flow.section.borrow().as_ref()) {
                self.sections.wait(cx.waker());
                return Poll::Pending;
            }
            if self.is_behind() {
                self.hold_back(cx.waker());
                return Poll::Pending;
            }
        }
        self.current.replace(Some(flow.clone()));
        let (slot, thread) = (&self.slot, &self.host.thread);
        let class = slot.class.interface_id;
        let _turn = thread.turn(class, slot.id, flow.runs, &slot.metrics);
        self.storage.enter_turn();
        let polled = panics::caught(|| poll(cx));
        self.current.take();
        let ended = match (polled, self.broken()) {
            // The object aborted: the turn is undone.
            (Ok(_), Some(error)) => {
                self.undo_turn();
                Err((error, Reset::Abort))
            }
            (Ok(polled), None) => match self.end_turn() {
                Ok(()) => Ok(polled),
                Err(error) => Err((error, Reset::Storage)),
            },
            (Err(panic), _) => {
                self.undo_turn();
                Err((self.panicked(&panic), Reset::Panic))
            }
        };
        match ended {
            Ok(polled) => polled.map(Ok),
            Err((error, why)) => {
                self.break_off(error.clone(), why);
                // Whoever broke it need not try again; the others may.
                Poll::Ready(Err(self.storage.take_cause().unwrap_or(error)))
            }
        }
    }

    /// Whether the journal should get on before another turn: too much waits to be written, of this
    /// object or of all.
    pub fn is_behind(&self) -> bool {
        self.storage.is_ahead() || !self.host.commits.has_room()
    }

    fn hold_back(&self, waker: &Waker) {
        let mut held_back = self.held_back.borrow_mut();
        if !held_back.iter().any(|held| held.will_wake(waker)) {
            held_back.push(waker.clone());
        }
        self.slot.stir();
    }

    /// Whether turns of events that have begun wait for the journal.
    pub fn holds_back(&self) -> bool {
        !self.held_back.borrow().is_empty()
    }

    /// Waits until the journal has got on, and lets the turns go on that wait for that.
    pub async fn caught_up(&self) {
        if self.storage.is_ahead() {
            // Whether it has happened, the gate tells.
            let _ = self.host.commits.durable(self.storage.newest()).await;
        } else {
            self.host.commits.room().await;
        }
        self.held_back.take().into_iter().for_each(Waker::wake);
    }

    /// Commits what the turn wrote.
    pub fn end_turn(&self) -> Result<()> {
        if self.deletes_itself.take() {
            return self.end_object();
        }
        match self.storage.commit_turn() {
            Ok(Some(lsn)) => self.committed(lsn),
            Ok(None) => {
                self.gate.turn_ended();
                self.pass_note_on();
            }
            Err(error) => {
                self.gate.undone();
                return Err(error);
            }
        }
        self.gate.release()?;
        self.storage.broken().map_or(Ok(()), Err)
    }

    /// Undoes what the turn at hand has written and said so far.
    pub fn undo_turn(&self) {
        self.storage.rollback_turn();
        self.next_alarm.take();
        self.deletes_itself.set(false);
        self.gate.undone();
    }

    /// Has the object deleted when the turn at hand is over, in place of a commit. `invalid-argument` outside
    /// any turn, and while the object comes into being.
    pub fn delete_self(&self) -> Result<()> {
        if let Some(error) = self.broken() {
            return Err(error);
        }
        let refused = if self.current().is_none() {
            "an object deletes itself in its turns: not in a task that it has spawned"
        } else if self.storage.is_in_creation() {
            "an object that comes into being cannot delete itself: let `create` fail"
        } else {
            self.deletes_itself.set(true);
            return Ok(());
        };
        Err(Error::InvalidArgument(refused.into()))
    }

    /// Ends the object with the turn at hand. What the turn has said leaves when that is durable.
    fn end_object(&self) -> Result<()> {
        let ended = deletion::end(&self.host, &self.slot, &self.storage);
        let end = ended.inspect_err(|_| self.gate.undone())?;
        self.next_alarm.take();
        self.is_noted.set(true);
        self.gate.committed(end);
        self.life.end(Why::DeletedItself);
        self.slot.stir();
        self.gate.release()
    }

    fn panicked(&self, panic: &Panic) -> Error {
        let (class, id) = (self.slot.class.name, self.slot.id);
        let Panic { message, place } = panic;
        tracing::error!(class, %id, message, place, "an object panicked");
        Error::ObjectReset("the object panicked; the vat's log says why".into())
    }

    /// Says something to the world, as soon as the gate lets it.
    pub fn say(&self, output: impl Output) {
        if !self.life.is_over() || self.life.has_deleted_itself() {
            self.storage.speaks();
            self.pass(output);
        }
    }

    fn pass(&self, output: impl Output) {
        self.gate.pass(self.storage.is_dirty(), output);
    }

    /// An error of the object's code as it leaves the object. What of it stays inside is logged.
    pub fn leaving(&self, error: capnp::Error) -> capnp::Error {
        let (error, inside) = fault::outward(fault::coded(error));
        if let Some(inside) = inside {
            self.host.tell_inside(&self.slot, &inside);
        }
        fault::leaving(error)
    }

    /// Lets go of something of another party's, which may notice: by way of the gate, also at the end of the
    /// instance.
    pub fn let_go(&self, output: impl Output) {
        if self.life.is_over() {
            self.gate.let_go(output);
        } else {
            // Tells nobody anything of an object that does not exist.
            self.pass(output);
        }
    }

    /// Resets the instance after this turn, unless it is ending already.
    pub fn break_off(&self, error: Error, why: Reset) {
        self.life.end(Why::Reset(why, error));
        self.slot.stir();
    }

    /// Why the instance is about to be gone.
    pub fn broken(&self) -> Option<Error> {
        self.life.error()
    }

    /// The event whose turn this is; `None` in a task that the class spawned.
    pub fn current(&self) -> Option<Rc<Flow>> {
        self.current.borrow().clone()
    }

    /// The section that the event whose turn this is belongs to.
    pub fn current_section(&self) -> Option<SectionId> {
        self.current()?.section.borrow().clone()
    }

    /// The chain of calls that the event whose turn this is belongs to.
    pub fn current_chain(&self) -> Option<Chain> {
        Some(self.current()?.chain)
    }

    /// Puts the event whose turn this is, and what it hands out, in a section of its own, inside the one
    /// it is in.
    pub fn open_section(self: &Rc<Self>) -> Section {
        let id = self.sections.open();
        if let Some(flow) = self.current() {
            flow.section.replace(Some(id.clone()));
        }
        Section {
            id,
            instance: self.clone(),
        }
    }

    /// Takes work that goes on when the event whose turn this is has ended. `overloaded` if too much is
    /// in flight.
    pub fn wait_until(&self, work: LocalBoxFuture<'static, capnp::Result<()>>) -> Result<()> {
        if let Some(error) = self.broken() {
            return Err(error);
        }
        self.slot.check_room(&self.host.limits)?;
        let ticket = Ticket::new(&self.slot);
        ticket.deliver(&self.life);
        self.background.borrow_mut().push(Background {
            work,
            section: self.current_section(),
            ticket,
        });
        self.slot.stir();
        Ok(())
    }

    /// What [`Instance::wait_until`] has taken since this was last called.
    pub fn take_background(&self) -> Vec<Background> {
        self.background.take()
    }

    /// Whether nobody would notice if the instance were gone.
    pub fn is_idle(&self) -> bool {
        self.slot.is_idle() && !self.gate.is_waiting()
    }

    /// Closes the instance, which is ending: afterwards its database is closed, and nothing of it answers
    /// any more. Whatever the class does in destructors, each step is taken.
    pub fn close(&self) {
        let slot = &self.slot;
        debug_assert!(self.life.is_over(), "an instance ends before it is closed");
        if !self.is_noted.get() {
            self.note_activity();
        }
        slot.refuse_bound();
        shielded(slot, || self.gate.close());
        for background in self.take_background() {
            shielded(slot, || drop(background));
        }
        self.membrane.close(slot);
        if let Some(Err(error)) = shielded(slot, || self.storage.close()) {
            let what =
                "an object's file is not brought up to date: the journal keeps what it lacks";
            self.host.tell_failed(slot, what, &error);
        }
    }
}
