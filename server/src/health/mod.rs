//! Whether the vat works, as its other threads see it: which turn holds its thread, and which services
//! are down.
//!
//! ```text
//!   the vat's thread     Thread::turn ──► TurnCell ◄── hold ── Health   the watchdog: log lines
//!                        pulse ◄───────── asked  ◄──────────── Health   /livez, /readyz, /metrics
//!                        Services ──────► down   ◄──────────── Health   the thread of signals
//! ```
//! A vat runs its objects, its connections and its services on one thread. A turn that computes for long
//! stops all of them, so whoever is to tell of it has to be on another thread: the watchdog, the thread
//! that answers operators, and the one that waits for signals. All that they know is in [`Health`].

mod cell;
mod disk;
mod names;
mod service;
mod thread;
mod watchdog;

use std::{
    collections::BTreeMap,
    fmt,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tokio::runtime::{Handle, RuntimeFlavor, RuntimeMetrics};
use vatwerk::ObjectId;

use cell::{Running, TurnCell};
use disk::Found;

pub use cell::Runs;
pub use disk::{Commits, DiskWatch, Watched, free_bytes};
pub use names::Names;
pub use service::{Services, run_or_abort, thread_or_abort};
pub use thread::{Thread, Turn};
pub use watchdog::Watchdog;

/// How long the vat's thread may leave the watchdog's question unanswered before that counts as held,
/// if no turn runs: what holds it then is the vat's own work, or a task that a class has spawned.
const SILENCE: Duration = Duration::from_secs(1);

/// The limits of turns.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The longest turn that is not logged; `None` logs none. 100 ms unless told otherwise.
    pub long_turn: Option<Duration>,
    /// The longest time for which the vat's thread may be held while the vat counts as healthy; `None`
    /// is without end. 10 s unless told otherwise.
    pub held: Option<Duration>,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            long_turn: Some(Duration::from_millis(100)),
            held: Some(Duration::from_secs(10)),
        }
    }
}

/// The health of a vat, for any thread. Cheap to clone; clones are of the same vat.
#[derive(Clone)]
pub struct Health(Arc<Inner>);

struct Inner {
    limits: Limits,
    names: Names,
    /// All times below are nanoseconds after this; 0 is never.
    start: Instant,
    turn: TurnCell,
    /// When the watchdog asked the vat's thread for a sign of life that it has not given yet.
    asked: AtomicU64,
    ask: tokio::sync::Notify,
    is_stopping: AtomicBool,
    /// The services that are down, and how many tasks of each.
    down: Mutex<BTreeMap<&'static str, usize>>,
    busy: Option<Busy>,
    /// When the look at the disk began that has not ended yet.
    looking: AtomicU64,
    found: Mutex<Found>,
    folder_lost: tokio::sync::watch::Sender<bool>,
}

/// The busy time of the vat's thread, as its runtime counts it.
struct Busy {
    runtime: RuntimeMetrics,
    before: Duration,
}

/// What holds the vat's thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// When it began to.
    pub since: Instant,
    /// The turn that runs; `None` if it is the vat's own work, or a task that a class has spawned.
    pub turn: Option<Held>,
}

/// A turn, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The class, by the name it is served under.
    pub class: &'static str,
    /// The object.
    pub id: ObjectId,
    /// The method, or what else of the object runs: see [`Names::method`].
    pub method: String,
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.turn {
            Some(Held { class, id, method }) => {
                write!(f, "object {id} of class {class}, in {method}")
            }
            None => {
                f.write_str("no object's turn: the vat's own work, or a task that a class spawned")
            }
        }
    }
}

/// A reason why a vat is not healthy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// The vat takes no more calls.
    Stopping,
    /// The vat's thread is held for longer than [`Limits::held`].
    Held {
        /// What holds it.
        by: Hold,
        /// For how long.
        lasting: Duration,
    },
    /// A service has failed and is not running again yet.
    Down(&'static str),
    /// A folder of the vat is not there any more.
    Gone(PathBuf),
    /// In the place of a folder of the vat is another.
    Replaced(PathBuf),
    /// There is less room on the disk than there is to be.
    Full {
        /// A folder in the file system.
        path: PathBuf,
        /// The room that is left, in bytes.
        free: u64,
        /// The least, in bytes: `limits.free_bytes`.
        least: u64,
    },
    /// The journal takes no commits; why.
    JournalDown(String),
    /// Commits have waited for the disk for longer than 10 s.
    CommitsWait {
        /// For how long.
        lasting: Duration,
    },
    /// The file system of the data folder has not answered for longer than 10 s.
    DiskSilent {
        /// For how long.
        lasting: Duration,
    },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::Stopping => f.write_str("stopping"),
            Problem::Held { by, lasting } => {
                let began_ms = crate::env::now_ms() - lasting.as_millis() as i64;
                let since = jiff::Timestamp::from_millisecond(began_ms).unwrap_or_default();
                let seconds = lasting.as_secs_f64();
                write!(f, "held for {seconds:.1} s, since {since}: {by}")
            }
            Problem::Down(service) => write!(f, "down: {service}"),
            Problem::Gone(path) => write!(f, "folder {} was removed", path.display()),
            Problem::Replaced(path) => write!(f, "folder {} was replaced", path.display()),
            Problem::Full { path, free, least } => write!(
                f,
                "{free} bytes are free in the file system of {}, and `limits.free_bytes` is {least}",
                path.display()
            ),
            Problem::JournalDown(why) => write!(f, "the journal takes no commits: {why}"),
            Problem::CommitsWait { lasting } => {
                let seconds = lasting.as_secs_f64();
                write!(f, "commits wait for the disk for {seconds:.1} s")
            }
            Problem::DiskSilent { lasting } => {
                let seconds = lasting.as_secs_f64();
                write!(f, "the disk has not answered for {seconds:.1} s")
            }
        }
    }
}

