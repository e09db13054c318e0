//! The wall clock.

use std::{
    rc::Rc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Says what time it is, and waits for a time. Cheap to clone.
#[derive(Clone, Default)]
pub struct Clock(Source);

#[derive(Clone, Default)]
enum Source {
    #[default]
    Machine,
    /// Goes with the runtime's timers, which may be paused.
    #[cfg_attr(not(any(test, feature = "testing")), allow(dead_code))]
    Timers(Rc<Started>),
}

struct Started {
    ms: i64,
    at: tokio::time::Instant,
}

/// After this long at most the clock is looked at again: somebody may have set it, and timers do not
/// go on while a machine sleeps.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

impl Clock {
    /// A clock that shows `ms` now, milliseconds since 1970, and goes with the timers of the runtime:
    /// paused when they are.
    #[cfg(any(test, feature = "testing"))]
    pub fn of_timers(ms: i64) -> Clock {
        let at = tokio::time::Instant::now();
        Clock(Source::Timers(Rc::new(Started { ms, at })))
    }

    /// Milliseconds since 1970.
    pub fn now_ms(&self) -> i64 {
        match &self.0 {
            Source::Machine => {
                let since = SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .unwrap_or_default();
                i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
            }
            Source::Timers(started) => {
                let passed = started.at.elapsed().as_millis();
                started.ms + i64::try_from(passed).unwrap_or(i64::MAX)
            }
        }
    }

    /// Waits until it is that time. Never returns before.
    pub async fn sleep_until(&self, at_ms: i64) {
        let at_most = match &self.0 {
            Source::Machine => LOOK_AGAIN,
            Source::Timers(_) => Duration::MAX,
        };
        loop {
            let left = at_ms.saturating_sub(self.now_ms());
            let Ok(left) = u64::try_from(left) else {
                return;
            };
            if left == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(left).min(at_most)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_clock_of_timers_goes_with_them() {
        let clock = Clock::of_timers(1_000);
        clock.sleep_until(90_000).await;
        assert_eq!(clock.now_ms(), 90_000);
        clock.sleep_until(5).await;
        assert_eq!(clock.now_ms(), 90_000);
    }
}
