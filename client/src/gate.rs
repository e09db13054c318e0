//! The calls that a client has in flight: how many there are, and those that wait until there are
//! fewer.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
};

use tokio::sync::Notify;

/// The limit of a client's calls in flight. Calls above it are sent later, in the order in which they
/// were made.
pub(crate) struct Gate {
    max: usize,
    in_flight: Cell<usize>,
    held: RefCell<VecDeque<Box<dyn FnOnce()>>>,
    left: Notify,
}

impl Gate {
    pub(crate) fn new(max: usize) -> Rc<Gate> {
        Rc::new(Gate {
            max: max.max(1),
            in_flight: Cell::new(0),
            held: RefCell::default(),
            left: Notify::new(),
        })
    }

    /// The most calls in flight.
    pub(crate) fn max(&self) -> usize {
        self.max
    }

    /// Whether the next call is sent at once.
    pub(crate) fn is_open(&self) -> bool {
        self.in_flight.get() < self.max && self.held.borrow().is_empty()
    }

    /// Has `send` called when there is room for one more call, after those that wait already.
    pub(crate) fn hold(self: &Rc<Self>, send: impl FnOnce() + 'static) {
        let mut held = self.held.borrow_mut();
        if held.is_empty() {
            tokio::task::spawn_local(self.clone().let_through());
        }
        held.push_back(Box::new(send));
    }

    async fn let_through(self: Rc<Self>) {
        loop {
            while self.in_flight.get() < self.max {
                let next = self.held.borrow_mut().pop_front();
                // Outside of the borrow: it sends.
                match next {
                    Some(send) => send(),
                    None => return,
                }
            }
            if self.held.borrow().is_empty() {
                return;
            }
            self.left.notified().await;
        }
    }

    fn leave(&self, calls: usize) {
        self.in_flight.set(self.in_flight.get() - calls);
        self.left.notify_one();
    }
}

/// A part of the calls in flight, such as those of one connection, or those that wait for one. They
/// leave with it.
pub(crate) struct Tally {
    gate: Rc<Gate>,
    calls: Cell<usize>,
}

impl Tally {
    pub(crate) fn new(gate: Rc<Gate>) -> Tally {
        let calls = Cell::new(0);
        Tally { gate, calls }
    }

    /// A call was sent.
    pub(crate) fn enter(&self) {
        self.calls.set(self.calls.get() + 1);
        self.gate.in_flight.set(self.gate.in_flight.get() + 1);
    }

    /// A call was answered.
    pub(crate) fn leave(&self) {
        if self.calls.get() > 0 {
            self.calls.set(self.calls.get() - 1);
            self.gate.leave(1);
        }
    }

    /// None of the calls will be answered.
    pub(crate) fn clear(&self) {
        self.gate.leave(self.calls.take());
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        self.clear();
    }
}

/// The place of one call in a tally, until it is dropped or the tally is cleared.
pub(crate) struct Place(Rc<Tally>);

impl Place {
    pub(crate) fn new(tally: &Rc<Tally>) -> Place {
        tally.enter();
        Place(tally.clone())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.leave();
    }
}
