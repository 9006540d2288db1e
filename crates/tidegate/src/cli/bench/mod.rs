//! `tidegate bench`: load on a running gateway, and what it came to.
//!
//! Here is what can be typed. `load` does it, `chart` shows it while it runs, `report` says what it
//! came to.

use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use tidegate_client::{Client, Error, Message, Url};

mod chart;
mod load;
mod report;
mod screen;

use self::chart::{Chart, FRAME, Shape, Subject};
use self::load::{
    Echo, End, Fanout, Idle, Load, Meter, Outcome, Pace, Publish, SIZE_MIN, Target, Way, Wire,
};
use self::report::Report;
use super::{Token, usage};
use crate::config::{parse_duration, parse_size};

const LONG_ABOUT: &str = "\
Put load on a running gateway, and say what it came to.

It runs for --duration or until Ctrl-C. Channels are named bench.RANDOM, so that runs don't disturb \
each other, and are ended afterwards. A gateway without --dev has to open them: a rule with match = \
\"bench.>\", subscribe = \"anyone\" and publish = \"anyone\".

The load comes from one thread. 'generator CPU' says how busy it was: near 100 % of a core the figures \
are its own, not the gateway's. On one machine both share the cores.

On a terminal a chart is drawn while it runs, on standard error. Standard output gets a summary at the \
end, or with --json one JSON object, whose members have their units in their names (a member that \
means nothing in a run is null or not there); the help of each subcommand lists them.

Exit codes: 0 when all went well; 1 when it did not: the gateway went away, something was lost or came \
twice; 2 usage.";

const EXAMPLES: &str = "\
Examples:
  tidegate bench fanout
      Publish to a thousand WebSockets, one publication at a time.
  tidegate bench echo --connections 50 --in-flight 32
      Send messages that come back.
  tidegate bench idle --connections 10000 --rate 2000
      Open ten thousand connections and hold them.
  tidegate bench publish --stream --json
      Publish as fast as it goes.";

/// Put load on a running gateway, and measure
#[derive(Args, Debug)]
#[command(long_about = LONG_ABOUT, after_help = EXAMPLES)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub(super) struct BenchArgs {
    #[command(subcommand)]
    kind: Kind,
}

#[derive(Debug, Subcommand)]
enum Kind {
    Fanout(FanoutArgs),
    Echo(EchoArgs),
    Idle(IdleArgs),
    Publish(PublishArgs),
}

const FANOUT_LONG: &str = "\
Publish to one channel that many subscribe to: deliveries a second, and the time from publish to \
receive.

A closed loop by default: --in-flight publications are on their way, and another is made when one has \
reached every subscriber. With --rate so many are made a second, whatever becomes of them, and one that \
is made late is timed from when it was due. Every byte that comes is checked: nothing may be lost, \
nothing may come twice.

