//! A class that does what none should: it holds the thread of its vat, or panics, or fails, or does not end.
//! See what operators are told.
//!
//! ```text
//! cargo run -p vatwerk-server --example held -- serve --metrics 127.0.0.1:9464
//! cargo run -p vatwerk-server --example held -- call Held x increment '{"amount":15000}'
//! curl http://127.0.0.1:9464/healthz
//! ```
//! A class that has much to compute does it on another thread (`tokio::task::spawn_blocking`), and awaits
//! what comes of it: then everything else goes on.

use std::{future::pending, process::ExitCode, rc::Rc, thread, time::Duration};

use bytes::Bytes;
use capnp::Error;
use futures::{FutureExt, StreamExt, stream};
use vatwerk::{CODE_GENERATOR_REQUEST, counter_capnp::counter};
use vatwerk_server::{
    Class, Context, Server, cli,
    fetch::{Body, Request, Response},
};

struct Held(Context);

impl Class for Held {
    const NAME: &'static str = "Held";
    const SCHEMA: &'static [u8] = CODE_GENERATOR_REQUEST;
    const FETCH: bool = true;
    const WEB_SOCKETS: bool = true;
    type Client = counter::Client;

    /// Fails for objects named `unwilling`.
    async fn activate(ctx: Context) -> capnp::Result<Self> {
        match ctx.name() {
            Some(name) if &*name == "unwilling" => Err(Error::failed("it does not want to".into())),
            _ => Ok(Held(ctx)),
        }
    }

    async fn fetch(self: Rc<Self>, request: Request) -> capnp::Result<Response> {
        match request.uri().path() {
            "/socket" => Ok(self.0.accept_web_socket(&request, &[])?.1),
            // Says something at once, and nothing more until the vat stops.
            "/until-the-end" => {
                let ctx = self.0.clone();
                let last = async move {
                    ctx.vat_stops().await;
                    Ok(Bytes::from_static(b"data: the end\n\n"))
                };
                let first = stream::iter([Ok(Bytes::from_static(b"data: ready\n\n"))]);
                let events = first.chain(last.into_stream());
                Ok(Response::new(Body::stream(events, None)))
            }
            "/for-ever" => {
                let first = stream::iter([Ok(Bytes::from_static(b"data: ready\n\n"))]);
                let events = first.chain(stream::pending());
                Ok(Response::new(Body::stream(events, None)))
            }
            "/half" => {
                let half = stream::iter([Ok(Bytes::from_static(b"half")), Err(failure())]);
                Ok(Response::new(Body::stream(half, None)))
            }
            "/wait" => pending().await,
            _ => Err(failure()),
        }
    }
}

fn failure() -> Error {
    Error::failed("the well is dry".into())
}

impl counter::Server for Held {
    /// Holds the thread for `amount` milliseconds, in one turn, and counts them. Panics if `amount` is
    /// negative.
    async fn increment(
        self: Rc<Self>,
        params: counter::IncrementParams,
        mut results: counter::IncrementResults,
    ) -> capnp::Result<()> {
        let amount = params.get()?.get_amount();
        let ms = amount.try_into().expect("nobody waits for a negative time");
        thread::sleep(Duration::from_millis(ms));
        let kv = self.0.storage().kv();
        let count = kv.get("count")?.unwrap_or(0) + amount;
        kv.put("count", &count)?;
        results.get().set_count(count);
        Ok(())
    }

    /// Has another thread work for an hour, and waits for it.
    async fn reset(
        self: Rc<Self>,
        _: counter::ResetParams,
        _: counter::ResetResults,
    ) -> capnp::Result<()> {
        let work = || thread::sleep(Duration::from_secs(3600));
        let done = tokio::task::spawn_blocking(work).await;
        done.map_err(|error| capnp::Error::failed(error.to_string()))
    }

    async fn get(
        self: Rc<Self>,
        _: counter::GetParams,
        mut results: counter::GetResults,
    ) -> capnp::Result<()> {
        let count = self.0.storage().kv().get("count")?.unwrap_or(0);
        results.get().set_count(count);
        Ok(())
    }
}

fn main() -> ExitCode {
    cli::run(Server::builder().class::<Held>())
}
