//! What must be there after a kill.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    path::Path,
};

use futures::{StreamExt, stream};
use rusqlite::Connection;
use tokio::{task::LocalSet, time::timeout};
use vatwerk_client::LocalClient;

use super::{
    ledger::{Event, Line},
    load::PATIENCE,
    things::{COUNTERS, Objects, Thing, newborn_name},
};
use crate::vat::{Vat, files};

/// How many objects are read at a time.
const AT_ONCE: usize = 100;

/// What is known for certain: what was read last, when nobody was writing.
pub struct Settled {
    counters: Vec<u64>,
    clients: Vec<OfClient>,
}

/// What is known of what one client writes.
#[derive(Clone, Default)]
struct OfClient {
    numbers: BTreeMap<Thing, u64>,
    /// The count of each.
    newborns: BTreeMap<u64, u64>,
}

impl Settled {
    pub fn nothing(clients: usize) -> Settled {
        Settled {
            counters: vec![0; COUNTERS as usize],
            clients: vec![OfClient::default(); clients],
        }
    }

    /// What a client needs to know to go on: the beginning of its next ledger.
    pub fn lines(&self, client: usize) -> Vec<Line> {
        let OfClient { numbers, newborns } = &self.clients[client];
        let newest = newborns.keys().next_back();
        let newest = newest.map(|number| (Thing::Newborn, *number));
        let numbers = numbers.iter().map(|(thing, number)| (*thing, *number));
        let settled = |(thing, number)| Line {
            event: Event::Settled,
            thing,
            number,
        };
        numbers.chain(newest).map(settled).collect()
    }

    /// Reads all that the clients may have changed, and fails if it is not what their calls were
    /// promised to become. There is a ledger for each of them.
    pub fn settle(&mut self, vat: &Vat, ledgers: &[Vec<Line>]) {
        check_list(vat, ledgers);
        patiently(async {
            let client = LocalClient::connect(&vat.address(0)).await.unwrap();
            self.settle_counters(&client, ledgers).await;
            let clients = self.clients.iter_mut().zip(ledgers).enumerate();
            for (owner, (settled, ledger)) in clients {
                let objects = Objects::new(client.clone(), owner);
                settled.settle_numbers(&objects, owner, ledger).await;
                settled.settle_newborns(&objects, owner, ledger).await;
            }
        });
    }

    /// Reads everything there is, those objects too that nobody has called for a long time.
    pub fn check(&mut self, vat: &Vat) {
        self.settle(vat, &vec![Vec::new(); self.clients.len()]);
        patiently(async {
            let client = LocalClient::connect(&vat.address(0)).await.unwrap();
            for (owner, settled) in self.clients.iter().enumerate() {
                let objects = Objects::new(client.clone(), owner);
                let numbers = settled.newborns.keys().copied();
                let read = read_newborns(&objects, owner, numbers).await;
                assert_eq!(read, settled.newborns, "the newborns of client {owner}");
            }
        });
    }

    async fn settle_counters(&mut self, client: &LocalClient, ledgers: &[Vec<Line>]) {
        let objects = Objects::new(client.clone(), 0);
        for (thing, settled) in (0..).map(Thing::Counter).zip(&mut self.counters) {
            let lines = ledgers.iter().flatten().filter(|line| line.thing == thing);
            let sent = lines.clone().filter(|line| line.event == Event::Sent);
            let most = *settled + sent.count() as u64;
            let mut told: Vec<u64> = lines
                .filter(|line| line.event == Event::Acknowledged)
                .map(|line| line.number)
                .collect();
            told.sort_unstable();
            let count = read(&objects, thing).await.unwrap_or_default();
            let known = *settled;
            assert!(
                (known..=most).contains(&count),
                "{thing:?}: {count} is not in {known}..={most}"
            );
            // An increment that was lost would be told again, or not be there now.
            let once = told.is_sorted_by(|one, next| one < next);
            let there = told.iter().all(|told| (known + 1..=count).contains(told));
            assert!(
                once && there,
                "{thing:?}: not each of {told:?} once in {known}+1..={count}"
            );
            *settled = count;
        }
    }
}

