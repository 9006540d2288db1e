//! What a gateway says on an enveloped connection, as it is written (CONTRACT 5).

use serde::Deserialize;
use tidegate_core::envelope::member::Text;

use crate::error::{Failure, RawProblem};
use crate::machine::form::{self, Names, RawEnd, RawForm, RawGap};
use crate::machine::post::RawPublished;
use crate::message::{History, Member, Presence};

/// Every member that a message of a gateway may have.
#[derive(Deserialize)]
pub(super) struct RawServer<'a> {
    #[serde(default)]
    pub(super) id: Option<u64>,
    #[serde(borrow, default)]
    pub(super) subscribed: Option<RawPlace<'a>>,
    #[serde(default)]
    pub(super) unsubscribed: Option<RawGone>,
    #[serde(borrow, default)]
    pub(super) published: Option<RawPublished<'a>>,
    #[serde(borrow, default)]
    pub(super) history: Option<RawHistory<'a>>,
    #[serde(borrow, default)]
    pub(super) presence: Option<RawPresence<'a>>,
    #[serde(default)]
    pub(super) pong: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    pub(super) error: Option<RawProblem>,
    #[serde(default)]
    pub(super) welcome: Option<RawWelcome>,
    #[serde(borrow, default)]
    pub(super) message: Option<RawForm<'a>>,
    #[serde(borrow, default)]
    pub(super) gap: Option<RawGap<'a>>,
    #[serde(borrow, default)]
    pub(super) end: Option<RawEnd<'a>>,
    #[serde(default)]
    pub(super) join: Option<RawMove>,
    #[serde(default)]
    pub(super) leave: Option<RawMove>,
}

#[derive(Deserialize)]
pub(super) struct RawPlace<'a> {
    #[serde(borrow)]
    pub(super) channel: Text<'a>,
    #[serde(borrow)]
    pub(super) cursor: Text<'a>,
}

#[derive(Deserialize)]
pub(super) struct RawGone {
    pub(super) channel: String,
    #[serde(default)]
    pub(super) reason: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct RawMove {
    pub(super) channel: String,
    pub(super) member: Member,
}

#[derive(Deserialize)]
pub(super) struct RawWelcome {
    pub(super) session: String,
    #[serde(default)]
    pub(super) node: String,
    #[serde(default)]
    pub(super) version: String,
}

#[derive(Deserialize)]
pub(super) struct RawHistory<'a> {
    #[serde(borrow)]
    pub(super) messages: Vec<RawForm<'a>>,
    #[serde(borrow)]
    pub(super) cursor: Text<'a>,
    #[serde(borrow, default)]
    pub(super) gap: Option<RawGap<'a>>,
    #[serde(default)]
    pub(super) ended: bool,
}

impl RawHistory<'_> {
    pub(super) fn read(self) -> Result<History, Failure> {
        let none = Names(&[]);
        let messages =
            self.messages.into_iter().filter_map(|it| form::publication(it, &none).transpose());
        Ok(History {
            messages: messages.collect::<Result<_, _>>()?,
            cursor: form::cursor(&self.cursor.0)?,
            gap: self.gap.map(|it| form::gap(&it, &none)).transpose()?,
            is_ended: self.ended,
        })
    }
}

#[derive(Deserialize)]
pub(super) struct RawPresence<'a> {
    #[serde(borrow)]
    pub(super) channel: Text<'a>,
    pub(super) members: Vec<Member>,
}

impl RawPresence<'_> {
    pub(super) fn read(self) -> Result<Presence, Failure> {
        Ok(Presence { channel: Names(&[]).find(&self.channel.0)?, members: self.members })
    }
}
