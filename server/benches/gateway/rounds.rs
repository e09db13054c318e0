//! Many at once, again and again; and what is told of it.

use std::time::{Duration, Instant};

use futures::future::join_all;

use crate::server::Server;

/// The rounds of one row.
#[derive(Default)]
pub struct Rounds(Vec<Round>);

struct Round {
    per_second: f64,
    median: Duration,
    p99: Duration,
    /// The server's time for one.
    cpu: Duration,
}

impl Rounds {
    /// One round: each of `askers` asks `ask` again and again for this long, after a tenth of it to
    /// warm up. What is done at once counts for `weight`.
    pub async fn round<T>(
        &mut self,
        server: &Server,
        time: Duration,
        askers: &mut [T],
        weight: usize,
        ask: impl AsyncFn(&mut T),
    ) {
        repeat(time / 10, askers, &ask).await;
        let cpu = server.cpu();
        let started = Instant::now();
        let mut times = repeat(time, askers, &ask).await;
        let elapsed = started.elapsed();
        times.sort_unstable();
        let percentile = |percent| times[(times.len() - 1) * percent / 100];
        let done = times.len() * weight;
        self.0.push(Round {
            per_second: done as f64 / elapsed.as_secs_f64(),
            median: percentile(50),
            p99: percentile(99),
            cpu: (server.cpu() - cpu) / done as u32,
        });
    }

    pub fn per_second(&self) -> f64 {
        self.median_of(|round| round.per_second)
    }

    /// The cells of a table: how many a second, median and 99th percentile in microseconds, the
    /// server's microseconds for one.
    pub fn cells(&self) -> String {
        format!(
            "{:.0} | {:.0} | {:.0} | {:.1}",
            self.per_second(),
            self.median_of(|round| micros(round.median)),
            self.median_of(|round| micros(round.p99)),
            self.median_of(|round| micros(round.cpu)),
        )
    }

    fn median_of(&self, value: impl Fn(&Round) -> f64) -> f64 {
        median(self.0.iter().map(value).collect())
    }
}

/// Returns how long each took.
async fn repeat<T>(time: Duration, askers: &mut [T], ask: &impl AsyncFn(&mut T)) -> Vec<Duration> {
    let ends = Instant::now() + time;
    let again = async |asker: &mut T| {
        let mut times = Vec::new();
        let mut asked = Instant::now();
        while times.is_empty() || asked < ends {
            ask(asker).await;
            let answered = Instant::now();
            times.push(answered - asked);
            asked = answered;
        }
        times
    };
    join_all(askers.iter_mut().map(again)).await.concat()
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

pub fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// The head of a table whose first column is text, and the others numbers.
pub fn print_header(columns: &[&str]) {
    println!("\n| {} |", columns.join(" | "));
    println!("| --- |{}", " ---: |".repeat(columns.len() - 1));
}
