//! The bytes of WebSocket frames that peers have not taken, and their limits.

use crate::{
    account::{Account, Counted},
    fetch::Frame,
};

/// The most bytes of frames that may wait for one peer before it counts as too slow. A frame more may wait.
const MOST: usize = 16 << 20;

/// The most bytes of frames that may wait for one peer while more than [`CROWDED`] wait in the vat.
const MOST_IN_CROWD: usize = 256 << 10;

/// The bytes of frames that may wait in the vat before peers that are behind have to go.
const CROWDED: usize = 256 << 20;

/// The frames that wait for one peer.
pub(super) struct Backlog {
    bytes: Account,
    /// The frames that wait for all peers of the vat.
    vat: Account,
}

impl Backlog {
    pub fn new(vat: Account) -> Backlog {
        Backlog {
            bytes: Account::within(&vat),
            vat,
        }
    }

    /// Whether the peer is too slow to be sent another frame.
    pub fn is_full(&self) -> bool {
        let limit = if self.vat.sum() > CROWDED {
            MOST_IN_CROWD
        } else {
            MOST
        };
        self.bytes.sum() > limit
    }

    /// Adds a frame that is to be sent to the peer.
    pub fn add(&self, frame: Frame) -> Untaken {
        Untaken {
            counted: self.bytes.count(frame.weight()),
            frame,
        }
    }
}

/// A frame that the peer has not taken. It counts until it is dropped.
pub(super) struct Untaken {
    pub frame: Frame,
    pub counted: Counted,
}
