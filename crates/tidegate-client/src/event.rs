//! What a subscriber gets: publications, and all that is told beside them (CONTRACT 2, 4).

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use tidegate_core::{ChannelName, GapReason};

use crate::error::Failure;
use crate::payload::Payload;

/// A place in the log of a channel, or of several (then they are joined by `.`). Opaque: keep it as
/// it is, and give it back on any wire to go on after it.
///
/// Cloning shares the text.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Cursor(Arc<str>);

impl Cursor {
    /// Takes a cursor as a gateway gave it.
    ///
    /// # Errors
    ///
    /// [`CursorError`] for what no gateway gives: only `-.0-9A-Z_a-z` are in one, and it does not
    /// begin with a lower-case letter, as `start` and `now` do.
    pub fn parse(text: &str) -> Result<Self, CursorError> {
        let is_legal = |it: u8| it.is_ascii_alphanumeric() || matches!(it, b'-' | b'_' | b'.');
        let begins = text.bytes().next().is_some_and(|it| !it.is_ascii_lowercase() && it != b'.');
        if begins && text.len() <= BYTES_MAX && text.bytes().all(is_legal) {
            return Ok(Self(text.into()));
        }
        Err(CursorError(text.chars().take(40).collect()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A hundred cursors of 40 bytes, joined.
const BYTES_MAX: usize = 100 * 41;

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// A text that is no cursor; whoever made it is at fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no cursor; use one as it was given, or \"start\" or \"now\"")]
pub struct CursorError(pub String);

/// Where a subscription begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Since {
    /// After a cursor. A channel of several that the cursor does not name begins now.
    After(Cursor),
    /// With the newest so many of each channel, then on.
    Last(u32),
    /// With what is published from now on.
    #[default]
    Now,
    /// With the oldest that is kept.
    Start,
}

impl From<Cursor> for Since {
    fn from(cursor: Cursor) -> Self {
        Self::After(cursor)
    }
}

impl FromStr for Since {
    type Err = CursorError;

    /// Reads the query's `since`: `start`, `now` or a cursor.
    fn from_str(text: &str) -> Result<Self, CursorError> {
        match text {
            "now" => Ok(Self::Now),
            "start" => Ok(Self::Start),
            text => Cursor::parse(text).map(Self::After),
        }
    }
}

/// A way of a channel to its subscribers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Wire {
    /// A WebSocket with `envelope=1`: each message has its cursor.
    Ws,
    /// A bare WebSocket of one channel, payloads alone. Where it was cut without a word, what was
    /// had since its last cursor is asked for again and left out by count: after a gap that may
    /// fail, and publications may come twice then. Take it where the payload is all that counts.
    WsBare,
    /// Server-Sent Events.
    Sse,
    /// A stream of lines.
    Ndjson,
    /// A request per answer, each of which waits until there is something.
    LongPoll,
    /// A request every other second.
    Poll,
}

impl Wire {
    /// Every wire, for tables.
    pub const ALL: [Self; 6] =
        [Self::Ws, Self::WsBare, Self::Sse, Self::Ndjson, Self::LongPoll, Self::Poll];

    /// The contract's word for it; both WebSockets are `ws` there, the bare one is `ws-bare` here.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ws => "ws",
            Self::WsBare => "ws-bare",
            Self::Sse => "sse",
            Self::Ndjson => "ndjson",
            Self::LongPoll => "long-poll",
            Self::Poll => "poll",
        }
    }

    /// Whether it is a WebSocket.
    #[must_use]
    pub fn is_websocket(self) -> bool {
        matches!(self, Self::Ws | Self::WsBare)
    }

    /// Whether each answer is a page and the end of its request.
    #[must_use]
    pub fn is_paged(self) -> bool {
        matches!(self, Self::LongPoll | Self::Poll)
    }
}

impl fmt::Display for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which wire a subscription takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// A WebSocket; where something on the way breaks it, Server-Sent Events; then long-polls.
    #[default]
    Auto,
    /// This one and no other.
    Only(Wire),
}

impl From<Wire> for Choice {
    fn from(wire: Wire) -> Self {
        Self::Only(wire)
    }
}

impl FromStr for Choice {
    type Err = WireError;

    /// Reads `auto`, or the name of a wire.
    fn from_str(name: &str) -> Result<Self, WireError> {
        if name == "auto" {
            return Ok(Self::Auto);
        }
        let wire = Wire::ALL.into_iter().find(|it| it.as_str() == name);
        match (wire, name) {
            (Some(wire), _) => Ok(Self::Only(wire)),
            (None, "ws2" | "ws3" | "grpc" | "grpc-web") => Err(WireError::NotYet(name.into())),
            (None, _) => Err(WireError::Unknown(name.into())),
        }
    }
}

