//! Whether there is room for a further question of the peer, and the answer where there is none.

use capnp::message::{Builder, HeapAllocator};
use vatwerk::Code;

use super::budget::Share;
use super::ledger::{Ledger, Read, Verdict};
use super::{Limits, Refusal, reply};

impl Ledger {
    /// Why a further question cannot be taken, if it cannot.
    pub(super) fn overload(
        &self,
        limits: &Limits,
        share: &Share,
        bytes: usize,
        new_imports: usize,
    ) -> Option<String> {
        if self.closed_for_calls {
            return Some(String::new());
        }
        let full = |what: &str, limit: usize| Some(format!("{what}, at most {limit}"));
        if self.calls_in_flight >= limits.max_calls_in_flight {
            return full("too many calls in flight", limits.max_calls_in_flight);
        }
        // One call of any size that may be sent at all always gets through.
        if self.calls_in_flight > 0 && self.bytes_in_flight + bytes > limits.max_bytes_in_flight {
            return full(
                "too many bytes of calls in flight",
                limits.max_bytes_in_flight,
            );
        }
        if self.answer_bytes > limits.max_bytes_in_flight {
            return full(
                "too many bytes of answers not finished",
                limits.max_bytes_in_flight,
            );
        }
        if self.open_questions() >= limits.max_open_questions {
            return full("too many questions not finished", limits.max_open_questions);
        }
        if self.exports.len() >= limits.max_exports {
            return full("too many capabilities held", limits.max_exports);
        }
        if self.imports.len() + new_imports > limits.max_imports {
            return full("too many capabilities given", limits.max_imports);
        }
        share.full_for(bytes)
    }

    /// The answer to a question that there is no room for.
    pub(super) fn overloaded(&self, id: u32, why: &str) -> Builder<HeapAllocator> {
        if self.closed_for_calls {
            reply::refusal(id, Code::ShuttingDown, "the vat is shutting down")
        } else {
            reply::refusal(id, Code::Overloaded, why)
        }
    }

    /// Answers question `id` without capnp-rpc.
    pub(super) fn refuse(
        &mut self,
        limits: &Limits,
        id: u32,
        reply: Builder<HeapAllocator>,
        replies: &mut Vec<Builder<HeapAllocator>>,
    ) -> Read<Verdict> {
        // A peer that is merely fast finishes what was refused.
        if self.refused.len() >= limits.max_open_questions {
            return Err(Refusal::new(
                Code::LimitExceeded,
                format!(
                    "{} questions were refused and have not been finished",
                    self.refused.len()
                ),
            ));
        }
        self.refused.insert(id);
        replies.push(reply);
        Ok(Verdict::Swallow)
    }
}
