//! Fan-out: one channel, many subscribers, one publisher.
//!
//! ```text
//!   publisher: a bare WebSocket ──► the gateway ──► subscribers: a task each, any wire
//!       ▲                                                │
//!       └────────── one more, when one is with all ◄─────┘      (or one each so often)
//! ```

use std::cell::{Cell, RefCell, RefMut};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tidegate_client::websocket::{Frame, WebSocket, WebSocketOptions};
use tidegate_client::{Error, Failure};
use tidegate_wire::websocket::{InflaterPool, encode};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until};

use super::flight::{FLIGHT_MAX, Flight};
use super::line::Line;
use super::meter::{Meter, State, cpu};
use super::reader::{Reader, Sink, Wire};
use super::{End, OPENING_MAX, Outcome, Target, files};

/// A fan-out, before it begins.
#[derive(Clone, Debug)]
pub(in super::super) struct Fanout {
    pub(in super::super) channel: String,
    pub(in super::super) wire: Wire,
    pub(in super::super) subscribers: u64,
    pub(in super::super) size: usize,
    pub(in super::super) pace: Pace,
    pub(in super::super) duration: Duration,
}

/// When the next publication is due.
#[derive(Clone, Copy, Debug)]
pub(in super::super) enum Pace {
    /// So many are on their way; another when one is with everyone.
    InFlight(u64),
    /// So many a second, whatever becomes of them.
    PerSecond(u64),
}

/// All that tasks share.
struct Shared {
    flight: RefCell<Flight>,
    meter: Rc<Meter>,
    scratch: RefCell<Scratch>,
    /// Somebody has settled a publication.
    settled: Notify,
}

/// What a subscriber needs for a turn alone.
pub(super) struct Scratch {
    pub(super) bytes: Vec<u8>,
    pub(super) pool: InflaterPool,
}

impl Default for Scratch {
    fn default() -> Self {
        Self { bytes: vec![0; SCRATCH_BYTES], pool: InflaterPool::new() }
    }
}

/// What is read at a time.
const SCRATCH_BYTES: usize = 256 << 10;

/// Nothing has been settled for so long after the last publication: the rest will never be.
const PATIENCE: Duration = Duration::from_secs(5);

/// A publication that goes out later than this after it was due is late by our fault or that of the
/// gateway, not of a timer; it is timed from when it was due.
const TIMER_SLACK: Duration = Duration::from_millis(5);

impl Fanout {
    /// Runs it, until its time is over, `interrupted` is, or the gateway goes away.
    ///
    /// # Errors
    ///
    /// It could not begin.
    pub(in super::super) async fn run(
        &self,
        target: &Target,
        meter: &Rc<Meter>,
        interrupted: impl Future<Output = ()>,
    ) -> anyhow::Result<Outcome> {
        files::allow(self.subscribers)?;
        let shared = Rc::new(Shared {
            flight: RefCell::new(Flight::new(self.size, self.subscribers)),
            meter: Rc::clone(meter),
            scratch: RefCell::default(),
            settled: Notify::new(),
        });
        let mut interrupted = std::pin::pin!(interrupted);
        let mut tasks = JoinSet::new();
        tokio::select! {
            opened = self.open(target, &shared, &mut tasks) => opened?,
            () = &mut interrupted => anyhow::bail!("interrupted before it began"),
        }
        let target = target.websocket_url(&format!("/channels/{}?subscribe=0", self.channel));
        let options = WebSocketOptions { deflate: false, ..WebSocketOptions::default() };
        let publisher = WebSocket::open(&target, &options).await.context("can't publish")?;

        let (begun, cpu_before) = (Instant::now(), cpu());
        let mut end = tokio::select! {
            failure = self.publish(publisher, &shared, begun) => End::Failed(failure),
            failure = failed(&mut tasks) => End::Failed(failure),
            () = sleep(self.duration) => End::Duration,
            () = &mut interrupted => End::Interrupted,
        };
        if !matches!(end, End::Failed(_)) {
            tokio::select! {
                failure = failed(&mut tasks) => end = End::Failed(failure),
                () = shared.drained() => {}
            }
        }
        let cpu = cpu_before.zip(cpu()).map(|(before, after)| after.saturating_sub(before));
        let took = begun.elapsed();
        {
            let mut state = meter.borrow();
            let missing = shared.flight.borrow().missing(&state);
            if !matches!(end, End::Failed(_)) {
                state.counts.lost = missing;
            }
        }
        tasks.shutdown().await;
        let (counts, latency) = meter.total();
        Ok(Outcome { counts, latency, took, cpu, end })
    }

    /// Opens every subscription, some at a time; each goes on in a task.
    async fn open(
        &self,
        target: &Target,
        shared: &Rc<Shared>,
        tasks: &mut JoinSet<Failure>,
    ) -> anyhow::Result<()> {
        let mut opening = JoinSet::new();
        let mut left = self.subscribers;
        loop {
            while left > 0 && opening.len() < OPENING_MAX {
                left -= 1;
                let (target, wire, channel) = (target.clone(), self.wire, self.channel.clone());
                opening.spawn_local(async move { target.subscribe(wire, &channel).await });
            }
            let Some(opened) = opening.join_next().await else { return Ok(()) };
            let (line, reader) = opened?.map_err(Error::from).with_context(|| {
                let opened = shared.meter.borrow().counts.opened;
                format!("subscriber {} of {} is refused", opened + 1, self.subscribers)
            })?;
            shared.meter.borrow().counts.opened += 1;
            let subscriber = Subscriber { line, reader, next: 1 };
            tasks.spawn_local(subscriber.run(Rc::clone(shared)));
        }
    }

