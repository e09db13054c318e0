//! Alarms: how many are run a second when many are due at once, how late the last is, and how late one
//! is when nothing else happens.
//!
//! `cargo bench -p vatwerk-server --bench alarms [-- OBJECTS]`

mod host;

use std::{cell::RefCell, path::Path, rc::Rc, time::Instant};

use capnp::capability::FromClientHook;
use futures::StreamExt;
use tokio::task::LocalSet;
use vatwerk::{CODE_GENERATOR_REQUEST, counter_capnp::counter};
use vatwerk_server::{AlarmInfo, Class, Context, env, object::Stub, storage};

use host::Vat;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const DEFAULT_OBJECTS: usize = 100_000;

/// How many are set at once.
const IN_FLIGHT: usize = 256;

/// How many may be awake: most are asleep when their alarm comes.
const AWAKE: usize = 5_000;

thread_local! {
    /// How late each alarm was, in milliseconds.
    static LATE: RefCell<Vec<i64>> = const { RefCell::new(Vec::new()) };
}

/// Sets its alarm, to a time in milliseconds, and counts a run.
struct Alarmed(Context);

impl Class for Alarmed {
    const NAME: &'static str = "Alarmed";
    const SCHEMA: &'static [u8] = CODE_GENERATOR_REQUEST;
    const ALARMS: bool = true;
    type Client = counter::Client;

    async fn activate(ctx: Context) -> capnp::Result<Self> {
        Ok(Alarmed(ctx))
    }

    async fn alarm(self: Rc<Self>, alarm: AlarmInfo) -> capnp::Result<()> {
        LATE.with_borrow_mut(|late| late.push(env::now_ms() - alarm.scheduled_ms));
        Ok(self.0.storage().kv().put("ran", &true)?)
    }
}

impl counter::Server for Alarmed {
    async fn increment(
        self: Rc<Self>,
        params: counter::IncrementParams,
        _: counter::IncrementResults,
    ) -> capnp::Result<()> {
        Ok(self.0.alarms()?.set(params.get()?.get_amount())?)
    }
}

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
    LocalSet::new().block_on(&runtime, measure(folder.path(), objects));
}

async fn measure(folder: &Path, objects: usize) {
    let vat = Vat::serving::<Alarmed>(folder, AWAKE);
    // Setting them takes a while.
    let started = Instant::now();
    let due_ms = env::now_ms() + 5_000 + objects as i64;
    let set_all = futures::stream::iter(0..objects)
        // All within one second.
        .map(|n| set(&vat, n, due_ms + (n * 1000 / objects) as i64))
        .buffer_unordered(IN_FLIGHT);
    set_all.collect::<()>().await;
    let took = started.elapsed();
    println!("{objects} objects, of which {AWAKE} may be awake");
    println!("set: {:.0} a second", objects as f64 / took.as_secs_f64());
    assert!(env::now_ms() < due_ms, "setting them took too long");
    vat.host.schedule();
    vat.host.clock.sleep_until(due_ms).await;
    let started = Instant::now();
    ran(objects).await;
    let took = started.elapsed();
    let late = sorted();
    println!(
        "all due within one second: {:.0} run a second, half of them within {} ms, the last {} ms late",
        objects as f64 / took.as_secs_f64(),
        late[objects / 2],
        late[objects - 1],
    );
    const ALONE: usize = 200;
    for n in 0..ALONE {
        set(&vat, n, env::now_ms() + 20).await;
        ran(n + 1).await;
    }
    let late = sorted();
    println!(
        "one at a time: half of them within {} ms, the last {} ms late",
        late[ALONE / 2],
        late[ALONE - 1],
    );
    vat.stop().await;
}

async fn set(vat: &Vat, n: usize, due_ms: i64) {
    let class = vat.host.classes.by_name("Alarmed").expect("it is served");
    let name = format!("object-{n}");
    let id = class.ids.of_name(&name).expect("a name");
    let stub = Stub::capability(&vat.host, class, id, Some(&name));
    let mut request = counter::Client::new(stub).increment_request();
    request.get().set_amount(due_ms);
    request.send().promise.await.expect("it is set");
}

/// Waits until so many have run.
async fn ran(count: usize) {
    while LATE.with_borrow(Vec::len) < count {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
}

fn sorted() -> Vec<i64> {
    let mut late = LATE.take();
    late.sort_unstable();
    late
}
