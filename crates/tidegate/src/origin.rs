//! Which web pages may use the gateway, and by which name it may be called (CONTRACT 11).
//!
//! Pure functions over header values. A browser puts a page's origin into `Origin`, and the name that
//! the page called us by into `Host`; neither can be forged by the page, and both are judged on every
//! path. What anyone but a browser writes there is worth nothing, so these are no access control.

use std::net::{Ipv4Addr, Ipv6Addr};

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_METHOD, HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN, VARY,
};
use http::{StatusCode, Uri, Version};

use crate::config::{Config, Origins};
use crate::problem::Problem;
use crate::router::{Response, full};

/// Request headers that scripts of other origins may set. Each by its name: `*` would not cover
/// `Authorization`, nor anything where credentials are sent.
pub const ALLOWED_HEADERS: &str = "Authorization, Content-Type, Idempotency-Key, If-None-Match, \
     Last-Event-ID, X-API-Key, Tidegate-Event, Tidegate-End, X-Grpc-Web, X-User-Agent, Grpc-Timeout";

/// Response headers that scripts of other origins may read.
pub const EXPOSED_HEADERS: &str = "ETag, Link, Retry-After, RateLimit, RateLimit-Policy, \
     Tidegate-Cursor, grpc-status, grpc-message, grpc-status-details-bin";

/// Methods that any path of ours has.
const METHODS: &str = "GET, HEAD, POST, DELETE, OPTIONS";

/// How long a browser may remember a preflight, in seconds; none does for longer than a day, and
/// Chromium for two hours.
const MAX_AGE: &str = "7200";

/// Characters of a header that a problem repeats.
const SHOWN: usize = 128;

/// What is thought of a request's `Origin`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// There is none: no browser, or a page of our own that only reads.
    NoOrigin,
    /// The page may use the gateway.
    Allowed {
        /// For `Access-Control-Allow-Origin`: the page's, or `*`.
        origin: &'a str,
        /// Whether cookies and the like count.
        credentials: bool,
    },
    /// It may not: 403, or 400 if it is no origin.
    Refused(Problem),
}

/// A request's headers, with the host that counts: that of a target in absolute form, whatever `Host`
/// says (RFC 9112 §3.2.2). Where `Host` itself is wrong, it stays as it is, to be refused.
#[must_use]
pub fn effective(headers: &HeaderMap, uri: &Uri) -> HeaderMap {
    let mut headers = headers.clone();
    if let Some(authority) = uri.authority()
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
        && headers.get_all(HOST).iter().count() == 1
    {
        headers.insert(HOST, host);
    }
    headers
}

/// Judges a request by its `Origin` and, for our own, its `Host`.
///
/// Our own is the origin whose host and port are those of `Host`, over http or https: which of the
/// two the browser spoke, a proxy in front may have hidden.
#[must_use]
pub fn judge<'a>(config: &Config, headers: &'a HeaderMap) -> Verdict<'a> {
    let mut origins = headers.get_all(ORIGIN).iter();
    let Some(origin) = origins.next() else { return Verdict::NoOrigin };
    let (Ok(origin), None) = (origin.to_str(), origins.next()) else {
        let detail = "Origin: one is allowed, in ASCII; leave it out, or send a page's";
        return Verdict::Refused(Problem::invalid(detail));
    };
    let allowed = Verdict::Allowed { origin, credentials: true };
    if config.dev && !config.insecure {
        return if is_loopback_origin(origin) {
            allowed
        } else {
            Verdict::Refused(Problem::denied(format!(
                "Origin \"{}\" is no loopback name, and with --dev no page from elsewhere may use \
                 this gateway; open the page from localhost, or add --insecure",
                shown(origin)
            )))
        };
    }
    if is_own(origin, headers) {
        return allowed;
    }
    match &config.http.origins {
        _ if config.insecure => Verdict::Allowed { origin: "*", credentials: false },
        Origins::Any => Verdict::Allowed { origin: "*", credentials: false },
        listed @ Origins::Listed(_) if listed.allow(origin) => allowed,
        Origins::Listed(_) => Verdict::Refused(Problem::denied(format!(
            "Origin \"{}\" is neither this gateway's nor one of http.origins; add it there if its \
             pages may use this gateway",
            shown(origin)
        ))),
    }
}

