//! One RPC connection over one socket, and the news of its end.

use std::{
    cell::Cell,
    convert::Infallible,
    io,
    rc::{Rc, Weak},
    time::Duration,
};

use capnp::{
    Error, any_pointer,
    capability::Promise,
    message::{Builder, HeapAllocator, ReaderOptions},
};
use capnp_rpc::{
    Connection, FlowController, IncomingMessage, OutgoingMessage, RpcSystem, VatNetwork,
    rpc_capnp::message, rpc_twoparty_capnp::Side, twoparty,
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

use socket2::{SockRef, TcpKeepalive};

use crate::{
    Address,
    foreign::Checked,
    gate::{Gate, Tally},
};

/// How long a TCP connection is silent before the operating system asks whether the vat is there.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);

/// How long the operating system waits for an answer to that before it asks again.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// How often it asks in vain before the connection is lost.
const KEEPALIVE_RETRIES: u32 = 3;

/// How long the vat's machine may acknowledge nothing of what it was sent before the connection is
/// lost.
#[cfg(target_os = "linux")]
const LONGEST_UNACKNOWLEDGED: Duration = Duration::from_secs(60);

/// How much of a message may be read, in words of 8 bytes. It bounds the size of a message too, so
/// it is four times the 32 MiB of the wire contract: a message may be read more than once.
const TRAVERSAL_LIMIT_WORDS: usize = 16 * 1024 * 1024;

/// How much of one stream may be under way without an acknowledgement, in bytes. Half of what a vat takes of
/// a body that nobody reads yet: past that it takes a caller for one that does not wait.
const STREAM_WINDOW: usize = 512 * 1024;

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

/// Connects a socket and drives RPC on it from a task of the current `LocalSet`. Its calls count at
/// `gate`.
pub(crate) async fn dial(address: &Address, gate: Rc<Gate>) -> io::Result<Wire> {
    match address {
        Address::Tcp { host, port } => {
            let stream = TcpStream::connect((host.as_str(), *port)).await?;
            prepare(&stream)?;
            let (reader, writer) = stream.into_split();
            Ok(start(reader.compat(), writer.compat_write(), gate))
        }
        #[cfg(unix)]
        Address::Unix(path) => {
            let (reader, writer) = UnixStream::connect(path).await?.into_split();
            Ok(start(reader.compat(), writer.compat_write(), gate))
        }
        #[cfg(not(unix))]
        Address::Unix(_) => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "there are no unix sockets on this system",
        )),
    }
}

/// Sets the options of a TCP connection: whoever waits for an answer learns within about a minute that
/// the vat's machine, or the network to it, is gone.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_RETRIES);
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(LONGEST_UNACKNOWLEDGED))?;
    Ok(())
}

fn start(
    reader: impl AsyncRead + Unpin + 'static,
    writer: impl AsyncWrite + Unpin + 'static,
    gate: Rc<Gate>,
) -> Wire {
    let ended = Rc::new(Cell::new(false));
    let (running, stopped) = oneshot::channel();
    let (stop, stopping) = oneshot::channel::<Infallible>();
    let mut network = twoparty::VatNetwork::new(
        BufReader::with_capacity(SOCKET_BUFFER, Checked::new(reader)),
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
        calls: Rc::new(Tally::new(gate)),
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

/// The stock network, except that it counts the calls in flight, that it tells of the connection's end
/// at once, and that it keeps to itself how the shutdown went: capnp-rpc prints that on stdout, which
/// belongs to the program.
struct Network<N> {
    inner: N,
    ended: Weak<Cell<bool>>,
    calls: Rc<Tally>,
}

struct Watched {
    inner: Box<dyn Connection<Side>>,
    ended: Weak<Cell<bool>>,
    calls: Rc<Tally>,
}

/// A message to the vat. A question counts from when it is sent.
struct Counted {
    inner: Box<dyn OutgoingMessage>,
    calls: Rc<Tally>,
}

impl OutgoingMessage for Counted {
    fn get_body(&mut self) -> capnp::Result<any_pointer::Builder<'_>> {
        self.inner.get_body()
    }

    fn get_body_as_reader(&self) -> capnp::Result<any_pointer::Reader<'_>> {
        self.inner.get_body_as_reader()
    }

    fn send(self: Box<Self>) -> (Promise<(), Error>, Rc<Builder<HeapAllocator>>) {
        let body = self.inner.get_body_as_reader();
        let root = body.and_then(|body| body.get_as::<message::Reader<'_>>());
        if let Ok(Ok(message::Call(_) | message::Bootstrap(_))) = root.map(|root| root.which()) {
            self.calls.enter();
        }
        self.inner.send()
    }

    fn take(self: Box<Self>) -> Builder<HeapAllocator> {
        self.inner.take()
    }

    fn size_in_words(&self) -> usize {
        self.inner.size_in_words()
    }
}

impl<N: VatNetwork<Side>> VatNetwork<Side> for Network<N> {
    fn connect(&mut self, host_id: Side) -> Option<Box<dyn Connection<Side>>> {
        let inner = self.inner.connect(host_id)?;
        Some(Box::new(Watched {
            inner,
            ended: self.ended.clone(),
            calls: self.calls.clone(),
        }))
    }

    fn accept(&mut self) -> Promise<Box<dyn Connection<Side>>, Error> {
        let (accepted, ended) = (self.inner.accept(), self.ended.clone());
        let calls = self.calls.clone();
        Promise::from_future(async move {
            let inner = accepted.await?;
            let watched = Watched {
                inner,
                ended,
                calls,
            };
            Ok(Box::new(watched) as Box<dyn Connection<Side>>)
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
        let inner = self.inner.new_outgoing_message(first_segment_words);
        let calls = self.calls.clone();
        Box::new(Counted { inner, calls })
    }

    fn receive_incoming_message(&mut self) -> Promise<Option<Box<dyn IncomingMessage>>, Error> {
        let (received, calls) = (self.inner.receive_incoming_message(), self.calls.clone());
        Promise::from_future(async move {
            let received = received.await?;
            if let Some(received) = &received {
                let root = received.get_body()?.get_as::<message::Reader<'_>>()?;
                if let Ok(message::Return(_)) = root.which() {
                    calls.leave();
                }
            }
            Ok(received)
        })
    }

    fn new_stream(&mut self) -> (Box<dyn FlowController>, Promise<(), Error>) {
        self.inner.new_stream()
    }

    fn shutdown(&mut self, result: capnp::Result<()>) -> Promise<(), Error> {
        if let Some(ended) = self.ended.upgrade() {
            ended.set(true);
        }
        self.calls.clear();
        let done = self.inner.shutdown(result);
        Promise::from_future(async move {
            let _ = done.await;
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_tcp_connection_has_keepalive_and_a_limit_for_what_is_not_acknowledged() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stream = TcpStream::connect(address).await.unwrap();
        prepare(&stream).unwrap();
        assert!(stream.nodelay().unwrap());
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEPALIVE_IDLE);
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), KEEPALIVE_INTERVAL);
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), KEEPALIVE_RETRIES);
        #[cfg(target_os = "linux")]
        assert_eq!(
            socket.tcp_user_timeout().unwrap(),
            Some(LONGEST_UNACKNOWLEDGED)
        );
    }
}
