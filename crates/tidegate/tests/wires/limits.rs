//! What a peer may do to a connection, and what it is told when it does more (CONTRACT 2, 7, 14).

use std::io::{BufRead as _, Read as _};
use std::time::Instant;

use super::common::{Answer, NDJSON, Peer, SOON, SSE, Server};

/// Everything that still comes, until the server closes properly.
fn rest(peer: &mut Peer) -> String {
    let mut rest = String::new();
    peer.stream.read_to_string(&mut rest).unwrap();
    rest
}

#[test]
fn a_slow_head_is_told_and_closed() {
    let server = Server::start("head", "[http]\nheader_timeout = \"300ms\"\n", &["--dev"]);
    for begun in ["G", "GET /healthz HTTP/1.1\r\nHost: local"] {
        let mut peer = server.connect();
        peer.send(begun);
        let answer = peer.answer("GET");
        assert_eq!((answer.status, answer.header("connection")), (408, Some("close")));
        assert!(peer.is_closed());
    }
    // One that never begins is closed, too, and has nothing to be told of.
    assert_eq!(rest(&mut server.connect()), "");
    // Byte by byte is no faster.
    let mut peer = server.connect();
    let mut sender = peer.stream.get_ref().try_clone().unwrap();
    let dripping = std::thread::spawn(move || {
        let began = Instant::now();
        // Until it is refused, which is what is waited for.
        while std::io::Write::write_all(&mut sender, b"G").is_ok() && began.elapsed() < SOON {
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        began.elapsed()
    });
    assert_eq!(peer.head().status, 408);
    drop(peer);
    assert!(dripping.join().unwrap() < SOON);
}

#[test]
fn an_idle_connection_is_closed_without_a_word() {
    let config = "[http]\nidle_timeout = \"300ms\"\nheader_timeout = \"60s\"\n";
    let server = Server::start("idle", config, &["--dev"]);
    let mut peer = server.connect();
    for _ in 0..3 {
        peer.send_request("GET", "/healthz", "", "");
        assert_eq!(peer.answer("GET").status, 200);
    }
    assert_eq!(rest(&mut peer), "");
    // A stream is not idle, however quiet.
    let mut sse = server.sse("/channels/a", "");
    let mut peer = server.connect();
    peer.send_request("GET", "/healthz", "", "");
    assert_eq!(peer.answer("GET").status, 200);
    assert!(peer.is_closed());
    let cursor = server.publish("a", "one");
    sse.check("message", "one", &cursor);
}

#[test]
fn part_of_a_pipelined_head_is_told_too() {
    let config = "[http]\nidle_timeout = \"300ms\"\nheader_timeout = \"60s\"\n";
    let server = Server::start("pipelined-head", config, &["--dev"]);
    let mut peer = server.connect();
    peer.send_request("GET", "/healthz", "", "");
    assert_eq!(peer.answer("GET").status, 200);
    let host = server.address;
    peer.send(format!("GET /healthz HTTP/1.1\r\nHost: {host}\r\n\r\nGET /hea"));
    assert_eq!(peer.answer("GET").status, 200);
    assert_eq!(peer.answer("GET").status, 408);
    assert!(peer.is_closed());
}

#[test]
fn over_the_limit_each_wire_tells_it_until_others_go() {
    let config = "[http]\nmax_connections = 2\n";
    let server = Server::start("connections", config, &["--dev"]);
    let sse = server.sse("/channels/a", "");
    let mut idle = server.connect();
    idle.send_request("GET", "/healthz", "", "");
    assert_eq!(idle.answer("GET").status, 200);
    let what = "2 connections already, which is http.max_connections";
    for (method, target, body) in [
        ("GET", "/channels/a", ""),
        ("GET", "/channels/a?wait=1s", ""),
        ("GET", "/channels/a?wire=ndjson", ""),
        ("GET", "/channels", ""),
        ("POST", "/channels/a", "x"),
        ("POST", "/publish", "{}"),
        ("DELETE", "/channels/a", ""),
    ] {
        let mut refused = server.connect();
        let answer = refused.request(method, target, "", body);
        answer.check_problem(503, "unavailable", what);
        let headers = ["retry-after", "connection"].map(|it| answer.field(it));
        assert_eq!(headers, ["1", "close"], "{method} {target}");
        assert!(refused.is_closed());
    }
    // An EventSource would give up for ever.
    let answer = server.request("GET", "/channels/a", SSE, "");
    assert_eq!((answer.status, answer.field("retry-after")), (200, "1"));
    assert!(answer.body.starts_with("retry: "), "{}", answer.body);
    assert!(answer.body.contains("event: tidegate-error\n") && answer.body.contains(what));
    // A page can't read a status.
    let own = format!("http://{}", server.address);
    for target in ["/channels/a", "/channels/a?subscribe=0"] {
        let mut ws = server.ws_with(server.connect(), target, None, &[("Origin", &own)]);
        assert_eq!(ws.closed(1013), "unavailable 1");
    }
    // What is wrong for good is still told, and machines still see that it is alive.
    server.get("/channels/a..b").check_problem(400, "invalid_argument", "empty segment");
    assert_eq!(server.get("/healthz").status, 200);
    // Who is there is served on.
    idle.send_request("GET", "/healthz", "", "");
    assert_eq!(idle.answer("GET").status, 200);
    drop(sse);
    let began = Instant::now();
    while server.get("/channels/a").status != 200 {
        assert!(began.elapsed() < SOON, "it never had room again");
    }
}

#[test]
fn of_those_over_the_limit_not_all_are_read() {
    let config = "[http]\nmax_connections = 1\n";
    let server = Server::start("surplus", config, &["--dev"]);
    let _sse = server.sse("/channels/a", "");
    // Who says nothing is given up after two seconds; 256 may say nothing at a time.
    let mut silent: Vec<_> = (0..400).map(|_| server.connect()).collect();
    let mut bare = 0;
    for peer in &mut silent {
        let mut text = String::new();
        peer.stream.read_to_string(&mut text).unwrap();
        if !text.is_empty() {
            assert!(text.starts_with("HTTP/1.1 503 ") && text.contains("\r\nretry-after: 1\r\n"));
            bare += 1;
        }
    }
    assert!((1..=144).contains(&bare), "{bare} of 400 were refused unread");
}

#[test]
fn a_head_that_is_too_long_is_refused() {
    let server = Server::dev();
    let long = "x".repeat(9 << 10);
    server.request("GET", &format!("/channels/a?x={long}"), SSE, "").check_problem(
        414,
        "too_large",
        "8192 bytes",
    );
    let headers = format!("{SSE}A: {long}\r\nB: {long}\r\n");
    server.request("GET", "/channels/a", &headers, "").check_problem(431, "too_large", "16384");
    // What can't even be read is told in one line.
    for (head, status) in [
        (format!("GET /{} HTTP/1.1\r\n", "x".repeat(30 << 10)), [414, 431]),
        (format!("GET / HTTP/1.1\r\nA: {}", "x".repeat(30 << 10)), [431, 431]),
        (format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(200)), [431, 431]),
        ("GET / HTTP/1.1\r\nno colon\r\n\r\n".to_owned(), [400, 400]),
        ("GET / HTTP/1.1\r\nHost : a\r\n\r\n".to_owned(), [400, 400]),
        ("GET / HTTP/3.9\r\n\r\n".to_owned(), [400, 400]),
        ("\u{1}\u{2}\u{3}\r\n\r\n".to_owned(), [400, 400]),
        ("GET  / HTTP/1.1\r\n\r\n".to_owned(), [400, 400]),
    ] {
        let mut peer = server.connect();
        peer.send(&head);
        let answer = peer.answer("GET");
        assert!(status.contains(&answer.status), "{} to {:.40}", answer.status, head);
        assert!(peer.is_closed());
    }
}

