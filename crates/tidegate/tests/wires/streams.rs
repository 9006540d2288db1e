//! SSE and NDJSON (CONTRACT 4).

use serde_json::{Value, json};

use super::common::{Answer, End, NDJSON, SSE, Server, far_ahead, of_another_epoch};

/// The JSON form without what is different each time.
fn brief(mut message: Value) -> Value {
    let fields = message.as_object_mut().unwrap();
    for name in ["cursor", "time"] {
        assert!(fields.remove(name).unwrap().is_string(), "{name}");
    }
    message
}

// ---- Heads -----------------------------------------------------------------------------------

#[test]
fn a_streams_head_has_its_cursor_and_keeps_caches_and_proxies_away() {
    let server = Server::dev();
    let cursor = server.publish("a", "one");
    for (accept, content_type) in [(SSE, "text/event-stream"), (NDJSON, "application/x-ndjson")] {
        let headers = format!("{accept}Origin: http://localhost:3000\r\n");
        let (head, _) = server.open("/channels/a", &headers);
        for (name, value) in [
            ("content-type", content_type),
            ("cache-control", "no-cache, no-transform"),
            ("x-accel-buffering", "no"),
            ("tidegate-cursor", &cursor),
            ("transfer-encoding", "chunked"),
            ("access-control-allow-origin", "http://localhost:3000"),
            ("access-control-allow-credentials", "true"),
        ] {
            assert_eq!(head.header(name), Some(value), "{name}");
        }
        let exposed = head.header("access-control-expose-headers").unwrap();
        assert!(exposed.contains("Tidegate-Cursor") && exposed.contains("Retry-After"));
        assert!(head.header("date").unwrap().ends_with(" GMT"));
        for (name, value) in
            [("Origin", "https://evil.example"), ("Origin", "null"), ("Host", "evil.example")]
        {
            let answer =
                server.request("GET", "/channels/a", &format!("{accept}{name}: {value}\r\n"), "");
            answer.check_problem(403, "permission_denied", value);
            assert_eq!(answer.header("access-control-allow-origin"), None);
        }
    }
}

#[test]
fn the_wire_can_be_named_in_the_query() {
    let server = Server::dev();
    for (wire, content_type) in [("sse", "text/event-stream"), ("ndjson", "application/x-ndjson")] {
        let (head, _) = server.open(&format!("/channels/a?wire={wire}"), "");
        assert_eq!(head.header("content-type"), Some(content_type));
    }
}

#[test]
fn head_gives_the_headers_of_a_poll() {
    let server = Server::dev();
    let cursor = server.publish("a", "one");
    let poll = server.get("/channels/a");
    for (target, headers) in [
        ("/channels/a", SSE),
        ("/channels/a", NDJSON),
        ("/channels/a?wire=sse", ""),
        ("/channels/a", "Upgrade: websocket\r\nConnection: upgrade\r\n"),
        ("/channels/a?wait=60s", ""),
    ] {
        let mut peer = server.connect();
        peer.send_request("HEAD", target, headers, "");
        let head = peer.answer("HEAD");
        assert_eq!(head.status, 200, "{target} {headers}");
        assert_eq!(head.header("content-type"), Some("application/json"));
        assert_eq!(head.header("tidegate-cursor"), Some(&*cursor));
        assert_eq!(head.header("content-length"), poll.header("content-length"));
        // It is an answer like others: the connection goes on.
        peer.send_request("GET", "/healthz", "", "");
        assert_eq!(peer.answer("GET").status, 200);
    }
    assert_eq!(server.request("HEAD", "/channels/a", "Accept: image/png\r\n", "").status, 406);
}

#[test]
fn http_1_0_has_no_chunks_and_the_close_ends_it() {
    let server = Server::dev();
    let cursor = server.publish("a", "one");
    server.end("a");
    for accept in [SSE, NDJSON] {
        let mut peer = server.connect();
        peer.send(format!("GET /channels/a?since=start HTTP/1.0\r\n{accept}\r\n"));
        let head = peer.head();
        assert_eq!((head.status, head.header("transfer-encoding")), (200, None));
        assert_eq!(head.header("connection"), Some("close"));
        let mut body = String::new();
        std::io::Read::read_to_string(&mut peer.stream, &mut body).unwrap();
        let (first, last) = match accept {
            SSE => ("retry: ", "\n\n"),
            _ => ("{\"channel\":\"a\",", "}}\n"),
        };
        assert!(body.starts_with(first) && body.ends_with(last), "{body:?}");
        assert!(body.contains(&cursor) && body.contains("end"), "{body:?}");
    }
}

