//! Publishing many: one long request, its answer read as it comes, and both made again when lost.
//!
//! ```text
//!   Publisher::send ──► task: batch ──lines──► request body
//!   Outcomes::next  ◄──────┴──────────lines─── answer
//! ```

use std::collections::VecDeque;
use std::pin::Pin;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::Method;
use http::header::{CONTENT_TYPE, HeaderValue};
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep_until;

use crate::error::{Error, Failure};
use crate::machine::batch::{Action, Batch, BatchConfig, Outcome};
use crate::message::{Command, Message};
use crate::net::http::{Asked, Exchange, stream};
use crate::net::{Shared, Task, seed};
use crate::queue::{self, queue};

/// Begins a stream of publications.
pub(crate) fn open(gateway: Shared) -> (Publisher, Outcomes) {
    let config = BatchConfig {
        timing: gateway.timing,
        backoff: gateway.backoff,
        attempts_max: gateway.attempts_max,
        entries_max: 10_000,
        bytes_max: 4 << 20,
        give_up_after: Duration::from_secs(60),
        seed: seed(),
    };
    let (entries, taken) = mpsc::channel(ENTRIES_MAX);
    let (told, outcomes) = queue(gateway.limits.queue_bytes_max);
    let (ended, end) = oneshot::channel();
    let driver = Driver {
        gateway,
        batch: Batch::new(config),
        entries: taken,
        told: Some(told),
        tally: Tally::default(),
        body: None,
        request: Request::None,
    };
    let task = Task::spawn(Box::pin(async move {
        // Who has dropped the publisher does not mind how it ended.
        let _ = ended.send(driver.run().await);
    }));
    (Publisher { entries, end, next: 0, task }, Outcomes { outcomes })
}

/// Entries that wait for their turn, beside those without a result.
const ENTRIES_MAX: usize = 256;

/// A stream of publications to any channels, in order.
///
/// It connects when there is something to send, and once an entry was taken it is sent until its
/// outcome is known, over as many connections as that takes, with the same key each time. Dropped,
/// it leaves the outcome of what it has not told open; [`Publisher::finish`] waits.
#[derive(Debug)]
pub struct Publisher {
    entries: mpsc::Sender<Command>,
    end: oneshot::Receiver<Result<Tally, Error>>,
    next: u64,
    task: Task,
}

/// What became of each publication, in order. While nobody reads, and its queue is full, the
/// publisher waits; who wants none drops it.
#[derive(Debug)]
pub struct Outcomes {
    outcomes: queue::Receiver<Outcome>,
}

/// How many publications came to what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// In their logs now.
    pub published: u64,
    /// There already, by a key that was given.
    pub duplicates: u64,
    /// Refused.
    pub failed: u64,
}

impl Publisher {
    /// Takes a publication, once there is room for it; its index, which its [`Outcome`] has too.
    ///
    /// Cancel safe: dropped, it has not taken the publication.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] for what can't be sent, [`Error::Closed`] once the stream has failed:
    /// [`Publisher::finish`] says how.
    pub async fn send(&mut self, message: Message) -> Result<u64, Error> {
        let command = message.command()?;
        self.entries.send(command).await.map_err(|_| Error::Closed)?;
        let index = self.next;
        self.next += 1;
        Ok(index)
    }

    /// Waits until everything that was taken has its outcome.
    ///
    /// # Errors
    ///
    /// [`Error`]: the stream has failed; what has no outcome may or may not be published.
    pub async fn finish(self) -> Result<Tally, Error> {
        let Self { entries, end, mut task, .. } = self;
        drop(entries);
        let ended = end.await;
        task.join().await;
        ended.unwrap_or(Err(Error::Closed))
    }
}

impl Outcomes {
    /// The next outcome; `None` once the publisher has ended.
    ///
    /// Cancel safe: an outcome is taken when it is returned.
    pub async fn next(&mut self) -> Option<Outcome> {
        self.outcomes.next().await
    }
}

struct Driver {
    gateway: Shared,
    batch: Batch,
    entries: mpsc::Receiver<Command>,
    /// `None` once nobody reads.
    told: Option<queue::Sender<Outcome>>,
    tally: Tally,
    /// The request's body; `None` where there is none, or it has ended.
    body: Option<mpsc::Sender<Bytes>>,
    request: Request,
}

enum Request {
    None,
    Opening(Pin<Box<dyn Future<Output = Result<Exchange, Failure>> + Send>>),
    Open(Box<Exchange>),
}

enum Came {
    Opened(Result<Exchange, Failure>),
    Body(Result<Option<Bytes>, Failure>),
}

impl Request {
    /// Waits for what comes next; for ever where there is no request.
    ///
    /// Cancel safe: each of its waits is, or is kept.
    async fn next(&mut self) -> Came {
        match self {
            Self::None => std::future::pending().await,
            Self::Opening(opening) => Came::Opened(opening.await),
            Self::Open(exchange) => Came::Body(exchange.next().await),
        }
    }
}

