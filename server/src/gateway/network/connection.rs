//! One stream as capnp-rpc sees it: `capnp_rpc::Connection` and its messages.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};

use capnp::Error;
use capnp::capability::Promise;
use capnp::message::{Builder, HeapAllocator, Reader, ReaderOptions};
use capnp_rpc::rpc_capnp::message;
use capnp_rpc::rpc_twoparty_capnp::Side;
use capnp_rpc::{VatNetwork as _, twoparty};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{Sleep, sleep_until};
use vatwerk::Code;

use crate::call::HangUp;
use crate::gateway::pace::Waited;

use super::foreign::Foreign;
use super::frame::{Frame, FrameReader};
use super::ledger::Verdict;
use super::outgoing::Outgoing;
use super::promise::promises;
use super::shared::{Due, Shared, add};
use super::tail::{SENDER_HOSTED, TO_CALLER, tail_tag};
use super::{End, Refusal, reply};

/// The first segment of a message, in words. capnp-rpc asks for 1024 for every call, and most take
/// a tenth of that.
const FIRST_SEGMENT_WORDS: std::ops::RangeInclusive<u32> = 16..=64;

/// Messages of up to this size, in bytes, are let in whole even if the vat is full, so that a call is
/// answered `overloaded` and its connection goes on.
const ARRIVES_WHOLE_BYTES: usize = vatwerk::limit_capnp::MAX_CHUNK_BYTES as usize;

/// The reading side.
struct Incoming<R> {
    /// Gone once the connection is over, even if capnp-rpc still holds it.
    stream: Option<R>,
    frames: FrameReader,
    /// When the rest of a message is late.
    late: Option<Pin<Box<Sleep>>>,
    /// How long the message was waited for that is here in part.
    waited: Waited,
    replies: Vec<Builder<HeapAllocator>>,
}

/// Lives as long as capnp-rpc holds the connection.
struct Inner<R> {
    incoming: RefCell<Incoming<R>>,
    shared: Rc<Shared>,
    /// Lends its flow controllers, which capnp-rpc does not offer otherwise; nothing is ever sent
    /// on it.
    flow: RefCell<Box<dyn capnp_rpc::Connection<Side>>>,
    /// The last write of an ending connection is under way and ends by itself.
    closing: Cell<bool>,
}

impl<R> Inner<R> {
    /// Ends the connection as far as that has not happened.
    fn tear_down(&self) {
        let shared = &self.shared;
        shared.ending(End::Dropped);
        if !self.closing.get() {
            shared.abort_writer();
        }
        if let Ok(mut incoming) = self.incoming.try_borrow_mut() {
            incoming.stream = None;
            incoming.frames = FrameReader::new(&shared.limits);
            incoming.late = None;
            shared.arriving_bytes.set(0);
        }
        shared.held.borrow_mut().clear();
        shared.hang_ups.borrow_mut().clear();
        shared.due.borrow_mut().clear();
        shared.share.close();
        shared.connection_done.set(true);
        shared.wake_reader();
        shared.changed.notify_waiters();
    }
}

impl<R> Drop for Inner<R> {
    fn drop(&mut self) {
        self.tear_down();
    }
}

pub(super) struct Connection<R>(Rc<Inner<R>>);

/// Leads to a connection for as long as capnp-rpc holds it.
pub(super) struct WeakConnection<R>(Weak<Inner<R>>);

impl<R> WeakConnection<R> {
    /// capnp-rpc is gone. After a panic it does not let go of the connection: its tables point at
    /// each other.
    pub(super) fn abandon(&self) {
        if let Some(inner) = self.0.upgrade() {
            inner.closing.set(false);
            inner.tear_down();
        }
    }

    pub(super) fn upgrade(&self) -> Option<Connection<R>> {
        self.0.upgrade().map(Connection)
    }
}

impl<R: AsyncRead + Unpin + 'static> Connection<R> {
    pub(super) fn new(stream: R, shared: Rc<Shared>) -> Self {
        let mut flow = twoparty::VatNetwork::new(
            futures::io::empty(),
            futures::io::sink(),
            Side::Server,
            ReaderOptions::new(),
        );
        flow.set_window_size(shared.limits.stream_window_bytes);
        let flow = flow
            .connect(Side::Client)
            .expect("a fresh network connects");
        Connection(Rc::new(Inner {
            incoming: RefCell::new(Incoming {
                stream: Some(stream),
                frames: FrameReader::new(&shared.limits),
                late: None,
                waited: Waited::default(),
                replies: Vec::new(),
            }),
            shared,
            flow: RefCell::new(flow),
            closing: Cell::new(false),
        }))
    }
}

