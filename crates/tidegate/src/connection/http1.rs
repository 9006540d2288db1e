//! HTTP/1.1: hyper reads heads and bodies and guards against smuggling; a stream leaves it (DESIGN 4).
//!
//! ```text
//! accepted ──► head ──► handler ──► response ──► idle ──► head …        hyper, this task
//!                          └─ stream ─► socket and early bytes ─► driver::client
//! ```
//! The timers are ours, since hyper's can't tell a slow head (408) from an idle connection.

mod first_head;

use std::cell::{Cell, RefCell};
use std::future::{Future, pending, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use tidegate_core::SessionId;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

use self::first_head::FirstHead;
use crate::driver::client::{self, Stream};
use crate::router::{self, Answer, Body, Response};
use crate::turns::{Place, Sharer};
use crate::worker::Worker;

/// What the worker, the handler and the socket know of a connection that hyper has.
#[derive(Debug)]
pub struct Connection {
    /// Who connected.
    pub peer: SocketAddr,
    /// Its random id.
    pub session: SessionId,
    /// Whether it is over `max_connections`.
    pub is_surplus: bool,
    phase: Cell<Phase>,
    /// Since when the socket has taken no byte of a response.
    blocked: Cell<Option<Instant>>,
    is_draining: Cell<bool>,
    /// Among those who share what everyone else leaves.
    place: Place,
    waker: RefCell<Option<Waker>>,
    /// The stream that the handler made of its request.
    stream: RefCell<Option<Stream>>,
}

/// How a client of HTTP/2 begins (RFC 9113 §3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How long a head may take that is refused anyway: others wait for its place.
const SURPLUS_PATIENCE: Duration = Duration::from_secs(2);

/// What hyper is doing, and since when.
#[derive(Clone, Copy, Debug)]
enum Phase {
    /// Nothing of a first request has come.
    New(Instant),
    /// Part of a head has come.
    Head(Instant),
    /// A handler works on a request, or its response is being written.
    Busy,
    /// A response was written; nothing of another request has come.
    Idle(Instant),
}

/// Why the task is done with hyper.
enum Outcome {
    /// The connection has ended.
    Ended,
    /// The request is a stream.
    Stream(Stream),
    /// Too slow; with a head begun, it is told.
    TimedOut { with_head: bool },
}

/// Serves a connection that was just accepted.
pub fn start(worker: &Rc<Worker>, stream: TcpStream, peer: SocketAddr, is_surplus: bool) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection was gone before it was served");
    }
    let connection = Rc::new(Connection {
        peer,
        session: worker.session(),
        is_surplus,
        phase: Cell::new(Phase::New(Instant::now())),
        blocked: Cell::new(None),
        is_draining: Cell::new(false),
        place: Place::default(),
        waker: RefCell::new(None),
        stream: RefCell::new(None),
    });
    let key = worker.add_connection(&connection);
    let task_worker = Rc::clone(worker);
    worker.spawn(async move {
        let worker = task_worker;
        let leaving = serve(&worker, &connection, stream).await;
        worker.remove_connection(key);
        match leaving {
            Some((socket, stream)) => {
                worker.turns.charge(|| client::start(&worker, socket, stream));
            }
            None => worker.metrics.closed(),
        }
    });
}

/// Serves requests until the connection ends or becomes a stream.
async fn serve(
    worker: &Rc<Worker>,
    connection: &Rc<Connection>,
    mut stream: TcpStream,
) -> Option<(TcpStream, Stream)> {
    let http = &worker.config.http;
    let head_within = match connection.is_surplus {
        true => http.header_timeout.min(SURPLUS_PATIENCE),
        false => http.header_timeout,
    };
    match first_head::read(worker, connection, &mut stream, head_within).await {
        FirstHead::Whole(head) => {
            // Boxed: until then a connection is a tenth of that.
            Box::pin(serve_requests(worker, connection, stream, head, head_within)).await
        }
        FirstHead::Gone => {
            close(stream).await;
            None
        }
        FirstHead::TimedOut { with_head } => {
            time_out(worker, stream, with_head).await;
            None
        }
    }
}

