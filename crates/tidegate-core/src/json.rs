//! JSON text, checked as it comes (RFC 8259): is this one value, where does it end, what is wrong.
//!
//! Nothing is built and nothing is copied; a [`Scanner`] takes its text cut anywhere. UTF-8 is not
//! its business: bytes above 0x7F pass inside strings, so [`check`] and whoever else feeds it looks
//! at that once for the whole text. A lone surrogate escape passes too: the grammar allows it, and
//! texts are kept byte for byte.

use std::fmt;

use memchr::{memchr_iter, memrchr};

/// Deepest nesting of a payload: `[]` has depth 1.
pub const DEPTH_MAX: u8 = 128;

/// Checks that `text` is one JSON value with nothing but white space around it, in UTF-8, and at
/// most [`DEPTH_MAX`] deep.
///
/// # Errors
///
/// [`JsonError`]: what is wrong first, and where.
pub fn check(text: &[u8]) -> Result<(), JsonError> {
    if let Err(error) = simdutf8::basic::from_utf8(text).or_else(|_| std::str::from_utf8(text)) {
        return Err(JsonError::new(JsonFault::Utf8, text, error.valid_up_to()));
    }
    check_grammar(text).map_err(|Fault { fault, at }| JsonError::new(fault, text, at))
}

/// [`check`] for a text that is known to be UTF-8, without the price of saying where in lines.
pub(crate) fn check_grammar(text: &[u8]) -> Result<(), Fault> {
    let mut scanner = Scanner::new(DEPTH_MAX);
    let Some(end) = scanner.scan(text)? else {
        return scanner.finish().map_err(|fault| Fault { fault, at: text.len() });
    };
    let rest = text.get(end..).unwrap_or_default();
    match rest.iter().position(|byte| !is_space(*byte)) {
        None => Ok(()),
        Some(at) => Err(Fault { fault: JsonFault::Trailing, at: end + at }),
    }
}

/// Whether `byte` is JSON's white space.
#[must_use]
pub(crate) fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\n' | b'\r' | b'\t')
}

/// How many bytes at the front of `text` stand for themselves inside a JSON string: all but `"`,
/// `\` and the control characters.
#[must_use]
pub(crate) fn plain_len(text: &[u8]) -> usize {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const TOPS: u64 = ONES << 7;
    let (words, _) = text.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        // A byte's top bit is set where a subtraction borrowed from it. Borrows spread upwards only,
        // so the lowest one is true, and it is the only one that is used.
        let word = u64::from_le_bytes(*word);
        let quote = word ^ (ONES * u64::from(b'"'));
        let backslash = word ^ (ONES * u64::from(b'\\'));
        let special = (word.wrapping_sub(ONES * 0x20) & !word)
            | (quote.wrapping_sub(ONES) & !quote)
            | (backslash.wrapping_sub(ONES) & !backslash);
        let special = special & TOPS;
        if special != 0 {
            return index * 8 + special.trailing_zeros() as usize / 8;
        }
    }
    let tail = words.len() * 8;
    let is_plain = |byte: &u8| *byte >= 0x20 && *byte != b'"' && *byte != b'\\';
    tail + text.iter().skip(tail).take_while(|byte| is_plain(byte)).count()
}

