//! Bodies, between `hyper` and objects.

use std::{
    cell::Cell,
    pin::{Pin, pin},
    rc::{Rc, Weak},
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use futures::Stream;
use http::Version;
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Sleep, sleep_until};

use super::{Problem, connection::UnderWay, failure::About, patient::Flag};
use crate::{
    Error,
    account::{Account, Counted},
    fetch::Body,
    gateway::pace::{Pace, Waited},
};

/// A request's body that tells the connection whether all of it has come, and fails if it ends without its
/// last byte.
pub(super) struct Coming {
    body: Incoming,
    is_framed: bool,
    unread: Flag,
}

impl Coming {
    pub fn new(body: Incoming, version: Version, unread: Flag) -> Coming {
        unread.set(!body.is_end_stream());
        Coming {
            body,
            is_framed: version == Version::HTTP_2,
            unread,
        }
    }
}

impl http_body::Body for Coming {
    type Data = Bytes;
    type Error = Problem;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Problem>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let has_ended = self.body.is_end_stream();
        if frame.is_none() || has_ended {
            self.unread.set(false);
        }
        Poll::Ready(match frame {
            // `hyper` takes a stream that is reset with NO_ERROR for one that ends, as a client may that has
            // its answer. Of a request only END_STREAM says that all of it was sent.
            None if self.is_framed && !has_ended => Some(Err(Problem::BrokenBody)),
            None => None,
            Some(frame) => Some(frame.map_err(|_| Problem::BrokenBody)),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Why a request's body came to an early end, if it did. It says more than what the object makes of
/// that.
#[derive(Clone, Default)]
pub(super) struct Broken(Rc<Cell<Option<Problem>>>);

impl Broken {
    /// What it was. Told once.
    pub fn why(&self) -> Option<Problem> {
        self.0.take()
    }
}

/// A request's body as it arrives: of at most `limit` bytes, and broken off if it does not come at `pace` while
/// somebody reads it.
pub(super) fn arriving<B>(
    body: B,
    limit: Option<u64>,
    pace: Pace,
) -> Result<(Body, Broken), Problem>
where
    B: http_body::Body<Data = Bytes> + Unpin + 'static,
{
    let broken = Broken::default();
    if body.is_end_stream() {
        return Ok((Body::empty(), broken));
    }
    let length = body.size_hint().exact();
    if let Some(limit) = limit
        && length.is_some_and(|length| length > limit)
    {
        return Err(Problem::LongBody(limit));
    }
    let arriving = Arriving {
        body,
        left: limit,
        limit: limit.unwrap_or_default(),
        pace,
        waited: Waited::default(),
        waiting: None,
        broken: broken.clone(),
    };
    Ok((Body::stream(arriving, length), broken))
}

struct Arriving<B> {
    body: B,
    left: Option<u64>,
    limit: u64,
    pace: Pace,
    waited: Waited,
    waiting: Option<Pin<Box<Sleep>>>,
    broken: Broken,
}

impl<B> Arriving<B> {
    fn fail(&self, problem: Problem, said: &'static str) -> Poll<Option<capnp::Result<Bytes>>> {
        self.broken.0.set(Some(problem));
        Poll::Ready(Some(Err(Error::Closed(said).into())))
    }
}

impl<B: http_body::Body<Data = Bytes> + Unpin> Stream for Arriving<B> {
    type Item = capnp::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
                let Arriving {
                    pace,
                    waited,
                    waiting,
                    ..
                } = &mut *self;
                let waiting = waiting.get_or_insert_with(|| {
                    waited.begin();
                    let late = waited.deadline(pace).expect("it is waited for");
                    Box::pin(sleep_until(late))
                });
                ready!(waiting.as_mut().poll(cx));
                return self.fail(Problem::SlowBody, "the body of the request did not go on");
            };
            self.waiting = None;
            let data = frame
                .as_ref()
                .and_then(|frame| frame.as_ref().ok()?.data_ref());
            let bytes = data.map_or(0, Bytes::len);
            self.waited.end(bytes as u64);
            let frame = match frame {
                None => return Poll::Ready(None),
                Some(Err(_)) => {
                    let said = "the body of the request broke off";
                    return self.fail(Problem::BrokenBody, said);
                }
                Some(Ok(frame)) => frame,
            };
            // Objects know of no trailers.
            let Ok(piece) = frame.into_data() else {
                continue;
            };
            if let Some(left) = &mut self.left {
                match left.checked_sub(piece.len() as u64) {
                    Some(rest) => *left = rest,
                    None => {
                        let limit = self.limit;
                        let said = "the body of the request is too long";
                        return self.fail(Problem::LongBody(limit), said);
                    }
                }
            }
            return Poll::Ready(Some(Ok(piece)));
        }
    }
}

