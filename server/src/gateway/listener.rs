//! Where connections come in.

use std::{
    io,
    net::{SocketAddr, ToSocketAddrs},
    path::PathBuf,
    time::Duration,
};

use rustix::io::Errno;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use vatwerk::Address;

use super::unix::{self, Access, SocketFile};

/// How long to wait when the operating system has no room for another connection.
const BREATHER: Duration = Duration::from_millis(100);

/// So many connections may fail in a row, each as it is taken, before there is a pause.
const FAILURES: u32 = 64;

/// How long a TCP connection is silent before the operating system asks whether its peer is there.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);

/// How long the operating system waits for an answer to that before it asks again.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// How often it asks in vain before the connection is lost.
const KEEPALIVE_RETRIES: u32 = 3;

/// How long a peer's machine may acknowledge nothing of what it was sent before the connection is
/// lost, at least.
const SHORTEST_UNACKNOWLEDGED: Duration = Duration::from_secs(60);

/// The longest that the operating system takes for that.
const LONGEST_UNACKNOWLEDGED: Duration = Duration::from_millis(i32::MAX as u64);

/// A socket that takes connections. A unix socket's file goes with it.
///
/// A TCP connection whose peer's machine or network is gone is lost after a minute, in which the
/// operating system asks for the peer in vain: TCP keepalive, and `TCP_USER_TIMEOUT` for what is not
/// acknowledged.
pub struct Listener {
    socket: Socket,
    address: Address,
    unacknowledged: Duration,
}

enum Socket {
    Tcp(TcpListener),
    Unix {
        socket: UnixListener,
        _file: SocketFile,
    },
}

/// A connection that has come in.
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Whether a vat may listen where other machines reach it: said of each kind of listener.
#[derive(Clone, Copy, Debug, Default)]
pub struct Permission {
    /// Whether it may.
    pub is_given: bool,
    /// How the command line says so.
    pub option: &'static str,
    /// How the settings say so.
    pub key: &'static str,
}

/// Why a vat cannot listen at an address.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Anybody who reaches the port could do everything.
    #[error(
        "{at} is reachable from other machines, and this vat asks nobody who they are; use a loopback address, or \
         say {} (in the settings: {})",
        .permission.option, .permission.key
    )]
    Exposed {
        /// Where.
        at: SocketAddr,
        /// What would permit it.
        permission: Permission,
    },
    /// Somebody listens there already.
    #[error("another process is listening at {}", .0.display())]
    Live(PathBuf),
    /// There is a file, and it is no socket.
    #[error("{} is in the way: it is no socket", .0.display())]
    NotASocket(PathBuf),
    /// The path is longer than the operating system has room for.
    #[error("the path {} is {bytes} bytes long, and at most {most} bytes are possible for a unix socket", path.display())]
    LongPath {
        /// The path.
        path: PathBuf,
        /// Its length.
        bytes: usize,
        /// The longest.
        most: usize,
    },
    /// The name has no address.
    #[error("{host} has no address")]
    NoAddress {
        /// The name.
        host: String,
    },
    /// The operating system refused.
    #[error("cannot listen at {address}: {source}")]
    Io {
        /// Where.
        address: Address,
        /// Why.
        source: io::Error,
    },
}

impl Listener {
    /// Listens at `address`. A TCP address that other machines can reach is refused without
    /// `permission`. The file of a unix socket is as `access` says; a stale one in its place is replaced, a
    /// live one is not.
    pub async fn bind(
        address: &Address,
        permission: Permission,
        access: Access,
    ) -> Result<Listener, BindError> {
        let io = |source| BindError::Io {
            address: address.clone(),
            source,
        };
        match address {
            Address::Tcp { host, port } => {
                let found = (host.as_str(), *port).to_socket_addrs().map_err(io)?.next();
                let found = found.ok_or_else(|| BindError::NoAddress { host: host.clone() })?;
                if !found.ip().is_loopback() && !permission.is_given {
                    return Err(BindError::Exposed {
                        at: found,
                        permission,
                    });
                }
                let socket = TcpListener::bind(found).await.map_err(io)?;
                let bound = socket.local_addr().map_err(io)?;
                let address = Address::Tcp {
                    host: bound.ip().to_string(),
                    port: bound.port(),
                };
                Ok(Listener {
                    socket: Socket::Tcp(socket),
                    address,
                    unacknowledged: SHORTEST_UNACKNOWLEDGED,
                })
            }
            Address::Unix(path) => {
                let (socket, file) = unix::bind(path, access).await?;
                Ok(Listener {
                    socket: Socket::Unix {
                        socket,
                        _file: file,
                    },
                    address: address.clone(),
                    unacknowledged: SHORTEST_UNACKNOWLEDGED,
                })
            }
        }
    }

