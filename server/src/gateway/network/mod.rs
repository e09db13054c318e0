//! The Cap'n Proto RPC transport of one accepted connection: a [`capnp_rpc::VatNetwork`] that
//! writes once per burst, limits what its peer can make it remember, and looks at every message
//! before capnp-rpc does.
//!
//! [`serve`] runs one connection, with everything that has to be done when it ends:
//!
//! ```no_run
//! # async fn example(stream: tokio::net::UnixStream, bootstrap: capnp::capability::Client) {
//! use vatwerk_server::gateway::network::{Limits, serve};
//! let (read, write) = stream.into_split();
//! let handle = serve(read, write, Limits::default(), bootstrap);
//! let why = handle.ended().await;
//! # }
//! ```
//!
//! # Promises of the peer
//!
//! capnp-rpc follows promises to their end in loops that have none if a promise leads back to
//! itself, and a peer can make it so: the thread is lost for everyone. Here no such circle closes:
//!
//! - A promise of the peer is taken for a capability that is settled: capnp-rpc is told
//!   `senderHosted` instead of `senderPromise`, calls on it go to the peer, which passes them on as
//!   the protocol says, and what it resolves to is released and not followed. So clients may
//!   resolve their promises to anything. What it costs is a detour by the peer when a promise turns
//!   out to stand for something that lives here.
//! - What the peer returns to this side must not be an unresolved promise of this side, nor part of
//!   an answer that this side has not given or that holds such a promise: the call that it was for
//!   fails with `invalid-argument`.
//! - If a call returns an unresolved promise after the peer has passed on the result of that call
//!   as a capability (`receiverAnswer`), what was passed on becomes a broken capability; the return
//!   itself is as usual.
//! - A tail call of the peer (`sendResultsTo.yourself`, as C++ makes when a promise that it passed
//!   turns out to live here) runs, and what it returns answers the call that its results are for. If it
//!   returns an unresolved promise, that call fails with `invalid-argument`. A call whose results are for a
//!   third party ends the connection.
//!
//! A call that the peer has given up runs to its end, and only then is capnp-rpc told that it was:
//! capnp-rpc never returns a cancelled call, so that neither side could use its number again. Such a
//! call stays in flight until then. What waits for something has to have a limit of its own.
//!
//! # Peers that do not read, or do not answer
//!
//! Bytes are counted in both directions ([`Limits::max_bytes_in_flight`]), and for all connections of a
//! vat together ([`Limits::vat`]). A call of this side that does not fit is not sent: it fails at once,
//! with `overloaded`, and so do calls on its result. Answers, and the messages that end or release
//! something, always go out: while many bytes of them wait, nothing is read from the peer
//! ([`Limits::max_unwritten_bytes`]), and a peer that takes none of them loses its connection
//! ([`Limits::stall`]).
//!
//! Two things are left to the owner of the objects: a [`ClientHook`] of its own that hides an
//! unresolved capability must not be a way back to itself, and `ResultsHook::set_pipeline` with an
//! unresolved promise in the results is seen by nobody here.
//!
//! [`ClientHook`]: capnp::private::capability::ClientHook

mod asked;
mod budget;
mod connection;
mod foreign;
mod frame;
mod handle;
mod ledger;
mod limits;
mod outbox;
mod outgoing;
mod promise;
mod reply;
mod room;
mod shared;
mod tail;

#[cfg(test)]
mod tests;

use std::panic::AssertUnwindSafe;
use std::rc::Rc;

use capnp::Error;
use capnp::capability::{Client, Promise};
use capnp_rpc::RpcSystem;
use capnp_rpc::rpc_twoparty_capnp::Side;
use futures::FutureExt;
use tokio::io::{AsyncRead, AsyncWrite};
use tracing::Instrument;
use vatwerk::Code;

use crate::panics;

use connection::{Connection, WeakConnection};
use outbox::WriteError;
use shared::Shared;

pub use budget::Budget;
pub use handle::{Counters, End, Handle};
pub use limits::Limits;

/// Why a connection was refused to its peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The code at the start of the abort's reason.
    pub code: Code,
    /// The rest of the reason.
    pub text: String,
}

impl Refusal {
    fn new(code: Code, text: impl Into<String>) -> Self {
        Refusal {
            code,
            text: text.into(),
        }
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Refusal::new(Code::InvalidArgument, error.to_string())
    }
}

impl From<capnp::NotInSchema> for Refusal {
    fn from(unknown: capnp::NotInSchema) -> Self {
        Refusal::new(Code::InvalidArgument, unknown.to_string())
    }
}