/// Serves requests, of the first of which this much has come.
async fn serve_requests(
    worker: &Rc<Worker>,
    connection: &Rc<Connection>,
    stream: TcpStream,
    head: Bytes,
    head_within: Duration,
) -> Option<(TcpStream, Stream)> {
    let http = &worker.config.http;
    let service = {
        let (worker, connection) = (Rc::clone(worker), Rc::clone(connection));
        service_fn(move |request| {
            let (worker, connection) = (Rc::clone(&worker), Rc::clone(&connection));
            // Boxed: hyper gives its parts back only of a service whose future can be moved.
            Box::pin(handle(worker, connection, request))
        })
    };
    let io = Socket { stream, read: head, connection: Rc::clone(connection) };
    let mut hyper = http1::Builder::new()
        .half_close(false)
        .keep_alive(!connection.is_surplus && !connection.is_draining.get())
        // A URL that is too long but not absurd fits, so that it is told apart from a long head.
        .max_buf_size(http.max_head + http.max_url)
        .serve_connection(io, service);
    let mut timer = Box::pin(tokio::time::sleep(head_within));
    // Told to end before, hyper would not look at the request that has come.
    let mut has_looked = false;
    let outcome = poll_fn(|cx| {
        connection.remember(cx);
        if !connection.may_go_on(worker) {
            return Poll::Pending;
        }
        if connection.is_draining.get() && has_looked {
            Pin::new(&mut hyper).graceful_shutdown();
        }
        let ended = worker.turns.charge(|| hyper.poll_without_shutdown(cx).is_ready());
        has_looked = true;
        if let Some(stream) = connection.stream.borrow_mut().take() {
            return Poll::Ready(Outcome::Stream(stream));
        }
        if ended {
            return Poll::Ready(Outcome::Ended);
        }
        let Some((deadline, with_head)) = connection.deadline(http, head_within) else {
            return Poll::Pending;
        };
        if timer.deadline() != deadline {
            timer.as_mut().reset(deadline);
        }
        timer.as_mut().poll(cx).map(|()| Outcome::TimedOut { with_head })
    })
    .await;
    let parts = hyper.into_parts();
    // Part of a head may have come behind the request before it.
    let has_begun = !parts.read_buf.is_empty();
    let socket = parts.io.stream;
    match outcome {
        Outcome::Stream(mut stream) => {
            // Copied: the buffer behind it is hyper's 8 KiB.
            stream.early = Bytes::copy_from_slice(&parts.read_buf);
            return Some((socket, stream));
        }
        Outcome::TimedOut { with_head } => time_out(worker, socket, with_head || has_begun).await,
        // Hyper leaves it to its caller, where it finds all of this at once.
        Outcome::Ended if parts.read_buf.starts_with(HTTP2_PREFACE) => {
            worker.metrics.requested(400);
            let answer =
                b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
            let _ = socket.try_write(answer);
            close(socket).await;
        }
        Outcome::Ended => close(socket).await,
    }
    None
}

/// Ends a connection whose request does not come; it is told where one has begun.
async fn time_out(worker: &Worker, socket: TcpStream, with_head: bool) {
    if with_head {
        worker.metrics.requested(408);
        let answer =
            b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        // As much as the socket takes at once: this client is slow.
        let _ = socket.try_write(answer);
        close(socket).await;
    }
}

/// Ends a connection so that its peer can read what was written: a socket that is dropped with
/// unread input resets it.
async fn close(mut socket: TcpStream) {
    const LINGER: Duration = Duration::from_secs(1);
    if socket.shutdown().await.is_err() {
        return;
    }
    let drain = async {
        let mut rest = [0; 1024];
        while let Ok(1..) = tokio::io::AsyncReadExt::read(&mut socket, &mut rest).await {}
    };
    // Whoever still sends after that is reset.
    let _ = tokio::time::timeout(LINGER, drain).await;
}

