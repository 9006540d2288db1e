//! Messages → frames (RFC 6455 §5.2, §5.5).
//!
//! Everything appends to a buffer of the caller's, so that many messages make one write. Servers
//! pass no key; clients pass a fresh, unpredictable one for each frame (§5.3).

use super::{
    Kind, OpCode,
    close::REASON_LEN_MAX,
    header::{LEN_MAX, RSV1},
    mask::extend_masked,
};

/// A header's bytes, `2..=14` of them; derefs to a slice.
#[derive(Clone, Copy, Debug)]
pub struct HeaderBytes {
    bytes: [u8; LEN_MAX],
    len: u8,
}

impl std::ops::Deref for HeaderBytes {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }
}

/// What a header says beside the payload's length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameInfo {
    /// What the payload is.
    pub opcode: OpCode,
    /// Whether the frame ends its message.
    pub is_final: bool,
    /// Whether the payload is compressed; on the first frame of a message only.
    pub is_compressed: bool,
    /// The key that the payload is masked with: a client's frame.
    pub mask: Option<[u8; 4]>,
}

impl FrameInfo {
    /// A server's frame that is a whole message.
    #[must_use]
    pub fn message(kind: Kind) -> Self {
        Self { opcode: kind.into(), is_final: true, is_compressed: false, mask: None }
    }
}

