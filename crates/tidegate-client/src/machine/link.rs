//! One enveloped connection: many channels, and commands with their replies (CONTRACT 5), over as
//! many WebSockets as it takes. No IO: see the module above.
//!
//! ```text
//!   command ──► pending, by id ──► text out        text in ──► reply of that id, or a push
//!                  │  the connection is lost
//!                  └──► sent again on the next one, with the same id and, of a publication, the
//!                       same key; what is subscribed to is subscribed to from its cursor
//! ```
//! What comes of a channel before this connection's `subscribed` belongs to a subscription that was
//! given up, and is passed over.

mod incoming;
mod raw;
mod text;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use tidegate_core::ChannelName;
use tidegate_wire::websocket::Kind;

pub(super) use self::text::entry;
use self::text::{subscribe, write};
use super::backoff::{Backoff, BackoffConfig};
use super::form;
use super::session::closed;
use super::{Head, Refusal, Timing, WORKED};
use crate::error::{Error, Failure};
use crate::event::{Cursor, Event, Retry, Since, Wire};
use crate::message::{Command, Push, Reply};

/// How a connection is to be.
#[derive(Clone, Debug)]
pub struct LinkConfig {
    /// How long things may take.
    pub timing: Timing,
    /// When to try again.
    pub backoff: BackoffConfig,
    /// Attempts in a row that may fail; `None`: as many as it takes.
    pub attempts_max: Option<u32>,
    /// How long a command may take, with all its attempts. Below the time that the gateway keeps
    /// keys (2 minutes by default).
    pub command_timeout: Duration,
    /// Where the jitter comes from.
    pub seed: u64,
}

/// What the driver is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Open a WebSocket at `/connect` with the subprotocol `tidegate.v1.json`.
    Connect,
    /// Drop the connection, if there is one.
    Disconnect,
    /// Send a ping.
    Ping,
    /// Send a text.
    Send(String),
}

/// A command's number, by which its reply is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

/// An enveloped connection. Its order of calls is its module's.
#[derive(Debug)]
pub struct Link {
    config: LinkConfig,
    state: State,
    backoff: Backoff,
    attempts: u32,
    next_id: u64,
    subs: BTreeMap<ChannelName, Sub>,
    pending: BTreeMap<u64, Pending>,
    /// What is due and when: first by time.
    dues: BTreeMap<(Instant, u64), Due>,
    next_due: u64,
    actions: VecDeque<Action>,
    replies: VecDeque<(Ticket, Result<Reply, Error>)>,
    pushes: VecDeque<Result<Push, Error>>,
}

#[derive(Debug)]
enum State {
    Waiting { until: Instant },
    Opening { deadline: Instant },
    Refused { refusal: Refusal, deadline: Instant },
    Open { began: Instant, heard_at: Instant, pinged_at: Option<Instant>, has_worked: bool },
    Over,
}

/// A channel that is subscribed to.
#[derive(Debug)]
struct Sub {
    since: Since,
    cursor: Option<Cursor>,
    /// Whether this connection has confirmed it.
    is_live: bool,
    /// The command that is to subscribe to it on this connection.
    id: u64,
}

/// A command without its reply.
#[derive(Debug)]
struct Pending {
    what: What,
    /// When it is given up. Later ids have later ones.
    deadline: Instant,
    /// Attempts that failed, and how the last did.
    attempts: u32,
    last: Option<Failure>,
    is_outcome_unknown: bool,
}

#[derive(Debug)]
enum What {
    /// Somebody waits for it.
    Command(Command),
    /// A subscription that is made again.
    Again(ChannelName),
}

#[derive(Debug)]
enum Due {
    /// A command is sent again.
    Command(u64),
    /// A channel is subscribed to again.
    Sub(ChannelName),
}

impl Link {
    /// A link that is to connect at once.
    #[must_use]
    pub fn new(config: LinkConfig, now: Instant) -> Self {
        Self {
            state: State::Waiting { until: now },
            backoff: Backoff::new(config.backoff, config.seed),
            attempts: 0,
            next_id: 1,
            subs: BTreeMap::new(),
            pending: BTreeMap::new(),
            dues: BTreeMap::new(),
            next_due: 0,
            actions: VecDeque::new(),
            replies: VecDeque::new(),
            pushes: VecDeque::new(),
            config,
        }
    }

