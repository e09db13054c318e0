//! Something that has reached its object: a call, a request, a look at alarms, or a message on a socket.

use std::{cell::RefCell, rc::Rc};

use capnp::private::capability::ClientHook;
use tokio::time::Instant;
use tracing::Span;

use super::{
    fetching::Fetch, life::Life, ringing::Ringing, sections::SectionId, slot::Slot,
    sockets::SocketEvent,
};
use crate::{
    Error,
    call::{Call, Chain, Pins},
    fault,
    health::Runs,
    metrics::ClassMetrics,
};

/// An event of an object, from the moment in which it is queued.
pub(super) struct Event {
    /// The section that it belongs to: that of the capability that is called.
    pub section: Option<SectionId>,
    pub chain: Chain,
    /// The chain that waits for it, if that is another: see [`Slot::push_for`].
    pub caller: Option<Chain>,
    pub what: What,
    pub ticket: Ticket,
    /// The span that it came from, for logs: a session.
    pub span: Span,
    /// When it was queued.
    pub since: Instant,
}

/// The work that an event asks for.
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

/// The part of an object that is called.
pub(super) enum EventTarget {
    /// The object itself.
    Object,
    /// The facet of that name.
    Facet(Rc<str>),
    /// A capability that an instance of it handed out, and that only this instance answers.
    Capability(Box<dyn ClientHook>),
}

impl What {
    /// What the turns of the event run, for those who watch the thread.
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

    /// The pins of the connection that the event came by, if it came by one.
    pub fn pins(&self) -> Option<&Rc<Pins>> {
        match self {
            What::Call(_, call) => call.reply.pins(),
            What::Fetch(fetch) => fetch.call.reply.pins(),
            What::Alarms(_) | What::Socket(_) => None,
        }
    }

    /// Answers that the work has not begun, and why.
    pub fn refuse(self, error: Error) {
        match self {
            What::Call(_, call) => call.reply.finish(Err(fault::not_delivered(error))),
            What::Fetch(fetch) => fetch.call.reply.finish(Err(fault::not_delivered(error))),
            What::Alarms(ringing) => ringing.end(error),
            What::Socket(event) => event.refuse(error),
        }
    }

    /// Whether the event is let in however much is queued: there is a bounded number of these.
    pub fn is_always_admitted(&self) -> bool {
        matches!(self, What::Socket(event) if event.is_last())
    }

    /// Whether only the instance that was there when the event came can deal with it.
    pub fn is_bound(&self) -> bool {
        matches!(self, What::Call(EventTarget::Capability(_), _))
    }
}

/// Counts an event as in flight, until its outcome has left.
pub(super) struct Ticket {
    slot: Rc<Slot>,
    /// The life of the instance that deals with the event.
    life: RefCell<Option<Rc<Life>>>,
}

impl Ticket {
    /// Counts one more event of the object, and of the vat.
    pub fn new(slot: &Rc<Slot>) -> Ticket {
        slot.count_in();
        Ticket {
            slot: slot.clone(),
            life: RefCell::default(),
        }
    }

    /// Notes which instance deals with the event from now on.
    pub fn deliver(&self, life: &Rc<Life>) {
        self.life.replace(Some(life.clone()));
    }

    /// The error of a call that was under way when its instance ended: how far it got is not known.
    pub fn reason(&self) -> Error {
        match self.ended() {
            Some(error) if error.code() == vatwerk::Code::ObjectReset => error,
            Some(error) => Error::InstanceFailed(format!("the instance ended: {error}")),
            None => Error::ObjectReset("the instance ended while the call was in flight".into()),
        }
    }

    /// The numbers of the object's class.
    pub fn metrics(&self) -> &ClassMetrics {
        &self.slot.metrics
    }

    /// Why the instance that deals with the event has ended, if it has.
    pub fn ended(&self) -> Option<Error> {
        self.life.borrow().as_ref()?.error()
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.slot.count_out();
    }
}
