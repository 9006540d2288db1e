//! A subscriber's bytes → messages, by the codecs of `tidegate-wire`.
//!
//! The bytes of a message are the same at every subscriber of a channel and a wire. On Server-Sent
//! Events and NDJSON they are parsed at the one that has them first; at the others they are compared
//! with those. On a WebSocket parsing costs no more than comparing.

use std::borrow::Cow;

use bytes::Bytes;
use clap::ValueEnum;
use serde::Deserialize;
use serde_json::value::RawValue;
use tidegate_client::{Failure, Problem};
use tidegate_wire::chunk::ChunkReader;
use tidegate_wire::ndjson::LineSplitter;
use tidegate_wire::sse::{Item, Parser};
use tidegate_wire::websocket::{Decoder, Event, InflaterPool, Limits, Role};

/// How a subscriber gets what is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in super::super) enum Wire {
    /// WebSocket, bare
    Ws,
    /// Server-Sent Events
    Sse,
    /// NDJSON stream
    Ndjson,
}

impl Wire {
    pub(in super::super) fn as_str(self) -> &'static str {
        match self {
            Self::Ws => "ws",
            Self::Sse => "sse",
            Self::Ndjson => "ndjson",
        }
    }
}

/// Who takes what a subscriber reads.
pub(super) trait Sink {
    /// The bytes that the next message will be, if they are known; else none.
    fn known(&self) -> &[u8];
    /// They have come.
    fn handle_known(&mut self);
    /// A message has come; in these bytes, unless they were not all at hand.
    fn handle_message(&mut self, payload: &[u8], unit: &[u8]) -> Result<(), Failure>;
    /// To be answered with a pong.
    fn handle_ping(&mut self, payload: &[u8]);
    /// The gateway told that something is missing.
    fn handle_gap(&mut self);
}

/// Reads one subscriber's bytes.
#[derive(Debug)]
pub(super) enum Reader {
    Ws(Decoder),
    Stream { chunks: Option<ChunkReader>, lines: Lines, is_between: bool },
}

/// What a body's bytes are taken for.
#[derive(Debug)]
pub(super) enum Lines {
    Sse(Box<Parser>),
    Ndjson(LineSplitter),
}

/// The largest message that is taken, in bytes; at most 1 MiB is published, and JSON may need six
/// times as much.
const MESSAGE_BYTES_MAX: usize = 8 << 20;

impl Reader {
    /// A reader of a body, or of a WebSocket's frames.
    pub(super) fn new(wire: Wire, is_chunked: bool) -> Self {
        let lines = match wire {
            Wire::Ws => {
                let message_len_max = u32::try_from(MESSAGE_BYTES_MAX).unwrap_or(u32::MAX);
                let limits = Limits { message_len_max, ..Limits::default() };
                return Self::Ws(Decoder::new(Role::Client, &limits, None));
            }
            Wire::Sse => Lines::Sse(Box::new(Parser::new(MESSAGE_BYTES_MAX))),
            Wire::Ndjson => Lines::Ndjson(LineSplitter::new(MESSAGE_BYTES_MAX)),
        };
        Self::Stream { chunks: is_chunked.then(ChunkReader::default), lines, is_between: true }
    }

    /// Reads what has come.
    ///
    /// # Errors
    ///
    /// [`Failure`]: the connection is over, by the gateway's word or by breaking its protocol, or
    /// the sink will have no more.
    pub(super) fn read(
        &mut self,
        mut input: &mut [u8],
        pool: &mut InflaterPool,
        sink: &mut impl Sink,
    ) -> Result<(), Failure> {
        match self {
            Self::Ws(decoder) => {
                while let Some(event) = decoder.next(&mut input, pool).map_err(|it| wrong(&it))? {
                    match event {
                        Event::Message { data, .. } => sink.handle_message(data, &[])?,
                        Event::Ping(payload) => sink.handle_ping(payload),
                        Event::Pong(_) => {}
                        Event::Close { code, reason } => {
                            return Err(Failure::Closed { code, reason: reason.to_owned() });
                        }
                    }
                }
                Ok(())
            }
            Self::Stream { chunks: None, lines, is_between } => lines.read(input, is_between, sink),
            Self::Stream { chunks: Some(chunks), lines, is_between } => {
                let mut input = &*input;
                while let Some(piece) = chunks.next(&mut input).map_err(|it| wrong(&it))? {
                    lines.read(piece, is_between, sink)?;
                }
                if chunks.is_over() {
                    return Err(Failure::Cut("the gateway ended the stream".into()));
                }
                Ok(())
            }
        }
    }
}

