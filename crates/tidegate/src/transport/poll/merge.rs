//! Many channels' entries as one poll's answer: pure, and the same for logs and live entries.
//!
//! Oldest first, by time and then by the channels' order, each channel's own order kept. What the
//! limits cut off stays for the next poll: a channel's cursor is that of its last entry included.

use std::iter::Peekable;
use std::sync::Arc;
use std::vec::IntoIter;

use tidegate_broker::Page;
use tidegate_core::{ChannelName, Entry, Gap, Position};

/// What one channel has for a poll.
#[derive(Debug)]
pub(super) struct Slice {
    /// What the poll missed, before `began`.
    pub(super) gap: Option<Gap>,
    /// In log order; `began` lies before all of them.
    pub(super) entries: Vec<Arc<Entry>>,
    /// Where the channel's cursor is while no entry is taken.
    pub(super) began: Position,
    /// The channel has nothing but `entries` between `began` and this.
    pub(super) tail: Position,
    /// Whether nothing lay beyond `entries`.
    pub(super) is_last: bool,
    /// Offset of the end, if the channel has ended.
    pub(super) ended: Option<u64>,
}

impl Slice {
    /// A page that was read forwards from `asked`; without one, from where the page began.
    pub(super) fn of(page: Page, asked: Option<Position>) -> Self {
        let Page { gap, entries, next, is_last, state } = page;
        let began = match (&gap, asked, entries.first()) {
            (Some(gap), ..) => gap.resumed,
            // Judged as good, so it is the same place in the log's life of today.
            (None, Some(asked), _) => Position { offset: asked.offset, ..state.now() },
            // Behind `prev` there is nothing up to the entry, and at the floor nothing is missing.
            (None, None, Some(first)) => {
                Position { offset: first.prev.max(state.floor), ..first.position }
            }
            (None, None, None) => next,
        };
        let tail = if is_last { state.now() } else { next };
        Self { gap, entries, began, tail, is_last, ended: state.ended }
    }

    /// A page of which only the moment counts at which it was read.
    pub(super) fn now(page: &Page) -> Self {
        let (began, ended) = (page.state.now(), page.state.ended);
        Self { gap: None, entries: Vec::new(), began, tail: began, is_last: true, ended }
    }
}

/// Whether a long-poll has its answer: messages, a gap, an end after its position, or nothing that
/// could ever come.
pub(super) fn is_due(slices: &[Slice]) -> bool {
    slices.iter().any(|it| it.gap.is_some() || !it.entries.is_empty())
        || slices.iter().all(|it| it.ended.is_some_and(|end| end <= it.began.offset))
}

/// What a poll is answered.
#[derive(Debug)]
pub(super) struct Answer {
    /// Publications, oldest first.
    pub(super) messages: Vec<Arc<Entry>>,
    /// Where to go on in each channel.
    pub(super) positions: Vec<Position>,
    /// What was missed.
    pub(super) gaps: Vec<(ChannelName, Gap)>,
    /// Channels whose end lies behind their position.
    pub(super) ended: Vec<ChannelName>,
}

/// How much an answer holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Publications.
    pub(super) messages: usize,
    /// Bytes by [`Entry::weight`], but always one publication.
    pub(super) bytes: usize,
}

/// A channel while it is merged.
struct Source {
    entries: Peekable<IntoIter<Arc<Entry>>>,
    position: Position,
    is_last: bool,
    ended: Option<u64>,
}

/// Merges `slices`, each of the channel at its place in `channels`.
pub(super) fn merge(channels: &[ChannelName], slices: Vec<Slice>, bounds: Bounds) -> Answer {
    let mut gaps = Vec::new();
    let mut sources: Vec<Source> = Vec::with_capacity(slices.len());
    for (channel, slice) in channels.iter().zip(slices) {
        gaps.extend(slice.gap.map(|gap| (channel.clone(), gap)));
        let Slice { entries, began: position, is_last, ended, .. } = slice;
        let entries = entries.into_iter().peekable();
        sources.push(Source { entries, position, is_last, ended });
    }
    let messages = take(&mut sources, bounds);
    let has_ended = |it: &Source| it.ended.is_some_and(|end| end <= it.position.offset);
    let ended = channels.iter().zip(&sources).filter(|(_, it)| has_ended(it));
    Answer {
        messages,
        ended: ended.map(|(channel, _)| channel.clone()).collect(),
        positions: sources.iter().map(|it| it.position).collect(),
        gaps,
    }
}

