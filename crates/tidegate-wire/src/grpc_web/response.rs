//! An answer's body: what a gRPC server sends → what a web client reads.

use bytes::{Buf as _, Bytes};

use super::{text, trailers};
use crate::grpc::{
    DecodeError, Protocol, Status,
    frame::{Rules, Scanner, Step},
};

/// Translates an answer's body, cut anywhere: messages as they are or in base64, then a frame with
/// the trailers.
///
/// Text is padded at the end of each message, so that a client can decode a message as soon as it
/// is there, and the text is the same however the server cut its messages. Of a message that comes
/// in pieces at most two bytes wait for the next one.
///
/// For each piece that arrives call [`ResponseTranslator::next`] until it says `Ok(None)`; then all
/// of it is used. When the trailers have come call [`ResponseTranslator::finish`], when anything
/// else has ended the stream [`ResponseTranslator::fail`], once. An answer that is Trailers-Only
/// needs no translator.
#[derive(Debug)]
pub struct ResponseTranslator {
    scanner: Scanner,
    rules: Rules,
    /// `None` for what is binary.
    text: Option<text::Encoder>,
}

impl ResponseTranslator {
    /// A translator to `protocol`, of messages of at most `message_len_max` bytes (`u32::MAX`:
    /// any).
    #[must_use]
    pub fn new(protocol: Protocol, message_len_max: u32) -> Self {
        // Whether the server said with what it compressed is between it and the client.
        let rules = Rules { may_compress: true, message_len_max, trailers_len_max: None };
        let text = (protocol == Protocol::GrpcWebText).then(text::Encoder::default);
        Self { scanner: Scanner::default(), rules, text }
    }

    /// What to send on, never empty; `Ok(None)` when the input is used up. Binary shares the
    /// input's memory.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Flags`] or [`DecodeError::TooLarge`]: the server's framing is broken, or
    /// hides trailers of its own. What came before is given first, and ends where a message ends,
    /// so that [`ResponseTranslator::fail`] can tell it.
    pub fn next(&mut self, input: &mut Bytes) -> Result<Option<Bytes>, DecodeError> {
        if self.text.is_some() { self.next_text(input) } else { self.next_binary(input) }
    }

