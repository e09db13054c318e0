//! Times that come again: cron expressions in a time zone.

use std::fmt;

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::{Timestamp, tz::TimeZone};

use crate::{Error, Result};

/// The longest cron expression, and the longest name of a time zone, in bytes.
pub const MAX_CRON_BYTES: u64 = 256;

/// The times at which an alarm comes again: a cron expression, read by the clocks of a time zone.
///
/// The expression has the five fields of `cron`: minute, hour, day of the month, month, day of the
/// week (0 to 7, both Sunday), each `*`, or a list of numbers and ranges with steps: `*/15`,
/// `8-18/2,22`. Months and days of the week have names, `jan`, `mon`. If both days are given, either
/// will do; with `+` in front of the day of the week both must hold. `L` is the last day of a month,
/// `15W` the weekday nearest to the 15th, `5L` the last Friday, `1#2` the second Monday. `@hourly`,
/// `@daily`, `@weekly`, `@monthly` and `@yearly` are what they say.
///
/// When clocks are changed, an expression with one minute and one hour runs once that day: where its
/// time does not exist, at the first moment after the gap; where it occurs twice, the first time. Any
/// other goes by the clock: what does not exist is left out, what occurs twice runs twice, so that
/// every hour is every hour.
///
/// The time zones are those of the IANA database that the vat was built with.
#[derive(Clone)]
pub struct Repeat {
    expression: String,
    cron: Cron,
    zone_name: String,
    zone: TimeZone,
}

impl PartialEq for Repeat {
    fn eq(&self, other: &Repeat) -> bool {
        (&self.expression, &self.zone_name) == (&other.expression, &other.zone_name)
    }
}

impl Eq for Repeat {}

// What is derived would list every year to come.
impl fmt::Debug for Repeat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Repeat({:?} in {})", self.cron(), self.zone())
    }
}

impl Repeat {
    /// `invalid-argument` when `cron` cannot be read or names no time at all, like 30 February, or
    /// when there is no time zone `zone`; `limit-exceeded` beyond [`MAX_CRON_BYTES`].
    ///
    /// To find that there is no such time takes some 30 ms, anything else microseconds.
    pub fn new(cron: &str, zone: &str) -> Result<Repeat> {
        let length = cron.len() as u64;
        Error::check_limit("a cron expression (bytes)", MAX_CRON_BYTES, length)?;
        let length = zone.len() as u64;
        Error::check_limit("the name of a time zone (bytes)", MAX_CRON_BYTES, length)?;
        let wrong = |why: &dyn fmt::Display| {
            Error::InvalidArgument(format!("the cron expression `{cron}`: {why}"))
        };
        let parser = CronParser::builder()
            .seconds(Seconds::Disallowed)
            .year(Year::Disallowed)
            .build();
        let parsed = parser.parse(cron).map_err(|error| wrong(&error))?;
        // The one zone without a name is that of unknown time.
        let found = TimeZone::get(zone).ok();
        let found = found.and_then(|found| Some((found.iana_name()?.to_owned(), found)));
        let (name, zone) = found
            .ok_or_else(|| Error::InvalidArgument(format!("there is no time zone `{zone}`")))?;
        let repeat = Repeat {
            expression: cron.to_owned(),
            cron: parsed,
            zone_name: name,
            zone,
        };
        // The calendar comes round every 400 years, so what never came since 1970 never will, and the
        // search for what does come is short.
        if repeat.next_after(0).is_none() {
            return Err(wrong(&"there is no such time"));
        }
        Ok(repeat)
    }

    /// The cron expression, as it was given.
    pub fn cron(&self) -> &str {
        &self.expression
    }

    /// The time zone's name, spelt as the database does.
    pub fn zone(&self) -> &str {
        &self.zone_name
    }

