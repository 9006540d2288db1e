//! The wires as a client sees them, each read by a few lines of its own: what comes is turned into
//! [`Item`]s, in order, until the hop's bytes are used up and the connection is dropped.

use anyhow::Context as _;
use serde_json::Value;

use crate::frame;
use crate::http::{ACCEPT, Body, Connection, Head, UPGRADE};

/// A way to ask for a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Wire {
    WebSocket,
    Envelopes,
    Sse,
    Ndjson,
    LongPoll,
    Poll,
}

impl Wire {
    pub(super) const ALL: [Wire; 6] =
        [Wire::WebSocket, Wire::Envelopes, Wire::Sse, Wire::Ndjson, Wire::LongPoll, Wire::Poll];

    pub(super) fn name(self) -> &'static str {
        match self {
            Wire::WebSocket => "ws",
            Wire::Envelopes => "tidegate.v1.json",
            Wire::Sse => "sse",
            Wire::Ndjson => "ndjson",
            Wire::LongPoll => "long-poll",
            Wire::Poll => "poll",
        }
    }
}

/// What a wire told.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Item {
    /// Where to go on from now on.
    Cursor(String),
    Publication {
        channel: String,
        number: u64,
    },
    End {
        channel: String,
    },
    Gap(String),
}

/// Takes what came with one read, often nothing; false if the run is over.
pub(super) type Take<'a> = &'a mut dyn FnMut(Vec<Item>) -> anyhow::Result<bool>;

/// One stay on one wire.
pub(super) struct Hop<'a> {
    pub(super) address: &'a str,
    pub(super) channels: &'a [String],
    pub(super) cursor: &'a str,
    /// Bytes of the stream after which it is cut.
    pub(super) bytes_max: usize,
    /// Messages of a poll.
    pub(super) limit: usize,
    /// Whether SSE says its cursor as a browser does, in `Last-Event-ID`.
    pub(super) use_header: bool,
}

