//! permessage-deflate, the payload part: messages ⇄ compressed payloads (RFC 7692 §7.2).
//!
//! No connection owns a zlib state. zlib-rs needs 47.5 KB to inflate and 137 KB to deflate whatever
//! the window; so the states are pooled per worker, and a connection that takes its context from
//! message to message keeps only the bytes of that context, a [`Window`], which is given to a
//! pooled state as its dictionary. That is nothing before the first compressed message, at most
//! 32 KiB to inflate and [`HISTORY_LEN_MAX`] to deflate after it.

use std::sync::Arc;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::{DeflateParams, Kind, ProtocolError, utf8::Utf8};
use crate::scratch;

/// What a sender takes off the end of each message and a receiver puts back (§7.2.1).
const TAIL: [u8; 4] = [0x00, 0x00, 0xFF, 0xFF];

/// The tail, and an empty final block: it ends the stream exactly if the message ended at the end
/// of a block, as it must. A message that was cut short is noticed so.
const TAIL_AND_END: [u8; 6] = [0x00, 0x00, 0xFF, 0xFF, 0x03, 0x00];

/// Bytes of its own past that a connection keeps to compress with. Any amount up to the window that
/// was agreed is legal. The dictionary is hashed anew for each message, which is what bounds it: of
/// JSON ticks of 107 bytes at level 6, 4 KiB make 3.5 to 1 in 8.4 µs, 8 KiB 4.0 in 12, 16 KiB 4.1
/// in 19, 32 KiB 5.1 in 33; without a history it is 1.07 to 1 in 6.7 µs.
const HISTORY_LEN_MAX: usize = 4096;

/// Shorter messages are sent as they are: deflate adds a byte or two to most of them.
pub const COMPRESSED_LEN_MIN: usize = 24;

/// First allocation for inflated bytes; doubled as they come.
const OUTPUT_STEP: usize = 16 * 1024;

/// Messages that may be checked ahead of their end at one time; 47.5 KB each.
const CHECKERS_MAX: usize = 64;

/// Why a payload did not inflate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeflateError {
    /// It is not what RFC 1951 describes, or refers back beyond its window.
    #[error("payload is not valid deflate data")]
    Invalid,
    /// It ends in the middle of a block.
    #[error("deflate data ends in the middle of a block")]
    Truncated,
}

/// The last bytes of what went one way, in order: the context of the messages that follow.
#[derive(Debug)]
pub(super) struct Window {
    /// Grows to `len_max`, then is a ring whose oldest byte is at `oldest`.
    bytes: Vec<u8>,
    oldest: usize,
    len_max: usize,
}

impl Window {
    pub(super) fn new(len_max: usize) -> Self {
        Self { bytes: Vec::new(), oldest: 0, len_max }
    }

    /// Appends `data`, forgetting what is older than `len_max` bytes.
    pub(super) fn push(&mut self, data: &[u8]) {
        let data = data.get(data.len().saturating_sub(self.len_max)..).unwrap_or_default();
        let room = self.len_max - self.bytes.len();
        let (grow, wrap) = data.split_at(room.min(data.len()));
        self.bytes.extend_from_slice(grow);
        // Here the ring is full or `wrap` is empty.
        let (front, back) = wrap.split_at(wrap.len().min(self.len_max - self.oldest));
        for part in [front, back] {
            if let Some(place) = self.bytes.get_mut(self.oldest..self.oldest + part.len()) {
                place.copy_from_slice(part);
            }
            self.oldest += part.len();
            if self.oldest == self.len_max {
                self.oldest = 0;
            }
        }
    }

    /// Older and newer part.
    pub(super) fn parts(&self) -> [&[u8]; 2] {
        let (newer, older) = self.bytes.split_at(self.oldest.min(self.bytes.len()));
        [older, newer]
    }
}

/// A raw inflate state, and the way of a message through it.
struct Inflater {
    state: Decompress,
    /// Whether a block with BFINAL has ended the stream at the last byte fed (§7.2.3.4).
    has_ended: bool,
}

