//! The gateway in front of a broker that answers later: what holds with memory holds there too.

#![expect(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test's helper fails as a test does"
)]

mod broker;
mod envelope;
mod peer;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tidegate::config::{Config, Pattern};
use tidegate::server::Server;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use broker::{Late, Plan};
use peer::{Answer, get, publish, upgrade};

/// A gateway of a test's own, in this process.
struct Gateway {
    runtime: Runtime,
    broker: Arc<Late>,
    server: Server,
}

impl Gateway {
    /// Starts one; channels below `kept.none` keep nothing.
    fn start(plan: Plan, workers: usize, drain: Duration) -> Self {
        let mut config = Config::dev();
        config.listen = vec!["127.0.0.1:0".parse().unwrap()];
        config.workers = NonZeroUsize::new(workers).unwrap();
        config.drain = drain;
        let mut keeps_none = config.channel_default.clone();
        keeps_none.pattern = "none.>".parse::<Pattern>().unwrap();
        keeps_none.log.messages = 0;
        config.channels.push(keeps_none);
        let config = Arc::new(config);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let broker = Late::new(&config, runtime.handle(), plan);
        let (server, _) = Server::start(&config, Arc::clone(&broker) as Arc<_>).unwrap();
        Self { runtime, broker, server }
    }

    fn address(&self) -> SocketAddr {
        self.server.addresses()[0]
    }

    /// Ends it; how long that took.
    fn end(self) -> Duration {
        let began = Instant::now();
        self.runtime.block_on(self.server.drain());
        self.server.join();
        began.elapsed()
    }
}

