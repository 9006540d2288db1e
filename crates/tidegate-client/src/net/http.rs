//! One exchange of HTTP/1.1 at a time, by hyper's client: a connection, a request, the head of its
//! answer, the body as it comes (RFC 9112). Nothing is spawned: whoever waits for an answer drives
//! its connection.
//!
//! Bounds: the head by `Limits::head_bytes_max`, a piece of a body by hyper's read buffer. Redirects
//! are not followed. The time that anything takes is bounded by the caller.

use std::convert::Infallible;
use std::error::Error as _;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{
    ACCEPT, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, LOCATION, RETRY_AFTER,
    USER_AGENT,
};
use http::{Method, Request};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tidegate_wire::websocket::handshake::{ClientHandshake, ClientRequest, Headers};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::Gateway;
use super::websocket::Socket;
use crate::error::Failure;
use crate::machine::Head;

type Connection = http1::Connection<TokioIo<TcpStream>, RequestBody>;

/// What a request brings.
#[derive(Debug)]
pub(crate) enum RequestBody {
    /// All of it, once.
    Full(Option<Bytes>),
    /// Pieces as they come; it ends when their sender is dropped.
    Stream(mpsc::Receiver<Bytes>),
}

/// A connection between two requests.
#[derive(Debug)]
pub(crate) struct Idle(Line);

/// A connection and the way to it.
#[derive(Debug)]
struct Line {
    send: SendRequest<RequestBody>,
    /// `None` once it is over, and all that it had to say was said.
    connection: Option<Box<Connection>>,
    /// Whether it is over: it is not driven again, and has perhaps a socket to give back.
    is_over: bool,
}

/// A request whose answer has begun.
#[derive(Debug)]
pub(crate) struct Exchange {
    line: Line,
    pub(crate) head: Head,
    body: Incoming,
    is_whole: bool,
}

/// A request, before it is written.
#[derive(Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) method: Method,
    /// Path and query, below the gateway's prefix.
    pub(crate) target: &'a str,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
}

/// What every request says of who asks.
const AGENT: &str = concat!("tidegate-client/", env!("CARGO_PKG_VERSION"));

impl Asked<'_> {
    fn request(
        &self,
        gateway: &Gateway,
        body: RequestBody,
    ) -> Result<Request<RequestBody>, Failure> {
        let target = format!("{}{}", gateway.url.prefix(), self.target);
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = target.parse().map_err(|_| Failure::Request(target))?;
        let headers = request.headers_mut();
        let authority = gateway.url.authority();
        let host = HeaderValue::from_str(&authority).map_err(|_| Failure::Request(authority))?;
        headers.insert(HOST, host);
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        let ours = self.headers.iter().cloned();
        headers.extend(gateway.headers.iter().cloned().chain(ours));
        Ok(request)
    }
}

/// Asks for a stream or a page; on a connection that was left alive, if there is one.
pub(crate) async fn get(
    gateway: &Gateway,
    idle: Option<Idle>,
    target: &str,
    accept: &'static str,
) -> Result<Exchange, Failure> {
    let headers = vec![(ACCEPT, HeaderValue::from_static(accept))];
    let asked = Asked { method: Method::GET, target, headers };
    exchange(gateway, idle, &asked, &Bytes::new()).await
}

/// Makes a request whose body is at hand. A connection that was left alive may have been closed at
/// its other end meanwhile: then it is made again on a new one, so it must be one that may be.
pub(crate) async fn exchange(
    gateway: &Gateway,
    idle: Option<Idle>,
    asked: &Asked<'_>,
    body: &Bytes,
) -> Result<Exchange, Failure> {
    let full = || match asked.method {
        Method::GET => RequestBody::Full(None),
        _ => RequestBody::Full(Some(body.clone())),
    };
    if let Some(Idle(line)) = idle {
        let request = asked.request(gateway, full())?;
        if let Ok(exchange) = line.send(request).await {
            return Ok(exchange);
        }
    }
    let request = asked.request(gateway, full())?;
    Line::connect(gateway).await?.send(request).await
}

/// Makes a request whose body comes in pieces, on a connection of its own. The answer may begin
/// before the body has ended.
pub(crate) async fn stream(
    gateway: &Gateway,
    asked: &Asked<'_>,
    pieces: mpsc::Receiver<Bytes>,
) -> Result<Exchange, Failure> {
    let request = asked.request(gateway, RequestBody::Stream(pieces))?;
    Line::connect(gateway).await?.send(request).await
}

