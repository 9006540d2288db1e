//! Servers, and the peers that talk to them over plain sockets.

use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::Value;
use tidegate_wire::sse;
use tidegate_wire::websocket::handshake::{ClientHandshake, ClientRequest};
use tidegate_wire::websocket::{
    Decoder, DeflateOffer, Event, InflaterPool, Kind, Limits, Role, encode,
};

use super::process::listening;

/// How long anything may take that should take no time.
pub(crate) const SOON: Duration = Duration::from_secs(30);

pub(crate) const SSE: &str = "Accept: text/event-stream\r\n";
pub(crate) const NDJSON: &str = "Accept: application/x-ndjson\r\n";

/// What clients mask their frames with.
pub(crate) const MASK: [u8; 4] = [0x12, 0x34, 0x56, 0x78];

/// A server of a test's own; ended when it is dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
    /// What it logged so far, and who reads that.
    log: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn dev() -> Self {
        Self::start("default", "", &["--dev"])
    }

    /// Starts one with a configuration of this name, which no other has.
    pub(crate) fn start(name: &str, config: &str, args: &[&str]) -> Self {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("wires-{name}.toml"));
        fs::write(&path, config).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command.args(["serve", "--listen", "127.0.0.1:0", "--workers", "2", "--config"]);
        command.arg(&path).args(args);
        if !args.contains(&"--dev") {
            // With it, metrics are on the main listener.
            command.args(["--admin", "off"]);
        }
        let (child, address, lines) = listening(&mut command);
        // Read on, or the server would wait for us to.
        let log = Arc::new(Mutex::new(String::new()));
        let kept = Arc::clone(&log);
        let reader = thread::spawn(move || {
            lines.for_each(|line| *kept.lock().unwrap() += &(line + "\n"));
        });
        Self { child, address, log, reader: Some(reader) }
    }

    /// A connection whose reads fail after [`SOON`].
    pub(crate) fn connect(&self) -> Peer {
        Peer::new(TcpStream::connect(self.address).unwrap(), self.address.to_string())
    }

    /// A connection whose kernel buffers little of what is not read.
    pub(crate) fn connect_narrow(&self) -> Peer {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(16 << 10).unwrap();
        socket.connect(&self.address.into()).unwrap();
        Peer::new(socket.into(), self.address.to_string())
    }

    /// One request on a connection of its own.
    pub(crate) fn request(
        &self,
        method: &str,
        target: &str,
        headers: &str,
        body: impl AsRef<[u8]>,
    ) -> Answer {
        self.connect().request(method, target, headers, body)
    }

    pub(crate) fn get(&self, target: &str) -> Answer {
        self.request("GET", target, "", "")
    }

    /// Publishes; the cursor.
    #[track_caller]
    pub(crate) fn post(&self, target: &str, headers: &str, body: &str) -> String {
        let answer = self.request("POST", target, headers, body);
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json()["cursor"].as_str().unwrap().to_owned()
    }

    /// Publishes a text; the cursor.
    #[track_caller]
    pub(crate) fn publish(&self, channel: &str, text: &str) -> String {
        self.post(&format!("/channels/{channel}?as=text"), "", text)
    }

    /// Ends a channel, and has the cursor of its end.
    #[track_caller]
    pub(crate) fn end(&self, channel: &str) -> String {
        self.post(&format!("/channels/{channel}?end=true"), "", "")
    }

    #[track_caller]
    pub(crate) fn delete(&self, channel: &str) {
        let target = format!("/channels/{channel}");
        assert_eq!(self.request("DELETE", &target, "", "").status, 204);
    }

    /// Where `now` is.
    #[track_caller]
    pub(crate) fn now(&self, channels: &str) -> String {
        let poll = self.get(&format!("/channels/{channels}?since=now")).json();
        poll["cursor"].as_str().unwrap().to_owned()
    }

    /// Opens a stream; its head was checked to be that of one.
    #[track_caller]
    pub(crate) fn open(&self, target: &str, headers: &str) -> (Answer, Body) {
        self.open_on(self.connect(), target, headers)
    }

    #[track_caller]
    pub(crate) fn open_on(&self, mut peer: Peer, target: &str, headers: &str) -> (Answer, Body) {
        peer.send_request("GET", target, headers, "");
        let head = peer.head();
        if head.status != 200 {
            let body = peer.body(&head);
            panic!("{} {body}", head.status);
        }
        let is_chunked = head.header("transfer-encoding") == Some("chunked");
        (head, Body { peer, is_chunked, bytes: VecDeque::new(), end: None })
    }

    #[track_caller]
    pub(crate) fn sse(&self, target: &str, headers: &str) -> Sse {
        Sse::new(self.open(target, &format!("{SSE}{headers}")).1)
    }

    #[track_caller]
    pub(crate) fn ndjson(&self, target: &str) -> Ndjson {
        Ndjson(self.open(target, NDJSON).1)
    }

    #[track_caller]
    pub(crate) fn ws(&self, target: &str) -> Ws {
        self.ws_with(self.connect(), target, None, &[])
    }

    #[track_caller]
    pub(crate) fn ws_with(
        &self,
        peer: Peer,
        target: &str,
        deflate: Option<DeflateOffer>,
        headers: &[(&str, &str)],
    ) -> Ws {
        let host = self.address.to_string();
        let request = ClientRequest {
            host: &host,
            target,
            protocols: &[],
            deflate,
            headers,
            nonce: *b"0123456789abcdef",
        };
        Ws::open(peer.stream.into_inner(), &request)
    }

    /// An enveloped connection; its welcome was taken.
    #[track_caller]
    pub(crate) fn enveloped(&self, target: &str) -> Ws {
        let mut ws = self.ws_offering(self.connect(), target, &["tidegate.v1.json"], None);
        assert_eq!(ws.header("sec-websocket-protocol"), Some("tidegate.v1.json"));
        let welcome = ws.json();
        assert_eq!(welcome["welcome"]["ping"], 25, "{welcome}");
        ws
    }

    /// A WebSocket that offers subprotocols.
    #[track_caller]
    pub(crate) fn ws_offering(
        &self,
        peer: Peer,
        target: &str,
        protocols: &[&str],
        deflate: Option<DeflateOffer>,
    ) -> Ws {
        let host = self.address.to_string();
        let nonce = *b"0123456789abcdef";
        let request =
            ClientRequest { host: &host, target, protocols, deflate, headers: &[], nonce };
        Ws::open(peer.stream.into_inner(), &request)
    }

    /// A count of `/metrics`; 0 where it is not there. Only of a `--dev` server.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        let metrics = self.get("/metrics").body;
        let value = metrics.lines().find_map(|it| it.strip_prefix(name)?.strip_prefix(' '));
        value.map_or(0, |it| it.parse().unwrap())
    }

    /// Goes on once a count is what it should be.
    #[track_caller]
    pub(crate) fn until(&self, name: &str, is_there: impl Fn(u64) -> bool) {
        let began = Instant::now();
        while !is_there(self.metric(name)) {
            assert!(began.elapsed() < SOON, "{name} is {} for ever", self.metric(name));
        }
    }

    /// Goes on once something was logged.
    #[track_caller]
    pub(crate) fn until_logged(&self, part: &str) {
        let began = Instant::now();
        while !self.log.lock().unwrap().contains(part) {
            assert!(began.elapsed() < SOON, "{part} is never logged");
        }
    }

    /// What of its memory is in RAM.
    #[cfg(target_os = "linux")]
    pub(crate) fn resident_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let resident = status.lines().find_map(|it| it.strip_prefix("VmRSS:")).unwrap();
        resident.trim().trim_end_matches(" kB").parse().unwrap()
    }

    pub(crate) fn terminate(&self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    }

    /// Waits until it has ended, and has what it logged.
    pub(crate) fn wait(&mut self) -> (ExitStatus, String) {
        let status = self.child.wait().unwrap();
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        (status, self.log.lock().unwrap().clone())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have gone already.
        let _ = self.child.kill();
        let (_, log) = self.wait();
        if !thread::panicking() {
            assert!(!log.contains("panicked"), "{log}");
        }
    }
}

