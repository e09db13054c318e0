//! What was said in a room.

use serde::{Deserialize, Serialize};

use crate::{Result, storage::Sql};

/// A line that is older than the last so many is dropped when the room is tidied up.
pub(super) const KEEP_LINES: u32 = 1000;

/// And so is one that was said longer ago than this.
pub(super) const KEEP_MS: i64 = 7 * 24 * 60 * 60 * 1000;

/// Numbers are never used twice, also when nothing is left: who was away asks for what came after
/// the last line that they have.
pub(super) const MIGRATIONS: &[&str] = &["CREATE TABLE line (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    said_ms INTEGER NOT NULL,
    author TEXT NOT NULL,
    text TEXT NOT NULL,
    key TEXT UNIQUE
)"];

/// Something that was said.
#[derive(Deserialize, Serialize)]
#[serde(rename_all(serialize = "camelCase"))]
pub(super) struct Line {
    pub(super) number: u64,
    pub(super) said_ms: i64,
    pub(super) author: String,
    pub(super) text: String,
    /// What the page that said it calls it.
    pub(super) key: Option<String>,
}

pub(super) struct History(pub(super) Sql);

impl History {
    pub(super) fn add(
        &self,
        said_ms: i64,
        author: &str,
        text: &str,
        key: Option<&str>,
    ) -> Result<Line> {
        let insert =
            "INSERT INTO line (said_ms, author, text, key) VALUES (?, ?, ?, ?) RETURNING *";
        self.0.exec(insert, (said_ms, author, text, key))?.one_as()
    }

    /// The number of the line of that key, if it is there.
    pub(super) fn number_of(&self, key: &str) -> Result<Option<u64>> {
        let query = "SELECT max(number) FROM line WHERE key = ?";
        self.0.exec(query, (key,))?.one_as()
    }

    /// The last lines after that number, the oldest first.
    pub(super) fn after(&self, number: u64, last: u32) -> Result<Vec<Line>> {
        let query = "SELECT * FROM (SELECT * FROM line WHERE number > ? ORDER BY number DESC LIMIT ?) \
                     ORDER BY number";
        // No number is larger than that.
        let number = i64::try_from(number).unwrap_or(i64::MAX);
        self.0.exec(query, (number, last))?.all()
    }

    /// The number of the last line ever said, 0 if there was none.
    pub(super) fn newest(&self) -> Result<u64> {
        let query = "SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'line'), 0)";
        self.0.exec(query, ())?.one_as()
    }

    /// Drops what is not to be kept any longer. Says when the oldest of the others was said.
    pub(super) fn trim(&self, now_ms: i64) -> Result<Option<i64>> {
        let until_ms = now_ms - KEEP_MS;
        let newest = self.newest()? as i64;
        let delete = "DELETE FROM line WHERE number <= ? OR said_ms <= ?";
        self.0
            .exec(delete, (newest - i64::from(KEEP_LINES), until_ms))?;
        self.0.exec("SELECT min(said_ms) FROM line", ())?.one_as()
    }
}
