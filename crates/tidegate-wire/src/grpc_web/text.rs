//! The text form: base64 in which padding may stand at the end of any quantum of four characters
//! (`PROTOCOL-WEB.md`, Text-encoded streams; RFC 4648 §4).
//!
//! Whoever writes it pads where it flushes, so a body as a whole is no base64, and a reader may
//! make nothing of where padding stands.

use base64::{
    DecodeSliceError, Engine as _,
    alphabet::STANDARD,
    engine::{GeneralPurpose, GeneralPurposeConfig},
};
use bytes::{Buf as _, Bytes};

/// The bits that a padded character has too many are not looked at, as in browsers.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
);

/// What a frame, or several whole ones, is in the text form: base64, padded, so that it may be
/// written between others. Made once, it can be shared by every stream.
#[must_use]
pub fn encode(frames: &[u8]) -> Bytes {
    BASE64.encode(frames).into()
}

/// Encodes what comes in pieces. At most two bytes wait for a third, until [`Encoder::flush`].
#[derive(Debug, Default)]
pub(crate) struct Encoder {
    waiting: [u8; 2],
    waiting_len: u8,
}

impl Encoder {
    /// Appends the text of `bytes`, but for at most two of them.
    pub(crate) fn push(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) {
        if self.waiting_len > 0 {
            let [a, b] = self.waiting;
            let group = match (self.waiting_len, bytes) {
                (2, [c, rest @ ..]) => ([a, b, *c], rest),
                (1, [b, c, rest @ ..]) => ([a, *b, *c], rest),
                (1, [b]) => {
                    (self.waiting, self.waiting_len) = ([a, *b], 2);
                    return;
                }
                _ => return,
            };
            append(&group.0, out);
            bytes = group.1;
            self.waiting_len = 0;
        }
        let (groups, rest) = bytes.split_at(bytes.len() / 3 * 3);
        append(groups, out);
        for (place, byte) in self.waiting.iter_mut().zip(rest) {
            *place = *byte;
            self.waiting_len += 1;
        }
    }

    /// Appends what waits, padded.
    pub(crate) fn flush(&mut self, out: &mut Vec<u8>) {
        let len = usize::from(std::mem::take(&mut self.waiting_len));
        append(self.waiting.get(..len).unwrap_or_default(), out);
    }
}

fn append(bytes: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + bytes.len().div_ceil(3) * 4, 0);
    let place = out.get_mut(start..).unwrap_or_default();
    let written = BASE64.encode_slice(bytes, place);
    debug_assert_eq!(written, Ok(place.len()), "the room is what base64 takes");
}

/// Decodes a body that is cut anywhere.
///
/// For each piece that arrives call [`Decoder::next`] until it says `Ok(None)`; then all of it is
/// used. When the body has ended, call [`Decoder::finish`] once.
#[derive(Debug, Default)]
pub struct Decoder {
    /// The front of a quantum that has not all come, checked.
    quantum: [u8; 4],
    quantum_len: u8,
}

impl Decoder {
    /// The bytes that the input stands for, as far as whole quanta go; `Ok(None)` when it is used
    /// up.
    ///
    /// # Errors
    ///
    /// [`TextError::Byte`] on the first byte that can't stand where it stands; what came before it
    /// is given first. The input is left there, and nothing more can be decoded.
    pub fn next(&mut self, input: &mut Bytes) -> Result<Option<Bytes>, TextError> {
        let mut out = Vec::new();
        while let Some(byte) = input.first().copied() {
            if self.quantum_len == 0 {
                let used = decode_run(input, &mut out);
                input.advance(used);
                if used > 0 {
                    continue;
                }
            }
            // A quantum that is padded, cut or wrong goes byte by byte.
            if !self.fits(byte) {
                return if out.is_empty() {
                    Err(TextError::Byte(byte))
                } else {
                    Ok(Some(out.into()))
                };
            }
            if let Some(place) = self.quantum.get_mut(usize::from(self.quantum_len)) {
                *place = byte;
            }
            input.advance(1);
            self.quantum_len += 1;
            if usize::from(self.quantum_len) == self.quantum.len() {
                self.quantum_len = 0;
                decode_slice(&self.quantum, &mut out);
            }
        }
        Ok((!out.is_empty()).then(|| out.into()))
    }

    /// Says that the body has ended.
    ///
    /// # Errors
    ///
    /// [`TextError::Truncated`] if that was inside a quantum.
    pub fn finish(&mut self) -> Result<(), TextError> {
        if self.quantum_len == 0 { Ok(()) } else { Err(TextError::Truncated) }
    }

    /// Whether `byte` may be the next of the quantum.
    fn fits(&self, byte: u8) -> bool {
        let is_symbol = byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
        match (self.quantum_len, self.quantum) {
            (0 | 1, _) => is_symbol,
            (3, [_, _, b'=', _]) => byte == b'=',
            _ => is_symbol || byte == b'=',
        }
    }
}

/// Decodes whole quanta off the front of `input`, up to the first that has padding or is wrong, and
/// says how many bytes that was.
fn decode_run(input: &[u8], out: &mut Vec<u8>) -> usize {
    let end = memchr::memchr(b'=', input).unwrap_or(input.len());
    let run = input.get(..end / 4 * 4).unwrap_or_default();
    match decode_slice(run, out) {
        None => run.len(),
        Some(wrong) => {
            let run = run.get(..wrong / 4 * 4).unwrap_or_default();
            decode_slice(run, out);
            run.len()
        }
    }
}