// ---- SSE -------------------------------------------------------------------------------------

#[test]
fn an_event_stream_opens_with_a_retry_and_its_cursor() {
    let server = Server::dev();
    let cursor = server.publish("a", "one");
    let mut retries = Vec::new();
    for _ in 0..5 {
        let (_, mut body) = server.open("/channels/a", SSE);
        let retry = body.line();
        let millis: u32 = retry.strip_prefix("retry: ").unwrap().parse().unwrap();
        assert!((1500..=2500).contains(&millis), "{millis}");
        retries.push(millis);
        assert_eq!(body.line(), "");
        assert_eq!(body.line(), format!("id: {cursor}"));
        assert_eq!(body.line(), "");
    }
    retries.dedup();
    assert!(retries.len() > 1, "they are jittered");
}

#[test]
fn an_event_has_its_cursor_its_name_and_its_payload() {
    let server = Server::dev();
    let mut sse = server.sse("/channels/a", "");
    let cursor = server.publish("a", "one");
    sse.check("message", "one", &cursor);
    let cursor = server.post("/channels/a", "Tidegate-Event: tick\r\n", "{\"n\":\n1}");
    sse.check("tick", "{\"n\":\n1}", &cursor);
    for (text, data) in [
        ("a\nb\r\nc\rd", "a\nb\nc\nd"),
        ("ends\n", "ends\n"),
        ("\r\n\r\n", "\n\n"),
        (" blank: first", " blank: first"),
        ("id: x\ndata: y\n\nevent: z", "id: x\ndata: y\n\nevent: z"),
        ("", ""),
    ] {
        let body = json!({"channel": "a", "text": text}).to_string();
        assert_eq!(server.request("POST", "/publish", "", &body).status, 200);
        let event = sse.event();
        assert_eq!((&*event.event, &*event.data, event.id), ("message", data, server.now("a")));
    }
    let cursor = server.post("/channels/a?as=binary", "", "\0\u{1}\u{2}");
    sse.check("binary", "AAEC", &cursor);
    let cursor = server.post("/channels/a?as=binary", "Tidegate-Event: png\r\n", "\0");
    sse.check("png", "AA==", &cursor);
}

#[test]
fn an_enveloped_event_leaves_its_name_to_the_json_form() {
    let server = Server::dev();
    let mut sse = server.sse("/channels/a?envelope=1", "");
    let cursor = server.post("/channels/a", "Tidegate-Event: tick\r\n", "{\"n\": 1}");
    let (data, id) = sse.json("message");
    assert_eq!((&*id, &data["cursor"]), (&*cursor, &json!(cursor)));
    assert_eq!(brief(data), json!({"channel": "a", "event": "tick", "data": {"n": 1}}));
    server.post("/channels/a", "Content-Type: image/png\r\n", "\0");
    let (data, _) = sse.json("message");
    assert_eq!(brief(data), json!({"channel": "a", "type": "image/png", "base64": "AA=="}));
    let end = server.end("a");
    let (data, id) = sse.json("tidegate-end");
    assert_eq!((data, id), (json!({"channel": "a", "cursor": end}), end));
    assert_eq!(sse.body.end(), End::Proper);
}

