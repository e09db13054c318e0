//! The classes that come with the binary.

mod cell;
mod chat_room;
mod counter;
mod sql;
mod transaction;

pub use cell::Cell;
pub use chat_room::ChatRoom;
pub use counter::Counter;