/// Reads one JSON value, cut anywhere.
///
/// [`Scanner::scan`] each piece until it says where the value ends; a value that nothing follows is
/// completed by [`Scanner::finish`]. After an error or an end it must be replaced.
///
/// ```text
///            ┌────────── ',' ───────────┐
///   Value ──►│ string, number, literal  ├──► depth 0: done     else Next ──',' / close
///            └── '[' FirstValue ── '{' FirstKey ─► string ─► Colon ─► Value
/// ```
#[derive(Clone, Debug)]
pub struct Scanner {
    state: State,
    /// Of each open container a bit: set for an object. The lowest of the first word is the
    /// outermost.
    kinds: [u64; 3],
    depth: u8,
    depth_max: u8,
    /// Whether the innermost container is an object.
    is_in_object: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Value,
    /// Behind `[`.
    FirstValue,
    /// Behind `{`.
    FirstKey,
    /// Behind a `,` of an object.
    Key,
    Colon,
    /// Behind a value inside a container.
    Next,
    Text(Role),
    Escape(Role),
    /// So many hex digits of a `\u` are missing.
    Hex(Role, u8),
    /// What is due of a literal begins here in [`LITERALS`].
    Literal(u8),
    Minus,
    Zero,
    Integer,
    Dot,
    Fraction,
    /// Behind `e`.
    Exponent,
    /// Behind the exponent's sign.
    ExponentSign,
    ExponentDigits,
}

/// The literals behind their first letters, each with a mark at its end.
const LITERALS: &[u8] = b"rue.alse.ull.";

/// What a string is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Key,
    Value,
}

impl Scanner {
    /// Expects a value at most `depth_max` (and never more than 192) deep.
    #[must_use]
    pub fn new(depth_max: u8) -> Self {
        Self {
            state: State::Value,
            kinds: [0; 3],
            depth: 0,
            depth_max: depth_max.min(192),
            is_in_object: false,
        }
    }

