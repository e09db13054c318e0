//! A folder: the names that are on the disk, and those that are only on their way there.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
};

use super::survival::{Fate, Fates};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileId(pub u64);

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    File(FileId),
    /// The folder whose path ends with the name.
    Folder,
}

type Entries = BTreeMap<OsString, Entry>;

/// A change of one entry; `None` removes it.
struct Change(OsString, Option<Entry>);

impl Change {
    fn apply(&self, entries: &mut Entries) {
        let Change(name, entry) = self;
        match entry {
            Some(entry) => entries.insert(name.clone(), *entry),
            None => entries.remove(name),
        };
    }
}

#[derive(Default)]
pub struct Folder {
    durable: Entries,
    visible: Entries,
    pending: Vec<Change>,
}

impl Folder {
    pub fn get(&self, name: &OsStr) -> Option<Entry> {
        self.visible.get(name).copied()
    }

    pub fn visible(&self) -> impl Iterator<Item = (&OsStr, Entry)> {
        self.visible
            .iter()
            .map(|(name, entry)| (name.as_os_str(), *entry))
    }

    /// Every file that has a name here, or may have one after a crash.
    pub fn files(&self) -> impl Iterator<Item = FileId> {
        let pending = self.pending.iter().filter_map(|change| change.1.as_ref());
        let entries = self.visible.values().chain(self.durable.values());
        entries.chain(pending).filter_map(|entry| match entry {
            Entry::File(id) => Some(*id),
            Entry::Folder => None,
        })
    }

    pub fn create(&mut self, name: &OsStr, entry: Entry) {
        self.change(Change(name.to_owned(), Some(entry)));
    }

    pub fn remove(&mut self, name: &OsStr) {
        self.change(Change(name.to_owned(), None));
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.visible);
        self.pending.push(change);
    }

    /// Ends the time of what is pending: it is on the disk now, or it never will be.
    pub fn settle(&mut self, fates: &mut Fates) {
        settle(&mut self.durable, &self.pending, fates);
        self.pending.clear();
    }

    /// The folder as it is found after a crash.
    pub fn after_crash(&self, fates: &mut Fates) -> Folder {
        let mut durable = self.durable.clone();
        settle(&mut durable, &self.pending, fates);
        Folder {
            visible: durable.clone(),
            durable,
            pending: Vec::new(),
        }
    }
}

fn settle(durable: &mut Entries, pending: &[Change], fates: &mut Fates) {
    let dealt = fates.deal(pending.len());
    for (change, fate) in pending.iter().zip(dealt) {
        if fate != Fate::Lost {
            change.apply(durable);
        }
    }
}
