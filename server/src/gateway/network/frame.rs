//! Bytes in, messages out: the standard stream framing.

use capnp::Word;
use capnp::message::{Builder, HeapAllocator, ReaderSegments};
use vatwerk::Code;

use super::{Limits, Refusal};

/// A fresh buffer's size, in bytes: most connections never need more.
const BUFFER_BYTES: usize = 4 << 10;
/// How far a buffer grows, in bytes, for peers that send much at a time.
const BUFFER_CEILING: usize = 64 << 10;
/// Messages from this size on, in bytes, are read into their own memory at once.
const LARGE_BYTES: usize = 32 << 10;

/// One message in aligned memory, its segments one after the other.
pub(super) struct Frame {
    words: Vec<Word>,
    /// Where each segment ends, in words; empty if there is one segment.
    ends: Vec<u32>,
}

impl Frame {
    /// A copy of a message of ours.
    pub(super) fn copy_of(message: &Builder<HeapAllocator>) -> Self {
        let segments = message.get_segments_for_output();
        let bytes = segments.concat();
        let mut words = Word::allocate_zeroed_vec(bytes.len() / 8);
        Word::words_to_bytes_mut(&mut words).copy_from_slice(&bytes);
        let mut end = 0;
        let ends = segments.iter().map(|segment| {
            end += segment.len() as u32 / 8;
            end
        });
        let ends = ends.collect();
        Frame { words, ends }
    }

    /// The size in bytes, without the table of segments.
    pub(super) fn len_bytes(&self) -> usize {
        self.words.len() * 8
    }

    /// Overwrites the little-endian 16-bit value at `address`, which a reader of this frame found.
    /// `false` if that is not in this frame.
    pub(super) fn overwrite_u16(&mut self, address: usize, value: u16) -> bool {
        let bytes = Word::words_to_bytes_mut(&mut self.words);
        let place = address
            .checked_sub(bytes.as_ptr() as usize)
            .and_then(|start| bytes.get_mut(start..start.checked_add(2)?));
        match place {
            Some(place) => {
                place.copy_from_slice(&value.to_le_bytes());
                true
            }
            None => false,
        }
    }
}

impl ReaderSegments for Frame {
    fn get_segment(&self, id: u32) -> Option<&[u8]> {
        if self.ends.is_empty() {
            return (id == 0).then(|| Word::words_to_bytes(&self.words));
        }
        let index = id as usize;
        let end = *self.ends.get(index)? as usize;
        let start = match index {
            0 => 0,
            _ => self.ends[index - 1] as usize,
        };
        Some(Word::words_to_bytes(&self.words[start..end]))
    }

    fn len(&self) -> usize {
        self.ends.len().max(1)
    }
}

/// A message that is arriving into its own memory.
struct Large {
    frame: Frame,
    filled_bytes: usize,
    total_words: usize,
}

/// What a table of segments says.
struct Header {
    header_bytes: usize,
    total_words: usize,
    ends: Vec<u32>,
}

/// Cuts a stream of bytes into frames. Holds at most one buffer and one partial message, and takes
/// memory only in proportion to what has arrived.
pub(super) struct FrameReader {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    large: Option<Large>,
    max_segments: u32,
    max_message_bytes: u64,
}

impl FrameReader {
    pub(super) fn new(limits: &Limits) -> Self {
        FrameReader {
            buffer: Vec::new(),
            start: 0,
            end: 0,
            large: None,
            max_segments: limits.segments(),
            max_message_bytes: limits.max_message_bytes,
        }
    }

