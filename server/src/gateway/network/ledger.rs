//! What both sides owe each other: every message is entered here before capnp-rpc sees it, and
//! after capnp-rpc has made it.
//!
//! The tables mirror those of capnp-rpc as far as limits and promises need it. "Unsettled" is said
//! of whatever may still turn into something that the peer chooses: a promise exported to the peer,
//! an answer that is pending or holds such a promise.

use std::collections::HashSet;
use std::collections::hash_map::{Entry, HashMap};

use capnp::message::{Builder, HeapAllocator};
use capnp_rpc::rpc_capnp::{
    call, cap_descriptor, message, message_target, payload, resolve, return_,
};
use vatwerk::Code;

use super::budget::Share;
use super::promise::{imported, incoming_resolve, release_imports};
use super::tail::{TailReturn, Tails};
use super::{Limits, Refusal, reply};

/// The largest message, in words when copied, that is sent back as `unimplemented`.
const MAX_UNIMPLEMENTED_WORDS: u64 = 1024;

/// What to do with a message that came in.
pub(super) enum Verdict {
    /// Give the message to capnp-rpc.
    Deliver,
    /// Drop the message: it has been dealt with.
    Swallow,
    /// Give this message to capnp-rpc in place of the one that came in.
    Instead(Builder<HeapAllocator>),
    /// Keep the message, a finish of this question, until capnp-rpc has answered the question.
    Hold { question: u32, release: bool },
    /// Drop the message, and give capnp-rpc the results of a tail call as the answer to this question of ours.
    Tail { question: u32, results: TailReturn },
}

/// A question of the peer.
#[derive(Default)]
pub(super) struct Answer {
    pub(super) is_call: bool,
    /// The size, in bytes, of the call until it returns, and then of the answer, if the peer has to finish
    /// it.
    pub(super) bytes: usize,
    pub(super) returned: bool,
    /// Whether the answer is pending, or was returned with a promise among its capabilities.
    pub(super) unsettled: bool,
    /// Whether the result was passed on as a capability (`receiverAnswer`) before the call returned.
    pub(super) passed_on: bool,
    pub(super) exports: Vec<u32>,
    /// Whether the peer was not sent the results: it releases nothing of them.
    pub(super) withheld: bool,
    /// Whether capnp-rpc knows no more of the question, and the peer has to finish it all the same.
    pub(super) forgotten: bool,
}

/// A capability of this side that the peer holds.
pub(super) struct Export {
    pub(super) references: u64,
    /// Whether the peer was told that the capability is a promise, and so expects to hear what that
    /// resolves to.
    pub(super) promise: bool,
    pub(super) unsettled: bool,
}

/// A question of ours.
#[derive(Default)]
pub(super) struct Question {
    /// The size of the call.
    pub(super) bytes: usize,
    /// Whether the call was refused here: the peer does not know of it.
    pub(super) refused: bool,
    pub(super) returned: bool,
    pub(super) finished: bool,
    /// Whether the peer has said that the results are those of a tail call, which are to come.
    pub(super) awaits_tail: bool,
    /// The capabilities of the peer in the results of a tail call, which are here.
    pub(super) lent: Option<Vec<u32>>,
    /// Whether the peer knows no more of the question, and is not to be told its end.
    pub(super) ended: bool,
}

pub(super) struct Ledger {
    pub(super) answers: HashMap<u32, Answer>,
    pub(super) calls_in_flight: usize,
    pub(super) bytes_in_flight: usize,
    /// Bytes of answers that the peer has to finish and has not finished.
    pub(super) answer_bytes: usize,
    /// The questions of the peer that were refused here, and that it has not finished.
    pub(super) refused: HashSet<u32>,
    pub(super) exports: HashMap<u32, Export>,
    pub(super) imports: HashMap<u32, u64>,
    pub(super) questions: HashMap<u32, Question>,
    pub(super) tails: Tails,
    /// Questions of this side that were sent and have not been answered, and their bytes.
    pub(super) asked: usize,
    pub(super) asked_bytes: usize,
    /// Whether every further call is answered `shutting-down`.
    pub(super) closed_for_calls: bool,
    pub(super) calls: u64,
    pub(super) calls_refused: u64,
    /// Calls of this side that were not sent.
    pub(super) asked_refused: u64,
}

