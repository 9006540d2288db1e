//! A TCP proxy that breaks what passes through it, by a seed or by a rule.
//!
//! It knows no more of HTTP than where a request's head ends. Each connection gets a fate: refused,
//! answered by the proxy itself (429, 502, 503), cut or silenced after so many bytes of what the
//! gateway sends, delayed, or let through.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::sleep;

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// The proxy's own answer, with `Retry-After` where there is one.
    Answer(u16, Option<u32>),
    /// Cut after so many bytes from the gateway.
    Cut(usize),
    /// Cut after so many bytes from the client, before the gateway has them all.
    CutRequest(usize),
    /// Let through, each piece after a while; cut after so many bytes from the gateway.
    Delay(Duration, usize),
    /// Let through.
    Pass,
    /// Closed as soon as it stands.
    Refuse,
    /// After so many bytes from the gateway nothing passes any more, and nothing is closed.
    Silence(usize),
}

/// Who decides.
pub(crate) enum Rule {
    /// By chance.
    Seed(u64),
    /// By the request's head.
    Head(fn(&str) -> Fate),
}

/// A proxy in front of a gateway; it ends when it is dropped.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

struct Shared {
    gateway: SocketAddr,
    rule: Mutex<Rule>,
    rng: Mutex<fastrand::Rng>,
    /// Connections by fate.
    counts: [AtomicU32; 7],
    /// When each connection came.
    arrivals: Mutex<Vec<Instant>>,
    heads: Mutex<Vec<String>>,
}

impl Proxy {
    pub(crate) async fn start(gateway: SocketAddr, rule: Rule) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seed = if let Rule::Seed(seed) = rule { seed } else { 0 };
        let shared = Arc::new(Shared {
            gateway,
            rule: Mutex::new(rule),
            rng: Mutex::new(fastrand::Rng::with_seed(seed)),
            counts: Default::default(),
            arrivals: Mutex::default(),
            heads: Mutex::default(),
        });
        let mut tasks = JoinSet::new();
        let accepting = Arc::clone(&shared);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        let Ok((client, _)) = accepted else { return };
                        accepting.arrivals.lock().unwrap().push(Instant::now());
                        let shared = Arc::clone(&accepting);
                        connections.spawn(async move { shared.serve(client).await });
                    }
                    Some(_) = connections.join_next() => {}
                }
            }
        });
        Self { address, shared, _tasks: tasks }
    }

    /// From now on everything passes.
    pub(crate) fn heal(&self) {
        *self.shared.rule.lock().unwrap() = Rule::Head(|_| Fate::Pass);
    }

    /// How many connections were refused, answered, cut, cut in their request, silenced, delayed and
    /// let through.
    pub(crate) fn counts(&self) -> [u32; 7] {
        self.shared.counts.each_ref().map(|it| it.load(Ordering::Relaxed))
    }

    pub(crate) fn arrivals(&self) -> Vec<Instant> {
        self.shared.arrivals.lock().unwrap().clone()
    }

    /// The first request's head of each connection.
    pub(crate) fn heads(&self) -> Vec<String> {
        self.shared.heads.lock().unwrap().clone()
    }
}

impl Shared {
    fn fate(&self, head: &str) -> Fate {
        let fate = match &*self.rule.lock().unwrap() {
            Rule::Head(decide) => decide(head),
            Rule::Seed(_) => by_chance(&mut self.rng.lock().unwrap()),
        };
        let at = match fate {
            Fate::Refuse => 0,
            Fate::Answer(..) => 1,
            Fate::Cut(_) => 2,
            Fate::CutRequest(_) => 3,
            Fate::Silence(_) => 4,
            Fate::Delay(..) => 5,
            Fate::Pass => 6,
        };
        self.counts[at].fetch_add(1, Ordering::Relaxed);
        fate
    }

