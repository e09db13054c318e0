//! Bodies on the wire: a sink that takes one, and pouring one into a sink.

use std::{
    cell::RefCell,
    collections::VecDeque,
    future::pending,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use capnp::{
    any_pointer,
    capability::{FromClientHook, Request},
    traits::HasTypeId,
};
use futures::{FutureExt, Stream, StreamExt, future::LocalBoxFuture, stream::FuturesUnordered};
use tokio::time::timeout;
use vatwerk::{
    Delivery,
    http_capnp::byte_sink::{self, write_params},
    kj::http_capnp::byte_stream,
};

use super::{Body, message_size};
use crate::{
    Error,
    account::{Account, Counted},
    call::{Call, Hook, Reply, Target},
    fault,
};

/// How many bytes may wait to be read before the writer is told to wait.
const WINDOW: usize = 256 << 10;

/// How many bytes may wait before the reader has begun: a request may wait for its turn, with many others.
const WINDOW_AT_FIRST: usize = 16 << 10;

/// How many bytes may wait of a writer that does not wait. A chunk more may come.
const MOST: usize = 1 << 20;

/// What a piece costs besides its bytes: whoever writes a byte at a time fills memory too.
const COST: usize = 256;

/// The largest piece in which a body is sent.
const PIECE: usize = 64 << 10;

/// How long a body that breaks off waits until its sink has taken what came before.
const LAST_ANSWERS: Duration = Duration::from_secs(10);

/// A capability that takes a body, and the body that it takes, as it comes.
pub fn sink() -> (byte_sink::Client, Incoming) {
    sink_within(&Account::default())
}

/// A sink as [`sink`] makes it. The chunks that wait count on `total` too.
pub fn sink_within(total: &Account) -> (byte_sink::Client, Incoming) {
    let shared = Rc::new(RefCell::new(Shared {
        bytes: Account::within(total),
        ..Shared::default()
    }));
    let sink = Sink(shared.clone());
    let hook = Box::new(Hook(Rc::new(sink)));
    (byte_sink::Client::new(hook), Incoming(shared))
}

#[derive(Default)]
struct Shared {
    /// The chunks that wait, and what they cost.
    pieces: VecDeque<(Bytes, Counted)>,
    bytes: Account,
    /// Whether the reader has begun, and whether writers have been shown.
    is_asked_for: bool,
    is_begun: bool,
    /// Writers that are told to go on when there is room.
    waiting: Vec<Reply>,
    end: Option<capnp::Result<()>>,
    is_given_up: bool,
    reader: Option<Waker>,
    /// The way that answers to writers take, if they must not leave at once.
    outlet: Option<Outlet>,
}

/// Lets an answer leave when it may.
type Outlet = Box<dyn Fn(Shown)>;

/// A closure that shows the writers of a body something.
type Show = Box<dyn FnOnce(&RefCell<Shared>)>;

/// Something that writers are to notice of the reader. Dropped, it gives the body up.
pub struct Shown {
    shared: Rc<RefCell<Shared>>,
    show: Option<Show>,
}

impl Shown {
    /// Lets the writers notice.
    pub fn release(mut self) {
        if let Some(show) = self.show.take() {
            show(&self.shared);
        }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        if self.show.is_some() {
            give_up(&self.shared);
        }
    }
}

impl Shared {
    fn has_room(&self) -> bool {
        let window = if self.is_begun {
            WINDOW
        } else {
            WINDOW_AT_FIRST
        };
        self.bytes.sum() <= window
    }

    /// There will be no more.
    fn finish(&mut self, end: capnp::Result<()>) {
        self.end.get_or_insert(end);
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

/// Does what writers notice of the reader: at once, or by way of the outlet if there is one.
fn show_writers(shared: &Rc<RefCell<Shared>>, show: impl FnOnce(&RefCell<Shared>) + 'static) {
    let outlet = shared.borrow_mut().outlet.take();
    let Some(outlet) = outlet else {
        return show(shared);
    };
    outlet(Shown {
        shared: shared.clone(),
        show: Some(Box::new(show)),
    });
    shared.borrow_mut().outlet = Some(outlet);
}

/// The reader has begun: there is more room from now on.
fn begun(shared: &RefCell<Shared>) {
    shared.borrow_mut().is_begun = true;
    answer_waiting(shared);
}

fn answer_waiting(shared: &RefCell<Shared>) {
    let mut this = shared.borrow_mut();
    if !this.has_room() {
        return;
    }
    let waiting = std::mem::take(&mut this.waiting);
    drop(this);
    for reply in waiting {
        reply.finish(Ok(None));
    }
}

/// Refuses the rest of a body: the reader is gone.
fn give_up(shared: &RefCell<Shared>) {
    let mut this = shared.borrow_mut();
    this.is_given_up = true;
    this.pieces.clear();
    let waiting = std::mem::take(&mut this.waiting);
    drop(this);
    for reply in waiting {
        reply.finish(Err(gone("nobody reads the rest of the body")));
    }
}

struct Sink(Rc<RefCell<Shared>>);

impl Sink {
    /// Takes the next bytes. The reply, if it has to wait, is left in its place.
    fn write(&self, params: any_pointer::Reader<'_>) -> capnp::Result<bool> {
        let params: write_params::Reader<'_> = params.get_as()?;
        let bytes = params.get_bytes()?;
        let mut shared = self.0.borrow_mut();
        if shared.is_given_up {
            return Err(gone("nobody reads the rest of the body"));
        }
        if shared.end.is_some() {
            return Err(Error::Closed("the body has ended").into());
        }
        if shared.bytes.sum() > MOST {
            let error = fault::not_delivered(Error::Overloaded {
                what: "a body that is written without waiting (bytes)",
                limit: MOST as u64,
            });
            shared.finish(Err(error.clone()));
            return Err(error);
        }
        if bytes.is_empty() {
            // Nothing is kept of it, so it does not wait either.
            return Ok(true);
        }
        let counted = shared.bytes.count(COST + bytes.len());
        let piece = Bytes::copy_from_slice(bytes);
        shared.pieces.push_back((piece, counted));
        if let Some(reader) = shared.reader.take() {
            reader.wake();
        }
        Ok(shared.has_room())
    }
}

impl Target for Sink {
    fn deliver(&self, call: Call) {
        let Call {
            interface_id,
            method_id,
            params,
            reply,
            ..
        } = call;
        // kj calls the same methods by another name.
        if ![byte_sink::Client::TYPE_ID, byte_stream::Client::TYPE_ID].contains(&interface_id) {
            return reply.finish(Err(Error::Unimplemented("a ByteSink".into()).into()));
        }
        match method_id {
            0 => match params.get().and_then(|params| self.write(params)) {
                Ok(true) => reply.finish(Ok(None)),
                Ok(false) => self.0.borrow_mut().waiting.push(reply),
                Err(error) => reply.finish(Err(error)),
            },
            1 => {
                self.0.borrow_mut().finish(Ok(()));
                reply.finish(Ok(None));
            }
            _ => reply.finish(Err(Error::Unimplemented(
                "a ByteSink has no such method".into(),
            )
            .into())),
        }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        let end = Err(gone("the body was broken off"));
        self.0.borrow_mut().finish(end);
    }
}

/// A body that comes in. Dropping it says that nobody reads the rest.
pub struct Incoming(Rc<RefCell<Shared>>);

impl Incoming {
    /// Has answers that the reader causes leave by `outlet`, instead of at once.
    pub fn answer_through(&mut self, outlet: impl Fn(Shown) + 'static) {
        self.0.borrow_mut().outlet = Some(Box::new(outlet));
    }
}

impl Stream for Incoming {
    type Item = capnp::Result<Bytes>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut shared = self.0.borrow_mut();
        if !std::mem::replace(&mut shared.is_asked_for, true) {
            drop(shared);
            show_writers(&self.0, begun);
            shared = self.0.borrow_mut();
        }
        let Some((piece, counted)) = shared.pieces.pop_front() else {
            return match &shared.end {
                Some(Ok(())) => Poll::Ready(None),
                Some(Err(error)) => Poll::Ready(Some(Err(error.clone()))),
                None => {
                    shared.reader = Some(cx.waker().clone());
                    Poll::Pending
                }
            };
        };
        drop(shared);
        show_writers(&self.0, move |shared| {
            drop(counted);
            answer_waiting(shared);
        });
        Poll::Ready(Some(Ok(piece)))
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.0.borrow_mut().pieces.clear();
        show_writers(&self.0, give_up);
        self.0.borrow_mut().outlet = None;
    }
}

/// The error of a write whose reader is gone. kj takes an error of another kind for a failure of the
/// exchange.
fn gone(how: &str) -> capnp::Error {
    fault::mark(fault::disconnected(how), Delivery::Unknown)
}

/// The chunks of a body that its sink has been sent and has not answered.
#[derive(Default)]
struct Unanswered {
    writes: FuturesUnordered<LocalBoxFuture<'static, capnp::Result<usize>>>,
    bytes: usize,
}

impl Unanswered {
    fn send(&mut self, sink: &byte_sink::Client, chunk: &[u8]) {
        let (bytes, size) = (chunk.len(), Some(message_size(chunk.len())));
        // Not a streaming call: its errors would be told at the next write, and those of the last to nobody.
        let mut request: Request<write_params::Owned, any_pointer::Owned> =
            sink.client.new_call(byte_sink::Client::TYPE_ID, 0, size);
        request.get().set_bytes(chunk);
        let answer = request.send().promise;
        let answer = answer.map(move |answer| answer.map(|_| bytes));
        self.writes.push(answer.boxed_local());
        self.bytes += bytes;
    }

    /// Waits until at most so many bytes are unanswered. The error of the first chunk that is refused.
    async fn at_most(&mut self, bytes: usize) -> capnp::Result<()> {
        while self.bytes > bytes
            && let Some(answer) = self.writes.next().await
        {
            self.bytes -= answer?;
        }
        Ok(())
    }

    /// The error of the first chunk that is refused. Waits for ever while none is.
    async fn refused(&mut self) -> capnp::Error {
        match self.at_most(0).await {
            Ok(()) => pending().await,
            Err(error) => error,
        }
    }
}

/// Writes a body into a sink. At most 256 KiB, and the chunk of 64 KiB that passes them, are sent and not
/// answered; `end` is sent when all are. The error of the body, or of the first chunk that the sink refuses. A
/// body is not asked for more than it is said to have: who has all of it may be gone.
pub async fn pour(mut body: Body, sink: byte_sink::Client) -> capnp::Result<()> {
    let mut unanswered = Unanswered::default();
    while body.length() != Some(0) {
        let piece = tokio::select! {
            biased;
            error = unanswered.refused() => return Err(error),
            piece = body.piece() => piece,
        };
        let piece = match piece {
            None => break,
            Some(Ok(piece)) => piece,
            Some(Err(error)) => {
                // The sink has what came before, if it takes it.
                let _ = timeout(LAST_ANSWERS, unanswered.at_most(0)).await;
                return Err(error);
            }
        };
        for chunk in piece.chunks(PIECE) {
            unanswered.send(&sink, chunk);
            unanswered.at_most(WINDOW).await?;
        }
    }
    // Not before all of it is taken: not every peer keeps calls in order that come together.
    unanswered.at_most(0).await?;
    sink.end_request().send().promise.await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, StreamExt};

    use super::*;

    #[tokio::test]
    async fn tiny_pieces_and_empty_ones_do_not_pile_up() {
        let (sink, mut body) = sink();
        let write = |bytes: &[u8]| {
            let mut request: capnp::capability::Request<any_pointer::Owned, any_pointer::Owned> =
                sink.client.new_call(byte_sink::Client::TYPE_ID, 0, None);
            let mut params: write_params::Builder<'_> = request.get().init_as();
            params.set_bytes(bytes);
            request.send().promise
        };
        let many = |count| (0..count).map(|_| write(b"x")).collect::<Vec<_>>();
        let some = WINDOW_AT_FIRST / COST;
        let _waiting = many(some);
        assert!(
            write(b"x").now_or_never().is_none(),
            "it waits for a reader"
        );
        assert_eq!(body.next().await.unwrap().unwrap(), "x");
        assert!(write(b"x").now_or_never().is_some(), "there is room now");
        let some = WINDOW / COST;
        let _waiting = many(some);
        assert!(write(b"x").now_or_never().is_none(), "it waits for room");
        assert!(
            write(b"")
                .now_or_never()
                .expect("nothing to wait for")
                .is_ok()
        );
        let answered = (0..=MOST / COST).find_map(|_| write(b"x").now_or_never());
        let error = answered.expect("one is refused").err();
        assert!(error.unwrap().extra.starts_with("overloaded: "));
    }
}
