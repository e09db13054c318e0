//! What the tests of the storage share.

use std::error::Error as StdError;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use vatwerk::ObjectId;

use super::{Settings, Storage, Vfs};
use crate::env::RealDisk;
use crate::folder::{DatabaseId, Layout};
use crate::journal::{self, Driver, Journal};
use crate::{Error, Result};

pub(super) type TestResult = std::result::Result<(), Box<dyn StdError>>;

/// The only database in the folders of these tests.
const ID: DatabaseId = DatabaseId {
    class: 1,
    object: ObjectId([7; ObjectId::LEN]),
};

/// The databases of a data folder, as the last vat has left them.
pub(crate) fn vfs(root: &Path) -> Rc<Vfs> {
    let layout = Layout::new(root);
    std::fs::create_dir_all(layout.journal()).expect("a folder");
    let settings = journal::Settings {
        bytes: 8 << 20,
        driver: Driver::Caller,
        ..Default::default()
    };
    let opened = Journal::open(Arc::new(RealDisk::default()), &layout, &settings, |_| {});
    Vfs::register(opened.expect("the journal opens").0)
}

pub(super) fn path(folder: &TempDir) -> PathBuf {
    Layout::new(folder.path()).database(ID)
}

pub(super) fn try_open(folder: &TempDir, settings: &Settings) -> Result<Storage> {
    Storage::open(&vfs(folder.path()), ID, settings)
}

/// What a vat finds that starts on the folder. SQL has more time than usual: the machine may be busy.
pub(crate) fn open(folder: &TempDir) -> Storage {
    let settings = Settings {
        statement_time_limit: Duration::from_secs(60),
        ..Settings::default()
    };
    try_open(folder, &settings).expect("the storage opens")
}

/// Brings everything to the files of the folder, which no vat has.
pub(super) fn write_back(folder: &TempDir) {
    drop(vfs(folder.path()));
}

/// A storage of its own, with the folder that must outlive it.
pub(super) fn fresh() -> (TempDir, Storage) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let storage = open(&folder);
    (folder, storage)
}

impl Storage {
    /// Runs SQL of the vat's own.
    pub(super) fn trusted(&self, sql: &str) -> Result<()> {
        let connection = self.0.live()?;
        let _trusted = self.0.gate.trust();
        let mut statement = connection.prepare(sql).expect("valid SQL");
        let mut rows = statement.raw_query();
        while rows.next().expect("it runs").is_some() {}
        Ok(())
    }

    pub(super) fn exec(&self, sql: &str) -> Result<()> {
        self.sql().exec(sql, ())?.to_vec().map(drop)
    }

    pub(super) fn integers(&self, sql: &str) -> Result<Vec<i64>> {
        self.sql().exec(sql, ())?.all()
    }

    pub(super) fn keys(&self) -> Vec<String> {
        let entries = self.kv().list_bytes(&super::Range::default());
        let entries = entries.expect("the list");
        entries.into_iter().map(|(key, _)| key).collect()
    }
}

/// The code of the error of `result`.
pub(super) fn code<T>(result: Result<T>) -> &'static str {
    match result {
        Ok(_) => "ok",
        Err(Error::InvalidArgument(_)) => "invalid-argument",
        Err(Error::LimitExceeded { .. } | Error::SqlLimit { .. }) => "limit-exceeded",
        Err(Error::StatementTimeout { .. }) => "timeout",
        Err(Error::SqlRefused(_)) => "sql-refused",
        Err(Error::SqlFailed(_)) => "sql-failed",
        Err(Error::Closed(_)) => "closed",
        Err(Error::ObjectReset(_) | Error::InstanceFailed(_)) => "object-reset",
        Err(Error::StorageFailed(_)) => "storage-failed",
        Err(Error::StorageDamaged(_)) => "storage-damaged",
        Err(_) => "other",
    }
}
