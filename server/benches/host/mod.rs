//! Objects in this process, on the machine's disk, without connections.

use std::{collections::HashMap, path::Path, rc::Rc, sync::Arc, time::Duration};

use vatwerk_server::{
    Class,
    catalog::Catalog,
    env::{Clock, RealDisk},
    folder::Folder,
    health::{self, Health, Names, Thread},
    journal::{self, Commits, Journal},
    metrics::Metrics,
    object::{Host, Limits, Parts, Registry},
    storage::Vfs,
};

/// A vat without a gateway.
pub struct Vat {
    pub host: Rc<Host>,
    _folder: Folder,
}

impl Vat {
    /// Serves one class, from the folder at `path`. So many objects may be awake.
    pub fn serving<C: Class>(path: &Path, awake: usize) -> Vat {
        let folder = Folder::open(path).expect("a data folder");
        let mut classes = Registry::default();
        classes.register::<C>().expect("one class");
        let disk = Arc::new(RealDisk::default());
        let settings = journal::Settings::default();
        let (journal, _) =
            Journal::open(disk, folder.layout(), &settings, |_| {}).expect("a journal");
        let vfs = Vfs::register(journal.clone());
        let catalog = Catalog::open(&vfs, Clock::default()).expect("a catalog");
        let limits = Limits {
            resident_objects: awake,
            idle: Duration::from_secs(600),
            ..Default::default()
        };
        let metrics = Metrics::new("", 0);
        let health = Health::new(health::Limits::default(), Names::default());
        let host = Host::new(Parts {
            classes,
            catalog,
            commits: Commits::new(journal),
            vfs,
            limits,
            bindings: HashMap::new(),
            clock: Clock::default(),
            metrics: metrics.clone(),
            thread: Thread::new(health, metrics),
        });
        Vat {
            host,
            _folder: folder,
        }
    }

    /// Puts all objects to sleep and makes everything a plain file.
    pub async fn stop(self) {
        self.host.stop_scheduling();
        self.host.sleep_all().await;
        self.host.write_notes().expect("the catalog takes notes");
        self.host.catalog.close().expect("the catalog is closed");
        let journal = self.host.commits.journal();
        journal.stop().expect("everything is in its file");
    }
}
