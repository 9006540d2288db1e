//! Where a subscription begins: whether it is allowed, and the broker's word on each position.
//!
//! The same for every wire that streams; how it is told is the wire's. A poll, which reads its pages
//! at once, has its own way to them.

use std::num::NonZeroU32;
use std::rc::Rc;

use tidegate_broker::{From, Read};
use tidegate_core::{ChannelName, ChannelState, Position};

use super::request::{Begin, SubscribeRequest};
use crate::driver::client::Start;
use crate::problem::Problem;
use crate::worker::Worker;

/// Where a stream is in its channels.
#[derive(Debug)]
pub struct Begun {
    /// For each of them.
    pub starts: Vec<Start>,
    /// Whether all of them have ended, and it is past that.
    pub is_over: bool,
    /// The cursor to resume from before anything comes.
    pub cursor: String,
}

/// Asks whether a subscription is allowed, and the broker where it begins.
///
/// # Errors
///
/// A refusal that names its channel, or the broker being away.
pub async fn begin(worker: &Rc<Worker>, wanted: &SubscribeRequest) -> Result<Begun, Problem> {
    if worker.is_draining() {
        return Err(Problem::draining());
    }
    for channel in &wanted.channels {
        worker.may_subscribe(channel)?;
    }
    let states = worker.broker.states(&wanted.channels).await.map_err(Problem::from)?;
    let mut starts = Vec::with_capacity(wanted.channels.len());
    let mut is_over = true;
    let asked = wanted.channels.iter().zip(&wanted.begins);
    for ((channel, begin), state) in asked.zip(&states) {
        let (position, gap) = match begin {
            Begin::Now => (state.now(), None),
            Begin::Start => (state.start(), None),
            Begin::After(cursor) => state.judge(cursor.position),
            Begin::Last(count) => (last(worker, channel, *count, state).await?, None),
        };
        // A gap is told first.
        is_over &= gap.is_none() && state.ended.is_some_and(|offset| offset <= position.offset);
        let bounds = worker.outbox_bounds(channel);
        starts.push(Start { channel: channel.clone(), position, gap, bounds });
    }
    let cursors: Vec<_> = starts
        .iter()
        .map(|it| it.gap.map_or(it.position, |gap| gap.requested).cursor(&it.channel).to_string())
        .collect();
    Ok(Begun { starts, is_over, cursor: cursors.join(".") })
}

/// The position before the newest `count` publications.
async fn last(
    worker: &Rc<Worker>,
    channel: &ChannelName,
    count: u32,
    state: &ChannelState,
) -> Result<Position, Problem> {
    let read = Read {
        channel: channel.clone(),
        from: From::Last(count),
        at_least: state.head,
        // Only where it begins matters: the stream reads on from there.
        entries_max: NonZeroU32::MIN,
        bytes_max: 0,
    };
    let page = worker.broker.read(read).await.map_err(Problem::from)?;
    Ok(match page.entries.first() {
        Some(first) => {
            let offset = first.prev.max(page.state.floor);
            Position { epoch: first.position.epoch, offset }
        }
        None => page.tail(),
    })
}
