//! `cargo xtask matrix`: clients that people have, each on the wires that it speaks, and what each
//! is told when it subscribes, resumes, meets a gap or an end, when the gateway restarts, and when
//! it reads too slowly.
//!
//! The tests in `tests/matrix` add a line to a file for each cell that passed; `matrix.txt` beside
//! them has what every cell must be. A cell that no test wrote has failed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;

use crate::{gateway, process, tools, workspace};

/// Runs all clients, and prints the matrix.
///
/// # Errors
///
/// A cell is not what it must be, or something is missing and can't be installed.
pub(crate) fn run(args: &[String]) -> anyhow::Result<()> {
    anyhow::ensure!(args.is_empty(), "usage: cargo xtask matrix");
    let expected = std::fs::read_to_string(folder().join("matrix.txt"))?;
    let expected = Table::parse(&expected).context("tests/matrix/matrix.txt")?;
    let gateway = gateway::build()?;
    tools::curl()?;
    tools::node_modules()?;
    let (python, node, chromium) = (tools::python()?, tools::node()?, tools::chromium()?);
    let out = workspace::target().join("matrix");
    std::fs::create_dir_all(&out)?;
    // Most of the time they wait for each other, so they run at the same time.
    let suites = ["test_matrix", "node.test.mjs", "chromium.test.mjs"];
    let verdicts: Vec<anyhow::Result<()>> = std::thread::scope(|scope| {
        let run = |suite: &'static str| {
            let results = out.join(format!("{suite}.results"));
            let log = out.join(format!("{suite}.log"));
            let mut command = if suite == "test_matrix" {
                let mut python = Command::new(&python);
                python.args(["-B", "-m", "unittest", "--verbose", suite]);
                python.env("PYTHONPATH", workspace::root().join("tests/clients"));
                python
            } else {
                let mut node = Command::new(&node);
                node.args(["--test", "--test-reporter=spec", suite]).env("CHROMIUM", &chromium);
                node
            };
            command.current_dir(folder()).env("TIDEGATE", &gateway);
            command.env("MATRIX_RESULTS", &results);
            move || {
                std::fs::write(&results, "")?;
                let verdict = process::run_logged(&mut command, &log, SUITE_TIMEOUT);
                if verdict.is_err() {
                    println!("{}", std::fs::read_to_string(&log)?);
                }
                verdict
            }
        };
        let threads = suites.map(|suite| scope.spawn(run(suite)));
        let join = |it: std::thread::ScopedJoinHandle<'_, _>| {
            it.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a thread panicked")))
        };
        threads.into_iter().map(join).collect()
    });
    let mut told = Told::default();
    for suite in suites {
        told.read(&std::fs::read_to_string(out.join(format!("{suite}.results")))?)?;
    }
    let judgement = expected.judge(&told);
    println!("{}", judgement.text);
    verdicts.into_iter().collect::<anyhow::Result<()>>()?;
    anyhow::ensure!(judgement.failed == 0, "some clients are not told what they must be");
    Ok(())
}

/// Far above what one takes: it ends what hangs.
const SUITE_TIMEOUT: Duration = Duration::from_secs(8 * 60);

fn folder() -> PathBuf {
    workspace::root().join("tests/matrix")
}

/// Client, wire and question.
type Place = [String; 3];

/// The cells that tests wrote.
#[derive(Default)]
struct Told(BTreeMap<Place, String>);

impl Told {
    /// Takes lines of client, wire, question, what was told and seconds, between tabs.
    fn read(&mut self, results: &str) -> anyhow::Result<()> {
        for line in results.lines() {
            let fields: Vec<&str> = line.split('\t').collect();
            let [client, wire, question, said, _] = fields[..] else {
                anyhow::bail!("not a cell: {line}");
            };
            self.0.insert([client, wire, question].map(str::to_owned), said.to_owned());
        }
        Ok(())
    }
}

/// What `matrix.txt` says: columns apart by two spaces and more, an empty line, and notes.
struct Table {
    questions: Vec<String>,
    /// Client and wire, and a cell for each question. A cell that begins with `–` can't be asked
    /// for, and a note that begins with it says why.
    rows: Vec<([String; 2], Vec<String>)>,
    notes: String,
}

struct Judgement {
    text: String,
    failed: usize,
}

impl Table {
    fn parse(text: &str) -> anyhow::Result<Table> {
        let (table, notes) = text.split_once("\n\n").context("no empty line before the notes")?;
        let mut lines = table.lines().map(|line| {
            let cells = line.split("  ").map(str::trim).filter(|it| !it.is_empty());
            cells.map(str::to_owned).collect::<Vec<_>>()
        });
        let head = lines.next().unwrap_or_default();
        let [_, _, questions @ ..] = &head[..] else {
            anyhow::bail!("the first line has no columns");
        };
        let rows = lines.map(|line| match &line[..] {
            [client, wire, cells @ ..] if cells.len() == questions.len() => {
                Ok(([client.clone(), wire.clone()], cells.to_vec()))
            }
            _ => anyhow::bail!("a row of {} cells: {}", line.len(), line.join("  ")),
        });
        let rows = rows.collect::<anyhow::Result<Vec<_>>>()?;
        for cell in rows.iter().flat_map(|row| &row.1).filter(|it| it.starts_with('–')) {
            let explains = |line: &str| line.split(' ').next() == Some(cell);
            anyhow::ensure!(notes.lines().any(explains), "no note says why there is a `{cell}`");
        }
        Ok(Table { questions: questions.to_vec(), rows, notes: notes.trim_end().to_owned() })
    }

