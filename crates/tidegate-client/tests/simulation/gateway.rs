//! A gateway as its clients see it: logs with cursors, and what each wire says of them. No more of it
//! than that, and every word by the contract's own encoder.

use std::sync::Arc;

use tidegate_core::entry::{Body, Entry, Publication, Timestamp};
use tidegate_core::envelope::json;
use tidegate_core::state::{ChannelState, Lineage};
use tidegate_core::{ChannelName, Cursor, Epoch, Gap, Payload, Position, cursor};
use tidegate_wire::sse;

/// A channel's log, and all that was ever in it.
pub(crate) struct Log {
    pub(crate) channel: ChannelName,
    /// What is kept.
    entries: Vec<Arc<Entry>>,
    epoch: u64,
    floor: u64,
    head: u64,
    /// How many publications there have been; each one's payload is its number, from 0.
    pub(crate) published: u32,
    pub(crate) is_ended: bool,
}

/// Where a stream is in one channel.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    position: Position,
    gap: Option<Gap>,
}

/// Something due on a stream.
pub(crate) enum Item {
    Entry(Arc<Entry>),
    Gap(ChannelName, Gap),
}

impl Log {
    pub(crate) fn new(name: &str) -> Self {
        let channel = ChannelName::parse(name).unwrap();
        let (floor, head, published, is_ended) = (0, 0, 0, false);
        Self { channel, entries: Vec::new(), epoch: 1, floor, head, published, is_ended }
    }

    fn state(&self) -> ChannelState {
        let lineage = Lineage::new(Epoch::new(self.epoch));
        let ended = self.is_ended.then_some(self.head);
        ChannelState { floor: self.floor, head: self.head, ended, lineage }
    }

    fn append(&mut self, body: Body) {
        let prev = self.head.max(self.floor);
        // Offsets rise but are not dense.
        self.head += 1 + u64::from(self.published % 3);
        let position = Position { epoch: Epoch::new(self.epoch), offset: self.head };
        let (channel, time) = (self.channel.clone(), Timestamp(1_000_000));
        self.entries.push(Arc::new(Entry { channel, position, prev, time, body }));
    }

    pub(crate) fn publish(&mut self) {
        let payload = Payload::from_text(self.published.to_string());
        self.append(Body::Publication(Publication {
            payload,
            event: None,
            user: None,
            origin: None,
        }));
        self.published += 1;
    }

    pub(crate) fn end(&mut self) {
        self.append(Body::End);
        self.is_ended = true;
    }

    /// Forgets all but the newest `kept`.
    pub(crate) fn trim(&mut self, kept: usize) {
        let gone = self.entries.len().saturating_sub(kept);
        if let Some(last) = self.entries.drain(..gone).next_back() {
            self.floor = last.position.offset;
        }
    }

    /// The process was restarted: the log begins anew, empty.
    pub(crate) fn restart(&mut self) {
        self.entries.clear();
        (self.epoch, self.floor, self.head) = (self.epoch + 1, 0, 0);
    }

    /// The number of the publication at a cursor's place or before it, in this life of the log.
    pub(crate) fn number_at(&self, cursor: &str) -> Option<u32> {
        let position = Cursor::parse(cursor).ok()?.position;
        let is_before = |it: &&Arc<Entry>| it.position.offset <= position.offset;
        let text = |it: &Arc<Entry>| {
            let bytes = it.publication()?.payload.bytes.clone();
            String::from_utf8(bytes.into()).ok()?.parse().ok()
        };
        self.entries.iter().take_while(is_before).filter_map(text).last()
    }
}

/// Where a request's query begins.
pub(crate) fn begin(logs: &[Log], query: &str, is_forgotten: bool) -> Vec<Place> {
    let value =
        |name: &str| query.split('&').find_map(|it| it.strip_prefix(name)?.strip_prefix('='));
    let since = value("since").unwrap();
    let channels: Vec<_> = logs.iter().map(|log| log.channel.clone()).collect();
    let now = |log: &Log| Place { position: log.state().now(), gap: None };
    match since {
        "now" => logs.iter().map(now).collect(),
        "start" => {
            let start = |log: &Log| Place { position: log.state().start(), gap: None };
            logs.iter().map(start).collect()
        }
        _ if is_forgotten => logs.iter().map(now).collect(),
        text => {
            let cursors = cursor::parse_joined(text, &channels).unwrap();
            let after = |(log, cursor): (&Log, Option<Cursor>)| match cursor {
                Some(cursor) => {
                    let (position, gap) = log.state().judge(cursor.position);
                    Place { position, gap }
                }
                None => now(log),
            };
            logs.iter().zip(cursors).map(after).collect()
        }
    }
}

