//! Two network namespaces with a wire between them, so that a peer can be cut without a word: no
//! FIN, no reset, no answer. The machine's own network is left alone.

use std::fs::File;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;

use anyhow::Context as _;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::{process, tools};

/// The server's end and the peers' end; both are removed when the last of these is dropped.
#[derive(Clone)]
pub(super) struct Namespaces(Arc<Names>);

struct Names {
    server: String,
    peers: String,
}

/// Where the server listens, beside its own loopback: nothing else is in its namespace.
pub(super) const ADDRESS: &str = "10.99.0.1:8080";

impl Namespaces {
    /// Makes them; an error says why that can't be.
    pub(super) fn make() -> anyhow::Result<Namespaces> {
        tools::ip()?;
        let id = std::process::id();
        let names = Names { server: format!("tidegate-s{id}"), peers: format!("tidegate-p{id}") };
        let (server, peers) = (names.server.clone(), names.peers.clone());
        ip(&["netns", "add", &server])?;
        // From here on they are removed whatever happens.
        let it = Namespaces(Arc::new(names));
        ip(&["netns", "add", &peers])?;
        let (near, far) = (format!("tgs{id}"), format!("tgp{id}"));
        ip(&["-n", &server, "link", "add", &near, "type", "veth", "peer", "name", &far])?;
        ip(&["-n", &server, "link", "set", &far, "netns", &peers])?;
        for (namespace, link, address) in
            [(&server, &near, "10.99.0.1/24"), (&peers, &far, "10.99.0.2/24")]
        {
            ip(&["-n", namespace, "address", "add", address, "dev", link])?;
            ip(&["-n", namespace, "link", "set", link, "up"])?;
            ip(&["-n", namespace, "link", "set", "lo", "up"])?;
        }
        Ok(it)
    }

    /// `program`, to be run where the server is.
    pub(super) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0.server, program]);
        command
    }

    /// Moves this thread to where the peers are.
    pub(super) fn enter(&self) -> anyhow::Result<()> {
        let file = File::open(format!("/var/run/netns/{}", self.0.peers))?;
        let network = Some(LinkNameSpaceType::Network);
        Ok(move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), network)?)
    }

    /// Takes the peers' side of the wire down, or up again.
    pub(super) fn cut(&self, is_cut: bool) -> anyhow::Result<()> {
        let link = format!("tgp{}", std::process::id());
        ip(&["-n", &self.0.peers, "link", "set", &link, if is_cut { "down" } else { "up" }])
    }

    pub(super) fn address(&self) -> anyhow::Result<SocketAddr> {
        ADDRESS.parse().context("an address")
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        for name in [&self.peers, &self.server] {
            // It may not have been made.
            let _ = Command::new("ip").args(["netns", "del", name]).output();
        }
    }
}

fn ip(args: &[&str]) -> anyhow::Result<()> {
    process::run_quietly(Command::new("ip").args(args))
}
