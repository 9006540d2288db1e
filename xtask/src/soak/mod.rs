//! `cargo xtask soak [--for 10m]`: everything at once, for long, at a modest rate. Clients hop between
//! all wires at random cuts (`hop`), enveloped sessions come back and resume (`session`), brief
//! visitors make channels and drop them (`visitor`), and a small crowd streams and is timed.
//!
//! What must hold: nothing lost, nothing twice, nothing out of order; the medians of the server's
//! memory, tasks and descriptors in the last fifth of the time are within a tenth of those in the
//! second; and the log has no warning that should not be there. The first fifth is for logs, tables of
//! keys and the allocator to fill.

mod session;
mod visitor;

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use fastrand::Rng;
use serde_json::json;

use crate::flood::crowd::{Crowd, Window};
use crate::gateway::{self, Server};
use crate::hop::Pace;
use crate::http::Connection;
use crate::{bench, hop, workspace};

/// What the server has, once a second.
struct Sample {
    window: Window,
    tasks: u64,
}

/// Subscribers that stream all the time, on four wires.
const CROWD: [(&str, usize); 4] =
    [("--subscribers", 60), ("--sse", 60), ("--ndjson", 60), ("--long-poll", 20)];

const SESSIONS: usize = 4;
const VISITORS: usize = 2;

/// Bounds so small that everything is full within the first fifth.
const CONFIG: &str = r#"
[broker]
key_window = "20s"
[[channel]]
match = "hop.>"
presence = true
log = { messages = 2000 }
outbox = { messages = 8, bytes = "4KiB", policy = "spill" }
[[channel]]
match = "session.>"
presence = true
log = { messages = 500 }
[[channel]]
match = "visitor.>"
log = { age = "5s" }
[[channel]]
match = "bench"
log = { messages = 200 }
"#;

/// Runs it.
///
/// # Errors
///
/// What must hold did not.
pub(crate) fn run(args: &[String]) -> anyhow::Result<()> {
    let usage = "usage: cargo xtask soak [--for 10m] [--seed N]";
    let (mut time, mut seed) = (Duration::from_secs(600), fastrand::u64(..));
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let value = args.next().context(usage)?;
        match arg.as_str() {
            "--for" => time = duration(value).context(usage)?,
            "--seed" => seed = value.parse().context(usage)?,
            _ => anyhow::bail!(usage),
        }
    }
    println!("soak: --for {}s --seed {seed}", time.as_secs());
    let load = bench::load()?;
    let program = gateway::build()?;
    let folder = workspace::target().join("soak");
    std::fs::create_dir_all(&folder)?;
    let (config, log) = (folder.join("tidegate.toml"), folder.join("tidegate.log"));
    std::fs::write(&config, CONFIG)?;
    let args = ["--workers", "2", "--config", &config.to_string_lossy()];
    let server = Server::gateway(&program, "127.0.0.1:0", &args, &log)?;
    let mut crowd = Crowd::start(Command::new(load), &server.address, server.pid(), &CROWD)?;

    let rng = Rng::with_seed(seed);
    let soak = Soak::new(&server.address, Instant::now() + time);
    let samples = std::thread::scope(|scope| {
        soak.begin(scope, rng);
        let samples = soak.sample(&mut crowd);
        // Whoever still runs then ends.
        soak.is_over.store(true, Ordering::Relaxed);
        samples
    });
    soak.result()?;
    let samples = samples?;
    crowd.end()?;
    read_log(&log)?;
    verdict(&samples, time, seed)
}

/// One run, shared by its threads.
struct Soak {
    address: String,
    until: Instant,
    is_over: AtomicBool,
    /// What broke first. Held to note it, never over IO.
    failure: Mutex<Option<anyhow::Error>>,
}

impl Soak {
    fn new(address: &str, until: Instant) -> Soak {
        Soak {
            address: address.to_owned(),
            until,
            is_over: AtomicBool::new(false),
            failure: Mutex::new(None),
        }
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed) || Instant::now() >= self.until
    }

    fn begin<'s>(&'s self, scope: &'s std::thread::Scope<'s, '_>, mut rng: Rng) {
        let pace = Pace {
            publications: u64::MAX,
            until: Some(self.until),
            pause: Duration::from_millis(50),
        };
        let hopping = rng.fork();
        scope.spawn(move || self.note("hop", hop::hop(&self.address, pace, hopping)));
        for number in 0..SESSIONS {
            let rng = rng.fork();
            scope.spawn(move || self.note("session", session::run(self, number, rng)));
        }
        for number in 0..VISITORS {
            let rng = rng.fork();
            scope.spawn(move || self.note("visitor", visitor::run(self, number, rng)));
        }
    }

    /// Notes how a thread ended; a failure ends all.
    fn note(&self, who: &str, result: anyhow::Result<()>) {
        if let Err(error) = result {
            let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
            failure.get_or_insert_with(|| error.context(who.to_owned()));
            self.is_over.store(true, Ordering::Relaxed);
        }
    }

    fn result(&self) -> anyhow::Result<()> {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.take().map_or(Ok(()), Err)
    }

    /// Looks at the server once a second until the time is over.
    fn sample(&self, crowd: &mut Crowd) -> anyhow::Result<Vec<Sample>> {
        let mut samples = Vec::new();
        while !self.is_over() {
            // It is a sample a second: nothing is waited for.
            std::thread::sleep(Duration::from_secs(1));
            let sample = Sample { window: crowd.window()?, tasks: self.tasks()? };
            if samples.len() % 60 == 0 {
                println!("soak: {:>4} s, {}", samples.len(), describe(&sample));
            }
            samples.push(sample);
        }
        Ok(samples)
    }

    /// The tasks of the server's workers, as its metrics have them.
    fn tasks(&self) -> anyhow::Result<u64> {
        let mut connection = Connection::open(&self.address)?;
        let answer = connection.get("/metrics", &[])?;
        let text = String::from_utf8(answer.body)?;
        let line = text.lines().find_map(|line| line.strip_prefix("tidegate_tasks "));
        Ok(line.context("/metrics has no tidegate_tasks")?.trim().parse()?)
    }
}

