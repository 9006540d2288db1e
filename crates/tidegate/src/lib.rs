//! The gateway as a library.

pub mod cli;
pub mod config;
pub mod problem;
pub mod server;
pub mod trace;
