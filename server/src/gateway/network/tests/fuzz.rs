//! Random conversations: nothing a peer says may hang the thread or reach beyond its connection.
//!
//! `VATWERK_SEED` replays a run, `VATWERK_ROUNDS` sets how many connections it makes.

use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt;

use super::object::METHODS;
use super::peer::*;
use super::watched;
use crate::gateway::network::{End, Limits};

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % u64::from(limit)) as u32
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.below(100) < percent
    }
}

/// A peer that mostly keeps to the rules, so that its conversations last.
struct Talker {
    random: Random,
    /// Questions that are open.
    open: Vec<u32>,
    next_question: u32,
    /// Our questions to it, as far as it guesses.
    asked: u32,
    promises: Vec<u32>,
}

impl Talker {
    fn question(&mut self) -> u32 {
        match self.open.is_empty() || self.random.chance(2) {
            true => self.random.below(12),
            false => self.open[self.random.below(self.open.len() as u32) as usize],
        }
    }

    fn cap(&mut self) -> Cap {
        match self.random.below(20) {
            0 => Cap::None,
            1..4 => Cap::Hosted(self.random.below(4)),
            4..9 => {
                let id = 4 + self.random.below(4);
                self.promises.push(id);
                Cap::Promise(id)
            }
            9..13 => Cap::Yours(self.random.below(4)),
            _ => Cap::Answer(self.question()),
        }
    }

    fn target(&mut self) -> Target {
        match self.random.chance(60) {
            true => Target::Export(0),
            false if self.random.chance(15) => Target::Export(self.random.below(3)),
            false => Target::Answer(self.question()),
        }
    }

    fn message(&mut self) -> Outgoing {
        match self.random.below(100) {
            0..55 => {
                let question = self.next_question;
                self.next_question += 1;
                let (target, cap) = (self.target(), self.cap());
                self.open.push(question);
                let method = self.random.below(u32::from(METHODS)) as u16;
                call(question, target, method, cap)
            }
            55..65 => {
                let question = self.question();
                self.open.retain(|open| *open != question);
                finish(question, self.random.chance(50))
            }
            65..80 => {
                let question = match self.random.chance(90) {
                    true => {
                        self.asked += 1;
                        self.asked - 1
                    }
                    false => self.random.below(4),
                };
                match self.random.below(12) {
                    0 => return_with(question, |r| r.init_exception().set_reason("no")),
                    1 => return_with(question, |mut r| r.set_canceled(())),
                    2 => return_with(question, |mut r| r.set_take_from_other_question(1)),
                    _ => results(question, self.cap()),
                }
            }
            80..90 => {
                let promise = match self.promises.is_empty() {
                    true => self.random.below(8),
                    false => {
                        let index = self.random.below(self.promises.len() as u32);
                        self.promises.swap_remove(index as usize)
                    }
                };
                resolve(promise, self.cap())
            }
            90..95 => {
                let target = Target::Answer(self.question());
                disembargo(target, self.random.below(4))
            }
            95..98 => release(1 + self.random.below(3), 1),
            98 => bootstrap(self.question()),
            _ => abort("enough"),
        }
    }
}

/// What came of one connection.
#[derive(Default, Debug)]
struct Tally {
    messages: u64,
    calls: u64,
    panics: u64,
    refused: u64,
}

async fn converse(random: &mut Random, tally: &mut Tally) {
    let mut talker = Talker {
        random: Random(u64::from(random.below(u32::MAX)) << 32 | u64::from(random.below(u32::MAX))),
        open: vec![0],
        next_question: 1,
        asked: 0,
        promises: Vec::new(),
    };
    let limits = Limits {
        linger: Duration::from_millis(50),
        max_calls_in_flight: 24,
        ..Limits::default()
    };
    let mut peer = Peer::new(limits);
    peer.send(&[bootstrap(0)]).await;
    let mut heard = vec![0; 64 << 10];
    for _ in 0..talker.random.below(40) {
        let messages: Vec<Outgoing> = (0..1 + talker.random.below(4))
            .map(|_| talker.message())
            .collect();
        if talker.random.chance(2) {
            let mut bytes = Vec::new();
            for message in &messages {
                capnp::serialize::write_message(&mut bytes, message).unwrap();
            }
            let place = talker.random.below(bytes.len() as u32) as usize;
            bytes[place] ^= 1 << talker.random.below(8);
            peer.send_bytes(&bytes).await;
        } else {
            peer.send(&messages).await;
        }
        for _ in 0..talker.random.below(8) {
            tokio::task::yield_now().await;
        }
        // Take what is there, so that the other side is not held up.
        while let Some(Ok(1..)) = futures::FutureExt::now_or_never(peer.stream.read(&mut heard)) {}
        if peer.handle.end().is_some() {
            break;
        }
    }
    drop(peer.stream);
    let ended = tokio::time::timeout(Duration::from_secs(5), peer.handle.ended());
    let end = ended.await.expect("the connection does not end");
    let counters = peer.handle.counters();
    tally.messages += counters.messages_in;
    tally.calls += counters.calls - counters.calls_refused;
    tally.refused += u64::from(matches!(end, End::Refused(_)));
    match peer.system.await {
        Ok(_) => (),
        Err(failure) => {
            assert!(failure.is_panic());
            tally.panics += 1;
        }
    }
}

#[test]
fn random_conversations_end() {
    let setting = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let seed = setting("VATWERK_SEED").unwrap_or(1);
    let rounds = setting("VATWERK_ROUNDS");
    println!("VATWERK_SEED={seed}");
    let limit = Duration::from_secs(60 + rounds.unwrap_or(0) / 100);
    watched(limit, move || async move {
        let mut tally = Tally::default();
        let started = Instant::now();
        let mut round = 0;
        while round < rounds.unwrap_or(2000)
            && (rounds.is_some() || started.elapsed() < Duration::from_secs(4))
        {
            let mut random = Random(seed.wrapping_add(round));
            converse(&mut random, &mut tally).await;
            round += 1;
        }
        println!("{round} connections: {tally:?}");
    });
}
