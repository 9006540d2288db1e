//! Frame headers: the first 2 to 14 bytes of every WebSocket frame (RFC 6455 §5.2).
//!
//! Bytes in, [`Header`] out. Nothing here buffers, allocates, unmasks or does IO; `decoder` does.
//! Lengths are in bytes, and integers on the wire are big-endian.

use super::OpCode;

/// The most bytes that a header has: 2, a length of 8, a mask of 4.
pub const LEN_MAX: usize = 14;

/// The bit that permessage-deflate claims on the first frame of a message (RFC 7692 §6).
pub const RSV1: u8 = 0x40;

/// Decodes the header at the front of `input`, consuming nothing.
///
/// `Ok(None)` means that it has not all arrived: call again with the same bytes and more. Bytes
/// already known to be wrong are refused at once, so no peer can make us wait for a bad frame.
///
/// # Errors
///
/// [`HeaderError`] if the peer broke RFC 6455 or went over `rules`.
#[inline]
pub fn decode(input: &[u8], rules: &Rules) -> Result<Option<Header>, HeaderError> {
    let [first, second, rest @ ..] = input else { return decode_half(input, rules) };
    let (is_final, rsv, nibble) = (first & 0x80 != 0, first & 0x70, first & 0x0F);
    let (is_masked, len_code) = (second & 0x80 != 0, second & 0x7F);

    let opcode = check_first(rsv, nibble, rules)?;
    if opcode.is_control() && (!is_final || len_code > 125) {
        return Err(HeaderError::Control(opcode));
    }
    if is_masked != rules.expect_mask {
        return Err(if is_masked { HeaderError::Masked } else { HeaderError::Unmasked });
    }

    // `len_min` is the smallest length that is allowed to use this form.
    let (len, len_min, rest) = match len_code {
        126 => {
            let Some((bytes, rest)) = rest.split_first_chunk() else { return Ok(None) };
            (u64::from(u16::from_be_bytes(*bytes)), 126, rest)
        }
        127 => {
            let Some((bytes, rest)) = rest.split_first_chunk() else { return Ok(None) };
            (u64::from_be_bytes(*bytes), 1 << 16, rest)
        }
        _ => (u64::from(len_code), 0, rest),
    };
    if len < len_min || len >> 63 != 0 {
        return Err(HeaderError::Length(len));
    }
    // Control frames have a bound of their own, which a smaller limit on messages must not lower.
    if len > rules.payload_len_max && !opcode.is_control() {
        return Err(HeaderError::TooLarge(len));
    }

    let (mask, rest) = match (is_masked, rest.split_first_chunk()) {
        (false, _) => (None, rest),
        (true, Some((key, rest))) => (Some(*key), rest),
        (true, None) => return Ok(None),
    };
    // Measured, not recomputed: what is consumed cannot disagree with what was read.
    let header_len = input.len() - rest.len();
    Ok(Some(Header { is_final, rsv, opcode, mask, payload_len: len, header_len }))
}

/// What can be said of a header of which at most the first byte is there.
#[cold]
fn decode_half(input: &[u8], rules: &Rules) -> Result<Option<Header>, HeaderError> {
    if let [first] = input {
        check_first(first & 0x70, first & 0x0F, rules)?;
    }
    Ok(None)
}

/// Checks what the first byte alone says.
#[inline]
fn check_first(rsv: u8, nibble: u8, rules: &Rules) -> Result<OpCode, HeaderError> {
    let opcode = OpCode::from_nibble(nibble).ok_or(HeaderError::OpCode(nibble))?;
    // Bits are claimed on the first frame of a message only (RFC 7692 §6).
    let is_first = matches!(opcode, OpCode::Text | OpCode::Binary);
    if rsv != 0 && (rsv & !rules.rsv_claimed != 0 || !is_first) {
        return Err(HeaderError::Reserved(rsv));
    }
    Ok(opcode)
}

/// What a connection allows its peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Whether frames must be masked: if we are the server.
    pub expect_mask: bool,
    /// Reserved bits, in place, that an extension claims: [`RSV1`] or 0.
    pub rsv_claimed: u8,
    /// The longest payload of a data frame; a longer one is refused before it is read.
    pub payload_len_max: u64,
}

/// A header that passed every check which does not need the payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Whether this frame ends its message.
    pub is_final: bool,
    /// Reserved bits, in place (`0x40`, `0x20`, `0x10`); an extension claims each one that is set.
    pub rsv: u8,
    /// What the payload is.
    pub opcode: OpCode,
    /// Key to unmask the payload with; `Some` exactly when the peer is a client.
    pub mask: Option<[u8; 4]>,
    /// Bytes of payload, at most [`Rules::payload_len_max`], or 125 of a control frame.
    pub payload_len: u64,
    /// Bytes of header, `2..=14`; the payload starts here.
    pub header_len: usize,
}

