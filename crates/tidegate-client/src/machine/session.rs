//! One subscription: it connects, reads, notices silence, backs off, goes on from its cursor, and
//! steps down the ladder where a wire is broken. No IO: see the module above.
//!
//! ```text
//!            ┌────────── back-off, or the next poll ◄─────────────┐
//!            ▼                                                    │
//!   Waiting ───► Opening ──head──► Open ──cut, silent, closed, error, end of a page
//!                   │                └──ends of all channels──► Over
//!                   └──another status──► Refused ──body──► back-off, or Over
//! ```
//! The cursor moves when an event is queued, never before; so whatever is lost with a connection is
//! asked for again on the next one, and nothing else is.

mod incoming;

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use tidegate_core::ChannelName;
use tidegate_core::channel::CHANNELS_MAX;
use tidegate_core::envelope::client::LIMIT_MAX;
use tidegate_wire::ndjson::LineSplitter;
use tidegate_wire::sse;
use tidegate_wire::websocket::Kind;

use super::backoff::{Backoff, BackoffConfig};
use super::form::{self, Names};
use super::ladder::{Doubt, Ladder};
use super::{Head, Limits, Refusal, Timing, WORKED};
use crate::error::{Error, Failure, Problem, Word};
use crate::event::{Choice, Cursor, End, Event, Gap, Open, Retry, Since, Wire};

/// What a subscription is to be.
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// 1 to 100, none twice.
    pub channels: Vec<ChannelName>,
    /// Where to begin.
    pub since: Since,
    /// By which wire.
    pub choice: Choice,
    /// What [`Action::Remember`] said last, of any session of the same gateway.
    pub remembered: Option<(Wire, Instant)>,
    /// Bounds on what the peer can make us keep.
    pub limits: Limits,
    /// How long things may take.
    pub timing: Timing,
    /// When to try again.
    pub backoff: BackoffConfig,
    /// Attempts in a row that may fail; `None`: as many as it takes.
    pub attempts_max: Option<u32>,
    /// Where the jitter comes from; clients that may meet differ in it.
    pub seed: u64,
}

/// What the driver is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Open a connection, or use one that was left alive, and send this request.
    Connect(Connect),
    /// Drop the connection, if there is one.
    Disconnect,
    /// Send a ping on the WebSocket.
    Ping,
    /// Keep this for further sessions of the same gateway: the wire that works, and when a better
    /// one was left; `None` where it is the best.
    Remember(Option<(Wire, Instant)>),
}

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connect {
    /// By which wire; the WebSockets need an upgrade.
    pub wire: Wire,
    /// Path and query, below the gateway's prefix.
    pub target: String,
    /// The value of `Accept`; `None` on WebSockets.
    pub accept: Option<&'static str>,
}

/// Something to tell, and where to go on after it.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    /// What is told; `None` where only the place moved. After an error there is nothing more.
    pub event: Option<Result<Event, Error>>,
    /// The cursor that resumes after it; `None` where that is what it was before.
    pub cursor: Option<Cursor>,
}

/// A subscription. Its order of calls is its module's.
#[derive(Debug)]
pub struct Session {
    config: SessionConfig,
    state: State,
    backoff: Backoff,
    ladder: Ladder,
    /// Where to go on; `None` until a gateway has said where it begins.
    cursor: Option<Cursor>,
    /// Channels whose end was told, in their order.
    ended: Vec<bool>,
    /// Whether there was a gateway at the other end, ever.
    has_opened: bool,
    /// Attempts in a row that have failed.
    attempts: u32,
    /// What the last event stream asked for.
    sse_retry: Option<Duration>,
    /// Messages that a poll asks for: fewer while pages are too large, or cut on their way.
    page_messages: u32,
    /// Whether the connection that polls make together was told.
    is_open_told: bool,
    /// Publications of a bare WebSocket that were had since `cursor`.
    bare_had: u64,
    actions: VecDeque<Action>,
    deliveries: VecDeque<Delivery>,
    queued_bytes: usize,
}

#[derive(Debug)]
enum State {
    Waiting { until: Instant },
    Opening { wire: Wire, began: Instant, deadline: Instant },
    Refused { wire: Wire, refusal: Refusal, deadline: Instant },
    Open(Box<Stream>),
    Over,
}

/// A connection that stands.
#[derive(Debug)]
struct Stream {
    wire: Wire,
    reader: Reader,
    /// When its request was made.
    began: Instant,
    /// When something came last.
    heard_at: Instant,
    pinged_at: Option<Instant>,
    /// When something must have come, if nothing has; `None` where that proves nothing.
    prove_by: Option<Instant>,
    is_proven: bool,
    /// Whether it has moved the place.
    has_progress: bool,
}

