//! Polls and long-polls (CONTRACT 4): one answer, of which nothing is kept; any node gives the same.
//!
//! ```text
//!  begins ──► a page of every log ──► a slice per channel ──► merge ──► body, cursor, ETag
//!                ▲          │ nothing to tell, and a wait was asked for
//!                │          ▼
//!                │   waiter in the hub ──► live entries, gaps ──► the slices
//!                └──────────┘ one that is not level with the hub
//! ```

mod merge;
mod waiter;

use std::future::poll_fn;
use std::hash::{DefaultHasher, Hasher};
use std::num::NonZeroU32;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::StatusCode;
use http::header::{
    CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderMap, HeaderName, HeaderValue, LINK,
    VARY,
};
use tidegate_broker::{From, Page, Read, Reply, Unavailable};
use tidegate_core::envelope::client::History;
use tidegate_core::envelope::json;
use tidegate_core::{Begin, ChannelName, Cursor, Entry, Gap, Position, SessionId};
use tokio::time::sleep;

use self::merge::{Answer, Bounds, Slice, backwards, is_due, merge};
use self::waiter::Registered;
pub use self::waiter::Waiter;
use super::Wire;
use super::request::SubscribeRequest;
use crate::problem::Problem;
use crate::router::{Response, full};
use crate::worker::Worker;

const TIDEGATE_CURSOR: HeaderName = HeaderName::from_static("tidegate-cursor");

/// What a poll needs to know of its request beside what it asks for.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// Path and query.
    pub target: &'a str,
    /// The header.
    pub if_none_match: Option<&'a str>,
    /// Only the headers of a poll are wanted.
    pub is_head: bool,
    /// The connection that it came on.
    pub session: SessionId,
}

/// A page of one channel's log.
#[derive(Debug)]
pub struct Found {
    /// Publications, oldest first.
    pub messages: Vec<Arc<Entry>>,
    /// Where to go on.
    pub position: Position,
    /// What was missed.
    pub gap: Option<Gap>,
    /// Whether the end lies behind `position`.
    pub ended: bool,
}

/// Answers an enveloped connection's `history`: what a poll would have. That the channel may be read
/// was checked.
///
/// # Errors
///
/// 503 while the broker is away.
pub async fn history(worker: &Rc<Worker>, history: History) -> Result<Found, Problem> {
    let History { channel, begin, before, limit } = history;
    let request = SubscribeRequest {
        limit,
        before,
        ..SubscribeRequest::enveloped(vec![channel], vec![begin])
    };
    let (answer, _) = find(worker, &request, None).await?;
    let Answer { messages, positions, gaps, ended } = answer;
    // It was asked for one channel.
    let position = positions.first().copied().ok_or_else(Problem::internal)?;
    let gap = gaps.into_iter().next().map(|(_, gap)| gap);
    Ok(Found { messages, position, gap, ended: !ended.is_empty() })
}

/// Answers a poll, or a long-poll once it is due. That the channels may be read was checked.
///
/// # Errors
///
/// 503 while the broker is away.
pub async fn answer(
    worker: &Rc<Worker>,
    request: &SubscribeRequest,
    asked: &Asked<'_>,
) -> Result<Response, Problem> {
    let &Asked { target, if_none_match, is_head, session } = asked;
    let began = worker.now();
    let (answer, go_on) = find(worker, request, (!is_head).then_some(session)).await?;
    worker.metrics.polled(request.wire);
    let (mut response, body_len) = respond(request, &answer, target, go_on, if_none_match);
    if body_len == 0 {
        // A 304: what it would say was told before.
    } else if is_head {
        // The router cuts off the body, and with it the length.
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(body_len));
    } else {
        worker.metrics.delivered(answer.messages.len(), body_len);
        let now = worker.now();
        // What it has waited for; the rest was there before it.
        for time in answer.messages.iter().map(|it| it.time).filter(|it| *it >= began) {
            worker.metrics.publish_to_write.observe(now.micros_since(time), 1);
        }
        answer.gaps.iter().for_each(|(_, gap)| worker.metrics.gap(gap.reason));
    }
    Ok(response)
}

/// What there is to tell, and the name of the query that goes on from there; `waits` is who may wait
/// for it.
async fn find(
    worker: &Rc<Worker>,
    request: &SubscribeRequest,
    waits: Option<SessionId>,
) -> Result<(Answer, &'static str), Problem> {
    if let (Some(before), Some(channel)) = (request.before, request.channels.first()) {
        return Ok((page_backwards(worker, request, channel, before).await?, "before"));
    }
    let bounds = bounds(worker, request);
    let slices = Box::pin(slices(worker, request, bounds, waits)).await?;
    Ok((merge(&request.channels, slices, bounds), "since"))
}

fn bounds(worker: &Worker, request: &SubscribeRequest) -> Bounds {
    let messages = usize::try_from(request.limit).unwrap_or(usize::MAX);
    let (outbox, message) = (worker.config.http.max_outbox, worker.config.websocket.max_message);
    // A history is one message.
    let bytes = if request.wire == Wire::Ws { outbox.min(message) } else { outbox };
    Bounds { messages, bytes }
}

