//! Random operations on a bucket, checked at each step against a model that forgets nothing.
//!
//! The model keeps every entry that ever was, and works out afresh at each question what must still
//! be there. `SEED=n cargo test -p tidegate-core log::tests::model` replays one seed.

use std::collections::BTreeMap;

use fastrand::Rng;

use super::super::*;
use crate::cursor::Epoch;
use crate::entry::{Body, Key, Publication, Timestamp};
use crate::payload::{Payload, PayloadKind};

const CHANNELS: [(&str, LogBounds); 5] = [
    ("few", LogBounds { messages: 3, bytes: usize::MAX, age: Duration::from_secs(50) }),
    ("none", LogBounds { messages: 0, bytes: usize::MAX, age: Duration::from_secs(50) }),
    ("small", LogBounds { messages: 100, bytes: 1000, age: Duration::from_secs(50) }),
    ("young", LogBounds { messages: 100, bytes: usize::MAX, age: Duration::from_secs(5) }),
    ("old", LogBounds { messages: 100, bytes: 10_000, age: Duration::from_secs(500) }),
];
const KEY_WINDOW: Duration = Duration::from_secs(20);
const KEYS_MAX: usize = 6;
const EPOCH: Epoch = Epoch::new(1);

#[test]
#[expect(clippy::disallowed_methods, reason = "the seed to replay is a test's, not behaviour's")]
fn any_history_agrees_with_the_model() {
    let seeds = match std::env::var("SEED") {
        Ok(seed) => seed.parse().unwrap()..=seed.parse().unwrap(),
        Err(_) => 0..=300_u64,
    };
    let mut seen = Seen::default();
    for seed in seeds.clone() {
        let run = || {
            let mut simulation = Simulation::new(seed);
            for _ in 0..200 {
                simulation.step();
            }
            simulation.finish()
        };
        match std::panic::catch_unwind(run) {
            Ok(it) => seen.add(&it),
            Err(_) => panic!("replay: SEED={seed} cargo test -p tidegate-core log::tests::model"),
        }
    }
    // A simulation that never comes by what it is for proves nothing.
    assert!(seeds.end() == seeds.start() || seen.is_broad(), "{seen:?}");
}

/// What all runs together came by.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    gaps: u32,
    duplicates: u32,
    refused: u32,
    ends: u32,
    forgotten: u32,
}

impl Seen {
    fn add(&mut self, other: &Self) {
        self.gaps += other.gaps;
        self.duplicates += other.duplicates;
        self.refused += other.refused;
        self.ends += other.ends;
        self.forgotten += other.forgotten;
    }

    fn is_broad(self) -> bool {
        [self.gaps, self.duplicates, self.refused, self.ends, self.forgotten]
            .iter()
            .all(|it| *it > 100)
    }
}

struct Simulation {
    rng: Rng,
    bucket: Bucket,
    now: Duration,
    sequence: u64,
    /// What the model knows of each channel of [`CHANNELS`].
    truth: Vec<Truth>,
    seen: Seen,
}

#[derive(Default)]
struct Truth {
    /// Every entry since the last drop, and when it came.
    entries: Vec<(Duration, Arc<Entry>)>,
    /// The newest offset that may not be missed in silence any more: trimmed or dropped.
    gone: u64,
    watchers: Vec<SinkId>,
    /// Its floor is exactly known while it is watched: what it was at the first watch, or later rose to.
    watched_floor: Option<u64>,
    /// `(publisher, key)` → what was published, where, until when.
    keys: BTreeMap<(u8, u8), (u8, bool, u64, Duration)>,
}

impl Truth {
    /// Publications and end that must be there at `now`: a suffix of all.
    fn kept(&self, bounds: LogBounds, now: Duration) -> Vec<Arc<Entry>> {
        let (mut messages, mut bytes) = (0, 0);
        let mut kept = Vec::new();
        for (at, entry) in self.entries.iter().rev() {
            bytes += entry.weight();
            messages += usize::from(!entry.is_end());
            let is_over = !entry.is_end() && (messages > bounds.messages || bytes > bounds.bytes);
            if is_over || now - *at >= bounds.age || entry.position.offset <= self.gone {
                break;
            }
            kept.insert(0, Arc::clone(entry));
        }
        kept
    }

