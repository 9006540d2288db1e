//! The client against the gateway itself, over loopback: every wire, publishing, and both through a
//! proxy that breaks what it can (STYLE 28).

#![expect(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "what goes wrong in a test fails the test"
)]

#[path = "../process/mod.rs"]
mod process;

mod envelopes;
mod faults;
mod ladder;
mod proxy;
mod server;
mod wires;
