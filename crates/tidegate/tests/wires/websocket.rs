//! The bare WebSocket (CONTRACT 4, 7, 8). Frames themselves are Autobahn's and the codec's to test.

use std::io::ErrorKind;
use std::time::Instant;

use serde_json::json;
use tidegate_wire::websocket::{DeflateOffer, Deflater, DeflaterPool, Kind, encode};

use super::common::{Message, SOON, Server, Ws, far_ahead, masked, of_another_epoch};

const RULES: &str = r#"
[http]
origins = ["https://app.example"]
[[channel]]
match = "open"
subscribe = "anyone"
publish = "anyone"
[[channel]]
match = "read.token"
subscribe = "anyone"
[[channel]]
match = "read.nobody"
subscribe = "anyone"
publish = "nobody"
[[channel]]
match = "nobody"
subscribe = "nobody"
publish = "nobody"
"#;

/// Each of these is to be told apart from an open connection.
fn text(text: &str) -> Message {
    Message::Text(text.to_owned())
}

// ---- Messages --------------------------------------------------------------------------------

#[test]
fn what_is_sent_is_published_as_it_is_and_comes_back() {
    let server = Server::dev();
    let mut ws = server.ws("/channels/a");
    assert_eq!(ws.header("tidegate-cursor"), Some(&*server.now("a")));
    let mut lines = server.ndjson("/channels/a");
    for payload in ["plain", "{\"n\": 1}", "[1,\n2]", "12", "{not json", ""] {
        ws.send_text(payload);
        assert_eq!(ws.next(), text(payload));
    }
    for payload in [&b"\0\xFF"[..], b"text", b""] {
        ws.send_binary(payload);
        assert_eq!(ws.next(), Message::Binary(payload.to_vec()));
    }
    let kinds: Vec<_> = (0..9)
        .map(|_| {
            let line = lines.next();
            ["data", "text", "base64"].into_iter().find(|it| line.get(it).is_some()).unwrap()
        })
        .collect();
    let expect = ["text", "data", "data", "text", "text", "text", "base64", "base64", "base64"];
    assert_eq!(kinds, expect);
    // And the other way, in the order of the log.
    server.publish("a", "from HTTP");
    server.post("/channels/a?as=binary", "", "bytes");
    server.post("/channels/a", "Tidegate-Event: e\r\n", "{\"n\":2}");
    assert_eq!(ws.text(), "from HTTP");
    assert_eq!(ws.next(), Message::Binary(b"bytes".to_vec()));
    assert_eq!(ws.text(), "{\"n\":2}");
}

#[test]
fn many_messages_in_one_write_keep_their_order() {
    let server = Server::dev();
    let mut ws = server.ws("/channels/a");
    let mut bytes = Vec::new();
    for n in 0..1000 {
        bytes.extend(masked(Kind::Text, n.to_string().as_bytes()));
    }
    ws.send(&bytes);
    for n in 0..1000 {
        assert_eq!(ws.text(), n.to_string());
    }
}

#[test]
fn one_does_not_hear_oneself_where_one_said_so() {
    let server = Server::dev();
    let mut other = server.ws("/channels/a");
    let mut ws = server.ws("/channels/a?echo=0");
    for n in 0..3 {
        ws.send_text(&n.to_string());
        assert_eq!(other.text(), n.to_string());
    }
    other.send_text("other");
    assert_eq!(ws.text(), "other");
    assert_eq!(other.text(), "other");

    let mut ws = server.ws("/channels/a?subscribe=0");
    assert_eq!(ws.header("tidegate-cursor"), None);
    ws.send_text("mute");
    assert_eq!(other.text(), "mute");
    server.publish("a", "not for it");
    assert_eq!(other.text(), "not for it");
    assert_eq!(ws.until_pong(), []);
}

#[test]
fn fragments_are_one_message_and_pings_may_come_between_them() {
    let server = Server::dev();
    let mut ws = server.ws("/channels/a");
    let mut frames = Vec::new();
    // "é" is cut in two.
    frames.extend(fragment(0x01, b"caf\xC3"));
    encode::ping(b"p", Some(super::common::MASK), &mut frames);
    frames.extend(fragment(0x80, b"\xA9"));
    for byte in frames {
        ws.send(&[byte]);
    }
    assert_eq!(ws.next(), Message::Pong(b"p".to_vec()));
    assert_eq!(ws.text(), "café");
    // Unasked pongs mean nothing.
    let mut pong = Vec::new();
    encode::pong(b"x", Some(super::common::MASK), &mut pong);
    ws.send(&pong);
    assert_eq!(ws.until_pong(), []);
}

