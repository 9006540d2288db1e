//! Slow subscribers: a reader that stops while megabytes are published, on each wire, with each
//! policy (CONTRACT 4). What it finds afterwards has no duplicate, is in order, and each hole is told.

use serde_json::Value;

use super::common::{Body, End, Message, NDJSON, Ndjson, SSE, Server, Sse, Ws};

/// Publications, and bytes of each: more than all kernel buffers on the way take.
const COUNT: usize = 120;
const BYTES: usize = 128 << 10;

const RULES: &str = r#"
[[channel]]
match = "spill.short"
log = { messages = 30, bytes = "64MiB" }
outbox = { messages = 10, bytes = "64MiB" }
[[channel]]
match = "spill.none.>"
log = { messages = 0 }
outbox = { messages = 10, bytes = "64MiB" }
[[channel]]
match = "spill.>"
log = { bytes = "64MiB" }
outbox = { messages = 10, bytes = "64MiB" }
[[channel]]
match = "drop-oldest.>"
log = { bytes = "64MiB" }
outbox = { bytes = "1MiB", policy = "drop-oldest" }
[[channel]]
match = "conflate.>"
log = { bytes = "64MiB" }
outbox = { messages = 10, bytes = "64MiB", policy = "conflate" }
[[channel]]
match = "disconnect.>"
log = { bytes = "64MiB" }
outbox = { messages = 10, bytes = "64MiB", policy = "disconnect" }
"#;

/// What a reader found, wire by wire the same.
#[derive(Debug, PartialEq)]
enum Found {
    /// The number of a publication and its cursor, where the wire has one.
    Message(usize, Option<String>),
    /// From where to where, and why.
    Gap(String, String, String),
    /// The error that ends it.
    Error(String),
    /// The end of a WebSocket.
    Close(u16, String),
}

/// A reader that does not read yet.
enum Reader {
    Sse(Sse),
    Ndjson(Ndjson),
    Json(Ws),
    Envelope(Ws),
    Bare(Ws),
}

type Open = fn(&Server, &str) -> Reader;

/// One of each; the bare WebSocket last.
const OPEN: [Open; 5] = [
    |server, channel| Reader::Sse(Sse::new(open_http(server, channel, SSE))),
    |server, channel| Reader::Ndjson(Ndjson(open_http(server, channel, NDJSON))),
    |server, channel| Reader::Json(open_ws(server, channel, "?envelope=1")),
    |server, channel| {
        let (narrow, target) = (server.connect_narrow(), format!("/channels/{channel}"));
        let mut ws = server.ws_offering(narrow, &target, &["tidegate.v1.json"], None);
        assert!(ws.json()["welcome"].is_object());
        assert!(ws.json()["subscribed"].is_object());
        Reader::Envelope(ws)
    },
    |server, channel| Reader::Bare(open_ws(server, channel, "")),
];

fn open_http(server: &Server, channel: &str, accept: &str) -> Body {
    server.open_on(server.connect_narrow(), &format!("/channels/{channel}"), accept).1
}

fn open_ws(server: &Server, channel: &str, query: &str) -> Ws {
    let target = format!("/channels/{channel}{query}");
    server.ws_with(server.connect_narrow(), &target, None, &[])
}

