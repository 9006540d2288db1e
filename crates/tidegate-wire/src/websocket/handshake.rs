//! The opening handshake, both ends of it (RFC 6455 §4).
//!
//! A server has the request head parsed by its HTTP implementation and gives it to [`check`]; what
//! it answers is in [`Accepted`] or [`Refusal`]. `Origin` is a policy, and left to the caller. A
//! client writes a request with [`ClientHandshake::start`] and judges the answer with
//! [`ClientHandshake::finish`]; the 16 random bytes of its key come from the caller.

use std::borrow::Cow;

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
    prelude::BASE64_STANDARD,
};
use sha1::{Digest as _, Sha1};

use super::extension::{self, AnswerError, DeflateOffer, DeflateParams, DeflatePolicy, is_token};

/// The version that RFC 6455 describes; no other was ever finished.
pub const VERSION: &str = "13";

/// Longest head of an answer that a client reads.
const HEAD_LEN_MAX: usize = 16 * 1024;

/// Clients encode keys with all sorts of code: bits that padding leaves over are not looked at.
const KEY: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
);

/// The value of `Sec-WebSocket-Accept` that answers `key` (§4.2.2, 5.4).
#[must_use]
pub fn accept_key(key: &str) -> [u8; 28] {
    let digest = Sha1::new()
        .chain_update(key)
        .chain_update("258EAFA5-E914-47DA-95CA-C5AB0DC85B11")
        .finalize();
    let mut accept = [0; 28];
    // 20 bytes always make 28 characters.
    let written = BASE64_STANDARD.encode_slice(digest, &mut accept);
    debug_assert_eq!(written, Ok(28));
    accept
}

/// Header fields by name, wherever they are kept.
pub trait Headers {
    /// The values of every field named `name` (lowercase), in order; names match in any case.
    fn values<'a>(&'a self, name: &'static str) -> impl Iterator<Item = &'a [u8]>;
}

impl Headers for [(&str, &[u8])] {
    fn values<'a>(&'a self, name: &'static str) -> impl Iterator<Item = &'a [u8]> {
        self.iter().filter(move |(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, it)| *it)
    }
}

/// What a server knows of a request.
#[derive(Debug)]
pub struct Request<'r, H: ?Sized> {
    /// The method, in its own case.
    pub method: &'r str,
    /// Whether the request is of HTTP/1.1; no other version upgrades.
    pub is_http_1_1: bool,
    /// Its header fields.
    pub headers: &'r H,
}

/// A request that may be answered with 101.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted<'r> {
    /// The value of `Sec-WebSocket-Accept`.
    pub accept: [u8; 28],
    /// The subprotocols that the client offers, the one it likes best first.
    pub protocols: Vec<&'r str>,
    /// What is agreed of permessage-deflate, and the `Sec-WebSocket-Extensions` to answer with.
    pub deflate: Option<(DeflateParams, String)>,
}

