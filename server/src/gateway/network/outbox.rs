//! Messages on their way out: a queue, and the task that writes it.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use capnp::message::{Builder, HeapAllocator};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::shared::Shared;

/// Why writing ended before everything was written.
#[derive(Debug)]
pub(super) enum WriteError {
    Io(io::Error),
    /// The peer took nothing for [`Limits::stall`](super::Limits::stall).
    Stalled,
    /// The peer does not read, and the vat has no room for what waits for it.
    Overrun,
}

impl From<io::Error> for WriteError {
    fn from(error: io::Error) -> Self {
        WriteError::Io(error)
    }
}

/// Up to this many bytes are put together for one write.
const BATCH_BYTES: usize = 64 << 10;
/// While more of a burst is at hand, this many bytes make a write: the peer can work on those answers
/// in the meantime.
const BURST_BYTES: usize = 2 << 10;
/// Messages from this size on, in bytes, are written from where they are instead of copied.
const LARGE_BYTES: usize = 16 << 10;

/// A message that has been sent: kept by capnp-rpc too, for pipelining on its capabilities.
pub(super) type Sent = Rc<Builder<HeapAllocator>>;

/// Messages that wait to be written.
#[derive(Default)]
pub(super) struct Outbox {
    queue: VecDeque<Sent>,
    /// Bytes in the queue and in the batch being written.
    pub(super) unwritten_bytes: usize,
    /// More complete messages of the peer are at hand: their answers should share a write.
    burst: bool,
    /// Nothing follows what is queued.
    closing: bool,
    /// The bytes that are written in place of all messages.
    instead: Option<&'static [u8]>,
    writer: Option<Waker>,
}

impl Outbox {
    /// Queues a message of `bytes`. It is dropped if other bytes are written instead.
    pub(super) fn push(&mut self, message: Sent, bytes: usize) {
        if self.instead.is_some() {
            return;
        }
        self.queue.push_back(message);
        self.unwritten_bytes += bytes;
        if !self.burst || self.unwritten_bytes >= BURST_BYTES {
            self.wake();
        }
    }

    /// Says whether the reader has more messages at hand without waiting for the peer.
    pub(super) fn set_burst(&mut self, burst: bool) {
        self.burst = burst && !self.closing;
        if !self.burst && !self.queue.is_empty() {
            self.wake();
        }
    }

    /// Has these bytes written in place of all messages, to a peer that would not understand those.
    pub(super) fn end_with(&mut self, bytes: &'static [u8]) {
        self.clear();
        self.instead = Some(bytes);
    }

    /// Ends the writer once it has written what is queued.
    pub(super) fn close(&mut self) {
        self.closing = true;
        self.burst = false;
        self.wake();
    }

    /// Drops what is queued.
    pub(super) fn clear(&mut self) {
        self.queue = VecDeque::new();
        self.unwritten_bytes = 0;
    }

    fn wake(&mut self) {
        if let Some(waker) = self.writer.take() {
            waker.wake();
        }
    }

