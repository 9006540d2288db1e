//! The streaming wires and the limits of the real server, sentence by sentence of CONTRACT 4, 7, 8,
//! 11 and 12. Every server's standard error is searched for panics when it ends.

#![expect(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test's helper fails as a test does"
)]

mod common;

mod drain;
mod limits;
mod slow;
mod streams;
mod websocket;
