//! Per-message compression: each message stands alone (the specification's Compressed-Flag).
//!
//! No stream owns a state. The states of both directions are pooled per worker, made when first
//! used. What a bomb decompresses to is bounded by the limit on messages, and memory for it is
//! taken as it comes.

use bytes::Bytes;
use flate2::{Compress, Compression, Crc, Decompress, FlushCompress, FlushDecompress, Status};
use zstd::zstd_safe::{
    CCtx, DCtx, compress_bound, get_frame_content_size, zstd_sys::ZSTD_ErrorCode,
};

use super::{DecodeError, Encoding, encode};
use crate::scratch;

/// Shorter messages are sent as they are: a JSON event of 104 bytes grows by any of them.
pub const COMPRESSED_LEN_MIN: usize = 128;

/// Of 830 bytes of JSON level 6 makes 265 in 14 µs, level 1 331 in 6.5 µs; of 83 KB 8.4 KB and 15
/// KB. It is done once, and sent many times.
const GZIP_LEVEL: u32 = 6;

/// Of 830 bytes of JSON level 1 makes 241 in 5.7 µs, level 3 240 in 6.6 µs, level 6 238 in 9.9 µs;
/// of 83 KB levels 1 and 3 make 5.4 KB.
const ZSTD_LEVEL: i32 = 1;

/// First allocation for what a gzip member decompresses to, at least; doubled as it comes.
const OUTPUT_STEP: usize = 4096;

/// What a zstd frame says of its size is believed up to this, or up to [`ZSTD_RATIO_TRUSTED`] times
/// the bytes that came.
const ZSTD_OUTPUT_TRUSTED: usize = 64 * 1024;
const ZSTD_RATIO_TRUSTED: usize = 64;

/// Bytes of a gzip member's fixed header, and of its trailer (RFC 1952 §2.3).
const GZIP_HEADER_LEN: usize = 10;
const GZIP_TRAILER_LEN: usize = 8;

/// Why a message did not decompress; the peer's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a message is not valid {}", self.encoding.name())]
pub struct DecompressError {
    /// What it should have been.
    pub encoding: Encoding,
}

/// What the streams of one worker share to decompress: 47.5 KB for gzip, about 100 KB for zstd,
/// once they are used. Not for two threads.
#[derive(Default)]
pub struct Decompressor {
    inflater: Option<Box<Decompress>>,
    zstd: Option<DCtx<'static>>,
}

impl Decompressor {
    /// A pool that takes no memory yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What `payload` decompresses to. An empty payload is an empty message, with any encoding, as
    /// some peers have it.
    ///
    /// # Errors
    ///
    /// [`DecodeError::TooLarge`] as soon as it is more than `len_max` bytes; in between at most
    /// that much was taken. [`DecodeError::Decompress`] if it is cut short or otherwise wrong.
    pub fn decompress(
        &mut self,
        encoding: Encoding,
        payload: &Bytes,
        len_max: u32,
    ) -> Result<Bytes, DecodeError> {
        if payload.is_empty() {
            return Ok(Bytes::new());
        }
        let bound = Bound { len_max };
        let message = match encoding {
            Encoding::Identity => return bound.check(payload.clone()),
            Encoding::Gzip => {
                let inflater = self
                    .inflater
                    .get_or_insert_with(|| Box::new(Decompress::new_with_window_bits(false, 15)));
                gunzip(inflater, payload, bound)
            }
            Encoding::Zstd => unzstd(self.zstd.get_or_insert_with(DCtx::create), payload, bound),
        };
        match message {
            Ok(message) => Ok(message.into()),
            Err(Failure::TooLarge) => Err(DecodeError::TooLarge { len_max }),
            Err(Failure::Invalid) => Err(DecodeError::Decompress(DecompressError { encoding })),
        }
    }
}

impl std::fmt::Debug for Decompressor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decompressor")
            .field("gzip", &self.inflater.is_some())
            .field("zstd", &self.zstd.is_some())
            .finish()
    }
}

/// The limit on a decompressed message.
#[derive(Clone, Copy)]
struct Bound {
    len_max: u32,
}

impl Bound {
    fn len(self) -> usize {
        self.len_max as usize
    }

