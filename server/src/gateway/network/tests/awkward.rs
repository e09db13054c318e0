//! Peers that do not read, or do not answer.

use std::collections::HashSet;
use std::time::Duration;

use capnp::message::Reader;
use capnp::serialize::OwnedSegments;
use capnp_rpc::rpc_capnp::{cap_descriptor, message, message_target, return_};
use tokio::time::{Instant, sleep};

use super::object::*;
use super::peer::*;
use super::{LIMIT, watched};
use crate::gateway::network::{Budget, End, Limits};

const BOOT: Target = Target::Export(0);

/// Runs `test` under virtual time.
fn paused(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test);
}

/// A call with `bytes` of parameters.
fn large_call(question: u32, method: u16, bytes: usize) -> Outgoing {
    build(|m| {
        let mut call = m.init_call();
        call.set_question_id(question);
        call.set_interface_id(INTERFACE);
        call.set_method_id(method);
        call.reborrow().init_target().set_imported_cap(0);
        let content = call.init_params().get_content();
        let _: capnp::data::Builder<'_> = content.initn_as(bytes as u32);
    })
}

async fn turns() {
    for _ in 0..2000 {
        tokio::task::yield_now().await;
    }
}

#[test]
fn a_peer_that_takes_nothing_loses_its_connection_after_the_stall_limit() {
    paused(async {
        let limits = Limits {
            stall: Duration::from_secs(7),
            ..Limits::default()
        };
        let budget = limits.vat.clone();
        let mut peer = Peer::new(limits);
        // More than the stream between them takes.
        let calls = (1..=6).map(|n| call(n, BOOT, BIG, Cap::None));
        let messages: Vec<_> = std::iter::once(bootstrap(0)).chain(calls).collect();
        let began = Instant::now();
        peer.send(&messages).await;
        let end = peer.handle.ended().await;
        let End::Stalled {
            unwritten_bytes,
            limit,
        } = end
        else {
            panic!("{end}");
        };
        assert_eq!(limit, Duration::from_secs(7));
        assert!(unwritten_bytes > BIG_BYTES as usize, "{unwritten_bytes}");
        let text = peer.handle.end().unwrap().to_string();
        assert!(text.contains("7000 ms (`limits.stall_ms`)"), "{text}");
        assert!(began.elapsed() >= Duration::from_secs(7));
        // The time to close is not for one that takes nothing.
        assert!(began.elapsed() < Duration::from_secs(10));
        assert_eq!(budget.used_bytes(), 0);
    });
}

#[test]
fn a_peer_that_reads_slowly_keeps_its_connection() {
    paused(async {
        let mut peer = Peer::new(Limits::default());
        let calls = (1..=12).map(|n| call(n, BOOT, BIG, Cap::None));
        let messages: Vec<_> = std::iter::once(bootstrap(0)).chain(calls).collect();
        peer.send(&messages).await;
        for question in 0..=12 {
            sleep(Duration::from_secs(20)).await;
            peer.returned(question).await.unwrap();
        }
        assert_eq!(peer.handle.end(), None);
    });
}

#[test]
fn a_peer_that_may_not_be_waited_for_is_ended_when_the_vat_has_no_room() {
    paused(async {
        let limits = Limits {
            max_unwritten_bytes: 500_000,
            vat: Budget::new(1_000_000),
            ..Limits::default()
        };
        let budget = limits.vat.clone();
        let mut peer = Peer::new(limits);
        peer.send(&[bootstrap(0)]).await;
        peer.returned(0).await.unwrap();
        let waiting: Vec<_> = (1..=40)
            .map(|n| call(n, BOOT, LATE_BIG, Cap::None))
            .collect();
        peer.send(&waiting).await;
        turns().await;
        // All of them are answered at once, and nothing is read.
        peer.send(&[call(50, BOOT, PUT, Cap::None)]).await;
        let end = peer.handle.ended().await;
        let End::Overrun {
            unwritten_bytes,
            limit_bytes,
        } = end
        else {
            panic!("{end}");
        };
        assert_eq!(limit_bytes, 1_000_000);
        assert!(unwritten_bytes < 1_200_000, "{unwritten_bytes}");
        assert_eq!(budget.used_bytes(), 0);
    });
}

/// What a peer has been told of calls: every message is checked to name nothing else.
#[derive(Default)]
struct Told {
    calls: HashSet<u32>,
    promises: HashSet<u32>,
}

