//! One WebSocket, as the vat holds it.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
    time::Duration,
};

use capnp::{
    capability::{FromClientHook, RemotePromise},
    traits::HasTypeId,
};
use http::HeaderMap;
use tokio::time::timeout;
use vatwerk::http_capnp::{exchange, socket};

use super::{
    GOING_AWAY, ObjectSockets, RESTARTED,
    backlog::{Backlog, Untaken},
    down::{Carried, Down},
    event::{HANDLER_FAILED, Heard, SocketEvent},
};
use crate::{
    Error,
    account::{Account, Counted},
    call::{Call, Hook, Reply, Target},
    fault,
    fetch::{Frame, write_headers},
    metrics::Overload,
    object::gate::{Output, Way},
};

/// How many messages of a peer may wait for the handler. One that waits for room stays below.
const INBOX: usize = 1024;

/// How many bytes they may hold. A message more may come.
const INBOX_BYTES: usize = 1 << 20;

/// The code with which a socket is closed whose peer does not keep to the limits: "policy violation".
const POLICY: u16 = 1008;

/// The code with which a socket is closed whose peer refuses a message: "internal error".
const REFUSED: u16 = 1011;

/// Why a socket is closed whose peer does not read, for its peer and its object.
const TOO_SLOW: &str = "it reads too slowly";

/// How long whoever asked for a socket may leave it where it is.
const TAKE_UP: Duration = Duration::from_secs(30);

/// The code with which a socket is closed when there is no room: "try again later".
const TRY_AGAIN: u16 = 1013;

/// What a peer is told that says something after the end.
const CLOSED: Error = Error::Closed("the WebSocket is closed");

/// One WebSocket of an object. It outlives the object's instances.
pub(in crate::object) struct Socket {
    pub number: u64,
    pub tags: Box<[Rc<str>]>,
    pub attachment: RefCell<Option<Box<[u8]>>>,
    /// When it was last answered without the object, in milliseconds since 1970.
    pub auto_responded_ms: Cell<Option<i64>>,
    sockets: Rc<ObjectSockets>,
    has_ended: Cell<bool>,
    down: Down,
    /// How many frames have been said, and how many of them have left the gate.
    said: Cell<u64>,
    left: Cell<u64>,
    /// What the vat answers by itself, each after so many frames of the object.
    answers: RefCell<VecDeque<(u64, Untaken)>>,
    inbox: RefCell<VecDeque<(Heard, Option<Reply>, Counted)>>,
    inbox_bytes: Account,
    /// Whether the object is dealing with something it heard: the next waits.
    is_busy: Cell<bool>,
    /// Whether the object has said its last.
    has_closed: Cell<bool>,
    /// Whether the object has failed at something it heard.
    has_failed: Cell<bool>,
    /// The call that asked for the socket: it lasts as long.
    asked: Cell<Option<Reply>>,
}

impl Socket {
    pub(super) fn new(
        sockets: &Rc<ObjectSockets>,
        number: u64,
        tags: Box<[Rc<str>]>,
        backlog: Backlog,
    ) -> Rc<Socket> {
        Rc::new(Socket {
            number,
            tags,
            attachment: RefCell::default(),
            auto_responded_ms: Cell::default(),
            sockets: sockets.clone(),
            has_ended: Cell::default(),
            down: Down::new(backlog),
            said: Cell::default(),
            left: Cell::default(),
            answers: RefCell::default(),
            inbox: RefCell::default(),
            inbox_bytes: Account::default(),
            is_busy: Cell::default(),
            has_closed: Cell::default(),
            has_failed: Cell::default(),
            asked: Cell::default(),
        })
    }

    /// Whether the object has said its last.
    pub fn has_closed(&self) -> bool {
        self.has_closed.get()
    }

    /// Whether the object may still say something, and the peer may hear it.
    pub fn is_open(&self) -> bool {
        !self.has_closed.get() && !self.has_ended()
    }

    fn has_ended(&self) -> bool {
        self.has_ended.get()
    }

    /// The bytes that wait for the peer.
    pub fn buffered(&self) -> usize {
        self.down.backlog.bytes()
    }