/// How long the pieces of an answer have waited for whoever should take them on.
pub(super) struct Taken(Rc<Cell<Waited>>);

impl Taken {
    /// The first piece waits from now on.
    pub fn new() -> Taken {
        let mut waited = Waited::default();
        waited.begin();
        Taken(Rc::new(Cell::new(waited)))
    }

    /// To look at it as long as it is there.
    pub fn watch(&self) -> Weak<Cell<Waited>> {
        Rc::downgrade(&self.0)
    }
}

/// Changes what is known of an answer.
fn note(taken: &Cell<Waited>, change: impl FnOnce(&mut Waited)) {
    let mut waited = taken.get();
    change(&mut waited);
    taken.set(waited);
}

/// An answer's body. As long as it is there, the request is under way.
pub struct Leaving {
    body: Body,
    held: Account,
    taken: Taken,
    about: Option<About>,
    under_way: UnderWay,
}

impl Leaving {
    pub(super) fn new(
        body: Body,
        held: Account,
        taken: Taken,
        about: Option<About>,
        under_way: UnderWay,
    ) -> Leaving {
        Leaving {
            body,
            held,
            taken,
            about,
            under_way,
        }
    }
}

/// A piece of an answer that counts until `hyper` has let go of it: the connection has taken it.
pub struct Piece {
    bytes: Bytes,
    _held: Counted,
    /// How long its answer waits.
    taken: Weak<Cell<Waited>>,
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        // A client that takes it slowly does go on.
        if let Some(taken) = self.taken.upgrade()
            && taken.get().is_waiting()
        {
            note(&taken, |waited| {
                waited.end(count as u64);
                waited.begin();
            });
        }
    }
}

impl http_body::Body for Leaving {
    type Data = Piece;
    type Error = capnp::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<capnp::Result<Frame<Piece>>>> {
        note(&self.taken.0, |waited| waited.end(0));
        let frame = ready!(pin!(&mut self.body).poll_frame(cx));
        match &frame {
            Some(Ok(_)) => note(&self.taken.0, Waited::begin),
            Some(Err(error)) => self
                .under_way
                .breaks_off(self.about.as_ref(), error.clone()),
            None => {}
        }
        let piece = |bytes: Bytes| Piece {
            _held: self.held.count(bytes.len()),
            taken: self.taken.watch(),
            bytes,
        };
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::stream;
    use http_body_util::StreamBody;
    use tokio::time::Instant;

    use super::*;

    fn pieces(
        pieces: &'static [&str],
    ) -> impl http_body::Body<Data = Bytes, Error = capnp::Error> + Unpin {
        let frame = |piece: &&'static str| Ok(Frame::data(Bytes::from_static(piece.as_bytes())));
        StreamBody::new(stream::iter(pieces.iter().map(frame)))
    }

    #[tokio::test]
    async fn a_body_is_as_long_as_it_may_be() {
        let second = Pace::any(Duration::from_secs(1));
        let (body, broken) = arriving(pieces(&["ab", "c"]), Some(3), second).unwrap();
        assert_eq!(body.text(9).await.unwrap(), "abc");
        assert!(broken.why().is_none());
        let (body, broken) = arriving(pieces(&["ab", "cd"]), Some(3), second).unwrap();
        body.text(9).await.unwrap_err();
        assert!(matches!(broken.why(), Some(Problem::LongBody(3))));
        let whole = http_body_util::Full::new(Bytes::from_static(b"abcd"));
        let refused = arriving(whole, Some(3), second);
        assert!(matches!(refused, Err(Problem::LongBody(3))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_go_on_ends() {
        let patience = Pace::any(Duration::from_secs(9));
        let frame = Ok::<_, capnp::Error>(Frame::data(Bytes::from_static(b"a")));
        let stuck = futures::StreamExt::chain(stream::iter([frame]), stream::pending());
        let (body, broken) = arriving(StreamBody::new(stuck), None, patience).unwrap();
        let started = Instant::now();
        body.text(9).await.unwrap_err();
        assert_eq!(started.elapsed().as_secs(), 9);
        assert!(matches!(broken.why(), Some(Problem::SlowBody)));
    }
}