impl Reader {
    fn next(&mut self) -> Found {
        match self {
            Self::Sse(sse) => {
                let event = sse.event();
                let id = Some(event.id.clone());
                match &*event.event {
                    "tidegate-gap" => gap(&serde_json::from_str(&event.data).unwrap()),
                    "tidegate-error" => {
                        let error: Value = serde_json::from_str(&event.data).unwrap();
                        assert_eq!(sse.body.end(), End::Proper);
                        Found::Error(error["code"].as_str().unwrap().to_owned())
                    }
                    _ => Found::Message(number(&event.data), id),
                }
            }
            Self::Ndjson(lines) => {
                let line = lines.next();
                if let Some(error) = line.get("error") {
                    assert_eq!(lines.0.end(), End::Proper);
                    return Found::Error(error["code"].as_str().unwrap().to_owned());
                }
                of_json(&line)
            }
            Self::Json(ws) => match ws.json() {
                it if it["error"].is_object() => {
                    assert_eq!(it["error"]["code"], "slow_consumer", "{it}");
                    let Message::Close(code, reason) = ws.next() else { panic!() };
                    Found::Close(code.unwrap(), reason)
                }
                it => of_json(&it),
            },
            Self::Envelope(ws) => match ws.json() {
                it if it["gap"].is_object() => gap(&it["gap"]),
                it if it["message"].is_object() => of_json(&it["message"]),
                it => {
                    assert_eq!(it["error"]["code"], "slow_consumer", "{it}");
                    let Message::Close(code, reason) = ws.next() else { panic!() };
                    Found::Close(code.unwrap(), reason)
                }
            },
            Self::Bare(ws) => match ws.next() {
                Message::Text(text) => Found::Message(number(&text), None),
                Message::Close(code, reason) => Found::Close(code.unwrap(), reason),
                other => panic!("{other:?}"),
            },
        }
    }

    fn is_bare(&self) -> bool {
        matches!(self, Self::Bare(_))
    }
}

fn number(text: &str) -> usize {
    assert_eq!(text.len(), BYTES);
    text[..6].parse().unwrap()
}

fn gap(gap: &Value) -> Found {
    let part = |name: &str| gap[name].as_str().unwrap().to_owned();
    Found::Gap(part("requested"), part("resumed"), part("reason"))
}

fn of_json(line: &Value) -> Found {
    match line.get("gap") {
        Some(it) => gap(it),
        None => Found::Message(
            number(line["text"].as_str().unwrap()),
            Some(line["cursor"].as_str().unwrap().to_owned()),
        ),
    }
}

/// Publishes the next one while readers stand still and `keen` reads along. It gets each before the
/// next is published, so nobody but itself can slow it.
fn publish(server: &Server, channel: &str, event: &str, keen: &mut Ws, cursors: &mut Vec<String>) {
    let n = cursors.len();
    let payload = format!("{n:06}{}", "x".repeat(BYTES - 6));
    cursors.push(server.post(&format!("/channels/{channel}?as=text{event}"), "", &payload));
    assert_eq!(of_json(&keen.json()), Found::Message(n, cursors.last().cloned()));
}

/// Reads up to the newest publication or to what ends the stream, and checks that every hole is told
/// but no more than that; the numbers that were found, the gaps' reasons, and what ended it.
#[track_caller]
fn check(
    reader: &mut Reader,
    start: &str,
    cursors: &[String],
    is_silent: bool,
) -> (Vec<usize>, Vec<String>, Option<Found>) {
    let (mut numbers, mut reasons) = (Vec::new(), Vec::new());
    // How many lie behind.
    let mut at = 0;
    let cursor_at = |at: usize| if at == 0 { start } else { &*cursors[at - 1] };
    while at < cursors.len() {
        match reader.next() {
            Found::Message(n, cursor) => {
                if is_silent {
                    assert!(n >= at, "{n} after {at}");
                } else {
                    assert_eq!(n, at, "{reasons:?}");
                }
                if let Some(cursor) = cursor {
                    assert_eq!(cursor, cursors[n]);
                }
                numbers.push(n);
                at = n + 1;
            }
            Found::Gap(requested, resumed, reason) => {
                assert_eq!(requested, cursor_at(at));
                let to = cursors.iter().position(|it| *it == resumed).expect("a known place") + 1;
                assert!(to > at, "a gap of nothing");
                reasons.push(reason);
                at = to;
            }
            last => return (numbers, reasons, Some(last)),
        }
    }
    (numbers, reasons, None)
}

struct Case {
    server: Server,
    start: String,
    cursors: Vec<String>,
    readers: Vec<Reader>,
}

