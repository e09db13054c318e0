//! Accounts of what waits in one place: each part of it counts until it is dropped.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    rc::Rc,
    task::{Poll, Waker},
};

/// The sum of what waits in one place, in bytes. Clones are the same account.
#[derive(Clone, Debug, Default)]
pub struct Account(Rc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    sum: Cell<usize>,
    total: Option<Account>,
    /// The tasks that wait for the sum to fall, each with the sum that it waits for.
    waiting: RefCell<Vec<(usize, Waker)>>,
}

impl Account {
    /// A new account. What counts on it counts on `total` too.
    pub fn within(total: &Account) -> Account {
        Account(Rc::new(Inner {
            total: Some(total.clone()),
            ..Inner::default()
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

    /// Waits until the sum is at most `most` bytes.
    pub async fn falls_to(&self, most: usize) {
        poll_fn(|cx| {
            if self.sum() <= most {
                return Poll::Ready(());
            }
            let mut waiting = self.0.waiting.borrow_mut();
            let is_known =
                |(sum, waker): &(usize, Waker)| *sum == most && waker.will_wake(cx.waker());
            if !waiting.iter().any(is_known) {
                waiting.push((most, cx.waker().clone()));
            }
            Poll::Pending
        })
        .await
    }

    fn change(&self, before: usize, after: usize) {
        self.0.sum.set(self.0.sum.get() + after - before);
        if after < before {
            self.wake();
        }
        if let Some(total) = &self.0.total {
            total.change(before, after);
        }
    }

    /// Wakes the tasks whose sum is reached.
    fn wake(&self) {
        let mut waiting = self.0.waiting.borrow_mut();
        if waiting.is_empty() {
            return;
        }
        let sum = self.sum();
        let reached: Vec<_> = waiting.extract_if(.., |(most, _)| sum <= *most).collect();
        drop(waiting);
        reached.into_iter().for_each(|(_, waker)| waker.wake());
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
    use futures::FutureExt;

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

    #[tokio::test]
    async fn whoever_waits_for_less_goes_on_when_there_is_less() {
        let total = Account::default();
        let one = Account::within(&total);
        let (first, second) = (one.count(5), one.count(7));
        let mut none = Box::pin(total.falls_to(0));
        let mut some = Box::pin(total.falls_to(7));
        assert!((&mut none).now_or_never().is_none());
        assert!((&mut some).now_or_never().is_none());
        drop(first);
        some.await;
        assert!((&mut none).now_or_never().is_none());
        drop(second);
        none.await;
    }
}
