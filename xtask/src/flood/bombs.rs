//! Deflate bombs: compressed messages that are a thousand times as large as what is sent. Half of
//! the peers send one of 64 MiB and are told 1009; the others stay within `websocket.max_message`,
//! which is their right, and send message after message of just under 1 MiB.
//!
//! Memory: a message that is being inflated is at most 1 MiB, in a buffer that doubles. Its channel
//! keeps nothing and has no subscribers, so it is freed when it is published. 20 peers: 40 MiB, and
//! their windows of 32 KiB. 64 MiB.

use std::io::Write as _;
use std::time::Duration;

use flate2::Compression;
use flate2::write::DeflateEncoder;

use super::peer::{Dial, Peer, Peers, Visit};
use super::stage::{Stage, Told};
use super::{Flood, Place};
use crate::frame;

pub(super) const FLOOD: Flood = Flood {
    name: "bombs",
    title: "20 WebSockets that send compressed zeros, 64 MiB or just under 1 MiB a message",
    config: "[[channel]]\nmatch = \"bombs.>\"\nlog = { messages = 0 }\n",
    memory_mib: 64,
    place: Place::Loopback,
    run,
};

const PEERS: usize = 20;

/// When none of them can send.
const ROUND: Duration = Duration::from_millis(1);

const MIB: usize = 1 << 20;

/// What its peers must be told.
const MUST: &[&str] = &["of 64 MiB", "of 1 MiB", "1009"];

fn run(stage: &Stage) -> anyhow::Result<Told> {
    let (large, small) = (bomb(64 * MIB)?, bomb(MIB - 100)?.repeat(16));
    let open = |index| {
        let deflate = [("Sec-WebSocket-Extensions", "permessage-deflate")];
        let target = format!("/channels/bombs.{}.{index}?subscribe=0", stage.number);
        Peer::upgrade(stage.address, Dial::default(), &target, &deflate)
    };
    let visit = |index: usize, peer: &mut Peer, told: &mut Told| {
        let is_large = index.is_multiple_of(2);
        let (bytes, name, count) =
            if is_large { (&large, "of 64 MiB", 1) } else { (&small, "of 1 MiB", 16) };
        let is_busy = peer.send(bytes);
        if is_busy {
            told.add_many(name, count);
        }
        if let Some(farewell) = peer.farewell()? {
            told.add(if is_large { farewell } else { format!("{name}: {farewell}") });
            return Ok(Visit::Over);
        }
        Ok(if is_busy { Visit::Busy } else { Visit::Idle })
    };
    let peers = Peers { count: PEERS, round: ROUND, must: MUST };
    let (told, _) = peers.keep(stage, open, visit)?;
    told.expect(MUST, &[])?;
    Ok(told)
}

/// A compressed message of so many zeros, as a frame (RFC 7692 §7.2.1).
fn bomb(bytes: usize) -> anyhow::Result<Vec<u8>> {
    let mut deflater = DeflateEncoder::new(Vec::new(), Compression::best());
    let zeros = vec![0; 64 << 10];
    let mut left = bytes;
    while left > 0 {
        let some = zeros.get(..left.min(zeros.len())).unwrap_or_default();
        deflater.write_all(some)?;
        left -= some.len();
    }
    deflater.flush()?;
    let mut data = std::mem::take(deflater.get_mut());
    // What a flush ends with is left out.
    anyhow::ensure!(data.ends_with(&[0, 0, 0xFF, 0xFF]), "a flush ends otherwise");
    data.truncate(data.len() - 4);
    let mut frame = Vec::new();
    // A whole binary message, with the bit that says that it is compressed.
    frame::write(&mut frame, 0xC2, &data);
    Ok(frame)
}
