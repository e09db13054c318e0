//! The tasks and threads that a vat cannot do without. One that fails is restarted ([`Services::run`]), or
//! ends the process ([`run_or_abort`], [`thread_or_abort`]): none is ever missing without a word.

use std::{
    future::Future,
    panic::{self, AssertUnwindSafe},
    process, thread,
    time::Duration,
};

use futures::FutureExt;
use tokio::{
    task::{AbortHandle, spawn_local},
    time::{Instant, sleep},
};

use super::Health;
use crate::{metrics::Restarts, panics::message};

/// How long after its first failure a service is restarted. The pause doubles with each failure.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// A service that has run for so long begins again with the first pause.
const STEADY: Duration = Duration::from_secs(60);

/// How long the thread of the log has to write why the process ends.
const LOG_TIME: Duration = Duration::from_millis(100);

/// Runs the services of a thread that are restarted when they panic, or end: all that they work on is
/// still there. Cheap to clone.
#[derive(Clone)]
pub struct Services {
    health: Health,
    restarts: Restarts,
    /// The service that is to panic, once.
    #[cfg(any(test, feature = "testing"))]
    fault: std::sync::Arc<std::sync::Mutex<Option<String>>>,
}

impl Services {
    /// Services whose failures `health` tells of and `restarts` counts.
    pub fn new(health: Health, restarts: Restarts) -> Services {
        Services {
            health,
            restarts,
            #[cfg(any(test, feature = "testing"))]
            fault: Default::default(),
        }
    }

    /// For tests: has the service of that name panic when it begins, once.
    #[cfg(any(test, feature = "testing"))]
    pub fn fail(&self, service: &str) {
        *self.fault.lock().unwrap() = Some(service.to_owned());
    }

    /// Runs a service on this thread until it is aborted, beginning with `begin` each time. `name` is its
    /// label in `vatwerk_service_restarts_total`. While it is down, the vat is not healthy. Must be
    /// called inside a [`LocalSet`](tokio::task::LocalSet).
    pub fn run<F: Future<Output = ()> + 'static>(
        &self,
        name: &'static str,
        mut begin: impl FnMut() -> F + 'static,
    ) -> AbortHandle {
        let this = self.clone();
        spawn_local(async move {
            let mut pause = FIRST_PAUSE;
            loop {
                let began = Instant::now();
                #[cfg(any(test, feature = "testing"))]
                let fault = this.fault.lock().unwrap().take_if(|fault| fault == name);
                let run = AssertUnwindSafe(async {
                    #[cfg(any(test, feature = "testing"))]
                    assert_eq!(fault, None, "a service that a test has fail");
                    begin().await
                });
                let ended = run.catch_unwind().await;
                let why = ended.map_or_else(
                    |panic| message(&*panic).to_owned(),
                    |()| "it ended".to_owned(),
                );
                if began.elapsed() >= STEADY {
                    pause = FIRST_PAUSE;
                }
                this.pause(name, &why, pause).await;
                pause = LONGEST_PAUSE.min(2 * pause);
            }
        })
        .abort_handle()
    }

    /// Tells of a failure of a service, and waits before it is restarted.
    pub async fn pause(&self, service: &'static str, why: &str, pause: Duration) {
        self.restarts.count(service);
        let _down = Down::new(&self.health, service);
        let pause_ms = pause.as_millis() as u64;
        tracing::error!(
            service,
            why,
            pause_ms,
            "a fault of the vat itself: a service failed, and is restarted after a pause"
        );
        sleep(pause).await;
    }
}

/// A service that is down while this lives.
struct Down<'a>(&'a Health, &'static str);

impl<'a> Down<'a> {
    fn new(health: &'a Health, service: &'static str) -> Down<'a> {
        *health.down().entry(service).or_default() += 1;
        Down(health, service)
    }
}

impl Drop for Down<'_> {
    fn drop(&mut self) {
        let mut down = self.0.down();
        let count = down.entry(self.1).or_default();
        *count = count.saturating_sub(1);
        if *count == 0 {
            down.remove(self.1);
        }
    }
}

/// Runs a service of which nothing is left when it panics, though others wait for it: then the process
/// ends. It may end by itself, when nobody needs it any more.
pub async fn run_or_abort(service: &'static str, work: impl Future<Output = ()>) {
    if let Err(panic) = AssertUnwindSafe(work).catch_unwind().await {
        abort(service, message(&*panic));
    }
}

/// Runs the work of a thread, to be called in it; if it panics, the process ends.
pub fn thread_or_abort(service: &'static str, work: impl FnOnce()) {
    if let Err(panic) = panic::catch_unwind(AssertUnwindSafe(work)) {
        abort(service, message(&*panic));
    }
}

/// Ends the process at once, as a crash would: a start after a crash finds all that was acknowledged.
fn abort(service: &str, why: &str) -> ! {
    tracing::error!(
        service,
        why,
        "a fault of the vat itself: a service failed that it cannot do without, and the process ends"
    );
    // The log may be written by another thread.
    thread::sleep(LOG_TIME);
    process::abort();
}
