//! Bytes read → messages: Length-Prefixed-Message, cut anywhere, and Compressed-Flag.

use bytes::Bytes;

use super::frame::{Reader, Rules};
use super::{Code, DecompressError, Decompressor, Encoding, encode::COMPRESSED};

/// Decodes the messages of one direction of one stream.
///
/// For each piece that arrives call [`Decoder::next`] until it says `Ok(None)`; then all of it is
/// used. When the stream has ended, call [`Decoder::finish`] once. After an error nothing more can
/// be decoded: what still comes is dropped.
#[derive(Debug)]
pub struct Decoder {
    reader: Reader,
    encoding: Encoding,
    rules: Rules,
    is_over: bool,
}

impl Decoder {
    /// A decoder of messages of at most `message_len_max` bytes, compressed and decompressed, whose
    /// `grpc-encoding` is `encoding` (`Identity` where there is none).
    #[must_use]
    pub fn new(encoding: Encoding, message_len_max: u32) -> Self {
        let may_compress = encoding != Encoding::Identity;
        let rules = Rules { may_compress, message_len_max, trailers_len_max: None };
        Self { reader: Reader::default(), encoding, rules, is_over: false }
    }

    /// Takes the next whole message off the input, decompressed; `Ok(None)` when the input is used
    /// up. A message that lay in one piece and was not compressed shares the piece's memory.
    ///
    /// # Errors
    ///
    /// [`DecodeError`], each but for `Truncated`: on the flags' byte, on the length, or when the
    /// message is there and does not decompress.
    pub fn next(
        &mut self,
        input: &mut Bytes,
        pool: &mut Decompressor,
    ) -> Result<Option<Bytes>, DecodeError> {
        if self.is_over {
            input.clear();
            return Ok(None);
        }
        let message = self.read(input, pool);
        self.is_over = message.is_err();
        message
    }

    /// Says that the stream has ended.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Truncated`] if that was inside a message.
    pub fn finish(&mut self) -> Result<(), DecodeError> {
        let was_over = std::mem::replace(&mut self.is_over, true);
        if was_over || self.reader.is_at_boundary() { Ok(()) } else { Err(DecodeError::Truncated) }
    }

    fn read(
        &mut self,
        input: &mut Bytes,
        pool: &mut Decompressor,
    ) -> Result<Option<Bytes>, DecodeError> {
        let Some((flags, payload)) = self.reader.next(input, &self.rules)? else { return Ok(None) };
        if flags & COMPRESSED == 0 {
            return Ok(Some(payload));
        }
        Ok(Some(pool.decompress(self.encoding, &payload, self.rules.message_len_max)?))
    }
}

/// How a peer broke the framing or a limit. Nothing more is decoded after it; [`DecodeError::code`]
/// is the status that it earns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Flags that are not defined here; that may be [`TRAILERS`](super::encode::TRAILERS).
    #[error("a message's flags are {0:#04x}")]
    Flags(u8),
    /// A message is compressed, but `grpc-encoding` is `identity` or missing.
    #[error("a message is compressed, but no grpc-encoding is given")]
    NoEncoding,
    /// A message, or the trailers, have more bytes than that, as announced or when decompressed.
    #[error("a message is longer than {len_max} bytes")]
    TooLarge {
        /// The limit.
        len_max: u32,
    },
    /// The stream ended inside a message.
    #[error("the stream ended inside a message")]
    Truncated,
    /// A message does not decompress.
    #[error(transparent)]
    Decompress(DecompressError),
}

