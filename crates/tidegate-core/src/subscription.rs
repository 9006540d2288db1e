//! One subscription: where a subscriber is in a channel, and what waits for it (DESIGN 6, 9).
//!
//! ```text
//!             position                 tail                    the hub's last
//! log  ────────────┼──── outbox ────────┼── not yet read ────────────┼──►
//!        written ◄─┘                    └─► live: tail is at or past the hub's last
//! ```
//!
//! Order of calls: the driver offers live entries ([`Subscription::offer`], or
//! [`Subscription::advance`] where it wrote them at once), feeds pages while
//! [`Subscription::wants_page`], and takes [`Subscription::next`] whenever the socket has room.
//!
//! Nothing is skipped untold: an entry whose `prev` lies above the position is preceded by a gap,
//! whatever the reason that something is missing. A duplicate is never given: an entry at or below the tail
//! is not taken.

use crate::cursor::Position;
use crate::outbox::{Outbox, OutboxBounds, Pushed, Weight};
use crate::state::{Gap, GapReason};

/// What a subscription needs to know of an entry.
pub trait Item: Weight {
    /// Its place.
    fn position(&self) -> Position;
    /// See [`crate::Entry::prev`].
    fn prev(&self) -> u64;
    /// Whether it ends the channel.
    fn is_end(&self) -> bool;
}

/// One subscriber's place in one channel.
#[derive(Debug)]
pub struct Subscription<T> {
    /// Behind this, everything was given to the driver.
    position: Position,
    /// Behind this, everything was given or is in the outbox.
    tail: Position,
    mode: Mode,
    /// A page that is under way was asked for from elsewhere, and is not taken.
    is_overtaken: bool,
    /// To be told before anything else; `position` is its `resumed` already.
    gap: Option<Box<Gap>>,
    outbox: Outbox<T>,
}

/// How entries reach a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// From pages of the log.
    CatchUp,
    /// Its end was given; nothing comes any more.
    Ended,
    /// From the hub.
    Live,
}

/// What to write next.
#[derive(Debug, PartialEq)]
pub enum Step<T> {
    /// Something was or may have been missed.
    Gap(Gap),
    /// An entry: a publication, or the end.
    Item(T),
}

/// What became of an offered entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offered {
    /// The outbox was full and the policy is to disconnect.
    Disconnect,
    /// It was behind the tail or an end, or the subscription is not live.
    Ignored,
    /// The outbox was full, or another epoch began: it is empty now, and the log will be read.
    Spilled,
    /// It waits in the outbox; `dropped` says whether others had to go.
    Waits {
        /// Whether older ones had to go.
        dropped: bool,
    },
}

impl<T: Item> Subscription<T> {
    /// A subscriber at `position`, which a broker has judged; `gap` is what it said.
    #[must_use]
    pub fn new(position: Position, gap: Option<Gap>) -> Self {
        Self {
            position,
            tail: position,
            mode: Mode::CatchUp,
            is_overtaken: false,
            gap: gap.map(Box::new),
            outbox: Outbox::default(),
        }
    }

    /// How entries come now.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Where a client that is cut now has to resume so that nothing is missed and every gap is told.
    #[must_use]
    pub fn resume(&self) -> Position {
        self.gap.as_ref().map_or(self.position, |gap| gap.requested)
    }

    /// Behind this, everything was given or waits.
    #[must_use]
    pub fn tail(&self) -> Position {
        self.tail
    }

