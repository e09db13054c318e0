//! Rounds, and what is told of them.

use std::time::{Duration, Instant};

/// What a round measured.
pub struct Round {
    pub calls: usize,
    calls_per_second: f64,
    median: Duration,
    p99: Duration,
}

impl Round {
    /// The round in which calls took these times, and all of them together `elapsed`.
    pub fn new(elapsed: Duration, mut latencies: Vec<Duration>) -> Round {
        latencies.sort_unstable();
        let percentile = |percent| latencies[(latencies.len() - 1) * percent / 100];
        Round {
            calls: latencies.len(),
            calls_per_second: latencies.len() as f64 / elapsed.as_secs_f64(),
            median: percentile(50),
            p99: percentile(99),
        }
    }

    /// Calls again and again, each time when the call before has returned.
    pub fn of_one_caller(time: Duration, mut call: impl FnMut()) -> Round {
        let mut latencies = Vec::new();
        let started = Instant::now();
        while latencies.is_empty() || started.elapsed() < time {
            let called = Instant::now();
            call();
            latencies.push(called.elapsed());
        }
        Round::new(started.elapsed(), latencies)
    }
}

/// The rounds of one row.
#[derive(Default)]
pub struct Rounds(Vec<Round>);

impl Rounds {
    pub fn push(&mut self, round: Round) {
        self.0.push(round);
    }

    pub fn calls(&self) -> usize {
        self.0.iter().map(|round| round.calls).sum()
    }

    pub fn calls_per_second(&self) -> f64 {
        self.median_of(|round| round.calls_per_second)
    }

    /// The slowest and the fastest round: how much else went on.
    pub fn slowest_and_fastest(&self) -> (f64, f64) {
        let speeds = || self.0.iter().map(|round| round.calls_per_second);
        let slowest = speeds().fold(f64::INFINITY, f64::min);
        (slowest, speeds().fold(0.0, f64::max))
    }

    /// The median latency in microseconds.
    pub fn median(&self) -> f64 {
        self.median_of(|round| micros(round.median))
    }

    /// The 99th percentile of the latency in microseconds.
    pub fn p99(&self) -> f64 {
        self.median_of(|round| micros(round.p99))
    }

    fn median_of(&self, value: impl Fn(&Round) -> f64) -> f64 {
        let mut values: Vec<f64> = self.0.iter().map(value).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    }
}

/// Runs with so many calls in flight, for so long.
type Run = Box<dyn FnMut(usize, Duration) -> Round>;

/// Something to compare with, and its rounds by the number of calls in flight.
pub struct Floor {
    pub name: String,
    /// Or why it cannot be run.
    run: Result<Run, &'static str>,
    rows: Vec<(usize, Rounds)>,
}

impl Floor {
    pub fn new(
        name: impl Into<String>,
        in_flight: &[usize],
        run: impl FnMut(usize, Duration) -> Round + 'static,
    ) -> Floor {
        let row = |&in_flight: &usize| (in_flight, Rounds::default());
        Floor {
            name: name.into(),
            run: Ok(Box::new(run)),
            rows: in_flight.iter().map(row).collect(),
        }
    }

    pub fn missing(name: impl Into<String>, reason: &'static str) -> Floor {
        Floor {
            name: name.into(),
            run: Err(reason),
            rows: Vec::new(),
        }
    }

    /// One round of each row.
    pub fn round(&mut self, time: Duration) {
        if let Ok(run) = &mut self.run {
            for (in_flight, rounds) in &mut self.rows {
                run(*in_flight, warm_up(time));
                rounds.push(run(*in_flight, time));
            }
        }
    }

    /// What was measured, by the number of calls in flight.
    pub fn rows(&self) -> Result<&[(usize, Rounds)], &'static str> {
        match &self.run {
            Ok(_) => Ok(&self.rows),
            Err(reason) => Err(reason),
        }
    }

    /// The row with that many calls in flight.
    pub fn row(&self, in_flight: usize) -> Option<&Rounds> {
        let (_, rounds) = self.rows.iter().find(|(of, _)| *of == in_flight)?;
        Some(rounds)
    }
}

/// How long a row runs without being measured first.
pub fn warm_up(time: Duration) -> Duration {
    time / 10
}

pub fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
