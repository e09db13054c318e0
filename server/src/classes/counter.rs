//! A number that survives everything.

use std::rc::Rc;

use vatwerk::counter_capnp::counter;

use crate::{Class, Context, Error};

const COUNT: &str = "count";

/// The class `Counter`, of `schema/vatwerk/counter.capnp`.
pub struct Counter(Context);

impl Class for Counter {
    const NAME: &'static str = "Counter";
    const SCHEMA: &'static [u8] = vatwerk::CODE_GENERATOR_REQUEST;
    type Client = counter::Client;

    async fn activate(ctx: Context) -> capnp::Result<Self> {
        Ok(Counter(ctx))
    }
}

impl Counter {
    fn count(&self) -> crate::Result<i64> {
        Ok(self.0.storage().kv().get(COUNT)?.unwrap_or(0))
    }
}

impl counter::Server for Counter {
    async fn increment(
        self: Rc<Self>,
        params: counter::IncrementParams,
        mut results: counter::IncrementResults,
    ) -> capnp::Result<()> {
        let (count, amount) = (self.count()?, params.get()?.get_amount());
        let sum = count.checked_add(amount).ok_or_else(|| {
            Error::InvalidArgument(format!("{count} + {amount} does not fit in 64 bits"))
        })?;
        self.0.storage().kv().put(COUNT, &sum)?;
        results.get().set_count(sum);
        Ok(())
    }

    async fn get(
        self: Rc<Self>,
        _: counter::GetParams,
        mut results: counter::GetResults,
    ) -> capnp::Result<()> {
        results.get().set_count(self.count()?);
        Ok(())
    }

    async fn reset(
        self: Rc<Self>,
        _: counter::ResetParams,
        _: counter::ResetResults,
    ) -> capnp::Result<()> {
        self.0.storage().kv().delete(COUNT)?;
        Ok(())
    }
}
