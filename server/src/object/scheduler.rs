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
    ringing::{Lost, Ringing},
    runs::is_own_doing,
    suspects::Suspects,
};
use crate::{Error, Result, alarm, env, folder::DatabaseId, panics};

/// How many due objects are read from the catalog at once.
const READ_AHEAD: usize = 1024;

/// When the catalog cannot be read or written, it is tried again after this time.
const TRY_AGAIN_MS: i64 = 1000;

/// The time after which an object that still looks at its alarms takes no place from others.
const PLACE_LIMIT: Duration = Duration::from_secs(10);

/// How long after a fault of the vat itself an object is looked at again.
const FAULT_PAUSE: Duration = Duration::from_secs(10);

/// After so many failed tries to reach an object the pauses grow no longer: a minute, and up to a
/// quarter more.
const LONGEST_PAUSE: u32 = 5;

/// An object that is reset by one alarm after the other is reached again at once so many times, since
/// each of them waits longer than the others. After that there are pauses.
const RESETS_AT_ONCE: u32 = 64;

/// When to look at which object. A host has one.
#[derive(Default)]
pub(super) struct Scheduler {
    /// Objects that are being looked at, or are to be again after a pause. What is notified when their
    /// alarms change: it ends the pause.
    busy: RefCell<HashMap<DatabaseId, Rc<Notify>>>,
    /// Objects that have looked. They are busy until the catalog knows when to look next.
    finished: RefCell<Vec<DatabaseId>>,
    /// When the scheduler looks next, if nothing happens before.
    looks_at_ms: Cell<i64>,
    changed: Notify,
    is_stopped: Cell<bool>,
    /// How many objects have alarms that are due, and could not be reached.
    undelivered: Cell<u64>,
    /// The alarms that may have ended an earlier process.
    pub suspects: Suspects,
}

impl Scheduler {
    /// The catalog knows of an alarm of that object at `due_ms`. `is_awake`: the object can be reached,
    /// so that a pause is over. A try to wake it says nothing of the kind: else each would cause the next.
    pub fn expect(&self, object: DatabaseId, due_ms: i64, is_awake: bool) {
        if is_awake && let Some(changed) = self.busy.borrow().get(&object) {
            changed.notify_waiters();
        }
        if due_ms < self.looks_at_ms.get() {
            self.changed.notify_one();
        }
    }

    /// No further alarm begins.
    pub fn stop(&self) {
        self.is_stopped.set(true);
    }

    /// Whether no further alarm is to begin.
    pub fn is_stopped(&self) -> bool {
        self.is_stopped.get()
    }

