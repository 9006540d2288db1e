//! What a run came to, for people and for scripts.

use std::io::{self, Write as _};
use std::time::Duration;

use serde::{Serialize, Serializer};
use serde_json::Value;
use tidegate_client::Url;

use super::load::{End, Fanout, Latency, Outcome, Pace};

/// What is said of a run: members of a JSON object in their order, and lines for people.
#[derive(Debug)]
pub(super) struct Report {
    members: Vec<(String, Value)>,
    lines: Vec<(&'static str, String)>,
}

impl Report {
    pub(super) fn fanout(url: &Url, run: &Fanout, outcome: &Outcome) -> Self {
        let mut report = Self::new("fanout", url);
        let (pace, unit) = match run.pace {
            Pace::InFlight(number) => (("in_flight", number), "in flight"),
            Pace::PerSecond(number) => (("rate_per_second", number), "a second"),
        };
        report.set("wire", run.wire.as_str());
        report.set("subscribers", run.subscribers);
        report.set(pace.0, pace.1);
        report.set("size_bytes", run.size);
        let what = format!(
            "{} subscribers by {}, {} publications of {} bytes {unit}",
            grouped(run.subscribers),
            run.wire.as_str(),
            grouped(pace.1),
            grouped(run.size as u64),
        );
        report.line("load", what);
        report.ended(outcome);
        let counts = &outcome.counts;
        report.rate("publications", counts.publications, outcome.took);
        report.rate("deliveries", counts.messages, outcome.took);
        report.latency("latency", &outcome.latency);
        report.checked(outcome);
        report.set("gaps", counts.gaps);
        report.set("received_bytes", counts.received_bytes);
        let each = per(counts.received_bytes, counts.messages);
        report.set("received_bytes_per_delivery", each);
        report.line("received", format!("{each:.1} bytes per delivery"));
        report.generator(outcome);
        report
    }

    fn new(bench: &'static str, url: &Url) -> Self {
        let mut report = Self { members: Vec::new(), lines: Vec::new() };
        report.set("bench", bench);
        report.set("url", url.to_string());
        report.line("gateway", url.to_string());
        report
    }

    fn set(&mut self, name: &str, value: impl Into<Value>) {
        self.members.push((name.to_owned(), value.into()));
    }

    fn line(&mut self, name: &'static str, value: String) {
        self.lines.push((name, value));
    }

    fn ended(&mut self, outcome: &Outcome) {
        let (word, words) = match outcome.end {
            End::Duration => ("duration", ""),
            End::Interrupted => ("interrupted", ", interrupted"),
            End::Failed(_) => ("failed", ", failed"),
        };
        self.set("ended", word);
        self.set("took_seconds", outcome.took.as_secs_f64());
        self.line("took", format!("{:.1} s{words}", outcome.took.as_secs_f64()));
    }

    /// A number, and how many of them a second.
    fn rate(&mut self, name: &'static str, number: u64, took: Duration) {
        let rate = number as f64 / took.as_secs_f64().max(1e-9);
        self.set(name, number);
        self.set(&format!("{name}_per_second"), tenths(rate));
        self.line(name, format!("{} a second ({})", grouped(rate.round() as u64), grouped(number)));
    }

    fn latency(&mut self, name: &'static str, latency: &Latency) {
        let times = [
            ("p50", latency.p50),
            ("p90", latency.p90),
            ("p99", latency.p99),
            ("max", latency.max),
        ];
        let mut words = Vec::new();
        for (which, time) in times {
            let millis = (latency.count > 0).then_some(time.as_micros() as f64 / 1e3);
            self.set(&format!("{name}_{which}_ms"), millis);
            words.push(format!("{which} {}", shown(time)));
        }
        let words = if latency.count > 0 { words.join(", ") } else { "nothing was timed".into() };
        self.line(name, words);
    }

    fn checked(&mut self, outcome: &Outcome) {
        let counts = &outcome.counts;
        self.set("lost", counts.lost);
        self.set("duplicates", counts.duplicates);
        let (lost, twice) = (grouped(counts.lost), grouped(counts.duplicates));
        self.line("checked", format!("{lost} lost, {twice} came twice"));
    }

    fn generator(&mut self, outcome: &Outcome) {
        let Some(cpu) = outcome.cpu else { return };
        self.set("generator_cpu_seconds", cpu.as_secs_f64());
        let share = cpu.as_secs_f64() / outcome.took.as_secs_f64().max(1e-9);
        let mut words = format!("{:.0} % of a core", share * 100.0);
        if share > BUSY {
            words.push_str("; the figures may be its own, and not the gateway's");
        }
        self.line("generator CPU", words);
    }

    /// Prints it on standard output.
    pub(super) fn print(&self, is_json: bool) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if is_json {
            serde_json::to_writer(&mut out, self)?;
            return writeln!(out);
        }
        for (name, value) in &self.lines {
            writeln!(out, "{name:<14} {value}")?;
        }
        Ok(())
    }
}

impl Serialize for Report {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.members.iter().map(|(name, value)| (name, value)))
    }
}

/// From here on one thread has no time left.
const BUSY: f64 = 0.9;

fn tenths(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}

fn per(number: u64, of: u64) -> f64 {
    if of == 0 { 0.0 } else { number as f64 / of as f64 }
}

/// `1234567` as `1,234,567`.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A time to three digits, in the unit that fits.
pub(super) fn shown(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    let (value, unit) = match seconds {
        it if it >= 1.0 => (it, "s"),
        it if it >= 1e-3 => (it * 1e3, "ms"),
        it => (it * 1e6, "µs"),
    };
    let digits = if value >= 100.0 {
        0
    } else if value >= 10.0 {
        1
    } else {
        2
    };
    format!("{value:.digits$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_times_are_shown_as_people_read_them() {
        let shown_as = [0, 12, 123, 1234, 123_456, 1_234_567].map(grouped);
        assert_eq!(shown_as, ["0", "12", "123", "1,234", "123,456", "1,234,567"]);
        for (micros, expect) in [
            (7, "7.00 µs"),
            (123, "123 µs"),
            (1234, "1.23 ms"),
            (45_678, "45.7 ms"),
            (1_500_000, "1.50 s"),
        ] {
            assert_eq!(shown(Duration::from_micros(micros)), expect);
        }
    }
}
