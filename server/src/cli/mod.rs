//! The command line.

mod args;
mod call;
mod cbor;
mod classes;
mod kv;
mod objects;
mod output;
mod schema;
mod serve;
mod sql;

#[cfg(test)]
mod tests;

use std::{
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

use clap::{Parser, Subcommand};
use tokio::{runtime, task::LocalSet};
use vatwerk_client::LocalClient;

use crate::Server;
use args::{ClientVerb, SchemaVerb};

use output::Failure;

/// Exit code for bad usage.
const USAGE: u8 = 2;

/// Serves durable objects, and talks to whoever does
#[derive(Parser)]
#[command(
    name = "vatwerk",
    version,
    after_help = "Data goes to stdout, talk to stderr. Exit codes: 0 done, 1 the call failed, \
                  2 bad usage, 3 cannot connect."
)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Serve objects
    Serve(serve::Serve),
    #[command(flatten)]
    Client(ClientVerb),
}

/// Runs the command line of a server with these classes.
pub fn run(server: Server) -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
    match Cli::parse().verb {
        Verb::Serve(serve) => serve.run(server),
        Verb::Client(verb) => client_verb(&verb),
    }
}

/// Does what a verb asks of a vat, with data on stdout and talk on stderr, and says how the process
/// should end: 0 done, 1 the call failed, 2 bad usage, 3 cannot connect.
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
        .block_on(&runtime, do_verb(verb, &mut out))
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
async fn do_verb(verb: &ClientVerb, out: &mut dyn io::Write) -> Result<(), Failure> {
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
