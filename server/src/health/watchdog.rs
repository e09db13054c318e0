//! The thread that tells of turns that do not end.

use std::{
    io,
    sync::mpsc::{self, RecvTimeoutError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{Health, Hold, service::thread_or_abort};

/// How often the watchdog looks.
const LOOK: Duration = Duration::from_millis(250);

/// A turn is told of after this time, and again when it has lasted twice as long as the last time.
const FIRST: Duration = Duration::from_secs(1);

/// The longest time between two lines.
const AGAIN: Duration = Duration::from_secs(60);

/// A thread that looks at the vat's own four times a second, and logs what holds it while it does. Ends
/// when this is dropped.
pub struct Watchdog {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    /// Starts the thread.
    pub fn start(health: Health) -> io::Result<Watchdog> {
        let (stop, stopped) = mpsc::channel::<()>();
        let work = move || {
            let mut told = Told::default();
            while stopped.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
                health.ask();
                if let Some(limit) = health.0.limits.long_turn
                    && let Some(hold) = told.look(health.hold(), limit, Instant::now())
                {
                    tell(&hold);
                }
            }
        };
        let thread = thread::Builder::new()
            .name("watchdog".into())
            .spawn(move || thread_or_abort("watchdog", work))?;
        Ok(Watchdog {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            // It does not panic: that would have ended the process.
            let _ = thread.join();
        }
    }
}

fn tell(hold: &Hold) {
    let held_ms = hold.since.elapsed().as_millis() as u64;
    match &hold.turn {
        Some(turn) => {
            let (class, id, method) = (turn.class, turn.id, &turn.method);
            tracing::warn!(class, %id, method, held_ms, "a turn holds the vat's thread: nothing else runs");
        }
        None => tracing::warn!(
            held_ms,
            "the vat's thread does not answer, and no object's turn holds it: the vat's own work does, \
             or a task that a class spawned"
        ),
    }
}

/// What has been told of already.
#[derive(Default)]
struct Told {
    since: Option<Instant>,
    /// How long it had lasted when it was told of, or is to be told of first.
    next: Duration,
}

impl Told {
    /// What to tell of now.
    fn look(&mut self, hold: Option<Hold>, limit: Duration, now: Instant) -> Option<Hold> {
        let hold = hold?;
        if self.since != Some(hold.since) {
            self.since = Some(hold.since);
            self.next = limit.max(FIRST);
        }
        let lasting = now.saturating_duration_since(hold.since);
        if lasting < self.next {
            return None;
        }
        self.next = lasting + lasting.min(AGAIN);
        Some(hold)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hold_is_told_of_after_a_second_and_then_at_growing_intervals() {
        let began = Instant::now();
        let hold = |since| Some(Hold { since, turn: None });
        let mut told = Told::default();
        let mut lines = Vec::new();
        for quarter in 0..1000_u32 {
            let lasting = LOOK * quarter;
            let limit = Duration::from_millis(100);
            if told.look(hold(began), limit, began + lasting).is_some() {
                lines.push(lasting.as_secs());
            }
        }
        assert_eq!(lines, [1, 2, 4, 8, 16, 32, 64, 124, 184, 244]);
        // Another turn is told of anew, and nothing while none runs.
        let next = began + LOOK * 1000;
        assert_eq!(told.look(None, FIRST, next), None);
        assert_eq!(told.look(hold(next), FIRST, next), None);
        let later = next + FIRST;
        assert_eq!(told.look(hold(next), FIRST, later), hold(next));
        // A limit above a second is the first time.
        let last = later + FIRST;
        let limit = Duration::from_secs(5);
        assert_eq!(told.look(hold(last), limit, last + FIRST * 4), None);
        assert_eq!(told.look(hold(last), limit, last + limit), hold(last));
    }
}
