//! Subscribers, their publisher and what is in flight between them: the loop of every fan-out.
//!
//! One thread, one epoll. A subscriber's message is compared byte for byte with one that was parsed
//! and found right (`message::Slot::unit`); whatever differs is parsed (`wire`), and is an error
//! unless it is right as well. Sequence numbers must follow each other at every subscriber, and a
//! run is over when every one of them has every message.

use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use hdrhistogram::Histogram;

use crate::frame::{self, Masking};
use crate::http::{self, Dechunker};
use crate::message::{FLIGHT_MAX, Flight};
use crate::net::{self, Poll};
use crate::peer::{self, ACCEPT, Peer, Publishing};
use crate::publisher::{Publisher, TOKENS, Writes};
use crate::wire::{self, Closed, Item, Wire};

/// Handshakes under way at once, below every peer's accept queue.
const DIALS_MAX: usize = 128;

/// Without any progress for so long, a run has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// A probe that did not reach everyone in this time is followed by another.
const PROBE: Duration = Duration::from_millis(500);

/// What is connected to what.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) peer: Peer,
    pub(crate) address: SocketAddr,
    pub(crate) wire: Wire,
    pub(crate) publishing: Publishing,
    pub(crate) subscribers: usize,
    /// Bytes of a message.
    pub(crate) bytes: usize,
    /// Publications in flight, at most.
    pub(crate) width: usize,
}

/// Publish-to-receive times in microseconds, of all subscribers or of one.
pub(crate) struct Latencies {
    pub(crate) histogram: Histogram<u64>,
    pub(crate) only: Option<usize>,
}

impl Latencies {
    pub(crate) fn new(only: Option<usize>) -> Result<Self> {
        Ok(Self { histogram: Histogram::new_with_bounds(1, 60_000_000, 3)?, only })
    }
}

/// All of it.
pub(crate) struct Rig {
    options: Options,
    poll: Poll,
    ready: Vec<u64>,
    subscribers: Vec<Subscriber>,
    publisher: Publisher,
    flight: Flight,
    /// Subscribers that read; a publication is complete when so many have it.
    reading: usize,
    /// The newest publication that is complete.
    complete: u64,
    /// Publications that are still to be made, one for each that is complete.
    left: u64,
    pub(crate) latencies: Option<Latencies>,
    scratch: Vec<u8>,
    body: Vec<u8>,
}

struct Subscriber {
    fd: OwnedFd,
    wire: Wire,
    stage: Stage,
    /// The next sequence number; 0 before the first message.
    next: u64,
    dechunker: Option<Dechunker>,
    /// The front of a unit (or of the head) whose rest has not arrived.
    rest: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Head,
    /// Socket.IO, between the upgrade and the connect packet.
    Joining,
    Live,
    /// Connected, subscribed, never read again.
    Muted,
}

impl Rig {
    /// Connects the publisher and `options.subscribers` subscribers.
    pub(crate) fn connect(options: Options) -> Result<Self> {
        let mut poll = Poll::new()?;
        let Options { peer, address, publishing, .. } = options;
        let publisher = Publisher::connect(peer, address, publishing, options.width, &mut poll)?;
        let mut rig = Self {
            poll,
            ready: Vec::new(),
            subscribers: Vec::new(),
            publisher,
            flight: Flight::new(options.bytes)?,
            reading: 0,
            complete: 0,
            left: 0,
            latencies: None,
            scratch: vec![0; 1 << 20],
            body: Vec::new(),
            options,
        };
        rig.add_subscribers(rig.options.subscribers, rig.options.wire, None)?;
        Ok(rig)
    }

    /// Changes how publications that become due together are handed in.
    pub(crate) fn set_writes(&mut self, writes: Writes) {
        self.publisher.set_writes(writes);
    }

