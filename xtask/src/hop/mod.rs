//! `cargo xtask hop`: clients that hop between all wires, cut at random bytes, while publishers
//! publish. Whatever the wires do to them, each sees every publication once and in order.
//!
//! A client keeps nothing from wire to wire but its cursor. The publisher of a channel waits now
//! and then until all its clients are near, so that they are live as often as they catch up. The
//! order of threads is the system's: a seed repeats the choices, not the run.

mod wire;

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use fastrand::Rng;
use serde_json::json;

use crate::gateway::{self, Server};
use crate::{http, workspace};
use wire::{Item, Wire};

/// Runs the whole test.
///
/// # Errors
///
/// Something was lost, doubled, reordered or skipped; or a wire broke its contract.
pub(crate) fn run(args: &[String]) -> anyhow::Result<()> {
    let (mut seed, mut publications) = (fastrand::u64(..), 5000);
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let value = args.next().with_context(|| format!("{arg} needs a number"))?;
        match arg.as_str() {
            "--seed" => seed = value.parse()?,
            "--publications" => publications = value.parse()?,
            _ => anyhow::bail!("usage: cargo xtask hop [--seed N] [--publications PER-CHANNEL]"),
        }
    }
    println!("hop: --seed {seed} --publications {publications}");
    let program = gateway::build()?;
    let config = workspace::root().join("tests/hop/tidegate.toml");
    let folder = workspace::target().join("conformance");
    std::fs::create_dir_all(&folder)?;
    let args = ["--config", &config.to_string_lossy()];
    let server = Server::gateway(&program, "127.0.0.1:0", &args, &folder.join("hop.log"))?;

    let pace = Pace { publications, until: None, pause: Duration::ZERO };
    hop(&server.address, pace, Rng::with_seed(seed))
}

/// How much is published, and how fast.
pub(crate) struct Pace {
    /// What a channel gets at most.
    pub(crate) publications: u64,
    /// When no more is published.
    pub(crate) until: Option<Instant>,
    /// Between two bursts.
    pub(crate) pause: Duration,
}

/// Has the clients hop on the server at `address` until all that is published has come.
///
/// # Errors
///
/// As [`run`].
pub(crate) fn hop(address: &str, pace: Pace, mut rng: Rng) -> anyhow::Result<()> {
    let begun = Instant::now();
    let run = Run::new(address, pace);
    std::thread::scope(|scope| {
        for channel in 0..CHANNELS {
            let (run, rng) = (&run, rng.fork());
            scope.spawn(move || run.note("publisher", channel, publish(run, channel, rng)));
        }
        for number in 0..run.clients.len() {
            let (run, rng) = (&run, rng.fork());
            scope.spawn(move || run.note("client", number, follow(run, number, rng)));
        }
    });
    run.verdict(begun.elapsed())
}

const CHANNELS: usize = 4;
const CLIENTS_PER_CHANNEL: usize = 3;
/// Clients that follow all channels on one stream.
const CLIENTS_OF_ALL: usize = 2;
/// Nothing that is waited for takes as long.
const PATIENCE: Duration = Duration::from_secs(60);

/// One run, shared by its threads.
struct Run {
    address: String,
    pace: Pace,
    /// The channels of each client.
    clients: Vec<Vec<usize>>,
    /// Held to note progress, never over IO.
    state: Mutex<State>,
    progress: Condvar,
}

struct State {
    /// By client: what was seen of each of its channels.
    seen: Vec<BTreeMap<usize, Seen>>,
    hops: BTreeMap<Wire, u64>,
    /// By channel: what it got, once it has ended.
    published: BTreeMap<usize, u64>,
    /// What broke, if anything did: everyone stops then.
    failure: Option<anyhow::Error>,
}

/// What one client saw of one channel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Seen {
    /// The number of the publication that is due.
    next: u64,
    lost: u64,
    twice: u64,
    has_ended: bool,
}

impl Seen {
    /// Notes publication `number`. One that comes late is counted as lost and then as twice: out of
    /// order is both.
    fn publication(&mut self, number: u64) {
        if number < self.next {
            self.twice += 1;
            return;
        }
        self.lost += number - self.next;
        self.next = number + 1;
    }
}