impl Hop<'_> {
    /// Opens, hands over what comes as it comes, cuts.
    pub(super) fn run(&self, wire: Wire, take: Take<'_>) -> anyhow::Result<()> {
        match wire {
            Wire::WebSocket => self.websocket(&self.target("&envelope=1"), None, take),
            Wire::Envelopes => self.websocket(&self.target(""), Some("tidegate.v1.json"), take),
            Wire::Sse => self.sse(take),
            Wire::Ndjson => self.ndjson(take),
            Wire::LongPoll => self.poll("&wait=20s", take),
            Wire::Poll => self.poll("", take),
        }
    }

    fn target(&self, query: &str) -> String {
        format!("/channels/{}?since={}{query}", self.channels.join(","), self.cursor)
    }

    /// The cursor that the answer opens with, after a check of its status.
    fn opening(head: &Head, status: u16) -> anyhow::Result<Item> {
        let found = head.status()?;
        anyhow::ensure!(found == status, "answered with {found} instead of {status}");
        let cursor = head.header("Tidegate-Cursor").context("there is no Tidegate-Cursor")?;
        Ok(Item::Cursor(cursor.to_owned()))
    }

    fn websocket(
        &self,
        target: &str,
        protocol: Option<&str>,
        take: Take<'_>,
    ) -> anyhow::Result<()> {
        let mut connection = Connection::open(self.address)?;
        let mut headers = UPGRADE.to_vec();
        headers.extend(protocol.map(|it| ("Sec-WebSocket-Protocol", it)));
        let head = connection.request("GET", target, &headers, b"")?;
        let opening = head.header("Tidegate-Cursor").unwrap_or_default().to_owned();
        take(vec![Self::opening(&head, 101)?])?;
        let accept = head.header("Sec-WebSocket-Accept");
        anyhow::ensure!(accept == Some(ACCEPT), "the accept is wrong");
        let mut first = true;
        let read = || {
            // What came with the head is there already.
            let more = std::mem::take(&mut first) && connection.has_more();
            Ok((more || connection.fill()? > 0).then(|| connection.take()))
        };
        // Envelopes have each channel's own cursor: what is joined is the client's to keep.
        let mut cursors: Vec<_> = opening.split('.').map(str::to_owned).collect();
        let mut form = |text: &str| match protocol {
            None => json_form(text),
            Some(_) => envelope(text, self.channels, &mut cursors),
        };
        self.cut(read, take, |bytes| {
            let (texts, used) = texts(bytes)?;
            let items = texts.into_iter().map(&mut form).collect::<anyhow::Result<Vec<_>>>()?;
            Ok((items.into_iter().flatten().collect(), used))
        })
    }

    fn sse(&self, take: Take<'_>) -> anyhow::Result<()> {
        let mut connection = Connection::open(self.address)?;
        let mut headers = vec![("Accept", "text/event-stream")];
        let mut target = self.target("");
        if self.use_header && self.cursor != "start" {
            headers.push(("Last-Event-ID", self.cursor));
            // As an EventSource does, which keeps to the URL that it was given.
            target = format!("/channels/{}?since=now", self.channels.join(","));
        }
        let head = connection.request("GET", &target, &headers, b"")?;
        if head.status()? == 204 {
            let ended = self.channels.iter().map(|it| Item::End { channel: it.clone() });
            take(ended.collect())?;
            return Ok(());
        }
        take(vec![Self::opening(&head, 200)?])?;
        let mut body = Body::new(connection, &head)?;
        self.cut(|| body.next(), take, |bytes| whole(bytes, "\n\n", |block| self.sse_event(block)))
    }

    /// One block of an event stream.
    fn sse_event(&self, block: &str) -> anyhow::Result<Vec<Item>> {
        let field = |name: &str| {
            let mut values = block.lines().filter_map(|line| line.strip_prefix(name));
            values.next().and_then(|it| it.strip_prefix(": "))
        };
        let mut items = Vec::new();
        if let Some(data) = field("data") {
            let value: Value = serde_json::from_str(data)?;
            match field("event") {
                Some("tidegate-gap") => items.push(Item::Gap(data.to_owned())),
                Some("tidegate-end") => items.push(Item::End { channel: text(&value, "channel")? }),
                Some(event) => anyhow::bail!("an event `{event}`: {data}"),
                // With several channels the data is the JSON form; alone it is the payload.
                None if self.channels.len() > 1 => items.push(publication(&value)?),
                None => {
                    let channel = self.channels.first().context("one channel")?.clone();
                    items.push(Item::Publication { channel, number: number(&value)? });
                }
            }
        }
        items.extend(field("id").map(|id| Item::Cursor(id.to_owned())));
        Ok(items)
    }

    fn ndjson(&self, take: Take<'_>) -> anyhow::Result<()> {
        let mut connection = Connection::open(self.address)?;
        let accept = [("Accept", "application/x-ndjson")];
        let head = connection.request("GET", &self.target(""), &accept, b"")?;
        take(vec![Self::opening(&head, 200)?])?;
        let mut body = Body::new(connection, &head)?;
        self.cut(
            || body.next(),
            take,
            |bytes| {
                // An empty line says that the stream is alive.
                whole(bytes, "\n", |line| if line == "\n" { Ok(vec![]) } else { json_form(line) })
            },
        )
    }

    fn poll(&self, query: &str, take: Take<'_>) -> anyhow::Result<()> {
        let mut connection = Connection::open(self.address)?;
        let target = self.target(&format!("&limit={}{query}", self.limit));
        let head = connection.request("GET", &target, &[], b"")?;
        let opening = Self::opening(&head, 200)?;
        let body = Body::new(connection, &head)?.rest()?;
        let page: Value = serde_json::from_slice(&body)?;
        let list = |name: &str| {
            let list = page.get(name).and_then(Value::as_array);
            list.with_context(|| format!("a page without `{name}`: {page}"))
        };
        let mut items = Vec::new();
        for gap in list("gaps")? {
            items.push(Item::Gap(gap.to_string()));
        }
        for message in list("messages")? {
            items.push(publication(message)?);
        }
        for channel in list("ended")? {
            let channel = channel.as_str().context("channels are texts")?.to_owned();
            items.push(Item::End { channel });
        }
        let cursor = text(&page, "cursor")?;
        anyhow::ensure!(opening == Item::Cursor(cursor.clone()), "header and page differ: {page}");
        items.push(Item::Cursor(cursor));
        take(items)?;
        Ok(())
    }

    /// Reads until the hop's bytes are used up, the stream ends or the run does. `parse` says what
    /// the whole units at the front of the bytes are, and how many bytes they have; what is cut
    /// before its unit was whole is never taken.
    fn cut(
        &self,
        mut read: impl FnMut() -> anyhow::Result<Option<Vec<u8>>>,
        take: Take<'_>,
        mut parse: impl FnMut(&[u8]) -> anyhow::Result<(Vec<Item>, usize)>,
    ) -> anyhow::Result<()> {
        let (mut bytes, mut left) = (Vec::new(), self.bytes_max);
        while left > 0 {
            let Some(mut more) = read()? else { break };
            more.truncate(left);
            left -= more.len();
            bytes.extend(more);
            let (items, used) = parse(&bytes)?;
            bytes.drain(..used);
            if !take(items)? {
                break;
            }
        }
        Ok(())
    }
}