    fn check(self, message: Bytes) -> Result<Bytes, DecodeError> {
        if message.len() > self.len() {
            return Err(DecodeError::TooLarge { len_max: self.len_max });
        }
        Ok(message)
    }
}

enum Failure {
    TooLarge,
    Invalid,
}

/// One or more gzip members (RFC 1952 §2.2). Header and checksum are read here and not by zlib, so
/// that the state can be used again: flate2 makes a new one for each gzip stream.
fn gunzip(state: &mut Decompress, payload: &[u8], bound: Bound) -> Result<Vec<u8>, Failure> {
    let mut output = Vec::new();
    let mut rest = payload;
    while !rest.is_empty() {
        rest = skip_gzip_header(rest).ok_or(Failure::Invalid)?;
        let member = output.len();
        rest = inflate(state, rest, &mut output, bound)?;
        let (trailer, after) = rest.split_at_checked(GZIP_TRAILER_LEN).ok_or(Failure::Invalid)?;
        let (mut crc, member) = (Crc::new(), output.get(member..).unwrap_or_default());
        crc.update(member);
        // Its length modulo 2^32 (§2.3.1); the limit is below that.
        let len = u32::try_from(member.len()).map_err(|_| Failure::TooLarge)?;
        if trailer != [crc.sum().to_le_bytes(), len.to_le_bytes()].as_flattened() {
            return Err(Failure::Invalid);
        }
        rest = after;
    }
    Ok(output)
}

/// Inflates one raw stream onto `output`, and gives what follows it.
fn inflate<'p>(
    state: &mut Decompress,
    payload: &'p [u8],
    output: &mut Vec<u8>,
    bound: Bound,
) -> Result<&'p [u8], Failure> {
    state.reset(false);
    let mut rest = payload;
    loop {
        if output.len() == output.capacity() {
            // Never more than a byte over the limit: enough to see that it is broken.
            let doubled = output.len().max(OUTPUT_STEP).min(bound.len() + 1 - output.len());
            output.reserve_exact(doubled);
        }
        let (len_before, in_before) = (output.len(), state.total_in());
        let status = state
            .decompress_vec(rest, output, FlushDecompress::None)
            .map_err(|_| Failure::Invalid)?;
        let used = usize::try_from(state.total_in() - in_before).map_err(|_| Failure::Invalid)?;
        rest = rest.get(used..).unwrap_or_default();
        if output.len() > bound.len() {
            return Err(Failure::TooLarge);
        }
        if matches!(status, Status::StreamEnd) {
            return Ok(rest);
        }
        if used == 0 && output.len() == len_before {
            return Err(Failure::Invalid);
        }
    }
}

/// What follows a gzip member's header (RFC 1952 §2.3); `None` if it is wrong or cut short.
fn skip_gzip_header(member: &[u8]) -> Option<&[u8]> {
    const HAS_CRC: u8 = 0x02;
    const HAS_EXTRA: u8 = 0x04;
    const HAS_NAME: u8 = 0x08;
    const HAS_COMMENT: u8 = 0x10;
    const RESERVED: u8 = 0xE0;

    let (header, mut rest) = member.split_at_checked(GZIP_HEADER_LEN)?;
    let [0x1F, 0x8B, 8, flags, ..] = header else { return None };
    if flags & RESERVED != 0 {
        return None;
    }
    if flags & HAS_EXTRA != 0 {
        let (len, after) = rest.split_first_chunk()?;
        rest = after.get(usize::from(u16::from_le_bytes(*len))..)?;
    }
    for field in [HAS_NAME, HAS_COMMENT] {
        if flags & field != 0 {
            rest = rest.get(memchr::memchr(0, rest)? + 1..)?;
        }
    }
    if flags & HAS_CRC != 0 {
        let (sum, after) = rest.split_first_chunk()?;
        let mut crc = Crc::new();
        crc.update(member.get(..member.len() - rest.len())?);
        let [low, high, ..] = crc.sum().to_le_bytes();
        if *sum != [low, high] {
            return None;
        }
        rest = after;
    }
    Some(rest)
}

