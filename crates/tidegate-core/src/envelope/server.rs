//! What the gateway sends on an enveloped connection: replies and pushes (CONTRACT 5).
//!
//! [`ServerFrame`] is what any codec writes; [`ServerFrame::write_json`] is that of
//! `tidegate.v1.json`. A reply has the number of its command, a push has none.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use super::json::{
    self, write_end, write_error_object, write_gap, write_gap_object, write_integer, write_list,
    write_place, write_string,
};
use crate::channel::ChannelName;
use crate::cursor::Position;
use crate::entry::{Entry, SessionId, Timestamp};
use crate::presence::Member;
use crate::state::Gap;

/// A message to a client.
#[derive(Clone, Copy, Debug)]
pub struct ServerFrame<'a> {
    /// The command that this answers; `None` on a push, and on the failure of a command that has no
    /// number.
    pub id: Option<NonZeroU64>,
    /// What is said.
    pub body: ServerBody<'a>,
}

/// What a message to a client says.
#[derive(Clone, Copy, Debug)]
pub enum ServerBody<'a> {
    /// A channel has ended.
    End {
        /// Which.
        channel: &'a ChannelName,
        /// Where its end is.
        position: Position,
    },
    /// A command has failed, or what ends the connection.
    Error {
        /// A word of CONTRACT 7.
        code: &'a str,
        /// What, where and what to do.
        message: &'a str,
        /// When to try again.
        retry_after: Option<Duration>,
        /// Whether a publication may have been accepted all the same.
        outcome_unknown: bool,
    },
    /// Publications were or may have been missed.
    Gap {
        /// Whose.
        channel: &'a ChannelName,
        /// From where to where, and why.
        gap: &'a Gap,
    },
    /// A page of a log.
    History(HistoryPage<'a>),
    /// Somebody has come.
    Join {
        /// Where.
        channel: &'a ChannelName,
        /// Who.
        member: &'a Member,
    },
    /// Somebody has gone.
    Leave {
        /// Where.
        channel: &'a ChannelName,
        /// Who.
        member: &'a Member,
    },
    /// An entry of a log: a publication, or the end.
    Message(&'a Entry),
    /// There was no other push for a while.
    Ping,
    /// The answer to a ping.
    Pong,
    /// Who is there: an answer, or a push behind `subscribed`.
    Presence {
        /// Where.
        channel: &'a ChannelName,
        /// Everyone.
        members: &'a [Arc<Member>],
    },
    /// A publication was accepted.
    Published {
        /// Where.
        channel: &'a ChannelName,
        /// The publication, or a lone end; of a duplicate the first one.
        position: Position,
        /// Whether its key was seen before.
        is_duplicate: bool,
    },
    /// The new token is good.
    Refreshed {
        /// Until when.
        expires: Timestamp,
    },
    /// A channel is followed.
    Subscribed {
        /// Which.
        channel: &'a ChannelName,
        /// After which point.
        position: Position,
    },
    /// A channel is followed no longer.
    Unsubscribed {
        /// Which.
        channel: &'a ChannelName,
        /// Where the gateway did it: a word of CONTRACT 7, none after an end.
        reason: Option<&'a str>,
    },
    /// The first message of a connection.
    Welcome {
        /// This connection.
        session: SessionId,
        /// This process.
        node: &'a str,
        /// Its version.
        version: &'a str,
        /// Seconds after which a ping is pushed.
        ping: u32,
    },
}

/// A page of one channel's log.
#[derive(Clone, Copy, Debug)]
pub struct HistoryPage<'a> {
    /// Whose.
    pub channel: &'a ChannelName,
    /// Oldest first. An end among them is left out: `ended` says it.
    pub messages: &'a [Arc<Entry>],
    /// Where to go on.
    pub position: Position,
    /// What was missed.
    pub gap: Option<&'a Gap>,
    /// Whether the channel's end lies behind `position`.
    pub ended: bool,
}

impl<'a> ServerFrame<'a> {
    /// A push.
    #[must_use]
    pub fn push(body: ServerBody<'a>) -> Self {
        Self { id: None, body }
    }

    /// Appends the message of `tidegate.v1.json`, without a line break.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        let start = out.len();
        self.body.write_json(out);
        let Some(id) = self.id else { return };
        // In front of the one member that there is.
        let mut number = itoa::Buffer::new();
        let member = ["{\"id\":", number.format(id.get()), ","].concat();
        out.splice(start..=start, member.into_bytes());
    }
}

