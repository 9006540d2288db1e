//! Channels' logs, as values: what is kept and for how long, idempotency keys, ends, and the floor
//! below which a cursor has missed something (CONTRACT 1–4, DESIGN 7).
//!
//! A [`Bucket`] holds many channels and gives all of them offsets from one sequence, which never
//! restarts within an epoch. It has no clock: `now` is a monotonic time since the same origin in
//! every call, and each call first lets expire what that time says. Locks, inboxes and the many
//! buckets of a process are the broker's.

mod channel;
mod keys;
mod page;

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::sync::Arc;
use std::time::Duration;

use crate::channel::ChannelName;
use crate::cursor::Position;
use crate::entry::{Draft, Entry};
use crate::is_sparse;
use crate::state::{ChannelState, Lineage};

use channel::Log;
pub use page::{From, Page, Read};

/// Many channels, and the one sequence that their offsets come from.
///
/// ```text
///            first append, first watch                   a bound is reached: floor rises
///  (no trace) ─────────────────────────► log ◄──────────────────────────────────────────┐
///      ▲                                  │└──────────────────────────────────────────────┘
///      └──────────────────────────────────┘
///       no entry, watcher or key is left: its floor is folded into the bucket's
/// ```
#[derive(Debug)]
pub struct Bucket {
    lineage: Lineage,
    /// The newest offset that was given out.
    sequence: u64,
    /// The highest floor of all channels that were forgotten: the floor of whichever has no log.
    floor: u64,
    /// The hasher is the standard, seeded one, since peers choose the names. Boxed, or a table that
    /// is half empty would cost a whole log per free slot.
    channels: HashMap<ChannelName, Box<Log>>,
    usage: Usage,
    /// The latest `now`: threads read their clock before they have the bucket, so times may cross.
    now: Duration,
}

impl Bucket {
    /// An empty bucket whose first entry gets offset 1.
    #[must_use]
    pub fn new(lineage: Lineage) -> Self {
        Self {
            lineage,
            sequence: 0,
            floor: 0,
            channels: HashMap::new(),
            usage: Usage::default(),
            now: Duration::ZERO,
        }
    }

    /// Appends `draft` in one step with the check of its key and with its end. What is answered as
    /// appended goes to the watchers, in order.
    ///
    /// A draft without a publication is a lone end. The position answered is the publication's, or a
    /// lone end's.
    ///
    /// # Errors
    ///
    /// [`Refused`]; then nothing has changed.
    pub fn append(
        &mut self,
        draft: Draft,
        now: Duration,
        terms: &Terms<'_>,
    ) -> Result<Appended, Refused> {
        let now = self.tick(now);
        let channel = draft.channel.clone();
        let log = match self.channels.entry(channel.clone()) {
            Slot::Occupied(it) => it.into_mut(),
            Slot::Vacant(_) if draft.key.is_some() && !terms.has_room_for_key => {
                return Err(Refused::KeysFull);
            }
            Slot::Vacant(it) => {
                let bounds = (terms.bounds)(&channel);
                it.insert(Box::new(Log::new(self.floor, bounds)))
            }
        };
        let before = log.usage();
        let epoch = self.lineage.current();
        let appended = log.append(draft, now, terms, epoch, &mut self.sequence);
        self.usage.replace(before, log.usage());
        if log.is_without_trace() {
            self.forget(&channel);
        }
        appended
    }

    /// Reads a page; complete up to this moment.
    pub fn read(&mut self, read: &Read, now: Duration) -> Page {
        let state = self.state(&read.channel, now);
        match self.channels.get(&read.channel) {
            Some(log) => page::of(log.entries(), read, state),
            None => page::of(&std::collections::VecDeque::new(), read, state),
        }
    }

    /// The state of `channel`, whether it exists or not.
    pub fn state(&mut self, channel: &ChannelName, now: Duration) -> ChannelState {
        let now = self.tick(now);
        if let Some(log) = self.channels.get_mut(channel) {
            let before = log.usage();
            log.expire(now);
            self.usage.replace(before, log.usage());
            if log.is_without_trace() {
                self.forget(channel);
            }
        }
        let log = self.channels.get(channel);
        ChannelState {
            floor: log.map_or(self.floor, |it| it.floor()),
            head: self.sequence,
            ended: log.and_then(|it| it.ended()),
            lineage: self.lineage.clone(),
        }
    }

