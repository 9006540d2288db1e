//! JSON values one after another, cut anywhere: the body of `POST /publish` (CONTRACT 3).
//!
//! Line breaks between them are as good as any white space, so NDJSON is one case of it. Only what
//! is a value by RFC 8259's grammar comes out; whether its strings are UTF-8, and what it means, is the
//! caller's business.

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
    /// The current value is too large, which was told, and no JSON, which is told next.
    Failing(JsonFault),
    /// No way to find the next value.
    Broken,
}

/// Which part of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Last,
    More,
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
        match self.state {
            State::Reading | State::Skipping => {}
            State::Failing(fault) => {
                input.clear();
                return Some(Err(self.broken(fault)));
            }
            State::Broken => {
                input.clear();
                return None;
            }
        }
        while !input.is_empty() {
            if self.scanner.is_fresh() {
                let spaces = input.iter().take_while(|byte| json::is_space(**byte)).count();
                self.pass(input, spaces);
                input.advance(spaces);
            }
            let item = match self.scanner.scan(input) {
                Ok(Some(end)) => {
                    self.pass(input, end);
                    self.scanner = Self::scanner();
                    self.keep(input.split_to(end), Part::Last)
                }
                Ok(None) if input.is_empty() => None,
                Ok(None) => {
                    self.pass(input, input.len());
                    self.keep(std::mem::take(input), Part::More)
                }
                Err(Fault { fault, at }) => {
                    self.pass(input, at);
                    // As if the piece were cut here: what is too large by now is told as that first.
                    let too_large = self.keep(input.split_to(at), Part::More);
                    if too_large.is_some() {
                        self.state = State::Failing(fault);
                        return too_large;
                    }
                    input.clear();
                    Some(Err(self.broken(fault)))
                }
            };
            if item.is_some() {
                return item;
            }
        }
        None
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
        self.keep(Bytes::new(), Part::Last).transpose()
    }

    /// Adds `part` to the current value, and yields that if it is complete.
    fn keep(&mut self, part: Bytes, place: Part) -> Option<Result<Bytes, JsonStreamError>> {
        self.value_bytes = self.value_bytes.saturating_add(part.len());
        let is_news = self.state == State::Reading && self.value_bytes > self.entry_bytes_max;
        if is_news {
            self.state = State::Skipping;
            self.partial = BytesMut::new();
        }
        let too_large = is_news.then_some(Err(JsonStreamError::TooLarge(self.entry_bytes_max)));
        match place {
            Part::More => {
                if self.state == State::Reading {
                    self.partial.extend_from_slice(&part);
                }
                too_large
            }
            Part::Last => {
                self.value_bytes = 0;
                if std::mem::replace(&mut self.state, State::Reading) == State::Skipping {
                    return too_large;
                }
                if self.partial.is_empty() {
                    return Some(Ok(part));
                }
                self.partial.extend_from_slice(&part);
                Some(Ok(std::mem::take(&mut self.partial).freeze()))
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// All that comes out of `pieces`: values, and errors in angle brackets.
    fn split<'a>(bytes_max: usize, pieces: impl Iterator<Item = &'a [u8]>) -> Vec<String> {
        let show = |item: Result<Bytes, JsonStreamError>| match item {
            Ok(value) => String::from_utf8(value.to_vec()).unwrap(),
            Err(error) => format!("<{error}>"),
        };
        let mut stream = JsonStream::new(bytes_max);
        let mut items = Vec::new();
        for piece in pieces {
            let mut piece = Bytes::copy_from_slice(piece);
            while let Some(item) = stream.next(&mut piece) {
                items.push(show(item));
            }
            assert!(piece.is_empty(), "None means that the piece is used up");
            assert!(stream.partial.len() <= bytes_max, "memory is bounded");
        }
        items.extend(stream.finish().transpose().map(show));
        items
    }

    /// Checks what comes out of `text`, whole and with every cut.
    #[track_caller]
    fn check(text: &str, expect: &[&str]) {
        for cut in 0..=text.len() {
            let (front, back) = text.as_bytes().split_at(cut);
            assert_eq!(split(20, [front, back].into_iter()), expect, "cut at {cut}");
        }
        assert_eq!(split(20, text.as_bytes().chunks(1)), expect, "byte by byte");
    }

    #[test]
    fn values_follow_one_another_with_or_without_space() {
        check("", &[]);
        check(" \n\r\n\t", &[]);
        check("{\"a\":1}\n{\"b\":[2]}\n", &["{\"a\":1}", "{\"b\":[2]}"]);
        check("{}{}[]\"x\"{\n}", &["{}", "{}", "[]", "\"x\"", "{\n}"]);
        check("  {\"\u{fc}\":\"}{\"}  ", &["{\"\u{fc}\":\"}{\"}"]);
        check("1 23\ntrue null", &["1", "23", "true", "null"]);
        check("{} 42", &["{}", "42"]);
    }

    #[test]
    fn a_syntax_error_is_the_last_answer() {
        let found = |place: &str, found: &str, due: &str| {
            format!(
                "<the body is not JSON: {place}: found '{found}' where {due} is due; what came before it was taken>"
            )
        };
        check("{}\n{\"a\" 1}\n{}", &["{}", &found("line 2, column 6", "1", "':'")]);
        check("{},{}", &["{}", &found("line 1, column 3", ",", "a value")]);
        check(
            "{}\n\n  \"\u{fc}\" ]",
            &["{}", "\"\u{fc}\"", &found("line 3, column 7", "]", "a value")],
        );
        check(
            "{\"a\":\n1",
            &[
                "<the body is not JSON: line 2, column 2: the text ends where ',' or '}' is due; what came before it was taken>",
            ],
        );
    }

    #[test]
    fn a_value_that_is_too_large_is_left_out_alone() {
        let large = "<the publication is larger than the 20 bytes that are allowed>";
        let fits = format!("[\"{}\"]", "x".repeat(16));
        let over = format!("[\"{}\"]", "x".repeat(17));
        let far_over = format!("[\"{}\"]", "x".repeat(100));
        check(&fits, &[&fits]);
        check(
            &format!("{over}{fits}{far_over} {{}}{far_over}"),
            &[large, &fits, large, "{}", large],
        );
        check(
            &format!("{far_over}]"),
            &[
                large,
                "<the body is not JSON: line 1, column 105: found ']' where a value is due; what came before it was taken>",
            ],
        );
        check(&"1".repeat(30), &[large]);
        // One that is no JSON either is both, for where it was cut nobody knows that yet.
        let broken = |column: u32| {
            format!(
                "<the body is not JSON: line 1, column {column}: found ']' where a value is due; what came before it was taken>"
            )
        };
        check(&format!("[\"{}\",]", "x".repeat(16)), &[&broken(21)]);
        check(&format!("[\"{}\",]", "x".repeat(17)), &[large, &broken(22)]);
    }

    #[test]
    fn a_payload_may_be_128_deep_inside_its_command() {
        let command =
            |depth: usize| format!("{{\"data\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
        let split = |text: &str| split(1000, [text.as_bytes()].into_iter());
        assert_eq!(split(&command(128)), [command(128)]);
        assert_eq!(
            split(&command(129)),
            [
                "<the body is not JSON: line 1, column 137: nested deeper than 129 levels; what came before it was taken>"
            ]
        );
    }

    #[test]
    fn a_value_in_one_piece_is_not_copied() {
        let mut piece = Bytes::from_static(b"{} {}");
        let front = piece.as_ptr();
        let value = JsonStream::new(20).next(&mut piece).unwrap().unwrap();
        assert_eq!(value.as_ptr(), front);
    }
}