#[test]
fn several_channels_have_a_joined_cursor_in_every_event() {
    let server = Server::dev();
    server.publish("a", "before");
    let mut sse = server.sse("/channels/a,b", "");
    let (a, b) = (server.now("a"), server.now("b"));
    let has = |id: &str, cursors: [&str; 2]| {
        let mut parts: Vec<_> = id.split('.').collect();
        parts.sort_unstable();
        let mut cursors = cursors;
        cursors.sort_unstable();
        assert_eq!(parts, cursors);
    };
    let one = server.publish("a", "one");
    let (data, id) = sse.json("message");
    has(&id, [&one, &b]);
    assert_eq!(brief(data), json!({"channel": "a", "text": "one"}));
    let two = server.publish("b", "two");
    let (_, id) = sse.json("message");
    has(&id, [&one, &two]);
    server.delete("a");
    let (gap, id) = sse.json("tidegate-gap");
    assert_eq!(
        (&gap["channel"], &gap["reason"], &gap["requested"]),
        (&json!("a"), &json!("dropped"), &json!(one))
    );
    has(&id, [gap["resumed"].as_str().unwrap(), &two]);
    assert_ne!(a, one);
    let end = server.end("b");
    let (data, last) = sse.json("tidegate-end");
    assert_eq!(data, json!({"channel": "b", "cursor": end}));
    has(&last, [gap["resumed"].as_str().unwrap(), &end]);
    // One of them goes on; the other's end is sent again only to who asks for that channel alone.
    let three = server.publish("a", "three");
    let (_, id) = sse.json("message");
    has(&id, [&three, &end]);
    // Resumed by the joined cursor, in whatever order the URL has the channels.
    let mut sse = server.sse(&format!("/channels/b,a?since={last}"), "");
    let (first, second) = (sse.event(), sse.event());
    let kinds = [&*first.event, &*second.event];
    assert!(kinds.contains(&"tidegate-end") && kinds.contains(&"message"), "{kinds:?}");
    has(&second.id, [&three, &end]);
    server.end("a");
    assert_eq!(sse.event().event, "tidegate-end");
    assert_eq!(sse.body.end(), End::Proper);
}

#[test]
fn envelope_0_is_for_one_channel() {
    let server = Server::dev();
    let answer = server.request("GET", "/channels/a,b?envelope=0", SSE, "");
    answer.check_problem(400, "invalid_argument", "envelope");
}

#[test]
fn last_event_id_wins_over_the_old_url() {
    let server = Server::dev();
    server.publish("a", "one");
    let two = server.publish("a", "two");
    let three = server.publish("a", "three");
    let id = format!("Last-Event-ID: {two}\r\n");
    for query in ["", "?since=start", "?since=now", "?last=3"] {
        server.sse(&format!("/channels/a{query}"), &id).check("message", "three", &three);
    }
    // An empty one is none, and to other wires it means nothing.
    let empty = "Last-Event-ID: \r\n";
    assert_eq!(server.sse("/channels/a?since=start", empty).event().data, "one");
    let (_, mut body) = server.open("/channels/a?since=start", &format!("{NDJSON}{id}"));
    assert!(body.line().contains("\"one\""));
    let answer = server.request("GET", "/channels/a", &format!("{SSE}Last-Event-ID: x\r\n"), "");
    answer.check_problem(400, "invalid_argument", "Last-Event-ID");
}

#[test]
fn past_all_its_ends_an_event_source_is_stopped() {
    let server = Server::dev();
    let one = server.publish("a", "one");
    let end = server.end("a");
    for since in [&*end, "now"] {
        let answer = server.request("GET", &format!("/channels/a?since={since}"), SSE, "");
        assert_eq!((answer.status, &*answer.body), (204, ""));
        assert_eq!(answer.header("tidegate-cursor"), Some(&*end));
    }
    let mut sse = server.sse(&format!("/channels/a?since={one}"), "");
    let (data, id) = sse.json("tidegate-end");
    assert_eq!((data, &*id), (json!({"channel": "a", "cursor": end}), &*end));
    assert_eq!(sse.body.end(), End::Proper);
    // Not while one of them goes on.
    let two = server.publish("b", "two");
    let joined = format!("/channels/a,b?since={end}.{two}");
    let mut sse = server.sse(&joined, "");
    assert_eq!(sse.event().event, "tidegate-end");
    server.end("b");
    assert_eq!(sse.event().event, "tidegate-end");
    assert_eq!(sse.body.end(), End::Proper);
    assert_eq!(
        server
            .request("GET", &format!("/channels/a,b?since={end}.{}", server.now("b")), SSE, "")
            .status,
        204
    );
    // Who missed something is told that first.
    let mut sse = server.sse(&format!("/channels/a?since={}", far_ahead(&end)), "");
    assert_eq!(sse.event().event, "tidegate-gap");
    assert_eq!(sse.event().event, "tidegate-end");
}

