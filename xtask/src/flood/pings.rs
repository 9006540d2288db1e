//! Floods of pings: WebSockets that ping as fast as the server reads, most of them without ever
//! reading a pong. The newest ping is answered (RFC 6455 §5.5.3); nobody is closed.
//!
//! Memory: at most 4 KiB of pongs wait for a connection, and one ping. 40 of them: 8 MiB, most of
//! which is slack for the allocator.

use std::time::{Duration, Instant};

use super::peer::{Dial, Peer};
use super::stage::{Stage, Told};
use super::{Flood, Place};
use crate::frame;

pub(super) const FLOOD: Flood = Flood {
    name: "pings",
    title: "40 WebSockets that ping as fast as they are read",
    config: "",
    memory_mib: 8,
    place: Place::Loopback,
    run,
};

const PEERS: usize = 40;

/// Pings of one write; some with the longest payload that there can be, most with none.
const PINGS: usize = 4000;

const LAST: &[u8] = b"the last one";

/// What its peers must be told.
const MUST: &[&str] = &["pings"];

fn run(stage: &Stage) -> anyhow::Result<Told> {
    let mut burst = Vec::new();
    for index in 0..PINGS {
        let payload: &[u8] = if index % 10 == 0 { &[b'x'; 125] } else { b"" };
        frame::write(&mut burst, frame::PING, payload);
    }
    let (mut told, mut peers) = (Told::default(), Vec::new());
    for index in 0..PEERS {
        let target = format!("/channels/pings.{}.{index}", stage.number);
        peers.push(Peer::upgrade(stage.address, Dial::default(), &target, &[])?);
    }
    while !stage.is_over(&told, MUST) {
        let mut is_idle = true;
        for (index, peer) in peers.iter_mut().enumerate() {
            if peer.send(&burst) {
                is_idle = false;
                told.add_many("pings", u64::try_from(PINGS)?);
            }
            // One in four reads its pongs.
            if index % 4 == 0 {
                take_pongs(peer, &mut told)?;
            }
        }
        if is_idle {
            stage.pause(Duration::from_millis(1));
        }
    }
    // Now all read, and each must get the answer to its last ping.
    let mut last = Vec::new();
    frame::write(&mut last, frame::PING, LAST);
    let until = Instant::now() + Duration::from_secs(20);
    let mut has_sent = vec![false; peers.len()];
    let mut left = peers.len();
    while left > 0 {
        anyhow::ensure!(Instant::now() < until, "{left} peers' last pings are not answered");
        for (peer, has_sent) in peers.iter_mut().zip(&mut has_sent) {
            *has_sent = *has_sent || peer.send(&last);
            left -= usize::from(take_pongs(peer, &mut told)?);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    told.expect(&["pings", "pongs", "answer to the last"], &[])?;
    Ok(told)
}

/// Reads; whether the answer to the last ping was there.
fn take_pongs(peer: &mut Peer, told: &mut Told) -> anyhow::Result<bool> {
    let end = peer.read(1 << 20);
    let (mut pongs, mut has_last) = (0, false);
    let code = peer.frames(|frame| {
        pongs += u64::from(frame.first == frame::PONG);
        has_last |= frame.payload == LAST;
    })?;
    anyhow::ensure!(end.is_none() && code.is_none(), "who pings was closed: {end:?} {code:?}");
    told.add_many("pongs", pongs);
    if has_last {
        told.add("answer to the last");
    }
    Ok(has_last)
}