    /// Whether nothing of the value has come yet but white space.
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        self.state == State::Value && self.depth == 0
    }

    /// Reads `input`; the answer is where in it the value ends, if it does. A number ends before the
    /// byte that can't be part of it.
    ///
    /// # Errors
    ///
    /// [`Fault`] at the first byte that no JSON value could have there.
    pub fn scan(&mut self, input: &[u8]) -> Result<Option<usize>, Fault> {
        let mut at = 0;
        while let Some(&byte) = input.get(at) {
            let step = match self.state {
                State::Text(role) => {
                    at += plain_len(input.get(at..).unwrap_or_default());
                    match input.get(at) {
                        None => return Ok(None),
                        Some(b'"') => match role {
                            Role::Key => Step::To(State::Colon),
                            Role::Value => Step::Complete,
                        },
                        Some(b'\\') => Step::To(State::Escape(role)),
                        Some(_) => Step::Wrong,
                    }
                }
                State::Value => self.begin(byte),
                State::FirstValue if byte == b']' => self.close(),
                State::FirstValue => self.begin(byte),
                State::FirstKey => match byte {
                    b'"' => Step::To(State::Text(Role::Key)),
                    b'}' => self.close(),
                    _ => Step::spaced(byte),
                },
                State::Key => match byte {
                    b'"' => Step::To(State::Text(Role::Key)),
                    _ => Step::spaced(byte),
                },
                State::Colon => match byte {
                    b':' => Step::To(State::Value),
                    _ => Step::spaced(byte),
                },
                State::Next => match byte {
                    b',' if self.is_in_object => Step::To(State::Key),
                    b',' => Step::To(State::Value),
                    b'}' if self.is_in_object => self.close(),
                    b']' if !self.is_in_object => self.close(),
                    _ => Step::spaced(byte),
                },
                State::Escape(role) => match byte {
                    b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => {
                        Step::To(State::Text(role))
                    }
                    b'u' => Step::To(State::Hex(role, 4)),
                    _ => Step::Wrong,
                },
                State::Hex(_, _) if !byte.is_ascii_hexdigit() => Step::Wrong,
                State::Hex(role, 1) => Step::To(State::Text(role)),
                State::Hex(role, left) => Step::To(State::Hex(role, left - 1)),
                State::Literal(due) => match LITERALS.get(usize::from(due)..) {
                    Some([letter, b'.', ..]) if byte == *letter => Step::Complete,
                    Some([letter, ..]) if byte == *letter => Step::To(State::Literal(due + 1)),
                    _ => Step::Wrong,
                },
                State::Minus => match byte {
                    b'0' => Step::To(State::Zero),
                    b'1'..=b'9' => Step::To(State::Integer),
                    _ => Step::Wrong,
                },
                State::Zero => match byte {
                    b'.' => Step::To(State::Dot),
                    b'e' | b'E' => Step::To(State::Exponent),
                    b'0'..=b'9' => {
                        let due = "the end of a number that begins with 0";
                        return Err(Fault { fault: JsonFault::Byte { found: byte, due }, at });
                    }
                    _ => Step::CompleteBefore,
                },
                State::Integer | State::Fraction | State::ExponentDigits => {
                    at += digits_len(input.get(at..).unwrap_or_default());
                    match (self.state, input.get(at)) {
                        (_, None) => return Ok(None),
                        (State::Integer, Some(b'.')) => Step::To(State::Dot),
                        (State::Integer | State::Fraction, Some(b'e' | b'E')) => {
                            Step::To(State::Exponent)
                        }
                        _ => Step::CompleteBefore,
                    }
                }
                State::Dot if byte.is_ascii_digit() => Step::To(State::Fraction),
                State::Exponent if matches!(byte, b'+' | b'-') => Step::To(State::ExponentSign),
                State::Exponent | State::ExponentSign if byte.is_ascii_digit() => {
                    Step::To(State::ExponentDigits)
                }
                State::Dot | State::Exponent | State::ExponentSign => Step::Wrong,
            };
            match step {
                Step::To(state) => self.state = state,
                Step::Stay => {}
                Step::Complete if self.depth == 0 => return Ok(Some(at + 1)),
                Step::Complete => self.state = State::Next,
                Step::CompleteBefore if self.depth == 0 => return Ok(Some(at)),
                Step::CompleteBefore => {
                    // The same byte again: it belongs to the container.
                    self.state = State::Next;
                    continue;
                }
                Step::Wrong => {
                    let found = input.get(at).copied().unwrap_or(byte);
                    let fault = JsonFault::Byte { found, due: self.due() };
                    return Err(Fault { fault, at });
                }
                Step::TooDeep => {
                    return Err(Fault { fault: JsonFault::Depth(self.depth_max), at });
                }
            }
            at += 1;
        }
        Ok(None)
    }

    /// A value's first byte.
    #[inline(always)]
    fn begin(&mut self, byte: u8) -> Step {
        match byte {
            b'"' => Step::To(State::Text(Role::Value)),
            b'{' => self.open(true),
            b'[' => self.open(false),
            b'1'..=b'9' => Step::To(State::Integer),
            b'0' => Step::To(State::Zero),
            b'-' => Step::To(State::Minus),
            b't' => Step::To(State::Literal(0)),
            b'f' => Step::To(State::Literal(4)),
            b'n' => Step::To(State::Literal(9)),
            _ => Step::spaced(byte),
        }
    }

    #[inline(always)]
    fn open(&mut self, is_object: bool) -> Step {
        if self.depth >= self.depth_max {
            return Step::TooDeep;
        }
        if let Some(word) = self.kinds.get_mut(usize::from(self.depth / 64)) {
            let bit = self.depth % 64;
            *word = (*word & !(1 << bit)) | u64::from(is_object) << bit;
        }
        self.depth += 1;
        self.is_in_object = is_object;
        Step::To(if is_object { State::FirstKey } else { State::FirstValue })
    }

    #[inline(always)]
    fn close(&mut self) -> Step {
        self.depth -= 1;
        let outer = self.depth.wrapping_sub(1);
        let word = self.kinds.get(usize::from(outer / 64)).copied().unwrap_or(0);
        self.is_in_object = word >> (outer % 64) & 1 == 1;
        Step::Complete
    }

    /// Says that nothing follows: completes a number that ends with its text.
    ///
    /// # Errors
    ///
    /// [`JsonFault::Ended`] where more was due.
    pub fn finish(&self) -> Result<(), JsonFault> {
        match self.state {
            State::Zero | State::Integer | State::Fraction | State::ExponentDigits
                if self.depth == 0 =>
            {
                Ok(())
            }
            _ => Err(JsonFault::Ended { due: self.due() }),
        }
    }

    fn due(&self) -> &'static str {
        match self.state {
            State::Value => "a value",
            State::FirstValue => "a value or ']'",
            State::FirstKey => "'\"' or '}'",
            State::Key => "'\"'",
            State::Colon => "':'",
            // A number in a container may end, and then this is due.
            State::Next
            | State::Zero
            | State::Integer
            | State::Fraction
            | State::ExponentDigits => {
                if self.is_in_object {
                    "',' or '}'"
                } else {
                    "',' or ']'"
                }
            }
            State::Text(_) => "a string's character (control characters are written as escapes)",
            State::Escape(_) => "one of \"\\/bfnrtu",
            State::Hex(..) => "a hexadecimal digit",
            State::Literal(_) => "the rest of true, false or null",
            State::Minus | State::Dot | State::ExponentSign => "a digit",
            State::Exponent => "a digit or a sign",
        }
    }
}

