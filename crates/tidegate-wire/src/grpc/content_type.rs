//! `application/grpc`, `application/grpc-web` and `application/grpc-web-text`, with what the
//! messages are in (`+proto`): the specification's Content-Type, and that of `PROTOCOL-WEB.md`.

/// How messages and trailers lie in a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Frames, and HTTP trailers.
    Grpc,
    /// Frames, the last one with the trailers.
    GrpcWeb,
    /// The same in base64, which may be padded anywhere.
    GrpcWebText,
}

impl Protocol {
    /// Its media type.
    #[must_use]
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Grpc => "application/grpc",
            Self::GrpcWeb => "application/grpc-web",
            Self::GrpcWebText => "application/grpc-web-text",
        }
    }
}

/// A `Content-Type` that is one of gRPC's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentType<'a> {
    /// How messages lie in the body.
    pub protocol: Protocol,
    /// What they are in, `proto` or `json`; a token, in the peer's case. Empty where it is not
    /// said, which means `proto`.
    pub subtype: &'a str,
}

impl<'a> ContentType<'a> {
    /// Reads a `Content-Type`; `None` where it is not gRPC's, to which a server answers with 415.
    /// Case does not count, and parameters are skipped.
    #[must_use]
    pub fn parse(value: &'a [u8]) -> Option<Self> {
        let value = str::from_utf8(value).ok()?;
        let media_type = value.split(';').next()?.trim_ascii();
        let (essence, subtype) = media_type.split_once('+').unwrap_or((media_type, ""));
        let is = |name: &str| essence.eq_ignore_ascii_case(name);
        let protocol = if is(Protocol::Grpc.media_type()) {
            Protocol::Grpc
        } else if is(Protocol::GrpcWeb.media_type()) {
            Protocol::GrpcWeb
        } else if is(Protocol::GrpcWebText.media_type()) || is(TEXT_BASE64) {
            Protocol::GrpcWebText
        } else {
            return None;
        };
        subtype.bytes().all(is_token).then_some(Self { protocol, subtype })
    }

    /// Whether messages are protobuf.
    #[must_use]
    pub fn is_proto(&self) -> bool {
        self.subtype.is_empty() || self.subtype.eq_ignore_ascii_case("proto")
    }
}

impl std::fmt::Display for ContentType<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.protocol.media_type())?;
        if self.subtype.is_empty() { Ok(()) } else { write!(f, "+{}", self.subtype) }
    }
}

/// Another name of the text form.
const TEXT_BASE64: &str = "application/grpc-web-text-base64";

/// Whether a byte may be in a token (RFC 9110 §5.6.2).
pub(crate) const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
}

#[cfg(test)]
mod tests {
    use super::*;
    use Protocol::{Grpc, GrpcWeb, GrpcWebText};

    #[track_caller]
    fn check(value: &str, expect: Option<(Protocol, &str)>, written: &str) {
        let content_type = ContentType::parse(value.as_bytes());
        assert_eq!(content_type.map(|it| (it.protocol, it.subtype)), expect, "{value}");
        assert_eq!(content_type.map(|it| it.to_string()).unwrap_or_default(), written);
    }

    #[test]
    fn each_protocol_has_its_types() {
        check("application/grpc", Some((Grpc, "")), "application/grpc");
        check("application/grpc+proto", Some((Grpc, "proto")), "application/grpc+proto");
        check("application/grpc-web", Some((GrpcWeb, "")), "application/grpc-web");
        check("application/grpc-web+json", Some((GrpcWeb, "json")), "application/grpc-web+json");
        check("application/grpc-web-text", Some((GrpcWebText, "")), "application/grpc-web-text");
        check(
            "application/grpc-web-text+proto",
            Some((GrpcWebText, "proto")),
            "application/grpc-web-text+proto",
        );
        check(
            "application/grpc-web-text-base64",
            Some((GrpcWebText, "")),
            "application/grpc-web-text",
        );
    }

    #[test]
    fn case_and_parameters_do_not_count() {
        check(
            "Application/gRPC-Web+Proto; charset=utf-8",
            Some((GrpcWeb, "Proto")),
            "application/grpc-web+Proto",
        );
        check(" application/grpc ;x", Some((Grpc, "")), "application/grpc");
        assert!(ContentType::parse(b"application/grpc+PROTO").unwrap().is_proto());
        assert!(ContentType::parse(b"application/grpc+").unwrap().is_proto());
        assert!(!ContentType::parse(b"application/grpc+json").unwrap().is_proto());
    }

    #[test]
    fn anything_else_is_not_grpc() {
        for value in [
            "",
            "application/json",
            "application/grpcx",
            "application/grpc-webx",
            "application/grpc-web-texts",
            "application/grpc proto",
            "application/grpc+a b",
            "application/grpc+a\r\nx:y",
            "xapplication/grpc",
        ] {
            check(value, None, "");
        }
        assert_eq!(ContentType::parse(b"application/grpc\xFF"), None);
    }
}