    /// Waits until the peer has room for another message, or is gone.
    pub async fn ready(&self) {
        self.down.backlog.room().await;
    }

    pub(super) fn sockets(&self) -> &ObjectSockets {
        &self.sockets
    }

    /// The peer has taken the offer: `peer` takes what is said from now on.
    fn open(self: &Rc<Self>, peer: socket::Client) {
        if !self.has_ended() {
            self.down.open(peer);
            self.carry();
        }
    }

    /// The object says something, which is to pass its gate. `None` if it is not to be told to the peer.
    ///
    /// # Errors
    ///
    /// `overloaded` if as much waits for the peers of the object, or of the vat, as may.
    pub fn begin_say(self: &Rc<Self>, frame: Frame) -> Result<Option<Spoken>, Error> {
        if !self.is_open() {
            return Ok(None);
        }
        if frame.is_last() {
            self.has_closed.set(true);
        } else {
            self.down.backlog.check().inspect_err(|_| {
                if let Some(host) = self.sockets.host.upgrade() {
                    host.metrics.overloaded(Overload::SocketBytes);
                }
            })?;
        }
        self.said.set(self.said.get() + 1);
        Ok(Some(Spoken {
            socket: self.clone(),
            said: Some(self.down.backlog.add(frame)),
        }))
    }

    /// What the object said has passed its gate.
    fn leave(self: &Rc<Self>, said: Untaken) {
        self.left.set(self.left.get() + 1);
        self.transmit(said);
        self.answer();
    }

    /// The vat itself answers: at once, but not before what the object has said.
    fn answer_with(self: &Rc<Self>, frame: Frame) {
        if self.down.backlog.is_full_of_answers() {
            self.give_up(POLICY, "it does not read the answers to what it says");
            return;
        }
        let answer = self.down.backlog.add_answer(frame);
        self.answers
            .borrow_mut()
            .push_back((self.said.get(), answer));
        self.answer();
    }

    fn answer(self: &Rc<Self>) {
        loop {
            let mut answers = self.answers.borrow_mut();
            match answers.front() {
                Some((after, _)) if *after <= self.left.get() => {}
                _ => return,
            }
            let next = answers.pop_front();
            drop(answers);
            if let Some((_, said)) = next {
                self.transmit(said);
            }
        }
    }

    /// Tells the peer.
    fn transmit(self: &Rc<Self>, said: Untaken) {
        if !self.has_ended() {
            self.down.push(said);
            self.carry();
        }
    }

    /// Has what is said carried to the peer.
    fn carry(self: &Rc<Self>) {
        if !self.down.begin_carrying() {
            return;
        }
        let socket = self.clone();
        tokio::task::spawn_local(async move {
            match socket.down.carry().await {
                Carried::All => (),
                Carried::TooSlow => socket.give_up_slow(),
                Carried::Refused => _ = socket.cut_short(REFUSED, "it refused a message"),
            }
        });
    }

    /// The peer reads too slowly.
    fn give_up_slow(self: &Rc<Self>) {
        if self.cut_short(POLICY, TOO_SLOW)
            && let Some(host) = self.sockets.host.upgrade()
        {
            host.sockets.count_slow();
        }
    }

    /// Ends a socket whose peer does not take what it is told: the peer is told why, and nothing else of what
    /// waits for it. False if it has been told the end before.
    fn cut_short(self: &Rc<Self>, code: u16, why: &'static str) -> bool {
        let reason = why.into();
        let is_told = self.down.cut_short(Frame::Close { code, reason });
        self.carry();
        if !self.has_ended() {
            self.conclude();
            self.hear(Heard::Gone(code, why), None);
        }
        is_told
    }

    /// The vat ends it: the peer is told, and the object hears no more.
    pub fn end(self: &Rc<Self>, code: u16, reason: &str) {
        let reason = reason.to_owned();
        self.transmit(self.down.backlog.add(Frame::Close { code, reason }));
        self.conclude();
    }

