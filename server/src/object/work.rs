//! What an instance does while it is awake: it lets events in, and lets what they say out.

use std::{future::poll_fn, pin::pin, rc::Rc};

use capnp::{
    capability::{Params, Results},
    private::capability::ParamsHook,
};
use futures::{StreamExt, future::LocalBoxFuture, stream::FuturesUnordered};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::Instrument;

use super::{
    class::Dispatch,
    fetching,
    gate::{COMMIT_LIMIT, Output},
    instance::{Background, Instance},
    results::Returning,
    runs,
    sections::Flow,
    slot::{Event, EventTarget, Slot, What, shielded},
    sockets,
};
use crate::{
    Error,
    call::{self, Call},
    metrics::{Eviction, Reset},
};

/// Lets events in, in order, until there is a reason to end.
pub(super) async fn work(instance: &Rc<Instance>, object: &Rc<dyn Dispatch>) -> Error {
    let slot = &instance.slot;
    let idle_after = instance.host.limits.idle;
    slot.is_awake.set(true);
    let host = &instance.host;
    host.remember_activation(slot.id, host.clock.now_ms());
    // Boxed, so that they can be dropped one by one.
    let mut running: FuturesUnordered<LocalBoxFuture<'_, ()>> = FuturesUnordered::new();
    let mut sleep = pin!(sleep_until(slot.last_used() + idle_after));
    loop {
        while let Some(event) = slot.next(|event| admits(instance, event)) {
            let entered = (slot.class.is_serial).then(|| instance.serial.enter(event.chain));
            let handled = handle(instance, object, event);
            running.push(match entered {
                None => handled,
                Some(entered) => Box::pin(async move {
                    handled.await;
                    drop(entered);
                }),
            });
        }
        for background in instance.take_background() {
            running.push(Box::pin(in_background(instance, background)));
        }
        let broken = instance.broken();
        if broken.is_some() {
            instance.host.remember_reset(slot.id);
            slot.metrics.reset(instance.reset_by());
            // What was said before the failure still leaves, if it becomes durable in time; the
            // reason itself may tell of what must not be known before.
            _ = timeout(COMMIT_LIMIT, instance.gate.flush()).await;
            host.sockets.reset(slot.id);
        }
        if let Some(reason) = broken.or_else(|| deleted_or_stopped(slot)) {
            // Set before what runs is dropped: it is what the callers are told.
            slot.end(reason.clone());
            for call in running {
                shielded(slot, || drop(call));
            }
            return reason;
        }
        let quiet = running.is_empty() && instance.is_idle();
        // Whoever comes before its last commit is on disk finds it awake.
        let undecided = quiet && instance.gate.is_undecided();
        let idle = quiet && !undecided;
        let rested = || {
            let rested = Instant::now() >= slot.last_used() + idle_after;
            rested.then_some(Eviction::Idle)
        };
        if idle && let Some(why) = slot.evicted().or_else(rested) {
            slot.metrics.evicted(why);
            return Error::ObjectReset("the object fell asleep".into());
        }
        if idle {
            sleep.as_mut().reset(slot.last_used() + idle_after);
        }
        // A busy object leaves the thread to others now and then.
        tokio::task::consume_budget().await;
        tokio::select! {
            Some(()) = running.next(), if !running.is_empty() => {}
            () = slot.stirred() => {}
            () = instance.gate.opened() => {
                if let Err(error) = instance.gate.release() {
                    instance.break_off(error, Reset::Storage);
                }
            }
            () = instance.gate.decided(), if undecided => {}
            () = &mut sleep, if idle => {}
        }
    }
}

/// Why the instance is to end, if nothing is wrong with it.
fn deleted_or_stopped(slot: &Slot) -> Option<Error> {
    let reason = slot.abandoned()?;
    if let Error::ObjectReset(_) = reason {
        slot.metrics.reset(Reset::Deleted);
    }
    Some(reason)
}

/// Whether the event may be delivered now.
fn admits(instance: &Instance, event: &Event) -> bool {
    instance.sections.admits(event.section.as_ref())
        && (!instance.slot.class.is_serial || instance.serial.admits(event.chain))
}

