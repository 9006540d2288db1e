//! From what was written to what is meant: every key is read once, with its type, its range and
//! its default; then what holds between keys is checked. A mistake never stops the reading.

use std::net::SocketAddr;
use std::num::NonZeroUsize;

use tracing::level_filters::LevelFilter;

use super::problem::{Place, Problem};
use super::raw::{self, Entry, Table, Value, Written};
use super::sources::{Flags, Overlay};
use super::values::{self, COUNT_MAX};
use super::{
    Access, Admin, BrokerConfig, BrokerUrl, ChannelRule, Class, Config, Http, LogBounds, LogConfig,
    LogFormat, Origins, OutboxBounds, Pattern, Policy, WebSocket,
};

/// Reads everything; what is wrong is added to `problems`, and has its default in the result.
pub(super) fn config(
    file: &Table,
    overlay: &Overlay,
    flags: &Flags,
    problems: &mut Vec<Problem>,
) -> Config {
    let mut reader = Reader { overlay, flags, problems };
    let root = Section { path: "", table: Some(file) };
    reader.refuse_unknown(&root);
    for key in ["tls", "auth", "limit", "route"] {
        reader.refuse_later(&root, key);
    }

    let default = if flags.dev { Config::dev() } else { Config::default() };
    let config = Config {
        listen: reader.listen(&root, default.listen),
        admin: reader.key(&root, "admin", default.admin, values::admin),
        workers: reader.key(&root, "workers", default.workers, values::workers),
        drain: reader.key(&root, "drain", default.drain, values::duration),
        log: reader.log(&root, default.log),
        broker: reader.broker(&root, default.broker),
        http: reader.http(&root, default.http),
        websocket: reader.websocket(&root, &default.websocket),
        channels: reader.channels(&root),
        channel_default: default.channel_default,
        dev: flags.dev,
        insecure: flags.insecure,
    };
    reader.grpc(&root);
    reader.check_addresses(&root, &config);
    config
}

/// A table of the file, with its dotted path. Without one the overlay is all there is.
struct Section<'a> {
    path: &'a str,
    table: Option<&'a Table>,
}

struct Reader<'a> {
    overlay: &'a Overlay,
    flags: &'a Flags,
    problems: &'a mut Vec<Problem>,
}

impl<'a> Reader<'a> {
    fn listen(&mut self, root: &Section<'a>, default: Vec<SocketAddr>) -> Vec<SocketAddr> {
        let problems_before = self.problems.len();
        let Some(list) = self.list(root, "listen", values::address) else { return default };
        if list.is_empty() && self.problems.len() == problems_before {
            self.refuse(root, "listen", "is empty; allowed is one address or more");
        }
        list
    }

    fn log(&mut self, root: &Section<'a>, default: LogConfig) -> LogConfig {
        let section = self.section(root, "log", "log");
        let format = |value: &Value| {
            let formats = [
                ("auto", LogFormat::Auto),
                ("pretty", LogFormat::Pretty),
                ("json", LogFormat::Json),
            ];
            values::choice(value, &formats, &[])
        };
        let level = |value: &Value| {
            let levels = [
                ("off", LevelFilter::OFF),
                ("error", LevelFilter::ERROR),
                ("warn", LevelFilter::WARN),
                ("info", LevelFilter::INFO),
                ("debug", LevelFilter::DEBUG),
                ("trace", LevelFilter::TRACE),
            ];
            values::choice(value, &levels, &[])
        };
        LogConfig {
            format: self.key(&section, "format", default.format, format),
            level: self.key(&section, "level", default.level, level),
        }
    }

    fn broker(&mut self, root: &Section<'a>, default: BrokerConfig) -> BrokerConfig {
        let section = self.section(root, "broker", "broker");
        BrokerConfig {
            url: self.key(&section, "url", default.url, broker_url),
            max_bytes: self.key(&section, "max_bytes", default.max_bytes, values::some_size),
            key_window: self.key(&section, "key_window", default.key_window, values::some_duration),
        }
    }

