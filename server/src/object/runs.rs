//! The runs of an object's alarms that are due.

use std::{cell::Cell, future::poll_fn, pin::Pin, rc::Rc, task::Poll, time::Duration};

use futures::{StreamExt, future::LocalBoxFuture, stream::FuturesUnordered};
use tokio::{
    task::yield_now,
    time::{error::Elapsed, timeout},
};

use super::{
    class::Dispatch,
    event::Ticket,
    flow::Flow,
    instance::Instance,
    ringing::{Ringing, Run},
    slot::{Slot, shielded},
    suspects::ALONE_LIMIT,
};
use crate::{
    Error, Result,
    alarm::{After, AlarmInfo, Attempt, Outcome, WhenDue},
    env,
    health::Runs,
    metrics::AlarmOutcome,
};

/// How many of an object's alarms run at the same time; further ones wait until one of them ends. After
/// as many runs the object lets others have its place, as soon as nothing of it runs.
const RUNS_AT_ONCE: usize = 64;

/// Runs the alarms of an instance that are due, and those that come due while one of them runs.
pub(super) async fn run(
    instance: &Rc<Instance>,
    object: &Rc<dyn Dispatch>,
    flow: &Rc<Flow>,
    mut ringing: Ringing,
    ticket: Ticket,
) {
    ringing.ticket = Some(ticket);
    let look = Look {
        instance,
        object,
        flow,
        ringing: &ringing,
    };
    match look.run_due().await {
        Ok(()) => instance.say(ringing),
        // With the object its alarms are gone.
        Err(_) if instance.life.has_deleted_itself() => instance.say(ringing),
        Err(error) => ringing.end(error),
    }
}

/// One look at an object's alarms.
struct Look<'a> {
    instance: &'a Rc<Instance>,
    object: &'a Rc<dyn Dispatch>,
    flow: &'a Rc<Flow>,
    ringing: &'a Ringing,
}

/// What there is to do.
enum Next {
    /// A handler is to run.
    Run(Box<Begun>),
    /// An alarm was dealt with without its handler.
    DealtWith,
    /// A run was cut short by the end of an earlier process.
    CutShort(String, Outcome, Option<After>),
    /// Nothing before that time, in milliseconds since 1970, or before an alarm changes.
    Wait(Option<i64>),
}

/// A run that has begun, as far as the object's alarms are concerned.
struct Begun {
    run: Rc<Run>,
    info: AlarmInfo,
    due_ms: i64,
    /// Whether it is to be noted before the handler runs.
    is_suspect: bool,
    /// Whether it is to run while no other does whose last run was cut short.
    is_alone: bool,
}

