//! A gateway to talk to, and how.

use std::time::Duration;

use http::header::{HeaderName, HeaderValue};
use tidegate_wire::websocket::DeflateOffer;

use crate::connection::{self, Connection, Pushes};
use crate::error::Error;
use crate::machine::backoff::BackoffConfig;
use crate::machine::{Limits, Timing};
use crate::message::name;
use crate::net::{Gateway, Shared};
use crate::payload::Payload;
use crate::publish::Publish;
use crate::publisher::{self, Outcomes, Publisher};
use crate::subscription::Subscribe;
use crate::url::{Url, UrlError};

/// A gateway to talk to. It opens no connection until something is asked for.
///
/// Cloning is cheap, and clones share what was learnt: which wire works, which connections are
/// alive. It needs a tokio runtime with time and IO.
#[derive(Clone, Debug)]
pub struct Client {
    pub(crate) gateway: Shared,
}

impl Client {
    /// A client of `http://host[:port][/prefix]`, with the defaults.
    ///
    /// # Errors
    ///
    /// [`UrlError`], which says what is wrong and what to write instead.
    pub fn new(url: &str) -> Result<Self, UrlError> {
        Ok(Self::builder(Url::parse(url)?).build())
    }

    /// A client of this gateway, in whose ways there is a say.
    #[must_use]
    pub fn builder(url: Url) -> ClientBuilder {
        ClientBuilder { gateway: Gateway::new(url) }
    }

    /// The gateway.
    #[must_use]
    pub fn url(&self) -> &Url {
        &self.gateway.url
    }

    /// Subscribes to channels, 1 to 100, none twice.
    pub fn subscribe<C: AsRef<str>>(&self, channels: impl IntoIterator<Item = C>) -> Subscribe {
        let channels = channels.into_iter().map(|it| name(it.as_ref()));
        Subscribe::new(Shared::clone(&self.gateway), channels.collect())
    }

    /// Publishes to a channel.
    pub fn publish(&self, channel: &str, payload: impl Into<Payload>) -> Publish {
        Publish::new(Shared::clone(&self.gateway), name(channel), Some(payload.into()))
    }

    /// Publishes many, to any channels, over one connection.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    #[must_use]
    pub fn publisher(&self) -> (Publisher, Outcomes) {
        publisher::open(Shared::clone(&self.gateway))
    }

    /// An enveloped connection: many channels, and commands with their replies, on one WebSocket. It
    /// connects at once.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    #[must_use]
    pub fn connect(&self) -> (Connection, Pushes) {
        connection::open(Shared::clone(&self.gateway), COMMAND_TIMEOUT)
    }

    /// Ends a channel, with nothing published before.
    pub fn end(&self, channel: &str) -> Publish {
        Publish::new(Shared::clone(&self.gateway), name(channel), None).end()
    }
}

/// How long a command on an enveloped connection may take, with all its attempts.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);

/// What a [`Client`] is to be.
#[derive(Debug)]
pub struct ClientBuilder {
    gateway: Gateway,
}

impl ClientBuilder {
    /// Sends this header with every request and handshake.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] where HTTP does not allow it (RFC 9110 §5).
    pub fn header(mut self, name: &str, value: &str) -> Result<Self, Error> {
        let wrong = || Error::Usage(format!("{name:?} with its value is no legal header"));
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong())?;
        let value = HeaderValue::from_str(value).map_err(|_| wrong())?;
        self.gateway.headers.push((name, value));
        Ok(self)
    }

    /// Bounds on what the gateway can make us keep.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.gateway.limits = limits;
        self
    }

    /// How long things may take.
    #[must_use]
    pub fn timing(mut self, timing: Timing) -> Self {
        self.gateway.timing = timing;
        self
    }

    /// When to try again.
    #[must_use]
    pub fn backoff(mut self, backoff: BackoffConfig) -> Self {
        self.gateway.backoff = backoff;
        self
    }

    /// Gives up after so many attempts in a row that failed, 1 or more. Otherwise a subscription
    /// tries for ever, and a publication until its deadline.
    #[must_use]
    pub fn attempts_max(mut self, attempts_max: u32) -> Self {
        self.gateway.attempts_max = Some(attempts_max.max(1));
        self
    }

    /// Whether WebSockets offer permessage-deflate (RFC 7692). Default: yes.
    #[must_use]
    pub fn deflate(mut self, is_offered: bool) -> Self {
        self.gateway.deflate = is_offered.then(DeflateOffer::default);
        self
    }

    /// The client.
    #[must_use]
    pub fn build(self) -> Client {
        Client { gateway: Shared::new(self.gateway) }
    }
}