    fn newest_gone(&self, kept: &[Arc<Entry>]) -> u64 {
        let gone = self.entries.len() - kept.len();
        self.entries[..gone].last().map_or(self.gone, |(_, it)| it.position.offset).max(self.gone)
    }
}

fn bounds_of(channel: &ChannelName) -> LogBounds {
    CHANNELS.iter().find(|(it, _)| *it == channel.as_str()).unwrap().1
}

impl Simulation {
    fn new(seed: u64) -> Self {
        Self {
            rng: Rng::with_seed(seed),
            bucket: Bucket::new(Lineage::new(EPOCH)),
            now: Duration::ZERO,
            sequence: 0,
            truth: CHANNELS.iter().map(|_| Truth::default()).collect(),
            seen: Seen::default(),
        }
    }

    fn step(&mut self) {
        let nth = self.rng.usize(..CHANNELS.len());
        let channel = ChannelName::parse(CHANNELS[nth].0).unwrap();
        match self.rng.u8(..20) {
            0..=9 => self.publish(nth, &channel),
            10..=11 => self.now += Duration::from_millis(self.rng.u64(..8000)),
            12 => self.watch(nth, &channel),
            13..=14 => self.unwatch(nth, &channel),
            15 => self.drop_log(nth, &channel),
            16 => self.trim(),
            17 => {
                let terms = self.terms();
                self.bucket.sweep(self.now, &terms);
            }
            _ => {}
        }
        self.check(nth);
        if self.rng.u8(..8) == 0 {
            (0..CHANNELS.len()).for_each(|nth| self.check(nth));
        }
    }

