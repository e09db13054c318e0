//! What is to be done with an alarm that is due, and what becomes of it after its run.

use super::{Alarm, AlarmInfo, Failures, MISSED_AFTER_MS, Missed};

/// An alarm that is set, with what became of its runs so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DueRow {
    /// The name it was set under; empty for the object's own alarm.
    pub name: String,
    /// What is set. Its time is the one that is to be run for.
    pub alarm: Alarm,
    /// When the next attempt is due, in milliseconds since 1970: the alarm's time, or later.
    pub due_ms: i64,
    /// The runs for this time that failed.
    pub failures: Failures,
    /// What was noted of its runs before they began.
    pub attempt: Attempt,
}

/// A note about an alarm's run, durable before its handler begins, by which the next process learns
/// that the run was cut short.
///
/// Only alarms that may have ended a process before are noted: a note costs a commit of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Attempt {
    /// Nothing is noted.
    #[default]
    None,
    /// A run was about to begin. Found by another process than the one that noted it, the run was
    /// cut short by the end of that process.
    Begun,
    /// The last run was cut short. The next one is noted too.
    CutShort,
}

/// What is to be done with an alarm that is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WhenDue {
    /// The handler runs, and is told this.
    Run(AlarmInfo),
    /// Its time was missed, and is left out.
    Skip(After),
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The handler returned.
    Succeeded,
    /// It did not.
    Failed {
        /// Whether that was the object's own doing: after [`MAX_RETRIES`](super::MAX_RETRIES) of
        /// those there are no more.
        counted: bool,
    },
}

/// What becomes of an alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// It is no longer set.
    Gone,
    /// It is set to its next time.
    Next {
        /// In milliseconds since 1970; may have passed.
        scheduled_ms: i64,
    },
    /// It is tried again.
    Retry {
        /// When, in milliseconds since 1970.
        due_ms: i64,
        /// The runs that failed, the last one too.
        failures: Failures,
    },
}

impl DueRow {
    /// What is to be done, now that it is due.
    pub fn when_due(&self, now_ms: i64) -> WhenDue {
        if self.alarm.missed == Missed::Skip && self.is_missed(now_ms) {
            return WhenDue::Skip(self.next_after(now_ms));
        }
        WhenDue::Run(AlarmInfo {
            name: self.name.clone(),
            scheduled_ms: self.alarm.at_ms,
            retry_count: self.failures.retries,
            is_retry: self.failures.any(),
            payload: self.alarm.payload.clone(),
        })
    }

    /// What becomes of it after a run, if it was not set or deleted meanwhile. A failure after which
    /// there is no [`After::Retry`] was the last: it is given up.
    ///
    /// `started_ms` is when the run started, `now_ms` when it ended, and `random` decides on the
    /// [delay](super::delay_ms) of a retry.
    pub fn after_run(&self, outcome: Outcome, started_ms: i64, now_ms: i64, random: u64) -> After {
        if let Outcome::Failed { counted } = outcome
            && let Some((failures, delay)) = self.failures.one_more(counted, random)
        {
            return After::Retry {
                due_ms: now_ms.saturating_add(delay),
                failures,
            };
        }
        self.next_after(match self.alarm.missed {
            Missed::FireEach => self.alarm.at_ms,
            // Not when it ended: a time that came during the run has had none yet.
            Missed::FireOnce | Missed::Skip => started_ms.max(self.alarm.at_ms),
        })
    }

    fn is_missed(&self, now_ms: i64) -> bool {
        let scheduled = self.alarm.at_ms;
        let late = now_ms.saturating_sub(scheduled) > MISSED_AFTER_MS;
        let next = || self.alarm.repeat.as_ref()?.next_after(scheduled);
        !self.failures.any() && (late || next().is_some_and(|next| next <= now_ms))
    }