    /// Changes the listener to one for connections that have a stall limit of `stall`. The operating
    /// system gives a peer that takes nothing twice as long, a minute at least and 24 days at most, so
    /// that whoever serves the connection ends it first and can say why.
    pub fn with_stall(mut self, stall: Duration) -> Listener {
        let twice = stall.saturating_mul(2);
        self.unacknowledged = twice.clamp(SHORTEST_UNACKNOWLEDGED, LONGEST_UNACKNOWLEDGED);
        self
    }

    /// Where it listens, with the real port.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Gives every connection that `admit` has a place for to `serve`, for ever. The others are closed.
    pub(super) async fn each<P>(
        &self,
        admit: impl AsyncFn() -> Option<P>,
        serve: impl Fn(Stream, P),
    ) {
        let taken = async |stream| {
            if let Some(place) = admit().await {
                serve(stream, place);
            }
        };
        each(&self.address, async || self.accept().await, taken).await;
    }

    async fn accept(&self) -> io::Result<Stream> {
        match &self.socket {
            Socket::Tcp(socket) => {
                let (stream, _) = socket.accept().await?;
                if let Err(error) = prepare(&stream, self.unacknowledged) {
                    let address = &self.address;
                    tracing::warn!(%address, %error, "setting the options of a connection");
                }
                Ok(Stream::Tcp(stream))
            }
            Socket::Unix { socket, .. } => Ok(Stream::Unix(socket.accept().await?.0)),
        }
    }
}

/// Takes connections with `accept`, for ever. If the operating system has no room for another there is a
/// pause; a connection that was lost before it was taken is no reason for one.
async fn each<S>(
    address: &Address,
    accept: impl AsyncFn() -> io::Result<S>,
    taken: impl AsyncFn(S),
) {
    let mut failures = 0;
    loop {
        match accept().await {
            Ok(stream) => {
                failures = 0;
                taken(stream).await;
            }
            Err(error) => {
                failures += 1;
                let is_full = is_out_of_room(&error);
                if failures == 1 && is_full || failures == FAILURES {
                    tracing::warn!(%address, %error, "no connections are taken");
                } else {
                    tracing::debug!(%address, %error, "taking a connection");
                }
                if is_full || failures >= FAILURES {
                    tokio::time::sleep(BREATHER).await;
                }
            }
        }
    }
}

/// Whether the process or the machine has too little of something to take a connection.
fn is_out_of_room(error: &io::Error) -> bool {
    let error = Errno::from_io_error(error);
    let shortages = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    error.is_some_and(|error| shortages.contains(&error))
}

