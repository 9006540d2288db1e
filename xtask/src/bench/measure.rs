//! A group of measurements: the baseline, each server, the baseline again, some rounds of that.
//!
//! A round in which the two baselines differ by more than a quarter says more about the machine than
//! about the servers; it is dropped and tried once more. Every measurement has a fresh server.

use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use super::kit::Kit;
use super::peer::{Kind, Running};

/// One measurement: a server and what the load generator is asked to do to it.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    /// Its name in the results.
    pub(crate) label: &'static str,
    pub(crate) server: Kind,
    /// The load generator's mode and its arguments, separated by spaces.
    pub(crate) load: String,
}

/// Measurements that are compared with each other.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    pub(crate) name: String,
    /// The figure that is compared.
    pub(crate) metric: &'static str,
    pub(crate) baseline: Option<Job>,
    pub(crate) jobs: Vec<Job>,
}

/// What came out of a group.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) name: String,
    pub(crate) metric: &'static str,
    pub(crate) labels: Vec<&'static str>,
    pub(crate) rounds: Vec<Round>,
    /// Rounds whose baselines differed too much.
    pub(crate) dropped: usize,
}

/// One round; reports as the load generator printed them.
#[derive(Debug)]
pub(crate) struct Round {
    pub(crate) baseline: Vec<Value>,
    /// In the group's order; an error says why there is no report.
    pub(crate) jobs: Vec<(&'static str, Result<Value, String>)>,
}

/// How far apart the baselines of a round may be.
const DRIFT_MAX: f64 = 1.25;

/// The core of the load generator.
const CORE: &str = "1";

impl Group {
    /// Measures `rounds` rounds. A quick run keeps what it gets, and only says so.
    pub(crate) fn measure(
        &self,
        rounds: usize,
        is_quick: bool,
        kit: &Kit,
    ) -> anyhow::Result<Measured> {
        let (mut kept, mut dropped) = (Vec::new(), 0);
        for number in 1..=rounds {
            for attempt in 1..=2 {
                eprintln!("{}: round {number} of {rounds}", self.name);
                let round = self.round(kit)?;
                let drift = round.drift(self.metric);
                if drift > DRIFT_MAX {
                    eprintln!("  the baselines differ by {drift:.2} ×: the machine is not quiet");
                }
                if drift <= DRIFT_MAX || is_quick {
                    kept.push(round);
                    break;
                }
                dropped += 1;
                eprintln!("  dropped{}", if attempt == 1 { ", once more" } else { "" });
            }
        }
        let jobs = self.jobs.iter().filter(|job| !kit.left_out.contains(&job.server));
        let labels = jobs.map(|job| job.label).collect();
        Ok(Measured { name: self.name.clone(), metric: self.metric, labels, rounds: kept, dropped })
    }

    fn round(&self, kit: &Kit) -> anyhow::Result<Round> {
        let baseline = || match &self.baseline {
            Some(job) => job.run(kit).map(Some),
            None => Ok(None),
        };
        let mut round = Round { baseline: Vec::new(), jobs: Vec::new() };
        round.baseline.extend(baseline()?);
        for job in self.jobs.iter().filter(|job| !kit.left_out.contains(&job.server)) {
            let report = job.run(kit).map_err(|error| format!("{error:#}"));
            match &report {
                Ok(report) => match number(report, self.metric) {
                    Some(seen) => eprintln!("  {}: {} {seen:.3}", job.label, self.metric),
                    None => eprintln!("  {}: {report}", job.label),
                },
                Err(error) => eprintln!("  {}: {error}", job.label),
            }
            round.jobs.push((job.label, report));
        }
        round.baseline.extend(baseline()?);
        Ok(round)
    }
}

impl Job {
    /// Starts the server, loads it, ends it.
    fn run(&self, kit: &Kit) -> anyhow::Result<Value> {
        let server = Running::start(self.server, kit)?;
        let pids: Vec<String> = server.pids.iter().map(u32::to_string).collect();
        let mut words = self.load.split_whitespace();
        let mode = words.next().context("a job without a mode")?;
        let output = Command::new(&kit.load)
            .args([mode, "--peer", self.server.dialect(), "--core", CORE])
            .args(["--address", &server.address.to_string(), "--pids", &pids.join(",")])
            .args(words)
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::null())
            .output()
            .context("starting the load generator")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{}: {}", self.label, said.trim());
        serde_json::from_slice(&output.stdout).context("the load generator's report")
    }
}