    fn http(&mut self, root: &Section<'a>, default: Http) -> Http {
        let section = self.section(root, "http", "http");
        let (duration, size) = (values::some_duration, values::some_size);
        // A target of more than 65,534 bytes is refused by the `http` crate whatever we say.
        let url = |value: &Value| values::size(value, &(256..=65_534));
        let head = |value: &Value| values::size(value, &((8 << 10)..=(1 << 20)));
        let http = Http {
            prefix: self.key(&section, "prefix", default.prefix, values::prefix),
            max_body: self.key(&section, "max_body", default.max_body, size),
            max_url: self.key(&section, "max_url", default.max_url, url),
            max_head: self.key(&section, "max_head", default.max_head, head),
            body_timeout: self.key(&section, "body_timeout", default.body_timeout, duration),
            header_timeout: self.key(&section, "header_timeout", default.header_timeout, duration),
            idle_timeout: self.key(&section, "idle_timeout", default.idle_timeout, duration),
            max_connections: self.key(
                &section,
                "max_connections",
                default.max_connections,
                values::count,
            ),
            max_outbox: self.key(&section, "max_outbox", default.max_outbox, size),
            origins: match self.list(&section, "origins", values::origin) {
                None => default.origins,
                Some(list) if list.iter().any(|it| it == "*") => Origins::Any,
                Some(list) => Origins::Listed(list),
            },
        };
        if http.max_url > http.max_head {
            let (url, head) = (values::show_size(http.max_url), values::show_size(http.max_head));
            let message = format!("{url} is more than http.max_head; allowed is at most {head}");
            let key = if self.find(&section, "max_url").is_some() { "max_url" } else { "max_head" };
            self.refuse(&section, key, &message);
        }
        if self.list(&section, "trusted_proxies", |_| Ok(())).is_some_and(|it| !it.is_empty()) {
            self.refuse(&section, "trusted_proxies", "is not yet in this version; allowed is []");
        }
        self.key(&section, "proxy_protocol", (), |value| {
            values::choice(value, &[("off", ())], &["optional", "required"])
        });
        http
    }

    fn websocket(&mut self, root: &Section<'a>, default: &WebSocket) -> WebSocket {
        let section = self.section(root, "websocket", "websocket");
        let duration = values::some_duration;
        WebSocket {
            max_message: self.key(&section, "max_message", default.max_message, values::some_size),
            max_fragments: self.key(
                &section,
                "max_fragments",
                default.max_fragments,
                values::count,
            ),
            ping_interval: self.key(&section, "ping_interval", default.ping_interval, duration),
            ping_timeout: self.key(&section, "ping_timeout", default.ping_timeout, duration),
            deflate: self.key(&section, "deflate", default.deflate, values::boolean),
        }
    }

    fn grpc(&mut self, root: &Section<'a>) {
        const DEFAULT: usize = 1 << 20;
        let section = self.section(root, "grpc", "grpc");
        self.key(&section, "max_message", (), |value| match values::some_size(value)? {
            DEFAULT => Ok(()),
            _ => Err(format!("{value} is not yet in this version; allowed is \"1MiB\"")),
        });
    }

    fn channels(&mut self, root: &Section<'a>) -> Vec<ChannelRule> {
        let Some(entry) = root.table.and_then(|table| table.find("channel")) else {
            return Vec::new();
        };
        let Value::List(items) = &entry.written.value else {
            let message =
                format!("{} is no list of tables; allowed is [[channel]]", entry.written.value);
            self.refuse(root, "channel", &message);
            return Vec::new();
        };
        items.iter().filter_map(|item| self.channel(item)).collect()
    }

    /// One `[[channel]]`; `None` if nobody can say for which channels it is.
    fn channel(&mut self, item: &'a Written) -> Option<ChannelRule> {
        let Value::Table(table) = &item.value else {
            let message = format!("{} is no table; allowed is [[channel]]", item.value);
            self.push(&item.place, "channel", message);
            return None;
        };
        let section = Section { path: "channel", table: Some(table) };
        self.refuse_unknown(&section);
        if table.find("match").is_none() {
            self.push(&item.place, "channel.match", format!("is missing; {PATTERN}"));
        }
        let pattern = self.key(&section, "match", None, |value| pattern(value).map(Some));

        // Read all of it, whatever the pattern is, so that all its mistakes are told.
        let default = ChannelRule::new(Pattern::everything());
        let mut subscribe = self.key(&section, "subscribe", default.subscribe, access);
        let mut publish = self.key(&section, "publish", default.publish, access);
        if self.flags.dev {
            (subscribe, publish) = (Access::Anyone, Access::Anyone);
        }
        let class = self.key(&section, "class", Class::default_for(subscribe), |value| {
            let classes =
                [("static", Class::Static), ("shared", Class::Shared), ("secret", Class::Secret)];
            values::choice(value, &classes, &[])
        });
        let presence = self.key(&section, "presence", false, values::boolean);
        let log = self.log_bounds(&section, default.log);
        let outbox = self.outbox_bounds(&section, default.outbox);
        Some(ChannelRule { pattern: pattern?, subscribe, publish, log, outbox, presence, class })
    }

