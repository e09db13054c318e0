//! The table of objects that have a slot, and which of them make room for others.

use std::{
    cell::RefCell,
    collections::{BTreeSet, HashMap},
    rc::Rc,
};

use tokio::time::Instant;
use vatwerk::ObjectId;

use super::{life::Why, limits::Limits, slot::Slot};
use crate::{
    Error, Result,
    metrics::{Eviction, Metrics, Reset},
    storage,
};

/// How many slots are looked at for one object that wakes. Those that are busy are looked at again later.
const LOOKED_AT: usize = 64;

/// The objects that have a slot.
#[derive(Default)]
pub(super) struct Resident {
    slots: RefCell<HashMap<ObjectId, Rc<Slot>>>,
    /// Each slot once, by its rank: when it was used when it was last looked at.
    by_rank: RefCell<BTreeSet<(Instant, ObjectId)>>,
    none: tokio::sync::Notify,
}

impl Resident {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.slots.borrow().len()
    }

    /// The slot of an object, if it has one.
    pub fn find(&self, id: ObjectId) -> Option<Rc<Slot>> {
        self.slots.borrow().get(&id).cloned()
    }

    /// Takes in a new slot.
    pub fn insert(&self, slot: &Rc<Slot>) {
        self.rank(slot, slot.last_used());
        self.slots.borrow_mut().insert(slot.id, slot.clone());
    }

    /// Takes out the slot of an object.
    pub fn remove(&self, id: ObjectId) {
        if let Some(slot) = self.slots.borrow_mut().remove(&id) {
            self.by_rank.borrow_mut().remove(&(slot.rank.get(), id));
        }
        if self.slots.borrow().is_empty() {
            self.none.notify_waiters();
        }
    }

    fn rank(&self, slot: &Slot, rank: Instant) {
        let mut by_rank = self.by_rank.borrow_mut();
        by_rank.remove(&(slot.rank.replace(rank), slot.id));
        by_rank.insert((rank, slot.id));
    }

    /// Does something to every slot.
    pub fn each(&self, what: impl Fn(&Slot)) {
        self.find_all(|_| true).iter().for_each(|slot| what(slot));
    }

    /// The slots that `fit`.
    pub fn find_all(&self, fit: impl Fn(&Slot) -> bool) -> Vec<Rc<Slot>> {
        let slots = self.slots.borrow();
        slots.values().filter(|slot| fit(slot)).cloned().collect()
    }

    /// Waits until there is no slot.
    pub async fn none(&self) {
        loop {
            let none = self.none.notified();
            if self.slots.borrow().is_empty() {
                return;
            }
            none.await;
        }
    }

    /// Sees to it that another object may wake: above `resident_objects`, or with SQLite's memory full, one
    /// idle object is asked to sleep for each that wakes, the least recently used first. Above twice as
    /// many objects, one that is kept awake only by capabilities it has handed out is reset. `overloaded`
    /// if all are busy.
    pub fn make_room(&self, limits: &Limits, metrics: &Metrics) -> Result<()> {
        let limit = limits.resident_objects;
        let count = self.count();
        if count >= limit {
            self.evict_one(Eviction::Objects);
        } else if storage::memory_used() > limits.memory_bytes {
            self.evict_one(Eviction::Memory);
        }
        // Those that are asked to go need a moment, and some cannot go.
        if count < 2 * limit {
            return Ok(());
        }
        if count < 2 * limit + limit.div_ceil(2) && self.reset_one_pinned() {
            return Ok(());
        }
        metrics.overloaded();
        Err(Error::Overloaded {
            what: "the memory of the vat (objects awake)",
            limit: 2 * limit as u64,
        })
    }

    fn evict_one(&self, why: Eviction) {
        let idle = |slot: &Slot| slot.is_idle() && slot.evicted().is_none();
        if let Some(slot) = self.least_recently_used(idle) {
            slot.evict(why);
        }
    }

    fn reset_one_pinned(&self) -> bool {
        let pinned =
            |slot: &Slot| slot.is_quiet() && slot.handed_out.get() > 0 && !slot.is_ending();
        let Some(slot) = self.least_recently_used(pinned) else {
            return false;
        };
        let error = Error::ObjectReset(
            "too many objects are awake (limits.resident_objects), and this one was kept awake only by \
             capabilities that it had handed out"
                .into(),
        );
        slot.end(Why::Reset(Reset::Pressure, error));
        true
    }

    /// The least recently used of the slots that `fits`, among the first few. Each that is looked at moves
    /// back, so that the next look finds others.
    fn least_recently_used(&self, fits: impl Fn(&Slot) -> bool) -> Option<Rc<Slot>> {
        for _ in 0..LOOKED_AT {
            let first = self.by_rank.borrow().first().copied();
            let (rank, id) = first?;
            let slot = self.find(id)?;
            let used = slot.last_used();
            if used > rank {
                self.rank(&slot, used);
                continue;
            }
            self.rank(&slot, Instant::now());
            if fits(&slot) {
                return Some(slot);
            }
        }
        None
    }
}
