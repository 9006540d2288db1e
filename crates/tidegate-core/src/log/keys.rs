//! The idempotency keys of one channel (CONTRACT 3). A key is never forgotten before its time; how
//! many there may be is the broker's to bound.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use crate::entry::{Key, Publication};
use crate::is_sparse;

/// Keys, what was published under each, and the order in which they expire.
#[derive(Debug, Default)]
pub(super) struct Keys {
    seen: HashMap<Arc<Key>, Seen>,
    /// Oldest first: all are held for the same time.
    expiry: VecDeque<(Duration, Arc<Key>)>,
}

#[derive(Debug)]
struct Seen {
    digest: u64,
    offset: u64,
}

/// What a key says of a draft.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The key is not held.
    New,
    /// The key came with another publication, event or end.
    Reused,
    /// The key came with this one, which is at that offset.
    Seen(u64),
}

impl Keys {
    pub(super) fn judge(&self, key: &Key, digest: u64) -> Verdict {
        match self.seen.get(key) {
            None => Verdict::New,
            Some(seen) if seen.digest == digest => Verdict::Seen(seen.offset),
            Some(_) => Verdict::Reused,
        }
    }

    pub(super) fn insert(&mut self, key: Key, digest: u64, offset: u64, expires: Duration) {
        let key = Arc::new(key);
        self.seen.insert(Arc::clone(&key), Seen { digest, offset });
        self.expiry.push_back((expires, key));
    }

    pub(super) fn expire(&mut self, now: Duration) {
        while let Some((_, key)) = self.expiry.pop_front_if(|(expires, _)| *expires <= now) {
            self.seen.remove(&key);
        }
        if is_sparse(self.seen.len(), self.seen.capacity()) {
            self.seen.shrink_to(2 * self.seen.len());
            self.expiry.shrink_to(2 * self.seen.len());
        }
    }

    pub(super) fn next_expiry(&self) -> Option<Duration> {
        self.expiry.front().map(|(expires, _)| *expires)
    }

    pub(super) fn len(&self) -> usize {
        self.seen.len()
    }
}

/// What a key stands for, in 64 bits: payload, kind, content type, event and end. A publisher who
/// makes two that collide fools only itself, for keys are the publisher's own.
pub(super) fn digest(publication: Option<&Publication>, ends: bool) -> u64 {
    let mut hasher = DefaultHasher::new();
    // A lone end ends whether or not the draft says so.
    (ends || publication.is_none()).hash(&mut hasher);
    if let Some(Publication { payload, event, user: _, origin: _ }) = publication {
        payload.kind.hash(&mut hasher);
        payload.bytes.hash(&mut hasher);
        payload.content_type.hash(&mut hasher);
        event.hash(&mut hasher);
    }
    hasher.finish()
}
