//! Single values: sizes, durations, addresses, numbers, choices. Text in, a typed value out, or
//! what is wrong with it and what is allowed.
//!
//! The readers of [`Value`] serve the configuration; the `parse_` functions serve flags and queries
//! too, so that a duration means the same everywhere (CONTRACT 2).

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::Admin;
use super::raw::Value;

/// Sizes up to here are taken; what a limit of more would mean nobody can test.
pub(super) const SIZE_MAX: usize = 1 << 40;
/// Counts up to here are taken.
pub(super) const COUNT_MAX: usize = 1 << 40;
/// Threads up to here are taken.
const WORKERS_MAX: usize = 1024;
/// Durations up to here are taken, so that adding one to a clock can't overflow: 365 days.
const DURATION_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);

const ADDRESS: &str = "allowed is IP:PORT, like \"127.0.0.1:8080\" or \"[::1]:8080\"";
const SIZE: &str =
    "allowed is a whole number of bytes, alone or with KiB, MiB or GiB: 4096, \"1MiB\"";
const DURATION: &str =
    "allowed is a number of seconds, or one with ms, s, m or h, to 8760h: 30, \"250ms\", \"10m\"";

/// A duration: digits, perhaps with a fraction, then `ms`, `s`, `m` or `h`; without a unit seconds.
/// At most 365 days.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    let unit_at = text.find(|it: char| !it.is_ascii_digit() && it != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let unit_nanos: u128 = match unit {
        "ms" => 1_000_000,
        "" | "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    };
    let (whole, fraction) = match number.split_once('.') {
        Some((_, "")) => return None,
        Some(parts) => parts,
        None => (number, ""),
    };
    // More digits than these are no duration that anyone means, and fewer can't overflow below.
    if whole.is_empty() || whole.len() > 12 || fraction.len() > 9 {
        return None;
    }
    let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let fraction = if fraction.is_empty() { 0 } else { fraction.parse::<u128>().ok()? };
    let nanos = (whole.parse::<u128>().ok()? * scale + fraction) * unit_nanos / scale;
    let duration = Duration::from_nanos(u64::try_from(nanos).ok()?);
    (duration <= DURATION_MAX).then_some(duration)
}

/// A size in bytes: digits, then nothing, `B`, `KiB`, `MiB` or `GiB`.
#[must_use]
pub fn parse_size(text: &str) -> Option<usize> {
    let unit_at = text.find(|it: char| !it.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let unit: usize = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.parse::<usize>().ok()?.checked_mul(unit)
}

/// An address to listen on, `IP:PORT`.
///
/// # Errors
///
/// A sentence that says what is allowed.
pub fn parse_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("{text:?} is no address; {ADDRESS}"))
}

/// Where the admin listener is: an address, or `off`.
///
/// # Errors
///
/// A sentence that says what is allowed.
pub fn parse_admin(text: &str) -> Result<Admin, String> {
    if text == "off" {
        return Ok(Admin::Off);
    }
    let address = parse_address(text).map_err(|message| format!("{message}, or \"off\""))?;
    Ok(Admin::On(address))
}

/// How many workers.
///
/// # Errors
///
/// A sentence that says what is allowed.
pub fn parse_workers(text: &str) -> Result<NonZeroUsize, String> {
    text.parse::<NonZeroUsize>().ok().filter(|it| it.get() <= WORKERS_MAX).ok_or_else(|| {
        format!("{text:?} is no number of workers; {}", whole_allowed(&(1..=WORKERS_MAX)))
    })
}

/// A size within `range`.
pub(super) fn size(value: &Value, range: &RangeInclusive<usize>) -> Result<usize, String> {
    let text = value.as_number_or_text();
    let Some(size) = text.as_deref().and_then(parse_size) else {
        return Err(format!("{value} is no size; {SIZE}"));
    };
    if !range.contains(&size) {
        let (low, high) = (show_size(*range.start()), show_size(*range.end()));
        return Err(format!("{value} is out of range; allowed is {low} to {high}"));
    }
    Ok(size)
}

/// A size of at least one byte.
pub(super) fn some_size(value: &Value) -> Result<usize, String> {
    size(value, &(1..=SIZE_MAX))
}

/// A duration, zero allowed.
pub(super) fn duration(value: &Value) -> Result<Duration, String> {
    let text = value.as_number_or_text();
    let duration = text.as_deref().and_then(parse_duration);
    duration.ok_or_else(|| format!("{value} is no duration; {DURATION}"))
}

/// A duration of more than zero.
pub(super) fn some_duration(value: &Value) -> Result<Duration, String> {
    match duration(value)? {
        Duration::ZERO => Err(format!("{value} is too short; allowed is more than 0")),
        duration => Ok(duration),
    }
}

