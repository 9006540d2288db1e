//! What goes wrong, and whose fault it is (CONTRACT 7).
//!
//! ```text
//!  Problem   what a gateway says of a request, a stream or a command: code, detail, retry_after
//!  Failure   why one attempt failed: a problem, or what the network or something between did
//!  Error     why the whole failed: a failure that no further attempt can mend, or one too many
//! ```

use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use tidegate_core::Code;

use crate::url::UrlError;

/// What kind of problem it is: the word of CONTRACT 7, or one from a later version.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Word {
    /// One of this version.
    Known(Code),
    /// Another.
    Unknown(Box<str>),
}

impl Word {
    /// Reads the contract's word.
    #[must_use]
    pub fn parse(word: &str) -> Self {
        let unknown = || Self::Unknown(word.chars().take(WORD_CHARS_MAX).collect());
        Code::parse(word).map_or_else(unknown, Self::Known)
    }

    /// The contract's word.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Known(code) => code.as_str(),
            Self::Unknown(word) => word,
        }
    }

    /// Whether the same may go well later, as it is.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Known(code) => is_temporary(*code),
            Self::Unknown(_) => false,
        }
    }

    /// Whose fault it is.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Known(code) => fault(*code),
            Self::Unknown(_) => Fault::Server,
        }
    }
}

impl From<Code> for Word {
    fn from(code: Code) -> Self {
        Self::Known(code)
    }
}

impl PartialEq<Code> for Word {
    fn eq(&self, code: &Code) -> bool {
        *self == Self::Known(*code)
    }
}

/// What a client may try again as it is. A gateway's own list, of what an EventSource must not be
/// refused with, is shorter.
fn is_temporary(code: Code) -> bool {
    match code {
        Code::DeadlineExceeded
        | Code::Internal
        | Code::RateLimited
        | Code::SlowConsumer
        | Code::Unavailable
        | Code::Upstream => true,
        Code::Ended
        | Code::InvalidArgument
        | Code::NotFound
        | Code::PermissionDenied
        | Code::TooLarge
        | Code::Unauthenticated
        | Code::UpgradeRequired => false,
    }
}

fn fault(code: Code) -> Fault {
    match code {
        Code::Internal | Code::Unavailable | Code::Upstream => Fault::Server,
        Code::DeadlineExceeded
        | Code::Ended
        | Code::InvalidArgument
        | Code::NotFound
        | Code::PermissionDenied
        | Code::RateLimited
        | Code::SlowConsumer
        | Code::TooLarge
        | Code::Unauthenticated
        | Code::UpgradeRequired => Fault::Caller,
    }
}

/// The code that a WebSocket's close stands for (CONTRACT 7); `None` where it stands for none.
fn of_close(code: u16) -> Option<Code> {
    Some(match code {
        1002 | 1003 | 1007 => Code::InvalidArgument,
        1008 => Code::RateLimited,
        1009 => Code::TooLarge,
        1011 => Code::Internal,
        1012 | 1013 => Code::Unavailable,
        1014 => Code::Upstream,
        3000 => Code::Unauthenticated,
        3003 => Code::PermissionDenied,
        _ => return None,
    })
}

/// What of an unknown word is worth keeping.
const WORD_CHARS_MAX: usize = 64;

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whose fault a failure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// Who uses this crate: what was asked for can't be had like this.
    Caller,
    /// The network, or something between here and the gateway.
    Network,
    /// The gateway.
    Server,
}

/// What a gateway says went wrong.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    /// What kind.
    pub code: Word,
    /// The status, where it came as an answer of HTTP.
    pub status: Option<u16>,
    /// What, where and what to do, in the gateway's words.
    pub detail: String,
    /// How long to wait before the next attempt.
    pub retry_after: Option<Duration>,
    /// Whether a publication may have been accepted all the same. To repeat it with the same key is
    /// safe.
    pub is_outcome_unknown: bool,
}

impl Problem {
    /// A problem of which only the code is known.
    #[must_use]
    pub fn of(code: impl Into<Word>) -> Self {
        let detail = String::new();
        Self {
            code: code.into(),
            status: None,
            detail,
            retry_after: None,
            is_outcome_unknown: false,
        }
    }

    /// Reads a problem in JSON: an answer's `application/problem+json`, a stream's or an envelope's
    /// error object. `None` if it is none.
    #[must_use]
    pub fn parse(json: &[u8]) -> Option<Self> {
        let raw: RawProblem = serde_json::from_slice(json).ok()?;
        Some(raw.into())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.status, self.detail.as_str()) {
            (Some(status), "") => write!(f, "{} ({status})", self.code),
            (Some(status), detail) => write!(f, "{} ({status}): {detail}", self.code),
            (None, "") => write!(f, "{}", self.code),
            (None, detail) => write!(f, "{}: {detail}", self.code),
        }
    }
}

