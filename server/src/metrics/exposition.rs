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

use super::process::Process;

/// The text of a vat's numbers, for any thread: a vat whose thread is held can still be asked. Cheap to
/// clone.
#[derive(Clone)]
pub struct Exposition {
    registry: Arc<Mutex<Registry>>,
    process: Arc<Process>,
    busy: Counter<f64, AtomicU64>,
    turn_running: Gauge<f64, AtomicU64>,
    draining: Gauge<u64, AtomicU64>,
    journal_down: Gauge<u64, AtomicU64>,
    disk_free: Gauge<f64, AtomicU64>,
}

/// What is known of a vat outside of its thread.
#[derive(Clone, Copy, Debug, Default)]
pub struct Vitals {
    /// How long it has been busy since the vat started, but for what it does since it last waited; zero
    /// if that is not known.
    pub busy: Duration,
    /// How long the turn that runs has been running; zero if none does.
    pub turn_running: Duration,
    /// Whether the vat takes no more calls.
    pub is_draining: bool,
    /// Whether the journal takes no commits.
    pub is_journal_down: bool,
    /// The room that is left on the disk, in bytes; `None` where nobody looks.
    pub disk_free: Option<u64>,
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
        let (draining, journal_down) = (Gauge::default(), Gauge::default());
        registered.register(
            "draining",
            "Whether the vat stops: 1, or 0; it takes no more calls",
            draining.clone(),
        );
        registered.register(
            "journal_down",
            "Whether the journal takes no commits, because the disk failed or is full: 1, or 0",
            journal_down.clone(),
        );
        let disk_free = Gauge::default();
        registered.register(
            "disk_free_bytes",
            "The room that is left to the vat in the file system of its data folder; NaN where nobody looks",
            disk_free.clone(),
        );
        drop(registered);
        Exposition {
            registry,
            process: Arc::new(Process::new()),
            busy,
            turn_running,
            draining,
            journal_down,
            disk_free,
        }
    }

    /// All numbers, in the text format of Prometheus. Readings are as of the last
    /// [`Metrics::refresh`](super::Metrics::refresh).
    pub fn encode(&self, vitals: Vitals) -> String {
        let registry = lock(&self.registry);
        self.turn_running.set(vitals.turn_running.as_secs_f64());
        self.draining.set(vitals.is_draining.into());
        self.journal_down.set(vitals.is_journal_down.into());
        let free = vitals.disk_free.map_or(f64::NAN, |bytes| bytes as f64);
        self.disk_free.set(free);
        // While a turn runs the thread is busy with it, which counts there only when it is over.
        let busy = (vitals.busy + vitals.turn_running).as_secs_f64();
        let more = busy - self.busy.get();
        if more > 0.0 {
            self.busy.inc_by(more);
        }
        let mut text = String::new();
        prometheus_text::encode(&mut text, &registry)
            .expect("a string takes whatever is written to it");
        self.process.encode(&mut text);
        text
    }
}

/// Nothing that is done with a registry panics half way.
pub(super) fn lock(registry: &Mutex<Registry>) -> MutexGuard<'_, Registry> {
    registry.lock().unwrap_or_else(PoisonError::into_inner)
}
