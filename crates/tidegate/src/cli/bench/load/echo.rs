//! Echo: connections that publish to a channel of their own each, and hear themselves.
//!
//! A connection answers what one read brought with as many messages in one write, so that as many
//! stay on their way.

use std::cell::RefMut;
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tidegate_client::{Error, Failure};
use tidegate_wire::websocket::{Kind, encode};
use tokio::task::JoinSet;

use super::line::Line;
use super::meter::{Meter, State};
use super::payload::Template;
use super::reader::{Reader, Sink, Wire};
use super::run::{Scratch, Shared, mask, open_all};
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
        let opened = |opened: Result<_, _>| {
            let (line, reader) = opened.map_err(Error::from).with_context(|| {
                let nth = meter.borrow().counts.opened + 1;
                format!("connection {nth} of {} did not get through", self.connections)
            })?;
            meter.borrow().counts.opened += 1;
            let (template, sent) = (Template::new(self.size), VecDeque::new());
            connections.push(Connection { line, reader, own: Own { template, sent, next: 1 } });
            Ok(())
        };
        tokio::select! {
            opened = open_all(self.connections, open, opened) => opened?,
            () = &mut interrupted => anyhow::bail!("interrupted before everyone was connected"),
        }
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
    line: Line,
    reader: Reader,
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
        self.own.send(in_flight, Instant::now(), &mut self.line, &mut shared.meter.borrow());
        shared.on_the_way.set(shared.on_the_way.get() + in_flight);
        loop {
            let turn = std::future::poll_fn(|cx| {
                let mut scratch = shared.scratch.borrow_mut();
                let Scratch { bytes, pool } = &mut *scratch;
                let input = ready!(self.line.poll_read(cx, bytes))?;
                let (mut state, now) = (shared.meter.borrow(), Instant::now());
                state.counts.received_bytes += input.len() as u64;
                let before = self.own.next;
                let mut turn =
                    Turn { own: &mut self.own, line: &mut self.line, state, received: now };
                let read = self.reader.read(input, pool, &mut turn);
                let back = turn.own.next - before;
                if shared.is_stopping.get() {
                    shared.settle(back);
                } else {
                    turn.own.send(back, now, turn.line, &mut turn.state);
                }
                Poll::Ready(read)
            });
            if let Err(failure) = turn.await {
                return failure;
            }
        }
    }
}

/// One read of one connection.
struct Turn<'a> {
    own: &'a mut Own,
    line: &'a mut Line,
    state: RefMut<'a, State>,
    received: Instant,
}

impl Sink for Turn<'_> {
    fn known(&self) -> &[u8] {
        &[]
    }

    fn handle_known(&mut self) {}

    fn handle_message(&mut self, payload: &[u8], _: &[u8]) -> Result<(), Failure> {
        let newest = self.own.next + self.own.sent.len() as u64;
        let number = self.own.template.number(payload).filter(|it| (1..newest).contains(it));
        let number = number.ok_or_else(|| {
            Failure::Protocol("a message came back that was not sent, or was changed".into())
        })?;
        if number < self.own.next {
            self.state.counts.duplicates += 1;
            return Ok(());
        }
        while self.own.next <= number {
            let sent = self.own.sent.pop_front();
            if self.own.next < number {
                self.state.counts.lost += 1;
            } else if let Some(sent) = sent {
                self.state.record(self.received.saturating_duration_since(sent));
            }
            self.own.next += 1;
        }
        self.state.counts.messages += 1;
        Ok(())
    }

    fn handle_ping(&mut self, payload: &[u8]) {
        self.state.counts.pongs += 1;
        self.line.push(|out| encode::pong(payload, Some(mask()), out));
    }

    fn handle_gap(&mut self) {
        self.state.counts.gaps += 1;
    }
}
