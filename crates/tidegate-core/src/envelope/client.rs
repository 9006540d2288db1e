//! What clients send on an enveloped connection: commands, numbered by their sender (CONTRACT 5).
//!
//! [`ClientFrame`] is what any codec comes to; [`ClientFrame::parse_json`] is that of
//! `tidegate.v1.json`. It is strict: a member that is unknown or there twice is an error that names
//! it, and so are two commands in one object; `null` is as good as absent. The number is found even
//! where the command is wrong, so that its sender is told which one it was.

use std::borrow::Cow;
use std::fmt;
use std::num::NonZeroU64;
use std::sync::Arc;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::command::{CommandError, PublishCommand};
use super::member::Text;
use crate::channel::{ChannelName, ChannelNameError};
use crate::cursor::{Begin, Cursor, CursorError, parse_joined};
use crate::json;

/// Messages of a history or a poll where nothing else was asked for, and at most.
pub const LIMIT_DEFAULT: u32 = 100;
/// See [`LIMIT_DEFAULT`].
pub const LIMIT_MAX: u32 = 1000;

/// One command with its number.
#[derive(Clone, Debug, PartialEq)]
pub struct ClientFrame {
    /// The one reply has it too; a command without one is answered only if it fails.
    pub id: Option<NonZeroU64>,
    /// What is to be done.
    pub command: Command,
}

/// What a client may ask for.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// What is kept, without following.
    History(History),
    /// An answer.
    Ping,
    /// Who is there.
    Presence(ChannelName),
    /// Publish.
    Publish(PublishCommand),
    /// Another token.
    Refresh(Box<str>),
    /// Follow a channel.
    Subscribe {
        /// Which.
        channel: ChannelName,
        /// From where on.
        begin: Begin,
    },
    /// Follow it no longer.
    Unsubscribe(ChannelName),
}

/// A page of a log.
#[derive(Clone, Debug, PartialEq)]
pub struct History {
    /// Whose.
    pub channel: ChannelName,
    /// From where on, unless it is `before` something.
    pub begin: Begin,
    /// The newest before this.
    pub before: Option<Cursor>,
    /// At most so many publications, `1..=LIMIT_MAX`.
    pub limit: u32,
}

/// The members of a frame: its number, and one command.
const FRAME: [&str; 8] =
    ["id", "subscribe", "unsubscribe", "publish", "history", "presence", "refresh", "ping"];
const COMMANDS: &[&str] = FRAME.split_at(1).1;

impl ClientFrame {
    /// Reads a message of `tidegate.v1.json`; `publisher` is whose idempotency keys these are.
    ///
    /// # Errors
    ///
    /// [`FrameError`]: no frame at all, or one whose command is wrong.
    pub fn parse_json(text: &[u8], publisher: &Arc<str>) -> Result<Self, FrameError> {
        if text.iter().find(|byte| !json::is_space(**byte)) != Some(&b'{') {
            return Err(FrameError::NoObject);
        }
        let Members { values: [id, commands @ ..], fault } =
            Members::read(&mut serde_json::Deserializer::from_slice(text), &FRAME).map_err(
                |_| {
                    // A name that can't be text, such as a lone surrogate, is JSON all the same.
                    match json::check(text) {
                        Ok(()) => FrameError::refused(None, Fault::Name),
                        Err(_) => FrameError::NoObject,
                    }
                },
            )?;
        let id = match id.map(|it| serde_json::from_str(it.get())) {
            None => None,
            Some(Ok(id)) => Some(id),
            Some(Err(_)) => return Err(FrameError::refused(None, Fault::Id)),
        };
        if let Some(fault) = fault {
            return Err(FrameError::refused(id, fault));
        }
        let given = COMMANDS.iter().copied().zip(commands);
        let mut given = given.filter_map(|(name, it)| Some((name, it?)));
        let (name, value) = match (given.next(), given.next()) {
            (Some(one), None) => one,
            (Some((first, _)), Some((second, _))) => {
                return Err(FrameError::refused(id, Fault::Several(first, second)));
            }
            (None, _) => return Err(FrameError::refused(id, Fault::NoCommand)),
        };
        match Command::parse_json(name, value.get(), publisher) {
            Ok(command) => Ok(Self { id, command }),
            Err(fault) => {
                Err(FrameError::Refused { id, error: ClientError { command: Some(name), fault } })
            }
        }
    }
}

