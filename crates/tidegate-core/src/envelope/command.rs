//! Publish commands: what `POST /publish` and an envelope's `publish` send (CONTRACT 3 and 5).
//!
//! `{"channel","event"?,"data"|"text"|"base64","type"?,"key"?,"end"?}`. A member that is not one of
//! these is an error that names it; `null` is as good as absent, except in `data`.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::member::{Text, present};
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
        let raw: Raw<'_> =
            serde_json::from_slice(text).map_err(|error| CommandError::malformed(&error))?;
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

impl CommandError {
    /// What serde found, shortened where it repeats a long text of the publisher's.
    fn malformed(error: &serde_json::Error) -> Self {
        const BYTES_MAX: usize = 300;
        let mut message = error.to_string();
        if message.len() > BYTES_MAX {
            message.truncate(message.floor_char_boundary(BYTES_MAX));
            message.push_str(&format!(
                "\u{2026} at line {} column {}",
                error.line(),
                error.column()
            ));
        }
        Self::Malformed(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::PayloadKind::{Binary, Json, Text as Words};

    fn parse(text: &str) -> Result<PublishCommand, CommandError> {
        PublishCommand::parse(text.as_bytes(), &Arc::from("me"))
    }

    /// Checks the payload of a command with these members beside its channel.
    #[track_caller]
    fn check(members: &str, expect: Option<(crate::PayloadKind, &[u8], Option<&str>)>) {
        let command = parse(&format!("{{\"channel\":\"a.b\",{members}}}")).unwrap();
        assert_eq!(command.channel.as_str(), "a.b");
        let payload = command.payload.as_ref();
        let found = payload.map(|it| (it.kind, it.bytes.as_ref(), it.content_type.as_deref()));
        assert_eq!(found, expect);
    }

    #[track_caller]
    fn check_error(text: &str, expect: &str) {
        assert_eq!(parse(text).unwrap_err().to_string(), expect);
    }

    #[test]
    fn a_payload_is_one_of_three() {
        check(r#""data":{"a" : [1.0,"\u00fc"]}"#, Some((Json, br#"{"a" : [1.0,"\u00fc"]}"#, None)));
        check(r#""data": null "#, Some((Json, b"null", None)));
        check(r#""text":"a\"\u00fc\n""#, Some((Words, "a\"\u{fc}\n".as_bytes(), None)));
        check(r#""text":"""#, Some((Words, b"", None)));
        check(r#""base64":"AP8=""#, Some((Binary, b"\0\xff", None)));
        check(
            r#""base64":"AP8=","type":"image/png""#,
            Some((Binary, b"\0\xff", Some("image/png"))),
        );
        // Only what is binary has a type: JSON and text say themselves what they are.
        check(r#""text":"x","type":"text/html""#, Some((Words, b"x", None)));
        check(r#""end":true"#, None);
        check(
            r#""data":1,"text":null,"base64":null,"event":null,"key":null,"end":null,"type":null"#,
            Some((Json, b"1", None)),
        );
    }

    #[test]
    fn all_members_arrive_in_the_draft() {
        let command =
            parse(r#" {"end":true,"key":"k","event":"tick","data":1,"channel":"a"}"#).unwrap();
        let publisher = Publisher {
            user: Some("ann".into()),
            origin: Some(SessionId(4)),
            time: Timestamp(5),
            id: 6,
        };
        let draft = command.into_draft(publisher);
        assert_eq!(draft.channel.as_str(), "a");
        assert_eq!(draft.key, Some(Key { publisher: "me".into(), key: "k".into() }));
        assert_eq!((draft.ends, draft.time, draft.id), (true, Timestamp(5), 6));
        let publication = draft.publication.unwrap();
        assert_eq!(publication.event.as_deref(), Some("tick"));
        assert_eq!(publication.user.as_deref(), Some("ann"));
        assert_eq!(publication.origin, Some(SessionId(4)));
        assert_eq!(publication.payload.bytes, "1");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let members =
            "expected one of `channel`, `event`, `data`, `text`, `base64`, `type`, `key`, `end`";
        check_error(
            r#"{"channel":"a","chanel":1}"#,
            &format!("unknown field `chanel`, {members} at line 1 column 23"),
        );
        check_error(r#"{"data":1}"#, "missing field `channel` at line 1 column 10");
        check_error(
            r#"{"channel":"a","data":1,"data":2}"#,
            "duplicate field `data` at line 1 column 30",
        );
        check_error(
            r#"{"channel":"a","data":1,"end":"yes"}"#,
            "invalid type: string \"yes\", expected a boolean at line 1 column 35",
        );
        check_error(
            r#"{"channel":"a"}"#,
            "nothing to publish; give \"data\", \"text\" or \"base64\", or \"end\": true",
        );
        check_error(
            r#"{"channel":"a","end":false}"#,
            "nothing to publish; give \"data\", \"text\" or \"base64\", or \"end\": true",
        );
        check_error(
            r#"{"channel":"a","data":1,"text":""}"#,
            "several payloads; give one of \"data\", \"text\" and \"base64\"",
        );
        check_error(
            r#"{"channel":"a","data":null,"base64":""}"#,
            "several payloads; give one of \"data\", \"text\" and \"base64\"",
        );
        check_error(
            r#"{"channel":"a","end":true,"event":"x"}"#,
            "an end alone has no event; give \"data\", \"text\" or \"base64\", or leave \"event\"",
        );
        check_error(
            r#"{"channel":"a..b","data":1}"#,
            &format!("\"channel\": {}", ChannelName::parse("a..b").unwrap_err()),
        );
        check_error(
            r#"{"channel":"a","data":1,"event":"open"}"#,
            &format!("\"event\": {}", EventName::parse("open").unwrap_err()),
        );
        check_error(
            r#"{"channel":"a","data":1,"key":""}"#,
            "\"key\": idempotency key has 0 bytes; 1 to 128 are allowed",
        );
        check_error(
            r#"{"channel":"a","base64":"A-"}"#,
            "\"base64\" is not base64 of the standard alphabet with padding: Invalid symbol 45, offset 1.",
        );
        check_error(
            r#"{"channel":"a","base64":"","type":"a\u0007"}"#,
            "\"type\" is no content type; up to 255 visible ASCII characters are",
        );
        for text in ["", "[]", "1", "[{\"channel\":\"a\",\"data\":1}]"] {
            check_error(
                text,
                "a publication is a JSON object, {\"channel\",\"data\"}; send one after another, not in a list",
            );
        }
    }

    #[test]
    fn an_error_does_not_repeat_a_long_text() {
        let error = parse(&format!("{{\"channel\":\"a\",\"{}\":1}}", "\u{fc}".repeat(100_000)));
        let message = error.unwrap_err().to_string();
        assert!(message.len() < 400 && message.ends_with("at line 1 column 200017"), "{message}");
    }

    #[test]
    fn bytes_that_are_no_utf8_or_no_text_are_refused() {
        let me = Arc::from("me");
        for text in [
            &b"{\"channel\":\"a\",\"data\":\"\xff\"}"[..],
            b"{\"channel\":\"a\",\"text\":\"\xff\"}",
            b"{\"channel\":\"a\",\"text\":\"\\ud800\"}",
            b"{\"channel\":\"a\",\"data\":tru}",
            b"{\"channel\":\"a\",\"data\":1} {}",
        ] {
            let error = PublishCommand::parse(text, &me).unwrap_err();
            assert!(matches!(error, CommandError::Malformed(_)), "{error:?}");
        }
    }

    #[test]
    fn depth_is_counted_without_the_command() {
        let command = |depth: usize| {
            parse(&format!(
                "{{\"channel\":\"a\",\"data\":{}{}}}",
                "[".repeat(depth),
                "]".repeat(depth)
            ))
        };
        assert!(command(128).is_ok());
        assert_eq!(
            command(129).unwrap_err().to_string(),
            "\"data\": the payload is not JSON: line 1, column 129: nested deeper than 128 levels"
        );
    }
}
