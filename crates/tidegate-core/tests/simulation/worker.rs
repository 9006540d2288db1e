//! A worker's turn, as `driver/hub.rs` has it: the inbox is drained, pages are taken, and what the hub
//! says is done in order.

use std::collections::VecDeque;

use tidegate_core::hub::{Effect, Hub, ReadId};
use tidegate_core::inbox::{Drained, InboxQueue, TailEvent};
use tidegate_core::log::{From, Page, Read};
use tidegate_core::{ChannelName, ChannelState, Position};

use crate::plan::Fault;
use crate::stream::Subscriber;
use crate::world::{Pending, World};

pub(crate) struct Worker {
    pub(crate) inbox: InboxQueue,
    pub(crate) hub: Hub<Subscriber>,
    /// What the hub said and was not done yet; nothing else is handled before.
    pub(crate) effects: VecDeque<Effect>,
    /// Which subscriber the first effect goes on with.
    from: usize,
    /// Pages that have come; `None` could not be read.
    pub(crate) pages: VecDeque<(ChannelName, ReadId, Option<Page>)>,
}

impl Worker {
    pub(crate) fn new(inbox_events: usize, inbox_bytes: usize) -> Self {
        Self {
            inbox: InboxQueue::new(inbox_events, inbox_bytes),
            hub: Hub::default(),
            effects: VecDeque::new(),
            from: 0,
            pages: VecDeque::new(),
        }
    }

    pub(crate) fn is_at_rest(&self) -> bool {
        self.inbox.is_empty() && self.effects.is_empty() && self.pages.is_empty()
    }
}

impl World {
    /// Does one thing: a slice of an effect, a page, or the inbox.
    pub(crate) fn turn(&mut self, nth: usize) {
        if !self.workers[nth].effects.is_empty() {
            return self.apply(nth);
        }
        if let Some((channel, id, page)) = self.workers[nth].pages.pop_front() {
            let effects = self.hub_page(nth, &channel, id, page);
            self.workers[nth].effects.extend(effects);
            return;
        }
        if self.workers[nth].inbox.is_empty() {
            return;
        }
        let mut drained = self.workers[nth].inbox.drain(Vec::new());
        self.check_inbox(&drained);
        if self.fault == Some(Fault::ForgetBroken) {
            drained.events.retain(|it| *it != TailEvent::Broken);
        }
        self.stats.marks += drained.dirty.len();
        self.trace(|| {
            let (events, dirty) = (drained.events.len(), &drained.dirty);
            format!("worker {nth}: {events} events, dirty {dirty:?}")
        });
        if self.fault == Some(Fault::ForgetMark) {
            drained.dirty.clear();
        }
        let worker = &mut self.workers[nth];
        worker.effects.extend(worker.hub.handle(drained));
    }

    fn check_inbox(&mut self, drained: &Drained) {
        // What makes all be read again is never lost, whatever the bounds.
        let events = drained.events.iter().filter(|it| **it != TailEvent::Broken);
        let weights: Vec<_> = events
            .map(|it| match it {
                TailEvent::Entry(entry) => entry.weight(),
                _ => size_of::<TailEvent>(),
            })
            .collect();
        let bytes: usize = weights.iter().sum();
        let fits = weights.len() <= self.plan.inbox_events
            && (bytes <= self.plan.inbox_bytes || weights.len() == 1);
        if !fits || drained.dirty.len() > self.plan.channels {
            self.fail(format!("an inbox held {} events of {bytes} bytes", weights.len()));
        }
    }

    /// Does a slice of the first effect.
    fn apply(&mut self, nth: usize) {
        let Some(effect) = self.workers[nth].effects.pop_front() else { return };
        self.trace(|| format!("worker {nth}: {effect:?}"));
        let (channel, slice) = match &effect {
            Effect::Deliver { channel, .. } => (channel, self.plan.slice),
            Effect::Gap { channel, .. } => (channel, usize::MAX),
            Effect::Read { channel, after, at_least, id } => {
                let read = self.read(channel.clone(), *after, *at_least);
                return self.hub_read(nth, *id, read);
            }
        };
        let worker = &mut self.workers[nth];
        let mut subscribers = Vec::new();
        let mut next = None;
        if let Some(it) = worker.hub.channel(channel) {
            for key in worker.from..it.subscribers.capacity() {
                if subscribers.len() == slice {
                    next = Some(key);
                    break;
                }
                subscribers.extend(it.subscribers.get(key).copied());
            }
        }
        worker.from = next.unwrap_or(0);
        for Subscriber { stream, index } in subscribers {
            match &effect {
                Effect::Deliver { entries, .. } => self.deliver(stream, index, entries),
                Effect::Gap { gap, .. } => self.gap(stream, index, *gap),
                Effect::Read { .. } => {}
            }
        }
        if next.is_some() {
            self.workers[nth].effects.push_front(effect);
        }
    }

    fn hub_read(&mut self, worker: usize, id: ReadId, read: Read) {
        if self.plan.later {
            let page = self.rng.bool().then(|| self.broker.read(&read, self.now));
            return self.pending.push(Pending::HubRead { worker, id, read, page });
        }
        let page = self.broker.read(&read, self.now);
        let effects = self.hub_page(worker, &read.channel, id, page);
        // In the order of the effects: what follows builds on it.
        for effect in effects.into_iter().rev() {
            self.workers[worker].effects.push_front(effect);
        }
    }

    fn hub_page(
        &mut self,
        worker: usize,
        channel: &ChannelName,
        id: ReadId,
        page: Option<Page>,
    ) -> Vec<Effect> {
        self.stats.hub_pages += 1;
        let hub = &mut self.workers[worker].hub;
        let Some(page) = page else {
            let again = hub.handle_read_failed(channel, id);
            if let Some(Effect::Read { channel, after, at_least, id }) = again {
                // After a pause.
                let read = self.read(channel, after, at_least);
                self.pending.push(Pending::HubRead { worker, id, read, page: None });
            }
            return Vec::new();
        };
        let last = hub.last(channel);
        let effects = hub.handle_page(channel, id, page.clone());
        self.trace(|| {
            let (gap, count, tail) = (page.gap, page.entries.len(), page.tail());
            format!("worker {worker} at {last:?} has a page of {channel}: {gap:?} {count} {tail:?}")
        });
        effects
    }

    fn read(&self, channel: ChannelName, after: Position, at_least: u64) -> Read {
        let from = From::After(after);
        Read { channel, from, at_least, entries_max: self.plan.page, bytes_max: 4_000 }
    }

    /// The broker watches `channel` for a worker since `state`.
    pub(crate) fn open(&mut self, nth: usize, channel: &ChannelName, state: &ChannelState) {
        self.trace(|| format!("worker {nth}: open {channel} at {:?}", state.now()));
        let effect = self.workers[nth].hub.open(channel, state);
        self.workers[nth].effects.extend(effect);
    }
}