    // ---- Inputs ------------------------------------------------------------------------------

    /// Somebody wants something.
    pub fn handle_command(&mut self, command: Command, now: Instant) -> Ticket {
        let id = self.take_id();
        if matches!(self.state, State::Over) {
            self.replies.push_back((Ticket(id), Err(Error::Closed)));
            return Ticket(id);
        }
        match &command {
            Command::Subscribe { channel, since } => {
                let cursor = match since {
                    Since::After(cursor) => Some(cursor.clone()),
                    Since::Last(_) | Since::Now | Since::Start => None,
                };
                let sub = Sub { since: since.clone(), cursor, is_live: false, id };
                // One that is there already goes on: the gateway says that it is.
                self.subs.entry(channel.clone()).or_insert(sub);
            }
            Command::Unsubscribe { channel } => {
                self.subs.remove(channel);
            }
            Command::History { .. }
            | Command::Ping
            | Command::Presence { .. }
            | Command::Publish { .. } => {}
        }
        self.pend(id, What::Command(command), now);
        if matches!(self.state, State::Open { .. }) {
            self.send(id);
        }
        Ticket(id)
    }

    /// The handshake is done (101, and checked), with `tidegate.v1.json` chosen or not; or the head
    /// of another answer has come.
    pub fn handle_head(&mut self, head: Head, protocol: Option<&str>, now: Instant) {
        if !matches!(self.state, State::Opening { .. }) {
            return;
        }
        if head.status != 101 {
            let deadline = now + self.config.timing.open_timeout;
            self.state = State::Refused { refusal: Refusal::new(head), deadline };
            return;
        }
        if protocol != Some(PROTOCOL) {
            let words =
                format!("the peer does not speak {PROTOCOL}: it is no gateway, or an old one");
            return self.give_up(&Failure::Protocol(words));
        }
        self.state = State::Open { began: now, heard_at: now, pinged_at: None, has_worked: false };
        let channels: Vec<_> = self.subs.keys().cloned().collect();
        for channel in channels {
            self.resubscribe(&channel, now);
        }
        let waits: Vec<u64> = self.pending.keys().copied().collect();
        waits.into_iter().for_each(|id| self.send(id));
    }

    /// A piece of a refusal's body has come; `None`: it has ended.
    pub fn handle_data(&mut self, data: Option<&[u8]>, now: Instant) {
        let State::Refused { refusal, .. } = &mut self.state else { return };
        if data.is_none_or(|it| refusal.push(it)) {
            self.refuse(now);
        }
    }

    /// A message has come.
    pub fn handle_message(&mut self, kind: Kind, data: &[u8], now: Instant) {
        self.handle_alive(now);
        if !matches!(self.state, State::Open { .. }) {
            return;
        }
        let taken = match kind {
            Kind::Text => form::parse(data).and_then(|raw| self.take(raw, now)),
            Kind::Binary => Err(Failure::Protocol("a binary message where JSON is due".into())),
        };
        if let Err(failure) = taken {
            self.fail(failure, now);
        }
    }

    /// Something has come that says no more than that the peer lives.
    pub fn handle_alive(&mut self, now: Instant) {
        if let State::Open { heard_at, pinged_at, .. } = &mut self.state {
            (*heard_at, *pinged_at) = (now, None);
        }
    }

    /// The peer has closed the WebSocket.
    pub fn handle_close(&mut self, code: Option<u16>, reason: &str, now: Instant) {
        self.fail(closed(code, reason), now);
    }

    /// The connection did not come about, or broke.
    pub fn handle_failure(&mut self, failure: Failure, now: Instant) {
        if matches!(self.state, State::Refused { .. }) {
            self.refuse(now);
        } else {
            self.fail(failure, now);
        }
    }

