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
use crate::is_sparse;
use crate::log::Page;
use crate::state::{ChannelState, Gap, GapReason};

/// Channels that have subscribers on this worker; `S` is whatever the driver knows one by.
#[derive(Debug)]
pub struct Hub<S> {
    channels: HashMap<ChannelName, HubChannel<S>>,
    /// The newest read that was asked for.
    asked: ReadId,
    /// Counts what parts the effects of a channel: calls of [`Hub::handle`], and breaks within one.
    turn: u64,
}

/// Which [`Effect::Read`] a page answers: a channel that all subscribers have left, and that others
/// have come to since, may still get one that the former wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadId(u64);

/// One channel of a hub.
#[derive(Debug)]
pub struct HubChannel<S> {
    /// Everything through this was delivered to who is live; `None` until the channel is opened.
    last: Option<Position>,
    /// A read that is under way; before the channel is opened, what has come until then.
    reading: Option<Reading>,
    /// Whether an end was seen and nothing after it.
    has_ended: bool,
    /// The turn in which something was delivered last, and which effect says so: the next entry may
    /// join it. Entries of several channels come interleaved, and a batch is a channel's.
    batch: Option<(u64, usize)>,
    /// The subscribers, live or not, by the keys that [`Hub::subscribe`] answered.
    pub subscribers: Slab<S>,
}

/// What a page has to bring.
#[derive(Debug, Default)]
struct Reading {
    id: ReadId,
    /// It must reach this.
    at_least: Option<Position>,
    /// Something came after it was asked for that `at_least` can't express: a mark, or an entry of
    /// another epoch. So the page may not have seen it, and another one is needed.
    again: bool,
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
    /// One that leads to another epoch has each of them read the log, for it depends on where they
    /// are what they have missed, if anything.
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
        /// What the page must have seen, an offset of the epoch of `after`.
        at_least: u64,
        /// To be given back.
        id: ReadId,
    },
}

impl<S> Default for Hub<S> {
    fn default() -> Self {
        Self { channels: HashMap::new(), asked: ReadId::default(), turn: 0 }
    }
}

impl<S> Hub<S> {
    /// The broker watches `channel` for us since `state`: entries can be delivered. Nobody is live
    /// before, so what came before the answer did is left to whoever reads the log; only what that can't
    /// tell the end of, such as a mark, is read.
    pub fn open(&mut self, channel: &ChannelName, state: &ChannelState) -> Option<Effect> {
        let it = self.channels.get_mut(channel)?;
        let mut last = state.now();
        it.has_ended |= state.ended.is_some();
        if let Some(opened) = it.last {
            // By an answer to who subscribed and left before: it may be older than this one.
            let is_level = last.epoch == opened.epoch && last.offset <= opened.offset;
            return if is_level { None } else { it.read_on(channel, Some(last), &mut self.asked) };
        }
        let reading = it.reading.take();
        if let Some(seen) = reading.as_ref().and_then(|it| it.at_least)
            && seen.epoch == last.epoch
        {
            last.offset = last.offset.max(seen.offset);
        }
        it.last = Some(last);
        let reading = reading?;
        (!reading.is_met_by(last))
            .then(|| it.read(channel, last, reading.at_least, &mut self.asked))
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

    /// Every channel that the hub follows, in no order.
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
        let it =
            HubChannel { last: None, reading: None, has_ended: false, batch: None, subscribers };
        self.channels.insert(channel.clone(), it);
        (key, true)
    }

    /// A subscriber, to be replaced where it stands.
    pub fn subscriber_mut(&mut self, channel: &ChannelName, key: usize) -> Option<&mut S> {
        self.channels.get_mut(channel)?.subscribers.get_mut(key)
    }

