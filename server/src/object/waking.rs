//! Objects that are in `create` or `activate`, and calls that would wait for them for ever.

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
    rc::Rc,
};

use super::slot::Slot;
use crate::{Error, call::Chain};

/// The objects of a vat that are in `create` or `activate`, by the chain that runs it.
#[derive(Clone, Default)]
pub(super) struct Waking(Rc<RefCell<HashMap<Chain, Rc<Slot>>>>);

impl Waking {
    /// Notes that `chain` runs `create` or `activate` of an object, until what is returned is dropped.
    pub fn enter(&self, slot: &Rc<Slot>, chain: Chain) -> Entered {
        slot.set_waking(Some(chain));
        self.0.borrow_mut().insert(chain, slot.clone());
        Entered {
            waking: self.clone(),
            chain,
        }
    }

    /// Refuses an event of `chains` that would wait for `slot` to wake, while that waits for one of these
    /// chains: for the call itself, or for another object that wakes. Looks at nothing unless one of the
    /// chains is that of an object that wakes.
    pub fn check(&self, slot: &Slot, chains: &[Option<Chain>]) -> Result<(), Error> {
        let Some(own) = slot.waking() else {
            return Ok(());
        };
        if chains.contains(&Some(own)) {
            return Err(deadlock(format!(
                "{} would wait for itself: its `create` or `activate` waits for this call",
                slot.label()
            )));
        }
        let waking = self.0.borrow();
        let mut own_chains = chains.iter().flatten();
        if !own_chains.any(|chain| waking.contains_key(chain)) {
            return Ok(());
        }
        // Those that `slot` waits for, directly or by way of others.
        let (mut seen, mut next) = (HashSet::from([own]), vec![own]);
        while let Some(waiting) = next.pop() {
            for (chain, other) in &*waking {
                if !other.is_waited_for_by(waiting) || !seen.insert(*chain) {
                    continue;
                }
                if chains.contains(&Some(*chain)) {
                    return Err(deadlock(format!(
                        "{} and {} would wait for each other: `create` or `activate` of each waits for the \
                         other",
                        slot.label(),
                        other.label()
                    )));
                }
                next.push(*chain);
            }
        }
        Ok(())
    }
}

/// The error of a call that would wait for ever. The log is told which objects these are.
fn deadlock(text: String) -> Error {
    tracing::warn!(text, "a call was refused: it would wait for ever");
    Error::Deadlock(text)
}

/// An object that is in `create` or `activate`.
pub(super) struct Entered {
    waking: Waking,
    chain: Chain,
}

impl Drop for Entered {
    fn drop(&mut self) {
        let slot = self.waking.0.borrow_mut().remove(&self.chain);
        slot.expect("it was entered once").set_waking(None);
    }
}
