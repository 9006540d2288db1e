//! Slow heads: connections that send a request's head byte by byte and never finish it, and some
//! that send nothing at all. Whoever has begun is told 408 after `http.header_timeout`, whoever has
//! not is closed without a word, and each comes back at once.
//!
//! Memory: a connection in the middle of its first head costs 4 KiB of state and what has come of the
//! head; hyper is given it when it is whole. What was freed a second ago comes on top, for all are
//! refused and come back together. 8 KiB for each of 4,000: 32 MiB.

use std::time::{Duration, Instant};

use super::peer::{Dial, End, Peer};
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
    let mut told = Told::default();
    let count = stage.size(CONNECTIONS);
    let mut peers: Vec<Option<Peer>> = std::iter::repeat_with(|| None).take(count).collect();
    while !stage.is_over(&told, MUST) {
        let begun = Instant::now();
        for (index, slot) in peers.iter_mut().enumerate() {
            // One in ten says nothing at all.
            let is_silent = index % 10 == 0;
            let Some(peer) = slot else {
                let mut peer = Peer::dial(stage.address, Dial::default())?;
                if !is_silent {
                    peer.send(HEAD);
                }
                *slot = Some(peer);
                continue;
            };
            match (peer.read(1024), peer.status()) {
                (None, None) => {
                    if !is_silent {
                        peer.send(b"x");
                    }
                }
                (_, Some(status)) => {
                    told.add(status);
                    *slot = None;
                }
                (Some(End::Closed), None) if is_silent => {
                    told.add("silent: closed");
                    *slot = None;
                }
                (Some(end), None) => {
                    told.add(format!("{end:?} without an answer"));
                    *slot = None;
                }
            }
            if index % 64 == 0 && stage.is_over(&told, MUST) {
                break;
            }
        }
        stage.pause(STEP.saturating_sub(begun.elapsed()));
    }
    told.expect(MUST, &[])?;
    Ok(told)
}
