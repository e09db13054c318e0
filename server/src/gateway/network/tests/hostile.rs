//! Peers that break rules, or use them against us.

use capnp_rpc::rpc_capnp::message;

use super::object::*;
use super::peer::*;
use super::{LIMIT, watched};
use crate::gateway::network::{End, Limits};

/// Bootstraps as question 0 and export 0, sends `messages`, and then a call that has to be
/// answered or an abort with `reason`. After that come embargoes on every answer: whether they are
/// in place or not, walking what they are for comes to an end.
fn knots(messages: Vec<Outgoing>, reason: Option<&'static str>) {
    knots_in_answers(Vec::new(), messages, reason);
}

/// Runs [`knots`] where `first` makes the other side ask the peer something, as question 0, before
/// `messages` are sent.
fn knots_in_answers(first: Vec<Outgoing>, messages: Vec<Outgoing>, reason: Option<&'static str>) {
    let first = serialized(&first);
    let bytes: Vec<u8> = serialized(&messages);
    watched(LIMIT, move || async move {
        let mut peer = Peer::new(Limits::default());
        peer.send(&[bootstrap(0)]).await;
        peer.returned(0).await.unwrap();
        if !first.is_empty() {
            peer.send_bytes(&first).await;
            assert_eq!(peer.asked().await, 0);
        }
        peer.send_bytes(&bytes).await;
        peer.send(&[call(99, Target::Export(0), NOTHING, Cap::None)])
            .await;
        if let Some(reason) = reason {
            let (text, end) = peer.aborted().await;
            assert!(text.contains(reason), "{text}");
            assert!(matches!(end, End::Refused(_)), "{end}");
            return;
        }
        peer.returned(99).await.unwrap();
        for answer in 1..=4 {
            peer.send(&[disembargo(Target::Answer(answer), answer)])
                .await;
        }
        drop(peer.stream);
        peer.handle.ended().await;
    });
}

fn serialized(messages: &[Outgoing]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for message in messages {
        capnp::serialize::write_message(&mut bytes, message).unwrap();
    }
    bytes
}

const BOOT: Target = Target::Export(0);

#[test]
fn a_promise_may_resolve_to_itself() {
    for cap in [Cap::Promise(5), Cap::Hosted(5)] {
        knots(
            vec![
                call(1, BOOT, ECHO, Cap::Promise(5)),
                call(2, Target::Answer(1), NOTHING, Cap::None),
                resolve(5, cap),
                call(3, Target::Answer(1), NOTHING, Cap::None),
                call(4, BOOT, FORWARD, Cap::Promise(5)),
                disembargo(Target::Answer(1), 8),
            ],
            None,
        );
    }
}

#[test]
fn two_promises_may_resolve_to_each_other() {
    knots(
        vec![
            call(1, BOOT, ECHO, Cap::Promise(5)),
            call(2, BOOT, ECHO, Cap::Promise(6)),
            resolve(5, Cap::Promise(6)),
            resolve(6, Cap::Promise(5)),
            call(3, Target::Answer(1), NOTHING, Cap::None),
        ],
        None,
    );
}

/// A promise of the peer that resolves to an export of ours that is a promise for it.
#[test]
fn a_promise_may_resolve_to_our_promise_for_it() {
    knots(
        vec![
            call(1, BOOT, LATE_ECHO, Cap::Promise(5)),
            call(2, BOOT, ECHO, Cap::Answer(1)),
            resolve(5, Cap::Yours(1)),
            resolve(5, Cap::Answer(1)),
            call(3, BOOT, PUT, Cap::None),
            call(4, Target::Answer(2), NOTHING, Cap::None),
        ],
        None,
    );
}

/// Two pending answers that become each other through what an object keeps.
#[test]
fn answers_may_not_become_each_other() {
    knots(
        vec![
            call(1, BOOT, TAKE, Cap::None),
            call(2, BOOT, LATE_ECHO, Cap::Answer(1)),
            call(3, BOOT, PUT, Cap::Answer(2)),
            call(4, Target::Answer(1), NOTHING, Cap::None),
        ],
        None,
    );
}