    /// How many objects have alarms that are due, and could not be reached.
    pub fn undelivered(&self) -> u64 {
        self.undelivered.get()
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
    let are_on = host.limits.alarms_at_once > 0;
    if are_on {
        scheduler.suspects.begin(&host).await;
    }
    let at_once = host.limits.alarms_at_once.min(Semaphore::MAX_PERMITS);
    let places = Arc::new(Semaphore::new(at_once));
    let mut due = VecDeque::new();
    loop {
        pass_notes_on(&host);
        let next = if are_on {
            look(&host, &places, &mut due).unwrap_or_else(|error| {
                tracing::warn!(%error, "reading which alarms are due");
                Some(host.clock.now_ms() + TRY_AGAIN_MS)
            })
        } else {
            None
        };
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
fn pass_notes_on(host: &Rc<Host>) {
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
            let changed = Rc::new(Notify::new());
            let earlier = scheduler.busy.borrow_mut().insert(object, changed.clone());
            debug_assert!(earlier.is_none(), "read while it was not busy");
            let rung = ring(host.clone(), object, place, places.clone(), changed);
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
        let why = panics::message(&*panic);
        let services = host.thread.services();
        services.pause("alarms_of_object", why, FAULT_PAUSE).await;
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
    changed: Rc<Notify>,
) {
    #[cfg(any(test, feature = "testing"))]
    host.panic_once(Sabotage::PanicInLook);
    let mut place = Some(place);
    let mut runs = Vec::new();
    let mut resets = 0;
    let mut trouble = Trouble::new(&host, object);
    loop {
        let (ringing, mut told) = Ringing::new(runs, changed.clone());
        host.ring(object, ringing);
        let rung = match timeout(PLACE_LIMIT, &mut told).await {
            Ok(rung) => rung,
            Err(_) => {
                place.take();
                host.scheduler.stir();
                told.await
            }
        };
        let lost = match rung {
            Ok(Ok(())) => break,
            Ok(Err(lost)) => lost,
            // It tells before it is dropped.
            Err(_) => unreachable!("a ringing tells"),
        };
        if host.is_stopping() {
            return;
        }
        let Lost {
            runs: lost_runs,
            was_reached,
            error,
        } = lost;
        // What has not ended is told to the next instance.
        runs = lost_runs;
        let pause = if was_reached && is_own_doing(&error) {
            trouble.end();
            resets += 1;
            (resets > RESETS_AT_ONCE).then(|| resets - RESETS_AT_ONCE - 1)
        } else {
            trouble.failed(&error)
        };
        if let Some(earlier) = pause {
            place.take();
            host.scheduler.stir();
            let delay = alarm::delay_ms(earlier.min(LONGEST_PAUSE), env::random_u64());
            let delay = Duration::from_millis(delay.unsigned_abs());
            _ = timeout(delay, changed.notified()).await;
            place = places.clone().acquire_owned().await.ok();
        }
    }
    trouble.end();
    drop(place);
    host.scheduler.finished.borrow_mut().push(object);
    host.scheduler.stir();
}

/// The failed tries to reach one object whose alarms are due.
struct Trouble<'a> {
    host: &'a Host,
    object: DatabaseId,
    /// How often it has failed in a row.
    tries: u32,
    /// The last error that was logged, as text.
    logged: Option<String>,
}

impl Trouble<'_> {
    fn new(host: &Host, object: DatabaseId) -> Trouble<'_> {
        Trouble {
            host,
            object,
            tries: 0,
            logged: None,
        }
    }

    /// A try has failed. How many pauses there have been, if there is to be one.
    fn failed(&mut self, error: &Error) -> Option<u32> {
        self.host.metrics.alarm_not_delivered();
        self.tries += 1;
        // An instance that ends while the look waits for it says nothing of the next.
        let free = u32::from(error.code() == vatwerk::Code::ObjectReset);
        let earlier = (self.tries - 1).checked_sub(free)?;
        let text = error.to_string();
        if self.logged.as_ref() != Some(&text) {
            let (class, id) = self.described();
            tracing::warn!(
                class, %id, error = text,
                "alarms of an object are due and it cannot be reached; it is tried again and again"
            );
            if self.logged.replace(text).is_none() {
                self.count(|objects| objects + 1);
            }
        }
        Some(earlier)
    }

    /// The object was reached.
    fn end(&mut self) {
        self.tries = 0;
        if self.logged.take().is_some() {
            self.count(|objects| objects - 1);
            let (class, id) = self.described();
            tracing::info!(class, %id, "an object is reached again whose alarms were due");
        }
    }

    fn count(&self, change: impl FnOnce(u64) -> u64) {
        let objects = &self.host.scheduler.undelivered;
        objects.set(change(objects.get()));
    }

    /// The class, by its name if it is served, and the object.
    fn described(&self) -> (String, vatwerk::ObjectId) {
        let DatabaseId { class, object } = self.object;
        let served = self.host.classes.by_interface(class);
        let name = served.map_or(format!("{class:#018x}"), |class| class.name.to_owned());
        (name, object)
    }
}

impl Drop for Trouble<'_> {
    fn drop(&mut self) {
        if self.logged.is_some() {
            self.count(|objects| objects - 1);
        }
    }
}
