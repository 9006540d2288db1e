//! The command: what can be typed, and what it exits with (CONTRACT 13). A file per subcommand.
//!
//! Exit codes: 0, 1 failure, 2 usage, 78 configuration.

use std::ffi::OsString;
use std::fmt::Display;
use std::io::{BufRead, Read as _};
use std::process::ExitCode;
use std::str::FromStr;

use anstyle::{AnsiColor, Style};
use clap::{Args, Parser, Subcommand};

use crate::config::Problems;

mod accept;
mod bench;
mod check;
mod completions;
mod frame;
mod publish;
mod serve;
mod subscribe;
mod ws;

/// Something failed while it ran.
const FAILURE: u8 = 1;
/// It was typed wrongly.
const USAGE: u8 = 2;
/// The configuration is wrong (`EX_CONFIG` of sysexits.h).
const CONFIGURATION: u8 = 78;

/// Does what `args` say, the program's name first.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come as errors too, with 0 and on standard output. Nobody is left
            // to tell that it can't be written.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(USAGE));
        }
    };
    match cli.command {
        Command::Serve(args) => serve::run(args),
        Command::Check(args) => check::run(args),
        Command::Pub(args) => publish::run(args),
        Command::Sub(args) => subscribe::run(args),
        Command::Ws(args) => ws::run(args),
        Command::Frame(args) => frame::run(&args),
        Command::Accept(args) => accept::run(&args),
        Command::Completions(args) => completions::run(&args),
        Command::Token(_) => later("token"),
        Command::Bench(args) => bench::run(args),
    }
}

fn later(name: &str) -> ExitCode {
    tell_error(&format_args!(
        "'tidegate {name}' is not yet in this version\n\nSee 'tidegate --help' for what there is."
    ));
    ExitCode::from(USAGE)
}

/// Runs a command that talks to a gateway; an error is told, and is a failure.
fn run_client(command: impl Future<Output = anyhow::Result<ExitCode>>) -> ExitCode {
    let options = tokio::runtime::LocalOptions::default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build_local(options);
    let result = runtime.map_err(Into::into).and_then(|it| it.block_on(command));
    result.unwrap_or_else(|error| {
        let io = error.downcast_ref::<std::io::Error>();
        // Whoever reads what we write has had enough, as `head` has.
        if io.is_some_and(|it| it.kind() == std::io::ErrorKind::BrokenPipe) {
            return ExitCode::SUCCESS;
        }
        let client: Option<&tidegate_client::Error> = error.downcast_ref();
        let is_usage = error.is::<Usage>() || client.is_some_and(is_mistyped);
        let failure = client.and_then(tidegate_client::Error::failure);
        let hint = match failure {
            Some(tidegate_client::Failure::Unreachable { .. }) => HINT_UNREACHABLE,
            _ => "",
        };
        tell_error(&format_args!("{error:#}{hint}"));
        ExitCode::from(if is_usage { USAGE } else { FAILURE })
    })
}

/// Whether what was typed is wrong, as the client finds.
fn is_mistyped(error: &tidegate_client::Error) -> bool {
    matches!(error, tidegate_client::Error::Usage(_) | tidegate_client::Error::Url(_))
}

/// What a connection that does not come about may need.
const HINT_UNREACHABLE: &str = "\n\n\
Is a gateway running there? 'tidegate serve --dev' starts one on 127.0.0.1:8080.";

/// How what is wrong stands out; as clap has it.
const WRONG: Style = AnsiColor::Red.on_default().bold();

/// How what needs attention stands out.
const ATTENTION: Style = AnsiColor::Yellow.on_default().bold();

/// Tells an error on standard error; in colours where they are seen and wanted, here and below.
fn tell_error(error: &dyn Display) {
    anstream::eprintln!("{WRONG}error:{WRONG:#} {error}");
}

/// Tells a warning.
fn tell_warning(warning: &dyn Display) {
    anstream::eprintln!("{ATTENTION}warning:{ATTENTION:#} {warning}");
}

/// Tells what is wrong with a configuration, a line for each.
fn tell_problems(problems: &Problems) {
    for problem in &problems.0 {
        let text = problem.to_string();
        // The message comes last; before it is where and which.
        let at = text.len().saturating_sub(problem.message.len());
        let (place, message) = text.split_at_checked(at).unwrap_or(("", &text));
        anstream::eprintln!("{WRONG}{place}{WRONG:#}{message}");
    }
}

