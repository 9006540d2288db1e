//! The hub of one worker: channel → subscribers, and what the tail's events mean for them (DESIGN 8, 9).
//!
//! Pure: it takes what was drained from the inbox and says what to do, in order, as [`Effect`]s. It
//! holds no entries; whatever its `last` and an entry's `prev` don't chain, it has read from the log.
//!
//! ```text
//! entry, prev ≤ last ─► Deliver, last = entry        entry ≤ last ─► nothing: it was read
//! entry, prev > last, a mark, broken ─► Read ─► page ─► Gap? Deliver, last = page's tail ─► Read?
//! while a read is under way, entries only raise what it must reach: they are in the log
//! ```

use std::collections::HashMap;
use std::sync::Arc;

use slab::Slab;

use crate::channel::ChannelName;
use crate::cursor::Position;
use crate::entry::Entry;
use crate::inbox::{Drained, TailEvent};
use crate::state::{ChannelState, Gap, GapReason};

/// Channels that have subscribers on this worker; `S` is whatever the driver knows one by.
#[derive(Debug)]
pub struct Hub<S> {
    channels: HashMap<ChannelName, HubChannel<S>>,
}

/// One channel of a hub.
#[derive(Debug)]
pub struct HubChannel<S> {
    /// Everything through this was delivered to who is live; `None` until the channel is opened.
    last: Option<Position>,
    /// What a read that is under way must reach.
    reading: Option<u64>,
    /// The subscribers, live or not, by the keys that [`Hub::subscribe`] answered.
    pub subscribers: Slab<S>,
}

/// What the driver has to do.
#[derive(Debug, PartialEq)]
pub enum Effect {
    /// Give a batch to every live subscriber.
    Deliver {
        /// Whose subscribers.
        channel: ChannelName,
        /// At least one, in order.
        entries: Vec<Arc<Entry>>,
    },
    /// Tell a gap to every subscriber; `requested` is the hub's and is replaced by each one's own.
    Gap {
        /// Whose subscribers.
        channel: ChannelName,
        /// From where to where, and why.
        gap: Gap,
    },
    /// Read the log after `after`, at least through `at_least`, and give the page to
    /// [`Hub::handle_page`].
    Read {
        /// Which log.
        channel: ChannelName,
        /// Where the hub is.
        after: Position,
        /// What the page must have seen.
        at_least: u64,
    },
}

impl<S> Default for Hub<S> {
    fn default() -> Self {
        Self { channels: HashMap::new() }
    }
}

impl<S> Hub<S> {
    /// The broker watches `channel` for us since `state`: entries can be delivered. What came before
    /// the answer did is read.
    pub fn open(&mut self, channel: &ChannelName, state: &ChannelState) -> Option<Effect> {
        let it = self.channels.get_mut(channel)?;
        if it.last.is_some() {
            return None;
        }
        let last = state.now();
        it.last = Some(last);
        let at_least = it.reading.take().filter(|it| *it > last.offset)?;
        it.read(channel, last, at_least)
    }

    /// Where the hub is in `channel`, if it is open.
    #[must_use]
    pub fn last(&self, channel: &ChannelName) -> Option<Position> {
        self.channels.get(channel)?.last
    }

    /// A channel that the hub follows.
    #[must_use]
    pub fn channel(&self, channel: &ChannelName) -> Option<&HubChannel<S>> {
        self.channels.get(channel)
    }

    /// Every channel that the hub follows.
    pub fn channels(&self) -> impl Iterator<Item = (&ChannelName, &HubChannel<S>)> {
        self.channels.iter()
    }

    /// Adds a subscriber. `true` if it is the first one: the broker has to watch the channel, and
    /// its answer goes to [`Hub::open`].
    pub fn subscribe(&mut self, channel: &ChannelName, subscriber: S) -> (usize, bool) {
        if let Some(it) = self.channels.get_mut(channel) {
            return (it.subscribers.insert(subscriber), false);
        }
        let mut subscribers = Slab::new();
        let key = subscribers.insert(subscriber);
        let it = HubChannel { last: None, reading: None, subscribers };
        self.channels.insert(channel.clone(), it);
        (key, true)
    }

    /// Removes a subscriber. `true` if it was the last one: the channel is closed, and the broker
    /// need not watch it.
    pub fn unsubscribe(&mut self, channel: &ChannelName, key: usize) -> bool {
        let Some(it) = self.channels.get_mut(channel) else { return false };
        it.subscribers.try_remove(key);
        if it.subscribers.is_empty() {
            self.channels.remove(channel);
            return true;
        }
        if it.subscribers.capacity() > 4 * it.subscribers.len() + 64 {
            // Moves none: it only gives up what lies behind the last one.
            it.subscribers.shrink_to_fit();
        }
        false
    }