    fn log_bounds(&mut self, channel: &Section<'a>, default: LogBounds) -> LogBounds {
        let section = self.section(channel, "log", "channel.log");
        let messages = |value: &Value| values::whole(value, &(0..=COUNT_MAX));
        LogBounds {
            messages: self.key(&section, "messages", default.messages, messages),
            bytes: self.key(&section, "bytes", default.bytes, values::some_size),
            age: self.key(&section, "age", default.age, values::some_duration),
        }
    }

    fn outbox_bounds(&mut self, channel: &Section<'a>, default: OutboxBounds) -> OutboxBounds {
        let section = self.section(channel, "outbox", "channel.outbox");
        let policy = |value: &Value| {
            let policies =
                [Policy::Spill, Policy::DropOldest, Policy::Conflate, Policy::Disconnect];
            values::choice(value, &policies.map(|it| (it.as_str(), it)), &[])
        };
        let messages = |value: &Value| values::count(value).map(NonZeroUsize::get);
        OutboxBounds {
            messages: self.key(&section, "messages", default.messages, messages),
            bytes: self.key(&section, "bytes", default.bytes, values::some_size),
            policy: self.key(&section, "policy", default.policy, policy),
        }
    }

    /// Each address once, and only where strangers can't come, as long as there are no keys.
    fn check_addresses(&mut self, root: &Section<'a>, config: &Config) {
        if self.flags.insecure && !self.flags.dev {
            let place = Place::Flag("--insecure");
            self.push(&place, "", "needs --dev; allowed is --dev --insecure".to_owned());
        }
        let mut seen = Vec::new();
        for &address in &config.listen {
            self.check_loopback(root, "listen", address);
            // Port 0 is another port each time.
            if seen.contains(&address) && address.port() != 0 {
                let message = format!("{address} is there twice; allowed is each address once");
                self.refuse(root, "listen", &message);
            }
            seen.push(address);
        }
        let Admin::On(address) = config.admin else { return };
        self.check_loopback(root, "admin", address);
        if seen.contains(&address) && address.port() != 0 {
            let message = format!(
                "{address} is the address of listen and of admin; allowed is one for each, or \
                 admin = \"off\""
            );
            let key = if self.find(root, "admin").is_some() { "admin" } else { "listen" };
            self.refuse(root, key, &message);
        }
    }

    fn check_loopback(&mut self, root: &Section<'a>, key: &str, address: SocketAddr) {
        if self.flags.insecure || address.ip().to_canonical().is_loopback() {
            return;
        }
        let why = if self.flags.dev {
            "with --dev everyone who reaches it may do everything; allowed is a loopback address \
             (127.0.0.1, [::1]), or any with --dev --insecure"
        } else {
            "without keys only loopback is served; allowed is a loopback address (127.0.0.1, \
             [::1]), as keys are not yet in this version, or any with --dev --insecure"
        };
        self.refuse(root, key, &format!("{address} can be reached from elsewhere, and {why}"));
    }
}

/// How keys are looked up and mistakes told.
impl<'a> Reader<'a> {
    /// What a key was set to, by whichever source wins.
    fn find(&self, section: &Section<'a>, key: &str) -> Option<&'a Written> {
        let in_file = || section.table?.find(key).map(|entry| &entry.written);
        // `[[channel]]` has no variables, and its path is that of no key that has.
        self.overlay.get(&raw::dotted(section.path, key)).or_else(in_file)
    }

    fn key<T>(
        &mut self,
        section: &Section<'a>,
        key: &str,
        default: T,
        read: impl Fn(&Value) -> Result<T, String>,
    ) -> T {
        let Some(written) = self.find(section, key) else { return default };
        read(&written.value).unwrap_or_else(|message| {
            self.push(&written.place, &raw::dotted(section.path, key), message);
            default
        })
    }

    /// A list, as far as its items can be read; `None` if it was not set, or is no list.
    fn list<T>(
        &mut self,
        section: &Section<'a>,
        key: &str,
        read: impl Fn(&Value) -> Result<T, String>,
    ) -> Option<Vec<T>> {
        let written = self.find(section, key)?;
        let key = raw::dotted(section.path, key);
        let mut list = Vec::new();
        let mut item = |place: &Place, value: &Value| match read(value) {
            Ok(it) => list.push(it),
            Err(message) => self.push(place, &key, message),
        };
        match &written.value {
            Value::List(items) => items.iter().for_each(|it| item(&it.place, &it.value)),
            // A variable has no quotes and no brackets.
            Value::Plain(text) if text.is_empty() => {}
            Value::Plain(text) => text
                .split(',')
                .for_each(|it| item(&written.place, &Value::Plain(it.trim().to_owned()))),
            other => {
                self.push(
                    &written.place,
                    &key,
                    format!("{other} is no list; allowed is [\"…\", \"…\"]"),
                );
                return None;
            }
        }
        Some(list)
    }

    /// A table within another, whose unknown keys are refused.
    fn section(&mut self, parent: &Section<'a>, key: &str, path: &'a str) -> Section<'a> {
        let entry = parent.table.and_then(|table| table.find(key));
        let table = match entry.map(|entry| &entry.written) {
            None => None,
            Some(Written { value: Value::Table(table), .. }) => Some(table),
            Some(Written { value, place }) => {
                let keys = keys_of(path).join(", ");
                self.push(
                    place,
                    path,
                    format!("{value} is no table; allowed is a table of {keys}"),
                );
                None
            }
        };
        let section = Section { path, table };
        self.refuse_unknown(&section);
        section
    }

