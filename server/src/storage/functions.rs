//! Functions of SQLite's whose time grows with the product of the sizes of their arguments: anew,
//! with the sum, or refused where that product is large. SQLite's time limit cannot stop a function
//! before it returns; [`super::costs`] says what bounds each.

use std::collections::HashSet;
use std::ffi::{CStr, c_char, c_int, c_void};

use memchr::memmem;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, ffi};

use super::{fulltext, math, meter, pattern};

pub(super) use super::pattern::install_like;

pub(super) type Function =
    unsafe extern "C" fn(*mut ffi::sqlite3_context, c_int, *mut *mut ffi::sqlite3_value);

/// The most that the sizes of the arguments of `json_patch` may be, multiplied: it takes some 200 ms,
/// for a document of 1 MiB and a patch of 8 KiB.
const MAX_PATCH_PRODUCT: u64 = 1 << 33;

/// The most that the sizes of the arguments of `unhex` may be, multiplied: it takes some 200 ms, for
/// 4 MiB and 64 characters that are passed over.
const MAX_UNHEX_PRODUCT: u64 = 1 << 28;

/// SQLite's mark of text that is JSON.
const JSON_SUBTYPE: u32 = 74;

thread_local! {
    /// Where SQLite's own functions are that ours stand before.
    static ORIGINALS: rusqlite::Result<Connection> = Connection::open_in_memory();
}

pub(super) fn install(connection: &Connection) -> rusqlite::Result<()> {
    let functions: [(&CStr, c_int, Function); 8] = [
        (c"instr", 2, instr),
        (c"replace", 3, replace),
        (c"trim", 2, trim),
        (c"ltrim", 2, ltrim),
        (c"rtrim", 2, rtrim),
        (c"unhex", 2, unhex),
        (c"json_patch", 2, json_patch),
        (c"jsonb_patch", 2, jsonb_patch),
    ];
    for (name, arguments, function) in functions {
        register(connection, name, arguments, std::ptr::null_mut(), function)?;
    }
    pattern::install(connection)?;
    math::install(connection)?;
    fulltext::install(connection)
}

/// Puts a function in place of SQLite's. It may read so many arguments, and what `data` points at.
pub(super) fn register(
    connection: &Connection,
    name: &CStr,
    arguments: c_int,
    data: *mut c_void,
    function: Function,
) -> rusqlite::Result<()> {
    // SAFETY: the handle is that of a connection that is open, and the name ends with a NUL.
    let code = unsafe {
        ffi::sqlite3_create_function_v2(
            connection.handle(),
            name.as_ptr(),
            arguments,
            ffi::SQLITE_UTF8
                | ffi::SQLITE_DETERMINISTIC
                | ffi::SQLITE_INNOCUOUS
                | ffi::SQLITE_RESULT_SUBTYPE,
            data,
            Some(function),
            None,
            None,
            None,
        )
    };
    check(code)
}

/// The result of a call of SQLite's.
pub(super) fn check(code: c_int) -> rusqlite::Result<()> {
    if code == ffi::SQLITE_OK {
        return Ok(());
    }
    Err(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None))
}

/// The text or blob of an argument; a number is written out. `None` for null.
///
/// # Safety
///
/// There is such an argument, and SQLite's value is not used otherwise while the result is.
pub(super) unsafe fn argument<'a>(
    arguments: *mut *mut ffi::sqlite3_value,
    at: usize,
) -> Option<&'a [u8]> {
    // SAFETY: the caller vouches for the argument. The length is asked for after the conversion
    // that it depends on, as SQLite wants it, and the bytes stay while the function runs.
    unsafe {
        let value = *arguments.add(at);
        let bytes = match ffi::sqlite3_value_type(value) {
            ffi::SQLITE_NULL => return None,
            ffi::SQLITE_BLOB => ffi::sqlite3_value_blob(value).cast::<u8>(),
            _ => ffi::sqlite3_value_text(value),
        };
        let length = usize::try_from(ffi::sqlite3_value_bytes(value)).unwrap_or(0);
        if bytes.is_null() || length == 0 {
            // A blob without bytes; or no memory, which SQLite has noted.
            return Some(&[]);
        }
        Some(std::slice::from_raw_parts(bytes, length))
    }
}

