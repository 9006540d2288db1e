//! Clients: they are cut, come back on any wire and worker with the cursor of the last thing they
//! received, and judge all that they are given.

use tidegate_core::cursor::{Cursor, parse_joined};
use tidegate_core::log::{From, Read};
use tidegate_core::{ChannelState, Gap, Position};

use crate::oracle::{Due, Seen};
use crate::plan::Fault;
use crate::stream::{Cause, Piece, Start};
use crate::world::{Pending, World};

pub(crate) struct Client {
    pub(crate) channels: Vec<usize>,
    pub(crate) seen: Vec<Seen>,
    pub(crate) link: Link,
    /// The cursors of its channels, joined, of the last thing it received.
    pub(crate) cursor: Option<String>,
    /// Where a client without a cursor begins.
    pub(crate) begin: Begin,
    /// A bare WebSocket for life: it has a cursor only where the gateway closed it.
    pub(crate) is_bare: bool,
    pub(crate) due: Due,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    /// All of its channels have ended: it does not come back.
    Done,
    Offline,
    /// The broker was asked where its stream begins.
    Opening,
    /// On this stream.
    Stream(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Begin {
    Last(u32),
    Now,
    Start,
}

impl World {
    pub(crate) fn connect(&mut self, nth: usize) {
        let poll = !self.clients[nth].is_bare && self.rng.u8(..3) == 0 && !self.is_settling;
        if poll {
            return self.poll(nth);
        }
        let id = self.next_stream;
        self.next_stream += 1;
        let worker = self.rng.usize(..self.workers.len());
        self.clients[nth].link = Link::Opening;
        let states = self.clients[nth].channels.clone();
        let states: Vec<_> = states.into_iter().map(|it| self.broker.state(it, self.now)).collect();
        self.trace(|| format!("client {nth} connects as stream {id} to worker {worker}"));
        if self.plan.later && !self.is_settling {
            return self.pending.push(Pending::Begin { client: nth, id, worker, states });
        }
        self.begin(nth, id, worker, &states);
    }

    /// The states of a client's channels have come: its stream begins.
    pub(crate) fn begin(&mut self, nth: usize, id: usize, worker: usize, states: &[ChannelState]) {
        if self.clients[nth].link != Link::Opening {
            return;
        }
        let cursors = self.cursors(nth);
        let mut starts = Vec::new();
        for (index, state) in states.iter().enumerate() {
            let channel = self.clients[nth].channels[index];
            let (position, gap) = match (&cursors[index], self.clients[nth].begin) {
                (Some(_), _) if self.fault == Some(Fault::StartAtNow) => (state.now(), None),
                (Some(at), _) => state.judge(*at),
                (None, Begin::Now) => (state.now(), None),
                (None, Begin::Start) => (state.start(), None),
                (None, Begin::Last(count)) => (self.last(channel, count), None),
            };
            let bounds = self.outboxes[nth];
            starts.push(Start { channel, position, gap, bounds });
        }
        self.clients[nth].link = Link::Stream(id);
        self.clients[nth].seen.iter_mut().for_each(|it| it.has_ended = false);
        self.start_stream(id, nth, worker, &starts);
    }

    /// The position before the newest `count` publications.
    fn last(&mut self, channel: usize, count: u32) -> Position {
        let read = Read {
            channel: self.broker.channels[channel].clone(),
            from: From::Last(count),
            at_least: 0,
            entries_max: 1.try_into().unwrap(),
            bytes_max: 0,
        };
        let page = self.broker.read(&read, self.now).unwrap();
        page.entries.first().map_or(page.tail(), |first| {
            let offset = first.prev.max(page.state.floor);
            Position { epoch: first.position.epoch, offset }
        })
    }

    /// The cursors that a client comes with, as text, joined in any order.
    fn cursors(&mut self, nth: usize) -> Vec<Option<Position>> {
        let channels = &self.clients[nth].channels;
        let names: Vec<_> = channels.iter().map(|it| self.broker.channels[*it].clone()).collect();
        let Some(text) = &self.clients[nth].cursor else { return vec![None; names.len()] };
        if let [name] = names.as_slice() {
            let cursor = Cursor::parse(text).unwrap();
            assert!(cursor.is_of(name), "its own channel's");
            return vec![Some(cursor.position)];
        }
        let mut parts: Vec<_> = text.split('.').collect();
        self.rng.shuffle(&mut parts);
        let cursors = parse_joined(&parts.join("."), &names).unwrap();
        cursors.into_iter().map(|it| it.map(|it| it.position)).collect()
    }

    /// Receives up to `count` pieces. Answers whether there was one.
    pub(crate) fn receive(&mut self, nth: usize, count: usize) -> bool {
        let mut has_moved = false;
        for _ in 0..count {
            let Link::Stream(id) = self.clients[nth].link else { break };
            let Some(piece) = self.streams.get_mut(&id).and_then(|it| it.flight.pop_front()) else {
                break;
            };
            has_moved = true;
            self.trace(|| format!("client {nth} receives {piece:?}"));
            if let Err(what) = self.take(nth, id, piece) {
                self.fail(format!("client {nth}: {what}"));
            }
        }
        has_moved
    }

    fn take(&mut self, nth: usize, id: usize, piece: Piece) -> Result<(), String> {
        let oracle = &self.broker.oracle;
        let client = &mut self.clients[nth];
        let resume = match piece {
            Piece::Opening { resume } => {
                client.cursor = Some(resume);
                let cursors = self.cursors(nth);
                let client = &mut self.clients[nth];
                for (seen, cursor) in client.seen.iter_mut().zip(cursors) {
                    seen.position = seen.position.or(cursor);
                }
                return Ok(());
            }
            Piece::Item { index, entry, resume } => {
                client.seen[index].item(oracle, client.channels[index], &entry, client.due)?;
                self.stats.received += 1;
                self.stats.ends += usize::from(entry.is_end());
                resume
            }
            Piece::Gap { index, gap, resume } => {
                client.seen[index].gap(oracle, client.channels[index], &gap)?;
                self.gap_told(&gap)?;
                resume
            }
            Piece::Close { cause, resume } => {
                if cause == Cause::Gap {
                    let resumed = Cursor::parse(&resume).unwrap().position;
                    client.seen[0].closed_for_gap(oracle, resumed)?;
                    if self.plan.calm {
                        return Err(format!("a gap in a calm world: 4010 at {resumed:?}"));
                    }
                }
                self.stats.closed += 1;
                let is_done = cause == Cause::Ended && client.seen.iter().all(|it| it.has_ended);
                if cause == Cause::Ended && !is_done {
                    return Err("closed as ended, but an end was not told".into());
                }
                client.link = if is_done { Link::Done } else { Link::Offline };
                client.cursor = Some(resume);
                self.end_stream(id);
                return Ok(());
            }
        };
        self.clients[nth].cursor = Some(resume);
        Ok(())
    }

    fn gap_told(&mut self, gap: &Gap) -> Result<(), String> {
        self.stats.told += 1;
        if self.plan.calm { Err(format!("a gap in a calm world: {gap:?}")) } else { Ok(()) }
    }

    /// The connection breaks: the client has received a part of what was on its way.
    pub(crate) fn cut(&mut self, nth: usize) {
        let received = self.rng.usize(..4);
        self.receive(nth, received);
        if let Link::Stream(id) = self.clients[nth].link {
            self.trace(|| format!("client {nth} is cut"));
            self.end_stream(id);
            self.lose(nth);
        }
    }

    /// A client whose connection is gone without a word. A bare WebSocket knows no cursor then, and
    /// begins as a new client.
    fn lose(&mut self, nth: usize) {
        self.stats.cuts += 1;
        let client = &mut self.clients[nth];
        client.link = Link::Offline;
        if client.is_bare {
            client.cursor = None;
            client.seen = client.channels.iter().map(|_| Seen::default()).collect();
        }
    }

    /// Every connection to the gateway breaks.
    pub(crate) fn cut_all(&mut self) {
        for nth in 0..self.clients.len() {
            self.cut(nth);
            if self.clients[nth].link == Link::Opening {
                self.clients[nth].link = Link::Offline;
            }
        }
    }

    /// One poll, which reads pages and keeps no state but the client's cursor. Its answer may be lost
    /// on its way, and then nothing has happened.
    fn poll(&mut self, nth: usize) {
        let cursors = self.cursors(nth);
        let channels = self.clients[nth].channels.clone();
        let mut pages = Vec::new();
        for (channel, at) in channels.iter().zip(&cursors) {
            let from = at.map_or(From::Start, From::After);
            let name = self.broker.channels[*channel].clone();
            let entries_max = self.plan.page;
            let read = Read { channel: name, from, at_least: 0, entries_max, bytes_max: 4_000 };
            pages.extend(self.broker.read(&read, self.now));
        }
        if self.rng.u8(..4) == 0 {
            return;
        }
        let mut resume = Vec::new();
        for (index, page) in pages.into_iter().enumerate() {
            let channel = channels[index];
            self.trace(|| format!("client {nth} polls {channel}: {page:?}"));
            let oracle = &self.broker.oracle;
            let client = &mut self.clients[nth];
            let seen = &mut client.seen[index];
            seen.has_ended = false;
            seen.position = seen.position.or(Some(page.state.start()));
            let mut verdict = Ok(());
            if let Some(gap) = &page.gap {
                verdict = seen.gap(oracle, channel, gap);
            }
            for entry in &page.entries {
                verdict = verdict.and_then(|()| seen.item(oracle, channel, entry, client.due));
                self.stats.received += 1;
            }
            if page.state.ended.is_some_and(|end| end <= page.next.offset) {
                seen.ended();
            }
            self.clients[nth].seen[index].position = Some(page.next);
            resume.push(page.next.cursor(&self.broker.channels[channel]).to_string());
            if let Some(gap) = page.gap {
                verdict = verdict.and_then(|()| self.gap_told(&gap));
            }
            if let Err(what) = verdict {
                self.fail(format!("client {nth} polls: {what}"));
            }
        }
        self.stats.polls += 1;
        self.clients[nth].cursor = Some(resume.join("."));
    }
}
