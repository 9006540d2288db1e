//! Autobahn's WebSocket test suite, against the gateway and against a client made of our codec.
//!
//! The cases are shared out to as many processes as there are cores, each with a channel of its
//! own, for an echo goes to all of a channel. What they find is judged against
//! `tests/autobahn/expected-*.json`, which lists every case there is, each `OK` or
//! `INFORMATIONAL`. Without `--all` the slow cases of 9, 12 and 13 are sampled.

use std::collections::BTreeMap;
use std::net::{TcpListener, TcpStream};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde::Deserialize;
use serde_json::json;

use crate::gateway::{self, Server};
use crate::{process, tools, workspace};

/// Who is tested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// The gateway, by the fuzzing client.
    Server,
    /// `tidegate-wire`'s example client, by the fuzzing server.
    Client,
}

/// Runs the suite against one side.
///
/// # Errors
///
/// A case behaves otherwise than expected, or the suite can't be run.
pub(crate) fn run(side: Side, args: &[String]) -> anyhow::Result<()> {
    let (mut scope, mut bless, mut url) = (Scope::Sample, false, None);
    let usage = "usage: cargo xtask conformance autobahn-server|autobahn-client [--all [--bless] | --cases 1,9.1,…] [--url WS-ECHO]";
    let mut args = args.iter().map(String::as_str);
    while let Some(arg) = args.next() {
        match arg {
            "--all" => scope = Scope::All,
            "--bless" => bless = true,
            "--cases" => {
                let list = args.next().context(usage)?;
                scope = Scope::Some(list.split(',').map(|it| format!("{it}.")).collect());
            }
            "--url" if side == Side::Server => {
                url = Some(args.next().context(usage)?.to_owned());
            }
            _ => anyhow::bail!(usage),
        }
    }
    let file = workspace::root().join("tests/autobahn").join(side.expected());
    let expected: Expected = serde_json::from_slice(&std::fs::read(&file)?)
        .with_context(|| format!("reading {}", file.display()))?;
    let cases: Vec<Case> = expected.keys().copied().filter(|case| scope.has(*case)).collect();

    let folder = workspace::target().join("conformance").join(side.name());
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    std::fs::create_dir_all(&folder)?;
    let begun = Instant::now();
    let results = match side {
        Side::Server => run_server(&cases, url.as_deref(), &folder)?,
        Side::Client => run_client(&cases, &folder)?,
    };

    let problems = judge(&cases, &expected, &results);
    for problem in &problems {
        println!("{problem}");
    }
    println!(
        "{}: {} of {} cases in {} s, {} not as expected",
        side.name(),
        results.len(),
        expected.len(),
        begun.elapsed().as_secs(),
        problems.len()
    );
    if bless && scope == Scope::All && results.values().all(Outcome::is_good) {
        let outcomes = results.iter().map(|(case, outcome)| (*case, outcome.verdict()));
        std::fs::write(&file, expected_text(&outcomes.collect()))?;
        println!("wrote {}", file.display());
        return Ok(());
    }
    anyhow::ensure!(problems.is_empty(), "reports: {}", folder.display());
    Ok(())
}

/// Which cases run.
#[derive(PartialEq, Eq)]
enum Scope {
    All,
    /// Those whose numbers begin so; each ends with a dot.
    Some(Vec<String>),
    /// What runs within a minute or two, with every kind of case in it.
    Sample,
}

impl Scope {
    fn has(&self, case: Case) -> bool {
        match (self, case.0) {
            (Scope::All, _) => true,
            (Scope::Some(begins), _) => {
                begins.iter().any(|it| format!("{case}.").starts_with(it.as_str()))
            }
            // Four of its eighteen sizes of message and fragment, of all variants.
            (Scope::Sample, [12 | 13, _, size]) => matches!(size, 1 | 4 | 7 | 11),
            (Scope::Sample, _) => true,
        }
    }
}

impl Side {
    fn name(self) -> &'static str {
        match self {
            Side::Server => "autobahn-server",
            Side::Client => "autobahn-client",
        }
    }

    fn expected(self) -> &'static str {
        match self {
            Side::Server => "expected-server.json",
            Side::Client => "expected-client.json",
        }
    }
}

/// A case's number: `6.4.1`, or `2.5`, whose last part is 0 here. Ordered as numbers.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(try_from = "String")]
struct Case([u16; 3]);