impl Inflater {
    fn new() -> Self {
        Self { state: Decompress::new_with_window_bits(false, 15), has_ended: false }
    }

    /// Prepares for a message with this context.
    fn start(&mut self, context: [&[u8]; 2]) -> Result<(), DeflateError> {
        self.state.reset(false);
        self.has_ended = false;
        for part in context.into_iter().filter(|part| !part.is_empty()) {
            self.state.set_dictionary(part).map_err(|_| DeflateError::Invalid)?;
        }
        Ok(())
    }

    /// Inflates some of `input` onto `output`, at least a byte of either, and says how much of
    /// `input` was used. Room in `output` that remains means that all that can be said was said.
    fn step(&mut self, input: &[u8], output: &mut Vec<u8>) -> Result<usize, DeflateError> {
        let before = self.state.total_in();
        let status = self
            .state
            .decompress_vec(input, output, FlushDecompress::Sync)
            .map_err(|_| DeflateError::Invalid)?;
        self.has_ended = matches!(status, Status::StreamEnd);
        let used = self.state.total_in() - before;
        usize::try_from(used).map_err(|_| DeflateError::Invalid)
    }
}

/// What the connections of one worker share to inflate: a state, and the buffer that messages are
/// inflated into and lent from. Not for two threads.
pub struct InflaterPool {
    /// Made for the first compressed message.
    inflater: Option<Box<Inflater>>,
    output: Vec<u8>,
    /// Whether nothing was inflated since the last [`Self::trim`].
    is_idle: bool,
    /// Each checker holds a clone, which counts them.
    checkers: Arc<()>,
}

impl InflaterPool {
    /// A pool that takes no memory yet.
    #[must_use]
    pub fn new() -> Self {
        Self { inflater: None, output: Vec::new(), is_idle: true, checkers: Arc::new(()) }
    }

    /// Gives back the memory of what was inflated, if nothing was since the last call. To be called
    /// now and then, not between [`super::Decoder::next`] and the use of its event.
    pub fn trim(&mut self) {
        if std::mem::replace(&mut self.is_idle, true) {
            self.output = Vec::new();
            self.inflater = None;
        }
    }

    /// The message inflated last.
    pub(super) fn output(&self) -> &[u8] {
        &self.output
    }

    /// Inflates a message of at most `len_max` bytes into [`Self::output`], and checks its text.
    pub(super) fn inflate(
        &mut self,
        message: &[u8],
        kind: Kind,
        window: Option<&Window>,
        len_max: usize,
    ) -> Result<(), ProtocolError> {
        scratch::reuse(&mut self.output);
        self.is_idle = false;
        let output = &mut self.output;
        // A sender without anything to say should send one byte (§7.2.3.6); some send none.
        if message.is_empty() {
            return Ok(());
        }
        let context = window.map_or([&[][..]; 2], Window::parts);
        let inflater = self.inflater.get_or_insert_with(|| Box::new(Inflater::new()));
        inflater.start(context).map_err(ProtocolError::Deflate)?;

        let mut utf8 = Utf8::default();
        let mut rest = message;
        let mut is_tail = false;
        loop {
            if output.len() == output.capacity() {
                // Never more than a byte over the limit: enough to see that it is broken.
                let doubled = output.len().max(OUTPUT_STEP).min(len_max + 1 - output.len());
                output.reserve_exact(doubled);
            }
            let checked_len = output.len();
            let used = inflater.step(rest, output).map_err(ProtocolError::Deflate)?;
            let fresh = output.get(checked_len..).unwrap_or_default();
            if kind == Kind::Text {
                utf8.push(fresh).map_err(|_| ProtocolError::Utf8)?;
            }
            if output.len() > len_max {
                return Err(ProtocolError::TooLong { len_max });
            }
            let has_room = output.len() < output.capacity();
            rest = rest.get(used..).unwrap_or_default();
            if inflater.has_ended && rest.is_empty() {
                break;
            }
            if inflater.has_ended {
                // Another stream follows, with the same context and all that came since (§7.2.3.4).
                let [older, newer] = context;
                inflater.start([older, newer]).map_err(ProtocolError::Deflate)?;
                inflater.state.set_dictionary(output).map_err(|_| DeflateError::Invalid)?;
            } else if has_room && rest.is_empty() && !is_tail {
                rest = &TAIL_AND_END;
                is_tail = true;
            } else if has_room && used == 0 && fresh.is_empty() {
                return Err(ProtocolError::Deflate(DeflateError::Truncated));
            }
        }
        if kind == Kind::Text { utf8.finish().map_err(|_| ProtocolError::Utf8) } else { Ok(()) }
    }

