//! The hostile list: what a peer may try, in one table, and what must come of it.
//!
//! Each row is sent as it stands, in one write and again byte by byte, and answered as CONTRACT says;
//! where CONTRACT is silent, as the RFC of the row does. After each the server still serves good
//! clients: those whose streams were open all the time, and one that comes anew; no smuggled request
//! was ever executed, and nothing of a request that was refused was published.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::Shutdown;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::common::{Answer, Ndjson, Peer, Server, Sse, Ws};

mod bodies;
mod envelopes;
mod frames;
mod framing;
mod handshakes;
mod targets;
mod waiting;

/// Where rows publish to; empty before each.
const TARGET: &str = "/channels/victim";

/// Where smuggled requests publish to; never anything.
const SMUGGLED: &str =
    "POST /channels/smuggled HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx";

/// What a hostile peer does, and what must come of it.
struct Row {
    /// A statement.
    name: String,
    /// Which section asks for it: of CONTRACT, or of an RFC.
    says: &'static str,
    /// Sent as it stands.
    sends: Vec<u8>,
    /// Whether the peer then ends its side of the connection.
    hangs_up: bool,
    back: Back,
    then: Then,
    /// Whether something was published before it was refused.
    publishes: bool,
}

/// What must come back.
#[derive(Clone, Debug)]
enum Back {
    /// A status without a body: a head that can't be parsed, or does not come (CONTRACT 7).
    Bare(u16),
    /// A whole problem, with its status and code.
    Problem(u16, &'static str),
    /// This status, and whatever body.
    Status(u16),
    /// An NDJSON answer: of each line `ok`, or its code.
    Results(&'static [&'static str]),
    /// A WebSocket that is closed with this code.
    Close(u16),
    /// A WebSocket that is open, and answers pings.
    Open,
    /// An event stream, which is open.
    Stream,
    /// An enveloped connection that is told an error, with the number of its command and the code, and
    /// answers the next.
    Refused(Option<u64>, &'static str),
    /// A WebSocket that is pinged, and then dropped without a word.
    Silence,
    /// No byte.
    Nothing,
}

/// What becomes of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    /// The server closes it.
    Closed,
    /// It goes on: what comes next is read from its first byte.
    Kept,
    /// One or the other: behind an answer that began before its request had ended.
    InStep,
}
use Then::{Closed, InStep, Kept};

fn row(
    name: impl Into<String>,
    says: &'static str,
    sends: impl Into<Vec<u8>>,
    back: Back,
    then: Then,
) -> Row {
    let (name, sends) = (name.into(), sends.into());
    Row { name, says, sends, hangs_up: false, back, then, publishes: false }
}

impl Row {
    fn hanging_up(self) -> Self {
        Self { hangs_up: true, ..self }
    }

    fn publishing(self) -> Self {
        Self { publishes: true, ..self }
    }
}

/// A request without a body; `headers` are whole lines.
fn get(target: &str, headers: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n")
}

/// A request with a body and its length.
fn post(target: &str, headers: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let length = body.len();
    let head = format!(
        "POST {target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n{headers}\r\n"
    );
    [head.as_bytes(), body].concat()
}

/// A POST whose framing is the row's own.
fn framed(headers: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let head = format!("POST {TARGET} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");
    [head.as_bytes(), body.as_ref()].concat()
}

fn chunked(body: impl AsRef<[u8]>) -> Vec<u8> {
    framed("Transfer-Encoding: chunked\r\n", body)
}

#[test]
fn after_each_hostile_request_it_still_serves() {
    let server = Server::dev();
    let rows: Vec<_> = [
        framing::rows(),
        targets::rows(),
        bodies::rows(),
        handshakes::rows(),
        frames::rows(),
        envelopes::rows(),
    ]
    .into_iter()
    .flatten()
    .collect();
    assert!(rows.len() >= 80, "{} rows", rows.len());
    let ws = server.ws("/channels/good?subscribe=0");
    check_all(Good::new(&server, Some(ws)), &rows, &[Pace::Whole, Pace::ByByte]);
}

#[test]
fn whoever_stops_in_the_middle_is_given_up() {
    let server = Server::start("impatient", waiting::CONFIG, &["--dev"]);
    check_all(Good::new(&server, None), &waiting::rows(), &[Pace::Whole]);
}

/// How a row's bytes are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pace {
    /// In one write.
    Whole,
    /// Each byte in a write of its own, where they are not too many.
    ByByte,
}

const BY_BYTE_MAX: usize = 1500;

/// Checks every row, then fails with the names of all that failed.
fn check_all(mut good: Good<'_>, rows: &[Row], paces: &[Pace]) {
    let mut failed = Vec::new();
    for row in rows {
        for pace in paces {
            if *pace == Pace::ByByte && row.sends.len() > BY_BYTE_MAX {
                continue;
            }
            let checked = catch_unwind(AssertUnwindSafe(|| check(good.server, row, *pace)));
            if checked.is_err() {
                failed.push(format!("{} ({}; {pace:?})", row.name, row.says));
            }
            good.check(&row.name);
        }
    }
    assert!(failed.is_empty(), "{} of {} rows:\n{}", failed.len(), rows.len(), failed.join("\n"));
}

/// Clients that mean well.
struct Good<'a> {
    server: &'a Server,
    sse: Sse,
    ndjson: Ndjson,
    /// Publishes what the other two get; not where a silent WebSocket is given up.
    ws: Option<Ws>,
}

impl<'a> Good<'a> {
    fn new(server: &'a Server, ws: Option<Ws>) -> Self {
        Self {
            server,
            sse: server.sse("/channels/good", ""),
            ndjson: server.ndjson("/channels/good"),
            ws,
        }
    }

