//! The Rust client of Tidegate: every wire, one cursor, nothing lost and nothing twice.
//!
//! ```no_run
//! use tidegate_client::{Client, Event, Since};
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::new("http://127.0.0.1:8080")?;
//! client.publish("prices", "97000").send().await?;
//!
//! let mut prices = client.subscribe(["prices"]).since(Since::Start).open()?;
//! while let Some(event) = prices.next().await {
//!     match event? {
//!         Event::Publication(it) => println!("{:?}", it.payload.text()),
//!         Event::Gap(gap) => println!("something is missing: {gap:?}"),
//!         Event::End(_) | Event::Open(_) | Event::Retry(_) => {}
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! | | |
//! | --- | --- |
//! | [`Client::subscribe`] | publications of some channels, by any [`Wire`], over as many connections as it takes |
//! | [`Client::publish`] | one publication, tried until its outcome is known, never doubled |
//! | [`Client::publisher`] | many, over one connection, in order, each with its outcome |
//! | [`Client::connect`] | an enveloped connection: many channels, and commands with their replies |
//! | [`websocket::WebSocket`] | a WebSocket as it is, frame by frame, to anything |
//!
//! # What holds
//!
//! - **Nothing lost untold, nothing twice**: whatever becomes of a connection, a subscription goes on
//!   from its cursor on the next one. What the gateway can't replay is an [`Event::Gap`]. The cursor
//!   ([`Subscription::cursor`]) is good on every wire and in another life of the program.
//! - **No herd**: attempts back off, jittered, and never come before `Retry-After`
//!   ([`machine::backoff`]). One step, one attempt.
//! - **Silence is noticed**: by pings on WebSockets, by what the gateway sends every 15 s on others.
//! - **Everything is bounded** ([`Limits`]), and a reader that is too slow is felt by the gateway, not
//!   by memory here.
//! - **Errors say whose fault they are** ([`Error::fault`]) and have the gateway's code, words and
//!   `retry_after` ([`Problem`]).
//!
//! There is no TLS yet: `https` and `wss` are refused by name. Redirects are not followed. Everything
//! needs a tokio runtime with time and IO.

mod client;
mod connection;
mod error;
mod event;
pub mod machine;
mod message;
mod net;
mod payload;
mod publish;
mod publisher;
mod queue;
mod subscription;
mod url;
pub mod websocket;

pub use client::{Client, ClientBuilder};
pub use connection::{Connection, Pushes};
pub use error::{Error, Failure, Fault, Problem, Word};
pub use event::{
    Choice, Cursor, CursorError, End, Event, Gap, Open, Publication, Retry, Since, Wire, WireError,
};
pub use machine::backoff::BackoffConfig;
pub use machine::batch::Outcome;
pub use machine::{Limits, Timing};
pub use message::{Command, History, Member, Message, Presence, Published, Push, Reply, Welcome};
pub use payload::Payload;
pub use publish::Publish;
pub use publisher::{Outcomes, Publisher, Tally};
pub use subscription::{Subscribe, Subscription};
pub use tidegate_core::{ChannelName, Code, GapReason};
pub use url::{ChannelUrl, Url, UrlError};
