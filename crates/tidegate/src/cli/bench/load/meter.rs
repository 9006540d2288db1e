//! What is counted and timed while it runs.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

/// What was counted. Which of it has a meaning depends on what is run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Counts {
    /// Publications that were sent, or with `publish` that were accepted.
    pub(in super::super) publications: u64,
    /// Messages that came back to somebody, each once.
    pub(in super::super) messages: u64,
    /// Bytes that were read from sockets, behind heads.
    pub(in super::super) received_bytes: u64,
    /// Messages that somebody should have got and never will.
    pub(in super::super) lost: u64,
    /// Messages that came again.
    pub(in super::super) duplicates: u64,
    /// Gaps that were told.
    pub(in super::super) gaps: u64,
    /// Connections that were opened.
    pub(in super::super) opened: u64,
    /// Connections that did not come about.
    pub(in super::super) refused: u64,
    /// Of those that did, which the gateway has closed.
    pub(in super::super) closed: u64,
    /// Pings that were answered.
    pub(in super::super) pongs: u64,
}

/// The counters and histograms of a run: of one thread, which borrows them for a turn at a time.
#[derive(Debug)]
pub(in super::super) struct Meter {
    state: RefCell<State>,
    /// Since when it is measured.
    begun: Cell<Option<Instant>>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) counts: Counts,
    /// Times since the last sample, in microseconds.
    latest: Histogram<u64>,
    /// Those of all samples before it.
    all: Histogram<u64>,
}

/// Percentiles of times.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(in super::super) struct Latency {
    /// How many were timed; with none the rest means nothing.
    pub(in super::super) count: u64,
    pub(in super::super) p50: Duration,
    pub(in super::super) p90: Duration,
    pub(in super::super) p99: Duration,
    pub(in super::super) max: Duration,
}

/// How it stands, for whoever shows it.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Sample {
    /// Since it is measured; zero before.
    pub(in super::super) at: Duration,
    pub(in super::super) counts: Counts,
    /// Of the time since the sample before.
    pub(in super::super) latency: Latency,
}

/// Times are kept to three digits, from a microsecond to a quarter of an hour; longer counts as that.
const MICROS_MAX: u64 = 900_000_000;

impl Meter {
    /// Counts from now on; it measures later.
    pub(in super::super) fn new() -> Self {
        let histogram = || {
            // The bounds are constants that it takes; another way to make one is not as bounded.
            Histogram::new_with_bounds(1, MICROS_MAX, 3).unwrap_or_else(|_| unreachable!())
        };
        let state = State { counts: Counts::default(), latest: histogram(), all: histogram() };
        Self { state: RefCell::new(state), begun: Cell::new(None) }
    }

    /// It measures from now on; that moment.
    pub(super) fn begin(&self) -> Instant {
        let now = Instant::now();
        self.begun.set(Some(now));
        now
    }

    /// For one turn; nothing else may be counted meanwhile.
    pub(super) fn borrow(&self) -> std::cell::RefMut<'_, State> {
        self.state.borrow_mut()
    }

    /// How it stands, and begins the next sample.
    pub(in super::super) fn sample(&self) -> Sample {
        let mut state = self.state.borrow_mut();
        let latency = Latency::of(&state.latest);
        state.settle();
        let at = self.begun.get().map_or(Duration::ZERO, |it| it.elapsed());
        Sample { at, counts: state.counts, latency }
    }

    /// All that was counted and timed.
    pub(super) fn total(&self) -> (Counts, Latency) {
        let mut state = self.state.borrow_mut();
        state.settle();
        (state.counts, Latency::of(&state.all))
    }
}

impl State {
    /// Times something.
    #[inline]
    pub(super) fn record(&mut self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.latest.saturating_record(micros.max(1));
    }

    fn settle(&mut self) {
        // They have the same bounds.
        let _ = self.all.add(&self.latest);
        self.latest.reset();
    }
}

impl Latency {
    fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| Duration::from_micros(histogram.value_at_quantile(quantile));
        Self {
            count: histogram.len(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            max: Duration::from_micros(histogram.max()),
        }
    }
}

/// CPU time that this process has used, where the system says.
pub(super) fn cpu() -> Option<Duration> {
    #[cfg(unix)]
    {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        Duration::try_from(time).ok()
    }
    #[cfg(not(unix))]
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_has_its_own_times_and_the_total_has_all() {
        let meter = Meter::new();
        for millis in 1..=100 {
            meter.borrow().record(Duration::from_millis(millis));
        }
        let sample = meter.sample().latency;
        assert_eq!((sample.count, sample.p50.as_millis()), (100, 50));
        assert_eq!((sample.p99.as_millis(), sample.max.as_millis()), (99, 100));
        meter.borrow().record(Duration::from_secs(1));
        assert_eq!(meter.sample().latency.count, 1);
        assert_eq!(meter.sample().latency, Latency::default());
        meter.borrow().record(Duration::MAX);
        let (_, total) = meter.total();
        assert_eq!((total.count, total.p50.as_millis()), (102, 51));
        assert!(total.max >= Duration::from_micros(MICROS_MAX), "{:?}", total.max);
    }
}