/// # Safety
///
/// The context is that of a function that is being called.
pub(super) unsafe fn answer(context: *mut ffi::sqlite3_context, text: &[u8]) {
    // SAFETY: SQLite copies the text before this returns, and refuses it if it is too long.
    unsafe {
        ffi::sqlite3_result_text64(
            context,
            text.as_ptr().cast::<c_char>(),
            text.len() as u64,
            ffi::SQLITE_TRANSIENT(),
            ffi::SQLITE_UTF8 as u8,
        );
    }
}

unsafe extern "C" fn instr(
    context: *mut ffi::sqlite3_context,
    _: c_int,
    arguments: *mut *mut ffi::sqlite3_value,
) {
    // SAFETY: SQLite calls this with two arguments.
    unsafe {
        let blobs =
            (0..2).all(|at| ffi::sqlite3_value_type(*arguments.add(at)) == ffi::SQLITE_BLOB);
        if let (Some(text), Some(part)) = (argument(arguments, 0), argument(arguments, 1)) {
            if !meter::spend(text.len() + part.len()) {
                return ffi::sqlite3_result_error_code(context, ffi::SQLITE_INTERRUPT);
            }
            let at = if blobs {
                memmem::find(text, part).map_or(0, |at| at + 1)
            } else {
                character_of(text, part)
            };
            // At most the length of a value, which fits.
            ffi::sqlite3_result_int64(context, at as i64);
        }
    }
}

/// Which character of `text`, counted from 1, `part` first starts with; 0 for none.
fn character_of(text: &[u8], part: &[u8]) -> usize {
    let continues = |byte: &u8| byte & 0xc0 == 0x80;
    let at = if part.first().is_some_and(continues) {
        // Not UTF-8: no character but the first starts so.
        text.starts_with(part).then_some(0)
    } else {
        memmem::find(text, part)
    };
    at.map_or(0, |at| {
        let before = text[..at].iter().skip(1);
        usize::from(at > 0) + before.filter(|byte| !continues(byte)).count() + 1
    })
}

unsafe extern "C" fn replace(
    context: *mut ffi::sqlite3_context,
    _: c_int,
    arguments: *mut *mut ffi::sqlite3_value,
) {
    // SAFETY: SQLite calls this with three arguments.
    unsafe {
        let (Some(text), Some(part)) = (argument(arguments, 0), argument(arguments, 1)) else {
            return;
        };
        // As SQLite does, before it looks at the third.
        if matches!(part.first(), None | Some(0)) {
            return answer(context, text);
        }
        let Some(by) = argument(arguments, 2) else {
            return;
        };
        if !meter::spend(text.len() + part.len()) {
            return ffi::sqlite3_result_error_code(context, ffi::SQLITE_INTERRUPT);
        }
        let database = ffi::sqlite3_context_db_handle(context);
        let most = ffi::sqlite3_limit(database, ffi::SQLITE_LIMIT_LENGTH, -1);
        match replaced(text, part, by, usize::try_from(most).unwrap_or(0)) {
            Some(replaced) => answer(context, &replaced),
            None => ffi::sqlite3_result_error_toobig(context),
        }
    }
}

/// `text` with `by` for every `part`, which is not empty; none if that is longer than `most`.
fn replaced(text: &[u8], part: &[u8], by: &[u8], most: usize) -> Option<Vec<u8>> {
    let mut result = Vec::with_capacity(text.len());
    let mut from = 0;
    for at in memmem::find_iter(text, part) {
        result.extend_from_slice(&text[from..at]);
        result.extend_from_slice(by);
        from = at + part.len();
        if result.len() > most {
            return None;
        }
    }
    result.extend_from_slice(&text[from..]);
    (result.len() <= most).then_some(result)
}

unsafe extern "C" fn trim(
    context: *mut ffi::sqlite3_context,
    _: c_int,
    arguments: *mut *mut ffi::sqlite3_value,
) {
    // SAFETY: SQLite calls this with two arguments.
    unsafe { trim_sides(context, arguments, true, true) }
}

unsafe extern "C" fn ltrim(
    context: *mut ffi::sqlite3_context,
    _: c_int,
    arguments: *mut *mut ffi::sqlite3_value,
) {
    // SAFETY: SQLite calls this with two arguments.
    unsafe { trim_sides(context, arguments, true, false) }
}

