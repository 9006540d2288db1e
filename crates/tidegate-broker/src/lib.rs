//! The [`Broker`] trait, the brokers behind it, and the one suite that each of them passes.
//!
//! A broker is a log with a tail (DESIGN 10): it orders what is published, keeps what the channel's
//! bounds allow, and tells every node what was accepted. Clients are no concern of it.

pub mod conformance;
pub mod memory;
pub mod reply;
pub mod tail;

use std::sync::Arc;
use std::time::Duration;

use tidegate_core::{ChannelName, ChannelState, Draft, Position};

pub use memory::{MemoryBroker, MemoryConfig};
pub use reply::Reply;
pub use tail::Inbox;
pub use tidegate_core::log::{From, LogBounds, Page, Read, SinkId};
pub use tidegate_core::presence::Member;

/// A log with a tail. Every call is cheap to make; answers that need the network, or more than a
/// moment, come as [`Reply::Later`], those of embedded brokers as [`Reply::Now`]. None stays away for
/// ever: what can't be had in a few seconds is an error.
pub trait Broker: Send + Sync + 'static {
    /// Appends `draft`. Key, end and append are one atomic step, and nothing reaches a subscriber
    /// before it; a draft's `id` makes the caller's own retries safe. Calls of one task keep their
    /// order per channel.
    fn publish(&self, draft: Draft) -> Reply<Result<Published, PublishError>>;

    /// Reads a page. It is complete through `read.at_least`, or an error: a lagging replica is no
    /// answer. The gap is judged by epoch, floor and head at the moment of reading.
    fn read(&self, read: Read) -> Reply<Result<Page, Unavailable>>;

    /// The state of each channel, in order, also of channels that don't exist; linearizable.
    fn states(&self, channels: &[ChannelName]) -> Reply<Result<Vec<ChannelState>, Unavailable>>;

    /// Starts the node's one tail, into one inbox per worker; called once, before any `watch`. A
    /// full inbox marks, and is never awaited.
    fn tail(&self, inboxes: Vec<Arc<Inbox>>);

    /// Makes the tail carry `channel` to `sink`: every entry after the answered head will come. An
    /// answer that is dropped before it came has no say any more: `unwatch` follows, and a later
    /// `watch` counts alone.
    fn watch(
        &self,
        channel: &ChannelName,
        sink: SinkId,
    ) -> Reply<Result<ChannelState, Unavailable>>;

    /// Takes `channel` off the tail to `sink`; what is already in the inbox may still come.
    fn unwatch(&self, channel: &ChannelName, sink: SinkId);

    /// Drops the log: raises the floor above everything so far, clears keys and the end, and pushes
    /// [`tidegate_core::inbox::TailEvent::Dropped`]. Answers the new floor; a channel that does not
    /// exist has nothing to drop, and its floor stays.
    fn drop_log(&self, channel: &ChannelName) -> Reply<Result<Position, Unavailable>>;

    /// Replaces what this node says of `channel`'s members by `mine`, under the node's lease, and
    /// answers everyone's.
    fn presence(
        &self,
        channel: &ChannelName,
        mine: Vec<Arc<Member>>,
    ) -> Reply<Result<Vec<Arc<Member>>, Unavailable>>;

    /// Channels in byte order of their names: those that begin with `prefix`, after `after`. What is
    /// there all the time is listed, whatever comes and goes meanwhile.
    fn list(self: Arc<Self>, list: List) -> Reply<Result<Listing, Unavailable>>;

    /// Refuses publishes from now on, and is done when everything accepted is as durable as the
    /// broker promises.
    fn seal(&self) -> Reply<Result<(), Unavailable>>;

    /// Whether the broker can be reached now; `/readyz` asks.
    fn is_ready(&self) -> bool;
}

/// What became of a draft that was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published {
    /// The key was seen before: where the first one is. Nothing was published.
    Duplicate(Position),
    /// It is in the log: where the publication is, or a lone end.
    New(Position),
}

impl Published {
    /// Where it is, now or since an earlier time.
    #[must_use]
    pub fn position(self) -> Position {
        match self {
            Self::Duplicate(position) | Self::New(position) => position,
        }
    }

    /// Whether it was there before.
    #[must_use]
    pub fn is_duplicate(self) -> bool {
        matches!(self, Self::Duplicate(_))
    }
}

/// Why a draft was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The channel has ended.
    #[error("the channel has ended; publish to another, or wait until its end is forgotten")]
    Ended,
    /// The key was used with another payload, event or end.
    #[error(
        "the idempotency key was used before with another payload, event or end; make a new key for each publication"
    )]
    KeyReused,
    /// No room for another key; it would have to forget one early.
    #[error("too many idempotency keys are held; try again when older ones have expired")]
    KeysFull {
        /// When the oldest expires.
        retry_after: Duration,
    },
    /// The broker can't be reached.
    #[error("the broker is away; {}", if *.perhaps_accepted { "it may have accepted this: try again with the same key" } else { "nothing was accepted: try again" })]
    Unavailable {
        /// Whether the draft may have been accepted all the same.
        perhaps_accepted: bool,
    },
}

/// The broker can't be reached, or is sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the broker is away; try again")]
pub struct Unavailable;

/// Which channels to list.
#[derive(Clone, Debug, Default)]
pub struct List {
    /// Names begin with this; empty: all.
    pub prefix: String,
    /// Names after this one; empty: from the first.
    pub after: String,
    /// At most so many.
    pub limit: usize,
}

/// Channels, in byte order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// At most as many as were asked for.
    pub channels: Vec<Listed>,
    /// Whether there are more after the last one.
    pub has_more: bool,
}

/// One channel of a [`Listing`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub channel: ChannelName,
    /// Publications kept.
    pub messages: u64,
    /// Bytes of their payloads.
    pub bytes: u64,
}
