//! What an instance does while it is awake: it lets events in, and lets what they say out.

use std::{
    cell::Cell,
    future::{poll_fn, ready},
    pin::pin,
    rc::Rc,
    task::Poll,
};

use capnp::{
    capability::{Params, Results},
    private::capability::ParamsHook,
    traits::HasTypeId,
};
use futures::{StreamExt, future::LocalBoxFuture, stream::FuturesUnordered};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::Instrument;
use vatwerk::{
    Delivery,
    storage_capnp::{cursor, sql, transaction},
};

use super::{
    class::Dispatch,
    event::{Event, EventTarget, What},
    fetching,
    flow::Flow,
    gate::COMMIT_LIMIT,
    instance::{Background, Instance},
    life::Why,
    results::{Early, Outcome, Returning},
    runs,
    slot::shielded,
    sockets,
};
use crate::{
    call::{self, Call, Message},
    fault,
    health::Runs,
    metrics::{Eviction, Reset},
};

/// The events of an instance that have begun and are not over. Boxed, so that they can be dropped one by
/// one.
type Running<'a> = FuturesUnordered<LocalBoxFuture<'a, ()>>;

/// Lets events begin, in order, until the instance ends.
pub(super) async fn work(instance: &Rc<Instance>, object: &Rc<dyn Dispatch>) {
    let (slot, host, life) = (&instance.slot, &instance.host, &instance.life);
    let idle_after = host.limits.idle;
    life.woken();
    host.remember_activation(slot.id, host.clock.now_ms());
    let mut running = Running::new();
    let mut sleep = pin!(sleep_until(slot.last_used() + idle_after));
    let mut look_for_deadlock = pin!(sleep_until(Instant::now()));
    loop {
        let waiting = begin_events(instance, object, &mut running).await;
        for background in instance.take_background() {
            running.push(Box::pin(in_background(instance, background)));
        }
        if let Some(why) = life.ending() {
            finish(instance, &why).await;
            for event in running {
                shielded(slot, || drop(event));
            }
            return;
        }
        let waits_for_chain = instance.waits_for_chain();
        if waits_for_chain && look_for_deadlock.is_elapsed() {
            let next = Instant::now() + host.refuse_deadlocked();
            look_for_deadlock.as_mut().reset(next);
        }
        let quiet = running.is_empty() && instance.is_idle();
        // Whoever comes before its last commit is on disk finds it awake.
        let undecided = quiet && instance.gate.is_undecided();
        let idle = quiet && !undecided;
        let rested = || {
            let rested = Instant::now() >= slot.last_used() + idle_after;
            rested.then_some(Eviction::Idle)
        };
        let leaves = idle.then(|| slot.evicted().or_else(rested)).flatten();
        if idle {
            match instance.give_back(leaves.is_some()) {
                Ok(false) => {}
                Ok(true) => continue,
                Err(error) => {
                    instance.break_off(error, Reset::Storage);
                    continue;
                }
            }
        }
        if let Some(why) = leaves {
            slot.metrics.evicted(why);
            life.end(Why::Asleep(why));
            return;
        }
        if idle {
            sleep.as_mut().reset(slot.last_used() + idle_after);
        }
        // A busy object leaves the thread to others now and then.
        tokio::task::consume_budget().await;
        tokio::select! {
            biased;
            () = instance.gate.opened() => let_out(instance),
            Some(()) = running.next(), if !running.is_empty() => {}
            () = ready(()), if waiting == Waiting::ForOthers => {}
            () = slot.stirred() => {}
            () = instance.gate.decided(), if undecided => {}
            () = instance.caught_up(), if waiting == Waiting::ForJournal || instance.holds_back() => {}
            () = &mut look_for_deadlock, if waits_for_chain => {}
            () = &mut sleep, if idle => {}
        }
    }
}

/// What the events at the head of the queue wait for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Waiting {
    /// None is queued, or those that are queued may not begin yet.
    ToBeAdmitted,
    /// The journal is behind.
    ForJournal,
    /// The events that run are to get their turns first.
    ForOthers,
}

/// Begins the events of the queue that may begin: each gets its first turn here, in the order of the
/// queue, and only what is not over after it is left to run beside others. Begins at most as many as are
/// queued when it is called: events that come meanwhile must not keep the running ones waiting.
async fn begin_events<'a>(
    instance: &'a Rc<Instance>,
    object: &'a Rc<dyn Dispatch>,
    running: &mut Running<'a>,
) -> Waiting {
    let slot = &instance.slot;
    for _ in 0..slot.queued() {
        if let Some(error) = instance.gate.lost() {
            instance.break_off(error, Reset::Storage);
        }
        if instance.life.is_over() {
            break;
        }
        if instance.is_behind() && !sabotaged!(instance.host, BeginOutOfOrder) {
            return Waiting::ForJournal;
        }
        let Some(event) = slot.next(|event| admits(instance, event)) else {
            return Waiting::ToBeAdmitted;
        };
        let entered = (slot.class.is_serial).then(|| slot.serial.enter(event.chain, event.caller));
        let mut handled = handle(instance, object, event);
        if let Some(entered) = entered {
            handled = Box::pin(async move {
                handled.await;
                drop(entered);
            });
        }
        let first = poll_fn(|cx| Poll::Ready(handled.as_mut().poll(cx))).await;
        if first.is_pending() {
            running.push(handled);
        } else {
            shielded(slot, || drop(handled));
        }
        // A long queue does not hold up what earlier events have said.
        let_out(instance);
        tokio::task::consume_budget().await;
    }
    if slot.has_nothing_queued() {
        Waiting::ToBeAdmitted
    } else {
        Waiting::ForOthers
    }
}

