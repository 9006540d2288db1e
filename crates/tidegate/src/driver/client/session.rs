//! What only an enveloped connection has: commands and their replies, and subscriptions that come and
//! go (CONTRACT 5). What it is told of who is present is `presence.rs`'s.
//!
//! ```text
//!  message ──► ClientFrame ──► rights ──► broker ──► reply ─┐
//!                  │ one after another; while one waits     ├──► Output
//!                  ▼ for the broker, or a reply for the     │
//!               backlog   socket, no other is read    push ─┘
//! ```

use std::num::NonZeroU64;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tidegate_core::ChannelName;
use tidegate_core::channel::CHANNELS_MAX;
use tidegate_core::envelope::server::HistoryPage;
use tidegate_core::envelope::{ClientFrame, Command, FrameError, ServerBody};
use tidegate_core::presence::{Parting, Round};
use tidegate_wire::websocket::{Kind, close};

use super::presence::Seen;
use super::{Cause, Inner, Phase, Start, Sub, Wait};
use crate::driver::forms::Format;
use crate::driver::hub::Subscriber;
use crate::driver::output::COMMIT_BYTES;
use crate::driver::wheel;
use crate::problem::{Code, Problem};
use crate::transport::envelope::{self, Begun, Done, Outcome};
use crate::transport::poll::Found;
use crate::worker::Worker;

/// Subscriptions of one connection; as many as one URL may name.
const SUBSCRIPTIONS_MAX: usize = CHANNELS_MAX;

/// Once so many bytes of replies wait, the rest of what was read has to.
const REPLIES_BYTES_MAX: usize = COMMIT_BYTES;

/// Commands in one turn before others get theirs; about a millisecond's.
const COMMANDS_PER_TURN: u32 = 256;

/// Seconds without a push after which one is made, for a browser's code can't see pings.
pub const PUSH_SECONDS: u32 = 25;

/// The same in ticks.
pub(super) const PUSH_TICKS: u32 = PUSH_SECONDS * wheel::TICKS_PER_SECOND;

/// `{"ping":{}}` as a frame.
pub(super) const PUSHED_PING: &[u8] = b"\x81\x0b{\"ping\":{}}";

/// One enveloped connection's state.
#[derive(Debug, Default)]
pub(super) struct Session {
    /// A command on its way.
    pending: Option<Pending>,
    /// Bytes of replies that may not have been written yet.
    replies: usize,
    /// Commands of this turn.
    commands: u32,
    /// Of each channel where presence is on, what it was told.
    pub(super) presence: Vec<(ChannelName, Seen)>,
}

/// A command that waits for the broker.
struct Pending {
    id: Option<NonZeroU64>,
    outcome: Outcome,
}

impl std::fmt::Debug for Pending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pending").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Session {
    /// Whether a command may be read in this turn.
    pub(super) fn is_free(&self) -> bool {
        self.is_free_next() && self.commands < COMMANDS_PER_TURN
    }

    /// Whether one may be in the next.
    pub(super) fn is_free_next(&self) -> bool {
        self.pending.is_none() && self.replies == 0
    }

    /// Another turn begins.
    pub(super) fn begin_turn(&mut self) {
        self.commands = 0;
    }

    /// Whether another command may be taken of what was read.
    fn may_go_on(&self) -> bool {
        self.pending.is_none()
            && self.replies < REPLIES_BYTES_MAX
            && self.commands < COMMANDS_PER_TURN
    }

    /// Whether a command waits for the broker.
    pub(super) fn is_busy(&self) -> bool {
        self.pending.is_some()
    }

    /// All that waited was written.
    pub(super) fn flushed(&mut self) {
        self.replies = 0;
    }

    /// It is subscribed where presence is on; `from` is the first round that knows of it.
    pub(super) fn entered(&mut self, channel: ChannelName, from: Round) {
        self.presence.push((channel, Seen::Nothing(from)));
    }
}

// ---- Commands --------------------------------------------------------------------------------