/// What there is to tell; of a long-poll once there is something, or its time is over.
async fn slices(
    worker: &Rc<Worker>,
    request: &SubscribeRequest,
    bounds: Bounds,
    waits: Option<SessionId>,
) -> Result<Vec<Slice>, Problem> {
    let mut begins = request.begins.clone();
    let slices = read(worker, request, &begins).await?;
    let may_wait = !request.wait.is_zero() && !worker.is_draining();
    let Some(session) = waits.filter(|_| may_wait && !is_due(&slices)) else {
        return Ok(slices);
    };
    for ((begin, slice), channel) in begins.iter_mut().zip(&slices).zip(&request.channels) {
        // From the moment on at which the hub has us: before it a channel that keeps nothing would
        // have a gap.
        if *begin != Begin::Now {
            *begin = Begin::After(slice.began.cursor(channel));
        }
    }
    let registered = Registered::new(worker, &request.channels, bounds, session);
    let mut deadline = pin!(sleep(request.wait));
    let mut is_over = false;
    while !registered.is_open() && !is_over {
        is_over = registered.wait(deadline.as_mut()).await;
    }
    loop {
        let mut slices = read(worker, request, &begins).await?;
        if is_over || is_due(&slices) {
            return Ok(slices);
        }
        let is_level = registered.level(&mut slices, &begins);
        for ((begin, slice), channel) in begins.iter_mut().zip(&slices).zip(&request.channels) {
            *begin = Begin::After(slice.began.cursor(channel));
        }
        if !is_level {
            continue;
        }
        while !is_over {
            is_over = registered.wait(deadline.as_mut()).await;
            registered.waiter.collect(&mut slices);
            if is_due(&slices) {
                return Ok(slices);
            }
            if !registered.waiter.is_live() {
                break;
            }
        }
        // Of what is live the log can say no more, and of one that keeps nothing it would say less.
        if registered.waiter.is_live() {
            return Ok(slices);
        }
    }
}

/// Reads every channel's log from where it begins.
async fn read(
    worker: &Worker,
    request: &SubscribeRequest,
    begins: &[Begin],
) -> Result<Vec<Slice>, Problem> {
    let from = |begin: &Begin| match begin {
        Begin::After(cursor) => From::After(cursor.position),
        Begin::Last(count) => From::Last(*count),
        // Whatever follows the newest none: only the moment counts.
        Begin::Now => From::Last(0),
        Begin::Start => From::Start,
    };
    let replies = request
        .channels
        .iter()
        .zip(begins)
        .map(|(channel, begin)| read_page(worker, request, channel, from(begin)))
        .collect();
    let mut slices = Vec::with_capacity(begins.len());
    for (page, begin) in all(replies).await.into_iter().zip(begins) {
        let page = page.map_err(Problem::from)?;
        slices.push(match begin {
            Begin::Now => Slice::now(&page),
            Begin::After(cursor) => Slice::of(page, Some(cursor.position)),
            Begin::Start => {
                let start = page.state.start();
                Slice::of(page, Some(start))
            }
            Begin::Last(_) => Slice::of(page, None),
        });
    }
    Ok(slices)
}

async fn page_backwards(
    worker: &Worker,
    request: &SubscribeRequest,
    channel: &ChannelName,
    before: Cursor,
) -> Result<Answer, Problem> {
    let from = From::Before(before.position);
    let page = read_page(worker, request, channel, from).await.map_err(Problem::from)?;
    Ok(backwards(channel, page, before.position, bounds(worker, request).messages))
}

fn read_page(
    worker: &Worker,
    request: &SubscribeRequest,
    channel: &ChannelName,
    from: From,
) -> Reply<Result<Page, Unavailable>> {
    // No less than others have from this worker already; in another epoch that says nothing.
    let at_least = |it: Position| match from {
        From::After(at) | From::Before(at) => it.offset_in(at.epoch),
        From::Last(_) | From::Start => it.offset,
    };
    worker.broker.read(Read {
        channel: channel.clone(),
        from,
        at_least: worker.hub.borrow().last(channel).map_or(0, at_least),
        // One more than the answer can have, for an end is no message.
        entries_max: NonZeroU32::MIN.saturating_add(request.limit),
        bytes_max: bounds(worker, request).bytes,
    })
}

/// Waits for all of `replies`, which are under way together.
async fn all<T: Send + Unpin + 'static>(mut replies: Vec<Reply<T>>) -> Vec<T> {
    let mut answers: Vec<Option<T>> = replies.iter().map(|_| None).collect();
    let poll = |cx: &mut Context<'_>| {
        let mut is_done = true;
        for (reply, answer) in replies.iter_mut().zip(&mut answers) {
            if answer.is_none() {
                match Pin::new(reply).poll(cx) {
                    Poll::Ready(it) => *answer = Some(it),
                    Poll::Pending => is_done = false,
                }
            }
        }
        if is_done { Poll::Ready(()) } else { Poll::Pending }
    };
    poll_fn(poll).await;
    answers.into_iter().flatten().collect()
}

