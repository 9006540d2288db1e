//! `tidegate serve`: the configuration from all its sources, then the server until it ends.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;

use crate::config::{self, Admin, Flags, Sources};
use crate::{server, trace};

const LONG_ABOUT: &str = "\
Serve channels until told to stop.

Every setting has a default. A configuration file (--config) changes them, an environment variable \
wins over the file, and a flag wins over both. A variable has the name of its key: admin is \
TIDEGATE_ADMIN, http.max_body is TIDEGATE_HTTP__MAX_BODY; lists are separated by commas. A variable \
or a key that does not exist is an error.

One line for each listener goes to standard error, 'listening on http://127.0.0.1:8080', then the \
log. SIGTERM and SIGINT end every stream as its wire says, so that clients come back with their \
cursors.

Exit codes: 0 after a signal, 1 when it can't start, 2 usage, 78 when the configuration is wrong.";

const EXAMPLES: &str = "\
Examples:
  tidegate serve --dev
      On 127.0.0.1:8080, with everything allowed to everyone on this machine.
  tidegate serve --dev --listen 127.0.0.1:0 --workers 1
      On a free port, which is told, with one thread.
  tidegate serve --config /etc/tidegate.toml --admin off
      As a file says, without metrics.
  TIDEGATE_LOG__LEVEL=debug tidegate serve --dev
      With a variable in the place of a key.";

/// Serve channels until told to stop
#[derive(Args, Debug)]
#[command(long_about = LONG_ABOUT, after_help = EXAMPLES)]
pub(super) struct ServeArgs {
    /// Allow everything to everyone on this machine
    ///
    /// For development: no tokens are asked for, and metrics are on the main listener unless
    /// --admin says otherwise. Only loopback addresses are listened on, and only requests
    /// whose Host and Origin are loopback names are answered, so that no web page from elsewhere
    /// reaches the gateway through your browser.
    #[arg(long)]
    dev: bool,

    /// With --dev: allow everything to everyone who can reach it
    ///
    /// Lifts both guards of --dev: any address may be listened on, and any Host and Origin is
    /// answered. Said again at every start.
    #[arg(long, requires = "dev")]
    insecure: bool,

    /// With --dev: serve TLS with a certificate made for it. Not yet in this version.
    #[arg(long, hide = true)]
    tls: bool,

    /// Read this configuration file (TOML)
    ///
    /// Without it no file is read. 'tidegate check FILE' says what is wrong with one;
    /// tidegate.example.toml has every key with its default.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Listen on this address; may be given several times [default: 127.0.0.1:8080]
    ///
    /// IP:PORT, IPv6 in brackets: [::1]:8080. With port 0 a free one is taken, and told. Takes the
    /// place of all addresses of 'listen' in the file.
    #[arg(long, value_name = "ADDR", value_parser = config::parse_address)]
    listen: Vec<SocketAddr>,

    /// Serve metrics on this address, or nowhere [default: 127.0.0.1:9180]
    ///
    /// With --dev the default is the main listener.
    #[arg(long, value_name = "ADDR|off", value_parser = config::parse_admin)]
    admin: Option<Admin>,

    /// Serve clients with this many threads [default: one per core]
    #[arg(long, value_name = "N", value_parser = config::parse_workers)]
    workers: Option<NonZeroUsize>,
}

pub(super) fn run(args: ServeArgs) -> ExitCode {
    if args.tls {
        super::tell_error(&"'--tls' is not yet in this version; leave it out");
        return ExitCode::from(super::USAGE);
    }
    let sources = Sources {
        file: args.config,
        variables: std::env::vars_os().collect(),
        flags: Flags {
            dev: args.dev,
            insecure: args.insecure,
            listen: args.listen,
            admin: args.admin,
            workers: args.workers,
        },
    };
    let config = match sources.load() {
        Ok(config) => config,
        Err(problems) => {
            super::tell_problems(&problems);
            return ExitCode::from(super::CONFIGURATION);
        }
    };
    // Not to the log, which may be off.
    for warning in config.warnings() {
        super::tell_warning(&warning);
    }
    trace::init(&config.log);
    match server::run(&Arc::new(config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            super::tell_error(&format_args!("{:#}", anyhow::Error::from(error)));
            ExitCode::from(super::FAILURE)
        }
    }
}
