//! `cargo xtask docs`: what `docs/` says is done, and must come out as it stands there.
//!
//! A page's `console` blocks are typed into one bash, `$ ` before a command and `> ` before its
//! further lines, with a gateway of the page's own at the addresses that it names; what each
//! command prints must be what stands below it. `…` stands for what differs each time: within a
//! line for any text, alone for any lines. That gateway has `--dev`, and the page's first `toml`
//! block. Where a page has an `nginx` block, curl goes through an nginx of that configuration. Every
//! `toml` block must pass `tidegate check`, every `json` block be JSON; metrics, commands and flags
//! that pages name must exist. What needs no program is tidy's.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;

use crate::gateway::{self, Server};
use crate::{process, tools, workspace};

/// Far above what one page takes: it ends what hangs.
const TIMEOUT: Duration = Duration::from_secs(180);

/// Where pages say that the gateway is: its main and its admin's listener.
const ADDRESSES: [&str; 2] = ["127.0.0.1:8080", "127.0.0.1:9180"];

/// Checks every page, or those whose names begin with an argument.
///
/// # Errors
///
/// A page is wrong; each finding is printed.
pub(crate) fn run(args: &[String]) -> anyhow::Result<()> {
    let program = gateway::build()?;
    tools::curl()?;
    let entries = std::fs::read_dir(workspace::root().join("docs"));
    let entries = entries.context("reading docs/")?.collect::<Result<Vec<_>, _>>()?;
    let mut files: Vec<PathBuf> = entries.iter().map(std::fs::DirEntry::path).collect();
    files.sort();
    let mut findings = Vec::new();
    let mut count = 0;
    for file in files {
        let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if !args.is_empty() && !args.iter().any(|it| name.starts_with(it)) {
            continue;
        }
        let text = std::fs::read_to_string(&file)?;
        let page = Page { blocks: blocks(&text), name, text, program: &program };
        let found = page.check()?;
        println!("{:<20} {} blocks, {} findings", page.name, page.blocks.len(), found.len());
        findings.extend(found.into_iter().map(|it| format!("docs/{}.md:{it}", page.name)));
        count += 1;
    }
    anyhow::ensure!(count > 0, "docs/ has no such page");
    findings.iter().for_each(|it| println!("{it}"));
    anyhow::ensure!(findings.is_empty(), "{} findings: see above", findings.len());
    Ok(())
}

/// A page of `docs/`.
struct Page<'a> {
    name: String,
    text: String,
    blocks: Vec<Block>,
    program: &'a Path,
}

/// What stands between two fences.
#[derive(Debug, PartialEq, Eq)]
struct Block {
    language: String,
    /// The line of its fence, from 1.
    line: usize,
    text: String,
}

/// A command of a `console` block and what it prints.
#[derive(Debug, PartialEq, Eq)]
struct Step {
    line: usize,
    command: String,
    output: Vec<String>,
}

