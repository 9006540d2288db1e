//! What the gateway counts, and how Prometheus reads it (CONTRACT 12).
//!
//! A [`WorkerMetrics`] belongs to one worker, whose thread alone writes it: a count there is a plain
//! load and store, without a locked instruction. Connections are the exception, for the acceptor
//! counts them up. [`render`] sums the workers, as OpenMetrics text; what was never counted is not
//! listed where there are many labels. Times are seconds and sizes bytes, as Prometheus has it.

use std::array;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU64, AtomicUsize};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::{Registry, Unit};
use tidegate_core::{GapReason, Policy};

use crate::gateway::Gateway;
use crate::problem::Code;
use crate::transport::Wire;

/// How the text is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `OpenMetrics` 1.0.
    OpenMetrics,
    /// The format that Prometheus had before (0.0.4), which people's eyes and older tools read.
    Prometheus,
}

impl Format {
    /// Its `Content-Type`.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// Everything that was counted, summed over the workers.
#[must_use]
pub fn render(gateway: &Gateway, format: Format) -> String {
    let text = render_workers(gateway.metrics.clone());
    match format {
        Format::OpenMetrics => text,
        Format::Prometheus => to_prometheus(&text),
    }
}

/// `OpenMetrics` text in the format before it: a counter is described under the name that its samples
/// have, and there are neither units nor an end.
fn to_prometheus(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 256);
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let (mut name, mut rest) = ("", line);
        for start in ["# HELP ", "# TYPE "] {
            if let Some(described) = line.strip_prefix(start) {
                (name, rest) = described.split_once(' ').unwrap_or((described, ""));
                out.push_str(start);
            }
        }
        if name.is_empty() {
            if !line.starts_with("# ") {
                out.push_str(line);
                out.push('\n');
            }
            continue;
        }
        // A help comes right before its type.
        let kind = if line.starts_with("# HELP ") { lines.peek().copied() } else { Some(line) };
        let is_counter = kind.is_some_and(|it| it.ends_with(" counter"));
        let suffix = if is_counter { "_total " } else { " " };
        for part in [name, suffix, rest, "\n"] {
            out.push_str(part);
        }
    }
    out
}

fn render_workers(workers: Vec<Arc<WorkerMetrics>>) -> String {
    let mut registry = Registry::with_prefix("tidegate");
    registry.register_collector(Box::new(Workers(workers)));
    let mut out = String::with_capacity(8 << 10);
    // Writing to a string can't fail.
    let _ = text::encode(&mut out, &registry);
    out
}

/// What one worker counts.
#[derive(Debug)]
pub struct WorkerMetrics {
    /// Times the hub drained its inbox; publications over turns is how well batching works.
    pub hub_turns: Counter,
    /// From when a publication was accepted to when it was written to a subscriber who was there.
    pub publish_to_write: Histogram,
    open_connections: AtomicUsize,
    tasks: AtomicUsize,
    connected: PerWire,
    disconnected: [[Counter; CODES]; Wire::ALL.len()],
    polled: PerWire,
    deliveries: Counter,
    delivery_bytes: Counter,
    publications: Counter,
    publication_bytes: Counter,
    publish_failures: [Counter; Code::ALL.len()],
    gaps: [Counter; GapReason::ALL.len()],
    overflows: [Counter; Policy::ALL.len()],
    requests: [Counter; STATUSES],
}

type PerWire = [Counter; Wire::ALL.len()];

/// Upper bounds of a [`Histogram`]'s buckets, in microseconds; what is slower is counted above them.
const BOUNDS: [u64; 16] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 5_000_000, 10_000_000,
];

/// How long something took, one thread's.
#[derive(Debug, Default)]
pub struct Histogram {
    /// What fell into each bucket, and at last what fell above them.
    buckets: [Counter; BOUNDS.len() + 1],
    micros: Counter,
}