/// How the bytes of a wire are read.
#[derive(Debug)]
enum Reader {
    Sse(sse::Parser),
    Lines(LineSplitter),
    /// What has come of a poll's answer.
    Page(Vec<u8>),
    Messages,
    /// So many publications were had on an earlier connection.
    Bare {
        skip: u64,
    },
}

impl Session {
    /// A session that is to connect at once.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`]: no channels, too many, one twice, several on a bare WebSocket.
    pub fn new(config: SessionConfig, now: Instant) -> Result<Self, Error> {
        let channels = &config.channels;
        let usage = |words: &str| Err(Error::Usage(words.into()));
        let mut sorted: Vec<_> = channels.iter().collect();
        sorted.sort_unstable();
        sorted.dedup();
        match channels.len() {
            0 => return usage("no channel is named; name at least one"),
            len if len > CHANNELS_MAX => {
                return usage("more than 100 channels are named; use several subscriptions");
            }
            len if len != sorted.len() => {
                return usage("a channel is named twice; name each channel once");
            }
            len if len > 1 && config.choice == Choice::Only(Wire::WsBare) => {
                return usage("a bare WebSocket has one channel; take the wire ws for several");
            }
            _ => {}
        }
        let cursor = match &config.since {
            Since::After(cursor) => Some(cursor.clone()),
            Since::Last(_) | Since::Now | Since::Start => None,
        };
        Ok(Self {
            state: State::Waiting { until: now },
            backoff: Backoff::new(config.backoff, config.seed),
            ladder: Ladder::new(config.choice, config.remembered),
            cursor,
            ended: vec![false; channels.len()],
            has_opened: false,
            attempts: 0,
            sse_retry: None,
            page_messages: config.limits.page_messages_max.clamp(1, LIMIT_MAX),
            is_open_told: false,
            bare_had: 0,
            actions: VecDeque::new(),
            deliveries: VecDeque::new(),
            queued_bytes: 0,
            config,
        })
    }

    // ---- Inputs ------------------------------------------------------------------------------

    /// The head of the answer has come. On a WebSocket the driver has checked the handshake.
    pub fn handle_head(&mut self, head: Head, now: Instant) {
        let State::Opening { wire, began, .. } = self.state else { return };
        let is_accepted = match wire {
            Wire::Ws | Wire::WsBare => head.status == 101,
            Wire::Sse => head.status == 200 && head.is_of("text/event-stream"),
            Wire::Ndjson => head.status == 200 && head.is_of("application/x-ndjson"),
            Wire::LongPoll | Wire::Poll => head.status == 200 && head.is_of("application/json"),
        };
        if is_accepted {
            self.open(wire, began, &head, now);
        } else if head.status == 204 && wire == Wire::Sse {
            self.end_all(&head);
        } else {
            let deadline = now + self.config.timing.open_timeout;
            self.state = State::Refused { wire, refusal: Refusal::new(head), deadline };
        }
    }

    /// A piece of the answer's body has come.
    pub fn handle_data(&mut self, data: &[u8], now: Instant) {
        match &mut self.state {
            State::Refused { refusal, .. } => {
                if refusal.push(data) {
                    self.refuse(now);
                }
            }
            State::Open(stream) => {
                stream.heard_at = now;
                if !stream.wire.is_paged() {
                    self.prove();
                }
                if let Err(failure) = self.read(data, now) {
                    self.fail(failure, now);
                }
            }
            State::Waiting { .. } | State::Opening { .. } | State::Over => {}
        }
    }

    /// The answer's body has ended as it should.
    pub fn handle_body_end(&mut self, now: Instant) {
        match &mut self.state {
            State::Refused { .. } => self.refuse(now),
            State::Open(stream) => match &mut stream.reader {
                Reader::Page(body) => {
                    let body = std::mem::take(body);
                    let page = form::page(&body, &Names(&self.config.channels));
                    match page {
                        Ok(page) => self.take_page(page, now),
                        Err(failure) => self.fail(failure, now),
                    }
                }
                Reader::Sse(_) | Reader::Lines(_) | Reader::Messages | Reader::Bare { .. } => {
                    // A gateway says why before it ends a stream.
                    self.fail(Failure::Cut("the stream ended without a reason".into()), now);
                }
            },
            State::Waiting { .. } | State::Opening { .. } | State::Over => {}
        }
    }