unsafe extern "C" fn rtrim(
    context: *mut ffi::sqlite3_context,
    _: c_int,
    arguments: *mut *mut ffi::sqlite3_value,
) {
    // SAFETY: SQLite calls this with two arguments.
    unsafe { trim_sides(context, arguments, false, true) }
}

/// # Safety
///
/// The context is that of a function that is being called with at least two arguments, these.
unsafe fn trim_sides(
    context: *mut ffi::sqlite3_context,
    arguments: *mut *mut ffi::sqlite3_value,
    left: bool,
    right: bool,
) {
    // SAFETY: the caller vouches for them.
    unsafe {
        if let (Some(text), Some(set)) = (argument(arguments, 0), argument(arguments, 1)) {
            // A character is looked up for each of its possible lengths.
            if !meter::spend(text.len() + set.len()) {
                return ffi::sqlite3_result_error_code(context, ffi::SQLITE_INTERRUPT);
            }
            answer(context, trimmed(text, set, left, right));
        }
    }
}

fn trimmed<'a>(mut text: &'a [u8], set: &[u8], left: bool, right: bool) -> &'a [u8] {
    let set = characters(set);
    let lengths: Vec<usize> = (1..=4)
        .filter(|length| set.iter().any(|character| character.len() == *length))
        .collect();
    let head = |text: &'a [u8], length: usize| {
        let (head, rest) = text.split_at_checked(length)?;
        set.contains(head).then_some(rest)
    };
    let tail = |text: &'a [u8], length: usize| {
        let (rest, tail) = text.split_at(text.len().checked_sub(length)?);
        set.contains(tail).then_some(rest)
    };
    if left {
        while let Some(rest) = lengths.iter().find_map(|&length| head(text, length)) {
            text = rest;
        }
    }
    if right {
        while let Some(rest) = lengths.iter().find_map(|&length| tail(text, length)) {
            text = rest;
        }
    }
    text
}

unsafe extern "C" fn unhex(
    context: *mut ffi::sqlite3_context,
    _: c_int,
    arguments: *mut *mut ffi::sqlite3_value,
) {
    // SAFETY: SQLite calls this with two arguments.
    unsafe {
        bounded(
            context,
            arguments,
            "SELECT unhex(?1, ?2)",
            (
                "the arguments of unhex (bytes, multiplied)",
                MAX_UNHEX_PRODUCT,
            ),
        )
    }
}

unsafe extern "C" fn json_patch(
    context: *mut ffi::sqlite3_context,
    _: c_int,
    arguments: *mut *mut ffi::sqlite3_value,
) {
    // SAFETY: SQLite calls this with two arguments.
    unsafe {
        bounded(
            context,
            arguments,
            "SELECT json_patch(?1, ?2)",
            (
                "the arguments of json_patch (bytes, multiplied)",
                MAX_PATCH_PRODUCT,
            ),
        )
    }
}

unsafe extern "C" fn jsonb_patch(
    context: *mut ffi::sqlite3_context,
    _: c_int,
    arguments: *mut *mut ffi::sqlite3_value,
) {
    // SAFETY: SQLite calls this with two arguments.
    unsafe {
        bounded(
            context,
            arguments,
            "SELECT jsonb_patch(?1, ?2)",
            (
                "the arguments of jsonb_patch (bytes, multiplied)",
                MAX_PATCH_PRODUCT,
            ),
        )
    }
}

