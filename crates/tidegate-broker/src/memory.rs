//! The memory broker: every log in this process, and every answer at once (DESIGN 7 and 8).
//!
//! Channels are spread over 4,096 shards, each a lock around a [`Bucket`] of `tidegate-core`, which
//! does the work; here are the locks, the clock, the inboxes and the bounds of the whole process.
//! The log dies with the process: each start has an epoch of its own.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

use tidegate_core::channel::BUCKETS;
use tidegate_core::inbox::TailEvent;
use tidegate_core::log::{Bucket, LogBounds, Page, Read, Refused, SinkId, Swept, Terms, Usage};
use tidegate_core::{ChannelName, ChannelState, Draft, Epoch, Lineage, Position};

use crate::{
    Broker, Inbox, List, Listed, Listing, Member, PublishError, Published, Reply, Unavailable,
};

/// A broker that keeps its logs in memory.
///
/// It never leaves an outcome open, so no caller ever retries a draft, and it holds no draft's id.
pub struct MemoryBroker {
    shards: Box<[Shard]>,
    /// Of each shard, in milliseconds: at or before the last append of each of its channels;
    /// [`NEVER`] if nothing is kept. Side by side, since they are searched together.
    idle_since: Box<[AtomicU64]>,
    /// Of each shard, in milliseconds: at or before the expiry of each of its keys.
    key_expires: Box<[AtomicU64]>,
    /// Set once; before it, nobody is told anything.
    inboxes: OnceLock<Box<[Arc<Inbox>]>>,
    config: MemoryConfig,
    clock: Clock,
    /// Bytes and keys of all shards, settled before a shard's lock is released.
    bytes: AtomicUsize,
    keys: AtomicUsize,
    is_sealed: AtomicBool,
    /// The shard at which the next sweep begins.
    sweep_from: AtomicUsize,
}

/// What a [`MemoryBroker`] is made with.
pub struct MemoryConfig {
    /// Randomness for the log's epoch; another one at each start.
    pub epoch_seed: u64,
    /// Bytes of all logs; over it the idlest are trimmed. Ends are exempt, and threads that publish
    /// at once may be over it by an entry each.
    pub bytes_max: usize,
    /// Idempotency keys of all channels; over it publishes with a new key are refused. Threads that
    /// publish at once may be over it by one each.
    pub keys_max: usize,
    /// How long a key is held.
    pub key_window: Duration,
    /// The bounds of a channel's log: asked under a lock when its log is made, and by each sweep,
    /// so it must be quick and may change its mind.
    pub bounds: Arc<dyn Fn(&ChannelName) -> LogBounds + Send + Sync>,
}

/// A monotonic time since some origin.
type Clock = Box<dyn Fn() -> Duration + Send + Sync>;

/// One of the 4,096; no two share a cache line.
#[repr(align(64))]
struct Shard {
    /// Guards the bucket, and with it that an append and its pushes are one step. A lock, not a
    /// task: a publisher on any worker needs its answer within its turn. Held for a publish, a page
    /// or a sweep of one bucket; taken before an inbox's lock, never after one.
    bucket: Mutex<Bucket>,
}

impl MemoryBroker {
    /// An empty broker that lives by the machine's monotonic clock.
    #[must_use]
    pub fn new(config: MemoryConfig) -> Self {
        let origin = Instant::now();
        Self::with_clock(config, move || origin.elapsed())
    }

    /// An empty broker that lives by `clock`, a monotonic time since any origin.
    #[must_use]
    pub fn with_clock(
        config: MemoryConfig,
        clock: impl Fn() -> Duration + Send + Sync + 'static,
    ) -> Self {
        let lineage = Lineage::new(Epoch::new(config.epoch_seed));
        let shard = || Shard { bucket: Mutex::new(Bucket::new(lineage.clone())) };
        let never = || (0..BUCKETS).map(|_| AtomicU64::new(NEVER)).collect();
        Self {
            shards: (0..BUCKETS).map(|_| shard()).collect(),
            idle_since: never(),
            key_expires: never(),
            inboxes: OnceLock::new(),
            config,
            clock: Box::new(clock),
            bytes: AtomicUsize::new(0),
            keys: AtomicUsize::new(0),
            is_sealed: AtomicBool::new(false),
            sweep_from: AtomicUsize::new(0),
        }
    }