    /// Takes all that waited in the inbox.
    pub fn handle(&mut self, drained: Drained) -> Vec<Effect> {
        let mut effects = Vec::new();
        // Where the effect that a channel's next entry may join is; entries of several channels
        // come interleaved, and a batch is a channel's.
        let mut batches: HashMap<ChannelName, usize> = HashMap::new();
        for event in drained.events {
            match event {
                TailEvent::Entry(entry) => self.handle_entry(entry, &mut effects, &mut batches),
                TailEvent::Dropped { channel, floor } => {
                    batches.remove(&channel);
                    self.handle_dropped(channel, floor, &mut effects);
                }
                TailEvent::Broken => {
                    batches.clear();
                    for (channel, it) in &mut self.channels {
                        effects.extend(it.read_on(channel, 0));
                    }
                }
                TailEvent::Away | TailEvent::Back => {}
            }
        }
        for channel in drained.dirty {
            if let Some(it) = self.channels.get_mut(&channel) {
                effects.extend(it.read_on(&channel, 0));
            }
        }
        effects
    }

    fn handle_entry(
        &mut self,
        entry: Arc<Entry>,
        effects: &mut Vec<Effect>,
        batches: &mut HashMap<ChannelName, usize>,
    ) {
        let Some(it) = self.channels.get_mut(&entry.channel) else { return };
        let to = entry.position;
        let chains = it.last.filter(|last| {
            it.reading.is_none() && to.epoch == last.epoch && entry.prev <= last.offset
        });
        let Some(last) = chains else {
            effects.extend(it.read_on(&entry.channel, to.offset));
            return;
        };
        if to.offset <= last.offset {
            return;
        }
        it.last = Some(to);
        let joined = batches.get(&entry.channel).and_then(|at| effects.get_mut(*at));
        if let Some(Effect::Deliver { entries, .. }) = joined {
            entries.push(entry);
            return;
        }
        batches.insert(entry.channel.clone(), effects.len());
        let channel = entry.channel.clone();
        effects.push(Effect::Deliver { channel, entries: vec![entry] });
    }

    fn handle_dropped(&mut self, channel: ChannelName, floor: Position, effects: &mut Vec<Effect>) {
        let Some(it) = self.channels.get_mut(&channel) else { return };
        // Not open yet: who subscribes reads the log, whose floor tells the drop.
        let Some(requested) = it.last else { return };
        if let Some(at_least) = &mut it.reading {
            *at_least = floor.offset.max(*at_least);
        }
        if floor.epoch == requested.epoch && floor.offset <= requested.offset {
            return;
        }
        it.last = Some(floor);
        let gap = Gap { requested, resumed: floor, reason: GapReason::Dropped };
        effects.push(Effect::Gap { channel, gap });
    }

    /// Takes the page that an [`Effect::Read`] asked for: its gap, its entries, and `tail`, behind
    /// which it is complete; `is_last` says that nothing lay beyond that.
    pub fn handle_page(
        &mut self,
        channel: &ChannelName,
        gap: Option<Gap>,
        mut entries: Vec<Arc<Entry>>,
        tail: Position,
        is_last: bool,
    ) -> Vec<Effect> {
        let mut effects = Vec::new();
        let Some(it) = self.channels.get_mut(channel) else { return effects };
        let Some(at_least) = it.reading.take() else { return effects };
        let Some(last) = it.last else { return effects };
        // A drop that came while the read was under way has moved `last` past the page.
        let reached = if tail.epoch == last.epoch && tail.offset < last.offset {
            entries.clear();
            last
        } else {
            effects.extend(gap.map(|gap| Effect::Gap { channel: channel.clone(), gap }));
            tail
        };
        it.last = Some(reached);
        if !entries.is_empty() {
            effects.push(Effect::Deliver { channel: channel.clone(), entries });
        }
        if !is_last || reached.offset < at_least {
            effects.extend(it.read(channel, reached, at_least));
        }
        effects
    }

    /// The read that was asked for failed: the same again, after a pause.
    pub fn handle_read_failed(&mut self, channel: &ChannelName) -> Option<Effect> {
        let it = self.channels.get_mut(channel)?;
        let at_least = it.reading.take()?;
        it.read_on(channel, at_least)
    }
}

impl<S> HubChannel<S> {
    /// Everything through this was delivered to who is live; `None` until the channel is opened.
    #[must_use]
    pub fn last(&self) -> Option<Position> {
        self.last
    }

    /// Asks for what comes after `last`, unless that is under way already; then only for more of it.
    fn read_on(&mut self, channel: &ChannelName, at_least: u64) -> Option<Effect> {
        let Some(last) = self.last else {
            self.reading = self.reading.max(Some(at_least));
            return None;
        };
        self.read(channel, last, at_least.max(last.offset))
    }

