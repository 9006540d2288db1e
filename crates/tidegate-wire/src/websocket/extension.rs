//! permessage-deflate, the negotiation: offers, answers, what was agreed (RFC 7692 §5, §7.1).
//!
//! A server that can't honour an offer declines it and goes on without: no offer is a reason to
//! refuse a connection. A client that gets an answer which it did not ask for fails.

use std::fmt::Write as _;

/// The one extension that there is.
const NAME: &str = "permessage-deflate";

/// What both ends agreed on, seen from ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeflateParams {
    /// Our messages may refer back by at most 2 to this many bytes, `8..=15`. We can't compress
    /// with 8: then we send everything as it is, which is always allowed.
    pub send_window_bits: u8,
    /// The peer's messages refer back by at most 2 to this many bytes, `8..=15`.
    pub receive_window_bits: u8,
    /// Whether our messages may refer to earlier ones.
    pub send_takeover: bool,
    /// Whether the peer's messages may refer to earlier ones.
    pub receive_takeover: bool,
}

impl DeflateParams {
    /// Whether messages compressed once for many can be sent here: they use the full window.
    #[must_use]
    pub const fn can_share(&self) -> bool {
        self.send_window_bits == 15
    }

    /// Bytes of the peer's past that its next message may refer to.
    pub(super) fn receive_window_len(&self) -> usize {
        // zlib takes 9 where 8 is asked for.
        1 << self.receive_window_bits.clamp(9, 15)
    }
}

/// What a server agrees to, beyond what a client asks of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeflatePolicy {
    /// Whether our messages refer to earlier ones; `false` where they are compressed once for many.
    pub send_takeover: bool,
    /// Whether clients' messages may; each such client costs a window.
    pub receive_takeover: bool,
    /// The largest window of clients' messages, in bits, `9..=15`. It is asked of the clients that
    /// say they can be asked; the others take 15.
    pub receive_window_bits_max: u8,
}

impl Default for DeflatePolicy {
    fn default() -> Self {
        Self { send_takeover: true, receive_takeover: true, receive_window_bits_max: 15 }
    }
}

/// A server's answer to the offers in the `Sec-WebSocket-Extensions` headers of a request: what is
/// agreed and the header to answer with, for the first offer that can be honoured.
#[must_use]
pub fn accept<'h>(
    headers: impl IntoIterator<Item = &'h [u8]>,
    policy: &DeflatePolicy,
) -> Option<(DeflateParams, String)> {
    for header in headers {
        // What follows a syntax error can't be told apart: it declines the rest of the header.
        let mut elements = Elements { rest: header };
        while let Some(Ok(element)) = elements.next_element() {
            let offered =
                element.name.eq_ignore_ascii_case(NAME).then(|| element.params()).flatten();
            if let Some(agreed) = offered.and_then(|offered| agree(&offered, policy)) {
                return Some(agreed);
            }
        }
    }
    None
}

/// Agrees to one offer, if it can be honoured.
fn agree(offer: &Params, policy: &DeflatePolicy) -> Option<(DeflateParams, String)> {
    let send_window_bits = match offer.server_bits {
        None => 15,
        Some(bits) => bits?,
    };
    // zlib can't make raw streams with a window of 8 bits.
    if send_window_bits < 9 {
        return None;
    }
    let send_takeover = policy.send_takeover && !offer.server_no_takeover;
    let receive_takeover = policy.receive_takeover && !offer.client_no_takeover;
    let client_bits = offer.client_bits.map(|bits| bits.unwrap_or(15));
    let bits_max = policy.receive_window_bits_max.clamp(9, 15);
    let receive_window_bits = client_bits.map_or(15, |bits| bits.min(bits_max));

    let mut answer = String::from(NAME);
    if !send_takeover {
        answer.push_str("; server_no_context_takeover");
    }
    if !receive_takeover {
        answer.push_str("; client_no_context_takeover");
    }
    if offer.server_bits.is_some() {
        let _ = write!(answer, "; server_max_window_bits={send_window_bits}");
    }
    if client_bits.is_some_and(|bits| bits > receive_window_bits) {
        let _ = write!(answer, "; client_max_window_bits={receive_window_bits}");
    }
    let agreed =
        DeflateParams { send_window_bits, receive_window_bits, send_takeover, receive_takeover };
    Some((agreed, answer))
}

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeflateOffer {
    /// Whether the server's messages may refer to earlier ones; each end needs a window for it.
    pub receive_takeover: bool,
    /// Whether ours may. `false` is a hint: we then don't.
    pub send_takeover: bool,
    /// The largest window of the server's messages, in bits, `9..=15`; 15 asks for nothing.
    pub receive_window_bits_max: u8,
    /// The largest window of ours, in bits, `9..=15`; the server may ask for less.
    pub send_window_bits_max: u8,
}

