//! What an operator sees of a vat in numbers: how often, how long, how many.
//!
//! What a class's objects do is recorded with its [`ClassMetrics`], which is asked for once and kept:
//! to record is to add, and nothing is looked up. What belongs to no class is recorded with
//! [`Metrics`]. What somebody counts anyway is a [`Reading`], looked at when the numbers are asked for.
//!
//! Labels are classes, kinds, codes, outcomes, reasons, services and methods of the schemas; never objects, of
//! which there is no end.
//!
//! Everything is recorded on the vat's thread. Any thread may have the text, from an [`Exposition`].

mod class;
mod durations;
mod exposition;
mod process;
mod reading;

use std::{
    cell::RefCell,
    collections::HashMap,
    rc::Rc,
    sync::{Arc, Mutex, atomic::AtomicU64},
    time::Duration,
};

use http::StatusCode;
use prometheus_client::{
    encoding::prometheus_text,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::{ConstGauge, Gauge},
        info::Info,
    },
    registry::Registry,
};
use vatwerk::Code;

pub use class::{AlarmOutcome, ClassMetrics, Cut, Eviction, HttpKind, Reset, SocketEventKind};
pub use durations::Durations;
pub use exposition::{Exposition, Vitals};
pub use reading::Reading;

use class::{Answers, Families};
use exposition::lock;

/// The upper bounds, in seconds, by which durations of calls, waits and activations are told apart:
/// from a read in memory to the longest `activate`.
const DURATIONS: [f64; 20] = [
    0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025,
    0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

/// The upper bounds, in seconds, by which durations of turns are told apart: fewer, since there are many
/// turns.
const TURNS: [f64; 10] = [
    0.000_01, 0.000_1, 0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 30.0,
];

/// The upper bounds, in seconds, by which alarms are told apart by how late they are: from a timer's tick
/// to a vat that was down for a day.
const LAGS: [f64; 14] = [
    0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 60.0, 300.0, 3600.0, 21_600.0, 86_400.0,
];

/// The numbers of a vat. Cheap to clone; clones are handles to the same ones. A vat has one, and
/// there is none for the process.
#[derive(Clone)]
pub struct Metrics(Rc<Inner>);

struct Inner {
    registry: Arc<Mutex<Registry>>,
    exposition: Exposition,
    families: Families,
    classes: RefCell<HashMap<Box<str>, Rc<ClassMetrics>>>,
    readings: RefCell<Vec<Box<dyn Fn()>>>,
    alarms_not_delivered: Counter,
    overloaded: [Counter; Overload::WORDS.len()],
    limits: Family<Vec<(&'static str, &'static str)>, Gauge<u64, AtomicU64>>,
    faults: Counter,
    long_turns: Family<ClassAndMethod, Counter>,
    restarts: Restarts,
    connection_ends: Family<Vec<(&'static str, &'static str)>, Counter>,
    /// The answers of the vat itself over HTTP.
    http_answers: Answers,
    http_failures: Family<ClassAndCode, Counter>,
    http_slow: [Counter; Slow::WORDS.len()],
}

/// Why a call was refused with `overloaded`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overload {
    /// Too many calls were queued or running in the object, or in the vat.
    Calls,
    /// Too many objects were awake.
    Objects,
    /// Too many requests were under way over HTTP.
    HttpRequests,
    /// Calls and answers over HTTP held too many bytes.
    HttpBytes,
    /// Too many bytes waited for the peers of WebSockets: messages of objects were refused.
    SocketBytes,
    /// Too many bytes of clients' messages on WebSockets were not here whole.
    SocketMessages,
}

impl Overload {
    /// In the order of the variants.
    const WORDS: [&'static str; 6] = [
        "calls",
        "objects",
        "http_requests",
        "http_bytes",
        "socket_bytes",
        "socket_messages",
    ];
}

/// The thing that a client over HTTP sent or took too slowly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slow {
    /// The body of a request.
    Body,
    /// An answer.
    Answer,
    /// A message on a WebSocket.
    Message,
}

