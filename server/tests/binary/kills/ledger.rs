//! What a client puts down of its calls, in a file of its own.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    iter,
    path::Path,
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
};

use serde::{Deserialize, Serialize};

use super::things::Thing;

/// One line of a ledger.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub struct Line {
    pub event: Event,
    pub thing: Thing,
    /// Which write of the thing; of a counter, the count that an increment returned, or zero.
    pub number: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// This is known from the round before, and not in question any more.
    Settled,
    /// The call is about to be made.
    Sent,
    /// The call has succeeded.
    Acknowledged,
}

/// A ledger, for its client to write.
pub struct Ledger {
    file: Arc<File>,
    acknowledged: mpsc::Sender<Line>,
    writer: JoinHandle<()>,
}

impl Ledger {
    /// Goes on with the ledger that was begun there. `synced` is told each time how many more
    /// acknowledgements are on disk.
    pub fn open(path: &Path, synced: impl Fn(usize) + Send + 'static) -> Ledger {
        let file = OpenOptions::new().append(true).open(path).unwrap();
        let file = Arc::new(file);
        let (acknowledged, lines) = mpsc::channel();
        let writer = thread::spawn({
            let file = file.clone();
            move || {
                while let Ok(first) = lines.recv() {
                    // One sync for all that have come during the one before.
                    let batch: Vec<_> = iter::once(first).chain(lines.try_iter()).collect();
                    write(&file, &batch).unwrap();
                    file.sync_data().unwrap();
                    synced(batch.len());
                }
            }
        });
        Ledger {
            file,
            acknowledged,
            writer,
        }
    }

    /// To be called before the call is made. It is not synced: the machine goes on when the vat is
    /// killed.
    pub fn sent(&self, thing: Thing, number: u64) {
        let event = Event::Sent;
        let line = Line {
            event,
            thing,
            number,
        };
        write(&self.file, &[line]).unwrap();
    }

    pub fn acknowledged(&self, thing: Thing, number: u64) {
        let event = Event::Acknowledged;
        let line = Line {
            event,
            thing,
            number,
        };
        self.acknowledged.send(line).unwrap();
    }

    /// Returns when everything is on disk.
    pub fn close(self) {
        drop(self.acknowledged);
        self.writer.join().unwrap();
    }
}

/// Makes a ledger that says this.
pub fn begin(path: &Path, settled: &[Line]) {
    write(&File::create_new(path).unwrap(), settled).unwrap();
}

pub fn read(path: &Path) -> Vec<Line> {
    let text = fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// How many calls were not answered.
pub fn under_way(ledgers: &[Vec<Line>]) -> usize {
    let lines = |event| {
        let lines = ledgers.iter().flatten();
        lines.filter(|line| line.event == event).count()
    };
    lines(Event::Sent) - lines(Event::Acknowledged)
}

/// In one piece, for two threads write.
fn write(mut file: &File, lines: &[Line]) -> io::Result<()> {
    let mut text = String::new();
    for line in lines {
        text += &serde_json::to_string(line).unwrap();
        text.push('\n');
    }
    file.write_all(text.as_bytes())
}