/// A connection.
pub(crate) struct Peer {
    pub(crate) stream: BufReader<TcpStream>,
    host: String,
}

impl Peer {
    fn new(stream: TcpStream, host: String) -> Self {
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream: BufReader::new(stream), host }
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.get_mut().write_all(bytes.as_ref()).unwrap();
    }

    /// Sends a head, with `Host` if `headers` have none.
    pub(crate) fn send_head(&mut self, method: &str, target: &str, headers: &str) {
        let head = self.request_head(method, target, headers);
        self.send(head);
    }

    /// Sends a head, and the body of a POST with its length.
    pub(crate) fn send_request(
        &mut self,
        method: &str,
        target: &str,
        headers: &str,
        body: impl AsRef<[u8]>,
    ) {
        let body = body.as_ref();
        let length = match method {
            "POST" => format!("Content-Length: {}\r\n", body.len()),
            _ => String::new(),
        };
        let head = self.request_head(method, target, &format!("{length}{headers}"));
        self.send([head.as_bytes(), body].concat());
    }

    fn request_head(&self, method: &str, target: &str, headers: &str) -> String {
        let host = if headers.contains("Host:") { "" } else { &format!("Host: {}\r\n", self.host) };
        format!("{method} {target} HTTP/1.1\r\n{host}{headers}\r\n")
    }

    pub(crate) fn request(
        &mut self,
        method: &str,
        target: &str,
        headers: &str,
        body: impl AsRef<[u8]>,
    ) -> Answer {
        self.send_request(method, target, headers, body);
        self.answer(method)
    }

    pub(crate) fn send_chunk(&mut self, bytes: &str) {
        self.send(format!("{:x}\r\n{bytes}\r\n", bytes.len()));
    }

    /// The next chunk; `None` after the last.
    pub(crate) fn chunk(&mut self) -> Option<String> {
        let length = usize::from_str_radix(&self.line().unwrap(), 16).unwrap();
        let mut chunk = vec![0; length + 2];
        self.stream.read_exact(&mut chunk).unwrap();
        assert!(chunk.ends_with(b"\r\n"));
        chunk.truncate(length);
        (length > 0).then(|| String::from_utf8(chunk).unwrap())
    }

    /// A line of a head; `None` where the connection ends.
    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        match self.stream.read_line(&mut line) {
            Err(error) if error.kind() != ErrorKind::ConnectionReset => panic!("{error}"),
            _ => Some(line.strip_suffix("\r\n")?.to_owned()),
        }
    }

    #[track_caller]
    pub(crate) fn head(&mut self) -> Answer {
        let line = self.line().expect("an answer");
        let status = line.split(' ').nth(1).unwrap().parse().unwrap();
        let mut headers = Vec::new();
        loop {
            let line = self.line().expect("a whole head");
            let Some((name, value)) = line.split_once(':') else { break };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        Answer { status, headers, body: String::new() }
    }

    /// What is behind a head, however it is framed.
    #[track_caller]
    pub(crate) fn body(&mut self, head: &Answer) -> String {
        if matches!(head.status, 100..200 | 204 | 304) {
            return String::new();
        }
        if head.header("transfer-encoding") == Some("chunked") {
            return std::iter::from_fn(|| self.chunk()).collect();
        }
        let length = head.field("content-length").parse().unwrap();
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).unwrap();
        String::from_utf8(body).unwrap()
    }

    #[track_caller]
    pub(crate) fn answer(&mut self, method: &str) -> Answer {
        let mut answer = self.head();
        if method != "HEAD" {
            answer.body = self.body(&answer);
        }
        answer
    }

    /// Whether the server has closed it properly, without another byte.
    pub(crate) fn is_closed(&mut self) -> bool {
        matches!(self.stream.read(&mut [0]), Ok(0))
    }
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.fields(name).next()
    }

    /// The values of a header, of each line one.
    pub(crate) fn fields(&self, name: &str) -> impl Iterator<Item = &str> {
        self.headers.iter().filter(move |(it, _)| it == name).map(|(_, value)| value.as_str())
    }

    /// The value of a header that has to be there.
    #[track_caller]
    pub(crate) fn field(&self, name: &str) -> &str {
        self.header(name).unwrap_or_else(|| panic!("no {name} in {:?}", self.headers))
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    /// Checks that it is a whole problem, which says `part`.
    #[track_caller]
    pub(crate) fn check_problem(&self, status: u16, code: &str, part: &str) {
        assert_eq!(self.status, status, "{}", self.body);
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        check_problem(&self.json(), status, code, part);
    }
}