impl Told {
    fn see(&mut self, message: &Reader<OwnedSegments>) {
        let root: message::Reader<'_> = message.get_root().unwrap();
        let table = match root.which().unwrap() {
            message::Call(call) => {
                let call = call.unwrap();
                self.calls.insert(call.get_question_id());
                if let message_target::PromisedAnswer(answer) =
                    call.get_target().unwrap().which().unwrap()
                {
                    let id = answer.unwrap().get_question_id();
                    assert!(self.calls.contains(&id), "a call on unknown question {id}");
                }
                call.get_params().unwrap().get_cap_table().unwrap()
            }
            message::Return(ret) => match ret.unwrap().which().unwrap() {
                return_::Results(results) => results.unwrap().get_cap_table().unwrap(),
                _ => return,
            },
            message::Finish(finish) => {
                let id = finish.unwrap().get_question_id();
                assert!(self.calls.remove(&id), "a finish of unknown question {id}");
                return;
            }
            message::Resolve(resolve) => {
                let id = resolve.unwrap().get_promise_id();
                assert!(self.promises.contains(&id), "unknown promise {id}");
                return;
            }
            _ => return,
        };
        for one in table {
            match one.which().unwrap() {
                cap_descriptor::ReceiverAnswer(answer) => {
                    let id = answer.unwrap().get_question_id();
                    assert!(self.calls.contains(&id), "part of unknown answer {id}");
                }
                cap_descriptor::SenderPromise(id) => drop(self.promises.insert(id)),
                _ => (),
            }
        }
    }

    /// Reads until the answer to `question`; an exception's text if it is one.
    async fn until_returned(&mut self, peer: &mut Peer, question: u32) -> Result<(), String> {
        loop {
            let message = peer.receive().await.expect("no return before the end");
            self.see(&message);
            let root: message::Reader<'_> = message.get_root().unwrap();
            let Ok(message::Return(ret)) = root.which() else {
                continue;
            };
            let ret = ret.unwrap();
            if ret.get_answer_id() == question {
                return match ret.which().unwrap() {
                    return_::Exception(exception) => {
                        let reason = exception.unwrap().get_reason().unwrap();
                        Err(reason.to_string().unwrap())
                    }
                    _ => Ok(()),
                };
            }
        }
    }
}

#[test]
fn calls_to_a_peer_that_does_not_answer_fail_and_it_never_hears_of_them() {
    watched(LIMIT, || async {
        let limits = Limits {
            max_calls_in_flight: 3,
            ..Limits::default()
        };
        let (mut peer, mut told) = (Peer::new(limits), Told::default());
        peer.send(&[bootstrap(0)]).await;
        told.until_returned(&mut peer, 0).await.unwrap();
        for question in 1..=3 {
            peer.send(&[call(question, BOOT, PIPELINE, Cap::Hosted(7))])
                .await;
            told.until_returned(&mut peer, question).await.unwrap();
        }
        assert_eq!(peer.handle.counters().asked_in_flight, 3);
        // The one that does not fit: the caller hears why.
        peer.send(&[call(4, BOOT, FORWARD, Cap::Hosted(7))]).await;
        let refused = told.until_returned(&mut peer, 4).await.unwrap_err();
        assert_overloaded(refused.trim_start_matches("remote exception: "));
        assert!(refused.contains("limits.calls_per_connection"), "{refused}");
        // What leads to its answer leads nowhere, and what it gave away is let go.
        peer.send(&[call(5, BOOT, PIPELINE, Cap::Hosted(7))]).await;
        told.until_returned(&mut peer, 5).await.unwrap();
        let exports = peer.handle.counters().exports;
        peer.send(&[call(6, BOOT, PASS, Cap::Hosted(7))]).await;
        told.until_returned(&mut peer, 6).await.unwrap();
        turns().await;
        assert_eq!(passed(), 0);
        let counters = peer.handle.counters();
        assert_eq!(counters.asked_refused, 3);
        assert_eq!(counters.asked_in_flight, 3);
        assert_eq!(counters.exports, exports);
        // Once the peer answers, calls get through again.
        let asked: Vec<_> = told.calls.iter().copied().collect();
        assert_eq!(asked.len(), 3);
        for question in asked {
            peer.send(&[return_with(question, |ret| {
                ret.init_results();
            })])
            .await;
        }
        peer.send(&[call(8, BOOT, PASS, Cap::Hosted(7))]).await;
        told.until_returned(&mut peer, 8).await.unwrap();
        turns().await;
        assert_eq!(passed(), 2);
        let counters = peer.handle.counters();
        assert_eq!((counters.asked_in_flight, counters.asked_refused), (1, 3));
        // Questions end for the peer too, and it hears of nothing that it does not know.
        for question in 1..=3 {
            peer.send(&[finish(question, true)]).await;
        }
        peer.send(&[call(9, BOOT, NOTHING, Cap::None)]).await;
        told.until_returned(&mut peer, 9).await.unwrap();
        assert!(told.calls.is_empty(), "{:?}", told.calls);
    });
}