    /// Removes a subscriber. `true` if it was the last one: the channel is closed, and the broker
    /// need not watch it.
    pub fn unsubscribe(&mut self, channel: &ChannelName, key: usize) -> bool {
        let Some(it) = self.channels.get_mut(channel) else { return false };
        it.subscribers.try_remove(key);
        if it.subscribers.is_empty() {
            self.channels.remove(channel);
            if is_sparse(self.channels.len(), self.channels.capacity()) {
                self.channels.shrink_to(2 * self.channels.len());
            }
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
        self.turn += 1;
        let mut events = drained.events.into_iter().peekable();
        while let Some(event) = events.next() {
            match event {
                TailEvent::Entry(mut entry) => {
                    // What a publisher sends at once stands together: one look-up is for all of it.
                    let Some(it) = self.channels.get_mut(&entry.channel) else { continue };
                    loop {
                        let next = events.next_if(
                            |it| matches!(it, TailEvent::Entry(it) if it.channel == entry.channel),
                        );
                        it.handle_entry(entry, self.turn, &mut self.asked, &mut effects);
                        let Some(TailEvent::Entry(same)) = next else { break };
                        entry = same;
                    }
                }
                TailEvent::Dropped { channel, floor } => {
                    self.handle_dropped(channel, floor, &mut effects);
                }
                TailEvent::Broken => {
                    self.turn += 1;
                    // By name: a map's own order is another in each run.
                    let mut channels: Vec<_> = self.channels.iter_mut().collect();
                    channels.sort_unstable_by_key(|(name, _)| *name);
                    for (channel, it) in channels {
                        effects.extend(it.read_on(channel, None, &mut self.asked));
                    }
                }
                TailEvent::Away | TailEvent::Back => {}
            }
        }
        for channel in drained.dirty {
            if let Some(it) = self.channels.get_mut(&channel) {
                effects.extend(it.read_on(&channel, None, &mut self.asked));
            }
        }
        effects
    }

    fn handle_dropped(&mut self, channel: ChannelName, floor: Position, effects: &mut Vec<Effect>) {
        let Some(it) = self.channels.get_mut(&channel) else { return };
        it.batch = None;
        it.has_ended = false;
        // Not open yet: who subscribes reads the log, whose floor tells the drop.
        let Some(requested) = it.last else { return };
        if floor.epoch != requested.epoch {
            // What else was lost with the epoch, the log's judgement tells.
            effects.extend(it.read_on(&channel, Some(floor), &mut self.asked));
            return;
        }
        if let Some(reading) = &mut it.reading {
            reading.note(Some(floor));
        }
        if floor.offset <= requested.offset {
            return;
        }
        it.last = Some(floor);
        let gap = Gap { requested, resumed: floor, reason: GapReason::Dropped };
        effects.push(Effect::Gap { channel, gap });
    }

    /// Takes the page that the [`Effect::Read`] of that `id` asked for.
    pub fn handle_page(&mut self, channel: &ChannelName, id: ReadId, page: Page) -> Vec<Effect> {
        let mut effects = Vec::new();
        let Some(it) = self.channels.get_mut(channel) else { return effects };
        let (Some(last), Some(reading)) = (it.last, it.reading.take_if(|it| it.id == id)) else {
            return effects;
        };
        let tail = page.tail();
        let ended = page.state.ended;
        let Page { gap, mut entries, is_last, .. } = page;
        // A drop that came while the read was under way has moved `last` past the page.
        let reached = if tail.epoch == last.epoch && tail.offset < last.offset {
            entries.clear();
            last
        } else {
            let resumed = Position { epoch: tail.epoch, ..last };
            let moved = Gap { requested: last, resumed, reason: GapReason::Epoch };
            let gap = gap.or((tail.epoch != last.epoch).then_some(moved));
            effects.extend(gap.map(|gap| Effect::Gap { channel: channel.clone(), gap }));
            tail
        };
        it.last = Some(reached);
        it.has_ended |= ended.is_some();
        if !entries.is_empty() {
            effects.push(Effect::Deliver { channel: channel.clone(), entries });
        }
        if !is_last || !reading.is_met_by(reached) {
            effects.push(it.read(channel, reached, reading.at_least, &mut self.asked));
        }
        effects
    }

    /// The read that was asked for failed: the same again, after a pause.
    pub fn handle_read_failed(&mut self, channel: &ChannelName, id: ReadId) -> Option<Effect> {
        let it = self.channels.get_mut(channel)?;
        let last = it.last?;
        let reading = it.reading.take_if(|it| it.id == id)?;
        Some(it.read(channel, last, reading.at_least, &mut self.asked))
    }
}

impl<S> HubChannel<S> {
    /// Everything through this was delivered to who is live; `None` until the channel is opened.
    #[must_use]
    pub fn last(&self) -> Option<Position> {
        self.last
    }

