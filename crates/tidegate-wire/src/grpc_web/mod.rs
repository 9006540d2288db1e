//! gRPC-Web, what of it is bytes and header values, for both roles and without IO
//! (`PROTOCOL-WEB.md`). It knows no protobuf: messages stay as they are.
//!
//! A layer in front of a gRPC server, ours or another's, translates:
//!
//! ```text
//!   web client                          the layer                                gRPC server
//!   POST, application/grpc-web[-text]   negotiate, REQUEST_HEADERS_REMOVED       application/grpc
//!   body                            ──► RequestTranslator  ─────────────────────► DATA
//!   body                            ◄── ResponseTranslator::next  ◄────────────── DATA
//!   its last frame                  ◄── ResponseTranslator::finish  ◄──────────── trailers
//! ```
//! A client decodes such an answer with [`ResponseDecoder`].
//!
//! **Trailers-Only.** Where the gRPC server's head has `grpc-status` and no body follows, the web
//! client gets the same: the fields in the head, and an empty body without a frame of trailers.
//!
//! **Binary metadata** stays base64 in the text form too, against `PROTOCOL-WEB.md` and as all who
//! implement it do: raw bytes could hold line breaks.
//!
//! A request with `Content-Encoding` is to be decoded or refused before.

mod decoder;
mod request;
mod response;
pub mod text;
pub mod trailers;

pub use decoder::{Event, Limits, ResponseDecoder, ResponseError};
pub use request::RequestTranslator;
pub use response::ResponseTranslator;
pub use trailers::Trailers;

use crate::grpc::{ContentType, Protocol};

/// The web protocol that an answer is in; its subtype is the gRPC server's. That of the request,
/// unless one is named in `Accept`, whose fields' values these are. Of several the one of the
/// highest weight is taken, of equals the first (`PROTOCOL-WEB.md`, Text-encoded streams; RFC 9110
/// §12.5.1). `None` where the request is not of gRPC-Web.
pub fn negotiate<'a>(
    request: Protocol,
    accept: impl IntoIterator<Item = &'a [u8]>,
) -> Option<Protocol> {
    if request == Protocol::Grpc {
        return None;
    }
    let mut best = (0, request);
    for range in accept.into_iter().flat_map(|value| value.split(|it| *it == b',')) {
        let Some(accepted) = ContentType::parse(range) else { continue };
        let weight = weight(range);
        if accepted.protocol != Protocol::Grpc && weight > best.0 {
            best = (weight, accepted.protocol);
        }
    }
    Some(best.1)
}

/// The weight of a media range in thousandths (RFC 9110 §12.4.2); one that is wrong counts as
/// whole.
fn weight(range: &[u8]) -> u16 {
    let parameters = range.split(|it| *it == b';').skip(1);
    let value = parameters.map(<[u8]>::trim_ascii).find_map(|it| {
        it.split_first_chunk()
            .and_then(|(name, value)| matches!(name, b"q=" | b"Q=").then_some(value))
    });
    let decimals = match value {
        None | Some([b'1', ..]) => return 1000,
        Some([b'0']) => &[][..],
        Some([b'0', b'.', decimals @ ..]) if decimals.iter().all(u8::is_ascii_digit) => decimals,
        Some(_) => return 1000,
    };
    let digits = decimals.iter().chain(b"000").take(3);
    digits.fold(0, |weight, digit| weight * 10 + u16::from(digit - b'0'))
}

/// Fields of a web client's request that a gRPC server must not see: they are of the web's hop, or
/// of a body that is not what it was. Beside them go those that HTTP itself keeps to a hop (RFC
/// 9110 §7.6.1).
pub const REQUEST_HEADERS_REMOVED: &[&str] =
    &["accept", "accept-encoding", "content-length", "x-grpc-web", "x-user-agent"];

/// Fields to set on the request to the gRPC server, beside its `content-type`. Not
/// `grpc-accept-encoding`: the client's own is passed on, and one without it can't decompress.
pub const REQUEST_HEADERS_SET: &[(&str, &str)] = &[("te", "trailers")];

/// Fields of a gRPC server's answer that a web client must not see: there are no HTTP trailers any
/// more, and the body is longer.
pub const RESPONSE_HEADERS_REMOVED: &[&str] = &["content-length", "trailer"];

