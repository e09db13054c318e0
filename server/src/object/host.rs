//! Everything that objects share: the classes, the catalog, the journal, and the table of objects
//! that are awake.

use std::{
    any::{Any, TypeId},
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    time::Duration,
};

use futures::channel::oneshot;
use tokio::{
    task::AbortHandle,
    time::{Instant, timeout},
};
use vatwerk::ObjectId;

use super::{
    class::{ClassEntry, Registry},
    event::{EventTarget, What},
    gate::{COMMIT_LIMIT, stuck},
    life::Why,
    limits::Limits,
    notes::Notes,
    resident::Resident,
    ringing::Ringing,
    scheduler::{Scheduler, schedule},
    serve::serve,
    slot::{Load, Slot, Status},
    sockets::Sockets,
    troubles::Troubles,
    waking::Waking,
};
use crate::{
    Error, Result,
    call::{Call, Chains},
    catalog::{Activity, Catalog},
    env::Clock,
    fault,
    folder::DatabaseId,
    health::Thread,
    journal::{Commits, Lsn},
    metrics::{Eviction, Metrics, Reset},
    storage::{Backing, Vfs},
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
    /// The thread of its objects.
    pub thread: Thread,
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
    /// When serial objects that wait for each other were last looked for.
    pub(super) deadlocks_looked_for: Cell<Option<Instant>>,
    /// The objects that are in `create` or `activate`.
    pub(super) waking: Waking,
    pub(super) scheduler: Scheduler,
    pub(super) notes: Notes,
    pub(super) sockets: Sockets,
    pub(super) troubles: Troubles,
    scheduling: Cell<Option<AbortHandle>>,
    /// What is counted.
    pub metrics: Metrics,
    pub(super) resident: Resident,
    /// The thread of its objects: whoever asks from outside what holds it asks for this one's health.
    pub thread: Thread,
    load: Rc<Load>,
    past: RefCell<HashMap<ObjectId, Past>>,
    stopping: Cell<Stopping>,
    stops: tokio::sync::watch::Sender<bool>,
    #[cfg(any(test, feature = "testing"))]
    pub(super) sabotage: Cell<Option<super::testing::Sabotage>>,
}