/// A problem as HTTP, a stream or an envelope has it.
#[derive(Debug, Deserialize)]
pub(crate) struct RawProblem {
    code: String,
    #[serde(default)]
    status: Option<u16>,
    #[serde(default)]
    detail: Option<String>,
    #[serde(default)]
    message: Option<String>,
    #[serde(default)]
    retry_after: Option<f64>,
    #[serde(default)]
    outcome: Option<String>,
}

impl From<RawProblem> for Problem {
    fn from(raw: RawProblem) -> Self {
        let mut detail = raw.detail.or(raw.message).unwrap_or_default();
        detail.truncate(detail.floor_char_boundary(DETAIL_BYTES_MAX));
        Self {
            code: Word::parse(&raw.code),
            status: raw.status,
            detail,
            retry_after: raw.retry_after.and_then(seconds),
            is_outcome_unknown: raw.outcome.as_deref() == Some("unknown"),
        }
    }
}

/// Longest detail that is kept, in bytes.
const DETAIL_BYTES_MAX: usize = 4096;

/// Seconds as JSON has them; a negative number is none, and too large a one is the most there is.
fn seconds(value: f64) -> Option<Duration> {
    (value >= 0.0).then(|| Duration::try_from_secs_f64(value).unwrap_or(Duration::MAX))
}

/// Why one attempt failed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Failure {
    /// A WebSocket was closed with this code.
    #[error("the WebSocket was closed: {}{}", close(*.code), words(.reason))]
    Closed {
        /// The code, if there was one (RFC 6455 §7.4).
        code: Option<u16>,
        /// In the peer's words.
        reason: String,
    },
    /// The connection broke before what came on it was whole.
    #[error("the connection was cut: {0}")]
    Cut(String),
    /// Something answered 200 that is no gateway, or no gateway on this path.
    #[error("the answer is {}, which is not a gateway's", .content_type.as_deref().unwrap_or("of no type"))]
    Foreign {
        /// What it said it is.
        content_type: Option<String>,
    },
    /// The gateway says what is wrong.
    #[error("{0}")]
    Problem(Problem),
    /// The peer broke the wire's protocol.
    #[error("the peer broke the protocol: {0}")]
    Protocol(String),
    /// A redirect, which is not followed.
    #[error("the answer is a redirect ({status}) to {}, which is not followed; give that URL instead", .location.as_deref().unwrap_or("nowhere"))]
    Redirect {
        /// The status, 3xx.
        status: u16,
        /// Where it leads.
        location: Option<String>,
    },
    /// What was asked for can't be written as a request.
    #[error("the request can't be written: {0}")]
    Request(String),
    /// Nothing came for so long; the connection was given up.
    #[error("nothing came for {} ms; the connection was given up", .0.as_millis())]
    Silent(Duration),
    /// Another status than a gateway's, in words that are not a gateway's: something between.
    #[error("the answer has status {status}, and is not a gateway's: something on the way gave it")]
    Status {
        /// The status.
        status: u16,
        /// Its `Retry-After`.
        retry_after: Option<Duration>,
    },
    /// No answer in time.
    #[error("{what} took longer than {} ms", .after.as_millis())]
    Timeout {
        /// What did not come.
        what: &'static str,
        /// Within how long.
        after: Duration,
    },
    /// The peer sent more than is allowed.
    #[error("{what} is larger than the {bytes_max} bytes that are allowed")]
    TooLarge {
        /// What.
        what: &'static str,
        /// The bound, in bytes.
        bytes_max: usize,
    },
    /// No connection came about.
    #[error("can't connect to {address}: {reason}")]
    Unreachable {
        /// Host and port.
        address: String,
        /// In the system's words.
        reason: String,
    },
}

fn close(code: Option<u16>) -> String {
    code.map_or_else(|| "without a code".to_owned(), |code| code.to_string())
}

fn words(reason: &str) -> String {
    if reason.is_empty() { String::new() } else { format!(" ({reason})") }
}

