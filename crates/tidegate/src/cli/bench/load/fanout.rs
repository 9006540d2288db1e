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
use tidegate_client::Failure;
use tidegate_client::websocket::{Frame, WebSocket, WebSocketOptions};
use tokio::task::JoinSet;
use tokio::time::sleep_until;

use super::flight::{FLIGHT_MAX, Flight};
use super::meter::{Meter, State};
use super::reader::Wire;
use super::run::{Shared, open_everyone, when};
use super::subscriber::{Messages, Subscriber};
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
        let opened = |opened| {
            tasks.spawn_local(listen(Subscriber::new(opened), Rc::clone(&channel)));
        };
        let (count, until) = (self.subscribers, interrupted.as_mut());
        let is_open = open_everyone("subscriber", count, meter, until, open, opened).await?;
        anyhow::ensure!(is_open, "interrupted before everyone was subscribed");
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

/// Reads until it can't.
async fn listen(mut subscriber: Subscriber, channel: Rc<Channel>) -> Failure {
    let shared = &channel.shared;
    // The number that comes next.
    let mut next = 1;
    loop {
        let turn = std::future::poll_fn(|cx| {
            let flight = channel.flight.borrow_mut();
            let settled = flight.settled();
            let messages = Numbers { next: &mut next, flight };
            let (turn, read) = ready!(subscriber.poll_turn(cx, shared, messages))?;
            shared.settle(turn.messages.flight.settled() - settled);
            Poll::Ready(read)
        });
        if let Err(failure) = turn.await {
            return failure;
        }
    }
}

/// What is on its way, for one subscriber.
struct Numbers<'a> {
    next: &'a mut u64,
    flight: RefMut<'a, Flight>,
}

impl Messages for Numbers<'_> {
    fn known(&self) -> &[u8] {
        self.flight.unit(*self.next)
    }

    fn handle_known(&mut self, received: Instant, state: &mut State) {
        self.flight.handle_number(*self.next, received, state);
        *self.next += 1;
    }

    fn handle_message(
        &mut self,
        payload: &[u8],
        unit: &[u8],
        received: Instant,
        state: &mut State,
    ) -> Result<(), Failure> {
        self.flight.handle_message(self.next, payload, unit, received, state)
    }
}