/// How a WebSocket is asked for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Upgrade<'a> {
    /// Path and query, below the gateway's prefix.
    pub(crate) target: &'a str,
    pub(crate) protocols: &'a [&'a str],
    pub(crate) headers: &'a [(&'a str, &'a str)],
    /// Largest message that is taken, in bytes.
    pub(crate) message_bytes_max: u32,
}

/// What came of asking for a WebSocket.
#[derive(Debug)]
pub(crate) enum Upgraded {
    /// It stands. The head is that of its 101.
    Socket(Head, Box<Socket>, Option<String>),
    /// Another answer, whose body is still to come.
    Refused(Box<Exchange>),
}

/// Opens a WebSocket, or has what was answered instead.
pub(crate) async fn upgrade(gateway: &Gateway, asked: Upgrade<'_>) -> Result<Upgraded, Failure> {
    let authority = gateway.url.authority();
    let own: Vec<_> = gateway
        .headers
        .iter()
        .filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)))
        .chain([("user-agent", AGENT)])
        .chain(asked.headers.iter().copied())
        .collect();
    let target = format!("{}{}", gateway.url.prefix(), asked.target);
    let request = ClientRequest {
        host: &authority,
        target: &target,
        protocols: asked.protocols,
        deflate: gateway.deflate,
        headers: &own,
        nonce: super::random(),
    };
    let wrong = |error: &dyn std::fmt::Display| Failure::Request(error.to_string());
    let (handshake, fields) = ClientHandshake::fields(&request).map_err(|it| wrong(&it))?;
    let mut head = Request::new(RequestBody::Full(None));
    *head.uri_mut() = target.parse().map_err(|it: http::uri::InvalidUri| wrong(&it))?;
    for (name, value) in &fields {
        let name: HeaderName = name.parse().map_err(|_| Failure::Request((*name).to_owned()))?;
        let value = HeaderValue::from_str(value).map_err(|it| wrong(&it))?;
        head.headers_mut().append(name, value);
    }
    let mut line = Line::connect(gateway).await?;
    let answer = line.answer(head).await?;
    if answer.status() != http::StatusCode::SWITCHING_PROTOCOLS {
        return Ok(Upgraded::Refused(Box::new(Exchange::new(line, answer))));
    }
    let (protocol, deflate) = handshake
        .judge(101, &Fields(answer.headers()))
        .map_err(|error| Failure::Protocol(error.to_string()))?;
    let head = read_head(&answer);
    drop(answer);
    let (io, early) = line.into_parts().await?;
    let socket = Socket::new(io, early, asked.message_bytes_max, deflate);
    Ok(Upgraded::Socket(head, Box::new(socket), protocol))
}

impl Line {
    async fn connect(gateway: &Gateway) -> Result<Self, Failure> {
        let (host, port) = (gateway.url.host(), gateway.url.port());
        let unreachable = |error: std::io::Error| Failure::Unreachable {
            address: gateway.url.authority(),
            reason: error.to_string(),
        };
        let io = TcpStream::connect((host, port)).await.map_err(unreachable)?;
        io.set_nodelay(true).map_err(unreachable)?;
        let (send, connection) = http1::Builder::new()
            .max_header_size(gateway.limits.head_bytes_max)
            .max_headers(HEADERS_MAX)
            .max_buf_size(READ_BYTES_MAX)
            .handshake(TokioIo::new(io))
            .await
            .map_err(|error| broken(&error))?;
        Ok(Self { send, connection: Some(Box::new(connection)), is_over: false })
    }

    async fn send(mut self, request: Request<RequestBody>) -> Result<Exchange, Failure> {
        let answer = self.answer(request).await?;
        Ok(Exchange::new(self, answer))
    }