/// The header of a frame whose payload has `payload_len` bytes, for a frame that is written as
/// header and shared payload.
#[inline]
#[must_use]
pub fn header(info: FrameInfo, payload_len: usize) -> HeaderBytes {
    let rsv = if info.is_compressed { RSV1 } else { 0 };
    let first = if info.is_final { 0x80 } else { 0 } | rsv | info.opcode as u8;
    let mask_bit = if info.mask.is_some() { 0x80 } else { 0 };
    let mut bytes = [0; LEN_MAX];
    let long = (payload_len as u64).to_be_bytes();
    let [.., high, low] = long;
    let mut len = match payload_len {
        0..=125 => {
            bytes = [first, mask_bit | low, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            2
        }
        126..=0xFFFF => {
            bytes = [first, mask_bit | 126, high, low, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            4
        }
        _ => {
            if let Some((start, rest)) = bytes.split_first_chunk_mut() {
                *start = [first, mask_bit | 127];
                if let Some(place) = rest.first_chunk_mut() {
                    *place = long;
                }
            }
            10
        }
    };
    if let Some(key) = info.mask {
        if let Some(place) = bytes.get_mut(len..len + 4) {
            place.copy_from_slice(&key);
        }
        len += 4;
    }
    // At most 14.
    HeaderBytes { bytes, len: u8::try_from(len).unwrap_or_default() }
}

/// Appends a frame; masks it if there is a key.
#[inline]
pub fn frame(info: FrameInfo, payload: &[u8], out: &mut Vec<u8>) {
    let header = header(info, payload.len());
    out.reserve(LEN_MAX + payload.len());
    out.extend_from_slice(&header);
    match info.mask {
        Some(key) => extend_masked(out, payload, key),
        None => out.extend_from_slice(payload),
    }
}

/// Appends a server's message as one frame.
#[inline]
pub fn message(kind: Kind, payload: &[u8], out: &mut Vec<u8>) {
    frame(FrameInfo::message(kind), payload, out);
}

/// Appends a client's message as one frame, masked with `key`.
#[inline]
pub fn masked_message(kind: Kind, payload: &[u8], key: [u8; 4], out: &mut Vec<u8>) {
    frame(FrameInfo { mask: Some(key), ..FrameInfo::message(kind) }, payload, out);
}

/// Appends a server's message whose payload a [`Deflater`](super::Deflater) or
/// [`SharedDeflater`](super::SharedDeflater) has made.
#[inline]
pub fn compressed_message(kind: Kind, payload: &[u8], out: &mut Vec<u8>) {
    frame(FrameInfo { is_compressed: true, ..FrameInfo::message(kind) }, payload, out);
}

/// Appends a message as frames of at most `fragment_len` bytes (at least 1); `key` is asked for the
/// mask of each.
pub fn fragments(
    kind: Kind,
    payload: &[u8],
    fragment_len: usize,
    mut key: impl FnMut() -> Option<[u8; 4]>,
    out: &mut Vec<u8>,
) {
    let mut rest = payload;
    let mut opcode = OpCode::from(kind);
    loop {
        let (fragment, after) = rest.split_at(rest.len().min(fragment_len.max(1)));
        let is_final = after.is_empty();
        frame(FrameInfo { opcode, is_final, is_compressed: false, mask: key() }, fragment, out);
        if is_final {
            return;
        }
        (rest, opcode) = (after, OpCode::Continuation);
    }
}

/// Appends a ping, whose payload is cut at 125 bytes.
pub fn ping(payload: &[u8], mask: Option<[u8; 4]>, out: &mut Vec<u8>) {
    control(OpCode::Ping, payload, mask, out);
}

/// Appends a pong, whose payload is cut at 125 bytes; a ping's answer has the ping's.
pub fn pong(payload: &[u8], mask: Option<[u8; 4]>, out: &mut Vec<u8>) {
    control(OpCode::Pong, payload, mask, out);
}

/// Appends a Close with `code`, or without one, and a reason that is cut at 123 bytes between two
/// characters. A reason without a code can't be sent and is left out.
pub fn close(code: Option<u16>, reason: &str, mask: Option<[u8; 4]>, out: &mut Vec<u8>) {
    let Some(code) = code else { return control(OpCode::Close, &[], mask, out) };
    let reason = reason.get(..reason.floor_char_boundary(REASON_LEN_MAX)).unwrap_or_default();
    let mut payload = [0; 2 + REASON_LEN_MAX];
    if let Some((start, rest)) = payload.split_first_chunk_mut() {
        *start = code.to_be_bytes();
        for (place, byte) in rest.iter_mut().zip(reason.bytes()) {
            *place = byte;
        }
    }
    control(OpCode::Close, payload.get(..2 + reason.len()).unwrap_or_default(), mask, out);
}

fn control(opcode: OpCode, payload: &[u8], mask: Option<[u8; 4]>, out: &mut Vec<u8>) {
    let payload = payload.get(..payload.len().min(125)).unwrap_or_default();
    frame(FrameInfo { opcode, is_final: true, is_compressed: false, mask }, payload, out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(write: impl FnOnce(&mut Vec<u8>), expect: &[u8]) {
        let mut out = vec![0xEE];
        write(&mut out);
        assert_eq!(out[0], 0xEE, "what was there stays");
        assert_eq!(&out[1..], expect);
    }

    #[test]
    fn frames_are_those_of_the_rfc() {
        let hello = b"Hello";
        check(|out| message(Kind::Text, hello, out), b"\x81\x05Hello");
        check(
            |out| masked_message(Kind::Text, hello, [0x37, 0xFA, 0x21, 0x3D], out),
            &[0x81, 0x85, 0x37, 0xFA, 0x21, 0x3D, 0x7F, 0x9F, 0x4D, 0x51, 0x58],
        );
        check(|out| fragments(Kind::Text, hello, 3, || None, out), b"\x01\x03Hel\x80\x02lo");
        check(|out| ping(hello, None, out), b"\x89\x05Hello");
        check(
            |out| pong(hello, Some([0x37, 0xFA, 0x21, 0x3D]), out),
            &[0x8A, 0x85, 0x37, 0xFA, 0x21, 0x3D, 0x7F, 0x9F, 0x4D, 0x51, 0x58],
        );
        check(|out| compressed_message(Kind::Text, b"x", out), b"\xC1\x01x");
    }

    #[test]
    fn lengths_take_their_shortest_form() {
        let info = FrameInfo::message(Kind::Binary);
        assert_eq!(&*header(info, 0), &[0x82, 0]);
        assert_eq!(&*header(info, 125), &[0x82, 125]);
        assert_eq!(&*header(info, 126), &[0x82, 126, 0, 126]);
        assert_eq!(&*header(info, 65535), &[0x82, 126, 255, 255]);
        assert_eq!(&*header(info, 65536), &[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
        let masked = FrameInfo { mask: Some([1, 2, 3, 4]), ..info };
        assert_eq!(&*header(masked, 65536), &[0x82, 255, 0, 0, 0, 0, 0, 1, 0, 0, 1, 2, 3, 4]);
    }

    #[test]
    fn a_message_of_nothing_is_one_fragment() {
        check(|out| fragments(Kind::Binary, b"", 3, || None, out), b"\x82\x00");
        check(|out| fragments(Kind::Binary, b"ab", 0, || None, out), b"\x02\x01a\x80\x01b");
    }

    #[test]
    fn a_reason_is_cut_between_two_characters() {
        check(|out| close(Some(1000), "bye", None, out), b"\x88\x05\x03\xE8bye");
        check(|out| close(None, "lost", None, out), b"\x88\x00");
        let mut expect = vec![0x88, 124, 0x03, 0xE8];
        expect.extend_from_slice("é".repeat(61).as_bytes());
        check(|out| close(Some(1000), &"é".repeat(80), None, out), &expect);
    }

    #[test]
    fn a_control_payload_is_cut_at_125_bytes() {
        let mut expect = vec![0x89, 125];
        expect.extend_from_slice(&[7; 125]);
        check(|out| ping(&[7; 200], None, out), &expect);
    }
}
