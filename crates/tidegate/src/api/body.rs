//! Request bodies: read whole, within `http.max_body` and `http.body_timeout` (CONTRACT 2 and 14).

use std::fmt::Display;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http_body::Body;
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

#[cfg(test)]
pub(super) mod tests {
    use std::collections::VecDeque;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use http_body::{Frame, SizeHint};

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
}
