//! Server-Sent Events: what `text/event-stream` looks like, written and read (WHATWG HTML §9.2).
//!
//! The writing half appends to a buffer; the reading half is the standard's algorithm, fed with
//! pieces cut anywhere. Reconnecting is the caller's business, as is base64 of what is no text.

use memchr::memchr2;

/// Appends an event: `id`, `event` and as many `data` lines as `data` has, then the empty line that
/// dispatches it. LF, CR and CRLF all end a line of `data`, and arrive as LF.
///
/// Neither `id` nor `event` may hold a line break, and `id` no NUL: cursors and event names don't.
pub fn write_event(out: &mut Vec<u8>, id: Option<&[u8]>, event: Option<&str>, data: &[u8]) {
    // Field names, and one line of data: more lines are the rarer case.
    let fields = id.map_or(0, <[u8]>::len) + event.map_or(0, str::len);
    out.reserve(data.len() + fields + 24);
    if let Some(id) = id {
        write_field(out, b"id: ", id);
    }
    if let Some(event) = event {
        write_field(out, b"event: ", event.as_bytes());
    }
    let mut rest = data;
    while let Some((line, after)) =
        memchr2(b'\n', b'\r', rest).and_then(|at| rest.split_at_checked(at))
    {
        write_field(out, b"data: ", line);
        rest = after.strip_prefix(b"\r\n").or(after.get(1..)).unwrap_or_default();
    }
    write_field(out, b"data: ", rest);
    out.push(b'\n');
}

/// Appends an `id` that dispatches nothing, but is where a reconnect goes on.
pub fn write_id(out: &mut Vec<u8>, id: &[u8]) {
    write_field(out, b"id: ", id);
    out.push(b'\n');
}

/// Appends a comment, which readers skip; one line without a break.
pub fn write_comment(out: &mut Vec<u8>, comment: &str) {
    write_field(out, b": ", comment.as_bytes());
    out.push(b'\n');
}

/// Appends the time to wait before a reconnect, in milliseconds.
pub fn write_retry(out: &mut Vec<u8>, millis: u32) {
    let mut digits = [0; 10];
    let mut from = digits.len();
    let mut rest = millis;
    for slot in digits.iter_mut().rev() {
        *slot = DIGITS.get((rest % 10) as usize).copied().unwrap_or(b'0');
        (from, rest) = (from - 1, rest / 10);
        if rest == 0 {
            break;
        }
    }
    write_field(out, b"retry: ", digits.get(from..).unwrap_or_default());
    out.push(b'\n');
}

const DIGITS: &[u8; 10] = b"0123456789";

fn write_field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(value);
    out.push(b'\n');
}

/// Reads an event stream.
///
/// For each piece that arrives call [`Parser::next`] until it answers `Ok(None)`: then the piece is
/// used up. What is incomplete when the stream ends is dropped, as the standard has it. For the
/// stream of a reconnect make a new one with [`Parser::resume`].
#[derive(Debug)]
pub struct Parser {
    /// A line's beginning that came in earlier pieces.
    line: Vec<u8>,
    /// How much of a byte order mark has come; `None` where none can come any more.
    mark: Option<usize>,
    /// The piece before ended with CR: a LF at this one's front belongs to it.
    after_cr: bool,
    data: String,
    event: String,
    id: String,
    last_event_id: String,
    event_bytes_max: usize,
    is_broken: bool,
}

/// Something that a stream says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// An event is dispatched.
    Event(Event),
    /// The time to wait before a reconnect, in milliseconds.
    Retry(u64),
}

/// A dispatched event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its type; `message` where the stream gives none.
    pub event: String,
    /// The data lines, joined by LF.
    pub data: String,
    /// The last event id, from this event or one before it; may be empty.
    pub id: String,
}

impl Parser {
    /// A parser that keeps at most about `event_bytes_max` bytes of an event, and of a line.
    #[must_use]
    pub fn new(event_bytes_max: usize) -> Self {
        Self::resume(event_bytes_max, String::new())
    }

    /// A parser whose last event id is known from an earlier connection.
    #[must_use]
    pub fn resume(event_bytes_max: usize, last_event_id: String) -> Self {
        Self {
            line: Vec::new(),
            mark: Some(0),
            after_cr: false,
            data: String::new(),
            event: String::new(),
            id: last_event_id.clone(),
            last_event_id,
            event_bytes_max,
            is_broken: false,
        }
    }

