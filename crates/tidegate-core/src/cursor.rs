//! Cursors (CONTRACT 2): where a client is in a channel's log, as opaque text.
//!
//! ```text
//! EEEEEEEE TTTTTT OOOOOOOOOOO      25 bytes, 6 bits each, most significant first
//! epoch    tag    offset           47 bits in 8, 36 in 6, 64 in 11
//! ```
//!
//! The alphabet is in byte order and widths are fixed, so within one channel and epoch byte order is
//! log order (base64url is not: FINDINGS 3.17). An epoch of 47 bits keeps the first byte below `_`, so
//! that no cursor begins with a lower-case letter, as `start` and `now` do.

use std::fmt;

use crate::channel::{CHANNELS_MAX, ChannelName};

/// Length of every cursor this version makes, in bytes.
pub const CURSOR_BYTES: usize = 25;

/// Longest cursor that is legal, in bytes; longer ones are no cursors at all.
pub const CURSOR_BYTES_MAX: usize = 40;

const ALPHABET: &[u8; 64] = b"-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz";

/// The life of a log: another one begins when the log's continuity is lost. 47 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Epoch(u64);

impl Epoch {
    /// Makes an epoch of the lower 47 bits of `seed`; the caller's randomness or a broker's identity.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed & ((1 << 47) - 1))
    }
}

/// A point in a channel's log: everything up to `offset` lies behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Position {
    /// The log's life.
    pub epoch: Epoch,
    /// Offset of the last entry behind this point; not dense, 0 before the first.
    pub offset: u64,
}

impl Position {
    /// The cursor of this position in `channel`.
    #[must_use]
    pub fn cursor(self, channel: &ChannelName) -> Cursor {
        Cursor { position: self, tag: channel.tag() }
    }

    /// The offset, as what is known of a log in `epoch`: 0, which is nothing, if that is another one.
    #[must_use]
    pub fn offset_in(self, epoch: Epoch) -> u64 {
        if self.epoch == epoch { self.offset } else { 0 }
    }
}

/// A position together with the tag of the channel it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cursor {
    /// Where.
    pub position: Position,
    /// [`ChannelName::tag`] of its channel.
    pub tag: u64,
}

impl Cursor {
    /// Reads one cursor.
    ///
    /// # Errors
    ///
    /// [`CursorError::Malformed`] for what no version of ours ever made.
    pub fn parse(text: &str) -> Result<Self, CursorError> {
        let bytes: &[u8; CURSOR_BYTES] =
            text.as_bytes().try_into().map_err(|_| CursorError::Malformed(excerpt(text)))?;
        let field = |from: usize, to: usize| {
            bytes.iter().take(to).skip(from).try_fold(0_u128, |value, byte| {
                let digit = digit(*byte)?;
                Some(value << 6 | u128::from(digit))
            })
        };
        let fields = (field(0, 8), field(8, 14), field(14, 25));
        let (Some(epoch), Some(tag), Some(offset)) = fields else {
            return Err(CursorError::Malformed(excerpt(text)));
        };
        let (Ok(epoch), Ok(tag), Ok(offset)) =
            (u64::try_from(epoch), u64::try_from(tag), u64::try_from(offset))
        else {
            return Err(CursorError::Malformed(excerpt(text)));
        };
        if epoch >> 47 != 0 {
            return Err(CursorError::Malformed(excerpt(text)));
        }
        Ok(Self { position: Position { epoch: Epoch(epoch), offset }, tag })
    }

    /// Whether this is a cursor of `channel`.
    #[must_use]
    pub fn is_of(&self, channel: &ChannelName) -> bool {
        self.tag == channel.tag()
    }

    /// The text, without an allocation.
    #[must_use]
    pub fn encode(&self) -> [u8; CURSOR_BYTES] {
        let mut out = [b'-'; CURSOR_BYTES];
        let (epoch, rest) = out.split_at_mut(8);
        let (tag, offset) = rest.split_at_mut(6);
        for (field, value) in
            [(epoch, self.position.epoch.0), (tag, self.tag), (offset, self.position.offset)]
        {
            let mut value = value;
            for slot in field.iter_mut().rev() {
                *slot = letter(value);
                value >>= 6;
            }
        }
        out
    }

    /// Appends the text to `out`.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.encode());
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.encode().iter().try_for_each(|byte| fmt::Write::write_char(f, char::from(*byte)))
    }
}

/// Where to begin in one channel (CONTRACT 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// After a cursor.
    After(Cursor),
    /// With the newest so many.
    Last(u32),
    /// With what is published from now on.
    Now,
    /// With the oldest that is kept.
    Start,
}