/// Sets the options of a TCP connection, each of them whether others fail or not.
fn prepare(stream: &TcpStream, unacknowledged: Duration) -> io::Result<()> {
    let nodelay = stream.set_nodelay(true);
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_RETRIES);
    let keepalive = socket.set_tcp_keepalive(&keepalive);
    #[cfg(target_os = "linux")]
    let limited = socket.set_tcp_user_timeout(Some(unacknowledged));
    #[cfg(not(target_os = "linux"))]
    let limited = {
        let _ = unacknowledged;
        Ok(())
    };
    nodelay.and(keepalive).and(limited)
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, rc::Rc};

    use tokio::time::Instant;

    use super::*;

    const GIVEN: Permission = Permission {
        is_given: true,
        option: "--insecure",
        key: "insecure = true",
    };
    use crate::{
        health::{Health, Limits, Names, Services},
        metrics::Metrics,
    };

    /// A connection that a listener with this stall limit has taken, and its peer's end.
    async fn taken(stall: Duration) -> (TcpStream, TcpStream) {
        let address = "tcp:127.0.0.1:0".parse().unwrap();
        let listener = Listener::bind(&address, Permission::default(), Access::default())
            .await
            .unwrap();
        let listener = listener.with_stall(stall);
        let Address::Tcp { host, port } = listener.address() else {
            panic!("a TCP address");
        };
        let client = TcpStream::connect((host.as_str(), *port)).await.unwrap();
        let Stream::Tcp(stream) = listener.accept().await.unwrap() else {
            panic!("a TCP stream");
        };
        (stream, client)
    }

    #[tokio::test]
    async fn a_tcp_connection_has_keepalive_and_a_limit_for_what_is_not_acknowledged() {
        for (stall, unacknowledged) in [
            (Duration::ZERO, Duration::from_secs(60)),
            (Duration::from_secs(45), Duration::from_secs(90)),
            (Duration::MAX, Duration::from_millis(2_147_483_647)),
        ] {
            let (stream, _client) = taken(stall).await;
            assert!(stream.nodelay().unwrap());
            let socket = SockRef::from(&stream);
            assert!(socket.keepalive().unwrap());
            assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEPALIVE_IDLE);
            assert_eq!(socket.tcp_keepalive_interval().unwrap(), KEEPALIVE_INTERVAL);
            assert_eq!(socket.tcp_keepalive_retries().unwrap(), KEEPALIVE_RETRIES);
            #[cfg(target_os = "linux")]
            assert_eq!(socket.tcp_user_timeout().unwrap(), Some(unacknowledged));
            #[cfg(not(target_os = "linux"))]
            let _ = unacknowledged;
        }
    }

    #[tokio::test]
    async fn other_machines_are_not_let_in_by_accident() {
        let address: Address = "tcp:0.0.0.0:0".parse().unwrap();
        assert!(matches!(
            Listener::bind(&address, Permission::default(), Access::default()).await,
            Err(BindError::Exposed { .. })
        ));
        assert!(
            Listener::bind(&address, GIVEN, Access::default())
                .await
                .is_ok()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn only_where_there_is_no_room_for_connections_is_there_a_pause() {
        let errors = [
            Errno::CONNABORTED,
            Errno::MFILE,
            Errno::PERM,
            Errno::NETDOWN,
            Errno::NOBUFS,
            Errno::PROTO,
        ];
        let errors = RefCell::new(errors.into_iter());
        let times = RefCell::new(Vec::new());
        let accept = async || {
            times.borrow_mut().push(Instant::now());
            let next = errors.borrow_mut().next();
            match next {
                Some(error) => Err::<(), _>(error.into()),
                None => std::future::pending().await,
            }
        };
        let address = "tcp:127.0.0.1:0".parse().unwrap();
        let taking = each(&address, accept, async |()| {});
        let _ = tokio::time::timeout(10 * BREATHER, taking).await;
        let times = times.into_inner();
        let pauses = times.windows(2).map(|two| two[1] - two[0]);
        let long: Vec<_> = pauses.map(|pause| pause >= BREATHER).collect();
        assert_eq!(long, [false, true, false, false, true, false]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_listener_that_only_fails_does_not_take_all_the_time() {
        let tries = RefCell::new(0);
        let accept = async || {
            *tries.borrow_mut() += 1;
            Err::<(), _>(Errno::INVAL.into())
        };
        let address = "tcp:127.0.0.1:0".parse().unwrap();
        let taking = each(&address, accept, async |()| {});
        let _ = tokio::time::timeout(10 * BREATHER, taking).await;
        let tries = tries.into_inner();
        assert!((FAILURES..FAILURES + 20).contains(&tries), "{tries}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_listener_whose_task_fails_takes_connections_again() {
        let tasks = tokio::task::LocalSet::new();
        let test = async {
            let health = Health::new(Limits::default(), Names::default());
            let services = Services::new(health, Metrics::new("1", 0).restarts());
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("vat.sock");
            let address = Address::Unix(path.clone());
            let listener = Rc::new(
                Listener::bind(&address, Permission::default(), Access::default())
                    .await
                    .unwrap(),
            );
            let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
            let task = services.run("listener", move || {
                let (listener, tell) = (listener.clone(), tell.clone());
                async move {
                    let serve = |_, ()| {
                        tell.send(()).unwrap();
                        panic!("each time");
                    };
                    listener.each(async || Some(()), serve).await;
                }
            });
            for _ in 0..3 {
                let _client = UnixStream::connect(&path).await.unwrap();
                told.recv().await.unwrap();
            }
            task.abort();
        };
        tasks.run_until(test).await;
    }
}