/// Readers that stood still while everything was published; bare ones only on request.
fn case(
    name: &str,
    channel: &str,
    policy: &str,
    bare: usize,
    event: fn(usize) -> &'static str,
) -> Case {
    let server = Server::start(name, RULES, &["--dev"]);
    let start = server.now(channel);
    let readers: Vec<_> =
        OPEN.into_iter().take(4 + bare).map(|open| open(&server, channel)).collect();
    let mut keen = server.ws(&format!("/channels/{channel}?envelope=1"));
    let mut cursors = Vec::new();
    for n in 0..COUNT {
        publish(&server, channel, event(n), &mut keen, &mut cursors);
    }
    // All of them overflowed, or this shows nothing.
    let overflows = format!("tidegate_outbox_overflows_total{{policy=\"{policy}\"}}");
    server.until(&overflows, |it| it >= readers.len() as u64);
    Case { server, start, cursors, readers }
}

/// Checks that a reader that is too slow is closed with 1013 or its error, and that it then can go on
/// from where it was.
fn check_disconnected(server: &Server, channel: &str, open: Open) {
    const OVERFLOWS: &str = "tidegate_outbox_overflows_total{policy=\"disconnect\"}";
    let start = server.now(channel);
    let mut reader = open(server, channel);
    let mut keen = server.ws(&format!("/channels/{channel}?envelope=1"));
    let mut cursors = Vec::new();
    let before = server.metric(OVERFLOWS);
    // It is told at once, and has five seconds to hear it.
    while server.metric(OVERFLOWS) == before {
        assert!(cursors.len() < COUNT, "it never overflowed");
        publish(server, channel, "", &mut keen, &mut cursors);
    }
    let (numbers, reasons, last) = check(&mut reader, &start, &cursors, false);
    assert!(reasons.is_empty() && numbers.len() < cursors.len(), "{reasons:?}");
    let since = &cursors[numbers.len() - 1];
    match reader {
        Reader::Sse(_) | Reader::Ndjson(_) => {
            assert_eq!(last, Some(Found::Error("slow_consumer".to_owned())));
        }
        Reader::Json(_) | Reader::Bare(_) => {
            assert_eq!(last, Some(Found::Close(1013, since.clone())));
        }
        Reader::Envelope(_) => {
            assert_eq!(last, Some(Found::Close(1013, "slow_consumer".to_owned())));
        }
    }
    drop(reader);
    let mut rest = Reader::Ndjson(server.ndjson(&format!("/channels/{channel}?since={since}")));
    match rest.next() {
        // Where nothing is kept.
        Found::Gap(requested, ..) => assert_eq!(requested, *since),
        first => {
            assert_eq!(first, Found::Message(numbers.len(), Some(cursors[numbers.len()].clone())));
            for (n, cursor) in cursors.iter().enumerate().skip(numbers.len() + 1) {
                assert_eq!(rest.next(), Found::Message(n, Some(cursor.clone())));
            }
        }
    }
}

fn nameless(_: usize) -> &'static str {
    ""
}

#[test]
fn spill_loses_nothing_that_the_log_has() {
    let mut it = case("spill", "spill.long", "spill", 1, nameless);
    for reader in &mut it.readers {
        let (numbers, reasons, last) = check(reader, &it.start, &it.cursors, false);
        assert_eq!((numbers.len(), reasons.len(), last), (COUNT, 0, None));
    }
    assert_eq!(it.server.metric("tidegate_gaps_total{reason=\"slow\"}"), 0);
    // And they are live again.
    let payload = format!("{COUNT:06}{}", "x".repeat(BYTES - 6));
    it.server.publish("spill.long", &payload);
    for reader in &mut it.readers {
        assert!(matches!(reader.next(), Found::Message(COUNT, _)));
    }
}

#[test]
fn spill_tells_what_the_log_has_no_more() {
    let mut it = case("spill-short", "spill.short", "spill", 1, nameless);
    for reader in &mut it.readers {
        let is_bare = reader.is_bare();
        let (numbers, reasons, last) = check(reader, &it.start, &it.cursors, false);
        assert!(numbers.len() < COUNT);
        if is_bare {
            let Some(Found::Close(4010, reason)) = last else { panic!("{last:?}") };
            // It goes on with the oldest that is kept.
            let target = format!("/channels/spill.short?since={reason}");
            let mut ws = Reader::Bare(it.server.ws(&target));
            assert!(matches!(ws.next(), Found::Message(n, _) if n == COUNT - 30));
        } else {
            assert_eq!((reasons, last), (vec!["expired".to_owned()], None));
            assert!(numbers.ends_with(&(COUNT - 30..COUNT).collect::<Vec<_>>()));
        }
    }
}

