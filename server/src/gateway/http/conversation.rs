//! A WebSocket between a client and an object.
//!
//! ```text
//!  client ── frames ──► Wire ──► up      at most a window of messages that the object has not answered
//!         ◄── frames ── Wire ◄── down    what is ready together is written together
//! ```
//! The vat keeps account of what the object says and the client has not taken, and ends a socket of which
//! that is too much; here a connection that does not move is dropped.

mod wire;

#[cfg(test)]
mod tests;

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use capnp::capability::Promise;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, Sleep, sleep, sleep_until, timeout},
};
use tokio_tungstenite::tungstenite::{
    self, Message,
    error::ProtocolError,
    protocol::{CloseFrame, frame::coding::CloseCode},
};
use vatwerk::{Code, http_capnp::socket, limit_capnp::MAX_SOCKET_MESSAGE_BYTES};

use crate::{
    account::{Account, Counted},
    fetch::{ClientSocket, Frame, Frames, MAX_REASON_BYTES, Received, send_frame},
    gateway::pace::{Pace, Waited},
};
use wire::Wire;

/// How many messages of the client the object may have without having answered them.
const WINDOW: usize = 16;

/// How many bytes of such messages there are when no more is read. The last may go beyond it.
const WINDOW_BYTES: usize = 256 << 10;

/// How many bytes of what the object says are written together. The last message may go beyond it.
const BATCH_BYTES: usize = 64 << 10;

/// For how many messages that wait for the connection there is always room.
const FEW: usize = 4;

/// How long a socket without pings may be silent until somebody looks.
const FOR_EVER: Duration = Duration::from_secs(365 * 86_400);

/// What one WebSocket of a client may cost.
#[derive(Clone, Debug)]
pub struct SocketLimits {
    /// The longest message of the client, in bytes, 1 to `maxSocketMessageBytes`. Default 1 MiB. A
    /// longer one closes the socket with 1009.
    pub max_message_bytes: u32,
    /// How long nothing may come from the client before it is sent a ping; it may be up to twice as
    /// long. Default 30 s; `None` sends none. If nothing comes for as long again the connection is dropped as lost.
    pub ping_every: Option<Duration>,
    /// How long the connection may take no byte of what is to be sent. Default 30 s. Then it is dropped
    /// as lost.
    pub stalled: Duration,
    /// The least bytes a second of a message that has begun to come, after a first `stalled`. 0 for any. Default
    /// 256. A socket with a slower one is closed with 1008.
    pub least_bytes_per_s: u64,
    /// How many bytes of messages may not be here whole, of all sockets with the same `unfinished`. Default
    /// 64 MiB. Further messages close their sockets with 1013.
    pub max_unfinished_bytes: usize,
    /// The account of the bytes of messages that are not here whole. Clones are the same account.
    pub unfinished: Account,
    /// How long the closing handshake may take, what is still to be sent included. Default 10 s.
    /// Then the connection is dropped.
    pub close: Duration,
}

impl Default for SocketLimits {
    fn default() -> Self {
        SocketLimits {
            max_message_bytes: 1 << 20,
            ping_every: Some(Duration::from_secs(30)),
            stalled: Duration::from_secs(30),
            least_bytes_per_s: 256,
            max_unfinished_bytes: 64 << 20,
            unfinished: Account::default(),
            close: Duration::from_secs(10),
        }
    }
}

/// Carries what a client and an object say to each other, until either closes the socket or the
/// connection is lost. `io` is a connection on which the handshake is over, and of which `before` has
/// been read since.
///
/// Returns why it gave the client up, if it did for what the client had begun and not finished.
///
/// The object is told of the end by `up`: the client's close, [`Frame::Failed`] if it did not speak the
/// protocol, and nothing before the drop if the connection was lost.
pub async fn converse<S>(
    io: S,
    before: &[u8],
    socket: ClientSocket,
    limits: &SocketLimits,
) -> Option<Unfinished>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (up, down, _open) = socket.split();
    carry(io, before, up, down, limits).await
}

async fn carry<S>(
    io: S,
    before: &[u8],
    up: socket::Client,
    down: Frames,
    limits: &SocketLimits,
) -> Option<Unfinished>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let max_message_bytes = limits.max_message_bytes.min(MAX_SOCKET_MESSAGE_BYTES);
    let mut conversation = Conversation {
        wire: Wire::new(io, before, max_message_bytes as usize),
        up,
        down,
        limits,
        unanswered: Vec::new(),
        unanswered_bytes: 0,
        unsent: Vec::new(),
        is_flushing: false,
        heard_in_a_row: 0,
        is_pinged: false,
        watch: Box::pin(sleep(limits.ping_every.unwrap_or(FOR_EVER))),
        watches: Watch::Silence,
        unfinished: limits.unfinished.count(0),
        waited: Waited::default(),
        late: None,
        part: 0,
    };
    let end = conversation.last().await;
    let unfinished = match &end {
        End::GivenUp(why) => Some(*why),
        _ => None,
    };
    // Boxed, for an open socket need not keep room for its end.
    Box::pin(conversation.end(end)).await;
    unfinished
}

