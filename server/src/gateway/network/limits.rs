//! What one connection may cost.

use std::time::Duration;

use capnp::message::ReaderOptions;

use super::budget::Budget;
use crate::gateway::pace::Pace;

/// How many segments a message may have at most, whatever [`Limits::max_segments`] says: the table
/// of segments has to fit a read buffer.
const SEGMENTS_CEILING: u32 = 512;

/// How many times the whole of a message may be read: to look at its size, to copy it, and for the
/// class, which may read its parameters more than once.
const PASSES: usize = 8;

/// The limits of one connection. All of them hold at once, and what a peer can make a connection
/// remember is within them.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The largest message, in bytes, without the table of segments. Default 32 MiB. A larger one is
    /// answered with an abort, `limit-exceeded`. Memory is taken as data arrives, not as announced.
    pub max_message_bytes: u64,
    /// The most segments in a message, 1 to 512. Default 512. More are answered with an abort,
    /// `limit-exceeded`.
    pub max_segments: u32,
    /// How much of a message may be read, in words of 8 bytes, if it is small: what is read twice, or
    /// pointed to twice, counts twice. Default 8 Mi words. Of a message of more than an eighth of that
    /// eight times its size may be read.
    pub max_traversal_words: usize,
    /// How deep pointers may nest. Default 64.
    pub max_nesting: i32,
    /// The most calls of the peer that have not been answered, whether it has given them up or not,
    /// and the most calls of this side that the peer has not answered. Default 4096. A further call of
    /// the peer is answered `overloaded`, and so are calls on its result. A further call of this side
    /// is not sent, and fails with `overloaded`.
    pub max_calls_in_flight: usize,
    /// The most bytes of calls of the peer that have not been answered, of answers that the peer has to
    /// finish and has not finished, of calls of this side that the peer has not answered, and of
    /// whatever else waits to be written when this side makes a call: each of these by itself. Default
    /// 64 MiB. A further call, of either side, fails with `overloaded`. One call gets through whatever
    /// its size, if there is no other.
    pub max_bytes_in_flight: usize,
    /// What all connections with clones of these limits hold together: calls in flight in both
    /// directions, answers that are not finished, messages that wait to be written, and the one that is
    /// arriving. Default: a budget of its own, of 512 MiB. While it is used up, calls fail with
    /// `overloaded`, and a message of more than 1 MiB that does not fit ends its connection with
    /// `overloaded`. Up to 64 KiB a connection holds all the same. When answers overdraw it, a peer for
    /// which more than [`Limits::max_unwritten_bytes`] wait and more come loses its connection.
    pub vat: Budget,
    /// The most questions of the peer that it has not finished: answers are kept for pipelining
    /// until then. Default 65 536. A further call is answered `overloaded`; a peer that goes on
    /// without finishing even those is sent an abort, `limit-exceeded`.
    pub max_open_questions: usize,
    /// The most distinct capabilities the peer may hold of this side. Default 65 536. While it holds
    /// that many its calls are answered `overloaded`.
    pub max_exports: usize,
    /// The most objects that capabilities held by the peer may keep awake. Default 1024. A call whose
    /// results would keep more awake fails with `limit-exceeded` after it has run.
    pub max_pins: usize,
    /// The most distinct capabilities of the peer that this side holds. Default 65 536. A call that
    /// would bring more is answered `overloaded`; a return that would is answered with an abort,
    /// `limit-exceeded`.
    pub max_imports: usize,
    /// How many bytes may wait to be written before reading pauses until the peer has taken some.
    /// Default 4 MiB.
    pub max_unwritten_bytes: usize,
    /// How long a peer may take nothing of what waits to be written for it, and send nothing of the rest
    /// of a message that it has begun, before the connection is ended. Default 30 s.
    pub stall: Duration,
    /// The least bytes a second of a message that has begun to come, after a first `stall`. 0 for any.
    /// Default 256.
    pub least_bytes_per_s: u64,
    /// How many bytes of a `-> stream` may be on their way to the peer without an answer. Default
    /// 512 KiB.
    pub stream_window_bytes: usize,
    /// How long an ending connection may take to write what is queued and to see the peer close.
    /// Default 2 s. It delays no message.
    pub linger: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_message_bytes: vatwerk::limit_capnp::MAX_MESSAGE_BYTES,
            max_segments: SEGMENTS_CEILING,
            max_traversal_words: 8 << 20,
            max_nesting: 64,
            max_calls_in_flight: 4096,
            max_bytes_in_flight: 64 << 20,
            vat: Budget::new(512 << 20),
            max_open_questions: 65_536,
            max_exports: 65_536,
            max_pins: 1024,
            max_imports: 65_536,
            max_unwritten_bytes: 4 << 20,
            stall: Duration::from_secs(30),
            least_bytes_per_s: 256,
            stream_window_bytes: 512 << 10,
            linger: Duration::from_secs(2),
        }
    }
}

impl Limits {
    /// The pace at which a message has to come that has begun.
    pub(super) fn pace(&self) -> Pace {
        Pace {
            least_bytes_per_s: self.least_bytes_per_s,
            ..Pace::any(self.stall)
        }
    }

    /// The options with which capnp reads a message of `bytes` within these limits.
    pub(super) fn reader_options(&self, bytes: usize) -> ReaderOptions {
        let words = self.max_traversal_words.max(bytes / 8 * PASSES);
        ReaderOptions {
            traversal_limit_in_words: Some(words),
            nesting_limit: self.max_nesting,
        }
    }

    /// The most segments of a message, within what a read buffer can take.
    pub(super) fn segments(&self) -> u32 {
        self.max_segments.clamp(1, SEGMENTS_CEILING)
    }
}
