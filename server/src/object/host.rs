//! Everything that objects share: the classes, the catalog, the journal, and the table of objects
//! that are awake.

use std::{
    any::{Any, TypeId},
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
};

use futures::channel::oneshot;
use tokio::task::AbortHandle;
use vatwerk::ObjectId;

use super::{
    class::{ClassEntry, Registry},
    deletion::{Deleted, delete},
    limits::Limits,
    notes::Notes,
    ringing::Ringing,
    scheduler::{Scheduler, schedule},
    serve::serve,
    slot::{EventTarget, Load, Slot, Status, What},
    sockets::Sockets,
};
use crate::{
    Error, Result,
    call::{Call, Chains},
    catalog::{Activity, Catalog},
    env::Clock,
    folder::DatabaseId,
    journal::{Commits, Lsn},
    metrics::{Eviction, Metrics},
    storage::{self, Backing, Vfs},
};

/// What is remembered of an object, also when it sleeps: of some more than may be awake.
#[derive(Clone, Copy, Default)]
struct Past {
    activated_ms: Option<i64>,
    resets: u64,
}

/// What a [`Host`] is made of.
pub struct Parts {
    /// The classes.
    pub classes: Registry,
    /// The names.
    pub catalog: Catalog,
    /// What becomes of commits.
    pub commits: Commits,
    /// Where objects' databases are.
    pub vfs: Rc<Vfs>,
    /// How much objects may use.
    pub limits: Limits,
    /// Values that the embedding program gives to its classes.
    pub bindings: HashMap<TypeId, Rc<dyn Any>>,
    /// What time it is.
    pub clock: Clock,
    /// What is counted.
    pub metrics: Metrics,
}

/// What objects share. One for each thread that has objects.
pub struct Host {
    /// The classes.
    pub classes: Registry,
    /// The names.
    pub catalog: Catalog,
    /// What becomes of commits.
    pub commits: Commits,
    /// Where objects' databases are.
    pub vfs: Rc<Vfs>,
    /// How much objects may use.
    pub limits: Limits,
    /// Values that the embedding program gives to its classes.
    pub bindings: HashMap<TypeId, Rc<dyn Any>>,
    /// What time it is.
    pub clock: Clock,
    pub(super) chains: Chains,
    pub(super) scheduler: Scheduler,
    pub(super) notes: Notes,
    pub(super) sockets: Sockets,
    scheduling: Cell<Option<AbortHandle>>,
    /// What is counted.
    pub metrics: Metrics,
    slots: RefCell<HashMap<ObjectId, Rc<Slot>>>,
    load: Rc<Load>,
    past: RefCell<HashMap<ObjectId, Past>>,
    asleep: tokio::sync::Notify,
    stopping: Cell<bool>,
    #[cfg(any(test, feature = "testing"))]
    pub(super) sabotage: Cell<Option<super::testing::Sabotage>>,
}

impl Host {
    /// A host without objects awake.
    pub fn new(parts: Parts) -> Rc<Host> {
        let Parts {
            classes,
            catalog,
            commits,
            vfs,
            limits,
            bindings,
            clock,
            metrics,
        } = parts;
        Rc::new(Host {
            classes,
            catalog,
            commits,
            vfs,
            limits,
            bindings,
            clock,
            metrics,
            chains: Chains::default(),
            scheduler: Scheduler::default(),
            notes: Notes::default(),
            sockets: Sockets::default(),
            scheduling: Cell::default(),
            slots: RefCell::default(),
            load: Rc::default(),
            past: RefCell::default(),
            asleep: tokio::sync::Notify::new(),
            stopping: Cell::default(),
            #[cfg(any(test, feature = "testing"))]
            sabotage: Cell::default(),
        })
    }

    /// How many calls are queued or running.
    pub fn calls_in_flight(&self) -> u64 {
        self.load.calls()
    }

    /// How many objects are looking at their alarms.
    pub fn alarms_running(&self) -> u64 {
        self.scheduler.busy() as u64
    }

