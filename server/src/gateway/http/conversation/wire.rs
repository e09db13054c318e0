//! A WebSocket on a connection: tungstenite's protocol, polled, with buffers that shrink again.

use std::{
    io::{self, Cursor, Read, Write},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio_tungstenite::tungstenite::{
    Error, Message,
    protocol::{
        CloseFrame, Role, WebSocketConfig, WebSocketContext,
        frame::{
            FrameHeader,
            coding::{Data, OpCode},
        },
    },
};

/// How much is read at a time, in bytes, and what an idle socket keeps for that.
const BUFFER: usize = 4 << 10;

/// From how many bytes on a message may make buffers grow.
const LARGE: usize = BUFFER / 4;

/// What a frame counts beside its bytes.
const AROUND: usize = 64;

/// A WebSocket on a connection, as the server has it.
pub struct Wire<S> {
    io: S,
    protocol: WebSocketContext,
    notes: Notes,
    unsent: usize,
    /// Whether the buffers of `protocol` are larger than they were at first.
    has_grown: bool,
    max_message_bytes: usize,
}

/// A message that is not here whole.
pub struct Part {
    /// The memory for it, in bytes: that of a frame is there when its length is.
    pub bytes: usize,
    /// The bytes of it that are here.
    pub received: u64,
}

/// What is seen of the bytes that pass.
#[derive(Default)]
struct Notes {
    heard: bool,
    sent: bool,
    place: Place,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    /// A WebSocket whose handshake is over, and of which this has been read since. Messages of the
    /// client have at most so many bytes.
    pub fn new(io: S, before: &[u8], max_message_bytes: usize) -> Wire<S> {
        let config = WebSocketConfig::default()
            .read_buffer_size(BUFFER)
            // Nothing is written before the flush. How much that may be is for the caller to see to.
            .write_buffer_size(usize::MAX - 1)
            .max_message_size(Some(max_message_bytes))
            .max_frame_size(Some(max_message_bytes));
        let mut notes = Notes::default();
        notes.place.pass(before);
        let (read, role) = (before.to_vec(), Role::Server);
        Wire {
            io,
            protocol: WebSocketContext::from_partially_read(read, role, Some(config)),
            notes,
            unsent: 0,
            has_grown: before.len() > LARGE,
            max_message_bytes,
        }
    }

    /// The next message of the client, pings and pongs included. What answers it by itself, such as a
    /// pong, is sent with the next flush or read.
    pub fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<Message, Error>> {
        let message = ready!(self.poll(cx, |protocol, polled| protocol.read(polled)))?;
        self.has_grown |= message.len() > LARGE;
        Poll::Ready(Ok(message))
    }

    /// Puts a message where the next flush finds it.
    pub fn write(&mut self, message: Message) -> Result<(), Error> {
        self.unsent += message.len() + AROUND;
        self.has_grown |= self.unsent > LARGE;
        buffered(self.protocol.write(&mut Full, message))
    }

    /// Puts the close frame where the next flush finds it. Nothing can be written after it.
    pub fn close(&mut self, close: Option<CloseFrame>) -> Result<(), Error> {
        self.unsent += AROUND;
        buffered(self.protocol.close(&mut Full, close))
    }

    /// Hands what was written to the connection. [`Error::ConnectionClosed`] when that was the end of
    /// the closing handshake.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        ready!(self.poll(cx, |protocol, polled| protocol.flush(polled)))?;
        self.unsent = 0;
        Poll::Ready(Ok(()))
    }

    /// About how many bytes wait for a flush.
    pub fn unsent(&self) -> usize {
        self.unsent
    }

    /// Gives back the memory that large messages have taken. To be called when there is nothing to read
    /// and nothing to flush.
    pub fn shrink(&mut self) {
        // The protocol keeps its buffers for ever, so another takes its place, at a moment when it knows
        // nothing that is still needed.
        if self.has_grown && self.notes.place.is_between_messages() {
            let config = *self.protocol.get_config();
            self.protocol = WebSocketContext::new(Role::Server, Some(config));
            self.has_grown = false;
        }
    }

    /// The part that is here of a message of the client, if one is not whole.
    pub fn unfinished(&self) -> Option<Part> {
        let place = &self.notes.place;
        (!place.is_between_messages()).then(|| Part {
            // A longer one is refused, and a short one is in the buffer that every socket has.
            bytes: match place.announced.min(self.max_message_bytes as u64) as usize {
                ..=BUFFER => 0,
                bytes => bytes,
            },
            received: place.announced.saturating_sub(place.missing),
        })
    }

    /// Whether any byte came since this was last asked.
    pub fn has_heard(&mut self) -> bool {
        std::mem::take(&mut self.notes.heard)
    }

    /// Whether the connection took any byte since this was last asked.
    pub fn has_sent(&mut self) -> bool {
        std::mem::take(&mut self.notes.sent)
    }

    /// Says that nothing more is sent.
    pub async fn shutdown(&mut self) -> io::Result<()> {
        self.io.shutdown().await
    }

    /// Reads until the client ends the connection, whatever it sends. A connection that is dropped with
    /// bytes unread is reset, and the client may lose what it was sent last.
    pub async fn discard(&mut self) -> io::Result<()> {
        tokio::io::copy(&mut self.io, &mut tokio::io::sink()).await?;
        Ok(())
    }

    fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        act: impl FnOnce(&mut WebSocketContext, &mut Polled<'_, '_, S>) -> Result<T, Error>,
    ) -> Poll<Result<T, Error>> {
        let mut polled = Polled {
            io: &mut self.io,
            notes: &mut self.notes,
            cx,
        };
        match act(&mut self.protocol, &mut polled) {
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
            done => Poll::Ready(done),
        }
    }
}

