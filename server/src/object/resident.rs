//! The table of objects that have a slot, and which of them make room for others.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeSet, HashMap},
    ops::Bound,
    rc::Rc,
};

use tokio::time::Instant;
use vatwerk::ObjectId;

use super::{life::Why, limits::Limits, slot::Slot};
use crate::{
    Error, Result,
    metrics::{Eviction, Metrics, Overload, Reset},
    storage,
};

/// How many slots are looked at for one object that wakes. Those that are busy are looked at again later.
const LOOKED_AT: usize = 64;

/// The place of a slot in the order in which objects were used.
type Rank = (Instant, ObjectId);

/// The objects that have a slot.
#[derive(Default)]
pub(super) struct Resident {
    slots: RefCell<HashMap<ObjectId, Rc<Slot>>>,
    /// Each slot once, by its rank: when it was used when it was last looked at.
    by_rank: RefCell<BTreeSet<Rank>>,
    /// Where the last look for an object to put to sleep has ended.
    evicted: Cell<Option<Rank>>,
    /// Where the last look for an object to reset has ended.
    reset: Cell<Option<Rank>>,
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
    /// many objects, where none is idle, one that is kept awake only by capabilities that others hold is
    /// reset. `overloaded` if there is none of these either.
    pub fn make_room(&self, limits: &Limits, metrics: &Metrics) -> Result<()> {
        let limit = limits.resident_objects;
        let count = self.count();
        let leaves = if count >= limit {
            self.evict_one(Eviction::Objects)
        } else if storage::memory_used() > limits.memory_bytes {
            self.evict_one(Eviction::Memory)
        } else {
            false
        };
        // Those that are asked to go need a moment, and some cannot go.
        if count < 2 * limit {
            return Ok(());
        }
        if count < 2 * limit + limit.div_ceil(2) && (leaves || self.reset_one_pinned()) {
            return Ok(());
        }
        metrics.overloaded(Overload::Objects);
        Err(Error::Overloaded {
            what: "the memory of the vat (objects awake: twice limits.resident_objects)",
            limit: 2 * limit as u64,
        })
    }

    fn evict_one(&self, why: Eviction) -> bool {
        let idle = |slot: &Slot| slot.is_idle() && slot.evicted().is_none() && !slot.is_ending();
        let found = self.least_recently_used(&self.evicted, idle);
        if let Some(slot) = &found {
            slot.evict(why);
        }
        found.is_some()
    }

    fn reset_one_pinned(&self) -> bool {
        let pinned = |slot: &Slot| slot.is_quiet() && slot.pins() > 0 && !slot.is_ending();
        let Some(slot) = self.least_recently_used(&self.reset, pinned) else {
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

    /// The least recently used of the slots that `fits`, among the first few after `place`, which moves on
    /// by those that are looked at: what does not fit is not looked at again before all others were.
    fn least_recently_used(
        &self,
        place: &Cell<Option<Rank>>,
        fits: impl Fn(&Slot) -> bool,
    ) -> Option<Rc<Slot>> {
        let mut looked_at = 0;
        while looked_at < LOOKED_AT {
            let (rank, id) = self.after(place.get())?;
            let slot = self.find(id)?;
            let used = slot.last_used();
            if used > rank {
                // At most once for each use.
                self.rank(&slot, used);
                continue;
            }
            looked_at += 1;
            place.set(Some((rank, id)));
            if fits(&slot) {
                return Some(slot);
            }
        }
        None
    }

    /// The slot that comes next in the ranking; after the last one the first.
    fn after(&self, place: Option<Rank>) -> Option<Rank> {
        let by_rank = self.by_rank.borrow();
        let after = place.map_or(Bound::Unbounded, Bound::Excluded);
        let next = by_rank.range((after, Bound::Unbounded)).next();
        next.or_else(|| by_rank.first()).copied()
    }
}
