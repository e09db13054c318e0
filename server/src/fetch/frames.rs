//! One direction of a WebSocket: a capability that takes messages, and what comes out of it.

use std::{
    cell::RefCell,
    collections::VecDeque,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use capnp::{
    any_pointer,
    capability::{FromClientHook, Promise, Request},
    traits::HasTypeId,
};
use vatwerk::{
    http_capnp::socket::{self, close_params, fail_params, send_data_params, send_text_params},
    limit_capnp,
};

use super::message_size;
use crate::{
    Error,
    account::{Account, Counted},
    call::{Call, Hook, Reply, Target},
};

/// How many bytes may wait of one who does not wait for room.
const MOST: usize = 2 * limit_capnp::MAX_SOCKET_MESSAGE_BYTES as usize;

/// For how many messages that wait there is always room.
const FEW: usize = 4;

/// The code that stands for none.
const NO_CODE: u16 = 1005;

/// The longest reason for a close, in bytes: a frame of WebSockets has no room for more.
pub const MAX_REASON_BYTES: usize = 123;

/// Whether a WebSocket can be closed with this code and for this reason: a code is 1000 to 4999, and none
/// of those that are never sent (1004, 1005, 1006, 1015) or that nobody has defined (1016 to 2999).
pub fn check_close(code: u16, reason: &str) -> Result<(), Error> {
    if !(1000..5000).contains(&code) || matches!(code, 1004..=1006 | 1015..3000) {
        let error = format!("{code} is no code to close a WebSocket with");
        return Err(Error::InvalidArgument(error));
    }
    let (limit, bytes) = (MAX_REASON_BYTES as u64, reason.len() as u64);
    Error::check_limit("the reason for a close (bytes)", limit, bytes)
}

/// What one end of a WebSocket says to the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A message of text.
    Text(String),
    /// A message of bytes.
    Data(Bytes),
    /// The end, with a code as WebSockets have them; 1005 for none.
    Close {
        /// The code.
        code: u16,
        /// Why, for people; at most 123 bytes.
        reason: String,
    },
    /// The end, because something went wrong, with words about it.
    Failed(String),
}

impl Frame {
    /// What a call on a `Socket` says.
    pub fn read(method_id: u16, params: any_pointer::Reader<'_>) -> capnp::Result<Frame> {
        let limit = limit_capnp::MAX_SOCKET_MESSAGE_BYTES.into();
        let check = |bytes: usize| {
            Error::check_limit("a message on a WebSocket (bytes)", limit, bytes as u64)
        };
        Ok(match method_id {
            0 => {
                let params: send_text_params::Reader<'_> = params.get_as()?;
                let text = params.get_text()?;
                check(text.len())?;
                Frame::Text(text.to_string()?)
            }
            1 => {
                let params: send_data_params::Reader<'_> = params.get_as()?;
                let data = params.get_data()?;
                check(data.len())?;
                Frame::Data(Bytes::copy_from_slice(data))
            }
            2 => {
                let params: close_params::Reader<'_> = params.get_as()?;
                let (code, reason) = (params.get_code(), params.get_reason()?.to_str()?);
                if code != NO_CODE {
                    check_close(code, reason)?;
                }
                let reason = reason.to_owned();
                Frame::Close { code, reason }
            }
            3 => {
                let params: fail_params::Reader<'_> = params.get_as()?;
                Frame::Failed(params.get_reason()?.to_string()?)
            }
            _ => {
                let error = Error::Unimplemented("a Socket has no such method".into());
                return Err(error.into());
            }
        })
    }

    /// How many bytes it holds.
    pub fn len(&self) -> usize {
        match self {
            Frame::Text(text) => text.len(),
            Frame::Data(data) => data.len(),
            Frame::Close { reason, .. } | Frame::Failed(reason) => reason.len(),
        }
    }

    /// What it counts while it waits, in bytes: there is more to a frame than what it holds.
    pub fn weight(&self) -> usize {
        512 + self.len()
    }

    /// Whether it holds no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether nothing comes after it.
    pub fn is_last(&self) -> bool {
        matches!(self, Frame::Close { .. } | Frame::Failed(_))
    }
}

/// Says it at the other end. It is sent when this returns; the promise tells when it has been dealt with
/// there. (The promises of streaming calls tell only when everything that is under way has been.)
pub fn send_frame(to: &socket::Client, frame: &Frame) -> Promise<(), capnp::Error> {
    let method = match frame {
        Frame::Text(_) => 0,
        Frame::Data(_) => 1,
        Frame::Close { .. } => 2,
        Frame::Failed(_) => 3,
    };
    let size = Some(message_size(frame.len()));
    let mut request: Request<any_pointer::Owned, any_pointer::Owned> =
        to.client.new_call(socket::Client::TYPE_ID, method, size);
    let params = request.get();
    match frame {
        Frame::Text(text) => {
            let mut params: send_text_params::Builder<'_> = params.init_as();
            params.set_text(text.as_str());
        }
        Frame::Data(data) => {
            let mut params: send_data_params::Builder<'_> = params.init_as();
            params.set_data(data);
        }
        Frame::Close { code, reason } => {
            let mut params: close_params::Builder<'_> = params.init_as();
            params.set_code(*code);
            params.set_reason(reason.as_str());
        }
        Frame::Failed(reason) => {
            let mut params: fail_params::Builder<'_> = params.init_as();
            params.set_reason(reason.as_str());
        }
    }
    let sent = request.send().promise;
    Promise::from_future(async move { sent.await.map(drop) })
}

