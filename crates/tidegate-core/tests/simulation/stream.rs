//! A stream, as `driver/client.rs` has it but without a socket: what is offered to its subscriptions,
//! what its task writes, and what is on its way to the client.

use std::collections::VecDeque;
use std::sync::Arc;

use tidegate_core::log::{From, Page, Read};
use tidegate_core::outbox::Weight;
use tidegate_core::subscription::{Mode, Offered, Step, Subscription};
use tidegate_core::{Body, Entry, Gap, OutboxBounds, Policy, Position, Timestamp};

use crate::plan::Fault;
use crate::world::{Pending, World};

/// Once so many pieces are committed, nothing is added before they are written.
const COMMIT: usize = 4;

/// How often a stream is refilled before others get their turn.
const REFILLS_PER_TURN: usize = 4;

/// Bytes of a page.
const PAGE_BYTES: usize = 4_000;

/// Whom the hub knows: one of a stream's subscriptions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subscriber {
    pub(crate) stream: usize,
    pub(crate) index: usize,
}

/// One stream's side in the gateway, and the bytes between it and its client.
pub(crate) struct Stream {
    client: usize,
    worker: usize,
    is_bare: bool,
    subs: Vec<Sub>,
    /// Committed, but not taken by the socket yet.
    out: VecDeque<Piece>,
    /// On its way to the client.
    pub(crate) flight: VecDeque<Piece>,
    closing: Option<Cause>,
    /// The end was written.
    is_over: bool,
}

struct Sub {
    channel: usize,
    hub_key: usize,
    bounds: OutboxBounds,
    subscription: Subscription<Arc<Entry>>,
    page: Asked,
    /// The weight of the biggest entry so far: one always fits.
    biggest: usize,
}

/// A page of a subscription; `None` could not be read.
enum Asked {
    No,
    Pending,
    Here(Option<Page>),
}

/// What a client receives as a whole or not at all; `resume` is the joined cursor behind it.
#[derive(Clone, Debug)]
pub(crate) enum Piece {
    Opening { resume: String },
    Item { index: usize, entry: Arc<Entry>, resume: String },
    Gap { index: usize, gap: Gap, resume: String },
    Close { cause: Cause, resume: String },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    Ended,
    Gap,
    SlowConsumer,
    Unavailable,
}

/// Where a stream begins in a channel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start {
    pub(crate) channel: usize,
    pub(crate) position: Position,
    pub(crate) gap: Option<Gap>,
    pub(crate) bounds: OutboxBounds,
}

impl World {
    pub(crate) fn start_stream(
        &mut self,
        id: usize,
        client: usize,
        worker: usize,
        starts: &[Start],
    ) {
        let resume: Vec<_> = starts
            .iter()
            .map(|it| {
                let at = it.gap.map_or(it.position, |gap| gap.requested);
                at.cursor(&self.broker.channels[it.channel]).to_string()
            })
            .collect();
        let stream = Stream {
            client,
            worker,
            is_bare: self.clients[client].is_bare,
            subs: starts.iter().copied().map(Sub::new).collect(),
            out: [Piece::Opening { resume: resume.join(".") }].into(),
            flight: VecDeque::new(),
            closing: None,
            is_over: false,
        };
        self.streams.insert(id, stream);
        for (index, Start { channel, .. }) in starts.iter().copied().enumerate() {
            let name = self.broker.channels[channel].clone();
            let subscriber = Subscriber { stream: id, index };
            let (key, is_first) = self.workers[worker].hub.subscribe(&name, subscriber);
            self.streams.get_mut(&id).unwrap().subs[index].hub_key = key;
            if is_first {
                let state = self.broker.watch(channel, worker, self.now);
                if self.plan.later {
                    self.pending.push(Pending::Watch { worker, channel: name, state });
                } else {
                    self.open(worker, &name, &state);
                }
            }
        }
    }

    /// The connection is gone, and what was on its way with it.
    pub(crate) fn end_stream(&mut self, id: usize) {
        let Some(stream) = self.streams.remove(&id) else { return };
        for sub in stream.subs {
            let name = self.broker.channels[sub.channel].clone();
            if self.workers[stream.worker].hub.unsubscribe(&name, sub.hub_key) {
                self.broker.unwatch(sub.channel, stream.worker);
            }
        }
    }

    // ---- The hub -------------------------------------------------------------------------------

    /// Takes live entries from the hub.
    pub(crate) fn deliver(&mut self, id: usize, index: usize, entries: &[Arc<Entry>]) {
        let Some(mut stream) = self.streams.remove(&id) else { return };
        if !stream.is_over && !self.deliver_at_once(&mut stream, index, entries) {
            self.offer(&mut stream, index, entries);
            self.bound_total(&mut stream);
        }
        self.check_outboxes(&stream);
        self.streams.insert(id, stream);
    }