impl Default for DeflateOffer {
    fn default() -> Self {
        Self {
            receive_takeover: true,
            send_takeover: true,
            receive_window_bits_max: 15,
            send_window_bits_max: 15,
        }
    }
}

impl DeflateOffer {
    /// The value of `Sec-WebSocket-Extensions` that makes this offer.
    #[must_use]
    pub fn header(&self) -> String {
        let mut offer = String::from(NAME);
        if !self.receive_takeover {
            offer.push_str("; server_no_context_takeover");
        }
        if !self.send_takeover {
            offer.push_str("; client_no_context_takeover");
        }
        if self.receive_window_bits_max < 15 {
            let bits = self.receive_window_bits_max.max(9);
            let _ = write!(offer, "; server_max_window_bits={bits}");
        }
        offer.push_str("; client_max_window_bits");
        if self.send_window_bits_max < 15 {
            let _ = write!(offer, "={}", self.send_window_bits_max.max(9));
        }
        offer
    }
}

/// Why a server's answer can't be accepted; the client fails the connection (RFC 7692 §7.1).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// An extension that was not offered, or one twice.
    #[error("extension {0:?} was not offered")]
    NotOffered(String),
    /// The header is not a list of extensions.
    #[error("the answer's list of extensions is malformed")]
    Syntax,
    /// A parameter is unknown, doubled, has a bad value or answers nothing that was offered, or one
    /// that was asked for is missing.
    #[error("the answer's parameters don't fit the offer")]
    Params,
}

/// A client's check of the `Sec-WebSocket-Extensions` headers of an answer, `None` if the server
/// declined.
///
/// # Errors
///
/// [`AnswerError`] if the answer is to something that was not offered.
pub fn check<'h>(
    headers: impl IntoIterator<Item = &'h [u8]>,
    offer: Option<&DeflateOffer>,
) -> Result<Option<DeflateParams>, AnswerError> {
    let mut agreed = None;
    for header in headers {
        let mut elements = Elements { rest: header };
        while let Some(element) = elements.next_element() {
            let element = element.map_err(|_| AnswerError::Syntax)?;
            let offer = offer
                .filter(|_| element.name.eq_ignore_ascii_case(NAME) && agreed.is_none())
                .ok_or_else(|| AnswerError::NotOffered(element.name.to_owned()))?;
            let answer = element.params().ok_or(AnswerError::Params)?;
            agreed = Some(confirm(&answer, offer).ok_or(AnswerError::Params)?);
        }
    }
    Ok(agreed)
}

/// Checks an answer against the offer.
fn confirm(answer: &Params, offer: &DeflateOffer) -> Option<DeflateParams> {
    // An answer always has a value; the offer's bound must be met.
    let receive_window_bits = match answer.server_bits {
        None => 15,
        Some(bits) => bits?,
    };
    if receive_window_bits > offer.receive_window_bits_max.max(9)
        || (!answer.server_no_takeover && !offer.receive_takeover)
    {
        return None;
    }
    let send_window_bits = match answer.client_bits {
        None => 15,
        Some(bits) => bits?,
    };
    Some(DeflateParams {
        send_window_bits: send_window_bits.min(offer.send_window_bits_max.clamp(9, 15)),
        receive_window_bits,
        send_takeover: offer.send_takeover && !answer.client_no_takeover,
        receive_takeover: !answer.server_no_takeover,
    })
}

