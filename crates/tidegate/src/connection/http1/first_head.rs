//! A connection's first head, read until it is whole and then given to hyper.
//!
//! Hyper takes 24 KiB for a connection before a byte has come; who connects and says nothing, or says
//! it slowly, costs what it has sent. What a whole head is, hyper's own parser says; whatever that
//! finds wrong is left to hyper to answer.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Duration, Instant};

use super::{Connection, Phase};
use crate::worker::Worker;

/// What one read takes, and what may have come before hyper has it in any case.
const BYTES_MAX: usize = 4 << 10;

/// More than hyper takes.
const HEADERS_MAX: usize = 101;

/// How the wait for it ended.
pub(super) enum FirstHead {
    /// All of it has come, perhaps with more, or what is no head.
    Whole(Bytes),
    /// The peer has gone without a word, or we go and it has said none.
    Gone,
    /// It took too long; part of it may have come.
    TimedOut { with_head: bool },
}

/// Reads it, within a time.
pub(super) async fn read(
    worker: &Worker,
    connection: &Rc<Connection>,
    stream: &mut TcpStream,
    within: Duration,
) -> FirstHead {
    let mut timer = pin!(tokio::time::sleep(within));
    let mut head = Vec::new();
    poll_fn(|cx| {
        connection.remember(cx);
        if !connection.may_go_on(worker) {
            return Poll::Pending;
        }
        let read = worker.turns.charge(|| poll_read(worker, stream, cx, &mut head));
        let with_head = !head.is_empty();
        if with_head && matches!(connection.phase.get(), Phase::New(_)) {
            let since = Instant::now();
            connection.phase.set(Phase::Head(since));
            timer.as_mut().reset(since + within);
        }
        if let Poll::Ready(is_over) = read {
            return Poll::Ready(match is_over && !with_head {
                true => FirstHead::Gone,
                false => FirstHead::Whole(Bytes::from(std::mem::take(&mut head))),
            });
        }
        if connection.is_draining.get() && !with_head {
            return Poll::Ready(FirstHead::Gone);
        }
        timer.as_mut().poll(cx).map(|()| FirstHead::TimedOut { with_head })
    })
    .await
}

/// Reads until the head is whole; whether the peer sends no more.
fn poll_read(
    worker: &Worker,
    stream: &mut TcpStream,
    cx: &mut Context<'_>,
    head: &mut Vec<u8>,
) -> Poll<bool> {
    let mut scratch = worker.scratch.take();
    let read = loop {
        let mut buffer = ReadBuf::new(scratch.get_mut(..BYTES_MAX).unwrap_or_default());
        let read = Pin::new(&mut *stream).poll_read(cx, &mut buffer);
        match read {
            Poll::Pending => break Poll::Pending,
            Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                head.extend_from_slice(buffer.filled());
                if head.len() >= BYTES_MAX || !is_part(head) {
                    break Poll::Ready(false);
                }
            }
            // Gone, with or without a word.
            Poll::Ready(_) => break Poll::Ready(true),
        }
    };
    worker.scratch.set(scratch);
    read
}

/// Whether this can become a head, and is not yet.
fn is_part(head: &[u8]) -> bool {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    matches!(request.parse(head), Ok(httparse::Status::Partial))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_part_of_one_until_its_last_byte() {
        let head = b"\r\nGET /channels/a HTTP/1.1\r\nhost: a\r\n\r\n";
        for len in 0..head.len() {
            assert!(is_part(&head[..len]), "{len}");
        }
        assert!(!is_part(head));
        // With a body, or another head, behind it.
        assert!(!is_part(b"GET / HTTP/1.1\r\n\r\nGET"));
    }

    #[test]
    fn what_can_become_no_head_is_none() {
        for bytes in [&b"\x16\x03\x01"[..], b"GET / HTTP/3.9\r\n", b"GET / HTTP/1.1\r\n\0"] {
            assert!(!is_part(bytes), "{bytes:?}");
        }
        let many = "a: b\r\n".repeat(HEADERS_MAX + 1);
        assert!(!is_part(format!("GET / HTTP/1.1\r\n{many}").as_bytes()));
    }
}