/// Lets out what may leave by now, and resets the instance if something must never leave.
fn let_out(instance: &Instance) {
    if let Err(error) = instance.gate.release() {
        instance.break_off(error, Reset::Storage);
    }
}

/// Counts the end of an instance, and lets out what it said before, if that becomes durable in time: the
/// reason of a reset may tell of what must not be known before.
pub(super) async fn finish(instance: &Instance, why: &Why) {
    let (slot, host) = (&instance.slot, &instance.host);
    match why {
        Why::Reset(reset, error) => {
            host.tell_reset(slot, *reset, error);
            host.remember_reset(slot.id);
            slot.metrics.reset(*reset);
            _ = timeout(COMMIT_LIMIT, instance.gate.flush()).await;
            host.sockets.reset(slot.id);
            slot.refuse_socket_events(&why.error());
        }
        Why::Deleted => slot.metrics.reset(Reset::Deleted),
        Why::DeletedItself => {
            slot.metrics.reset(Reset::Deleted);
            _ = timeout(COMMIT_LIMIT, instance.gate.flush()).await;
            host.sockets.reset(slot.id);
            slot.refuse_socket_events(&why.error());
        }
        _ => {}
    }
}

/// Whether the event may be delivered now.
fn admits(instance: &Instance, event: &Event) -> bool {
    instance.sections.admits(event.section.as_ref())
        && (!instance.slot.class.is_serial || instance.slot.serial.admits(event.chain))
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
        ..
    } = event;
    ticket.deliver(&instance.life);
    instance.slot.metrics.queue_waited(since.elapsed());
    let flow = Flow::new(section, chain, &what);
    if sabotaged!(instance.host, BeginOutOfOrder) {
        flow.has_begun.set(true);
    }
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
    flow: &Rc<Flow>,
    method: Method,
    params: Box<dyn ParamsHook>,
    returning: Returning,
) {
    let params = match instance.inward_params(params) {
        Ok(params) => params,
        Err(error) => return returning.finish(Err(fault::mark(error, Delivery::NotDelivered))),
    };
    let back = Rc::new(call::ResultsCell::default());
    let results = Box::new(call::Results::new(back.clone()));
    let Method {
        target,
        interface_id,
        method_id,
    } = method;
    // Only whoever wrote SQL is told what is wrong with it.
    let wrote_sql = [
        sql::Client::TYPE_ID,
        cursor::Client::TYPE_ID,
        transaction::Client::TYPE_ID,
    ]
    .contains(&interface_id);
    let mut method = pin!(Some(async {
        match target {
            EventTarget::Object => {
                let (params, results) = (Params::new(params), Results::new(results));
                object
                    .dispatch(interface_id, method_id, params, results)
                    .promise
                    .await
            }
            EventTarget::Facet(name) => {
                let facet = object.facet(&name)?.hook;
                facet.call(interface_id, method_id, params, results).await
            }
            EventTarget::Capability(cap) => {
                cap.call(interface_id, method_id, params, results).await
            }
        }
    }));
    let code = pin!(poll_fn(|cx| {
        let running = method.as_mut().as_pin_mut().expect("it runs");
        let polled = running.poll(cx);
        // Early results over the limit are left out: the call fails when it ends.
        if let Some(Ok(early)) = back
            .early
            .take()
            .map(|early| hand_out(instance, flow, early))
        {
            instance.say(Early(returning.clone(), early));
        }
        polled.map(|outcome| {
            outcome.and_then(|()| {
                let message = back.take()?;
                message
                    .map(|message| hand_out(instance, flow, message))
                    .transpose()
            })
        })
    }));
    let outcome = instance.run_for_caller(flow, &returning, code).await;
    // What a method that was given up holds on to may panic.
    shielded(&instance.slot, || method.set(None));
    match outcome {
        Ok(outcome) => {
            let outcome = outcome.map_err(|error| match wrote_sql {
                true => fault::leaving(error),
                false => instance.leaving(error),
            });
            instance.say(Outcome(returning, outcome));
        }
        // The instance is at its end, and the caller whose call ended it is told why, in its turn.
        Err(error) => {
            let error = match wrote_sql {
                true => fault::mark(error.into(), Delivery::Unknown),
                false => fault::outcome_unknown(error),
            };
            instance.gate.pass(false, Outcome(returning, Err(error)));
        }
    }
}

/// Results as the caller gets them. `limit-exceeded` if the caller's connection would keep too many objects
/// awake by them.
fn hand_out(instance: &Rc<Instance>, flow: &Flow, mut results: Message) -> capnp::Result<Message> {
    let has_caps = Cell::new(false);
    results.map_caps(|cap| {
        has_caps.set(true);
        instance.outward(cap)
    });
    match &flow.pins {
        Some(pins) if has_caps.get() => pins.check()?,
        _ => {}
    }
    Ok(results)
}

/// Work that no caller waits for.
async fn in_background(instance: &Instance, background: Background) {
    let Background {
        mut work,
        section,
        ticket,
    } = background;
    let flow = Flow::begun(section, instance.host.chains.begin(), Runs::Background);
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
