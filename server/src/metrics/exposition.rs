//! The numbers as text.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicU64},
    time::Duration,
};

use prometheus_client::{
    encoding::prometheus_text,
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};

/// The text of a vat's numbers, for any thread: a vat whose thread is held can still be asked. Cheap to
/// clone.
#[derive(Clone)]
pub struct Exposition {
    registry: Arc<Mutex<Registry>>,
    busy: Counter<f64, AtomicU64>,
    turn_running: Gauge<f64, AtomicU64>,
}

/// What is known of the vat's thread from outside.
#[derive(Clone, Copy, Debug, Default)]
pub struct ThreadTimes {
    /// How long it has been busy since the vat started, but for what it does since it last waited; zero
    /// if that is not known.
    pub busy: Duration,
    /// How long the turn that runs has been running; zero if none does.
    pub turn_running: Duration,
}

impl Exposition {
    pub(super) fn new(registry: Arc<Mutex<Registry>>) -> Exposition {
        let busy = Counter::default();
        let turn_running = Gauge::default();
        let mut registered = lock(&registry);
        registered.register(
            "thread_busy_seconds",
            "How long the vat's thread has worked, and not waited for anything to do: for objects, \
             connections and everything else",
            busy.clone(),
        );
        registered.register(
            "turn_running_seconds",
            "How long the turn that runs has held the vat's thread",
            turn_running.clone(),
        );
        drop(registered);
        Exposition {
            registry,
            busy,
            turn_running,
        }
    }

    /// All numbers, in the text format of Prometheus. Readings are as of the last
    /// [`Metrics::refresh`](super::Metrics::refresh).
    pub fn encode(&self, thread: ThreadTimes) -> String {
        let registry = lock(&self.registry);
        self.turn_running.set(thread.turn_running.as_secs_f64());
        // While a turn runs the thread is busy with it, which counts there only when it is over.
        let busy = (thread.busy + thread.turn_running).as_secs_f64();
        let more = busy - self.busy.get();
        if more > 0.0 {
            self.busy.inc_by(more);
        }
        let mut text = String::new();
        prometheus_text::encode(&mut text, &registry)
            .expect("a string takes whatever is written to it");
        text
    }
}

/// Nothing that is done with a registry panics half way.
pub(super) fn lock(registry: &Mutex<Registry>) -> MutexGuard<'_, Registry> {
    registry.lock().unwrap_or_else(PoisonError::into_inner)
}
