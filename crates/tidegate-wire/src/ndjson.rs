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

#[cfg(test)]
mod tests {
    use super::*;

    /// All lines of `pieces`, each ended by `|`; `!` for one that is too long, last the rest.
    fn split<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> String {
        let mut splitter = LineSplitter::new(8);
        let mut lines = String::new();
        let mut show = |item: Result<Bytes, LineTooLong>| match item {
            Ok(line) => lines.push_str(&format!("{}|", line.escape_ascii())),
            Err(LineTooLong(max)) => {
                assert_eq!(max, 8);
                lines.push('!');
            }
        };
        for piece in pieces {
            let mut piece = Bytes::copy_from_slice(piece);
            while let Some(item) = splitter.next(&mut piece) {
                show(item);
            }
            assert!(piece.is_empty(), "None means that the piece is used up");
            assert!(splitter.partial.len() <= 9, "memory is bounded");
        }
        if let Some(last) = splitter.finish().transpose() {
            show(last);
        }
        lines
    }

    #[track_caller]
    fn check(text: &str, expect: &str) {
        for cut in 0..=text.len() {
            let (front, back) = text.as_bytes().split_at(cut);
            assert_eq!(split([front, back].into_iter()), expect, "cut at {cut}");
        }
        assert_eq!(split(text.as_bytes().chunks(1)), expect, "byte by byte");
    }

    #[test]
    fn lines_end_at_lf_and_may_be_empty() {
        check("", "");
        check("a\nb\n", "a|b|");
        check("a\n\n\nb", "a|||b|");
        check("a\r\n\r\nb\r\n", "a||b|");
        check("a\rb\r\r\n", "a\\rb\\r|");
        check("{\"a\":1}\n\n{}", "{\\\"a\\\":1}||{}|");
    }

    #[test]
    fn a_line_that_is_too_long_is_left_out_alone() {
        check("12345678\n12345678\r\n1234567\r", "12345678|12345678|1234567|");
        check("123456789\na\n", "!a|");
        check("a\n1234567890123\nb\n123456789", "a|!b|!");
        check("123456789\r\n\n", "!|");
        check("123456789012345678", "!");
    }

    #[test]
    fn a_line_in_one_piece_is_not_copied() {
        let mut piece = Bytes::from_static(b"a\nb\n");
        let front = piece.as_ptr();
        let line = LineSplitter::new(8).next(&mut piece).unwrap().unwrap();
        assert_eq!(line.as_ptr(), front);
    }

    #[test]
    fn chunks_say_their_length_in_hexadecimal() {
        for len in [1_usize, 9, 10, 15, 16, 255, 256, 4095, 4096, 0xABCDE, 1 << 20] {
            let mut head = b"x".to_vec();
            write_chunk_head(&mut head, len);
            assert_eq!(head, format!("x{len:x}\r\n").as_bytes());
        }
        let mut out = Vec::new();
        write_chunk(&mut out, b"0123456789\n");
        write_chunk(&mut out, b"");
        write_chunk(&mut out, b"\n");
        out.extend_from_slice(LAST_CHUNK);
        assert_eq!(out, b"b\r\n0123456789\n\r\n1\r\n\n\r\n0\r\n\r\n");
    }
}