impl Lines {
    /// `is_between`: whether all before `rest` are whole messages.
    fn read(
        &mut self,
        mut rest: &[u8],
        is_between: &mut bool,
        sink: &mut impl Sink,
    ) -> Result<(), Failure> {
        while !rest.is_empty() {
            let known = sink.known();
            if *is_between
                && !known.is_empty()
                && let Some(behind) = rest.strip_prefix(known)
            {
                sink.handle_known();
                rest = behind;
                continue;
            }
            let was_between = std::mem::replace(is_between, false);
            match self {
                Self::Sse(parser) => {
                    let before = rest;
                    let item = parser.next(&mut rest).map_err(|it| wrong(&it))?;
                    if let Some(Item::Event(event)) = item {
                        *is_between = true;
                        let unit = if was_between { consumed(before, rest.len()) } else { &[] };
                        match event.event.as_str() {
                            "message" => sink.handle_message(event.data.as_bytes(), unit)?,
                            "tidegate-gap" => sink.handle_gap(),
                            _ => return Err(told(event.data.as_bytes())),
                        }
                    }
                }
                Self::Ndjson(splitter) => {
                    let before = rest;
                    let mut bytes = Bytes::copy_from_slice(rest);
                    let line = splitter.next(&mut bytes).transpose().map_err(|it| wrong(&it))?;
                    rest = before.get(before.len() - bytes.len()..).unwrap_or_default();
                    if let Some(line) = line {
                        *is_between = true;
                        let unit = if was_between { consumed(before, rest.len()) } else { &[] };
                        read_line(&line, unit, sink)?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// What of `before` is no longer there when `left` bytes are.
fn consumed(before: &[u8], left: usize) -> &[u8] {
    before.get(..before.len().saturating_sub(left)).unwrap_or_default()
}

/// What of a line matters here (CONTRACT 4).
#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    text: Option<Cow<'a, str>>,
    #[serde(borrow)]
    gap: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

fn read_line(line: &[u8], unit: &[u8], sink: &mut impl Sink) -> Result<(), Failure> {
    if line.is_empty() {
        return Ok(());
    }
    let parsed: Line<'_> = serde_json::from_slice(line).map_err(|it| wrong(&it))?;
    match parsed {
        Line { text: Some(text), .. } => sink.handle_message(text.as_bytes(), unit),
        Line { gap: Some(_), .. } => {
            sink.handle_gap();
            Ok(())
        }
        Line { error: Some(error), .. } => Err(told(error.get().as_bytes())),
        _ => Err(Failure::Cut("the channel was ended".into())),
    }
}

/// An error that came in the place of a message; or an end, if it is none.
fn told(json: &[u8]) -> Failure {
    match Problem::parse(json) {
        Some(problem) => Failure::Problem(problem),
        None => Failure::Cut("the channel was ended".into()),
    }
}

fn wrong(error: &dyn std::fmt::Display) -> Failure {
    Failure::Protocol(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keeps what it is given, and knows what message 2 will be.
    #[derive(Debug, Default)]
    struct Kept {
        known: Vec<u8>,
        messages: Vec<String>,
        units: Vec<String>,
        compared: usize,
        gaps: usize,
        pings: usize,
    }

    impl Sink for Kept {
        fn known(&self) -> &[u8] {
            &self.known
        }
        fn handle_known(&mut self) {
            self.compared += 1;
            self.messages.push("known".into());
        }
        fn handle_message(&mut self, payload: &[u8], unit: &[u8]) -> Result<(), Failure> {
            self.messages.push(String::from_utf8_lossy(payload).into_owned());
            self.units.push(String::from_utf8_lossy(unit).into_owned());
            Ok(())
        }
        fn handle_ping(&mut self, _: &[u8]) {
            self.pings += 1;
        }
        fn handle_gap(&mut self) {
            self.gaps += 1;
        }
    }

    /// What `input` comes to, in two pieces that are cut at `cut`.
    fn read(wire: Wire, known: &str, input: &[u8], cut: usize) -> (Kept, Result<(), Failure>) {
        let (mut reader, mut pool) = (Reader::new(wire, wire != Wire::Ws), InflaterPool::new());
        let mut kept = Kept { known: known.into(), ..Kept::default() };
        let mut input = input.to_vec();
        let (first, second) = input.split_at_mut(cut);
        let result = reader
            .read(first, &mut pool, &mut kept)
            .and_then(|()| reader.read(second, &mut pool, &mut kept));
        (kept, result)
    }

    /// Checks what a stream of chunks comes to, wherever it is cut.
    #[track_caller]
    fn check(wire: Wire, known: &str, chunks: &[&str], messages: &[&str], gaps: usize) {
        let mut input = Vec::new();
        for chunk in chunks {
            tidegate_wire::ndjson::write_chunk(&mut input, chunk.as_bytes());
        }
        let (whole, _) = read(wire, known, &input, 0);
        assert!(whole.compared > 0, "nothing was compared");
        for cut in 0..=input.len() {
            let (kept, result) = read(wire, known, &input, cut);
            result.unwrap();
            // One that is cut is parsed, though it is known.
            let got: Vec<_> =
                kept.messages.iter().map(|it| if it == "two" { "known" } else { it }).collect();
            assert_eq!((got.as_slice(), kept.gaps), (messages, gaps), "cut at {cut}");
        }
    }

    #[test]
    fn messages_are_read_or_compared_wherever_they_are_cut() {
        let known = "id: b\ndata: two\n\n";
        let stream = [
            "retry: 2000\nid: a\n\n",
            "id: a\ndata: one\n\n",
            known,
            ": idle\n\n",
            "event: tidegate-gap\nid: b\ndata: {\"channel\":\"c\"}\n\n",
            "id: b\ndata: two\n\nid: c\ndata: three\n\n",
        ];
        check(Wire::Sse, known, &stream, &["one", "known", "known", "three"], 1);
        let known = "{\"channel\":\"c\",\"cursor\":\"b\",\"text\":\"two\"}\n";
        let stream = [
            "{\"channel\":\"c\",\"cursor\":\"a\",\"text\":\"o\\u006ee\"}\n",
            known,
            "\n",
            "{\"gap\":{\"channel\":\"c\"}}\n",
            known,
        ];
        check(Wire::Ndjson, known, &stream, &["one", "known", "known"], 1);
    }

    #[test]
    fn a_message_comes_with_its_bytes_where_they_are_at_hand() {
        let input = b"11\r\nid: b\ndata: one\n\n\r\n";
        assert_eq!(read(Wire::Sse, "", input, 0).0.units, ["id: b\ndata: one\n\n"]);
        assert_eq!(read(Wire::Sse, "", input, 10).0.units, [""]);
    }

    #[test]
    fn frames_are_messages_pings_and_closes() {
        let input = b"\x81\x03one\x89\x01x\x81\x03two\x88\x04\x0f\xaaab";
        for cut in 0..=input.len() {
            let (kept, result) = read(Wire::Ws, "", input, cut);
            assert_eq!((kept.messages, kept.pings), (vec!["one".into(), "two".into()], 1));
            assert_eq!(result, Err(Failure::Closed { code: Some(4010), reason: "ab".into() }));
        }
    }

    #[test]
    fn what_ends_a_stream_is_told() {
        let problem = "{\"code\":\"unavailable\",\"message\":\"draining\"}";
        for (wire, body) in [
            (Wire::Sse, format!("event: tidegate-error\ndata: {problem}\n\n")),
            (Wire::Ndjson, format!("{{\"error\":{problem}}}\n")),
        ] {
            let mut input = Vec::new();
            tidegate_wire::ndjson::write_chunk(&mut input, body.as_bytes());
            let (_, result) = read(wire, "", &input, 0);
            assert!(matches!(result, Err(Failure::Problem(it)) if it.detail == "draining"));
            let (_, result) = read(wire, "", b"0\r\n\r\n", 0);
            assert!(matches!(result, Err(Failure::Cut(_))));
        }
        let (_, result) = read(Wire::Ndjson, "", b"3\r\n{x}\r\n", 0);
        assert!(matches!(result, Ok(())), "the line has not ended");
        let (_, result) = read(Wire::Ndjson, "", b"4\r\n{x}\n\r\n", 0);
        assert!(matches!(result, Err(Failure::Protocol(_))));
    }
}
