//! SIGTERM (CONTRACT 12).

use std::time::{Duration, Instant};

use serde_json::json;

use super::common::{End, Message, NDJSON, SOON, SSE, Server};

/// Checks that it ended well, within its deadline, and without a panic.
#[track_caller]
fn check_end(mut server: Server, since: Instant, within: Duration) {
    let (status, log) = server.wait();
    assert!(status.success(), "{status}: {log}");
    assert!(since.elapsed() < within, "{:?}", since.elapsed());
    assert!(!log.contains("panicked"), "{log}");
}

#[test]
fn every_wire_is_told_what_was_published_and_then_that_it_ends() {
    let server = Server::dev();
    let mut ws = server.ws("/channels/a");
    let mut envelope = server.ws("/channels/a,b?envelope=1");
    let mut mute = server.ws("/channels/a?subscribe=0");
    let mut json = server.enveloped("/channels/b,a");
    assert!(json.json()["subscribed"].is_object() && json.json()["subscribed"].is_object());
    let mut sse = server.sse("/channels/a", "");
    let mut lines = server.ndjson("/channels/a,b");
    let mut poll = server.connect();
    poll.send_request("GET", "/channels/quiet?wait=60s", "", "");
    let mut idle = server.connect();
    idle.send_request("GET", "/healthz", "", "");
    assert_eq!(idle.answer("GET").status, 200);
    let mut silent = server.connect();
    server.until("tidegate_connections{wire=\"long-poll\"}", |it| it == 1);

    let mut cursor = String::new();
    for n in 0..200 {
        cursor = server.publish("a", &n.to_string());
    }
    let began = Instant::now();
    server.terminate();
    // Again does no harm.
    server.terminate();
    for n in 0..200 {
        assert_eq!(ws.text(), n.to_string());
        assert_eq!(envelope.json()["text"], n.to_string());
        assert_eq!(sse.event().data, n.to_string());
        assert_eq!(lines.next()["text"], n.to_string());
        assert_eq!(json.json()["message"]["text"], n.to_string());
    }
    assert_eq!(ws.closed(1012), cursor);
    assert_eq!(envelope.json()["error"]["code"], "unavailable");
    envelope.closed(1012);
    mute.closed(1012);
    assert_eq!(json.json()["error"]["code"], "unavailable");
    assert_eq!(json.closed(1012), "unavailable");
    let answer = poll.answer("GET");
    assert_eq!((answer.status, &answer.json()["messages"]), (200, &json!([])));

    let line = sse.body.line();
    let retry: u32 = line.strip_prefix("retry: ").unwrap().parse().unwrap();
    assert!((1000..10_000).contains(&retry), "{retry}");
    let error = sse.event();
    assert_eq!((&*error.event, &*error.id), ("tidegate-error", &*cursor));
    let data: serde_json::Value = serde_json::from_str(&error.data).unwrap();
    assert_eq!(data["code"], "unavailable");
    assert!(data["message"].is_string(), "{data}");
    assert_eq!(sse.body.end(), End::Proper);
    let error = lines.next();
    assert_eq!(error["error"]["code"], "unavailable", "{error}");
    assert_eq!(lines.0.end(), End::Proper);
    assert!(idle.is_closed() && silent.is_closed());
    drop((ws, envelope, mute, json, sse, lines, poll, idle, silent));
    check_end(server, began, SOON);
}

#[test]
fn nobody_holds_it_up_by_being_silent() {
    let server = Server::dev();
    let mut silent = server.connect();
    let mut idle = server.connect();
    idle.send_request("GET", "/healthz", "", "");
    assert_eq!(idle.answer("GET").status, 200);
    let began = Instant::now();
    server.terminate();
    assert!(silent.is_closed() && idle.is_closed());
    check_end(server, began, Duration::from_secs(8));
}

