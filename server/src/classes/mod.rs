//! The classes that come with the binary.

mod cell;
mod counter;
mod sql;
mod transaction;

pub use cell::Cell;
pub use counter::Counter;
