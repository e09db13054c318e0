//! The places for connections: who finds none is refused at once.

use std::{cell::Cell, sync::Arc, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

/// The least time between two records of the log about connections that were refused.
const SILENCE: Duration = Duration::from_secs(60);

/// The places for the connections of one kind. Each also takes one of the places that all kinds share, of
/// which there are as many as the process has file descriptors for.
pub struct Room {
    /// The key of the setting that limits this kind.
    setting: &'static str,
    limit: usize,
    places: Arc<Semaphore>,
    shared: Shared,
    refused: Cell<u64>,
    told: Cell<Option<Instant>>,
}

/// The places that connections of all kinds share. Clones are of the same places.
#[derive(Clone)]
pub struct Shared {
    limit: usize,
    places: Arc<Semaphore>,
}

/// The place of one connection, which is free again when this is dropped.
pub struct Place {
    _own: OwnedSemaphorePermit,
    _shared: OwnedSemaphorePermit,
}

fn places(limit: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(limit.min(Semaphore::MAX_PERMITS)))
}

impl Shared {
    /// So many places.
    pub fn new(limit: usize) -> Shared {
        Shared {
            limit,
            places: places(limit),
        }
    }
}

impl Room {
    /// Room for `limit` connections, as the setting with the key `setting` says, as long as there are shared
    /// places.
    pub fn new(setting: &'static str, limit: usize, shared: Shared) -> Room {
        Room {
            setting,
            limit,
            places: places(limit),
            shared,
            refused: Cell::default(),
            told: Cell::default(),
        }
    }

    /// A place for one more connection. `None`, which is counted and logged once a minute, if there is none.
    pub fn take(&self) -> Option<Place> {
        let Ok(own) = self.places.clone().try_acquire_owned() else {
            self.refuse(self.setting, self.limit);
            return None;
        };
        let Ok(shared) = self.shared.places.clone().try_acquire_owned() else {
            let files = "the limit of open files (ulimit -n, LimitNOFILE=)";
            self.refuse(files, self.shared.limit);
            return None;
        };
        Some(Place {
            _own: own,
            _shared: shared,
        })
    }

    /// How many connections were refused.
    pub fn refused(&self) -> u64 {
        self.refused.get()
    }

    fn refuse(&self, limited_by: &str, limit: usize) {
        let refused = self.refused.get() + 1;
        self.refused.set(refused);
        let is_news = |told: Instant| told.elapsed() >= SILENCE;
        if self.told.get().is_none_or(is_news) {
            self.told.set(Some(Instant::now()));
            tracing::warn!(
                limited_by,
                limit,
                refused,
                "a connection is refused: as many are open as may be"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_takes_a_place_of_its_kind_and_one_of_all() {
        let shared = Shared::new(3);
        let one = Room::new("limits.connections", 2, shared.clone());
        let other = Room::new("http.connections", 2, shared);
        let held = [one.take(), one.take(), other.take()].map(Option::unwrap);
        assert!(one.take().is_none());
        assert!(other.take().is_none());
        drop(held);
        // What was refused holds no place.
        let again = [one.take(), other.take(), other.take()];
        assert!(again.iter().all(Option::is_some));
        assert!(one.take().is_none());
        assert_eq!((one.refused(), other.refused()), (2, 1));
    }
}
