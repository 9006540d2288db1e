//! Masking: the XOR that clients put on everything they send (RFC 6455 §5.3).
//!
//! The same function masks and unmasks. Bytes are in memory order, so endianness plays no part.
//!
//! Safe code in words of 8 bytes compiles to SSE2 and runs at the speed of `memcpy` (64 KiB: 1.2 µs
//! beside 1.2 to 1.9). The same code compiled for AVX2 takes half of that from 256 bytes up, which
//! is why it is called where the processor has it: the only `unsafe` of this crate.

/// From this length on the wider code is looked for; below, the look costs what it saves.
const WIDE_LEN_MIN: usize = 256;

/// Bytes of a cache line.
const LINE_LEN: usize = 64;

/// XORs `data` with `key`, repeated, starting at the key's first byte.
#[inline]
pub fn mask(data: &mut [u8], key: [u8; 4]) {
    if data.len() < WIDE_LEN_MIN { mask_words::<64>(data, key) } else { mask_long(data, key) }
}

/// [`mask`] for payloads that are worth a look at the processor.
///
/// A payload begins anywhere, mostly 8 or 14 bytes behind another one's end. Stores that cross cache
/// lines cost double, so the bytes before the first whole line go first.
fn mask_long(data: &mut [u8], key: [u8; 4]) {
    let before = data.as_ptr().align_offset(LINE_LEN).min(data.len());
    let (head, data) = data.split_at_mut(before);
    mask_words::<64>(head, key);
    let key = advance(key, before);
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        #[expect(unsafe_code, reason = "the compiler can't know that the processor was asked")]
        // SAFETY: the processor has AVX2, which is all that the function asks of its caller.
        unsafe {
            mask_avx2(data, key);
        }
        return;
    }
    mask_words::<64>(data, key);
}

/// Safe code, which the compiler may put into registers of 32 bytes.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn mask_avx2(data: &mut [u8], key: [u8; 4]) {
    mask_words::<128>(data, key);
}

/// Appends `data`, XORed with `key`, to `out`: one pass where copying and masking would be two.
pub(super) fn extend_masked(out: &mut Vec<u8>, data: &[u8], key: [u8; 4]) {
    out.reserve(data.len());
    if data.len() < WIDE_LEN_MIN {
        return extend_words::<64>(out, data, key);
    }
    let end = out.as_ptr().addr() + out.len();
    let (head, data) = data.split_at(end.next_multiple_of(LINE_LEN) - end);
    extend_words::<64>(out, head, key);
    let key = advance(key, head.len());
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        #[expect(unsafe_code, reason = "the compiler can't know that the processor was asked")]
        // SAFETY: the processor has AVX2, which is all that the function asks of its caller.
        unsafe {
            extend_avx2(out, data, key);
        }
        return;
    }
    extend_words::<128>(out, data, key);
}

/// Safe code, which the compiler may put into registers of 32 bytes.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn extend_avx2(out: &mut Vec<u8>, data: &[u8], key: [u8; 4]) {
    extend_words::<256>(out, data, key);
}

/// Appends block by block; a block is masked in registers and stored once.
#[inline(always)]
fn extend_words<const BLOCK: usize>(out: &mut Vec<u8>, data: &[u8], key: [u8; 4]) {
    let word = u64::from_ne_bytes(pair(key));
    let (blocks, rest) = data.as_chunks::<BLOCK>();
    for block in blocks {
        let mut masked = *block;
        for bytes in masked.as_chunks_mut::<8>().0 {
            *bytes = (u64::from_ne_bytes(*bytes) ^ word).to_ne_bytes();
        }
        out.extend_from_slice(&masked);
    }
    let start = out.len();
    out.extend_from_slice(rest);
    if let Some(rest) = out.get_mut(start..) {
        mask_words::<64>(rest, key);
    }
}

/// Masks in blocks of `BLOCK` bytes, as many as the compiler is to unroll, then in words and bytes.
#[inline(always)]
fn mask_words<const BLOCK: usize>(data: &mut [u8], key: [u8; 4]) {
    let word = u64::from_ne_bytes(pair(key));
    let (blocks, rest) = data.as_chunks_mut::<BLOCK>();
    for block in blocks {
        for bytes in block.as_chunks_mut::<8>().0 {
            *bytes = (u64::from_ne_bytes(*bytes) ^ word).to_ne_bytes();
        }
    }
    let (words, rest) = rest.as_chunks_mut::<8>();
    for bytes in words {
        *bytes = (u64::from_ne_bytes(*bytes) ^ word).to_ne_bytes();
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
                let mut appended = plain[..start].to_vec();
                extend_masked(&mut appended, &plain[start..start + len], key);
                assert_eq!(appended, data[..start + len]);
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
