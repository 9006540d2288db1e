//! Idle: what a connection with one subscription costs in memory, and what a burst leaves behind.

use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use crate::meter;
use crate::rig::Rig;
use crate::{Shape, Target};

/// The arguments.
#[derive(clap::Args)]
pub(crate) struct Idle {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    shape: Shape,
    /// Messages of the burst.
    #[arg(long, default_value_t = 200)]
    burst: u64,
    /// Bytes of each of them.
    #[arg(long, default_value_t = 1024)]
    burst_bytes: usize,
    /// Seconds after the last connection before memory is read.
    #[arg(long, default_value_t = 5)]
    settle: u64,
    /// Seconds after the burst before memory is read again.
    #[arg(long, default_value_t = 15)]
    after: u64,
}

/// Proportional set sizes of the server, in bytes.
#[derive(Serialize)]
pub(crate) struct Report {
    connections: usize,
    /// Before the first connection.
    empty: u64,
    /// With all of them, quiet.
    idle: u64,
    /// When the last message of the burst has arrived everywhere.
    burst: Option<u64>,
    burst_seconds: Option<f64>,
    /// A while later.
    after: Option<u64>,
    /// `idle` above `empty`, per connection.
    per_connection: f64,
    /// `after` against `idle`.
    after_ratio: Option<f64>,
}

impl Idle {
    pub(crate) fn run(&self) -> Result<Report> {
        self.target.prepare()?;
        let pids = &self.target.pids;
        let empty = meter::memory(pids)?;
        let mut rig = Rig::connect(self.shape.options(&self.target, 1))?;
        rig.idle(Duration::from_secs(self.settle))?;
        let idle = meter::memory(pids)?;
        let connections = self.shape.subscribers;
        let mut report = Report {
            connections,
            empty,
            idle,
            burst: None,
            burst_seconds: None,
            after: None,
            per_connection: idle.saturating_sub(empty) as f64 / connections as f64,
            after_ratio: None,
        };
        if self.burst > 0 {
            rig.synchronise()?;
            let took = rig.burst(self.burst, self.burst_bytes)?;
            report.burst = Some(meter::memory(pids)?);
            report.burst_seconds = Some(took.as_secs_f64());
            rig.idle(Duration::from_secs(self.after))?;
            let after = meter::memory(pids)?;
            report.after = Some(after);
            report.after_ratio = Some(after as f64 / idle as f64);
        }
        Ok(report)
    }
}
