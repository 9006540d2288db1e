//! Load on a gateway: connections, what goes over them, and what is counted. Nothing here prints.
//!
//! One thread, a task per connection, one scratch buffer for all of them. What a load generator does
//! for each message must cost less than what the gateway does for it, so connections read and write
//! through the codecs of `tidegate-wire`; the one publisher of a fan-out, who does a thousandth as
//! much, goes through `tidegate-client`.

mod echo;
mod fanout;
mod files;
mod flight;
mod idle;
mod line;
mod meter;
mod payload;
mod publish;
mod reader;
mod run;
mod subscriber;
mod target;

use std::rc::Rc;
use std::time::Duration;

use tidegate_client::Failure;

pub(super) use echo::Echo;
pub(super) use fanout::{Fanout, Pace};
pub(super) use idle::{Idle, Memory};
pub(super) use meter::{Counts, Latency, Meter, Sample};
pub(super) use payload::SIZE_MIN;
pub(super) use publish::{Publish, Way};
pub(super) use reader::Wire;
pub(super) use target::Target;

/// What is to be done.
#[derive(Clone, Debug)]
pub(super) enum Load {
    /// One channel, many subscribers.
    Fanout(Fanout),
    /// Many who hear themselves alone.
    Echo(Echo),
    /// Many who wait.
    Idle(Idle),
    /// Many who publish.
    Publish(Publish),
}

impl Load {
    /// Does it, until its time is over, `interrupted` is, or the gateway goes away.
    ///
    /// # Errors
    ///
    /// It could not begin.
    pub(super) async fn run(
        &self,
        target: &Target,
        meter: &Rc<Meter>,
        interrupted: impl Future<Output = ()>,
    ) -> anyhow::Result<Outcome> {
        match self {
            Self::Fanout(it) => Box::pin(it.run(target, meter, interrupted)).await,
            Self::Echo(it) => Box::pin(it.run(target, meter, interrupted)).await,
            Self::Idle(it) => Box::pin(it.run(target, meter, interrupted)).await,
            Self::Publish(it) => Box::pin(it.run(target, meter, interrupted)).await,
        }
    }

    /// The channels that were published to.
    pub(super) fn channels(&self) -> Vec<String> {
        match self {
            Self::Fanout(it) => vec![it.channel.clone()],
            Self::Echo(it) => (0..it.connections).map(|index| it.channel(index)).collect(),
            Self::Idle(_) => Vec::new(),
            Self::Publish(it) => vec![it.channel.clone()],
        }
    }
}

/// What a run came to. A run that has begun to measure always comes to one.
#[derive(Debug)]
pub(super) struct Outcome {
    /// What was counted.
    pub(super) counts: Counts,
    /// What was timed.
    pub(super) latency: Latency,
    /// How long it was measured.
    pub(super) took: Duration,
    /// CPU time of this process meanwhile, where the system says.
    pub(super) cpu: Option<Duration>,
    /// Why it ended.
    pub(super) end: End,
    /// The gateway's memory, where it was asked for and is told.
    pub(super) memory: Option<Memory>,
}

/// Why a run ended.
#[derive(Debug)]
pub(super) enum End {
    /// Its time was over.
    Duration,
    /// Somebody has had enough.
    Interrupted,
    /// The gateway went away, or did what it must not.
    Failed(Failure),
}