/// The items of the whole units at the front of `bytes`, each ended by `end`, and how many bytes
/// those have.
fn whole(
    bytes: &[u8],
    end: &str,
    parse: impl Fn(&str) -> anyhow::Result<Vec<Item>>,
) -> anyhow::Result<(Vec<Item>, usize)> {
    // Nothing but ASCII is published, so that any cut is one between characters.
    let text = std::str::from_utf8(bytes)?;
    let (mut items, mut used) = (Vec::new(), 0);
    for unit in text.split_inclusive(end).filter(|unit| unit.ends_with(end)) {
        items.extend(parse(unit)?);
        used += unit.len();
    }
    Ok((items, used))
}

/// A JSON form with its cursor, or a gap, or an end.
fn json_form(line: &str) -> anyhow::Result<Vec<Item>> {
    let value: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
    if let Some(gap) = value.get("gap") {
        return Ok(vec![Item::Gap(gap.to_string())]);
    }
    // Several channels have the joined cursor beside the entry's own.
    let resume = value.get("resume").and_then(Value::as_str);
    if let Some(end) = value.get("end") {
        let cursor = resume.map_or_else(|| text(end, "cursor"), |it| Ok(it.to_owned()))?;
        return Ok(vec![Item::End { channel: text(end, "channel")? }, Item::Cursor(cursor)]);
    }
    let cursor = resume.map_or_else(|| text(&value, "cursor"), |it| Ok(it.to_owned()))?;
    Ok(vec![publication(&value)?, Item::Cursor(cursor)])
}

/// A push of an enveloped connection. `cursors` are those of the channels, in their order, and are
/// what it goes on from, joined.
fn envelope(line: &str, channels: &[String], cursors: &mut [String]) -> anyhow::Result<Vec<Item>> {
    let value: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
    let (name, it) = value.as_object().and_then(|it| it.iter().next()).context("no push")?;
    let item = match name.as_str() {
        "message" => publication(it)?,
        "end" => Item::End { channel: text(it, "channel")? },
        "gap" => return Ok(vec![Item::Gap(it.to_string())]),
        "welcome" | "subscribed" | "unsubscribed" | "ping" => return Ok(vec![]),
        // Where it is on.
        "presence" | "join" | "leave" => return Ok(vec![]),
        _ => anyhow::bail!("a push that nobody asked for: {line}"),
    };
    let channel = text(it, "channel")?;
    let place = channels.iter().position(|it| *it == channel).context("a foreign channel")?;
    *cursors.get_mut(place).context("a cursor for each channel")? = text(it, "cursor")?;
    Ok(vec![item, Item::Cursor(cursors.join("."))])
}