    /// Bytes that wait in the outbox.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.outbox.bytes()
    }

    /// Whether nothing waits: no gap, no entry.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.gap.is_none() && self.outbox.is_empty()
    }

    /// Whether a batch of live entries that begins with `first` can be written at once, past the
    /// outbox: nothing waits, and nothing lies between the tail and `first`.
    #[must_use]
    pub fn is_level(&self, first: &impl Item) -> bool {
        let to = first.position();
        self.mode == Mode::Live
            && self.tail.epoch == to.epoch
            && (first.prev()..to.offset).contains(&self.tail.offset)
            && self.is_idle()
    }

    /// The driver wrote everything through `to`, of a batch for which [`Self::is_level`] held.
    pub fn advance(&mut self, to: Position, ended: bool) {
        self.position = to;
        self.tail = to;
        if ended {
            self.mode = Mode::Ended;
        }
    }

    /// Takes a live entry into the outbox.
    pub fn offer(&mut self, item: T, bounds: &OutboxBounds) -> Offered {
        let to = item.position();
        if self.mode != Mode::Live || is_behind(to, self.tail) {
            return Offered::Ignored;
        }
        if self.outbox.newest().is_some_and(Item::is_end) {
            // Of the channel made anew: nothing of it follows an end, or displaces it.
            return Offered::Ignored;
        }
        if to.epoch != self.tail.epoch {
            // Whether our position is good there as well, the broker judges when it is read from.
            self.spill();
            return Offered::Spilled;
        }
        match self.outbox.push(item, bounds) {
            Pushed::Added => self.tail = to,
            Pushed::Dropped => {
                self.tail = to;
                return Offered::Waits { dropped: true };
            }
            Pushed::Refused => return Offered::Disconnect,
            Pushed::Spilled => {
                self.spill();
                return Offered::Spilled;
            }
        }
        Offered::Waits { dropped: false }
    }

    /// Forgets the outbox: what was in it is read from the log again.
    pub fn spill(&mut self) {
        self.outbox.clear();
        self.tail = self.position;
        if self.mode == Mode::Live {
            self.mode = Mode::CatchUp;
        }
    }

    /// Drops the oldest of what waits; it is told as a gap, which what follows it proves. Where
    /// nothing follows, and so it may be an end, it is read again instead.
    pub fn drop_oldest(&mut self) {
        if self.outbox.len() > 1 {
            self.outbox.pop();
        } else {
            self.spill();
        }
    }

    /// A gap for everyone on the channel, such as a dropped log: what waits is part of it. Where
    /// another epoch has begun, the log is read instead, for what that means depends on the position.
    pub fn handle_gap(&mut self, gap: Gap) {
        if self.mode == Mode::Ended {
            return;
        }
        if gap.resumed.epoch != self.tail.epoch {
            self.spill();
        } else if gap.reason != GapReason::Epoch && !is_behind(gap.resumed, self.tail) {
            // A hub that lags may tell what pages did before: what lies behind is not missing, and
            // who is in the epoch already was judged when it came there.
            self.is_overtaken = self.mode == Mode::CatchUp && self.outbox.is_empty();
            self.take_gap(gap);
        }
    }

    fn take_gap(&mut self, gap: Gap) {
        let gap = Gap { requested: self.resume(), ..gap };
        self.outbox.clear();
        self.gap = Some(Box::new(gap));
        self.position = gap.resumed;
        self.tail = gap.resumed;
    }

    /// Where a page is wanted from: in catch-up, once what waits was taken.
    #[must_use]
    pub fn wants_page(&self) -> Option<Position> {
        (self.mode == Mode::CatchUp && self.is_idle()).then_some(self.tail)
    }

    /// Takes a page that was read from [`Self::wants_page`], and is complete through `tail`; it is not
    /// taken, and wanted again, if a gap came since it was asked for. The
    /// subscription is live when that has reached `hub_last`, in the same turn in which the hub says
    /// so. A page's reader bounds it: pages are not cut here.
    pub fn handle_page(
        &mut self,
        gap: Option<Gap>,
        items: impl IntoIterator<Item = T>,
        tail: Position,
        hub_last: Position,
    ) {
        /// The page's reader was told the bounds.
        const UNBOUNDED: OutboxBounds = OutboxBounds {
            messages: usize::MAX,
            bytes: usize::MAX,
            policy: crate::outbox::Policy::Disconnect,
        };
        if std::mem::take(&mut self.is_overtaken) {
            return;
        }
        match gap {
            Some(gap) => self.take_gap(gap),
            // Where another epoch has begun, both have everything up to here.
            None => self.position.epoch = tail.epoch,
        }
        for item in items {
            self.outbox.push(item, &UNBOUNDED);
        }
        self.tail = tail;
        self.level_with(hub_last);
    }

    /// Becomes live where nothing lies between the tail and `hub_last`.
    pub fn level_with(&mut self, hub_last: Position) {
        let reached = self.tail.epoch == hub_last.epoch && self.tail.offset >= hub_last.offset;
        if self.mode == Mode::CatchUp && reached {
            self.mode = Mode::Live;
        }
    }

    /// What to write next, if anything waits.
    #[expect(clippy::should_implement_trait, reason = "not an iterator: it can go on after None")]
    pub fn next(&mut self) -> Option<Step<T>> {
        if let Some(gap) = self.gap.take() {
            return Some(Step::Gap(*gap));
        }
        let item = self.outbox.peek()?;
        let (to, prev) = (item.position(), item.prev());
        // The chain of `prev` proves what is missing, whoever dropped it.
        let before = Position { epoch: to.epoch, offset: prev };
        if to.epoch != self.position.epoch || prev > self.position.offset {
            let gap = Gap { requested: self.position, resumed: before, reason: GapReason::Slow };
            self.position = before;
            return Some(Step::Gap(gap));
        }
        let item = self.outbox.pop()?;
        self.position = to;
        if item.is_end() {
            self.mode = Mode::Ended;
            self.outbox.clear();
        }
        Some(Step::Item(item))
    }
}

