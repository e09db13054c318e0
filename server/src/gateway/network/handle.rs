//! What the owner of a connection knows and can ask.

use std::rc::Rc;
use std::time::Duration;

use vatwerk::Code;

use super::Refusal;
use super::shared::Shared;

/// Why a connection ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum End {
    /// The peer closed it, between two messages.
    #[error("the peer closed the connection")]
    PeerClosed,
    /// The peer sent an abort, with this reason.
    #[error("the peer aborted the connection: {0}")]
    PeerAborted(String),
    /// The peer broke a rule or a limit and was sent an abort.
    #[error("the connection was aborted: {}: {}", .0.code, .0.text)]
    Refused(Refusal),
    /// The peer did not read.
    #[error(
        "the peer took nothing of the {unwritten_bytes} bytes that are queued for it within {} ms \
         (`limits.stall_ms`)",
        limit.as_millis()
    )]
    Stalled {
        /// The bytes that were queued for it, those of the current write among them.
        unwritten_bytes: usize,
        /// The limit: [`Limits::stall`](super::Limits::stall).
        limit: Duration,
    },
    /// The peer sent a part of a message, and then nothing of the rest, or too slowly. It was sent an abort.
    #[error(
        "the rest of a message did not come within {} ms (`limits.stall_ms`), or more slowly than \
         `limits.least_bytes_per_s`",
        limit.as_millis()
    )]
    Late {
        /// The limit: [`Limits::stall`](super::Limits::stall).
        limit: Duration,
    },
    /// The peer did not read fast enough, and the vat had no room for what it was to read.
    #[error(
        "{unwritten_bytes} bytes were queued for the peer when the connections of this vat held more \
         than {limit_bytes} bytes (`limits.bytes_per_vat`)"
    )]
    Overrun {
        /// The bytes that were queued for it.
        unwritten_bytes: usize,
        /// The limit for all connections: [`Limits::vat`](super::Limits::vat).
        limit_bytes: usize,
    },
    /// The owner of the connection closed it.
    #[error("the connection was closed")]
    Stopped,
    /// Reading or writing failed, or the stream ended within a message.
    #[error("the connection broke: {0}")]
    Broken(String),
    /// The RPC system was dropped. What was queued has not been written.
    #[error("the connection was dropped")]
    Dropped,
    /// capnp-rpc panicked, or an object that ran within it, with this text.
    #[error("the connection panicked: {0}")]
    Panicked(String),
}

impl End {
    /// The words of [`End::word`].
    pub const WORDS: [&'static str; 10] = [
        "peer_closed",
        "peer_aborted",
        "refused",
        "stalled",
        "late",
        "overrun",
        "stopped",
        "broken",
        "dropped",
        "panicked",
    ];

    /// Why it ended, in a word, for statistics.
    pub fn word(&self) -> &'static str {
        let index = match self {
            End::PeerClosed => 0,
            End::PeerAborted(_) => 1,
            End::Refused(_) => 2,
            End::Stalled { .. } => 3,
            End::Late { .. } => 4,
            End::Overrun { .. } => 5,
            End::Stopped => 6,
            End::Broken(_) => 7,
            End::Dropped => 8,
            End::Panicked(_) => 9,
        };
        End::WORDS[index]
    }

    /// Whether the peer took or sent too little, or the vat had no room for the connection: what an
    /// operator may want to do something about.
    pub fn is_overload(&self) -> bool {
        match self {
            End::Stalled { .. } | End::Late { .. } | End::Overrun { .. } => true,
            End::Refused(refusal) => refusal.code == Code::Overloaded,
            _ => false,
        }
    }
}

/// What a connection has done and holds, at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Messages read.
    pub messages_in: u64,
    /// Bytes of those messages, without their tables of segments.
    pub bytes_in: u64,
    /// Messages queued for writing.
    pub messages_out: u64,
    /// Bytes of those messages on the wire.
    pub bytes_out: u64,
    /// Bytes of those that have not been written.
    pub unwritten_bytes: u64,
    /// Calls of the peer.
    pub calls: u64,
    /// Calls among those that were answered here, `overloaded` or `shutting-down`.
    pub calls_refused: u64,
    /// Calls of the peer that have not been answered, whether it has given them up or not.
    pub calls_in_flight: u64,
    /// Calls of this side that the peer has not answered.
    pub asked_in_flight: u64,
    /// Calls of this side that were not sent, because the peer does not keep up.
    pub asked_refused: u64,
    /// Questions of the peer that it has not finished.
    pub open_questions: u64,
    /// Distinct capabilities that the peer holds of this side.
    pub exports: u64,
    /// Distinct capabilities of the peer that this side holds.
    pub imports: u64,
}

/// Watches one connection and can end it. Clones are the same handle; dropping it changes nothing.
#[derive(Clone)]
pub struct Handle {
    shared: Rc<Shared>,
}

impl Handle {
    pub(super) fn new(shared: Rc<Shared>) -> Self {
        Handle { shared }
    }

    /// The counters as they are now.
    pub fn counters(&self) -> Counters {
        let shared = &self.shared;
        let ledger = shared.ledger.borrow();
        Counters {
            messages_in: shared.traffic.messages_in.get(),
            bytes_in: shared.traffic.bytes_in.get(),
            messages_out: shared.traffic.messages_out.get(),
            bytes_out: shared.traffic.bytes_out.get(),
            unwritten_bytes: shared.outbox.borrow().unwritten_bytes as u64,
            calls: ledger.calls,
            calls_refused: ledger.calls_refused,
            calls_in_flight: ledger.calls_in_flight() as u64,
            asked_in_flight: ledger.asked as u64,
            asked_refused: ledger.asked_refused,
            open_questions: ledger.open_questions() as u64,
            exports: ledger.exports() as u64,
            imports: ledger.imports() as u64,
        }
    }

    /// Answers every further call `shutting-down`. Calls in flight go on.
    pub fn refuse_calls(&self) {
        self.shared.ledger.borrow_mut().close_for_calls();
    }

    /// Waits until no call of the peer is in flight, or the connection has ended. After
    /// [`Handle::refuse_calls`] no new one begins.
    pub async fn idle(&self) {
        self.shared
            .wait(|shared| shared.is_over() || shared.ledger.borrow().calls_in_flight() == 0)
            .await;
    }

    /// Ends the connection: calls in flight are given up, what is queued is written, then an abort,
    /// `shutting-down`, and the stream is closed. Takes at most [`linger`] once the RPC system runs.
    /// Wait for [`Handle::ended`].
    ///
    /// [`linger`]: super::Limits::linger
    pub fn close(&self) {
        self.shared.stop();
    }

    /// Waits for the connection's end and says why. Both directions are over then, and nothing of
    /// the connection is kept but this handle.
    pub async fn ended(&self) -> End {
        self.shared.wait(Shared::is_over).await;
        self.end().unwrap_or(End::Dropped)
    }

    /// Why the connection ends or has ended; `None` while it lives.
    pub fn end(&self) -> Option<End> {
        self.shared.end.borrow().clone()
    }
}
