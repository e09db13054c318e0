//! The bytes that connections hold, counted for the whole vat.

use std::cell::RefCell;

use crate::account::{Account, Counted};

/// Up to this many bytes, in all, a connection holds whatever others do: peers that hold much do not
/// lock out those that hold little.
const SMALL_BYTES: usize = 64 << 10;

/// The bytes that all connections of a vat may hold together. Clones are the same budget.
#[derive(Clone, Debug)]
pub struct Budget {
    max_bytes: usize,
    used: Account,
}

impl Budget {
    /// A budget of `max_bytes`, unused.
    pub fn new(max_bytes: usize) -> Self {
        Budget {
            max_bytes,
            used: Account::default(),
        }
    }

    /// The bytes that connections hold now. May be above [`Budget::max_bytes`]: answers always go out,
    /// and each connection may hold 64 KiB whatever the others hold.
    pub fn used_bytes(&self) -> usize {
        self.used.sum()
    }

    /// Whether connections hold more than fits.
    pub(super) fn is_overdrawn(&self) -> bool {
        self.used_bytes() > self.max_bytes()
    }

    /// The limit that it was made with.
    pub fn max_bytes(&self) -> usize {
        self.max_bytes
    }
}

/// One connection's part of a budget. Dropping it gives back everything.
pub(super) struct Share {
    budget: Budget,
    /// The bytes that the connection holds, until it has ended.
    held: RefCell<Option<Counted>>,
}

impl Share {
    pub(super) fn of(budget: &Budget) -> Self {
        Share {
            budget: budget.clone(),
            held: RefCell::new(Some(budget.used.count(0))),
        }
    }

    /// Gives back everything, for good: the connection has ended.
    pub(super) fn close(&self) {
        self.held.take();
    }

    /// Sets what the connection holds.
    pub(super) fn set(&self, bytes: usize) {
        if let Some(held) = &mut *self.held.borrow_mut() {
            held.set(bytes);
        }
    }

    fn held_bytes(&self) -> usize {
        self.held.borrow().as_ref().map_or(0, Counted::bytes)
    }

    /// Why the connection may not hold `more` bytes for the sake of the others, if it may not.
    pub(super) fn full_for(&self, more: usize) -> Option<String> {
        let limit = self.budget.max_bytes();
        let fits =
            self.budget.used_bytes() + more <= limit || self.held_bytes() + more <= SMALL_BYTES;
        (!fits).then(|| {
            format!(
                "the connections of this vat hold {} bytes of messages in flight, and {more} more do \
                 not fit: at most {limit} (`limits.bytes_per_vat`)",
                self.budget.used_bytes()
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Budget, SMALL_BYTES, Share};

    #[test]
    fn a_full_budget_has_room_for_connections_that_hold_little() {
        let budget = Budget::new(1 << 20);
        let (hog, small) = (Share::of(&budget), Share::of(&budget));
        assert_eq!(hog.full_for(1 << 20), None);
        hog.set(1 << 20);
        assert!(hog.full_for(1).unwrap().contains("1048576"));
        assert_eq!(small.full_for(SMALL_BYTES), None);
        small.set(SMALL_BYTES);
        assert!(small.full_for(1).is_some());
        drop(hog);
        assert_eq!(budget.used_bytes(), SMALL_BYTES);
        assert_eq!(small.full_for(1), None);
    }
}
