//! The memory broker: the suite of all brokers, and what only it promises.
#![expect(clippy::unwrap_used, reason = "the words that tests share are no tests to clippy")]

use std::collections::HashSet;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use tidegate_broker::conformance::{Restarted, Setup, Subject};
use tidegate_broker::{
    Broker, From, Inbox, List, LogBounds, MemoryBroker, MemoryConfig, Page, PublishError,
    Published, Read, Reply, SinkId,
};
use tidegate_core::inbox::TailEvent;
use tidegate_core::{ChannelName, Draft, Entry, Payload, PayloadKind, Publication, Timestamp};

tidegate_broker::broker_conformance!(Memory);

/// A memory broker under a clock that tests set.
struct Memory {
    broker: Arc<MemoryBroker>,
    millis: Arc<AtomicU64>,
    setup: Setup,
}

impl Subject for Memory {
    fn start(setup: Setup) -> Self {
        static SEED: AtomicU64 = AtomicU64::new(1);
        let millis = Arc::new(AtomicU64::new(0));
        let bounds = setup.bounds;
        let config = MemoryConfig {
            epoch_seed: SEED.fetch_add(1, Ordering::Relaxed),
            bytes_max: setup.bytes_max,
            keys_max: setup.keys_max,
            key_window: setup.key_window,
            bounds: Arc::new(move |_| bounds),
        };
        let clock = Arc::clone(&millis);
        let clock = move || Duration::from_millis(clock.load(Ordering::Relaxed));
        Self { broker: Arc::new(MemoryBroker::with_clock(config, clock)), millis, setup }
    }

    fn broker(&self) -> Arc<dyn Broker> {
        Arc::clone(&self.broker) as Arc<dyn Broker>
    }

    fn advance(&self, time: Duration) {
        self.millis.fetch_add(u64::try_from(time.as_millis()).unwrap(), Ordering::Relaxed);
        // Once round all shards.
        (0..8).for_each(|_| self.broker.sweep());
    }

    fn restart(self) -> Option<(Self, Restarted)> {
        Some((Self::start(self.setup.clone()), Restarted::Lost))
    }
}

const ROOMY: LogBounds =
    LogBounds { messages: 100_000, bytes: 64 << 20, age: Duration::from_secs(600) };

fn setup() -> Setup {
    let key_window = Duration::from_secs(120);
    Setup { bounds: ROOMY, key_window, keys_max: 1000, bytes_max: 256 << 20 }
}

fn name(channel: &str) -> ChannelName {
    ChannelName::parse(channel).unwrap()
}

fn draft(channel: &ChannelName, text: String) -> Draft {
    let payload =
        Payload { kind: PayloadKind::Text, bytes: text.into_bytes().into(), content_type: None };
    Draft {
        channel: channel.clone(),
        publication: Some(Publication { payload, event: None, user: None, origin: None }),
        ends: false,
        key: None,
        time: Timestamp(0),
        id: 0,
    }
}

/// The memory broker answers on the spot.
#[track_caller]
fn now<T>(reply: Reply<T>) -> T {
    match reply {
        Reply::Now(it) => it,
        Reply::Later(_) => panic!("the memory broker made us wait"),
    }
}

fn read(broker: &MemoryBroker, channel: &ChannelName, from: From) -> Page {
    let entries_max = u32::MAX.try_into().unwrap();
    let channel = channel.clone();
    let read = Read { channel, from, at_least: 0, entries_max, bytes_max: usize::MAX };
    now(broker.read(read)).unwrap()
}

fn drain(inbox: &Inbox) -> Vec<TailEvent> {
    let mut cx = Context::from_waker(Waker::noop());
    match inbox.poll_drain(&mut cx, &mut Vec::new()) {
        Poll::Ready(drained) => {
            assert!(drained.dirty.is_empty());
            drained.events
        }
        Poll::Pending => Vec::new(),
    }
}

fn entries(events: &[TailEvent]) -> Vec<Arc<Entry>> {
    let entry = |it: &TailEvent| match it {
        TailEvent::Entry(entry) => Some(Arc::clone(entry)),
        _ => None,
    };
    events.iter().filter_map(entry).collect()
}

#[test]
fn an_entry_is_in_the_inbox_when_publish_returns_and_not_after_unwatch() {
    let Memory { broker, .. } = Memory::start(setup());
    let inbox = Arc::new(Inbox::new(100, usize::MAX));
    broker.tail(vec![Arc::clone(&inbox)]);
    let channel = name("a");
    now(broker.watch(&channel, SinkId(0))).unwrap();
    // A sink that was never announced is nobody.
    now(broker.watch(&channel, SinkId(7))).unwrap();
    now(broker.publish(draft(&channel, "x".into()))).unwrap();
    assert_eq!(drain(&inbox).len(), 1);
    broker.unwatch(&channel, SinkId(0));
    now(broker.publish(draft(&channel, "y".into()))).unwrap();
    assert_eq!(drain(&inbox), []);
}

#[test]
fn a_crowd_of_channels_leaves_no_bytes_and_no_keys() {
    let memory = Memory::start(Setup { keys_max: 1 << 20, ..setup() });
    for nth in 0..100_000 {
        let mut draft = draft(&name(&format!("c{nth}")), "x".into());
        draft.key = tidegate_core::Key::parse("me".into(), "k").ok();
        draft.ends = nth % 2 == 0;
        now(memory.broker.publish(draft)).unwrap();
    }
    assert_eq!(memory.broker.keys(), 100_000);
    assert!(memory.broker.bytes() > 100_000 * 256);
    memory.advance(ROOMY.age);
    assert_eq!((memory.broker.bytes(), memory.broker.keys()), (0, 0));
}

