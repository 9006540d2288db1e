//! Load on a gateway: connections, what goes over them, and what is counted. Nothing here prints.
//!
//! One thread, a task per connection, one scratch buffer for all of them. What a load generator does
//! for each delivery must cost less than what the gateway does for it, so subscribers read through
//! the codecs of `tidegate-wire`; publishing, of which there is a thousandth as much, goes through
//! `tidegate-client`.

mod fanout;
mod files;
mod flight;
mod line;
mod meter;
mod payload;
mod reader;
mod target;

use std::time::Duration;

use tidegate_client::Failure;

pub(super) use fanout::{Fanout, Pace};
pub(super) use meter::{Counts, Latency, Meter};
pub(super) use payload::SIZE_MIN;
pub(super) use reader::Wire;
pub(super) use target::Target;

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

/// How long a connection may take to stand.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// Connections that are opened at once, below the accept queue of any server.
const OPENING_MAX: usize = 64;
