//! How a call ended: codes, messages, and the fields that carry them.
//!
//! The specification's Trailers, Status and Status-Message, and its table of HTTP/2 errors;
//! `statuscodes.md` for the codes, `http-grpc-status-mapping.md` for HTTP's.

use super::metadata;

/// The field with the code's number.
pub const GRPC_STATUS: &str = "grpc-status";
/// The field with the message, percent-encoded.
pub const GRPC_MESSAGE: &str = "grpc-message";
/// The field with a `google.rpc.Status` in base64.
pub const GRPC_STATUS_DETAILS: &str = "grpc-status-details-bin";

/// A status code (`statuscodes.md`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Code {
    /// It is done.
    Ok = 0,
    /// Whoever called has given up.
    Cancelled = 1,
    /// An error that says no more, or a code that nobody knows.
    Unknown = 2,
    /// The client asked for something that makes no sense whatever the state.
    InvalidArgument = 3,
    /// It took longer than the client wanted to wait; it may be done all the same.
    DeadlineExceeded = 4,
    /// There is no such thing.
    NotFound = 5,
    /// It is there already.
    AlreadyExists = 6,
    /// The client is known, and may not.
    PermissionDenied = 7,
    /// A quota, a limit or a size is exceeded.
    ResourceExhausted = 8,
    /// Not in this state, and trying again won't help.
    FailedPrecondition = 9,
    /// Two did it at once: try the whole again.
    Aborted = 10,
    /// Beyond an end.
    OutOfRange = 11,
    /// There is no such method, or it is not served.
    Unimplemented = 12,
    /// Something that must not be: a bug, or broken framing.
    Internal = 13,
    /// Not now: try again.
    Unavailable = 14,
    /// Data is lost for good.
    DataLoss = 15,
    /// The client is not known.
    Unauthenticated = 16,
}

/// Every code, by its number.
const CODES: [(Code, &str); 17] = [
    (Code::Ok, "OK"),
    (Code::Cancelled, "CANCELLED"),
    (Code::Unknown, "UNKNOWN"),
    (Code::InvalidArgument, "INVALID_ARGUMENT"),
    (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"),
    (Code::NotFound, "NOT_FOUND"),
    (Code::AlreadyExists, "ALREADY_EXISTS"),
    (Code::PermissionDenied, "PERMISSION_DENIED"),
    (Code::ResourceExhausted, "RESOURCE_EXHAUSTED"),
    (Code::FailedPrecondition, "FAILED_PRECONDITION"),
    (Code::Aborted, "ABORTED"),
    (Code::OutOfRange, "OUT_OF_RANGE"),
    (Code::Unimplemented, "UNIMPLEMENTED"),
    (Code::Internal, "INTERNAL"),
    (Code::Unavailable, "UNAVAILABLE"),
    (Code::DataLoss, "DATA_LOSS"),
    (Code::Unauthenticated, "UNAUTHENTICATED"),
];

impl Code {
    /// Its number, `0..=16`.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// Its name in upper case, `INVALID_ARGUMENT`.
    #[must_use]
    pub fn name(self) -> &'static str {
        CODES.get(usize::from(self.number())).map_or("", |(_, name)| name)
    }

    /// The code of that number; numbers that nobody knows are `Unknown`.
    #[must_use]
    pub fn from_number(number: u32) -> Self {
        let number = usize::try_from(number).unwrap_or(usize::MAX);
        CODES.get(number).map_or(Self::Unknown, |(code, _)| *code)
    }

    /// The code that the value of a `grpc-status` field says: a decimal number. What is no number
    /// is `Unknown`.
    #[must_use]
    pub fn from_field(value: &[u8]) -> Self {
        let digits = value.trim_ascii();
        if digits.is_empty() || digits.len() > 9 || !digits.iter().all(u8::is_ascii_digit) {
            return Self::Unknown;
        }
        let number = digits.iter().fold(0, |number, digit| number * 10 + u32::from(digit - b'0'));
        Self::from_number(number)
    }

    /// What a client makes of an answer without `grpc-status`, from its HTTP status
    /// (`http-grpc-status-mapping.md`). Never to be used the other way round.
    #[must_use]
    pub const fn from_http(status: u16) -> Self {
        match status {
            400 | 431 => Self::Internal,
            401 => Self::Unauthenticated,
            403 => Self::PermissionDenied,
            404 => Self::Unimplemented,
            429 | 502..=504 => Self::Unavailable,
            _ => Self::Unknown,
        }
    }

    /// What either end makes of a stream that was reset with an HTTP/2 error code (RFC 9113 §7; the
    /// specification, Errors). The specification maps all to `Internal` but those below, and says
    /// nothing of `STREAM_CLOSED` (5), of `HTTP_1_1_REQUIRED` (13) and of unknown ones: they are
    /// `Internal` too, as in gRPC's own core.
    #[must_use]
    pub const fn from_reset(error_code: u32) -> Self {
        const REFUSED_STREAM: u32 = 7;
        const CANCEL: u32 = 8;
        const ENHANCE_YOUR_CALM: u32 = 11;
        const INADEQUATE_SECURITY: u32 = 12;
        match error_code {
            REFUSED_STREAM => Self::Unavailable,
            CANCEL => Self::Cancelled,
            ENHANCE_YOUR_CALM => Self::ResourceExhausted,
            INADEQUATE_SECURITY => Self::PermissionDenied,
            _ => Self::Internal,
        }
    }
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The code.
    pub code: Code,
    /// For people; any Unicode. Empty where there is none.
    pub message: String,
    /// A serialized `google.rpc.Status` that says the same and has details; empty where there is
    /// none.
    pub details: Vec<u8>,
}

