//! One subscriber's socket: what is read from it, what waits for it, and when it is closed.
//!
//! ```text
//!  socket ──read──► WebSocket decoder ──► publish, pong, close
//!  hub ──deliver──► socket at once, where nothing waits
//!                └► outbox ──next──► Output ──writev──► socket        the client's task
//!  log ──page────► outbox
//! ```
//! A client is one small allocation and one small task; while it is idle it holds no buffers, and no
//! timer but its slot in the worker's wheel (DESIGN 5). Its task is woken by the socket, by the wheel,
//! and by the hub for what that could not write itself.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::net::Shutdown;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use tidegate_broker::{From, Page, PublishError, Published, Read, Reply, Unavailable};
use tidegate_core::subscription::{Mode, Offered, Step};
use tidegate_core::{
    Body, ChannelName, Entry, Gap, OutboxBounds, Payload, Policy, Position, SessionId,
    Subscription, Timestamp,
};
use tidegate_wire::websocket::{self, Decoder, Event, Kind, close};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;

use super::forms::{Encoder, Form, Format, Shared, last_chunk};
use super::hub::{Batch, Subscriber};
use super::output::{COMMIT_BYTES, Output};
use super::wheel;
use crate::problem::{Code, Problem};
use crate::worker::Worker;

/// Reads in one turn before others get theirs.
const READS_PER_TURN: usize = 4;

/// Pages of the log in one turn before others get theirs.
const PAGES_PER_TURN: usize = 4;

/// Entries of one page.
const PAGE_ENTRIES: u32 = 256;

/// While so much of our replies waits, nothing more is read: who does not take answers may not ask.
const REPLY_BYTES_MAX: usize = 4 << 10;

/// How long a close may take (CONTRACT 8).
const CLOSE_TICKS: u32 = 5 * wheel::TICKS_PER_SECOND;

/// How long a stream may be idle before it is kept alive (CONTRACT 4).
const KEEPALIVE_TICKS: u32 = 15 * wheel::TICKS_PER_SECOND;

/// Close code for a gap on a bare WebSocket (CONTRACT 4).
const CLOSE_GAP: u16 = 4010;

/// What the transport decided of a new stream.
#[derive(Debug)]
pub struct Stream {
    /// How its entries look.
    pub form: Form,
    /// Where it is in each of its channels; none for a publish-only WebSocket.
    pub starts: Vec<Start>,
    /// Its random id.
    pub session: SessionId,
    /// Whether it gets what it published itself.
    pub echo: bool,
    /// The connection's wire, as metrics name it.
    pub wire: &'static str,
    /// What only a WebSocket has.
    pub websocket: Option<WebSocketStart>,
    /// The head, and whatever opens the stream.
    pub opening: Bytes,
    /// Bytes that came behind the request's head.
    pub early: Bytes,
    /// A close instead of a stream: the refusal of a handshake that a browser can read.
    pub refusal: Option<(u16, String)>,
}

/// Where a subscription begins.
#[derive(Clone, Debug)]
pub struct Start {
    /// The channel.
    pub channel: ChannelName,
    /// Where it is, as the broker judged it.
    pub position: Position,
    /// What it missed already.
    pub gap: Option<Gap>,
    /// What may wait for it.
    pub bounds: OutboxBounds,
}

/// The WebSocket's part of a [`Stream`].
#[derive(Debug)]
pub struct WebSocketStart {
    /// What the handshake agreed on.
    pub deflate: Option<websocket::DeflateParams>,
    /// Where its messages go; `None` where there is not exactly one channel.
    pub publish_to: Option<ChannelName>,
    /// Whether it may publish there.
    pub may_publish: bool,
}

/// One stream's state; shared by its task, the hub and the worker's list.
#[derive(Debug)]
pub struct Client {
    inner: RefCell<Inner>,
}

#[derive(Debug)]
struct Inner {
    stream: TcpStream,
    waker: Option<Waker>,
    out: Output,
    subs: Vec<Sub>,
    form: Form,
    phase: Phase,
    echo: bool,
    session: SessionId,
    wire: &'static str,
    socket: Option<Box<Socket>>,
    /// Key in the worker's list, and the tick at which the wheel asks.
    key: u32,
    asked_at: u32,
    /// When something was last written and read.
    written_at: u32,
    read_at: u32,
    /// Bytes of replies in `out`, at most.
    replies: u32,
    /// Where the next refill begins, so that no channel starves another.
    turn: u16,
}

