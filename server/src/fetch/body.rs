//! Bodies of requests and responses.

use std::{
    any::Any,
    fmt, io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt, stream::LocalBoxStream};
use http_body::{Frame, SizeHint};
use tokio::io::AsyncRead;
use tokio_util::io::{ReaderStream, StreamReader};

use super::ClientSocket;
use crate::{Error, Result, fault};

/// The body of a request or a response: bytes that are there, or that come one piece after another,
/// no faster than they are read. Dropping it gives up what is left of it.
#[derive(Default)]
pub struct Body(Inner);

#[derive(Default)]
enum Inner {
    #[default]
    Empty,
    Whole(Bytes),
    Stream {
        pieces: LocalBoxStream<'static, capnp::Result<Bytes>>,
        left: Option<u64>,
    },
    /// Of a response with status 101: there is no body, but a conversation.
    Asked(Box<ClientSocket>),
    Accepted(Box<dyn Any>),
}

impl Body {
    /// No bytes.
    pub fn empty() -> Body {
        Body::default()
    }

    /// The bytes that `pieces` yields; `length`, if it is known, is how many. A stream that ends too
    /// early, or yields too many at once, breaks the body. Whoever has that many need not ask for more:
    /// what the stream does after its last byte is best done when it is dropped.
    pub fn stream(
        pieces: impl Stream<Item = capnp::Result<Bytes>> + 'static,
        length: Option<u64>,
    ) -> Body {
        match length {
            Some(0) => Body::empty(),
            left => Body(Inner::Stream {
                pieces: Box::pin(pieces),
                left,
            }),
        }
    }

    /// What `reader` reads.
    pub fn from_reader(reader: impl AsyncRead + 'static) -> Body {
        let pieces = ReaderStream::new(reader);
        let failed = |error: io::Error| capnp::Error::failed(error.to_string());
        Body::stream(pieces.map(move |piece| piece.map_err(failed)), None)
    }

    pub(super) fn asked(socket: ClientSocket) -> Body {
        Body(Inner::Asked(Box::new(socket)))
    }

    /// The body of a response that accepts a WebSocket.
    pub(crate) fn accepted(socket: impl Any) -> Body {
        Body(Inner::Accepted(Box::new(socket)))
    }

