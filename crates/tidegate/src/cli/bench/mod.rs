//! `tidegate bench`: load on a running gateway, and what it came to.
//!
//! Here is what can be typed. `load` does it, `report` says what it came to.

use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use clap::{Args, Subcommand};
use tidegate_client::{Client, Failure, Url};

mod load;
mod report;

use self::load::{End, Fanout, Meter, Outcome, Pace, SIZE_MIN, Target, Wire};
use self::report::Report;
use super::Token;
use crate::config::{parse_duration, parse_size};

const LONG_ABOUT: &str = "\
Put load on a running gateway, and say what it came to.

It runs for --duration, or until Ctrl-C. Channels are named bench.RANDOM, so that runs don't disturb \
each other, and are ended afterwards; a gateway without --dev has to allow anyone to publish and \
subscribe to 'bench.>'.

The load comes from one thread. 'generator CPU' says how busy it was: near 100 % it has measured \
itself, and not the gateway. On one machine both share its cores.

On standard output there is a summary, or with --json one JSON object. Its members have their units in \
their names, and stay: see the help of each subcommand. \
Exit codes: 0 when all went well, 1 when it did not (the gateway went away, something was lost or \
came twice), 2 usage.";

/// Put load on a running gateway, and measure
#[derive(Args, Debug)]
#[command(long_about = LONG_ABOUT, subcommand_required = true, arg_required_else_help = true)]
pub(super) struct BenchArgs {
    #[command(subcommand)]
    kind: Kind,
}

#[derive(Debug, Subcommand)]
enum Kind {
    Fanout(FanoutArgs),
}

const FANOUT_LONG: &str = "\
Publish to one channel with many subscribers: deliveries a second, and the time from publish to \
receive.

A closed loop by default: --in-flight publications are on their way, and another is made when one has \
reached every subscriber. With --rate so many are made a second, whatever becomes of them. Every byte \
that each subscriber gets is checked; nothing may be lost and nothing may come twice.

--json: bench, url, wire, subscribers, in_flight or rate_per_second, size_bytes, ended (duration, \
interrupted or failed), took_seconds, publications, publications_per_second, deliveries, \
deliveries_per_second, latency_p50_ms, latency_p90_ms, latency_p99_ms, latency_max_ms, lost, duplicates, \
gaps, received_bytes, received_bytes_per_delivery, generator_cpu_seconds";

const FANOUT_EXAMPLES: &str = "\
Examples:
  tidegate bench fanout
      A thousand WebSockets, one publication at a time, for ten seconds.
  tidegate bench fanout --wire sse --in-flight 16 --size 1KiB
      Sixteen publications of 1 KiB in flight to EventSources.
  tidegate bench fanout --subscribers 200 --rate 50 --json | jq .latency_p99_ms
      The latency at 50 publications a second.";

/// One channel, many subscribers: deliveries a second, latency
#[derive(Args, Debug)]
#[command(long_about = FANOUT_LONG, after_help = FANOUT_EXAMPLES)]
struct FanoutArgs {
    /// How many subscribe, each over a connection of its own; at most 100,000
    #[arg(long, value_name = "N", default_value = "1000", value_parser = upto::<100_000>)]
    subscribers: u64,
    /// How they listen
    #[arg(long, value_name = "WIRE", default_value = "ws")]
    wire: Wire,
    /// Publications on their way at once; at most 1000
    #[arg(long, value_name = "N", default_value = "1", value_parser = upto::<1000>)]
    #[arg(conflicts_with = "rate")]
    in_flight: u64,
    /// Publish so many a second instead; at most 1,000,000
    #[arg(long, value_name = "N", value_parser = rate)]
    rate: Option<u64>,
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
    /// How long it is measured, at most 24h
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    duration: Duration,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    token: Token,
}

pub(super) fn run(args: BenchArgs) -> ExitCode {
    super::run_client(bench(args))
}

async fn bench(args: BenchArgs) -> anyhow::Result<ExitCode> {
    let Kind::Fanout(args) = args.kind;
    let common = &args.common;
    common.token.refuse()?;
    let target = find(&common.url).await?;
    let meter = Rc::new(Meter::new());
    let run = Fanout {
        channel: channel(),
        wire: args.wire,
        subscribers: args.subscribers,
        size: args.size,
        pace: args.rate.map_or(Pace::InFlight(args.in_flight), Pace::PerSecond),
        duration: common.duration,
    };
    let outcome = run.run(&target, &meter, interrupted()).await;
    end(&common.url, &[run.channel.clone()]).await;
    let outcome = outcome?;
    let report = Report::fanout(&common.url, &run, &outcome);
    report.print(common.json)?;
    judge(&outcome)
}

/// Finds the gateway, or says how to start one.
async fn find(url: &Url) -> anyhow::Result<Target> {
    Target::find(url).await.map_err(|failure| match failure {
        Failure::Unreachable { .. } => anyhow::anyhow!(
            "{failure}\n\nIs a gateway running there? 'tidegate serve --dev' starts one on \
             127.0.0.1:8080; --url names another."
        ),
        failure => failure.into(),
    })
}

/// A channel that nobody else has.
fn channel() -> String {
    format!("bench.{:016x}", fastrand::u64(..))
}

/// Ends channels, where that is allowed; nothing is lost where it is not.
async fn end(url: &Url, channels: &[String]) {
    let client = Client::builder(url.clone()).attempts_max(1).build();
    for channel in channels {
        let ended = client.end(channel).give_up_after(Duration::from_secs(1)).send();
        let _ = tokio::time::timeout(Duration::from_secs(2), ended).await;
    }
}

/// Until somebody has had enough.
async fn interrupted() {
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending().await
    }
}

/// What a run that came to this exits with.
fn judge(outcome: &Outcome) -> anyhow::Result<ExitCode> {
    if let End::Failed(failure) = &outcome.end {
        return Err(anyhow::Error::from(failure.clone()).context("it ended before its time"));
    }
    let load::Counts { lost, duplicates, .. } = outcome.counts;
    if lost > 0 || duplicates > 0 {
        anyhow::bail!("{lost} messages were lost and {duplicates} came twice; none may be");
    }
    Ok(ExitCode::SUCCESS)
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
    duration.ok_or_else(|| "allowed is 1ms to 24h: 30, \"250ms\", \"10m\"".to_owned())
}

const DURATION_MAX: Duration = Duration::from_secs(24 * 60 * 60);
