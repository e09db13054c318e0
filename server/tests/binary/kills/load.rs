//! The load: client processes, which call as fast as they are answered until the vat is gone.

use std::{
    cell::Cell,
    collections::BTreeMap,
    env,
    io::{BufRead, BufReader, Lines, PipeReader},
    iter,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use futures::{FutureExt, StreamExt, stream};
use serde::{Deserialize, Serialize};
use tokio::{task::LocalSet, time::timeout};
use vatwerk::Code;
use vatwerk_client::LocalClient;

use super::{
    ledger::{self, Event, Ledger},
    random::Random,
    things::{COUNTERS, Objects, Thing},
};
use crate::vat::limited;

/// How long a call may take on a machine that has other things to do.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How many calls of one client are under way at any time.
const IN_FLIGHT: usize = 12;

/// Set for a process that is a client: its [`Order`].
const CLIENT: &str = "VATWERK_KILLS_CLIENT";

/// What one client is to do.
#[derive(Serialize, Deserialize)]
pub struct Order {
    /// Which of the clients it is.
    pub client: usize,
    pub address: String,
    pub ledger: PathBuf,
    pub seed: u64,
}

/// The order that this process was started with, if it is a client.
pub fn order() -> Option<Order> {
    let order = env::var(CLIENT).ok()?;
    Some(serde_json::from_str(&order).unwrap())
}

/// Client processes.
pub struct Clients {
    children: Vec<Child>,
    /// What they all say: `connected` once, and `synced N` when so many more of their
    /// acknowledgements are on disk.
    said: Lines<BufReader<PipeReader>>,
}

impl Clients {
    /// Starts one for each order, as this very test in another process, and waits until all of them
    /// are connected.
    pub fn start(test: &str, orders: &[Order]) -> Clients {
        let (said, say) = std::io::pipe().unwrap();
        let start = |order| {
            Command::new(env::current_exe().unwrap())
                .args(["--exact", test, "--nocapture", "--quiet"])
                .env(CLIENT, serde_json::to_string(order).unwrap())
                .stdout(say.try_clone().unwrap())
                .stderr(Stdio::piped())
                .spawn()
                .map(limited)
                .unwrap()
        };
        let mut clients = Clients {
            children: orders.iter().map(start).collect(),
            said: BufReader::new(said).lines(),
        };
        // The clients have the only ends now, so that reading comes to an end when they do.
        drop(say);
        clients.wait(orders.len() as u64, |line| (line == "connected").into());
        clients
    }

    /// Waits until they have so many acknowledgements on disk.
    pub fn wait_for(&mut self, acknowledgements: u64) {
        self.wait(acknowledgements, |line| {
            let synced = line.strip_prefix("synced ");
            synced.map_or(0, |synced| synced.parse().unwrap())
        });
    }

    fn wait(&mut self, enough: u64, counts: impl Fn(&str) -> u64) {
        let mut counted = 0;
        while counted < enough {
            let Some(line) = self.said.next() else {
                let children = self.children.drain(..);
                let errors: Vec<_> = children.map(error_of).collect();
                panic!("every client has ended: {errors:#?}");
            };
            // The test harness of a client says a few things too.
            counted += counts(&line.unwrap());
        }
    }

    /// Waits until all have seen that the vat is gone. None may have seen anything else.
    pub fn end(self) {
        for child in self.children {
            assert_eq!(error_of(child), None);
        }
    }
}

/// What a client said of its failure, if it has failed.
fn error_of(child: Child) -> Option<String> {
    let ended = child.wait_with_output().unwrap();
    let said = || String::from_utf8_lossy(&ended.stderr).into_owned();
    (!ended.status.success()).then(said)
}

/// What a client process does.
pub fn run(order: &Order) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let choice = Choice::new(&order.ledger, order.seed);
    let ledger = Ledger::open(&order.ledger, |count| println!("synced {count}"));
    LocalSet::new().block_on(&runtime, call_until_the_end(order, &ledger, choice));
    ledger.close();
}

async fn call_until_the_end(order: &Order, ledger: &Ledger, mut choice: Choice) {
    let client = LocalClient::connect(&order.address).await.unwrap();
    let objects = Objects::new(client, order.client);
    println!("connected");
    let gone = Cell::new(false);
    let calls = iter::from_fn(|| {
        // A call that finds the connection gone would go to whoever listens there next.
        if gone.get() {
            return None;
        }
        let (thing, number) = choice.next();
        ledger.sent(thing, number);
        let answer = objects.write(thing, number);
        Some(answer.map(move |answer| (thing, answer)))
    });
    let mut answers = stream::iter(calls).buffer_unordered(IN_FLIGHT);
    let take = |(thing, answer)| match answer {
        Ok(number) => ledger.acknowledged(thing, number),
        Err(error) => match vatwerk_client::Error::from(error) {
            error if is_the_end(&error) => gone.set(true),
            error => panic!("{thing:?}: {error}"),
        },
    };
    while !gone.get() {
        let answer = timeout(PATIENCE, answers.next()).await;
        take(answer.expect("a call is answered").expect("calls go on"));
    }
    // What had come before the connection broke.
    while let Some(Some(answer)) = answers.next().now_or_never() {
        take(answer);
    }
}

/// Whether this is what calls are answered when the vat stops or is killed.
fn is_the_end(error: &vatwerk_client::Error) -> bool {
    matches!(error.code(), Some(Code::Disconnected | Code::ShuttingDown))
}

/// Chooses what is written next.
struct Choice {
    random: Random,
    /// The newest write of each thing.
    numbers: BTreeMap<Thing, u64>,
}

impl Choice {
    /// Goes on where the ledger says that the client is.
    fn new(ledger: &Path, seed: u64) -> Choice {
        let settled = ledger::read(ledger);
        let settled = settled
            .iter()
            .filter(|line| line.event == Event::Settled)
            .map(|line| (line.thing, line.number));
        Choice {
            random: Random::new(seed),
            numbers: settled.collect(),
        }
    }

    fn next(&mut self) -> (Thing, u64) {
        let thing = match self.random.below(16) {
            0..7 => return (Thing::Counter(self.random.below(COUNTERS)), 0),
            7..10 => Thing::Pairs,
            10..12 => Thing::Rows,
            12..14 => Thing::Both,
            14 => Thing::Table,
            _ => Thing::Newborn,
        };
        let number = self.numbers.entry(thing).or_default();
        *number += 1;
        (thing, *number)
    }
}
