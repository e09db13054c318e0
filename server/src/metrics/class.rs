//! What the objects of one class do.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use http::StatusCode;
use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use vatwerk::Code;

use super::{DURATIONS, LAGS, TURNS};

/// The numbers of one class.
pub struct ClassMetrics {
    succeeded: Counter,
    /// In the order of [`Code::ALL`].
    failed: [Counter; Code::ALL.len()],
    objects: Gauge<u64, AtomicU64>,
    objects_created: Counter,
    objects_deleted: Counter,
    object_bytes: Gauge<u64, AtomicU64>,
    queue_wait_seconds: Histogram,
    call_seconds: Histogram,
    turn_seconds: Histogram,
    gate_wait_seconds: Histogram,
    alarm_lag_seconds: Histogram,
    activations: Counter,
    activation_seconds: Histogram,
    /// In the order of [`Code::ALL`].
    activation_failures: [Counter; Code::ALL.len()],
    evictions: [Counter; Eviction::WORDS.len()],
    resets: [Counter; Reset::WORDS.len()],
    cuts: [Counter; Cut::WORDS.len()],
    background_failures: Counter,
    socket_handler_failures: Counter,
    web_sockets: Gauge<u64, AtomicU64>,
    web_socket_event_seconds: [Histogram; SocketEventKind::WORDS.len()],
    pages: Answers,
    json_calls: Answers,
    alarm_runs: [Counter; AlarmOutcome::WORDS.len()],
}

/// Why an instance that had done nothing wrong was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eviction {
    /// It had nothing to do for long enough.
    Idle,
    /// Too many objects were awake.
    Objects,
    /// Memory was short.
    Memory,
    /// Somebody asked for it: an operator, or the vat that stops.
    Asked,
}

impl Eviction {
    /// In the order of the variants.
    const WORDS: [&'static str; 4] = ["idle", "objects", "memory", "asked"];
}

/// Why an instance was dropped that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    /// Its class panicked.
    Panic,
    /// Its class asked for it.
    Abort,
    /// What ran with everything else held back failed, or took too long.
    Blocked,
    /// Its database or the journal failed, or a write of it was stopped.
    Storage,
    /// A handler of a WebSocket took longer than the class allows.
    Timeout,
    /// The object was deleted.
    Deleted,
    /// An operator asked for it.
    Asked,
    /// Too many objects were awake, and only capabilities that it had handed out kept this one awake.
    Pressure,
    /// Anything else.
    Other,
}

impl Reset {
    /// In the order of the variants.
    const WORDS: [&'static str; 9] = [
        "panic", "abort", "blocked", "storage", "timeout", "deleted", "asked", "pressure", "other",
    ];
}

/// Why a call was dropped before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The caller had hung up.
    CallerGone,
    /// The call took longer than its limit.
    Late,
}

impl Cut {
    /// In the order of the variants.
    const WORDS: [&'static str; 2] = ["caller_gone", "late"];
}

/// The kinds of what an object hears on a WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketEventKind {
    /// A message.
    Message,
    /// The end: the peer has closed it, is gone, or did not speak the protocol.
    End,
}

impl SocketEventKind {
    /// In the order of the variants.
    const WORDS: [&'static str; 2] = ["message", "end"];
}

/// The kinds of requests over HTTP that reach a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpKind {
    /// A request for an object's own page, the beginning of a WebSocket among them.
    Page,
    /// A call of a method with JSON.
    Call,
}

/// The answers to one kind of requests over HTTP.
pub(super) struct Answers {
    /// By the first digit of the status, from 1 to 5.
    by_status: [Counter; 5],
    seconds: Histogram,
}

impl Answers {
    /// A request was answered with this status, so long after its head was there.
    pub fn add(&self, status: StatusCode, took: Duration) {
        let first = usize::from(status.as_u16() / 100).clamp(1, 5);
        self.by_status[first - 1].inc();
        self.seconds.observe(took.as_secs_f64());
    }
}

