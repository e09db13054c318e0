//! What a vat is to this simulation: a journal on a simulated disk, and the file system of SQLite.

use std::{cell::Cell, path::Path, rc::Rc, sync::Arc};

use crate::{
    env::{Disk, sim::SimDisk},
    folder::Layout,
    journal::{
        self, Driver, Journal, JournalError,
        testing::{Control, Hold, Sabotage},
    },
    storage::Vfs,
};

/// The data folder.
pub const DATA: &str = "/data";

/// One life of a vat, until it is dropped.
pub struct Vat {
    pub disk: SimDisk,
    pub vfs: Rc<Vfs>,
    hold: Hold,
    /// Whether durability is held back.
    pub is_held: Cell<bool>,
    /// Whether the disk fails now and then.
    pub is_faulty: Cell<bool>,
}

/// A disk with an empty data folder.
pub fn new_disk() -> SimDisk {
    let layout = Layout::new(Path::new(DATA));
    // Folders that are there from the beginning, and no crash takes away.
    let disk = SimDisk::new(layout.journal());
    disk.create_folder(&layout.objects()).expect("a folder");
    disk.sync_folder(layout.root()).expect("a sync");
    disk
}

impl Vat {
    /// Starts on a disk, recovering what is there.
    pub fn start(disk: &SimDisk, settings: &journal::Settings) -> Result<Vat, JournalError> {
        Vat::start_wrong(disk, settings, None)
    }

    /// Likewise, with a journal that is wrong in some way.
    pub fn start_wrong(
        disk: &SimDisk,
        settings: &journal::Settings,
        sabotage: Option<Sabotage>,
    ) -> Result<Vat, JournalError> {
        let (hold, layout) = (Hold::default(), Layout::new(Path::new(DATA)));
        let control = Control {
            hold: hold.clone(),
            sabotage,
        };
        let shared = Arc::new(disk.clone());
        let (journal, _) = Journal::open_held(shared, &layout, settings, control)?;
        Ok(Vat {
            disk: disk.clone(),
            vfs: Vfs::register(journal),
            hold,
            is_held: Cell::default(),
            is_faulty: Cell::default(),
        })
    }

    pub fn journal(&self) -> &Journal {
        self.vfs.journal()
    }

    /// From now on nothing becomes durable.
    pub fn hold(&self) {
        self.is_held.set(true);
        self.hold.hold();
    }

    /// From now on the pages of large commits are not written.
    pub fn hold_pages(&self) {
        self.hold.hold_pages();
    }

    /// Writes the pages that were held back.
    pub fn release_pages(&self) {
        self.hold.release_pages();
        self.journal().work();
    }

    /// Makes durable what was held back.
    pub fn release(&self) {
        self.is_held.set(false);
        self.hold.release();
        self.work();
    }

    /// Lets the journal do all that there is to do.
    pub fn work(&self) {
        self.journal().work();
        while self.journal().step_writer() {}
        self.journal().step_retirer();
    }
}

/// A journal that is full after a few commits.
pub fn settings(segment_bytes: u64) -> journal::Settings {
    journal::Settings {
        bytes: 8 * segment_bytes,
        // So few that files are closed and opened all the time.
        open_files: 2,
        driver: Driver::Caller,
        // A run is a function of its seed.
        now_ms: || 1,
    }
}
