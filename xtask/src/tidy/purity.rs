//! Purity: the crates that are given `now`, bytes and seeds name no clock, socket, environment,
//! randomness or task. clippy's `disallowed-methods` see through renames; this sees what those
//! lists leave out, and says why. The seed of std's hash tables is randomness too: it keeps peers from
//! choosing names that collide, and may reach nothing else.

use super::{Finding, Source};

/// Crates, and a module, that do nothing by themselves.
const PURE: &[&str] = &[
    "crates/tidegate-client/src/machine/",
    "crates/tidegate-core/src/",
    "crates/tidegate-wire/src/",
];

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

/// Tables of std's, whose order is another in each run: a seed would not stand for one run any more.
const ORDERLESS: &[&str] = &["HashMap", "HashSet"];

/// Files that may have one, and why its order reaches nothing.
const ORDER_IS_HARMLESS: &[(&str, &str)] = &[
    ("crates/tidegate-core/src/hub.rs", "looked up by name; all channels are sorted first"),
    ("crates/tidegate-core/src/log/keys.rs", "looked up by key; what expires is in a queue"),
    ("crates/tidegate-core/src/log/mod.rs", "looked up by name, summed up, or sorted first"),
];

/// Checks one file; what is not the code of a pure crate passes.
pub(super) fn check(source: &Source) -> Vec<Finding> {
    let Some(pure) = PURE.iter().find(|pure| source.path.starts_with(**pure)) else {
        return Vec::new();
    };
    if !source.path.ends_with(".rs") || is_test(&source.path) {
        return Vec::new();
    }
    let name = pure.trim_start_matches("crates/").replace("/src/", "/");
    let name = name.trim_end_matches('/');
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
        let is_harmless = ORDER_IS_HARMLESS.iter().any(|(path, _)| *path == source.path);
        for word in ORDERLESS.iter().filter(|word| !is_harmless && names(code, word)) {
            findings.push(Finding {
                place: format!("{}:{number}", source.path),
                what: format!("a `{word}` has another order in each run, and {name} is pure"),
                remedy: "use a BTreeMap or BTreeSet; or sort wherever it is gone through, and say so in \
                         tidy's purity.rs"
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
    fn the_clients_machines_are_pure_too() {
        let text = "fn f() {}\nlet now = Instant::now();\n";
        check_one("crates/tidegate-client/src/machine/session.rs", text, &[2]);
    }

    #[test]
    fn comments_tests_and_longer_names_are_not_code() {
        let text = "//! No tokio here.\nfn tokios() {} // tokio\n#[cfg(test)]\nmod tests { use std::fs; }\n";
        check_one("crates/tidegate-wire/src/lib.rs", text, &[]);
        check_one("crates/tidegate-wire/src/websocket/tests.rs", "use std::fs;\n", &[]);
    }

    #[test]
    fn a_table_without_an_order_needs_a_reason() {
        let text = "use std::collections::{BTreeMap, HashSet};\nlet it = HashMap::new();\n";
        check_one("crates/tidegate-core/src/inbox.rs", text, &[1, 2]);
        for (path, _) in ORDER_IS_HARMLESS {
            check_one(path, text, &[]);
        }
    }

    #[test]
    fn other_crates_do_as_they_like() {
        check_one("crates/tidegate/src/worker.rs", "use tokio::runtime;\n", &[]);
        check_one("crates/tidegate-wire/examples/echo.rs", "use std::net::TcpStream;\n", &[]);
        check_one("crates/tidegate-client/src/net/http.rs", "use tokio::net::TcpStream;\n", &[]);
    }
}
