//! What follows a run that failed.

/// How often a run is tried again that fails through the object's own doing. What the vat or its
/// machine is to blame for does not count, and is tried again for ever.
pub const MAX_RETRIES: u32 = 6;

/// The delay after the first failure, in milliseconds, before jitter.
const FIRST_DELAY_MS: i64 = 2000;

/// The delay doubles this often.
const MAX_BACKOFF: u32 = 9;

/// How long to wait before the next attempt, in milliseconds: 2 s, doubled `backoff` times but never
/// more than 9, and up to a quarter more. `random` decides how much more; any value will do, and
/// those of different alarms should differ.
pub fn delay_ms(backoff: u32, random: u64) -> i64 {
    let delay = FIRST_DELAY_MS << backoff.min(MAX_BACKOFF);
    // The highest 32 bits as a fraction of one.
    let fraction = i64::from((random >> 32) as u32);
    delay + ((delay / 4 * fraction) >> 32)
}

/// The runs that have failed since one succeeded or the alarm was set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Failures {
    /// Those that counted.
    pub retries: u32,
    /// How often the delay is to be doubled after the next one. Zero if there was none.
    pub backoff: u32,
    /// Whether the last one counted.
    pub counted: bool,
}

impl Failures {
    /// Whether there were any.
    pub fn any(self) -> bool {
        self.backoff > 0
    }

    /// With one more, and how long to wait for the next attempt, in milliseconds; `None` when there
    /// is to be none.
    pub fn one_more(self, counted: bool, random: u64) -> Option<(Failures, i64)> {
        if counted && self.retries >= MAX_RETRIES {
            return None;
        }
        // However long the machine was in trouble, the object's own retries begin anew.
        let backoff = if counted && !self.counted {
            0
        } else {
            self.backoff
        };
        let failures = Failures {
            retries: self.retries + u32::from(counted),
            backoff: (backoff + 1).min(MAX_BACKOFF),
            counted,
        };
        Some((failures, delay_ms(backoff, random)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The delays, in seconds, after these failures: `c` counted, `u` not. `-` where it gives up.
    fn delays(failures: &str) -> String {
        let mut so_far = Some(Failures::default());
        let mut text = Vec::new();
        for failure in failures.chars() {
            let before = so_far.expect("it has not given up");
            let next = before.one_more(failure == 'c', 0);
            text.push(next.map_or("-".to_owned(), |(_, ms)| (ms / 1000).to_string()));
            so_far = next.map(|(after, _)| after);
        }
        text.join(" ")
    }

    #[test]
    fn what_counts_is_tried_six_times_more_and_the_rest_for_ever() {
        let table = [
            ("ccccccc", "2 4 8 16 32 64 -"),
            ("uuuuuuuuuuuu", "2 4 8 16 32 64 128 256 512 1024 1024 1024"),
            ("uuuuccccccc", "2 4 8 16 2 4 8 16 32 64 -"),
            ("ccuucc", "2 4 8 16 2 4"),
            ("cucucucucucuc", "2 4 2 4 2 4 2 4 2 4 2 4 -"),
            ("ccccccuuc", "2 4 8 16 32 64 128 256 -"),
        ];
        for (failures, expected) in table {
            assert_eq!(delays(failures), expected, "{failures}");
        }
    }

    #[test]
    fn retries_are_told_apart_by_whether_they_count() {
        let none = Failures::default();
        let (uncounted, _) = none.one_more(false, 0).expect("again");
        assert!(!none.any() && uncounted.any());
        assert_eq!(uncounted.retries, 0);
        let (counted, _) = uncounted.one_more(true, 0).expect("again");
        assert_eq!(counted.retries, 1);
    }

    proptest! {
        #[test]
        fn the_jitter_is_up_to_a_quarter(backoff in 0..40u32, random: u64) {
            let least = 2000 << backoff.min(9);
            let delay = delay_ms(backoff, random);
            prop_assert!((least..least + least / 4).contains(&delay));
            let most = delay_ms(backoff, u64::MAX);
            prop_assert_eq!(most, least + least / 4 - 1);
        }
    }
}