    /// Adds `count` subscribers and waits until the server has agreed to each; to a long-poll it
    /// agrees with the first answer, which nobody waits for here.
    pub(crate) fn add_subscribers(
        &mut self,
        count: usize,
        wire: Wire,
        receive_buffer: Option<usize>,
    ) -> Result<()> {
        let Options { peer, address, .. } = self.options;
        let head = peer::subscribe(peer, wire, address);
        let until = self.subscribers.len() + count;
        while self.subscribers.len() < until {
            let first = self.subscribers.len();
            for index in first..until.min(first + DIALS_MAX) {
                let fd = net::dial(address, receive_buffer)?;
                self.poll.add(&fd, index as u64)?;
                let sent = net::write(&fd, head.as_bytes())?;
                ensure!(sent == head.len(), "a request head was not taken at once");
                let stage = if wire == Wire::LongPoll { Stage::Live } else { Stage::Head };
                let (dechunker, rest) = (None, Vec::new());
                let subscriber = Subscriber { fd, wire, stage, next: 0, dechunker, rest };
                self.subscribers.push(subscriber);
                self.reading += 1;
            }
            let begun = Instant::now();
            while self.subscribers[first..].iter().any(|it| it.stage != Stage::Live) {
                ensure!(begun.elapsed() < PATIENCE, "subscriptions are not answered");
                self.turn(Duration::from_millis(50))?;
            }
        }
        Ok(())
    }

    /// Publishes probes until one has reached every subscriber: now all are subscribed, and from
    /// here on each must get every message.
    pub(crate) fn synchronise(&mut self) -> Result<()> {
        let begun = Instant::now();
        loop {
            ensure!(begun.elapsed() < PATIENCE, "probes don't reach every subscriber");
            self.publish()?;
            let (probe, until) = (self.flight.newest(), Instant::now() + PROBE);
            while Instant::now() < until {
                self.turn(Duration::from_millis(20))?;
                let mut live = self.subscribers.iter().filter(|it| it.stage == Stage::Live);
                if live.all(|it| it.next > probe) {
                    self.complete = probe;
                    return Ok(());
                }
            }
        }
    }

    /// Makes `count` publications, `options.width` of them in flight, the next one when one has
    /// reached every subscriber. Returns how long it took, until the last had.
    pub(crate) fn run_closed(&mut self, count: u64) -> Result<Duration> {
        let begun = Instant::now();
        let width = count.min(self.options.width as u64);
        self.left = count - width;
        for _ in 0..width {
            self.publish()?;
        }
        self.drain()?;
        Ok(begun.elapsed())
    }

    /// Makes `count` publications, one every `interval` whatever becomes of them.
    pub(crate) fn run_paced(&mut self, count: u64, interval: Duration) -> Result<()> {
        let begun = Instant::now();
        for index in 0..count {
            let due = begun + interval * index as u32;
            while let Some(wait) =
                due.checked_duration_since(Instant::now()).filter(|it| !it.is_zero())
            {
                self.turn(wait)?;
            }
            self.publish()?;
        }
        self.drain()
    }

    /// Makes `count` publications of `bytes` bytes at once, and waits until all have arrived.
    pub(crate) fn burst(&mut self, count: u64, bytes: usize) -> Result<Duration> {
        ensure!(count <= FLIGHT_MAX as u64, "a burst is at most {FLIGHT_MAX} messages");
        let begun = Instant::now();
        self.flight.resize(bytes)?;
        for _ in 0..count {
            self.publish()?;
        }
        self.drain()?;
        self.flight.resize(self.options.bytes)?;
        Ok(begun.elapsed())
    }

    /// Does nothing for a while but answer pings.
    pub(crate) fn idle(&mut self, duration: Duration) -> Result<()> {
        let until = Instant::now() + duration;
        while let Some(wait) =
            until.checked_duration_since(Instant::now()).filter(|it| !it.is_zero())
        {
            self.turn(wait)?;
        }
        Ok(())
    }

    /// Stops reading from these subscribers, for good. They no longer count.
    pub(crate) fn mute(&mut self, which: Range<usize>) -> Result<()> {
        for subscriber in &mut self.subscribers[which] {
            self.poll.remove(&subscriber.fd)?;
            subscriber.stage = Stage::Muted;
            self.reading -= 1;
        }
        Ok(())
    }

    /// Reads what is left for a muted subscriber, until it has the newest message or is told that
    /// it missed some.
    pub(crate) fn catch_up(&mut self, index: usize) -> Result<CaughtUp> {
        let newest = self.flight.newest();
        self.poll.add(&self.subscribers[index].fd, index as u64)?;
        self.subscribers[index].stage = Stage::Live;
        self.reading += 1;
        let begun = Instant::now();
        let caught_up = loop {
            ensure!(begun.elapsed() < PATIENCE, "a slow reader gets no more messages");
            match self.turn(Duration::from_millis(50)) {
                Ok(()) if self.subscribers[index].next > newest => break CaughtUp::Complete,
                Ok(()) => {}
                Err(error) => match error.downcast_ref::<Closed>() {
                    Some(Closed { code: Some(code), .. }) => break CaughtUp::Told(*code),
                    Some(_) => break CaughtUp::Cut,
                    None => return Err(error),
                },
            }
        };
        self.mute(index..index + 1)?;
        Ok(caught_up)
    }

