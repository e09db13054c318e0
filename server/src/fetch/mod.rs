//! HTTP and WebSockets as objects speak them, in Rust and, by `schema/vatwerk/http.capnp`, on the wire.
//!
//! ```text
//!  who asks                                          the object's side
//!  ask ── Stub.fetch(head, Exchange) ──────────────► Class::fetch
//!      ── ByteSink.write ──────────────────────────► the request's Body
//!  Response ◄─────────── Exchange.respond(head) ──── Response
//!      Body ◄───────────────── ByteSink.write ────── its Body
//! ```
//! The asker may be the HTTP listener, an object, or a client, in any language.
//!
//! A class that has a page, and passes on to everybody what anybody says on a WebSocket:
//!
//! ```
//! use std::rc::Rc;
//!
//! use vatwerk::{CODE_GENERATOR_REQUEST, counter_capnp::counter};
//! use vatwerk_server::{
//!     Class, Context, Request, Response, SocketMessage, WebSocket, fetch::is_web_socket,
//! };
//!
//! struct Line(Context);
//!
//! impl counter::Server for Line {}
//!
//! impl Class for Line {
//!     const NAME: &'static str = "Line";
//!     const SCHEMA: &'static [u8] = CODE_GENERATOR_REQUEST;
//!     const FETCH: bool = true;
//!     const WEB_SOCKETS: bool = true;
//!     type Client = counter::Client;
//!
//!     async fn activate(ctx: Context) -> capnp::Result<Self> {
//!         Ok(Line(ctx))
//!     }
//!
//!     async fn fetch(self: Rc<Self>, request: Request) -> capnp::Result<Response> {
//!         if !is_web_socket(request.headers()) {
//!             return Ok(Response::new("Come with a WebSocket.\n".into()));
//!         }
//!         let (_, response) = self.0.accept_web_socket(&request, &["everybody"])?;
//!         Ok(response)
//!     }
//!
//!     async fn web_socket_message(
//!         self: Rc<Self>,
//!         _: WebSocket,
//!         message: SocketMessage,
//!     ) -> capnp::Result<()> {
//!         for socket in self.0.web_sockets(Some("everybody")) {
//!             // Who is leaving need not hear it.
//!             let _ = socket.send(message.clone());
//!         }
//!         Ok(())
//!     }
//! }
//! ```

mod ask;
mod body;
mod frames;
mod head;
pub mod kj;
mod sink;

pub(crate) use ask::ask_within;
pub use ask::{ClientSocket, ask};
pub use body::Body;
pub(crate) use frames::check_close;
pub use frames::{Frame, Frames, MAX_REASON_BYTES, Received, frames, send_frame};
pub use head::{
    drop_hop_by_hop, is_web_socket, read_length, read_request, write_headers, write_response,
};
pub(crate) use sink::sink_within;
pub use sink::{Incoming, Shown, pour, sink};

/// The ordinal of `Stub.fetch`.
pub const FETCH: u16 = 2;

/// A request to an object.
pub type Request<B = Body> = http::Request<B>;

/// An object's answer.
pub type Response<B = Body> = http::Response<B>;

/// The room that a message needs that holds so many bytes.
fn message_size(bytes: usize) -> capnp::MessageSize {
    /// The struct, and pointers.
    const AROUND: u64 = 8;
    capnp::MessageSize {
        word_count: AROUND + bytes.div_ceil(8) as u64,
        cap_count: 0,
    }
}
