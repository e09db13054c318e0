//! `LIKE` and `GLOB` with SQLite's results, in time that grows with the length of the text, and that is
//! looked at meanwhile.

use std::ffi::{CStr, c_int, c_void};

use rusqlite::{Connection, ffi};

use super::functions::{argument, register};
use super::meter;

/// How many characters are compared between two reports of the work.
const REPORT: usize = 1 << 14;

/// What the characters of a pattern mean. SQLite reads the first three, to see whether an index helps.
#[repr(C)]
struct Dialect {
    /// Stands for any characters.
    all: u8,
    /// Stands for one character.
    one: u8,
    /// Begins a set of characters; 0 if there are none.
    set: u8,
    /// Whether ASCII letters match those of the other case.
    folds: bool,
}

static LIKE: Dialect = Dialect {
    all: b'%',
    one: b'_',
    set: 0,
    folds: true,
};

static SENSITIVE_LIKE: Dialect = Dialect {
    folds: false,
    ..LIKE
};

static GLOB: Dialect = Dialect {
    all: b'*',
    one: b'?',
    set: b'[',
    folds: false,
};

/// Puts our `GLOB` and `LIKE` in place of SQLite's.
pub(super) fn install(connection: &Connection) -> rusqlite::Result<()> {
    create(connection, c"glob", 2, &GLOB)?;
    install_like(connection, false)
}

/// Puts our `LIKE` in place of what is there. SQLite refuses while a statement runs.
pub(super) fn install_like(connection: &Connection, sensitive: bool) -> rusqlite::Result<()> {
    let dialect = if sensitive { &SENSITIVE_LIKE } else { &LIKE };
    create(connection, c"like", 2, dialect)?;
    create(connection, c"like", 3, dialect)?;
    // Each marks itself when it is called: see `mark`.
    connection.query_row(
        super::authorizer::ours!("SELECT glob('', ''), like('', ''), like('', '', '!')"),
        [],
        |_| Ok(()),
    )
}

fn create(
    connection: &Connection,
    name: &CStr,
    arguments: c_int,
    dialect: &'static Dialect,
) -> rusqlite::Result<()> {
    let data = std::ptr::from_ref(dialect).cast_mut().cast();
    register(connection, name, arguments, data, matches)
}

/// The start of SQLite's `sqlite3_context`.
#[repr(C)]
struct Call {
    result: *mut c_void,
    function: *mut Definition,
}

/// The start of SQLite's `FuncDef`.
#[repr(C)]
struct Definition {
    arguments: i16,
    flags: u32,
    data: *mut c_void,
}

/// Tells SQLite that the function is one that an index can help. There is a flag for this, and no way
/// to set it for a function that is not SQLite's own; without it `GLOB 'a*'` would read the whole
/// table. If SQLite's structures are not what they were, this does nothing.
///
/// # Safety
///
/// The context is that of a function of ours that is being called with so many arguments.
unsafe fn mark(context: *mut ffi::sqlite3_context, arguments: c_int, dialect: &Dialect) {
    const LIKE: u32 = 0x4;
    const CASE: u32 = 0x8;
    // SAFETY: a context of SQLite's begins with two pointers, the second of which is to the function's
    // definition: of this connection, which is not used otherwise while the function runs. That it is
    // ours is checked by two values that are known.
    unsafe {
        let function = (*context.cast::<Call>()).function;
        let data = std::ptr::from_ref(dialect).cast_mut().cast::<c_void>();
        if i32::from((*function).arguments) == arguments && (*function).data == data {
            (*function).flags |= if dialect.folds { LIKE } else { LIKE | CASE };
        }
    }
}

unsafe extern "C" fn matches(
    context: *mut ffi::sqlite3_context,
    count: c_int,
    arguments: *mut *mut ffi::sqlite3_value,
) {
    // SAFETY: SQLite calls this with two or three arguments, and with the dialect it was made with.
    unsafe {
        let dialect = &*ffi::sqlite3_user_data(context).cast::<Dialect>();
        let database = ffi::sqlite3_context_db_handle(context);
        let most = ffi::sqlite3_limit(database, ffi::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, -1);
        let pattern = argument(arguments, 0);
        let fail = |text: &CStr| ffi::sqlite3_result_error(context, text.as_ptr(), -1);
        if pattern.is_some_and(|pattern| pattern.len() > usize::try_from(most).unwrap_or(0)) {
            return fail(c"LIKE or GLOB pattern too complex");
        }
        let mut escape = 0;
        if count == 3 {
            let Some(text) = argument(arguments, 2) else {
                return;
            };
            let text = before_nul(text);
            let (first, length) = character(text);
            if text.is_empty() || length != text.len() {
                return fail(c"ESCAPE expression must be a single character");
            }
            escape = first;
        }
        let (Some(pattern), Some(text)) = (pattern, argument(arguments, 1)) else {
            return;
        };
        if pattern.is_empty() {
            mark(context, count, dialect);
        }
        match does_match(pattern, text, dialect, escape) {
            Some(matches) => ffi::sqlite3_result_int(context, matches.into()),
            None => ffi::sqlite3_result_error_code(context, ffi::SQLITE_INTERRUPT),
        }
    }
}