/// A masked frame of less than 126 bytes with this first byte.
fn fragment(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first, 0x80 | u8::try_from(payload.len()).unwrap()];
    frame.extend(super::common::MASK);
    frame.extend(payload.iter().zip(super::common::MASK.iter().cycle()).map(|(a, b)| a ^ b));
    frame
}

#[test]
fn the_json_form_can_be_asked_for_and_then_for_several_channels() {
    let server = Server::dev();
    let mut one = server.ws("/channels/a?envelope=1&since=start");
    one.send_text("{\"n\":1}");
    let message = one.json();
    assert_eq!((&message["channel"], &message["data"]), (&json!("a"), &json!({"n": 1})));
    assert_eq!(message.get("resume"), None);

    let mut ws = server.ws("/channels/a,b?envelope=1&since=start");
    let message = ws.json();
    assert_eq!(message["data"], json!({"n": 1}));
    server.publish("b", "two");
    let message = ws.json();
    assert_eq!((&message["channel"], &message["text"]), (&json!("b"), &json!("two")));
    let resume = message["resume"].as_str().unwrap().to_owned();
    server.delete("a");
    let gap = ws.json();
    assert_eq!((&gap["gap"]["channel"], &gap["gap"]["reason"]), (&json!("a"), &json!("dropped")));
    assert!(gap["resume"].is_string());
    assert_eq!(one.json()["gap"]["reason"], "dropped");
    let end = server.end("b");
    let message = ws.json();
    assert_eq!(message["end"], json!({"channel": "b", "cursor": end}));
    assert!(message["resume"].as_str().unwrap().contains(&end));
    let end = server.end("a");
    assert_eq!(ws.json()["end"], json!({"channel": "a", "cursor": end}));
    ws.closed(1000);
    assert_eq!(one.json(), json!({"end": {"channel": "a", "cursor": end}}));
    assert_eq!(one.closed(1000), end);

    let mut ws = server.ws(&format!("/channels/b,a?envelope=1&since={resume}"));
    let mut found: Vec<_> = (0..3).map(|_| ws.json().to_string()).collect();
    found.sort_by_key(|it| !it.contains("gap"));
    assert!(found[0].contains("expired") && found[1].contains("end"), "{found:?}");
    ws.closed(1000);
}

#[test]
fn with_several_channels_there_is_nowhere_to_publish() {
    let server = Server::dev();
    for message in [masked(Kind::Text, b"x"), masked(Kind::Binary, b"x")] {
        let mut ws = server.ws("/channels/a,b?envelope=1");
        ws.send(&message);
        ws.closed(1003);
    }
    let answer = handshake(&server, "/channels/a,b", &[]);
    answer.check_problem(400, "invalid_argument", "envelope=1");
}

#[test]
fn positions_are_as_on_other_wires() {
    let server = Server::dev();
    let one = server.publish("a", "one");
    let two = server.publish("a", "two");
    for (query, expect) in [
        ("since=start".to_owned(), &["one", "two"][..]),
        (format!("since={one}"), &["two"]),
        (format!("since={two}"), &[]),
        ("since=now".to_owned(), &[]),
        ("last=1".to_owned(), &["two"]),
        (String::new(), &[]),
    ] {
        let mut ws = server.ws(&format!("/channels/a?{query}"));
        for expect in expect {
            assert_eq!(ws.text(), *expect, "{query}");
        }
        assert_eq!(ws.until_pong(), [], "{query}");
    }
}

// ---- Compression -----------------------------------------------------------------------------

