//! An answer's body as a client reads it: messages, then trailers.

use bytes::Bytes;

use super::text::{self, TextError};
use super::trailers::{InvalidTrailers, Trailers};
use crate::grpc::{
    Code, DecodeError, Decompressor, Encoding, Protocol,
    encode::{COMPRESSED, TRAILERS},
    frame::{Reader, Rules},
};

/// Bounds on what a server can make a client keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one message, compressed and decompressed.
    pub message_len_max: u32,
    /// Bytes of the trailers, compressed and decompressed. The specification suggests 8 KiB.
    pub trailers_len_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { message_len_max: 1 << 20, trailers_len_max: 8 << 10 }
    }
}

/// What a server sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A whole message, decompressed.
    Message(Bytes),
    /// How the call ended; the last event.
    Trailers(Trailers),
}

/// Decodes an answer's body, as a client.
///
/// For each piece that arrives call [`ResponseDecoder::next`] until it says `Ok(None)`; then all of
/// it is used. When the body has ended, call [`ResponseDecoder::finish`] once. Trailers in the body
/// count, whatever the head says; where none have come, the head's `grpc-status` does, and without
/// that its HTTP status ([`Code::from_http`]).
#[derive(Debug)]
pub struct ResponseDecoder {
    /// `None` for what is binary.
    text: Option<text::Decoder>,
    /// Decoded text that is not read.
    decoded: Bytes,
    reader: Reader,
    encoding: Encoding,
    rules: Rules,
    limits: Limits,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Messages,
    HasTrailers,
    Failed,
}

impl ResponseDecoder {
    /// A decoder of a body whose `Content-Type` says `protocol`, and its `grpc-encoding` `encoding`
    /// (`Identity` where there is none).
    #[must_use]
    pub fn new(protocol: Protocol, encoding: Encoding, limits: Limits) -> Self {
        let rules = Rules {
            may_compress: encoding != Encoding::Identity,
            message_len_max: limits.message_len_max,
            trailers_len_max: Some(limits.trailers_len_max),
        };
        Self {
            text: (protocol == Protocol::GrpcWebText).then(text::Decoder::default),
            decoded: Bytes::new(),
            reader: Reader::default(),
            encoding,
            rules,
            limits,
            state: State::Messages,
        }
    }

    /// Takes the next event off the input; `Ok(None)` when the input is used up. A message that lay
    /// in one piece, binary and not compressed, shares the piece's memory.
    ///
    /// # Errors
    ///
    /// [`ResponseError`]; what still comes after one is dropped.
    pub fn next(
        &mut self,
        input: &mut Bytes,
        pool: &mut Decompressor,
    ) -> Result<Option<Event>, ResponseError> {
        if self.state == State::Failed {
            input.clear();
            return Ok(None);
        }
        let event = self.read(input, pool);
        match &event {
            Ok(Some(Event::Trailers(_))) => self.state = State::HasTrailers,
            Ok(_) => {}
            Err(_) => self.state = State::Failed,
        }
        event
    }

    /// Whether trailers have come.
    #[must_use]
    pub fn has_trailers(&self) -> bool {
        self.state == State::HasTrailers
    }

    /// Says that the body has ended.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Truncated`] or [`TextError::Truncated`] if that was inside a message.
    pub fn finish(&mut self) -> Result<(), ResponseError> {
        if std::mem::replace(&mut self.state, State::Failed) == State::Failed {
            return Ok(());
        }
        if let Some(text) = &mut self.text {
            text.finish()?;
        }
        if self.reader.is_at_boundary() { Ok(()) } else { Err(DecodeError::Truncated.into()) }
    }

    fn read(
        &mut self,
        input: &mut Bytes,
        pool: &mut Decompressor,
    ) -> Result<Option<Event>, ResponseError> {
        loop {
            let Some(text) = &mut self.text else {
                return self.read_binary(input, pool);
            };
            if self.decoded.is_empty() {
                let Some(decoded) = text.next(input)? else { return Ok(None) };
                self.decoded = decoded;
            }
            let mut decoded = std::mem::take(&mut self.decoded);
            let event = self.read_binary(&mut decoded, pool)?;
            self.decoded = decoded;
            if event.is_some() {
                return Ok(event);
            }
        }
    }

    fn read_binary(
        &mut self,
        input: &mut Bytes,
        pool: &mut Decompressor,
    ) -> Result<Option<Event>, ResponseError> {
        if self.state == State::HasTrailers && !input.is_empty() {
            return Err(ResponseError::AfterTrailers);
        }
        let Some((flags, mut payload)) = self.reader.next(input, &self.rules)? else {
            return Ok(None);
        };
        let is_trailers = flags & TRAILERS != 0;
        if flags & COMPRESSED != 0 {
            let Limits { message_len_max, trailers_len_max } = self.limits;
            let len_max = if is_trailers { trailers_len_max } else { message_len_max };
            payload = pool.decompress(self.encoding, &payload, len_max)?;
        }
        Ok(Some(if is_trailers {
            Event::Trailers(Trailers::parse(&payload)?)
        } else {
            Event::Message(payload)
        }))
    }
}

