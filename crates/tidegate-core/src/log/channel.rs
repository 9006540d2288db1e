//! The log of one channel: its entries, its floor, its bounds, its keys and who watches it.
//!
//! Publications come first and an end, if any, is last: nothing is appended after it while it is
//! kept. What is trimmed goes from the front, so the floor is always the newest offset that is gone.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::keys::{Keys, Verdict, digest};
use super::{Appended, LogBounds, Refused, SinkId, Terms, Usage};
use crate::channel::ChannelName;
use crate::cursor::{Epoch, Position};
use crate::entry::{Body, Draft, Entry, Timestamp};
use crate::is_sparse;

/// Bytes that a log with entries is charged with beside them: the struct, the name, its queue's
/// first allocation and its slot in the bucket's table.
const LOG_OVERHEAD: usize = 512;

#[derive(Debug)]
pub(super) struct Log {
    entries: VecDeque<Stamped>,
    /// The newest offset that was trimmed or dropped, or the bucket's floor when the log was made.
    floor: u64,
    /// Sum of the entries' weights.
    bytes: usize,
    payload_bytes: usize,
    bounds: LogBounds,
    keys: Option<Box<Keys>>,
    /// Shared, so that an append can hand them out without an allocation; `None` when empty.
    watchers: Option<Arc<[SinkId]>>,
}

/// An entry, and when it came by the monotonic clock.
#[derive(Debug)]
pub(super) struct Stamped {
    pub(super) entry: Arc<Entry>,
    at: Duration,
}

impl Log {
    pub(super) fn new(floor: u64, bounds: LogBounds) -> Self {
        Self {
            entries: VecDeque::new(),
            floor,
            bytes: 0,
            payload_bytes: 0,
            bounds,
            keys: None,
            watchers: None,
        }
    }

    /// [`super::Bucket::append`] for a log that exists; offsets come from `sequence`.
    pub(super) fn append(
        &mut self,
        draft: Draft,
        now: Duration,
        terms: &Terms<'_>,
        epoch: Epoch,
        sequence: &mut u64,
    ) -> Result<Appended, Refused> {
        self.expire(now);
        let Draft { channel, publication, ends, key, time, id: _ } = draft;
        let key = key.map(|key| (digest(publication.as_ref(), ends), key));
        let verdict = match (&key, self.keys.as_deref()) {
            (Some((digest, key)), Some(keys)) => keys.judge(key, *digest),
            _ => Verdict::New,
        };
        match verdict {
            // Also after an end: whoever asks again is told what became of the first time.
            Verdict::Seen(offset) => {
                return Ok(Appended {
                    position: Position { epoch, offset },
                    is_duplicate: true,
                    entries: [None, None],
                    watchers: None,
                });
            }
            Verdict::Reused => return Err(Refused::KeyReused),
            Verdict::New if self.ended().is_some() => return Err(Refused::Ended),
            Verdict::New if key.is_some() && !terms.has_room_for_key => {
                return Err(Refused::KeysFull);
            }
            Verdict::New => {}
        }

        let mut at = At { channel, epoch, time, now };
        let (first, second) = match publication {
            Some(it) => {
                let first = self.push(Body::Publication(it), &mut at, sequence);
                (first, ends.then(|| self.push(Body::End, &mut at, sequence)))
            }
            None => (self.push(Body::End, &mut at, sequence), None),
        };
        let position = first.position;
        if let Some((digest, key)) = key {
            let expires = now.saturating_add(terms.key_window);
            let keys = self.keys.get_or_insert_default();
            keys.insert(key, digest, position.offset, expires);
        }
        self.trim(now);
        let watchers = self.watchers();
        Ok(Appended { position, is_duplicate: false, entries: [Some(first), second], watchers })
    }

    fn push(&mut self, body: Body, at: &mut At, sequence: &mut u64) -> Arc<Entry> {
        let prev = self.entries.back().map_or(self.floor, |it| it.entry.position.offset);
        *sequence += 1;
        let position = Position { epoch: at.epoch, offset: *sequence };
        let entry =
            Arc::new(Entry { channel: at.channel.clone(), position, prev, time: at.time, body });
        self.bytes += entry.weight();
        self.payload_bytes += payload_len(&entry);
        self.entries.push_back(Stamped { entry: Arc::clone(&entry), at: at.now });
        entry
    }

