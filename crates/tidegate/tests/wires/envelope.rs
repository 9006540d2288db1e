//! Enveloped connections (CONTRACT 5): many channels on one WebSocket, by commands.

use std::io::{ErrorKind, Write as _};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tidegate_wire::websocket::{DeflateOffer, Kind};

use super::common::{Message, SOON, Server, Ws, far_ahead, masked, of_another_epoch};

const HANDSHAKE: &str = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                         Sec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEA==\r\n";

/// Checks a command that is refused.
#[track_caller]
fn check_refused(ws: &mut Ws, command: &str, code: &str, part: &str) {
    let error = ws.ask(77, command, "error");
    assert_eq!(error["code"], code, "{command}: {error}");
    assert!(error["message"].as_str().unwrap().contains(part), "{command}: {error}");
}

/// The next message is a publication of a channel.
#[track_caller]
fn check_text(ws: &mut Ws, channel: &str, text: &str) -> String {
    let message = ws.json();
    let it = &message["message"];
    assert_eq!((&it["channel"], &it["text"]), (&json!(channel), &json!(text)), "{message}");
    it["cursor"].as_str().unwrap().to_owned()
}

#[track_caller]
fn subscribe(ws: &mut Ws, channel: &str, from: &str) -> String {
    let command = format!(r#""subscribe":{{"channel":"{channel}"{from}}}"#);
    let subscribed = ws.ask(1, &command, "subscribed");
    assert_eq!(subscribed["channel"], channel);
    subscribed["cursor"].as_str().unwrap().to_owned()
}

#[track_caller]
fn unsubscribe(ws: &mut Ws, channel: &str) {
    let command = format!(r#""unsubscribe":{{"channel":"{channel}"}}"#);
    assert_eq!(ws.ask(2, &command, "unsubscribed"), json!({"channel": channel}));
}

/// Nothing but this comes before the answer to a ping.
#[track_caller]
fn check_quiet(ws: &mut Ws) {
    assert_eq!(ws.ask(99, r#""ping":{}"#, "pong"), json!({}));
}

// ---- The handshake ---------------------------------------------------------------------------

#[test]
fn a_connection_is_welcomed_and_pings_are_answered() {
    let server = Server::dev();
    let open = || {
        let mut ws = server.ws_offering(server.connect(), "/connect", &["tidegate.v1.json"], None);
        let welcome = ws.json()["welcome"].take();
        assert_eq!(welcome["version"], env!("CARGO_PKG_VERSION"));
        assert_eq!(welcome["ping"], 25);
        (ws, welcome["session"].clone(), welcome["node"].clone())
    };
    let ((mut ws, session, node), (_other, other_session, other_node)) = (open(), open());
    assert_eq!((node.is_string(), &node), (true, &other_node), "one per process");
    assert_ne!(session, other_session);
    assert_eq!(session.as_str().unwrap().len(), 16);
    check_quiet(&mut ws);
    // Without a number they are not answered, however many turns they take.
    let commands = [
        r#"{"ping":{}}"#,
        r#"{"history":{"channel":"a"}}"#,
        r#"{"publish":{"channel":"a","data":1}}"#,
    ];
    let frames = commands.map(|it| masked(Kind::Text, it.as_bytes())).concat();
    ws.send(&frames.repeat(1000));
    check_quiet(&mut ws);
    assert_eq!(server.metric("tidegate_publications_total"), 1000);
}

#[test]
fn the_first_subprotocol_that_both_know_is_taken() {
    let server = Server::dev();
    let protocol = |target: &str, offered: &[&str]| {
        let ws = server.ws_offering(server.connect(), target, offered, None);
        ws.header("sec-websocket-protocol").map(str::to_owned)
    };
    let json = Some("tidegate.v1.json".to_owned());
    assert_eq!(protocol("/connect", &["tidegate.v1.proto", "x", "tidegate.v1.json"]), json);
    assert_eq!(protocol("/channels/a,b", &["tidegate.v1.json", "tidegate.v1.bare"]), json);
    let bare = Some("tidegate.v1.bare".to_owned());
    assert_eq!(protocol("/channels/a", &["tidegate.v1.bare", "tidegate.v1.json"]), bare);
    assert_eq!(protocol("/channels/a", &["x"]), None);
}

#[test]
fn what_does_not_go_together_is_refused() {
    let server = Server::dev();
    let offer = |name: &str| format!("{HANDSHAKE}Sec-WebSocket-Protocol: {name}\r\n");
    let (none, json) = (HANDSHAKE.to_owned(), offer("tidegate.v1.json"));
    for (target, headers, part) in [
        ("/connect", &none, "offer tidegate.v1.json"),
        ("/connect", &offer("tidegate.v1.bare"), "offer tidegate.v1.json"),
        ("/connect", &offer("tidegate.v1.proto"), "not in this version yet"),
        ("/channels/a", &offer("tidegate.v1.proto"), "not in this version yet"),
        ("/channels/a,b", &none, "has one channel"),
        ("/channels/a,b", &offer("tidegate.v1.bare"), "has one channel"),
        ("/channels/a?envelope=1", &json, "envelope=1"),
        ("/channels/a?subscribe=0", &json, "/connect"),
        ("/channels/a?since=now&last=1", &json, "exclude each other"),
    ] {
        let answer = server.request("GET", target, headers, "");
        answer.check_problem(400, "invalid_argument", part);
    }
    let answer = server.get("/connect");
    answer.check_problem(426, "upgrade_required", "Upgrade");
    let answer = server.request("POST", "/connect", "", "");
    answer.check_problem(405, "invalid_argument", "GET");
    assert_eq!(answer.header("allow"), Some("GET, OPTIONS"));
}

#[test]
fn channels_in_the_url_are_told_by_pushes() {
    let server = Server::dev();
    let first = server.publish("a", "one");
    let second = server.publish("a", "two");
    let now = server.now("b");
    let mut ws = server.enveloped(&format!("/channels/a,b?since={first}"));
    assert_eq!(ws.header("tidegate-cursor"), Some(&*format!("{first}.{now}")));
    assert_eq!(ws.json(), json!({"subscribed": {"channel": "a", "cursor": first}}));
    assert_eq!(ws.json(), json!({"subscribed": {"channel": "b", "cursor": now}}));
    assert_eq!(check_text(&mut ws, "a", "two"), second);
    server.publish("b", "three");
    check_text(&mut ws, "b", "three");
    unsubscribe(&mut ws, "a");
    server.publish("a", "four");
    server.publish("b", "five");
    check_text(&mut ws, "b", "five");
    // One channel is enveloped too.
    let mut one = server.enveloped("/channels/a?last=1");
    assert_eq!(one.json()["subscribed"]["channel"], "a");
    check_text(&mut one, "a", "four");
}

// ---- Breaking the protocol, and failing ------------------------------------------------------

#[test]
fn what_is_no_object_closes() {
    let server = Server::dev();
    for text in ["", "[]", "null", "ping", "{", "{\"ping\":{}", "{\"ping\":{}} {}", "\"{}\""] {
        let mut ws = server.enveloped("/connect");
        ws.send_text(text);
        assert_eq!(ws.closed(1007), "a message is one JSON object", "{text}");
    }
    let mut ws = server.enveloped("/connect");
    ws.send_binary(b"{\"id\":1,\"ping\":{}}");
    assert_eq!(ws.closed(1003), "tidegate.v1.json has text messages");
    // What came before it was answered.
    let mut ws = server.enveloped("/connect");
    let frames = [r#"{"id":1,"ping":{}}"#, "[]", r#"{"id":2,"ping":{}}"#];
    ws.send(&frames.map(|it| masked(Kind::Text, it.as_bytes())).concat());
    assert_eq!(ws.json(), json!({"id": 1, "pong": {}}));
    ws.closed(1007);
    assert_eq!(
        server.metric("tidegate_disconnects_total{wire=\"ws\",code=\"invalid_argument\"}"),
        10
    );
}

#[test]
fn a_command_that_fails_is_told_and_closes_nothing() {
    let server = Server::dev();
    let other = server.now("b");
    let mut ws = server.enveloped("/channels/a");
    ws.json();
    for (command, part) in [
        (r#""pong":{}"#, "\"pong\""),
        (r#""ping":{},"publish":{"channel":"a","data":1}"#, "two commands"),
        (r#""ping":{},"ping":{}"#, "twice"),
        (r#""ping":1"#, "an object is due"),
        (r#""subscribe":{"channel":"a.*"}"#, "pattern"),
        (r#""subscribe":{"channel":"a..b"}"#, "segment"),
        (r#""subscribe":{"channel":"a"}"#, "subscribed already"),
        (r#""subscribe":{"channel":"c","since":"now","last":1}"#, "exclude each other"),
        (r#""subscribe":{"channel":"c","since":"tomorrow"}"#, "malformed"),
        (r#""subscribe":{"channel":"c","from":1}"#, "\"from\""),
        (&format!(r#""subscribe":{{"channel":"c","since":"{other}"}}"#), "another channel"),
        (r#""unsubscribe":{"channel":"c"}"#, "not subscribed"),
        (r#""publish":{"channel":"c"}"#, "publish: nothing to publish"),
        (r#""publish":{"channel":"c","data":1,"key":""}"#, "\"key\""),
        (r#""history":{"channel":"c","limit":0}"#, "\"limit\""),
        (r#""refresh":{"token":"x"}"#, "takes no tokens yet"),
    ] {
        check_refused(&mut ws, command, "invalid_argument", part);
    }
    check_refused(&mut ws, r#""presence":{"channel":"a"}"#, "not_found", "presence is not on");
    // Without a good number the error has none.
    for text in [r#"{"pong":{}}"#, r#"{"id":0,"ping":{}}"#, r#"{"id":-1,"ping":{}}"#, "{}"] {
        ws.send_text(text);
        let message = ws.json();
        assert_eq!(
            (&message["error"]["code"], message.get("id")),
            (&json!("invalid_argument"), None)
        );
    }
    check_quiet(&mut ws);
    server.publish("a", "still here");
    check_text(&mut ws, "a", "still here");
}

#[test]
fn rights_are_asked_for_each_command() {
    let rules = "[[channel]]\nmatch = \"open\"\nsubscribe = \"anyone\"\npublish = \"anyone\"\n\
                 [[channel]]\nmatch = \"closed\"\nsubscribe = \"nobody\"\npublish = \"nobody\"\n";
    let server = Server::start("envelope-rights", rules, &[]);
    let mut ws = server.enveloped("/connect");
    for (channel, code) in [("closed", "permission_denied"), ("other", "unauthenticated")] {
        for command in ["subscribe", "history", "presence"] {
            let command = format!(r#""{command}":{{"channel":"{channel}"}}"#);
            check_refused(&mut ws, &command, code, &format!("channel \"{channel}\""));
        }
        let command = format!(r#""publish":{{"channel":"{channel}","data":1}}"#);
        check_refused(&mut ws, &command, code, &format!("publish to channel \"{channel}\""));
    }
    let command = r#""publish":{"channel":"open","end":true}"#;
    check_refused(&mut ws, command, "unauthenticated", "end channel \"open\"");
    subscribe(&mut ws, "open", "");
    ws.send_text(r#"{"publish":{"channel":"open","text":"hello"}}"#);
    check_text(&mut ws, "open", "hello");
    // In the URL one that is refused refuses all.
    let headers = format!("{HANDSHAKE}Sec-WebSocket-Protocol: tidegate.v1.json\r\n");
    let answer = server.request("GET", "/channels/open,closed", &headers, "");
    answer.check_problem(403, "permission_denied", "closed");
}

// ---- Subscriptions ---------------------------------------------------------------------------

#[test]
fn a_reply_comes_before_the_first_message_and_a_cursor_goes_on() {
    let server = Server::dev();
    let cursors: Vec<_> = (0..300).map(|n| server.publish("a", &n.to_string())).collect();
    let mut ws = server.enveloped("/connect");
    let start = subscribe(&mut ws, "a", r#","since":"start""#);
    for (n, cursor) in cursors.iter().enumerate() {
        assert_eq!(check_text(&mut ws, "a", &n.to_string()), *cursor);
    }
    unsubscribe(&mut ws, "a");
    assert_eq!(subscribe(&mut ws, "a", &format!(r#","since":"{}""#, cursors[297])), cursors[297]);
    check_text(&mut ws, "a", "298");
    check_text(&mut ws, "a", "299");
    unsubscribe(&mut ws, "a");
    assert_eq!(subscribe(&mut ws, "a", r#","last":1"#), cursors[298]);
    check_text(&mut ws, "a", "299");
    unsubscribe(&mut ws, "a");
    assert_eq!(subscribe(&mut ws, "a", ""), cursors[299]);
    check_quiet(&mut ws);
    server.publish("a", "live");
    check_text(&mut ws, "a", "live");
    // The cursor of the reply resumes as well, on any wire.
    let mut lines = server.ndjson(&format!("/channels/a?since={start}"));
    assert_eq!(lines.next()["text"], "0");
}

#[test]
fn what_was_missed_is_told_as_a_gap() {
    let rules = "[[channel]]\nmatch = \"small\"\nlog = { messages = 2 }\n";
    let server = Server::start("envelope-gap", rules, &["--dev"]);
    let cursors: Vec<_> = (0..5).map(|n| server.publish("small", &n.to_string())).collect();
    let mut ws = server.enveloped("/connect");
    let (epoch, ahead) = (of_another_epoch(&cursors[4]), far_ahead(&cursors[4]));
    for (since, resumed, reason) in [
        (&cursors[0], &cursors[2], "expired"),
        (&epoch, &cursors[2], "epoch"),
        (&ahead, &cursors[4], "epoch"),
    ] {
        let cursor = subscribe(&mut ws, "small", &format!(r#","since":"{since}""#));
        assert_eq!(cursor, *since);
        let gap =
            json!({"channel": "small", "requested": since, "resumed": resumed, "reason": reason});
        assert_eq!(ws.json(), json!({ "gap": gap }));
        if resumed == &cursors[2] {
            check_text(&mut ws, "small", "3");
            check_text(&mut ws, "small", "4");
        }
        unsubscribe(&mut ws, "small");
    }
    subscribe(&mut ws, "small", "");
    server.delete("small");
    let gap = ws.json();
    assert_eq!(
        (&gap["gap"]["requested"], &gap["gap"]["reason"]),
        (&json!(cursors[4]), &json!("dropped"))
    );
}

#[test]
fn an_end_takes_its_channel_off_and_is_told_again_to_who_asks() {
    let server = Server::dev();
    let mut ws = server.enveloped("/channels/a,b");
    assert!(ws.json()["subscribed"].is_object() && ws.json()["subscribed"].is_object());
    let last = server.publish("a", "last");
    let end = server.end("a");
    check_text(&mut ws, "a", "last");
    let ended = |ws: &mut Ws| {
        assert_eq!(ws.json(), json!({"end": {"channel": "a", "cursor": end}}));
        assert_eq!(ws.json(), json!({"unsubscribed": {"channel": "a"}}));
    };
    ended(&mut ws);
    check_refused(
        &mut ws,
        r#""unsubscribe":{"channel":"a"}"#,
        "invalid_argument",
        "not subscribed",
    );
    for from in [&*format!(r#","since":"{end}""#), &*format!(r#","since":"{last}""#), ""] {
        subscribe(&mut ws, "a", from);
        ended(&mut ws);
    }
    subscribe(&mut ws, "a", r#","since":"start""#);
    check_text(&mut ws, "a", "last");
    ended(&mut ws);
    let command = r#""publish":{"channel":"a","data":1}"#;
    check_refused(&mut ws, command, "ended", "has ended");
    // The rest goes on, and so it does with nothing left.
    server.publish("b", "on");
    check_text(&mut ws, "b", "on");
    server.end("b");
    assert!(ws.json()["end"].is_object() && ws.json()["unsubscribed"].is_object());
    check_quiet(&mut ws);
    subscribe(&mut ws, "c", "");
    server.publish("c", "new");
    check_text(&mut ws, "c", "new");
}

#[test]
fn subscriptions_come_and_go_and_each_gets_its_own() {
    let server = Server::dev();
    let mut ws = server.enveloped("/connect");
    for n in 0..100 {
        subscribe(&mut ws, &format!("c{n}"), "");
    }
    let command = r#""subscribe":{"channel":"c100"}"#;
    check_refused(&mut ws, command, "invalid_argument", "100 channels");
    // From the front, the middle and the end: others take their places.
    for n in [0, 50, 99, 98, 1] {
        unsubscribe(&mut ws, &format!("c{n}"));
    }
    for n in [100, 0] {
        subscribe(&mut ws, &format!("c{n}"), "");
    }
    for n in 0..=100 {
        server.publish(&format!("c{n}"), &n.to_string());
        if ![50, 99, 98, 1].contains(&n) {
            check_text(&mut ws, &format!("c{n}"), &n.to_string());
        }
    }
    server.end("c2");
    assert!(ws.json()["end"].is_object() && ws.json()["unsubscribed"].is_object());
    for n in [97, 100, 0, 3] {
        server.publish(&format!("c{n}"), "again");
        check_text(&mut ws, &format!("c{n}"), "again");
    }
    let listed = server.get("/channels?prefix=c3").json();
    assert_eq!(listed["channels"][0]["subscribers"]["ws"], 1, "{listed}");
    drop(ws);
    server.until("tidegate_connections{wire=\"ws\"}", |it| it == 0);
    let listed = server.get("/channels?prefix=c3").json();
    assert_eq!(listed["channels"][0]["subscribers"], json!({}), "{listed}");
}

#[test]
fn what_is_published_while_one_subscribes_is_neither_lost_nor_doubled() {
    let server = Server::dev();
    let mut publisher = server.ws("/channels/a?subscribe=0");
    let mut ws = server.enveloped("/connect");
    let mut next = 0;
    for round in 0..50 {
        for n in round * 20..round * 20 + 20 {
            publisher.send_text(&n.to_string());
        }
        // In its midst.
        let from = match ws_cursor(&server, next) {
            Some(cursor) => format!(r#","since":"{cursor}""#),
            None => r#","since":"start""#.to_owned(),
        };
        subscribe(&mut ws, "a", &from);
        while next < round * 20 + 20 {
            check_text(&mut ws, "a", &next.to_string());
            next += 1;
        }
        unsubscribe(&mut ws, "a");
    }
}

/// The cursor of the publication before the `next` one, if there is one.
fn ws_cursor(server: &Server, next: usize) -> Option<String> {
    let before = next.checked_sub(1)?.to_string();
    let poll = server.get("/channels/a?limit=1000").json();
    let messages = poll["messages"].as_array().unwrap();
    let it = messages.iter().find(|it| it["text"] == before).unwrap();
    Some(it["cursor"].as_str().unwrap().to_owned())
}

// ---- Publishing, history ---------------------------------------------------------------------

#[test]
fn a_publication_is_answered_with_its_cursor_and_reaches_every_wire() {
    let server = Server::dev();
    let mut lines = server.ndjson("/channels/chat");
    let mut ws = server.enveloped("/connect");
    let mut published = |members: &str, is_duplicate: bool| {
        let command = format!(r#""publish":{{"channel":"chat",{members}}}"#);
        let it = ws.ask(5, &command, "published");
        assert_eq!((&it["channel"], &it["duplicate"]), (&json!("chat"), &json!(is_duplicate)));
        it["cursor"].as_str().unwrap().to_owned()
    };
    let mut check = |cursor: &str, member: &str, value: Value| {
        let line = lines.next();
        assert_eq!((&line["cursor"], &line[member]), (&json!(cursor), &value), "{line}");
        line
    };
    let cursor = published(r#""data":{"a" :[1.50]},"event":"tick""#, false);
    assert_eq!(check(&cursor, "data", json!({"a": [1.5]}))["event"], "tick");
    check(&published(r#""text":"Grüße""#, false), "text", json!("Grüße"));
    let cursor = published(r#""base64":"AP8=","type":"image/png""#, false);
    assert_eq!(check(&cursor, "base64", json!("AP8="))["type"], "image/png");
    let cursor = published(r#""text":"once","key":"k""#, false);
    check(&cursor, "text", json!("once"));
    assert_eq!(published(r#""text":"once","key":"k""#, true), cursor);
    let end = published(r#""end":true"#, false);
    assert_eq!(lines.next(), json!({"end": {"channel": "chat", "cursor": end}}));
    assert_eq!(published(r#""text":"once","key":"k""#, true), cursor, "also after an end");
    let other = r#""publish":{"channel":"chat","text":"other","key":"k"}"#;
    check_refused(&mut ws, other, "invalid_argument", "key");
    // Many in one write: answered in their order, over several turns.
    let frames: Vec<_> = (1..=2000)
        .flat_map(|n| {
            let text = format!(r#"{{"id":{n},"publish":{{"channel":"many","text":"{n}"}}}}"#);
            masked(Kind::Text, text.as_bytes())
        })
        .collect();
    ws.send(&frames);
    let mut before = String::new();
    for n in 1..=2000 {
        let reply = ws.json();
        assert_eq!(reply["id"], n);
        let cursor = reply["published"]["cursor"].as_str().unwrap().to_owned();
        assert!(cursor > before);
        before = cursor;
    }
}

#[test]
fn what_is_too_large_is_refused_and_one_need_not_hear_oneself() {
    let server = Server::start("envelope-body", "[http]\nmax_body = \"1KiB\"\n", &["--dev"]);
    let mut ws = server.enveloped("/channels/a?echo=0");
    ws.json();
    let text = "x".repeat(1025);
    let command = format!(r#""publish":{{"channel":"a","text":"{text}"}}"#);
    check_refused(&mut ws, &command, "too_large", "1024 are allowed");
    let command = format!(r#""publish":{{"channel":"a","text":"{}"}}"#, &text[1..]);
    ws.ask(1, &command, "published");
    server.publish("a", "other");
    check_text(&mut ws, "a", "other");
    ws.send_text(&" ".repeat((1 << 20) + 1));
    ws.closed(1009);
}

#[test]
fn history_is_what_a_poll_would_have() {
    let rules = "[[channel]]\nmatch = \"small\"\nlog = { messages = 10 }\n";
    let server = Server::start("envelope-history", rules, &["--dev"]);
    let cursors: Vec<_> = (0..20).map(|n| server.publish("small", &n.to_string())).collect();
    let mut ws = server.enveloped("/connect");
    let mut check = |members: &str, texts: std::ops::Range<usize>, cursor: &str| {
        let command = format!(r#""history":{{"channel":"small"{members}}}"#);
        let page = ws.ask(4, &command, "history");
        let found: Vec<_> =
            page["messages"].as_array().unwrap().iter().map(|it| it["text"].clone()).collect();
        assert_eq!(found, texts.map(|n| json!(n.to_string())).collect::<Vec<_>>(), "{page}");
        assert_eq!(page["cursor"], cursor, "{page}");
        page
    };
    let page = check("", 10..20, &cursors[19]);
    assert_eq!(page["messages"], server.get("/channels/small").json()["messages"]);
    assert_eq!((&page["ended"], page.get("gap")), (&json!(false), None));
    check(r#","since":"start","limit":3"#, 10..13, &cursors[12]);
    check(&format!(r#","since":"{}","limit":3"#, cursors[12]), 13..16, &cursors[15]);
    check(r#","last":2"#, 18..20, &cursors[19]);
    check(r#","since":"now""#, 20..20, &cursors[19]);
    check(&format!(r#","before":"{}","limit":2"#, cursors[15]), 13..15, &cursors[13]);
    let page = check(&format!(r#","since":"{}""#, cursors[3]), 10..20, &cursors[19]);
    assert_eq!(page["gap"]["reason"], "expired");
    let end = server.end("small");
    assert_eq!(check(r#","last":1"#, 19..20, &end)["ended"], true);
    check_quiet(&mut ws);
}

#[test]
fn a_history_is_bounded_in_bytes() {
    let server = Server::dev();
    let large = "x".repeat(600 << 10);
    for _ in 0..3 {
        server.publish("a", &large);
    }
    let mut ws = server.enveloped("/connect");
    let page = ws.ask(1, r#""history":{"channel":"a"}"#, "history");
    assert_eq!(page["messages"].as_array().unwrap().len(), 1);
    let cursor = page["cursor"].as_str().unwrap();
    let command = format!(r#""history":{{"channel":"a","since":"{cursor}"}}"#);
    assert_eq!(ws.ask(2, &command, "history")["messages"].as_array().unwrap().len(), 1);
}

// ---- Slow ones, silence, compression ---------------------------------------------------------

#[test]
fn who_does_not_read_replies_is_read_no_further_and_gets_each_once() {
    let server = Server::dev();
    let text = "x".repeat(10_000);
    for _ in 0..100 {
        server.publish("a", &text);
    }
    let peer = server.connect_narrow();
    let mut ws = server.ws_offering(peer, "/connect", &["tidegate.v1.json"], None);
    ws.json();
    ws.stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    // Answered with a megabyte each.
    let mut sent = 0_u64;
    let padding = " ".repeat(4000);
    let mut rest = Vec::new();
    while rest.is_empty() {
        // Kernels buffer some megabytes, and the gateway what one read has brought.
        assert!(sent < 10_000, "it reads for ever");
        sent += 1;
        let command = format!(r#"{{"id":{sent},"history":{{"channel":"a"}}{padding}}}"#);
        let frame = masked(Kind::Text, command.as_bytes());
        let mut written = 0;
        while written < frame.len() {
            match ws.stream.write(&frame[written..]) {
                Ok(length) => written += length,
                Err(error) => {
                    assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut));
                    rest = frame[written..].to_vec();
                    break;
                }
            }
        }
    }
    let mut sender = ws.stream.try_clone().unwrap();
    sender.set_write_timeout(Some(SOON)).unwrap();
    let sender = std::thread::spawn(move || sender.write_all(&rest).unwrap());
    for id in 1..=sent.min(50) {
        let reply = ws.json();
        assert_eq!(
            (&reply["id"], reply["history"]["messages"][0]["text"].as_str()),
            (&json!(id), Some(&*text))
        );
    }
    drop(ws);
    // It may have been cut off.
    let _ = sender.join();
    check_quiet(&mut server.enveloped("/connect"));
}

#[test]
fn a_ping_is_pushed_after_25_seconds_without_a_push() {
    let server = Server::dev();
    let mut ws = server.enveloped("/channels/a");
    ws.json();
    server.publish("a", "a push");
    check_text(&mut ws, "a", "a push");
    let began = Instant::now();
    // Replies are none.
    while began.elapsed() < Duration::from_secs(20) {
        check_quiet(&mut ws);
    }
    assert_eq!(ws.json(), json!({"ping": {}}));
    let after = began.elapsed();
    assert!((Duration::from_secs(24)..Duration::from_secs(28)).contains(&after), "{after:?}");
}

#[test]
fn only_what_may_be_is_compressed() {
    let rules = "[[channel]]\nmatch = \"secret\"\nclass = \"secret\"\n";
    let server = Server::start("envelope-deflate", rules, &["--dev"]);
    let offer = DeflateOffer {
        send_takeover: true,
        receive_takeover: true,
        send_window_bits_max: 15,
        receive_window_bits_max: 15,
    };
    let target = "/channels/shared,secret";
    let mut ws = server.ws_offering(server.connect(), target, &["tidegate.v1.json"], Some(offer));
    for _ in 0..3 {
        ws.json();
    }
    let text = "tide ".repeat(1000);
    for (channel, is_compressed) in [("shared", true), ("secret", false), ("shared", true)] {
        server.publish(channel, &text);
        check_text(&mut ws, channel, &text);
        assert_eq!(ws.raw[0] & 0x40 != 0, is_compressed, "{channel}");
    }
    ws.send_text(&format!(r#"{{"id":1,"publish":{{"channel":"c","text":"{text}"}}}}"#));
    assert!(ws.json()["published"].is_object());
    assert_eq!(ws.raw[0], 0x81, "replies are not");
}

#[test]
fn a_close_is_answered_after_the_replies_to_what_came_before() {
    let server = Server::dev();
    let mut ws = server.enveloped("/channels/a");
    ws.json();
    let mut frames = masked(Kind::Text, br#"{"id":1,"publish":{"channel":"b","text":"bye"}}"#);
    let mask = Some(super::common::MASK);
    tidegate_wire::websocket::encode::close(Some(1001), "", mask, &mut frames);
    ws.send(&frames);
    assert_eq!(ws.json()["id"], 1);
    assert_eq!(ws.next(), Message::Close(Some(1001), String::new()));
    assert_eq!(ws.next(), Message::Eof);
}
