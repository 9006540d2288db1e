//! `cargo xtask fuzz [SECONDS]`: every target of `fuzz/`, for so many seconds each. They need a
//! nightly's sanitizer flags, which the stable compiler is told to accept.

use std::process::Command;

use anyhow::Context as _;

use crate::{process, tools, workspace};

/// Builds all targets and runs each.
///
/// # Errors
///
/// A target found something: its input is in `fuzz/artifacts`, to be made a test.
pub(crate) fn run(args: &[String]) -> anyhow::Result<()> {
    let seconds: u32 = match args {
        [] => 10,
        [seconds] => seconds.parse().context("usage: cargo xtask fuzz [SECONDS]")?,
        _ => anyhow::bail!("usage: cargo xtask fuzz [SECONDS]"),
    };
    let manifest = std::fs::read_to_string(workspace::root().join("fuzz/Cargo.toml"))
        .context("there is no fuzz/Cargo.toml")?;
    let targets = targets(&manifest)?;
    anyhow::ensure!(!targets.is_empty(), "fuzz/Cargo.toml has no [[bin]]");
    process::run(&mut cargo_fuzz(&["build"])?)?;
    for target in targets {
        let time = format!("-max_total_time={seconds}");
        // An input may take a while under the sanitizer; one that takes 10 s is a finding.
        let options = [&time, "-timeout=10", "-rss_limit_mb=2048", "-print_final_stats=1"];
        let output = cargo_fuzz(&["run", &target, "--"])?.args(options).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            print!("{said}");
            anyhow::bail!(
                "{target} found something: its input is in fuzz/artifacts/{target}; make it a test, then mend the code"
            );
        }
        let count = executed(&said).with_context(|| format!("{target} ran nothing:\n{said}"))?;
        println!("fuzz: {target}: {count} inputs in {seconds} s");
    }
    Ok(())
}

/// How many inputs libFuzzer says it tried; `None` for none.
fn executed(said: &str) -> Option<u64> {
    let line = said.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
    line?.trim().parse().ok().filter(|count| *count > 0)
}

fn cargo_fuzz(args: &[&str]) -> anyhow::Result<Command> {
    let mut command = Command::new(tools::cargo_fuzz()?);
    // Called as cargo calls it, which gives a subcommand its own name first.
    command.arg("fuzz").args(args).current_dir(workspace::root()).env("RUSTC_BOOTSTRAP", "1");
    // Its own, or it would change what the other builds share.
    command.env("CARGO_TARGET_DIR", workspace::target().join("fuzz"));
    Ok(command)
}

/// The names of the `[[bin]]`s of a manifest.
fn targets(manifest: &str) -> anyhow::Result<Vec<String>> {
    let manifest: toml::Table = manifest.parse().context("reading fuzz/Cargo.toml")?;
    let bins = manifest.get("bin").and_then(toml::Value::as_array).cloned().unwrap_or_default();
    let names = bins.iter().filter_map(|bin| bin.get("name").and_then(toml::Value::as_str));
    Ok(names.map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bin_is_a_target() {
        let manifest =
            "[package]\nname = \"fuzz\"\n[[bin]]\nname = \"header\"\n[[bin]]\nname = \"sse\"\n";
        assert_eq!(targets(manifest).unwrap(), ["header", "sse"]);
        assert!(targets("").unwrap().is_empty());
    }

    #[test]
    fn a_target_that_tried_nothing_is_noticed() {
        assert_eq!(executed("Done\nstat::number_of_executed_units: 1234\n"), Some(1234));
        assert_eq!(executed("stat::number_of_executed_units: 0\n"), None);
        assert_eq!(executed("Done\n"), None);
    }
}