impl TryFrom<String> for Case {
    type Error = anyhow::Error;

    fn try_from(text: String) -> anyhow::Result<Case> {
        let parts: Result<Vec<u16>, _> = text.split('.').map(str::parse).collect();
        match parts.as_deref() {
            Ok(&[major, middle]) => Ok(Case([major, middle, 0])),
            Ok(&[major, middle, minor]) => Ok(Case([major, middle, minor])),
            _ => anyhow::bail!("`{text}` is no case"),
        }
    }
}

impl std::fmt::Display for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            [major, middle, 0] => write!(f, "{major}.{middle}"),
            [major, middle, minor] => write!(f, "{major}.{middle}.{minor}"),
        }
    }
}

impl Case {
    /// Roughly how long it takes, to share them out evenly.
    fn weight(self) -> u32 {
        match self.0 {
            [12 | 13, _, size] => u32::from(size) * 4,
            [9, ..] => 10,
            _ => 1,
        }
    }
}

/// Behaviour, and behaviour at the close.
type Verdict = (String, String);
type Expected = BTreeMap<Case, Verdict>;
type Results = BTreeMap<Case, Outcome>;

/// What Autobahn says of one case, in its `index.json`.
#[derive(Debug, Deserialize)]
struct Outcome {
    behavior: String,
    #[serde(rename = "behaviorClose")]
    behavior_close: String,
    /// Of the case's own report, beside the index.
    reportfile: String,
    /// Where that is; not Autobahn's.
    #[serde(skip)]
    folder: PathBuf,
}

impl Outcome {
    fn verdict(&self) -> Verdict {
        (self.behavior.clone(), self.behavior_close.clone())
    }

    fn is_good(&self) -> bool {
        is_good(&self.verdict())
    }

    /// What the case's own report says went wrong.
    fn explanation(&self) -> String {
        let report = std::fs::read(self.folder.join(&self.reportfile)).unwrap_or_default();
        let report: serde_json::Value = serde_json::from_slice(&report).unwrap_or_default();
        let text = |key: &str| report.get(key).and_then(|it| it.as_str()).unwrap_or("?").to_owned();
        format!(
            "{}\n    expected: {}\n    {}",
            text("description"),
            text("expectation"),
            text("result")
        )
    }
}

fn is_good(verdict: &Verdict) -> bool {
    let good = |it: &str| matches!(it, "OK" | "INFORMATIONAL");
    good(&verdict.0) && good(&verdict.1)
}

/// What is wrong: cases that did not run, that ran unasked, that went otherwise than expected, and
/// expectations that are none.
fn judge(cases: &[Case], expected: &Expected, results: &Results) -> Vec<String> {
    let mut problems = Vec::new();
    for case in cases {
        let Some(expect) = expected.get(case) else { continue };
        match results.get(case) {
            None => problems.push(format!("{case}: did not run")),
            Some(outcome) if !is_good(expect) || outcome.verdict() != *expect => {
                let (behavior, close) = outcome.verdict();
                problems.push(format!(
                    "{case}: {behavior}, close {close}; expected {} and {}\n    {}",
                    expect.0,
                    expect.1,
                    outcome.explanation()
                ));
            }
            Some(_) => {}
        }
    }
    let extra = results.keys().filter(|case| !cases.contains(case));
    problems.extend(extra.map(|case| format!("{case}: is not in the file of expected results")));
    problems
}

fn expected_text(expected: &Expected) -> String {
    let line = |(case, verdict): (&Case, &Verdict)| {
        format!("  \"{case}\": [\"{}\", \"{}\"]", verdict.0, verdict.1)
    };
    let lines: Vec<String> = expected.iter().map(line).collect();
    format!("{{\n{}\n}}\n", lines.join(",\n"))
}

/// Shares `cases` out to `count` processes so that they end together.
fn share_out(cases: &[Case], count: usize) -> Vec<Vec<Case>> {
    let mut heaviest_first = cases.to_vec();
    heaviest_first.sort_by_key(|case| std::cmp::Reverse((case.weight(), *case)));
    let mut shards: Vec<(u32, Vec<Case>)> = vec![(0, Vec::new()); count];
    for case in heaviest_first {
        let lightest = shards.iter_mut().min_by_key(|shard| shard.0);
        let Some((weight, shard)) = lightest else { break };
        *weight += case.weight();
        shard.push(case);
    }
    shards.retain(|shard| !shard.1.is_empty());
    shards.into_iter().map(|shard| shard.1).collect()
}

