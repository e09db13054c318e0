//! The bytes of WebSocket frames that peers have not taken, and their limits.

use crate::{
    Error, Result,
    account::{Account, Counted},
    fetch::Frame,
};

/// The most bytes of frames that may wait at a peer's connection before the peer counts as behind.
const BEHIND: usize = 16 << 20;

/// The most bytes of frames that may wait at a peer's connection in a crowd before the peer counts as behind.
const BEHIND_IN_CROWD: usize = 256 << 10;

/// The bytes of frames for one peer up to which [`Backlog::room`] has room for another.
const ROOM: usize = 256 << 10;

/// The most bytes of answers of the vat's own that may wait for one peer.
const ANSWERS: usize = 1 << 20;

/// The most bytes of answers of the vat's own that may wait for one peer in a crowd.
const ANSWERS_IN_CROWD: usize = 64 << 10;

/// What waits for the peers of all sockets of a vat, of one of its objects, or of one socket: a sum of bytes
/// and its limit.
#[derive(Clone)]
pub(super) struct Total {
    bytes: Account,
    limit: usize,
}

impl Total {
    pub fn new(limit: usize) -> Total {
        Total {
            bytes: Account::default(),
            limit,
        }
    }

    /// A total within this one: of an object of the vat, or of a socket of the object.
    pub fn part(&self, limit: usize) -> Total {
        Total {
            bytes: Account::within(&self.bytes),
            limit,
        }
    }

    /// The bytes that wait.
    pub fn bytes(&self) -> usize {
        self.bytes.sum()
    }

    fn is_crowded(&self) -> bool {
        self.bytes() > self.limit / 2
    }

    fn check(&self, what: &'static str) -> Result<()> {
        if self.bytes() <= self.limit {
            return Ok(());
        }
        Err(Error::Overloaded {
            what,
            limit: self.limit as u64,
        })
    }
}

/// The frames that wait for one peer.
pub(super) struct Backlog {
    /// All frames, those at the object's gate among them.
    peer: Total,
    /// The frames that have left the gate.
    left: Account,
    /// The answers of the vat's own.
    answers: Account,
    object: Total,
    vat: Total,
}

impl Backlog {
    pub fn new(limit: usize, object: &Total, vat: &Total) -> Backlog {
        Backlog {
            peer: object.part(limit),
            left: Account::default(),
            answers: Account::default(),
            object: object.clone(),
            vat: vat.clone(),
        }
    }

    /// The bytes that wait for the peer, those at the object's gate among them.
    pub fn bytes(&self) -> usize {
        self.peer.bytes()
    }

    /// Refuses another frame of the object if as much waits for the peer, for all peers of the object, or for
    /// those of the vat, as may.
    ///
    /// # Errors
    ///
    /// `overloaded`, with the limit and the key of its setting.
    pub fn check(&self) -> Result<()> {
        self.peer.check(
            "the queue for the peer of the WebSocket (bytes, limits.socket_bytes; \
             `WebSocket::ready` waits for room)",
        )?;
        self.object.check(
            "the queue for the peers of the object's WebSockets (bytes, \
             limits.socket_bytes_per_object; `WebSocket::ready` waits for room)",
        )?;
        self.vat.check(
            "the queue for the peers of all WebSockets (bytes, limits.socket_bytes_per_vat; \
             `WebSocket::ready` waits for room)",
        )
    }

    /// Waits until another frame for the peer has room.
    pub async fn room(&self) {
        let most = ROOM.min(self.peer.limit);
        while self.peer.bytes() > most || self.check().is_err() {
            self.peer.bytes.falls_to(most).await;
            self.object.bytes.falls_to(self.object.limit).await;
            self.vat.bytes.falls_to(self.vat.limit).await;
        }
    }

    /// Whether so much has left the gate and was not taken that a peer which takes nothing has to go soon.
    pub fn is_behind(&self) -> bool {
        let limit = if self.is_crowded() {
            BEHIND_IN_CROWD
        } else {
            BEHIND
        };
        self.left.sum() > limit
    }

    /// Whether too many answers of the vat's own wait for another one.
    pub fn is_full_of_answers(&self) -> bool {
        let limit = if self.is_crowded() {
            ANSWERS_IN_CROWD
        } else {
            ANSWERS
        };
        self.answers.sum() > limit
    }

    fn is_crowded(&self) -> bool {
        self.object.is_crowded() || self.vat.is_crowded()
    }

    /// Adds a frame that is to be sent to the peer.
    pub fn add(&self, frame: Frame) -> Untaken {
        Untaken {
            counted: Count {
                _bytes: self.peer.bytes.count(frame.weight()),
                left: None,
                answer: None,
            },
            frame,
        }
    }

    /// Adds an answer of the vat's own.
    pub fn add_answer(&self, frame: Frame) -> Untaken {
        let mut added = self.add(frame);
        added.counted.answer = Some(self.answers.count(added.frame.weight()));
        added
    }

    /// Notes that a frame is past the gate: from now on it is for the peer to take it.
    pub fn leave(&self, untaken: &mut Untaken) {
        untaken.counted.left = Some(self.left.count(untaken.frame.weight()));
    }
}

/// A frame that the peer has not taken. It counts until it is dropped.
pub(super) struct Untaken {
    pub frame: Frame,
    pub counted: Count,
}

/// What one frame counts while its peer has not taken it.
pub(super) struct Count {
    _bytes: Counted,
    left: Option<Counted>,
    answer: Option<Counted>,
}
