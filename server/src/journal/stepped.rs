//! For tests: the writer and the retirer of a journal, which take steps when they are told to, in one thread.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use super::{retire::Retirer, segment::JournalError, segments::Segments, writer::Writer};

/// How many segments a step of the writer begins at most: one, another if the first fails, and one that says
/// that both did. With as many free it waits for nobody.
const MOST_BEGUN: usize = 3;

/// The writer and the retirer of one journal.
pub(super) struct Stepped {
    segments: Arc<Segments>,
    writer: Arc<Mutex<Writer>>,
    retirer: Mutex<Retirer>,
    /// Whether the writer takes a step at a pause of the retirer: a bit for each, the lowest for the next.
    pauses: Arc<AtomicU64>,
}

impl Stepped {
    pub fn new(segments: Arc<Segments>, writer: Writer, mut retirer: Retirer) -> Stepped {
        let (writer, pauses) = (Arc::new(Mutex::new(writer)), Arc::<AtomicU64>::default());
        let (stepped, drawn, room) = (writer.clone(), pauses.clone(), segments.clone());
        retirer.meanwhile = Some(Box::new(move || {
            let bits = drawn.load(Ordering::Relaxed);
            drawn.store(bits >> 1, Ordering::Relaxed);
            if bits & 1 == 1 && room.room() >= MOST_BEGUN {
                lock(&stepped).step();
            }
        }));
        Stepped {
            segments,
            writer,
            retirer: Mutex::new(retirer),
            pauses,
        }
    }

    /// Writes one batch. Where the writer would have to wait for a segment, the retirer works first.
    pub fn step_writer(&self) -> bool {
        if self.segments.room() < MOST_BEGUN {
            self.pauses.store(0, Ordering::Relaxed);
            self.step_retirer();
        }
        lock(&self.writer).step()
    }

    pub fn step_retirer(&self) {
        lock(&self.retirer).work();
    }

    pub fn write_back(&self) -> Result<(), JournalError> {
        lock(&self.retirer).write_back()
    }

    pub fn step_writer_at_pauses(&self, bits: u64) {
        self.pauses.store(bits, Ordering::Relaxed);
    }
}

/// Nothing panics while it has a lock.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
