//! A long-poll while it waits: a subscription per channel, fed by the hub (CONTRACT 4, DESIGN 9).
//!
//! As with streams there is no gate: it is registered in the hub first, and then a page of the log is
//! read; a subscription is live once that page has reached the hub's last. What is live is taken
//! without the log, so channels that keep nothing can be waited for. Dropping a [`Registered`] takes
//! it out of the hub, also when the client has gone and hyper drops the answer's future.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};

use tidegate_core::hub::HubChannel;
use tidegate_core::presence::Parting;
use tidegate_core::subscription::{Mode, Offered, Step};
use tidegate_core::{
    Begin, ChannelName, Gap, OutboxBounds, Policy, Position, SessionId, Subscription,
};
use tokio::time::Sleep;

use super::merge::{Bounds, Slice};
use crate::driver::forms::Shared;
use crate::driver::hub::Subscriber;
use crate::transport::Wire;
use crate::worker::Worker;

/// What the hub knows of a long-poll.
#[derive(Debug)]
pub struct Waiter {
    channels: RefCell<Vec<Channel>>,
    /// Something has come since the poll's task looked last.
    is_woken: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// One of a long-poll's channels.
#[derive(Debug)]
struct Channel {
    /// `None` until the log was read.
    subscription: Option<Subscription<Shared>>,
    bounds: OutboxBounds,
}

impl Waiter {
    /// A waiter for a channel per item of `bounds`.
    fn new(bounds: impl Iterator<Item = OutboxBounds>) -> Self {
        Self {
            channels: RefCell::new(
                bounds.map(|bounds| Channel { subscription: None, bounds }).collect(),
            ),
            is_woken: Cell::new(false),
            waker: RefCell::new(None),
        }
    }

    /// Takes live entries from the hub.
    pub fn deliver(&self, index: u32, items: &[Shared]) {
        let mut channels = self.channels.borrow_mut();
        let Some(channel) = channels.get_mut(index as usize) else { return };
        let has_come = match &mut channel.subscription {
            Some(it) if it.mode() == Mode::Live => {
                for item in items {
                    // The rest is read from the log with what was spilled.
                    if it.offer(item.clone(), &channel.bounds) == Offered::Spilled {
                        break;
                    }
                }
                it.mode() != Mode::Live || !it.is_idle()
            }
            // The log has it.
            _ => true,
        };
        drop(channels);
        if has_come {
            self.wake();
        }
    }

    /// Takes a gap from the hub.
    pub fn gap(&self, index: u32, gap: Gap) {
        if let Some(channel) = self.channels.borrow_mut().get_mut(index as usize)
            && let Some(it) = &mut channel.subscription
            && !is_behind(gap.resumed, it.resume())
        {
            it.handle_gap(gap);
        }
        self.wake();
    }

    /// Tells it to look again, such as when a channel was opened.
    pub fn wake(&self) {
        self.is_woken.set(true);
        let waker = self.waker.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Adds what has come to `slices`, which have no entries yet.
    pub(super) fn collect(&self, slices: &mut [Slice]) {
        for (channel, slice) in self.channels.borrow_mut().iter_mut().zip(slices) {
            let Some(it) = &mut channel.subscription else { continue };
            while let Some(step) = it.next() {
                match step {
                    Step::Item(item) => {
                        let entry = &item.0.entry;
                        slice.ended = entry.is_end().then_some(entry.position.offset);
                        slice.entries.push(Arc::clone(entry));
                    }
                    // What lies behind it is for the next poll, whose cursor lies before it.
                    Step::Gap(_) if !slice.entries.is_empty() => break,
                    Step::Gap(gap) => {
                        slice.gap = Some(slice.gap.map_or(gap, |earlier| earlier.then(gap)));
                        slice.began = gap.resumed;
                        slice.ended = None;
                    }
                }
            }
        }
    }

    /// Whether all that is published from here on comes from the hub.
    pub(super) fn is_live(&self) -> bool {
        let is_live = |it: &Subscription<Shared>| it.mode() != Mode::CatchUp;
        self.channels.borrow().iter().all(|it| it.subscription.as_ref().is_some_and(is_live))
    }
}

/// A gap that ends here is none for who is at `position`: such as a drop that the hub tells of
/// after the log was read.
fn is_behind(resumed: Position, position: Position) -> bool {
    resumed.epoch == position.epoch && resumed.offset <= position.offset
}

/// A waiter in the hub, until it is dropped.
pub(super) struct Registered<'a> {
    pub(super) waiter: Rc<Waiter>,
    worker: &'a Rc<Worker>,
    channels: &'a [ChannelName],
    keys: Vec<usize>,
    /// Who waits.
    session: SessionId,
    /// Whether it was counted: it is once the log had nothing for it.
    is_waiting: Cell<bool>,
}

impl<'a> Registered<'a> {
    /// Registers a waiter for `channels`, which holds at most `bounds` for each.
    pub(super) fn new(
        worker: &'a Rc<Worker>,
        channels: &'a [ChannelName],
        bounds: Bounds,
        session: SessionId,
    ) -> Self {
        let Bounds { messages, bytes } = bounds;
        let bounds = |name: &ChannelName| {
            let keeps_none = worker.config.channel(name.as_str()).keeps_none();
            let policy = if keeps_none { Policy::DropOldest } else { Policy::Spill };
            OutboxBounds { messages, bytes, policy }
        };
        let waiter = Rc::new(Waiter::new(channels.iter().map(bounds)));
        let subscriber = |index| Subscriber::Waiter(Rc::clone(&waiter), index);
        let keys = (0..)
            .zip(channels)
            .map(|(index, channel)| worker.subscribe(channel, subscriber(index)))
            .collect();
        Self { waiter, worker, channels, keys, session, is_waiting: Cell::new(false) }
    }