/// The fault of a message that a client has begun and not finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfinished {
    /// The message comes too slowly.
    Slow,
    /// There is no room for it beside those of others.
    NoRoom,
}

struct Conversation<'a, S> {
    wire: Wire<S>,
    up: socket::Client,
    down: Frames,
    limits: &'a SocketLimits,
    /// What the object has of the client and not answered, with its bytes.
    unanswered: Vec<(Promise<(), capnp::Error>, usize)>,
    unanswered_bytes: usize,
    /// What the object said and `wire` has not handed over. Kept for the account of the vat; its bytes
    /// are in `wire`.
    unsent: Vec<Received>,
    /// What is in `wire` has to be handed over before anything else.
    is_flushing: bool,
    /// How many messages of the client there were since the object was last asked for one.
    heard_in_a_row: usize,
    is_pinged: bool,
    watch: Pin<Box<Sleep>>,
    watches: Watch,
    /// The bytes that the vat holds of a message of the client that is not here whole.
    unfinished: Counted,
    /// How long such a message was waited for.
    waited: Waited,
    /// When it is late.
    late: Option<Pin<Box<Sleep>>>,
    /// How many bytes of it were here when that was last looked at.
    part: u64,
}

/// What a conversation is watched for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Watch {
    /// That the client says nothing.
    Silence,
    /// That it takes nothing.
    Stall,
}

enum Event {
    Heard(Result<Message, tungstenite::Error>),
    Answered(capnp::Result<()>),
    Said(Option<Received>),
    Flushed(Result<(), tungstenite::Error>),
    Overdue,
    GivenUp(Unfinished),
}

/// How a conversation ends.
enum End {
    /// There is no connection any more, or it is of no use.
    Lost,
    /// The client has closed the socket.
    Closed,
    /// This side closes it.
    Closing(Option<CloseFrame>),
    /// What the client sent is not the protocol.
    Failed(CloseFrame),
    /// The client does not finish a message.
    GivenUp(Unfinished),
}

