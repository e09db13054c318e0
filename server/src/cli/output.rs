//! Data on stdout, talk on stderr, and what the exit code says.

use std::{io, process::ExitCode};

use capnp::ErrorKind;
use serde_json::Value;
use vatwerk::Code;
use vatwerk_client::Error;

use super::{args::Format, json};

/// Why a verb did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// It was asked in a wrong way.
    #[error("{0}")]
    Usage(String),
    /// There is no vat.
    #[error("{0}")]
    Connect(Error),
    /// The call failed.
    #[error("{0}")]
    Call(Error),
    /// The verb failed without the vat's doing, with the code that says what to do about it.
    #[error("{0}: {1}")]
    Here(Code, String),
    /// A file cannot be read or written; which, and why.
    #[error("{0}: {1}")]
    File(String, io::Error),
    /// Nobody reads stdout, or it cannot be written.
    #[error("cannot write to stdout: {0}")]
    Stdout(#[from] io::Error),
}

impl Failure {
    /// What the process ends with.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            // Whoever read the output has seen enough.
            Failure::Stdout(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                ExitCode::SUCCESS
            }
            Failure::Usage(_) => ExitCode::from(2),
            Failure::Connect(_) => ExitCode::from(3),
            Failure::Call(Error::Call { kind, .. }) => of_kind(*kind),
            Failure::Here(code, _) => of_kind(code.kind()),
            Failure::Call(_) | Failure::File(..) | Failure::Stdout(_) => of_kind(ErrorKind::Failed),
        }
    }

    /// What stderr gets to say, if anything.
    pub fn message(&self) -> Option<String> {
        match self {
            Failure::Stdout(error) if error.kind() == io::ErrorKind::BrokenPipe => None,
            other => Some(format!("error: {}", one_line(&other.to_string()))),
        }
    }

    /// For methods of storage: an object without them gets an error that says so.
    pub fn of_storage(class: &str, error: capnp::Error) -> Self {
        Failure::from(error).on_storage(class)
    }

    /// As [`Failure::of_storage`], of what may have failed otherwise too.
    pub fn on_storage(self, class: &str) -> Self {
        match self {
            Failure::Call(error) if error.code() == Some(Code::Unimplemented) => Failure::Here(
                Code::Unimplemented,
                format!(
                    "objects of `{class}` keep their storage to themselves: kv and sql work on \
                     classes whose objects are storage, such as `Cell`"
                ),
            ),
            other => other,
        }
    }
}

/// The exit code of a call that failed with an error of a kind.
fn of_kind(kind: ErrorKind) -> ExitCode {
    ExitCode::from(match kind {
        ErrorKind::Overloaded => 4,
        ErrorKind::Disconnected => 5,
        ErrorKind::Unimplemented => 6,
        _ => 1,
    })
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Address(_) => Failure::Usage(error.to_string()),
            Error::Connect { .. } => Failure::Connect(error),
            _ => Failure::Call(error),
        }
    }
}

impl From<capnp::Error> for Failure {
    fn from(error: capnp::Error) -> Self {
        Failure::Call(error.into())
    }
}

impl From<capnp::NotInSchema> for Failure {
    fn from(error: capnp::NotInSchema) -> Self {
        Failure::Call(error.into())
    }
}

impl From<std::str::Utf8Error> for Failure {
    fn from(error: std::str::Utf8Error) -> Self {
        Failure::Call(error.into())
    }
}

/// Prints one line.
pub fn line(out: &mut dyn io::Write, text: &str) -> io::Result<()> {
    writeln!(out, "{text}")
}

/// Prints one line of fields that are set apart by tabs.
pub fn fields(out: &mut dyn io::Write, fields: &[impl AsRef<str>]) -> io::Result<()> {
    let fields: Vec<_> = fields
        .iter()
        .map(|field| one_line(field.as_ref()))
        .collect();
    line(out, &fields.join("\t"))
}

/// Text that cannot steer the terminal it is printed on. Lines and tabs stay.
pub fn printable(text: &str) -> String {
    escaped(text, |char| !matches!(char, '\n' | '\t'))
}

/// Like [`printable`], and it is one line, without tabs.
pub fn one_line(text: &str) -> String {
    escaped(text, |_| true)
}

/// The text, with these of its control characters escaped.
fn escaped(text: &str, which: impl Fn(char) -> bool) -> String {
    let mut escaped = String::with_capacity(text.len());
    for char in text.chars() {
        if char.is_control() && which(char) {
            escaped.extend(char.escape_default());
        } else {
            escaped.push(char);
        }
    }
    escaped
}

/// A value and what it is called.
pub type Field = (&'static str, Value);

/// A value as one of several on a line: a string as it is, and nothing for null.
pub fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => json::text(other),
    }
}

/// Prints records of the same fields, one by one: the values on a line each, or a JSON array.
pub struct Records {
    format: Format,
    array: Array,
}

impl Records {
    /// None so far.
    pub fn new(format: Format) -> Records {
        Records {
            format,
            array: Array::default(),
        }
    }

    /// Prints the next record.
    pub fn push(&mut self, out: &mut dyn io::Write, record: &[Field]) -> io::Result<()> {
        match self.format {
            Format::Text => {
                let values: Vec<_> = record.iter().map(|(_, value)| plain(value)).collect();
                fields(out, &values)
            }
            Format::Json => self
                .array
                .push(out, &Value::from_iter(record.iter().cloned())),
        }
    }

    /// Prints the end.
    pub fn finish(self, out: &mut dyn io::Write) -> io::Result<()> {
        match self.format {
            Format::Text => Ok(()),
            Format::Json => self.array.finish(out),
        }
    }
}

/// Prints a JSON array whose elements come one by one, each on a line of its own.
#[derive(Default)]
pub struct Array {
    started: bool,
}

impl Array {
    /// Prints the next element.
    pub fn push(&mut self, out: &mut dyn io::Write, element: &Value) -> io::Result<()> {
        out.write_all(if self.started { b",\n" } else { b"[\n" })?;
        self.started = true;
        out.write_all(json::text(element).as_bytes())
    }

    /// Prints the end.
    pub fn finish(self, out: &mut dyn io::Write) -> io::Result<()> {
        out.write_all(if self.started { b"\n]\n" } else { b"[]\n" })
    }
}
