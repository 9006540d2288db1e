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
    #[error("the payload is not JSON: {0}; correct it, or say ?as=text or ?as=binary")]
    Json(JsonError),
    /// A form with files or alike: not one payload. HTTP 415.
    #[error("multipart bodies are not taken; send the payload alone as the body")]
    Multipart,
    /// Announced as text, but it is no UTF-8 from this byte on.
    #[error("the payload is not UTF-8 at byte {at}; send UTF-8, or say ?as=binary")]
    Utf8 {
        /// Bytes before it.
        at: usize,
    },
}
