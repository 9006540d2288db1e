//! A request's body: what a web client sends → what a gRPC server reads.

use bytes::Bytes;

use super::text::{self, TextError};
use crate::grpc::Protocol;

/// Translates a request's body, cut anywhere. The frames are the same; only the text form is
/// decoded, and what is binary passes as it is. Flags and lengths are left to the server.
///
/// For each piece that arrives call [`RequestTranslator::next`] until it says `Ok(None)`; then all
/// of it is used. When the body has ended, call [`RequestTranslator::finish`] once.
#[derive(Debug)]
pub struct RequestTranslator {
    /// `None` for what is binary.
    text: Option<text::Decoder>,
}

impl RequestTranslator {
    /// A translator of a body whose `Content-Type` says `protocol`.
    #[must_use]
    pub fn new(protocol: Protocol) -> Self {
        Self { text: (protocol == Protocol::GrpcWebText).then(text::Decoder::default) }
    }

    /// What to send on, never empty; `Ok(None)` when the input is used up. Binary shares the
    /// input's memory.
    ///
    /// # Errors
    ///
    /// [`TextError::Byte`]; what came before it is given first. The call has failed, with
    /// `INVALID_ARGUMENT` where nobody knows better: nothing more is to be sent on.
    pub fn next(&mut self, input: &mut Bytes) -> Result<Option<Bytes>, TextError> {
        if let Some(text) = &mut self.text {
            return text.next(input);
        }
        let piece = std::mem::take(input);
        Ok((!piece.is_empty()).then_some(piece))
    }

    /// Says that the body has ended.
    ///
    /// # Errors
    ///
    /// [`TextError::Truncated`] if that was inside a group of four characters; the same as above.
    pub fn finish(&mut self) -> Result<(), TextError> {
        self.text.as_mut().map_or(Ok(()), text::Decoder::finish)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binary_passes_and_text_is_decoded() {
        let frame = Bytes::from_static(b"\0\0\0\0\x02ab");
        let mut input = frame.clone();
        let mut binary = RequestTranslator::new(Protocol::GrpcWeb);
        let passed = binary.next(&mut input).unwrap().unwrap();
        assert_eq!((&passed, passed.as_ptr()), (&frame, frame.as_ptr()), "not copied");
        assert_eq!((binary.next(&mut input), binary.finish()), (Ok(None), Ok(())));

        let mut input = text::encode(&frame);
        let mut text = RequestTranslator::new(Protocol::GrpcWebText);
        assert_eq!(text.next(&mut input), Ok(Some(frame)));
        assert_eq!((text.next(&mut input), text.finish()), (Ok(None), Ok(())));
        assert_eq!(text.next(&mut Bytes::from_static(b"Zg")), Ok(None));
        assert_eq!(text.finish(), Err(TextError::Truncated));
    }
}