    /// Whether the hub has all the channels open.
    pub(super) fn is_open(&self) -> bool {
        let hub = self.worker.hub.borrow();
        self.channels.iter().all(|it| hub.last(it).is_some())
    }

    /// Takes over where the log was read to, in the turn in which it was; `false` if the hub has
    /// delivered more in the meantime, and the log has to be read again. Who begins now begins
    /// behind that instead.
    pub(super) fn level(&self, slices: &mut [Slice], begins: &[Begin]) -> bool {
        let hub = self.worker.hub.borrow();
        let mut is_level = true;
        let mut channels = self.waiter.channels.borrow_mut();
        let asked = self.channels.iter().zip(begins);
        for ((channel, slice), (name, begin)) in channels.iter_mut().zip(slices).zip(asked) {
            if channel.subscription.as_ref().is_some_and(|it| it.mode() == Mode::Live) {
                continue;
            }
            let last = hub.last(name);
            if let Some(last) = last.filter(|it| is_behind(slice.tail, *it))
                && *begin == Begin::Now
                && !hub.channel(name).is_some_and(HubChannel::has_ended)
            {
                (slice.began, slice.tail) = (last, last);
            }
            let mut it = Subscription::new(slice.began, None);
            // Not opened yet: whoever opens it wakes us.
            if let Some(last) = last {
                it.handle_page(None, [], slice.tail, last);
                // Of another epoch the hub does not know yet; it tells us then.
                is_level &= it.mode() == Mode::Live || last.epoch != slice.tail.epoch;
            }
            channel.subscription = Some(it);
        }
        is_level
    }

