//! The load generator: connects to a server that runs already, loads it in one of six ways, checks
//! every byte that comes back, measures what the server spent, and prints one JSON object.
//!
//! One thread on epoll, pinned to `--core`. `bench/README.md` says what each mode measures; `cargo
//! xtask bench` starts the servers and runs it.

mod crowd;
mod echo;
mod fanout;
mod frame;
mod http;
mod idle;
mod latency;
mod message;
mod meter;
mod net;
mod peer;
mod publisher;
mod rig;
mod slow;
mod wire;

use std::net::SocketAddr;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::peer::{Peer, Publishing};
use crate::rig::Options;
use crate::wire::Wire;

/// Loads a server and says what it cost.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    mode: Mode,
}

#[derive(Subcommand)]
enum Mode {
    /// Publications to many subscribers in a closed loop: CPU and system calls per delivery.
    Fanout(fanout::Fanout),
    /// Clients that get back what they send: CPU and system calls per message.
    Echo(echo::Echo),
    /// Connections that do nothing: memory, before and after a burst.
    Idle(idle::Idle),
    /// A fixed rate: publish-to-receive times.
    Latency(latency::Latency),
    /// Readers that never read, and one that does.
    Slow(slow::Slow),
    /// Good clients on mixed wires at a fixed rate, until told to end: what floods are beside.
    Crowd(crowd::Crowd),
}

/// Which server, and where.
#[derive(Args, Clone)]
struct Target {
    /// The server's dialect.
    #[arg(long)]
    peer: Peer,
    /// Its address.
    #[arg(long)]
    address: SocketAddr,
    /// Its processes, separated by commas.
    #[arg(long, value_delimiter = ',', required = true)]
    pids: Vec<u32>,
    /// The core that the generator runs on.
    #[arg(long)]
    core: Option<usize>,
}

/// Who subscribes, and how publications come in.
#[derive(Args, Clone)]
struct Shape {
    /// How the subscribers listen.
    #[arg(long, default_value = "ws")]
    wire: Wire,
    /// How publications are handed in.
    #[arg(long, default_value = "ws")]
    publishing: Publishing,
    /// How many subscribers.
    #[arg(long, default_value_t = 1000)]
    subscribers: usize,
    /// Bytes of a message.
    #[arg(long, default_value_t = 100)]
    bytes: usize,
}

impl Shape {
    fn options(&self, target: &Target, width: usize) -> Options {
        Options {
            peer: target.peer,
            address: target.address,
            wire: self.wire,
            publishing: self.publishing,
            subscribers: self.subscribers,
            bytes: self.bytes,
            width,
        }
    }
}

impl Target {
    /// Pins this thread, and allows it as many sockets as the system does.
    fn prepare(&self) -> Result<()> {
        if let Some(core) = self.core {
            let mut set = CpuSet::new();
            set.set(core);
            sched_setaffinity(None, &set).with_context(|| format!("running on core {core}"))?;
        }
        let files = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: files.maximum, maximum: files.maximum })?;
        Ok(())
    }
}

fn main() -> Result<()> {
    let result = match Cli::parse().mode {
        Mode::Fanout(it) => serde_json::to_string(&it.run()?)?,
        Mode::Echo(it) => serde_json::to_string(&it.run()?)?,
        Mode::Idle(it) => serde_json::to_string(&it.run()?)?,
        Mode::Latency(it) => serde_json::to_string(&it.run()?)?,
        Mode::Slow(it) => serde_json::to_string(&it.run()?)?,
        Mode::Crowd(it) => serde_json::to_string(&it.run()?)?,
    };
    println!("{result}");
    Ok(())
}
