//! Channel names (CONTRACT 2): what is legal, and the stable hash that places a channel.
//!
//! The hash is part of what clients hold (its upper bits are the tag inside every cursor) and of
//! what brokers store (its lower bits pick the bucket), so it never changes. It is not keyed: maps
//! over names that peers choose use the standard, seeded hasher on the name instead.

use std::fmt;
use std::sync::Arc;

/// Buckets that channels are spread over; a bucket has one sequence of offsets (DESIGN 7).
pub const BUCKETS: usize = 4096;

/// Longest legal name, in bytes.
pub const NAME_BYTES_MAX: usize = 255;

/// Most channels in one URL or one joined cursor.
pub const CHANNELS_MAX: usize = 100;

/// A legal channel name: 1–255 bytes of `A-Z a-z 0-9 _ - . : ~ @`, no segment empty.
///
/// Cloning shares the text.
#[derive(Clone)]
pub struct ChannelName {
    name: Arc<str>,
    hash: u64,
}

impl ChannelName {
    /// Checks `name` and takes it.
    ///
    /// # Errors
    ///
    /// [`ChannelNameError`], which says what is wrong and where.
    pub fn parse(name: &str) -> Result<Self, ChannelNameError> {
        if name.is_empty() {
            return Err(ChannelNameError::Empty);
        }
        if name.len() > NAME_BYTES_MAX {
            return Err(ChannelNameError::TooLong(name.len()));
        }
        if let Some((at, found)) = name.char_indices().find(|(_, c)| !is_legal(*c)) {
            return Err(match found {
                '*' | '>' => ChannelNameError::Pattern,
                _ => ChannelNameError::Character { found, at },
            });
        }
        if name.split('.').any(str::is_empty) {
            return Err(ChannelNameError::EmptySegment);
        }
        Ok(Self { name: name.into(), hash: stable_hash(name.as_bytes()) })
    }

    /// The name as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.name
    }

    /// Which of the [`BUCKETS`] this channel lives in.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "below BUCKETS")]
    pub fn bucket(&self) -> usize {
        (self.hash % BUCKETS as u64) as usize
    }

    /// 36 bits of the name's hash, which every cursor of this channel carries.
    #[must_use]
    pub fn tag(&self) -> u64 {
        self.hash >> 28
    }
}

impl PartialEq for ChannelName {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash && self.name == other.name
    }
}

impl Eq for ChannelName {}

impl std::hash::Hash for ChannelName {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl PartialOrd for ChannelName {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ChannelName {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.name.cmp(&other.name)
    }
}

impl std::borrow::Borrow<str> for ChannelName {
    fn borrow(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for ChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl fmt::Debug for ChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.name, f)
    }
}

/// Why a channel name was refused; the caller's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChannelNameError {
    /// A byte outside the alphabet.
    #[error("channel name has {found:?} at byte {at}; allowed are A-Z a-z 0-9 _ - . : ~ @")]
    Character {
        /// The first offending character.
        found: char,
        /// Where it is, in bytes.
        at: usize,
    },
    /// Nothing at all.
    #[error("channel name is empty; 1 to 255 bytes of A-Z a-z 0-9 _ - . : ~ @ are allowed")]
    Empty,
    /// Two dots in a row, or one at an end.
    #[error("channel name has an empty segment; dots separate segments of at least one byte")]
    EmptySegment,
    /// A pattern where a channel is due.
    #[error("a pattern (* or >) stands where one channel is due; name the channels, joined by ','")]
    Pattern,
    /// Over [`NAME_BYTES_MAX`].
    #[error("channel name has {0} bytes; at most 255 are allowed")]
    TooLong(usize),
}

fn is_legal(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | ':' | '~' | '@')
}

/// FNV-1a, then a finaliser that spreads its entropy over all 64 bits.
fn stable_hash(bytes: &[u8]) -> u64 {
    let mut hash = 0xCBF2_9CE4_8422_2325_u64;
    for byte in bytes {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3);
    }
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xFF51_AFD7_ED55_8CCD);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xC4CE_B9FE_1A85_EC53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, expect: Result<(), ChannelNameError>) {
        assert_eq!(ChannelName::parse(name).map(|it| assert_eq!(it.as_str(), name)), expect);
    }

    #[test]
    fn names_are_of_the_contracts_alphabet() {
        check("prices", Ok(()));
        check("a.B-9_:~@", Ok(()));
        check(&"x".repeat(255), Ok(()));
        check("", Err(ChannelNameError::Empty));
        check(&"x".repeat(256), Err(ChannelNameError::TooLong(256)));
        check("a/b", Err(ChannelNameError::Character { found: '/', at: 1 }));
        check("prïces", Err(ChannelNameError::Character { found: 'ï', at: 2 }));
        check("a\0", Err(ChannelNameError::Character { found: '\0', at: 1 }));
    }

    #[test]
    fn segments_are_never_empty() {
        for name in [".", "..", "a..b", ".a", "a."] {
            check(name, Err(ChannelNameError::EmptySegment));
        }
    }

    #[test]
    fn patterns_are_not_channels() {
        check("prices.*", Err(ChannelNameError::Pattern));
        check(">", Err(ChannelNameError::Pattern));
    }

    #[test]
    fn the_hash_never_changes() {
        let prices = ChannelName::parse("prices").unwrap();
        assert_eq!((prices.bucket(), prices.tag()), (HASH_OF_PRICES.0, HASH_OF_PRICES.1));
    }

    /// Clients hold cursors with this tag: a change here breaks every one of them.
    const HASH_OF_PRICES: (usize, u64) = (1975, 15_318_212_406);
}
