//! A broker of buckets that may lose its newest writes, or everything, and begin another epoch.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use tidegate_core::inbox::{InboxQueue, TailEvent};
use tidegate_core::log::{Appended, Bucket, From, LogBounds, Page, Read, Refused, SinkId, Terms};
use tidegate_core::{ChannelName, ChannelState, Draft, Epoch, Key, Lineage, Position};

use crate::oracle::Oracle;
use crate::plan::Plan;

/// How long a key is held.
pub(crate) const KEY_WINDOW: Duration = Duration::from_secs(20);

pub(crate) struct Broker {
    pub(crate) channels: Vec<ChannelName>,
    pub(crate) bounds: LogBounds,
    pub(crate) oracle: Oracle,
    stores: Vec<Store>,
    epochs: u64,
    /// Of a hundred events, so many are lost on the tail.
    lost: u32,
    rng: Rng,
}

/// One bucket: its log, and what it takes to build it again.
struct Store {
    bucket: Bucket,
    epoch: Epoch,
    older: Vec<(Epoch, u64)>,
    journal: Vec<Done>,
    watched: BTreeSet<(usize, u16)>,
    /// Where each key was accepted and until when it is held; an entry's own epoch.
    held: HashMap<(usize, Key), (Position, Duration)>,
}

/// Something that was done, and the newest offset after it.
struct Done {
    what: What,
    at: Duration,
    offset: u64,
}

enum What {
    Append(Draft),
    Drop(usize),
}

impl Broker {
    pub(crate) fn new(channels: Vec<ChannelName>, plan: &Plan, rng: Rng) -> Self {
        let mut it = Self {
            channels,
            bounds: plan.log,
            oracle: Oracle::default(),
            stores: Vec::new(),
            epochs: 0,
            lost: plan.lost,
            rng,
        };
        for _ in 0..plan.buckets {
            let epoch = it.next_epoch();
            it.oracle.begin(epoch, None);
            it.stores.push(Store {
                bucket: Bucket::new(Lineage::new(epoch)),
                epoch,
                older: Vec::new(),
                journal: Vec::new(),
                watched: BTreeSet::new(),
                held: HashMap::new(),
            });
        }
        it
    }

