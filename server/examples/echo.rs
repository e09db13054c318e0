//! A class that says what it hears, over HTTP and WebSockets: what other people's clients, their test
//! suites and the benches are let loose on.
//!
//! ```text
//! cargo run -p vatwerk-server --example echo -- serve
//! curl http://127.0.0.1:7448/Echo/canyon/echo -d hello
//! ```

use std::{cell::Cell, rc::Rc, time::Duration};

use bytes::Bytes;
use capnp::Error;
use futures::stream;
use http::{HeaderName, HeaderValue, StatusCode, header};
use vatwerk::{CODE_GENERATOR_REQUEST, counter_capnp::counter};
use vatwerk_server::{
    Class, Context, Server, cli,
    fetch::{Body, Request, Response},
    object::{SocketClose, SocketMessage, WebSocket},
};

struct Echo {
    ctx: Context,
    /// What the methods count. Only in memory: zero again tells that the object slept.
    count: Cell<i64>,
    /// The bytes that have come of the last body of `/length`, by now.
    came: Cell<usize>,
}

impl Class for Echo {
    const NAME: &'static str = "Echo";
    const SCHEMA: &'static [u8] = CODE_GENERATOR_REQUEST;
    const FETCH: bool = true;
    const WEB_SOCKETS: bool = true;
    type Client = counter::Client;

    async fn activate(ctx: Context) -> capnp::Result<Self> {
        let (count, came) = (Cell::new(0), Cell::new(0));
        Ok(Echo { ctx, count, came })
    }

    async fn fetch(self: Rc<Self>, request: Request) -> capnp::Result<Response> {
        if request.headers().contains_key(header::UPGRADE) {
            return self.accept(&request);
        }
        let path = request.uri().path().to_owned();
        let bytes = path.strip_prefix("/bytes/").map(str::parse);
        Ok(match (path.as_str(), bytes) {
            ("/", _) => Response::new("There is an echo here.\n".into()),
            ("/echo", _) => Response::new(request.into_body()),
            ("/came", _) => Response::new(format!("{}\n", self.came.get()).into()),
            ("/headers", _) => Response::new(lines(&request).into()),
            ("/length", _) => Response::new(self.length(request.into_body()).await?.into()),
            (_, Some(Ok(length))) => Response::new(dots(length)),
            ("/fail", _) => return Err(Error::failed("as it was asked to".into())),
            ("/panic", _) => panic!("as it was asked to"),
            _ => {
                let mut response = Response::new(Body::empty());
                *response.status_mut() = StatusCode::NOT_FOUND;
                response
            }
        })
    }

    async fn web_socket_message(
        self: Rc<Self>,
        socket: WebSocket,
        message: SocketMessage,
    ) -> capnp::Result<()> {
        match socket.tags().next().unwrap_or_default() {
            "/broadcast" => {
                for other in self.ctx.web_sockets(Some("/broadcast")) {
                    // Whoever does not read is to hold up nobody.
                    if other.send(message.clone()).is_err() {
                        other.close(1013, "there is no room for what is said")?;
                    }
                }
            }
            // How many messages it has sent, by its attachment.
            "/count" => {
                let count = socket.attachment::<u64>()?.unwrap_or(0) + 1;
                socket.set_attachment(&count)?;
                socket.send(count.to_string())?;
            }
            "/close" => socket.close(4001, "as it was asked to")?,
            // When the vat last answered in its place, in milliseconds since 1970.
            "/heart" => socket.send(format!("{:?}", socket.auto_response_ms()))?,
            "/patience" => std::future::pending().await,
            "/fail" => return Err(Error::failed("as it was asked to".into())),
            "/panic" => panic!("as it was asked to"),
            _ => socket.send(message)?,
        }
        Ok(())
    }

    async fn web_socket_close(
        self: Rc<Self>,
        _: WebSocket,
        close: SocketClose,
    ) -> capnp::Result<()> {
        let how = if close.was_clean { "clean" } else { "lost" };
        for watcher in self.ctx.web_sockets(Some("/ends")) {
            watcher.send(format!("{how} {} {}", close.code, close.reason))?;
        }
        Ok(())
    }
}

impl Echo {
    /// A WebSocket whose tag is the path it asked for, which says what it is for. It speaks the first
    /// protocol that it asked for.
    fn accept(&self, request: &Request) -> capnp::Result<Response> {
        let path = request.uri().path();
        match path {
            "/heart" => self
                .ctx
                .set_web_socket_auto_response(Some(("ping", "pong")))?,
            "/patience" => self
                .ctx
                .set_web_socket_event_timeout(Some(Duration::from_millis(200)))?,
            _ => {}
        }
        let (_, mut response) = self.ctx.accept_web_socket(request, &[path])?;
        let protocols = request.headers().get(header::SEC_WEBSOCKET_PROTOCOL);
        let first = protocols.and_then(|all| all.to_str().ok()?.split(',').next());
        if let Some(Ok(first)) = first.map(|first| first.trim().parse()) {
            let headers = response.headers_mut();
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, first);
        }
        Ok(response)
    }

    /// How many bytes there are in a body, as text.
    async fn length(&self, mut body: Body) -> capnp::Result<String> {
        self.came.set(0);
        while let Some(bytes) = body.piece().await {
            self.came.set(self.came.get() + bytes?.len());
        }
        Ok(format!("{}\n", self.came.get()))
    }
}

/// The header of a request, a field a line.
fn lines(request: &Request) -> String {
    let line = |(name, value): (&HeaderName, &HeaderValue)| {
        let value = String::from_utf8_lossy(value.as_bytes());
        format!("{name}: {value}\n")
    };
    request.headers().iter().map(line).collect()
}

/// A body of so many bytes, in pieces.
fn dots(length: u64) -> Body {
    static PIECE: [u8; 64 << 10] = [b'.'; 64 << 10];
    let pieces = stream::unfold(length, |left| async move {
        let piece = left.min(PIECE.len() as u64);
        let bytes = Bytes::from_static(&PIECE[..piece as usize]);
        (piece > 0).then_some((Ok(bytes), left - piece))
    });
    Body::stream(pieces, Some(length))
}

impl counter::Server for Echo {
    async fn increment(
        self: Rc<Self>,
        params: counter::IncrementParams,
        mut results: counter::IncrementResults,
    ) -> capnp::Result<()> {
        self.count
            .set(self.count.get() + params.get()?.get_amount());
        results.get().set_count(self.count.get());
        Ok(())
    }

    async fn get(
        self: Rc<Self>,
        _: counter::GetParams,
        mut results: counter::GetResults,
    ) -> capnp::Result<()> {
        results.get().set_count(self.count.get());
        Ok(())
    }

    async fn reset(
        self: Rc<Self>,
        _: counter::ResetParams,
        _: counter::ResetResults,
    ) -> capnp::Result<()> {
        self.count.set(0);
        Ok(())
    }
}

/// Public for the benches, which serve this in a process of their own.
pub fn main() -> std::process::ExitCode {
    cli::run(Server::builder().class::<Echo>())
}
