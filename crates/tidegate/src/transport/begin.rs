//! Where a subscription begins: whether it is allowed, and the broker's word on each position.
//!
//! The same for every wire that streams; how it is told is the wire's. A poll, which reads its pages
//! at once, has its own way to them.

use std::future::{Future, poll_fn};
use std::num::NonZeroU32;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use tidegate_broker::{From, Read, Unavailable};
use tidegate_core::{Begin, ChannelName, ChannelState, Gap, GapReason, Position};

use super::request::SubscribeRequest;
use crate::driver::client::Start;
use crate::driver::opening::Held;
use crate::problem::Problem;
use crate::worker::Worker;

/// How long a broker has to say where a subscription begins, before it counts as away.
const ANSWER_MAX: Duration = Duration::from_secs(5);

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

/// Asks whether a subscription is allowed, and the broker where it begins, once it watches every
/// channel for us. Whoever has the answer registers in the same turn: what the hub delivers after it
/// is not in it.
///
/// # Errors
///
/// A refusal that names its channel, or the broker being away.
pub async fn begin(worker: &Rc<Worker>, wanted: &SubscribeRequest) -> Result<Begun, Problem> {
    check_open(worker, wanted)?;
    for channel in &wanted.channels {
        worker.may_subscribe(channel)?;
    }
    if wanted.channels.is_empty() {
        // An enveloped connection, which will say.
        return Ok(Begun { starts: Vec::new(), is_over: false, cursor: String::new() });
    }
    in_time(worker, ask(worker, wanted)).await
}

/// Checks that anything can begin now.
///
/// # Errors
///
/// What [`SubscribeRequest::refusal`] says, or 503 while the gateway goes away.
pub fn check_open(worker: &Worker, wanted: &SubscribeRequest) -> Result<(), Problem> {
    wanted.check_refusal()?;
    match worker.is_draining() {
        true => Err(Problem::draining()),
        false => Ok(()),
    }
}

/// Waits for the broker, but not for ever, and not while the gateway goes away.
async fn in_time<T>(
    worker: &Worker,
    ask: impl Future<Output = Result<T, Problem>>,
) -> Result<T, Problem> {
    let mut ask = pin!(ask);
    let mut deadline = pin!(tokio::time::sleep(ANSWER_MAX));
    poll_fn(|cx| {
        if let Poll::Ready(answer) = ask.as_mut().poll(cx) {
            return Poll::Ready(answer);
        }
        // Whoever drains polls the connection, and that polls us.
        if worker.is_draining() {
            return Poll::Ready(Err(Problem::draining()));
        }
        deadline.as_mut().poll(cx).map(|()| Err(Unavailable.into()))
    })
    .await
}

async fn ask(worker: &Rc<Worker>, wanted: &SubscribeRequest) -> Result<Begun, Problem> {
    let held = Held::open(worker, &wanted.channels).await?;
    let states = worker.broker.states(&wanted.channels).await?;
    let mut starts = Vec::with_capacity(wanted.channels.len());
    let mut is_over = true;
    let asked = wanted.channels.iter().zip(&wanted.begins);
    for (((channel, begin), state), held) in asked.zip(&states).zip(held) {
        let (position, gap) = match begin {
            Begin::Now => (state.now(), None),
            Begin::Start => (state.start(), None),
            Begin::After(cursor) => state.judge(cursor.position),
            Begin::Last(count) => (last(worker, channel, *count, state).await?, None),
        };
        // A gap is told first.
        is_over &= gap.is_none() && state.ended.is_some_and(|offset| offset <= position.offset);
        let bounds = worker.outbox_bounds(channel);
        let has_ended = state.ended.is_some();
        starts.push(Start { channel: channel.clone(), position, gap, bounds, has_ended, held });
    }
    // Nothing is awaited from here on.
    for (start, begin) in starts.iter_mut().zip(&wanted.begins) {
        follow(worker, start, *begin);
    }
    let cursors: Vec<_> =
        starts.iter().map(|it| it.resume().cursor(&it.channel).to_string()).collect();
    Ok(Begun { starts, is_over, cursor: cursors.join(".") })
}

/// Moves a beginning to where the hub has come while the broker was asked, unless what lies between
/// has to be read, and can be.
fn follow(worker: &Worker, start: &mut Start, begin: Begin) {
    let Some(last) = worker.hub.borrow().last(&start.channel) else { return };
    let from = start.position;
    if last.epoch != from.epoch || last.offset <= from.offset {
        return;
    }
    let keeps_none = worker.config.channel(start.channel.as_str()).keeps_none();
    match begin {
        // It is now, as much as when the broker was asked.
        Begin::Now => {}
        Begin::After(_) if keeps_none => {
            let (requested, reason) =
                start.gap.map_or((from, GapReason::Expired), |it| (it.requested, it.reason));
            start.gap = Some(Gap { requested, resumed: last, reason });
        }
        Begin::Start | Begin::Last(_) if keeps_none => {}
        Begin::After(_) | Begin::Start | Begin::Last(_) => return,
    }
    start.position = last;
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
    let page = worker.broker.read(read).await?;
    Ok(match page.entries.first() {
        Some(first) => {
            let offset = first.prev.max(page.state.floor);
            Position { epoch: first.position.epoch, offset }
        }
        None => page.tail(),
    })
}
