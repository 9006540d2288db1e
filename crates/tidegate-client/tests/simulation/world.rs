//! One seed: a session, a gateway, a network between them, and time that jumps from one thing that
//! happens to the next.

use std::time::{Duration, Instant};

use fastrand::Rng;
use tidegate_client::machine::Head;
use tidegate_client::machine::session::{Action, Connect, Session, SessionConfig};
use tidegate_client::{BackoffConfig, Choice, Event, Failure, Limits, Since, Timing, Wire};
use tidegate_wire::sse;
use tidegate_wire::websocket::Kind;

use crate::gateway::{self, Item, Log, Place};
use crate::oracle::Oracle;

/// A lie of the gateway's, which the oracle must notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sabotage {
    /// Cursors are forgotten: it goes on from now.
    Forget,
    /// Something is sent twice.
    Repeat,
    /// Something is left out.
    Skip,
}

/// How much of what has happened.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    publications: u32,
    gaps: u32,
    connects: u32,
    unreachable: u32,
    refusals: u32,
    cuts: u32,
    silences: u32,
    closes: u32,
    pings: u32,
    ladder_steps: u32,
    errors_in_stream: u32,
}

pub(crate) struct World {
    rng: Rng,
    now: Instant,
    began: Instant,
    session: Session,
    choice: Choice,
    logs: Vec<Log>,
    oracle: Oracle,
    link: Link,
    /// Whether a connection was told. Before that, what is the oldest is not known to anyone.
    has_opened: bool,
    /// When the next publication, restart or expiry is.
    next_deed: Instant,
    deeds_left: u32,
    /// No attempt may come before this.
    not_before: Instant,
    /// Attempts that may be made: one, and one for each back-off and each page.
    allowed: u32,
    sabotage: Option<Sabotage>,
    stats: Stats,
}

/// The connection, from the network's side.
enum Link {
    None,
    /// Something will come of it, at a time.
    Opening {
        connect: Connect,
        at: Instant,
        fate: Fate,
    },
    /// Nothing will.
    Hole,
    Open(Box<Stream>),
}

enum Fate {
    Accept,
    Refuse(Head, &'static [u8]),
    Unreachable,
}

struct Stream {
    connect: Connect,
    places: Vec<Place>,
    /// Bytes that are under way.
    out: Vec<u8>,
    /// Messages, on a WebSocket.
    messages: Vec<(Kind, Vec<u8>)>,
    /// When the next piece arrives.
    at: Instant,
    /// Bytes after which it is cut or silenced.
    left: usize,
    doom: Doom,
    heard_at: Instant,
    /// A pong is under way.
    is_pinged: bool,
    page: Page,
    turn: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Doom {
    Cut,
    Silence,
    /// The gateway goes: it says so.
    Drain,
}

/// How far a poll's answer is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Page {
    None,
    Due { deadline: Instant },
    Sent,
}

const PROBLEM: &[u8] =
    br#"{"code":"unavailable","status":503,"detail":"away","retry_after":1.5,"title":"x"}"#;

impl World {
    pub(crate) fn new(seed: u64, sabotage: Option<Sabotage>) -> Self {
        let mut rng = Rng::with_seed(seed);
        let choices = Wire::ALL.map(Choice::from);
        let choice = match rng.usize(..8) {
            at @ 0..6 => choices[at],
            _ => Choice::Auto,
        };
        let is_bare = choice == Choice::Only(Wire::WsBare);
        let channels = if is_bare { 1 } else { rng.usize(1..4) };
        let logs: Vec<_> = (0..channels).map(|at| Log::new(&format!("c{at}"))).collect();
        let now = Instant::now();
        let config = SessionConfig {
            channels: logs.iter().map(|it| it.channel.clone()).collect(),
            since: Since::Start,
            choice,
            remembered: None,
            limits: Limits { page_messages_max: rng.u32(1..20), ..Limits::default() },
            timing: Timing::default(),
            backoff: BackoffConfig::default(),
            attempts_max: None,
            seed,
        };
        let session = Session::new(config, now).unwrap();
        Self {
            now,
            began: now,
            session,
            choice,
            oracle: Oracle::new(channels, is_bare),
            logs,
            link: Link::None,
            has_opened: false,
            next_deed: now,
            deeds_left: rng.u32(20..120),
            not_before: now,
            allowed: 1,
            sabotage,
            stats: Stats::default(),
            rng,
        }
    }

