//! `cargo xtask fuzz [SECONDS]`: every target of `fuzz/`, for so many seconds each. They need a
//! nightly's sanitizer flags, which the stable compiler is told to accept.

use anyhow::Context as _;
use std::process::Command;

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
        println!("fuzz: {target} for {seconds} s");
        let time = format!("-max_total_time={seconds}");
        // An input may take a while under the sanitizer; one that takes 10 s is a finding.
        let args = [
            "run",
            &target,
            "--",
            &time,
            "-timeout=10",
            "-rss_limit_mb=2048",
            "-print_final_stats=1",
        ];
        process::run_quietly(&mut cargo_fuzz(&args)?).with_context(|| {
            format!("{target}: the input is in fuzz/artifacts/{target}; make it a test, then mend the code")
        })?;
    }
    Ok(())
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
}
