//! Key-value pairs.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension};
use serde::Serialize;
use serde::de::DeserializeOwned;
use vatwerk::limit_capnp as limit;

use super::authorizer::{cached, ours};
use super::{Inner, Storage};
use crate::{Error, Result};

/// A key and its value.
pub type Entry = (String, Vec<u8>);

/// The key-value pairs of an object, in a table beside those of SQL.
///
/// Keys are text of at most [`limit::MAX_KEY_BYTES`] bytes, the empty one included, ordered by
/// their UTF-8 bytes. Values are bytes, at most [`limit::MAX_VALUE_BYTES`] of them; the methods
/// without `_bytes` in their name keep values of any serde type as CBOR. Calls with several keys
/// take at most [`limit::MAX_KEYS_PER_CALL`]. Whatever is over a limit is `limit-exceeded`.
pub struct Kv {
    storage: Storage,
    scope: Option<u64>,
}

/// A range of keys. All bounds apply together; a range that is empty is not an error.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// Only keys that start with this.
    pub prefix: String,
    /// Where it begins.
    pub from: Lower,
    /// Only keys before this one.
    pub end: Option<String>,
    /// From the last key to the first. The bounds keep their meaning; the limit takes the last keys.
    pub reverse: bool,
    /// At most this many entries; zero is `invalid-argument`.
    pub limit: Option<u32>,
}

/// Where a range of keys begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Lower {
    /// With the first key.
    #[default]
    Beginning,
    /// With this key.
    Start(String),
    /// With the key after this one.
    StartAfter(String),
}

impl Range {
    /// Every key.
    pub fn all() -> Range {
        Range::default()
    }

    /// Only keys that start with `prefix`.
    pub fn prefix(prefix: impl Into<String>) -> Range {
        Range {
            prefix: prefix.into(),
            ..Range::default()
        }
    }

    /// Only this key and those after it.
    pub fn start(mut self, key: impl Into<String>) -> Range {
        self.from = Lower::Start(key.into());
        self
    }

    /// Only keys after this one.
    pub fn start_after(mut self, key: impl Into<String>) -> Range {
        self.from = Lower::StartAfter(key.into());
        self
    }

    /// Only keys before this one.
    pub fn end(mut self, key: impl Into<String>) -> Range {
        self.end = Some(key.into());
        self
    }

    /// From the last key to the first.
    pub fn reverse(mut self) -> Range {
        self.reverse = true;
        self
    }

    /// At most this many entries.
    pub fn limit(mut self, entries: u32) -> Range {
        self.limit = Some(entries);
        self
    }

    /// The first key of the range, and the first key after it, if any.
    fn bounds(&self) -> (String, Option<String>) {
        let from = match &self.from {
            Lower::Beginning => String::new(),
            Lower::Start(key) => key.clone(),
            Lower::StartAfter(key) => format!("{key}\0"),
        };
        let lower = from.max(self.prefix.clone());
        let upper = match (self.end.clone(), after_prefix(&self.prefix)) {
            (Some(end), Some(after)) => Some(end.min(after)),
            (end, after) => end.or(after),
        };
        (lower, upper)
    }

    fn check(&self) -> Result<()> {
        if self.limit == Some(0) {
            return Err(Error::InvalidArgument(
                "the limit of a list must be positive".into(),
            ));
        }
        let from = match &self.from {
            Lower::Beginning => "",
            Lower::Start(key) | Lower::StartAfter(key) => key,
        };
        check_key(&self.prefix)?;
        check_key(from)?;
        self.end.as_deref().map_or(Ok(()), check_key)
    }
}

/// The first text after all those that start with `prefix`. UTF-8 orders as its characters do.
fn after_prefix(prefix: &str) -> Option<String> {
    let mut rest = prefix.to_owned();
    while let Some(last) = rest.pop() {
        // Steps over the surrogates.
        if let Some(next) = (last..=char::MAX).nth(1) {
            rest.push(next);
            return Some(rest);
        }
    }
    None
}

impl Kv {
    pub(super) fn new(storage: Storage, scope: Option<u64>) -> Kv {
        Kv { storage, scope }
    }