pub(super) type Read<T> = Result<T, Refusal>;

impl Ledger {
    pub(super) fn new() -> Self {
        Ledger {
            answers: HashMap::new(),
            calls_in_flight: 0,
            bytes_in_flight: 0,
            answer_bytes: 0,
            refused: HashSet::new(),
            exports: HashMap::new(),
            imports: HashMap::new(),
            questions: HashMap::new(),
            tails: Tails::default(),
            asked: 0,
            asked_bytes: 0,
            closed_for_calls: false,
            calls: 0,
            calls_refused: 0,
            asked_refused: 0,
        }
    }

    pub(super) fn calls_in_flight(&self) -> usize {
        self.calls_in_flight
    }

    /// Bytes that are held for calls in flight, in both directions, and for answers that the peer has
    /// not finished.
    pub(super) fn held_bytes(&self) -> usize {
        self.bytes_in_flight + self.answer_bytes + self.asked_bytes
    }

    pub(super) fn open_questions(&self) -> usize {
        self.answers.len() + self.refused.len()
    }

    pub(super) fn exports(&self) -> usize {
        self.exports.len()
    }

    pub(super) fn imports(&self) -> usize {
        self.imports.len()
    }

    pub(super) fn close_for_calls(&mut self) {
        self.closed_for_calls = true;
    }

    /// Enters a message of the peer, of `bytes`. Answers of our own go to `replies`. `is_tail`: the message is
    /// a call whose results are not for the peer.
    pub(super) fn incoming(
        &mut self,
        limits: &Limits,
        share: &Share,
        bytes: usize,
        message: message::Reader<'_>,
        is_tail: bool,
        replies: &mut Vec<Builder<HeapAllocator>>,
    ) -> Read<Verdict> {
        match message.which() {
            Ok(message::Call(call)) => {
                self.incoming_call(limits, share, bytes, call?, is_tail, replies)
            }
            Ok(message::Return(ret)) => self.incoming_return(limits, ret?, replies),
            Ok(message::Bootstrap(bootstrap)) => {
                let id = bootstrap?.get_question_id();
                self.check_unused(id)?;
                if let Some(why) = self.overload(limits, share, 0, 0) {
                    let reply = self.overloaded(id, &why);
                    return self.refuse(limits, id, reply, replies);
                }
                self.answers.insert(id, Answer::pending(false));
                Ok(Verdict::Deliver)
            }
            Ok(message::Finish(finish)) => {
                let finish = finish?;
                let id = finish.get_question_id();
                let release = finish.get_release_result_caps();
                if self.refused.remove(&id) {
                    self.tails.end(id);
                    return Ok(Verdict::Swallow);
                }
                if self.answers.get(&id).is_some_and(|answer| !answer.returned) {
                    // capnp-rpc never returns a call that it has cancelled, and then neither side
                    // can forget the question. Nor does it show what a finished call returns to
                    // those its result was passed on to.
                    let question = id;
                    return Ok(Verdict::Hold { question, release });
                }
                Ok(self.finish_answer(id, release))
            }
            Ok(message::Release(release)) => {
                let release = release?;
                self.release_export(release.get_id(), u64::from(release.get_reference_count()));
                Ok(Verdict::Deliver)
            }
            Ok(message::Resolve(resolve)) => incoming_resolve(resolve?, replies),
            Ok(message::Unimplemented(inner)) => {
                self.incoming_unimplemented(inner?)?;
                Ok(Verdict::Deliver)
            }
            Ok(message::Abort(_) | message::Disembargo(_)) => Ok(Verdict::Deliver),
            // capnp-rpc sends these back whole; what points to the same thing twice grows then.
            _ => {
                if message.total_size()?.word_count <= MAX_UNIMPLEMENTED_WORDS {
                    Ok(Verdict::Deliver)
                } else {
                    Err(Refusal::new(
                        Code::Unimplemented,
                        format!(
                            "this vat does not know this kind of message, and sends back at most \
                         {MAX_UNIMPLEMENTED_WORDS} words of it"
                        ),
                    ))
                }
            }
        }
    }