#[test]
fn messages_are_deflated_where_both_want_it_and_the_class_allows_it() {
    let config = "[[channel]]\nmatch = \"secret\"\nclass = \"secret\"\n";
    let server = Server::start("deflate", config, &["--dev"]);
    let offer = Some(DeflateOffer::default());
    let long = "the same words again, ".repeat(50);
    let mut ws = server.ws_with(server.connect(), "/channels/a", offer, &[]);
    let agreed = ws.header("sec-websocket-extensions").unwrap();
    assert!(agreed.starts_with("permessage-deflate"), "{agreed}");
    let mut plain = server.ws("/channels/a");
    // The client's messages may refer to earlier ones.
    let params = tidegate_wire::websocket::DeflateParams {
        send_window_bits: 15,
        receive_window_bits: 15,
        send_takeover: true,
        receive_takeover: false,
    };
    let (mut deflater, mut pool) = (Deflater::new(params), DeflaterPool::new(6));
    for _ in 0..3 {
        let deflated = deflater.deflate(long.as_bytes(), &mut pool).unwrap();
        assert!(deflated.len() < 100);
        let info = encode::FrameInfo {
            is_compressed: true,
            mask: Some(super::common::MASK),
            ..encode::FrameInfo::message(Kind::Text)
        };
        let mut frame = Vec::new();
        encode::frame(info, deflated, &mut frame);
        ws.send(&frame);
        assert_eq!(ws.text(), long);
        assert_eq!(ws.raw[0], 0xC1);
        assert!(ws.raw.len() < 100, "{}", ws.raw.len());
        assert_eq!(plain.text(), long);
        assert_eq!(plain.raw[0], 0x81);
    }
    // What does not get smaller is sent as it is.
    ws.send_text("x");
    assert_eq!((ws.text().as_str(), ws.raw[0]), ("x", 0x81));
    let mut ws = server.ws_with(server.connect(), "/channels/secret", offer, &[]);
    ws.send_text(&long);
    assert_eq!((ws.text(), ws.raw[0]), (long, 0x81));
}

#[test]
fn deflate_can_be_off() {
    let server = Server::start("plain", "[websocket]\ndeflate = false\n", &["--dev"]);
    let mut ws =
        server.ws_with(server.connect(), "/channels/a", Some(DeflateOffer::default()), &[]);
    assert_eq!(ws.header("sec-websocket-extensions"), None);
    ws.send_text("x");
    assert_eq!(ws.text(), "x");
    ws.send(&fragment(0xC1, b"x"));
    ws.closed(1002);
}

#[test]
fn a_message_that_inflates_beyond_the_limit_is_refused() {
    let server = Server::start("bomb", "[websocket]\nmax_message = \"10KiB\"\n", &["--dev"]);
    let mut ws =
        server.ws_with(server.connect(), "/channels/a", Some(DeflateOffer::default()), &[]);
    let params = tidegate_wire::websocket::DeflateParams {
        send_window_bits: 15,
        receive_window_bits: 15,
        send_takeover: false,
        receive_takeover: false,
    };
    let mut pool = DeflaterPool::new(9);
    let bomb = vec![b'x'; 1 << 20];
    let info = encode::FrameInfo {
        is_compressed: true,
        mask: Some(super::common::MASK),
        ..encode::FrameInfo::message(Kind::Text)
    };
    let mut frame = Vec::new();
    encode::frame(info, Deflater::new(params).deflate(&bomb, &mut pool).unwrap(), &mut frame);
    assert!(frame.len() < 10 << 10);
    ws.send(&frame);
    ws.closed(1009);
    assert_eq!(server.get("/channels/a").json()["messages"], json!([]));
}

// ---- Closing ---------------------------------------------------------------------------------

#[test]
fn a_close_is_answered_with_its_code_and_the_connection_ends() {
    let server = Server::dev();
    for code in [Some(1000), Some(1001), Some(3999), Some(4999), None] {
        let mut ws = server.ws("/channels/a");
        let mut frames = masked(Kind::Text, b"last words");
        encode::close(
            code,
            if code.is_some() { "bye" } else { "" },
            Some(super::common::MASK),
            &mut frames,
        );
        // What it published itself comes back before the close does.
        ws.send(&frames);
        assert_eq!(ws.text(), "last words");
        assert_eq!(ws.next(), Message::Close(code, String::new()));
        assert_eq!(ws.next(), Message::Eof);
    }
    server.until("tidegate_connections{wire=\"ws\"}", |it| it == 0);
    assert_eq!(server.metric("tidegate_disconnects_total{wire=\"ws\",code=\"none\"}"), 5);
}