impl Status {
    /// A status without details.
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: Vec::new() }
    }

    /// The fields of the trailers that say it, names and values. `Ok` has neither message nor
    /// details.
    pub fn fields(&self) -> impl Iterator<Item = (&'static str, String)> + use<> {
        let is_ok = self.code == Code::Ok;
        let message = (!is_ok && !self.message.is_empty())
            .then(|| (GRPC_MESSAGE, encode_message(&self.message)));
        let details = (!is_ok && !self.details.is_empty())
            .then(|| (GRPC_STATUS_DETAILS, metadata::encode_binary(&self.details)));
        let status = (GRPC_STATUS, self.code.number().to_string());
        std::iter::once(status).chain(message).chain(details)
    }

    /// The status that trailers say, or the head of a Trailers-Only answer; `field` gives the value
    /// of a name. `None` where there is no `grpc-status`. Never fails otherwise: a code that is no
    /// number is `Unknown`, and details that are no base64 are left out.
    #[must_use]
    pub fn from_fields<'a>(field: impl Fn(&str) -> Option<&'a [u8]>) -> Option<Self> {
        let code = Code::from_field(field(GRPC_STATUS)?);
        let message = field(GRPC_MESSAGE).map(decode_message).unwrap_or_default();
        let details = field(GRPC_STATUS_DETAILS)
            .and_then(|value| metadata::decode_binary(value).next())
            .and_then(Result::ok)
            .unwrap_or_default();
        Some(Self { code, message, details })
    }
}

/// The value of `grpc-message` for a message (the specification's Percent-Encoded): space and
/// visible ASCII but `%` stay, bytes of UTF-8 else are `%XX`. Spaces at either end are encoded too,
/// since HTTP takes them off a value (RFC 9110 §5.5).
#[must_use]
pub fn encode_message(message: &str) -> String {
    const HEX_DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let hex = |nibble: u8| HEX_DIGITS.get(usize::from(nibble)).copied().map_or('0', char::from);
    let inner =
        message.len() - message.trim_start_matches(' ').len()..message.trim_end_matches(' ').len();
    let mut value = String::with_capacity(message.len());
    for (at, byte) in message.bytes().enumerate() {
        match byte {
            b' ' if !inner.contains(&at) => value.push_str("%20"),
            b' '..=b'~' if byte != b'%' => value.push(char::from(byte)),
            _ => value.extend(['%', hex(byte >> 4), hex(byte & 0x0F)]),
        }
    }
    value
}