    pub(crate) fn publish(&mut self) -> Result<()> {
        let payload = self.flight.open();
        self.publisher.publish(payload, &self.poll)
    }

    /// Waits until everything that was and is to be published is complete.
    pub(crate) fn drain(&mut self) -> Result<()> {
        let (mut seen, mut since) = (self.complete, Instant::now());
        while self.complete < self.flight.newest() || self.left > 0 {
            self.turn(Duration::from_millis(100))?;
            if self.complete > seen {
                (seen, since) = (self.complete, Instant::now());
            } else if since.elapsed() > PATIENCE {
                let next = self.complete + 1;
                let behind = self.subscribers.iter().filter(|it| it.next <= next).count();
                bail!("message {next} has not reached {behind} of {} subscribers", self.reading);
            }
        }
        Ok(())
    }

    /// Waits once and handles what is ready.
    pub(crate) fn turn(&mut self, timeout: Duration) -> Result<()> {
        self.publisher.flush(&self.poll)?;
        let mut ready = std::mem::take(&mut self.ready);
        self.poll.wait(timeout, &mut ready)?;
        for token in &ready {
            if *token >= TOKENS {
                self.publisher.handle_ready(*token, &self.poll)?;
                continue;
            }
            let index = *token as usize;
            let complete = self.read(index).with_context(|| format!("at subscriber {index}"))?;
            self.complete += complete;
            for _ in 0..complete.min(self.left) {
                self.left -= 1;
                self.publish()?;
            }
            self.publisher.flush(&self.poll)?;
        }
        self.ready = ready;
        Ok(())
    }

    /// Reads once from a subscriber; how many publications have become complete by that.
    fn read(&mut self, index: usize) -> Result<u64> {
        let Self { subscribers, flight, scratch, body, options, .. } = self;
        let subscriber = &mut subscribers[index];
        let kept = subscriber.rest.len();
        scratch[..kept].copy_from_slice(&subscriber.rest);
        let Some(got) = net::read(&subscriber.fd, &mut scratch[kept..])? else { return Ok(0) };
        if got == 0 {
            return Err(Closed::default().into());
        }
        let received = self.latencies.as_ref().map(|_| Instant::now());
        let mut seen =
            Seen { index, flight, reading: self.reading, latencies: &mut self.latencies, received };
        subscriber.rest.clear();
        let mut input = &scratch[..kept + got];
        if subscriber.wire == Wire::LongPoll {
            return subscriber.answered(options, input, &mut seen);
        }
        if subscriber.stage == Stage::Head {
            let Some(len) = subscriber.greet(options, input)? else {
                subscriber.rest.extend_from_slice(input);
                return Ok(0);
            };
            input = &input[len..];
            if let Some(dechunker) = &mut subscriber.dechunker {
                body.clear();
                dechunker.feed(input, body)?;
                input = body;
            }
        } else if let Some(dechunker) = &mut subscriber.dechunker {
            body.clear();
            body.extend_from_slice(&scratch[..kept]);
            dechunker.feed(&scratch[kept..kept + got], body)?;
            input = body;
        }

        let (wire, mut complete) = (subscriber.wire, 0);
        while !input.is_empty() {
            let seq = subscriber.next;
            let (seq, len) = match seen.flight.slot(seq).map(|slot| &slot.units[wire as usize]) {
                Some(unit) if !unit.is_empty() && input.starts_with(unit) => (seq, unit.len()),
                _ => match wire::read(wire, input)? {
                    None => break,
                    Some((Item::Message(payload), len)) => {
                        let seq = subscriber.check(seen.flight, &payload)?;
                        if let Some(slot) = seen.flight.slot(seq) {
                            let unit = &mut slot.units[wire as usize];
                            if unit.is_empty() {
                                unit.extend_from_slice(&input[..len]);
                            }
                        }
                        (seq, len)
                    }
                    Some((item, len)) => {
                        subscriber.answer(&item)?;
                        input = &input[len..];
                        continue;
                    }
                },
            };
            input = &input[len..];
            subscriber.next = seq + 1;
            complete += seen.note(seq)?;
        }
        subscriber.rest.extend_from_slice(input);
        Ok(complete)
    }
}

