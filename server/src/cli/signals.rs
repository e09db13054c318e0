//! The signals that end a vat, and those that do not, on a thread of their own: a vat whose thread is held is
//! stopped too.

use std::{
    io, process,
    sync::{Arc, OnceLock},
    thread,
    time::{Duration, Instant},
};

use futures::future::join_all;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    time::interval,
};

use super::log::Log;
use crate::health::{Health, thread_or_abort};

/// How often it is looked whether a vat that is to stop is held.
const LOOK: Duration = Duration::from_millis(100);

/// A hold is not told of before it has lasted so long, nor is the process ended: turns end.
const PATIENCE: Duration = Duration::from_secs(1);

/// Signals that end a process that does not know them, and that a vat has no use for.
const IGNORED: [(SignalKind, &str); 3] = [
    (SignalKind::hangup(), "SIGHUP"),
    (SignalKind::user_defined1(), "SIGUSR1"),
    (SignalKind::user_defined2(), "SIGUSR2"),
];

/// The signals that have come: SIGTERM and SIGINT.
pub(super) struct Signals {
    came: watch::Receiver<u32>,
    seen: u32,
    /// When the first came.
    first: Arc<OnceLock<Instant>>,
    supervised: Arc<OnceLock<Supervised>>,
}

/// A vat that is ended if it cannot end itself.
struct Supervised {
    health: Health,
    drain: Duration,
}

/// A vat that was told to stop.
struct Stopping {
    /// When the last signal came.
    since: Instant,
    signals: u32,
    told: bool,
}

impl Signals {
    /// Takes the signals from now on; [`IGNORED`] ones are logged. When the process is ended because of them,
    /// `log` is written before.
    pub fn take(log: Log) -> io::Result<Signals> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (taken, ignored) = {
            let _in_runtime = runtime.enter();
            // A write past the largest file that the system allows (`ulimit -f`) then fails, and ends nothing.
            // What handles a signal stays when this is dropped.
            let too_large = rustix::process::Signal::XFSZ.as_raw();
            drop(signal(SignalKind::from_raw(too_large))?);
            let taken = [SignalKind::terminate(), SignalKind::interrupt()].map(signal);
            let ignored = IGNORED.map(|(kind, name)| signal(kind).map(|signal| (signal, name)));
            (taken, ignored)
        };
        let ignored: Vec<_> = ignored.into_iter().collect::<io::Result<_>>()?;
        let [terminate, interrupt] = taken;
        let (terminate, interrupt) = (terminate?, interrupt?);
        let (came, seen) = watch::channel(0);
        let supervised = Arc::new(OnceLock::new());
        let first = Arc::new(OnceLock::new());
        let signals = Signals {
            came: seen,
            seen: 0,
            first: first.clone(),
            supervised: supervised.clone(),
        };
        let work = move || {
            let ignored = ignored.into_iter().map(ignore);
            let listen = listen(terminate, interrupt, came, &first, &supervised, &log);
            runtime.block_on(async { futures::join!(listen, join_all(ignored)) });
        };
        thread::Builder::new()
            .name("signals".into())
            .spawn(move || thread_or_abort("signals", work))?;
        Ok(signals)
    }

    /// From now on, when a signal has come and the vat's thread is held for `drain` after it, the process
    /// ends, with exit code 1.
    pub fn supervise(&self, health: Health, drain: Duration) {
        let drain = drain.max(PATIENCE);
        // It is called once.
        let _ = self.supervised.set(Supervised { health, drain });
    }

    /// When the first signal came. The vat's thread may have been held since.
    pub fn first(&self) -> Option<Instant> {
        self.first.get().copied()
    }

    /// Waits for a signal that this has not returned for.
    pub async fn next(&mut self) {
        let seen = self.seen;
        // The thread never ends by itself.
        let _ = self.came.wait_for(|came| *came > seen).await;
        self.seen += 1;
    }
}

/// Logs a signal, whenever it comes.
async fn ignore((mut signal, name): (Signal, &str)) {
    while signal.recv().await.is_some() {
        tracing::info!(
            signal = name,
            "a signal is ignored: a vat reads its settings when it starts, and stops at SIGTERM"
        );
    }
}

async fn listen(
    mut terminate: Signal,
    mut interrupt: Signal,
    came: watch::Sender<u32>,
    first: &OnceLock<Instant>,
    supervised: &OnceLock<Supervised>,
    log: &Log,
) {
    let mut look = interval(LOOK);
    let mut stopping: Option<Stopping> = None;
    loop {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = look.tick(), if stopping.is_some() => {
                if let (Some(stopping), Some(vat)) = (&mut stopping, supervised.get()) {
                    stopping.look(vat, log);
                }
                continue;
            }
        }
        // Only the first is kept.
        let _ = first.set(Instant::now());
        came.send_modify(|count| *count += 1);
        match (&stopping, supervised.get()) {
            (None, Some(_)) => tracing::info!("stopping; a second signal stops at once"),
            (None, None) => tracing::info!(
                "the vat is starting: it stops when it has started; a second signal stops it at once"
            ),
            (Some(_), Some(_)) => tracing::info!("a second signal: stopping at once"),
            (Some(_), None) => {
                tracing::warn!(
                    "stopped while it was starting. All that was acknowledged is on disk, and the next \
                     start recovers it"
                );
                log.close();
                process::exit(1);
            }
        }
        let signals = *came.borrow();
        stopping = Some(Stopping {
            since: Instant::now(),
            signals,
            told: false,
        });
    }
}

impl Stopping {
    /// Ends the process if the vat's thread has been held for too long since the last signal.
    fn look(&mut self, vat: &Supervised, log: &Log) {
        let Some(hold) = vat.health.hold() else {
            return;
        };
        let lasting = hold.since.elapsed();
        if lasting < PATIENCE {
            return;
        }
        let held_ms = lasting.as_millis() as u64;
        let limit = if self.signals > 1 {
            PATIENCE
        } else {
            vat.drain
        };
        if !self.told {
            self.told = true;
            let limit_ms = limit.as_millis() as u64;
            tracing::warn!(
                held_ms, by = %hold,
                "the vat is to stop and its thread is held: the process ends after `drain_ms`, {limit_ms} \
                 ms, if it still is"
            );
        }
        if hold.since.max(self.since).elapsed() >= limit {
            tracing::error!(
                held_ms, by = %hold,
                "stopped without draining: the vat's thread is held. All that was acknowledged is on \
                 disk, and the next start recovers it"
            );
            log.close();
            process::exit(1);
        }
    }
}
