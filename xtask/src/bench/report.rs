//! What a run writes: a JSON file per scenario with every round, and one page of tables that is made
//! from all the files that are there.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::Options;
use super::kit::Kit;
use super::measure::{Group, Measured};
use super::scenario::{Column, Scenario, Verdict};
use crate::workspace;

/// A scenario, measured.
pub(crate) struct Outcome {
    scenario: Scenario,
    rounds: usize,
    groups: Vec<Measured>,
    codec: Option<Value>,
    verdicts: Vec<Verdict>,
}

impl Outcome {
    /// Measures all groups of a scenario.
    pub(crate) fn measure(
        scenario: Scenario,
        groups: &[Group],
        rounds: usize,
        is_quick: bool,
        kit: &Kit,
    ) -> anyhow::Result<Outcome> {
        eprintln!("\n{}", scenario.title());
        let codec = if scenario == Scenario::Codec { Some(codec(kit)?) } else { None };
        let measured: anyhow::Result<Vec<Measured>> =
            groups.iter().map(|group| group.measure(rounds, is_quick, kit)).collect();
        let groups = measured?;
        let verdicts = scenario.verdicts(&groups, codec.as_ref());
        Ok(Outcome { scenario, rounds, groups, codec, verdicts })
    }

    /// The targets that were missed, in words.
    pub(crate) fn missed(&self) -> Vec<String> {
        let missed = self.verdicts.iter().filter(|it| !it.is_met());
        missed
            .map(|it| {
                let seen = it.seen.map_or_else(|| "not measured".to_owned(), figure);
                let bound =
                    it.at_most.map_or_else(String::new, |it| format!(", at most {}", figure(it)));
                format!("{}: {}: {seen}{bound}", self.scenario.name(), it.claim)
            })
            .collect()
    }

    /// Writes the scenario's JSON file.
    pub(crate) fn write(&self, kit: &Kit, options: &Options) -> anyhow::Result<()> {
        let folder = kit.results(options);
        fs::create_dir_all(&folder)?;
        let targets: Vec<Value> = self
            .verdicts
            .iter()
            .map(|it| {
                json!({ "claim": it.claim, "at_most": it.at_most, "seen": it.seen, "met": it.is_met() })
            })
            .collect();
        let groups: Vec<Value> = self.groups.iter().map(|it| self.group(it)).collect();
        let file = folder.join(format!("{}.json", self.scenario.name()));
        let mut report = json!({
            "scenario": self.scenario.name(),
            "title": self.scenario.title(),
            "command": kit.command,
            "date": workspace::today(),
            "commit": workspace::commit(),
            "machine": machine(),
            "rounds": self.rounds,
            "targets": targets,
            "groups": groups,
        });
        if let (Some(codec), Some(report)) = (&self.codec, report.as_object_mut()) {
            report.insert("codec".to_owned(), codec.clone());
        }
        if let (Some(before), Some(report)) = (before(&file), report.as_object_mut()) {
            report.insert("before".to_owned(), before);
        }
        fs::write(&file, serde_json::to_string_pretty(&report)? + "\n")
            .with_context(|| format!("writing {}", file.display()))
    }

    fn group(&self, group: &Measured) -> Value {
        let columns = self.scenario.columns();
        let mut rows = Vec::new();
        if group.baseline(group.metric).is_some() {
            let cells = columns.iter().map(|column| match column {
                Column::Figure(_, path, unit, decimals) => {
                    cell(group.baseline(path).map(|it| it / unit), *decimals)
                }
                Column::Ratio(_) => "1".to_owned(),
            });
            rows.push(row("raw", cells));
        }
        for label in &group.labels {
            let cells = columns.iter().map(|column| match column {
                Column::Figure(_, path, unit, decimals) => {
                    cell(group.figure(label, path).map(|it| it / unit), *decimals)
                }
                Column::Ratio(_) => cell(group.ratio(label), 2),
            });
            rows.push(row(label, cells));
        }
        let headers = columns.iter().map(|column| match column {
            Column::Figure(header, ..) | Column::Ratio(header) => (*header).to_owned(),
        });
        let rounds: Vec<Value> = group
            .rounds
            .iter()
            .map(|round| {
                let jobs: serde_json::Map<String, Value> = round
                    .jobs
                    .iter()
                    .map(|(label, report)| {
                        let report = match report {
                            Ok(report) => report.clone(),
                            Err(error) => json!({ "error": error }),
                        };
                        ((*label).to_owned(), report)
                    })
                    .collect();
                json!({ "baseline": round.baseline, "jobs": jobs })
            })
            .collect();
        json!({
            "name": group.name,
            "metric": group.metric,
            "dropped": group.dropped,
            "columns": row("", headers),
            "rows": rows,
            "rounds": rounds,
        })
    }
}

