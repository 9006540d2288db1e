//! Publishing and the rest of the HTTP API on the real server, sentence by sentence of CONTRACT 3,
//! with what of CONTRACT 7, 11 and 12 applies to it.

use std::io::Write as _;
use std::thread;
use std::time::Instant;

use serde_json::{Value, json};

use super::common::{Answer, Peer, SOON, Server, check_problem};

impl Server {
    /// Publishes, and has 200.
    #[track_caller]
    fn published(&self, target: &str, headers: &str, body: &str) -> Value {
        let answer = self.request("POST", target, headers, body);
        assert_eq!(answer.status, 200, "{}", answer.body);
        assert_eq!(answer.header("content-type"), Some("application/json"));
        answer.json()
    }

    /// All that is kept of a channel, each without what is different each time.
    #[track_caller]
    fn kept(&self, channel: &str) -> Vec<Value> {
        let mut messages = self.whole(channel)["messages"].take();
        for message in messages.as_array_mut().unwrap() {
            let message = message.as_object_mut().unwrap();
            assert_eq!(message.remove("channel").unwrap(), channel);
            assert!(message.remove("cursor").unwrap().is_string());
            assert!(message.remove("time").unwrap().is_string());
        }
        serde_json::from_value(messages).unwrap()
    }

    #[track_caller]
    fn whole(&self, channel: &str) -> Value {
        let answer = self.get(&format!("/channels/{channel}?since=start"));
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json()
    }
}

impl Peer {
    /// The one line that the next chunk has.
    #[track_caller]
    fn result(&mut self) -> Value {
        let chunk = self.chunk().unwrap();
        assert_eq!(chunk.find('\n'), Some(chunk.len() - 1), "{chunk:?}");
        serde_json::from_str(&chunk).unwrap()
    }
}

