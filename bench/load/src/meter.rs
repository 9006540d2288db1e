//! What a server costs, from outside: CPU time, memory, system calls.

use std::fs;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal};

/// CPU time that all threads of `pids` have used, with the scheduler's nanoseconds.
///
/// The first field of `schedstat` counts user and system time, work that the kernel does for a
/// send in the sender's context included. A thread that has ended is no longer in it: the servers
/// measured here keep theirs.
pub(crate) fn cpu(pids: &[u32]) -> Result<Duration> {
    let mut nanos = 0;
    for pid in pids {
        for task in fs::read_dir(format!("/proc/{pid}/task")).context("the server has gone")? {
            let stat = fs::read_to_string(task?.path().join("schedstat"))?;
            let first = stat.split_whitespace().next().context("schedstat is empty")?;
            nanos += first.parse::<u64>()?;
        }
    }
    Ok(Duration::from_nanos(nanos))
}

/// CPU time of the generator itself.
pub(crate) fn own_cpu() -> Result<Duration> {
    cpu(&[std::process::id()])
}

/// Proportional set size of `pids`, in bytes.
pub(crate) fn memory(pids: &[u32]) -> Result<u64> {
    let mut bytes = 0;
    for pid in pids {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))
            .context("reading the server's memory")?;
        let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
        let line = line.context("smaps_rollup has no Pss")?;
        let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
        bytes += kib * 1024;
    }
    Ok(bytes)
}

/// The most memory that `pids` have ever had resident, in bytes.
pub(crate) fn peak(pids: &[u32]) -> Result<u64> {
    let mut bytes = 0;
    for pid in pids {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let line = line.context("the status has no VmHWM")?;
        let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
        bytes += kib * 1024;
    }
    Ok(bytes)
}

/// Begins another peak: [`peak`] then says the most since here.
pub(crate) fn forget_peak(pids: &[u32]) -> Result<()> {
    for pid in pids {
        fs::write(format!("/proc/{pid}/clear_refs"), "5")?;
    }
    Ok(())
}

/// Open descriptors of `pids`.
pub(crate) fn files(pids: &[u32]) -> Result<usize> {
    pids.iter().map(|pid| Ok(fs::read_dir(format!("/proc/{pid}/fd"))?.count())).sum()
}

/// Counts the system calls of processes that run already.
///
/// `perf stat` counts in the kernel and is told when to begin and end; where it is not to be had,
/// `strace -c -f` counts the same and slows everything down, which changes batches: its figures
/// are marked with the name of the tool.
pub(crate) struct Calls {
    tool: Tool,
    child: Child,
    folder: PathBuf,
}

enum Tool {
    Perf { control: fs::File, answer: fs::File },
    Strace,
}

/// How long an attached tool may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

impl Calls {
    /// Attaches to `pids` and begins to count. The server should be quiet, then and at the end.
    pub(crate) fn start(pids: &[u32]) -> Result<Self> {
        match Self::perf(pids) {
            Ok(calls) => Ok(calls),
            Err(error) => Self::strace(pids).with_context(|| {
                format!(
                    "perf ({error:#}) and strace can't count: apt-get install linux-perf or strace"
                )
            }),
        }
    }

    fn folder() -> Result<PathBuf> {
        let folder = std::env::temp_dir().join(format!("load-calls-{}", std::process::id()));
        fs::create_dir_all(&folder)?;
        Ok(folder)
    }

    fn perf(pids: &[u32]) -> Result<Self> {
        let folder = Self::folder()?;
        let open = |name: &str| -> Result<(PathBuf, fs::File)> {
            let path = folder.join(name);
            let _ = fs::remove_file(&path);
            let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
            rustix::fs::mkfifoat(rustix::fs::CWD, &path, mode)?;
            // Open for both ends, so that neither side waits for the other.
            let file = fs::File::options().read(true).write(true).open(&path)?;
            Ok((path, file))
        };
        let (control_path, control) = open("control")?;
        let (answer_path, answer) = open("answer")?;
        let child = Command::new("perf")
            .args(["stat", "-x,", "-e", "raw_syscalls:sys_enter", "-D", "-1", "--control"])
            .arg(format!("fifo:{},{}", control_path.display(), answer_path.display()))
            .args(["-p", &join(pids), "-o"])
            .arg(folder.join("out"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("starting perf")?;
        let mut calls = Self { tool: Tool::Perf { control, answer }, child, folder };
        calls.tell("enable")?;
        Ok(calls)
    }

    fn strace(pids: &[u32]) -> Result<Self> {
        let folder = Self::folder()?;
        let mut child = Command::new("strace")
            .args(["-c", "-f", "-p", &join(pids), "-o"])
            .arg(folder.join("out"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("starting strace")?;
        // It says "attached" once for each process; the first bytes mean that it can.
        let mut said = [0; 256];
        let told = child.stderr.as_mut().context("strace's messages")?.read(&mut said)?;
        let said = String::from_utf8_lossy(&said[..told]);
        ensure!(said.contains("attached"), "strace says {said:?}");
        Ok(Self { tool: Tool::Strace, child, folder })
    }

    /// Sends perf a command and waits until it has been obeyed.
    fn tell(&mut self, command: &str) -> Result<()> {
        let Tool::Perf { control, answer } = &mut self.tool else { return Ok(()) };
        control.write_all(format!("{command}\n").as_bytes())?;
        let until = Instant::now() + PATIENCE;
        let mut polled = [rustix::event::PollFd::new(answer, rustix::event::PollFlags::IN)];
        let tick = rustix::time::Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
        while rustix::event::poll(&mut polled, Some(&tick))? == 0 {
            if let Some(status) = self.child.try_wait()? {
                bail!("perf ended: {status}");
            }
            ensure!(Instant::now() < until, "perf does not answer");
        }
        let mut said = [0; 64];
        let _ = answer.read(&mut said)?;
        Ok(())
    }

    /// Stops counting: the calls since `start`, and the tool that counted them.
    pub(crate) fn stop(mut self) -> Result<(u64, &'static str)> {
        self.tell("disable")?;
        let pid = Pid::from_child(&self.child);
        rustix::process::kill_process(pid, Signal::INT)?;
        self.child.wait()?;
        let out = fs::read_to_string(self.folder.join("out")).context("the count")?;
        let (count, tool) = match self.tool {
            Tool::Perf { .. } => (
                out.lines()
                    .find(|line| line.contains("raw_syscalls:sys_enter"))
                    .and_then(|line| line.split(',').next()?.parse().ok()),
                "perf",
            ),
            Tool::Strace => (
                out.lines()
                    .find(|line| line.trim_end().ends_with(" total"))
                    .and_then(|line| line.split_whitespace().nth(3)?.parse().ok()),
                "strace",
            ),
        };
        let count = count.with_context(|| format!("no count in {out:?}"))?;
        fs::remove_dir_all(&self.folder)?;
        Ok((count, tool))
    }
}

impl Drop for Calls {
    fn drop(&mut self) {
        // Only after an error: `stop` has waited for the child already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn join(pids: &[u32]) -> String {
    pids.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}
