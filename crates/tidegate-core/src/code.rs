//! The one table of errors: from a code to what each wire says (CONTRACT 7).
//!
//! Numbers of HTTP, gRPC and WebSocket stand here as they are on the wire; what they are made into is
//! the wires' business.

/// What kind of error it is; the word is the same on every wire, in logs and in metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// The client's deadline passed.
    DeadlineExceeded,
    /// Publish to an ended channel.
    Ended,
    /// Our bug.
    Internal,
    /// Can't be parsed, or not like this.
    InvalidArgument,
    /// No such route or channel kind.
    NotFound,
    /// The token does not allow it; a foreign `Origin`.
    PermissionDenied,
    /// Over a rate limit.
    RateLimited,
    /// The outbox was full and the policy is `disconnect`.
    SlowConsumer,
    /// Over a size limit.
    TooLarge,
    /// No, bad or expired token.
    Unauthenticated,
    /// Draining, or the broker is away.
    Unavailable,
    /// Wrong `Sec-WebSocket-Version`.
    UpgradeRequired,
    /// A proxied upstream failed or timed out.
    Upstream,
}

impl Code {
    /// Every code, for tables.
    pub const ALL: [Self; 13] = [
        Self::DeadlineExceeded,
        Self::Ended,
        Self::Internal,
        Self::InvalidArgument,
        Self::NotFound,
        Self::PermissionDenied,
        Self::RateLimited,
        Self::SlowConsumer,
        Self::TooLarge,
        Self::Unauthenticated,
        Self::Unavailable,
        Self::UpgradeRequired,
        Self::Upstream,
    ];

    /// Reads the contract's word; `None` for one of a later version.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.as_str() == word)
    }

    /// The contract's word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::Ended => "ended",
            Self::Internal => "internal",
            Self::InvalidArgument => "invalid_argument",
            Self::NotFound => "not_found",
            Self::PermissionDenied => "permission_denied",
            Self::RateLimited => "rate_limited",
            Self::SlowConsumer => "slow_consumer",
            Self::TooLarge => "too_large",
            Self::Unauthenticated => "unauthenticated",
            Self::Unavailable => "unavailable",
            Self::UpgradeRequired => "upgrade_required",
            Self::Upstream => "upstream",
        }
    }

    /// The status that HTTP answers with, where the problem knows none that fits better; `None` for
    /// what only happens to a stream that was accepted.
    #[must_use]
    pub fn http_status(self) -> Option<u16> {
        match self {
            Self::DeadlineExceeded => Some(504),
            Self::Ended => Some(409),
            Self::Internal => Some(500),
            Self::InvalidArgument => Some(400),
            Self::NotFound => Some(404),
            Self::PermissionDenied => Some(403),
            Self::RateLimited => Some(429),
            Self::SlowConsumer => None,
            Self::TooLarge => Some(413),
            Self::Unauthenticated => Some(401),
            Self::Unavailable => Some(503),
            Self::UpgradeRequired => Some(426),
            Self::Upstream => Some(502),
        }
    }

    /// The gRPC status number; `None` for what gRPC can't meet.
    #[must_use]
    pub fn grpc_status(self) -> Option<u8> {
        match self {
            Self::InvalidArgument => Some(3),
            Self::DeadlineExceeded => Some(4),
            Self::NotFound => Some(5),
            Self::PermissionDenied => Some(7),
            Self::RateLimited | Self::TooLarge => Some(8),
            Self::Ended => Some(9),
            Self::SlowConsumer => Some(10),
            Self::Internal => Some(13),
            Self::Unavailable | Self::Upstream => Some(14),
            Self::Unauthenticated => Some(16),
            Self::UpgradeRequired => None,
        }
    }

    /// The WebSocket close code; `None` for what no open WebSocket can meet. Invalid arguments that
    /// are broken frames (1002) or the wrong kind of message (1003) are closed by whoever sees
    /// them; draining is 1012.
    #[must_use]
    pub fn websocket_close(self) -> Option<u16> {
        match self {
            Self::Ended => Some(1000),
            Self::InvalidArgument => Some(1007),
            Self::RateLimited => Some(1008),
            Self::TooLarge => Some(1009),
            Self::Internal => Some(1011),
            Self::SlowConsumer | Self::Unavailable => Some(1013),
            Self::Upstream => Some(1014),
            Self::Unauthenticated => Some(3000),
            Self::PermissionDenied => Some(3003),
            Self::DeadlineExceeded | Self::NotFound | Self::UpgradeRequired => None,
        }
    }

    /// Whether the same may go well later, as it is: an EventSource must then not be told by a
    /// status, at which it gives up for ever (CONTRACT 4).
    #[must_use]
    pub fn is_temporary(self) -> bool {
        match self {
            Self::RateLimited | Self::Unavailable | Self::Upstream => true,
            Self::DeadlineExceeded
            | Self::Ended
            | Self::Internal
            | Self::InvalidArgument
            | Self::NotFound
            | Self::PermissionDenied
            | Self::SlowConsumer
            | Self::TooLarge
            | Self::Unauthenticated
            | Self::UpgradeRequired => false,
        }
    }

    /// A few words for people, the same for every problem of this code (RFC 9457 `title`).
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::DeadlineExceeded => "The deadline passed",
            Self::Ended => "The channel has ended",
            Self::Internal => "Internal error",
            Self::InvalidArgument => "Invalid argument",
            Self::NotFound => "Not found",
            Self::PermissionDenied => "Permission denied",
            Self::RateLimited => "Rate limited",
            Self::SlowConsumer => "Slow consumer",
            Self::TooLarge => "Too large",
            Self::Unauthenticated => "Not authenticated",
            Self::Unavailable => "Unavailable",
            Self::UpgradeRequired => "Upgrade required",
            Self::Upstream => "Upstream failed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The contract's table: code, HTTP, gRPC, WebSocket.
    #[test]
    fn every_code_says_what_the_contract_says() {
        let table = [
            ("invalid_argument", Some(400), Some(3), Some(1007)),
            ("unauthenticated", Some(401), Some(16), Some(3000)),
            ("permission_denied", Some(403), Some(7), Some(3003)),
            ("not_found", Some(404), Some(5), None),
            ("ended", Some(409), Some(9), Some(1000)),
            ("too_large", Some(413), Some(8), Some(1009)),
            ("upgrade_required", Some(426), None, None),
            ("rate_limited", Some(429), Some(8), Some(1008)),
            ("deadline_exceeded", Some(504), Some(4), None),
            ("slow_consumer", None, Some(10), Some(1013)),
            ("upstream", Some(502), Some(14), Some(1014)),
            ("unavailable", Some(503), Some(14), Some(1013)),
            ("internal", Some(500), Some(13), Some(1011)),
        ];
        assert_eq!(table.len(), Code::ALL.len());
        for (name, http, grpc, close) in table {
            let code = Code::parse(name).unwrap();
            assert_eq!(code.http_status(), http, "{name}");
            assert_eq!((code.grpc_status(), code.websocket_close()), (grpc, close), "{name}");
            let is_temporary = ["rate_limited", "upstream", "unavailable"].contains(&name);
            assert_eq!(code.is_temporary(), is_temporary, "{name}");
        }
    }
}
