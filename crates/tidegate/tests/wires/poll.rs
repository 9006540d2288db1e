//! Polls and long-polls of the real server, sentence by sentence of CONTRACT 4.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::common::{Answer, Peer, SOON, Server};

impl Server {
    /// Polls, and has 200.
    #[track_caller]
    fn poll(&self, target: &str) -> Value {
        let answer = self.get(target);
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json()
    }

    /// Begins a long-poll, and goes on once it waits.
    #[track_caller]
    fn wait_at(&self, target: &str) -> Peer {
        let mut peer = self.connect();
        peer.send_head("GET", target, "");
        self.until_waiting(1);
        peer
    }

    /// Goes on once so many long-polls wait.
    #[track_caller]
    fn until_waiting(&self, count: u64) {
        self.until("tidegate_connections{wire=\"long-poll\"}", |it| it == count);
    }
}

impl Answer {
    /// The target of the link to the next poll.
    #[track_caller]
    fn next(&self) -> String {
        let link = self.field("link").strip_prefix('<').unwrap();
        link.strip_suffix(">; rel=\"next\"").unwrap().to_owned()
    }
}

/// The texts of a poll's messages.
#[track_caller]
fn texts(poll: &Value) -> Vec<&str> {
    poll["messages"].as_array().unwrap().iter().map(|it| it["text"].as_str().unwrap()).collect()
}

/// Its cursor.
#[track_caller]
fn cursor(poll: &Value) -> &str {
    poll["cursor"].as_str().unwrap()
}

/// A list of strings.
#[track_caller]
fn strings<'a>(poll: &'a Value, name: &str) -> Vec<&'a str> {
    poll[name].as_array().unwrap().iter().map(|it| it.as_str().unwrap()).collect()
}

/// Checks that nothing came.
#[track_caller]
fn check_nothing(poll: &Value, at: &str) {
    assert_eq!(texts(poll), [""; 0]);
    assert_eq!((cursor(poll), &poll["gaps"]), (at, &Value::Array(Vec::new())));
}

#[test]
fn a_poll_has_its_body_and_its_headers() {
    let server = Server::dev();
    server.publish("a", "one");
    let second = server.publish("a", "two");
    let answer = server.get("/channels/a?limit=7");
    assert_eq!(answer.status, 200);
    let poll = answer.json();
    assert_eq!(poll.as_object().unwrap().len(), 4);
    assert_eq!(texts(&poll), ["one", "two"], "the default is from the start");
    assert_eq!(poll["messages"][1]["cursor"], *second);
    assert_eq!((cursor(&poll), strings(&poll, "ended")), (&*second, vec![]));
    assert_eq!(poll["gaps"], Value::Array(Vec::new()));
    assert_eq!(answer.field("content-type"), "application/json");
    assert_eq!(answer.field("tidegate-cursor"), second);
    assert_eq!(answer.field("link"), format!("</channels/a?limit=7&since={second}>; rel=\"next\""));
    assert_eq!(answer.field("cache-control"), "private, no-cache");
    // The wires differ by one, and what a page may read by the other.
    let vary = answer.fields("vary").collect::<String>().to_ascii_lowercase();
    assert!(vary.contains("accept") && vary.contains("origin"), "{vary}");

    let head = server.request("HEAD", "/channels/a?limit=7", "", "");
    assert_eq!((head.status, &*head.body), (200, ""));
    for name in ["content-type", "content-length", "link", "tidegate-cursor", "etag", "vary"] {
        assert_eq!(head.field(name), answer.field(name), "{name}");
    }
    assert_eq!(head.field("content-length"), answer.body.len().to_string());
}

#[test]
fn a_channel_that_does_not_exist_has_a_cursor_to_go_on_from() {
    let server = Server::dev();
    let poll = server.poll("/channels/none");
    assert_eq!(texts(&poll), [""; 0]);
    let now = cursor(&server.poll("/channels/none?since=now")).to_owned();
    server.publish("none", "one");
    for since in [cursor(&poll), &now] {
        assert_eq!(texts(&server.poll(&format!("/channels/none?since={since}"))), ["one"]);
    }
}

#[test]
fn a_poll_without_news_answers_the_cursor_that_it_was_asked() {
    let server = Server::dev();
    let one = server.publish("a", "one");
    server.publish("b", "other");
    check_nothing(&server.poll(&format!("/channels/a?since={one}")), &one);
}

