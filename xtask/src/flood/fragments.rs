//! Floods of fragments of one byte: messages that never end, until `websocket.max_fragments` is
//! passed and the peer is told 1009. It comes back at once.
//!
//! Memory: a message so far, 20,000 bytes at most (131,072 by default) for each of 40 peers, and what
//! the allocator gives back a second later, 10 times as much at the worst, for they come back many
//! times a second. 12 MiB.

use std::time::Duration;

use super::peer::{Dial, Peer, Peers, Visit};
use super::stage::{Stage, Told};
use super::{Flood, Place};

pub(super) const FLOOD: Flood = Flood {
    name: "fragments",
    title: "40 WebSockets that send messages in fragments of one byte",
    config: "[websocket]\nmax_fragments = 20_000\n",
    memory_mib: 12,
    place: Place::Loopback,
    run,
};

const PEERS: usize = 40;

/// When none of them can send.
const ROUND: Duration = Duration::from_millis(1);

/// A text message that does not end: its first frame, then one byte in each.
const FIRST: &[u8] = b"\x01\x81\x00\x00\x00\x00x";
const NEXT: &[u8] = b"\x00\x81\x00\x00\x00\x00x";

/// What its peers must be told.
const MUST: &[&str] = &["fragments", "1009"];

fn run(stage: &Stage) -> anyhow::Result<Told> {
    let burst = NEXT.repeat(8000);
    let open = |index| {
        let target = format!("/channels/fragments.{}.{index}", stage.number);
        let mut peer = Peer::upgrade(stage.address, Dial::default(), &target, &[])?;
        peer.send(FIRST);
        Ok(peer)
    };
    let visit = |_, peer: &mut Peer, told: &mut Told| {
        let is_busy = peer.send(&burst);
        if is_busy {
            told.add_many("fragments", 8000);
        }
        if let Some(farewell) = peer.farewell()? {
            told.add(farewell);
            return Ok(Visit::Over);
        }
        Ok(if is_busy { Visit::Busy } else { Visit::Idle })
    };
    let peers = Peers { count: PEERS, round: ROUND, must: MUST };
    let (told, _) = peers.keep(stage, open, visit)?;
    told.expect(MUST, &[])?;
    Ok(told)
}