async fn handle(
    worker: Rc<Worker>,
    connection: Rc<Connection>,
    request: http::Request<Incoming>,
) -> Result<http::Response<Tracked>, std::convert::Infallible> {
    connection.phase.set(Phase::Busy);
    match router::answer(&worker, request, &connection).await {
        Answer::Response(response) => {
            worker.metrics.requested(response.status().as_u16());
            Ok(connection.track(response))
        }
        Answer::Stream(stream) => {
            *connection.stream.borrow_mut() = Some(*stream);
            // Hyper must not answer: the connection's task takes the socket back instead.
            pending().await
        }
    }
}

impl Connection {
    /// Ends the connection once what is under way is answered.
    pub fn drain(&self) {
        if !self.is_draining.replace(true)
            && let Some(waker) = &*self.waker.borrow()
        {
            waker.wake_by_ref();
        }
    }

    /// Whether it is its turn: thousands that each send a byte must not go before deliveries.
    fn may_go_on(self: &Rc<Self>, worker: &Worker) -> bool {
        self.place.may_go_on(&worker.turns, || Sharer::Connection(Rc::clone(self)))
    }

    /// It is its turn.
    pub fn let_in(&self) {
        self.place.let_in();
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    fn remember(&self, cx: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|it| it.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
    }

    /// When patience ends, and whether a head had begun.
    fn deadline(
        &self,
        http: &crate::config::Http,
        head_within: Duration,
    ) -> Option<(Instant, bool)> {
        match self.phase.get() {
            Phase::New(since) => Some((since + head_within, false)),
            Phase::Head(since) => Some((since + head_within, true)),
            Phase::Idle(since) => Some((since + http.idle_timeout, false)),
            Phase::Busy => self.blocked.get().map(|since| (since + http.body_timeout, false)),
        }
    }

    fn track(self: &Rc<Self>, response: Response) -> http::Response<Tracked> {
        response.map(|body| Tracked { body, connection: Rc::clone(self) })
    }
}

/// A response's body, whose end begins the wait for another request.
struct Tracked {
    body: Body,
    connection: Rc<Connection>,
}

impl Drop for Tracked {
    fn drop(&mut self) {
        self.connection.phase.set(Phase::Idle(Instant::now()));
    }
}

impl http_body::Body for Tracked {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The socket as hyper sees it: it tells the connection what came and what would not go.
struct Socket {
    stream: TcpStream,
    /// What was read before hyper had it.
    read: Bytes,
    connection: Rc<Connection>,
}

impl Read for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut cursor: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        // Hyper's buffer may be uninitialised, and filling it in place needs unsafe code; a request's
        // bytes are copied once more instead.
        if !self.read.is_empty() {
            let len = self.read.len().min(cursor.remaining());
            cursor.put_slice(&self.read.split_to(len));
            return Poll::Ready(Ok(()));
        }
        let mut bytes = [0; 8 << 10];
        let room = cursor.remaining().min(bytes.len());
        let mut buffer = ReadBuf::new(bytes.get_mut(..room).unwrap_or_default());
        std::task::ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
        let filled = buffer.filled();
        cursor.put_slice(filled);
        if !filled.is_empty()
            && matches!(self.connection.phase.get(), Phase::New(_) | Phase::Idle(_))
        {
            self.connection.phase.set(Phase::Head(Instant::now()));
        }
        Poll::Ready(Ok(()))
    }
}

impl Socket {
    fn wrote(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        let blocked = &self.connection.blocked;
        match &written {
            Poll::Pending if blocked.get().is_none() => blocked.set(Some(Instant::now())),
            Poll::Pending => {}
            Poll::Ready(_) => blocked.set(None),
        }
        written
    }
}

impl Write for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.wrote(written)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.wrote(written)
    }
}
