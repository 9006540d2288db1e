//! Errors as users see them: one table from a code to what each wire says (CONTRACT 7).
//!
//! A [`Problem`] is what went wrong with one request, command or stream; every wire renders the same
//! one. `detail` says what, where and what to do, and never repeats a token.

use std::fmt::Write as _;
use std::num::NonZeroUsize;
use std::time::Duration;

use http::header::{ALLOW, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use http::header::{SEC_WEBSOCKET_VERSION, UPGRADE, WWW_AUTHENTICATE};
use http::{StatusCode, Version};
use tidegate_broker::{PublishError, Unavailable};
pub use tidegate_core::Code;
use tidegate_core::channel::ChannelNameError;
use tidegate_core::cursor::CursorError;
use tidegate_core::entry::{EventNameError, KeyError};
use tidegate_core::envelope::json::{write_error_object, write_seconds, write_string};
use tidegate_core::envelope::{CommandError, JsonStreamError, ServerBody};
use tidegate_core::payload::PayloadError;
use tidegate_wire::ndjson::LineTooLong;

/// `Content-Type` of [`Problem::to_json`].
pub const CONTENT_TYPE: &str = "application/problem+json";

/// How long to wait before the next try, where nothing knows better.
pub const RETRY_AFTER_DEFAULT: Duration = Duration::from_secs(1);

/// What went wrong, and all that any wire needs to say so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What kind.
    pub code: Code,
    /// The status HTTP answers with.
    pub status: StatusCode,
    /// What, where, and what to do.
    pub detail: String,
    /// When to try again.
    pub retry_after: Option<Duration>,
    /// Whether a publication may have been accepted all the same.
    pub outcome_unknown: bool,
    /// Whether it is because this node goes down.
    pub is_draining: bool,
    /// Methods that the path has, for 405.
    pub allow: Option<&'static str>,
    /// Which publication of several, from 0.
    pub index: Option<u64>,
}

