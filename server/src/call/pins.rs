//! The objects that capabilities held by one connection keep awake.

use std::{
    cell::RefCell,
    collections::{HashMap, hash_map::Entry},
    rc::Rc,
};

use vatwerk::ObjectId;

use crate::Error;

/// The objects that one connection keeps awake, and the limit of them.
pub struct Pins {
    limit: usize,
    /// How many capabilities of each object the peer holds. None is zero.
    objects: RefCell<HashMap<ObjectId, usize>>,
}

impl Pins {
    /// The pins of a new connection, which may keep up to `limit` objects awake.
    pub fn new(limit: usize) -> Rc<Pins> {
        Rc::new(Pins {
            limit,
            objects: RefCell::default(),
        })
    }

    /// Counts one more capability of an object, until the guard is dropped.
    pub fn pin(self: &Rc<Self>, object: ObjectId) -> Pin {
        *self.objects.borrow_mut().entry(object).or_default() += 1;
        Pin {
            object,
            pins: self.clone(),
        }
    }

    /// `limit-exceeded` if the connection keeps more objects awake than it may.
    pub fn check(&self) -> Result<(), Error> {
        Error::check_limit(
            "objects that capabilities held by this connection keep awake (limits.pins_per_connection)",
            self.limit as u64,
            self.objects.borrow().len() as u64,
        )
    }
}

/// One capability that keeps an object awake for a connection.
pub struct Pin {
    object: ObjectId,
    pins: Rc<Pins>,
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut objects = self.pins.objects.borrow_mut();
        if let Entry::Occupied(mut count) = objects.entry(self.object) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_counts_once_however_many_of_its_capabilities_are_held() {
        let pins = Pins::new(1);
        let [one, other] = [1, 2].map(|byte| ObjectId([byte; ObjectId::LEN]));
        let (first, second) = (pins.pin(one), pins.pin(one));
        assert_eq!(pins.check(), Ok(()));
        let third = pins.pin(other);
        assert!(matches!(pins.check(), Err(Error::LimitExceeded { .. })));
        drop(first);
        assert!(pins.check().is_err(), "the object is still pinned");
        drop(second);
        assert_eq!(pins.check(), Ok(()));
        drop(third);
        assert!(pins.objects.borrow().is_empty());
    }
}
