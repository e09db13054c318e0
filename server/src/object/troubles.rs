//! The failures of objects that the log has been told of, so that an object which fails again and again is
//! one record, and not one for each try.

use std::{cell::RefCell, collections::HashMap, time::Duration};

use tokio::time::Instant;
use vatwerk::ObjectId;

use super::{host::Host, slot::Slot};
use crate::{Error, metrics::Reset};

/// The most objects whose failures are remembered. While as many have failed within [`AGAIN`], further ones
/// share one record.
const OBJECTS: usize = 1024;

/// The most reasons that are remembered of one object.
const REASONS: usize = 8;

/// The time after which a reason that goes on is logged again, with how often it was not.
const AGAIN: Duration = Duration::from_secs(60);

/// The failures of a vat that are no object's, and those of objects that there is no room to tell apart.
const NOBODY: ObjectId = ObjectId([0; ObjectId::LEN]);

/// The failures that the log has been told of. A host has one.
#[derive(Default)]
pub(super) struct Troubles(RefCell<HashMap<ObjectId, Trouble>>);

/// The failures of one object.
struct Trouble {
    /// Why it does not wake.
    asleep: Option<String>,
    told: Vec<Told>,
    last: Instant,
}

/// A reason that the log has been told of.
struct Told {
    reason: String,
    at: Instant,
    /// How often it has come since.
    since: u64,
}

impl Troubles {
    /// Whether the log is to be told that an object does not wake: once for each change of the reason.
    fn does_not_wake(&self, object: ObjectId, reason: &str) -> bool {
        let is_new = self.with(object, |trouble| {
            let is_new = trouble.asleep.as_deref() != Some(reason);
            trouble.asleep = Some(reason.to_owned());
            is_new
        });
        is_new.unwrap_or_else(|| self.crowd())
    }

    /// An object wakes. Whether the log has been told that it does not.
    fn wakes(&self, object: ObjectId) -> bool {
        let mut objects = self.0.borrow_mut();
        let Some(trouble) = objects.get_mut(&object) else {
            return false;
        };
        let was_told = trouble.asleep.take().is_some();
        if trouble.told.is_empty() {
            objects.remove(&object);
        }
        was_told
    }

    /// Whether the log is to be told of another failure of an object, and how often that has happened since
    /// it was told last.
    fn fails(&self, object: ObjectId, reason: &str) -> Option<u64> {
        let told = self.with(object, |trouble| {
            if trouble.asleep.as_deref() == Some(reason) {
                return None;
            }
            let now = Instant::now();
            let known = trouble.told.iter_mut().find(|told| told.reason == reason);
            if let Some(told) = known {
                if now - told.at < AGAIN {
                    told.since += 1;
                    return None;
                }
                told.at = now;
                return Some(std::mem::take(&mut told.since));
            }
            if trouble.told.len() >= REASONS {
                let oldest = trouble.told.iter().enumerate();
                let oldest = oldest.min_by_key(|(_, told)| told.at).map(|(at, _)| at);
                trouble.told.swap_remove(oldest.unwrap_or_default());
            }
            trouble.told.push(Told {
                reason: reason.to_owned(),
                at: now,
                since: 0,
            });
            Some(0)
        });
        told.unwrap_or_else(|| self.crowd().then_some(0))
    }

    /// Whether the log is to be told that more objects fail than are told apart.
    fn crowd(&self) -> bool {
        const CROWD: &str = "overloaded: more objects fail than are told apart";
        self.fails(NOBODY, CROWD).is_some()
    }

    /// Looks at the failures of an object; `None` if there is no room for one more.
    fn with<T>(&self, object: ObjectId, look: impl FnOnce(&mut Trouble) -> T) -> Option<T> {
        let mut objects = self.0.borrow_mut();
        let now = Instant::now();
        if object != NOBODY && objects.len() >= OBJECTS && !objects.contains_key(&object) {
            objects.retain(|_, trouble| now - trouble.last < AGAIN);
            if objects.len() >= OBJECTS {
                return None;
            }
        }
        let trouble = objects.entry(object).or_insert_with(|| Trouble {
            asleep: None,
            told: Vec::new(),
            last: now,
        });
        trouble.last = now;
        Some(look(trouble))
    }
}

/// An error in the words of the log, which are those that leave the vat: its code and its text.
fn reason(error: &Error) -> String {
    format!("{}: {error}", error.code())
}

