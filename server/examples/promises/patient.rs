//! Classes whose calls wait for an event, and what becomes of the wait when the caller leaves.

use std::{pin::pin, rc::Rc, time::Duration};

use futures::future::{Either, select};
use tokio::sync::Notify;
use vatwerk_server::{Class, Context};

use crate::{
    count, number,
    promises_capnp::{patient, thorough},
};

/// A number that one may wait for.
struct Awaited {
    ctx: Context,
    counted: Notify,
}

impl Awaited {
    fn new(ctx: Context) -> Awaited {
        let counted = Notify::new();
        Awaited { ctx, counted }
    }

    fn count(&self) -> capnp::Result<u64> {
        self.counted.notify_waiters();
        count(&self.ctx)
    }

    async fn reach(&self, least: u64) -> capnp::Result<u64> {
        loop {
            let counted = self.counted.notified();
            match number(&self.ctx)? {
                number if number >= least => return Ok(number),
                _ => counted.await,
            }
        }
    }
}

/// Waits end with their callers: nothing to do for it.
pub struct Patient(Awaited);

impl Class for Patient {
    const NAME: &'static str = "Patient";
    const SCHEMA: &'static [u8] = crate::SCHEMA;
    type Client = patient::Client;

    async fn activate(ctx: Context) -> capnp::Result<Self> {
        Ok(Patient(Awaited::new(ctx)))
    }
}

impl patient::Server for Patient {
    async fn count(
        self: Rc<Self>,
        _: patient::CountParams,
        mut results: patient::CountResults,
    ) -> capnp::Result<()> {
        results.get().set_number(self.0.count()?);
        Ok(())
    }

    async fn reach(
        self: Rc<Self>,
        params: patient::ReachParams,
        mut results: patient::ReachResults,
    ) -> capnp::Result<()> {
        let number = self.0.reach(params.get()?.get_least()).await?;
        results.get().set_number(number);
        Ok(())
    }
}

/// Waits go on when their callers are gone, for as long as they take.
pub struct Thorough(Awaited);

impl Class for Thorough {
    const NAME: &'static str = "Thorough";
    const SCHEMA: &'static [u8] = crate::SCHEMA;
    const FINISH_CALLS: bool = true;
    const CALL_LIMIT: Option<Duration> = Some(Duration::ZERO);
    type Client = thorough::Client;

    async fn activate(ctx: Context) -> capnp::Result<Self> {
        Ok(Thorough(Awaited::new(ctx)))
    }
}

impl Thorough {
    fn recorded(&self, what: &str) -> capnp::Result<u64> {
        Ok(self.0.ctx.storage().kv().get(what)?.unwrap_or(0))
    }

    fn record(&self, what: &str) -> capnp::Result<()> {
        let times = self.recorded(what)? + 1;
        Ok(self.0.ctx.storage().kv().put(what, &times)?)
    }
}

impl thorough::Server for Thorough {
    async fn count(
        self: Rc<Self>,
        _: thorough::CountParams,
        mut results: thorough::CountResults,
    ) -> capnp::Result<()> {
        results.get().set_number(self.0.count()?);
        Ok(())
    }

    async fn reach(
        self: Rc<Self>,
        params: thorough::ReachParams,
        mut results: thorough::ReachResults,
    ) -> capnp::Result<()> {
        let reached = pin!(self.0.reach(params.get()?.get_least()));
        let gone = pin!(self.0.ctx.caller_gone());
        let number = match select(reached, gone).await {
            Either::Left((number, _)) => number?,
            Either::Right(((), reached)) => {
                Thorough::record(&self, "left")?;
                reached.await?
            }
        };
        Thorough::record(&self, "reached")?;
        results.get().set_number(number);
        Ok(())
    }

    async fn record(
        self: Rc<Self>,
        _: thorough::RecordParams,
        mut results: thorough::RecordResults,
    ) -> capnp::Result<()> {
        results.get().set_left(self.recorded("left")?);
        results.get().set_reached(self.recorded("reached")?);
        Ok(())
    }
}
