//! A storm of connections: as many a second as one core gets done, of every kind of brevity: opened
//! and reset at once, with half a head, a WebSocket that is reset behind its handshake, an SSE stream
//! that is closed. Every few rounds so many are held at once that `http.max_connections` is reached:
//! whoever is over it is told 503, or is cut.
//!
//! Memory: connections that exist at the same time, at most 2,000 beside the good ones, few of them in
//! hyper's hands: 4 KiB each, and as much again for what waits to be freed. 16 MiB.

use super::peer::{Dial, End, Peer};
use super::stage::{Stage, Told};
use super::{Flood, Place};

pub(super) const FLOOD: Flood = Flood {
    name: "storm",
    title: "connections made and dropped as fast as can be, at times over the limit",
    config: "[http]\nmax_connections = 3000\n",
    memory_mib: 16,
    place: Place::Loopback,
    run,
};

/// At once, in most rounds and in those that go over the limit.
const FEW: usize = 100;
const MANY: usize = 2500;

/// A round over the limit is one of so many.
const ROUNDS: u64 = 40;

const UPGRADE: &[u8] =
    b"GET /channels/bench HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

const SSE: &[u8] =
    b"GET /channels/bench HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n\r\n";

/// What its peers must be told.
const MUST: &[&str] = &["connections", "101", "200", "503"];

fn run(stage: &Stage) -> anyhow::Result<Told> {
    let mut told = Told::default();
    let mut round = 0;
    while !stage.is_over(&told, MUST) {
        let is_over_limit = round % ROUNDS == ROUNDS - 1;
        round += 1;
        let count = if is_over_limit { MANY } else { FEW };
        let mut peers = Vec::with_capacity(count);
        for index in 0..count {
            let mut peer = Peer::dial(stage.address, Dial::default())?;
            match index % 4 {
                // Reset with the rest, at the end of the round.
                0 => {}
                1 => drop(peer.send(b"GET /chann")),
                2 => drop(peer.send(UPGRADE)),
                _ => drop(peer.send(SSE)),
            }
            peers.push(peer);
        }
        told.add_many("connections", u64::try_from(count)?);
        // Half of the rounds wait for nothing: what was accepted has gone when it is served.
        if round % 2 == 0 {
            answers(stage, peers, &mut told);
        }
    }
    told.expect(MUST, &["cut"])?;
    Ok(told)
}

/// Waits until everyone who asked has an answer.
fn answers(stage: &Stage, mut peers: Vec<Peer>, told: &mut Told) {
    let mut index = 0;
    peers.retain(|_| {
        index += 1;
        (index - 1) % 4 >= 2
    });
    while !peers.is_empty() && !stage.is_over(told, MUST) {
        peers.retain_mut(|peer| {
            let end = peer.read(4096);
            match (peer.status(), end) {
                (Some(status), _) => told.add(status),
                (None, Some(End::Closed | End::Reset)) => told.add("cut"),
                (None, None) => return true,
            }
            false
        });
        std::thread::yield_now();
    }
}