impl ServerBody<'_> {
    /// Appends an object with one member.
    fn write_json(&self, out: &mut Vec<u8>) {
        match *self {
            Self::End { channel, position } => return write_end(channel, position, out),
            Self::Error { code, message, retry_after, outcome_unknown } => {
                out.extend_from_slice(b"{\"error\":");
                write_error_object(code, message, retry_after, out);
                if outcome_unknown {
                    out.pop();
                    out.extend_from_slice(b",\"outcome\":\"unknown\"}");
                }
            }
            Self::Gap { channel, gap } => return write_gap(channel, gap, out),
            Self::History(page) => page.write_json(out),
            Self::Join { channel, member } => write_change(b"{\"join\":", channel, member, out),
            Self::Leave { channel, member } => write_change(b"{\"leave\":", channel, member, out),
            Self::Message(entry) => return json::write_message(entry, out),
            Self::Ping => out.extend_from_slice(b"{\"ping\":{}"),
            Self::Pong => out.extend_from_slice(b"{\"pong\":{}"),
            Self::Presence { channel, members } => {
                out.extend_from_slice(b"{\"presence\":");
                write_presence_object(channel, members, out);
            }
            Self::Published { channel, position, is_duplicate } => {
                out.extend_from_slice(b"{\"published\":");
                json::write_published(None, channel, position, is_duplicate, out);
            }
            Self::Refreshed { expires } => {
                out.extend_from_slice(b"{\"refreshed\":{\"expires\":\"");
                expires.write_rfc3339(out);
                out.extend_from_slice(b"\"}");
            }
            Self::Subscribed { channel, position } => {
                out.extend_from_slice(b"{\"subscribed\":");
                write_place(channel, position, out);
                out.push(b'}');
            }
            Self::Unsubscribed { channel, reason } => {
                out.extend_from_slice(b"{\"unsubscribed\":");
                write_channel(channel, out);
                if let Some(reason) = reason {
                    out.extend_from_slice(b",\"reason\":");
                    write_string(reason.as_bytes(), out);
                }
                out.push(b'}');
            }
            Self::Welcome { session, node, version, ping } => {
                out.extend_from_slice(b"{\"welcome\":{\"session\":\"");
                out.extend_from_slice(session.to_string().as_bytes());
                out.extend_from_slice(b"\",\"node\":");
                write_string(node.as_bytes(), out);
                out.extend_from_slice(b",\"version\":");
                write_string(version.as_bytes(), out);
                out.extend_from_slice(b",\"ping\":");
                write_integer(u64::from(ping), out);
                out.push(b'}');
            }
        }
        out.push(b'}');
    }
}

impl HistoryPage<'_> {
    fn write_json(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"history\":{\"messages\":[");
        json::write_publications(self.messages, out);
        out.extend_from_slice(b"],\"cursor\":\"");
        self.position.cursor(self.channel).write(out);
        out.push(b'"');
        if let Some(gap) = self.gap {
            out.extend_from_slice(b",\"gap\":");
            write_gap_object(self.channel, gap, out);
        }
        let ended = if self.ended { "true" } else { "false" };
        out.extend_from_slice([",\"ended\":", ended, "}"].concat().as_bytes());
    }
}

/// Writes `{"channel","members":[{"id","user"?,"info"?,"joined"}]}`: who is there, as HTTP has it too.
pub fn write_presence_object(channel: &ChannelName, members: &[Arc<Member>], out: &mut Vec<u8>) {
    write_channel(channel, out);
    out.extend_from_slice(b",\"members\":[");
    write_list(members, out, |member, out| write_member(member, out));
    out.extend_from_slice(b"]}");
}

fn write_change(name: &[u8], channel: &ChannelName, member: &Member, out: &mut Vec<u8>) {
    out.extend_from_slice(name);
    write_channel(channel, out);
    out.extend_from_slice(b",\"member\":");
    write_member(member, out);
    out.push(b'}');
}

fn write_member(member: &Member, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"id\":");
    write_string(member.id.as_bytes(), out);
    if let Some(user) = &member.user {
        out.extend_from_slice(b",\"user\":");
        write_string(user.as_bytes(), out);
    }
    if let Some(info) = &member.info {
        // JSON already, and on one line since its token was read.
        out.extend_from_slice(b",\"info\":");
        out.extend_from_slice(info.as_bytes());
    }
    out.extend_from_slice(b",\"joined\":\"");
    member.joined.write_rfc3339(out);
    out.extend_from_slice(b"\"}");
}