/// Fields of an answer that scripts of another origin must be able to read, for
/// `Access-Control-Expose-Headers`: without them a Trailers-Only answer has no status. Metadata of
/// the answer's own comes beside them.
pub const CORS_EXPOSED_HEADERS: &[&str] =
    &["grpc-status", "grpc-message", "grpc-status-details-bin"];

/// Fields that web clients send by themselves, for `Access-Control-Allow-Headers`. Metadata and
/// credentials come beside them.
pub const CORS_ALLOWED_HEADERS: &[&str] =
    &["content-type", "grpc-timeout", "x-grpc-web", "x-user-agent"];

/// The methods, for `Access-Control-Allow-Methods`.
pub const CORS_ALLOWED_METHODS: &[&str] = &["POST"];

#[cfg(test)]
mod tests {
    use super::*;
    use Protocol::{Grpc, GrpcWeb, GrpcWebText};

    /// Trailers that say that all is well.
    pub(super) const OK: [(&str, &[u8]); 1] = [("grpc-status", b"0")];

    /// `input` in each way of cutting it in two, and byte for byte.
    pub(super) fn cuts(input: &[u8]) -> impl Iterator<Item = Vec<&[u8]>> {
        let in_two = (0..=input.len()).map(|cut| {
            let (front, back) = input.split_at(cut);
            vec![front, back]
        });
        in_two.chain([input.chunks(1).collect()])
    }

    #[track_caller]
    fn check(request: Protocol, accept: &[&str], expect: Option<Protocol>) {
        let accept = accept.iter().map(|it| it.as_bytes());
        assert_eq!(negotiate(request, accept), expect);
    }

    #[test]
    fn an_answer_is_in_what_accept_names() {
        check(GrpcWeb, &["application/grpc-web-text"], Some(GrpcWebText));
        check(GrpcWeb, &["application/grpc-web-text+proto"], Some(GrpcWebText));
        check(GrpcWebText, &["application/grpc-web+proto"], Some(GrpcWeb));
        check(GrpcWebText, &["text/html, application/grpc-web, */*"], Some(GrpcWeb));
    }

    #[test]
    fn without_a_name_it_is_in_what_the_request_was() {
        for request in [GrpcWeb, GrpcWebText] {
            for accept in [&[][..], &["*/*"], &["application/*"], &["application/grpc"], &[""]] {
                check(request, accept, Some(request));
            }
        }
        check(Grpc, &["application/grpc-web"], None);
    }

    #[test]
    fn weights_count() {
        let both = "application/grpc-web;q=0.5, application/grpc-web-text;q=0.9";
        check(GrpcWeb, &[both], Some(GrpcWebText));
        check(
            GrpcWebText,
            &["application/grpc-web-text;q=0.1, application/grpc-web"],
            Some(GrpcWeb),
        );
        check(GrpcWeb, &["application/grpc-web", "application/grpc-web-text"], Some(GrpcWeb));
        check(GrpcWebText, &["application/grpc-web;q=0"], Some(GrpcWebText));
        check(GrpcWebText, &["application/grpc-web;q=0.000"], Some(GrpcWebText));
    }

    #[test]
    fn a_weight_has_up_to_three_decimals() {
        for (range, expect) in [
            ("a/b", 1000),
            ("a/b;q=1", 1000),
            ("a/b; Q=0.5", 500),
            ("a/b;x=y;q=0.123", 123),
            ("a/b;q=0.05", 50),
            ("a/b;q=0.", 0),
            ("a/b;q=0", 0),
            ("a/b;q=", 1000),
            ("a/b;q=0.x", 1000),
            ("a/b;q=2", 1000),
            ("a/b;q=0.1239", 123),
        ] {
            assert_eq!(weight(range.as_bytes()), expect, "{range}");
        }
    }

    #[test]
    fn names_are_lower_case() {
        let names = REQUEST_HEADERS_REMOVED
            .iter()
            .chain(RESPONSE_HEADERS_REMOVED)
            .chain(CORS_EXPOSED_HEADERS)
            .chain(CORS_ALLOWED_HEADERS);
        for name in names {
            assert_eq!(*name, name.to_lowercase());
        }
    }
}
