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

mod ending;
mod input;
mod output;
mod presence;
pub mod session;

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use tidegate_broker::{From, Page, PublishError, Published, Read, Reply, Unavailable};
use tidegate_core::hub::HubChannel;
use tidegate_core::presence::{Parting, Round};
use tidegate_core::{
    Body, ChannelName, Entry, Gap, GapReason, OutboxBounds, Position, SessionId, Subscription,
    Timestamp,
};
use tidegate_wire::websocket::{self, Decoder};
use tokio::net::TcpStream;

use self::input::Pace;
use self::session::Session;
use super::forms::{Form, Format, Framing, Shared};
use super::hub::{Batch, News, Subscriber};
use super::opening::Held;
use super::output::{COMMIT_BYTES, Output};
use super::wheel;
use crate::config::Class;
use crate::problem::Code;
use crate::transport::Wire;
use crate::turns::Place;
use crate::worker::Worker;

/// Entries of one page.
const PAGE_ENTRIES: usize = 256;

/// How long a close may take (CONTRACT 8).
const CLOSE_TICKS: u32 = 5 * wheel::TICKS_PER_SECOND;

/// How long what was written to an SSE or NDJSON stream may be unacknowledged by its peer's kernel.
#[cfg(target_os = "linux")]
const UNREACHABLE_AFTER: std::time::Duration = std::time::Duration::from_secs(40);

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
#[derive(Debug)]
pub struct Start {
    /// The channel.
    pub channel: ChannelName,
    /// Where it is, as the broker judged it.
    pub position: Position,
    /// What it missed already.
    pub gap: Option<Gap>,
    /// What may wait for it.
    pub bounds: OutboxBounds,
    /// Whether there is an end, which its log has to tell.
    pub has_ended: bool,
    /// Keeps its channel open until it is registered.
    pub held: Held,
}

