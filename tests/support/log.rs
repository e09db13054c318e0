//! What is logged in the thread of a test.

use std::{
    cell::RefCell,
    io::{self, Write},
    rc::Rc,
    sync::Once,
};

use tracing_subscriber::fmt::MakeWriter;

thread_local! {
    /// What this thread has logged, if a test wants to know.
    static KEPT: RefCell<Option<Rc<RefCell<Vec<u8>>>>> = const { RefCell::new(None) };
}

/// The log of this thread, as long as this is there.
pub struct Log(Rc<RefCell<Vec<u8>>>);

impl Log {
    /// Keeps what this thread logs from now on.
    ///
    /// All threads of the process have one subscriber: `tracing` asks the subscriber of one thread
    /// whether an event is wanted, and remembers the answer for all.
    pub fn keep() -> Log {
        static START: Once = Once::new();
        START.call_once(|| {
            let log = tracing_subscriber::fmt()
                .with_ansi(false)
                .with_writer(OfThisThread);
            tracing::subscriber::set_global_default(log.finish()).expect("it is the only one");
        });
        let log = Rc::default();
        KEPT.set(Some(Rc::clone(&log)));
        Log(log)
    }

    /// How many lines have this text in them.
    pub fn count(&self, text: &str) -> usize {
        let log = self.0.borrow();
        let log = String::from_utf8_lossy(&log);
        log.lines().filter(|line| line.contains(text)).count()
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        KEPT.take();
    }
}

/// Writes to the log of the thread, or nowhere.
struct OfThisThread;

impl MakeWriter<'_> for OfThisThread {
    type Writer = OfThisThread;

    fn make_writer(&self) -> OfThisThread {
        OfThisThread
    }
}

impl Write for OfThisThread {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        KEPT.with_borrow(|kept| {
            if let Some(kept) = kept {
                kept.borrow_mut().extend_from_slice(line);
            }
        });
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