    /// Lets expire what is due in an eighth of the shards, one lock at a time, and takes over bounds
    /// that have changed. Meant to be called each second, on no worker: publishes and reads expire
    /// what they meet themselves, so this only gives memory and keys back.
    pub fn sweep(&self) {
        const SLICE: usize = BUCKETS / 8;
        let from = self.sweep_from.fetch_add(SLICE, Ordering::Relaxed);
        for nth in from..from + SLICE {
            self.lock(nth % BUCKETS).sweep();
        }
    }

    /// Bytes that all logs hold, by [`tidegate_core::Entry::weight`] and an overhead per log.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Idempotency keys that are held.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.keys.load(Ordering::Relaxed)
    }

    /// Trims the idlest logs until all together fit again, with a little to spare. Each publisher
    /// that finds them over does its own share, so that none stops for long.
    fn make_room(&self) {
        /// What is freed beyond what must be, so that the search is not for each entry.
        const SPARE_MAX: usize = 64 << 10;
        /// No lock is held for more than this many bytes of frees (about 3,000 small entries).
        const STEP_MAX: usize = 1 << 20;
        /// Logs whose idleness differs by less are equally idle.
        const SLACK_MS: u64 = 1000;
        /// Stamps may lie too early. So often they are put right before all logs count as idle.
        const PASSES: u32 = 8;
        let bytes_max = self.config.bytes_max;
        let target = bytes_max - (bytes_max / 64).min(SPARE_MAX);
        for pass in 1.. {
            let stamps = || self.idle_since.iter().map(|it| it.load(Ordering::Relaxed));
            let idlest = stamps().min().unwrap_or(NEVER);
            if idlest == NEVER {
                return;
            }
            let until = if pass < PASSES { idlest.saturating_add(SLACK_MS) } else { NEVER - 1 };
            for (nth, since) in stamps().enumerate() {
                let excess = self.bytes().saturating_sub(target);
                if excess == 0 {
                    return;
                }
                if since <= until {
                    let mut locked = self.lock(nth);
                    let idle_since = Duration::from_millis(until);
                    locked.bucket.trim_idlest(excess.min(STEP_MAX), idle_since);
                    let since = stamp(locked.bucket.idle_since());
                    locked.idle_since.store(since, Ordering::Relaxed);
                }
            }
        }
    }

    /// When it is worth to come back with a new key: the next one expires and is swept.
    fn key_retry_after(&self) -> Duration {
        let next = self.key_expires.iter().map(|it| it.load(Ordering::Relaxed)).min();
        let next = Duration::from_millis(next.unwrap_or(NEVER));
        let wait = next.saturating_sub((self.clock)()).min(self.config.key_window);
        wait.max(Duration::from_secs(1))
    }

    /// Adds a shard's channels to the first of a listing, with their publications and bytes.
    fn list_shard(&self, nth: usize, list: &List, best: &mut BTreeMap<ChannelName, (u64, u64)>) {
        let mut locked = self.lock(nth);
        locked.sweep();
        for kept in locked.bucket.channels() {
            let name = kept.channel.as_str();
            if name.starts_with(&list.prefix) && name > list.after.as_str() {
                best.insert(kept.channel.clone(), (kept.messages as u64, kept.bytes as u64));
                if best.len() > list.limit.saturating_add(1) {
                    best.pop_last();
                }
            }
        }
    }

    fn terms(&self, has_room_for_key: bool) -> Terms<'_> {
        Terms { bounds: &*self.config.bounds, key_window: self.config.key_window, has_room_for_key }
    }

    fn lock_for(&self, channel: &ChannelName) -> Locked<'_> {
        self.lock(channel.bucket())
    }

    #[expect(clippy::indexing_slicing, reason = "`nth` is below BUCKETS, as everything is long")]
    fn lock(&self, nth: usize) -> Locked<'_> {
        // Nothing in a bucket panics but by a bug of ours; other channels of it still serve then.
        let bucket = self.shards[nth].bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let before = bucket.usage();
        let (idle_since, key_expires) = (&self.idle_since[nth], &self.key_expires[nth]);
        Locked { broker: self, bucket, before, idle_since, key_expires }
    }
}

