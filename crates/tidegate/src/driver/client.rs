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
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use tidegate_broker::{From, Page, PublishError, Published, Read, Reply, Unavailable};
use tidegate_core::subscription::{Mode, Offered, Step};
use tidegate_core::{
    Body, ChannelName, Entry, Gap, GapReason, OutboxBounds, Payload, Policy, Position, Publication,
    SessionId, Subscription,
};
use tidegate_wire::websocket::{self, Decoder, Event, Kind, close, encode};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::forms::{Encoder, Form, Format, Shared, last_chunk};
use super::hub::{Batch, Subscriber};
use super::output::{COMMIT_BYTES, Output};
use super::wheel;
use crate::problem::Code;
use crate::transport::Wire;
use crate::worker::Worker;

/// Reads in one turn before others get theirs.
const READS_PER_TURN: usize = 4;

/// Pages of the log in one turn before others get theirs.
const PAGES_PER_TURN: usize = 4;

/// Entries of one page.
const PAGE_ENTRIES: usize = 256;

/// While so much waits, a pong takes the place of the one before: the newest ping is answered
/// (RFC 6455 §5.5.3).
const REPLY_BYTES_MAX: usize = 4 << 10;

/// How long a close may take (CONTRACT 8).
const CLOSE_TICKS: u32 = 5 * wheel::TICKS_PER_SECOND;

/// How long a stream may be idle before it is kept alive (CONTRACT 4).
const KEEPALIVE_TICKS: u32 = 15 * wheel::TICKS_PER_SECOND;

/// How long what was written to an SSE or NDJSON stream may be unacknowledged by its peer's kernel.
#[cfg(target_os = "linux")]
const UNREACHABLE_AFTER: std::time::Duration = std::time::Duration::from_secs(40);

/// A ping without a payload, as a frame.
const PING: &[u8] = &[0x89, 0];

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
    /// How it is counted.
    pub wire: Wire,
    /// What only a WebSocket has.
    pub websocket: Option<WebSocketStart>,
    /// The head, and whatever opens the stream.
    pub opening: Bytes,
    /// Bytes that came behind the request's head.
    pub early: Bytes,
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
#[derive(Debug, Default)]
pub struct WebSocketStart {
    /// What the handshake agreed on.
    pub deflate: Option<websocket::DeflateParams>,
    /// Where its messages go; `None` where there is not exactly one channel.
    pub publish_to: Option<ChannelName>,
    /// Why it may not publish there, if it may not.
    pub publish_refused: Option<Code>,
    /// A close instead of a stream, with its reason: a refusal that a browser can read.
    pub refusal: Option<(Code, String)>,
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
    socket: Option<Box<Socket>>,
    closing: Option<Box<Closing>>,
    session: SessionId,
    phase: Phase,
    /// Key in the worker's list, and the tick at which the wheel asks.
    key: u32,
    asked_at: u32,
    /// When something was last written and read.
    written_at: u32,
    read_at: u32,
    /// Where the next refill begins, so that no channel starves another.
    turn: u16,
    form: Form,
    wire: Wire,
    echo: bool,
}

/// One of a stream's subscriptions.
#[derive(Debug)]
struct Sub {
    channel: ChannelName,
    /// Key in the hub.
    hub_key: Option<usize>,
    bounds: OutboxBounds,
    subscription: Subscription<Shared>,
    page: Option<Later<Page, Unavailable>>,
}

/// An answer of the broker on its way.
struct Later<T, E>(Pin<Box<dyn Future<Output = Result<T, E>>>>);

impl<T, E> std::fmt::Debug for Later<T, E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Later")
    }
}

/// What only a WebSocket has.
#[derive(Debug)]
struct Socket {
    decoder: Decoder,
    publish_to: Option<ChannelName>,
    publish_refused: Option<Code>,
    /// The newest ping that could not be answered yet.
    pong: Option<Box<[u8]>>,
    /// Since when a ping waits for a byte.
    pinged_at: Option<u32>,
    /// What it published last: its own echo is written before a close is.
    published: Option<Position>,
    /// A publish on its way; what the client sent after it waits in `backlog`.
    publishing: Option<Later<Published, PublishError>>,
    backlog: Vec<u8>,
    is_closed_by_peer: bool,
}

/// How a stream is ending.
#[derive(Debug)]
struct Closing {
    cause: Cause,
    wait: Wait,
}

