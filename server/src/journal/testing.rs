//! For tests: a disk that takes its time.

use tokio::sync::watch;

/// Holds back the durability of every commit made meanwhile. Cheap to clone, from any thread.
#[derive(Clone)]
pub struct Hold(watch::Sender<bool>);

impl Default for Hold {
    fn default() -> Self {
        Hold(watch::Sender::new(false))
    }
}

impl Hold {
    /// From now on no commit becomes durable.
    pub fn hold(&self) {
        self.0.send_replace(true);
    }

    /// Every commit made so far becomes durable, and later ones at once.
    pub fn release(&self) {
        self.0.send_replace(false);
    }

    pub(super) fn is_held(&self) -> bool {
        *self.0.borrow()
    }

    pub(super) fn released(&self) -> watch::Receiver<bool> {
        self.0.subscribe()
    }
}

#[cfg(test)]
impl super::Journal {
    /// Whether nothing can be committed at the moment. Unlike what a commit asks, it does not try
    /// whether that is over.
    pub(crate) fn is_down(&self) -> bool {
        self.0.queue.is_down()
    }

    /// How many segments count.
    pub(crate) fn live_segments(&self) -> usize {
        self.0.segments.live().len()
    }
}