/// What a byte does.
enum Step {
    /// The value is complete with it.
    Complete,
    /// The value was complete before it.
    CompleteBefore,
    /// Nothing: it is white space.
    Stay,
    To(State),
    TooDeep,
    Wrong,
}

impl Step {
    /// What is left where white space may be.
    #[inline(always)]
    fn spaced(byte: u8) -> Self {
        if is_space(byte) { Self::Stay } else { Self::Wrong }
    }
}

/// How many digits are at the front of `text`.
#[inline(always)]
fn digits_len(text: &[u8]) -> usize {
    text.iter().take_while(|byte| byte.is_ascii_digit()).count()
}

/// What is wrong, at which byte of the piece that was scanned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What.
    pub fault: JsonFault,
    /// Bytes before it.
    pub at: usize,
}

/// What of a text is no JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JsonFault {
    /// A byte that can't be here.
    Byte {
        /// The byte.
        found: u8,
        /// What could.
        due: &'static str,
    },
    /// Containers within containers, more than so many.
    Depth(u8),
    /// The text is over, the value is not.
    Ended {
        /// What was to come.
        due: &'static str,
    },
    /// Something follows the value.
    Trailing,
    /// Not UTF-8.
    Utf8,
}

impl fmt::Display for JsonFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Byte { found, due } if found.is_ascii_graphic() => {
                write!(f, "found '{}' where {due} is due", char::from(*found))
            }
            Self::Byte { found, due } => write!(f, "found byte {found:#04x} where {due} is due"),
            Self::Depth(max) => write!(f, "nested deeper than {max} levels"),
            Self::Ended { due } => write!(f, "the text ends where {due} is due"),
            Self::Trailing => f.write_str("something follows the one value that is allowed"),
            Self::Utf8 => f.write_str("not UTF-8"),
        }
    }
}

/// Why a text is no JSON, and where; whoever wrote it is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {fault}")]
pub struct JsonError {
    /// What is wrong.
    pub fault: JsonFault,
    /// Line, from 1.
    pub line: usize,
    /// Character of that line, from 1.
    pub column: usize,
}

impl JsonError {
    /// Finds the line and column of byte `at` of `text`.
    pub(crate) fn new(fault: JsonFault, text: &[u8], at: usize) -> Self {
        let (line, column) = place(text.get(..at).unwrap_or(text));
        Self { fault, line, column }
    }
}

/// Line and column, from 1, of what follows `before`.
pub(crate) fn place(before: &[u8]) -> (usize, usize) {
    let line = memchr_iter(b'\n', before).count() + 1;
    let start = memrchr(b'\n', before).map_or(0, |at| at + 1);
    (line, characters(before.get(start..).unwrap_or_default()) + 1)
}