    /// What `Last-Event-ID` says on a reconnect: the id as of the last empty line.
    #[must_use]
    pub fn last_event_id(&self) -> &str {
        &self.last_event_id
    }

    /// Reads on in `input`, and takes what it read off its front; `Ok(None)` when it is used up.
    ///
    /// # Errors
    ///
    /// [`TooLarge`] if a line or event is; then nothing more can be read.
    pub fn next(&mut self, input: &mut &[u8]) -> Result<Option<Item>, TooLarge> {
        if self.is_broken {
            return Err(TooLarge(self.event_bytes_max));
        }
        self.skip_mark(input);
        while let Some(&first) = input.first() {
            if std::mem::take(&mut self.after_cr) && first == b'\n' {
                *input = input.get(1..).unwrap_or_default();
                continue;
            }
            let Some((part, end)) =
                memchr2(b'\n', b'\r', input).and_then(|at| input.split_at_checked(at))
            else {
                self.bound(self.line.len() + input.len())?;
                self.line.extend_from_slice(input);
                *input = &[];
                return Ok(None);
            };
            // A CR ends its line at once, so that no event waits for the byte behind it.
            self.after_cr = end.first() == Some(&b'\r');
            *input = end.get(1..).unwrap_or_default();
            self.bound(self.line.len() + part.len())?;
            let item = if self.line.is_empty() {
                self.handle_line(part)?
            } else {
                self.line.extend_from_slice(part);
                let line = std::mem::take(&mut self.line);
                let item = self.handle_line(&line)?;
                self.line = line;
                self.line.clear();
                item
            };
            if item.is_some() {
                return Ok(item);
            }
        }
        Ok(None)
    }

    /// Skips one byte order mark at the stream's very front, cut anywhere.
    fn skip_mark(&mut self, input: &mut &[u8]) {
        const MARK: &[u8] = b"\xEF\xBB\xBF";
        while let (Some(seen), Some(byte)) = (self.mark, input.first()) {
            if MARK.get(seen) == Some(byte) {
                *input = input.get(1..).unwrap_or_default();
                self.mark = (seen + 1 < MARK.len()).then_some(seen + 1);
            } else {
                // It was none: what looked like it is the first line's beginning.
                self.line.extend_from_slice(MARK.get(..seen).unwrap_or_default());
                self.mark = None;
            }
        }
    }

    fn handle_line(&mut self, line: &[u8]) -> Result<Option<Item>, TooLarge> {
        if line.is_empty() {
            return Ok(self.dispatch().map(Item::Event));
        }
        let colon = memchr::memchr(b':', line).unwrap_or(line.len());
        let (field, value) = line.split_at_checked(colon).unwrap_or((line, &[]));
        let value = value.strip_prefix(b":").unwrap_or(value);
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field {
            b"data" => {
                self.bound(self.data.len() + value.len())?;
                self.data.push_str(&String::from_utf8_lossy(value));
                self.data.push('\n');
            }
            b"event" => self.event = String::from_utf8_lossy(value).into_owned(),
            b"id" if memchr::memchr(0, value).is_none() => {
                self.id = String::from_utf8_lossy(value).into_owned();
            }
            b"retry" if !value.is_empty() && value.iter().all(u8::is_ascii_digit) => {
                let digits = value.iter().map(|digit| u64::from(digit - b'0'));
                let millis = digits
                    .fold(0_u64, |value, digit| value.saturating_mul(10).saturating_add(digit));
                return Ok(Some(Item::Retry(millis)));
            }
            // Comments begin with a colon: their field's name is empty.
            _ => {}
        }
        Ok(None)
    }

    fn dispatch(&mut self) -> Option<Event> {
        if self.last_event_id != self.id {
            self.last_event_id.clone_from(&self.id);
        }
        let event = std::mem::take(&mut self.event);
        let mut data = std::mem::take(&mut self.data);
        // The last line's end; without it there was no data line at all.
        data.pop()?;
        let event = if event.is_empty() { "message".to_owned() } else { event };
        Some(Event { event, data, id: self.last_event_id.clone() })
    }

    fn bound(&mut self, bytes: usize) -> Result<(), TooLarge> {
        if bytes <= self.event_bytes_max {
            return Ok(());
        }
        self.is_broken = true;
        (self.line, self.data) = (Vec::new(), String::new());
        Err(TooLarge(self.event_bytes_max))
    }
}

