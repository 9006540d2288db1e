//! `tidegate completions`: what a shell needs to complete what is typed.

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::{Args, Command, CommandFactory as _};
use clap_complete::Shell;

const LONG_ABOUT: &str = "\
Print a script that makes a shell complete subcommands, options and their values.

It goes to standard output; where to put it is the shell's business. Do it again after an upgrade.

  bash          tidegate completions bash > ~/.local/share/bash-completion/completions/tidegate
  zsh           tidegate completions zsh > ~/.zfunc/_tidegate
                (with 'fpath+=~/.zfunc' before 'compinit' in ~/.zshrc)
  fish          tidegate completions fish > ~/.config/fish/completions/tidegate.fish
  powershell    tidegate completions powershell >> $PROFILE
  elvish        tidegate completions elvish >> ~/.config/elvish/rc.elv

For this shell alone: source <(tidegate completions bash)";

/// Print a script that completes commands in a shell
#[derive(Args, Debug)]
#[command(long_about = LONG_ABOUT, verbatim_doc_comment)]
pub(super) struct CompletionsArgs {
    /// Which shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

pub(super) fn run(args: &CompletionsArgs) -> ExitCode {
    let mut script = Vec::new();
    let mut command = visible(&super::Cli::command());
    clap_complete::generate(args.shell, &mut command, "tidegate", &mut script);
    match io::stdout().write_all(&script) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(super::FAILURE),
    }
}

/// The command without what help does not show: of a later version, it would be offered and refused.
fn visible(command: &Command) -> Command {
    let mut visible = Command::new(command.get_name().to_owned());
    if let Some(about) = command.get_about() {
        visible = visible.about(about.clone());
    }
    if let Some(version) = command.get_version() {
        visible = visible.version(version.to_owned());
    }
    let subcommands = command.get_subcommands().filter(|it| !it.is_hide_set());
    visible
        .args(command.get_arguments().filter(|it| !it.is_hide_set()))
        .subcommands(subcommands.map(self::visible))
}