/// The cursor of all places, gaps that are still to be told before it.
pub(crate) fn joined(logs: &[Log], places: &[Place]) -> String {
    let all: Vec<_> = cursors(logs, places).iter().map(Cursor::to_string).collect();
    all.join(".")
}

fn cursors(logs: &[Log], places: &[Place]) -> Vec<Cursor> {
    let cursor = |(log, place): (&Log, &Place)| {
        place.gap.map_or(place.position, |gap| gap.requested).cursor(&log.channel)
    };
    logs.iter().zip(places).map(cursor).collect()
}

/// The next thing that is due, and the places after it. `turn` says whose turn it is.
pub(crate) fn next(logs: &[Log], places: &mut [Place], turn: usize) -> Option<Item> {
    for at in (0..logs.len()).map(|it| (it + turn) % logs.len()) {
        let (log, place) = (&logs[at], &mut places[at]);
        // The log may have moved on below a stream that is slow.
        let (position, gap) = log.state().judge(place.position);
        if let Some(gap) = gap {
            place.gap = Some(place.gap.map_or(gap, |earlier| earlier.then(gap)));
            place.position = position;
        }
        if let Some(gap) = place.gap.take() {
            return Some(Item::Gap(log.channel.clone(), gap));
        }
        let is_after = |it: &&Arc<Entry>| it.position.offset > place.position.offset;
        if let Some(entry) = log.entries.iter().find(is_after) {
            place.position = entry.position;
            return Some(Item::Entry(Arc::clone(entry)));
        }
    }
    None
}

/// Whether a stream is past the ends of all its channels.
pub(crate) fn is_over(logs: &[Log], places: &[Place]) -> bool {
    logs.iter()
        .zip(places)
        .all(|(log, it)| log.is_ended && it.gap.is_none() && it.position.offset >= log.head)
}

/// The ends that a stream which begins at or past them is told again.
pub(crate) fn ends(logs: &[Log], places: &[Place]) -> Vec<Item> {
    let is_past = |(log, place): &(&Log, &Place)| {
        log.is_ended && place.gap.is_none() && place.position.offset >= log.head
    };
    let past = logs.iter().zip(places).filter(is_past);
    past.filter_map(|(log, _)| log.entries.last().cloned().map(Item::Entry)).collect()
}

/// A line of NDJSON or a message of a WebSocket, without its frame.
pub(crate) fn line(logs: &[Log], places: &[Place], item: &Item) -> Vec<u8> {
    let mut out = Vec::new();
    match item {
        Item::Entry(entry) => json::write_entry(entry, &mut out),
        Item::Gap(channel, gap) => json::write_gap(channel, gap, &mut out),
    }
    if logs.len() > 1 {
        out.pop();
        json::write_resume(&cursors(logs, places), &mut out);
    }
    out
}

/// An event of an event stream.
pub(crate) fn event(logs: &[Log], places: &[Place], item: &Item) -> Vec<u8> {
    let (mut out, mut data) = (Vec::new(), Vec::new());
    let name = match item {
        Item::Gap(channel, gap) => {
            json::write_gap_object(channel, gap, &mut data);
            Some("tidegate-gap")
        }
        Item::Entry(entry) if entry.is_end() => {
            json::write_end_object(&entry.channel, entry.position, &mut data);
            Some("tidegate-end")
        }
        Item::Entry(entry) => {
            json::write_entry(entry, &mut data);
            None
        }
    };
    sse::write_event(&mut out, Some(joined(logs, places).as_bytes()), name, &data);
    out
}

/// A page of at most `limit` messages; `None` where it would say nothing.
pub(crate) fn page(logs: &[Log], places: &mut [Place], limit: usize) -> (Vec<u8>, bool) {
    let (mut messages, mut gaps) = (Vec::new(), Vec::new());
    let (mut turn, mut is_empty) = (0, true);
    while messages.len() < limit
        && let Some(item) = next(logs, places, turn)
    {
        turn += 1;
        is_empty = false;
        match item {
            Item::Gap(channel, gap) => gaps.push((channel, gap)),
            Item::Entry(entry) if entry.is_end() => {}
            Item::Entry(entry) => messages.push(entry),
        }
    }
    let past = |(log, place): &(&Log, &Place)| log.is_ended && place.position.offset >= log.head;
    let ended: Vec<_> =
        logs.iter().zip(&*places).filter(past).map(|(log, _)| log.channel.clone()).collect();
    let mut out = Vec::new();
    let cursor = cursors(logs, places);
    let poll = json::Poll { messages: &messages, cursor: &cursor, gaps: &gaps, ended: &ended };
    json::write_poll(&poll, &mut out);
    (out, is_empty && ended.len() < logs.len())
}