/// Serves `bootstrap` on one connection in a local task of its own. See [`Network::new`].
///
/// A panic of capnp-rpc, or of an object that runs within it, ends this connection only, as
/// [`End::Panicked`]. What is logged of it is in the span that is current now.
///
/// # Panics
///
/// Outside a [`tokio::task::LocalSet`], or in a runtime without a clock.
pub fn serve<R, W>(read: R, write: W, limits: Limits, bootstrap: Client) -> Handle
where
    R: AsyncRead + Unpin + 'static,
    W: AsyncWrite + Unpin + 'static,
{
    let (network, handle) = Network::new(read, write, limits);
    let shared = network.shared.clone();
    let system = RpcSystem::new(Box::new(network), Some(bootstrap));
    let disconnector = system.get_disconnector();
    let serving = async move {
        let mut system = Box::pin(AssertUnwindSafe(system).catch_unwind());
        if let Err(panic) = system.as_mut().await {
            shared.ending(End::Panicked(panics::message(&*panic).to_owned()));
            drop(system);
            // Its tables point at each other, and would be kept for ever.
            let cleaned = AssertUnwindSafe(disconnector).catch_unwind().await;
            drop(cleaned);
        }
    };
    tokio::task::spawn_local(serving.in_current_span());
    handle
}

/// The server's side of one stream, for [`RpcSystem::new`]. Usually [`serve`] is what you want.
///
/// Dropping the RPC system closes the stream at once; see [`Handle::close`] for the polite way.
pub struct Network<R> {
    /// Until capnp-rpc takes it.
    connection: Option<Connection<R>>,
    weak: WeakConnection<R>,
    shared: Rc<Shared>,
}

impl<R: AsyncRead + Unpin + 'static> Network<R> {
    /// A network over what is read from `read` and written to `write`, unbuffered streams both, and
    /// the handle its owner watches it with. Set `TCP_NODELAY` on TCP.
    ///
    /// # Panics
    ///
    /// Outside a [`tokio::task::LocalSet`]: the writing side is a local task of its own.
    pub fn new<W>(read: R, write: W, limits: Limits) -> (Self, Handle)
    where
        W: AsyncWrite + Unpin + 'static,
    {
        let shared = Shared::new(limits);
        let ended = WriterGuard(Some(shared.clone()));
        let writing = outbox::write(shared.clone(), write);
        let writer = tokio::task::spawn_local(async move { ended.end(writing.await.err()) });
        shared.writer_is(writer.abort_handle());
        let connection = Connection::new(read, shared.clone());
        let network = Network {
            weak: connection.downgrade(),
            connection: Some(connection),
            shared: shared.clone(),
        };
        (network, Handle::new(shared))
    }
}

impl<R> Drop for Network<R> {
    fn drop(&mut self) {
        // Unless the end was orderly, the RPC system is dropped, or has panicked.
        if !self.shared.is_over() {
            self.weak.abandon();
        }
    }
}

/// Says that the writing side is over, however it ends.
struct WriterGuard(Option<Rc<Shared>>);

impl WriterGuard {
    fn end(mut self, failure: Option<WriteError>) {
        if let Some(shared) = self.0.take() {
            shared.writer_ended(failure);
        }
    }
}

impl Drop for WriterGuard {
    fn drop(&mut self) {
        if let Some(shared) = self.0.take() {
            shared.writer_ended(None);
        }
    }
}

impl<R: AsyncRead + Unpin + 'static> capnp_rpc::VatNetwork<Side> for Network<R> {
    fn connect(&mut self, host: Side) -> Option<Box<dyn capnp_rpc::Connection<Side>>> {
        if host == Side::Server {
            return None;
        }
        // capnp-rpc has accepted it already, and drops what it is given here.
        match self.weak.upgrade() {
            Some(connection) => Some(Box::new(connection)),
            None => panic!("the one connection of this network has ended"),
        }
    }

    fn accept(&mut self) -> Promise<Box<dyn capnp_rpc::Connection<Side>>, Error> {
        match self.connection.take() {
            Some(connection) => Promise::ok(Box::new(connection)),
            None => Promise::from_future(std::future::pending()),
        }
    }

    fn drive_until_shutdown(&mut self) -> Promise<(), Error> {
        let shared = self.shared.clone();
        Promise::from_future(async move {
            shared.wait(Shared::is_over).await;
            Ok(())
        })
    }
}