/// An event or a line of more than so many bytes; the peer's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event is larger than the {0} bytes that are allowed")]
pub struct TooLarge(pub usize);

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything that `pieces` say: events as `type/data/id`, retries as numbers.
    fn read<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<String>, String) {
        let mut parser = Parser::new(1000);
        let mut items = Vec::new();
        for mut piece in pieces {
            while let Some(item) = parser.next(&mut piece).unwrap() {
                items.push(match item {
                    Item::Event(Event { event, data, id }) => format!("{event}/{data}/{id}"),
                    Item::Retry(millis) => millis.to_string(),
                });
            }
            assert!(piece.is_empty(), "None means that the piece is used up");
        }
        (items, parser.last_event_id().to_owned())
    }

    /// Checks what `stream` says, whole and with every cut, and where a reconnect would go on.
    #[track_caller]
    fn check(stream: impl AsRef<[u8]>, expect: &[&str], last_event_id: &str) {
        let stream = stream.as_ref();
        let expect = (expect.iter().map(|it| (*it).to_owned()).collect(), last_event_id.to_owned());
        for cut in 0..=stream.len() {
            let (front, back) = stream.split_at(cut);
            assert_eq!(read([front, back].into_iter()), expect, "cut at {cut}");
        }
        assert_eq!(read(stream.chunks(1)), expect, "byte by byte");
    }

    /// Checks the bytes of an event, and that the parser reads `data` back.
    #[track_caller]
    fn check_written(data: &str, expect: &str) {
        let mut out = b"before".to_vec();
        write_event(&mut out, Some(b"C1"), Some("tick"), data.as_bytes());
        let expect = format!("id: C1\nevent: tick\n{expect}\n");
        assert_eq!(String::from_utf8(out).unwrap(), format!("before{expect}"));
        let lines = data.replace("\r\n", "\n").replace('\r', "\n");
        check(expect, &[&format!("tick/{lines}/C1")], "C1");
    }

    #[test]
    fn every_line_of_data_gets_its_own() {
        check_written("hello", "data: hello\n");
        check_written("", "data: \n");
        check_written(" two  spaces ", "data:  two  spaces \n");
        check_written("a\nb\rc\r\nd", "data: a\ndata: b\ndata: c\ndata: d\n");
        check_written("a\n", "data: a\ndata: \n");
        check_written("\n\r", "data: \ndata: \ndata: \n");
        check_written("\r\r\n\n", "data: \ndata: \ndata: \ndata: \n");
        check_written("id: x\n\nevent: y", "data: id: x\ndata: \ndata: event: y\n");
        check_written("gr\u{fc}n \u{feff}\0", "data: gr\u{fc}n \u{feff}\0\n");
    }

    #[test]
    fn the_other_pieces_are_written_as_the_standard_has_them() {
        let mut out = Vec::new();
        write_retry(&mut out, 2015);
        write_id(&mut out, b"C0");
        write_comment(&mut out, "idle");
        write_event(&mut out, None, None, b"x");
        write_retry(&mut out, 0);
        write_retry(&mut out, u32::MAX);
        let expect =
            "retry: 2015\n\nid: C0\n\n: idle\n\ndata: x\n\nretry: 0\n\nretry: 4294967295\n\n";
        assert_eq!(out, expect.as_bytes());
        check(out, &["2015", "message/x/C0", "0", "4294967295"], "C0");
    }

    /// The examples of the standard's section on parsing.
    #[test]
    fn the_standards_examples_are_read_as_it_says() {
        check("data: YHOO\ndata: +2\ndata: 10\n\n", &["message/YHOO\n+2\n10/"], "");
        check(
            ": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n",
            &["message/first event/1", "message/second event/"],
            "",
        );
        check("data\n\ndata\ndata\n\ndata:", &["message//", "message/\n/"], "");
        check("data:test\n\ndata: test\n\n", &["message/test/", "message/test/"], "");
    }

    #[test]
    fn lines_end_at_lf_cr_and_crlf() {
        check(
            "data:a\r\rdata:b\r\n\r\ndata:c\n\n",
            &["message/a/", "message/b/", "message/c/"],
            "",
        );
        check("data:a\r\ndata:b\r\r\n", &["message/a\nb/"], "");
        check("data:a\n\r\ndata:b\r\n\n", &["message/a/", "message/b/"], "");
    }

    #[test]
    fn an_event_does_not_wait_for_the_byte_behind_its_cr() {
        let (items, _) = read([&b"data:a\r\n\r"[..]].into_iter());
        assert_eq!(items, ["message/a/"]);
    }

    #[test]
    fn one_byte_order_mark_is_skipped_at_the_front_alone() {
        check(b"\xEF\xBB\xBFdata:a\n\n", &["message/a/"], "");
        check(b"\xEF\xBB\xBF\xEF\xBB\xBFdata:a\n\ndata:b\n\n", &["message/b/"], "");
        check(b"\xEF\xBBdata:a\n\ndata:b\n\n", &["message/b/"], "");
        check(b"\xEF\ndata:b\n\n", &["message/b/"], "");
        check(b"data:a\n\n\xEF\xBB\xBFdata:b\n\n", &["message/a/"], "");
    }

    #[test]
    fn an_id_stays_until_there_is_another() {
        check(
            "id:1\ndata:a\n\ndata:b\n\nid:2\n\ndata:c\n\n",
            &["message/a/1", "message/b/1", "message/c/2"],
            "2",
        );
        check("id:1\ndata:a\n\nid:\ndata:b\n\n", &["message/a/1", "message/b/"], "");
        // One with NUL does not count; one that no empty line follows is not yet good.
        check("id:1\nid:2\0z\ndata:a\n\nid:4\ndata:b\n", &["message/a/1"], "1");
    }

    #[test]
    fn an_event_without_data_is_not_dispatched() {
        check("event:x\nid:1\n\ndata:a\n\n", &["message/a/1"], "1");
        check("event:x\nevent:\ndata:a\n\n", &["message/a/"], "");
        check("event:x\nevent:y\ndata:a\n\ndata:b\n\n", &["y/a/", "message/b/"], "");
    }

    #[test]
    fn retry_is_digits_alone() {
        check(
            "retry:10\nretry: 007\nretry:+1\nretry:1s\nretry:\nretry\nretry:  5\nretry:\u{661}\n",
            &["10", "7"],
            "",
        );
        check("retry:99999999999999999999999\n", &["18446744073709551615"], "");
    }

    #[test]
    fn unknown_fields_and_comments_are_skipped() {
        check(":data:x\nDATA:x\n data:x\ndat:x\ndataa:x\n:\n\ndata:a:b\n\n", &["message/a:b/"], "");
    }

    #[test]
    fn bytes_that_are_no_utf8_are_replaced() {
        check(
            b"data:a\xFFb\xE2\x82\n\nevent:\xC3\xBC\ndata:\xF0\x9F\x98\x80\n\n",
            &["message/a\u{fffd}b\u{fffd}/", "\u{fc}/\u{1F600}/"],
            "",
        );
    }

    #[test]
    fn a_peer_can_not_make_an_event_grow_without_bound() {
        let endless: [&[u8]; 3] = [b"data: 0123456789\n", b"x", b"data\n"];
        for (piece, pieces_max) in endless.into_iter().zip([3, 20, 21]) {
            let mut parser = Parser::new(20);
            let mut refused = (0..100).filter(|_| parser.next(&mut &*piece) == Err(TooLarge(20)));
            assert!(refused.next().is_some_and(|at| at <= pieces_max));
            assert_eq!(refused.last(), Some(99), "and it stays so");
        }
        // An event at the bound passes, and the next one starts anew.
        let mut parser = Parser::new(20);
        let mut input = b"data: 0123456789abcd\n\n".repeat(5);
        input.extend(b"data:a\ndata:b\n\n".repeat(50));
        let (mut input, mut events) = (&*input, 0);
        while parser.next(&mut input).unwrap().is_some() {
            events += 1;
        }
        assert_eq!(events, 55);
    }

    #[test]
    fn a_reconnect_keeps_its_last_id() {
        let mut parser = Parser::resume(100, "C9".to_owned());
        let event = Event { event: "message".into(), data: "a".into(), id: "C9".into() };
        assert_eq!(parser.next(&mut &b"data:a\n\n"[..]), Ok(Some(Item::Event(event))));
        assert_eq!(parser.last_event_id(), "C9");
    }
}