/// One of a stream's subscriptions.
#[derive(Debug)]
struct Sub {
    channel: ChannelName,
    /// Key in the hub, while it is subscribed.
    hub_key: Option<usize>,
    bounds: OutboxBounds,
    subscription: Subscription<Shared>,
    page: Option<PageReply>,
}

/// A page on its way.
struct PageReply(Pin<Box<dyn Future<Output = Result<Page, Unavailable>>>>);

impl std::fmt::Debug for PageReply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PageReply")
    }
}

/// A publish on its way; what the client sent after it waits.
struct PublishReply(Pin<Box<dyn Future<Output = Result<Published, PublishError>>>>);

impl std::fmt::Debug for PublishReply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PublishReply")
    }
}

/// What only a WebSocket has.
#[derive(Debug)]
struct Socket {
    decoder: Decoder,
    publish_to: Option<ChannelName>,
    may_publish: bool,
    /// The newest ping that could not be answered yet.
    pong: Option<Box<[u8]>>,
    /// Since when a ping waits for a byte.
    pinged_at: Option<u32>,
    /// What it published last: its own echo is written before a close is.
    published: Option<Position>,
    publishing: Option<PublishReply>,
    /// Read but not decoded, while a publish is on its way.
    backlog: Vec<u8>,
    /// The close to send, once what is before it was written.
    closing: Option<(u16, Option<Box<str>>)>,
    /// Whether the peer's close was read.
    is_closed_by_peer: bool,
}

/// How far a stream has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// As usual.
    Open,
    /// Nothing is added but what ends the stream; cut at the tick.
    Closing(u32),
    /// Our end was written: we wait until the peer has gone, at most until the tick.
    Lingering(u32),
    /// The socket is of no use any more.
    Dead,
}

/// Takes over a socket and serves it until it ends.
pub fn start(worker: &Rc<Worker>, stream: TcpStream, start: Stream) {
    let websocket = start.websocket.map(|it| {
        Box::new(Socket {
            decoder: Decoder::new(websocket::Role::Server, &worker.websocket_limits, it.deflate),
            publish_to: it.publish_to,
            may_publish: it.may_publish,
            pong: None,
            pinged_at: None,
            published: None,
            publishing: None,
            backlog: start.early.to_vec(),
            closing: None,
            is_closed_by_peer: false,
        })
    });
    let now = worker.tick();
    let mut out = Output::default();
    out.push(start.opening);
    let subs: Vec<Sub> = start.starts.into_iter().map(Sub::new).collect();
    let mut inner = Inner {
        stream,
        waker: None,
        out,
        subs,
        form: start.form,
        phase: Phase::Open,
        echo: start.echo,
        session: start.session,
        wire: start.wire,
        socket: websocket,
        key: 0,
        asked_at: 0,
        written_at: now,
        read_at: now,
        replies: 0,
        turn: 0,
    };
    if let Some((code, reason)) = start.refusal {
        inner.close_with(now, code, Some(reason.into()));
    }
    let client = Rc::new(Client { inner: RefCell::new(inner) });
    let key = worker.add_client(&client);
    {
        let mut inner = client.inner.borrow_mut();
        inner.key = key;
        inner.asked_at = worker.ask_at(key, inner.deadline(worker));
        for (index, sub) in inner.subs.iter_mut().enumerate() {
            let index = u32::try_from(index).unwrap_or(u32::MAX);
            let subscriber = Subscriber::Stream(Rc::clone(&client), index);
            sub.hub_key = worker.subscribe(&sub.channel, subscriber);
        }
    }
    worker.metrics.connected(start.wire);
    let task_worker = Rc::clone(worker);
    worker.spawn(Task { worker: task_worker, client });
}

/// The future of a client: as small as can be, for there are many.
struct Task {
    worker: Rc<Worker>,
    client: Rc<Client>,
}

impl Future for Task {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.client.poll(&self.worker, cx)
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        let Self { worker, client } = self;
        let inner = client.inner.get_mut_or_borrow();
        drop(inner);
        let _ = worker;
    }
}
