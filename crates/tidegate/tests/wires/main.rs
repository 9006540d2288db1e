//! The real server's wires, API and limits, sentence by sentence of CONTRACT 3, 4, 7, 8, 11 and
//! 12. Every server's standard error is searched for panics when it ends.

#![expect(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test's helper fails as a test does"
)]

#[path = "../process/mod.rs"]
mod process;

mod common;

mod api;
mod bench;
mod command;
mod drain;
mod envelope;
mod hostile;
mod limits;
mod metrics;
mod poll;
mod presence;
mod slow;
mod streams;
mod websocket;