    fn terms(&self) -> Terms<'static> {
        let held = self.bucket.usage().keys;
        Terms { bounds: &bounds_of, key_window: KEY_WINDOW, has_room_for_key: held < KEYS_MAX }
    }

    fn publish(&mut self, nth: usize, channel: &ChannelName) {
        // Small numbers, so that keys and payloads meet again.
        let content = self.rng.u8(..3);
        let publication = (content > 0).then(|| {
            let bytes = vec![content; usize::from(content) * 50].into();
            let payload = Payload { kind: PayloadKind::Binary, bytes, content_type: None };
            Publication { payload, event: None, user: None, origin: None }
        });
        let ends = content == 0 || self.rng.u8(..20) == 0;
        if content == 0 && self.rng.u8(..8) != 0 {
            return;
        }
        let key = self.rng.bool().then(|| (self.rng.u8(..2), self.rng.u8(..4)));
        let draft = Draft {
            channel: channel.clone(),
            publication: publication.clone(),
            ends,
            key: key.map(|(publisher, key)| {
                Key::parse(publisher.to_string().into(), &key.to_string()).unwrap()
            }),
            time: Timestamp(7),
            id: 0,
        };
        let terms = self.terms();
        let answer = self.bucket.append(draft, self.now, &terms);
        let (sequence, now) = (self.sequence, self.now);
        let truth = &mut self.truth[nth];
        truth.keys.retain(|_, (.., expires)| *expires > now);
        let kept = truth.kept(CHANNELS[nth].1, now);

        if let Some((before, ended, offset, _)) = key.and_then(|it| truth.keys.get(&it)) {
            if (*before, *ended) == (content, ends) {
                let answer = answer.unwrap();
                assert!(answer.is_duplicate && answer.entries == [None, None]);
                assert_eq!(answer.position.offset, *offset);
                self.seen.duplicates += 1;
            } else {
                assert_eq!(answer.unwrap_err(), Refused::KeyReused);
                self.seen.refused += 1;
            }
            return;
        }
        if kept.last().is_some_and(|it| it.is_end()) {
            assert_eq!(answer.unwrap_err(), Refused::Ended);
            self.seen.ends += 1;
            return;
        }
        if let Err(refused) = answer {
            assert_eq!(refused, Refused::KeysFull);
            assert!(key.is_some() && !terms.has_room_for_key);
            self.seen.refused += 1;
            return;
        }
        assert!(key.is_none() || terms.has_room_for_key);
        let answer = answer.unwrap();
        assert!(!answer.is_duplicate);
        assert_eq!(answer.position, Position { epoch: EPOCH, offset: sequence + 1 });
        assert_eq!(answer.watchers.as_deref().unwrap_or_default(), truth.watchers);
        let bodies =
            publication.map(Body::Publication).into_iter().chain(ends.then_some(Body::End));
        let appended: Vec<_> = answer.entries.into_iter().flatten().collect();
        assert!(appended.iter().map(|it| &it.body).eq(bodies.collect::<Vec<_>>().iter()));
        for entry in appended {
            self.sequence += 1;
            assert_eq!(entry.position.offset, self.sequence);
            // Nothing of this channel may lie between `prev` and the entry.
            let newest = truth.entries.last().map_or(0, |(_, it)| it.position.offset);
            assert!(entry.prev >= newest.max(truth.gone) && entry.prev < self.sequence);
            if let Some(floor) = truth.watched_floor {
                assert_eq!(entry.prev, newest.max(floor), "who has all before misses nothing");
            }
            truth.entries.push((now, entry));
        }
        if let Some(key) = key {
            truth.keys.insert(key, (content, ends, answer.position.offset, now + KEY_WINDOW));
        }
    }

    fn watch(&mut self, nth: usize, channel: &ChannelName) {
        let sink = SinkId(self.rng.u16(..3));
        let terms = self.terms();
        let state = self.bucket.watch(channel, sink, self.now, &terms);
        assert_eq!(state.head, self.sequence);
        let truth = &mut self.truth[nth];
        if !truth.watchers.contains(&sink) {
            truth.watchers.push(sink);
        }
        truth.watched_floor.get_or_insert(state.floor);
    }

    fn unwatch(&mut self, nth: usize, channel: &ChannelName) {
        let sink = SinkId(self.rng.u16(..3));
        self.bucket.unwatch(channel, sink);
        let truth = &mut self.truth[nth];
        truth.watchers.retain(|it| *it != sink);
        if truth.watchers.is_empty() {
            truth.watched_floor = None;
        }
    }

    fn drop_log(&mut self, nth: usize, channel: &ChannelName) {
        let existed = self.bucket.channels.contains_key(channel);
        let dropped = self.bucket.drop_log(channel);
        self.sequence += u64::from(existed);
        let truth = &mut self.truth[nth];
        assert_eq!(dropped.watchers.as_deref().unwrap_or_default(), truth.watchers);
        let newest = truth.entries.last().map_or(0, |(_, it)| it.position.offset);
        let floor = dropped.floor.offset;
        assert!(floor >= newest && (!existed || floor == self.sequence));
        truth.gone = floor;
        truth.watched_floor = truth.watched_floor.map(|it| it.max(floor));
        truth.entries.clear();
        truth.keys.clear();
    }

    /// The process is over its bytes: which logs pay is a matter of order, not of the model.
    fn trim(&mut self) {
        self.bucket.trim_idlest(self.rng.usize(..3000), self.now);
        for (truth, (name, bounds)) in self.truth.iter_mut().zip(CHANNELS) {
            let kept = truth.kept(bounds, self.now);
            let state = self.bucket.state(&ChannelName::parse(name).unwrap(), self.now);
            // Publications may be gone now, an end never.
            let ended = kept.iter().find(|it| it.is_end()).map(|it| it.position.offset);
            assert_eq!(state.ended, ended);
            let gone = kept.iter().filter(|it| it.position.offset <= state.floor && !it.is_end());
            truth.gone = gone.map(|it| it.position.offset).max().unwrap_or(truth.gone);
        }
    }

    /// Compares everything that can be asked about a channel.
    fn check(&mut self, nth: usize) {
        let (name, bounds) = CHANNELS[nth];
        let channel = ChannelName::parse(name).unwrap();
        let state = self.bucket.state(&channel, self.now);
        let truth = &mut self.truth[nth];
        let kept = truth.kept(bounds, self.now);
        let newest_gone = truth.newest_gone(&kept);

        assert_eq!(state.head, self.sequence);
        assert_eq!(state.ended, kept.last().filter(|it| it.is_end()).map(|it| it.position.offset));
        assert!(newest_gone <= state.floor && state.floor <= self.sequence);
        assert!(kept.first().is_none_or(|it| it.prev >= state.floor || it.prev == newest_gone));
        if let Some(floor) = &mut truth.watched_floor {
            *floor = newest_gone.max(*floor);
            assert_eq!(state.floor, *floor, "a quiet channel's cursor stays good");
        }

        let requested = Position { epoch: EPOCH, offset: self.rng.u64(..=self.sequence + 1) };
        let (resumed, gap) = state.judge(requested);
        self.seen.gaps += u32::from(gap.is_some());
        let expect: Vec<_> =
            kept.iter().filter(|it| it.position.offset > resumed.offset).cloned().collect();
        if gap.is_none() {
            let missed = |(_, it): &&(_, Arc<Entry>)| it.position.offset > requested.offset;
            assert_eq!(truth.entries.iter().filter(missed).count(), expect.len(), "all or a gap");
        }
        let publications = kept.iter().filter(|it| !it.is_end()).count();
        let last = self.rng.usize(..5);
        let below: Vec<_> =
            kept.iter().filter(|it| it.position.offset < requested.offset).cloned().collect();

        assert_eq!(self.read_all(&channel, From::After(requested)), expect);
        assert_eq!(self.read_all(&channel, From::Start), kept);
        let from = From::Last(u32::try_from(last).unwrap());
        assert_eq!(self.read_all(&channel, from), kept[publications.saturating_sub(last)..]);
        if gap.is_none() {
            assert_eq!(self.read_all_before(&channel, requested), below);
        }
        let mine = self.bucket.channels().find(|it| *it.channel == channel);
        assert_eq!(mine.map_or(0, |it| it.messages), publications);
    }

    /// Pages of random sizes until the last one, from the first's `next` on.
    fn read_all(&mut self, channel: &ChannelName, from: From) -> Vec<Arc<Entry>> {
        let mut all = Vec::new();
        let mut from = from;
        loop {
            let page = self.page(channel, from);
            all.extend(page.entries);
            if page.is_last {
                return all;
            }
            from = From::After(page.next);
        }
    }

    fn read_all_before(&mut self, channel: &ChannelName, before: Position) -> Vec<Arc<Entry>> {
        let mut all = Vec::new();
        let mut before = before;
        loop {
            let page = self.page(channel, From::Before(before));
            all.splice(..0, page.entries);
            if page.is_last {
                return all;
            }
            before = page.next;
        }
    }

    fn page(&mut self, channel: &ChannelName, from: From) -> Page {
        let entries_max = self.rng.u32(1..5).try_into().unwrap();
        let bytes_max = self.rng.usize(..2000);
        let read = Read { channel: channel.clone(), from, at_least: 0, entries_max, bytes_max };
        self.bucket.read(&read, self.now)
    }

    /// Lets all of it go: nothing may be left behind.
    fn finish(mut self) -> Seen {
        for (name, _) in CHANNELS {
            for sink in 0..3 {
                self.bucket.unwatch(&ChannelName::parse(name).unwrap(), SinkId(sink));
            }
        }
        let were = self.bucket.channels().count();
        self.now += Duration::from_secs(1000);
        let terms = self.terms();
        assert_eq!(self.bucket.sweep(self.now, &terms), Swept::default());
        assert!(self.bucket.is_empty() && self.bucket.usage() == Usage::default());
        for truth in &self.truth {
            let newest = truth.entries.last().map_or(0, |(_, it)| it.position.offset);
            assert!(self.bucket.floor >= newest);
        }
        self.seen.forgotten += u32::try_from(were).unwrap();
        self.seen
    }
}
