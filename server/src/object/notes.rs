//! What the catalog is to be told of objects, of many at once: when to look at their alarms next, when
//! they were last written and how large they are.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
};

use crate::{
    Result,
    catalog::{Activity, Catalog, Note},
    folder::DatabaseId,
    journal::{Commits, Failures, Lsn},
};

/// How long a note may wait for others.
const PATIENCE_MS: i64 = 1000;

/// Notes that are not written yet. A host has one of these.
#[derive(Default)]
pub(super) struct Notes {
    pending: RefCell<BTreeMap<DatabaseId, Pending>>,
    due_ms: Cell<Option<i64>>,
}

/// What is noted of one object, each with the commit that it tells of.
#[derive(Clone, Copy, Default)]
struct Pending {
    alarm: Option<(Lsn, Option<i64>)>,
    activity: Option<(Lsn, Activity)>,
}

impl Pending {
    /// Whether the catalog's commit would come after those that it tells of.
    fn has_order(&self, commits: &Commits) -> bool {
        let alarm = self.alarm.iter().map(|(lsn, _)| *lsn);
        let mut lsns = alarm.chain(self.activity.iter().map(|(lsn, _)| *lsn));
        lsns.all(|lsn| commits.has_order(lsn))
    }
}

impl Notes {
    /// Notes the earliest alarm of an object as of the commit at `lsn`.
    pub fn alarm(&self, object: DatabaseId, lsn: Lsn, due_ms: Option<i64>, now_ms: i64) {
        self.note(object, now_ms, |note| note.alarm = Some((lsn, due_ms)));
    }

    /// Notes what an object was like after the commit at `lsn`.
    pub fn activity(&self, object: DatabaseId, lsn: Lsn, activity: Activity, now_ms: i64) {
        self.note(object, now_ms, |note| note.activity = Some((lsn, activity)));
    }

    fn note(&self, object: DatabaseId, now_ms: i64, change: impl FnOnce(&mut Pending)) {
        let mut pending = self.pending.borrow_mut();
        change(pending.entry(object).or_default());
        if self.due_ms.get().is_none() {
            self.due_ms.set(Some(now_ms + PATIENCE_MS));
        }
    }

    /// The object is gone: nothing is to be said of it.
    pub fn erase(&self, object: DatabaseId) {
        self.pending.borrow_mut().remove(&object);
    }

    /// When they should be written.
    pub fn due_ms(&self) -> Option<i64> {
        self.due_ms.get()
    }

    /// Whether they should be written by now.
    pub fn are_due(&self, now_ms: i64) -> bool {
        self.due_ms.get().is_some_and(|due_ms| due_ms <= now_ms)
    }

    /// Forgets those of commits that have not happened.
    pub fn drop_void(&self, commits: &Commits) {
        let has_happened = |lsn| commits.is_durable(lsn).is_ok();
        for note in self.pending.borrow_mut().values_mut() {
            note.alarm = note.alarm.filter(|(lsn, _)| has_happened(*lsn));
            note.activity = note.activity.filter(|(lsn, _)| has_happened(*lsn));
        }
    }

    /// Writes them, unless the journal has failed since `failures`, which was asked before
    /// [`Notes::drop_void`]: commits that were on their way to the disk then have not happened, and those
    /// that still are will be there before the catalog's. Notes of large commits whose pages are still being
    /// written wait for another time. If it fails all are kept.
    pub fn write(
        &self,
        catalog: &Catalog,
        commits: &Commits,
        failures: Failures,
        now_ms: i64,
    ) -> Result<()> {
        let mut pending = self.pending.borrow_mut();
        let notes: Vec<_> = pending
            .iter()
            .filter(|(_, note)| note.has_order(commits))
            .map(|(object, note)| Note {
                object: *object,
                alarm: note.alarm.map(|(_, due_ms)| due_ms),
                activity: note.activity.map(|(_, activity)| activity),
            })
            .collect();
        if !notes.is_empty()
            && let Err(error) = catalog.note(&notes, failures)
        {
            self.due_ms.set(Some(now_ms + PATIENCE_MS));
            return Err(error);
        }
        for note in &notes {
            pending.remove(&note.object);
        }
        let due_ms = (!pending.is_empty()).then_some(now_ms + PATIENCE_MS);
        self.due_ms.set(due_ms);
        Ok(())
    }
}