    /// The object could not be told what the peer said: what comes after it must not be told either.
    pub(super) fn lose(self: &Rc<Self>, error: &Error) {
        match error {
            Error::Overloaded { .. } => self.give_up(TRY_AGAIN, "overloaded"),
            Error::ShuttingDown => self.end(GOING_AWAY, "the vat is shutting down"),
            Error::ObjectReset(_) | Error::InstanceFailed(_) => {
                self.end(RESTARTED, "the object was reset")
            }
            _ => self.end(HANDLER_FAILED, "internal error"),
        }
    }

    /// Ends the socket from the vat's side, and tells the object.
    fn give_up(self: &Rc<Self>, code: u16, reason: &'static str) {
        if self.has_ended() {
            return;
        }
        self.end(code, reason);
        self.hear(Heard::Gone(code, reason), None);
    }

    /// Forgets the socket, which is over.
    pub(super) fn conclude(&self) {
        self.has_ended.set(true);
        drop(self.answers.take());
        let inbox = self.inbox.take();
        self.sockets.remove(self);
        for reply in inbox.into_iter().filter_map(|(_, reply, _)| reply) {
            reply.finish(Err(CLOSED.into()));
        }
        if let Some(asked) = self.asked.take() {
            asked.finish(Ok(None));
        }
        self.down.finish();
    }

    /// The peer says something, or is gone.
    fn hear(self: &Rc<Self>, heard: Heard, reply: Option<Reply>) {
        let counted = self.inbox_bytes.count(heard.len());
        self.inbox.borrow_mut().push_back((heard, reply, counted));
        self.pass_on();
    }

    /// Has the object deal with what it hears next, unless it is at it.
    fn pass_on(self: &Rc<Self>) {
        if self.is_busy.get() {
            return;
        }
        let Some((heard, reply, _)) = self.inbox.borrow_mut().pop_front() else {
            return;
        };
        self.is_busy.set(true);
        let sockets = &self.sockets;
        if heard.is_last() {
            // What is said to others because of it does not go there.
            sockets.remove(self);
        }
        if let Some(host) = sockets.host.upgrade() {
            let event = SocketEvent::new(self.clone(), heard, reply);
            host.hear(&sockets.class, sockets.id, event);
        }
    }

    /// The object has dealt with what it heard.
    pub(super) fn heard(self: &Rc<Self>) {
        self.is_busy.set(false);
        self.pass_on();
    }

    /// The object has failed at something it heard: of what comes after that it hears only the end.
    pub(super) fn fail(&self) {
        self.has_failed.set(true);
        let inbox = self.inbox.take().into_iter();
        let (last, unheard): (VecDeque<_>, VecDeque<_>) =
            inbox.partition(|(heard, ..)| heard.is_last());
        self.inbox.replace(last);
        for reply in unheard.into_iter().filter_map(|(_, reply, _)| reply) {
            reply.finish(Err(CLOSED.into()));
        }
    }

    /// What takes what the peer says.
    fn up(self: &Rc<Self>) -> socket::Client {
        let up = Up {
            socket: self.clone(),
            is_over: Cell::default(),
        };
        socket::Client::new(Box::new(Hook(Rc::new(up))))
    }

    /// Answers a text that the object wants answered without it.
    fn answers_itself(self: &Rc<Self>, frame: &Frame) -> bool {
        let Frame::Text(text) = frame else {
            return false;
        };
        let sockets = &self.sockets;
        let (Some(pair), Some(host)) = (sockets.auto_response(), sockets.host.upgrade()) else {
            return false;
        };
        if pair.request != *text || !self.is_open() {
            return false;
        }
        self.auto_responded_ms.set(Some(host.clock.now_ms()));
        self.answer_with(Frame::Text(pair.response.clone()));
        true
    }
}

/// Takes what the peer says. When the peer lets go of it without a word, it is lost.
struct Up {
    socket: Rc<Socket>,
    is_over: Cell<bool>,
}

impl Up {
    fn check(&self) -> Result<(), Error> {
        let socket = &self.socket;
        if self.is_over.get() || socket.has_ended() {
            return Err(CLOSED);
        }
        if socket.inbox.borrow().len() >= INBOX || socket.inbox_bytes.sum() > INBOX_BYTES {
            return Err(Error::Overloaded {
                what: "the messages of a WebSocket that nobody waits for (messages)",
                limit: INBOX as u64,
            });
        }
        Ok(())
    }
}

