//! Objects over HTTP, for browsers and curl.
//!
//! ```text
//! ANY  /{Class}/{name}/rest?query       the object's `fetch`, which sees `/rest?query`
//! POST /{Class}/{name}/call/{method}    a method of its class: a JSON object in, a JSON object out
//! ```
//! Where the settings have a domain for objects, `place`, both are also at `{name}.{class}.DOMAIN`, without what
//! comes before `rest` and `call`. `{name}` is percent-encoded UTF-8; without a slash behind it, it is a redirection to the one with it.
//! The JSON is that of [`vatwerk::json`], and of `vatwerk call`. How it is told what went wrong is in
//! `problem`, whose pages may ask in `origin`, and how the program that runs the vat has a say in `hook`.
//!
//! All objects below one host share one web origin: a page of one may do in a browser what those of the others
//! may. Hosts of their own keep them apart.
//!
//! Beside what the client sends, an object sees `x-forwarded-prefix: /{Class}/{name}`, where it is;
//! `x-forwarded-for`, the client's address; `x-forwarded-host` and `x-forwarded-proto`. Where a proxy that
//! is trusted has said them (`proxy`), the first two are joined to what it said. An object sees no fields that speak of the connection, and cookies in one field.
//!
//! ```text
//! Listener ─► Connection (hyper: HTTP/1.1 and 2) ─► Route ─► forward ─► fetch::ask ─► the object
//!                                                       └──► call ──► Schemas::call ─► the object
//!             conversation (a WebSocket) ◄── hyper lets go of the connection ── 101
//! ```
//! Bodies are streams in both directions, and nobody sends faster than the other end takes. A client
//! that goes away, or does not go on for [`Limits::stall`], gives the exchange up: over HTTP/2 that stream is
//! reset and the others go on, over HTTP/1 the connection ends. An answer that fails
//! after its head has left is cut off, so that nobody takes it for whole. A client that is refused while
//! it still sends has a moment to hear so before the connection ends.

mod body;
mod call;
mod connection;
mod conversation;
mod failure;
mod forward;
mod hook;
mod origin;
mod patient;
mod place;
mod problem;
mod proxy;
mod route;
mod socket;

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, HashSet},
    future::Future,
    net::IpAddr,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use futures::future;
use hyper_util::{
    rt::TokioTimer,
    server::conn::auto::{self, Builder},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{Notify, Semaphore},
    task::AbortHandle,
};
use vatwerk::json::Schemas;

use super::{
    Hosts, Room,
    listener::{Listener, Stream},
    pace::Pace,
    room::Place,
};
use crate::{
    account::Account,
    object::{ClassEntry, Directory},
};
use connection::Connection;

pub use conversation::SocketLimits;
pub use hook::{GatewayRequest, Hook, Passing};
pub use origin::Origins;
pub use place::ObjectHosts;
use problem::Problem;
pub use proxy::{Network, NoNetwork};

/// The longest URL, in bytes.
const URL_BYTES: usize = 8 << 10;

/// How much of HTTP/2 that a client takes back at once is looked at before the connection ends.
const RESET_STREAMS: usize = 64;

/// What listening for HTTP is told.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The names by which the vat goes at TCP addresses.
    pub hosts: Hosts,
    /// The domain below which objects have hosts of their own.
    pub objects: Option<ObjectHosts>,
    /// The pages of others that may ask.
    pub origins: Origins,
    /// The proxies that say who asks.
    pub proxies: Vec<Network>,
    /// The classes that nobody reaches, by their names.
    pub hidden: HashSet<String>,
    /// How much may be used.
    pub limits: Limits,
    /// What one WebSocket may cost.
    pub socket: SocketLimits,
}

