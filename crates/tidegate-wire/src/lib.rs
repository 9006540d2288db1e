//! Protocol codecs: bytes to protocol units and back. No IO, clock, randomness or tasks.

pub mod chunk;
pub mod grpc;
pub mod grpc_web;
pub mod ndjson;
mod scratch;
pub mod sse;
pub mod websocket;