impl Page<'_> {
    /// Everything that is wrong, each beginning with its line.
    fn check(&self) -> anyhow::Result<Vec<String>> {
        let mut findings = Vec::new();
        let folder = workspace::target().join("docs").join(&self.name);
        std::fs::create_dir_all(&folder)?;
        for block in self.blocks("toml") {
            let file = folder.join(format!("{}.toml", block.line));
            std::fs::write(&file, &block.text)?;
            let output = Command::new(self.program).arg("check").arg(&file).output()?;
            if !output.status.success() {
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                findings.push(format!("{}: {said}", block.line));
            }
        }
        for block in self.blocks("json") {
            let mut values =
                serde_json::Deserializer::from_str(&block.text).into_iter::<serde_json::Value>();
            if let Some(error) = values.find_map(Result::err) {
                findings.push(format!("{}: it is no JSON: {error}", block.line));
            }
        }
        let steps: Vec<Step> = self.blocks("console").flat_map(steps).collect();
        if !steps.is_empty() || self.text.contains("`tidegate_") {
            findings.extend(self.check_live(&steps, &folder)?);
        }
        findings.extend(self.check_commands()?);
        Ok(findings)
    }

    fn blocks<'b>(&'b self, language: &'b str) -> impl Iterator<Item = &'b Block> {
        self.blocks.iter().filter(move |it| it.language == language)
    }

    /// What needs a gateway.
    fn check_live(&self, steps: &[Step], folder: &Path) -> anyhow::Result<Vec<String>> {
        let config = self.blocks("toml").next();
        let config = config.map(|it| folder.join(format!("{}.toml", it.line)));
        let config = config.map(|it| it.to_string_lossy().into_owned());
        let args: Vec<&str> = config.iter().flat_map(|it| ["--config", it]).collect();
        let log = folder.join("gateway.log");
        let gateway = Server::gateway(self.program, "127.0.0.1:0", &args, &log)?;
        let mut findings = self.check_steps(steps, &gateway.address, folder)?;
        if self.text.contains("`tidegate_") {
            let url = format!("http://{}/metrics", gateway.address);
            let metrics = Command::new(tools::curl()?).args(["-sS", &url]).output()?.stdout;
            let there = listed_metrics(&String::from_utf8_lossy(&metrics));
            let named = named_metrics(&self.text);
            findings.extend(named.difference(&there).map(|it| format!("0: there is no {it}")));
            findings.extend(there.difference(&named).map(|it| format!("0: it does not name {it}")));
        }
        Ok(findings)
    }

    fn check_steps(
        &self,
        steps: &[Step],
        address: &str,
        folder: &Path,
    ) -> anyhow::Result<Vec<String>> {
        let mut script = String::new();
        for step in steps {
            let command =
                ADDRESSES.iter().fold(step.command.clone(), |it, at| it.replace(at, address));
            script.push_str(&format!("echo '{MARK}'\n{command}\n"));
        }
        script.push_str("exit 0\n");
        let _nginx = match self.blocks("nginx").next() {
            Some(block) => Some(Nginx::start(block, address, folder)?),
            None => None,
        };
        let log = folder.join("console.log");
        let programs = self.program.parent().unwrap_or(Path::new("."));
        let path = std::env::var("PATH").unwrap_or_default();
        let mut bash = Command::new("bash");
        bash.args(["-c", &script]).current_dir(folder);
        bash.env("PATH", format!("{}:{path}", programs.display())).env("CURL_HOME", folder);
        process::run_logged(&mut bash, &log, TIMEOUT)?;
        let said = String::from_utf8_lossy(&std::fs::read(&log)?).replace(address, ADDRESSES[0]);
        let mut findings = Vec::new();
        let outputs: Vec<&str> = said.split(&format!("{MARK}\n")).skip(1).collect();
        for (index, step) in steps.iter().enumerate() {
            let output =
                outputs.get(index).copied().unwrap_or("(nothing: an earlier one ended it)");
            let lines: Vec<&str> = output.lines().collect();
            let expected: Vec<&str> = step.output.iter().map(String::as_str).collect();
            if !is_like(&expected, &lines) {
                findings.push(format!("{}: `{}` printed:\n{output}", step.line, step.command));
            }
        }
        Ok(findings)
    }

    /// `## tidegate X` names a command, and each flag below it is one of it; so are those of a `sh`
    /// block's lines, which name the commands of a command too.
    fn check_commands(&self) -> anyhow::Result<Vec<String>> {
        let mut findings = Vec::new();
        let mut helps = BTreeMap::new();
        let mut heading = None;
        let mut is_shell = false;
        for (number, line) in (1..).zip(self.text.lines()) {
            is_shell = if line.starts_with("```") { line == "```sh" } else { is_shell };
            let mut named = None;
            if let Some(name) = line.strip_prefix("## `tidegate ") {
                heading = Some(vec![name.trim_end_matches('`')]);
            } else if line.starts_with("## ") {
                heading = None;
            } else if let (true, Some(rest)) = (is_shell, line.strip_prefix("tidegate ")) {
                // A command may have commands of its own.
                let is_command = |word: &&str| word.chars().all(|it| it.is_ascii_lowercase());
                named = Some(rest.split(' ').take_while(is_command).collect());
            }
            let Some(words) = named.or_else(|| heading.clone()) else { continue };
            let name = words.join(" ");
            let help = match helps.entry(name.clone()) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => {
                    let help = Command::new(self.program).args(&words).arg("--help").output()?;
                    if !help.status.success() {
                        findings.push(format!("{number}: there is no command {name}"));
                    }
                    new.insert(String::from_utf8_lossy(&help.stdout).into_owned())
                }
            };
            let flags = line.split(|it: char| !it.is_ascii_lowercase() && it != '-');
            let flags = flags.filter(|it| it.starts_with("--") && it.len() > 2);
            for flag in flags.filter(|it| !it.starts_with("---") && !help.contains(it)) {
                findings.push(format!("{number}: tidegate {name} has no {flag}"));
            }
        }
        Ok(findings)
    }
}

/// An nginx in front of a page's gateway; it ends when this is dropped.
struct Nginx(Child);

