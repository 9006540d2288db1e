//! Polls and long-polls of the real server, sentence by sentence of CONTRACT 4.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long anything may take that should take no time.
const SOON: Duration = Duration::from_secs(20);

/// A server of this test's own; killed when it is dropped.
struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    fn start() -> Self {
        Self::start_with("default", "")
    }

    /// Starts one with a configuration of this name.
    fn start_with(name: &str, config: &str) -> Self {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("poll-{name}.toml"));
        fs::write(&path, config).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .args(["serve", "--dev", "--listen", "127.0.0.1:0", "--workers", "2", "--config"])
            .arg(&path)
            .env_clear()
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let address = lines.find_map(|line| {
            Some(line.split_once("listening on http://")?.1.trim().parse().unwrap())
        });
        // Read on, or the server would wait for us to.
        thread::spawn(move || lines.for_each(drop));
        Self { child, address: address.expect("it says where it listens") }
    }

    /// Sends a request whose answer is read later.
    fn send(&self, method: &str, target: &str, headers: &str, body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(3 * SOON)).unwrap();
        let length = match method {
            "POST" => format!("Content-Length: {}\r\n", body.len()),
            _ => String::new(),
        };
        let head = format!(
            "{method} {target} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{length}{headers}\r\n",
            self.address
        );
        stream.write_all((head + body).as_bytes()).unwrap();
        stream
    }

    fn request(&self, method: &str, target: &str, headers: &str, body: &str) -> Answer {
        Answer::read(self.send(method, target, headers, body))
    }

    fn get(&self, target: &str) -> Answer {
        self.request("GET", target, "", "")
    }

    /// Polls, and has 200.
    #[track_caller]
    fn poll(&self, target: &str) -> Value {
        let answer = self.get(target);
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json()
    }

    /// Publishes a text; its cursor.
    fn publish(&self, channel: &str, text: &str) -> String {
        let answer = self.request("POST", &format!("/channels/{channel}?as=text"), "", text);
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json()["cursor"].as_str().unwrap().to_owned()
    }

    /// Ends a channel; the end's cursor.
    fn end(&self, channel: &str) -> String {
        let answer = self.request("POST", &format!("/channels/{channel}?end=true"), "", "");
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json()["cursor"].as_str().unwrap().to_owned()
    }

    /// Begins a long-poll, and goes on once it waits.
    fn wait(&self, target: &str) -> TcpStream {
        let stream = self.send("GET", target, "", "");
        self.until_waiting(1);
        stream
    }

    /// Goes on once so many long-polls wait.
    #[track_caller]
    fn until_waiting(&self, count: usize) {
        let line = format!("tidegate_connections{{wire=\"long-poll\"}} {count}");
        let began = Instant::now();
        while !self.get("/metrics").body.lines().any(|it| it == line) {
            assert!(began.elapsed() < SOON, "never {line}");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have gone already.
        let _ = self.child.kill();
        self.child.wait().unwrap();
    }
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn read(mut stream: TcpStream) -> Self {
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Self { status, head: head.to_owned(), body: body.to_owned() }
    }

    #[track_caller]
    fn header(&self, name: &str) -> &str {
        let mut fields = self.head.lines().filter_map(|line| line.split_once(':'));
        let field = fields.find(|(it, _)| it.eq_ignore_ascii_case(name));
        field.map(|(_, value)| value.trim()).unwrap_or_else(|| panic!("no {name} in {}", self.head))
    }

    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    /// The target of the link to the next poll.
    #[track_caller]
    fn next(&self) -> String {
        let link = self.header("link").strip_prefix('<').unwrap();
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
    let server = Server::start();
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
    assert_eq!(answer.header("content-type"), "application/json");
    assert_eq!(answer.header("tidegate-cursor"), second);
    assert_eq!(
        answer.header("link"),
        format!("</channels/a?limit=7&since={second}>; rel=\"next\"")
    );
    assert_eq!(answer.header("cache-control"), "private, no-cache");
    // The wires differ by one, and what a page may read by the other.
    let head = answer.head.to_ascii_lowercase();
    let vary: String = head.lines().filter_map(|it| it.strip_prefix("vary:")).collect();
    assert!(vary.contains("accept") && vary.contains("origin"), "{head}");

    let head = server.request("HEAD", "/channels/a?limit=7", "", "");
    assert_eq!((head.status, &*head.body), (200, ""));
    for name in ["content-type", "content-length", "link", "tidegate-cursor", "etag", "vary"] {
        assert_eq!(head.header(name), answer.header(name), "{name}");
    }
    assert_eq!(head.header("content-length"), answer.body.len().to_string());
}

#[test]
fn a_channel_that_does_not_exist_has_a_cursor_to_go_on_from() {
    let server = Server::start();
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
    let server = Server::start();
    let one = server.publish("a", "one");
    server.publish("b", "other");
    check_nothing(&server.poll(&format!("/channels/a?since={one}")), &one);
}

#[test]
fn a_limit_is_over_all_channels_and_what_it_cuts_off_comes_with_the_next_poll() {
    let server = Server::start();
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
        assert_eq!(answer.header("tidegate-cursor"), cursor(&poll));
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
    let server = Server::start();
    for n in 0..20 {
        server.publish(["a", "b"][n % 2], &n.to_string());
    }
    let poll = server.poll("/channels/b,a");
    let messages = poll["messages"].as_array().unwrap();
    assert_eq!(messages.len(), 20);
    let keys: Vec<_> = messages
        .iter()
        .map(|it| (it["time"].as_str().unwrap(), it["channel"] == "a", it["cursor"].as_str()))
        .collect();
    assert!(keys.is_sorted(), "by time, then in the channels' order: {keys:?}");
}

#[test]
fn the_limit_is_100_by_default_and_1000_at_most() {
    let server = Server::start();
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
    let server = Server::start();
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
    let server = Server::start();
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
    let server = Server::start();
    let one = server.publish("a", "one");
    let answer = server.get("/channels/a");
    let tag = answer.header("etag").to_owned();
    assert!(tag.starts_with('"') && tag.ends_with('"'), "{tag} is strong");
    for header in [tag.clone(), format!("\"x\", W/{tag}"), "*".to_owned()] {
        let header = format!("If-None-Match: {header}\r\n");
        let same = server.request("GET", "/channels/a", &header, "");
        assert_eq!((same.status, &*same.body), (304, ""));
        for name in ["etag", "cache-control", "vary", "tidegate-cursor"] {
            assert_eq!(same.header(name), answer.header(name), "{name}");
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
    let server = Server::start_with("gap", config);
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
    let server = Server::start();
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
    let server = Server::start();
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
    let server = Server::start();
    let mut target = "/channels/a?wait=60s".to_owned();
    server.publish("a", "before: the default is now");
    for _ in 0..3 {
        let waiting = server.wait(&target);
        let two = server.publish("a", "two");
        let answer = Answer::read(waiting);
        let poll = answer.json();
        assert_eq!((texts(&poll), cursor(&poll)), (vec!["two"], &*two));
        target = answer.next();
        assert_eq!(target, format!("/channels/a?wait=60s&since={two}"));
        server.until_waiting(0);
    }
}

#[test]
fn a_long_poll_of_several_channels_moves_on_in_those_that_had_something() {
    let server = Server::start();
    let (a, b) = (server.publish("a", "one"), server.publish("b", "two"));
    let waiting = server.wait(&format!("/channels/a,b?since={a}.{b}&wait=60s"));
    let three = server.publish("b", "three");
    let poll = Answer::read(waiting).json();
    assert_eq!((texts(&poll), cursor(&poll)), (vec!["three"], &*format!("{a}.{three}")));
}

#[test]
fn a_long_poll_has_an_empty_list_at_its_deadline() {
    let server = Server::start();
    let one = server.publish("a", "one");
    let began = Instant::now();
    let answer = server.get(&format!("/channels/a?since={one}&wait=250ms"));
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(250) && took < SOON, "{took:?}");
    assert_eq!(answer.status, 200);
    check_nothing(&answer.json(), &one);
    // The same request is answered the same.
    let header = format!("If-None-Match: {}\r\n", answer.header("etag"));
    let target = format!("/channels/a?since={one}&wait=1ms");
    assert_eq!(server.request("GET", &target, &header, "").status, 304);
}

#[test]
fn a_long_poll_answers_at_once_with_an_end_and_when_all_channels_have_ended() {
    let server = Server::start();
    let one = server.publish("a", "one");
    let waiting = server.wait(&format!("/channels/a?since={one}&wait=60s"));
    let end = server.end("a");
    let poll = Answer::read(waiting).json();
    assert_eq!((texts(&poll), strings(&poll, "ended"), cursor(&poll)), (vec![], vec!["a"], &*end));
    // Of two channels one has ended before its position: the other is waited for.
    let waiting = server.wait(&format!("/channels/a,b?since={end}&wait=60s"));
    let two = server.publish("b", "two");
    let poll = Answer::read(waiting).json();
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
    let server = Server::start();
    let one = server.publish("a", "one");
    let waiting = server.wait(&format!("/channels/a?since={one}&wait=60s"));
    assert_eq!(server.request("DELETE", "/channels/a", "", "").status, 204);
    let poll = Answer::read(waiting).json();
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
    let server = Server::start_with("live", config);
    let mut since = "now".to_owned();
    for text in ["one", "two", "three"] {
        let waiting = server.wait(&format!("/channels/live.a?since={since}&wait=60s"));
        server.publish("live.a", text);
        let poll = Answer::read(waiting).json();
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
    let server = Server::start();
    let waiting = server.wait("/channels/a?wait=60s");
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
    let server = Server::start_with("order", config);
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
    let mut server = Server::start();
    let one = server.publish("a", "one");
    let waiting = server.wait(&format!("/channels/a?since={one}&wait=60s"));
    let began = Instant::now();
    let pid = server.child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    let answer = Answer::read(waiting);
    assert_eq!(answer.status, 200);
    check_nothing(&answer.json(), &one);
    assert!(server.child.wait().unwrap().success());
    assert!(began.elapsed() < SOON);
}
