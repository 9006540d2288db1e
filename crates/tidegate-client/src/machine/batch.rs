//! A stream of publications over one long request (`POST /publish`, CONTRACT 3), made again whenever
//! it is lost. No IO: see the module above.
//!
//! ```text
//!   push ──► entries ──line──► request body          answer ──line──► result of the first of them
//!               │ unacknowledged when a request is lost
//!               └──► sent again on the next one, in order, with the same keys
//! ```
//! What was accepted without our hearing of it is found by its key and not doubled, and nothing is
//! sent past an entry that was refused for now: so the order of a publisher's entries holds.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::Deserialize;
use tidegate_core::envelope::member::Text;
use tidegate_wire::ndjson::LineSplitter;

use super::backoff::{Backoff, BackoffConfig};
use super::form::{Names, cursor, parse};
use super::link::entry;
use super::{Head, Refusal, Timing};
use crate::error::{Error, Failure, Problem};
use crate::message::{Command, Published};

/// How a stream of publications is to be.
#[derive(Clone, Debug)]
pub struct BatchConfig {
    /// How long things may take.
    pub timing: Timing,
    /// When to try again.
    pub backoff: BackoffConfig,
    /// Attempts in a row that may fail; `None`: until `give_up_after`.
    pub attempts_max: Option<u32>,
    /// Entries without a result at most.
    pub entries_max: usize,
    /// Their bytes at most, and one entry that is larger alone.
    pub bytes_max: usize,
    /// How long the oldest entry without a result may go without one. Below the time that the
    /// gateway keeps keys (2 minutes by default).
    pub give_up_after: Duration,
    /// Where the jitter comes from.
    pub seed: u64,
}

/// What the driver is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Begin `POST /publish`.
    Connect,
    /// Drop the request.
    Disconnect,
    /// End the request's body.
    EndBody,
}

/// What became of one entry.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Which, from 0 in the order in which they were pushed.
    pub index: u64,
    /// Where it is, or what is wrong with it.
    pub result: Result<Published, Problem>,
}

/// A stream of publications. Its order of calls is its module's; lines are drained by
/// [`Batch::poll_line`].
#[derive(Debug)]
pub struct Batch {
    config: BatchConfig,
    state: State,
    backoff: Backoff,
    attempts: u32,
    /// Without a result, in order.
    entries: VecDeque<Entry>,
    bytes: usize,
    /// The index of the first of them.
    first: u64,
    /// How many of them this request was given.
    sent: usize,
    is_finishing: bool,
    /// An empty line is due.
    is_pausing: bool,
    actions: VecDeque<Action>,
    outcomes: VecDeque<Outcome>,
    error: Option<Error>,
}

#[derive(Debug)]
struct Entry {
    line: Bytes,
    is_own_key: bool,
    /// When it was pushed, or first among the others if that is later.
    since: Instant,
}

#[derive(Debug)]
enum State {
    /// There is nothing to send.
    Idle,
    Waiting {
        until: Instant,
    },
    /// The request has begun; its answer comes when there is something to say.
    Open {
        lines: LineSplitter,
        answer: Answer,
        heard_at: Instant,
        sent_at: Instant,
    },
    /// The body has ended, its answer has not.
    Ending {
        lines: LineSplitter,
        answer: Answer,
        deadline: Instant,
    },
    Over,
}

/// What is known of the answer.
#[derive(Debug)]
enum Answer {
    Due,
    Results,
    Refusal(Refusal),
}

impl Batch {
    /// A stream that is to connect when there is something to send.
    #[must_use]
    pub fn new(config: BatchConfig) -> Self {
        Self {
            state: State::Idle,
            backoff: Backoff::new(config.backoff, config.seed),
            attempts: 0,
            entries: VecDeque::new(),
            bytes: 0,
            first: 0,
            sent: 0,
            is_finishing: false,
            is_pausing: false,
            actions: VecDeque::new(),
            outcomes: VecDeque::new(),
            error: None,
            config,
        }
    }

