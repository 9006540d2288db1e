//! Slow bodies: publications whose announced megabyte comes a byte at a time, or stops. Whoever stops
//! is told 408 after `http.body_timeout`; whoever goes on is within his rights, and must cost no more
//! than what he has sent: nothing is reserved for what a peer merely announces.
//!
//! Memory: hyper's buffers of 24 KiB, 4 KiB of state with the body's reader, and as many bytes as
//! came. 1,000 of them: 28 MiB. What the allocator notes of each piece that it has had, some 2 % of
//! the most that it ever gave, it keeps.

use std::time::Duration;

use super::peer::{Dial, Peer, Peers, Visit};
use super::stage::{Stage, Told};
use super::{Flood, Place};

pub(super) const FLOOD: Flood = Flood {
    name: "slow-bodies",
    title: "1,000 bodies of 1 MB at 4 bytes a second, half of which stop",
    config: "[http]\nbody_timeout = \"2s\"\n",
    memory_mib: 28,
    place: Place::Loopback,
    run,
};

const CONNECTIONS: usize = 1000;

const STEP: Duration = Duration::from_millis(250);

const HEAD: &[u8] =
    b"POST /channels/slow HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000000\r\n\r\nbegun";

/// What its peers must be told.
const MUST: &[&str] = &["408"];

fn run(stage: &Stage) -> anyhow::Result<Told> {
    let stops = |index: usize| index.is_multiple_of(2);
    let open = |_| {
        let mut peer = Peer::dial(stage.address, Dial::default())?;
        peer.send(HEAD);
        Ok(peer)
    };
    let visit = |index, peer: &mut Peer, told: &mut Told| {
        let end = peer.read(4096);
        told.add(match peer.status() {
            Some(status) if stops(index) => status,
            Some(status) => format!("going on: {status}"),
            None if end.is_some() => "closed without an answer".to_owned(),
            None => {
                if !stops(index) {
                    peer.send(b"x");
                }
                return Ok(Visit::Idle);
            }
        });
        Ok(Visit::Over)
    };
    let peers = Peers { count: stage.size(CONNECTIONS), round: STEP, must: MUST };
    let (mut told, peers) = peers.keep(stage, open, visit)?;
    let held = peers.iter().skip(1).step_by(2).flatten().count();
    told.add_many("going on: held", u64::try_from(held)?);
    told.expect(&["408", "going on: held"], &[])?;
    Ok(told)
}
