//! A WebSocket as the object's code has it.

use std::rc::Rc;

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};
use vatwerk::limit_capnp;

use super::socket::Socket;
use crate::{
    Error, Result,
    fetch::{Frame, check_close},
    object::instance::Instance,
};

/// A WebSocket that the object has accepted. Cheap to clone. The socket itself outlives the instance:
/// after a sleep the next one has it from `Context::web_sockets`, and with each event of the socket.
#[derive(Clone)]
pub struct WebSocket {
    socket: Rc<Socket>,
    instance: Rc<Instance>,
}

/// A message on a WebSocket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SocketMessage {
    /// Text.
    Text(String),
    /// Bytes.
    Data(Bytes),
}

/// How a WebSocket ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketClose {
    /// The code that the peer gave, 1005 if it gave none; 1006 if it was lost without a word. If the vat
    /// gave it up: 1008 because the peer read too slowly or sent too much, 1013 because there was no
    /// room for what it said.
    pub code: u16,
    /// Why, as the peer said, or the vat.
    pub reason: String,
    /// Whether the peer has said that it closes it.
    pub was_clean: bool,
}

impl WebSocket {
    pub(in crate::object) fn new(socket: Rc<Socket>, instance: Rc<Instance>) -> WebSocket {
        WebSocket { socket, instance }
    }

    /// Sends a message. It leaves when what the object has written so far is on disk, in order with
    /// what else it says there. What is said to a peer that is gone is dropped: its end may be on its
    /// way to the object.
    ///
    /// A message is accepted or refused; the vat keeps an accepted one until the peer's connection has taken
    /// it. A peer that takes nothing of what it is offered is closed with 1008 after 30 s and 1 s more for each
    /// 16 KiB of it; after 10 s and 1 s for each 256 KiB while more than 16 MiB wait at its connection, or 256 KiB
    /// while the limits of the object or the vat are half reached.
    ///
    /// # Errors
    ///
    /// `overloaded` if more waits for this peer, or for all of the object or the vat, than
    /// `limits.socket_bytes`, `limits.socket_bytes_per_object` or `limits.socket_bytes_per_vat` allow. A sender
    /// that says much waits for [`WebSocket::ready`] before each message; one that tells many peers the same
    /// closes a peer for which there is no room. `closed` after [`WebSocket::close`]; `limit-exceeded` if it
    /// is too long; `object-reset` if the instance that has it is at its end.
    pub fn send(&self, message: impl Into<SocketMessage>) -> Result<()> {
        let frame = match message.into() {
            SocketMessage::Text(text) => Frame::Text(text),
            SocketMessage::Data(data) => Frame::Data(data),
        };
        let limit = limit_capnp::MAX_SOCKET_MESSAGE_BYTES.into();
        Error::check_limit(
            "a message on a WebSocket (bytes)",
            limit,
            frame.len() as u64,
        )?;
        if self.socket.has_closed() {
            return Err(Error::Closed("the object has closed the WebSocket"));
        }
        self.say(frame)
    }

    /// Closes it, after what was sent before. The peer's answer is a [`SocketClose`] for the object
    /// like any other. `code` is 1000 to 4999, and none of those that are never sent (1004 to 1006,
    /// 1015) or that nobody has defined (1016 to 2999); `reason` is at most 123 bytes. Nothing happens if it is closed.
    pub fn close(&self, code: u16, reason: &str) -> Result<()> {
        check_close(code, reason)?;
        self.end(code, reason)
    }

    /// Closes it, if it is open.
    pub(super) fn end(&self, code: u16, reason: &str) -> Result<()> {
        let reason = reason.to_owned();
        self.say(Frame::Close { code, reason })
    }

    fn say(&self, frame: Frame) -> Result<()> {
        // The socket may be open still, for the next instance.
        if let Some(error) = self.instance.broken() {
            return Err(error);
        }
        if let Some(spoken) = self.socket.begin_say(frame)? {
            self.instance.say(spoken);
        }
        Ok(())
    }

    /// Waits until a message has room: at most 262,144 bytes wait for the peer, and the object and the vat are
    /// within their limits, so that the next [`WebSocket::send`] in the same turn is accepted. Returns at once
    /// if the peer is gone. What the turn has written is committed first, as with any wait. A peer that takes
    /// nothing can hold this up until it is closed.
    ///
    /// ```
    /// # use vatwerk_server::{Result, WebSocket};
    /// async fn tell(socket: &WebSocket, pages: Vec<String>) -> Result<()> {
    ///     for page in pages {
    ///         socket.ready().await?;
    ///         socket.send(page)?;
    ///     }
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// `object-reset` if the instance that has it is at its end.
    pub async fn ready(&self) -> Result<()> {
        self.socket.ready().await;
        self.instance.broken().map_or(Ok(()), Err)
    }

    /// The bytes of messages that wait for the peer, from [`WebSocket::send`] until its connection has taken
    /// them, with 512 more for each message.
    pub fn buffered(&self) -> usize {
        self.socket.buffered()
    }

    /// Whether what is sent may still arrive.
    pub fn is_open(&self) -> bool {
        self.socket.is_open()
    }

    /// The tags that it was accepted with.
    pub fn tags(&self) -> impl Iterator<Item = &str> {
        self.socket.tags.iter().map(|tag| &**tag)
    }

    /// Keeps a value with the socket, for as long as it is open: at most 16 KiB, as CBOR. It is there
    /// when the object wakes again, but not on disk.
    pub fn set_attachment<T: Serialize + ?Sized>(&self, value: &T) -> Result<()> {
        let mut bytes = Vec::new();
        ciborium::into_writer(value, &mut bytes)
            .map_err(|error| Error::InvalidArgument(format!("an attachment: {error}")))?;
        let limit = limit_capnp::MAX_SOCKET_ATTACHMENT_BYTES.into();
        Error::check_limit("an attachment (bytes)", limit, bytes.len() as u64)?;
        self.socket.attachment.replace(Some(bytes.into()));
        Ok(())
    }

    /// The value that was last kept with it. `invalid-argument` if that is no `T`.
    pub fn attachment<T: DeserializeOwned>(&self) -> Result<Option<T>> {
        let bytes = self.socket.attachment.borrow();
        let Some(bytes) = &*bytes else {
            return Ok(None);
        };
        ciborium::from_reader(&bytes[..])
            .map(Some)
            .map_err(|error| Error::InvalidArgument(format!("an attachment: {error}")))
    }

    /// When it was last answered without the object, in milliseconds since 1970, if ever: see
    /// `Context::set_web_socket_auto_response`.
    pub fn auto_response_ms(&self) -> Option<i64> {
        self.socket.auto_responded_ms.get()
    }
}

impl PartialEq for WebSocket {
    /// Whether it is the same socket.
    fn eq(&self, other: &WebSocket) -> bool {
        Rc::ptr_eq(&self.socket, &other.socket)
    }
}

impl From<&str> for SocketMessage {
    fn from(text: &str) -> SocketMessage {
        SocketMessage::Text(text.to_owned())
    }
}

impl From<String> for SocketMessage {
    fn from(text: String) -> SocketMessage {
        SocketMessage::Text(text)
    }
}

impl From<Bytes> for SocketMessage {
    fn from(data: Bytes) -> SocketMessage {
        SocketMessage::Data(data)
    }
}

impl From<Vec<u8>> for SocketMessage {
    fn from(data: Vec<u8>) -> SocketMessage {
        SocketMessage::Data(data.into())
    }
}
