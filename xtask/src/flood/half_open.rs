//! Half-open peers: clients behind a wire that is cut, so that neither a FIN nor a reset nor an
//! answer ever comes. The server has to find out by itself: a WebSocket is pinged after
//! `websocket.ping_interval` and dropped `ping_timeout` later; of SSE the kernel finds out, 40 s after
//! the first byte that is not acknowledged. (A quick run has no such patience, and no SSE.)
//!
//! Memory: what is written to a peer that is gone waits in the kernel; when that takes no more, in
//! its outbox, which is shared, and at most 64 KiB of its own. Within the times above, at 20 messages
//! of 100 bytes a second, nothing gets that far: 1,200 clients at 2 KiB each. 16 MiB.

use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::peer::{Dial, Peer};
use super::stage::{Stage, Told};
use super::{Flood, Place};

pub(super) const FLOOD: Flood = Flood {
    name: "half-open",
    title: "1,000 WebSockets and 200 SSE streams whose wire is cut",
    config: "[websocket]\nping_interval = \"3s\"\nping_timeout = \"2s\"\n",
    memory_mib: 16,
    place: Place::Namespace,
    run,
};

const WEBSOCKETS: usize = 1000;
const STREAMS: usize = 200;

/// Pings are sent within a tick of a quarter of a second; the rest is for a machine that is busy.
const NOTICED_WITHIN: Duration = Duration::from_secs(20);

fn run(stage: &Stage) -> anyhow::Result<Told> {
    let namespaces = stage.namespaces.as_ref().context("it has namespaces")?;
    namespaces.enter()?;
    namespaces.cut(false)?;
    let (count, streams) = (stage.size(WEBSOCKETS), if stage.is_quick { 0 } else { STREAMS });
    let mut peers = Vec::new();
    for _ in 0..count {
        peers.push(Peer::upgrade(stage.address, Dial::default(), "/channels/bench", &[])?);
    }
    for _ in 0..streams {
        let peer = Peer::dial(stage.address, Dial::default())?;
        let accept = [("Accept", "text/event-stream")];
        peers.push(peer.request("GET", "/channels/bench", &accept, 200)?.0);
    }
    let connected = stage.files()?;
    namespaces.cut(true)?;
    let cut = Instant::now();
    // The peers go, and nothing of that reaches the server.
    drop(peers);
    while connected - stage.files()?.min(connected) < count {
        anyhow::ensure!(
            cut.elapsed() < NOTICED_WITHIN,
            "of {count} WebSockets that were cut {} s ago, {} were noticed",
            cut.elapsed().as_secs(),
            connected - stage.files()?.min(connected)
        );
        // There is nothing to wait on but the server's descriptors.
        std::thread::sleep(Duration::from_millis(100));
    }
    let mut told = Told::default();
    told.add_many("nothing; pinged and dropped", u64::try_from(count)?);
    told.add_many("nothing; left to the kernel", u64::try_from(streams)?);
    Ok(told)
}