fn take(sources: &mut [Source], bounds: Bounds) -> Vec<Arc<Entry>> {
    let mut messages = Vec::new();
    let mut bytes = 0_usize;
    loop {
        for source in &mut *sources {
            // An end is no message, and takes no room.
            if let Some(end) = source.entries.next_if(|it| it.is_end()) {
                source.position = end.position;
            }
        }
        // Of a page that was cut the next entry is not known, and may be the oldest of all.
        let is_cut = sources.iter_mut().any(|it| !it.is_last && it.entries.peek().is_none());
        if is_cut || messages.len() == bounds.messages {
            return messages;
        }
        let fronts = sources.iter_mut().enumerate();
        let fronts = fronts.filter_map(|(at, it)| Some((it.entries.peek()?.time, at, it)));
        let Some((_, _, source)) = fronts.min_by_key(|(time, at, _)| (*time, *at)) else {
            return messages;
        };
        let fits = |it: &Arc<Entry>| {
            bytes = bytes.saturating_add(it.weight());
            messages.is_empty() || bytes <= bounds.bytes
        };
        let Some(entry) = source.entries.next_if(fits) else { return messages };
        source.position = entry.position;
        messages.push(entry);
    }
}

/// The answer to a poll backwards from `requested`: the newest messages of a page that fit.
pub(super) fn backwards(
    channel: &ChannelName,
    page: Page,
    requested: Position,
    messages_max: usize,
) -> Answer {
    let Page { gap, mut entries, state, next, .. } = page;
    entries.retain(|it| !it.is_end());
    let surplus = entries.len().saturating_sub(messages_max);
    entries.drain(..surplus);
    // At the oldest there is nowhere to go on to.
    let rest = if gap.is_some() { next } else { requested };
    let position = entries.first().map_or(rest, |it| it.position);
    let has_ended = state.ended.is_some_and(|end| end <= position.offset);
    Answer {
        messages: entries,
        positions: vec![position],
        gaps: gap.map(|gap| (channel.clone(), gap)).into_iter().collect(),
        ended: has_ended.then(|| channel.clone()).into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_core::{
        Body, ChannelState, Epoch, GapReason, Lineage, Payload, PayloadKind, Publication, Timestamp,
    };

    fn names(names: &str) -> Vec<ChannelName> {
        names.split(',').map(|it| ChannelName::parse(it).unwrap()).collect()
    }

    fn at(offset: u64) -> Position {
        Position { epoch: Epoch::new(1), offset }
    }

    /// An entry of an offset and a time; `None` is the end.
    fn entry(offset: u64, time: Option<u64>) -> Arc<Entry> {
        let payload = Payload { kind: PayloadKind::Text, bytes: "x".into(), content_type: None };
        let publication = Publication { payload, event: None, user: None, origin: None };
        Arc::new(Entry {
            channel: ChannelName::parse("a").unwrap(),
            position: at(offset),
            prev: offset - 1,
            time: Timestamp(time.unwrap_or(0)),
            body: time.map_or(Body::End, |_| Body::Publication(publication)),
        })
    }

    /// A slice after offset 10 of entries at 11, 12, … of these times; 0 is an end.
    fn slice(times: &[u64], is_last: bool) -> Slice {
        let entries: Vec<_> = (11..)
            .zip(times)
            .map(|(offset, time)| entry(offset, (*time > 0).then_some(*time)))
            .collect();
        let ended = entries.last().filter(|it| it.is_end()).map(|it| it.position.offset);
        Slice { gap: None, entries, began: at(10), tail: at(99), is_last, ended }
    }

    /// Checks the times of the messages, and the offsets gone on from.
    #[track_caller]
    fn check(slices: Vec<Slice>, messages: usize, times: &[u64], offsets: &[u64]) -> Answer {
        let channels = names(["a", "a,b", "a,b,c"][slices.len() - 1]);
        let answer = merge(&channels, slices, Bounds { messages, bytes: usize::MAX });
        assert_eq!(answer.messages.iter().map(|it| it.time.0).collect::<Vec<_>>(), times);
        assert_eq!(answer.positions.iter().map(|it| it.offset).collect::<Vec<_>>(), offsets);
        answer
    }

    #[test]
    fn the_oldest_of_all_channels_come_first() {
        let slices = vec![slice(&[1, 5, 6], true), slice(&[2, 3, 7], true)];
        check(slices, 9, &[1, 2, 3, 5, 6, 7], &[13, 13]);
    }

    #[test]
    fn what_a_limit_cuts_off_lies_behind_its_channels_cursor() {
        let slices = vec![slice(&[1, 5, 6], true), slice(&[2, 3, 7], true), slice(&[9], true)];
        check(slices, 4, &[1, 2, 3, 5], &[12, 12, 10]);
    }

    #[test]
    fn equal_times_come_in_the_channels_order_and_a_channel_in_its_own() {
        // Clocks of nodes differ: 9 is older than 1 in its channel.
        let slices = vec![slice(&[9, 1], true), slice(&[9, 9], true)];
        let answer = check(slices, 3, &[9, 1, 9], &[12, 11]);
        assert!(answer.ended.is_empty());
    }

    #[test]
    fn nothing_younger_comes_before_what_a_cut_page_may_hide() {
        let slices = vec![slice(&[1], false), slice(&[2, 3], true)];
        check(slices, 9, &[1], &[11, 10]);
    }

    #[test]
    fn an_end_takes_no_room_and_is_told_once_its_messages_are() {
        let answer = check(vec![slice(&[1, 2, 0], true)], 2, &[1, 2], &[13]);
        assert_eq!(answer.ended, names("a"));
        let answer = check(vec![slice(&[1, 2, 0], true)], 1, &[1], &[11]);
        assert!(answer.ended.is_empty());
        let answer = check(vec![slice(&[1], true), slice(&[0], true)], 1, &[1], &[11, 11]);
        assert_eq!(answer.ended, names("b"));
    }

    #[test]
    fn bytes_are_bounded_but_one_message_always_fits() {
        let all = || vec![slice(&[1, 2, 3], true)];
        let taken = |bytes| merge(&names("a"), all(), Bounds { messages: 9, bytes }).messages.len();
        let weight = entry(1, Some(1)).weight();
        assert_eq!([0, weight, 2 * weight, 3 * weight - 1, 3 * weight].map(taken), [1, 1, 2, 2, 3]);
    }

    #[test]
    fn a_long_poll_is_due_for_messages_gaps_ends_and_when_nothing_can_come() {
        let gap = Gap { requested: at(3), resumed: at(10), reason: GapReason::Expired };
        assert!(is_due(&[slice(&[], true), slice(&[1], true)]));
        assert!(is_due(&[slice(&[], true), slice(&[0], true)]));
        assert!(is_due(&[slice(&[], true), Slice { gap: Some(gap), ..slice(&[], true) }]));
        assert!(!is_due(&[slice(&[], true)]));
        let over = || Slice { ended: Some(10), ..slice(&[], true) };
        assert!(is_due(&[over(), over()]));
        assert!(!is_due(&[over(), slice(&[], true)]));
        assert!(!is_due(&[over(), Slice { ended: Some(11), ..slice(&[], true) }]));
    }

    /// A page of entries at these offsets.
    fn page(offsets: &[u64], gap: Option<Gap>) -> Page {
        let entries: Vec<_> = offsets.iter().map(|it| entry(*it, Some(*it))).collect();
        let lineage = Lineage::new(Epoch::new(1));
        let state = ChannelState { floor: 5, head: 30, ended: None, lineage };
        let next = entries.last().map_or(at(20), |it| it.position);
        Page { gap, entries, next, is_last: true, state }
    }

    #[test]
    fn a_channel_of_which_nothing_is_taken_goes_on_where_it_was_asked() {
        let gap = Gap { requested: at(3), resumed: at(5), reason: GapReason::Expired };
        for (page, asked, began) in [
            (page(&[], None), Some(at(20)), 20),
            (page(&[25], None), Some(at(20)), 20),
            (page(&[25], Some(gap)), Some(at(3)), 5),
            // The newest few: before the first of them, at the floor at least.
            (page(&[25], None), None, 24),
            (page(&[5], None), None, 5),
            (page(&[], None), None, 20),
        ] {
            let slice = Slice::of(page, asked);
            assert_eq!((slice.began, slice.tail), (at(began), at(30)));
        }
    }

    #[test]
    fn backwards_the_newest_messages_are_kept_and_the_cursor_is_the_oldests() {
        let channel = &names("a")[0];
        let answer = backwards(channel, page(&[21, 22, 23], None), at(24), 2);
        assert_eq!(answer.messages.iter().map(|it| it.time.0).collect::<Vec<_>>(), [22, 23]);
        assert_eq!(answer.positions, [at(22)]);
        let oldest = backwards(channel, page(&[], None), at(6), 2);
        assert_eq!((oldest.positions, oldest.messages.len()), (vec![at(6)], 0));
    }
}
