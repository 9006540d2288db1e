//! Bytes that are committed to one socket: what was begun must be finished.
//!
//! Whoever fills it looks at [`Output::bytes`] first; what it holds is bounded by that.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;

/// Once so much is committed, nothing is added to it before it is written.
pub const COMMIT_BYTES: usize = 64 << 10;

/// Buffers handed to one `writev`.
const SLICES: usize = 64;

/// A queue of shared pieces; takes no memory while it is empty.
#[derive(Debug, Default)]
pub struct Output {
    pieces: VecDeque<Bytes>,
    bytes: usize,
}

impl Output {
    /// Adds a piece.
    pub fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.bytes += piece.len();
            self.pieces.push_back(piece);
        }
    }

    /// Whether everything was written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Bytes that were not written yet.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Writes all of it. Pending: the task is woken once the socket takes more.
    ///
    /// # Errors
    ///
    /// The socket's.
    pub fn poll_flush(
        &mut self,
        stream: &mut TcpStream,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while let Some(first) = self.pieces.front() {
            let written = if self.pieces.len() == 1 {
                ready!(Pin::new(&mut *stream).poll_write(cx, first))?
            } else {
                let mut slices = [IoSlice::new(&[]); SLICES];
                let mut used = 0;
                for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
                    *slice = IoSlice::new(piece);
                    used += 1;
                }
                let slices = slices.get(..used).unwrap_or_default();
                ready!(Pin::new(&mut *stream).poll_write_vectored(cx, slices))?
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, mut written: usize) {
        self.bytes -= written.min(self.bytes);
        while let Some(first) = self.pieces.front_mut() {
            if written < first.len() {
                first.advance(written);
                return;
            }
            written -= first.len();
            self.pieces.pop_front();
        }
        // Idle clients hold no memory.
        self.pieces = VecDeque::new();
    }
}