    /// Lets entries, keys and the end expire.
    pub(super) fn expire(&mut self, now: Duration) {
        while let Some(oldest) = self.entries.front()
            && now.saturating_sub(oldest.at) >= self.bounds.age
        {
            self.pop();
        }
        if let Some(keys) = &mut self.keys {
            keys.expire(now);
            if keys.len() == 0 {
                self.keys = None;
            }
        }
        if is_sparse(self.entries.len(), self.entries.capacity()) {
            self.entries.shrink_to(2 * self.entries.len());
        }
    }

    /// Takes over other bounds; [`Log::expire`] enforces their age, this the rest.
    pub(super) fn rebound(&mut self, bounds: LogBounds) {
        if self.bounds != bounds {
            self.bounds = bounds;
            self.enforce();
        }
    }

    /// Frees at least `bytes` of publications, or all there are.
    pub(super) fn trim_bytes(&mut self, bytes: usize) {
        let target = self.usage().bytes.saturating_sub(bytes);
        while self.usage().bytes > target && self.publications() > 0 {
            self.pop();
        }
    }

    /// Drops everything but the watchers. `floor` is the new floor.
    pub(super) fn clear(&mut self, floor: u64) -> Vec<Arc<Entry>> {
        self.floor = floor;
        self.keys = None;
        (self.bytes, self.payload_bytes) = (0, 0);
        std::mem::take(&mut self.entries).into_iter().map(|it| it.entry).collect()
    }

    fn trim(&mut self, now: Duration) {
        self.enforce();
        self.expire(now);
    }

    /// The bounds on messages and bytes, which an end is exempt from.
    fn enforce(&mut self) {
        let LogBounds { messages, bytes, .. } = self.bounds;
        while self.publications() > 0 && (self.publications() > messages || self.bytes > bytes) {
            self.pop();
        }
    }

    fn pop(&mut self) {
        if let Some(Stamped { entry, .. }) = self.entries.pop_front() {
            self.floor = entry.position.offset;
            self.bytes -= entry.weight();
            self.payload_bytes -= payload_len(&entry);
        }
    }

    pub(super) fn watch(&mut self, sink: SinkId) {
        let watchers = self.watchers.as_deref().unwrap_or_default();
        if !watchers.contains(&sink) {
            self.watchers = Some(watchers.iter().copied().chain([sink]).collect());
        }
    }

    pub(super) fn unwatch(&mut self, sink: SinkId) {
        let watchers = self.watchers.as_deref().unwrap_or_default();
        let rest: Arc<[_]> = watchers.iter().copied().filter(|it| *it != sink).collect();
        self.watchers = (!rest.is_empty()).then_some(rest);
    }

    pub(super) fn watchers(&self) -> Option<Arc<[SinkId]>> {
        self.watchers.clone()
    }

    pub(super) fn entries(&self) -> &VecDeque<Stamped> {
        &self.entries
    }

    pub(super) fn floor(&self) -> u64 {
        self.floor
    }

    /// Offset of the end, if there is one.
    pub(super) fn ended(&self) -> Option<u64> {
        self.entries.back().filter(|it| it.entry.is_end()).map(|it| it.entry.position.offset)
    }

    pub(super) fn publications(&self) -> usize {
        self.entries.len() - usize::from(self.ended().is_some())
    }

    pub(super) fn payload_bytes(&self) -> usize {
        self.payload_bytes
    }

    pub(super) fn usage(&self) -> Usage {
        Usage {
            bytes: if self.entries.is_empty() { 0 } else { self.bytes + LOG_OVERHEAD },
            keys: self.keys.as_ref().map_or(0, |it| it.len()),
        }
    }

    /// When the newest entry came, if there is a publication to trim.
    pub(super) fn idle_since(&self) -> Option<Duration> {
        self.entries.back().filter(|_| self.publications() > 0).map(|it| it.at)
    }

    pub(super) fn key_expires(&self) -> Option<Duration> {
        self.keys.as_ref().and_then(|it| it.next_expiry())
    }

    /// Whether a list of channels has it.
    pub(super) fn is_visible(&self) -> bool {
        !self.entries.is_empty() || self.watchers.is_some()
    }

    /// Whether nothing but the floor would be lost by forgetting it.
    pub(super) fn is_without_trace(&self) -> bool {
        self.entries.is_empty() && self.watchers.is_none() && self.keys.is_none()
    }
}

/// What the entries of one draft share.
struct At {
    channel: ChannelName,
    epoch: Epoch,
    time: Timestamp,
    now: Duration,
}

fn payload_len(entry: &Entry) -> usize {
    entry.publication().map_or(0, |it| it.payload.bytes.len())
}