#[track_caller]
pub(crate) fn check_problem(problem: &Value, status: u16, code: &str, part: &str) {
    assert_eq!(problem["status"], status, "{problem}");
    assert_eq!(problem["code"], code, "{problem}");
    assert_eq!(problem["type"], format!("urn:tidegate:error:{code}"), "{problem}");
    assert!(problem["title"].is_string(), "{problem}");
    assert!(problem["instance"].as_str().unwrap().starts_with("urn:uuid:"), "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains(part), "{problem}");
}

/// How a stream's body came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The connection ended before the body did; without chunks there is no telling.
    Cut,
    /// With the last chunk.
    Proper,
}

/// A stream's body as it comes.
pub(crate) struct Body {
    pub(crate) peer: Peer,
    is_chunked: bool,
    bytes: VecDeque<u8>,
    end: Option<End>,
}

impl Body {
    /// Reads on; at the end it says how that came.
    fn fill(&mut self) -> Option<End> {
        if self.end.is_some() {
            return self.end;
        }
        let mut chunk = vec![0; 64 << 10];
        if self.is_chunked {
            let Some(line) = self.peer.line() else {
                self.end = Some(End::Cut);
                return self.end;
            };
            let length = usize::from_str_radix(&line, 16).unwrap();
            chunk.resize(length + 2, 0);
            if self.peer.stream.read_exact(&mut chunk).is_err() {
                self.end = Some(End::Cut);
                return self.end;
            }
            assert!(chunk.ends_with(b"\r\n"));
            chunk.truncate(length);
            if length == 0 {
                self.end = Some(End::Proper);
            }
        } else {
            let length = self.peer.stream.read(&mut chunk).unwrap();
            chunk.truncate(length);
            if length == 0 {
                self.end = Some(End::Cut);
            }
        }
        self.bytes.extend(chunk);
        self.end
    }