    /// Waits until something has come, until `deadline`, or until the gateway drains; whether the
    /// waiting is over. Cancel safe: what has come stays with the waiter.
    pub(super) async fn wait(&self, mut deadline: Pin<&mut Sleep>) -> bool {
        if !self.is_waiting.replace(true) {
            self.worker.metrics.connected(Wire::LongPoll);
            for channel in self.channels {
                // It is present while it waits; it is told of nobody.
                let _ = self.worker.enter(channel, self.session);
            }
        }
        poll_fn(|cx| {
            self.waiter.waker.replace(Some(cx.waker().clone()));
            // Whoever drains polls the connection, and that polls us.
            if deadline.as_mut().poll(cx).is_ready() || self.worker.is_draining() {
                return Poll::Ready(true);
            }
            if self.waiter.is_woken.take() { Poll::Ready(false) } else { Poll::Pending }
        })
        .await
    }
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        for (channel, key) in self.channels.iter().zip(&self.keys) {
            self.worker.unsubscribe(channel, *key);
        }
        if self.is_waiting.get() {
            self.worker.metrics.disconnected(Wire::LongPoll, None);
            for channel in self.channels {
                // Who asks again at once has not been away.
                self.worker.exit(channel, self.session, Parting::Cut);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_core::{Body, Entry, Epoch, GapReason, Timestamp};
    use tidegate_core::{Payload, PayloadKind, Publication};

    fn at(offset: u64) -> Position {
        Position { epoch: Epoch::new(1), offset }
    }

    /// Consecutive publications.
    fn items(offsets: std::ops::RangeInclusive<u64>) -> Vec<Shared> {
        let entry = |offset| {
            let payload =
                Payload { kind: PayloadKind::Text, bytes: "x".into(), content_type: None };
            let publication = Publication { payload, event: None, user: None, origin: None };
            Shared::new(Arc::new(Entry {
                channel: ChannelName::parse("a").unwrap(),
                position: at(offset),
                prev: offset - 1,
                time: Timestamp(offset),
                body: Body::Publication(publication),
            }))
        };
        offsets.map(entry).collect()
    }

    /// A waiter for two messages after offset 10, to which the hub has come too.
    fn waiter(policy: Policy) -> Waiter {
        let it = Waiter::new([OutboxBounds { messages: 2, bytes: usize::MAX, policy }].into_iter());
        let mut subscription = Subscription::new(at(10), None);
        subscription.level_with(at(10));
        it.channels.borrow_mut()[0].subscription = Some(subscription);
        it
    }

    /// Checks whether it is woken and live, and what there is: the gap's end, and offsets.
    #[track_caller]
    fn check(it: &Waiter, is_woken: bool, is_live: bool, gap: Option<u64>, offsets: &[u64]) {
        let mut slices = [Slice {
            gap: None,
            entries: Vec::new(),
            began: at(10),
            tail: at(10),
            is_last: true,
            ended: None,
        }];
        assert_eq!((it.is_woken.take(), it.is_live()), (is_woken, is_live));
        it.collect(&mut slices);
        let [slice] = slices;
        assert_eq!(slice.gap.map(|it| it.resumed), gap.map(at));
        assert_eq!(slice.began, at(gap.unwrap_or(10)));
        let found: Vec<_> = slice.entries.iter().map(|it| it.position.offset).collect();
        assert_eq!(found, offsets);
    }

    #[test]
    fn what_is_delivered_is_taken_without_the_log() {
        let it = waiter(Policy::Spill);
        it.deliver(0, &items(11..=12));
        check(&it, true, true, None, &[11, 12]);
    }

    #[test]
    fn what_the_log_was_read_for_does_not_wake_it() {
        let it = waiter(Policy::Spill);
        it.deliver(0, &items(9..=10));
        check(&it, false, true, None, &[]);
    }

    #[test]
    fn more_than_it_may_hold_is_read_from_the_log() {
        let it = waiter(Policy::Spill);
        it.deliver(0, &items(11..=14));
        check(&it, true, false, None, &[]);
        assert_eq!(
            it.channels.borrow()[0].subscription.as_ref().unwrap().wants_page(),
            Some(at(10))
        );
    }

    #[test]
    fn without_a_log_the_oldest_are_dropped_and_told() {
        let it = waiter(Policy::DropOldest);
        it.deliver(0, &items(11..=14));
        check(&it, true, true, Some(12), &[13, 14]);
    }

    #[test]
    fn before_the_log_was_read_it_is_only_woken() {
        let it = waiter(Policy::Spill);
        it.channels.borrow_mut()[0].subscription = None;
        it.deliver(0, &items(11..=11));
        it.gap(0, Gap { requested: at(3), resumed: at(20), reason: GapReason::Dropped });
        check(&it, true, false, None, &[]);
    }

    #[test]
    fn a_drop_that_lies_behind_the_position_is_no_gap() {
        let gap = |resumed| Gap { requested: at(3), resumed, reason: GapReason::Dropped };
        let it = waiter(Policy::Spill);
        it.gap(0, gap(at(9)));
        it.gap(0, gap(at(10)));
        it.deliver(0, &items(10..=11));
        check(&it, true, true, None, &[11]);
        it.gap(0, gap(at(20)));
        check(&it, true, true, Some(20), &[]);
    }

    #[test]
    fn what_lies_behind_a_hole_is_left_to_the_next_poll() {
        let it = waiter(Policy::Spill);
        it.deliver(0, &items(11..=11));
        it.deliver(0, &items(14..=14));
        check(&it, true, true, None, &[11]);
    }
}
