//! Small classes in whose methods one sees what a vat promises: order, what leaves an object and when, one
//! call at a time, callers that are gone, panics. The tests of the binary use them from other processes.
//!
//! ```text
//! cargo run -p vatwerk-server --example promises -- serve
//! cargo run -p vatwerk-server --example promises -- call Herald town count
//! curl http://127.0.0.1:7448/Herald/town/
//! cargo run -p vatwerk-server --example promises -- call Patient door reach '{"least":3}' &
//! cargo run -p vatwerk-server --example promises -- call Patient door count
//! ```

use std::process::ExitCode;

use vatwerk_server::{Context, Server, cli};

mod brittle;
mod clerk;
mod herald;
mod patient;
mod twin;

capnp::generated_code!(pub mod promises_capnp);

/// The schema of the classes, as `capnp compile -o- promises.capnp` prints it.
const SCHEMA: &[u8] = include_bytes!("promises.cgr");

/// The number of an object. Missing is zero.
fn number(ctx: &Context) -> capnp::Result<u64> {
    Ok(ctx.storage().kv().get("number")?.unwrap_or(0))
}

/// Adds one to the number of an object. It is a write of the turn at hand: whatever the turn says to anybody
/// leaves when it is on disk.
fn count(ctx: &Context) -> capnp::Result<u64> {
    let number = number(ctx)? + 1;
    ctx.storage().kv().put("number", &number)?;
    Ok(number)
}

/// For tests: a vat with a fault of its own, where `VATWERK_FAULT` says: in an object that failed to be made, in
/// the scheduler of alarms, in what it has an object do about them, or in a service, once.
#[cfg(feature = "testing")]
fn faulty(server: Server) -> Server {
    use vatwerk_server::object::testing::Sabotage;

    match std::env::var("VATWERK_FAULT").as_deref() {
        Err(_) => server,
        Ok("discard") => server.sabotage(Sabotage::PanicInDiscard),
        Ok("scheduler") => server.sabotage(Sabotage::PanicInScheduler),
        Ok("look") => server.sabotage(Sabotage::PanicInLook),
        Ok(service) => server.fail_service(service),
    }
}

fn main() -> ExitCode {
    let server = Server::builder()
        .class::<herald::Herald>()
        .class::<brittle::Brittle>()
        .binding(brittle::Armed::default())
        .class::<clerk::Clerk>()
        .class::<patient::Patient>()
        .class::<patient::Thorough>()
        .class::<twin::Twin>()
        .class::<vatwerk_server::classes::Cell>();
    #[cfg(feature = "testing")]
    let server = faulty(server);
    cli::run(server)
}
