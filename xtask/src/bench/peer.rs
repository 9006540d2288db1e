//! The servers that are measured: how each is started on given cores, and ended with everything it
//! started.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use super::kit::Kit;
use crate::{process, workspace};

/// A server, and the way it is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The gateway on its defaults, one worker.
    Tidegate,
    /// The same with two workers, which have both cores.
    TwoWorkers,
    /// One worker that waits ten minutes for a sign of life, so that readers that never read, and
    /// so never answer a ping, stay.
    Patient,
    RawWriter,
    RawEcho,
    Nchan,
    SocketIo,
    Tungstenite,
    /// An echo on our codec and nothing else of ours.
    WireEcho,
}

/// How long a server may take to listen.
const PATIENCE: Duration = Duration::from_secs(20);

impl Kind {
    pub(crate) const ALL: [Kind; 9] = [
        Kind::Tidegate,
        Kind::TwoWorkers,
        Kind::Patient,
        Kind::RawWriter,
        Kind::RawEcho,
        Kind::Nchan,
        Kind::SocketIo,
        Kind::Tungstenite,
        Kind::WireEcho,
    ];

    /// Whether it is the gateway.
    pub(crate) fn is_ours(self) -> bool {
        matches!(self, Kind::Tidegate | Kind::TwoWorkers | Kind::Patient)
    }

    /// What `--peers` calls it; the gateway and the baselines are always there.
    pub(crate) fn peer_name(self) -> Option<&'static str> {
        match self {
            Kind::Nchan => Some("nchan"),
            Kind::SocketIo => Some("socket.io"),
            Kind::Tungstenite => Some("tungstenite"),
            _ => None,
        }
    }

    /// The load generator's name for its dialect.
    pub(crate) fn dialect(self) -> &'static str {
        match self {
            Kind::Tidegate | Kind::TwoWorkers | Kind::Patient => "tidegate",
            Kind::RawWriter | Kind::RawEcho => "raw",
            Kind::Nchan => "nchan",
            Kind::SocketIo => "socket-io",
            Kind::Tungstenite | Kind::WireEcho => "tungstenite",
        }
    }

    /// The cores that it may run on; the load generator has core 1.
    fn cores(self) -> &'static str {
        if self == Kind::TwoWorkers { "0,1" } else { "0" }
    }
}

/// A server that runs; it is ended when this is dropped.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    pub(crate) address: SocketAddr,
    /// The processes that do the work.
    pub(crate) pids: Vec<u32>,
}

impl Running {
    /// Starts `kind` and waits until it listens.
    pub(crate) fn start(kind: Kind, kit: &Kit) -> anyhow::Result<Running> {
        let run = kit.folder.join("run");
        fs::create_dir_all(&run)?;
        let log = run.join(format!("{kind:?}.log").to_lowercase());
        let mut command = Command::new("taskset");
        command.args(["-c", kind.cores()]);
        let mut port = None;
        match kind {
            Kind::Tidegate | Kind::TwoWorkers | Kind::Patient => {
                gateway(kind, &mut command, kit, &run)?;
            }
            Kind::RawWriter => {
                command.arg(kit.folder.join("raw_writer"));
            }
            Kind::RawEcho => {
                command.arg(kit.folder.join("raw_echo"));
            }
            Kind::Tungstenite => {
                command.arg(kit.folder.join("release/tungstenite-peer"));
            }
            Kind::WireEcho => {
                command.arg(kit.folder.join("release/wire-echo"));
            }
            Kind::SocketIo => {
                command.args(["node", "server.js"]).current_dir(kit.socket_io());
            }
            Kind::Nchan => port = Some(nchan(&mut command, &run)?),
        }
        let output = File::create(&log)?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        command.env("RUST_BACKTRACE", "0");
        let name = process::describe(&command);
        let child = command.spawn().with_context(|| format!("starting `{name}`"))?;
        let address = SocketAddr::from(([127, 0, 0, 1], port.unwrap_or(0)));
        let mut running = Running { child, address, pids: Vec::new() };
        let until = Instant::now() + PATIENCE;
        while !running.is_up(kind, &log)? {
            let said = || fs::read_to_string(&log).unwrap_or_default();
            if let Some(status) = running.child.try_wait()? {
                bail!("`{name}` ended: {status}; it said:\n{}", said());
            }
            if Instant::now() > until {
                bail!("`{name}` does not listen; it said:\n{}", said());
            }
            // There is nothing to wait on but its log; this only delays what follows.
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(running)
    }

    /// Whether it listens by now; fills in the address and the processes.
    fn is_up(&mut self, kind: Kind, log: &Path) -> anyhow::Result<bool> {
        let pid = self.child.id();
        if kind == Kind::Nchan {
            // nginx says nothing: its master listens, its one worker does the work.
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
            self.pids = children
                .unwrap_or_default()
                .split_whitespace()
                .filter_map(|it| it.parse().ok())
                .collect();
            return Ok(!self.pids.is_empty() && TcpStream::connect(self.address).is_ok());
        }
        let said = fs::read_to_string(log)?;
        let lines = said.lines().filter_map(|line| line.split_once("listening on http://"));
        let Some(address) = lines.filter_map(|(_, it)| it.trim().parse().ok()).next() else {
            return Ok(false);
        };
        self.address = address;
        self.pids = vec![pid];
        Ok(true)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already; nothing can be done about any other failure.
        let _ = process::kill_tree(&mut self.child);
    }
}

fn gateway(kind: Kind, command: &mut Command, kit: &Kit, run: &Path) -> anyhow::Result<()> {
    let workers = if kind == Kind::TwoWorkers { "2" } else { "1" };
    command.arg(&kit.server).args(["serve", "--dev", "--workers", workers]);
    command.args(["--listen", "127.0.0.1:0", "--admin", "off"]);
    if kind == Kind::Patient {
        let file = run.join("patient.toml");
        fs::write(&file, "[websocket]\nping_interval = \"10m\"\n")?;
        command.arg("--config").arg(file);
    }
    Ok(())
}

/// Fills in nginx's configuration; the port that it will listen on.
fn nchan(command: &mut Command, run: &Path) -> anyhow::Result<u16> {
    let prefix = run.join("nchan");
    fs::create_dir_all(&prefix)?;
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let template = workspace::root().join("bench/peers/nchan/nginx.conf");
    let text = fs::read_to_string(template)?.replace("@PORT@", &port.to_string());
    fs::write(prefix.join("nginx.conf"), text)?;
    command.args(["nginx", "-e", "stderr", "-c", "nginx.conf", "-p"]).arg(prefix);
    Ok(port)
}