    pub(crate) fn run(mut self) -> Result<Stats, String> {
        loop {
            self.drain()?;
            if self.session.is_over() {
                break;
            }
            let timeout = self.session.poll_timeout().ok_or("it waits for nothing")?;
            let link = self.link_at();
            let deed = (self.deeds_left > 0).then_some(self.next_deed);
            let next = [Some(timeout), link, deed].into_iter().flatten().min().unwrap_or(timeout);
            self.now = self.now.max(next);
            if self.now - self.began > Duration::from_secs(3600) {
                return Err("it does not come to its end".into());
            }
            if deed.is_some_and(|at| at <= self.now) {
                self.deed();
            } else if link.is_some_and(|at| at <= self.now) {
                self.come();
            } else {
                self.session.handle_timeout(self.now);
            }
        }
        if self.deeds_left > 0 {
            return Err("it ended before the channels did".into());
        }
        self.stats.publications = self.oracle.publications;
        self.stats.gaps = self.oracle.gaps;
        Ok(self.stats)
    }

    /// Whether nothing goes wrong any more.
    fn is_calm(&self) -> bool {
        self.deeds_left == 0
    }

    /// Does what the session says, and takes what it tells.
    fn drain(&mut self) -> Result<(), String> {
        while let Some(delivery) = self.session.poll_delivery() {
            match delivery.event {
                None => {}
                Some(Err(error)) => return Err(format!("it gave up: {error}")),
                Some(Ok(event)) => {
                    self.has_opened |= matches!(event, Event::Open(_));
                    if let Event::Retry(retry) = &event {
                        self.allowed += 1;
                        self.not_before = self.now + retry.delay;
                        if matches!(retry.failure, Failure::Silent(_) | Failure::Timeout { .. }) {
                            self.stats.silences += 1;
                        }
                        let is_auto = self.choice == Choice::Auto;
                        self.stats.ladder_steps += u32::from(is_auto && retry.wire != Wire::Ws);
                        let longest = BackoffConfig::default().max + Duration::from_secs(12);
                        if retry.delay > longest {
                            return Err(format!("a back-off of {:?}", retry.delay));
                        }
                    }
                    self.oracle.take(&event, &self.logs)?;
                }
            }
        }
        while let Some(action) = self.session.poll_action() {
            match action {
                Action::Disconnect => self.link = Link::None,
                Action::Remember(_) => {}
                Action::Ping => {
                    self.stats.pings += 1;
                    if let Link::Open(stream) = &mut self.link {
                        stream.is_pinged = true;
                        stream.at = stream.at.min(self.now + Duration::from_millis(20));
                    }
                }
                Action::Connect(connect) => self.connect(connect)?,
            }
        }
        // Silence is noticed within its bound.
        if let Link::Open(stream) = &self.link {
            let timing = Timing::default();
            let most = match stream.connect.wire.is_websocket() {
                true => timing.ping_interval + timing.ping_timeout,
                false => timing.silence_max,
            };
            let silence = self.now - stream.heard_at;
            if silence > most && stream.page == Page::None {
                return Err(format!("silence of {silence:?} on {}", stream.connect.wire));
            }
        }
        Ok(())
    }

    fn connect(&mut self, connect: Connect) -> Result<(), String> {
        self.stats.connects += 1;
        if self.now < self.not_before {
            return Err("an attempt came before its time".into());
        }
        if self.allowed == 0 {
            return Err("two attempts in one step of the back-off".into());
        }
        self.allowed -= 1;
        if !matches!(self.link, Link::None) {
            return Err("a second connection beside the first".into());
        }
        let at = self.now + Duration::from_millis(self.rng.u64(1..200));
        let roll = if self.is_calm() { 99 } else { self.rng.u32(..100) };
        let is_auto = self.choice == Choice::Auto;
        let refuse = |status, retry_after: Option<u64>, body| {
            let head = Head {
                status,
                retry_after: retry_after.map(Duration::from_secs),
                content_type: Some(
                    if body == PROBLEM { "application/problem+json" } else { "text/html" }.into(),
                ),
                ..Head::default()
            };
            Fate::Refuse(head, body)
        };
        let fate = match roll {
            0..8 => Fate::Unreachable,
            8..13 => {
                self.link = Link::Hole;
                return Ok(());
            }
            13..18 => refuse(503, Some(3), PROBLEM),
            18..22 => refuse(429, Some(7), b"slower"),
            22..26 => refuse(502, None, b"<html>"),
            // Something that breaks a wire; who has chosen it, or has no other left, can't do without.
            26..32 if is_auto && (self.has_opened || connect.wire != Wire::LongPoll) => {
                refuse(404, None, b"<html>")
            }
            _ => Fate::Accept,
        };
        self.link = Link::Opening { connect, at, fate };
        Ok(())
    }

