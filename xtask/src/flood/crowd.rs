//! The good clients: 1,000 of them on mixed wires, in a process of their own (`load crowd`), which
//! says of each stretch of time what they saw and what the server used.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::Context as _;
use serde::Deserialize;

/// What is seen beside a flood: subscribers on WebSocket, SSE, NDJSON and long-polls.
pub(crate) const CLIENTS: [(&str, usize); 4] =
    [("--subscribers", 400), ("--sse", 290), ("--ndjson", 290), ("--long-poll", 20)];

/// Publications a second.
pub(crate) const RATE: usize = 20;

/// What the channel of the good clients keeps: so little that it is full before anything is
/// measured, for a log that grows is no leak.
pub(crate) const LOG: usize = 200;

/// The generator; it ends when this is dropped.
pub(crate) struct Crowd {
    child: Child,
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

/// A stretch of time.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Window {
    pub(crate) deliveries: u64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) max_ms: f64,
    /// The server's proportional set size, in bytes, at the end of it.
    pub(crate) memory: u64,
    /// The most that it had resident.
    pub(crate) peak: u64,
    /// Its open descriptors.
    pub(crate) files: usize,
    pub(crate) server_cores: f64,
}

impl Window {
    /// The proportional set size, in MiB.
    pub(crate) fn memory_mib(&self) -> f64 {
        mib(self.memory)
    }

    /// The most that was resident, in MiB.
    pub(crate) fn peak_mib(&self) -> f64 {
        mib(self.peak)
    }
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

impl Crowd {
    /// Connects everyone; `command` runs the generator where it is to be.
    pub(crate) fn start(
        mut command: Command,
        address: &str,
        pid: u32,
        clients: &[(&str, usize)],
    ) -> anyhow::Result<Crowd> {
        command.args(["crowd", "--peer", "tidegate", "--address", address]);
        command.args(["--pids", &pid.to_string(), "--rate", &RATE.to_string()]);
        command.args(["--fill", &LOG.to_string()]);
        for (flag, count) in clients {
            command.arg(flag).arg(count.to_string());
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("starting the good clients")?;
        let answers = BufReader::new(child.stdout.take().context("its output is piped")?);
        let commands = child.stdin.take();
        let mut crowd = Crowd { child, commands, answers };
        let said = crowd.line()?;
        anyhow::ensure!(said == "\"ready\"\n", "the good clients say {said:?}");
        Ok(crowd)
    }

    /// What was seen since the last time.
    ///
    /// # Errors
    ///
    /// Something was lost, doubled, changed, or cut: the clients have said what.
    pub(crate) fn window(&mut self) -> anyhow::Result<Window> {
        let commands = self.commands.as_mut().context("it has not been ended")?;
        commands.write_all(b"window\n").context("a good client did not fare well")?;
        let line = self.line()?;
        serde_json::from_str(&line).with_context(|| format!("the good clients say {line:?}"))
    }

    /// Waits until each of them has every publication.
    pub(crate) fn end(mut self) -> anyhow::Result<()> {
        drop(self.commands.take());
        self.line()?;
        let status = self.child.wait()?;
        anyhow::ensure!(status.success(), "a good client did not fare well");
        Ok(())
    }

    fn line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        let count = self.answers.read_line(&mut line)?;
        anyhow::ensure!(count > 0, "a good client did not fare well: what is said above");
        Ok(line)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