/// Runs `one(number, cases)` for each shard side by side, and joins what they find.
fn side_by_side(
    cases: &[Case],
    one: impl Fn(usize, &[Case]) -> anyhow::Result<Results> + Sync,
) -> anyhow::Result<Results> {
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    let shards = share_out(cases, cores);
    let results = std::thread::scope(|scope| {
        let start = |(number, shard)| {
            scope.spawn({
                let one = &one;
                move || one(number, shard)
            })
        };
        let threads: Vec<_> = shards.iter().map(Vec::as_slice).enumerate().map(start).collect();
        let join = |it: std::thread::ScopedJoinHandle<'_, anyhow::Result<Results>>| {
            it.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a suite's thread panicked")))
        };
        threads.into_iter().map(join).collect::<anyhow::Result<Vec<Results>>>()
    })?;
    Ok(results.into_iter().flatten().collect())
}

/// Far above what all cases take on one slow core. A step of continuous integration ends sooner.
const TIMEOUT: Duration = Duration::from_secs(60 * 60);

fn run_server(cases: &[Case], url: Option<&str>, folder: &Path) -> anyhow::Result<Results> {
    let wstest = tools::wstest()?;
    let mut gateway = None;
    if url.is_none() {
        let config = workspace::root().join("tests/autobahn/tidegate.toml");
        let args = ["--config", &config.to_string_lossy()];
        let program = gateway::build()?;
        let log = folder.join("gateway.log");
        gateway = Some(Server::gateway(&program, "127.0.0.1:0", &args, &log)?);
    }
    side_by_side(cases, |number, shard| {
        let folder = folder.join(number.to_string());
        let url = match (&gateway, url) {
            (Some(gateway), _) => format!("ws://{}/channels/autobahn-{number}", gateway.address),
            (None, url) => url.unwrap_or_default().to_owned(),
        };
        let spec = json!({
            "outdir": folder,
            "servers": [{"agent": AGENT, "url": url, "options": {"version": 18}}],
            "cases": names(shard),
        });
        let mut command = wstest_command(&wstest, "fuzzingclient", &spec, &folder)?;
        process::run_logged(&mut command, &folder.join("wstest.log"), TIMEOUT)?;
        read_index(&folder)
    })
}

fn run_client(cases: &[Case], folder: &Path) -> anyhow::Result<Results> {
    let wstest = tools::wstest()?;
    let build = ["build", "--quiet", "--release", "--locked", "-p", "tidegate-wire"];
    process::run(workspace::cargo(&build).args(["--example", "autobahn_client"]))?;
    let client = workspace::target().join("release/examples/autobahn_client");
    side_by_side(cases, |number, shard| {
        let folder = folder.join(number.to_string());
        let address = free_address()?;
        let url = format!("ws://{address}");
        let spec = json!({"outdir": folder, "url": url, "cases": names(shard)});
        let mut command = wstest_command(&wstest, "fuzzingserver", &spec, &folder)?;
        let log = std::fs::File::create(folder.join("wstest.log"))?;
        let server = command.args(["--webport", "0"]).stdout(log.try_clone()?).stderr(log).spawn();
        let mut server = server.context("starting wstest")?;
        let result = await_listener(&address).and_then(|()| {
            let mut command = Command::new(&client);
            command.args([url.as_str(), "--agent", AGENT]);
            process::run_logged(&mut command, &folder.join("client.log"), TIMEOUT)
        });
        process::kill_tree(&mut server)?;
        result?;
        read_index(&folder)
    })
}

/// How the tested side is named in the reports.
const AGENT: &str = "tidegate";

fn names(cases: &[Case]) -> Vec<String> {
    let mut cases = cases.to_vec();
    cases.sort();
    cases.iter().map(ToString::to_string).collect()
}

fn wstest_command(
    wstest: &Path,
    mode: &str,
    spec: &serde_json::Value,
    folder: &Path,
) -> anyhow::Result<Command> {
    std::fs::create_dir_all(folder)?;
    let file = folder.join("spec.json");
    std::fs::write(&file, serde_json::to_vec_pretty(spec)?)?;
    let mut command = Command::new(wstest);
    command.args(["--mode", mode, "--spec"]).arg(file);
    Ok(command)
}

