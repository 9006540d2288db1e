//! What a publish costs: `cargo bench -p tidegate-broker`. A 100-byte payload, default bounds, a
//! watcher's inbox drained after each 16; nanoseconds of CPU (where Linux tells them) a publish,
//! median of 9 rounds.

use std::hint::black_box;
use std::sync::{Arc, Barrier, LazyLock};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use tidegate_broker::{
    Broker, Inbox, LogBounds, MemoryBroker, MemoryConfig, Published, Reply, SinkId,
};
use tidegate_core::{ChannelName, Draft, Key, Payload, PayloadKind, Publication, Timestamp};

const PUBLISHES: u32 = 200_000;

fn main() {
    let channels = |count: u32| (0..count).map(|nth| name(&format!("channel-{nth}"))).collect();
    let plain = |_: u32| None;
    let mine: Arc<str> = "publisher".into();
    let keyed = |nth: u32| Key::parse(Arc::clone(&mine), &nth.to_string()).ok();
    report("drafts alone, without a publish", &median(|| drafts(&name("a"))));
    report("one channel, nobody watches", &median(|| run(&broker(), &channels(1), 0, plain)));
    report("one channel, one watcher", &median(|| run(&broker(), &channels(1), 1, plain)));
    report("one channel, eight watchers", &median(|| run(&broker(), &channels(1), 8, plain)));
    report("10,000 channels, one watcher", &median(|| run(&broker(), &channels(10_000), 1, plain)));
    report("one channel, one watcher, keys", &median(|| run(&broker(), &channels(1), 1, keyed)));
    report(
        "over its bytes: a trim for each",
        &median(|| run(&small(), &channels(10_000), 1, plain)),
    );
    report("two threads, a channel each", &median(two_threads));
}

fn report(what: &str, nanos: &f64) {
    println!("{what:<34} {nanos:>7.0} ns");
}

fn median(mut round: impl FnMut() -> Duration) -> f64 {
    let mut rounds: Vec<_> = (0..9).map(|_| round()).collect();
    rounds.sort_unstable();
    rounds.get(4).map_or(0.0, Duration::as_secs_f64) * 1e9 / f64::from(PUBLISHES)
}

fn broker() -> Arc<MemoryBroker> {
    limited(1 << 30)
}

/// One that is always full.
fn small() -> Arc<MemoryBroker> {
    limited(8 << 20)
}

fn limited(bytes_max: usize) -> Arc<MemoryBroker> {
    let bounds = LogBounds { messages: 10_000, bytes: 4 << 20, age: Duration::from_secs(600) };
    Arc::new(MemoryBroker::new(MemoryConfig {
        epoch_seed: 1,
        bytes_max,
        keys_max: 1 << 20,
        key_window: Duration::from_secs(120),
        bounds: Arc::new(move |_| bounds),
    }))
}

fn run(
    broker: &Arc<MemoryBroker>,
    channels: &Vec<ChannelName>,
    watchers: u16,
    key: impl Fn(u32) -> Option<Key>,
) -> Duration {
    let inboxes: Vec<_> = (0..watchers).map(|_| Arc::new(Inbox::new(65_536, 64 << 20))).collect();
    broker.tail(inboxes.clone());
    for channel in channels {
        (0..watchers).for_each(|sink| drop(broker.watch(channel, SinkId(sink))));
    }
    let mut spare = Vec::new();
    let began = cpu_time();
    for (nth, channel) in (0..PUBLISHES).zip(channels.iter().cycle()) {
        publish(broker, Draft { key: key(nth), ..draft(channel) });
        if nth % 16 == 0 {
            for inbox in &inboxes {
                let drained = inbox.poll_drain(&mut Context::from_waker(Waker::noop()), &mut spare);
                if let std::task::Poll::Ready(drained) = drained {
                    spare = drained.events;
                }
            }
        }
    }
    cpu_time() - began
}

fn two_threads() -> Duration {
    let broker = broker();
    broker.tail(Vec::new());
    let start = Barrier::new(2);
    let one = |channel: &str| {
        let channel = name(channel);
        start.wait();
        let began = cpu_time();
        (0..PUBLISHES).for_each(|_| publish(&broker, draft(&channel)));
        cpu_time() - began
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(|| one("b"));
        one("a").max(other.join().unwrap_or_default())
    })
}

fn drafts(channel: &ChannelName) -> Duration {
    let began = cpu_time();
    (0..PUBLISHES).for_each(|_| drop(black_box(draft(channel))));
    cpu_time() - began
}

/// Time that this thread has had a core for: others may want the machine too.
fn cpu_time() -> Duration {
    static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = stat.split_whitespace().next().and_then(|it| it.parse().ok());
    nanos.map_or_else(|| ORIGIN.elapsed(), Duration::from_nanos)
}

fn publish(broker: &MemoryBroker, draft: Draft) {
    let answer = broker.publish(draft);
    assert!(matches!(black_box(answer), Reply::Now(Ok(Published::New(_)))), "it must be accepted");
}

fn draft(channel: &ChannelName) -> Draft {
    let payload =
        Payload { kind: PayloadKind::Text, bytes: vec![b'x'; 100].into(), content_type: None };
    let publication = Publication { payload, event: None, user: None, origin: None };
    Draft {
        channel: channel.clone(),
        publication: Some(publication),
        ends: false,
        key: None,
        time: Timestamp(0),
        id: 0,
    }
}

fn name(name: &str) -> ChannelName {
    ChannelName::parse(name).unwrap_or_else(|it| panic!("{it}"))
}
