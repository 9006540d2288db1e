//! Clients that people have, against the gateway: curl, Python's `websockets`, Node's `ws`, readers
//! of metrics (`tests/clients`), and headless Chromium (`tests/browser`). The tests are in each
//! one's own language and start gateways of their own. What all clients are asked alike is in
//! `matrix`.

use std::path::PathBuf;
use std::process::Command;

use crate::{gateway, process, tools, workspace};

/// Runs curl and the packages of Python and Node.
///
/// # Errors
///
/// A test failed, or something is missing and can't be installed.
pub(crate) fn run(args: &[String]) -> anyhow::Result<()> {
    anyhow::ensure!(args.is_empty(), "usage: cargo xtask clients");
    let gateway = gateway::build()?;
    tools::curl()?;
    let mut unittest = Command::new(tools::python()?);
    unittest.args(["-B", "-m", "unittest", "discover", "--verbose", "--start-directory"]);
    unittest.arg(folder("clients")).current_dir(workspace::root()).env("TIDEGATE", &gateway);
    unittest.env("PROMTOOL", tools::promtool()?);
    // Both, whatever the first one says.
    let python = process::run(&mut unittest);
    process::run(node_tests(test_files("clients")?)?.env("TIDEGATE", &gateway))?;
    python
}

/// Runs Chromium.
///
/// # Errors
///
/// As [`run`].
pub(crate) fn run_browser(args: &[String]) -> anyhow::Result<()> {
    anyhow::ensure!(args.is_empty(), "usage: cargo xtask browser");
    let gateway = gateway::build()?;
    process::run(browser_tests(test_files("browser")?)?.env("TIDEGATE", gateway))
}

/// Runs `files`, tests that start Chromium themselves.
///
/// # Errors
///
/// Something is missing and can't be installed.
pub(crate) fn browser_tests(files: Vec<PathBuf>) -> anyhow::Result<Command> {
    let mut node = node_tests(files)?;
    node.env("CHROMIUM", tools::chromium()?);
    Ok(node)
}

/// The `*.test.mjs` of a folder of `tests`.
fn test_files(name: &str) -> anyhow::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder(name))?.collect::<Result<Vec<_>, _>>()?;
    let mut files: Vec<PathBuf> = entries.iter().map(std::fs::DirEntry::path).collect();
    files.retain(|file| file.to_string_lossy().ends_with(".test.mjs"));
    files.sort();
    anyhow::ensure!(!files.is_empty(), "tests/{name} has no *.test.mjs");
    Ok(files)
}

/// Runs `files`, one at a time.
fn node_tests(files: Vec<PathBuf>) -> anyhow::Result<Command> {
    tools::node_modules()?;
    let mut node = Command::new(tools::node()?);
    node.args(["--test", "--test-concurrency=1", "--test-reporter=spec"]).args(files);
    node.current_dir(workspace::root());
    Ok(node)
}

fn folder(name: &str) -> PathBuf {
    workspace::root().join("tests").join(name)
}