    fn next_after(&self, ms: i64) -> After {
        let next = self.alarm.repeat.as_ref().and_then(|r| r.next_after(ms));
        next.map_or(After::Gone, |scheduled_ms| After::Next { scheduled_ms })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{MAX_RETRIES, Repeat};
    use super::*;

    const MINUTE: i64 = 60_000;
    const HOUR: i64 = 60 * MINUTE;

    /// Every hour, or once, due at 10:00 on the first of all days.
    fn row(missed: Missed, repeats: bool) -> DueRow {
        let mut alarm = Alarm::at(10 * HOUR).payload("p").missed(missed);
        if repeats {
            alarm.repeat = Some(Repeat::new("0 * * * *", "UTC").expect("a repeat"));
        }
        DueRow {
            name: "n".into(),
            alarm,
            due_ms: 10 * HOUR,
            failures: Failures::default(),
            attempt: Attempt::None,
        }
    }

    fn next(hour: i64) -> After {
        After::Next {
            scheduled_ms: hour * HOUR,
        }
    }

    fn runs(row: &DueRow, now_ms: i64) -> bool {
        matches!(row.when_due(now_ms), WhenDue::Run(_))
    }

    fn succeeded(row: &DueRow, started_ms: i64) -> After {
        row.after_run(Outcome::Succeeded, started_ms, started_ms + 1, 0)
    }

    #[test]
    fn in_time_all_rules_do_the_same() {
        for missed in [Missed::FireOnce, Missed::FireEach, Missed::Skip] {
            for late in [0, 1, MINUTE] {
                let (once, repeating) = (row(missed, false), row(missed, true));
                let now = 10 * HOUR + late;
                let told = AlarmInfo {
                    name: "n".into(),
                    scheduled_ms: 10 * HOUR,
                    payload: b"p".to_vec(),
                    ..AlarmInfo::default()
                };
                assert_eq!(once.when_due(now), WhenDue::Run(told.clone()));
                assert_eq!(repeating.when_due(now), WhenDue::Run(told));
                assert_eq!(succeeded(&once, now), After::Gone);
                assert_eq!(succeeded(&repeating, now), next(11));
            }
        }
    }

    #[test]
    fn missed_times_run_once_or_each_or_not_at_all() {
        let now = 13 * HOUR + 30 * MINUTE;
        let (once, each) = (row(Missed::FireOnce, true), row(Missed::FireEach, true));
        assert!(runs(&once, now) && runs(&each, now));
        assert_eq!(succeeded(&once, now), next(14));
        assert_eq!(succeeded(&each, now), next(11));
        let skip = row(Missed::Skip, true);
        assert_eq!(skip.when_due(now), WhenDue::Skip(next(14)));

        for missed in [Missed::FireOnce, Missed::FireEach] {
            assert!(runs(&row(missed, false), now));
        }
        let skip = row(Missed::Skip, false);
        assert_eq!(
            skip.when_due(10 * HOUR + MINUTE + 1),
            WhenDue::Skip(After::Gone)
        );
    }

    #[test]
    fn a_time_is_missed_when_a_later_one_is_due_too() {
        let mut skip = row(Missed::Skip, true);
        skip.alarm.at_ms = 11 * HOUR - 1;
        assert!(runs(&skip, 11 * HOUR - 1));
        assert_eq!(skip.when_due(11 * HOUR), WhenDue::Skip(next(12)));
    }

    #[test]
    fn a_time_that_comes_during_a_run_is_run_for_after_it() {
        let (started, now) = (11 * HOUR - 1, 11 * HOUR + 1);
        for missed in [Missed::FireOnce, Missed::FireEach, Missed::Skip] {
            let row = row(missed, true);
            let after = row.after_run(Outcome::Succeeded, started, now, 0);
            assert_eq!(after, next(11), "{missed:?}");
        }
    }

    #[test]
    fn a_retry_is_never_missed() {
        let mut skip = row(Missed::Skip, false);
        let failed = Outcome::Failed { counted: false };
        let After::Retry { due_ms, failures } = skip.after_run(failed, 10 * HOUR, 10 * HOUR, 0)
        else {
            panic!("no retry");
        };
        assert_eq!(due_ms, 10 * HOUR + 2000);
        (skip.due_ms, skip.failures) = (due_ms, failures);
        let WhenDue::Run(told) = skip.when_due(20 * HOUR) else {
            panic!("no run");
        };
        assert!(told.is_retry);
        assert_eq!((told.retry_count, told.scheduled_ms), (0, 10 * HOUR));
    }

    #[test]
    fn after_seven_runs_it_is_given_up() {
        for (repeats, expected) in [(false, After::Gone), (true, next(11))] {
            let mut row = row(Missed::FireOnce, repeats);
            let mut now = 10 * HOUR;
            let mut told = Vec::new();
            let last = loop {
                let WhenDue::Run(info) = row.when_due(now) else {
                    panic!("no run");
                };
                told.push((info.retry_count, info.is_retry));
                let failed = Outcome::Failed { counted: true };
                match row.after_run(failed, now, now, u64::MAX) {
                    After::Retry { due_ms, failures } => {
                        (row.due_ms, row.failures) = (due_ms, failures);
                        now = due_ms;
                    }
                    other => break other,
                }
            };
            let expected_told: Vec<_> = (0..=MAX_RETRIES).map(|n| (n, n > 0)).collect();
            assert_eq!(told, expected_told);
            assert_eq!(last, expected);
            assert!((126_000..158_000).contains(&(now - 10 * HOUR)));
        }
    }

    proptest! {
        /// Runs end at once, and the vat is away between them.
        #[test]
        fn every_time_has_its_run_by_the_rule(
            missed in prop_oneof![Just(Missed::FireOnce), Just(Missed::FireEach), Just(Missed::Skip)],
            pauses in proptest::collection::vec(1..5 * HOUR, 1..20),
        ) {
            let mut row = row(missed, true);
            let (mut now, mut runs, mut last_start) = (10 * HOUR, 0, None);
            for pause in pauses {
                // As long as something is due.
                while row.alarm.at_ms <= now {
                    let after = match row.when_due(now) {
                        WhenDue::Run(info) => {
                            prop_assert_eq!(info.scheduled_ms, row.alarm.at_ms);
                            prop_assert!(info.scheduled_ms <= now);
                            if missed != Missed::FireEach {
                                prop_assert!(Some(info.scheduled_ms) > last_start, "a second run");
                            }
                            if missed == Missed::Skip {
                                prop_assert!(now - info.scheduled_ms <= MISSED_AFTER_MS);
                            }
                            runs += 1;
                            last_start = Some(now);
                            row.after_run(Outcome::Succeeded, now, now, 0)
                        }
                        WhenDue::Skip(after) => after,
                    };
                    let After::Next { scheduled_ms } = after else {
                        panic!("a repeat ends");
                    };
                    prop_assert!(scheduled_ms > row.alarm.at_ms);
                    row.alarm.at_ms = scheduled_ms;
                }
                let passed = now / HOUR - 9;
                match missed {
                    Missed::FireEach => prop_assert_eq!(runs, passed),
                    Missed::FireOnce => prop_assert!(last_start >= Some(now / HOUR * HOUR)),
                    Missed::Skip => prop_assert!(runs <= passed),
                }
                now += pause;
            }
        }
    }
}
