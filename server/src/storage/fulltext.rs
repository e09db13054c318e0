//! `highlight` and `snippet` of FTS5 with SQLite's results, in time that grows with the length of the
//! text: SQLite's own copy all of the result for each phrase that is found, and compare each phrase with
//! all others.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ops::Range;

use rusqlite::{Connection, ffi};

use super::authorizer::ours;
use super::functions::{answer, argument, check};
use super::meter;

type Code = c_int;

/// How many tokens are looked at between two reports of the work.
const REPORT: usize = 1 << 10;

/// The longest snippet, in tokens.
const MAX_SNIPPET: i64 = 64;

/// Puts our functions in place of FTS5's.
pub(super) fn install(connection: &Connection) -> rusqlite::Result<()> {
    let mut api: *mut ffi::fts5_api = std::ptr::null_mut();
    let mut statement = std::ptr::null_mut();
    // SAFETY: this is how FTS5 hands out its interface: it writes a pointer, which is good as long as
    // the connection, to where the bound pointer points.
    unsafe {
        let sql = concat!(ours!("SELECT fts5(?1)"), "\0");
        check(ffi::sqlite3_prepare_v2(
            connection.handle(),
            sql.as_ptr().cast(),
            -1,
            &raw mut statement,
            std::ptr::null_mut(),
        ))?;
        let kind = c"fts5_api_ptr".as_ptr();
        ffi::sqlite3_bind_pointer(statement, 1, (&raw mut api).cast(), kind, None);
        ffi::sqlite3_step(statement);
        check(ffi::sqlite3_finalize(statement))?;
        let functions: [(&CStr, ffi::fts5_extension_function); 2] =
            [(c"highlight", Some(highlight)), (c"snippet", Some(snippet))];
        let create = api.as_ref().and_then(|api| api.xCreateFunction);
        let create = create.ok_or(rusqlite::Error::InvalidQuery)?;
        for (name, function) in functions {
            let data = std::ptr::null_mut();
            check(create(api, name.as_ptr(), data, function, None))?;
        }
    }
    Ok(())
}

/// A row that a query has found.
#[derive(Clone, Copy)]
struct Row {
    api: *const ffi::Fts5ExtensionApi,
    context: *mut ffi::Fts5Context,
}

/// A phrase of the query where it was found, in tokens.
struct Instance {
    phrase: usize,
    column: c_int,
    tokens: Range<i64>,
}

/// Calls a function of FTS5's interface with the context.
macro_rules! call {
    ($row:expr, $function:ident $(, $argument:expr)*) => {{
        // SAFETY: FTS5 gave both pointers to the function that is running, with all of its functions
        // there, and takes what it says it takes.
        let function = unsafe { (*$row.api).$function };
        match function {
            // SAFETY: as above.
            Some(function) => unsafe { function($row.context $(, $argument)*) },
            None => return Err(ffi::SQLITE_INTERNAL),
        }
    }};
}

fn ok(code: Code) -> Result<(), Code> {
    if code == ffi::SQLITE_OK {
        Ok(())
    } else {
        Err(code)
    }
}

impl Row {
    /// Where the phrases of the query are, in order.
    fn instances(self) -> Result<Vec<Instance>, Code> {
        let mut count = 0;
        ok(call!(self, xInstCount, &raw mut count))?;
        let mut instances = Vec::new();
        for at in 0..count {
            report(usize::try_from(at).unwrap_or(0))?;
            let (mut phrase, mut column, mut token) = (0, 0, 0);
            ok(call!(
                self,
                xInst,
                at,
                &raw mut phrase,
                &raw mut column,
                &raw mut token
            ))?;
            let length: c_int = call!(self, xPhraseSize, phrase);
            let start = i64::from(token);
            instances.push(Instance {
                phrase: usize::try_from(phrase).unwrap_or(0),
                column,
                tokens: start..start + i64::from(length),
            });
        }
        Ok(instances)
    }

    fn phrases(self) -> Result<usize, Code> {
        Ok(usize::try_from(call!(self, xPhraseCount)).unwrap_or(0))
    }

    fn columns(self) -> Result<c_int, Code> {
        Ok(call!(self, xColumnCount))
    }

    /// How many tokens the column has.
    fn tokens(self, column: c_int) -> Result<i64, Code> {
        let mut tokens = 0;
        ok(call!(self, xColumnSize, column, &raw mut tokens))?;
        Ok(tokens.into())
    }

