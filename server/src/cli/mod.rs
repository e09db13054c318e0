//! The command line: `serve`, and the verbs of a client. A server of a user's own has the same.

mod alarms;
pub mod args;
mod call;
mod cbor;
mod check;
mod classes;
mod dump;
mod json;
mod kv;
mod log;
mod objects;
mod output;
mod schema;
mod script;
mod serve;
mod signals;
mod sql;

#[cfg(test)]
mod tests;

use std::{
    env,
    ffi::OsString,
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use clap::{Parser, Subcommand};
use tokio::{
    runtime,
    task::LocalSet,
    time::{Instant, timeout},
};
use vatwerk::Code;
use vatwerk_client::{Client, LocalClient};

use crate::Server;
use args::{ClientVerb, SchemaVerb};

pub use output::Failure;

/// How long a verb tries to connect, at most.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Exit code for bad usage.
const USAGE: u8 = 2;

/// Durable objects as Cap'n Proto capabilities: a server, and a client for any of them
///
/// Exit codes: 0 done, 1 it failed, 2 bad usage, 3 cannot connect. Bad usage is what is wrong with
/// the arguments themselves, such as JSON that does not parse or a number out of range. What only
/// the vat can tell is 1: a class or method it does not have, parameters that do not fit the method,
/// a key that is not there. So is a file that cannot be read or written, and a call that is not answered
/// within --timeout.
///
/// Names, keys, texts and SQL may start with `-`, unless they are spelled like an option: those go
/// after a `--` that ends the options. An option takes such a value after `=`: --prefix=-a.
///
/// Data goes to stdout, everything else to stderr. Control characters in what people read are
/// escaped, except for texts that `kv get` prints. RUST_LOG says what `serve` logs (default: info).
#[derive(Parser)]
#[command(name = "vatwerk", version)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Serve objects, until SIGTERM or SIGINT
    Serve(serve::Serve),
    /// Look over the data folder of a vat that is stopped
    ///
    /// First everything that the journal says is brought to the objects' files, as at a start. If
    /// the journal is damaged, that is told, nothing is changed, and nothing else is looked at. After
    /// that nothing is written, but by `--rebuild-catalog`: each object's database is looked at, and whether the catalog and the
    /// files tell of the same objects.
    ///
    /// Each finding is a line that starts with a word: `damaged: ` what cannot be read, or
    /// contradicts itself; `missing: ` what should be there; `misplaced: ` what belongs somewhere
    /// else; `unlisted: ` an object that the catalog does not know; `quarantined: ` a file that cannot be
    /// written; `note: ` what is not wrong, such as a file that is no vat's. The last line is a summary. The exit code is 0 if nothing is
    /// wrong, 1 if something is, or if the folder cannot be looked at: there is none, a vat uses it,
    /// or a later version has written it.
    ///
    /// Only the journal has checksums. Of a database the structure is looked at: a value that has
    /// changed on the disk is not noticed. An object that was being made when its vat crashed may be
    /// `missing: ` although nothing is lost: its next call makes it.
    Check(check::Check),
    #[command(flatten)]
    Client(ClientVerb),
}

/// What a variable of the environment says, if it says anything: set but empty is unset.
fn environment(name: &str) -> Option<OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}

/// The data folder, if somebody says which.
fn data_folder(told: Option<&PathBuf>) -> Option<PathBuf> {
    let of_environment = || environment("VATWERK_DATA").map(PathBuf::from);
    told.cloned().or_else(of_environment)
}

/// Runs the command line of a server with these classes: what its `main` returns.
pub fn run(server: Server) -> ExitCode {
    match Cli::parse().verb {
        Verb::Serve(serve) => serve.run(server),
        Verb::Check(check) => check.run(),
        Verb::Client(verb) => client_verb(&verb),
    }
}

/// Writes a line to stderr, if anything reads that.
fn complain(line: &str) {
    _ = writeln!(io::stderr(), "{line}");
}

/// Does what a verb asks of a vat, with data on stdout and talk on stderr.
fn client_verb(verb: &ClientVerb) -> ExitCode {
    let runtime = match runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&format!("error: cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let mut out = io::BufWriter::new(io::stdout().lock());
    let done = LocalSet::new()
        .block_on(&runtime, perform(verb, &mut out))
        // What was printed before an error is worth having too.
        .and(out.flush().map_err(Failure::from));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if let Some(message) = failure.message() {
                complain(&message);
            }
            failure.exit_code()
        }
    }
}

/// Does what a verb asks, and prints to `out`. Must run inside a [`LocalSet`].
async fn perform(verb: &ClientVerb, out: &mut dyn io::Write) -> Result<(), Failure> {
    let target = match verb {
        ClientVerb::Call(args) => &args.target,
        ClientVerb::Kv(args) => &args.target,
        ClientVerb::Sql(args) => &args.target,
        ClientVerb::Objects(args) => &args.target,
        ClientVerb::Alarms(args) => &args.target,
        ClientVerb::Classes(args) => &args.target,
        ClientVerb::Schema(args) => {
            let SchemaVerb::Export {
                dir,
                connect,
                timeout,
            } = &args.verb;
            schema::export(dir)?;
            let Some(address) = connect else {
                return Ok(());
            };
            return with_vat(address, *timeout, async |client| {
                schema::export_vat(client, dir).await
            })
            .await;
        }
    };
    let ask = async |client: &LocalClient| match verb {
        ClientVerb::Call(args) => call::call(client, args, out).await,
        ClientVerb::Kv(args) => kv::kv(client, args, out).await,
        ClientVerb::Sql(args) => sql::sql(client, args, out).await,
        ClientVerb::Objects(args) => objects::objects(client, args, out).await,
        ClientVerb::Alarms(args) => alarms::alarms(client, args, out).await,
        ClientVerb::Classes(args) => classes::classes(client, args, out).await,
        ClientVerb::Schema(_) => unreachable!("it was done above"),
    };
    with_vat(&target.address(), target.timeout, ask).await
}

/// Connects, and does what is to be asked there; all of it within `limit`, if there is one.
async fn with_vat(
    address: &str,
    limit: Option<Duration>,
    ask: impl AsyncFnOnce(&LocalClient) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let began = Instant::now();
    let mut builder = Client::builder().call_timeout(None);
    if let Some(limit) = limit {
        builder = builder.connect_timeout(limit.min(CONNECT_TIMEOUT));
    }
    let client = builder.connect_local(address).await?;
    let Some(limit) = limit else {
        return ask(&client).await;
    };
    let left = limit.saturating_sub(began.elapsed());
    timeout(left, ask(&client)).await.unwrap_or_else(|_| {
        Err(Failure::Here(
            Code::Disconnected,
            format!(
                "not done within {} s (`--timeout`); what was asked for may still be done",
                limit.as_secs_f64()
            ),
        ))
    })
}