    /// A WebSocket's message has come.
    pub fn handle_message(&mut self, kind: Kind, data: &[u8], now: Instant) {
        self.handle_alive(now);
        let State::Open(stream) = &mut self.state else { return };
        let taken = match (&mut stream.reader, kind) {
            (Reader::Bare { skip }, _) if *skip > 0 => {
                *skip -= 1;
                Ok(())
            }
            (Reader::Bare { .. }, kind) => self.take_bare(kind, data),
            (Reader::Messages, Kind::Text) => form::line(data, &Names(&self.config.channels))
                .and_then(|form| self.take(form, now)),
            _ => Err(Failure::Protocol("a binary message where JSON is due".into())),
        };
        if let Err(failure) = taken {
            self.fail(failure, now);
        }
    }

    /// Something has come that says no more than that the peer lives: a ping, a pong, a part.
    pub fn handle_alive(&mut self, now: Instant) {
        let State::Open(stream) = &mut self.state else { return };
        (stream.heard_at, stream.pinged_at) = (now, None);
        self.prove();
    }

    /// The peer has closed the WebSocket.
    pub fn handle_close(&mut self, code: Option<u16>, reason: &str, now: Instant) {
        let State::Open(stream) = &self.state else { return };
        let Reader::Bare { skip } = stream.reader else {
            return self.fail(closed(code, reason), now);
        };
        let resumed = Cursor::parse(reason).ok();
        if let Some(cursor) = &resumed {
            // What is still to be left out lies behind the cursor.
            (self.cursor, self.bare_had) = (Some(cursor.clone()), skip);
        }
        let Some(channel) = self.config.channels.first().cloned() else { return };
        match code {
            Some(1000) => {
                let end = End { channel, cursor: resumed.clone() };
                self.take_end(end, resumed);
            }
            Some(CLOSE_GAP) => {
                self.bare_had = 0;
                let gap = Gap { channel, requested: None, resumed: resumed.clone(), reason: None };
                self.tell(Event::Gap(gap), resumed);
            }
            _ => {}
        }
        self.fail(closed(code, reason), now);
    }

    /// The connection did not come about, or broke.
    pub fn handle_failure(&mut self, failure: Failure, now: Instant) {
        match &self.state {
            // What has come of a refusal says more than that it broke.
            State::Refused { .. } => self.refuse(now),
            State::Opening { .. } | State::Open(_) => self.fail(failure, now),
            State::Waiting { .. } | State::Over => {}
        }
    }

    /// The time that [`Session::poll_timeout`] named has come, or another: then nothing happens.
    pub fn handle_timeout(&mut self, now: Instant) {
        match &mut self.state {
            State::Waiting { until } if *until <= now => self.connect(now),
            State::Opening { began, deadline, .. } if *deadline <= now => {
                let after = deadline.saturating_duration_since(*began);
                self.fail(Failure::Timeout { what: "connecting and the answer", after }, now);
            }
            State::Refused { deadline, .. } if *deadline <= now => self.refuse(now),
            State::Open(stream) => {
                let Some(deadline) = stream.deadline(&self.config.timing) else { return };
                if deadline > now {
                    return;
                }
                let is_to_ping = stream.wire.is_websocket() && stream.pinged_at.is_none();
                if is_to_ping && stream.prove_by.is_none_or(|by| by > now) {
                    stream.pinged_at = Some(now);
                    self.actions.push_back(Action::Ping);
                } else {
                    let silence = now.saturating_duration_since(stream.heard_at);
                    self.fail(Failure::Silent(silence), now);
                }
            }
            State::Waiting { .. } | State::Opening { .. } | State::Refused { .. } | State::Over => {
            }
        }
    }

    // ---- Outputs -----------------------------------------------------------------------------

    /// What is to be done next.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// What is to be told next.
    pub fn poll_delivery(&mut self) -> Option<Delivery> {
        let delivery = self.deliveries.pop_front()?;
        self.queued_bytes = self.queued_bytes.saturating_sub(delivery.weight());
        Some(delivery)
    }