/// How much HTTP may use.
#[derive(Clone, Debug)]
pub struct Limits {
    /// How many requests may be under way, each until its answer is whole.
    pub requests: usize,
    /// How many of them on one connection of HTTP/2.
    pub streams: u32,
    /// The longest head of a request, in bytes.
    pub head_bytes: usize,
    /// The most fields in it.
    pub head_fields: usize,
    /// The longest body of a request to an object's own page, if there is a limit.
    pub body_bytes: Option<u64>,
    /// The longest JSON of a call, in bytes. The thread of the vat reads it up to 256 KiB, and another what is longer.
    pub json_bytes: usize,
    /// The longest JSON of a call's results, in bytes.
    pub answer_bytes: usize,
    /// How much may be held of JSON that comes and of answers that have not left, in bytes.
    pub held_bytes: usize,
    /// How long the gateway of the program may take for a request.
    pub gateway: Duration,
    /// How long a connection may be without a request: until the head of the next is whole.
    pub idle: Duration,
    /// How long a body may not go on because of the client.
    pub stall: Duration,
    /// The least bytes a second of a body, or of an answer's, that the client has to send or take. 0 for any.
    pub least_bytes_per_s: u64,
    /// How long a client may be waited for in all, for one body. Zero: no limit.
    pub body: Duration,
}

impl Limits {
    /// The pace at which a client has to go on with a body.
    fn pace(&self) -> Pace {
        Pace {
            patience: self.stall,
            least_bytes_per_s: self.least_bytes_per_s,
            most: match self.body {
                Duration::ZERO => Duration::MAX,
                most => most,
            },
        }
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            requests: 4096,
            streams: 128,
            head_bytes: 32 << 10,
            head_fields: 100,
            body_bytes: None,
            json_bytes: 256 << 10,
            answer_bytes: 4 << 20,
            held_bytes: 64 << 20,
            gateway: Duration::from_secs(10),
            idle: Duration::from_secs(75),
            stall: Duration::from_secs(30),
            least_bytes_per_s: 256,
            body: Duration::ZERO,
        }
    }
}

/// Runs what `hyper` has to do beside, which is each stream of HTTP/2, on the thread of the vat.
#[derive(Clone, Copy)]
struct Local;

tokio::task_local! {
    /// Ends the task of a stream of HTTP/2, which resets the stream.
    static STREAM: future::AbortHandle;
}

impl<F: Future<Output: 'static> + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, task: F) {
        let (abort, registration) = future::AbortHandle::new_pair();
        let task = future::Abortable::new(task, registration);
        tokio::task::spawn_local(STREAM.scope(abort, task));
    }
}

/// Where a connection comes from, and where it came in.
#[derive(Clone, Copy, Debug, Default)]
struct Ends {
    /// The other end's address, if it has one.
    peer: Option<IpAddr>,
    /// Whether it came in at a TCP address, so that browsers may be at the other end.
    is_tcp: bool,
    /// Whether the other end is a proxy that says the truth.
    is_trusted: bool,
}

/// A connection that is open. It is none any more when this is dropped, however its task ends.
struct Open(Rc<Http>, u64);

impl Drop for Open {
    fn drop(&mut self) {
        // What is dropped with it may look at the others.
        let entry = self.0.open.borrow_mut().remove(&self.1);
        drop(entry);
        self.0.less.notify_waiters();
    }
}

/// The HTTP connections of a vat.
pub struct Http {
    directory: Directory,
    schemas: Arc<Schemas>,
    /// Places for calls whose JSON is read on another thread.
    readers: Arc<Semaphore>,
    settings: Settings,
    hook: Option<Hook>,
    hyper: Builder<Local>,
    room: Room,
    next: Cell<u64>,
    open: RefCell<HashMap<u64, (Rc<Connection>, AbortHandle)>>,
    sockets: RefCell<HashMap<u64, AbortHandle>>,
    requests: Cell<usize>,
    held: Account,
    draining: Cell<bool>,
    less: Notify,
}