    fn offer(&mut self, stream: &mut Stream, index: usize, entries: &[Arc<Entry>]) {
        for entry in entries {
            let sub = &mut stream.subs[index];
            sub.biggest = sub.biggest.max(entry.weight());
            match sub.subscription.offer(Arc::clone(entry), &sub.bounds) {
                Offered::Ignored if self.fault == Some(Fault::DeliverBehindTail) => {
                    let (entry, resume) = (Arc::clone(entry), stream.resume(self));
                    stream.out.push_back(Piece::Item { index, entry, resume });
                }
                Offered::Ignored | Offered::Waits { dropped: false } => {}
                Offered::Waits { dropped: true } => self.stats.dropped += 1,
                Offered::Spilled => {
                    self.stats.spilled += 1;
                    return;
                }
                Offered::Disconnect => return stream.close(Cause::SlowConsumer),
            }
        }
    }

    /// Writes a batch past the outbox; `false` where something is in the way.
    fn deliver_at_once(
        &mut self,
        stream: &mut Stream,
        index: usize,
        entries: &[Arc<Entry>],
    ) -> bool {
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else { return true };
        let is_blocked = stream.flight.len() >= self.plan.socket;
        let is_in_the_way = stream.closing.is_some() || !stream.out.is_empty();
        if is_in_the_way || is_blocked || stream.subs.len() != 1 {
            return false;
        }
        let sub = &mut stream.subs[index];
        let is_level = sub.subscription.is_level(first)
            || self.fault == Some(Fault::AdvanceBlindly) && sub.subscription.mode() == Mode::Live;
        if !is_level {
            return false;
        }
        sub.subscription.advance(last.position, last.is_end());
        for entry in entries {
            // A batch is encoded once for all: each entry has its own cursor.
            let resume = entry.cursor().to_string();
            stream.out.push_back(Piece::Item { index, entry: Arc::clone(entry), resume });
        }
        stream.flush(self.plan.socket);
        if self.fault == Some(Fault::LosePiece) {
            stream.out.pop_back();
        }
        self.stats.at_once += entries.len();
        true
    }

    /// Over the connection's total, the fullest subscription overflows.
    fn bound_total(&mut self, stream: &mut Stream) {
        if stream.subs.len() < 2 {
            return;
        }
        while stream.subs.iter().map(|it| it.subscription.bytes()).sum::<usize>()
            > self.plan.outbox_total
        {
            let fullest = stream.subs.iter_mut().max_by_key(|it| it.subscription.bytes());
            let Some(sub) = fullest else { return };
            self.stats.over_total += 1;
            match sub.bounds.policy {
                Policy::Spill => sub.subscription.spill(),
                Policy::Conflate | Policy::DropOldest => sub.subscription.drop_oldest(),
                Policy::Disconnect => return stream.close(Cause::SlowConsumer),
            }
        }
    }

    fn check_outboxes(&mut self, stream: &Stream) {
        for sub in &stream.subs {
            // A page is bounded by its reader.
            let max = sub.bounds.bytes.max(sub.biggest);
            if sub.subscription.bytes() > max {
                self.fail(format!("an outbox holds {} bytes", sub.subscription.bytes()));
            }
        }
    }