impl<S: AsyncRead + AsyncWrite + Unpin> Conversation<'_, S> {
    /// Carries messages until something ends that.
    async fn last(&mut self) -> End {
        loop {
            let end = match poll_fn(|cx| self.poll_event(cx)).await {
                Event::Heard(Ok(message)) => self.hear(message),
                Event::Heard(Err(error)) => Some(broken(&error)),
                Event::Answered(answer) => answer.err().and_then(refused),
                Event::Said(said) => self.say(said),
                Event::Flushed(done) => {
                    self.flushed();
                    done.err().map(|_| End::Lost)
                }
                Event::Overdue => self.overdue(),
                Event::GivenUp(why) => Some(End::GivenUp(why)),
            };
            if let Some(end) = end {
                return end;
            }
        }
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        let hears_first = self.heard_in_a_row < WINDOW;
        if hears_first && let Poll::Ready(heard) = self.poll_heard(cx) {
            return Poll::Ready(heard);
        }
        self.heard_in_a_row = 0;
        if let Poll::Ready(said) = self.poll_said(cx) {
            return Poll::Ready(said);
        }
        self.is_flushing |= self.wire.unsent() > 0;
        if !hears_first && let Poll::Ready(heard) = self.poll_heard(cx) {
            return Poll::Ready(heard);
        }
        if self.is_flushing
            && let Poll::Ready(done) = self.wire.poll_flush(cx)
        {
            return Poll::Ready(Event::Flushed(done));
        }
        // After what the object says: it may close the socket for the reason for which an answer fails,
        // and knows better.
        for (at, (promise, bytes)) in self.unanswered.iter_mut().enumerate() {
            if let Poll::Ready(answer) = Pin::new(promise).poll(cx) {
                self.unanswered_bytes -= *bytes;
                drop(self.unanswered.swap_remove(at));
                return Poll::Ready(Event::Answered(answer));
            }
        }
        self.poll_watch(cx)
    }

    /// A client that does not take what is said to it is not listened to, or the answers would pile up.
    fn poll_heard(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        if self.is_flushing || self.wire.unsent() > 0 || !self.has_room() {
            // A client cannot be late while nobody listens.
            self.late = None;
            self.waited.end(0);
            return Poll::Pending;
        }
        match self.wire.poll_read(cx) {
            Poll::Ready(heard) => {
                if let Ok(Message::Text(_) | Message::Binary(_)) = heard {
                    self.forget_part();
                }
                self.heard_in_a_row += 1;
                Poll::Ready(Event::Heard(heard))
            }
            Poll::Pending => {
                self.wire.shrink();
                self.poll_unfinished(cx).map(Event::GivenUp)
            }
        }
    }

    /// Nothing is missing of a message any more.
    fn forget_part(&mut self) {
        self.unfinished.set(0);
        self.waited = Waited::default();
        self.late = None;
        self.part = 0;
    }

    /// Counts what is here of a message that is not whole. Ready when there is no room for it, or when it comes
    /// too slowly.
    fn poll_unfinished(&mut self, cx: &mut Context<'_>) -> Poll<Unfinished> {
        let Some(part) = self.wire.unfinished() else {
            self.forget_part();
            return Poll::Pending;
        };
        let limits = self.limits;
        let before = self.unfinished.bytes();
        self.unfinished.set(part.bytes);
        if part.bytes > before && limits.unfinished.sum() > limits.max_unfinished_bytes {
            return Poll::Ready(Unfinished::NoRoom);
        }
        let more = part.received.saturating_sub(self.part);
        self.part = part.received;
        if more > 0 {
            self.late = None;
            self.waited.end(more);
        }
        let waited = &mut self.waited;
        let late = self.late.get_or_insert_with(|| {
            waited.begin();
            let pace = Pace {
                least_bytes_per_s: limits.least_bytes_per_s,
                ..Pace::any(limits.stalled)
            };
            let late = waited.deadline(&pace).expect("it is waited for");
            Box::pin(sleep_until(late))
        });
        late.as_mut().poll(cx).map(|()| Unfinished::Slow)
    }

    /// What is ready goes together. The last of it does not wait for a client that takes nothing, whose
    /// time to close the socket begins to run with it.
    fn poll_said(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        let takes_more = !self.is_flushing && self.wire.unsent() < BATCH_BYTES;
        if takes_more || self.down.poll_ended(cx).is_ready() {
            return self.down.poll_next(cx).map(Event::Said);
        }
        Poll::Pending
    }

    /// Whether the object may be given another message.
    fn has_room(&self) -> bool {
        self.unanswered.len() < WINDOW && self.unanswered_bytes < WINDOW_BYTES
    }

    fn poll_watch(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        let watches = if self.is_flushing {
            Watch::Stall
        } else {
            Watch::Silence
        };
        if self.watches != watches {
            self.watches = watches;
            self.wire.has_sent();
            self.watch_again();
        }
        self.watch.as_mut().poll(cx).map(|()| Event::Overdue)
    }

    fn watch_again(&mut self) {
        let left = match self.watches {
            Watch::Silence => self.limits.ping_every.unwrap_or(FOR_EVER),
            Watch::Stall => self.limits.stalled,
        };
        self.watch.as_mut().reset(Instant::now() + left);
    }

    fn overdue(&mut self) -> Option<End> {
        self.watch_again();
        if self.watches == Watch::Stall {
            return (!self.wire.has_sent()).then_some(End::Lost);
        }
        self.limits.ping_every?;
        // Nobody knows whether a client is silent that is not listened to.
        if self.wire.has_heard() || !self.has_room() {
            self.is_pinged = false;
            return None;
        }
        if self.is_pinged {
            return Some(End::Lost);
        }
        self.is_pinged = true;
        self.write(Message::Ping(Default::default()))
    }

    fn hear(&mut self, message: Message) -> Option<End> {
        let frame = match message {
            Message::Text(text) => Frame::Text(text.as_str().into()),
            Message::Binary(data) => Frame::Data(data),
            Message::Ping(_) => {
                // The pong is in `wire`.
                self.is_flushing = true;
                return None;
            }
            Message::Close(close) => {
                self.tell_closed(close);
                return Some(End::Closed);
            }
            Message::Pong(_) | Message::Frame(_) => return None,
        };
        let promise = send_frame(&self.up, &frame);
        self.unanswered_bytes += frame.len();
        self.unanswered.push((promise, frame.len()));
        None
    }

    fn tell_closed(&self, close: Option<CloseFrame>) {
        let (code, reason) = match close {
            Some(close) => (close.code, close.reason.as_str().into()),
            None => (CloseCode::Status, String::new()),
        };
        let code = code.into();
        // It is said. Nobody waits for what the object makes of it.
        drop(send_frame(&self.up, &Frame::Close { code, reason }));
    }

    fn say(&mut self, said: Option<Received>) -> Option<End> {
        let Some(mut said) = said else {
            let close = close_frame(CloseCode::Error, "the object is gone");
            return Some(End::Closing(Some(close)));
        };
        let frame = std::mem::replace(&mut said.frame, Frame::Text(String::new()));
        self.unsent.push(said);
        match frame {
            Frame::Text(text) => self.write(Message::text(text)),
            Frame::Data(data) => self.write(Message::binary(data)),
            Frame::Close { code, reason } => {
                let close = match CloseCode::from(code) {
                    CloseCode::Status => None,
                    // It has been checked (`check_close`). `tungstenite` does not know 1014, and sends it.
                    code => Some(close_frame(code, &reason)),
                };
                Some(End::Closing(close))
            }
            Frame::Failed(reason) => {
                Some(End::Closing(Some(close_frame(CloseCode::Error, &reason))))
            }
        }
    }

    fn write(&mut self, message: Message) -> Option<End> {
        self.wire.write(message).err().map(|_| End::Lost)
    }

    /// Everything that was written is with the connection.
    fn flushed(&mut self) {
        self.is_flushing = false;
        self.unsent.clear();
        self.unsent.shrink_to(FEW);
    }

    /// Ends the connection.
    async fn end(mut self, end: End) {
        let close = self.limits.close;
        // Whatever goes wrong, or takes too long: it is the end.
        let _ = timeout(close, async {
            match end {
                End::Lost => return,
                End::Closed => {}
                End::Closing(close) => {
                    let _ = self.wire.close(close);
                    poll_fn(|cx| self.poll_closed(cx)).await;
                }
                End::GivenUp(why) => return self.fail(why.close()).await,
                End::Failed(close) => return self.fail(close).await,
            }
            let _ = poll_fn(|cx| self.wire.poll_flush(cx)).await;
            let _ = self.wire.shutdown().await;
        })
        .await;
    }

    /// Tells both sides that what the client sends is of no use, and waits for it to end.
    async fn fail(&mut self, close: CloseFrame) {
        let reason = close.reason.as_str().into();
        drop(send_frame(&self.up, &Frame::Failed(reason)));
        let _ = self.wire.close(Some(close));
        let _ = poll_fn(|cx| self.wire.poll_flush(cx)).await;
        let _ = self.wire.shutdown().await;
        let _ = self.wire.discard().await;
    }

    /// Ready when the client has closed the socket as well, or is gone.
    fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.wire.unsent() > 0
            && let Poll::Ready(done) = self.wire.poll_flush(cx)
        {
            self.flushed();
            if done.is_err() {
                return Poll::Ready(());
            }
        }
        loop {
            match std::task::ready!(self.wire.poll_read(cx)) {
                Ok(Message::Close(close)) => {
                    self.tell_closed(close);
                    return Poll::Ready(());
                }
                // It said that before it knew.
                Ok(_) => {}
                Err(_) => return Poll::Ready(()),
            }
        }
    }
}

