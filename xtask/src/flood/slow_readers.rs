//! Slow readers: subscribers of a busy channel that don't read. Where the channel's policy is
//! `disconnect` they are told 1013; where it is `spill` they go on later and must get everything, for
//! the log has it. SSE readers never read at all.
//!
//! Memory: what a slow reader holds is shared, so it pays for its places in the outbox and in what is
//! committed to its socket (at most 20 of them, and 64 KiB), and with the others for the messages that are
//! still referred to: two logs of at most 4 MiB, and what the slowest has from before. 2,000 readers:
//! 64 MiB.

use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::peer::{Dial, Peer};
use super::stage::{Stage, Told};
use super::{Flood, Place};
use crate::frame;
use crate::http::Connection;

pub(super) const FLOOD: Flood = Flood {
    name: "slow-readers",
    title: "2,000 subscribers that don't read, 50 messages of 4 KiB a second past each",
    config: "[[channel]]\nmatch = \"slow.cut\"\n\
             log = { messages = 100 }\n\
             outbox = { messages = 20, policy = \"disconnect\" }\n\
             [[channel]]\nmatch = \"slow.spill\"\nlog = { messages = 1000 }\n\
             outbox = { messages = 20 }\n",
    memory_mib: 64,
    place: Place::Loopback,
    run,
};

const READERS: usize = 2000;

/// So that it is the server who has to hold on to what they don't read.
const RECEIVE_BUFFER: usize = 4096;

/// Of small segments the server's kernel buffers some 30 KiB, of loopback's own megabytes; whoever
/// reads on gets larger ones, which cost less.
const SEGMENT: u32 = 536;
const SEGMENT_OF_READERS: u32 = 4096;

/// So many publications a reader does not read: 500 KiB, more than its socket and outbox take.
const STALL: u64 = 125;

/// Between two publications in each channel.
const STEP: Duration = Duration::from_millis(20);

const CHANNELS: [&str; 2] = ["slow.cut", "slow.spill"];

const BYTES: usize = 4096;

struct Reader {
    peer: Peer,
    kind: Kind,
    /// The newest publication when it subscribed.
    since: u64,
    /// The number of the message that is due; `None` before the first.
    next: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Cut,
    Spill,
    Sse,
}

/// What its peers must be told.
const MUST: &[&str] = &["spilled: got all"];

/// Of whoever is closed: where a machine under load publishes so slowly that a reader does not read on
/// within the 5 s that a close waits, it is cut instead.
const CLOSED: &[&str] = &["1013", "cut"];

fn run(stage: &Stage) -> anyhow::Result<Told> {
    let mut told = Told::default();
    let mut publisher = Connection::open(&stage.address.to_string())?;
    let count = stage.size(READERS);
    let mut readers: Vec<Option<Reader>> = std::iter::repeat_with(|| None).take(count).collect();
    let mut number = 0;
    while !stage.is_over(&told, MUST) {
        let begun = Instant::now();
        // So few connect at once that the publisher keeps its pace.
        let mut connects = 50;
        for (index, slot) in readers.iter_mut().enumerate() {
            match slot {
                None if connects > 0 => {
                    connects -= 1;
                    *slot = Some(subscribe(stage, index, number)?);
                }
                Some(reader) if reader.kind != Kind::Sse && number >= reader.since + STALL => {
                    if let Some(fate) = reader.go_on(number)? {
                        told.add(fate);
                        *slot = None;
                    }
                }
                _ => {}
            }
        }
        for channel in CHANNELS {
            let text = format!("{number:08} {}", "x".repeat(BYTES - 9));
            let path = format!("/channels/{channel}");
            let answer = publisher.post(&path, &[], text.as_bytes())?;
            anyhow::ensure!(answer.status == 200, "publishing: {}", answer.describe());
        }
        number += 1;
        stage.pause(STEP.saturating_sub(begun.elapsed()));
    }
    drop(readers);
    for channel in CHANNELS {
        // A log that is kept is no leak.
        let head = publisher.request("DELETE", &format!("/channels/{channel}"), &[], b"")?;
        anyhow::ensure!(head.status()? == 204, "dropping: {}", head.status()?);
    }
    told.add_many("publications", number);
    told.expect(MUST, &["publications", "1013", "cut"])?;
    let closed = if stage.is_quick { CLOSED } else { &["1013"] };
    let closed: u64 = closed.iter().map(|it| told.count(it)).sum();
    anyhow::ensure!(closed > 0, "no reader whose channel disconnects was told so: {told}");
    Ok(told)
}

fn subscribe(stage: &Stage, index: usize, since: u64) -> anyhow::Result<Reader> {
    let segment = if index % 8 == 5 { SEGMENT_OF_READERS } else { SEGMENT };
    let how = Dial { receive_buffer: Some(RECEIVE_BUFFER), segment: Some(segment) };
    let (kind, peer) = match index % 8 {
        0..5 => (Kind::Cut, Peer::upgrade(stage.address, how, "/channels/slow.cut", &[])?),
        5 => (Kind::Spill, Peer::upgrade(stage.address, how, "/channels/slow.spill", &[])?),
        _ => {
            let peer = Peer::dial(stage.address, how)?;
            let accept = [("Accept", "text/event-stream")];
            (Kind::Sse, peer.request("GET", "/channels/slow.spill", &accept, 200)?.0)
        }
    };
    Ok(Reader { peer, kind, since, next: None })
}

impl Reader {
    /// Reads on; what it was told in the end, or that it has everything up to `newest`.
    fn go_on(&mut self, newest: u64) -> anyhow::Result<Option<String>> {
        let end = self.peer.read(1 << 20);
        let mut result = Ok(());
        let next = &mut self.next;
        let code = self.peer.frames(|frame| {
            if frame.first == frame::TEXT && result.is_ok() {
                result = follow(next, frame.payload);
            }
        })?;
        result?;
        if let Some(code) = code {
            return Ok(Some(code.to_string()));
        }
        if end.is_some() {
            // Nobody reads in time: the close waits no longer than 5 s for that.
            return Ok(Some("cut".to_owned()));
        }
        let has_all = self.next.is_some_and(|next| next + 2 >= newest);
        Ok((self.kind == Kind::Spill && has_all).then(|| "spilled: got all".to_owned()))
    }
}

/// Notes a message, which must be the next.
fn follow(next: &mut Option<u64>, payload: &[u8]) -> anyhow::Result<()> {
    let digits = payload.get(..8).context("a message is too short")?;
    let number: u64 = std::str::from_utf8(digits)?.parse()?;
    anyhow::ensure!(
        payload.len() == BYTES && next.is_none_or(|next| next == number),
        "a slow reader got {number} where {next:?} is next"
    );
    *next = Some(number + 1);
    Ok(())
}