impl Problem {
    /// A problem with the status of its code.
    #[must_use]
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            code,
            status: code
                .http_status()
                .and_then(|it| StatusCode::from_u16(it).ok())
                .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            detail: detail.into(),
            retry_after: None,
            outcome_unknown: false,
            is_draining: false,
            allow: None,
            index: None,
        }
    }

    /// 400: can't be parsed, or not like this.
    #[must_use]
    pub fn invalid(detail: impl Into<String>) -> Self {
        Self::new(Code::InvalidArgument, detail)
    }

    /// 401: no, bad or expired token.
    #[must_use]
    pub fn unauthenticated(detail: impl Into<String>) -> Self {
        Self::new(Code::Unauthenticated, detail)
    }

    /// 403: the token does not allow it, or a foreign `Origin`.
    #[must_use]
    pub fn denied(detail: impl Into<String>) -> Self {
        Self::new(Code::PermissionDenied, detail)
    }

    /// 404: no such route.
    #[must_use]
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(Code::NotFound, detail)
    }

    /// 405: the path has other methods, `allow`: `"GET, HEAD, POST"`.
    #[must_use]
    pub fn method_not_allowed(method: &str, allow: &'static str) -> Self {
        let verb = if allow.contains(',') { "are" } else { "is" };
        let detail = format!("{method} is not for this path; {allow} {verb}");
        let problem = Self::invalid(detail).with_status(StatusCode::METHOD_NOT_ALLOWED);
        Self { allow: Some(allow), ..problem }
    }

    /// 406: none of what is accepted is there.
    #[must_use]
    pub fn not_acceptable(detail: impl Into<String>) -> Self {
        Self::invalid(detail).with_status(StatusCode::NOT_ACCEPTABLE)
    }

    /// 413: over a size limit.
    #[must_use]
    pub fn too_large(detail: impl Into<String>) -> Self {
        Self::new(Code::TooLarge, detail)
    }

    /// 414: the URL is over its limit, in bytes.
    #[must_use]
    pub fn url_too_long(bytes_max: usize) -> Self {
        let detail = format!("the URL is longer than the {bytes_max} bytes that are allowed");
        Self::too_large(detail).with_status(StatusCode::URI_TOO_LONG)
    }

    /// 426: a WebSocket is due here, of version 13.
    #[must_use]
    pub fn upgrade_required(detail: impl Into<String>) -> Self {
        Self::new(Code::UpgradeRequired, detail)
    }

    /// 503: this node goes down; others may be there.
    #[must_use]
    pub fn draining() -> Self {
        let detail = "this node is shutting down; connect again";
        Self { is_draining: true, ..Self::unavailable(detail) }
    }

    /// 503: there are as many connections as there may be.
    #[must_use]
    pub fn crowded(connections_max: NonZeroUsize) -> Self {
        Self::unavailable(format!(
            "there are {connections_max} connections already, which is http.max_connections; try \
             again, or have it raised"
        ))
    }

    /// 503: away for the moment.
    #[must_use]
    pub fn unavailable(detail: impl Into<String>) -> Self {
        let problem = Self::new(Code::Unavailable, detail);
        Self { retry_after: Some(RETRY_AFTER_DEFAULT), ..problem }
    }

    /// 500: our bug. What it is stands in the log, under the instance.
    #[must_use]
    pub fn internal() -> Self {
        Self::new(
            Code::Internal,
            "this is a bug of the gateway; its log has more under the instance",
        )
    }

    /// The same with another status.
    #[must_use]
    pub fn with_status(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }

    /// The same with another time to wait.
    #[must_use]
    pub fn with_retry_after(self, retry_after: Duration) -> Self {
        Self { retry_after: Some(retry_after), ..self }
    }

    /// The same for one publication of several.
    #[must_use]
    pub fn with_index(self, index: u64) -> Self {
        Self { index: Some(index), ..self }
    }

    /// The same, its detail said of `subject`: a channel of several, a header, a query's name.
    #[must_use]
    pub fn of(self, subject: &str) -> Self {
        Self { detail: format!("{subject}: {}", self.detail), ..self }
    }

    /// The body of HTTP's answer, `application/problem+json` (RFC 9457), without a line break.
    /// `instance` is a random UUID's 128 bits; the log has it too.
    #[must_use]
    pub fn to_json(&self, instance: u128) -> Vec<u8> {
        let mut out = Vec::with_capacity(256 + self.detail.len());
        out.push(b'{');
        if let Some(index) = self.index {
            out.extend_from_slice(format!("\"index\":{index},").as_bytes());
        }
        let code = self.code.as_str();
        out.extend_from_slice(b"\"type\":\"urn:tidegate:error:");
        out.extend_from_slice(code.as_bytes());
        out.extend_from_slice(b"\",\"title\":");
        write_string(self.code.title().as_bytes(), &mut out);
        out.extend_from_slice(b",\"status\":");
        out.extend_from_slice(self.status.as_str().as_bytes());
        out.extend_from_slice(b",\"detail\":");
        write_string(self.detail.as_bytes(), &mut out);
        out.extend_from_slice(b",\"code\":");
        write_string(code.as_bytes(), &mut out);
        out.extend_from_slice(b",\"instance\":\"");
        out.extend_from_slice(urn(instance).as_bytes());
        out.push(b'"');
        if let Some(retry_after) = self.retry_after {
            out.extend_from_slice(b",\"retry_after\":");
            write_seconds(retry_after, &mut out);
        }
        if self.outcome_unknown {
            out.extend_from_slice(b",\"outcome\":\"unknown\"");
        }
        out.push(b'}');
        out
    }

    /// Adds the headers that the status needs (CONTRACT 7); not the body's. HTTP/2 has no upgrade
    /// to ask for.
    pub fn write_headers(&self, version: Version, headers: &mut HeaderMap) {
        let mut put = |name: HeaderName, value: &'static str| {
            headers.insert(name, HeaderValue::from_static(value));
        };
        if self.status == StatusCode::UNAUTHORIZED {
            put(WWW_AUTHENTICATE, "Bearer");
        }
        if self.status == StatusCode::UPGRADE_REQUIRED {
            put(SEC_WEBSOCKET_VERSION, "13");
            if version <= Version::HTTP_11 {
                put(UPGRADE, "websocket");
                // RFC 9110 §7.8: who sends `Upgrade` says so in `Connection`.
                put(http::header::CONNECTION, "Upgrade");
            }
        }
        if let Some(allow) = self.allow {
            put(ALLOW, allow);
        }
        if let Some(retry_after) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(whole_seconds(retry_after)));
        }
    }

    /// When to try again, in whole seconds, rounded up.
    #[must_use]
    pub fn retry_after_seconds(&self) -> Option<u64> {
        self.retry_after.map(whole_seconds)
    }

    /// The WebSocket close code; 1012 while draining.
    #[must_use]
    pub fn websocket_close(&self) -> Option<u16> {
        if self.is_draining { Some(1012) } else { self.code.websocket_close() }
    }

    /// The reason of a Close that stands for a refused handshake: `code` or `code SECONDS`.
    #[must_use]
    pub fn close_reason(&self) -> String {
        let mut reason = self.code.as_str().to_owned();
        if let Some(retry_after) = self.retry_after {
            // Writing to a string can't fail.
            let _ = write!(reason, " {}", whole_seconds(retry_after));
        }
        reason
    }

    /// It as an enveloped connection is told.
    #[must_use]
    pub fn body(&self) -> ServerBody<'_> {
        ServerBody::Error {
            code: self.code.as_str(),
            message: &self.detail,
            retry_after: self.retry_after,
            outcome_unknown: self.outcome_unknown,
        }
    }

    /// Appends `{"code","message","retry_after"?}`: the data of SSE's `tidegate-error`.
    pub fn write_object(&self, out: &mut Vec<u8>) {
        write_error_object(self.code.as_str(), &self.detail, self.retry_after, out);
    }
}

