//! Payloads: bytes of one kind, and how the kind is found (CONTRACT 2).
//!
//! Bytes are kept as they came. Classifying never copies: a payload shares its allocation with
//! whatever it was cut from, so who keeps it long sees to it that this is not a large buffer.

use bytes::Bytes;

use crate::json::{self, JsonError};

/// What was published, byte for byte.
#[derive(Clone, Debug, PartialEq)]
pub struct Payload {
    /// What the bytes are.
    pub kind: PayloadKind,
    /// The bytes; valid JSON of depth at most 128, or valid UTF-8, where `kind` says so.
    pub bytes: Bytes,
    /// Content type of a binary payload, where one was given.
    pub content_type: Option<Box<str>>,
}

/// The three kinds of payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PayloadKind {
    /// Any bytes.
    Binary,
    /// One JSON value.
    Json,
    /// UTF-8.
    Text,
}

impl PayloadKind {
    /// Reads the query's `as`.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "binary" => Some(Self::Binary),
            "json" => Some(Self::Json),
            "text" => Some(Self::Text),
            _ => None,
        }
    }
}

impl Payload {
    /// Finds the kind of an HTTP body: `as_kind` (the query's `as`) decides, else `content_type`
    /// (the header's value), else the bytes.
    ///
    /// The type of a binary payload is kept as written, but for `application/x-www-form-urlencoded`:
    /// curl says that unasked, of anything.
    ///
    /// # Errors
    ///
    /// [`PayloadError`] where the bytes are not what was announced.
    pub fn classify(
        bytes: Bytes,
        content_type: Option<&str>,
        as_kind: Option<PayloadKind>,
    ) -> Result<Self, PayloadError> {
        let content_type = content_type.map(str::trim).filter(|it| !it.is_empty());
        let media = content_type.map_or(Media::None, Media::of);
        match (as_kind, media) {
            (Some(PayloadKind::Json), _) | (None, Media::Json) => Self::json(bytes),
            (Some(PayloadKind::Text), _) | (None, Media::Text) => Self::text(bytes),
            (None, Media::Multipart) => Err(PayloadError::Multipart),
            (None, Media::None | Media::Form | Media::Plain)
                if simdutf8::basic::from_utf8(&bytes).is_ok() =>
            {
                Ok(Self::from_websocket_text(bytes))
            }
            (Some(PayloadKind::Binary) | None, Media::Form) => Ok(Self::binary(bytes, None)),
            (Some(PayloadKind::Binary) | None, _) => Ok(Self::binary(bytes, content_type)),
        }
    }

    /// Takes a text message, which its codec has found to be UTF-8, as without a content type: JSON
    /// if it is one whole object or array, else text.
    #[must_use]
    pub fn from_websocket_text(bytes: Bytes) -> Self {
        let first = bytes.iter().find(|byte| !json::is_space(**byte));
        let is_json = matches!(first, Some(b'{' | b'[')) && json::check_grammar(&bytes).is_ok();
        let kind = if is_json { PayloadKind::Json } else { PayloadKind::Text };
        Self { kind, bytes, content_type: None }
    }

    /// Takes a binary message.
    #[must_use]
    pub fn from_websocket_binary(bytes: Bytes) -> Self {
        Self::binary(bytes, None)
    }

    /// JSON, checked.
    ///
    /// # Errors
    ///
    /// [`PayloadError::Json`].
    pub fn json(bytes: Bytes) -> Result<Self, PayloadError> {
        json::check(&bytes).map_err(PayloadError::Json)?;
        Ok(Self { kind: PayloadKind::Json, bytes, content_type: None })
    }

    /// Text that is UTF-8 by its type.
    #[must_use]
    pub fn from_text(text: String) -> Self {
        Self { kind: PayloadKind::Text, bytes: text.into(), content_type: None }
    }

    /// Text, checked.
    ///
    /// # Errors
    ///
    /// [`PayloadError::Utf8`].
    pub fn text(bytes: Bytes) -> Result<Self, PayloadError> {
        match simdutf8::basic::from_utf8(&bytes).or_else(|_| std::str::from_utf8(&bytes)) {
            Ok(_) => Ok(Self { kind: PayloadKind::Text, bytes, content_type: None }),
            Err(error) => Err(PayloadError::Utf8 { at: error.valid_up_to() }),
        }
    }

