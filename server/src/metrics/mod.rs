//! What an operator sees of a vat in numbers: how often, how long, how many.
//!
//! What a class's objects do is recorded with its [`ClassMetrics`], which is asked for once and kept:
//! to record is to add, and nothing is looked up. What belongs to no class is recorded with
//! [`Metrics`]. What somebody counts anyway is a [`Reading`], looked at when the numbers are asked for.
//!
//! Labels are classes, codes, outcomes and reasons; never objects, of which there is no end.

mod class;
mod reading;

use std::{cell::RefCell, collections::HashMap, rc::Rc, time::Duration};

use http::StatusCode;
use prometheus_client::{
    encoding::prometheus_text,
    metrics::{
        counter::Counter, family::Family, gauge::ConstGauge, histogram::Histogram, info::Info,
    },
    registry::Registry,
};

pub use class::{AlarmOutcome, ClassMetrics, Eviction, Reset};
pub use reading::Reading;

use class::Families;

/// The upper bounds, in seconds, by which durations of calls, waits and activations are told apart:
/// from a read in memory to the longest `activate`.
const DURATIONS: [f64; 20] = [
    0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025,
    0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

/// Likewise, for how late alarms are: from a timer's tick to a vat that was down for a day.
const LAGS: [f64; 14] = [
    0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 60.0, 300.0, 3600.0, 21_600.0, 86_400.0,
];

/// The numbers of a vat. Cheap to clone; clones are handles to the same ones. A vat has one, and
/// there is none for the process.
#[derive(Clone)]
pub struct Metrics(Rc<Inner>);

struct Inner {
    registry: RefCell<Registry>,
    families: Families,
    classes: RefCell<HashMap<Box<str>, Rc<ClassMetrics>>>,
    readings: RefCell<Vec<Box<dyn Fn()>>>,
    gate_wait: Histogram,
    alarm_lag: Histogram,
    alarms_not_delivered: Counter,
    overloaded: Counter,
    /// By the first digit of the status, from 1 to 5.
    http_answers: [Counter; 5],
}

impl Metrics {
    /// What kind of text [`Metrics::encode`] makes, for HTTP.
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
        let gate_wait = Histogram::new(DURATIONS);
        registry.register(
            "gate_wait_seconds",
            "How long outcomes of calls waited until what they could reveal was on disk",
            gate_wait.clone(),
        );
        let alarm_lag = Histogram::new(LAGS);
        registry.register(
            "alarm_lag_seconds",
            "How long after its due time an alarm was run",
            alarm_lag.clone(),
        );
        let alarms_not_delivered = Counter::default();
        registry.register(
            "alarm_delivery_failures",
            "Tries to reach an object whose alarms were due that failed: its class, or the disk",
            alarms_not_delivered.clone(),
        );
        let overloaded = Counter::default();
        registry.register(
            "overloaded",
            "Calls refused because a queue or the memory of the vat was full",
            overloaded.clone(),
        );
        let http_answers = Family::<Vec<(&'static str, &'static str)>, Counter>::default();
        registry.register(
            "http_requests",
            "Requests over HTTP that were answered, by the class of the status",
            http_answers.clone(),
        );
        let http_answers = ["1xx", "2xx", "3xx", "4xx", "5xx"]
            .map(|status| http_answers.get_or_create_owned(&vec![("status", status)]));
        Metrics(Rc::new(Inner {
            registry: RefCell::new(registry),
            families,
            classes: RefCell::default(),
            readings: RefCell::default(),
            gate_wait,
            alarm_lag,
            alarms_not_delivered,
            overloaded,
            http_answers,
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

    /// An outcome of a call waited for so long, from being said until it left.
    pub fn gate_waited(&self, waited: Duration) {
        self.0.gate_wait.observe(waited.as_secs_f64());
    }

    /// An alarm was begun, so long after it was due.
    pub fn alarm_started(&self, lag: Duration) {
        self.0.alarm_lag.observe(lag.as_secs_f64());
    }

    /// An object whose alarms were due could not be reached.
    pub fn alarm_not_delivered(&self) {
        self.0.alarms_not_delivered.inc();
    }

    /// A call was refused: `overloaded`.
    pub fn overloaded(&self) {
        self.0.overloaded.inc();
    }

    /// A request over HTTP was answered with this status.
    pub fn http_answered(&self, status: StatusCode) {
        let class = usize::from(status.as_u16() / 100).clamp(1, 5);
        self.0.http_answers[class - 1].inc();
    }

    /// From now on the numbers have this one, and `read` is asked for it whenever they are asked for.
    /// To be called once for a reading. `read` must not use these `Metrics`.
    pub fn show(&self, reading: Reading, read: impl Fn() -> u64 + 'static) {
        let set = reading.register(&mut self.0.registry.borrow_mut());
        let reading = Box::new(move || set(read()));
        self.0.readings.borrow_mut().push(reading);
    }

    /// All numbers, in the text format of Prometheus.
    pub fn encode(&self) -> String {
        self.0.readings.borrow().iter().for_each(|read| read());
        let mut text = String::new();
        prometheus_text::encode(&mut text, &self.0.registry.borrow())
            .expect("a string takes whatever is written to it");
        text
    }
}

#[cfg(test)]
mod tests;
