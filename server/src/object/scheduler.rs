//! The scheduler of alarms: when to look at which object.
//!
//! What is due, an object's own database says. The catalog has a time for each object that is never
//! later than its earliest alarm; it may be earlier, or of an alarm that is gone. The scheduler only
//! ever says "look"; the object finds out what there is to do, and notes when to look next.

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, VecDeque},
    panic::AssertUnwindSafe,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use futures::FutureExt;
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    task::spawn_local,
    time::timeout,
};

#[cfg(any(test, feature = "testing"))]
use super::testing::Sabotage;
use super::{
    host::Host,
    ringing::{Ringing, Rung},
};
use crate::{Error, Result, alarm, env, folder::DatabaseId, health::message};

/// How many due objects are read from the catalog at once.
const READ_AHEAD: usize = 1024;

/// When the catalog cannot be read or written, it is tried again after this time.
const TRY_AGAIN_MS: i64 = 1000;

/// Who has not looked after this time takes no place from others any more.
const PLACE_LIMIT: Duration = Duration::from_secs(10);

/// How long after a fault of the vat itself an object is looked at again.
const FAULT_PAUSE: Duration = Duration::from_secs(10);

/// After so many failures of the vat's own to reach an object the pauses grow no longer: a minute.
const LONGEST_PAUSE: u32 = 5;

/// When to look at which object. A host has one.
#[derive(Default)]
pub(super) struct Scheduler {
    /// Objects that are being looked at, or are to be again after a pause, which ends when they are
    /// notified.
    busy: RefCell<HashMap<DatabaseId, Rc<Notify>>>,
    /// Those that are done with. They are busy until the catalog knows when to look next.
    finished: RefCell<Vec<DatabaseId>>,
    /// When it looks next, if nothing happens before.
    looks_at_ms: Cell<i64>,
    changed: Notify,
}

impl Scheduler {
    /// The catalog knows of an alarm of that object at `due_ms`.
    pub fn expect(&self, object: DatabaseId, due_ms: i64) {
        if let Some(pause) = self.busy.borrow().get(&object) {
            pause.notify_one();
        }
        if due_ms < self.looks_at_ms.get() {
            self.changed.notify_one();
        }
    }

    /// There are notes to be written at that time.
    pub fn look_at(&self, at_ms: Option<i64>) {
        if at_ms.is_some_and(|at_ms| at_ms < self.looks_at_ms.get()) {
            self.changed.notify_one();
        }
    }

    /// Makes it look.
    pub fn stir(&self) {
        self.changed.notify_one();
    }

    /// How many objects are being looked at.
    pub fn busy(&self) -> usize {
        self.busy.borrow().len()
    }
}

/// Runs alarms when they are due, for ever.
pub(super) async fn schedule(host: Rc<Host>) {
    let scheduler = &host.scheduler;
    let at_once = host.limits.alarms_at_once.min(Semaphore::MAX_PERMITS);
    let places = Arc::new(Semaphore::new(at_once));
    let mut due = VecDeque::new();
    loop {
        settle(&host);
        let next = look(&host, &places, &mut due).unwrap_or_else(|error| {
            tracing::warn!(%error, "reading which alarms are due");
            Some(host.clock.now_ms() + TRY_AGAIN_MS)
        });
        let wake_ms = next.into_iter().chain(host.notes.due_ms()).min();
        scheduler.looks_at_ms.set(wake_ms.unwrap_or(i64::MAX));
        tokio::select! {
            () = host.clock.sleep_until(wake_ms.unwrap_or(i64::MAX)) => {}
            () = scheduler.changed.notified() => {}
        }
    }
}

/// Tells the catalog what has been noted, and lets those objects be looked at again that are done
/// with.
fn settle(host: &Rc<Host>) {
    let scheduler = &host.scheduler;
    if scheduler.finished.borrow().is_empty() && !host.notes.are_due(host.clock.now_ms()) {
        return;
    }
    match host.write_notes() {
        Ok(()) => {
            let mut busy = scheduler.busy.borrow_mut();
            for object in scheduler.finished.take() {
                busy.remove(&object);
            }
        }
        Err(error) => tracing::warn!(%error, "telling the catalog of objects"),
    }
}