#[test]
fn who_breaks_the_protocol_is_closed_with_the_code_for_it() {
    let server = Server::dev();
    let huge = |opcode: u8, length: u64| {
        let mut header = vec![opcode, 0xFF];
        header.extend(length.to_be_bytes());
        header.extend(super::common::MASK);
        header
    };
    let cursor = server.publish("a", "before");
    for (bytes, code) in [
        (vec![0x81, 0x01, b'a'], 1002),
        (fragment(0xA1, b"a"), 1002),
        (fragment(0x91, b"a"), 1002),
        (fragment(0xC1, b"a"), 1002),
        (fragment(0x83, b"a"), 1002),
        (fragment(0x8B, b"a"), 1002),
        (fragment(0x09, b"a"), 1002),
        (fragment(0x80, b"a"), 1002),
        ([fragment(0x01, b"a"), fragment(0x81, b"b")].concat(), 1002),
        (fragment(0x88, b"x"), 1002),
        (fragment(0x88, &1005_u16.to_be_bytes()), 1002),
        (fragment(0x88, &999_u16.to_be_bytes()), 1002),
        (fragment(0x88, b"\x03\xE8\xFF"), 1007),
        (fragment(0x81, b"\xFF"), 1007),
        // As soon as the bytes prove it: this frame is not whole.
        (fragment(0x81, b"ab\xC3\x28 and more")[..10].to_vec(), 1007),
        (fragment(0x01, b"\xF4\x90"), 1007),
        (huge(0x81, (1 << 20) + 1), 1009),
        (huge(0x82, 1 << 40), 1009),
        (huge(0x82, 1 << 63), 1002),
    ] {
        let mut ws = server.ws("/channels/a");
        ws.send(&bytes);
        assert_eq!(ws.closed(code), cursor, "{bytes:?}");
    }
    assert_eq!(server.get("/channels/a").json()["messages"].as_array().unwrap().len(), 1);
    // A whole message of 1 MiB is not too large.
    let mut ws = server.ws("/channels/big");
    let whole = "x".repeat(1 << 20);
    ws.send_text(&whole);
    assert!(ws.text() == whole);
}

#[test]
fn fragments_are_bounded() {
    let server = Server::start("fragments", "[websocket]\nmax_fragments = 3\n", &["--dev"]);
    let mut ws = server.ws("/channels/a");
    ws.send(&[fragment(0x01, b"a"), fragment(0x00, b"b"), fragment(0x80, b"c")].concat());
    assert_eq!(ws.text(), "abc");
    ws.send(
        &[fragment(0x01, b"a"), fragment(0x00, b""), fragment(0x00, b""), fragment(0x00, b"")]
            .concat(),
    );
    ws.closed(1009);
}

#[test]
fn an_ended_channel_is_closed_with_where_it_ended() {
    let server = Server::dev();
    let mut live = server.ws("/channels/a");
    server.publish("a", "one");
    let end = server.end("a");
    assert_eq!(live.text(), "one");
    assert_eq!(live.closed(1000), end);
    let mut replayed = server.ws("/channels/a?since=start");
    assert_eq!(replayed.text(), "one");
    assert_eq!(replayed.closed(1000), end);
    for query in [&*format!("since={end}"), "since=now"] {
        assert_eq!(server.ws(&format!("/channels/a?{query}")).closed(1000), end);
    }
    // Publishing to it says the same.
    let mut ws = server.ws("/channels/a?subscribe=0");
    ws.send_text("late");
    ws.closed(1000);
}

#[test]
fn a_gap_is_a_close_with_where_to_go_on() {
    let server = Server::dev();
    let one = server.publish("a", "one");
    let mut live = server.ws("/channels/a");
    server.delete("a");
    let reason = live.closed(4010);
    server.publish("a", "two");
    assert_eq!(server.ws(&format!("/channels/a?since={reason}")).text(), "two");
    for since in [&*one, &of_another_epoch(&one), &far_ahead(&one)] {
        let mut ws = server.ws(&format!("/channels/a?since={since}"));
        assert_eq!(ws.header("tidegate-cursor"), Some(since));
        let reason = ws.closed(4010);
        let mut ws = server.ws(&format!("/channels/a?since={reason}"));
        if since != far_ahead(&one) {
            assert_eq!(ws.text(), "two");
        }
        assert_eq!(ws.until_pong(), []);
    }
}