    fn read(&mut self, channel: &ChannelName, after: Position, at_least: u64) -> Option<Effect> {
        let is_under_way = self.reading.is_some();
        let at_least = at_least.max(self.reading.unwrap_or(0));
        self.reading = Some(at_least);
        (!is_under_way).then(|| Effect::Read { channel: channel.clone(), after, at_least })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cursor::Epoch;
    use crate::entry::{Body, Timestamp};
    use crate::state::Lineage;

    fn at(offset: u64) -> Position {
        Position { epoch: Epoch::new(1), offset }
    }

    fn entry(offset: u64, prev: u64) -> Arc<Entry> {
        Arc::new(Entry {
            channel: name(),
            position: at(offset),
            prev,
            time: Timestamp(0),
            body: Body::End,
        })
    }

    fn name() -> ChannelName {
        ChannelName::parse("a").unwrap()
    }

    fn hub() -> Hub<()> {
        let mut hub = Hub::default();
        let lineage = Lineage::new(Epoch::new(1));
        assert_eq!(hub.subscribe(&name(), ()), (0, true));
        hub.open(&name(), &ChannelState { floor: 0, head: 10, ended: None, lineage });
        hub
    }

    fn tell(hub: &mut Hub<()>, entries: &[Arc<Entry>]) -> Vec<Effect> {
        let events = entries.iter().cloned().map(TailEvent::Entry).collect();
        hub.handle(Drained { events, ..Drained::default() })
    }

    fn deliver(entries: &[Arc<Entry>]) -> Effect {
        Effect::Deliver { channel: name(), entries: entries.to_vec() }
    }

    fn read(after: u64, at_least: u64) -> Effect {
        Effect::Read { channel: name(), after: at(after), at_least }
    }

    #[test]
    fn entries_that_chain_are_one_batch() {
        let entries = [entry(12, 3), entry(15, 12)];
        assert_eq!(tell(&mut hub(), &entries), [deliver(&entries)]);
    }

    #[test]
    fn what_was_read_is_not_delivered_again() {
        assert_eq!(tell(&mut hub(), &[entry(10, 3), entry(9, 3)]), []);
    }

    #[test]
    fn a_hole_is_read_from_the_log_and_entries_wait_there() {
        let mut hub = hub();
        assert_eq!(tell(&mut hub, &[entry(14, 12), entry(15, 14)]), [read(10, 14)]);
        assert_eq!(tell(&mut hub, &[entry(16, 15)]), []);
        let page = vec![entry(12, 3), entry(14, 12)];
        assert_eq!(
            hub.handle_page(&name(), None, page.clone(), at(14), true),
            [deliver(&page), read(14, 16)],
        );
        let page = vec![entry(15, 14), entry(16, 15)];
        assert_eq!(hub.handle_page(&name(), None, page.clone(), at(16), true), [deliver(&page)]);
        assert_eq!(tell(&mut hub, &[entry(17, 16)]), [deliver(&[entry(17, 16)])]);
    }

    #[test]
    fn a_mark_is_read_even_if_nothing_else_comes() {
        let mut hub = hub();
        let dirty = [name()].into();
        assert_eq!(hub.handle(Drained { events: Vec::new(), dirty }), [read(10, 10)]);
    }

    #[test]
    fn a_dropped_log_is_told_and_a_page_from_before_it_is_not_delivered() {
        let mut hub = hub();
        assert_eq!(tell(&mut hub, &[entry(14, 12)]), [read(10, 14)]);
        let dropped = TailEvent::Dropped { channel: name(), floor: at(20) };
        let gap = Gap { requested: at(10), resumed: at(20), reason: GapReason::Dropped };
        assert_eq!(
            hub.handle(Drained { events: vec![dropped], ..Drained::default() }),
            [Effect::Gap { channel: name(), gap }],
        );
        assert_eq!(hub.handle_page(&name(), None, vec![entry(14, 12)], at(14), true), [],);
    }

    #[test]
    fn what_came_before_the_channel_was_open_is_read() {
        let mut hub = Hub::default();
        hub.subscribe(&name(), ());
        assert_eq!(tell(&mut hub, &[entry(11, 3)]), []);
        let lineage = Lineage::new(Epoch::new(1));
        let state = ChannelState { floor: 0, head: 10, ended: None, lineage };
        assert_eq!(hub.open(&name(), &state), Some(read(10, 11)));
    }

    #[test]
    fn the_last_subscriber_closes_the_channel() {
        let mut hub = hub();
        let (second, is_first) = hub.subscribe(&name(), ());
        assert!(!is_first);
        assert!(!hub.unsubscribe(&name(), 0));
        assert!(hub.unsubscribe(&name(), second));
        assert_eq!(hub.last(&name()), None);
    }
}
