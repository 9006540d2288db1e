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

    /// Panics if it is polled again after it was ready, as futures may.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        match &mut *self {
            Self::Later(future) => future.as_mut().poll(cx),
            Self::Now(_) => {
                let spent = Self::Later(Box::pin(std::future::pending()));
                match std::mem::replace(&mut *self, spent) {
                    Self::Now(value) => Poll::Ready(value),
                    Self::Later(_) => Poll::Pending,
                }
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