impl<'r> Accepted<'r> {
    /// The first subprotocol that the client offers and `known` has.
    #[must_use]
    pub fn select(&self, known: &[&str]) -> Option<&'r str> {
        self.protocols.iter().copied().find(|offered| known.contains(offered))
    }

    /// Appends the head of the answer, with one of [`Self::protocols`] and `headers` beside what
    /// the handshake needs. Names and values must be legal.
    pub fn response(&self, protocol: Option<&str>, headers: &[(&str, &str)], out: &mut Vec<u8>) {
        out.extend_from_slice(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
              Sec-WebSocket-Accept: ",
        );
        out.extend_from_slice(&self.accept);
        out.extend_from_slice(b"\r\n");
        if let Some(protocol) = protocol {
            field("Sec-WebSocket-Protocol", protocol, out);
        }
        if let Some((_, extension)) = &self.deflate {
            field("Sec-WebSocket-Extensions", extension, out);
        }
        for (name, value) in headers {
            field(name, value, out);
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// Why a request is not answered with 101.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The method is not GET.
    #[error("a WebSocket is opened with GET")]
    Method,
    /// The request is not of HTTP/1.1.
    #[error("a WebSocket is opened with HTTP/1.1")]
    HttpVersion,
    /// `Host` is missing, blank or doubled.
    #[error("the request needs one Host")]
    Host,
    /// `Upgrade` does not name websocket.
    #[error("the request needs Upgrade: websocket")]
    Upgrade,
    /// `Connection` does not name upgrade.
    #[error("the request needs Connection: Upgrade")]
    Connection,
    /// `Sec-WebSocket-Key` is missing, doubled, or not 16 bytes in base64.
    #[error("the request needs one Sec-WebSocket-Key of 16 bytes in base64")]
    Key,
    /// `Sec-WebSocket-Version` is not 13.
    #[error("the request needs Sec-WebSocket-Version: 13")]
    Version,
    /// `Sec-WebSocket-Protocol` is not a list of names.
    #[error("Sec-WebSocket-Protocol is not a list of names")]
    Protocols,
}

impl Refusal {
    /// The HTTP status to refuse with. 405 goes with `Allow: GET`; 426 with `Upgrade: websocket`,
    /// `Connection: Upgrade` and `Sec-WebSocket-Version: 13`.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::Method => 405,
            Self::Upgrade | Self::Version => 426,
            Self::HttpVersion | Self::Host | Self::Connection | Self::Key | Self::Protocols => 400,
        }
    }
}

/// Checks a request to upgrade (§4.2.1). Without `deflate` no extension is agreed to.
///
/// # Errors
///
/// [`Refusal`] if the request can't be answered with 101.
pub fn check<'r, H: Headers + ?Sized>(
    request: &Request<'r, H>,
    deflate: Option<&DeflatePolicy>,
) -> Result<Accepted<'r>, Refusal> {
    let headers = request.headers;
    if request.method != "GET" {
        return Err(Refusal::Method);
    }
    if !request.is_http_1_1 {
        return Err(Refusal::HttpVersion);
    }
    only(headers.values("host")).filter(|host| !host.is_empty()).ok_or(Refusal::Host)?;
    if !lists(headers.values("upgrade"), "websocket") {
        return Err(Refusal::Upgrade);
    }
    if !lists(headers.values("connection"), "upgrade") {
        return Err(Refusal::Connection);
    }
    if only(headers.values("sec-websocket-version")) != Some(VERSION.as_bytes()) {
        return Err(Refusal::Version);
    }
    let key = only(headers.values("sec-websocket-key"))
        .and_then(|key| std::str::from_utf8(key).ok())
        .filter(|key| is_key(key))
        .ok_or(Refusal::Key)?;
    let mut protocols = Vec::new();
    for value in headers.values("sec-websocket-protocol") {
        for name in elements(value).filter(|name| !name.is_empty()) {
            let name = std::str::from_utf8(name).ok().filter(|name| name.bytes().all(is_token));
            protocols.push(name.ok_or(Refusal::Protocols)?);
        }
    }
    let deflate = deflate
        .and_then(|policy| extension::accept(headers.values("sec-websocket-extensions"), policy));
    Ok(Accepted { accept: accept_key(key), protocols, deflate })
}

/// Whether a key is 16 bytes in base64.
fn is_key(key: &str) -> bool {
    // A key of 24 characters decodes to 18 bytes at most.
    key.len() == 24 && KEY.decode_slice(key, &mut [0; 18]) == Ok(16)
}

/// The value of a field that must be there once, without blanks around it.
fn only<'a>(mut values: impl Iterator<Item = &'a [u8]>) -> Option<&'a [u8]> {
    let value = values.next()?.trim_ascii();
    values.next().is_none().then_some(value)
}

/// Whether a list of tokens has `token`, in any case.
fn lists<'a>(values: impl Iterator<Item = &'a [u8]>, token: &str) -> bool {
    values.flat_map(elements).any(|element| element.eq_ignore_ascii_case(token.as_bytes()))
}

