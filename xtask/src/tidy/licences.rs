//! Licences of what we depend on: whoever uses Tidegate under MIT or Apache-2.0 must be free to.

use super::Finding;
use crate::workspace::Metadata;

/// SPDX names that ask for no more than to be named, or (MPL) for changes to their own files.
const ALLOWED: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "MPL-2.0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Checks every package that `Cargo.lock` names, for all platforms.
pub(super) fn check(metadata: &Metadata) -> Vec<Finding> {
    let refused = metadata.packages.iter().filter_map(|package| {
        let what = match package.license.as_deref() {
            None => "it names no licence".to_owned(),
            Some(licence) if !is_allowed(licence) => format!("its licence is `{licence}`"),
            Some(_) => return None,
        };
        Some(Finding {
            place: format!("{} {}", package.name, package.version),
            what,
            remedy: "depend on something else, or, if it is as free as those, add it to xtask/src/tidy/licences.rs".into(),
        })
    });
    refused.collect()
}

/// Whether an SPDX expression can be met with allowed licences alone. What can't be parsed can't.
fn is_allowed(expression: &str) -> bool {
    // Before SPDX expressions, `/` stood for OR in Rust's manifests.
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    matches!(any(&words), Some((true, [])))
}

/// A verdict, and the words after what it is about.
type Parsed<'a> = Option<(bool, &'a [&'a str])>;

/// `all (OR all)*`
fn any<'a>(words: &'a [&'a str]) -> Parsed<'a> {
    let (mut verdict, mut rest) = all(words)?;
    while let ["OR", after @ ..] = rest {
        let (also, after) = all(after)?;
        (verdict, rest) = (verdict || also, after);
    }
    Some((verdict, rest))
}

/// `one (AND one)*`
fn all<'a>(words: &'a [&'a str]) -> Parsed<'a> {
    let (mut verdict, mut rest) = one(words)?;
    while let ["AND", after @ ..] = rest {
        let (also, after) = one(after)?;
        (verdict, rest) = (verdict && also, after);
    }
    Some((verdict, rest))
}

/// `( any )`, `NAME WITH EXCEPTION` or `NAME`
fn one<'a>(words: &'a [&'a str]) -> Parsed<'a> {
    match words {
        ["(", inner @ ..] => match any(inner)? {
            (verdict, [")", rest @ ..]) => Some((verdict, rest)),
            _ => None,
        },
        [name, "WITH", exception, rest @ ..] => {
            Some((ALLOWED.contains(&format!("{name} WITH {exception}").as_str()), rest))
        }
        [name, rest @ ..] => Some((ALLOWED.contains(name), rest)),
        [] => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(expression: &str, expect: bool) {
        assert_eq!(is_allowed(expression), expect, "{expression}");
    }

    #[test]
    fn one_free_alternative_is_enough() {
        check("MIT", true);
        check("MIT OR GPL-3.0", true);
        check("GPL-3.0/MIT", true);
        check("GPL-3.0", false);
    }

    #[test]
    fn every_part_of_a_conjunction_counts() {
        check("MIT AND Unicode-3.0", true);
        check("MIT AND GPL-3.0", false);
        check("(MIT OR GPL-3.0) AND (ISC OR AGPL-3.0)", true);
        check("MIT AND (GPL-3.0 OR AGPL-3.0)", false);
        check("GPL-3.0 OR MIT AND ISC", true);
    }

    #[test]
    fn an_exception_belongs_to_its_licence() {
        check("Apache-2.0 WITH LLVM-exception", true);
        check("GPL-2.0 WITH Classpath-exception-2.0", false);
        check("GPL-2.0 WITH Classpath-exception-2.0 OR MIT", true);
    }

    #[test]
    fn what_is_no_expression_is_refused() {
        check("", false);
        check("MIT OR", false);
        check("(MIT", false);
        check("MIT)", false);
        check("MIT ISC", false);
    }
}
