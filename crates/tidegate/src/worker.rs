//! A worker: one OS thread with its own runtime, hub and clients (DESIGN 1).
//!
//! A connection never changes worker, and inside one nothing is locked. What comes from outside is
//! the broker's tail, through the inbox, and [`Command`]s.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use slab::Slab;
use tidegate_broker::{Broker, Inbox, PublishError, Published, Reply, SinkId};
use tidegate_core::hub::{Effect, Hub};
use tidegate_core::presence::{Member, Parting, Round};
use tidegate_core::{
    ChannelName, ChannelState, Draft, Entry, OutboxBounds, Policy, Publication, SessionId,
    Timestamp,
};
use tidegate_wire::websocket::{InflaterPool, Limits};
use tokio::sync::mpsc;

use crate::config::{Access, Config};
use crate::connection::http1::{self, Connection};
use crate::driver::client::Client;
use crate::driver::forms::{Encoder, Shared};
use crate::driver::hub::{self, Subscriber};
use crate::driver::late::Late;
use crate::driver::wheel::{self, Wheel};
use crate::gateway::{Accepted, Command, Gateway};
use crate::metrics::WorkerMetrics;
use crate::problem::{Code, Problem};
use crate::refusals::Refusals;
use crate::server::EndOnPanic;
use crate::transport::Wire;
use crate::turns::{Sharer, Turns};

/// Bytes that one read can bring; all clients of a worker share the buffer. A message that a read cuts
/// is copied once more: with 64 KiB one of 64 KiB costs a third more than with this (bench/codec).
pub const SCRATCH_BYTES: u32 = 512 << 10;

/// Connections that are taken in before others get their turns: about a fifth of a millisecond's.
const ACCEPTED_TOGETHER: u32 = 16;

/// Entries that many catching-up clients may share (DESIGN 9), and the largest that is shared so.
const RECENT_SLOTS: usize = 1024;
const RECENT_BYTES_MAX: usize = 16 << 10;

/// One worker's state; its tasks share it.
pub struct Worker {
    /// Which inbox is ours.
    pub id: SinkId,
    /// The configuration.
    pub config: Arc<Config>,
    /// The one log.
    pub broker: Arc<dyn Broker>,
    /// Where its tail ends.
    pub inbox: Arc<Inbox>,
    /// Channels that have subscribers here.
    pub hub: RefCell<Hub<Subscriber>>,
    /// What it waits for of a broker that answers later.
    pub late: Late,
    /// What is counted here.
    pub metrics: Arc<WorkerMetrics>,
    /// What is logged of who is refused here.
    pub refusals: Refusals,
    /// What all workers share.
    pub gateway: Arc<Gateway>,
    /// What encoding needs.
    pub encoder: RefCell<Encoder>,
    /// What inflating needs.
    pub inflaters: RefCell<InflaterPool>,
    /// The buffer that reads go to; taken while one is under way.
    pub scratch: Cell<Vec<u8>>,
    /// Of every WebSocket.
    pub websocket_limits: Limits,
    /// How long a WebSocket may be silent before it is pinged, in ticks.
    pub ping_interval: u32,
    /// How long a ping may be without an answer, in ticks.
    pub ping_timeout: u32,
    /// Whose idempotency keys they are, where there are no tokens.
    pub nobody: Arc<str>,
    clients: RefCell<Slab<Rc<Client>>>,
    connections: RefCell<Slab<Rc<Connection>>>,
    /// Entries that were read from a log lately, by offset.
    recent: RefCell<Vec<Option<Shared>>>,
    /// Whether any was asked for in this second: nobody needs them when nobody catches up.
    is_recent_used: Cell<bool>,
    wheel: RefCell<Wheel>,
    started: Instant,
    tick: Cell<u32>,
    /// Whether the hub's task has delivered all that it took from the inbox.
    pub is_hub_idle: Cell<bool>,
    /// Who has to share with others.
    pub turns: Turns,
    drafts: Cell<u64>,
    draft_seed: u64,
}

