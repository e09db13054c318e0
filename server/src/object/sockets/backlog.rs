//! What was said to peers and they have not taken: counted, so that there is an end to it.

use std::{cell::Cell, rc::Rc};

use crate::fetch::Frame;

/// How many bytes may be on their way to a peer, or wait for it, before it is taken to be too slow. A
/// message more may be.
const MOST: usize = 16 << 20;

/// Likewise, when more than [`CROWDED`] wait in the whole vat.
const MOST_IN_CROWD: usize = 256 << 10;

/// How many bytes may wait in the vat before peers that are behind have to go.
const CROWDED: usize = 256 << 20;

/// The account of one peer.
pub(super) struct Backlog {
    bytes: Cell<usize>,
    /// Of all peers of the vat.
    vat: Rc<Cell<usize>>,
}

impl Backlog {
    pub fn new(vat: Rc<Cell<usize>>) -> Rc<Backlog> {
        Rc::new(Backlog {
            bytes: Cell::default(),
            vat,
        })
    }

    /// Whether the peer is too slow for anything else to be said to it.
    pub fn is_full(&self) -> bool {
        let limit = if self.vat.get() > CROWDED {
            MOST_IN_CROWD
        } else {
            MOST
        };
        self.bytes.get() > limit
    }

    /// This is to be told to the peer, too.
    pub fn add(self: &Rc<Self>, frame: Frame) -> Untaken {
        let bytes = frame.weight();
        self.change(|sum| sum + bytes);
        Untaken {
            frame,
            counted: Counted {
                bytes,
                backlog: self.clone(),
            },
        }
    }

    fn change(&self, change: impl Fn(usize) -> usize) {
        self.bytes.set(change(self.bytes.get()));
        self.vat.set(change(self.vat.get()));
    }
}

/// Something that the peer has not taken. It counts until it is dropped, whatever becomes of it.
pub(super) struct Untaken {
    pub frame: Frame,
    pub counted: Counted,
}

/// The bytes of a frame.
pub(super) struct Counted {
    bytes: usize,
    backlog: Rc<Backlog>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.backlog.change(|sum| sum - self.bytes);
    }
}