/// Whole seconds, rounded up.
fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs().saturating_add(u64::from(duration.subsec_nanos() > 0))
}

/// `urn:uuid:…`, a random UUID (RFC 9562, version 4) of the bits that it leaves free.
#[must_use]
pub fn urn(bits: u128) -> String {
    let bits = bits & !(0xF << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62;
    let hex = format!("{bits:032x}");
    let mut out = String::from("urn:uuid:");
    for (at, digit) in hex.chars().enumerate() {
        if matches!(at, 8 | 12 | 16 | 20) {
            out.push('-');
        }
        out.push(digit);
    }
    out
}

macro_rules! invalid_from {
    ($($error:ty),*) => {
        $(impl From<$error> for Problem {
            fn from(error: $error) -> Self {
                Self::invalid(error.to_string())
            }
        })*
    };
}

invalid_from!(ChannelNameError, CursorError, EventNameError, KeyError);

impl From<PayloadError> for Problem {
    fn from(error: PayloadError) -> Self {
        match error {
            PayloadError::Json(_) => {
                Self::invalid(format!("{error}; correct it, or say ?as=text or ?as=binary"))
            }
            PayloadError::Utf8 { .. } => {
                Self::invalid(format!("{error}; send UTF-8, or say ?as=binary"))
            }
            PayloadError::Multipart => {
                let problem = Self::invalid(error.to_string());
                problem.with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE)
            }
        }
    }
}

impl From<CommandError> for Problem {
    fn from(error: CommandError) -> Self {
        Self::invalid(error.to_string())
    }
}

impl From<JsonStreamError> for Problem {
    fn from(error: JsonStreamError) -> Self {
        match error {
            JsonStreamError::Syntax(_) => Self::invalid(error.to_string()),
            JsonStreamError::TooLarge(_) => Self::too_large(error.to_string()),
        }
    }
}

impl From<LineTooLong> for Problem {
    fn from(error: LineTooLong) -> Self {
        Self::too_large(error.to_string())
    }
}

impl From<Unavailable> for Problem {
    fn from(error: Unavailable) -> Self {
        Self::unavailable(error.to_string())
    }
}

