//! A broker that answers later, in an order and with delays that a seed picks, and whose tail loses
//! some of what it has to tell.
//!
//! Behind it is the memory broker, so what it says is right when it is asked; it is asked and answers
//! at other moments. A call takes effect when its answer is first polled, or a while after that, so
//! one that is dropped may have had none.

use std::future::{Future, pending, poll_fn};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tidegate::config::Config;
use tidegate::server;
use tidegate_broker::{
    Broker, Inbox, List, Listing, Member, MemoryBroker, MemoryConfig, Page, PublishError,
    Published, Read, Reply, SinkId, Unavailable,
};
use tidegate_core::inbox::{Drained, TailEvent};
use tidegate_core::{ChannelName, ChannelState, Draft, Position};
use tokio::runtime::Handle;
use tokio::time::{sleep, timeout};

/// How long a tail that has lost something may be silent before it says so.
const SILENCE: Duration = Duration::from_millis(20);

/// How it answers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    /// At most so long before a call takes effect, and as long before it is answered.
    pub(crate) delay_max: Duration,
    /// One of so many pages can't be read; 0: all can.
    pub(crate) read_fails: u32,
    /// One of so many entries is not told; 0: all are.
    pub(crate) tail_loses: u32,
}

/// A memory broker that seems to be far away.
pub(crate) struct Late {
    memory: Mutex<Arc<MemoryBroker>>,
    config: Arc<Config>,
    plan: Plan,
    random: Arc<Mutex<fastrand::Rng>>,
    /// Where the tail's tasks run.
    runtime: Handle,
    /// So many calls of `watch` fail from now on.
    pub(crate) watches_fail: AtomicU32,
    /// Calls of `watch` from now on are never answered.
    pub(crate) is_watch_silent: AtomicBool,
    /// The same of `read`.
    pub(crate) is_read_silent: AtomicBool,
    /// Calls of `read` and of `watch` that are not answered for that.
    pub(crate) silent_reads: AtomicUsize,
    pub(crate) silent_watches: AtomicUsize,
    /// Entries that the tail did not tell.
    pub(crate) lost: Arc<AtomicUsize>,
}

impl Late {
    pub(crate) fn new(config: &Arc<Config>, runtime: &Handle, plan: Plan) -> Arc<Self> {
        Arc::new(Self {
            memory: Mutex::new(memory(config, plan.seed)),
            config: Arc::clone(config),
            plan,
            random: Arc::new(Mutex::new(fastrand::Rng::with_seed(plan.seed))),
            runtime: runtime.clone(),
            watches_fail: AtomicU32::new(0),
            is_watch_silent: AtomicBool::new(false),
            is_read_silent: AtomicBool::new(false),
            silent_reads: AtomicUsize::new(0),
            silent_watches: AtomicUsize::new(0),
            lost: Arc::default(),
        })
    }

    /// Loses its logs, and begins another epoch that its tail does not tell of.
    pub(crate) fn lose_all(&self) {
        *self.memory.lock().unwrap() = memory(&self.config, self.plan.seed + 1);
    }

    fn memory(&self) -> Arc<MemoryBroker> {
        Arc::clone(&self.memory.lock().unwrap())
    }

    fn delay(&self) -> Duration {
        let micros = u64::try_from(self.plan.delay_max.as_micros()).unwrap();
        Duration::from_micros(self.random.lock().unwrap().u64(0..=micros))
    }

    fn is_the_one_of(&self, many: u32) -> bool {
        many > 0 && self.random.lock().unwrap().u32(0..many) == 0
    }

    /// Asks the memory broker after a while, and answers after another.
    fn later<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&MemoryBroker) -> Reply<T> + Send + 'static,
    ) -> Reply<T>
    where
        Reply<T>: Future<Output = T>,
    {
        let (before, after) = (self.delay(), self.delay());
        let memory = self.memory();
        Reply::Later(Box::pin(async move {
            sleep(before).await;
            let answer = ask(&memory).await;
            sleep(after).await;
            answer
        }))
    }

    fn fails<T: Send + 'static>(&self) -> Reply<Result<T, Unavailable>> {
        let delay = self.delay();
        Reply::Later(Box::pin(async move {
            sleep(delay).await;
            Err(Unavailable)
        }))
    }
}

impl Broker for Late {
    fn publish(&self, draft: Draft) -> Reply<Result<Published, PublishError>> {
        // At once, so that calls keep their order; only the answer comes late.
        let reply = self.memory().publish(draft);
        let delay = self.delay();
        Reply::Later(Box::pin(async move {
            sleep(delay).await;
            reply.await
        }))
    }

