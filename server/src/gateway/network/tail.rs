//! Tail calls of the peer: calls whose results are for a question of this side.
//!
//! C++ makes one when a capability that it gave to this side turns out to live here: it passes on what this
//! side asks of it (`sendResultsTo.yourself`), and says that the results of that are those of the question
//! (`takeFromOtherQuestion`). capnp-rpc can do neither. It gets the call as any other call, and what it returns
//! is kept here, and given to it as the peer's answer to the question.

use std::collections::hash_map::{Entry, HashMap};

use capnp::message::{Builder, HeapAllocator, Reader, ReaderOptions};
use capnp_rpc::rpc_capnp::{cap_descriptor, message, return_};
use vatwerk::Code;

use super::frame::Frame;
use super::promise::MAX_CAPABILITIES;
use super::reply;

/// The tail calls that the peer has not finished.
#[derive(Default)]
pub(super) struct Tails {
    tails: HashMap<u32, Tail>,
    /// References to capabilities of the peer that capnp-rpc counts, and the peer does not, by their numbers.
    lent: HashMap<u32, u32>,
}

/// A call of the peer whose results are for a question of this side.
#[derive(Default)]
enum Tail {
    /// The call runs, and the peer has not said for which question.
    #[default]
    Begun,
    /// The call runs, for this question.
    For(u32),
    /// The call has returned, and the peer has not said for which question.
    Returned(TailReturn),
    /// The question has its results.
    Given,
}

/// The results of a tail call, as the answer of the peer to a question that is still to be named.
pub(super) struct TailReturn {
    frame: Frame,
    /// The capabilities of the peer in it.
    lent: Vec<u32>,
}

/// The tag of `CapDescriptor.senderHosted`.
pub(super) const SENDER_HOSTED: u16 = 1;
/// The tag of `CapDescriptor.receiverHosted`, which differs in nothing else.
const RECEIVER_HOSTED: u16 = 3;

impl TailReturn {
    /// The return of this side in `message`, turned round: what lives here lives, for capnp-rpc, at the receiver.
    /// What is promised by the peer cannot be turned round, and is an error instead.
    pub(super) fn of(message: &Builder<HeapAllocator>) -> capnp::Result<TailReturn> {
        let (mut lent, mut tags) = (Vec::new(), Vec::new());
        let reader = Reader::new(Frame::copy_of(message), unlimited());
        let root: message::Reader<'_> = reader.get_root()?;
        if let message::Return(ret) = root.which()?
            && let return_::Results(results) = ret?.which()?
        {
            let table = results?.get_cap_table()?;
            if table.len() > MAX_CAPABILITIES {
                return Ok(TailReturn::error("results with too many capabilities"));
            }
            for one in table {
                let tag = match one.which()? {
                    cap_descriptor::SenderHosted(_) | cap_descriptor::SenderPromise(_) => {
                        RECEIVER_HOSTED
                    }
                    cap_descriptor::ReceiverHosted(id) => {
                        lent.push(id);
                        SENDER_HOSTED
                    }
                    cap_descriptor::None(()) => continue,
                    _ => {
                        return Ok(TailReturn::error(
                            "a result that is an unresolved promise of another call",
                        ));
                    }
                };
                tags.push((address_of(one), tag));
            }
        }
        let mut frame = reader.into_segments();
        for (address, tag) in tags {
            frame.overwrite_u16(address, tag);
        }
        Ok(TailReturn { frame, lent })
    }

    /// The error of a question whose results cannot be had.
    fn error(why: &str) -> TailReturn {
        TailReturn {
            frame: Frame::copy_of(&reply::exception(0, Code::InvalidArgument, why)),
            lent: Vec::new(),
        }
    }

