//! What the tests of the storage share.

use std::error::Error as StdError;
use std::path::PathBuf;

use tempfile::TempDir;

use super::{Settings, Storage};
use crate::{Error, Result};

pub(super) type TestResult = std::result::Result<(), Box<dyn StdError>>;

pub(super) fn path(folder: &TempDir) -> PathBuf {
    folder.path().join("object.sqlite")
}

pub(super) fn open(folder: &TempDir) -> Storage {
    Storage::open(&path(folder), &Settings::default()).expect("the storage opens")
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
        Err(Error::LimitExceeded { .. }) => "limit-exceeded",
        Err(Error::StatementTimeout { .. }) => "timeout",
        Err(Error::SqlRefused(_)) => "sql-refused",
        Err(Error::SqlFailed(_)) => "sql-failed",
        Err(Error::Closed(_)) => "closed",
        Err(Error::ObjectReset(_)) => "object-reset",
        Err(Error::StorageFailed(_)) => "storage-failed",
        Err(_) => "other",
    }
}
