//! Channels that are held open while a stream on them is being made.
//!
//! A stream's head says that from there on nothing is missing, so it is not written before the broker
//! watches its channels for us. Whoever makes a stream registers in the hub first, waits until the
//! channels are open, and lets go of them when the stream is registered itself.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use tidegate_broker::Unavailable;
use tidegate_core::ChannelName;

use super::hub::Subscriber;
use crate::worker::Worker;

/// Who waits for channels to be opened.
#[derive(Debug, Default)]
pub struct Opening {
    has_failed: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Opening {
    /// Tells it to look again: one of its channels was opened.
    pub fn wake(&self) {
        let waker = self.waker.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Tells it that one of its channels can't be opened now.
    pub fn fail(&self) {
        self.has_failed.set(true);
        self.wake();
    }
}

/// A channel that is watched for as long as this lives.
pub struct Held {
    worker: Rc<Worker>,
    channel: ChannelName,
    key: usize,
}

impl Held {
    /// Holds each of `channels`, once all are open.
    ///
    /// # Errors
    ///
    /// One of them can't be watched now. It may never be known whether it can: whoever calls this
    /// bounds the wait. Cancel safe: what is held is let go.
    pub async fn open(
        worker: &Rc<Worker>,
        channels: &[ChannelName],
    ) -> Result<Vec<Self>, Unavailable> {
        let opening = Rc::new(Opening::default());
        let hold = |channel: &ChannelName| Self {
            worker: Rc::clone(worker),
            channel: channel.clone(),
            key: worker.subscribe(channel, Subscriber::Opening(Rc::clone(&opening))),
        };
        let held: Vec<_> = channels.iter().map(hold).collect();
        poll_fn(|cx| {
            let hub = worker.hub.borrow();
            if channels.iter().all(|it| hub.last(it).is_some()) {
                return Poll::Ready(Ok(()));
            }
            if opening.has_failed.get() {
                return Poll::Ready(Err(Unavailable));
            }
            opening.waker.replace(Some(cx.waker().clone()));
            Poll::Pending
        })
        .await?;
        Ok(held)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.worker.unsubscribe(&self.channel, self.key);
    }
}

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Held").field(&self.channel).finish()
    }
}