    /// The message, as the answer to this question, and the capabilities of the peer in it.
    pub(super) fn answer(self, question: u32) -> capnp::Result<(Frame, Vec<u32>)> {
        let reader = Reader::new(self.frame, unlimited());
        let root: message::Reader<'_> = reader.get_root()?;
        let address = match root.which()? {
            message::Return(ret) => Some(address_of(ret?)),
            _ => None,
        };
        let mut frame = reader.into_segments();
        if let Some(address) = address {
            // `Return.answerId` is the first field.
            frame.overwrite_u16(address, question as u16);
            frame.overwrite_u16(address + 2, (question >> 16) as u16);
        }
        Ok((frame, self.lent))
    }
}

/// The options for messages of this side's own.
fn unlimited() -> ReaderOptions {
    let mut options = ReaderOptions::new();
    options.traversal_limit_in_words(None);
    options
}

/// Where the fields of a struct stand that are no pointers.
fn address_of<'a, T: capnp::traits::IntoInternalStructReader<'a>>(reader: T) -> usize {
    capnp::raw::get_struct_data_section(reader).as_ptr() as usize
}

impl Tails {
    pub(super) fn begin(&mut self, call: u32) {
        self.tails.insert(call, Tail::Begun);
    }

    pub(super) fn contains(&self, call: u32) -> bool {
        self.tails.contains_key(&call)
    }

    /// The call has returned: the question that has its results now, if the peer has said which.
    pub(super) fn returned(&mut self, call: u32, results: TailReturn) -> Option<(u32, TailReturn)> {
        let tail = self.tails.get_mut(&call)?;
        if let Tail::For(question) = *tail {
            *tail = Tail::Given;
            return Some((question, results));
        }
        *tail = Tail::Returned(results);
        None
    }

    /// The peer says that the results of the call are those of this question: `None` until it has returned. An
    /// error if there is no such call, or if another question has its results.
    pub(super) fn take(&mut self, call: u32, question: u32) -> Option<TailReturn> {
        let error = |why| Some(TailReturn::error(why));
        let Entry::Occupied(mut tail) = self.tails.entry(call) else {
            return error("the results are to be taken from a question that is none");
        };
        match tail.insert(Tail::Given) {
            Tail::Begun => {
                tail.insert(Tail::For(question));
                None
            }
            Tail::Returned(results) => Some(results),
            other => {
                tail.insert(other);
                error("the results are those of another question already")
            }
        }
    }

    /// The peer has finished the call.
    pub(super) fn end(&mut self, call: u32) {
        self.tails.remove(&call);
    }

    /// capnp-rpc gets these capabilities of the peer, of which the peer does not know that they were given again.
    pub(super) fn lend(&mut self, imports: Vec<u32>) {
        for import in imports {
            *self.lent.entry(import).or_default() += 1;
        }
    }

    /// Takes out of a release what the peer does not count. `false` if nothing is left of it.
    pub(super) fn take_back(
        &mut self,
        message: &mut Builder<HeapAllocator>,
    ) -> capnp::Result<bool> {
        if self.lent.is_empty() {
            return Ok(true);
        }
        let root: message::Builder<'_> = message.get_root()?;
        if let message::Release(release) = root.which()? {
            let mut release = release?;
            let said = release.reborrow_as_reader();
            if let Some(lent) = self.lent.remove(&said.get_id()) {
                let left = said.get_reference_count().saturating_sub(lent);
                release.set_reference_count(left);
                return Ok(left > 0);
            }
        }
        Ok(true)
    }
}

/// The address of the tag in a call that says who gets its results, if that is this side.
pub(super) fn tail_tag(message: message::Reader<'_>) -> capnp::Result<Option<usize>> {
    let Ok(message::Call(call)) = message.which() else {
        return Ok(None);
    };
    let call = call?;
    Ok(match call.get_send_results_to().which()? {
        capnp_rpc::rpc_capnp::call::send_results_to::Yourself(()) => {
            // The fourth field of 16 bits.
            Some(address_of(call) + 6)
        }
        _ => None,
    })
}

/// The tag of a call whose results are for its caller.
pub(super) const TO_CALLER: u16 = 0;