/// Runs a worker until it was told to drain.
///
/// # Errors
///
/// If the runtime can't be made.
pub fn run(
    gateway: &Arc<Gateway>,
    id: SinkId,
    inbox: Arc<Inbox>,
    commands: mpsc::Receiver<Command>,
) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())?;
    let Some(metrics) = gateway.metrics.get(usize::from(id.0)).map(Arc::clone) else {
        return Ok(());
    };
    runtime.block_on(Worker::new(gateway, id, inbox, metrics).serve(commands));
    // Dropping the runtime drops whatever task outlived the deadline.
    Ok(())
}

impl Worker {
    fn new(
        gateway: &Arc<Gateway>,
        id: SinkId,
        inbox: Arc<Inbox>,
        metrics: Arc<WorkerMetrics>,
    ) -> Rc<Self> {
        let config = Arc::clone(&gateway.config);
        let websocket = &config.websocket;
        let saturate = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
        Rc::new(Self {
            id,
            websocket_limits: Limits {
                message_len_max: saturate(websocket.max_message),
                fragments_max: saturate(websocket.max_fragments.get()),
            },
            ping_interval: wheel::ticks(websocket.ping_interval),
            ping_timeout: wheel::ticks(websocket.ping_timeout),
            nobody: Arc::from(""),
            broker: Arc::clone(&gateway.broker),
            config,
            inbox,
            hub: RefCell::default(),
            late: Late::default(),
            metrics,
            refusals: Refusals::default(),
            gateway: Arc::clone(gateway),
            encoder: RefCell::new(Encoder::new(Arc::clone(&gateway.compressed))),
            inflaters: RefCell::new(InflaterPool::new()),
            scratch: Cell::new(vec![0; SCRATCH_BYTES as usize]),
            clients: RefCell::default(),
            connections: RefCell::default(),
            recent: RefCell::new(vec![None; RECENT_SLOTS]),
            is_recent_used: Cell::new(false),
            wheel: RefCell::default(),
            started: Instant::now(),
            tick: Cell::new(0),
            is_hub_idle: Cell::new(true),
            turns: Turns::default(),
            drafts: Cell::new(0),
            draft_seed: fastrand::u64(..),
        })
    }

    async fn serve(self: Rc<Self>, commands: mpsc::Receiver<Command>) {
        let hub = tokio::task::spawn_local(hub::run(Rc::clone(&self)));
        let letting_in = tokio::task::spawn_local(Rc::clone(&self).let_in());
        self.obey(commands).await;
        hub.abort();
        letting_in.abort();
        // It was cancelled: a panic of it would have ended the process.
        let _ = hub.await;
        let _ = letting_in.await;
        self.late.end().await;
    }