    /// The text of the column. `None` for null.
    fn text(&self, column: c_int) -> Result<Option<&[u8]>, Code> {
        let (mut text, mut length) = (std::ptr::null(), 0);
        ok(call!(
            self,
            xColumnText,
            column,
            &raw mut text,
            &raw mut length
        ))?;
        // SAFETY: FTS5 has written both, and keeps the text while the function runs.
        Ok(unsafe { bytes(text, length) })
    }

    /// Calls `token` with the bytes of each token of the column, in order.
    fn tokenize(
        self,
        column: c_int,
        token: &mut dyn FnMut(Range<usize>) -> Result<(), Code>,
    ) -> Result<(), Code> {
        let text = self.text(column)?.unwrap_or_default();
        let (mut locale, mut locale_length) = (std::ptr::null(), 0);
        ok(call!(
            self,
            xColumnLocale,
            column,
            &raw mut locale,
            &raw mut locale_length
        ))?;
        let mut state = Tokenizing { token, count: 0 };
        ok(call!(
            self,
            xTokenize_v2,
            text.as_ptr().cast(),
            c_int::try_from(text.len()).unwrap_or(0),
            locale,
            locale_length,
            (&raw mut state).cast(),
            Some(each_token)
        ))
    }
}

/// # Safety
///
/// So many bytes are there for as long as the result is used, or the pointer is null.
unsafe fn bytes<'a>(start: *const c_char, length: c_int) -> Option<&'a [u8]> {
    let length = usize::try_from(length).ok()?;
    // SAFETY: the caller vouches for them.
    (!start.is_null()).then(|| unsafe { std::slice::from_raw_parts(start.cast(), length) })
}

/// Counts work now and then. The error: the deadline has passed.
fn report(at: usize) -> Result<(), Code> {
    // A token takes about as long as comparing so many bytes.
    const BYTES: usize = 16;
    if at % REPORT == REPORT - 1 && !meter::spend(REPORT * BYTES) {
        return Err(ffi::SQLITE_INTERRUPT);
    }
    Ok(())
}

struct Tokenizing<'a> {
    token: &'a mut dyn FnMut(Range<usize>) -> Result<(), Code>,
    count: usize,
}