#[test]
fn a_limit_is_over_all_channels_and_what_it_cuts_off_comes_with_the_next_poll() {
    let server = Server::dev();
    let mut expect = Vec::new();
    for n in 0..30 {
        let text = n.to_string();
        server.publish(["a", "b", "c"][n % 3], &text);
        expect.push(text);
    }
    let mut target = "/channels/b,c,a?limit=7&since=start".to_owned();
    let mut found = Vec::new();
    for polls in 0.. {
        let answer = server.get(&target);
        let poll = answer.json();
        let texts = texts(&poll);
        assert_eq!(texts.len(), [7, 7, 7, 7, 2, 0][polls]);
        found.extend(texts.into_iter().map(str::to_owned));
        assert_eq!(answer.field("tidegate-cursor"), cursor(&poll));
        assert_eq!(cursor(&poll).split('.').count(), 3);
        if poll["messages"].as_array().unwrap().is_empty() {
            assert_eq!(target, answer.next(), "and the cursor stays");
            break;
        }
        target = answer.next();
    }
    // One after another, so rarely of one millisecond; and then the channels' order decides.
    for channel in 0..3 {
        let of = |it: &&String| it.parse::<usize>().unwrap() % 3 == channel;
        assert!(found.iter().filter(of).eq(expect.iter().filter(of)), "{found:?}");
    }
    found.sort_by_key(|it| it.parse::<usize>().unwrap());
    assert_eq!(found, expect);
}

#[test]
fn messages_of_several_channels_come_oldest_first() {
    let server = Server::dev();
    for n in 0..20 {
        server.publish(["a", "b"][n % 2], &n.to_string());
    }
    let poll = server.poll("/channels/b,a");
    let messages = poll["messages"].as_array().unwrap();
    let texts: Vec<_> = messages.iter().map(|it| it["text"].as_str().unwrap()).collect();
    let expect: Vec<_> = (0..20).map(|n| n.to_string()).collect();
    assert_eq!(texts, expect);
}

#[test]
fn the_limit_is_100_by_default_and_1000_at_most() {
    let server = Server::dev();
    let lines: String =
        (0..1001).map(|n| format!("{{\"channel\":\"a\",\"text\":\"{n}\"}}\n")).collect();
    assert_eq!(server.request("POST", "/publish?quiet=1", "", &lines).status, 200);
    assert_eq!(texts(&server.poll("/channels/a")).len(), 100);
    assert_eq!(texts(&server.poll("/channels/a?limit=1000")).len(), 1000);
    for limit in ["0", "1001", "x"] {
        let answer = server.get(&format!("/channels/a?limit={limit}"));
        assert_eq!(
            (answer.status, answer.json()["code"].as_str()),
            (400, Some("invalid_argument"))
        );
    }
}

#[test]
fn last_is_per_channel() {
    let server = Server::dev();
    for n in 0..5 {
        server.publish("a", &format!("a{n}"));
        server.publish("b", &format!("b{n}"));
    }
    let poll = server.poll("/channels/a,b?last=2");
    let mut found = texts(&poll);
    found.sort_unstable();
    assert_eq!(found, ["a3", "a4", "b3", "b4"]);
    assert_eq!(texts(&server.poll("/channels/a?last=3&limit=1")), ["a2"]);
    // What the limit cut off is still the newest so many.
    let answer = server.get("/channels/a,b?last=2&limit=1");
    let rest = server.poll(&answer.next().replace("limit=1", "limit=9"));
    let first = answer.json();
    let mut both = [texts(&first), texts(&rest)].concat();
    both.sort_unstable();
    assert_eq!(both, ["a3", "a4", "b3", "b4"]);
}

