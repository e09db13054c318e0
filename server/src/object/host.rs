//! Everything that objects share: the classes, the catalog, the journal, and the table of objects
//! that are awake.

use std::{
    any::{Any, TypeId},
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    time::Duration,
};

use vatwerk::ObjectId;

use super::{
    class::{ClassEntry, Registry},
    serve::serve,
    slot::{EventTarget, Load, Slot},
};
use crate::{
    Error, Result,
    call::Call,
    catalog::Catalog,
    journal::Commits,
    storage::{self, Vfs},
};

/// How much objects may use.
#[derive(Clone, Debug)]
pub struct Limits {
    /// How long an object stays awake without a call.
    pub idle: Duration,
    /// How long `create` and `activate` may take together.
    pub activation: Duration,
    /// How long a transaction capability may stay open.
    pub transaction: Duration,
    /// How many objects may be awake; above it the least recently used that are idle are put to
    /// sleep. Above twice as many, further ones are not woken: `overloaded`.
    pub resident_objects: usize,
    /// How many calls may be queued or running in one object.
    pub calls_per_object: u64,
    /// How many calls may be queued or running in the whole vat.
    pub calls_per_vat: u64,
    /// How each object's database is opened.
    pub storage: storage::Settings,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            idle: Duration::from_secs(10),
            activation: Duration::from_secs(30),
            transaction: Duration::from_millis(vatwerk::limit_capnp::MAX_TRANSACTION_MS.into()),
            resident_objects: 10_000,
            calls_per_object: 4096,
            calls_per_vat: 65_536,
            storage: storage::Settings::default(),
        }
    }
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
    slots: RefCell<HashMap<ObjectId, Rc<Slot>>>,
    load: Rc<Load>,
    asleep: tokio::sync::Notify,
    stopping: Cell<bool>,
}

impl Host {
    /// A host without objects awake.
    pub fn new(
        classes: Registry,
        catalog: Catalog,
        commits: Commits,
        vfs: Rc<Vfs>,
        limits: Limits,
        bindings: HashMap<TypeId, Rc<dyn Any>>,
    ) -> Rc<Host> {
        Rc::new(Host {
            classes,
            catalog,
            commits,
            vfs,
            limits,
            bindings,
            slots: RefCell::default(),
            load: Rc::default(),
            asleep: tokio::sync::Notify::new(),
            stopping: Cell::default(),
        })
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
        let awake = self.slots.borrow().get(&id).cloned();
        let slot = match awake {
            Some(slot) => {
                if let Some(name) = name {
                    self.learn_name(&slot, name);
                }
                slot
            }
            None => match self.wake(class, id, name) {
                Ok(slot) => slot,
                Err(error) => return call.reply.finish(Err(error.into())),
            },
        };
        slot.push(EventTarget::Object, None, call, &self.limits);
    }

    fn wake(
        self: &Rc<Self>,
        class: &Rc<ClassEntry>,
        id: ObjectId,
        name: Option<&Rc<str>>,
    ) -> Result<Rc<Slot>> {
        let limit = self.limits.resident_objects;
        if self.resident() >= limit {
            self.evict_some();
        }
        // Those that are asked to go need a moment, and some cannot go.
        if self.resident() >= 2 * limit {
            return Err(Error::Overloaded {
                what: "the memory of the vat (objects awake)",
                limit: 2 * limit as u64,
            });
        }
        let slot = Rc::new(Slot::new(
            id,
            class.clone(),
            name.cloned(),
            self.load.clone(),
        ));
        if self.stopping.get() {
            slot.evict();
        }
        self.slots.borrow_mut().insert(id, slot.clone());
        tokio::task::spawn_local(serve(self.clone(), slot.clone()));
        Ok(slot)
    }

    /// Asks the least recently used of the idle objects to go: a sixteenth of them, so that looking
    /// at all of them pays.
    fn evict_some(&self) {
        let slots = self.slots.borrow();
        let idle = |slot: &&Rc<Slot>| slot.is_idle() && !slot.is_evicted();
        let mut idle: Vec<_> = slots.values().filter(idle).collect();
        let some = idle.len().div_ceil(16);
        if some > 0 {
            idle.select_nth_unstable_by_key(some - 1, |slot| slot.last_used());
            idle[..some].iter().for_each(|slot| slot.evict());
        }
    }

    /// The instance in `slot` is gone, its database closed.
    pub(super) fn remove(&self, slot: &Rc<Slot>) {
        let mut slots = self.slots.borrow_mut();
        if slots
            .get(&slot.id)
            .is_some_and(|current| Rc::ptr_eq(current, slot))
        {
            slots.remove(&slot.id);
        }
        if slots.is_empty() {
            self.asleep.notify_waiters();
        }
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

    /// Waits until everything that the catalog says is durable: before that nobody may be told.
    pub async fn catalog_is_durable(&self) -> Result<()> {
        self.commits.durable(self.catalog.newest()).await
    }

    /// Waits until no call is in flight.
    pub async fn calls_finished(&self) {
        self.load.idle().await;
    }

    /// Puts every object to sleep, and waits until the last database is closed. An object that is
    /// busy, or has handed out capabilities, sleeps when it no longer is.
    pub async fn sleep_all(&self) {
        self.stopping.set(true);
        self.slots.borrow().values().for_each(|slot| slot.evict());
        self.all_asleep().await;
    }

    /// Ends every instance that is left, whatever it is doing: those that will not sleep because
    /// they hold capabilities of each other, or are busy. Their databases are closed.
    pub async fn abandon_all(&self) {
        self.slots.borrow().values().for_each(|slot| slot.abandon());
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