impl Histogram {
    /// So many took so many microseconds each.
    pub fn observe(&self, micros: u64, count: u64) {
        let at = BOUNDS.partition_point(|bound| *bound < micros);
        if let Some(bucket) = self.buckets.get(at) {
            bucket.add(count);
            self.micros.add(micros.saturating_mul(count));
        }
    }
}

/// Every code of CONTRACT 7, and before them `none`.
const CODES: usize = Code::ALL.len() + 1;

/// From 100 to 599; what is neither is counted as the last one.
const STATUSES: usize = 500;

/// A number that only rises, and that one thread writes; others may read it at any time.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Counts one.
    pub fn inc(&self) {
        self.add(1);
    }

    /// Counts several.
    pub fn add(&self, several: u64) {
        // One writer: nothing can come between, so no locked instruction is needed.
        self.0.store(self.0.load(Relaxed).wrapping_add(several), Relaxed);
    }

    /// What was counted so far.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

impl Default for WorkerMetrics {
    fn default() -> Self {
        Self {
            hub_turns: Counter::default(),
            publish_to_write: Histogram::default(),
            open_connections: AtomicUsize::new(0),
            tasks: AtomicUsize::new(0),
            connected: counters(),
            disconnected: array::from_fn(|_| counters()),
            polled: counters(),
            deliveries: Counter::default(),
            delivery_bytes: Counter::default(),
            publications: Counter::default(),
            publication_bytes: Counter::default(),
            publish_failures: counters(),
            gaps: counters(),
            overflows: counters(),
            requests: counters(),
        }
    }
}

impl WorkerMetrics {
    /// A subscriber is there: a stream was opened, a long-poll waits.
    pub fn connected(&self, wire: Wire) {
        count(&self.connected, &Wire::ALL, wire);
    }

    /// A subscriber has gone, `None`: without an error.
    pub fn disconnected(&self, wire: Wire, code: Option<Code>) {
        let at = code.and_then(|code| Code::ALL.iter().position(|it| *it == code));
        let wire = Wire::ALL.iter().position(|it| *it == wire);
        let codes = wire.and_then(|wire| self.disconnected.get(wire));
        if let Some(counter) = codes.and_then(|codes| codes.get(at.map_or(0, |at| at + 1))) {
            counter.inc();
        }
    }

    /// A poll or long-poll was answered.
    pub fn polled(&self, wire: Wire) {
        count(&self.polled, &Wire::ALL, wire);
    }

    /// So many entries were written to one subscriber, in so many bytes.
    pub fn delivered(&self, entries: usize, bytes: usize) {
        self.deliveries.add(entries as u64);
        self.delivery_bytes.add(bytes as u64);
    }

    /// A subscriber was told a gap.
    pub fn gap(&self, reason: GapReason) {
        count(&self.gaps, &GapReason::ALL, reason);
    }

    /// An outbox was full.
    pub fn overflow(&self, policy: Policy) {
        count(&self.overflows, &Policy::ALL, policy);
    }

    /// The broker has accepted a publication with a payload of so many bytes.
    pub fn published(&self, bytes: usize) {
        self.publications.inc();
        self.publication_bytes.add(bytes as u64);
    }

    /// The broker has not accepted a publication.
    pub fn publish_failed(&self, code: Code) {
        count(&self.publish_failures, &Code::ALL, code);
    }

    /// An HTTP request was answered.
    pub fn requested(&self, status: u16) {
        let at = usize::from(status.saturating_sub(100)).min(STATUSES - 1);
        if let Some(counter) = self.requests.get(at) {
            counter.inc();
        }
    }

    /// The acceptor gives a connection to this worker.
    pub fn accepted(&self) {
        self.open_connections.fetch_add(1, Relaxed);
    }

    /// A connection that was accepted has gone.
    pub fn closed(&self) {
        self.open_connections.fetch_sub(1, Relaxed);
    }

    /// A task began that the worker waits for when it drains.
    pub fn task_began(&self) {
        self.tasks.fetch_add(1, Relaxed);
    }