/// Whether the whole text matches. `None`: the deadline has passed.
fn does_match(pattern: &[u8], text: &[u8], dialect: &Dialect, escape: u32) -> Option<bool> {
    let (pattern, text) = (before_nul(pattern), before_nul(text));
    // What is the escape means nothing else.
    let special = |byte: u8| {
        if u32::from(byte) == escape {
            u32::MAX
        } else {
            byte.into()
        }
    };
    let (all, one) = (special(dialect.all), special(dialect.one));
    let (mut at, mut from) = (0, 0);
    // After the last `all`: where the pattern goes on, and where in the text it was tried.
    let mut retry = None;
    let mut steps = 0;
    loop {
        steps += 1;
        if steps % REPORT == 0 && !meter::spend(REPORT) {
            return None;
        }
        let next = match pattern.get(at..) {
            None | Some([]) if from == text.len() => return Some(true),
            None | Some([]) => None,
            Some(rest) => {
                let (wanted, length) = character(rest);
                if wanted == all {
                    at += length;
                    if at == pattern.len() {
                        return Some(true);
                    }
                    from = skip_to(&pattern[at..], text, from, dialect, escape)?;
                    retry = Some((at, from));
                    continue;
                }
                if from == text.len() {
                    return Some(false);
                }
                element(rest, &text[from..], dialect, one, escape)
            }
        };
        (at, from) = match (next, retry) {
            (Some((pattern, text)), _) => (at + pattern, from + text),
            (None, None) => return Some(false),
            (None, Some((start, tried))) if tried < text.len() => {
                let tried = tried + character(&text[tried..]).1;
                let tried = skip_to(&pattern[start..], text, tried, dialect, escape)?;
                retry = Some((start, tried));
                (start, tried)
            }
            (None, Some(_)) => return Some(false),
        };
    }
}

/// Where from `from` on the pattern, which follows an `all`, may begin to match. `None`: the deadline
/// has passed.
fn skip_to(
    pattern: &[u8],
    text: &[u8],
    from: usize,
    dialect: &Dialect,
    escape: u32,
) -> Option<usize> {
    let first = pattern[0];
    let is_special = [dialect.all, dialect.one, dialect.set].contains(&first)
        || u32::from(first) == escape
        || !first.is_ascii();
    if is_special {
        return Some(from);
    }
    let (lower, upper) = (first.to_ascii_lowercase(), first.to_ascii_uppercase());
    let found = if dialect.folds {
        memchr::memchr2(lower, upper, &text[from..])
    } else {
        memchr::memchr(first, &text[from..])
    };
    let skipped = found.unwrap_or(text.len() - from);
    // It is much faster than comparing characters.
    meter::spend(skipped / 16).then_some(from + skipped)
}

/// Whether the first element of the pattern, which is not an `all`, matches the first character of the
/// text: how long both are.
fn element(
    pattern: &[u8],
    text: &[u8],
    dialect: &Dialect,
    one: u32,
    escape: u32,
) -> Option<(usize, usize)> {
    let (found, found_length) = character(text);
    let (mut wanted, mut length) = character(pattern);
    if escape != 0 && wanted == escape {
        if length == pattern.len() {
            return None;
        }
        let escaped = character(&pattern[length..]);
        wanted = escaped.0;
        length += escaped.1;
    } else if dialect.set != 0 && wanted == u32::from(dialect.set) {
        let length = set(pattern, found)?;
        return Some((length, found_length));
    } else if wanted == one {
        return Some((length, found_length));
    }
    let fold = |character: u32| u8::try_from(character).map_or(0, |byte| byte.to_ascii_lowercase());
    let is_same = wanted == found
        || dialect.folds && wanted < 0x80 && found < 0x80 && fold(wanted) == fold(found);
    is_same.then_some((length, found_length))
}

/// How long the set is that the pattern begins with, if it has the character in it.
fn set(pattern: &[u8], found: u32) -> Option<usize> {
    let (close, caret, dash) = (u32::from(b']'), u32::from(b'^'), u32::from(b'-'));
    let mut at = 1;
    let mut next = || {
        let rest = pattern.get(at..).filter(|rest| !rest.is_empty())?;
        let (character, length) = character(rest);
        at += length;
        Some((character, at))
    };
    let (mut member, mut end) = next()?;
    let inverted = member == caret;
    if inverted {
        (member, end) = next()?;
    }
    let mut seen = false;
    if member == close {
        seen = found == close;
        (member, end) = next()?;
    }
    let mut before = 0;
    while member != close {
        let ends = matches!(pattern.get(end), None | Some(b']'));
        if member == dash && !ends && before > 0 {
            member = next()?.0;
            seen |= (before..=member).contains(&found);
            before = 0;
        } else {
            seen |= found == member;
            before = member;
        }
        (member, end) = next()?;
    }
    (seen != inverted).then_some(end)
}

fn before_nul(text: &[u8]) -> &[u8] {
    &text[..memchr::memchr(0, text).unwrap_or(text.len())]
}

/// The first character of text that may not be UTF-8, as SQLite reads it, and how many bytes it has.
fn character(text: &[u8]) -> (u32, usize) {
    let Some(&first) = text.first() else {
        return (0, 0);
    };
    let first = u32::from(first);
    if first < 0xc0 {
        return (first, 1);
    }
    let bits = match first {
        0xc0..0xe0 => first & 0x1f,
        0xe0..0xf0 => first & 0x0f,
        0xf0..0xf8 => first & 0x07,
        0xf8..0xfc => first & 0x03,
        0xfc..0xfe => first & 0x01,
        _ => 0,
    };
    let continued = text[1..].iter().take_while(|byte| *byte & 0xc0 == 0x80);
    let (character, length) = continued.fold((bits, 1), |(character, length), byte| {
        (
            (character << 6).wrapping_add(u32::from(byte & 0x3f)),
            length + 1,
        )
    });
    if character < 0x80 || character & 0xffff_f800 == 0xd800 {
        return (0xfffd, length);
    }
    (character, length)
}