    async fn obey(self: &Rc<Self>, mut commands: mpsc::Receiver<Command>) {
        let mut ticks = tokio::time::interval(wheel::TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let mut due = Vec::new();
        let mut accepted_together = 0;
        loop {
            // Cancel safe: both keep what they have for the next call.
            tokio::select! {
                command = commands.recv() => match command {
                    Some(Command::Accept(accepted)) => {
                        self.accept(accepted);
                        accepted_together += 1;
                        if accepted_together == ACCEPTED_TOGETHER {
                            accepted_together = 0;
                            tokio::task::yield_now().await;
                        }
                    }
                    Some(Command::Count { channels, reply }) => {
                        // Who asked may have gone.
                        let _ = reply.send(self.count(&channels));
                    }
                    Some(Command::Presence(told)) => hub::tell_presence(self, told).await,
                    Some(Command::Drain(within)) => return self.drain(within, commands).await,
                    None => return,
                },
                _ = ticks.tick() => self.turn_wheel(&mut due),
            }
        }
    }

    /// Lets in those who share what everyone else leaves, as their turns come.
    async fn let_in(self: Rc<Self>) {
        let _guard = EndOnPanic;
        loop {
            for sharer in self.turns.next().await {
                match sharer {
                    Sharer::Client(key) => {
                        if let Some(client) = self.client(key) {
                            client.let_in();
                        }
                    }
                    Sharer::Connection(connection) => connection.let_in(),
                }
            }
        }
    }

    fn accept(self: &Rc<Self>, accepted: Accepted) {
        let Accepted { stream, peer, is_surplus } = accepted;
        match tokio::net::TcpStream::from_std(stream) {
            Ok(stream) => http1::start(self, stream, peer, is_surplus),
            Err(error) => {
                if self.refusals.has_room(Code::Internal) {
                    tracing::warn!(%error, "a connection could not be registered");
                }
                self.metrics.closed();
            }
        }
    }

    // ---- Time --------------------------------------------------------------------------------

    fn turn_wheel(&self, due: &mut Vec<(u32, u32)>) {
        let ticks = self.started.elapsed().as_millis() / wheel::TICK.as_millis();
        let now = u32::try_from(ticks).unwrap_or(u32::MAX);
        let before = self.tick.replace(now);
        if now / wheel::TICKS_PER_SECOND != before / wheel::TICKS_PER_SECOND {
            self.refusals.turn();
            self.inflaters.borrow_mut().trim();
            if !self.is_recent_used.replace(false) {
                self.recent.borrow_mut().fill(None);
            }
        }
        self.wheel.borrow_mut().turn(now, due);
        for (key, asked_at) in due.drain(..) {
            let client = self.clients.borrow().get(key as usize).map(Rc::clone);
            if let Some(client) = client {
                client.on_tick(self, asked_at, now);
            }
        }
    }

    /// The last tick of the wheel.
    #[must_use]
    pub fn tick(&self) -> u32 {
        self.tick.get()
    }

    /// Has the wheel ask a client at a tick, or before; answers when.
    pub fn ask_at(&self, key: u32, at: u32) -> u32 {
        self.wheel.borrow_mut().insert(key, at)
    }

    /// The wall clock.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Timestamp(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
    }

    // ---- Clients -----------------------------------------------------------------------------

    /// Adds a client to the list; its key.
    pub fn add_client(&self, client: &Rc<Client>) -> u32 {
        let key = self.clients.borrow_mut().insert(Rc::clone(client));
        u32::try_from(key).unwrap_or(u32::MAX)
    }

    /// A client on the list.
    #[must_use]
    pub fn client(&self, key: u32) -> Option<Rc<Client>> {
        self.clients.borrow().get(key as usize).map(Rc::clone)
    }

    /// Takes a client off the list. It was counted as a connection since it was accepted.
    pub fn remove_client(&self, key: u32) {
        let mut clients = self.clients.borrow_mut();
        clients.try_remove(key as usize);
        if clients.is_empty() {
            // After a burst of clients their memory is given back.
            *clients = Slab::new();
        }
        self.metrics.closed();
    }

    /// Adds an HTTP connection to the list; its key.
    pub fn add_connection(&self, connection: &Rc<Connection>) -> usize {
        self.connections.borrow_mut().insert(Rc::clone(connection))
    }

    /// Takes an HTTP connection off the list: it has ended, or become a client.
    pub fn remove_connection(&self, key: usize) {
        let mut connections = self.connections.borrow_mut();
        connections.try_remove(key);
        if connections.is_empty() {
            *connections = Slab::new();
        }
    }

    /// Runs a task that the worker waits for when it drains.
    pub fn spawn(self: &Rc<Self>, task: impl Future<Output = ()> + 'static) {
        self.metrics.task_began();
        let counted = Counted(Rc::clone(self));
        tokio::task::spawn_local(async move {
            task.await;
            drop(counted);
        });
    }

    /// A random id for a connection.
    #[must_use]
    pub fn session(&self) -> SessionId {
        SessionId(fastrand::u64(..))
    }

    // ---- Channels ----------------------------------------------------------------------------

    /// Registers a subscriber in the hub, and has the broker watch the channel; the key for
    /// [`Worker::unsubscribe`].
    pub fn subscribe(self: &Rc<Self>, channel: &ChannelName, subscriber: Subscriber) -> usize {
        let (key, is_first) = self.hub.borrow_mut().subscribe(channel, subscriber);
        if is_first {
            match self.broker.watch(channel, self.id) {
                Reply::Now(Ok(state)) => {
                    let effect = self.open(channel, &state);
                    debug_assert_eq!(effect, None, "nothing has come for a channel made just now");
                }
                reply => self.late.watch(channel.clone(), reply),
            }
        }
        key
    }

