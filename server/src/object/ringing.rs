//! The request to an object to run its alarms that are due, and the answer to the scheduler.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use futures::channel::oneshot;
use tokio::sync::Notify;

use super::{
    event::Ticket,
    gate::{Output, Way},
};
use crate::{Error, Result};

/// A request to an object to run what is due. It always tells the scheduler what became of it; dropped,
/// it tells that the instance ended meanwhile.
pub(super) struct Ringing {
    tell: Option<oneshot::Sender<Result<(), Lost>>>,
    /// The runs that the scheduler would have to be told of.
    pub runs: Rc<RefCell<Runs>>,
    /// Notified when an alarm of the object was set or deleted.
    pub changed: Rc<Notify>,
    /// Counts the request as in flight, once it is being answered.
    pub ticket: Option<Ticket>,
}

/// The runs of one object that are not over.
#[derive(Default)]
pub(super) struct Runs {
    /// Runs that an earlier instance did not end, and that are not recorded as failed yet.
    pub lost: Vec<Rc<Run>>,
    /// Runs of this instance.
    pub running: Vec<Rc<Run>>,
    /// Whether this instance has begun any.
    pub has_begun: bool,
}

/// One run of an alarm.
pub(super) struct Run {
    /// The alarm's name; empty for the object's own.
    pub name: String,
    /// The time that the alarm is run for, in milliseconds since 1970.
    pub scheduled_ms: i64,
    /// Whether the run itself ended its instance: then it counts as one of the alarm's failures.
    pub is_to_blame: Cell<bool>,
}

/// The end of an instance, or the lack of one, before all that was due has run.
pub(super) struct Lost {
    /// The runs that are to be recorded as failed: to be passed to the next [`Ringing`].
    pub runs: Vec<Rc<Run>>,
    /// Whether an instance was reached, and had begun to run an alarm.
    pub was_reached: bool,
    /// Why.
    pub error: Error,
}

impl Ringing {
    /// A request, and where its outcome is told. `lost`: the runs that earlier instances did not end.
    /// `changed` is notified when an alarm of the object was set or deleted.
    pub fn new(
        lost: Vec<Rc<Run>>,
        changed: Rc<Notify>,
    ) -> (Ringing, oneshot::Receiver<Result<(), Lost>>) {
        let (tell, told) = oneshot::channel();
        let runs = Runs {
            lost,
            ..Runs::default()
        };
        let ringing = Ringing {
            tell: Some(tell),
            runs: Rc::new(RefCell::new(runs)),
            changed,
            ticket: None,
        };
        (ringing, told)
    }

    /// What was due has run, durably.
    pub fn done(mut self) {
        self.tell(Ok(()));
    }

    /// Not all of it could run.
    pub fn end(mut self, error: Error) {
        self.tell_lost(error);
    }

    fn tell_lost(&mut self, error: Error) {
        let Runs {
            lost,
            running,
            has_begun,
        } = self.runs.take();
        self.tell(Err(Lost {
            runs: [lost, running].concat(),
            was_reached: has_begun,
            error,
        }));
    }

    fn tell(&mut self, outcome: Result<(), Lost>) {
        if let Some(tell) = self.tell.take() {
            // While the vat stops, nobody listens.
            let _ = tell.send(outcome);
        }
    }
}

impl Output for Ringing {
    const WAY: Way = Way::Alarms;

    fn release(self) {
        self.done();
    }

    fn fail(self, error: &Error) {
        self.end(error.clone());
    }
}

impl Drop for Ringing {
    fn drop(&mut self) {
        let ended = self.ticket.as_ref().and_then(Ticket::ended);
        let error = ended.unwrap_or_else(|| Error::ObjectReset("the instance ended".into()));
        self.tell_lost(error);
    }
}
