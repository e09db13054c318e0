//! The task of one object: from waking up to falling asleep.

use std::{
    cell::Cell, future::poll_fn, panic::AssertUnwindSafe, pin::pin, rc::Rc, task::Poll,
    time::Duration,
};

use capnp::capability::{Params, Results};
use futures::{FutureExt, StreamExt, future::LocalBoxFuture, stream::FuturesUnordered};
use tokio::time::{Instant, sleep_until, timeout};
use vatwerk::Code;

use super::{
    Context, Host,
    class::Dispatch,
    gate::{Output, SectionId},
    instance::Instance,
    results::Returning,
    slot::{Event, EventTarget, Slot, shielded},
};
use crate::{
    Error, Result, call, env, fault,
    folder::DatabaseId,
    storage::{Backing, Storage},
};

/// How long the end of an instance waits for its last commit to be durable.
const COMMIT_LIMIT: Duration = Duration::from_secs(30);

/// Serves the object in `slot` until it is reset or has been idle for long enough. However it ends,
/// its database is closed before another instance can be made.
pub(super) async fn serve(host: Rc<Host>, slot: Rc<Slot>) {
    match shielded(&slot, || open(&host, &slot)) {
        Some(Ok(instance)) => {
            let reason = AssertUnwindSafe(live(&instance)).catch_unwind().await;
            let reason = reason.unwrap_or_else(|_| fault(&slot));
            if !instance.is_unborn() && !slot.is_abandoned() {
                // So that the log can be written back. If it cannot, it is kept.
                let newest = instance.storage.newest();
                let _ = timeout(COMMIT_LIMIT, host.commits.durable(newest)).await;
            }
            instance.end(reason);
            if instance.is_unborn() {
                discard(&host, &slot).await;
            }
        }
        Some(Err(error)) => slot.end(error),
        None => slot.end(fault(&slot)),
    }
    host.remove(&slot);
}

fn fault(slot: &Slot) -> Error {
    tracing::error!(id = %slot.id, "a fault of the vat itself, in serving an object");
    Error::Raised {
        code: Code::Internal,
        text: "a fault of the vat itself; its log says more".into(),
    }
}

/// Opens the object's database.
fn open(host: &Rc<Host>, slot: &Rc<Slot>) -> Result<Rc<Instance>> {
    let storage = Storage::open(&host.vfs, database(slot), &host.limits.storage)?;
    Ok(Instance::new(host.clone(), slot.clone(), storage))
}

fn database(slot: &Slot) -> DatabaseId {
    DatabaseId {
        class: slot.class.interface_id,
        object: slot.id,
    }
}

/// Removes the database of an object that did not come into being. Earlier turns of its `create` may
/// have written to it.
async fn discard(host: &Host, slot: &Slot) {
    let removed = async {
        let backing = Backing::open(&host.vfs, database(slot))?;
        if !backing.exists() {
            return Ok(());
        }
        let lsn = backing.delete()?;
        host.commits.durable(lsn).await?;
        backing.forget(lsn)
    };
    if let Ok(Err(error)) = timeout(COMMIT_LIMIT, removed).await {
        let id = slot.id;
        tracing::warn!(%id, %error, "removing the database of an object that failed to be made");
    }
}

/// Wakes the object and lets it work. Returns why it ended.
async fn live(instance: &Rc<Instance>) -> Error {
    let limit = instance.host.limits.activation;
    let awake = async {
        tokio::select! {
            awake = timeout(limit, wake(instance)) => awake,
            failed = instance.gate.drive() => Ok(Err(failed)),
        }
    };
    let object = match awake.await {
        Ok(Ok(object)) => object,
        Ok(Err(error)) => return error,
        Err(_) => {
            if instance.is_unborn()
                && let Err(error) = forget(instance)
            {
                return error;
            }
            return Error::ActivationFailed(format!(
                "`create` and `activate` took longer than {} s",
                limit.as_secs_f32()
            ));
        }
    };
    let reason = work(instance, &object).await;
    shielded(&instance.slot, || drop(object));
    reason
}

/// Runs `create`, if the object has not come into being, and `activate`.
async fn wake(instance: &Rc<Instance>) -> Result<Rc<dyn Dispatch>> {
    let class = &instance.slot.class;
    let context = || Context::new(instance.clone());
    if !instance.storage.meta().created()? {
        let host = &instance.host;
        if host.catalog.is_full() {
            // The next to be listed writes it back.
            host.catalog_is_durable().await?;
        }
        instance.set_unborn(true);
        let created = alone(instance, async {
            class.create(context()).await.map_err(activation_failed)?;
            come_into_being(instance)
        });
        if let Err(error) = created.await {
            forget(instance)?;
            return Err(error);
        }
        instance.set_unborn(false);
    }
    learn_name(instance)?;
    let activated = alone(instance, async {
        class.activate(context()).await.map_err(activation_failed)
    });
    Ok(Rc::from(activated.await?))
}

