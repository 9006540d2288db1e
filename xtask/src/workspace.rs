//! Where things are: the repository's root, cargo's target folder, and what cargo knows of the
//! packages.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;
use serde::Deserialize;

/// The repository's root.
pub(crate) fn root() -> &'static Path {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest)
}

/// Cargo's target folder, as the environment of this run has it.
pub(crate) fn target() -> PathBuf {
    // `CARGO_TARGET_DIR` may be relative, to where cargo was called; aliases run in the root.
    let named = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    root().join(named)
}

/// A `cargo` command in the repository's root.
pub(crate) fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()).args(args);
    command
}

/// The day, of UTC.
pub(crate) fn today() -> String {
    said("date", &["-u", "+%Y-%m-%d"])
}

/// The commit that is checked out, in short.
pub(crate) fn commit() -> String {
    said("git", &["rev-parse", "--short", "HEAD"])
}

/// What a command prints, or nothing: it is only for the record.
pub(crate) fn said(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).current_dir(root()).args(args).output();
    output.map(|it| String::from_utf8_lossy(&it.stdout).trim().to_owned()).unwrap_or_default()
}

/// What `cargo metadata` says, cut down to what is read here.
#[derive(Debug, Deserialize)]
pub(crate) struct Metadata {
    /// Every package of the dependency graph, ours included.
    pub(crate) packages: Vec<Package>,
    /// Ids of the packages that are ours.
    pub(crate) workspace_members: Vec<String>,
}

/// One package.
#[derive(Debug, Deserialize)]
pub(crate) struct Package {
    /// Cargo's id for it.
    pub(crate) id: String,
    /// Its name.
    pub(crate) name: String,
    /// Its version.
    pub(crate) version: String,
    /// Its SPDX licence expression, where it gives one.
    pub(crate) license: Option<String>,
    /// What its manifest names, of all kinds and for all platforms.
    pub(crate) dependencies: Vec<Dependency>,
}

/// One dependency in a manifest.
#[derive(Debug, Deserialize)]
pub(crate) struct Dependency {
    /// The package's name (not what it may be renamed to).
    pub(crate) name: String,
    /// `None` for an ordinary one, else `dev` or `build`.
    pub(crate) kind: Option<String>,
}

/// Asks cargo for the whole dependency graph, as `Cargo.lock` has it.
///
/// # Errors
///
/// Cargo's own: above all a `Cargo.lock` that does not fit the manifests.
pub(crate) fn metadata() -> anyhow::Result<Metadata> {
    let output = cargo(&["metadata", "--format-version", "1", "--locked"])
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("starting cargo metadata")?;
    anyhow::ensure!(
        output.status.success(),
        "cargo metadata --locked failed: run `cargo check` and commit Cargo.lock"
    );
    serde_json::from_slice(&output.stdout).context("reading cargo metadata")
}

/// The files of the repository: those that git tracks and those that it would add.
///
/// # Errors
///
/// Git's own.
pub(crate) fn files() -> anyhow::Result<Vec<String>> {
    let args = ["ls-files", "-z", "--cached", "--others", "--exclude-standard", "--deduplicate"];
    let output = Command::new("git").current_dir(root()).args(args).output();
    let output = output.context("starting git: it is needed to know which files are ours")?;
    anyhow::ensure!(
        output.status.success(),
        "git ls-files failed: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    let names = String::from_utf8(output.stdout).context("a file's name is not UTF-8")?;
    // A file that is deleted but not yet committed is still listed.
    let present = |name: &&str| !name.is_empty() && root().join(name).is_file();
    Ok(names.split('\0').filter(present).map(str::to_owned).collect())
}