    /// How many objects are awake.
    pub fn resident(&self) -> usize {
        self.slots.borrow().len()
    }

    /// Brings a call to its object, waking it if need be.
    pub(super) fn deliver(
        self: &Rc<Self>,
        class: &Rc<ClassEntry>,
        id: ObjectId,
        name: Option<&Rc<str>>,
        call: Call,
    ) {
        if !class.answers(call.interface_id) {
            let error = unimplemented(class, &call);
            return call.reply.finish(Err(error.into()));
        }
        match self.slot(class, id, name) {
            Ok(slot) => {
                let chain = call.chain;
                slot.push(self, None, chain, What::Call(EventTarget::Object, call));
            }
            Err(error) => call.reply.finish(Err(error.into())),
        }
    }

    /// Has an object look at its alarms, waking it if need be. One that is not there has none, and does
    /// not come into being for them.
    pub(super) fn ring(self: &Rc<Self>, object: DatabaseId, ringing: Ringing) {
        match self.is_there(object) {
            Ok(true) => {}
            Ok(false) => {
                self.note_alarm(object, Lsn::default(), None);
                return ringing.done();
            }
            Err(error) => return ringing.end(error),
        }
        let slot = self
            .classes
            .by_interface(object.class)
            .and_then(|class| self.slot(class, object.object, None));
        match slot {
            Ok(slot) => slot.push(self, None, None, What::Alarms(ringing)),
            Err(error) => ringing.end(error),
        }
    }

    /// Whether there is anything of an object. It may be listed all the same.
    fn is_there(&self, object: DatabaseId) -> Result<bool> {
        let is_awake = self.slots.borrow().contains_key(&object.object);
        Ok(is_awake || Backing::open(&self.vfs, object)?.exists())
    }

    /// The place of an object, which is woken if need be.
    pub(super) fn slot(
        self: &Rc<Self>,
        class: &Rc<ClassEntry>,
        id: ObjectId,
        name: Option<&Rc<str>>,
    ) -> Result<Rc<Slot>> {
        let awake = self.slots.borrow().get(&id).cloned();
        match awake {
            Some(slot) => {
                if let Some(name) = name {
                    self.learn_name(&slot, name);
                }
                Ok(slot)
            }
            None => self.wake(class, id, name),
        }
    }

    fn wake(
        self: &Rc<Self>,
        class: &Rc<ClassEntry>,
        id: ObjectId,
        name: Option<&Rc<str>>,
    ) -> Result<Rc<Slot>> {
        let limit = self.limits.resident_objects;
        if self.resident() >= limit {
            self.evict_some(Eviction::Objects);
        } else if storage::memory_used() > self.limits.memory_bytes {
            self.evict_some(Eviction::Memory);
        }
        // Those that are asked to go need a moment, and some cannot go.
        if self.resident() >= 2 * limit {
            return Err(Error::Overloaded {
                what: "the memory of the vat (objects awake)",
                limit: 2 * limit as u64,
            });
        }
        let slot = self.insert_slot(class, id, name);
        tokio::task::spawn_local(serve(self.clone(), slot.clone()));
        Ok(slot)
    }

    fn insert_slot(
        &self,
        class: &Rc<ClassEntry>,
        id: ObjectId,
        name: Option<&Rc<str>>,
    ) -> Rc<Slot> {
        let slot = Rc::new(Slot::new(
            id,
            class.clone(),
            name.cloned(),
            self.load.clone(),
            self.metrics.class(class.name),
        ));
        if self.stopping.get() {
            slot.evict(Eviction::Asked);
        }
        self.slots.borrow_mut().insert(id, slot.clone());
        slot
    }

    /// Asks the least recently used of the idle objects to go: a sixteenth of them, so that looking
    /// at all of them pays.
    fn evict_some(&self, why: Eviction) {
        let slots = self.slots.borrow();
        let idle = |slot: &&Rc<Slot>| slot.is_idle() && slot.evicted().is_none();
        let mut idle: Vec<_> = slots.values().filter(idle).collect();
        let some = idle.len().div_ceil(16);
        if some > 0 {
            idle.select_nth_unstable_by_key(some - 1, |slot| slot.last_used());
            idle[..some].iter().for_each(|slot| slot.evict(why));
        }
    }

