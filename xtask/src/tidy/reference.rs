//! Tables of `docs/` that must say what the code says: the configuration's keys with their defaults
//! against `tidegate.example.toml`, the errors against the one table of `code.rs`. And links: a
//! file or a heading that a page points to is there.

use std::collections::BTreeMap;

use super::{Finding, Source};

/// Checks every page.
pub(super) fn check(sources: &[Source]) -> Vec<Finding> {
    let text = |path: &str| sources.iter().find(|it| it.path == path).map(|it| it.text.as_str());
    let mut findings = Vec::new();
    if let (Some(page), Some(file)) = (text(CONFIGURATION), text("tidegate.example.toml")) {
        findings.extend(configuration(page, file));
    }
    if let (Some(page), Some(code)) = (text(ERRORS), text("crates/tidegate-core/src/code.rs")) {
        findings.extend(errors(page, code));
    }
    let pages = sources.iter().filter(|it| it.path.ends_with(".md"));
    findings.extend(pages.flat_map(|page| links(page, sources)));
    findings
}

const CONFIGURATION: &str = "docs/configuration.md";
const ERRORS: &str = "docs/errors.md";

fn finding(place: &str, what: String, remedy: &str) -> Finding {
    Finding { place: place.into(), what, remedy: remedy.into() }
}

/// The cells of a page's table rows whose first one is code.
fn rows(page: &str) -> impl Iterator<Item = Vec<&str>> {
    page.lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect())
}

/// Text in backticks, if that is all there is.
fn code(cell: &str) -> Option<&str> {
    cell.strip_prefix('`')?.strip_suffix('`').filter(|it| !it.contains('`'))
}

/// Each key of the example is a row with its default, and each row is a key of it.
fn configuration(page: &str, example: &str) -> Vec<Finding> {
    let mut keys = BTreeMap::new();
    match uncommented(example).parse::<toml::Table>() {
        Ok(table) => flatten("", &toml::Value::Table(table), &mut keys),
        Err(error) => {
            let what = format!("it can't be read: {error}");
            return vec![finding("tidegate.example.toml", what, "write TOML")];
        }
    }
    let mut findings = Vec::new();
    for row in rows(page) {
        let [key, default, ..] = row.as_slice() else { continue };
        let Some(key) = code(key) else { continue };
        let Some(value) = keys.remove(key) else {
            let what = format!("{key} is no key of tidegate.example.toml");
            findings.push(finding(CONFIGURATION, what, "take it out, or name the key as it is"));
            continue;
        };
        // A default that depends is told in words.
        let said = code(default).map(|it| format!("x = {it}").parse::<toml::Table>());
        if let Some(said) = said
            && said.ok().and_then(|it| it.get("x").cloned()).as_ref() != Some(&value)
        {
            let what = format!("the default of {key} is {value}, not {default}");
            findings.push(finding(CONFIGURATION, what, "write it as tidegate.example.toml does"));
        }
    }
    findings.extend(keys.keys().map(|key| {
        finding(CONFIGURATION, format!("it has no row of {key}"), "say what the key is for")
    }));
    findings
}

/// The example with the keys that stand in comments, but not those of sections that do.
fn uncommented(example: &str) -> String {
    let mut is_later = false;
    let mut out = String::new();
    for line in example.lines() {
        let bare = line.strip_prefix("# ");
        if line.starts_with('[') || bare.is_some_and(|it| it.starts_with('[')) {
            is_later = bare.is_some();
        }
        let is_key = bare.is_some_and(|it| {
            it.split_once(" = ")
                .is_some_and(|(key, _)| key.bytes().all(|it| it.is_ascii_lowercase()))
        });
        out.push_str(if is_key && !is_later { bare.unwrap_or(line) } else { line });
        out.push('\n');
    }
    out
}

fn flatten(path: &str, value: &toml::Value, keys: &mut BTreeMap<String, toml::Value>) {
    match value {
        toml::Value::Table(table) => {
            for (key, value) in table {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                flatten(&path, value, keys);
            }
        }
        toml::Value::Array(items) if items.first().is_some_and(toml::Value::is_table) => {
            items.iter().for_each(|it| flatten(path, it, keys));
        }
        value => {
            keys.insert(path.to_owned(), value.clone());
        }
    }
}