fn elements(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

fn field(name: &str, value: &str, out: &mut Vec<u8>) {
    for part in [name, ": ", value, "\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
}

/// What a client asks for.
#[derive(Clone, Copy, Debug)]
pub struct ClientRequest<'r> {
    /// `Host`: the name, and the port if it is not the scheme's.
    pub host: &'r str,
    /// The request target: path and query.
    pub target: &'r str,
    /// Subprotocols, the one liked best first.
    pub protocols: &'r [&'r str],
    /// The offer of permessage-deflate.
    pub deflate: Option<DeflateOffer>,
    /// More header fields.
    pub headers: &'r [(&'r str, &'r str)],
    /// 16 random bytes, fresh for each connection.
    pub nonce: [u8; 16],
}

/// Name and value of a header field of a request.
pub type RequestField<'r> = (&'r str, Cow<'r, str>);

/// A handshake that a client has begun.
#[derive(Clone, Debug)]
pub struct ClientHandshake {
    accept: [u8; 28],
    protocols: Vec<String>,
    deflate: Option<DeflateOffer>,
}

/// What a server answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Bytes of the head; frames begin after them.
    pub head_len: usize,
    /// The subprotocol that the server chose.
    pub protocol: Option<String>,
    /// What is agreed of permessage-deflate.
    pub deflate: Option<DeflateParams>,
}