/// Runs code of the object by itself, in turns. If it fails, its last turn is undone.
async fn alone<T>(instance: &Instance, code: impl Future<Output = Result<T>>) -> Result<T> {
    let section = Cell::new(None);
    let mut code = pin!(code);
    poll_fn(|cx| {
        instance.poll_turn(&section, cx, |cx| {
            let polled = code.as_mut().poll(cx);
            if let Poll::Ready(Err(_)) = &polled {
                instance.undo_turn();
            }
            polled
        })
    })
    .await?
}

/// Undoes what a failed `create` has left: turns before its last have been committed.
fn forget(instance: &Instance) -> Result<()> {
    instance.undo_turn();
    instance.storage.delete_all()
}

/// Marks the object as created, in the turn in which `create` ended: its writes and the mark are
/// one commit. It is listed before that, so that whatever exists is listed.
fn come_into_being(instance: &Instance) -> Result<()> {
    let (slot, host) = (&instance.slot, &instance.host);
    let name = slot.name();
    host.catalog
        .record(slot.class.interface_id, slot.id, name.as_deref())?;
    instance
        .storage
        .meta()
        .mark_created(name.as_deref(), env::now_ms())
}

/// Brings together what the caller, the object and the catalog know of the object's name.
fn learn_name(instance: &Instance) -> Result<()> {
    let (slot, host, meta) = (&instance.slot, &instance.host, instance.storage.meta());
    match (slot.name(), meta.name()?) {
        (Some(_), Some(_)) => {}
        (Some(name), None) => {
            host.catalog
                .record(slot.class.interface_id, slot.id, Some(&name))?;
            meta.set_name(&name)?;
        }
        (None, Some(name)) => _ = slot.learn_name(&name.into()),
        (None, None) => {
            let listed = host.catalog.find(slot.class.interface_id, slot.id)?;
            if let Some(name) = listed.and_then(|listed| listed.name) {
                slot.learn_name(&name.into());
            }
        }
    }
    Ok(())
}

/// What callers are told: an error with a code of the vat's list as it is, so that its kind survives,
/// and others as `activation-failed`.
fn activation_failed(error: capnp::Error) -> Error {
    let text = fault::leaving(error).extra;
    match Code::split(&text) {
        (Some(Code::ApplicationFailed), text) => Error::ActivationFailed(text.to_owned()),
        (Some(code), text) => Error::Raised {
            code,
            text: text.to_owned(),
        },
        (None, text) => Error::ActivationFailed(text.to_owned()),
    }
}

/// Lets events in, in order, until there is a reason to end.
async fn work(instance: &Rc<Instance>, object: &Rc<dyn Dispatch>) -> Error {
    let slot = &instance.slot;
    let idle_after = instance.host.limits.idle;
    // Boxed, so that they can be dropped one by one.
    let mut running: FuturesUnordered<LocalBoxFuture<'_, ()>> = FuturesUnordered::new();
    let mut sleep = pin!(sleep_until(slot.last_used() + idle_after));
    loop {
        while let Some(event) = slot.next(|section| instance.sections.admits(section)) {
            running.push(Box::pin(handle(instance, object, event)));
        }
        if let Some(error) = instance.broken() {
            // What was said before the failure still leaves, if it becomes durable in time; the
            // reason itself may tell of what must not be known before.
            _ = timeout(COMMIT_LIMIT, instance.gate.flush()).await;
            // Set before what runs is dropped: it is what the callers are told.
            slot.end(error.clone());
            for call in running {
                shielded(slot, || drop(call));
            }
            return error;
        }
        if slot.is_abandoned() {
            return Error::ShuttingDown;
        }
        let idle = running.is_empty() && instance.is_idle();
        if idle && (slot.is_evicted() || Instant::now() >= slot.last_used() + idle_after) {
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
                    instance.break_off(error);
                }
            }
            () = &mut sleep, if idle => {}
        }
    }
}

/// One call, from its delivery to its outcome at the gate.
async fn handle(instance: &Rc<Instance>, object: &Rc<dyn Dispatch>, event: Event) {
    let Event {
        target,
        section,
        call,
        ticket,
    } = event;
    let call::Call {
        interface_id,
        method_id,
        params,
        reply,
    } = call;
    let returning = Returning::new(reply, ticket);
    let params = match instance.inward_params(params) {
        Ok(params) => params,
        Err(error) => return returning.finish(Err(error)),
    };
    let back = Rc::new(call::ResultsCell::default());
    let results = Box::new(call::Results::new(back.clone()));
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
    let section: Cell<Option<SectionId>> = Cell::new(section);
    let outcome = poll_fn(|cx| {
        instance.poll_turn(&section, cx, |cx| {
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
