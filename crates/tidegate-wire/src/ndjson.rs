//! NDJSON: lines, and the HTTP/1.1 chunks that carry them (RFC 9112 §7.1).
//!
//! A line is bytes without a line break; whether it is JSON is the caller's business. A line and
//! its chunk are framed together, so that one shared piece is all that a subscriber is sent.

use bytes::{Buf as _, Bytes, BytesMut};
use memchr::memchr;

/// What follows a chunk's bytes.
pub const CHUNK_END: &[u8; 2] = b"\r\n";

/// The chunk that ends a body; without it the peer knows that it was cut.
pub const LAST_CHUNK: &[u8; 5] = b"0\r\n\r\n";

/// Appends a chunk. An empty one would end the body, so nothing is written for it.
pub fn write_chunk(out: &mut Vec<u8>, bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    out.reserve(bytes.len() + 12);
    write_chunk_head(out, bytes.len());
    out.extend_from_slice(bytes);
    out.extend_from_slice(CHUNK_END);
}

/// Appends what is in front of a chunk of `len` bytes, which is not 0; [`CHUNK_END`] goes behind it.
pub fn write_chunk_head(out: &mut Vec<u8>, len: usize) {
    debug_assert_ne!(len, 0, "an empty chunk ends the body");
    let digits = (usize::BITS - len.leading_zeros()).div_ceil(4);
    for digit in (0..digits).rev() {
        let nibble = len >> (digit * 4) & 0x0F;
        out.push(HEX_DIGITS.get(nibble).copied().unwrap_or(b'0'));
    }
    out.extend_from_slice(b"\r\n");
}

const HEX_DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Splits a stream into lines. LF ends one, a CR before it belongs to it, and empty ones are lines
/// too: they are how an idle stream shows that it lives.
///
/// For each piece that arrives call [`LineSplitter::next`] with it until it answers `None`: then
/// the piece is used up. When the stream is over, call [`LineSplitter::finish`] once.
#[derive(Debug)]
pub struct LineSplitter {
    /// A line's beginning that came in earlier pieces.
    partial: BytesMut,
    line_bytes_max: usize,
    /// The current line is too long: the rest of it is dropped.
    is_skipping: bool,
}

impl LineSplitter {
    /// A splitter for lines of at most `line_bytes_max` bytes, without their ends.
    #[must_use]
    pub fn new(line_bytes_max: usize) -> Self {
        Self { partial: BytesMut::new(), line_bytes_max, is_skipping: false }
    }

    /// Takes the next complete line off the stream; `None` when `input` is used up. A line that lay
    /// in one piece shares that piece's memory.
    ///
    /// [`LineTooLong`] stands for one line, and is said as soon as it is known: go on after it.
    pub fn next(&mut self, input: &mut Bytes) -> Option<Result<Bytes, LineTooLong>> {
        while !input.is_empty() {
            let Some(at) = memchr(b'\n', input) else {
                let part = std::mem::take(input);
                if self.is_skipping {
                    return None;
                }
                // One more: it may be the CR of the line's end.
                if self.partial.len() + part.len() > self.line_bytes_max + 1 {
                    return Some(Err(self.too_long()));
                }
                self.partial.extend_from_slice(&part);
                return None;
            };
            let part = input.split_to(at);
            input.advance(1);
            if std::mem::take(&mut self.is_skipping) {
                continue;
            }
            let line = self.complete(part);
            if line.is_err() {
                self.is_skipping = false;
            }
            return Some(line);
        }
        None
    }

    /// Says that the stream is over, and takes the last line, if it was not ended.
    ///
    /// # Errors
    ///
    /// [`LineTooLong`], if it is that.
    pub fn finish(&mut self) -> Result<Option<Bytes>, LineTooLong> {
        if self.partial.is_empty() || self.is_skipping {
            return Ok(None);
        }
        self.complete(Bytes::new()).map(Some)
    }

    fn complete(&mut self, part: Bytes) -> Result<Bytes, LineTooLong> {
        let mut line = if self.partial.is_empty() {
            part
        } else {
            self.partial.extend_from_slice(&part);
            std::mem::take(&mut self.partial).freeze()
        };
        if line.last() == Some(&b'\r') {
            line.truncate(line.len() - 1);
        }
        if line.len() > self.line_bytes_max { Err(self.too_long()) } else { Ok(line) }
    }

    fn too_long(&mut self) -> LineTooLong {
        self.partial = BytesMut::new();
        self.is_skipping = true;
        LineTooLong(self.line_bytes_max)
    }
}

/// A line of more than so many bytes; the peer's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a line is longer than the {0} bytes that are allowed")]
pub struct LineTooLong(pub usize);