/// How far a vat is on its way to its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stopping {
    /// The vat serves.
    #[default]
    No,
    /// Objects sleep as soon as they are idle.
    Sleeping,
    /// Instances end, whatever they do, and events are refused.
    Abandoning,
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
            thread,
        } = parts;
        Rc::new(Host {
            classes,
            catalog,
            commits,
            vfs,
            sockets: Sockets::new(&limits),
            limits,
            bindings,
            clock,
            metrics,
            thread,
            chains: Chains::default(),
            deadlocks_looked_for: Cell::default(),
            waking: Waking::default(),
            scheduler: Scheduler::default(),
            notes: Notes::default(),
            troubles: Troubles::default(),
            scheduling: Cell::default(),
            resident: Resident::default(),
            load: Rc::default(),
            past: RefCell::default(),
            stopping: Cell::default(),
            stops: tokio::sync::watch::Sender::new(false),
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
        self.resident.count()
    }

    /// Brings a call to its object, or to a facet of it, waking it if need be.
    pub(super) fn deliver(
        self: &Rc<Self>,
        class: &Rc<ClassEntry>,
        id: ObjectId,
        name: Option<&Rc<str>>,
        target: EventTarget,
        call: Call,
    ) {
        if matches!(target, EventTarget::Object) && !class.answers(call.interface_id) {
            let error = unimplemented(class, &call);
            return call.reply.finish(Err(fault::not_delivered(error)));
        }
        match self.slot(class, id, name) {
            Ok(slot) => {
                let chain = call.chain;
                slot.push(self, None, chain, What::Call(target, call));
            }
            Err(error) => {
                let metrics = self.metrics.class(class.name);
                metrics.call(Err(error.code()), Duration::ZERO);
                call.reply.finish(Err(fault::not_delivered(error)));
            }
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
        let is_awake = self.resident.find(object.object).is_some();
        if is_awake || Backing::open(&self.vfs, object)?.exists() {
            return Ok(true);
        }
        self.refuse_if_written(object)?;
        Ok(false)
    }

    /// Refuses an object of which there is nothing, if the catalog knows that it was written: it must not
    /// begin anew as if it had never been.
    pub(super) fn refuse_if_written(&self, object: DatabaseId) -> Result<()> {
        if !self.catalog.is_written(object)? {
            return Ok(());
        }
        let path = self.vfs.journal().databases().path(object);
        let told = format!(
            "the file of the object is gone or empty: {}. Put it back while the vat is stopped; if it is lost, \
             delete the object with `vatwerk objects delete`, and its next call makes it anew",
            path.display()
        );
        Err(Error::StorageDamaged(told))
    }

    /// The place of an object, which is woken if need be.
    pub(super) fn slot(
        self: &Rc<Self>,
        class: &Rc<ClassEntry>,
        id: ObjectId,
        name: Option<&Rc<str>>,
    ) -> Result<Rc<Slot>> {
        match self.resident.find(id) {
            Some(slot) => {
                if let Some(name) = name {
                    self.learn_name(&slot, name);
                }
                Ok(slot)
            }
            None => self.new_slot(class, id, name),
        }
    }

    fn new_slot(
        self: &Rc<Self>,
        class: &Rc<ClassEntry>,
        id: ObjectId,
        name: Option<&Rc<str>>,
    ) -> Result<Rc<Slot>> {
        self.resident.make_room(&self.limits, &self.metrics)?;
        let slot = Rc::new(Slot::new(
            id,
            class.clone(),
            name.cloned(),
            self.load.clone(),
            self.metrics.class(class.name),
        ));
        if self.is_stopping() {
            slot.evict(Eviction::Asked);
        }
        self.resident.insert(&slot);
        tokio::task::spawn_local(serve(self.clone(), slot.clone()));
        Ok(slot)
    }

    /// Takes a slot out of which nothing is wanted: there is no instance, and its database is closed.
    pub(super) fn remove(&self, slot: &Rc<Slot>) {
        self.resident.remove(slot.id);
        self.sockets.asleep(slot.id);
        slot.rest();
    }

    /// What an object looks like at the moment. Does not wake it.
    pub fn status(&self, id: ObjectId) -> Status {
        let status = self.resident.find(id).map(|slot| slot.status());
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
        if let Some(slot) = self.resident.find(id) {
            slot.evict(Eviction::Asked);
            slot.rested().await;
        }
    }

    /// Ends the instance of an object, whatever it is doing, and waits until it is gone; returns whether
    /// there was one. Calls that run get `object-reset`; those that wait go to the next instance.
    pub async fn reset(&self, id: ObjectId) -> bool {
        let Some(slot) = self.resident.find(id) else {
            return false;
        };
        let error = Error::ObjectReset("an operator reset the object".into());
        slot.end(Why::Reset(Reset::Asked, error));
        slot.rested().await;
        true
    }

    /// Deletes an object for good: its storage, its alarms and its row in the catalog. An instance
    /// that is awake ends, and its callers get `object-reset`. Whether there was anything; returns
    /// when the end is on disk. Stubs and saved references still name the object, which comes into
    /// being again with the next call.
    pub async fn delete(self: &Rc<Self>, class: &Rc<ClassEntry>, id: ObjectId) -> Result<bool> {
        let (tell, told) = oneshot::channel();
        self.slot(class, id, None)?.delete(tell);
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
            past.retain(|id, _| self.resident.find(*id).is_some());
        }
        change(past.entry(id).or_default());
    }

    /// Notes the name of an object that is awake and had none.
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
            self.tell_failed(slot, "the name of an object is not noted", &error);
        }
    }

    /// How many objects have alarms that are due, and could not be reached.
    pub fn alarms_undelivered(&self) -> u64 {
        self.scheduler.undelivered()
    }

    /// Runs alarms from now on, unless `alarms_at_once` is zero, and tells the catalog of objects. Must be
    /// called inside a [`LocalSet`](tokio::task::LocalSet).
    pub fn schedule(self: &Rc<Self>) {
        let host = self.clone();
        let begin = move || schedule(host.clone());
        let task = self.thread.services().run("alarms", begin);
        self.scheduling.set(Some(task));
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
            let is_awake = self
                .resident
                .find(object.object)
                .is_some_and(|slot| slot.is_awake());
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
        let failures = self.catalog.failures();
        if !sabotaged!(self, NoteVoidCommits) {
            self.notes.drop_void(&self.commits);
        }
        let now_ms = self.clock.now_ms();
        self.notes
            .write(&self.catalog, &self.commits, failures, now_ms)
    }

    /// Waits until everything that the catalog says is durable: before that nobody may be told.
    /// `storage-failed` if a commit of it has not happened, `outcome-unknown` after 30 s.
    pub async fn catalog_is_durable(&self) -> Result<()> {
        let durable = self.commits.durable(self.catalog.newest());
        let waited = timeout(COMMIT_LIMIT, durable).await;
        waited.unwrap_or_else(|_| Err(stuck()))
    }

    /// Waits until no call is in flight.
    pub async fn calls_finished(&self) {
        self.load.idle().await;
    }

    /// Whether objects are being put to sleep for good.
    pub fn is_stopping(&self) -> bool {
        self.stopping.get() != Stopping::No
    }

    /// Whether instances are ended whatever they do, and nothing begins any more.
    pub(super) fn is_abandoned(&self) -> bool {
        self.stopping.get() == Stopping::Abandoning
    }

    /// Has every object sleep, for good, as soon as it is neither busy nor has handed out capabilities; and
    /// tells those that have asked that the vat stops.
    pub fn sleep_when_idle(&self) {
        self.stopping.set(Stopping::Sleeping);
        self.stops.send_replace(true);
        self.resident.each(|slot| slot.evict(Eviction::Asked));
    }

    /// Puts every object to sleep, and waits until the last database is closed. An object that is
    /// busy, or has handed out capabilities, sleeps when it no longer is.
    pub async fn sleep_all(&self) {
        self.sleep_when_idle();
        self.resident.none().await;
    }

    /// Waits until the vat is told to stop.
    pub(super) fn stops(&self) -> impl Future<Output = ()> + use<> {
        let mut stops = self.stops.subscribe();
        async move {
            // If there is no host any more, it has.
            let _ = stops.wait_for(|stops| *stops).await;
        }
    }

    /// Ends every instance that is left, whatever it is doing: those that will not sleep because
    /// they hold capabilities of each other, or are busy. Their databases are closed.
    pub async fn abandon_all(&self) {
        self.stopping.set(Stopping::Abandoning);
        self.resident.each(|slot| slot.end(Why::Stopping));
        self.resident.none().await;
    }
}

fn unimplemented(class: &ClassEntry, call: &Call) -> Error {
    Error::Unimplemented(format!(
        "class {} does not answer interface @{:#018x}, method {}",
        class.name, call.interface_id, call.method_id
    ))
}
