//! Sockets, the sessions that come through them, and what an operator asks.

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
use network::Handle;
use room::Place;

pub use listener::{BindError, Listener};
pub use pace::Pace;
pub use room::{Room, Shared};
pub use scrape::{Operators, Scrape};
pub use unix::Access;

/// The connections of a vat.
pub struct Gateway {
    vat: vat::Client,
    limits: network::Limits,
    room: Room,
    next: Cell<u64>,
    open: RefCell<HashMap<u64, Handle>>,
    stalled: Cell<u64>,
    /// The calls refused, and the calls not sent, of connections that have ended.
    refused: Cell<(u64, u64)>,
}

impl Gateway {
    /// Connections to `vat`, as long as there is `room`.
    pub fn new(vat: vat::Client, room: Room, limits: network::Limits) -> Rc<Gateway> {
        Rc::new(Gateway {
            vat,
            limits,
            room,
            next: Cell::default(),
            open: RefCell::default(),
            stalled: Cell::default(),
            refused: Cell::default(),
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
                this.stalled.set(this.stalled.get() + 1);
                tracing::warn!(connection = number, %end, "connection ended");
            } else {
                tracing::debug!(connection = number, %end, "connection ended");
            }
            this.open.borrow_mut().remove(&number);
            let (refused, not_sent) = this.refused.get();
            let last = handle.counters();
            this.refused
                .set((refused + last.calls_refused, not_sent + last.asked_refused));
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

    /// How many connections have ended because their peers did not read or did not go on with a message,
    /// or because the vat had no room for what they sent or were to read.
    pub fn connections_stalled(&self) -> u64 {
        self.stalled.get()
    }

    /// How many calls of peers the connections have answered `overloaded` or `shutting-down`, because a
    /// limit of theirs was reached or the vat stops.
    pub fn calls_refused(&self) -> u64 {
        let open = self.open.borrow();
        let open = open.values().map(|handle| handle.counters().calls_refused);
        self.refused.get().0 + open.sum::<u64>()
    }

    /// How many calls of objects to peers were not sent, because the peers do not keep up.
    pub fn calls_not_sent(&self) -> u64 {
        let open = self.open.borrow();
        let open = open.values().map(|handle| handle.counters().asked_refused);
        self.refused.get().1 + open.sum::<u64>()
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