/// What became of one run of an alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlarmOutcome {
    /// It is done.
    Ok,
    /// It failed, and is tried again.
    Failed,
    /// It failed, and is not tried again.
    GaveUp,
    /// There was nothing to do any more: it had been deleted, or set to a later time.
    Skipped,
}

impl AlarmOutcome {
    /// In the order of the variants.
    const WORDS: [&'static str; 4] = ["ok", "failed", "gave_up", "skipped"];
}

impl ClassMetrics {
    /// A call is over, and its outcome has left `took` after the call was delivered. A code of the
    /// class's own, which is none of the list, counts as [`Code::ApplicationFailed`].
    pub fn call(&self, outcome: Result<(), Code>, took: Duration) {
        match outcome {
            Ok(()) => self.succeeded.inc(),
            Err(code) => self.failed[code as usize].inc(),
        };
        self.call_seconds.observe(took.as_secs_f64());
    }

    /// So many objects there are, whose databases have so many bytes in all.
    pub fn counted(&self, objects: u64, bytes: u64) {
        self.objects.set(objects);
        self.object_bytes.set(bytes);
    }

    /// So many objects have come into being since the vat started, and so many have ended.
    pub fn changed(&self, created: u64, deleted: u64) {
        let set = |counter: &Counter, value| counter.inner().store(value, Ordering::Relaxed);
        set(&self.objects_created, created);
        set(&self.objects_deleted, deleted);
    }

    /// So many WebSockets are open.
    pub fn web_sockets(&self, open: u64) {
        self.web_sockets.set(open);
    }

    /// A handler of a WebSocket is over, and took so long.
    pub fn web_socket_event(&self, kind: SocketEventKind, took: Duration) {
        self.web_socket_event_seconds[kind as usize].observe(took.as_secs_f64());
    }

    /// A request over HTTP was answered with this status, so long after its head was there.
    pub fn http_answered(&self, kind: HttpKind, status: StatusCode, took: Duration) {
        let answers = match kind {
            HttpKind::Page => &self.pages,
            HttpKind::Call => &self.json_calls,
        };
        answers.add(status, took);
    }

    /// A call, a request, a message or an alarm has begun, so long after it was delivered.
    pub fn queue_waited(&self, waited: Duration) {
        self.queue_wait_seconds.observe(waited.as_secs_f64());
    }

    /// A turn of an object is over, and took so long.
    pub fn turn(&self, took: Duration) {
        self.turn_seconds.observe(took.as_secs_f64());
    }

    /// An outcome of a call waited for so long, from being said until it left.
    pub fn gate_waited(&self, waited: Duration) {
        self.gate_wait_seconds.observe(waited.as_secs_f64());
    }

    /// An alarm was begun, so long after it was due.
    pub fn alarm_started(&self, lag: Duration) {
        self.alarm_lag_seconds.observe(lag.as_secs_f64());
    }

    /// An object woke up: its database was opened, and `create` and `activate` were run, in `took`.
    pub fn activated(&self, took: Duration) {
        self.activations.inc();
        self.activation_seconds.observe(took.as_secs_f64());
    }

    /// An object did not wake up: its database did not open, or `create`, a migration or `activate` failed.
    pub fn activation_failed(&self, code: Code) {
        self.activation_failures[code as usize].inc();
    }

    /// An object fell asleep.
    pub fn evicted(&self, why: Eviction) {
        self.evictions[why as usize].inc();
    }

    /// A call was dropped before its end.
    pub fn cut(&self, why: Cut) {
        self.cuts[why as usize].inc();
    }

    /// An instance failed.
    pub fn reset(&self, why: Reset) {
        self.resets[why as usize].inc();
    }

    /// What an object did beside its calls (`wait_until`) failed.
    pub fn background_failed(&self) {
        self.background_failures.inc();
    }

    /// A handler of a WebSocket failed.
    pub fn socket_handler_failed(&self) {
        self.socket_handler_failures.inc();
    }