/// One or more zstd frames (RFC 8878 §3.1). In one go into one buffer, which is the window too:
/// then a frame may declare any window, and nothing is allocated for it. Where the buffer is too
/// small it is tried again with one four times as large, which costs at most a third more.
fn unzstd(state: &mut DCtx<'_>, payload: &[u8], bound: Bound) -> Result<Vec<u8>, Failure> {
    let declared = get_frame_content_size(payload).map_err(|_| Failure::Invalid)?;
    if declared.is_some_and(|len| len > u64::from(bound.len_max)) {
        return Err(Failure::TooLarge);
    }
    let trusted = ZSTD_OUTPUT_TRUSTED.max(payload.len().saturating_mul(ZSTD_RATIO_TRUSTED));
    let declared = declared.and_then(|len| usize::try_from(len).ok());
    let mut capacity = declared.unwrap_or(4 * payload.len()).min(trusted).min(bound.len());
    loop {
        let mut output = Vec::with_capacity(capacity);
        match state.decompress(&mut output, payload) {
            Ok(_) if output.len() > bound.len() => return Err(Failure::TooLarge),
            Ok(_) => return Ok(output),
            Err(code) if !is_too_small(code) => return Err(Failure::Invalid),
            Err(_) if capacity >= bound.len() => return Err(Failure::TooLarge),
            Err(_) => capacity = capacity.max(1024).saturating_mul(4).min(bound.len()),
        }
    }
}

/// Whether zstd says that its output has no room.
fn is_too_small(code: usize) -> bool {
    code == (ZSTD_ErrorCode::ZSTD_error_dstSize_tooSmall as usize).wrapping_neg()
}

/// Compresses messages, each once for any number of streams that have the encoding. It takes 0.3 MB
/// for gzip, and for zstd 30 KB to 0.6 MB as messages grow, once they are used.
#[derive(Default)]
pub struct Compressor {
    gzip: Option<Box<Compress>>,
    zstd: Option<CCtx<'static>>,
    output: Vec<u8>,
}

impl Compressor {
    /// A compressor that takes no memory yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The frame of `message` for streams whose `grpc-encoding` is `encoding`: compressed, or as it
    /// is where that would not be smaller, which is always allowed.
    ///
    /// # Errors
    ///
    /// [`encode::TooLong`] if the length does not fit into four bytes.
    pub fn frame(&mut self, encoding: Encoding, message: &[u8]) -> Result<Bytes, encode::TooLong> {
        match self.compress(encoding, message) {
            Some(compressed) => encode::compressed_message(compressed),
            None => encode::message(message),
        }
    }

    /// What to send with the flag [`encode::COMPRESSED`] in `message`'s stead; `None` where it goes
    /// better as it is.
    pub fn compress(&mut self, encoding: Encoding, message: &[u8]) -> Option<&[u8]> {
        if message.len() < COMPRESSED_LEN_MIN {
            return None;
        }
        scratch::reuse(&mut self.output);
        match encoding {
            Encoding::Identity => return None,
            Encoding::Gzip => self.gzip(message)?,
            Encoding::Zstd => {
                self.output.reserve(compress_bound(message.len()));
                let state = self.zstd.get_or_insert_with(CCtx::create);
                state.compress(&mut self.output, message, ZSTD_LEVEL).ok()?;
            }
        }
        (self.output.len() < message.len()).then_some(&*self.output)
    }

    fn gzip(&mut self, message: &[u8]) -> Option<()> {
        let state = self
            .gzip
            .get_or_insert_with(|| Box::new(Compress::new_gzip(Compression::new(GZIP_LEVEL), 15)));
        state.reset();
        // Room for the worst that deflate makes of noise, 9 bits a byte. A state that is left with
        // output still to come keeps its place over a reset, and panics later (zlib-rs 0.6.8).
        self.output.reserve(message.len() + message.len() / 8 + 64);
        let status = state.compress_vec(message, &mut self.output, FlushCompress::Finish);
        if matches!(status, Ok(Status::StreamEnd)) {
            return Some(());
        }
        self.gzip = None;
        None
    }
}

