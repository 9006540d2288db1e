//! Where a gateway is: `http://host:port/prefix`, and a channel's URL as people paste it
//! (`http://host:port/channels/prices?since=start`, CONTRACT 2).
//!
//! The scheme says whether there is TLS and nothing else: `ws` is `http`, since one port serves
//! every wire.

use std::fmt;
use std::str::FromStr;

use percent_encoding::percent_decode_str;
use tidegate_core::channel::{CHANNELS_MAX, ChannelName, ChannelNameError};

use crate::event::{CursorError, Since};

/// Longest URL that is taken, in bytes; the gateway's own bound on a request's target.
const URL_BYTES_MAX: usize = 8 << 10;

/// The base of a gateway, under which it has `/channels`, `/publish` and `/connect`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    host: Box<str>,
    port: u16,
    /// Nothing, or with a slash in front and none behind.
    prefix: Box<str>,
}

impl Url {
    /// Reads `http://host[:port][/prefix]`, or the same with `ws`.
    ///
    /// # Errors
    ///
    /// [`UrlError`], which says what is wrong and what to write instead.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        let (url, query) = Self::split(text)?;
        if query.is_some() {
            return Err(UrlError::Query("a gateway's URL has no query".into()));
        }
        Ok(url)
    }

    /// The host: a name, an IPv4 address, or an IPv6 address without its brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port; 80 where the URL names none.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What stands before `/channels` in each path: nothing, or `/…`.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Host and port as the `Host` header has them (RFC 9110 §7.2).
    #[must_use]
    pub fn authority(&self) -> String {
        let host = &self.host;
        match (host.contains(':'), self.port) {
            (true, 80) => format!("[{host}]"),
            (true, port) => format!("[{host}]:{port}"),
            (false, 80) => host.to_string(),
            (false, port) => format!("{host}:{port}"),
        }
    }

    /// Splits `ws://host[:port]/path[?query]` into where that is and what to ask for there.
    pub(crate) fn with_target(text: &str) -> Result<(Self, String), UrlError> {
        let (mut url, query) = Self::split(text)?;
        let path = std::mem::take(&mut url.prefix);
        let path = if path.is_empty() { "/" } else { &path };
        let target = query.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
        Ok((url, target))
    }

    /// The URL and the query, which is not decoded.
    fn split(text: &str) -> Result<(Self, Option<&str>), UrlError> {
        if text.len() > URL_BYTES_MAX {
            return Err(UrlError::TooLong(text.len()));
        }
        if let Some(found) = text.chars().find(|it| !it.is_ascii_graphic()) {
            return Err(UrlError::Character(found));
        }
        let (scheme, rest) = text.split_once("://").ok_or(UrlError::NoScheme)?;
        match scheme.to_ascii_lowercase().as_str() {
            "http" | "ws" => {}
            "https" | "wss" => return Err(UrlError::Tls),
            _ => return Err(UrlError::Scheme(scheme.into())),
        }
        let (rest, _) = rest.split_once('#').unwrap_or((rest, ""));
        let (rest, query) = match rest.split_once('?') {
            Some((rest, query)) => (rest, Some(query)),
            None => (rest, None),
        };
        let at = rest.find('/').unwrap_or(rest.len());
        let (authority, path) = rest.split_at(at);
        if authority.contains('@') {
            return Err(UrlError::User);
        }
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']').ok_or(UrlError::Host)?;
                let is_v6 = host.parse::<std::net::Ipv6Addr>().is_ok();
                let port = match port.strip_prefix(':') {
                    _ if !is_v6 => return Err(UrlError::Host),
                    Some(port) => Some(port),
                    None if port.is_empty() => None,
                    None => return Err(UrlError::Host),
                };
                (host, port)
            }
            None => match authority.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            },
        };
        if host.is_empty() || host.contains(['[', ']', '\\', '"', '<', '>', '%']) {
            return Err(UrlError::Host);
        }
        let port = match port {
            None | Some("") => 80,
            Some(port) => port.parse().map_err(|_| UrlError::Port(port.into()))?,
        };
        let prefix = path.trim_end_matches('/').into();
        Ok((Self { host: host.into(), port, prefix }, query))
    }
}

impl FromStr for Url {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        Self::parse(text)
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.authority(), self.prefix)
    }
}

/// The URL of one channel, or of several joined by commas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelUrl {
    /// The gateway.
    pub gateway: Url,
    /// Its channels: 1 to 100, none twice.
    pub channels: Vec<ChannelName>,
    /// Where to begin, if the URL says so (`?since=` or `?last=`).
    pub since: Option<Since>,
}

impl ChannelUrl {
    /// Reads `http://host[:port][/prefix]/channels/{channel}[,…][?since=…|?last=N]`.
    ///
    /// # Errors
    ///
    /// [`UrlError`], which says what is wrong and what to write instead.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        let (mut gateway, query) = Url::split(text)?;
        let path = std::mem::take(&mut gateway.prefix);
        let (prefix, names) = path.rsplit_once("/channels/").ok_or(UrlError::NoChannel)?;
        gateway.prefix = prefix.into();
        if names.contains('/') {
            return Err(UrlError::NoChannel);
        }
        let names = percent_decode_str(names).decode_utf8().map_err(|_| UrlError::NoChannel)?;
        let mut channels = Vec::new();
        for name in names.split(',') {
            let channel = ChannelName::parse(name)?;
            if channels.contains(&channel) {
                return Err(UrlError::Twice(channel));
            }
            channels.push(channel);
        }
        if channels.len() > CHANNELS_MAX {
            return Err(UrlError::TooMany(channels.len()));
        }
        let mut since = None;
        for pair in query.unwrap_or_default().split('&').filter(|it| !it.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let begin = match name {
                "since" => value.parse::<Since>()?,
                "last" => {
                    let count = value
                        .parse()
                        .map_err(|_| UrlError::Query(format!("last={value} is no whole number")))?;
                    Since::Last(count)
                }
                name => {
                    return Err(UrlError::Query(format!(
                        "{name:?} is not for a client's URL; since and last are"
                    )));
                }
            };
            if since.replace(begin).is_some() {
                return Err(UrlError::Query("since and last exclude each other".into()));
            }
        }
        Ok(Self { gateway, channels, since })
    }
}

