//! What becomes of commits, for the objects of one thread.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    future::poll_fn,
    mem,
    rc::{Rc, Weak},
    task::{Context, Poll, Waker},
};

use tokio::{
    sync::watch,
    task::{AbortHandle, spawn_local},
};

use super::{Journal, Lsn};
use crate::{Result, health::run_or_abort};

/// Tells when commits are durable. Cheap to clone; a thread that has objects has one.
#[derive(Clone)]
pub struct Commits(Rc<Inner>);

struct Inner {
    journal: Journal,
    /// Who waits for which position. The number tells those apart that wait for the same.
    waiting: RefCell<BTreeMap<(Lsn, u64), Waker>>,
    waited: Cell<u64>,
    /// Objects that wait until the queue has room.
    held_back: RefCell<Vec<Waker>>,
    tasks: RefCell<Vec<AbortHandle>>,
}

impl Commits {
    /// Must be called inside a [`LocalSet`](tokio::task::LocalSet).
    pub fn new(journal: Journal) -> Commits {
        // Before anybody waits: what is decided until the tasks begin is not missed.
        let progress = journal.0.queue.progress();
        #[cfg(any(test, feature = "testing"))]
        let released = journal.0.queue.released();
        let commits = Commits(Rc::new(Inner {
            journal,
            waiting: RefCell::default(),
            waited: Cell::default(),
            held_back: RefCell::default(),
            tasks: RefCell::default(),
        }));
        // Who waits for a commit is known to nobody else.
        let following = follow(Rc::downgrade(&commits.0), progress);
        commits.spawn(run_or_abort("commits", following));
        #[cfg(any(test, feature = "testing"))]
        commits.spawn(work_when_released(Rc::downgrade(&commits.0), released));
        commits
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.0
            .tasks
            .borrow_mut()
            .push(spawn_local(task).abort_handle());
    }

    /// The journal.
    pub fn journal(&self) -> &Journal {
        &self.0.journal
    }

    /// Whether `lsn` and everything before it is on disk. `storage-failed` if that commit never
    /// happened.
    pub fn is_durable(&self, lsn: Lsn) -> Result<bool> {
        self.0.journal.is_durable(lsn)
    }

    /// Whether every commit that is made from now on comes after the one at `lsn`: is durable only if that
    /// is.
    pub fn has_order(&self, lsn: Lsn) -> bool {
        self.0.journal.has_order(lsn)
    }

    /// Waits until `lsn` and everything before it is on disk; `storage-failed` if that commit never
    /// happened.
    pub async fn durable(&self, lsn: Lsn) -> Result<()> {
        let mut wait = Wait {
            inner: &self.0,
            key: None,
        };
        poll_fn(|cx| wait.poll(lsn, cx)).await
    }

    /// Whether more may be added to what waits to be written.
    pub fn has_room(&self) -> bool {
        self.0.journal.0.queue.has_room()
    }

    /// Waits until there is room for more to be written.
    pub async fn room(&self) {
        poll_fn(|cx| {
            if self.has_room() {
                return Poll::Ready(());
            }
            let mut held_back = self.0.held_back.borrow_mut();
            if !held_back.iter().any(|held| held.will_wake(cx.waker())) {
                held_back.push(cx.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }
}

/// One who waits for a position.
struct Wait<'a> {
    inner: &'a Inner,
    key: Option<(Lsn, u64)>,
}

impl Wait<'_> {
    fn poll(&mut self, lsn: Lsn, cx: &Context<'_>) -> Poll<Result<()>> {
        match self.inner.journal.is_durable(lsn) {
            Ok(false) => {}
            Ok(true) => return Poll::Ready(Ok(())),
            Err(error) => return Poll::Ready(Err(error)),
        }
        let waited = &self.inner.waited;
        let key = *self
            .key
            .get_or_insert_with(|| (lsn, waited.replace(waited.get() + 1)));
        self.inner
            .waiting
            .borrow_mut()
            .insert(key, cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.inner.waiting.borrow_mut().remove(&key);
        }
    }
}

/// Wakes those whose commits are decided.
async fn follow(inner: Weak<Inner>, mut progress: watch::Receiver<Lsn>) {
    while progress.changed().await.is_ok() {
        let Some(inner) = inner.upgrade() else { return };
        let decided = *progress.borrow_and_update();
        let mut waiting = inner.waiting.borrow_mut();
        // Few, and what became of a promise does not depend on others.
        let promises = waiting.split_off(&(Lsn::FIRST_PROMISE, 0));
        let later = waiting.split_off(&(decided.next(), 0));
        let ready = mem::replace(&mut *waiting, later);
        drop(waiting);
        promises.into_values().for_each(Waker::wake);
        ready.into_values().for_each(Waker::wake);
        if inner.journal.0.queue.has_room() {
            inner.held_back.take().into_iter().for_each(Waker::wake);
        }
    }
}

/// Where no thread does the journal's work, nobody else does what was held back.
#[cfg(any(test, feature = "testing"))]
async fn work_when_released(inner: Weak<Inner>, mut released: watch::Receiver<bool>) {
    while released.changed().await.is_ok() {
        let Some(inner) = inner.upgrade() else { return };
        inner.journal.work();
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.tasks.take().iter().for_each(AbortHandle::abort);
    }
}

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::Arc, time::Duration};

    use futures::FutureExt;
    use tokio::{task::LocalSet, time::timeout};

    use crate::{
        catalog::Catalog,
        env::{Clock, Disk, sim::SimDisk},
        folder::Layout,
        journal::{Driver, Journal, Settings, testing::Hold},
        storage::Vfs,
    };

    use super::*;

    /// At a start the catalog is waited for before any task has begun.
    #[tokio::test(start_paused = true)]
    async fn a_commit_that_is_decided_before_the_tasks_begin_wakes_what_waits_for_it() {
        let test = async {
            let layout = Layout::new(Path::new("/data"));
            let disk = SimDisk::new(layout.journal());
            disk.sync_folder(layout.root()).unwrap();
            let hold = Hold::default();
            let settings = Settings {
                bytes: 8 << 20,
                driver: Driver::Caller,
                ..Default::default()
            };
            let journal = Journal::open_held(Arc::new(disk), &layout, &settings, hold.clone());
            let journal = journal.unwrap().0;
            hold.hold();
            let vfs = Vfs::register(journal.clone());
            let catalog = Catalog::open(&vfs, Clock::default()).unwrap();
            let commits = Commits::new(journal.clone());
            let mut durable = Box::pin(commits.durable(catalog.newest()));
            assert!(durable.as_mut().now_or_never().is_none(), "it is held");
            hold.release();
            journal.work();
            assert_eq!(commits.is_durable(catalog.newest()), Ok(true));
            let waited = timeout(Duration::from_secs(1), durable).await;
            assert_eq!(waited.expect("it is woken"), Ok(()));
        };
        LocalSet::new().run_until(test).await;
    }
}
