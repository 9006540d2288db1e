//! When to try again: exponential, jittered, and never before the peer's `Retry-After`.
//!
//! ```text
//!  first step   anywhere in   [0, base]
//!  step n       anywhere in [c/2, c]       c = base · (4/3)ⁿ, at most `max`
//!  always       after whatever the peer asked for: floor + the step's own delay
//! ```
//! The first step is spread over all of its range, since all who lost a server begin it together. A
//! growth of 4/3 keeps them spread out: of 2,000 that lose one at once, the busiest second of those
//! that come back has at most 2.5 times the mean, however long it was away; with a growth of 2 it is
//! 3.9 (`tests/simulation/herd.rs`).

use std::time::Duration;

/// Bounds of the delays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackoffConfig {
    /// The longest delay of the first step. A lone client waits half of it on average; who has many
    /// clients that may lose a server at once keeps it at some seconds. Default: 2 s.
    pub base: Duration,
    /// The longest delay of any step. Default: 30 s.
    pub max: Duration,
    /// The longest `Retry-After` that is believed; a longer one counts as this. Default: 1 hour.
    pub retry_after_max: Duration,
}

impl Default for BackoffConfig {
    fn default() -> Self {
        Self {
            base: Duration::from_secs(2),
            max: Duration::from_secs(30),
            retry_after_max: Duration::from_secs(3600),
        }
    }
}

/// The delays of one client.
#[derive(Clone, Debug)]
pub struct Backoff {
    config: BackoffConfig,
    /// The longest delay of the next step.
    ceiling: Duration,
    is_first: bool,
    rng: Rng,
}

impl Backoff {
    /// Delays at their first step. Clients that may meet differ in their `seed`.
    #[must_use]
    pub fn new(config: BackoffConfig, seed: u64) -> Self {
        Self { config, ceiling: config.base, is_first: true, rng: Rng::new(seed) }
    }

    /// The delay before the next attempt, never less than `floor`, and one step further.
    pub fn next(&mut self, floor: Option<Duration>) -> Duration {
        let floor = floor.unwrap_or_default().min(self.config.retry_after_max);
        let ceiling = self.ceiling.min(self.config.max);
        let is_first = std::mem::replace(&mut self.is_first, false);
        let from = if is_first { Duration::ZERO } else { ceiling / 2 };
        self.ceiling = ceiling.saturating_add(ceiling / 3);
        floor.saturating_add(self.rng.between(from, ceiling))
    }

    /// Begins at the first step again: an attempt has gone well.
    pub fn reset(&mut self) {
        (self.ceiling, self.is_first) = (self.config.base, true);
    }

    /// A duration within a tenth of `around`, so that what is due for many together spreads.
    pub fn jittered(&mut self, around: Duration) -> Duration {
        self.rng.between(around - around / 10, around + around / 10)
    }
}

/// Numbers from a seed (SplitMix64): enough for jitter, useless for secrets.
#[derive(Clone, Debug)]
struct Rng(u64);

impl Rng {
    fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Anywhere from `from` to `to`, in nanoseconds.
    fn between(&mut self, from: Duration, to: Duration) -> Duration {
        let span = to.saturating_sub(from).as_nanos();
        // 64 random bits times the span, shifted back: even enough below centuries.
        let part = u128::from(self.next()).saturating_mul(span) >> 64;
        from.saturating_add(Duration::from_nanos(u64::try_from(part).unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: BackoffConfig = BackoffConfig {
        base: Duration::from_secs(1),
        max: Duration::from_secs(10),
        retry_after_max: Duration::from_secs(60),
    };

    /// The delays of step `step` over many seeds: the least, the mean and the greatest, in ms.
    fn delays(step: usize, floor: Option<Duration>) -> (u128, u128, u128) {
        let delays = (0..2000).map(|seed| {
            let mut backoff = Backoff::new(CONFIG, seed);
            for _ in 0..step {
                backoff.next(None);
            }
            backoff.next(floor).as_millis()
        });
        let delays: Vec<u128> = delays.collect();
        let sum: u128 = delays.iter().sum();
        (*delays.iter().min().unwrap(), sum / 2000, *delays.iter().max().unwrap())
    }

    #[track_caller]
    fn check(step: usize, floor: Option<Duration>, from: u128, to: u128) {
        let (least, mean, greatest) = delays(step, floor);
        let (slack, middle) = ((to - from) / 50, u128::midpoint(from, to));
        assert!(least >= from && least <= from + slack, "step {step}: {least}");
        assert!(greatest <= to && greatest >= to - slack, "step {step}: {greatest}");
        assert!(mean.abs_diff(middle) <= slack, "step {step}: {mean}");
    }

    #[test]
    fn steps_grow_up_to_the_bound_and_fill_their_range() {
        check(0, None, 0, 1000);
        check(1, None, 666, 1334);
        check(2, None, 888, 1778);
        check(3, None, 1185, 2371);
        check(9, None, 5000, 10_000);
        check(50, None, 5000, 10_000);
    }

    #[test]
    fn no_attempt_comes_before_what_the_peer_asked_for() {
        check(0, Some(Duration::from_secs(7)), 7000, 8000);
        check(1, Some(Duration::from_secs(7)), 7666, 8334);
        // An hour would be a peer's way to be rid of us.
        check(0, Some(Duration::from_secs(3600)), 60_000, 61_000);
    }

    #[test]
    fn after_a_success_it_begins_again() {
        let mut backoff = Backoff::new(CONFIG, 7);
        for _ in 0..5 {
            backoff.next(None);
        }
        backoff.reset();
        assert!(backoff.next(None) <= CONFIG.base);
    }
}
