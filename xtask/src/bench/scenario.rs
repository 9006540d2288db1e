//! What is measured, and what it must show: the loads, their sizes, the targets.
//!
//! All targets are upper bounds. Each round runs every server, between two runs of the baseline;
//! ratios are of medians over the rounds.

use serde_json::Value;

use super::measure::{Group, Job, Measured, number};
use super::peer::Kind;

/// A kind of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scenario {
    Fanout,
    Echo,
    Codec,
    Idle,
    Latency,
    Slow,
}

/// A target and what was seen.
#[derive(Debug)]
pub(crate) struct Verdict {
    pub(crate) claim: String,
    /// `None`: it is reported, and has no bound.
    pub(crate) at_most: Option<f64>,
    /// `None`: it could not be measured, and is not met.
    pub(crate) seen: Option<f64>,
}

impl Verdict {
    fn new(claim: impl Into<String>, at_most: f64, seen: Option<f64>) -> Self {
        Self { claim: claim.into(), at_most: Some(at_most), seen }
    }

    /// A figure without a bound.
    fn reported(claim: impl Into<String>, seen: Option<f64>) -> Self {
        Self { claim: claim.into(), at_most: None, seen }
    }

    /// Whether it was measured and holds.
    pub(crate) fn is_met(&self) -> bool {
        self.seen.is_some_and(|seen| self.at_most.is_none_or(|at_most| seen <= at_most))
    }
}

/// A column of a group's table.
pub(crate) enum Column {
    /// A header, the figure's path in a report, what it is divided by, decimals.
    Figure(&'static str, &'static str, f64, usize),
    /// The group's figure against the baseline's.
    Ratio(&'static str),
}

const OURS: &str = "Tidegate WebSocket";
const OURS_SSE: &str = "Tidegate SSE";
const OURS_NDJSON: &str = "Tidegate NDJSON";
const OURS_TWO: &str = "Tidegate WebSocket, two workers";
const NCHAN: &str = "nchan WebSocket";
const NCHAN_SSE: &str = "nchan SSE";
const SOCKET_IO: &str = "Socket.IO";
const TUNGSTENITE: &str = "tokio-tungstenite";
const WIRE_ECHO: &str = "plain echo on our codec";

const MIB: f64 = 1_048_576.0;

impl Scenario {
    pub(crate) const ALL: [Scenario; 6] = [
        Scenario::Fanout,
        Scenario::Echo,
        Scenario::Codec,
        Scenario::Idle,
        Scenario::Latency,
        Scenario::Slow,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Scenario::Fanout => "fanout",
            Scenario::Echo => "echo",
            Scenario::Codec => "codec",
            Scenario::Idle => "idle",
            Scenario::Latency => "latency",
            Scenario::Slow => "slow",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Scenario> {
        Scenario::ALL.into_iter().find(|it| it.name() == name)
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Scenario::Fanout => "Fan-out: the server's CPU per delivery, 100-byte messages",
            Scenario::Echo => "Echo: the server's CPU per message, 50 clients",
            Scenario::Codec => "Codec in memory: nanoseconds per message",
            Scenario::Idle => "Idle: memory per connection with one subscription",
            Scenario::Latency => "Latency: publish to receive, 1,000 subscribers, 20 a second",
            Scenario::Slow => "Slow: one reader amid 10,000 that never read",
        }
    }

    /// How often a group is repeated: memory jitters less than time.
    pub(crate) fn rounds(self) -> usize {
        match self {
            Scenario::Fanout | Scenario::Echo => 7,
            Scenario::Idle | Scenario::Latency | Scenario::Slow => 3,
            Scenario::Codec => 1,
        }
    }

    /// The measurements, all of them.
    pub(crate) fn groups(self, is_quick: bool) -> Vec<Group> {
        match self {
            Scenario::Fanout => fanout(is_quick),
            Scenario::Echo => echo(is_quick),
            Scenario::Codec => Vec::new(),
            Scenario::Idle => idle(is_quick),
            Scenario::Latency => latency(is_quick),
            Scenario::Slow => slow(is_quick),
        }
    }

