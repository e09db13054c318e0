//! Strictly serial delivery, for classes that ask for it.

use std::{cell::Cell, rc::Rc, time::Duration};

use super::{event::What, host::Host, instance::Instance, slot::Slot};
use crate::{Error, call::Chain};

/// How long a call waits for a serial object before the vat looks whether it waits for itself.
const PATIENCE: Duration = Duration::from_secs(1);

/// Whose turn it is, of an object that takes one call at a time. While a call runs, only calls of its
/// own chain come in: those that it has caused itself, and without which it might never end.
#[derive(Clone, Default)]
pub(super) struct Serial(Rc<Cell<Option<Running>>>);

#[derive(Clone, Copy)]
struct Running {
    chain: Chain,
    events: usize,
}

impl Serial {
    /// Whether an event of `chain` may be delivered.
    pub fn admits(&self, chain: Chain) -> bool {
        self.0.get().is_none_or(|running| running.chain == chain)
    }

    /// Whether an event of `chain` runs.
    pub fn is_held_by(&self, chain: Chain) -> bool {
        self.holder() == Some(chain)
    }

    /// The chain whose turn it is, if an event runs.
    pub fn holder(&self) -> Option<Chain> {
        self.0.get().map(|running| running.chain)
    }

    /// Delivers an event of `chain`, which runs until what is returned is dropped.
    pub fn enter(&self, chain: Chain) -> Entered {
        let events = self.0.get().map_or(0, |running| running.events);
        self.0.set(Some(Running {
            chain,
            events: events + 1,
        }));
        Entered(self.clone())
    }
}

/// An event that runs.
pub(super) struct Entered(Serial);

impl Drop for Entered {
    fn drop(&mut self) {
        let Serial(running) = &self.0;
        let left = running.get().filter(|running| running.events > 1);
        running.set(left.map(|running| Running {
            events: running.events - 1,
            ..running
        }));
    }
}

impl Instance {
    /// Whether events wait because another chain has the object.
    pub fn waits_for_chain(&self) -> bool {
        self.slot.class.is_serial && self.slot.is_waited_for()
    }
}

impl Host {
    /// Refuses what waits for a serial object and would wait for ever: its chain has another object, which
    /// the chain that has this one waits for, directly or by way of more objects. Returns when to look
    /// again.
    pub(super) fn refuse_deadlocked(&self, instance: &Instance) -> Duration {
        let (slot, now) = (&instance.slot, tokio::time::Instant::now());
        let Some(holder) = slot.serial.holder() else {
            return PATIENCE;
        };
        let crossed = slot.find_event(|event| {
            if event.chain == holder || now < event.since + PATIENCE {
                return None;
            }
            let mut path = vec![slot.clone()];
            self.waits_for(holder, event.chain, &mut path)
                .then_some((event.chain, path))
        });
        if let Some((chain, path)) = crossed {
            let names: Vec<_> = path.iter().map(|slot| slot.label()).collect();
            let text = format!(
                "serial objects wait for each other: {}",
                names.join(", and ")
            );
            tracing::warn!(text, "a call was refused: it would wait for ever");
            let refused =
                slot.next(|event| event.chain == chain && matches!(event.what, What::Call(..)));
            if let Some(event) = refused {
                event.what.refuse(Error::Deadlock(text));
            }
        }
        PATIENCE
    }

    /// Whether `chain` waits for a serial object that `wanted` has. `path` gets the objects in between.
    fn waits_for(&self, chain: Chain, wanted: Chain, path: &mut Vec<Rc<Slot>>) -> bool {
        for slot in self.resident.find_all(Slot::is_waited_for) {
            let seen = path.iter().any(|known| Rc::ptr_eq(known, &slot));
            let Some(holder) = slot.serial.holder().filter(|held| !seen && *held != chain) else {
                continue;
            };
            if slot
                .find_event(|event| (event.chain == chain).then_some(()))
                .is_none()
            {
                continue;
            }
            path.push(slot);
            if holder == wanted || self.waits_for(holder, wanted, path) {
                return true;
            }
            path.pop();
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::Chains;

    #[test]
    fn one_chain_at_a_time_as_often_as_it_comes_back() {
        let (serial, chains) = (Serial::default(), Chains::default());
        let (one, other) = (chains.begin(), chains.begin());
        let first = serial.enter(one);
        let second = serial.enter(one);
        assert!(serial.admits(one) && !serial.admits(other));
        drop(first);
        assert!(!serial.admits(other));
        drop(second);
        assert!(serial.admits(other));
    }
}
