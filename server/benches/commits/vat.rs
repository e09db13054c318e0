//! The vat under test, and what calls it.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use futures::{StreamExt, stream};
use tempfile::TempDir;
use tokio::{runtime::Runtime, task::LocalSet};
use vatwerk::counter_capnp::counter;
use vatwerk_client::LocalClient;

use crate::{
    measure::{Round, Rounds, micros, warm_up},
    usage::Usage,
};

/// How many objects are created, or asked for their count, at a time.
const UNMEASURED_IN_FLIGHT: usize = 64;

/// A vat in a process, which is killed when this is dropped, and a connection to it.
pub struct Vat {
    server: Server,
    runtime: Runtime,
    tasks: LocalSet,
    client: LocalClient,
    counters: Vec<counter::Client>,
    /// Which of the counters is called next.
    next: usize,
    acknowledged: usize,
}

impl Vat {
    /// Serves a new folder with that many objects, and creates them.
    pub fn start(folder: &Path, objects: usize) -> Vat {
        let server = Server::start(folder, objects);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let tasks = LocalSet::new();
        let client = tasks
            .block_on(&runtime, LocalClient::connect(&server.address))
            .expect("a vat");
        let namespace = client.namespace::<counter::Client>();
        let counters: Vec<_> = (0..objects)
            .map(|n| namespace.get(&format!("object-{n}")))
            .collect();
        tasks.block_on(&runtime, increment(counters.iter(), UNMEASURED_IN_FLIGHT));
        Vat {
            server,
            runtime,
            tasks,
            client,
            counters,
            next: 0,
            acknowledged: objects,
        }
    }

    /// What the server has used so far.
    pub fn usage(&self) -> Usage {
        Usage::of(self.server.process.id())
    }

    /// How many increments have been acknowledged.
    pub fn acknowledged(&self) -> usize {
        self.acknowledged
    }

    /// Increments the first `objects` in turn, with `in_flight` calls under way, for this long.
    fn run(&mut self, objects: usize, in_flight: usize, time: Duration) -> Round {
        let started = Instant::now();
        let in_turn = self.counters[..objects].iter().cycle();
        let targets = in_turn
            .skip(self.next % objects)
            .take_while(|_| started.elapsed() < time);
        let calls = increment(targets, in_flight);
        let latencies = self.tasks.block_on(&self.runtime, calls);
        let round = Round::new(started.elapsed(), latencies);
        self.next += round.calls;
        self.acknowledged += round.calls;
        round
    }

    /// How many objects are awake.
    pub fn awake(&self) -> u64 {
        self.tasks.block_on(&self.runtime, async {
            let request = self.client.session().server_info_request();
            let answer = request.send().promise.await.expect("an answer");
            let info = answer.get().and_then(|answer| answer.get_info());
            info.expect("an answer").get_resident_objects()
        })
    }

    /// Looks for every increment that was acknowledged.
    pub fn check(&self) {
        let count = async |counter: &counter::Client| {
            let answer = counter.get_request().send().promise.await;
            let answer = answer.expect("an answer");
            answer.get().expect("a count").get_count()
        };
        let counts = stream::iter(self.counters.iter().map(count));
        let counts = counts.buffer_unordered(UNMEASURED_IN_FLIGHT);
        let sum = counts.fold(0, async |sum, count| sum + count);
        let sum = self.tasks.block_on(&self.runtime, sum);
        assert_eq!(usize::try_from(sum), Ok(self.acknowledged));
    }
}

/// Increments each once, `in_flight` at a time. Returns how long each call took.
async fn increment(
    counters: impl Iterator<Item = &counter::Client>,
    in_flight: usize,
) -> Vec<Duration> {
    let increment = async |counter: &counter::Client| {
        let called = Instant::now();
        let answer = counter.increment_request().send().promise.await;
        answer.expect("an answer");
        called.elapsed()
    };
    stream::iter(counters.map(increment))
        .buffer_unordered(in_flight)
        .collect()
        .await
}

/// The binary, in a process.
struct Server {
    process: Child,
    address: String,
    /// Where its socket is: not in its data folder, whose path may be too long for a socket.
    _sockets: TempDir,
}

impl Server {
    /// Serves a new folder, and lets that many objects stay awake between rows if the system does.
    fn start(folder: &Path, objects: usize) -> Server {
        /// What the vat wants to be able to open for each, with half of it for connections.
        const FILES_PER_OBJECT: u64 = 8;
        let files = FILES_PER_OBJECT * (objects as u64 + 1);
        let (_, most_files) = rlimit::Resource::NOFILE.get().expect("a limit");
        if most_files < files {
            // Not everybody may do that. The report says how many objects were awake.
            let _ = rlimit::Resource::NOFILE.set(files, files);
        }
        let sockets = tempfile::tempdir().expect("a temporary folder");
        let address = format!("unix:{}", sockets.path().join("socket").display());
        let settings = sockets.path().join("settings");
        let resident = objects + 1;
        let limits = format!("[limits]\nidle_ms = 3_600_000\nresident_objects = {resident}\n");
        std::fs::write(&settings, limits).expect("a new file");
        let mut process = Command::new(env!("CARGO_BIN_EXE_vatwerk"))
            .arg("serve")
            .arg("--data")
            .arg(folder)
            .args(["--listen", &address, "--http", "none"])
            .arg("--config")
            .arg(&settings)
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it runs");
        let out = process.stdout.take().expect("a pipe");
        let told = BufReader::new(out).lines().next();
        told.expect("it listens").expect("a line");
        Server {
            process,
            address,
            _sockets: sockets,
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A number of objects by a number of calls in flight.
pub struct Cell {
    pub objects: usize,
    pub in_flight: usize,
    pub rounds: Rounds,
    /// What the server used in all rounds.
    pub usage: Usage,
}

impl Cell {
    pub fn new(objects: usize, in_flight: usize) -> Cell {
        Cell {
            objects,
            in_flight,
            rounds: Rounds::default(),
            usage: Usage::default(),
        }
    }

    pub fn round(&mut self, vat: &mut Vat, time: Duration) {
        vat.run(self.objects, self.in_flight, warm_up(time));
        let before = vat.usage();
        self.rounds
            .push(vat.run(self.objects, self.in_flight, time));
        self.usage += vat.usage().since(&before);
    }

    /// The server's CPU time for a commit, in microseconds.
    pub fn cpu_micros(&self) -> f64 {
        micros(self.usage.cpu.total()) / self.rounds.calls() as f64
    }
}
