//! A worker's inbox as a value: what the broker's tail pushes and the hub drains (DESIGN 8).
//!
//! It never refuses and never grows past its bounds: what does not fit marks its channel dirty, and
//! the hub then reads the log. Marks are at most as many as the channels that the worker watches.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::channel::ChannelName;
use crate::cursor::Position;
use crate::entry::Entry;

/// What a broker's tail says.
#[derive(Clone, Debug, PartialEq)]
pub enum TailEvent {
    /// The broker is out of reach; nothing comes until [`TailEvent::Back`].
    Away,
    /// The broker is back. Always followed by [`TailEvent::Broken`] if anything was missed.
    Back,
    /// Continuity is unknown: every watched channel's head must be compared.
    Broken,
    /// A log was dropped. Live subscribers are told a gap that resumes at `floor`.
    Dropped {
        /// Whose log.
        channel: ChannelName,
        /// The new floor, which is also its head.
        floor: Position,
    },
    /// Something was published, or the channel ended.
    Entry(Arc<Entry>),
}

/// The queue between the broker's threads and one worker; lock it for moments only.
#[derive(Debug)]
pub struct InboxQueue {
    events: Vec<TailEvent>,
    bytes: usize,
    dirty: BTreeSet<ChannelName>,
    broken: bool,
    events_max: usize,
    bytes_max: usize,
}

/// All that waited in an inbox.
#[derive(Debug, Default)]
pub struct Drained {
    /// In the order in which the tail said it.
    pub events: Vec<TailEvent>,
    /// Channels of which something did not fit. In order of their names: that of a hash would differ
    /// from run to run, and reads follow it.
    pub dirty: BTreeSet<ChannelName>,
}

impl InboxQueue {
    /// An empty queue that holds at most `events_max` events of `bytes_max` bytes together (one
    /// entry always fits into an empty queue, whatever its size).
    #[must_use]
    pub fn new(events_max: usize, bytes_max: usize) -> Self {
        Self {
            events: Vec::new(),
            bytes: 0,
            dirty: BTreeSet::new(),
            broken: false,
            events_max: events_max.max(1),
            bytes_max,
        }
    }

    /// Adds `event`, or marks its channel. Answers whether the worker needs a wake: it does exactly
    /// when nothing waited before.
    pub fn push(&mut self, event: TailEvent) -> bool {
        let was_empty = self.events.is_empty() && self.dirty.is_empty() && !self.broken;
        let weight = match &event {
            TailEvent::Entry(entry) => entry.weight(),
            _ => size_of::<TailEvent>(),
        };
        let fits = self.events.is_empty()
            || (self.events.len() < self.events_max && self.bytes + weight <= self.bytes_max);
        match event {
            // Later entries of a marked channel would only be read again.
            TailEvent::Entry(entry) if !fits || self.dirty.contains(&entry.channel) => {
                self.dirty.insert(entry.channel.clone());
            }
            // A mark makes the hub ask for the state, whose floor tells the drop.
            TailEvent::Dropped { channel, .. } if !fits => {
                self.dirty.insert(channel);
            }
            TailEvent::Away | TailEvent::Back if !fits => {}
            TailEvent::Broken if !fits => self.broken = true,
            event => {
                self.bytes += weight;
                self.events.push(event);
            }
        }
        was_empty
    }

    /// Takes everything, leaving `spare` (emptied) as the next queue's memory.
    pub fn drain(&mut self, mut spare: Vec<TailEvent>) -> Drained {
        spare.clear();
        // A burst's memory is not kept for ever.
        spare.shrink_to(1024);
        let mut events = std::mem::replace(&mut self.events, spare);
        if std::mem::take(&mut self.broken) {
            events.push(TailEvent::Broken);
        }
        self.bytes = 0;
        Drained { events, dirty: std::mem::take(&mut self.dirty) }
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.events.is_empty() && self.dirty.is_empty() && !self.broken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cursor::Epoch;
    use crate::entry::{Body, Timestamp};

    fn entry(channel: &str, offset: u64) -> TailEvent {
        TailEvent::Entry(Arc::new(Entry {
            channel: ChannelName::parse(channel).unwrap(),
            position: Position { epoch: Epoch::new(1), offset },
            prev: offset - 1,
            time: Timestamp(0),
            body: Body::End,
        }))
    }

    #[test]
    fn a_full_inbox_marks_instead_of_blocking() {
        let mut inbox = InboxQueue::new(2, usize::MAX);
        assert!(inbox.push(entry("a", 1)));
        assert!(!inbox.push(entry("b", 1)));
        assert!(!inbox.push(entry("a", 2)));
        assert!(!inbox.push(entry("c", 1)));
        let drained = inbox.drain(Vec::new());
        assert_eq!(drained.events, [entry("a", 1), entry("b", 1)]);
        let dirty: Vec<_> = drained.dirty.iter().map(ChannelName::as_str).collect();
        assert_eq!(dirty, ["a", "c"]);
        assert!(inbox.is_empty() && inbox.push(entry("a", 3)), "drained, so the next push wakes");
    }

    #[test]
    fn bytes_are_bounded_but_one_entry_always_fits() {
        let mut inbox = InboxQueue::new(100, 1);
        inbox.push(entry("a", 1));
        inbox.push(entry("b", 1));
        let drained = inbox.drain(Vec::new());
        assert_eq!((drained.events.len(), drained.dirty.len()), (1, 1));
    }

    #[test]
    fn broken_is_never_lost() {
        let mut inbox = InboxQueue::new(1, usize::MAX);
        inbox.push(entry("a", 1));
        assert!(!inbox.push(TailEvent::Broken));
        assert_eq!(inbox.drain(Vec::new()).events, [entry("a", 1), TailEvent::Broken]);
    }
}
