//! Masking: the XOR that clients put on everything they send (RFC 6455 §5.3).
//!
//! The same function masks and unmasks. Bytes are in memory order, so endianness plays no part.

/// XORs `data` with `key`, repeated, starting at the key's first byte.
#[inline]
pub fn mask(data: &mut [u8], key: [u8; 4]) {
    let (blocks, rest) = data.as_chunks_mut::<64>();
    let wide = u64::from_ne_bytes(pair(key));
    for block in blocks {
        for word in block.as_chunks_mut::<8>().0 {
            *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
        }
    }
    let (words, rest) = rest.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(pair(key)) {
        *byte ^= key;
    }
}

/// The key for the bytes that follow `len` masked ones.
pub(super) fn advance(key: [u8; 4], len: usize) -> [u8; 4] {
    let mut key = key;
    key.rotate_left(len % 4);
    key
}

fn pair(key: [u8; 4]) -> [u8; 8] {
    let [a, b, c, d] = key;
    [a, b, c, d, a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_and_alignment_is_masked_as_the_rfc_says() {
        let key = [0x11, 0x52, 0xA3, 0xF4];
        let plain: Vec<u8> = (0..=255).cycle().take(600).collect();
        for start in 0..16 {
            for len in 0..500 {
                let mut data = plain.clone();
                mask(&mut data[start..start + len], key);
                for (index, (byte, plain)) in data.iter().zip(&plain).enumerate() {
                    let inside = (start..start + len).contains(&index);
                    let expect = if inside { plain ^ key[(index - start) % 4] } else { *plain };
                    assert_eq!(*byte, expect, "at {index} of {start}+{len}");
                }
            }
        }
    }

    #[test]
    fn a_payload_may_be_masked_in_pieces() {
        let key = [1, 2, 4, 8];
        let mut whole = [7; 50];
        mask(&mut whole, key);
        for cut in 0..=whole.len() {
            let mut pieces = [7; 50];
            let (front, back) = pieces.split_at_mut(cut);
            mask(front, key);
            mask(back, advance(key, cut));
            assert_eq!(pieces, whole);
        }
    }
}
