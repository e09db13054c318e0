//! Calls inside one process: messages that own their capabilities, replies, and hooks of our own
//! for capabilities that live here.
//!
//! The local capabilities of `capnp-rpc` start a call when its promise is first polled, so two calls
//! may run in another order than they were made, or not at all. Here a call is delivered, in order,
//! before `send` returns ([`Target::deliver`]), whether or not anybody waits for it.

mod chain;
mod coded;
mod hang_up;
mod hook;
mod message;
mod pins;
mod pipeline;
mod promised;
mod reply;
#[cfg(test)]
mod testing;

pub use chain::{Chain, Chains};
pub use coded::serve;
pub use hang_up::{Caller, HangUp};
pub use hook::{Capability, Hook, Target};
pub use message::{Caps, Message, Results, ResultsCell, SharedResponse, has_caps, settled};
pub use pins::{Pin, Pins};
pub use pipeline::{PipelineResolver, deferred};
pub use promised::{Resolver, promised};
pub use reply::{Call, Reply};
