//! A vat that runs, and how it stops.

use std::{rc::Rc, sync::Arc, time::Duration};

use tokio::task::AbortHandle;
use vatwerk::Address;

use crate::{
    Config,
    folder::Folder,
    gateway::{Gateway, Operators, http::Http},
    health::{DiskWatch, Health, Watchdog},
    object::Host,
};

/// How long connections may take to end after the draining.
const HANGING_UP: Duration = Duration::from_millis(750);

/// How long objects may take to fall asleep when the time for draining is over, and as long again those that
/// do not to end.
const CLOSING: Duration = Duration::from_millis(500);

/// How long the disk may take to bring the journal to the databases when the vat stops. A second is enough
/// for 100 MB on most disks.
const WRITING_BACK: Duration = Duration::from_secs(60);

/// A vat that takes connections. Dropping it stops it where it stands, as a crash would.
pub struct Running {
    pub(super) host: Rc<Host>,
    pub(super) gateway: Rc<Gateway>,
    pub(super) http: Rc<Http>,
    pub(super) addresses: Vec<Address>,
    pub(super) http_addresses: Vec<Address>,
    pub(super) health: Health,
    pub(super) accepting: Vec<AbortHandle>,
    pub(super) services: Vec<AbortHandle>,
    /// Answers until the vat has stopped.
    pub(super) operators: Option<Operators>,
    pub(super) _watchdog: Option<Watchdog>,
    pub(super) _disk_watch: Option<DiskWatch>,
    pub(super) config: Config,
    pub(super) folder: Arc<Folder>,
}

impl Running {
    /// Where it listens, with real ports, in the order of the settings.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// Where its objects are reached over HTTP, with real ports, in the order of the settings.
    pub fn http_addresses(&self) -> &[Address] {
        &self.http_addresses
    }

    /// Where an operator finds its numbers, with the real port, if anywhere.
    pub fn metrics_address(&self) -> Option<&Address> {
        self.operators.as_ref().map(Operators::address)
    }

    /// What other threads may ask: whether the vat works, and what holds its thread. While that is held
    /// [`Running::stop`] does not get on: a program that is to end all the same ends itself then, as the
    /// command `serve` does.
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// For tests: its objects.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn host(&self) -> &Rc<Host> {
        &self.host
    }

    /// For tests: its connections.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn gateway(&self) -> &Rc<Gateway> {
        &self.gateway
    }

    /// Stops in order: takes no more connections, answers further calls `shutting-down`, lets calls
    /// and requests in flight finish, ends the connections and puts every object to sleep. What has not
    /// finished within the time for draining is given up. A disk that does not take the journal within a
    /// minute is not waited for: the folder stays locked until it has, and the next start recovers.
    pub async fn stop(self) {
        let end = tokio::time::Instant::now() + self.config.drain();
        self.stop_by(end).await;
    }

    /// Stops like [`Running::stop`], with `end` as the end of the time for draining.
    pub(crate) async fn stop_by(self, end: tokio::time::Instant) {
        self.health.stopping();
        self.accepting.iter().for_each(AbortHandle::abort);
        self.host.stop_scheduling();
        // Calls that have asked for one last as long.
        self.host.close_web_sockets();
        // Those that nothing is wanted of need not wait for the others.
        self.host.sleep_when_idle();
        // One time for all of it.
        let finished = tokio::time::timeout_at(end, async {
            futures::join!(self.gateway.finish_calls(), self.http.finish_requests());
            self.host.calls_finished().await;
        });
        if finished.await.is_err() {
            tracing::warn!("calls were still running when the time for draining was over");
        }
        self.host.close_web_sockets();
        // Peers that do not take their last message, or do not hang up, are not waited for.
        let hung_up = tokio::time::timeout(HANGING_UP, self.gateway.close());
        let _ = futures::join!(hung_up, self.http.close(HANGING_UP));
        // Calls that waited have ended with their connections.
        let end = end.max(tokio::time::Instant::now() + CLOSING);
        if tokio::time::timeout_at(end, self.host.sleep_all())
            .await
            .is_err()
        {
            tracing::warn!(
                objects = self.host.resident(),
                "objects were still busy when the time for draining was over"
            );
            let _ = tokio::time::timeout(CLOSING, self.host.abandon_all()).await;
        }
        self.close_journal().await;
    }

    /// Makes every database a plain file.
    async fn close_journal(&self) {
        let written = self.host.write_notes();
        self.host.end_alarms();
        if let Err(error) = written.and(self.host.catalog.close()) {
            tracing::error!(%error, "closing the catalog");
        }
        let (journal, folder) = (self.host.commits.journal().clone(), self.folder.clone());
        // It waits for the disk.
        let stopping = tokio::task::spawn_blocking(move || {
            let stopped = journal.stop();
            drop(folder);
            stopped
        });
        match tokio::time::timeout(WRITING_BACK, stopping).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => {
                tracing::error!(%error, "the journal is kept: it is recovered at the next start");
            }
            Ok(Err(error)) => tracing::error!(%error, "a fault of the vat itself, in stopping"),
            Err(_) => tracing::error!(
                limit_ms = WRITING_BACK.as_millis() as u64,
                "the disk has not taken the journal in time: it is recovered at the next start"
            ),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.accepting.iter().for_each(AbortHandle::abort);
        self.host.stop_scheduling();
        self.services.iter().for_each(AbortHandle::abort);
    }
}