impl DecodeError {
    /// The status that the error earns, whoever finds it: `RESOURCE_EXHAUSTED` for what is too
    /// large, else `INTERNAL` (the compression specification, Test cases; grpc-go and others do the
    /// same where the specification is silent).
    #[must_use]
    pub const fn code(&self) -> Code {
        match self {
            Self::TooLarge { .. } => Code::ResourceExhausted,
            Self::Flags(_) | Self::NoEncoding | Self::Truncated | Self::Decompress(_) => {
                Code::Internal
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::{Compressor, encode};

    const LEN_MAX: u32 = 1000;

    /// Messages of `pieces`, and how it ended.
    fn decode<'p>(
        mut decoder: Decoder,
        pool: &mut Decompressor,
        pieces: impl IntoIterator<Item = &'p [u8]>,
    ) -> (Vec<Bytes>, Result<(), DecodeError>) {
        let mut messages = Vec::new();
        for piece in pieces {
            let mut piece = Bytes::copy_from_slice(piece);
            loop {
                match decoder.next(&mut piece, pool) {
                    Ok(Some(message)) => messages.push(message),
                    Ok(None) => break assert!(piece.is_empty(), "all input is consumed"),
                    Err(error) => {
                        let mut more = Bytes::from_static(b"\0\0\0\0\0");
                        assert_eq!(decoder.next(&mut more, pool), Ok(None), "after an error");
                        assert_eq!((more.len(), decoder.finish()), (0, Ok(())));
                        return (messages, Err(error));
                    }
                }
            }
        }
        (messages, decoder.finish())
    }

    #[track_caller]
    fn check_with(
        encoding: Encoding,
        input: &[u8],
        messages: &[&[u8]],
        end: Result<(), DecodeError>,
    ) {
        let messages = messages.iter().map(|it| Bytes::copy_from_slice(it)).collect();
        let expect: (Vec<Bytes>, _) = (messages, end);
        let new = || Decoder::new(encoding, LEN_MAX);
        let mut pool = Decompressor::new();
        for cut in 0..=input.len() {
            let (front, back) = input.split_at(cut);
            assert_eq!(decode(new(), &mut pool, [front, back]), expect, "cut at {cut}");
        }
        assert_eq!(decode(new(), &mut pool, input.chunks(1)), expect, "byte for byte");
    }

    #[track_caller]
    fn check(input: &[u8], messages: &[&[u8]], end: Result<(), DecodeError>) {
        check_with(Encoding::Identity, input, messages, end);
    }

    #[test]
    fn an_idle_decoder_is_small() {
        assert!(size_of::<Decoder>() <= 80, "{} bytes", size_of::<Decoder>());
    }

    #[test]
    fn messages_lie_one_after_another() {
        check(b"", &[], Ok(()));
        check(b"\0\0\0\0\0", &[b""], Ok(()));
        check(b"\0\0\0\0\x03abc\0\0\0\0\0\0\0\0\0\x01d", &[b"abc", b"", b"d"], Ok(()));
        let long = vec![b'x'; 1000];
        check(&encode::message(&long).unwrap(), &[&long], Ok(()));
    }

    #[test]
    fn a_stream_ends_where_a_message_ends() {
        let truncated = Err(DecodeError::Truncated);
        check(b"\0", &[], truncated);
        check(b"\0\0\0\0\x02a", &[], truncated);
        check(b"\0\0\0\0\x01a\0\0\0\0", &[b"a"], truncated);
        check(b"\0\0\0\0\x01a\0\0\0\0\x01", &[b"a"], truncated);
        assert_eq!(DecodeError::Truncated.code(), Code::Internal);
    }

    #[test]
    fn flags_are_refused_before_the_length() {
        for flags in [2, 3, 0x80, 0x81, 0xFF] {
            check(&[flags], &[], Err(DecodeError::Flags(flags)));
            let input = [b"\0\0\0\0\x01a", &[flags][..]].concat();
            check_with(Encoding::Gzip, &input, &[b"a"], Err(DecodeError::Flags(flags)));
        }
        assert_eq!(DecodeError::Flags(2).code(), Code::Internal);
    }

    #[test]
    fn without_an_encoding_nothing_is_compressed() {
        check(b"\x01", &[], Err(DecodeError::NoEncoding));
        check(b"\x01\0\0\0\x01a", &[], Err(DecodeError::NoEncoding));
        assert_eq!(DecodeError::NoEncoding.code(), Code::Internal);
    }

    #[test]
    fn a_message_that_is_too_large_is_refused_on_its_length() {
        for encoding in [Encoding::Identity, Encoding::Gzip] {
            for len in [LEN_MAX + 1, u32::MAX] {
                let end = Err(DecodeError::TooLarge { len_max: LEN_MAX });
                check_with(encoding, &encode::prefix(0, len), &[], end);
            }
        }
        let error = DecodeError::TooLarge { len_max: LEN_MAX };
        assert_eq!(error.code(), Code::ResourceExhausted);
    }

    #[test]
    fn messages_may_be_compressed_one_by_one() {
        let mut compressor = Compressor::new();
        let text = b"tidegate ".repeat(24);
        for encoding in [Encoding::Gzip, Encoding::Zstd] {
            let compressed = compressor.frame(encoding, &text).unwrap();
            assert_eq!(compressed[0], COMPRESSED);
            let plain = encode::message(&text).unwrap();
            let input = [&*compressed, &*plain, &*compressed, b"\x01\0\0\0\0"].concat();
            check_with(encoding, &input, &[&text, &text, &text, b""], Ok(()));

            let error = DecodeError::Decompress(DecompressError { encoding });
            check_with(encoding, b"\x01\0\0\0\x04oops", &[], Err(error));
            assert_eq!(error.code(), Code::Internal);

            let bomb = vec![0; LEN_MAX as usize + 1];
            let bomb = compressor.frame(encoding, &bomb).unwrap();
            assert!(bomb.len() < 100);
            let end = Err(DecodeError::TooLarge { len_max: LEN_MAX });
            check_with(encoding, &bomb, &[], end);
        }
    }

    #[test]
    fn whole_messages_are_not_copied() {
        let piece = Bytes::from_static(b"\0\0\0\0\x03abc\0\0\0\0\x03def");
        let (mut decoder, mut pool) = (Decoder::new(Encoding::Gzip, LEN_MAX), Decompressor::new());
        let mut input = piece.clone();
        for at in [5, 13] {
            let message = decoder.next(&mut input, &mut pool).unwrap().unwrap();
            assert_eq!(message.as_ptr(), piece[at..].as_ptr());
        }
    }

    #[test]
    fn memory_grows_with_the_bytes_and_not_with_their_announcement() {
        let (mut decoder, mut pool) =
            (Decoder::new(Encoding::Identity, u32::MAX), Decompressor::new());
        let mut prefix = Bytes::copy_from_slice(&encode::prefix(0, 1 << 30));
        assert_eq!(decoder.next(&mut prefix, &mut pool), Ok(None));
        assert_eq!(decoder.reader.capacity(), 0);
        for sent in 1..=100 {
            assert_eq!(decoder.next(&mut Bytes::from(vec![0; 1000]), &mut pool), Ok(None));
            assert!(decoder.reader.capacity() <= 2 * 1000 * sent);
        }
    }

    #[test]
    fn a_collected_message_takes_no_more_than_it_announced() {
        let (mut decoder, mut pool) =
            (Decoder::new(Encoding::Identity, LEN_MAX), Decompressor::new());
        let frame = encode::message(&[7; 1000]).unwrap();
        for piece in frame.chunks(300) {
            decoder.next(&mut Bytes::copy_from_slice(piece), &mut pool).unwrap();
            assert!(decoder.reader.capacity() <= 1000);
        }
    }
}
