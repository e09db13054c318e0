//! A call that an object is working on, as its caller sees it.

use std::{
    cell::RefCell,
    rc::Rc,
    task::{Context, Poll},
};

use capnp::Error;
use tokio::time::Instant;
use vatwerk::Code;

use super::{
    event::Ticket,
    gate::{Output, Way},
};
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
    since: Instant,
}

impl Returning {
    /// For a call that was delivered at `since`.
    pub fn new(reply: Reply, ticket: Ticket, since: Instant) -> Returning {
        Returning(Rc::new(RefCell::new(Waiting {
            reply: Some(reply),
            ticket,
            since,
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

    /// The call goes on for longer than the object has to do with it. Where its outcome goes, if nobody
    /// has been told.
    pub fn hand_on(&self) -> Option<Reply> {
        let reply = self.0.borrow_mut().reply.take();
        if reply.is_some() {
            self.0.borrow().count(None);
        }
        reply
    }

    /// Ready when the caller has hung up.
    pub fn poll_hung_up(&self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.0.borrow_mut().reply {
            Some(reply) => reply.poll_hung_up(cx),
            None => Poll::Pending,
        }
    }

    /// Ends the call. An error says whether the call ran.
    pub fn finish(&self, outcome: Result<Option<Message>, Error>) {
        let reply = self.0.borrow_mut().reply.take();
        if let Some(reply) = reply {
            self.0.borrow().count(outcome.as_ref().err());
            reply.finish(outcome);
        }
    }
}

impl Waiting {
    fn count(&self, error: Option<&Error>) {
        let code = |error: &Error| Code::split(&error.extra).0;
        let outcome = error.map_or(Ok(()), |error| {
            Err(code(error).unwrap_or(Code::ApplicationFailed))
        });
        self.ticket.metrics().call(outcome, self.since.elapsed());
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(reply) = self.reply.take() {
            let error = fault::outcome_unknown(self.ticket.reason());
            self.count(Some(&error));
            reply.finish(Err(error));
        }
    }
}

/// The outcome of a call, on its way out.
pub(super) struct Outcome(pub Returning, pub Result<Option<Message>, Error>);

impl Output for Outcome {
    const WAY: Way = Way::Return;

    fn release(self) {
        self.0.finish(self.1);
    }

    fn fail(self, error: &crate::Error) {
        self.0.finish(Err(fault::outcome_unknown(error.clone())));
    }
}

/// Results of a call that is not over, whose capabilities may be called.
pub(super) struct Early(pub Returning, pub Message);

impl Output for Early {
    const WAY: Way = Way::Pipeline;

    fn release(self) {
        self.0.set_pipeline(self.1);
    }

    fn fail(self, _: &crate::Error) {}
}