    /// The broker watches a channel; what the hub wants then.
    pub fn open(&self, channel: &ChannelName, state: &ChannelState) -> Option<Effect> {
        let effect = self.hub.borrow_mut().open(channel, state);
        for subscriber in self.subscribers(channel) {
            match subscriber {
                Subscriber::Opening(opening) => opening.wake(),
                // A client that is being made has no task to wake yet, and needs none.
                Subscriber::Stream(client, _) => client.wake(),
                Subscriber::Waiter(waiter, _) => waiter.wake(),
            }
        }
        effect
    }

    /// The broker can't watch a channel now. Who is about to subscribe is told; for whoever waits
    /// for it all the same it is asked again.
    pub fn watch_failed(&self, channel: ChannelName) {
        if self.is_draining() {
            return;
        }
        for subscriber in self.subscribers(&channel) {
            if let Subscriber::Opening(opening) = subscriber {
                opening.fail();
            }
        }
        self.late.watch_again(channel, Arc::clone(&self.broker), self.id);
    }

    fn subscribers(&self, channel: &ChannelName) -> Vec<Subscriber> {
        let hub = self.hub.borrow();
        let subscribers = hub.channel(channel).into_iter().flat_map(|it| &it.subscribers);
        subscribers.map(|(_, it)| it.clone()).collect()
    }

    /// Removes a subscriber; the last one's channel is no longer watched.
    pub fn unsubscribe(&self, channel: &ChannelName, key: usize) {
        let was_last = self.hub.borrow_mut().unsubscribe(channel, key);
        if was_last {
            self.late.forget(channel);
            self.broker.unwatch(channel, self.id);
        }
    }

    /// A subscriber is there: it is present, where that is on for the channel. The answer is the
    /// first round that knows of it.
    pub fn enter(&self, channel: &ChannelName, session: SessionId) -> Option<Round> {
        self.config.channel(channel.as_str()).presence.then(|| {
            let id = session.to_string().into();
            let member = Member { id, user: None, info: None, joined: self.now() };
            self.gateway.presence.join(channel, session, member)
        })
    }

    /// A subscriber that has entered has gone.
    pub fn exit(&self, channel: &ChannelName, session: SessionId, parting: Parting) {
        if self.config.channel(channel.as_str()).presence {
            self.gateway.presence.leave(channel, session, parting);
        }
    }

    /// Who is present in a channel.
    ///
    /// # Errors
    ///
    /// The refusal of who may not subscribe to it; `not_found` where presence is off; the broker
    /// being away.
    pub async fn members(&self, channel: &ChannelName) -> Result<Vec<Arc<Member>>, Problem> {
        self.has_presence(channel)?;
        Ok(self.gateway.presence.now(channel).await?)
    }

    /// Whether whoever has no token may know who is present in `channel`, where anybody may.
    ///
    /// # Errors
    ///
    /// The refusal, or `not_found` where presence is off.
    pub fn has_presence(&self, channel: &ChannelName) -> Result<(), Problem> {
        self.may_subscribe(channel)?;
        if !self.config.channel(channel.as_str()).presence {
            return Err(Problem::not_found(format!(
                "presence is not on for channel \"{channel}\": nobody is told who is there"
            )));
        }
        Ok(())
    }

    fn count(&self, channels: &[ChannelName]) -> Vec<[u32; Wire::ALL.len()]> {
        let hub = self.hub.borrow();
        let count = |channel| {
            let mut counts = [0; Wire::ALL.len()];
            let subscribers = hub.channel(channel).into_iter().flat_map(|it| &it.subscribers);
            for (_, subscriber) in subscribers {
                let wire = match subscriber {
                    Subscriber::Opening(_) => continue,
                    Subscriber::Stream(client, _) => client.wire(),
                    Subscriber::Waiter(..) => Wire::LongPoll,
                };
                if let Some(count) = counts.get_mut(wire as usize) {
                    *count += 1;
                }
            }
            counts
        };
        channels.iter().map(count).collect()
    }

