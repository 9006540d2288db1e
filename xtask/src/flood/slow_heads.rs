//! Slow heads: connections that send a request's head byte by byte and never finish it, and some
//! that send nothing at all. Whoever has begun is told 408 after `http.header_timeout`, whoever has
//! not is closed without a word, and each comes back at once.
//!
//! Memory: a connection in the middle of its first head costs 4 KiB of state and what has come of the
//! head; hyper is given it when it is whole. What was freed a second ago comes on top, for all are
//! refused and come back together. 8 KiB for each of 4,000: 32 MiB.

use std::time::Duration;

use super::peer::{Dial, End, Peer, Peers, Visit};
use super::stage::{Stage, Told};
use super::{Flood, Place};

pub(super) const FLOOD: Flood = Flood {
    name: "slow-heads",
    title: "4,000 connections, heads at 4 bytes a second",
    config: "[http]\nheader_timeout = \"2s\"\n",
    memory_mib: 32,
    place: Place::Loopback,
    run,
};

const CONNECTIONS: usize = 4000;

/// Between two bytes of a connection.
const STEP: Duration = Duration::from_millis(250);

/// What is sent a byte at a time after the first line: a head that has no end.
const HEAD: &[u8] = b"GET /channels/bench HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ";

/// What its peers must be told.
const MUST: &[&str] = &["408", "silent: closed"];

fn run(stage: &Stage) -> anyhow::Result<Told> {
    // One in ten says nothing at all.
    let is_silent = |index: usize| index.is_multiple_of(10);
    let open = |index| {
        let mut peer = Peer::dial(stage.address, Dial::default())?;
        if !is_silent(index) {
            peer.send(HEAD);
        }
        Ok(peer)
    };
    let visit = |index, peer: &mut Peer, told: &mut Told| {
        told.add(match (peer.read(1024), peer.status()) {
            (None, None) => {
                if !is_silent(index) {
                    peer.send(b"x");
                }
                return Ok(Visit::Idle);
            }
            (_, Some(status)) => status,
            (Some(End::Closed), None) if is_silent(index) => "silent: closed".to_owned(),
            (Some(end), None) => format!("{end:?} without an answer"),
        });
        Ok(Visit::Over)
    };
    let peers = Peers { count: stage.size(CONNECTIONS), round: STEP, must: MUST };
    let (told, _) = peers.keep(stage, open, visit)?;
    told.expect(MUST, &[])?;
    Ok(told)
}