    /// Binary, with the content type that was given.
    #[must_use]
    pub fn binary(bytes: Bytes, content_type: Option<&str>) -> Self {
        Self { kind: PayloadKind::Binary, bytes, content_type: content_type.map(Into::into) }
    }
}

/// What a content type says of the payload's kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Media {
    /// Something else: binary.
    Binary,
    /// `application/x-www-form-urlencoded`.
    Form,
    /// `application/json`, `…+json`.
    Json,
    /// `multipart/…`.
    Multipart,
    /// No type was given.
    None,
    /// `text/plain`.
    Plain,
    /// Another `text/…`.
    Text,
}

impl Media {
    /// Parameters and case don't count (RFC 9110 §8.3.1).
    fn of(content_type: &str) -> Self {
        let media = content_type.split(';').next().unwrap_or_default().trim().as_bytes();
        let is = |name: &str| media.eq_ignore_ascii_case(name.as_bytes());
        let begins = |prefix: &[u8]| {
            media.get(..prefix.len()).is_some_and(|it| it.eq_ignore_ascii_case(prefix))
        };
        let ends = |suffix: &[u8]| {
            let from = media.len().checked_sub(suffix.len());
            from.and_then(|from| media.get(from..))
                .is_some_and(|it| it.eq_ignore_ascii_case(suffix))
        };
        if begins(b"multipart/") {
            Self::Multipart
        } else if is("application/json") || ends(b"+json") {
            Self::Json
        } else if is("text/plain") {
            Self::Plain
        } else if begins(b"text/") {
            Self::Text
        } else if is("application/x-www-form-urlencoded") {
            Self::Form
        } else {
            Self::Binary
        }
    }
}

