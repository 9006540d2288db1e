//! The gateway that is measured: connections to it, up to the end of the head of its answer.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use tidegate_client::{Failure, Problem, Url};
use tidegate_wire::chunk::{ChunkError, ChunkReader};
use tidegate_wire::websocket::handshake::{ClientHandshake, ClientRequest};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::line::{Line, cut};
use super::reader::{Reader, Wire};

/// A gateway, and where it was found.
#[derive(Clone, Debug)]
pub(in super::super) struct Target {
    url: Url,
    address: SocketAddr,
}

/// How long a connection may take to stand.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// The largest head of an answer.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// The largest body of a refusal that is read.
const REFUSAL_BYTES_MAX: usize = 64 << 10;

/// The largest body of an answer that is read.
const BODY_BYTES_MAX: usize = 16 << 20;

/// Header fields of an answer; with more it is refused.
const FIELDS_MAX: usize = 100;

impl Target {
    /// Finds the address that answers, of those that the host has.
    ///
    /// # Errors
    ///
    /// [`Failure::Unreachable`].
    pub(in super::super) async fn find(url: &Url) -> Result<Self, Failure> {
        let unreachable =
            |reason: String| Failure::Unreachable { address: url.authority(), reason };
        let addresses = tokio::net::lookup_host((url.host(), url.port())).await;
        let mut reason = String::from("the name has no address");
        for address in addresses.map_err(|it| unreachable(it.to_string()))? {
            let target = Self { url: url.clone(), address };
            match target.dial().await {
                Ok(_) => return Ok(target),
                Err(Failure::Unreachable { reason: it, .. }) => reason = it,
                Err(failure) => reason = failure.to_string(),
            }
        }
        Err(unreachable(reason))
    }

    /// A WebSocket's URL for the client.
    pub(super) fn websocket_url(&self, target: &str) -> String {
        format!("ws://{}{}{target}", self.url.authority(), self.url.prefix())
    }

    /// What a request for `target` begins with.
    pub(super) fn request(&self, method: &str, target: &str) -> String {
        let (host, prefix) = (self.url.authority(), self.url.prefix());
        format!("{method} {prefix}{target} HTTP/1.1\r\nHost: {host}\r\n")
    }

    /// What a request for the URL itself is answered with, whole; text of at most 16 MiB.
    pub(super) async fn get(&self) -> Result<String, Failure> {
        let got = timeout(OPEN_TIMEOUT, async {
            let request = self.request("GET", "") + "Connection: close\r\n\r\n";
            let (mut io, head, mut body) = self.ask(request.as_bytes()).await?;
            if head.status != 200 {
                return Err(refusal(io, &head, body).await);
            }
            while body.len() < BODY_BYTES_MAX
                && head.content_length.is_none_or(|len| body.len() < len)
                && io.read_buf(&mut body).await.map_err(|it| cut(&it))? > 0
            {}
            if head.is_chunked {
                let (mut chunks, mut rest, mut whole) =
                    (ChunkReader::default(), &*body, Vec::new());
                let wrong = |error: ChunkError| Failure::Protocol(error.to_string());
                while let Some(piece) = chunks.next(&mut rest).map_err(wrong)? {
                    whole.extend_from_slice(piece);
                }
                body = whole;
            }
            Ok(String::from_utf8_lossy(&body).into_owned())
        });
        let late = |_| Failure::Timeout { what: "an answer", after: OPEN_TIMEOUT };
        got.await.map_err(late)?
    }

    /// Subscribes to a channel; from the answer on nothing is missed.
    ///
    /// # Errors
    ///
    /// [`Failure`], the gateway's refusal among them.
    pub(super) async fn subscribe(
        &self,
        wire: Wire,
        channel: &str,
    ) -> Result<(Line, Reader), Failure> {
        let opened = timeout(OPEN_TIMEOUT, self.open(wire, channel)).await;
        let late = |_| Failure::Timeout { what: "a subscription", after: OPEN_TIMEOUT };
        opened.map_err(late)?
    }

    async fn open(&self, wire: Wire, channel: &str) -> Result<(Line, Reader), Failure> {
        let (host, target) =
            (self.url.authority(), format!("{}/channels/{channel}", self.url.prefix()));
        let mut request = Vec::with_capacity(256);
        let media = match wire {
            Wire::Ws => {
                let asked = ClientRequest {
                    host: &host,
                    target: &target,
                    protocols: &[],
                    deflate: None,
                    headers: &[],
                    nonce: fastrand::u128(..).to_le_bytes(),
                };
                let handshake = ClientHandshake::start(&asked, &mut request)
                    .map_err(|error| Failure::Request(error.to_string()))?;
                let (io, head, mut early) = self.ask(&request).await?;
                if head.status != 101 {
                    return Err(refusal(io, &head, early).await);
                }
                let wrong = |what: String| Failure::Protocol(what);
                let answer = handshake.finish(&head.bytes).map_err(|it| wrong(it.to_string()))?;
                if answer.is_none() {
                    return Err(wrong("the handshake's answer has no end".into()));
                }
                early.shrink_to_fit();
                return Ok((Line::new(io, early), Reader::new(wire, false)));
            }
            Wire::Sse => "text/event-stream",
            Wire::Ndjson => "application/x-ndjson",
        };
        let get = self.request("GET", &format!("/channels/{channel}"));
        let get = format!("{get}Accept: {media}\r\n\r\n");
        let (io, head, early) = self.ask(get.as_bytes()).await?;
        if head.status != 200 {
            return Err(refusal(io, &head, early).await);
        }
        if head.content_type.as_deref() != Some(media) {
            return Err(Failure::Foreign { content_type: head.content_type });
        }
        Ok((Line::new(io, early), Reader::new(wire, head.is_chunked)))
    }