/// The answer as HTTP, and the length of its body: 0 of a 304.
fn respond(
    request: &SubscribeRequest,
    answer: &Answer,
    target: &str,
    go_on: &str,
    if_none_match: Option<&str>,
) -> (Response, usize) {
    let places = request.channels.iter().zip(&answer.positions);
    let cursors: Vec<_> = places.map(|(channel, position)| position.cursor(channel)).collect();
    let Answer { messages, gaps, ended, .. } = answer;
    let mut body = Vec::with_capacity(256);
    json::write_poll(&json::Poll { messages, cursor: &cursors, gaps, ended }, &mut body);
    let etag = etag(&body);
    let is_known = if_none_match.is_some_and(|it| matches(it, &etag));
    let mut joined = Vec::new();
    json::write_joined(&cursors, &mut joined);

    if is_known {
        body.clear();
    }
    let body_len = body.len();
    let mut response = http::Response::new(full(body));
    let headers = response.headers_mut();
    put(headers, LINK, &link(target, go_on, &joined));
    put(headers, TIDEGATE_CURSOR, &joined);
    put(headers, ETAG, etag.as_bytes());
    put(headers, CACHE_CONTROL, b"private, no-cache");
    put(headers, VARY, b"Accept");
    if is_known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    } else {
        put(response.headers_mut(), CONTENT_TYPE, b"application/json");
    }
    (response, body_len)
}

/// What we write is visible ASCII.
fn put(headers: &mut HeaderMap, name: HeaderName, value: &[u8]) {
    if let Ok(value) = HeaderValue::from_bytes(value) {
        headers.insert(name, value);
    }
}

/// A strong validator of 128 bits: the same body has the same one on every node.
fn etag(body: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    hasher.write(body);
    let high = hasher.finish();
    hasher.write_u8(0);
    format!("\"{high:016x}{:016x}\"", hasher.finish())
}

/// Whether `If-None-Match` names `etag` (RFC 9110 §13.1.2); ours has no comma.
fn matches(if_none_match: &str, etag: &str) -> bool {
    let mut tags = if_none_match.split(',').map(str::trim);
    tags.any(|it| it == "*" || it.strip_prefix("W/").unwrap_or(it) == etag)
}

/// `<…>; rel="next"`: the request's own target, but for where it begins.
fn link(target: &str, go_on: &str, cursor: &[u8]) -> Vec<u8> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut next = path.to_owned();
    let mut separator = '?';
    for pair in query.split('&').filter(|it| !it.is_empty()) {
        let name = pair.split_once('=').map_or(pair, |(name, _)| name);
        let name = percent_encoding::percent_decode_str(name).decode_utf8_lossy();
        if !matches!(&*name, "since" | "last" | "before") {
            next.push(separator);
            next.push_str(pair);
            separator = '&';
        }
    }
    next.push(separator);
    let mut out = vec![b'<'];
    for byte in next.bytes() {
        match byte {
            // RFC 3986 has these in no URI, and they would end the link.
            0..=b' ' | b'"' | b'<' | b'>' | 0x7F.. => {
                out.extend_from_slice(format!("%{byte:02X}").as_bytes());
            }
            _ => out.push(byte),
        }
    }
    for part in [go_on.as_bytes(), b"=", cursor, b">; rel=\"next\""] {
        out.extend_from_slice(part);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_link(target: &str, go_on: &str, expect: &str) {
        let link = String::from_utf8(link(target, go_on, b"C")).unwrap();
        assert_eq!(link, format!("<{expect}>; rel=\"next\""));
    }

    #[test]
    fn a_link_is_the_request_with_another_beginning() {
        check_link("/channels/a", "since", "/channels/a?since=C");
        check_link("/channels/a,b?since=x", "since", "/channels/a,b?since=C");
        check_link("/p/channels/a?last=3&wait=5s", "since", "/p/channels/a?wait=5s&since=C");
        check_link("/channels/a?limit=2&before=x&", "before", "/channels/a?limit=2&before=C");
        check_link("/channels/a?%73ince=x&since&y", "since", "/channels/a?y&since=C");
        check_link("/channels/a?x=\"<é>", "since", "/channels/a?x=%22%3C%C3%A9%3E&since=C");
    }

    #[test]
    fn a_validator_matches_its_body_alone() {
        let (one, other) = (etag(b"{}"), etag(b"{} "));
        assert_ne!(one, other);
        assert_eq!((one.len(), etag(b"{}")), (34, one.clone()));
        for header in
            [one.clone(), format!("W/{one}"), format!("\"x\",  {one} , \"y\""), "*".into()]
        {
            assert!(matches(&header, &one), "{header}");
        }
        for header in [other, "\"\"".into(), one.replace('"', "")] {
            assert!(!matches(&header, &one), "{header}");
        }
    }

    #[tokio::test]
    async fn replies_are_awaited_together_and_keep_their_order() {
        let (early, late) = tokio::sync::oneshot::channel();
        let later = Reply::Later(Box::pin(async move { late.await.unwrap() }));
        // The second reply is what the first one waits for.
        let sent = Reply::Later(Box::pin(async move {
            early.send(1).unwrap();
            2
        }));
        assert_eq!(all(vec![later, sent, Reply::Now(3)]).await, [1, 2, 3]);
    }
}
