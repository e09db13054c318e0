//! Calls of the peer whose results are for a question of this side.

use std::collections::BTreeMap;

use capnp_rpc::rpc_capnp::{cap_descriptor, message, return_};

use super::object::*;
use super::peer::*;
use super::{LIMIT, watched};
use crate::gateway::network::Limits;

/// The object that the bootstrap returned: export 0.
const BOOT: Target = Target::Export(0);

/// The results of our question are those of the peer's tail call.
fn take(question: u32, tail: u32) -> Outgoing {
    return_with(question, |mut ret| ret.set_take_from_other_question(tail))
}

/// A peer that our object has asked something, as question 0, in a call of it, number 1.
async fn asked(limits: Limits) -> Peer {
    let mut peer = Peer::new(limits);
    peer.send(&[bootstrap(0)]).await;
    peer.returned(0).await.unwrap();
    peer.send(&[call(1, BOOT, FORWARD, Cap::Hosted(5))]).await;
    assert_eq!(peer.asked().await, 0);
    peer
}

/// Reads until the return for `question`: the capabilities in it, or the exception's text. Of what is released
/// meanwhile it counts the references.
async fn outcome(
    peer: &mut Peer,
    question: u32,
    released: &mut BTreeMap<u32, u32>,
) -> Result<Vec<Cap>, String> {
    loop {
        let message = peer.receive().await.expect("no return before the end");
        let root: message::Reader<'_> = message.get_root().unwrap();
        match root.which().unwrap() {
            message::Release(release) => {
                let release = release.unwrap();
                *released.entry(release.get_id()).or_default() += release.get_reference_count();
            }
            message::Resolve(_) => panic!("it was told of no promise"),
            message::Return(ret) if ret.as_ref().unwrap().get_answer_id() == question => {
                return match ret.unwrap().which().unwrap() {
                    return_::Exception(exception) => {
                        let reason = exception.unwrap().get_reason().unwrap();
                        Err(reason.to_string().unwrap())
                    }
                    return_::ResultsSentElsewhere(()) => Ok(Vec::new()),
                    return_::Results(results) => {
                        let table = results.unwrap().get_cap_table().unwrap();
                        let caps = table.iter().map(|one| match one.which().unwrap() {
                            cap_descriptor::SenderHosted(id) => Cap::Hosted(id),
                            cap_descriptor::ReceiverHosted(id) => Cap::Yours(id),
                            _ => Cap::None,
                        });
                        Ok(caps.collect())
                    }
                    _ => panic!("another kind of return"),
                };
            }
            _ => (),
        }
    }
}

#[test]
fn the_results_of_a_tail_call_answer_the_question_that_they_are_for() {
    let given = [
        (Cap::Hosted(9), Cap::Yours(9), 1),
        (Cap::Yours(0), Cap::Hosted(0), 0),
    ];
    for (given, expected, references) in given {
        for take_first in [false, true] {
            watched(LIMIT, move || async move {
                let mut peer = asked(Limits::default()).await;
                let mut released = BTreeMap::new();
                let method = if take_first { LATE_ECHO } else { ECHO };
                peer.send(&[tail(7, BOOT, method, given)]).await;
                if take_first {
                    peer.send(&[take(0, 7), call(2, BOOT, PUT, Cap::None)])
                        .await;
                    outcome(&mut peer, 7, &mut released).await.unwrap();
                } else {
                    outcome(&mut peer, 7, &mut released).await.unwrap();
                    peer.send(&[take(0, 7)]).await;
                }
                let got = outcome(&mut peer, 1, &mut released).await.unwrap();
                assert_eq!(format!("{got:?}"), format!("{:?}", [expected]));
                // The peer was not given what it says it keeps.
                peer.send(&[finish(7, false), finish(1, true), finish(2, true)])
                    .await;
                peer.send(&[finish(0, false), call(3, BOOT, NOTHING, Cap::None)])
                    .await;
                outcome(&mut peer, 3, &mut released).await.unwrap();
                peer.send(&[finish(3, true), call(4, BOOT, NOTHING, Cap::None)])
                    .await;
                outcome(&mut peer, 4, &mut released).await.unwrap();
                // Each as often as the peer has given it.
                assert_eq!(released.get(&5), Some(&1));
                assert_eq!(released.get(&9).copied().unwrap_or_default(), references);
                let counters = peer.handle.counters();
                assert_eq!((counters.imports, counters.exports), (0, 1));
                assert_eq!(counters.asked_in_flight, 0);
            });
        }
    }
}