impl Command {
    fn parse_json(name: &str, text: &str, publisher: &Arc<str>) -> Result<Self, Fault> {
        match name {
            "subscribe" => {
                let [channel, since, last] = members(text, &["channel", "since", "last"])?;
                let channel = self::channel(channel)?;
                let begin = begin(&channel, since, last, Begin::Now)?;
                Ok(Self::Subscribe { channel, begin })
            }
            "unsubscribe" => Ok(Self::Unsubscribe(only_channel(text)?)),
            "publish" => Ok(Self::Publish(PublishCommand::parse(text.as_bytes(), publisher)?)),
            "history" => History::parse_json(text).map(Self::History),
            "presence" => Ok(Self::Presence(only_channel(text)?)),
            "refresh" => {
                let [token] = members(text, &["token"])?;
                let token = token.ok_or(Fault::Missing("token"))?;
                Ok(Self::Refresh(self::text("token", token)?.into()))
            }
            _ => members(text, &[]).map(|[]| Self::Ping),
        }
    }
}

impl History {
    fn parse_json(text: &str) -> Result<Self, Fault> {
        let names = &["channel", "since", "last", "before", "limit"];
        let [channel, since, last, before, limit] = members(text, names)?;
        let channel = self::channel(channel)?;
        for (name, other) in [("since", since), ("last", last)] {
            if before.is_some() && other.is_some() {
                return Err(Fault::Exclusive("before", name));
            }
        }
        let limit = match limit.map(|it| serde_json::from_str(it.get())) {
            None => LIMIT_DEFAULT,
            Some(Ok(limit @ 1..=LIMIT_MAX)) => limit,
            Some(_) => return Err(Fault::Limit),
        };
        let before = before.map(|it| cursor("before", &self::text("before", it)?, &channel));
        Ok(Self {
            begin: begin(&channel, since, last, Begin::Start)?,
            before: before.transpose()?,
            channel,
            limit,
        })
    }
}

fn only_channel(text: &str) -> Result<ChannelName, Fault> {
    let [channel] = members(text, &["channel"])?;
    self::channel(channel)
}

fn channel(value: Option<&RawValue>) -> Result<ChannelName, Fault> {
    let value = value.ok_or(Fault::Missing("channel"))?;
    ChannelName::parse(&text("channel", value)?).map_err(Fault::Channel)
}

fn begin(
    channel: &ChannelName,
    since: Option<&RawValue>,
    last: Option<&RawValue>,
    default: Begin,
) -> Result<Begin, Fault> {
    match (since, last) {
        (Some(_), Some(_)) => Err(Fault::Exclusive("since", "last")),
        (None, None) => Ok(default),
        (Some(since), None) => match &*text("since", since)? {
            "start" => Ok(Begin::Start),
            "now" => Ok(Begin::Now),
            since => cursor("since", since, channel).map(Begin::After),
        },
        (None, Some(last)) => match serde_json::from_str(last.get()) {
            Ok(0) => Ok(Begin::Now),
            Ok(count) => Ok(Begin::Last(count)),
            Err(_) => Err(Fault::Count("last")),
        },
    }
}

fn cursor(name: &'static str, text: &str, channel: &ChannelName) -> Result<Cursor, Fault> {
    let found = parse_joined(text, std::slice::from_ref(channel));
    let found = found.map_err(|error| Fault::Cursor(name, error))?;
    // One channel's slot is filled, or it was an error.
    found.into_iter().flatten().next().ok_or(Fault::Missing(name))
}