/// The four parameters of RFC 7692 §7.1, of an offer or an answer. Of the two with a value, the
/// inner `None` is a parameter without one.
#[derive(Debug, Default)]
struct Params {
    server_no_takeover: bool,
    client_no_takeover: bool,
    server_bits: Option<Option<u8>>,
    client_bits: Option<Option<u8>>,
}

/// One element of the header's list: a name and its parameters, not judged yet.
struct Element<'h> {
    name: &'h str,
    params: Vec<(&'h str, Option<String>)>,
}

impl Element<'_> {
    /// The parameters; `None` where one is unknown, doubled or has a value that it can't have.
    fn params(&self) -> Option<Params> {
        let mut params = Params::default();
        for (name, value) in &self.params {
            let name = name.to_ascii_lowercase();
            let is_double = match (name.as_str(), value) {
                ("server_no_context_takeover", None) => {
                    std::mem::replace(&mut params.server_no_takeover, true)
                }
                ("client_no_context_takeover", None) => {
                    std::mem::replace(&mut params.client_no_takeover, true)
                }
                ("server_max_window_bits", Some(value)) => {
                    params.server_bits.replace(Some(window_bits(value)?)).is_some()
                }
                ("client_max_window_bits", value) => {
                    let bits = match value {
                        Some(value) => Some(window_bits(value)?),
                        None => None,
                    };
                    params.client_bits.replace(bits).is_some()
                }
                _ => return None,
            };
            if is_double {
                return None;
            }
        }
        Some(params)
    }
}

/// `8..=15` in decimal, without a leading zero (RFC 7692 §7.1.2.1).
fn window_bits(value: &str) -> Option<u8> {
    let bits = value.parse().ok().filter(|bits| (8..=15).contains(bits))?;
    (!value.starts_with(['0', '+'])).then_some(bits)
}

/// The header is not a list of extensions.
struct Syntax;

/// The elements of `Sec-WebSocket-Extensions` (RFC 6455 §9.1), read one by one.
struct Elements<'h> {
    rest: &'h [u8],
}

impl<'h> Elements<'h> {
    /// The next element; empty ones are skipped, as HTTP has it (RFC 9110 §5.6.1).
    fn next_element(&mut self) -> Option<Result<Element<'h>, Syntax>> {
        loop {
            self.skip_blanks();
            if self.rest.is_empty() {
                return None;
            }
            if !self.take(b',') {
                break;
            }
        }
        let element = self.element();
        if element.is_err() {
            self.rest = &[];
        }
        Some(element)
    }

    fn element(&mut self) -> Result<Element<'h>, Syntax> {
        let name = self.token()?;
        let mut params = Vec::new();
        loop {
            self.skip_blanks();
            if self.rest.is_empty() || self.take(b',') {
                return Ok(Element { name, params });
            }
            if !self.take(b';') {
                return Err(Syntax);
            }
            self.skip_blanks();
            let name = self.token()?;
            self.skip_blanks();
            let mut value = None;
            if self.take(b'=') {
                self.skip_blanks();
                value = Some(self.value()?);
            }
            params.push((name, value));
        }
    }

    fn skip_blanks(&mut self) {
        while let [b' ' | b'\t', rest @ ..] = self.rest {
            self.rest = rest;
        }
    }

    fn take(&mut self, byte: u8) -> bool {
        match self.rest {
            [first, rest @ ..] if *first == byte => {
                self.rest = rest;
                true
            }
            _ => false,
        }
    }

    fn token(&mut self) -> Result<&'h str, Syntax> {
        let len = self.rest.iter().take_while(|byte| is_token(**byte)).count();
        let (token, rest) = self.rest.split_at(len);
        self.rest = rest;
        std::str::from_utf8(token).ok().filter(|token| !token.is_empty()).ok_or(Syntax)
    }

    /// A token, or a quoted string that holds one.
    fn value(&mut self) -> Result<String, Syntax> {
        if !self.take(b'"') {
            return self.token().map(str::to_owned);
        }
        let mut value = String::new();
        loop {
            let (byte, rest) = match self.rest {
                [b'"', rest @ ..] => {
                    self.rest = rest;
                    return if value.is_empty() { Err(Syntax) } else { Ok(value) };
                }
                [b'\\', byte, rest @ ..] | [byte, rest @ ..] => (*byte, rest),
                [] => return Err(Syntax),
            };
            if !is_token(byte) {
                return Err(Syntax);
            }
            value.push(char::from(byte));
            self.rest = rest;
        }
    }
}

