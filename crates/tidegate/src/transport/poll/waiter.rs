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

use tidegate_core::subscription::{Mode, Offered, Step};
use tidegate_core::{ChannelName, Gap, OutboxBounds, Policy, Position, Subscription};
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
}

impl<'a> Registered<'a> {
    /// Registers a waiter for `channels`, which holds at most `bounds` for each.
    pub(super) fn new(worker: &'a Rc<Worker>, channels: &'a [ChannelName], bounds: Bounds) -> Self {
        let channel = |name: &ChannelName| {
            let keeps_none = worker.config.channel(name.as_str()).log.messages == 0;
            let policy = if keeps_none { Policy::DropOldest } else { Policy::Spill };
            let Bounds { messages, bytes } = bounds;
            Channel { subscription: None, bounds: OutboxBounds { messages, bytes, policy } }
        };
        let waiter = Rc::new(Waiter {
            channels: RefCell::new(channels.iter().map(channel).collect()),
            is_woken: Cell::new(false),
            waker: RefCell::new(None),
        });
        let subscriber = |index| Subscriber::Waiter(Rc::clone(&waiter), index);
        let keys = (0..)
            .zip(channels)
            .map(|(index, channel)| worker.subscribe(channel, subscriber(index)))
            .collect();
        worker.metrics.connected(Wire::LongPoll);
        Self { waiter, worker, channels, keys }
    }

    /// Takes over where the log was read to, in the turn in which it was; `false` if the hub has
    /// delivered more in the meantime, and the log has to be read again.
    pub(super) fn level(&self, slices: &[Slice]) -> bool {
        let hub = self.worker.hub.borrow();
        let mut is_level = true;
        let mut channels = self.waiter.channels.borrow_mut();
        for ((channel, slice), name) in channels.iter_mut().zip(slices).zip(self.channels) {
            if channel.subscription.as_ref().is_some_and(|it| it.mode() == Mode::Live) {
                continue;
            }
            let mut it = Subscription::new(slice.began, None);
            // Not opened yet: whoever opens it wakes us.
            if let Some(last) = hub.last(name) {
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
        self.worker.metrics.disconnected(Wire::LongPoll, None);
    }
}