impl Health {
    /// The health of a vat that starts on this thread. `names` puts turns into words.
    pub fn new(limits: Limits, names: Names) -> Health {
        Health(Arc::new(Inner {
            limits,
            names,
            start: Instant::now(),
            turn: TurnCell::default(),
            asked: AtomicU64::default(),
            ask: tokio::sync::Notify::new(),
            is_stopping: AtomicBool::default(),
            down: Mutex::default(),
            busy: Busy::of_this_thread(),
            looking: AtomicU64::default(),
            found: Mutex::default(),
            folder_lost: tokio::sync::watch::Sender::new(false),
        }))
    }

    /// What holds the vat's thread: the turn that runs, however short; or that no turn runs, and the
    /// thread has not answered for a second.
    pub fn hold(&self) -> Option<Hold> {
        let this = &self.0;
        if let Some(Running { began, turn }) = this.turn.read() {
            let class = this.names.class(turn.class);
            let method = this.names.method(turn.runs);
            return Some(Hold {
                since: this.start + Duration::from_nanos(began),
                turn: Some(Held {
                    class,
                    id: turn.object,
                    method,
                }),
            });
        }
        let asked = this.asked.load(Relaxed);
        let since = this.start + Duration::from_nanos(asked);
        (asked != 0 && since.elapsed() > SILENCE).then_some(Hold { since, turn: None })
    }

    /// Every reason why the vat does not take and commit writes; none if it does.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if self.is_stopping() {
            problems.push(Problem::Stopping);
        }
        problems.extend(self.held());
        problems.extend(self.down().keys().map(|service| Problem::Down(service)));
        problems.extend(self.disk_problems());
        problems
    }

    /// The reason why the vat's thread does not get on, if it is held for longer than [`Limits::held`].
    pub fn held(&self) -> Option<Problem> {
        let (limit, by) = (self.0.limits.held?, self.hold()?);
        let lasting = by.since.elapsed();
        (lasting > limit).then_some(Problem::Held { by, lasting })
    }

    /// Whether the vat takes no more calls.
    pub fn is_stopping(&self) -> bool {
        self.0.is_stopping.load(Relaxed)
    }

    /// Notes that the vat takes no more calls.
    pub fn stopping(&self) {
        self.0.is_stopping.store(true, Relaxed);
    }

    /// How long the turn that runs has been running; zero if none does.
    pub fn turn_running(&self) -> Duration {
        let began = self.0.turn.read().map(|running| running.began);
        began.map_or(Duration::ZERO, |began| {
            let now = self.0.now();
            Duration::from_nanos(now.saturating_sub(began))
        })
    }

    /// How long the vat's thread has been busy since the vat started, without what it does since it last
    /// waited; `None` where the vat shares its thread's runtime with other threads, which then count for
    /// all of them.
    pub fn busy(&self) -> Option<Duration> {
        self.0.busy.as_ref().map(Busy::read)
    }

    fn down(&self) -> MutexGuard<'_, BTreeMap<&'static str, usize>> {
        let down = self.0.down.lock();
        down.unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Asks the vat's thread for a sign of life, unless it still owes one.
    fn ask(&self) {
        let now = self.0.now();
        if self
            .0
            .asked
            .compare_exchange(0, now, Relaxed, Relaxed)
            .is_ok()
        {
            self.0.ask.notify_one();
        }
    }

    /// Answers the watchdog, for ever. To be run on the vat's thread.
    async fn pulse(self) {
        loop {
            self.0.ask.notified().await;
            self.0.asked.store(0, Relaxed);
        }
    }
}

impl Inner {
    fn now(&self) -> u64 {
        nanoseconds(self.start.elapsed())
    }
}

/// Nanoseconds, never zero.
fn nanoseconds(since: Duration) -> u64 {
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX).max(1)
}

impl Busy {
    fn of_this_thread() -> Option<Busy> {
        let handle = Handle::try_current().ok()?;
        let alone = handle.runtime_flavor() == RuntimeFlavor::CurrentThread;
        alone.then(|| {
            let runtime = handle.metrics();
            let before = runtime.worker_total_busy_duration(0);
            Busy { runtime, before }
        })
    }

    fn read(&self) -> Duration {
        let busy = self.runtime.worker_total_busy_duration(0);
        busy.saturating_sub(self.before)
    }
}

#[cfg(test)]
mod tests;
