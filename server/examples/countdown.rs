//! A class with alarms: a number that counts down to zero by itself, whether or not its object is
//! awake, and whether or not the server was there all the time. One that is below zero aborts the whole
//! server at its next step, which shows how the server gets over that.
//!
//! ```text
//! cargo run -p vatwerk-server --example countdown -- serve
//! cargo run -p vatwerk-server --example countdown -- call Countdown egg increment '{"amount":10}'
//! cargo run -p vatwerk-server --example countdown -- alarms list
//! ```

use std::{process::ExitCode, rc::Rc, time::Duration};

use vatwerk::{CODE_GENERATOR_REQUEST, counter_capnp::counter};
use vatwerk_server::{AlarmInfo, Class, Context, Server, cli};

const STEP: Duration = Duration::from_millis(100);

struct Countdown(Context);

impl Class for Countdown {
    const NAME: &'static str = "Countdown";
    const SCHEMA: &'static [u8] = CODE_GENERATOR_REQUEST;
    const ALARMS: bool = true;
    type Client = counter::Client;

    async fn activate(ctx: Context) -> capnp::Result<Self> {
        Ok(Countdown(ctx))
    }

    async fn alarm(self: Rc<Self>, _: AlarmInfo) -> capnp::Result<()> {
        let left = self.left()?;
        if left < 0 {
            std::process::abort();
        }
        // One commit, with the end of this alarm: each step is counted once.
        self.set(left - 1)
    }
}

impl Countdown {
    fn left(&self) -> capnp::Result<i64> {
        Ok(self.0.storage().kv().get("left")?.unwrap_or(0))
    }

    fn set(&self, left: i64) -> capnp::Result<()> {
        self.0.storage().kv().put("left", &left)?;
        match left {
            0 => _ = self.0.alarms()?.delete()?,
            _ => self.0.alarms()?.set_in(STEP)?,
        }
        Ok(())
    }
}

impl counter::Server for Countdown {
    async fn increment(
        self: Rc<Self>,
        params: counter::IncrementParams,
        mut results: counter::IncrementResults,
    ) -> capnp::Result<()> {
        let left = self.left()?.saturating_add(params.get()?.get_amount());
        self.set(left)?;
        results.get().set_count(left);
        Ok(())
    }

    async fn get(
        self: Rc<Self>,
        _: counter::GetParams,
        mut results: counter::GetResults,
    ) -> capnp::Result<()> {
        results.get().set_count(self.left()?);
        Ok(())
    }

    async fn reset(
        self: Rc<Self>,
        _: counter::ResetParams,
        _: counter::ResetResults,
    ) -> capnp::Result<()> {
        self.set(0)
    }
}

fn main() -> ExitCode {
    cli::run(Server::builder().class::<Countdown>())
}
