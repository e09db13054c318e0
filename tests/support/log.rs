//! What is logged in the thread of a test.

use std::{
    io::{self, Write},
    sync::{Arc, Mutex},
};

use tracing::subscriber::DefaultGuard;
use tracing_subscriber::fmt::MakeWriter;

/// A log in memory. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Keeps what this thread logs until what is returned is dropped.
    pub fn keep(&self) -> DefaultGuard {
        let log = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(self.clone());
        tracing::subscriber::set_default(log.finish())
    }

    /// How many lines have this text in them.
    pub fn count(&self, text: &str) -> usize {
        let log = self.0.lock().expect("nobody panics while it is locked");
        let log = String::from_utf8_lossy(&log);
        log.lines().filter(|line| line.contains(text)).count()
    }
}

impl Write for Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut log = self.0.lock().expect("nobody panics while it is locked");
        log.extend_from_slice(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Log;

    fn make_writer(&self) -> Log {
        self.clone()
    }
}