    /// When to call [`Session::handle_timeout`]; `None` once it is over.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        match &self.state {
            State::Waiting { until } => Some(*until),
            State::Opening { deadline, .. } | State::Refused { deadline, .. } => Some(*deadline),
            State::Open(stream) => stream.deadline(&self.config.timing),
            State::Over => None,
        }
    }

    /// Bytes that wait to be told. A driver that holds back what it gives in keeps them bounded.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// Whether it is over: all channels have ended, or there was an error. What is queued is still
    /// to be told.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.state, State::Over)
    }

    // ---- Connections -------------------------------------------------------------------------

    fn connect(&mut self, now: Instant) {
        self.ladder.forget(now);
        let wire = self.ladder.wire();
        let Timing { open_timeout, long_poll_wait, .. } = self.config.timing;
        let wait = if wire == Wire::LongPoll { long_poll_wait } else { Duration::ZERO };
        self.state = State::Opening { wire, began: now, deadline: now + open_timeout + wait };
        let accept = match wire {
            Wire::Ws | Wire::WsBare => None,
            Wire::Sse => Some("text/event-stream"),
            Wire::Ndjson => Some("application/x-ndjson"),
            Wire::LongPoll | Wire::Poll => Some("application/json"),
        };
        self.actions.push_back(Action::Connect(Connect {
            wire,
            target: self.target(wire),
            accept,
        }));
    }

    fn target(&self, wire: Wire) -> String {
        let names: Vec<_> = self.config.channels.iter().map(ChannelName::as_str).collect();
        let mut target = format!("/channels/{}?", names.join(","));
        // Writing to a string can't fail.
        let _ = match (&self.cursor, &self.config.since) {
            (Some(cursor), _) => write!(target, "since={cursor}"),
            (None, Since::Last(count)) => write!(target, "last={count}"),
            (None, Since::Start) => write!(target, "since=start"),
            (None, Since::Now | Since::After(_)) => write!(target, "since=now"),
        };
        let _ = match wire {
            Wire::Ws | Wire::Sse => write!(target, "&envelope=1"),
            Wire::WsBare | Wire::Ndjson => Ok(()),
            Wire::LongPoll => {
                let wait = self.config.timing.long_poll_wait.as_millis();
                write!(target, "&wait={wait}ms&limit={}", self.page_messages)
            }
            Wire::Poll => write!(target, "&limit={}", self.page_messages),
        };
        target
    }

    fn open(&mut self, wire: Wire, began: Instant, head: &Head, now: Instant) {
        let limits = &self.config.limits;
        let bytes_max = usize::try_from(limits.message_bytes_max).unwrap_or(usize::MAX);
        // Of a poll it is not known before its page is read.
        self.has_opened |= !wire.is_paged();
        let reader = match wire {
            Wire::Ws => Reader::Messages,
            Wire::WsBare => Reader::Bare { skip: self.bare_had },
            Wire::Sse => Reader::Sse(sse::Parser::new(bytes_max)),
            Wire::Ndjson => Reader::Lines(LineSplitter::new(bytes_max)),
            Wire::LongPoll | Wire::Poll => Reader::Page(Vec::new()),
        };
        let prove_by = now + self.config.timing.open_timeout;
        // An event stream begins with its cursor; a WebSocket answers a ping.
        let is_to_prove = self.ladder.is_auto() && matches!(wire, Wire::Ws | Wire::Sse);
        let is_to_ping = is_to_prove && wire == Wire::Ws;
        self.state = State::Open(Box::new(Stream {
            wire,
            reader,
            began,
            heard_at: now,
            pinged_at: is_to_ping.then_some(now),
            prove_by: is_to_prove.then_some(prove_by),
            is_proven: false,
            has_progress: false,
        }));
        if is_to_ping {
            self.actions.push_back(Action::Ping);
        }
        if wire.is_paged() {
            return;
        }
        // It is where the gateway begins, gaps that are still to be told before it.
        if let Some(cursor) = head.cursor.as_deref().and_then(|it| Cursor::parse(it).ok()) {
            self.cursor = Some(cursor);
        }
        let cursor = self.cursor.clone();
        self.tell(Event::Open(Open { wire, cursor: cursor.clone() }), cursor);
    }

    /// Whatever was proven holds until this connection fails.
    fn prove(&mut self) {
        let State::Open(stream) = &mut self.state else { return };
        if std::mem::replace(&mut stream.is_proven, true) {
            return;
        }
        stream.prove_by = None;
        self.ladder.prove();
        if self.ladder.is_auto() {
            self.actions.push_back(Action::Remember(self.ladder.memory()));
        }
    }

    /// The refusal is whole, or as whole as it gets.
    fn refuse(&mut self, now: Instant) {
        let State::Refused { refusal, .. } = &self.state else { return };
        let failure = refusal.failure();
        self.fail(failure, now);
    }

    /// Leaves the connection, and says when the next one is, or that there is none.
    fn fail(&mut self, failure: Failure, now: Instant) {
        let (wire, is_proven, has_worked) = match &self.state {
            State::Waiting { .. } | State::Over => return,
            State::Opening { wire, .. } | State::Refused { wire, .. } => (*wire, false, false),
            State::Open(stream) => {
                let age = now.saturating_duration_since(stream.began);
                let has_worked = stream.has_progress || (stream.is_proven && age >= WORKED);
                (stream.wire, stream.is_proven, has_worked)
            }
        };
        if let State::Open(stream) = &self.state
            && matches!(&stream.reader, Reader::Page(body) if !body.is_empty())
        {
            // Where connections don't live long, a shorter page may come through.
            self.page_messages = (self.page_messages / 2).max(1);
        }
        self.actions.push_back(Action::Disconnect);
        self.is_open_told = false;
        let has_other = self.ladder.doubt(Doubt::of(&failure, wire, is_proven), now);
        if has_worked {
            self.attempts = 0;
            self.backoff.reset();
        } else {
            self.attempts = self.attempts.saturating_add(1);
        }
        // Where there was a gateway, what is something else now is that for a while.
        let is_portal = matches!(failure, Failure::Foreign { .. } | Failure::Status { .. });
        let may_pass = failure.is_temporary() || has_other || (is_portal && self.has_opened);
        if !may_pass {
            return self.give_up(Error::Failed(failure));
        }
        if self.config.attempts_max.is_some_and(|max| self.attempts >= max) {
            let attempts = self.attempts;
            return self.give_up(Error::Exhausted {
                attempts,
                last: failure,
                is_outcome_unknown: false,
            });
        }
        let asked = failure.retry_after().max(self.sse_retry.filter(|_| wire == Wire::Sse));
        let delay = self.backoff.next(asked);
        self.state = State::Waiting { until: now + delay };
        let (attempts, wire) = (self.attempts, self.ladder.wire());
        self.tell(Event::Retry(Retry { failure, delay, attempts, wire }), None);
    }

    fn give_up(&mut self, error: Error) {
        self.state = State::Over;
        self.deliver(Delivery { event: Some(Err(error)), cursor: None });
    }

    // ---- Telling ----------------------------------------------------------------------------

    fn ended_mut(&mut self, channel: &ChannelName) -> Option<&mut bool> {
        let at = self.config.channels.iter().position(|it| it == channel)?;
        self.ended.get_mut(at)
    }

    fn progress(&mut self) {
        if let State::Open(stream) = &mut self.state {
            stream.has_progress = true;
        }
    }

    fn tell(&mut self, event: Event, cursor: Option<Cursor>) {
        if cursor.is_some() {
            self.cursor.clone_from(&cursor);
        }
        self.deliver(Delivery { event: Some(Ok(event)), cursor });
    }

    fn move_to(&mut self, cursor: Option<Cursor>) {
        if cursor.is_none() || self.cursor == cursor {
            return;
        }
        self.cursor.clone_from(&cursor);
        match self.deliveries.back_mut() {
            // Nothing is told between them.
            Some(last) => last.cursor = cursor,
            None => self.deliver(Delivery { event: None, cursor }),
        }
    }

    fn deliver(&mut self, delivery: Delivery) {
        self.queued_bytes = self.queued_bytes.saturating_add(delivery.weight());
        self.deliveries.push_back(delivery);
    }
}

