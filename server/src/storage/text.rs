//! Where one SQL statement ends and the next begins, by SQLite's own lexical rules.

/// `sql` without the blanks, comments and stray semicolons it starts with.
pub(crate) fn skip_blank(sql: &str) -> &str {
    let mut rest = sql;
    loop {
        let before = rest;
        rest = rest.trim_start_matches(|c| is_blank(c) || c == ';');
        if rest.starts_with("--") || rest.starts_with("/*") {
            rest = &rest[token(rest)..];
        }
        if rest.len() == before.len() {
            return rest;
        }
    }
}

/// The first statement of `sql`, without its semicolon, and what follows it.
pub(crate) fn split(sql: &str) -> (&str, &str) {
    let mut at = 0;
    let mut trigger = Trigger::Start;
    while at < sql.len() {
        let length = token(&sql[at..]);
        let word = &sql[at..at + length];
        if word == ";" && trigger.may_end() {
            return (&sql[..at], &sql[at + 1..]);
        }
        trigger = trigger.next(word);
        at += length;
    }
    (sql, "")
}

/// Whether the first word of `sql`, which starts with no blank, is this one.
pub(crate) fn starts_with_word(sql: &str, word: &str) -> bool {
    !sql.is_empty() && sql[..token(sql)].eq_ignore_ascii_case(word)
}

/// How far into `CREATE TRIGGER ... BEGIN ...; END` we are: inside it a semicolon ends the statement
/// only after `; END`.
#[derive(Clone, Copy, PartialEq)]
enum Trigger {
    Start,
    Explain,
    Create,
    No,
    Body,
    Semicolon,
    End,
}

impl Trigger {
    fn may_end(self) -> bool {
        !matches!(self, Trigger::Body | Trigger::Semicolon)
    }

    fn next(self, token: &str) -> Trigger {
        let is = |word: &str| token.eq_ignore_ascii_case(word);
        if token.starts_with(is_blank) || token.starts_with("--") || token.starts_with("/*") {
            return self;
        }
        match self {
            Trigger::Start if is("explain") => Trigger::Explain,
            Trigger::Explain if is("query") || is("plan") => Trigger::Explain,
            Trigger::Start | Trigger::Explain if is("create") => Trigger::Create,
            Trigger::Create if is("temp") || is("temporary") => Trigger::Create,
            Trigger::Create if is("trigger") => Trigger::Body,
            Trigger::Body | Trigger::Semicolon | Trigger::End if token == ";" => Trigger::Semicolon,
            Trigger::Semicolon if is("end") => Trigger::End,
            Trigger::Body | Trigger::Semicolon | Trigger::End => Trigger::Body,
            _ => Trigger::No,
        }
    }
}

/// The length of the token that `sql`, which is not empty, starts with.
pub(crate) fn token(sql: &str) -> usize {
    let bytes = sql.as_bytes();
    let until = |mark: &str, from: usize| {
        sql.get(from..)
            .and_then(|rest| rest.find(mark))
            .map_or(sql.len(), |found| from + found + mark.len())
    };
    match bytes[0] {
        b'-' if bytes.get(1) == Some(&b'-') => until("\n", 2),
        b'/' if bytes.get(1) == Some(&b'*') => until("*/", 2),
        // A doubled quote reads as two tokens side by side, which splits no differently.
        b'\'' => until("'", 1),
        b'"' => until("\"", 1),
        b'`' => until("`", 1),
        b'[' => until("]", 1),
        byte if is_word(byte) => bytes
            .iter()
            .position(|&byte| !is_word(byte))
            .unwrap_or(sql.len()),
        _ => 1,
    }
}

/// More than SQLite skips, for the statement cache trims this much.
fn is_blank(character: char) -> bool {
    character.is_whitespace() || character == '\u{feff}'
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statements(sql: &str) -> Vec<&str> {
        let mut found = Vec::new();
        let mut rest = skip_blank(sql);
        while !rest.is_empty() {
            let (first, tail) = split(rest);
            found.push(first);
            rest = skip_blank(tail);
        }
        found
    }

    #[test]
    fn splits_as_sqlite_does() {
        let cases: &[(&str, &[&str])] = &[
            ("", &[]),
            (" ;; -- x\n /* y */ ;", &[]),
            ("-- only a comment", &[]),
            ("/* unterminated", &[]),
            ("select 1", &["select 1"]),
            (
                "select ';' ; select \";\" ;",
                &["select ';' ", "select \";\" "],
            ),
            ("select 'it''s; ok';x", &["select 'it''s; ok'", "x"]),
            ("select [a;b], `c;d`; y", &["select [a;b], `c;d`", "y"]),
            ("a -- ;\n b; c /* ; */ d", &["a -- ;\n b", "c /* ; */ d"]),
            (
                "create trigger t after insert on u begin select 1; select 2; end; select 3",
                &[
                    "create trigger t after insert on u begin select 1; select 2; end",
                    "select 3",
                ],
            ),
            (
                "CREATE TEMP TRIGGER t AFTER INSERT ON u BEGIN SELECT 1; /* x */ END ;z",
                &[
                    "CREATE TEMP TRIGGER t AFTER INSERT ON u BEGIN SELECT 1; /* x */ END ",
                    "z",
                ],
            ),
            (
                "create table trigger_(end); b",
                &["create table trigger_(end)", "b"],
            ),
            ("select 'unterminated; x", &["select 'unterminated; x"]),
            ("select 'é;ß' as é; b", &["select 'é;ß' as é", "b"]),
            ("\u{feff}select 1;\u{feff}", &["select 1"]),
            ("-", &["-"]),
            ("\u{a0}\x0b", &[]),
        ];
        for (sql, expected) in cases {
            assert_eq!(statements(sql), *expected, "{sql}");
        }
    }
}
