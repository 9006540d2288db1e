//! Bytes → frames, cut anywhere: the prefix, and the two ways of reading what it announces.
//!
//! [`Reader`] collects frames, [`Scanner`] only follows them while they pass. Both refuse a prefix
//! before anything is kept of what it announces.

use bytes::{Buf as _, Bytes};

use super::decoder::DecodeError;
use super::encode::{COMPRESSED, PREFIX_LEN, TRAILERS};

/// What a prefix may say.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// Whether an encoding was agreed, so that frames may be compressed.
    pub(crate) may_compress: bool,
    pub(crate) message_len_max: u32,
    /// `None` where no frame may be trailers: gRPC itself, and requests of gRPC-Web.
    pub(crate) trailers_len_max: Option<u32>,
}

/// A prefix that was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Prefix {
    pub(crate) flags: u8,
    pub(crate) len: u32,
}

impl Rules {
    /// Refuses flags as soon as they are there, before the length.
    fn check_flags(&self, flags: u8) -> Result<(), DecodeError> {
        let trailers = if self.trailers_len_max.is_some() { TRAILERS } else { 0 };
        if flags & !(COMPRESSED | trailers) != 0 {
            return Err(DecodeError::Flags(flags));
        }
        if flags & COMPRESSED != 0 && !self.may_compress {
            return Err(DecodeError::NoEncoding);
        }
        Ok(())
    }

    fn check(&self, bytes: [u8; PREFIX_LEN]) -> Result<Prefix, DecodeError> {
        let [flags, length @ ..] = bytes;
        self.check_flags(flags)?;
        let len = u32::from_be_bytes(length);
        let len_max = match self.trailers_len_max {
            Some(len_max) if flags & TRAILERS != 0 => len_max,
            _ => self.message_len_max,
        };
        if len > len_max {
            return Err(DecodeError::TooLarge { len_max });
        }
        Ok(Prefix { flags, len })
    }
}

/// The front of a prefix that has not all arrived.
#[derive(Clone, Copy, Debug, Default)]
struct Held {
    bytes: [u8; PREFIX_LEN],
    len: u8,
}

impl Held {
    /// How many bytes of `input` the prefix takes, and the prefix once it is whole. An error
    /// changes nothing.
    fn take(
        &mut self,
        input: &[u8],
        rules: &Rules,
    ) -> Result<(usize, Option<Prefix>), DecodeError> {
        let mut now = *self;
        let mut taken = 0;
        for (place, byte) in now.bytes.iter_mut().skip(usize::from(self.len)).zip(input) {
            *place = *byte;
            taken += 1;
            now.len += 1;
        }
        let prefix = if usize::from(now.len) == PREFIX_LEN {
            let prefix = rules.check(now.bytes)?;
            now = Self::default();
            Some(prefix)
        } else {
            let [flags, ..] = now.bytes;
            // 0 where nothing has come, which passes.
            rules.check_flags(flags)?;
            None
        };
        *self = now;
        Ok((taken, prefix))
    }
}

/// Collects frames. One that lies in a piece of the input whole shares its memory; what is
/// incomplete when the piece ends is copied, and its memory grows with the bytes that came.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    held: Held,
    /// The prefix of the frame whose payload is incomplete.
    prefix: Option<Prefix>,
    buffer: Vec<u8>,
}

impl Reader {
    /// Takes the next whole frame off the input: its flags and its payload. `Ok(None)` when the
    /// input is used up.
    pub(crate) fn next(
        &mut self,
        input: &mut Bytes,
        rules: &Rules,
    ) -> Result<Option<(u8, Bytes)>, DecodeError> {
        let prefix = match self.prefix {
            Some(prefix) => prefix,
            None => {
                let (taken, prefix) = self.held.take(input, rules)?;
                input.advance(taken);
                let Some(prefix) = prefix else { return Ok(None) };
                *self.prefix.insert(prefix)
            }
        };
        let len = prefix.len as usize;
        let missing = len - self.buffer.len();
        let payload = if self.buffer.is_empty() && input.len() >= missing {
            input.split_to(missing)
        } else {
            let part = input.split_to(missing.min(input.len()));
            self.append(&part, len);
            if self.buffer.len() < len {
                return Ok(None);
            }
            std::mem::take(&mut self.buffer).into()
        };
        self.prefix = None;
        Ok(Some((prefix.flags, payload)))
    }

    /// Whether no frame is incomplete.
    pub(crate) fn is_at_boundary(&self) -> bool {
        self.prefix.is_none() && self.held.len == 0
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.buffer.capacity()
    }

    /// Doubles when full, but never beyond the frame's end.
    fn append(&mut self, part: &[u8], len: usize) {
        let needed = self.buffer.len() + part.len();
        if needed > self.buffer.capacity() {
            let capacity = needed.max(2 * self.buffer.capacity()).min(len);
            self.buffer.reserve_exact(capacity - self.buffer.len());
        }
        self.buffer.extend_from_slice(part);
    }
}

/// Follows frames that pass, and holds back nothing but a prefix that is incomplete. So what has
/// passed when a prefix is refused ends where a frame ends, and something else may follow it.
#[derive(Debug, Default)]
pub(crate) struct Scanner {
    held: Held,
    /// Bytes of the current frame that have not come.
    left: u32,
}

/// What the front of the input is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The input is used up; its last so many bytes are held back.
    Held(usize),
    /// So many bytes to pass on, all of one frame; `ends`: its last ones.
    Pass { len: usize, ends: bool },
    /// The rest of a prefix of which a part was held back: take `len` bytes off, pass `prefix` on.
    Prefix { len: usize, prefix: [u8; PREFIX_LEN], ends: bool },
}

impl Scanner {
    /// Looks at the front of `input`; an error changes nothing.
    pub(crate) fn step(&mut self, input: &[u8], rules: &Rules) -> Result<Step, DecodeError> {
        if self.left > 0 {
            if input.is_empty() {
                return Ok(Step::Held(0));
            }
            let len = (self.left as usize).min(input.len());
            self.left -= u32::try_from(len).unwrap_or(self.left);
            return Ok(Step::Pass { len, ends: self.left == 0 });
        }
        let was_held = self.held.len > 0;
        let (len, prefix) = self.held.take(input, rules)?;
        let Some(prefix) = prefix else { return Ok(Step::Held(len)) };
        self.left = prefix.len;
        let ends = self.left == 0;
        Ok(if was_held {
            let prefix = super::encode::prefix(prefix.flags, prefix.len);
            Step::Prefix { len, prefix, ends }
        } else {
            Step::Pass { len, ends }
        })
    }

    /// Whether no frame is incomplete.
    pub(crate) fn is_at_boundary(&self) -> bool {
        self.left == 0 && self.held.len == 0
    }

    /// Whether all that has passed ends where a frame ends.
    pub(crate) fn has_passed_whole_frames(&self) -> bool {
        self.left == 0
    }
}