/// What the report that is about to be written over saw: a result says little without the one before.
fn before(file: &Path) -> Option<Value> {
    let report: Value = serde_json::from_str(&fs::read_to_string(file).ok()?).ok()?;
    let of = |key| report.get(key).cloned().unwrap_or_default();
    let targets: Vec<Value> = array(&report, "targets")
        .map(|it| json!({ "claim": it.get("claim"), "seen": it.get("seen") }))
        .collect();
    Some(json!({ "date": of("date"), "commit": of("commit"), "targets": targets }))
}

fn row(label: &str, cells: impl Iterator<Item = String>) -> Vec<String> {
    std::iter::once(label.to_owned()).chain(cells).collect()
}

fn cell(figure: Option<f64>, decimals: usize) -> String {
    figure.map_or_else(|| "–".to_owned(), |it| format!("{it:.decimals$}"))
}

/// A figure of unknown size, with three digits that count.
fn figure(it: f64) -> String {
    match it.abs() {
        0.0 => "0".to_owned(),
        ..0.1 => format!("{it:.4}"),
        ..10.0 => format!("{it:.3}"),
        ..100.0 => format!("{it:.1}"),
        _ => format!("{it:.0}"),
    }
}

/// Runs the codec's own benchmark, which has medians of its own.
fn codec(kit: &Kit) -> anyhow::Result<Value> {
    let output = Command::new("taskset")
        .args(["-c", "0"])
        .arg(kit.folder.join("release/codec"))
        .output()
        .context("starting the codec's benchmark")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "the codec's benchmark failed: {said}");
    serde_json::from_slice(&output.stdout).context("the codec's report")
}

/// What the figures were measured on, and how busy it was with other things.
fn machine() -> Value {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).map(str::to_owned);
        line.and_then(|it| Some(it.split_once(':')?.1.trim().to_owned())).unwrap_or_default()
    };
    json!({
        "processor": field(&read("/proc/cpuinfo"), "model name"),
        "cores": std::thread::available_parallelism().map(usize::from).unwrap_or_default(),
        "memory": field(&read("/proc/meminfo"), "MemTotal"),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "rustc": workspace::said("rustc", &["--version"]),
        "load_average": read("/proc/loadavg").split(' ').next().unwrap_or_default(),
    })
}

/// Writes `README.md` from the JSON files in `folder`.
pub(crate) fn summarise(folder: &Path) -> anyhow::Result<()> {
    let mut page = "# Results\n\nWritten by `cargo xtask bench`; `bench/README.md` says what each \
                    figure means. Every target is an upper bound.\n"
        .to_owned();
    for scenario in Scenario::ALL {
        let file = folder.join(format!("{}.json", scenario.name()));
        let Ok(text) = fs::read_to_string(&file) else { continue };
        let report: Value =
            serde_json::from_str(&text).with_context(|| format!("reading {}", file.display()))?;
        section(&mut page, &report)?;
    }
    fs::write(folder.join("README.md"), page)?;
    Ok(())
}