/// Checks that readers were told that they were slow, and nothing else, and have the newest.
fn check_told(it: &mut Case, kept: usize) {
    for reader in &mut it.readers {
        let (numbers, reasons, last) = check(reader, &it.start, &it.cursors, false);
        assert_eq!(last, None);
        assert!(!reasons.is_empty() && reasons.iter().all(|it| it == "slow"), "{reasons:?}");
        assert!(numbers.ends_with(&(COUNT - kept..COUNT).collect::<Vec<_>>()), "{numbers:?}");
    }
}

#[test]
fn drop_oldest_tells_what_it_dropped() {
    let mut it = case("drop-oldest", "drop-oldest.a", "drop-oldest", 0, nameless);
    check_told(&mut it, 7);
    check_disconnected(&it.server, "drop-oldest.b", OPEN[4]);
}

#[test]
fn spill_without_a_log_is_drop_oldest() {
    let mut it = case("spill-none", "spill.none.a", "drop-oldest", 0, nameless);
    check_told(&mut it, 10);
    check_disconnected(&it.server, "spill.none.b", OPEN[4]);
}

#[test]
fn conflate_keeps_the_newest_of_each_event() {
    let event: fn(usize) -> &'static str = |n| ["&event=a", "&event=b", ""][n % 3];
    let mut it = case("conflate", "conflate.a", "conflate", 1, event);
    for reader in &mut it.readers {
        let is_bare = reader.is_bare();
        let (numbers, reasons, last) = check(reader, &it.start, &it.cursors, is_bare);
        assert_eq!(last, None);
        assert!(numbers.len() < COUNT);
        assert!(numbers.ends_with(&[COUNT - 3, COUNT - 2, COUNT - 1]), "{numbers:?}");
        assert_eq!(reasons.is_empty(), is_bare);
        assert!(reasons.iter().all(|it| it == "slow"), "{reasons:?}");
    }
}

#[test]
fn disconnect_says_so_and_the_cursor_goes_on() {
    let server = Server::start("disconnect", RULES, &["--dev"]);
    for (channel, open) in ["a", "b", "c", "d", "e"].into_iter().zip(OPEN) {
        check_disconnected(&server, &format!("disconnect.{channel}"), open);
    }
}

#[test]
fn of_several_channels_the_fullest_overflows_first() {
    let config = "[http]\nmax_outbox = \"2MiB\"\n[[channel]]\nmatch = \">\"\n\
                  outbox = { policy = \"drop-oldest\" }\n";
    let server = Server::start("total", config, &["--dev"]);
    let (_, body) = server.open_on(server.connect_narrow(), "/channels/big,small", NDJSON);
    let mut lines = Ndjson(body);
    let start = server.now("big");
    let mut cursors = Vec::new();
    for n in 0..COUNT {
        let payload = format!("{n:06}{}", "x".repeat(BYTES - 6));
        cursors.push(server.publish("big", &payload));
        server.publish("small", &format!("{n}"));
    }
    server.until("tidegate_outbox_overflows_total{policy=\"drop-oldest\"}", |it| it >= 1);
    let (mut at, mut gaps, mut small) = (0, 0, 0);
    while at < COUNT || small < COUNT {
        let line = lines.next();
        if line["channel"] == "small" {
            assert_eq!(line["text"], small.to_string(), "the small one loses nothing");
            small += 1;
            continue;
        }
        match of_json(&line) {
            Found::Message(n, _) => {
                assert_eq!(n, at);
                at += 1;
            }
            Found::Gap(requested, resumed, reason) => {
                assert_eq!(requested, if at == 0 { &start } else { &cursors[at - 1] }.as_str());
                assert_eq!((&*reason, &line["gap"]["channel"]), ("slow", &Value::from("big")));
                at = cursors.iter().position(|it| *it == resumed).unwrap() + 1;
                gaps += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(gaps > 0);
}