    /// A state for a text that has not all arrived, if the pool can spare one.
    pub(super) fn checker(&self, window: Option<&Window>) -> Option<Box<Checker>> {
        if Arc::strong_count(&self.checkers) > CHECKERS_MAX {
            return None;
        }
        let mut inflater = Inflater::new();
        inflater.start(window.map_or([&[][..]; 2], Window::parts)).ok()?;
        let utf8 = Utf8::default();
        let _lease = Arc::clone(&self.checkers);
        Some(Box::new(Checker { inflater, utf8, len: 0, _lease }))
    }
}

impl Default for InflaterPool {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for InflaterPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let checkers = Arc::strong_count(&self.checkers) - 1;
        f.debug_struct("InflaterPool").field("checkers", &checkers).finish_non_exhaustive()
    }
}

/// Looks ahead into a compressed text of which a part has arrived, so that a wrong byte or too many
/// of them are refused at once and not at the message's end. What it inflates it forgets: a peer
/// makes us keep what it sent, never the thousandfold that it stands for.
pub(super) struct Checker {
    inflater: Inflater,
    utf8: Utf8,
    len: usize,
    _lease: Arc<()>,
}

impl Checker {
    /// Checks the next part of the message, with `pool`'s buffer for scratch.
    ///
    /// Says whether to go on: after a block with BFINAL the context would be needed that was
    /// forgotten, and the rest is checked when the message is whole.
    pub(super) fn push(
        &mut self,
        part: &[u8],
        pool: &mut InflaterPool,
        len_max: usize,
    ) -> Result<bool, ProtocolError> {
        let mut rest = part;
        loop {
            pool.output.clear();
            pool.output.reserve(OUTPUT_STEP);
            let used =
                self.inflater.step(rest, &mut pool.output).map_err(ProtocolError::Deflate)?;
            rest = rest.get(used..).unwrap_or_default();
            self.len += pool.output.len();
            self.utf8.push(&pool.output).map_err(|_| ProtocolError::Utf8)?;
            if self.len > len_max {
                return Err(ProtocolError::TooLong { len_max });
            }
            if self.inflater.has_ended {
                return Ok(false);
            }
            if pool.output.len() < pool.output.capacity() && (rest.is_empty() || used == 0) {
                return Ok(true);
            }
        }
    }
}

impl std::fmt::Debug for Checker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Checker").field("len", &self.len).finish_non_exhaustive()
    }
}

/// What the connections of one worker share to deflate: a state per window size, made when first
/// used (137 KB and more each). Not for two threads.
pub struct DeflaterPool {
    level: Compression,
    /// By window bits, from 9.
    states: [Option<Box<Compress>>; 7],
    output: Vec<u8>,
}

impl DeflaterPool {
    /// A pool that takes no memory yet. `level` is zlib's, `1..=9`.
    #[must_use]
    pub fn new(level: u8) -> Self {
        let level = Compression::new(u32::from(level.clamp(1, 9)));
        Self { level, states: [const { None }; 7], output: Vec::new() }
    }