impl Failure {
    /// Whether another attempt may go well.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Problem(problem) => problem.code.is_temporary(),
            Self::Status { status, .. } => matches!(status, 408 | 425 | 429 | 500..=599),
            Self::Closed { code, .. } => code.and_then(of_close).is_none_or(is_temporary),
            Self::Cut(_)
            | Self::Protocol(_)
            | Self::Silent(_)
            | Self::Timeout { .. }
            | Self::Unreachable { .. } => true,
            Self::Foreign { .. }
            | Self::Redirect { .. }
            | Self::Request(_)
            | Self::TooLarge { .. } => false,
        }
    }

    /// Whose fault it is.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Problem(problem) => problem.code.fault(),
            Self::Closed { code, .. } => code.and_then(of_close).map_or(Fault::Server, fault),
            Self::Redirect { .. } | Self::Request(_) => Fault::Caller,
            Self::Protocol(_) | Self::TooLarge { .. } => Fault::Server,
            Self::Cut(_)
            | Self::Foreign { .. }
            | Self::Silent(_)
            | Self::Status { .. }
            | Self::Timeout { .. }
            | Self::Unreachable { .. } => Fault::Network,
        }
    }

    /// What the gateway said, if it is that.
    #[must_use]
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Problem(problem) => Some(problem),
            _ => None,
        }
    }

    /// How long the peer asks to wait before the next attempt.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Problem(problem) => problem.retry_after,
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// Why the whole failed: there will be no further attempt.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    /// The connection that this was for is gone: its owner dropped it.
    #[error("the connection is closed")]
    Closed,
    /// One failure too many, or the time for it is over.
    #[error("gave up after {attempts} attempts: {last}")]
    Exhausted {
        /// How many there were.
        attempts: u32,
        /// How the last one failed.
        last: Failure,
        /// Of a publication: whether it may be in the log all the same. A call with the same key
        /// finds out.
        is_outcome_unknown: bool,
    },
    /// A failure that no further attempt can mend.
    #[error("{0}")]
    Failed(Failure),
    /// The URL.
    #[error(transparent)]
    Url(#[from] UrlError),
    /// What was asked for goes not together.
    #[error("{0}")]
    Usage(String),
}

impl Error {
    /// Whose fault it is.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Closed | Self::Url(_) | Self::Usage(_) => Fault::Caller,
            Self::Exhausted { last, .. } => last.fault(),
            Self::Failed(failure) => failure.fault(),
        }
    }

    /// How the last attempt failed, if there was one.
    #[must_use]
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Exhausted { last, .. } => Some(last),
            Self::Failed(failure) => Some(failure),
            Self::Closed | Self::Url(_) | Self::Usage(_) => None,
        }
    }

    /// What the gateway said, if it is that.
    #[must_use]
    pub fn problem(&self) -> Option<&Problem> {
        self.failure().and_then(Failure::problem)
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_read_from_each_of_its_forms() {
        let problem = Problem::parse(
            br#"{"type":"urn:tidegate:error:unavailable","title":"x","status":503,"detail":"away",
                "code":"unavailable","retry_after":1.5,"outcome":"unknown"}"#,
        );
        let expect = Problem {
            code: Code::Unavailable.into(),
            status: Some(503),
            detail: "away".into(),
            retry_after: Some(Duration::from_millis(1500)),
            is_outcome_unknown: true,
        };
        assert_eq!(problem, Some(expect));
        let problem = Problem::parse(br#"{"code":"rate_limited","message":"slower"}"#).unwrap();
        assert_eq!(problem.code, Code::RateLimited);
        assert_eq!(problem.detail, "slower");
        assert_eq!(Problem::parse(b"<html>"), None);
        assert_eq!(Problem::parse(b"{\"detail\":\"x\"}"), None);
        for (text, expect) in
            [("-1", None), ("1e300", Some(Duration::MAX)), ("0", Some(Duration::ZERO))]
        {
            let json = format!("{{\"code\":\"x\",\"retry_after\":{text}}}");
            assert_eq!(Problem::parse(json.as_bytes()).unwrap().retry_after, expect);
        }
    }

    #[test]
    fn codes_are_the_contracts() {
        for code in Code::ALL {
            assert_eq!(Word::parse(code.as_str()), code);
        }
        assert_eq!(Word::parse("brand_new"), Word::Unknown("brand_new".into()));
    }

    #[test]
    fn what_may_go_well_later_is_temporary() {
        let temporary = [
            Failure::Cut(String::new()),
            Failure::Status { status: 502, retry_after: None },
            Failure::Closed { code: Some(1012), reason: String::new() },
            Failure::Closed { code: None, reason: String::new() },
            Failure::Problem(Problem::of(Code::RateLimited)),
        ];
        assert!(temporary.iter().all(Failure::is_temporary));
        let lasting = [
            Failure::Status { status: 404, retry_after: None },
            Failure::Closed { code: Some(3003), reason: String::new() },
            Failure::Redirect { status: 302, location: None },
            Failure::Problem(Problem::of(Code::InvalidArgument)),
        ];
        assert!(!lasting.iter().any(Failure::is_temporary));
    }
}
