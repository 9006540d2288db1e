//! The wires: from a request's head to a stream, or to a poll's answer (CONTRACT 4).

pub mod begin;
pub mod envelope;
pub mod poll;
pub mod request;
pub mod stream;
pub mod websocket;

/// How a subscriber is served; the contract's one name for each, everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wire {
    /// WebSocket on HTTP/1.1.
    Ws,
    /// Server-Sent Events.
    Sse,
    /// NDJSON stream.
    Ndjson,
    /// Long-poll.
    LongPoll,
    /// Poll.
    Poll,
}

impl Wire {
    /// Every wire of this version, for tables.
    pub const ALL: [Self; 5] = [Self::Ws, Self::Sse, Self::Ndjson, Self::LongPoll, Self::Poll];

    /// The contract's name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ws => "ws",
            Self::Sse => "sse",
            Self::Ndjson => "ndjson",
            Self::LongPoll => "long-poll",
            Self::Poll => "poll",
        }
    }

    /// The wire of a name, if this version has it.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.as_str() == name)
    }
}