    /// The bytes of the next message that are here, if no large one has begun.
    pub(super) fn here(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Whether the stream stands between two messages.
    pub(super) fn at_boundary(&self) -> bool {
        self.large.is_none() && self.start == self.end
    }

    /// The memory of a large message that has arrived in part, in bytes, with the room for what comes
    /// next.
    pub(super) fn arriving_bytes(&self) -> usize {
        let large = self.large.as_ref();
        large.map_or(0, |large| large.frame.len_bytes())
    }

    /// Makes room for the next bytes.
    pub(super) fn make_room(&mut self) {
        if let Some(large) = &mut self.large {
            let words = &mut large.frame.words;
            if large.filled_bytes == words.len() * 8 {
                let grown = (words.len() * 2).max(BUFFER_CEILING / 8);
                words.resize(grown.min(large.total_words), ZERO);
            }
            return;
        }
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
        if self.end == self.buffer.len() {
            // Full: the peer sends faster than this side reads, or a message does not fit.
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
            if self.buffer.len() < BUFFER_CEILING {
                let grown = (self.buffer.len() * 2).max(BUFFER_BYTES);
                self.buffer.resize(grown, 0);
            }
        }
    }

    /// The room for the next bytes; not empty after [`FrameReader::make_room`]. Tell
    /// [`FrameReader::filled`] how many came.
    pub(super) fn space(&mut self) -> &mut [u8] {
        match &mut self.large {
            Some(large) => {
                &mut Word::words_to_bytes_mut(&mut large.frame.words)[large.filled_bytes..]
            }
            None => &mut self.buffer[self.end..],
        }
    }

    /// `bytes` have been put into what [`FrameReader::space`] returned last.
    pub(super) fn filled(&mut self, bytes: usize) {
        match &mut self.large {
            Some(large) => large.filled_bytes += bytes,
            None => {
                self.end += bytes;
                if bytes > 0 && self.end == self.buffer.len() && self.end < BUFFER_CEILING {
                    let grown = self.buffer.len() * 2;
                    self.buffer.resize(grown, 0);
                }
            }
        }
    }

    /// The next message, if all of it is here.
    pub(super) fn next(&mut self) -> Result<Option<Frame>, Refusal> {
        if let Some(large) = &self.large {
            if large.filled_bytes < large.total_words * 8 {
                return Ok(None);
            }
            return Ok(self.large.take().map(|large| large.frame));
        }
        let Some(header) = self.header()? else {
            return Ok(None);
        };
        let body = self.start + header.header_bytes;
        let total_bytes = header.total_words * 8;
        let here = (self.end - body).min(total_bytes);
        if here < total_bytes && total_bytes < LARGE_BYTES {
            return Ok(None);
        }
        let mut words = Word::allocate_zeroed_vec(here.div_ceil(8));
        Word::words_to_bytes_mut(&mut words)[..here]
            .copy_from_slice(&self.buffer[body..body + here]);
        self.start = body + here;
        let frame = Frame {
            words,
            ends: header.ends,
        };
        if here == total_bytes {
            return Ok(Some(frame));
        }
        let mut frame = frame;
        let room = (here / 4).max(BUFFER_CEILING / 8);
        frame.words.resize(room.min(header.total_words), ZERO);
        self.large = Some(Large {
            frame,
            filled_bytes: here,
            total_words: header.total_words,
        });
        Ok(None)
    }

    fn header(&self) -> Result<Option<Header>, Refusal> {
        let here = self.here();
        let number = |index: usize| {
            let bytes = here.get(index * 4..index * 4 + 4)?;
            Some(u32::from_le_bytes(bytes.try_into().expect("four bytes")))
        };
        let Some(last) = number(0) else {
            return Ok(None);
        };
        let segments = u64::from(last) + 1;
        if segments > u64::from(self.max_segments) {
            return Err(Refusal::new(
                Code::LimitExceeded,
                format!(
                    "a message has at most {} segments, and this one announces {segments}",
                    self.max_segments
                ),
            ));
        }
        let segments = segments as usize;
        let header_bytes = (segments / 2 + 1) * 8;
        if here.len() < header_bytes {
            return Ok(None);
        }
        let mut total_words = 0_u64;
        let mut ends = Vec::with_capacity(if segments > 1 { segments } else { 0 });
        for segment in 0..segments {
            total_words += u64::from(number(segment + 1).expect("the header is here"));
            let total_bytes = total_words.saturating_mul(8);
            // Checked at every step, so that no end overflows its 32 bits.
            if total_bytes > self.max_message_bytes || total_words > u64::from(u32::MAX) {
                return Err(Refusal::new(
                    Code::LimitExceeded,
                    format!(
                        "a message has at most {} bytes, and this one announces {total_bytes} or more",
                        self.max_message_bytes
                    ),
                ));
            }
            if segments > 1 {
                ends.push(total_words as u32);
            }
        }
        Ok(Some(Header {
            header_bytes,
            total_words: total_words as usize,
            ends,
        }))
    }
}

const ZERO: Word = capnp::word(0, 0, 0, 0, 0, 0, 0, 0);
