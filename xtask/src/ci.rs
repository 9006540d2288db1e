//! `cargo xtask ci`: every check, in the order of what they need, two at a time.
//!
//! A step is a command of its own, so that each can be run alone and its output kept together.
//! Those of cargo share a lane: they would wait for each other's locks anyway. A step whose needs
//! failed counts as failed. The last line is `N passed, M failed`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use Program::{Cargo, Xtask};

use anyhow::Context as _;

use crate::{gateway, process, workspace};

/// Runs all steps, or the one that `--only` names.
///
/// # Errors
///
/// A step failed, or the arguments make no sense.
pub(crate) fn run(args: &[String]) -> anyhow::Result<()> {
    match args {
        [] => all(),
        [flag, name] if flag == "--only" => {
            let step = STEPS.iter().find(|step| step.name == name).with_context(|| {
                let names: Vec<&str> = STEPS.iter().map(|step| step.name).collect();
                format!("there is no step `{name}`; there are: {}", names.join(", "))
            })?;
            process::run(&mut step.command()?)
        }
        _ => anyhow::bail!("usage: cargo xtask ci [--only STEP]"),
    }
}

/// Steps that run at the same time: as many as the smallest machine that runs them has cores.
const JOBS: usize = 2;

/// One check.
#[derive(Clone, Copy)]
struct Step {
    name: &'static str,
    program: Program,
    args: &'static [&'static str],
    /// Names of steps that must have passed.
    needs: &'static [&'static str],
    /// Far above what it takes: it ends what hangs.
    minutes_max: u64,
    /// Whether it measures: nothing else runs beside it.
    is_alone: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Program {
    /// In the cargo lane: one at a time.
    Cargo,
    /// This program itself.
    Xtask,
}

/// Every step; where several could begin, the first does.
const STEPS: &[Step] = &[
    step("fmt", Cargo, &["fmt", "--all", "--check"], &[], 5),
    step("tidy", Xtask, &["tidy"], &[], 5),
    step("tools", Xtask, &["tools"], &[], 20),
    step(
        "clippy",
        Cargo,
        &["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"],
        &[],
        30,
    ),
    step("build", Cargo, gateway::BUILD, &[], 30),
    step("test", Cargo, &["test", "--workspace", "--locked"], &[], 30),
    step("doc", Cargo, &["doc", "--workspace", "--no-deps", "--locked"], &[], 15),
    step("autobahn-server", Xtask, &["conformance", "autobahn-server"], SUITE, 20),
    step("autobahn-client", Xtask, &["conformance", "autobahn-client"], SUITE, 20),
    step("clients", Xtask, &["clients"], SUITE, 10),
    step("browser", Xtask, &["browser"], SUITE, 10),
    step("matrix", Xtask, &["matrix"], SUITE, 10),
    step("hop", Xtask, &["hop"], SUITE, 10),
    step("docs", Xtask, &["docs"], SUITE, 10),
    step("examples", Xtask, &["examples"], SUITE, 10),
    step("fuzz", Xtask, &["fuzz", "10"], &["tools"], 40),
    alone(step("flood", Xtask, &["flood", "--quick"], SUITE, 15)),
];

/// What a suite needs.
const SUITE: &[&str] = &["tools", "build"];

const fn step(
    name: &'static str,
    program: Program,
    args: &'static [&'static str],
    needs: &'static [&'static str],
    minutes_max: u64,
) -> Step {
    Step { name, program, args, needs, minutes_max, is_alone: false }
}

const fn alone(step: Step) -> Step {
    Step { is_alone: true, ..step }
}

impl Step {
    fn command(&self) -> anyhow::Result<Command> {
        let mut command = match self.program {
            Cargo => workspace::cargo(self.args),
            Xtask => {
                let mut command = Command::new(std::env::current_exe()?);
                command.current_dir(workspace::root()).args(self.args);
                command
            }
        };
        if self.name == "doc" {
            command.env("RUSTDOCFLAGS", "-D warnings");
        }
        Ok(command)
    }