impl Slow {
    /// In the order of the variants.
    const WORDS: [&'static str; 3] = ["body", "answer", "message"];
}

/// The labels of a counter of one code of errors of a class.
type ClassAndCode = Vec<(&'static str, String)>;

/// The labels of a counter of one method of a class.
type ClassAndMethod = Vec<(&'static str, String)>;

/// Counts the restarts of services. For any thread; cheap to clone.
#[derive(Clone, Default)]
pub struct Restarts(Family<Vec<(&'static str, &'static str)>, Counter>);

impl Restarts {
    /// A service has failed, and is to be restarted.
    pub fn count(&self, service: &'static str) {
        self.0.get_or_create(&vec![("service", service)]).inc();
    }
}

impl Metrics {
    /// The content type of the text that [`Exposition::encode`] makes, for HTTP.
    pub const CONTENT_TYPE: &str = prometheus_text::CONTENT_TYPE;

    /// Nothing has happened yet, in a vat of that version that started at `now_ms`, in milliseconds
    /// since 1970.
    pub fn new(version: &str, now_ms: i64) -> Metrics {
        let mut registry = Registry::with_prefix("vatwerk");
        registry.register(
            "build",
            "Which version this is",
            Info::new([("version", version.to_owned())]),
        );
        registry.register(
            "start_time_seconds",
            "When the vat started, in seconds since 1970",
            ConstGauge::new(now_ms as f64 / 1000.0),
        );
        let families = Families::register(&mut registry);
        let faults = Counter::default();
        registry.register(
            "faults",
            "Panics of the vat's own in serving an object",
            faults.clone(),
        );
        let alarms_not_delivered = Counter::default();
        registry.register(
            "alarm_delivery_failures",
            "Tries to reach an object whose alarms were due that failed: its class, or the disk",
            alarms_not_delivered.clone(),
        );
        let overloaded = Family::<Vec<(&'static str, &'static str)>, Counter>::default();
        registry.register(
            "overloaded",
            "Calls refused because a queue or the memory of the vat was full, and messages of objects on \
             WebSockets; calls refused at their connections count apart",
            overloaded.clone(),
        );
        let overloaded =
            Overload::WORDS.map(|reason| overloaded.get_or_create_owned(&vec![("reason", reason)]));
        let limits = Family::default();
        registry.register(
            "limit",
            "The limits of the vat, by the keys of their settings",
            limits.clone(),
        );
        let connection_ends = Family::default();
        registry.register(
            "connections_ended",
            "Connections that have ended, by why",
            connection_ends.clone(),
        );
        let long_turns = Family::default();
        registry.register(
            "long_turns",
            "Turns that took longer than the vat's limit, by what the object was doing",
            long_turns.clone(),
        );
        let restarts = Restarts::default();
        registry.register(
            "service_restarts",
            "Services of the vat that failed and were restarted",
            restarts.0.clone(),
        );
        let http_answers = families.answers("", "vat");
        let http_failures = Family::default();
        registry.register(
            "http_failures",
            "Requests over HTTP that the vat answered with a status of 500 and above, or broke off, by the \
             class and the code of the error; the class is empty if the request reached none",
            http_failures.clone(),
        );
        let http_slow = Family::<Vec<(&'static str, &'static str)>, Counter>::default();
        registry.register(
            "http_slow",
            "Requests, answers and messages of WebSockets that were given up, because their clients sent or \
             took them too slowly",
            http_slow.clone(),
        );
        let http_slow =
            Slow::WORDS.map(|what| http_slow.get_or_create_owned(&vec![("reason", what)]));
        let registry = Arc::new(Mutex::new(registry));
        Metrics(Rc::new(Inner {
            exposition: Exposition::new(registry.clone()),
            registry,
            families,
            classes: RefCell::default(),
            readings: RefCell::default(),
            alarms_not_delivered,
            overloaded,
            limits,
            faults,
            long_turns,
            restarts,
            connection_ends,
            http_answers,
            http_failures,
            http_slow,
        }))
    }

    /// The numbers of a class, all zero at first. To be kept: this looks it up by its name.
    pub fn class(&self, name: &str) -> Rc<ClassMetrics> {
        let mut classes = self.0.classes.borrow_mut();
        if let Some(known) = classes.get(name) {
            return known.clone();
        }
        let class = Rc::new(self.0.families.class(name));
        classes.insert(name.into(), class.clone());
        class
    }

    /// The vat's own code panicked while it served an object.
    pub fn faulted(&self) {
        self.0.faults.inc();
    }

    /// An object whose alarms were due could not be reached.
    pub fn alarm_not_delivered(&self) {
        self.0.alarms_not_delivered.inc();
    }

    /// A call was refused: `overloaded`.
    pub fn overloaded(&self, why: Overload) {
        self.0.overloaded[why as usize].inc();
    }

    /// A connection has ended, for this reason.
    pub fn connection_ended(&self, why: &'static str) {
        let labels = vec![("reason", why)];
        self.0.connection_ends.get_or_create(&labels).inc();
    }

    /// Connections end for these reasons: from now on the numbers have each, zero at first.
    pub fn connections_end(&self, reasons: &[&'static str]) {
        for reason in reasons {
            let labels = vec![("reason", *reason)];
            drop(self.0.connection_ends.get_or_create(&labels));
        }
    }

    /// The vat has this limit, by the setting with that key.
    pub fn limit(&self, setting: &'static str, limit: u64) {
        let labels = vec![("setting", setting)];
        self.0.limits.get_or_create(&labels).set(limit);
    }

    /// From now on the numbers have these durations. To be called once for a name.
    pub fn show_durations(&self, name: &str, help: &str, durations: &Durations) {
        lock(&self.0.registry).register(name, help, durations.histogram());
    }

    /// A turn took longer than the limit. `method` is one of a bounded number of names.
    pub fn turn_was_long(&self, class: &str, method: &str) {
        let labels = vec![("class", class.to_owned()), ("method", method.to_owned())];
        self.0.long_turns.get_or_create(&labels).inc();
    }

    /// The counter of services that fail.
    pub fn restarts(&self) -> Restarts {
        self.0.restarts.clone()
    }

    /// The vat itself answered a request over HTTP, one that reached no class, so long after its head was
    /// there.
    pub fn http_answered(&self, status: StatusCode, took: Duration) {
        self.0.http_answers.add(status, took);
    }

    /// Something over HTTP was given up, because its client was too slow.
    pub fn http_slow(&self, what: Slow) {
        self.0.http_slow[what as usize].inc();
    }

    /// The vat answered a request over HTTP with a status of 500 and above, or broke the answer off. `class` is
    /// empty if the request reached none.
    pub fn http_failed(&self, class: &str, code: Code) {
        let labels = vec![
            ("class", class.to_owned()),
            ("code", code.as_str().to_owned()),
        ];
        self.0.http_failures.get_or_create(&labels).inc();
    }

    /// From now on the numbers have this one, and `read` is asked for it by [`Metrics::refresh`]. To be
    /// called once for a reading. `read` must not use these `Metrics`.
    pub fn show(&self, reading: Reading, read: impl Fn() -> u64 + 'static) {
        let set = reading.register(&mut lock(&self.0.registry));
        let reading = Box::new(move || set(read()));
        self.0.readings.borrow_mut().push(reading);
    }

    /// From now on `read` sets numbers of classes in [`Metrics::refresh`]. It must not use these `Metrics`.
    pub fn show_classes(&self, read: impl Fn() + 'static) {
        self.0.readings.borrow_mut().push(Box::new(read));
    }

    /// Brings all readings up to date: they are read on this thread, and shown by any.
    pub fn refresh(&self) {
        self.0.readings.borrow().iter().for_each(|read| read());
    }

    /// The text of all numbers, for any thread.
    pub fn exposition(&self) -> Exposition {
        self.0.exposition.clone()
    }
}

#[cfg(test)]
mod tests;
