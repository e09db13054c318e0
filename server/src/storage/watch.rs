//! The time limit of a statement, kept by SQLite's progress handler.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rusqlite::Connection;

/// Virtual machine instructions between two looks at the clock.
const INSTRUCTIONS: i32 = 1000;

/// Stops the statement that runs while it is armed for longer than the limit. A statement that ends
/// within [`INSTRUCTIONS`] never reads the clock; the limit starts at the first look.
pub(super) struct Watch {
    shared: Arc<Shared>,
    pub(super) limit: Duration,
}

// SQLite's hooks must be `Send`, though everything here happens on one thread.
#[derive(Default)]
struct Shared {
    armed: AtomicBool,
    fresh: AtomicBool,
    fired: AtomicBool,
}

impl Watch {
    pub(super) fn install(connection: &mut Connection, limit: Duration) -> rusqlite::Result<Watch> {
        let shared = Arc::<Shared>::default();
        let seen = shared.clone();
        let mut started: Option<Instant> = None;
        connection.progress_handler(
            INSTRUCTIONS,
            Some(move || {
                if !seen.armed.load(Ordering::Relaxed) {
                    return false;
                }
                let start = match started {
                    Some(start) if !seen.fresh.swap(false, Ordering::Relaxed) => start,
                    _ => {
                        seen.fresh.store(false, Ordering::Relaxed);
                        *started.insert(Instant::now())
                    }
                };
                let late = start.elapsed() >= limit;
                if late {
                    seen.fired.store(true, Ordering::Relaxed);
                }
                late
            }),
        )?;
        Ok(Watch { shared, limit })
    }

    /// Starts the limit anew, until [`Watch::disarm`].
    pub(super) fn arm(&self) {
        self.shared.fired.store(false, Ordering::Relaxed);
        self.shared.fresh.store(true, Ordering::Relaxed);
        self.shared.armed.store(true, Ordering::Relaxed);
    }

    pub(super) fn disarm(&self) {
        self.shared.armed.store(false, Ordering::Relaxed);
    }

    /// Whether the statement that was last armed was stopped.
    pub(super) fn fired(&self) -> bool {
        self.shared.fired.load(Ordering::Relaxed)
    }
}
