//! Sockets, the sessions that come through them, and what an operator asks.

mod host;
pub mod http;
mod listener;
pub mod network;
mod pace;
mod room;
mod scrape;
mod unix;

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
};

use tokio::io::{AsyncRead, AsyncWrite};
use vatwerk::vat_capnp::vat;

use listener::Stream;
use network::{Counters, Handle};
use room::Place;

pub use host::Hosts;
pub use listener::{BindError, Listener, Permission};
pub use pace::Pace;
pub use room::{Room, Shared};
pub use scrape::{Operators, Scrape};
pub use unix::Access;

use crate::metrics::Metrics;

/// The connections of a vat.
pub struct Gateway {
    vat: vat::Client,
    limits: network::Limits,
    room: Room,
    next: Cell<u64>,
    open: RefCell<HashMap<u64, Handle>>,
    /// What connections did that have ended.
    past: Cell<Sums>,
    metrics: Metrics,
}

/// What connections have done.
#[derive(Clone, Copy, Default)]
struct Sums {
    bytes_in: u64,
    bytes_out: u64,
    calls_refused: u64,
    calls_not_sent: u64,
}

impl Sums {
    fn and(self, more: Counters) -> Sums {
        Sums {
            bytes_in: self.bytes_in + more.bytes_in,
            bytes_out: self.bytes_out + more.bytes_out,
            calls_refused: self.calls_refused + more.calls_refused,
            calls_not_sent: self.calls_not_sent + more.asked_refused,
        }
    }
}

impl Gateway {
    /// Connections to `vat`, as long as there is `room`; their ends are counted in `metrics`.
    pub fn new(
        vat: vat::Client,
        room: Room,
        limits: network::Limits,
        metrics: Metrics,
    ) -> Rc<Gateway> {
        Rc::new(Gateway {
            vat,
            limits,
            room,
            next: Cell::default(),
            open: RefCell::default(),
            past: Cell::default(),
            metrics,
        })
    }

    /// Takes connections from `listener`, for ever.
    pub async fn accept(self: Rc<Self>, listener: Rc<Listener>) {
        let serve = |stream, room: Place| match stream {
            Stream::Tcp(stream) => {
                let (read, write) = stream.into_split();
                self.serve(read, write, room);
            }
            Stream::Unix(stream) => {
                let (read, write) = stream.into_split();
                self.serve(read, write, room);
            }
        };
        listener.each(async || self.room.take(), serve).await;
    }

    /// Serves one connection; whatever happens there ends only that.
    fn serve<R, W>(self: &Rc<Self>, read: R, write: W, room: Place)
    where
        R: AsyncRead + Unpin + 'static,
        W: AsyncWrite + Unpin + 'static,
    {
        let number = self.next.replace(self.next.get() + 1);
        let session = tracing::debug_span!("session", connection = number);
        let vat = self.vat.clone().client;
        let handle = session.in_scope(|| network::serve(read, write, self.limits.clone(), vat));
        self.open.borrow_mut().insert(number, handle.clone());
        let this = self.clone();
        tokio::task::spawn_local(async move {
            let end = handle.ended().await;
            if end.is_overload() {
                tracing::warn!(connection = number, %end, "connection ended");
            } else {
                tracing::debug!(connection = number, %end, "connection ended");
            }
            this.open.borrow_mut().remove(&number);
            this.past.set(this.past.get().and(handle.counters()));
            this.metrics.connection_ended(end.word());
            drop(room);
        });
    }

    /// How many connections are open.
    pub fn connections(&self) -> usize {
        self.open.borrow().len()
    }

    /// How many connections there have been.
    pub fn connections_taken(&self) -> u64 {
        self.next.get()
    }

    /// How many connections were refused, because as many were open as may be.
    pub fn connections_refused(&self) -> u64 {
        self.room.refused()
    }

    /// How many calls of peers the connections have answered `overloaded` or `shutting-down`, because a
    /// limit of theirs was reached or the vat stops.
    pub fn calls_refused(&self) -> u64 {
        self.sums().calls_refused
    }

    /// How many calls of objects to peers were not sent, because the peers do not keep up.
    pub fn calls_not_sent(&self) -> u64 {
        self.sums().calls_not_sent
    }

    /// How many bytes of messages the connections have read, without their tables of segments.
    pub fn bytes_received(&self) -> u64 {
        self.sums().bytes_in
    }

    /// How many bytes of messages were queued for writing on the connections.
    pub fn bytes_sent(&self) -> u64 {
        self.sums().bytes_out
    }

    fn sums(&self) -> Sums {
        let open = self.open.borrow();
        open.values()
            .fold(self.past.get(), |sums, handle| sums.and(handle.counters()))
    }

    /// The bytes of messages that the connections hold: in flight, not written yet, or not here whole.
    pub fn held_bytes(&self) -> usize {
        self.limits.vat.used_bytes()
    }

    /// For tests: a connection without a socket. Returns the caller's end.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn connect(self: &Rc<Self>) -> tokio::io::DuplexStream {
        /// What may be under way in one direction, in bytes.
        const UNDER_WAY: usize = 64 << 10;
        let (ours, theirs) = tokio::io::duplex(UNDER_WAY);
        let room = self.room.take();
        let (read, write) = tokio::io::split(ours);
        self.serve(read, write, room.expect("room for another connection"));
        theirs
    }

    /// Answers every further call `shutting-down`, and waits until those in flight are answered.
    pub async fn finish_calls(&self) {
        let open: Vec<_> = self.open.borrow().values().cloned().collect();
        open.iter().for_each(Handle::refuse_calls);
        for handle in open {
            handle.idle().await;
        }
    }

    /// Ends every connection, when what is queued for it has been written.
    pub async fn close(&self) {
        let open: Vec<_> = self.open.borrow().values().cloned().collect();
        open.iter().for_each(Handle::close);
        for handle in open {
            handle.ended().await;
        }
    }
}
