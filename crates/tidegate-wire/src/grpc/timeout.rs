//! `grpc-timeout`: how long a client waits (the specification's Timeout).

use std::time::Duration;

/// Largest value that the digits can say.
const VALUE_MAX: u128 = 99_999_999;

/// Units from the finest, each with its nanoseconds.
const UNITS: [(u8, u128); 6] = [
    (b'n', 1),
    (b'u', 1_000),
    (b'm', 1_000_000),
    (b'S', 1_000_000_000),
    (b'M', 60_000_000_000),
    (b'H', 3_600_000_000_000),
];

/// What the value of a `grpc-timeout` says: one to eight digits and a unit. 0, which the
/// specification does not have, is a deadline that has passed.
///
/// # Errors
///
/// [`InvalidTimeout`] for anything else.
pub fn parse(value: &[u8]) -> Result<Duration, InvalidTimeout> {
    let (unit, digits) = value.split_last().ok_or(InvalidTimeout)?;
    let (_, nanos) = UNITS.iter().find(|(it, _)| it == unit).ok_or(InvalidTimeout)?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return Err(InvalidTimeout);
    }
    let number = digits.iter().fold(0, |number, digit| number * 10 + u128::from(digit - b'0'));
    Ok(Duration::from_nanos_u128(number * nanos))
}

/// The value that says `timeout`, in the finest unit that it fits into; what that unit can't say is
/// rounded up, so that nobody gives up early. At most 99,999,999 hours.
#[must_use]
pub fn format(timeout: Duration) -> String {
    let mut best = (b'H', VALUE_MAX);
    for (unit, nanos) in UNITS.iter().rev() {
        let number = timeout.as_nanos().div_ceil(*nanos);
        if number <= VALUE_MAX {
            best = (*unit, number);
        }
    }
    format!("{}{}", best.1, char::from(best.0))
}

/// A `grpc-timeout` that is none; the peer's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("grpc-timeout is not 1 to 8 digits and one of H, M, S, m, u, n")]
pub struct InvalidTimeout;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_digits_and_a_unit() {
        for (value, timeout) in [
            ("1H", Duration::from_secs(3600)),
            ("2M", Duration::from_secs(120)),
            ("1S", Duration::from_secs(1)),
            ("100m", Duration::from_millis(100)),
            ("5u", Duration::from_micros(5)),
            ("00000007n", Duration::from_nanos(7)),
            ("0S", Duration::ZERO),
            ("99999999H", Duration::from_secs(359_999_996_400)),
        ] {
            assert_eq!(parse(value.as_bytes()), Ok(timeout), "{value}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for value in
            ["", "S", "1", "1s", "1h", "-1S", "+1S", "1.5S", " 1S", "1S ", "123456789n", "1SS"]
        {
            assert_eq!(parse(value.as_bytes()), Err(InvalidTimeout), "{value}");
        }
    }

    #[test]
    fn what_is_formatted_is_never_shorter() {
        for (timeout, value) in [
            (Duration::ZERO, "0n"),
            (Duration::from_nanos(99_999_999), "99999999n"),
            (Duration::from_nanos(100_000_000), "100000u"),
            (Duration::from_nanos(100_000_001), "100001u"),
            (Duration::from_secs(1), "1000000u"),
            (Duration::from_secs(3600), "3600000m"),
            (Duration::from_secs(99_999_999), "99999999S"),
            (Duration::from_secs(100_000_000), "1666667M"),
            (Duration::MAX, "99999999H"),
        ] {
            assert_eq!(format(timeout), value);
        }
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..1000 {
            let timeout = Duration::from_nanos(random.u64(..) >> random.u32(0..64));
            let back = parse(format(timeout).as_bytes()).unwrap();
            assert!(back >= timeout && back.as_secs_f64() <= timeout.as_secs_f64() * 1.000_02);
        }
    }
}
