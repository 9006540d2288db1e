//! Times as text: RFC 3339, UTC, milliseconds (CONTRACT 2), without an allocation or a clock.

use crate::entry::Timestamp;

/// Length of [`Timestamp::rfc3339`], in bytes.
pub const RFC3339_BYTES: usize = 24;

/// The last moment that four digits of a year can name, in milliseconds.
const LAST: u64 = 253_402_300_799_999;

impl Timestamp {
    /// The moment so many milliseconds after 1970-01-01T00:00:00Z.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis.saturating_mul(1000))
    }

    /// How long after `earlier` it is, in microseconds; 0 where clocks disagree.
    #[must_use]
    pub const fn micros_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// `2026-11-21T10:00:00.000Z`. Later than the year 9999 is written as its last millisecond.
    #[must_use]
    pub fn rfc3339(self) -> [u8; RFC3339_BYTES] {
        let millis = (self.0 / 1000).min(LAST);
        let (days, of_day) = (millis / 86_400_000, millis % 86_400_000);
        let (year, month, day) = civil(days);
        let mut out = *b"0000-00-00T00:00:00.000Z";
        let mut put = |digits: std::ops::Range<usize>, mut value: u64| {
            for slot in out.get_mut(digits).into_iter().flatten().rev() {
                *slot = DIGITS.get((value % 10) as usize).copied().unwrap_or(b'0');
                value /= 10;
            }
        };
        put(0..4, year);
        put(5..7, month);
        put(8..10, day);
        put(11..13, of_day / 3_600_000);
        put(14..16, of_day / 60_000 % 60);
        put(17..19, of_day / 1000 % 60);
        put(20..23, of_day % 1000);
        out
    }

    /// Appends [`Timestamp::rfc3339`] to `out`.
    pub fn write_rfc3339(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.rfc3339());
    }
}

const DIGITS: &[u8; 10] = b"0123456789";

/// Year, month and day of the Gregorian calendar, `days` after 1970-01-01.
///
/// Years are counted from March, so that the leap day is a year's last, and in cycles of 400 years
/// (146,097 days), within which the calendar repeats.
fn civil(days: u64) -> (u64, u64, u64) {
    /// Days from 0000-03-01 to 1970-01-01.
    const SHIFT: u64 = 719_468;
    let days = days + SHIFT;
    let (cycle, day) = (days / 146_097, days % 146_097);
    // A leap day every 4 years (1,461 days), none at 3 of 4 centuries (36,524 days).
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    // Months from March have 31, 30, 31, 30, 31 days, again and again: 153 days in five.
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (cycle * 400 + year + carry, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(millis: u64, expect: &str) {
        assert_eq!(std::str::from_utf8(&Timestamp::from_millis(millis).rfc3339()), Ok(expect));
    }

    #[test]
    fn known_moments_are_written_as_everyone_writes_them() {
        check(0, "1970-01-01T00:00:00.000Z");
        check(999, "1970-01-01T00:00:00.999Z");
        check(86_399_999, "1970-01-01T23:59:59.999Z");
        check(1_000_000_000_000, "2001-09-09T01:46:40.000Z");
        check(1_234_567_890_123, "2009-02-13T23:31:30.123Z");
        check(2_147_483_648_000, "2038-01-19T03:14:08.000Z");
    }

    #[test]
    fn leap_years_are_those_of_the_calendar() {
        check(951_782_400_000, "2000-02-29T00:00:00.000Z");
        check(951_868_800_000, "2000-03-01T00:00:00.000Z");
        check(68_169_600_000, "1972-02-29T00:00:00.000Z");
        check(1_709_164_800_000, "2024-02-29T00:00:00.000Z");
        check(1_677_628_800_000, "2023-03-01T00:00:00.000Z");
        // 2100 is none.
        check(4_107_456_000_000, "2100-02-28T00:00:00.000Z");
        check(4_107_542_400_000, "2100-03-01T00:00:00.000Z");
        check(4_102_444_799_999, "2099-12-31T23:59:59.999Z");
    }

    #[test]
    fn every_day_follows_the_one_before() {
        let days_of = |year: u64, month: u64| match month {
            2 if year.is_multiple_of(4)
                && (!year.is_multiple_of(100) || year.is_multiple_of(400)) =>
            {
                29
            }
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        let (mut year, mut month, mut day) = (1970, 1, 1);
        for days in 0..400 * 366 {
            assert_eq!(civil(days), (year, month, day));
            day += 1;
            if day > days_of(year, month) {
                (day, month) = (1, month + 1);
            }
            if month > 12 {
                (month, year) = (1, year + 1);
            }
        }
    }

    #[test]
    fn the_year_keeps_its_four_digits() {
        check(LAST, "9999-12-31T23:59:59.999Z");
        check(u64::MAX, "9999-12-31T23:59:59.999Z");
    }
}