/// Writes `{"channel":"…"`.
fn write_channel(channel: &ChannelName, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"channel\":\"");
    // A channel's alphabet needs no escapes.
    out.extend_from_slice(channel.as_str().as_bytes());
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use serde_json::Value;

    use super::*;
    use crate::cursor::Epoch;
    use crate::entry::{Body, Publication};
    use crate::envelope::{ClientFrame, FrameError};
    use crate::payload::Payload;
    use crate::state::GapReason;

    /// The vectors that every client runs too.
    fn vectors() -> Value {
        serde_json::from_str(include_str!("../../../../spec/vectors/envelope-json.json")).unwrap()
    }

    fn at(offset: u64) -> Position {
        Position { epoch: Epoch::new(104_373_592_874_733), offset }
    }

    fn member(id: &str) -> Member {
        Member { id: id.into(), user: None, info: None, joined: TIME }
    }

    const TIME: Timestamp = Timestamp::from_millis(1_795_255_200_123);

    #[test]
    fn every_reply_and_push_has_its_golden_form() {
        let channel = &ChannelName::parse("prices").unwrap();
        let gap = &Gap { requested: at(0), resumed: at(1), reason: GapReason::Expired };
        let publication = Publication {
            payload: Payload::json("{\"bid\":1.10}".into()).unwrap(),
            event: None,
            user: None,
            origin: None,
        };
        let entry =
            |body| Entry { channel: channel.clone(), position: at(1), prev: 0, time: TIME, body };
        let (end, entry) = (entry(Body::End), entry(Body::Publication(publication)));
        let messages = &[Arc::new(entry), Arc::new(end)];
        let [entry, end] = messages;
        let ann = Member {
            user: Some("ann".into()),
            info: Some("{\"name\":\"Ann\"}".into()),
            ..member("00000000000004d2")
        };
        let members = &[ann, member("0000000000000001")].map(Arc::new);
        let page = HistoryPage { channel, messages, position: at(2), gap: Some(gap), ended: true };
        let empty = HistoryPage { messages: &[], position: at(1), gap: None, ended: false, ..page };
        let error = |code, message, retry_after, outcome_unknown| ServerBody::Error {
            code,
            message,
            retry_after,
            outcome_unknown,
        };
        let away = Some(Duration::from_millis(1500));
        let position = at(1);
        let all = [
            (
                "welcome",
                0,
                ServerBody::Welcome {
                    session: SessionId(1234),
                    node: "n-1",
                    version: "0.2.0",
                    ping: 25,
                },
            ),
            ("subscribed, reply", 1, ServerBody::Subscribed { channel, position }),
            ("subscribed, push", 0, ServerBody::Subscribed { channel, position }),
            ("unsubscribed, reply", 2, ServerBody::Unsubscribed { channel, reason: None }),
            (
                "unsubscribed, push",
                0,
                ServerBody::Unsubscribed { channel, reason: Some("unavailable") },
            ),
            ("published", 3, ServerBody::Published { channel, position, is_duplicate: true }),
            ("history", 4, ServerBody::History(page)),
            ("history, empty", 4, ServerBody::History(empty)),
            ("presence, reply", 5, ServerBody::Presence { channel, members }),
            ("presence, push", 0, ServerBody::Presence { channel, members: &[] }),
            ("join", 0, ServerBody::Join { channel, member: &members[1] }),
            ("leave", 0, ServerBody::Leave { channel, member: &members[1] }),
            ("refreshed", 6, ServerBody::Refreshed { expires: TIME }),
            ("pong", u64::MAX, ServerBody::Pong),
            ("ping", 0, ServerBody::Ping),
            ("message", 0, ServerBody::Message(entry)),
            ("gap", 0, ServerBody::Gap { channel, gap }),
            ("end", 0, ServerBody::End { channel, position }),
            ("end", 0, ServerBody::Message(end)),
            ("error, reply", 3, error("unavailable", "the \"broker\" is away", away, true)),
            ("error, push", 0, error("ended", "it has ended", None, false)),
        ];
        let vectors = vectors();
        let frames = vectors["frames"].as_object().unwrap();
        let mut seen = HashSet::new();
        for (name, id, body) in all {
            let mut out = b"before".to_vec();
            ServerFrame { id: NonZeroU64::new(id), body }.write_json(&mut out);
            let out = String::from_utf8(out).unwrap();
            assert_eq!(out.strip_prefix("before"), frames[name].as_str(), "{name}");
            serde_json::from_str::<Value>(frames[name].as_str().unwrap()).unwrap();
            seen.insert(name);
        }
        assert_eq!(seen.len(), frames.len());
    }

    #[test]
    fn commands_are_read_as_every_client_writes_them() {
        let vectors = vectors();
        let parse = |text: &Value| {
            ClientFrame::parse_json(text.as_str().unwrap().as_bytes(), &Arc::from("me"))
        };
        let id = |vector: &Value| vector["id"].as_u64().and_then(NonZeroU64::new);
        for vector in vectors["commands"].as_array().unwrap() {
            let frame = parse(&vector["text"]).unwrap();
            let name = format!("{:?}", frame.command).to_ascii_lowercase();
            assert!(name.starts_with(vector["command"].as_str().unwrap()), "{vector}");
            assert_eq!(frame.id, id(vector), "{vector}");
        }
        for vector in vectors["bad_commands"].as_array().unwrap() {
            let Err(FrameError::Refused { id: found, error }) = parse(&vector["text"]) else {
                panic!("{vector}")
            };
            let says = error.to_string();
            assert_eq!(found, id(vector), "{vector}");
            assert!(says.contains(vector["says"].as_str().unwrap()), "{says}: {vector}");
        }
        for text in vectors["no_objects"].as_array().unwrap() {
            assert_eq!(parse(text), Err(FrameError::NoObject), "{text}");
        }
    }
}