/// Looks at every object that is due, as far as there are places. When to look next; `None`: when
/// something changes.
fn look(
    host: &Rc<Host>,
    places: &Arc<Semaphore>,
    due: &mut VecDeque<DatabaseId>,
) -> Result<Option<i64>> {
    let scheduler = &host.scheduler;
    loop {
        while let Some(object) = due.front().copied() {
            #[cfg(any(test, feature = "testing"))]
            host.panic_once(Sabotage::PanicInScheduler);
            let Ok(place) = places.clone().try_acquire_owned() else {
                return Ok(None);
            };
            due.pop_front();
            let pause = Rc::new(Notify::new());
            let earlier = scheduler.busy.borrow_mut().insert(object, pause.clone());
            debug_assert!(earlier.is_none(), "read while it was not busy");
            let rung = ring(host.clone(), object, place, places.clone(), pause);
            spawn_local(ring_or_again(host.clone(), object, rung));
        }
        let busy = scheduler.busy.borrow();
        let limit = READ_AHEAD + busy.len();
        let now_ms = host.clock.now_ms();
        let rows = host.catalog.alarms_due(now_ms, limit as u32)?;
        due.extend(
            rows.into_iter()
                .map(|(object, _)| object)
                .filter(|object| !busy.contains_key(object)),
        );
        if due.is_empty() {
            let rows = host.catalog.alarms_due(i64::MAX, busy.len() as u32 + 1)?;
            let next = rows.iter().find(|(object, _)| !busy.contains_key(object));
            return Ok(next.map(|(_, due_ms)| *due_ms));
        }
    }
}

/// Has one object look. If the vat itself fails meanwhile, it is looked at again later, and not forgotten.
async fn ring_or_again(host: Rc<Host>, object: DatabaseId, rung: impl Future<Output = ()>) {
    if let Err(panic) = AssertUnwindSafe(rung).catch_unwind().await {
        let why = message(&*panic);
        let services = host.thread.services();
        services.pause("alarms_of_object", &why, FAULT_PAUSE).await;
        host.scheduler.finished.borrow_mut().push(object);
        host.scheduler.stir();
    }
}

/// Has one object look, again and again until it has.
async fn ring(
    host: Rc<Host>,
    object: DatabaseId,
    place: OwnedSemaphorePermit,
    places: Arc<Semaphore>,
    pause: Rc<Notify>,
) {
    #[cfg(any(test, feature = "testing"))]
    host.panic_once(Sabotage::PanicInLook);
    let mut place = Some(place);
    let mut failed = None;
    let mut losses = 0;
    loop {
        let (ringing, mut told) = Ringing::new(failed.clone());
        host.ring(object, ringing);
        let rung = match timeout(PLACE_LIMIT, &mut told).await {
            Ok(rung) => rung,
            Err(_) => {
                place.take();
                host.scheduler.stir();
                told.await
            }
        };
        let (running, error) = match rung {
            Ok(Rung::Done) => break,
            Ok(Rung::Lost { running, error }) => (running, error),
            // It tells before it is dropped.
            Err(_) => unreachable!("a ringing tells"),
        };
        if host.is_stopping() {
            return;
        }
        let is_new = running.is_some() && losses == 0;
        if let Some(mut run) = running {
            // Who panics or aborts is to blame; a disk, or a queue that is full, is not.
            run.counted = matches!(error, Error::ObjectReset(_));
            failed = Some(run);
        }
        // What was running is told to the next instance at once.
        if !is_new {
            let (class, id) = (object.class, object.object);
            tracing::warn!(class, %id, %error, "alarms of an object are due and it cannot be reached");
            place.take();
            host.scheduler.stir();
            let delay = alarm::delay_ms(losses.min(LONGEST_PAUSE), env::random_u64());
            _ = timeout(
                Duration::from_millis(delay.unsigned_abs()),
                pause.notified(),
            )
            .await;
            place = places.clone().acquire_owned().await.ok();
        }
        losses += 1;
    }
    drop(place);
    host.scheduler.finished.borrow_mut().push(object);
    host.scheduler.stir();
}
