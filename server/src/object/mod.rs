//! An object's life: from a stub through its mailbox into its code, and out again through its gate.
//!
//! ```text
//!  Stub --> Host --> Slot (queue) --> serve --> Instance::poll_turn --> the class's method
//!                                                      |
//!          caller <-- OutputGate <-- membrane <--------+
//! ```
//! By lifetime: a [`Host`] lives as long as the process, a slot as long as an instance is wanted, an
//! instance from waking to sleeping, a turn as long as a poll.

mod class;
mod context;
mod gate;
mod host;
mod instance;
mod membrane;
mod namespace;
mod results;
mod serve;
mod slot;
mod stub;

pub use class::{Class, ClassEntry, Registry, StartError};
pub use context::Context;
pub use host::{Host, Limits};
pub use namespace::Namespace;
pub use stub::Stub;

pub(crate) use context::Section;