impl<R> Connection<R> {
    pub(super) fn downgrade(&self) -> WeakConnection<R> {
        WeakConnection(Rc::downgrade(&self.0))
    }
}

type Received = capnp::Result<Option<Box<dyn capnp_rpc::IncomingMessage>>>;

impl<R: AsyncRead + Unpin> Inner<R> {
    fn refused(&self, refusal: Refusal) -> Error {
        let error = Error::failed(format!("{}: {}", refusal.code, refusal.text));
        self.shared.ending(End::Refused(refusal));
        error
    }

    /// Why nothing can be made of what the peer sends: this, unless it speaks another protocol, in which it is told
    /// so.
    fn misread(&self, incoming: &Incoming<R>, refusal: Refusal) -> Refusal {
        let shared = &self.shared;
        let is_first = shared.traffic.messages_in.get() == 0;
        match Foreign::of(incoming.frames.here()).filter(|_| is_first) {
            Some(foreign) => {
                shared.outbox.borrow_mut().end_with(foreign.answer());
                foreign.refusal()
            }
            None => refusal,
        }
    }

    /// The next message that is here already.
    fn take(&self, incoming: &mut Incoming<R>) -> Poll<Received> {
        let shared = &self.shared;
        loop {
            if shared.stop.get() {
                shared.ending(End::Stopped);
                let code = Code::ShuttingDown;
                return Poll::Ready(Err(Error::disconnected(format!(
                    "{code}: the vat closes this connection"
                ))));
            }
            if shared.writer_done.get() || shared.connection_done.get() {
                let why = match &*shared.end.borrow() {
                    Some(end) => format!("{}: {end}", Code::Disconnected),
                    None => format!("{}: the connection has ended", Code::Disconnected),
                };
                return Poll::Ready(Err(Error::disconnected(why)));
            }
            let due = shared.due.borrow_mut().pop_front();
            let frame = match due {
                Some(Due::Release(export)) => {
                    shared.ledger.borrow_mut().release_export(export, 1);
                    let frame = Frame::copy_of(&reply::release(export, 1));
                    return Poll::Ready(Ok(Some(Box::new(self.message(frame)))));
                }
                Some(Due::Finish { question, release }) => {
                    Frame::copy_of(&reply::finish(question, release))
                }
                Some(Due::Tail { question, results }) => {
                    let (frame, lent) = results.answer(question)?;
                    shared.ledger.borrow_mut().tail_returns(question, lent);
                    frame
                }
                Some(Due::Exception { question, refusal }) => {
                    let Refusal { code, text } = refusal;
                    Frame::copy_of(&reply::refusal(question, code, &text))
                }
                None if shared.outbox.borrow().unwritten_bytes
                    > shared.limits.max_unwritten_bytes =>
                {
                    return Poll::Pending;
                }
                None => match incoming.frames.next() {
                    Ok(Some(frame)) => {
                        add(&shared.traffic.messages_in, 1);
                        add(&shared.traffic.bytes_in, frame.len_bytes());
                        if shared.arriving_bytes.take() > 0 {
                            shared.count_held();
                        }
                        frame
                    }
                    Ok(None) => return Poll::Pending,
                    Err(refusal) => {
                        return Poll::Ready(Err(self.refused(self.misread(incoming, refusal))));
                    }
                },
            };
            let admitted = self.admit(incoming, frame);
            for reply in incoming.replies.drain(..) {
                shared.send(Rc::new(reply));
            }
            shared.count_held();
            match admitted {
                Ok(Some(message)) => return Poll::Ready(Ok(Some(Box::new(message)))),
                Ok(None) => (),
                Err(refusal) => return Poll::Ready(Err(self.refused(refusal))),
            }
        }
    }

    /// The signal by which the callee learns that its caller has hung up, if the message is a call.
    fn listen_for_hang_up(&self, message: message::Reader<'_>) -> capnp::Result<Option<HangUp>> {
        let Ok(message::Call(call)) = message.which() else {
            return Ok(None);
        };
        let call = call?;
        let hang_up = HangUp::of_connection(&self.shared.pins);
        let mut hang_ups = self.shared.hang_ups.borrow_mut();
        hang_ups.insert(call.get_question_id(), hang_up.clone());
        Ok(Some(hang_up))
    }

    /// A message of this side's own, for capnp-rpc.
    fn message(&self, frame: Frame) -> Message {
        let options = self.shared.limits.reader_options(frame.len_bytes());
        Message {
            reader: Reader::new(frame, options),
            hang_up: None,
        }
    }

