//! Sockets and what speaks on them.

pub mod network;