    fn read(&self, read: Read) -> Reply<Result<Page, Unavailable>> {
        if self.is_read_silent.load(Ordering::Relaxed) {
            self.silent_reads.fetch_add(1, Ordering::Relaxed);
            return Reply::Later(Box::pin(pending()));
        }
        if self.is_the_one_of(self.plan.read_fails) {
            return self.fails();
        }
        self.later(move |memory| memory.read(read))
    }

    fn states(&self, channels: &[ChannelName]) -> Reply<Result<Vec<ChannelState>, Unavailable>> {
        let channels = channels.to_vec();
        self.later(move |memory| memory.states(&channels))
    }

    fn tail(&self, inboxes: Vec<Arc<Inbox>>) {
        let near: Vec<_> =
            inboxes.iter().map(|_| Arc::new(Inbox::new(1 << 20, usize::MAX))).collect();
        self.memory().tail(near.clone());
        for (nth, (from, to)) in near.into_iter().zip(inboxes).enumerate() {
            let random = fastrand::Rng::with_seed(self.plan.seed + 1 + nth as u64);
            let lost = Arc::clone(&self.lost);
            self.runtime.spawn(forward(from, to, self.plan, random, lost));
        }
    }

    fn watch(
        &self,
        channel: &ChannelName,
        sink: SinkId,
    ) -> Reply<Result<ChannelState, Unavailable>> {
        if self.is_watch_silent.load(Ordering::Relaxed) {
            self.silent_watches.fetch_add(1, Ordering::Relaxed);
            return Reply::Later(Box::pin(pending()));
        }
        let left = |it: u32| it.checked_sub(1);
        if self.watches_fail.try_update(Ordering::Relaxed, Ordering::Relaxed, left).is_ok() {
            return self.fails();
        }
        let channel = channel.clone();
        self.later(move |memory| memory.watch(&channel, sink))
    }

    fn unwatch(&self, channel: &ChannelName, sink: SinkId) {
        self.memory().unwatch(channel, sink);
    }

    fn drop_log(&self, channel: &ChannelName) -> Reply<Result<Position, Unavailable>> {
        let channel = channel.clone();
        self.later(move |memory| memory.drop_log(&channel))
    }

    fn presence(
        &self,
        channel: &ChannelName,
        mine: Vec<Arc<Member>>,
    ) -> Reply<Result<Vec<Arc<Member>>, Unavailable>> {
        let channel = channel.clone();
        self.later(move |memory| memory.presence(&channel, mine))
    }

    fn list(self: Arc<Self>, list: List) -> Reply<Result<Listing, Unavailable>> {
        self.memory().list(list)
    }

    fn seal(&self) -> Reply<Result<(), Unavailable>> {
        self.later(MemoryBroker::seal)
    }

    fn is_ready(&self) -> bool {
        self.memory().is_ready()
    }
}

fn memory(config: &Arc<Config>, epoch_seed: u64) -> Arc<MemoryBroker> {
    Arc::new(MemoryBroker::new(MemoryConfig {
        epoch_seed,
        bytes_max: config.broker.max_bytes,
        keys_max: 1000,
        key_window: config.broker.key_window,
        bounds: server::bounds(config),
    }))
}

/// Tells a worker what the memory broker tells us, a little later and not quite all of it.
async fn forward(
    from: Arc<Inbox>,
    to: Arc<Inbox>,
    plan: Plan,
    mut random: fastrand::Rng,
    lost: Arc<AtomicUsize>,
) {
    let mut has_lost = false;
    loop {
        // Cancel safe: nothing is taken before it is there.
        let mut spare = Vec::new();
        let drained = timeout(SILENCE, poll_fn(|cx| from.poll_drain(cx, &mut spare))).await;
        let Drained { events, dirty } = match drained {
            Ok(drained) => drained,
            Err(_) if std::mem::take(&mut has_lost) => {
                Drained { events: vec![TailEvent::Broken], ..Drained::default() }
            }
            Err(_) => continue,
        };
        assert!(dirty.is_empty(), "it has room for all that a test publishes");
        let micros = u64::try_from(plan.delay_max.as_micros()).unwrap() / 4;
        sleep(Duration::from_micros(random.u64(0..=micros))).await;
        for event in events {
            let is_entry = matches!(event, TailEvent::Entry(_));
            if is_entry && plan.tail_loses > 0 && random.u32(0..plan.tail_loses) == 0 {
                has_lost = true;
                lost.fetch_add(1, Ordering::Relaxed);
            } else if let Some(waker) = to.push(event) {
                waker.wake();
            }
        }
    }
}