#[test]
fn conflate_is_silent_on_what_it_drops_alone() {
    let config = "[[channel]]\nmatch = \"a\"\noutbox = { policy = \"conflate\" }\n";
    let server = Server::start("conflate-gap", config, &["--dev"]);
    let one = server.publish("a", "one");
    let mut live = server.ws("/channels/a");
    server.delete("a");
    live.closed(4010);
    server.ws(&format!("/channels/a?since={one}")).closed(4010);
    server.ws(&format!("/channels/a?since={}", of_another_epoch(&one))).closed(4010);
}

#[test]
fn who_may_not_publish_is_closed_when_it_does() {
    let server = Server::start("publish", RULES, &[]);
    for (channel, code) in [("read.token", 3000), ("read.nobody", 3003)] {
        let mut ws = server.ws(&format!("/channels/{channel}"));
        assert_eq!(ws.until_pong(), [], "it may listen");
        let began = Instant::now();
        // Whatever comes behind it is decoded still, or the answer to the close would not be found.
        let (message, rest) = (masked(Kind::Text, b"x"), masked(Kind::Text, &[b'y'; 200]));
        ws.send(&[&*message, &rest[..100]].concat());
        let Message::Close(found, reason) = ws.next() else { panic!() };
        assert_eq!((found, reason), (Some(code), server.now(channel)));
        let mut close = Vec::new();
        encode::close(found, "", Some(super::common::MASK), &mut close);
        ws.send(&[&rest[100..], &close].concat());
        assert_eq!(ws.next(), Message::Eof);
        assert!(began.elapsed().as_secs() < 4, "it waited for a close that it did not see");
        assert_eq!(server.get(&format!("/channels/{channel}")).json()["messages"], json!([]));
    }
}

// ---- Pings -----------------------------------------------------------------------------------

const QUICK: &str = "[websocket]\nping_interval = \"500ms\"\nping_timeout = \"2s\"\n";

#[test]
fn a_silent_client_is_pinged_and_dropped() {
    let server = Server::start("ping", QUICK, &["--dev"]);
    let began = Instant::now();
    let mut ws = server.ws("/channels/a");
    assert_eq!(ws.next(), Message::Ping(Vec::new()));
    let pinged = began.elapsed().as_secs_f32();
    assert!((0.2..20.0).contains(&pinged), "{pinged}");
    assert_eq!(ws.next(), Message::Eof);
    let dropped = began.elapsed().as_secs_f32();
    assert!((2.2..25.0).contains(&dropped), "{dropped}");
    // Who answers is asked again, an interval after the answer.
    let began = Instant::now();
    let mut alive = server.ws("/channels/a");
    for _ in 0..6 {
        assert_eq!(alive.next(), Message::Ping(Vec::new()));
        alive.send(&fragment(0x8A, b""));
    }
    let asked = began.elapsed().as_secs_f32();
    assert!((1.5..9.0).contains(&asked), "{asked}");
    // Any byte is a sign of life.
    let mut halves = server.ws("/channels/b");
    for byte in fragment(0x81, b"x") {
        assert_eq!(halves.next(), Message::Ping(Vec::new()));
        halves.send(&[byte]);
    }
    assert_eq!(halves.text(), "x");
}

#[test]
fn a_client_with_much_to_read_is_pinged_too() {
    let config = format!("{QUICK}[[channel]]\nmatch = \"a\"\nlog = {{ bytes = \"64MiB\" }}\n");
    let server = Server::start("busy-ping", &config, &["--dev"]);
    let mut ws = server.ws_with(server.connect_narrow(), "/channels/a?echo=0", None, &[]);
    let payload = "x".repeat(256 << 10);
    for _ in 0..60 {
        server.publish("a", &payload);
    }
    // It answers what it is asked, as soon as it has read that far.
    let (mut messages, mut pings) = (0, 0);
    while messages < 60 || pings < 3 {
        match ws.next() {
            Message::Text(_) => {
                messages += 1;
                if pings == 0 {
                    // Reading takes it a while.
                    std::thread::sleep(std::time::Duration::from_millis(30));
                }
            }
            Message::Ping(_) => {
                pings += 1;
                ws.send(&fragment(0x8A, b""));
            }
            other => panic!("{other:?} after {messages} messages and {pings} pings"),
        }
    }
}