    async fn serve(&self, mut client: TcpStream) {
        let mut head = Vec::new();
        while !head.windows(4).any(|it| it == b"\r\n\r\n") {
            match client.read_buf(&mut head).await {
                Ok(1..) => {}
                _ => return,
            }
        }
        let text = String::from_utf8_lossy(&head).into_owned();
        let fate = self.fate(&text);
        self.heads.lock().unwrap().push(text);
        let (cut, pause) = match fate {
            Fate::Refuse => return,
            Fate::Answer(status, retry_after) => {
                let retry_after =
                    retry_after.map_or(String::new(), |it| format!("Retry-After: {it}\r\n"));
                let answer = format!(
                    "HTTP/1.1 {status} By the proxy\r\nContent-Type: text/html\r\n{retry_after}\
                     Content-Length: 6\r\nConnection: close\r\n\r\n<html>"
                );
                let _ = client.write_all(answer.as_bytes()).await;
                // Until the client has it: a reset would take it away.
                let _ = client.shutdown().await;
                let _ = client.read_to_end(&mut Vec::new()).await;
                return;
            }
            Fate::Cut(bytes) | Fate::Silence(bytes) => (bytes, Duration::ZERO),
            Fate::Delay(pause, bytes) => (bytes, pause),
            Fate::CutRequest(_) | Fate::Pass => (usize::MAX, Duration::ZERO),
        };
        let Ok(mut gateway) = TcpStream::connect(self.gateway).await else { return };
        let request_max = match fate {
            // A request without a body has nothing behind its head that could be cut.
            Fate::CutRequest(bytes) if head.starts_with(b"GET") => bytes % head.len(),
            Fate::CutRequest(bytes) => bytes,
            _ => usize::MAX,
        };
        let first = &head[..head.len().min(request_max)];
        if gateway.write_all(first).await.is_err() || first.len() < head.len() {
            return;
        }
        let (mut from_client, mut to_client) = client.split();
        let (mut from_gateway, mut to_gateway) = gateway.split();
        let up = copy(&mut from_client, &mut to_gateway, request_max - head.len(), Duration::ZERO);
        let down = copy(&mut from_gateway, &mut to_client, cut, pause);
        tokio::select! {
            // The gateway's answer may still be under way when the client has nothing more to say.
            () = async { up.await; if request_max == usize::MAX { std::future::pending().await } } => {}
            () = down => if matches!(fate, Fate::Silence(_)) {
                // Both ends wait for each other, until one of them loses patience.
                let _ = from_client.read_to_end(&mut Vec::new()).await;
            },
        }
    }
}

/// Copies at most so many bytes.
async fn copy(
    from: &mut (impl AsyncReadExt + Unpin),
    to: &mut (impl AsyncWriteExt + Unpin),
    bytes_max: usize,
    pause: Duration,
) {
    let (mut left, mut buffer) = (bytes_max, vec![0; 16 << 10]);
    while left > 0 {
        let Ok(read @ 1..) = from.read(&mut buffer).await else { break };
        if !pause.is_zero() {
            sleep(pause).await;
        }
        let piece = &buffer[..read.min(left)];
        left -= piece.len();
        if to.write_all(piece).await.is_err() {
            break;
        }
    }
}

fn by_chance(rng: &mut fastrand::Rng) -> Fate {
    // Anywhere in what a connection brings: in its head, in its first messages, later.
    let bytes = 1 + rng.usize(..30) * rng.usize(..30) * rng.usize(..30);
    match rng.u32(..100) {
        0..10 => Fate::Refuse,
        10..16 => Fate::Answer(503, Some(0)),
        16..20 => Fate::Answer(502, None),
        20..24 => Fate::Answer(429, Some(1)),
        24..74 => Fate::Cut(bytes),
        74..82 => Fate::CutRequest(bytes),
        82..87 => Fate::Silence(bytes),
        87..95 => Fate::Delay(Duration::from_millis(rng.u64(1..30)), bytes),
        _ => Fate::Cut(20_000),
    }
}
