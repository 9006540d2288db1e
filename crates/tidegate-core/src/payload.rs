//! Payloads: bytes of one kind (CONTRACT 2).

use bytes::Bytes;

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