fn text<'a>(name: &'static str, value: &'a RawValue) -> Result<Cow<'a, str>, Fault> {
    let text: Text<'_> = serde_json::from_str(value.get()).map_err(|_| Fault::Text(name))?;
    Ok(text.0)
}

/// The members of a command, each at the place of its name; one that is `null` is not there.
fn members<'a, const N: usize>(
    text: &'a str,
    names: &'static [&'static str; N],
) -> Result<[Option<&'a RawValue>; N], Fault> {
    // What is in a frame was found to be JSON; so it is no object, or has a name that is no text.
    if !text.starts_with('{') {
        return Err(Fault::NoObject);
    }
    let mut from = serde_json::Deserializer::from_str(text);
    let members = Members::read(&mut from, names).map_err(|_| Fault::Name)?;
    members.fault.map_or(Ok(members.values), Err)
}

/// What an object has, as far as it is known.
struct Members<'a, const N: usize> {
    values: [Option<&'a RawValue>; N],
    /// The first thing that is wrong.
    fault: Option<Fault>,
}

/// Reads [`Members`] of these names.
struct MembersOf<const N: usize>(&'static [&'static str; N]);

impl<'a, const N: usize> Members<'a, N> {
    /// Reads one object, and that nothing is behind it.
    fn read<R: serde_json::de::Read<'a>>(
        from: &mut serde_json::Deserializer<R>,
        names: &'static [&'static str; N],
    ) -> serde_json::Result<Self> {
        let members = MembersOf(names).deserialize(&mut *from)?;
        from.end()?;
        Ok(members)
    }
}

impl<'a, const N: usize> DeserializeSeed<'a> for MembersOf<N> {
    type Value = Members<'a, N>;

    fn deserialize<D: Deserializer<'a>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_map(self)
    }
}

impl<'a, const N: usize> Visitor<'a> for MembersOf<N> {
    type Value = Members<'a, N>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = [None; N];
        let mut fault = None;
        while let Some(Text(name)) = map.next_key()? {
            let value: &RawValue = map.next_value()?;
            match self.0.iter().zip(&mut found).find(|(it, _)| **it == name) {
                Some((_, slot @ None)) => *slot = Some(value),
                Some((name, Some(_))) => fault = fault.or(Some(Fault::Twice(name))),
                None => {
                    fault = fault.or(Some(Fault::Unknown { name: excerpt(&name), known: self.0 }));
                }
            }
        }
        // Only now: a member that is there twice is so even where it is `null`.
        let values = found.map(|it: Option<&RawValue>| it.filter(|it| it.get() != "null"));
        Ok(Members { values, fault })
    }
}

/// The beginning of what a client wrote, for an error that names it.
fn excerpt(text: &str) -> Box<str> {
    const CHARS_MAX: usize = 40;
    match text.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{}\u{2026}", text.get(..end).unwrap_or_default()).into(),
        None => text.into(),
    }
}

/// Why a message was no command; the client's fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// It is no JSON, or no object: the protocol is broken.
    #[error("a message is one JSON object, such as {{\"id\":1,\"ping\":{{}}}}")]
    NoObject,
    /// An object, but no command of ours.
    #[error("{error}")]
    Refused {
        /// The command's number, if it has a good one.
        id: Option<NonZeroU64>,
        /// What is wrong.
        error: ClientError,
    },
}

impl FrameError {
    fn refused(id: Option<NonZeroU64>, fault: Fault) -> Self {
        Self::Refused { id, error: ClientError { command: None, fault } }
    }
}

/// Why a command was refused; the client's fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientError {
    /// Which command; `None` where it is the frame around it.
    pub command: Option<&'static str>,
    /// What is wrong.
    pub fault: Fault,
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.command {
            Some(command) => write!(f, "{command}: {}", self.fault),
            None => write!(f, "{}", self.fault),
        }
    }
}

