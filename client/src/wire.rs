//! One RPC connection over one socket, and the news of its end.

use std::{
    cell::Cell,
    convert::Infallible,
    io,
    rc::{Rc, Weak},
};

use capnp::{Error, capability::Promise, message::ReaderOptions};
use capnp_rpc::{
    Connection, FlowController, IncomingMessage, OutgoingMessage, RpcSystem, VatNetwork,
    rpc_twoparty_capnp::Side, twoparty,
};
use futures::{
    AsyncRead, AsyncWrite,
    channel::oneshot,
    future::{Either, Shared, select},
    io::{BufReader, BufWriter},
};
use tokio::net::TcpStream;
#[cfg(unix)]
use tokio::net::UnixStream;
use tokio_util::compat::{TokioAsyncReadCompatExt, TokioAsyncWriteCompatExt};
use vatwerk::vat_capnp::vat;

use crate::Address;

/// How much of a message may be read, in words of 8 bytes. It bounds the size of a message too, so
/// it is four times the 32 MiB of the wire contract: a message may be read more than once.
const TRAVERSAL_LIMIT_WORDS: usize = 16 * 1024 * 1024;

/// How much of one stream may be under way without an acknowledgement, in bytes.
const STREAM_WINDOW: usize = 1024 * 1024;

/// How much is collected before it goes to the socket, and read from it at a time, in bytes.
const SOCKET_BUFFER: usize = 64 * 1024;

/// Whether, and when, a connection ended.
#[derive(Clone)]
pub(crate) struct End {
    ended: Rc<Cell<bool>>,
    stopped: Shared<oneshot::Receiver<Infallible>>,
}

impl End {
    /// Whether the connection takes no calls any more. Exact: it is set before any call learns of
    /// the end.
    pub(crate) fn has_come(&self) -> bool {
        self.ended.get()
    }

    /// Gives up on a promise of the connection when nobody drives the connection any more. A
    /// connection that ends in good order breaks its promises itself; one whose task panicked does
    /// not.
    pub(crate) fn or<T: 'static>(&self, promise: Promise<T, Error>) -> Promise<T, Error> {
        let stopped = self.stopped.clone();
        Promise::from_future(async move {
            match select(promise, stopped).await {
                Either::Left((outcome, _)) => outcome,
                Either::Right(_) => Err(Error::disconnected(
                    "disconnected: the connection ended before the answer".to_owned(),
                )),
            }
        })
    }
}

/// A connection that is being driven. Dropping `stop` closes it, and breaks what is in flight.
pub(crate) struct Wire {
    pub vat: vat::Client,
    pub end: End,
    pub stop: oneshot::Sender<Infallible>,
}

/// Connects a socket and drives RPC on it from a task of the current `LocalSet`.
pub(crate) async fn dial(address: &Address) -> io::Result<Wire> {
    match address {
        Address::Tcp { host, port } => {
            let stream = TcpStream::connect((host.as_str(), *port)).await?;
            stream.set_nodelay(true)?;
            let (reader, writer) = stream.into_split();
            Ok(start(reader.compat(), writer.compat_write()))
        }
        #[cfg(unix)]
        Address::Unix(path) => {
            let (reader, writer) = UnixStream::connect(path).await?.into_split();
            Ok(start(reader.compat(), writer.compat_write()))
        }
        #[cfg(not(unix))]
        Address::Unix(_) => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "there are no unix sockets on this system",
        )),
    }
}

fn start(
    reader: impl AsyncRead + Unpin + 'static,
    writer: impl AsyncWrite + Unpin + 'static,
) -> Wire {
    let ended = Rc::new(Cell::new(false));
    let (running, stopped) = oneshot::channel();
    let (stop, stopping) = oneshot::channel::<Infallible>();
    let mut network = twoparty::VatNetwork::new(
        BufReader::with_capacity(SOCKET_BUFFER, reader),
        BufWriter::with_capacity(SOCKET_BUFFER, writer),
        Side::Client,
        ReaderOptions {
            traversal_limit_in_words: Some(TRAVERSAL_LIMIT_WORDS),
            ..ReaderOptions::new()
        },
    );
    network.set_window_size(STREAM_WINDOW);
    let network = Network {
        inner: network,
        ended: Rc::downgrade(&ended),
    };
    let mut rpc = RpcSystem::new(Box::new(network), None);
    let vat = rpc.bootstrap(Side::Server);
    let disconnect = rpc.get_disconnector();
    let guard = Driving {
        ended: ended.clone(),
        _running: running,
    };
    tokio::task::spawn_local(async move {
        let _guard = guard;
        if let Either::Right((_, rpc)) = select(rpc, stopping).await {
            // Disconnecting is part of what `rpc` drives; how it ends interests nobody now.
            let _ = select(rpc, disconnect).await;
        }
    });
    Wire {
        vat,
        end: End {
            ended,
            stopped: futures::FutureExt::shared(stopped),
        },
        stop,
    }
}

/// Says that nobody drives the connection any more, however that came about.
struct Driving {
    ended: Rc<Cell<bool>>,
    _running: oneshot::Sender<Infallible>,
}

impl Drop for Driving {
    fn drop(&mut self) {
        self.ended.set(true);
    }
}

/// The stock network, except that it tells of the connection's end at once, and that it keeps to
/// itself how the shutdown went: capnp-rpc prints that on stdout, which belongs to the program.
struct Network<N> {
    inner: N,
    ended: Weak<Cell<bool>>,
}

struct Watched {
    inner: Box<dyn Connection<Side>>,
    ended: Weak<Cell<bool>>,
}

impl<N: VatNetwork<Side>> VatNetwork<Side> for Network<N> {
    fn connect(&mut self, host_id: Side) -> Option<Box<dyn Connection<Side>>> {
        let inner = self.inner.connect(host_id)?;
        let ended = self.ended.clone();
        Some(Box::new(Watched { inner, ended }))
    }

    fn accept(&mut self) -> Promise<Box<dyn Connection<Side>>, Error> {
        let (accepted, ended) = (self.inner.accept(), self.ended.clone());
        Promise::from_future(async move {
            let inner = accepted.await?;
            Ok(Box::new(Watched { inner, ended }) as Box<dyn Connection<Side>>)
        })
    }

    fn drive_until_shutdown(&mut self) -> Promise<(), Error> {
        self.inner.drive_until_shutdown()
    }
}

impl Connection<Side> for Watched {
    fn get_peer_vat_id(&self) -> Side {
        self.inner.get_peer_vat_id()
    }

    fn new_outgoing_message(&mut self, first_segment_words: u32) -> Box<dyn OutgoingMessage> {
        self.inner.new_outgoing_message(first_segment_words)
    }

    fn receive_incoming_message(&mut self) -> Promise<Option<Box<dyn IncomingMessage>>, Error> {
        self.inner.receive_incoming_message()
    }

    fn new_stream(&mut self) -> (Box<dyn FlowController>, Promise<(), Error>) {
        self.inner.new_stream()
    }

    fn shutdown(&mut self, result: capnp::Result<()>) -> Promise<(), Error> {
        if let Some(ended) = self.ended.upgrade() {
            ended.set(true);
        }
        let done = self.inner.shutdown(result);
        Promise::from_future(async move {
            let _ = done.await;
            Ok(())
        })
    }
}