    async fn answer(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<http::Response<Incoming>, Failure> {
        // After an answer it is ready again only once its connection has been driven.
        self.wait(SendRequest::poll_ready).await.map_err(|it| broken(&it))?;
        let mut answer = Box::pin(self.send.send_request(request));
        self.wait(|_, cx| answer.as_mut().poll(cx)).await.map_err(|it| broken(&it))
    }

    /// Drives the connection until `poll` has something.
    async fn wait<T>(
        &mut self,
        mut poll: impl FnMut(&mut SendRequest<RequestBody>, &mut Context<'_>) -> Poll<T>,
    ) -> T {
        poll_fn(|cx| self.poll_driven(cx, &mut poll)).await
    }

    fn poll_driven<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut poll: impl FnMut(&mut SendRequest<RequestBody>, &mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        if let Some(connection) = self.connection.as_deref_mut()
            && !self.is_over
        {
            self.is_over = connection.poll_without_shutdown(cx).is_ready();
        }
        let polled = poll(&mut self.send, cx);
        if polled.is_pending() && self.is_over && self.connection.take().is_some() {
            // Whatever still waits on it is told that it is gone.
            return poll(&mut self.send, cx);
        }
        polled
    }

    /// The socket of an answer with 101, and what has come on it behind the head.
    async fn into_parts(mut self) -> Result<(TcpStream, Bytes), Failure> {
        let lost = || Failure::Cut("the connection was closed with its upgrade".into());
        let mut connection = self.connection.take().ok_or_else(lost)?;
        if !self.is_over {
            poll_fn(|cx| connection.poll_without_shutdown(cx)).await.map_err(|it| broken(&it))?;
        }
        let parts = connection.into_parts();
        Ok((parts.io.into_inner(), parts.read_buf))
    }
}

/// Header fields of an answer; more are refused.
const HEADERS_MAX: usize = 100;

/// What is read at a time.
const READ_BYTES_MAX: usize = 64 << 10;

impl Exchange {
    fn new(line: Line, answer: http::Response<Incoming>) -> Self {
        let head = read_head(&answer);
        Self { line, head, body: answer.into_body(), is_whole: false }
    }

    /// The next piece of the body; `None` once it has ended as it should.
    ///
    /// Cancel safe: what has not come out stays in hyper's connection.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            let body = &mut self.body;
            match self.line.wait(|_, cx| Pin::new(&mut *body).poll_frame(cx)).await {
                None => {
                    self.is_whole = true;
                    return Ok(None);
                }
                Some(Err(error)) => return Err(broken(&error)),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    /// The whole of a body of at most `bytes_max`; what is over it is left out.
    pub(crate) async fn read(&mut self, bytes_max: usize) -> Result<Vec<u8>, Failure> {
        let mut whole = Vec::new();
        while let Some(piece) = self.next().await? {
            let room = bytes_max - whole.len();
            whole.extend_from_slice(piece.get(..room.min(piece.len())).unwrap_or_default());
            if whole.len() == bytes_max {
                break;
            }
        }
        Ok(whole)
    }

    /// The connection, for the next request, if this one's answer is whole.
    pub(crate) fn into_idle(self) -> Option<Idle> {
        let is_alive = self.is_whole && !self.line.is_over && !self.line.send.is_closed();
        is_alive.then_some(Idle(self.line))
    }
}

/// What of an answer's head matters.
fn read_head(answer: &http::Response<Incoming>) -> Head {
    let headers = answer.headers();
    let text = |name: &HeaderName| headers.get(name).and_then(|it| it.to_str().ok());
    let media = |it: &str| it.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    Head {
        status: answer.status().as_u16(),
        cursor: text(&HeaderName::from_static("tidegate-cursor")).map(str::to_owned),
        content_type: text(&CONTENT_TYPE).map(media),
        location: text(&LOCATION).map(str::to_owned),
        retry_after: text(&RETRY_AFTER).and_then(retry_after),
    }
}

/// Seconds, or a date (RFC 9110 §10.2.3); one that has passed is now.
fn retry_after(value: &str) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(SystemTime::now()).unwrap_or_default())
}

/// What hyper says went wrong.
fn broken(error: &hyper::Error) -> Failure {
    let mut words = error.to_string();
    if let Some(source) = error.source() {
        words = format!("{words}: {source}");
    }
    if error.is_parse() { Failure::Protocol(words) } else { Failure::Cut(words) }
}

/// Hyper's headers as the handshake reads them.
struct Fields<'a>(&'a HeaderMap);

impl Headers for Fields<'_> {
    fn values<'a>(&'a self, name: &'static str) -> impl Iterator<Item = &'a [u8]> {
        self.0.get_all(name).iter().map(HeaderValue::as_bytes)
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut *self {
            Self::Full(bytes) => Poll::Ready(bytes.take().map(|it| Ok(Frame::data(it)))),
            Self::Stream(pieces) => {
                pieces.poll_recv(cx).map(|piece| piece.map(|it| Ok(Frame::data(it))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Full(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Self::Stream(_) => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        assert_eq!(retry_after("5"), Some(Duration::from_secs(5)));
        assert_eq!(retry_after("Thu, 01 Jan 1970 00:00:00 GMT"), Some(Duration::ZERO));
        let soon = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(100));
        let wait = retry_after(&soon).unwrap();
        assert!(wait > Duration::from_secs(90) && wait <= Duration::from_secs(100), "{wait:?}");
        assert_eq!(retry_after("soon"), None);
        assert_eq!(retry_after("-1"), None);
    }
}
