//! What a publish request says beside its payload: headers, or the query where one is absent
//! (CONTRACT 2 and 3).

use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName};
use tidegate_core::entry::EventName;
use tidegate_core::envelope::command::TYPE_BYTES_MAX;
use tidegate_core::{Key, Payload, PayloadKind};

use crate::problem::Problem;
use crate::router::Query;

const EVENT: HeaderName = HeaderName::from_static("tidegate-event");
const END: HeaderName = HeaderName::from_static("tidegate-end");
const KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// What holds for the payload, or for all of them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Terms {
    /// `Content-Type`, as it was written.
    content_type: Option<String>,
    /// The query's `as`, which decides instead.
    as_kind: Option<PayloadKind>,
    /// Name of the event.
    pub(super) event: Option<EventName>,
    /// Idempotency key.
    pub(super) key: Option<Key>,
    /// Whether the channel ends after it.
    pub(super) ends: bool,
}

impl Terms {
    /// Reads and checks them; `publisher` is whose key it is.
    ///
    /// # Errors
    ///
    /// 400, which names the header or the query's name; 415 of an encoding or a form that no body
    /// of ours has.
    pub(super) fn read(
        headers: &HeaderMap,
        query: &Query<'_>,
        publisher: &Arc<str>,
    ) -> Result<Self, Problem> {
        check_encoding(headers)?;
        let as_kind = match query.get("as") {
            None => None,
            Some(text) => Some(PayloadKind::parse(text).ok_or_else(|| {
                Problem::invalid(format!(
                    "as: {text:?} is no kind of payload; allowed are json, text and binary"
                ))
            })?),
        };
        let content_type = one(headers, &CONTENT_TYPE)?.map(str::to_owned);
        if content_type.as_ref().is_some_and(|it| it.len() > TYPE_BYTES_MAX || !it.is_ascii()) {
            let detail =
                format!("Content-Type: up to {TYPE_BYTES_MAX} ASCII characters are allowed");
            return Err(Problem::invalid(detail));
        }
        let event = match one_of(headers, &EVENT, query, "event")? {
            None => None,
            Some((text, name)) => {
                Some(EventName::parse(text).map_err(|it| Problem::from(it).of(name))?)
            }
        };
        let key = match one_of(headers, &KEY, query, "key")? {
            None => None,
            Some((text, name)) => Some(
                Key::parse(Arc::clone(publisher), text).map_err(|it| Problem::from(it).of(name))?,
            ),
        };
        let ends = match one(headers, &END)? {
            None => query.switch("end")?.unwrap_or(false),
            Some("true") => true,
            Some("false") => false,
            Some(text) => {
                let detail = format!("{}: {text:?} is neither true nor false", shown(&END));
                return Err(Problem::invalid(detail));
            }
        };
        let terms = Self { content_type, as_kind, event, key, ends };
        // Some types are refused whatever the body is: then it need not be read.
        if let Err(problem) = terms.payload(Bytes::new()).map_err(Problem::from)
            && problem.status == StatusCode::UNSUPPORTED_MEDIA_TYPE
        {
            return Err(problem);
        }
        Ok(terms)
    }

    /// Whether each line of the body is a publication of its own.
    pub(super) fn is_ndjson(&self) -> bool {
        let media = self.content_type.as_deref().and_then(|it| it.split(';').next());
        self.as_kind.is_none()
            && media.is_some_and(|it| it.trim().eq_ignore_ascii_case("application/x-ndjson"))
    }

    /// The payload of a body.
    ///
    /// # Errors
    ///
    /// Where it is not what was announced.
    pub(super) fn payload(
        &self,
        body: Bytes,
    ) -> Result<Payload, tidegate_core::payload::PayloadError> {
        Payload::classify(body, self.content_type.as_deref(), self.as_kind)
    }
}

/// Refuses a body that would first have to be decoded (RFC 9110 §8.4): kept as it came, subscribers
/// would not know what it is.
///
/// # Errors
///
/// 415.
pub(super) fn check_encoding(headers: &HeaderMap) -> Result<(), Problem> {
    let is_plain = |it: &http::HeaderValue| it.as_bytes().eq_ignore_ascii_case(b"identity");
    if headers.get_all(CONTENT_ENCODING).iter().all(is_plain) {
        return Ok(());
    }
    let detail = "Content-Encoding: no encoding of a request's body is taken; send it plain";
    Err(Problem::invalid(detail).with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE))
}

/// The header's value, or else the query's; with it the name that it was given under.
fn one_of<'a>(
    headers: &'a HeaderMap,
    header: &HeaderName,
    query: &'a Query<'_>,
    name: &'static str,
) -> Result<Option<(&'a str, &'static str)>, Problem> {
    match one(headers, header)? {
        Some(text) => Ok(Some((text, shown(header)))),
        None => Ok(query.get(name).map(|text| (text, name))),
    }
}