    /// Whether the channel may have ended at or before [`Self::last`], so that who begins there has an
    /// end to be told.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.has_ended
    }

    fn handle_entry(
        &mut self,
        entry: Arc<Entry>,
        turn: u64,
        asked: &mut ReadId,
        effects: &mut Vec<Effect>,
    ) {
        let to = entry.position;
        let is_end = entry.is_end();
        self.has_ended |= is_end;
        let chains = self.last.filter(|last| {
            self.reading.is_none() && to.epoch == last.epoch && entry.prev <= last.offset
        });
        let Some(last) = chains else {
            effects.extend(self.read_on(&entry.channel, Some(to), asked));
            return;
        };
        if to.offset <= last.offset {
            return;
        }
        self.last = Some(to);
        self.has_ended = is_end;
        let at = self.batch.filter(|(since, _)| *since == turn).map(|(_, at)| at);
        if let Some(Effect::Deliver { entries, .. }) = at.and_then(|at| effects.get_mut(at)) {
            entries.push(entry);
        } else {
            self.batch = Some((turn, effects.len()));
            effects.push(Effect::Deliver { channel: entry.channel.clone(), entries: vec![entry] });
        }
        if is_end {
            // What follows is the channel made anew, and not for who was told the end.
            self.batch = None;
        }
    }

    /// Asks for what comes after `last`, through `to` if that is known; while a page is under way, or
    /// the channel is not open, it is noted what is wanted then.
    fn read_on(
        &mut self,
        channel: &ChannelName,
        to: Option<Position>,
        asked: &mut ReadId,
    ) -> Option<Effect> {
        match (self.last, &mut self.reading) {
            (Some(last), None) => Some(self.read(channel, last, to, asked)),
            (_, reading) => {
                reading.get_or_insert_default().note(to);
                None
            }
        }
    }

    fn read(
        &mut self,
        channel: &ChannelName,
        after: Position,
        to: Option<Position>,
        asked: &mut ReadId,
    ) -> Effect {
        asked.0 += 1;
        let id = *asked;
        let to = to.filter(|to| to.epoch == after.epoch && to.offset > after.offset);
        let at_least = to.unwrap_or(after);
        self.reading = Some(Reading { id, at_least: Some(at_least), again: false });
        Effect::Read { channel: channel.clone(), after, at_least: at_least.offset, id }
    }
}

impl Reading {
    /// Something is wanted: what is at `to`, or whatever there is.
    fn note(&mut self, to: Option<Position>) {
        match (&mut self.at_least, to) {
            (Some(it), Some(to)) if it.epoch == to.epoch => it.offset = it.offset.max(to.offset),
            (it @ None, Some(to)) => *it = Some(to),
            (_, _) => self.again = true,
        }
    }

