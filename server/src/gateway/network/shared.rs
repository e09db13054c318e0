//! What the reading side, the writing side and the owner of a connection share.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::task::Waker;

use tokio::sync::Notify;
use tokio::task::AbortHandle;

use crate::call::{HangUp, Pins};

use super::budget::Share;
use super::ledger::Ledger;
use super::outbox::{Outbox, Sent, WriteError, wire_bytes};
use super::tail::TailReturn;
use super::{End, Limits, Refusal};

/// Sums of what went by.
#[derive(Default)]
pub(super) struct Traffic {
    pub(super) messages_in: Cell<u64>,
    pub(super) bytes_in: Cell<u64>,
    pub(super) messages_out: Cell<u64>,
    pub(super) bytes_out: Cell<u64>,
}

/// Adds to one of the sums.
pub(super) fn add(sum: &Cell<u64>, amount: usize) {
    sum.set(sum.get() + amount as u64);
}

/// A message that capnp-rpc gets in the peer's place.
pub(super) enum Due {
    /// The end of a question that the peer finished before it was answered, and whether it wants its
    /// capabilities released.
    Finish { question: u32, release: bool },
    /// The results of a tail call, for a question of this side.
    Tail { question: u32, results: TailReturn },
    /// The answer to a call of this side that was not sent.
    Exception { question: u32, refusal: Refusal },
    /// The return of one reference to an export that the peer was not given.
    Release(u32),
}

/// The state of one connection.
pub(super) struct Shared {
    pub(super) limits: Limits,
    pub(super) ledger: RefCell<Ledger>,
    /// What this connection holds of what all may hold.
    pub(super) share: Share,
    /// The objects that the peer keeps awake.
    pub(super) pins: Rc<Pins>,
    /// The size of the message that is arriving, as far as it is here.
    pub(super) arriving_bytes: Cell<usize>,
    pub(super) outbox: RefCell<Outbox>,
    pub(super) traffic: Traffic,
    /// Questions that the peer has finished and that have not been answered, and whether it wants
    /// their capabilities released.
    pub(super) held: RefCell<HashMap<u32, bool>>,
    /// Messages for capnp-rpc that come before those of the peer.
    pub(super) due: RefCell<VecDeque<Due>>,
    /// Calls of the peer that end when it hangs up, and have not been answered.
    pub(super) hang_ups: RefCell<HashMap<u32, HangUp>>,
    /// The reading side, while it waits for anything.
    pub(super) reader: Cell<Option<Waker>>,
    /// The owner wants this connection to end.
    pub(super) stop: Cell<bool>,
    pub(super) end: RefCell<Option<End>>,
    pub(super) writer_done: Cell<bool>,
    pub(super) connection_done: Cell<bool>,
    pub(super) writer: RefCell<Option<AbortHandle>>,
    /// Notified when the number of calls in flight falls to zero and at every step of the end.
    pub(super) changed: Notify,
}

impl Shared {
    pub(super) fn new(limits: Limits) -> Rc<Self> {
        Rc::new(Shared {
            share: Share::of(&limits.vat),
            pins: Pins::new(limits.max_pins),
            arriving_bytes: Cell::new(0),
            limits,
            ledger: RefCell::new(Ledger::new()),
            outbox: RefCell::default(),
            traffic: Traffic::default(),
            held: RefCell::default(),
            hang_ups: RefCell::default(),
            due: RefCell::default(),
            reader: Cell::new(None),
            stop: Cell::new(false),
            end: RefCell::new(None),
            writer_done: Cell::new(false),
            connection_done: Cell::new(false),
            writer: RefCell::new(None),
            changed: Notify::new(),
        })
    }

    /// A question of the peer has been answered. If the peer has finished it before: whether it wants
    /// its capabilities released.
    pub(super) fn answered(&self, question: u32) -> Option<bool> {
        self.hang_ups.borrow_mut().remove(&question);
        self.held.borrow_mut().remove(&question)
    }

    /// Brings up to date what the connection holds.
    pub(super) fn count_held(&self) {
        let unwritten = self.outbox.borrow().unwritten_bytes;
        let held = self.ledger.borrow().held_bytes();
        self.share.set(held + unwritten + self.arriving_bytes.get());
    }

    pub(super) fn wake_reader(&self) {
        if let Some(waker) = self.reader.take() {
            waker.wake();
        }
    }

    /// Records why the connection ends; the first reason stays.
    pub(super) fn ending(&self, end: End) {
        self.end.borrow_mut().get_or_insert(end);
    }

    pub(super) fn is_over(&self) -> bool {
        self.writer_done.get() && self.connection_done.get()
    }

    pub(super) fn stop(&self) {
        self.stop.set(true);
        self.wake_reader();
    }

    pub(super) fn writer_is(&self, handle: AbortHandle) {
        *self.writer.borrow_mut() = Some(handle);
    }

    pub(super) fn abort_writer(&self) {
        if let Some(writer) = self.writer.borrow_mut().take() {
            writer.abort();
        }
    }

    pub(super) fn wrote(&self, bytes: usize) {
        let mut outbox = self.outbox.borrow_mut();
        let limit = self.limits.max_unwritten_bytes;
        let was_over = outbox.unwritten_bytes > limit;
        outbox.unwritten_bytes -= bytes;
        let is_over = outbox.unwritten_bytes > limit;
        drop(outbox);
        self.count_held();
        if was_over && !is_over {
            self.wake_reader();
        }
    }

    pub(super) fn writer_ended(&self, failure: Option<WriteError>) {
        match failure {
            Some(WriteError::Io(failure)) => self.ending(End::Broken(failure.to_string())),
            Some(WriteError::Stalled) => self.ending(End::Stalled {
                unwritten_bytes: self.outbox.borrow().unwritten_bytes,
                limit: self.limits.stall,
            }),
            Some(WriteError::Overrun) => self.ending(End::Overrun {
                unwritten_bytes: self.outbox.borrow().unwritten_bytes,
                limit_bytes: self.limits.vat.max_bytes(),
            }),
            None => (),
        }
        // Nothing is written any more.
        self.outbox.borrow_mut().clear();
        self.count_held();
        self.writer_done.set(true);
        self.wake_reader();
        self.changed.notify_waiters();
    }

    /// Queues a message.
    pub(super) fn send(&self, message: Sent) {
        if self.writer_done.get() {
            return;
        }
        let bytes = wire_bytes(&message);
        add(&self.traffic.messages_out, 1);
        add(&self.traffic.bytes_out, bytes);
        self.outbox.borrow_mut().push(message, bytes);
        self.count_held();
        let unwritten = self.outbox.borrow().unwritten_bytes;
        if unwritten > self.limits.max_unwritten_bytes && self.limits.vat.is_overdrawn() {
            self.abort_writer();
            self.writer_ended(Some(WriteError::Overrun));
        }
    }

    /// Waits for [`Shared::changed`] until `done`.
    pub(super) async fn wait(&self, done: impl Fn(&Self) -> bool) {
        loop {
            let changed = self.changed.notified();
            if done(self) {
                return;
            }
            changed.await;
        }
    }
}