#[test]
fn who_asks_while_it_drains_is_told_as_its_wire_is() {
    let server = Server::dev();
    let origin = format!("Origin: http://{}\r\n", server.address);
    let handshake = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                     Sec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEA==\r\n";
    // Their heads have begun when the end does.
    let mut asking: Vec<_> = [SSE, NDJSON, "", &format!("{handshake}{origin}"), handshake]
        .into_iter()
        .map(|headers| {
            let mut peer = server.connect();
            peer.send(format!("GET /channels/a HTTP/1.1\r\nHost: {}\r\n{headers}", server.address));
            peer
        })
        .collect();
    let mut ready = server.connect();
    ready.send(format!("GET /readyz HTTP/1.1\r\nHost: {}\r\n", server.address));
    // A stream that is told means that all of those were accepted and that draining has begun.
    let mut stream = server.ndjson("/channels/a");
    let began = Instant::now();
    server.terminate();
    assert_eq!(stream.next()["error"]["code"], "unavailable");
    for peer in asking.iter_mut().chain([&mut ready]) {
        peer.send("\r\n");
    }
    assert_eq!(ready.answer("GET").status, 503);
    let [sse, lines, poll, page, other] = &mut asking[..] else { panic!() };
    let answer = sse.answer("GET");
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("text/event-stream")));
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert!(answer.body.starts_with("retry: ") && answer.body.contains("event: tidegate-error\n"));
    assert!(answer.body.contains("\"code\":\"unavailable\""), "{}", answer.body);
    for peer in [lines, other] {
        let answer = peer.answer("GET");
        answer.check_problem(503, "unavailable", "shutting down");
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
    assert_eq!(poll.answer("GET").status, 200);
    assert_eq!(page.head().status, 101);
    let mut frame = Vec::new();
    std::io::Read::read_to_end(&mut page.stream, &mut frame).unwrap();
    assert_eq!(frame, [&[0x88, 15][..], &1012_u16.to_be_bytes(), b"unavailable 1"].concat());
    drop((asking, stream));
    check_end(server, began, SOON);
}

#[test]
fn a_reader_that_is_stuck_is_cut_in_time() {
    let config = "drain = \"2s\"\n[[channel]]\nmatch = \"a\"\nlog = { bytes = \"64MiB\" }\n";
    let server = Server::start("stuck", config, &["--dev"]);
    let (_, mut stuck) = server.open_on(server.connect_narrow(), "/channels/a", NDJSON);
    let mut ws = server.ws_with(server.connect_narrow(), "/channels/a", None, &[]);
    let payload = "x".repeat(512 << 10);
    for _ in 0..30 {
        server.publish("a", &payload);
    }
    server.until("tidegate_outbox_overflows_total{policy=\"spill\"}", |it| it >= 2);
    let began = Instant::now();
    server.terminate();
    check_end(server, began, Duration::from_secs(10));
    // What was written in time is there, and then the cut says that it is not all.
    let mut lines = 0;
    while stuck.try_line().is_some() {
        lines += 1;
    }
    assert!(lines < 30);
    assert_eq!(stuck.end(), End::Cut);
    loop {
        match ws.next() {
            Message::Text(_) => {}
            other => break assert_eq!(other, Message::Eof),
        }
    }
}

#[test]
fn a_slow_reader_gets_the_rest_while_there_is_time() {
    let config = "[[channel]]\nmatch = \"a\"\nlog = { bytes = \"64MiB\" }\n";
    let server = Server::start("slow-drain", config, &["--dev"]);
    let (_, slow) = server.open_on(server.connect_narrow(), "/channels/a", NDJSON);
    let mut lines = super::common::Ndjson(slow);
    let mut ws = server.ws_with(server.connect_narrow(), "/channels/a", None, &[]);
    let payload = "x".repeat(512 << 10);
    for _ in 0..30 {
        server.publish("a", &payload);
    }
    server.until("tidegate_outbox_overflows_total{policy=\"spill\"}", |it| it >= 2);
    let began = Instant::now();
    server.terminate();
    for _ in 0..30 {
        assert!(lines.next()["text"] == *payload);
        assert!(ws.text() == payload);
    }
    assert_eq!(lines.next()["error"]["code"], "unavailable");
    assert_eq!(lines.0.end(), End::Proper);
    ws.closed(1012);
    drop((lines, ws));
    check_end(server, began, SOON);
}
