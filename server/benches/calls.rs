//! A call that does nothing, through a stub to an object, beside the floor under every remote call:
//! the same echo of 64 bytes served by bare `capnp-rpc`. Over a unix socket, 64 calls in flight, one
//! thread on each side. Each row is another way to serve it; rounds of all rows alternate, and a
//! row's result is the median of its rounds.
//!
//! `cargo bench -p vatwerk-server --bench calls [-- CALLS_PER_ROUND]`

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::os::unix::net::UnixStream as StdStream;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use capnp::capability::FromClientHook;
use capnp_rpc::rpc_twoparty_capnp::Side;
use capnp_rpc::{RpcSystem, twoparty};
use futures::AsyncReadExt;
use futures::io::{BufReader, BufWriter};
use tokio::net::UnixStream;
use tokio::task::LocalSet;
use tokio_util::compat::TokioAsyncReadCompatExt;
use vatwerk::{storage_capnp::operations, vat_capnp::vat};
use vatwerk_server::{
    Class, Context,
    catalog::Catalog,
    env::{Clock, RealDisk},
    folder::Folder,
    gateway::network,
    health::{self, Health, Names, Thread},
    journal::{self, Commits, Journal},
    metrics::Metrics,
    object::{Directory, Host, Limits, Parts, Registry},
    storage::Vfs,
    vat::Vat,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const IN_FLIGHT: usize = 64;
const ROUNDS: usize = 5;
const DEFAULT_CALLS: usize = 60_000;
const PAYLOAD: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// Returns the key as the value.
struct Echo;

impl operations::Server for Echo {
    async fn get(
        self: Rc<Self>,
        params: operations::GetParams,
        mut results: operations::GetResults,
    ) -> Result<(), capnp::Error> {
        let key = params.get()?.get_key()?;
        results.get().init_value().set_bytes(key.as_bytes());
        Ok(())
    }
}

/// One way to serve the echo on a connection until it ends.
struct Row {
    name: &'static str,
    serve: fn(UnixStream) -> LocalServe,
    /// Who calls it: the stock client is slower than the server it measures.
    client: fn(UnixStream) -> (capnp::capability::Client, RpcSystem<Side>),
    /// From the bootstrap capability to the echo.
    target: fn(capnp::capability::Client) -> operations::Client,
}

type LocalServe = std::pin::Pin<Box<dyn Future<Output = ()>>>;

const ROWS: &[Row] = &[
    Row {
        name: "bare capnp-rpc",
        serve: |stream| {
            Box::pin(async move {
                let _ = RpcSystem::new(Box::new(stock(stream, Side::Server)), Some(echo())).await;
            })
        },
        client: stock_client,
        target: |bootstrap| bootstrap.cast_to(),
    },
    Row {
        name: "on vatwerk's network",
        serve: |stream| Box::pin(serve(stream, echo())),
        client: stock_client,
        target: |bootstrap| bootstrap.cast_to(),
    },
    Row {
        name: "an object, by its stub",
        serve: |stream| Box::pin(async move { serve(stream, vat().await).await }),
        client: stock_client,
        target: stub,
    },
    Row {
        name: "bare, fast client",
        serve: |stream| (ROWS[0].serve)(stream),
        client: fast_client,
        target: |bootstrap| bootstrap.cast_to(),
    },
    Row {
        name: "object, fast client",
        serve: |stream| (ROWS[2].serve)(stream),
        client: fast_client,
        target: stub,
    },
];

async fn serve(stream: UnixStream, bootstrap: capnp::capability::Client) {
    let (read, write) = stream.into_split();
    network::serve(read, write, network::Limits::default(), bootstrap)
        .ended()
        .await;
}

/// The echo as an object.
impl Class for Echo {
    const NAME: &'static str = "Echo";
    const SCHEMA: &'static [u8] = vatwerk::CODE_GENERATOR_REQUEST;
    type Client = operations::Client;

    async fn activate(_: Context) -> capnp::Result<Self> {
        Ok(Echo)
    }
}

/// The bootstrap capability of a vat that serves it. Its folder is removed when the thread ends.
async fn vat() -> capnp::capability::Client {
    let data = tempfile::tempdir().expect("a temporary folder");
    let folder = Folder::open(data.path()).expect("a data folder");
    let mut classes = Registry::default();
    classes.register::<Echo>().expect("one class");
    let settings = journal::Settings::default();
    let (journal, _) = Journal::open(
        Arc::new(RealDisk::default()),
        folder.layout(),
        &settings,
        |_| {},
    )
    .expect("a journal");
    let vfs = Vfs::register(journal.clone());
    let catalog = Catalog::open(&vfs, Clock::default()).expect("a catalog");
    let metrics = Metrics::new("", 0);
    let health = Health::new(health::Limits::default(), Names::default());
    let host = Host::new(Parts {
        classes,
        catalog,
        commits: Commits::new(journal),
        vfs,
        limits: Limits::default(),
        bindings: HashMap::new(),
        clock: Clock::default(),
        metrics: metrics.clone(),
        thread: Thread::new(health, metrics),
    });
    FOLDERS.with(|folders| folders.borrow_mut().push(data));
    let vat: vat::Client = capnp_rpc::new_client(Vat::new(Directory::new(host), Vec::new(), 0));
    vat.client
}

thread_local! {
    static FOLDERS: RefCell<Vec<tempfile::TempDir>> = const { RefCell::new(Vec::new()) };
}

/// The stub of an object, from the bootstrap capability of its vat.
fn stub(bootstrap: capnp::capability::Client) -> operations::Client {
    let vat: vat::Client = bootstrap.cast_to();
    let session = vat.authenticate_request().send().pipeline.get_session();
    let mut namespace = session.namespace_request();
    namespace.get().init_key().set_class_name("Echo");
    let namespace = namespace.send().pipeline.get_namespace();
    let mut object = namespace.get_by_name_request();
    object.get().set_object_name("bench");
    object.send().pipeline.get_object().cast_to()
}

fn stock_client(stream: UnixStream) -> (capnp::capability::Client, RpcSystem<Side>) {
    let mut system = RpcSystem::new(Box::new(stock(stream, Side::Client)), None);
    (system.bootstrap(Side::Server), system)
}

/// The server's network as a client: it names the other side `Client` whoever that is.
fn fast_client(stream: UnixStream) -> (capnp::capability::Client, RpcSystem<Side>) {
    let (read, write) = stream.into_split();
    let (network, _) = network::Network::new(read, write, network::Limits::default());
    let mut system = RpcSystem::new(Box::new(network), None);
    (system.bootstrap(Side::Client), system)
}

fn echo() -> capnp::capability::Client {
    let client: operations::Client = capnp_rpc::new_client(Echo);
    client.client
}

fn stock(
    stream: UnixStream,
    side: Side,
) -> twoparty::VatNetwork<BufReader<futures::io::ReadHalf<tokio_util::compat::Compat<UnixStream>>>>
{
    let (read, write) = stream.compat().split();
    let (read, write) = (BufReader::new(read), BufWriter::new(write));
    twoparty::VatNetwork::new(read, write, side, Default::default())
}

fn on_this_thread(run: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    LocalSet::new().block_on(&runtime, run);
}

fn tokio_stream(stream: StdStream) -> UnixStream {
    stream.set_nonblocking(true).expect("a socket");
    UnixStream::from_std(stream).expect("a socket")
}

/// CPU time of the calling thread.
fn thread_cpu() -> Duration {
    let mut usage = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the pointer is to a timespec of ours, and the clock exists on every Linux.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut usage) };
    assert_eq!(failed, 0);
    Duration::new(usage.tv_sec as u64, usage.tv_nsec as u32)
}