/// The next line without its end, `None` after the last.
fn read_line(input: &mut impl BufRead) -> anyhow::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let read = input.take(LINE_BYTES_MAX + 1).read_until(b'\n', &mut line)?;
    if read == 0 {
        return Ok(None);
    }
    if read as u64 > LINE_BYTES_MAX {
        anyhow::bail!("a line has more than {} MiB; send less at a time", LINE_BYTES_MAX >> 20);
    }
    for end in [b'\n', b'\r'] {
        line.pop_if(|it| *it == end);
    }
    Ok(Some(line))
}

/// A whole number from 0 on.
fn whole<T: FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| "allowed is a whole number, such as 10".to_owned())
}

/// The longest line that is read; gateways have a bound of their own, 1 MiB by default.
const LINE_BYTES_MAX: u64 = 64 << 20;

/// Arguments that are right by themselves and wrong together.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Usage(&'static str);

fn usage(what: &'static str) -> anyhow::Error {
    Usage(what).into()
}

/// Who calls.
#[derive(Args, Debug)]
struct Token {
    /// A token. Not yet in this version: gateways take none
    #[arg(long, value_name = "VALUE|env:NAME|@FILE", hide = true)]
    token: Option<String>,
}

impl Token {
    /// Refuses a token: sent, it would mean nothing.
    fn refuse(&self) -> anyhow::Result<()> {
        match self.token {
            Some(_) => Err(usage("--token is not yet in this version; leave it out")),
            None => Ok(()),
        }
    }
}

const ABOUT: &str = "A real-time gateway: one URL, every wire.";

const LONG_ABOUT: &str = "\
A real-time gateway: one URL, every wire.

What is published to a channel reaches whoever subscribes to it, over WebSocket, Server-Sent Events, \
NDJSON, long-poll or poll, from one log with one cursor: a client that was cut on one wire goes on \
on any other, and nothing is lost or comes twice.";

/// What there is room for beside a list of subcommands.
const HINT: &str = "\
'tidegate serve --dev' starts a gateway to try things with. 'tidegate help COMMAND' says more of a \
command, 'tidegate --help' has examples.";

const EXAMPLES: &str = "\
Examples:
  tidegate serve --dev
      Serve on 127.0.0.1:8080, with everything allowed to everyone on this machine.
  curl -d hello http://127.0.0.1:8080/channels/news
      Publish to a channel of it.
  curl -N -H 'Accept: text/event-stream' http://127.0.0.1:8080/channels/news
      Subscribe to that channel.
  tidegate sub http://127.0.0.1:8080/channels/news
      Print what is published to a channel.
  tidegate pub http://127.0.0.1:8080/channels/news hello
      Publish to it.
  tidegate ws ws://127.0.0.1:8080/channels/news
      Talk in it over a WebSocket, line by line.
  tidegate check tidegate.toml
      Say what is wrong with a configuration file, if anything is.
  tidegate frame 81858b55d8f0e330b49ce4
      Take a WebSocket frame apart.
  tidegate bench fanout
      Publish to a thousand subscribers, and measure.

Colours are for terminals, and not where NO_COLOR is set, CLICOLOR is 0 or TERM is dumb.

Exit codes: 0 success, 1 failure, 2 usage, 78 configuration.";

#[derive(Debug, Parser)]
#[command(name = "tidegate", version, about = ABOUT, long_about = LONG_ABOUT, after_help = HINT)]
#[command(after_long_help = EXAMPLES)]
#[command(arg_required_else_help = true, subcommand_required = true, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::ServeArgs),
    Check(check::CheckArgs),
    Pub(publish::PubArgs),
    Sub(subscribe::SubArgs),
    Ws(ws::WsArgs),
    Frame(frame::FrameArgs),
    Accept(accept::AcceptArgs),
    Bench(bench::BenchArgs),
    Completions(completions::CompletionsArgs),
    #[command(hide = true, disable_help_flag = true)]
    Token(LaterArgs),
}

/// Whatever follows a subcommand of a later version: it must not hide why that fails.
#[derive(Args, Debug)]
struct LaterArgs {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    _rest: Vec<OsString>,
}