/// Adds the response headers that the browser needs; on errors too. Doing it twice changes nothing.
pub fn apply(verdict: &Verdict<'_>, headers: &mut HeaderMap) {
    if let Verdict::Allowed { origin, credentials } = verdict
        && let Ok(origin) = HeaderValue::from_str(origin)
    {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        if *credentials {
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED_HEADERS));
    }
    // Also without an origin: a cache must not answer a page with what was said to no page.
    let is_there = |value: &HeaderValue| {
        let names = value.to_str().unwrap_or_default().split(',');
        names.map(str::trim).any(|name| name == "*" || name.eq_ignore_ascii_case("origin"))
    };
    if !headers.get_all(VARY).iter().any(is_there) {
        headers.append(VARY, HeaderValue::from_static("Origin"));
    }
}

/// Writes the same headers as [`apply`] into the head of a stream.
pub fn write_raw(verdict: &Verdict<'_>, out: &mut Vec<u8>) {
    let mut line = |name: HeaderName, value: &str| {
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    };
    if let Verdict::Allowed { origin, credentials } = verdict {
        line(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        if *credentials {
            line(ACCESS_CONTROL_ALLOW_CREDENTIALS, "true");
        }
        line(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED_HEADERS);
    }
    line(VARY, "Origin");
}

/// The answer to `OPTIONS`: 204, and to a preflight of an allowed origin its permissions. It needs
/// no token, and says nothing of the path: a method that is not for it gets 405 when it comes.
#[must_use]
pub fn preflight(verdict: &Verdict<'_>, request: &HeaderMap) -> Response {
    let mut response = Response::new(full(""));
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    let is_preflight = request.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    if is_preflight && matches!(verdict, Verdict::Allowed { .. }) {
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(METHODS));
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(ALLOWED_HEADERS));
        headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(MAX_AGE));
    }
    apply(verdict, headers);
    response
}

/// Checks `Host`: HTTP/1.1 has exactly one, HTTP/1.0 at most one (RFC 9112 §3.2), and with `--dev`
/// it is a loopback name. A page elsewhere whose own name was made to point to us (DNS rebinding)
/// shows itself here, and nowhere else.
///
/// # Errors
///
/// 400, or 403 of `--dev`.
pub fn check_host(config: &Config, headers: &HeaderMap, version: Version) -> Result<(), Problem> {
    let mut hosts = headers.get_all(HOST).iter();
    let Some(host) = hosts.next() else {
        return if version == Version::HTTP_11 {
            Err(Problem::invalid("Host: is missing; HTTP/1.1 needs it"))
        } else {
            Ok(())
        };
    };
    if hosts.next().is_some() {
        return Err(Problem::invalid("Host: is given more than once; send one"));
    }
    let Some((text, authority)) =
        host.to_str().ok().and_then(|text| Some((text, Authority::parse(text)?)))
    else {
        return Err(Problem::invalid("Host: is no name or address with an optional port"));
    };
    if config.dev && !config.insecure && !authority.is_loopback() {
        return Err(Problem::denied(format!(
            "Host \"{}\" is no loopback name, and with --dev only those are served; call this \
             gateway localhost or 127.0.0.1, or add --insecure",
            shown(text)
        )));
    }
    Ok(())
}

/// A host and its port, as `Host` and the tail of an origin have it (RFC 3986 §3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Authority<'a> {
    /// A name, an IPv4 address, or an IPv6 address in brackets.
    host: &'a str,
    port: Option<u16>,
}

impl<'a> Authority<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let host_len = match text.strip_prefix('[') {
            Some(rest) => rest.find(']')? + 2,
            None => text.find(':').unwrap_or(text.len()),
        };
        let (host, port) = text.split_at_checked(host_len)?;
        let port = match port.strip_prefix(':') {
            None if port.is_empty() => None,
            None => return None,
            Some("") => None,
            Some(digits) if digits.bytes().all(|it| it.is_ascii_digit()) => {
                Some(digits.parse().ok()?)
            }
            Some(_) => return None,
        };
        let is_host = match unbracketed(host) {
            Some(address) => address.parse::<Ipv6Addr>().is_ok(),
            None => !host.is_empty() && host.bytes().all(is_name_byte),
        };
        is_host.then_some(Self { host, port })
    }

    fn is_loopback(&self) -> bool {
        if let Some(address) = unbracketed(self.host) {
            return address.parse::<Ipv6Addr>().is_ok_and(|it| it.is_loopback());
        }
        let is_localhost = |name: &str| name.eq_ignore_ascii_case("localhost");
        is_localhost(self.host)
            || self
                .host
                .rsplit_once('.')
                .is_some_and(|(rest, last)| is_localhost(last) && !rest.is_empty())
            || self.host.parse::<Ipv4Addr>().is_ok_and(|it| it.is_loopback())
    }
}