/// A whole number within `range`.
pub(super) fn whole(value: &Value, range: &RangeInclusive<usize>) -> Result<usize, String> {
    let number = match value {
        Value::Integer(number) => usize::try_from(*number).ok(),
        // As in the file, digits may be grouped.
        Value::Plain(text) => text.replace('_', "").parse().ok(),
        _ => None,
    };
    number
        .filter(|it| range.contains(it))
        .ok_or_else(|| format!("{value} is no such number; {}", whole_allowed(range)))
}

/// A whole number of at least one.
pub(super) fn count(value: &Value) -> Result<NonZeroUsize, String> {
    let range = 1..=COUNT_MAX;
    whole(value, &range).and_then(|it| NonZeroUsize::new(it).ok_or_else(|| whole_allowed(&range)))
}

/// The number of workers.
pub(super) fn workers(value: &Value) -> Result<NonZeroUsize, String> {
    let range = 1..=WORKERS_MAX;
    whole(value, &range).and_then(|it| NonZeroUsize::new(it).ok_or_else(|| whole_allowed(&range)))
}

/// `true` or `false`.
pub(super) fn boolean(value: &Value) -> Result<bool, String> {
    match value {
        Value::Boolean(it) => Ok(*it),
        Value::Plain(text) if text == "true" => Ok(true),
        Value::Plain(text) if text == "false" => Ok(false),
        _ => Err(format!("{value} is neither true nor false; allowed are true, false")),
    }
}

/// A text; `allowed` says of which form, should it be none.
pub(super) fn text<'a>(value: &'a Value, allowed: &str) -> Result<&'a str, String> {
    value.as_text().ok_or_else(|| format!("{value} is no text; {allowed}"))
}

/// An address to listen on.
pub(super) fn address(value: &Value) -> Result<SocketAddr, String> {
    parse_address(text(value, ADDRESS)?)
}

/// An address to listen on, or `off`.
pub(super) fn admin(value: &Value) -> Result<Admin, String> {
    parse_admin(text(value, &format!("{ADDRESS}, or \"off\""))?)
}

/// One of a few texts. Those in `later` are of a version to come.
pub(super) fn choice<T: Copy>(
    value: &Value,
    now: &[(&str, T)],
    later: &[&str],
) -> Result<T, String> {
    let names: Vec<_> = now.iter().map(|(name, _)| format!("{name:?}")).collect();
    let verb = if names.len() == 1 { "is" } else { "are" };
    let allowed = format!("allowed {verb} {}", names.join(", "));
    let text = text(value, &allowed)?;
    if later.contains(&text) {
        return Err(format!("{text:?} is not yet in this version; {allowed}"));
    }
    now.iter()
        .find(|(name, _)| *name == text)
        .map(|(_, it)| *it)
        .ok_or_else(|| format!("{text:?} is unknown; {allowed}"))
}

/// A prefix of paths: empty, or `/a/b`.
pub(super) fn prefix(value: &Value) -> Result<String, String> {
    const ALLOWED: &str = "allowed is \"\" or a path like \"/realtime\": a slash in front, none at \
                           the end, and between them A-Z a-z 0-9 - . _ ~";
    let text = text(value, ALLOWED)?;
    let is_path = text.is_empty()
        || text.strip_prefix('/').is_some_and(|rest| {
            rest.split('/').all(|segment| {
                // Clients remove dot segments before they send a path (RFC 3986 §5.2.4).
                !matches!(segment, "" | "." | "..")
                    && segment.bytes().all(|it| {
                        it.is_ascii_alphanumeric() || matches!(it, b'-' | b'.' | b'_' | b'~')
                    })
            })
        });
    if is_path { Ok(text.to_owned()) } else { Err(format!("{text:?} is no such path; {ALLOWED}")) }
}

/// An origin as browsers write it (RFC 6454 §6.1): lower case, without the scheme's own port.
/// `"*"` is left as it is.
pub(super) fn origin(value: &Value) -> Result<String, String> {
    const ALLOWED: &str =
        "allowed is \"*\", or scheme://host[:port] without a path, like \"https://app.example\"";
    let text = text(value, ALLOWED)?;
    if text == "*" {
        return Ok(text.to_owned());
    }
    normal_origin(text).ok_or_else(|| format!("{text:?} is no origin; {ALLOWED}"))
}

fn normal_origin(text: &str) -> Option<String> {
    let text = text.to_ascii_lowercase();
    let (scheme, authority) = text.split_once("://")?;
    if !scheme.starts_with(|it: char| it.is_ascii_lowercase())
        || !scheme.bytes().all(|it| it.is_ascii_alphanumeric() || b"+-.".contains(&it))
    {
        return None;
    }
    let port_at = match authority.rfind(']') {
        Some(end) => end + 1,
        None => authority.find(':').unwrap_or(authority.len()),
    };
    let (host, port) = authority.split_at_checked(port_at)?;
    let is_host = match host.strip_prefix('[').and_then(|it| it.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            !host.is_empty()
                && host.bytes().all(|it| it.is_ascii_alphanumeric() || b"-._".contains(&it))
        }
    };
    if !is_host {
        return None;
    }
    if port.is_empty() {
        return Some(text);
    }
    let digits = port.strip_prefix(':').filter(|it| it.bytes().all(|it| it.is_ascii_digit()))?;
    let number: u16 = digits.parse().ok().filter(|&it| it != 0)?;
    Some(match (scheme, number) {
        ("http" | "ws", 80) | ("https" | "wss", 443) => format!("{scheme}://{host}"),
        _ => format!("{scheme}://{host}:{number}"),
    })
}

