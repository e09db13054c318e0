//! The turn that runs, where other threads can read it.

use std::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
    fence,
};

use vatwerk::ObjectId;

/// How often a reader looks at a cell that is changed while it looks. Turns that change so often hold
/// nobody up.
const TRIES: usize = 64;

/// What of an object a turn runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runs {
    /// A method of the object, or of a capability of its own.
    Method {
        /// The id of the interface that declares it.
        interface_id: u64,
        /// Its number there.
        ordinal: u16,
    },
    /// Migrations, `create` and `activate`.
    Waking,
    /// `fetch`.
    Fetch,
    /// Alarms that are due.
    Alarms,
    /// A handler of WebSockets.
    Socket,
    /// Work that `wait_until` was given.
    Background,
    /// No code of the object: its database gives free pages back.
    GivingBack,
}

/// A turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TurnId {
    /// The interface id of the class.
    pub class: u64,
    pub object: ObjectId,
    pub runs: Runs,
}

/// A turn, and when it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Running {
    pub began: u64,
    pub turn: TurnId,
}

/// Where one thread says which turn it runs: a sequence lock, so that to say it costs a dozen plain
/// stores, and readers never hold it up.
#[derive(Default)]
pub(super) struct TurnCell {
    /// Odd while the rest is changed.
    sequence: AtomicU64,
    /// 0 while no turn runs.
    began: AtomicU64,
    class: AtomicU64,
    object: [AtomicU64; 4],
    /// The kind in the upper half, an ordinal in the lower.
    runs: AtomicU64,
    interface: AtomicU64,
}

impl TurnCell {
    /// A turn begins. Only for the one thread that writes.
    pub fn begin(&self, began: u64, turn: &TurnId) {
        let sequence = self.sequence.load(Relaxed);
        self.sequence.store(sequence.wrapping_add(1), Relaxed);
        fence(Release);
        let (runs, interface) = encode(turn.runs);
        self.class.store(turn.class, Relaxed);
        for (to, from) in self.object.iter().zip(words(turn.object)) {
            to.store(from, Relaxed);
        }
        self.runs.store(runs, Relaxed);
        self.interface.store(interface, Relaxed);
        self.began.store(began, Relaxed);
        self.sequence.store(sequence.wrapping_add(2), Release);
    }

    /// The turn has ended. Only for the one thread that writes.
    pub fn end(&self) {
        self.began.store(0, Relaxed);
    }

    /// The turn that runs, if one does.
    pub fn read(&self) -> Option<Running> {
        for _ in 0..TRIES {
            let before = self.sequence.load(Acquire);
            let began = self.began.load(Relaxed);
            let class = self.class.load(Relaxed);
            let object = [0, 1, 2, 3].map(|word: usize| self.object[word].load(Relaxed));
            let runs = self.runs.load(Relaxed);
            let interface = self.interface.load(Relaxed);
            fence(Acquire);
            if before % 2 == 1 || self.sequence.load(Relaxed) != before {
                std::hint::spin_loop();
                continue;
            }
            let turn = TurnId {
                class,
                object: object_id(object),
                runs: decode(runs, interface),
            };
            return (began != 0).then_some(Running { began, turn });
        }
        None
    }
}

fn words(id: ObjectId) -> [u64; 4] {
    let (words, _) = id.0.as_chunks::<8>();
    [0, 1, 2, 3].map(|word: usize| u64::from_le_bytes(words[word]))
}

fn object_id(words: [u64; 4]) -> ObjectId {
    let mut bytes = [0; 32];
    for (to, from) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(words) {
        *to = from.to_le_bytes();
    }
    ObjectId(bytes)
}

fn encode(runs: Runs) -> (u64, u64) {
    let kind = |kind: u64| (kind << 32, 0);
    match runs {
        Runs::Method {
            interface_id,
            ordinal,
        } => (u64::from(ordinal), interface_id),
        Runs::Waking => kind(1),
        Runs::Fetch => kind(2),
        Runs::Alarms => kind(3),
        Runs::Socket => kind(4),
        Runs::Background => kind(5),
        Runs::GivingBack => kind(6),
    }
}

fn decode(runs: u64, interface_id: u64) -> Runs {
    match runs >> 32 {
        0 => Runs::Method {
            interface_id,
            ordinal: runs as u16,
        },
        1 => Runs::Waking,
        2 => Runs::Fetch,
        3 => Runs::Alarms,
        4 => Runs::Socket,
        5 => Runs::Background,
        _ => Runs::GivingBack,
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, thread};

    use super::*;

    fn turn(number: u8, runs: Runs) -> TurnId {
        TurnId {
            class: u64::from(number),
            object: ObjectId([number; 32]),
            runs,
        }
    }

    #[test]
    fn a_turn_is_read_as_it_was_written_until_it_ends() {
        let cell = TurnCell::default();
        assert_eq!(cell.read(), None);
        let method = Runs::Method {
            interface_id: u64::MAX,
            ordinal: u16::MAX,
        };
        let all = [
            method,
            Runs::Waking,
            Runs::Fetch,
            Runs::Alarms,
            Runs::Socket,
            Runs::Background,
            Runs::GivingBack,
        ];
        for (began, runs) in (1..).zip(all) {
            let turn = turn(began as u8, runs);
            cell.begin(began, &turn);
            assert_eq!(cell.read(), Some(Running { began, turn }));
            cell.end();
            assert_eq!(cell.read(), None);
        }
    }

    #[test]
    fn a_reader_never_sees_parts_of_two_turns() {
        let cell = Arc::new(TurnCell::default());
        let read = {
            let cell = cell.clone();
            thread::spawn(move || {
                let mut seen = 0;
                while seen < 10_000 {
                    let Some(running) = cell.read() else { continue };
                    let number = running.began as u8;
                    assert_eq!(running.turn, turn(number, Runs::Fetch));
                    seen += 1;
                }
            })
        };
        for number in (1..=255).cycle() {
            if read.is_finished() {
                break;
            }
            cell.begin(u64::from(number), &turn(number, Runs::Fetch));
            if number % 5 == 0 {
                cell.end();
            }
        }
        read.join().unwrap();
    }
}
