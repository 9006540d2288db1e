//! Fan-out: one channel, many subscribers, one publisher.
//!
//! ```text
//!   publisher: a bare WebSocket ──► the gateway ──► subscribers: a task each, any wire
//!       ▲                                                │
//!       └────────── one more, when one is with all ◄─────┘      (or one each so often)
//! ```

use std::cell::{RefCell, RefMut};
use std::rc::Rc;
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tidegate_client::websocket::{Frame, WebSocket, WebSocketOptions};
use tidegate_client::{Error, Failure};
use tidegate_wire::websocket::encode;
use tokio::task::JoinSet;
use tokio::time::sleep_until;

use super::flight::{FLIGHT_MAX, Flight};
use super::line::Line;
use super::meter::{Meter, State};
use super::reader::{Reader, Sink, Wire};
use super::run::{Scratch, Shared, mask, open_all, when};
use super::{End, Outcome, Target, files};

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

/// All that its tasks share.
struct Channel {
    shared: Shared,
    flight: RefCell<Flight>,
}

/// A publication that goes out later than this after it was due is late by our fault or that of the
/// gateway, not of a timer; it is timed from when it was due.
const TIMER_SLACK: Duration = Duration::from_millis(5);

impl Fanout {
    pub(super) async fn run(
        &self,
        target: &Target,
        meter: &Rc<Meter>,
        interrupted: impl Future<Output = ()>,
    ) -> anyhow::Result<Outcome> {
        files::allow(self.subscribers)?;
        let channel = Rc::new(Channel {
            shared: Shared::new(meter),
            flight: RefCell::new(Flight::new(self.size, self.subscribers)),
        });
        let mut interrupted = std::pin::pin!(interrupted);
        let mut tasks = JoinSet::new();
        let open = |_| {
            let (target, wire, name) = (target.clone(), self.wire, self.channel.clone());
            async move { target.subscribe(wire, &name).await }
        };
        let opened = |opened: Result<_, _>| {
            let (line, reader) = opened.map_err(Error::from).with_context(|| {
                let nth = meter.borrow().counts.opened + 1;
                format!("subscriber {nth} of {} did not get through", self.subscribers)
            })?;
            meter.borrow().counts.opened += 1;
            let subscriber = Subscriber { line, reader, next: 1 };
            tasks.spawn_local(subscriber.run(Rc::clone(&channel)));
            Ok(())
        };
        tokio::select! {
            opened = open_all(self.subscribers, open, opened) => opened?,
            () = &mut interrupted => anyhow::bail!("interrupted before everyone was subscribed"),
        }
        let url = target.websocket_url(&format!("/channels/{}?subscribe=0", self.channel));
        let options = WebSocketOptions { deflate: false, ..WebSocketOptions::default() };
        let publisher = WebSocket::open(&url, &options).await.context("can't publish")?;

        let shared = &channel.shared;
        let publish = self.publish(publisher, &channel);
        let mut outcome = shared.measure(&mut tasks, publish, self.duration, interrupted).await;
        if !matches!(outcome.end, End::Failed(_)) {
            outcome.counts.lost = channel.flight.borrow().missing(&outcome.counts);
        }
        tasks.shutdown().await;
        Ok(outcome)
    }

    /// Publishes, and says why it could not go on.
    async fn publish(&self, mut socket: WebSocket, channel: &Channel) -> Failure {
        let (shared, flight) = (&channel.shared, &channel.flight);
        let (begun, mut made) = (Instant::now(), 0);
        loop {
            let due = match self.pace {
                Pace::InFlight(width) => width + flight.borrow().settled(),
                Pace::PerSecond(rate) => due(begun.elapsed(), rate),
            };
            while made < due && flight.borrow().len() < FLIGHT_MAX {
                let now = Instant::now();
                let sent = match self.pace {
                    Pace::InFlight(_) => now,
                    Pace::PerSecond(rate) => sent(begun + when(made, rate), now),
                };
                made += 1;
                socket.push(&Frame::Text(flight.borrow_mut().open(sent)));
                shared.on_the_way.set(shared.on_the_way.get() + 1);
                shared.meter.borrow().counts.publications += 1;
            }
            if let Err(failure) = socket.flush().await {
                return failure;
            }
            let next = match self.pace {
                Pace::PerSecond(rate) if flight.borrow().len() < FLIGHT_MAX => {
                    Some(begun + when(made, rate))
                }
                _ => None,
            };
            // Cancel safe: a frame is taken when it is returned.
            tokio::select! {
                () = shared.settled.notified() => {}
                () = until(next) => {}
                frame = socket.next() => match frame {
                    Ok(Some(Frame::Close { code, reason })) => {
                        return Failure::Closed { code, reason };
                    }
                    Ok(Some(_)) => {}
                    Ok(None) => return Failure::Cut("the gateway closed it".into()),
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

struct Subscriber {
    line: Line,
    reader: Reader,
    /// The number that comes next.
    next: u64,
}

impl Subscriber {
    /// Reads until it can't.
    async fn run(mut self, channel: Rc<Channel>) -> Failure {
        let shared = &channel.shared;
        loop {
            let turn = std::future::poll_fn(|cx| {
                let mut scratch = shared.scratch.borrow_mut();
                let Scratch { bytes, pool } = &mut *scratch;
                let input = ready!(self.line.poll_read(cx, bytes))?;
                let mut state = shared.meter.borrow();
                state.counts.received_bytes += input.len() as u64;
                let mut turn = Turn {
                    next: &mut self.next,
                    line: &mut self.line,
                    flight: channel.flight.borrow_mut(),
                    state,
                    received: Instant::now(),
                };
                let settled = turn.flight.settled();
                let read = self.reader.read(input, pool, &mut turn);
                shared.settle(turn.flight.settled() - settled);
                Poll::Ready(read)
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
