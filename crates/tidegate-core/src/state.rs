//! What a broker says of a channel, and the verdict on a position in it: good, or a gap (CONTRACT 4).
//!
//! A gap may be told needlessly, in doubt; it is never omitted.

use std::sync::Arc;

use crate::cursor::{Epoch, Position};

/// A channel as its broker sees it at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelState {
    /// The newest offset that was trimmed or dropped: a position below it has missed something.
    pub floor: u64,
    /// An offset that every entry so far is at or below. Where `now` is.
    pub head: u64,
    /// Offset of the end, if the channel has ended.
    pub ended: Option<u64>,
    /// The epochs in which positions may be good.
    pub lineage: Lineage,
}

impl ChannelState {
    /// Where `now` is.
    #[must_use]
    pub fn now(&self) -> Position {
        Position { epoch: self.lineage.current(), offset: self.head }
    }

    /// The oldest position from which nothing kept is missing.
    #[must_use]
    pub fn start(&self) -> Position {
        Position { epoch: self.lineage.current(), offset: self.floor }
    }

    /// Where to go on from `requested`, and the gap that is due if that is not where it asked to be.
    #[must_use]
    pub fn judge(&self, requested: Position) -> (Position, Option<Gap>) {
        let current = self.lineage.current();
        let at = |offset| Position { epoch: current, offset };
        let gap = |resumed, reason| (resumed, Some(Gap { requested, resumed, reason }));
        match self.lineage.fork(requested.epoch) {
            None => gap(self.start(), GapReason::Epoch),
            Some(fork) if requested.offset > fork => {
                gap(at(fork.max(self.floor)), GapReason::Epoch)
            }
            Some(_) if requested.offset > self.head => {
                gap(at(self.head.max(self.floor)), GapReason::Epoch)
            }
            Some(_) if requested.offset < self.floor => gap(self.start(), GapReason::Expired),
            Some(_) => (at(requested.offset), None),
        }
    }
}

/// The epochs of a log, oldest first, each with the offset up to which it is shared with the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lineage {
    current: Epoch,
    /// `(epoch, fork)`: positions of `epoch` at or below `fork` are still good.
    older: Option<Arc<[(Epoch, u64)]>>,
}

impl Lineage {
    /// A log that has had one life.
    #[must_use]
    pub fn new(current: Epoch) -> Self {
        Self { current, older: None }
    }

    /// A log whose earlier lives are known up to their forks.
    #[must_use]
    pub fn with_older(current: Epoch, older: Arc<[(Epoch, u64)]>) -> Self {
        Self { current, older: Some(older) }
    }

    /// The epoch that new entries get.
    #[must_use]
    pub fn current(&self) -> Epoch {
        self.current
    }

    /// Up to which offset positions of `epoch` are good; `None` where none is.
    fn fork(&self, epoch: Epoch) -> Option<u64> {
        if epoch == self.current {
            return Some(u64::MAX);
        }
        // A fork holds only while every later one lies above it.
        let older = self.older.as_deref()?;
        let at = older.iter().position(|(it, _)| *it == epoch)?;
        older.iter().skip(at).map(|(_, fork)| *fork).min()
    }
}

/// Publications after `requested` were or may have been missed; the stream goes on after `resumed`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Where the subscriber was.
    pub requested: Position,
    /// The earliest point from which nothing is missing.
    pub resumed: Position,
    /// Why.
    pub reason: GapReason,
}

impl Gap {
    /// This gap and one that follows it as one: gaps coalesce while they wait to be told.
    #[must_use]
    pub fn then(self, later: Self) -> Self {
        Self { requested: self.requested, ..later }
    }
}

/// Why publications were or may have been missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GapReason {
    /// The broker was away and can't tell.
    Broker,
    /// The log was dropped.
    Dropped,
    /// The log's continuity was lost.
    Epoch,
    /// The log was trimmed past the position.
    Expired,
    /// The subscriber's outbox overflowed.
    Slow,
}

impl GapReason {
    /// Every reason, for tables.
    pub const ALL: [Self; 5] =
        [Self::Broker, Self::Dropped, Self::Epoch, Self::Expired, Self::Slow];

    /// The contract's word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Broker => "broker",
            Self::Dropped => "dropped",
            Self::Epoch => "epoch",
            Self::Expired => "expired",
            Self::Slow => "slow",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(epoch: u64, offset: u64) -> Position {
        Position { epoch: Epoch::new(epoch), offset }
    }

    /// Epoch 1 forked at 100 into 2, which forked at 50 into 3 (a failover lost 50..100).
    fn state() -> ChannelState {
        let older = Arc::from([(Epoch::new(1), 100), (Epoch::new(2), 50)]);
        let lineage = Lineage::with_older(Epoch::new(3), older);
        ChannelState { floor: 20, head: 200, ended: None, lineage }
    }

    #[track_caller]
    fn check(requested: Position, resumed: u64, reason: Option<GapReason>) {
        let (position, gap) = state().judge(requested);
        assert_eq!(position, at(3, resumed));
        assert_eq!(gap, reason.map(|reason| Gap { requested, resumed: position, reason }));
    }

    #[test]
    fn a_position_between_floor_and_head_is_good() {
        check(at(3, 20), 20, None);
        check(at(3, 77), 77, None);
        check(at(3, 200), 200, None);
    }

    #[test]
    fn below_the_floor_something_expired() {
        check(at(3, 19), 20, Some(GapReason::Expired));
        check(at(1, 3), 20, Some(GapReason::Expired));
    }

    #[test]
    fn above_the_head_the_log_was_lost() {
        check(at(3, 201), 200, Some(GapReason::Epoch));
    }

    #[test]
    fn an_older_epoch_is_good_up_to_its_fork() {
        check(at(2, 50), 50, None);
        check(at(2, 51), 50, Some(GapReason::Epoch));
        check(at(1, 50), 50, None);
        check(at(1, 80), 50, Some(GapReason::Epoch));
    }

    #[test]
    fn an_unknown_epoch_starts_over() {
        check(at(9, 50), 20, Some(GapReason::Epoch));
    }
}