#[test]
fn a_tail_call_that_fails_fails_the_question_that_it_is_for() {
    // The text, the calls that the vat takes at once, and what the peer says.
    let cases: Vec<(&str, usize, Vec<Outgoing>)> = vec![
        (
            "unimplemented: ",
            8,
            vec![tail(7, BOOT, 99, Cap::None), take(0, 7)],
        ),
        (
            "overloaded: ",
            1,
            vec![tail(7, BOOT, ECHO, Cap::None), take(0, 7)],
        ),
        (
            "unresolved promise",
            8,
            vec![tail(7, BOOT, PIPELINE, Cap::Hosted(6)), take(0, 7)],
        ),
        ("a question that is none", 8, vec![take(0, 7)]),
        (
            "a question that is none",
            8,
            vec![call(7, BOOT, ECHO, Cap::None), take(0, 7)],
        ),
    ];
    for (expected, max_calls_in_flight, messages) in cases {
        let mut bytes = Vec::new();
        for message in &messages {
            capnp::serialize::write_message(&mut bytes, message).unwrap();
        }
        watched(LIMIT, move || async move {
            let limits = Limits {
                max_calls_in_flight,
                ..Limits::default()
            };
            let mut peer = asked(limits).await;
            peer.send_bytes(&bytes).await;
            let failed = peer.returned(1).await.unwrap_err();
            assert!(failed.contains(expected), "{failed}");
            peer.send(&[finish(7, true), finish(1, true)]).await;
            peer.send(&[call(3, BOOT, NOTHING, Cap::None)]).await;
            peer.returned(3).await.unwrap();
        });
    }
}

#[test]
fn the_results_of_a_tail_call_are_had_once_and_not_after_its_end() {
    watched(LIMIT, || async {
        let mut peer = asked(Limits::default()).await;
        peer.send(&[call(2, BOOT, FORWARD, Cap::Hosted(6))]).await;
        let second = peer.asked().await;
        peer.send(&[tail(7, BOOT, ECHO, Cap::None), take(0, 7), take(second, 7)])
            .await;
        let failed = peer.returned(2).await.unwrap_err();
        assert!(failed.contains("another question already"), "{failed}");
        peer.send(&[finish(2, true), finish(7, true)]).await;
        peer.send(&[call(2, BOOT, FORWARD, Cap::Hosted(6))]).await;
        let third = peer.asked().await;
        peer.send(&[tail(8, BOOT, ECHO, Cap::None)]).await;
        peer.returned(8).await.unwrap();
        peer.send(&[finish(8, true), take(third, 8)]).await;
        let failed = peer.returned(2).await.unwrap_err();
        assert!(failed.contains("a question that is none"), "{failed}");
    });
}

#[test]
fn a_question_whose_results_are_said_to_be_elsewhere_is_not_answered_otherwise() {
    watched(LIMIT, || async {
        let mut peer = asked(Limits::default()).await;
        let never = tail(7, BOOT, NEVER, Cap::None);
        peer.send(&[never, take(0, 7), results(0, Cap::None)]).await;
        let (reason, _) = peer.aborted().await;
        assert!(reason.contains("a second return"), "{reason}");
    });
}

#[test]
fn results_that_do_not_fit_in_a_message_are_an_error_of_their_call() {
    watched(LIMIT, || async {
        let limits = Limits {
            max_message_bytes: 50_000,
            ..Limits::default()
        };
        let mut peer = Peer::new(limits);
        peer.send(&[bootstrap(0)]).await;
        peer.returned(0).await.unwrap();
        peer.send(&[
            call(1, BOOT, BIG, Cap::None),
            call(2, Target::Answer(1), NOTHING, Cap::None),
        ])
        .await;
        let failed = peer.returned(1).await.unwrap_err();
        assert!(failed.starts_with("limit-exceeded: "), "{failed}");
        peer.returned(2).await.unwrap_err();
        peer.send(&[finish(1, false), call(3, BOOT, NOTHING, Cap::None)])
            .await;
        peer.returned(3).await.unwrap();
    });
}