/// The JSON form of a publication of ours.
fn publication(value: &Value) -> anyhow::Result<Item> {
    let data = value.get("data").with_context(|| format!("this is no publication: {value}"))?;
    Ok(Item::Publication { channel: text(value, "channel")?, number: number(data)? })
}

fn number(data: &Value) -> anyhow::Result<u64> {
    data.get("n").and_then(Value::as_u64).with_context(|| format!("no payload of ours: {data}"))
}

fn text(value: &Value, name: &str) -> anyhow::Result<String> {
    let text = value.get(name).and_then(Value::as_str);
    text.map(str::to_owned).with_context(|| format!("no `{name}` in {value}"))
}

/// The whole text messages at the front of `all`, which is frames of a server, and how many bytes
/// the whole frames have.
fn texts(all: &[u8]) -> anyhow::Result<(Vec<&str>, usize)> {
    let (mut found, mut bytes) = (Vec::new(), all);
    while let Some(frame) = frame::read(&mut bytes)? {
        match frame.first {
            frame::TEXT => found.push(std::str::from_utf8(frame.payload)?),
            // A ping, which nobody answers who leaves so soon; a close, after all ends were told.
            frame::CLOSE | frame::PING => {}
            first => anyhow::bail!("a frame that begins with {first:#04x}"),
        }
    }
    Ok((found, all.len() - bytes.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_the_whole_frames_before_any_cut() {
        let mut bytes = vec![0x89, 0, 0x81, 2, b'h', b'i', 0x81, 126, 0, 130];
        bytes.extend([b'x'; 130]);
        let long = "x".repeat(130);
        for cut in 0..=bytes.len() {
            let (expect, used) = match cut {
                ..2 => (vec![], 0),
                2..6 => (vec![], 2),
                6..140 => (vec!["hi"], 6),
                _ => (vec!["hi", &long], 140),
            };
            assert_eq!(texts(&bytes[..cut]).unwrap(), (expect, used));
        }
        assert!(texts(&[0x81, 0x80, 0, 0, 0, 0]).is_err());
        assert!(texts(&[0x01, 0]).is_err());
    }

    #[test]
    fn units_are_whole_or_wait() {
        let parse = |unit: &str| Ok(vec![Item::Gap(unit.to_owned())]);
        let (items, used) = whole(b"a\nb\nc", "\n", parse).unwrap();
        assert_eq!(items, [Item::Gap("a\n".into()), Item::Gap("b\n".into())]);
        assert_eq!(used, 4);
        assert_eq!(whole(b"a", "\n", parse).unwrap(), (vec![], 0));
    }

    #[test]
    fn an_envelope_moves_the_cursor_of_its_channel() {
        let channels = ["a".to_owned(), "b".to_owned()];
        let mut cursors = ["1".to_owned(), "2".to_owned()];
        let mut check = |line: &str, expect: &[Item]| {
            assert_eq!(envelope(line, &channels, &mut cursors).unwrap(), expect);
        };
        check(r#"{"welcome":{"ping":25}}"#, &[]);
        let publication = Item::Publication { channel: "b".into(), number: 7 };
        check(
            r#"{"message":{"channel":"b","cursor":"3","data":{"n":7}}}"#,
            &[publication, Item::Cursor("1.3".into())],
        );
        let end = Item::End { channel: "a".into() };
        check(r#"{"end":{"channel":"a","cursor":"4"}}"#, &[end, Item::Cursor("4.3".into())]);
    }

    #[test]
    fn an_entry_with_several_channels_resumes_by_the_joined_cursor() {
        let items = json_form(r#"{"channel":"a","cursor":"1","resume":"1.2","data":{"n":7}}"#);
        let publication = Item::Publication { channel: "a".into(), number: 7 };
        assert_eq!(items.unwrap(), [publication, Item::Cursor("1.2".into())]);
        let items = json_form(r#"{"end":{"channel":"a","cursor":"1"}}"#);
        assert_eq!(items.unwrap(), [Item::End { channel: "a".into() }, Item::Cursor("1".into())]);
    }
}