impl Answer {
    /// The lines of an NDJSON answer.
    #[track_caller]
    fn results(&self) -> Vec<Value> {
        assert_eq!(self.status, 200, "{}", self.body);
        assert_eq!(self.header("content-type"), Some("application/x-ndjson"));
        self.body.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// What of a result matters: index, and channel with duplicate, or code.
fn brief(result: &Value) -> Value {
    if result.get("published").is_some() {
        return result.clone();
    }
    match result.get("code") {
        Some(code) => json!([result["index"], code]),
        None => json!([result["index"], result["channel"], result["duplicate"]]),
    }
}

fn briefs(results: &[Value]) -> Value {
    results.iter().map(brief).collect()
}

// ---- POST /channels/{channel} ----------------------------------------------------------------

#[test]
fn a_publication_is_answered_with_its_cursor() {
    let server = Server::dev();
    let published = server.published("/channels/prices", "", r#"{"bid":1}"#);
    let cursor = published["cursor"].as_str().unwrap();
    assert_eq!(published, json!({"channel": "prices", "cursor": cursor, "duplicate": false}));
    let kept = server.whole("prices");
    assert_eq!(kept["messages"][0]["cursor"], cursor);
    assert_eq!(kept["messages"][0]["data"], json!({"bid": 1}));
    let later = server.published("/channels/prices", "", "2");
    let after = server.get(&format!("/channels/prices?since={cursor}")).json();
    assert_eq!(after["messages"].as_array().unwrap().len(), 1);
    assert_eq!(after["messages"][0]["cursor"], later["cursor"]);
    // It is kept, and the connection too.
    let mut peer = server.connect();
    for _ in 0..3 {
        assert_eq!(peer.request("POST", "/channels/kept-alive", "", "x").status, 200);
    }
    assert_eq!(server.kept("kept-alive").len(), 3);
}

/// What a body is kept as, or the status and a part of the refusal.
#[track_caller]
fn check_kind(
    server: &Server,
    (content_type, query, body): (&str, &str, &[u8]),
    expect: Result<Value, (u16, &str)>,
) {
    let header = match content_type {
        "" => String::new(),
        content_type => format!("Content-Type: {content_type}\r\n"),
    };
    assert_eq!(server.request("DELETE", "/channels/kind", "", "").status, 204);
    let answer = server.request("POST", &format!("/channels/kind{query}"), &header, body);
    match expect {
        Ok(kept) => {
            assert_eq!(answer.status, 200, "{}", answer.body);
            assert_eq!(server.kept("kind"), [kept], "{content_type} {query}");
        }
        Err((status, part)) => {
            answer.check_problem(status, "invalid_argument", part);
            assert!(server.kept("kind").is_empty());
        }
    }
}

#[test]
fn a_payload_is_of_the_kind_that_its_type_says() {
    let server = Server::dev();
    let check = |content_type, query, body: &[u8], expect| {
        check_kind(&server, (content_type, query, body), expect);
    };
    let form = "application/x-www-form-urlencoded";
    for open in ["", "text/plain;charset=UTF-8", form] {
        check(open, "", br#"{"a":1}"#, Ok(json!({"data": {"a": 1}})));
        check(open, "", b" [1] ", Ok(json!({"data": [1]})));
        check(open, "", b"{\"a\":1} x", Ok(json!({"text": "{\"a\":1} x"})));
        check(open, "", b"12", Ok(json!({"text": "12"})));
        check(open, "", b"", Ok(json!({"text": ""})));
        check(open, "", "grüß".as_bytes(), Ok(json!({"text": "grüß"})));
    }
    check("", "", b"\xFF\xFE", Ok(json!({"base64": "//4="})));
    check(form, "", b"\xFF\xFE", Ok(json!({"base64": "//4="})));
    check("application/json", "", b"12", Ok(json!({"data": 12})));
    check("Application/JSON; charset=utf-8", "", b"null", Ok(json!({"data": null})));
    check("application/vnd.api+json", "", b"\"x\"", Ok(json!({"data": "x"})));
    check("application/json", "", b"{", Err((400, "not JSON")));
    check("application/json", "", b"", Err((400, "not JSON")));
    check("text/csv", "", b"{}", Ok(json!({"text": "{}"})));
    check("text/csv", "", b"a\xFF", Err((400, "not UTF-8 after 1 byte")));
    check("image/png", "", b"x", Ok(json!({"base64": "eA==", "type": "image/png"})));
    check("multipart/form-data; boundary=b", "", b"--b", Err((415, "multipart")));

    check("image/png", "?as=text", b"x", Ok(json!({"text": "x"})));
    check("text/plain", "?as=json", b"12", Ok(json!({"data": 12})));
    check("", "?as=binary", b"{}", Ok(json!({"base64": "e30="})));
    check("multipart/mixed", "?as=text", b"--b", Ok(json!({"text": "--b"})));
    check("", "?as=json", b"x", Err((400, "not JSON")));
    check("", "?as=text", b"\xFF", Err((400, "not UTF-8")));
    check("", "?as=xml", b"x", Err((400, "as: ")));

    check("application/json", "", &deep(129).into_bytes(), Err((400, "deep")));
}

fn deep(depth: usize) -> String {
    "[".repeat(depth) + &"]".repeat(depth)
}

#[test]
fn a_payload_is_128_deep_at_most() {
    let server = Server::dev();
    assert_eq!(server.request("POST", "/channels/a?as=json", "", deep(128)).status, 200);
    let entry = |depth| format!("{{\"channel\":\"a\",\"data\":{}}}", deep(depth));
    let results = server.request("POST", "/publish", "", entry(128) + &entry(129)).results();
    assert_eq!(briefs(&results), json!([[0, "a", false], [1, "invalid_argument"]]));
    let results =
        server.request("POST", "/channels/a", NDJSON, deep(128) + "\n" + &deep(129)).results();
    assert_eq!(briefs(&results), json!([[0, "a", false], [1, "invalid_argument"]]));
    let body = server.get("/channels/a?since=start").body;
    assert_eq!(body.matches(&format!("\"data\":{}}}", deep(128))).count(), 3);
}

#[test]
fn a_payload_is_kept_byte_for_byte_on_one_line() {
    let server = Server::dev();
    server.published("/channels/a?as=json", "", "{\"n\":1.00,\r\n \"n\":\t2}");
    let body = server.get("/channels/a?since=start").body;
    assert!(body.contains("\"data\":{\"n\":1.00,   \"n\":\t2}}"), "{body}");
}

#[test]
fn what_must_be_decoded_first_is_not_taken() {
    let server = Server::dev();
    for target in ["/channels/a", "/publish"] {
        let answer = server.request("POST", target, "Content-Encoding: gzip\r\n", "x");
        answer.check_problem(415, "invalid_argument", "Content-Encoding: ");
    }
    assert_eq!(server.kept("a"), [] as [Value; 0]);
}

#[test]
fn events_are_named_by_header_or_query() {
    let server = Server::dev();
    server.published("/channels/a", "Tidegate-Event: tick\r\n", "1");
    server.published("/channels/a?event=tock", "", "2");
    server.published("/channels/a?event=tock", "tidegate-event: tick\r\n", "3");
    let events: Vec<_> = server.kept("a").iter().map(|it| it["event"].clone()).collect();
    assert_eq!(events, ["tick", "tock", "tick"]);
    for (target, headers, names) in [
        ("/channels/a", "Tidegate-Event: tidegate-x\r\n", "Tidegate-Event: "),
        ("/channels/a", "Tidegate-Event: a b\r\n", "Tidegate-Event: "),
        ("/channels/a", "Tidegate-Event:\r\n", "Tidegate-Event: "),
        ("/channels/a", "Tidegate-Event: a\r\nTidegate-Event: b\r\n", "Tidegate-Event: "),
        ("/channels/a?event=error", "", "event: "),
        ("/channels/a", "Tidegate-End: yes\r\n", "Tidegate-End: "),
        ("/channels/a?end=yes", "", "end: "),
        ("/channels/a", "Idempotency-Key:\r\n", "Idempotency-Key: "),
        ("/channels/a?key=", "", "key: "),
    ] {
        server.request("POST", target, headers, "x").check_problem(400, "invalid_argument", names);
    }
    let long = format!("Idempotency-Key: {}\r\n", "k".repeat(129));
    server.request("POST", "/channels/a", &long, "x").check_problem(
        400,
        "invalid_argument",
        "129 bytes",
    );
    assert_eq!(server.kept("a").len(), 3);
}

#[test]
fn a_key_is_taken_once() {
    let server = Server::dev();
    let key = "Idempotency-Key: order-1\r\n";
    let first = server.published("/channels/a?event=e", key, "x");
    let again = server.published("/channels/a?event=e&key=another", key, "x");
    assert_eq!(again, json!({"channel": "a", "cursor": first["cursor"], "duplicate": true}));
    for (target, body) in
        [("/channels/a?event=e", "y"), ("/channels/a", "x"), ("/channels/a?event=e&end=1", "x")]
    {
        let answer = server.request("POST", target, key, body);
        answer.check_problem(422, "invalid_argument", "another payload, event or end");
    }
    assert_eq!(server.kept("a").len(), 1);
    // A key is its channel's.
    assert_eq!(server.published("/channels/b?event=e", key, "x")["duplicate"], false);
    // Also after an end, the end's own key too.
    let end = server.published("/channels/a?end=1&key=end", "", "");
    assert_eq!(server.published("/channels/a?end=1&key=end", "", "")["cursor"], end["cursor"]);
    assert_eq!(server.published("/channels/a?event=e", key, "x")["duplicate"], true);
}

#[test]
fn an_end_is_an_entry_of_its_own() {
    let server = Server::dev();
    let published = server.published("/channels/a", "Tidegate-End: true\r\n", "last words");
    let kept = server.whole("a");
    assert_eq!(kept["messages"].as_array().unwrap().len(), 1);
    assert_eq!(kept["messages"][0]["cursor"], published["cursor"]);
    assert_eq!(kept["ended"], json!(["a"]));
    // The end lies after its publication: who stands between has the end before it.
    let between = published["cursor"].as_str().unwrap();
    let rest = server.get(&format!("/channels/a?since={between}")).json();
    assert_eq!((&rest["messages"], &rest["ended"]), (&json!([]), &json!(["a"])));
    assert!(rest["cursor"].as_str().unwrap() > between, "{rest}");

    for target in ["/channels/a", "/channels/a?end=true"] {
        server.request("POST", target, "", "more").check_problem(409, "ended", "has ended");
    }
    let lone = server.published("/channels/b?end=true", "", "");
    let kept = server.whole("b");
    assert_eq!(kept["messages"], json!([]));
    assert_eq!((&kept["cursor"], &kept["ended"]), (&lone["cursor"], &json!(["b"])));
    let answer = server.request("POST", "/channels/c?end=true&event=e", "", "");
    answer.check_problem(400, "invalid_argument", "an end alone has no event");
    // An empty text is a publication.
    server.published("/channels/c", "", "");
    assert_eq!(server.kept("c"), [json!({"text": ""})]);
    assert_eq!(server.whole("c")["ended"], json!([]));
}

#[test]
fn a_dropped_channel_is_as_new_and_its_subscribers_are_told() {
    let server = Server::dev();
    let before = server.published("/channels/a?end=1&key=k", "", "x");
    let mut subscriber = server.connect();
    let cursor = server.published("/channels/b", "", "1")["cursor"].clone();
    let target = format!("/channels/b?since={}", cursor.as_str().unwrap());
    subscriber.send_head("GET", &target, "Accept: application/x-ndjson\r\n");
    assert_eq!(subscriber.head().status, 200);

    for channel in ["a", "b", "never-was"] {
        let target = format!("/channels/{channel}");
        let answer = server.request("DELETE", &target, "", "");
        assert_eq!((answer.status, answer.body.as_str()), (204, ""));
    }
    let told = subscriber.result();
    assert_eq!(told["gap"]["reason"], "dropped", "{told}");
    assert_eq!(told["gap"]["channel"], "b", "{told}");
    // Log, end and keys are gone; an old cursor is told so.
    assert_eq!(server.published("/channels/a?key=k", "", "y")["duplicate"], false);
    assert_eq!(server.kept("a"), [json!({"text": "y"})]);
    let since = format!("/channels/a?since={}", before["cursor"].as_str().unwrap());
    assert_eq!(server.get(&since).json()["gaps"][0]["channel"], "a");
}

#[test]
fn a_publication_is_for_one_channel_of_a_legal_name() {
    let server = Server::dev();
    for (channel, part) in [
        ("a,b", "2 channels"),
        ("a%2Cb", "2 channels"),
        ("a.*", "pattern"),
        ("%3E", "pattern"),
        ("a%2Fb", "'/'"),
        ("a..b", "empty segment"),
        ("%20", "' '"),
        ("", "empty"),
    ] {
        let target = format!("/channels/{channel}");
        server.request("POST", &target, "", "x").check_problem(400, "invalid_argument", part);
        let answer = server.request("DELETE", &target, "", "");
        answer.check_problem(400, "invalid_argument", part);
    }
    assert_eq!(server.published("/channels/%61.B-9_:~@", "", "x")["channel"], "a.B-9_:~@");
}

// ---- Many publications -----------------------------------------------------------------------

const NDJSON: &str = "Content-Type: application/x-ndjson\r\n";
const CHUNKED: &str = "Transfer-Encoding: chunked\r\n";

#[test]
fn each_line_of_ndjson_is_a_publication() {
    let server = Server::dev();
    let target = "/channels/a?end=true&event=tick";
    let results = server.request("POST", target, NDJSON, "{\"n\":1}\n\n\"two\"\r\n[3]").results();
    let expect = json!([[0, "a", false], [1, "a", false], [2, "a", false]]);
    assert_eq!(briefs(&results), expect);
    let kept = server.whole("a");
    assert_eq!(kept["ended"], json!(["a"]));
    for (index, result) in results.iter().enumerate() {
        assert_eq!(kept["messages"][index]["cursor"], result["cursor"]);
        assert_eq!(kept["messages"][index]["event"], "tick");
    }
    assert_eq!(kept["messages"][2]["data"], json!([3]));

    for (target, headers) in [("/channels/b?key=k", ""), ("/channels/b", "Idempotency-Key: k\r\n")]
    {
        let answer = server.request("POST", target, &format!("{NDJSON}{headers}"), "1");
        answer.check_problem(400, "invalid_argument", "key");
    }
    // Said to be one text, it is one.
    server.published("/channels/b?as=text", NDJSON, "1\n2");
    assert_eq!(server.kept("b"), [json!({"text": "1\n2"})]);
}

#[test]
fn lines_are_answered_as_they_are_done() {
    let server = Server::dev();
    let mut peer = server.connect();
    peer.send_head("POST", "/channels/a", &format!("{NDJSON}{CHUNKED}"));
    assert_eq!(peer.head().status, 200);
    for n in 0..3 {
        peer.send_chunk(&format!("{n}\n"));
        assert_eq!(brief(&peer.result()), json!([n, "a", false]));
        assert_eq!(server.kept("a").len(), n + 1);
    }
    // A line that is no JSON is the last result, and what follows is not read as one.
    peer.send_chunk("{]\n4\n");
    check_problem(&peer.result(), 400, "invalid_argument", "line 4");
    assert_eq!(peer.chunk(), None);
    assert_eq!(server.kept("a").len(), 3);
}

#[test]
fn many_channels_are_published_to_at_once() {
    let server = Server::dev();
    let body = r#"{"channel":"a","event":"e","data":{"n":1}}{"channel":"b","text":"x"}
        {"channel":"a","base64":"AAE=","type":"image/png","key":"k"}

        {"channel":"a","base64":"AAE=","type":"image/png","key":"k"}
        {"channel":"a","data":null,"end":true} {"channel":"a","data":1} {"channel":"b","end":true}
        {"channel":"b","x":1} {"channel":"*","data":1} [1]"#;
    // The type of the body says nothing: curl -d sends one unasked.
    let headers = "Content-Type: application/x-www-form-urlencoded\r\n";
    let results = server.request("POST", "/publish", headers, body).results();
    assert_eq!(
        briefs(&results),
        json!([
            [0, "a", false],
            [1, "b", false],
            [2, "a", false],
            [3, "a", true],
            [4, "a", false],
            [5, "ended"],
            [6, "b", false],
            [7, "invalid_argument"],
            [8, "invalid_argument"],
            [9, "invalid_argument"]
        ])
    );
    assert_eq!(results[2]["cursor"], results[3]["cursor"]);
    check_problem(&results[5], 409, "ended", "has ended");
    check_problem(&results[7], 400, "invalid_argument", "`x`");
    let png = json!({"base64": "AAE=", "type": "image/png"});
    let expect = [json!({"event": "e", "data": {"n": 1}}), png, json!({"data": null})];
    assert_eq!(server.kept("a"), expect);
    assert_eq!(server.kept("b"), [json!({"text": "x"})]);
}

#[test]
fn publications_are_answered_while_the_request_is_read() {
    let server = Server::dev();
    let mut peer = server.connect();
    peer.send_head("POST", "/publish", CHUNKED);
    assert_eq!(peer.head().status, 200);
    peer.send_chunk(r#"{"channel":"a","data":0}"#);
    assert_eq!(brief(&peer.result()), json!([0, "a", false]));
    // Cut within an entry, which is done when the rest of it has come.
    peer.send_chunk(r#" {"channel":"#);
    peer.send_chunk(r#""b","data":1}"#);
    assert_eq!(brief(&peer.result()), json!([1, "b", false]));
    assert_eq!(server.kept("b").len(), 1);
    peer.send("0\r\n\r\n");
    assert_eq!(peer.chunk(), None);
    // And the connection goes on.
    assert_eq!(peer.request("GET", "/healthz", "", "").status, 200);
}

#[test]
fn a_quiet_publisher_hears_problems_and_sums_alone() {
    let server = Server::dev();
    let body = r#"{"channel":"a","data":1,"key":"k"}{"channel":"a","data":1,"key":"k"}
        {"channel":"a"}{"channel":"b","data":2}"#;
    let results = server.request("POST", "/publish?quiet=1", "", body).results();
    let sums = json!({"published": 2, "duplicates": 1, "failed": 1});
    assert_eq!(briefs(&results), json!([[2, "invalid_argument"], sums]));
    let results = server.request("POST", "/channels/c?quiet=1", NDJSON, "1\n2\n").results();
    assert_eq!(briefs(&results), json!([{"published": 2, "duplicates": 0, "failed": 0}]));
    let answer = server.request("POST", "/publish?quiet=maybe", "", body);
    answer.check_problem(400, "invalid_argument", "quiet: ");
}

#[test]
fn a_syntax_error_is_the_last_result() {
    let server = Server::dev();
    for rest in [r#"{"channel":"a","data":}"#, "]", r#"{"channel":"a""#] {
        let body = format!("{{\"channel\":\"a\",\"data\":1}}\n{rest}");
        let results = server.request("POST", "/publish", "", body).results();
        assert_eq!(briefs(&results), json!([[0, "a", false], [1, "invalid_argument"]]));
        check_problem(&results[1], 400, "invalid_argument", "line 2");
    }
    assert_eq!(server.kept("a").len(), 3);
    assert_eq!(server.request("POST", "/publish", "", "").results(), [] as [Value; 0]);
}

#[test]
fn the_bound_is_an_entrys_and_not_the_streams() {
    let server = Server::start("bound", "[http]\nmax_body = 100\n", &["--dev"]);
    let entry =
        |bytes: usize| format!("{{\"channel\":\"a\",\"text\":\"{}\"}}\n", "x".repeat(bytes));
    let body = entry(60).repeat(50) + &entry(100) + &entry(10);
    let results = server.request("POST", "/publish", "", body).results();
    assert_eq!(results.len(), 52);
    check_problem(&results[50], 413, "too_large", "100 bytes");
    assert_eq!(brief(&results[51]), json!([51, "a", false]));
    assert_eq!(server.kept("a").len(), 51);
    let body = format!("1\n\"{}\"\n3\n", "x".repeat(100));
    let results = server.request("POST", "/channels/b", NDJSON, body).results();
    assert_eq!(briefs(&results), json!([[0, "b", false], [1, "too_large"], [2, "b", false]]));
}

#[test]
fn ten_thousand_publications_in_one_request() {
    let server = Server::dev();
    let mut body = String::new();
    for n in 0..10_000 {
        body += &format!("{{\"channel\":\"c{}\",\"data\":{n}}}\n", n % 7);
    }
    let mut peer = server.connect();
    let length = format!("Content-Length: {}\r\n", body.len());
    peer.send_head("POST", "/publish", &length);
    let mut sender = peer.stream.get_ref().try_clone().unwrap();
    let sending = thread::spawn(move || sender.write_all(body.as_bytes()).unwrap());
    let results = peer.answer("POST").results();
    sending.join().unwrap();
    assert_eq!(results.len(), 10_000);
    for (n, result) in results.iter().enumerate() {
        assert_eq!(brief(result), json!([n, format!("c{}", n % 7), false]));
    }
}

// ---- Channels --------------------------------------------------------------------------------

#[test]
fn channels_are_listed_in_pages_with_who_is_on_them() {
    let server = Server::dev();
    for channel in ["a.1", "a.2", "a.2", "a.3", "b"] {
        server.published(&format!("/channels/{channel}?as=text"), "", "12345");
    }
    let mut stream = server.connect();
    stream.send_head("GET", "/channels/a.2,quiet", "Accept: application/x-ndjson\r\n");
    assert_eq!(stream.head().status, 200);
    let mut long_poll = server.connect();
    long_poll.send_head("GET", "/channels/a.2?since=now&wait=60s", "");

    let began = Instant::now();
    let busy = json!({"ndjson": 1, "long-poll": 1});
    while server.get("/channels?prefix=a.2").json()["channels"][0]["subscribers"] != busy {
        assert!(began.elapsed() < SOON, "never both of them");
    }
    let answer = server.get("/channels");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let channel = |name, messages, subscribers| {
        let bytes = 5 * messages;
        json!({"channel": name, "subscribers": subscribers, "messages": messages, "bytes": bytes})
    };
    let all = [
        channel("a.1", 1, json!({})),
        channel("a.2", 2, busy),
        channel("a.3", 1, json!({})),
        channel("b", 1, json!({})),
        channel("quiet", 0, json!({"ndjson": 1})),
    ];
    assert_eq!(answer.json(), json!({"channels": all}));
    let page = |target| server.get(target).json();
    assert_eq!(page("/channels?prefix=a."), json!({"channels": all[..3]}));
    let expect = json!({"channels": all[..2], "next": "a.2"});
    assert_eq!(page("/channels?prefix=a.&limit=2"), expect);
    assert_eq!(page("/channels?prefix=a.&limit=2&after=a.2"), json!({"channels": [all[2]]}));
    assert_eq!(page("/channels?prefix=zzz"), json!({"channels": []}));
    for limit in ["0", "1001", "x", ""] {
        let answer = server.get(&format!("/channels?limit={limit}"));
        answer.check_problem(400, "invalid_argument", "limit: ");
    }
}

#[test]
fn presence_is_not_there_where_it_is_not_on() {
    let server = Server::dev();
    server.get("/channels/a/presence").check_problem(404, "not_found", "presence is not on");
}

// ---- Bounds ----------------------------------------------------------------------------------

#[test]
fn a_body_over_the_bound_is_refused_as_soon_as_that_is_known() {
    let server = Server::start("too-large", "[http]\nmax_body = 10\n", &["--dev"]);
    server.published("/channels/a", "", "0123456789");
    // By its announcement: nothing of it is asked for, or sent.
    let mut peer = server.connect();
    peer.send_head("POST", "/channels/a", "Content-Length: 11\r\nExpect: 100-continue\r\n");
    let answer = peer.answer("POST");
    answer.check_problem(413, "too_large", "10 bytes");
    assert_eq!(answer.header("connection"), Some("close"));
    // By its bytes: the rest is not waited for.
    let mut peer = server.connect();
    peer.send_head("POST", "/channels/a", CHUNKED);
    peer.send_chunk("01234");
    peer.send_chunk("567890");
    peer.answer("POST").check_problem(413, "too_large", "http.max_body");
    assert!(peer.is_closed());
    assert_eq!(server.kept("a").len(), 1);
    // Whoever waits to be asked, is.
    let mut peer = server.connect();
    peer.send_head("POST", "/channels/a", "Content-Length: 1\r\nExpect: 100-continue\r\n");
    assert_eq!(peer.head().status, 100);
    peer.send("x");
    assert_eq!(peer.answer("POST").status, 200);
}

#[test]
fn a_body_that_stops_is_given_up() {
    let server = Server::start("timeout", "[http]\nbody_timeout = \"200ms\"\n", &["--dev"]);
    let mut peer = server.connect();
    peer.send_head("POST", "/channels/a", "Content-Length: 10\r\n");
    peer.send("01234");
    let answer = peer.answer("POST");
    answer.check_problem(408, "invalid_argument", "0.2 s");
    assert_eq!(answer.header("connection"), Some("close"));
    assert!(peer.is_closed());
    let mut peer = server.connect();
    peer.send_head("POST", "/publish", CHUNKED);
    peer.send_chunk(r#"{"channel":"a","data":0}{"ch"#);
    assert_eq!(peer.head().status, 200);
    assert_eq!(brief(&peer.result()), json!([0, "a", false]));
    check_problem(&peer.result(), 408, "invalid_argument", "0.2 s");
    assert_eq!(peer.chunk(), None);
    assert!(peer.is_closed());
    assert_eq!(server.kept("a").len(), 1);
}

#[test]
fn long_urls_and_heads_are_refused() {
    let server = Server::dev();
    let url = format!("/channels/a?x={}", "x".repeat(8 << 10));
    server.request("POST", &url, "", "x").check_problem(414, "too_large", "8192 bytes");
    let head = format!("X-Long: {}\r\n", "x".repeat(17 << 10));
    server.request("POST", "/channels/a", &head, "x").check_problem(
        431,
        "too_large",
        "16384 bytes",
    );
}

// ---- Errors ----------------------------------------------------------------------------------

#[test]
fn what_is_not_there_is_not_found() {
    let server = Server::dev();
    for target in ["/", "/channel", "/channels/a/b", "/channels/a/presence/x", "/publish/x", "//"] {
        server.get(target).check_problem(404, "not_found", "");
    }
}

#[test]
fn a_wrong_method_is_told_the_right_ones() {
    let server = Server::dev();
    for (method, target, allow) in [
        ("PUT", "/channels/a", "GET, HEAD, POST, DELETE, OPTIONS"),
        ("POST", "/channels", "GET, HEAD, OPTIONS"),
        ("DELETE", "/channels/a/presence", "GET, HEAD, OPTIONS"),
        ("GET", "/publish", "POST, OPTIONS"),
        ("POST", "/healthz", "GET, HEAD, OPTIONS"),
        ("DELETE", "/readyz", "GET, HEAD, OPTIONS"),
    ] {
        let answer = server.request(method, target, "", "");
        answer.check_problem(405, "invalid_argument", method);
        assert_eq!(answer.header("allow"), Some(allow), "{target}");
    }
}

#[test]
fn an_instance_is_in_the_log_too() {
    let server =
        Server::start("log", "log = { format = \"json\", level = \"debug\" }\n", &["--dev"]);
    let whole = server.get("/nothing").json();
    let entry = server.request("POST", "/publish", "", "7").results()[0].clone();
    for problem in [whole, entry] {
        let instance = problem["instance"].as_str().unwrap();
        server.until_logged(instance);
    }
}

#[test]
fn without_dev_a_token_is_needed() {
    let open = "[[channel]]\nmatch = \"open.>\"\nsubscribe = \"anyone\"\npublish = \"anyone\"\n\
                [[channel]]\nmatch = \"shut\"\npublish = \"nobody\"\n";
    let server = Server::start("tokens", open, &[]);
    for (method, target, body) in [
        ("POST", "/channels/prices", "x"),
        ("GET", "/channels/prices/presence", ""),
        ("GET", "/channels", ""),
        ("DELETE", "/channels/open.a", ""),
        // Whoever may publish may not yet end.
        ("POST", "/channels/open.a?end=1", "x"),
    ] {
        let answer = server.request(method, target, "", body);
        answer.check_problem(401, "unauthenticated", "token");
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"), "{method} {target}");
    }
    server.request("POST", "/channels/shut", "", "x").check_problem(
        403,
        "permission_denied",
        "\"shut\"",
    );
    server.published("/channels/open.a", "", "x");
    let body = r#"{"channel":"open.a","data":1}{"channel":"prices","data":1}
        {"channel":"shut","data":1}{"channel":"open.a","end":true}"#;
    let results = server.request("POST", "/publish", "", body).results();
    assert_eq!(
        briefs(&results),
        json!([
            [0, "open.a", false],
            [1, "unauthenticated"],
            [2, "permission_denied"],
            [3, "unauthenticated"]
        ])
    );
    assert!(results[1]["detail"].as_str().unwrap().contains("\"prices\""));
    assert_eq!(server.kept("open.a").len(), 2);
}

// ---- Host, Origin and CORS -------------------------------------------------------------------

#[test]
fn a_request_has_one_well_formed_host() {
    let server = Server::dev();
    for (head, status) in [
        ("GET /healthz HTTP/1.1\r\n\r\n", 400),
        ("GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", 400),
        ("GET /healthz HTTP/1.1\r\nHost: user@localhost\r\n\r\n", 400),
        ("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", 200),
        ("GET /healthz HTTP/1.0\r\n\r\n", 200),
    ] {
        let mut peer = server.connect();
        peer.send(head);
        let answer = peer.answer("GET");
        assert_eq!(answer.status, status, "{head}: {}", answer.body);
    }
}

#[test]
fn dev_is_out_of_reach_of_web_pages_from_elsewhere() {
    let server = Server::dev();
    let rebound = "Host: evil.example\r\n";
    let foreign = "Origin: https://evil.example\r\n";
    for (method, target) in [
        ("GET", "/healthz"),
        ("GET", "/channels"),
        ("POST", "/channels/a"),
        ("POST", "/publish"),
        ("DELETE", "/channels/a"),
        ("OPTIONS", "/channels/a"),
        ("GET", "/nothing"),
    ] {
        for (headers, part) in [(rebound, "Host \"evil.example\""), (foreign, "Origin \"https")] {
            let answer = server.request(method, target, headers, "x");
            answer.check_problem(403, "permission_denied", part);
            assert!(answer.body.contains("--insecure"), "{}", answer.body);
            assert_eq!(answer.header("access-control-allow-origin"), None);
        }
    }
    assert!(server.kept("a").is_empty());
    let insecure = Server::start("insecure", "", &["--dev", "--insecure"]);
    let answer =
        insecure.request("POST", "/channels/a", &format!("Host: pi.lan\r\n{foreign}"), "x");
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
    assert_eq!(answer.header("access-control-allow-credentials"), None);
}

const EXPOSED: &str = "ETag, Link, Retry-After, RateLimit, RateLimit-Policy, Tidegate-Cursor, \
                       grpc-status, grpc-message, grpc-status-details-bin";

#[test]
fn an_allowed_page_may_read_answers_and_errors() {
    let config = "[http]\norigins = [\"https://app.example\"]\n[[channel]]\nmatch = \"open\"\n\
                  publish = \"anyone\"\n";
    let server = Server::start("origins", config, &[]);
    let own = format!("http://{}", server.address);
    for origin in ["https://app.example", &own] {
        for (target, status) in [("/channels/open", 200), ("/channels/a", 401), ("/nothing", 404)] {
            let answer = server.request("POST", target, &format!("Origin: {origin}\r\n"), "x");
            assert_eq!(answer.status, status, "{}", answer.body);
            assert_eq!(answer.header("access-control-allow-origin"), Some(origin));
            assert_eq!(answer.header("access-control-allow-credentials"), Some("true"));
            assert_eq!(answer.header("access-control-expose-headers"), Some(EXPOSED));
            assert_eq!(answer.header("vary"), Some("Origin"));
        }
    }
    let answer = server.request("POST", "/channels/open", "Origin: https://other.example\r\n", "x");
    answer.check_problem(403, "permission_denied", "http.origins");
    assert_eq!(server.request("POST", "/channels/open", "Origin: null\r\n", "x").status, 403);
}

#[test]
fn a_preflight_needs_no_token() {
    let config = "[http]\norigins = [\"https://app.example\"]\n";
    let server = Server::start("preflight", config, &[]);
    let ask = "Access-Control-Request-Method: POST\r\n\
               Access-Control-Request-Headers: idempotency-key\r\n";
    let answer = server.request(
        "OPTIONS",
        "/channels/a",
        &format!("Origin: https://app.example\r\n{ask}"),
        "",
    );
    assert_eq!(answer.status, 204);
    for (name, value) in [
        ("access-control-allow-origin", "https://app.example"),
        ("access-control-allow-credentials", "true"),
        ("access-control-allow-methods", "GET, HEAD, POST, DELETE, OPTIONS"),
        (
            "access-control-allow-headers",
            "Authorization, Content-Type, Idempotency-Key, If-None-Match, Last-Event-ID, \
             X-API-Key, Tidegate-Event, Tidegate-End, X-Grpc-Web, X-User-Agent, Grpc-Timeout",
        ),
        ("access-control-max-age", "7200"),
    ] {
        assert_eq!(answer.header(name), Some(value));
    }
    let foreign = format!("Origin: https://other.example\r\n{ask}");
    assert_eq!(server.request("OPTIONS", "/channels/a", &foreign, "").status, 403);
}

// ---- Health and the end ----------------------------------------------------------------------

#[test]
fn a_server_that_serves_is_alive_and_ready() {
    let server = Server::start("health", "[http]\nprefix = \"/gw\"\n", &[]);
    for target in ["/healthz", "/readyz"] {
        let answer = server.get(target);
        assert_eq!((answer.status, answer.body.as_str()), (200, "ok"));
        assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
        assert_eq!(server.request("HEAD", target, "", "").status, 200);
    }
}

#[test]
fn the_prefix_is_before_everything_else() {
    let server = Server::start("prefix", "[http]\nprefix = \"/gw\"\n", &["--dev"]);
    server.published("/gw/channels/a", "", "x");
    assert_eq!(
        server.request("POST", "/gw/publish", "", r#"{"channel":"a","data":1}"#).status,
        200
    );
    for target in ["/channels/a", "/gwchannels/a", "/publish"] {
        server.request("POST", target, "", "x").check_problem(404, "not_found", "");
    }
}

#[test]
fn a_publisher_is_told_when_the_server_goes() {
    let mut server = Server::dev();
    let mut peer = server.connect();
    peer.send_head("POST", "/publish", CHUNKED);
    peer.send_chunk(r#"{"channel":"a","data":0}"#);
    assert_eq!(peer.head().status, 200);
    assert_eq!(brief(&peer.result()), json!([0, "a", false]));
    let mut slow = server.connect();
    slow.send_head("POST", "/channels/a", "Content-Length: 5\r\nExpect: 100-continue\r\n");
    assert_eq!(slow.head().status, 100);

    server.terminate();
    check_problem(&peer.result(), 503, "unavailable", "shutting down");
    assert_eq!(peer.chunk(), None);
    // What comes after that is not taken, and says when to come again.
    slow.send("hello");
    let answer = slow.answer("POST");
    answer.check_problem(503, "unavailable", "shutting down");
    assert_eq!(answer.header("retry-after"), Some("1"));
    drop((peer, slow));
    assert!(server.wait().0.success());
}