/// Why a payload was refused; the publisher's fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// Announced as JSON, but it is none.
    #[error("the payload is not JSON: {0}")]
    Json(JsonError),
    /// A form with files or alike: not one payload. HTTP 415.
    #[error("multipart bodies are not taken; send the payload alone as the body")]
    Multipart,
    /// Announced as text, but it is no UTF-8 from this byte on.
    #[error("the payload is not UTF-8 after {at} bytes")]
    Utf8 {
        /// Bytes before it.
        at: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use PayloadKind::{Binary, Json, Text};

    /// Checks the kind that `bytes` get, and the content type that is kept.
    #[track_caller]
    fn check(
        bytes: &[u8],
        content_type: Option<&str>,
        as_kind: Option<PayloadKind>,
        expect: Result<(PayloadKind, Option<&str>), &str>,
    ) {
        let payload = Payload::classify(Bytes::copy_from_slice(bytes), content_type, as_kind);
        match (payload, expect) {
            (Ok(payload), Ok((kind, content_type))) => {
                assert_eq!(payload.bytes, bytes, "kept byte for byte");
                assert_eq!((payload.kind, payload.content_type.as_deref()), (kind, content_type));
            }
            (Err(error), Err(expect)) => assert_eq!(error.to_string(), expect),
            (payload, expect) => panic!("{payload:?} is not {expect:?}"),
        }
    }

    #[test]
    fn without_a_type_the_bytes_decide() {
        let form = "application/x-www-form-urlencoded";
        let forms =
            [None, Some(""), Some("text/plain"), Some(form), Some("TEXT/Plain ; charset=UTF-8")];
        for content_type in forms {
            check(b"{\"a\":1}", content_type, None, Ok((Json, None)));
            check(b" \r\n\t[1, 2]\n", content_type, None, Ok((Json, None)));
            check(b"a=1&b=2", content_type, None, Ok((Text, None)));
            check(b"", content_type, None, Ok((Text, None)));
            check("gr\u{fc}n".as_bytes(), content_type, None, Ok((Text, None)));
            // JSON values that are neither object nor array are somebody's words.
            for text in ["1", "true", "null", "\"a\""] {
                check(text.as_bytes(), content_type, None, Ok((Text, None)));
            }
            // Not one, not whole, not JSON.
            for text in ["{}{}", "{\"a\":1", "[1,]", "{a:1}", "[] x", "\u{feff}{}"] {
                check(text.as_bytes(), content_type, None, Ok((Text, None)));
            }
        }
        check(b"{\"\xff\":1}", None, None, Ok((Binary, None)));
        check(b"\xff", Some(form), None, Ok((Binary, None)));
        check(
            b"\xff",
            Some("text/plain;charset=latin1"),
            None,
            Ok((Binary, Some("text/plain;charset=latin1"))),
        );
    }

    #[test]
    fn json_is_checked() {
        for content_type in [
            "application/json",
            "Application/JSON; charset=utf-8",
            "application/ld+json",
            "image/x+JSON ;a=b",
        ] {
            check(b"1", Some(content_type), None, Ok((Json, None)));
            check(b" {\"a\":[null]} ", Some(content_type), None, Ok((Json, None)));
            check(
                b"{\"a\":\n  tru}",
                Some(content_type),
                None,
                Err(
                    "the payload is not JSON: line 2, column 6: found '}' where the rest of true, false or null is due",
                ),
            );
            check(
                b"",
                Some(content_type),
                None,
                Err(
                    "the payload is not JSON: line 1, column 1: the text ends where a value is due",
                ),
            );
        }
        check(
            b"[\"\xff\"]",
            Some("application/json"),
            None,
            Err("the payload is not JSON: line 1, column 3: not UTF-8"),
        );
    }

    #[test]
    fn json_is_at_most_128_deep() {
        let nested = |depth: usize| ["[".repeat(depth), "]".repeat(depth)].concat();
        let json = Some("application/json");
        check(nested(128).as_bytes(), json, None, Ok((Json, None)));
        check(
            nested(129).as_bytes(),
            json,
            None,
            Err("the payload is not JSON: line 1, column 129: nested deeper than 128 levels"),
        );
        // Unasked, what is no JSON that we take is text.
        check(nested(128).as_bytes(), None, None, Ok((Json, None)));
        check(nested(129).as_bytes(), None, None, Ok((Text, None)));
    }

    #[test]
    fn other_texts_are_text_even_if_they_look_like_json() {
        check(b"{}", Some("text/html"), None, Ok((Text, None)));
        check(b"a,b", Some("Text/CSV; header=present"), None, Ok((Text, None)));
        check(b"ab\xff", Some("text/html"), None, Err("the payload is not UTF-8 after 2 bytes"));
    }

    #[test]
    fn a_multipart_body_is_not_one_payload() {
        let expect = "multipart bodies are not taken; send the payload alone as the body";
        check(b"--x", Some("multipart/form-data; boundary=x"), None, Err(expect));
        check(b"--x", Some("Multipart/Mixed"), None, Err(expect));
    }

    #[test]
    fn anything_else_is_binary_and_keeps_its_type() {
        for content_type in [
            "image/png",
            "application/octet-stream",
            "application/jsonp",
            "text",
            "json",
            "Image/PNG; a=b",
            ";",
        ] {
            check(b"{}", Some(content_type), None, Ok((Binary, Some(content_type))));
        }
    }

    #[test]
    fn the_query_decides_over_the_type() {
        check(b"{}", Some("image/png"), Some(Json), Ok((Json, None)));
        check(b"{", Some("multipart/mixed"), Some(Text), Ok((Text, None)));
        check(
            b"{}",
            Some("application/json"),
            Some(Binary),
            Ok((Binary, Some("application/json"))),
        );
        check(b"{}", Some("application/x-www-form-urlencoded"), Some(Binary), Ok((Binary, None)));
        check(b"{}", None, Some(Text), Ok((Text, None)));
        check(
            b"hm",
            None,
            Some(Json),
            Err("the payload is not JSON: line 1, column 1: found 'h' where a value is due"),
        );
        check(b"\xff", None, Some(Text), Err("the payload is not UTF-8 after 0 bytes"));
        let names = ["binary", "json", "text", "JSON", ""].map(PayloadKind::parse);
        assert_eq!(names, [Some(Binary), Some(Json), Some(Text), None, None]);
    }

    #[test]
    fn websocket_messages_are_taken_as_without_a_type() {
        for (text, kind) in [("{\"a\":1}", Json), ("{", Text), ("1", Text), ("", Text)] {
            assert_eq!(Payload::from_websocket_text(text.into()).kind, kind, "{text:?}");
        }
        assert_eq!(Payload::from_websocket_binary("{}".into()).kind, Binary);
    }
}
