//! Alarms that may have ended an earlier process: a handler that aborts, overflows its stack or uses up
//! the machine's memory ends the vat, which finds the alarm due again at its next start.
//!
//! The run of a suspect is noted in the object's database, durably, before its handler begins. A process
//! that finds the note of another counts the run as a failure, so that the alarm is held back, for longer
//! each time, and given up after as many runs as any other that fails. All other runs cost nothing.

use std::{cell::Cell, time::Duration};

use tokio::sync::{Mutex, MutexGuard};

use super::host::Host;
use crate::alarm::{Attempt, DueRow};

/// How long a run may keep others waiting that were cut short as well.
pub(super) const ALONE_LIMIT: Duration = Duration::from_secs(60);

/// Which alarms may have ended an earlier process.
#[derive(Default)]
pub(super) struct Suspects {
    /// Whether the catalog has been told that this process runs alarms.
    has_begun: Cell<bool>,
    /// If the process before did not end in order: when this one started, in milliseconds since 1970.
    /// What ran then was due by then.
    started_ms: Cell<Option<i64>>,
    /// Held by the one that runs of those whose last run was cut short: which of them ended the process
    /// is known only if they run one at a time.
    alone: Mutex<()>,
}

impl Suspects {
    /// Learns how the process before ended, and lets the next one know of this. To be awaited before any
    /// handler runs.
    pub async fn begin(&self, host: &Host) {
        if self.has_begun.get() {
            // The service was restarted, and this process has noted that it runs alarms.
            return;
        }
        let suspicious = || self.started_ms.set(Some(host.clock.now_ms()));
        let begun = host.catalog.begin_alarms();
        self.has_begun.set(begun.is_ok());
        if begun != Ok(true) {
            suspicious();
        }
        let durable = host.catalog_is_durable().await;
        if let Err(error) = begun.map(drop).and(durable) {
            // The worst that follows is one more run that nobody knows of.
            suspicious();
            tracing::warn!(%error, "noting that alarms are run");
        }
    }

    /// Notes that the process ends in order.
    pub fn end(&self, host: &Host) {
        if self.has_begun.take()
            && let Err(error) = host.catalog.end_alarms()
        {
            tracing::warn!(%error, "noting that no alarm was cut short");
        }
    }

    /// Whether the next run is to be noted before it begins.
    pub fn is_suspect(&self, due: &DueRow) -> bool {
        let was_due = |started_ms| due.due_ms <= started_ms;
        due.attempt != Attempt::None || self.started_ms.get().is_some_and(was_due)
    }

    /// Whether a run that was cut short by the end of its process is the object's own failure. A process
    /// that stopped in order has cut it short itself.
    pub fn are_to_blame(&self) -> bool {
        self.started_ms.get().is_some()
    }

    /// Waits until no other alarm runs whose last run was cut short.
    pub async fn alone(&self) -> MutexGuard<'_, ()> {
        self.alone.lock().await
    }
}