    /// Checks a message and enters it in the ledger; `None` if capnp-rpc is not to see it now.
    fn admit(&self, incoming: &mut Incoming<R>, frame: Frame) -> Result<Option<Message>, Refusal> {
        let bytes = frame.len_bytes();
        let options = self.shared.limits.reader_options(bytes);
        let mut reader = Reader::new(frame, options);
        let found = promises(reader.get_root()?, bytes)?;
        let tail = tail_tag(reader.get_root()?)?;
        if !found.is_empty() || tail.is_some() {
            let mut frame = reader.into_segments();
            for address in found {
                frame.overwrite_u16(address, SENDER_HOSTED);
            }
            if let Some(address) = tail {
                frame.overwrite_u16(address, TO_CALLER);
            }
            reader = Reader::new(frame, options);
            // What overlaps with what leads to it may have moved by that.
            let is_moved = !promises(reader.get_root()?, bytes)?.is_empty()
                || tail_tag(reader.get_root()?)?.is_some();
            if is_moved {
                return Err(Refusal::new(
                    Code::InvalidArgument,
                    "parts of the message overlap",
                ));
            }
        }
        let verdict = self.shared.ledger.borrow_mut().incoming(
            &self.shared.limits,
            &self.shared.share,
            bytes,
            reader.get_root()?,
            tail.is_some(),
            &mut incoming.replies,
        )?;
        match verdict {
            Verdict::Deliver => {
                let root: message::Reader<'_> = reader.get_root()?;
                if let Ok(message::Abort(abort)) = root.which() {
                    let reason = abort.and_then(|abort| abort.get_reason());
                    let reason = reason.map(|text| text.to_string().unwrap_or_default());
                    self.shared
                        .ending(End::PeerAborted(reason.unwrap_or_default()));
                }
                let hang_up = self.listen_for_hang_up(root)?;
                Ok(Some(Message { reader, hang_up }))
            }
            Verdict::Swallow => Ok(None),
            Verdict::Instead(message) => Ok(Some(self.message(Frame::copy_of(&message)))),
            Verdict::Tail { question, results } => {
                let due = Due::Tail { question, results };
                self.shared.due.borrow_mut().push_back(due);
                Ok(None)
            }
            Verdict::Hold { question, release } => {
                if let Some(hang_up) = self.shared.hang_ups.borrow_mut().remove(&question) {
                    hang_up.tell();
                }
                let mut held = self.shared.held.borrow_mut();
                match held.insert(question, release) {
                    None => Ok(None),
                    Some(_) => Err(Refusal::new(
                        Code::InvalidArgument,
                        "a second finish for the same question",
                    )),
                }
            }
        }
    }

    /// Counts a large message that has arrived in part. Refuses a very large one if the vat has no room
    /// for what has come of it since; others are answered when they are here.
    fn count_arriving(&self, bytes: usize) -> Result<(), Refusal> {
        let shared = &self.shared;
        let more = bytes.saturating_sub(shared.arriving_bytes.get());
        if more > 0
            && bytes > ARRIVES_WHOLE_BYTES
            && let Some(why) = shared.share.full_for(more)
        {
            return Err(Refusal::new(Code::Overloaded, why));
        }
        shared.arriving_bytes.set(bytes);
        shared.count_held();
        Ok(())
    }

    /// Ready when nothing has come for too long of a message that is here in part, be it the beginning
    /// of its table of segments.
    fn poll_late(&self, incoming: &mut Incoming<R>, cx: &mut Context<'_>) -> Poll<Error> {
        if incoming.frames.at_boundary() {
            return Poll::Pending;
        }
        let limit = self.shared.limits.stall;
        let Incoming { late, waited, .. } = incoming;
        let late = late.get_or_insert_with(|| {
            waited.begin();
            let late = waited.deadline(&self.shared.limits.pace());
            Box::pin(sleep_until(late.expect("it is waited for")))
        });
        late.as_mut().poll(cx).map(|()| {
            let end = End::Late { limit };
            let error = Error::failed(format!("{}: {end}", Code::LimitExceeded));
            self.shared.ending(end);
            error
        })
    }