    fn next_epoch(&mut self) -> Epoch {
        self.epochs += 1;
        // Neither rising nor falling: nothing may rely on that.
        Epoch::new(self.epochs.wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    fn nth(&self, channel: usize) -> usize {
        channel % self.stores.len()
    }

    pub(crate) fn epoch(&self, channel: usize) -> Epoch {
        self.stores[self.nth(channel)].epoch
    }

    pub(crate) fn number(&self, channel: &ChannelName) -> usize {
        self.channels.iter().position(|it| it == channel).unwrap()
    }

    /// Appends, and pushes to who watches, in one step.
    pub(crate) fn publish(
        &mut self,
        channel: usize,
        draft: Draft,
        now: Duration,
        inboxes: &mut [&mut InboxQueue],
    ) -> Result<Result<Appended, Refused>, String> {
        let bounds = self.bounds;
        let nth = self.nth(channel);
        let store = &mut self.stores[nth];
        let ended = store.bucket.state(&self.channels[channel], now).ended;
        let key = draft.key.clone().map(|key| (channel, key));
        let held = key.as_ref().and_then(|it| store.held.get(it)).copied();
        let is_held = held.is_some_and(|(_, until)| now < until);
        let result = store.bucket.append(draft.clone(), now, &terms(&|_| bounds));
        match &result {
            Ok(it) if it.is_duplicate => {
                if held.map(|(position, _)| position) != Some(it.position) {
                    return Err(format!("{:?} is a duplicate of {held:?}", it.position));
                }
            }
            Ok(_) if is_held => return Err(format!("{key:?} was doubled")),
            Ok(_) if ended.is_some() => return Err("appended after the end".into()),
            Ok(it) => {
                let offset = it.entries.iter().flatten().last().unwrap().position.offset;
                store.journal.push(Done { what: What::Append(draft), at: now, offset });
                if let Some(key) = key {
                    store.held.insert(key, (it.position, now + KEY_WINDOW));
                }
                for entry in it.entries.iter().flatten() {
                    self.oracle.accept(channel, entry);
                    let watchers =
                        it.watchers.as_deref().filter(|_| self.rng.u32(..100) >= self.lost);
                    push(watchers, inboxes, &TailEvent::Entry(Arc::clone(entry)));
                }
            }
            Err(Refused::Ended) if ended.is_some() => {}
            Err(other) => return Err(format!("refused: {other}")),
        }
        Ok(result)
    }

    pub(crate) fn drop_log(
        &mut self,
        channel: usize,
        now: Duration,
        inboxes: &mut [&mut InboxQueue],
    ) {
        let nth = self.nth(channel);
        let store = &mut self.stores[nth];
        let before = store.bucket.state(&self.channels[channel], now).head;
        let dropped = store.bucket.drop_log(&self.channels[channel]);
        store.held.retain(|(of, _), _| *of != channel);
        let after = store.bucket.state(&self.channels[channel], now).head;
        if after > before {
            store.journal.push(Done { what: What::Drop(channel), at: now, offset: after });
        }
        let event =
            TailEvent::Dropped { channel: self.channels[channel].clone(), floor: dropped.floor };
        let watchers = dropped.watchers.as_deref().filter(|_| self.rng.u32(..100) >= self.lost);
        push(watchers, inboxes, &event);
    }

    /// What is beyond the broker's total goes, the idlest first.
    pub(crate) fn trim(&mut self, bytes: usize, now: Duration) {
        for store in &mut self.stores {
            store.bucket.trim_idlest(bytes, now);
        }
    }

    pub(crate) fn sweep(&mut self, now: Duration) {
        let bounds = self.bounds;
        for store in &mut self.stores {
            store.bucket.sweep(now, &terms(&|_| bounds));
        }
    }

    /// Another epoch begins: the newest `lost` writes are gone and all before is as it was, or
    /// (`None`) nothing is left and nothing is known.
    pub(crate) fn fail_over(
        &mut self,
        nth: usize,
        lost: Option<usize>,
        now: Duration,
        inboxes: &mut [&mut InboxQueue],
    ) {
        let epoch = self.next_epoch();
        let bounds = self.bounds;
        let nth = nth % self.stores.len();
        let store = &mut self.stores[nth];
        let mut journal = std::mem::take(&mut store.journal);
        if let Some(lost) = lost {
            journal.truncate(journal.len().saturating_sub(lost));
            let fork = journal.last().map_or(0, |it| it.offset);
            store.older.push((store.epoch, fork));
            self.oracle.begin(epoch, Some((store.epoch, fork)));
        } else {
            journal.clear();
            store.older.clear();
            self.oracle.begin(epoch, None);
        }
        let lineage = Lineage::with_older(epoch, store.older.clone().into());
        store.bucket = Bucket::new(lineage);
        store.epoch = epoch;
        store.held.clear();
        for done in &journal {
            replay(&mut store.bucket, done, &self.channels, bounds);
        }
        store.journal = journal;
        for (channel, sink) in &store.watched {
            let name = &self.channels[*channel];
            store.bucket.watch(name, SinkId(*sink), now, &terms(&|_| bounds));
        }
        for inbox in inboxes {
            inbox.push(TailEvent::Broken);
        }
    }

    pub(crate) fn buckets(&self) -> usize {
        self.stores.len()
    }

    /// A page, or an error where it would not be complete: a position of another epoch says nothing
    /// of what has to be there.
    pub(crate) fn read(&mut self, read: &Read, now: Duration) -> Option<Page> {
        let nth = self.nth(self.number(&read.channel));
        let store = &mut self.stores[nth];
        let page = store.bucket.read(read, now);
        let is_foreign = matches!(read.from, From::After(at) if at.epoch != store.epoch);
        (is_foreign || read.at_least <= page.state.head).then_some(page)
    }

    pub(crate) fn state(&mut self, channel: usize, now: Duration) -> ChannelState {
        let nth = self.nth(channel);
        self.stores[nth].bucket.state(&self.channels[channel], now)
    }

    pub(crate) fn watch(&mut self, channel: usize, sink: usize, now: Duration) -> ChannelState {
        let bounds = self.bounds;
        let nth = self.nth(channel);
        let store = &mut self.stores[nth];
        let sink = u16::try_from(sink).unwrap();
        store.watched.insert((channel, sink));
        store.bucket.watch(&self.channels[channel], SinkId(sink), now, &terms(&|_| bounds))
    }

    pub(crate) fn unwatch(&mut self, channel: usize, sink: usize) {
        let nth = self.nth(channel);
        let sink = u16::try_from(sink).unwrap();
        self.stores[nth].watched.remove(&(channel, sink));
        self.stores[nth].bucket.unwatch(&self.channels[channel], SinkId(sink));
    }
}

fn replay(bucket: &mut Bucket, done: &Done, channels: &[ChannelName], bounds: LogBounds) {
    match &done.what {
        What::Append(draft) => {
            let draft = Draft { key: None, ..draft.clone() };
            let appended = bucket.append(draft, done.at, &terms(&|_| bounds)).unwrap();
            let last = appended.entries.iter().flatten().last().unwrap().position.offset;
            assert_eq!(last, done.offset);
        }
        What::Drop(channel) => {
            // It existed then, if only because somebody watched.
            let (name, nobody) = (&channels[*channel], SinkId(u16::MAX));
            bucket.watch(name, nobody, done.at, &terms(&|_| bounds));
            assert_eq!(bucket.drop_log(name).floor.offset, done.offset);
            bucket.unwatch(name, nobody);
        }
    }
}

fn terms(bounds: &dyn Fn(&ChannelName) -> LogBounds) -> Terms<'_> {
    Terms { bounds, key_window: KEY_WINDOW, has_room_for_key: true }
}

fn push(watchers: Option<&[SinkId]>, inboxes: &mut [&mut InboxQueue], event: &TailEvent) {
    for sink in watchers.unwrap_or_default() {
        inboxes[usize::from(sink.0)].push(event.clone());
    }
}