    /// The instance in `slot` is gone, its database closed.
    pub(super) fn remove(self: &Rc<Self>, slot: &Rc<Slot>) {
        self.slots.borrow_mut().remove(&slot.id);
        self.sockets.asleep(slot.id);
        slot.go();
        let deleted = slot.take_deleted();
        if !deleted.is_empty() {
            self.begin_deletion(&slot.class, slot.id, deleted);
        }
        if self.slots.borrow().is_empty() {
            self.asleep.notify_waiters();
        }
    }

    /// What an object looks like at the moment. Does not wake it.
    pub fn status(&self, id: ObjectId) -> Status {
        let status = self.slots.borrow().get(&id).map(|slot| slot.status());
        let past = self.past.borrow().get(&id).copied().unwrap_or_default();
        Status {
            activated_ms: past.activated_ms,
            resets: past.resets,
            web_sockets: self.sockets.find(id).map_or(0, |open| open.count() as u32),
            ..status.unwrap_or_default()
        }
    }

    /// Puts an object to sleep as soon as nothing of it runs, and waits until it sleeps.
    pub async fn evict(&self, id: ObjectId) {
        let awake = self.slots.borrow().get(&id).cloned();
        if let Some(slot) = awake {
            slot.evict(Eviction::Asked);
            slot.gone().await;
        }
    }

    /// Deletes an object for good: its storage, its alarms and its row in the catalog. An instance
    /// that is awake ends, and its callers get `object-reset`. Whether there was anything; returns
    /// when the end is on disk. Stubs and saved references still name the object, which comes into
    /// being again with the next call.
    pub async fn delete(self: &Rc<Self>, class: &Rc<ClassEntry>, id: ObjectId) -> Result<bool> {
        let (tell, told) = oneshot::channel();
        let awake = self.slots.borrow().get(&id).cloned();
        match awake {
            Some(slot) => slot.delete(tell),
            None => self.begin_deletion(class, id, vec![tell]),
        }
        told.await.unwrap_or(Err(Error::ShuttingDown))
    }

    /// An instance of the object is awake.
    pub(super) fn remember_activation(&self, id: ObjectId, now_ms: i64) {
        self.remember(id, |past| past.activated_ms = Some(now_ms));
    }

    /// An instance of the object was reset.
    pub(super) fn remember_reset(&self, id: ObjectId) {
        self.remember(id, |past| past.resets += 1);
    }

    fn remember(&self, id: ObjectId, change: impl FnOnce(&mut Past)) {
        let mut past = self.past.borrow_mut();
        if past.len() >= 2 * self.limits.resident_objects {
            let slots = self.slots.borrow();
            past.retain(|id, _| slots.contains_key(id));
        }
        change(past.entry(id).or_default());
    }

    fn begin_deletion(self: &Rc<Self>, class: &Rc<ClassEntry>, id: ObjectId, tell: Vec<Deleted>) {
        self.sockets.reset(id);
        let slot = self.insert_slot(class, id, None);
        tokio::task::spawn_local(delete(self.clone(), slot, tell));
    }

    /// An object that is awake, and had no name, is called by one.
    fn learn_name(&self, slot: &Slot, name: &Rc<str>) {
        if !slot.learn_name(name) {
            return;
        }
        // The name still stands for the object if this fails; a listing shows it once the object
        // has been woken by its name.
        let named = self
            .catalog
            .learn_name(slot.class.interface_id, slot.id, name);
        if let Err(error) = named {
            tracing::warn!(id = %slot.id, %error, "noting the name of an object");
        }
    }

    /// How many objects have alarms that are due, and could not be reached.
    pub fn alarms_undelivered(&self) -> u64 {
        self.scheduler.undelivered()
    }

