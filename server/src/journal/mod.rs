//! When a commit is durable.
//!
//! The seam that everything above sees: a commit gets an [`Lsn`], and [`Journal::durable`] tells
//! when that position, and every one before it, is on disk. SQLite runs with `synchronous=FULL`, so
//! a commit is on disk when it has its number.

use std::rc::Rc;

use tokio::sync::watch;

/// The position of a commit among all commits of a vat. Zero is before the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lsn(u64);

/// Numbers commits and tells when they are durable. Cheap to clone; a vat has one.
#[derive(Clone)]
pub struct Journal(Rc<Inner>);

struct Inner {
    newest: std::cell::Cell<Lsn>,
    durable: watch::Sender<Lsn>,
    #[cfg(feature = "testing")]
    hold: testing::Hold,
}

impl Journal {
    /// A journal without commits.
    pub fn new() -> Journal {
        Journal(Rc::new(Inner {
            newest: Default::default(),
            durable: watch::Sender::new(Lsn::default()),
            #[cfg(feature = "testing")]
            hold: Default::default(),
        }))
    }

    /// A journal whose durability `hold` can hold back.
    #[cfg(feature = "testing")]
    pub fn held_by(hold: testing::Hold) -> Journal {
        let journal = Journal(Rc::new(Inner {
            newest: Default::default(),
            durable: watch::Sender::new(Lsn::default()),
            hold: hold.clone(),
        }));
        let (inner, mut released) = (Rc::downgrade(&journal.0), hold.released());
        tokio::task::spawn_local(async move {
            while released.changed().await.is_ok() {
                let Some(inner) = inner.upgrade() else { return };
                if !inner.hold.is_held() {
                    inner.durable.send_replace(inner.newest.get());
                }
            }
        });
        journal
    }

    /// Numbers what SQLite has just committed.
    pub fn committed(&self) -> Lsn {
        let lsn = Lsn(self.0.newest.get().0 + 1);
        self.0.newest.set(lsn);
        #[cfg(feature = "testing")]
        if self.0.hold.is_held() {
            return lsn;
        }
        self.0.durable.send_replace(lsn);
        lsn
    }

    /// The newest commit of all.
    pub fn newest(&self) -> Lsn {
        self.0.newest.get()
    }

    /// Whether `lsn` and everything before it is on disk.
    pub fn is_durable(&self, lsn: Lsn) -> bool {
        *self.0.durable.borrow() >= lsn
    }

    /// Waits until `lsn` and everything before it is on disk.
    pub async fn durable(&self, lsn: Lsn) {
        let mut durable = self.0.durable.subscribe();
        // The sender lives as long as `self`.
        let _ = durable.wait_for(|durable| *durable >= lsn).await;
    }
}

impl Default for Journal {
    fn default() -> Self {
        Journal::new()
    }
}

/// For tests: a disk that takes its time.
#[cfg(feature = "testing")]
pub mod testing {
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
}