// ---- NDJSON ----------------------------------------------------------------------------------

#[test]
fn a_line_is_the_json_form() {
    let server = Server::dev();
    let mut lines = server.ndjson("/channels/a");
    let cursor = server.post("/channels/a", "Tidegate-Event: tick\r\n", "{\"n\":\r\n 1}");
    let line = lines.0.line();
    assert!(line.contains("\"data\":{\"n\":   1}"), "{line}");
    let message: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(message["cursor"], cursor);
    assert_eq!(brief(message), json!({"channel": "a", "event": "tick", "data": {"n": 1}}));
    server.publish("a", "two\nlines");
    assert_eq!(brief(lines.next()), json!({"channel": "a", "text": "two\nlines"}));
    server.post("/channels/a", "Content-Type: image/png\r\n", "\0");
    let png = json!({"channel": "a", "type": "image/png", "base64": "AA=="});
    assert_eq!(brief(lines.next()), png);
}

#[test]
fn lines_of_several_channels_have_where_to_resume() {
    let server = Server::dev();
    let mut lines = server.ndjson("/channels/a,b,c?since=start");
    let mut resume = String::new();
    // One after the other: between channels there is no order.
    for (channel, text) in [("a", "one"), ("b", "two")] {
        server.publish(channel, text);
        let line = lines.next();
        assert_eq!(line["text"], text);
        resume = line["resume"].as_str().unwrap().to_owned();
        assert_eq!(resume.split('.').count(), 3);
    }
    server.publish("c", "three");
    assert_eq!(lines.next()["text"], "three");
    server.delete("a");
    let gap = lines.next();
    assert_eq!((&gap["gap"]["reason"], &gap["gap"]["channel"]), (&json!("dropped"), &json!("a")));
    let resumed = gap["gap"]["resumed"].as_str().unwrap();
    assert!(gap["resume"].as_str().unwrap().split('.').any(|it| it == resumed), "{gap}");
    let end = server.end("b");
    let line = lines.next();
    assert_eq!(line["end"], json!({"channel": "b", "cursor": end}));
    assert!(line["resume"].as_str().unwrap().split('.').any(|it| it == end), "{line}");

    let mut lines = server.ndjson(&format!("/channels/c,b,a?since={resume}"));
    let mut found: Vec<_> = (0..3).map(|_| lines.next()).collect();
    found.sort_by_key(|it| it.get("text").is_some());
    assert_eq!(found[2]["text"], "three");
    assert!(found[..2].iter().any(|it| it["gap"]["reason"] == "expired"), "{found:?}");
    assert!(found[..2].iter().any(|it| it["end"]["channel"] == "b"), "{found:?}");
    // A channel without a cursor takes the default.
    let c = resume.split('.').nth(2).unwrap();
    let of_c = [c]
        .into_iter()
        .chain(resume.split('.'))
        .find(|it| server.get(&format!("/channels/c?since={it}")).status == 200);
    let mut lines = server.ndjson(&format!("/channels/a,c?since={}", of_c.unwrap()));
    assert_eq!(lines.next()["text"], "three");
}

#[test]
fn a_body_ends_properly_only_after_the_last_end() {
    let server = Server::dev();
    server.publish("a", "one");
    let mut lines = server.ndjson("/channels/a,b?since=start");
    assert_eq!(lines.next()["text"], "one");
    let end = server.end("a");
    assert_eq!(lines.next()["end"], json!({"channel": "a", "cursor": end}));
    server.publish("b", "two");
    assert_eq!(lines.next()["text"], "two");
    server.end("b");
    assert_eq!(lines.next()["end"]["channel"], "b");
    assert_eq!(lines.0.end(), End::Proper);
    // At or past the end it is sent again.
    for since in [&*end, "now"] {
        let mut lines = server.ndjson(&format!("/channels/a?since={since}"));
        assert_eq!(lines.next(), json!({"end": {"channel": "a", "cursor": end}}));
        assert_eq!(lines.0.end(), End::Proper);
    }
    // Anything else cuts it: such as a server that dies.
    let mut lines = server.ndjson("/channels/c");
    server.publish("c", "one");
    assert_eq!(lines.next()["text"], "one");
    drop(server);
    assert_eq!(lines.0.end(), End::Cut);
}