#[test]
fn before_pages_backwards() {
    let server = Server::dev();
    let cursors: Vec<_> = (0..5).map(|n| server.publish("a", &n.to_string())).collect();
    let answer = server.get(&format!("/channels/a?before={}&limit=3", cursors[4]));
    let poll = answer.json();
    assert_eq!((texts(&poll), cursor(&poll)), (vec!["1", "2", "3"], &*cursors[1]));
    let next = answer.next();
    assert_eq!(next, format!("/channels/a?limit=3&before={}", cursors[1]));
    let poll = server.poll(&next);
    assert_eq!((texts(&poll), cursor(&poll)), (vec!["0"], &*cursors[0]));
    check_nothing(&server.poll(&format!("/channels/a?before={}", cursors[0])), &cursors[0]);
    assert_eq!(server.get(&format!("/channels/a,b?before={}", cursors[0])).status, 400);
    // From the end of a channel that has ended: the end is no message.
    let end = server.end("a");
    let after = cursor(&server.poll("/channels/a?since=now")).to_owned();
    for before in [end, after] {
        let poll = server.poll(&format!("/channels/a?before={before}&limit=2"));
        assert_eq!((texts(&poll), cursor(&poll)), (vec!["3", "4"], &*cursors[3]));
        assert_eq!(strings(&poll, "ended"), [""; 0]);
    }
}

#[test]
fn an_etag_validates_and_never_positions() {
    let server = Server::dev();
    let one = server.publish("a", "one");
    let answer = server.get("/channels/a");
    let tag = answer.field("etag").to_owned();
    assert!(tag.starts_with('"') && tag.ends_with('"'), "{tag} is strong");
    for header in [tag.clone(), format!("\"x\", W/{tag}"), "*".to_owned()] {
        let header = format!("If-None-Match: {header}\r\n");
        let same = server.request("GET", "/channels/a", &header, "");
        assert_eq!((same.status, &*same.body), (304, ""));
        for name in ["etag", "cache-control", "vary", "tidegate-cursor"] {
            assert_eq!(same.field(name), answer.field(name), "{name}");
        }
    }
    let header = format!("If-None-Match: {tag}\r\n");
    assert_eq!(server.request("HEAD", "/channels/a", &header, "").status, 304);
    // Another request has another answer, and so has the same one after a publication: all of it.
    let other = server.request("GET", &format!("/channels/a?since={one}"), &header, "");
    assert_eq!((other.status, texts(&other.json())), (200, vec![]));
    server.publish("a", "two");
    let more = server.request("GET", "/channels/a", &header, "");
    assert_eq!((more.status, texts(&more.json())), (200, vec!["one", "two"]));
}

#[test]
fn what_expired_is_told_as_a_gap_that_resumes_at_the_floor() {
    let config = "[[channel]]\nmatch = \"short\"\nlog = { messages = 2 }\n";
    let server = Server::start("gap", config, &["--dev"]);
    let cursors: Vec<_> = (0..5).map(|n| server.publish("short", &n.to_string())).collect();
    let target = format!("/channels/short?since={}", cursors[0]);
    for target in [target.clone(), format!("{target}&wait=60s")] {
        let poll = server.poll(&target);
        let gap = serde_json::json!({
            "channel": "short", "requested": cursors[0], "resumed": cursors[2], "reason": "expired",
        });
        assert_eq!(poll["gaps"], Value::Array(vec![gap]));
        assert_eq!((texts(&poll), cursor(&poll)), (vec!["3", "4"], &*cursors[4]));
    }
    // A gap alone moves the cursor to where it resumes.
    server.request("DELETE", "/channels/short", "", "");
    let poll = server.poll(&target);
    assert_eq!(
        (texts(&poll), cursor(&poll)),
        (vec![], poll["gaps"][0]["resumed"].as_str().unwrap())
    );
    check_nothing(&server.poll(&format!("/channels/short?since={}", cursor(&poll))), cursor(&poll));
}

#[test]
fn a_channel_is_ended_where_its_end_lies_behind_the_cursor() {
    let server = Server::dev();
    let one = server.publish("a", "one");
    server.publish("a", "two");
    let end = server.end("a");
    let poll = server.poll("/channels/a?limit=1");
    assert_eq!((cursor(&poll), strings(&poll, "ended")), (&*one, vec![]));
    let poll = server.poll("/channels/a,b?limit=2&since=start");
    assert_eq!((texts(&poll), strings(&poll, "ended")), (vec!["one", "two"], vec!["a"]));
    assert!(cursor(&poll).starts_with(&end));
    // And to whoever asks behind it, again.
    let poll = server.poll(&format!("/channels/a?since={end}"));
    check_nothing(&poll, &end);
    assert_eq!(strings(&poll, "ended"), ["a"]);
}

