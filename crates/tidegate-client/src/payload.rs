//! Payloads as a client has them: bytes of one of three kinds (CONTRACT 2).

use std::borrow::Cow;

use bytes::Bytes;

/// What is published, byte for byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// One JSON value, as text. The gateway checks it: 400 where it is none.
    Json(Bytes),
    /// Text. On its way in, what is no UTF-8 is refused (400).
    Text(Bytes),
    /// Anything.
    Binary {
        /// The bytes.
        bytes: Bytes,
        /// Their content type, up to 255 visible ASCII characters, if there is one.
        content_type: Option<Box<str>>,
    },
}

impl Payload {
    /// JSON that is written already.
    #[must_use]
    pub fn json(text: impl Into<Bytes>) -> Self {
        Self::Json(text.into())
    }

    /// Bytes with their content type.
    #[must_use]
    pub fn typed(bytes: impl Into<Bytes>, content_type: &str) -> Self {
        Self::Binary { bytes: bytes.into(), content_type: Some(content_type.into()) }
    }

    /// The bytes, whatever they are.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        match self {
            Self::Json(bytes) | Self::Text(bytes) | Self::Binary { bytes, .. } => bytes,
        }
    }

    /// The text of JSON or text; what is no UTF-8 is replaced. `None` for binary.
    #[must_use]
    pub fn text(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Json(bytes) | Self::Text(bytes) => Some(String::from_utf8_lossy(bytes)),
            Self::Binary { .. } => None,
        }
    }
}

impl From<&str> for Payload {
    fn from(text: &str) -> Self {
        Self::Text(Bytes::copy_from_slice(text.as_bytes()))
    }
}

impl From<String> for Payload {
    fn from(text: String) -> Self {
        Self::Text(text.into())
    }
}

impl From<serde_json::Value> for Payload {
    fn from(value: serde_json::Value) -> Self {
        Self::Json(value.to_string().into())
    }
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Self {
        Self::Binary { bytes, content_type: None }
    }
}

impl From<Vec<u8>> for Payload {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::from(bytes).into()
    }
}

impl From<tidegate_core::Payload> for Payload {
    fn from(payload: tidegate_core::Payload) -> Self {
        let tidegate_core::Payload { kind, bytes, content_type } = payload;
        match kind {
            tidegate_core::PayloadKind::Json => Self::Json(bytes),
            tidegate_core::PayloadKind::Text => Self::Text(bytes),
            tidegate_core::PayloadKind::Binary => Self::Binary { bytes, content_type },
        }
    }
}