impl Broker for MemoryBroker {
    fn publish(&self, draft: Draft) -> Reply<Result<Published, PublishError>> {
        let terms = self.terms(draft.key.is_none() || self.keys() < self.config.keys_max);
        let has_key = draft.key.is_some();
        let now = (self.clock)();
        let mut wakes = Wakes::default();
        let appended = {
            let mut locked = self.lock_for(&draft.channel);
            // Read under the lock: once `seal` has been through all locks, nothing is appended.
            if self.is_sealed.load(Ordering::Relaxed) {
                return Reply::Now(Err(PublishError::Unavailable { perhaps_accepted: false }));
            }
            let appended = locked.bucket.append(draft, now, &terms);
            if let Ok(appended) = &appended {
                for entry in appended.entries.iter().flatten() {
                    let event = || TailEvent::Entry(Arc::clone(entry));
                    wakes.push_all(self, appended.watchers.as_deref(), event);
                }
                locked.note(now, has_key.then_some(self.config.key_window));
            }
            appended
        };
        wakes.wake();
        if self.bytes() > self.config.bytes_max {
            self.make_room();
        }
        Reply::Now(match appended {
            Ok(it) if it.is_duplicate => Ok(Published::Duplicate(it.position)),
            Ok(it) => Ok(Published::New(it.position)),
            Err(Refused::Ended) => Err(PublishError::Ended),
            Err(Refused::KeyReused) => Err(PublishError::KeyReused),
            Err(Refused::KeysFull) => {
                Err(PublishError::KeysFull { retry_after: self.key_retry_after() })
            }
        })
    }

    fn read(&self, read: Read) -> Reply<Result<Page, Unavailable>> {
        let page = self.lock_for(&read.channel).bucket.read(&read, (self.clock)());
        // Nobody can know of more than we have, but by a mistake; a page would hide it.
        Reply::Now(if read.at_least > page.state.head { Err(Unavailable) } else { Ok(page) })
    }

    fn states(&self, channels: &[ChannelName]) -> Reply<Result<Vec<ChannelState>, Unavailable>> {
        let now = (self.clock)();
        let state = |channel| self.lock_for(channel).bucket.state(channel, now);
        Reply::Now(Ok(channels.iter().map(state).collect()))
    }

    /// # Panics
    ///
    /// If it is called again.
    fn tail(&self, inboxes: Vec<Arc<Inbox>>) {
        assert!(self.inboxes.set(inboxes.into()).is_ok(), "a node has one tail");
    }

    fn watch(
        &self,
        channel: &ChannelName,
        sink: SinkId,
    ) -> Reply<Result<ChannelState, Unavailable>> {
        let mut locked = self.lock_for(channel);
        Reply::Now(Ok(locked.bucket.watch(channel, sink, (self.clock)(), &self.terms(true))))
    }

    fn unwatch(&self, channel: &ChannelName, sink: SinkId) {
        self.lock_for(channel).bucket.unwatch(channel, sink);
    }

    fn drop_log(&self, channel: &ChannelName) -> Reply<Result<Position, Unavailable>> {
        let mut wakes = Wakes::default();
        let dropped = {
            let mut locked = self.lock_for(channel);
            if self.is_sealed.load(Ordering::Relaxed) {
                return Reply::Now(Err(Unavailable));
            }
            let dropped = locked.bucket.drop_log(channel);
            let event = || TailEvent::Dropped { channel: channel.clone(), floor: dropped.floor };
            wakes.push_all(self, dropped.watchers.as_deref(), event);
            dropped
        };
        wakes.wake();
        Reply::Now(Ok(dropped.floor))
    }

    fn presence(
        &self,
        _: &ChannelName,
        mine: Vec<Arc<Member>>,
    ) -> Reply<Result<Vec<Arc<Member>>, Unavailable>> {
        // There is no other node, so that nobody would ask what was said.
        Reply::Now(Ok(mine))
    }

    /// Sweeps the whole broker, some shards at a time: what has expired is not listed. Not one
    /// moment's view, but a channel never changes its shard.
    fn list(self: Arc<Self>, list: List) -> Reply<Result<Listing, Unavailable>> {
        Reply::Later(Box::pin(async move {
            // The first `limit` of all seen so far, and one to know whether there are more.
            let mut best = BTreeMap::new();
            for nth in 0..BUCKETS {
                if nth > 0 && nth % LISTED_AT_ONCE == 0 {
                    // Whoever awaits this has others to serve.
                    tokio::task::yield_now().await;
                }
                self.list_shard(nth, &list, &mut best);
            }
            let has_more = best.len() > list.limit;
            let listed = |(channel, (messages, bytes))| Listed { channel, messages, bytes };
            let channels = best.into_iter().take(list.limit).map(listed).collect();
            Ok(Listing { channels, has_more })
        }))
    }