    /// The next line, without its end.
    #[track_caller]
    pub(crate) fn line(&mut self) -> String {
        loop {
            if let Some(at) = self.bytes.iter().position(|it| *it == b'\n') {
                let mut line: Vec<_> = self.bytes.drain(..=at).collect();
                line.pop();
                return String::from_utf8(line).unwrap();
            }
            if let Some(end) = self.fill() {
                panic!("{end:?} at {:?}", self.bytes);
            }
        }
    }

    /// The next line, if there is a whole one before the end.
    pub(crate) fn try_line(&mut self) -> Option<String> {
        while !self.bytes.contains(&b'\n') {
            if self.fill().is_some() {
                self.bytes.clear();
                return None;
            }
        }
        Some(self.line())
    }

    /// Checks that nothing more comes, and says how the body ends.
    #[track_caller]
    pub(crate) fn end(&mut self) -> End {
        loop {
            assert!(
                self.bytes.is_empty(),
                "{}",
                String::from_utf8_lossy(self.bytes.make_contiguous())
            );
            if let Some(end) = self.fill() {
                return end;
            }
        }
    }
}

/// An event stream, read as a browser reads it.
pub(crate) struct Sse {
    pub(crate) body: Body,
    pub(crate) parser: sse::Parser,
}

impl Sse {
    pub(crate) fn new(body: Body) -> Self {
        Self { body, parser: sse::Parser::new(4 << 20) }
    }

    /// The next event; retries are skipped.
    #[track_caller]
    pub(crate) fn event(&mut self) -> sse::Event {
        loop {
            let line = self.body.line() + "\n";
            let mut input = line.as_bytes();
            if let Some(sse::Item::Event(event)) = self.parser.next(&mut input).unwrap() {
                return event;
            }
        }
    }

    /// Checks the next event.
    #[track_caller]
    pub(crate) fn check(&mut self, event: &str, data: &str, id: &str) {
        let found = self.event();
        assert_eq!((&*found.event, &*found.data, &*found.id), (event, data, id));
    }

    /// The next event, its data as JSON.
    #[track_caller]
    pub(crate) fn json(&mut self, event: &str) -> (Value, String) {
        let found = self.event();
        assert_eq!(found.event, event, "{found:?}");
        (serde_json::from_str(&found.data).unwrap(), found.id)
    }
}

/// A stream of lines.
pub(crate) struct Ndjson(pub(crate) Body);

impl Ndjson {
    /// The next line that is not empty.
    #[track_caller]
    pub(crate) fn next(&mut self) -> Value {
        loop {
            let line = self.0.line();
            if !line.is_empty() {
                return serde_json::from_str(&line).unwrap();
            }
        }
    }
}

/// What a WebSocket brings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>, String),
    /// The connection is over.
    Eof,
}

/// The client's end of a WebSocket.
pub(crate) struct Ws {
    pub(crate) stream: TcpStream,
    /// The answer's head.
    pub(crate) head: String,
    /// What the last read brought, as it was.
    pub(crate) raw: Vec<u8>,
    decoder: Decoder,
    pool: InflaterPool,
    messages: VecDeque<Message>,
}

