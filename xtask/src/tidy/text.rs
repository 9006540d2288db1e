//! What no file of the repository says: where one machine keeps things, hosts of package
//! registries, habits that the style refuses. And what each file says first: what it is.

use super::{Finding, Source};

/// Folders of somebody's machine, at the root of its file system.
const FOLDERS: &[&str] = &["work", "root", "tmp", "home", "Users"];

/// Hosts of registries, in two halves so that this file does not name them either. Whoever builds
/// may use a mirror.
const HOSTS: &[(&str, &str)] = &[
    ("crates", ".io"),
    ("deb.debian", ".org"),
    ("files.pythonhosted", ".org"),
    ("proxy.golang", ".org"),
    ("pypi", ".org"),
    ("registry.npmjs", ".org"),
    ("registry.yarnpkg", ".com"),
    ("repo.maven.apache", ".org"),
    ("repo1.maven", ".org"),
];

/// Words that the style refuses in Rust, in halves again, and why.
const HABITS: &[(&str, &str, &str)] = &[
    ("#[ign", "ore", "a test that does not run says nothing: mend it or remove it"),
    ("unbounded_", "channel", "every queue is bounded: give it a bound, and overflow a name"),
    ("TO", "DO", "do it now, or leave it out"),
    ("FIX", "ME", "do it now, or leave it out"),
];

/// Checks one file.
pub(super) fn check(source: &Source) -> Vec<Finding> {
    let mut findings: Vec<Finding> = opening(source).into_iter().collect();
    // Cargo itself writes the registry's name into its lock file.
    let is_cargo_lock = source.path.ends_with("Cargo.lock");
    let is_rust = source.path.ends_with(".rs");
    for (number, line) in source.lines() {
        let mut find = |what: String, remedy: &str| {
            let place = format!("{}:{number}", source.path);
            findings.push(Finding { place, what, remedy: remedy.into() });
        };
        let folders = FOLDERS.iter().map(|name| format!("/{name}/"));
        for folder in folders.filter(|folder| has_folder(line, folder)) {
            find(
                format!("`{folder}` is a folder of one machine"),
                "name it relative to the repository, or ask the system for a temporary one",
            );
        }
        for (head, tail) in HOSTS {
            let host = [*head, *tail].concat();
            if !is_cargo_lock && line.contains(&host) {
                find(
                    format!("it names the registry {host}"),
                    "leave the host to each one's settings (npm: omit-lockfile-registry-resolved)",
                );
            }
        }
        for (head, tail, remedy) in HABITS {
            let word = [*head, *tail].concat();
            if is_rust && line.contains(&word) {
                find(format!("it says `{word}`"), remedy);
            }
        }
    }
    findings
}

/// Whether `line` names `folder` from the root of a file system, not within a longer path.
fn has_folder(line: &str, folder: &str) -> bool {
    line.match_indices(folder).any(|(at, _)| {
        let before = line.get(..at).and_then(|it| it.chars().next_back());
        !before.is_some_and(|it| it.is_alphanumeric() || "_-./~}>)".contains(it))
    })
}

/// Each file of code opens with what it does and what it leaves to whom.
fn opening(source: &Source) -> Option<Finding> {
    let extension = source.path.rsplit_once('.')?.1;
    let marks: &[&str] = match extension {
        "rs" => &["//!"],
        "js" | "mjs" => &["//", "/*"],
        "proto" => &["//"],
        "py" => &["\"\"\"", "#"],
        "html" => &["<!"],
        _ => return None,
    };
    let mut lines = source.text.lines();
    let mut first = lines.next().unwrap_or_default();
    if first.starts_with("#!/") {
        first = lines.next().unwrap_or_default();
    }
    if marks.iter().any(|mark| first.starts_with(mark)) {
        return None;
    }
    Some(Finding {
        place: format!("{}:1", source.path),
        what: "the file does not open with what it is".into(),
        remedy: format!(
            "begin with a `{}` comment: what it does, units, sections of the standard",
            marks.first()?
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_text(path: &str, text: &str, expect: &[&str]) {
        let findings = check(&Source { path: path.into(), text: text.into() });
        let found: Vec<String> = findings.iter().map(ToString::to_string).collect();
        assert_eq!(found.len(), expect.len(), "{found:?}");
        assert!(found.iter().zip(expect).all(|(it, part)| it.contains(part)), "{found:?}");
    }

    #[test]
    fn folders_of_one_machine_are_found_and_relative_ones_are_not() {
        let folder = ["/wo", "rk/"].concat();
        check_text("a.md", &format!("see {folder}main\n"), &["a.md:1: "]);
        check_text("a.md", &format!("see docs{folder} and .{folder} and $HOME{folder}\n"), &[]);
        check_text("a.toml", &format!("path = \"{folder}x\"\n"), &["folder of one machine"]);
    }

    #[test]
    fn registries_are_named_nowhere_but_in_cargos_own_file() {
        let line = ["\"resolved\": \"https://registry.npmjs", ".org/ws\"\n"].concat();
        check_text("t/package-lock.json", &line, &["names the registry"]);
        let line = ["registry+https://github.com/rust-lang/crates", ".io-index\n"].concat();
        check_text("fuzz/Cargo.lock", &line, &[]);
        check_text("README.md", &line, &["names the registry"]);
    }

    #[test]
    fn each_file_says_first_what_it_is() {
        check_text("x/src/a.rs", "//! Frames.\n", &[]);
        check_text("x/src/a.rs", "use bytes;\n", &["does not open"]);
        check_text("x/src/a.rs", "", &["does not open"]);
        check_text("a.py", "#!/usr/bin/env python3\n\"\"\"Sends.\"\"\"\n", &[]);
        check_text("a.mjs", "#!/usr/bin/env node\nimport 'ws';\n", &["does not open"]);
        check_text("a.json", "{}", &[]);
    }

    #[test]
    fn refused_habits_are_found_in_rust_alone() {
        let line = ["//! x\n// TO", "DO: later\n"].concat();
        check_text("a.rs", &line, &["a.rs:2"]);
        check_text("a.md", &line, &[]);
    }
}