    /// Deflates a message with this context. `None` where that does not make it smaller, or where
    /// no state has a window so small (zlib can't make raw streams with 8 bits).
    fn deflate(&mut self, message: &[u8], context: [&[u8]; 2], window_bits: u8) -> Option<&[u8]> {
        let slot = self.states.get_mut(usize::from(window_bits.checked_sub(9)?))?;
        let level = self.level;
        let state = slot.get_or_insert_with(|| {
            Box::new(Compress::new_with_window_bits(level, false, window_bits))
        });
        state.reset();
        for part in context.into_iter().filter(|part| !part.is_empty()) {
            state.set_dictionary(part).ok()?;
        }
        scratch::reuse(&mut self.output);
        let output = &mut self.output;
        // Room for the worst that deflate makes of noise, 9 bits a byte. A state that is left with
        // output still to come keeps its place over a reset, and panics later (zlib-rs 0.6.8).
        output.reserve(message.len() + message.len() / 8 + 64);
        let mut rest = message;
        loop {
            let before = state.total_in();
            state.compress_vec(rest, output, FlushCompress::Sync).ok()?;
            let used = usize::try_from(state.total_in() - before).ok()?;
            rest = rest.get(used..)?;
            if output.len() == output.capacity() {
                *slot = None;
                return None;
            }
            if rest.is_empty() {
                let deflated = output.strip_suffix(&TAIL)?;
                return (deflated.len() < message.len()).then_some(deflated);
            }
        }
    }
}

impl std::fmt::Debug for DeflaterPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let states = self.states.iter().flatten().count();
        f.debug_struct("DeflaterPool").field("states", &states).finish_non_exhaustive()
    }
}

/// One connection's compressor, for a connection with a context of its own (or none, where the peer
/// asked for that). Small while unused; the work is done by a [`DeflaterPool`].
#[derive(Debug)]
pub struct Deflater {
    params: DeflateParams,
    history: Option<Box<Window>>,
}

impl Deflater {
    /// A compressor as agreed.
    #[must_use]
    pub const fn new(params: DeflateParams) -> Self {
        Self { params, history: None }
    }

    /// The payload to send with RSV1 in `message`'s stead, `None` where it goes better as it is
    /// (which is allowed at any time, and leaves the context alone).
    ///
    /// What is returned must be sent, and before anything that is compressed later.
    pub fn deflate<'p>(&mut self, message: &[u8], pool: &'p mut DeflaterPool) -> Option<&'p [u8]> {
        if message.len() < COMPRESSED_LEN_MIN {
            return None;
        }
        let bits = self.params.send_window_bits;
        let context = self.history.as_deref().map_or([&[][..]; 2], Window::parts);
        let payload = pool.deflate(message, context, bits)?;
        if self.params.send_takeover {
            let len_max = HISTORY_LEN_MAX.min(1 << bits);
            self.history.get_or_insert_with(|| Box::new(Window::new(len_max))).push(message);
        }
        Some(payload)
    }
}

/// Compresses a message once for any number of subscribers: each message stands alone, so every
/// connection that agreed to the full window ([`DeflateParams::can_share`]) can be sent it.
///
/// A connection is for life either one that gets shared messages or one with a [`Deflater`]: a
/// message that stands alone moves the peer's window, and the next one with a context would refer
/// to bytes that are not there.
#[derive(Debug)]
pub struct SharedDeflater {
    pool: DeflaterPool,
}

impl SharedDeflater {
    /// A compressor that takes no memory yet. `level` is zlib's, `1..=9`.
    #[must_use]
    pub fn new(level: u8) -> Self {
        Self { pool: DeflaterPool::new(level) }
    }

