//! Reading a piece of a log: which entries, where to go on, and the gap that is due.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::ops::Range;
use std::sync::Arc;

use super::channel::Stamped;
use crate::channel::ChannelName;
use crate::cursor::{Cursor, Position};
use crate::entry::Entry;
use crate::state::{ChannelState, Gap};

/// One page, please.
#[derive(Clone, Debug)]
pub struct Read {
    /// Of this channel.
    pub channel: ChannelName,
    /// Which part of its log.
    pub from: From,
    /// The answer has seen everything up to this offset; 0 where nothing is known. With a position
    /// of another epoch than the log's it says nothing.
    pub at_least: u64,
    /// At most so many entries.
    pub entries_max: NonZeroU32,
    /// At most so many bytes by [`Entry::weight`], but always one entry.
    pub bytes_max: usize,
}

/// Where a page lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// After a position.
    After(Position),
    /// The newest entries before a position, in log order.
    Before(Position),
    /// The newest so many publications (and whatever follows them), in log order.
    Last(u32),
    /// The oldest kept.
    Start,
}

/// A piece of a log.
#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    /// Why this does not begin (with [`From::Before`]: end) where it was asked to.
    pub gap: Option<Gap>,
    /// In log order. An entry's `prev` may lie below the page's beginning.
    pub entries: Vec<Arc<Entry>>,
    /// Where to go on in the same direction: the last entry's position, with [`From::Before`] the
    /// first one's; without entries, where the page began.
    pub next: Position,
    /// Whether nothing is left in that direction: `next` had reached the log's head, or with
    /// [`From::Before`] the oldest entry kept.
    pub is_last: bool,
    /// The channel at that moment.
    pub state: ChannelState,
}

impl Page {
    /// The cursor of [`Page::next`].
    #[must_use]
    pub fn next_cursor(&self, channel: &ChannelName) -> Cursor {
        self.next.cursor(channel)
    }

    /// Behind this, the page is complete: nothing lies between its last entry and here.
    #[must_use]
    pub fn tail(&self) -> Position {
        if self.is_last { self.state.now() } else { self.next }
    }
}

/// The page of `entries` that `read` asks for; `state` is their channel's.
pub(super) fn of(entries: &VecDeque<Stamped>, read: &Read, state: ChannelState) -> Page {
    let len = entries.len();
    let after = |offset| entries.partition_point(|it| it.entry.position.offset <= offset);
    let (gap, began, from) = match read.from {
        From::Before(requested) => return before(entries, read, state, requested),
        From::After(requested) => {
            let (resumed, gap) = state.judge(requested);
            (gap, resumed, after(resumed.offset))
        }
        From::Start => (None, state.start(), 0),
        From::Last(publications) => {
            let kept = len - usize::from(state.ended.is_some());
            let from = kept.saturating_sub(usize::try_from(publications).unwrap_or(usize::MAX));
            (None, state.now(), from)
        }
    };
    let to = forwards(entries, from, read);
    let entries = collect(entries, from..to);
    let next = entries.last().map_or(began, |it| it.position);
    Page { gap, entries, next, is_last: to == len, state }
}

fn before(
    entries: &VecDeque<Stamped>,
    read: &Read,
    state: ChannelState,
    requested: Position,
) -> Page {
    let (resumed, gap) = state.judge(requested);
    // What has no place in this log any more lies behind the entry that it is resumed after.
    let below = if gap.is_some() { resumed.offset.saturating_add(1) } else { resumed.offset };
    let to = entries.partition_point(|it| it.entry.position.offset < below);
    let from = backwards(entries, to, read);
    let entries = collect(entries, from..to);
    let next = entries.first().map_or(resumed, |it| it.position);
    Page { gap, entries, next, is_last: from == 0, state }
}

/// The end of the longest page that begins at `from`.
fn forwards(entries: &VecDeque<Stamped>, from: usize, read: &Read) -> usize {
    from + fitting(entries.range(from..), read)
}

/// The beginning of the longest page that ends at `to`.
fn backwards(entries: &VecDeque<Stamped>, to: usize, read: &Read) -> usize {
    to - fitting(entries.range(..to).rev(), read)
}

/// How many of `entries` fit into the page: one at least.
fn fitting<'a>(entries: impl Iterator<Item = &'a Stamped>, read: &Read) -> usize {
    let entries_max = usize::try_from(read.entries_max.get()).unwrap_or(usize::MAX);
    let mut bytes = 0_usize;
    entries
        .take(entries_max)
        .enumerate()
        .take_while(|(nth, it)| {
            bytes = bytes.saturating_add(it.entry.weight());
            *nth == 0 || bytes <= read.bytes_max
        })
        .count()
}

fn collect(entries: &VecDeque<Stamped>, range: Range<usize>) -> Vec<Arc<Entry>> {
    entries.range(range).map(|it| Arc::clone(&it.entry)).collect()
}
