//! The project's tasks: `cargo xtask COMMAND`. Checks, conformance suites and benchmarks; nothing
//! here is shipped.
//!
//! One file per command. `process` starts programs and `tools` installs what they need, always
//! under the target folder; `gateway` starts the server that the suites talk to.

mod autobahn;
mod bench;
mod ci;
mod clients;
mod docs;
mod examples;
mod flood;
mod frame;
mod fuzz;
mod gateway;
mod hop;
mod http;
mod matrix;
mod process;
mod soak;
mod tidy;
mod tools;
mod workspace;

use std::process::ExitCode;

use autobahn::Side;

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
        "conformance" => match rest {
            [suite, rest @ ..] if suite == "autobahn-server" => autobahn::run(Side::Server, rest),
            [suite, rest @ ..] if suite == "autobahn-client" => autobahn::run(Side::Client, rest),
            _ => anyhow::bail!("usage: cargo xtask conformance autobahn-server|autobahn-client"),
        },
        "clients" => clients::run(rest),
        "browser" => clients::run_browser(rest),
        "matrix" => matrix::run(rest),
        "hop" => hop::run(rest),
        "docs" => docs::run(rest),
        "flood" => flood::run(rest),
        "soak" => soak::run(rest),
        "examples" => examples::run(rest),
        "fuzz" => fuzz::run(rest),
        "tools" => tools::run(rest),
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
  conformance autobahn-server | autobahn-client [--all [--bless]]
                        Autobahn's suite against the gateway, or our codec as a client; --all: the
                        slow cases too; --bless: write what came as what is expected
  clients               curl, and packages of Python and Node
  browser               headless Chromium
  matrix                all of these clients on all their wires, in one table
  hop [--seed N]        clients that hop between all wires at random cuts
  docs [PAGE]           what docs/ says: its commands, settings, metrics
  examples [NN]         each of examples/, or those whose names begin so
  flood [NAME]… [--quick]
                        what is done to the gateway beside 1,000 clients that must not notice
  soak [--for 10m] [--seed N]
                        everything at once, at a modest rate: memory, tasks and descriptors stay flat
  fuzz [SECONDS]        each target of fuzz/, for so many seconds
  bench                 the benchmarks of bench/
  tools                 install what these need
";