/// What a round measured.
struct Round {
    calls_per_second: f64,
    server_cpu_us: f64,
}

fn round(row: &Row, calls: usize) -> Round {
    let (ours, theirs) = StdStream::pair().expect("a socket pair");
    let (serve, client, target) = (row.serve, row.client, row.target);
    let server = std::thread::spawn(move || {
        on_this_thread(async move { serve(tokio_stream(theirs)).await });
        thread_cpu()
    });
    let elapsed = Cell::new(Duration::ZERO);
    on_this_thread(async {
        let (client, system) = client(tokio_stream(ours));
        let disconnect = system.get_disconnector();
        tokio::task::spawn_local(system);
        let client = target(client);
        call_all(&client, calls / 10).await;
        let started = Instant::now();
        call_all(&client, calls).await;
        elapsed.set(started.elapsed());
        let _ = disconnect.await;
    });
    let server_cpu = server.join().expect("the server ran");
    Round {
        calls_per_second: calls as f64 / elapsed.get().as_secs_f64(),
        server_cpu_us: server_cpu.as_secs_f64() * 1e6 / (calls + calls / 10) as f64,
    }
}

/// Makes `calls` calls, `IN_FLIGHT` at a time.
async fn call_all(client: &operations::Client, calls: usize) {
    let left = Cell::new(calls);
    let caller = || async {
        while left.get() > 0 {
            left.set(left.get() - 1);
            let mut request = client.get_request();
            request.get().set_key(PAYLOAD);
            let response = request.send().promise.await.expect("an answer");
            let value = response.get().and_then(|r| r.get_value()).expect("a value");
            match value.which() {
                Ok(vatwerk::storage_capnp::value::Bytes(Ok(data))) => {
                    assert_eq!(data.len(), PAYLOAD.len());
                }
                _ => panic!("not an echo"),
            }
        }
    };
    futures::future::join_all((0..IN_FLIGHT).map(|_| caller())).await;
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let calls = std::env::args()
        .skip(1)
        .find_map(|argument| argument.parse().ok())
        .unwrap_or(DEFAULT_CALLS);
    let mut rounds: Vec<Vec<Round>> = ROWS.iter().map(|_| Vec::new()).collect();
    for _ in 0..ROUNDS {
        for (row, rounds) in ROWS.iter().zip(&mut rounds) {
            rounds.push(round(row, calls));
        }
    }
    let speed = |rounds: &[Round]| median(rounds.iter().map(|r| r.calls_per_second).collect());
    let cpu = |rounds: &[Round]| median(rounds.iter().map(|r| r.server_cpu_us).collect());
    let base = speed(&rounds[0]);
    println!(
        "{:<24} {:>10} {:>7} {:>18}",
        "row", "calls/s", "ratio", "server us/call"
    );
    for (row, rounds) in ROWS.iter().zip(&rounds) {
        let speed = speed(rounds);
        println!(
            "{:<24} {:>10.0} {:>7.2} {:>18.2}",
            row.name,
            speed,
            speed / base,
            cpu(rounds)
        );
    }
}
