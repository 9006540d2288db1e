//! Outboxes: what waits for one subscription, bounded in items and bytes (CONTRACT 4, DESIGN 6).
//!
//! An outbox is blind to what it holds. An empty one takes any one item; what happens when a full one
//! is pushed to is its policy's, and whoever reads it finds out what is missing from the items.

use std::collections::VecDeque;

/// What can wait in an [`Outbox`].
pub trait Weight {
    /// Bytes that it is charged with.
    fn weight(&self) -> usize;

    /// Whether it makes `older` worthless to who wants only the newest.
    fn supersedes(&self, older: &Self) -> bool;
}

/// What to do when an outbox is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Policy {
    /// Keep the newest of each event name.
    Conflate,
    /// Close the subscriber.
    Disconnect,
    /// Drop the oldest.
    DropOldest,
    /// Forget everything and catch up from the log. Without a log: [`Policy::DropOldest`].
    #[default]
    Spill,
}

impl Policy {
    /// Every policy, for tables.
    pub const ALL: [Self; 4] = [Self::Conflate, Self::Disconnect, Self::DropOldest, Self::Spill];

    /// The contract's word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Conflate => "conflate",
            Self::Disconnect => "disconnect",
            Self::DropOldest => "drop-oldest",
            Self::Spill => "spill",
        }
    }
}

/// How much an outbox holds, and what happens beyond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutboxBounds {
    /// Items.
    pub messages: usize,
    /// Bytes, by [`Weight::weight`].
    pub bytes: usize,
    /// When full.
    pub policy: Policy,
}

/// A bounded queue with a policy.
#[derive(Debug)]
pub struct Outbox<T> {
    items: VecDeque<T>,
    bytes: usize,
}

/// What a push did beside adding its item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// Nothing.
    Added,
    /// Added, and others were dropped.
    Dropped,
    /// Not added: the policy is to disconnect.
    Refused,
    /// Not added, and the outbox is empty now.
    Spilled,
}

impl<T> Default for Outbox<T> {
    fn default() -> Self {
        Self { items: VecDeque::new(), bytes: 0 }
    }
}

impl<T: Weight> Outbox<T> {
    /// Adds `item` at the end, or does what the policy says.
    pub fn push(&mut self, item: T, bounds: &OutboxBounds) -> Pushed {
        let weight = item.weight();
        if self.fits(weight, bounds) {
            self.add(item, weight);
            return Pushed::Added;
        }
        match bounds.policy {
            Policy::Disconnect => return Pushed::Refused,
            Policy::Spill => {
                self.clear();
                return Pushed::Spilled;
            }
            Policy::DropOldest => {}
            Policy::Conflate => self.conflate(&item),
        }
        while !self.fits(weight, bounds) {
            self.pop();
        }
        self.add(item, weight);
        Pushed::Dropped
    }

    /// Drops what is superseded by something younger in here, or by `incoming`.
    fn conflate(&mut self, incoming: &T) {
        let old = std::mem::take(&mut self.items);
        for item in old.into_iter().rev() {
            let is_stale =
                incoming.supersedes(&item) || self.items.iter().any(|it| it.supersedes(&item));
            if is_stale {
                self.bytes -= item.weight();
            } else {
                self.items.push_front(item);
            }
        }
    }

    fn fits(&self, weight: usize, bounds: &OutboxBounds) -> bool {
        self.items.is_empty()
            || (self.items.len() < bounds.messages
                && self.bytes.saturating_add(weight) <= bounds.bytes)
    }

    fn add(&mut self, item: T, weight: usize) {
        self.bytes += weight;
        self.items.push_back(item);
    }

    /// The oldest item.
    #[must_use]
    pub fn peek(&self) -> Option<&T> {
        self.items.front()
    }

    /// The newest item.
    #[must_use]
    pub fn newest(&self) -> Option<&T> {
        self.items.back()
    }

    /// Takes the oldest item. The last one leaves no memory behind.
    pub fn pop(&mut self) -> Option<T> {
        let item = self.items.pop_front()?;
        self.bytes -= item.weight();
        if self.items.is_empty() {
            self.clear();
        }
        Some(item)
    }

    /// Forgets everything, memory included.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// How many items wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Bytes that wait.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A name and a weight. `!` is an end: neither it nor what it ends makes the other worthless.
    type Item = (char, usize);

    impl Weight for Item {
        fn weight(&self) -> usize {
            self.1
        }
        fn supersedes(&self, older: &Self) -> bool {
            self.0 == older.0 && self.0 != '!'
        }
    }

    #[track_caller]
    fn check(policy: Policy, items: &[Item], last: Pushed, left: &str) {
        let bounds = OutboxBounds { messages: 3, bytes: 10, policy };
        let mut outbox = Outbox::default();
        let mut pushed = Pushed::Added;
        for item in items {
            pushed = outbox.push(*item, &bounds);
            assert!(outbox.items.len() <= 3);
            assert!(outbox.bytes <= 10 || outbox.items.len() == 1);
            assert_eq!(outbox.bytes, outbox.items.iter().map(|it| it.1).sum::<usize>());
        }
        assert_eq!(pushed, last);
        assert_eq!(std::iter::from_fn(|| outbox.pop()).map(|it| it.0).collect::<String>(), left);
    }

    #[test]
    fn an_empty_outbox_takes_any_one_item() {
        for policy in Policy::ALL {
            check(policy, &[('a', 1000)], Pushed::Added, "a");
        }
    }

    #[test]
    fn each_policy_does_what_it_says_when_items_are_full() {
        let four = [('a', 1), ('b', 1), ('a', 1), ('c', 1)];
        check(Policy::DropOldest, &four, Pushed::Dropped, "bac");
        check(Policy::Conflate, &four, Pushed::Dropped, "bac");
        check(Policy::Disconnect, &four, Pushed::Refused, "aba");
        check(Policy::Spill, &four, Pushed::Spilled, "");
    }

    #[test]
    fn each_policy_does_what_it_says_when_bytes_are_full() {
        let three = [('a', 4), ('b', 5), ('c', 6)];
        check(Policy::DropOldest, &three, Pushed::Dropped, "c");
        check(Policy::Disconnect, &three, Pushed::Refused, "ab");
        check(Policy::Spill, &three, Pushed::Spilled, "");
    }

    #[test]
    fn conflation_keeps_the_newest_of_each_name() {
        check(Policy::Conflate, &[('a', 1), ('a', 2), ('a', 3), ('a', 4)], Pushed::Dropped, "a");
        check(Policy::Conflate, &[('a', 1), ('b', 2), ('b', 3), ('a', 4)], Pushed::Dropped, "ba");
        // An end comes in beside the newest of each, or alone where there is no room for more.
        check(Policy::Conflate, &[('a', 1), ('b', 1), ('a', 1), ('!', 1)], Pushed::Dropped, "ba!");
        check(Policy::Conflate, &[('a', 3), ('b', 3), ('c', 3), ('!', 10)], Pushed::Dropped, "!");
        check(Policy::Conflate, &[('!', 1), ('a', 1), ('a', 1), ('a', 1)], Pushed::Dropped, "!a");
        // More names than room: the oldest goes.
        check(Policy::Conflate, &[('a', 1), ('b', 1), ('c', 1), ('d', 1)], Pushed::Dropped, "bcd");
    }
}
