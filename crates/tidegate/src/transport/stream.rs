//! SSE and NDJSON streams: their heads and openings (CONTRACT 4). The driver does the rest.

use std::num::NonZeroU32;
use std::rc::Rc;
use std::time::SystemTime;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{StatusCode, Version};
use tidegate_broker::{From, Read};
use tidegate_core::{ChannelName, ChannelState, Position};
use tidegate_wire::sse;

use super::Wire;
use super::request::{Begin, SubscribeRequest};
use crate::driver::client::{Start, Stream};
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

/// Where a stream is in its channels.
#[derive(Debug)]
pub struct Begun {
    /// For each of them.
    pub starts: Vec<Start>,
    /// Whether all of them have ended, and it is past that.
    pub is_over: bool,
    /// The cursor to resume from before anything comes.
    pub cursor: String,
}

/// Asks whether a subscription is allowed, and the broker where it begins.
///
/// # Errors
///
/// A refusal that names its channel, or the broker being away.
pub async fn begin(worker: &Rc<Worker>, wanted: &SubscribeRequest) -> Result<Begun, Problem> {
    if worker.is_draining() {
        return Err(Problem::draining());
    }
    for channel in &wanted.channels {
        worker.may_subscribe(channel)?;
    }
    let states = worker.broker.states(&wanted.channels).await.map_err(Problem::from)?;
    let mut starts = Vec::with_capacity(wanted.channels.len());
    let mut is_over = true;
    let asked = wanted.channels.iter().zip(&wanted.begins);
    for ((channel, begin), state) in asked.zip(&states) {
        let (position, gap) = match begin {
            Begin::Now => (state.now(), None),
            Begin::Start => (state.start(), None),
            Begin::After(cursor) => state.judge(cursor.position),
            Begin::Last(count) => (last(worker, channel, *count, state).await?, None),
        };
        // A gap is told first.
        is_over &= gap.is_none() && state.ended.is_some_and(|offset| offset <= position.offset);
        let bounds = worker.outbox_bounds(channel);
        starts.push(Start { channel: channel.clone(), position, gap, bounds });
    }
    let cursors: Vec<_> = starts
        .iter()
        .map(|it| it.gap.map_or(it.position, |gap| gap.requested).cursor(&it.channel).to_string())
        .collect();
    Ok(Begun { starts, is_over, cursor: cursors.join(".") })
}

/// The position before the newest `count` publications.
async fn last(
    worker: &Rc<Worker>,
    channel: &ChannelName,
    count: u32,
    state: &ChannelState,
) -> Result<Position, Problem> {
    let read = Read {
        channel: channel.clone(),
        from: From::Last(count),
        at_least: state.head,
        // Only where it begins matters: the stream reads on from there.
        entries_max: NonZeroU32::MIN,
        bytes_max: 0,
    };
    let page = worker.broker.read(read).await.map_err(Problem::from)?;
    Ok(match page.entries.first() {
        Some(first) => {
            let offset = first.prev.max(page.state.floor);
            Position { epoch: first.position.epoch, offset }
        }
        None => page.tail(),
    })
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
