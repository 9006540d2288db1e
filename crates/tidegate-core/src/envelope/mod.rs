//! Envelopes: publications and what goes beside them, as messages of their own (CONTRACT 4 and 5).
//!
//! `json` writes the JSON form, `command` reads what publishers send in it, `stream` cuts a body
//! into such values; `client` and `server` are the two directions of an enveloped connection, `member`
//! what all who read JSON need. What is framed around them (lines, chunks, events) is the wires' business.

pub mod client;
pub mod command;
pub mod json;
pub mod member;
pub mod server;
pub mod stream;

pub use client::{ClientFrame, Command, FrameError};
pub use command::{CommandError, PublishCommand};
pub use server::{ServerBody, ServerFrame};
pub use stream::{JsonStream, JsonStreamError};