impl Host {
    /// Counts and logs that an object does not wake.
    pub(super) fn tell_not_woken(&self, slot: &Slot, error: &Error) {
        slot.metrics.activation_failed(error.code());
        let reason = reason(error);
        if self.troubles.does_not_wake(slot.id, &reason) {
            let (class, id) = (slot.class.name, slot.id);
            tracing::warn!(
                class, %id, reason,
                "an object does not wake, and what waits for it fails; the next event tries again"
            );
        }
    }

    /// Logs that an object wakes, if the log was told that it does not.
    pub(super) fn tell_woken(&self, slot: &Slot) {
        if self.troubles.wakes(slot.id) {
            let (class, id) = (slot.class.name, slot.id);
            tracing::info!(class, %id, "an object wakes again");
        }
    }

    /// Logs that an instance ends because it failed. A panic has been logged where it was caught.
    pub(super) fn tell_reset(&self, slot: &Slot, why: Reset, error: &Error) {
        let (class, id) = (slot.class.name, slot.id);
        let reason = reason(error);
        match why {
            Reset::Panic | Reset::Other => {}
            Reset::Asked => tracing::info!(class, %id, "an operator resets an object"),
            _ => {
                if let Some(more) = self.troubles.fails(id, &reason) {
                    tracing::warn!(class, %id, reason, more, "an object is reset");
                }
            }
        }
    }

    /// Logs that the vat failed to do something for an object; `what` says what it was.
    pub(super) fn tell_failed(&self, slot: &Slot, what: &str, error: &Error) {
        let (class, id) = (slot.class.name, slot.id);
        let reason = reason(error);
        if let Some(more) = self.troubles.fails(id, &reason) {
            tracing::warn!(class, %id, reason, more, "{what}");
        }
    }

    /// Logs what failed inside an object, of which its caller is told less.
    pub(super) fn tell_inside(&self, slot: &Slot, reason: &str) {
        let (class, id) = (slot.class.name, slot.id);
        if let Some(more) = self.troubles.fails(id, reason) {
            tracing::warn!(class, %id, reason, more, "a call failed inside its object");
        }
    }

    /// Whether the log is to be told of a failure of that object, or, with `None`, of the vat: `Some` if the
    /// same was not told within the last minute, with how often it has happened since.
    pub(super) fn is_news(&self, object: Option<ObjectId>, reason: &str) -> Option<u64> {
        self.troubles.fails(object.unwrap_or(NOBODY), reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(number: u32) -> ObjectId {
        let mut id = [1; ObjectId::LEN];
        id[..4].copy_from_slice(&number.to_be_bytes());
        ObjectId(id)
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_to_wake_is_told_once_for_each_change() {
        let troubles = Troubles::default();
        let mut told = Vec::new();
        for reason in ["a", "a", "b", "b", "a"] {
            tokio::time::advance(10 * AGAIN).await;
            told.push(troubles.does_not_wake(object(1), reason));
            // Whoever passes it on tells nothing new.
            assert_eq!(troubles.fails(object(1), reason), None);
        }
        assert_eq!(told, [true, false, true, false, true]);
        assert!(troubles.wakes(object(1)));
        assert!(!troubles.wakes(object(1)));
        assert!(troubles.does_not_wake(object(1), "a"));
        assert!(!troubles.wakes(object(2)));
    }

    #[tokio::test(start_paused = true)]
    async fn other_failures_are_told_once_a_minute_with_how_often_they_were_not() {
        let troubles = Troubles::default();
        let fails = |reason: &str| troubles.fails(object(1), reason);
        assert_eq!([fails("a"), fails("a"), fails("a")], [Some(0), None, None]);
        assert_eq!([fails("b"), fails("a")], [Some(0), None]);
        tokio::time::advance(AGAIN).await;
        assert_eq!([fails("a"), fails("a")], [Some(3), None]);
        // Of many reasons the oldest is forgotten.
        for number in 0..20 {
            assert_eq!(fails(&number.to_string()), Some(0));
        }
        assert_eq!([fails("19"), fails("a")], [None, Some(0)]);
    }

    #[tokio::test(start_paused = true)]
    async fn of_more_objects_than_are_remembered_one_line_a_minute_is_told() {
        let troubles = Troubles::default();
        for _ in 0..3 {
            let told = (0..10_000).filter_map(|number| troubles.fails(object(number), "a"));
            let told = told.count();
            assert!(told <= OBJECTS + 1, "{told}");
            assert!(troubles.0.borrow().len() <= OBJECTS + 1);
            tokio::time::advance(AGAIN).await;
        }
    }
}