#[test]
fn a_publication_that_ends_its_channel_comes_before_the_end() {
    let server = Server::dev();
    let (mut sse, mut lines) = (server.sse("/channels/a", ""), server.ndjson("/channels/a"));
    let last = server.post("/channels/a?as=text", "Tidegate-End: true\r\n", "last");
    sse.check("message", "last", &last);
    assert_eq!(lines.next()["cursor"], last);
    let end = lines.next()["end"]["cursor"].as_str().unwrap().to_owned();
    assert!(end > last);
    assert_eq!(sse.event().id, end);
    assert_eq!((sse.body.end(), lines.0.end()), (End::Proper, End::Proper));
}

// ---- Both ------------------------------------------------------------------------------------

#[test]
fn a_position_is_where_a_stream_begins() {
    let server = Server::dev();
    let mut cursors = Vec::new();
    for text in ["0", "1", "2", "3"] {
        cursors.push(server.publish("a", text));
    }
    let check = |query: &str, expect: &[&str]| {
        let target = format!("/channels/a{query}");
        let (mut sse, mut lines) = (server.sse(&target, ""), server.ndjson(&target));
        for text in expect {
            assert_eq!(sse.event().data, *text, "{query}");
            assert_eq!(lines.next()["text"], *text, "{query}");
        }
        // And not one more: the next is a new one.
        let cursor = server.publish("a", "new");
        sse.check("message", "new", &cursor);
        assert_eq!(lines.next()["cursor"], cursor, "{query}");
        server.delete("a");
        for text in ["0", "1", "2", "3"] {
            server.publish("a", text);
        }
    };
    check("", &[]);
    check("?since=now", &[]);
    check("?since=start", &["0", "1", "2", "3"]);
    check("?last=2", &["2", "3"]);
    check("?last=0", &[]);
    check("?last=9", &["0", "1", "2", "3"]);
    let cursor = server.get("/channels/a?limit=2").json()["cursor"].as_str().unwrap().to_owned();
    check(&format!("?since={cursor}"), &["2", "3"]);
}

#[test]
fn a_bad_position_is_refused() {
    let server = Server::dev();
    let of_b = server.publish("b", "x");
    for (query, part) in [
        ("since=x".to_owned(), "malformed"),
        ("since=".to_owned(), "malformed"),
        (format!("since={of_b}"), "another channel"),
        (format!("since={of_b}.{of_b}"), "another channel"),
        ("since=now&last=1".to_owned(), "exclude"),
        ("last=-1".to_owned(), "last"),
        ("wire=carrier-pigeon".to_owned(), "wire"),
        ("envelope=2".to_owned(), "envelope"),
    ] {
        for accept in [SSE, NDJSON] {
            let answer = server.request("GET", &format!("/channels/a?{query}"), accept, "");
            answer.check_problem(400, "invalid_argument", part);
        }
    }
    let twice = server.now("a");
    let answer = server.request("GET", &format!("/channels/a?since={twice}.{twice}"), SSE, "");
    answer.check_problem(400, "invalid_argument", "second");
}

/// Checks that both wires tell a gap when they begin at `since`, then go on with `next`.
#[track_caller]
fn check_gap(server: &Server, channel: &str, since: &str, reason: &str, next: &str) {
    let target = format!("/channels/{channel}?since={since}");
    let check = |gap: &Value| {
        assert_eq!((&gap["channel"], &gap["reason"]), (&json!(channel), &json!(reason)));
        assert_eq!(gap["requested"], since);
        gap["resumed"].as_str().unwrap().to_owned()
    };
    let (head, body) = server.open(&target, SSE);
    // Cut now, it would be told the gap again.
    assert_eq!(head.header("tidegate-cursor"), Some(since));
    let mut sse = super::common::Sse::new(body);
    let (gap, id) = sse.json("tidegate-gap");
    assert_eq!(check(&gap), id);
    assert_eq!(sse.event().data, next);
    let mut lines = server.ndjson(&target);
    assert_eq!(check(&lines.next()["gap"]), id);
    assert_eq!(lines.next()["text"], next);
    // Where it resumes there is no gap.
    assert_eq!(server.ndjson(&format!("/channels/{channel}?since={id}")).next()["text"], next);
}