    /// An entry that was read from a log, with the forms that others who read it have needed.
    #[must_use]
    pub fn shared(&self, entry: Arc<Entry>) -> Shared {
        if entry.weight() > RECENT_BYTES_MAX {
            return Shared::new(entry);
        }
        self.is_recent_used.set(true);
        let mut recent = self.recent.borrow_mut();
        let Some(slot) = recent.get_mut(entry.slot(RECENT_SLOTS)) else {
            return Shared::new(entry);
        };
        match slot {
            Some(shared) if Arc::ptr_eq(&shared.0.entry, &entry) => shared.clone(),
            _ => slot.insert(Shared::new(entry)).clone(),
        }
    }

    // ---- Publishing --------------------------------------------------------------------------

    /// A draft of `publication`, without a key or an end, accepted at `time`.
    #[must_use]
    pub fn draft(&self, channel: ChannelName, publication: Publication, time: Timestamp) -> Draft {
        Draft {
            channel,
            publication: Some(publication),
            ends: false,
            key: None,
            time,
            id: self.draft_id(),
        }
    }

    /// Another id for a draft.
    #[must_use]
    pub fn draft_id(&self) -> u128 {
        let count = self.drafts.get();
        self.drafts.set(count + 1);
        u128::from(self.draft_seed) << 64 | u128::from(count)
    }

    /// Publishes, and counts it.
    pub fn publish(&self, draft: Draft) -> Reply<Result<Published, PublishError>> {
        let bytes = draft.publication.as_ref().map_or(0, |it| it.payload.bytes.len());
        let reply = self.broker.publish(draft);
        match &reply {
            Reply::Now(Err(error)) => self.metrics.publish_failed(Problem::from(*error).code),
            // Of a remote broker it is counted when it is sent, whatever comes of it.
            Reply::Now(Ok(Published::New(_))) | Reply::Later(_) => self.metrics.published(bytes),
            Reply::Now(Ok(Published::Duplicate(_))) => {}
        }
        reply
    }

    // ---- Rules -------------------------------------------------------------------------------

    /// What may wait for a subscription to `channel`.
    #[must_use]
    pub fn outbox_bounds(&self, channel: &ChannelName) -> OutboxBounds {
        let rule = self.config.channel(channel.as_str());
        let mut bounds = rule.outbox;
        bounds.bytes = bounds.bytes.min(self.config.http.max_outbox);
        if bounds.policy == Policy::Spill && rule.keeps_none() {
            // Nothing to catch up from.
            bounds.policy = Policy::DropOldest;
        }
        bounds
    }

    /// Whether whoever has no token may subscribe to `channel`.
    ///
    /// # Errors
    ///
    /// The refusal, which names the channel.
    pub fn may_subscribe(&self, channel: &ChannelName) -> Result<(), Problem> {
        allowed(self.config.channel(channel.as_str()).subscribe, "subscribe to", channel)
    }

    /// Whether whoever has no token may publish to `channel`.
    ///
    /// # Errors
    ///
    /// The refusal, which names the channel.
    pub fn may_publish(&self, channel: &ChannelName) -> Result<(), Problem> {
        allowed(self.config.channel(channel.as_str()).publish, "publish to", channel)
    }

    /// What a stream is told that ends with `code`, and after how long to come back.
    #[must_use]
    pub fn mid_stream(&self, code: Code) -> (&'static str, Option<Duration>) {
        match code {
            Code::Unavailable if self.is_draining() => {
                ("this gateway is going away; reconnect with your cursor", None)
            }
            Code::Unavailable => ("the broker is away; reconnect with your cursor", None),
            Code::SlowConsumer => ("you read too slowly; reconnect with your cursor", None),
            _ => ("the stream can't go on; reconnect with your cursor", None),
        }
    }