    /// The time that [`Link::poll_timeout`] named has come, or another: then nothing happens.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(entry) = self.dues.first_entry()
            && entry.key().0 <= now
        {
            match entry.remove() {
                Due::Command(id) => self.send(id),
                Due::Sub(channel) => {
                    if let Some(id) = self.resubscribe(&channel, now) {
                        self.send(id);
                    }
                }
            }
        }
        while let Some((id, pending)) = self.pending.first_key_value()
            && pending.deadline <= now
        {
            self.expire(*id, now);
        }
        let Timing { open_timeout, ping_interval, ping_timeout, .. } = self.config.timing;
        match &mut self.state {
            State::Waiting { until } if *until <= now => {
                self.state = State::Opening { deadline: now + open_timeout };
                self.actions.push_back(Action::Connect);
            }
            State::Opening { deadline } if *deadline <= now => {
                let what = "connecting and the answer";
                self.fail(Failure::Timeout { what, after: open_timeout }, now);
            }
            State::Refused { deadline, .. } if *deadline <= now => self.refuse(now),
            State::Open { heard_at, pinged_at, .. } => match *pinged_at {
                Some(at) if at + ping_timeout <= now => {
                    let silence = now.saturating_duration_since(*heard_at);
                    self.fail(Failure::Silent(silence), now);
                }
                None if *heard_at + ping_interval <= now => {
                    *pinged_at = Some(now);
                    self.actions.push_back(Action::Ping);
                }
                _ => {}
            },
            State::Waiting { .. } | State::Opening { .. } | State::Refused { .. } | State::Over => {
            }
        }
    }

    // ---- Outputs -----------------------------------------------------------------------------

    /// What is to be done next.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// The next command's outcome.
    pub fn poll_reply(&mut self) -> Option<(Ticket, Result<Reply, Error>)> {
        self.replies.pop_front()
    }

    /// What is to be told next; after an error there is nothing more.
    pub fn poll_push(&mut self) -> Option<Result<Push, Error>> {
        self.pushes.pop_front()
    }

    /// When to call [`Link::handle_timeout`]; `None` once it is over.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let Timing { ping_interval, ping_timeout, .. } = self.config.timing;
        let own = match &self.state {
            State::Waiting { until } => *until,
            State::Opening { deadline } | State::Refused { deadline, .. } => *deadline,
            State::Open { heard_at, pinged_at, .. } => {
                pinged_at.map_or(*heard_at + ping_interval, |at| at + ping_timeout)
            }
            State::Over => return None,
        };
        let due = self.dues.first_key_value().map(|((at, _), _)| *at);
        let given_up = self.pending.first_key_value().map(|(_, it)| it.deadline);
        [due, given_up].into_iter().flatten().chain([own]).min()
    }

    // ---- Connections -------------------------------------------------------------------------

    fn refuse(&mut self, now: Instant) {
        let State::Refused { refusal, .. } = &self.state else { return };
        let failure = refusal.failure();
        self.fail(failure, now);
    }

    fn fail(&mut self, failure: Failure, now: Instant) {
        let has_worked = match &self.state {
            State::Waiting { .. } | State::Over => return,
            State::Opening { .. } | State::Refused { .. } => false,
            State::Open { began, has_worked, .. } => {
                *has_worked || now.saturating_duration_since(*began) >= WORKED
            }
        };
        if has_worked {
            self.attempts = 0;
            self.backoff.reset();
        } else {
            self.attempts = self.attempts.saturating_add(1);
        }
        if !failure.is_temporary() {
            return self.give_up(&failure);
        }
        if self.config.attempts_max.is_some_and(|max| self.attempts >= max) {
            return self.give_up(&failure);
        }
        let was_open = matches!(self.state, State::Open { .. });
        self.actions.push_back(Action::Disconnect);
        self.subs.values_mut().for_each(|sub| sub.is_live = false);
        // They are made anew from what is subscribed to then.
        self.pending.retain(|_, it| matches!(it.what, What::Command(_)));
        self.dues.clear();
        for pending in self.pending.values_mut() {
            pending.is_outcome_unknown |= was_open;
            pending.last = Some(failure.clone());
            pending.attempts += 1;
        }
        let delay = self.backoff.next(failure.retry_after());
        self.state = State::Waiting { until: now + delay };
        let retry = Retry { failure, delay, attempts: self.attempts, wire: Wire::Ws };
        self.tell(Event::Retry(retry));
    }

    fn give_up(&mut self, failure: &Failure) {
        self.actions.push_back(Action::Disconnect);
        self.state = State::Over;
        self.dues.clear();
        let (attempts, is_final) = (self.attempts, !failure.is_temporary());
        let error = |is_outcome_unknown| match is_final || attempts == 0 {
            true => Error::Failed(failure.clone()),
            false => Error::Exhausted { attempts, last: failure.clone(), is_outcome_unknown },
        };
        for (id, pending) in std::mem::take(&mut self.pending) {
            if matches!(pending.what, What::Command(_)) {
                let outcome = Err(error(pending.is_outcome_unknown));
                self.replies.push_back((Ticket(id), outcome));
            }
        }
        self.pushes.push_back(Err(error(false)));
    }

    // ---- Commands ----------------------------------------------------------------------------

    fn take_id(&mut self) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        id
    }

    fn due(&mut self, at: Instant, due: Due) {
        self.next_due += 1;
        self.dues.insert((at, self.next_due), due);
    }

    fn send(&mut self, id: u64) {
        if !matches!(self.state, State::Open { .. }) {
            return;
        }
        let Some(pending) = self.pending.get(&id) else { return };
        let text = match &pending.what {
            What::Again(channel) => {
                let Some(sub) = self.subs.get(channel) else { return };
                subscribe(id, channel, &sub.since, sub.cursor.as_ref())
            }
            What::Command(Command::Subscribe { channel, .. }) => {
                let Some(sub) = self.subs.get(channel) else {
                    return self.answer(id, Err(Error::Closed));
                };
                subscribe(id, channel, &sub.since, sub.cursor.as_ref())
            }
            // On a new connection it is not subscribed to.
            What::Command(Command::Unsubscribe { channel }) if pending.attempts > 0 => {
                let channel = channel.clone();
                return self.answer(id, Ok(Reply::Unsubscribed { channel }));
            }
            What::Command(command) => write(id, command),
        };
        self.actions.push_back(Action::Send(text));
    }

    /// Makes the command that subscribes on this connection, but where one waits to do that.
    fn resubscribe(&mut self, channel: &ChannelName, now: Instant) -> Option<u64> {
        let sub = self.subs.get(channel)?;
        if self.pending.contains_key(&sub.id) || !matches!(self.state, State::Open { .. }) {
            return None;
        }
        let id = self.take_id();
        if let Some(sub) = self.subs.get_mut(channel) {
            sub.id = id;
        }
        self.pend(id, What::Again(channel.clone()), now);
        Some(id)
    }

    fn pend(&mut self, id: u64, what: What, now: Instant) {
        let deadline = now + self.config.command_timeout;
        let pending =
            Pending { what, deadline, attempts: 0, last: None, is_outcome_unknown: false };
        self.pending.insert(id, pending);
    }

    fn answer(&mut self, id: u64, outcome: Result<Reply, Error>) {
        self.pending.remove(&id);
        self.replies.push_back((Ticket(id), outcome));
    }

    fn expire(&mut self, id: u64, now: Instant) {
        let Some(pending) = self.pending.get(&id) else { return };
        let after = self.config.command_timeout;
        if matches!(pending.what, What::Again(_)) {
            // Nobody waits for it but we: on a new connection it is made anew.
            self.pending.remove(&id);
            return self.fail(Failure::Timeout { what: "subscribing again", after }, now);
        }
        let last = pending.last.clone();
        let last = last.unwrap_or(Failure::Timeout { what: "the reply to a command", after });
        let is_sent = matches!(self.state, State::Open { .. });
        let error = Error::Exhausted {
            attempts: pending.attempts.max(1),
            last,
            is_outcome_unknown: pending.is_outcome_unknown || is_sent,
        };
        if let What::Command(Command::Subscribe { channel, .. }) = &pending.what
            && self.subs.get(channel).is_some_and(|sub| sub.id == id)
        {
            let channel = channel.clone();
            self.subs.remove(&channel);
        }
        self.answer(id, Err(error));
    }

    // ---- Telling -----------------------------------------------------------------------------

    fn tell(&mut self, event: Event) {
        self.pushes.push_back(Ok(Push::Event(event)));
    }
}

/// The subprotocol.
pub const PROTOCOL: &str = "tidegate.v1.json";

#[cfg(test)]
mod tests;
