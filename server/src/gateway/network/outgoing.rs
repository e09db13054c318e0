//! Messages of this side, from capnp-rpc to the outbox: how they are entered in the ledger.

use std::collections::hash_map::Entry;
use std::rc::Rc;

use capnp::Error;
use capnp::capability::Promise;
use capnp::message::{Builder, HeapAllocator};
use capnp_rpc::rpc_capnp::{cap_descriptor, exception, message, resolve, return_};
use vatwerk::Code;

use super::Limits;
use super::asked::Outcome;
use super::budget::Share;
use super::ledger::{Export, Ledger, Question};
use super::outbox::{Sent, wire_bytes};
use super::promise::imported;
use super::reply;
use super::shared::{Due, Shared};
use super::tail::TailReturn;
use crate::fault;

/// A message that capnp-rpc puts together.
pub(super) struct Outgoing {
    message: Builder<HeapAllocator>,
    shared: Rc<Shared>,
}

impl Outgoing {
    pub(super) fn new(message: Builder<HeapAllocator>, shared: Rc<Shared>) -> Self {
        Outgoing { message, shared }
    }

    /// Puts a code in front of an error that capnp-rpc has made: others have theirs.
    fn add_code(&mut self) -> capnp::Result<()> {
        let root: message::Builder<'_> = self.message.get_root()?;
        let mut exception: exception::Builder<'_> = match root.which()? {
            message::Abort(abort) => abort?,
            message::Return(ret) => match ret?.which()? {
                return_::Exception(exception) => exception?,
                _ => return Ok(()),
            },
            message::Resolve(resolve) => match resolve?.which()? {
                resolve::Exception(exception) => exception?,
                _ => return Ok(()),
            },
            _ => return Ok(()),
        };
        let said = exception.reborrow_as_reader();
        let reason = said.get_reason()?.to_string().unwrap_or_default();
        if fault::has_code(&reason) {
            return Ok(());
        }
        // Of the capability of another peer, or capnp-rpc's own.
        let text = Code::split(&reason).1;
        let is_own = text.len() == reason.len();
        let code = match said.get_type()? {
            exception::Type::Disconnected => Code::Disconnected,
            exception::Type::Unimplemented => Code::Unimplemented,
            exception::Type::Overloaded => Code::Overloaded,
            exception::Type::Failed if is_own => Code::InvalidArgument,
            exception::Type::Failed => Code::ApplicationFailed,
        };
        // Whether its call has run, nobody can say.
        exception.set_reason(format!("{code}: {text}"));
        Ok(())
    }

    /// The error that the peer gets instead of results that do not fit in a message.
    fn too_large(&self, bytes: usize) -> capnp::Result<Option<Builder<HeapAllocator>>> {
        let limit = self.shared.limits.max_message_bytes;
        if bytes as u64 <= limit {
            return Ok(None);
        }
        let root: message::Reader<'_> = self.message.get_root_as_reader()?;
        let message::Return(ret) = root.which()? else {
            return Ok(None);
        };
        let ret = ret?;
        let why = format!(
            "the results of a call, of {bytes} bytes; a message has at most {limit} (`limits.message_bytes`): ask for \
             less at a time"
        );
        let mut instead = reply::exception(ret.get_answer_id(), Code::LimitExceeded, &why);
        reply::set_no_finish_needed(&mut instead, ret.get_no_finish_needed())?;
        Ok(Some(instead))
    }
}

