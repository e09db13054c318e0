//! An object's life: from a stub through its mailbox into its code, and out again through its gate.
//!
//! ```text
//!  Stub --> Table --> Slot (mailbox) --> serve() --> Instance::poll_turn --> the class's method
//!                                                        |
//!            caller <-- OutputGate <-- membrane <--------+
//! ```
//! Modules by lifetime: [`Host`] and `table` live as long as the process, `slot` as long as an
//! instance is wanted, `instance` as long as an activation, a turn as long as a poll.

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