    pub(crate) fn columns(self) -> Vec<Column> {
        use Column::{Figure, Ratio};
        match self {
            Scenario::Fanout | Scenario::Echo => vec![
                Figure("server CPU µs", "cpu_us", 1.0, 3),
                Ratio("× raw"),
                Figure("system calls", "calls", 1.0, 3),
                Figure("generator CPU µs", "generator_cpu_us", 1.0, 3),
            ],
            Scenario::Codec => Vec::new(),
            Scenario::Idle => vec![
                Figure("connections", "connections", 1.0, 0),
                Figure("bytes per connection", "per_connection", 1.0, 0),
                Figure("empty MiB", "empty", MIB, 1),
                Figure("idle MiB", "idle", MIB, 1),
                Figure("after a burst MiB", "burst", MIB, 1),
                Figure("15 s later MiB", "after", MIB, 1),
                Figure("× idle", "after_ratio", 1.0, 3),
            ],
            Scenario::Latency => vec![
                Figure("p50 ms", "p50_ms", 1.0, 2),
                Figure("p99 ms", "p99_ms", 1.0, 2),
                Ratio("p99 × raw"),
                Figure("max ms", "max_ms", 1.0, 2),
            ],
            Scenario::Slow => vec![
                Figure("alone p50 ms", "alone.p50_ms", 1.0, 3),
                Figure("amid slow p50 ms", "amid_slow.p50_ms", 1.0, 3),
                Figure("alone p99 ms", "alone.p99_ms", 1.0, 2),
                Figure("amid readers p99 ms", "amid_readers.p99_ms", 1.0, 2),
                Figure("amid slow p99 ms", "amid_slow.p99_ms", 1.0, 2),
                Figure("alone µs a message", "alone_us", 1.0, 1),
                Figure("amid slow µs a message", "amid_slow_us", 1.0, 1),
                Figure("filled MiB", "filled", MIB, 1),
                Figure("filled again MiB", "filled_again", MIB, 1),
                Figure("peak MiB", "peak", MIB, 1),
                Figure("peak bytes per slow reader", "peak_per_slow_reader", 1.0, 0),
                Figure("got all", "complete", 1.0, 0),
                Figure("told", "told", 1.0, 0),
                Figure("cut", "cut", 1.0, 0),
            ],
        }
    }

