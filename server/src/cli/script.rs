//! SQL from a file: statements in as many calls as they need, and transactions where it says so.

use std::{
    fs,
    io::{self, Read},
    mem,
    path::Path,
};

use capnp::capability::FromClientHook;
use vatwerk::{
    limit_capnp::{MAX_SQL_BINDINGS, MAX_SQL_BYTES},
    storage_capnp::{operations, sql},
};

use super::{
    output::Failure,
    sql::{Binding, Executed, Print},
};
use crate::storage::text::{skip_blank, split, starts_with_word, token};

/// Literals that are longer become bindings, in bytes, where a statement is too long.
const LARGE: usize = 256;

/// Runs the statements of a file, and prints the rows of the last.
pub async fn run(
    storage: &operations::Client,
    path: &Path,
    print: Print,
    out: &mut dyn io::Write,
) -> Result<(), Failure> {
    let text = read(path).map_err(|error| Failure::File(path.display().to_string(), error))?;
    let blocks = blocks(&text).map_err(Failure::Usage)?;
    let last = blocks.len().saturating_sub(1);
    for (number, block) in blocks.into_iter().enumerate() {
        let print = (number == last).then_some(print);
        block.run(storage, print, out).await?;
    }
    Ok(())
}

fn read(path: &Path) -> io::Result<String> {
    if path == Path::new("-") {
        let mut text = String::new();
        io::stdin().read_to_string(&mut text)?;
        return Ok(text);
    }
    fs::read_to_string(path)
}

/// Statements that happen together.
#[derive(Debug, Default, PartialEq)]
struct Block<'a> {
    statements: Vec<&'a str>,
    /// Whether foreign keys are looked at only when it ends.
    keys_off: bool,
    /// Whether it ends with ROLLBACK.
    undone: bool,
}

/// The statements between one BEGIN, COMMIT, ROLLBACK or change of `foreign_keys` and the next.
fn blocks(text: &str) -> Result<Vec<Block<'_>>, String> {
    let mut blocks = Vec::new();
    let mut block = Block::default();
    let mut begun = false;
    let mut rest = skip_blank(text);
    while !rest.is_empty() {
        let (statement, tail) = split(rest);
        rest = skip_blank(tail);
        let is = |word: &str| starts_with_word(statement, word);
        let words: Vec<String> = words(statement).take(4).collect();
        let begins = is("begin");
        let undone = is("rollback") && !words.iter().any(|word| word == "to");
        let ends = is("commit") || is("end") || undone;
        let keys = keys_off(&words).filter(|_| !begun);
        if begins && begun {
            return Err("the file has a BEGIN inside a transaction".to_owned());
        }
        if ends && !begun {
            return Err("the file has a COMMIT or ROLLBACK without a BEGIN".to_owned());
        }
        if !begins && !ends && keys.is_none() {
            block.statements.push(statement);
            continue;
        }
        block.undone = undone;
        let keys_off = keys.unwrap_or(block.keys_off);
        let next = Block {
            keys_off,
            ..Block::default()
        };
        let done = mem::replace(&mut block, next);
        if !done.statements.is_empty() {
            blocks.push(done);
        }
        begun = begins || begun && !ends;
    }
    if begun {
        return Err("the file has a BEGIN without a COMMIT".to_owned());
    }
    if !block.statements.is_empty() {
        blocks.push(block);
    }
    Ok(blocks)
}

/// The words of a statement, in lower case and without quotes.
fn words(statement: &str) -> impl Iterator<Item = String> {
    let mut rest = statement;
    std::iter::from_fn(move || {
        while !rest.is_empty() {
            let (word, tail) = rest.split_at(token(rest));
            rest = tail;
            let word = word.trim_matches(['\'', '"']);
            if word.starts_with(|first: char| first.is_alphanumeric()) {
                return Some(word.to_ascii_lowercase());
            }
        }
        None
    })
}

/// Whether the statement is one that says that foreign keys are not enforced, or that they are.
fn keys_off(words: &[String]) -> Option<bool> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["pragma", "foreign_keys", value] => match value {
            "off" | "no" | "false" | "0" => Some(true),
            "on" | "yes" | "true" | "1" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

impl Block<'_> {
    async fn run(
        &self,
        storage: &operations::Client,
        print: Option<Print>,
        out: &mut dyn io::Write,
    ) -> Result<(), Failure> {
        const KEYS_OFF: &str = "PRAGMA foreign_keys = OFF";
        let bytes: usize = self.statements.iter().map(|text| text.len() + 2).sum();
        let first = self.keys_off.then_some(KEYS_OFF);
        let fits = bytes + KEYS_OFF.len() + 2 <= MAX_SQL_BYTES as usize;
        if fits && !self.undone {
            let statements: Vec<&str> = first.into_iter().chain(self.statements.clone()).collect();
            let sql = storage.sql_request().send().pipeline.get_sql();
            return exec(&sql, &statements, print, out).await;
        }
        let transaction = storage.transaction_request().send();
        let transaction = transaction.pipeline.get_transaction();
        let inside: operations::Client = transaction.clone().cast_to();
        let sql = inside.sql_request().send().pipeline.get_sql();
        if self.keys_off {
            // The pragma is for one call.
            let deferred = "PRAGMA defer_foreign_keys = ON";
            Executed::of(&sql, deferred, &[]).await?;
        }
        let batches = batches(&self.statements);
        let last = batches.len().saturating_sub(1);
        for (number, batch) in batches.into_iter().enumerate() {
            let print = print.filter(|_| number == last);
            exec(&sql, batch, print, out).await?;
        }
        if self.undone {
            transaction.rollback_request().send().promise.await?;
        } else {
            transaction.commit_request().send().promise.await?;
        }
        Ok(())
    }
}