    /// A connection, before anything was asked on it.
    pub(super) async fn dial(&self) -> Result<TcpStream, Failure> {
        let connected = timeout(OPEN_TIMEOUT, TcpStream::connect(self.address)).await;
        let late = |_| Failure::Timeout { what: "a connection", after: OPEN_TIMEOUT };
        let io = connected.map_err(late)?.map_err(|error| {
            let mut reason = error.to_string();
            if error.kind() == ErrorKind::AddrNotAvailable {
                // Linux hands out 28,232 ports by default, to each address that is connected to.
                reason.push_str(
                    "; no local port is left for another connection, ask for fewer or widen \
                     net.ipv4.ip_local_port_range",
                );
            }
            Failure::Unreachable { address: self.url.authority(), reason }
        })?;
        io.set_nodelay(true).map_err(|it| cut(&it))?;
        Ok(io)
    }

    /// Connects, asks, and reads the head of the answer; beside it what came behind.
    async fn ask(&self, request: &[u8]) -> Result<(TcpStream, Head, Vec<u8>), Failure> {
        let mut io = self.dial().await?;
        io.write_all(request).await.map_err(|it| cut(&it))?;
        let mut input = Vec::with_capacity(1 << 10);
        loop {
            if let Some(head) = Head::parse(&input)? {
                let early = input.split_off(head.len);
                return Ok((io, Head { bytes: input, ..head }, early));
            }
            if input.len() >= HEAD_BYTES_MAX {
                let what = "the head of an answer";
                return Err(Failure::TooLarge { what, bytes_max: HEAD_BYTES_MAX });
            }
            if io.read_buf(&mut input).await.map_err(|it| cut(&it))? == 0 {
                return Err(Failure::Cut("the gateway closed it without an answer".into()));
            }
        }
    }
}

/// The head of an answer, as far as it matters.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) status: u16,
    /// Its length in bytes, blank line included.
    pub(super) len: usize,
    pub(super) content_length: Option<usize>,
    content_type: Option<String>,
    is_chunked: bool,
    /// All of it.
    bytes: Vec<u8>,
}

impl Head {
    /// The head at the front of `input`; `None` while it is not whole.
    pub(super) fn parse(input: &[u8]) -> Result<Option<Self>, Failure> {
        let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let mut response = httparse::Response::new(&mut fields);
        let parsed = response.parse(input);
        let len = match parsed.map_err(|it| Failure::Protocol(it.to_string()))? {
            httparse::Status::Complete(len) => len,
            httparse::Status::Partial => return Ok(None),
        };
        let status = response.code.unwrap_or_default();
        let mut head = Self {
            status,
            len,
            content_length: None,
            content_type: None,
            is_chunked: false,
            bytes: Vec::new(),
        };
        for field in response.headers.iter() {
            let value = field.value.trim_ascii();
            if field.name.eq_ignore_ascii_case("content-length") {
                head.content_length =
                    std::str::from_utf8(value).ok().and_then(|it| it.parse().ok());
            } else if field.name.eq_ignore_ascii_case("transfer-encoding") {
                head.is_chunked = value.eq_ignore_ascii_case(b"chunked");
            } else if field.name.eq_ignore_ascii_case("content-type") {
                let media = value.split(|it| *it == b';').next().unwrap_or_default();
                let media = String::from_utf8_lossy(media.trim_ascii()).to_ascii_lowercase();
                head.content_type = Some(media);
            }
        }
        Ok(Some(head))
    }
}

/// What an answer that was not hoped for says.
async fn refusal(mut io: TcpStream, head: &Head, mut body: Vec<u8>) -> Failure {
    let len = head.content_length.unwrap_or_default().min(REFUSAL_BYTES_MAX);
    while body.len() < len && io.read_buf(&mut body).await.is_ok_and(|read| read > 0) {}
    refused(head.status, &body)
}

/// What an answer says that has this status and this body.
pub(super) fn refused(status: u16, body: &[u8]) -> Failure {
    match Problem::parse(body) {
        Some(problem) => Failure::Problem(problem),
        None => Failure::Status { status, retry_after: None },
    }
}