impl Round {
    /// How many times the smaller baseline the larger one is.
    fn drift(&self, metric: &str) -> f64 {
        let figures: Vec<f64> = self.baseline.iter().filter_map(|it| number(it, metric)).collect();
        match figures.as_slice() {
            [before, after] => (before / after).max(after / before),
            _ => 1.0,
        }
    }

    /// The baseline's figure: the mean of before and after.
    fn baseline(&self, metric: &str) -> Option<f64> {
        let figures: Vec<f64> = self.baseline.iter().filter_map(|it| number(it, metric)).collect();
        match figures.as_slice() {
            [before, after] => Some(f64::midpoint(*before, *after)),
            _ => None,
        }
    }

    fn figure(&self, label: &str, metric: &str) -> Option<f64> {
        let (_, report) = self.jobs.iter().find(|(it, _)| *it == label)?;
        number(report.as_ref().ok()?, metric)
    }
}

impl Measured {
    /// The median of a figure over the rounds.
    pub(crate) fn figure(&self, label: &str, metric: &str) -> Option<f64> {
        median(self.rounds.iter().filter_map(|round| round.figure(label, metric)).collect())
    }

    /// The median of the baseline's figure.
    pub(crate) fn baseline(&self, metric: &str) -> Option<f64> {
        median(self.rounds.iter().filter_map(|round| round.baseline(metric)).collect())
    }

    /// The group's figure against the baseline's, median against median. A median of each round's
    /// ratio would be hit twice as often by what befalls a single measurement.
    pub(crate) fn ratio(&self, label: &str) -> Option<f64> {
        Some(self.figure(label, self.metric)? / self.baseline(self.metric)?)
    }

    /// One server's figure against another's, median against median.
    pub(crate) fn against(&self, label: &str, other: &str) -> Option<f64> {
        Some(self.figure(label, self.metric)? / self.figure(other, self.metric)?)
    }
}

/// The number at `path` in a report: keys, separated by dots.
pub(crate) fn number(report: &Value, path: &str) -> Option<f64> {
    path.split('.').try_fold(report, |value, key| value.get(key))?.as_f64()
}

/// The median of figures, of two in the middle the mean.
pub(crate) fn median(mut figures: Vec<f64>) -> Option<f64> {
    figures.sort_by(f64::total_cmp);
    let middle = figures.len() / 2;
    let upper = *figures.get(middle)?;
    if figures.len() % 2 == 1 {
        return Some(upper);
    }
    Some(f64::midpoint(*figures.get(middle - 1)?, upper))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn round(before: f64, ours: f64, theirs: f64, after: f64) -> Round {
        Round {
            baseline: vec![json!({ "cost": before }), json!({ "cost": after })],
            jobs: vec![
                ("ours", Ok(json!({ "cost": ours }))),
                ("theirs", Ok(json!({ "cost": theirs }))),
                ("absent", Err("gone".to_owned())),
            ],
        }
    }

    #[test]
    fn a_ratio_is_of_medians() {
        let rounds = vec![
            round(1.0, 2.0, 9.0, 1.0),
            // A slow spell: everything costs ten times as much.
            round(10.0, 20.0, 40.0, 10.0),
            round(1.0, 2.0, 4.0, 1.0),
            // Single measurements that went wrong, each of another server.
            round(1.0, 9.0, 4.0, 1.0),
            round(1.0, 2.0, 4.0, 3.0),
        ];
        let labels = vec!["ours", "theirs", "absent"];
        let group = Measured { name: String::new(), metric: "cost", labels, rounds, dropped: 0 };
        assert_eq!(group.figure("ours", "cost"), Some(2.0));
        assert_eq!(group.figure("theirs", "cost"), Some(4.0));
        assert_eq!(group.ratio("ours"), Some(2.0));
        assert_eq!(group.against("ours", "theirs"), Some(0.5));
        assert_eq!(group.ratio("absent"), None);
    }

    #[test]
    fn a_round_whose_baselines_part_is_noticed() {
        assert!(round(1.0, 1.0, 1.0, 1.2).drift("cost") <= DRIFT_MAX);
        assert!(round(1.0, 1.0, 1.0, 1.3).drift("cost") > DRIFT_MAX);
        assert!(round(1.3, 1.0, 1.0, 1.0).drift("cost") > DRIFT_MAX);
    }

    #[test]
    fn a_median_of_an_even_number_lies_between() {
        assert_eq!(median(vec![4.0, 1.0, 3.0, 2.0]), Some(2.5));
        assert_eq!(median(vec![]), None);
    }
}
