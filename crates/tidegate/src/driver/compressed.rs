//! Compressed forms of entries, made once per process (DESIGN 3).
//!
//! Compressing a message costs as much as sending it to several subscribers, so what one worker has
//! compressed the others copy. Nothing here is needed for the forms to be right: of what was
//! replaced before every worker came for it, somebody makes a second one.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use bytes::Bytes;
use tidegate_core::Entry;

use super::forms::Format;

/// Places for small entries, of which a worker may be a full inbox behind, and for large ones. They
/// bound what is held: 16 MiB each.
const SMALL: (usize, usize) = (1024, 16 << 10);
const LARGE: (usize, usize) = (16, 1 << 20);

/// What the workers of a process have compressed lately.
#[derive(Debug)]
pub struct Compressed {
    small: Box<[Place]>,
    large: Box<[Place]>,
    made: AtomicU64,
}

/// Guards the newest form of those that belong here. A lock, as workers look into it within their
/// turn; held for a comparison, never while something is compressed.
type Place = Mutex<Option<Made>>;

#[derive(Clone, Debug)]
struct Made {
    /// Of which entry; its memory's address is taken for as long as this is here.
    entry: Weak<Entry>,
    format: Format,
    /// `None` inside: it would not be smaller.
    bytes: Arc<OnceLock<Option<Bytes>>>,
}

impl Default for Compressed {
    fn default() -> Self {
        let places = |(count, _)| (0..count).map(|_| Place::default()).collect();
        Self { small: places(SMALL), large: places(LARGE), made: AtomicU64::new(0) }
    }
}

impl Compressed {
    /// The compressed message of `entry` in `format`, if that is smaller: `make`'s answer, or what it
    /// was when another worker asked. Waits while another one is at it.
    pub fn get_or_make(
        &self,
        entry: &Arc<Entry>,
        format: Format,
        make: impl FnOnce() -> Option<Bytes>,
    ) -> Option<Bytes> {
        let make = || {
            self.made.fetch_add(1, Ordering::Relaxed);
            make()
        };
        match self.place(entry) {
            Some(place) => find(place, entry, format).get_or_init(make).clone(),
            None => make(),
        }
    }

    /// How many were made so far.
    #[must_use]
    pub fn made(&self) -> u64 {
        self.made.load(Ordering::Relaxed)
    }

    /// Where a form of `entry` belongs; `None` if it is too large to be kept.
    fn place(&self, entry: &Entry) -> Option<&Place> {
        let places = match entry.weight() {
            weight if weight <= SMALL.1 => &self.small,
            weight if weight <= LARGE.1 => &self.large,
            _ => return None,
        };
        places.get(entry.slot(places.len()))
    }
}

fn find(place: &Place, entry: &Arc<Entry>, format: Format) -> Arc<OnceLock<Option<Bytes>>> {
    // A form is put in whole, so a poisoned place is as good as any.
    let mut place = place.lock().unwrap_or_else(PoisonError::into_inner);
    let is_it =
        |it: &&mut Made| it.format == format && std::ptr::eq(it.entry.as_ptr(), &raw const **entry);
    if let Some(it) = place.as_mut().filter(is_it) {
        return Arc::clone(&it.bytes);
    }
    let bytes = Arc::default();
    *place = Some(Made { entry: Arc::downgrade(entry), format, bytes: Arc::clone(&bytes) });
    bytes
}