impl From<PublishError> for Problem {
    fn from(error: PublishError) -> Self {
        let detail = error.to_string();
        match error {
            PublishError::Ended => Self::new(Code::Ended, detail),
            PublishError::KeyReused => {
                Self::invalid(detail).with_status(StatusCode::UNPROCESSABLE_ENTITY)
            }
            PublishError::KeysFull { retry_after } => {
                Self::new(Code::RateLimited, detail).with_retry_after(retry_after)
            }
            PublishError::Unavailable { perhaps_accepted } => {
                Self { outcome_unknown: perhaps_accepted, ..Self::unavailable(detail) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_json(problem: &Problem, expect: &str) {
        let json = problem.to_json(0x0123_4567_89AB_CDEF_0123_4567_89AB_CDEF);
        let instance = "urn:uuid:01234567-89ab-4def-8123-456789abcdef";
        assert_eq!(String::from_utf8(json.clone()).unwrap(), expect.replace("INSTANCE", instance));
        serde_json::from_slice::<serde_json::Value>(&json).unwrap();
    }

    #[test]
    fn the_body_is_rfc_9457() {
        check_json(
            &Problem::invalid("\"x\" is\nwrong"),
            r#"{"type":"urn:tidegate:error:invalid_argument","title":"Invalid argument","status":400,"detail":"\"x\" is\nwrong","code":"invalid_argument","instance":"INSTANCE"}"#,
        );
        let unknown = PublishError::Unavailable { perhaps_accepted: true };
        check_json(
            &Problem::from(unknown).with_retry_after(Duration::from_millis(1500)).with_index(3),
            r#"{"index":3,"type":"urn:tidegate:error:unavailable","title":"Unavailable","status":503,"detail":"the broker is away; it may have accepted this: try again with the same key","code":"unavailable","instance":"INSTANCE","retry_after":1.5,"outcome":"unknown"}"#,
        );
    }

    #[track_caller]
    fn check_headers(problem: &Problem, version: Version, expect: &[(&str, &str)]) {
        let mut headers = HeaderMap::new();
        problem.write_headers(version, &mut headers);
        let found: Vec<_> =
            headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        assert_eq!(found.len(), expect.len(), "{found:?}");
        for pair in expect {
            assert!(found.contains(pair), "{found:?} has no {pair:?}");
        }
    }

    #[test]
    fn each_status_has_the_headers_it_needs() {
        let http11 = Version::HTTP_11;
        check_headers(&Problem::invalid("x"), http11, &[]);
        check_headers(&Problem::unauthenticated("x"), http11, &[("www-authenticate", "Bearer")]);
        let method = Problem::method_not_allowed("PUT", "GET, HEAD");
        check_headers(&method, http11, &[("allow", "GET, HEAD")]);
        let upgrade = Problem::upgrade_required("x");
        let version = ("sec-websocket-version", "13");
        let expect = [version, ("upgrade", "websocket"), ("connection", "Upgrade")];
        check_headers(&upgrade, http11, &expect);
        check_headers(&upgrade, Version::HTTP_2, &[version]);
        check_headers(&Problem::draining(), http11, &[("retry-after", "1")]);
        let waits = [(0, "0"), (1, "1"), (999, "1"), (1000, "1"), (1001, "2"), (59_001, "60")];
        for (millis, seconds) in waits {
            let problem = Problem::new(Code::RateLimited, "x");
            let problem = problem.with_retry_after(Duration::from_millis(millis));
            check_headers(&problem, http11, &[("retry-after", seconds)]);
        }
    }

    #[test]
    fn closes_say_their_code() {
        assert_eq!(Problem::draining().websocket_close(), Some(1012));
        assert_eq!(Problem::from(Unavailable).websocket_close(), Some(1013));
        assert_eq!(Problem::denied("x").close_reason(), "permission_denied");
        let limited = Problem::new(Code::RateLimited, "x");
        let limited = limited.with_retry_after(Duration::from_millis(2500));
        assert_eq!(limited.close_reason(), "rate_limited 3");
    }

    #[test]
    fn streams_are_told_in_one_line() {
        let mut out = Vec::new();
        Problem::draining().write_object(&mut out);
        let object = r#"{"code":"unavailable","message":"this node is shutting down; connect again","retry_after":1}"#;
        assert_eq!(String::from_utf8(out).unwrap(), object);
    }

    #[track_caller]
    fn check_from(error: impl Into<Problem>, status: u16, code: Code, detail: &str) {
        let problem = error.into();
        assert_eq!((problem.status.as_u16(), problem.code), (status, code));
        assert_eq!(problem.detail, detail);
    }

    #[test]
    fn errors_of_the_rooms_below_have_their_status() {
        use bytes::Bytes;
        use tidegate_core::{ChannelName, Cursor, EventName, Key, Payload};

        let invalid = Code::InvalidArgument;
        let channel = ChannelName::parse("a..b").unwrap_err();
        check_from(channel, 400, invalid, &channel.to_string());
        let cursor = Cursor::parse("x").unwrap_err();
        check_from(cursor.clone(), 400, invalid, &cursor.to_string());
        let event = EventName::parse("open").unwrap_err();
        check_from(event.clone(), 400, invalid, &event.to_string());
        let key = Key::parse("me".into(), "").unwrap_err();
        check_from(key, 400, invalid, &key.to_string());
        let payload = |bytes: &'static [u8], content_type| {
            Payload::classify(Bytes::from_static(bytes), Some(content_type), None).unwrap_err()
        };
        check_from(
            payload(b"{", "application/json"),
            400,
            invalid,
            "the payload is not JSON: line 1, column 2: the text ends where '\"' or '}' is due; correct it, or say ?as=text or ?as=binary",
        );
        check_from(
            payload(b"a\xff", "text/csv"),
            400,
            invalid,
            "the payload is not UTF-8 after 1 bytes; send UTF-8, or say ?as=binary",
        );
        check_from(
            payload(b"", "multipart/form-data"),
            415,
            invalid,
            "multipart bodies are not taken; send the payload alone as the body",
        );
        check_from(CommandError::NoPayload, 400, invalid, &CommandError::NoPayload.to_string());
        check_from(
            JsonStreamError::TooLarge(9),
            413,
            Code::TooLarge,
            "the publication is larger than the 9 bytes that are allowed",
        );
        check_from(
            LineTooLong(9),
            413,
            Code::TooLarge,
            "a line is longer than the 9 bytes that are allowed",
        );
        check_from(PublishError::Ended, 409, Code::Ended, &PublishError::Ended.to_string());
        check_from(PublishError::KeyReused, 422, invalid, &PublishError::KeyReused.to_string());
        let full = PublishError::KeysFull { retry_after: Duration::from_secs(7) };
        check_from(full, 429, Code::RateLimited, &full.to_string());
        assert_eq!(Problem::from(full).retry_after, Some(Duration::from_secs(7)));
        for perhaps_accepted in [false, true] {
            let away = PublishError::Unavailable { perhaps_accepted };
            check_from(away, 503, Code::Unavailable, &away.to_string());
            let problem = Problem::from(away);
            assert_eq!(problem.outcome_unknown, perhaps_accepted);
            assert!(problem.retry_after.is_some());
        }
    }

    #[test]
    fn details_say_what_is_there_instead() {
        let detail = |allow| Problem::method_not_allowed("PUT", allow).detail;
        assert_eq!(detail("GET, HEAD"), "PUT is not for this path; GET, HEAD are");
        assert_eq!(detail("POST"), "PUT is not for this path; POST is");
        assert_eq!(
            Problem::invalid("is wrong").of("channel \"a\"").detail,
            "channel \"a\": is wrong"
        );
        let long = Problem::url_too_long(8192);
        assert_eq!((long.status.as_u16(), long.code), (414, Code::TooLarge));
        assert_eq!(Problem::not_acceptable("x").status.as_u16(), 406);
    }
}