    /// An alarm was run, or was not worth it.
    pub fn alarm_ran(&self, outcome: AlarmOutcome) {
        self.alarm_runs[outcome as usize].inc();
    }
}

type Labels = Vec<(&'static str, String)>;
type Counters = Family<Labels, Counter>;
type Gauges = Family<Labels, Gauge<u64, AtomicU64>>;
type Histograms = Family<Labels, Histogram, fn() -> Histogram>;

/// A histogram of durations, with nothing in it.
fn durations() -> Histogram {
    Histogram::new(DURATIONS)
}

/// The numbers of all classes, from which those of each are made.
pub(super) struct Families {
    objects: Gauges,
    objects_created: Counters,
    objects_deleted: Counters,
    web_sockets: Gauges,
    object_bytes: Gauges,
    queue_wait_seconds: Histograms,
    calls: Counters,
    call_seconds: Histograms,
    turn_seconds: Histograms,
    gate_wait_seconds: Histograms,
    alarm_lag_seconds: Histograms,
    activations: Counters,
    activation_seconds: Histograms,
    activation_failures: Counters,
    evictions: Counters,
    resets: Counters,
    cuts: Counters,
    background_failures: Counters,
    socket_handler_failures: Counters,
    web_socket_event_seconds: Histograms,
    http_requests: Counters,
    http_request_seconds: Histograms,
    alarm_runs: Counters,
}

impl Families {
    pub fn register(registry: &mut Registry) -> Families {
        let mut histograms = |name, help, constructor: fn() -> Histogram| {
            let histograms = Histograms::new_with_constructor(constructor);
            registry.register(name, help, histograms.clone());
            histograms
        };
        let queue_wait_seconds = histograms(
            "queue_wait_seconds",
            "How long calls, requests, messages and alarms waited for their objects before they began: \
             for others, for the journal, for the object to wake",
            durations,
        );
        let call_seconds = histograms(
            "call_seconds",
            "How long calls took, from their delivery until their outcome left",
            durations,
        );
        let turn_seconds = histograms(
            "turn_seconds",
            "How long turns of objects held the vat's thread, the commits of their writes \
             included",
            || Histogram::new(TURNS),
        );
        let gate_wait_seconds = histograms(
            "gate_wait_seconds",
            "How long outcomes of calls waited until what they could reveal was on disk",
            durations,
        );
        let alarm_lag_seconds = histograms(
            "alarm_lag_seconds",
            "How long after its due time an alarm was run",
            || Histogram::new(LAGS),
        );
        let activation_seconds = histograms(
            "activation_seconds",
            "How long objects took to wake up",
            durations,
        );
        let web_socket_event_seconds = histograms(
            "web_socket_event_seconds",
            "How long handlers of WebSockets took, without the wait until what they wrote is on disk",
            durations,
        );
        let http_request_seconds = histograms(
            "http_request_seconds",
            "How long requests over HTTP took, from their heads until those of their answers: without \
             the rest of the answer, and with the time in which clients sent what was read before it. \
             The class is empty for what the vat answered itself",
            durations,
        );
        let mut gauges = |name, help| {
            let gauges = Gauges::default();
            registry.register(name, help, gauges.clone());
            gauges
        };
        let objects = gauges("objects", "Objects that there are, awake or asleep");
        let object_bytes = gauges(
            "object_bytes",
            "The size of the databases of objects, as objects are listed with it",
        );
        let web_sockets = gauges("web_sockets", "WebSockets that are open");
        // `_total` is added to their names.
        let mut counters = |name, help| {
            let counters = Counters::default();
            registry.register(name, help, counters.clone());
            counters
        };
        Families {
            calls: counters("calls", "Calls that are over, by the code of their outcome"),
            objects,
            objects_created: counters(
                "objects_created",
                "Objects that have come into being since the vat started",
            ),
            objects_deleted: counters(
                "objects_deleted",
                "Objects that have ended since the vat started",
            ),
            web_sockets,
            object_bytes,
            queue_wait_seconds,
            call_seconds,
            turn_seconds,
            gate_wait_seconds,
            alarm_lag_seconds,
            activations: counters("activations", "Objects that woke up"),
            activation_seconds,
            activation_failures: counters(
                "activation_failures",
                "Tries to wake an object that failed, by the code of the error",
            ),
            evictions: counters("evictions", "Objects that were put to sleep"),
            resets: counters("resets", "Instances that were dropped because they failed"),
            cuts: counters("calls_cut", "Calls that were dropped before their end"),
            background_failures: counters(
                "background_failures",
                "Work of objects beside their calls that failed",
            ),
            socket_handler_failures: counters(
                "socket_handler_failures",
                "Handlers of WebSockets that failed",
            ),
            web_socket_event_seconds,
            http_requests: counters(
                "http_requests",
                "Requests over HTTP that were answered, by the class of the status. The class of \
                 objects is empty for what the vat answered itself",
            ),
            http_request_seconds,
            alarm_runs: counters("alarm_runs", "Alarms that were run"),
        }
    }

    /// The answers over HTTP to requests for a class, or of the vat itself, whose `class` is empty.
    pub fn answers(&self, class: &str, kind: &str) -> Answers {
        let labels = || vec![("class", class.to_owned()), ("kind", kind.to_owned())];
        let with = |status: &str| [labels(), vec![("status", status.to_owned())]].concat();
        Answers {
            by_status: ["1xx", "2xx", "3xx", "4xx", "5xx"]
                .map(|status| self.http_requests.get_or_create_owned(&with(status))),
            seconds: self.http_request_seconds.get_or_create_owned(&labels()),
        }
    }

    /// The numbers of a class: all of them are there from now on, as zeros.
    pub fn class(&self, name: &str) -> ClassMetrics {
        let labels = || vec![("class", name.to_owned())];
        let with = |label, word: &str| [labels(), vec![(label, word.to_owned())]].concat();
        let one = |of: &Counters| of.get_or_create_owned(&labels());
        let code = |of: &Counters, word| of.get_or_create_owned(&with("code", word));
        let failures = |of: &Counters| Code::ALL.map(|failure| code(of, failure.as_str()));
        let reason = |of: &Counters, word| of.get_or_create_owned(&with("reason", word));
        let events = &self.web_socket_event_seconds;
        let event = |word| events.get_or_create_owned(&with("kind", word));
        let outcome = |word| self.alarm_runs.get_or_create_owned(&with("outcome", word));
        ClassMetrics {
            succeeded: code(&self.calls, "ok"),
            failed: failures(&self.calls),
            objects: self.objects.get_or_create_owned(&labels()),
            objects_created: one(&self.objects_created),
            objects_deleted: one(&self.objects_deleted),
            object_bytes: self.object_bytes.get_or_create_owned(&labels()),
            queue_wait_seconds: self.queue_wait_seconds.get_or_create_owned(&labels()),
            call_seconds: self.call_seconds.get_or_create_owned(&labels()),
            turn_seconds: self.turn_seconds.get_or_create_owned(&labels()),
            gate_wait_seconds: self.gate_wait_seconds.get_or_create_owned(&labels()),
            alarm_lag_seconds: self.alarm_lag_seconds.get_or_create_owned(&labels()),
            activations: one(&self.activations),
            activation_seconds: self.activation_seconds.get_or_create_owned(&labels()),
            activation_failures: failures(&self.activation_failures),
            evictions: Eviction::WORDS.map(|word| reason(&self.evictions, word)),
            resets: Reset::WORDS.map(|word| reason(&self.resets, word)),
            cuts: Cut::WORDS.map(|word| reason(&self.cuts, word)),
            background_failures: one(&self.background_failures),
            socket_handler_failures: one(&self.socket_handler_failures),
            web_sockets: self.web_sockets.get_or_create_owned(&labels()),
            web_socket_event_seconds: SocketEventKind::WORDS.map(event),
            pages: self.answers(name, "page"),
            json_calls: self.answers(name, "call"),
            alarm_runs: AlarmOutcome::WORDS.map(outcome),
        }
    }
}
