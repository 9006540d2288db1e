//! Sessions under a virtual clock, against a gateway and a network that do whatever a seed says:
//! cuts anywhere, refusals with and without `Retry-After`, silence, logs that expire and restart.
//!
//! Nothing may be lost untold, come twice or out of order; silence is noticed in time; and there is
//! one attempt per step of the back-off, never before what the gateway asked for.
//! `SIM_SEED=7` replays one seed, `SIM_SEEDS=100000` runs more of them.

#![expect(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "what goes wrong in a test fails the test"
)]

mod gateway;
mod herd;
mod oracle;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use world::{Sabotage, Stats, World};

/// Seeds that are run where nobody asks for more.
const SEEDS: u64 = 3_000;

#[test]
fn nothing_is_lost_or_doubled_untold() {
    if let Some(seed) = number("SIM_SEED") {
        let stats = run(seed);
        println!("{stats:#?}");
        return;
    }
    let seeds = number("SIM_SEEDS").unwrap_or(SEEDS);
    let mut sum = Stats::default();
    (0..seeds).for_each(|seed| sum.add(&run(seed)));
    println!("{sum:#?}");
    if seeds >= SEEDS {
        sum.check();
    }
}

#[test]
fn a_gateway_that_breaks_its_word_is_noticed() {
    for sabotage in [Sabotage::Forget, Sabotage::Repeat, Sabotage::Skip] {
        let noticed = (0..300).any(|seed| World::new(seed, Some(sabotage)).run().is_err());
        assert!(noticed, "{sabotage:?} was not: the simulation is blind");
    }
}

#[track_caller]
fn run(seed: u64) -> Stats {
    let what = match catch_unwind(AssertUnwindSafe(|| World::new(seed, None).run())) {
        Ok(Ok(stats)) => return stats,
        Ok(Err(what)) => what,
        Err(_) => "it panicked, see above".into(),
    };
    panic!(
        "{what}\nreplay: SIM_SEED={seed} cargo test -p tidegate-client --test simulation -- --nocapture"
    )
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|it| it.parse().unwrap())
}
