//! One activation of an object: what its code, its gate and its membrane share.

use std::{
    cell::{Cell, RefCell},
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
    task::{Context, Poll},
};

use super::{
    gate::{Output, OutputGate, SectionId, Sections},
    host::Host,
    membrane::Membrane,
    slot::{Slot, shielded},
};
use crate::{Error, Result, storage::Storage};

/// An object awake in memory. Code may hold on to it after its end; then everything it asks fails.
pub(crate) struct Instance {
    pub(super) host: Rc<Host>,
    pub(super) slot: Rc<Slot>,
    pub(super) storage: Storage,
    pub(super) gate: OutputGate,
    pub(super) membrane: Membrane,
    pub(super) sections: Sections,
    broken: RefCell<Option<Error>>,
    unborn: Cell<bool>,
    current_section: Cell<Option<SectionId>>,
}

impl Instance {
    pub fn new(host: Rc<Host>, slot: Rc<Slot>, storage: Storage) -> Rc<Instance> {
        let gate = OutputGate::new(host.commits.clone(), storage.newest());
        let instance = Rc::new(Instance {
            host,
            slot,
            storage,
            gate,
            membrane: Membrane::default(),
            sections: Sections::default(),
            broken: RefCell::default(),
            unborn: Cell::default(),
            current_section: Cell::default(),
        });
        // A write outside any turn, by a task that the class spawned, is a commit of its own.
        let weak = Rc::downgrade(&instance);
        instance.storage.on_commit(move |lsn| {
            if let Some(instance) = weak.upgrade() {
                instance.gate.committed(lsn);
            }
        });
        instance
    }

    /// One turn: a poll of the object's code. What it writes is committed when the poll returns;
    /// what it says leaves when that is durable. A panic undoes the turn and ends the instance.
    ///
    /// `section` is the section that the event belongs to; while another is open, the poll waits.
    pub fn poll_turn<R>(
        &self,
        section: &Cell<Option<SectionId>>,
        cx: &mut Context<'_>,
        poll: impl FnOnce(&mut Context<'_>) -> Poll<R>,
    ) -> Poll<Result<R>> {
        if !self.sections.admits(section.get()) {
            self.sections.wait(cx.waker());
            return Poll::Pending;
        }
        if let Some(error) = self.broken() {
            return Poll::Ready(Err(error));
        }
        if self.poll_journal(cx).is_pending() {
            return Poll::Pending;
        }
        self.current_section.set(section.get());
        self.storage.enter_turn();
        let polled = catch_unwind(AssertUnwindSafe(|| poll(cx)));
        section.set(self.current_section.take());
        let ended = match (polled, self.broken()) {
            // The object aborted: the turn is undone.
            (Ok(_), Some(error)) => {
                self.undo_turn();
                Err(error)
            }
            (Ok(polled), None) => self.end_turn().map(|()| polled),
            (Err(panic), _) => {
                self.undo_turn();
                Err(self.panicked(panic.as_ref()))
            }
        };
        match ended {
            Ok(polled) => polled.map(Ok),
            Err(error) => {
                self.break_off(error.clone());
                // Whoever broke it need not try again; the others may.
                Poll::Ready(Err(self.storage.take_cause().unwrap_or(error)))
            }
        }
    }

    /// Ready unless the journal should get on first: too much waits to be written, of this object or
    /// of all.
    fn poll_journal(&self, cx: &Context<'_>) -> Poll<()> {
        if !self.storage.keep_log_short() {
            return self.host.commits.poll_decided(self.gate.newest(), cx);
        }
        self.host.commits.poll_room(cx)
    }

    /// Commits what the turn wrote.
    fn end_turn(&self) -> Result<()> {
        match self.storage.commit_turn() {
            Ok(Some(lsn)) => self.gate.committed(lsn),
            Ok(None) => self.gate.settled(),
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
        self.gate.undone();
    }

    fn panicked(&self, panic: &(dyn std::any::Any + Send)) -> Error {
        let message = panic
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("a panic without a message");
        tracing::error!(
            class = self.slot.class.name, id = %self.slot.id, message, "an object panicked"
        );
        Error::ObjectReset("the object panicked; the vat's log says why".into())
    }

    /// Says something to the world, as soon as the gate lets it.
    pub fn say(&self, output: Output) {
        if self.broken.borrow().is_none() {
            self.gate.pass(self.storage.is_dirty(), output);
        }
    }

    /// Ends the instance, for this reason unless there is one already. It is gone after the turn.
    pub fn break_off(&self, error: Error) {
        self.broken.borrow_mut().get_or_insert(error);
        self.slot.wake();
    }

    /// Why the instance is about to be gone.
    pub fn broken(&self) -> Option<Error> {
        self.broken.borrow().clone()
    }

    /// Whether the object is known not to have come into being: then nothing of it is worth keeping.
    /// Of an object whose database cannot be read, nothing is known.
    pub fn is_unborn(&self) -> bool {
        self.unborn.get()
    }

    pub fn set_unborn(&self, unborn: bool) {
        self.unborn.set(unborn);
    }

    /// The section that the event whose turn this is belongs to.
    pub fn current_section(&self) -> Option<SectionId> {
        self.current_section.get()
    }

    /// From now on the event whose turn this is, and what it hands out, is in a section of its own.
    /// `None` if it is in one already.
    pub fn open_section(&self) -> Option<SectionId> {
        if self.current_section.get().is_some() {
            return None;
        }
        let section = self.sections.open();
        self.current_section.set(Some(section));
        Some(section)
    }

    /// Whether nobody would notice if the instance were gone.
    pub fn is_idle(&self) -> bool {
        self.slot.is_idle() && !self.gate.is_waiting()
    }

    /// Ends it. Afterwards its database is closed, and nothing of it answers any more. Whatever the
    /// class does in destructors, each step is taken.
    pub fn end(&self, error: Error) {
        let slot = &self.slot;
        self.break_off(error.clone());
        slot.end(error);
        shielded(slot, || self.gate.close());
        self.membrane.close(slot);
        if let Some(Err(error)) = shielded(slot, || self.storage.close()) {
            tracing::error!(id = %slot.id, %error, "closing an object's database");
        }
    }
}