    /// They are served, whatever was sent before.
    #[track_caller]
    fn check(&mut self, after: &str) {
        match &mut self.ws {
            Some(ws) => ws.send_text(after),
            None => drop(self.server.publish("good", after)),
        }
        assert_eq!(
            (self.sse.event().data, &self.ndjson.next()["text"]),
            (after.to_owned(), &after.into())
        );
        let mut fresh = self.server.ws("/channels/good");
        self.server.publish("good", after);
        assert_eq!((fresh.text(), self.sse.event().data), (after.to_owned(), after.to_owned()));
        assert_eq!(self.ndjson.next()["text"], after);
        let smuggled = self.server.get("/channels/smuggled").json();
        assert_eq!(smuggled["messages"].as_array().unwrap().len(), 0, "smuggled by: {after}");
    }
}

#[track_caller]
fn check(server: &Server, row: &Row, pace: Pace) {
    let mut peer = server.connect();
    // It may have refused and gone before all is sent.
    let stream = peer.stream.get_mut();
    let _ = match pace {
        Pace::Whole => stream.write_all(&row.sends),
        Pace::ByByte => row.sends.iter().try_for_each(|byte| stream.write_all(&[*byte])),
    };
    if row.hangs_up {
        stream.shutdown(Shutdown::Write).unwrap();
    }
    let name = &row.name;
    let is_refused = match &row.back {
        Back::Nothing => true,
        Back::Bare(status) => {
            let answer = peer.answer("GET");
            assert_eq!((answer.status, &*answer.body), (*status, ""), "{name}");
            assert_eq!(answer.header("content-type"), None, "{name}");
            true
        }
        Back::Problem(status, code) => {
            let answer = peer.answer("GET");
            assert_eq!(answer.status, *status, "{name}: {}", answer.body);
            answer.check_problem(*status, code, "");
            check_connection(&answer, row);
            true
        }
        Back::Status(status) => {
            let answer = peer.answer("GET");
            assert_eq!(answer.status, *status, "{name}: {}", answer.body);
            check_connection(&answer, row);
            false
        }
        Back::Results(results) => {
            let answer = peer.answer("POST");
            assert_eq!(answer.status, 200, "{name}: {}", answer.body);
            let lines = answer.body.lines();
            let found: Vec<serde_json::Value> =
                lines.map(|it| serde_json::from_str(it).unwrap()).collect();
            let found: Vec<_> = found
                .iter()
                .map(|it| it.get("code").map_or("ok", |it| it.as_str().unwrap()))
                .collect();
            assert_eq!(found, *results, "{name}: {}", answer.body);
            false
        }
        Back::Close(code) => {
            assert_eq!(peer.head().status, 101, "{name}");
            assert_eq!(frames::close_of(&mut peer), Some(*code), "{name}");
            true
        }
        Back::Open => {
            assert_eq!(peer.head().status, 101, "{name}");
            frames::check_open(&mut peer);
            false
        }
        Back::Refused(id, code) => {
            assert_eq!(peer.head().status, 101, "{name}");
            frames::check_refused(&mut peer, *id, code);
            true
        }
        Back::Silence => {
            assert_eq!(peer.head().status, 101, "{name}");
            assert_eq!(frames::close_of(&mut peer), None, "{name}");
            true
        }
        Back::Stream => {
            let head = peer.head();
            assert_eq!((head.status, head.header("connection")), (200, Some("close")), "{name}");
            assert_eq!(head.header("content-type"), Some("text/event-stream"), "{name}");
            server.publish("victim", name);
            while !peer.chunk().unwrap().contains(name) {}
            false
        }
    };
    match (row.then, &row.back) {
        (Closed, _) => check_closed(&mut peer, name),
        (Kept, Back::Open | Back::Refused(..) | Back::Stream) => {}
        (InStep, _) => {
            let mut rest = String::new();
            // It may have gone already.
            let _ = peer
                .stream
                .get_mut()
                .write_all(get("/healthz", "Connection: close\r\n").as_bytes());
            let _ = peer.stream.read_to_string(&mut rest);
            assert!(rest.is_empty() || rest.starts_with("HTTP/1.1 200 "), "{name}: {rest}");
        }
        (Kept, _) => {
            let next = peer.request("GET", "/healthz", "", "");
            assert_eq!((next.status, &*next.body), (200, "ok"), "{name}: what comes next");
        }
    }
    // Looked for in the text: what is kept may be deeper than other parsers go.
    let is_kept = !server.get(TARGET).body.starts_with("{\"messages\":[],");
    if is_refused && !row.publishes {
        assert!(!is_kept, "{name}: refused, and yet published");
    }
    if is_kept {
        server.delete("victim");
    }
}

/// Who closes says so (RFC 9112 §9.6), but to HTTP/1.0, where it goes without saying.
#[track_caller]
fn check_connection(answer: &Answer, row: &Row) {
    if row.then == InStep {
        return;
    }
    let is_last = answer.header("connection") == Some("close");
    let is_implied = row.sends.windows(10).any(|it| it == b" HTTP/1.0\r");
    assert_eq!(is_last, row.then == Closed && !is_implied, "{}: {answer:?}", row.name);
}

/// Not a byte more comes, and the end comes as an end.
#[track_caller]
fn check_closed(peer: &mut Peer, name: &str) {
    let mut rest = Vec::new();
    match peer.stream.read_to_end(&mut rest) {
        Ok(_) => {}
        // Of what it was sent after it had closed it can only say so.
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => panic!("{name}: not closed: {error}"),
    }
    assert!(rest.is_empty(), "{name}: {:?} after its end", String::from_utf8_lossy(&rest));
}