/// The one value of a header.
///
/// # Errors
///
/// 400 where there are several, or where it is no text.
fn one<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Problem> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        let detail = format!("{}: is given more than once; send it once", shown(name));
        return Err(Problem::invalid(detail));
    }
    std::str::from_utf8(value.as_bytes())
        .map(Some)
        .map_err(|_| Problem::invalid(format!("{}: is not UTF-8", shown(name))))
}

/// A header's name as the documentation has it.
fn shown(name: &HeaderName) -> &'static str {
    match name {
        _ if *name == EVENT => "Tidegate-Event",
        _ if *name == END => "Tidegate-End",
        _ if *name == KEY => "Idempotency-Key",
        _ => "Content-Type",
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn read(pairs: &[(&'static str, &[u8])], query: &str) -> Result<Terms, Problem> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_bytes(value).unwrap());
        }
        Terms::read(&headers, &Query::parse(query), &Arc::from(""))
    }

    /// `expect`: event, key and end.
    #[track_caller]
    fn check(
        pairs: &[(&'static str, &[u8])],
        query: &str,
        expect: (Option<&str>, Option<&str>, bool),
    ) {
        let terms = read(pairs, query).unwrap();
        let key = terms.key.as_ref().map(|it| &*it.key);
        assert_eq!((terms.event.as_deref(), key, terms.ends), expect);
    }

    #[test]
    fn headers_win_over_the_query() {
        check(&[], "", (None, None, false));
        check(&[], "event=tick&key=k%201&end=1", (Some("tick"), Some("k 1"), true));
        check(&[], "end", (None, None, true));
        let all: [(&str, &[u8]); 3] =
            [("tidegate-event", b"tock"), ("idempotency-key", b"k2"), ("tidegate-end", b"false")];
        check(&all, "event=tick&key=k1&end=true", (Some("tock"), Some("k2"), false));
        check(&[("tidegate-end", b"true")], "", (None, None, true));
        check(&[("idempotency-key", "ключ".as_bytes())], "", (None, Some("ключ"), false));
    }

    #[track_caller]
    fn check_bad(pairs: &[(&'static str, &[u8])], query: &str, status: u16, names: &str) {
        let problem = read(pairs, query).unwrap_err();
        assert_eq!(problem.status, status, "{}", problem.detail);
        assert!(problem.detail.starts_with(names), "{}", problem.detail);
    }

    #[test]
    fn what_is_wrong_is_named() {
        check_bad(&[("tidegate-event", b"open")], "", 400, "Tidegate-Event: ");
        check_bad(&[("tidegate-event", b"")], "event=tick", 400, "Tidegate-Event: ");
        check_bad(
            &[("tidegate-event", b"a"), ("tidegate-event", b"a")],
            "",
            400,
            "Tidegate-Event: ",
        );
        check_bad(&[], "event=a+b", 400, "event: ");
        check_bad(&[("idempotency-key", b"")], "", 400, "Idempotency-Key: ");
        check_bad(&[("idempotency-key", &[b'k'; 129])], "", 400, "Idempotency-Key: ");
        check_bad(&[("idempotency-key", b"\xFF")], "", 400, "Idempotency-Key: ");
        check_bad(&[], "key=", 400, "key: ");
        check_bad(&[("tidegate-end", b"1")], "", 400, "Tidegate-End: ");
        check_bad(&[], "end=maybe", 400, "end: ");
        check_bad(&[], "as=xml", 400, "as: ");
        check_bad(&[("content-type", &[b'x'; 256])], "", 400, "Content-Type: ");
        check_bad(&[("content-type", "text/ä".as_bytes())], "", 400, "Content-Type: ");
    }

    #[test]
    fn what_is_never_taken_is_refused_before_its_body() {
        check_bad(&[("content-type", b"multipart/form-data; boundary=x")], "", 415, "multipart ");
        check_bad(&[("content-encoding", b"gzip")], "", 415, "Content-Encoding: ");
        assert!(read(&[("content-type", b"multipart/mixed")], "as=binary").is_ok());
        assert!(read(&[("content-encoding", b"Identity")], "").is_ok());
        // An empty body is no JSON, but that is the body's fault.
        assert!(read(&[("content-type", b"application/json")], "").is_ok());
    }

    #[test]
    fn lines_are_publications_unless_as_says_otherwise() {
        let is_ndjson = |content_type: &'static [u8], query| {
            read(&[("content-type", content_type)], query).unwrap().is_ndjson()
        };
        assert!(is_ndjson(b"application/x-ndjson", ""));
        assert!(is_ndjson(b"Application/X-NDJSON; charset=utf-8", ""));
        assert!(!is_ndjson(b"application/x-ndjson", "as=text"));
        assert!(!is_ndjson(b"application/json", ""));
        assert!(!read(&[], "").unwrap().is_ndjson());
    }
}