fn describe(sample: &Sample) -> String {
    format!(
        "{:.2} MiB, {} tasks, {} descriptors, p99 {:.1} ms",
        sample.window.memory_mib(),
        sample.tasks,
        sample.window.files,
        sample.window.p99_ms
    )
}

/// `90s`, `10m`, or seconds.
fn duration(text: &str) -> Option<Duration> {
    let (digits, unit) = match text.strip_suffix('m') {
        Some(digits) => (digits, 60),
        None => (text.strip_suffix('s').unwrap_or(text), 1),
    };
    let seconds = digits.parse::<u64>().ok()?.checked_mul(unit)?;
    Some(Duration::from_secs(seconds))
}

/// Nothing that was done is a reason to warn.
fn read_log(log: &Path) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(log)?;
    let bad = |line: &&str| ["WARN", "ERROR", "panicked"].iter().any(|it| line.contains(it));
    // Every start with `--dev` says what that means.
    let bad: Vec<&str> = text.lines().filter(bad).filter(|it| !it.contains("--dev")).collect();
    anyhow::ensure!(bad.is_empty(), "the server warns {} times: {:?}", bad.len(), bad.first());
    Ok(())
}

fn verdict(samples: &[Sample], time: Duration, seed: u64) -> anyhow::Result<()> {
    let fifth = samples.len() / 5;
    anyhow::ensure!(fifth >= 5, "{} samples are too few to compare", samples.len());
    let second = samples.get(fifth..2 * fifth).unwrap_or_default();
    let last = samples.get(samples.len() - fifth..).unwrap_or_default();
    let figures: [(&str, Figure); 4] = [
        ("memory, MiB", |it| it.window.memory_mib()),
        ("tasks", |it| it.tasks as f64),
        ("descriptors", |it| it.window.files as f64),
        ("p99, ms", |it| it.window.p99_ms),
    ];
    let (mut missed, mut rows) = (Vec::new(), Vec::new());
    for (name, of) in figures {
        let (before, after) = (median(second, of), median(last, of));
        let most = samples.iter().map(of).fold(0.0, f64::max);
        println!("soak: {name}: {before:.2} → {after:.2}, at most {most:.2}");
        // A p99 is the machine's too, and only told.
        if (after / before - 1.0).abs() > 0.1 && !name.starts_with("p99") {
            missed.push(format!("{name}: {before:.2} → {after:.2}"));
        }
        rows.push(json!({ "name": name, "second": before, "last": after, "most": most }));
    }
    println!("soak: lost 0, twice 0, out of order 0");
    if time >= Duration::from_secs(600) {
        write(&rows, samples, time, seed)?;
    }
    anyhow::ensure!(missed.is_empty(), "not flat: {}", missed.join(", "));
    Ok(())
}

/// One figure of a sample.
type Figure = fn(&Sample) -> f64;

fn median(samples: &[Sample], of: Figure) -> f64 {
    bench::median(samples.iter().map(of).collect()).unwrap_or_default()
}

/// Writes the result beside those of the benchmarks.
fn write(
    rows: &[serde_json::Value],
    samples: &[Sample],
    time: Duration,
    seed: u64,
) -> anyhow::Result<()> {
    let folder = workspace::root().join("bench/results");
    let deliveries: u64 = samples.iter().map(|it| it.window.deliveries).sum();
    let command = format!("cargo xtask soak --for {}s --seed {seed}", time.as_secs());
    let (date, commit) = (workspace::today(), workspace::commit());
    let every_ten = |of: Figure| -> Vec<f64> {
        samples.iter().step_by(10).map(|it| (of(it) * 100.0).round() / 100.0).collect()
    };
    let report = json!({
        "command": command, "date": date, "commit": commit, "figures": rows,
        "every_10_s": {
            "memory_mib": every_ten(|it| it.window.memory_mib()),
            "tasks": every_ten(|it| it.tasks as f64),
            "descriptors": every_ten(|it| it.window.files as f64),
        },
    });
    std::fs::write(folder.join("soak.json"), serde_json::to_string_pretty(&report)? + "\n")?;
    let mut page = format!(
        "# Soak\n\nWritten by `{command}`, {date}, commit {commit}; `xtask/src/soak` says what is \
         done. Two workers. Medians of the second and of the last fifth, which have to be within a \
         tenth, and the most there ever was. Lost 0, twice 0, out of order 0; {deliveries} deliveries \
         to the crowd beside what hopped; no warning in the log.\n\n\
         | | second fifth | last fifth | most |\n| --- | --- | --- | --- |\n"
    );
    for row in rows {
        let figure = |key: &str| row.get(key).and_then(serde_json::Value::as_f64).unwrap_or(0.0);
        let name = row.get("name").and_then(serde_json::Value::as_str).unwrap_or_default();
        let (second, last, most) = (figure("second"), figure("last"), figure("most"));
        writeln!(page, "| {name} | {second:.2} | {last:.2} | {most:.2} |")?;
    }
    Ok(std::fs::write(folder.join("soak.md"), page)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        for (text, seconds) in [("90", 90), ("90s", 90), ("10m", 600)] {
            assert_eq!(duration(text), Some(Duration::from_secs(seconds)));
        }
        assert_eq!((duration("m"), duration("1h")), (None, None));
    }
}
