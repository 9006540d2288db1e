//! One message of each wire, from a subscriber's bytes: the slow and strict way.
//!
//! Every message goes this way at one subscriber; the others' bytes are compared with those that
//! were found right (`rig`).

use std::borrow::Cow;
use std::fmt;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::frame;

/// How publications reach a subscriber.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Wire {
    Ws,
    Sse,
    Ndjson,
    /// A request for each answer, which has what came since the one before.
    LongPoll,
    /// Engine.IO 4 and Socket.IO 5 packets in WebSocket text messages.
    SocketIo,
}

impl Wire {
    /// How many there are.
    pub(crate) const COUNT: usize = Self::SocketIo as usize + 1;
}

/// What one unit of a wire says.
pub(crate) enum Item<'a> {
    /// A publication's payload.
    Message(Cow<'a, [u8]>),
    /// To be answered with a WebSocket pong.
    Ping(&'a [u8]),
    /// Engine.IO's open packet: to be answered with a connect packet.
    Opened,
    /// Socket.IO's answer to that.
    Joined,
    /// Engine.IO's ping: to be answered with its pong.
    EnginePing,
    /// Comments, keepalives, a stream's opening event, status messages.
    Nothing,
}

/// The unit at the front of `input` and its length; `None` means that it has not all arrived.
///
/// # Errors
///
/// Whatever is not as the wire should be, and every end of it.
pub(crate) fn read(wire: Wire, input: &[u8]) -> Result<Option<(Item<'_>, usize)>> {
    match wire {
        Wire::Ws | Wire::SocketIo => {
            let Some(frame) = frame::read(input)? else { return Ok(None) };
            let item = match frame.opcode {
                frame::PING => Item::Ping(frame.payload),
                frame::PONG => Item::Nothing,
                frame::CLOSE => return Err(Closed::new(frame.payload).into()),
                frame::TEXT if wire == Wire::SocketIo => socket_io(frame.payload)?,
                frame::TEXT => Item::Message(Cow::Borrowed(frame.payload)),
                opcode => bail!("a message has opcode {opcode}, not text"),
            };
            Ok(Some((item, frame.len)))
        }
        Wire::Sse => {
            let Some(len) = find(input, b"\n\n") else { return Ok(None) };
            Ok(Some((sse(&input[..len])?, len + 2)))
        }
        Wire::Ndjson => {
            let Some(len) = find(input, b"\n") else { return Ok(None) };
            Ok(Some((ndjson(&input[..len])?, len + 1)))
        }
        Wire::LongPoll => bail!("a long-poll's answer is no unit of a stream"),
    }
}

fn find(input: &[u8], end: &[u8]) -> Option<usize> {
    input.windows(end.len()).position(|window| window == end)
}

/// The server ended a connection that should have gone on.
#[derive(Debug, Default)]
pub(crate) struct Closed {
    /// What its Close frame said; `None` without one.
    pub(crate) code: Option<u16>,
    reason: String,
}

impl Closed {
    fn new(payload: &[u8]) -> Self {
        let Some((code, reason)) = payload.split_first_chunk() else { return Self::default() };
        let reason = String::from_utf8_lossy(reason).into_owned();
        Self { code: Some(u16::from_be_bytes(*code)), reason }
    }
}

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code {
            Some(code) => write!(f, "the server closed the connection: {code} {}", self.reason),
            None => f.write_str("the server closed the connection without a word"),
        }
    }
}

impl std::error::Error for Closed {}

fn sse(event: &[u8]) -> Result<Item<'_>> {
    let (mut data, mut has_id) = (None, false);
    for line in event.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
        if let Some(value) = line.strip_prefix(b"data: ") {
            ensure!(data.is_none(), "an event has two lines of data");
            data = Some(value);
        } else if let Some(id) = line.strip_prefix(b"id: ") {
            ensure!(!id.is_empty(), "an event's id is empty");
            has_id = true;
        } else if !line.starts_with(b":") && !line.starts_with(b"retry: ") {
            bail!("an event has the line {:?}", String::from_utf8_lossy(line));
        }
    }
    let Some(data) = data else { return Ok(Item::Nothing) };
    ensure!(has_id, "an event has no id");
    Ok(Item::Message(Cow::Borrowed(data)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    channel: &'a str,
    cursor: &'a str,
    time: &'a str,
    text: Cow<'a, str>,
}

impl<'a> Line<'a> {
    /// The payload, once the rest is found right.
    fn payload(self) -> Result<Cow<'a, [u8]>> {
        ensure!(!self.channel.is_empty() && !self.cursor.is_empty(), "a message names no place");
        ensure!(self.time.ends_with('Z'), "a message has the time {:?}", self.time);
        Ok(match self.text {
            Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
            Cow::Owned(text) => Cow::Owned(text.into_bytes()),
        })
    }
}