#[test]
fn a_long_poll_answers_at_once_with_messages() {
    let server = Server::dev();
    let one = server.publish("a", "one");
    server.publish("a", "two");
    let began = Instant::now();
    let poll = server.poll(&format!("/channels/a?since={one}&wait=60s"));
    assert_eq!(texts(&poll), ["two"]);
    assert_eq!(texts(&server.poll("/channels/a?last=1&wait=60s")), ["two"]);
    assert_eq!(server.request("HEAD", "/channels/a?wait=60s", "", "").status, 200);
    assert!(began.elapsed() < SOON);
    assert_eq!(server.get("/channels/a?wait=61s").status, 400);
}

#[test]
fn a_long_poll_waits_for_the_first_delivery() {
    let server = Server::dev();
    let mut target = "/channels/a?wait=60s".to_owned();
    server.publish("a", "before: the default is now");
    for _ in 0..3 {
        let mut waiting = server.wait_at(&target);
        let two = server.publish("a", "two");
        let answer = waiting.answer("GET");
        let poll = answer.json();
        assert_eq!((texts(&poll), cursor(&poll)), (vec!["two"], &*two));
        target = answer.next();
        assert_eq!(target, format!("/channels/a?wait=60s&since={two}"));
        server.until_waiting(0);
    }
}

#[test]
fn a_long_poll_of_several_channels_moves_on_in_those_that_had_something() {
    let server = Server::dev();
    let (a, b) = (server.publish("a", "one"), server.publish("b", "two"));
    let mut waiting = server.wait_at(&format!("/channels/a,b?since={a}.{b}&wait=60s"));
    let three = server.publish("b", "three");
    let poll = waiting.answer("GET").json();
    assert_eq!((texts(&poll), cursor(&poll)), (vec!["three"], &*format!("{a}.{three}")));
}

#[test]
fn a_long_poll_has_an_empty_list_at_its_deadline() {
    let server = Server::dev();
    let one = server.publish("a", "one");
    let began = Instant::now();
    let answer = server.get(&format!("/channels/a?since={one}&wait=250ms"));
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(250) && took < SOON, "{took:?}");
    assert_eq!(answer.status, 200);
    check_nothing(&answer.json(), &one);
    // The same request is answered the same.
    let header = format!("If-None-Match: {}\r\n", answer.field("etag"));
    let target = format!("/channels/a?since={one}&wait=1ms");
    assert_eq!(server.request("GET", &target, &header, "").status, 304);
}

#[test]
fn a_long_poll_answers_at_once_with_an_end_and_when_all_channels_have_ended() {
    let server = Server::dev();
    let one = server.publish("a", "one");
    let mut waiting = server.wait_at(&format!("/channels/a?since={one}&wait=60s"));
    let end = server.end("a");
    let poll = waiting.answer("GET").json();
    assert_eq!((texts(&poll), strings(&poll, "ended"), cursor(&poll)), (vec![], vec!["a"], &*end));
    // Of two channels one has ended before its position: the other is waited for.
    let mut waiting = server.wait_at(&format!("/channels/a,b?since={end}&wait=60s"));
    let two = server.publish("b", "two");
    let poll = waiting.answer("GET").json();
    assert_eq!((texts(&poll), strings(&poll, "ended")), (vec!["two"], vec!["a"]));
    let end_of_b = server.end("b");
    let began = Instant::now();
    for (since, ended) in [
        (one, "a"),
        (end.clone(), "a"),
        ("now".to_owned(), "a"),
        (format!("{end}.{two}"), "a b"),
        (format!("{end}.{end_of_b}"), "a b"),
    ] {
        let channels = ended.replace(' ', ",");
        let poll = server.poll(&format!("/channels/{channels}?since={since}&wait=60s"));
        assert_eq!((texts(&poll), strings(&poll, "ended").join(" ")), (vec![], ended.to_owned()));
    }
    assert!(began.elapsed() < SOON);
}

