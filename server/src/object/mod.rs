//! An object's life: from a stub through its mailbox into its code, and out again through its gate.
//!
//! ```text
//!  Stub --> Host --> Slot (queue) --> serve --> Instance::poll_turn --> the class's method
//!                                                      |
//!          caller <-- OutputGate <-- membrane <--------+
//! ```
//! By lifetime: a [`Host`] lives as long as the process, a slot as long as an instance is wanted, an
//! instance from waking to sleeping, a turn as long as a poll.

/// Whether a test wants the host to be wrong in this way.
#[cfg(any(test, feature = "testing"))]
macro_rules! sabotaged {
    ($host:expr, $how:ident) => {
        $host.is_sabotaged($crate::object::testing::Sabotage::$how)
    };
}
#[cfg(not(any(test, feature = "testing")))]
macro_rules! sabotaged {
    ($host:expr, $how:ident) => {
        false
    };
}

mod alarms;
mod awake;
mod class;
mod context;
mod deletion;
mod directory;
mod event;
mod facet;
mod fetching;
mod flow;
mod gate;
mod host;
mod instance;
mod life;
mod limits;
mod membrane;
mod namespace;
mod notes;
mod outgoing;
mod resident;
mod results;
mod ringing;
mod runs;
mod scheduler;
mod sections;
mod serial;
mod serve;
mod slot;
mod sockets;
mod stub;
mod suspects;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod troubles;
mod wake;
mod waking;
mod work;

pub use alarms::Alarms;
pub use class::{Class, ClassEntry, Registry, StartError};
pub use context::Context;
pub use directory::{Directory, Seen};
pub use gate::Way;
pub use host::{Host, Parts};
pub use limits::Limits;
pub use namespace::Namespace;
pub use slot::{State, Status};
pub use sockets::{SocketClose, SocketMessage, WebSocket};
pub use stub::Stub;

pub(crate) use awake::KeepAwake;
pub(crate) use sections::Section;
