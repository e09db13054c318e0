//! Durations that another part measures, on any thread.

use std::time::Duration;

use prometheus_client::metrics::histogram::Histogram;

use super::DURATIONS;

/// A histogram of durations. Cheap to clone; clones are handles to the same one.
#[derive(Clone)]
pub struct Durations(Histogram);

impl Default for Durations {
    fn default() -> Self {
        Durations(Histogram::new(DURATIONS))
    }
}

impl Durations {
    /// Something took so long.
    pub fn add(&self, took: Duration) {
        self.0.observe(took.as_secs_f64());
    }

    pub(super) fn histogram(&self) -> Histogram {
        self.0.clone()
    }
}