/// Why a stream ends, which says with what bytes.
#[derive(Debug)]
enum Cause {
    /// All of its channels have ended.
    Ended,
    /// A bare WebSocket can't be told a gap.
    Gap,
    /// The client closed its WebSocket, with this code.
    Peer(Option<u16>),
    /// Something of CONTRACT 7 in mid-stream.
    Problem(Code),
    /// The client broke the WebSocket protocol or a limit.
    Protocol(u16),
    /// The handshake was refused, with this reason.
    Refused(Code, String),
}

/// What has to be written before the end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    /// All that was published before.
    CaughtUp,
    /// Nothing.
    Nothing,
    /// What the client published itself, if it is subscribed to that.
    OwnEcho,
}

/// How far a stream has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// As usual.
    Open,
    /// It ends as [`Inner::closing`] says, at the latest at this tick.
    Closing(u32),
    /// Our end was written: we wait until the peer has gone, at most until this tick.
    Lingering(u32),
    /// The socket is of no use any more.
    Dead,
}

/// Whether a turn got anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Made,
    None,
}

/// Takes over a socket and serves it until it ends.
pub fn start(worker: &Rc<Worker>, stream: TcpStream, start: Stream) {
    if start.websocket.is_none() {
        drop_when_unreachable(&stream);
    }
    let now = worker.tick();
    let mut closing = None;
    let socket = start.websocket.map(|it| {
        closing = it.refusal.map(|(code, reason)| {
            Box::new(Closing { cause: Cause::Refused(code, reason), wait: Wait::Nothing })
        });
        Box::new(Socket {
            decoder: Decoder::new(websocket::Role::Server, &worker.websocket_limits, it.deflate),
            publish_to: it.publish_to,
            publish_refused: it.publish_refused,
            pong: None,
            pinged_at: None,
            published: None,
            publishing: None,
            backlog: start.early.to_vec(),
            is_closed_by_peer: false,
        })
    });
    let mut out = Output::default();
    out.push(start.opening);
    let channels: Vec<_> = start.starts.iter().map(|it| it.channel.clone()).collect();
    let client = Rc::new(Client {
        inner: RefCell::new(Inner {
            stream,
            waker: None,
            out,
            subs: start.starts.into_iter().map(Sub::new).collect(),
            socket,
            phase: if closing.is_some() { Phase::Closing(now + CLOSE_TICKS) } else { Phase::Open },
            closing,
            session: start.session,
            key: 0,
            asked_at: 0,
            written_at: now,
            read_at: now,
            turn: 0,
            form: start.form,
            wire: start.wire,
            echo: start.echo,
        }),
    });
    let key = worker.add_client(&client);
    {
        let mut inner = client.inner.borrow_mut();
        inner.key = key;
        inner.ask(worker);
    }
    for (index, channel) in (0..).zip(channels) {
        // Not while it is borrowed: a channel that opens wakes its subscribers.
        let hub_key = worker.subscribe(&channel, Subscriber::Stream(Rc::clone(&client), index));
        let mut inner = client.inner.borrow_mut();
        if let Some(sub) = inner.subs.get_mut(index as usize) {
            sub.hub_key = Some(hub_key);
        }
        // Before the head is written: what is published by who has seen that reaches it live, also
        // where nothing is kept.
        if let Some((after, at_least)) = inner.wanted_page(worker, index as usize) {
            inner.read_page(worker, index as usize, after, at_least);
        }
    }
    worker.metrics.connected(start.wire);
    worker.spawn(Task { worker: Rc::clone(worker), client });
}

