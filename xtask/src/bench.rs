//! The benchmarks: `cargo xtask bench [SCENARIO]…`. It builds the load generator and the peers of
//! `bench/`, starts each server on a core of its own, loads it from the other, compares with the raw
//! baseline that ran just before and after, and writes what came out with the target beside it.
//!
//! `scenario` says what is measured and what it must show, `measure` how a group of measurements is
//! repeated, `peer` how servers start and end, `kit` how all is built, `report` what is written.
//! `bench/README.md` explains the figures.

mod kit;
mod measure;
mod peer;
mod report;
mod scenario;

use std::path::PathBuf;

use anyhow::{Context as _, bail};

use kit::Kit;
pub(crate) use measure::median;
use report::Outcome;
use scenario::Scenario;

/// What was asked for.
#[derive(Debug, Default)]
struct Options {
    scenarios: Vec<Scenario>,
    /// One short round: to see that everything works, not what it costs.
    is_quick: bool,
    rounds: Option<usize>,
    /// The gateway's binary; built if not given.
    server: Option<PathBuf>,
    /// Peers beside Tidegate and the baseline, by name; all if empty.
    peers: Vec<String>,
}

const USAGE: &str = "\
usage: cargo xtask bench [fanout|echo|codec|idle|latency|slow]… [--quick] [--rounds N]
                         [--server PATH] [--peers nchan,socket.io,tungstenite|none]

Without a scenario: all of them, about an hour. A full run writes bench/results/; a quick or partial
one only the target folder's bench/results/. It fails if a target is missed.
";

/// Runs the scenarios that `args` name.
///
/// # Errors
///
/// A peer is missing or fails, or a target is missed.
pub(crate) fn run(args: &[String]) -> anyhow::Result<()> {
    let Some(options) = parse(args)? else {
        print!("{USAGE}");
        return Ok(());
    };
    let kit = Kit::build(&options)?;
    let mut missed = Vec::new();
    for scenario in &options.scenarios {
        let groups = scenario.groups(options.is_quick);
        let rounds = match options.rounds {
            Some(rounds) => rounds,
            None if options.is_quick => 1,
            None => scenario.rounds(),
        };
        let outcome = Outcome::measure(*scenario, &groups, rounds, options.is_quick, &kit)?;
        missed.extend(outcome.missed());
        outcome.write(&kit, &options)?;
    }
    let folder = kit.results(&options);
    report::summarise(&folder)?;
    eprintln!("\nwritten to {}", folder.display());
    if !missed.is_empty() {
        bail!("{} targets were missed:\n  {}", missed.len(), missed.join("\n  "));
    }
    Ok(())
}

/// Builds the load generator and says where it is.
///
/// # Errors
///
/// Cargo's.
pub(crate) fn load() -> anyhow::Result<PathBuf> {
    let folder = kit::folder();
    kit::cargo_build(&folder, &["load"])?;
    Ok(folder.join("release/load"))
}

/// `None`: help was asked for.
fn parse(args: &[String]) -> anyhow::Result<Option<Options>> {
    let mut options = Options::default();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut value = || args.next().with_context(|| format!("`{arg}` needs a value\n{USAGE}"));
        match arg.as_str() {
            "-h" | "--help" => return Ok(None),
            "--quick" => options.is_quick = true,
            "--rounds" => options.rounds = Some(value()?.parse().context("--rounds")?),
            "--server" => options.server = Some(PathBuf::from(value()?)),
            "--peers" => options.peers = value()?.split(',').map(str::to_owned).collect(),
            name => match Scenario::named(name) {
                Some(scenario) => options.scenarios.push(scenario),
                None => bail!("there is no scenario `{name}`\n{USAGE}"),
            },
        }
    }
    if options.scenarios.is_empty() {
        options.scenarios = Scenario::ALL.to_vec();
    }
    Ok(Some(options))
}

impl Options {
    /// Whether the figures are for the repository: all peers, all rounds.
    fn is_full(&self) -> bool {
        !self.is_quick && self.rounds.is_none() && self.peers.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_understood_or_refused() {
        let parse = |line: &str| {
            parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
                .map(|options| options.map(|it| (it.scenarios, it.is_quick, it.rounds, it.peers)))
        };
        let all = parse("").unwrap().unwrap();
        assert_eq!(all, (Scenario::ALL.to_vec(), false, None, Vec::new()));
        let some = parse("echo idle --quick --rounds 3 --peers nchan").unwrap().unwrap();
        let peers = vec!["nchan".to_owned()];
        assert_eq!(some, (vec![Scenario::Echo, Scenario::Idle], true, Some(3), peers));
        assert!(parse("--help").unwrap().is_none());
        for wrong in ["fan-out", "--rounds", "--rounds x", "--fast"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
