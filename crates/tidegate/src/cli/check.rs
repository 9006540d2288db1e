//! `tidegate check`: whether `serve` would take a file, and if not, why.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::config::Sources;

const LONG_ABOUT: &str = "\
Say whether a configuration file is right, and if not, what is wrong with it.

Prints 'FILE: ok' on standard output, or on standard error a line for each mistake that can be \
found: FILE:LINE: key: what is wrong; what is allowed. The file alone is checked, as 'tidegate serve --config FILE' would read it without other flags and \
without environment variables. Nothing is opened or connected to.

Exit codes: 0 if it is right, 78 if not, 2 usage.";

const EXAMPLES: &str = "\
Example:
  tidegate check tidegate.toml && systemctl restart tidegate
      Restart only with a file that is right.";

/// Say what is wrong with a configuration file, if anything is
#[derive(Args, Debug)]
#[command(long_about = LONG_ABOUT, after_help = EXAMPLES)]
pub(super) struct CheckArgs {
    /// The file (TOML)
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

pub(super) fn run(args: CheckArgs) -> ExitCode {
    let name = args.file.display().to_string();
    let sources = Sources { file: Some(args.file), ..Sources::default() };
    match sources.load() {
        Ok(_) => {
            // println! would panic where nobody reads.
            match writeln!(io::stdout(), "{name}: ok") {
                Ok(()) => ExitCode::SUCCESS,
                Err(_) => ExitCode::from(super::FAILURE),
            }
        }
        Err(problems) => {
            super::tell_problems(&problems);
            ExitCode::from(super::CONFIGURATION)
        }
    }
}