/// That the connection takes nothing at the moment does not matter: it was only to be buffered.
fn buffered(done: Result<(), Error>) -> Result<(), Error> {
    match done {
        Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        done => done,
    }
}

/// The connection for the length of a poll.
struct Polled<'a, 'b, S> {
    io: &'a mut S,
    notes: &'a mut Notes,
    cx: &'a mut Context<'b>,
}

impl<S: AsyncRead + Unpin> Read for Polled<'_, '_, S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut buffer = ReadBuf::new(buffer);
        now(Pin::new(&mut *self.io).poll_read(self.cx, &mut buffer))?;
        self.notes.heard |= !buffer.filled().is_empty();
        self.notes.place.pass(buffer.filled());
        Ok(buffer.filled().len())
    }
}

impl<S: AsyncWrite + Unpin> Write for Polled<'_, '_, S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = now(Pin::new(&mut *self.io).poll_write(self.cx, bytes))?;
        self.notes.sent |= taken > 0;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        now(Pin::new(&mut *self.io).poll_flush(self.cx))
    }
}

fn now<T>(polled: Poll<io::Result<T>>) -> io::Result<T> {
    match polled {
        Poll::Ready(done) => done,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}

/// A connection that takes nothing at the moment.
struct Full;

impl Read for Full {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }
}

impl Write for Full {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Err(io::ErrorKind::WouldBlock.into())
    }
}

/// Where in the client's frames the bytes that were read end.
#[derive(Default)]
struct Place {
    /// What is there of a header.
    header: [u8; Self::LONGEST_HEADER],
    header_bytes: usize,
    /// How much is missing of a frame.
    missing: u64,
    /// Whether more frames of the message are to come.
    is_within_message: bool,
    /// The bytes of the message that is not here whole, as far as its frames have told their lengths.
    announced: u64,
}

impl Place {
    const LONGEST_HEADER: usize = 14;

    fn is_between_messages(&self) -> bool {
        self.header_bytes == 0 && self.missing == 0 && !self.is_within_message
    }

    fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let of_frame = bytes
                .len()
                .min(self.missing.try_into().unwrap_or(usize::MAX));
            self.missing -= of_frame as u64;
            bytes = &bytes[of_frame..];
            if let Some((byte, rest)) = bytes.split_first() {
                self.header[self.header_bytes] = *byte;
                self.header_bytes += 1;
                bytes = rest;
                self.parse();
            }
            if self.is_between_messages() {
                self.announced = 0;
            }
        }
    }

    fn parse(&mut self) {
        let mut header = Cursor::new(&self.header[..self.header_bytes]);
        match FrameHeader::parse(&mut header) {
            Ok(None) => {}
            Ok(Some((header, bytes))) => {
                self.header_bytes = 0;
                self.missing = bytes;
                if let OpCode::Data(Data::Text | Data::Binary | Data::Continue) = header.opcode {
                    self.is_within_message = !header.is_final;
                    self.announced = self.announced.saturating_add(bytes);
                }
            }
            // The protocol will see it too, and fail.
            Err(_) => {
                self.header_bytes = 0;
                self.missing = u64::MAX;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use proptest::prelude::*;
    use tokio_tungstenite::tungstenite::protocol::frame::Frame;

    use super::*;

    fn frame(opcode: OpCode, bytes: usize, is_final: bool) -> Vec<u8> {
        let header = FrameHeader {
            is_final,
            opcode,
            mask: Some([0x81; 4]),
            ..FrameHeader::default()
        };
        let mut written = Vec::new();
        let frame = Frame::from_payload(header, vec![0x81; bytes].into());
        frame.format(&mut written).unwrap();
        written
    }

    proptest! {
        /// However frames are cut, it is known where each of them ends.
        #[test]
        fn the_end_of_a_message_is_found_in_any_pieces(
            lengths in prop::collection::vec((0..3u8, prop_oneof![0..300usize, 65_530..65_540usize]), 1..6),
            piece in 1..9_000usize,
        ) {
            let mut place = Place::default();
            prop_assert!(place.is_between_messages());
            for (kind, bytes) in lengths {
                let (frame, ends) = match kind {
                    0 => (frame(OpCode::Data(Data::Text), bytes, true), true),
                    1 => (frame(OpCode::Data(Data::Binary), bytes, false), false),
                    _ => {
                        place.pass(&frame(OpCode::Data(Data::Binary), 7, false));
                        prop_assert!(!place.is_between_messages());
                        (frame(OpCode::Data(Data::Continue), bytes, true), true)
                    }
                };
                let (last, most) = frame.split_last().unwrap();
                for piece in most.chunks(piece) {
                    place.pass(piece);
                    prop_assert!(!place.is_between_messages());
                }
                place.pass(&[*last]);
                prop_assert_eq!(place.is_between_messages(), ends);
                prop_assert!(!ends || place.announced == 0);
            }
        }

        /// What is given back is never something that is still needed.
        #[test]
        fn a_wire_that_shrinks_whenever_it_may_loses_nothing(
            messages in prop::collection::vec((any::<bool>(), prop_oneof![0..50usize, 900..9_000usize]), 1..12),
            piece in prop_oneof![1..100usize, 1_000..20_000usize],
            before in 0..9_000usize,
        ) {
            let binary = OpCode::Data(Data::Binary);
            let mut sent = Vec::new();
            for (is_cut, bytes) in &messages {
                if *is_cut {
                    sent.extend(frame(binary, bytes / 2, false));
                    sent.extend(frame(OpCode::Data(Data::Continue), bytes - bytes / 2, true));
                } else {
                    sent.extend(frame(binary, *bytes, true));
                }
            }
            let (io, mut client) = tokio::io::duplex(sent.len());
            let (before, sent) = sent.split_at(before.min(sent.len()));
            let mut wire = Wire::new(io, before, 9_000);
            let cx = &mut Context::from_waker(std::task::Waker::noop());
            let mut expected = messages.iter();
            for piece in std::iter::once(&[][..]).chain(sent.chunks(piece)) {
                client.write_all(piece).now_or_never().unwrap().unwrap();
                while let Poll::Ready(message) = wire.poll_read(cx) {
                    let (_, bytes) = expected.next().unwrap();
                    prop_assert_eq!(message.unwrap(), Message::binary(vec![0x81; *bytes]));
                }
                wire.shrink();
            }
            prop_assert!(expected.next().is_none());
            prop_assert!(!wire.has_grown);
        }
    }
}
