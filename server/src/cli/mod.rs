//! The command line: `serve`, and the verbs of a client. A server of a user's own has the same.

pub mod args;
mod call;
mod cbor;
mod classes;
mod json;
mod kv;
mod objects;
mod output;
mod schema;
mod serve;
mod sql;

#[cfg(test)]
mod tests;

use std::{
    env,
    ffi::OsString,
    io::{self, Write},
    process::ExitCode,
};

use clap::{Parser, Subcommand};
use tokio::{runtime, task::LocalSet};
use tracing_subscriber::EnvFilter;
use vatwerk_client::LocalClient;

use crate::Server;
use args::{ClientVerb, SchemaVerb};

pub use output::Failure;

/// Exit code for bad usage.
const USAGE: u8 = 2;

/// Durable objects as Cap'n Proto capabilities: a server, and a client for any of them
///
/// Exit codes: 0 done, 1 it failed, 2 bad usage, 3 cannot connect. Bad usage is what is wrong with
/// the arguments themselves, such as JSON that does not parse or a number out of range. What only
/// the vat can tell is 1: a class or method it does not have, parameters that do not fit the method,
/// a key that is not there. So is a file that cannot be read or written.
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
    #[command(flatten)]
    Client(ClientVerb),
}

/// What a variable of the environment says, if it says anything: set but empty is unset.
fn environment(name: &str) -> Option<OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}

/// Runs the command line of a server with these classes: what its `main` returns.
pub fn run(server: Server) -> ExitCode {
    match Cli::parse().verb {
        Verb::Serve(serve) => {
            let filter = EnvFilter::builder().with_default_directive(tracing::Level::INFO.into());
            tracing_subscriber::fmt()
                .with_env_filter(filter.from_env_lossy())
                .with_writer(io::stderr)
                .with_ansi(io::IsTerminal::is_terminal(&io::stderr()))
                .init();
            serve.run(server)
        }
        Verb::Client(verb) => client_verb(&verb),
    }
}

/// Does what a verb asks of a vat, with data on stdout and talk on stderr.
fn client_verb(verb: &ClientVerb) -> ExitCode {
    let runtime = match runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start: {error}");
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
                eprintln!("{message}");
            }
            failure.exit_code()
        }
    }
}

/// Does what a verb asks, and prints to `out`. Must run inside a [`LocalSet`].
async fn perform(verb: &ClientVerb, out: &mut dyn io::Write) -> Result<(), Failure> {
    let connect = async |target: &args::Target| LocalClient::connect(&target.address()).await;
    match verb {
        ClientVerb::Call(args) => call::call(&connect(&args.target).await?, args, out).await,
        ClientVerb::Kv(args) => kv::kv(&connect(&args.target).await?, args, out).await,
        ClientVerb::Sql(args) => sql::sql(&connect(&args.target).await?, args, out).await,
        ClientVerb::Objects(args) => {
            objects::objects(&connect(&args.target).await?, args, out).await
        }
        ClientVerb::Classes(args) => {
            classes::classes(&connect(&args.target).await?, args, out).await
        }
        ClientVerb::Schema(args) => {
            let SchemaVerb::Export { dir, connect } = &args.verb;
            schema::export(dir)?;
            if let Some(address) = connect {
                schema::export_vat(&LocalClient::connect(address).await?, dir).await?;
            }
            Ok(())
        }
    }
}
