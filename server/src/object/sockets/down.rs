//! The way from an object to the peer of one WebSocket, and how long a peer may take for it.
//!
//! The peer's connection is offered a window of frames; the others wait here. Time is counted in ticks that
//! the vat's thread has lived through: while a turn holds that thread, no peer can be blamed for taking
//! nothing.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    future::poll_fn,
    pin::Pin,
    time::Duration,
};

use capnp::{ErrorKind, capability::Promise};
use tokio::{
    sync::Notify,
    time::{Instant, MissedTickBehavior, interval_at, timeout},
};
use vatwerk::{Code, http_capnp::socket};

use super::backlog::{Backlog, Count, Untaken};
use crate::fetch::{Frame, send_frame};

/// The bytes that a connection is offered at once. The last frame may go beyond it.
const WINDOW: usize = 256 << 10;

/// The unit in which it is counted how long a peer takes nothing.
const TICK: Duration = Duration::from_secs(1);

/// The ticks in which a peer may take nothing of what it is offered.
const PATIENCE: u64 = 30;

/// The bytes of what it is offered for which a peer has another tick.
const BYTES_PER_TICK: u64 = 16 << 10;

/// The ticks in which a peer that is behind may take nothing. It is enough for the vat's thread to come round to
/// every connection, however many are served.
const PATIENCE_BEHIND: u64 = 10;

/// The bytes of what it is offered for which a peer that is behind has another tick.
const BYTES_PER_TICK_BEHIND: u64 = 256 << 10;

/// How long frames count that a peer was offered and had not taken when it was given up: its connection has
/// as long to end.
const LAST_PATIENCE: Duration = Duration::from_secs(10);

/// For how many frames there is always memory.
const FEW: usize = 4;

/// The way to the peer of a WebSocket.
pub(super) struct Down {
    pub backlog: Backlog,
    /// The frames that are past the gate and that the connection has not been offered.
    queue: RefCell<VecDeque<Untaken>>,
    /// The capability that takes frames, from when the peer has taken up the socket until nothing is left
    /// to be sent.
    peer: RefCell<Option<socket::Client>>,
    /// Whether nothing more comes into the queue.
    is_finished: Cell<bool>,
    is_carrying: Cell<bool>,
    more: Notify,
}

/// How carrying frames to a peer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carried {
    /// The peer has taken all there was.
    All,
    /// The peer has had its time, and has taken nothing.
    TooSlow,
    /// The peer, which is there, has refused a frame.
    Refused,
}

impl Down {
    pub fn new(backlog: Backlog) -> Down {
        Down {
            backlog,
            queue: RefCell::default(),
            peer: RefCell::default(),
            is_finished: Cell::default(),
            is_carrying: Cell::default(),
            more: Notify::new(),
        }
    }

    /// Puts a frame into the queue.
    pub fn push(&self, mut untaken: Untaken) {
        self.backlog.leave(&mut untaken);
        self.queue.borrow_mut().push_back(untaken);
        self.more.notify_one();
    }

    /// The peer has taken up the socket.
    pub fn open(&self, peer: socket::Client) {
        self.peer.replace(Some(peer));
    }

    /// Whether somebody has to call [`Down::carry`] for the frames to be sent. Then it counts as called.
    pub fn begin_carrying(&self) -> bool {
        let is_idle = !self.is_carrying.get() && self.peer.borrow().is_some();
        let begins = is_idle && !self.queue.borrow().is_empty();
        if begins {
            self.is_carrying.set(true);
        }
        begins
    }

    /// Lets go of the peer when it has taken what is in the queue. A peer that has not taken up the socket
    /// gets nothing.
    pub fn finish(&self) {
        self.is_finished.set(true);
        if self.peer.borrow().is_none() {
            drop(self.queue.take());
        }
        self.let_go();
    }

