//! Messages of this side, from capnp-rpc to the outbox: how they are entered in the ledger.

use std::collections::hash_map::Entry;
use std::rc::Rc;

use capnp::Error;
use capnp::capability::Promise;
use capnp::message::{Builder, HeapAllocator};
use capnp_rpc::rpc_capnp::{cap_descriptor, message, resolve, return_};
use vatwerk::Code;

use super::Limits;
use super::asked::Outcome;
use super::budget::Share;
use super::ledger::{Export, Ledger, Question};
use super::outbox::{Sent, wire_bytes};
use super::promise::imported;
use super::reply;
use super::shared::{Due, Shared};

/// A message that capnp-rpc puts together.
pub(super) struct Outgoing {
    message: Builder<HeapAllocator>,
    shared: Rc<Shared>,
}

impl Outgoing {
    pub(super) fn new(message: Builder<HeapAllocator>, shared: Rc<Shared>) -> Self {
        Outgoing { message, shared }
    }

    /// What capnp-rpc aborts a connection with has no code of its own.
    fn add_code(&mut self) -> capnp::Result<()> {
        let root: message::Builder<'_> = self.message.get_root()?;
        if let message::Abort(abort) = root.which()? {
            let mut abort = abort?;
            let reason = abort.reborrow_as_reader().get_reason()?;
            let reason = reason.to_string().unwrap_or_default();
            if Code::split(&reason).0.is_none() {
                let code = match abort.reborrow_as_reader().get_type()? {
                    capnp_rpc::rpc_capnp::exception::Type::Disconnected => Code::Disconnected,
                    capnp_rpc::rpc_capnp::exception::Type::Unimplemented => Code::Unimplemented,
                    _ => Code::InvalidArgument,
                };
                abort.set_reason(format!("{code}: {reason}"));
            }
        }
        Ok(())
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
        let mut shows_answers = false;
        if let Ok(root) = self.message.get_root_as_reader::<message::Reader<'_>>() {
            match root.which() {
                Ok(message::Abort(_)) => {
                    // It goes out as it is if its reason cannot be read.
                    let _ = self.add_code();
                }
                Ok(message::Return(Ok(ret))) => {
                    answered = Some(ret.get_answer_id());
                    shows_answers = true;
                }
                Ok(message::Resolve(_)) => shows_answers = true,
                _ => (),
            }
        }
        if shows_answers {
            // A message of ours that cannot be read names nothing to hide.
            let _ = shared.ledger.borrow().hide_refused(&mut self.message);
        }
        let mut unreachable = false;
        if let Ok(root) = self.message.get_root_as_reader() {
            let bytes = wire_bytes(&self.message);
            let unwritten = shared.outbox.borrow().unwritten_bytes;
            let mut ledger = shared.ledger.borrow_mut();
            let outcome = ledger.outgoing(&shared.limits, &shared.share, unwritten, bytes, root);
            if answered.is_some() && ledger.calls_in_flight() == 0 {
                shared.changed.notify_waiters();
            }
            drop(ledger);
            // A message of ours that cannot be read names nothing to enter.
            match outcome.unwrap_or(Outcome::SEND) {
                Outcome::Send { unreachable: is } => unreachable = is,
                Outcome::Keep(due) => {
                    shared.due.borrow_mut().extend(due);
                    shared.wake_reader();
                    return (Promise::ok(()), Rc::new(self.message));
                }
            }
        }
        if let Some(question) = answered
            && let Some(release) = shared.answered(question)
        {
            let due = Due::Finish { question, release };
            shared.due.borrow_mut().push_back(due);
            shared.wake_reader();
        }
        let message = Rc::new(self.message);
        shared.send(message.clone());
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
        // Given away only with calls that were not sent, or released since.
        if !self.exports.get(&id).is_some_and(|export| export.promise) {
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
        if let return_::Results(results) = ret.which()? {
            for one in results?.get_cap_table()? {
                let (export, is_unsettled) = self.export(one)?;
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
        if ret.get_no_finish_needed() {
            entry.remove();
        } else {
            answer.bytes = bytes;
            self.answer_bytes += bytes;
        }
        Ok(unreachable)
    }

    /// Enters a capability given to the peer: its export id, and whether it is unsettled.
    pub(super) fn export(
        &mut self,
        one: cap_descriptor::Reader<'_>,
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
            promise: is_promise,
            unsettled: is_promise,
        });
        export.references += 1;
        Ok((Some(id), export.unsettled))
    }
}
