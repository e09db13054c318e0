//! Accounts of what waits in one place: each part of it counts until it is dropped.

use std::{cell::Cell, rc::Rc};

/// The sum of what waits in one place, in bytes. Clones are the same account.
#[derive(Clone, Debug, Default)]
pub struct Account(Rc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    sum: Cell<usize>,
    total: Option<Account>,
}

impl Account {
    /// A new account. What counts on it counts on `total` too.
    pub fn within(total: &Account) -> Account {
        Account(Rc::new(Inner {
            sum: Cell::default(),
            total: Some(total.clone()),
        }))
    }

    /// The sum of what counts now.
    pub fn sum(&self) -> usize {
        self.0.sum.get()
    }

    /// Counts `bytes` until the guard is dropped.
    pub fn count(&self, bytes: usize) -> Counted {
        self.change(0, bytes);
        Counted {
            bytes,
            account: self.clone(),
        }
    }

    fn change(&self, before: usize, after: usize) {
        self.0.sum.set(self.0.sum.get() + after - before);
        if let Some(total) = &self.0.total {
            total.change(before, after);
        }
    }
}

/// One part of an [`Account`].
#[derive(Debug)]
pub struct Counted {
    bytes: usize,
    account: Account,
}

impl Counted {
    /// The bytes that it counts.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Counts `bytes` from now on.
    pub fn set(&mut self, bytes: usize) {
        let before = std::mem::replace(&mut self.bytes, bytes);
        self.account.change(before, bytes);
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.account.change(self.bytes, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::Account;

    #[test]
    fn what_is_dropped_no_longer_counts_anywhere() {
        let total = Account::default();
        let (one, other) = (Account::within(&total), Account::within(&total));
        let (mut first, second) = (one.count(5), other.count(7));
        first.set(3);
        assert_eq!((one.sum(), other.sum(), total.sum()), (3, 7, 10));
        drop((one, first));
        assert_eq!(total.sum(), 7);
        drop(second);
        assert_eq!((other.sum(), total.sum()), (0, 0));
    }
}
