//! `cargo xtask examples`: each example of `examples/`, as a reader would run it.
//!
//! An example is `examples/NN-name`, an executable, or a folder with the executable `run`. It talks
//! to the gateway at `TIDEGATE_URL`, `http://127.0.0.1:8080` where that is not set, starts nothing
//! that outlives it, and exits with 0 when it has shown what it shows.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;

use crate::gateway::{self, Server};
use crate::{process, tools, workspace};

/// Runs every example against a gateway of its own.
///
/// # Errors
///
/// One failed, or there are none.
pub(crate) fn run(args: &[String]) -> anyhow::Result<()> {
    anyhow::ensure!(args.is_empty(), "usage: cargo xtask examples");
    let entries = std::fs::read_dir(workspace::root().join("examples"));
    let entries = entries.context("reading examples/")?.collect::<Result<Vec<_>, _>>()?;
    let mut examples: Vec<PathBuf> = entries.iter().map(std::fs::DirEntry::path).collect();
    examples.retain(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(|it: char| it.is_ascii_digit())
    });
    examples.sort();
    anyhow::ensure!(!examples.is_empty(), "examples/ has no example: they are named NN-name");

    let program = gateway::build()?;
    tools::curl()?;
    let logs = workspace::target().join("examples-log");
    std::fs::create_dir_all(&logs)?;
    for example in examples {
        let name = example.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let log = logs.join(format!("{name}.gateway"));
        let gateway = Server::gateway(&program, "127.0.0.1:0", &[], &log)?;
        let file = if example.is_dir() { example.join("run") } else { example };
        let mut command = Command::new(file);
        command.current_dir(workspace::root());
        command.env("TIDEGATE_URL", format!("http://{}", gateway.address));
        let log = logs.join(&name);
        let result = process::run_logged(&mut command, &log, Duration::from_secs(60));
        println!("---- {name}\n{}", std::fs::read_to_string(&log).unwrap_or_default());
        result?;
    }
    Ok(())
}
