//! A connection, after the head of its answer: bytes in, bytes out.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tidegate_client::Failure;
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::net::TcpStream;

/// A connection.
#[derive(Debug)]
pub(super) struct Line {
    io: TcpStream,
    /// What came behind the head.
    early: Vec<u8>,
    /// What is to be sent, and how much of it has been.
    out: Vec<u8>,
    written: usize,
}

impl Line {
    pub(super) fn new(io: TcpStream, early: Vec<u8>) -> Self {
        Self { io, early, out: Vec::new(), written: 0 }
    }

    /// Sends what `write` appends, with the next flush or read.
    pub(super) fn push(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.out);
    }

    /// Sends what waits, as far as the socket takes it.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        while let Some(rest) = self.out.get(self.written..).filter(|it| !it.is_empty()) {
            match ready!(Pin::new(&mut self.io).poll_write(cx, rest)) {
                Ok(0) => return Poll::Ready(Err(Failure::Cut("nothing more is taken".into()))),
                Ok(written) => self.written += written,
                Err(error) => return Poll::Ready(Err(cut(&error))),
            }
        }
        self.out.clear();
        self.written = 0;
        Poll::Ready(Ok(()))
    }

    /// Sends what waits, and reads into `scratch`; what was read is at its front.
    pub(super) fn poll_read<'s>(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &'s mut [u8],
    ) -> Poll<Result<&'s mut [u8], Failure>> {
        if let Poll::Ready(Err(failure)) = self.poll_flush(cx) {
            return Poll::Ready(Err(failure));
        }
        if !self.early.is_empty() {
            let here = self.early.len().min(scratch.len());
            let (front, _) = scratch.split_at_mut(here);
            front.iter_mut().zip(self.early.drain(..here)).for_each(|(to, from)| *to = from);
            return Poll::Ready(Ok(front));
        }
        let mut buffer = ReadBuf::new(scratch);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut buffer)).map_err(|it| cut(&it))?;
        let read = buffer.filled().len();
        if read == 0 {
            return Poll::Ready(Err(Failure::Cut("the gateway closed it".into())));
        }
        Poll::Ready(Ok(scratch.split_at_mut(read).0))
    }
}

impl Drop for Line {
    /// Resets the connection: closed in order, thousands of them would hold their ports for a
    /// minute, and the next run would find none.
    fn drop(&mut self) {
        // Closed in order it is closed too.
        let _ = socket2::SockRef::from(&self.io).set_linger(Some(Duration::ZERO));
    }
}

/// What the system says of a connection that broke.
pub(super) fn cut(error: &io::Error) -> Failure {
    Failure::Cut(error.to_string())
}