/// A name that is no wire's; the caller's fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A wire of HTTP/2 or 3.
    #[error("wire {0:?} is not in this version yet; use auto, ws, sse, ndjson, long-poll or poll")]
    NotYet(String),
    /// No wire at all.
    #[error("{0:?} is no wire; auto, ws, ws-bare, sse, ndjson, long-poll and poll are")]
    Unknown(String),
}

/// Something that a subscription has to tell. Publications, gaps and ends of one channel come in its
/// log's order.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A channel has ended: nothing more comes from it. After the end of all, the subscription ends.
    End(End),
    /// Publications were or may have been missed.
    Gap(Gap),
    /// A connection stands: the first one, or one after a [`Event::Retry`]. Of polls it is told with
    /// the first answer.
    Open(Open),
    /// Something was published.
    Publication(Publication),
    /// The connection was lost, or did not come about; there will be another.
    Retry(Retry),
}

/// A connection that stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// By which wire.
    pub wire: Wire,
    /// Where it began; `None` where the gateway did not say.
    pub cursor: Option<Cursor>,
}

/// A publication (CONTRACT 4).
#[derive(Clone, Debug, PartialEq)]
pub struct Publication {
    /// Its channel.
    pub channel: ChannelName,
    /// Where it is in its channel's log; `None` on a bare WebSocket alone.
    pub cursor: Option<Cursor>,
    /// When the gateway accepted it, RFC 3339; `None` on a bare WebSocket alone.
    pub time: Option<Box<str>>,
    /// Its event name.
    pub event: Option<Box<str>>,
    /// The subject of the publisher's token; the gateway says it, nobody else can.
    pub user: Option<Box<str>>,
    /// What was published.
    pub payload: Payload,
}

impl Publication {
    /// Bytes that it is charged with in a queue.
    pub(crate) fn weight(&self) -> usize {
        let texts = [&self.event, &self.user, &self.time];
        let texts: usize = texts.iter().filter_map(|it| Some(it.as_deref()?.len())).sum();
        self.payload.bytes().len() + texts + OVERHEAD
    }
}

/// An event's struct, its cursor and the allocator's rounding.
const OVERHEAD: usize = 320;

impl Event {
    /// Bytes that it is charged with in a queue.
    pub(crate) fn weight(&self) -> usize {
        match self {
            Self::Publication(it) => it.weight(),
            Self::End(_) | Self::Gap(_) | Self::Open(_) | Self::Retry(_) => OVERHEAD,
        }
    }
}

/// Publications after `requested` were or may have been missed; the stream goes on after `resumed`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// In which channel.
    pub channel: ChannelName,
    /// Where the subscription was; `None` where nobody knows (a bare WebSocket).
    pub requested: Option<Cursor>,
    /// The earliest point from which nothing is missing.
    pub resumed: Option<Cursor>,
    /// Why; `None` where it was not said (a bare WebSocket), or in a word from a later version.
    pub reason: Option<GapReason>,
}

/// The end of a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// Which.
    pub channel: ChannelName,
    /// The end's own place in the log, where it was said.
    pub cursor: Option<Cursor>,
}

/// A connection that was lost or did not come about, and when the next is tried.
#[derive(Clone, Debug, PartialEq)]
pub struct Retry {
    /// What happened.
    pub failure: Failure,
    /// How long from now the next attempt is.
    pub delay: Duration,
    /// How many attempts in a row have failed, this one included; 0 where one had stood and brought
    /// something before it was lost.
    pub attempts: u32,
    /// By which wire the next one is.
    pub wire: Wire,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_what_a_gateway_gives() {
        for good in ["C1", "-0_z", "AAAA.BBBB", &"Z".repeat(4100)] {
            assert_eq!(Cursor::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", "now", "start", ".A", "A B", "A&last=1", "A\r\n", &"Z".repeat(4101)] {
            assert!(Cursor::parse(bad).is_err(), "{bad:?}");
        }
        assert_eq!("now".parse(), Ok(Since::Now));
        assert_eq!("start".parse(), Ok(Since::Start));
        assert!(matches!("C1".parse(), Ok(Since::After(_))));
    }

    #[test]
    fn wires_have_the_contracts_names() {
        for wire in Wire::ALL {
            assert_eq!(wire.as_str().parse(), Ok(Choice::Only(wire)));
        }
        assert_eq!("auto".parse(), Ok(Choice::Auto));
        assert_eq!("ws2".parse::<Choice>(), Err(WireError::NotYet("ws2".into())));
        assert_eq!("tcp".parse::<Choice>(), Err(WireError::Unknown("tcp".into())));
    }
}
