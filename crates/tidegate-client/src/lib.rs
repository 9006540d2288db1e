//! The Rust client of Tidegate: every wire, one cursor, nothing lost and nothing twice.

mod client;
mod connection;
mod error;
mod event;
pub mod machine;
mod net;
mod payload;
mod publish;
mod publisher;
mod queue;
mod subscription;
mod url;
pub mod websocket;

pub use client::{Client, ClientBuilder};
pub use connection::{
    Command, Connection, History, Member, Message, Presence, Push, Pushes, Reply, Welcome,
};
pub use error::{Code, Error, Failure, Fault, Problem};
pub use event::{
    Choice, Cursor, CursorError, End, Event, Gap, Open, Publication, Retry, Since, Wire, WireError,
};
pub use machine::backoff::BackoffConfig;
pub use machine::batch::Outcome;
pub use machine::{Limits, Timing};
pub use payload::Payload;
pub use publish::{Publish, Published};
pub use publisher::{Outcomes, Publisher, Tally};
pub use subscription::{Subscribe, Subscription};
pub use tidegate_core::{ChannelName, GapReason};
pub use url::{ChannelUrl, Url, UrlError};