#[test]
fn a_long_poll_is_told_a_gap_at_once() {
    let server = Server::dev();
    let one = server.publish("a", "one");
    let mut waiting = server.wait_at(&format!("/channels/a?since={one}&wait=60s"));
    assert_eq!(server.request("DELETE", "/channels/a", "", "").status, 204);
    let poll = waiting.answer("GET").json();
    let gap = &poll["gaps"][0];
    assert_eq!((&gap["reason"], &gap["requested"]), (&"dropped".into(), &(*one).into()));
    assert_eq!((texts(&poll), cursor(&poll)), (vec![], gap["resumed"].as_str().unwrap()));
    // From there nothing is missing.
    server.publish("a", "two");
    let poll = server.poll(&format!("/channels/a?since={}&wait=60s", cursor(&poll)));
    assert_eq!((texts(&poll), &poll["gaps"]), (vec!["two"], &Value::Array(Vec::new())));
}

#[test]
fn a_channel_that_keeps_nothing_can_be_waited_for() {
    let config = "[[channel]]\nmatch = \"live.*\"\nlog = { messages = 0 }\n";
    let server = Server::start("live", config, &["--dev"]);
    let mut since = "now".to_owned();
    for text in ["one", "two", "three"] {
        let mut waiting = server.wait_at(&format!("/channels/live.a?since={since}&wait=60s"));
        server.publish("live.a", text);
        let poll = waiting.answer("GET").json();
        assert_eq!((texts(&poll), &poll["gaps"]), (vec![text], &Value::Array(Vec::new())));
        since = cursor(&poll).to_owned();
        server.until_waiting(0);
    }
    // What came while nobody waited is told.
    server.publish("live.a", "lost");
    let poll = server.poll(&format!("/channels/live.a?since={since}&wait=60s"));
    assert_eq!((texts(&poll), &poll["gaps"][0]["reason"]), (vec![], &"expired".into()));
}

#[test]
fn a_client_that_leaves_waits_no_longer() {
    let server = Server::dev();
    let waiting = server.wait_at("/channels/a?wait=60s");
    let count = |server: &Server| server.poll("/channels?prefix=a")["channels"].clone();
    assert_eq!(count(&server)[0]["subscribers"]["long-poll"], 1);
    drop(waiting);
    server.until_waiting(0);
    assert_eq!(count(&server), Value::Array(Vec::new()), "and nobody watches the channel");
}

#[test]
fn thousands_of_publications_are_each_polled_once_and_in_order() {
    const COUNT: usize = 3000;
    let config = "[[channel]]\nmatch = \">\"\nlog = { messages = 10_000 }\n";
    let server = Server::start("order", config, &["--dev"]);
    thread::scope(|scope| {
        let publisher = scope.spawn(|| {
            let mut stream = TcpStream::connect(server.address).unwrap();
            for n in 0..COUNT {
                let body = n.to_string();
                let channel = ["a", "b"][n % 2];
                write!(
                    stream,
                    "POST /channels/{channel}?as=text HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\
                     \r\n\r\n{body}",
                    server.address,
                    body.len()
                )
                .unwrap();
                if n % 50 == 49 {
                    // Not too far ahead: what was answered is read.
                    let mut buffer = [0; 64 << 10];
                    assert!(stream.read(&mut buffer).unwrap() > 0);
                }
            }
            stream
        });
        let mut target = "/channels/a,b?since=start&limit=7&wait=60s".to_owned();
        let mut found: [Vec<usize>; 2] = Default::default();
        while found.iter().map(Vec::len).sum::<usize>() < COUNT {
            let answer = server.get(&target);
            let poll = answer.json();
            assert_eq!(poll["gaps"], Value::Array(Vec::new()));
            for n in texts(&poll).into_iter().map(|it| it.parse::<usize>().unwrap()) {
                found[n % 2].push(n);
            }
            target = answer.next();
        }
        for (channel, found) in found.iter().enumerate() {
            assert!(found.iter().copied().eq((channel..COUNT).step_by(2)));
        }
        drop(publisher.join().unwrap());
    });
}

#[cfg(unix)]
#[test]
fn draining_answers_who_waits_so_that_they_go_elsewhere() {
    let mut server = Server::dev();
    let one = server.publish("a", "one");
    let mut waiting = server.wait_at(&format!("/channels/a?since={one}&wait=60s"));
    let began = Instant::now();
    server.terminate();
    let answer = waiting.answer("GET");
    assert_eq!(answer.status, 200);
    check_nothing(&answer.json(), &one);
    assert!(server.wait().0.success());
    assert!(began.elapsed() < SOON);
}
