//! Close codes: which may travel, and which one an error earns (RFC 6455 §7.4).

use super::{DeflateError, ProtocolError, header::HeaderError};

/// The purpose of the connection is fulfilled.
pub const NORMAL: u16 = 1000;
/// An end goes away: a page is left, a server shuts down.
pub const GOING_AWAY: u16 = 1001;
/// The peer broke RFC 6455.
pub const PROTOCOL: u16 = 1002;
/// A kind of message that this end does not take.
pub const UNSUPPORTED: u16 = 1003;
/// Data that is not what it should be: text that is no UTF-8, a payload that does not inflate.
pub const INVALID_PAYLOAD: u16 = 1007;
/// Against a policy that has no code of its own.
pub const POLICY: u16 = 1008;
/// A message that is too big.
pub const TOO_BIG: u16 = 1009;
/// An extension that the client needs was not negotiated.
pub const EXTENSION_NEEDED: u16 = 1010;
/// Our bug.
pub const INTERNAL: u16 = 1011;
/// The service restarts: come back later.
pub const SERVICE_RESTART: u16 = 1012;
/// Overloaded: come back later.
pub const TRY_AGAIN_LATER: u16 = 1013;
/// A server behind this one failed.
pub const BAD_GATEWAY: u16 = 1014;

/// Longest reason: a control frame has 125 bytes, and the code takes 2.
pub const REASON_LEN_MAX: usize = 123;

/// Whether a peer may send `code`. 1004–1006 and 1015 are reserved, 1016–2999 undefined (§7.4.2).
#[must_use]
pub const fn is_valid(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// The code to close with after `error`.
#[must_use]
pub const fn code(error: &ProtocolError) -> u16 {
    match error {
        ProtocolError::Header(error) => match error {
            HeaderError::TooLarge(_) => TOO_BIG,
            HeaderError::Control(_)
            | HeaderError::Length(_)
            | HeaderError::Masked
            | HeaderError::OpCode(_)
            | HeaderError::Reserved(_)
            | HeaderError::Unmasked => PROTOCOL,
        },
        ProtocolError::Orphan
        | ProtocolError::Interrupted(_)
        | ProtocolError::CloseLength
        | ProtocolError::CloseCode(_) => PROTOCOL,
        ProtocolError::CloseReason | ProtocolError::Utf8 => INVALID_PAYLOAD,
        ProtocolError::TooLong { .. } | ProtocolError::TooManyFragments { .. } => TOO_BIG,
        ProtocolError::Deflate(error) => match error {
            DeflateError::Invalid | DeflateError::Truncated => INVALID_PAYLOAD,
        },
    }
}

/// Takes a Close frame's payload apart: nothing, or a code and a reason (§5.5.1).
pub(super) fn parse(payload: &[u8]) -> Result<(Option<u16>, &str), ProtocolError> {
    let Some((code, reason)) = payload.split_first_chunk() else {
        return if payload.is_empty() { Ok((None, "")) } else { Err(ProtocolError::CloseLength) };
    };
    let code = u16::from_be_bytes(*code);
    if !is_valid(code) {
        return Err(ProtocolError::CloseCode(code));
    }
    let reason = std::str::from_utf8(reason).map_err(|_| ProtocolError::CloseReason)?;
    Ok((Some(code), reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_codes_on_the_wire_are_those_of_the_registry() {
        let valid: Vec<u16> = (0..=u16::MAX).filter(|code| is_valid(*code)).collect();
        let expect: Vec<u16> = (1000..=1003).chain(1007..=1014).chain(3000..=4999).collect();
        assert_eq!(valid, expect);
    }

    #[test]
    fn a_close_payload_is_nothing_or_a_code_and_a_reason() {
        assert_eq!(parse(b""), Ok((None, "")));
        assert_eq!(parse(b"\x03"), Err(ProtocolError::CloseLength));
        assert_eq!(parse(b"\x03\xE8"), Ok((Some(1000), "")));
        assert_eq!(parse("\u{3}\u{a}".as_bytes()), Err(ProtocolError::CloseCode(0x30A)));
        assert_eq!(parse(b"\x03\xE9bye"), Ok((Some(1001), "bye")));
        assert_eq!(parse(b"\x03\xE9by\xFF"), Err(ProtocolError::CloseReason));
    }

    #[test]
    fn errors_close_as_the_rfc_says() {
        assert_eq!(code(&ProtocolError::Orphan), 1002);
        assert_eq!(code(&ProtocolError::Utf8), 1007);
        assert_eq!(code(&ProtocolError::Header(HeaderError::TooLarge(9))), 1009);
        assert_eq!(code(&ProtocolError::Header(HeaderError::Masked)), 1002);
        assert_eq!(code(&ProtocolError::Deflate(DeflateError::Truncated)), 1007);
    }
}
