//! Publishing one at a time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use tidegate_core::ChannelName;
use tokio::time::{sleep_until, timeout};

use crate::error::{Error, Failure};
use crate::machine::Head;
use crate::machine::post::{Post, PostConfig, Step};
use crate::message::{Published, word};
use crate::net::http::{Asked, exchange};
use crate::net::{Gateway, Shared, key, seed};
use crate::payload::Payload;

/// A publication before it is sent.
#[derive(Clone, Debug)]
#[must_use = "nothing is published before `send`"]
pub struct Publish {
    gateway: Shared,
    channel: Result<ChannelName, Error>,
    /// `None` for a lone end.
    payload: Option<Payload>,
    event: Option<String>,
    key: Option<String>,
    is_end: bool,
    give_up_after: Duration,
}

impl Publish {
    pub(crate) fn new(
        gateway: Shared,
        channel: Result<ChannelName, Error>,
        payload: Option<Payload>,
    ) -> Self {
        let give_up_after = Duration::from_secs(60);
        Self { gateway, channel, payload, event: None, key: None, is_end: false, give_up_after }
    }

    /// Its event name, 1 to 128 visible ASCII characters; `error`, `open` and `tidegate-…` are the
    /// gateway's own.
    pub fn event(mut self, event: impl Into<String>) -> Self {
        self.event = Some(event.into());
        self
    }

    /// Its idempotency key, 1 to 128 visible ASCII characters: who repeats it within the gateway's
    /// window (2 minutes by default) publishes nothing. Default: one is made for this call, so that
    /// the attempts of one call can't double it.
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Ends the channel after it.
    pub fn end(mut self) -> Self {
        self.is_end = true;
        self
    }

    /// Begins no attempt later than so long from now. Keep it below the time that the gateway keeps
    /// keys (2 minutes by default), or an attempt could double one that nobody heard of.
    /// Default: 60 s.
    pub fn give_up_after(mut self, duration: Duration) -> Self {
        self.give_up_after = duration;
        self
    }

    /// Publishes, again where an attempt fails in a way that may pass: no connection, an answer that
    /// does not come, 429, 503 (`"outcome":"unknown"` too: with the same key that is safe).
    ///
    /// Not cancel safe: who drops it does not know whether it was published. A call with the same
    /// [`Publish::key`] finds out.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] with what the gateway says (an ended channel, a bad payload, no right);
    /// [`Error::Exhausted`] with the last of the failures; [`Error::Usage`] for what can't be sent.
    pub async fn send(self) -> Result<Published, Error> {
        let channel = self.channel.clone()?;
        let headers = self.headers()?;
        let config = PostConfig {
            backoff: self.gateway.backoff,
            deadline: Instant::now() + self.give_up_after,
            attempts_max: self.gateway.attempts_max.unwrap_or(u32::MAX),
            is_own_key: self.key.is_none(),
            seed: seed(),
        };
        let (kind, body) = match &self.payload {
            None => ("", Bytes::new()),
            Some(Payload::Json(bytes)) => ("?as=json", bytes.clone()),
            Some(Payload::Text(bytes)) => ("?as=text", bytes.clone()),
            Some(Payload::Binary { bytes, .. }) => ("?as=binary", bytes.clone()),
        };
        let target = format!("/channels/{channel}{kind}");
        let asked = Asked { method: Method::POST, target: &target, headers };
        let mut post = Post::new(&config);
        loop {
            match post.poll() {
                Step::Done(done) => return done.clone(),
                Step::Wait(until) => {
                    sleep_until((*until).into()).await;
                    post.handle_timeout(Instant::now());
                }
                Step::Send => {
                    let after = self.gateway.timing.open_timeout;
                    let answered = timeout(after, Box::pin(answer(&self.gateway, &asked, &body)));
                    let answered = answered.await.unwrap_or(Err(Failure::Timeout {
                        what: "the answer to a publication",
                        after,
                    }));
                    match answered {
                        Ok((head, body)) => post.handle_answer(&head, &body, Instant::now()),
                        Err(failure) => post.handle_failure(failure, Instant::now()),
                    }
                }
            }
        }
    }

    fn headers(&self) -> Result<Vec<(HeaderName, HeaderValue)>, Error> {
        let word = |what: &str, text: &str| {
            word(what, text)?;
            HeaderValue::from_str(text).map_err(|error| Error::Usage(error.to_string()))
        };
        let made = self.key.is_none().then(key);
        let own = self.key.as_deref().or(made.as_deref()).unwrap_or_default();
        let mut headers = vec![(HeaderName::from_static("idempotency-key"), word("the key", own)?)];
        if let Some(event) = &self.event {
            headers.push((HeaderName::from_static("tidegate-event"), word("the event", event)?));
        }
        if self.is_end {
            let yes = HeaderValue::from_static("true");
            headers.push((HeaderName::from_static("tidegate-end"), yes));
        }
        let content_type = match &self.payload {
            Some(Payload::Binary { content_type, .. }) => content_type.as_deref(),
            Some(Payload::Json(_)) => Some("application/json"),
            Some(Payload::Text(_)) => Some("text/plain;charset=utf-8"),
            None => None,
        };
        if let Some(text) = content_type {
            let value = HeaderValue::from_str(text);
            let value = value.map_err(|_| Error::Usage(format!("{text:?} is no content type")))?;
            headers.push((CONTENT_TYPE, value));
        }
        Ok(headers)
    }
}

/// An answer, whole, and its connection back among the idle ones.
pub(crate) async fn answer(
    gateway: &Arc<Gateway>,
    asked: &Asked<'_>,
    body: &Bytes,
) -> Result<(Head, Vec<u8>), Failure> {
    let mut exchange = exchange(gateway, gateway.take_idle(), asked, body).await?;
    let body = exchange.read(ANSWER_BYTES_MAX).await?;
    let head = exchange.head.clone();
    if let Some(idle) = exchange.into_idle() {
        gateway.keep_idle(idle);
    }
    Ok((head, body))
}

/// Bytes of an answer that are read.
const ANSWER_BYTES_MAX: usize = 64 << 10;