fn section(page: &mut String, report: &Value) -> anyhow::Result<()> {
    let text = |value: &Value, key: &str| {
        value.get(key).map(|it| it.as_str().map_or_else(|| it.to_string(), str::to_owned))
    };
    let get = |key| text(report, key).unwrap_or_default();
    let machine = report.get("machine").unwrap_or(&Value::Null);
    let of = |key| text(machine, key).unwrap_or_default();
    writeln!(page, "\n## {}\n", get("title"))?;
    writeln!(
        page,
        "`{}`, {}, commit {}, {} rounds. {}, {} cores, {}, Linux {}, {}, load average {} at the \
         end.\n",
        get("command"),
        get("date"),
        get("commit"),
        get("rounds"),
        of("processor"),
        of("cores"),
        of("memory"),
        of("kernel"),
        of("rustc"),
        of("load_average"),
    )?;
    let before = report.get("before").unwrap_or(&Value::Null);
    let since = text(before, "commit").map_or_else(String::new, |it| format!("before, {it}"));
    writeln!(page, "| target | at most | {since} | seen | |\n| --- | --- | --- | --- | --- |")?;
    for target in array(report, "targets") {
        let seen = target.get("seen").and_then(Value::as_f64);
        let seen = seen.map_or_else(|| "not measured".to_owned(), figure);
        let at_most = target.get("at_most").and_then(Value::as_f64).map(figure);
        let met = target.get("met").and_then(Value::as_bool) == Some(true);
        let mark = match (met, &at_most) {
            (true, Some(_)) => "met",
            (true, None) => "reported",
            (false, _) => "**missed**",
        };
        let (claim, at_most) = (text(target, "claim"), at_most.unwrap_or_default());
        let mut earlier = array(before, "targets").filter(|it| text(it, "claim") == claim);
        let earlier = earlier.next().and_then(|it| it.get("seen")?.as_f64());
        let earlier = earlier.map(figure).unwrap_or_default();
        writeln!(
            page,
            "| {} | {at_most} | {earlier} | {seen} | {mark} |",
            claim.unwrap_or_default()
        )?;
    }
    for group in array(report, "groups") {
        let dropped = group.get("dropped").and_then(Value::as_u64).unwrap_or_default();
        let kept = array(group, "rounds").count();
        writeln!(
            page,
            "\n{} ({kept} rounds, {dropped} dropped):\n",
            text(group, "name").unwrap_or_default()
        )?;
        let header: Vec<&Value> = array(group, "columns").collect();
        line(page, header.iter().copied())?;
        writeln!(page, "|{}", " --- |".repeat(header.len()))?;
        for row in array(group, "rows") {
            line(page, row.as_array().into_iter().flatten())?;
        }
    }
    if let Some(codec) = report.get("codec") {
        codec_tables(page, codec)?;
    }
    Ok(())
}

fn array<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value.get(key).and_then(Value::as_array).into_iter().flatten()
}

fn line<'a>(page: &mut String, cells: impl Iterator<Item = &'a Value>) -> anyhow::Result<()> {
    let cells: Vec<String> =
        cells.map(|it| it.as_str().map_or_else(|| it.to_string(), str::to_owned)).collect();
    writeln!(page, "| {} |", cells.join(" | "))?;
    Ok(())
}

/// A table for each list of measurements in the codec's report: its keys are the columns.
fn codec_tables(page: &mut String, codec: &Value) -> anyhow::Result<()> {
    let unit = codec.get("unit").and_then(Value::as_str).unwrap_or_default();
    for (name, lines) in codec.as_object().into_iter().flatten() {
        let Some(first) = lines.get(0).and_then(Value::as_object) else { continue };
        let mut keys: Vec<&String> = first.keys().collect();
        keys.sort_by_key(|key| *key != "bytes");
        writeln!(page, "\n{name} ({unit}):\n")?;
        let names: Vec<&str> = keys.iter().map(|key| key.as_str()).collect();
        writeln!(page, "| {} |\n|{}", names.join(" | "), " --- |".repeat(names.len()))?;
        for measured in lines.as_array().into_iter().flatten() {
            line(page, keys.iter().filter_map(|key| measured.get(key.as_str())))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_shows_targets_and_tables() {
        let report = json!({
            "title": "Fan-out", "command": "cargo xtask bench fanout", "date": "2026-01-01",
            "rounds": 5, "machine": { "cores": 2 },
            "targets": [
                { "claim": "W = 1", "at_most": 1.2, "seen": 1.0625, "met": true },
                { "claim": "W = 16", "at_most": 0.06, "seen": null, "met": false },
            ],
            "groups": [{
                "name": "1000 subscribers", "dropped": 1, "columns": ["", "CPU"],
                "rows": [["raw", "3.06"]], "rounds": [{}],
            }],
            "before": { "commit": "abc", "targets": [{ "claim": "W = 1", "seen": 1.5 }] },
            "codec": { "unit": "ns", "decode": [{ "bytes": 16, "ours": 3.5 }] },
        });
        let mut page = String::new();
        section(&mut page, &report).unwrap();
        for expect in [
            "| target | at most | before, abc | seen | |",
            "| W = 1 | 1.200 | 1.500 | 1.062 | met |",
            "| W = 16 | 0.0600 |  | not measured | **missed** |",
            "1000 subscribers (1 rounds, 1 dropped):",
            "| raw | 3.06 |",
            "decode (ns):",
            "| 16 | 3.5 |",
        ] {
            assert!(page.contains(expect), "no `{expect}` in {page}");
        }
    }
}