#[test]
fn a_call_that_is_refused_for_other_reasons_says_that_it_has_not_run() {
    watched(LIMIT, || async {
        let limits = Limits {
            max_message_bytes: 1000,
            ..Limits::default()
        };
        let mut peer = Peer::new(limits);
        peer.send(&[bootstrap(0)]).await;
        peer.returned(0).await.unwrap();
        peer.send(&[call(1, BOOT, SEND_BIG, Cap::Hosted(7))]).await;
        let refused = peer.returned(1).await.unwrap_err();
        assert!(refused.contains("limit-exceeded: "), "{refused}");
        assert!(refused.contains("limits.message_bytes"), "{refused}");
        assert!(refused.ends_with(" [not-delivered]"), "{refused}");
        peer.handle.refuse_calls();
        peer.send(&[call(2, BOOT, NOTHING, Cap::None)]).await;
        let refused = peer.returned(2).await.unwrap_err();
        assert_eq!(
            refused,
            "shutting-down: the vat is shutting down [not-delivered]"
        );
    });
}

#[test]
fn answers_with_capabilities_that_are_not_finished_are_limited_in_bytes() {
    watched(LIMIT, || async {
        let limits = Limits {
            max_bytes_in_flight: 1000,
            ..Limits::default()
        };
        let mut peer = Peer::new(limits);
        peer.send(&[bootstrap(0)]).await;
        peer.returned(0).await.unwrap();
        let mut question = 0;
        let refused = loop {
            question += 1;
            assert!(question < 30, "never refused");
            peer.send(&[call(question, BOOT, ECHO, Cap::Hosted(7))])
                .await;
            if let Err(refused) = peer.returned(question).await {
                break refused;
            }
        };
        assert_overloaded(&refused);
        assert!(refused.contains("not finished"), "{refused}");
        let finished: Vec<_> = (1..=question).map(|n| finish(n, true)).collect();
        peer.send(&finished).await;
        peer.send(&[call(40, BOOT, ECHO, Cap::Hosted(7))]).await;
        peer.returned(40).await.unwrap();
    });
}

#[test]
fn connections_share_a_budget_and_one_that_holds_little_gets_through() {
    watched(LIMIT, || async {
        let limits = Limits {
            vat: Budget::new(1 << 20),
            ..Limits::default()
        };
        let budget = limits.vat.clone();
        let [mut hog, mut other] = [(); 2].map(|()| Peer::new(limits.clone()));
        for peer in [&mut hog, &mut other] {
            peer.send(&[bootstrap(0)]).await;
            peer.returned(0).await.unwrap();
        }
        let calls: Vec<_> = (1..=9).map(|n| large_call(n, NEVER, 120_000)).collect();
        hog.send(&calls).await;
        let refused = hog.returned(9).await.unwrap_err();
        assert_overloaded(&refused);
        assert!(refused.contains("limits.bytes_per_vat"), "{refused}");
        other.send(&[large_call(1, NOTHING, 120_000)]).await;
        let refused = other.returned(1).await.unwrap_err();
        assert!(refused.contains("limits.bytes_per_vat"), "{refused}");
        other.send(&[large_call(2, NOTHING, 50_000)]).await;
        other.returned(2).await.unwrap();
        // Its end gives everything back.
        drop(hog.stream);
        hog.handle.ended().await;
        other.send(&[large_call(3, NOTHING, 120_000)]).await;
        other.returned(3).await.unwrap();
        assert!(budget.used_bytes() < 1000, "{}", budget.used_bytes());
    });
}

#[test]
fn a_message_that_is_arriving_counts_and_ends_its_connection_if_there_is_no_room() {
    watched(LIMIT, || async {
        let limits = Limits {
            vat: Budget::new(1 << 20),
            ..Limits::default()
        };
        let budget = limits.vat.clone();
        let mut peer = Peer::new(limits);
        let mut bytes = Vec::new();
        let message = large_call(1, NOTHING, 4 << 20);
        capnp::serialize::write_message(&mut bytes, &message).unwrap();
        peer.send_bytes(&bytes[..400_000]).await;
        turns().await;
        assert!(budget.used_bytes() >= 300_000, "{}", budget.used_bytes());
        peer.send_bytes(&bytes[400_000..3_000_000]).await;
        let (reason, end) = peer.aborted().await;
        assert!(reason.starts_with("overloaded: "), "{reason}");
        assert!(matches!(end, End::Refused(_)), "{end}");
        assert_eq!(budget.used_bytes(), 0);
    });
}

