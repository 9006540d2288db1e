//! Slow: thousands of readers that never read, and one that does and must not notice.
//!
//! The one is measured three times at a fixed rate: alone, amid as many readers that do read, and
//! amid the same when they have stopped reading and everything that would hold their messages is
//! full. The server's memory is read after one filling and after another: what grows from the one to
//! the other would grow without end. Afterwards some of the slow readers go on reading: each must
//! get every message, or be told.

use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::latency;
use crate::meter;
use crate::rig::{CaughtUp, Latencies, Rig};
use crate::{Shape, Target};

/// The arguments.
#[derive(clap::Args)]
pub(crate) struct Slow {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    shape: Shape,
    /// Publications a second, where times are measured.
    #[arg(long, default_value_t = 5)]
    rate: u32,
    /// How many of those.
    #[arg(long, default_value_t = 100)]
    count: u64,
    /// Publications of a filling: more than sockets, outboxes and log hold.
    #[arg(long, default_value_t = 6000)]
    fill: u64,
    /// Bytes of the slow readers' receive buffers, so that it is the server who has to hold on to
    /// what they don't read.
    #[arg(long, default_value_t = 4096)]
    receive_buffer: usize,
    /// Slow readers that go on reading in the end.
    #[arg(long, default_value_t = 50)]
    sample: usize,
}

/// What the one saw, and what the server held.
#[derive(Serialize)]
pub(crate) struct Report {
    readers: usize,
    /// Publish-to-receive times of the one: alone, amid readers, amid slow readers.
    alone: latency::Report,
    amid_readers: latency::Report,
    amid_slow: latency::Report,
    /// Time per publication of the one in a closed loop of 16, in microseconds.
    alone_us: f64,
    amid_slow_us: f64,
    /// Proportional set sizes of the server, in bytes.
    connected: u64,
    filled: u64,
    filled_again: u64,
    /// The most that was ever resident, and that above `connected`, per slow reader.
    peak: u64,
    peak_per_slow_reader: f64,
    /// `filled_again` above `connected`, per slow reader.
    per_slow_reader: f64,
    /// `filled_again` against `filled`.
    growth: f64,
    /// Slow readers that got everything in the end, that were told that they missed something (by a
    /// Close frame), and that were cut off.
    complete: usize,
    told: usize,
    cut: usize,
}

/// Publications in flight where throughput is measured.
const WIDTH: usize = 16;

impl Slow {
    pub(crate) fn run(&self) -> Result<Report> {
        self.target.prepare()?;
        let pids = &self.target.pids;
        let readers = self.shape.subscribers;
        let alone = Shape { subscribers: 1, ..self.shape.clone() };
        let mut rig = Rig::connect(alone.options(&self.target, WIDTH))?;
        rig.synchronise()?;
        rig.run_closed(self.count)?;
        let alone_us = per_publication(rig.run_closed(self.count * 10)?, self.count * 10);
        let alone = self.times(&mut rig)?;

        rig.add_subscribers(readers, self.shape.wire, Some(self.receive_buffer))?;
        rig.synchronise()?;
        let connected = meter::memory(pids)?;
        let amid_readers = self.times(&mut rig)?;

        rig.mute(1..readers + 1)?;
        rig.run_closed(self.fill)?;
        let filled = meter::memory(pids)?;
        let amid_slow = self.times(&mut rig)?;
        let amid_slow_us = per_publication(rig.run_closed(self.count * 10)?, self.count * 10);
        rig.run_closed(self.fill)?;
        let filled_again = meter::memory(pids)?;
        let peak = meter::peak(pids)?;

        let (mut complete, mut told, mut cut) = (0, 0, 0);
        for step in 0..self.sample.min(readers) {
            match rig.catch_up(1 + step * readers / self.sample.min(readers))? {
                CaughtUp::Complete => complete += 1,
                CaughtUp::Told(_) => told += 1,
                CaughtUp::Cut => cut += 1,
            }
        }
        Ok(Report {
            readers,
            alone,
            amid_readers,
            amid_slow,
            alone_us,
            amid_slow_us,
            connected,
            filled,
            filled_again,
            peak,
            peak_per_slow_reader: peak.saturating_sub(connected) as f64 / readers as f64,
            per_slow_reader: filled_again.saturating_sub(connected) as f64 / readers as f64,
            growth: filled_again as f64 / filled as f64,
            complete,
            told,
            cut,
        })
    }

    /// The one's publish-to-receive times at a fixed rate.
    fn times(&self, rig: &mut Rig) -> Result<latency::Report> {
        rig.latencies = Some(Latencies::new(Some(0))?);
        rig.run_paced(self.count, Duration::from_secs(1) / self.rate)?;
        let latencies = rig.latencies.take().context("nothing was recorded")?;
        Ok(latency::Report::new(&latencies))
    }
}

fn per_publication(took: Duration, count: u64) -> f64 {
    took.as_secs_f64() * 1e6 / count as f64
}