    fn is_met_by(&self, reached: Position) -> bool {
        let is_reached = |it: Position| it.epoch == reached.epoch && it.offset <= reached.offset;
        !self.again && self.at_least.is_none_or(is_reached)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cursor::Epoch;
    use crate::entry::{Body, Publication, Timestamp};
    use crate::payload::{Payload, PayloadKind};
    use crate::state::Lineage;

    fn at(offset: u64) -> Position {
        Position { epoch: Epoch::new(1), offset }
    }

    fn entry(offset: u64, prev: u64) -> Arc<Entry> {
        let payload = Payload { kind: PayloadKind::Text, bytes: "x".into(), content_type: None };
        let it = Publication { payload, event: None, user: None, origin: None };
        make(at(offset), prev, Body::Publication(it))
    }

    fn make(position: Position, prev: u64, body: Body) -> Arc<Entry> {
        Arc::new(Entry { channel: name(), position, prev, time: Timestamp(0), body })
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

    /// The `nth` read.
    fn read(nth: u64, after: u64, at_least: u64) -> Effect {
        Effect::Read { channel: name(), after: at(after), at_least, id: ReadId(nth) }
    }

    /// The answer to it, which has reached the head.
    fn answer(hub: &mut Hub<()>, nth: u64, entries: &[Arc<Entry>], head: u64) -> Vec<Effect> {
        let lineage = Lineage::new(Epoch::new(1));
        let state = ChannelState { floor: 0, head, ended: None, lineage };
        let (entries, next) = (entries.to_vec(), at(head));
        hub.handle_page(
            &name(),
            ReadId(nth),
            Page { gap: None, entries, next, is_last: true, state },
        )
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
        assert_eq!(tell(&mut hub, &[entry(14, 12), entry(15, 14)]), [read(1, 10, 14)]);
        assert_eq!(tell(&mut hub, &[entry(16, 15)]), []);
        let page = [entry(12, 3), entry(14, 12)];
        assert_eq!(answer(&mut hub, 1, &page, 14), [deliver(&page), read(2, 14, 16)]);
        let page = [entry(15, 14), entry(16, 15)];
        assert_eq!(answer(&mut hub, 2, &page, 16), [deliver(&page)]);
        assert_eq!(tell(&mut hub, &[entry(17, 16)]), [deliver(&[entry(17, 16)])]);
    }

    #[test]
    fn a_mark_is_read_even_if_nothing_else_comes() {
        let mut hub = hub();
        let dirty = [name()].into();
        assert_eq!(hub.handle(Drained { events: Vec::new(), dirty }), [read(1, 10, 10)]);
    }

    #[test]
    fn what_is_broken_or_marked_is_read_by_name() {
        let mut hub = Hub::default();
        let names: Vec<_> =
            (10..40).map(|it| ChannelName::parse(&it.to_string()).unwrap()).collect();
        let lineage = Lineage::new(Epoch::new(1));
        for name in names.iter().rev() {
            hub.subscribe(name, ());
            hub.open(
                name,
                &ChannelState { floor: 0, head: 10, ended: None, lineage: lineage.clone() },
            );
        }
        let (marked, broken) = names.split_at(15);
        let dirty = marked.iter().cloned().collect();
        let marks = hub.handle(Drained { events: Vec::new(), dirty });
        let breaks = hub.handle(Drained { events: vec![TailEvent::Broken], ..Drained::default() });
        for (effects, names) in [(marks, marked), (breaks, broken)] {
            let read = effects.iter().map(|it| match it {
                Effect::Read { channel, .. } => channel,
                other => panic!("{other:?}"),
            });
            assert!(read.eq(names), "{effects:?}");
        }
    }

    #[test]
    fn a_dropped_log_is_told_and_a_page_from_before_it_is_not_delivered() {
        let mut hub = hub();
        assert_eq!(tell(&mut hub, &[entry(14, 12)]), [read(1, 10, 14)]);
        let dropped = TailEvent::Dropped { channel: name(), floor: at(20) };
        let gap = Gap { requested: at(10), resumed: at(20), reason: GapReason::Dropped };
        assert_eq!(
            hub.handle(Drained { events: vec![dropped], ..Drained::default() }),
            [Effect::Gap { channel: name(), gap }],
        );
        assert_eq!(answer(&mut hub, 1, &[entry(14, 12)], 14), []);
    }

    #[test]
    fn what_came_before_the_channel_was_open_is_for_nobody() {
        let mut hub = Hub::default();
        hub.subscribe(&name(), ());
        assert_eq!(tell(&mut hub, &[entry(11, 3), entry(12, 11)]), []);
        let lineage = Lineage::new(Epoch::new(1));
        let state = ChannelState { floor: 0, head: 10, ended: None, lineage };
        assert_eq!(hub.open(&name(), &state), None);
        assert_eq!(hub.last(&name()), Some(at(12)));
        let next = [entry(15, 12)];
        assert_eq!(tell(&mut hub, &next), [deliver(&next)]);
    }

    #[test]
    fn an_end_is_remembered_until_something_follows_it() {
        let mut hub = Hub::default();
        let has_ended = |hub: &Hub<()>| hub.channel(&name()).unwrap().has_ended();
        hub.subscribe(&name(), ());
        tell(&mut hub, &[make(at(11), 10, Body::End)]);
        let lineage = Lineage::new(Epoch::new(1));
        let state = ChannelState { floor: 0, head: 10, ended: None, lineage };
        hub.open(&name(), &state);
        assert!(has_ended(&hub), "it came before the answer did");
        tell(&mut hub, &[entry(12, 11)]);
        assert!(!has_ended(&hub), "the channel was made anew");
        tell(&mut hub, &[make(at(13), 12, Body::End), entry(12, 11)]);
        assert!(has_ended(&hub), "what was read before says nothing");
        let dropped = TailEvent::Dropped { channel: name(), floor: at(20) };
        hub.handle(Drained { events: vec![dropped], ..Drained::default() });
        assert!(!has_ended(&hub));
        hub.handle(Drained { events: Vec::new(), dirty: [name()].into() });
        let state = ChannelState { head: 21, ended: Some(21), ..state };
        let page = Page { gap: None, entries: Vec::new(), next: at(21), is_last: true, state };
        hub.handle_page(&name(), ReadId(1), page);
        assert!(has_ended(&hub));
    }

    #[test]
    fn a_mark_that_comes_while_a_page_is_under_way_is_read_after_it() {
        let mut hub = hub();
        let mark = || Drained { events: Vec::new(), dirty: [name()].into() };
        assert_eq!(hub.handle(mark()), [read(1, 10, 10)]);
        assert_eq!(hub.handle(mark()), []);
        assert_eq!(answer(&mut hub, 1, &[], 10), [read(2, 10, 10)]);
        let broken = Drained { events: vec![TailEvent::Broken], ..Drained::default() };
        assert_eq!(hub.handle(broken), []);
        assert_eq!(answer(&mut hub, 2, &[], 12), [read(3, 12, 12)]);
        assert_eq!(answer(&mut hub, 3, &[], 12), []);
    }

    #[test]
    fn a_mark_that_comes_before_the_channel_is_open_is_read() {
        let mut hub = Hub::default();
        hub.subscribe(&name(), ());
        assert_eq!(hub.handle(Drained { events: Vec::new(), dirty: [name()].into() }), []);
        let lineage = Lineage::new(Epoch::new(1));
        let state = ChannelState { floor: 0, head: 10, ended: None, lineage };
        assert_eq!(hub.open(&name(), &state), Some(read(1, 10, 10)));
    }

    #[test]
    fn a_page_for_those_who_have_left_is_not_taken() {
        let mut hub = hub();
        assert_eq!(tell(&mut hub, &[entry(14, 12)]), [read(1, 10, 14)]);
        hub.unsubscribe(&name(), 0);
        hub.subscribe(&name(), ());
        assert_eq!(tell(&mut hub, &[entry(24, 23)]), []);
        assert_eq!(answer(&mut hub, 1, &[], 16), []);
        let lineage = Lineage::new(Epoch::new(1));
        let state = ChannelState { floor: 0, head: 20, ended: None, lineage };
        assert_eq!(hub.open(&name(), &state), None);
        assert_eq!(tell(&mut hub, &[entry(28, 26)]), [read(2, 24, 28)]);
        assert_eq!(answer(&mut hub, 1, &[], 16), []);
        let page = [entry(26, 24), entry(28, 26)];
        assert_eq!(answer(&mut hub, 2, &page, 28), [deliver(&page)]);
    }

    #[test]
    fn an_answer_from_before_does_not_hold_a_channel_back() {
        let mut hub = hub();
        let lineage = Lineage::new(Epoch::new(1));
        let state = |head| ChannelState { floor: 0, head, ended: None, lineage: lineage.clone() };
        assert_eq!(hub.open(&name(), &state(9)), None);
        assert_eq!(hub.open(&name(), &state(12)), Some(read(1, 10, 12)));
    }

    #[test]
    fn offsets_of_another_epoch_are_not_compared() {
        let mut hub = hub();
        let after = |epoch, offset| Position { epoch: Epoch::new(epoch), offset };
        let other = |offset| make(after(2, offset), offset - 1, Body::End);
        // Its offset says nothing of where the hub is; that lies in the old epoch.
        assert_eq!(tell(&mut hub, &[other(3)]), [read(1, 10, 10)]);
        assert_eq!(tell(&mut hub, &[other(4)]), []);
        // A page from before the change has not seen them.
        assert_eq!(answer(&mut hub, 1, &[], 12), [read(2, 12, 12)]);
        let gap = Gap { requested: at(12), resumed: after(2, 2), reason: GapReason::Epoch };
        let entries = vec![other(3), other(4)];
        let lineage = Lineage::new(Epoch::new(2));
        let state = ChannelState { floor: 2, head: 4, ended: None, lineage };
        let mut page = Page {
            gap: Some(gap),
            entries: entries.clone(),
            next: after(2, 4),
            is_last: true,
            state,
        };
        let told = Effect::Gap { channel: name(), gap };
        let id = ReadId(3);
        let again = Effect::Read { channel: name(), after: after(2, 4), at_least: 4, id };
        assert_eq!(
            hub.handle_page(&name(), ReadId(2), page.clone()),
            [told, deliver(&entries), again],
        );
        (page.gap, page.entries) = (None, Vec::new());
        assert_eq!(hub.handle_page(&name(), ReadId(3), page), []);
    }

    #[test]
    fn who_may_have_lost_more_than_the_hub_is_told_that_an_epoch_began() {
        let mut hub = hub();
        let broken = Drained { events: vec![TailEvent::Broken], ..Drained::default() };
        assert_eq!(hub.handle(broken), [read(1, 10, 10)]);
        let now = |offset| Position { epoch: Epoch::new(2), offset };
        let lineage = Lineage::with_older(Epoch::new(2), Arc::from([(Epoch::new(1), 10)]));
        let state = ChannelState { floor: 0, head: 11, ended: None, lineage };
        let page = Page { gap: None, entries: Vec::new(), next: now(10), is_last: true, state };
        let gap = Gap { requested: at(10), resumed: now(10), reason: GapReason::Epoch };
        let told = Effect::Gap { channel: name(), gap };
        let (after, id) = (now(11), ReadId(2));
        let again = Effect::Read { channel: name(), after, at_least: 11, id };
        assert_eq!(hub.handle_page(&name(), ReadId(1), page), [told, again]);
    }

    #[test]
    fn a_page_that_could_not_be_read_is_asked_for_again() {
        let mut hub = hub();
        assert_eq!(tell(&mut hub, &[entry(14, 12)]), [read(1, 10, 14)]);
        assert_eq!(hub.handle_read_failed(&name(), ReadId(9)), None);
        assert_eq!(hub.handle_read_failed(&name(), ReadId(1)), Some(read(2, 10, 14)));
    }

    #[test]
    fn a_batch_ends_with_the_end() {
        let (first, end, anew) = (entry(11, 10), make(at(12), 11, Body::End), entry(13, 12));
        assert_eq!(
            tell(&mut hub(), &[first.clone(), end.clone(), anew.clone()]),
            [deliver(&[first, end]), deliver(&[anew])],
        );
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