/// A size as one would write it.
pub(super) fn show_size(bytes: usize) -> String {
    match bytes {
        0 => "0".to_owned(),
        _ if bytes.is_multiple_of(1 << 30) => format!("{}GiB", bytes >> 30),
        _ if bytes.is_multiple_of(1 << 20) => format!("{}MiB", bytes >> 20),
        _ if bytes.is_multiple_of(1 << 10) => format!("{}KiB", bytes >> 10),
        _ => format!("{bytes}B"),
    }
}

fn whole_allowed(range: &RangeInclusive<usize>) -> String {
    match *range.end() {
        COUNT_MAX => format!("allowed is a whole number from {}", range.start()),
        end => format!("allowed is a whole number from {} to {end}", range.start()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_duration(text: &str, millis: impl Into<Option<u64>>) {
        assert_eq!(parse_duration(text), millis.into().map(Duration::from_millis), "{text:?}");
    }

    #[track_caller]
    fn check_size(text: &str, bytes: impl Into<Option<usize>>) {
        assert_eq!(parse_size(text), bytes.into(), "{text:?}");
    }

    #[track_caller]
    fn check_origin(text: &str, expect: Option<&str>) {
        assert_eq!(origin(&Value::Text(text.to_owned())).ok().as_deref(), expect, "{text:?}");
    }

    #[test]
    fn a_duration_is_a_number_with_a_unit_or_of_seconds() {
        check_duration("250ms", 250);
        check_duration("25s", 25_000);
        check_duration("10m", 600_000);
        check_duration("2h", 7_200_000);
        check_duration("30", 30_000);
        check_duration("0", 0);
        check_duration("1.5s", 1500);
        check_duration("0.25", 250);
        check_duration("8760h", 31_536_000_000);
        for wrong in [
            "",
            "s",
            ".",
            "1.",
            ".5",
            "1.2.3",
            "-1",
            "+1",
            " 1",
            "1 s",
            "1S",
            "1d",
            "1e3",
            "ms",
            "8760.1h",
            "999999999999h",
            "9999999999999",
            "1.0123456789",
            "inf",
        ] {
            check_duration(wrong, None);
        }
    }

    #[test]
    fn a_size_is_a_number_with_a_unit_or_of_bytes() {
        check_size("0", 0);
        check_size("4096", 4096);
        check_size("7B", 7);
        check_size("4KiB", 4096);
        check_size("1MiB", 1 << 20);
        check_size("1GiB", 1 << 30);
        for wrong in ["", "KiB", "1K", "1KB", "1kib", "1 KiB", "1.5KiB", "-1", "1MiBs"] {
            check_size(wrong, None);
        }
        check_size("99999999999999999999", None);
        check_size("18446744073709551615KiB", None);
    }

    #[test]
    fn a_size_is_shown_as_it_would_be_written() {
        for size in ["0", "1B", "1023B", "1KiB", "1025B", "8KiB", "1MiB", "3GiB", "1024GiB"] {
            assert_eq!(show_size(parse_size(size).unwrap()), size);
        }
    }

    #[test]
    fn an_origin_is_kept_as_browsers_write_it() {
        check_origin("https://app.example", Some("https://app.example"));
        check_origin("HTTPS://App.Example:443", Some("https://app.example"));
        check_origin("http://app.example:80", Some("http://app.example"));
        check_origin("http://app.example:443", Some("http://app.example:443"));
        check_origin("http://localhost:05173", Some("http://localhost:5173"));
        check_origin("http://[::1]:3000", Some("http://[::1]:3000"));
        check_origin("https://[::1]", Some("https://[::1]"));
        check_origin("capacitor://localhost", Some("capacitor://localhost"));
        check_origin("*", Some("*"));
        for wrong in [
            "",
            "null",
            "app.example",
            "https://",
            "https://app.example/",
            "https://a/b",
            "https://u@a",
            "https://a:",
            "https://a:0",
            "https://a:65536",
            "https://a:+1",
            "https://a:1:2",
            "https://*.example",
            "https://[::1",
            "https://[x]",
            "https://[::1]a",
            "https://é",
            "1a://b",
            "://a",
            "https://a b",
        ] {
            check_origin(wrong, None);
        }
    }
}