impl Inner {
    /// Takes one message. Answers whether the next one may be taken too.
    pub(super) fn handle_frame(
        &mut self,
        worker: &Rc<Worker>,
        session: &mut Session,
        kind: Kind,
        data: &[u8],
        cx: &mut Context<'_>,
    ) -> bool {
        session.commands += 1;
        if kind == Kind::Binary {
            let reason = "tidegate.v1.json has text messages";
            self.close(worker, Cause::Broken(close::UNSUPPORTED, reason), Wait::Nothing);
            return true;
        }
        let frame = match ClientFrame::parse_json(data, &worker.nobody) {
            Ok(frame) => frame,
            Err(FrameError::NoObject) => {
                let reason = "a message is one JSON object";
                self.close(worker, Cause::Broken(close::INVALID_PAYLOAD, reason), Wait::Nothing);
                return true;
            }
            Err(FrameError::Refused { id, error }) => {
                self.reply_error(worker, session, id, &Problem::from(error));
                return session.may_go_on();
            }
        };
        let ClientFrame { id, command } = frame;
        match self.begin_command(worker, session, id, command) {
            Ok(Begun::Done(done)) => self.done(worker, session, id, done),
            Ok(Begun::Waits(outcome)) => {
                session.pending = Some(Pending { id, outcome });
                // Most often it is there already.
                self.poll_pending(worker, session, cx);
            }
            Err(problem) => self.reply_error(worker, session, id, &problem),
        }
        session.may_go_on()
    }

    /// Does what is this connection's own to do, and leaves the rest to the transport.
    fn begin_command(
        &mut self,
        worker: &Rc<Worker>,
        session: &mut Session,
        id: Option<NonZeroU64>,
        command: Command,
    ) -> Result<Begun, Problem> {
        match command {
            Command::Unsubscribe(channel) => {
                self.unsubscribe(worker, session, &channel)?;
                return Ok(Begun::Done(Done::Unsubscribed(channel)));
            }
            Command::Subscribe { ref channel, .. } => self.may_add(channel)?,
            _ => {}
        }
        envelope::begin(worker, self.session, id, command)
    }

    /// Goes on with a command that waits for the broker.
    pub(super) fn poll_pending(
        &mut self,
        worker: &Rc<Worker>,
        session: &mut Session,
        cx: &mut Context<'_>,
    ) {
        if matches!(self.phase, Phase::Lingering(_) | Phase::Dead) {
            // Nothing may come behind a close.
            session.pending = None;
        }
        let Some(pending) = &mut session.pending else { return };
        let Poll::Ready(outcome) = pending.outcome.as_mut().poll(cx) else { return };
        let id = pending.id;
        session.pending = None;
        match outcome {
            Ok(done) => self.done(worker, session, id, done),
            Err(problem) => self.reply_error(worker, session, id, &problem),
        }
    }

    fn done(
        &mut self,
        worker: &Rc<Worker>,
        session: &mut Session,
        id: Option<NonZeroU64>,
        done: Done,
    ) {
        match done {
            Done::History(channel, Found { messages, position, gap, ended }) => {
                gap.iter().for_each(|gap| worker.metrics.gap(gap.reason));
                let (channel, messages, gap) = (&channel, &*messages, gap.as_ref());
                let page = HistoryPage { channel, messages, position, gap, ended };
                let before = session.replies;
                self.reply(worker, session, id, ServerBody::History(page));
                worker.metrics.delivered(messages.len(), session.replies - before);
            }
            Done::Pong => self.reply(worker, session, id, ServerBody::Pong),
            Done::Members(channel, members) => {
                let body = ServerBody::Presence { channel: &channel, members: &members };
                self.reply(worker, session, id, body);
            }
            Done::Published(channel, published) => {
                let (position, is_duplicate) = (published.position(), published.is_duplicate());
                let body = ServerBody::Published { channel: &channel, position, is_duplicate };
                self.reply(worker, session, id, body);
            }
            Done::Subscribed(start) => {
                let position = start.resume();
                let channel = start.channel.clone();
                // Before anything that comes of it.
                let body = ServerBody::Subscribed { channel: &channel, position };
                self.reply(worker, session, id, body);
                self.add(worker, session, start);
            }
            Done::Unasked => {}
            Done::Unsubscribed(channel) => {
                let body = ServerBody::Unsubscribed { channel: &channel, reason: None };
                self.reply(worker, session, id, body);
            }
        }
    }

    /// Adds the one reply to a command; none to one that has no number.
    fn reply(
        &mut self,
        worker: &Worker,
        session: &mut Session,
        id: Option<NonZeroU64>,
        body: ServerBody<'_>,
    ) {
        if id.is_some() {
            self.push_reply(worker.encoder.borrow_mut().frame(id, body), session);
        }
    }