/// Why a client gives up on a handshake.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// Our fault: a part of the request has bytes that HTTP does not allow there.
    #[error("the request's {0} has illegal bytes")]
    Request(&'static str),
    /// The answer is not HTTP/1.1.
    #[error("the answer is not HTTP/1.1")]
    Malformed,
    /// The answer's head is over 16 KiB.
    #[error("the answer's head is over 16 KiB")]
    TooLong,
    /// The answer is not 101.
    #[error("the answer has status {0}, not 101")]
    Status(u16),
    /// `Upgrade` is not websocket.
    #[error("the answer lacks Upgrade: websocket")]
    Upgrade,
    /// `Connection` does not name upgrade.
    #[error("the answer lacks Connection: Upgrade")]
    Connection,
    /// `Sec-WebSocket-Accept` does not answer our key.
    #[error("the answer's Sec-WebSocket-Accept does not fit our key")]
    Accept,
    /// `Sec-WebSocket-Protocol` is not one that was offered, or doubled.
    #[error("the answer's subprotocol was not offered")]
    Protocol,
    /// `Sec-WebSocket-Extensions` has what was not offered.
    #[error(transparent)]
    Extension(#[from] AnswerError),
}

impl ClientHandshake {
    /// Appends the request to `out`.
    ///
    /// # Errors
    ///
    /// [`HandshakeError::Request`] if a part of the request would break out of its place.
    pub fn start(request: &ClientRequest<'_>, out: &mut Vec<u8>) -> Result<Self, HandshakeError> {
        let (handshake, fields) = Self::fields(request)?;
        for part in ["GET ", request.target, " HTTP/1.1\r\n"] {
            out.extend_from_slice(part.as_bytes());
        }
        for (name, value) in &fields {
            field(name, value, out);
        }
        out.extend_from_slice(b"\r\n");
        Ok(handshake)
    }

    /// The request as its header fields, `Host` first, for a client whose HTTP implementation
    /// writes it: `GET`, the target and these.
    ///
    /// # Errors
    ///
    /// [`HandshakeError::Request`] if a part of the request would break out of its place.
    pub fn fields<'r>(
        request: &ClientRequest<'r>,
    ) -> Result<(Self, Vec<RequestField<'r>>), HandshakeError> {
        let is_value = |value: &str| value.bytes().all(|byte| byte >= b' ' && byte != 0x7F);
        let is_word = |word: &str| !word.is_empty() && word.bytes().all(|it| it.is_ascii_graphic());
        if !is_word(request.target) {
            return Err(HandshakeError::Request("target"));
        }
        if !is_word(request.host) {
            return Err(HandshakeError::Request("host"));
        }
        if !request.protocols.iter().all(|name| !name.is_empty() && name.bytes().all(is_token)) {
            return Err(HandshakeError::Request("subprotocol"));
        }
        let is_field = |(name, value): &(&str, &str)| {
            !name.is_empty() && name.bytes().all(is_token) && is_value(value)
        };
        if !request.headers.iter().all(is_field) {
            return Err(HandshakeError::Request("header"));
        }

        let key = BASE64_STANDARD.encode(request.nonce);
        let handshake = Self {
            accept: accept_key(&key),
            protocols: request.protocols.iter().map(|name| (*name).to_owned()).collect(),
            deflate: request.deflate,
        };
        let mut fields: Vec<RequestField<'_>> = vec![
            ("Host", request.host.into()),
            ("Upgrade", "websocket".into()),
            ("Connection", "Upgrade".into()),
            ("Sec-WebSocket-Key", key.into()),
            ("Sec-WebSocket-Version", VERSION.into()),
        ];
        if !request.protocols.is_empty() {
            fields.push(("Sec-WebSocket-Protocol", request.protocols.join(", ").into()));
        }
        if let Some(offer) = &request.deflate {
            fields.push(("Sec-WebSocket-Extensions", offer.header().into()));
        }
        fields.extend(request.headers.iter().map(|(name, value)| (*name, (*value).into())));
        Ok((handshake, fields))
    }

    /// Judges the answer at the front of `input`; `Ok(None)` means that its head has not all
    /// arrived: call again with the same bytes and more.
    ///
    /// # Errors
    ///
    /// [`HandshakeError`] if the server does not upgrade, or not as was asked (§4.1).
    pub fn finish(&self, input: &[u8]) -> Result<Option<Answer>, HandshakeError> {
        const BEGINNING: &[u8] = b"HTTP/1.1 ";
        if input.iter().zip(BEGINNING).any(|(byte, expect)| byte != expect) {
            return Err(HandshakeError::Malformed);
        }
        let window = input.get(..HEAD_LEN_MAX).unwrap_or(input);
        let Some(end) = memchr::memmem::find(window, b"\r\n\r\n") else {
            let is_full = input.len() >= HEAD_LEN_MAX;
            return if is_full { Err(HandshakeError::TooLong) } else { Ok(None) };
        };
        let (status, headers) = parse(input.get(..end).unwrap_or_default())?;
        let (protocol, deflate) = self.judge(status, headers.as_slice())?;
        Ok(Some(Answer { head_len: end + 4, protocol, deflate }))
    }

    /// Judges an answer whose head somebody else has parsed: the subprotocol that the server chose,
    /// and what is agreed of permessage-deflate.
    ///
    /// # Errors
    ///
    /// [`HandshakeError`] if the server does not upgrade, or not as was asked (§4.1).
    pub fn judge<H: Headers + ?Sized>(
        &self,
        status: u16,
        headers: &H,
    ) -> Result<(Option<String>, Option<DeflateParams>), HandshakeError> {
        if status != 101 {
            return Err(HandshakeError::Status(status));
        }
        if !lists(headers.values("upgrade"), "websocket") {
            return Err(HandshakeError::Upgrade);
        }
        if !lists(headers.values("connection"), "upgrade") {
            return Err(HandshakeError::Connection);
        }
        if only(headers.values("sec-websocket-accept")) != Some(&self.accept[..]) {
            return Err(HandshakeError::Accept);
        }
        let mut protocol = None;
        for value in headers.values("sec-websocket-protocol") {
            let offered = self.protocols.iter().find(|name| name.as_bytes() == value);
            if offered.is_none() || protocol.is_some() {
                return Err(HandshakeError::Protocol);
            }
            protocol = offered.cloned();
        }
        let extensions = headers.values("sec-websocket-extensions");
        let deflate = extension::check(extensions, self.deflate.as_ref())?;
        Ok((protocol, deflate))
    }
}

