//! What is published and asked for, and what comes of it: types alone, of machines and tasks alike.

use serde::Deserialize;
use tidegate_core::ChannelName;

use crate::error::{Error, Problem};
use crate::event::{Cursor, Event, Gap, Publication, Since};
use crate::net::key;
use crate::payload::Payload;

/// A publication for an enveloped connection or a publisher of many.
#[derive(Clone, Debug)]
pub struct Message {
    channel: String,
    payload: Option<Payload>,
    event: Option<String>,
    key: Option<String>,
    is_end: bool,
}

impl Message {
    /// What goes to a channel.
    #[must_use]
    pub fn new(channel: impl Into<String>, payload: impl Into<Payload>) -> Self {
        let (channel, payload) = (channel.into(), Some(payload.into()));
        Self { channel, payload, event: None, key: None, is_end: false }
    }

    /// The end of a channel, with nothing before it.
    #[must_use]
    pub fn lone_end(channel: impl Into<String>) -> Self {
        Self { channel: channel.into(), payload: None, event: None, key: None, is_end: true }
    }

    /// Its event name; see [`Publish::event`](crate::Publish::event).
    #[must_use]
    pub fn event(mut self, event: impl Into<String>) -> Self {
        self.event = Some(event.into());
        self
    }

    /// Its idempotency key; see [`Publish::key`](crate::Publish::key).
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Ends the channel after it.
    #[must_use]
    pub fn end(mut self) -> Self {
        self.is_end = true;
        self
    }

    /// The command, with a key where none was given.
    pub(crate) fn command(self) -> Result<Command, Error> {
        let is_own_key = self.key.is_none();
        self.event.as_deref().map_or(Ok(()), |event| word("the event", event))?;
        self.key.as_deref().map_or(Ok(()), |key| word("the key", key))?;
        if let Some(Payload::Json(json)) = &self.payload {
            // One that is none would break the message that it is part of.
            let checked = tidegate_core::Payload::json(json.clone());
            checked.map_err(|error| Error::Usage(error.to_string()))?;
        }
        Ok(Command::Publish {
            channel: name(&self.channel)?,
            payload: self.payload,
            event: self.event,
            key: self.key.unwrap_or_else(key),
            is_own_key,
            is_end: self.is_end,
        })
    }
}

/// What became of a publication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// Its channel.
    pub channel: ChannelName,
    /// Its place in the log; of a lone end, that of the end.
    pub cursor: Cursor,
    /// Whether the key had been used before, so that nothing was published now. `false` where the
    /// key was made for this call, whatever became of its first attempts.
    pub is_duplicate: bool,
}

/// What a client asks for on an enveloped connection.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// What a channel had, without subscribing to it.
    History {
        /// Which.
        channel: ChannelName,
        /// From where on; the oldest that is kept where nothing is said.
        since: Option<Since>,
        /// Backwards from here instead.
        before: Option<Cursor>,
        /// How many at most, 1 to 1000.
        limit: Option<u32>,
    },
    /// Whether the gateway answers.
    Ping,
    /// Who is subscribed to a channel.
    Presence {
        /// Which.
        channel: ChannelName,
    },
    /// Publishes, ends, or both.
    Publish {
        /// Where.
        channel: ChannelName,
        /// What; `None` for a lone end.
        payload: Option<Payload>,
        /// Its event name.
        event: Option<String>,
        /// Its idempotency key.
        key: String,
        /// Whether the key was made for this command alone.
        is_own_key: bool,
        /// Whether the channel ends after it.
        is_end: bool,
    },
    /// Subscribes to a channel, for as long as the connection is there.
    Subscribe {
        /// Which.
        channel: ChannelName,
        /// Where to begin.
        since: Since,
    },
    /// Ends a subscription.
    Unsubscribe {
        /// Of which channel.
        channel: ChannelName,
    },
}

/// What a command comes to.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// To [`Command::History`].
    History(History),
    /// To [`Command::Ping`].
    Pong,
    /// To [`Command::Presence`].
    Presence(Presence),
    /// To [`Command::Publish`].
    Published(Published),
    /// To [`Command::Subscribe`].
    Subscribed {
        /// Which channel.
        channel: ChannelName,
        /// Where it begins.
        cursor: Cursor,
    },
    /// To [`Command::Unsubscribe`].
    Unsubscribed {
        /// Which channel.
        channel: ChannelName,
    },
}

/// A page of a channel's log.
#[derive(Clone, Debug, PartialEq)]
pub struct History {
    /// Oldest first.
    pub messages: Vec<Publication>,
    /// Where the next page begins.
    pub cursor: Cursor,
    /// What is missing before it.
    pub gap: Option<Gap>,
    /// Whether the channel has ended.
    pub is_ended: bool,
}

/// Who is subscribed to a channel.
#[derive(Clone, Debug, PartialEq)]
pub struct Presence {
    /// Which.
    pub channel: ChannelName,
    /// A member per connection.
    pub members: Vec<Member>,
}

/// A live subscriber.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Member {
    /// Its connection's random id.
    pub id: String,
    /// Its token's subject.
    #[serde(default)]
    pub user: Option<String>,
    /// What its token says of it.
    #[serde(default)]
    pub info: Option<serde_json::Value>,
    /// When it came, RFC 3339.
    #[serde(default)]
    pub joined: Option<String>,
}

/// How a gateway greets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// This connection's random id; a member's too.
    pub session: String,
    /// The gateway's process.
    pub node: String,
    /// Its version.
    pub version: String,
}

/// Something that an enveloped connection has to tell.
#[derive(Clone, Debug, PartialEq)]
pub enum Push {
    /// A publication, a gap, an end, or a lost connection (`Event::Retry`).
    Event(Event),
    /// Somebody came.
    Join {
        /// To which channel.
        channel: ChannelName,
        /// Who.
        member: Member,
    },
    /// Somebody left.
    Leave {
        /// Which channel.
        channel: ChannelName,
        /// Who.
        member: Member,
    },
    /// A connection stands.
    Open(Welcome),
    /// Everyone who is there, after each subscribing where presence is on.
    Presence(Presence),
    /// The gateway has ended a subscription for good.
    Unsubscribed {
        /// Of which channel.
        channel: ChannelName,
        /// Why.
        problem: Problem,
    },
}

impl Push {
    pub(crate) fn weight(&self) -> usize {
        match self {
            Self::Event(event) => event.weight(),
            Self::Presence(presence) => 64 + presence.members.len() * 256,
            Self::Join { .. } | Self::Leave { .. } | Self::Open(_) | Self::Unsubscribed { .. } => {
                512
            }
        }
    }
}

/// The name of an event, or a key: checked as far as every gateway would.
pub(crate) fn word(what: &str, text: &str) -> Result<(), Error> {
    let is_legal = (1..=128).contains(&text.len()) && text.bytes().all(|it| it.is_ascii_graphic());
    let wrong = || format!("{what} {text:?} is not 1 to 128 visible ASCII characters");
    if is_legal { Ok(()) } else { Err(Error::Usage(wrong())) }
}

/// A channel's name, checked.
pub(crate) fn name(name: &str) -> Result<ChannelName, Error> {
    ChannelName::parse(name).map_err(|error| Error::Usage(error.to_string()))
}
