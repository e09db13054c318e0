//! A class that speaks HTTP.

use std::{rc::Rc, time::Duration};

use bytes::Bytes;
use futures::{StreamExt, stream};
use vatwerk::counter_capnp::counter;
use vatwerk_server::{
    Body, Class, Context, Request, Response, SocketMessage, WebSocket, http::StatusCode,
};

use crate::support::Controls;

/// How large a piece of what it streams is.
pub const PIECE: usize = 64 << 10;

/// Incremented by this, it waits for ever.
pub const FOR_EVER: i64 = 77;

/// The messages that `shout` says to all, in one turn.
pub const SHOUTS: usize = 6;

/// The bytes of each of them.
pub const SHOUT_BYTES: usize = 64 << 10;

pub struct Page {
    ctx: Context,
    controls: Rc<Controls>,
}

impl Class for Page {
    const NAME: &'static str = "Page";
    const SCHEMA: &'static [u8] = vatwerk::CODE_GENERATOR_REQUEST;
    const FETCH: bool = true;
    const WEB_SOCKETS: bool = true;
    type Client = counter::Client;

    async fn activate(ctx: Context) -> capnp::Result<Page> {
        let controls = ctx.binding().expect("every vat under test has them");
        Ok(Page { ctx, controls })
    }

    async fn fetch(self: Rc<Self>, request: Request) -> capnp::Result<Response> {
        match request.uri().path() {
            // Its own SQL fails.
            "/sql" => {
                self.ctx
                    .storage()
                    .sql()
                    .exec("SELECT secret FROM hidden", ())?;
                Ok(Response::default())
            }
            // What it was asked, and the body as it comes.
            "/echo" => {
                let mut seen = format!("{} {}\n", request.method(), request.uri());
                for (name, value) in request.headers() {
                    seen += &format!("{name}: {}\n", value.to_str().unwrap());
                }
                let mut response = Response::new(Body::empty());
                let headers = response.headers_mut();
                headers.insert("x-keep", "1".parse().unwrap());
                headers.insert("connection", "x-drop".parse().unwrap());
                headers.insert("x-drop", "1".parse().unwrap());
                let seen = stream::iter([Ok(Bytes::from(seen))]);
                let body = seen.chain(request.into_body().into_pieces());
                *response.body_mut() = Body::stream(body, None);
                Ok(response)
            }
            // No body, and a length all the same.
            "/nothing" => {
                let mut response = Response::new(Body::empty());
                *response.status_mut() = StatusCode::NO_CONTENT;
                let none = "0".parse().unwrap();
                response.headers_mut().insert("content-length", none);
                Ok(response)
            }
            // For pages of any origin.
            "/shared" => {
                let mut response = Response::new(Body::from("shared"));
                let anybody = "cross-origin".parse().unwrap();
                let headers = response.headers_mut();
                headers.insert("cross-origin-resource-policy", anybody);
                Ok(response)
            }
            "/whole" => Ok(Response::new(Body::from("whole"))),
            // Pieces for ever; `written` is passed with each.
            "/flood" => {
                let controls = self.controls.clone();
                let guard = Dropped(controls.clone(), "flood dropped");
                let pieces = stream::repeat_with(move || {
                    let _ = &guard;
                    controls.arrive("written");
                    Ok(Bytes::from_static(&[b'x'; PIECE]))
                });
                Ok(Response::new(Body::stream(pieces, None)))
            }
            // Reads all, passes `swallowed`, and says how much it was.
            "/swallow" => {
                let _guard = Dropped(self.controls.clone(), "swallow over");
                let mut body = request.into_body();
                let mut length = 0;
                while let Some(piece) = body.piece().await {
                    length += piece?.len();
                }
                self.controls.arrive("swallowed");
                Ok(Response::new(Body::from(length.to_string())))
            }
            "/wait" => {
                let _guard = Dropped(self.controls.clone(), "wait dropped");
                self.controls.wait("wait").await;
                Ok(Response::new(Body::from("waited")))
            }
            // A body that fails when half of it is out.
            "/half" => {
                let half = stream::iter([Ok(Bytes::from_static(b"half"))]);
                let failing = stream::once(async { Err(capnp::Error::failed("no".into())) });
                Ok(Response::new(Body::stream(half.chain(failing), None)))
            }
            "/fails" => Err(capnp::Error::failed("the key is under the mat".into())),
            "/raises" => Err(capnp::Error::failed("out-of-tea: none left".into())),
            "/panics" => panic!("as asked"),
            "/sleeps" => {
                let seconds = request.uri().query().and_then(|it| it.parse().ok());
                let seconds = seconds.expect("how long, in seconds");
                self.ctx.sleep(Duration::from_secs(seconds)).await;
                Ok(Response::new(Body::from("slept")))
            }
            "/socket" => {
                let (_, mut response) = self.ctx.accept_web_socket(&request, &[])?;
                let wanted = request.headers().get("sec-websocket-protocol");
                if let Some(wanted) = wanted.cloned() {
                    response
                        .headers_mut()
                        .insert("sec-websocket-protocol", wanted);
                }
                Ok(response)
            }
            _ => {
                let mut response = Response::new(Body::from("no such page"));
                *response.status_mut() = StatusCode::NOT_FOUND;
                Ok(response)
            }
        }
    }

    async fn web_socket_message(
        self: Rc<Self>,
        socket: WebSocket,
        message: SocketMessage,
    ) -> capnp::Result<()> {
        if message == SocketMessage::from("shout") {
            let shout = "x".repeat(SHOUT_BYTES);
            for _ in 0..SHOUTS {
                for socket in self.ctx.web_sockets(None) {
                    socket.send(&*shout)?;
                }
            }
            return Ok(());
        }
        socket.send(message)?;
        Ok(())
    }
}

struct Dropped(Rc<Controls>, &'static str);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.arrive(self.1);
    }
}

impl counter::Server for Page {
    async fn increment(
        self: Rc<Self>,
        params: counter::IncrementParams,
        mut results: counter::IncrementResults,
    ) -> capnp::Result<()> {
        if params.get()?.get_amount() == FOR_EVER {
            let _call = Dropped(self.controls.clone(), "call dropped");
            self.controls.arrive("call begun");
            std::future::pending::<()>().await;
        }
        let kv = self.ctx.storage().kv();
        let count: i64 = kv.get("count")?.unwrap_or(0) + params.get()?.get_amount();
        kv.put("count", &count)?;
        results.get().set_count(count);
        Ok(())
    }

    async fn get(
        self: Rc<Self>,
        _: counter::GetParams,
        _: counter::GetResults,
    ) -> capnp::Result<()> {
        Err(capnp::Error::failed("the key is under the mat".into()))
    }

    async fn reset(
        self: Rc<Self>,
        _: counter::ResetParams,
        _: counter::ResetResults,
    ) -> capnp::Result<()> {
        Err(capnp::Error::failed("out-of-tea: none left".into()))
    }
}
