//! The task of one object: from waking up to falling asleep.

use std::{panic::AssertUnwindSafe, rc::Rc};

use futures::FutureExt;
use tokio::time::{Instant, timeout};
use vatwerk::Code;

use super::{
    Host,
    class::Dispatch,
    deletion::discard,
    gate::COMMIT_LIMIT,
    instance::Instance,
    slot::{Slot, shielded},
    wake::{forget, wake},
    work::work,
};
use crate::{Error, Result, storage::Storage};

/// Serves the object in `slot` until it is reset or has been idle for long enough. However it ends,
/// its database is closed before another instance can be made.
pub(super) async fn serve(host: Rc<Host>, slot: Rc<Slot>) {
    match shielded(&slot, || open(&host, &slot)) {
        Some(Ok(instance)) => {
            let reason = AssertUnwindSafe(live(&instance)).catch_unwind().await;
            let reason = reason.unwrap_or_else(|_| fault(&slot));
            if !instance.is_unborn() && slot.abandoned().is_none() {
                // So that the log can be written back. If it cannot, it is kept.
                let newest = instance.storage.newest();
                let _ = timeout(COMMIT_LIMIT, host.commits.durable(newest)).await;
            }
            if sabotaged!(host, WakeBeforeAsleep) {
                host.remove(&slot);
                tokio::task::yield_now().await;
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
    let storage = Storage::open(&host.vfs, slot.database(), &host.limits.storage)?;
    Ok(Instance::new(host.clone(), slot.clone(), storage))
}

/// Wakes the object and lets it work. Returns why it ended.
async fn live(instance: &Rc<Instance>) -> Error {
    let (began, metrics) = (Instant::now(), &instance.slot.metrics);
    let object = match activate(instance).await {
        Ok(object) => object,
        Err(error) => {
            metrics.activation_failed();
            return error;
        }
    };
    metrics.activated(began.elapsed());
    let reason = work(instance, &object).await;
    shielded(&instance.slot, || drop(object));
    reason
}

/// Wakes the object, within the time for that.
async fn activate(instance: &Rc<Instance>) -> Result<Rc<dyn Dispatch>> {
    let limit = instance.host.limits.activation;
    let awake = async {
        tokio::select! {
            awake = timeout(limit, wake(instance)) => awake,
            failed = instance.gate.drive() => Ok(Err(failed)),
        }
    };
    match awake.await {
        Ok(awake) => awake,
        Err(_) => {
            if instance.is_unborn() {
                forget(instance)?;
            }
            Err(Error::ActivationFailed(format!(
                "`create` and `activate` took longer than {} s",
                limit.as_secs_f32()
            )))
        }
    }
}