/// What was published, by channel and cursor; a channel's cursors sort as its log does.
type Truth = Arc<Mutex<BTreeMap<(&'static str, String), String>>>;

/// What one subscriber had of one channel.
#[derive(Debug)]
struct Had {
    channel: &'static str,
    /// Behind this cursor.
    began: String,
    /// Cursors and texts, as they came.
    entries: Vec<(String, String)>,
}

/// A subscriber that comes back with its cursor until it has had all.
struct Subscriber {
    address: SocketAddr,
    had: Vec<Had>,
    cursor: String,
    random: fastrand::Rng,
    gaps: Vec<Value>,
    /// So often it was told that the broker is away.
    refused: usize,
}

impl Subscriber {
    /// One that begins now.
    async fn new(address: SocketAddr, channels: &[&'static str], seed: u64) -> Self {
        let target = format!("/channels/{}?since=now", channels.join(","));
        let mut answer = get(address, &target).await;
        while answer.status == 503 {
            answer = get(address, &target).await;
        }
        let mut it = Self::empty(address, fastrand::Rng::with_seed(seed));
        it.begin(channels, &answer);
        it
    }

    /// One that has not begun yet.
    fn empty(address: SocketAddr, random: fastrand::Rng) -> Self {
        let (had, cursor, gaps) = (Vec::new(), String::new(), Vec::new());
        Self { address, had, cursor, random, gaps, refused: 0 }
    }

    /// Takes an answer's cursor for where it begins.
    fn begin(&mut self, channels: &[&'static str], answer: &Answer) {
        self.cursor = answer.header("tidegate-cursor").unwrap_or_default().to_owned();
        let began = self.cursor.split('.').map(str::to_owned);
        let had = |(channel, began): (&&'static str, _)| Had { channel, began, entries: vec![] };
        self.had = channels.iter().zip(began).map(had).collect();
    }

    fn target(&self) -> String {
        let channels: Vec<_> = self.had.iter().map(|it| it.channel).collect();
        format!("/channels/{}?since={}", channels.join(","), self.cursor)
    }

    /// Takes a line of a stream, or a message of a poll.
    fn take(&mut self, line: &Value) {
        if line.get("gap").is_some() {
            self.gaps.push(line.clone());
            return;
        }
        if let Some(error) = line.get("error") {
            assert_eq!(error["code"], "unavailable", "{line}");
            self.refused += 1;
            return;
        }
        let text = |name: &str| line[name].as_str().unwrap_or_else(|| panic!("{line}")).to_owned();
        let channel = text("channel");
        let had = self.had.iter_mut().find(|it| it.channel == channel).unwrap();
        had.entries.push((text("cursor"), text("text")));
        self.cursor = if self.had.len() == 1 { text("cursor") } else { text("resume") };
    }

    fn has_had_all(&self) -> bool {
        self.had.iter().all(|it| it.entries.last().is_some_and(|(_, text)| text == LAST))
    }

    /// Streams of some messages each, until it has had all.
    async fn stream(mut self) -> Self {
        while !self.has_had_all() {
            let mut answer = get(self.address, &format!("{}&wire=ndjson", self.target())).await;
            if answer.status == 503 {
                self.refused += 1;
                continue;
            }
            assert_eq!(answer.status, 200);
            let mut left = self.random.usize(1..120);
            while left > 0 && !self.has_had_all() {
                let Some(line) = answer.line().await else { break };
                self.take(&line);
                left -= 1;
            }
        }
        self
    }

    /// Long-polls, until it has had all.
    async fn poll(mut self) -> Self {
        while !self.has_had_all() {
            let answer = get(self.address, &format!("{}&wait=20s", self.target())).await;
            if answer.status == 503 {
                self.refused += 1;
                continue;
            }
            assert_eq!(answer.status, 200);
            let cursor = answer.header("tidegate-cursor").unwrap().to_owned();
            let body = answer.json().await;
            for message in body["messages"].as_array().unwrap() {
                let mut message = message.clone();
                message["resume"] = cursor.clone().into();
                self.take(&message);
            }
            self.gaps.extend(body["gaps"].as_array().unwrap().iter().cloned());
            self.cursor = cursor;
        }
        self
    }

    /// Checks that it had all that was published, once, in order, and was told of no gap.
    #[track_caller]
    fn check(&self, truth: &BTreeMap<(&'static str, String), String>) {
        assert_eq!(self.gaps, [Value::Null; 0], "nothing was missing");
        for had in &self.had {
            let Some((last, _)) = had.entries.last() else { continue };
            let range = (had.channel, had.began.clone())..=(had.channel, last.clone());
            let expected: Vec<_> = truth
                .range(range)
                .map(|((_, cursor), text)| (cursor.clone(), text.clone()))
                .filter(|(cursor, _)| *cursor != had.began)
                .collect();
            assert_eq!(had.entries, expected, "{} after {}", had.channel, had.began);
        }
    }
}

/// What is published at the end.
const LAST: &str = "last";

/// Publishes to a channel until it is told to stop.
async fn publisher(
    address: SocketAddr,
    channel: &'static str,
    seed: u64,
    stop: Arc<AtomicBool>,
    truth: Truth,
) {
    let mut random = fastrand::Rng::with_seed(seed);
    for nth in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let text = format!("{seed}: {nth}");
        let cursor = publish(address, channel, &text).await;
        truth.lock().unwrap().insert((channel, cursor), text);
        sleep(Duration::from_micros(random.u64(0..8000))).await;
    }
}

/// Hundreds of subscribers come, are cut and go on, while others publish and the tail has holes.
fn check_all_is_had_once_in_order(seed: u64, workers: usize) {
    const CHANNELS: [&str; 2] = ["a", "b"];
    let plan = Plan { seed, delay_max: Duration::from_millis(15), read_fails: 200, tail_loses: 12 };
    let gateway = Gateway::start(plan, workers, Duration::from_secs(10));
    gateway.broker.watches_fail.store(3, Ordering::Relaxed);
    let address = gateway.address();
    let truth = Truth::default();
    let (subscribers, visits) = gateway.runtime.block_on(async {
        let stop = Arc::new(AtomicBool::new(false));
        let mut publishers = JoinSet::new();
        for (nth, channel) in (0..).zip([CHANNELS[0], CHANNELS[0], CHANNELS[1]]) {
            let (stop, truth) = (Arc::clone(&stop), Arc::clone(&truth));
            publishers.spawn(publisher(address, channel, seed * 100 + nth, stop, truth));
        }
        let mut subscribers = JoinSet::new();
        let begun = Arc::new(AtomicUsize::new(0));
        let kinds = [(290, 1, true), (40, 2, true), (20, 1, false)];
        let all = kinds.into_iter().flat_map(|(count, channels, is_stream)| {
            std::iter::repeat_n((channels, is_stream), count)
        });
        let mut random = fastrand::Rng::with_seed(seed);
        let mut count = 0;
        for (channels, is_stream) in all {
            count += 1;
            let (seed, begun) = (random.u64(..), Arc::clone(&begun));
            subscribers.spawn(async move {
                sleep(Duration::from_micros(seed % 1_000_000)).await;
                let it = Subscriber::new(address, &CHANNELS[..channels], seed).await;
                begun.fetch_add(1, Ordering::Relaxed);
                if is_stream { it.stream().await } else { it.poll().await }
            });
        }
        // Who comes with `now`, has a little and goes.
        let mut visits = Vec::new();
        while visits.len() < 40 || begun.load(Ordering::Relaxed) < count {
            let channels = &CHANNELS[random.usize(..2)..];
            let target = format!("/channels/{}?wire=ndjson", channels.join(","));
            let mut answer = get(address, &target).await;
            let mut visit = Subscriber::empty(address, random.fork());
            if answer.status == 503 {
                visit.refused += 1;
            } else {
                visit.begin(channels, &answer);
                for _ in 0..random.u32(1..10) {
                    let Some(line) = answer.line().await else { break };
                    visit.take(&line);
                }
            }
            visits.push(visit);
        }
        stop.store(true, Ordering::Relaxed);
        while let Some(ended) = publishers.join_next().await {
            ended.unwrap();
        }
        for channel in CHANNELS {
            let cursor = publish(address, channel, LAST).await;
            truth.lock().unwrap().insert((channel, cursor), LAST.into());
        }
        (subscribers.join_all().await, visits)
    });
    let truth = truth.lock().unwrap();
    subscribers.iter().chain(&visits).for_each(|it| it.check(&truth));
    let lost = gateway.broker.lost.load(Ordering::Relaxed);
    assert!(lost > 10 && truth.len() > 100, "{lost} of {} were not told", truth.len());
    let drained = gateway.end();
    assert!(drained < Duration::from_secs(9), "nothing was under way: {drained:?}");
}

#[test]
fn all_is_had_once_in_order_without_a_gap() {
    check_all_is_had_once_in_order(1, 1);
}

#[test]
fn all_is_had_once_in_order_without_a_gap_by_two_workers() {
    check_all_is_had_once_in_order(2, 2);
}

/// A broker that answers within some milliseconds, and whose tail tells everything.
fn sound(seed: u64) -> Plan {
    Plan { seed, delay_max: Duration::from_millis(15), read_fails: 0, tail_loses: 0 }
}

#[test]
fn what_is_published_by_who_has_seen_the_head_arrives_where_nothing_is_kept() {
    let gateway = Gateway::start(sound(3), 2, Duration::from_secs(10));
    let address = gateway.address();
    gateway.runtime.block_on(async {
        let mut streams = JoinSet::new();
        for nth in 0..20 {
            streams.spawn(async move {
                let (name, target) = (format!("none.{nth}"), format!("/channels/none.{nth}"));
                let mut lines = get(address, &format!("{target}?wire=ndjson")).await;
                publish(address, &name, "1").await;
                assert_eq!(lines.line().await.unwrap()["text"], "1");
                let mut events = get(address, &format!("{target}?wire=sse")).await;
                publish(address, &name, "2").await;
                assert_eq!(events.event().await.unwrap(), (String::new(), "2".into()));
                assert_eq!(lines.line().await.unwrap()["text"], "2");
                drop((lines, events));
                let mut frames = upgrade(address, &target, "").await;
                assert_eq!(frames.status, 101);
                publish(address, &name, "3").await;
                assert_eq!(frames.frame().await.unwrap(), (0x81, b"3".to_vec()));
            });
        }
        streams.join_all().await;
    });
    gateway.end();
}

#[test]
fn where_nothing_is_kept_nothing_is_missed_from_the_head_on_while_others_publish() {
    let gateway = Gateway::start(sound(4), 1, Duration::from_secs(10));
    let address = gateway.address();
    let truth = Truth::default();
    let visits = gateway.runtime.block_on(async {
        let stop = Arc::new(AtomicBool::new(false));
        let publishes = publisher(address, "none.a", 4, Arc::clone(&stop), Arc::clone(&truth));
        let mut visits = JoinSet::new();
        for nth in 0..8 {
            visits.spawn(async move {
                let mut random = fastrand::Rng::with_seed(nth);
                let mut visits = Vec::new();
                for _ in 0..8 {
                    let mut visit = Subscriber::empty(address, random.fork());
                    let mut answer = get(address, "/channels/none.a?wire=ndjson").await;
                    assert_eq!(answer.status, 200);
                    visit.begin(&["none.a"], &answer);
                    for _ in 0..random.u32(1..20) {
                        visit.take(&answer.line().await.unwrap());
                    }
                    drop(answer);
                    // From there something has gone, and that is told, once.
                    let gone = visit.cursor.clone();
                    visits.push(visit);
                    while truth_is_at(address, &gone).await {}
                    let mut visit = Subscriber::empty(address, random.fork());
                    visit.cursor = gone.clone();
                    let target = format!("/channels/none.a?wire=ndjson&since={gone}");
                    let mut answer = get(address, &target).await;
                    let gap = answer.line().await.unwrap();
                    assert_eq!(gap["gap"]["requested"], gone, "{gap}");
                    let began = gap["gap"]["resumed"].as_str().unwrap().to_owned();
                    visit.had.push(Had { channel: "none.a", began, entries: Vec::new() });
                    for _ in 0..random.u32(1..20) {
                        visit.take(&answer.line().await.unwrap());
                    }
                    visits.push(visit);
                    // A long-poll waits for what comes next, whatever goes by until it is there.
                    let answer = get(address, "/channels/none.a?wait=20s").await;
                    let body = answer.json().await;
                    assert_eq!(body["gaps"].as_array().unwrap().len(), 0, "{body}");
                    assert_ne!(body["messages"].as_array().unwrap().len(), 0);
                }
                visits
            });
        }
        let visits = async {
            let visits = visits.join_all().await;
            stop.store(true, Ordering::Relaxed);
            visits
        };
        let ((), visits) = tokio::join!(publishes, visits);
        visits
    });
    let truth = truth.lock().unwrap();
    visits.iter().flatten().for_each(|it| it.check(&truth));
    gateway.end();
}

/// Whether nothing was published behind a cursor yet.
async fn truth_is_at(address: SocketAddr, cursor: &str) -> bool {
    let answer = get(address, "/channels/none.a?since=now").await;
    answer.header("tidegate-cursor").unwrap() <= cursor
}

/// Checks that each wire says that the broker is away, as its clients can take it.
async fn check_unavailable(address: SocketAddr) {
    let lines = async {
        let answer = get(address, "/channels/a?wire=ndjson").await;
        assert_eq!(answer.status, 503);
        assert_eq!(answer.header("retry-after"), Some("1"));
        assert_eq!(answer.json().await["code"], "unavailable");
    };
    let events = async {
        let mut answer = get(address, "/channels/a?wire=sse").await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("retry-after"), Some("1"));
        let (name, data) = answer.event().await.unwrap();
        assert_eq!(name, "tidegate-error");
        assert!(data.contains("\"unavailable\""), "{data}");
        assert_eq!(answer.event().await, None, "it ends");
    };
    let refused = async {
        let answer = upgrade(address, "/channels/a", "").await;
        assert_eq!(answer.status, 503);
    };
    let closed = async {
        let origin = format!("Origin: http://{address}\r\n");
        let mut answer = upgrade(address, "/channels/a", &origin).await;
        assert_eq!(answer.status, 101);
        let (first, payload) = answer.frame().await.unwrap();
        assert_eq!((first, &payload[..2]), (0x88, &1013_u16.to_be_bytes()[..]));
        assert!(payload[2..].starts_with(b"unavailable"), "{payload:?}");
    };
    tokio::join!(lines, events, refused, closed);
}

#[test]
fn a_channel_that_can_not_be_watched_is_unavailable_until_it_can() {
    let gateway = Gateway::start(sound(5), 1, Duration::from_secs(10));
    let address = gateway.address();
    gateway.runtime.block_on(async {
        gateway.broker.watches_fail.store(u32::MAX, Ordering::Relaxed);
        check_unavailable(address).await;
        gateway.broker.watches_fail.store(0, Ordering::Relaxed);
        let mut lines = get(address, "/channels/a?wire=ndjson").await;
        assert_eq!(lines.status, 200);
        publish(address, "a", "1").await;
        assert_eq!(lines.line().await.unwrap()["text"], "1");
    });
    gateway.end();
}

#[test]
fn a_broker_that_never_says_whether_it_watches_is_unavailable() {
    let gateway = Gateway::start(sound(6), 1, Duration::from_secs(10));
    let address = gateway.address();
    gateway.runtime.block_on(async {
        gateway.broker.is_watch_silent.store(true, Ordering::Relaxed);
        check_unavailable(address).await;
        // The next one asks anew.
        gateway.broker.is_watch_silent.store(false, Ordering::Relaxed);
        let mut lines = get(address, "/channels/a?wire=ndjson").await;
        publish(address, "a", "1").await;
        assert_eq!(lines.line().await.unwrap()["text"], "1");
    });
    gateway.end();
}

#[test]
fn a_drain_waits_for_no_answer_that_does_not_come() {
    let plan = Plan { tail_loses: 2, ..sound(7) };
    let gateway = Gateway::start(plan, 1, Duration::from_secs(10));
    let address = gateway.address();
    let broker = &gateway.broker;
    let (live, behind, waiting) = gateway.runtime.block_on(async {
        let live = get(address, "/channels/a?wire=ndjson").await;
        broker.is_read_silent.store(true, Ordering::Relaxed);
        // Until the hub misses something and reads.
        while broker.silent_reads.load(Ordering::Relaxed) == 0 {
            publish(address, "a", "x").await;
        }
        let behind = get(address, "/channels/a?wire=ndjson&since=start").await;
        broker.is_watch_silent.store(true, Ordering::Relaxed);
        let waiting = tokio::spawn(async move { get(address, "/channels/b?wire=ndjson").await });
        while broker.silent_watches.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        (live, behind, waiting)
    });
    let ends = gateway.runtime.spawn(async move {
        for mut stream in [live, behind] {
            let mut last = Value::Null;
            while let Some(line) = stream.line().await {
                last = line;
            }
            assert_eq!(last["error"]["code"], "unavailable", "{last}");
        }
        let refused = waiting.await.unwrap();
        assert_eq!(refused.status, 503);
        assert!(refused.json().await["detail"].as_str().unwrap().contains("shutting down"));
    });
    let began = Instant::now();
    gateway.runtime.block_on(async {
        gateway.server.drain().await;
        ends.await.unwrap();
    });
    gateway.server.join();
    assert!(began.elapsed() < Duration::from_secs(9), "{:?}", began.elapsed());
}

#[test]
fn of_a_page_in_another_epoch_no_offset_is_asked() {
    let gateway = Gateway::start(sound(8), 1, Duration::from_secs(10));
    let address = gateway.address();
    gateway.runtime.block_on(async {
        let mut stream = get(address, "/channels/a?wire=ndjson").await;
        for _ in 0..10 {
            publish(address, "a", "x").await;
            stream.line().await.unwrap();
        }
        // The hub is at the tenth of the old epoch, and nobody tells it more.
        gateway.broker.lose_all();
        let cursor = publish(address, "a", "1").await;
        let answer = get(address, &format!("/channels/a?since={cursor}")).await;
        assert_eq!(answer.status, 200);
        let mut stream = get(address, &format!("/channels/a?wire=ndjson&since={cursor}")).await;
        publish(address, "a", "2").await;
        assert_eq!(stream.line().await.unwrap()["text"], "2");
    });
    gateway.end();
}