#[test]
fn a_question_is_finished_also_when_the_tail_call_needs_no_finish() {
    watched(LIMIT, || async {
        let mut peer = asked(Limits::default()).await;
        // Results without capabilities.
        peer.send(&[tail(7, BOOT, NOTHING, Cap::None), take(0, 7)])
            .await;
        loop {
            let message = peer.receive().await.expect("no finish before the end");
            let root: message::Reader<'_> = message.get_root().unwrap();
            if let message::Finish(finish) = root.which().unwrap() {
                assert_eq!(finish.unwrap().get_question_id(), 0);
                break;
            }
        }
        peer.send(&[finish(7, true), finish(1, true)]).await;
        peer.send(&[call(2, BOOT, NOTHING, Cap::None)]).await;
        peer.returned(2).await.unwrap();
        assert_eq!(peer.handle.counters().asked_in_flight, 0);
    });
}

#[test]
fn a_tail_call_that_cannot_be_followed_releases_what_the_peer_gave_once() {
    watched(LIMIT, || async {
        let mut peer = asked(Limits::default()).await;
        let mut released = BTreeMap::new();
        peer.send(&[tail(7, BOOT, WITH_PROMISE, Cap::Hosted(9)), take(0, 7)])
            .await;
        let failed = outcome(&mut peer, 1, &mut released).await.unwrap_err();
        assert!(failed.contains("unresolved promise"), "{failed}");
        peer.send(&[finish(7, true), finish(1, true)]).await;
        for question in [2, 3] {
            peer.send(&[call(question, BOOT, NOTHING, Cap::None)]).await;
            outcome(&mut peer, question, &mut released).await.unwrap();
        }
        assert_eq!(released.get(&9), Some(&1));
    });
}

/// An object that keeps the promise of what the peer is asked as question 0.
async fn keeping(limits: Limits) -> Peer {
    let mut peer = Peer::new(limits);
    peer.send(&[bootstrap(0)]).await;
    peer.returned(0).await.unwrap();
    peer.send(&[call(1, BOOT, KEEP_RESULT, Cap::Hosted(5))])
        .await;
    assert_eq!(peer.asked().await, 0);
    peer
}

#[test]
fn a_promise_that_the_peer_was_not_given_cannot_become_itself() {
    // The peer names it before the vat does.
    watched(LIMIT, || async {
        let mut peer = keeping(Limits::default()).await;
        peer.send(&[
            call(2, BOOT, KEPT, Cap::None),
            results(0, Cap::Yours(1)),
            call(3, Target::Export(1), NOTHING, Cap::None),
            call(4, BOOT, KEPT, Cap::None),
            call(5, BOOT, NOTHING, Cap::None),
        ])
        .await;
        peer.returned(5).await.unwrap();
    });
    // It was part of results that did not fit in a message.
    watched(LIMIT, || async {
        let limits = Limits {
            max_message_bytes: 50_000,
            ..Limits::default()
        };
        let mut peer = keeping(limits).await;
        peer.send(&[call(2, BOOT, KEPT_BIG, Cap::None)]).await;
        peer.returned(2).await.unwrap_err();
        peer.send(&[call(3, BOOT, KEPT, Cap::None)]).await;
        peer.returned(3).await.unwrap();
        peer.send(&[
            results(0, Cap::Yours(1)),
            call(4, BOOT, KEPT, Cap::None),
            call(5, BOOT, NOTHING, Cap::None),
        ])
        .await;
        peer.returned(5).await.unwrap();
    });
}

#[test]
fn a_peer_is_not_told_what_becomes_of_a_promise_that_it_was_not_given() {
    watched(LIMIT, || async {
        let mut peer = keeping(Limits::default()).await;
        let mut released = BTreeMap::new();
        peer.send(&[call(2, BOOT, FORWARD, Cap::Hosted(6))]).await;
        let question = peer.asked().await;
        peer.send(&[tail(7, BOOT, KEPT, Cap::None), take(question, 7)])
            .await;
        outcome(&mut peer, 2, &mut released).await.unwrap_err();
        peer.send(&[call(3, BOOT, KEPT, Cap::None)]).await;
        outcome(&mut peer, 3, &mut released).await.unwrap();
        peer.send(&[results(0, Cap::Hosted(8))]).await;
        for question in [4, 5] {
            peer.send(&[call(question, BOOT, NOTHING, Cap::None)]).await;
            outcome(&mut peer, question, &mut released).await.unwrap();
        }
    });
}
