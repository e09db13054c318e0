//! A vat: hosts durable objects and hands them out as Cap'n Proto capabilities.
//!
//! The modules, in the order a call meets them, are drawn in `ARCHITECTURE.md` beside this crate.

// `syncfs`, `fallocate`, and that a failed sync is told to all who have the file open.
#[cfg(not(target_os = "linux"))]
compile_error!("the server of Vatwerk runs on Linux only");

mod account;
pub mod alarm;
pub mod call;
pub mod catalog;
pub mod check;
pub mod classes;
pub mod cli;
pub mod config;
pub mod env;
pub mod error;
pub mod fault;
pub mod fetch;
pub mod folder;
pub mod gateway;
pub mod health;
pub mod id;
pub mod journal;
pub mod metrics;
pub mod object;
mod panics;
pub mod server;
pub mod storage;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod vat;

pub use alarm::{Alarm, AlarmInfo, Missed, Repeat};
pub use config::Config;
pub use error::{Error, Result, StatementLimit};
pub use fetch::{Body, Request, Response};
pub use gateway::http::GatewayRequest;
/// The crate that [`Request`] and [`Response`] are of.
pub use http;
pub use object::{Alarms, Class, Context, Namespace, SocketClose, SocketMessage, WebSocket};
pub use server::{Running, ServeError, Server};