/// What one read of a subscriber is noted in.
struct Seen<'a> {
    index: usize,
    flight: &'a mut Flight,
    /// Subscribers that read.
    reading: usize,
    latencies: &'a mut Option<Latencies>,
    received: Option<Instant>,
}

impl Seen<'_> {
    /// Notes that message `seq` has arrived; 1 if everyone has it by that.
    fn note(&mut self, seq: u64) -> Result<u64> {
        let Some(slot) = self.flight.slot(seq) else { return Ok(0) };
        slot.seen += 1;
        if let (Some(latencies), Some(received)) = (&mut *self.latencies, self.received)
            && latencies.only.is_none_or(|only| only == self.index)
        {
            let micros = received.saturating_duration_since(slot.sent).as_micros() as u64;
            latencies.histogram.record(micros.max(1))?;
        }
        Ok(u64::from(slot.seen == self.reading))
    }
}

/// How a reader that had stopped reading got on again.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum CaughtUp {
    /// Every message, in order.
    Complete,
    /// The server closed the connection with this code.
    Told(u16),
    /// The connection ended without a Close frame.
    Cut,
}

impl Subscriber {
    /// Checks the answer to the subscription; the length of its head, once it is all there.
    fn greet(&mut self, options: &Options, input: &[u8]) -> Result<Option<usize>> {
        let Some(head) = http::head(input)? else { return Ok(None) };
        let kind = match self.wire {
            Wire::Ws | Wire::SocketIo => {
                ensure!(head.status == 101, "the upgrade: {}", String::from_utf8_lossy(input));
                let is_proof = !options.peer.computes_accept() || head.accept == ACCEPT;
                ensure!(is_proof, "the server accepted with {:?}", head.accept);
                self.stage = if self.wire == Wire::Ws { Stage::Live } else { Stage::Joining };
                return Ok(Some(head.len));
            }
            Wire::Sse => "text/event-stream",
            Wire::Ndjson => "application/x-ndjson",
            Wire::LongPoll => bail!("a long-poll has no head of its own"),
        };
        ensure!(head.status == 200, "the request: {}", String::from_utf8_lossy(input));
        ensure!(head.content_type.starts_with(kind), "the stream is {:?}", head.content_type);
        self.dechunker = head.is_chunked.then(Dechunker::default);
        self.stage = Stage::Live;
        Ok(Some(head.len))
    }

    /// The number of a message that must be the next.
    fn check(&self, flight: &mut Flight, payload: &[u8]) -> Result<u64> {
        let (seq, expect) = (flight.check(payload)?, self.next);
        ensure!(expect == 0 || seq == expect, "message {seq} came, {expect} is next");
        Ok(seq)
    }

    /// Takes what has come of a long-poll's answer; when that is whole, asks for what comes next.
    fn answered(&mut self, options: &Options, input: &[u8], seen: &mut Seen<'_>) -> Result<u64> {
        let whole = match http::head(input)? {
            Some(head) => {
                ensure!(head.status == 200, "a poll: {}", String::from_utf8_lossy(input));
                let len = head.content_length.context("an answer has no length")?;
                input.get(head.len..head.len + len)
            }
            None => None,
        };
        let Some(body) = whole else {
            self.rest.extend_from_slice(input);
            return Ok(0);
        };
        let (payloads, cursor) = wire::answer(body)?;
        let mut complete = 0;
        for payload in payloads {
            let seq = self.check(seen.flight, &payload)?;
            self.next = seq + 1;
            complete += seen.note(seq)?;
        }
        let head = peer::poll(options.peer, options.address, cursor);
        let sent = net::write(&self.fd, head.as_bytes())?;
        ensure!(sent == head.len(), "a request head was not taken at once");
        Ok(complete)
    }

    /// Answers what is no message.
    fn answer(&mut self, item: &Item<'_>) -> Result<()> {
        let mut answer = Vec::new();
        match item {
            Item::Ping(payload) => frame::write(&mut answer, frame::PONG, payload, Masking::Masked),
            Item::Opened => frame::write(&mut answer, frame::TEXT, b"40", Masking::Masked),
            Item::EnginePing => frame::write(&mut answer, frame::TEXT, b"3", Masking::Masked),
            Item::Joined => self.stage = Stage::Live,
            Item::Message(_) | Item::Nothing => {}
        }
        let sent = net::write(&self.fd, &answer)?;
        ensure!(sent == answer.len(), "an answer was not taken at once");
        Ok(())
    }
}