impl Run {
    fn new(address: &str, pace: Pace) -> Run {
        let mut clients: Vec<Vec<usize>> = (0..CHANNELS)
            .flat_map(|channel| std::iter::repeat_n(vec![channel], CLIENTS_PER_CHANNEL))
            .collect();
        clients.extend(std::iter::repeat_n((0..CHANNELS).collect(), CLIENTS_OF_ALL));
        let blank = |channels: &Vec<usize>| {
            channels.iter().map(|channel| (*channel, Seen::default())).collect()
        };
        let seen = clients.iter().map(blank).collect();
        let (hops, published) = (BTreeMap::new(), BTreeMap::new());
        let state = State { seen, hops, published, failure: None };
        Run {
            address: address.to_owned(),
            pace,
            clients,
            state: Mutex::new(state),
            progress: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes how a thread ended; the first failure ends all.
    fn note(&self, who: &str, number: usize, result: anyhow::Result<()>) {
        let mut state = self.lock();
        if let Err(error) = result
            && state.failure.is_none()
        {
            state.failure = Some(error.context(format!("{who} {number}")));
        }
        self.progress.notify_all();
    }

    /// Waits until each client of `channel` is due `number` at least; false if the run is over.
    fn await_clients(&self, channel: usize, number: u64) -> anyhow::Result<bool> {
        let deadline = Instant::now() + PATIENCE;
        let mut state = self.lock();
        loop {
            if state.failure.is_some() {
                return Ok(false);
            }
            let mut dues = state.seen.iter().filter_map(|seen| seen.get(&channel));
            if dues.all(|seen| seen.next >= number) {
                return Ok(true);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            anyhow::ensure!(
                !left.is_zero(),
                "channel {channel}: after {} s a client still lacks {number}",
                PATIENCE.as_secs()
            );
            state =
                self.progress.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Notes what client `number` got; false if the run is over, for it or for all.
    fn take(
        &self,
        number: usize,
        names: &[String],
        cursor: &mut String,
        items: Vec<Item>,
    ) -> anyhow::Result<bool> {
        let channels = self.clients.get(number).context("clients are numbered")?;
        let mut state = self.lock();
        let seen = state.seen.get_mut(number).context("clients are numbered")?;
        for item in items {
            match item {
                Item::Cursor(at) => *cursor = at,
                Item::Publication { channel, number } => {
                    let it = seen_of(seen, names, channels, &channel)?;
                    anyhow::ensure!(!it.has_ended, "a publication came after its channel's end");
                    it.publication(number);
                }
                Item::End { channel } => {
                    seen_of(seen, names, channels, &channel)?.has_ended = true;
                }
                Item::Gap(gap) => anyhow::bail!("a gap where there is none: {gap}"),
            }
        }
        let has_ended = seen.values().all(|it| it.has_ended);
        self.progress.notify_all();
        Ok(state.failure.is_none() && !has_ended)
    }

    fn verdict(self, took: Duration) -> anyhow::Result<()> {
        let state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        let all = || state.seen.iter().flat_map(BTreeMap::values);
        let (lost, twice) = (all().map(|it| it.lost).sum(), all().map(|it| it.twice).sum());
        let hops: Vec<String> =
            state.hops.iter().map(|(wire, count)| format!("{} {count}", wire.name())).collect();
        println!(
            "hop: {} clients, {} publications, {} received, hops: {}, {:.1} s\nhop: lost {lost}, twice or out of order {twice}",
            state.seen.len(),
            state.published.values().sum::<u64>(),
            all().map(|it| it.next).sum::<u64>(),
            hops.join(", "),
            took.as_secs_f64(),
        );
        if let Some(failure) = state.failure {
            return Err(failure);
        }
        let counts: (u64, u64) = (lost, twice);
        anyhow::ensure!(counts == (0, 0), "not every publication came once and in order");
        let is_whole = |(channel, it): (&usize, &Seen)| {
            state.published.get(channel) == Some(&it.next) && it.has_ended
        };
        anyhow::ensure!(
            state.seen.iter().flatten().all(is_whole),
            "a client missed the last publications, or the end"
        );
        Ok(())
    }
}

fn channel_name(channel: usize) -> String {
    format!("hop.{channel}")
}

/// Publishes numbers from 0 in one channel, one by one or in bursts, then ends it.
fn publish(run: &Run, channel: usize, mut rng: Rng) -> anyhow::Result<()> {
    let mut connection = http::Connection::open(&run.address)?;
    let path = format!("/channels/{}", channel_name(channel));
    let mut number = 0;
    let is_over = || run.pace.until.is_some_and(|it| Instant::now() >= it);
    while number < run.pace.publications && !is_over() {
        // Nothing waits for this: it is the pace.
        std::thread::sleep(run.pace.pause);
        let burst = if rng.u8(..4) == 0 { rng.u64(2..60) } else { 1 };
        let until = (number + burst).min(run.pace.publications);
        let lines: Vec<String> = (number..until)
            .map(|number| json!({"n": number, "pad": "~".repeat(rng.usize(..300))}).to_string())
            .collect();
        let kind = if burst == 1 { "application/json" } else { "application/x-ndjson" };
        let answer = connection.post(&path, &[("Content-Type", kind)], lines.join("\n").as_bytes());
        let answer = answer.with_context(|| format!("publishing {number} in {channel}"))?;
        anyhow::ensure!(answer.status == 200, "publishing: {}", answer.describe());
        let accepted = answer.body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        anyhow::ensure!(
            u64::try_from(accepted.count())? == until - number,
            "a burst of {burst} was answered otherwise: {}",
            answer.describe()
        );
        number = until;
        // How far behind the slowest may be; often not at all, so that all are live.
        let slack = if rng.bool() { 0 } else { rng.u64(..200) };
        if !run.await_clients(channel, number.saturating_sub(slack))? {
            return Ok(());
        }
    }
    let answer = connection.post(&path, &[("Tidegate-End", "true")], b"")?;
    anyhow::ensure!(answer.status == 200, "ending: {}", answer.describe());
    run.lock().published.insert(channel, number);
    Ok(())
}

/// Hops from wire to wire until all channels of client `number` have ended.
fn follow(run: &Run, number: usize, mut rng: Rng) -> anyhow::Result<()> {
    let channels = run.clients.get(number).context("clients are numbered")?;
    let names: Vec<String> = channels.iter().map(|channel| channel_name(*channel)).collect();
    let mut cursor = "start".to_owned();
    loop {
        let wire = rng.choice(Wire::ALL).context("there are wires")?;
        let from = cursor.clone();
        let hop = wire::Hop {
            address: &run.address,
            channels: &names,
            cursor: &from,
            // Bytes of the body after which the connection is cut, wherever that is.
            bytes_max: rng.usize(1..8000),
            limit: rng.usize(1..200),
            use_header: rng.bool(),
        };
        let mut take = |items| run.take(number, &names, &mut cursor, items);
        hop.run(wire, &mut take).with_context(|| format!("{} from {from}", wire.name()))?;
        let mut state = run.lock();
        *state.hops.entry(wire).or_default() += 1;
        let seen = state.seen.get(number).context("clients are numbered")?;
        if state.failure.is_some() || seen.values().all(|it| it.has_ended) {
            return Ok(());
        }
    }
}

fn seen_of<'a>(
    seen: &'a mut BTreeMap<usize, Seen>,
    names: &[String],
    channels: &[usize],
    name: &str,
) -> anyhow::Result<&'a mut Seen> {
    let place = names.iter().position(|it| it == name);
    let channel = place.and_then(|place| channels.get(place));
    let seen = channel.and_then(|channel| seen.get_mut(channel));
    seen.with_context(|| format!("something came of `{name}`, which was not asked for"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(numbers: &[u64], lost: u64, twice: u64) {
        let mut seen = Seen::default();
        numbers.iter().for_each(|number| seen.publication(*number));
        assert_eq!((seen.lost, seen.twice), (lost, twice));
    }

    #[test]
    fn what_is_lost_doubled_or_swapped_is_counted() {
        check(&[0, 1, 2], 0, 0);
        check(&[0, 2, 3], 1, 0);
        check(&[0, 1, 1, 2], 0, 1);
        check(&[0, 2, 1, 3], 1, 1);
    }
}
