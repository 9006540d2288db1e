//! The gateway as a process, for every test that starts one.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

/// Starts the gateway, and waits until it listens. Whoever has the rest of what it says has to read
/// it, or the gateway would wait for that.
pub(crate) fn listening(
    command: &mut Command,
) -> (Child, SocketAddr, impl Iterator<Item = String> + Send + use<>) {
    let mut child = command.env_clear().stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    let mut before = String::new();
    let address = lines.find_map(|line| {
        before += &line;
        Some(line.split_once("listening on http://")?.1.trim().parse().unwrap())
    });
    let address = address.unwrap_or_else(|| panic!("it never listened: {before}"));
    (child, address, lines)
}