fn read_index(folder: &Path) -> anyhow::Result<Results> {
    let file = folder.join("index.json");
    let bytes = std::fs::read(&file).with_context(|| format!("reading {}", file.display()))?;
    let mut index: BTreeMap<String, Results> = serde_json::from_slice(&bytes)?;
    let mut results = index.remove(AGENT).context("Autobahn's index does not name the agent")?;
    for outcome in results.values_mut() {
        outcome.folder = folder.to_owned();
    }
    Ok(results)
}

/// A loopback address that nobody listens on; `wstest` can't be asked which port it took.
fn free_address() -> anyhow::Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

fn await_listener(address: &str) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(30);
    while TcpStream::connect(address).is_err() {
        anyhow::ensure!(Instant::now() < deadline, "nobody listens on {address} after 30 s");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(text: &str) -> Case {
        Case::try_from(text.to_owned()).unwrap()
    }

    fn outcome(behavior: &str, close: &str) -> Outcome {
        Outcome {
            behavior: behavior.into(),
            behavior_close: close.into(),
            reportfile: String::new(),
            folder: PathBuf::new(),
        }
    }

    #[track_caller]
    fn check(expect: (&str, &str), result: Option<(&str, &str)>, is_fine: bool) {
        let one = case("6.4.1");
        let expected = Expected::from([(one, (expect.0.to_owned(), expect.1.to_owned()))]);
        let results = result.map(|it| (one, outcome(it.0, it.1))).into_iter().collect();
        let problems = judge(&[one], &expected, &results);
        assert_eq!(problems.is_empty(), is_fine, "{problems:?}");
    }

    #[test]
    fn only_what_is_expected_and_good_passes() {
        check(("OK", "OK"), Some(("OK", "OK")), true);
        check(("OK", "INFORMATIONAL"), Some(("OK", "INFORMATIONAL")), true);
        check(("OK", "OK"), Some(("NON-STRICT", "OK")), false);
        check(("OK", "OK"), Some(("OK", "FAILED")), false);
        check(("OK", "OK"), None, false);
        check(("UNIMPLEMENTED", "OK"), Some(("UNIMPLEMENTED", "OK")), false);
    }

    #[test]
    fn a_scope_is_all_some_or_a_sample() {
        let some = Scope::Some(vec!["9.1.".into(), "10.".into(), "2.3.".into()]);
        let has = |scope: &Scope, text| scope.has(case(text));
        assert!(has(&some, "9.1.6") && has(&some, "10.1.1") && has(&some, "2.3"));
        assert!(!has(&some, "1.1.1") && !has(&some, "9.2.1"));
        assert!(has(&Scope::Sample, "9.1.6") && has(&Scope::Sample, "13.7.1"));
        assert!(!has(&Scope::Sample, "12.1.18") && has(&Scope::All, "12.1.18"));
    }

    #[test]
    fn a_case_that_nobody_expects_is_told() {
        let results = Results::from([(case("1.1.1"), outcome("OK", "OK"))]);
        assert_eq!(judge(&[], &Expected::new(), &results).len(), 1);
    }

    #[test]
    fn cases_are_shared_out_evenly_and_none_is_lost() {
        let cases: Vec<Case> = (1..=18).map(|it| case(&format!("12.1.{it}"))).collect();
        let shards = share_out(&cases, 3);
        let weights: Vec<u32> =
            shards.iter().map(|shard| shard.iter().map(|it| it.weight()).sum()).collect();
        assert!(weights.iter().max().unwrap() - weights.iter().min().unwrap() <= 8, "{weights:?}");
        let mut all: Vec<Case> = shards.into_iter().flatten().collect();
        all.sort();
        assert_eq!(all, cases);
        assert_eq!(share_out(&cases[..1], 3).len(), 1);
    }

    #[test]
    fn the_committed_expectations_are_all_there_and_all_good() {
        for side in [Side::Server, Side::Client] {
            let file = workspace::root().join("tests/autobahn").join(side.expected());
            let text = std::fs::read_to_string(file).unwrap();
            let expected: Expected = serde_json::from_str(&text).unwrap();
            assert_eq!(expected.len(), 517);
            assert!(expected.values().all(is_good));
            assert_eq!(expected_text(&expected), text);
        }
    }
}
