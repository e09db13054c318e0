//! `vatwerk check`.

use std::{
    io::{self, StdoutLock, Write},
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Args;
use serde_json::json;

use super::{
    args::Format,
    output::{Array, Failure, line, one_line},
};
use crate::{
    Config,
    check::{self, CheckError, Finding, Options, Progress, Summary, Watcher},
};

/// What `check` may be told.
#[derive(Args, Debug)]
pub(super) struct Check {
    /// The data folder [default: data] [env: VATWERK_DATA]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,

    /// List every object that has a database in the catalog. If the catalog is gone or damaged it is made
    /// anew, and the old one kept as `catalog.sqlite.damaged`: saved references are lost with it, and which
    /// classes are retired
    #[arg(long)]
    rebuild_catalog: bool,

    /// Take every object whose file is gone out of the catalog: what was in it is lost, and its next call
    /// makes it anew. A file that cannot be read is to be moved away before
    #[arg(long)]
    accept_losses: bool,

    /// How to print what is found
    #[arg(long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

impl Check {
    /// Checks, and prints what is found as it is found.
    pub fn run(&self) -> ExitCode {
        let data = super::data_folder(self.data.as_ref()).unwrap_or_else(|| Config::default().data);
        let mut printer = Printer::new(self.output);
        let options = Options {
            rebuild_catalog: self.rebuild_catalog,
            accept_losses: self.accept_losses,
        };
        let checked = check::check(&data, options, &mut printer).and_then(|summary| {
            printer.finish(&summary)?;
            Ok(summary)
        });
        match checked {
            Ok(summary) if summary.problems == 0 => ExitCode::SUCCESS,
            Ok(_) => ExitCode::FAILURE,
            Err(CheckError::Watcher(error)) => {
                let failure = Failure::Stdout(error);
                if let Some(message) = failure.message() {
                    super::complain(&message);
                }
                failure.exit_code()
            }
            Err(error) => {
                super::complain(&format!("error: {}", one_line(&error.to_string())));
                ExitCode::FAILURE
            }
        }
    }
}

/// Prints findings to stdout, and to stderr how far the check is, once it takes its time.
struct Printer {
    format: Format,
    out: io::BufWriter<StdoutLock<'static>>,
    array: Array,
    said: Instant,
}

impl Printer {
    fn new(format: Format) -> Printer {
        Printer {
            format,
            out: io::BufWriter::new(io::stdout().lock()),
            array: Array::default(),
            said: Instant::now(),
        }
    }

    fn finish(mut self, summary: &Summary) -> io::Result<()> {
        let Summary {
            objects,
            recovered,
            problems,
            notes,
        } = summary;
        match self.format {
            Format::Text => line(
                &mut self.out,
                &format!(
                    "summary: {objects} objects, {recovered} commits recovered, {problems} problems, \
                     {notes} notes"
                ),
            )?,
            Format::Json => {
                let summary = json!({
                    "code": "summary",
                    "objects": objects,
                    "recovered": recovered,
                    "problems": problems,
                    "notes": notes,
                });
                self.array.push(&mut self.out, &summary)?;
                self.array.finish(&mut self.out)?;
            }
        }
        self.out.flush()
    }
}

impl Watcher for Printer {
    fn found(&mut self, finding: Finding) -> io::Result<()> {
        let code = finding.kind.word();
        let path = finding.path.to_string_lossy();
        match self.format {
            Format::Text => {
                let told = format!("{code}: {path}: {}", finding.text);
                line(&mut self.out, &one_line(&told))
            }
            Format::Json => {
                let finding = json!({"code": code, "path": path, "text": finding.text});
                self.array.push(&mut self.out, &finding)
            }
        }
    }

    fn progress(&mut self, progress: Progress) {
        const OFTEN: Duration = Duration::from_secs(1);
        if self.said.elapsed() < OFTEN {
            return;
        }
        self.said = Instant::now();
        match progress {
            Progress::Journal(percent) => {
                super::complain(&format!("recovering from the journal: {percent} %"));
            }
            Progress::Objects(objects) => {
                super::complain(&format!("looking at objects: {objects}"));
            }
        }
    }
}