    fn incoming_call(
        &mut self,
        limits: &Limits,
        share: &Share,
        bytes: usize,
        call: call::Reader<'_>,
        is_tail: bool,
        replies: &mut Vec<Builder<HeapAllocator>>,
    ) -> Read<Verdict> {
        let id = call.get_question_id();
        self.check_unused(id)?;
        let params = call.get_params()?;
        let capabilities = params.get_cap_table()?;
        // The object gets a copy of what has capabilities in it, in which a thing that is pointed to
        // twice is there twice.
        let bytes = if capabilities.is_empty() {
            bytes
        } else {
            let whole = params.get_content().target_size();
            whole.map_or(bytes, |size| bytes.max(size.word_count as usize * 8))
        };
        // `is_tail` stands for `yourself`, which capnp-rpc would never return.
        if !matches!(
            call.get_send_results_to().which()?,
            call::send_results_to::Caller(())
        ) {
            return Err(Refusal::new(
                Code::Unimplemented,
                "results of a call can only be sent to its caller or to this vat",
            ));
        }
        let on_refused = match call.get_target()?.which()? {
            message_target::PromisedAnswer(answer) => {
                self.refused.contains(&answer?.get_question_id())
            }
            message_target::ImportedCap(_) => false,
        };
        self.calls += 1;
        let why = if on_refused {
            Some("the call whose result this one is for was not started".to_owned())
        } else {
            let given = capabilities.into_iter();
            let imports = given.filter(|one| imported(*one).is_some()).count();
            self.overload(limits, share, bytes, imports)
        };
        if let Some(why) = why {
            release_imports(capabilities, replies);
            self.calls_refused += 1;
            let mut reply = self.overloaded(id, &why);
            if is_tail {
                self.tails.begin(id);
                self.tails.returned(id, TailReturn::of(&reply)?);
                reply = reply::results_sent_elsewhere(id);
            }
            return self.refuse(limits, id, reply, replies);
        }
        if is_tail {
            self.tails.begin(id);
        }
        for one in capabilities {
            if let Some(import) = imported(one) {
                *self.imports.entry(import).or_default() += 1;
            } else if let cap_descriptor::ReceiverAnswer(answer) = one.which()?
                && let Some(answer) = self.answers.get_mut(&answer?.get_question_id())
            {
                answer.passed_on = true;
            }
        }
        let answer = Answer {
            bytes,
            ..Answer::pending(true)
        };
        self.answers.insert(id, answer);
        self.calls_in_flight += 1;
        self.bytes_in_flight += bytes;
        Ok(Verdict::Deliver)
    }

    fn incoming_return(
        &mut self,
        limits: &Limits,
        ret: return_::Reader<'_>,
        replies: &mut Vec<Builder<HeapAllocator>>,
    ) -> Read<Verdict> {
        let Entry::Occupied(mut question) = self.questions.entry(ret.get_answer_id()) else {
            return Err(invalid("a return for a question that was not asked"));
        };
        if question.get().returned || question.get().awaits_tail {
            return Err(invalid("a second return for the same question"));
        }
        if let return_::TakeFromOtherQuestion(tail) = ret.which()? {
            let question = question.get_mut();
            question.awaits_tail = true;
            question.ended = ret.get_no_finish_needed();
            let question = ret.get_answer_id();
            let results = self.tails.take(tail, question);
            return Ok(results.map_or(Verdict::Swallow, |results| Verdict::Tail {
                question,
                results,
            }));
        }
        question.get_mut().returned = true;
        let lent = question.get_mut().lent.take();
        let (bytes, was_refused) = (question.get().bytes, question.get().refused);
        let was_finished = question.get().finished;
        if was_finished || ret.get_no_finish_needed() {
            question.remove();
        }
        if !was_refused {
            self.asked_returned(bytes);
        }
        // What cannot be followed fails the call that we made, and nothing else.
        let (code, why) = match ret.which()? {
            return_::Results(results) if !was_finished => {
                let results = results?;
                match self.unsettled(results)? {
                    None => {
                        self.incoming_results(limits, results)?;
                        self.tails.lend(lent.unwrap_or_default());
                        return Ok(Verdict::Deliver);
                    }
                    Some(why) => {
                        // Of a tail call the peer has given nothing.
                        if lent.is_none() {
                            release_imports(results.get_cap_table()?, replies);
                        }
                        (Code::InvalidArgument, why)
                    }
                }
            }
            return_::Exception(_) => return Ok(Verdict::Deliver),
            _ if was_finished => return Ok(Verdict::Deliver),
            return_::Canceled(()) | return_::ResultsSentElsewhere(()) => (
                Code::InvalidArgument,
                "the answer has no results, and the question was open",
            ),
            _ => (
                Code::Unimplemented,
                "the results were to be had from a third party",
            ),
        };
        let mut instead = reply::exception(ret.get_answer_id(), code, why);
        reply::set_no_finish_needed(&mut instead, ret.get_no_finish_needed())?;
        Ok(Verdict::Instead(instead))
    }