    /// Such a task has ended.
    pub fn task_ended(&self) {
        self.tasks.fetch_sub(1, Relaxed);
    }

    /// Tasks of the worker that have not ended: of clients and of HTTP connections.
    #[must_use]
    pub fn tasks(&self) -> usize {
        self.tasks.load(Relaxed)
    }

    /// Connections that this worker has.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.open_connections.load(Relaxed)
    }
}

fn counters<const N: usize>() -> [Counter; N] {
    array::from_fn(|_| Counter::default())
}

fn count<T: Copy + PartialEq>(counters: &[Counter], all: &[T], one: T) {
    let at = all.iter().position(|it| *it == one);
    if let Some(counter) = at.and_then(|at| counters.get(at)) {
        counter.inc();
    }
}

/// The workers of a process as one source of metrics.
#[derive(Debug)]
struct Workers(Vec<Arc<WorkerMetrics>>);

impl Collector for Workers {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page { encoder, workers: &self.0 };
        page.connections()?;
        page.subscribers()?;
        page.publications()?;
        page.requests()?;
        let build = [[("version", env!("CARGO_PKG_VERSION"))]];
        page.gauge("build_info", "The gateway's version", build.map(|labels| (labels, 1)))
    }
}

/// The text while it is written, metric by metric.
struct Page<'e, 'w> {
    encoder: DescriptorEncoder<'e>,
    workers: &'w [Arc<WorkerMetrics>],
}

/// Whether a metric lists labels that were never counted: it does where they are few, for a rate
/// needs a zero to rise from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Zeros {
    Listed,
    Omitted,
}