    /// A jittered time after which a client should reconnect, in milliseconds.
    #[must_use]
    pub fn retry_ms(&self) -> u32 {
        fastrand::u32(1500..2500)
    }

    // ---- The end -----------------------------------------------------------------------------

    /// Whether the gateway is going away.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.gateway.is_draining()
    }

    /// Ends streams in a paced way, as their wires say, and waits for their tasks (CONTRACT 12).
    async fn drain(self: &Rc<Self>, within: Duration, mut commands: mpsc::Receiver<Command>) {
        // Pacing takes at most half of the time: the other half is for slow ones to be told.
        const STEP: Duration = Duration::from_millis(20);
        let deadline = tokio::time::Instant::now() + within;
        let mut ticks = tokio::time::interval(STEP);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let mut due = Vec::new();
        let clients: Vec<_> = self.clients.borrow().iter().map(|(key, _)| key).collect();
        let steps =
            usize::try_from((within / 2).as_millis() / STEP.as_millis()).unwrap_or(1).max(1);
        let pace = clients.len().div_ceil(steps).max(64);
        let mut clients = clients.into_iter();
        for connection in self.open_connections() {
            connection.drain();
        }
        // The broker takes nothing any more: what it took is on its way to who is live. A page that
        // does not come is not waited for as long: its log is kept, and so is the client's cursor.
        let pages_deadline = tokio::time::Instant::now() + within / 4;
        loop {
            let now = tokio::time::Instant::now();
            let is_told = self.inbox.is_empty() && self.is_hub_idle.get();
            let is_reading = self.late.is_reading() && now < pages_deadline;
            if now >= deadline || (is_told && !is_reading) {
                break;
            }
            ticks.tick().await;
        }
        while self.metrics.tasks() > 0 && tokio::time::Instant::now() < deadline {
            // Cancel safe: both keep what they have for the next call.
            tokio::select! {
                _ = ticks.tick() => {}
                command = commands.recv() => match command {
                    // Accepted before the listeners closed: its request is answered that we drain.
                    Some(Command::Accept(accepted)) => self.accept(accepted),
                    Some(Command::Count { channels, reply }) => {
                        let _ = reply.send(self.count(&channels));
                    }
                    // Who leaves is told of nobody else.
                    Some(Command::Presence(_) | Command::Drain(_)) | None => {}
                },
            }
            self.turn_wheel(&mut due);
            for key in clients.by_ref().take(pace) {
                let client = self.clients.borrow().get(key).map(Rc::clone);
                if let Some(client) = client {
                    client.drain(self);
                }
            }
            // Streams that were begun in the meantime.
            if clients.len() == 0 && !self.clients.borrow().is_empty() {
                let all: Vec<_> =
                    self.clients.borrow().iter().map(|(_, it)| Rc::clone(it)).collect();
                all.iter().for_each(|client| client.drain(self));
            }
            for connection in self.open_connections() {
                connection.drain();
            }
        }
        self.refusals.turn();
    }

    fn open_connections(&self) -> Vec<Rc<Connection>> {
        self.connections.borrow().iter().map(|(_, it)| Rc::clone(it)).collect()
    }
}

/// Counts a task while it runs.
struct Counted(Rc<Worker>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.metrics.task_ended();
    }
}

fn allowed(access: Access, verb: &str, channel: &ChannelName) -> Result<(), Problem> {
    match access {
        Access::Anyone => Ok(()),
        Access::Token => Err(Problem::unauthenticated(format!(
            "a token is needed to {verb} channel \"{channel}\", and this version takes none yet; \
             give the channel a rule for \"anyone\", or start with --dev"
        ))),
        Access::Nobody => Err(Problem::denied(format!("nobody may {verb} channel \"{channel}\""))),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use crate::gateway::tests::gateway;

    use super::*;

    /// A worker that nobody runs.
    pub(crate) fn worker() -> Rc<Worker> {
        let inbox = Arc::new(Inbox::new(16, 1 << 10));
        Worker::new(&Arc::new(gateway()), SinkId(0), inbox, Arc::default())
    }
}