/// Reads cursors joined by `.` and matches them to `channels` by tag, not by place.
///
/// The answer has a slot per channel: `None` where no cursor was given.
///
/// # Errors
///
/// [`CursorError`]: malformed, of a channel that is not asked for, or two for one channel.
pub fn parse_joined(
    text: &str,
    channels: &[ChannelName],
) -> Result<Vec<Option<Cursor>>, CursorError> {
    if text.split('.').nth(CHANNELS_MAX).is_some() {
        return Err(CursorError::TooMany);
    }
    let mut matched = vec![None; channels.len()];
    for part in text.split('.') {
        let cursor = Cursor::parse(part)?;
        let mut of =
            channels.iter().zip(matched.iter_mut()).filter(|(channel, _)| cursor.is_of(channel));
        match (of.next(), of.next()) {
            (Some((_, slot @ None)), None) => *slot = Some(cursor),
            (Some(_), _) => return Err(CursorError::Ambiguous(excerpt(part))),
            (None, _) => return Err(CursorError::Foreign(excerpt(part))),
        }
    }
    Ok(matched)
}

/// Why a cursor was refused; the caller's fault. What is well formed but unknown is a gap instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CursorError {
    /// Two cursors for one channel.
    #[error("cursor {0:?} is the second one for its channel; give one for each")]
    Ambiguous(String),
    /// The tag fits no channel of the request.
    #[error("cursor {0:?} belongs to another channel; a cursor is good only where it was given")]
    Foreign(String),
    /// Not 25 bytes of the alphabet.
    #[error("cursor {0:?} is malformed; use one as it was given, or \"start\" or \"now\"")]
    Malformed(String),
    /// More than [`CHANNELS_MAX`].
    #[error("more than 100 cursors are joined; a request has at most 100 channels")]
    TooMany,
}

/// What of a bad cursor is worth repeating to who sent it.
fn excerpt(text: &str) -> String {
    text.chars().take(CURSOR_BYTES_MAX).collect()
}

fn letter(value: u64) -> u8 {
    // Six bits always index the alphabet.
    ALPHABET.get((value & 63) as usize).copied().unwrap_or(b'-')
}

fn digit(byte: u8) -> Option<u8> {
    match byte {
        b'-' => Some(0),
        b'0'..=b'9' => Some(byte - b'0' + 1),
        b'A'..=b'Z' => Some(byte - b'A' + 11),
        b'_' => Some(37),
        b'a'..=b'z' => Some(byte - b'a' + 38),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cursor(epoch: u64, channel: &str, offset: u64) -> Cursor {
        let channel = ChannelName::parse(channel).unwrap();
        Position { epoch: Epoch::new(epoch), offset }.cursor(&channel)
    }

    #[test]
    fn an_offset_says_nothing_of_another_epoch() {
        let at = Position { epoch: Epoch::new(1), offset: 7 };
        assert_eq!((at.offset_in(Epoch::new(1)), at.offset_in(Epoch::new(2))), (7, 0));
    }

    #[test]
    fn text_and_value_are_one() {
        for epoch in [0, 1, 0x1234_5678_9ABC, u64::MAX] {
            for offset in [0, 1, 63, 64, u64::from(u32::MAX), u64::MAX] {
                let cursor = cursor(epoch, "prices", offset);
                let text = cursor.to_string();
                assert_eq!(Cursor::parse(&text), Ok(cursor));
                assert!(!text.starts_with(|c: char| c.is_ascii_lowercase()), "{text}");
            }
        }
    }

    #[test]
    fn byte_order_is_log_order() {
        let mut offset = 0_u64;
        for step in [1, 62, 1, 1, 4000, 1 << 20, 1 << 40, 1 << 63] {
            let (low, high) = (cursor(7, "a", offset), cursor(7, "a", offset + step));
            assert!(low.to_string() < high.to_string());
            offset += step;
        }
    }

    #[test]
    fn what_we_never_made_is_malformed() {
        let good = cursor(7, "a", 9).to_string();
        for cut in 0..good.len() {
            assert!(matches!(Cursor::parse(&good[..cut]), Err(CursorError::Malformed(_))));
        }
        for at in 0..good.len() {
            let mut bad = good.clone().into_bytes();
            bad[at] = b'!';
            assert!(Cursor::parse(std::str::from_utf8(&bad).unwrap()).is_err());
        }
        // An offset of 66 bits, and an epoch of 48.
        assert!(Cursor::parse(&format!("--------------{}", "z".repeat(11))).is_err());
        assert!(Cursor::parse(&format!("z{}", "-".repeat(24))).is_err());
    }

    #[test]
    fn joined_cursors_find_their_channels_by_tag() {
        let names = ["a", "b", "c"].map(|it| ChannelName::parse(it).unwrap());
        let (a, b) = (cursor(1, "a", 5), cursor(1, "b", 6));
        assert_eq!(parse_joined(&format!("{b}.{a}"), &names), Ok(vec![Some(a), Some(b), None]));
        let twice = parse_joined(&format!("{a}.{a}"), &names);
        assert!(matches!(twice, Err(CursorError::Ambiguous(_))));
        let foreign = parse_joined(&cursor(1, "d", 1).to_string(), &names);
        assert!(matches!(foreign, Err(CursorError::Foreign(_))));
        let many = vec![a.to_string(); 101].join(".");
        assert_eq!(parse_joined(&many, &names), Err(CursorError::TooMany));
    }
}