    /// The table with each cell as it was told, and what is wrong with it.
    fn judge(&self, told: &Told) -> Judgement {
        let head = ["client", "wire"].into_iter().map(str::to_owned);
        let mut lines: Vec<Vec<String>> = vec![head.chain(self.questions.clone()).collect()];
        let (mut passed, mut wrong) = (0, Vec::new());
        let mut unexpected = told.0.clone();
        for ([client, wire], cells) in &self.rows {
            let mut line = vec![client.clone(), wire.clone()];
            for (question, expect) in self.questions.iter().zip(cells) {
                let place = [client, wire, question].map(String::clone);
                line.push(match unexpected.remove(&place) {
                    Some(said) if said == *expect => {
                        passed += 1;
                        said
                    }
                    None if expect.starts_with('–') => expect.clone(),
                    said => {
                        let said = said.map_or("nothing".to_owned(), |it| format!("`{it}`"));
                        wrong.push(format!("{}: {said} came, `{expect}` must", place.join(" ")));
                        "FAILED".to_owned()
                    }
                });
            }
            lines.push(line);
        }
        let unexpected = unexpected.into_iter();
        wrong.extend(unexpected.map(|(place, said)| {
            format!("{}: `{said}` came, for which there is no cell", place.join(" "))
        }));
        let mut text = aligned(&lines);
        let _ = writeln!(text, "\n{}\n", self.notes);
        for line in &wrong {
            let _ = writeln!(text, "FAILED {line}");
        }
        let _ = write!(text, "{passed} passed, {} failed", wrong.len());
        Judgement { text, failed: wrong.len() }
    }
}

/// The lines as columns, each as wide as its widest cell.
fn aligned(lines: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = Vec::new();
    for line in lines {
        widths.resize(widths.len().max(line.len()), 0);
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for line in lines {
        let cells = line.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}"));
        let _ = writeln!(text, "{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXPECTED: &str = "\
client  wire  resume  end
curl    sse   since   event, 204
curl    poll  since   –1

–1 as it is
";

    #[track_caller]
    fn check(results: &str, passed: usize, wrong: &[&str]) {
        let mut told = Told::default();
        told.read(results).unwrap();
        let judgement = Table::parse(EXPECTED).unwrap().judge(&told);
        let found = judgement.text.lines().filter_map(|it| it.strip_prefix("FAILED "));
        assert_eq!(found.collect::<Vec<_>>(), wrong);
        assert!(judgement.text.ends_with(&format!("\n{passed} passed, {} failed", wrong.len())));
        assert_eq!(judgement.failed, wrong.len());
    }

    #[test]
    fn a_cell_passes_if_it_was_told_as_expected() {
        let sse = "curl\tsse\tresume\tsince\t0.1\ncurl\tsse\tend\tevent, 204\t0.1\n";
        check(&format!("{sse}curl\tpoll\tresume\tsince\t0.1\n"), 3, &[]);
        check(sse, 2, &["curl poll resume: nothing came, `since` must"]);
        check(
            "curl\tsse\tresume\tid\t0.1\ncurl\tsse\tend\tevent, 204\t0.1\ncurl\tpoll\tend\tx\t0.1\n",
            1,
            &[
                "curl sse resume: `id` came, `since` must",
                "curl poll resume: nothing came, `since` must",
                "curl poll end: `x` came, `–1` must",
            ],
        );
    }

    #[test]
    fn a_row_without_a_cell_and_a_dash_without_a_note_are_refused() {
        assert!(Table::parse("client  wire  end\ncurl  sse\n\n").is_err());
        assert!(Table::parse("client  wire  end\ncurl  sse  –2\n\n–1 as it is\n").is_err());
    }

    #[test]
    fn every_cell_of_the_matrix_is_there() {
        let text = std::fs::read_to_string(folder().join("matrix.txt")).unwrap();
        let table = Table::parse(&text).unwrap();
        // It is written as it is printed.
        let told = table.rows.iter().flat_map(|([client, wire], cells)| {
            let places =
                table.questions.iter().map(|it| [client.clone(), wire.clone(), it.clone()]);
            places.zip(cells.clone()).filter(|it| !it.1.starts_with('–'))
        });
        let judgement = table.judge(&Told(told.collect()));
        assert!(judgement.text.starts_with(text.trim_end()), "{}", judgement.text);
    }
}
