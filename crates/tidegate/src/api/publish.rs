//! Publishing over HTTP (CONTRACT 3): one payload, lines of them, or publications for many channels.
//!
//! Payloads that are kept are copies of their exact size: a request's buffer is much larger.

use std::rc::Rc;
use std::sync::Arc;

use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};
use tidegate_core::envelope::PublishCommand;
use tidegate_core::envelope::command::Publisher;
use tidegate_core::envelope::json::write_published;
use tidegate_core::{ChannelName, SessionId};

use super::body::{self, RequestBody};
use super::entries::Entries;
use super::results::{Outcome, Results, Sink, Told};
use super::terms::{self, Terms};
use super::{administer, answer};
use crate::problem::Problem;
use crate::router::{Query, Request, Response};
use crate::worker::Worker;

/// `POST /channels/{channel}`: the body is the payload, and the answer comes once the broker has
/// accepted it. Of `application/x-ndjson` each line is a payload, answered as it is done.
///
/// # Errors
///
/// Every refusal of CONTRACT 3; 503 may leave the outcome unknown.
pub async fn publish(
    worker: &Rc<Worker>,
    request: Request,
    channel: ChannelName,
    query: &Query<'_>,
) -> Result<Response, Problem> {
    worker.may_publish(&channel)?;
    let (head, request_body) = request.into_parts();
    let terms = Terms::read(&head.headers, query, &nobody())?;
    if terms.ends {
        may_end(worker, &channel)?;
    }
    if worker.is_draining() {
        return Err(Problem::draining());
    }
    if terms.is_ndjson() {
        if terms.key.is_some() {
            return Err(Problem::invalid(
                "key: one key can't be that of many publications; send them to /publish, each with \
                 its own \"key\"",
            ));
        }
        let entries_max = worker.config.http.max_body;
        let entries = Entries::lines(channel, terms.event, terms.ends, entries_max);
        return streamed(worker, request_body, entries, query);
    }
    let bytes = body::read(request_body, &worker.config.http).await?;
    let is_lone_end = bytes.is_empty() && terms.ends;
    if is_lone_end && terms.event.is_some() {
        return Err(Problem::invalid(
            "an end alone has no event; send a payload with it, or leave the event out",
        ));
    }
    let payload = if is_lone_end { None } else { Some(terms.payload(bytes)?) };
    let Terms { event, key, ends, .. } = terms;
    let command = PublishCommand { channel: channel.clone(), event, payload, key, ends };
    let published = Sink::publish(worker, command)?.await?;
    let (position, is_duplicate) = (published.position(), published.is_duplicate());
    let mut out = Vec::with_capacity(128);
    write_published(None, &channel, position, is_duplicate, &mut out);
    Ok(answer("application/json", out))
}

/// `POST /publish`: JSON values one after another, each a publication with its channel, answered as
/// they are done, while the rest is still on its way.
///
/// # Errors
///
/// Where nothing was read yet: 400, 415 and, while draining, 503. All else is told in the answer,
/// entry by entry.
#[expect(clippy::unused_async, reason = "the form of every handler that takes a body")]
pub async fn publish_many(
    worker: &Rc<Worker>,
    request: Request,
    query: &Query<'_>,
) -> Result<Response, Problem> {
    terms::check_encoding(request.headers())?;
    if worker.is_draining() {
        return Err(Problem::draining());
    }
    let entries = Entries::values(nobody(), worker.config.http.max_body);
    streamed(worker, request.into_body(), entries, query)
}

/// The answer that publishes as it is written.
fn streamed(
    worker: &Rc<Worker>,
    body: RequestBody,
    entries: Entries,
    query: &Query<'_>,
) -> Result<Response, Problem> {
    let told = if query.switch("quiet")?.unwrap_or(false) { Told::Problems } else { Told::All };
    let timeout = worker.config.http.body_timeout;
    let results = Results::new(body, Rc::clone(worker), entries, told, timeout);
    let mut response = Response::new(Box::pin(results));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    // Results are of use as they come, and a proxy would else collect them.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform"));
    headers.insert(ACCEL_BUFFERING, HeaderValue::from_static("no"));
    Ok(response)
}

const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Publishes for whoever has no token, if that is allowed; `origin` is the connection of one that
/// may be subscribed too.
///
/// # Errors
///
/// The refusal, before the broker was asked.
pub fn accept(
    worker: &Worker,
    command: PublishCommand,
    origin: Option<SessionId>,
) -> Result<Outcome, Problem> {
    worker.may_publish(&command.channel)?;
    if command.ends {
        may_end(worker, &command.channel)?;
    }
    if worker.is_draining() {
        return Err(Problem::draining());
    }
    let publisher = Publisher { user: None, origin, time: worker.now(), id: worker.draft_id() };
    Ok(worker.publish(command.into_draft(publisher)))
}

impl Sink for Rc<Worker> {
    fn publish(&self, command: PublishCommand) -> Result<Outcome, Problem> {
        accept(self, command, None)
    }

    fn log(&self, problem: &Problem) -> u128 {
        self.refusals.log(problem)
    }

    fn is_draining(&self) -> bool {
        Worker::is_draining(self)
    }
}

/// Whether whoever has no token may end `channel`.
fn may_end(worker: &Worker, channel: &ChannelName) -> Result<(), Problem> {
    administer(&worker.config, &format!("end channel \"{channel}\""))
}

/// Whose keys they are, where there are no tokens.
fn nobody() -> Arc<str> {
    Arc::from("")
}