    fn link_at(&self) -> Option<Instant> {
        match &self.link {
            Link::None | Link::Hole => None,
            Link::Opening { at, .. } => Some(*at),
            Link::Open(stream) => Some(stream.at),
        }
    }

    /// Something is published, expires, or is lost with the process.
    fn deed(&mut self) {
        self.deeds_left -= 1;
        let at = self.rng.usize(..self.logs.len());
        if (self.deeds_left as usize) < self.logs.len() {
            self.logs[self.deeds_left as usize].end();
        } else {
            match self.rng.u32(..100) {
                0..4 if self.has_opened => {
                    let kept = self.rng.usize(..10);
                    self.logs[at].trim(kept);
                }
                4..6 if self.has_opened => {
                    self.logs.iter_mut().for_each(Log::restart);
                    // The process is another one: connections are gone.
                    if !matches!(self.link, Link::None) {
                        self.link = Link::None;
                        self.session.handle_failure(Failure::Cut("restart".into()), self.now);
                    }
                }
                _ => (0..self.rng.u32(1..6)).for_each(|_| self.logs[at].publish()),
            }
        }
        let pause = if self.rng.u32(..20) == 0 { 60_000 } else { 2_000 };
        self.next_deed = self.now + Duration::from_millis(self.rng.u64(1..pause));
    }

    /// What the network brings now.
    fn come(&mut self) {
        match std::mem::replace(&mut self.link, Link::None) {
            Link::Opening { connect, fate, .. } => self.opened(connect, fate),
            Link::Open(stream) => self.flow(stream),
            link @ (Link::None | Link::Hole) => self.link = link,
        }
    }

    fn opened(&mut self, connect: Connect, fate: Fate) {
        match fate {
            Fate::Unreachable => {
                self.stats.unreachable += 1;
                let (address, reason) = (String::from("a:1"), String::from("refused"));
                self.session.handle_failure(Failure::Unreachable { address, reason }, self.now);
            }
            Fate::Refuse(head, body) => {
                self.stats.refusals += 1;
                let asked = head.retry_after.unwrap_or_default();
                self.session.handle_head(head, self.now);
                self.session.handle_data(body, self.now);
                self.session.handle_body_end(self.now);
                self.not_before = self.not_before.max(self.now + asked);
            }
            Fate::Accept => self.accept(connect),
        }
    }

    fn accept(&mut self, connect: Connect) {
        let query = connect.target.split_once('?').unwrap().1.to_owned();
        let is_forgotten = self.sabotage == Some(Sabotage::Forget) && self.rng.bool();
        let places = gateway::begin(&self.logs, &query, is_forgotten);
        let wire = connect.wire;
        let (status, content_type) = match wire {
            Wire::Ws | Wire::WsBare => (101, ""),
            Wire::Sse if gateway::is_over(&self.logs, &places) => (204, ""),
            Wire::Sse => (200, "text/event-stream"),
            Wire::Ndjson => (200, "application/x-ndjson"),
            Wire::LongPoll | Wire::Poll => (200, "application/json"),
        };
        let head = Head {
            status,
            content_type: Some(content_type.into()),
            cursor: Some(gateway::joined(&self.logs, &places)),
            ..Head::default()
        };
        let doom = match self.rng.u32(..10) {
            0..6 => Doom::Cut,
            6..8 => Doom::Silence,
            _ => Doom::Drain,
        };
        let left = match self.is_calm() {
            true => usize::MAX,
            false => self.rng.usize(..30) * self.rng.usize(..30) * self.rng.usize(..10),
        };
        let mut stream = Box::new(Stream {
            places,
            out: Vec::new(),
            messages: Vec::new(),
            at: self.now + Duration::from_millis(1),
            left,
            doom,
            heard_at: self.now,
            is_pinged: false,
            page: Page::None,
            turn: 0,
            connect,
        });
        if wire.is_paged() {
            let wait = if wire == Wire::LongPoll { 25 } else { 0 };
            stream.page = Page::Due { deadline: self.now + Duration::from_secs(wait) };
            self.link = Link::Open(stream);
            // The head comes with the page.
            return;
        }
        self.session.handle_head(head, self.now);
        if self.session.is_over() {
            return;
        }
        if wire == Wire::Sse {
            sse::write_retry(&mut stream.out, 1000 + self.rng.u32(..1000));
            sse::write_id(&mut stream.out, gateway::joined(&self.logs, &stream.places).as_bytes());
        }
        for end in gateway::ends(&self.logs, &stream.places) {
            self.write(&mut stream, &end);
        }
        self.link = Link::Open(stream);
    }

