//! The two threads of a journal.

use std::{
    io,
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
    time::Duration,
};

use super::{queue::Queue, retire::Retirer, segments::Segments, writer::Writer};
use crate::health::thread_or_abort;

/// How often what failed is tried again.
const RETRY: Duration = Duration::from_millis(200);

/// How often the number of databases is looked at.
const LOOK: Duration = Duration::from_secs(2);

/// They end when this is dropped, leaving everything as it is.
pub(super) struct Threads {
    queue: Arc<Queue>,
    segments: Arc<Segments>,
    running: Mutex<Vec<JoinHandle<()>>>,
}

impl Threads {
    pub fn start(
        queue: Arc<Queue>,
        segments: Arc<Segments>,
        mut writer: Writer,
        retirer: Retirer,
    ) -> io::Result<Threads> {
        let threads = Threads {
            queue: queue.clone(),
            segments: segments.clone(),
            running: Mutex::default(),
        };
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

    /// Ends both, and returns when they have and what was queued is written.
    pub fn stop(&self) {
        self.queue.stop();
        self.segments.stop();
        for thread in self.running().drain(..) {
            // It does not panic: that would have ended the process.
            let _ = thread.join();
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.stop();
    }
}