/// Close code for a gap on a bare WebSocket (CONTRACT 4).
const CLOSE_GAP: u16 = 4010;

/// What a close says: where a refusal comes as one, its reason is `code` or `code SECONDS`.
pub(super) fn closed(code: Option<u16>, reason: &str) -> Failure {
    let mut words = reason.split(' ');
    let word = Word::parse(words.next().unwrap_or_default());
    if matches!(word, Word::Unknown(_)) {
        return Failure::Closed { code, reason: reason.to_owned() };
    }
    let retry_after = words.next().and_then(|it| it.parse().ok()).map(Duration::from_secs);
    Failure::Problem(Problem { retry_after, ..Problem::of(word) })
}

impl Head {
    fn is_of(&self, content_type: &str) -> bool {
        self.content_type.as_deref() == Some(content_type)
    }
}

impl Delivery {
    /// Bytes that it is charged with in a queue.
    #[must_use]
    pub fn weight(&self) -> usize {
        match &self.event {
            Some(Ok(event)) => event.weight(),
            Some(Err(_)) | None => 64,
        }
    }
}

impl Stream {
    /// When silence has lasted too long, or a ping is due.
    fn deadline(&self, timing: &Timing) -> Option<Instant> {
        let silence = match (self.wire.is_websocket(), self.pinged_at) {
            (true, Some(at)) => at + timing.ping_timeout,
            (true, None) => self.heard_at + timing.ping_interval,
            (false, _) => self.heard_at + timing.silence_max,
        };
        Some(self.prove_by.map_or(silence, |by| by.min(silence)))
    }
}

#[cfg(test)]
mod tests;