impl OfClient {
    async fn settle_numbers(&mut self, objects: &Objects, owner: usize, ledger: &[Line]) {
        for thing in Thing::NUMBERED {
            let settled = self.numbers.entry(thing).or_default();
            let newest = |event| {
                let lines = ledger
                    .iter()
                    .filter(|line| line.thing == thing && line.event == event);
                lines.map(|line| line.number).max().unwrap_or(*settled)
            };
            let (least, most) = (newest(Event::Acknowledged), newest(Event::Sent));
            let seen = read(objects, thing).await;
            let possible = (least..=most).find(|number| match seen {
                Some(seen) => seen == *number,
                None => thing.is_empty_at(*number),
            });
            *settled = possible.unwrap_or_else(|| {
                panic!("{thing:?} of client {owner}: {seen:?} is not in {least}..={most}")
            });
        }
    }

    async fn settle_newborns(&mut self, objects: &Objects, owner: usize, ledger: &[Line]) {
        let with = |event| {
            let lines = ledger
                .iter()
                .filter(move |line| line.thing == Thing::Newborn && line.event == event);
            lines.map(|line| line.number)
        };
        let acknowledged: BTreeSet<u64> = with(Event::Acknowledged).collect();
        let read = read_newborns(objects, owner, with(Event::Sent)).await;
        for (number, count) in &read {
            let unborn = *count == 0 && !acknowledged.contains(number);
            assert!(
                unborn || count == number,
                "{}: {count}",
                newborn_name(owner, *number)
            );
        }
        self.newborns.extend(read);
    }
}

/// Every object whose first call was acknowledged is listed.
fn check_list(vat: &Vat, ledgers: &[Vec<Line>]) {
    let list = ["objects", "list", "Counter", "--prefix", "newborn-"];
    let listed = vat.printed(&list);
    let listed: BTreeSet<&str> = listed
        .lines()
        .filter_map(|line| line.split('\t').next())
        .collect();
    for (owner, ledger) in ledgers.iter().enumerate() {
        for line in ledger {
            let name = newborn_name(owner, line.number);
            let born = line.thing == Thing::Newborn && line.event == Event::Acknowledged;
            assert!(
                !born || listed.contains(name.as_str()),
                "{name} is not listed"
            );
        }
    }
}

/// After a clean stop: every database is whole, and nothing is left beside it.
pub fn check_files(data: &Path) {
    let files = files(data);
    let databases = files
        .iter()
        .filter(|file| file.extension().is_some_and(|it| it == "sqlite"));
    let mut count = 0;
    for file in databases.clone() {
        let db = Connection::open(file).unwrap();
        let found: String = db
            .query_row("PRAGMA integrity_check", (), |row| row.get(0))
            .unwrap();
        assert_eq!(found, "ok", "{}", file.display());
        count += 1;
    }
    let logs: Vec<_> = files
        .iter()
        .filter(|file| {
            let name = file.to_string_lossy();
            name.ends_with("-wal") || name.ends_with("-journal")
        })
        .collect();
    assert!(logs.is_empty(), "{logs:?}");
    assert!(count > 0);
}

async fn read(objects: &Objects, thing: Thing) -> Option<u64> {
    let answer = objects.read(thing).await;
    answer.unwrap_or_else(|error| panic!("{thing:?}: {error}"))
}

async fn read_newborns(
    objects: &Objects,
    owner: usize,
    numbers: impl Iterator<Item = u64>,
) -> BTreeMap<u64, u64> {
    let read = |number| async move {
        let count = objects.read_newborn(number).await;
        let count =
            count.unwrap_or_else(|error| panic!("{}: {error}", newborn_name(owner, number)));
        (number, count)
    };
    let counts = stream::iter(numbers.map(read)).buffer_unordered(AT_ONCE);
    counts.collect().await
}

/// Runs what must not take for ever.
fn patiently(reading: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let reading = async { timeout(PATIENCE, reading).await };
    let read = LocalSet::new().block_on(&runtime, reading);
    read.expect("every object answers");
}
