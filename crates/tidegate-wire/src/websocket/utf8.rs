//! UTF-8, checked as the bytes come (RFC 6455 §8.1).
//!
//! A text may be cut anywhere, also inside a character. What was cut off (at most 3 bytes) waits in
//! [`Utf8`]; bytes that no continuation can make valid are refused at once.

/// Text that was cut inside a character, or between two.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Utf8 {
    /// The beginning of a character, of which `len` bytes are there.
    begun: [u8; 4],
    len: u8,
}

/// The text is not UTF-8, whatever may follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Invalid;

impl Utf8 {
    /// Checks the next bytes of the text.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<(), Invalid> {
        let mut rest = bytes;
        while self.len > 0 {
            let Some((byte, after)) = rest.split_first() else { return Ok(()) };
            let begun = usize::from(self.len);
            let Some(place) = self.begun.get_mut(begun) else { return Err(Invalid) };
            *place = *byte;
            rest = after;
            match std::str::from_utf8(self.begun.get(..=begun).unwrap_or_default()) {
                Ok(_) => self.len = 0,
                Err(error) if error.error_len().is_none() => self.len += 1,
                Err(_) => return Err(Invalid),
            }
        }
        let Err(error) = simdutf8::compat::from_utf8(rest) else { return Ok(()) };
        if error.error_len().is_some() {
            return Err(Invalid);
        }
        for byte in rest.get(error.valid_up_to()..).unwrap_or_default() {
            let Some(place) = self.begun.get_mut(usize::from(self.len)) else {
                return Err(Invalid);
            };
            *place = *byte;
            self.len += 1;
        }
        Ok(())
    }

    /// Checks that the text does not end inside a character.
    pub(super) fn finish(self) -> Result<(), Invalid> {
        if self.len == 0 { Ok(()) } else { Err(Invalid) }
    }
}

/// Checks a text that is all there.
#[inline]
pub(super) fn check(text: &[u8]) -> Result<(), Invalid> {
    simdutf8::basic::from_utf8(text).map(drop).map_err(|_| Invalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks `text` in two pieces for every cut, and byte for byte: refused exactly where the
    /// standard library says that the bytes prove it.
    #[track_caller]
    fn verify(text: &[u8]) {
        let proven = |bytes: &[u8]| {
            std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_some())
        };
        for cut in 0..=text.len() {
            let mut utf8 = Utf8::default();
            let front = utf8.push(&text[..cut]);
            assert_eq!(front.is_err(), proven(&text[..cut]), "{text:x?} cut at {cut}");
            if front.is_ok() {
                let back = utf8.push(&text[cut..]);
                assert_eq!(back.is_err(), proven(text), "{text:x?} cut at {cut}");
                if back.is_ok() {
                    assert_eq!(utf8.finish().is_ok(), std::str::from_utf8(text).is_ok());
                }
            }
        }
        let mut utf8 = Utf8::default();
        for (index, byte) in text.iter().enumerate() {
            let verdict = utf8.push(&[*byte]);
            assert_eq!(verdict.is_err(), proven(&text[..=index]), "{text:x?} at {index}");
            if verdict.is_err() {
                return;
            }
        }
    }

    #[test]
    fn texts_are_judged_alike_however_they_are_cut() {
        for text in ["", "a", "κόσμε", "\u{7FF}\u{800}\u{FFFF}\u{10000}\u{10FFFF}", "日本語 text"]
        {
            verify(text.as_bytes());
        }
    }

    #[test]
    fn what_is_no_utf8_is_refused_where_it_is_proven() {
        for bytes in [
            &b"\xED\xA0\x80"[..],
            b"a\xC0\x80",
            b"\xF4\x90\x80\x80",
            b"\xF4\x8F\xBF\xBF\xF5",
            b"\xE0\x9F\x80",
            b"\xF0\x8F\x80\x80",
            b"ab\x80",
            b"\xCE\xBA\xE1\xBD\xB9\xCF\x83\xCE\xBC\xCE\xB5\xF4\x90\x80\x80edited",
            b"\xC3",
            b"\xF0\x9F\x92",
        ] {
            verify(bytes);
        }
    }

    #[test]
    fn random_bytes_are_judged_as_the_standard_library_does() {
        let mut random = fastrand::Rng::with_seed(7);
        let alphabet = [0x00, 0x41, 0x80, 0xBF, 0x90, 0xC2, 0xE0, 0xA0, 0xED, 0xF0, 0xF4, 0xFF];
        for _ in 0..20_000 {
            let text: Vec<u8> = (0..random.usize(0..8))
                .map(|_| alphabet[random.usize(0..alphabet.len())])
                .collect();
            verify(&text);
        }
    }
}