/// Bytes of a token (RFC 9110 §5.6.2).
pub(super) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks a server's answer to `offers`, and what it then compresses with.
    #[track_caller]
    fn answers(policy: &DeflatePolicy, offers: &str, expect: Option<(&str, [u8; 2], [bool; 2])>) {
        let accepted = accept([offers.as_bytes()], policy);
        let accepted = accepted.as_ref().map(|(params, answer)| {
            let bits = [params.send_window_bits, params.receive_window_bits];
            (answer.as_str(), bits, [params.send_takeover, params.receive_takeover])
        });
        assert_eq!(accepted, expect, "{offers}");
    }

    const BOTH: [bool; 2] = [true, true];

    #[test]
    fn offers_are_answered_as_they_ask() {
        let policy = DeflatePolicy::default();
        let name = "permessage-deflate";
        answers(&policy, name, Some((name, [15, 15], BOTH)));
        answers(
            &policy,
            "permessage-deflate; client_max_window_bits",
            Some((name, [15, 15], BOTH)),
        );
        answers(
            &policy,
            "Permessage-Deflate ;\tserver_no_context_takeover;client_no_context_takeover",
            Some((
                "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
                [15, 15],
                [false, false],
            )),
        );
        answers(
            &policy,
            "permessage-deflate; server_max_window_bits=\"1\\0\"; client_max_window_bits=9",
            Some(("permessage-deflate; server_max_window_bits=10", [10, 9], BOTH)),
        );
    }

    #[test]
    fn a_policy_asks_for_less_only_of_whom_it_may() {
        let policy = DeflatePolicy {
            send_takeover: false,
            receive_takeover: false,
            receive_window_bits_max: 11,
        };
        let shared = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
        answers(&policy, "permessage-deflate", Some((shared, [15, 15], [false, false])));
        answers(
            &policy,
            "permessage-deflate; client_max_window_bits",
            Some((&format!("{shared}; client_max_window_bits=11"), [15, 11], [false, false])),
        );
        answers(
            &policy,
            "permessage-deflate; client_max_window_bits=10",
            Some((shared, [15, 10], [false, false])),
        );
    }

    #[test]
    fn what_can_not_be_honoured_is_declined() {
        let policy = DeflatePolicy::default();
        for offer in [
            "",
            "permessage-bzip2",
            "permessage-deflate; server_max_window_bits",
            "permessage-deflate; server_max_window_bits=8",
            "permessage-deflate; server_max_window_bits=7",
            "permessage-deflate; server_max_window_bits=16",
            "permessage-deflate; server_max_window_bits=09",
            "permessage-deflate; server_max_window_bits=+9",
            "permessage-deflate; server_max_window_bits=10; server_max_window_bits=10",
            "permessage-deflate; client_max_window_bits=x",
            "permessage-deflate; client_max_window_bits; client_max_window_bits",
            "permessage-deflate; server_no_context_takeover=1",
            "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
            "permessage-deflate; unknown",
            "permessage-deflate; \"quoted\"",
            "permessage-deflate; client_max_window_bits=\"\"",
            "permessage-deflate; client_max_window_bits=\"1",
            "permessage-deflate foo",
            ";",
            "\u{FF}",
        ] {
            answers(&policy, offer, None);
        }
    }

    #[test]
    fn the_first_offer_that_can_be_honoured_wins() {
        let policy = DeflatePolicy::default();
        answers(
            &policy,
            ", other; a=b , permessage-deflate; server_max_window_bits=8,, permessage-deflate; \
             server_max_window_bits=9, permessage-deflate",
            Some(("permessage-deflate; server_max_window_bits=9", [9, 15], BOTH)),
        );
        let headers = [&b"permessage-deflate; x"[..], b"permessage-deflate"];
        assert!(accept(headers, &policy).is_some(), "headers are one list");
    }

    #[track_caller]
    #[expect(clippy::needless_pass_by_value, reason = "the calls read better")]
    fn judges(offer: &DeflateOffer, answer: &str, expect: Result<Option<[u8; 2]>, AnswerError>) {
        let judged = check([answer.as_bytes()], Some(offer));
        let bits = |it: DeflateParams| [it.send_window_bits, it.receive_window_bits];
        assert_eq!(judged.map(|it| it.map(bits)), expect, "{answer}");
    }

    #[test]
    fn a_client_takes_what_it_asked_for() {
        let offer = DeflateOffer::default();
        assert_eq!(offer.header(), "permessage-deflate; client_max_window_bits");
        judges(&offer, "", Ok(None));
        judges(&offer, "permessage-deflate", Ok(Some([15, 15])));
        judges(&offer, "permessage-deflate; server_max_window_bits=8", Ok(Some([15, 8])));
        judges(&offer, "permessage-deflate; client_max_window_bits=8", Ok(Some([8, 15])));
        let strict = DeflateOffer {
            receive_takeover: false,
            send_takeover: false,
            receive_window_bits_max: 10,
            send_window_bits_max: 12,
        };
        assert_eq!(
            strict.header(),
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover; \
             server_max_window_bits=10; client_max_window_bits=12"
        );
        let answer = "permessage-deflate; server_no_context_takeover; server_max_window_bits=9";
        judges(&strict, answer, Ok(Some([12, 9])));
    }

    #[test]
    fn a_client_fails_on_what_it_did_not_ask_for() {
        let offer = DeflateOffer::default();
        let other = |name: &str| Err(AnswerError::NotOffered(name.into()));
        judges(&offer, "x-webkit-deflate-frame", other("x-webkit-deflate-frame"));
        judges(&offer, "permessage-deflate, permessage-deflate", other("permessage-deflate"));
        judges(&offer, "permessage-deflate; x", Err(AnswerError::Params));
        judges(&offer, "permessage-deflate; client_max_window_bits", Err(AnswerError::Params));
        judges(&offer, "permessage-deflate; server_max_window_bits", Err(AnswerError::Params));
        judges(&offer, "permessage-deflate; server_max_window_bits=16", Err(AnswerError::Params));
        judges(&offer, "permessage-deflate;", Err(AnswerError::Syntax));
        let strict = DeflateOffer { receive_window_bits_max: 10, ..offer };
        judges(&strict, "permessage-deflate", Err(AnswerError::Params));
        judges(&strict, "permessage-deflate; server_max_window_bits=11", Err(AnswerError::Params));
        let alone = DeflateOffer { receive_takeover: false, ..offer };
        judges(&alone, "permessage-deflate", Err(AnswerError::Params));
        let unasked = check([&b"permessage-deflate"[..]], None);
        assert_eq!(unasked, Err(AnswerError::NotOffered("permessage-deflate".into())));
    }

    #[test]
    fn both_ends_understand_each_other() {
        for bits in 9..=15 {
            for takeover in [true, false] {
                let offer = DeflateOffer {
                    receive_takeover: takeover,
                    receive_window_bits_max: bits,
                    ..DeflateOffer::default()
                };
                let policy = DeflatePolicy {
                    receive_takeover: takeover,
                    receive_window_bits_max: bits,
                    ..DeflatePolicy::default()
                };
                let header = offer.header();
                let (server, answer) = accept([header.as_bytes()], &policy).unwrap();
                let client = check([answer.as_bytes()], Some(&offer)).unwrap().unwrap();
                assert_eq!(client.send_window_bits, server.receive_window_bits);
                assert_eq!(client.receive_window_bits, server.send_window_bits);
                assert_eq!(client.send_takeover, server.receive_takeover);
                assert_eq!(client.receive_takeover, server.send_takeover);
            }
        }
    }
}
