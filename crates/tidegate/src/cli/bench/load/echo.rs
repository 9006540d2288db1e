//! Echo: connections that publish to a channel of their own each, and hear themselves.
//!
//! A connection answers what one read brought with as many messages in one write, so that as many
//! stay on their way.

use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

use tidegate_client::Failure;
use tidegate_wire::websocket::{Kind, encode};
use tokio::task::JoinSet;

use super::line::Line;
use super::meter::{Meter, State};
use super::payload::Template;
use super::reader::Wire;
use super::run::{Shared, mask, open_everyone};
use super::subscriber::{Messages, Subscriber};
use super::{End, Outcome, Target, files};

/// An echo, before it begins.
#[derive(Clone, Debug)]
pub(in super::super) struct Echo {
    /// What channels' names begin with.
    pub(in super::super) prefix: String,
    pub(in super::super) connections: u64,
    /// Messages on their way at once, of each connection.
    pub(in super::super) in_flight: u64,
    pub(in super::super) size: usize,
    pub(in super::super) duration: Duration,
}

impl Echo {
    /// The channel of a connection.
    pub(super) fn channel(&self, index: u64) -> String {
        format!("{}.{index}", self.prefix)
    }

    pub(super) async fn run(
        &self,
        target: &Target,
        meter: &Rc<Meter>,
        interrupted: impl Future<Output = ()>,
    ) -> anyhow::Result<Outcome> {
        files::allow(self.connections)?;
        let shared = Rc::new(Shared::new(meter));
        let mut interrupted = std::pin::pin!(interrupted);
        let mut connections = Vec::new();
        let open = |index| {
            let (target, channel) = (target.clone(), self.channel(index));
            async move { target.subscribe(Wire::Ws, &channel).await }
        };
        let opened = |opened| {
            let (template, sent) = (Template::new(self.size), VecDeque::new());
            let own = Own { template, sent, next: 1 };
            connections.push(Connection { subscriber: Subscriber::new(opened), own });
        };
        let (count, until) = (self.connections, interrupted.as_mut());
        let is_open = open_everyone("connection", count, meter, until, open, opened).await?;
        anyhow::ensure!(is_open, "interrupted before everyone was connected");
        let mut tasks = JoinSet::new();
        for connection in connections {
            tasks.spawn_local(connection.run(self.in_flight, Rc::clone(&shared)));
        }
        let nothing = std::future::pending();
        let mut outcome = shared.measure(&mut tasks, nothing, self.duration, interrupted).await;
        if !matches!(outcome.end, End::Failed(_)) {
            outcome.counts.lost += shared.on_the_way.get();
        }
        tasks.shutdown().await;
        Ok(outcome)
    }
}

struct Connection {
    subscriber: Subscriber,
    own: Own,
}

/// What a connection has sent.
struct Own {
    template: Template,
    /// When what is on its way was sent, in order.
    sent: VecDeque<Instant>,
    /// The number that comes back next.
    next: u64,
}

impl Own {
    fn send(&mut self, count: u64, now: Instant, line: &mut Line, state: &mut State) {
        for _ in 0..count {
            let number = self.next + self.sent.len() as u64;
            let payload = self.template.payload(number);
            line.push(|out| encode::masked_message(Kind::Text, payload, mask(), out));
            self.sent.push_back(now);
            state.counts.publications += 1;
        }
    }
}

impl Connection {
    /// Sends and reads until it can't.
    async fn run(mut self, in_flight: u64, shared: Rc<Shared>) -> Failure {
        let line = self.subscriber.line();
        self.own.send(in_flight, Instant::now(), line, &mut shared.meter.borrow());
        shared.on_the_way.set(shared.on_the_way.get() + in_flight);
        loop {
            let turn = std::future::poll_fn(|cx| {
                let before = self.own.next;
                let turn = self.subscriber.poll_turn(cx, &shared, &mut self.own);
                let (mut turn, read) = ready!(turn)?;
                let back = turn.messages.next - before;
                if shared.is_stopping.get() {
                    shared.settle(back);
                } else {
                    turn.messages.send(back, turn.received, turn.line, &mut turn.state);
                }
                Poll::Ready(read)
            });
            if let Err(failure) = turn.await {
                return failure;
            }
        }
    }
}

impl Messages for &mut Own {
    fn handle_message(
        &mut self,
        payload: &[u8],
        _: &[u8],
        received: Instant,
        state: &mut State,
    ) -> Result<(), Failure> {
        let newest = self.next + self.sent.len() as u64;
        let number = self.template.number(payload).filter(|it| (1..newest).contains(it));
        let number = number.ok_or_else(|| {
            Failure::Protocol("a message came back that was not sent, or was changed".into())
        })?;
        if number < self.next {
            state.counts.duplicates += 1;
            return Ok(());
        }
        while self.next <= number {
            let sent = self.sent.pop_front();
            if self.next < number {
                state.counts.lost += 1;
            } else if let Some(sent) = sent {
                state.record(received.saturating_duration_since(sent));
            }
            self.next += 1;
        }
        state.counts.messages += 1;
        Ok(())
    }
}