/// A WebSocket's pings find out that its peer is gone without a word; of other streams the kernel
/// does, from keepalives that are not acknowledged.
fn drop_when_unreachable(stream: &TcpStream) {
    #[cfg(target_os = "linux")]
    if let Err(error) = socket2::SockRef::from(stream).set_tcp_user_timeout(Some(UNREACHABLE_AFTER))
    {
        tracing::debug!(%error, "a stream's peer may be gone unnoticed");
    }
    #[cfg(not(target_os = "linux"))]
    let _ = stream;
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

impl Client {
    /// One turn of the client's task.
    fn poll(&self, worker: &Rc<Worker>, cx: &mut Context<'_>) -> Poll<()> {
        let mut inner = self.inner.borrow_mut();
        if !inner.waker.as_ref().is_some_and(|it| it.will_wake(cx.waker())) {
            inner.waker = Some(cx.waker().clone());
        }
        inner.turn(worker, cx);
        if inner.phase != Phase::Dead {
            return Poll::Pending;
        }
        inner.finish(worker);
        Poll::Ready(())
    }

    /// Takes live entries from the hub: writes them at once where nothing waits before them.
    pub fn deliver(&self, worker: &Worker, index: u32, batch: &mut Batch) {
        self.inner.borrow_mut().deliver(worker, index, batch);
    }

    /// Takes a gap from the hub.
    pub fn gap(&self, index: u32, gap: Gap) {
        let mut inner = self.inner.borrow_mut();
        if let Some(sub) = inner.subs.get_mut(index as usize) {
            sub.subscription.handle_gap(gap);
        }
        inner.wake_unless_blocked();
    }

    /// Tells it to look again, such as when a channel was opened.
    pub fn wake(&self) {
        self.inner.borrow().wake();
    }

    /// The wheel asks what is due at `now`, the slot that it was put in being `asked_at`.
    pub fn on_tick(&self, worker: &Worker, asked_at: u32, now: u32) {
        let mut inner = self.inner.borrow_mut();
        if inner.asked_at == asked_at {
            inner.on_tick(worker, now);
            inner.ask(worker);
        }
    }

    /// Ends the stream because the gateway is going away.
    pub fn drain(&self, worker: &Worker) {
        let mut inner = self.inner.borrow_mut();
        inner.close(worker, Cause::Problem(Code::Unavailable), Wait::CaughtUp);
        inner.wake();
    }

    /// How it is counted, and how it follows each of its channels.
    pub fn wire(&self) -> Wire {
        self.inner.borrow().wire
    }
}

impl Sub {
    fn new(start: Start) -> Self {
        Self {
            channel: start.channel,
            hub_key: None,
            bounds: start.bounds,
            subscription: Subscription::new(start.position, start.gap),
            page: None,
        }
    }

    /// Takes a page that was read from where the subscription stood.
    fn handle_page(&mut self, worker: &Worker, page: Page) {
        let Some(hub_last) = worker.hub.borrow().last(&self.channel) else { return };
        let tail = page.tail();
        let ended = page.state.ended;
        let mut items: Vec<_> = page.entries.into_iter().map(|it| worker.shared(it)).collect();
        let is_told = items.last().is_some_and(|it| it.entry().is_end());
        // Who asks at or past the end is told it again (CONTRACT 4).
        if let Some(offset) = ended
            && page.is_last
            && !is_told
        {
            let position = Position { epoch: tail.epoch, offset };
            items.push(Shared::new(Arc::new(Entry {
                channel: self.channel.clone(),
                position,
                prev: 0,
                time: worker.now(),
                body: Body::End,
            })));
        }
        self.subscription.handle_page(page.gap, items, tail, hub_last);
    }

    fn read(
        &self,
        worker: &Worker,
        after: Position,
        at_least: u64,
    ) -> Reply<Result<Page, Unavailable>> {
        let entries = self.bounds.messages.clamp(1, PAGE_ENTRIES);
        worker.broker.read(Read {
            channel: self.channel.clone(),
            from: From::After(after),
            at_least,
            entries_max: u32::try_from(entries)
                .ok()
                .and_then(std::num::NonZeroU32::new)
                .unwrap_or(std::num::NonZeroU32::MIN),
            // What a client holds that stalls in catch-up, beside what it is committed to.
            bytes_max: self.bounds.bytes.min(COMMIT_BYTES),
        })
    }
}

impl Inner {
    fn turn(&mut self, worker: &Rc<Worker>, cx: &mut Context<'_>) {
        self.poll_publish(worker, cx);
        let was_paused = !self.wants_read();
        self.poll_read(worker, cx);
        self.pump(worker, cx);
        if was_paused && self.wants_read() {
            cx.waker().wake_by_ref();
        }
    }

    // ---- Reading -----------------------------------------------------------------------------

    fn wants_read(&self) -> bool {
        if self.phase == Phase::Dead {
            return false;
        }
        // Deliveries that wait hold back no publisher; its own publish on its way does.
        self.socket.as_ref().is_none_or(|it| it.publishing.is_none())
    }

    fn poll_read(&mut self, worker: &Worker, cx: &mut Context<'_>) {
        if let Some(socket) = &mut self.socket
            && !socket.backlog.is_empty()
            && socket.publishing.is_none()
        {
            let mut backlog = std::mem::take(&mut socket.backlog);
            self.handle_bytes(worker, &mut backlog);
        }
        let mut scratch = worker.scratch.take();
        let mut reads = 0;
        while self.wants_read() {
            if reads == READS_PER_TURN {
                cx.waker().wake_by_ref();
                break;
            }
            reads += 1;
            let mut buffer = ReadBuf::new(&mut scratch);
            match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
                Poll::Pending => break,
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    self.read_at = worker.tick();
                    self.handle_bytes(worker, buffer.filled_mut());
                }
                // Gone, with or without a word; a WebSocket without a close is a 1006.
                Poll::Ready(_) => self.phase = Phase::Dead,
            }
        }
        worker.scratch.set(scratch);
    }

    fn handle_bytes(&mut self, worker: &Worker, bytes: &mut [u8]) {
        // What a client of another stream sends behind its request means nothing.
        let Some(mut socket) = self.socket.take() else { return };
        let was_pinged = socket.pinged_at.take().is_some();
        self.decode(worker, &mut socket, bytes);
        let is_over = socket.is_closed_by_peer;
        self.socket = Some(socket);
        // The wheel would ask when the answer was due, and the next ping may be due before.
        if was_pinged && self.deadline(worker) < self.asked_at {
            self.ask(worker);
        }
        if is_over && matches!(self.phase, Phase::Lingering(_)) && self.out.is_empty() {
            self.phase = Phase::Dead;
        }
    }

    fn decode(&mut self, worker: &Worker, socket: &mut Socket, mut input: &mut [u8]) {
        let mut inflaters = worker.inflaters.borrow_mut();
        // One time for what one read brought.
        let now = worker.now();
        loop {
            let event = match socket.decoder.next(&mut input, &mut inflaters) {
                Ok(Some(event)) => event,
                Ok(None) => return,
                Err(error) => {
                    tracing::debug!(%error, "websocket: protocol error");
                    return self.close(worker, Cause::Protocol(close::code(&error)), Wait::OwnEcho);
                }
            };
            match event {
                Event::Message { kind, data } => {
                    // Decoded still: the peer's close comes behind it.
                    if self.closing.is_some() {
                        continue;
                    }
                    let Some(channel) = &socket.publish_to else {
                        let cause = Cause::Protocol(close::UNSUPPORTED);
                        self.close(worker, cause, Wait::OwnEcho);
                        continue;
                    };
                    if let Some(code) = socket.publish_refused {
                        self.close(worker, Cause::Problem(code), Wait::OwnEcho);
                        continue;
                    }
                    let publication = publication(kind, data, self.session);
                    let draft = worker.draft(channel.clone(), publication, now);
                    match worker.publish(draft) {
                        Reply::Now(result) => match result {
                            Ok(Published::New(at) | Published::Duplicate(at)) => {
                                socket.published = Some(at);
                            }
                            Err(error) => self.publish_failed(worker, error),
                        },
                        Reply::Later(reply) => {
                            socket.publishing = Some(Later(reply));
                            socket.backlog = input.to_vec();
                            self.wake();
                            return;
                        }
                    }
                }
                Event::Ping(payload) => {
                    if self.out.bytes() < REPLY_BYTES_MAX {
                        self.out.push(pong(payload));
                    } else {
                        socket.pong = Some(payload.into());
                    }
                }
                Event::Pong(_) => {}
                Event::Close { code, .. } => {
                    socket.is_closed_by_peer = true;
                    return self.close(worker, Cause::Peer(code), Wait::OwnEcho);
                }
            }
        }
    }

    fn poll_publish(&mut self, worker: &Worker, cx: &mut Context<'_>) {
        let Some(socket) = &mut self.socket else { return };
        let Some(reply) = &mut socket.publishing else { return };
        let Poll::Ready(result) = reply.0.as_mut().poll(cx) else { return };
        socket.publishing = None;
        match result {
            Ok(Published::New(at) | Published::Duplicate(at)) => socket.published = Some(at),
            Err(error) => self.publish_failed(worker, error),
        }
    }

    fn publish_failed(&mut self, worker: &Worker, error: PublishError) {
        let code = match error {
            PublishError::Ended => Code::Ended,
            PublishError::KeyReused => Code::InvalidArgument,
            PublishError::KeysFull { .. } => Code::RateLimited,
            PublishError::Unavailable { .. } => Code::Unavailable,
        };
        self.close(worker, Cause::Problem(code), Wait::OwnEcho);
    }

    // ---- Writing -----------------------------------------------------------------------------

    /// Writes what waits, until nothing does or the socket takes no more.
    fn pump(&mut self, worker: &Rc<Worker>, cx: &mut Context<'_>) {
        let mut pages = 0;
        while self.phase != Phase::Dead {
            let had = !self.out.is_empty();
            match self.out.poll_flush(&mut self.stream, cx) {
                Poll::Pending => return,
                Poll::Ready(Err(_)) => {
                    self.phase = Phase::Dead;
                    return;
                }
                Poll::Ready(Ok(())) if had => self.written_at = worker.tick(),
                Poll::Ready(Ok(())) => {}
            }
            if matches!(self.phase, Phase::Lingering(_)) {
                return self.linger(cx);
            }
            if let Some(pong_for) = self.socket.as_mut().and_then(|it| it.pong.take()) {
                self.out.push(pong(&pong_for));
                continue;
            }
            if self.is_ready_to_end() {
                self.write_end(worker);
                continue;
            }
            if self.refill(worker, cx, &mut pages) == Progress::None {
                return;
            }
        }
    }

    /// Our end is written. A WebSocket whose peer has closed is done; another peer gets the time to
    /// read what we wrote: a socket that is dropped with unread input resets it.
    fn linger(&mut self, cx: &mut Context<'_>) {
        let is_done = self.socket.as_ref().is_some_and(|it| it.is_closed_by_peer);
        let waits_for_close = matches!(
            self.closing.as_deref(),
            Some(Closing { cause: Cause::Ended | Cause::Gap | Cause::Problem(_), .. })
        ) && self.socket.is_some();
        if is_done {
            self.phase = Phase::Dead;
        } else if !waits_for_close {
            let _ = Pin::new(&mut self.stream).poll_shutdown(cx);
        }
    }

    fn is_ready_to_end(&self) -> bool {
        match self.closing.as_deref().map(|it| it.wait) {
            None => false,
            Some(Wait::Nothing) => true,
            Some(Wait::OwnEcho) => {
                let published = self.socket.as_ref().and_then(|it| it.published);
                let (Some(published), true) = (published, self.echo) else { return true };
                self.subs.iter().all(|sub| {
                    let at = sub.subscription.resume();
                    at.epoch != published.epoch
                        || at.offset >= published.offset
                        || sub.subscription.mode() == Mode::Ended
                })
            }
            Some(Wait::CaughtUp) => self
                .subs
                .iter()
                .all(|sub| sub.subscription.is_idle() && sub.subscription.mode() != Mode::CatchUp),
        }
    }

    /// Adds to the output until enough is committed or nothing waits.
    fn refill(&mut self, worker: &Rc<Worker>, cx: &mut Context<'_>, pages: &mut usize) -> Progress {
        let mut progress = Progress::None;
        let count = self.subs.len();
        for step in 0..count {
            let index = (usize::from(self.turn) + step) % count;
            if self.refill_page(worker, cx, index, pages) == Progress::Made {
                progress = Progress::Made;
            }
            while self.out.bytes() < COMMIT_BYTES && self.closing_lets_entries_through() {
                let Some(sub) = self.subs.get_mut(index) else { break };
                let Some(next) = sub.subscription.next() else { break };
                progress = Progress::Made;
                self.write_step(worker, index, next);
            }
        }
        self.turn = self.turn.wrapping_add(1);
        let has_ended = count > 0
            && self.subs.iter().all(|sub| sub.subscription.mode() == Mode::Ended)
            && self.closing.is_none();
        if has_ended {
            self.close(worker, Cause::Ended, Wait::Nothing);
            progress = Progress::Made;
        }
        progress
    }

    fn closing_lets_entries_through(&self) -> bool {
        self.closing.as_deref().is_none_or(|it| it.wait != Wait::Nothing)
    }

    fn refill_page(
        &mut self,
        worker: &Rc<Worker>,
        cx: &mut Context<'_>,
        index: usize,
        pages: &mut usize,
    ) -> Progress {
        let Some(sub) = self.subs.get_mut(index) else { return Progress::None };
        if let Some(reply) = &mut sub.page {
            let Poll::Ready(page) = reply.0.as_mut().poll(cx) else { return Progress::None };
            sub.page = None;
            self.handle_page(worker, index, page);
            return Progress::Made;
        }
        let Some((after, at_least)) = self.wanted_page(worker, index) else {
            return Progress::None;
        };
        if *pages == PAGES_PER_TURN {
            cx.waker().wake_by_ref();
            return Progress::None;
        }
        *pages += 1;
        self.read_page(worker, index, after, at_least);
        Progress::Made
    }

    /// Where a subscription wants to read on, and what the page must have seen. Nowhere while its
    /// channel is not opened yet: whoever opens it wakes us.
    fn wanted_page(&self, worker: &Worker, index: usize) -> Option<(Position, u64)> {
        let sub = self.subs.get(index)?;
        let after = sub.subscription.wants_page()?;
        Some((after, worker.hub.borrow().last(&sub.channel)?.offset))
    }

    fn read_page(&mut self, worker: &Worker, index: usize, after: Position, at_least: u64) {
        let Some(sub) = self.subs.get_mut(index) else { return };
        match sub.read(worker, after, at_least) {
            Reply::Now(page) => self.handle_page(worker, index, page),
            later @ Reply::Later(_) => sub.page = Some(Later(Box::pin(later))),
        }
    }

    fn handle_page(&mut self, worker: &Worker, index: usize, page: Result<Page, Unavailable>) {
        match (page, self.subs.get_mut(index)) {
            (Ok(page), Some(sub)) => sub.handle_page(worker, page),
            (Err(Unavailable), _) => {
                self.close(worker, Cause::Problem(Code::Unavailable), Wait::Nothing);
            }
            (_, None) => {}
        }
    }

    fn write_step(&mut self, worker: &Worker, index: usize, step: Step<Shared>) {
        let form = self.form;
        let mut encoder = worker.encoder.borrow_mut();
        match step {
            Step::Item(item) => {
                if !self.echo && item.origin() == Some(self.session) {
                    return;
                }
                let piece = if self.subs.len() == 1 {
                    item.bytes(form, &mut encoder)
                } else {
                    encoder.joined(item.entry(), form, &self.resume())
                };
                worker.metrics.delivered(1, piece.len());
                self.out.push(piece);
            }
            Step::Gap(gap) => {
                let Some(sub) = self.subs.get(index) else { return };
                let is_bare = form.format == Format::Ws;
                // Silent on what its policy drops, and on that alone (CONTRACT 4).
                let is_conflated = sub.bounds.policy == Policy::Conflate;
                if is_bare && is_conflated && gap.reason == GapReason::Slow {
                    return;
                }
                worker.metrics.gap(gap.reason);
                if is_bare {
                    drop(encoder);
                    return self.close(worker, Cause::Gap, Wait::Nothing);
                }
                let is_joined = self.subs.len() > 1;
                let piece = encoder.gap(&sub.channel, &gap, &self.resume(), form, is_joined);
                self.out.push(piece);
            }
        }
    }

    /// The cursor to resume from: one per channel, joined by dots.
    fn resume(&self) -> Vec<u8> {
        let mut joined = Vec::with_capacity(26 * self.subs.len());
        for sub in &self.subs {
            if !joined.is_empty() {
                joined.push(b'.');
            }
            sub.subscription.resume().cursor(&sub.channel).write(&mut joined);
        }
        joined
    }

    // ---- The hub -----------------------------------------------------------------------------

    fn deliver(&mut self, worker: &Worker, index: u32, batch: &mut Batch) {
        if matches!(self.phase, Phase::Lingering(_) | Phase::Dead) {
            return;
        }
        if self.deliver_at_once(worker, index, batch) {
            return;
        }
        let Some(sub) = self.subs.get_mut(index as usize) else { return };
        for item in &batch.items {
            match sub.subscription.offer(item.clone(), &sub.bounds) {
                Offered::Ignored | Offered::Waits { dropped: false } => {}
                Offered::Waits { dropped: true } => worker.metrics.overflow(sub.bounds.policy),
                Offered::Spilled => {
                    worker.metrics.overflow(Policy::Spill);
                    break;
                }
                Offered::Disconnect => {
                    worker.metrics.overflow(Policy::Disconnect);
                    self.close(worker, Cause::Problem(Code::SlowConsumer), Wait::Nothing);
                    break;
                }
            }
        }
        self.bound_total(worker);
        self.wake_unless_blocked();
    }

    /// Writes a batch past the outbox; `false` where something is in the way.
    fn deliver_at_once(&mut self, worker: &Worker, index: u32, batch: &mut Batch) -> bool {
        let (Some(first), Some((to, ended))) = (batch.first(), batch.last()) else { return true };
        if self.phase != Phase::Open
            || !self.out.is_empty()
            || self.subs.len() != 1
            || (!self.echo && batch.is_from(self.session))
        {
            return false;
        }
        let Some(sub) = self.subs.get_mut(index as usize) else { return false };
        if !sub.subscription.is_level(first) {
            return false;
        }
        let bytes = batch.bytes(self.form, &mut worker.encoder.borrow_mut());
        let written = if bytes.is_empty() { Ok(0) } else { self.stream.try_write(&bytes) };
        match written {
            Ok(written) => {
                sub.subscription.advance(to, ended);
                self.written_at = worker.tick();
                worker.metrics.delivered(batch.items.len(), bytes.len());
                if written < bytes.len() {
                    self.out.push(bytes.slice(written..));
                    self.wake();
                } else if ended {
                    self.wake();
                }
                true
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => false,
            Err(_) => {
                self.phase = Phase::Dead;
                self.wake();
                true
            }
        }
    }

    /// Over the connection's total, the fullest subscription overflows (DESIGN 6).
    fn bound_total(&mut self, worker: &Worker) {
        if self.subs.len() < 2 {
            return;
        }
        while self.subs.iter().map(|it| it.subscription.bytes()).sum::<usize>()
            > worker.config.http.max_outbox
        {
            let fullest = self.subs.iter_mut().max_by_key(|it| it.subscription.bytes());
            let Some(sub) = fullest else { return };
            worker.metrics.overflow(sub.bounds.policy);
            match sub.bounds.policy {
                Policy::Spill => sub.subscription.spill(),
                Policy::Conflate | Policy::DropOldest => sub.subscription.drop_oldest(),
                Policy::Disconnect => {
                    return self.close(worker, Cause::Problem(Code::SlowConsumer), Wait::Nothing);
                }
            }
        }
    }

    fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }

    /// While something is committed the task waits for the socket, and a wake would be for nothing.
    fn wake_unless_blocked(&self) {
        if self.out.is_empty() {
            self.wake();
        }
    }

    // ---- Time --------------------------------------------------------------------------------

    /// When the wheel has to ask again.
    fn deadline(&self, worker: &Worker) -> u32 {
        match (self.phase, &self.socket) {
            (Phase::Closing(at) | Phase::Lingering(at), _) => at,
            (_, Some(socket)) => match socket.pinged_at {
                Some(at) => at.saturating_add(worker.ping_timeout),
                None => self.read_at.saturating_add(worker.ping_interval),
            },
            (_, None) => self.written_at.saturating_add(KEEPALIVE_TICKS),
        }
    }

    fn ask(&mut self, worker: &Worker) {
        if self.phase != Phase::Dead {
            self.asked_at = worker.ask_at(self.key, self.deadline(worker));
        }
    }

    fn on_tick(&mut self, worker: &Worker, now: u32) {
        if self.deadline(worker) > now {
            return;
        }
        match self.phase {
            Phase::Dead => {}
            Phase::Closing(_) if self.out.is_empty() => {
                if let Some(closing) = &mut self.closing {
                    closing.wait = Wait::Nothing;
                }
                self.phase = Phase::Closing(now.saturating_add(CLOSE_TICKS));
                self.wake();
            }
            Phase::Closing(_) | Phase::Lingering(_) => {
                self.phase = Phase::Dead;
                self.wake();
            }
            Phase::Open => self.keep_alive(now),
        }
    }

    fn keep_alive(&mut self, now: u32) {
        match &mut self.socket {
            Some(socket) if socket.pinged_at.is_some() => {
                self.phase = Phase::Dead;
                self.wake();
            }
            Some(socket) => {
                socket.pinged_at = Some(now);
                // Behind whatever waits: who reads slowly has nothing else to answer.
                self.write_small(PING);
            }
            None => {
                self.written_at = now;
                if self.out.is_empty() {
                    self.write_small(Encoder::keepalive(self.form));
                }
            }
        }
    }

    /// Writes a few bytes at once where nothing waits, since many clients have them due together.
    fn write_small(&mut self, bytes: &'static [u8]) {
        let is_free = self.out.is_empty();
        let written = if is_free { self.stream.try_write(bytes).unwrap_or(0) } else { 0 };
        if let Some(rest @ [_, ..]) = bytes.get(written..) {
            self.out.push(Bytes::from_static(rest));
            self.wake();
        }
    }

    // ---- The end -----------------------------------------------------------------------------

    fn close(&mut self, worker: &Worker, cause: Cause, wait: Wait) {
        if self.closing.is_some() || self.phase != Phase::Open {
            return;
        }
        self.closing = Some(Box::new(Closing { cause, wait }));
        self.phase = Phase::Closing(worker.tick().saturating_add(CLOSE_TICKS));
        self.ask(worker);
    }

    /// Commits what ends the stream as its wire says.
    fn write_end(&mut self, worker: &Worker) {
        let Some(closing) = self.closing.take() else { return };
        let piece = match &self.socket {
            Some(_) => self.close_frame(worker, &closing.cause),
            None => self.last_bytes(worker, &closing.cause),
        };
        self.out.push(piece);
        self.closing = Some(closing);
        self.phase = Phase::Lingering(worker.tick().saturating_add(CLOSE_TICKS));
        self.ask(worker);
    }

    fn close_frame(&self, worker: &Worker, cause: &Cause) -> Bytes {
        let code = match cause {
            Cause::Ended => Some(close::NORMAL),
            Cause::Gap => Some(CLOSE_GAP),
            Cause::Peer(code) => *code,
            Cause::Problem(Code::Unavailable) | Cause::Refused(Code::Unavailable, _)
                if worker.is_draining() =>
            {
                Some(close::SERVICE_RESTART)
            }
            Cause::Problem(code) | Cause::Refused(code, _) => {
                Some(code.websocket_close().unwrap_or(close::INTERNAL))
            }
            Cause::Protocol(code) => Some(*code),
        };
        // Of an accepted bare WebSocket the reason is where to go on (CONTRACT 4).
        let reason = match cause {
            Cause::Peer(_) => String::new(),
            Cause::Refused(_, reason) => reason.clone(),
            Cause::Problem(code) if self.subs.len() != 1 => code.as_str().into(),
            _ if self.subs.len() == 1 => String::from_utf8(self.resume()).unwrap_or_default(),
            _ => String::new(),
        };
        let mut frame = Vec::new();
        encode::close(code, &reason, None, &mut frame);
        frame.into()
    }

    fn last_bytes(&self, worker: &Worker, cause: &Cause) -> Bytes {
        let mut bytes = Vec::new();
        if let Cause::Problem(code) = cause {
            let (message, retry_after) = worker.mid_stream(*code);
            let mut encoder = worker.encoder.borrow_mut();
            let retry = worker.retry_ms();
            let error = encoder.error(code.as_str(), message, retry_after, retry, self.form);
            bytes.extend_from_slice(&error);
        }
        bytes.extend_from_slice(last_chunk(self.form));
        bytes.into()
    }

    fn finish(&mut self, worker: &Rc<Worker>) {
        for sub in self.subs.drain(..) {
            if let Some(key) = sub.hub_key {
                worker.unsubscribe(&sub.channel, key);
            }
        }
        worker.remove_client(self.key);
        let code = match self.closing.as_deref().map(|it| &it.cause) {
            Some(Cause::Problem(code) | Cause::Refused(code, _)) => Some(*code),
            Some(Cause::Protocol(_)) => Some(Code::InvalidArgument),
            Some(Cause::Ended | Cause::Gap | Cause::Peer(_)) | None => None,
        };
        worker.metrics.disconnected(self.wire, code);
        tracing::info!(
            session = format_args!("{:016x}", self.session.0),
            wire = self.wire.as_str(),
            code = code.map_or("none", Code::as_str),
            "disconnected"
        );
    }
}

