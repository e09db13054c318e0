//! The task of one slot: one instance after another, as long as anything is wanted of the object.

use std::{future::poll_fn, panic::AssertUnwindSafe, rc::Rc};

use futures::FutureExt;
use tokio::time::{Instant, timeout};
use vatwerk::Code;

use super::{
    Host,
    class::Dispatch,
    deletion::{carry_out, delete, discard},
    gate::COMMIT_LIMIT,
    instance::Instance,
    life::{Life, Why},
    slot::{Next, Slot, shielded},
    wake::{unmake, wake},
    work::{finish, work},
};
use crate::{
    Error, Result,
    metrics::{Eviction, Reset},
    storage::Storage,
};

/// Serves the object in `slot` until nothing is wanted of it. However an instance ends, its database is
/// closed before another is made.
pub(super) async fn serve(host: Rc<Host>, slot: Rc<Slot>) {
    loop {
        let next = slot.next_life(&host);
        let step = async {
            match next {
                Next::Wake(life) => live(&host, &slot, life).await,
                Next::Delete(deletions) => delete(&host, &slot, deletions).await,
                Next::Leave => return true,
            }
            false
        };
        match AssertUnwindSafe(step).catch_unwind().await {
            Ok(true) => break,
            Ok(false) => {}
            // Whether the database is closed is not known: a later event tries.
            Err(_) => {
                slot.refuse_queued(&fault(&host, &slot));
                break;
            }
        }
        slot.rest();
    }
    host.remove(&slot);
}

/// Reports a panic of the vat's own.
fn fault(host: &Host, slot: &Slot) -> Error {
    let (class, id) = (slot.class.name, slot.id);
    tracing::error!(class, %id, "a fault of the vat itself, in serving an object");
    host.metrics.faulted();
    Error::Raised {
        code: Code::Internal,
        text: "a fault of the vat itself; its log says more".into(),
    }
}

/// One instance, from the opening of its database to its closing.
async fn live(host: &Rc<Host>, slot: &Rc<Slot>, life: Rc<Life>) {
    let instance = match shielded(slot, || open(host, slot, life)) {
        Some(Ok(instance)) => instance,
        Some(Err(error)) => {
            host.tell_not_woken(slot, &error);
            return slot.refuse_queued(&error);
        }
        None => return slot.refuse_queued(&fault(host, slot)),
    };
    let life = &instance.life;
    if AssertUnwindSafe(awake(&instance))
        .catch_unwind()
        .await
        .is_err()
    {
        let why = Why::Reset(Reset::Other, fault(host, slot));
        life.end(why.clone());
        finish(&instance, &why).await;
    }
    let why = life.ending().expect("an instance says why it ends");
    if why.lets_out() && !instance.storage.is_unborn() {
        // So that the next instance, if the disk allows, starts with nothing undecided.
        let newest = instance.storage.newest();
        let _ = timeout(COMMIT_LIMIT, host.commits.durable(newest)).await;
    }
    if sabotaged!(host, WakeBeforeAsleep) {
        host.remove(slot);
        tokio::task::yield_now().await;
    }
    instance.close();
    if instance.storage.is_unborn() {
        discard(host, slot).await;
    }
    match why {
        // What waited for the object to wake, waited for this.
        Why::NotWoken(error) => slot.refuse_queued(&error),
        Why::Asleep(_) => slot.has_slept(),
        Why::DeletedItself => carry_out(host, slot, instance.gate.newest()).await,
        _ => {}
    }
    if host.is_stopping() {
        slot.evict(Eviction::Asked);
    }
}

/// Opens the object's database.
fn open(host: &Rc<Host>, slot: &Rc<Slot>, life: Rc<Life>) -> Result<Rc<Instance>> {
    let storage = Storage::open(&host.vfs, slot.database(), &host.limits.storage)?;
    if !storage.exists() {
        host.refuse_if_written(slot.database())?;
    }
    Ok(Instance::new(host.clone(), slot.clone(), life, storage))
}

/// Wakes the object and lets it work, until the instance ends.
async fn awake(instance: &Rc<Instance>) {
    let (began, metrics) = (Instant::now(), &instance.slot.metrics);
    match activate(instance).await {
        Some(Ok(object)) => {
            metrics.activated(began.elapsed());
            instance.host.tell_woken(&instance.slot);
            work(instance, &object).await;
            shielded(&instance.slot, || drop(object));
            return;
        }
        Some(Err(error)) => {
            instance.host.tell_not_woken(&instance.slot, &error);
            // It may have failed by a panic, whose reason stands; what waits for the object is refused all
            // the same.
            if !instance.life.end(Why::NotWoken(error.clone())) {
                instance.slot.refuse_queued(&error);
            }
        }
        // Ended from outside while it woke: by a deletion, an operator or the vat's end.
        None => {
            if instance.storage.is_unborn()
                && let Err(error) = unmake(instance)
            {
                let what = "a `create` that was broken off is not undone";
                instance.host.tell_failed(&instance.slot, what, &error);
            }
        }
    }
    if let Some(why) = instance.life.ending() {
        finish(instance, &why).await;
    }
}

/// Wakes the object, within the time for that. `None` if the instance is ended from outside meanwhile.
async fn activate(instance: &Rc<Instance>) -> Option<Result<Rc<dyn Dispatch>>> {
    let limit = instance.host.limits.activation;
    let (slot, life) = (&instance.slot, &instance.life);
    // Turns that wait for the journal go on when it has got on.
    let catching_up = async {
        loop {
            if instance.holds_back() {
                instance.caught_up().await;
            } else {
                slot.stirred().await;
            }
        }
    };
    let awake = tokio::select! {
        // First, so that an end from outside is not taken for a failure of the class.
        biased;
        () = poll_fn(|cx| life.poll_ended(cx)) => return None,
        awake = timeout(limit, wake(instance)) => awake,
        failed = instance.gate.drive() => Ok(Err(failed)),
        () = catching_up => unreachable!("it goes on for ever"),
    };
    Some(match awake {
        Ok(awake) => awake,
        Err(_) => {
            if instance.storage.is_unborn()
                && let Err(error) = unmake(instance)
            {
                return Some(Err(error));
            }
            Err(Error::ActivationFailed(format!(
                "`create` and `activate` took longer than {} s",
                limit.as_secs_f32()
            )))
        }
    })
}
