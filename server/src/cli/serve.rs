//! `vatwerk serve`.

use std::{
    io::{self, Write},
    path::PathBuf,
    pin::pin,
    process::{self, ExitCode},
    time::{Duration, Instant},
};

use clap::{Args, ValueEnum};
use tokio::task::LocalSet;
use vatwerk::{Address, InvalidAddress};

use super::{
    complain,
    log::{Log, LogFormat},
    signals::Signals,
};
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

    /// Where objects are reached over HTTP, any number of times: HOST:PORT (port 0: any) or unix:PATH;
    /// none for nowhere. Their methods are, where the schema says $Http.open(true) [default: 127.0.0.1:7448]
    #[arg(long, value_name = "ADDR", value_parser = http_address)]
    http: Vec<HttpAddress>,

    /// Where operators find /metrics, for Prometheus, and /livez, /readyz and /healthz, over HTTP:
    /// HOST:PORT (port 0: any) or unix:PATH [default: nowhere]
    #[arg(long, value_name = "ADDR")]
    metrics: Option<Address>,

    /// Whether alarms are run. With off they stay set, and wait for a start with on: the way out if
    /// alarms keep a vat from working [default: on]
    #[arg(long, value_enum, value_name = "on|off", hide_possible_values = true)]
    alarms: Option<Switch>,

    /// Listen at addresses of --listen even where other machines can reach them: whoever does can do everything
    #[arg(long)]
    listen_insecure: bool,

    /// Listen at addresses of --http even where other machines can reach them: the vat asks nobody who they are
    #[arg(long)]
    http_insecure: bool,

    /// Answer at the address of --metrics even where other machines can reach it
    #[arg(long)]
    metrics_insecure: bool,

    /// Earlier versions had one switch for all listeners.
    #[arg(long, hide = true)]
    insecure: bool,

    /// Serve this class no more, though it has objects here: they are kept, and nobody reaches them
    /// until it is served again. By its name or by its interface's id; any number of times
    #[arg(long, value_name = "CLASS")]
    retire: Vec<String>,

    /// Settings, as TOML; options given here go before them
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// How to write the log
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Switch {
    On,
    Off,
}

/// Where to listen for HTTP, or that it is nowhere.
#[derive(Clone, Debug)]
struct HttpAddress(Option<Address>);

fn http_address(text: &str) -> Result<HttpAddress, InvalidAddress> {
    match text {
        "none" => Ok(HttpAddress(None)),
        text => text.parse().map(|address| HttpAddress(Some(address))),
    }
}

impl Serve {
    fn config(&self) -> Result<Config, String> {
        if self.insecure {
            return Err(
                "--insecure is said of each listener: --listen-insecure, --http-insecure or \
                        --metrics-insecure"
                    .into(),
            );
        }
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
        if let Some(metrics) = &self.metrics {
            config.metrics = Some(metrics.clone());
        }
        if !self.http.is_empty() {
            let said = self
                .http
                .iter()
                .filter_map(|HttpAddress(said)| said.clone());
            config.http.listen = Some(said.collect());
        }
        config.http.listens_by_default = true;
        if let Some(alarms) = self.alarms {
            config.alarms = alarms == Switch::On;
        }
        config.listen_insecure |= self.listen_insecure;
        config.http.insecure |= self.http_insecure;
        config.metrics_insecure |= self.metrics_insecure;
        Ok(config)
    }

    /// Serves until a signal says stop.
    pub fn run(&self, server: Server) -> ExitCode {
        let config = match self.config() {
            Ok(config) => config,
            Err(problem) => {
                complain(&format!("error: {problem}"));
                return ExitCode::from(super::USAGE);
            }
        };
        let log = Log::start(self.log_format);
        let code = self.serve(server, config, &log);
        log.close();
        code
    }

    fn serve(&self, server: Server, config: Config, log: &Log) -> ExitCode {
        let drain = config.drain();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let retire = self.retire.iter().cloned();
        let served = runtime.map_err(|e| e.to_string()).and_then(|runtime| {
            let tasks = LocalSet::new();
            let lost = log.clone();
            let server = server.config(config).log_records_lost(move || lost.lost());
            let server = retire.fold(server, Server::retire);
            let served = tasks.block_on(&runtime, serve(server, drain, log));
            drop(tasks);
            // Threads that a disk or a class holds end with the process.
            runtime.shutdown_background();
            served
        });
        match served {
            Ok(()) => ExitCode::SUCCESS,
            Err(problem) => {
                // After the records that lead to it.
                log.close();
                complain(&format!("error: {problem}"));
                ExitCode::FAILURE
            }
        }
    }
}

async fn serve(server: Server, drain: Duration, log: &Log) -> Result<(), String> {
    // Before anything else, so that a signal is never the end of a vat that has begun.
    let mut signals = Signals::take(log.clone()).map_err(|e| e.to_string())?;
    let running = server.start().await.map_err(|e| e.to_string())?;
    signals.supervise(running.health().clone(), drain);
    for address in running.addresses() {
        // `tcp:HOST:PORT` is told as `tcp HOST:PORT`.
        say_listening(&address.to_string().replacen(':', " ", 1));
    }
    let over_http = running.http_addresses().iter().map(|it| ("http", it));
    let metrics = running.metrics_address().map(|it| ("metrics", it));
    for (what, address) in over_http.chain(metrics) {
        let address = address.to_string();
        let told = address.strip_prefix("tcp:").unwrap_or(&address);
        say_listening(&format!("{what} {told}"));
    }
    let health = running.health().clone();
    let lost = health.folder_lost();
    let mut lost = pin!(lost);
    tokio::select! {
        () = signals.next() => {}
        () = &mut lost => leave(log),
    }
    // The time that a turn has held the thread since is part of it.
    let came = signals.first().unwrap_or_else(Instant::now);
    let mut stop = pin!(running.stop_by((came + drain).into()));
    tokio::select! {
        () = &mut lost => leave(log),
        () = &mut stop => tracing::info!("stopped"),
        () = signals.next() => {
            tracing::warn!("stopped without draining");
            log.close();
            // Not even what is dropped otherwise may wait for the disk.
            process::exit(0);
        }
    }
    Ok(())
}

/// Ends the process whose data folder is gone, before it writes to whatever is there now.
fn leave(log: &Log) -> ! {
    tracing::error!("stopped without draining: the data folder is lost");
    log.close();
    process::exit(1);
}

fn say_listening(told: &str) {
    // Nobody has to read it.
    let _ = writeln!(io::stdout(), "listening {told}");
}
