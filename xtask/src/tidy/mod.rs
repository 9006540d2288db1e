//! `cargo xtask tidy`: rules of the house that no compiler holds.
//!
//! Each rule is a function from what it reads to findings, so that its tests need neither a
//! repository nor cargo. Here the repository is read, and the findings are printed.

mod documents;
mod licences;
mod purity;
mod reference;
mod rooms;
mod text;

use std::fmt;
use std::path::Path;

use anyhow::Context as _;

use crate::workspace;

/// Checks every rule.
///
/// # Errors
///
/// A rule is broken (each finding is printed), or the repository can't be read.
pub(crate) fn run(args: &[String]) -> anyhow::Result<()> {
    anyhow::ensure!(args.is_empty(), "usage: cargo xtask tidy");
    let metadata = workspace::metadata()?;
    let sources = sources()?;

    let mut findings = rooms::check(&metadata);
    findings.extend(licences::check(&metadata));
    findings.extend(documents::check(&sources));
    findings.extend(reference::check(&sources));
    findings.extend(sources.iter().flat_map(purity::check));
    findings.extend(sources.iter().flat_map(text::check));

    for finding in &findings {
        println!("{finding}");
    }
    anyhow::ensure!(findings.is_empty(), "{} findings: see above", findings.len());
    println!("tidy: {} files, {} packages", sources.len(), metadata.packages.len());
    Ok(())
}

/// A file of the repository.
struct Source {
    /// Its path from the root, with `/`.
    path: String,
    /// What is in it; empty where that is not UTF-8.
    text: String,
}

impl Source {
    /// The lines with their numbers, from 1.
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(index, line)| (index + 1, line))
    }
}

/// A broken rule: what is wrong, where, and what to do about it.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    place: String,
    what: String,
    remedy: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}\n    {}", self.place, self.what, self.remedy)
    }
}

fn sources() -> anyhow::Result<Vec<Source>> {
    let read = |path: String| {
        let bytes = std::fs::read(workspace::root().join(Path::new(&path)));
        let bytes = bytes.with_context(|| format!("reading {path}"))?;
        Ok(Source { path, text: String::from_utf8(bytes).unwrap_or_default() })
    };
    workspace::files()?.into_iter().map(read).collect()
}