fn ndjson(line: &[u8]) -> Result<Item<'_>> {
    if line.is_empty() {
        return Ok(Item::Nothing);
    }
    let parsed: Line<'_> = serde_json::from_slice(line)
        .with_context(|| format!("the line {:?}", String::from_utf8_lossy(line)))?;
    Ok(Item::Message(parsed.payload()?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Answer<'a> {
    #[serde(borrow)]
    messages: Vec<Line<'a>>,
    cursor: &'a str,
    gaps: Vec<serde::de::IgnoredAny>,
    ended: Vec<serde::de::IgnoredAny>,
}

/// The payloads of a long-poll's answer, and the cursor to ask for what comes after them.
///
/// # Errors
///
/// Whatever is not as it should be; a gap and an end, which nothing that is measured here has.
pub(crate) fn answer(body: &[u8]) -> Result<(Vec<Cow<'_, [u8]>>, &str)> {
    let answer: Answer<'_> = serde_json::from_slice(body)
        .with_context(|| format!("the answer {:?}", String::from_utf8_lossy(body)))?;
    ensure!(
        answer.gaps.is_empty() && answer.ended.is_empty(),
        "an answer tells of a gap or an end"
    );
    ensure!(!answer.cursor.is_empty(), "an answer has no cursor");
    let payloads = answer.messages.into_iter().map(Line::payload).collect::<Result<_>>()?;
    Ok((payloads, answer.cursor))
}

fn socket_io(packet: &[u8]) -> Result<Item<'_>> {
    Ok(match packet {
        [b'0', ..] => Item::Opened,
        [b'2'] => Item::EnginePing,
        [b'4', b'0', ..] => Item::Joined,
        [b'4', b'2', event @ ..] => {
            let text = event.strip_prefix(br#"["message",""#).context("another event's name")?;
            Item::Message(Cow::Borrowed(text.strip_suffix(br#""]"#).context("more arguments")?))
        }
        _ => bail!("the packet {:?}", String::from_utf8_lossy(packet)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks that `input` is one unit that carries `expect`, and that no part of it is.
    #[track_caller]
    fn check(wire: Wire, input: &[u8], expect: Option<&str>) {
        let (item, len) = read(wire, input).unwrap().unwrap();
        let message = match &item {
            Item::Message(payload) => Some(std::str::from_utf8(payload).unwrap()),
            _ => None,
        };
        assert_eq!((message, len), (expect, input.len()));
        for cut in 0..input.len() {
            assert!(read(wire, &input[..cut]).unwrap().is_none(), "cut at {cut}");
        }
    }

    #[test]
    fn a_message_is_found_on_every_wire() {
        check(Wire::Ws, b"\x81\x05hello", Some("hello"));
        check(Wire::Sse, b"id: abc\ndata: hello\n\n", Some("hello"));
        check(Wire::Sse, b"retry: 2000\nid: abc\n\n", None);
        check(Wire::Sse, b": idle\n\n", None);
        let line =
            br#"{"channel":"c","cursor":"x","time":"2026-01-01T00:00:00.000Z","text":"a\"b"}"#;
        check(Wire::Ndjson, &[line, &b"\n"[..]].concat(), Some("a\"b"));
        check(Wire::Ndjson, b"\n", None);
        check(Wire::SocketIo, b"\x81\x1342[\"message\",\"abc\"]", Some("abc"));
    }

    #[test]
    fn an_answer_has_its_messages_and_where_to_go_on() {
        let line =
            r#"{"channel":"c","cursor":"x","time":"2026-01-01T00:00:00.000Z","text":"a\"b"}"#;
        let body = format!(r#"{{"messages":[{line}],"cursor":"x","gaps":[],"ended":[]}}"#);
        let (payloads, cursor) = answer(body.as_bytes()).unwrap();
        assert_eq!((&*payloads[0], payloads.len(), cursor), (&b"a\"b"[..], 1, "x"));
        assert!(answer(body.replace("\"gaps\":[]", "\"gaps\":[{}]").as_bytes()).is_err());
        assert!(answer(&body.as_bytes()[1..]).is_err());
    }

    #[test]
    fn what_is_told_in_the_place_of_messages_is_an_error() {
        for (wire, input) in [
            (Wire::Ws, &b"\x88\x04\x0F\xAAab"[..]),
            (Wire::Sse, b"event: tidegate-gap\nid: a\ndata: {}\n\n"),
            (Wire::Sse, b"data: no id\n\n"),
            (Wire::Ndjson, b"{\"gap\":{}}\n"),
            (Wire::SocketIo, b"\x81\x0241"),
        ] {
            assert!(read(wire, input).is_err());
        }
    }
}