impl capnp_rpc::OutgoingMessage for Outgoing {
    fn get_body(&mut self) -> capnp::Result<capnp::any_pointer::Builder<'_>> {
        self.message.get_root()
    }

    fn get_body_as_reader(&self) -> capnp::Result<capnp::any_pointer::Reader<'_>> {
        self.message.get_root_as_reader()
    }

    fn send(mut self: Box<Self>) -> (Promise<(), Error>, Sent) {
        let shared = self.shared.clone();
        let mut answered = None;
        let (mut fails, mut shows_answers, mut releases) = (false, false, false);
        if let Ok(root) = self.message.get_root_as_reader::<message::Reader<'_>>() {
            match root.which() {
                Ok(message::Abort(_)) => fails = true,
                Ok(message::Return(Ok(ret))) => {
                    answered = Some(ret.get_answer_id());
                    fails = matches!(ret.which(), Ok(return_::Exception(_)));
                    shows_answers = !fails;
                }
                Ok(message::Resolve(Ok(resolve))) => {
                    fails = matches!(resolve.which(), Ok(resolve::Exception(_)));
                    shows_answers = !fails;
                }
                Ok(message::Release(_)) => releases = true,
                _ => (),
            }
        }
        if fails {
            // It goes out as it is if it cannot be read.
            let _ = self.add_code();
        }
        if shows_answers {
            // A message of ours that cannot be read names nothing to hide.
            let _ = shared.ledger.borrow().hide_refused(&mut self.message);
        }
        let bytes = wire_bytes(&self.message);
        let too_large = self.too_large(bytes).unwrap_or_default();
        let mut unreachable = too_large.is_some();
        if let Ok(root) = self.message.get_root_as_reader() {
            let unwritten = shared.outbox.borrow().unwritten_bytes;
            let mut ledger = shared.ledger.borrow_mut();
            if let Some(question) = answered {
                ledger.withhold(question, unreachable);
            }
            let outcome = ledger.outgoing(&shared.limits, &shared.share, unwritten, bytes, root);
            if answered.is_some() && ledger.calls_in_flight() == 0 {
                shared.changed.notify_waiters();
            }
            drop(ledger);
            // A message of ours that cannot be read names nothing to enter.
            match outcome.unwrap_or(Outcome::SEND) {
                Outcome::Send { unreachable: is } => unreachable |= is,
                Outcome::Keep(due) => {
                    shared.due.borrow_mut().extend(due);
                    shared.wake_reader();
                    return (Promise::ok(()), Rc::new(self.message));
                }
            }
        }
        if let Some(instead) = too_large {
            self.message = instead;
        }
        let is_tail = |call: &u32| shared.ledger.borrow().tails.contains(*call);
        let tail = answered.filter(is_tail);
        if tail.is_some() {
            // That the peer need not finish the call says nothing of the question that it is for.
            let _ = reply::set_no_finish_needed(&mut self.message, false);
        }
        if releases {
            let mut ledger = shared.ledger.borrow_mut();
            let is_left = ledger.tails.take_back(&mut self.message);
            if is_left.is_ok_and(|is_left| !is_left) {
                return (Promise::ok(()), Rc::new(self.message));
            }
        }
        let message = Rc::new(self.message);
        match tail {
            Some(call) => keep_for_question(&shared, call, &message),
            None => shared.send(message.clone()),
        }
        if let Some(question) = answered
            && let Some(release) = shared.answered(question)
        {
            let due = Due::Finish { question, release };
            shared.due.borrow_mut().push_back(due);
            shared.wake_reader();
        }
        let seen = if unreachable {
            Rc::new(reply::empty_results())
        } else {
            message
        };
        (Promise::ok(()), seen)
    }

    fn take(self: Box<Self>) -> Builder<HeapAllocator> {
        self.message
    }

    fn size_in_words(&self) -> usize {
        self.message.size_in_words()
    }
}

/// Keeps what a tail call returned, which is not for the peer: capnp-rpc gets it, when the peer has said as the
/// answer to which question.
fn keep_for_question(shared: &Shared, call: u32, message: &Sent) {
    shared.send(Rc::new(reply::results_sent_elsewhere(call)));
    // A message of ours that cannot be read has no results.
    let Ok(results) = TailReturn::of(message) else {
        return;
    };
    let known = shared.ledger.borrow_mut().tails.returned(call, results);
    if let Some((question, results)) = known {
        let due = Due::Tail { question, results };
        shared.due.borrow_mut().push_back(due);
        shared.wake_reader();
    }
}

impl Ledger {
    /// Enters a message of ours, of `bytes`, while `unwritten` bytes wait to be written.
    pub(super) fn outgoing(
        &mut self,
        limits: &Limits,
        share: &Share,
        unwritten: usize,
        bytes: usize,
        message: message::Reader<'_>,
    ) -> capnp::Result<Outcome> {
        match message.which()? {
            message::Return(ret) => {
                let unreachable = self.outgoing_return(ret?, bytes)?;
                return Ok(Outcome::Send { unreachable });
            }
            // Where this side is the client.
            message::Bootstrap(bootstrap) => {
                let question = bootstrap?.get_question_id();
                self.questions.insert(question, Question::default());
                self.asked += 1;
            }
            message::Call(call) => {
                return self.outgoing_call(limits, share, unwritten, bytes, call?);
            }
            message::Finish(finish) => {
                return Ok(self.outgoing_finish(finish?.get_question_id()));
            }
            message::Release(release) => {
                let release = release?;
                if let Entry::Occupied(mut import) = self.imports.entry(release.get_id()) {
                    let left = import
                        .get()
                        .saturating_sub(u64::from(release.get_reference_count()));
                    *import.get_mut() = left;
                    if left == 0 {
                        import.remove();
                    }
                }
            }
            message::Resolve(resolve) => return self.outgoing_resolve(resolve?),
            _ => (),
        }
        Ok(Outcome::SEND)
    }