    /// Takes a gap from the hub.
    pub(crate) fn gap(&mut self, id: usize, index: usize, gap: Gap) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.subs[index].subscription.handle_gap(gap);
        }
    }

    // ---- The stream's task ---------------------------------------------------------------------

    /// A page that a subscription asked for has come.
    pub(crate) fn sub_page(&mut self, id: usize, index: usize, page: Option<Page>) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.subs[index].page = Asked::Here(page);
        }
    }

    /// Writes what waits, until nothing does or the socket takes no more. Answers whether it got
    /// anywhere.
    pub(crate) fn pump(&mut self, id: usize) -> bool {
        let Some(mut stream) = self.streams.remove(&id) else { return false };
        let mut has_moved = false;
        for _ in 0..REFILLS_PER_TURN {
            has_moved |= stream.flush(self.plan.socket);
            if !stream.out.is_empty() || stream.is_over {
                break;
            }
            if let Some(cause) = stream.closing {
                let resume = stream.resume(self);
                stream.out.push_back(Piece::Close { cause, resume });
                stream.is_over = true;
                continue;
            }
            if !self.refill(id, &mut stream) {
                break;
            }
            has_moved = true;
        }
        self.check_outboxes(&stream);
        self.streams.insert(id, stream);
        has_moved
    }

    fn refill(&mut self, id: usize, stream: &mut Stream) -> bool {
        let mut has_moved = false;
        for index in 0..stream.subs.len() {
            has_moved |= self.refill_page(id, stream, index);
            while stream.out.len() < COMMIT && stream.closing.is_none() {
                let Some(step) = stream.subs[index].subscription.next() else { break };
                has_moved = true;
                self.write_step(stream, index, step);
            }
        }
        let has_ended = stream.subs.iter().all(|it| it.subscription.mode() == Mode::Ended);
        if has_ended && stream.closing.is_none() {
            stream.close(Cause::Ended);
            return true;
        }
        has_moved
    }

    fn refill_page(&mut self, id: usize, stream: &mut Stream, index: usize) -> bool {
        let sub = &mut stream.subs[index];
        match std::mem::replace(&mut sub.page, Asked::No) {
            Asked::Pending => {
                sub.page = Asked::Pending;
                return false;
            }
            Asked::Here(page) => {
                self.handle_page(stream, index, page);
                return true;
            }
            Asked::No => {}
        }
        let Some(after) = sub.subscription.wants_page() else { return false };
        let name = &self.broker.channels[sub.channel];
        let Some(last) = self.workers[stream.worker].hub.last(name) else { return false };
        // Offsets of another log say nothing of this one.
        let at_least = if last.epoch == after.epoch { last.offset } else { 0 };
        let entries = u32::try_from(sub.bounds.messages).unwrap().min(self.plan.page.get());
        let read = Read {
            channel: name.clone(),
            from: From::After(after),
            at_least,
            entries_max: entries.try_into().unwrap(),
            bytes_max: sub.bounds.bytes.min(PAGE_BYTES),
        };
        self.stats.sub_pages += 1;
        if self.plan.later {
            sub.page = Asked::Pending;
            let page = self.rng.bool().then(|| self.broker.read(&read, self.now));
            self.pending.push(Pending::SubRead { stream: id, index, read, page });
        } else {
            let page = self.broker.read(&read, self.now);
            self.handle_page(stream, index, page);
        }
        true
    }

    fn handle_page(&mut self, stream: &mut Stream, index: usize, page: Option<Page>) {
        let Some(page) = page else { return stream.close(Cause::Unavailable) };
        let sub = &mut stream.subs[index];
        let name = &self.broker.channels[sub.channel];
        let Some(hub_last) = self.workers[stream.worker].hub.last(name) else { return };
        let tail = page.tail();
        self.trace(|| {
            let offsets: Vec<_> = page.entries.iter().map(|it| it.position.offset).collect();
            format!(
                "client {} gets a page of {name}: {:?} {offsets:?} {tail:?}",
                stream.client, page.gap
            )
        });
        let mut items = page.entries;
        let is_told = items.last().is_some_and(|it| it.is_end());
        // Who asks at or past the end is told it again.
        if let Some(offset) = page.state.ended
            && page.is_last
            && !is_told
            && self.fault != Some(Fault::ForgetEnd)
        {
            items.push(Arc::new(Entry {
                channel: name.clone(),
                position: Position { epoch: tail.epoch, offset },
                prev: 0,
                time: Timestamp(0),
                body: Body::End,
            }));
        }
        sub.biggest = items.iter().map(Weight::weight).fold(sub.biggest, usize::max);
        let hub_last = if self.fault == Some(Fault::LevelTooSoon) { tail } else { hub_last };
        sub.subscription.handle_page(page.gap, items, tail, hub_last);
    }

    fn write_step(&mut self, stream: &mut Stream, index: usize, step: Step<Arc<Entry>>) {
        let resume = stream.resume(self);
        match step {
            Step::Item(entry) => stream.out.push_back(Piece::Item { index, entry, resume }),
            Step::Gap(gap) => {
                if stream.is_bare && stream.subs[index].bounds.policy == Policy::Conflate {
                    return;
                }
                self.stats.gaps[gap.reason as usize] += 1;
                if self.fault == Some(Fault::SkipGap) {
                    return;
                }
                if stream.is_bare {
                    return stream.close(Cause::Gap);
                }
                stream.out.push_back(Piece::Gap { index, gap, resume });
            }
        }
    }
}

impl Sub {
    fn new(start: Start) -> Self {
        Self {
            channel: start.channel,
            hub_key: usize::MAX,
            bounds: start.bounds,
            subscription: Subscription::new(start.position, start.gap),
            page: Asked::No,
            biggest: 0,
        }
    }
}

impl Stream {
    /// The socket takes what it has room for. Answers whether that was anything.
    fn flush(&mut self, room: usize) -> bool {
        let before = self.out.len();
        while self.flight.len() < room
            && let Some(piece) = self.out.pop_front()
        {
            self.flight.push_back(piece);
        }
        self.out.len() < before
    }

    fn close(&mut self, cause: Cause) {
        self.closing.get_or_insert(cause);
    }

    /// The cursor to resume from: one per channel, joined by dots.
    fn resume(&self, world: &World) -> String {
        let cursors: Vec<_> = self
            .subs
            .iter()
            .map(|sub| {
                let name = &world.broker.channels[sub.channel];
                let at = match world.fault {
                    Some(Fault::CursorAhead) => sub.subscription.tail(),
                    _ => sub.subscription.resume(),
                };
                at.cursor(name).to_string()
            })
            .collect();
        cursors.join(".")
    }
}