    /// The next piece; `None` after the last.
    pub async fn piece(&mut self) -> Option<capnp::Result<Bytes>> {
        std::future::poll_fn(|cx| self.poll_piece(cx)).await
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<capnp::Result<Bytes>>> {
        match &mut self.0 {
            Inner::Empty | Inner::Asked(_) | Inner::Accepted(_) => Poll::Ready(None),
            Inner::Whole(bytes) => {
                let bytes = std::mem::take(bytes);
                self.0 = Inner::Empty;
                Poll::Ready(Some(Ok(bytes)))
            }
            Inner::Stream { pieces, left } => {
                let piece = std::task::ready!(pieces.poll_next_unpin(cx));
                let counted = count(left, piece);
                if !matches!(counted, Some(Ok(_))) {
                    self.0 = Inner::Empty;
                }
                Poll::Ready(counted)
            }
        }
    }

    /// The whole body. `limit-exceeded` if it is more than `limit` bytes.
    pub async fn bytes(mut self, limit: usize) -> capnp::Result<Bytes> {
        let mut whole = BytesMut::new();
        let mut first = Bytes::new();
        while let Some(piece) = self.piece().await.transpose()? {
            let length = first.len() + whole.len() + piece.len();
            Error::check_limit("the body (bytes)", limit as u64, length as u64)?;
            if first.is_empty() && whole.is_empty() {
                first = piece
            } else {
                whole.extend_from_slice(&std::mem::take(&mut first));
                whole.extend_from_slice(&piece);
            }
        }
        Ok(if whole.is_empty() {
            first
        } else {
            whole.freeze()
        })
    }

    /// The whole body as text. `invalid-argument` if it is not UTF-8.
    pub async fn text(self, limit: usize) -> capnp::Result<String> {
        let bytes = self.bytes(limit).await?;
        let text = String::from_utf8(bytes.into());
        text.map_err(|_| Error::InvalidArgument("the body is not UTF-8".into()).into())
    }

    /// The body as a reader.
    pub fn into_reader(self) -> impl AsyncRead {
        let pieces = self.into_pieces();
        StreamReader::new(pieces.map(|piece| piece.map_err(|error| io::Error::other(error.extra))))
    }

    /// The body as a stream of chunks.
    pub fn into_pieces(self) -> impl Stream<Item = capnp::Result<Bytes>> {
        let next = async |mut body: Body| body.piece().await.map(|piece| (piece, body));
        Box::pin(futures::stream::unfold(self, next))
    }

    /// How many bytes are left, if that is known.
    pub fn length(&self) -> Option<u64> {
        match &self.0 {
            Inner::Empty | Inner::Asked(_) | Inner::Accepted(_) => Some(0),
            Inner::Whole(bytes) => Some(bytes.len() as u64),
            Inner::Stream { left, .. } => *left,
        }
    }

    /// The conversation that a response with status 101 stands for, as who asked for it has it.
    pub fn take_socket(&mut self) -> Option<ClientSocket> {
        match std::mem::take(&mut self.0) {
            Inner::Asked(socket) => Some(*socket),
            other => {
                self.0 = other;
                None
            }
        }
    }

    /// What [`Body::accepted`] was given.
    pub(crate) fn take_accepted(&mut self) -> Option<Box<dyn Any>> {
        match std::mem::take(&mut self.0) {
            Inner::Accepted(socket) => Some(socket),
            other => {
                self.0 = other;
                None
            }
        }
    }
}

/// Takes a piece off what is left.
fn count(
    left: &mut Option<u64>,
    piece: Option<capnp::Result<Bytes>>,
) -> Option<capnp::Result<Bytes>> {
    let broken = |what: &str| Some(Err(Error::InvalidArgument(what.into()).into()));
    match (piece, left) {
        (None, Some(1..)) => broken("the body ended before the length that it was said to have"),
        (Some(Ok(piece)), Some(left)) => match left.checked_sub(piece.len() as u64) {
            None => broken("the body is longer than it was said to be"),
            Some(rest) => {
                *left = rest;
                Some(Ok(piece))
            }
        },
        (Some(Err(error)), _) => Some(Err(fault::coded(error))),
        (piece, _) => piece,
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = capnp::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, capnp::Error>>> {
        self.poll_piece(cx)
            .map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        matches!(
            self.0,
            Inner::Empty
                | Inner::Asked(_)
                | Inner::Accepted(_)
                | Inner::Stream { left: Some(0), .. }
        )
    }

    fn size_hint(&self) -> SizeHint {
        self.length()
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Body {
        if bytes.is_empty() {
            Body::empty()
        } else {
            Body(Inner::Whole(bytes))
        }
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Body {
        Bytes::from_static(text.as_bytes()).into()
    }
}

impl From<String> for Body {
    fn from(text: String) -> Body {
        Bytes::from(text).into()
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Body {
        Bytes::from(bytes).into()
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match &self.0 {
            Inner::Empty => "empty",
            Inner::Whole(_) => "whole",
            Inner::Stream { .. } => "stream",
            Inner::Asked(_) | Inner::Accepted(_) => "WebSocket",
        };
        f.debug_struct("Body")
            .field("is", &what)
            .field("length", &self.length())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, stream};
    use vatwerk::Code;

    use super::*;

    fn pieces(pieces: &'static [&str], length: Option<u64>) -> Body {
        let pieces = pieces
            .iter()
            .map(|piece| Ok(Bytes::from_static(piece.as_bytes())));
        Body::stream(stream::iter(pieces), length)
    }

    fn read(body: Body, limit: usize) -> Result<Bytes, Option<Code>> {
        let read = body
            .bytes(limit)
            .now_or_never()
            .expect("nothing to wait for");
        read.map_err(|error| Code::split(&error.extra).0)
    }

    #[test]
    fn a_body_is_as_long_as_it_was_said_to_be() {
        assert_eq!(read(pieces(&["ab", "", "c"], Some(3)), 3), Ok("abc".into()));
        assert_eq!(read(pieces(&["abc"], None), 3), Ok("abc".into()));
        for length in [2, 4] {
            let broken = read(pieces(&["ab", "c"], Some(length)), 9);
            assert_eq!(broken, Err(Some(Code::InvalidArgument)), "{length}");
        }
        let long = read(pieces(&["ab", "c"], None), 2);
        assert_eq!(long, Err(Some(Code::LimitExceeded)));
        assert_eq!(read(Body::from("abc"), 2), Err(Some(Code::LimitExceeded)));
    }

    #[tokio::test]
    async fn readers_and_bodies_are_made_of_each_other() {
        let reader = pieces(&["ab", "c"], None).into_reader();
        let body = Body::from_reader(Box::pin(reader));
        assert_eq!(body.text(9).await.unwrap(), "abc");
        let binary = Body::from(vec![0xff]).text(9).await.unwrap_err();
        assert_eq!(Code::split(&binary.extra).0, Some(Code::InvalidArgument));
    }
}