    fn outgoing_resolve(&mut self, resolve: resolve::Reader<'_>) -> capnp::Result<Outcome> {
        let id = resolve.get_promise_id();
        let given = match resolve.which()? {
            resolve::Cap(capability) => Some(capability?),
            resolve::Exception(_) => None,
        };
        // Not given away as a promise, or released since.
        if !self.exports.get(&id).is_some_and(|export| export.promise) {
            given.map(|one| self.enter(one, false)).transpose()?;
            let back = given.and_then(imported).map(Due::Release);
            return Ok(Outcome::Keep(back.into_iter().collect()));
        }
        let unsettled = match given {
            Some(capability) => self.export(capability)?.1,
            None => false,
        };
        if let Some(export) = self.exports.get_mut(&id) {
            export.unsettled = unsettled;
        }
        Ok(Outcome::SEND)
    }

    /// Enters an answer of this side. `true` if what it returns must not be reachable through promises
    /// that the peer was given for it.
    fn outgoing_return(&mut self, ret: return_::Reader<'_>, bytes: usize) -> capnp::Result<bool> {
        let id = ret.get_answer_id();
        let mut exports = Vec::new();
        let mut unsettled = false;
        let answer = self.answers.get(&id);
        let is_told = !answer.is_some_and(|answer| answer.withheld);
        if let return_::Results(results) = ret.which()? {
            for one in results?.get_cap_table()? {
                let (export, is_unsettled) = self.enter(one, is_told)?;
                exports.extend(export);
                unsettled |= is_unsettled;
            }
        }
        let Entry::Occupied(mut entry) = self.answers.entry(id) else {
            return Ok(false);
        };
        let answer = entry.get_mut();
        let unreachable = answer.passed_on && unsettled;
        if answer.is_call && !answer.returned {
            self.calls_in_flight -= 1;
            self.bytes_in_flight -= answer.bytes;
        }
        answer.returned = true;
        answer.unsettled = unsettled && !unreachable;
        answer.exports = exports;
        answer.bytes = 0;
        // What is kept of a tail call counts until the peer has finished it.
        answer.forgotten = ret.get_no_finish_needed();
        if answer.forgotten && !self.tails.contains(id) {
            entry.remove();
        } else {
            answer.bytes = bytes;
            self.answer_bytes += bytes;
        }
        Ok(unreachable)
    }

    /// Enters whether the peer is given the results of a call that is about to return: not of a tail call.
    fn withhold(&mut self, id: u32, is_too_large: bool) {
        if let Some(answer) = self.answers.get_mut(&id) {
            answer.withheld = is_too_large || self.tails.contains(id);
        }
    }

    /// Enters a capability given to the peer: its export id, and whether it is unsettled.
    pub(super) fn export(
        &mut self,
        one: cap_descriptor::Reader<'_>,
    ) -> capnp::Result<(Option<u32>, bool)> {
        self.enter(one, true)
    }

    /// Enters a capability that capnp-rpc takes for given to the peer. `is_told`: the peer gets it, and expects to hear
    /// what it resolves to if it is a promise.
    pub(super) fn enter(
        &mut self,
        one: cap_descriptor::Reader<'_>,
        is_told: bool,
    ) -> capnp::Result<(Option<u32>, bool)> {
        let (id, is_promise) = match one.which()? {
            cap_descriptor::SenderHosted(id) => (id, false),
            cap_descriptor::SenderPromise(id) => (id, true),
            cap_descriptor::ReceiverAnswer(_) => return Ok((None, true)),
            // Imports are settled: promises of the peer are taken for what they stand for.
            _ => return Ok((None, false)),
        };
        // capnp-rpc calls a promise hosted when it is given again, so what was said first counts.
        let export = self.exports.entry(id).or_insert(Export {
            references: 0,
            promise: is_promise && is_told,
            unsettled: is_promise,
        });
        export.references += 1;
        Ok((Some(id), export.unsettled))
    }
}
