//! The project's tasks: `cargo xtask COMMAND`. Checks, conformance suites and benchmarks; nothing
//! here is shipped.
//!
//! One file per command. `process` starts programs and `tools` installs what they need, always
//! under the target folder; `gateway` starts the server that the suites talk to.

mod bench;
mod ci;
mod process;
mod tidy;
mod workspace;

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[String]) -> anyhow::Result<()> {
    let (command, rest) = match args {
        [] => ("help", args),
        [command, rest @ ..] => (command.as_str(), rest),
    };
    match command {
        "ci" => ci::run(rest),
        "tidy" => tidy::run(rest),
        "bench" => bench::run(rest),
        "help" | "-h" | "--help" => {
            print!("{HELP}");
            Ok(())
        }
        _ => anyhow::bail!("there is no command `{command}`\n\n{HELP}"),
    }
}

const HELP: &str = "\
usage: cargo xtask COMMAND

  ci [--only STEP]      every check, as continuous integration runs it
  tidy                  the rules of the house: rooms, purity, licences, documents
  bench                 the benchmarks of bench/
";