impl std::fmt::Debug for Compressor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compressor")
            .field("gzip", &self.gzip.is_some())
            .field("zstd", &self.zstd.is_some())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GZIP: Encoding = Encoding::Gzip;
    const ZSTD: Encoding = Encoding::Zstd;

    fn bytes(hex: &str) -> Bytes {
        let digits = hex.as_bytes().chunks(2).map(|it| str::from_utf8(it).unwrap());
        digits.map(|it| u8::from_str_radix(it, 16).unwrap()).collect()
    }

    #[track_caller]
    fn check(
        encoding: Encoding,
        payload: &Bytes,
        len_max: u32,
        expect: Result<&[u8], DecodeError>,
    ) {
        let mut pool = Decompressor::new();
        // Twice, as the state is used again.
        for _ in 0..2 {
            let message = pool.decompress(encoding, payload, len_max);
            assert_eq!(message.as_deref().map_err(|error| *error), expect);
        }
    }

    fn invalid(encoding: Encoding) -> Result<&'static [u8], DecodeError> {
        Err(DecodeError::Decompress(DecompressError { encoding }))
    }

    /// Python's `gzip.compress`.
    const PYTHON: &str = "1f8b08000000000002032bc94c494d4f2c495528a13d0300b2b540db6c000000";
    /// The same, with every optional field of a gzip header.
    const ALL_FIELDS: &str = "1f8b081e00000000000303006578746e616d6500636f6d6d656e74000b492bc94c494d4f2c495528a13d0300b2b540db6c000000";
    /// `zstd -19` from a pipe: no content size, and a checksum.
    const ZSTD_PIPE: &str = "28b52ffd0468850000487469646567617465200100806939021fa3012b";
    /// `zstd -3 --no-check` of a file: its content size, and no window.
    const ZSTD_FILE: &str = "28b52ffd206c85000048746964656761746520010080693902";
    /// `zstd --long=27` from a pipe: three bytes, and a window of 128 MiB.
    const ZSTD_WINDOW: &str = "28b52ffd0088190000616161";

    #[test]
    fn what_others_compress_is_decompressed() {
        let text = b"tidegate ".repeat(12);
        check(GZIP, &bytes(PYTHON), 1000, Ok(&text));
        check(GZIP, &bytes(ALL_FIELDS), 1000, Ok(&text));
        check(ZSTD, &bytes(ZSTD_PIPE), 1000, Ok(&text));
        check(ZSTD, &bytes(ZSTD_FILE), 1000, Ok(&text));
        check(ZSTD, &bytes(ZSTD_WINDOW), 3, Ok(b"aaa"));
        check(Encoding::Identity, &Bytes::from_static(b"abc"), 3, Ok(b"abc"));
    }

    #[test]
    fn several_members_or_frames_are_one_message() {
        let text = b"tidegate ".repeat(24);
        check(GZIP, &bytes(&[PYTHON, ALL_FIELDS].concat()), 216, Ok(&text));
        check(ZSTD, &bytes(&[ZSTD_PIPE, ZSTD_FILE].concat()), 216, Ok(&text));
        let too_large = Err(DecodeError::TooLarge { len_max: 215 });
        check(GZIP, &bytes(&[PYTHON, ALL_FIELDS].concat()), 215, too_large);
        check(ZSTD, &bytes(&[ZSTD_PIPE, ZSTD_FILE].concat()), 215, too_large);
    }

    #[test]
    fn an_empty_payload_is_an_empty_message() {
        for encoding in [Encoding::Identity, GZIP, ZSTD] {
            check(encoding, &Bytes::new(), 0, Ok(b""));
        }
    }

    #[test]
    fn what_is_cut_short_is_refused_wherever() {
        for (encoding, hex) in
            [(GZIP, PYTHON), (GZIP, ALL_FIELDS), (ZSTD, ZSTD_PIPE), (ZSTD, ZSTD_FILE)]
        {
            let whole = bytes(hex);
            for len in 1..whole.len() {
                check(encoding, &whole.slice(..len), 1000, invalid(encoding));
            }
            let longer = [&*whole, b"x"].concat().into();
            check(encoding, &longer, 1000, invalid(encoding));
        }
    }

    #[test]
    fn what_is_changed_is_refused() {
        for (encoding, hex) in [(GZIP, ALL_FIELDS), (ZSTD, ZSTD_PIPE)] {
            let whole = bytes(hex);
            for at in 0..whole.len() {
                let mut changed = whole.to_vec();
                changed[at] ^= 0x20;
                let message = Decompressor::new().decompress(encoding, &changed.into(), 1000);
                // Of zstd's header a bit is unused.
                assert!(message.is_err() || message.unwrap() == b"tidegate ".repeat(12), "{at}");
            }
        }
    }

    #[test]
    fn flags_that_are_reserved_are_refused() {
        for flag in [0x20, 0x40, 0x80] {
            let mut changed = bytes(PYTHON).to_vec();
            changed[3] |= flag;
            check(GZIP, &changed.into(), 1000, invalid(GZIP));
        }
    }

    #[test]
    fn a_bomb_is_refused_at_the_limit() {
        let mut compressor = Compressor::new();
        let zeros = vec![0; 1 << 20];
        for encoding in [GZIP, ZSTD] {
            let payload = Bytes::copy_from_slice(compressor.compress(encoding, &zeros).unwrap());
            assert!(payload.len() < 1200, "{}", payload.len());
            check(encoding, &payload, 1 << 20, Ok(&zeros));
            for len_max in [0, 1, 1000, (1 << 20) - 1] {
                check(encoding, &payload, len_max, Err(DecodeError::TooLarge { len_max }));
            }
        }
        // Without a content size nothing is known in advance.
        let blocks = [&[0x28, 0xB5, 0x2F, 0xFD, 0, 0x88][..], &[0x03, 0, 0x10, 7]].concat();
        let payload = Bytes::from(blocks);
        check(ZSTD, &payload, 1 << 17, Ok(&[7; 1 << 17]));
        let len_max = (1 << 17) - 1;
        check(ZSTD, &payload, len_max, Err(DecodeError::TooLarge { len_max }));
    }

    #[test]
    fn a_size_that_is_a_lie_is_refused() {
        // A frame of 2^60 bytes, and one of a million, each with three.
        let huge = bytes("28b52ffdc00000000000000010190000616161");
        check(ZSTD, &huge, 1000, Err(DecodeError::TooLarge { len_max: 1000 }));
        check(ZSTD, &huge, u32::MAX, Err(DecodeError::TooLarge { len_max: u32::MAX }));
        let million = bytes("28b52ffda040420f00190000616161");
        check(ZSTD, &million, u32::MAX, invalid(ZSTD));
    }

    #[test]
    fn messages_come_back_as_they_went() {
        let (mut compressor, mut pool) = (Compressor::new(), Decompressor::new());
        let mut random = fastrand::Rng::with_seed(1);
        for round in 0..300 {
            let word: Vec<u8> = (0..random.usize(1..50)).map(|_| random.u8(..)).collect();
            let mut message = word.repeat(random.usize(0..100));
            if round % 3 == 0 {
                message.iter_mut().for_each(|byte| *byte = random.u8(..));
            }
            for encoding in [GZIP, ZSTD] {
                let Some(payload) = compressor.compress(encoding, &message) else { continue };
                assert!(payload.len() < message.len(), "it pays");
                let payload = Bytes::copy_from_slice(payload);
                let len_max = u32::try_from(message.len()).unwrap();
                let back = pool.decompress(encoding, &payload, len_max);
                assert_eq!(back.as_deref(), Ok(&*message));
            }
        }
    }

    #[test]
    fn what_would_not_be_smaller_is_sent_as_it_is() {
        let mut compressor = Compressor::new();
        let mut random = fastrand::Rng::with_seed(1);
        let noise: Vec<u8> = (0..1000).map(|_| random.u8(..)).collect();
        for encoding in [GZIP, ZSTD] {
            for message in [&b""[..], &[b'a'; COMPRESSED_LEN_MIN - 1], &noise] {
                assert_eq!(compressor.frame(encoding, message), encode::message(message));
            }
            assert!(compressor.compress(encoding, &[b'a'; COMPRESSED_LEN_MIN]).is_some());
        }
        assert_eq!(compressor.compress(Encoding::Identity, &[b'a'; 1000]), None);
    }
}
