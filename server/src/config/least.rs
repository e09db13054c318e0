//! The least values of settings.

use vatwerk::limit_capnp::MAX_SQL_BYTES;

use super::{Config, Http, Limits};

/// A setting below its least value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{key}` in the section `[{section}]` of the settings is {value}; the least is {least}")]
pub struct TooSmall {
    /// The section of the settings.
    pub section: &'static str,
    /// The key in that section.
    pub key: &'static str,
    /// The value that it was given.
    pub value: u64,
    /// The least value that it may have.
    pub least: u64,
}

/// The least number of bytes that connections and messages may have: what goes on in ordinary calls.
const BYTES: u64 = 64 << 10;

/// The least size of the head of an HTTP request, in bytes.
const HEAD_BYTES: u64 = 8 << 10;

/// The least size of the journal, in bytes.
const JOURNAL_BYTES: u64 = 8 << 20;

impl Config {
    /// Checks the settings that have a least value. With less a vat would start, and answer nothing.
    ///
    /// # Errors
    ///
    /// The first setting below its least value.
    pub fn check(&self) -> Result<(), TooSmall> {
        let limits = self.limits.least().map(|it| ("limits", it));
        let http = self.http.least().map(|it| ("http", it));
        let mut all = limits.into_iter().chain(http);
        match all.find(|(_, (_, value, least))| value < least) {
            None => Ok(()),
            Some((section, (key, value, least))) => Err(TooSmall {
                section,
                key,
                value,
                least,
            }),
        }
    }
}

/// A key, its value and its least value.
type Least = (&'static str, u64, u64);

impl Limits {
    fn least(&self) -> [Least; 23] {
        [
            ("activation_ms", self.activation_ms, 1),
            ("statement_ms", self.statement_ms, 1),
            ("migration_ms", self.migration_ms, 1),
            ("sql_text_bytes", self.sql_text_bytes, MAX_SQL_BYTES.into()),
            ("sql_columns", self.sql_columns, 1),
            ("sql_expression_depth", self.sql_expression_depth, 1),
            ("sql_compound_selects", self.sql_compound_selects, 1),
            ("sql_pattern_bytes", self.sql_pattern_bytes, 1),
            ("resident_objects", self.resident_objects as u64, 1),
            ("alarms_at_once", self.alarms_at_once as u64, 1),
            ("calls_per_object", self.calls_per_object, 1),
            ("calls_per_vat", self.calls_per_vat, 1),
            ("socket_bytes", self.socket_bytes as u64, 1),
            (
                "socket_bytes_per_object",
                self.socket_bytes_per_object as u64,
                1,
            ),
            ("socket_bytes_per_vat", self.socket_bytes_per_vat as u64, 1),
            ("connections", self.connections as u64, 1),
            ("calls_per_connection", self.calls_per_connection as u64, 1),
            ("pins_per_connection", self.pins_per_connection as u64, 1),
            (
                "bytes_per_connection",
                self.bytes_per_connection as u64,
                BYTES,
            ),
            ("bytes_per_vat", self.bytes_per_vat as u64, BYTES),
            ("stall_ms", self.stall_ms, 1),
            ("message_bytes", self.message_bytes, BYTES),
            ("journal_bytes", self.journal_bytes, JOURNAL_BYTES),
        ]
    }
}

impl Http {
    fn least(&self) -> [Least; 9] {
        [
            ("connections", self.connections as u64, 1),
            ("requests", self.requests as u64, 1),
            (
                "requests_per_connection",
                u64::from(self.requests_per_connection),
                1,
            ),
            ("head_bytes", self.head_bytes as u64, HEAD_BYTES),
            ("head_fields", self.head_fields as u64, 1),
            ("gateway_ms", self.gateway_ms, 1),
            ("idle_ms", self.idle_ms, 1),
            ("stall_ms", self.stall_ms, 1),
            ("message_bytes", u64::from(self.message_bytes), 1),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The settings that have a least value, as they are by default.
    fn all() -> impl Iterator<Item = (&'static str, Least)> {
        let config = Config::default();
        let limits = config.limits.least().map(|it| ("limits", it));
        let http = config.http.least().map(|it| ("http", it));
        limits.into_iter().chain(http)
    }

    #[test]
    fn a_setting_below_its_least_value_is_refused_by_its_name() {
        for (section, (key, _, least)) in all() {
            let with = |value: u64| {
                let text = format!("[{section}]\n{key} = {value}\n");
                toml::from_str::<Config>(&text).unwrap().check()
            };
            assert_eq!(with(least), Ok(()));
            let refused = with(least - 1).unwrap_err();
            let expected = TooSmall {
                section,
                key,
                value: least - 1,
                least,
            };
            assert_eq!(refused, expected);
        }
        let refused = toml::from_str::<Config>("[limits]\nstall_ms = 0").unwrap();
        let text = "`stall_ms` in the section `[limits]` of the settings is 0; the least is 1";
        assert_eq!(refused.check().unwrap_err().to_string(), text);
    }

    #[test]
    fn the_default_and_the_greatest_settings_are_good() {
        assert_eq!(Config::default().check(), Ok(()));
        let mut text = String::from("drain_ms = 9223372036854775807\n");
        let mut section = "";
        for (of, (key, ..)) in all() {
            if of != section {
                text += &format!("[{of}]\n");
                section = of;
            }
            let greatest = match (of, key) {
                ("http", "requests_per_connection" | "message_bytes") => i64::from(u32::MAX),
                _ => i64::MAX,
            };
            text += &format!("{key} = {greatest}\n");
        }
        let config = toml::from_str::<Config>(&text).unwrap();
        assert_eq!(config.check(), Ok(()));
        let (objects, http) = (config.objects(), config.http.settings());
        assert!(objects.resident_objects.checked_mul(2).is_some());
        assert_eq!(http.limits.head_fields, 4096);
        let longest = vatwerk::limit_capnp::MAX_MESSAGE_BYTES;
        assert_eq!(config.limits.connection().max_message_bytes, longest);
    }
}