/// Name and value of a header field, borrowed from the head.
type Field<'h> = (&'h str, &'h [u8]);

/// Takes an answer's head apart (RFC 9112 §4, §5), without the blank line at its end.
fn parse(head: &[u8]) -> Result<(u16, Vec<Field<'_>>), HandshakeError> {
    let mut lines = memchr::memmem::find_iter(head, b"\r\n")
        .chain([head.len()])
        .scan(0, |start, end| Some(head.get(std::mem::replace(start, end + 2)..end)));
    let status = lines.next().flatten().and_then(status).ok_or(HandshakeError::Malformed)?;
    let mut fields = Vec::new();
    for line in lines {
        let line = line.ok_or(HandshakeError::Malformed)?;
        let colon = memchr::memchr(b':', line).ok_or(HandshakeError::Malformed)?;
        let (name, value) = line.split_at(colon);
        // A folded line begins with a blank, and is refused here too.
        let name = std::str::from_utf8(name)
            .ok()
            .filter(|name| !name.is_empty() && name.bytes().all(is_token))
            .ok_or(HandshakeError::Malformed)?;
        let value = value.get(1..).unwrap_or_default().trim_ascii();
        if value.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)) {
            return Err(HandshakeError::Malformed);
        }
        fields.push((name, value));
    }
    Ok((status, fields))
}

