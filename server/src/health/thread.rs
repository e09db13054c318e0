//! The thread of a vat, as seen from itself.

use std::{cell::Cell, marker::PhantomData, time::Duration};

use tokio::task::AbortHandle;
use vatwerk::ObjectId;

use super::{Health, Runs, Services, cell::TurnId, nanoseconds};
use crate::metrics::{ClassMetrics, Metrics};

/// The thread of a vat: reports turns to its [`Health`], and keeps its services running.
pub struct Thread {
    health: Health,
    metrics: Metrics,
    services: Services,
    /// Turns are reported by one thread: the health has room for one.
    _one: PhantomData<Cell<()>>,
}

impl Thread {
    /// The current thread, which reports to `health`. A health has one.
    pub fn new(health: Health, metrics: Metrics) -> Thread {
        Thread {
            services: Services::new(health.clone(), metrics.restarts()),
            health,
            metrics,
            _one: PhantomData,
        }
    }

    /// The tasks that the vat cannot do without.
    pub fn services(&self) -> &Services {
        &self.services
    }

    /// Answers the watchdog from now on. Must be called inside a [`LocalSet`](tokio::task::LocalSet).
    pub fn answer(&self) -> AbortHandle {
        let health = self.health.clone();
        let begin = move || health.clone().pulse();
        self.services.run("pulse", begin)
    }

    /// A turn of an object begins; it ends when what is returned is dropped. Costs two looks at the
    /// clock, a dozen stores and an observation.
    pub fn turn<'a>(
        &'a self,
        class: u64,
        object: ObjectId,
        runs: Runs,
        metrics: &'a ClassMetrics,
    ) -> Turn<'a> {
        let turn = TurnId {
            class,
            object,
            runs,
        };
        let began = self.health.0.now();
        self.health.0.turn.begin(began, &turn);
        Turn {
            thread: self,
            metrics,
            began,
            turn,
        }
    }

    #[cold]
    fn was_long(&self, turn: &TurnId, took: Duration) {
        let names = &self.health.0.names;
        let (class, id) = (names.class(turn.class), turn.object);
        let took_ms = took.as_millis() as u64;
        self.metrics.turn_was_long(class, names.label(turn.runs));
        let method = names.method(turn.runs);
        tracing::warn!(
            class, %id, method, took_ms,
            "a turn held the vat's thread for longer than `limits.long_turn_ms`: nothing else ran \
             meanwhile; await now and then, or do it on another thread"
        );
    }
}

/// A turn that runs.
#[must_use]
pub struct Turn<'a> {
    thread: &'a Thread,
    metrics: &'a ClassMetrics,
    began: u64,
    turn: TurnId,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let health = &self.thread.health.0;
        let ended = nanoseconds(health.start.elapsed());
        health.turn.end();
        let took = Duration::from_nanos(ended.saturating_sub(self.began));
        self.metrics.turn(took);
        if health.limits.long_turn.is_some_and(|limit| took > limit) {
            self.thread.was_long(&self.turn, took);
        }
    }
}