impl<'w> Page<'_, 'w> {
    fn connections(&mut self) -> fmt::Result {
        let open: usize = self.workers.iter().map(|it| it.connections()).sum();
        self.gauge("open_connections", "Accepted connections of any kind", [([], open)])?;
        let tasks: usize = self.workers.iter().map(|it| it.tasks()).sum();
        self.gauge("tasks", "Tasks that serve connections, one each", [([], tasks)])?;

        let live = Wire::ALL.iter().enumerate().map(|(at, wire)| {
            // Gone first: a connection that comes and goes meanwhile is not counted below zero.
            let gone = self.sum_all(|it| it.disconnected.get(at).into_iter().flatten());
            let came = self.sum_all(|it| it.connected.get(at));
            ([("wire", wire.as_str())], usize::try_from(came.saturating_sub(gone)).unwrap_or(0))
        });
        let live: Vec<_> = live.collect();
        self.gauge("connections", "Live subscribers, waiting long-polls among them", live)?;

        let codes = || std::iter::once("none").chain(Code::ALL.iter().map(|it| it.as_str()));
        let mut disconnects = Vec::new();
        for (at, wire) in Wire::ALL.iter().enumerate() {
            for (nth, code) in codes().enumerate() {
                let sum = self.sum_all(|it| it.disconnected.get(at).and_then(|it| it.get(nth)));
                if sum > 0 || nth == 0 {
                    disconnects.push(([("wire", wire.as_str()), ("code", code)], sum));
                }
            }
        }
        self.counter("disconnects", "Subscribers that have gone", None, disconnects)
    }

    fn subscribers(&mut self) -> fmt::Result {
        let polls =
            self.family("wire", &Wire::ALL.map(Wire::as_str), Zeros::Listed, |it| &it.polled);
        self.counter("polls", "Polls and long-polls that were answered", None, polls)?;
        let deliveries = self.sum(|it| &it.deliveries);
        self.counter("deliveries", "Entries that were written to a subscriber", None, deliveries)?;
        let bytes = self.sum(|it| &it.delivery_bytes);
        let help = "Bytes of entries that were written to subscribers";
        self.counter("delivery", help, Some(&Unit::Bytes), bytes)?;
        self.publish_to_write()?;
        let reasons = GapReason::ALL.map(GapReason::as_str);
        let gaps = self.family("reason", &reasons, Zeros::Listed, |it| &it.gaps);
        self.counter("gaps", "Gaps that subscribers were told", None, gaps)?;
        let policies = Policy::ALL.map(Policy::as_str);
        let overflows = self.family("policy", &policies, Zeros::Listed, |it| &it.overflows);
        self.counter("outbox_overflows", "Outboxes that were full", None, overflows)?;
        let turns = self.sum(|it| &it.hub_turns);
        self.counter("hub_turns", "Batches that hubs took from their inboxes", None, turns)
    }

    fn publish_to_write(&mut self) -> fmt::Result {
        #[expect(clippy::cast_precision_loss, reason = "exact up to 2^53 microseconds")]
        let seconds = |micros: u64| micros as f64 / 1e6;
        let buckets: Vec<_> = (0..=BOUNDS.len())
            .map(|at| {
                let bound = BOUNDS.get(at).map_or(f64::INFINITY, |bound| seconds(*bound));
                (bound, self.sum_all(|it| it.publish_to_write.buckets.get(at)))
            })
            .collect();
        let sum = seconds(self.sum_all(|it| Some(&it.publish_to_write.micros)));
        let count = buckets.iter().map(|(_, count)| count).sum();
        let help = "From when a publication was accepted to when it was written to a subscriber \
                    that was there already";
        let (unit, kind) = (Some(&Unit::Seconds), MetricType::Histogram);
        self.encoder
            .encode_descriptor("publish_to_write", help, unit, kind)?
            .encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn publications(&mut self) -> fmt::Result {
        let publications = self.sum(|it| &it.publications);
        self.counter("publications", "Publications that were accepted", None, publications)?;
        let bytes = self.sum(|it| &it.publication_bytes);
        let help = "Bytes of payloads that were accepted";
        self.counter("publication", help, Some(&Unit::Bytes), bytes)?;
        let codes = Code::ALL.map(Code::as_str);
        let failures = self.family("code", &codes, Zeros::Omitted, |it| &it.publish_failures);
        self.counter("publish_failures", "Publications that were refused", None, failures)
    }

    fn requests(&mut self) -> fmt::Result {
        let statuses: Vec<String> = (100..100 + STATUSES).map(|it| it.to_string()).collect();
        let statuses: Vec<&str> = statuses.iter().map(String::as_str).collect();
        let requests = self.family("status", &statuses, Zeros::Omitted, |it| &it.requests);
        self.counter("requests", "HTTP requests that were answered", None, requests)
    }

    /// One counter of each worker, without a label.
    fn sum(&self, of: impl Fn(&WorkerMetrics) -> &Counter) -> [([Label<'static>; 0], u64); 1] {
        [([], self.sum_all(|it| Some(of(it))))]
    }

    /// A counter per value of one label.
    fn family<'s>(
        &self,
        label: &'static str,
        values: &[&'s str],
        zeros: Zeros,
        of: impl Fn(&WorkerMetrics) -> &[Counter],
    ) -> Vec<([Label<'s>; 1], u64)> {
        let sums = values
            .iter()
            .enumerate()
            .map(|(at, value)| ([(label, *value)], self.sum_all(|it| of(it).get(at))));
        sums.filter(|(_, sum)| *sum > 0 || zeros == Zeros::Listed).collect()
    }

    fn sum_all<I>(&self, of: impl Fn(&'w WorkerMetrics) -> I) -> u64
    where
        I: IntoIterator<Item = &'w Counter>,
    {
        self.workers.iter().flat_map(|it| of(it)).map(Counter::value).sum()
    }

    /// `tidegate_{name}_total`, or `tidegate_{name}_{unit}_total`.
    fn counter<'l, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        values: impl IntoIterator<Item = ([Label<'l>; N], u64)>,
    ) -> fmt::Result {
        const NO_EXEMPLAR: Option<&Exemplar<[Label<'static>; 0], u64>> = None;
        let kind = MetricType::Counter;
        let mut metric = self.encoder.encode_descriptor(name, help, unit, kind)?;
        values.into_iter().try_for_each(|(labels, value)| match N {
            0 => metric.encode_counter(&value, NO_EXEMPLAR),
            _ => metric.encode_family(&labels)?.encode_counter(&value, NO_EXEMPLAR),
        })
    }

    /// `tidegate_{name}`.
    fn gauge<'l, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = ([Label<'l>; N], usize)>,
    ) -> fmt::Result {
        let mut metric = self.encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        values.into_iter().try_for_each(|(labels, value)| match N {
            0 => metric.encode_gauge(&value),
            _ => metric.encode_family(&labels)?.encode_gauge(&value),
        })
    }
}