impl Nginx {
    /// Starts it with a page's block, on a socket in `folder` instead of a port, and tells curl.
    fn start(block: &Block, address: &str, folder: &Path) -> anyhow::Result<Nginx> {
        let socket = folder.join("nginx.sock");
        // One of an earlier run; nginx would not listen where it is.
        let _ = std::fs::remove_file(&socket);
        let text = block.text.replace(ADDRESSES[0], address);
        let text = text.replace("listen 80;", &format!("listen unix:{};", socket.display()));
        let mut config =
            "daemon off;\nmaster_process off;\nerror_log stderr;\npid nginx.pid;\n".to_owned();
        config.push_str("events {}\nhttp {\naccess_log off;\n");
        for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
            config.push_str(&format!("{kind}_temp_path {kind};\n"));
        }
        config.push_str(&format!("{text}}}\n"));
        std::fs::write(folder.join("nginx.conf"), config)?;
        std::fs::write(folder.join(".curlrc"), format!("unix-socket = {socket:?}\n"))?;
        let mut nginx = Command::new(tools::nginx()?);
        nginx.args(["-e", "stderr", "-c", "nginx.conf", "-p"]).arg(folder);
        nginx.stdin(Stdio::null()).stdout(File::create(folder.join("nginx.log"))?);
        let mut nginx = Nginx(nginx.spawn().context("starting nginx")?);
        while !socket.exists() {
            let ended = process::wait(&mut nginx.0, Duration::from_millis(50))?;
            anyhow::ensure!(ended.is_none(), "nginx has ended: what it says is above");
        }
        Ok(nginx)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // It has no workers; whatever fails, there is nothing to do about it.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Printed before the output of each command.
const MARK: &str = "====";

/// The fenced blocks of a page.
fn blocks(text: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut is_inside = false;
    for (line, content) in (1..).zip(text.lines()) {
        if let Some(language) = content.strip_prefix("```") {
            if !is_inside {
                blocks.push(Block { language: language.to_owned(), line, text: String::new() });
            }
            is_inside = !is_inside;
        } else if let (true, Some(block)) = (is_inside, blocks.last_mut()) {
            block.text.push_str(content);
            block.text.push('\n');
        }
    }
    blocks
}

/// The commands of a block, with what they print.
fn steps(block: &Block) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for (line, content) in (block.line + 1..).zip(block.text.lines()) {
        if let Some(command) = content.strip_prefix("$ ") {
            steps.push(Step { line, command: command.to_owned(), output: Vec::new() });
        } else if let Some(step) = steps.last_mut() {
            match content.strip_prefix("> ") {
                Some(more) if step.output.is_empty() => {
                    step.command.push('\n');
                    step.command.push_str(more);
                }
                _ => step.output.push(content.to_owned()),
            }
        }
    }
    steps
}

/// Whether `lines` are what is expected; a lone `…` is any number of them.
fn is_like(expected: &[&str], lines: &[&str]) -> bool {
    match (expected, lines) {
        ([], []) => true,
        (["…", rest @ ..], _) => {
            (0..=lines.len()).any(|at| lines.get(at..).is_some_and(|lines| is_like(rest, lines)))
        }
        ([first, rest @ ..], [line, lines @ ..]) => is_line(first, line) && is_like(rest, lines),
        _ => false,
    }
}

/// Whether a line is as expected, `…` being any text.
fn is_line(expected: &str, line: &str) -> bool {
    let Some((head, tail)) = expected.split_once('…') else { return expected == line };
    let Some(rest) = line.strip_prefix(head) else { return false };
    rest.char_indices()
        .map(|(at, _)| at)
        .chain([rest.len()])
        .any(|at| rest.get(at..).is_some_and(|rest| is_line(tail, rest)))
}

/// The metrics of a `/metrics`, without `_total`.
fn listed_metrics(text: &str) -> BTreeSet<String> {
    let names = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    names.map(without_total).collect()
}

/// Those that a page names in code, likewise.
fn named_metrics(text: &str) -> BTreeSet<String> {
    let named = text.split('`').filter(|it| it.starts_with("tidegate_"));
    let names =
        named.filter_map(|it| it.split(|it: char| !it.is_ascii_lowercase() && it != '_').next());
    names.map(without_total).collect()
}

/// What a counter is described as, with or without the suffix that its samples have.
fn without_total(name: &str) -> String {
    name.strip_suffix("_total").unwrap_or(name).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_found_with_what_they_print() {
        let text =
            "# Page\n```console\n$ echo a \\\n>   b\na b\n$ true\n```\n\n```toml\nx = 1\n```\n";
        let blocks = blocks(text);
        assert_eq!(blocks.len(), 2);
        assert_eq!((blocks[1].language.as_str(), blocks[1].line), ("toml", 9));
        let steps = steps(&blocks[0]);
        assert_eq!(steps[0].command, "echo a \\\n  b");
        assert_eq!((steps[0].line, steps[0].output.as_slice()), (3, &["a b".to_owned()][..]));
        assert_eq!((steps[1].line, steps[1].output.len()), (6, 0));
    }

    #[track_caller]
    fn check(expected: &[&str], lines: &[&str], expect: bool) {
        assert_eq!(is_like(expected, lines), expect, "{expected:?} {lines:?}");
    }

    #[test]
    fn an_ellipsis_is_any_text_or_any_lines() {
        check(&[], &[], true);
        check(&["a"], &[], false);
        check(&["a…c", "d"], &["abbc", "d"], true);
        check(&["a…c"], &["abb"], false);
        check(&["…a…"], &["xay"], true);
        check(&["…x"], &["é x"], true);
        check(&["…", "z"], &["x", "y", "z"], true);
        check(&["…", "z"], &["z"], true);
        check(&["…", "z"], &["z", "y"], false);
        check(&["…"], &[], true);
    }

    #[test]
    fn metrics_are_those_of_both_sides() {
        let listed = listed_metrics("# HELP tidegate_gaps x\n# TYPE tidegate_gaps counter\nx 1\n");
        let named =
            named_metrics("`tidegate_gaps_total{reason}` and tidegate_other, `tidegate serve`");
        assert_eq!(listed, named);
    }
}
