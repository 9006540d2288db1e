//! Wakes of hubs, held back while one thread publishes what it has at hand (DESIGN 2).
//!
//! A worker that reads sixteen messages at once publishes sixteen times within microseconds. Woken by
//! the first, another worker would find one or two in its inbox, write them to all its subscribers,
//! and then begin again with the rest: twice the writes, or more. So wakes wait for the last of them.
//! That is no timer: nothing waits for what is not there yet.

use std::cell::RefCell;
use std::sync::Arc;
use std::task::{Wake, Waker};

thread_local! {
    /// Whom to wake at the end of [`together`]; `None` outside of it. A thread's own, as the publisher
    /// is, so that brokers need not know of it: they wake whoever waits at an inbox, and that is a
    /// [`holdable`].
    static HELD: RefCell<Option<Vec<Waker>>> = const { RefCell::new(None) };
}

/// A waker that wakes `waker`, at the end of [`together`] where it is woken within.
pub fn holdable(waker: &Waker) -> Waker {
    Waker::from(Arc::new(Holdable(waker.clone())))
}

/// Runs what publishes, and wakes then whoever is to be woken of it.
pub fn together<T>(publish: impl FnOnce() -> T) -> T {
    let is_outermost = HELD.with_borrow_mut(|held| {
        let is_outermost = held.is_none();
        held.get_or_insert_default();
        is_outermost
    });
    let _end = is_outermost.then(|| End);
    publish()
}

/// Wakes whoever is to be woken so far: for what goes on for long.
pub fn release() {
    let held = HELD.with_borrow_mut(|held| held.as_mut().map(std::mem::take));
    held.into_iter().flatten().for_each(Waker::wake);
}

struct Holdable(Waker);

impl Wake for Holdable {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let is_held = HELD.with_borrow_mut(|held| match held {
            Some(held) => {
                held.push(self.0.clone());
                true
            }
            None => false,
        });
        if !is_held {
            self.0.wake_by_ref();
        }
    }
}

/// Ends [`together`], also by a panic.
struct End;

impl Drop for End {
    fn drop(&mut self) {
        let held = HELD.with_borrow_mut(Option::take);
        held.into_iter().flatten().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl Count {
        fn seen(&self) -> usize {
            self.0.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn a_wake_waits_for_the_last_publication() {
        let count = Arc::new(Count::default());
        let waker = holdable(&Waker::from(Arc::clone(&count)));
        waker.wake_by_ref();
        assert_eq!(count.seen(), 1, "outside: at once");
        together(|| {
            waker.wake_by_ref();
            together(|| waker.wake_by_ref());
            assert_eq!(count.seen(), 1, "an inner one is part of the outer");
            release();
            assert_eq!(count.seen(), 3);
            waker.wake_by_ref();
        });
        assert_eq!(count.seen(), 4);
        waker.wake();
        assert_eq!(count.seen(), 5, "and at once again");
    }

    #[test]
    fn a_panic_wakes_too() {
        let count = Arc::new(Count::default());
        let waker = holdable(&Waker::from(Arc::clone(&count)));
        let result = std::panic::catch_unwind(|| {
            together(|| {
                waker.wake();
                panic!("on purpose");
            })
        });
        assert!(result.is_err());
        assert_eq!(count.seen(), 1);
    }
}