    /// Puts an item on its way.
    fn write(&mut self, stream: &mut Stream, item: &Item) {
        match stream.connect.wire {
            Wire::Sse => {
                let event = gateway::event(&self.logs, &stream.places, item);
                stream.out.extend(event);
            }
            Wire::Ndjson => {
                let line = gateway::line(&self.logs, &stream.places, item);
                stream.out.extend(line);
                stream.out.push(b'\n');
            }
            Wire::Ws => {
                let line = gateway::line(&self.logs, &stream.places, item);
                stream.messages.push((Kind::Text, line));
            }
            Wire::WsBare => {
                if let Item::Entry(entry) = item
                    && let Some(it) = entry.publication()
                {
                    stream.messages.push((Kind::Text, it.payload.bytes.to_vec()));
                }
            }
            Wire::LongPoll | Wire::Poll => {}
        }
    }

    /// The next piece of a stream arrives.
    fn flow(&mut self, mut stream: Box<Stream>) {
        if let Page::Due { deadline } = stream.page {
            return self.page(stream, deadline);
        }
        if stream.page == Page::None && stream.out.is_empty() && stream.messages.is_empty() {
            for _ in 0..self.rng.usize(1..6) {
                let Some(item) = gateway::next(&self.logs, &mut stream.places, stream.turn) else {
                    break;
                };
                stream.turn += 1;
                if let (Wire::WsBare, Item::Gap(..)) = (stream.connect.wire, &item) {
                    return self.close_bare(&stream);
                }
                match self.sabotage {
                    Some(Sabotage::Skip) if self.rng.u32(..20) == 0 => continue,
                    Some(Sabotage::Repeat) if self.rng.u32(..20) == 0 => {
                        self.write(&mut stream, &item);
                    }
                    _ => {}
                }
                self.write(&mut stream, &item);
            }
        }
        if !self.send(&mut stream) {
            return;
        }
        let is_empty = stream.out.is_empty() && stream.messages.is_empty();
        if is_empty && stream.page == Page::Sent {
            self.allowed += 1;
            self.session.handle_body_end(self.now);
            return;
        }
        if is_empty
            && stream.connect.wire == Wire::WsBare
            && gateway::is_over(&self.logs, &stream.places)
        {
            let cursor = gateway::joined(&self.logs, &stream.places);
            return self.session.handle_close(Some(1000), &cursor, self.now);
        }
        let has_more = !is_empty
            || gateway::next(&self.logs, &mut stream.places.clone(), stream.turn).is_some();
        let pause = if has_more { self.rng.u64(1..80) } else { 500 };
        stream.at = self.now + Duration::from_millis(pause);
        self.link = Link::Open(stream);
    }

    /// Hands over what arrives now; false: that was its end, or there will be nothing more.
    fn send(&mut self, stream: &mut Stream) -> bool {
        if std::mem::take(&mut stream.is_pinged) {
            stream.heard_at = self.now;
            self.session.handle_alive(self.now);
        }
        let piece = self.rng.usize(1..400).min(stream.out.len()).min(stream.left);
        if piece > 0 {
            stream.heard_at = self.now;
            stream.left -= piece;
            let piece: Vec<u8> = stream.out.drain(..piece).collect();
            self.session.handle_data(&piece, self.now);
        }
        while !stream.messages.is_empty() && stream.left > 0 && !self.session.is_over() {
            let (kind, message) = stream.messages.remove(0);
            stream.heard_at = self.now;
            stream.left = stream.left.saturating_sub(message.len());
            self.session.handle_message(kind, &message, self.now);
        }
        if self.session.is_over() {
            return false;
        }
        let silence = self.now - stream.heard_at;
        let is_idle = stream.out.is_empty() && stream.messages.is_empty();
        let is_body = !stream.connect.wire.is_websocket() && stream.page == Page::None;
        if is_idle && is_body && silence >= Duration::from_secs(15) && stream.left > 0 {
            stream.heard_at = self.now;
            self.session.handle_data(b"\n", self.now);
        }
        if stream.left > 0 || self.is_calm() && stream.left == usize::MAX {
            return true;
        }
        self.doom(stream);
        false
    }

