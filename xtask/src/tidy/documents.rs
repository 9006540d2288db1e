//! What must be there, and documents that must not drift from the tree: ARCHITECTURE.md names
//! every crate, every folder of their code and every folder at the top.

use std::collections::BTreeSet;

use super::{Finding, Source};

/// Checks the list of files against what they must say of each other.
pub(super) fn check(sources: &[Source]) -> Vec<Finding> {
    let mut findings = missing(sources);
    let Some(map) = sources.iter().find(|source| source.path == "ARCHITECTURE.md") else {
        return findings;
    };
    for folder in folders(sources) {
        // Folders of a crate are named as `websocket/`, crates and those at the top by their name.
        let name = folder.rsplit('/').next().unwrap_or_default();
        let needle = if folder.contains("/src/") { format!("{name}/") } else { format!("`{name}") };
        if !map.text.contains(&needle) {
            findings.push(Finding {
                place: "ARCHITECTURE.md".into(),
                what: format!("it does not name {folder}"),
                remedy: format!("say what lives there (as {needle}…), or move its files"),
            });
        }
    }
    findings
}

/// Files without which a clone is not whole.
fn missing(sources: &[Source]) -> Vec<Finding> {
    let has = |path: &str| sources.iter().any(|source| source.path == path);
    let mut wanted: Vec<(String, &str)> = vec![
        ("ARCHITECTURE.md".into(), "write it: the map of the code"),
        ("Cargo.lock".into(), "commit it: builds must be the same everywhere"),
        ("LICENSE-APACHE".into(), "put it back"),
        ("LICENSE-MIT".into(), "put it back"),
    ];
    for source in sources {
        if let Some(folder) = source.path.strip_suffix("package.json") {
            let lock = format!("{folder}package-lock.json");
            wanted.push((lock, "run npm install there and commit it"));
        }
        if source.path.ends_with("/Cargo.toml") && source.text.contains("[workspace]") {
            let lock = source.path.replace("Cargo.toml", "Cargo.lock");
            wanted.push((lock, "commit it: builds must be the same everywhere"));
        }
    }
    let absent = wanted.into_iter().filter(|(path, _)| !has(path));
    let findings = absent.map(|(place, remedy)| Finding {
        place,
        what: "it is missing, or git ignores it".into(),
        remedy: remedy.into(),
    });
    findings.collect()
}

/// The folders that the map must name: at the top, crates, and folders of their code.
fn folders(sources: &[Source]) -> BTreeSet<String> {
    let mut folders = BTreeSet::new();
    for source in sources {
        let Some((folder, _)) = source.path.rsplit_once('/') else { continue };
        let parts: Vec<&str> = folder.split('/').collect();
        match parts.as_slice() {
            ["crates", name, rest @ ..] => {
                folders.insert(format!("crates/{name}"));
                if let ["src", inner @ ..] = rest {
                    // Tests that are too long for the bottom of their file say what they are.
                    let code = inner.iter().take_while(|name| **name != "tests").count();
                    for depth in 1..=code {
                        let inner: Vec<&str> = inner.iter().take(depth).copied().collect();
                        folders.insert(format!("crates/{name}/src/{}", inner.join("/")));
                    }
                }
            }
            // Settings of tools (`.cargo`, `.ci`) are no part of the map.
            [top, ..] if !top.starts_with('.') => {
                folders.insert((*top).to_owned());
            }
            _ => {}
        }
    }
    folders
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &[&str] = &["Cargo.lock", "LICENSE-APACHE", "LICENSE-MIT"];

    /// Checks a tree of `paths`, with an ARCHITECTURE.md that says `map`.
    #[track_caller]
    fn check_tree(map: &str, paths: &[&str], expect: &[&str]) {
        let source = |path: &str, text: &str| Source { path: path.into(), text: text.into() };
        let mut sources = vec![source("ARCHITECTURE.md", map)];
        sources.extend(WHOLE.iter().chain(paths).map(|path| source(path, "[workspace]")));
        let findings = check(&sources);
        let found: Vec<String> =
            findings.iter().map(|it| format!("{}: {}", it.place, it.what)).collect();
        assert_eq!(found.len(), expect.len(), "{found:?}");
        for (found, expect) in found.iter().zip(expect) {
            assert!(found.contains(expect), "{found}");
        }
    }

    #[test]
    fn every_folder_is_named() {
        let deep = ["crates/a/src/deep/down/x.rs", "crates/a/src/deep/tests/x.rs"];
        let paths = [deep[0], deep[1], "fuzz/f.rs", ".ci/run"];
        check_tree("`a`: `deep/` `down/`; `fuzz/`", &paths, &[]);
        check_tree(
            "`crates",
            &paths,
            &["crates/a", "crates/a/src/deep", "crates/a/src/deep/down", "fuzz"],
        );
    }

    #[test]
    fn every_lock_file_is_committed() {
        check_tree("`t", &["t/package.json"], &["t/package-lock.json: it is missing"]);
        check_tree("`t", &["t/package.json", "t/package-lock.json"], &[]);
        check_tree("`fuzz`", &["fuzz/Cargo.toml"], &["fuzz/Cargo.lock: it is missing"]);
    }

    #[test]
    fn a_tree_without_its_documents_is_not_whole() {
        assert_eq!(check(&[]).len(), 4);
    }
}