    /// Drops the queue, and tells the peer only this. False if it has been told the end before.
    pub fn cut_short(&self, last: Frame) -> bool {
        let queue = self.queue.take();
        let knows_end = queue.is_empty() && self.is_finished.get();
        drop(queue);
        if !knows_end {
            self.push(self.backlog.add(last));
        }
        self.let_go();
        !knows_end
    }

    fn let_go(&self) {
        let is_over = self.is_finished.get() && !self.is_carrying.get();
        if is_over && self.queue.borrow().is_empty() {
            drop(self.peer.take());
        }
    }

    /// Carries frames to the peer until none is left, or the peer is too slow or refuses one. To be called when
    /// [`Down::begin_carrying`] says so.
    pub async fn carry(&self) -> Carried {
        let mut offered = Offered::default();
        let mut ticks = interval_at(Instant::now() + TICK, TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut idle = 0;
        let carried = loop {
            self.offer(&mut offered);
            if offered.frames.is_empty() {
                break Carried::All;
            }
            tokio::select! {
                biased;
                taken = offered.taken() => match taken {
                    Err(error) if is_refusal(&error) => break Carried::Refused,
                    _ => idle = 0,
                },
                () = self.more.notified() => {}
                _ = ticks.tick() => {
                    idle += 1;
                    if idle >= self.patience(&offered) {
                        break Carried::TooSlow;
                    }
                }
            }
        };
        self.is_carrying.set(false);
        if carried == Carried::TooSlow {
            tokio::task::spawn_local(timeout(LAST_PATIENCE, offered.all_taken()));
        }
        let mut queue = self.queue.borrow_mut();
        if queue.is_empty() {
            queue.shrink_to(FEW);
        }
        drop(queue);
        self.let_go();
        carried
    }

    fn offer(&self, offered: &mut Offered) {
        let Some(peer) = self.peer.borrow().clone() else {
            return;
        };
        while offered.bytes < WINDOW {
            let Some(next) = self.queue.borrow_mut().pop_front() else {
                return;
            };
            offered.send(&peer, next);
        }
    }

    /// The ticks in which the peer may take nothing of what it is offered.
    fn patience(&self, offered: &Offered) -> u64 {
        let (patience, bytes_per_tick) = if self.backlog.is_behind() {
            (PATIENCE_BEHIND, BYTES_PER_TICK_BEHIND)
        } else {
            (PATIENCE, BYTES_PER_TICK)
        };
        patience + offered.bytes as u64 / bytes_per_tick
    }
}

/// The frames that a connection is offered and has not taken.
#[derive(Default)]
struct Offered {
    frames: VecDeque<(Promise<(), capnp::Error>, usize, Count)>,
    bytes: usize,
}

impl Offered {
    fn send(&mut self, peer: &socket::Client, untaken: Untaken) {
        // The message has the bytes now.
        let Untaken { frame, counted } = untaken;
        let bytes = frame.weight();
        self.bytes += bytes;
        self.frames
            .push_back((send_frame(peer, &frame), bytes, counted));
    }

    /// Waits until the first frame is taken.
    async fn taken(&mut self) -> capnp::Result<()> {
        let Some((first, ..)) = self.frames.front_mut() else {
            return Ok(());
        };
        let taken = poll_fn(|cx| Pin::new(&mut *first).poll(cx)).await;
        if let Some((_, bytes, _)) = self.frames.pop_front() {
            self.bytes -= bytes;
        }
        taken
    }

    /// Waits until no frame is left.
    async fn all_taken(mut self) {
        while !self.frames.is_empty() {
            // The peer has been given up already.
            let _ = self.taken().await;
        }
    }
}

/// Whether a frame was refused by a peer that is there, and that has not closed the socket: the way up tells of
/// the others.
fn is_refusal(error: &capnp::Error) -> bool {
    let is_closed = Code::split(&error.extra).0 == Some(Code::Closed);
    error.kind != ErrorKind::Disconnected && !is_closed
}