    /// Publishes, and says why it could not go on.
    async fn publish(&self, mut socket: WebSocket, shared: &Shared, begun: Instant) -> Failure {
        let mut made = 0;
        loop {
            let due = match self.pace {
                Pace::InFlight(width) => width + shared.flight.borrow().settled(),
                Pace::PerSecond(rate) => due(begun.elapsed(), rate),
            };
            while made < due && shared.flight.borrow().len() < FLIGHT_MAX {
                let now = Instant::now();
                let sent = match self.pace {
                    Pace::InFlight(_) => now,
                    Pace::PerSecond(rate) => sent(begun + when(made, rate), now),
                };
                made += 1;
                let payload = shared.flight.borrow_mut().open(sent);
                shared.meter.borrow().counts.publications += 1;
                socket.push(&Frame::Text(payload));
            }
            if let Err(failure) = socket.flush().await {
                return failure;
            }
            let next = Cell::new(None);
            if let Pace::PerSecond(rate) = self.pace
                && shared.flight.borrow().len() < FLIGHT_MAX
            {
                next.set(Some(begun + when(made, rate)));
            }
            tokio::select! {
                () = shared.settled.notified() => {}
                () = until(next.get()) => {}
                frame = socket.next() => match frame {
                    Ok(Some(Frame::Close { code, reason })) => return Failure::Closed { code, reason },
                    Ok(Some(_)) => {}
                    Ok(None) => return Failure::Cut("the gateway closed the publisher's".into()),
                    Err(failure) => return failure,
                },
            }
        }
    }
}

/// How many publications are due after so long, the first at once.
fn due(elapsed: Duration, rate: u64) -> u64 {
    u64::try_from(elapsed.as_nanos() * u128::from(rate) / 1_000_000_000 + 1).unwrap_or(u64::MAX)
}

/// When publication `index`, from 0 on, is due.
fn when(index: u64, rate: u64) -> Duration {
    let nanos = u128::from(index) * 1_000_000_000 / u128::from(rate.max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// From when a publication is timed that was `due` and goes out `now`.
fn sent(due: Instant, now: Instant) -> Instant {
    if now.saturating_duration_since(due) > TIMER_SLACK { due } else { now }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// The first task that ends has failed.
pub(super) async fn failed(tasks: &mut JoinSet<Failure>) -> Failure {
    match tasks.join_next().await {
        Some(Ok(failure)) => failure,
        Some(Err(error)) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => Failure::Cut(error.to_string()),
        },
        None => std::future::pending().await,
    }
}

impl Shared {
    /// Waits until everything is settled, or nothing more seems to be.
    async fn drained(&self) {
        while self.flight.borrow().len() > 0 {
            let before = self.meter.borrow().counts.messages;
            tokio::select! {
                () = self.settled.notified() => {}
                () = sleep(PATIENCE) => {
                    if self.meter.borrow().counts.messages == before {
                        return;
                    }
                }
            }
        }
    }
}

struct Subscriber {
    line: Line,
    reader: Reader,
    /// The number that comes next.
    next: u64,
}

impl Subscriber {
    /// Reads until it can't.
    async fn run(mut self, shared: Rc<Shared>) -> Failure {
        loop {
            let turn = std::future::poll_fn(|cx| {
                let mut scratch = shared.scratch.borrow_mut();
                let Scratch { bytes, pool } = &mut *scratch;
                let input = std::task::ready!(self.line.poll_read(cx, bytes))?;
                let mut state = shared.meter.borrow();
                state.counts.received_bytes += input.len() as u64;
                let mut turn = Turn {
                    next: &mut self.next,
                    line: &mut self.line,
                    flight: shared.flight.borrow_mut(),
                    state,
                    received: Instant::now(),
                };
                let settled = turn.flight.settled();
                let read = self.reader.read(input, pool, &mut turn);
                if turn.flight.settled() > settled {
                    shared.settled.notify_one();
                }
                std::task::Poll::Ready(read)
            });
            if let Err(failure) = turn.await {
                return failure;
            }
        }
    }
}

/// One read of one subscriber.
struct Turn<'a> {
    next: &'a mut u64,
    line: &'a mut Line,
    flight: RefMut<'a, Flight>,
    state: RefMut<'a, State>,
    received: Instant,
}

impl Sink for Turn<'_> {
    fn known(&self) -> &[u8] {
        self.flight.unit(*self.next)
    }

    fn handle_known(&mut self) {
        self.flight.handle_number(*self.next, self.received, &mut self.state);
        *self.next += 1;
    }

    fn handle_message(&mut self, payload: &[u8], unit: &[u8]) -> Result<(), Failure> {
        self.flight.handle_message(self.next, payload, unit, self.received, &mut self.state)
    }

    fn handle_ping(&mut self, payload: &[u8]) {
        self.state.counts.pongs += 1;
        self.line.push(|out| encode::pong(payload, Some(mask()), out));
    }

    fn handle_gap(&mut self) {
        self.state.counts.gaps += 1;
    }
}

/// A masking key. That nobody can foresee it protects what is between browsers and servers (RFC 6455
/// §10.3), not a load generator.
pub(super) fn mask() -> [u8; 4] {
    fastrand::u32(..).to_ne_bytes()
}