    fn poll_receive(&self, cx: &mut Context<'_>) -> Poll<Received> {
        let incoming = &mut *self.incoming.borrow_mut();
        let shared = &self.shared;
        loop {
            if let Poll::Ready(received) = self.take(incoming) {
                incoming.waited = Waited::default();
                return Poll::Ready(received);
            }
            incoming.frames.make_room();
            if let Err(refusal) = self.count_arriving(incoming.frames.arriving_bytes()) {
                return Poll::Ready(Err(self.refused(refusal)));
            }
            // All that was here has been dealt with.
            shared.outbox.borrow_mut().set_burst(false);
            shared.reader.set(Some(cx.waker().clone()));
            if shared.outbox.borrow().unwritten_bytes > shared.limits.max_unwritten_bytes {
                // The peer cannot be late while nobody reads.
                incoming.late = None;
                incoming.waited.end(0);
                return Poll::Pending;
            }
            let Some(stream) = &mut incoming.stream else {
                return Poll::Ready(Ok(None));
            };
            let mut buffer = ReadBuf::new(incoming.frames.space());
            match Pin::new(stream).poll_read(cx, &mut buffer) {
                Poll::Pending => {
                    return self.poll_late(incoming, cx).map(Err);
                }
                Poll::Ready(Ok(())) => incoming.late = None,
                Poll::Ready(Err(failure)) => {
                    shared.ending(End::Broken(failure.to_string()));
                    return Poll::Ready(Err(Error::disconnected(failure.to_string())));
                }
            }
            let bytes = buffer.filled().len();
            if bytes == 0 {
                if incoming.frames.at_boundary() {
                    shared.ending(End::PeerClosed);
                    return Poll::Ready(Ok(None));
                }
                let text = "the stream ended within a message";
                shared.ending(End::Broken(text.into()));
                return Poll::Ready(Err(Error::disconnected(text.into())));
            }
            incoming.waited.end(bytes as u64);
            incoming.frames.filled(bytes);
            shared.outbox.borrow_mut().set_burst(true);
        }
    }

    /// Reads until the peer closes, and looks at nothing. Closing a socket with unread input would
    /// take back what was written last, such as the reason for an abort.
    async fn discard(&self) {
        let mut buffer = vec![0; 16 << 10];
        std::future::poll_fn(|cx| {
            let Ok(mut incoming) = self.incoming.try_borrow_mut() else {
                return Poll::Ready(());
            };
            let Some(stream) = &mut incoming.stream else {
                return Poll::Ready(());
            };
            loop {
                let mut buffer = ReadBuf::new(&mut buffer);
                match Pin::new(&mut *stream).poll_read(cx, &mut buffer) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(())) if !buffer.filled().is_empty() => (),
                    Poll::Ready(_) => return Poll::Ready(()),
                }
            }
        })
        .await;
    }
}

impl<R: AsyncRead + Unpin + 'static> capnp_rpc::Connection<Side> for Connection<R> {
    fn get_peer_vat_id(&self) -> Side {
        Side::Client
    }

    fn new_outgoing_message(&mut self, words: u32) -> Box<dyn capnp_rpc::OutgoingMessage> {
        let words = match words {
            0 => *FIRST_SEGMENT_WORDS.end(),
            _ => words.clamp(*FIRST_SEGMENT_WORDS.start(), *FIRST_SEGMENT_WORDS.end()),
        };
        let message = Builder::new(HeapAllocator::new().first_segment_words(words));
        Box::new(Outgoing::new(message, self.0.shared.clone()))
    }

    fn receive_incoming_message(
        &mut self,
    ) -> Promise<Option<Box<dyn capnp_rpc::IncomingMessage>>, Error> {
        let inner = self.0.clone();
        let here = inner.take(&mut inner.incoming.borrow_mut());
        match here {
            Poll::Ready(Ok(message)) => Promise::ok(message),
            Poll::Ready(Err(error)) => Promise::err(error),
            Poll::Pending => {
                Promise::from_future(std::future::poll_fn(move |cx| inner.poll_receive(cx)))
            }
        }
    }

    fn new_stream(&mut self) -> (Box<dyn capnp_rpc::FlowController>, Promise<(), Error>) {
        self.0.flow.borrow_mut().new_stream()
    }

    fn shutdown(&mut self, result: capnp::Result<()>) -> Promise<(), Error> {
        let inner = self.0.clone();
        let shared = inner.shared.clone();
        let end = match result {
            Err(error) if error.kind != capnp::ErrorKind::Disconnected => {
                End::Refused(Refusal::new(Code::InvalidArgument, error.extra))
            }
            _ => End::Stopped,
        };
        shared.ending(end);
        inner.closing.set(true);
        shared.outbox.borrow_mut().close();
        Promise::from_future(async move {
            let finished = tokio::time::timeout(shared.limits.linger, async {
                shared.wait(|shared| shared.writer_done.get()).await;
                inner.discard().await;
            });
            if finished.await.is_err() {
                shared.abort_writer();
            }
            Ok(())
        })
    }
}

struct Message {
    reader: Reader<Frame>,
    /// Tells the callee when the caller has hung up, if this is a call.
    hang_up: Option<HangUp>,
}

impl capnp_rpc::IncomingMessage for Message {
    fn get_body(&self) -> capnp::Result<capnp::any_pointer::Reader<'_>> {
        if let Some(hang_up) = &self.hang_up {
            hang_up.params_looked_at();
        }
        self.reader.get_root()
    }
}
