//! What a run came to, for people and for scripts.

use std::io::{self, Write as _};
use std::time::Duration;

use serde::{Serialize, Serializer};
use serde_json::Value;
use tidegate_client::Url;

use super::load::{Echo, End, Fanout, Idle, Latency, Load, Memory, Outcome, Pace, Publish, Way};

/// What is said of a run: members of a JSON object in their order, and lines for people.
#[derive(Debug)]
pub(super) struct Report {
    members: Vec<(String, Value)>,
    lines: Vec<(&'static str, String)>,
}

impl Report {
    pub(super) fn new(url: &Url, load: &Load, outcome: &Outcome) -> Self {
        let mut report = Self { members: Vec::new(), lines: Vec::new() };
        let name = match load {
            Load::Fanout(_) => "fanout",
            Load::Echo(_) => "echo",
            Load::Idle(_) => "idle",
            Load::Publish(_) => "publish",
        };
        report.set("bench", name);
        report.set("url", url.to_string());
        report.line("gateway", url.to_string());
        match load {
            Load::Fanout(it) => report.fanout(it, outcome),
            Load::Echo(it) => report.echo(it, outcome),
            Load::Idle(it) => report.idle(it, outcome),
            Load::Publish(it) => report.publish(it, outcome),
        }
        report.generator(outcome);
        report
    }

    fn fanout(&mut self, run: &Fanout, outcome: &Outcome) {
        let ((pace, number), unit) = match run.pace {
            Pace::InFlight(number) => (("in_flight", number), "in flight"),
            Pace::PerSecond(number) => (("rate_per_second", number), "a second"),
        };
        let (wire, counts) = (run.wire.as_str(), &outcome.counts);
        self.set("wire", wire);
        self.set("subscribers", run.subscribers);
        self.set(pace, number);
        self.set("size_bytes", run.size);
        let subscribers = grouped(run.subscribers);
        let (number, size) = (grouped(number), bytes(run.size as u64));
        self.line(
            "load",
            format!("{subscribers} subscribers by {wire}; {number} {unit} of {size}"),
        );
        self.ended(outcome);
        self.rate("publications", counts.publications, outcome.took);
        self.rate("deliveries", counts.messages, outcome.took);
        self.times("latency", "latency", &outcome.latency);
        self.checked(outcome);
        self.set("gaps", counts.gaps);
        self.set("received_bytes", counts.received_bytes);
        let each = counts.received_bytes as f64 / counts.messages.max(1) as f64;
        self.set("received_bytes_per_delivery", tenths(each));
        let all = bytes(counts.received_bytes);
        self.line("received", format!("{all}, {each:.1} bytes a delivery"));
    }

    fn echo(&mut self, run: &Echo, outcome: &Outcome) {
        let counts = &outcome.counts;
        self.set("connections", run.connections);
        self.set("in_flight", run.in_flight);
        self.set("size_bytes", run.size);
        let (connections, in_flight) = (grouped(run.connections), grouped(run.in_flight));
        let size = bytes(run.size as u64);
        self.line(
            "load",
            format!("{connections} connections; {in_flight} in flight each of {size}"),
        );
        self.ended(outcome);
        self.rate("messages", counts.messages, outcome.took);
        self.times("round_trip", "round trip", &outcome.latency);
        self.checked(outcome);
        self.set("gaps", counts.gaps);
        self.set("received_bytes", counts.received_bytes);
    }

    fn idle(&mut self, run: &Idle, outcome: &Outcome) {
        let (wire, counts) = (run.wire.as_str(), &outcome.counts);
        self.set("wire", wire);
        self.set("connections", run.connections);
        self.set("rate_per_second", run.rate);
        let (connections, rate) = (grouped(run.connections), grouped(run.rate));
        self.line("load", format!("{connections} connections by {wire}; {rate} a second"));
        self.ended(outcome);
        let stayed = counts.opened.saturating_sub(counts.closed);
        self.set("opened", counts.opened);
        self.set("refused", counts.refused);
        self.set("closed", counts.closed);
        self.set("stayed", stayed);
        let (opened, stayed) = (grouped(counts.opened), grouped(stayed));
        let refused = grouped(counts.refused);
        self.line("connections", format!("{opened} opened, {refused} refused, {stayed} stayed"));
        self.times("connect", "connect", &outcome.latency);
        self.set("pings_answered", counts.pongs);
        self.line("pings", format!("{} answered", grouped(counts.pongs)));
        if let Some(Memory { before, after }) = outcome.memory {
            let each = after.saturating_sub(before) as f64 / counts.opened.max(1) as f64;
            self.set("server_memory_before_bytes", before);
            self.set("server_memory_bytes", after);
            self.set("server_memory_per_connection_bytes", tenths(each));
            let (before, after) = (bytes(before), bytes(after));
            self.line("memory", format!("{before}, then {after}: {each:.0} bytes a connection"));
        } else if run.metrics.is_some() {
            self.line("memory", "the metrics don't tell it (process_resident_memory_bytes)".into());
        }
    }

    fn publish(&mut self, run: &Publish, outcome: &Outcome) {
        let publishers = grouped(run.publishers);
        self.set("publishers", run.publishers);
        self.set("stream", matches!(run.way, Way::Stream(_)));
        let way = match run.way {
            Way::Post => "by POST".to_owned(),
            Way::Stream(in_flight) => {
                self.set("in_flight", in_flight);
                format!("in a stream each, {} in flight", grouped(in_flight))
            }
        };
        self.set("size_bytes", run.size);
        let size = bytes(run.size as u64);
        self.line("load", format!("{publishers} publishers {way}, publications of {size}"));
        self.ended(outcome);
        self.rate("publications", outcome.counts.publications, outcome.took);
        self.times("accepted", "accepted", &outcome.latency);
        self.set("lost", outcome.counts.lost);
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
        let shown = grouped_digits(&format!("{rate:.0}"));
        self.line(name, format!("{shown} a second ({})", grouped(number)));
    }

    /// Percentiles, in milliseconds for scripts.
    fn times(&mut self, member: &str, name: &'static str, latency: &Latency) {
        let Latency { count, p50, p90, p99, max } = *latency;
        let mut words = Vec::new();
        for (which, time) in [("p50", p50), ("p90", p90), ("p99", p99), ("max", max)] {
            let millis = (count > 0).then_some(time.as_micros() as f64 / 1e3);
            self.set(&format!("{member}_{which}_ms"), millis);
            words.push(format!("{which} {}", shown(time)));
        }
        let words = if count > 0 { words.join(", ") } else { "nothing was timed".into() };
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

/// A number of bytes, to three digits.
pub(super) fn bytes(number: u64) -> String {
    let mut value = number as f64;
    for unit in ["bytes", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            let digits = usize::from(unit != "bytes" && value < 100.0);
            return format!("{value:.digits$} {unit}");
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

/// `1234567` as `1,234,567`.
pub(super) fn grouped(number: u64) -> String {
    grouped_digits(&number.to_string())
}

/// The same of its digits.
pub(super) fn grouped_digits(digits: &str) -> String {
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
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
        let shown_as = [0, 100, 1024, 1 << 20, 200 << 20, 5 << 40].map(bytes);
        assert_eq!(shown_as, ["0 bytes", "100 bytes", "1.0 KiB", "1.0 MiB", "200 MiB", "5.0 TiB"]);
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
