//! A class whose objects cannot come into being: each asks its twin first, which asks it.

use std::rc::Rc;

use vatwerk::{CODE_GENERATOR_REQUEST, counter_capnp::counter};
use vatwerk_server::{Class, Context};

pub struct Twin(Context);

impl Class for Twin {
    const NAME: &'static str = "Twin";
    const SCHEMA: &'static [u8] = CODE_GENERATOR_REQUEST;
    type Client = counter::Client;

    /// The twin of `left` is `right`, and that of any other `left`.
    async fn create(ctx: &Context) -> capnp::Result<()> {
        let twin = match ctx.name().as_deref() {
            Some("left") => "right",
            _ => "left",
        };
        let twin = ctx.namespace::<counter::Client>()?.get(twin)?;
        twin.get_request().send().promise.await?;
        Ok(())
    }

    async fn activate(ctx: Context) -> capnp::Result<Self> {
        Ok(Twin(ctx))
    }
}

impl counter::Server for Twin {
    async fn increment(
        self: Rc<Self>,
        params: counter::IncrementParams,
        mut results: counter::IncrementResults,
    ) -> capnp::Result<()> {
        let kv = self.0.storage().kv();
        let count = kv.get("count")?.unwrap_or(0) + params.get()?.get_amount();
        kv.put("count", &count)?;
        results.get().set_count(count);
        Ok(())
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

    async fn reset(
        self: Rc<Self>,
        _: counter::ResetParams,
        _: counter::ResetResults,
    ) -> capnp::Result<()> {
        self.0.storage().kv().put("count", &0)?;
        Ok(())
    }
}