impl Look<'_> {
    async fn run_due(&self) -> Result<()> {
        self.record_lost().await?;
        let host = &self.instance.host;
        let at_once = if self.instance.slot.class.is_serial {
            1
        } else {
            RUNS_AT_ONCE
        };
        let began_ms = host.clock.now_ms();
        let mut running = FuturesUnordered::new();
        let (mut begun, mut failed) = (0, None);
        loop {
            let changed = self.ringing.changed.notified();
            let resting = running.is_empty();
            let may_begin = failed.is_none()
                && !host.scheduler.is_stopped()
                && running.len() < at_once
                && !(resting && begun >= RUNS_AT_ONCE);
            // At rest, what has become due meanwhile is left to the next look.
            let until_ms = if resting {
                began_ms
            } else {
                host.clock.now_ms()
            };
            let next = if may_begin {
                // A handler that holds others back, in a section, has to go on meanwhile.
                tokio::select! {
                    biased;
                    Some(ended) = running.next() => {
                        if let Err(error) = ended {
                            failed.get_or_insert(error);
                        }
                        continue;
                    }
                    next = self.turn(self.flow, || self.next(until_ms)) => next,
                }
            } else {
                Ok(Next::Wait(None))
            };
            let wait_ms = match next {
                Ok(Next::Run(alarm)) => {
                    begun += 1;
                    running.push(self.run_one(alarm));
                    None
                }
                Ok(Next::DealtWith) => continue,
                Ok(Next::CutShort(name, outcome, after)) => {
                    self.tell(&name, outcome, after, Some("the vat's process ended"));
                    continue;
                }
                Ok(Next::Wait(_)) if resting => break,
                Ok(Next::Wait(due_ms)) => Some(due_ms.unwrap_or(i64::MAX)),
                Err(error) => {
                    failed.get_or_insert(error);
                    continue;
                }
            };
            let look_again = async {
                match wait_ms {
                    Some(due_ms) => host.clock.sleep_until(due_ms).await,
                    // Others have their turn, and then the next alarm begins.
                    None => yield_now().await,
                }
            };
            tokio::select! {
                biased;
                Some(ended) = running.next() => if let Err(error) = ended {
                    failed.get_or_insert(error);
                },
                () = changed => {}
                () = look_again => {}
            }
        }
        failed.map_or(Ok(()), Err)?;
        let note = || {
            let due_ms = self.instance.storage.alarms().next_due()?;
            self.instance.note_alarm(due_ms);
            Ok(())
        };
        self.turn(self.flow, note).await
    }

    /// Counts the runs that earlier instances did not end.
    async fn record_lost(&self) -> Result<()> {
        let lost = self.ringing.runs.borrow().lost.clone();
        if lost.is_empty() {
            return Ok(());
        }
        let outcome = |run: &Run| Outcome::Failed {
            counted: run.is_to_blame.get(),
        };
        let record = || {
            let alarms = self.instance.storage.alarms();
            let now_ms = self.instance.host.clock.now_ms();
            let recorded = lost.iter().map(|run| {
                let (name, random) = (&run.name, env::random_u64());
                alarms.lost_run(name, run.scheduled_ms, outcome(run), now_ms, random)
            });
            recorded.collect::<Result<Vec<_>>>()
        };
        let recorded = self.turn(self.flow, record).await?;
        self.ringing.runs.borrow_mut().lost.clear();
        for (run, after) in lost.iter().zip(recorded) {
            self.tell(
                &run.name,
                outcome(run),
                after,
                Some("the object's instance ended"),
            );
        }
        Ok(())
    }

    /// One turn of the vat's own.
    async fn turn<T>(&self, flow: &Rc<Flow>, what: impl FnOnce() -> Result<T>) -> Result<T> {
        let mut what = Some(what);
        poll_fn(|cx| {
            self.instance.poll_turn(flow, cx, |_| {
                Poll::Ready(what.take().expect("a turn that is ready is the last")())
            })
        })
        .await?
    }

    /// The next of the alarms that are due by `until_ms`, which is to begin.
    fn next(&self, until_ms: i64) -> Result<Next> {
        let (host, alarms) = (&self.instance.host, self.instance.storage.alarms());
        let suspects = &host.scheduler.suspects;
        let now_ms = host.clock.now_ms();
        let Some(due) = alarms.due(until_ms, 1)?.pop() else {
            return Ok(Next::Wait(alarms.next_waiting()?));
        };
        let (name, scheduled_ms) = (&due.name, due.alarm.at_ms);
        if due.attempt == Attempt::Begun {
            let outcome = Outcome::Failed {
                counted: suspects.are_to_blame(),
            };
            let random = env::random_u64();
            let after = alarms.cut_short(name, scheduled_ms, outcome, now_ms, random)?;
            return Ok(Next::CutShort(due.name, outcome, after));
        }
        let info = match due.when_due(now_ms) {
            WhenDue::Skip(after) => {
                alarms.apply(name, scheduled_ms, after)?;
                self.instance.slot.metrics.alarm_ran(AlarmOutcome::Skipped);
                return Ok(Next::DealtWith);
            }
            WhenDue::Run(info) => info,
        };
        if !alarms.begin_run(name, scheduled_ms, now_ms)? {
            return Ok(Next::DealtWith);
        }
        if sabotaged!(host, ClearAlarmBeforeRun) {
            alarms.apply(name, scheduled_ms, After::Gone)?;
        }
        let run = Rc::new(Run {
            name: due.name.clone(),
            scheduled_ms,
            is_to_blame: Cell::default(),
        });
        let mut runs = self.ringing.runs.borrow_mut();
        runs.running.push(run.clone());
        runs.has_begun = true;
        Ok(Next::Run(Box::new(Begun {
            run,
            info,
            due_ms: due.due_ms,
            is_suspect: suspects.is_suspect(&due),
            is_alone: due.attempt == Attempt::CutShort,
        })))
    }

    /// One run, in turns of its own.
    async fn run_one(&self, begun: Box<Begun>) -> Result<()> {
        let Begun {
            run,
            info,
            due_ms,
            is_suspect,
            is_alone,
        } = *begun;
        let (instance, host) = (self.instance, &self.instance.host);
        let alarms = instance.storage.alarms();
        let flow = Flow::begun(
            None,
            if instance.slot.class.is_serial {
                // The one that the object takes calls of meanwhile.
                self.flow.chain
            } else {
                host.chains.begin()
            },
            Runs::Alarms,
        );
        let mut alone = if is_alone {
            Some(host.scheduler.suspects.alone().await)
        } else {
            None
        };
        if is_suspect {
            let note = || alarms.note_begun(&run.name, run.scheduled_ms);
            self.turn(&flow, note).await?;
            instance.gate.synced().await?;
        }
        let handle = async {
            let lag = host.clock.now_ms().saturating_sub(due_ms).unsigned_abs();
            instance
                .slot
                .metrics
                .alarm_started(Duration::from_millis(lag));
            let ran = timeout(host.limits.alarm, self.object.alarm(info)).await;
            let outcome = self.outcome(&run.name, ran);
            // In the handler's last turn.
            let (now_ms, random) = (host.clock.now_ms(), env::random_u64());
            let after = alarms.end_run(&run.name, outcome, now_ms, random)?;
            Ok((outcome, after))
        };
        let mut handling = Handling {
            slot: &instance.slot,
            handler: Some(Box::pin(handle)),
        };
        let mut ran = std::pin::pin!(poll_fn(|cx| {
            let was_whole = instance.broken().is_none();
            let polled = instance.poll_turn(&flow, cx, |cx| handling.handler().poll(cx));
            if let (true, Poll::Ready(Err(error))) = (was_whole, &polled) {
                run.is_to_blame.set(is_own_doing(error));
            }
            polled
        }));
        let ended = if alone.is_some() {
            match timeout(ALONE_LIMIT, &mut ran).await {
                Ok(ended) => ended,
                Err(_) => {
                    alone.take();
                    ran.await
                }
            }
        } else {
            ran.await
        };
        let (outcome, after) = ended??;
        let runs = &self.ringing.runs;
        let is_other = |other: &Rc<Run>| !Rc::ptr_eq(other, &run);
        runs.borrow_mut().running.retain(is_other);
        self.tell(&run.name, outcome, after, None);
        if alone.is_some() {
            instance.gate.synced().await?;
        }
        Ok(())
    }

    /// How a run ended. A handler that takes too long has failed.
    fn outcome(&self, name: &str, ran: std::result::Result<capnp::Result<()>, Elapsed>) -> Outcome {
        let error = match ran {
            Ok(Ok(())) => return Outcome::Succeeded,
            Ok(Err(error)) => error.extra,
            Err(_) => "it took too long".to_owned(),
        };
        let (class, id) = (self.instance.slot.class.name, self.instance.slot.id);
        tracing::warn!(class, %id, alarm = name, error, "the handler of an alarm failed");
        Outcome::Failed { counted: true }
    }

    /// Counts a run that is over, and logs it if it was the last, or was cut short by something.
    fn tell(&self, name: &str, outcome: Outcome, after: Option<After>, cut_short: Option<&str>) {
        let (class, id) = (self.instance.slot.class.name, self.instance.slot.id);
        let counted = match (outcome, after) {
            (Outcome::Succeeded, _) => AlarmOutcome::Ok,
            (Outcome::Failed { .. }, Some(After::Gone | After::Next { .. })) => {
                AlarmOutcome::GaveUp
            }
            (Outcome::Failed { .. }, _) => AlarmOutcome::Failed,
        };
        self.instance.slot.metrics.alarm_ran(counted);
        if counted == AlarmOutcome::GaveUp {
            tracing::error!(
                class, %id, alarm = name,
                "an alarm is given up: it has failed too often"
            );
        } else if let (Some(why), Some(After::Retry { due_ms, failures })) = (cut_short, after) {
            let failures = failures.retries;
            tracing::warn!(
                class, %id, alarm = name, failures, due_ms,
                "the run of an alarm was cut short, and is tried again: {why}"
            );
        }
    }
}

/// Whether the error that ended an instance is the class's own doing, not that of a disk, or of a queue
/// that is full.
pub(super) fn is_own_doing(error: &Error) -> bool {
    matches!(
        error,
        Error::ObjectReset(_)
            | Error::InstanceFailed(_)
            | Error::LimitExceeded { .. }
            | Error::SqlLimit { .. }
            | Error::StatementTimeout { .. }
    )
}

/// A handler that runs. What it holds may panic when it is dropped, and harms nobody.
struct Handling<'a> {
    slot: &'a Slot,
    handler: Option<Handler<'a>>,
}

type Handler<'a> = LocalBoxFuture<'a, Result<(Outcome, Option<After>)>>;

impl<'a> Handling<'a> {
    fn handler(
        &mut self,
    ) -> Pin<&mut (dyn Future<Output = Result<(Outcome, Option<After>)>> + 'a)> {
        self.handler.as_mut().expect("it is not dropped").as_mut()
    }
}

impl Drop for Handling<'_> {
    fn drop(&mut self) {
        let handler = self.handler.take();
        shielded(self.slot, || drop(handler));
    }
}
