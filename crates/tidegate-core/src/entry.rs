//! Entries of a log: publications and ends, and the drafts that become them (CONTRACT 1–3).
//!
//! An entry is made once, by the broker, and shared by everything that reads it.

use std::fmt;
use std::sync::Arc;

use crate::channel::ChannelName;
use crate::cursor::{Cursor, Position};
use crate::payload::Payload;

/// Microseconds since 1970-01-01T00:00:00Z, by the accepting node's clock.
///
/// Users see milliseconds (CONTRACT 2); the rest is for measuring how long a delivery took.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub u64);

/// A random id of one connection; what it publishes carries it, so that it can be left out of its
/// own stream (`echo=0`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// As clients and logs have it: 16 hexadecimal digits.
impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// One entry of a channel's log.
#[derive(Debug, PartialEq)]
pub struct Entry {
    /// The channel.
    pub channel: ChannelName,
    /// Its place in the log.
    pub position: Position,
    /// An offset behind which, up to this entry, the channel has no other: the entry before it, or
    /// the log's floor. Whoever stands at or after `prev` misses nothing by taking this entry.
    pub prev: u64,
    /// When the broker's node accepted it.
    pub time: Timestamp,
    /// What it is.
    pub body: Body,
}

impl Entry {
    /// The cursor that resumes after this entry.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        self.position.cursor(&self.channel)
    }

    /// Its place in a table of so many, in which entries that come together lie apart.
    #[must_use]
    pub fn slot(&self, count: usize) -> usize {
        let slot = (self.position.offset ^ self.channel.tag()).checked_rem(count as u64);
        slot.and_then(|it| usize::try_from(it).ok()).unwrap_or_default()
    }

    /// Bytes that this entry is charged with in a log or a queue: its texts and a fixed overhead.
    #[must_use]
    pub fn weight(&self) -> usize {
        /// The struct, its share of the allocator's rounding, and its slot in a queue.
        const OVERHEAD: usize = 256;
        OVERHEAD
            + match &self.body {
                Body::Publication(it) => {
                    it.payload.bytes.len()
                        + it.event.as_deref().map_or(0, str::len)
                        + it.user.as_deref().map_or(0, str::len)
                        + it.payload.content_type.as_deref().map_or(0, str::len)
                }
                Body::End => 0,
            }
    }

    /// Whether this entry ends its channel.
    #[must_use]
    pub fn is_end(&self) -> bool {
        matches!(self.body, Body::End)
    }

    /// Which connection published it.
    #[must_use]
    pub fn origin(&self) -> Option<SessionId> {
        self.publication()?.origin
    }

    /// The publication, unless this is an end.
    #[must_use]
    pub fn publication(&self) -> Option<&Publication> {
        match &self.body {
            Body::Publication(it) => Some(it),
            Body::End => None,
        }
    }
}

/// What an [`Entry`] is.
#[derive(Debug, PartialEq)]
pub enum Body {
    /// Something was published.
    Publication(Publication),
    /// The channel ended; nothing follows while this is kept.
    End,
}

/// What was published.
#[derive(Clone, Debug, PartialEq)]
pub struct Publication {
    /// The payload, byte for byte.
    pub payload: Payload,
    /// Name of the event.
    pub event: Option<EventName>,
    /// The publisher's token subject, set by the gateway alone.
    pub user: Option<Box<str>>,
    /// The connection it came on, if it came on one that also subscribes.
    pub origin: Option<SessionId>,
}

/// A publication, an end, or both, before the broker has accepted it.
#[derive(Clone, Debug)]
pub struct Draft {
    /// Where it goes.
    pub channel: ChannelName,
    /// What is published; `None` for a lone end.
    pub publication: Option<Publication>,
    /// Whether the channel ends after it.
    pub ends: bool,
    /// Idempotency key, and whose it is.
    pub key: Option<Key>,
    /// The accepting node's clock.
    pub time: Timestamp,
    /// Random, one per draft: a gateway's own retries of one draft can't double it.
    pub id: u128,
}

/// An idempotency key (CONTRACT 3): one namespace per publisher and channel.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// Token subject or API key's name; empty where there is no access control.
    pub publisher: Arc<str>,
    /// 1–128 bytes.
    pub key: Box<str>,
}

impl Key {
    /// Checks the key's text.
    ///
    /// # Errors
    ///
    /// A sentence on what is wrong.
    pub fn parse(publisher: Arc<str>, key: &str) -> Result<Self, KeyError> {
        match key.len() {
            1..=128 => Ok(Self { publisher, key: key.into() }),
            len => Err(KeyError(len)),
        }
    }
}

/// An idempotency key of a wrong length, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("idempotency key has {0} bytes; 1 to 128 are allowed")]
pub struct KeyError(pub usize);

/// A legal event name: 1–128 visible ASCII bytes that are not the gateway's own.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EventName(Box<str>);

impl EventName {
    /// Checks `name`.
    ///
    /// # Errors
    ///
    /// [`EventNameError`], which says what is wrong.
    pub fn parse(name: &str) -> Result<Self, EventNameError> {
        if name.is_empty() || name.len() > 128 {
            return Err(EventNameError::Length(name.len()));
        }
        if let Some(found) = name.chars().find(|c| !c.is_ascii_graphic()) {
            return Err(EventNameError::Character(found));
        }
        if name == "error" || name == "open" || name.starts_with("tidegate-") {
            return Err(EventNameError::Reserved(name.into()));
        }
        Ok(Self(name.into()))
    }
}

impl std::ops::Deref for EventName {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

/// Why an event name was refused; the caller's fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EventNameError {
    /// Not visible ASCII.
    #[error("event name has {0:?}; visible ASCII is allowed")]
    Character(char),
    /// Not 1 to 128 bytes.
    #[error("event name has {0} bytes; 1 to 128 are allowed")]
    Length(usize),
    /// One of the gateway's own.
    #[error(
        "event name {0:?} is the gateway's; \"error\", \"open\" and \"tidegate-…\" are reserved"
    )]
    Reserved(Box<str>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, is_legal: bool) {
        assert_eq!(EventName::parse(name).is_ok(), is_legal, "{name:?}");
    }

    #[test]
    fn event_names_are_visible_ascii_and_not_ours() {
        check("tick", true);
        check("errors", true);
        check(&"e".repeat(128), true);
        for name in ["", "a b", "a\nb", "ä", "error", "open", "tidegate-", "tidegate-gap"] {
            check(name, false);
        }
        check(&"e".repeat(129), false);
    }
}
