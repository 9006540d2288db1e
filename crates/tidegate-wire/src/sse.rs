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