impl Http {
    /// The objects of `directory`, as `schemas` describe them. `room` is for connections, WebSockets among
    /// them; `hook` sees each request first.
    pub fn new(
        directory: Directory,
        schemas: Schemas,
        room: Room,
        settings: Settings,
        hook: Option<Hook>,
    ) -> Rc<Http> {
        let limits = &settings.limits;
        let mut hyper = auto::Builder::new(Local);
        hyper
            .http1()
            // `Connection` sees to it.
            .header_read_timeout(None)
            .max_headers(limits.head_fields)
            .max_buf_size(limits.head_bytes);
        hyper
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(limits.streams)
            .max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX))
            .max_pending_accept_reset_streams(RESET_STREAMS)
            .max_local_error_reset_streams(RESET_STREAMS)
            .initial_stream_window_size(256 << 10)
            .initial_connection_window_size(1 << 20)
            .max_send_buf_size(64 << 10)
            .keep_alive_interval(limits.stall)
            .keep_alive_timeout(limits.stall);
        Rc::new(Http {
            directory,
            schemas: Arc::new(schemas),
            readers: Arc::new(Semaphore::new(call::READERS)),
            room,
            hyper,
            settings,
            hook,
            next: Cell::default(),
            open: RefCell::default(),
            sockets: RefCell::default(),
            requests: Cell::default(),
            held: Account::default(),
            draining: Cell::default(),
            less: Notify::new(),
        })
    }

    /// Takes connections from `listener`, for ever.
    pub async fn accept(self: Rc<Self>, listener: Rc<Listener>) {
        let serve = |stream, room: Place| match stream {
            Stream::Tcp(stream) => {
                let peer = stream.peer_addr().ok().map(|at| at.ip().to_canonical());
                let known = |ip| self.settings.proxies.iter().any(|it| it.contains(ip));
                let ends = Ends {
                    peer,
                    is_tcp: true,
                    is_trusted: peer.is_some_and(known),
                };
                self.serve(stream, ends, room);
            }
            Stream::Unix(stream) => {
                let ends = Ends {
                    is_trusted: true,
                    ..Ends::default()
                };
                self.serve(stream, ends, room);
            }
        };
        listener.each(async || self.room.take(), serve).await;
    }

    /// Serves one connection; whatever happens there ends only that.
    fn serve<S>(self: &Rc<Self>, stream: S, ends: Ends, room: Place)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let number = self.number();
        let connection = Rc::new(Connection::new(self.clone(), ends, room));
        let serving = tokio::task::spawn_local({
            let (open, connection) = (Open(self.clone(), number), connection.clone());
            async move {
                connection.serve(stream).await;
                drop(open);
            }
        });
        let entry = (connection, serving.abort_handle());
        self.open.borrow_mut().insert(number, entry);
    }

    fn number(&self) -> u64 {
        self.next.replace(self.next.get() + 1)
    }

    /// The class that everybody reaches by this name.
    fn class(&self, name: &str) -> Result<Rc<ClassEntry>, Problem> {
        let class = self.directory.class_by_name(name).ok();
        let open =
            |class: &Rc<ClassEntry>| class.on_gateway && !self.settings.hidden.contains(class.name);
        let hidden = || Problem::NoSuchClass(name.to_owned());
        class.filter(open).ok_or_else(hidden)
    }

    /// The class that everybody reaches by this name in small letters.
    fn class_by_label(&self, label: &str) -> Option<Rc<ClassEntry>> {
        let class = self.directory.class_by_label(label)?;
        self.class(class.name).ok()
    }

    /// How many connections are open, but for WebSockets.
    pub fn connections(&self) -> usize {
        self.open.borrow().len()
    }

    /// How many connections were refused, because as many were open as may be.
    pub fn connections_refused(&self) -> u64 {
        self.room.refused()
    }

    /// How many requests are under way.
    pub fn requests(&self) -> usize {
        self.requests.get()
    }

    /// How many bytes are held of JSON that comes and of answers that have not left.
    pub fn held_bytes(&self) -> usize {
        self.held.sum()
    }

    /// How many WebSockets are open.
    pub fn sockets(&self) -> usize {
        self.sockets.borrow().len()
    }

    /// Answers every further request `shutting-down`, and waits until those under way are answered.
    pub async fn finish_requests(&self) {
        self.draining.set(true);
        let open: Vec<_> = self.open.borrow().values().cloned().collect();
        open.iter().for_each(|(connection, _)| connection.finish());
        self.until(|| self.requests() == 0).await;
    }

    /// Ends every connection, those that have not ended within `limit` without a word. To WebSockets the
    /// objects have said their last word.
    pub async fn close(&self, limit: Duration) {
        let ended = self.until(|| self.connections() + self.sockets() == 0);
        // Whoever does not read does not hold up the end.
        let _ = tokio::time::timeout(limit, ended).await;
        let open = std::mem::take(&mut *self.open.borrow_mut());
        open.values().for_each(|(_, serving)| serving.abort());
        let sockets = std::mem::take(&mut *self.sockets.borrow_mut());
        sockets.values().for_each(AbortHandle::abort);
    }

    async fn until(&self, reached: impl Fn() -> bool) {
        loop {
            let less = self.less.notified();
            if reached() {
                return;
            }
            less.await;
        }
    }
}
