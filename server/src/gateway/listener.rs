//! Where connections come in.

use std::{
    fs, io,
    net::{SocketAddr, ToSocketAddrs},
    os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use vatwerk::Address;

/// How long to wait when the operating system has no room for another connection.
const BREATHER: Duration = Duration::from_millis(100);

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

/// Why a vat cannot listen at an address.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Anybody who reaches the port could do everything.
    #[error(
        "{0} is reachable from other machines, and this vat asks nobody who they are; \
         use a loopback address, or say --insecure"
    )]
    Exposed(SocketAddr),
    /// Somebody listens there already.
    #[error("another process is listening at {}", .0.display())]
    Live(PathBuf),
    /// There is a file, and it is no socket.
    #[error("{} is in the way: it is no socket", .0.display())]
    NotASocket(PathBuf),
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
    /// Listens at `address`. A TCP address that other machines can reach is refused unless
    /// `insecure`. A unix socket gets mode 0600; a stale one in its place is replaced, a live one is
    /// not.
    pub async fn bind(address: &Address, insecure: bool) -> Result<Listener, BindError> {
        let io = |source| BindError::Io {
            address: address.clone(),
            source,
        };
        match address {
            Address::Tcp { host, port } => {
                let found = (host.as_str(), *port).to_socket_addrs().map_err(io)?.next();
                let found = found.ok_or_else(|| BindError::NoAddress { host: host.clone() })?;
                if !found.ip().is_loopback() && !insecure {
                    return Err(BindError::Exposed(found));
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
                clear(path).await?;
                let socket = bind_unix(path).map_err(io)?;
                Ok(Listener {
                    socket,
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

    /// Gives every connection to `serve`, for ever, as long as it finds a place in `room`: others wait
    /// in the socket's queue.
    pub(super) async fn each(
        &self,
        room: Arc<Semaphore>,
        serve: impl Fn(Stream, OwnedSemaphorePermit),
    ) {
        loop {
            let stream = self.accept().await;
            let Ok(room) = room.clone().acquire_owned().await else {
                return;
            };
            match stream {
                Ok(stream) => serve(stream, room),
                Err(error) => {
                    tracing::warn!(address = %self.address, %error, "accepting");
                    tokio::time::sleep(BREATHER).await;
                }
            }
        }
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

/// Sees to it that nobody listens at `path`.
async fn clear(path: &Path) -> Result<(), BindError> {
    let Ok(found) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !found.file_type().is_socket() {
        return Err(BindError::NotASocket(path.to_owned()));
    }
    match UnixStream::connect(path).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // Taken, or full: somebody is there.
        Ok(_) => Err(BindError::Live(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            Err(BindError::Live(path.to_owned()))
        }
        Err(source) => Err(BindError::Io {
            address: Address::Unix(path.to_owned()),
            source,
        }),
    }
}

/// Binds in a folder that is nobody else's, and moves the socket into its place when its mode is
/// right: nobody else can connect meanwhile, and a stale socket is replaced in one step.
fn bind_unix(path: &Path) -> io::Result<Socket> {
    let mut private = path.as_os_str().to_owned();
    private.push(format!(".{}", std::process::id()));
    let private = PathBuf::from(private);
    fs::DirBuilder::new().mode(0o700).create(&private)?;
    let bind = || {
        let beside = private.join("socket");
        let socket = UnixListener::bind(&beside)?;
        fs::set_permissions(&beside, fs::Permissions::from_mode(0o600))?;
        let inode = fs::symlink_metadata(&beside)?.ino();
        fs::rename(&beside, path)?;
        Ok(Socket::Unix {
            socket,
            _file: SocketFile {
                path: path.to_owned(),
                inode,
            },
        })
    };
    let bound = bind();
    fs::remove_dir_all(&private)?;
    bound
}

/// Removes the file when the listener goes, unless another listener has taken its place.
struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            // If it is gone already, all the better.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;
    use crate::{
        health::{Health, Limits, Names, Services},
        metrics::Metrics,
    };

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vat.sock");
        let address = Address::Unix(path.clone());
        // The standard library leaves the file behind.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let live = Listener::bind(&address, false).await.unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let second = Listener::bind(&address, false).await;
        assert!(matches!(second, Err(BindError::Live(_))));
        drop(live);
        assert!(!path.exists());
        fs::write(&path, "precious").unwrap();
        let third = Listener::bind(&address, false).await;
        assert!(matches!(third, Err(BindError::NotASocket(_))));
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }

    #[tokio::test]
    async fn a_socket_whose_backlog_is_full_is_live() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vat.sock");
        let socket = tokio::net::UnixSocket::new_stream().unwrap();
        socket.bind(&path).unwrap();
        let _listener = socket.listen(1).unwrap();
        let mut waiting = Vec::new();
        while let Ok(stream) = UnixStream::connect(&path).await {
            waiting.push(stream);
        }
        let refused = Listener::bind(&Address::Unix(path), false).await;
        assert!(matches!(refused, Err(BindError::Live(_))));
    }

    /// A connection that a listener with this stall limit has taken, and its peer's end.
    async fn taken(stall: Duration) -> (TcpStream, TcpStream) {
        let address = "tcp:127.0.0.1:0".parse().unwrap();
        let listener = Listener::bind(&address, false).await.unwrap();
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
            Listener::bind(&address, false).await,
            Err(BindError::Exposed(_))
        ));
        assert!(Listener::bind(&address, true).await.is_ok());
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
            let listener = Rc::new(Listener::bind(&address, false).await.unwrap());
            let room = Arc::new(Semaphore::new(1));
            let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
            let task = services.run("listener", move || {
                let (listener, room, tell) = (listener.clone(), room.clone(), tell.clone());
                async move {
                    let serve = |_, _| {
                        tell.send(()).unwrap();
                        panic!("each time");
                    };
                    listener.each(room, serve).await;
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