    /// Adds what is told of a command that failed, whether it has a number or not.
    fn reply_error(
        &mut self,
        worker: &Worker,
        session: &mut Session,
        id: Option<NonZeroU64>,
        problem: &Problem,
    ) {
        // Its instance is for the log alone: an error reply has no place for one.
        let _ = worker.refusals.log(problem);
        self.push_reply(worker.encoder.borrow_mut().frame(id, problem.body()), session);
    }

    fn push_reply(&mut self, frame: Bytes, session: &mut Session) {
        session.replies += frame.len();
        self.out.push(frame);
    }
}

// ---- Subscriptions ---------------------------------------------------------------------------

impl Inner {
    /// Whether there may be another subscription.
    fn may_add(&self, channel: &ChannelName) -> Result<(), Problem> {
        if self.subs.iter().any(|it| it.channel == *channel) {
            return Err(Problem::invalid(format!(
                "subscribe: channel \"{channel}\" is subscribed already; unsubscribe first"
            )));
        }
        if self.subs.len() >= SUBSCRIPTIONS_MAX {
            return Err(Problem::invalid(format!(
                "subscribe: {SUBSCRIPTIONS_MAX} channels are subscribed, and that is as many as one \
                 connection may have; unsubscribe from one, or use another connection"
            )));
        }
        Ok(())
    }

    /// Adds a subscription, and reads for it what the log has.
    fn add(&mut self, worker: &Rc<Worker>, session: &mut Session, start: Start) {
        let Some(client) = worker.client(self.key) else { return };
        let index = self.subs.len();
        let (sub, begun) = Sub::new(worker, start, self.form);
        self.subs.push(sub);
        let from = Sub::register(&mut self.subs, worker, &client, index, begun, self.session);
        if let Some((channel, from)) = from {
            session.entered(channel, from);
        }
        if let Some((after, at_least)) = self.wanted_page(worker, index) {
            self.read_page(worker, index, after, at_least);
        }
    }

    fn unsubscribe(
        &mut self,
        worker: &Worker,
        session: &mut Session,
        channel: &ChannelName,
    ) -> Result<(), Problem> {
        let index = self.subs.iter().position(|it| it.channel == *channel).ok_or_else(|| {
            Problem::invalid(format!("unsubscribe: channel \"{channel}\" is not subscribed"))
        })?;
        self.remove(worker, session, index, Parting::Left);
        Ok(())
    }

    /// Removes a subscription; the last one takes its place.
    fn remove(&mut self, worker: &Worker, session: &mut Session, index: usize, parting: Parting) {
        let sub = self.subs.swap_remove(index);
        session.presence.retain(|(it, _)| *it != sub.channel);
        sub.leave(worker, self.session, parting);
        if let Some(Sub { channel, hub_key: Some(key), .. }) = self.subs.get(index)
            && let Some(Subscriber::Stream(_, at)) =
                worker.hub.borrow_mut().subscriber_mut(channel, *key)
        {
            *at = u32::try_from(index).unwrap_or(u32::MAX);
        }
    }

    /// Ends one subscription of an enveloped connection: after its end was told, or for `reason`.
    pub(super) fn retire(&mut self, worker: &Worker, index: usize, reason: Option<Code>) {
        let Some(channel) = self.subs.get(index).map(|it| it.channel.clone()) else { return };
        let Some(mut socket) = self.socket.take() else { return };
        if let Some(session) = &mut socket.session {
            // Whom we failed is told why, and tries again.
            let parting = if reason.is_some() { Parting::Cut } else { Parting::Left };
            self.remove(worker, session, index, parting);
        }
        self.socket = Some(socket);
        let reason = reason.map(Code::as_str);
        let body = ServerBody::Unsubscribed { channel: &channel, reason };
        let frame = worker.encoder.borrow_mut().frame(None, body);
        self.push(worker, frame);
    }

    /// Whether it is an enveloped connection.
    pub(super) fn is_enveloped(&self) -> bool {
        self.form.format == Format::Envelope
    }

    /// Adds a push.
    pub(super) fn push(&mut self, worker: &Worker, frame: Bytes) {
        self.written_at = worker.tick();
        self.out.push(frame);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::forms::Encoder;

    #[test]
    fn the_pushed_ping_is_one() {
        assert_eq!(
            Encoder::new(std::sync::Arc::default()).frame(None, ServerBody::Ping),
            PUSHED_PING
        );
    }
}
