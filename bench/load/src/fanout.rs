//! Fan-out: W publications in flight to N subscribers, the next one when one has reached them all.

use anyhow::Result;
use serde::Serialize;

use crate::meter::{self, Calls};
use crate::publisher::Writes;
use crate::rig::Rig;
use crate::{Shape, Target};

/// The arguments.
#[derive(clap::Args)]
pub(crate) struct Fanout {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    shape: Shape,
    /// Publications in flight.
    #[arg(long, default_value_t = 1)]
    width: usize,
    /// How publications that become due together are handed in.
    #[arg(long, default_value = "joined")]
    writes: Writes,
    /// Publications that are measured.
    #[arg(long, default_value_t = 1000)]
    count: u64,
    /// Publications before those.
    #[arg(long, default_value_t = 200)]
    warm: u64,
    /// Publications of a second pass in which system calls are counted; 0 leaves it out.
    #[arg(long, default_value_t = 0)]
    calls: u64,
}

/// What it cost.
#[derive(Serialize)]
pub(crate) struct Report {
    deliveries: u64,
    seconds: f64,
    /// The server's CPU time per delivery, in microseconds; also CPU seconds per million.
    cpu_us: f64,
    /// The generator's.
    generator_cpu_us: f64,
    /// The server's system calls per delivery.
    calls: Option<f64>,
    calls_by: Option<&'static str>,
}

impl Fanout {
    pub(crate) fn run(&self) -> Result<Report> {
        self.target.prepare()?;
        let pids = &self.target.pids;
        let mut rig = Rig::connect(self.shape.options(&self.target, self.width))?;
        rig.set_writes(self.writes);
        rig.synchronise()?;
        rig.run_closed(self.warm)?;

        let (server, own) = (meter::cpu(pids)?, meter::own_cpu()?);
        let took = rig.run_closed(self.count)?;
        let (server, own) = (meter::cpu(pids)? - server, meter::own_cpu()? - own);

        let deliveries = self.count * self.shape.subscribers as u64;
        let mut report = Report {
            deliveries,
            seconds: took.as_secs_f64(),
            cpu_us: server.as_secs_f64() * 1e6 / deliveries as f64,
            generator_cpu_us: own.as_secs_f64() * 1e6 / deliveries as f64,
            calls: None,
            calls_by: None,
        };
        if self.calls > 0 {
            let counter = Calls::start(pids)?;
            rig.run_closed(self.calls)?;
            let (count, tool) = counter.stop()?;
            let deliveries = self.calls * self.shape.subscribers as u64;
            report.calls = Some(count as f64 / deliveries as f64);
            report.calls_by = Some(tool);
        }
        Ok(report)
    }
}