/// A WebSocket message as a publication.
fn publication(kind: Kind, data: &[u8], session: SessionId) -> Publication {
    let bytes = Bytes::copy_from_slice(data);
    let payload = match kind {
        Kind::Text => Payload::from_websocket_text(bytes),
        Kind::Binary => Payload::from_websocket_binary(bytes),
    };
    Publication { payload, event: None, user: None, origin: Some(session) }
}

fn pong(payload: &[u8]) -> Bytes {
    let mut frame = Vec::with_capacity(payload.len() + 2);
    encode::pong(payload, None, &mut frame);
    frame.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ping_is_one() {
        let mut frame = Vec::new();
        encode::ping(&[], None, &mut frame);
        assert_eq!(frame, PING);
    }

    /// What an idle client costs beside its socket's registration: the list of DESIGN 5.
    #[test]
    fn an_idle_client_is_small() {
        let sizes = [
            size_of::<RefCell<Inner>>() + 2 * size_of::<usize>(),
            size_of::<Sub>(),
            size_of::<Socket>(),
            size_of::<Task>() + size_of::<usize>(),
            size_of::<Subscriber>() + size_of::<usize>(),
            // The worker's list and the wheel's slot.
            2 * size_of::<usize>() + size_of::<u32>(),
        ];
        assert!(sizes.iter().sum::<usize>() <= 760, "{sizes:?}");
    }
}