async fn exec(
    sql: &sql::Client,
    statements: &[&str],
    print: Option<Print>,
    out: &mut dyn io::Write,
) -> Result<(), Failure> {
    let query = statements.join(";\n");
    let executed = if query.len() > MAX_SQL_BYTES as usize {
        let (query, bindings) = lift(&query);
        Executed::of(sql, &query, &bindings).await?
    } else {
        Executed::of(sql, &query, &[]).await?
    };
    match print {
        Some(print) => executed.print(print, out).await,
        None => Ok(()),
    }
}

/// Statements that go into one call each. One that is too long is alone.
fn batches<'s, 'a>(statements: &'s [&'a str]) -> Vec<&'s [&'a str]> {
    let mut batches = Vec::new();
    let (mut from, mut bytes) = (0, 0);
    for (at, statement) in statements.iter().enumerate() {
        let more = statement.len() + 2;
        if at > from && bytes + more > MAX_SQL_BYTES as usize {
            batches.push(&statements[from..at]);
            (from, bytes) = (at, 0);
        }
        bytes += more;
    }
    batches.push(&statements[from..]);
    batches
}

/// A statement with bindings for its largest texts and blobs.
fn lift(statement: &str) -> (String, Vec<Binding>) {
    let mut query = String::new();
    let mut bindings = Vec::new();
    let mut rest = statement;
    while !rest.is_empty() {
        let length = literal(rest);
        let (word, tail) = rest.split_at(length.unwrap_or_else(|| token(rest)));
        rest = tail;
        let room = word.len() > LARGE && bindings.len() < MAX_SQL_BINDINGS as usize;
        match length.filter(|_| room).and_then(|_| bound(word)) {
            Some(binding) => {
                query.push('?');
                bindings.push(binding);
            }
            None => query.push_str(word),
        }
    }
    (query, bindings)
}

/// The length of the literal that `sql` starts with, if it does with a text or a blob.
fn literal(sql: &str) -> Option<usize> {
    let mut end = usize::from(sql.starts_with("x'") || sql.starts_with("X'"));
    let quote = end;
    while sql[end..].starts_with('\'') {
        end += token(&sql[end..]);
    }
    (end > quote).then_some(end)
}

/// The value of a literal.
fn bound(literal: &str) -> Option<Binding> {
    let digits = literal.strip_prefix(['x', 'X']);
    let inside = |text: &'_ str| Some(text.strip_prefix('\'')?.strip_suffix('\'')?.to_owned());
    let Some(digits) = digits else {
        return Some(Binding::Text(inside(literal)?.replace("''", "'")));
    };
    let digits = inside(digits)?;
    let byte = |at| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok();
    let bytes: Option<Vec<u8>> = (0..digits.len()).step_by(2).map(byte).collect();
    bytes.map(Binding::Blob)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block<'a>(statements: &[&'a str], keys_off: bool, undone: bool) -> Block<'a> {
        Block {
            statements: statements.to_vec(),
            keys_off,
            undone,
        }
    }

    #[test]
    fn a_file_is_cut_where_its_transactions_are() {
        let dump = "PRAGMA foreign_keys=OFF;\nBEGIN TRANSACTION;\nCREATE TABLE t (a); -- COMMIT;\n\
                    INSERT INTO t VALUES (';END;');\nCOMMIT;\n";
        let statements = ["CREATE TABLE t (a)", "INSERT INTO t VALUES (';END;')"];
        assert_eq!(blocks(dump), Ok(vec![block(&statements, true, false)]));
        let plain = "a; b; PRAGMA foreign_keys = 'on'; BEGIN; c; ROLLBACK TO x; ROLLBACK; d";
        let expected = vec![
            block(&["a", "b"], false, false),
            block(&["c", "ROLLBACK TO x"], false, true),
            block(&["d"], false, false),
        ];
        assert_eq!(blocks(plain), Ok(expected));
        assert_eq!(blocks(" -- nothing\n;"), Ok(vec![]));
        for wrong in ["BEGIN; a", "a; COMMIT", "BEGIN; BEGIN; COMMIT"] {
            assert!(blocks(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_too_long_is_bound() {
        let text = "it''s ".repeat(60);
        let blob = "aB01".repeat(90);
        let sql = format!("INSERT INTO t VALUES ('x''y', '{text}', X'{blob}', x'{blob}0', \"x'\")");
        let (query, bindings) = lift(&sql);
        let kept = format!("INSERT INTO t VALUES ('x''y', ?, ?, x'{blob}0', \"x'\")");
        assert_eq!(query, kept);
        let [Binding::Text(found), Binding::Blob(bytes)] = &bindings[..] else {
            panic!("{bindings:?}");
        };
        assert_eq!(*found, "it's ".repeat(60));
        assert_eq!(*bytes, [0xab, 1].repeat(90));
    }

    #[test]
    fn statements_are_sent_together_as_far_as_they_fit() {
        let long = "x".repeat(MAX_SQL_BYTES as usize + 1);
        let third = "y".repeat(MAX_SQL_BYTES as usize / 3);
        let (long, third) = (long.as_str(), third.as_str());
        let statements = [third, third, third, long, "z", third];
        let cut: Vec<usize> = batches(&statements)
            .iter()
            .map(|batch| batch.len())
            .collect();
        assert_eq!(cut, [2, 1, 1, 2]);
    }
}