impl Unfinished {
    /// What the client is told. That there is no room is nothing that its message is to blame for: 1009 would
    /// say that.
    fn close(self) -> CloseFrame {
        match self {
            Unfinished::Slow => close_frame(CloseCode::Policy, "a message came too slowly"),
            Unfinished::NoRoom => close_frame(CloseCode::Again, "no room for unfinished messages"),
        }
    }
}

/// How a conversation ends when the client's side of it breaks off.
fn broken(error: &tungstenite::Error) -> End {
    use tungstenite::Error::{Capacity, Protocol, Utf8};
    let (code, reason) = match error {
        Protocol(ProtocolError::ResetWithoutClosingHandshake) => return End::Lost,
        Protocol(error) => (CloseCode::Protocol, error.to_string()),
        Capacity(error) => (CloseCode::Size, error.to_string()),
        Utf8(_) => (CloseCode::Invalid, "a text that is not UTF-8".into()),
        _ => return End::Lost,
    };
    End::Failed(close_frame(code, &reason))
}

/// How a conversation ends, if it does, when the object refuses a message.
fn refused(error: capnp::Error) -> Option<End> {
    let (code, reason) = match Code::split(&error.extra).0 {
        // The object's side of the socket has ended, and will say so itself.
        Some(Code::Closed | Code::ObjectReset | Code::ShuttingDown | Code::Disconnected) => {
            return None;
        }
        Some(Code::Overloaded) => (CloseCode::Again, "overloaded"),
        _ => (CloseCode::Error, "the object failed"),
    };
    Some(End::Closing(Some(close_frame(code, reason))))
}

fn close_frame(code: CloseCode, reason: &str) -> CloseFrame {
    let reason = &reason[..reason.floor_char_boundary(MAX_REASON_BYTES)];
    CloseFrame {
        code,
        reason: reason.into(),
    }
}