/// The address between brackets.
fn unbracketed(host: &str) -> Option<&str> {
    host.strip_prefix('[')?.strip_suffix(']')
}

/// What a registered name may hold, percent-encoding included (RFC 3986 §3.2.2).
fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=".contains(&byte)
}

/// Splits `scheme://host:port`; `None` for `null` and what is no origin.
fn split_origin(origin: &str) -> Option<(&str, Authority<'_>)> {
    let (scheme, authority) = origin.split_once("://")?;
    Some((scheme, Authority::parse(authority)?))
}

fn is_loopback_origin(origin: &str) -> bool {
    split_origin(origin).is_some_and(|(_, authority)| authority.is_loopback())
}

/// Whether the page came from where the request goes. A port that is not written is the scheme's.
fn is_own(origin: &str, headers: &HeaderMap) -> bool {
    let host = headers.get(HOST).and_then(|it| it.to_str().ok()).and_then(Authority::parse);
    let (Some((scheme, origin)), Some(host)) = (split_origin(origin), host) else { return false };
    let default = match scheme {
        _ if scheme.eq_ignore_ascii_case("http") => 80,
        _ if scheme.eq_ignore_ascii_case("https") => 443,
        _ => return false,
    };
    origin.host.eq_ignore_ascii_case(host.host)
        && origin.port.unwrap_or(default) == host.port.unwrap_or(default)
}

