//! Calls of this side to the peer: which of them are sent, and the rest of those that are not.
//!
//! A call that does not fit is never written. capnp-rpc has entered it as a question by then, so it
//! is answered in the peer's place, with an exception, and what it gave away is released in the
//! peer's place. Until capnp-rpc finishes the question, no message may name it to the peer, which
//! does not know it.

use capnp::message::{Builder, HeapAllocator};
use capnp_rpc::rpc_capnp::{call, cap_descriptor, message, message_target, payload, return_};
use vatwerk::Code;

use super::budget::Share;
use super::ledger::{Ledger, Question};
use super::promise::imported;
use super::shared::Due;
use super::{Limits, Refusal, reply};

/// The decision about a message of this side.
pub(super) enum Outcome {
    /// The message is sent.
    Send {
        /// What it returns must not be reachable through promises that the peer was given for it,
        /// because one of them may be part of what it returns.
        unreachable: bool,
    },
    /// The peer does not get it. capnp-rpc gets these in return.
    Keep(Vec<Due>),
}

impl Outcome {
    pub(super) const SEND: Outcome = Outcome::Send { unreachable: false };
}

impl Ledger {
    /// Enters a call of this side, of `bytes`, while `unwritten` bytes wait to be written.
    pub(super) fn outgoing_call(
        &mut self,
        limits: &Limits,
        share: &Share,
        unwritten: usize,
        bytes: usize,
        call: call::Reader<'_>,
    ) -> capnp::Result<Outcome> {
        let question = call.get_question_id();
        let given = call.get_params()?.get_cap_table()?;
        if let Some(refusal) = self.refusal(limits, share, unwritten, bytes, call)? {
            self.asked_refused += 1;
            let refused = Question {
                refused: true,
                ..Question::default()
            };
            self.questions.insert(question, refused);
            for one in given {
                self.enter(one, false)?;
            }
            let mut due = vec![Due::Exception { question, refusal }];
            due.extend(given.into_iter().filter_map(imported).map(Due::Release));
            return Ok(Outcome::Keep(due));
        }
        let asked = Question {
            bytes,
            ..Question::default()
        };
        self.questions.insert(question, asked);
        self.asked += 1;
        self.asked_bytes += bytes;
        for one in given {
            self.export(one)?;
        }
        Ok(Outcome::SEND)
    }

    fn refusal(
        &self,
        limits: &Limits,
        share: &Share,
        unwritten: usize,
        bytes: usize,
        call: call::Reader<'_>,
    ) -> capnp::Result<Option<Refusal>> {
        let overloaded = |text: String| Ok(Some(Refusal::new(Code::Overloaded, text)));
        if bytes as u64 > limits.max_message_bytes {
            return Ok(Some(Refusal::new(
                Code::LimitExceeded,
                format!(
                    "a call to the peer of this connection of {bytes} bytes; a message has at most {} \
                     (`limits.message_bytes`)",
                    limits.max_message_bytes
                ),
            )));
        }
        if let message_target::PromisedAnswer(answer) = call.get_target()?.which()?
            && self.is_refused(answer?.get_question_id())
        {
            return overloaded("the call whose result this one is for was not sent".into());
        }
        for one in call.get_params()?.get_cap_table()? {
            if self.names_refused(one)? {
                return overloaded("the call whose result this one passes on was not sent".into());
            }
        }
        if self.asked >= limits.max_calls_in_flight {
            return overloaded(format!(
                "the peer of this connection has {} calls that it has not answered, and takes at most \
                 that many (`limits.calls_per_connection`)",
                self.asked
            ));
        }
        let limit = limits.max_bytes_in_flight;
        if self.asked > 0 && self.asked_bytes + bytes > limit {
            return overloaded(format!(
                "the peer of this connection has {} bytes of calls that it has not answered, and {bytes} \
                 more do not fit: at most {limit} (`limits.bytes_per_connection`)",
                self.asked_bytes
            ));
        }
        if unwritten > 0 && unwritten + bytes > limit {
            return overloaded(format!(
                "{unwritten} bytes wait until the peer of this connection reads, and {bytes} more do not \
                 fit: at most {limit} (`limits.bytes_per_connection`)"
            ));
        }
        Ok(share
            .full_for(bytes)
            .map(|why| Refusal::new(Code::Overloaded, why)))
    }

    fn is_refused(&self, question: u32) -> bool {
        let question = self.questions.get(&question);
        question.is_some_and(|question| question.refused)
    }

    /// Whether a capability is part of the answer to a call that was not sent.
    fn names_refused(&self, one: cap_descriptor::Reader<'_>) -> capnp::Result<bool> {
        match one.which()? {
            cap_descriptor::ReceiverAnswer(answer) => {
                Ok(self.is_refused(answer?.get_question_id()))
            }
            _ => Ok(false),
        }
    }

    /// Takes out of a return or a resolve of this side what is part of the answer to a call that was
    /// not sent: in results it becomes a null capability, and what a promise resolves to an exception.
    pub(super) fn hide_refused(&self, message: &mut Builder<HeapAllocator>) -> capnp::Result<()> {
        if self.asked_refused == 0 {
            return Ok(());
        }
        let root: message::Builder<'_> = message.get_root()?;
        match root.which()? {
            message::Return(ret) => {
                if let return_::Results(results) = ret?.which()? {
                    let results: payload::Builder<'_> = results?;
                    let mut table = results.get_cap_table()?;
                    for index in 0..table.len() {
                        let mut one = table.reborrow().get(index);
                        if self.names_refused(one.reborrow_as_reader())? {
                            one.set_none(());
                        }
                    }
                }
            }
            message::Resolve(resolve) => {
                let resolve = resolve?;
                let names_refused = match resolve.reborrow_as_reader().which()? {
                    capnp_rpc::rpc_capnp::resolve::Cap(one) => self.names_refused(one?)?,
                    _ => false,
                };
                if names_refused {
                    let mut exception = resolve.init_exception();
                    let why = reply::not_delivered("the call whose result this is was not sent");
                    exception.set_reason(format!("{}: {why}", Code::Overloaded));
                    exception.set_type(capnp_rpc::rpc_capnp::exception::Type::Overloaded);
                }
            }
            _ => (),
        }
        Ok(())
    }

    /// Enters the end of a question of this side.
    pub(super) fn outgoing_finish(&mut self, id: u32) -> Outcome {
        let Some(question) = self.questions.get_mut(&id) else {
            return Outcome::SEND;
        };
        let is_unknown = question.refused || question.ended;
        question.finished = true;
        if question.returned {
            self.questions.remove(&id);
        }
        if is_unknown {
            Outcome::Keep(Vec::new())
        } else {
            Outcome::SEND
        }
    }

    /// Enters that the question `id` of this side, of `bytes`, is answered.
    pub(super) fn asked_returned(&mut self, bytes: usize) {
        self.asked -= 1;
        self.asked_bytes -= bytes;
    }
}
