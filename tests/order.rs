//! Calls on one stub arrive in the order they were made.

use std::{cell::RefCell, rc::Rc};

use vatwerk::Address;
use vatwerk_server::{
    Config, Server,
    object::testing::Sabotage,
    testing::{self, TestVat as Kit},
};

use crate::{
    probe_capnp::probe,
    support::{
        Do, TestVat, Wire,
        puppet::{Client, Puppet, act},
        run, tell,
    },
};

const MANY: u32 = 1000;

fn in_order() -> Vec<u32> {
    (0..MANY).collect()
}

#[test]
fn a_thousand_calls_from_the_wire_that_nobody_awaited() {
    run(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        let probe = wire.probe("orderly");
        let calls = (0..MANY).map(|number| {
            let mut request = probe.arrive_request();
            request.get().set_number(number);
            request.send().promise
        });
        let mut calls: Vec<_> = calls.collect();
        while let Some(last) = calls.pop() {
            last.await.unwrap();
        }
        assert_eq!(vat.controls.arrived(), in_order());
    });
}

#[test]
fn a_thousand_calls_through_the_client_library() {
    run(async {
        let vat = TestVat::start().await;
        let client = vat.client().await;
        let probe: probe::Client = client.namespace().get("orderly");
        let calls = (0..MANY).map(|number| {
            let mut request = probe.arrive_request();
            request.get().set_number(number);
            request.send().promise
        });
        let mut calls: Vec<_> = calls.collect();
        while let Some(last) = calls.pop() {
            last.await.unwrap();
        }
        assert_eq!(vat.controls.arrived(), in_order());
    });
}

#[test]
fn a_thousand_calls_from_object_to_object_awaited_from_the_last_to_the_first() {
    run(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        let burst = Do::Burst("target", MANY, true);
        tell(&wire.probe("source"), &[burst]).await.unwrap();
        assert_eq!(vat.controls.arrived(), in_order());
    });
}

#[test]
fn a_thousand_calls_from_object_to_object_that_nobody_waits_for() {
    run(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        // After a write, so that all of them queue at the gate too.
        let script = [Do::Put("k", "v"), Do::Burst("target", MANY, false)];
        tell(&wire.probe("source"), &script).await.unwrap();
        // A call of the same object to the same target comes after all of them.
        let last = [Do::Object("target", vec![])];
        tell(&wire.probe("source"), &last).await.unwrap();
        assert_eq!(vat.controls.arrived(), in_order());
    });
}

#[test]
fn streamed_calls_arrive_in_order_and_are_kept() {
    run(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        let probe = wire.probe("stream");
        for number in 0..200 {
            let mut request = probe.stream_request();
            request.get().set_number(number);
            request.send().await.unwrap();
        }
        tell(&probe, &[]).await.unwrap();
        assert_eq!(vat.controls.arrived(), (0..200).collect::<Vec<_>>());
    });
}

/// Text that does not get shorter in the journal.
fn noise(state: &mut u64, bytes: usize) -> String {
    let mut text = String::with_capacity(bytes + 16);
    while text.len() < bytes {
        text.push_str(&format!("{:016x}", random(state)));
    }
    text
}

fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// The numbers of the calls that have begun, in order.
type Begun = Rc<RefCell<Vec<u32>>>;

/// A call that notes that it has begun, and writes.
fn write(
    on: &Client,
    begun: &Begun,
    number: u32,
    text: Rc<str>,
) -> impl Future<Output = capnp::Result<()>> + use<> {
    let begun = begun.clone();
    act(on, async move |own| {
        begun.borrow_mut().push(number);
        let key = format!("k{}", number % 50);
        Ok(own.ctx.storage().kv().put(&key, &*text)?)
    })
}

/// How many of `count` writing calls in flight began after a later one, over a real socket and with the
/// journal's threads.
async fn overtaken(count: u32, bytes: usize, journal_bytes: u64) -> usize {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("vat.sock");
    let mut config = Config {
        data: folder.path().join("data"),
        listen: Some(vec![Address::Unix(socket.clone())]),
        ..Config::default()
    };
    config.limits.journal_bytes = journal_bytes;
    let server = Server::builder().class::<Puppet>().config(config);
    let vat = server.start().await.unwrap();
    let wire = Wire::connect(&socket).await;
    let p: Client = wire.object("p");
    let text: Rc<str> = noise(&mut 7, bytes).into();
    let begun = Begun::default();
    let mut calls = Vec::new();
    for number in 0..count {
        calls.push(write(&p, &begun, number, text.clone()));
        if number % 16 == 0 {
            tokio::task::yield_now().await;
        }
    }
    for call in calls {
        call.await.unwrap();
    }
    drop(wire);
    vat.stop().await;
    let begun = begun.borrow();
    begun.windows(2).filter(|two| two[1] < two[0]).count()
}

#[test]
fn calls_that_write_begin_in_order_while_the_journal_is_behind() {
    run(async {
        for (journal_bytes, bytes) in [(8 << 20, 2 << 10), (8 << 20, 16 << 10), (256 << 20, 100)] {
            let overtaken = overtaken(2500, bytes, journal_bytes).await;
            assert_eq!(
                overtaken, 0,
                "{bytes} bytes each, a journal of {journal_bytes}"
            );
        }
    });
}

/// Whether calls begin in order whatever the disk does meanwhile: a seed decides.
fn begins_in_order(seed: u64, sabotage: Option<Sabotage>) -> bool {
    let outcome = Rc::new(RefCell::new(true));
    let told = outcome.clone();
    testing::run(async move {
        let vat = Kit::start(move |server| {
            let server = server.class::<Puppet>();
            match sabotage {
                Some(sabotage) => server.sabotage(sabotage),
                None => server,
            }
        })
        .await;
        let p: Client = vat.object("p");
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let begun = Begun::default();
        let mut calls = Vec::new();
        for number in 0..120 {
            match random(&mut state) % 8 {
                0 => vat.hold_commits(),
                1 => vat.release_commits(),
                2 => tokio::task::yield_now().await,
                3 => vat.settle().await,
                _ => {}
            }
            let bytes = random(&mut state) as usize % (32 << 10);
            let text = noise(&mut state, bytes).into();
            calls.push(tokio::task::spawn_local(write(&p, &begun, number, text)));
        }
        vat.release_commits();
        for call in calls {
            call.await.unwrap().unwrap();
        }
        told.replace(begun.borrow().is_sorted());
    });
    outcome.take()
}

#[test]
fn calls_begin_in_order_whatever_the_disk_does() {
    for seed in 0..30 {
        assert!(begins_in_order(seed, None), "seed {seed}");
    }
}

#[test]
fn calls_that_wait_beside_the_queue_are_found_out() {
    let found = |seed| !begins_in_order(seed, Some(Sabotage::BeginOutOfOrder));
    assert!((0..100).any(found));
}