#[test]
fn what_cannot_be_replayed_is_told() {
    let config = "[[channel]]\nmatch = \"short\"\nlog = { messages = 3 }\n";
    let server = Server::start("gaps", config, &["--dev"]);
    let cursors: Vec<_> = (0..8).map(|it| server.publish("short", &it.to_string())).collect();
    check_gap(&server, "short", &cursors[0], "expired", "5");
    check_gap(&server, "short", &of_another_epoch(&cursors[6]), "epoch", "5");
    let long = server.publish("long", "0");
    check_gap(&server, "long", &of_another_epoch(&long), "epoch", "0");
    server.delete("long");
    server.publish("long", "1");
    check_gap(&server, "long", &long, "expired", "1");
}

#[test]
fn a_drop_is_told_at_once_to_who_is_live() {
    let server = Server::dev();
    let one = server.publish("a", "one");
    let mut sse = server.sse("/channels/a?since=start", "");
    let mut lines = server.ndjson("/channels/a?since=start");
    sse.check("message", "one", &one);
    assert_eq!(lines.next()["text"], "one");
    server.delete("a");
    let (gap, id) = sse.json("tidegate-gap");
    assert_eq!(gap, json!({"channel": "a", "requested": one, "resumed": id, "reason": "dropped"}));
    assert_eq!(lines.next(), json!({"gap": gap}));
    let two = server.publish("a", "two");
    sse.check("message", "two", &two);
    assert_eq!(lines.next()["text"], "two");
}

#[test]
fn who_has_seen_its_head_is_live_also_where_nothing_is_kept() {
    let config = "[[channel]]\nmatch = \">\"\nlog = { messages = 0 }\n";
    let server = Server::start("nothing-kept", config, &["--dev"]);
    // On a worker of its own, most likely: it races with the stream's.
    let mut publisher = server.ws("/channels/a?subscribe=0");
    for n in 0..100 {
        let mut lines = server.ndjson("/channels/a");
        publisher.send_text(&n.to_string());
        assert_eq!(lines.next()["text"], n.to_string());
        let mut ws = server.ws("/channels/a?envelope=1");
        publisher.send_text("x");
        assert_eq!(ws.json()["text"], "x");
    }
}

#[test]
fn an_idle_stream_is_kept_alive() {
    let server = Server::dev();
    let began = std::time::Instant::now();
    let (_, mut lines) = server.open("/channels/a", NDJSON);
    let (_, mut events) = server.open("/channels/a", SSE);
    for expect in ["retry: ", "", "id: ", ""] {
        assert!(events.line().starts_with(expect));
    }
    assert_eq!((&*lines.line(), &*events.line(), &*events.line()), ("", ":", ""));
    let idle = began.elapsed().as_secs_f32();
    assert!((14.0..25.0).contains(&idle), "{idle}");
}

#[test]
fn without_a_right_nothing_begins() {
    let config = "[[channel]]\nmatch = \"closed\"\nsubscribe = \"nobody\"\n\
                  [[channel]]\nmatch = \"open\"\nsubscribe = \"anyone\"\n";
    let server = Server::start("rights", config, &[]);
    let check = |answer: Answer, status, code, part| {
        answer.check_problem(status, code, part);
    };
    for accept in [SSE, NDJSON] {
        let get = |target| server.request("GET", target, accept, "");
        let token = get("/channels/open,prices");
        assert_eq!(token.header("www-authenticate"), Some("Bearer"));
        check(token, 401, "unauthenticated", "\"prices\"");
        check(get("/channels/open,closed"), 403, "permission_denied", "\"closed\"");
        server.open("/channels/open", accept);
    }
}