Members with --json: bench, url, wire, subscribers, in_flight or rate_per_second, size_bytes, ended \
(\"duration\", \"interrupted\" or \"failed\"), took_seconds, publications, publications_per_second, deliveries, \
deliveries_per_second, latency_p50_ms, latency_p90_ms, latency_p99_ms, latency_max_ms, lost, duplicates, \
gaps, received_bytes, received_bytes_per_delivery, generator_cpu_seconds.";

const FANOUT_EXAMPLES: &str = "\
Examples:
  tidegate bench fanout
      A thousand WebSockets, one publication at a time, for ten seconds.
  tidegate bench fanout --wire sse --in-flight 16 --size 1KiB
      Sixteen publications of 1 KiB on their way to a thousand EventSources.
  tidegate bench fanout --subscribers 200 --rate 50 --json | jq .latency_p99_ms
      How late the latest hundredth is at 50 publications a second.";

/// Publish to many subscribers: deliveries a second, latency
#[derive(Args, Debug)]
#[command(long_about = FANOUT_LONG, after_help = FANOUT_EXAMPLES)]
struct FanoutArgs {
    /// How many subscribe, each over a connection of its own; at most 100000
    #[arg(long, value_name = "N", default_value = "1000", value_parser = upto::<100_000>)]
    subscribers: u64,
    /// By which wire they subscribe
    #[arg(long, value_name = "WIRE", default_value = "ws")]
    wire: Wire,
    /// Publications on their way at once; at most 1000
    #[arg(long, value_name = "N", default_value = "1", value_parser = upto::<1000>)]
    #[arg(conflicts_with = "rate")]
    in_flight: u64,
    /// Publish so many a second instead; at most 1000000
    #[arg(long, value_name = "N/s", value_parser = rate)]
    rate: Option<u64>,
    /// Bytes of a publication, 16 to 1MiB
    #[arg(long, value_name = "SIZE", default_value = "100", value_parser = size)]
    size: usize,
    #[command(flatten)]
    common: Common,
}

const ECHO_LONG: &str = "\
Send messages over bare WebSockets, each on a channel of its own, and have them back: messages a \
second, and round-trip times.

Each connection keeps --in-flight messages on their way. Every byte that comes back is checked.

Members with --json: bench, url, connections, in_flight, size_bytes, ended (\"duration\", \"interrupted\" or \
\"failed\"), took_seconds, messages, messages_per_second, round_trip_p50_ms, round_trip_p90_ms, \
round_trip_p99_ms, round_trip_max_ms, lost, duplicates, gaps, received_bytes, generator_cpu_seconds.";

/// Send messages that come back: messages a second, round trips
#[derive(Args, Debug)]
#[command(long_about = ECHO_LONG)]
struct EchoArgs {
    /// How many connections; at most 10000
    #[arg(long, value_name = "N", default_value = "50", value_parser = upto::<10_000>)]
    connections: u64,
    /// Messages on their way at once, of each connection; at most 1000
    #[arg(long, value_name = "N", default_value = "1", value_parser = upto::<1000>)]
    in_flight: u64,
    /// Bytes of a message, 16 to 1MiB
    #[arg(long, value_name = "SIZE", default_value = "125", value_parser = size)]
    size: usize,
    #[command(flatten)]
    common: Common,
}

const IDLE_LONG: &str = "\
Open many connections, --rate of them a second, hold them for --duration, and say how long they took \
to open, how many stayed, and what they cost.

All subscribe to one channel, to which nothing is published. A gateway pings a WebSocket that was \
silent for 30 s; pings are answered and counted. With --metrics the gateway's resident memory is read \
before the first connection and with all of them, where its metrics have it \
(process_resident_memory_bytes).

Members with --json: bench, url, wire, connections, rate_per_second, ended (\"duration\", \"interrupted\" or \
\"failed\"), took_seconds, opened, refused, closed, stayed, connect_p50_ms, connect_p90_ms, connect_p99_ms, \
connect_max_ms, pings_answered, server_memory_before_bytes, server_memory_bytes, \
server_memory_per_connection_bytes (with --metrics), generator_cpu_seconds.";

const IDLE_EXAMPLES: &str = "\
Examples:
  tidegate bench idle --connections 10000 --rate 2000
      Ten thousand WebSockets within five seconds, held for ten.
  tidegate bench idle --wire sse --duration 5m --metrics http://127.0.0.1:9180/metrics
      A thousand EventSources for five minutes, and the gateway's memory.";

/// Hold connections that do nothing: connect times, memory
#[derive(Args, Debug)]
#[command(long_about = IDLE_LONG, after_help = IDLE_EXAMPLES)]
struct IdleArgs {
    /// How many connections; at most 1000000
    #[arg(long, value_name = "N", default_value = "1000", value_parser = upto::<1_000_000>)]
    connections: u64,
    /// By which wire
    #[arg(long, value_name = "WIRE", default_value = "ws")]
    wire: Wire,
    /// How many are opened a second; at most 1000000
    #[arg(long, value_name = "N/s", default_value = "1000", value_parser = rate)]
    rate: u64,
    /// Read the gateway's memory here, such as http://127.0.0.1:9180/metrics
    #[arg(long, value_name = "URL")]
    metrics: Option<Url>,
    #[command(flatten)]
    common: Common,
}

const PUBLISH_LONG: &str = "\
Publish to one channel that nobody subscribes to: publications a second, and the time until each is \
accepted.

Each publisher has a connection. By default it makes a POST for each publication, and the next when it \
is answered. With --stream it makes one POST /publish, whose body has a line for each, and keeps \
--in-flight of them without a result.

Members with --json: bench, url, publishers, stream, in_flight (with --stream), size_bytes, ended \
(\"duration\", \"interrupted\" or \"failed\"), took_seconds, publications, publications_per_second, \
accepted_p50_ms, accepted_p90_ms, accepted_p99_ms, accepted_max_ms, lost (without an answer), \
generator_cpu_seconds.";

/// Publish as fast as it goes: publications a second, latency
#[derive(Args, Debug)]
#[command(long_about = PUBLISH_LONG)]
struct PublishArgs {
    /// How many publish, each over a connection of its own; at most 10000
    #[arg(long, value_name = "N", default_value = "16", value_parser = upto::<10_000>)]
    publishers: u64,
    /// Stream publications in one request, instead of a POST for each
    #[arg(long)]
    stream: bool,
    /// Publications of a stream without a result; at most 1000 [default: 100]
    #[arg(long, value_name = "N", requires = "stream", value_parser = upto::<1000>)]
    in_flight: Option<u64>,
    /// Bytes of a publication, 16 to 1MiB
    #[arg(long, value_name = "SIZE", default_value = "100", value_parser = size)]
    size: usize,
    #[command(flatten)]
    common: Common,
}

/// What every run has.
#[derive(Args, Debug)]
struct Common {
    /// The gateway
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080")]
    url: Url,
    /// How long to measure; at most 24h
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    duration: Duration,
    /// Print one JSON object instead of a summary
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    token: Token,
}

/// What may be on its way at once, in bytes: it is in the memory of both ends.
const IN_FLIGHT_BYTES_MAX: u64 = 256 << 20;

pub(super) fn run(args: BenchArgs) -> ExitCode {
    super::run_client(bench(args.kind))
}

async fn bench(kind: Kind) -> anyhow::Result<ExitCode> {
    let (common, in_flight_bytes) = match &kind {
        Kind::Fanout(it) => (&it.common, it.in_flight * it.size as u64),
        Kind::Echo(it) => (&it.common, it.connections * it.in_flight * it.size as u64),
        Kind::Idle(it) => (&it.common, 0),
        Kind::Publish(it) => {
            (&it.common, it.publishers * it.in_flight.unwrap_or(1) * it.size as u64)
        }
    };
    common.token.refuse()?;
    if in_flight_bytes > IN_FLIGHT_BYTES_MAX {
        return Err(usage("more than 256 MiB would be on their way at once; ask for less of it"));
    }
    let target = Target::find(&common.url).await.map_err(Error::from)?;
    let load = load(&kind).await?;
    let meter = Rc::new(Meter::new());
    let chart = Chart::start(shape(&common.url, &load));
    let outcome = run_shown(&load, &target, &meter, chart).await;
    end(&common.url, load.channels()).await;
    let outcome = outcome?;
    Report::new(&common.url, &load, &outcome).print(common.json)?;
    judge(&outcome)
}

/// Runs it, and shows how it stands.
async fn run_shown(
    load: &Load,
    target: &Target,
    meter: &Rc<Meter>,
    chart: Option<Chart>,
) -> anyhow::Result<Outcome> {
    let mut run = Box::pin(load.run(target, meter, interrupted()));
    let Some(chart) = chart else { return run.await };
    let mut frames = tokio::time::interval(FRAME);
    frames.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let outcome = loop {
        tokio::select! {
            outcome = &mut run => break outcome,
            _ = frames.tick() => chart.show(meter.sample()),
        }
    };
    chart.finish(meter.sample());
    outcome
}

/// What of a run is shown.
fn shape(url: &Url, load: &Load) -> Shape {
    let (name, duration, subject, timed) = match load {
        Load::Fanout(it) => ("fanout", it.duration, Subject::Deliveries, "publish to receive"),
        Load::Echo(it) => ("echo", it.duration, Subject::Messages, "round trip"),
        Load::Idle(it) => {
            let opening = Duration::from_secs_f64(it.connections as f64 / it.rate.max(1) as f64);
            ("idle", opening + it.duration, Subject::Connections, "connect")
        }
        Load::Publish(it) => ("publish", it.duration, Subject::Publications, "accepted"),
    };
    Shape { title: format!("bench {name} on {url}"), duration, subject, timed }
}

/// What is to be done, as it was typed.
async fn load(kind: &Kind) -> anyhow::Result<Load> {
    let channel = format!("bench.{:016x}", fastrand::u64(..));
    Ok(match kind {
        Kind::Fanout(it) => Load::Fanout(Fanout {
            channel,
            wire: it.wire,
            subscribers: it.subscribers,
            size: it.size,
            pace: it.rate.map_or(Pace::InFlight(it.in_flight), Pace::PerSecond),
            duration: it.common.duration,
        }),
        Kind::Echo(it) => Load::Echo(Echo {
            prefix: channel,
            connections: it.connections,
            in_flight: it.in_flight,
            size: it.size,
            duration: it.common.duration,
        }),
        Kind::Idle(it) => Load::Idle(Idle {
            channel,
            wire: it.wire,
            connections: it.connections,
            rate: it.rate,
            duration: it.common.duration,
            metrics: match &it.metrics {
                Some(url) => Some(
                    Target::find(url)
                        .await
                        .map_err(Error::from)
                        .context("can't read the metrics")?,
                ),
                None => None,
            },
        }),
        Kind::Publish(it) => Load::Publish(Publish {
            channel,
            publishers: it.publishers,
            way: match it.stream {
                true => Way::Stream(it.in_flight.unwrap_or(100)),
                false => Way::Post,
            },
            size: it.size,
            duration: it.common.duration,
        }),
    })
}

/// How long ending channels may take.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// Ends channels where that is allowed; they expire where it is not.
async fn end(url: &Url, channels: Vec<String>) {
    let client = Client::builder(url.clone()).attempts_max(1).build();
    let (mut publisher, outcomes) = client.publisher();
    // How each went does not matter.
    drop(outcomes);
    let ended = async {
        for channel in channels {
            publisher.send(Message::lone_end(channel)).await?;
        }
        publisher.finish().await.map(drop)
    };
    let _: Result<Result<(), Error>, _> = tokio::time::timeout(END_TIMEOUT, ended).await;
}

/// Until somebody has had enough.
async fn interrupted() {
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// What a run that came to this exits with.
fn judge(outcome: &Outcome) -> anyhow::Result<ExitCode> {
    let counts = &outcome.counts;
    match &outcome.end {
        End::Failed(failure) if counts.refused + counts.closed > 0 => {
            let error = Error::from(failure.clone());
            let (refused, closed) = (counts.refused, counts.closed);
            Err(anyhow::Error::from(error)
                .context(format!("{refused} connections were refused, {closed} were closed")))
        }
        End::Failed(failure) => {
            Err(anyhow::Error::from(Error::from(failure.clone())).context("it ended early"))
        }
        End::Duration | End::Interrupted if counts.lost + counts.duplicates > 0 => {
            anyhow::bail!(
                "{} messages were lost, and {} came twice; none may be",
                counts.lost,
                counts.duplicates
            )
        }
        End::Duration | End::Interrupted => Ok(ExitCode::SUCCESS),
    }
}

/// A whole number from 1 on.
fn upto<const MAX: u64>(text: &str) -> Result<u64, String> {
    let number = text.parse().ok().filter(|it| (1..=MAX).contains(it));
    number.ok_or_else(|| format!("allowed is a whole number from 1 to {MAX}"))
}

/// So many a second, perhaps with the words for it.
fn rate(text: &str) -> Result<u64, String> {
    upto::<1_000_000>(text.strip_suffix("/s").unwrap_or(text))
}

fn size(text: &str) -> Result<usize, String> {
    let size = parse_size(text).filter(|it| (SIZE_MIN..=1 << 20).contains(it));
    size.ok_or_else(|| format!("allowed is {SIZE_MIN} to 1MiB: 100, \"1KiB\""))
}

fn duration(text: &str) -> Result<Duration, String> {
    let duration = parse_duration(text).filter(|it| !it.is_zero() && *it <= DURATION_MAX);
    duration.ok_or_else(|| {
        "allowed is a number of seconds, or one with ms, s, m or h, to 24h: 30, \"250ms\", \"10m\""
            .to_owned()
    })
}

const DURATION_MAX: Duration = Duration::from_secs(24 * 60 * 60);
