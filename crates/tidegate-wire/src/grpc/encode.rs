//! Messages → frames: the specification's Length-Prefixed-Message.
//!
//! A frame is made once and shared by every stream that it goes to. It may lie across DATA frames
//! in any way.

use bytes::Bytes;

/// Bytes in front of a message: flags, and the length as four bytes, big-endian.
pub const PREFIX_LEN: usize = 5;

/// Flag: the message is compressed, as `grpc-encoding` says.
pub const COMPRESSED: u8 = 0x01;

/// Flag of gRPC-Web: these are the trailers, and nothing follows (`PROTOCOL-WEB.md`, Message
/// framing).
pub const TRAILERS: u8 = 0x80;

/// The prefix of a message of `len` bytes, for one that is written as prefix and shared payload.
#[inline]
#[must_use]
pub const fn prefix(flags: u8, len: u32) -> [u8; PREFIX_LEN] {
    let [a, b, c, d] = len.to_be_bytes();
    [flags, a, b, c, d]
}

/// The frame of a message that is not compressed.
///
/// # Errors
///
/// [`TooLong`] if the length does not fit into four bytes.
pub fn message(payload: &[u8]) -> Result<Bytes, TooLong> {
    flagged(0, payload)
}

/// The frame of a message that is compressed as the stream's `grpc-encoding` says.
///
/// # Errors
///
/// [`TooLong`] if the length does not fit into four bytes.
pub fn compressed_message(payload: &[u8]) -> Result<Bytes, TooLong> {
    flagged(COMPRESSED, payload)
}

/// The frame of a message that `write` appends to the buffer that it is given, which has room for
/// `len_hint` bytes: a serializer then needs no buffer of its own. `write` only appends.
///
/// # Errors
///
/// [`TooLong`] if the length does not fit into four bytes.
pub fn message_with(len_hint: usize, write: impl FnOnce(&mut Vec<u8>)) -> Result<Bytes, TooLong> {
    let mut frame = Vec::with_capacity(PREFIX_LEN + len_hint);
    frame.extend_from_slice(&[0; PREFIX_LEN]);
    write(&mut frame);
    let len = frame.len().saturating_sub(PREFIX_LEN);
    let head = prefix(0, u32::try_from(len).map_err(|_| TooLong { len })?);
    if let Some(place) = frame.first_chunk_mut() {
        *place = head;
    }
    Ok(frame.into())
}

pub(crate) fn flagged(flags: u8, payload: &[u8]) -> Result<Bytes, TooLong> {
    let len = payload.len();
    let head = prefix(flags, u32::try_from(len).map_err(|_| TooLong { len })?);
    Ok([&head, payload].concat().into())
}

/// A message of 4 GiB or more, which no prefix can announce; the caller's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a message of {len} bytes is longer than a prefix can say")]
pub struct TooLong {
    /// Its length.
    pub len: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_flags_length_and_message() {
        assert_eq!(message(b"").unwrap(), b"\0\0\0\0\0"[..]);
        assert_eq!(message(b"abc").unwrap(), b"\0\0\0\0\x03abc"[..]);
        assert_eq!(compressed_message(b"abc").unwrap(), b"\x01\0\0\0\x03abc"[..]);
        assert_eq!(prefix(TRAILERS, 0x0102_0304), [0x80, 1, 2, 3, 4]);
    }

    #[test]
    fn what_is_written_into_a_frame_is_the_same_frame() {
        for len_hint in [0, 3, 100] {
            let frame = message_with(len_hint, |out| out.extend_from_slice(b"abc"));
            assert_eq!(frame, message(b"abc"), "{len_hint}");
        }
        assert_eq!(message_with(0, |_| {}), message(b""));
    }
}