impl Ws {
    #[track_caller]
    fn open(mut stream: TcpStream, request: &ClientRequest<'_>) -> Self {
        let mut out = Vec::new();
        let handshake = ClientHandshake::start(request, &mut out).unwrap();
        stream.write_all(&out).unwrap();
        let mut input = Vec::new();
        let answer = loop {
            let mut piece = [0; 4096];
            let length = stream.read(&mut piece).unwrap();
            assert_ne!(length, 0, "{}", String::from_utf8_lossy(&input));
            input.extend_from_slice(&piece[..length]);
            match handshake.finish(&input) {
                Ok(None) => {}
                Ok(Some(answer)) => break answer,
                Err(error) => panic!("{error}: {}", String::from_utf8_lossy(&input)),
            }
        };
        let early = input.split_off(answer.head_len);
        let mut it = Self {
            stream,
            head: String::from_utf8(input).unwrap(),
            raw: Vec::new(),
            decoder: Decoder::new(Role::Client, &Limits::default(), answer.deflate),
            pool: InflaterPool::new(),
            messages: VecDeque::new(),
        };
        it.decode(&early);
        it
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut fields = self.head.lines().filter_map(|it| it.split_once(':'));
        fields.find(|(it, _)| it.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    fn decode(&mut self, bytes: &[u8]) {
        self.raw = bytes.to_vec();
        let mut scratch = bytes.to_vec();
        let mut input = &mut scratch[..];
        while let Some(event) = self.decoder.next(&mut input, &mut self.pool).unwrap() {
            self.messages.push_back(match event {
                Event::Message { kind: Kind::Text, data } => {
                    Message::Text(String::from_utf8(data.to_vec()).unwrap())
                }
                Event::Message { kind: Kind::Binary, data } => Message::Binary(data.to_vec()),
                Event::Ping(payload) => Message::Ping(payload.to_vec()),
                Event::Pong(payload) => Message::Pong(payload.to_vec()),
                Event::Close { code, reason } => Message::Close(code, reason.to_owned()),
            });
        }
    }

    /// The next message of any kind; nothing is answered.
    #[track_caller]
    pub(crate) fn next(&mut self) -> Message {
        loop {
            if let Some(message) = self.messages.pop_front() {
                return message;
            }
            let mut piece = vec![0; 256 << 10];
            match self.stream.read(&mut piece) {
                Ok(0) => return Message::Eof,
                Ok(length) => self.decode(&piece[..length]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                    return Message::Eof;
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    #[track_caller]
    pub(crate) fn text(&mut self) -> String {
        match self.next() {
            Message::Text(text) => text,
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    pub(crate) fn json(&mut self) -> Value {
        serde_json::from_str(&self.text()).unwrap()
    }

    /// Checks that it is closed with a code, answers, and sees the connection end; the reason.
    #[track_caller]
    pub(crate) fn closed(&mut self, code: u16) -> String {
        let Message::Close(found, reason) = self.next() else { panic!("no close") };
        assert_eq!(found, Some(code), "{reason}");
        let mut frame = Vec::new();
        encode::close(found, "", Some(MASK), &mut frame);
        // It may be gone already: after an error it need not wait for us.
        let _ = self.stream.write_all(&frame);
        assert_eq!(self.next(), Message::Eof);
        reason
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    pub(crate) fn send_text(&mut self, text: &str) {
        self.send(&masked(Kind::Text, text.as_bytes()));
    }

    pub(crate) fn send_binary(&mut self, bytes: &[u8]) {
        self.send(&masked(Kind::Binary, bytes));
    }

    /// Sends a command, and checks that the next message is its reply; what that says.
    #[track_caller]
    pub(crate) fn ask(&mut self, id: u64, command: &str, reply: &str) -> Value {
        self.send_text(&format!("{{\"id\":{id},{command}}}"));
        let mut message = self.json();
        assert_eq!(message["id"], id, "{message}");
        assert!(message[reply].is_object(), "{message}");
        message[reply].take()
    }

    /// Pings; what comes before the pong.
    #[track_caller]
    pub(crate) fn until_pong(&mut self) -> Vec<Message> {
        let mut frame = Vec::new();
        encode::ping(b"barrier", Some(MASK), &mut frame);
        self.send(&frame);
        let mut before = Vec::new();
        loop {
            match self.next() {
                Message::Pong(payload) if payload == b"barrier" => return before,
                Message::Eof => panic!("no pong after {before:?}"),
                message => before.push(message),
            }
        }
    }
}

/// A whole message as a client sends it.
pub(crate) fn masked(kind: Kind, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    encode::masked_message(kind, payload, MASK, &mut frame);
    frame
}

/// A cursor of another epoch, else the same.
pub(crate) fn of_another_epoch(cursor: &str) -> String {
    let first = if cursor.starts_with('-') { '0' } else { '-' };
    format!("{first}{}", &cursor[1..])
}

/// A cursor that lies far ahead, else the same.
pub(crate) fn far_ahead(cursor: &str) -> String {
    format!("{}1{}", &cursor[..16], &cursor[17..])
}