#[test]
fn a_stream_has_no_body() {
    let server = Server::dev();
    let handshake = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                     Sec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEA==\r\n";
    for headers in [SSE, NDJSON, handshake] {
        for (length, body) in [
            ("Content-Length: 3\r\n", "abc"),
            ("Transfer-Encoding: chunked\r\n", "3\r\nabc\r\n0\r\n\r\n"),
            ("Transfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        ] {
            let answer = server.request("GET", "/channels/a", &format!("{headers}{length}"), body);
            answer.check_problem(400, "invalid_argument", "body");
        }
    }
    // None at all, said in so many words, is none.
    server.open("/channels/a", &format!("{SSE}Content-Length: 0\r\n"));
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let server = Server::dev();
    server.publish("a", "one");
    let host = server.address;
    let get = |target: &str, accept: &str| {
        format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n{accept}\r\n")
    };
    let mut peer = server.connect();
    peer.send(
        get("/healthz", "")
            + &format!(
                "POST /channels/a?as=text HTTP/1.1\r\nHost: {host}\r\nContent-Length: 3\r\n\r\ntwo"
            )
            + &get("/channels/a", "")
            + &get("/nothing", "")
            + &get("/channels/a?since=start", NDJSON)
            + &get("/healthz", ""),
    );
    let answers: Vec<Answer> = (0..4).map(|_| peer.answer("GET")).collect();
    assert_eq!(answers.iter().map(|it| it.status).collect::<Vec<_>>(), [200, 200, 200, 404]);
    assert_eq!(answers[2].json()["messages"].as_array().unwrap().len(), 2);
    // The stream takes the connection over; what was sent behind it is nobody's.
    let head = peer.head();
    assert_eq!(head.header("content-type"), Some("application/x-ndjson"));
    assert_eq!(head.header("connection"), Some("close"));
    server.end("a");
    let text = rest(&mut peer);
    for part in ["\"one\"", "\"two\"", "{\"end\":"] {
        assert!(text.contains(part), "{text}");
    }
    assert!(text.ends_with("\r\n0\r\n\r\n") && !text.contains("HTTP/1.1"), "{text}");
}

#[test]
fn framing_that_could_smuggle_is_refused() {
    let server = Server::dev();
    let host = server.address;
    for (headers, body) in [
        ("Content-Length: 1\r\nContent-Length: 2\r\n", "ab"),
        ("Content-Length: 1, 2\r\n", "ab"),
        ("Content-Length: -1\r\n", ""),
        ("Content-Length: +1\r\n", "a"),
        ("Content-Length: 99999999999999999999\r\n", ""),
        ("Transfer-Encoding: chunked, gzip\r\n", "1\r\na\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked\r\n", "x\r\na\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked\r\n", "1\r\nab\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked\r\n", "11111111111111111\r\na\r\n0\r\n\r\n"),
    ] {
        let mut peer = server.connect();
        peer.send(format!("POST /channels/a HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n{body}"));
        let answer = peer.answer("POST");
        assert_eq!(answer.status, 400, "{headers}{body} {}", answer.body);
        assert!(peer.is_closed(), "{headers}{body}");
    }
    // Both say the same thing, or one of them wins: nothing is left over for another request.
    let mut peer = server.connect();
    let both = "Content-Length: 30\r\nTransfer-Encoding: chunked\r\n";
    peer.send(format!(
        "POST /channels/a HTTP/1.1\r\nHost: {host}\r\n{both}\r\n1\r\na\r\n0\r\n\r\n"
    ));
    let answer = peer.answer("POST");
    assert!([200, 400].contains(&answer.status), "{}", answer.body);
    let kept = server.get("/channels/a").json()["messages"].as_array().unwrap().len();
    assert_eq!(kept, usize::from(answer.status == 200));
}

#[test]
fn a_stream_has_one_host() {
    let server = Server::dev();
    for hosts in ["", "Host: localhost\r\nHost: localhost\r\n", "Host: a b\r\n", "Host: \r\n"] {
        for accept in [SSE, NDJSON] {
            let mut peer = server.connect();
            peer.send(format!("GET /channels/a HTTP/1.1\r\n{hosts}{accept}\r\n"));
            assert_eq!(peer.answer("GET").status, 400, "{hosts:?}");
        }
    }
}

/// The lines of a log that have `message`.
fn logged(log: &str, message: &str) -> Vec<serde_json::Value> {
    let lines = log.lines().filter_map(|it| serde_json::from_str::<serde_json::Value>(it).ok());
    lines.filter(|it| it["message"] == message).collect()
}

#[test]
fn a_flood_of_refusals_does_not_flood_the_log() {
    const ENTRIES: usize = 3000;
    let mut server = Server::dev();
    let began = Instant::now();
    let body = r#"{"channel":"*","data":1}"#.repeat(ENTRIES);
    let mut peer = server.connect();
    peer.send_request("POST", "/publish?quiet=1", "", &body);
    assert_eq!(peer.head().status, 200);
    let mut line = String::new();
    while line != "0\r\n" {
        line.clear();
        peer.stream.read_line(&mut line).unwrap();
        assert_ne!(line, "");
    }
    // One that is refused for another reason is not lost among them.
    server.get("/nowhere").check_problem(404, "not_found", "/nowhere");
    server.terminate();
    let (_, log) = server.wait();
    let windows = usize::try_from(began.elapsed().as_secs()).unwrap() + 2;

    let refused = logged(&log, "refused");
    let (flood, others): (Vec<_>, Vec<_>) =
        refused.iter().partition(|it| it["code"] == "invalid_argument");
    assert!(flood.len() <= 10 * windows, "{} lines in {windows} windows", flood.len());
    assert_eq!((others.len(), &others[0]["code"]), (1, &"not_found".into()));
    // And no refusal is lost to the sums.
    let sums = logged(&log, "refused more than is logged");
    let left_out: u64 = sums.iter().map(|it| it["left_out"].as_u64().unwrap()).sum();
    assert_eq!(flood.len() + usize::try_from(left_out).unwrap(), ENTRIES);
}