    /// The targets, for what was measured.
    pub(crate) fn verdicts(self, groups: &[Measured], codec: Option<&Value>) -> Vec<Verdict> {
        match (self, groups) {
            (Scenario::Fanout, [one, sixteen, large @ ..]) => fanout_verdicts(one, sixteen, large),
            (Scenario::Echo, [group, ..]) => echo_verdicts(group),
            (Scenario::Idle, [group, ..]) => idle_verdicts(group),
            (Scenario::Latency, [group, ..]) => {
                vec![Verdict::new("p99, WebSocket, × the raw writer's", 1.4, group.ratio(OURS))]
            }
            (Scenario::Slow, [group, ..]) => slow_verdicts(group),
            (Scenario::Codec, _) => codec_verdicts(codec),
            _ => Vec::new(),
        }
    }
}

fn fanout(is_quick: bool) -> Vec<Group> {
    let group = |subscribers: u64, width: u64, writes: &str| {
        // Half a million deliveries where each costs a send, 4 million where sends are shared.
        let short = if is_quick { 3 } else { 1 };
        let slow = (400_000 / subscribers / short).max(10);
        let fast = if width == 1 { slow } else { slow * 10 };
        let job = |label, server, wire: &str, count: u64| Job {
            label,
            server,
            load: format!(
                "fanout --wire {wire} --subscribers {subscribers} --width {width} --count {count} \
                 --warm {} --calls {} --writes {writes}",
                count / 5 + width,
                count / 4 + width
            ),
        };
        let mut jobs = vec![job(OURS, Kind::Tidegate, "ws", fast)];
        if subscribers == 1000 && writes == "joined" {
            jobs.extend([
                job(OURS_SSE, Kind::Tidegate, "sse", fast),
                job(OURS_NDJSON, Kind::Tidegate, "ndjson", fast),
                job(OURS_TWO, Kind::TwoWorkers, "ws", fast),
                job(NCHAN, Kind::Nchan, "ws", slow),
                job(NCHAN_SSE, Kind::Nchan, "sse", slow),
                job(SOCKET_IO, Kind::SocketIo, "socket-io", slow),
                job(TUNGSTENITE, Kind::Tungstenite, "ws", slow),
            ]);
        }
        Group {
            name: format!("{subscribers} subscribers, W = {width}, {writes} writes"),
            metric: "cpu_us",
            baseline: Some(job("raw writer", Kind::RawWriter, "ws", fast)),
            jobs,
        }
    };
    vec![
        group(1000, 1, "joined"),
        group(1000, 16, "joined"),
        group(10_000, 1, "joined"),
        group(10_000, 16, "joined"),
        group(1000, 16, "single"),
        group(10_000, 16, "single"),
    ]
}

fn fanout_verdicts(one: &Measured, sixteen: &Measured, large: &[Measured]) -> Vec<Verdict> {
    let mut verdicts = vec![
        Verdict::new("W = 1: × the raw writer", 1.2, one.ratio(OURS)),
        Verdict::new("W = 16: × the raw writer", 1.2, sixteen.ratio(OURS)),
        Verdict::new("W = 16: × nchan", 0.15, sixteen.against(OURS, NCHAN)),
        Verdict::new("W = 16: × Socket.IO", 0.06, sixteen.against(OURS, SOCKET_IO)),
        Verdict::new("W = 16: system calls per delivery", 0.12, sixteen.figure(OURS, "calls")),
    ];
    for (width, group) in [(1, one), (16, sixteen)] {
        for (wire, label) in [("SSE", OURS_SSE), ("NDJSON", OURS_NDJSON)] {
            let claim = format!("W = {width}: {wire} × WebSocket");
            verdicts.push(Verdict::new(claim, 1.1, group.against(label, OURS)));
        }
    }
    for (width, small, large) in [(1, one, large.first()), (16, sixteen, large.get(1))] {
        let seen = large.and_then(|large| Some(large.ratio(OURS)? / small.ratio(OURS)?));
        let claim = format!("W = {width}: × raw at 10,000 against × raw at 1,000");
        verdicts.push(Verdict::new(claim, 1.15, seen));
    }
    for (width, group) in [(1, one), (16, sixteen)] {
        let claim = format!("W = {width}: two workers × one");
        verdicts.push(Verdict::new(claim, 1.3, group.against(OURS_TWO, OURS)));
    }
    verdicts
}

fn echo(is_quick: bool) -> Vec<Group> {
    let short = if is_quick { 4 } else { 1 };
    let group = |bytes: u64, depth: u64, fast: u64, slow: u64| {
        let job = |label, server, count: u64| {
            let (count, warm) = (count / short, count / short / 5);
            Job {
                label,
                server,
                load: format!(
                    "echo --clients 50 --depth {depth} --bytes {bytes} --count {count} \
                     --warm {warm} --calls {warm}"
                ),
            }
        };
        Group {
            name: format!("{bytes} bytes, {depth} in flight"),
            metric: "cpu_us",
            baseline: Some(job("raw echo", Kind::RawEcho, fast)),
            jobs: vec![
                job(OURS, Kind::Tidegate, fast),
                job(WIRE_ECHO, Kind::WireEcho, fast),
                job(TUNGSTENITE, Kind::Tungstenite, slow),
            ],
        }
    };
    vec![group(125, 32, 80_000, 8000), group(125, 1, 4000, 4000), group(16_384, 1, 2000, 2000)]
}

fn echo_verdicts(group: &Measured) -> Vec<Verdict> {
    vec![
        // It publishes and logs each message; the bounds are for an echo that does not.
        Verdict::reported("the gateway × a raw echo", group.ratio(OURS)),
        Verdict::reported("the gateway × tokio-tungstenite", group.against(OURS, TUNGSTENITE)),
        Verdict::new("the gateway: system calls a message", 0.08, group.figure(OURS, "calls")),
        Verdict::new("the codec alone × a raw echo", 1.3, group.ratio(WIRE_ECHO)),
        Verdict::new(
            "the codec alone × tokio-tungstenite",
            0.1,
            group.against(WIRE_ECHO, TUNGSTENITE),
        ),
        Verdict::new(
            "the codec alone: system calls a message",
            0.08,
            group.figure(WIRE_ECHO, "calls"),
        ),
    ]
}

fn codec_verdicts(report: Option<&Value>) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    for way in ["decode", "encode"] {
        for (bytes, at_most) in [(16, 0.4), (125, 0.4), (1024, 0.9), (65_536, 1.0)] {
            let lines = report.and_then(|it| it.get(way)?.as_array());
            let line = lines.and_then(|lines| {
                lines.iter().find(|line| line.get("bytes").and_then(Value::as_u64) == Some(bytes))
            });
            let seen = line.and_then(|line| number(line, "ratio_to_best"));
            let claim = format!("{way}, {bytes} bytes: × the best library");
            verdicts.push(Verdict::new(claim, at_most, seen));
        }
    }
    verdicts
}

fn idle(is_quick: bool) -> Vec<Group> {
    let connections = if is_quick { 2000 } else { 10_000 };
    let job = |label, server, wire: &str, more: &str| Job {
        label,
        server,
        load: format!("idle --wire {wire} --subscribers {connections} {more}"),
    };
    vec![Group {
        name: format!("{connections} connections"),
        metric: "per_connection",
        baseline: None,
        jobs: vec![
            job(OURS, Kind::Tidegate, "ws", ""),
            job(OURS_SSE, Kind::Tidegate, "sse", ""),
            job(OURS_NDJSON, Kind::Tidegate, "ndjson", ""),
            job(NCHAN, Kind::Nchan, "ws", "--burst 0"),
            job(NCHAN_SSE, Kind::Nchan, "sse", "--burst 0"),
            job(SOCKET_IO, Kind::SocketIo, "socket-io", "--burst 0"),
            job(TUNGSTENITE, Kind::Tungstenite, "ws", "--burst 0"),
        ],
    }]
}