/// A capability that takes what one end says, and what it takes, as it comes.
pub fn frames() -> (socket::Client, Frames) {
    let shared = Rc::new(RefCell::new(Shared::default()));
    let hook = Box::new(Hook(Rc::new(Incoming(shared.clone()))));
    (socket::Client::new(hook), Frames(shared))
}

#[derive(Default)]
struct Shared {
    frames: VecDeque<(Frame, Reply, Counted)>,
    bytes: Account,
    has_ended: bool,
    is_given_up: bool,
    reader: Option<Waker>,
}

impl Shared {
    fn push(&mut self, frame: Frame, reply: Reply) {
        self.has_ended |= frame.is_last();
        let counted = self.bytes.count(frame.weight());
        self.frames.push_back((frame, reply, counted));
        self.wake();
    }

    fn wake(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    fn check(&self) -> Result<(), Error> {
        if self.has_ended || self.is_given_up {
            return Err(Error::Closed("the WebSocket is closed"));
        }
        if self.bytes.sum() > MOST {
            return Err(Error::Overloaded {
                what: "a WebSocket whose messages nobody takes (bytes)",
                limit: MOST as u64,
            });
        }
        Ok(())
    }
}

struct Incoming(Rc<RefCell<Shared>>);

impl Target for Incoming {
    fn deliver(&self, call: Call) {
        if call.interface_id != socket::Client::TYPE_ID {
            let error = Error::Unimplemented("this is a Socket".into());
            return call.reply.finish(Err(error.into()));
        }
        let mut shared = self.0.borrow_mut();
        let frame = match shared.check() {
            Ok(()) => call
                .params
                .get()
                .and_then(|params| Frame::read(call.method_id, params)),
            Err(error) => Err(error.into()),
        };
        match frame {
            Ok(frame) => shared.push(frame, call.reply),
            Err(error) => {
                drop(shared);
                call.reply.finish(Err(error));
            }
        }
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        let mut shared = self.0.borrow_mut();
        shared.has_ended = true;
        shared.wake();
    }
}

/// What one end of a WebSocket says, as the other end gets it. Dropping it says that nobody listens.
pub struct Frames(Rc<RefCell<Shared>>);

/// Something that was said. Dropping it tells who said it that there is room for more.
pub struct Received {
    /// What.
    pub frame: Frame,
    reply: Option<Reply>,
    _counted: Counted,
}

impl Received {
    /// Takes what was said, and tells who said it that there is room for more.
    pub fn into_frame(mut self) -> Frame {
        std::mem::replace(&mut self.frame, Frame::Failed(String::new()))
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        if let Some(reply) = self.reply.take() {
            reply.finish(Ok(None));
        }
    }
}

impl Frames {
    /// What is said next. `None` after the end, and if the connection is lost before it.
    pub async fn next(&mut self) -> Option<Received> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Ready with the next frame, or with `None` as [`Frames::next`].
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Received>> {
        let mut shared = self.0.borrow_mut();
        if let Some((frame, reply, counted)) = shared.frames.pop_front() {
            if shared.frames.is_empty() {
                // A burst leaves nothing behind.
                shared.frames.shrink_to(FEW);
            }
            return Poll::Ready(Some(Received {
                frame,
                reply: Some(reply),
                _counted: counted,
            }));
        }
        if shared.has_ended {
            return Poll::Ready(None);
        }
        shared.reader = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Ready when nothing will be said any more but what [`Frames::poll_next`] has ready.
    pub fn poll_ended(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut shared = self.0.borrow_mut();
        if shared.has_ended {
            return Poll::Ready(());
        }
        shared.reader = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        let mut shared = self.0.borrow_mut();
        shared.is_given_up = true;
        let frames = std::mem::take(&mut shared.frames);
        drop(shared);
        for (_, reply, _) in frames {
            reply.finish(Err(Error::Closed("the WebSocket is closed").into()));
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_close_is_one_that_websockets_have() {
        let (socket, mut frames) = frames();
        let long = "x".repeat(MAX_REASON_BYTES + 1);
        for (code, reason) in [(0, ""), (999, ""), (1006, ""), (5000, ""), (1000, &long)] {
            let reason = reason.to_owned();
            let close = Frame::Close { code, reason };
            send_frame(&socket, &close).await.unwrap_err();
        }
        let close = Frame::Close {
            code: NO_CODE,
            reason: String::new(),
        };
        let sent = send_frame(&socket, &close);
        assert_eq!(frames.next().await.unwrap().frame, close);
        sent.await.unwrap();
    }

    #[tokio::test]
    async fn empty_messages_do_not_pile_up() {
        let (socket, mut frames) = frames();
        let empty = Frame::Text(String::new());
        let _waiting: Vec<_> = (0..=MOST / empty.weight())
            .map(|_| send_frame(&socket, &empty))
            .collect();
        let refused = send_frame(&socket, &empty).now_or_never();
        let error = refused.expect("it does not wait").unwrap_err();
        assert!(error.extra.starts_with("overloaded: "), "{error}");
        drop(frames.next().await);
        assert!(send_frame(&socket, &empty).now_or_never().is_none());
    }
}
