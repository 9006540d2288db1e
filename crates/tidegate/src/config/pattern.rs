//! Patterns over channel names: segments by `.`, of which `*` is any one and a last `>` is one or
//! more (CONTRACT 2). `{sub}` is a token's affair, not a rule's, and refused here.

use std::fmt;
use std::str::FromStr;

/// Which channels a rule is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// As written, and legal.
    text: Box<str>,
}

impl Pattern {
    /// `>`, which matches every channel.
    #[must_use]
    pub fn everything() -> Self {
        Self { text: ">".into() }
    }

    /// Whether `name`, a legal channel name, is one of these channels.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        let mut names = name.split('.');
        for pattern in self.text.split('.') {
            let Some(segment) = names.next() else { return false };
            match pattern {
                ">" => return true,
                "*" => {}
                literal if literal == segment => {}
                _ => return false,
            }
        }
        names.next().is_none()
    }
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        if text.len() > 255 {
            return Err(PatternError::TooLong(text.len()));
        }
        let mut segments = text.split('.').peekable();
        while let Some(segment) = segments.next() {
            let is_last = segments.peek().is_none();
            match segment {
                "" => return Err(PatternError::EmptySegment),
                "*" => {}
                ">" if is_last => {}
                ">" => return Err(PatternError::RestNotLast),
                _ => {
                    if let Some(found) = segment.chars().find(|&it| !is_segment_char(it)) {
                        return Err(PatternError::Char(found));
                    }
                }
            }
        }
        Ok(Self { text: text.into() })
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Why a text is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// A character that no channel name has, or a wildcard that is only a part of its segment.
    #[error("{0:?} can't be part of a segment")]
    Char(char),
    /// Nothing between two dots, before the first or after the last.
    #[error("a segment is empty")]
    EmptySegment,
    /// `>` before the last segment.
    #[error("\">\" is not the last segment")]
    RestNotLast,
    /// More bytes than a channel name may have.
    #[error("{0} bytes are more than 255")]
    TooLong(usize),
}

fn is_segment_char(it: char) -> bool {
    it.is_ascii_alphanumeric() || matches!(it, '_' | '-' | ':' | '~' | '@')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pattern: &str, matching: &[&str], other: &[&str]) {
        let pattern: Pattern = pattern.parse().unwrap();
        for name in matching {
            assert!(pattern.matches(name), "{pattern} should match {name}");
        }
        for name in other {
            assert!(!pattern.matches(name), "{pattern} should not match {name}");
        }
    }

    #[track_caller]
    fn check_refused(pattern: &str, expect: PatternError) {
        assert_eq!(pattern.parse::<Pattern>(), Err(expect));
    }

    #[test]
    fn a_literal_matches_itself_alone() {
        check("prices", &["prices"], &["price", "prices2", "Prices", "prices.eur", "a.prices"]);
        check("a.b-c:d~e@f_g", &["a.b-c:d~e@f_g"], &["a", "a.b"]);
    }

    #[test]
    fn a_star_is_exactly_one_segment() {
        check("a.*", &["a.b", "a.-"], &["a", "a.b.c", "b.b"]);
        check("*", &["a"], &["a.b"]);
        check("*.b.*", &["a.b.c"], &["a.b", "b.c", "a.c.c", "a.b.c.d"]);
    }

    #[test]
    fn a_rest_is_one_segment_or_more() {
        check(">", &["a", "a.b", "a.b.c"], &[]);
        check("prices.>", &["prices.eur", "prices.eur.usd"], &["prices", "pricesx.eur"]);
        check("*.>", &["a.b", "a.b.c"], &["a"]);
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        check_refused("", PatternError::EmptySegment);
        check_refused("a..b", PatternError::EmptySegment);
        check_refused(".a", PatternError::EmptySegment);
        check_refused("a.", PatternError::EmptySegment);
        check_refused("a.>.b", PatternError::RestNotLast);
        check_refused("a*", PatternError::Char('*'));
        check_refused("a.>>", PatternError::Char('>'));
        check_refused("{sub}", PatternError::Char('{'));
        check_refused("a b", PatternError::Char(' '));
        check_refused("é", PatternError::Char('é'));
        check_refused(&"a".repeat(256), PatternError::TooLong(256));
    }
}