    /// The server has ended with these trailers: the last of the body.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Truncated`] if that was inside a message; then [`ResponseTranslator::fail`].
    pub fn finish<'a>(
        &mut self,
        trailers: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    ) -> Result<Bytes, DecodeError> {
        if !self.scanner.is_at_boundary() {
            return Err(DecodeError::Truncated);
        }
        Ok(self.last(trailers::frame(trailers)))
    }

    /// The server has failed, and this stands for it: the last of the body. `None` if a part of a
    /// message has been sent on: trailers would be taken for the rest of it, so that the body must
    /// be cut instead for the client to notice.
    pub fn fail(&mut self, status: &Status) -> Option<Bytes> {
        let can_tell = self.scanner.has_passed_whole_frames();
        can_tell.then(|| self.last(trailers::status_frame(status)))
    }

    fn last(&self, frame: Bytes) -> Bytes {
        if self.text.is_some() { text::encode(&frame) } else { frame }
    }

    fn next_binary(&mut self, input: &mut Bytes) -> Result<Option<Bytes>, DecodeError> {
        let mut passed = 0;
        loop {
            let rest = input.get(passed..).unwrap_or_default();
            match self.scanner.step(rest, &self.rules) {
                Ok(Step::Pass { len, .. }) => passed += len,
                // Nothing has passed: a part was held back only at the end of the piece before.
                Ok(Step::Prefix { len, prefix, .. }) => {
                    input.advance(len);
                    return Ok(Some(Bytes::copy_from_slice(&prefix)));
                }
                Ok(Step::Held(len)) => {
                    let piece = input.split_to(passed);
                    input.advance(len);
                    return Ok((!piece.is_empty()).then_some(piece));
                }
                Err(error) if passed == 0 => return Err(error),
                Err(_) => return Ok(Some(input.split_to(passed))),
            }
        }
    }

    fn next_text(&mut self, input: &mut Bytes) -> Result<Option<Bytes>, DecodeError> {
        let Some(text) = self.text.as_mut().filter(|_| !input.is_empty()) else { return Ok(None) };
        let mut out = Vec::with_capacity(input.len() / 3 * 4 + 8);
        loop {
            let ends = match self.scanner.step(input, &self.rules) {
                Ok(Step::Pass { len, ends }) => {
                    text.push(input.get(..len).unwrap_or_default(), &mut out);
                    input.advance(len);
                    ends
                }
                Ok(Step::Prefix { len, prefix, ends }) => {
                    text.push(&prefix, &mut out);
                    input.advance(len);
                    ends
                }
                Ok(Step::Held(len)) => {
                    input.advance(len);
                    return Ok((!out.is_empty()).then(|| out.into()));
                }
                Err(error) if out.is_empty() => return Err(error),
                Err(_) => return Ok(Some(out.into())),
            };
            if ends {
                text.flush(&mut out);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{OK, cuts};
    use super::*;
    use crate::grpc::{Code, encode};

    const LEN_MAX: u32 = 1000;

    /// What a translator sends on, and what stopped it.
    #[track_caller]
    fn translate(
        translator: &mut ResponseTranslator,
        pieces: &[&[u8]],
    ) -> (Vec<u8>, Result<(), DecodeError>) {
        let mut sent = Vec::new();
        for piece in pieces {
            let mut piece = Bytes::copy_from_slice(piece);
            loop {
                match translator.next(&mut piece) {
                    Ok(Some(part)) => {
                        assert!(!part.is_empty(), "nothing is no part");
                        sent.extend_from_slice(&part);
                    }
                    Ok(None) => break assert!(piece.is_empty(), "all input is consumed"),
                    Err(error) => {
                        assert_eq!(translator.next(&mut piece), Err(error), "and again");
                        return (sent, Err(error));
                    }
                }
            }
        }
        (sent, Ok(()))
    }

    /// Checks a translation to both forms: `frames` is what is sent on, and each is padded by
    /// itself.
    #[track_caller]
    fn check(input: &[u8], frames: &[&[u8]], end: Result<(), DecodeError>) {
        let text: Vec<u8> = frames.iter().flat_map(|frame| text::encode(frame)).collect();
        for (protocol, expect) in
            [(Protocol::GrpcWeb, frames.concat()), (Protocol::GrpcWebText, text)]
        {
            for pieces in cuts(input) {
                let mut translator = ResponseTranslator::new(protocol, LEN_MAX);
                let sent = translate(&mut translator, &pieces);
                assert_eq!(sent, (expect.clone(), end), "{protocol:?} {pieces:?}");
                let status = Status::new(Code::Internal, "");
                let last = trailers::status_frame(&status);
                let last = if protocol == Protocol::GrpcWeb { last } else { text::encode(&last) };
                assert_eq!(translator.fail(&status), Some(last), "it can be told");
            }
        }
    }

    #[test]
    fn messages_pass_as_they_are_and_as_text_each_by_itself() {
        check(b"", &[], Ok(()));
        check(b"\0\0\0\0\0", &[b"\0\0\0\0\0"], Ok(()));
        check(
            b"\0\0\0\0\x03abc\x01\0\0\0\x04defg\0\0\0\0\0\0\0\0\0\x01h",
            &[b"\0\0\0\0\x03abc", b"\x01\0\0\0\x04defg", b"\0\0\0\0\0", b"\0\0\0\0\x01h"],
            Ok(()),
        );
    }

    #[test]
    fn a_server_that_breaks_the_framing_is_told_between_two_messages() {
        let good: &[u8] = b"\0\0\0\0\x03abc";
        // Trailers of its own, which a web client would believe.
        for (flags, rest) in
            [(0x80_u8, &b"\0\0\0\x10grpc-status: 0\r\n"[..]), (2, b""), (0xFF, b"")]
        {
            let input = [good, &[flags], rest].concat();
            check(&input, &[good], Err(DecodeError::Flags(flags)));
        }
        let input = [good, &encode::prefix(0, LEN_MAX + 1)].concat();
        check(&input, &[good], Err(DecodeError::TooLarge { len_max: LEN_MAX }));
    }

    #[test]
    fn a_proxy_may_let_any_length_pass() {
        let mut translator = ResponseTranslator::new(Protocol::GrpcWeb, u32::MAX);
        let prefix = encode::prefix(1, u32::MAX);
        assert_eq!(
            translate(&mut translator, &[&prefix, b"abc"]).0,
            [&prefix[..], b"abc"].concat()
        );
        assert_eq!(translator.finish(OK), Err(DecodeError::Truncated));
    }

    #[test]
    fn a_message_that_is_cut_short_gets_no_trailers() {
        let input = b"\0\0\0\0\x01a\0\0\0\0\x03ab";
        for protocol in [Protocol::GrpcWeb, Protocol::GrpcWebText] {
            for end in 0..input.len() {
                let mut translator = ResponseTranslator::new(protocol, LEN_MAX);
                assert_eq!(translate(&mut translator, &[&input[..end]]).1, Ok(()));
                let is_whole = matches!(end, 0 | 6);
                assert_eq!(translator.finish(OK).is_ok(), is_whole, "{end} bytes");
                // A part of a prefix was not sent on, so that the failure can be told.
                let can_tell = matches!(end, 0..=4 | 6..=10);
                let status = Status::new(Code::Unavailable, "");
                assert_eq!(translator.fail(&status).is_some(), can_tell, "{end} bytes");
            }
        }
    }

    #[test]
    fn what_passes_in_binary_is_not_copied() {
        let input = Bytes::from_static(b"\0\0\0\0\x03abc\0\0\0\0\x03de");
        let mut translator = ResponseTranslator::new(Protocol::GrpcWeb, LEN_MAX);
        let passed = translator.next(&mut input.clone()).unwrap().unwrap();
        assert_eq!((passed.as_ptr(), passed.len()), (input.as_ptr(), input.len()));
        let mut piece = Bytes::from_static(b"f\0\0");
        let front = piece.as_ptr();
        let passed = translator.next(&mut piece).unwrap().unwrap();
        assert_eq!(
            (passed.as_ptr(), passed.len()),
            (front, 1),
            "all but the prefix that is incomplete"
        );
    }

    #[test]
    fn trailers_are_the_last_frame() {
        let trailers: [(&str, &[u8]); 2] = [("grpc-status", b"5"), ("x-a", b"b")];
        let frame = b"\x80\0\0\0\x18grpc-status: 5\r\nx-a: b\r\n";
        let mut binary = ResponseTranslator::new(Protocol::GrpcWeb, LEN_MAX);
        assert_eq!(binary.finish(trailers).unwrap(), frame[..]);
        let mut text = ResponseTranslator::new(Protocol::GrpcWebText, LEN_MAX);
        assert_eq!(text.finish(trailers).unwrap(), text::encode(frame));
    }
}