    /// What we asked for may have been handed to the peer before it was here. If its answer now
    /// leads back to something unsettled, that may be the question itself: following it would
    /// never end. Says what is wrong, if anything.
    fn unsettled(&self, results: payload::Reader<'_>) -> Read<Option<&'static str>> {
        for one in results.get_cap_table()? {
            match one.which()? {
                cap_descriptor::ReceiverHosted(id)
                    // One that the peer has not been given may yet become a promise.
                    if self.exports.get(&id).is_none_or(|export| export.unsettled) =>
                {
                    return Ok(Some("a result that is an unresolved promise of this vat"));
                }
                cap_descriptor::ReceiverAnswer(answer) => {
                    let id = answer?.get_question_id();
                    if self.answers.get(&id).is_some_and(|answer| answer.unsettled) {
                        return Ok(Some(
                            "a result that is part of an answer this vat has not given",
                        ));
                    }
                }
                _ => (),
            }
        }
        Ok(None)
    }

    fn incoming_results(&mut self, limits: &Limits, results: payload::Reader<'_>) -> Read<()> {
        for one in results.get_cap_table()? {
            match one.which()? {
                cap_descriptor::SenderHosted(id) | cap_descriptor::SenderPromise(id) => {
                    *self.imports.entry(id).or_default() += 1;
                    if self.imports.len() > limits.max_imports {
                        return Err(Refusal::new(
                            Code::LimitExceeded,
                            format!(
                                "a connection holds at most {} capabilities of its peer",
                                limits.max_imports
                            ),
                        ));
                    }
                }
                _ => (),
            }
        }
        Ok(())
    }

    fn incoming_unimplemented(&mut self, inner: message::Reader<'_>) -> Read<()> {
        if let Ok(message::Resolve(resolve)) = inner.which()
            && let resolve::Cap(capability) = resolve?.which()?
            && let Some(export) = imported(capability?)
        {
            self.release_export(export, 1);
        }
        Ok(())
    }

    pub(super) fn release_export(&mut self, id: u32, references: u64) {
        if let Entry::Occupied(mut export) = self.exports.entry(id) {
            let left = export.get().references.saturating_sub(references);
            export.get_mut().references = left;
            if left == 0 {
                export.remove();
            }
        }
    }

    /// Forgets an answer that has been given, which the peer finishes.
    fn finish_answer(&mut self, id: u32, release: bool) -> Verdict {
        self.tails.end(id);
        let Some(answer) = self.answers.remove(&id) else {
            return Verdict::Deliver;
        };
        if answer.returned {
            self.answer_bytes -= answer.bytes;
        }
        if release || answer.withheld {
            for export in answer.exports {
                self.release_export(export, 1);
            }
        }
        if answer.forgotten {
            Verdict::Swallow
        } else if answer.withheld && !release {
            Verdict::Instead(reply::finish(id, true))
        } else {
            Verdict::Deliver
        }
    }

    /// capnp-rpc is to get the results of a tail call as the answer to this question.
    pub(super) fn tail_returns(&mut self, question: u32, lent: Vec<u32>) {
        let Some(question) = self.questions.get_mut(&question) else {
            return;
        };
        question.awaits_tail = false;
        question.lent = Some(lent);
    }

    fn check_unused(&self, id: u32) -> Read<()> {
        if self.answers.contains_key(&id) || self.refused.contains(&id) {
            Err(invalid(&format!("question {id} is already in use")))
        } else {
            Ok(())
        }
    }
}

impl Answer {
    fn pending(is_call: bool) -> Self {
        Answer {
            is_call,
            unsettled: true,
            ..Answer::default()
        }
    }
}

pub(super) fn invalid(text: &str) -> Refusal {
    Refusal::new(Code::InvalidArgument, text)
}