    fn seal(&self) -> Reply<Result<(), Unavailable>> {
        self.is_sealed.store(true, Ordering::Relaxed);
        // Publishes that have not seen it yet are done when their lock was had once.
        (0..BUCKETS).for_each(|nth| drop(self.lock(nth)));
        Reply::Now(Ok(()))
    }

    fn is_ready(&self) -> bool {
        !self.is_sealed.load(Ordering::Relaxed)
    }
}

impl std::fmt::Debug for MemoryBroker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryBroker")
            .field("bytes", &self.bytes)
            .field("keys", &self.keys)
            .field("is_sealed", &self.is_sealed)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for MemoryConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryConfig")
            .field("bytes_max", &self.bytes_max)
            .field("keys_max", &self.keys_max)
            .field("key_window", &self.key_window)
            .finish_non_exhaustive()
    }
}

/// A shard whose lock is held. What changes in it is added to the broker's sums at the end.
struct Locked<'a> {
    broker: &'a MemoryBroker,
    bucket: MutexGuard<'a, Bucket>,
    before: Usage,
    idle_since: &'a AtomicU64,
    key_expires: &'a AtomicU64,
}

impl Locked<'_> {
    fn sweep(&mut self) {
        let terms = self.broker.terms(true);
        let Swept { idle_since, key_expires } = self.bucket.sweep((self.broker.clock)(), &terms);
        self.idle_since.store(stamp(idle_since), Ordering::Relaxed);
        self.key_expires.store(stamp(key_expires), Ordering::Relaxed);
    }

    /// Keeps the stamps at or before what an append at `now` has made, at the cost of two loads.
    fn note(&self, now: Duration, key_window: Option<Duration>) {
        if self.idle_since.load(Ordering::Relaxed) == NEVER {
            self.idle_since.store(stamp(Some(now)), Ordering::Relaxed);
        }
        if let Some(window) = key_window
            && self.key_expires.load(Ordering::Relaxed) == NEVER
        {
            let expires = now.saturating_add(window);
            self.key_expires.store(stamp(Some(expires)), Ordering::Relaxed);
        }
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        // In a full log each append trims as much as it adds: then the shared sums stay untouched.
        let settle = |sum: &AtomicUsize, before: usize, after: usize| {
            if after != before {
                sum.fetch_add(after.wrapping_sub(before), Ordering::Relaxed);
            }
        };
        let after = self.bucket.usage();
        settle(&self.broker.bytes, self.before.bytes, after.bytes);
        settle(&self.broker.keys, self.before.keys, after.keys);
    }
}

/// Workers to wake once no lock is held. The first few need no memory.
#[derive(Default)]
struct Wakes {
    few: [Option<Waker>; 8],
    few_len: usize,
    more: Vec<Waker>,
}

impl Wakes {
    /// Pushes an event to each of `sinks`, and keeps whom to wake.
    fn push_all(
        &mut self,
        broker: &MemoryBroker,
        sinks: Option<&[SinkId]>,
        event: impl Fn() -> TailEvent,
    ) {
        let (Some(sinks), Some(inboxes)) = (sinks, broker.inboxes.get()) else { return };
        for inbox in sinks.iter().filter_map(|sink| inboxes.get(usize::from(sink.0))) {
            let Some(waker) = inbox.push(event()) else { continue };
            match self.few.get_mut(self.few_len) {
                Some(slot) => {
                    *slot = Some(waker);
                    self.few_len += 1;
                }
                None => self.more.push(waker),
            }
        }
    }

    fn wake(mut self) {
        let few = self.few.get_mut(..self.few_len).unwrap_or_default();
        few.iter_mut().filter_map(Option::take).for_each(Waker::wake);
        self.more.into_iter().for_each(Waker::wake);
    }
}

/// Shards of a listing in one turn: with a million channels a few milliseconds' worth.
const LISTED_AT_ONCE: usize = 64;

/// Later than all times.
const NEVER: u64 = u64::MAX;

/// Milliseconds, rounded down.
fn stamp(time: Option<Duration>) -> u64 {
    time.map_or(NEVER, |it| u64::try_from(it.as_millis()).unwrap_or(NEVER - 1))
}