    fn log(&self) -> PathBuf {
        workspace::target().join("ci").join(format!("{}.log", self.name))
    }
}

fn all() -> anyhow::Result<()> {
    std::fs::create_dir_all(workspace::target().join("ci"))?;
    let schedule = Schedule { board: Mutex::new(Board::new()), changed: Condvar::new() };
    std::thread::scope(|scope| {
        for _ in 0..JOBS {
            scope.spawn(|| schedule.work());
        }
    });
    let board = schedule.lock();
    println!("{}", board.summary());
    anyhow::ensure!(board.failed() == 0, "some checks failed: their output is above");
    Ok(())
}

/// The steps and where each one stands, shared by the job threads.
struct Schedule {
    /// Held while a step is chosen or reported, never while one runs.
    board: Mutex<Board>,
    changed: Condvar,
}

impl Schedule {
    /// Runs steps until none is left to begin.
    fn work(&self) {
        let mut board = self.lock();
        loop {
            match board.choose(STEPS) {
                Choice::Begin(step) => {
                    board.standings.insert(step.name, Standing::Running);
                    println!("[{:>4} s] {} begins", board.begun.elapsed().as_secs(), step.name);
                    drop(board);
                    let begun = Instant::now();
                    let result = step.command().and_then(|mut command| {
                        let timeout = Duration::from_secs(step.minutes_max * 60);
                        process::run_logged(&mut command, &step.log(), timeout)
                    });
                    board = self.lock();
                    board.end(step, begun.elapsed(), result.as_ref().err());
                    self.changed.notify_all();
                }
                Choice::Wait => {
                    board = self.changed.wait(board).unwrap_or_else(PoisonError::into_inner);
                }
                Choice::Done => return,
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where a step stands; one that is not on the board waits.
#[derive(Clone, Copy)]
enum Standing {
    Running,
    Passed(Duration),
    Failed(Duration),
    /// Something that it needs failed.
    Barred,
}

enum Choice {
    Begin(&'static Step),
    Wait,
    Done,
}

struct Board {
    standings: BTreeMap<&'static str, Standing>,
    begun: Instant,
}

impl Board {
    fn new() -> Board {
        Board { standings: BTreeMap::new(), begun: Instant::now() }
    }

    /// The first of `steps` that may begin now.
    fn choose(&mut self, steps: &'static [Step]) -> Choice {
        let running = || {
            let is_running =
                |step: &&Step| matches!(self.standings.get(step.name), Some(Standing::Running));
            steps.iter().filter(is_running)
        };
        let cargo_is_busy = running().any(|step| step.program == Cargo);
        let (is_quiet, is_taken) = (running().count() == 0, running().any(|step| step.is_alone));
        if is_taken {
            return Choice::Wait;
        }
        let mut choice = Choice::Done;
        for step in steps {
            match self.standings.get(step.name) {
                Some(Standing::Running) => choice = Choice::Wait,
                Some(_) => {}
                None => {
                    let needs = step.needs.iter().map(|name| self.standings.get(name));
                    let needs: Vec<Option<&Standing>> = needs.collect();
                    let bars = |it: &Option<&_>| {
                        matches!(it, Some(Standing::Failed(_) | Standing::Barred))
                    };
                    if needs.iter().any(bars) {
                        println!("{} does not run: it needs {}", step.name, step.needs.join(", "));
                        self.standings.insert(step.name, Standing::Barred);
                    } else if needs.iter().all(|it| matches!(it, Some(Standing::Passed(_))))
                        && !(step.program == Cargo && cargo_is_busy)
                        && (is_quiet || !step.is_alone)
                    {
                        return Choice::Begin(step);
                    } else {
                        choice = Choice::Wait;
                    }
                }
            }
        }
        choice
    }

    /// Notes how `step` ended, and prints what it printed.
    fn end(&mut self, step: &Step, took: Duration, error: Option<&anyhow::Error>) {
        let verdict = if error.is_none() { "passed" } else { "FAILED" };
        println!("\n==== {} {verdict} in {:.1} s ====", step.name, took.as_secs_f64());
        let log = std::fs::read(step.log()).unwrap_or_default();
        // A log that can't be printed, to a closed pipe say, does not change the verdict.
        let _ = std::io::stdout().write_all(&log);
        if let Some(error) = error {
            println!("{error:#}\nalone: cargo xtask ci --only {}", step.name);
        }
        println!();
        let standing =
            if error.is_none() { Standing::Passed(took) } else { Standing::Failed(took) };
        self.standings.insert(step.name, standing);
    }

    fn failed(&self) -> usize {
        let passed = |it: &&Standing| matches!(it, Standing::Passed(_));
        self.standings.len() - self.standings.values().filter(passed).count()
    }

    /// A line per step and the closing one.
    fn summary(&self) -> String {
        let mut text = String::new();
        for step in STEPS {
            let (took, verdict) = match self.standings.get(step.name) {
                Some(Standing::Passed(took)) => (*took, "passed"),
                Some(Standing::Failed(took)) => (*took, "FAILED"),
                _ => (Duration::ZERO, "FAILED: something that it needs did"),
            };
            let _ = writeln!(text, "{:>8.1} s  {:<18} {verdict}", took.as_secs_f64(), step.name);
        }
        let total = self.begun.elapsed().as_secs_f64();
        let _ = writeln!(text, "{total:>8.1} s  in all");
        let failed = self.failed();
        let _ = write!(text, "{} passed, {failed} failed", self.standings.len() - failed);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const PLAN: &[Step] = &[
        step("build", Cargo, &[], &[], 1),
        step("test", Cargo, &[], &[], 1),
        step("clients", Xtask, &[], &["build"], 1),
        step("browser", Xtask, &[], &["clients"], 1),
        alone(step("flood", Xtask, &[], &["build"], 1)),
    ];

    #[track_caller]
    fn check(standings: &[(&'static str, Standing)], expect: &str) {
        let mut board = Board::new();
        board.standings.extend(standings.iter().copied());
        let choice = match board.choose(PLAN) {
            Choice::Begin(step) => step.name,
            Choice::Wait => "wait",
            Choice::Done => "done",
        };
        assert_eq!(choice, expect);
    }

    #[test]
    fn cargo_steps_go_one_at_a_time_and_others_when_their_needs_have_passed() {
        check(&[], "build");
        check(&[("build", Standing::Running)], "wait");
        check(&[("build", Standing::Passed(SECOND))], "test");
        let built = ("build", Standing::Passed(SECOND));
        check(&[built, ("test", Standing::Running)], "clients");
        let test = ("test", Standing::Failed(SECOND));
        check(&[built, test, ("clients", Standing::Running)], "wait");
    }

    #[test]
    fn a_step_that_measures_runs_alone() {
        let passed = |name| (name, Standing::Passed(SECOND));
        let before = [passed("build"), passed("test"), passed("clients")];
        check(&[&before[..], &[("browser", Standing::Running)]].concat(), "wait");
        check(&[&before[..], &[passed("browser")]].concat(), "flood");
        check(&[&before[..], &[("flood", Standing::Running)]].concat(), "wait");
        check(&[&before[..], &[passed("browser"), ("flood", Standing::Running)]].concat(), "wait");
    }

    #[test]
    fn what_needs_a_failed_step_fails_with_it_and_never_begins() {
        let failed = [("build", Standing::Failed(SECOND)), ("test", Standing::Passed(SECOND))];
        check(&failed, "done");
        let mut board = Board::new();
        board.standings.extend(failed);
        board.choose(PLAN);
        assert_eq!(board.standings.len(), PLAN.len());
        assert_eq!(board.failed(), 4);
    }

    #[test]
    fn each_step_has_one_name_and_needs_only_steps_before_it() {
        for (index, step) in STEPS.iter().enumerate() {
            let before: Vec<&str> = STEPS[..index].iter().map(|step| step.name).collect();
            assert!(!before.contains(&step.name), "{} is there twice", step.name);
            assert!(step.needs.iter().all(|need| before.contains(need)), "{}", step.name);
        }
    }
}
