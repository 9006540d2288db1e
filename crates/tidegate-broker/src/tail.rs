//! The inbox of one worker: where a broker's tail ends (DESIGN 8).

use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use tidegate_core::inbox::{Drained, InboxQueue, TailEvent};

/// A bounded queue into one worker.
#[derive(Debug)]
pub struct Inbox {
    /// Guards the queue and the waker of the worker's hub. A lock, not a channel, since push and
    /// mark are one step with the broker's append. Held for a push or a swap of two vectors.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    queue: InboxQueue,
    waker: Option<Waker>,
}

impl Inbox {
    /// An empty inbox; the bounds are [`InboxQueue::new`]'s.
    #[must_use]
    pub fn new(events_max: usize, bytes_max: usize) -> Self {
        let queue = InboxQueue::new(events_max, bytes_max);
        Self { state: Mutex::new(State { queue, waker: None }) }
    }

    /// Adds `event` or marks its channel; never blocks for longer than a push. The answer is whom
    /// to wake: do that after the broker's own lock is released.
    #[must_use = "the worker sleeps until the waker is woken"]
    pub fn push(&self, event: TailEvent) -> Option<Waker> {
        let mut state = self.lock();
        if state.queue.push(event) { state.waker.take() } else { None }
    }

    /// Takes everything that waits, or registers the caller to be woken.
    pub fn poll_drain(&self, cx: &mut Context<'_>, spare: &mut Vec<TailEvent>) -> Poll<Drained> {
        let mut state = self.lock();
        if state.queue.is_empty() {
            state.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(state.queue.drain(std::mem::take(spare)))
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lock().queue.is_empty()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // A push never leaves the queue half done, so a poisoned one is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