#[test]
fn bytes_stay_within_their_bound_at_every_step() {
    let memory = Memory::start(Setup { bytes_max: 1 << 20, ..setup() });
    for nth in 0..20_000 {
        let channel = name(&format!("c{}", nth * 7 % 1000));
        now(memory.broker.publish(draft(&channel, "x".repeat(nth % 300)))).unwrap();
        assert!(memory.broker.bytes() <= 1 << 20);
        memory.millis.fetch_add(1, Ordering::Relaxed);
    }
    assert!(memory.broker.bytes() > 7 << 17, "no more is trimmed than must be");
}

#[test]
fn workers_publish_watch_and_read_at_once_and_lose_nothing() {
    const WORKERS: u16 = 4;
    const PUBLISHES: usize = 3000;
    let memory = Memory::start(setup());
    let broker = &memory.broker;
    let inboxes: Vec<_> = (0..WORKERS).map(|_| Arc::new(Inbox::new(1 << 20, usize::MAX))).collect();
    broker.tail(inboxes.clone());
    let channels: Vec<_> = (0..8).map(|nth| name(&format!("c{nth}"))).collect();
    let start = Barrier::new(usize::from(WORKERS));
    let (start, channels, inboxes) = (&start, &channels, &inboxes);
    thread::scope(|scope| {
        for worker in 0..WORKERS {
            scope.spawn(move || {
                start.wait();
                let mut watched = vec![None; channels.len()];
                let mut heard = Vec::new();
                for nth in 0..PUBLISHES {
                    let which = (nth * 5 + usize::from(worker)) % channels.len();
                    let answer =
                        now(broker.publish(draft(&channels[which], format!("{worker} {nth}"))));
                    assert!(matches!(answer, Ok(Published::New(_))));
                    // Each joins each channel at another time.
                    if nth % 300 == usize::from(worker) * 50 {
                        let which = nth / 300 % channels.len();
                        if watched[which].is_none() {
                            let state =
                                now(broker.watch(&channels[which], SinkId(worker))).unwrap();
                            watched[which] = Some(state.now());
                        }
                    }
                    heard.extend(entries(&drain(&inboxes[usize::from(worker)])));
                }
                start.wait();
                heard.extend(entries(&drain(&inboxes[usize::from(worker)])));
                for (channel, from) in channels.iter().zip(watched) {
                    let Some(from) = from else { continue };
                    let mine: Vec<_> =
                        heard.iter().filter(|it| it.channel == *channel).cloned().collect();
                    let page = read(broker, channel, From::After(from));
                    assert_eq!((page.gap, page.entries), (None, mine));
                }
            });
        }
    });
    let mut all = HashSet::new();
    for channel in channels {
        let log = read(broker, channel, From::Start).entries;
        for pair in log.windows(2) {
            assert_eq!(pair[1].prev, pair[0].position.offset);
        }
        // Each worker's publications are in its order.
        for worker in 0..WORKERS {
            let prefix = format!("{worker} ");
            let numbers: Vec<usize> = (log.iter())
                .map(|it| {
                    String::from_utf8(it.publication().unwrap().payload.bytes.to_vec()).unwrap()
                })
                .filter_map(|it| it.strip_prefix(&prefix).map(|it| it.parse().unwrap()))
                .collect();
            assert!(numbers.is_sorted());
        }
        all.extend(log.into_iter().map(|it| it.publication().unwrap().payload.bytes.clone()));
    }
    assert_eq!(all.len(), usize::from(WORKERS) * PUBLISHES);
}

#[test]
fn a_sealed_broker_is_not_ready_and_drops_nothing() {
    let Memory { broker, .. } = Memory::start(setup());
    let channel = name("a");
    now(broker.publish(draft(&channel, "x".into()))).unwrap();
    now(broker.seal()).unwrap();
    assert!(!broker.is_ready() && now(broker.drop_log(&channel)).is_err());
    let refused = now(broker.publish(draft(&channel, "y".into())));
    assert_eq!(refused, Err(PublishError::Unavailable { perhaps_accepted: false }));
    assert_eq!(read(&broker, &channel, From::Start).entries.len(), 1);
}

#[test]
fn a_listing_gives_its_turns_back_and_misses_nothing_that_stays() {
    let Memory { broker, .. } = Memory::start(setup());
    for nth in 0..500 {
        now(broker.publish(draft(&name(&format!("stays.{nth:03}")), "x".into()))).unwrap();
    }
    let list = List { limit: 10_000, ..List::default() };
    let mut listing = Arc::clone(&broker).list(list);
    let (mut turns, mut cx) = (0, Context::from_waker(Waker::noop()));
    let listed = loop {
        if let Poll::Ready(listed) = Pin::new(&mut listing).poll(&mut cx) {
            break listed.unwrap();
        }
        turns += 1;
        // Whatever comes and goes meanwhile.
        let passing = name(&format!("passes.{turns}"));
        now(broker.publish(draft(&passing, "x".into()))).unwrap();
        let gone = name(&format!("passes.{}", turns / 2));
        now(broker.drop_log(&gone)).unwrap();
    };
    assert!(turns >= 16, "{turns}");
    let listed = listed.channels.iter().map(|it| it.channel.to_string());
    let stays: Vec<_> = listed.filter(|it| it.starts_with("stays.")).collect();
    assert_eq!(stays, (0..500).map(|nth| format!("stays.{nth:03}")).collect::<Vec<_>>());
}
