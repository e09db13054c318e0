//! A call that an object is working on, as its caller sees it.

use std::{cell::RefCell, rc::Rc};

use capnp::Error;

use super::slot::Ticket;
use crate::{
    call::{Message, Reply},
    fault,
};

/// The caller's end of a call. It tells the caller exactly once how the call ended: if it is dropped
/// before, the instance was reset.
#[derive(Clone)]
pub(super) struct Returning(Rc<RefCell<Waiting>>);

struct Waiting {
    reply: Option<Reply>,
    ticket: Ticket,
}

impl Returning {
    pub fn new(reply: Reply, ticket: Ticket) -> Returning {
        Returning(Rc::new(RefCell::new(Waiting {
            reply: Some(reply),
            ticket,
        })))
    }

    /// Lets calls pipelined on the results proceed before the call is over.
    pub fn set_pipeline(&self, early: Message) {
        // Taken out, because what is let go may run anything.
        let reply = self.0.borrow_mut().reply.take();
        if let Some(mut reply) = reply {
            reply.set_pipeline(early);
            self.0.borrow_mut().reply = Some(reply);
        }
    }

    /// Ends the call.
    pub fn finish(&self, outcome: Result<Option<Message>, Error>) {
        let reply = self.0.borrow_mut().reply.take();
        if let Some(reply) = reply {
            reply.finish(outcome.map_err(fault::leaving));
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(reply) = self.reply.take() {
            reply.finish(Err(self.ticket.reason().into()));
        }
    }
}
