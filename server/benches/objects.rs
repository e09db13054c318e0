//! What an object costs: its first call when it sleeps on disk, and its memory when it is awake.
//! Calls are made in process, so that the time is the server's own; beside each stands the same work
//! on bare SQLite.
//!
//! `cargo bench -p vatwerk-server --bench objects [-- OBJECTS]`

mod host;

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use capnp::capability::FromClientHook;
use rusqlite::Connection;
use tokio::task::LocalSet;
use vatwerk::counter_capnp::counter;
use vatwerk_server::{classes::Counter, object::Stub, storage};

use host::Vat;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const DEFAULT_OBJECTS: usize = 2000;

/// Set for the process that creates the objects: the data folder.
const CREATE: &str = "VATWERK_BENCH_CREATE";

fn main() {
    let objects = std::env::args()
        .find_map(|arg| arg.parse().ok())
        .unwrap_or(DEFAULT_OBJECTS);
    let _ = rlimit::increase_nofile_limit(u64::MAX);
    let folder = tempfile::tempdir().expect("a temporary folder");
    storage::configure_process();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    // In a process of its own, so that none of its memory is here.
    if let Ok(folder) = std::env::var(CREATE) {
        let created = LocalSet::new().block_on(&runtime, create(Path::new(&folder), objects));
        println!("first call ever (creates)   {:>8.1} us", micros(created));
        return;
    }
    println!("{objects} objects, medians");
    let created = Command::new(std::env::current_exe().expect("this program"))
        .arg(objects.to_string())
        .env(CREATE, folder.path())
        .status();
    assert!(created.expect("it runs").success());
    let before = resident_bytes();
    let tasks = LocalSet::new();
    let (woken, warm, slept, awake) = tasks.block_on(&runtime, async {
        let vat = Vat::serving::<Counter>(folder.path(), objects + 1);
        let woken = call_each(&vat, objects, Work::Get).await;
        let awake = resident_bytes();
        // Once more before, so that everything is there that a call keeps for the next.
        call_each(&vat, objects, Work::Get).await;
        let warm = call_each(&vat, objects, Work::Get).await;
        let started = Instant::now();
        vat.host.sleep_all().await;
        let slept = started.elapsed() / objects as u32;
        (woken, warm, slept, awake)
    });
    drop(tasks);
    let bare = bare_sqlite(folder.path());
    println!("first call, asleep on disk  {:>8.1} us", micros(woken));
    println!("  bare SQLite: open, read   {:>8.1} us", micros(bare));
    println!(
        "  ratio                     {:>8.2}",
        micros(woken) / micros(bare)
    );
    println!("call, awake                 {:>8.1} us", micros(warm));
    println!("put to sleep                {:>8.1} us", micros(slept));
    let kib = awake.saturating_sub(before) as f64 / 1024.0 / objects as f64;
    println!("memory, awake               {kib:>8.1} KiB an object");
}

#[derive(Clone, Copy)]
enum Work {
    Increment,
    Get,
}

async fn create(folder: &Path, objects: usize) -> Duration {
    let vat = Vat::serving::<Counter>(folder, objects + 1);
    let median = call_each(&vat, objects, Work::Increment).await;
    vat.stop().await;
    median
}

/// Calls each object once, and returns the median time of a call.
async fn call_each(vat: &Vat, objects: usize, work: Work) -> Duration {
    let class = vat
        .host
        .classes
        .by_name("Counter")
        .expect("it is served")
        .clone();
    let mut times = Vec::with_capacity(objects);
    for n in 0..objects {
        let name = format!("object-{n}");
        let id = class.ids.of_name(&name).expect("a name");
        let stub = Stub::capability(&vat.host, &class, id, Some(&name));
        let counter = counter::Client::new(stub);
        let started = Instant::now();
        let done = match work {
            Work::Increment => counter.increment_request().send().promise.await.map(|_| ()),
            Work::Get => counter.get_request().send().promise.await.map(|_| ()),
        };
        done.expect("the call succeeds");
        times.push(started.elapsed());
    }
    median(times)
}

/// Opens each database the way a program would that has nothing but SQLite, and reads one value.
fn bare_sqlite(folder: &Path) -> Duration {
    let mut times = Vec::new();
    for file in files(&folder.join("objects")) {
        let started = Instant::now();
        let db = Connection::open(&file).expect("a database");
        let _: Vec<u8> = db
            .query_row("SELECT value FROM _vw_kv WHERE key = 'count'", [], |row| {
                row.get(0)
            })
            .expect("a value");
        times.push(started.elapsed());
    }
    median(times)
}

fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("it").path());
    entries
        .flat_map(|path| {
            if path.is_dir() {
                files(&path)
            } else {
                vec![path]
            }
        })
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "sqlite")
        })
        .collect()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages: u64 = status
        .split_whitespace()
        .nth(1)
        .expect("a field")
        .parse()
        .expect("a number");
    pages * 4096
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