/// The message that a `grpc-message` stands for. Never fails, as the specification has it: a `%`
/// without two hexadecimal digits stays as it is, and what is no UTF-8 becomes U+FFFD.
#[must_use]
pub fn decode_message(value: &[u8]) -> String {
    let hex = |digit: u8| char::from(digit).to_digit(16).and_then(|it| u8::try_from(it).ok());
    let mut message = Vec::with_capacity(value.len());
    let mut rest = value;
    while let [byte, after @ ..] = rest {
        rest = after;
        if let (b'%', [high, low, after @ ..]) = (byte, rest)
            && let (Some(high), Some(low)) = (hex(*high), hex(*low))
        {
            message.push(high << 4 | low);
            rest = after;
        } else {
            message.push(*byte);
        }
    }
    match String::from_utf8(message) {
        Ok(message) => message,
        Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_their_numbers_and_names() {
        for (at, (code, name)) in CODES.into_iter().enumerate() {
            assert_eq!(usize::from(code.number()), at);
            assert_eq!(code.name(), name);
            assert_eq!(Code::from_field(at.to_string().as_bytes()), code);
            // `InvalidArgument` is `INVALID_ARGUMENT`.
            assert_eq!(name.replace('_', "").to_lowercase(), format!("{code:?}").to_lowercase());
        }
        assert_eq!(Code::Unauthenticated.number(), 16);
        for other in ["17", "4294967295", "99999999999999999999", "-1", "", "x", "1 2", "0x1"] {
            assert_eq!(Code::from_field(other.as_bytes()), Code::Unknown, "{other}");
        }
        assert_eq!(Code::from_field(b" 14 "), Code::Unavailable);
        assert_eq!(Code::from_field(b"05"), Code::NotFound);
    }

    #[test]
    fn a_http_status_stands_in_for_a_missing_grpc_status() {
        use Code::{
            Internal, PermissionDenied, Unauthenticated, Unavailable, Unimplemented, Unknown,
        };
        for (status, code) in [
            (400, Internal),
            (401, Unauthenticated),
            (403, PermissionDenied),
            (404, Unimplemented),
            (429, Unavailable),
            (431, Internal),
            (502, Unavailable),
            (503, Unavailable),
            (504, Unavailable),
            (200, Unknown),
            (302, Unknown),
            (405, Unknown),
            (415, Unknown),
            (500, Unknown),
        ] {
            assert_eq!(Code::from_http(status), code, "{status}");
        }
    }

    #[test]
    fn a_reset_has_a_code_too() {
        use Code::{Cancelled, Internal, PermissionDenied, ResourceExhausted, Unavailable};
        // By number, from NO_ERROR; 14 is none of HTTP/2's.
        let codes = [
            Internal,
            Internal,
            Internal,
            Internal,
            Internal,
            Internal,
            Internal,
            Unavailable,
            Cancelled,
            Internal,
            Internal,
            ResourceExhausted,
            PermissionDenied,
            Internal,
            Internal,
        ];
        for (number, code) in (0..).zip(codes) {
            assert_eq!(Code::from_reset(number), code, "{number}");
        }
    }

    #[track_caller]
    fn check_message(message: &str, value: &str) {
        assert_eq!(encode_message(message), value);
        assert_eq!(decode_message(value.as_bytes()), message);
        assert!(value.bytes().all(|byte| matches!(byte, b' '..=b'~')));
    }

    #[test]
    fn a_message_is_percent_encoded() {
        check_message("", "");
        check_message("my favorite character is \0", "my favorite character is %00");
        check_message("100 % sure?", "100 %25 sure?");
        check_message("%41", "%2541");
        check_message(" !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~", "%20!\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~");
        check_message("tab\there\r\nthere\u{7F}", "tab%09here%0D%0Athere%7F");
        check_message("żółć 🦀", "%C5%BC%C3%B3%C5%82%C4%87 %F0%9F%A6%80");
    }

    #[test]
    fn spaces_at_the_ends_are_not_lost() {
        check_message(" ", "%20");
        check_message("   ", "%20%20%20");
        check_message("  a b ", "%20%20a b%20");
    }

    #[test]
    fn a_message_that_is_badly_encoded_is_still_told() {
        for (value, message) in [
            ("%", "%"),
            ("%4", "%4"),
            ("%4G%41", "%4GA"),
            ("%%41", "%A"),
            ("50% of it", "50% of it"),
            ("%c3%b3", "ó"),
            ("%FF ok", "\u{FFFD} ok"),
            ("%C5", "\u{FFFD}"),
        ] {
            assert_eq!(decode_message(value.as_bytes()), message, "{value}");
        }
        assert_eq!(decode_message(b"caf\xC3\xA9 \xFF"), "café \u{FFFD}");
    }

    #[test]
    fn a_status_is_its_fields() {
        let fields = |status: &Status| status.fields().collect::<Vec<_>>();
        let read = |fields: &[(&str, String)]| {
            Status::from_fields(|name| {
                fields.iter().find(|(it, _)| *it == name).map(|(_, value)| value.as_bytes())
            })
        };
        let ok = Status::new(Code::Ok, "");
        assert_eq!(fields(&ok), [("grpc-status", "0".into())]);
        assert_eq!(read(&fields(&ok)), Some(ok));

        let mut status = Status::new(Code::ResourceExhausted, "zu groß");
        status.details = b"\x08\x08\x12".to_vec();
        let expect = [
            ("grpc-status", "8"),
            ("grpc-message", "zu gro%C3%9F"),
            ("grpc-status-details-bin", "CAgS"),
        ];
        assert_eq!(fields(&status), expect.map(|(name, value)| (name, value.to_owned())));
        assert_eq!(read(&fields(&status)), Some(status.clone()));

        status.code = Code::Ok;
        assert_eq!(fields(&status), [("grpc-status", "0".into())], "there is no error to describe");
        assert_eq!(read(&[("grpc-message", "lost".into())]), None);
        let broken = [("grpc-status", "9".into()), ("grpc-status-details-bin", "CA*".into())];
        assert_eq!(read(&broken), Some(Status::new(Code::FailedPrecondition, "")));
    }
}