    /// The value of `key`, if it is there. `invalid-argument` when it is not a `T` in CBOR.
    pub fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        self.get_bytes(key)?
            .map(|bytes| decode(key, &bytes))
            .transpose()
    }

    /// The values of those `keys` that are there.
    pub fn get_many<T: DeserializeOwned>(&self, keys: &[&str]) -> Result<BTreeMap<String, T>> {
        self.get_many_bytes(keys)?
            .into_iter()
            .map(|(key, bytes)| decode(&key, &bytes).map(|value| (key, value)))
            .collect()
    }

    /// Sets `key` to `value`. `invalid-argument` when it cannot be written as CBOR.
    pub fn put<T: Serialize + ?Sized>(&self, key: &str, value: &T) -> Result<()> {
        self.put_bytes(key, &encode(value)?)
    }

    /// Sets all of `entries` or, on any error, none.
    pub fn put_many<T: Serialize>(&self, entries: &[(&str, T)]) -> Result<()> {
        check_count(entries.len())?;
        let encoded = entries.iter().map(|(_, value)| encode(value));
        let encoded = encoded.collect::<Result<Vec<_>>>()?;
        let keys = entries.iter().map(|(key, _)| *key);
        let entries: Vec<_> = keys.zip(encoded.iter().map(Vec::as_slice)).collect();
        self.put_many_bytes(&entries)
    }

    /// The entries of `range`, in its order, all in memory.
    pub fn list<T: DeserializeOwned>(&self, range: &Range) -> Result<Vec<(String, T)>> {
        self.list_bytes(range)?
            .into_iter()
            .map(|(key, bytes)| decode(&key, &bytes).map(|value| (key, value)))
            .collect()
    }

    /// The bytes of `key`, if it is there.
    pub fn get_bytes(&self, key: &str) -> Result<Option<Vec<u8>>> {
        check_key(key)?;
        self.read(None, |connection| read_one(connection, key))
    }

    /// The bytes of those `keys` that are there.
    pub fn get_many_bytes(&self, keys: &[&str]) -> Result<BTreeMap<String, Vec<u8>>> {
        check_keys(keys)?;
        self.read(BTreeMap::new(), |connection| {
            let found = keys.iter().filter_map(|&key| {
                let value = read_one(connection, key).transpose()?;
                Some(value.map(|value| (key.to_owned(), value)))
            });
            found.collect()
        })
    }

    /// Sets `key` to these bytes.
    pub fn put_bytes(&self, key: &str, value: &[u8]) -> Result<()> {
        check_key(key)?;
        check_value(value)?;
        self.change(true, |connection| write_one(connection, key, value))
    }

    /// Sets all of `entries` or, on any error, none.
    pub fn put_many_bytes(&self, entries: &[(&str, &[u8])]) -> Result<()> {
        check_count(entries.len())?;
        for (key, value) in entries {
            check_key(key)?;
            check_value(value)?;
        }
        if entries.is_empty() {
            return self.read((), |_| Ok(()));
        }
        let put = |_: &Storage| {
            entries.iter().try_for_each(|(key, value)| {
                self.change(true, |connection| write_one(connection, key, value))
            })
        };
        self.storage.operate(self.scope, |_| Ok(()))?;
        self.storage.transaction(put)
    }

    /// Removes `key`, and says whether it was there.
    pub fn delete(&self, key: &str) -> Result<bool> {
        check_key(key)?;
        Ok(self.delete_keys(&[key])? == 1)
    }

    /// Removes `keys`, all or, on an error, none, and says how many were there.
    pub fn delete_many(&self, keys: &[&str]) -> Result<u32> {
        check_keys(keys)?;
        self.storage.operate(self.scope, |_| Ok(()))?;
        self.storage.transaction(|_| self.delete_keys(keys))
    }

    /// The entries of `range`, in its order, all in memory.
    pub fn list_bytes(&self, range: &Range) -> Result<Vec<Entry>> {
        Ok(self.page(range, usize::MAX)?.0)
    }

    /// The first entries of `range`, of at most `max_bytes` of keys and values together but at
    /// least one, and whether there are more. Go on with [`Lower::StartAfter`], or reversed with
    /// `end`, at the last key, and the limit less what has come.
    pub fn page(&self, range: &Range, max_bytes: usize) -> Result<(Vec<Entry>, bool)> {
        range.check()?;
        let (lower, upper) = range.bounds();
        if upper.as_ref().is_some_and(|upper| *upper <= lower) {
            return self.read((Vec::new(), false), |_| Ok((Vec::new(), false)));
        }
        let sql = match (&upper, range.reverse) {
            (None, false) => {
                ours!("SELECT key, value FROM _vw_kv WHERE key >= ?1 ORDER BY key LIMIT ?2")
            }
            (None, true) => {
                ours!("SELECT key, value FROM _vw_kv WHERE key >= ?1 ORDER BY key DESC LIMIT ?2")
            }
            (Some(_), false) => ours!(
                "SELECT key, value FROM _vw_kv WHERE key >= ?1 AND key < ?3 ORDER BY key LIMIT ?2"
            ),
            (Some(_), true) => ours!(
                "SELECT key, value FROM _vw_kv WHERE key >= ?1 AND key < ?3 ORDER BY key DESC \
                 LIMIT ?2"
            ),
        };
        let most = range.limit.map_or(-1, i64::from);
        self.read((Vec::new(), false), |connection| {
            let mut statement = cached(connection, sql)?;
            statement.raw_bind_parameter(1, &lower)?;
            statement.raw_bind_parameter(2, most)?;
            if let Some(upper) = &upper {
                statement.raw_bind_parameter(3, upper)?;
            }
            let mut rows = statement.raw_query();
            let mut entries = Vec::new();
            let mut bytes = 0usize;
            while let Some(row) = rows.next()? {
                let key = row.get_ref(0)?.as_str()?;
                let value = row.get_ref(1)?.as_blob()?;
                bytes = bytes.saturating_add(key.len() + value.len());
                if bytes > max_bytes && !entries.is_empty() {
                    return Ok((entries, true));
                }
                entries.push((key.to_owned(), value.to_vec()));
            }
            Ok((entries, false))
        })
    }

    fn delete_keys(&self, keys: &[&str]) -> Result<u32> {
        let delete = |connection: &Connection| {
            let mut statement = cached(connection, ours!("DELETE FROM _vw_kv WHERE key = ?1"))?;
            keys.iter()
                .try_fold(0, |count, key| Ok(count + statement.execute([key])?))
        };
        let count = self.change(false, delete)?;
        Ok(u32::try_from(count).unwrap_or(u32::MAX))
    }

    /// Reads, or answers `absent` where nothing was ever put.
    fn read<T>(
        &self,
        absent: T,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T> {
        let inner = &self.storage.0;
        self.storage.operate(self.scope, |connection| {
            let _trusted = inner.gate.trust();
            inner
                .kv_exists(connection)
                .and_then(|exists| if exists { read(connection) } else { Ok(absent) })
                .map_err(|error| inner.judge(connection, &error))
        })
    }

    /// Writes. Without `create`, a table that is not there is left so and nothing is written.
    fn change<T: Default>(
        &self,
        create: bool,
        change: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T> {
        let inner = &self.storage.0;
        if !create && !self.read(false, |_| Ok(true))? {
            return Ok(T::default());
        }
        self.storage.write(self.scope, |connection| {
            let _trusted = inner.gate.trust();
            inner
                .kv_create(connection)
                .and_then(|()| change(connection))
                .map_err(|error| inner.judge(connection, &error))
        })
    }
}

impl Inner {
    fn kv_exists(&self, connection: &Connection) -> rusqlite::Result<bool> {
        if !self.kv_ready.get() {
            self.kv_ready.set(connection.table_exists(None, c"_vw_kv")?);
        }
        Ok(self.kv_ready.get())
    }

    fn kv_create(&self, connection: &Connection) -> rusqlite::Result<()> {
        if !self.kv_exists(connection)? {
            connection.execute_batch(
                "CREATE TABLE _vw_kv (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID",
            )?;
            self.kv_ready.set(true);
        }
        Ok(())
    }
}

fn read_one(connection: &Connection, key: &str) -> rusqlite::Result<Option<Vec<u8>>> {
    cached(connection, ours!("SELECT value FROM _vw_kv WHERE key = ?1"))?
        .query_row([key], |row| row.get(0))
        .optional()
}

fn write_one(connection: &Connection, key: &str, value: &[u8]) -> rusqlite::Result<()> {
    cached(
        connection,
        ours!(
            "INSERT INTO _vw_kv (key, value) VALUES (?1, ?2) \
             ON CONFLICT (key) DO UPDATE SET value = excluded.value"
        ),
    )?
    .execute((key, value))
    .map(drop)
}

fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes).map_err(|error| {
        Error::InvalidArgument(format!("the value cannot be written as CBOR: {error}"))
    })?;
    Ok(bytes)
}

fn decode<T: DeserializeOwned>(key: &str, bytes: &[u8]) -> Result<T> {
    ciborium::from_reader(bytes).map_err(|error| {
        Error::InvalidArgument(format!(
            "the value of `{key}` is not of the type asked for: {error}"
        ))
    })
}

fn check_count(keys: usize) -> Result<()> {
    let limit = limit::MAX_KEYS_PER_CALL.into();
    Error::check_limit("the keys of one call", limit, keys as u64)
}

fn check_keys(keys: &[&str]) -> Result<()> {
    check_count(keys.len())?;
    keys.iter().try_for_each(|key| check_key(key))
}

fn check_key(key: &str) -> Result<()> {
    let limit = limit::MAX_KEY_BYTES.into();
    Error::check_limit("a key (bytes)", limit, key.len() as u64)
}

fn check_value(value: &[u8]) -> Result<()> {
    let limit = limit::MAX_VALUE_BYTES.into();
    Error::check_limit("a value (bytes)", limit, value.len() as u64)
}

#[cfg(test)]
mod tests;