    /// Whether there is room for another entry.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.entries.len() < self.config.entries_max
            && (self.bytes < self.config.bytes_max || self.entries.is_empty())
    }

    // ---- Inputs ------------------------------------------------------------------------------

    /// Another entry; its index.
    pub fn handle_entry(&mut self, command: &Command, now: Instant) -> u64 {
        let index = self.first + self.entries.len() as u64;
        let Command::Publish { channel, payload, event, key, is_own_key, is_end } = command else {
            return index;
        };
        let mut line = entry(channel, payload.as_ref(), event.as_deref(), key, *is_end);
        line.push(b'\n');
        self.bytes += line.len();
        let entry = Entry { line: line.into(), is_own_key: *is_own_key, since: now };
        self.entries.push_back(entry);
        if matches!(self.state, State::Idle) {
            self.connect(now);
        }
        index
    }

    /// There will be no further entry.
    pub fn handle_finish(&mut self, now: Instant) {
        self.is_finishing = true;
        self.settle(now);
    }

    /// The answer's head has come.
    pub fn handle_head(&mut self, head: Head, now: Instant) {
        let (State::Open { answer, .. } | State::Ending { answer, .. }) = &mut self.state else {
            return;
        };
        let is_results =
            head.status == 200 && head.content_type.as_deref() == Some("application/x-ndjson");
        *answer = if is_results { Answer::Results } else { Answer::Refusal(Refusal::new(head)) };
        self.heard(now);
    }

    /// A piece of the answer has come.
    pub fn handle_data(&mut self, data: &[u8], now: Instant) {
        self.heard(now);
        let (State::Open { answer, .. } | State::Ending { answer, .. }) = &mut self.state else {
            return;
        };
        match answer {
            Answer::Due => {}
            Answer::Refusal(refusal) => {
                if refusal.push(data) {
                    self.refuse(now);
                }
            }
            Answer::Results => {
                if let Err(failure) = self.read(data, now) {
                    self.fail(failure, now);
                }
                self.settle(now);
            }
        }
    }

    /// The answer has ended as it should.
    pub fn handle_body_end(&mut self, now: Instant) {
        let answer = match &self.state {
            State::Open { answer, .. } | State::Ending { answer, .. } => answer,
            State::Idle | State::Waiting { .. } | State::Over => return,
        };
        if matches!(answer, Answer::Refusal(_)) {
            return self.refuse(now);
        }
        let is_ending = matches!(self.state, State::Ending { .. });
        if !is_ending {
            let words = "the answer ended before the publications did";
            return self.fail(Failure::Cut(words.into()), now);
        }
        if self.sent > 0 {
            let words = "the answer ended before it had a result for each publication";
            return self.fail(Failure::Cut(words.into()), now);
        }
        self.actions.push_back(Action::Disconnect);
        self.state = State::Idle;
        if !self.entries.is_empty() {
            self.connect(now);
        }
        self.settle(now);
    }

    /// The request could not be made, or broke.
    pub fn handle_failure(&mut self, failure: Failure, now: Instant) {
        match &self.state {
            State::Open { answer: Answer::Refusal(_), .. }
            | State::Ending { answer: Answer::Refusal(_), .. } => self.refuse(now),
            State::Open { .. } | State::Ending { .. } => self.fail(failure, now),
            State::Idle | State::Waiting { .. } | State::Over => {}
        }
    }

    /// The time that [`Batch::poll_timeout`] named has come, or another: then nothing happens.
    pub fn handle_timeout(&mut self, now: Instant) {
        let give_up_after = self.config.give_up_after;
        if self.entries.front().is_some_and(|it| it.since + give_up_after <= now) {
            let last = Failure::Timeout { what: "a publication", after: give_up_after };
            return self.give_up(last);
        }
        match &mut self.state {
            State::Waiting { until } if *until <= now => self.connect(now),
            State::Open { heard_at, .. }
                if self.sent > 0 && *heard_at + self.config.timing.silence_max <= now =>
            {
                let silence = now.saturating_duration_since(*heard_at);
                self.fail(Failure::Silent(silence), now);
            }
            State::Open { sent_at, .. } if *sent_at + KEEPALIVE <= now => {
                *sent_at = now;
                if self.entries.is_empty() {
                    self.end_body(now);
                } else {
                    self.is_pausing = self.sent == self.entries.len();
                }
            }
            State::Ending { deadline, .. } if *deadline <= now => {
                let after = self.config.timing.open_timeout;
                self.fail(Failure::Timeout { what: "the end of the answer", after }, now);
            }
            State::Idle
            | State::Waiting { .. }
            | State::Open { .. }
            | State::Ending { .. }
            | State::Over => {}
        }
    }

    // ---- Outputs -----------------------------------------------------------------------------

    /// What is to be done next.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// What the request's body goes on with; asked for when there is room for it.
    pub fn poll_line(&mut self, now: Instant) -> Option<Bytes> {
        let State::Open { sent_at, .. } = &mut self.state else { return None };
        if let Some(entry) = self.entries.get(self.sent) {
            self.sent += 1;
            *sent_at = now;
            return Some(entry.line.clone());
        }
        // A gateway gives up a body that pauses for too long (30 s by default).
        std::mem::take(&mut self.is_pausing).then(|| Bytes::from_static(b"\n"))
    }

    /// What became of the next entry.
    pub fn poll_outcome(&mut self) -> Option<Outcome> {
        self.outcomes.pop_front()
    }

    /// When to call [`Batch::handle_timeout`]; `None` while there is nothing to wait for.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let own = match &self.state {
            State::Idle | State::Over => None,
            State::Waiting { until } => Some(*until),
            State::Open { heard_at, sent_at, .. } => {
                let silence = *heard_at + self.config.timing.silence_max;
                let keepalive = *sent_at + KEEPALIVE;
                Some(if self.sent > 0 { silence.min(keepalive) } else { keepalive })
            }
            State::Ending { deadline, .. } => Some(*deadline),
        };
        let oldest = self.entries.front().map(|it| it.since + self.config.give_up_after);
        match self.state {
            State::Over => None,
            _ => [own, oldest].into_iter().flatten().min(),
        }
    }

    /// How it ended: `None` while it has not. It ends well once [`Batch::handle_finish`] was called
    /// and each entry has its outcome.
    #[must_use]
    pub fn poll_end(&self) -> Option<Result<(), Error>> {
        match (&self.state, &self.error) {
            (State::Over, Some(error)) => Some(Err(error.clone())),
            (State::Over, None) => Some(Ok(())),
            _ => None,
        }
    }

    // ---- Inside ------------------------------------------------------------------------------

    fn connect(&mut self, now: Instant) {
        self.sent = 0;
        let lines = LineSplitter::new(LINE_BYTES_MAX);
        self.state = State::Open { lines, answer: Answer::Due, heard_at: now, sent_at: now };
        self.actions.push_back(Action::Connect);
    }

    fn heard(&mut self, now: Instant) {
        if let State::Open { heard_at, .. } = &mut self.state {
            *heard_at = now;
        }
    }

    fn read(&mut self, data: &[u8], now: Instant) -> Result<(), Failure> {
        let mut input = Bytes::copy_from_slice(data);
        loop {
            let (State::Open { lines, .. } | State::Ending { lines, .. }) = &mut self.state else {
                return Ok(());
            };
            let Some(line) = lines.next(&mut input) else { return Ok(()) };
            let line = line.map_err(|it| Failure::TooLarge { what: "a line", bytes_max: it.0 })?;
            if !line.is_empty() {
                self.take(&line, now)?;
            }
        }
    }

    fn take(&mut self, line: &[u8], now: Instant) -> Result<(), Failure> {
        let raw: RawResult<'_> = parse(line)?;
        if raw.code.is_some() {
            let problem = Problem::parse(line)
                .ok_or_else(|| Failure::Protocol("a result is no problem".into()))?;
            if problem.code.is_temporary() || self.sent == 0 {
                return Err(Failure::Problem(problem));
            }
            self.settle_first(Err(problem), now);
            return Ok(());
        }
        let missing = || Failure::Protocol("a result without its channel and cursor".into());
        let (channel, place) = raw.channel.zip(raw.cursor).ok_or_else(missing)?;
        if self.sent == 0 {
            return Err(Failure::Protocol("a result for nothing".into()));
        }
        let is_own_key = self.entries.front().is_some_and(|it| it.is_own_key);
        let published = Published {
            channel: Names(&[]).find(&channel.0)?,
            cursor: cursor(&place.0)?,
            is_duplicate: raw.duplicate.unwrap_or(false) && !is_own_key,
        };
        self.settle_first(Ok(published), now);
        Ok(())
    }

    /// The first entry has its result.
    fn settle_first(&mut self, result: Result<Published, Problem>, now: Instant) {
        let Some(entry) = self.entries.pop_front() else { return };
        self.bytes -= entry.line.len();
        self.outcomes.push_back(Outcome { index: self.first, result });
        self.first += 1;
        self.sent = self.sent.saturating_sub(1);
        self.attempts = 0;
        self.backoff.reset();
        if let Some(next) = self.entries.front_mut() {
            next.since = now;
        }
    }

    /// Ends what there is nothing more for.
    fn settle(&mut self, now: Instant) {
        if !self.is_finishing || !self.entries.is_empty() {
            return;
        }
        match &self.state {
            State::Idle | State::Waiting { .. } => self.state = State::Over,
            State::Open { .. } => self.end_body(now),
            State::Ending { .. } | State::Over => {}
        }
    }

    fn end_body(&mut self, now: Instant) {
        let deadline = now + self.config.timing.open_timeout;
        self.actions.push_back(Action::EndBody);
        if let State::Open { lines, answer, .. } = std::mem::replace(&mut self.state, State::Idle) {
            self.state = State::Ending { lines, answer, deadline };
        }
    }

    fn refuse(&mut self, now: Instant) {
        let (State::Open { answer, .. } | State::Ending { answer, .. }) = &self.state else {
            return;
        };
        let Answer::Refusal(refusal) = answer else { return };
        let failure = refusal.failure();
        self.fail(failure, now);
    }

    fn fail(&mut self, failure: Failure, now: Instant) {
        self.actions.push_back(Action::Disconnect);
        if self.entries.is_empty() {
            // Nothing is owed: the next entry begins anew.
            self.state = State::Idle;
            return self.settle(now);
        }
        self.attempts += 1;
        if !failure.is_temporary() || self.config.attempts_max.is_some_and(|it| self.attempts >= it)
        {
            return self.give_up(failure);
        }
        let delay = self.backoff.next(failure.retry_after());
        self.state = State::Waiting { until: now + delay };
    }

    fn give_up(&mut self, last: Failure) {
        self.actions.push_back(Action::Disconnect);
        let attempts = self.attempts.max(1);
        let error = if last.is_temporary() {
            Error::Exhausted { attempts, last, is_outcome_unknown: true }
        } else {
            Error::Failed(last)
        };
        self.state = State::Over;
        self.error = Some(error);
    }
}

/// A body that pauses so long is kept alive, or ended where nothing is owed.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// Longest line of an answer.
const LINE_BYTES_MAX: usize = 64 << 10;

/// A result: `{"index","channel","cursor","duplicate"}`, or a problem.
#[derive(Deserialize)]
struct RawResult<'a> {
    #[serde(borrow, default)]
    channel: Option<Text<'a>>,
    #[serde(borrow, default)]
    cursor: Option<Text<'a>>,
    #[serde(default)]
    duplicate: Option<bool>,
    #[serde(borrow, default)]
    code: Option<Text<'a>>,
}

#[cfg(test)]
mod tests;