/// Why a header was refused. The stream cannot be resynchronised after any of these; `close.rs`
/// says which close code each one earns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// A control frame was fragmented or longer than 125 bytes (§5.5).
    #[error("{0:?} frame is fragmented or longer than 125 bytes")]
    Control(OpCode),
    /// The length used more bytes than it needs, or its top bit is set (§5.2).
    #[error("payload length {0} is badly encoded")]
    Length(u64),
    /// Servers must not mask (§5.1).
    #[error("server frame is masked")]
    Masked,
    /// No document defines this opcode (§5.2).
    #[error("opcode {0:#x} is unknown")]
    OpCode(u8),
    /// A reserved bit that no negotiated extension claims on this frame (§5.2).
    #[error("reserved bits {0:#04x} are set")]
    Reserved(u8),
    /// A payload of this many bytes is more than [`Rules::payload_len_max`] (§10.4).
    #[error("payload of {0} bytes is over the limit")]
    TooLarge(u64),
    /// Clients must mask (§5.1).
    #[error("client frame is not masked")]
    Unmasked,
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER: Rules = Rules { expect_mask: true, rsv_claimed: RSV1, payload_len_max: 1 << 20 };
    const CLIENT: Rules = Rules { expect_mask: false, ..SERVER };

    /// Checks the verdict on `input`, and that no shorter prefix of it gets a different one.
    #[track_caller]
    fn check(rules: &Rules, input: &[u8], expect: Result<usize, HeaderError>) {
        for cut in 0..=input.len() {
            let verdict = decode(&input[..cut], rules).map(|it| it.map(|it| it.header_len));
            assert!(
                verdict == expect.map(Some) || (verdict == Ok(None) && cut < input.len()),
                "{verdict:?} after {cut} bytes"
            );
        }
    }

    #[test]
    fn a_length_uses_its_shortest_form() {
        check(&SERVER, &[0x82, 0xFD, 1, 2, 3, 4], Ok(6));
        check(&SERVER, &[0x82, 0xFE, 0, 126, 1, 2, 3, 4], Ok(8));
        check(&SERVER, &[0x82, 0xFE, 0, 125], Err(HeaderError::Length(125)));
        check(&SERVER, &[0x82, 0xFF, 0, 0, 0, 0, 0, 1, 0, 0, 1, 2, 3, 4], Ok(14));
        check(&SERVER, &[0x82, 0xFF, 0, 0, 0, 0, 0, 0, 255, 255], Err(HeaderError::Length(65535)));
    }

    #[test]
    fn a_length_has_63_bits() {
        let len = 1 << 63;
        check(&SERVER, &[0x82, 0xFF, 0x80, 0, 0, 0, 0, 0, 0, 0], Err(HeaderError::Length(len)));
    }

    #[test]
    fn a_length_over_the_limit_is_refused_before_its_mask() {
        let input = [0x82, 0xFF, 0, 0, 0, 0, 0, 0x10, 0, 1];
        check(&SERVER, &input, Err(HeaderError::TooLarge((1 << 20) + 1)));
    }

    #[test]
    fn a_small_limit_spares_control_frames() {
        let rules = Rules { payload_len_max: 10, ..SERVER };
        check(&rules, &[0x89, 0xFD, 1, 2, 3, 4], Ok(6));
        check(&rules, &[0x82, 0x8B], Err(HeaderError::TooLarge(11)));
    }

    #[test]
    fn masking_follows_the_role() {
        check(&CLIENT, &[0x81, 0x05], Ok(2));
        check(&CLIENT, &[0x81, 0x85], Err(HeaderError::Masked));
        check(&SERVER, &[0x81, 0x05], Err(HeaderError::Unmasked));
    }

    #[test]
    fn control_frames_are_whole_and_short() {
        check(&SERVER, &[0x09, 0x80], Err(HeaderError::Control(OpCode::Ping)));
        check(&SERVER, &[0x88, 0xFE], Err(HeaderError::Control(OpCode::Close)));
        check(&SERVER, &[0x8A, 0x80, 1, 2, 3, 4], Ok(6));
    }

    #[test]
    fn unknown_opcodes_are_refused_on_the_first_byte() {
        for nibble in (0x3..=0x7).chain(0xB..=0xF) {
            check(&SERVER, &[0x80 | nibble], Err(HeaderError::OpCode(nibble)));
        }
    }

    #[test]
    fn reserved_bits_need_an_owner() {
        check(&SERVER, &[0xC1, 0x80, 1, 2, 3, 4], Ok(6));
        check(&SERVER, &[0xA1], Err(HeaderError::Reserved(0x20)));
        check(&SERVER, &[0xC9], Err(HeaderError::Reserved(0x40)));
        check(&SERVER, &[0xC0], Err(HeaderError::Reserved(0x40)));
        let plain = Rules { rsv_claimed: 0, ..SERVER };
        check(&plain, &[0xC1], Err(HeaderError::Reserved(0x40)));
    }

    #[test]
    fn every_field_is_read() {
        let header = decode(&[0x42, 0xFE, 1, 0, 9, 8, 7, 6, 5], &SERVER).unwrap().unwrap();
        let expect = Header {
            is_final: false,
            rsv: RSV1,
            opcode: OpCode::Binary,
            mask: Some([9, 8, 7, 6]),
            payload_len: 256,
            header_len: 8,
        };
        assert_eq!(header, expect);
    }
}
