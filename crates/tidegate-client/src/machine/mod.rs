//! What a client does, without IO, clock or randomness of its own: it is given `now`, bytes and a
//! seed, and says what to connect to, what to send, what to tell and when to be woken.
//!
//! ```text
//!  session   a subscription on any wire        backoff   when to try again
//!  link      an enveloped connection           ladder    which wire `auto` takes
//!  post      one publication                   form      the JSON form, read
//!  batch     a stream of publications
//! ```
//! Each is driven alike: call a `handle_*`, then drain every `poll_*`, then wait for the earliest of
//! the network and `poll_timeout`, which is asked anew each time. The crate's
//! tasks do that.

pub mod backoff;
pub mod batch;
mod form;
pub mod ladder;
pub mod link;
pub mod post;
pub mod session;

use std::time::Duration;

/// What an answer's head says that matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// The status; 101 only where the upgrade was checked (RFC 6455 §4.1).
    pub status: u16,
    /// `Tidegate-Cursor`.
    pub cursor: Option<String>,
    /// `Content-Type`, without its parameters, in lower case.
    pub content_type: Option<String>,
    /// `Location`.
    pub location: Option<String>,
    /// `Retry-After` (RFC 9110 §10.2.3).
    pub retry_after: Option<Duration>,
}

/// Bounds on what a peer can make a client keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one message, event or line on the wire. JSON escapes make a text up to six times as
    /// long as it is, so that this is larger than the gateway's bound of 1 MiB. Over it: the
    /// subscription fails. Default: 8 MiB.
    pub message_bytes_max: u32,
    /// Bytes of a poll's answer. Over it: fewer messages are asked for; where one alone is over it,
    /// the subscription fails. Default: 32 MiB.
    pub page_bytes_max: usize,
    /// Messages that a poll asks for, 1 to 1000. Default: 100.
    pub page_messages_max: u32,
    /// Bytes that wait for who reads a subscription; over it nothing more is read from the network,
    /// and the gateway does what its policy for slow subscribers is. Default: 1 MiB.
    pub queue_bytes_max: u32,
    /// Bytes of an answer's head, and of a refusal's body 64 KiB. Default: 16 KiB.
    pub head_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message_bytes_max: 8 << 20,
            page_bytes_max: 32 << 20,
            page_messages_max: 100,
            queue_bytes_max: 1 << 20,
            head_bytes_max: 16 << 10,
        }
    }
}

/// How long things may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Connecting, sending a request and the answer's head together; a long-poll has its wait
    /// beside. Default: 10 s.
    pub open_timeout: Duration,
    /// A WebSocket is pinged when nothing came for so long. Default: 20 s.
    pub ping_interval: Duration,
    /// A WebSocket is given up when nothing came for so long after a ping. Default: 10 s.
    pub ping_timeout: Duration,
    /// A stream without pings is given up when nothing came for so long; a gateway sends something
    /// every 15 s. Default: 40 s.
    pub silence_max: Duration,
    /// How long a long-poll waits, 1 to 60 s. Default: 25 s.
    pub long_poll_wait: Duration,
    /// Between two polls of which the first brought nothing. Default: 2 s.
    pub poll_interval: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            open_timeout: Duration::from_secs(10),
            ping_interval: Duration::from_secs(20),
            ping_timeout: Duration::from_secs(10),
            silence_max: Duration::from_secs(40),
            long_poll_wait: Duration::from_secs(25),
            poll_interval: Duration::from_secs(2),
        }
    }
}

/// A connection that lived so long has worked, even if nothing came on it.
const WORKED: Duration = Duration::from_secs(5);

/// Bytes of a refusal's body that are read for what it says.
const REFUSAL_BYTES_MAX: usize = 64 << 10;

/// An answer that is not what was asked for, whose body says why as it comes.
#[derive(Debug)]
struct Refusal {
    head: Head,
    body: Vec<u8>,
}

impl Refusal {
    fn new(head: Head) -> Self {
        Self { head, body: Vec::new() }
    }

    /// Takes a piece of the body, as far as it is read; whether that is all of it.
    fn push(&mut self, data: &[u8]) -> bool {
        let room = REFUSAL_BYTES_MAX - self.body.len();
        self.body.extend_from_slice(data.get(..room.min(data.len())).unwrap_or_default());
        self.body.len() == REFUSAL_BYTES_MAX
    }

    /// What it says.
    fn failure(&self) -> crate::error::Failure {
        refusal(&self.head, &self.body)
    }
}

/// What a refusal says: a gateway's own words, or a status of something on the way.
pub(crate) fn refusal(head: &Head, body: &[u8]) -> crate::error::Failure {
    use crate::error::{Failure, Problem};
    let status = head.status;
    if (300..400).contains(&status) && status != 304 {
        return Failure::Redirect { status, location: head.location.clone() };
    }
    let is_problem = head.content_type.as_deref() == Some("application/problem+json");
    match Problem::parse(body).filter(|_| is_problem) {
        Some(mut problem) => {
            // The header is what is between us and the gateway too, and may know better.
            problem.retry_after = problem.retry_after.max(head.retry_after);
            problem.status = Some(status);
            Failure::Problem(problem)
        }
        None if (200..300).contains(&status) => {
            Failure::Foreign { content_type: head.content_type.clone() }
        }
        None => Failure::Status { status, retry_after: head.retry_after },
    }
}