#[test]
fn a_peer_that_does_not_send_the_rest_of_a_message_loses_its_connection() {
    paused(async {
        let mut peer = Peer::new(Limits::default());
        let mut bytes = Vec::new();
        let message = large_call(1, NOTHING, 200_000);
        capnp::serialize::write_message(&mut bytes, &message).unwrap();
        peer.send(&[bootstrap(0)]).await;
        peer.returned(0).await.unwrap();
        // However slowly it comes, it may come; and between messages nothing has to.
        for piece in bytes.chunks(50_000) {
            sleep(Duration::from_secs(29)).await;
            peer.send_bytes(piece).await;
        }
        sleep(Duration::from_secs(3600)).await;
        assert_eq!(peer.handle.end(), None);
        // But it has to come, and not only to trickle.
        let mut peer = Peer::new(Limits::default());
        let began = Instant::now();
        for byte in &bytes[..3] {
            peer.send_bytes(&[*byte]).await;
            sleep(Duration::from_secs(14)).await;
        }
        let (reason, _) = peer.aborted().await;
        assert!(reason.contains("`limits.least_bytes_per_s`"), "{reason}");
        assert_eq!(began.elapsed().as_secs(), 42);
        // The table of segments alone announces the largest message there may be.
        let announced = [0, 0, 0, 0, 0, 0, 64, 0];
        let with_room = [&announced[..], &[0; 4096]].concat();
        let small = &bootstrap_bytes()[..24];
        for (part, counted) in [
            (&bytes[..100_000], true),
            (&announced[..3], false),
            (&announced[..], true),
            (&with_room[..], true),
            (small, false),
        ] {
            let limits = Limits::default();
            let budget = limits.vat.clone();
            let mut peer = Peer::new(limits);
            peer.send(&[bootstrap(0)]).await;
            peer.returned(0).await.unwrap();
            peer.send(&[finish(0, true)]).await;
            let began = Instant::now();
            peer.send_bytes(part).await;
            turns().await;
            assert_eq!(budget.used_bytes() > 0, counted, "{} bytes", part.len());
            let (reason, end) = peer.aborted().await;
            assert!(reason.starts_with("limit-exceeded: "), "{reason}");
            assert!(reason.contains("30000 ms"), "{reason}");
            let limit = Duration::from_secs(30);
            assert_eq!(end, End::Late { limit });
            assert_eq!(began.elapsed().as_secs(), 30);
            assert_eq!(budget.used_bytes(), 0);
        }
    });
}

fn bootstrap_bytes() -> Vec<u8> {
    let mut bytes = Vec::new();
    capnp::serialize::write_message(&mut bytes, &bootstrap(0)).unwrap();
    bytes
}

#[test]
fn a_message_in_which_much_is_pointed_to_twice_counts_as_large_as_its_copy() {
    watched(LIMIT, || async {
        let limits = Limits {
            max_bytes_in_flight: 100_000,
            ..Limits::default()
        };
        let mut peer = Peer::new(limits);
        peer.send(&[bootstrap(0)]).await;
        peer.returned(0).await.unwrap();
        // A list of 400 pointers to the same 2,000 bytes, and a capability beside it.
        let message = shared_parts(1, 400, 2000);
        assert!(message.len() < 20_000);
        peer.send(&[call(2, BOOT, NEVER, Cap::None)]).await;
        peer.send_bytes(&message).await;
        let refused = peer.returned(1).await.unwrap_err();
        assert_overloaded(&refused);
        assert!(refused.contains("bytes of calls"), "{refused}");
    });
}

/// A call, as bytes, whose parameters are `count` pointers to the same `bytes`.
fn shared_parts(question: u32, count: u32, bytes: u32) -> Vec<u8> {
    let message = build(|m| {
        let mut call = m.init_call();
        call.set_question_id(question);
        call.set_interface_id(INTERFACE);
        call.set_method_id(NEVER);
        call.reborrow().init_target().set_imported_cap(0);
        let mut params = call.init_params();
        params
            .reborrow()
            .init_cap_table(1)
            .get(0)
            .set_sender_hosted(7);
        let mut list: capnp::data_list::Builder<'_> = params.get_content().initn_as(count);
        list.set(0, &vec![7; bytes as usize]);
    });
    let segments = message.get_segments_for_output();
    assert_eq!(
        segments.len(),
        1,
        "one segment, so that places are easy to find"
    );
    let mut words = segments[0].to_vec();
    let word = |words: &[u8], place: usize| {
        u64::from_le_bytes(words[place * 8..place * 8 + 8].try_into().unwrap())
    };
    // A pointer to a list of bytes: kind 1, size 2, and the count.
    let filled = 1 | (2 | u64::from(bytes) << 3) << 32;
    let first = (0..words.len() / 8)
        .find(|place| word(&words, *place) & !0xffff_fffc == filled)
        .expect("the first of the list");
    let offset = (word(&words, first) as u32 as i32) >> 2;
    for step in 1..count as usize {
        let pointer = filled | u64::from(((offset - step as i32) << 2) as u32);
        let place = (first + step) * 8;
        words[place..place + 8].copy_from_slice(&pointer.to_le_bytes());
    }
    let mut all = vec![0, 0, 0, 0];
    all.extend_from_slice(&((words.len() / 8) as u32).to_le_bytes());
    all.extend_from_slice(&words);
    all
}
