//! Strictly serial delivery, for classes that ask for it.

use std::{cell::Cell, rc::Rc};

use crate::call::Chain;

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
