//! JSON values one after another, cut anywhere: the body of `POST /publish` (CONTRACT 3).
//!
//! Line breaks between them are as good as any white space, so NDJSON is one case of it. Only what
//! is a value by RFC 8259 comes out; what the value means is the caller's business.

use bytes::{Buf as _, Bytes, BytesMut};
use memchr::memchr_iter;

use crate::json::{self, DEPTH_MAX, Fault, JsonError, JsonFault, Scanner};

/// Splits a stream of JSON values. Memory is bounded by the largest value that is allowed.
///
/// For each piece that arrives call [`JsonStream::next`] with it until it answers `None`: then the
/// piece is used up. When the stream is over, call [`JsonStream::finish`] once.
#[derive(Debug)]
pub struct JsonStream {
    scanner: Scanner,
    /// What of the current value lay in earlier pieces.
    partial: BytesMut,
    /// Bytes of the current value so far, kept or not.
    value_bytes: usize,
    entry_bytes_max: usize,
    state: State,
    /// Line breaks before the piece's front, and characters between the last of them and it.
    line: usize,
    column: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Reading,
    /// The current value is too large: it is read, but not kept.
    Skipping,
    /// No way to find the next value.
    Broken,
}

impl JsonStream {
    /// A stream of values of at most `entry_bytes_max` bytes each.
    #[must_use]
    pub fn new(entry_bytes_max: usize) -> Self {
        Self {
            scanner: Self::scanner(),
            partial: BytesMut::new(),
            value_bytes: 0,
            entry_bytes_max,
            state: State::Reading,
            line: 0,
            column: 0,
        }
    }

    /// A payload lies one level inside its command.
    fn scanner() -> Scanner {
        Scanner::new(DEPTH_MAX + 1)
    }

    /// Takes the next complete value off the stream; `None` when `input` is used up, or after a
    /// syntax error. A value that lay in one piece shares that piece's memory.
    ///
    /// [`JsonStreamError::TooLarge`] stands for one value: go on after it.
    /// [`JsonStreamError::Syntax`] is the last answer.
    pub fn next(&mut self, input: &mut Bytes) -> Option<Result<Bytes, JsonStreamError>> {
        if self.state == State::Broken {
            input.clear();
            return None;
        }
        if self.scanner.is_fresh() {
            let spaces = input.iter().take_while(|byte| json::is_space(**byte)).count();
            self.pass(input, spaces);
            input.advance(spaces);
        }
        if input.is_empty() {
            return None;
        }
        match self.scanner.scan(input) {
            Ok(Some(end)) => {
                self.pass(input, end);
                self.scanner = Self::scanner();
                self.keep(input.split_to(end), true)
            }
            Ok(None) => {
                self.pass(input, input.len());
                self.keep(std::mem::take(input), false)
            }
            Err(Fault { fault, at }) => {
                self.pass(input, at);
                input.clear();
                Some(Err(self.broken(fault)))
            }
        }
    }

    /// Says that the stream is over: a number may end with it, anything else was cut.
    ///
    /// # Errors
    ///
    /// [`JsonStreamError::Syntax`], or [`JsonStreamError::TooLarge`] for a value not told yet.
    pub fn finish(&mut self) -> Result<Option<Bytes>, JsonStreamError> {
        if self.state == State::Broken || self.scanner.is_fresh() {
            return Ok(None);
        }
        if let Err(fault) = self.scanner.finish() {
            return Err(self.broken(fault));
        }
        self.scanner = Self::scanner();
        self.keep(Bytes::new(), true).transpose()
    }

    /// Adds `part` to the current value, and yields that if it is complete.
    fn keep(&mut self, part: Bytes, is_last: bool) -> Option<Result<Bytes, JsonStreamError>> {
        self.value_bytes += part.len();
        let too_large = self.state == State::Reading && self.value_bytes > self.entry_bytes_max;
        if too_large {
            self.state = State::Skipping;
            self.partial = BytesMut::new();
        }
        if !is_last {
            if self.state == State::Reading {
                self.partial.extend_from_slice(&part);
            }
            return too_large.then_some(Err(JsonStreamError::TooLarge(self.entry_bytes_max)));
        }
        self.value_bytes = 0;
        let was_skipped = std::mem::replace(&mut self.state, State::Reading) == State::Skipping;
        if too_large {
            return Some(Err(JsonStreamError::TooLarge(self.entry_bytes_max)));
        }
        if was_skipped {
            return None;
        }
        if self.partial.is_empty() {
            return Some(Ok(part));
        }
        self.partial.extend_from_slice(&part);
        Some(Ok(std::mem::take(&mut self.partial).freeze()))
    }

    /// Counts the first `len` bytes of `input` as read.
    fn pass(&mut self, input: &[u8], len: usize) {
        let read = input.get(..len).unwrap_or(input);
        let lines = memchr_iter(b'\n', read).count();
        let (_, column) = json::place(read);
        self.line += lines;
        self.column = if lines == 0 { self.column } else { 0 } + column - 1;
    }

    fn broken(&mut self, fault: JsonFault) -> JsonStreamError {
        self.state = State::Broken;
        self.partial = BytesMut::new();
        JsonStreamError::Syntax(JsonError { fault, line: self.line + 1, column: self.column + 1 })
    }
}

/// Why a value did not come out; the publisher's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonStreamError {
    /// No JSON; the rest can't be read. Lines and columns are the stream's.
    #[error("the body is not JSON: {0}; what came before it was taken")]
    Syntax(JsonError),
    /// One value of more than so many bytes.
    #[error("the publication is larger than the {0} bytes that are allowed")]
    TooLarge(usize),
}
