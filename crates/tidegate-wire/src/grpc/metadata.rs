//! Custom-Metadata: fields whose name ends with `-bin` are base64 (the specification's
//! Binary-Header).

use base64::{
    Engine as _,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};

/// Emits no padding and accepts both, as the specification has it. The bits that a last character
/// has too many are not looked at: Go, Java and JavaScript don't, and so peers may send what they
/// like.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Whether a field's value is base64. Names are lower-case on HTTP/2.
#[must_use]
pub fn is_binary(name: &str) -> bool {
    name.ends_with("-bin")
}

/// The value of a binary field.
#[must_use]
pub fn encode_binary(bytes: &[u8]) -> String {
    BASE64.encode(bytes)
}

/// The values of a binary field: those of several fields of one name may have been joined by
/// commas. An empty value is one empty value.
///
/// Each is an [`InvalidBase64`] if it is that.
pub fn decode_binary(value: &[u8]) -> impl Iterator<Item = Result<Vec<u8>, InvalidBase64>> + '_ {
    let values = value.split(|byte| *byte == b',');
    values.map(|value| BASE64.decode(value.trim_ascii()).map_err(|_| InvalidBase64))
}

/// A value is not base64 (RFC 4648 §4); the peer's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a binary field's value is not base64")]
pub struct InvalidBase64;

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(value: &str, expect: &[Result<&[u8], InvalidBase64>]) {
        let values: Vec<_> = decode_binary(value.as_bytes()).collect();
        let expect: Vec<_> = expect.iter().map(|it| it.map(<[u8]>::to_vec)).collect();
        assert_eq!(values, expect, "{value}");
    }

    #[test]
    fn what_is_emitted_has_no_padding() {
        // RFC 4648 §10.
        for (bytes, value) in [
            ("", ""),
            ("f", "Zg"),
            ("fo", "Zm8"),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg"),
            ("fooba", "Zm9vYmE"),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(encode_binary(bytes.as_bytes()), value);
            check(value, &[Ok(bytes.as_bytes())]);
        }
        assert_eq!(encode_binary(&[0xFB, 0xFF]), "+/8", "the alphabet of section 4");
    }

    #[test]
    fn padded_and_unpadded_values_are_accepted() {
        check("Zg==", &[Ok(b"f")]);
        check("Zm8=", &[Ok(b"fo")]);
        check("Zg=", &[Ok(b"f")]);
        check("Zh", &[Ok(b"f")]);
    }

    #[test]
    fn joined_values_are_several() {
        check("Zg==,Zm8", &[Ok(b"f"), Ok(b"fo")]);
        check("Zg , \tZm8=", &[Ok(b"f"), Ok(b"fo")]);
        check(",Zg", &[Ok(b""), Ok(b"f")]);
        check("Zg,*,Zg", &[Ok(b"f"), Err(InvalidBase64), Ok(b"f")]);
    }

    #[test]
    fn what_is_no_base64_is_refused() {
        for value in ["Z", "Zg=g", "====", "=", "-_8", "Z g", "Zm9vY", "\u{E9}"] {
            check(value, &[Err(InvalidBase64)]);
        }
    }

    #[test]
    fn binary_fields_are_known_by_their_names() {
        assert!(is_binary("trace-proto-bin") && is_binary("grpc-status-details-bin"));
        assert!(!is_binary("tidegate-cursor") && !is_binary("bin") && !is_binary("x-bin-y"));
    }
}