#[test]
fn a_flood_of_pings_is_answered_and_not_kept() {
    let server = Server::dev();
    let mut ws = server.ws("/channels/a");
    let mut pings = Vec::new();
    for n in 0..20_000_u32 {
        encode::ping(&n.to_be_bytes(), Some(super::common::MASK), &mut pings);
    }
    ws.stream.set_nonblocking(true).unwrap();
    let mut rest = &pings[..];
    let began = Instant::now();
    while !rest.is_empty() {
        match std::io::Write::write(&mut ws.stream, rest) {
            Ok(written) => rest = &rest[written..],
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        assert!(began.elapsed() < SOON);
    }
    ws.stream.set_nonblocking(false).unwrap();
    // The newest is answered; those before it may be left out, but are never reordered.
    let mut newest = None;
    while newest != Some(19_999) {
        let Message::Pong(payload) = ws.next() else { panic!() };
        let n = u32::from_be_bytes(payload.try_into().unwrap());
        assert!(newest < Some(n));
        newest = Some(n);
    }
}

// ---- Handshakes ------------------------------------------------------------------------------

/// A handshake with some of its fields replaced (an empty value leaves one out); its answer.
fn handshake(server: &Server, target: &str, changes: &[(&str, &str)]) -> super::common::Answer {
    let host = server.address.to_string();
    let mut fields = vec![
        ("Host", &*host),
        ("Upgrade", "websocket"),
        ("Connection", "keep-alive, Upgrade"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "AQIDBAUGBwgJCgsMDQ4PEA=="),
    ];
    let mut version = "HTTP/1.1";
    for (name, value) in changes {
        match fields.iter_mut().find(|(it, _)| it == name) {
            _ if *name == "HTTP" => version = value,
            Some(field) => field.1 = value,
            None => fields.push((name, value)),
        }
    }
    let mut peer = server.connect();
    let mut head = format!("GET {target} {version}\r\n");
    for (name, value) in fields.iter().filter(|(_, value)| !value.is_empty()) {
        head += &format!("{name}: {value}\r\n");
    }
    peer.send(head + "\r\n");
    peer.answer("GET")
}

#[test]
fn a_handshake_is_whole_or_refused() {
    let server = Server::dev();
    let check = |changes: &[(&str, &str)], status: u16, code: &str, part: &str| {
        let answer = handshake(&server, "/channels/a", changes);
        answer.check_problem(status, code, part);
        answer
    };
    let answer = handshake(&server, "/channels/a", &[]);
    assert_eq!(answer.status, 101);
    assert_eq!(answer.header("upgrade").unwrap().to_ascii_lowercase(), "websocket");
    assert_eq!(answer.header("connection").unwrap().to_ascii_lowercase(), "upgrade");
    assert_eq!(answer.header("sec-websocket-accept"), Some("C/0nmHhBztSRGR1CwL6Tf4ZjwpY="));
    assert_eq!(handshake(&server, "/channels/a", &[("Upgrade", "foo, WebSocket")]).status, 101);
    for version in ["12", "0", "x", ""] {
        let answer = check(&[("Sec-WebSocket-Version", version)], 426, "upgrade_required", "13");
        assert_eq!(answer.header("sec-websocket-version"), Some("13"));
        assert_eq!(answer.header("upgrade"), Some("websocket"));
        assert!(answer.header("connection").unwrap().to_ascii_lowercase().contains("upgrade"));
    }
    for key in ["", "c2hvcnQ=", "not base64 at all!!!!!!", "AQIDBAUGBwgJCgsMDQ4PEBESExQ="] {
        check(&[("Sec-WebSocket-Key", key)], 400, "invalid_argument", "Key");
    }
    check(&[("Connection", "keep-alive")], 400, "invalid_argument", "Connection");
    check(&[("Connection", "")], 400, "invalid_argument", "Connection");
    check(&[("HTTP", "HTTP/1.0")], 400, "invalid_argument", "HTTP/1.1");
    check(&[("Host", "")], 400, "invalid_argument", "Host");
    check(&[("Sec-WebSocket-Protocol", "a,,b;")], 400, "invalid_argument", "Protocol");
    check(&[("Sec-WebSocket-Protocol", "tidegate.v1.proto")], 400, "invalid_argument", "version");
    for (name, value) in
        [("Origin", "https://evil.example"), ("Origin", "null"), ("Host", "evil.example")]
    {
        check(&[(name, value)], 403, "permission_denied", "");
    }
    // Without the upgrade.
    let answer = server.request("GET", "/channels/a?wire=ws", "", "");
    answer.check_problem(426, "upgrade_required", "Upgrade");
    assert_eq!(answer.header("upgrade"), Some("websocket"));
    let answer = handshake(&server, "/connect", &[]);
    answer.check_problem(400, "invalid_argument", "/connect");
}

#[test]
fn a_subprotocol_that_both_know_is_selected() {
    let server = Server::dev();
    for (offered, selected) in [
        ("tidegate.bearer.TOKEN, tidegate.v1.bare", Some("tidegate.v1.bare")),
        ("chat, other", None),
        ("tidegate.v1.bare", Some("tidegate.v1.bare")),
        ("tidegate.v1.bare, tidegate.v1.json", Some("tidegate.v1.bare")),
    ] {
        let answer = handshake(&server, "/channels/a", &[("Sec-WebSocket-Protocol", offered)]);
        assert_eq!((answer.status, answer.header("sec-websocket-protocol")), (101, selected));
    }
}

#[test]
fn an_extension_that_cannot_be_met_is_declined() {
    let server = Server::dev();
    for (offered, is_met) in [
        ("permessage-deflate", true),
        ("permessage-deflate; client_max_window_bits", true),
        ("permessage-deflate; server_max_window_bits=8", false),
        ("permessage-deflate; unknown=1", false),
        ("permessage-deflate; unknown=1, permessage-deflate", true),
        ("x-webkit-deflate-frame", false),
    ] {
        let answer = handshake(&server, "/channels/a", &[("Sec-WebSocket-Extensions", offered)]);
        assert_eq!(answer.status, 101, "{offered}");
        assert_eq!(answer.header("sec-websocket-extensions").is_some(), is_met, "{offered}");
    }
}

#[test]
fn a_page_is_told_a_refusal_by_a_close_and_others_by_a_status() {
    let server = Server::start("refusals", RULES, &[]);
    let own = format!("http://{}", server.address);
    for (target, status, code, reason) in [
        ("/channels/prices", 401, 3000, "unauthenticated"),
        ("/channels/prices?subscribe=0", 401, 3000, "unauthenticated"),
        ("/channels/nobody", 403, 3003, "permission_denied"),
        ("/channels/nobody?subscribe=0", 403, 3003, "permission_denied"),
        ("/channels/read.nobody?subscribe=0", 403, 3003, "permission_denied"),
        ("/channels/open,nobody?envelope=1", 403, 3003, "permission_denied"),
    ] {
        for origin in [&*own, "https://app.example"] {
            let mut ws = server.ws_with(server.connect(), target, None, &[("Origin", origin)]);
            assert_eq!(ws.closed(code), reason, "{target}");
        }
        let answer = handshake(&server, target, &[]);
        answer.check_problem(status, reason, "channel");
        if status == 401 {
            assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
        }
        // A foreign page is told nothing, and a bad handshake what is bad.
        let answer = handshake(&server, target, &[("Origin", "https://evil.example")]);
        answer.check_problem(403, "permission_denied", "Origin");
        let answer =
            handshake(&server, target, &[("Origin", &own), ("Sec-WebSocket-Version", "8")]);
        assert_eq!(answer.status, 426);
    }
    // What is wrong for good is a status for everyone.
    let answer = handshake(&server, "/channels/open?since=x", &[("Origin", &own)]);
    answer.check_problem(400, "invalid_argument", "malformed");
    let mut ws: Ws = server.ws_with(server.connect(), "/channels/open", None, &[("Origin", &own)]);
    ws.send_text("x");
    assert_eq!(ws.text(), "x");
}
