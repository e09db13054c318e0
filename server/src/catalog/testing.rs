//! What the tests of the catalog share.

use std::{path::Path, sync::Arc};

use tempfile::TempDir;
use vatwerk::ObjectId;

use super::{Catalog, Rebuilt};
use crate::{
    Result,
    env::{Clock, Disk, sim::SimDisk},
    folder::{DatabaseId, Layout},
    journal::{self, Commits, Driver, Journal},
    storage::{self, Vfs},
};

/// The catalog in a folder, as the last vat has left it.
pub fn catalog(folder: &TempDir) -> Catalog {
    Catalog::open(&storage::testing::vfs(folder.path()), Clock::default())
        .expect("the catalog opens")
}

/// Closes a catalog and opens it again.
pub fn reopen(catalog: Catalog) -> Catalog {
    catalog.close().expect("it closes");
    Catalog::open(&catalog.0.vfs, Clock::default()).expect("the catalog opens")
}

/// A catalog on a disk that fails as a test wants it to.
pub fn on_sim_disk() -> (SimDisk, Catalog) {
    let layout = Layout::new(Path::new("/data"));
    let disk = SimDisk::new(layout.journal());
    disk.sync_folder(layout.root()).expect("a sync");
    let settings = journal::Settings {
        bytes: 8 << 20,
        driver: Driver::Caller,
        ..Default::default()
    };
    let opened = Journal::open(Arc::new(disk.clone()), &layout, &settings, |_| {});
    let vfs = Vfs::register(opened.expect("the journal opens").0);
    (
        disk,
        Catalog::open(&vfs, Clock::default()).expect("the catalog opens"),
    )
}

/// The number of the newest commit.
pub fn position(catalog: &Catalog) -> u64 {
    catalog.newest().to_string().parse().expect("a number")
}

pub fn id(n: u8) -> ObjectId {
    ObjectId([n; 32])
}

/// An object of class 7.
pub fn object(n: u8) -> DatabaseId {
    DatabaseId {
        class: 7,
        object: id(n),
    }
}

/// Rebuilds the index of alarms. Returns what it told of its progress, as `(objects, of)`.
pub fn rebuild(
    catalog: &Catalog,
    read: impl FnMut(DatabaseId) -> Result<Option<i64>>,
) -> Result<Vec<(u64, u64)>> {
    let mut told = Vec::new();
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    tokio::task::LocalSet::new().block_on(&runtime.expect("a runtime"), async {
        let commits = Commits::new(catalog.0.vfs.journal().clone());
        let tell = |rebuilt: Rebuilt| told.push((rebuilt.objects, rebuilt.of));
        catalog.rebuild_alarms(&commits, read, tell).await
    })?;
    Ok(told)
}

/// However much there is, the query neither reads all of it nor sorts it.
pub fn assert_no_scan(catalog: &Catalog, query: &str) {
    let explained = catalog.read(|db| {
        let mut statement = db.prepare(&format!("EXPLAIN QUERY PLAN {query}"))?;
        let steps = statement.raw_query().mapped(|row| row.get(3));
        steps.collect::<rusqlite::Result<Vec<String>>>()
    });
    let plan = explained.expect("a plan");
    let is_search = |step: &String| step.starts_with("SEARCH");
    assert!(plan.iter().all(is_search), "{query}: {plan:?}");
}
