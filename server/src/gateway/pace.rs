//! The pace at which a peer has to go on with what it has begun, so that what waits for it does not wait for
//! ever.

use std::time::Duration;

use tokio::time::Instant;

/// The longest time that anybody is waited for, so that a moment can be told.
const LONGEST: Duration = Duration::from_secs(365 * 86_400);

/// How long a peer may be waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// How long nothing may come at all.
    pub patience: Duration,
    /// The least bytes a second, on average over the time that the peer was waited for, after a first
    /// `patience`. 0 for any.
    pub least_bytes_per_s: u64,
    /// How long the peer may be waited for in all.
    pub most: Duration,
}

impl Pace {
    /// A pace without an end: only something has to come within `patience`.
    pub fn any(patience: Duration) -> Pace {
        Pace {
            patience,
            least_bytes_per_s: 0,
            most: Duration::MAX,
        }
    }

    /// How much longer a peer may be waited for that was waited for so long, and has done so much.
    fn left(&self, waited: Duration, bytes: u64) -> Duration {
        let for_bytes = match bytes.checked_div(self.least_bytes_per_s) {
            None => Duration::MAX,
            Some(seconds) => self.patience.saturating_add(Duration::from_secs(seconds)),
        };
        let left = for_bytes.min(self.most).saturating_sub(waited);
        left.min(self.patience).min(LONGEST)
    }
}

/// How long a peer was waited for, and what it did for that.
#[derive(Clone, Copy, Debug, Default)]
pub struct Waited {
    since: Option<Instant>,
    waited: Duration,
    bytes: u64,
}

impl Waited {
    /// The peer is waited for, from now on if it was not yet.
    pub fn begin(&mut self) {
        self.since.get_or_insert_with(Instant::now);
    }

    /// The peer went on by so many bytes, and is not waited for.
    pub fn end(&mut self, bytes: u64) {
        if let Some(since) = self.since.take() {
            self.waited += since.elapsed();
        }
        self.bytes += bytes;
    }

    /// Whether the peer is waited for.
    pub fn is_waiting(&self) -> bool {
        self.since.is_some()
    }

    /// When the peer is too late, if it is waited for.
    pub fn deadline(&self, pace: &Pace) -> Option<Instant> {
        Some(self.since? + pace.left(self.waited, self.bytes))
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{advance, sleep};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// How many bytes are waited for that come one every `every`, until it is too late.
    async fn waited_for(pace: Pace, every: Duration) -> u32 {
        let mut waited = Waited::default();
        for count in 0..1000 {
            waited.begin();
            let deadline = waited.deadline(&pace).unwrap();
            if Instant::now() + every >= deadline {
                return count;
            }
            advance(every).await;
            waited.end(1);
            // Nobody waits for it now.
            sleep(3600 * SECOND).await;
        }
        1000
    }

    #[tokio::test(start_paused = true)]
    async fn a_trickle_is_not_going_on() {
        let any = Pace::any(30 * SECOND);
        assert_eq!(waited_for(any, 20 * SECOND).await, 1000);
        assert_eq!(waited_for(any, 30 * SECOND).await, 0);
        let rate = Pace {
            least_bytes_per_s: 2,
            ..any
        };
        assert_eq!(waited_for(rate, 20 * SECOND).await, 1);
        assert_eq!(waited_for(rate, SECOND / 4).await, 1000);
        let budget = Pace {
            most: 50 * SECOND,
            ..any
        };
        assert_eq!(waited_for(budget, 20 * SECOND).await, 2);
        let longest = Pace::any(Duration::MAX);
        assert_eq!(waited_for(longest, SECOND).await, 1000);
    }
}