/// A label's name and value.
type Label<'a> = (&'static str, &'a str);

#[cfg(test)]
mod tests {
    use super::*;

    fn two_workers() -> Vec<Arc<WorkerMetrics>> {
        vec![Arc::default(), Arc::default()]
    }

    /// Checks that `line` is one of the lines, and the only one of its metric and labels.
    #[track_caller]
    fn check(workers: &[Arc<WorkerMetrics>], line: &str) {
        let text = render_workers(workers.to_vec());
        let (series, _) = line.rsplit_once(' ').unwrap();
        let found: Vec<_> = text
            .lines()
            .filter(|it| it.rsplit_once(' ').is_some_and(|it| it.0 == series))
            .collect();
        assert_eq!(found, [line], "{text}");
    }

    #[test]
    fn workers_are_summed() {
        let workers = two_workers();
        for worker in &workers {
            worker.published(100);
            worker.delivered(3, 450);
            worker.hub_turns.inc();
            worker.accepted();
        }
        workers[0].closed();
        check(&workers, "tidegate_publications_total 2");
        check(&workers, "tidegate_publication_bytes_total 200");
        check(&workers, "tidegate_deliveries_total 6");
        check(&workers, "tidegate_delivery_bytes_total 900");
        check(&workers, "tidegate_hub_turns_total 2");
        check(&workers, "tidegate_open_connections 1");
        assert_eq!((workers[0].connections(), workers[1].connections()), (0, 1));
    }

    #[test]
    fn every_wire_and_code_has_its_own_count() {
        let workers = two_workers();
        for (nth, wire) in (1..).zip(Wire::ALL) {
            for _ in 0..100 * nth {
                workers[nth % 2].connected(wire);
            }
            for (more, code) in Code::ALL.into_iter().map(Some).chain([None]).enumerate() {
                (0..=more % 3).for_each(|_| workers[0].disconnected(wire, code));
            }
        }
        // 14 codes with 1, 2, 3, 1, 2, … each.
        check(&workers, "tidegate_connections{wire=\"ws\"} 73");
        check(&workers, "tidegate_connections{wire=\"long-poll\"} 373");
        for (wire, (at, code)) in
            Wire::ALL.iter().flat_map(|wire| Code::ALL.iter().enumerate().map(move |it| (wire, it)))
        {
            let (wire, code, count) = (wire.as_str(), code.as_str(), at % 3 + 1);
            let line =
                format!("tidegate_disconnects_total{{wire=\"{wire}\",code=\"{code}\"}} {count}");
            check(&workers, &line);
        }
        check(&workers, "tidegate_disconnects_total{wire=\"sse\",code=\"none\"} 2");
    }

    #[test]
    fn labels_are_the_contracts_words() {
        let workers = two_workers();
        for (times, reason) in (1..).zip(GapReason::ALL) {
            (0..times).for_each(|_| workers[0].gap(reason));
        }
        for (times, policy) in (1..).zip(Policy::ALL) {
            (0..times).for_each(|_| workers[1].overflow(policy));
        }
        check(&workers, "tidegate_gaps_total{reason=\"broker\"} 1");
        check(&workers, "tidegate_gaps_total{reason=\"slow\"} 5");
        check(&workers, "tidegate_outbox_overflows_total{policy=\"conflate\"} 1");
        check(&workers, "tidegate_outbox_overflows_total{policy=\"spill\"} 4");
        workers[0].publish_failed(Code::Ended);
        check(&workers, "tidegate_publish_failures_total{code=\"ended\"} 1");
        workers[0].polled(Wire::Poll);
        check(&workers, "tidegate_polls_total{wire=\"poll\"} 1");
    }

