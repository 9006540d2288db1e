//! Purity: the crates that are given `now`, bytes and seeds name no clock, socket, environment,
//! randomness or task. clippy's `disallowed-methods` see through renames; this sees what those
//! lists leave out, and says why.

use super::{Finding, Source};

/// Crates that do nothing by themselves.
const PURE: &[&str] = &["crates/tidegate-core/src/", "crates/tidegate-wire/src/"];

/// What they don't name, and what it would be.
const IMPURE: &[(&str, &str)] = &[
    ("Instant::now", "a clock"),
    ("SystemTime", "a clock"),
    ("TcpListener", "a socket"),
    ("TcpStream", "a socket"),
    ("UdpSocket", "a socket"),
    ("UnixStream", "a socket"),
    ("std::env", "the environment"),
    ("std::fs", "the file system"),
    ("std::process", "a process"),
    ("std::thread", "a task"),
    ("tokio", "a task"),
    ("async fn", "a task"),
    ("println!", "a terminal"),
    ("eprintln!", "a terminal"),
    ("RandomState", "randomness"),
    ("fastrand", "randomness"),
    ("getrandom", "randomness"),
];

/// Checks one file; what is not the code of a pure crate passes.
pub(super) fn check(source: &Source) -> Vec<Finding> {
    let Some(pure) = PURE.iter().find(|pure| source.path.starts_with(**pure)) else {
        return Vec::new();
    };
    if !source.path.ends_with(".rs") || is_test(&source.path) {
        return Vec::new();
    }
    let name = pure.trim_start_matches("crates/").trim_end_matches("/src/");
    let mut findings = Vec::new();
    for (number, line) in source.lines() {
        // Unit tests stand at the bottom of their file, and may do as they like.
        if line.trim() == "#[cfg(test)]" {
            break;
        }
        let code = line.split("//").next().unwrap_or_default();
        for (word, is) in IMPURE.iter().filter(|(word, _)| names(code, word)) {
            findings.push(Finding {
                place: format!("{}:{number}", source.path),
                what: format!("`{word}` is {is}, and {name} is pure"),
                remedy: "take it as an argument (`now`, a seed, bytes) from the crate that has it"
                    .into(),
            });
        }
    }
    findings
}

/// Whether the file has tests alone.
fn is_test(path: &str) -> bool {
    path.ends_with("/tests.rs") || path.contains("/tests/")
}

/// Whether `code` has `word` not as a part of a longer name.
fn names(code: &str, word: &str) -> bool {
    let is_name = |it: char| it.is_alphanumeric() || it == '_';
    code.match_indices(word).any(|(at, _)| {
        let before = code.get(..at).and_then(|it| it.chars().next_back());
        let after = code.get(at + word.len()..).and_then(|it| it.chars().next());
        !before.is_some_and(is_name) && !after.is_some_and(is_name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_one(path: &str, text: &str, lines: &[usize]) {
        let findings = check(&Source { path: path.into(), text: text.into() });
        let places: Vec<String> = lines.iter().map(|line| format!("{path}:{line}")).collect();
        assert!(findings.iter().map(|it| &it.place).eq(&places), "{findings:?}");
    }

    #[test]
    fn clocks_sockets_and_tasks_are_found_where_they_are() {
        check_one(
            "crates/tidegate-core/src/hub.rs",
            "use std::time::Duration;\nlet now = Instant::now();\nstd::thread::sleep(d);\n",
            &[2, 3],
        );
    }

    #[test]
    fn comments_tests_and_longer_names_are_not_code() {
        let text = "//! No tokio here.\nfn tokios() {} // tokio\n#[cfg(test)]\nmod tests { use std::fs; }\n";
        check_one("crates/tidegate-wire/src/lib.rs", text, &[]);
        check_one("crates/tidegate-wire/src/websocket/tests.rs", "use std::fs;\n", &[]);
    }

    #[test]
    fn other_crates_do_as_they_like() {
        check_one("crates/tidegate/src/worker.rs", "use tokio::runtime;\n", &[]);
        check_one("crates/tidegate-wire/examples/echo.rs", "use std::net::TcpStream;\n", &[]);
    }
}