/// How a server broke gRPC-Web or a limit; [`ResponseError::code`] is the status that stands for
/// it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResponseError {
    /// The framing is broken, or a message does not decompress.
    #[error(transparent)]
    Frame(#[from] DecodeError),
    /// The text form is not base64.
    #[error(transparent)]
    Text(#[from] TextError),
    /// The trailers are no header fields.
    #[error(transparent)]
    Trailers(#[from] InvalidTrailers),
    /// Something follows the trailers.
    #[error("bytes after the trailers")]
    AfterTrailers,
}

impl ResponseError {
    /// The status that a client makes of it.
    #[must_use]
    pub const fn code(&self) -> Code {
        match self {
            Self::Frame(error) => error.code(),
            Self::Text(_) | Self::Trailers(_) | Self::AfterTrailers => Code::Internal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{OK, cuts};
    use super::super::{ResponseTranslator, trailers as writer};
    use super::*;
    use crate::grpc::{Compressor, encode};

    const LEN_MAX: u32 = 1000;
    const LIMITS: Limits = Limits { message_len_max: LEN_MAX, trailers_len_max: 200 };

    /// Events of `pieces`, and how it ended.
    fn decode(
        mut decoder: ResponseDecoder,
        pool: &mut Decompressor,
        pieces: &[&[u8]],
    ) -> (Vec<Event>, Result<(), ResponseError>) {
        let mut events = Vec::new();
        for piece in pieces {
            let mut piece = Bytes::copy_from_slice(piece);
            loop {
                match decoder.next(&mut piece, pool) {
                    Ok(Some(event)) => {
                        let is_last = matches!(event, Event::Trailers(_));
                        assert_eq!(decoder.has_trailers(), is_last);
                        events.push(event);
                    }
                    Ok(None) => break assert!(piece.is_empty(), "all input is consumed"),
                    Err(error) => {
                        let mut more = Bytes::from_static(b"\0\0\0\0\0");
                        assert_eq!(decoder.next(&mut more, pool), Ok(None), "after an error");
                        assert_eq!((more.len(), decoder.finish()), (0, Ok(())));
                        return (events, Err(error));
                    }
                }
            }
        }
        (events, decoder.finish())
    }

    #[track_caller]
    fn check_events_with(
        encoding: Encoding,
        frames: &[&[u8]],
        expect: &[Event],
        end: Result<(), ResponseError>,
    ) {
        let mut pool = Decompressor::new();
        let text: Vec<u8> = frames.iter().flat_map(|frame| text::encode(frame)).collect();
        for (protocol, input) in
            [(Protocol::GrpcWeb, frames.concat()), (Protocol::GrpcWebText, text)]
        {
            for pieces in cuts(&input) {
                let decoder = ResponseDecoder::new(protocol, encoding, LIMITS);
                let seen = decode(decoder, &mut pool, &pieces);
                assert_eq!(seen, (expect.to_vec(), end), "{protocol:?} {pieces:?}");
            }
        }
    }

    #[track_caller]
    fn check_events(frames: &[&[u8]], expect: &[Event], end: Result<(), ResponseError>) {
        check_events_with(Encoding::Identity, frames, expect, end);
    }

    fn message(bytes: &'static [u8]) -> Event {
        Event::Message(Bytes::from_static(bytes))
    }

    fn trailers(payload: &'static str) -> Event {
        Event::Trailers(Trailers::parse(&Bytes::from_static(payload.as_bytes())).unwrap())
    }

    #[test]
    fn a_client_sees_messages_then_trailers() {
        let last = writer::frame(OK);
        check_events(&[], &[], Ok(()));
        check_events(&[&last], &[trailers("grpc-status: 0")], Ok(()));
        check_events(
            &[b"\0\0\0\0\x02ab", b"\0\0\0\0\0", &last],
            &[message(b"ab"), message(b""), trailers("grpc-status: 0")],
            Ok(()),
        );
        // Not padded between frames, and padded inside one: both are the same to a client.
        let frames = [b"\0\0\0\0\x02ab", &*last].concat();
        let expect = [message(b"ab"), trailers("grpc-status: 0")];
        check_events(&[&frames], &expect, Ok(()));
        check_events(&[&frames[..3], &frames[3..10], &frames[10..]], &expect, Ok(()));
    }

    #[test]
    fn nothing_follows_trailers() {
        let last = writer::frame(OK);
        let expect = [trailers("grpc-status: 0")];
        for more in [&b"\0"[..], b"\0\0\0\0\x01a", &last] {
            check_events(&[&last, more], &expect, Err(ResponseError::AfterTrailers));
        }
    }

    #[test]
    fn a_client_is_told_what_is_wrong() {
        let too_large = |len_max| Err(ResponseError::Frame(DecodeError::TooLarge { len_max }));
        let frame = |error| Err(ResponseError::Frame(error));
        check_events(&[b"\x02"], &[], frame(DecodeError::Flags(2)));
        check_events(&[b"\0\0\0\0\0", b"\xC0"], &[message(b"")], frame(DecodeError::Flags(0xC0)));
        check_events(&[b"\x01"], &[], frame(DecodeError::NoEncoding));
        check_events(&[b"\x81"], &[], frame(DecodeError::NoEncoding));
        check_events(&[&encode::prefix(0, LEN_MAX + 1)], &[], too_large(LEN_MAX));
        check_events(&[&encode::prefix(TRAILERS, 201)], &[], too_large(200));
        check_events(&[b"\0\0\0\0\x02a"], &[], frame(DecodeError::Truncated));
        check_events(&[b"\x80\0\0\0\x02a"], &[], frame(DecodeError::Truncated));
        check_events(&[b"\0\0"], &[], frame(DecodeError::Truncated));
        let invalid = Err(ResponseError::Trailers(InvalidTrailers));
        check_events(&[b"\0\0\0\0\x01a", b"\x80\0\0\0\x04oops"], &[message(b"a")], invalid);
        assert_eq!(ResponseError::Trailers(InvalidTrailers).code(), Code::Internal);
        assert_eq!(too_large(1).map_err(|error| error.code()), Err(Code::ResourceExhausted));
    }

    #[test]
    fn text_that_is_none_is_told_after_what_it_was_before() {
        let mut pool = Decompressor::new();
        for (text, end) in [
            ("AAAAAAFh*", TextError::Byte(b'*')),
            ("AAAAAAFhAAA", TextError::Truncated),
            ("AAAAAAFh=", TextError::Byte(b'=')),
        ] {
            for pieces in cuts(text.as_bytes()) {
                let decoder =
                    ResponseDecoder::new(Protocol::GrpcWebText, Encoding::Identity, LIMITS);
                let seen = decode(decoder, &mut pool, &pieces);
                assert_eq!(
                    seen,
                    (vec![message(b"a")], Err(ResponseError::Text(end))),
                    "{pieces:?}"
                );
            }
        }
    }

    #[test]
    fn messages_and_trailers_may_be_compressed() {
        let mut compressor = Compressor::new();
        let text = &format!("a: {}\r\n", "b".repeat(150));
        for encoding in [Encoding::Gzip, Encoding::Zstd] {
            let message = compressor.frame(encoding, text.as_bytes()).unwrap();
            let mut last = message.to_vec();
            last[0] |= TRAILERS;
            let last_event = Trailers::parse(&Bytes::from(text.clone())).unwrap();
            let events = [Event::Message(text.clone().into()), Event::Trailers(last_event)];
            check_events_with(encoding, &[&message, &last], &events, Ok(()));

            // Each by its own limit, decompressed.
            let long =
                compressor.compress(encoding, &text.repeat(2).into_bytes()).unwrap().to_vec();
            let long_message = encode::compressed_message(&long).unwrap();
            let mut long_last = long_message.to_vec();
            long_last[0] |= TRAILERS;
            let events = [Event::Message(text.repeat(2).into())];
            let end = Err(ResponseError::Frame(DecodeError::TooLarge { len_max: 200 }));
            check_events_with(encoding, &[&long_message, &long_last], &events, end);
        }
    }

    #[test]
    fn what_is_translated_is_decoded_again() {
        let mut random = fastrand::Rng::with_seed(1);
        let mut pool = Decompressor::new();
        for _ in 0..300 {
            let protocol = *random.choice(&[Protocol::GrpcWeb, Protocol::GrpcWebText]).unwrap();
            let messages: Vec<Vec<u8>> = (0..random.usize(0..6))
                .map(|_| (0..random.usize(0..30)).map(|_| random.u8(..)).collect())
                .collect();
            let stream: Vec<u8> =
                messages.iter().flat_map(|it| encode::message(it).unwrap()).collect();
            let mut cut = |bytes: &[u8]| -> Vec<Vec<u8>> {
                let mut rest = bytes;
                let mut pieces = Vec::new();
                while !rest.is_empty() {
                    let (piece, after) = rest.split_at(random.usize(1..=rest.len().min(9)));
                    pieces.push(piece.to_vec());
                    rest = after;
                }
                pieces
            };
            let mut translator = ResponseTranslator::new(protocol, LEN_MAX);
            let mut body = Vec::new();
            for piece in cut(&stream) {
                let mut piece = Bytes::from(piece);
                while let Some(part) = translator.next(&mut piece).unwrap() {
                    body.extend_from_slice(&part);
                }
            }
            body.extend_from_slice(&translator.finish(OK).unwrap());
            let pieces = cut(&body);
            let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
            let decoder = ResponseDecoder::new(protocol, Encoding::Identity, LIMITS);
            let mut expect: Vec<_> =
                messages.into_iter().map(|it| Event::Message(it.into())).collect();
            expect.push(trailers("grpc-status: 0"));
            assert_eq!(decode(decoder, &mut pool, &pieces), (expect, Ok(())));
        }
    }
}