    /// The payload to send with RSV1 in `message`'s stead, `None` where it goes better as it is.
    pub fn deflate(&mut self, message: &[u8]) -> Option<&[u8]> {
        if message.len() < COMPRESSED_LEN_MIN {
            return None;
        }
        self.pool.deflate(message, [&[], &[]], 15)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_inflated_is_given_back_when_nothing_follows() {
        let mut pool = InflaterPool::new();
        // "Hello", RFC 7692 §7.2.3.1.
        let message = [0xF2, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00];
        pool.inflate(&message, Kind::Text, None, 100).unwrap();
        pool.trim();
        assert_eq!(pool.output(), b"Hello", "it may be of use still");
        pool.inflate(&message, Kind::Text, None, 100).unwrap();
        pool.trim();
        pool.trim();
        assert_eq!((pool.output.capacity(), pool.inflater.is_none()), (0, true));
        pool.inflate(&message, Kind::Text, None, 100).unwrap();
        assert_eq!(pool.output(), b"Hello");
    }

    #[test]
    fn a_window_is_the_last_bytes_in_order() {
        let mut random = fastrand::Rng::with_seed(1);
        for len_max in [1, 2, 7, 64, 512] {
            let mut window = Window::new(len_max);
            let mut all = Vec::new();
            for _ in 0..300 {
                let data: Vec<u8> = (0..random.usize(0..100)).map(|_| random.u8(..)).collect();
                window.push(&data);
                all.extend_from_slice(&data);
                let expect = &all[all.len().saturating_sub(len_max)..];
                assert_eq!(window.parts().concat(), expect);
            }
        }
    }

    fn params(bits: u8, takeover: bool) -> DeflateParams {
        DeflateParams {
            send_window_bits: bits,
            receive_window_bits: bits,
            send_takeover: takeover,
            receive_takeover: takeover,
        }
    }

    #[test]
    fn what_does_not_shrink_goes_as_it_is() {
        let mut pool = DeflaterPool::new(6);
        let mut deflater = Deflater::new(params(15, true));
        assert_eq!(deflater.deflate(b"short", &mut pool), None);
        let mut random = fastrand::Rng::with_seed(2);
        let noise: Vec<u8> = (0..5000).map(|_| random.u8(..)).collect();
        assert_eq!(deflater.deflate(&noise, &mut pool), None);
        assert!(deflater.history.is_none(), "what was not sent is no context");
        assert!(deflater.deflate(&[b'a'; 5000], &mut pool).is_some());
    }

    #[test]
    fn what_did_not_shrink_leaves_nothing_behind() {
        let mut random = fastrand::Rng::with_seed(3);
        for level in [1, 2, 6, 9] {
            let mut shared = SharedDeflater::new(level);
            for len in [70_000, 16_384, 100_000, 5000, 16_384, 65_536] {
                let noise: Vec<u8> = (0..len).map(|_| random.u8(..)).collect();
                assert_eq!(shared.deflate(&noise), None);
                // Half noise: it shrinks, but not by much.
                let dim: Vec<u8> = noise.iter().map(|it| it & 0x1f).collect();
                let expect = SharedDeflater::new(level).deflate(&dim).map(<[u8]>::to_vec);
                assert!(expect.is_some());
                assert_eq!(shared.deflate(&dim).map(<[u8]>::to_vec), expect);
            }
        }
    }

    #[test]
    fn eight_bits_can_not_be_made_and_are_not_tried() {
        let mut deflater = Deflater::new(params(8, true));
        assert_eq!(deflater.deflate(&[b'a'; 5000], &mut DeflaterPool::new(6)), None);
    }

    #[test]
    fn a_repeated_message_costs_next_to_nothing_with_a_context() {
        let mut pool = DeflaterPool::new(6);
        let message = br#"{"channel":"prices","symbol":"ABC","bid":101.25,"ask":101.5}"#;
        let mut own = Deflater::new(params(15, true));
        let first = own.deflate(message, &mut pool).map(<[u8]>::len);
        let second = own.deflate(message, &mut pool).map(<[u8]>::len);
        assert!(second.is_some_and(|len| len < 10), "{first:?} then {second:?}");
        let mut shared = SharedDeflater::new(6);
        let alone = shared.deflate(message).map(<[u8]>::to_vec);
        assert_eq!(alone, shared.deflate(message).map(<[u8]>::to_vec));
    }

    #[test]
    fn a_context_never_outgrows_its_bound() {
        let mut pool = DeflaterPool::new(1);
        let mut deflater = Deflater::new(params(9, true));
        for _ in 0..100 {
            deflater.deflate(&[b'a'; 1000], &mut pool);
        }
        let kept = deflater.history.map_or(0, |it| it.bytes.capacity());
        assert!(kept <= 512, "{kept}");
    }
}