    #[test]
    fn every_status_is_counted() {
        let workers = two_workers();
        for status in [100, 200, 200, 304, 599, 999] {
            workers[0].requested(status);
        }
        check(&workers, "tidegate_requests_total{status=\"100\"} 1");
        check(&workers, "tidegate_requests_total{status=\"200\"} 2");
        check(&workers, "tidegate_requests_total{status=\"304\"} 1");
        check(&workers, "tidegate_requests_total{status=\"599\"} 2");
        assert!(!render_workers(workers).contains("\"404\""), "never counted, so not listed");
    }

    #[test]
    fn how_long_it_took_is_counted_in_buckets() {
        let workers = two_workers();
        workers[0].publish_to_write.observe(0, 3);
        workers[0].publish_to_write.observe(100, 1);
        workers[1].publish_to_write.observe(101, 2);
        workers[1].publish_to_write.observe(10_000_001, 1);
        for line in [
            "bucket{le=\"0.0001\"} 4",
            "bucket{le=\"0.00025\"} 6",
            "bucket{le=\"10.0\"} 6",
            "bucket{le=\"+Inf\"} 7",
            "count 7",
            "sum 10.000303",
        ] {
            check(&workers, &format!("tidegate_publish_to_write_seconds_{line}"));
        }
    }

    #[test]
    fn who_knows_no_openmetrics_gets_what_was_before_it() {
        let text = "# HELP a_b What.\n# TYPE a_b counter\n# UNIT a_b b\na_b_total{c=\"d\"} 1\n\
                    # HELP e Is.\n# TYPE e gauge\ne 2\n# EOF\n";
        let expect = "# HELP a_b_total What.\n# TYPE a_b_total counter\na_b_total{c=\"d\"} 1\n\
                      # HELP e Is.\n# TYPE e gauge\ne 2\n";
        assert_eq!(to_prometheus(text), expect);
    }

    #[test]
    fn a_gauge_never_falls_below_zero() {
        let workers = two_workers();
        workers[0].disconnected(Wire::Sse, None);
        check(&workers, "tidegate_connections{wire=\"sse\"} 0");
    }

    #[test]
    fn each_metric_has_help_and_type_once_and_the_text_ends_as_openmetrics_does() {
        let text = render_workers(two_workers());
        assert!(text.ends_with("# EOF\n"));
        let of = |kind: &str| -> Vec<String> {
            let named = |line: &str| Some(line.strip_prefix(kind)?.split(' ').next()?.to_owned());
            text.lines().filter_map(named).collect()
        };
        let (help, types, units) = (of("# HELP "), of("# TYPE "), of("# UNIT "));
        assert_eq!(help, types);
        let measured = ["delivery_bytes", "publish_to_write_seconds", "publication_bytes"];
        assert_eq!(units, measured.map(|it| format!("tidegate_{it}")));
        let unique: std::collections::HashSet<_> = types.iter().collect();
        assert_eq!(unique.len(), types.len());
        for line in text.lines().filter(|it| !it.starts_with('#')) {
            let series = line.split(['{', ' ']).next().unwrap();
            let suffix =
                ["_total", "_bucket", "_count", "_sum"].into_iter().find(|it| series.ends_with(it));
            let name = series.strip_suffix(suffix.unwrap_or_default()).unwrap_or(series);
            assert!(types.iter().any(|it| it == name), "{line}");
        }
        let version = env!("CARGO_PKG_VERSION");
        assert!(text.contains(&format!("tidegate_build_info{{version=\"{version}\"}} 1\n")));
    }
}
