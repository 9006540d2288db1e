//! Latency: a fixed rate, and the time from each publication to its arrival at each subscriber.

use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::rig::{Latencies, Rig};
use crate::{Shape, Target};

/// The arguments.
#[derive(clap::Args)]
pub(crate) struct Latency {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    shape: Shape,
    /// Publications a second.
    #[arg(long, default_value_t = 20)]
    rate: u32,
    /// Publications that are measured.
    #[arg(long, default_value_t = 400)]
    count: u64,
    /// Publications before those.
    #[arg(long, default_value_t = 40)]
    warm: u64,
}

/// Milliseconds from publish to receive.
#[derive(Serialize)]
pub(crate) struct Report {
    deliveries: u64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) max_ms: f64,
}

impl Report {
    pub(crate) fn new(latencies: &Latencies) -> Self {
        let histogram = &latencies.histogram;
        let quantile = |q| histogram.value_at_quantile(q) as f64 / 1e3;
        Self {
            deliveries: histogram.len(),
            p50_ms: quantile(0.5),
            p99_ms: quantile(0.99),
            max_ms: histogram.max() as f64 / 1e3,
        }
    }
}

impl Latency {
    pub(crate) fn run(&self) -> Result<Report> {
        self.target.prepare()?;
        let mut rig = Rig::connect(self.shape.options(&self.target, 1))?;
        rig.synchronise()?;
        let interval = Duration::from_secs(1) / self.rate;
        rig.run_paced(self.warm, interval)?;
        rig.latencies = Some(Latencies::new(None)?);
        rig.run_paced(self.count, interval)?;
        Ok(Report::new(rig.latencies.as_ref().context("nothing was recorded")?))
    }
}
