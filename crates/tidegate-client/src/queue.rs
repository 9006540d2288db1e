//! The queue between a task and who reads what it tells: bounded in bytes, given over in batches.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// The task's end.
#[derive(Debug)]
pub(crate) struct Sender<T> {
    batches: mpsc::Sender<Batch<T>>,
    room: Arc<Semaphore>,
    bytes_max: u32,
}

/// The reader's end.
#[derive(Debug)]
pub(crate) struct Receiver<T> {
    batches: mpsc::Receiver<Batch<T>>,
    current: VecDeque<T>,
    /// The current batch's room, until its last item was taken.
    permit: Option<OwnedSemaphorePermit>,
}

/// What is given over at once.
#[derive(Debug)]
struct Batch<T> {
    items: VecDeque<T>,
    permit: OwnedSemaphorePermit,
}

/// Batches that wait at once. Their bytes are what bounds them: the smallest have some hundred.
const BATCHES_MAX: usize = 1 << 14;

/// Permits that a semaphore can have on every machine.
const BYTES_MOST: u32 = u32::MAX >> 3;

/// A queue of at most so many bytes, and a batch that is larger alone.
pub(crate) fn queue<T>(bytes_max: u32) -> (Sender<T>, Receiver<T>) {
    let bytes_max = bytes_max.clamp(1, BYTES_MOST);
    let (sender, receiver) = mpsc::channel(BATCHES_MAX);
    let room = Arc::new(Semaphore::new(usize::try_from(bytes_max).unwrap_or(usize::MAX)));
    let receiver = Receiver { batches: receiver, current: VecDeque::new(), permit: None };
    (Sender { batches: sender, room, bytes_max }, receiver)
}

impl<T> Sender<T> {
    /// Waits for room, and gives `items` of so many bytes over. False: nobody reads any more.
    pub(crate) async fn put(&self, items: VecDeque<T>, bytes: usize) -> bool {
        let permits = u32::try_from(bytes).unwrap_or(u32::MAX).clamp(1, self.bytes_max);
        let room = Arc::clone(&self.room);
        tokio::select! {
            permit = room.acquire_many_owned(permits) => {
                let Ok(permit) = permit else { return false };
                self.batches.send(Batch { items, permit }).await.is_ok()
            }
            () = self.batches.closed() => false,
        }
    }

    /// Waits until nobody reads any more. Cancel safe.
    pub(crate) async fn closed(&self) {
        self.batches.closed().await;
    }
}

impl<T> Receiver<T> {
    /// The next item; `None` once the task has ended and all was taken.
    ///
    /// Cancel safe: an item is taken when it is returned.
    pub(crate) async fn next(&mut self) -> Option<T> {
        loop {
            if let Some(item) = self.current.pop_front() {
                return Some(item);
            }
            self.permit = None;
            let batch = self.batches.recv().await?;
            (self.current, self.permit) = (batch.items, Some(batch.permit));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_waits_is_bounded_in_bytes_and_room_comes_back_when_it_is_taken() {
        let (sender, mut receiver) = queue(100);
        assert!(sender.put([1, 2].into(), 60).await);
        let mut second = Box::pin(sender.put([3].into(), 60));
        let is_full = std::future::poll_fn(|cx| {
            let is_full = second.as_mut().poll(cx).is_pending();
            std::task::Poll::Ready(is_full)
        });
        assert!(is_full.await, "there is no room for it");
        assert_eq!((receiver.next().await, receiver.next().await), (Some(1), Some(2)));
        // The batch has been read once the next one is asked for.
        let (put, third) = tokio::join!(second, receiver.next());
        assert_eq!((put, third), (true, Some(3)));
        let large = async { sender.put([4].into(), 1 << 20).await };
        assert_eq!(tokio::join!(large, receiver.next()), (true, Some(4)), "it has all the room");
    }

    #[tokio::test]
    async fn nobody_to_read_ends_the_wait_for_room() {
        let (sender, receiver) = queue(10);
        assert!(sender.put([1].into(), 10).await);
        let (put, ()) = tokio::join!(sender.put([2].into(), 10), async { drop(receiver) });
        assert!(!put);
    }
}
