//! `vatwerk serve`.

use std::{io::Write, path::PathBuf, process::ExitCode};

use clap::Args;
use tokio::{
    signal::unix::{SignalKind, signal},
    task::LocalSet,
};
use vatwerk::Address;

use crate::{Config, Server};

/// What `serve` may be told.
#[derive(Args, Debug)]
pub(super) struct Serve {
    /// The data folder; made if there is none [default: data] [env: VATWERK_DATA]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,

    /// Where to listen, any number of times: tcp:HOST:PORT (port 0: any) or unix:PATH [default:
    /// tcp:127.0.0.1:7447 and unix:DATA/vat.sock]
    #[arg(long, value_name = "ADDR")]
    listen: Vec<Address>,

    /// Listen even where other machines can reach the vat: it asks nobody who they are
    #[arg(long)]
    insecure: bool,

    /// Settings, as TOML; options given here go before them
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Serve {
    fn config(&self) -> Result<Config, String> {
        let mut config = match &self.config {
            Some(path) => std::fs::read_to_string(path)
                .map_err(|e| e.to_string())
                .and_then(|text| toml::from_str(&text).map_err(|e| e.to_string()))
                .map_err(|e| format!("{}: {e}", path.display()))?,
            None => Config::default(),
        };
        if let Some(data) = super::data_folder(self.data.as_ref()) {
            config.data = data;
        }
        if !self.listen.is_empty() {
            config.listen = Some(self.listen.clone());
        }
        config.insecure |= self.insecure;
        Ok(config)
    }

    /// Serves until a signal says stop.
    pub fn run(&self, server: Server) -> ExitCode {
        let config = match self.config() {
            Ok(config) => config,
            Err(problem) => {
                eprintln!("error: {problem}");
                return ExitCode::from(super::USAGE);
            }
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let served = runtime.map_err(|e| e.to_string()).and_then(|runtime| {
            let tasks = LocalSet::new();
            tasks.block_on(&runtime, serve(server.config(config)))
        });
        match served {
            Ok(()) => ExitCode::SUCCESS,
            Err(problem) => {
                eprintln!("error: {problem}");
                ExitCode::FAILURE
            }
        }
    }
}

async fn serve(server: Server) -> Result<(), String> {
    // Before anything else, so that a signal is never the end of a vat that has begun.
    let mut terminate = signal(SignalKind::terminate()).map_err(|e| e.to_string())?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|e| e.to_string())?;
    let running = server.start().await.map_err(|e| e.to_string())?;
    for address in running.addresses() {
        // `tcp:HOST:PORT` is told as `tcp HOST:PORT`.
        let told = address.to_string().replacen(':', " ", 1);
        // Nobody has to read it.
        let _ = writeln!(std::io::stdout(), "listening {told}");
    }
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping; a second signal stops at once");
    tokio::select! {
        () = running.stop() => tracing::info!("stopped"),
        _ = terminate.recv() => tracing::warn!("stopped without draining"),
        _ = interrupt.recv() => tracing::warn!("stopped without draining"),
    }
    Ok(())
}
