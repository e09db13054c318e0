//! Numbers that somebody else keeps.

use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};

/// A number that somebody keeps anyway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// How many calls are queued or running.
    CallsInFlight,
    /// How many objects are awake.
    ObjectsAwake,
    /// How many alarms are set.
    AlarmsPending,
    /// How many alarms are running.
    AlarmsRunning,
    /// How many objects have alarms that are due and cannot be delivered.
    AlarmsUndelivered,
    /// Whether alarms are run: 1, or 0.
    AlarmsOn,
    /// How many bytes of messages wait for the peers of WebSockets.
    WebSocketBytes,
    /// How many WebSockets have been closed since the start, because their peers read too slowly.
    WebSocketsSlow,
    /// How many connections are open.
    Connections,
    /// How many connections have been taken since the start.
    ConnectionsTaken,
    /// How many connections have been refused since the start, because as many were open as may be.
    ConnectionsRefused,
    /// How many calls of peers have been refused at their connections since the start.
    ConnectionCallsRefused,
    /// How many calls of objects to peers have not been sent since the start.
    ConnectionCallsNotSent,
    /// How many bytes of messages the connections hold.
    ConnectionBytes,
    /// How many bytes of messages the connections have read since the start.
    ConnectionBytesReceived,
    /// How many bytes of messages the connections have queued for writing since the start.
    ConnectionBytesSent,
    /// How many HTTP connections are open, without WebSockets.
    HttpConnections,
    /// How many HTTP connections have been refused since the start, because as many were open as may be.
    HttpConnectionsRefused,
    /// How many requests are under way over HTTP.
    HttpRequests,
    HttpHeldBytes,
    /// How many WebSockets are open over HTTP.
    HttpSockets,
    /// How many commits the journal has made durable since the start.
    Commits,
    /// How much of the journal counts, in bytes.
    JournalBytes,
    /// How many bytes of commits wait for the journal.
    JournalWaitingBytes,
    /// How many records the log has lost since the start.
    LogRecordsLost,
    /// How many databases have files that cannot be written.
    Quarantined,
}

impl Reading {
    /// Adds it to the numbers; what it returns sets it.
    pub(super) fn register(self, registry: &mut Registry) -> Box<dyn Fn(u64)> {
        let (name, help) = self.described();
        match self {
            Reading::ConnectionsTaken
            | Reading::ConnectionsRefused
            | Reading::HttpConnectionsRefused
            | Reading::ConnectionCallsRefused
            | Reading::ConnectionCallsNotSent
            | Reading::ConnectionBytesReceived
            | Reading::ConnectionBytesSent
            | Reading::Commits
            | Reading::WebSocketsSlow
            | Reading::LogRecordsLost => {
                let counter = Counter::<u64, AtomicU64>::default();
                registry.register(name, help, counter.clone());
                // Not counted here, but elsewhere.
                Box::new(move |value| counter.inner().store(value, Ordering::Relaxed))
            }
            _ => {
                let gauge = Gauge::<u64, AtomicU64>::default();
                registry.register(name, help, gauge.clone());
                Box::new(move |value| gauge.inner().store(value, Ordering::Relaxed))
            }
        }
    }

    /// Its name and its help text. `_total` is added to the name of what only grows.
    fn described(self) -> (&'static str, &'static str) {
        match self {
            Reading::CallsInFlight => ("calls_in_flight", "Calls that are queued or running"),
            Reading::ObjectsAwake => ("objects_awake", "Objects that are awake, or waking"),
            Reading::AlarmsPending => ("alarms_pending", "Alarms that are set"),
            Reading::AlarmsRunning => ("alarms_running", "Alarms that are running"),
            Reading::AlarmsUndelivered => (
                "alarm_objects_undelivered",
                "Objects whose alarms are due and that cannot be reached: they are tried again",
            ),
            Reading::AlarmsOn => (
                "alarms_on",
                "Whether alarms are run: 0 for a server that was started with --alarms off",
            ),
            Reading::WebSocketBytes => (
                "web_socket_bytes",
                "Bytes of messages that wait for the peers of WebSockets",
            ),
            Reading::WebSocketsSlow => (
                "web_sockets_slow",
                "WebSockets that were closed, because their peers read too slowly",
            ),
            Reading::Connections => ("connections", "Connections that are open"),
            Reading::ConnectionsTaken => ("connections", "Connections that were taken"),
            Reading::ConnectionsRefused => (
                "connections_refused",
                "Connections that were refused, because as many were open as may be",
            ),
            Reading::HttpConnectionsRefused => (
                "http_connections_refused",
                "HTTP connections that were refused, because as many were open as may be",
            ),
            Reading::ConnectionCallsRefused => (
                "connection_calls_refused",
                "Calls refused at their connections: a limit of calls or bytes was reached, or the \
                 vat stops",
            ),
            Reading::ConnectionCallsNotSent => (
                "connection_calls_not_sent",
                "Calls of objects to peers that were not sent, because the peers do not keep up",
            ),
            Reading::ConnectionBytes => (
                "connection_bytes",
                "Bytes of messages that connections hold: in flight, not written, or not here whole",
            ),
            Reading::ConnectionBytesReceived => (
                "connection_received_bytes",
                "Bytes of messages that connections have read",
            ),
            Reading::ConnectionBytesSent => (
                "connection_sent_bytes",
                "Bytes of messages that were queued for writing on connections",
            ),
            Reading::HttpConnections => (
                "http_connections",
                "HTTP connections that are open, without WebSockets",
            ),
            Reading::HttpRequests => (
                "http_requests_in_flight",
                "Requests over HTTP that are not answered to the end",
            ),
            Reading::HttpHeldBytes => (
                "http_held_bytes",
                "Bytes of calls and answers over HTTP that connections have not sent or taken whole",
            ),
            Reading::HttpSockets => ("http_web_sockets", "WebSockets that are open over HTTP"),
            Reading::Commits => ("commits", "Commits that the journal has made durable"),
            Reading::LogRecordsLost => (
                "log_records_lost",
                "Records of the log that were not written: stderr did not take them, or not fast enough",
            ),
            Reading::JournalBytes => (
                "journal_bytes",
                "The size of the journal's segments that count: what a recovery reads at most",
            ),
            Reading::JournalWaitingBytes => (
                "journal_waiting_bytes",
                "Bytes of commits that wait to be written to the journal: the next batch",
            ),
            Reading::Quarantined => (
                "databases_quarantined",
                "Databases whose files cannot be written: they take no commits until they can",
            ),
        }
    }
}