    fn doom(&mut self, stream: &Stream) {
        let wire = stream.connect.wire;
        match stream.doom {
            Doom::Silence => {
                self.link = Link::Hole;
            }
            Doom::Drain if wire.is_websocket() => {
                self.stats.closes += 1;
                // Of what was written all has come, or the place would be another.
                let is_whole = stream.messages.is_empty();
                let cursor = gateway::joined(&self.logs, &stream.places);
                let reason = if is_whole { cursor.as_str() } else { "unavailable 2" };
                if reason.starts_with("un") {
                    self.not_before = self.not_before.max(self.now + Duration::from_secs(2));
                }
                self.session.handle_close(Some(1012), reason, self.now);
            }
            Doom::Drain if stream.page == Page::None => {
                self.stats.errors_in_stream += 1;
                // What was begun is written to its end first.
                self.session.handle_data(&stream.out, self.now);
                if self.session.is_over() {
                    return;
                }
                let error = br#"{"code":"unavailable","message":"draining","retry_after":1}"#;
                let mut out = Vec::new();
                match wire {
                    Wire::Sse => sse::write_event(&mut out, None, Some("tidegate-error"), error),
                    _ => out = [b"{\"error\":", &error[..], b"}\n"].concat(),
                }
                self.session.handle_data(&out, self.now);
                self.session.handle_body_end(self.now);
                self.not_before = self.not_before.max(self.now + Duration::from_secs(1));
            }
            Doom::Cut | Doom::Drain => {
                self.stats.cuts += 1;
                self.session.handle_failure(Failure::Cut("by the seed".into()), self.now);
            }
        }
    }

    fn close_bare(&mut self, stream: &Stream) {
        // What it asked for is gone: the reason is where it goes on.
        let mut places = stream.places.clone();
        while let Some(Item::Gap(..)) = gateway::next(&self.logs, &mut places, 0) {}
        let places = gateway::begin(&self.logs, "since=start", false);
        let cursor = gateway::joined(&self.logs, &places);
        self.stats.closes += 1;
        self.session.handle_close(Some(4010), &cursor, self.now);
    }

    /// A poll's answer, once there is something or its wait is over.
    fn page(&mut self, mut stream: Box<Stream>, deadline: Instant) {
        let limit = stream.connect.target.rsplit_once("limit=").unwrap().1.parse().unwrap();
        let mut places = stream.places.clone();
        let (body, is_empty) = gateway::page(&self.logs, &mut places, limit);
        if is_empty && self.now < deadline {
            stream.at = (self.now + Duration::from_millis(500)).min(deadline);
            self.link = Link::Open(stream);
            return;
        }
        let head =
            Head { status: 200, content_type: Some("application/json".into()), ..Head::default() };
        self.session.handle_head(head, self.now);
        stream.page = Page::Sent;
        stream.out = body;
        stream.heard_at = self.now;
        self.link = Link::Open(stream);
    }
}

impl Stats {
    pub(crate) fn add(&mut self, other: &Self) {
        self.publications += other.publications;
        self.gaps += other.gaps;
        self.connects += other.connects;
        self.unreachable += other.unreachable;
        self.refusals += other.refusals;
        self.cuts += other.cuts;
        self.silences += other.silences;
        self.closes += other.closes;
        self.pings += other.pings;
        self.ladder_steps += other.ladder_steps;
        self.errors_in_stream += other.errors_in_stream;
    }

    /// A simulation in which nothing happens would prove nothing.
    pub(crate) fn check(&self) {
        let often = [self.publications, self.connects, self.cuts, self.refusals, self.unreachable];
        assert!(often.iter().all(|it| *it > 4000), "{self:?}");
        let rare = [self.gaps, self.silences, self.closes, self.pings, self.errors_in_stream];
        assert!(rare.iter().all(|it| *it > 500) && self.ladder_steps > 500, "{self:?}");
    }
}