impl Start {
    /// Where a client that is cut before anything comes has to resume.
    #[must_use]
    pub fn resume(&self) -> Position {
        self.gap.map_or(self.position, |gap| gap.requested)
    }
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
    /// Among those who share what everyone else leaves.
    place: Place,
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
    /// How its entries are wrapped.
    framing: Framing,
    /// Its log can't be read: an enveloped connection goes on without it.
    is_lost: bool,
    /// When it was made.
    since: Timestamp,
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
    pace: Pace,
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
    /// What only an enveloped connection has.
    session: Option<Box<Session>>,
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
    /// The client broke the protocol of envelopes: the code, and what is due.
    Broken(u16, &'static str),
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
            pace: Pace::default(),
            publish_to: it.publish_to,
            publish_refused: it.publish_refused,
            pong: None,
            pinged_at: None,
            published: None,
            publishing: None,
            backlog: start.early.to_vec(),
            session: (start.form.format == Format::Envelope).then(Box::default),
            is_closed_by_peer: false,
        })
    });
    let mut out = Output::default();
    out.push(start.opening);
    // Room for no more than there are: what grows by itself begins with four.
    let mut subs = Vec::with_capacity(start.starts.len());
    let mut begun = Vec::with_capacity(start.starts.len());
    for it in start.starts {
        let (sub, rest) = Sub::new(worker, it, start.form);
        subs.push(sub);
        begun.push(rest);
    }
    let client = Rc::new(Client {
        inner: RefCell::new(Inner {
            stream,
            waker: None,
            out,
            subs,
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
            place: Place::default(),
        }),
    });
    let key = worker.add_client(&client);
    {
        let mut inner = client.inner.borrow_mut();
        inner.key = key;
        inner.ask(worker);
    }
    for (index, begun) in begun.into_iter().enumerate() {
        let mut inner = client.inner.borrow_mut();
        let Inner { subs, socket, .. } = &mut *inner;
        let from = Sub::register(subs, worker, &client, index, begun, start.session);
        if let Some((channel, from)) = from
            && let Some(session) = socket.as_mut().and_then(|it| it.session.as_mut())
        {
            session.entered(channel, from);
        }
        if let Some((after, at_least)) = inner.wanted_page(worker, index) {
            inner.read_page(worker, index, after, at_least);
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
        // Thousands may leave at once: who stays goes before them.
        if inner.phase != Phase::Dead || !inner.may_go_on(worker) {
            return Poll::Pending;
        }
        worker.turns.charge(|| inner.finish(worker));
        Poll::Ready(())
    }

    /// Takes live entries from the hub: writes them at once where nothing waits before them.
    pub fn deliver(&self, worker: &Worker, index: u32, batch: &mut Batch<'_>) {
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

    /// Takes what is new of who is present in one of its channels.
    pub fn tell_presence(&self, worker: &Worker, news: &mut News) {
        let mut inner = self.inner.borrow_mut();
        if inner.is_enveloped() {
            inner.tell_presence(worker, news);
        }
    }

    /// Tells it to look again, such as when a channel was opened.
    pub fn wake(&self) {
        self.inner.borrow().wake();
    }

    /// It is its turn.
    pub fn let_in(&self) {
        let inner = self.inner.borrow();
        inner.place.let_in();
        inner.wake();
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
    /// Whether there is an end, and what keeps the channel open, beside it.
    fn new(worker: &Worker, start: Start, form: Form) -> (Self, (bool, Held)) {
        let is_secret = || worker.config.channel(start.channel.as_str()).class == Class::Secret;
        let framing = match form {
            // Of one connection's channels each has its own class.
            Form { format: Format::Envelope, framing: Framing::Deflated } if is_secret() => {
                Framing::Plain
            }
            Form { framing, .. } => framing,
        };
        let it = Self {
            hub_key: None,
            bounds: start.bounds,
            subscription: Subscription::new(start.position, start.gap),
            page: None,
            channel: start.channel,
            framing,
            is_lost: false,
            since: worker.now(),
        };
        (it, (start.has_ended, start.held))
    }

    /// Puts one of `subs` into the hub, in the turn in which it is known where it begins, and its
    /// client into who is present. The answer is for who is told of that: from which round on.
    fn register(
        subs: &mut [Self],
        worker: &Rc<Worker>,
        client: &Rc<Client>,
        index: usize,
        (has_ended, held): (bool, Held),
        session: SessionId,
    ) -> Option<(ChannelName, Round)> {
        let sub = subs.get_mut(index)?;
        let subscriber = Subscriber::Stream(Rc::clone(client), u32::try_from(index).ok()?);
        sub.hub_key = Some(worker.subscribe(&sub.channel, subscriber));
        // Before the head is written: what is published by who has seen that reaches it live, also
        // where nothing is kept.
        if !has_ended {
            sub.level(worker);
        }
        drop(held);
        let from = worker.enter(&sub.channel, session)?;
        Some((sub.channel.clone(), from))
    }

    /// Takes it out of the hub, and its client out of who is present.
    fn leave(&self, worker: &Worker, session: SessionId, parting: Parting) {
        if let Some(key) = self.hub_key {
            worker.unsubscribe(&self.channel, key);
            worker.exit(&self.channel, session, parting);
        }
    }

    /// Becomes live where the log has nothing that the hub does not bring.
    fn level(&mut self, worker: &Worker) {
        let hub = worker.hub.borrow();
        let channel = hub.channel(&self.channel).filter(|it| !it.has_ended());
        if let Some(last) = channel.and_then(HubChannel::last) {
            self.subscription.level_with(last);
        }
    }

    /// Takes a page that was read from where the subscription stood.
    fn handle_page(&mut self, worker: &Worker, page: Page) {
        let Some(hub_last) = worker.hub.borrow().last(&self.channel) else { return };
        let (mut gap, mut tail) = (page.gap, page.tail());
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
        let is_behind = tail.epoch == hub_last.epoch && tail.offset < hub_last.offset;
        let keeps_none = || worker.config.channel(self.channel.as_str()).keeps_none();
        if is_behind && page.is_last && items.is_empty() && keeps_none() {
            // What the hub has delivered meanwhile can't be read, now or ever.
            let requested = gap.map_or(self.subscription.tail(), |it| it.requested);
            let reason = gap.map_or(GapReason::Expired, |it| it.reason);
            gap = Some(Gap { requested, resumed: hub_last, reason });
            tail = hub_last;
        }
        self.subscription.handle_page(gap, items, tail, hub_last);
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
        self.poll_read(worker, cx);
        let is_paused = !self.wants_read();
        self.pump(worker, cx);
        let may_go_on = self.socket.as_ref().is_none_or(|it| it.is_free_next());
        if is_paused && may_go_on && self.phase != Phase::Dead {
            cx.waker().wake_by_ref();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ping_is_one() {
        let mut frame = Vec::new();
        websocket::encode::ping(&[], None, &mut frame);
        assert_eq!(frame, ending::PING);
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
