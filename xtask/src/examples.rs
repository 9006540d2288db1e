//! `cargo xtask examples`: each example of `examples/`, as a reader would run it.
//!
//! An example is `examples/NN-name` with the executable `run`, which starts the gateway that
//! `TIDEGATE` names, and leaves nothing behind. One with a page goes on until it is interrupted:
//! `tests/examples/NN-name.test.mjs` looks at the page in Chromium and interrupts it. Any other ends
//! by itself, and exits with 0 when it has shown what it shows.

use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;

use crate::{clients, gateway, process, tools, workspace};

/// Far above what one takes on a busy machine: it ends what hangs.
const TIMEOUT: Duration = Duration::from_secs(300);

/// Runs every example, or those whose names begin with an argument.
///
/// # Errors
///
/// One failed, or there are none.
pub(crate) fn run(args: &[String]) -> anyhow::Result<()> {
    let mut names = names()?;
    if !args.is_empty() {
        names.retain(|name| args.iter().any(|it| name.starts_with(it)));
    }
    anyhow::ensure!(!names.is_empty(), "examples/ has no such example: they are named NN-name");
    let program = gateway::build()?;
    tools::curl()?;
    let logs = workspace::target().join("examples-log");
    std::fs::create_dir_all(&logs)?;
    for name in names {
        let log = logs.join(&name);
        let test = workspace::root().join(format!("tests/examples/{name}.test.mjs"));
        let run = workspace::root().join("examples").join(&name).join("run");
        let mut command =
            if test.exists() { clients::browser_tests(vec![test])? } else { Command::new(run) };
        command.current_dir(workspace::root()).env("TIDEGATE", &program);
        let result = process::run_logged(&mut command, &log, TIMEOUT);
        println!("---- {name}\n{}", std::fs::read_to_string(&log).unwrap_or_default());
        result?;
    }
    Ok(())
}

/// What is in `examples/` and has a number, in its order.
fn names() -> anyhow::Result<Vec<String>> {
    let entries = std::fs::read_dir(workspace::root().join("examples"));
    let entries = entries.context("reading examples/")?.collect::<Result<Vec<_>, _>>()?;
    let names = entries.iter().map(|it| it.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> =
        names.filter(|it| it.starts_with(|first: char| first.is_ascii_digit())).collect();
    names.sort();
    Ok(names)
}