impl Target for Up {
    fn deliver(&self, call: Call) {
        if call.interface_id != socket::Client::TYPE_ID {
            let error = Error::Unimplemented("this is a Socket".into());
            return call.reply.finish(Err(error.into()));
        }
        let read = self.check();
        if let Err(Error::Overloaded { .. }) = &read {
            self.socket
                .give_up(POLICY, "it does not wait for its messages to be taken");
        }
        let read = read.map_err(fault::not_delivered);
        let read = read.and_then(|()| Frame::read(call.method_id, call.params.get()?));
        match read {
            Ok(frame) if self.socket.has_failed.get() && !frame.is_last() => {
                call.reply.finish(Err(CLOSED.into()));
            }
            Ok(frame) if self.socket.answers_itself(&frame) => call.reply.finish(Ok(None)),
            Ok(frame) => {
                self.is_over.set(frame.is_last());
                self.socket.hear(Heard::Frame(frame), Some(call.reply));
            }
            Err(error) => call.reply.finish(Err(error)),
        }
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        if !self.is_over.get() && !self.socket.has_ended() {
            self.socket
                .hear(Heard::Gone(1006, "the connection was lost"), None);
        }
    }
}

/// A socket that the object has accepted and not told anybody about yet. Dropped, it is given up.
pub(in crate::object) struct Offer(Option<Rc<Socket>>);

impl Offer {
    pub fn new(socket: Rc<Socket>) -> Offer {
        Offer(Some(socket))
    }

    pub fn take(mut self) -> Option<Rc<Socket>> {
        self.0.take()
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        if let Some(socket) = self.0.take() {
            socket.conclude();
        }
    }
}

/// The answer to who asked for a socket, on its way out of the object.
pub(in crate::object) struct Acceptance {
    pub exchange: exchange::Client,
    pub headers: HeaderMap,
    pub socket: Rc<Socket>,
    pub asked: Option<Reply>,
}

impl Output for Box<Acceptance> {
    const WAY: Way = Way::Accept;

    /// Tells the asker.
    fn release(self) {
        let Acceptance {
            exchange,
            headers,
            socket,
            asked,
        } = *self;
        socket.asked.set(asked);
        let mut request = exchange.upgrade_request();
        let mut params = request.get();
        write_headers(&headers, |count| params.reborrow().init_headers(count));
        params.set_up(socket.up());
        // As long as the pipeline is there, the asker's call is not over, and its end of the socket is
        // not let go of.
        let RemotePromise { promise, .. } = request.send();
        tokio::task::spawn_local(async move {
            let down = async { promise.await?.get()?.get_down() };
            match timeout(TAKE_UP, down).await {
                Ok(Ok(down)) => socket.open(down),
                // The asker has let go of its end.
                Ok(Err(error)) => tracing::debug!(%error, "a WebSocket that nobody took"),
                Err(_) => socket.give_up(POLICY, "it was not taken up in time"),
            }
        });
    }

    /// The asker must not be told.
    fn fail(mut self, error: &Error) {
        if let Some(asked) = self.asked.take() {
            asked.finish(Err(fault::outcome_unknown(error.clone())));
        }
        self.socket.conclude();
    }
}

/// Something that the object says to a peer, on its way through the gate.
pub(in crate::object) struct Spoken {
    socket: Rc<Socket>,
    /// `None` when it has left.
    said: Option<Untaken>,
}

impl Output for Spoken {
    const WAY: Way = Way::Frame;

    /// Tells the peer.
    fn release(mut self) {
        if let Some(said) = self.said.take() {
            self.socket.leave(said);
        }
    }

    fn fail(self, _: &Error) {}
}

impl Drop for Spoken {
    /// A turn that was undone has said nothing: what the vat answers by itself does not wait for it.
    fn drop(&mut self) {
        let Some(said) = self.said.take() else {
            return;
        };
        if said.frame.is_last() {
            self.socket.has_closed.set(false);
        }
        self.socket.left.set(self.socket.left.get() + 1);
        self.socket.answer();
    }
}
