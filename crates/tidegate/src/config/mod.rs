//! The configuration as it is meant: typed, checked, and the same for every thread.
//!
//! [`Sources::load`] reads a file, the environment and the flags into a [`Config`] (`raw.rs` keeps
//! what was written and where, `read.rs` says what it means, `values.rs` reads sizes, durations
//! and addresses). What is wrong is told as [`Problems`], all that can be found. Sizes are bytes.
//! Fields have the names of their keys; keys, defaults and variables: CONTRACT 13 and 14; access: 11.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::thread;
use std::time::Duration;

use tidegate_core::log::LogBounds;
use tidegate_core::{OutboxBounds, Policy};
use tracing::level_filters::LevelFilter;

mod pattern;
mod problem;
mod raw;
mod read;
mod sources;
#[cfg(test)]
mod tests;
mod values;

pub use pattern::{Pattern, PatternError};
pub use problem::{Place, Problem, Problems};
pub use sources::{Flags, Sources};
pub use values::{parse_address, parse_admin, parse_duration, parse_size, parse_workers};

/// What the gateway was told to be. Never changes once loaded; shared as `Arc<Config>`.
///
/// [`Config::default`] has the defaults of the configuration's table, [`Config::dev`] those of
/// `serve --dev`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where clients connect; at least one, none of them twice. Port 0: any free one.
    pub listen: Vec<SocketAddr>,
    /// Where metrics and the console are.
    pub admin: Admin,
    /// Threads that serve clients, `1..=1024`.
    pub workers: NonZeroUsize,
    /// How long a shutdown may take; zero cuts every stream at once.
    pub drain: Duration,
    /// What is logged, and how.
    pub log: LogConfig,
    /// Where channels live.
    pub broker: BrokerConfig,
    /// What holds for every HTTP request and connection.
    pub http: Http,
    /// What holds for every WebSocket.
    pub websocket: WebSocket,
    /// The `[[channel]]` rules, in the order of the file; use [`Config::channel`].
    pub channels: Vec<ChannelRule>,
    /// The rule of a channel that no other rule matches.
    pub channel_default: ChannelRule,
    /// `--dev`: everything is allowed, but only from loopback (`Host` and `Origin` too, unless
    /// [`Config::insecure`]).
    pub dev: bool,
    /// `--insecure`: lifts the guards of [`Config::dev`]; never set without it.
    pub insecure: bool,
}

/// Where `/metrics` and `/console/` are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admin {
    /// Nowhere.
    Off,
    /// On a listener of their own.
    On(SocketAddr),
    /// On the main listeners: `--dev` without an `admin` of any source.
    Main,
}

/// What is logged, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// The form of a line.
    pub format: LogFormat,
    /// The least important level that is logged.
    pub level: LevelFilter,
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// [`LogFormat::Pretty`] where standard error is a terminal, else [`LogFormat::Json`].
    Auto,
    /// For people.
    Pretty,
    /// One JSON object a line.
    Json,
}

/// Where channels live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerConfig {
    /// Which broker.
    pub url: BrokerUrl,
    /// Bytes of logs kept in this process, over all channels; the idlest are trimmed first.
    pub max_bytes: usize,
    /// How long an idempotency key is remembered; more than zero.
    pub key_window: Duration,
}

/// Which broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BrokerUrl {
    /// `memory:`, the logs of this process, which die with it.
    Memory,
}

/// What holds for every HTTP request and connection. Every duration is more than zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http {
    /// Put before `/channels`, `/publish`, `/connect` and `/console`: empty, or `/a/b` (a slash in
    /// front, none at the end).
    pub prefix: String,
    /// Bytes of one publication (413), at least 1.
    pub max_body: usize,
    /// Bytes of a request target (414), `256..=65_534` and at most [`Http::max_head`].
    pub max_url: usize,
    /// Bytes of a request head (431), `8 KiB..=1 MiB`: hyper reads no smaller one.
    pub max_head: usize,
    /// How long a body may pause before it is given up.
    pub body_timeout: Duration,
    /// How long a head may take from its first byte to its last (408).
    pub header_timeout: Duration,
    /// How long a kept-alive connection may be without a request.
    pub idle_timeout: Duration,
    /// Connections at the same time, over all listeners but the admin's.
    pub max_connections: NonZeroUsize,
    /// Bytes queued for one connection, over all its subscriptions.
    pub max_outbox: usize,
    /// Which web pages may use the gateway, beside its own.
    pub origins: Origins,
}

/// Which `Origin`s are allowed beside the gateway's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origins {
    /// These, as a browser writes them: `https://app.example`, in lower case, without the
    /// scheme's own port.
    Listed(Vec<String>),
    /// `"*"`: every one, but then without credentials.
    Any,
}

/// What holds for every WebSocket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebSocket {
    /// Bytes of one message, inflated (1009), at least 1.
    pub max_message: usize,
    /// Frames of one message.
    pub max_fragments: NonZeroUsize,
    /// How long a client may be silent before it is pinged; more than zero.
    pub ping_interval: Duration,
    /// How long after a ping no byte may come before the client is dropped; more than zero.
    pub ping_timeout: Duration,
    /// Whether permessage-deflate is offered.
    pub deflate: bool,
}

