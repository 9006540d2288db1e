//! Crowd: good clients on mixed wires at a fixed rate, while something else is done to the server.
//!
//! It goes on until it is told to end, and says what it saw whenever it is asked: each line `window`
//! on standard input is answered with a line of JSON about the time since the one before. Whatever
//! is lost, doubled, changed or out of order, and whoever is disconnected, ends the run.

use std::io::{BufRead, Write};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::latency;
use crate::meter;
use crate::rig::{Latencies, Rig};
use crate::wire::Wire;
use crate::{Shape, Target};

/// The arguments.
#[derive(clap::Args)]
pub(crate) struct Crowd {
    #[command(flatten)]
    target: Target,
    /// Bytes of a message, and how publications are handed in; subscribers on `wire` are `subscribers`.
    #[command(flatten)]
    shape: Shape,
    /// Subscribers on Server-Sent Events beside those.
    #[arg(long, default_value_t = 0)]
    sse: usize,
    /// On NDJSON.
    #[arg(long, default_value_t = 0)]
    ndjson: usize,
    /// On long-polls.
    #[arg(long, default_value_t = 0)]
    long_poll: usize,
    /// Publications before all, at once: what the channel's log keeps.
    #[arg(long, default_value_t = 0)]
    fill: u64,
    /// Publications a second.
    #[arg(long, default_value_t = 20)]
    rate: u32,
}

/// A stretch of time.
#[derive(Serialize)]
struct Window {
    seconds: f64,
    #[serde(flatten)]
    times: latency::Report,
    /// The server: proportional set size, the most that was resident, open descriptors, and how much
    /// of a core it used.
    memory: u64,
    peak: u64,
    files: usize,
    server_cores: f64,
    generator_cores: f64,
}

/// All of it.
#[derive(Serialize)]
pub(crate) struct Report {
    subscribers: usize,
    publications: u64,
}

/// The longest wait for a command, when nothing else happens.
const TICK: Duration = Duration::from_millis(20);

impl Crowd {
    pub(crate) fn run(&self) -> Result<Report> {
        self.target.prepare()?;
        let pids = &self.target.pids;
        let mut rig = Rig::connect(self.shape.options(&self.target, 1))?;
        let others =
            [(Wire::Sse, self.sse), (Wire::Ndjson, self.ndjson), (Wire::LongPoll, self.long_poll)];
        for (wire, count) in others {
            rig.add_subscribers(count, wire, None)?;
        }
        rig.synchronise()?;
        rig.run_closed(self.fill)?;
        let (sender, commands) = mpsc::channel();
        // Ends with the process, or with whoever gives the commands.
        std::thread::spawn(move || {
            for line in std::io::stdin().lock().lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        say(&"ready")?;

        let interval = Duration::from_secs(1) / self.rate;
        let (mut due, mut publications) = (Instant::now(), 0);
        let mut since = Mark::new(pids)?;
        rig.latencies = Some(Latencies::new(None)?);
        loop {
            match commands.try_recv().as_deref() {
                Ok("window") => {
                    let latencies = rig.latencies.replace(Latencies::new(None)?);
                    let latencies = latencies.context("times are recorded")?;
                    let next = Mark::new(pids)?;
                    let seconds = (next.at - since.at).as_secs_f64();
                    say(&Window {
                        seconds,
                        times: latency::Report::new(&latencies),
                        memory: meter::memory(pids)?,
                        peak: meter::peak(pids)?,
                        files: meter::files(pids)?,
                        server_cores: (next.server - since.server).as_secs_f64() / seconds,
                        generator_cores: (next.own - since.own).as_secs_f64() / seconds,
                    })?;
                    meter::forget_peak(pids)?;
                    since = next;
                }
                Ok(other) => bail!("there is no command {other:?}"),
                Err(mpsc::TryRecvError::Empty) => {}
                // Whoever listens has gone: what is under way must still arrive.
                Err(mpsc::TryRecvError::Disconnected) => break,
            }
            let now = Instant::now();
            if now >= due {
                rig.publish()?;
                publications += 1;
                // What could not be kept up with is not made up for: no bursts.
                due = (due + interval).max(now);
            }
            rig.turn(due.saturating_duration_since(now).min(TICK))?;
        }
        rig.drain()?;
        let subscribers = self.shape.subscribers + self.sse + self.ndjson + self.long_poll;
        Ok(Report { subscribers, publications })
    }
}

struct Mark {
    at: Instant,
    server: Duration,
    own: Duration,
}

impl Mark {
    fn new(pids: &[u32]) -> Result<Self> {
        Ok(Self { at: Instant::now(), server: meter::cpu(pids)?, own: meter::own_cpu()? })
    }
}

fn say(it: &impl Serialize) -> Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, it)?;
    out.write_all(b"\n")?;
    Ok(out.flush()?)
}