/// One event, from its delivery to its outcome at the gate. If the instance ends before this is ever
/// polled, the caller is told so.
fn handle<'a>(
    instance: &'a Rc<Instance>,
    object: &'a Rc<dyn Dispatch>,
    event: Event,
) -> LocalBoxFuture<'a, ()> {
    let Event {
        section,
        chain,
        what,
        ticket,
        span,
        since,
    } = event;
    let flow = Flow::new(section, chain);
    let (class, id) = (instance.slot.class.name, instance.slot.id);
    match what {
        What::Call(target, call) => {
            let Call {
                interface_id,
                method_id,
                params,
                reply,
                ..
            } = call;
            let returning = Returning::new(reply, ticket, since);
            let method = Method {
                target,
                interface_id,
                method_id,
            };
            let call = tracing::debug_span!(
                parent: &span, "call", class, %id, interface_id, method_id, ?chain
            );
            call.in_scope(|| tracing::trace!(queued = ?since.elapsed(), "delivered"));
            let answered = async move {
                answer(instance, object, &flow, method, params, returning).await;
            };
            Box::pin(answered.instrument(call))
        }
        What::Fetch(fetch) => {
            let span = tracing::debug_span!(parent: &span, "fetch", class, %id, ?chain);
            span.in_scope(|| tracing::trace!(queued = ?since.elapsed(), "delivered"));
            let returning = move |reply| Returning::new(reply, ticket, since);
            let answer = fetching::run(instance, object, flow, fetch, returning);
            Box::pin(answer.instrument(span))
        }
        What::Socket(event) => {
            let span = tracing::debug_span!("socket", class, %id, ?chain);
            let run = async move { sockets::run(instance, object, &flow, event, ticket).await };
            Box::pin(run.instrument(span))
        }
        What::Alarms(ringing) => {
            let alarms = tracing::debug_span!("alarms", class, %id, ?chain);
            let run = async move { runs::run(instance, object, &flow, ringing, ticket).await };
            Box::pin(run.instrument(alarms))
        }
    }
}

struct Method {
    target: EventTarget,
    interface_id: u64,
    method_id: u16,
}

async fn answer(
    instance: &Rc<Instance>,
    object: &Rc<dyn Dispatch>,
    flow: &Flow,
    method: Method,
    params: Box<dyn ParamsHook>,
    returning: Returning,
) {
    let params = match instance.inward_params(params) {
        Ok(params) => params,
        Err(error) => return returning.finish(Err(error)),
    };
    let back = Rc::new(call::ResultsCell::default());
    let results = Box::new(call::Results::new(back.clone()));
    let Method {
        target,
        interface_id,
        method_id,
    } = method;
    let mut method = pin!(async {
        match target {
            EventTarget::Object => {
                let (params, results) = (Params::new(params), Results::new(results));
                object
                    .dispatch(interface_id, method_id, params, results)
                    .promise
                    .await
            }
            EventTarget::Capability(cap) => {
                cap.call(interface_id, method_id, params, results).await
            }
        }
    });
    let outcome = poll_fn(|cx| {
        instance.poll_turn(flow, cx, |cx| {
            let polled = method.as_mut().poll(cx);
            if let Some(mut early) = back.early.take() {
                early.map_caps(|cap| instance.outward(cap));
                instance.say(Output::Pipeline(returning.clone(), early));
            }
            polled.map(|outcome| {
                outcome.and_then(|()| {
                    let mut message = back.take()?;
                    if let Some(message) = &mut message {
                        message.map_caps(|cap| instance.outward(cap));
                    }
                    Ok(message)
                })
            })
        })
    })
    .await;
    match outcome {
        Ok(outcome) => instance.say(Output::Return(returning, outcome)),
        // The instance is at its end, and the caller whose call ended it is told why, in its turn.
        Err(error) => instance
            .gate
            .pass(false, Output::Return(returning, Err(error.into()))),
    }
}

/// Work that no caller waits for.
async fn in_background(instance: &Instance, background: Background) {
    let Background {
        mut work,
        section,
        ticket,
    } = background;
    let flow = Flow::new(section, instance.host.chains.begin());
    let done = poll_fn(|cx| instance.poll_turn(&flow, cx, |cx| work.as_mut().poll(cx))).await;
    // What it holds on to may panic.
    shielded(&instance.slot, || drop(work));
    if let Ok(Err(error)) = done {
        let (class, id) = (instance.slot.class.name, instance.slot.id);
        instance.slot.metrics.background_failed();
        tracing::warn!(class, %id, %error, "background work of an object failed");
    }
    drop(ticket);
}