impl std::error::Error for ClientError {}

/// What is wrong with a command or its frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Its channel.
    #[error("\"channel\": {0}")]
    Channel(ChannelNameError),
    /// No count.
    #[error("\"{0}\": a whole number is due")]
    Count(&'static str),
    /// A cursor that is none, or another channel's.
    #[error("\"{0}\": {1}")]
    Cursor(&'static str, CursorError),
    /// Two members that say different things.
    #[error("\"{0}\" and \"{1}\" exclude each other; give one")]
    Exclusive(&'static str, &'static str),
    /// Its number.
    #[error("\"id\": a whole number from 1 is due")]
    Id,
    /// How much it asks for.
    #[error("\"limit\": 1 to {LIMIT_MAX} are allowed")]
    Limit,
    /// A member that must be there.
    #[error("\"{0}\" is missing")]
    Missing(&'static str),
    /// A member's name that can't be text.
    #[error("a member's name is no text")]
    Name,
    /// A frame without a command.
    #[error("there is no command; give one of {}", Listed(COMMANDS))]
    NoCommand,
    /// A command is an object.
    #[error("an object is due")]
    NoObject,
    /// What is to be published.
    #[error("{0}")]
    Publish(#[from] CommandError),
    /// Two commands in one frame.
    #[error("{0} and {1} are two commands; send each in an object of its own")]
    Several(&'static str, &'static str),
    /// No text.
    #[error("\"{0}\": a string is due")]
    Text(&'static str),
    /// A member that is there twice.
    #[error("\"{0}\" is there twice")]
    Twice(&'static str),
    /// A member that is not known.
    #[error("there is no member {name:?}; {} can be there", Listed(known))]
    Unknown {
        /// The beginning of its name.
        name: Box<str>,
        /// What would be known.
        known: &'static [&'static str],
    },
}

/// Names in a sentence.
struct Listed<'a>(&'a [&'static str]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        for (index, name) in self.0.iter().enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            write!(f, "{comma}\"{name}\"")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cursor::{Epoch, Position};
    use crate::payload::Payload;

    fn parse(text: &str) -> Result<ClientFrame, FrameError> {
        ClientFrame::parse_json(text.as_bytes(), &Arc::from("me"))
    }

    fn name(name: &str) -> ChannelName {
        ChannelName::parse(name).unwrap()
    }

    fn cursor_of(channel: &str) -> Cursor {
        Position { epoch: Epoch::new(7), offset: 9 }.cursor(&name(channel))
    }

    #[track_caller]
    fn check(text: &str, id: u64, command: Command) {
        assert_eq!(parse(text), Ok(ClientFrame { id: NonZeroU64::new(id), command }));
    }

    /// Checks what is wrong, and which command it is said of.
    #[track_caller]
    fn check_error(text: &str, id: u64, expect: &str) {
        let Err(FrameError::Refused { id: found, error }) = parse(text) else {
            panic!("{:?}", parse(text))
        };
        assert_eq!((found, error.to_string().as_str()), (NonZeroU64::new(id), expect));
    }

    #[test]
    fn every_command_is_read() {
        let subscribe = |begin| Command::Subscribe { channel: name("a.b"), begin };
        check(r#"{"id":1,"subscribe":{"channel":"a.b"}}"#, 1, subscribe(Begin::Now));
        check(r#"{"subscribe":{"since":"start","channel":"a.b"}}"#, 0, subscribe(Begin::Start));
        check(
            r#" { "subscribe" : {"channel":"a.b","since":"now","last":null} , "id" : null } "#,
            0,
            subscribe(Begin::Now),
        );
        check(r#"{"id":2,"subscribe":{"channel":"a.b","last":5}}"#, 2, subscribe(Begin::Last(5)));
        check(r#"{"id":2,"subscribe":{"channel":"a.b","last":0}}"#, 2, subscribe(Begin::Now));
        let since = cursor_of("a.b");
        check(
            &format!(r#"{{"id":3,"subscribe":{{"channel":"a.b","since":"{since}"}}}}"#),
            3,
            subscribe(Begin::After(since)),
        );
        check(r#"{"id":4,"unsubscribe":{"channel":"a"}}"#, 4, Command::Unsubscribe(name("a")));
        check(r#"{"id":5,"presence":{"channel":"a"}}"#, 5, Command::Presence(name("a")));
        check(r#"{"id":6,"refresh":{"token":"x.y\u002ez"}}"#, 6, Command::Refresh("x.y.z".into()));
        check(r#"{"id":18446744073709551615,"ping":{}}"#, u64::MAX, Command::Ping);
        check(
            r#"{"id":7,"publish":{"channel":"a","data":[1, 2]}}"#,
            7,
            Command::Publish(PublishCommand {
                channel: name("a"),
                event: None,
                payload: Some(Payload::json("[1, 2]".into()).unwrap()),
                key: None,
                ends: false,
            }),
        );
    }

    #[test]
    fn a_history_begins_somewhere_or_lies_before_something() {
        let history = |begin, before, limit| {
            Command::History(History { channel: name("a"), begin, before, limit })
        };
        let before = cursor_of("a");
        check(r#"{"history":{"channel":"a"}}"#, 0, history(Begin::Start, None, 100));
        check(
            r#"{"history":{"channel":"a","last":3,"limit":1000}}"#,
            0,
            history(Begin::Last(3), None, 1000),
        );
        check(
            &format!(r#"{{"history":{{"channel":"a","before":"{before}","limit":1}}}}"#),
            0,
            history(Begin::Start, Some(before), 1),
        );
        for limit in ["0", "1001", "-1", "1.5", "\"1\""] {
            check_error(
                &format!(r#"{{"id":9,"history":{{"channel":"a","limit":{limit}}}}}"#),
                9,
                "history: \"limit\": 1 to 1000 are allowed",
            );
        }
        check_error(
            &format!(r#"{{"id":9,"history":{{"channel":"a","before":"{before}","last":1}}}}"#),
            9,
            "history: \"before\" and \"last\" exclude each other; give one",
        );
    }

    #[test]
    fn what_is_wrong_is_named_with_the_number_of_its_command() {
        check_error(r#"{"id":0,"ping":{}}"#, 0, "\"id\": a whole number from 1 is due");
        for id in ["-1", "1.0", "\"1\"", "[]", "true", "18446744073709551616"] {
            let text = format!(r#"{{"id":{id},"ping":{{}}}}"#);
            check_error(&text, 0, "\"id\": a whole number from 1 is due");
        }
        check_error(r#"{"ping":{},"id":1,"id":2}"#, 1, "\"id\" is there twice");
        check_error(r#"{"ping":{},"ping":{},"id":3}"#, 3, "\"ping\" is there twice");
        check_error(
            r#"{"id":3,"ping":{},"publish":{"channel":"a","data":1}}"#,
            3,
            "publish and ping are two commands; send each in an object of its own",
        );
        let commands =
            r#""subscribe", "unsubscribe", "publish", "history", "presence", "refresh", "ping""#;
        for text in [r#"{"id":3}"#, r#"{"id":3,"ping":null}"#] {
            check_error(text, 3, &format!("there is no command; give one of {commands}"));
        }
        check_error(
            r#"{"id":3,"subscibe":{"channel":"a"}}"#,
            3,
            &format!("there is no member \"subscibe\"; \"id\", {commands} can be there"),
        );
        check_error(r#"{"id":3,"ping":[]}"#, 3, "ping: an object is due");
        check_error(
            r#"{"id":3,"ping":{"a":1}}"#,
            3,
            "ping: there is no member \"a\"; none can be there",
        );
        check_error(r#"{"id":3,"subscribe":{}}"#, 3, "subscribe: \"channel\" is missing");
        check_error(
            r#"{"id":3,"subscribe":{"channel":1}}"#,
            3,
            "subscribe: \"channel\": a string is due",
        );
        let pattern = ChannelName::parse("a.*").unwrap_err();
        check_error(
            r#"{"id":3,"subscribe":{"channel":"a.*"}}"#,
            3,
            &format!("subscribe: \"channel\": {pattern}"),
        );
        check_error(
            r#"{"id":3,"unsubscribe":{"channel":"a","channel":null}}"#,
            3,
            "unsubscribe: \"channel\" is there twice",
        );
        check_error(
            r#"{"id":3,"subscribe":{"channel":"a","sinse":"now"}}"#,
            3,
            "subscribe: there is no member \"sinse\"; \"channel\", \"since\", \"last\" can be there",
        );
        check_error(
            r#"{"id":3,"subscribe":{"channel":"a","since":"now","last":1}}"#,
            3,
            "subscribe: \"since\" and \"last\" exclude each other; give one",
        );
        for last in ["-1", "1.5", "\"1\"", "4294967296"] {
            check_error(
                &format!(r#"{{"id":3,"subscribe":{{"channel":"a","last":{last}}}}}"#),
                3,
                "subscribe: \"last\": a whole number is due",
            );
        }
        let foreign = cursor_of("b");
        check_error(
            &format!(r#"{{"id":3,"subscribe":{{"channel":"a","since":"{foreign}"}}}}"#),
            3,
            &format!("subscribe: \"since\": {}", CursorError::Foreign(foreign.to_string())),
        );
        check_error(r#"{"id":3,"refresh":{}}"#, 3, "refresh: \"token\" is missing");
        check_error(
            r#"{"id":3,"publish":{"channel":"a"}}"#,
            3,
            "publish: nothing to publish; give \"data\", \"text\" or \"base64\", or \"end\": true",
        );
        check_error(r#"{"id":3,"ping":{"\ud800":1}}"#, 3, "ping: a member's name is no text");
        check_error(r#"{"\ud800":1}"#, 0, "a member's name is no text");
        let long = format!("{{\"{}\":1,\"id\":3}}", "\u{fc}".repeat(100_000));
        let Err(error) = parse(&long) else { panic!() };
        assert!(error.to_string().len() < 300, "{error}");
    }

    #[test]
    fn what_is_no_object_breaks_the_protocol() {
        let deep = format!("{}1{}", "{\"a\":".repeat(1000), "}".repeat(999));
        for text in [
            "",
            " ",
            "[]",
            "1",
            "\"ping\"",
            "null",
            "{",
            "{}{}",
            "{} x",
            "{\"id\":1,}",
            "{id:1}",
            "{\"a\":tru}",
            "{\"ping\":{}",
            "\u{feff}{}",
            &deep,
        ] {
            assert_eq!(parse(text), Err(FrameError::NoObject), "{text}");
        }
        let bad = ClientFrame::parse_json(b"{\"\xff\":1}", &Arc::from(""));
        assert_eq!(bad, Err(FrameError::NoObject));
    }

    #[test]
    fn depth_costs_no_stack_and_payloads_have_theirs() {
        let publish = |depth: usize| {
            let (open, close) = ("[".repeat(depth), "]".repeat(depth));
            parse(&format!(r#"{{"id":1,"publish":{{"channel":"a","data":{open}{close}}}}}"#))
        };
        assert!(publish(128).is_ok());
        for depth in [129, 200_000] {
            let Err(FrameError::Refused { id, error }) = publish(depth) else { panic!() };
            assert_eq!((id, error.command), (NonZeroU64::new(1), Some("publish")));
        }
        let deep = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
        check_error(
            &format!(r#"{{"id":1,"subscribe":{{"channel":{deep}}}}}"#),
            1,
            "subscribe: \"channel\": a string is due",
        );
        check_error(&format!(r#"{{"id":1,"ping":{deep}}}"#), 1, "ping: an object is due");
    }
}