impl FromStr for ChannelUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        Self::parse(text)
    }
}

/// Why a URL was refused; the caller's fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// A channel in it.
    #[error(transparent)]
    Channel(#[from] ChannelNameError),
    /// A character that no URL has.
    #[error("a URL has no {0:?}; encode it with %, or leave it out")]
    Character(char),
    /// A cursor in it.
    #[error(transparent)]
    Cursor(#[from] CursorError),
    /// No host, or none that is legal.
    #[error("the URL names no host; write http://127.0.0.1:8080")]
    Host,
    /// It ends before `/channels/{channel}`, or goes on after it.
    #[error("the URL is not a channel's; write http://127.0.0.1:8080/channels/prices")]
    NoChannel,
    /// No `://`.
    #[error("the URL has no scheme; write http:// in front of it")]
    NoScheme,
    /// A port that is none.
    #[error("port {0:?} is not one of 0 to 65535")]
    Port(String),
    /// A query that is not for here.
    #[error("{0}")]
    Query(String),
    /// A scheme of something else.
    #[error("the scheme {0:?} is not spoken here; http and ws are")]
    Scheme(String),
    /// `https` or `wss`.
    #[error(
        "TLS (https, wss) is not in this version yet; use http or ws, on loopback or behind a proxy"
    )]
    Tls,
    /// Over 8 KiB.
    #[error("the URL has {0} bytes; at most 8192 are allowed")]
    TooLong(usize),
    /// Over 100.
    #[error("{0} channels are named; at most 100 are allowed in one URL")]
    TooMany(usize),
    /// A channel twice.
    #[error("channel {0} is named twice; name each channel once")]
    Twice(ChannelName),
    /// `user@`.
    #[error("the URL has a user; gateways know tokens, not users with passwords")]
    User,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expect: Result<(&str, u16, &str, &str), UrlError>) {
        let url = Url::parse(text);
        let parts = url.as_ref().map(|it| (it.host(), it.port(), it.prefix(), it.authority()));
        let expect = expect.map(|(host, port, prefix, it)| (host, port, prefix, it.to_owned()));
        assert_eq!(parts.map_err(Clone::clone), expect);
    }

    #[test]
    fn a_gateway_is_host_port_and_prefix() {
        check("http://a.example", Ok(("a.example", 80, "", "a.example")));
        check("ws://127.0.0.1:8080/", Ok(("127.0.0.1", 8080, "", "127.0.0.1:8080")));
        check("HTTP://a:80/rt//", Ok(("a", 80, "/rt", "a")));
        check("http://[::1]:9/x/y", Ok(("::1", 9, "/x/y", "[::1]:9")));
        check("http://[::1]", Ok(("::1", 80, "", "[::1]")));
    }

    #[test]
    fn what_is_no_gateway_says_what_to_write() {
        check("127.0.0.1:8080", Err(UrlError::NoScheme));
        check("https://a", Err(UrlError::Tls));
        check("wss://a", Err(UrlError::Tls));
        check("ftp://a", Err(UrlError::Scheme("ftp".into())));
        check("http://", Err(UrlError::Host));
        check("http://[zz]", Err(UrlError::Host));
        check("http://[::1]x", Err(UrlError::Host));
        check("http://a:99999", Err(UrlError::Port("99999".into())));
        check("http://me:secret@a", Err(UrlError::User));
        check("http://a b", Err(UrlError::Character(' ')));
        check("http://a/\r\nHost: b", Err(UrlError::Character('\r')));
        assert!(matches!(Url::parse("http://a?x=1"), Err(UrlError::Query(_))));
        assert!(matches!(Url::parse(&"x".repeat(9000)), Err(UrlError::TooLong(9000))));
    }

    #[test]
    fn a_channels_url_has_channels_and_where_to_begin() {
        let url = ChannelUrl::parse("http://a:1/rt/channels/x.y,z%2Cw?last=5").unwrap();
        assert_eq!(url.gateway.to_string(), "http://a:1/rt");
        let names: Vec<_> = url.channels.iter().map(ChannelName::as_str).collect();
        assert_eq!(names, ["x.y", "z", "w"]);
        assert_eq!(url.since, Some(Since::Last(5)));
        let begin = |text: &str| ChannelUrl::parse(&format!("ws://a/channels/x?{text}"));
        assert_eq!(begin("since=start").unwrap().since, Some(Since::Start));
        assert_eq!(begin("").unwrap().since, None);
        assert!(matches!(begin("since=now&last=1"), Err(UrlError::Query(_))));
        assert!(matches!(begin("wire=ws"), Err(UrlError::Query(_))));
        assert!(matches!(begin("since=nowhere"), Err(UrlError::Cursor(_))));
    }

    #[test]
    fn what_is_no_channel_is_told() {
        for text in ["http://a", "http://a/channels", "http://a/channels/x/presence"] {
            assert_eq!(ChannelUrl::parse(text), Err(UrlError::NoChannel));
        }
        assert!(matches!(ChannelUrl::parse("http://a/channels/x,x"), Err(UrlError::Twice(_))));
        assert!(matches!(ChannelUrl::parse("http://a/channels/x.*"), Err(UrlError::Channel(_))));
    }
}
