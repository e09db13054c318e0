//! The command line.

mod serve;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::Server;

/// Exit code for bad usage.
const USAGE: u8 = 2;

#[derive(Parser)]
#[command(name = "vatwerk", version)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Serve objects
    Serve(serve::Serve),
}

/// Runs the command line of a server with these classes.
pub fn run(server: Server) -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    match Cli::parse().verb {
        Verb::Serve(serve) => serve.run(server),
    }
}
