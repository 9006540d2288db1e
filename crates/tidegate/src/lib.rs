//! The gateway: the only crate that listens or owns a terminal. The binary is a thin `main` over it.

pub mod accept;
pub mod api;
pub mod cli;
pub mod config;
pub mod connection;
pub mod driver;
pub mod gateway;
pub mod metrics;
pub mod negotiate;
pub mod origin;
pub mod presence;
pub mod problem;
pub mod refusals;
pub mod router;
pub mod server;
pub mod trace;
pub mod transport;
pub mod turns;
pub mod worker;
