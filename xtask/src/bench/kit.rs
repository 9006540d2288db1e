//! What the benchmarks need, built or found: the load generator, the peers, the gateway. What has
//! to be installed by hand is named with the command that does it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};

use super::peer::Kind;
use super::{Options, Scenario};
use crate::{gateway, process, workspace};

/// Where everything is.
#[derive(Debug)]
pub(crate) struct Kit {
    /// The folder of built things, in cargo's target folder.
    pub(crate) folder: PathBuf,
    pub(crate) load: PathBuf,
    /// The gateway's binary.
    pub(crate) server: PathBuf,
    /// Peers that were left out by the command line.
    pub(crate) left_out: Vec<Kind>,
    /// The command that was given, for the record.
    pub(crate) command: String,
}

/// nchan, where Debian puts it; `bench/peers/nchan/nginx.conf` names it too.
const NCHAN: &str = "/usr/lib/nginx/modules/ngx_nchan_module.so";

impl Kit {
    /// Builds what the scenarios of `options` need.
    pub(crate) fn build(options: &Options) -> anyhow::Result<Kit> {
        let folder = folder();
        fs::create_dir_all(&folder)?;
        let filter = |kind: &Kind| {
            kind.peer_name().is_some_and(|name| {
                !options.peers.is_empty() && !options.peers.iter().any(|it| it == name)
            })
        };
        let kit = Kit {
            load: folder.join("release/load"),
            server: match &options.server {
                Some(path) => fs::canonicalize(path).context("the server's binary")?,
                None => workspace::target().join("release/tidegate"),
            },
            left_out: Kind::ALL.iter().copied().filter(filter).collect(),
            command: command(options),
            folder,
        };
        let mut needed: Vec<Kind> = Vec::new();
        for scenario in &options.scenarios {
            for group in scenario.groups(options.is_quick) {
                needed.extend(group.baseline.iter().chain(&group.jobs).map(|job| job.server));
            }
        }
        needed.retain(|kind| !kit.left_out.contains(kind));
        ensure_tool("taskset", "util-linux")?;
        kit.build_rust(options, &needed)?;
        for (kind, name) in [(Kind::RawWriter, "raw_writer"), (Kind::RawEcho, "raw_echo")] {
            if needed.contains(&kind) {
                kit.build_raw(name)?;
            }
        }
        if needed.contains(&Kind::Nchan) {
            ensure!(
                Path::new(NCHAN).exists(),
                "nchan is missing: apt-get install nginx-light libnginx-mod-nchan, \
                 or leave it out with --peers"
            );
        }
        if needed.contains(&Kind::SocketIo) {
            kit.install_socket_io()?;
        }
        if options.server.is_none() && needed.iter().any(|kind| kind.is_ours()) {
            gateway::build()?;
        }
        Ok(kit)
    }

    fn build_rust(&self, options: &Options, needed: &[Kind]) -> anyhow::Result<()> {
        let mut packages = vec!["load"];
        if needed.contains(&Kind::Tungstenite) {
            packages.push("tungstenite-peer");
        }
        if needed.contains(&Kind::WireEcho) {
            packages.push("wire-echo");
        }
        if options.scenarios.contains(&Scenario::Codec) {
            packages.push("codec");
        }
        cargo_build(&self.folder, &packages)
    }

    fn build_raw(&self, name: &str) -> anyhow::Result<()> {
        ensure_tool("cc", "gcc")?;
        let source = workspace::root().join("bench/peers/raw").join(format!("{name}.c"));
        let mut command = Command::new("cc");
        command.args(["-O2", "-Wall", "-Wextra", "-o"]).arg(self.folder.join(name)).arg(source);
        process::run(&mut command)
    }

    /// Installs Socket.IO as its lock file says, unless that has been done.
    fn install_socket_io(&self) -> anyhow::Result<()> {
        ensure_tool("node", "nodejs")?;
        let (from, to) = (workspace::root().join("bench/peers/socketio"), self.socket_io());
        fs::create_dir_all(&to)?;
        let lock = fs::read(from.join("package-lock.json"))?;
        let is_installed = to.join("node_modules/.package-lock.json").exists()
            && fs::read(to.join("package-lock.json")).is_ok_and(|it| it == lock);
        for name in ["package.json", "package-lock.json", ".npmrc", "server.js"] {
            fs::copy(from.join(name), to.join(name)).with_context(|| format!("copying {name}"))?;
        }
        if !is_installed {
            ensure_tool("npm", "npm")?;
            process::run_quietly(Command::new("npm").arg("ci").current_dir(to))?;
        }
        Ok(())
    }

    /// The folder with Socket.IO's server in it.
    pub(crate) fn socket_io(&self) -> PathBuf {
        self.folder.join("socketio")
    }

    /// Where results go.
    pub(crate) fn results(&self, options: &Options) -> PathBuf {
        if options.is_full() {
            workspace::root().join("bench/results")
        } else {
            self.folder.join("results")
        }
    }
}

/// Where built things are.
pub(crate) fn folder() -> PathBuf {
    workspace::target().join("bench")
}

/// Builds packages of `bench/`.
pub(crate) fn cargo_build(folder: &Path, packages: &[&str]) -> anyhow::Result<()> {
    let mut command = workspace::cargo(&["build", "--quiet", "--release", "--locked"]);
    command.args(["--manifest-path", "bench/Cargo.toml", "--target-dir"]).arg(folder);
    for package in packages {
        command.args(["-p", package]);
    }
    process::run(&mut command)
}

fn ensure_tool(name: &str, package: &str) -> anyhow::Result<()> {
    let found = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|it| it.join(name).is_file()));
    ensure!(found, "`{name}` is missing: apt-get install {package}");
    Ok(())
}

fn command(options: &Options) -> String {
    let mut words = vec!["cargo xtask bench".to_owned()];
    if options.scenarios.len() < Scenario::ALL.len() {
        words.extend(options.scenarios.iter().map(|it| it.name().to_owned()));
    }
    if options.server.is_some() {
        words.push("--server …".to_owned());
    }
    if options.is_quick {
        words.push("--quick".to_owned());
    }
    if let Some(rounds) = options.rounds {
        words.push(format!("--rounds {rounds}"));
    }
    if !options.peers.is_empty() {
        words.push(format!("--peers {}", options.peers.join(",")));
    }
    words.join(" ")
}