/// Two pending answers that become each other, their questions finished before they are answered.
#[test]
fn finished_answers_may_not_become_each_other() {
    knots(
        vec![
            call(1, BOOT, TAKE, Cap::None),
            call(2, BOOT, LATE_ECHO, Cap::Answer(1)),
            call(3, BOOT, ECHO, Cap::Answer(1)),
            call(4, BOOT, ECHO, Cap::Answer(2)),
            finish(1, false),
            finish(2, true),
            call(5, BOOT, PUT, Cap::Answer(4)),
            call(6, Target::Answer(3), NOTHING, Cap::None),
            call(7, Target::Answer(4), NOTHING, Cap::None),
        ],
        None,
    );
}

/// A question of ours whose answer is the capability that we gave out for its result.
#[test]
fn our_question_may_not_be_its_own_answer() {
    knots_in_answers(
        vec![call(1, BOOT, PIPELINE, Cap::Hosted(5))],
        vec![results(0, Cap::Answer(1))],
        None,
    );
}

/// The peer's own object, called through us, decides what a pending answer becomes.
#[test]
fn a_forwarded_call_may_not_return_a_pending_answer() {
    knots_in_answers(
        vec![call(1, BOOT, FORWARD, Cap::Hosted(5))],
        vec![
            call(2, BOOT, ECHO, Cap::Answer(1)),
            results(0, Cap::Answer(2)),
        ],
        None,
    );
    knots_in_answers(
        vec![call(1, BOOT, FORWARD, Cap::Hosted(5))],
        vec![
            call(2, BOOT, ECHO, Cap::Answer(1)),
            results(0, Cap::Yours(1)),
        ],
        None,
    );
}

/// What is passed on before it is there arrives, as long as it is settled then.
#[test]
fn passed_on_answers_arrive() {
    knots(
        vec![
            call(1, BOOT, LATE_ECHO, Cap::Yours(0)),
            call(2, BOOT, FORWARD, Cap::Answer(1)),
            call(3, BOOT, ECHO, Cap::Answer(1)),
            finish(1, true),
            call(4, BOOT, PUT, Cap::None),
            call(5, Target::Answer(3), NOTHING, Cap::None),
        ],
        None,
    );
}

#[test]
fn broken_rules_are_answered_with_an_abort() {
    let unknown = |n: u16| {
        // The tag of a message is the first word behind the root pointer.
        let mut bytes = serialized(&[bootstrap(1)]);
        bytes[16..18].copy_from_slice(&n.to_le_bytes());
        bytes
    };
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("double bootstrap", serialized(&[bootstrap(0)])),
        ("over-release", serialized(&[release(0, 2)])),
        ("unknown release", serialized(&[release(7, 1)])),
        ("unknown return", serialized(&[results(3, Cap::None)])),
        (
            "unknown target",
            serialized(&[call(1, Target::Export(9), 0, Cap::None)]),
        ),
        ("resolve to none", serialized(&[resolve(3, Cap::None)])),
        ("disembargo", serialized(&[disembargo(BOOT, 1)])),
        (
            "in use",
            serialized(&[call(1, BOOT, NEVER, Cap::None), call(1, BOOT, 0, Cap::None)]),
        ),
        ("garbage", vec![0xff; 64]),
        (
            "text",
            b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n".to_vec(),
        ),
        (
            "bad root",
            [&[0, 0, 0, 0, 1, 0, 0, 0][..], &[0xff; 8]].concat(),
        ),
        (
            "third party",
            serialized(&[call(1, BOOT, ECHO, Cap::ThirdParty)]),
        ),
        ("results for a third party", {
            let m = build(|m| {
                m.init_call().get_send_results_to().init_third_party();
            });
            serialized(&[m])
        }),
    ];
    for (name, bytes) in cases {
        watched(LIMIT, move || async move {
            let mut peer = Peer::new(Limits::default());
            peer.send(&[bootstrap(0)]).await;
            peer.returned(0).await.unwrap();
            peer.send_bytes(&bytes).await;
            let (text, end) = peer.aborted().await;
            assert!(vatwerk::Code::split(&text).0.is_some(), "{name}: {text}");
            assert!(matches!(end, End::Refused(_)), "{name}: {end}");
        });
    }
    // A kind of message that is not known is sent back.
    for tag in [7, 9, 10, 11, 12, 14, 700] {
        let bytes = unknown(tag);
        watched(LIMIT, move || async move {
            let mut peer = Peer::new(Limits::default());
            peer.send_bytes(&bytes).await;
            let message = peer.receive().await.unwrap();
            let root: message::Reader<'_> = message.get_root().unwrap();
            assert!(
                matches!(root.which(), Ok(message::Unimplemented(_))),
                "{tag}"
            );
        });
    }
}