/// SQLite's own function, unless its arguments are too large. Text that it answers is JSON.
///
/// # Safety
///
/// The context is that of a function that is being called with at least two arguments, these.
unsafe fn bounded(
    context: *mut ffi::sqlite3_context,
    arguments: *mut *mut ffi::sqlite3_value,
    sql: &str,
    (what, most): (&'static str, u64),
) {
    // SAFETY: the caller vouches for them. Whatever is answered is copied.
    unsafe {
        let size = |at| argument(arguments, at).map_or(0, |bytes: &[u8]| bytes.len() as u64);
        let product = size(0).saturating_mul(size(1));
        let result = if product > most {
            meter::refuse(what, most, product);
            Err("the arguments of the function are too large together".to_owned())
        } else if !meter::spend(usize::try_from(product / 64).unwrap_or(usize::MAX)) {
            return ffi::sqlite3_result_error_code(context, ffi::SQLITE_INTERRUPT);
        } else {
            original(
                sql,
                [value(arguments, 0), value(arguments, 1)],
                |result| match result {
                    ValueRef::Text(text) => {
                        answer(context, text);
                        ffi::sqlite3_result_subtype(context, JSON_SUBTYPE);
                    }
                    ValueRef::Blob(bytes) => ffi::sqlite3_result_blob64(
                        context,
                        bytes.as_ptr().cast(),
                        bytes.len() as u64,
                        ffi::SQLITE_TRANSIENT(),
                    ),
                    _ => ffi::sqlite3_result_null(context),
                },
            )
        };
        if let Err(error) = result {
            let length = c_int::try_from(error.len()).unwrap_or(0);
            ffi::sqlite3_result_error(context, error.as_ptr().cast::<c_char>(), length);
        }
    }
}

/// Hands on what SQLite's own function answers.
fn original(
    sql: &str,
    arguments: [ValueRef<'_>; 2],
    answer: impl FnOnce(ValueRef<'_>),
) -> Result<(), String> {
    ORIGINALS.with(|connection| {
        let text = |error: &rusqlite::Error| match error {
            rusqlite::Error::SqliteFailure(_, Some(message)) => message.clone(),
            other => other.to_string(),
        };
        let connection = connection.as_ref().map_err(text)?;
        let run = || {
            connection
                .prepare_cached(sql)?
                .query_row(arguments.map(ToSqlOutput::Borrowed), |row| {
                    row.get_ref(0).map(answer)
                })
        };
        run().map_err(|error| text(&error))
    })
}

/// # Safety
///
/// As for [`argument`].
unsafe fn value<'a>(arguments: *mut *mut ffi::sqlite3_value, at: usize) -> ValueRef<'a> {
    // SAFETY: the caller vouches for the argument.
    unsafe {
        let raw = *arguments.add(at);
        match ffi::sqlite3_value_type(raw) {
            ffi::SQLITE_INTEGER => ValueRef::Integer(ffi::sqlite3_value_int64(raw)),
            ffi::SQLITE_FLOAT => ValueRef::Real(ffi::sqlite3_value_double(raw)),
            ffi::SQLITE_TEXT => ValueRef::Text(argument(arguments, at).unwrap_or_default()),
            ffi::SQLITE_BLOB => ValueRef::Blob(argument(arguments, at).unwrap_or_default()),
            _ => ValueRef::Null,
        }
    }
}

/// The characters of a text up to its first NUL.
fn characters(text: &[u8]) -> HashSet<&[u8]> {
    let mut found = HashSet::new();
    let mut rest = text.split(|byte| *byte == 0).next().unwrap_or(&[]);
    while let Some(first) = rest.first() {
        let continued = rest[1..].iter().take_while(|byte| *byte & 0xc0 == 0x80);
        let length = if *first >= 0xc0 {
            1 + continued.count()
        } else {
            1
        };
        let (character, tail) = rest.split_at(length);
        found.insert(character);
        rest = tail;
    }
    found
}

#[cfg(test)]
mod tests {

    use rusqlite::limits::Limit;
    use rusqlite::types::Value;

    use super::super::testing::{TestResult, code, fresh};
    use super::*;

    /// One with SQLite's functions and one with ours.
    fn connections() -> rusqlite::Result<(Connection, Connection)> {
        super::super::configure_process();
        let (theirs, ours) = (Connection::open_in_memory()?, Connection::open_in_memory()?);
        for connection in [&theirs, &ours] {
            connection.set_limit(Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 50)?;
        }
        install(&ours)?;
        Ok((theirs, ours))
    }

    #[test]
    fn as_sqlite_has_them() -> TestResult {
        let (theirs, ours) = connections()?;
        let values = [
            "NULL",
            "''",
            "x''",
            "'a'",
            "'aa'",
            "'abcabc'",
            "'bc'",
            "'é'",
            "'aéaéß'",
            "'ßé'",
            "x'61'",
            "x'c3a9'",
            "x'a9'",
            "cast(x'a961' AS TEXT)",
            "x'00'",
            "'a' || char(0) || 'b'",
            "1",
            "12.5",
            "1e300",
            "-0.0",
            "10",
            "'🦀a🦀'",
            "'🦀'",
            "char(0)",
            "'aXbXa'",
            "'abXé'",
        ];
        let read = |connection: &Connection, sql: &str| -> rusqlite::Result<Value> {
            connection.query_row(sql, [], |row| row.get(0))
        };
        for a in values {
            for b in values {
                for call in [
                    format!("instr({a}, {b})"),
                    format!("replace({a}, {b}, 'xé')"),
                    format!("replace({a}, {b}, '')"),
                    format!("replace({a}, {b}, NULL)"),
                    format!("replace('banana', {a}, {b})"),
                    format!("trim({a}, {b})"),
                    format!("ltrim({a}, {b})"),
                    format!("rtrim({a}, {b})"),
                ] {
                    let sql = format!("SELECT hex({call}) || typeof({call})");
                    assert_eq!(read(&ours, &sql)?, read(&theirs, &sql)?, "{call}");
                }
            }
        }
        Ok(())
    }

    #[test]
    fn patterns_match_as_sqlite_matches_them() -> TestResult {
        let (theirs, ours) = connections()?;
        let mut random = fastrand::Rng::with_seed(7);
        let mut some = |pieces: &[&str], most: usize| -> Vec<u8> {
            let count = random.usize(..=most);
            let pieces = (0..count).map(|_| pieces[random.usize(..pieces.len())]);
            pieces.collect::<String>().into_bytes()
        };
        let pattern = [
            "a", "A", "b", "é", "É", "%", "%", "_", "*", "*", "?", "[", "]", "[ab]", "[^a]",
            "[a-c]", "[]a]", "[é-ü]", "!", "-", "^", "\u{0}",
        ];
        let text = [
            "a", "A", "b", "c", "é", "ü", "%", "_", "]", "[", "!", "-", "\u{0}",
        ];
        let sql = "SELECT ?1 LIKE ?2, ?1 LIKE ?2 ESCAPE '!', ?1 LIKE ?2 ESCAPE '%', ?1 GLOB ?2, \
                   cast(?1 AS TEXT) LIKE cast(?2 AS TEXT), like(?2, NULL), glob(NULL, ?1)";
        let read = |connection: &Connection, text: &[u8], pattern: &[u8]| {
            connection
                .prepare_cached(sql)?
                .query_row((text, pattern), |row| {
                    (0..7)
                        .map(|at| row.get(at))
                        .collect::<rusqlite::Result<Vec<Value>>>()
                })
        };
        for round in 0..20_000 {
            let mut text = some(&text, 8);
            let mut pattern = some(&pattern, 7);
            if round % 5 == 0 {
                // Not UTF-8.
                text.insert(text.len() / 2, 0xc3);
                text.push(0xa9);
                pattern.insert(0, [0xa9, 0xc3, 0xff][round % 3]);
            }
            let what = || format!("{text:?} {pattern:?}");
            assert_eq!(
                read(&ours, &text, &pattern)?,
                read(&theirs, &text, &pattern)?,
                "{}",
                what()
            );
        }
        let error = |connection: &Connection, sql: &str| {
            let result = connection.query_row(sql, [], |row| row.get::<_, Value>(0));
            result.expect_err("an error").to_string()
        };
        for sql in [
            "SELECT 'a' LIKE 'a' ESCAPE ''",
            "SELECT 'a' LIKE 'a' ESCAPE 'ab'",
            "SELECT 'a' LIKE printf('%.*c', 51, '%')",
        ] {
            assert_eq!(error(&ours, sql), error(&theirs, sql), "{sql}");
        }
        Ok(())
    }

    #[test]
    fn an_index_helps_patterns() -> TestResult {
        let (_folder, storage) = fresh();
        storage.exec(
            "CREATE TABLE t (a TEXT, b TEXT COLLATE NOCASE); \
             CREATE INDEX i ON t (a); CREATE INDEX j ON t (b)",
        )?;
        let plan = |condition: &str| -> crate::Result<String> {
            let sql = format!("EXPLAIN QUERY PLAN SELECT 1 FROM t WHERE {condition}");
            let (.., detail): (i64, i64, i64, String) = storage.sql().exec(&sql, ())?.one_as()?;
            Ok(detail)
        };
        let helped = |condition: &str| plan(condition).map(|plan| plan.starts_with("SEARCH"));
        assert!(helped("a GLOB 'x*'")?);
        assert!(helped("b LIKE 'x%'")?);
        assert!(helped("b LIKE 'x%' ESCAPE '!'")?);
        assert!(!helped("a LIKE 'x%'")?);
        assert!(!helped("b GLOB 'x*'")?);
        let on = "PRAGMA case_sensitive_like = ON; ";
        let plan = |condition: &str| -> crate::Result<String> {
            let sql = format!("{on}EXPLAIN QUERY PLAN SELECT 1 FROM t WHERE {condition}");
            let (.., detail): (i64, i64, i64, String) = storage.sql().exec(&sql, ())?.one_as()?;
            Ok(detail)
        };
        assert!(plan("a LIKE 'x%'")?.starts_with("SEARCH"));
        assert!(!plan("b LIKE 'x%'")?.starts_with("SEARCH"));
        assert_eq!(storage.integers(&format!("{on}SELECT 'A' LIKE 'a'"))?, [0]);
        // Ours it is still.
        assert!(helped("b LIKE 'x%'")?);
        assert_eq!(storage.integers("SELECT 'A' LIKE 'a'")?, [1]);
        let _cursor = storage.sql().exec("SELECT 1 UNION ALL SELECT 2", ())?;
        let refused = storage.exec("PRAGMA case_sensitive_like = ON; SELECT 1");
        assert_eq!(code(refused), "sql-refused");
        assert_eq!(storage.integers("SELECT 'A' LIKE 'a'")?, [1]);
        Ok(())
    }

    #[test]
    fn what_is_bounded_is_as_sqlite_has_it() -> TestResult {
        let (theirs, ours) = connections()?;
        let read = |connection: &Connection, sql: &str| -> Result<Value, String> {
            let result = connection.query_row(sql, [], |row| row.get(0));
            result.map_err(|error| match error {
                rusqlite::Error::SqliteFailure(_, Some(message)) => message,
                other => other.to_string(),
            })
        };
        let values = [
            "NULL",
            "1",
            "2.5",
            "''",
            "'{'",
            "'[1,2]'",
            r#"'{"a":1,"b":{"c":2}}'"#,
            r#"'{"a":null,"b":{"d":[3.0]}}'"#,
            r#"jsonb('{"b":1e400}')"#,
            "x'00'",
        ];
        for a in values {
            for b in values {
                for call in [
                    format!("json_patch({a}, {b})"),
                    format!("hex(jsonb_patch({a}, {b}))"),
                    format!("hex(unhex({a}, {b}))"),
                    format!("json_array(json_patch({a}, {b}))"),
                ] {
                    let sql = format!("SELECT {call}");
                    assert_eq!(read(&ours, &sql), read(&theirs, &sql), "{call}");
                }
            }
        }
        let (_folder, storage) = fresh();
        let long = "'\"' || printf('%.*c', 2000000, 'a') || '\"'";
        for function in ["json_patch", "jsonb_patch", "unhex"] {
            let large = storage.exec(&format!("SELECT {function}({long}, {long})"));
            assert_eq!(code(large), "limit-exceeded");
        }
        Ok(())
    }

    #[test]
    fn large_arguments_take_no_long_time() -> TestResult {
        let (_folder, storage) = fresh();
        // Within the time limit for SQL: quadratic, they would take minutes.
        let long = |letter: char| format!("printf('%.*c', 2000000, '{letter}')");
        let (a, b) = (long('a'), long('b'));
        for (sql, expected) in [
            (format!("instr({a}, substr({a}, 1000000) || 'b')"), 0),
            (
                format!("length(replace({a}, substr({a}, 1000000) || 'b', ''))"),
                2_000_000,
            ),
            (format!("length(trim({a}, {b} || 'a'))"), 0),
        ] {
            assert_eq!(storage.integers(&format!("SELECT {sql}"))?, [expected]);
        }
        assert!(
            storage
                .exec(&format!("SELECT replace({a}, 'a', 'bcd')"))
                .is_err()
        );
        assert_eq!(storage.broken(), None);
        Ok(())
    }
}
