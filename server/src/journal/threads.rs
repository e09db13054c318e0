//! The three threads of a journal.

use std::{
    io,
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
    time::Duration,
};

use super::{
    databases::Databases, queue::Queue, retire::Retirer, segments::Segments, writer::Writer,
};
use crate::health::thread_or_abort;

/// How often what failed is tried again.
const RETRY: Duration = Duration::from_millis(200);

/// How often the number of databases is looked at.
const LOOK: Duration = Duration::from_secs(2);

/// They end when this is dropped, leaving everything as it is.
pub(super) struct Threads {
    queue: Arc<Queue>,
    segments: Arc<Segments>,
    databases: Arc<Databases>,
    /// The one that writes the pages of large commits comes first.
    running: Mutex<Vec<JoinHandle<()>>>,
}

impl Threads {
    pub fn start(
        queue: Arc<Queue>,
        segments: Arc<Segments>,
        databases: Arc<Databases>,
        mut writer: Writer,
        retirer: Retirer,
    ) -> io::Result<Threads> {
        let threads = Threads {
            queue: queue.clone(),
            segments: segments.clone(),
            databases: databases.clone(),
            running: Mutex::default(),
        };
        threads.spawn("pages", move || {
            while databases.streams.wait() {
                while databases.streams.step(&databases) {}
            }
            while databases.streams.step(&databases) {}
        })?;
        let writing = queue.clone();
        threads.spawn("journal", move || {
            while writing.wait(RETRY) {
                while writer.step() {}
            }
            while writer.step() {}
        })?;
        threads.spawn("retire", move || {
            while !queue.is_stopping() {
                segments.wait_half_full(LOOK);
                if !retirer.work() {
                    thread::sleep(RETRY);
                }
            }
        })?;
        Ok(threads)
    }

    fn spawn(&self, name: &'static str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
        // Without it every object would wait for ever; a crash is something to recover from.
        let thread = thread::Builder::new()
            .name(name.into())
            .spawn(move || thread_or_abort(name, work))?;
        self.running().push(thread);
        Ok(())
    }

    fn running(&self) -> std::sync::MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.running
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Ends them, and returns when they have and what was queued is written.
    pub fn stop(&self) {
        let mut running = self.running();
        let mut threads = running.drain(..);
        // A thread does not panic: that would have ended the process.
        self.databases.streams.stop();
        let _ = threads.next().map(JoinHandle::join);
        // Nothing is queued any more.
        self.queue.stop();
        self.segments.stop();
        for thread in threads {
            let _ = thread.join();
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.stop();
    }
}
