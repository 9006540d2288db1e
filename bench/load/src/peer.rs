//! The servers that are measured, as their clients see them: paths, heads, dialects.

use std::net::SocketAddr;

use crate::frame::Masking;
use crate::wire::Wire;

/// A server's dialect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Peer {
    Tidegate,
    /// `raw_writer.c`, or for `echo` `raw_echo.c`, which has no handshake.
    Raw,
    Nchan,
    SocketIo,
    Tungstenite,
}

/// How publications are handed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Publishing {
    /// Over one WebSocket.
    Ws,
    /// With POST, over as many kept-alive connections as there are publications in flight.
    Http,
}

/// The key of every handshake, from RFC 6455 §1.3, and what it is answered with.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub(crate) const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

impl Peer {
    /// Whether publications are masked, as a client's frames must be.
    pub(crate) fn masking(self) -> Masking {
        if self == Self::Raw { Masking::Unmasked } else { Masking::Masked }
    }

    /// Whether the answer to a handshake has to prove that the key was read.
    pub(crate) fn computes_accept(self) -> bool {
        self != Self::Raw
    }

    /// The path of a subscriber.
    pub(crate) fn subscribe_path(self) -> &'static str {
        match self {
            Self::Tidegate => "/channels/bench",
            Self::Raw | Self::Tungstenite => "/sub",
            Self::Nchan => "/sub/bench",
            Self::SocketIo => "/socket.io/?EIO=4&transport=websocket&subscribe=1",
        }
    }

    /// The path of the publisher.
    pub(crate) fn publish_path(self, publishing: Publishing) -> &'static str {
        match (self, publishing) {
            (Self::Tidegate, Publishing::Ws) => "/channels/bench?subscribe=0",
            (Self::Tidegate, Publishing::Http) => "/channels/bench",
            (Self::Raw | Self::Tungstenite, _) => "/pub",
            (Self::Nchan, _) => "/pub/bench",
            (Self::SocketIo, _) => "/socket.io/?EIO=4&transport=websocket",
        }
    }

    /// The path of echo client number `index`.
    pub(crate) fn echo_path(self, index: usize) -> String {
        match self {
            Self::Tidegate => format!("/channels/bench-echo-{index}"),
            _ => "/echo".to_owned(),
        }
    }
}

/// The head of a WebSocket handshake.
pub(crate) fn upgrade(address: SocketAddr, path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
}

/// The head that opens a subscription on `wire`.
pub(crate) fn subscribe(peer: Peer, wire: Wire, address: SocketAddr) -> String {
    let path = peer.subscribe_path();
    let accept = match wire {
        Wire::Ws | Wire::SocketIo => return upgrade(address, path),
        Wire::Sse => "text/event-stream",
        Wire::Ndjson => "application/x-ndjson",
        Wire::LongPoll => return poll(peer, address, "now"),
    };
    format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nAccept: {accept}\r\n\r\n")
}

/// The head that asks for what came after `since`, or waits for it.
pub(crate) fn poll(peer: Peer, address: SocketAddr, since: &str) -> String {
    let path = peer.subscribe_path();
    format!("GET {path}?wait=25s&since={since} HTTP/1.1\r\nHost: {address}\r\n\r\n")
}
