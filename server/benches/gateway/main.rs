//! HTTP and WebSockets through the vat's listener, beside the libraries that it is made of, bare, in
//! the same run. Each server is a process of its own with one thread for connections, the class is
//! the example `echo`, and the client is one thread of this program. Rounds of all rows of a table
//! alternate, and a row's result is the median of its rounds.
//!
//! `cargo bench -p vatwerk-server --bench gateway [-- [--short] [http | sockets]]`

#[path = "../../examples/echo.rs"]
mod echo;
mod floor;
mod http;
mod rounds;
mod server;
mod sockets;

use std::{process::ExitCode, time::Duration};

use server::Role;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How much is measured.
struct Options {
    rounds: usize,
    round: Duration,
    /// The length of a body that is sent and received.
    body_bytes: u64,
    /// How many sockets sleep.
    sleepers: usize,
    /// How often an object is woken.
    wakings: usize,
}

const FULL: Options = Options {
    rounds: 5,
    round: Duration::from_secs(1),
    body_bytes: 1 << 30,
    sleepers: 10_000,
    wakings: 100,
};

/// To see that it runs.
const SHORT: Options = Options {
    rounds: 1,
    round: Duration::from_millis(200),
    body_bytes: 64 << 20,
    sleepers: 1000,
    wakings: 5,
};

fn main() -> ExitCode {
    let _ = rlimit::increase_nofile_limit(u64::MAX);
    match Role::told() {
        Some(Role::Vat) => return echo::main(),
        Some(Role::Hyper) => floor::serve(floor::hyper),
        Some(Role::Echo) => floor::serve(floor::echo),
        Some(Role::Broadcast) => floor::serve(floor::broadcast),
        None => {}
    }
    let told: Vec<String> = std::env::args().skip(1).collect();
    let is_told = |word: &str| told.iter().any(|arg| arg == word);
    let options = if is_told("--short") { SHORT } else { FULL };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    tokio::task::LocalSet::new().block_on(&runtime, async {
        if !is_told("sockets") {
            http::measure(&options).await;
        }
        if !is_told("http") {
            sockets::measure(&options).await;
        }
    });
    ExitCode::SUCCESS
}