/// Characters that begin in `text`, where it is UTF-8.
pub(crate) fn characters(text: &[u8]) -> usize {
    text.iter().filter(|byte| **byte & 0xC0 != 0x80).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks the verdict on `text`, and that it is the same when the text comes in two pieces, or
    /// byte by byte.
    #[track_caller]
    fn check(text: &str, expect: Result<(), &str>) {
        let verdict = super::check(text.as_bytes()).map_err(|error| error.to_string());
        assert_eq!(verdict, expect.map_err(str::to_owned), "{text:?}");
        let whole = scan([text.as_bytes()].into_iter());
        for cut in 0..=text.len() {
            let (front, back) = text.as_bytes().split_at(cut);
            assert_eq!(scan([front, back].into_iter()), whole, "{text:?} cut at {cut}");
        }
        assert_eq!(scan(text.as_bytes().chunks(1)), whole, "{text:?} byte by byte");
    }

    /// Where the first value ends in all `pieces` together, or what is wrong and where.
    fn scan<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Result<usize, (JsonFault, usize)> {
        let mut scanner = Scanner::new(DEPTH_MAX);
        let mut before = 0;
        for piece in pieces {
            match scanner.scan(piece) {
                Ok(Some(end)) => return Ok(before + end),
                Ok(None) => before += piece.len(),
                Err(Fault { fault, at }) => return Err((fault, before + at)),
            }
        }
        scanner.finish().map(|()| before).map_err(|fault| (fault, before))
    }

    #[test]
    fn every_kind_of_value_is_taken() {
        for text in [
            "null",
            "true",
            "false",
            "0",
            "-0",
            "10",
            "-1.5",
            "1e5",
            "1E+5",
            "0.10e-007",
            "\"\"",
            "\"a\\n\\\"\\u00fFz\"",
            "\"\u{fc}\u{2028}\u{1F600}\u{7f}\"",
            "[]",
            "{}",
            "[[],{}]",
            "[1,2 , 3]",
            "{\"a\":1,\"b\":[{}],\"a\":null}",
            " \t\r\n{ \"a\" : [ 1 , true ] } \n",
            "\"\\ud800\"",
            "[0]",
            "[-0.0]",
            "{\"\":\"\"}",
        ] {
            check(text, Ok(()));
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        check("", Err("line 1, column 1: the text ends where a value is due"));
        check("[1,\n 2", Err("line 2, column 3: the text ends where ',' or ']' is due"));
        check("[1 2]", Err("line 1, column 4: found '2' where ',' or ']' is due"));
        check("[1}", Err("line 1, column 3: found '}' where ',' or ']' is due"));
        check("{\"a\":1]", Err("line 1, column 7: found ']' where ',' or '}' is due"));
        check("[1,]", Err("line 1, column 4: found ']' where a value is due"));
        check("{\"a\":1,}", Err("line 1, column 8: found '}' where '\"' is due"));
        check("{a", Err("line 1, column 2: found 'a' where '\"' or '}' is due"));
        check("{\"a\"}", Err("line 1, column 5: found '}' where ':' is due"));
        check(
            "nul",
            Err("line 1, column 4: the text ends where the rest of true, false or null is due"),
        );
        check(
            "nulL",
            Err("line 1, column 4: found 'L' where the rest of true, false or null is due"),
        );
        check(
            "01",
            Err("line 1, column 2: found '1' where the end of a number that begins with 0 is due"),
        );
        check("-", Err("line 1, column 2: the text ends where a digit is due"));
        check("-a", Err("line 1, column 2: found 'a' where a digit is due"));
        check("1.", Err("line 1, column 3: the text ends where a digit is due"));
        check("1.e", Err("line 1, column 3: found 'e' where a digit is due"));
        check("1e", Err("line 1, column 3: the text ends where a digit or a sign is due"));
        check("1e+", Err("line 1, column 4: the text ends where a digit is due"));
        check("[1.5.]", Err("line 1, column 5: found '.' where ',' or ']' is due"));
        check("+1", Err("line 1, column 1: found '+' where a value is due"));
        check(".5", Err("line 1, column 1: found '.' where a value is due"));
        check(
            "\"\u{fc}\n\"",
            Err(
                "line 1, column 3: found byte 0x0a where a string's character (control characters are written as escapes) is due",
            ),
        );
        check("\"\\x\"", Err("line 1, column 3: found 'x' where one of \"\\/bfnrtu is due"));
        check("\"\\u00g0\"", Err("line 1, column 6: found 'g' where a hexadecimal digit is due"));
        check(
            "\"abc",
            Err(
                "line 1, column 5: the text ends where a string's character (control characters are written as escapes) is due",
            ),
        );
        check("{} {}", Err("line 1, column 4: something follows the one value that is allowed"));
        check("1 2", Err("line 1, column 3: something follows the one value that is allowed"));
        check("\u{feff}{}", Err("line 1, column 1: found byte 0xef where a value is due"));
        assert_eq!(
            super::check(b"[\"\xc3\xbc\xff\"]").unwrap_err().to_string(),
            "line 1, column 4: not UTF-8"
        );
    }

    #[test]
    fn depth_is_counted_to_the_level() {
        let nested = |depth: usize, open: &str, close: &str| {
            [open.repeat(depth), "0".to_owned(), close.repeat(depth)].concat()
        };
        check(&nested(128, "[", "]"), Ok(()));
        check(&nested(64, "[{\"a\":", "}]"), Ok(()));
        check(&nested(129, "[", "]"), Err("line 1, column 129: nested deeper than 128 levels"));
        check(
            &format!("[{}]", nested(64, "[{\"a\":", "}]")),
            Err("line 1, column 381: nested deeper than 128 levels"),
        );
        // Siblings are no depth.
        check(&format!("[{}0]", "[],{},".repeat(200)), Ok(()));
    }

    #[test]
    fn a_plain_run_ends_where_it_must() {
        for len in 0..40 {
            let mut text = vec![b'a'; len];
            assert_eq!(plain_len(&text), len);
            for at in 0..len {
                for byte in 0..=255 {
                    text[at] = byte;
                    let is_special = byte < 0x20 || byte == b'"' || byte == b'\\';
                    assert_eq!(
                        plain_len(&text),
                        if is_special { at } else { len },
                        "{byte} at {at}"
                    );
                }
                text[at] = 0xFF;
            }
        }
    }

    /// Mutates good texts, and asks another parser.
    #[test]
    fn the_verdict_is_that_of_another_parser() {
        const SEEDS: [&str; 4] = [
            r#"{"a":[1,-2.5e+3,true,false,null,"x\u00e9\n\"\\"],"b":{},"c":[[],[{}]]}"#,
            r#"[0,0.1,1E5,-0,"",{"k":"v","k2":[1,2,3]}]"#,
            r#" "text" "#,
            r#"[{"channel":"a","data":{"x":1}},{"y":null}]"#,
        ];
        const BYTES: &[u8] = b"{}[]\",:\\ \n0123456789-+.eEtrufalsn/bx\x01";
        let mut random = fastrand::Rng::with_seed(7);
        let mut good = 0;
        for round in 0..40_000 {
            let mut text = SEEDS[round % SEEDS.len()].as_bytes().to_vec();
            for _ in 0..random.usize(0..3) {
                let at = random.usize(0..text.len());
                match random.u8(0..3) {
                    0 => text[at] = BYTES[random.usize(0..BYTES.len())],
                    1 => text.insert(at, BYTES[random.usize(0..BYTES.len())]),
                    _ => drop(text.remove(at)),
                }
            }
            let expect = serde_json::from_slice::<serde::de::IgnoredAny>(&text).is_ok();
            good += usize::from(expect);
            assert_eq!(check_grammar(&text).is_ok(), expect, "{}", text.escape_ascii());
        }
        assert!((1000..39_000).contains(&good), "both verdicts are met: {good}");
    }
}