unsafe extern "C" fn each_token(
    state: *mut c_void,
    flags: c_int,
    _: *const c_char,
    _: c_int,
    start: c_int,
    end: c_int,
) -> c_int {
    // SAFETY: it is what `Row::tokenize` gave, which waits.
    let state = unsafe { &mut *state.cast::<Tokenizing<'_>>() };
    if flags & ffi::FTS5_TOKEN_COLOCATED != 0 {
        return ffi::SQLITE_OK;
    }
    state.count += 1;
    let place = |at| usize::try_from(at).unwrap_or(0);
    let result = report(state.count).and_then(|()| (state.token)(place(start)..place(end)));
    result.err().unwrap_or(ffi::SQLITE_OK)
}

/// Text with marks around the phrases that were found.
struct Marked<'a> {
    text: &'a [u8],
    /// What is put before a phrase and after it.
    marks: [&'a [u8]; 2],
    /// The phrases of the column that are left; those that overlap are one.
    left: std::iter::Peekable<std::vec::IntoIter<Range<i64>>>,
    /// The tokens that are shown, the last included; all, unless the last is at least 0.
    shown: (i64, i64),
    out: Vec<u8>,
    /// How far `text` has been shown.
    at: usize,
    open: bool,
    token: i64,
}

impl<'a> Marked<'a> {
    fn new(
        text: &'a [u8],
        marks: [&'a [u8]; 2],
        instances: &[Instance],
        column: c_int,
    ) -> Marked<'a> {
        let mut merged: Vec<Range<i64>> = Vec::new();
        for instance in instances.iter().filter(|found| found.column == column) {
            match merged.last_mut() {
                Some(last) if instance.tokens.start < last.end => {
                    last.end = last.end.max(instance.tokens.end);
                }
                _ => merged.push(instance.tokens.clone()),
            }
        }
        Marked {
            text,
            marks,
            left: merged.into_iter().peekable(),
            shown: (0, -1),
            out: Vec::new(),
            at: 0,
            open: false,
            token: 0,
        }
    }

    /// The phrase at hand: its first token and its last. -1 for none.
    fn phrase(&mut self) -> (i64, i64) {
        let phrase = self.left.peek();
        phrase.map_or((-1, -1), |tokens| (tokens.start, tokens.end - 1))
    }

    fn show(&mut self, to: usize) {
        self.out
            .extend_from_slice(self.text.get(self.at..to).unwrap_or_default());
        self.at = to;
    }

    fn mark(&mut self, open: bool) {
        self.out.extend_from_slice(self.marks[usize::from(!open)]);
        self.open = open;
    }

    /// Shows the next token, which has these bytes.
    fn token(&mut self, place: Range<usize>) {
        let token = self.token;
        self.token += 1;
        let (first, last) = self.shown;
        if last >= 0 {
            if token < first || token > last {
                return;
            }
            if first > 0 && token == first {
                self.at = place.start;
            }
        }
        let phrase = self.phrase();
        // What two tokens have between them belongs to neither phrase.
        if self.open && (token <= phrase.0 || phrase.0 < 0) && place.start > self.at {
            self.mark(false);
        }
        if token == phrase.0 && !self.open {
            self.show(place.start);
            self.mark(true);
        }
        if token == phrase.1 {
            if !self.open {
                // It began before what is shown.
                self.mark(true);
            }
            self.show(place.end);
            self.left.next();
        }
        if token == last {
            if self.open {
                let (start, _) = self.phrase();
                if start >= 0 && token >= start {
                    self.show(place.end);
                }
                self.mark(false);
            }
            self.show(place.end);
        }
    }
}

unsafe extern "C" fn highlight(
    api: *const ffi::Fts5ExtensionApi,
    context: *mut ffi::Fts5Context,
    result: *mut ffi::sqlite3_context,
    count: c_int,
    arguments: *mut *mut ffi::sqlite3_value,
) {
    // SAFETY: FTS5 calls this with so many arguments.
    unsafe {
        if count != 3 {
            let text = c"wrong number of arguments to function highlight()";
            return ffi::sqlite3_result_error(result, text.as_ptr(), -1);
        }
        let marks = [text(arguments, 1), text(arguments, 2)];
        finish(
            result,
            highlighted(Row { api, context }, integer(arguments, 0), marks),
        );
    }
}

fn highlighted(row: Row, column: c_int, marks: [&[u8]; 2]) -> Result<Option<Vec<u8>>, Code> {
    let text = match row.text(column) {
        Err(ffi::SQLITE_RANGE) => return Ok(Some(Vec::new())),
        text => text?,
    };
    let Some(text) = text else { return Ok(None) };
    let mut marked = Marked::new(text, marks, &row.instances()?, column);
    row.tokenize(column, &mut |place| {
        marked.token(place);
        Ok(())
    })?;
    if marked.open {
        marked.mark(false);
    }
    marked.show(text.len());
    Ok(Some(marked.out))
}

unsafe extern "C" fn snippet(
    api: *const ffi::Fts5ExtensionApi,
    context: *mut ffi::Fts5Context,
    result: *mut ffi::sqlite3_context,
    count: c_int,
    arguments: *mut *mut ffi::sqlite3_value,
) {
    // SAFETY: FTS5 calls this with so many arguments.
    unsafe {
        if count != 5 {
            let text = c"wrong number of arguments to function snippet()";
            return ffi::sqlite3_result_error(result, text.as_ptr(), -1);
        }
        let wanted = Wanted {
            column: integer(arguments, 0),
            marks: [text(arguments, 1), text(arguments, 2)],
            ellipsis: text(arguments, 3),
            tokens: ffi::sqlite3_value_int64(*arguments.add(4)).clamp(0, MAX_SNIPPET),
        };
        finish(result, snipped(Row { api, context }, &wanted));
    }
}

struct Wanted<'a> {
    /// Any column if it is negative.
    column: c_int,
    marks: [&'a [u8]; 2],
    ellipsis: &'a [u8],
    tokens: i64,
}

/// The best place for a snippet so far.
struct Best {
    score: i64,
    column: c_int,
    start: i64,
    /// How many tokens its column has; 0 while that is not known.
    size: i64,
}

fn snipped(row: Row, wanted: &Wanted<'_>) -> Result<Option<Vec<u8>>, Code> {
    let instances = row.instances()?;
    let mut seen = vec![0; row.phrases()?];
    let mut best = Best {
        score: 0,
        column: wanted.column.max(0),
        start: 0,
        size: 0,
    };
    for column in 0..row.columns()? {
        if wanted.column >= 0 && wanted.column != column {
            continue;
        }
        let first = instances.partition_point(|found| found.column < column);
        let end = instances.partition_point(|found| found.column <= column);
        best_of_column(
            row,
            wanted,
            (column, &instances[first..end]),
            &mut seen,
            &mut best,
        )?;
    }
    let Some(text) = row.text(best.column)? else {
        return Ok(None);
    };
    if best.size == 0 {
        best.size = row.tokens(best.column)?;
    }
    let mut marked = Marked::new(text, wanted.marks, &instances, best.column);
    let last = best.start + wanted.tokens - 1;
    marked.shown = (best.start, last);
    if best.start > 0 {
        marked.out.extend_from_slice(wanted.ellipsis);
    }
    while marked
        .left
        .next_if(|phrase| phrase.start < best.start)
        .is_some()
    {}
    row.tokenize(best.column, &mut |place| {
        marked.token(place);
        Ok(())
    })?;
    if marked.open {
        marked.mark(false);
    }
    if last >= best.size - 1 {
        marked.show(text.len());
    } else {
        marked.out.extend_from_slice(wanted.ellipsis);
    }
    Ok(Some(marked.out))
}

/// Tries a snippet around each phrase of the column, and from the start of the sentence it is in.
fn best_of_column(
    row: Row,
    wanted: &Wanted<'_>,
    (column, instances): (c_int, &[Instance]),
    seen: &mut [usize],
    best: &mut Best,
) -> Result<(), Code> {
    let sentences = sentences(row, column)?;
    let size = row.tokens(column)?;
    let (mut tries, mut steps) = (0, 0);
    let mut score = |from: i64| -> Result<(i64, i64), Code> {
        let start = instances.partition_point(|found| found.tokens.start < from);
        let inside = instances[start..]
            .iter()
            .take_while(|found| found.tokens.start < from + wanted.tokens);
        tries += 1;
        let (mut score, mut first, mut last) = (0, -1, 0);
        for found in inside {
            steps += 1;
            report(steps)?;
            // Which of the tries has seen the phrase before.
            let before = seen.get_mut(found.phrase).ok_or(ffi::SQLITE_CORRUPT_VTAB)?;
            score += if *before == tries { 1 } else { 1000 };
            *before = tries;
            if first < 0 {
                first = found.tokens.start;
            }
            last = found.tokens.end;
        }
        let centred = first - (wanted.tokens - (last - first)) / 2;
        Ok((score, centred.min(size - wanted.tokens).max(0)))
    };
    for found in instances {
        let token = found.tokens.start;
        if token > size {
            return Err(ffi::SQLITE_CORRUPT_VTAB);
        }
        let mut consider = |score: i64, start: i64| {
            if score > best.score {
                *best = Best {
                    score,
                    column,
                    start,
                    size,
                };
            }
        };
        let (around, centred) = score(token)?;
        consider(around, centred);
        if size <= wanted.tokens {
            continue;
        }
        let sentence = sentences.partition_point(|start| *start <= token);
        if let Some(&start) = sentences.get(sentence.saturating_sub(1))
            && start < token
        {
            let bonus = if start == 0 { 120 } else { 100 };
            consider(score(start)?.0 + bonus, start);
        }
    }
    // Tries of the next column are none of these.
    seen.fill(0);
    Ok(())
}

/// The tokens that sentences begin with.
fn sentences(row: Row, column: c_int) -> Result<Vec<i64>, Code> {
    let text = row.text(column)?.unwrap_or_default();
    let mut starts = Vec::new();
    let mut token = 0;
    row.tokenize(column, &mut |place| {
        let before = text.get(..place.start).unwrap_or_default();
        let blank = |byte: &&u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
        let mut backwards = before.iter().rev();
        let is_start = token == 0
            || before.last().as_ref().is_some_and(blank)
                && matches!(backwards.find(|byte| !blank(byte)), Some(b'.' | b':'));
        if is_start {
            starts.push(token);
        }
        token += 1;
        Ok(())
    })?;
    Ok(starts)
}

/// # Safety
///
/// There is such an argument.
unsafe fn integer(arguments: *mut *mut ffi::sqlite3_value, at: usize) -> c_int {
    // SAFETY: the caller vouches for it.
    let value = unsafe { ffi::sqlite3_value_int64(*arguments.add(at)) };
    c_int::try_from(value.clamp(c_int::MIN.into(), c_int::MAX.into())).unwrap_or(0)
}

/// The text of an argument, up to a NUL.
///
/// # Safety
///
/// There is such an argument, and its value is not used otherwise while the result is.
unsafe fn text<'a>(arguments: *mut *mut ffi::sqlite3_value, at: usize) -> &'a [u8] {
    // SAFETY: the caller vouches for it.
    let text = unsafe { argument(arguments, at) }.unwrap_or_default();
    text.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// # Safety
///
/// The context is that of a function that is being called.
unsafe fn finish(result: *mut ffi::sqlite3_context, text: Result<Option<Vec<u8>>, Code>) {
    // SAFETY: the caller vouches for it. The text is copied.
    unsafe {
        match text {
            Ok(Some(text)) => answer(result, &text),
            Ok(None) => ffi::sqlite3_result_null(result),
            Err(code) => ffi::sqlite3_result_error_code(result, code),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::TestResult;
    use super::*;

    #[test]
    fn phrases_are_shown_as_sqlite_shows_them() -> TestResult {
        super::super::configure_process();
        let (theirs, ours) = (Connection::open_in_memory()?, Connection::open_in_memory()?);
        install(&ours)?;
        let mut random = fastrand::Rng::with_seed(11);
        let words = [
            "a", "b", "c", "A", "é", "d", "e", "f", ". a", ": b", ".  c", "\n", ",", "-x", "..",
        ];
        let documents: Vec<(String, Option<String>)> = (0..60)
            .map(|round| {
                let mut text = |most: usize| {
                    let count = random.usize(..=most);
                    let words = (0..count).map(|_| words[random.usize(..words.len())]);
                    words.collect::<Vec<_>>().join(" ")
                };
                let most = if round % 3 == 0 { 400 } else { 30 };
                (text(most), (round % 7 != 0).then(|| text(most / 2)))
            })
            .collect();
        for connection in [&theirs, &ours] {
            connection.execute_batch("CREATE VIRTUAL TABLE t USING fts5 (x, y)")?;
            for document in &documents {
                connection.execute("INSERT INTO t VALUES (?1, ?2)", (&document.0, &document.1))?;
            }
        }
        let queries = [
            "a",
            "a b",
            "a OR b",
            "\"a b\" OR \"b c\"",
            "\"a b c\" OR a OR c",
            "x : a",
            "y : b",
            "NEAR(a b, 4)",
            "é",
            "a*",
            "^a",
            "\"a a\" OR \"a a a\"",
            "y : (a OR x)",
        ];
        let calls: Vec<String> = ["0", "1", "-1", "2", "99"]
            .iter()
            .flat_map(|column| {
                let snippets = ["0", "1", "3", "10", "64", "65", "-1"].iter();
                let snippets = snippets.map(move |tokens| {
                    format!("quote(snippet(t, {column}, '[', ']', '~', {tokens}))")
                });
                snippets.chain([format!("quote(highlight(t, {column}, '[', ']'))")])
            })
            .chain([
                "quote(highlight(t, 0, NULL, ''))".to_owned(),
                "quote(snippet(t, 0, 1, NULL, NULL, 'x'))".to_owned(),
            ])
            .collect();
        for call in &calls {
            let sql = format!("SELECT rowid, {call} FROM t WHERE t MATCH ?1 ORDER BY rowid");
            for query in queries {
                let read = |connection: &Connection| -> Result<Vec<(i64, String)>, String> {
                    let mut statement =
                        connection.prepare_cached(&sql).map_err(|e| e.to_string())?;
                    let rows = statement.query_map([query], |row| Ok((row.get(0)?, row.get(1)?)));
                    let rows = rows.map_err(|error| error.to_string())?;
                    rows.collect::<rusqlite::Result<_>>()
                        .map_err(|error| error.to_string())
                };
                assert_eq!(read(&ours), read(&theirs), "{call} {query}");
            }
        }
        Ok(())
    }
}
