//! WebSocket, RFC 6455 with permessage-deflate (RFC 7692), for both roles and without IO.
//!
//! ```text
//!   request head ──► handshake ──► protocol, DeflateParams
//!   bytes read   ──► Decoder ────► Event (message, ping, pong, close)      borrowed, not copied
//!   message      ──► encode ─────► bytes to write
//! ```
//! The caller owns the socket and the order of things: it answers a ping with a pong and a close
//! with a close, and stops reading after either end has closed. Lengths are in bytes.

pub mod close;
mod decoder;
mod deflate;
pub mod encode;
mod extension;
pub mod handshake;
pub mod header;
mod mask;
mod utf8;

pub use decoder::{Decoder, Event, Limits, ProtocolError};
pub use deflate::{
    COMPRESSED_LEN_MIN, DeflateError, Deflater, DeflaterPool, InflaterPool, SharedDeflater,
};
pub use extension::{AnswerError, DeflateOffer, DeflateParams, DeflatePolicy, accept, check};
pub use mask::mask;

/// Which end of the connection *we* are. A client masks what it sends, a server does not (§5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// We opened the connection.
    Client,
    /// We accepted it.
    Server,
}

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// UTF-8, checked.
    Text,
    /// Anything.
    Binary,
}

/// What a frame is (RFC 6455 §5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum OpCode {
    /// More of the message that an earlier frame began.
    Continuation = 0x0,
    /// The first frame of a text message.
    Text = 0x1,
    /// The first frame of a binary message.
    Binary = 0x2,
    /// The last frame of this direction.
    Close = 0x8,
    /// To be answered with a pong of the same payload.
    Ping = 0x9,
    /// The answer to a ping, or a heartbeat.
    Pong = 0xA,
}

impl OpCode {
    /// The opcode of the low four bits of a frame's first byte, `None` where it is reserved.
    #[must_use]
    pub const fn from_nibble(nibble: u8) -> Option<Self> {
        Some(match nibble {
            0x0 => Self::Continuation,
            0x1 => Self::Text,
            0x2 => Self::Binary,
            0x8 => Self::Close,
            0x9 => Self::Ping,
            0xA => Self::Pong,
            _ => return None,
        })
    }

    /// Whether it is Close, Ping or Pong: never fragmented, at most 125 bytes (§5.5).
    #[must_use]
    pub const fn is_control(self) -> bool {
        self as u8 & 0x8 != 0
    }
}

impl From<Kind> for OpCode {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Text => Self::Text,
            Kind::Binary => Self::Binary,
        }
    }
}