#[test]
fn finish_of_an_unknown_question_is_nothing() {
    knots(
        vec![finish(42, true), finish(0, false), finish(0, true)],
        None,
    );
}

#[test]
fn a_peer_that_aborts_is_heard() {
    watched(LIMIT, || async {
        let mut peer = Peer::new(Limits::default());
        peer.send(&[abort("enough")]).await;
        let (_, end) = peer.aborted().await;
        assert_eq!(end, End::PeerAborted("enough".into()));
    });
}

#[test]
fn a_stream_that_ends_within_a_message_is_broken() {
    for bytes in [3, 8, 20] {
        watched(LIMIT, move || async move {
            let mut peer = Peer::new(Limits::default());
            let message = serialized(&[bootstrap(0)]);
            peer.send_bytes(&message[..bytes]).await;
            drop(peer.stream);
            assert!(matches!(peer.handle.ended().await, End::Broken(_)));
        });
    }
}

#[test]
fn announced_sizes_are_limits_and_cost_nothing() {
    let limits = || Limits {
        max_message_bytes: 1 << 20,
        max_segments: 3,
        ..Limits::default()
    };
    let words = |n: &[u32]| n.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>();
    for bytes in [
        words(&[0, (1 << 17) + 1]),
        words(&[0, u32::MAX]),
        words(&[2, u32::MAX, u32::MAX, u32::MAX]),
        words(&[3, 0, 0, 0, 0, 0]),
        words(&[u32::MAX, 0]),
    ] {
        watched(LIMIT, move || async move {
            let mut peer = Peer::new(limits());
            peer.send_bytes(&bytes).await;
            let (text, end) = peer.aborted().await;
            assert!(text.starts_with("limit-exceeded: "), "{text}");
            assert!(matches!(end, End::Refused(_)), "{end}");
        });
    }
}

#[test]
fn a_storm_of_calls_is_answered_overloaded() {
    watched(LIMIT, || async {
        let limits = Limits {
            max_calls_in_flight: 10,
            ..Limits::default()
        };
        let mut peer = Peer::new(limits);
        peer.send(&[bootstrap(0)]).await;
        for question in 1..=1000 {
            peer.send(&[call(question, BOOT, NEVER, Cap::Hosted(question))])
                .await;
            if question > 10 {
                let refused = peer.returned(question).await.unwrap_err();
                assert_overloaded(&refused);
                let on_it = call(5000, Target::Answer(question), NOTHING, Cap::None);
                peer.send(&[on_it, finish(5000, true), finish(question, true)])
                    .await;
                let refused = peer.returned(5000).await.unwrap_err();
                assert_overloaded(&refused);
            }
        }
        let counters = peer.handle.counters();
        assert_eq!(counters.calls_in_flight, 10);
        assert_eq!(counters.imports, 10);
        assert_eq!(counters.calls_refused, 2 * 990);
    });
}

/// A call that was given up is returned all the same, and its number can be used again.
#[test]
fn given_up_calls_are_returned() {
    watched(LIMIT, || async {
        let mut peer = Peer::new(Limits::default());
        peer.send(&[bootstrap(0)]).await;
        for _ in 0..100 {
            let given_up = call(1, BOOT, LATE_ECHO, Cap::Hosted(5));
            peer.send(&[given_up, finish(1, true)]).await;
            peer.send(&[call(2, BOOT, PUT, Cap::None)]).await;
            peer.returned(2).await.unwrap();
            peer.returned(1).await.unwrap();
        }
        let counters = peer.handle.counters();
        assert_eq!(counters.calls_in_flight, 0);
        assert_eq!(counters.open_questions, 1);
        assert_eq!((counters.exports, counters.imports), (1, 0));
    });
}

