//! The log of `vatwerk serve`: records go to a thread of its own, which writes them to stderr.
//!
//! Nothing that logs waits for stderr or fails with it: a record that finds no room, or that cannot be
//! written, is lost and counted.

use std::{
    io::{self, IsTerminal, Write},
    panic,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use clap::ValueEnum;
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

use crate::panics;

/// How many records may wait to be written.
const WAITING: usize = 4096;

/// How to write the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    /// For people
    Text,
    /// For programs: each line is a JSON object
    Json,
}

/// The log of this process. Clones are the same log.
#[derive(Clone)]
pub(super) struct Log {
    lost: Arc<Lost>,
    writer: Arc<Mutex<Option<WorkerGuard>>>,
}

/// The records that were lost.
#[derive(Default)]
struct Lost {
    unwritten: AtomicU64,
    no_room: OnceLock<ErrorCounter>,
}

impl Lost {
    fn count(&self) -> u64 {
        let no_room = self.no_room.get().map_or(0, ErrorCounter::dropped_lines);
        self.unwritten.load(Relaxed) + no_room as u64
    }
}

impl Log {
    /// Writes what this process logs to stderr from now on, as RUST_LOG says. Panics are records too.
    pub fn start(format: LogFormat) -> Log {
        let lost = Arc::new(Lost::default());
        let is_terminal = io::stderr().is_terminal();
        let stderr = Stderr {
            lost: lost.clone(),
            reported: 0,
        };
        let (records, writer) = NonBlockingBuilder::default()
            .buffered_lines_limit(WAITING)
            .lossy(true)
            .thread_name("log")
            .finish(stderr);
        // It is set once.
        _ = lost.no_room.set(records.error_counter());
        let filter = EnvFilter::builder().with_default_directive(tracing::Level::INFO.into());
        let log = tracing_subscriber::fmt()
            .with_env_filter(filter.from_env_lossy())
            .log_internal_errors(false)
            .with_writer(records);
        match format {
            LogFormat::Text => log.with_ansi(is_terminal).init(),
            LogFormat::Json => log.json().init(),
        }
        panic::set_hook(Box::new(panics::hook));
        Log {
            lost,
            writer: Arc::new(Mutex::new(Some(writer))),
        }
    }

    /// How many records have been lost.
    pub fn lost(&self) -> u64 {
        self.lost.count()
    }

    /// Waits until what was logged is written, for about a second at most, and ends the log.
    pub fn close(&self) {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        // The guard says on stdout that it gives up, which panics if nothing reads that.
        _ = panics::caught(|| drop(writer.take()));
    }
}

/// The process's stderr as the log's thread writes to it: it never fails.
struct Stderr {
    lost: Arc<Lost>,
    /// How many lost records have been reported.
    reported: u64,
}

impl Write for Stderr {
    /// Writes one record.
    fn write(&mut self, record: &[u8]) -> io::Result<usize> {
        if io::stderr().write_all(record).is_err() {
            self.lost.unwritten.fetch_add(1, Relaxed);
            return Ok(record.len());
        }
        let lost = self.lost.count();
        if lost > self.reported {
            let since = lost - self.reported;
            self.reported = lost;
            tracing::warn!(
                records = since,
                "records of the log were lost: stderr did not take them, or not fast enough"
            );
        }
        Ok(record.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        _ = io::stderr().flush();
        Ok(())
    }
}