    /// Runs alarms from now on, unless `alarms_at_once` is zero, and tells the catalog of objects. Must be called inside a [`LocalSet`](tokio::task::LocalSet).
    pub fn schedule(self: &Rc<Self>) {
        let task = tokio::task::spawn_local(schedule(self.clone()));
        self.scheduling.set(Some(task.abort_handle()));
    }

    /// Begins no more alarms. Those that run go on.
    pub fn stop_scheduling(&self) {
        self.scheduler.stop();
        if let Some(task) = self.scheduling.take() {
            task.abort();
        }
    }

    /// Notes that no alarm was cut short by the end of this process. To be called when no object is awake.
    pub fn end_alarms(&self) {
        self.scheduler.suspects.end(self);
    }

    /// The object, or the vat for it, has learnt of an alarm: the catalog is told before that is
    /// committed, unless it knows of an earlier one.
    pub(super) fn expect_alarm(&self, object: DatabaseId, due_ms: i64) -> Result<()> {
        if sabotaged!(self, IndexAlarmsLate) {
            return Ok(());
        }
        self.catalog.expect_alarm(object, due_ms)?;
        if !sabotaged!(self, LetSchedulerSleep) {
            let slots = self.slots.borrow();
            let is_awake = slots
                .get(&object.object)
                .is_some_and(|slot| slot.is_awake.get());
            self.scheduler.expect(object, due_ms, is_awake);
        }
        Ok(())
    }

    /// The earliest alarm of an object is this, as of the commit at `lsn`.
    pub(super) fn note_alarm(&self, object: DatabaseId, lsn: Lsn, due_ms: Option<i64>) {
        self.notes.alarm(object, lsn, due_ms, self.clock.now_ms());
        self.scheduler.look_at(self.notes.due_ms());
    }

    /// An object was written, last by the commit at `lsn`.
    pub(super) fn note_activity(&self, object: DatabaseId, lsn: Lsn, activity: Activity) {
        let now_ms = self.clock.now_ms();
        self.notes.activity(object, lsn, activity, now_ms);
        self.scheduler.look_at(self.notes.due_ms());
    }

    /// Tells the catalog what has been noted of objects.
    pub fn write_notes(&self) -> Result<()> {
        if !sabotaged!(self, NoteVoidCommits) {
            self.notes.drop_void(&self.commits);
        }
        self.notes.write(&self.catalog, self.clock.now_ms())
    }

    /// Waits until everything that the catalog says is durable: before that nobody may be told.
    pub async fn catalog_is_durable(&self) -> Result<()> {
        self.commits.durable(self.catalog.newest()).await
    }

    /// Waits until no call is in flight.
    pub async fn calls_finished(&self) {
        self.load.idle().await;
    }

    /// Whether objects are being put to sleep for good.
    pub fn is_stopping(&self) -> bool {
        self.stopping.get()
    }

    /// Puts every object to sleep, and waits until the last database is closed. An object that is
    /// busy, or has handed out capabilities, sleeps when it no longer is.
    pub async fn sleep_all(&self) {
        self.stopping.set(true);
        self.slots
            .borrow()
            .values()
            .for_each(|slot| slot.evict(Eviction::Asked));
        self.all_asleep().await;
    }

    /// Ends every instance that is left, whatever it is doing: those that will not sleep because
    /// they hold capabilities of each other, or are busy. Their databases are closed.
    pub async fn abandon_all(&self) {
        self.slots
            .borrow()
            .values()
            .for_each(|slot| slot.abandon(Error::ShuttingDown));
        self.all_asleep().await;
    }

    async fn all_asleep(&self) {
        loop {
            let asleep = self.asleep.notified();
            if self.slots.borrow().is_empty() {
                return;
            }
            asleep.await;
        }
    }
}

fn unimplemented(class: &ClassEntry, call: &Call) -> Error {
    Error::Unimplemented(format!(
        "class {} does not answer interface @{:#018x}, method {}",
        class.name, call.interface_id, call.method_id
    ))
}