/// The number in `HTTP/1.1 101 Switching Protocols`; the words may be missing.
fn status(line: &[u8]) -> Option<u16> {
    let rest = line.strip_prefix(b"HTTP/1.1 ")?;
    let (number, words) = rest.split_first_chunk::<3>()?;
    let is_number = number.iter().all(u8::is_ascii_digit) && matches!(words, [] | [b' ', ..]);
    is_number.then(|| std::str::from_utf8(number).ok()?.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: [(&str, &[u8]); 5] = [
        ("Host", b"server.example.com"),
        ("Upgrade", b"websocket"),
        ("Connection", b"Upgrade"),
        ("Sec-WebSocket-Key", b"dGhlIHNhbXBsZSBub25jZQ=="),
        ("Sec-WebSocket-Version", b"13"),
    ];

    /// Checks the verdict on a good request in which `name` has `values` instead.
    #[track_caller]
    fn verdict(name: &'static str, values: &[&'static str], expect: Result<(), Refusal>) {
        let mut headers: Vec<(&str, &[u8])> = GOOD.to_vec();
        headers.retain(|(other, _)| !other.eq_ignore_ascii_case(name));
        headers.extend(values.iter().map(|value| (name, value.as_bytes())));
        let request = Request { method: "GET", is_http_1_1: true, headers: &headers[..] };
        assert_eq!(check(&request, None).map(drop), expect, "{name}: {values:?}");
    }

    #[test]
    fn the_accept_key_is_that_of_the_rfc() {
        assert_eq!(&accept_key("dGhlIHNhbXBsZSBub25jZQ=="), b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn a_request_is_a_get_of_http_1_1() {
        let request = Request { method: "POST", is_http_1_1: true, headers: &GOOD[..] };
        assert_eq!(check(&request, None), Err(Refusal::Method));
        let request = Request { method: "GET", is_http_1_1: false, headers: &GOOD[..] };
        assert_eq!(check(&request, None), Err(Refusal::HttpVersion));
    }

    #[test]
    fn every_needed_field_is_checked() {
        verdict("host", &["a"], Ok(()));
        for values in [&[][..], &[" "], &["a", "b"]] {
            verdict("host", values, Err(Refusal::Host));
        }
        verdict("upgrade", &["WebSocket"], Ok(()));
        verdict("upgrade", &["h2c, websocket"], Ok(()));
        for values in [&[][..], &["websockets"], &["h2c"]] {
            verdict("upgrade", values, Err(Refusal::Upgrade));
        }
        verdict("connection", &["keep-alive, UPGRADE"], Ok(()));
        verdict("connection", &["keep-alive", "upgrade"], Ok(()));
        for values in [&[][..], &["keep-alive"], &["upgrade-insecure"]] {
            verdict("connection", values, Err(Refusal::Connection));
        }
        for values in [&[][..], &["8"], &["13, 8"], &["13", "13"]] {
            verdict("sec-websocket-version", values, Err(Refusal::Version));
        }
        verdict("sec-websocket-key", &["  AAAAAAAAAAAAAAAAAAAAAA== "], Ok(()));
        // The last character holds bits that say nothing.
        verdict("sec-websocket-key", &["AAAAAAAAAAAAAAAAAAAAAB=="], Ok(()));
        let good = "AAAAAAAAAAAAAAAAAAAAAA==";
        for values in [
            &[][..],
            &[""],
            &["AAAAAAAAAAAAAAAAAAAAAAA="],
            &["AAAAAAAAAAAAAAAAAAAAAAAA"],
            &["AAAAAAAAAAAAAAAAAAAA"],
            &["AAAAAAAAAAAAAAAAAAAAAA"],
            &["AAAAAAAAAA-AAAAAAAAAAA=="],
            &[good, good],
        ] {
            verdict("sec-websocket-key", values, Err(Refusal::Key));
        }
        verdict("sec-websocket-protocol", &["a b"], Err(Refusal::Protocols));
        verdict("sec-websocket-protocol", &["a,,b", ""], Ok(()));
    }

    #[test]
    fn refusals_have_their_status() {
        assert_eq!(Refusal::Version.status(), 426);
        assert_eq!(Refusal::Upgrade.status(), 426);
        assert_eq!(Refusal::Method.status(), 405);
        assert_eq!(Refusal::Key.status(), 400);
    }

    #[test]
    fn the_clients_order_of_subprotocols_decides() {
        let mut headers: Vec<(&str, &[u8])> = GOOD.to_vec();
        headers.push(("Sec-WebSocket-Protocol", b"x, b"));
        headers.push(("sec-websocket-protocol", b"a"));
        let request = Request { method: "GET", is_http_1_1: true, headers: &headers[..] };
        let accepted = check(&request, Some(&DeflatePolicy::default())).unwrap();
        assert_eq!(accepted.protocols, ["x", "b", "a"]);
        assert_eq!(accepted.select(&["a", "b"]), Some("b"));
        assert_eq!(accepted.select(&["c"]), None);
        assert_eq!(accepted.deflate, None, "it was not offered");
    }

    const REQUEST: ClientRequest<'_> = ClientRequest {
        host: "server.example.com",
        target: "/chat?a=b",
        protocols: &["chat", "superchat"],
        deflate: Some(DeflateOffer {
            receive_takeover: true,
            send_takeover: true,
            receive_window_bits_max: 15,
            send_window_bits_max: 15,
        }),
        headers: &[("Origin", "http://example.com")],
        nonce: *b"the sample nonce",
    };

    fn start() -> ClientHandshake {
        ClientHandshake::start(&REQUEST, &mut Vec::new()).unwrap()
    }

    #[test]
    fn both_ends_shake_hands() {
        let mut bytes = Vec::new();
        let client = ClientHandshake::start(&REQUEST, &mut bytes).unwrap();
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.starts_with("GET /chat?a=b HTTP/1.1\r\nHost: server.example.com\r\n"));
        let headers: Vec<(&str, &[u8])> = text
            .split("\r\n")
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name, value.as_bytes()))
            .collect();
        let request = Request { method: "GET", is_http_1_1: true, headers: &headers[..] };
        let accepted = check(&request, Some(&DeflatePolicy::default())).unwrap();
        let mut answer = Vec::new();
        accepted.response(accepted.select(&["superchat"]), &[("X-Node", "1")], &mut answer);
        answer.extend_from_slice(b"\x81\x00");
        let answered = client.finish(&answer).unwrap().unwrap();
        assert_eq!(answered.head_len, answer.len() - 2);
        assert_eq!(answered.protocol.as_deref(), Some("superchat"));
        assert!(answered.deflate.is_some());
        for cut in 0..answered.head_len {
            assert_eq!(client.finish(&answer[..cut]), Ok(None), "cut at {cut}");
        }
    }

    /// Checks the verdict on a good answer in which `from` is `to`.
    #[track_caller]
    #[expect(clippy::needless_pass_by_value, reason = "the calls read better")]
    fn answered(from: &str, to: &str, expect: Result<(), HandshakeError>) {
        let good = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
                    Connection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\
                    Sec-WebSocket-Protocol: chat\r\n\r\n";
        assert!(good.contains(from));
        let verdict = start().finish(good.replace(from, to).as_bytes());
        assert_eq!(verdict.map(|it| assert!(it.is_some())), expect, "{from:?} as {to:?}");
    }

    #[test]
    fn a_client_checks_every_part_of_the_answer() {
        answered("", "", Ok(()));
        answered(" Switching Protocols", "", Ok(()));
        answered("websocket", "WebSocket", Ok(()));
        answered("101 Switching Protocols", "403 Forbidden", Err(HandshakeError::Status(403)));
        answered("101 ", "1012 ", Err(HandshakeError::Malformed));
        answered("HTTP/1.1", "HTTP/1.0", Err(HandshakeError::Malformed));
        answered("HTTP/1.1", "SSH-2.0-", Err(HandshakeError::Malformed));
        answered("websocket", "h2c", Err(HandshakeError::Upgrade));
        answered("Connection: Upgrade", "Connection: close", Err(HandshakeError::Connection));
        answered("s3p", "s4p", Err(HandshakeError::Accept));
        answered("Sec-WebSocket-Accept", "X", Err(HandshakeError::Accept));
        answered(": chat", ": Chat", Err(HandshakeError::Protocol));
        answered(": chat", ": chat, superchat", Err(HandshakeError::Protocol));
        answered("Upgrade:", " Upgrade:", Err(HandshakeError::Malformed));
        answered("Upgrade:", "Upgrade :", Err(HandshakeError::Malformed));
        answered("Upgrade: websocket\r\n", "Upgrade: websocket\n", Err(HandshakeError::Malformed));
        let extension = "Sec-WebSocket-Extensions: other";
        let refused = HandshakeError::Extension(AnswerError::NotOffered("other".into()));
        answered("Sec-WebSocket-Protocol: chat", extension, Err(refused));
    }

    #[test]
    fn an_endless_head_is_refused() {
        let mut answer = b"HTTP/1.1 101 \r\nX: ".to_vec();
        answer.resize(HEAD_LEN_MAX - 1, b'x');
        assert_eq!(start().finish(&answer), Ok(None));
        answer.push(b'x');
        assert_eq!(start().finish(&answer), Err(HandshakeError::TooLong));
    }

    #[test]
    fn nothing_breaks_out_of_its_place_in_the_request() {
        #[track_caller]
        fn refused(request: ClientRequest<'_>, part: &'static str) {
            let mut out = Vec::new();
            let end = ClientHandshake::start(&request, &mut out).map(drop);
            assert_eq!((end, out), (Err(HandshakeError::Request(part)), Vec::new()));
        }
        refused(ClientRequest { target: "/a b", ..REQUEST }, "target");
        refused(ClientRequest { target: "", ..REQUEST }, "target");
        refused(ClientRequest { host: "a\r\nX: y", ..REQUEST }, "host");
        refused(ClientRequest { protocols: &["a,b"], ..REQUEST }, "subprotocol");
        refused(ClientRequest { headers: &[("X", "a\r\nb")], ..REQUEST }, "header");
        refused(ClientRequest { headers: &[("X:", "a")], ..REQUEST }, "header");
    }
}
