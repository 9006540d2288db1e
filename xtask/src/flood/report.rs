//! What came out of a flood: a row of `bench/results/floods.json`, and the page made from it.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::time::Duration;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::crowd::{self, Window};
use super::stage::Told;
use super::{Flood, Plan};
use crate::bench;
use crate::workspace;

/// One flood, measured. Times are milliseconds, sizes MiB.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Row {
    name: String,
    title: String,
    date: String,
    commit: String,
    /// Medians of the stretches.
    calm_p50: f64,
    calm_p99: f64,
    flood_p50: f64,
    flood_p99: f64,
    /// The longest that anything took, in calm and in flood.
    calm_max: f64,
    flood_max: f64,
    deliveries: u64,
    /// Cores that the server used.
    calm_cores: f64,
    flood_cores: f64,
    calm_memory: f64,
    peak_memory: f64,
    after_memory: f64,
    /// What the peak may be.
    memory_max: f64,
    calm_files: usize,
    peak_files: usize,
    after_files: usize,
    /// Seconds until memory was within a tenth and the descriptors were those of before.
    back_after: Option<f64>,
    told: String,
}

impl Row {
    pub(super) fn new(
        flood: &Flood,
        calm: &[Window],
        flooded: &[Window],
        back: Option<Duration>,
        after: &Window,
        told: &Told,
    ) -> Row {
        let first = calm.first();
        let calm_memory = first.map_or(0.0, Window::memory_mib);
        Row {
            name: flood.name.to_owned(),
            title: flood.title.to_owned(),
            date: workspace::today(),
            commit: workspace::commit(),
            calm_p50: median(calm, |it| it.p50_ms),
            calm_p99: median(calm, |it| it.p99_ms),
            flood_p50: median(flooded, |it| it.p50_ms),
            flood_p99: median(flooded, |it| it.p99_ms),
            calm_max: most(calm, |it| it.max_ms),
            flood_max: most(flooded, |it| it.max_ms),
            deliveries: calm.iter().chain(flooded).map(|it| it.deliveries).sum(),
            calm_cores: median(calm, |it| it.server_cores),
            flood_cores: median(flooded, |it| it.server_cores),
            calm_memory,
            peak_memory: most(flooded, Window::peak_mib),
            after_memory: after.memory_mib(),
            memory_max: calm_memory + flood.memory_mib as f64,
            calm_files: first.map_or(0, |it| it.files),
            peak_files: flooded.iter().map(|it| it.files).max().unwrap_or_default(),
            after_files: after.files,
            back_after: back.map(|it| it.as_secs_f64()),
            told: told.to_string(),
        }
    }

    /// What did not hold, in words.
    pub(super) fn missed(&self, plan: &Plan) -> Vec<String> {
        let mut missed = Vec::new();
        let p99_max = (2.0 * self.calm_p99).max(plan.p99_floor_ms);
        if self.flood_p99 > p99_max {
            missed.push(format!("p99 {:.1} ms, at most {p99_max:.1}", self.flood_p99));
        }
        if self.peak_memory > self.memory_max {
            let (seen, bound) = (self.peak_memory, self.memory_max);
            missed.push(format!("{seen:.1} MiB resident, at most {bound:.1}"));
        }
        if self.back_after.is_none() {
            missed.push(format!(
                "memory is {:.1} MiB and was {:.1}, descriptors are {} and were {}",
                self.after_memory, self.calm_memory, self.after_files, self.calm_files
            ));
        }
        missed.into_iter().map(|it| format!("{}: {it}", self.name)).collect()
    }
}

fn median(windows: &[Window], of: impl Fn(&Window) -> f64) -> f64 {
    bench::median(windows.iter().map(of).collect()).unwrap_or_default()
}

fn most(windows: &[Window], of: impl Fn(&Window) -> f64) -> f64 {
    windows.iter().map(of).fold(0.0, f64::max)
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let back = self.back_after.map_or_else(|| "not back".to_owned(), |it| format!("{it:.1} s"));
        write!(
            f,
            "{}: p99 {:.1} → {:.1} ms, memory {:.1} → {:.1} (at most {:.1}) → {:.1} MiB, {} → {} \
             descriptors, back after {back}; told: {}",
            self.name,
            self.calm_p99,
            self.flood_p99,
            self.calm_memory,
            self.peak_memory,
            self.memory_max,
            self.after_memory,
            self.calm_files,
            self.after_files,
            self.told,
        )
    }
}

/// Puts `row` in the place of what was measured of that flood before, and makes the page anew.
pub(super) fn write(row: &Row) -> anyhow::Result<()> {
    let folder = workspace::root().join("bench/results");
    let file = folder.join("floods.json");
    let mut rows: BTreeMap<String, Row> = match std::fs::read_to_string(&file) {
        Ok(text) => serde_json::from_str(&text).with_context(|| format!("{}", file.display()))?,
        Err(_) => BTreeMap::new(),
    };
    // By way of text: a row is not copied otherwise.
    rows.insert(row.name.clone(), serde_json::from_value(serde_json::to_value(row)?)?);
    std::fs::write(&file, serde_json::to_string_pretty(&rows)? + "\n")?;
    std::fs::write(folder.join("floods.md"), page(rows.values())?)?;
    Ok(())
}

fn page<'a>(rows: impl Iterator<Item = &'a Row>) -> anyhow::Result<String> {
    let mut page = "# Floods\n\nWritten by `cargo xtask flood`; `xtask/src/flood` has a file per \
                    flood, which says what it does and why its memory is bounded.\n\n"
        .to_owned();
    let clients: usize = crowd::CLIENTS.iter().map(|it| it.1).sum();
    writeln!(
        page,
        "Beside each: {clients} good clients on mixed wires, {} publications a second of 100 bytes; \
         none of them lost, doubled or disconnected. Times are from publish to receive, in \
         milliseconds, calm → in the flood, medians of three stretches of each, which take turns; p99 \
         may double. Memory is MiB: calm → the most resident (at most) → afterwards, which has to be \
         within a tenth.\n",
        crowd::RATE,
    )?;
    writeln!(
        page,
        "| flood | p50 | p99 | longest | server's cores | memory | descriptors | back after | what \
         the peers were told | |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    )?;
    for row in rows {
        let back = row.back_after.map_or_else(|| "**never**".to_owned(), |it| format!("{it:.1} s"));
        writeln!(
            page,
            "| {}: {} | {:.1} → {:.1} | {:.1} → {:.1} | {:.0} → {:.0} | {:.2} → {:.2} | {:.1} → \
             {:.1} ({:.0}) → {:.1} | {} → {} → {} | {back} | {} | {}, {} |",
            row.name,
            row.title,
            row.calm_p50,
            row.flood_p50,
            row.calm_p99,
            row.flood_p99,
            row.calm_max,
            row.flood_max,
            row.calm_cores,
            row.flood_cores,
            row.calm_memory,
            row.peak_memory,
            row.memory_max,
            row.after_memory,
            row.calm_files,
            row.peak_files,
            row.after_files,
            row.told,
            row.date,
            row.commit,
        )?;
    }
    Ok(page)
}
