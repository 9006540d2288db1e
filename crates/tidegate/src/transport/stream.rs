//! SSE and NDJSON streams: their heads and openings (CONTRACT 4). The driver does the rest.

use std::rc::Rc;
use std::time::SystemTime;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{StatusCode, Version};
use tidegate_wire::sse;

use super::Wire;
use super::begin::{Begun, begin};
use super::request::SubscribeRequest;
use crate::driver::client::Stream;
use crate::driver::forms::{Form, Format, Framing};
use crate::origin::{self, Verdict};
use crate::problem::Problem;
use crate::router::{Answer, Request, Response, full, no_body};
use crate::worker::Worker;

const NO_CACHE: HeaderValue = HeaderValue::from_static("no-cache, no-transform");

/// Opens an SSE or NDJSON stream.
///
/// # Errors
///
/// Whatever refuses it. On SSE what is temporary is an answer instead: an EventSource gives up for
/// ever on anything but 200.
pub async fn open(
    worker: &Rc<Worker>,
    request: &Request,
    wanted: SubscribeRequest,
    verdict: &Verdict<'_>,
) -> Result<Answer, Problem> {
    no_body(request)?;
    match begin(worker, &wanted).await {
        Err(problem) if wanted.wire == Wire::Sse && problem.code.is_temporary() => {
            Ok(Answer::Response(temporary(worker, &problem)))
        }
        Err(problem) => Err(problem),
        // Past all its ends, an EventSource is told to stop.
        Ok(begun) if wanted.wire == Wire::Sse && begun.is_over => {
            Ok(Answer::Response(over(&begun)))
        }
        Ok(begun) => {
            let framing = match request.version() {
                Version::HTTP_11 => Framing::Plain,
                _ => Framing::Unchunked,
            };
            Ok(Answer::Stream(Box::new(stream(worker, &wanted, begun, framing, verdict))))
        }
    }
}

fn form(wanted: &SubscribeRequest, framing: Framing) -> Form {
    let format = match (wanted.wire, wanted.envelope) {
        (Wire::Sse, false) => Format::Sse,
        (Wire::Sse, true) => Format::SseJson,
        _ => Format::Ndjson,
    };
    Form { format, framing }
}

fn content_type(wire: Wire) -> &'static str {
    if wire == Wire::Sse { "text/event-stream" } else { "application/x-ndjson" }
}

fn stream(
    worker: &Worker,
    wanted: &SubscribeRequest,
    begun: Begun,
    framing: Framing,
    verdict: &Verdict<'_>,
) -> Stream {
    let mut head = Vec::with_capacity(512);
    let length: &[u8] = match framing {
        Framing::Unchunked => b"",
        Framing::Plain | Framing::Deflated => b"transfer-encoding: chunked\r\n",
    };
    for part in [
        b"HTTP/1.1 200 OK\r\ncontent-type: ",
        content_type(wanted.wire).as_bytes(),
        b"\r\ncache-control: no-cache, no-transform\r\nx-accel-buffering: no\r\n\
          connection: close\r\ntidegate-cursor: ",
        begun.cursor.as_bytes(),
        b"\r\nvary: accept\r\ndate: ",
        httpdate::fmt_http_date(SystemTime::now()).as_bytes(),
        b"\r\n",
        length,
    ] {
        head.extend_from_slice(part);
    }
    origin::write_raw(verdict, &mut head);
    head.extend_from_slice(b"\r\n");
    let form = form(wanted, framing);
    if wanted.wire == Wire::Sse {
        let mut opening = Vec::new();
        sse::write_retry(&mut opening, worker.retry_ms());
        sse::write_id(&mut opening, begun.cursor.as_bytes());
        let opening = worker.encoder.borrow_mut().finish(form, opening);
        head.extend_from_slice(&opening);
    }
    Stream {
        form,
        starts: begun.starts,
        session: worker.session(),
        echo: true,
        wire: wanted.wire,
        websocket: None,
        opening: head.into(),
        early: Bytes::new(),
    }
}

/// The answer at which an EventSource stops.
fn over(begun: &Begun) -> Response {
    let mut response = http::Response::new(full(Bytes::new()));
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, NO_CACHE);
    if let Ok(cursor) = begun.cursor.parse() {
        headers.insert("tidegate-cursor", cursor);
    }
    response
}

/// A temporary refusal as an EventSource can take it: 200, when to come back, and why.
fn temporary(worker: &Worker, problem: &Problem) -> Response {
    let mut body = Vec::new();
    sse::write_retry(&mut body, worker.retry_ms());
    let mut data = Vec::new();
    problem.write_object(&mut data);
    sse::write_event(&mut body, None, Some("tidegate-error"), &data);
    let mut response = http::Response::new(full(body));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, NO_CACHE);
    headers.insert(RETRY_AFTER, HeaderValue::from(problem.retry_after_seconds().unwrap_or(1)));
    response
}
