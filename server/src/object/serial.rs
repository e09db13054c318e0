//! Strictly serial delivery, for classes that ask for it.

use std::{cell::RefCell, collections::HashMap, rc::Rc, time::Duration};

use tokio::time::Instant;

use super::{
    event::{Event, What},
    host::Host,
    instance::Instance,
    slot::Slot,
};
use crate::{Error, call::Chain};

/// How long a call waits for a serial object before the vat looks whether it waits for itself.
const PATIENCE: Duration = Duration::from_secs(1);

/// Whose turn it is, of an object that takes one call at a time. While a call runs, only calls of its
/// own chain come in: those that it has caused itself, and without which it might never end.
#[derive(Clone, Default)]
pub(super) struct Serial(Rc<RefCell<Option<Running>>>);

struct Running {
    chain: Chain,
    /// One for each event that runs: the chain of its caller, if that is another.
    callers: Vec<Option<Chain>>,
}

impl Serial {
    /// Whether an event of `chain` may be delivered.
    pub fn admits(&self, chain: Chain) -> bool {
        self.holder().is_none_or(|holder| holder == chain)
    }

    /// Whether an event of `chain` runs.
    pub fn is_held_by(&self, chain: Chain) -> bool {
        self.holder() == Some(chain)
    }

    /// The chain whose turn it is, if an event runs.
    pub fn holder(&self) -> Option<Chain> {
        self.0.borrow().as_ref().map(|running| running.chain)
    }

    /// Delivers an event of `chain`, which runs until what is returned is dropped. `caller` is the chain
    /// that waits for it, if that is another.
    pub fn enter(&self, chain: Chain, caller: Option<Chain>) -> Entered {
        let mut running = self.0.borrow_mut();
        let running = running.get_or_insert_with(|| Running {
            chain,
            callers: Vec::new(),
        });
        running.callers.push(caller);
        Entered {
            serial: self.clone(),
            caller,
        }
    }
}

/// An event that runs.
pub(super) struct Entered {
    serial: Serial,
    caller: Option<Chain>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut running = self.serial.0.borrow_mut();
        if let Some(one) = &mut *running {
            let callers = &mut one.callers;
            if let Some(place) = callers.iter().position(|caller| *caller == self.caller) {
                callers.swap_remove(place);
            }
            if callers.is_empty() {
                *running = None;
            }
        }
    }
}

/// Which chains of a vat wait for which, at one moment.
#[derive(Default)]
struct Waits(HashMap<Chain, Vec<(Chain, Rc<Slot>)>>);

impl Waits {
    /// Looks at all serial objects that a chain has.
    fn of(slots: Vec<Rc<Slot>>) -> Waits {
        let mut waits = Waits::default();
        for slot in slots {
            let Serial(running) = &slot.serial;
            let running = running.borrow();
            let Some(Running { chain, callers }) = &*running else {
                continue;
            };
            for caller in callers.iter().flatten() {
                waits.add(*caller, *chain, &slot);
            }
            slot.each_event(|event| {
                for waiting in [Some(event.chain), event.caller].into_iter().flatten() {
                    waits.add(waiting, *chain, &slot);
                }
            });
        }
        waits
    }

    fn add(&mut self, waiting: Chain, holder: Chain, slot: &Rc<Slot>) {
        if waiting != holder {
            let holders = self.0.entry(waiting).or_default();
            // A chain may wait with many calls.
            if holders.last().is_none_or(|(last, _)| *last != holder) {
                holders.push((holder, slot.clone()));
            }
        }
    }

    /// The chains that `chain` waits for, directly or by way of others, and of each the chain before it on
    /// the way and the object that it has.
    fn reached_from(&self, chain: Chain) -> HashMap<Chain, (Chain, Rc<Slot>)> {
        let mut reached = HashMap::new();
        let mut next = vec![chain];
        while let Some(waiting) = next.pop() {
            for (holder, slot) in self.0.get(&waiting).into_iter().flatten() {
                if *holder != chain && !reached.contains_key(holder) {
                    reached.insert(*holder, (waiting, slot.clone()));
                    next.push(*holder);
                }
            }
        }
        reached
    }
}

impl Instance {
    /// Whether events wait because another chain has the object.
    pub fn waits_for_chain(&self) -> bool {
        self.slot.class.is_serial && self.slot.is_waited_for()
    }
}

impl Host {
    /// Refuses what waits for serial objects and would wait for ever: its chain has another object, which
    /// the chain that has this one waits for, directly or by way of more objects. Looks at all objects, once
    /// in a second at most, whichever of them asks. Returns when to ask again.
    pub(super) fn refuse_deadlocked(&self) -> Duration {
        let now = Instant::now();
        let next = self.deadlocks_looked_for.get().map(|last| last + PATIENCE);
        if let Some(next) = next.filter(|next| *next > now) {
            return next - now;
        }
        self.deadlocks_looked_for.set(Some(now));
        let slots = self.resident.find_all(Slot::is_waited_for);
        let waits = Waits::of(
            self.resident
                .find_all(|slot| slot.serial.holder().is_some()),
        );
        for slot in slots {
            let Some(holder) = slot.serial.holder() else {
                continue;
            };
            let reached = waits.reached_from(holder);
            if reached.is_empty() {
                continue;
            }
            let crossed = |event: &Event| {
                matches!(event.what, What::Call(..) | What::Fetch(..))
                    && now >= event.since + PATIENCE
                    && [Some(event.chain), event.caller]
                        .into_iter()
                        .flatten()
                        .any(|chain| reached.contains_key(&chain))
            };
            if let Some(event) = slot.next(crossed) {
                refuse(&slot, event, holder, &reached);
            }
        }
        PATIENCE
    }
}

/// Refuses an event that waits for `slot`, whose holder waits for the chain of the event.
fn refuse(
    slot: &Rc<Slot>,
    event: Event,
    holder: Chain,
    reached: &HashMap<Chain, (Chain, Rc<Slot>)>,
) {
    let ends = [Some(event.chain), event.caller];
    let mut names = Vec::new();
    let mut chain = ends
        .into_iter()
        .flatten()
        .find(|chain| reached.contains_key(chain))
        .unwrap_or(holder);
    while let Some((before, has)) = reached.get(&chain).filter(|_| chain != holder) {
        names.push(has.label());
        chain = *before;
    }
    names.push(slot.label());
    names.reverse();
    let names = names.join(", and ");
    let text = format!("serial objects wait for each other: {names}");
    tracing::warn!(text, "a call was refused: it would wait for ever");
    event.what.refuse(Error::Deadlock(text));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::Chains;

    #[test]
    fn one_chain_at_a_time_as_often_as_it_comes_back() {
        let (serial, chains) = (Serial::default(), Chains::default());
        let (one, other) = (chains.begin(), chains.begin());
        let first = serial.enter(one, None);
        let second = serial.enter(one, None);
        assert!(serial.admits(one) && !serial.admits(other));
        drop(first);
        assert!(!serial.admits(other));
        drop(second);
        assert!(serial.admits(other));
    }
}
