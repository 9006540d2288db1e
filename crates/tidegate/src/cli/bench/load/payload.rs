//! What is sent: a number of sixteen digits, then the alphabet over and over. It is text and never
//! JSON, so a gateway keeps it as it is, and every byte of it is checked when it comes back.

/// Digits of the number; no payload is shorter.
pub(in super::super) const SIZE_MIN: usize = 16;

/// Payloads of one size.
#[derive(Debug)]
pub(super) struct Template {
    /// Digits, which are written anew for each payload, and the rest.
    bytes: Vec<u8>,
}

impl Template {
    /// Payloads of `size` bytes, at least [`SIZE_MIN`].
    pub(super) fn new(size: usize) -> Self {
        let filler = (b'a'..=b'z').cycle().take(size.saturating_sub(SIZE_MIN));
        Self { bytes: std::iter::repeat_n(b'0', SIZE_MIN).chain(filler).collect() }
    }

    /// The payload with this number; ASCII.
    pub(super) fn payload(&mut self, number: u64) -> &[u8] {
        let mut rest = number;
        for digit in self.bytes.iter_mut().take(SIZE_MIN).rev() {
            *digit = b"0123456789".get((rest % 10) as usize).copied().unwrap_or(b'0');
            rest /= 10;
        }
        &self.bytes
    }

    /// The number of a payload that is right in every byte, else `None`.
    pub(super) fn number(&self, payload: &[u8]) -> Option<u64> {
        let (digits, text) = payload.split_first_chunk::<SIZE_MIN>()?;
        if self.bytes.get(SIZE_MIN..) != Some(text) {
            return None;
        }
        digits.iter().try_fold(0_u64, |number, digit| {
            digit.is_ascii_digit().then(|| number * 10 + u64::from(digit - b'0'))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_byte_is_noticed() {
        for size in [SIZE_MIN, SIZE_MIN + 1, 100] {
            let mut template = Template::new(size);
            let payload = template.payload(1234).to_vec();
            assert_eq!((payload.len(), template.number(&payload)), (size, Some(1234)));
            for place in 0..size {
                let mut changed = payload.clone();
                changed[place] ^= 1;
                assert_ne!(template.number(&changed), Some(1234), "byte {place}");
                assert_eq!(template.number(&payload[..place]), None);
            }
        }
    }
}