/// Each code is a row with its HTTP status and WebSocket close, as the table of `code.rs`'s test has
/// them: `("ended", Some(409), Some(9), Some(1000)),`.
fn errors(page: &str, code_rs: &str) -> Vec<Finding> {
    let mut codes: BTreeMap<&str, (&str, &str)> = BTreeMap::new();
    for line in code_rs.lines().filter_map(|it| it.trim().strip_prefix("(\"")) {
        let Some((name, rest)) = line.split_once("\", ") else { continue };
        let numbers: Vec<&str> = rest.strip_suffix("),").unwrap_or(rest).split(", ").collect();
        let [http, _, close] = numbers.as_slice() else { continue };
        codes.insert(name, (number(http), number(close)));
    }
    let mut findings = Vec::new();
    for row in rows(page) {
        let [name, http, close, ..] = row.as_slice() else { continue };
        let Some(name) = code(name) else { continue };
        let Some((status, number)) = codes.remove(name) else { continue };
        for (said, is) in [(http, status), (close, number)] {
            if !said.starts_with(is) {
                let what = format!("{name} is {is}, not {said}");
                findings.push(finding(ERRORS, what, "write it as code.rs does"));
            }
        }
    }
    findings.extend(codes.keys().map(|name| {
        finding(ERRORS, format!("it has no row of {name}"), "say when it is answered")
    }));
    findings
}

/// What `Some(409)` or `None` is in the page.
fn number(option: &str) -> &str {
    option.strip_prefix("Some(").and_then(|it| it.strip_suffix(')')).unwrap_or("–")
}

/// Each relative link leads to a file, or to a heading of one.
fn links(page: &Source, sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut is_code = false;
    for (number, line) in page.lines() {
        if line.starts_with("```") {
            is_code = !is_code;
        }
        if is_code {
            continue;
        }
        for target in line.split("](").skip(1).filter_map(|it| it.split(')').next()) {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let (path, heading) = target.split_once('#').unwrap_or((target, ""));
            let path = if path.is_empty() { page.path.clone() } else { resolve(&page.path, path) };
            let file = sources.iter().find(|it| it.path == path);
            let is_folder = sources.iter().any(|it| it.path.starts_with(&format!("{path}/")));
            let has_heading = |file: &Source| headings(&file.text).any(|it| it == heading);
            let is_there =
                is_folder || file.is_some_and(|it| heading.is_empty() || has_heading(it));
            if !is_there {
                let place = format!("{}:{number}", page.path);
                findings.push(finding(&place, format!("{target} is not there"), "mend the link"));
            }
        }
    }
    findings
}

/// `path` as seen from the folder of `from`.
fn resolve(from: &str, path: &str) -> String {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in path.split('/') {
        match part {
            "." | "" => {}
            ".." => drop(parts.pop()),
            _ => parts.push(part),
        }
    }
    parts.join("/")
}

/// Headings as links name them.
fn headings(text: &str) -> impl Iterator<Item = String> {
    text.lines().filter(|line| line.starts_with('#')).map(|line| {
        let name = line.trim_start_matches('#').trim().to_lowercase();
        name.chars()
            .filter(|it| it.is_alphanumeric() || " -_".contains(*it))
            .map(|it| if it == ' ' { '-' } else { it })
            .collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_findings(findings: &[Finding], expect: &[&str]) {
        let found: Vec<&str> = findings.iter().map(|it| it.what.as_str()).collect();
        assert_eq!(found, expect);
    }

    #[test]
    fn every_key_has_a_row_with_its_default() {
        let example = "a = \"1\"\n# b = 8\n# Words = of people\n# [later]\n# c = 1\n[d]\ne = { f = 1_000 }\n[[g]]\nh = true\n";
        let page = "| `a` | `\"1\"` | x |\n| `b` | the cores | x |\n| `d.e.f` | `1000` |\n| `g.h` | `true` |\n";
        check_findings(&configuration(page, example), &[]);
        let page = page.replace("`1000`", "`999`").replace("g.h", "g.i");
        check_findings(
            &configuration(&page, example),
            &[
                "the default of d.e.f is 1000, not `999`",
                "g.i is no key of tidegate.example.toml",
                "it has no row of g.h",
            ],
        );
    }

    #[test]
    fn every_error_has_a_row_with_its_numbers() {
        let code_rs = "    (\"ended\", Some(409), Some(9), Some(1000)),\n    (\"slow\", None, Some(10), Some(1013)),\n    (\"gone\", None, None, None),\n";
        let page = "| `ended` | 409 | 1000 (bare) | x |\n| `slow` | – | 1012 | x |\n";
        check_findings(
            &errors(page, code_rs),
            &["slow is 1013, not 1012", "it has no row of gone"],
        );
    }

    #[test]
    fn links_lead_to_files_folders_and_headings() {
        let source = |path: &str, text: &str| Source { path: path.into(), text: text.into() };
        let page = source(
            "docs/a.md",
            "# A `b`, c\n[x](b.md) [x](../README.md#what-it-is) [x](#a-b-c) [x](https://x.example/#y) [x](../src)\n[x](c.md) [x](b.md#none)\n```\n[x](code)\n```\n",
        );
        let sources = [
            source("docs/b.md", ""),
            source("README.md", "## What it is\n"),
            source("src/x.rs", ""),
            source("docs/a.md", &page.text),
        ];
        check_findings(&links(&page, &sources), &["c.md is not there", "b.md#none is not there"]);
    }
}
