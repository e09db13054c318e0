//! A class that does what none should: it holds the thread of its vat, or panics, or does not end. See what
//! operators are told.
//!
//! ```text
//! cargo run -p vatwerk-server --example held -- serve --metrics 127.0.0.1:9464
//! cargo run -p vatwerk-server --example held -- call Held x increment '{"amount":15000}'
//! curl http://127.0.0.1:9464/healthz
//! ```
//! A class that has much to compute does it on another thread (`tokio::task::spawn_blocking`), and awaits
//! what comes of it: then everything else goes on.

use std::{process::ExitCode, rc::Rc, thread, time::Duration};

use vatwerk::{CODE_GENERATOR_REQUEST, counter_capnp::counter};
use vatwerk_server::{Class, Context, Server, cli};

struct Held(Context);

impl Class for Held {
    const NAME: &'static str = "Held";
    const SCHEMA: &'static [u8] = CODE_GENERATOR_REQUEST;
    type Client = counter::Client;

    async fn activate(ctx: Context) -> capnp::Result<Self> {
        Ok(Held(ctx))
    }
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