#[test]
fn the_bytes_of_waiting_calls_are_limited() {
    watched(LIMIT, || async {
        let limits = Limits {
            max_bytes_in_flight: 500,
            ..Limits::default()
        };
        let mut peer = Peer::new(limits);
        let mut messages = vec![bootstrap(0)];
        messages.extend((1..=9).map(|n| call(n, BOOT, NEVER, Cap::None)));
        peer.send(&messages).await;
        let refused = peer.returned(9).await.unwrap_err();
        assert_overloaded(&refused);
        assert!((2..=5).contains(&peer.handle.counters().calls_in_flight));
    });
}

#[test]
fn a_peer_that_finishes_nothing_is_refused() {
    watched(LIMIT, || async {
        let limits = Limits {
            max_open_questions: 10,
            ..Limits::default()
        };
        let mut peer = Peer::new(limits);
        let mut messages = vec![bootstrap(0)];
        messages.extend((1..=30).map(|n| call(n, BOOT, ECHO, Cap::Hosted(n))));
        peer.send(&messages).await;
        let (text, _) = peer.aborted().await;
        assert!(text.starts_with("limit-exceeded: "), "{text}");
    });
}

#[test]
fn exports_and_imports_are_counted_and_limited() {
    watched(LIMIT, || async {
        let limits = Limits {
            max_imports: 2,
            ..Limits::default()
        };
        let mut peer = Peer::new(limits);
        peer.send(&[bootstrap(0)]).await;
        for id in 1..=2 {
            peer.send(&[call(id, BOOT, LATE_ECHO, Cap::Hosted(id))])
                .await;
        }
        peer.send(&[call(3, BOOT, LATE_ECHO, Cap::Promise(3))])
            .await;
        assert_overloaded(&peer.returned(3).await.unwrap_err());
        peer.send(&[call(4, BOOT, PUT, Cap::Yours(0))]).await;
        peer.returned(1).await.unwrap();
        peer.returned(2).await.unwrap();
        peer.send(&[finish(1, true), finish(2, true), finish(4, true)])
            .await;
        peer.send(&[call(5, BOOT, NOTHING, Cap::None)]).await;
        peer.returned(5).await.unwrap();
        let counters = peer.handle.counters();
        assert_eq!((counters.exports, counters.imports), (1, 0));
    });
}

#[test]
fn unread_answers_stop_the_reading() {
    watched(LIMIT, || async {
        let limits = Limits {
            max_unwritten_bytes: 300_000,
            ..Limits::default()
        };
        let mut peer = Peer::new(limits);
        let mut messages = vec![bootstrap(0)];
        messages.extend((1..=200).map(|n| call(n, BOOT, BIG, Cap::None)));
        peer.send(&messages).await;
        // Enough turns for everything that could be answered by now.
        for _ in 0..2000 {
            tokio::task::yield_now().await;
        }
        let counters = peer.handle.counters();
        assert!(counters.calls < 20, "{counters:?}");
        assert!(counters.unwritten_bytes < 600_000, "{counters:?}");
        for question in 1..=200 {
            peer.returned(question).await.unwrap();
        }
    });
}

/// Makes the last list pointer of the message that has `from` elements a list of `to` nothings.
fn stretched(message: &Outgoing, from: u32, to: u32) -> Vec<u8> {
    let mut bytes = serialized(std::slice::from_ref(message));
    let mut places = Vec::new();
    for place in (8..bytes.len()).step_by(8) {
        let word = u64::from_le_bytes(bytes[place..place + 8].try_into().unwrap());
        // An inline composite list says its length, in words, after 3 bits for the kind.
        if word & 3 == 1 && (word >> 32) & 7 == 7 && (word >> 35) as u32 == from {
            places.push(place);
        }
    }
    let place = *places.last().expect("no such list");
    let word = 1 | u64::from(to) << 35;
    bytes[place..place + 8].copy_from_slice(&word.to_le_bytes());
    bytes
}