fn idle_verdicts(group: &Measured) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    for (wire, label) in [("WebSocket", OURS), ("SSE", OURS_SSE), ("NDJSON", OURS_NDJSON)] {
        verdicts.push(Verdict::new(
            format!("{wire}: bytes per idle connection"),
            1536.0,
            group.figure(label, "per_connection"),
        ));
        verdicts.push(Verdict::new(
            format!("{wire}: memory 15 s after a burst × before it"),
            1.1,
            group.figure(label, "after_ratio"),
        ));
    }
    verdicts
}

fn latency(is_quick: bool) -> Vec<Group> {
    let count = if is_quick { 60 } else { 400 };
    let job = |label, server, wire: &str| Job {
        label,
        server,
        load: format!("latency --wire {wire} --subscribers 1000 --rate 20 --count {count}"),
    };
    vec![Group {
        name: "1000 subscribers, 20 messages a second".to_owned(),
        metric: "p99_ms",
        baseline: Some(job("raw writer", Kind::RawWriter, "ws")),
        jobs: vec![
            job(OURS, Kind::Tidegate, "ws"),
            job(OURS_SSE, Kind::Tidegate, "sse"),
            job(OURS_NDJSON, Kind::Tidegate, "ndjson"),
            job(NCHAN, Kind::Nchan, "ws"),
            job(NCHAN_SSE, Kind::Nchan, "sse"),
            job(SOCKET_IO, Kind::SocketIo, "socket-io"),
        ],
    }]
}

fn slow(is_quick: bool) -> Vec<Group> {
    let (readers, count) = if is_quick { (2000, 50) } else { (10_000, 100) };
    vec![Group {
        name: format!("{readers} slow readers"),
        metric: "amid_slow.p99_ms",
        baseline: None,
        jobs: vec![Job {
            label: OURS,
            server: Kind::Patient,
            load: format!("slow --subscribers {readers} --bytes 1024 --count {count}"),
        }],
    }]
}

fn slow_verdicts(group: &Measured) -> Vec<Verdict> {
    let figure = |path| group.figure(OURS, path);
    let times = |path, other| Some(figure(path)? / figure(other)?);
    let p50 = times("amid_slow.p50_ms", "alone.p50_ms");
    let p99 = times("amid_slow.p99_ms", "amid_readers.p99_ms");
    vec![
        Verdict::new("p50 of the one amid slow readers × alone", 1.4, p50),
        // No worse than amid as many that read, a p99's jitter apart.
        Verdict::new("p99 of the one amid slow readers × amid readers", 1.1, p99),
        Verdict::new("memory after a second filling × after the first", 1.1, figure("growth")),
        // A hundredth of what is published past each: what they hold must be shared.
        Verdict::new("peak bytes per slow reader", 65_536.0, figure("peak_per_slow_reader")),
        Verdict::new("slow readers cut off without being told", 0.0, figure("cut")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_measured_is_not_met() {
        assert!(!Verdict::new("", 1.0, None).is_met());
        assert!(Verdict::new("", 1.0, Some(1.0)).is_met());
        assert!(!Verdict::new("", 1.0, Some(1.01)).is_met());
    }

    #[test]
    fn every_scenario_is_found_by_its_name_and_has_targets() {
        for scenario in Scenario::ALL {
            assert_eq!(Scenario::named(scenario.name()), Some(scenario));
            let empty = |group: &Group| Measured {
                name: group.name.clone(),
                metric: group.metric,
                labels: Vec::new(),
                rounds: Vec::new(),
                dropped: 0,
            };
            let groups: Vec<Measured> = scenario.groups(false).iter().map(empty).collect();
            let verdicts = scenario.verdicts(&groups, None);
            assert!(!verdicts.is_empty() && verdicts.iter().all(|it| !it.is_met()));
        }
    }

    #[test]
    fn the_codecs_targets_are_read_from_its_report() {
        let line = |bytes, ratio| serde_json::json!({ "bytes": bytes, "ratio_to_best": ratio });
        let lines = [line(16, 0.3), line(125, 0.5), line(1024, 0.8), line(65_536, 0.9)];
        let report = serde_json::json!({ "decode": lines, "encode": lines });
        let verdicts = codec_verdicts(Some(&report));
        let met: Vec<bool> = verdicts.iter().map(Verdict::is_met).collect();
        assert_eq!(met, [true, false, true, true].repeat(2));
    }
}