/// Lines that go into one piece of the body.
const PIECE_BYTES: usize = 16 << 10;

impl Driver {
    async fn run(mut self) -> Result<Tally, Error> {
        let mut timer = Box::pin(sleep_until(Instant::now().into()));
        let mut is_finishing = false;
        loop {
            while let Some(action) = self.batch.poll_action() {
                self.act(&action);
            }
            self.tell().await;
            self.write();
            if let Some(ended) = self.batch.poll_end() {
                return ended.map(|()| self.tally);
            }
            let deadline = self.batch.poll_timeout();
            if let Some(deadline) = deadline
                && (deadline < timer.deadline().into_std() || timer.is_elapsed())
            {
                timer.as_mut().reset(deadline.into());
            }
            let may_take = !is_finishing && self.batch.has_room();
            let body = self.body.clone();
            tokio::select! {
                biased;
                came = self.request.next() => self.take(came),
                entry = self.entries.recv(), if may_take => match entry {
                    Some(command) => drop(self.batch.handle_entry(&command, Instant::now())),
                    None => {
                        is_finishing = true;
                        self.batch.handle_finish(Instant::now());
                    }
                },
                () = room(body), if self.is_blocked() => {}
                () = &mut timer, if deadline.is_some() => {
                    self.batch.handle_timeout(Instant::now());
                }
            }
        }
    }

    /// Whether the body has no room for a line that may be there.
    fn is_blocked(&self) -> bool {
        self.body.as_ref().is_some_and(|it| it.capacity() == 0 && !it.is_closed())
    }

    fn write(&mut self) {
        while let Some(body) = &self.body
            && let Ok(permit) = body.try_reserve()
        {
            let now = Instant::now();
            let Some(first) = self.batch.poll_line(now) else { return };
            let mut piece = BytesMut::from(first);
            while piece.len() < PIECE_BYTES
                && let Some(line) = self.batch.poll_line(now)
            {
                piece.extend_from_slice(&line);
            }
            permit.send(piece.freeze());
        }
    }

    async fn tell(&mut self) {
        let mut outcomes = VecDeque::new();
        while let Some(outcome) = self.batch.poll_outcome() {
            match &outcome.result {
                Ok(published) if published.is_duplicate => self.tally.duplicates += 1,
                Ok(_) => self.tally.published += 1,
                Err(_) => self.tally.failed += 1,
            }
            outcomes.push_back(outcome);
        }
        if let Some(told) = &self.told
            && !outcomes.is_empty()
        {
            let bytes = outcomes.len() * OUTCOME_BYTES;
            if !told.put(outcomes, bytes).await {
                self.told = None;
            }
        }
    }

    fn act(&mut self, action: &Action) {
        match action {
            Action::Connect => {
                let (body, pieces) = mpsc::channel(PIECES_MAX);
                self.body = Some(body);
                let gateway = Shared::clone(&self.gateway);
                let after = gateway.timing.open_timeout;
                self.request = Request::Opening(Box::pin(async move {
                    let ndjson = HeaderValue::from_static("application/x-ndjson");
                    let headers = vec![(CONTENT_TYPE, ndjson)];
                    let asked = Asked { method: Method::POST, target: "/publish", headers };
                    let answer = Box::pin(stream(&gateway, &asked, pieces));
                    let late = |_| Failure::Timeout { what: "the answer to publications", after };
                    tokio::time::timeout(after, answer).await.map_err(late)?
                }));
            }
            Action::Disconnect => {
                self.body = None;
                self.request = Request::None;
            }
            Action::EndBody => self.body = None,
        }
    }

    fn take(&mut self, came: Came) {
        let now = Instant::now();
        match came {
            Came::Opened(Ok(exchange)) => {
                self.batch.handle_head(exchange.head.clone(), now);
                self.request = Request::Open(Box::new(exchange));
            }
            Came::Body(Ok(Some(data))) => self.batch.handle_data(&data, now),
            Came::Body(Ok(None)) => {
                self.request = Request::None;
                self.batch.handle_body_end(now);
            }
            Came::Opened(Err(failure)) | Came::Body(Err(failure)) => {
                self.request = Request::None;
                self.batch.handle_failure(failure, now);
            }
        }
    }
}

/// What an outcome is charged with in its queue.
const OUTCOME_BYTES: usize = 256;

/// Pieces of a body that wait at once.
const PIECES_MAX: usize = 4;

/// Waits until a body has room; at once where it has none to wait for.
async fn room(body: Option<mpsc::Sender<Bytes>>) {
    match body {
        // Closed or not, there is something to look at.
        Some(body) => drop(body.reserve().await.map(drop)),
        None => std::future::pending().await,
    }
}