/// A result that cannot be followed yet fails the call that asked for it.
#[test]
fn a_result_that_is_not_there_yet_fails_the_call_and_not_the_connection() {
    watched(LIMIT, || async {
        let mut peer = Peer::new(Limits::default());
        peer.send(&[bootstrap(0)]).await;
        peer.returned(0).await.unwrap();
        peer.send(&[call(1, BOOT, FORWARD, Cap::Hosted(5))]).await;
        assert_eq!(peer.asked().await, 0);
        peer.send(&[call(2, BOOT, TAKE, Cap::None), results(0, Cap::Answer(2))])
            .await;
        let failed = peer.returned(1).await.unwrap_err();
        assert!(failed.contains("invalid-argument: "), "{failed}");
        peer.send(&[call(3, BOOT, PUT, Cap::None)]).await;
        peer.returned(3).await.unwrap();
    });
}

/// Lists that take no room in a message and a lot in memory.
#[test]
fn long_lists_of_nothing_are_refused() {
    // A table of one capability has two words; one step has one.
    let table = |m: Outgoing, to| stretched(&m, 2, to);
    let step = |fill: &dyn Fn(message::Builder<'_>)| stretched(&build(fill), 1, 65);
    let target = |mut to: capnp_rpc::rpc_capnp::message_target::Builder<'_>| {
        to.reborrow().init_promised_answer().init_transform(1);
    };
    let forward = || vec![call(1, BOOT, FORWARD, Cap::Hosted(5))];
    for bytes in [
        table(call(1, BOOT, NOTHING, Cap::None), 5_000_000),
        table(call(1, BOOT, NOTHING, Cap::None), 20),
        [
            serialized(&forward()),
            table(results(0, Cap::None), 5_000_000),
        ]
        .concat(),
        step(&|m| target(m.init_call().init_target())),
        step(&|m| target(m.init_disembargo().init_target())),
        step(&|m| {
            let mut call = m.init_call();
            call.set_question_id(1);
            call.reborrow().init_target().set_imported_cap(0);
            let cap = call.init_params().init_cap_table(1).get(0);
            cap.init_receiver_answer().init_transform(1);
        }),
        serialized(&[build(|m| {
            let mut call = m.init_call();
            call.set_question_id(1);
            call.reborrow().init_target().set_imported_cap(0);
            call.init_params().init_cap_table(4097);
        })]),
    ] {
        watched(LIMIT, move || async move {
            let mut peer = Peer::new(Limits::default());
            peer.send(&[bootstrap(0)]).await;
            peer.returned(0).await.unwrap();
            peer.send_bytes(&bytes).await;
            let (text, end) = peer.aborted().await;
            assert!(text.starts_with("limit-exceeded: "), "{text}");
            assert!(matches!(end, End::Refused(_)), "{end}");
        });
    }
}

/// What comes with a refused call is given back in one message for each capability.
#[test]
fn a_refused_call_is_released_at_once() {
    watched(LIMIT, || async {
        let limits = Limits {
            max_imports: 1,
            ..Limits::default()
        };
        let mut peer = Peer::new(limits);
        peer.send(&[bootstrap(0)]).await;
        peer.returned(0).await.unwrap();
        let many = build(|m| {
            let mut call = m.init_call();
            call.set_question_id(1);
            call.reborrow().init_target().set_imported_cap(0);
            let mut table = call.init_params().init_cap_table(4000);
            for n in 0..4000 {
                table.reborrow().get(n).set_sender_hosted(n % 2);
            }
        });
        peer.send(&[many]).await;
        let refused = peer.returned(1).await.unwrap_err();
        assert_overloaded(&refused);
        // The bootstrap's return, two releases, and this return.
        assert_eq!(peer.handle.counters().messages_out, 4);
    });
}