/// Whether `at` is `of` or lies before it in the same log.
fn is_behind(at: Position, of: Position) -> bool {
    at.epoch == of.epoch && at.offset <= of.offset
}

impl Weight for std::sync::Arc<crate::Entry> {
    fn weight(&self) -> usize {
        crate::Entry::weight(self)
    }

    fn supersedes(&self, older: &Self) -> bool {
        supersedes(self, older)
    }
}

impl Item for std::sync::Arc<crate::Entry> {
    fn position(&self) -> Position {
        self.position
    }

    fn prev(&self) -> u64 {
        self.prev
    }

    fn is_end(&self) -> bool {
        crate::Entry::is_end(self)
    }
}

/// Whether `newer` conflates `older`: both are publications of one event name, or of none.
#[must_use]
pub fn supersedes(newer: &crate::Entry, older: &crate::Entry) -> bool {
    match (newer.publication(), older.publication()) {
        (Some(newer), Some(older)) => newer.event == older.event,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cursor::Epoch;
    use crate::outbox::Policy;

    /// An offset and its `prev`.
    #[derive(Clone, Copy, Debug, PartialEq)]
    struct Fake(u64, u64);

    impl Weight for Fake {
        fn weight(&self) -> usize {
            1
        }
        fn supersedes(&self, _: &Self) -> bool {
            true
        }
    }

    impl Item for Fake {
        fn position(&self) -> Position {
            at(self.0)
        }
        fn prev(&self) -> u64 {
            self.1
        }
        fn is_end(&self) -> bool {
            self.0 == 99
        }
    }

    fn at(offset: u64) -> Position {
        Position { epoch: Epoch::new(1), offset }
    }

    fn gap(requested: u64, resumed: u64, reason: GapReason) -> Step<Fake> {
        Step::Gap(Gap { requested: at(requested), resumed: at(resumed), reason })
    }

    fn live(offset: u64) -> Subscription<Fake> {
        let mut it = Subscription::new(at(offset), None);
        it.level_with(at(offset));
        assert_eq!(it.mode(), Mode::Live);
        it
    }

    fn bounds(messages: usize, policy: Policy) -> OutboxBounds {
        OutboxBounds { messages, bytes: usize::MAX, policy }
    }

    #[test]
    fn entries_at_or_behind_the_tail_are_not_taken() {
        let mut it = live(10);
        assert_eq!(it.offer(Fake(10, 9), &bounds(9, Policy::Spill)), Offered::Ignored);
        assert_eq!(
            it.offer(Fake(11, 10), &bounds(9, Policy::Spill)),
            Offered::Waits { dropped: false }
        );
        assert_eq!(it.offer(Fake(11, 10), &bounds(9, Policy::Spill)), Offered::Ignored);
        assert_eq!(it.next(), Some(Step::Item(Fake(11, 10))));
        assert_eq!(it.next(), None);
    }

    #[test]
    fn a_dropped_entry_is_told_where_it_is_missing() {
        let mut it = live(10);
        for n in 11..=14 {
            it.offer(Fake(n, n - 1), &bounds(2, Policy::DropOldest));
        }
        assert_eq!(it.resume(), at(10));
        assert_eq!(it.next(), Some(gap(10, 12, GapReason::Slow)));
        assert_eq!(it.resume(), at(12));
        assert_eq!(it.next(), Some(Step::Item(Fake(13, 12))));
        assert_eq!(it.next(), Some(Step::Item(Fake(14, 13))));
        assert_eq!(it.next(), None);
    }

    #[test]
    fn a_spilled_subscription_reads_from_where_it_is_and_becomes_live_again() {
        let mut it = live(10);
        let spill = bounds(1, Policy::Spill);
        it.offer(Fake(11, 10), &spill);
        assert_eq!(it.offer(Fake(12, 11), &spill), Offered::Spilled);
        assert_eq!(it.offer(Fake(13, 12), &spill), Offered::Ignored);
        assert_eq!(it.wants_page(), Some(at(10)));
        it.handle_page(None, [Fake(11, 10), Fake(12, 11)], at(12), at(13));
        assert_eq!((it.mode(), it.wants_page()), (Mode::CatchUp, None));
        assert_eq!(it.next(), Some(Step::Item(Fake(11, 10))));
        assert_eq!(it.next(), Some(Step::Item(Fake(12, 11))));
        assert_eq!(it.wants_page(), Some(at(12)));
        it.handle_page(None, [Fake(13, 12)], at(13), at(13));
        assert_eq!(it.mode(), Mode::Live);
        assert_eq!(it.next(), Some(Step::Item(Fake(13, 12))));
    }

    #[test]
    fn gaps_that_wait_become_one() {
        let first = Gap { requested: at(3), resumed: at(10), reason: GapReason::Expired };
        let mut it: Subscription<Fake> = Subscription::new(at(10), Some(first));
        assert_eq!(it.resume(), at(3));
        it.handle_gap(Gap { requested: at(0), resumed: at(20), reason: GapReason::Dropped });
        assert_eq!(it.next(), Some(gap(3, 20, GapReason::Dropped)));
        assert_eq!((it.next(), it.resume()), (None, at(20)));
    }

    #[test]
    fn a_gap_that_lies_behind_the_position_is_none() {
        let mut it = live(12);
        it.handle_gap(Gap { requested: at(5), resumed: at(10), reason: GapReason::Dropped });
        assert_eq!((it.next(), it.tail()), (None, at(12)));
        assert_eq!(it.offer(Fake(12, 11), &bounds(9, Policy::Spill)), Offered::Ignored);
    }

    #[test]
    fn what_waits_beyond_a_gap_of_a_hub_that_lags_is_kept() {
        let mut it = live(10);
        for n in 11..=13 {
            it.offer(Fake(n, n - 1), &bounds(9, Policy::Spill));
        }
        it.handle_gap(Gap { requested: at(5), resumed: at(12), reason: GapReason::Expired });
        assert_eq!(it.next(), Some(Step::Item(Fake(11, 10))));
        assert_eq!((it.tail(), it.resume()), (at(13), at(11)));
    }

    #[test]
    fn another_epoch_is_judged_by_the_broker() {
        let elsewhere = |offset| Position { epoch: Epoch::new(2), offset };
        let mut it = live(10);
        it.offer(Fake(11, 10), &bounds(9, Policy::Spill));
        it.handle_gap(Gap { requested: at(11), resumed: elsewhere(9), reason: GapReason::Epoch });
        assert_eq!((it.mode(), it.wants_page()), (Mode::CatchUp, Some(at(10))));
        it.handle_page(None, [], elsewhere(30), elsewhere(30));
        it.handle_gap(Gap { requested: at(40), resumed: elsewhere(40), reason: GapReason::Epoch });
        assert_eq!((it.next(), it.resume()), (None, elsewhere(10)), "good there: nothing is told");

        assert_eq!(it.mode(), Mode::Live);
        assert_eq!(it.offer(Fake(40, 11), &bounds(9, Policy::Spill)), Offered::Spilled);
        assert_eq!(it.wants_page(), Some(elsewhere(10)));
    }

    #[test]
    fn the_last_that_waits_is_read_again_when_it_has_to_go() {
        let mut it = live(10);
        it.offer(Fake(11, 10), &bounds(9, Policy::DropOldest));
        it.offer(Fake(12, 11), &bounds(9, Policy::DropOldest));
        it.drop_oldest();
        assert_eq!((it.mode(), it.bytes()), (Mode::Live, 1));
        it.drop_oldest();
        assert_eq!((it.bytes(), it.wants_page()), (0, Some(at(10))));
    }

    #[test]
    fn a_page_that_a_gap_overtook_brings_nothing_twice() {
        let mut it: Subscription<Fake> = Subscription::new(at(3), None);
        assert_eq!(it.wants_page(), Some(at(3)));
        it.handle_gap(Gap { requested: at(0), resumed: at(200), reason: GapReason::Dropped });
        // Its end is the dropped log's.
        it.handle_page(None, [Fake(4, 3), Fake(99, 4)], at(99), at(200));
        assert_eq!(it.next(), Some(gap(3, 200, GapReason::Dropped)));
        assert_eq!((it.next(), it.wants_page()), (None, Some(at(200))));
        it.handle_page(None, [Fake(201, 200)], at(201), at(200));
        assert_eq!((it.mode(), it.next()), (Mode::Live, Some(Step::Item(Fake(201, 200)))));
    }

    #[test]
    fn nothing_comes_after_the_end() {
        let mut it = live(98);
        it.offer(Fake(99, 98), &bounds(9, Policy::Spill));
        assert_eq!(it.next(), Some(Step::Item(Fake(99, 98))));
        assert_eq!(it.mode(), Mode::Ended);
        assert_eq!(it.offer(Fake(100, 99), &bounds(9, Policy::Spill)), Offered::Ignored);
        it.handle_gap(Gap { requested: at(0), resumed: at(200), reason: GapReason::Dropped });
        assert_eq!((it.next(), it.wants_page()), (None, None));
    }

    #[test]
    fn no_policy_drops_an_end_for_what_comes_after_it() {
        for policy in [Policy::Conflate, Policy::DropOldest] {
            let mut it = live(96);
            for n in [97, 98, 99] {
                it.offer(Fake(n, n - 1), &bounds(2, policy));
            }
            // The channel was made anew before a slow subscriber has its end.
            for n in 100..110 {
                assert_eq!(it.offer(Fake(n, n - 1), &bounds(2, policy)), Offered::Ignored);
            }
            let steps: Vec<_> = std::iter::from_fn(|| it.next()).collect();
            assert_eq!(steps.last(), Some(&Step::Item(Fake(99, 98))), "{policy:?}: {steps:?}");
            assert_eq!(it.mode(), Mode::Ended);
        }
    }

    #[test]
    fn no_policy_drops_a_gap_that_waits() {
        for policy in [Policy::Conflate, Policy::DropOldest] {
            let first = Gap { requested: at(3), resumed: at(10), reason: GapReason::Expired };
            let mut it: Subscription<Fake> = Subscription::new(at(10), Some(first));
            it.level_with(at(10));
            for n in 11..20 {
                it.offer(Fake(n, n - 1), &bounds(1, policy));
            }
            assert_eq!(it.next(), Some(gap(3, 10, GapReason::Expired)), "{policy:?}");
            assert_eq!(it.next(), Some(gap(10, 18, GapReason::Slow)), "{policy:?}");
            assert_eq!(it.next(), Some(Step::Item(Fake(19, 18))), "{policy:?}");
        }
    }

    #[test]
    fn a_quiet_channels_position_lies_between_entries() {
        let mut it = live(50);
        it.offer(Fake(60, 3), &bounds(9, Policy::Spill));
        assert_eq!(it.next(), Some(Step::Item(Fake(60, 3))), "3 is behind 50: nothing is missing");
    }
}
