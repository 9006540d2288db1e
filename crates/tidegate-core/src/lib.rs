//! The gateway's behaviour without IO, clock or randomness of its own: channels, cursors, logs,
//! subscriptions and outboxes. Whatever it needs to know of the world is passed in, so the whole can
//! be simulated from a seed.

pub mod channel;
pub mod code;
pub mod cursor;
pub mod entry;
pub mod envelope;
pub mod hub;
pub mod inbox;
pub mod json;
pub mod log;
pub mod outbox;
pub mod payload;
pub mod presence;
pub mod state;
pub mod subscription;
pub mod time;

pub use channel::{ChannelName, ChannelNameError};
pub use code::Code;
pub use cursor::{Begin, Cursor, CursorError, Epoch, Position};
pub use entry::{Body, Draft, Entry, EventName, Key, Publication, SessionId, Timestamp};
pub use outbox::{OutboxBounds, Policy};
pub use payload::{Payload, PayloadError, PayloadKind};
pub use state::{ChannelState, Gap, GapReason, Lineage};
pub use subscription::Subscription;

/// Whether a container has so much more room than it needs that memory should be given back; rarely
/// enough, as long as twice its length is kept, for that to cost nothing.
pub(crate) fn is_sparse(len: usize, capacity: usize) -> bool {
    capacity > 16 && len < capacity / 8
}
