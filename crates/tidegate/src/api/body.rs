//! Request bodies: read whole, within `http.max_body` and `http.body_timeout` (CONTRACT 2 and 14), and
//! whether they were.

use std::cell::Cell;
use std::fmt::Display;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use tokio::time::timeout;

use crate::config::Http;
use crate::problem::Problem;

/// Reads a whole body. Its bytes are a copy of their exact size, for a log keeps them, and what they
/// come in is the connection's buffer.
///
/// # Errors
///
/// 413 as soon as it is known, 408 when nothing came for too long, 400 when it was cut.
pub(super) async fn read<B>(body: B, http: &Http) -> Result<Bytes, Problem>
where
    B: Body<Data = Bytes, Error: Display>,
{
    let bytes_max = http.max_body;
    // Of a body with a `Content-Length` this is its length.
    if body.size_hint().lower() > bytes_max as u64 {
        return Err(too_large(bytes_max));
    }
    let mut body = pin!(body);
    let mut read = Vec::new();
    loop {
        let frame = timeout(http.body_timeout, body.frame());
        let frame = frame.await.map_err(|_| too_slow(http.body_timeout))?;
        let Some(frame) = frame else { break };
        // Trailers say nothing that we know.
        let Ok(piece) = frame.map_err(|error| cut(&error))?.into_data() else { continue };
        if read.len() + piece.len() > bytes_max {
            return Err(too_large(bytes_max));
        }
        if read.is_empty() && body.is_end_stream() {
            return Ok(Bytes::copy_from_slice(&piece));
        }
        read.extend_from_slice(&piece);
    }
    Ok(Bytes::from(read.into_boxed_slice()))
}

fn too_large(bytes_max: usize) -> Problem {
    Problem::too_large(format!(
        "the body is larger than the {bytes_max} bytes that are allowed (http.max_body)"
    ))
}

/// 408: no byte came for this long.
pub(super) fn too_slow(body_timeout: Duration) -> Problem {
    let seconds = body_timeout.as_secs_f64();
    Problem::invalid(format!(
        "nothing of the body came for {seconds} s (http.body_timeout); send it without pauses"
    ))
    .with_status(StatusCode::REQUEST_TIMEOUT)
}

/// 400: the peer has gone, or its framing is broken.
pub(super) fn cut(error: &dyn Display) -> Problem {
    Problem::invalid(format!("the body can't be read to its end: {error}"))
}

/// A body that notes when it is dropped before its end.
///
/// What is left of it would have to be read before another request can be. Hyper does so only with what
/// has come already, and else closes the connection: who is not told that may send its next request
/// there, and can't know what became of it.
#[derive(Debug)]
pub struct RequestBody<B: Body = hyper::body::Incoming> {
    inner: B,
    has_ended: bool,
    is_left: Rc<Cell<bool>>,
}

impl<B: Body> RequestBody<B> {
    /// Sets `is_left` when it is dropped before its end.
    pub fn new(inner: B, is_left: Rc<Cell<bool>>) -> Self {
        let has_ended = inner.is_end_stream();
        Self { inner, has_ended, is_left }
    }
}

impl<B: Body + Unpin> Body for RequestBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        self.has_ended = frame.is_none() || self.inner.is_end_stream();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl<B: Body> Drop for RequestBody<B> {
    fn drop(&mut self) {
        self.is_left.set(!self.has_ended);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::VecDeque;
    use std::task::Waker;

    use super::*;
    use crate::config::Config;

    /// A body that comes in pieces.
    #[derive(Clone)]
    pub(in crate::api) struct Pieces {
        pub(in crate::api) pieces: VecDeque<Bytes>,
        pub(in crate::api) then: Then,
        pub(in crate::api) announced: u64,
    }

    /// What follows the pieces.
    #[derive(Clone, Copy)]
    pub(in crate::api) enum Then {
        End,
        Fail,
        Stall,
    }

    impl Pieces {
        pub(in crate::api) fn new(pieces: &[&str], then: Then) -> Self {
            let pieces = pieces.iter().map(|it| Bytes::copy_from_slice(it.as_bytes())).collect();
            Self { pieces, then, announced: 0 }
        }
    }

    impl Body for Pieces {
        type Data = Bytes;
        type Error = &'static str;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
            match (self.pieces.pop_front(), self.then) {
                (Some(piece), _) => Poll::Ready(Some(Ok(Frame::data(piece)))),
                (None, Then::End) => Poll::Ready(None),
                (None, Then::Fail) => Poll::Ready(Some(Err("the peer has gone"))),
                (None, Then::Stall) => Poll::Pending,
            }
        }

        fn is_end_stream(&self) -> bool {
            self.pieces.is_empty() && matches!(self.then, Then::End)
        }

        fn size_hint(&self) -> SizeHint {
            let mut hint = SizeHint::new();
            hint.set_lower(self.announced);
            hint
        }
    }

    /// Reads at most 8 bytes. `expect`: the bytes, or the status.
    #[track_caller]
    fn check(body: Pieces, expect: Result<&str, u16>) {
        let mut http = Config::default().http;
        http.max_body = 8;
        http.body_timeout = Duration::from_millis(10);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let outcome = runtime.block_on(read(body, &http)).map_err(|it| it.status.as_u16());
        assert_eq!(outcome, expect.map(|it| Bytes::copy_from_slice(it.as_bytes())));
    }

    #[test]
    fn a_body_is_read_whole_however_it_comes() {
        check(Pieces::new(&[], Then::End), Ok(""));
        check(Pieces::new(&[""], Then::End), Ok(""));
        check(Pieces::new(&["12345678"], Then::End), Ok("12345678"));
        check(Pieces::new(&["1234", "", "5678"], Then::End), Ok("12345678"));
    }

    #[test]
    fn a_body_over_the_bound_is_refused_as_soon_as_it_is_known() {
        // What would come after that is never waited for.
        check(Pieces::new(&["12345678", "9"], Then::Stall), Err(413));
        check(Pieces::new(&["123456789"], Then::Stall), Err(413));
        check(Pieces { announced: 9, ..Pieces::new(&[], Then::Stall) }, Err(413));
        check(Pieces { announced: 8, ..Pieces::new(&["12345678"], Then::End) }, Ok("12345678"));
    }

    #[test]
    fn a_body_that_stops_is_given_up() {
        check(Pieces::new(&[], Then::Stall), Err(408));
        check(Pieces::new(&["1", "2"], Then::Stall), Err(408));
    }

    #[test]
    fn a_body_that_is_cut_is_not_taken() {
        check(Pieces::new(&["1"], Then::Fail), Err(400));
    }

    /// Takes so many frames of a body; whether something is left then.
    #[track_caller]
    fn check_left(body: Pieces, frames: usize, expect: bool) {
        let is_left = Rc::new(Cell::new(false));
        let mut body = RequestBody::new(body, Rc::clone(&is_left));
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..frames {
            assert!(Pin::new(&mut body).poll_frame(&mut cx).is_ready());
        }
        drop(body);
        assert_eq!(is_left.get(), expect);
    }

    #[test]
    fn what_is_dropped_before_its_end_is_left() {
        check_left(Pieces::new(&[], Then::End), 0, false);
        check_left(Pieces::new(&["1", "2"], Then::End), 0, true);
        check_left(Pieces::new(&["1", "2"], Then::End), 1, true);
        check_left(Pieces::new(&["1", "2"], Then::End), 2, false);
        check_left(Pieces::new(&["1"], Then::Stall), 1, true);
        // What breaks has no end.
        check_left(Pieces::new(&["1"], Then::Fail), 2, true);
    }
}
