//! Client for Vatwerk: durable objects, called by name from any Rust program.
//!
//! ```no_run
//! use vatwerk::counter_capnp::counter;
//! use vatwerk_client::Client;
//!
//! # async fn example() -> vatwerk_client::Result<()> {
//! let client = Client::connect("unix:./data/vat.sock").await?;
//! let counters = client.namespace::<counter::Client>();
//! let visits = counters.get("front-page");
//! let count = visits
//!     .call(async |counter| {
//!         let mut request = counter.increment_request();
//!         request.get().set_amount(1);
//!         Ok(request.send().promise.await?.get()?.get_count())
//!     })
//!     .await?;
//! # Ok(()) }
//! ```
//!
//! [`Client`], [`Namespace`] and [`Stub`] may be used from any thread and any executor. Getting a
//! namespace or a stub costs nothing and cannot fail; the first call asks for all of them in one
//! round trip. `counter::Client` is generated from the class's schema, and lives on the client's
//! thread: the closure is run there.
//!
//! **Stubs last.** When the connection is gone, the next call makes a new one and goes through; it
//! fails only when the vat cannot be reached within the connect timeout. Nothing is repeated behind
//! your back: a call that was under way fails with [`Code::Disconnected`](vatwerk::Code) and may or
//! may not have run.
//!
//! **Order.** Calls made on one stub arrive in the order they were made, awaited or not, also those
//! that wait for a connection.
//!
//! **Waits end.** A call on a stub that is not answered within the call timeout fails with `disconnected`,
//! and so do all calls when the vat's machine, or the network to it, has been gone for about a minute.
//! Calls above the limit of calls in flight wait for those before them. [`Builder`] sets both.
//!
//! Programs that live on one thread use [`LocalClient`], which hands out the generated clients
//! themselves:
//!
//! ```no_run
//! # use vatwerk::counter_capnp::counter;
//! # async fn example() -> vatwerk_client::Result<()> {
//! let client = vatwerk_client::LocalClient::connect("tcp:127.0.0.1:7447").await?;
//! let counter: counter::Client = client.namespace().get("front-page");
//! let count = counter.get_request().send().promise.await?.get()?.get_count();
//! # Ok(()) }
//! ```

mod client;
mod connection;
mod error;
mod foreign;
mod gate;
mod handles;
mod hook;
mod link;
mod local;
mod object;
mod path;
mod request;
mod wire;
mod worker;

pub use client::{Builder, ClassInfo, Client, Description, ServerInfo};
pub use connection::Credential;
pub use error::{Error, Result};
pub use handles::{Namespace, Stub};
pub use local::{LocalClient, LocalNamespace};
pub use object::{AlarmPage, Identity, ObjectInfo, ObjectKey, ObjectStatus, Page, PendingAlarm};
pub use vatwerk::{Address, InvalidAddress, object_capnp::ObjectState};
pub use worker::Call;
