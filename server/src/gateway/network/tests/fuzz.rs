//! Random conversations: nothing a peer says may hang the thread or reach beyond its connection.
//!
//! `VATWERK_SEED` replays a run, `VATWERK_ROUNDS` sets how many connections it makes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use capnp_rpc::rpc_capnp::{cap_descriptor, message, return_};
use futures::FutureExt;
use tokio::io::AsyncReadExt;

use super::object::METHODS;
use super::peer::*;
use super::watched;
use crate::fault;
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
    /// Our questions to it.
    asked: Vec<u32>,
    /// What it was given, one entry for each reference.
    exports: Vec<u32>,
    promises: Vec<u32>,
    /// Its questions whose results are for questions of ours.
    tails: Vec<u32>,
    /// What it has heard and not understood yet.
    heard: Vec<u8>,
}

impl Talker {
    fn question(&mut self) -> u32 {
        if self.open.is_empty() || self.random.chance(2) {
            self.random.below(12)
        } else {
            self.open[self.random.below(self.open.len() as u32) as usize]
        }
    }

    /// One of `ids`, and now and then any other.
    fn one_of(random: &mut Random, ids: &[u32]) -> u32 {
        if ids.is_empty() || random.chance(1) {
            random.below(6)
        } else {
            ids[random.below(ids.len() as u32) as usize]
        }
    }

    /// Removes and returns one of `ids`, and now and then any other.
    fn take_one(random: &mut Random, ids: &mut Vec<u32>) -> Option<u32> {
        if random.chance(1) {
            return Some(random.below(6));
        }
        match ids.len() as u32 {
            0 => None,
            len => Some(ids.swap_remove(random.below(len) as usize)),
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
            9..13 => Cap::Yours(Self::one_of(&mut self.random, &self.exports)),
            _ => Cap::Answer(self.question()),
        }
    }

    fn target(&mut self) -> Target {
        match self.random.below(10) {
            0..6 => Target::Answer(0),
            6 => Target::Export(Self::one_of(&mut self.random, &self.exports)),
            _ => Target::Answer(self.question()),
        }
    }

    fn message(&mut self) -> Option<Outgoing> {
        Some(match self.random.below(1000) {
            0..550 => {
                let question = self.next_question;
                self.next_question += 1;
                let (target, cap) = (self.target(), self.cap());
                self.open.push(question);
                let method = self.random.below(u32::from(METHODS)) as u16;
                if self.random.chance(10) {
                    self.tails.push(question);
                    tail(question, target, method, cap)
                } else {
                    call(question, target, method, cap)
                }
            }
            550..650 => {
                let question = 1 + self.question();
                self.open.retain(|open| *open != question);
                finish(question, self.random.chance(10))
            }
            650..850 => {
                let question = Self::take_one(&mut self.random, &mut self.asked)?;
                match self.random.below(200) {
                    0..20 => return_with(question, |r| r.init_exception().set_reason("no")),
                    20 => return_with(question, |mut r| r.set_canceled(())),
                    21..60 => {
                        let tail = Self::take_one(&mut self.random, &mut self.tails)?;
                        return_with(question, |mut r| r.set_take_from_other_question(tail))
                    }
                    _ => results(question, self.cap()),
                }
            }
            850..950 => {
                let promise = Self::take_one(&mut self.random, &mut self.promises)?;
                match self.cap() {
                    Cap::None => resolve(promise, Cap::Promise(promise)),
                    cap => resolve(promise, cap),
                }
            }
            950..965 => {
                let target = Target::Answer(self.question());
                disembargo(target, self.random.below(4))
            }
            965..995 => release(Self::take_one(&mut self.random, &mut self.exports)?, 1),
            995..998 => bootstrap(1000 + self.next_question),
            _ => abort("enough"),
        })
    }

    /// Takes note of what the other side says.
    fn hear(&mut self, bytes: &[u8]) {
        self.heard.extend_from_slice(bytes);
        let mut rest = &self.heard[..];
        loop {
            let here = rest;
            let options = capnp::message::ReaderOptions::new();
            let Ok(read) = capnp::serialize::read_message(&mut rest, options) else {
                rest = here;
                break;
            };
            let root: message::Reader<'_> = read.get_root().unwrap();
            match root.which() {
                Ok(message::Call(call)) => self.asked.push(call.unwrap().get_question_id()),
                Ok(message::Return(ret)) => match ret.unwrap().which() {
                    Ok(return_::Results(results)) => {
                        for one in results.unwrap().get_cap_table().unwrap() {
                            if let Ok(
                                cap_descriptor::SenderHosted(id)
                                | cap_descriptor::SenderPromise(id),
                            ) = one.which()
                            {
                                self.exports.push(id);
                            }
                        }
                    }
                    Ok(return_::Exception(exception)) => {
                        let reason = exception.unwrap().get_reason().unwrap();
                        let reason = reason.to_string().unwrap();
                        assert!(fault::has_code(&reason), "{reason}");
                    }
                    _ => (),
                },
                _ => (),
            }
        }
        let left = rest.len();
        self.heard.drain(..self.heard.len() - left);
    }
}

/// What came of one connection.
#[derive(Default, Debug)]
struct Tally {
    messages: u64,
    calls: u64,
    /// Calls of this side that were not sent.
    asked_refused: u64,
    panics: BTreeMap<String, u64>,
    /// How many were refused, by reason.
    refused: BTreeMap<String, u64>,
}

async fn converse(random: &mut Random, tally: &mut Tally) {
    let mut talker = Talker {
        random: Random(u64::from(random.below(u32::MAX)) << 32 | u64::from(random.below(u32::MAX))),
        open: vec![0],
        next_question: 1,
        asked: Vec::new(),
        exports: Vec::new(),
        promises: Vec::new(),
        tails: Vec::new(),
        heard: Vec::new(),
    };
    let limits = Limits {
        linger: Duration::from_millis(50),
        // In every second conversation so few that calls of this side are refused too.
        max_calls_in_flight: match talker.random.below(2) {
            0 => 1 + talker.random.below(3) as usize,
            _ => 24,
        },
        ..Limits::default()
    };
    let mut peer = Peer::new(limits);
    peer.send(&[bootstrap(0)]).await;
    let mut heard = vec![0; 64 << 10];
    for _ in 0..talker.random.below(80) {
        let messages: Vec<Outgoing> = (0..1 + talker.random.below(4))
            .filter_map(|_| talker.message())
            .collect();
        if !messages.is_empty() && talker.random.chance(1) {
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
        while let Some(Ok(bytes @ 1..)) = peer.stream.read(&mut heard).now_or_never() {
            talker.hear(&heard[..bytes]);
        }
        if peer.handle.end().is_some() {
            break;
        }
    }
    drop(peer.stream);
    let ended = tokio::time::timeout(Duration::from_secs(5), peer.handle.ended());
    let end = ended.await.expect("the connection does not end");
    let counters = peer.handle.counters();
    tally.messages += counters.messages_in;
    tally.asked_refused += counters.asked_refused;
    tally.calls += counters.calls - counters.calls_refused;
    match end {
        End::Refused(refusal) => *tally.refused.entry(refusal.text).or_default() += 1,
        End::Panicked(text) => *tally.panics.entry(text).or_default() += 1,
        _ => (),
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
        println!("{round} connections: {tally:#?}");
    });
}