    /// Adds `sink` to the watchers of `channel`: every entry after the answered head is for it too.
    pub fn watch(
        &mut self,
        channel: &ChannelName,
        sink: SinkId,
        now: Duration,
        terms: &Terms<'_>,
    ) -> ChannelState {
        let log = match self.channels.entry(channel.clone()) {
            Slot::Occupied(it) => it.into_mut(),
            Slot::Vacant(it) => it.insert(Box::new(Log::new(self.floor, (terms.bounds)(channel)))),
        };
        log.watch(sink);
        self.state(channel, now)
    }

    /// Takes `sink` off the watchers of `channel`.
    pub fn unwatch(&mut self, channel: &ChannelName, sink: SinkId) {
        if let Some(log) = self.channels.get_mut(channel) {
            log.unwatch(sink);
            if log.is_without_trace() {
                self.forget(channel);
            }
        }
    }

    /// Drops the log of `channel`: its entries, keys and end. The new floor is an offset of its own,
    /// above everything so far; a channel that does not exist has nothing to drop, and keeps its.
    pub fn drop_log(&mut self, channel: &ChannelName) -> Dropped {
        let position = |offset| Position { epoch: self.lineage.current(), offset };
        let Some(log) = self.channels.get_mut(channel) else {
            return Dropped { floor: position(self.floor), watchers: None, entries: Vec::new() };
        };
        self.sequence += 1;
        let floor = position(self.sequence);
        let before = log.usage();
        let entries = log.clear(self.sequence);
        self.usage.replace(before, log.usage());
        let watchers = log.watchers();
        if log.is_without_trace() {
            self.forget(channel);
        }
        Dropped { floor, watchers, entries }
    }

    /// Lets everything expire that is due, forgets what leaves no trace, and takes over the bounds
    /// as they are now.
    pub fn sweep(&mut self, now: Duration, terms: &Terms<'_>) -> Swept {
        let now = self.tick(now);
        let mut swept = Swept::default();
        let (mut floor, mut usage) = (self.floor, Usage::default());
        self.channels.retain(|channel, log| {
            log.rebound((terms.bounds)(channel));
            log.expire(now);
            if log.is_without_trace() {
                floor = floor.max(log.floor());
                return false;
            }
            usage.add(log.usage());
            swept.idle_since = earlier(swept.idle_since, log.idle_since());
            swept.key_expires = earlier(swept.key_expires, log.key_expires());
            true
        });
        (self.floor, self.usage) = (floor, usage);
        self.shrink();
        swept
    }

    /// Trims channels until `bytes` are freed: of those without an append after `idle_since` the
    /// idlest first, each from its oldest publication on. Ends stay.
    pub fn trim_idlest(&mut self, bytes: usize, idle_since: Duration) {
        let mut idle: Vec<(Duration, ChannelName)> = (self.channels.iter())
            .filter_map(|(channel, log)| Some((log.idle_since()?, channel.clone())))
            .filter(|(since, _)| *since <= idle_since)
            .collect();
        idle.sort_unstable();
        let target = self.usage.bytes.saturating_sub(bytes);
        for (_, channel) in idle {
            if self.usage.bytes <= target {
                break;
            }
            let Some(log) = self.channels.get_mut(&channel) else { continue };
            let before = log.usage();
            log.trim_bytes(self.usage.bytes - target);
            self.usage.replace(before, log.usage());
            if log.is_without_trace() {
                self.forget(&channel);
            }
        }
    }

    /// Since when the idlest channel that could be trimmed has had no append.
    #[must_use]
    pub fn idle_since(&self) -> Option<Duration> {
        self.channels.values().filter_map(|it| it.idle_since()).min()
    }

