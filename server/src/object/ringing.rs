//! What an object does about its alarms that are due.

use std::{cell::RefCell, future::poll_fn, pin::pin, rc::Rc, time::Duration};

use futures::channel::oneshot;
use tokio::time::{error::Elapsed, timeout};

use super::{
    class::Dispatch,
    event::Ticket,
    flow::Flow,
    gate::{Output, Way},
    instance::Instance,
};
use crate::{
    Error, Result,
    alarm::{After, Outcome, WhenDue},
    env,
    metrics::AlarmOutcome,
};

/// How many of an object's alarms run before others have their turn.
const RUNS_AT_ONCE: usize = 64;

/// Asks an object to run what is due, and tells the scheduler what became of it. Dropped, it tells
/// that the instance ended meanwhile.
pub(super) struct Ringing {
    tell: Option<oneshot::Sender<Rung>>,
    failed: Option<Run>,
    running: Rc<RefCell<Option<Run>>>,
    ticket: Option<Ticket>,
}

/// One alarm that runs, or was running.
#[derive(Clone)]
pub(super) struct Run {
    name: String,
    scheduled_ms: i64,
    /// Whether it is to blame that it did not end well.
    pub counted: bool,
}

/// What became of it.
pub(super) enum Rung {
    /// What was due has run.
    Done,
    /// The instance ended, or never was.
    Lost { running: Option<Run>, error: Error },
}

impl Ringing {
    /// `failed`: what was running when an earlier instance ended.
    pub fn new(failed: Option<Run>) -> (Ringing, oneshot::Receiver<Rung>) {
        let (tell, told) = oneshot::channel();
        let ringing = Ringing {
            tell: Some(tell),
            failed,
            running: Rc::default(),
            ticket: None,
        };
        (ringing, told)
    }

    /// What was due has run, durably.
    pub fn done(mut self) {
        self.tell(Rung::Done);
    }

    /// It could not run.
    pub fn end(mut self, error: Error) {
        let running = self.running.take();
        self.tell(Rung::Lost { running, error });
    }

    fn tell(&mut self, rung: Rung) {
        if let Some(tell) = self.tell.take() {
            // While the vat stops, nobody listens.
            let _ = tell.send(rung);
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
        let running = self.running.take();
        self.tell(Rung::Lost { running, error });
    }
}

/// Runs the alarms of an instance that are due.
pub(super) async fn run(
    instance: &Rc<Instance>,
    object: &Rc<dyn Dispatch>,
    flow: &Rc<Flow>,
    mut ringing: Ringing,
    ticket: Ticket,
) {
    ringing.ticket = Some(ticket);
    let failed = ringing.failed.take();
    let running = ringing.running.clone();
    let mut due = pin!(run_due(instance, object, failed, &running));
    let done = poll_fn(|cx| instance.poll_turn(flow, cx, |cx| due.as_mut().poll(cx))).await;
    match done {
        Ok(Ok(())) => instance.say(ringing),
        Ok(Err(error)) | Err(error) => ringing.end(error),
    }
}

async fn run_due(
    instance: &Rc<Instance>,
    object: &Rc<dyn Dispatch>,
    failed: Option<Run>,
    running: &RefCell<Option<Run>>,
) -> Result<()> {
    let (host, alarms) = (&instance.host, instance.storage.alarms());
    let now_ms = || host.clock.now_ms();
    if let Some(run) = failed {
        let outcome = Outcome::Failed {
            counted: run.counted,
        };
        let after = alarms.lost_run(
            &run.name,
            run.scheduled_ms,
            outcome,
            now_ms(),
            env::random_u64(),
        )?;
        tell(instance, &run.name, outcome, after);
    }
    // What becomes due meanwhile is looked at next time.
    let began_ms = now_ms();
    for _ in 0..RUNS_AT_ONCE {
        let Some(due) = alarms.due(began_ms, 1)?.pop() else {
            break;
        };
        let (name, scheduled_ms) = (due.name.clone(), due.alarm.at_ms);
        let mut ended = None;
        match due.when_due(now_ms()) {
            WhenDue::Skip(after) => {
                alarms.apply(&name, scheduled_ms, after)?;
                instance.slot.metrics.alarm_ran(AlarmOutcome::Skipped);
            }
            WhenDue::Run(info) => {
                if !alarms.begin_run(&name, scheduled_ms, now_ms())? {
                    continue;
                }
                running.replace(Some(Run {
                    name: name.clone(),
                    scheduled_ms,
                    counted: true,
                }));
                if sabotaged!(host, ClearAlarmBeforeRun) {
                    alarms.apply(&name, scheduled_ms, After::Gone)?;
                    tokio::task::yield_now().await;
                }
                let lag = now_ms().saturating_sub(due.due_ms).unsigned_abs();
                host.metrics.alarm_started(Duration::from_millis(lag));
                let ran = timeout(host.limits.alarm, object.alarm(info)).await;
                let outcome = outcome(instance, &name, ran);
                let after = alarms.end_run(&name, outcome, now_ms(), env::random_u64())?;
                ended = Some((outcome, after));
            }
        }
        // Each alarm is a turn of its own.
        tokio::task::yield_now().await;
        // It has ended when that turn is committed.
        running.take();
        if let Some((outcome, after)) = ended {
            tell(instance, &name, outcome, after);
        }
    }
    instance.note_alarm(alarms.next_due()?);
    Ok(())
}

/// How a run ended. What takes too long has failed.
fn outcome(
    instance: &Instance,
    name: &str,
    ran: std::result::Result<capnp::Result<()>, Elapsed>,
) -> Outcome {
    let error = match ran {
        Ok(Ok(())) => return Outcome::Succeeded,
        Ok(Err(error)) => error.extra,
        Err(_) => "it took too long".to_owned(),
    };
    let (class, id) = (instance.slot.class.name, instance.slot.id);
    tracing::warn!(class, %id, alarm = name, error, "the handler of an alarm failed");
    Outcome::Failed { counted: true }
}

/// Counts a run, and says so when the alarm is given up.
fn tell(instance: &Instance, name: &str, outcome: Outcome, after: Option<After>) {
    let counted = match (outcome, after) {
        (Outcome::Succeeded, _) => AlarmOutcome::Ok,
        (Outcome::Failed { .. }, Some(After::Gone | After::Next { .. })) => AlarmOutcome::GaveUp,
        (Outcome::Failed { .. }, _) => AlarmOutcome::Failed,
    };
    instance.slot.metrics.alarm_ran(counted);
    if counted == AlarmOutcome::GaveUp {
        let (class, id) = (instance.slot.class.name, instance.slot.id);
        tracing::error!(class, %id, alarm = name, "an alarm is given up: it has failed too often");
    }
}
