//! What pages and rooms say to each other, as JSON in text messages, and what may be said.

use serde::{Deserialize, Serialize};

use super::history::Line;
use crate::{Error, Result};

/// The longest name of somebody, in characters: it fits in a tag.
const MAX_NAME: usize = 32;

/// The longest text of a line, in characters.
const MAX_TEXT: usize = 2000;

/// The longest key, in bytes.
const MAX_KEY: usize = 64;

/// What a page says. It also says `ping`, which is answered without the room.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) enum Heard {
    /// `key` is new for every line, and the same when a line is said again because nobody knows
    /// whether it got through.
    Say { text: String, key: String },
}

/// What a room says.
#[derive(Serialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub(super) enum Told<'a> {
    /// The first message. `lines` are the last ones that the page does not have, `newest` the number
    /// of the last one ever said.
    Welcome {
        name: &'a str,
        newest: u64,
        lines: &'a [Line],
        present: &'a [String],
    },
    Line(&'a Line),
    Joined(&'a str),
    Left(&'a str),
    /// Something that the page said was no good: the line of that key, if it is known.
    Refused {
        key: Option<&'a str>,
        reason: &'a str,
    },
}

impl Told<'_> {
    pub(super) fn text(&self) -> String {
        serde_json::to_string(self).expect("it is texts and numbers")
    }
}

pub(super) fn name(name: &str) -> Result<&str> {
    let name = within("a name", name, MAX_NAME)?;
    if name.contains(char::is_control) {
        return Err(Error::InvalidArgument(
            "a name has no control characters".into(),
        ));
    }
    Ok(name)
}

pub(super) fn text(text: &str) -> Result<&str> {
    let text = within("a text", text, MAX_TEXT)?;
    if text.contains(|c: char| c.is_control() && c != '\n' && c != '\t') {
        return Err(Error::InvalidArgument(
            "a text has no control characters but line breaks and tabs".into(),
        ));
    }
    Ok(text)
}

pub(super) fn key(key: &str) -> Result<&str> {
    match key.len() {
        1..=MAX_KEY => Ok(key),
        _ => Err(Error::InvalidArgument(format!(
            "a key is 1 to {MAX_KEY} bytes long"
        ))),
    }
}

/// Without the blanks around it.
fn within<'a>(what: &str, text: &'a str, most: usize) -> Result<&'a str> {
    let text = text.trim();
    match text.chars().count() {
        count if (1..=most).contains(&count) => Ok(text),
        _ => Err(Error::InvalidArgument(format!(
            "{what} is 1 to {most} characters long"
        ))),
    }
}