/// As much of a header as a problem repeats; it is ASCII.
fn shown(text: &str) -> &str {
    text.get(..SHOWN).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::Code;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    fn config(origins: &[&str]) -> Config {
        let mut config = Config::default();
        config.http.origins = match origins {
            ["*"] => Origins::Any,
            _ => Origins::Listed(origins.iter().copied().map(str::to_owned).collect()),
        };
        config
    }

    fn insecure() -> Config {
        Config { insecure: true, ..Config::dev() }
    }

    /// `expect`: the allowed origin and whether with credentials, or the refusal.
    #[track_caller]
    fn check(config: &Config, host: &str, origin: &str, expect: Result<(&str, bool), Code>) {
        let headers = headers(&[("host", host), ("origin", origin)]);
        let verdict = match judge(config, &headers) {
            Verdict::NoOrigin => panic!("there is an origin"),
            Verdict::Allowed { origin, credentials } => Ok((origin.to_owned(), credentials)),
            Verdict::Refused(problem) => Err(problem.code),
        };
        let expect = expect.map(|(origin, credentials)| (origin.to_owned(), credentials));
        assert_eq!(verdict, expect, "{host} {origin}");
    }

    const FOREIGN: Result<(&str, bool), Code> = Err(Code::PermissionDenied);

    #[test]
    fn the_gateways_own_origin_is_that_of_its_host() {
        let config = config(&[]);
        for (host, origin) in [
            ("gw.example", "https://gw.example"),
            ("gw.example", "http://gw.example"),
            ("gw.example:443", "https://gw.example"),
            ("gw.example:80", "http://gw.example"),
            ("GW.example:8443", "https://gw.EXAMPLE:8443"),
            ("[::1]:8080", "http://[::1]:8080"),
            ("127.0.0.1:8080", "http://127.0.0.1:8080"),
        ] {
            check(&config, host, origin, Ok((origin, true)));
        }
        for (host, origin) in [
            ("gw.example", "https://other.example"),
            ("gw.example", "https://gw.example.evil"),
            ("gw.example", "https://sub.gw.example"),
            ("gw.example", "https://gw.example:8443"),
            ("gw.example:8443", "https://gw.example"),
            ("gw.example:80", "https://gw.example"),
            ("gw.example", "ftp://gw.example"),
            ("gw.example", "https://user@gw.example"),
            ("gw.example", "https://gw.example/"),
            ("gw.example", "gw.example"),
            ("gw.example", "null"),
            ("gw.example", ""),
        ] {
            check(&config, host, origin, FOREIGN);
        }
    }

    #[test]
    fn configured_origins_are_allowed_with_credentials() {
        let config = config(&["https://app.example", "http://localhost:5173"]);
        check(&config, "gw", "https://app.example", Ok(("https://app.example", true)));
        check(&config, "gw", "http://localhost:5173", Ok(("http://localhost:5173", true)));
        check(&config, "gw", "http://app.example", FOREIGN);
        check(&config, "gw", "https://app.example:444", FOREIGN);
        check(&config, "gw", "null", FOREIGN);
        check(&config, "gw", "*", FOREIGN);
    }

    #[test]
    fn a_star_allows_every_origin_but_no_credentials() {
        let config = config(&["*"]);
        check(&config, "gw", "https://anything.example", Ok(("*", false)));
        check(&config, "gw", "null", Ok(("*", false)));
        // Our own pages are no strangers.
        check(&config, "gw", "https://gw", Ok(("https://gw", true)));
    }

    #[test]
    fn dev_is_for_loopback_pages_alone() {
        let mut config = Config::dev();
        for origin in [
            "http://localhost",
            "https://LOCALHOST:3000",
            "http://app.localhost:5173",
            "http://127.0.0.1:8080",
            "http://127.9.9.9",
            "http://[::1]:8080",
            "capacitor://localhost",
        ] {
            check(&config, "localhost:8080", origin, Ok((origin, true)));
        }
        // Neither a list nor a star opens what --dev has shut.
        for origins in [Origins::Any, Origins::Listed(vec!["https://app.example".to_owned()])] {
            config.http.origins = origins;
            for origin in [
                "https://app.example",
                "http://localhost.evil.example",
                "http://notlocalhost",
                "http://.localhost.",
                "http://128.0.0.1",
                "http://127.0.0.1.evil.example",
                "http://[::2]",
                "http://localhost:8080/",
                "http://localhost@evil.example",
                "null",
                "",
            ] {
                check(&config, "localhost:8080", origin, FOREIGN);
            }
        }
    }

    #[test]
    fn insecure_lifts_the_guard_on_origins() {
        check(&insecure(), "pi.lan", "https://app.example", Ok(("*", false)));
        check(&insecure(), "pi.lan", "https://pi.lan", Ok(("https://pi.lan", true)));
    }

    #[test]
    fn an_origin_is_one_and_ascii() {
        let config = Config::dev();
        let twice = headers(&[("origin", "http://localhost"), ("origin", "http://localhost")]);
        let Verdict::Refused(problem) = judge(&config, &twice) else { panic!("two origins") };
        assert_eq!(problem.code, Code::InvalidArgument);
        let mut headers = HeaderMap::new();
        assert_eq!(judge(&config, &headers), Verdict::NoOrigin);
        headers.insert(ORIGIN, HeaderValue::from_bytes(b"http://l\xF6calhost").unwrap());
        assert!(matches!(judge(&config, &headers), Verdict::Refused(_)));
    }

    #[test]
    fn a_refusal_says_what_to_do() {
        let dev = Config::dev();
        let headers = headers(&[("host", "localhost"), ("origin", "https://app.example")]);
        let Verdict::Refused(problem) = judge(&dev, &headers) else { panic!("foreign") };
        assert!(problem.detail.contains("\"https://app.example\""), "{}", problem.detail);
        assert!(problem.detail.contains("--insecure"), "{}", problem.detail);
        let config = config(&[]);
        let Verdict::Refused(problem) = judge(&config, &headers) else { panic!("foreign") };
        assert!(problem.detail.contains("http.origins"), "{}", problem.detail);
    }

    /// `expect`: the status of the refusal.
    #[track_caller]
    fn check_hosts(config: &Config, hosts: &[&str], version: Version, expect: Option<u16>) {
        let pairs: Vec<_> = hosts.iter().map(|host| ("host", *host)).collect();
        let status = check_host(config, &headers(&pairs), version).err().map(|it| it.status);
        assert_eq!(status.map(|it| it.as_u16()), expect, "{hosts:?}");
    }

    #[test]
    fn there_is_one_well_formed_host() {
        let config = config(&[]);
        for host in [
            "gw.example",
            "gw.example:8080",
            "gw.example:",
            "10.0.0.1:80",
            "[::1]",
            "[2001:db8::1]:65535",
            "under_score",
            "xn--bcher-kva.example",
        ] {
            check_hosts(&config, &[host], Version::HTTP_11, None);
        }
        for host in [
            "",
            ":80",
            "a b",
            "a/b",
            "user@host",
            "host:port",
            "host:65536",
            "host:+80",
            "host:80:80",
            "::1",
            "[::1",
            "[::1]80",
            "[]",
            "[localhost]",
            "a,b@c",
        ] {
            check_hosts(&config, &[host], Version::HTTP_11, Some(400));
        }
        check_hosts(&config, &[], Version::HTTP_11, Some(400));
        check_hosts(&config, &["a", "a"], Version::HTTP_11, Some(400));
        check_hosts(&config, &["a", "a"], Version::HTTP_10, Some(400));
        check_hosts(&config, &[], Version::HTTP_10, None);
    }

    #[test]
    fn dev_answers_to_loopback_names_alone() {
        let config = Config::dev();
        for host in [
            "localhost",
            "Localhost:8080",
            "demo.localhost",
            "a.b.localhost:1",
            "127.0.0.1:8080",
            "127.255.255.254",
            "[::1]:8080",
            "[0:0:0:0:0:0:0:1]",
        ] {
            check_hosts(&config, &[host], Version::HTTP_11, None);
        }
        for host in
            ["gw.example", "localhost.gw.example", ".localhost", "10.0.0.1", "0.0.0.0", "[::]"]
        {
            check_hosts(&config, &[host], Version::HTTP_11, Some(403));
            check_hosts(&insecure(), &[host], Version::HTTP_11, None);
        }
    }

    #[test]
    fn allowed_pages_may_read_the_answer() {
        let origin = "https://app.example";
        let verdict = Verdict::Allowed { origin, credentials: true };
        let mut answer = headers(&[("vary", "Accept")]);
        apply(&verdict, &mut answer);
        apply(&verdict, &mut answer);
        let expect = [
            ("vary", "Accept"),
            ("access-control-allow-origin", origin),
            ("access-control-allow-credentials", "true"),
            ("access-control-expose-headers", EXPOSED_HEADERS),
            ("vary", "Origin"),
        ];
        assert_eq!(answer, headers(&expect));

        let mut raw = Vec::new();
        write_raw(&verdict, &mut raw);
        let lines: String = expect.iter().skip(1).map(|(k, v)| format!("{k}: {v}\r\n")).collect();
        assert_eq!(String::from_utf8(raw).unwrap(), lines);
    }

    #[test]
    fn a_star_sends_no_credentials_and_strangers_get_nothing() {
        let mut answer = HeaderMap::new();
        apply(&Verdict::Allowed { origin: "*", credentials: false }, &mut answer);
        assert_eq!(answer.get(ACCESS_CONTROL_ALLOW_ORIGIN).unwrap(), "*");
        assert!(!answer.contains_key(ACCESS_CONTROL_ALLOW_CREDENTIALS));
        let only_vary = headers(&[("vary", "Origin")]);
        for verdict in [Verdict::NoOrigin, Verdict::Refused(Problem::denied("no"))] {
            let mut answer = HeaderMap::new();
            apply(&verdict, &mut answer);
            assert_eq!(answer, only_vary);
            let mut raw = Vec::new();
            write_raw(&verdict, &mut raw);
            assert_eq!(raw, b"vary: Origin\r\n");
        }
    }

    #[test]
    fn a_preflight_is_answered_with_the_whole_lists() {
        let verdict = Verdict::Allowed { origin: "http://localhost:3000", credentials: true };
        let request = headers(&[("access-control-request-method", "DELETE")]);
        let response = preflight(&verdict, &request);
        assert_eq!(response.status(), 204);
        let header = |name: &str| response.headers().get(name).unwrap().to_str().unwrap();
        assert_eq!(header("access-control-allow-origin"), "http://localhost:3000");
        assert_eq!(header("access-control-allow-methods"), "GET, HEAD, POST, DELETE, OPTIONS");
        assert_eq!(header("access-control-max-age"), "7200");
        assert_eq!(
            header("access-control-allow-headers"),
            "Authorization, Content-Type, Idempotency-Key, If-None-Match, Last-Event-ID, X-API-Key, \
             Tidegate-Event, Tidegate-End, X-Grpc-Web, X-User-Agent, Grpc-Timeout"
        );
        let response = preflight(&Verdict::NoOrigin, &request);
        assert_eq!((response.status().as_u16(), response.headers().len()), (204, 1));
        assert_eq!(response.headers().get(VARY).unwrap(), "Origin");
    }
}