    /// Ready when there is something to write (`true`) or nothing will ever follow (`false`).
    fn poll_work(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let hold_back = self.burst && !self.closing && self.unwritten_bytes < BURST_BYTES;
        if !self.queue.is_empty() && !hold_back {
            return Poll::Ready(true);
        }
        if self.closing {
            return Poll::Ready(false);
        }
        self.writer = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Moves small messages into `batch`, up to its size, and returns the large one after them.
    fn take_batch(&mut self, batch: &mut Vec<u8>) -> Option<Sent> {
        while batch.len() < BATCH_BYTES {
            let message = self.queue.pop_front()?;
            append_table(&message, batch);
            if message.size_in_words() * 8 >= LARGE_BYTES {
                return Some(message);
            }
            for segment in message.get_segments_for_output().iter() {
                batch.extend_from_slice(segment);
            }
        }
        None
    }
}

/// The table of segments in front of a message.
fn append_table(message: &Sent, batch: &mut Vec<u8>) {
    let segments = message.get_segments_for_output();
    batch.extend_from_slice(&(segments.len() as u32 - 1).to_le_bytes());
    for segment in segments.iter() {
        batch.extend_from_slice(&((segment.len() / 8) as u32).to_le_bytes());
    }
    if segments.len().is_multiple_of(2) {
        batch.extend_from_slice(&[0; 4]);
    }
}

/// How many bytes a message takes on the wire.
pub(super) fn wire_bytes(message: &Builder<HeapAllocator>) -> usize {
    let segments = message.get_segments_for_output();
    let body: usize = segments.iter().map(|segment| segment.len()).sum();
    (segments.len() / 2 + 1) * 8 + body
}

/// Writes until the outbox is closed and empty, then ends the stream.
pub(super) async fn write<W: AsyncWrite + Unpin>(
    shared: Rc<Shared>,
    mut stream: W,
) -> Result<(), WriteError> {
    let stall = shared.limits.stall;
    let mut batch = Vec::new();
    loop {
        let work = std::future::poll_fn(|cx| shared.outbox.borrow_mut().poll_work(cx)).await;
        if !work {
            let instead = shared.outbox.borrow_mut().instead.unwrap_or_default();
            write_all_vectored(&mut stream, &mut [IoSlice::new(instead)], stall).await?;
            return Ok(stream.shutdown().await?);
        }
        // What the current poll of the RPC system still has to answer joins this write.
        step_aside().await;
        batch.clear();
        let large = shared.outbox.borrow_mut().take_batch(&mut batch);
        let mut written = batch.len();
        let mut slices = vec![IoSlice::new(&batch)];
        if let Some(message) = &large {
            let segments = message.get_segments_for_output();
            written += segments.iter().map(|segment| segment.len()).sum::<usize>();
            slices.extend(segments.iter().map(|segment| IoSlice::new(segment)));
        }
        write_all_vectored(&mut stream, &mut slices, stall).await?;
        shared.wrote(written);
        if batch.capacity() > BATCH_BYTES * 2 {
            batch = Vec::new();
        }
    }
}

/// Writes all of `slices`, as long as the peer takes something at least every `stall`.
async fn write_all_vectored<W: AsyncWrite + Unpin>(
    stream: &mut W,
    mut slices: &mut [IoSlice<'_>],
    stall: Duration,
) -> Result<(), WriteError> {
    IoSlice::advance_slices(&mut slices, 0);
    while !slices.is_empty() {
        // Sets no timer unless the stream takes nothing at once.
        let taken = timeout(stall, stream.write_vectored(slices)).await;
        let written = taken.map_err(|_| WriteError::Stalled)??;
        if written == 0 {
            return Err(io::Error::from(io::ErrorKind::WriteZero).into());
        }
        IoSlice::advance_slices(&mut slices, written);
    }
    Ok(())
}

/// Lets every task that is ready run once. `tokio::task::yield_now` would ask the kernel for events
/// first, which costs more than the write.
async fn step_aside() {
    let mut stepped = false;
    std::future::poll_fn(|cx| {
        if stepped {
            return Poll::Ready(());
        }
        stepped = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use super::Outbox;
    use crate::gateway::network::reply;

    /// What is queued when everything ends is written, whatever the reader says after that.
    #[test]
    fn a_closing_outbox_holds_nothing_back() {
        let mut outbox = Outbox::default();
        outbox.set_burst(true);
        outbox.push(std::rc::Rc::new(reply::finish(1, true)), 40);
        let mut cx = Context::from_waker(Waker::noop());
        assert_eq!(outbox.poll_work(&mut cx), Poll::Pending);
        outbox.close();
        outbox.set_burst(true);
        assert_eq!(outbox.poll_work(&mut cx), Poll::Ready(true));
        outbox.take_batch(&mut Vec::new());
        assert_eq!(outbox.poll_work(&mut cx), Poll::Ready(false));
    }
}