    fn refuse_unknown(&mut self, section: &Section<'a>) {
        let known = keys_of(section.path);
        for Entry { key, place, .. } in section.table.iter().flat_map(|table| &table.0) {
            if !known.contains(&key.as_str()) {
                let nearest = raw::nearest_key(section.path, key).unwrap_or_default();
                let message = format!("there is no such key; the nearest is {nearest}");
                self.push(place, &raw::dotted(section.path, key), message);
            }
        }
    }

    /// Refuses a section of a version to come, and its variables.
    fn refuse_later(&mut self, root: &Section<'a>, key: &str) {
        const LATER: &str = "is not yet in this version; leave it out";
        if let Some(entry) = root.table.and_then(|table| table.find(key)) {
            self.push(&entry.place, key, LATER.to_owned());
        }
        let prefix = format!("{key}.");
        for written in self.overlay.iter().filter(|(key, _)| key.starts_with(&prefix)) {
            self.push(&written.1.place, written.0, LATER.to_owned());
        }
    }

    /// Tells a mistake of a key that was read before, at the place where it was set.
    fn refuse(&mut self, section: &Section<'a>, key: &str, message: &str) {
        let place = self.find(section, key).map_or(Place::Default, |it| it.place.clone());
        self.push(&place, &raw::dotted(section.path, key), message.to_owned());
    }

    fn push(&mut self, place: &Place, key: &str, message: String) {
        let key = (!key.is_empty()).then(|| key.to_owned());
        self.problems.push(Problem { place: place.clone(), key, message });
    }
}

const PATTERN: &str = "allowed is a channel's name in which * is one segment and a last > is one \
                       or more: \"chat\", \"prices.*\", \"prices.>\"";

fn pattern(value: &Value) -> Result<Pattern, String> {
    let text = values::text(value, PATTERN)?;
    text.parse().map_err(|error| format!("{text:?} is no pattern, {error}; {PATTERN}"))
}

fn access(value: &Value) -> Result<Access, String> {
    let now = [("anyone", Access::Anyone), ("nobody", Access::Nobody)];
    values::choice(value, &now, &["token"])
}

/// Never shows more of a URL than its scheme: there may be a password in it.
fn broker_url(value: &Value) -> Result<BrokerUrl, String> {
    const ALLOWED: &str = "allowed is \"memory:\"";
    const LATER: &[&str] = &["file", "redis", "rediss", "nats", "kafka", "amqp"];
    let text = values::text(value, ALLOWED)?;
    match text.split_once(':') {
        Some(("memory", "")) => Ok(BrokerUrl::Memory),
        Some(("memory", _)) => Err(format!("has more than \"memory:\"; {ALLOWED}")),
        Some((scheme, _)) if LATER.contains(&scheme) => {
            Err(format!("\"{scheme}:\" is not yet in this version; {ALLOWED}"))
        }
        Some((scheme, _)) => Err(format!("\"{scheme}:\" is no broker; {ALLOWED}")),
        None => Err(format!("is no broker's URL; {ALLOWED}")),
    }
}

fn keys_of(path: &str) -> &'static [&'static str] {
    raw::SECTIONS.iter().find(|(section, _)| *section == path).map_or(&[], |(_, keys)| keys)
}