    /// What the bucket holds in all.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.usage
    }

    /// Channels that have entries or watchers, in no order. Call [`Bucket::sweep`] first where what
    /// has expired must not be there.
    pub fn channels(&self) -> impl Iterator<Item = Kept<'_>> {
        self.channels.iter().filter(|(_, log)| log.is_visible()).map(|(channel, log)| Kept {
            channel,
            messages: log.publications(),
            bytes: log.payload_bytes(),
        })
    }

    /// Whether nothing is left of any channel but the sequence and a floor.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.channels.is_empty()
    }

    /// Makes a channel one that does not exist, whose floor is the bucket's.
    fn forget(&mut self, channel: &ChannelName) {
        if let Some(log) = self.channels.remove(channel) {
            self.usage.replace(log.usage(), Usage::default());
            self.floor = self.floor.max(log.floor());
            self.shrink();
        }
    }

    /// Gives the table's memory back after a crowd has gone, rarely enough to cost nothing; and that of
    /// an empty one, for there are thousands of buckets.
    fn shrink(&mut self) {
        let len = self.channels.len();
        if len == 0 || is_sparse(len, self.channels.capacity()) {
            self.channels.shrink_to(2 * len);
        }
    }

    fn tick(&mut self, now: Duration) -> Duration {
        self.now = self.now.max(now);
        self.now
    }
}

/// Which worker's inbox, by its place in the list that the broker's tail was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SinkId(pub u16);

/// The bounds of a channel's log; the first one reached trims (CONTRACT 14). An end is kept for
/// `age`, whatever the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogBounds {
    /// Publications kept; 0 keeps none.
    pub messages: usize,
    /// Bytes kept, by [`Entry::weight`].
    pub bytes: usize,
    /// Age at which an entry is trimmed.
    pub age: Duration,
}

/// What the process, not the channel, decides about an append.
pub struct Terms<'a> {
    /// The bounds of a channel; asked when one is made, and by each sweep.
    pub bounds: &'a dyn Fn(&ChannelName) -> LogBounds,
    /// How long a key is held.
    pub key_window: Duration,
    /// Whether one more key may be held.
    pub has_room_for_key: bool,
}

impl std::fmt::Debug for Terms<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Terms")
            .field("key_window", &self.key_window)
            .field("has_room_for_key", &self.has_room_for_key)
            .finish_non_exhaustive()
    }
}

/// What [`Bucket::append`] did.
#[derive(Debug)]
pub struct Appended {
    /// Where the publication or the lone end is, or the one that came with the same key before.
    pub position: Position,
    /// Whether the key was seen before, and so nothing was appended.
    pub is_duplicate: bool,
    /// What was appended, in log order: a publication, its end, or both.
    pub entries: [Option<Arc<Entry>>; 2],
    /// Whom it is for.
    pub watchers: Option<Arc<[SinkId]>>,
}

/// Why [`Bucket::append`] did nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The channel has ended.
    #[error("the channel has ended")]
    Ended,
    /// The key came before with another payload, event or end.
    #[error("the idempotency key was used with another publication")]
    KeyReused,
    /// The key is new, and [`Terms::has_room_for_key`] is false.
    #[error("no room for another idempotency key")]
    KeysFull,
}

/// What [`Bucket::drop_log`] did.
#[derive(Debug)]
pub struct Dropped {
    /// The new floor.
    pub floor: Position,
    /// Whom to tell.
    pub watchers: Option<Arc<[SinkId]>>,
    /// What was in the log, to be freed where no lock is held.
    pub entries: Vec<Arc<Entry>>,
}

/// What is left after [`Bucket::sweep`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// As [`Bucket::idle_since`].
    pub idle_since: Option<Duration>,
    /// When the next key expires.
    pub key_expires: Option<Duration>,
}

/// What logs hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of entries and of the logs around them.
    pub bytes: usize,
    /// Idempotency keys.
    pub keys: usize,
}

impl Usage {
    fn add(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.keys += other.keys;
    }

    fn replace(&mut self, before: Self, after: Self) {
        self.bytes = self.bytes + after.bytes - before.bytes;
        self.keys = self.keys + after.keys - before.keys;
    }
}

/// A channel of [`Bucket::channels`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept<'a> {
    /// Its name.
    pub channel: &'a ChannelName,
    /// Publications kept.
    pub messages: usize,
    /// Bytes of their payloads.
    pub bytes: usize,
}

fn earlier(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

#[cfg(test)]
mod tests;
