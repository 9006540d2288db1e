//! Publish commands: what `POST /publish` and an envelope's `publish` send (CONTRACT 3 and 5).
//!
//! `{"channel","event"?,"data"|"text"|"base64","type"?,"key"?,"end"?}`. A member that is not one of
//! these is an error that names it; `null` is as good as absent, except in `data`.

use std::borrow::Cow;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::channel::{ChannelName, ChannelNameError};
use crate::entry::{
    Draft, EventName, EventNameError, Key, KeyError, Publication, SessionId, Timestamp,
};
use crate::json::is_space;
use crate::payload::{Payload, PayloadError};

/// Longest content type of a command, in bytes.
pub const TYPE_BYTES_MAX: usize = 255;

/// A checked publish command.
#[derive(Clone, Debug, PartialEq)]
pub struct PublishCommand {
    /// Where it goes.
    pub channel: ChannelName,
    /// Name of the event.
    pub event: Option<EventName>,
    /// What is published; `None` for a lone end. Its bytes are a copy: a log keeps no request.
    pub payload: Option<Payload>,
    /// Idempotency key.
    pub key: Option<Key>,
    /// Whether the channel ends after it.
    pub ends: bool,
}

impl PublishCommand {
    /// Reads one command; `publisher` is whose keys these are.
    ///
    /// # Errors
    ///
    /// [`CommandError`], which says what is wrong with which member.
    pub fn parse(text: &[u8], publisher: &Arc<str>) -> Result<Self, CommandError> {
        if text.iter().find(|byte| !is_space(**byte)) != Some(&b'{') {
            return Err(CommandError::NoObject);
        }
        let raw: Raw<'_> = serde_json::from_slice(text)
            .map_err(|error| CommandError::Malformed(error.to_string()))?;
        let channel = ChannelName::parse(&raw.channel.0).map_err(CommandError::Channel)?;
        let event = raw.event.map(|it| EventName::parse(&it.0)).transpose();
        let key = raw.key.map(|it| Key::parse(Arc::clone(publisher), &it.0)).transpose();
        let content_type = raw.content_type.map(|it| it.0);
        if content_type.as_deref().is_some_and(|it| !is_type(it)) {
            return Err(CommandError::Type);
        }
        let ends = raw.end.unwrap_or(false);
        let payload = match (raw.data, raw.text, raw.base64) {
            (None, None, None) if ends => None,
            (None, None, None) => return Err(CommandError::NoPayload),
            (Some(data), None, None) => {
                Payload::json(Bytes::copy_from_slice(data.get().as_bytes())).map(Some)?
            }
            (None, Some(text), None) => Some(Payload::from_text(text.0.into_owned())),
            (None, None, Some(base64)) => {
                let bytes = STANDARD.decode(base64.0.as_bytes());
                let bytes = bytes.map_err(|error| CommandError::Base64(error.to_string()))?;
                Some(Payload::binary(bytes.into(), content_type.as_deref()))
            }
            _ => return Err(CommandError::Payloads),
        };
        let event = event.map_err(CommandError::Event)?;
        if payload.is_none() && event.is_some() {
            return Err(CommandError::EventOfEnd);
        }
        Ok(Self { channel, event, payload, key: key.map_err(CommandError::Key)?, ends })
    }

    /// The draft of this command, with what the gateway alone knows.
    #[must_use]
    pub fn into_draft(self, from: Publisher) -> Draft {
        let Publisher { user, origin, time, id } = from;
        let event = self.event;
        let publication = self.payload.map(|payload| Publication { payload, event, user, origin });
        Draft { channel: self.channel, publication, ends: self.ends, key: self.key, time, id }
    }
}

/// What a draft has beside what its publisher wrote.
#[derive(Clone, Debug)]
pub struct Publisher {
    /// Its token subject.
    pub user: Option<Box<str>>,
    /// The connection, if it also subscribes.
    pub origin: Option<SessionId>,
    /// The node's clock.
    pub time: Timestamp,
    /// Random, one per draft.
    pub id: u128,
}

/// A command as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a publication, {\"channel\",\"data\"}")]
struct Raw<'a> {
    #[serde(borrow)]
    channel: Text<'a>,
    #[serde(borrow, default)]
    event: Option<Text<'a>>,
    // `null` is a payload, so it must not become `None`.
    #[serde(borrow, default, deserialize_with = "present")]
    data: Option<&'a RawValue>,
    #[serde(borrow, default)]
    text: Option<Text<'a>>,
    #[serde(borrow, default)]
    base64: Option<Text<'a>>,
    #[serde(borrow, default, rename = "type")]
    content_type: Option<Text<'a>>,
    #[serde(borrow, default)]
    key: Option<Text<'a>>,
    #[serde(default)]
    end: Option<bool>,
}

/// A string that is borrowed where it has no escapes (in an `Option`, a bare `Cow` never is).
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

fn present<'de: 'a, 'a, D: Deserializer<'de>>(from: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(from).map(Some)
}

/// Whether it may stand in a `Content-Type` header.
fn is_type(text: &str) -> bool {
    (1..=TYPE_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic())
}

/// Why a command was refused; the publisher's fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// Its payload is no base64.
    #[error("\"base64\" is not base64 of the standard alphabet with padding: {0}")]
    Base64(String),
    /// Its channel.
    #[error("\"channel\": {0}")]
    Channel(ChannelNameError),
    /// Its event.
    #[error("\"event\": {0}")]
    Event(EventNameError),
    /// A lone end is no publication.
    #[error("an end alone has no event; give \"data\", \"text\" or \"base64\", or leave \"event\"")]
    EventOfEnd,
    /// Its key.
    #[error("\"key\": {0}")]
    Key(KeyError),
    /// A member that is unknown, missing, given twice or of a wrong kind; serde's words.
    #[error("{0}")]
    Malformed(String),
    /// JSON, but no object.
    #[error(
        "a publication is a JSON object, {{\"channel\",\"data\"}}; send one after another, not in a list"
    )]
    NoObject,
    /// Nothing to publish, and no end.
    #[error("nothing to publish; give \"data\", \"text\" or \"base64\", or \"end\": true")]
    NoPayload,
    /// Its payload.
    #[error("\"data\": {0}")]
    Payload(#[from] PayloadError),
    /// Several payloads.
    #[error("several payloads; give one of \"data\", \"text\" and \"base64\"")]
    Payloads,
    /// Its content type.
    #[error("\"type\" is no content type; up to 255 visible ASCII characters are")]
    Type,
}