/// What holds for the channels that a pattern matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelRule {
    /// Which channels.
    pub pattern: Pattern,
    /// Who may subscribe and read; [`Access::Anyone`] with `--dev`, whatever was written.
    pub subscribe: Access,
    /// Who may publish; likewise.
    pub publish: Access,
    /// What is kept: at least 1 byte, and for more than no time; 0 messages keep none.
    pub log: LogBounds,
    /// What waits for a slow subscriber: at least 1 message and 1 byte.
    pub outbox: OutboxBounds,
    /// Whether it is told who is there.
    pub presence: bool,
    /// How far its messages may be compressed.
    pub class: Class,
}

/// Who may do something with a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everyone, without a token.
    Anyone,
    /// Whoever has a token that says so. Without keys nobody has one.
    Token,
    /// Nobody at all.
    Nobody,
}

/// How far messages may be compressed (CONTRACT 10, BREACH).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The same for everyone and no user's input: compressed.
    Static,
    /// Users' input but no secrets: compressed in blocks that stand alone.
    Shared,
    /// Secrets beside what a requester can inject: plain.
    Secret,
}

impl Config {
    /// What `tidegate serve --dev` is without a file: the defaults, everything allowed, admin on
    /// the main listener.
    #[must_use]
    pub fn dev() -> Self {
        Self {
            dev: true,
            admin: Admin::Main,
            channel_default: ChannelRule::open(Pattern::everything()),
            ..Self::default()
        }
    }

    /// The rule of a channel: the first that matches, else [`Config::channel_default`].
    ///
    /// `name` is a legal channel name; what is none may match anything or nothing.
    #[must_use]
    pub fn channel(&self, name: &str) -> &ChannelRule {
        self.channels
            .iter()
            .find(|rule| rule.pattern.matches(name))
            .unwrap_or(&self.channel_default)
    }

    /// Whether presence is on for any channel.
    #[must_use]
    pub fn has_presence(&self) -> bool {
        self.channel_default.presence || self.channels.iter().any(|rule| rule.presence)
    }

    /// What is dangerous in it, one sentence each, to be said at every start.
    #[must_use]
    pub fn warnings(&self) -> Vec<&'static str> {
        let mut warnings = Vec::new();
        if self.insecure {
            warnings.push(
                "--insecure: whoever reaches this gateway may read, publish and drop everything, \
                 and so may every web page that a browser near it opens",
            );
        }
        if self.http.origins == Origins::Any {
            warnings.push(
                "http.origins is \"*\": every web page may use this gateway with what its \
                 visitor's network and tokens allow",
            );
        }
        warnings
    }
}

impl Default for Config {
    fn default() -> Self {
        let localhost = IpAddr::V4(Ipv4Addr::LOCALHOST);
        Self {
            listen: vec![SocketAddr::new(localhost, 8080)],
            admin: Admin::On(SocketAddr::new(localhost, 9180)),
            workers: thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            drain: Duration::from_secs(30),
            log: LogConfig { format: LogFormat::Auto, level: LevelFilter::INFO },
            broker: BrokerConfig {
                url: BrokerUrl::Memory,
                max_bytes: 1 << 30,
                key_window: Duration::from_secs(120),
            },
            http: Http {
                prefix: String::new(),
                max_body: 1 << 20,
                max_url: 8 << 10,
                max_head: 16 << 10,
                body_timeout: Duration::from_secs(30),
                header_timeout: Duration::from_secs(10),
                idle_timeout: Duration::from_secs(75),
                max_connections: const { NonZeroUsize::new(100_000).unwrap() },
                max_outbox: 4 << 20,
                origins: Origins::Listed(Vec::new()),
            },
            websocket: WebSocket {
                max_message: 1 << 20,
                max_fragments: const { NonZeroUsize::new(131_072).unwrap() },
                ping_interval: Duration::from_secs(30),
                ping_timeout: Duration::from_secs(10),
                deflate: true,
            },
            channels: Vec::new(),
            channel_default: ChannelRule::new(Pattern::everything()),
            dev: false,
            insecure: false,
        }
    }
}

impl ChannelRule {
    /// Whether what is published can never be read again.
    #[must_use]
    pub fn keeps_none(&self) -> bool {
        self.log.messages == 0
    }

    /// The defaults, for the channels that `pattern` matches.
    #[must_use]
    pub fn new(pattern: Pattern) -> Self {
        Self {
            pattern,
            subscribe: Access::Token,
            publish: Access::Token,
            log: LogBounds { messages: 10_000, bytes: 4 << 20, age: Duration::from_secs(600) },
            outbox: OutboxBounds { messages: 1000, bytes: 1 << 20, policy: Policy::Spill },
            presence: false,
            class: Class::default_for(Access::Token),
        }
    }

    /// The defaults of `--dev`, for the channels that `pattern` matches: everyone may do everything.
    #[must_use]
    pub fn open(pattern: Pattern) -> Self {
        Self {
            subscribe: Access::Anyone,
            publish: Access::Anyone,
            class: Class::default_for(Access::Anyone),
            ..Self::new(pattern)
        }
    }
}

impl Class {
    /// The class of a channel whose rule names none.
    fn default_for(subscribe: Access) -> Self {
        match subscribe {
            Access::Anyone => Self::Shared,
            Access::Token | Access::Nobody => Self::Secret,
        }
    }
}

impl Origins {
    /// Whether a request's `Origin` is one of these. The gateway's own is the caller's to know.
    #[must_use]
    pub fn allow(&self, origin: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Listed(origins) => origins.iter().any(|it| it.eq_ignore_ascii_case(origin)),
        }
    }
}
