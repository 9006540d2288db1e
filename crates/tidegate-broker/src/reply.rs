//! An answer that may be there already: embedded brokers answer at once, without an allocation.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

/// A future that says, before it is polled, whether its value is there.
pub enum Reply<T> {
    /// The answer.
    Now(T),
    /// It comes.
    Later(Pin<Box<dyn Future<Output = T> + Send>>),
}

impl<T: Send + Unpin + 'static> Future for Reply<T> {
    type Output = T;

    /// Once an answer that was there has been taken, this is pending for ever.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        match &mut *self {
            Self::Later(future) => future.as_mut().poll(cx),
            Self::Now(_) => {
                // `pending()` has no size, so its box is no allocation.
                let taken = Self::Later(Box::pin(std::future::pending()));
                let Self::Now(value) = std::mem::replace(&mut *self, taken) else {
                    return Poll::Pending;
                };
                Poll::Ready(value)
            }
        }
    }
}

impl<T> std::fmt::Debug for Reply<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Now(_) => "Now(..)",
            Self::Later(_) => "Later(..)",
        })
    }
}