/// Appends what whole quanta stand for; or, of the first byte that is wrong, where it is.
fn decode_slice(quanta: &[u8], out: &mut Vec<u8>) -> Option<usize> {
    let start = out.len();
    out.resize(start + quanta.len() / 4 * 3, 0);
    let decoded = BASE64.decode_slice(quanta, out.get_mut(start..).unwrap_or_default());
    out.truncate(start + decoded.as_ref().copied().unwrap_or_default());
    match decoded {
        Ok(_) => None,
        Err(DecodeSliceError::DecodeError(base64::DecodeError::InvalidByte(at, _))) => Some(at),
        // Neither happens with whole quanta and room for them.
        Err(_) => Some(0),
    }
}

/// A body is not base64; the peer's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// A byte that is none of base64's, or padding where none can be.
    #[error("byte {0:#04x} has no place there in base64")]
    Byte(u8),
    /// The body ended inside a quantum of four characters.
    #[error("base64 ended inside a group of four characters")]
    Truncated,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All that `pieces` stand for, and how it ended.
    fn decode<'p>(pieces: impl Iterator<Item = &'p [u8]>) -> (Vec<u8>, Result<(), TextError>) {
        let (mut decoder, mut bytes) = (Decoder::default(), Vec::new());
        for piece in pieces {
            let mut piece = Bytes::copy_from_slice(piece);
            loop {
                match decoder.next(&mut piece) {
                    Ok(Some(part)) => {
                        assert!(!part.is_empty(), "nothing is no part");
                        bytes.extend_from_slice(&part);
                    }
                    Ok(None) => break assert!(piece.is_empty(), "all input is consumed"),
                    Err(error) => {
                        assert_eq!(decoder.next(&mut piece), Err(error), "and again");
                        return (bytes, Err(error));
                    }
                }
            }
        }
        (bytes, decoder.finish())
    }

    #[track_caller]
    fn check(text: &str, bytes: &[u8], end: Result<(), TextError>) {
        let expect = (bytes.to_vec(), end);
        for cut in 0..=text.len() {
            let (front, back) = text.as_bytes().split_at(cut);
            assert_eq!(decode([front, back].into_iter()), expect, "{text} cut at {cut}");
        }
        assert_eq!(decode(text.as_bytes().chunks(1)), expect, "{text} byte by byte");
    }

    #[test]
    fn padding_may_stand_anywhere_between_quanta() {
        // RFC 4648 §10, one after another.
        check("Zg==Zm8=Zm9vZm9vYg==Zm9vYmE=Zm9vYmFy", b"ffofoofoobfoobafoobar", Ok(()));
        check("", b"", Ok(()));
        check("Zg==Zg==Zg==", b"fff", Ok(()));
        check("AAAAAAMBAgM=gAAAAA8=", b"\0\0\0\0\x03\x01\x02\x03\x80\0\0\0\x0F", Ok(()));
    }

    #[test]
    fn what_a_last_symbol_has_too_much_does_not_count() {
        check("Zh==Zm9=", b"ffo", Ok(()));
    }

    #[test]
    fn a_body_ends_where_a_quantum_ends() {
        check("Z", b"", Err(TextError::Truncated));
        check("Zm9vZm", b"foo", Err(TextError::Truncated));
        check("Zm8", b"", Err(TextError::Truncated));
        check("Zg=", b"", Err(TextError::Truncated));
    }

    #[test]
    fn what_has_no_place_is_refused_after_what_has() {
        check("Zm9vZm9v*m9v", b"foofoo", Err(TextError::Byte(b'*')));
        check("Zm9vZm9vZm*v", b"foofoo", Err(TextError::Byte(b'*')));
        check("Zm9v\nZm9v", b"foo", Err(TextError::Byte(b'\n')));
        check("Zg=g", b"", Err(TextError::Byte(b'g')));
        check("Z===", b"", Err(TextError::Byte(b'=')));
        check("Zm9v=", b"foo", Err(TextError::Byte(b'=')));
        check("====", b"", Err(TextError::Byte(b'=')));
        check("Zm9-", b"", Err(TextError::Byte(b'-')));
        check("Zm9vZg==*", b"foof", Err(TextError::Byte(b'*')));
    }

    #[test]
    fn what_is_encoded_in_pieces_is_the_text_of_the_whole() {
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..500 {
            let bytes: Vec<u8> = (0..random.usize(0..40)).map(|_| random.u8(..)).collect();
            let (mut encoder, mut out) = (Encoder::default(), Vec::new());
            let mut rest = &*bytes;
            while !rest.is_empty() {
                let (piece, after) = rest.split_at(random.usize(0..=rest.len().min(5)));
                encoder.push(piece, &mut out);
                rest = after;
            }
            encoder.flush(&mut out);
            assert_eq!(out, encode(&bytes));
            encoder.flush(&mut out);
            assert_eq!(out, encode(&bytes), "nothing waits any more");
            let text = String::from_utf8(out).unwrap();
            check(&text, &bytes, Ok(()));
        }
    }
}
