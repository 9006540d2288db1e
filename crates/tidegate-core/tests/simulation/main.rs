//! The gateway's behaviour as a whole, simulated from a seed (STYLE 27): publishers, a broker that
//! trims, drops, fails over and answers late, workers that lag with inboxes that overflow, and
//! clients that are slow, are cut and come back elsewhere.
//!
//! At each step each client holds what it is given against the contract: nothing twice, nothing out
//! of order, nothing skipped untold, nothing that was not accepted. At the end all are level with the
//! log. `SIM_SEED=7` replays one seed and says what happens; `SIM_SEEDS=100000` runs more of them.

#![expect(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "what goes wrong in a test fails the test"
)]

mod broker;
mod client;
mod oracle;
mod plan;
mod stream;

mod worker;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use plan::Fault;
use world::{Stats, World};

/// Seeds that are run where nobody asks for more.
const SEEDS: u64 = 3_000;

/// What two threads share.
const HALF: u64 = SEEDS / 2;

/// Seeds within which each fault has to be noticed.
const FAULT_SEEDS: u64 = 400;

#[test]
fn nothing_is_lost_or_doubled_untold_for_even_seeds() {
    simulate(0);
}

#[test]
fn nothing_is_lost_or_doubled_untold_for_odd_seeds() {
    simulate(1);
}

#[test]
fn bugs_in_the_glue_are_noticed() {
    for fault in Fault::ALL {
        let noticed = (0..FAULT_SEEDS)
            .find_map(|seed| Some((seed, World::new(seed, Some(fault), false).run().err()?)));
        let Some((seed, what)) = noticed else { panic!("{fault:?} was not noticed") };
        println!("{fault:?}: seed {seed}: {what}");
    }
}

#[test]
fn a_seed_is_one_run_each_time() {
    for seed in 0..SEEDS / 10 {
        assert_eq!(run(seed, false), run(seed, false), "seed {seed}");
    }
}

/// Runs every other seed from `first` on.
fn simulate(first: u64) {
    if let Some(seed) = number("SIM_SEED") {
        if seed % 2 == first {
            run(seed, true);
        }
        return;
    }
    let seeds = number("SIM_SEEDS").unwrap_or(SEEDS);
    let mut sum = Stats::default();
    for seed in (first..seeds).step_by(2) {
        sum.add(&run(seed, false));
    }
    if seeds >= HALF {
        sum.check();
    }
}

#[track_caller]
fn run(seed: u64, is_verbose: bool) -> Stats {
    let world = || World::new(seed, None, is_verbose).run();
    let what = match catch_unwind(AssertUnwindSafe(world)) {
        Ok(Ok(stats)) => return stats,
        Ok(Err(what)) => what,
        Err(_) => "it panicked, see above".into(),
    };
    panic!(
        "{what}\nreplay: SIM_SEED={seed} cargo test -p tidegate-core --test simulation even_seeds odd_seeds -- --nocapture"
    )
}

#[expect(clippy::disallowed_methods, reason = "how a test is told which seed to replay")]
fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|it| it.parse().unwrap())
}

impl Stats {
    fn add(&mut self, other: &Self) {
        self.published += other.published;
        self.received += other.received;
        self.at_once += other.at_once;
        self.ends += other.ends;
        self.cuts += other.cuts;
        self.polls += other.polls;
        self.marks += other.marks;
        self.hub_pages += other.hub_pages;
        self.sub_pages += other.sub_pages;
        self.dropped += other.dropped;
        self.spilled += other.spilled;
        self.over_total += other.over_total;
        self.closed += other.closed;
        self.duplicates += other.duplicates;
        self.epochs += other.epochs;
        self.restarts += other.restarts;
        self.told += other.told;
        self.gaps.iter_mut().zip(other.gaps).for_each(|(sum, it)| *sum += it);
    }

    /// A simulation in which nothing happens would prove nothing.
    fn check(&self) {
        println!("{self:?}");
        // No broker here says "I was away and can't tell".
        let [_, dropped, epoch, expired, slow] = self.gaps;
        let rare =
            [dropped, epoch, expired, slow, self.told, self.duplicates, self.epochs, self.restarts];
        assert!(rare.iter().all(|it| *it > 100), "{self:?}");
        let often = [self.at_once, self.ends, self.cuts, self.marks, self.spilled, self.dropped];
        assert!(often.iter().all(|it| *it > 300), "{self:?}");
        assert!(self.over_total > 20 && self.closed > 100 && self.polls > 300, "{self:?}");
    }
}
