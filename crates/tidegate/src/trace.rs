//! Logs: one line an event on standard error, for people or as JSON, times as CONTRACT 2 has them.

use std::fmt;
use std::io::{self, IsTerminal as _};

use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};

use crate::config::{LogConfig, LogFormat};

/// Sends every event of this process to standard error from now on. Once per process; a second
/// call changes nothing.
pub fn init(log: &LogConfig) {
    let is_terminal = io::stderr().is_terminal();
    let is_json = match log.format {
        LogFormat::Auto => !is_terminal,
        LogFormat::Pretty => false,
        LogFormat::Json => true,
    };
    let builder = tracing_subscriber::fmt()
        .with_max_level(log.level)
        .with_timer(Milliseconds)
        .with_writer(io::stderr);
    // An error means that somebody, a test or an embedder, was first: theirs stays.
    let _ = if is_json {
        builder.json().flatten_event(true).try_init()
    } else {
        // It knows NO_COLOR, CLICOLOR and TERM, as the command's other output does.
        let choice = anstream::AutoStream::choice(&io::stderr());
        builder.with_ansi(choice != anstream::ColorChoice::Never).try_init()
    };
}

/// RFC 3339 in UTC, to the millisecond.
struct Milliseconds;

impl FormatTime for Milliseconds {
    fn format_time(&self, w: &mut Writer<'_>) -> fmt::Result {
        let mut micros = String::new();
        SystemTime.format_time(&mut Writer::new(&mut micros))?;
        w.write_str(&to_millis(&micros))
    }
}

/// Cuts `…05.678901Z` to `…05.678Z`.
fn to_millis(micros: &str) -> String {
    match micros.split_once('.') {
        Some((seconds, fraction)) => format!("{seconds}.{}Z", fraction.get(..3).unwrap_or("000")),
        None => micros.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339_with_milliseconds() {
        assert_eq!(to_millis("2026-11-22T01:02:03.456789Z"), "2026-11-22T01:02:03.456Z");
        let mut now = String::new();
        Milliseconds.format_time(&mut Writer::new(&mut now)).unwrap();
        let shape: String =
            now.chars().map(|it| if it.is_ascii_digit() { '0' } else { it }).collect();
        assert_eq!(shape, "0000-00-00T00:00:00.000Z");
    }
}