    /// The first time after `ms`, in milliseconds since 1970. `None` where the calendar ends, beyond
    /// the year 4999.
    pub fn next_after(&self, ms: i64) -> Option<i64> {
        let from = Timestamp::from_millisecond(ms).ok()?;
        let from = from.to_zoned(self.zone.clone());
        let next = self.cron.find_next_occurrence(&from, false).ok()?;
        Some(next.timestamp().as_millisecond()).filter(|next| *next > ms)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ms(time: &str) -> i64 {
        let time: Timestamp = time.parse().expect("a time");
        time.as_millisecond()
    }

    fn times(cron: &str, zone: &str, from: &str, count: usize) -> Vec<String> {
        let repeat = Repeat::new(cron, zone).expect("a repeat");
        let next = |ms: &i64| repeat.next_after(*ms);
        std::iter::successors(next(&ms(from)), next)
            .take(count)
            .map(|ms| {
                let time = Timestamp::from_millisecond(ms).expect("a time");
                let time = time.to_zoned(repeat.zone.clone());
                time.strftime("%d %H:%M %:z").to_string()
            })
            .collect()
    }

    #[test]
    fn it_comes_when_the_clocks_of_its_zone_say_so() {
        let weekdays = times(
            "30 8 * * mon-fri",
            "Asia/Kolkata",
            "2026-01-02T03:00:00Z",
            2,
        );
        assert_eq!(weekdays, ["05 08:30 +05:30", "06 08:30 +05:30"]);
        assert_eq!(
            times("0 0 29 2 *", "UTC", "2096-02-29T00:00:00Z", 1),
            ["29 00:00 +00:00"],
            "2100 has none"
        );
        let either = times("0 0 13 * fri", "UTC", "2026-02-12T00:00:00Z", 3);
        assert_eq!(
            either,
            ["13 00:00 +00:00", "20 00:00 +00:00", "27 00:00 +00:00"]
        );
        let both = Repeat::new("0 0 13 * +fri", "UTC").expect("a repeat");
        assert_eq!(
            both.next_after(ms("2026-03-13T00:00:00Z")),
            Some(ms("2026-11-13T00:00:00Z"))
        );
    }

    #[test]
    fn a_time_that_clocks_skip_comes_right_after_the_gap() {
        // On 31 March 2024 clocks in Berlin went from 02:00 to 03:00.
        let eve = "2024-03-30T12:00:00Z";
        assert_eq!(
            times("30 2 * * *", "Europe/Berlin", eve, 2),
            ["31 03:00 +02:00", "01 02:30 +02:00"]
        );
        assert_eq!(
            times("30 1,2,3 * * *", "Europe/Berlin", eve, 3),
            ["31 01:30 +01:00", "31 03:30 +02:00", "01 01:30 +02:00"],
            "of several times a day, the one that does not exist is left out"
        );
        assert_eq!(
            times("0 * * * *", "Europe/Berlin", "2024-03-31T00:30:00Z", 2),
            ["31 03:00 +02:00", "31 04:00 +02:00"]
        );
    }

    #[test]
    fn a_time_that_occurs_twice_comes_the_first_time() {
        // On 27 October 2024 clocks in Berlin went from 03:00 to 02:00.
        let eve = "2024-10-26T12:00:00Z";
        assert_eq!(
            times("30 2 * * *", "Europe/Berlin", eve, 2),
            ["27 02:30 +02:00", "28 02:30 +01:00"]
        );
        assert_eq!(
            times("0 * * * *", "Europe/Berlin", "2024-10-26T23:30:00Z", 3),
            ["27 02:00 +02:00", "27 02:00 +01:00", "27 03:00 +01:00"],
            "every hour is every hour"
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        let refused = |cron: &str, zone: &str| match Repeat::new(cron, zone) {
            Err(Error::InvalidArgument(text)) => text,
            other => panic!("{other:?}"),
        };
        for cron in [
            "",
            "x",
            "* * * *",
            "* * * * * *",
            "60 * * * *",
            "*/0 * * * *",
            "@reboot",
        ] {
            assert!(refused(cron, "UTC").contains(&format!("`{cron}`")));
        }
        for zone in ["", "Mars/Olympus", "../UTC", "+02:00", "Etc/Unknown"] {
            assert!(refused("* * * * *", zone).contains(&format!("time zone `{zone}`")));
        }
        for cron in ["0 0 30 2 *", "0 0 31 2,4,6,9,11 +1#1", "0 0 31W 2 *"] {
            assert!(
                refused(cron, "UTC").ends_with("there is no such time"),
                "{cron}"
            );
        }
        let long = "0,".repeat(200);
        for (cron, zone) in [(&*long, "UTC"), ("* * * * *", &*long)] {
            let limited = Repeat::new(cron, zone);
            assert!(matches!(
                limited,
                Err(Error::LimitExceeded { limit: 256, .. })
            ));
        }
    }

    #[test]
    fn it_remembers_what_it_was_made_of() {
        let repeat = Repeat::new("@daily", "europe/berlin").expect("a repeat");
        assert_eq!((repeat.cron(), repeat.zone()), ("@daily", "Europe/Berlin"));
        assert_eq!(Repeat::new("@daily", repeat.zone()), Ok(repeat.clone()));
        assert_ne!(Repeat::new("@daily", "UTC"), Ok(repeat.clone()));
        assert_eq!(repeat.next_after(i64::MAX), None);
        assert_eq!(repeat.next_after(ms("5000-06-01T00:00:00Z")), None);
    }

    proptest! {
        #[test]
        fn times_only_go_forward_and_none_is_left_out(
            minute in prop_oneof![Just("*"), Just("*/20"), Just("0"), Just("30")],
            hour in prop_oneof![Just("*"), Just("1"), Just("2"), Just("1-3")],
            zone in prop_oneof![
                Just("UTC"),
                Just("America/New_York"),
                Just("Australia/Lord_Howe"),
                Just("Antarctica/Troll"),
            ],
            start in 0..4_000_000_000_000i64,
            later in 0..100_000_000i64,
        ) {
            let repeat = Repeat::new(&format!("{minute} {hour} * * *"), zone).expect("a repeat");
            let first = repeat.next_after(start).expect("a time");
            prop_assert!(first > start);
            prop_assert!(first - start <= 2 * 86_400_000);
            let from_later = repeat.next_after(start + later).expect("a time");
            if first > start + later {
                prop_assert_eq!(from_later, first);
            } else {
                prop_assert!(from_later > first);
            }
        }
    }
}
